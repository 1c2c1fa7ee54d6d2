"""What an operator does to an edition in dispatch takes effect before the next call, and is on record with who did it.

The provider is the scripted one of test_dispatch.py; limits, pace and folding are held against the ledger as well.
"""

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event, select
from sqlmodel import col

from newsletter import control, folding, ledger, operating, pace, report, store
from newsletter.control import StandingOrder, Verdict
from newsletter.dispatch import Dispatcher
from newsletter.edition import AttemptId, Message, Receipt, Recipient, Result
from newsletter.errors import EditionError, Unreachable
from newsletter.models import Batch, BatchState, Delivery, EditionRecord, EditionState, Outcome, Spending
from newsletter.newsroom import Newsroom
from newsletter.pace import Limits
from newsletter.people import data_of
from newsletter.settlement import Settlement, Went
from subscribers import find, parse, reading, transaction
from tests.conftest import Desk
from tests.test_dispatch import Killed, Never, Scripted, another, patient, run, start, tally

DAY = timedelta(days=1)


def record_of(newsroom: Newsroom, edition: int) -> EditionRecord:
    with reading(newsroom.engine) as session:
        return session.get_one(EditionRecord, edition)


def acts(newsroom: Newsroom, edition: int) -> list[tuple[str, str]]:
    with reading(newsroom.engine) as session:
        return [(act.act, act.actor) for act in store.acts_of(session, edition)]


def stop_after(newsroom: Newsroom, calls: int, do: Any) -> Any:
    """A report that does something after so many calls."""
    seen: list[Any] = []

    def report(progress: Any) -> None:
        seen.append(progress)
        if len(seen) == calls:
            do()

    return report


# ------------------------------------------------------------------------------------------ pause, resume, cancel


def test_a_pause_takes_effect_before_the_next_call_and_send_does_not_lift_it(desk: Desk) -> None:
    newsroom, edition = start(desk, 40, provider := Scripted())
    stop = stop_after(newsroom, 2, lambda: operating.pause(newsroom, "daily", None, actor="ada", reason="typo"))
    record = run(newsroom, desk.clock, edition, report=stop)
    assert record.state is EditionState.PAUSED
    assert (tally(newsroom, edition).accepted, len(provider.taken)) == (20, 20)
    with pytest.raises(EditionError, match=r"paused by ada: typo; newsletter editions resume lets it go on"):
        newsroom.send("daily", consent=True)
    sent = operating.resume(newsroom, "daily", None, actor="bob", report=lambda _: None, stop=threading.Event())
    assert (sent.record.state, sent.tally and sent.tally.accepted) == (EditionState.CLOSED, 40)
    assert acts(newsroom, edition)[-2:] == [("pause", "ada"), ("resume", "bob")]


def test_what_is_cancelled_never_leaves_and_what_was_out_is_recorded(desk: Desk) -> None:
    newsroom, edition = start(desk, 40, Scripted(["accept", "one later"]))
    stop = stop_after(newsroom, 2, lambda: operating.cancel(newsroom, "daily", None, actor="ada", reason=None))
    record = run(newsroom, desk.clock, edition, report=stop)
    assert record.state is EditionState.CANCELLED
    told = tally(newsroom, edition)
    assert (told.accepted, told.cancelled, told.waiting, told.holds) == (19, 21, 0, True)
    with pytest.raises(EditionError, match="it is cancelled; it was cancelled"):
        operating.retry(newsroom, "daily", None, refused=True, actor="ada")
    with pytest.raises(EditionError, match="only a paused edition can be resumed"):
        operating.resume(newsroom, "daily", None, actor="ada", report=lambda _: None, stop=threading.Event())


def test_a_call_that_comes_back_deferred_after_the_cancelling_brings_nobody_back(desk: Desk) -> None:
    newsroom, edition = start(desk, 10, provider := Scripted())

    def cancel_and_defer(*args: Any) -> Any:
        started = args[-1]
        started()
        operating.cancel(newsroom, "daily", None, actor="ada", reason=None)
        return iter([Receipt(one.delivery, Result.DEFERRED, "greylisted") for one in args[1]])

    provider.submit = cancel_and_defer  # type: ignore[method-assign,assignment] # it misbehaves in a way of its own
    run(newsroom, desk.clock, edition)
    assert (tally(newsroom, edition).cancelled, tally(newsroom, edition).waiting) == (10, 0)


def test_a_draft_that_is_cancelled_is_not_sent(desk: Desk) -> None:
    newsroom = desk.open()
    desk.brief("harbour")
    desk.people(newsroom, 3)
    slot = newsroom.slot("daily")
    newsroom._write("daily", newsroom.draft("daily", slot))
    operating.cancel(newsroom, "daily", str(slot), actor="ada", reason="not today")
    sent = newsroom.send("daily")
    assert (sent.record.state, sent.record.reason) == (EditionState.CANCELLED, "cancelled by ada: not today")
    assert desk.mails == []


def test_stop_ends_after_the_calls_that_are_out(desk: Desk) -> None:
    newsroom, edition = start(desk, 40, Scripted())
    stop = threading.Event()
    record = run(newsroom, desk.clock, edition, report=stop_after(newsroom, 1, stop.set), stop=stop)
    told = tally(newsroom, edition)
    assert (record.state, told.accepted, told.waiting, told.unknown) == (EditionState.DISPATCHING, 20, 20, 0)
    with reading(newsroom.engine) as session:
        assert session.execute(select(Batch).where(col(Batch.owner).is_not(None))).all() == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_command_clean(desk: Desk, number: int) -> None:
    desk.configure(lambda text: text.replace("batch_size = 10", "batch_size = 1"))
    newsroom = desk.open()
    desk.brief("harbour")
    desk.people(newsroom, 800)
    command = [sys.executable, "-m", "newsletter", "send", "daily", "--slot", "2026-11-23T07:00", "--yes"]
    with subprocess.Popen(
        command, cwd=desk.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while len(desk.mails) < 20 and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1, said
    assert "stopping after the calls that are out" in said
    assert "Traceback" not in said
    with reading(newsroom.engine) as session:
        record = store.editions(session, "daily", 1)[0]
        assert {batch.state for batch in session.execute(select(Batch)).scalars()} == {
            BatchState.DONE,
            BatchState.PENDING,
        }
    assert record.id is not None
    assert tally(newsroom, record.id).accepted == len(desk.mails)


# ------------------------------------------------------------------------------------------ retry and resolve


def test_a_deferred_recipient_is_tried_at_once_on_an_operators_word(desk: Desk) -> None:
    newsroom, edition = start(desk, 10, provider := Scripted(["one later"]))
    stop = threading.Event()
    run(newsroom, desk.clock, edition, report=stop_after(newsroom, 1, stop.set), stop=stop)
    assert operating.retry(newsroom, "daily", None, refused=False, actor="ada") == 1
    run(newsroom, desk.clock, edition, step=0.01)
    assert [len(call) for call in provider.calls] == [10, 1]
    assert tally(newsroom, edition).accepted == 10


def test_the_refused_are_tried_again_only_where_that_is_said(desk: Desk) -> None:
    newsroom, edition = start(desk, 10, provider := Scripted(["one bad"]))
    assert run(newsroom, desk.clock, edition).state is EditionState.CLOSED
    assert operating.retry(newsroom, "daily", None, refused=False, actor="ada") == 0
    assert operating.retry(newsroom, "daily", None, refused=True, actor="ada") == 1
    desk.clock.forward(3 * DAY)
    assert operating.retry(newsroom, "daily", None, refused=False, actor="ada") == 0
    with transaction(newsroom.engine) as session:
        control.promise_anew(session, session.get_one(EditionRecord, edition), desk.clock())
    assert run(newsroom, desk.clock, edition).state is EditionState.CLOSED
    told = tally(newsroom, edition)
    assert (told.accepted, told.refused, told.holds, len(provider.taken)) == (10, 0, True, 10)


@pytest.mark.parametrize("script", ["nothing taken, no answer", "silent about one"])
@pytest.mark.parametrize("verdict", list(Verdict))
def test_the_unknown_become_what_an_operator_says(desk: Desk, script: str, verdict: Verdict) -> None:
    newsroom, edition = start(desk, 20, provider := Scripted([script]))
    run(newsroom, desk.clock, edition)
    unknown = tally(newsroom, edition).unknown
    assert unknown == (10 if script.startswith("nothing") else 1)
    assert operating.resolve(newsroom, "daily", None, verdict, actor="ada") == unknown
    told = tally(newsroom, edition)
    assert told.holds
    assert acts(newsroom, edition)[-1] == ("resolve", "ada")
    if verdict is Verdict.ACCEPTED:
        assert (told.accepted, told.unknown) == (20, 0)
    elif verdict is Verdict.DROP:
        assert (told.unknown, told.given_up) == (unknown, unknown)
        assert operating.resolve(newsroom, "daily", None, Verdict.DROP, actor="ada") == 0
    else:
        assert (told.waiting, record_of(newsroom, edition).state) == (unknown, EditionState.DISPATCHING)
        run(newsroom, desk.clock, edition)
        assert (tally(newsroom, edition).accepted, len(provider.calls[-1])) == (20, unknown)


@pytest.mark.parametrize("verdict", [None, Verdict.RESEND, Verdict.DROP])
def test_a_standing_order_is_followed_when_its_time_has_come_and_not_before(
    desk: Desk, verdict: Verdict | None
) -> None:
    newsroom, edition = start(desk, 10, Scripted(["nothing taken, no answer"]))
    run(newsroom, desk.clock, edition)
    order = StandingOrder(timedelta(hours=1), verdict)
    with transaction(newsroom.engine) as session:
        record = session.get_one(EditionRecord, edition)
        assert control.follow(session, record, order, newsroom.provider, desk.clock() + timedelta(minutes=59)) == 0
        followed = control.follow(session, record, order, newsroom.provider, desk.clock() + timedelta(minutes=61))
    assert followed == (10 if verdict else 0)
    told = tally(newsroom, edition)
    assert (told.waiting, told.given_up) == (
        10 if verdict is Verdict.RESEND else 0,
        10 if verdict is Verdict.DROP else 0,
    )


# ------------------------------------------------------------------------------------------ pace


def test_an_hour_takes_no_more_than_its_limit_and_a_restart_does_not_forget(desk: Desk) -> None:
    newsroom, edition = start(desk, 35, provider := Scripted())
    limits = Limits(per_hour=15)
    handed: list[tuple[Any, int]] = []

    for _ in range(20):
        stop = threading.Event()

        def note(_: Any, stop: threading.Event = stop) -> None:
            handed.append((desk.clock(), len(provider.taken)))
            stop.set()

        record = run(
            newsroom,
            desk.clock,
            edition,
            owner=f"run {len(handed)}",
            step=120,
            limits=limits,
            stop=stop,
            report=note,
        )
        if record.state is EditionState.CLOSED:
            break
    assert (record.state, len(provider.taken)) == (EditionState.CLOSED, 35)
    counts = [(at, taken - before) for (at, taken), before in zip(handed, [0, *(n for _, n in handed)], strict=False)]
    for at, _ in counts:
        assert sum(count for other, count in counts if at - timedelta(hours=1) < other <= at) <= 15


def test_a_limited_domain_waits_and_costs_the_others_nothing(desk: Desk) -> None:
    newsroom, edition = start(desk, 20, provider := Scripted())
    limits = Limits(domains={"example.org": 5})
    with transaction(newsroom.engine) as session:
        for number in range(0, 20, 2):
            person = find(session, parse(f"reader{number}@example.org"))
            assert person is not None
            person.address = person.key = f"reader{number}@elsewhere.example"
    stop = threading.Event()
    run(newsroom, desk.clock, edition, limits=limits, stop=stop, report=stop_after(newsroom, 2, stop.set))
    assert len(provider.taken) == 15, "ten elsewhere, five there"
    assert run(newsroom, desk.clock, edition, limits=limits, step=300).state is EditionState.CLOSED
    assert (tally(newsroom, edition).accepted, len(provider.taken)) == (20, 20)


def test_a_warm_up_lets_more_go_each_day(desk: Desk) -> None:
    newsroom, edition = start(desk, 30, provider := Scripted())
    limits = Limits(warm_up=(5, 10, 100), warm_up_from=date(2026, 11, 23))
    record = run(newsroom, desk.clock, edition, limits=limits, step=3_600, report=lambda _: None)
    assert record.state is EditionState.PAUSED, "what the first day leaves is stale the next"
    assert "more than stale_after" in (record.reason or "")
    assert len(provider.taken) == 15


def test_recipients_a_second_are_kept_on_average(desk: Desk) -> None:
    newsroom, edition = start(desk, 40, Scripted())
    before = desk.clock()
    run(newsroom, desk.clock, edition, limits=Limits(per_second=2))
    assert desk.clock() - before >= timedelta(seconds=15)


def test_a_provider_that_throttles_is_called_less_and_recovers(desk: Desk) -> None:
    newsroom, edition = start(desk, 100, Scripted(["throttle", "throttle"]))
    limits = Limits(calls=8)
    with transaction(newsroom.engine) as session:
        pace.pace_of(session, "scripted", limits)
    run(newsroom, desk.clock, edition, limits=replace(limits, calls=1), report=lambda _: None)
    with transaction(newsroom.engine) as session:
        row = pace.pace_of(session, "scripted", limits)
        row.calls = 8
        throttled = _settled(Went.THROTTLED)
        assert pace.heed(row, throttled, limits, desk.clock(), lambda: 0.5) is None
        assert (row.calls, row.not_before) == (4, desk.clock() + timedelta(seconds=30))
        assert pace.leave(session, row, limits, 0, desk.clock()).room == 0
        well = _settled(Went.WELL)
        for _ in range(10):
            pace.heed(row, well, limits, desk.clock(), lambda: 0.5)
        still, rested = row.not_before, desk.clock() + timedelta(seconds=30)
        assert still == rested, "what was called before is no answer to it"
        for _ in range(10):
            pace.heed(row, well, limits, rested, lambda: 0.5)
        assert (row.calls, bool(row.not_before)) == (8, False)


def _settled(went: Went) -> Any:
    return Settlement(BatchState.PENDING, later_after=timedelta(seconds=30), went=went, note=str(went))


def test_a_run_of_failures_pauses_and_says_why(desk: Desk) -> None:
    newsroom, edition = start(desk, 100, provider := Scripted(["unreachable"] * 50))
    record = run(newsroom, desk.clock, edition, step=60, limits=Limits(patience=4))
    assert record.state is EditionState.PAUSED
    assert "4 calls in a row failed; the last: scripted cannot be reached" in (record.reason or "")
    assert (len(provider.calls), tally(newsroom, edition).waiting) == (4, 100)


def test_a_run_of_calls_without_an_answer_does_not_make_a_whole_list_unknown(desk: Desk) -> None:
    newsroom, edition = start(desk, 100, Scripted(["time out"] * 50))
    record = run(newsroom, desk.clock, edition, step=60)
    assert (record.state, tally(newsroom, edition).unknown) == (EditionState.PAUSED, 30)


def test_many_calls_at_once_send_one_copy_each(desk: Desk) -> None:
    newsroom, edition = start(desk, 200, provider := Scripted())
    from newsletter.dispatch import Dispatcher

    dispatcher = Dispatcher(newsroom.engine, provider, desk.clock, timedelta(minutes=5), Limits(calls=6))
    assert dispatcher.run(edition).state is EditionState.CLOSED
    assert len(provider.taken) == len(set(provider.taken)) == 200
    assert tally(newsroom, edition).accepted == 200


def test_a_fault_in_one_of_several_calls_ends_the_run_and_loses_nobody(desk: Desk) -> None:
    newsroom, edition = start(desk, 200, provider := Scripted(["accept", "accept", "bug before"]))
    from newsletter.dispatch import Dispatcher

    dispatcher = Dispatcher(newsroom.engine, provider, desk.clock, timedelta(minutes=5), Limits(calls=3))
    with pytest.raises(ZeroDivisionError):
        dispatcher.run(edition)
    told = tally(newsroom, edition)
    assert (told.holds, told.unknown, told.accepted) == (True, 0, len(provider.taken))


# ------------------------------------------------------------------------------------------ folding


@given(st.lists(st.integers(1, 1 << 40), unique=True, max_size=200).map(sorted))
def test_whatever_is_packed_is_unpacked(people: list[int]) -> None:
    packed = folding.pack(people)
    assert list(folding.unpack(packed)) == people
    assert len(packed) <= 6 * len(people)


def test_a_folded_edition_adds_up_as_before_and_says_who_got_it(desk: Desk) -> None:
    newsroom, edition = start(desk, 25, Scripted(["one bad", "time out"]))
    with transaction(newsroom.engine) as session:
        person = find(session, parse("reader24@example.org"))
        assert person is not None
        person.paused_until = desk.clock() + DAY
    run(newsroom, desk.clock, edition, step=5)
    before = tally(newsroom, edition)
    assert operating.fold_due(newsroom) == [], "not before its time"
    desk.clock.forward(timedelta(days=91))
    assert [one.id for one in operating.fold_due(newsroom)] == [edition]
    assert replace(tally(newsroom, edition), given_up=0) == before
    with reading(newsroom.engine) as session:
        assert session.execute(select(Delivery)).all() == []
        told = {}
        for number in range(25):
            person = find(session, parse(f"reader{number}@example.org"))
            assert person is not None
            (copy,) = folding.copies_of(session, person.id or 0)
            told[number] = copy.outcome
            assert data_of(session, person)["editions"][0]["outcome"] == str(copy.outcome)
    assert told[0] is Outcome.REFUSED
    assert {told[number] for number in range(1, 10)} == {Outcome.ACCEPTED}
    assert {told[number] for number in range(10, 20)} == {Outcome.UNKNOWN}
    assert told[24] is Outcome.SKIPPED
    with pytest.raises(EditionError, match="it is folded"):
        operating.resolve(newsroom, "daily", None, Verdict.RESEND, actor="ada")


def test_folding_that_is_killed_goes_on_where_it_stopped(desk: Desk) -> None:
    newsroom, edition = start(desk, 25, Scripted())
    run(newsroom, desk.clock, edition)
    before = tally(newsroom, edition)
    for done in (10, 20):
        with transaction(newsroom.engine) as session:
            folding.fold(session, session.get_one(EditionRecord, edition), desk.clock(), limit=10)
        with reading(newsroom.engine) as session:
            assert len(session.execute(select(Delivery)).all()) == 25 - done
        assert tally(newsroom, edition) == before, "half-way, too"
    desk.clock.forward(timedelta(days=91))
    operating.fold_due(newsroom)
    assert tally(newsroom, edition) == before


def test_a_delivery_is_named_the_same_whoever_asks_and_read_back() -> None:
    from newsletter.names import Names, tag_of

    tag = tag_of("daily", "2026-11-23T07:00")
    named = Names("abc").of(tag, [1, 2, 1 << 40])
    assert named == Names("abc").of(tag, [1, 2, 1 << 40])
    assert [Names("abc").read(name) for name in named] == [(tag, 1), (tag, 2), (tag, 1 << 40)]
    assert named != Names("other").of(tag, [1, 2, 1 << 40])
    assert Names("abc").read("harbour") is None
    assert AttemptId(named[0]).isalnum()


# ------------------------------------------------------------------------------------------ windows


def test_a_process_that_dies_in_a_long_call_leaves_only_the_unanswered_in_doubt(desk: Desk) -> None:
    newsroom, edition = start(desk, 500, provider := Scripted(["die half-way"], batch_size=500))
    provider.halves = 0.9
    with pytest.raises(Killed):
        run(newsroom, desk.clock, edition, owner="a")
    told = tally(newsroom, edition)
    assert (told.waiting, told.holds) == (500, True), "until its lease is over it may go on"
    desk.clock.forward(timedelta(minutes=6))
    assert run(newsroom, desk.clock, edition, owner="b").state is EditionState.CLOSED
    told = tally(newsroom, edition)
    assert (told.accepted, told.unknown, told.holds) == (400, 100, True)
    assert len(provider.taken) == 450, "and nobody was called for again"


def test_windows_of_a_call_change_nothing_of_what_it_comes_to(desk: Desk) -> None:
    newsroom, edition = start(desk, 1_000, provider := Scripted(["one bad", "one later"], batch_size=500))
    assert run(newsroom, desk.clock, edition, step=60).state is EditionState.CLOSED
    told = tally(newsroom, edition)
    assert (told.accepted, told.refused, told.holds, len(provider.taken)) == (999, 1, True, 999)


# ------------------------------------------------------------------------------------------ what raced or came late


def test_a_call_that_died_in_a_cancelled_edition_is_unknown_and_not_waiting(desk: Desk) -> None:
    newsroom, edition = start(desk, 20, Scripted(["die half-way"]))
    with contextlib.suppress(Killed):
        run(newsroom, desk.clock, edition, owner="gone/1/1")
    operating.cancel(newsroom, "daily", None, actor="ada", reason=None)
    desk.clock.forward(timedelta(minutes=10))
    today = another(newsroom, desk)
    patient(desk.clock, newsroom, today)
    told = tally(newsroom, edition)
    assert (told.waiting, told.unknown, told.cancelled) == (0, 10, 10)


def test_a_cancelled_edition_with_a_call_that_died_can_be_folded(desk: Desk) -> None:
    newsroom, edition = start(desk, 20, Scripted(["die half-way"]))
    with contextlib.suppress(Killed):
        run(newsroom, desk.clock, edition, owner="gone/1/1")
    operating.cancel(newsroom, "daily", None, actor="ada", reason=None)
    desk.clock.forward(timedelta(days=91))
    assert [one.id for one in operating.fold_due(newsroom)] == [edition]
    told = tally(newsroom, edition)
    assert (told.unknown, told.cancelled, told.holds) == (10, 10, True)


def test_a_resumed_edition_goes_on_also_where_somebody_in_it_is_due_later(desk: Desk) -> None:
    newsroom, edition = start(desk, 20, Scripted(["one later"]))
    stop = threading.Event()
    run(newsroom, desk.clock, edition, report=stop_after(newsroom, 1, stop.set), stop=stop)
    record = record_of(newsroom, edition)
    with transaction(newsroom.engine) as session:
        for batch in session.execute(select(Batch).where(col(Batch.parent_id).is_not(None))).scalars():
            batch.due_at = record.slot_at + timedelta(seconds=record.stale_after_s + 900)
    desk.clock.now = record.slot_at + timedelta(seconds=record.stale_after_s + 60)
    assert run(newsroom, desk.clock, edition).state is EditionState.PAUSED
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Dispatcher, "_sleep", lambda self, run, turns, seconds: desk.clock.forward(timedelta(minutes=1)))
        sent = operating.resume(newsroom, "daily", None, actor="ada", report=lambda _: None, stop=threading.Event())
    assert (sent.record.state, sent.record.reason) == (EditionState.CLOSED, None)


def test_what_an_operator_dropped_no_standing_order_sends_again(desk: Desk) -> None:
    newsroom, edition = start(desk, 10, Scripted(["time out"]))
    run(newsroom, desk.clock, edition)
    assert operating.resolve(newsroom, "daily", None, Verdict.DROP, actor="ada") == 10
    order = StandingOrder(timedelta(hours=1), Verdict.RESEND)
    desk.clock.forward(timedelta(hours=2))
    with transaction(newsroom.engine) as session:
        record = session.get_one(EditionRecord, edition)
        assert control.follow(session, record, order, newsroom.provider, desk.clock()) == 0
    assert tally(newsroom, edition).waiting == 0


def test_a_call_that_was_out_before_does_not_lift_a_providers_wish_for_rest(desk: Desk) -> None:
    newsroom = desk.open()
    limits, now = Limits(calls=4), desk.clock()
    with transaction(newsroom.engine) as session:
        row = pace.pace_of(session, "scripted", limits)
        asked = Settlement(BatchState.PENDING, later_after=timedelta(minutes=10), went=Went.THROTTLED, note="429")
        pace.heed(row, asked, limits, now, lambda: 0.5)
        pace.heed(row, Settlement(BatchState.DONE), limits, now + timedelta(seconds=1), lambda: 0.5)
        assert pace.leave(session, row, limits, 0, now + timedelta(seconds=2)).room == 0


def test_calls_that_fail_together_are_one_failure(desk: Desk) -> None:
    newsroom = desk.open()
    limits, now = Limits(calls=8, patience=4), desk.clock()
    failed = Settlement(BatchState.PENDING, went=Went.FAILED, note="refused")
    with transaction(newsroom.engine) as session:
        row = pace.pace_of(session, "scripted", limits)
        assert [pace.heed(row, failed, limits, now, lambda: 0.5) for _ in range(8)] == [None] * 8


def test_what_was_claimed_and_not_called_costs_no_limit(desk: Desk) -> None:
    newsroom, edition = start(desk, 10, provider := Scripted())
    limits = Limits(per_hour=100)

    def pause_first(*args: Any) -> Any:
        operating.pause(newsroom, "daily", None, actor="ada", reason=None)
        args[-1]()
        raise AssertionError

    provider.submit = pause_first  # type: ignore[method-assign,assignment] # it misbehaves in a way of its own
    run(newsroom, desk.clock, edition, limits=limits)
    with reading(newsroom.engine) as session:
        assert sum(session.execute(select(col(Spending.recipients))).scalars()) == 0


def test_no_hour_sees_more_than_its_limit(desk: Desk) -> None:
    newsroom = desk.open()
    limits = Limits(per_hour=100)
    spent_at = desk.clock().replace(minute=0, second=59)
    with transaction(newsroom.engine) as session:
        row = pace.pace_of(session, "scripted", limits)
        pace.spend(session, row, limits, ["a@x.org"] * 100, spent_at)
        assert pace.leave(session, row, limits, 0, spent_at + timedelta(minutes=59, seconds=2)).room == 0
        assert pace.leave(session, row, limits, 0, spent_at + timedelta(minutes=61)).room == 100


def test_many_batches_of_a_domain_that_must_wait_are_not_put_off_in_one_transaction(desk: Desk) -> None:
    newsroom, edition = start(desk, 2_000, Scripted(batch_size=10))
    claims = [0]
    longest = [0]

    def began(*_: Any) -> None:
        claims[0] = 0

    event.listen(newsroom.engine, "begin", began)
    real = ledger.claim

    def counted(*args: Any, **more: Any) -> Any:
        claims[0] += 1
        longest[0] = max(longest[0], claims[0])
        return real(*args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "claim", counted)
        with contextlib.suppress(Never):
            patient(desk.clock, newsroom, edition, rounds=50, limits=Limits(domains={"example.org": 5}), owner="a")
    assert longest[0] <= 50, f"{longest[0]} batches were read and put off under one lock"


class Held(Scripted):
    """Keeps back what it takes; its first recall fails."""

    clock: Callable[[], datetime]
    hold = timedelta(hours=1)
    recalls = 0

    def reserve(self) -> str:
        return "r1"

    def holding(self, recall_id: str) -> "Held":
        return self

    def submit(
        self, message: Message, recipients: Sequence[Recipient], attempt: AttemptId, started: Callable[[], None]
    ) -> Iterator[Receipt]:
        until = self.clock() + self.hold
        for receipt in super().submit(message, recipients, attempt, started):
            yield receipt._replace(held_until=until)

    def recall(self, recall_id: str) -> None:
        self.recalls += 1
        if self.recalls == 1:
            raise Unreachable("scripted", "connection refused")


def test_what_could_not_be_called_back_at_once_can_be_called_back_once_more(desk: Desk) -> None:
    newsroom, edition = start(desk, 40, provider := Held())
    provider.clock = desk.clock
    with transaction(newsroom.engine) as session:
        session.get_one(EditionRecord, edition).recall_id = "r1"
    stop = threading.Event()
    run(newsroom, desk.clock, edition, report=stop_after(newsroom, 2, stop.set), stop=stop)
    first = operating.cancel(newsroom, "daily", None, actor="ada", reason=None)
    assert (first.recalled, first.fault is not None) == (0, True)
    assert operating.cancel(newsroom, "daily", None, actor="ada", reason=None).recalled == 30
    assert tally(newsroom, edition).cancelled == 40


# ------------------------------------------------------------------------------------------ what operators read


def test_an_edition_that_was_cancelled_is_called_so_and_not_gone_out(desk: Desk) -> None:
    newsroom, edition = start(desk, 30, Scripted())
    operating.cancel(newsroom, "daily", None, actor="ada", reason="typo")
    assert tally(newsroom, edition).cancelled == 30
    told = list(report.sent_lines(newsroom.send("daily"), title="Daily", provider="p", mails=None, preview=None))
    assert "CANCELLED  0 accepted by this run, 30 never leave: cancelled by ada: typo" in told
    assert next(report.edition_lines(newsroom.edition("daily"))).endswith("UTC: cancelled by ada: typo")


def test_what_an_operator_gave_up_is_no_trouble_any_more(desk: Desk) -> None:
    newsroom, edition = start(desk, 10, Scripted(["time out"]))
    run(newsroom, desk.clock, edition)
    assert [line.split()[:2] for line in report.trouble_lines(newsroom.send("daily"))] == [["UNKNOWN", "10"]]
    operating.resolve(newsroom, "daily", None, Verdict.DROP, actor="ada")
    assert list(report.trouble_lines(newsroom.send("daily"))) == []


def test_a_limit_that_is_used_up_is_said(desk: Desk) -> None:
    desk.configure(lambda text: text + '\n[dispatch]\nper_hour = 5\ndomains = { "example.org" = 9 }\n')
    newsroom = desk.open()
    with transaction(newsroom.engine) as session:
        row = pace.pace_of(session, newsroom.provider.name, newsroom.limits)
        pace.spend(session, row, newsroom.limits, ["a@example.org"] * 5, desk.clock())
    said = list(report.pace_lines(operating.pace_account(newsroom), newsroom.limits))
    assert "  5 of 5 recipients within the last hour: used up, the others wait" in said
    assert "  5 of 9 recipients of example.org within the last hour" in said
