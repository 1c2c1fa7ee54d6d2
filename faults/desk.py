"""A news desk in a folder, with thousands of people on its list: made once, copied for every trial.

People are imported and suppressed by the program's own commands. What the database says in the end is read past the
program, in plain SQL.
"""

import os
import shutil
import sqlite3
import subprocess
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import urlsplit

from faults.judging import Books
from faults.nursery import ROOT
from faults.servers import REFUSED

SQLITE, POSTGRESQL = "sqlite", "postgresql"
_SUPPRESSED, _REFUSED = 100, 500  # one in so many of the people
_WORDS = {"done": "accepted", "unknown": "unknown", "cancelled": "cancelled"}

_CONFIGURATION = """\
[site]
name = "Faults Desk"
url = "https://news.example.org"
postal_address = "Faults Desk, 1 Fault Street, 10115 Test"

[database]
{database}

[provider]
{provider}

[dispatch]
calls = 4
patience = 1000
{dispatch}

[templates]
path = "templates"

[sources.desk]
kind = "folder"
path = "briefs"

[newsletters.daily]
title = "The Faults Digest"
from = "The Faults Digest <digest@news.example.org>"
lists = ["daily"]
schedule = "0 0 * * *"
stale_after = "72h"
"""
_TEMPLATES = {
    "subject.txt.j2": "{{ newsletter.title }}\n",
    "body.txt.j2": "{{ briefs[0].headline }}\n\nUnsubscribe: {{ fields.leave_url }}\n\n{{ postal_address }}\n",
    "body.mjml.j2": (
        "<mjml><mj-head><mj-title>{{ newsletter.title }}</mj-title></mj-head><mj-body><mj-section><mj-column>"
        '<mj-text>{{ briefs[0].headline }} for {{ fields.name }}. <a href="{{ fields.leave_url }}">Unsubscribe</a> '
        "{{ postal_address }}</mj-text></mj-column></mj-section></mj-body></mjml>\n"
    ),
}
"""A small digest: it is the protocol that is on trial, and most of a large one would be copying."""
_BRIEF = """\
Harbour makes the news

    Harbour makes the news
    Last updated November 22, 2026

    • Fact one about the harbour.
      [Paper](https://paper.example.org/harbour)
    • Fact two about the harbour.

    Pro-harbour narrative

    It is good, they say.

    Anti-harbour narrative

    It is bad, they say.

    Political split
"""


@dataclass(frozen=True)
class People:
    """Who is on the list: everybody, and who of them is suppressed."""

    everybody: tuple[str, ...]
    suppressed: frozenset[str]

    @classmethod
    def of(cls, count: int) -> "People":
        """So many, of whom one in a hundred is suppressed and one in five hundred refused by servers."""
        everybody = tuple(
            f"{REFUSED if n % _REFUSED == _REFUSED // 2 else 'reader'}{n}@example.org" for n in range(count)
        )
        return cls(everybody, frozenset(everybody[::-_SUPPRESSED]))


@dataclass(frozen=True)
class Original:
    """The database that trials are copies of. `place` is a file, or a database on a PostgreSQL server."""

    kind: str
    place: str
    instance: str
    people: People

    def copied(self, folder: Path) -> str:
        """A copy for a trial; its URL."""
        if self.kind == SQLITE:
            return f"sqlite:///{shutil.copyfile(self.place, folder / 'newsletter.db')}"
        name = f"faults_{token_hex(6)}"
        with _server(self.place) as execute:
            execute(f"CREATE DATABASE {name} TEMPLATE {urlsplit(self.place).path[1:]}")
        return _beside(self.place, name)

    def drop(self, url: str) -> None:
        """Take a copy away that has a server of its own to stand on."""
        if self.kind == POSTGRESQL:
            with _server(self.place) as execute:
                execute(f"DROP DATABASE IF EXISTS {urlsplit(url).path[1:]} WITH (FORCE)")


def write(folder: Path, *, database: str, provider: str, dispatch: str = "", url: str | None = None) -> Path:
    """A desk's files; gives its configuration. `database`, `provider` and `dispatch` are lines of their tables."""
    (folder / "briefs").mkdir(parents=True, exist_ok=True)
    (folder / "briefs" / "harbour.txt").write_text(_BRIEF, encoding="utf-8")
    (folder / "templates" / "digest").mkdir(parents=True, exist_ok=True)
    for name, text in _TEMPLATES.items():
        (folder / "templates" / "digest" / name).write_text(text, encoding="utf-8")
    config = folder / "newsletter.toml"
    config.write_text(_CONFIGURATION.format(database=database, provider=provider, dispatch=dispatch), encoding="utf-8")
    secrets = "SENDGRID_API_KEY=SG.faults\n" + (f"NEWSLETTER_DATABASE_URL={url}\n" if url else "")
    (folder / ".env").write_text(secrets, encoding="utf-8")
    (folder / ".env").chmod(0o600)
    return config


def make(folder: Path, kind: str, count: int, server: str | None) -> Original:
    """Make the database that trials are copies of, with so many people; on `server` where it is PostgreSQL."""
    folder.mkdir(parents=True)
    people = People.of(count)
    url = None
    if kind == POSTGRESQL:
        assert server is not None
        with _server(server) as execute:
            execute("CREATE DATABASE faults_original TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C.UTF-8'")
        url = _beside(server, "faults_original")
    config = write(folder, database="", provider='kind = "outbox"', url=url)
    listed, never = folder / "people.csv", folder / "never.csv"
    listed.write_text("email,name\n" + "".join(f"{one},Reader\n" for one in people.everybody), encoding="utf-8")
    never.write_text("email\n" + "".join(f"{one}\n" for one in sorted(people.suppressed)), encoding="utf-8")
    if kind == POSTGRESQL:
        command("db", "upgrade", config=config)
    command("subscribers", "import", str(listed), "--confirmed", "--evidence", "faults", config=config)
    command("subscribers", "import", str(never), "--suppressions", config=config)
    place = url or str(folder / "newsletter.db")
    with asking(url or f"sqlite:///{place}") as ask:
        ((instance,),) = ask("SELECT instance_id FROM instance")
        if url is None:
            ask("PRAGMA wal_checkpoint(TRUNCATE)")
    return Original(kind, place, instance, people)


def command(*arguments: str, config: Path, seconds: float = 120) -> str:
    """Run the plain command to its end, as an operator does; what it printed. Raises CalledProcessError."""
    told = [sys.executable, "-m", "newsletter", *arguments, "--config", str(config)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(told, capture_output=True, text=True, timeout=seconds, check=False, env=environ, cwd=ROOT)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, told, done.stdout, done.stderr)
    return done.stdout


# ---------------------------------------------------------------------------------------------- past the program


@contextmanager
def asking(url: str) -> Iterator[Callable[[str], list[tuple[Any, ...]]]]:
    """What a database answers to a query."""
    if url.startswith("sqlite:"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=20, isolation_level=None)) as file:
            yield lambda query: file.execute(query).fetchall()
        return
    with _server(url) as execute:
        yield execute


@contextmanager
def _server(url: str) -> Iterator[Callable[[str], list[tuple[Any, ...]]]]:
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:

        def execute(query: str) -> list[tuple[Any, ...]]:
            cursor = connection.execute(query.encode())
            return cursor.fetchall() if cursor.description else []

        yield execute


def _beside(url: str, name: str) -> str:
    parts = urlsplit(url)
    return f"postgresql://{parts.netloc}/{name}" + (f"?{parts.query}" if parts.query else "")


def state_of(url: str) -> tuple[str, str | None] | None:
    """The state of the edition, and why; None where there is none yet."""
    with asking(url) as ask:
        rows = ask("SELECT state, reason FROM edition")
    return (rows[0][0], rows[0][1]) if rows else None


def books(url: str, number: int | None = None) -> Books:
    """What the database says of an edition, by its row number; of the only one, where none is told."""
    only = "" if number is None else f" WHERE id = {number}"
    with asking(url) as ask:
        ((edition, state, candidates),) = ask(f"SELECT id, state, candidates FROM edition{only}")
        batches = ask(f"SELECT id, state, first_id, last_id FROM batch WHERE edition_id = {edition}")
        deliveries = ask(
            "SELECT d.id, d.batch_id, d.outcome, s.address FROM delivery d JOIN subscriber s ON s.id = d.subscriber_id "
            f"WHERE d.edition_id = {edition} ORDER BY d.id"
        )
    states = {number: word for number, word, _, _ in batches}
    ranges = sorted((first, last, word) for _, word, first, last in batches if first is not None)
    starts = [first for first, _, _ in ranges]
    words: dict[str, str] = {}
    for row, batch, outcome, address in deliveries:
        word = states.get(batch)
        if batch is None:
            at = bisect_right(starts, row) - 1
            word = ranges[at][2] if at >= 0 and row <= ranges[at][1] else None
        words[address] = outcome or _WORDS.get(word or "", "waiting")
    return Books(state, candidates or 0, words)


def today() -> str:
    """The slot of a run of the harness: the latest midnight, the same for all its trials."""
    return datetime.now(UTC).strftime("%Y-%m-%dT00:00")
