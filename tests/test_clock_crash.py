"""Promises 1, 2 and 4 of the clock: a process may die before or after any commit, and clocks may be wrong at any step.

Deaths are played: from one commit on nothing is written any more, whatever the code still tries. Another scheduler, of
another machine, goes on when what the dead one held has run out. The outbox, the desk's post and the rows say what came
of it. tests/test_scheduler.py kills real processes.
"""

import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session

from newsletter import corrections, operating, store
from newsletter.clock import Clock
from newsletter.errors import EditionError
from newsletter.newsroom import Newsroom
from subscribers import transaction
from tests.conftest import Desk
from tests.test_clock import REQUIRED, at, copies, corrected, daily, editions, elsewhere

MINUTE = timedelta(minutes=1)
READERS = 3
SLOT = "2026-11-24T07:00"
STRIDE = 3  # commits from one death to the next: each takes a second, and after the nth is nearly before the one behind
DESK = '\n[desk]\nmail = ["desk@news.example.org"]\n'
LONG = timedelta(minutes=11)  # any lease has run out by then


class Died(BaseException):
    """The process is no more."""


class Fuse:
    """Lets so many commits pass; dies before or after the next, and lets none pass from then on."""

    def __init__(self, passes: int, *, after: bool) -> None:
        self.passes, self.after = passes, after
        self.blown = False

    def before(self, session: Session) -> None:
        if not _writes(session):
            return
        if self.blown or (self.passes == 0 and not self.after):
            self.blown = True
            raise Died
        self.passes -= 1

    def committed(self, session: Session) -> None:
        if self.after and self.passes < 0 and _writes(session):
            self.blown = True
            raise Died

    @contextmanager
    def lit(self) -> Iterator[None]:
        event.listen(Session, "before_commit", self.before)
        event.listen(Session, "after_commit", self.committed)
        try:
            yield
        finally:
            event.remove(Session, "before_commit", self.before)
            event.remove(Session, "after_commit", self.committed)


def _writes(session: Session) -> bool:
    bind = session.get_bind()
    return bool(bind.get_execution_options().get("newsletter_writes"))


def _hurry(connection: sqlite3.Connection, _: object) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")  # no power fails here


def made(folder: Path, settings: str = 'schedule = "0 7 * * *"') -> Desk:
    desk = Desk(folder)
    desk.configure(lambda text: daily(settings)(text) + DESK)
    desk.clock.now = at("2026-11-24T05:30")
    desk.people(opened(desk), READERS)
    desk.brief("harbour")
    return desk


def opened(desk: Desk) -> Newsroom:
    newsroom = desk.open()
    event.listen(newsroom.engine, "connect", _hurry)
    newsroom.engine.dispose()
    return newsroom


Act = Callable[[Desk, Newsroom], None]


def approve(_: Desk, newsroom: Newsroom) -> None:
    with suppress(EditionError):  # it was done before the process died
        operating.approve(newsroom, "daily", SLOT, revision=None, actor="operator:me")


def correct(desk: Desk, newsroom: Newsroom) -> None:
    corrected(desk, "harbour")
    newsroom.collect()
    corrections.amend_all(newsroom)


LIVES: dict[str, tuple[str, list[tuple[str, Act | None]]]] = {
    "auto": ('schedule = "0 7 * * *"', [("05:30", None), ("06:50", None), ("07:00", None)]),
    "approved and corrected": (
        REQUIRED.format("hold"),
        [("05:30", None), ("06:00", None), ("06:10", approve), ("06:30", correct), ("06:45", approve), ("07:00", None)],
    ),
}


def live(desk: Desk, life: list[tuple[str, Act | None]], fuse: Fuse) -> bool:
    """Go through an edition's life, and die once on the way. False where it was over before."""
    newsroom = opened(desk)
    clock = Clock(newsroom, owner=elsewhere(1))
    for when, act in life:
        desk.clock.now = max(at(f"2026-11-24T{when}"), desk.clock.now)
        try:
            with nullcontext() if fuse.blown else fuse.lit():
                step(desk, clock, act)
        except Died:
            newsroom.close()
            desk.clock.now += LONG
            newsroom = opened(desk)
            clock = Clock(newsroom, owner=elsewhere(2))
            step(desk, clock, act)
    for _ in range(12):
        desk.clock.now += 2 * MINUTE
        step(desk, clock, None)
    newsroom.close()
    return fuse.blown


def step(desk: Desk, clock: Clock, act: Act | None) -> None:
    clock.meet()
    clock.run_due()
    if act is not None:
        act(desk, clock.newsroom)
        clock.run_due()
    clock.tell()


def complaints(desk: Desk, revisions: int) -> list[str]:
    """What is not as it should be when a day is over on which each reader gets one copy."""
    found = []
    if editions(desk) != [(SLOT, "closed")]:
        found.append(f"{editions(desk)}: {desk.rows('SELECT reason FROM edition')}")
    each = Counter(copies(desk).values())
    if each != {1: READERS}:
        found.append(f"copies: {copies(desk)}")
    told = Counter(kind for (kind,) in desk.rows("SELECT kind FROM desk_notice"))
    if told != {"proof": revisions, "report": 1}:
        found.append(f"the desk was told {dict(told)}")
    if (tries := desk.rows("SELECT count(*) FROM delivery")) != [(READERS,)]:
        found.append(f"deliveries: {tries}")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.long) for name in LIVES])
def test_a_process_that_dies_at_any_commit_costs_no_reader_a_copy_and_gives_none_two(
    tmp_path: Path, name: str, after: bool
) -> None:
    settings, life = LIVES[name]
    revisions = 1 + sum(act is correct for _, act in life)
    found, passes, died = {}, int(after), True
    while died:
        desk = made(tmp_path / str(passes), settings)
        died = live(desk, life, Fuse(passes, after=after))
        if wrong := complaints(desk, revisions):
            found[passes] = wrong
        desk.close()
        passes += STRIDE
    assert not found
    assert passes > 8, "it died at every step"


# ------------------------------------------------------------------------------------------ clocks that are wrong


@pytest.mark.parametrize("wrong", [-48, -3, 3, 48], ids=lambda hours: f"{hours} h")
@pytest.mark.parametrize("when", range(3))
def test_a_clock_that_is_wrong_for_a_while_at_any_step_sends_nothing_twice_and_loses_no_slot(
    tmp_path: Path, wrong: int, when: int
) -> None:
    desk = made(tmp_path)
    clock = Clock(opened(desk))
    for number, time in enumerate(("05:30", "06:52", "07:00")):
        desk.clock.now = at(f"2026-11-24T{time}")
        step(desk, clock, None)
        if number == when:
            desk.clock.now += timedelta(hours=wrong)
            for _ in range(3):
                step(desk, clock, None)
                desk.clock.now += 5 * MINUTE
            desk.clock.now = at(f"2026-11-24T{time}") + MINUTE
            step(desk, clock, None)
    for day, slug in ((25, "tram"), (26, "bridge"), (27, "canal")):
        desk.brief(slug)
        for time in ("06:52", "07:00", "09:00"):
            desk.clock.now = at(f"2026-11-{day}T{time}")
            step(desk, clock, None)
    ended = dict(editions(desk))
    desk.close()
    assert max(copies(desk).values()) == 1
    assert {f"2026-11-{day}T07:00" for day in (24, 25, 26, 27)} <= ended.keys()
    # A clock that is wrong by days may take the news of one day for another, and hold what it thinks stale.
    assert set(ended.values()) <= {"closed", "held", "skipped"}
    assert abs(wrong) > 3 or set(ended.values()) == {"closed"}


# ------------------------------------------------------------------------------------------ many at once


def test_ten_schedulers_that_race_send_each_edition_once_and_tell_of_it_once(tmp_path: Path) -> None:
    desk = made(tmp_path)
    clocks = [Clock(opened(desk), owner=elsewhere(number)) for number in range(10)]
    faults: list[BaseException] = []

    def race(clock: Clock, start: threading.Barrier) -> None:
        try:
            start.wait(60)
            step(desk, clock, None)
        except BaseException as fault:  # noqa: BLE001 # shown by the test
            faults.append(fault)

    for day, slug in ((24, "harbour"), (25, "tram")):
        desk.brief(slug)
        for time in ("06:50", "07:00", "07:12"):
            desk.clock.now = at(f"2026-11-{day}T{time}")
            start = threading.Barrier(len(clocks))
            threads = [threading.Thread(target=race, args=(clock, start)) for clock in clocks]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    desk.close()
    assert not faults
    assert editions(desk) == [(SLOT, "closed"), ("2026-11-25T07:00", "closed")]
    assert set(copies(desk).values()) == {1}
    assert len(desk.mails) == 2 * READERS
    assert Counter(kind for (kind,) in desk.rows("SELECT kind FROM desk_notice")) == {"proof": 2, "report": 2}


@pytest.mark.sqlite("its locks, for which whoever waits is passed over")
def test_the_threads_of_a_process_write_in_turn_and_never_find_the_file_locked(tmp_path: Path) -> None:
    desk = made(tmp_path)
    newsroom = desk.open()
    event.listen(newsroom.engine, "connect", lambda connection, _: connection.execute("PRAGMA busy_timeout = 0"))
    newsroom.engine.dispose()
    faults: list[BaseException] = []

    def write() -> None:
        try:
            for _ in range(20):
                with transaction(newsroom.engine) as session:
                    store.act(session, "test", now=desk.clock.now, actor="test")
        except BaseException as fault:  # noqa: BLE001 # shown by the test
            faults.append(fault)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    desk.close()
    assert not faults
    assert desk.rows("SELECT count(*) FROM operator_act WHERE act = 'test'") == [(160,)]
