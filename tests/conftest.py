"""What many tests share: a newsroom in a folder of its own, with a clock that stands still until it is moved."""

import atexit
import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from sqlalchemy import insert, select
from sqlmodel import Session, col

from newsletter import store
from newsletter.newsroom import Newsroom
from newsletter.settings import DATABASE_VARIABLE, Settings
from subscribers import add_confirmed, ensure_list, parse, transaction
from subscribers.address import Mailbox
from subscribers.db import Table
from subscribers.models import ConsentEvent, Subscriber, Subscription
from subscribers.tokens import new_link
from tests import databases

EXAMPLES = Path(__file__).parent.parent / "examples"
_AMPLE_BYTES = 2 << 30  # a whole run takes a tenth of it
NOW = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)

CONFIGURATION = """\
[site]
name = "Test Desk"
url = "https://news.example.org"
postal_address = "Test Desk, 1 Test Street, 10115 Test"

[provider]
kind = "outbox"
batch_size = 10

[sources.desk]
kind = "folder"
path = "briefs"

[newsletters.daily]
title = "The Test Digest"
from = "The Test Digest <digest@news.example.org>"
lists = ["daily"]
schedule = "0 7 * * *"
"""

BRIEF = """\
{headline}

    {headline}
    Last updated November {day}, 2026

    • Fact one about {headline}.
      [Paper](https://paper.example.org/{slug})
    • Fact two about {headline}.

    Pro-{slug} narrative

    It is good, they say.

    Anti-{slug} narrative

    It is bad, they say.

    Nerd narrative

    There's a 49% chance that it happens, according to the Test forecasting community.

    Political split
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run those, too, that `make faults` begins with")
    parser.addoption("--database", choices=databases.KINDS, default=databases.SQLITE, help="what desks keep all in")


def pytest_configure(config: pytest.Config) -> None:
    databases.Chosen.kind = config.getoption("--database")
    # How long an example takes says how busy the machine is; the profile of CI has no deadline, either.
    settings.register_profile("untimed", settings.get_profile(settings.get_current_profile_name()), deadline=None)
    settings.load_profile("untimed")
    _keep_in_memory()


def _keep_in_memory() -> None:
    """Have temporary files in memory where it is ample: a commit waits for no disk, and a kill needs none to be kept.

    Not where programs may not run from there (PostgreSQL's are copied), nor against a TMPDIR that was chosen.
    """
    memory = Path("/dev/shm")
    if "TMPDIR" in os.environ or not os.access(memory, os.W_OK):
        return
    room = os.statvfs(memory)
    if room.f_bavail * room.f_frsize >= _AMPLE_BYTES and not room.f_flag & os.ST_NOEXEC:
        os.environ["TMPDIR"] = str(memory)  # for processes of the tests, too
        tempfile.tempdir = None  # asked for again


def pytest_collection_finish(session: pytest.Session) -> None:
    """Leave what is there by now out of every later garbage collection: the modules and thousands of tests."""
    del session
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Whatever asks for a desk, or for an engine, is about the database; what is about SQLite itself says why."""
    if not config.getoption("--long"):
        items[:] = [item for item in items if item.get_closest_marker("long") is None]
    for item in items:
        asked = {"desk", "engine"} & set(getattr(item, "fixturenames", ()))
        if asked and item.path.stem not in databases.ON_SQLITE_ALONE:
            item.add_marker("database")
        only = item.get_closest_marker("sqlite")
        if only is not None and databases.Chosen.kind != databases.SQLITE:
            item.add_marker(pytest.mark.skip(reason=f"on SQLite only: {only.args[0]}"))


@pytest.fixture(autouse=True)
def _databases_are_dropped() -> Iterator[None]:
    """A test's databases end with it. (Those of fixtures with a longer life were made before this one began.)"""
    before = len(databases.made)
    yield
    databases.close_all()
    while len(databases.made) > before:
        databases.drop(databases.made.pop())


@cache
def _empty_database() -> Path:
    """A database as a first opening makes it, so that not every test waits for the migrations."""
    folder = Path(tempfile.mkdtemp(prefix="newsletter-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "newsletter.toml").write_text(CONFIGURATION, encoding="utf-8")
    settings = Settings.load(folder / "newsletter.toml", {})
    with Newsroom.open(settings, lambda: NOW) as newsroom, transaction(newsroom.engine) as session:
        store.instance(session).place = None  # it is where each desk has it
    return folder / "newsletter.db"


class Clock:
    """A clock that tells the time it was set to."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def forward(self, span: timedelta) -> None:
        self.now += span


class Desk:
    """A folder with a configuration and briefs, and the newsroom opened on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = Clock()
        self.file = folder / "newsletter.toml"
        (folder / "briefs").mkdir(parents=True, exist_ok=True)
        self.configure()
        self._open: list[Newsroom] = []
        if databases.Chosen.kind == databases.SQLITE:
            self.url = f"sqlite:///{folder / 'newsletter.db'}"
            shutil.copyfile(_empty_database(), folder / "newsletter.db")
        else:
            self._be_at(databases.fresh())

    def _be_at(self, url: str) -> None:
        self.url = url
        self.environ()

    def environ(self, **variables: str) -> None:
        """Write a `.env`, with the database in it where it is not beside the configuration."""
        if not self.url.startswith("sqlite:"):
            variables = {DATABASE_VARIABLE: self.url, **variables}
        lines = "".join(f"{name}={value}\n" for name, value in variables.items())
        (self.folder / ".env").write_text(lines, encoding="utf-8")
        (self.folder / ".env").chmod(0o600)

    def backup(self) -> str:
        """Copy the database, closed, and say where to."""
        if self.url.startswith("sqlite:"):
            return str(shutil.copyfile(self.folder / "newsletter.db", self.folder / "backup"))
        return databases.copied(self.url)

    def restore(self, backup: str) -> None:
        """Put a copy in the place of the database; of this desk's, or of another's."""
        if self.url.startswith("sqlite:"):
            shutil.copyfile(backup, self.folder / "newsletter.db")
        else:
            self._be_at(databases.copied(backup))

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """What the database answers, asked past the program. Values stand for `?`."""
        with self.asking() as ask:
            return ask(query, *values)

    def asking(self) -> AbstractContextManager[Callable[..., list[tuple[Any, ...]]]]:
        """The same, for one query after the other."""
        return databases.asking(self.url)

    def configure(self, change: Callable[[str], str] = lambda text: text) -> None:
        self.file.write_text(change(CONFIGURATION), encoding="utf-8")

    def open(self) -> Newsroom:
        newsroom = Newsroom.open(Settings.load(self.file, {}), self.clock)
        self._open.append(newsroom)
        return newsroom

    def close(self) -> None:
        for newsroom in self._open:
            newsroom.close()

    def brief(self, slug: str, *, day: int = 22, name: str | None = None) -> Path:
        headline = slug.replace("-", " ").capitalize() + " makes the news"
        file = self.folder / "briefs" / (name or f"{slug}.txt")
        file.write_text(BRIEF.format(headline=headline, slug=slug, day=day), encoding="utf-8")
        return file

    def people(self, newsroom: Newsroom, count: int, to: str = "daily") -> None:
        with transaction(newsroom.engine) as session:
            mailing_list = ensure_list(session, to, to, self.clock())
            mailboxes = [parse(f"Reader {number} <reader{number}@example.org>") for number in range(count)]
            # On an empty list one person shows which rows the others come to: a tenth of the time for a thousand.
            nobody = session.execute(select(col(Subscriber.id)).limit(1)).first() is None
            slowly = 1 if nobody else count
            for mailbox in mailboxes[:slowly]:
                add_confirmed(session, mailbox, mailing_list, now=self.clock(), actor="test", evidence="test")
            session.flush()
            _as_the_first(session, mailboxes[slowly:])

    @property
    def mails(self) -> list[Path]:
        return sorted((self.folder / "outbox" / "new").glob("*.eml"))


def _as_the_first(session: Session, mailboxes: list[Mailbox]) -> None:
    """Write for each mailbox what stands in the database for the one person who is there."""
    if not mailboxes:
        return

    def rows_of(table: type[Table]) -> list[dict[str, Any]]:
        return [
            {k: v for k, v in row._mapping.items() if k != "id"} for row in session.execute(select(*_columns(table)))
        ]

    (person,) = rows_of(Subscriber)
    told = [{"address": one.address, "key": one.key, "name": one.name, "link": new_link()} for one in mailboxes]
    session.execute(insert(Subscriber), [{**person, **one} for one in told])
    ids = session.execute(select(col(Subscriber.id)).order_by(col(Subscriber.id)).offset(1)).scalars().all()
    for table in (Subscription, ConsentEvent):
        (row,) = rows_of(table)
        session.execute(insert(table), [{**row, "subscriber_id": number} for number in ids])


def _columns(table: type[Table]) -> list[Any]:
    return list(table.__table__.columns)  # type: ignore[attr-defined] # SQLModel gives it to what is a table


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()
