"""Promise 10, for each reader: with send_at_local a copy goes out when the reader's own clock shows the slot, once.

The zones are those that catch programs out: a quarter of an hour off, half an hour of summer time, the first and the
last on Earth, and days on which the clock skips the slot.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlmodel import Session, col
from typer.testing import CliRunner

from newsletter import folding, ledger, operating, waves
from newsletter.cli import app
from newsletter.errors import EditionError
from newsletter.models import Batch, Delivery, EditionRecord, EditionState, Outcome, WaveZone
from newsletter.newsroom import Newsroom
from newsletter.schedule import Slot, first_on_earth, last_on_earth
from subscribers import Reason, Subscriber, parse, reading, suppress, transaction
from tests.conftest import Desk
from tests.test_dispatch import Killed, Scripted, run, start, tally

LOCAL = datetime(2026, 11, 23, 7, 0)  # noqa: DTZ001 # wall-clock time has no zone
ZONES: tuple[str | None, ...] = (
    "Pacific/Kiritimati",  # the first on Earth
    "Pacific/Chatham",  # 13:45 ahead in summer
    "Australia/Lord_Howe",  # half an hour of summer time
    "Asia/Kathmandu",  # 05:45 ahead
    "Europe/Berlin",
    None,  # the newsletter's, UTC
    "Mars/Olympus_Mons",  # the same: no zone of this machine
    "America/New_York",
    "Etc/GMT+12",  # Baker Island, the last on Earth
)
FIRST, LAST = first_on_earth(LOCAL), last_on_earth(LOCAL)


def at_local(desk: Desk, *more: str) -> None:
    lines = "".join(f"{line}\n" for line in ("send_at_local = true", *more))
    desk.configure(lambda text: text + lines)


def give_zones(newsroom: Newsroom, zones: tuple[str | None, ...] = ZONES) -> None:
    """The zones to the readers, in turn."""
    with transaction(newsroom.engine) as session:
        for number, person in enumerate(session.execute(select(Subscriber).order_by(col(Subscriber.id))).scalars()):
            person.zone = zones[number % len(zones)]


def instant_of(zone: str | None, local: datetime = LOCAL) -> datetime:
    """What a zone's clock says, asked without the program."""
    known = zone if zone not in {None, "Mars/Olympus_Mons"} else "UTC"
    return local.replace(tzinfo=ZoneInfo(str(known))).astimezone(UTC)


def begin(desk: Desk, people: int = 18, provider: Scripted | None = None, **more: Any) -> tuple[Newsroom, int]:
    """An edition in waves, frozen as the first zone on Earth reaches its slot. Nothing is dispatched yet."""
    at_local(desk, *more.get("settings", ()))
    desk.clock.now = more.get("at", FIRST)
    newsroom = desk.open()
    desk.people(newsroom, people)
    give_zones(newsroom, more.get("zones", ZONES))
    newsroom.close()
    return start(desk, 0, provider or Scripted())


def zones_by_address(newsroom: Newsroom) -> dict[str, str | None]:
    with reading(newsroom.engine) as session:
        return {row[0]: row[1] for row in session.execute(select(col(Subscriber.address), col(Subscriber.zone)))}


class Noting(Scripted):
    """Notes when each address was handed over."""

    def at(self, desk: Desk) -> "Noting":
        self.desk, self.when = desk, list[tuple[str, datetime]]()
        return self

    def submit(self, message: Any, recipients: Any, attempt: Any, started: Any) -> Iterator[Any]:
        self.when += [(one.address, self.desk.clock()) for one in recipients]
        return super().submit(message, recipients, attempt, started)


# ------------------------------------------------------------------------------------------ freezing


class _Undone(Exception):
    pass


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_every_candidate_stands_in_one_batch_of_their_own_clock_or_is_excluded(desk: Desk, size: int) -> None:
    """Whatever zones people have, whenever it is frozen, and whoever is suppressed."""
    at_local(desk)
    desk.clock.now = FIRST
    newsroom = desk.open()
    desk.brief("harbour")
    desk.people(newsroom, 9)
    draft = newsroom._write("daily", newsroom.draft("daily", newsroom.slot("daily")))
    with reading(newsroom.engine) as session:
        ids = [one for one in session.execute(select(col(Subscriber.id)).order_by(col(Subscriber.id))).scalars() if one]
    gaps = {datetime(2026, 3, 8, 2, 30): "America/New_York", datetime(2026, 10, 4, 2, 15): "Australia/Lord_Howe"}  # noqa: DTZ001 # wall-clock

    @settings(max_examples=40, deadline=None)
    @given(
        zones=st.lists(st.sampled_from(ZONES), min_size=9, max_size=9),
        barred=st.sets(st.integers(0, 8)),
        minutes=st.integers(-60, 30 * 60),
        patience=st.sampled_from([1, 3, 24]),
        late=st.booleans(),
        local=st.sampled_from([LOCAL, *gaps]),
    )
    def check(
        *, zones: list[str | None], barred: set[int], minutes: int, patience: int, late: bool, local: datetime
    ) -> None:
        now = first_on_earth(local) + timedelta(minutes=minutes)
        with contextlib.suppress(_Undone), transaction(newsroom.engine) as session:
            for number, row in enumerate(ids):
                person = session.get_one(Subscriber, row)
                person.zone = zones[number]
                if number in barred:
                    suppress(session, parse(person.address), Reason.OPERATOR, now=now, actor="t", note=None)
            record = session.get_one(EditionRecord, draft.id)
            record.stale_after_s = patience * 3600
            session.flush()
            frozen = ledger.freeze(
                session, record, due_at=now, batch_size=size, now=now, local=Slot(local, "UTC"), late=late
            )
            assert frozen is not None
            assert frozen.candidates == 9
            _hold_against(session, record, dict(zip(ids, zones, strict=True)), local, now, late=late, size=size)
            outcomes = dict(session.execute(select(col(Delivery.subscriber_id), col(Delivery.outcome))).all())
            assert {ids.index(row) for row, outcome in outcomes.items() if outcome is Outcome.SUPPRESSED} == barred
            raise _Undone

    check()


def _hold_against(
    session: Session,
    record: EditionRecord,
    zones: dict[int, str | None],
    local: datetime,
    now: datetime,
    *,
    late: bool,
    size: int,
) -> None:
    """Each batch is of one due time, each person in one batch or none, and that is when their own clock shows it."""
    stood: Counter[int] = Counter()
    for batch in session.execute(select(Batch).where(col(Batch.edition_id) == record.id)).scalars():
        rows = session.execute(
            select(col(Delivery.subscriber_id)).where(ledger.members(batch), col(Delivery.outcome).is_(None))
        ).scalars()
        people = list(rows)
        assert len(people) == batch.size <= size
        stood.update(people)
        assert batch.due_at == batch.promised_at
        for person in people:
            own = instant_of(zones[person], local)
            assert batch.due_at == max(own, now)
            assert late or now - own <= timedelta(seconds=record.stale_after_s)
    assert max(stood.values(), default=1) == 1
    deliveries = list(session.execute(select(Delivery).where(col(Delivery.edition_id) == record.id)).scalars())
    assert sorted(one.subscriber_id for one in deliveries) == sorted(zones)
    for one in deliveries:
        assert (one.subscriber_id in stood) is (one.outcome is None)
        if one.outcome is Outcome.SKIPPED:
            assert one.reason == waves.TOO_LATE
            assert now - instant_of(zones[one.subscriber_id], local) > timedelta(seconds=record.stale_after_s)


def test_zones_that_share_an_instant_share_a_wave(desk: Desk) -> None:
    newsroom, edition = begin(desk, 6, zones=("Europe/Berlin", "Europe/Paris", "Africa/Lagos"))
    with reading(newsroom.engine) as session:
        (one,) = waves.waves(session, session.get_one(EditionRecord, edition), desk.clock())
    assert (one.zones, one.people) == (("Africa/Lagos", "Europe/Berlin", "Europe/Paris"), 6)


def test_an_edition_at_once_after_one_in_waves_has_row_numbers_of_its_own(desk: Desk) -> None:
    newsroom, edition = begin(desk, 18, provider := Scripted())
    run(newsroom, desk.clock, edition, step=3600)
    newsroom.close()
    desk.configure()
    desk.clock.now = LAST + timedelta(days=2)
    desk.brief("tower")
    again = desk.open()
    again._provider = provider
    assert again.send("daily").record.state is EditionState.CLOSED
    assert len(set(provider.taken)) == len(provider.taken) == 36
    with reading(again.engine) as session:
        rows = session.execute(select(col(Delivery.id)).order_by(col(Delivery.edition_id), col(Delivery.id))).scalars()
        assert (ids := list(rows)) == sorted(ids, key=lambda one: one or 0)


# ------------------------------------------------------------------------------------------ dispatch


def test_each_reader_gets_it_when_their_own_clock_shows_the_slot(desk: Desk) -> None:
    newsroom, edition = begin(desk, 18, provider := Noting().at(desk))
    assert run(newsroom, desk.clock, edition, step=300).state is EditionState.CLOSED
    assert len(provider.when) == len(set(provider.taken)) == 18
    zones = zones_by_address(newsroom)
    for address, at in provider.when:
        assert timedelta(0) <= at - instant_of(zones[address]) < timedelta(minutes=10), zones[address]
    assert desk.clock() - FIRST >= timedelta(hours=26)
    assert tally(newsroom, edition).accepted == 18


@pytest.mark.parametrize("zone", ["Etc/GMT+12", "Pacific/Kiritimati", None])
def test_who_changes_their_zone_in_between_gets_it_once_at_the_time_they_stood_for(
    desk: Desk, zone: str | None
) -> None:
    newsroom, edition = begin(desk, 18, provider := Noting().at(desk))
    was = zones_by_address(newsroom)
    desk.clock.now = instant_of("Asia/Kathmandu")
    run(newsroom, desk.clock, edition, linger=timedelta(0))
    assert len(provider.taken) == 8
    give_zones(newsroom, (zone,))
    assert run(newsroom, desk.clock, edition, step=300).state is EditionState.CLOSED
    assert len(set(provider.taken)) == len(provider.taken) == 18
    for address, at in provider.when[8:]:
        assert timedelta(0) <= at - instant_of(was[address]) < timedelta(minutes=10)


def test_a_zone_that_is_past_at_the_freeze_gets_it_at_once_within_stale_after_and_never_later(desk: Desk) -> None:
    at = instant_of("Europe/Berlin")
    newsroom, edition = begin(desk, 18, provider := Noting().at(desk), at=at, settings=['stale_after = "6h"'])
    zones = zones_by_address(newsroom)
    run(newsroom, desk.clock, edition, linger=timedelta(0))
    assert {zones[address] for address, _ in provider.when} == {"Asia/Kathmandu", "Europe/Berlin"}
    found = tally(newsroom, edition)
    assert (found.accepted, found.skipped, found.waiting, found.holds) == (4, 6, 8, True)
    assert found.reasons == {f"skipped: {waves.TOO_LATE}": 6}
    run(newsroom, desk.clock, edition, step=300)
    assert (tally(newsroom, edition).accepted, len(set(provider.taken))) == (12, 12)


def test_a_persons_yes_to_a_late_slot_mails_the_zones_that_are_past_and_hurries_nobody_else(desk: Desk) -> None:
    at_local(desk, 'stale_after = "1h"')
    desk.clock.now = at = LOCAL.replace(tzinfo=UTC) + timedelta(hours=2)
    newsroom = desk.open()
    newsroom._provider = provider = Noting(batch_size=100).at(desk)
    desk.brief("harbour")
    desk.people(newsroom, 9)
    give_zones(newsroom)
    with pytest.raises(EditionError, match="was 2 h ago, past stale_after"):
        newsroom.send("daily")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Newsroom, "dispatch", lambda self, record, **_: record)  # it waits a day
        record = newsroom.send("daily", consent=True).record
    assert record.id is not None
    newsroom.dispatch(record, linger=timedelta(0))
    zones = zones_by_address(newsroom)
    assert {zones[address] for address, _ in provider.when} == {*ZONES} - {"America/New_York", "Etc/GMT+12"}
    desk.clock.now = at + timedelta(hours=1, minutes=30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Newsroom, "dispatch", lambda self, record, **_: record)  # the same
        newsroom.send("daily", "2026-11-23T07:00", consent=True)
    with reading(newsroom.engine) as session:
        assert ledger.next_due(session, record.id) == instant_of("America/New_York")


@pytest.mark.parametrize("act", ["die before", "die after", "die half-way"])
def test_killed_in_a_wave_the_next_run_goes_on_and_nobody_gets_two(desk: Desk, act: str) -> None:
    newsroom, edition = begin(desk, 18, provider := Scripted(["accept", "accept", act]))
    for owner in ("first", "second", "third"):
        with contextlib.suppress(Killed):
            run(newsroom, desk.clock, edition, owner=owner, step=300)
            break
        desk.clock.forward(timedelta(minutes=30))
    found = tally(newsroom, edition)
    assert (found.waiting, found.holds, found.accepted + found.unknown) == (0, True, 18)
    assert found.unknown == (0 if act == "die before" else 2)
    assert len(set(provider.taken)) == len(provider.taken)


def test_a_run_that_need_not_linger_ends_where_nothing_is_due_soon_and_is_told_when_it_goes_on(desk: Desk) -> None:
    newsroom, edition = begin(desk, 18, provider := Scripted())
    came = []
    for _ in range(20):
        began = desk.clock()
        record = run(newsroom, desk.clock, edition, linger=timedelta(seconds=30))
        assert desk.clock() - began < timedelta(seconds=10), "it waited for no wave"
        came.append(len(provider.taken))
        with reading(newsroom.engine) as session:
            due = ledger.next_due(session, edition)
        if due is None:
            break
        assert record.state is EditionState.DISPATCHING
        desk.clock.now = due
    assert came == [2, 4, 6, 8, 10, 14, 16, 18]
    assert record.state is EditionState.CLOSED


def test_a_run_lingers_for_what_is_due_soon_and_for_what_is_in_hands(desk: Desk) -> None:
    newsroom, edition = begin(desk, 2, provider := Scripted(["throttle"]), zones=("Pacific/Kiritimati", "Etc/GMT+12"))
    began = desk.clock()
    run(newsroom, desk.clock, edition, linger=timedelta(minutes=1))
    assert len(provider.taken) == 1, "it was throttled for 30 s"
    assert desk.clock() - began < timedelta(minutes=2)
    desk.clock.now = LAST
    provider.script = ["die before"]
    with contextlib.suppress(Killed):
        run(newsroom, desk.clock, edition, owner="gone")
    assert run(newsroom, desk.clock, edition, step=60, linger=timedelta(0)).state is EditionState.CLOSED
    assert len(set(provider.taken)) == 2


def test_it_is_said_once_which_wave_is_waited_for(desk: Desk) -> None:
    newsroom, edition = begin(desk, 3, zones=("Pacific/Kiritimati", "UTC", "Etc/GMT+12"))
    told: list[str] = []
    run(newsroom, desk.clock, edition, step=600, report=lambda done: told.append(done.note or ""))
    assert [note for note in told if note] == [
        "the next wave is due at 2026-11-23 07:00 UTC",
        "the next wave is due at 2026-11-23 19:00 UTC",
    ]


def test_a_wave_ahead_is_not_stale_and_one_overdue_pauses(desk: Desk) -> None:
    newsroom, edition = begin(desk, 2, zones=("Pacific/Kiritimati", "Etc/GMT+12"), settings=['stale_after = "2h"'])
    desk.clock.now = FIRST + timedelta(hours=1)
    assert run(newsroom, desk.clock, edition, linger=timedelta(0)).state is EditionState.DISPATCHING
    desk.clock.now = LAST + timedelta(hours=3)
    record = run(newsroom, desk.clock, edition)
    assert record.state is EditionState.PAUSED
    assert "overdue by 3 h" in (record.reason or "")
    assert tally(newsroom, edition).waiting == 1


def test_an_edition_cancelled_between_waves_mails_nobody_else(desk: Desk) -> None:
    newsroom, edition = begin(desk, 18, provider := Scripted())
    run(newsroom, desk.clock, edition, linger=timedelta(0))
    operating.cancel(newsroom, "daily", None, actor="ada", reason=None)
    desk.clock.now = LAST
    run(newsroom, desk.clock, edition)
    found = tally(newsroom, edition)
    assert (found.accepted, found.cancelled, len(provider.taken)) == (2, 16, 2)


# ------------------------------------------------------------------------------------------ sending, showing


def test_a_slot_is_due_from_the_first_zone_on_earth_on(desk: Desk) -> None:
    at_local(desk)
    newsroom = desk.open()
    desk.brief("harbour")
    desk.people(newsroom, 1)
    give_zones(newsroom, ("Pacific/Kiritimati",))
    desk.clock.now = FIRST - timedelta(minutes=1)
    assert str(newsroom.slot("daily")) == "2026-11-22T07:00"
    with pytest.raises(
        EditionError, match=r"begins in 1 min.* --yes freezes it now, and sends it at that time in each"
    ):
        newsroom.send("daily", "2026-11-23T07:00")
    desk.clock.now = FIRST
    sent = newsroom.send("daily")
    assert (sent.record.slot, sent.record.state) == ("2026-11-23T07:00", EditionState.CLOSED)
    assert len(desk.mails) == 1
    assert str(newsroom._preview_slot("daily", None)[0]) == "2026-11-24T07:00"


def test_waves_ahead_are_no_unfinished_business(desk: Desk) -> None:
    newsroom, edition = begin(desk, 2, zones=("Pacific/Kiritimati", "Etc/GMT+12"))
    run(newsroom, desk.clock, edition, linger=timedelta(0))
    assert newsroom.unfinished() == []
    desk.clock.now = LAST
    assert [waiting for _, waiting in newsroom.unfinished()] == [1]


def test_an_edition_tells_its_waves(desk: Desk) -> None:
    newsroom, edition = begin(desk, 9)
    desk.clock.now = instant_of("Pacific/Chatham")
    run(newsroom, desk.clock, edition, linger=timedelta(0))
    with reading(newsroom.engine) as session:
        told = waves.waves(session, session.get_one(EditionRecord, edition), desk.clock())
    expected = Counter(instant_of(zone) for zone in ZONES)
    assert [(one.due_at, one.people) for one in told] == sorted(expected.items())
    assert [one.state for one in told] == ["done", "done", *["ahead"] * 6]


def test_an_edition_between_waves_has_no_speed_and_one_in_a_wave_is_over_with_the_last(desk: Desk) -> None:
    newsroom, edition = begin(desk, 18)
    run(newsroom, desk.clock, edition, linger=timedelta(0))
    assert newsroom.edition("daily").speed is None
    desk.clock.now = instant_of("Pacific/Chatham")
    run(newsroom, desk.clock, edition, linger=timedelta(0))
    desk.clock.now = instant_of("Australia/Lord_Howe")
    with transaction(newsroom.engine) as session:  # as if the wave before had just gone out
        for batch in session.execute(select(Batch).where(col(Batch.wave) == 2)).scalars():
            batch.done_at = batch.called_at = desk.clock()
    speed = newsroom.edition("daily").speed
    assert speed is not None
    assert speed.over_at == LAST


def test_the_waves_are_shown_at_the_shell(desk: Desk) -> None:
    newsroom, edition = begin(desk, 9)
    run(newsroom, desk.clock, edition, linger=timedelta(0))
    newsroom.close()
    shown = CliRunner().invoke(app, ["editions", "show", "daily", "--config", str(desk.file)])
    assert "  wave 1: 1 in 1 zone, due 2026-11-22 17:00 UTC: done\n" in shown.output
    asked = CliRunner().invoke(app, ["editions", "show", "daily", "--json", "--config", str(desk.file)])
    told = json.loads(asked.output)["waves"]
    assert len(told) == 8
    assert told[5] == {"due_at": "2026-11-23T07:00:00+00:00", "zones": ["UTC"], "people": 2, "state": told[5]["state"]}


def test_an_edition_that_goes_out_at_once_shows_no_waves(desk: Desk) -> None:
    newsroom, _ = start(desk, 3, Scripted())
    assert newsroom.edition("daily").waves == []


def test_a_folded_edition_forgets_who_was_due_when(desk: Desk) -> None:
    newsroom, edition = begin(desk, 9)
    run(newsroom, desk.clock, edition, step=3600)
    with transaction(newsroom.engine) as session:
        record = session.get_one(EditionRecord, edition)
        while folding.fold(session, record, desk.clock()):
            pass
        assert session.execute(select(WaveZone)).all() == []
        assert waves.waves(session, record, desk.clock()) == []
    assert tally(newsroom, edition).accepted == 9
