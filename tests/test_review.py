"""What a review of dispatch found, and what keeps it mended."""

import contextlib
import threading
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event, update
from sqlalchemy.exc import DBAPIError, IntegrityError, InternalError, OperationalError
from sqlmodel import Session, col

from newsletter import control, dispatch, ledger, operating, pace
from newsletter.control import StandingOrder, Verdict
from newsletter.dispatch import Dispatcher, _Claim, _Run
from newsletter.edition import AttemptId, DeliveryId, Receipt, Result
from newsletter.models import Batch, BatchState, EditionRecord, Outcome, Pace
from newsletter.names import Names
from newsletter.newsroom import Newsroom
from newsletter.pace import Limits
from newsletter.settlement import Settlement, Went, settle
from subscribers import Writer, transaction
from tests.conftest import NOW, Desk
from tests.test_control import record_of
from tests.test_dispatch import Scripted, another, run, start, tally


def by_turns(desk: Desk, newsroom: Newsroom, editions: Sequence[int], calls: int = 1) -> list[int]:
    """Dispatch editions at once, a step of each of their threads every 200 ms. Gives who called."""
    limits, lease = Limits(calls=calls), timedelta(minutes=5)
    going = []
    for edition in editions:
        owner = f"of edition {edition}"
        dispatcher = Dispatcher(newsroom.engine, newsroom.provider, desk.clock, lease, limits, owner=owner)
        names, writer = Names("x"), Writer(newsroom.engine)
        one = _Run(record_of(newsroom, edition), edition, 1, names, writer, threading.Semaphore(64))
        going += [(dispatcher, one, number) for number in range(calls * pace.AHEAD)]
    answered: dict[tuple[int, int], Any] = {}
    called: list[int] = []
    while going:
        for thread in list(going):
            dispatcher, one, number = thread
            step = dispatcher._step(one, answered.pop((one.edition_id, number), None))
            if step is None:
                going.remove(thread)
            elif isinstance(step, _Claim):
                answered[one.edition_id, number] = dispatcher._call(one, step)
                called.append(one.edition_id)
        desk.clock.forward(timedelta(milliseconds=200))
    return called


def two_editions(desk: Desk, people: int) -> tuple[Newsroom, int, int]:
    newsroom, first = start(desk, people, Scripted())
    second = another(newsroom, desk)
    with transaction(newsroom.engine) as session:
        control.promise_anew(session, session.get_one(EditionRecord, first), desk.clock())
    return newsroom, first, second


@pytest.mark.parametrize("calls", [1, 4])
def test_two_editions_at_once_take_turns(desk: Desk, calls: int) -> None:
    newsroom, first, second = two_editions(desk, 400)
    called = by_turns(desk, newsroom, [first, second], calls)
    half = called[: len(called) // 2]
    assert min(half.count(first), half.count(second)) >= len(half) // 3, called
    for edition in (first, second):
        assert tally(newsroom, edition).accepted == 400
    assert max(Counter(newsroom.provider.taken).values()) == 1  # type: ignore[attr-defined] # Scripted has it


def test_an_edition_gives_way_to_nobody_who_is_gone(desk: Desk) -> None:
    newsroom, first, second = two_editions(desk, 100)
    with transaction(newsroom.engine) as session:
        pace.queue(pace.pace_of(session, "scripted", Limits()), second, desk.clock())
    began = desk.clock()
    by_turns(desk, newsroom, [first])
    assert tally(newsroom, first).accepted == 100
    assert desk.clock() - began < timedelta(seconds=10)


@given(
    st.dictionaries(st.integers(1, 5), st.floats(0, 30)),
    st.dictionaries(st.integers(1, 5), st.integers(0, 3)),
    st.integers(1, 5),
)
def test_of_the_editions_that_wait_one_always_goes(waited: dict[int, float], held: dict[int, int], mine: int) -> None:
    row = Pace(provider="scripted", calls=1)
    for edition, seconds in waited.items():
        pace.queue(row, edition, NOW - timedelta(seconds=seconds))
    pace.queue(row, mine, NOW)
    waiting = pace._waiting(row, NOW)
    assert [pace.turn(row, edition, held, NOW).waits for edition in waiting].count(False) == 1


def test_a_standing_order_to_resend_is_followed_once_a_copy(desk: Desk) -> None:
    """A call that is taken each time, and never answered, while others go well in between."""
    newsroom, edition = start(desk, 10, provider := Scripted(["time out"] * 9))
    order = StandingOrder(timedelta(minutes=1), Verdict.RESEND)
    for _ in range(6):
        with transaction(newsroom.engine) as session:
            control.follow(session, session.get_one(EditionRecord, edition), order, provider, desk.clock())
        run(newsroom, desk.clock, edition, step=60, order=order)
        desk.clock.forward(timedelta(hours=1))
        with transaction(newsroom.engine) as session:
            row = pace.pace_of(session, "scripted", Limits())
            pace.heed(row, Settlement(BatchState.DONE), Limits(), desk.clock(), lambda: 0.5)
    assert {provider.taken.count(one) for one in provider.taken} == {2}
    operating.resolve(newsroom, "daily", None, Verdict.RESEND, actor="ada")
    run(newsroom, desk.clock, edition)
    assert {provider.taken.count(one) for one in provider.taken} == {3}, "a person may say so as often as they like"


@pytest.mark.parametrize("script", [["silent about one", "time out"], ["time out", "one later", "time out"]])
def test_a_copy_that_was_resent_by_a_standing_order_stays_so_in_another_batch(desk: Desk, script: list[str]) -> None:
    newsroom, edition = start(desk, 10, provider := Scripted([*script]))
    order = StandingOrder(timedelta(minutes=1), Verdict.RESEND)
    for _ in range(4):
        run(newsroom, desk.clock, edition, step=60, order=order)
        desk.clock.forward(timedelta(hours=1))
        with transaction(newsroom.engine) as session:
            control.follow(session, session.get_one(EditionRecord, edition), order, provider, desk.clock())
    assert len(provider.calls) == len(script)
    assert tally(newsroom, edition).unknown == 1


def test_a_standing_order_is_followed_after_the_edition_has_closed(desk: Desk) -> None:
    """Nothing else waits as a rule when `unknown_wait` is over."""
    desk.configure(lambda text: text + '\n[dispatch]\non_unknown = "drop"\n')
    newsroom, edition = start(desk, 10, Scripted(["time out"]))
    run(newsroom, desk.clock, edition)
    desk.clock.forward(timedelta(hours=2))
    newsroom.send("daily")
    assert tally(newsroom, edition).given_up == 10


def claim(session: Session, record: EditionRecord, owner: str, until: datetime, now: datetime) -> tuple[Batch, Any]:
    attempt = AttemptId("0" * 24)
    found = ledger.claim(session, record, owner=owner, lease_until=until, attempt=attempt, now=now)
    assert found is not None
    return found


def test_nothing_waits_for_a_time_that_a_wrong_clock_has_written(desk: Desk) -> None:
    """Limits, a wish for rest, a batch that was put off and a dead process's lease: all of a year to come."""
    newsroom, edition = start(desk, 40, provider := Scripted())
    limits, right = Limits(per_second=10, per_hour=1_000), desk.clock()
    wrong = right + timedelta(days=400)
    with transaction(newsroom.engine) as session:
        record = session.get_one(EditionRecord, edition)
        row = pace.pace_of(session, "scripted", limits)
        pace.spend(session, row, limits, ["a@example.org"] * 1_000, wrong)
        pace.heed(row, Settlement(BatchState.PENDING, went=Went.THROTTLED), limits, wrong, lambda: 0.5)
        pace.queue(row, 77, wrong)
        batch, _ = claim(session, record, "elsewhere", wrong, right)
        claim(session, record, "elsewhere", wrong, right)
        ledger.release(session, batch, BatchState.PENDING, note="throttled", now=right)
        session.execute(update(Batch).where(col(Batch.id) == batch.id).values(due_at=wrong))
    run(newsroom, desk.clock, edition, limits=limits)
    assert tally(newsroom, edition).accepted == 40
    assert desk.clock() - right < timedelta(minutes=1)
    assert len(provider.taken) == 40


@pytest.mark.sqlite("it asks for the query plan in SQLite's words")
def test_what_each_call_asks_of_batches_is_answered_by_an_index_alone(desk: Desk) -> None:
    """However many there are: else each claim of an edition sorts all that wait, and each record reads all."""
    newsroom, edition = start(desk, 10, Scripted())
    plans: dict[str, list[str]] = {}

    def explain(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:  # its form
        if "batch" in statement and statement.startswith(("SELECT", "UPDATE")):
            found = connection.connection.driver_connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans.setdefault(statement, []).extend(row[3] for row in found)

    event.listen(newsroom.engine, "after_cursor_execute", explain)
    run(newsroom, desk.clock, edition)
    every = [line for plan in plans.values() for line in plan]
    (claims,) = [plan for statement, plan in plans.items() if "ORDER BY batch.due_at, batch.number" in statement]
    assert set(claims) == {"SEARCH batch USING INDEX ix_batch_next (edition_id=? AND state=? AND due_at<?)"}
    assert any("COVERING INDEX ix_batch_turn" in line for line in every)
    assert any("COVERING INDEX ix_batch_promised" in line for line in every)


def test_an_operators_word_also_forgets_what_the_limit_a_second_has_used_up() -> None:
    row = Pace(provider="scripted", calls=1, free_at=NOW + timedelta(hours=1), not_before=NOW)
    pace.rested(row)
    assert (row.free_at, row.not_before) == (None, None)


def test_batches_larger_than_a_limit_that_was_lowered_still_go_and_more_slowly(desk: Desk) -> None:
    newsroom, edition = start(desk, 30, provider := Scripted())
    began = desk.clock()
    run(newsroom, desk.clock, edition, limits=Limits(per_second=1))
    assert tally(newsroom, edition).accepted == 30
    assert [len(call) for call in provider.calls] == [10, 10, 10]
    assert timedelta(seconds=20) <= desk.clock() - began < timedelta(seconds=40)


def test_batches_larger_than_a_lowered_limit_an_hour_are_cut(desk: Desk) -> None:
    newsroom, edition = start(desk, 20, provider := Scripted())
    run(newsroom, desk.clock, edition, step=60, limits=Limits(per_hour=4))
    assert tally(newsroom, edition).accepted == 20
    assert max(len(call) for call in provider.calls) <= 4


def test_where_there_is_no_room_for_a_thread_those_that_began_record_what_they_did(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    newsroom, edition = start(desk, 100, provider := Scripted())
    begin = threading.Thread.start
    begun: list[threading.Thread] = []

    def full(thread: threading.Thread) -> None:
        if len(begun) == 2:
            raise RuntimeError("can't start new thread")
        begun.append(thread)
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", full)
    with pytest.raises(RuntimeError, match="can't start"):
        run(newsroom, desk.clock, edition, limits=Limits(calls=4))
    monkeypatch.undo()
    assert not any(thread.is_alive() for thread in begun)
    found = tally(newsroom, edition)
    assert (found.accepted, found.unknown, found.waiting) == (len(provider.taken), 0, 100 - len(provider.taken))
    run(newsroom, desk.clock, edition)
    assert len(set(provider.taken)) == len(provider.taken) == 100


@pytest.mark.parametrize(
    ("told", "counts"),
    [
        ([Result.ACCEPTED, Result.REFUSED], Result.ACCEPTED),
        ([Result.REFUSED, Result.ACCEPTED], Result.REFUSED),
        ([Result.DEFERRED, Result.ACCEPTED, Result.REFUSED], Result.ACCEPTED),
        ([Result.UNKNOWN, Result.REFUSED], Result.REFUSED),
        ([Result.UNKNOWN, Result.NOT_TRIED], Result.UNKNOWN),
        ([Result.NOT_TRIED, Result.UNKNOWN, Result.DEFERRED], Result.UNKNOWN),
    ],
)
def test_of_several_receipts_for_one_copy_the_first_that_is_final_counts(told: list[Result], counts: Result) -> None:
    receipts = [Receipt(DeliveryId("a"), result, "said") for result in told]
    both = {DeliveryId("a"): 1, DeliveryId("b"): 2}
    settled = settle(both, [*receipts, Receipt(DeliveryId("b"), Result.ACCEPTED)], None)
    found = settled.outcomes.get(1, (Outcome.ACCEPTED, None))[0]
    assert found == counts.value
    assert not settled.later


def test_a_person_is_asked_once_about_a_refusal_whatever_happens_in_between(desk: Desk) -> None:
    newsroom, edition = start(desk, 10, Scripted(batch_size=10))
    with transaction(newsroom.engine) as session:
        record = session.get_one(EditionRecord, edition)
        batch, _ = claim(session, record, "a", desk.clock() + timedelta(minutes=5), desk.clock())
        claimed = ledger.Claimed(edition, batch.id or 0, 1, 1, 0, 1, NOW, AttemptId("0" * 24), (), {})
        assert not ledger.suspect(session, claimed).asked
        ledger.give_back(session, claimed, due_at=NOW, note="refused", asked_at=NOW)
        session.execute(update(Batch).values(note="scripted cannot be reached"))
        assert ledger.suspect(session, claimed).asked


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (OperationalError("x", None, Exception()), True),
        (InternalError("x", None, Exception(), connection_invalidated=True), True),
        (InternalError("x", None, Exception()), False),
        (IntegrityError("x", None, Exception()), False),
    ],
)
def test_an_answer_is_written_again_where_the_connection_was_lost(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, error: DBAPIError, passes: bool
) -> None:
    newsroom, edition = start(desk, 10, provider := Scripted())
    finish = ledger.finish
    failed: list[DBAPIError] = []

    def cut(*args: Any, **more: Any) -> bool:
        if not failed:
            failed.append(error)
            raise error
        return finish(*args, **more)

    monkeypatch.setattr(ledger, "finish", cut)
    monkeypatch.setattr(dispatch, "_WRITE_AGAIN", timedelta())
    with contextlib.nullcontext() if passes else pytest.raises(type(error)):
        run(newsroom, desk.clock, edition)
    assert tally(newsroom, edition).accepted == (10 if passes else 0)
    assert len(provider.taken) == 10
