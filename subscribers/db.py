"""The ground both packages' tables stand on: one MetaData, aware UTC instants, safe transactions on SQLite.

SQLite is opened in WAL mode with synchronous=FULL (a commit that was reported survives a power failure; a lost claim
would be a second copy), and every writing transaction is BEGIN IMMEDIATE, because a read that turns into a write fails
at once when another process has written in between, whatever the time-out.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, ClassVar, TypeVar

from sqlalchemy import DateTime, Dialect, Engine, Enum, MetaData, create_engine, event
from sqlalchemy.engine import Connection
from sqlalchemy.types import TypeDecorator
from sqlmodel import Session, SQLModel

T = TypeVar("T")

BUSY_TIMEOUT_MS = 10_000  # longer than any write lock we hold (250 ms, the freeze apart), shorter than patience


class Table(SQLModel):
    """The base of every table of both packages."""

    metadata: ClassVar[MetaData] = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Instant(TypeDecorator[datetime]):
    """An aware datetime, stored as UTC. Refuses naive ones: an instant without a zone is a mistake on its way."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """UTC, without its zone where the database cannot keep one."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("an instant must be aware")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Aware UTC."""
        del dialect
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def choice(of: type[StrEnum], *, check: bool = True) -> Enum:
    """The column type of an enumeration: its values as strings, with a CHECK unless its table has one of its own."""
    return Enum(
        of,
        native_enum=False,
        create_constraint=check,
        name=of.__name__.lower(),
        length=20,
        values_callable=lambda members: [member.value for member in members],
    )


def connect(url: str) -> Engine:
    """An engine for a database URL ("sqlite:///path"). Statements never show their parameters in errors."""
    engine = create_engine(url, hide_parameters=True)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, record: Any) -> None:
    del record
    connection.isolation_level = None  # the driver begins nothing by itself: `_begin_sqlite` does
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal" and _is_ours(cursor):
        cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _is_ours(cursor: Any) -> bool:
    """Whether a file is empty or has our tables: a stranger's is refused later, and must be left as it is."""
    names = {name for (name,) in cursor.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return not names or {"alembic_version", "subscriber"} <= names


def _begin_sqlite(connection: Connection) -> None:
    writing = connection.get_execution_options().get("newsletter_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


@contextmanager
def transaction(engine: Engine, *, alone: bool = True) -> Iterator[Session]:
    """A session in one writing transaction: committed at the end, rolled back by an exception."""
    del alone
    with Session(engine.execution_options(newsletter_writes=True), expire_on_commit=False) as session, session.begin():
        yield session


class Writer:
    """Writes of several threads, together in one transaction where they come at the same time.

    A commit waits for the disk, and a thread that waits for another's lock on SQLite sleeps: so one of the threads that
    have something to write does it for all of them. What one of them raises undoes its own work alone.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._leading = threading.Lock()
        self._adding = threading.Lock()
        self._waiting: list[_Work] = []

    def write(self, do: Callable[[Session], T]) -> T:
        """What `do` gives, when it is committed. It may be done twice; only the second time counts."""
        work = _Work(do)
        with self._adding:
            self._waiting.append(work)
        with self._leading:
            if not work.over:
                with self._adding:
                    together, self._waiting = self._waiting, []
                self._commit(together)
        if work.error is not None:
            raise work.error
        given: T = work.given
        return given

    def _commit(self, together: Sequence["_Work"]) -> None:
        try:
            with transaction(self._engine) as session:
                for work in together:
                    work.given = work.do(session)
                    session.flush()
                    session.expunge_all()  # the next one reads what stands on the disk, and not what this one holds
        except BaseException as error:  # noqa: BLE001 # whoever asked for it raises it
            if len(together) == 1:
                together[0].error = error
            else:
                for work in together:
                    self._commit([work])
        for work in together:
            work.over = True


class _Work:
    """What one thread has to write."""

    def __init__(self, do: Callable[[Session], Any]) -> None:
        self.do = do
        self.given: Any = None
        self.error: BaseException | None = None
        self.over = False


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """A session that reads one state of the database. What is written in it is rolled back; what was read stays."""
    with Session(engine, expire_on_commit=False) as session:
        yield session
