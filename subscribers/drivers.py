"""The databases' own drivers, for the list in bulk: what SQLite and PostgreSQL want differently there stands here.

A `Driver` is one connection, taken from an engine's pool for a while. Statements are written once, with `:name` and `?`
for values; `{of_keys}`, `{join}` and the like stand for what the two spell differently (`Driver.words`). Errors come
out as SQLAlchemy's, without statement and values, as from everywhere else.
"""

import json
import re
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, ClassVar

from sqlalchemy import Engine, StaticPool, create_engine, event
from sqlalchemy.exc import OperationalError

from subscribers.db import _begin_postgresql, _begin_sqlite, _keep_rows_out, begun, plain
from subscribers.errors import TransferError

# A batch or a page is looked up by index, whatever the planner believes of tables that have just grown from nothing: it
# would read all of them for each. Measured with 100,000 people: 56 ms for a batch of 4,000 by hash joins, 142 ms for a
# page of 5,000 by sorting all.
_BY_INDEX = "; ".join(
    f"SET LOCAL {setting}"
    for setting in (
        "enable_hashjoin = off",
        "enable_mergejoin = off",
        "enable_seqscan = off",
        "enable_bitmapscan = off",
        "enable_sort = off",
        "join_collapse_limit = 1",
        "from_collapse_limit = 1",
        "jit = off",
    )
)
_CHECKPOINT_BATCHES = 2  # after so many SQLite's log is moved into the database, and the lock left to others


class Driver(ABC):
    """One connection, and what is done on it. Outside of `reading` and `writing` each statement stands by itself."""

    words: ClassVar[Mapping[str, str]]
    """How this database spells what stands in braces in a statement."""
    in_a_row: ClassVar[int | None]
    """After how many transactions others need a gap to get at the lock, None where they stand in a queue for it."""

    @abstractmethod
    def execute(self, statement: str, values: Mapping[str, Any] | Sequence[Any] = ()) -> Any:
        """Execute a statement; the cursor with its rows. Instants in them are texts, “2026-11-23 08:00:00” in UTC."""

    @abstractmethod
    def executemany(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Execute a statement for each of some rows of values."""

    @abstractmethod
    def insert(self, table: str, columns: str, rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows. The fastest way that there is."""

    @abstractmethod
    def numbers(self, count: int) -> int:
        """The first of so many numbers in a row for new people. In a writing transaction."""

    @abstractmethod
    def instant(self, at: datetime) -> Any:
        """An instant as a value of a statement."""

    @abstractmethod
    def texts(self, texts: Sequence[str]) -> Any:
        """Many texts as one value, for `{of_keys}` and its like."""

    @abstractmethod
    def ready(self) -> Any:
        """A context in which one batch after the other is written."""

    @abstractmethod
    def reading(self) -> Any:
        """A context, within a transaction that sees one state of the database."""

    @abstractmethod
    def writing(self) -> Any:
        """A context, within a transaction that writes alone: committed at its end, rolled back by an exception."""

    def tidy(self) -> None:  # noqa: B027 # there may be nothing to do
        """What is to be done after some transactions."""

    def give_back(self) -> None:  # noqa: B027 # the same
        """Leave the connection as it was found."""


@contextmanager
def driver(engine: Engine) -> Iterator[Driver]:
    """The driver of a database, its connection back in the pool at the end. Raises TransferError for a third kind."""
    kind: type[SQLite | PostgreSQL]
    if engine.dialect.name == "sqlite":
        kind = SQLite
    elif engine.dialect.name == "postgresql":
        kind = PostgreSQL
    else:
        raise TransferError(f"expected SQLite or PostgreSQL, found {engine.dialect.name}")
    with closing(engine.raw_connection()) as connection:
        hand = kind(connection.driver_connection, apart=engine.get_execution_options().get("newsletter_apart", False))
        try:
            yield hand
        except kind.errors() as error:
            plain(error)
            raise OperationalError("", None, error, hide_parameters=True) from None
        finally:
            hand.give_back()


class SQLite(Driver):
    """SQLite by the standard library, on a connection that `subscribers.db` has made ready."""

    words: ClassVar[Mapping[str, str]] = {
        "of_keys": "json_each(:keys)",
        "of_states": "json_each(:states)",
        "join": "CROSS JOIN",  # in this order: without it the whole list may be read for one batch
        "json_object": "json_object",
    }
    in_a_row = _CHECKPOINT_BATCHES

    def __init__(self, connection: Any, *, apart: bool) -> None:
        del apart
        assert isinstance(connection, sqlite3.Connection)
        self._connection = connection

    @staticmethod
    def errors() -> type[Exception]:
        """The class of its errors."""
        return sqlite3.Error

    def execute(self, statement: str, values: Mapping[str, Any] | Sequence[Any] = ()) -> Any:
        """As promised."""
        return self._connection.execute(statement.format(**self.words), values)

    def executemany(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """As promised."""
        self._connection.executemany(statement, rows)

    def insert(self, table: str, columns: str, rows: Sequence[Sequence[Any]]) -> None:
        """As promised."""
        places = ", ".join("?" for _ in columns.split(","))
        self._connection.executemany(f"INSERT INTO {table} ({columns}) VALUES ({places})", rows)  # noqa: S608 # our own names

    def numbers(self, count: int) -> int:
        """As promised."""
        del count
        return int(self._connection.execute("SELECT coalesce(max(id), 0) + 1 FROM subscriber").fetchone()[0])

    def instant(self, at: datetime) -> str:
        """As `subscribers.db.Instant` keeps it."""
        return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")

    def texts(self, texts: Sequence[str]) -> str:
        """As promised."""
        return json.dumps(texts, ensure_ascii=False)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """As promised."""
        connection = self._connection
        before = {
            pragma: connection.execute(f"PRAGMA {pragma}").fetchone()[0]
            for pragma in ("cache_size", "wal_autocheckpoint", "ignore_check_constraints")
        }
        connection.execute("PRAGMA cache_size = -32768")  # KiB: the indexes' hot pages, within 200 MB for all
        connection.execute(
            "PRAGMA wal_autocheckpoint = 0"
        )  # it would run at the end of a transaction; we do it between
        # Asking of every row again whether an event is one of fourteen words takes a tenth of all the time; they come
        # from our own enumerations.
        connection.execute("PRAGMA ignore_check_constraints = ON")
        try:
            yield
        finally:
            with suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                self.tidy()
                for pragma, value in before.items():
                    connection.execute(f"PRAGMA {pragma} = {value}")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """As promised."""
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._connection.execute("ROLLBACK")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """As promised."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def tidy(self) -> None:
        """Move the log into the database."""
        self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


class PostgreSQL(Driver):
    """PostgreSQL by psycopg. Rows go in by COPY."""

    words: ClassVar[Mapping[str, str]] = {
        "of_keys": "(SELECT n - 1 AS key, value FROM unnest(:keys::text[]) WITH ORDINALITY AS one (value, n))",
        "of_states": "(SELECT unnest(:states::text[]) AS value)",
        "join": "JOIN",
        "json_object": "json_build_object",
    }
    in_a_row = None

    def __init__(self, connection: Any, *, apart: bool) -> None:
        connection.autocommit = True  # psycopg begins nothing by itself
        self._connection = connection
        self._apart = apart  # a trial on tables of its own: nobody else is kept from writing

    @staticmethod
    def errors() -> type[Exception]:
        """The class of its errors."""
        import psycopg  # noqa: PLC0415 # installed only where it is used

        return psycopg.Error

    def execute(self, statement: str, values: Mapping[str, Any] | Sequence[Any] = ()) -> Any:
        """As promised."""
        from psycopg.types.string import TextLoader  # noqa: PLC0415 # installed only where it is used

        cursor = self._connection.cursor()
        for kind in ("timestamptz", "json"):
            cursor.adapters.register_loader(kind, TextLoader)
        return cursor.execute(_spelled(statement), values or None)

    def executemany(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """As promised."""
        if rows:
            self._connection.cursor().executemany(_spelled(statement), rows)

    def insert(self, table: str, columns: str, rows: Sequence[Sequence[Any]]) -> None:
        """As promised."""
        if rows:
            with self._connection.cursor().copy(f"COPY {table} ({columns}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)

    def numbers(self, count: int) -> int:
        """As promised."""
        sequence = "pg_get_serial_sequence('subscriber', 'id')"
        first = int(self.execute(f"SELECT nextval({sequence})").fetchone()[0])
        self.execute(f"SELECT setval({sequence}, ?)", (first + count - 1,))
        return first

    def instant(self, at: datetime) -> str:
        """With its zone."""
        return at.astimezone(UTC).isoformat(sep=" ")

    def texts(self, texts: Sequence[str]) -> list[str]:
        """As promised."""
        return list(texts)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """As promised. At the end the planner is told what there is now, since an edition may come next."""
        yield
        for table in ("subscriber", "subscription", "consent_event"):
            self._connection.execute(f"ANALYZE {table}")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """As promised."""
        with self._within(
            f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {begun(alone=False)}; {_BY_INDEX}", "ROLLBACK"
        ):
            yield

    @contextmanager
    def writing(self) -> Iterator[None]:
        """As promised."""
        with self._within(
            f"BEGIN ISOLATION LEVEL READ COMMITTED; {_BY_INDEX}; {begun(alone=not self._apart)}", "COMMIT"
        ):
            yield

    @contextmanager
    def _within(self, begin: str, end: str) -> Iterator[None]:
        self._connection.execute(begin)
        try:
            yield
            self._connection.execute(end)
        except BaseException:
            self._connection.rollback()
            raise

    def give_back(self) -> None:
        """As promised."""
        if not self._connection.closed:
            self._connection.rollback()
            self._connection.autocommit = False


@lru_cache(maxsize=64)
def _spelled(statement: str) -> str:
    """A statement as psycopg wants it."""
    named = re.sub(r"(?<![:\w]):(\w+)", r"%(\1)s", statement.format(**PostgreSQL.words).replace("%", "%%"))
    return named.replace("?", "%s")


# ------------------------------------------------------------------------------------------ trials


@contextmanager
def rehearsal(engine: Engine) -> Iterator[Engine]:
    """A copy of the list for trying an import on: nameless, on disk, and gone with the end, even of a kill.

    Raises TransferError for a third kind of database.
    """
    trial = {"sqlite": _copied_by_sqlite, "postgresql": _copied_by_postgresql}.get(engine.dialect.name)
    if trial is None:
        raise TransferError(f"expected SQLite or PostgreSQL, found {engine.dialect.name}")
    with trial(engine) as tried:
        yield tried


@contextmanager
def _copied_by_sqlite(engine: Engine) -> Iterator[Engine]:
    with (
        closing(engine.raw_connection()) as connection,
        closing(sqlite3.connect("", isolation_level=None, check_same_thread=False)) as copy,
    ):
        assert isinstance(connection.driver_connection, sqlite3.Connection)
        connection.driver_connection.backup(copy)
        copy.execute("PRAGMA foreign_keys = ON")
        tried = create_engine("sqlite://", creator=lambda: copy, poolclass=StaticPool, hide_parameters=True)
        event.listen(tried, "begin", _begin_sqlite)
        yield tried


_TABLES = ("mailing_list", "subscriber", "subscription", "consent_statement", "consent_event", "suppression")


@contextmanager
def _copied_by_postgresql(engine: Engine) -> Iterator[Engine]:
    """Temporary tables of the same names, which stand before the real ones for the connection that made them.

    Nobody waits for a trial: it takes no lock but on its own tables.
    """
    connection = engine.raw_connection()
    copy: Any = connection.driver_connection
    connection.detach()  # it ends with the trial, and its tables with it
    with closing(copy):
        copy.autocommit = True
        _copy_tables(copy)
        copy.autocommit = False
        tried = create_engine(
            "postgresql+psycopg://",
            creator=lambda: copy,
            poolclass=StaticPool,
            hide_parameters=True,
            execution_options={"newsletter_apart": True},
        )
        event.listen(tried, "begin", _begin_postgresql)
        event.listen(tried, "handle_error", _keep_rows_out)
        yield tried


def _copy_tables(copy: Any) -> None:
    home = (
        "SELECT quote_ident(nspname) FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace WHERE pg_class.oid = "
    )
    schema = copy.execute(f"{home} 'subscriber'::regclass").fetchone()[0]  # no input
    copy.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    for table in _TABLES:
        copy.execute(f"CREATE TEMPORARY TABLE {table} (LIKE {schema}.{table} INCLUDING ALL)")
        copy.execute(f"INSERT INTO pg_temp.{table} SELECT * FROM {schema}.{table}")  # noqa: S608 # our own names
        if table != "suppression":  # its rows have no numbers; the others are numbered apart from the real ones
            copy.execute(f"CREATE TEMPORARY SEQUENCE {table}_trial OWNED BY pg_temp.{table}.id")
            copy.execute(f"ALTER TABLE pg_temp.{table} ALTER id SET DEFAULT nextval('pg_temp.{table}_trial')")
            last = f"SELECT coalesce(max(id), 0) + 1 FROM pg_temp.{table}"  # noqa: S608 # the same
            copy.execute(f"SELECT setval('pg_temp.{table}_trial', ({last}), false)")
    copy.execute("COMMIT")
    for table in _TABLES:
        copy.execute(f"ANALYZE pg_temp.{table}")
