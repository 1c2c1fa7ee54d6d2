"""What can wait gives way to an edition at its slot, and never for long."""

import threading
import time
from datetime import timedelta

from newsletter import corrections, operating, precedence
from newsletter.clock import Clock
from newsletter.precedence import Precedence
from tests.conftest import Desk
from tests.test_clock import REQUIRED, Run, at, corrected, daily, editions


def waiter(of: Precedence, stop: threading.Event | None = None) -> tuple[threading.Thread, threading.Event]:
    """A thread that gives way, and what is set when it has."""
    done = threading.Event()

    def give_way() -> None:
        of.give_way(stop)
        done.set()

    thread = threading.Thread(target=give_way)
    thread.start()
    return thread, done


def test_nobody_waits_for_nothing() -> None:
    _, done = waiter(Precedence())
    assert done.wait(5)


def test_what_can_wait_does_until_the_urgent_is_over() -> None:
    one = Precedence()
    with one.first():
        with one.first():
            pass
        thread, done = waiter(one)
        assert not done.wait(0.3), "another is still urgent"
    thread.join(5)
    assert done.is_set()


def test_an_edition_that_takes_an_hour_holds_up_nobody() -> None:
    one = Precedence()
    one.urgent_s = 0.0
    with one.first():
        _, done = waiter(one)
        assert done.wait(5)


def test_who_is_told_to_stop_does_not_wait() -> None:
    one, stop = Precedence(), threading.Event()
    with one.first():
        _, done = waiter(one, stop)
        stop.set()
        assert done.wait(precedence._LOOK_AGAIN_S + 5)


def test_an_edition_that_fails_at_its_slot_holds_up_nobody_either(desk: Desk) -> None:
    desk.clock.now = at("2026-11-24T05:30")
    newsroom = desk.open()
    desk.people(newsroom, 1)
    desk.brief("harbour")
    clock = Clock(newsroom)
    clock.meet()
    desk.clock.now = at("2026-11-24T06:50")
    clock.meet()
    clock.run_due()
    newsroom.halt("test", None)  # refused at its slot
    desk.clock.now = at("2026-11-24T07:00")
    clock.run_due()
    assert editions(desk) == [("2026-11-24T07:00", "draft")]
    _, done = waiter(newsroom.precedence)
    assert done.wait(5)


def test_a_draft_that_was_missed_is_left_to_those_who_send(desk: Desk) -> None:
    """After a standstill two threads that draft would else be taken by two editions that go out for an hour."""
    desk.clock.now = at("2026-11-24T05:30")
    newsroom = desk.open()
    desk.people(newsroom, 1)
    desk.brief("harbour")
    clock = Clock(newsroom)
    clock.meet()
    desk.clock.now = at("2026-11-24T07:20")
    clock.meet()
    (due,) = clock.due()
    assert due.planned
    clock.attend(due.edition_id, until_drafted=True)
    assert editions(desk) == [("2026-11-24T07:00", "draft")]
    (due,) = clock.due()
    assert not due.planned
    desk.clock.forward(timedelta(seconds=1))
    clock.attend(due.edition_id)
    assert editions(desk) == [("2026-11-24T07:00", "closed")]
    assert len(desk.mails) == 1


def test_a_draft_gives_way(desk: Desk) -> None:
    desk.clock.now = at("2026-11-24T05:30")
    newsroom = desk.open()
    newsroom.precedence.urgent_s = 60.0
    desk.people(newsroom, 1)
    desk.brief("harbour")
    clock = Clock(newsroom)
    clock.meet()
    desk.clock.now = at("2026-11-24T06:50")
    clock.meet()
    with newsroom.precedence.first():
        thread = threading.Thread(target=clock.run_due)
        thread.start()
        while clock.is_idle:
            time.sleep(0.001)
        time.sleep(0.3)
        assert editions(desk) == [("2026-11-24T07:00", "planned")]
    thread.join(20)
    assert editions(desk) == [("2026-11-24T07:00", "draft")]


def test_who_is_pressed_again_and_again_waits_no_longer_than_once() -> None:
    one = Precedence()
    one.urgent_s = 0.2
    over = threading.Event()

    def busy() -> None:
        while not over.is_set():
            with one.first():
                over.wait(0.01)

    busy_ones = [threading.Thread(target=busy) for _ in range(3)]
    for thread in busy_ones:
        thread.start()
    _, done = waiter(one)
    assert done.wait(10)
    over.set()
    for thread in busy_ones:
        thread.join()


def test_what_was_corrected_while_its_start_waited_its_turn_waits_for_approval(desk: Desk) -> None:
    desk.configure(daily(REQUIRED.format("hold")))
    desk.clock.now = at("2026-11-24T05:30")
    newsroom = desk.open()
    desk.people(newsroom, 1)
    desk.brief("harbour")
    clock = Clock(newsroom)
    run = Run(desk, clock)
    run.until("2026-11-24T06:10")
    operating.approve(newsroom, "daily", None, revision=1, actor="operator:me")
    run.until("2026-11-24T06:59")
    desk.clock.now = at("2026-11-24T07:00")
    with clock._starting:
        (due,) = clock.due()
        thread = threading.Thread(target=clock.attend, args=(due.edition_id,))
        thread.start()
        while clock.is_idle:
            time.sleep(0.001)
        time.sleep(0.3)  # it has read that it is approved, and waits
        corrected(desk, "harbour")
        newsroom.collect()
        assert corrections.amend_all(newsroom) == 1
    thread.join(20)
    assert editions(desk) == [("2026-11-24T07:00", "draft")]
    assert desk.mails == []
    operating.approve(newsroom, "daily", None, revision=2, actor="operator:me")
    run.until("2026-11-24T07:01")
    assert editions(desk) == [("2026-11-24T07:00", "closed")]
    assert len(desk.mails) == 1
