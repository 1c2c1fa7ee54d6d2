"""What a person must look into is told once, by whatever process finds it, and once more when it is over."""

import json
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlmodel import Session, col, select

from newsletter import alarms, cli, control, desk, store
from newsletter.collect import Source
from newsletter.models import (
    Approval,
    Chore,
    DeskKind,
    DeskNotice,
    EditionRecord,
    EditionState,
    Pace,
    SourceRecord,
)
from newsletter.newsroom import Newsroom
from newsletter.schedule import Slot
from newsletter.settings import Feed
from subscribers import connect, reading, transaction
from tests.conftest import NOW, Desk
from tests.test_desk import DESK, SLOT

WIRE = '\n[sources.wire]\nkind = "feed"\nurl = "https://wire.example.org/feed"\n'


@pytest.fixture
def room(desk: Desk) -> Newsroom:
    desk.configure(lambda text: text + DESK + WIRE + "\n[alerts]\nrate_of = 5\n")
    made = desk.open()
    desk.people(made, 10)
    desk.brief("bridges")
    return made


def send(room: Newsroom) -> None:
    """One edition that is out, of the folder alone."""
    room.settings = room.settings.model_copy(update={"sources": {"desk": room.settings.sources["desk"]}})
    room.send("daily", SLOT)


def put(room: Newsroom, *rows: Any) -> None:
    with transaction(room.engine) as session:
        session.add_all(rows)


def change(room: Newsroom, do: Callable[[Session, EditionRecord], object]) -> None:
    with transaction(room.engine) as session:
        do(session, store.editions(session, None, 1)[0])


def setting(**values: object) -> Callable[[Session, EditionRecord], None]:
    def do(session: Session, record: EditionRecord) -> None:
        del session
        for name, value in values.items():
            setattr(record, name, value)

    return do


def sql(room: Newsroom, statement: str, **values: object) -> None:
    with transaction(room.engine) as session:
        session.execute(text(statement), values)


def standing(room: Newsroom) -> dict[str, str]:
    return {one.key.split(" ")[-1]: one.what for one in alarms.listed(room)}


def told(room: Newsroom, kind: DeskKind = DeskKind.ALERT) -> list[str]:
    with reading(room.engine) as session:
        rows = select(DeskNotice).where(col(DeskNotice.kind) == kind).order_by(col(DeskNotice.id))
        return [one.subject for one in session.exec(rows)]


def plan(room: Newsroom, **values: Any) -> None:
    slot = Slot.parse(SLOT, "UTC")
    given: dict[str, Any] = {
        "newsletter": "daily",
        "slot": SLOT,
        "zone": "UTC",
        "slot_at": slot.instant,
        "state": EditionState.PLANNED,
        "created_at": NOW,
        "lists": ["daily"],
        "stale_after_s": 3_600,
        "tag": "0" * 16,
        "next_at": NOW,
    }
    put(room, EditionRecord(**{**given, **values}))


# ------------------------------------------------------------------------------------------ telling


def test_what_stands_is_told_once_and_once_more_when_it_is_over(desk: Desk, room: Newsroom) -> None:
    put(room, Chore(name="sync", due_at=NOW, failures=3, said="no answer"))
    assert alarms.sound(room) == (1, 0)
    for _ in range(3):
        desk.clock.forward(timedelta(minutes=10))
        assert alarms.sound(room) == (0, 0)
    assert told(room) == ["“sync” keeps failing: no answer"]
    sql(room, "UPDATE chore SET failures = 0")
    assert alarms.sound(room) == (0, 1)
    assert alarms.sound(room) == (0, 0)
    assert told(room)[1:] == ["Over: “sync” keeps failing: no answer"]
    assert alarms.listed(room) == []
    [over] = alarms.listed(room, 10)
    assert over.over_at == NOW + timedelta(minutes=30)


def test_what_comes_back_is_told_again(desk: Desk, room: Newsroom) -> None:
    for failures in (3, 0, 3, 0):
        sql(room, "DELETE FROM chore")
        put(room, Chore(name="sync", due_at=NOW, failures=failures, said="no answer"))
        alarms.sound(room)
        desk.clock.forward(timedelta(minutes=1))
    assert len(told(room)) == 4


def test_another_reason_for_the_same_is_put_on_record_and_not_told(room: Newsroom) -> None:
    put(room, Chore(name="sync", due_at=NOW, failures=3, said="no answer"))
    alarms.sound(room)
    sql(room, "UPDATE chore SET said = 'it is overloaded'")
    assert alarms.sound(room) == (0, 0)
    assert standing(room) == {"sync": "“sync” keeps failing: it is overloaded"}
    assert len(told(room)) == 1


def test_ten_at_once_tell_it_once(desk: Desk, room: Newsroom) -> None:
    put(room, *(Chore(name=f"chore{number}", due_at=NOW, failures=3, said="no") for number in range(5)))
    came: list[tuple[int, int]] = []
    begin = threading.Barrier(10)

    def one() -> None:
        other = Newsroom(room.settings, connect(desk.url), room.clock)
        try:
            begin.wait(30)
            came.append(alarms.sound(other))
        finally:
            other.engine.dispose()

    threads = [threading.Thread(target=one) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(came) == 10
    assert sum(raised for raised, _ in came) == 5
    assert len(told(room)) == 5
    assert len(alarms.listed(room)) == 5


def test_no_address_is_kept_or_told(room: Newsroom) -> None:
    put(room, Chore(name="sync", due_at=NOW, failures=3, said="refused reader3@example.org"))
    alarms.sound(room)
    assert "reader3" not in str(standing(room)) + str(told(room))
    assert alarms.sound(room) == (0, 0)


# ------------------------------------------------------------------------------------------ editions


def test_an_edition_that_cannot_be_brought_on_is_an_alarm_at_the_third_failure(room: Newsroom) -> None:
    plan(room, slot_at=NOW + timedelta(minutes=5), failures=2, reason="template digest/body.mjml.j2:3: no such tag")
    assert alarms.sound(room) == (0, 0)
    change(room, setting(failures=3))
    assert alarms.sound(room) == (1, 0)
    assert "no such tag" in standing(room)["failing"]


def test_an_edition_that_has_not_begun_in_time_is_overdue(desk: Desk, room: Newsroom) -> None:
    plan(room, slot_at=NOW)
    desk.clock.forward(timedelta(minutes=15))
    assert alarms.sound(room) == (0, 0)
    desk.clock.forward(timedelta(minutes=1))
    assert alarms.sound(room) == (1, 0)
    assert standing(room)["overdue"].endswith("should have begun to go out at 08:00:00 UTC, and has not")


def test_a_draft_that_waits_for_approval_is_not_overdue_before_its_deadline(desk: Desk, room: Newsroom) -> None:
    waiting = {"state": EditionState.DRAFT, "approval": Approval.WAITING, "approve_by": NOW + timedelta(hours=1)}
    plan(room, slot_at=NOW, **waiting)
    desk.clock.forward(timedelta(hours=1))
    assert alarms.sound(room) == (0, 0)
    desk.clock.forward(timedelta(minutes=16))
    assert alarms.sound(room) == (1, 0)


def test_a_draft_that_a_person_made_is_a_persons_business(desk: Desk, room: Newsroom) -> None:
    plan(room, state=EditionState.DRAFT, next_at=None)
    desk.clock.forward(timedelta(days=3))
    assert alarms.sound(room) == (0, 0)


def test_an_edition_of_which_nothing_goes_out_is_overdue_and_one_under_way_is_not(desk: Desk, room: Newsroom) -> None:
    send(room)
    change(room, setting(state=EditionState.DISPATCHING))
    desk.clock.forward(timedelta(hours=1))
    assert alarms.sound(room) == (0, 0)
    sql(room, "UPDATE batch SET state = 'pending', done_at = NULL")
    assert alarms.sound(room) == (1, 0)
    assert "overdue" in standing(room)


@pytest.mark.parametrize("state", [EditionState.HELD, EditionState.PAUSED])
def test_what_waits_for_a_person_is_told_by_its_report_alone(room: Newsroom, state: EditionState) -> None:
    send(room)
    change(room, setting(state=state, reason="the audience is far larger than the last one"))
    assert alarms.sound(room) == (1, 0)
    assert told(room) == []
    [report] = told(room, DeskKind.REPORT)
    assert report.endswith(f"{state.upper()}: the audience is far larger than the last one")
    change(room, lambda session, record: desk.tell_edition(session, room.settings, record, NOW))
    assert len(told(room, DeskKind.REPORT)) == 1
    change(room, setting(state=EditionState.CANCELLED))
    assert alarms.sound(room) == (0, 1)
    assert told(room)[0].startswith("Over: ")


def test_what_an_operator_paused_is_no_alarm(room: Newsroom) -> None:
    send(room)
    change(room, setting(state=EditionState.PAUSED, reason="paused by kim", paused_by="kim"))
    assert alarms.sound(room) == (0, 0)


def test_copies_of_which_nobody_knows_are_an_alarm_when_events_have_had_their_time(desk: Desk, room: Newsroom) -> None:
    send(room)
    sql(room, "UPDATE batch SET state = 'unknown'")
    desk.clock.forward(timedelta(minutes=59))
    assert alarms.sound(room) == (0, 0)
    desk.clock.forward(timedelta(minutes=2))
    assert alarms.sound(room) == (1, 0)
    assert "of 10 nobody knows" in standing(room)["unknown"]
    sql(room, "UPDATE batch SET given_up_at = :now", now=NOW.isoformat())
    assert alarms.sound(room) == (0, 1)


def test_single_copies_of_which_nobody_knows_count_too(desk: Desk, room: Newsroom) -> None:
    send(room)
    sql(room, "UPDATE delivery SET outcome = 'unknown' WHERE id <= 3")
    desk.clock.forward(timedelta(hours=2))
    alarms.sound(room)
    assert "of 3 nobody knows" in standing(room)["unknown"]


@pytest.mark.parametrize(
    ("fate", "said"), [("bounced", "10.0% of its accepted copies bounced"), ("complained", "spam")]
)
def test_too_many_bounces_or_complaints_pause_the_edition_once(
    desk: Desk, room: Newsroom, fate: str, said: str
) -> None:
    send(room)
    change(room, setting(state=EditionState.DISPATCHING))
    sql(room, f"UPDATE delivery SET fate = '{fate}' WHERE id = (SELECT min(id) FROM delivery)")
    assert alarms.sound(room) == (1, 0)
    assert said in standing(room)[fate]
    with reading(room.engine) as session:
        record = store.editions(session, None, 1)[0]
    assert (record.state, record.paused_by) == (EditionState.PAUSED, None)
    assert said in (record.reason or "")
    assert told(room) == []
    assert len(told(room, DeskKind.REPORT)) == 1
    alarms.sound(room)
    change(room, lambda session, record: control.resume(session, record, actor="kim", now=NOW))
    alarms.sound(room)
    with reading(room.engine) as session:
        assert store.editions(session, None, 1)[0].state is EditionState.DISPATCHING
    assert len(told(room, DeskKind.REPORT)) == 1


def test_a_rate_is_of_accepted_copies_of_late_editions_and_of_enough_of_them(desk: Desk, room: Newsroom) -> None:
    send(room)
    sql(room, "UPDATE delivery SET fate = 'bounced' WHERE id = (SELECT min(id) FROM delivery)")
    alerts = room.settings.alerts
    for changed in ({"rate_of": 11}, {"bounce_rate": 0.1}):
        room.settings = room.settings.model_copy(update={"alerts": alerts.model_copy(update=changed)})
        assert alarms.sound(room) == (0, 0)
    sql(room, "UPDATE delivery SET outcome = 'refused' WHERE id = (SELECT max(id) FROM delivery)")
    assert alarms.sound(room) == (1, 0)
    assert told(room)[0].startswith("The Test Digest 2026-11-23 07:00: 11.1% of its accepted copies bounced")
    desk.clock.forward(alarms.RATES_FOR)
    assert alarms.sound(room)[1] == 1


# ------------------------------------------------------------------------------------------ what editions need


def source_record(failures: int, url: str = "https://wire.example.org/feed") -> SourceRecord:
    return SourceRecord(name="wire", url=url, faults=[], asked_at=NOW, failures=failures, error="answers 503")


def test_a_source_that_keeps_failing_is_an_alarm_while_it_is_configured(room: Newsroom) -> None:
    put(room, source_record(3))
    assert alarms.sound(room) == (1, 0)
    assert told(room) == ["Source wire keeps failing: answers 503"]
    sources: dict[str, Source] = {**room.settings.sources}
    moved = sources["wire"]
    assert isinstance(moved, Feed)
    sources["wire"] = moved.model_copy(update={"url": "https://elsewhere.example.org/feed"})
    room.settings = room.settings.model_copy(update={"sources": sources})
    assert alarms.sound(room) == (0, 1)


def test_a_provider_that_fails_or_asks_for_a_long_rest_is_an_alarm_until_it_is_well(desk: Desk, room: Newsroom) -> None:
    put(room, Pace(provider="outbox", calls=1, failures=4, note="disk full"))
    assert alarms.sound(room) == (0, 0)
    sql(room, "UPDATE pace SET failures = 5")
    assert alarms.sound(room) == (1, 0)
    sql(room, "UPDATE pace SET failures = 0, note = NULL")
    assert alarms.sound(room) == (0, 1)
    with transaction(room.engine) as session:
        row = session.get_one(Pace, "outbox")
        row.not_before, row.note = NOW + timedelta(hours=1), "asks to wait 3600 s"
    assert alarms.sound(room) == (1, 0)
    desk.clock.forward(timedelta(minutes=50))
    assert alarms.sound(room) == (0, 0)
    desk.clock.forward(timedelta(minutes=11))
    assert alarms.sound(room) == (0, 1)


def test_a_silence_of_all_sources_is_an_alarm_once_there_was_anything(desk: Desk, room: Newsroom) -> None:
    desk.clock.forward(timedelta(days=30))
    assert alarms.sound(room) == (0, 0)
    desk.clock.forward(timedelta(days=-30))
    room.settings = room.settings.model_copy(update={"sources": {"desk": room.settings.sources["desk"]}})
    room.collect()
    desk.clock.forward(timedelta(days=2, minutes=1))
    assert alarms.sound(room) == (1, 0)
    desk.brief("rivers")
    room.collect()
    assert alarms.sound(room) == (0, 1)


def test_a_halt_that_is_forgotten_while_something_waits_is_an_alarm(desk: Desk, room: Newsroom) -> None:
    room.halt("operator:kim", None)
    desk.clock.forward(timedelta(hours=1, minutes=1))
    assert alarms.sound(room) == (0, 0)
    plan(room)
    alarms.sound(room)
    assert "operator:kim" in standing(room)["halted"]
    assert standing(room)["overdue"].endswith("all dispatch is halted")
    room.unhalt("operator:kim")
    alarms.sound(room)
    assert "halted" not in standing(room)


@pytest.mark.sqlite("its query plan")
def test_nothing_but_indexes_is_read_of_deliveries(room: Newsroom) -> None:
    send(room)
    sql(room, "UPDATE delivery SET fate = 'bounced' WHERE id = 1")
    seen: list[str] = []
    with reading(room.engine) as session:
        connection = session.connection().connection.dbapi_connection
        assert connection is not None
        connection.set_trace_callback(seen.append)
        alarms.conditions(session, room.settings, "outbox", NOW)
        connection.set_trace_callback(None)
        asked = [one for one in seen if "delivery" in one and "SUM" not in one]
        plans = [
            str(row[3]) for one in asked for row in session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {one}")
        ]
    assert len(asked) >= 2
    assert [plan for plan in plans if plan.startswith("SCAN delivery") and "USING" not in plan] == []


# ------------------------------------------------------------------------------------------ looking


def test_the_command_line_lists_what_stands_and_what_the_desk_was_told(
    desk: Desk, room: Newsroom, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> str:
        cli.app([*arguments, "--config", str(desk.file)], standalone_mode=False)
        return capsys.readouterr().out

    assert run("alarms") == "nothing to look into\n"
    put(room, Chore(name="sync", due_at=NOW, failures=3, said="no answer"))
    alarms.sound(room)
    assert run("alarms") == "LOOK  since 2026-11-23 08:00 UTC: “sync” keeps failing: no answer\n"
    [one] = json.loads(run("alarms", "--json"))
    assert (one["key"], one["over_at"]) == ("chore sync", None)
    told = run("notices")
    assert "1  2026-11-23 08:00 UTC  alert by mail: pending\n    “sync” keeps failing: no answer\n" in told
    assert "1 notice to the desk waiting, the oldest since 2026-11-23 08:00 UTC" in told
    assert [one["to"] for one in json.loads(run("notices", "--json"))] == ["desk"]
    sql(room, "UPDATE chore SET failures = 0")
    alarms.sound(room)
    assert run("alarms") == "nothing to look into\n"
    assert run("alarms", "--all").startswith("over  since 2026-11-23 08:00 UTC until 2026-11-23 08:00 UTC: ")
