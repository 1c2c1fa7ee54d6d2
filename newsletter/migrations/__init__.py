"""The one linear history of both packages' tables (Alembic), and applying it.

On SQLite the program applies it by itself when it opens a database, after a backup copy beside the file. Looking
whether that is needed is one SELECT, so that Alembic is loaded only when there is something to do.
"""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import Engine, inspect, text
from sqlalchemy.engine import Connection

from newsletter.errors import ConfigurationError

HEAD = "0004"
"""The newest revision. A test holds it against the scripts."""
SCRIPTS = Path(__file__).parent


def version(connection: Connection) -> str | None:
    """The revision that a database is at, None for an empty one."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def upgrade(engine: Engine) -> Path | None:
    """Bring a database to HEAD; give the path of the backup copy, None where none was needed.

    Several processes may do it at once: the first does, the others wait and find it done. Raises ConfigurationError for
    a database that a newer program made, or that is not ours.
    """
    with engine.connect() as connection:
        before = version(connection)
        strange = before is None and inspect(connection).get_table_names()
    if before == HEAD:
        return None
    if strange or (before is not None and not re.fullmatch(r"[0-9]{4}", before)):
        raise ConfigurationError(f"the database {engine.url.database} holds tables that are not ours")
    if before is not None and before > HEAD:
        raise ConfigurationError(
            f"the database {engine.url.database} is at {before}, made by a newer newsletter; this one knows {HEAD}"
        )
    with engine.execution_options(newsletter_writes=True).connect() as connection:
        # Where a table is made anew, SQLite drops the old one row by row; with foreign keys on, ON DELETE CASCADE
        # would empty the tables that name it. The switch does nothing inside a transaction, so it comes first.
        if engine.dialect.name == "sqlite":
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


def _execute_plain(connection: Connection, statement: str) -> None:
    """Execute a statement before SQLAlchemy begins a transaction."""
    driver = connection.connection.driver_connection
    assert driver is not None
    driver.execute(statement)


def _back_up(engine: Engine, before: str) -> Path | None:
    """A copy of a SQLite file beside it, made by SQLite itself so that it is whole."""
    if engine.dialect.name != "sqlite" or not engine.url.database:
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
