"""Promises 1, 10, 11, 12: one edition a slot, whoever attends, whatever the clock does. In simulated time."""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from newsletter.clock import Clock
from newsletter.newsroom import Newsroom
from tests.conftest import Desk

MINUTE = timedelta(minutes=1)


def scheduled(text: str) -> Callable[[str], str]:
    """Settings of the daily newsletter, in place of its schedule."""
    return lambda whole: whole.replace('schedule = "0 7 * * *"', text)


def owner(number: int) -> str:
    """A process of another machine, of which nobody can tell whether it is gone."""
    return f"elsewhere/boot.ns/{number}/1"


def editions(desk: Desk) -> list[tuple[str, str]]:
    return [(slot, state) for slot, state in desk.rows("SELECT slot, state FROM edition ORDER BY slot_at")]


def mails(desk: Desk) -> Counter[str]:
    """How many copies went to each address."""
    return Counter(
        to
        for (to,) in desk.rows(
            "SELECT s.address FROM delivery d JOIN subscriber s ON s.id = d.subscriber_id WHERE d.outcome IS NULL"
        )
    )


class Run:
    """Schedulers on one desk, and simulated time that goes from one instant at which something is due to the next."""

    def __init__(self, desk: Desk, *clocks: Clock) -> None:
        self.desk, self.clocks = desk, clocks

    def until(self, end: datetime, *, step: timedelta = timedelta(minutes=10)) -> None:
        while True:
            for clock in self.clocks:
                clock.meet()
                clock.run_due()
                clock.tell()
            if self.desk.clock.now >= end:
                return
            self.desk.clock.now = min(end, self.desk.clock.now + step)


@pytest.fixture
def opened(desk: Desk) -> Iterator[Newsroom]:
    newsroom = desk.open()
    desk.people(newsroom, 3)
    yield newsroom


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_a_slot_gives_one_edition_drafted_before_it_and_sent_at_it(desk: Desk, opened: Newsroom) -> None:
    desk.clock.now = at("2026-11-24T06:00")
    desk.brief("harbour")
    run = Run(desk, Clock(opened))
    run.until(at("2026-11-24T06:50"))
    assert editions(desk) == [("2026-11-24T07:00", "draft")]
    assert not desk.mails
    run.until(at("2026-11-24T06:59"), step=MINUTE)
    assert not desk.mails
    run.until(at("2026-11-24T07:00"), step=MINUTE)
    assert editions(desk) == [("2026-11-24T07:00", "closed")]
    assert len(desk.mails) == 3
    run.until(at("2026-11-24T12:00"))
    assert len(desk.mails) == 3
