"""What a review of dispatch found, and what keeps it mended."""

import threading
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from newsletter import control, operating, pace
from newsletter.control import StandingOrder, Verdict
from newsletter.dispatch import Dispatcher, _Claim, _Run
from newsletter.models import BatchState, EditionRecord, Pace
from newsletter.names import Names
from newsletter.newsroom import Newsroom
from newsletter.pace import Limits
from newsletter.settlement import Settlement
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
