"""Promises 1 and 10 over a whole year: each slot of awkward schedules in awkward zones has one edition, at its time.

The slots are reckoned here, day by day with zoneinfo alone. Around each change of a zone's clock, the clock is driven
as the scheduler drives it, from one instant at which something is due to the next, and there is news: editions are
drafted, frozen and dispatched. In between somebody looks every few days, as after a standstill, and there is no news:
so a year takes seconds.
"""

import sqlite3
from collections.abc import Collection
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import event, update
from sqlmodel import col

from newsletter import docket
from newsletter.clock import Clock
from newsletter.models import EditionRecord, EditionState
from scheduler import SlotTrigger
from subscribers import reading, transaction
from tests.conftest import Desk

ZONES = (
    "America/New_York",
    "America/Santiago",  # its clock changes at midnight
    "Africa/Cairo",  # the same, and in April and October
    "Australia/Lord_Howe",  # by half an hour
    "Asia/Kathmandu",  # never; at a quarter past the hours of others
    "Africa/Casablanca",  # for Ramadan
)
CRONS = {
    "weekdays": ("0 7 * * 1-5", time(7)),
    "early": ("30 1 * * *", time(1, 30)),
    "gap": ("30 2 * * *", time(2, 30)),
    "midnight": ("0 0 * * *", time(0)),
}
YEAR = [date(2026, 1, 1) + timedelta(days=number) for number in range(365)]
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
READERS = 2


def named(what: str, zone: str) -> str:
    return f"{zone.partition('/')[2].lower().replace('_', '-')}-{what}"


def reckoned() -> dict[tuple[str, str], datetime]:
    """Every slot of the year by newsletter and local time, and its instant: when the clock first shows it.

    Where it never does, when it would have, left alone.
    """
    return {
        (named(cron, zone), f"{day}T{at:%H:%M}"): datetime.combine(day, at, ZoneInfo(zone)).astimezone(UTC)
        for day in YEAR
        for zone in ZONES
        for cron, (_, at) in CRONS.items()
        if cron != "weekdays" or day.isoweekday() <= 5
    }


@cache
def changes(zone: str) -> tuple[date, ...]:
    """The days of the year on which a zone's clock is changed."""
    hours = [datetime(2026, 1, 1, tzinfo=UTC) + number * HOUR for number in range(365 * 24)]
    shown = [hour.astimezone(ZoneInfo(zone)) for hour in hours]
    return tuple(b.date() for a, b in pairwise(shown) if a.utcoffset() != b.utcoffset())


def is_near_a_change(day: date, zone: str) -> bool:
    return any(abs(day - change) <= DAY for change in changes(zone))


def configured(whole: str) -> str:
    """The desk's configuration with a source a zone, and four newsletters on each."""
    made = whole.partition("[sources.desk]")[0]
    for zone in ZONES:
        source = named("news", zone)
        made += f'[sources.{source}]\nkind = "folder"\npath = "{source}"\n'
        for cron, (expression, _) in CRONS.items():
            made += (
                f'[newsletters.{named(cron, zone)}]\ntitle = "{cron}"\nfrom = "D <d@news.example.org>"\n'
                f'lists = ["daily"]\nsources = ["{source}"]\nschedule = "{expression}"\nzone = "{zone}"\n'
                f'lead = "{"20m" if cron == "gap" else "0s"}"\n'
            )
    return made


class Year:
    """A newsroom of 24 newsletters, and how the scheduler goes through its time."""

    def __init__(self, desk: Desk) -> None:
        desk.configure(configured)
        for zone in ZONES:
            (desk.folder / named("news", zone)).mkdir()
        self.desk, self.newsroom = desk, desk.open()
        event.listen(self.newsroom.engine, "connect", _hurry)
        self.newsroom.engine.dispose()
        desk.people(self.newsroom, READERS)
        self.clock = Clock(self.newsroom)
        self.clock.meet()  # from now on, it minds them
        newsletters = self.newsroom.settings.newsletters
        self.triggers = {name: SlotTrigger(newsletter) for name, newsletter in newsletters.items()}

    def stand_until(self, end: datetime) -> None:
        """Nobody looks until then, and what was missed is no news any more."""
        self.desk.clock.now = end
        self.clock.meet()
        with transaction(self.newsroom.engine) as session:
            session.execute(
                update(EditionRecord)
                .where(col(EditionRecord.state) == EditionState.PLANNED, col(EditionRecord.slot_at) <= end)
                .values(state=EditionState.SKIPPED, reason="no news", next_at=None, told=EditionState.SKIPPED)
            )

    def run_until(self, end: datetime, zones: Collection[str]) -> None:
        """From one instant at which something of some zones is due to the next."""
        names = [named(cron, zone) for zone in zones for cron in CRONS]
        while True:
            now = self.desk.clock.now
            fires = {name: self.triggers[name].get_next_fire_time(None, now - SECOND) for name in names}
            self.clock.meet([name for name, at in fires.items() if at == now])
            self.clock.run_due()
            after = [
                self.triggers[name].get_next_fire_time(None, now) if at == now else at for name, at in fires.items()
            ]
            with reading(self.newsroom.engine) as session:
                due = docket.next_at(session)
            at = min(one for one in (due, *after) if one is not None)
            if at > end:
                break
            self.desk.clock.now = max(at, now)
        self.desk.clock.now = end

    def publish(self, zone: str, day: date) -> None:
        file = self.desk.brief(f"{named('news', zone)}-{day}")
        file.rename(self.desk.folder / named("news", zone) / file.name)


def _hurry(connection: sqlite3.Connection, _: object) -> None:
    connection.execute("PRAGMA synchronous = OFF")  # no power fails here


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.sqlite("time; what both databases make of a slot, tests/test_clock.py asks")
def test_each_slot_of_a_year_has_one_edition_at_its_time(desk: Desk) -> None:
    expected = reckoned()
    desk.clock.now = datetime(2025, 12, 31, 9, tzinfo=UTC)  # no zone is in the year yet
    year = Year(desk)
    driven: set[str] = set()
    for day in [YEAR[0] - DAY, *YEAR, YEAR[-1] + DAY]:
        quiet = datetime.combine(day, time(12, 30), UTC)  # no zone has a slot near it; the next are of the day after
        near = {zone for zone in ZONES if is_near_a_change(day + DAY, zone)}
        if near - driven or day.day % 5 == 1 or day not in YEAR:
            year.stand_until(quiet)
        for zone in near:
            year.publish(zone, day)
        if near:
            year.run_until(quiet + DAY, near)
        driven = near
    rows = desk.rows("SELECT newsletter, slot, slot_at, state, frozen_at FROM edition WHERE slot LIKE '2026%'")
    assert len(rows) == len(expected), "none is missed, none is there twice"
    assert {(name, slot): read(at) for name, slot, at, *_ in rows} == expected
    late = [
        (name, slot, state, frozen_at)
        for name, slot, at, state, frozen_at in rows
        for zone in ZONES
        if name in {named(cron, zone) for cron in CRONS} and is_near_a_change(date.fromisoformat(slot[:10]), zone)
        if (state, frozen_at) != ("closed", at)
    ]
    assert not late, "around a change each goes out at its very instant"
    assert len(desk.mails) == READERS * sum(state == "closed" for _, _, _, state, _ in rows)


def read(instant: object) -> datetime:
    return datetime.fromisoformat(str(instant)).replace(tzinfo=UTC)
