"""Whether a database is whole: what `newsletter db check` looks at, and what a backup must pass.

Of the configured database everything is looked at that can be while others work on it: its pages and indices, what its
rows refer to, its tables against the declared ones, the sums of the editions that are open, and the room that is left.
Of a copy of SQLite that nobody else has open, whether it may stand in the place of a database. Changes nothing.
"""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Engine, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from newsletter import migrations, store
from newsletter.edition import Finding
from newsletter.errors import BackupError, ConfigurationError
from newsletter.models import Instance
from newsletter.tally import tally
from subscribers import reading

_MOST_TOLD = 5  # of one kind of fault: more say nothing more
_SQLITE_MAGIC = b"SQLite format 3\0"  # the first 16 bytes (sqlite.org/fileformat.html, section 1.3)


@dataclass(frozen=True, slots=True)
class Check:
    """What was found of a database at an instant; `revision` is None where that could not be read."""

    at: datetime
    revision: str | None
    findings: tuple[Finding, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing was found that must be mended."""
        return all(finding.ok is not False for finding in self.findings)


def check(engine: Engine, *, now: datetime) -> Check:
    """Look at all of a database, reading every page of one of SQLite; nobody waits for it.

    Raises ConfigurationError where there is no database.
    """
    file = file_of(engine)
    if file is not None and not file.exists():
        raise ConfigurationError(f"there is no database {file}")
    findings: list[Finding] = []
    revision: str | None = None
    try:
        with engine.connect() as connection:
            revision = migrations.version(connection)
            findings.append(_revision(connection, revision))
    except DBAPIError as error:
        findings.append(Finding(ok=False, what=f"the database cannot be read: {error.orig}"))
        return Check(now, revision, tuple(findings))
    looks: list[Callable[[Engine], Iterator[Finding]]] = [_pages, _references]
    if revision == migrations.HEAD:
        looks += [_tables, _sums, _halt]
    for look in [*looks, _room]:
        try:
            findings += look(engine)
        except DBAPIError as error:
            findings.append(Finding(ok=False, what=f"{_NAMES[look]} cannot be looked at: {error.orig}"))
    return Check(now, revision, tuple(findings))


def file_of(engine: Engine) -> Path | None:
    """The file of a database of SQLite, None of another."""
    return Path(engine.url.database) if engine.dialect.name == "sqlite" and engine.url.database else None


def _revision(connection: Connection, revision: str | None) -> Finding:
    if revision is None or (fault := migrations.fault_of(revision)):
        return Finding(ok=False, what=f"revision: {fault if revision else 'the database has no tables of ours'}")
    if revision != migrations.HEAD:
        what = f"revision {revision}, and this program wants {migrations.HEAD}: newsletter db upgrade"
        return Finding(ok=False, what=what)
    return Finding(ok=True, what=migrations.described(connection))


def _pages(engine: Engine) -> Iterator[Finding]:
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            said = connection.execute(text(f"PRAGMA integrity_check({_MOST_TOLD})")).scalars().all()
        whole = list(said) == ["ok"]
        yield Finding(ok=whole, what=f"pages and indices: {'whole' if whole else '; '.join(said)}")
        return
    with engine.connect() as connection:
        checksums = connection.execute(text("SHOW data_checksums")).scalar_one()
        failures = connection.execute(
            text("SELECT coalesce(checksum_failures, 0) FROM pg_stat_database WHERE datname = current_database()")
        ).scalar_one()
        invalid = connection.execute(
            text(
                "SELECT c.relname FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid "
                "JOIN pg_namespace AS n ON n.oid = c.relnamespace "
                "WHERE n.nspname = current_schema() AND NOT (i.indisvalid AND i.indisready) ORDER BY 1"
            )
        ).scalars()
        spoilt = list(invalid)
    yield Finding(ok=not spoilt, what=f"indices: {', '.join(spoilt) + ' cannot be used' if spoilt else 'usable'}")
    if failures:
        yield Finding(ok=False, what=f"the server has read {failures:,} damaged pages of this database")
    elif checksums != "on":
        yield Finding(
            ok=None, what="the server keeps no checksums of its pages (data_checksums), so damage goes unseen"
        )


def _references(engine: Engine) -> Iterator[Finding]:
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            broken = [
                f"{table} row {row} names a row of {parent} that is not there"
                for table, row, parent, _ in connection.execute(text("PRAGMA foreign_key_check")).fetchmany(_MOST_TOLD)
            ]
        else:  # the server holds every row to them, unless somebody has said otherwise
            broken = [
                f"{name} is not enforced"
                for name in connection.execute(
                    text(
                        "SELECT conname FROM pg_constraint WHERE contype IN ('f', 'c') AND NOT convalidated "
                        "AND connamespace = current_schema()::regnamespace ORDER BY 1"
                    )
                ).scalars()
            ]
    yield Finding(ok=not broken, what=f"references between rows: {'; '.join(broken) or 'whole'}")


def _tables(engine: Engine) -> Iterator[Finding]:
    with engine.connect() as connection:
        other = migrations.differences(connection)
    said = "; ".join(other[:_MOST_TOLD]) or "as declared"
    yield Finding(ok=not other, what=f"tables: {said}")


def _sums(engine: Engine) -> Iterator[Finding]:
    with reading(engine) as session:
        records = store.open_editions(session)
        for record in records:
            counted = tally(session, record)
            waiting = f"{counted.candidates:,} candidates, {counted.waiting:,} waiting"
            said = waiting if counted.holds else f"THE SUM DOES NOT HOLD ({waiting})"
            yield Finding(ok=counted.holds, what=f"open edition {record.newsletter} {record.slot}: {said}")
    if not records:
        yield Finding(ok=True, what="no edition is open")


def _halt(engine: Engine) -> Iterator[Finding]:
    with reading(engine) as session:
        row = session.get(Instance, 1)
    if row is None:
        yield Finding(ok=None, what="the database has no id yet: the first command that works on it gives it one")
    elif row.halted_at is not None:
        what = f"dispatch is halted since {row.halted_at:%Y-%m-%d %H:%M} UTC: {row.halt_reason or 'no reason given'}"
        yield Finding(ok=None, what=what)


def _room(engine: Engine) -> Iterator[Finding]:
    size = size_of(engine)
    file = file_of(engine)
    if file is None:
        yield Finding(ok=True, what=f"size: {size:,} bytes; of the room on the server's disk nothing is known here")
        return
    free = shutil.disk_usage(file.parent).free
    what = f"size: {size:,} bytes, and {free:,} are free where it is"
    # An upgrade copies it, a large transaction may write it anew into its journal, and a backup beside it is as large.
    yield Finding(ok=free >= size, what=what if free >= size else f"{what}: too few for a copy of it")


_NAMES: dict[Callable[[Engine], Iterator[Finding]], str] = {
    _pages: "pages and indices",
    _references: "references between rows",
    _tables: "tables",
    _sums: "open editions",
    _halt: "the halt",
    _room: "size",
}


def size_of(engine: Engine) -> int:
    """How many bytes a database takes, its journal included."""
    if (file := file_of(engine)) is not None:
        parts = [file, file.with_name(f"{file.name}-wal")]
        return sum(part.stat().st_size for part in parts if part.exists())
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one())


# ------------------------------------------------------------------------------------------ a copy that is a file


@dataclass(frozen=True, slots=True)
class Inside:
    """What a copy holds: which database it is of, at which revision, and when it was made, as far as it tells itself.

    `at` is the last backup on its record, else the last act of anybody: what it holds may be younger, never older.
    """

    instance: str
    revision: str
    at: datetime


def is_sqlite(file: Path) -> bool:
    """Whether a file begins as a database of SQLite does. This process must not have it open: its locks would go."""
    with file.open("rb") as opened:
        return opened.read(len(_SQLITE_MAGIC)) == _SQLITE_MAGIC


def look_into(file: Path, name: str) -> Inside:
    """See that a copy of SQLite that nobody has open may stand in a database's place, and what it is a copy of.

    Every page is read. Raises BackupError, about `name`, where it is damaged, of something else, or of a newer program.
    Nothing in it is executed: a trigger or a view in it is refused.
    """
    if not is_sqlite(file):
        raise BackupError(name, "it is no database of SQLite")
    try:
        # "immutable": it is read without locks, and without making files beside it, whatever its journal mode.
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?immutable=1", uri=True)) as opened_file:
            opened_file.execute("PRAGMA trusted_schema = OFF")
            opened_file.execute("PRAGMA cell_size_check = ON")
            return _look(opened_file, name)
    except sqlite3.Error as error:
        raise BackupError(name, f"it is damaged: {error}") from None


def _look(opened: sqlite3.Connection, name: str) -> Inside:
    said = [row[0] for row in opened.execute(f"PRAGMA integrity_check({_MOST_TOLD})")]
    if said != ["ok"]:
        raise BackupError(name, f"it is damaged: {'; '.join(said)}")
    kinds = dict(opened.execute("SELECT name, type FROM sqlite_master"))
    if not {"alembic_version", "instance", "operator_act", "subscriber", "edition"} <= kinds.keys():
        raise BackupError(name, "it is no database of a newsletter")
    if strange := sorted(one for one, kind in kinds.items() if kind not in {"table", "index"}):
        raise BackupError(name, f"it is not ours: it has {kinds[strange[0]]} {strange[0]}, and ours have none")
    row = opened.execute("SELECT version_num FROM alembic_version").fetchone()
    revision = row[0] if row else None
    if fault := migrations.fault_of(revision):
        raise BackupError(name, fault)
    if broken := opened.execute("PRAGMA foreign_key_check").fetchmany(1):
        raise BackupError(name, f"it is damaged: {broken[0][0]} row {broken[0][1]} names a row that is not there")
    row = opened.execute("SELECT instance_id, created_at FROM instance WHERE id = 1").fetchone()
    if row is None:
        raise BackupError(name, "it has no id: no command has ever worked on it")
    at = opened.execute(LAST_ACT).fetchone()[0] or row[1]
    return Inside(str(row[0]), str(revision), instant_of(at))


def instant_of(written: str) -> datetime:
    """An instant as SQLite and PostgreSQL's archives write it, aware UTC."""
    at = datetime.fromisoformat(written)
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


LAST_ACT = (
    "SELECT coalesce((SELECT max(at) FROM operator_act WHERE act = 'backup'), (SELECT max(at) FROM operator_act))"
)
"""When a database was backed up last, else when anybody did anything; NULL where nobody ever did."""
