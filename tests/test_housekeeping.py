"""Chores are done when they are due, by one process where that is asked, and a failing one holds up no other."""

import logging
import os
import signal
import subprocess
import sys
import threading
from datetime import datetime, timedelta

import pytest
from sqlmodel import select

from newsletter import housekeeping
from newsletter.errors import ConfigurationError
from newsletter.housekeeping import Came, Duty, Housekeeping, duties
from newsletter.models import Chore
from newsletter.newsroom import Newsroom
from newsletter.processes import this_process
from newsletter.settings import Settings
from subscribers import reading, transaction
from tests.conftest import NOW, Desk

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


class Scripted:
    """A chore that does what it is told, and counts."""

    def __init__(self, name: str = "scripted", every: timedelta = MINUTE, lease: timedelta | None = None) -> None:
        self.runs = 0
        self.error: Exception | None = None
        self.said: str | None = "done"
        self.duty = Duty(name, every, self._do, lease)

    def _do(self, newsroom: Newsroom, stop: threading.Event) -> Came:
        self.runs += 1
        if self.error is not None:
            raise self.error
        return Came(self.said)


@pytest.fixture
def chores(monkeypatch: pytest.MonkeyPatch) -> list[Duty]:
    """The chores that there are, in place of the ordinary ones."""
    made: list[Duty] = []
    monkeypatch.setattr(housekeeping, "duties", lambda newsroom: list(made))
    return made


def row(newsroom: Newsroom, name: str = "scripted") -> Chore:
    with reading(newsroom.engine) as session:
        return session.get_one(Chore, name)


# ------------------------------------------------------------------------------------------ when


def test_a_chore_is_done_when_it_is_due_and_what_it_came_to_is_on_record(desk: Desk, chores: list[Duty]) -> None:
    one = Scripted()
    chores.append(one.duty)
    newsroom = desk.open()
    keeping = Housekeeping(newsroom, this_process())
    assert [ran.said for ran in keeping.run_due()] == ["done"]
    assert keeping.run_due() == []
    assert keeping.next_due(desk.clock()) == NOW + MINUTE
    desk.clock.forward(MINUTE)
    keeping.run_due()
    assert one.runs == 2
    assert (row(newsroom).said, row(newsroom).succeeded_at, row(newsroom).failures) == ("done", NOW + MINUTE, 0)


def test_only_what_is_named_is_done(desk: Desk, chores: list[Duty]) -> None:
    one, other = Scripted("one"), Scripted("other")
    chores.extend([one.duty, other.duty])
    Housekeeping(desk.open(), this_process()).run_due({"other"})
    assert (one.runs, other.runs) == (0, 1)


@pytest.mark.parametrize("lease", [None, HOUR])
def test_a_clock_that_is_put_back_stops_no_chore(desk: Desk, chores: list[Duty], lease: timedelta | None) -> None:
    one = Scripted(lease=lease)
    chores.append(one.duty)
    keeping = Housekeeping(desk.open(), this_process())
    keeping.run_due()
    desk.clock.forward(-timedelta(days=1))
    keeping.run_due()
    assert one.runs == 2


def test_a_configuration_that_asks_for_more_is_heeded_at_once(desk: Desk, chores: list[Duty]) -> None:
    newsroom = desk.open()
    chores.append(Scripted(every=timedelta(days=1), lease=HOUR).duty)
    Housekeeping(newsroom, this_process()).run_due()
    often = Scripted(every=MINUTE, lease=HOUR)
    chores[:] = [often.duty]
    desk.clock.forward(2 * MINUTE)
    Housekeeping(newsroom, this_process()).run_due()
    assert often.runs == 1


def test_what_another_process_has_just_done_is_not_done_again(desk: Desk, chores: list[Duty]) -> None:
    one = Scripted(every=HOUR)
    chores.append(one.duty)
    newsroom = desk.open()
    for _ in range(3):
        Housekeeping(newsroom, this_process()).run_due()
    assert one.runs == 1


@pytest.mark.sqlite("counts what is written to its journal")
def test_where_nothing_comes_of_a_chore_it_is_written_once_a_minute_whoever_does_it(
    desk: Desk, chores: list[Duty]
) -> None:
    one = Scripted(every=timedelta(seconds=2))
    one.said = None
    chores.append(one.duty)
    newsroom = desk.open()
    keepers = [Housekeeping(newsroom, this_process()) for _ in range(5)]
    written: list[datetime] = []
    for _ in range(120):  # four minutes
        before = row(newsroom).succeeded_at if written else None
        for keeping in keepers:
            keeping.run_due()
        if row(newsroom).succeeded_at != before:
            written.append(desk.clock.now)
        desk.clock.forward(timedelta(seconds=2))
    assert one.runs > 300
    assert len(written) == 4


# ------------------------------------------------------------------------------------------ faults


def test_a_chore_that_fails_is_left_alone_for_longer_each_time_up_to_an_hour(desk: Desk, chores: list[Duty]) -> None:
    one = Scripted()
    one.error = ConfigurationError("the key is missing")
    chores.append(one.duty)
    newsroom = desk.open()
    keeping = Housekeeping(newsroom, this_process())
    waits = []
    for _ in range(9):
        (ran,) = keeping.run_due()
        assert (ran.ok, ran.said) == (False, "the key is missing")
        wait = keeping.next_due(desk.clock()) - desk.clock()
        waits.append(wait / MINUTE)
        desk.clock.forward(wait - timedelta(seconds=1))
        assert keeping.run_due() == []
        desk.clock.forward(timedelta(seconds=1))
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert row(newsroom).failures == 9
    one.error = None
    keeping.run_due()
    assert (row(newsroom).failures, row(newsroom).said) == (0, "done")
    assert keeping.next_due(desk.clock()) - desk.clock() == MINUTE


def test_processes_that_fail_at_an_exclusive_chore_one_after_the_other_leave_it_alone_together(
    desk: Desk, chores: list[Duty]
) -> None:
    one = Scripted(lease=HOUR)
    one.error = ConfigurationError("no")
    chores.append(one.duty)
    newsroom = desk.open()
    for failures, wait in enumerate((1, 2, 4), start=1):
        assert len(Housekeeping(newsroom, this_process()).run_due()) == 1
        assert Housekeeping(newsroom, this_process()).run_due() == []
        assert row(newsroom).failures == failures
        desk.clock.forward(wait * MINUTE)


def test_a_daily_chore_that_fails_is_tried_again_a_day_later(desk: Desk, chores: list[Duty]) -> None:
    one = Scripted(every=timedelta(days=1), lease=HOUR)
    one.error = ConfigurationError("no")
    chores.append(one.duty)
    keeping = Housekeeping(desk.open(), this_process())
    for _ in range(3):
        keeping.run_due()
        assert keeping.next_due(desk.clock()) - desk.clock() == timedelta(days=1)
        desk.clock.forward(timedelta(days=1))


def test_one_failing_chore_keeps_no_other_from_being_done(
    desk: Desk, chores: list[Duty], caplog: pytest.LogCaptureFixture
) -> None:
    broken, refused, fine = Scripted("broken"), Scripted("refused"), Scripted("fine")
    broken.error, refused.error = KeyError("reader0@example.org"), ConfigurationError("the key is missing")
    chores.extend([broken.duty, refused.duty, fine.duty])
    newsroom = desk.open()
    keeping = Housekeeping(newsroom, this_process())
    with caplog.at_level(logging.WARNING):
        assert [ran.ok for ran in keeping.run_due()] == [False, False, True]
        desk.clock.forward(HOUR)
        keeping.run_due()
        broken.error = None
        desk.clock.forward(HOUR)
        keeping.run_due()
    told = [(record.message.partition(":")[0], record.exc_info is not None) for record in caplog.records]
    assert told.count(("housekeeping.broken", True)) == 1, "a traceback once, and no loop of them"
    assert told.count(("housekeeping.failed", False)) == 1 + 3
    assert told.count(("housekeeping.mended", False)) == 1
    said = [one.message for one in caplog.records if not one.exc_info]
    assert "housekeeping.failed: refused: the key is missing" in said
    with reading(newsroom.engine) as session:
        assert not any("@" in (chore.said or "") for chore in session.exec(select(Chore)))


def test_a_database_that_cannot_be_had_is_one_line_and_a_rest(
    desk: Desk, chores: list[Duty], caplog: pytest.LogCaptureFixture
) -> None:
    one = Scripted()
    chores.append(one.duty)
    newsroom = desk.open()
    keeping = Housekeeping(newsroom, this_process())
    desk.rows("ALTER TABLE chore RENAME TO elsewhere")
    for _ in range(3):
        assert keeping.run_due() == []
    assert [record.exc_info for record in caplog.records] == [None]
    assert keeping.next_due(desk.clock()) > desk.clock()
    desk.rows("ALTER TABLE elsewhere RENAME TO chore")
    desk.clock.forward(timedelta(seconds=5))
    assert len(keeping.run_due()) == 1


def test_what_could_not_be_recorded_is_recorded_before_the_chore_is_done_again(
    desk: Desk, chores: list[Duty], monkeypatch: pytest.MonkeyPatch
) -> None:
    newsroom = desk.open()

    def hide(_: Newsroom, stop: threading.Event) -> Came:
        desk.rows("ALTER TABLE chore RENAME TO elsewhere")
        return Came("done")

    chores.append(Duty("scripted", MINUTE, hide, lease=HOUR))
    keeping = Housekeeping(newsroom, this_process())
    keeping.run_due()
    desk.rows("ALTER TABLE elsewhere RENAME TO chore")
    assert row(newsroom).owner == this_process()
    desk.clock.forward(timedelta(seconds=5))
    assert keeping.run_due() == [], "it is not due, and no longer claimed"
    assert (row(newsroom).owner, row(newsroom).said) == (None, "done")


# ------------------------------------------------------------------------------------------ one of many


def test_ten_threads_do_an_exclusive_chore_once(desk: Desk, chores: list[Duty]) -> None:
    at_it, most, lock = [0], [0], threading.Lock()
    barrier = threading.Barrier(10)

    def do(_: Newsroom, stop: threading.Event) -> Came:
        with lock:
            at_it[0] += 1
            most[0] += 1
        return Came("done")

    chores.append(Duty("scripted", HOUR, do, lease=HOUR))
    newsroom = desk.open()
    keepers = [Housekeeping(newsroom, this_process()) for _ in range(10)]

    def race(keeping: Housekeeping) -> None:
        barrier.wait()
        keeping.run_due()

    for hours in (1, 2, 3):
        threads = [threading.Thread(target=race, args=(keeping,)) for keeping in keepers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert at_it[0] == hours
        desk.clock.forward(HOUR)


def test_threads_of_one_process_do_each_chore_once_at_a_time(desk: Desk, chores: list[Duty]) -> None:
    begun, go_on = threading.Event(), threading.Event()
    runs = []

    def slow(_: Newsroom, stop: threading.Event) -> Came:
        runs.append(1)
        begun.set()
        go_on.wait(10)
        return Came("done")

    quick = Scripted("quick")
    chores.extend([Duty("slow", MINUTE, slow), quick.duty])
    keeping = Housekeeping(desk.open(), this_process())
    thread = threading.Thread(target=keeping.run_due, args=({"slow"},))
    thread.start()
    begun.wait(10)
    assert [ran.name for ran in keeping.run_due()] == ["quick"]
    go_on.set()
    thread.join()
    assert len(runs) == 1


_DIES = """
import sys, time
from pathlib import Path
from newsletter import housekeeping
from newsletter.housekeeping import Came, Duty, Housekeeping
from newsletter.newsroom import Newsroom
from newsletter.processes import this_process
from newsletter.settings import Settings

def hang(newsroom, stop):
    print("at it", flush=True)
    time.sleep(60)
    return Came("never")

housekeeping.duties = lambda newsroom: [Duty("scripted", __import__("datetime").timedelta(minutes=1), hang,
                                             __import__("datetime").timedelta(hours=1))]
with Newsroom.open(Settings.load(Path(sys.argv[1]), {})) as newsroom:
    Housekeeping(newsroom, this_process()).run_due()
"""


def test_the_claim_of_a_process_that_was_killed_is_taken_over_at_once(
    desk: Desk, chores: list[Duty], caplog: pytest.LogCaptureFixture
) -> None:
    one = Scripted(lease=HOUR)
    chores.append(one.duty)
    newsroom = Newsroom.open(Settings.load(desk.file, {}))  # by the clock on the wall, as the other process has it
    with subprocess.Popen([sys.executable, "-c", _DIES, str(desk.file)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"at it\n"
        keeping = Housekeeping(newsroom, this_process())
        assert keeping.run_due() == [], "its owner lives"
        os.kill(process.pid, signal.SIGKILL)
    assert [ran.said for ran in keeping.run_due()] == ["done"]
    assert row(newsroom).owner is None
    assert "taken_over" in caplog.text
    newsroom.close()


def test_a_claim_of_another_machine_is_taken_over_when_its_lease_ends_and_not_before(
    desk: Desk, chores: list[Duty]
) -> None:
    one = Scripted(lease=HOUR)
    chores.append(one.duty)
    newsroom = desk.open()
    with transaction(newsroom.engine) as session:
        until = NOW + HOUR
        far = "far/0a1b2c3d.1/17/99"
        session.add(Chore(name="scripted", due_at=NOW, owner=far, began_at=NOW, lease_until=until))
    keeping = Housekeeping(newsroom, this_process())
    desk.clock.forward(HOUR - timedelta(seconds=1))
    assert keeping.run_due() == []
    desk.clock.forward(timedelta(seconds=1))
    assert len(keeping.run_due()) == 1


def test_whoever_lost_a_chore_to_another_does_not_speak_for_it(desk: Desk, chores: list[Duty]) -> None:
    newsroom = desk.open()

    def lose(_: Newsroom, stop: threading.Event) -> Came:
        with transaction(newsroom.engine) as session:
            claimed = session.get_one(Chore, "scripted")
            claimed.owner, claimed.began_at = "far/0a1b2c3d.1/17/99", NOW + HOUR
        return Came("late")

    chores.append(Duty("scripted", MINUTE, lose, lease=HOUR))
    Housekeeping(newsroom, this_process()).run_due()
    assert (row(newsroom).owner, row(newsroom).said) == ("far/0a1b2c3d.1/17/99", None)


def test_what_the_end_of_its_process_cut_off_is_due_at_once_and_nothing_else_is_begun(
    desk: Desk, chores: list[Duty]
) -> None:
    stop = threading.Event()

    def cut_off(_: Newsroom, event: threading.Event) -> Came:
        stop.set()
        return Came("half", cut_off=event.is_set())

    after = Scripted("after")
    chores.extend([Duty("scripted", HOUR, cut_off, lease=HOUR), after.duty])
    newsroom = desk.open()
    Housekeeping(newsroom, this_process(), stop).run_due()
    assert after.runs == 0
    found = row(newsroom)
    assert (found.owner, found.due_at, found.succeeded_at, found.said) == (None, NOW, None, "cut off")


# ------------------------------------------------------------------------------------------ the ordinary ones


def test_an_ordinary_desk_has_all_its_chores_done(desk: Desk) -> None:
    desk.brief("one")
    newsroom = desk.open()
    ran = {one.name: one for one in Housekeeping(newsroom, this_process()).run_due()}
    assert set(ran) == {duty.name for duty in duties(newsroom)}
    assert all(one.ok for one in ran.values())
    assert ran["collect"].said == "1 source read, 1 new brief, 0 revised"


def test_old_rows_of_the_desk_and_of_chores_that_are_no_more_go(desk: Desk) -> None:
    newsroom = desk.open()
    with transaction(newsroom.engine) as session:
        session.add(Chore(name="of-another-version", due_at=NOW, began_at=NOW))
    desk.rows("INSERT INTO alarm (key, what, since, over_at) VALUES ('a', 'over', ?, ?)", _text(), _text())
    desk.rows("INSERT INTO alarm (key, what, since) VALUES ('b', 'still so', ?)", _text())
    desk.clock.forward(timedelta(days=29))
    housekeeping.purge_all(newsroom)
    assert desk.rows("SELECT count(*) FROM alarm") == [(2,)]
    desk.clock.forward(timedelta(days=2))
    housekeeping.purge_all(newsroom)
    assert desk.rows("SELECT key FROM alarm") == [("b",)]
    assert desk.rows("SELECT count(*) FROM chore") == [(0,)]


def _text() -> str:
    return NOW.strftime("%Y-%m-%d %H:%M:%S.000000")


@pytest.mark.sqlite("damages its file")
def test_a_damaged_database_is_told(desk: Desk) -> None:
    newsroom = desk.open()
    ((page,),) = desk.rows("SELECT rootpage FROM sqlite_master WHERE name = 'ix_notice_state_due_at'")
    ((size,),) = desk.rows("PRAGMA page_size")
    desk.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    newsroom.engine.dispose()
    with (desk.folder / "newsletter.db").open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    check = next(duty for duty in duties(newsroom) if duty.name == "check")
    with pytest.raises(ConfigurationError, match="malformed"):
        check.do(newsroom, threading.Event())
