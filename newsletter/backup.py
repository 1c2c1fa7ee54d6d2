"""Copies of the database, made while others work on it: whole, checked, on the disk, and no more than are kept.

A copy of SQLite is one state of the database. A reading transaction is held while it is copied: without one, each
commit of another process makes SQLite begin the copy anew (of 308 MB with a writer beside it, 440 times in 25 s, and no
end; with one, never). In WAL mode a reader holds up no writer; its price is a journal that grows meanwhile. What holds
up writers is the disk, so that pages are copied a megabyte at a time, each written through, with pauses between.

Of PostgreSQL pg_dump makes an archive of our tables. Either gets its final name when it has been read back and found
whole, and only files of that pattern and this database are ever taken away.
"""

import fcntl
import gzip
import os
import re
import shutil
import sqlite3
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from newsletter import migrations, store
from newsletter.dumps import Programs
from newsletter.errors import BackupError
from newsletter.settings import Settings
from newsletter.soundness import file_of, look_into, size_of
from subscribers import Table, transaction

PIECE = 1 << 20  # bytes of a file handled at once
_PAGES = 256  # copied at once: a megabyte of SQLite's usual pages; the longest commit beside it took 11 ms
_PAUSE_S = 0.005  # between them
_COMPRESSION = 1  # of zlib's nine: a desk's database to 16 % at 208 MB/s; the sixth to 13 % at 71
_NAME = re.compile(
    r"newsletter-(?P<instance>[0-9a-f]{1,32})-(?P<at>\d{8}T\d{6}Z)(?:-(?P<again>\d+))?\.(?:db|db\.gz|dump)"
)
_STAMP = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that was made and found whole, and what became of older ones."""

    file: Path
    at: datetime  # the state that it holds is not older
    instance: str
    revision: str
    size_bytes: int  # of the file
    database_bytes: int  # of the database, its journal included
    pruned: tuple[Path, ...] = ()
    remarks: tuple[str, ...] = ()  # what did not go as it should, and did no harm to the backup


@dataclass(frozen=True, slots=True)
class Found:
    """A file that a backup was made as: of which database, when."""

    file: Path
    instance: str
    at: datetime
    again: int


def back_up(
    settings: Settings,
    engine: Engine,
    *,
    now: datetime,
    actor: str = "program",
    directory: Path | None = None,
    keep: int | timedelta | None = None,
) -> Backup:
    """Make a backup of the database of an engine, and take away the ones that are no longer kept.

    Where it goes and how many are kept is the configuration's, unless it is told. Raises BackupError where none could
    be made; then there is no file of it, and none was taken away. One at a time in a directory.
    """
    told = settings.backup
    directory, keep = directory or told.directory, keep or told.keep
    instance, revision = identity(engine)
    size = size_of(engine)
    remarks = []
    try:
        with alone(directory, "another backup is being made there"):
            for left in directory.glob(f".newsletter-{instance}-*.partial*"):  # of one that was killed
                left.unlink()
            free = shutil.disk_usage(directory).free
            if free < size:
                raise BackupError(directory, f"{free:,} bytes are free there, and the database has {size:,}")
            if (fault := _put_on_record(engine, now, actor)) is not None:
                remarks.append(fault)
            name = f"newsletter-{instance}-{now.astimezone(UTC):{_STAMP}}"
            file = _written(engine, directory, name, settings)
            pruned, faults = _prune(file, keep, now)
            return Backup(file, now, instance, revision, file.stat().st_size, size, pruned, (*remarks, *faults))
    except OSError as error:
        raise BackupError(error.filename or directory, error.strerror or str(error)) from None


def identity(engine: Engine) -> tuple[str, str]:
    """The id and the revision of a database. Raises BackupError where there is none that could be copied."""
    file = file_of(engine)
    name = str(engine.url.database)
    if file is not None and not file.exists():
        raise BackupError(name, "there is no such database")
    try:
        with engine.connect() as connection:
            revision = migrations.version(connection)
            if revision is None:
                raise BackupError(
                    name, "it is no database of a newsletter, or one without tables: there is nothing to copy"
                )
            instance = connection.execute(text("SELECT instance_id FROM instance WHERE id = 1")).scalar()
    except DBAPIError as error:
        raise BackupError(name, f"it cannot be read: {error.orig}") from None
    if instance is None:
        raise BackupError(name, "no command has ever worked on it: there is nothing to copy")
    return str(instance), revision


def backups(directory: Path, instance: str) -> list[Found]:
    """The backups of a database in a directory, by their names, newest first."""
    found = []
    for file in directory.iterdir() if directory.is_dir() else ():
        match = _NAME.fullmatch(file.name)
        if match and match["instance"] == instance and file.is_file() and not file.is_symlink():
            at = datetime.strptime(match["at"], _STAMP).replace(tzinfo=UTC)
            found.append(Found(file, instance, at, int(match["again"] or 0)))
    return sorted(found, key=lambda one: (one.at, one.again, one.file.name), reverse=True)


def no_longer_kept(found: Sequence[Found], keep: int | timedelta, now: datetime) -> list[Found]:
    """Which of some backups, newest first, have had their time: never the newest."""
    if isinstance(keep, timedelta):
        return [one for one in found[1:] if one.at < now - keep]
    return list(found[max(keep, 1) :])


def _prune(made: Path, keep: int | timedelta, now: datetime) -> tuple[tuple[Path, ...], list[str]]:
    """Take away what is no longer kept. The one just made is known to be good, and stays whatever its name sorts as."""
    match = _NAME.fullmatch(made.name)
    assert match is not None
    gone, faults = [], []
    for one in no_longer_kept(backups(made.parent, match["instance"]), keep, now):
        if one.file == made:
            continue
        try:
            one.file.unlink()
            gone.append(one.file)
        except OSError as error:
            faults.append(f"{one.file} could not be taken away: {error.strerror}")
    return tuple(gone), faults


@contextmanager
def alone(directory: Path, otherwise: str) -> Iterator[None]:
    """Hold a directory, made if need be, that no other process holds so; a kill lets go of it. Synced at the end.

    Raises BackupError with what it is otherwise.
    """
    directory.mkdir(parents=True, mode=0o700, exist_ok=True)
    held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackupError(directory, otherwise) from None
        yield
        os.fsync(held)
    finally:
        os.close(held)


def _put_on_record(engine: Engine, now: datetime, actor: str) -> str | None:
    """Write down that a backup is made, before it is, so that the copy tells its age. None, or what was wrong."""
    try:
        with transaction(engine) as session:
            store.act(session, "backup", now=now, actor=actor)
    except DBAPIError as error:  # a full disk is no reason to make no copy elsewhere
        return f"that it was made could not be put on record: {error.orig}"
    return None


def _written(engine: Engine, directory: Path, name: str, settings: Settings) -> Path:
    """Write the copy under a name of its own, read it back, and give it its name."""
    draft = directory / f".{name}.partial"
    squeezed = draft.with_name(f"{draft.name}.gz")
    try:
        _make_private(draft)
        if engine.dialect.name == "sqlite":
            copy_pages(engine, draft)
            look_into(draft, f"the copy of {engine.url.database}")
            if settings.backup.compress:
                _make_private(squeezed)
                squeeze(draft, squeezed)
                return _named(squeezed, name, "db.gz")
            return _named(draft, name, "db")
        archive(engine, draft, settings.backup.programs)
        return _named(draft, name, "dump")
    except (sqlite3.Error, DBAPIError) as error:
        raise BackupError(directory, f"the copy failed: {getattr(error, 'orig', error)}") from None
    finally:
        for left in directory.glob(f"{draft.name}*"):
            left.unlink()


def _make_private(file: Path) -> None:
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def _named(draft: Path, name: str, ending: str) -> Path:
    """Give a finished copy the first name that is free; within `alone` nobody else takes it meanwhile."""
    sync(draft)
    number, final = 1, draft.with_name(f"{name}.{ending}")
    while final.exists():
        number += 1
        final = draft.with_name(f"{name}-{number}.{ending}")
    draft.rename(final)
    return final


def sync(file: Path) -> None:
    """See a file's bytes onto the disk."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copy_pages(engine: Engine, to: Path) -> None:
    """Copy one state of a database of SQLite into an empty file, page by page, while others write.

    The copy is in no WAL mode, so that it is one file wherever it is opened.
    """
    descriptor = os.open(to, os.O_RDWR)  # closed last: closing one lets go of SQLite's locks on the file
    try:
        with engine.connect() as connection, closing(sqlite3.connect(to, isolation_level=None)) as copy:
            copy.execute("PRAGMA journal_mode = OFF")
            copy.execute("PRAGMA synchronous = OFF")  # it is written through below

            def written(status: int, remaining: int, total: int) -> None:
                del status, total
                os.fsync(descriptor)
                if remaining:
                    time.sleep(_PAUSE_S)

            connection.execute(
                text("SELECT count(*) FROM sqlite_master")
            ).scalar_one()  # its transaction begins to read here
            source = connection.connection.driver_connection
            assert isinstance(source, sqlite3.Connection)
            source.backup(copy, pages=_PAGES, progress=written)
            copy.execute("PRAGMA journal_mode = DELETE")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def squeeze(file: Path, to: Path) -> None:
    """Compress a file into another, and see by reading it back that it is the same."""
    before = 0
    with (
        file.open("rb") as plain,
        to.open("wb") as target,
        gzip.GzipFile(filename="", mode="wb", compresslevel=_COMPRESSION, fileobj=target, mtime=0) as out,
    ):
        while piece := plain.read(PIECE):
            before = zlib.crc32(piece, before)
            out.write(piece)
            target.flush()
            os.fsync(target.fileno())  # as above: a hundred megabytes at once would hold up whoever commits
            time.sleep(_PAUSE_S)
    after = 0
    with gzip.open(to, "rb") as again:
        while piece := again.read(PIECE):
            after = zlib.crc32(piece, after)
    if after != before:
        raise BackupError(to, "it was not written as it should be: look at the disk")


def archive(engine: Engine, to: Path, folder: Path | None) -> None:
    """Let pg_dump write an archive of our tables, and read all of it back."""
    with engine.connect() as connection:
        schema = connection.execute(text("SELECT current_schema()")).scalar_one()
    programs = Programs(engine, folder)
    programs.dump(to, [f'"{schema}"."{table}"' for table in OURS])
    programs.verify(to)
    missing = {"alembic_version", "instance"} - {table for _, table in programs.tables(to)}
    if missing:
        raise BackupError(to.name, f"pg_dump left out {', '.join(sorted(missing))}")


OURS = (*sorted(Table.metadata.tables), "alembic_version")
"""The names of our tables. What else stands in a database of PostgreSQL is somebody else's."""
