"""A backup put back in the place of the database: whole or not at all, and halted until an operator says otherwise.

A restored database does not know what was sent after it was copied, and would send it again. So it is halted before
it stands in its place, and the one that stood there is kept beside it. Nothing is put back under the feet of a process
that works on the database, and nothing that is damaged, of another newsletter, or of a newer program.

On SQLite a copy of the backup is made ready beside the database and takes its name in one rename, under a lock that no
other process can pass. On PostgreSQL our tables move into a schema of their own, and those of the archive take their
place, in one transaction.
"""

import fcntl
import gzip
import os
import shutil
import sqlite3
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import DBAPIError

from newsletter import migrations, store
from newsletter.backup import OURS, PIECE, alone, sync
from newsletter.dumps import MAGIC, Programs
from newsletter.errors import BackupError, ConfigurationError
from newsletter.ledger import held
from newsletter.newsroom import engine_of
from newsletter.processes import is_gone
from newsletter.schedule import Schedule, Slot
from newsletter.settings import Settings
from newsletter.soundness import Inside, file_of, instant_of, is_sqlite, look_into
from subscribers import reading
from subscribers.db import WRITERS

_GZIP = b"\x1f\x8b"  # RFC 1952, section 2.3.1
_JOURNALS = ("-wal", "-shm", "-journal")  # what SQLite keeps beside a database (sqlite.org/tempfiles.html)
_LOCK_AT, _LOCK_BYTES = 0x4000_0000, 512  # PENDING, RESERVED and SHARED (sqlite.org/fileformat.html, section 1.4)
_MOST_SLOTS = 1_000  # looked at for each newsletter; more are no longer counted
_REASON = 500  # characters of instance.halt_reason
_IN_USE = "a process works on it: stop newsletter serve, newsletter notices work, each newsletter send, and cron"
_NOT_KNOWN = "what was sent, and who joined or left after that, is not in it"


@dataclass(frozen=True, slots=True)
class Restored:
    """A database that was put back. Nothing is sent from it until `newsletter unhalt`."""

    file: Path
    inside: Inside
    at: datetime  # of the restore; what happened since `inside.at` may be missing
    reason: str  # why it is halted
    kept: str | None  # the file, or the schema, in which the database that stood there is now; None: none did
    open_editions: int
    slots: Mapping[
        str, tuple[Slot, ...]
    ]  # of each newsletter those since the backup, whose editions may be unknown to it
    sent_since: tuple[str, ...] | None  # editions that the kept database froze since; None: it cannot be asked

    @property
    def older(self) -> bool:
        """Whether `newsletter db upgrade` has to be run before anything else."""
        return self.inside.revision != migrations.HEAD


@dataclass(frozen=True, slots=True)
class _Order:
    """What is to be put back where, by whose word."""

    settings: Settings
    engine: Engine
    file: Path
    now: datetime
    actor: str
    over: bool


def restore(settings: Settings, file: Path, *, now: datetime, actor: str, over: bool = False) -> Restored:
    """Put a backup in the place of the configured database; with `over`, of one that stands there.

    Raises BackupError where it cannot be, and ConfigurationError where the configuration claims another database. Then
    the database that stood there stands; it may be halted, where it was a matter of its last moments.
    """
    try:
        with file.open("rb") as opened:
            begins = opened.read(16)
    except OSError as error:
        raise BackupError(file, error.strerror or str(error)) from None
    engine = engine_of(settings)
    try:
        sqlite = engine.dialect.name == "sqlite"
        if begins.startswith(MAGIC) is sqlite:
            wanted = "a backup of SQLite" if sqlite else "an archive of pg_dump's custom format"
            raise BackupError(file, f"the configured database needs {wanted}, and this is none")
        put_back = _on_sqlite if sqlite else _on_postgresql
        return put_back(_Order(settings, engine, file, now, actor, over))
    except OSError as error:
        raise BackupError(error.filename or file, error.strerror or str(error)) from None
    except DBAPIError as error:
        raise BackupError(engine.url.database or file, str(error.orig)) from None
    finally:
        engine.dispose()


def _refuse_other(settings: Settings, inside: Inside, file: Path) -> None:
    if settings.database.instance not in {None, inside.instance}:
        raise ConfigurationError(
            f"{file.name} is a backup of database {inside.instance}, and database.instance claims "
            f"{settings.database.instance}",
            file=settings.file,
        )


def _refuse_present(name: str) -> BackupError:
    return BackupError(
        name, "a database stands there; --over puts the backup in its place, and keeps that one beside it"
    )


def _reason(file: Path, inside: Inside, open_editions: int) -> str:
    count = "1 edition was" if open_editions == 1 else f"{open_editions} editions were"
    made = f" of {inside.at:%Y-%m-%d %H:%M} UTC"
    room = _REASON - len(migrations.RESTORED) - len(made) - len(count) - len(_NOT_KNOWN) - len(" open;  ")
    return f"{migrations.RESTORED}{file.name[:room]}{made}; {count} open; {_NOT_KNOWN}"


def _slots(settings: Settings, since: datetime, now: datetime) -> dict[str, tuple[Slot, ...]]:
    """The slots of each newsletter within a time."""
    found = {}
    for name, newsletter in settings.newsletters.items():
        slots: list[Slot] = []
        for slot in Schedule(newsletter.schedule, newsletter.zone).upcoming(since):
            if slot.instant > now or len(slots) == _MOST_SLOTS:
                break
            slots.append(slot)
        found[name] = tuple(slots)
    return found


def _ask_present(engine: Engine, since: datetime, now: datetime) -> tuple[str, ...] | None:
    """The editions that the database that stands there froze since the backup, oldest first; None where it cannot say.

    Raises BackupError where a process that may be alive has a batch of it in hand, on another machine perhaps.
    """
    try:
        with engine.connect() as connection:
            if migrations.version(connection) != migrations.HEAD:
                return None
        with reading(engine) as session:
            for batch in held(session):
                lease = batch.lease_until or now
                if batch.owner is not None and lease > now and not is_gone(batch.owner):
                    what = f"{_IN_USE} (a batch is in its hands, until {lease:%H:%M:%S} UTC at most)"
                    raise BackupError(str(engine.url.database), what)
            return tuple(f"{one.newsletter} {one.slot} ({one.state})" for one in store.frozen_since(session, since))
    except DBAPIError as error:
        if isinstance(error.orig, sqlite3.Error) and _is_damage(error.orig):
            return None
        raise
    finally:
        engine.dispose()


# ------------------------------------------------------------------------------------------ SQLite


def _on_sqlite(order: _Order) -> Restored:
    settings, engine, file, now = order.settings, order.engine, order.file, order.now
    database = file_of(engine)
    assert database is not None
    present = database.exists() and database.stat().st_size > 0
    if present and file.samefile(database):
        raise BackupError(file, "it is the database itself")
    if present and not order.over:
        raise _refuse_present(str(database))
    wal = file.with_name(f"{file.name}-wal")
    if wal.exists() and wal.stat().st_size:
        raise BackupError(file, f"{wal.name} stands beside it, so it is a database in use, and not whole by itself")
    database.parent.mkdir(parents=True, exist_ok=True)
    draft = database.with_name(f".{database.name}.restoring")
    with alone(database.parent, "another backup is being put back there, or made"):
        try:
            _clear(draft)  # of a restore that was killed
            _fetch(file, draft)
            inside = look_into(draft, file.name)
            _refuse_other(settings, inside, file)
            reason, open_editions = _halt(draft, file, inside, now, order.actor)
            _belong(draft, database)
            sync(draft)
            # What is no database any more is not opened as one: SQLite would take its journal away.
            readable = present and is_sqlite(database)
            since = _ask_present(engine, inside.at, now) if readable else None
            kept = _swap(database, draft, now, present=present, readable=readable)
        finally:
            _clear(draft)
    slots = _slots(settings, inside.at, now)
    return Restored(file, inside, now, reason, str(kept) if kept else None, open_editions, slots, since)


def _clear(draft: Path) -> None:
    for left in (draft, *(draft.with_name(f"{draft.name}{suffix}") for suffix in _JOURNALS)):
        left.unlink(missing_ok=True)


def _fetch(file: Path, draft: Path) -> None:
    """Copy a backup, decompressed, into a new file that is its owner's alone."""
    with file.open("rb") as raw, open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:  # noqa: PTH123 # the mode
        compressed = raw.read(len(_GZIP)) == _GZIP
        raw.seek(0)
        try:
            shutil.copyfileobj(gzip.GzipFile(fileobj=raw) if compressed else raw, out, PIECE)
        except (gzip.BadGzipFile, EOFError, zlib.error):
            raise BackupError(file.name, "it is damaged: it cannot be decompressed to its end") from None


def _halt(draft: Path, file: Path, inside: Inside, now: datetime, actor: str) -> tuple[str, int]:
    """Halt a database before it stands in its place, on record; whatever it was halted for before."""
    with closing(sqlite3.connect(draft, isolation_level=None)) as copy:
        copy.execute("PRAGMA journal_mode = DELETE")
        copy.execute("PRAGMA synchronous = FULL")
        open_editions = int(copy.execute(_OPEN_EDITIONS).fetchone()[0])
        reason, at = _reason(file, inside, open_editions), now.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
        copy.execute("BEGIN IMMEDIATE")
        halted = "UPDATE instance SET halted_at = ?, halted_by = ?, halt_reason = ? WHERE id = 1"
        copy.execute(halted, (at, actor, reason))
        copy.execute("INSERT INTO operator_act (at, actor, act, note) VALUES (?, ?, 'restore', ?)", (at, actor, reason))
        copy.execute("COMMIT")
    return reason, open_editions


def _belong(draft: Path, database: Path) -> None:
    """Give a file to whoever the database belongs to, where root puts it back."""
    if os.geteuid() == 0:
        owner = (database if database.exists() else database.parent).stat()
        os.chown(draft, owner.st_uid, owner.st_gid)


def _swap(database: Path, draft: Path, now: datetime, *, present: bool, readable: bool) -> Path | None:
    """Put a finished file in the database's place, and give where the one that stood there is kept.

    At each instant the database's name leads to the whole old file or to the whole new one.
    """
    kept = _free(database.with_name(f"{database.name}.before-restore-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}"))
    damaged = present and not (readable and _settle(database, now))
    with _locked(database):
        journals = [
            one for one in (database.with_name(f"{database.name}{suffix}") for suffix in _JOURNALS) if one.exists()
        ]
        came = any(one.stat().st_size for one in journals) if present else database.exists() and database.stat().st_size
        if came and not damaged:
            raise BackupError(database, _IN_USE)  # somebody came between, and may have gone
        if present:
            _keep(database, kept)
        for journal in journals:  # one that stayed would be taken for the new file's own, and ruin it
            if damaged or not present:
                _keep(journal, kept.with_name(kept.name + journal.name.removeprefix(database.name)))
            journal.unlink()
        sync(database.parent)
        draft.replace(database)
        sync(database.parent)
    return kept if present else None


def _free(name: Path) -> Path:
    number, free = 1, name
    while free.exists():
        number += 1
        free = name.with_name(f"{name.name}-{number}")
    return free


def _settle(database: Path, now: datetime) -> bool:
    """See that nobody else has a database open, bring its journal into it, and halt it. False where it is damaged.

    Whoever has one in WAL mode open holds a lock as long, so that leaving that mode is refused while anybody does.
    Halted, it sends nothing even for a process that found it in its last moment, or for whoever puts it back.
    """
    why = "a backup was put in its place; nothing is sent from it until somebody says so"
    at = now.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    try:
        with closing(sqlite3.connect(database, timeout=1, isolation_level=None)) as opened:
            opened.execute("PRAGMA journal_mode = DELETE").fetchall()
            opened.execute("PRAGMA synchronous = FULL")
            opened.execute("BEGIN EXCLUSIVE")
            opened.execute(
                "UPDATE instance SET halted_at = ?, halted_by = 'newsletter db restore', halt_reason = ? "
                "WHERE halted_at IS NULL",
                (at, why),
            )
            opened.execute("COMMIT")
    except sqlite3.DatabaseError as error:
        if _is_damage(error):
            return False
        if error.sqlite_errorcode == sqlite3.SQLITE_ERROR:  # it has no such table
            raise BackupError(database, "it holds tables that are not ours: move it away yourself") from None
        if error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            raise BackupError(database, _IN_USE) from None
        raise BackupError(database, f"it cannot be put aside: {error}") from None
    return True


def _is_damage(error: sqlite3.Error) -> bool:
    """Whether an error says that a file, or the disk under it, is damaged (sqlite.org/rescode.html: its low byte)."""
    return error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR}


@contextmanager
def _locked(database: Path) -> Iterator[None]:
    """Hold the locks of SQLite's that nobody gets past, on a file that may be too damaged for SQLite to lock it."""
    try:
        descriptor = os.open(database, os.O_RDWR)
    except FileNotFoundError:
        yield
        return
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, _LOCK_BYTES, _LOCK_AT)
        except OSError:
            raise BackupError(database, _IN_USE) from None
        yield
    finally:
        os.close(descriptor)


def _keep(file: Path, under: Path) -> None:
    """Give a file a second name; where the file system has none, a copy."""
    try:
        os.link(file, under)
    except OSError:
        shutil.copyfile(file, under)
        shutil.copymode(file, under)
        sync(under)


_OPEN_EDITIONS = "SELECT count(*) FROM edition WHERE state IN ('dispatching', 'paused')"


# ------------------------------------------------------------------------------------------ PostgreSQL


def _on_postgresql(order: _Order) -> Restored:
    settings, engine, file, now = order.settings, order.engine, order.file, order.now
    programs = Programs(engine, settings.backup.programs)
    inside, schema = _look_into_archive(programs, file)
    _refuse_other(settings, inside, file)
    since = None
    with engine.connect() as connection:
        home = connection.execute(text("SELECT current_schema()")).scalar_one()
        migrations.refuse_other_order(connection)
        standing = sorted(set(inspect(connection).get_table_names()) & set(OURS))
    if home != schema:
        raise BackupError(file.name, f"its tables are of the schema {schema}, and this database's of {home}")
    if standing and not order.over:
        raise _refuse_present(str(engine.url.database))
    if standing:
        since = _ask_present(engine, inside.at, now)
    programs.reach()
    engine.dispose()  # our own connections are not others'
    kept = f"before_restore_{now.astimezone(UTC):%Y%m%dt%H%M%Sz}"
    open_editions = sum(row["state"] in {"dispatching", "paused"} for row in programs.rows(file, "edition"))
    reason = _reason(file, inside, open_editions)
    programs.load(file, _make_room(schema, standing, kept), _after(schema, now, order.actor, reason))
    slots = _slots(settings, inside.at, now)
    return Restored(file, inside, now, reason, kept if standing else None, open_editions, slots, since)


def _look_into_archive(programs: Programs, file: Path) -> tuple[Inside, str]:
    """What an archive holds, and the schema that its tables are of. Raises BackupError where it may not be put back."""
    programs.verify(file)
    tables = programs.tables(file)
    if not {"alembic_version", "instance", "operator_act", "subscriber", "edition"} <= {name for _, name in tables}:
        raise BackupError(file.name, "it is no backup of a newsletter")
    if strange := sorted({name for _, name in tables} - set(OURS)):
        raise BackupError(file.name, f"it is not ours: it holds a table {strange[0]}")
    revision = next((row["version_num"] for row in programs.rows(file, "alembic_version")), None)
    if fault := migrations.fault_of(revision):
        raise BackupError(file.name, fault)
    row = next(iter(programs.rows(file, "instance")), None)
    if row is None:
        raise BackupError(file.name, "it has no id: no command has ever worked on it")
    acts = programs.rows(file, "operator_act")
    known = [act for act in acts if act["act"] == "backup"] or acts
    at = max((instant_of(str(act["at"])) for act in known), default=instant_of(str(row["created_at"])))
    return Inside(str(row["instance_id"]), str(revision), at), next(
        schema for schema, name in tables if name == "instance"
    )


def _make_room(schema: str, standing: list[str], kept: str) -> str:
    """The statements that move our tables out of the way, once nobody else is there."""
    lines = [
        "SET LOCAL lock_timeout = '5s';",
        "SET LOCAL statement_timeout = 0;",
        "SET LOCAL idle_in_transaction_session_timeout = 0;",
        f"SELECT pg_advisory_xact_lock({WRITERS});",
    ]
    if standing:
        lines.append(f'CREATE SCHEMA "{kept}";')
        lines += [f'ALTER TABLE "{schema}"."{table}" SET SCHEMA "{kept}";' for table in standing]
    return "\n".join([*lines, _ALONE])


_ALONE = f"""\
DO $$ BEGIN
    IF EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = current_database()
               AND pid <> pg_backend_pid() AND backend_type = 'client backend')
    THEN RAISE EXCEPTION '{_IN_USE}';
    END IF;
END $$;"""  # noqa: S608 # our own words
"""The statement that ends a transaction where anybody else is connected to the database."""


def _after(schema: str, now: datetime, actor: str, reason: str) -> str:
    """The statements that halt what was put back, before anybody can see it."""
    at, by, why = (f"'{value.replace(chr(39), 2 * chr(39))}'" for value in (now.isoformat(), actor, reason))
    return (
        "SET standard_conforming_strings = on;\n"
        f'UPDATE "{schema}".instance SET halted_at = {at}, halted_by = {by}, halt_reason = {why} WHERE id = 1;\n'
        f"INSERT INTO \"{schema}\".operator_act (at, actor, act, note) VALUES ({at}, {by}, 'restore', {why});"
    )
