"""The one linear history of both packages' tables (Alembic), and applying it.

On SQLite the program applies it by itself when it opens a database, after a backup copy beside the file; on PostgreSQL
only by an operator's word (`newsletter db upgrade`), since others work on it and the backup is theirs to make. Looking
whether it is needed is one SELECT, so that Alembic is loaded only when there is something to do.
"""

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, String, create_engine, inspect, text
from sqlalchemy.engine import Connection

from newsletter.errors import ConfigurationError
from subscribers import Table

HEAD = "0005"
"""The newest revision. A test holds it against the scripts."""
SCRIPTS = Path(__file__).parent
RESTORED = "restored from "
"""What the reason of a halt begins with where a backup was put back. A test holds it against what is written then."""
_LOCK_TIMEOUT = "5s"  # who waits for a table keeps everybody waiting who comes after: rather not, and try again
_UPGRADING = 7_214_083_365_150_924_803  # an advisory lock: random, and for good


def version(connection: Connection) -> str | None:
    """The revision that a database is at, None for an empty one."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def described(connection: Connection) -> str:
    """Which database a connection leads to, of which version, and the revision of its tables."""
    known = connection.dialect.server_version_info or ()
    name = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}.get(connection.dialect.name, connection.dialect.name)
    return f"{name} {'.'.join(map(str, known))}, revision {version(connection)}"


def make_ready(engine: Engine) -> Path | None:
    """What opening a database does: bring one of SQLite to HEAD, as `upgrade` does; of another see that it is there.

    Raises ConfigurationError where it is not, too, with the command that brings it there; of SQLite as well where it is
    an older backup that was put back: what becomes of that is an operator's word.
    """
    if engine.dialect.name == "sqlite":
        if (before := _judge(engine)) not in {None, HEAD} and _is_restored(engine):
            raise ConfigurationError(
                f"the database {engine.url.database} is a backup of revision {before} that was put back, and this "
                f"program wants {HEAD}: run newsletter db upgrade"
            )
        return upgrade(engine)
    before = _judge(engine)
    if before != HEAD:
        found = "is empty" if before is None else f"is at revision {before}, and this program wants {HEAD}"
        raise ConfigurationError(f"the database {engine.url.database} {found}: run newsletter db upgrade")
    return None


def upgrade(engine: Engine) -> Path | None:
    """Bring a database to HEAD, in one transaction; give the path of the backup copy, None where none was made.

    Several processes may do it at once: the first does, the others wait and find it done. Raises ConfigurationError for
    a database that a newer program made, or that is not ours.
    """
    before = _judge(engine)
    if before == HEAD:
        return None
    if engine.dialect.name == "sqlite":
        return _upgrade_sqlite(engine, before)
    with engine.connect() as connection, connection.begin():
        for statement in (
            "SET LOCAL idle_in_transaction_session_timeout = 0",
            "SET LOCAL statement_timeout = 0",
            "SET LOCAL lock_timeout = 0",
            f"SELECT pg_advisory_xact_lock({_UPGRADING})",
            f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'",
        ):
            connection.execute(text(statement))
        if version(connection) == HEAD:  # another process was quicker
            return None
        refuse_other_order(connection)
        _apply(connection)
        _widen(connection)
    return None


def _judge(engine: Engine) -> str | None:
    """The revision that a database is at, None for an empty one. Raises ConfigurationError for one to leave alone."""
    with engine.connect() as connection:
        before = version(connection)
        strange = before is None and inspect(connection).get_table_names()
    if (strange or before is not None) and (fault := fault_of(before)):
        raise ConfigurationError(f"the database {engine.url.database}: {fault}")
    return before


def _is_restored(engine: Engine) -> bool:
    """Whether a database is halted because it is a backup that was put back."""
    with engine.connect() as connection:
        why = connection.execute(text("SELECT halt_reason FROM instance WHERE halted_at IS NOT NULL")).scalar()
    return bool(why and why.startswith(RESTORED))


def fault_of(revision: str | None) -> str | None:
    """Why this program cannot work on a database of a revision, even after an upgrade; None where it can."""
    if revision is None or not re.fullmatch(r"[0-9]{4}", revision):
        return "it holds tables that are not ours"
    if revision > HEAD:
        return f"it is at {revision}, made by a newer newsletter; this one knows {HEAD}"
    return None


def differences(connection: Connection) -> list[str]:
    """In what the tables of a database at HEAD differ from the declared ones, a line each; none should.

    Tables that are not ours count on SQLite, where the file is ours alone. Widths of texts differ on purpose.
    """
    from alembic.autogenerate import compare_metadata  # noqa: PLC0415 # loaded only when somebody asks
    from alembic.runtime.migration import MigrationContext  # noqa: PLC0415 # the same

    import newsletter.models  # noqa: F401, PLC0415 # declares its tables

    options = {"compare_type": _compare_type, "include_schemas": False}
    context = MigrationContext.configure(connection, opts=options)
    found = [_said(change) for change in compare_metadata(context, Table.metadata)]
    if connection.dialect.name == "sqlite":
        return found or _other_statements(connection)
    return [said for said in found if not said.startswith("remove table")]


def _compare_type(context: Any, inspected: Any, declared: Any, found: Any, wanted: Any) -> bool | None:  # noqa: ARG001 # Alembic's
    return False if isinstance(found, String) and isinstance(wanted, String) else None


def _said(change: Any) -> str:
    """One difference as Alembic tells it, in words."""
    if isinstance(change, list):
        return "; ".join(_said(one) for one in change)
    what, *about = change
    named = [str(getattr(one, "name", one)) for one in about if isinstance(one, str) or getattr(one, "name", None)]
    return f"{what.replace('_', ' ')} {' '.join(named)}".strip()


def _other_statements(connection: Connection) -> list[str]:
    """What Alembic does not compare, CHECKs and partial indices: SQLite keeps the statements themselves."""
    declared = create_engine("sqlite://")
    try:
        with declared.begin() as fresh:
            Table.metadata.create_all(fresh)
            wanted = _statements(fresh)
    finally:
        declared.dispose()
    found = _statements(connection)
    return [
        f"{name} is made by another statement than the declared one"
        for name in sorted({*wanted, *found})
        if wanted.get(name) != found.get(name)
    ]


def _statements(connection: Connection) -> dict[str, list[str]]:
    """Of each table, index, view and trigger the lines of its statement, sorted."""
    rows = connection.execute(
        text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name <> 'alembic_version'")
    )
    return {
        name: sorted(re.sub(r"\s+", " ", line).replace('"', "").strip(" ,") for line in sql.split("\n"))
        for name, sql in rows
    }


def _upgrade_sqlite(engine: Engine, before: str | None) -> Path | None:
    with engine.execution_options(newsletter_writes=True).connect() as connection:
        # Where a table is made anew, SQLite drops the old one row by row; with foreign keys on, ON DELETE CASCADE
        # would empty the tables that name it. The switch does nothing inside a transaction, so it comes first.
        _execute_plain(connection, "PRAGMA foreign_keys = OFF")
        try:
            with connection.begin():
                if version(connection) == HEAD:  # another process was quicker
                    return None
                backup = _back_up(engine, before) if before is not None else None
                _apply(connection)
        finally:
            connection.invalidate()  # so that foreign keys are on again in the next one
    return backup


def _widen(connection: Connection) -> None:
    """Take the widths off columns of text: SQLite holds nobody to them, and a long reason must stop no record of it."""
    # Of an enumeration the width is 20, and its words are checked.
    narrow = connection.execute(
        text(
            "SELECT quote_ident(table_name), quote_ident(column_name) FROM information_schema.columns "
            "WHERE table_schema = current_schema() AND character_maximum_length > 20 "
            "AND table_name <> 'alembic_version'"
        )
    ).all()
    for table, column in narrow:
        connection.execute(text(f"ALTER TABLE {table} ALTER COLUMN {column} TYPE varchar"))


def refuse_other_order(connection: Connection) -> None:
    """Raise ConfigurationError where texts are not ordered and encoded as they are in SQLite: by code point, in UTF-8.

    Everything that pages through rows by a text, and every range of texts, counts on it; and an order by a language
    changes with the server's operating system, which ruins indexes.
    """
    encoding = connection.execute(text("SHOW server_encoding")).scalar_one()
    ordered = connection.execute(text("SELECT 'Z' < 'a' AND '-b' < 'a' AND 'a b' < 'aa'")).scalar_one()
    if encoding != "UTF8" or not ordered:
        raise ConfigurationError(
            f"the database {connection.engine.url.database} must be made with ENCODING 'UTF8' LOCALE 'C.UTF-8' "
            "TEMPLATE template0, so that texts sort by their characters"
        )


def _execute_plain(connection: Connection, statement: str) -> None:
    """Execute a statement before SQLAlchemy begins a transaction."""
    driver = connection.connection.driver_connection
    assert driver is not None
    driver.execute(statement)


def _back_up(engine: Engine, before: str) -> Path | None:
    """A copy of a SQLite file beside it, made by SQLite itself so that it is whole."""
    if not engine.url.database:
        return None
    file = Path(engine.url.database)
    copy = file.with_name(f"{file.name}.before-{HEAD}-from-{before}")
    copy.touch(mode=0o600)
    copy.chmod(0o600)
    try:
        with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
    except sqlite3.Error as error:
        copy.unlink()
        raise ConfigurationError(f"the database {file} cannot be copied before the change: {error}") from None
    return copy


def _apply(connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415 # loaded only when there is something to do
    from alembic.config import Config  # noqa: PLC0415 # the same
    from alembic.util import CommandError  # noqa: PLC0415 # the same

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))  # % is configparser's
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise ConfigurationError(f"the database {connection.engine.url.database}: {error}") from None
