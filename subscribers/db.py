"""The ground both packages' tables stand on: one MetaData, aware UTC instants, safe transactions on two databases.

SQLite is opened in WAL mode with synchronous=FULL (a commit that was reported survives a power failure; a lost claim
would be a second copy), and every writing transaction is BEGIN IMMEDIATE, because a read that turns into a write fails
at once when another process has written in between, whatever the time-out.

On PostgreSQL a writing transaction first takes one advisory lock, so that there, too, writers are one at a time and
read what the one before them wrote: the same rule on both. What differs in their SQL stands here, or in
`subscribers.drivers` for what is done in bulk.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, ClassVar, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import (
    BigInteger,
    DateTime,
    Dialect,
    Engine,
    Enum,
    Integer,
    MetaData,
    Text,
    create_engine,
    event,
    func,
    select,
)
from sqlalchemy.engine import URL, Connection, ExceptionContext, make_url
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.pool import Pool
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine
from sqlmodel import Session, SQLModel

T = TypeVar("T")

BUSY_TIMEOUT_MS = 10_000  # longer than any write lock we hold (250 ms, the freeze apart), shorter than patience
IDLE_TIMEOUT_MS = 60_000  # of a transaction on PostgreSQL in which nothing is asked: its process hangs or is stopped
WRITERS = 6_031_769_826_714_421_357  # the advisory lock that PostgreSQL's writers take in turn: random, and for good
_LOCK_NOT_AVAILABLE = "55P03"  # SQLSTATE (PostgreSQL's documentation, appendix A): lock_timeout has run out


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


class RowNumber(TypeDecorator[int]):
    """The number of a row of which there may be more than two thousand million; SQLite's are as wide by themselves."""

    impl = BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """INTEGER on SQLite, which numbers rows by itself only under that name."""
        return dialect.type_descriptor(Integer() if dialect.name == "sqlite" else BigInteger())


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


def number_after(session: Session, table: type[Table], number: int) -> None:
    """Have the next rows of a table numbered after one that rows were given by hand. SQLite does so by itself."""
    if session.get_bind().dialect.name == "postgresql":
        named = func.pg_get_serial_sequence(table.__tablename__, "id")
        session.execute(select(func.setval(named, number)))


class json_member(FunctionElement[str]):  # noqa: N801 # used as a function of SQL is
    """A text that a JSON object holds under a name; NULL where it holds none. The column may be of JSON or of text."""

    type = Text()
    inherit_cache = True


@compiles(json_member, "sqlite")
def _json_member_of_sqlite(element: json_member, compiler: SQLCompiler, **how: Any) -> str:
    column, name = (compiler.process(clause, **how) for clause in element.clauses)
    return f"json_extract({column}, '$.' || {name})"


@compiles(json_member, "postgresql")
def _json_member_of_postgresql(element: json_member, compiler: SQLCompiler, **how: Any) -> str:
    column, name = (compiler.process(clause, **how) for clause in element.clauses)
    return f"(CAST({column} AS JSON) ->> {name})"


class json_elements(FunctionElement[str]):  # noqa: N801 # the same
    """The texts of a JSON array, a row each, as a table with the column `value`: `.table_valued("value")`."""

    type = Text()
    inherit_cache = True


@compiles(json_elements, "sqlite")
def _json_elements_of_sqlite(element: json_elements, compiler: SQLCompiler, **how: Any) -> str:
    return f"json_each({compiler.process(element.clauses, **how)})"


@compiles(json_elements, "postgresql")
def _json_elements_of_postgresql(element: json_elements, compiler: SQLCompiler, **how: Any) -> str:
    return f"json_array_elements_text({compiler.process(element.clauses, **how)})"


def connect(url: str) -> Engine:
    """An engine for a database URL ("sqlite:///path", "postgresql://user@host/name").

    Errors never show a statement's parameters, nor the values of rows. Raises ImportError for PostgreSQL where psycopg
    is not installed.
    """
    place = make_url(url)
    if place.get_backend_name() == "postgresql":
        return _connect_postgresql(place)
    engine = create_engine(place, hide_parameters=True)
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


def _connect_postgresql(place: URL) -> Engine:
    """An engine that a pooler in transaction mode may stand before: no prepared statements, no settings that last."""
    ours = {"application_name": "newsletter", "connect_timeout": BUSY_TIMEOUT_MS // 1_000, "client_encoding": "utf8"}
    engine = create_engine(
        place.set(drivername="postgresql+psycopg"),
        hide_parameters=True,
        isolation_level="READ COMMITTED",  # whatever the server's default: who waited for the lock must see what is new
        pool_pre_ping=True,
        connect_args={name: value for name, value in ours.items() if name not in place.query}
        | {"prepare_threshold": None},
    )
    event.listen(engine, "begin", _begin_postgresql)
    event.listen(engine, "handle_error", _keep_rows_out)
    return engine


def begun(*, alone: bool) -> str:
    """What a transaction on PostgreSQL begins with, as one string of statements without parameters."""
    settings = (
        f"SET LOCAL lock_timeout = {BUSY_TIMEOUT_MS}; "
        f"SET LOCAL idle_in_transaction_session_timeout = {IDLE_TIMEOUT_MS}; SET LOCAL TimeZone = 'UTC'"
    )
    return f"{settings}; SELECT pg_advisory_xact_lock({WRITERS})" if alone else settings


def _begin_postgresql(connection: Connection) -> None:
    options = connection.get_execution_options()
    alone = options.get("newsletter_writes", False) and options.get("newsletter_alone", True)
    alone = alone and not options.get("newsletter_apart", False)  # a trial, on tables of its own
    connection.exec_driver_sql(begun(alone=alone), execution_options={"no_parameters": True})


def _keep_rows_out(context: ExceptionContext) -> None:
    """Leave of an error what it is about: its details are a row, with an address in it."""
    said = plain(context.original_exception)
    if said is not None and context.sqlalchemy_exception is not None:
        kind = type(context.original_exception)
        context.sqlalchemy_exception.args = (f"({kind.__module__}.{kind.__name__}) {said}",)


def plain(error: BaseException) -> str | None:
    """Take the values of rows out of an error of psycopg; the sentence that is left. None: it is another's."""
    told = getattr(error, "diag", None)
    if told is None:
        return None
    said = told.message_primary or str(error)
    if told.sqlstate == _LOCK_NOT_AVAILABLE:
        said = f"database is locked: another process has held it for {BUSY_TIMEOUT_MS // 1_000} s ({said})"
    error.args = (said,)
    return str(said)


def is_passing(error: DBAPIError) -> bool:
    """Whether the same may be tried again: locked, a disk that is full, a deadlock, a connection that was cut.

    What a driver calls operational, and whatever it calls an error by which the connection was lost.
    """
    return isinstance(error, OperationalError) or error.connection_invalidated


@contextmanager
def transaction(engine: Engine, *, alone: bool = True) -> Iterator[Session]:
    """A session in one writing transaction: committed at the end, rolled back by an exception.

    Writers are one at a time. Not `alone`, on PostgreSQL, others may write meanwhile: for what locks the rows that it
    changes, and takes nothing else it has read for granted.
    """
    writing = engine.execution_options(newsletter_writes=True, newsletter_alone=alone)
    with _turn(engine), Session(writing, expire_on_commit=False) as session, session.begin():
        yield session


_turns: "WeakKeyDictionary[Pool, threading.Lock]" = WeakKeyDictionary()
_adding_turns = threading.Lock()


@contextmanager
def _turn(engine: Engine) -> Iterator[None]:
    """Have the threads of this process write to a SQLite file in turn.

    Who waits for another's lock there sleeps, and is passed over by whoever comes at the right moment: of 16 threads
    that write 2 ms each, one in a hundred waited 2 s, and some for more than the time-out (November 2026).
    """
    if engine.dialect.name != "sqlite":
        yield
        return
    with _adding_turns:
        turn = _turns.setdefault(engine.pool, threading.Lock())
    mine = turn.acquire(timeout=BUSY_TIMEOUT_MS / 1_000)  # no longer than for another process
    try:
        yield
    finally:
        if mine:
            turn.release()


class Writer:
    """Writes of several threads, together in one transaction where they come at the same time.

    A commit waits for the disk, and a thread that waits for another's lock on SQLite sleeps: so one of the threads that
    have something to write does it for all of them, and each goes on as soon as its own is committed. What one of them
    raises undoes its own work alone.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._changed = threading.Condition()
        self._led = False  # some thread writes
        self._waiting: list[_Work] = []

    def write(self, do: Callable[[Session], T]) -> T:
        """What `do` gives, when it is committed. It may be done twice; only the second time counts."""
        work = _Work(do)
        with self._changed:
            self._waiting.append(work)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: work.over or not self._led)
                if work.over:
                    break
                self._led = True
                together, self._waiting = self._waiting, []
            try:
                self._commit(together)
            finally:
                with self._changed:
                    self._led = False
                    self._changed.notify_all()
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
    """A session that reads one state of the database. What was read stays.

    What is written in it is rolled back by SQLite, and refused by PostgreSQL.
    """
    if engine.dialect.name == "postgresql":
        engine = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    with Session(engine, expire_on_commit=False) as session:
        yield session
