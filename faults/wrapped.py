"""What can be done to a run from inside its own process, before the command begins: a moment to die at, another clock.

Public functions of the program are wrapped by name. A run that is to be killed at a moment kills itself there, with
SIGKILL, so that nothing after it is done: no handler, no rollback, no flush.
"""

import itertools
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import event
from sqlmodel import Session

P = ParamSpec("P")
T = TypeVar("T")

BOUNDARIES = tuple(
    f"{what}.{when}"
    for what in ("freeze", "claim", "call", "record")
    for when in ("before", "within", "commit", "committed")
)
"""The moments around what dispatch writes: before the function, after it with its transaction open, just before the
commit, just after. `call` is the last act before the first byte leaves, and `call.before` follows the building."""
FILES = ("file.before", "file.after")
"""The moments around an outbox's rename of a whole copy into its place."""


@dataclass(frozen=True)
class Fault:
    """What a run suffers: a signal at the nth time that it comes to a moment, a clock that jumps, short back-offs.

    `jumps` is the seconds that the clock may be off at most, forward and back; a new error is drawn every half second
    of the run from `seed`. `back_off` is in seconds, the first and the longest; None leaves them as they are.
    """

    at: str | None = None
    nth: int = 1
    number: int = signal.SIGKILL
    jumps: float = 0
    seed: int = 0
    back_off: float | None = None

    def told(self) -> dict[str, Any]:
        """As JSON tells it."""
        return {**asdict(self), "number": int(self.number)}


def prepare(fault: Fault) -> None:
    """Make this process suffer it."""
    if fault.back_off is not None:
        from newsletter import settlement

        settlement.FIRST_BACK_OFF = settlement.LONGEST_BACK_OFF = timedelta(seconds=fault.back_off)
    if fault.jumps:
        _jump(fault.jumps, fault.seed)
    if fault.at is not None:
        _strike_at(fault)


def _strike_at(fault: Fault) -> None:
    from newsletter import ledger

    assert fault.at is not None
    counter = itertools.count(1)

    def strike(*_: object) -> None:
        if next(counter) == fault.nth:
            os.kill(os.getpid(), fault.number)

    what, _, when = fault.at.partition(".")
    if what == "file":
        os.rename = _around(os.rename, before=strike if when == "before" else None,
                            after=strike if when == "after" else None)  # fmt: skip
        return
    name = {"freeze": "freeze", "claim": "claim", "call": "begin_call", "record": "finish"}[what]
    setattr(ledger, name, _in_session(getattr(ledger, name), when, strike))


def _around(
    function: Callable[P, T], before: Callable[[], None] | None, after: Callable[[], None] | None
) -> Callable[P, T]:
    def around(*args: P.args, **named: P.kwargs) -> T:
        if before is not None:
            before()
        came_to = function(*args, **named)
        if after is not None:
            after()
        return came_to

    return around


def _in_session(
    function: Callable[Concatenate[Session, P], T], when: str, strike: Callable[..., None]
) -> Callable[Concatenate[Session, P], T]:
    """A function of the ledger that is struck at one of the four moments, where it had something to do."""

    def struck(session: Session, /, *args: P.args, **named: P.kwargs) -> T:
        if when == "before":
            strike()
        came_to = function(session, *args, **named)
        if not came_to:
            return came_to
        if when == "within":
            strike()
        elif when in {"commit", "committed"}:
            event.listen(session, "before_commit" if when == "commit" else "after_commit", strike, once=True)
        return came_to

    return struck


def _jump(most: float, seed: int) -> None:
    """Open newsrooms with a clock that is now ahead and now behind."""
    from newsletter.newsroom import Newsroom

    began = time.monotonic()
    chance = random.Random(seed)
    errors = [chance.uniform(-most, most) for _ in range(1_000)]

    def clock() -> datetime:
        error = errors[int((time.monotonic() - began) * 2) % len(errors)]
        return datetime.now(UTC) + timedelta(seconds=error)

    opened = Newsroom.open.__func__  # type: ignore[attr-defined] # of a class method

    def open_with(cls: type[Newsroom], settings: Any, _clock: Any = None) -> Newsroom:
        return opened(cls, settings, clock)  # type: ignore[no-any-return] # the same

    Newsroom.open = classmethod(open_with)  # type: ignore[assignment] # the same from outside
