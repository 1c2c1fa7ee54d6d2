"""Promise 10: time is honest. Slots stand on the wall clock, their instants in UTC, and each comes once."""

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise, takewhile
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from newsletter.schedule import Schedule, Slot, first_on_earth, last_on_earth

CRONS = ("0 7 * * 1-5", "30 1 * * *", "30 2 * * *", "0 0 * * *")
ZONES = (
    "America/New_York",
    "America/Santiago",  # changes at midnight: a day without a 00:00
    "Africa/Cairo",  # the same
    "Australia/Lord_Howe",  # changes by half an hour
    "Asia/Kathmandu",  # 05:45 ahead, never changes
    "Africa/Casablanca",  # changes for Ramadan, twice a year in the other direction
    "Europe/Dublin",  # winter time is the one that is "daylight saving"
    "UTC",
)


def _wall(year: int, month: int, day: int, hour: int = 0, minute: int = 0) -> datetime:
    return datetime(year, month, day, hour, minute)  # noqa: DTZ001 # wall-clock time has no zone


def _between(schedule: Schedule, start: datetime, end: datetime) -> list[Slot]:
    return list(takewhile(lambda slot: slot.instant < end, schedule.upcoming(start - timedelta(microseconds=1))))


def _year(schedule: Schedule, year: int) -> list[Slot]:
    zone = ZoneInfo(schedule.zone)
    return _between(schedule, datetime(year, 1, 1, tzinfo=zone), datetime(year + 1, 1, 1, tzinfo=zone))


def _days_of(cron: str, year: int) -> list[datetime]:
    """What the four expressions of this file mean, said again without a library."""
    minute, hour, *_, weekdays = cron.split()
    first = _wall(year, 1, 1, int(hour), int(minute))
    days = (first + timedelta(days=number) for number in range(366))
    return [day for day in days if day.year == year and (weekdays == "*" or day.isoweekday() <= 5)]


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("cron", CRONS)
def test_a_year_has_each_wall_clock_slot_once_in_the_order_of_time(zone: str, cron: str) -> None:
    slots = _year(Schedule((cron,), zone), 2026)
    assert [slot.local for slot in slots] == _days_of(cron, 2026)
    assert all(a.instant < b.instant for a, b in pairwise(slots))


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("cron", CRONS)
def test_the_latest_slot_is_the_last_of_those_that_came_and_never_in_the_future(zone: str, cron: str) -> None:
    schedule = Schedule((cron,), zone)
    slots = _year(schedule, 2026)
    pairs = list(pairwise(slots))
    changed = [n for n, (a, b) in enumerate(pairs) if b.instant - a.instant != b.local - a.local]
    around = {n + near for n in changed for near in (-1, 0, 1, 2)}  # between changes all weeks are alike
    for before, slot in (pair for n, pair in enumerate(pairs) if n in around or n % 9 == 0):
        assert schedule.latest(slot.instant) == slot
        assert schedule.latest(slot.instant - timedelta(seconds=1)) == before


@pytest.mark.parametrize(
    ("zone", "cron", "local", "instant"),
    [
        ("America/New_York", "30 2 * * *", _wall(2026, 3, 8, 2, 30), datetime(2026, 3, 8, 7, 30, tzinfo=UTC)),
        ("America/Santiago", "0 0 * * *", _wall(2026, 9, 6), datetime(2026, 9, 6, 4, 0, tzinfo=UTC)),
        ("Africa/Cairo", "0 0 * * *", _wall(2026, 4, 24), datetime(2026, 4, 23, 22, 0, tzinfo=UTC)),
        ("Australia/Lord_Howe", "15 2 * * *", _wall(2026, 10, 4, 2, 15), datetime(2026, 10, 3, 15, 45, tzinfo=UTC)),
    ],
)
def test_a_time_that_the_clock_skips_goes_out_once_all_the_same(
    zone: str, cron: str, local: datetime, instant: datetime
) -> None:
    slots = [slot for slot in _year(Schedule((cron,), zone), 2026) if slot.local.date() == local.date()]
    assert [(slot.local, slot.instant) for slot in slots] == [(local, instant)]
    assert slots[0].skipped_by_clock
    assert slots[0].instant.astimezone(ZoneInfo(zone)).date() == local.date(), "on its own day"


@pytest.mark.parametrize(
    ("zone", "cron", "local", "instant"),
    [
        ("America/New_York", "30 1 * * *", _wall(2026, 11, 1, 1, 30), datetime(2026, 11, 1, 5, 30, tzinfo=UTC)),
        ("Australia/Lord_Howe", "45 1 * * *", _wall(2026, 4, 5, 1, 45), datetime(2026, 4, 4, 14, 45, tzinfo=UTC)),
    ],
)
def test_a_time_that_the_clock_shows_twice_goes_out_once_the_first_time(
    zone: str, cron: str, local: datetime, instant: datetime
) -> None:
    schedule = Schedule((cron,), zone)
    slots = [slot for slot in _year(schedule, 2026) if slot.local.date() == local.date()]
    assert [(slot.local, slot.instant) for slot in slots] == [(local, instant)]
    again = instant + timedelta(hours=1)
    assert schedule.latest(again) == slots[0]
    assert next(schedule.upcoming(again)).local.date() == local.date() + timedelta(days=1)


def test_a_day_that_the_calendar_skips_sends_no_second_edition_at_the_same_moment() -> None:
    """Samoa went from Thursday, 29 December 2011 straight to Saturday."""
    slots = _between(
        Schedule(("0 7 * * *",), "Pacific/Apia"), datetime(2011, 12, 28, tzinfo=UTC), datetime(2012, 1, 1, tzinfo=UTC)
    )
    assert [slot.local.day for slot in slots] == [28, 29, 31, 1]
    assert all(b.instant - a.instant == timedelta(days=1) for a, b in pairwise(slots))
    friday = next(Schedule(("0 7 30 12 *",), "Pacific/Apia").upcoming(datetime(2011, 12, 1, tzinfo=UTC)))
    assert friday.instant == datetime(2011, 12, 30, 17, 0, tzinfo=UTC), "what is for that Friday alone goes out"


def test_a_slot_put_forward_past_another_waits_its_turn() -> None:
    schedule = Schedule(("30 2 * * *", "0 3 * * *"), "America/New_York")
    day = [slot for slot in _year(schedule, 2026) if slot.local.date() == _wall(2026, 3, 8).date()]
    assert [str(slot)[11:] for slot in day] == ["03:00", "02:30"], "03:00 comes first, for 02:30 is shown as 03:30"
    assert next(schedule.upcoming(day[0].instant)) == day[1], "nothing is passed over"
    assert schedule.latest(day[1].instant) == day[1]
    assert schedule.latest(day[1].instant - timedelta(minutes=1)) == day[0]


def test_an_hourly_newsletter_skips_no_hour_and_doubles_none_at_the_change() -> None:
    slots = _between(
        Schedule(("0 * * * *",), "America/New_York"),
        datetime(2026, 3, 8, 5, tzinfo=UTC),
        datetime(2026, 3, 8, 10, tzinfo=UTC),
    )
    assert [str(slot)[11:] for slot in slots] == ["00:00", "01:00", "03:00", "04:00", "05:00"]
    assert {b.instant - a.instant for a, b in pairwise(slots)} == {timedelta(hours=1)}


@pytest.mark.parametrize("cron", ["0 7 * * 0", "0 7 * * 7", "0 7 * * SUN", "0 7 * * sun"])
def test_0_is_sunday(cron: str) -> None:
    slots = islice(Schedule((cron,), "UTC").upcoming(datetime(2026, 11, 23, tzinfo=UTC)), 3)
    assert [slot.local for slot in slots] == [_wall(2026, 11, 29, 7), _wall(2026, 12, 6, 7), _wall(2026, 12, 13, 7)]


def test_several_expressions_make_one_schedule_with_each_time_once() -> None:
    schedule = Schedule(("0 7 * * *", "0 7 * * 1-5", "30 12 * * 6"), "Europe/Berlin")
    slots = [str(slot) for slot in islice(schedule.upcoming(datetime(2026, 11, 27, tzinfo=UTC)), 4)]
    assert slots == ["2026-11-27T07:00", "2026-11-28T07:00", "2026-11-28T12:30", "2026-11-29T07:00"]
    assert schedule.shortest_gap(datetime(2026, 11, 27, tzinfo=UTC)) == timedelta(hours=5, minutes=30)


def test_29_february_comes_in_leap_years_and_is_found_decades_back() -> None:
    schedule = Schedule(("0 7 29 2 *",), "UTC")
    upcoming = islice(schedule.upcoming(datetime(2026, 1, 1, tzinfo=UTC)), 2)
    assert [slot.local.year for slot in upcoming] == [2028, 2032]
    latest = schedule.latest(datetime(2103, 1, 1, tzinfo=UTC))
    assert latest is not None
    assert latest.local.year == 2096, "2100 has no 29 February"


@pytest.mark.parametrize(
    "cron",
    [
        "",
        "0 7 * *",
        "0 0 7 * * *",  # cronsim would read seconds
        "@daily",
        "60 7 * * *",
        "0 24 * * *",
        "0 7 0 * *",
        "0 7 31 2 *",
        "0 7 * 13 *",
        "0 7 * * 8",
        "0 7 * * 5-1",
        "0 7 * * 1,",
        "*/0 7 * * *",
        "-1 7 * * *",
        "0 7 * * 1#2/3",
        "0 7 ? * *",
        "a b c d e",
        "٠ 7 * * *",
        "0 7 * * *\0",
    ],
)
def test_a_bad_expression_is_refused_and_named(cron: str) -> None:
    with pytest.raises(ValueError, match="expected five cron fields") as caught:
        Schedule(("0 7 * * *", cron), "UTC")
    assert f"“{cron}”" in str(caught.value)


@pytest.mark.parametrize("text", ["2026-11-23T07:00", " 2026-11-23 07:00 "])
def test_a_slot_is_read_as_it_is_written(text: str) -> None:
    slot = Slot.parse(text, "Europe/Berlin")
    assert (str(slot), slot.instant) == ("2026-11-23T07:00", datetime(2026, 11, 23, 6, tzinfo=UTC))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tomorrow",
        "2026-11-23",
        "07:00",
        "20261123T0700",
        "2026-W48-1T07:00",
        "2026-11-23T07",
        "2026-11-23T07:00:30",
        "2026-11-23T07:00+01:00",
        "2026-11-23T07:00Z",
        "2026-02-30T07:00",
        "2026-11-23T25:00",
        "0001-01-01T00:00",  # no instant in UTC east of it
    ],
)
def test_what_is_no_slot_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Slot.parse(text, "Europe/Berlin")


_FIELDS = st.tuples(
    st.sampled_from(["0", "30", "*/20", "5,50"]),
    st.sampled_from(["0", "1", "2", "1-3", "*", "23", "7"]),
    st.sampled_from(["*", "1", "29", "31"]),
    st.sampled_from(["*", "3", "10-11"]),
    st.sampled_from(["*", "0", "1-5", "6"]),
)


@settings(max_examples=150, deadline=None)
@given(
    crons=st.lists(_FIELDS.map(" ".join), min_size=1, max_size=3, unique=True),
    zone=st.sampled_from([*ZONES, "Pacific/Apia", "Antarctica/Troll", "America/Nuuk"]),
    now=st.datetimes(_wall(2000, 1, 1), _wall(2040, 1, 1), timezones=st.just(UTC)),
)
def test_latest_and_upcoming_agree_at_any_moment(crons: list[str], zone: str, now: datetime) -> None:
    schedule = Schedule(tuple(crons), zone)
    latest = schedule.latest(now)
    coming = list(islice(schedule.upcoming(now), 8))
    assert all(a.instant < b.instant for a, b in pairwise(coming))
    assert len(set(coming)) == len(coming)
    assert all(slot.instant > now for slot in coming)
    if latest is not None:
        assert latest.instant <= now
        assert next(schedule.upcoming(latest.instant)) == coming[0], "no slot lies between the two"
    for slot in coming[:3]:
        assert schedule.latest(slot.instant) == slot


# ------------------------------------------------------------------------------------------ in each zone


@given(st.sampled_from(sorted(available_timezones())), st.datetimes(_wall(1996, 1, 1), _wall(2037, 12, 31)))
def test_no_zone_shows_a_time_before_the_first_on_earth_or_after_the_last(zone: str, local: datetime) -> None:
    """Since 1995, when Kiritimati came to +14."""
    assert first_on_earth(local) <= Slot(local, "UTC").in_zone(zone).instant <= last_on_earth(local)


@given(st.datetimes(_wall(1996, 1, 1), _wall(2037, 12, 31)))
def test_the_first_and_the_last_on_earth_are_kiritimati_and_baker_island(local: datetime) -> None:
    assert first_on_earth(local) == Slot(local, "Pacific/Kiritimati").instant
    assert last_on_earth(local) == Slot(local, "Etc/GMT+12").instant


@pytest.mark.parametrize("zone", [None, "", "Mars/Olympus_Mons", "America", "../../etc/passwd", "/etc/passwd", "a\0b"])
def test_what_is_no_zone_stands_with_the_slots_own(zone: str | None) -> None:
    slot = Slot(_wall(2026, 11, 23, 7), "Europe/Berlin")
    assert slot.in_zone(zone) == slot


def test_a_time_that_another_zones_clock_skips_has_an_instant_there_all_the_same() -> None:
    slot = Slot(_wall(2026, 3, 8, 2, 30), "Europe/Berlin").in_zone("America/New_York")
    assert (slot.instant, slot.skipped_by_clock) == (datetime(2026, 3, 8, 7, 30, tzinfo=UTC), True)


@pytest.mark.parametrize("zone", ZONES)
def test_the_latest_slot_on_earth_is_the_last_that_some_zone_has_shown(zone: str) -> None:
    schedule = Schedule(("0 7 * * 1-5",), zone)
    slots = _year(schedule, 2026)
    for before, slot in pairwise(slots):
        assert schedule.latest_on_earth(first_on_earth(slot.local)) == slot
        assert schedule.latest_on_earth(first_on_earth(slot.local) - timedelta(seconds=1)) == before


def test_a_slot_at_the_end_of_the_calendar_is_refused() -> None:
    for text in ("0001-01-01T00:00", "9999-12-31T23:59"):
        with pytest.raises(ValueError, match="has an instant in UTC"):
            Slot.parse(text, "UTC")
