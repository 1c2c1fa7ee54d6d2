"""Which processes run the clock, and which configuration each goes by; and asking all of them to read it again.

A process puts itself on record when it begins, says every now and then that it still ticks, and looks whether somebody
asked for the configuration to be read again. Whoever asks waits for each that lives to say whether it took it. Rows of
processes that are gone are taken away by the next that begins or is asked after.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlmodel import Session, col, select

from newsletter import store
from newsletter.models import ClockProcess
from newsletter.newsroom import Newsroom
from newsletter.processes import is_gone
from newsletter.settings import Settings
from subscribers import reading, transaction

SEEN_EVERY = timedelta(seconds=20)
"""How often a process says that it still ticks."""

QUIET = timedelta(seconds=60)
"""A process that has said nothing for longer than this hangs, or its machine is gone."""

_FORGOTTEN = timedelta(hours=1)  # after which a silent process of another machine is thought gone
_LOOK_AGAIN = 0.1  # seconds
_LONGEST_FAULT = 500  # as `ClockProcess.fault`


def fingerprint(settings: Settings) -> str:
    """Sixteen characters that are the same for the same configuration. Secrets, and where the database is, left out."""
    told = settings.model_dump_json(exclude={"database": {"url"}})
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def register(newsroom: Newsroom, owner: str) -> None:
    """Put on record that a process begins to run the clock, and which configuration it has read."""
    with transaction(newsroom.engine) as session:
        _bury(session, newsroom.clock())
        _enter(session, newsroom, owner)


def seen(newsroom: Newsroom, owner: str) -> None:
    """Put on record that it still ticks; at most every `SEEN_EVERY`, however often it is said."""
    now = newsroom.clock()
    with reading(newsroom.engine) as session:
        row = session.get(ClockProcess, owner)
    if row is not None and timedelta(0) <= now - row.seen_at < SEEN_EVERY:
        return
    with transaction(newsroom.engine) as session:
        row = session.get(ClockProcess, owner)
        if row is None:  # taken for dead, on another machine
            _enter(session, newsroom, owner)
        else:
            row.seen_at = now


def reload_wanted(newsroom: Newsroom, owner: str) -> datetime | None:
    """When it was asked to read the configuration again, None where it has done so, or nobody asked."""
    with reading(newsroom.engine) as session:
        asked, row = store.instance(session).reload_at, session.get(ClockProcess, owner)
    return asked if asked is not None and (row is None or row.loaded_at < asked) else None


def loaded(newsroom: Newsroom, owner: str, asked: datetime, fault: str | None = None) -> None:
    """Put on record that it read the configuration that it was asked to, with the newsroom that it goes on with.

    `asked` is what `reload_wanted` gave, so that clocks of several machines need not agree. `fault` says why it goes on
    with the configuration before.
    """
    with transaction(newsroom.engine) as session:
        row = session.get(ClockProcess, owner) or _enter(session, newsroom, owner)
        row.loaded_at, row.seen_at = asked, newsroom.clock()
        row.configuration = fingerprint(newsroom.settings)
        row.fault = " ".join(fault.split())[:_LONGEST_FAULT] if fault else None


def left(newsroom: Newsroom, owner: str) -> None:
    """Put on record that a process no longer runs the clock."""
    with transaction(newsroom.engine) as session:
        if (row := session.get(ClockProcess, owner)) is not None:
            session.delete(row)


def _enter(session: Session, newsroom: Newsroom, owner: str) -> ClockProcess:
    now = newsroom.clock()
    row = ClockProcess(
        owner=owner, started_at=now, seen_at=now, loaded_at=now, configuration=fingerprint(newsroom.settings)
    )
    return session.merge(row)


def _bury(session: Session, now: datetime) -> None:
    for row in session.exec(select(ClockProcess)).all():
        if is_gone(row.owner) or now - row.seen_at > _FORGOTTEN:
            session.delete(row)


# ------------------------------------------------------------------------------------------ looking


@dataclass(frozen=True, slots=True)
class ClockAccount:
    """A process that runs the clock. `ticks` is False where it has said nothing for too long."""

    owner: str
    started_at: datetime
    seen_at: datetime
    loaded_at: datetime
    configuration: str
    fault: str | None
    ticks: bool

    @property
    def name(self) -> str:
        """What a person calls it: its machine and process id."""
        machine, _, rest = self.owner.rpartition("/")[0].rpartition("/")
        return f"{machine.partition('/')[0]}, process {rest}"


def clocks(session: Session, now: datetime) -> list[ClockAccount]:
    """The processes that run the clock, longest running first; those that are certainly gone left out."""
    rows = session.exec(select(ClockProcess).order_by(col(ClockProcess.started_at), col(ClockProcess.owner))).all()
    return [
        ClockAccount(
            row.owner,
            row.started_at,
            row.seen_at,
            row.loaded_at,
            row.configuration,
            row.fault,
            now - row.seen_at <= QUIET,
        )
        for row in rows
        if not is_gone(row.owner) and now - row.seen_at <= _FORGOTTEN
    ]


# ------------------------------------------------------------------------------------------ asking


@dataclass(frozen=True, slots=True)
class Answer:
    """What a process made of being asked to read the configuration again. `fault` says why it kept the one before."""

    name: str
    took: bool
    fault: str | None


def reload(newsroom: Newsroom, wait: timedelta, sleep: Callable[[float], None] = time.sleep) -> list[Answer]:
    """Ask every process that runs the clock to read the configuration again, and wait for what each makes of it.

    The newsroom is opened from the configuration as it is now, so that one with a mistake in it asks nobody.
    """
    with transaction(newsroom.engine) as session:
        row = store.instance(session)
        now = newsroom.clock()
        # Later than what was asked before, whatever this machine's clock says: the last word counts.
        row.reload_at = asked = max(now, row.reload_at + timedelta(microseconds=1)) if row.reload_at else now
        _bury(session, now)
    left_to_look = max(int(wait.total_seconds() / _LOOK_AGAIN), 1)
    while True:
        with reading(newsroom.engine) as session:
            found = clocks(session, newsroom.clock())
        left_to_look -= 1
        if left_to_look <= 0 or all(one.loaded_at >= asked for one in found):
            return [_answer(one, asked, fingerprint(newsroom.settings)) for one in found]
        sleep(_LOOK_AGAIN)


def _answer(one: ClockAccount, asked: datetime, expected: str) -> Answer:
    if one.loaded_at < asked:
        silent = "it has not answered yet" if one.ticks else "it says nothing: it hangs, or its machine is gone"
        return Answer(one.name, took=False, fault=silent)
    if one.fault is not None:
        return Answer(one.name, took=False, fault=one.fault)
    if one.configuration != expected:
        return Answer(one.name, took=False, fault="it reads another configuration file than this command")
    return Answer(one.name, took=True, fault=None)
