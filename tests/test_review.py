"""What a review of dispatch found and did not mend: each fails until it is."""

import threading
from datetime import timedelta
from typing import Any

import pytest

from newsletter import control, pace
from newsletter.control import StandingOrder, Verdict
from newsletter.dispatch import Dispatcher, _Run, _Wait
from newsletter.models import BatchState, EditionRecord
from newsletter.names import Names
from newsletter.pace import Limits
from newsletter.settlement import Settlement
from subscribers import Writer, transaction
from tests.conftest import Desk
from tests.test_control import record_of
from tests.test_dispatch import Scripted, another, run, start, tally


@pytest.mark.xfail(strict=True, reason="one records and claims in one transaction, and the others get no turn")
def test_two_editions_at_once_take_turns(desk: Desk) -> None:
    newsroom, first = start(desk, 100, provider := Scripted())
    second = another(newsroom, desk)
    with transaction(newsroom.engine) as session:
        control.promise_anew(session, session.get_one(EditionRecord, first), desk.clock())
    other = Dispatcher(newsroom.engine, provider, desk.clock, timedelta(minutes=5), owner="b")
    waits: list[str] = []

    def look(_: Any) -> None:

        one = _Run(record_of(newsroom, second), second, 1, Names("x"), Writer(newsroom.engine), threading.Semaphore(1))
        step = other._step(one, None)
        waits.append("waits" if isinstance(step, _Wait) else "goes")

    run(newsroom, desk.clock, first, report=look)
    assert "goes" in waits[:-1], waits


@pytest.mark.xfail(strict=True, reason="nothing counts how often a copy was resent")
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
    copies = max(provider.taken.count(one) for one in provider.taken)
    assert copies <= 2, f"{copies} copies each"


def test_a_standing_order_is_followed_after_the_edition_has_closed(desk: Desk) -> None:
    """Nothing else waits as a rule when `unknown_wait` is over."""
    desk.configure(lambda text: text + '\n[dispatch]\non_unknown = "drop"\n')
    newsroom, edition = start(desk, 10, Scripted(["time out"]))
    run(newsroom, desk.clock, edition)
    desk.clock.forward(timedelta(hours=2))
    newsroom.send("daily")
    assert tally(newsroom, edition).given_up == 10
