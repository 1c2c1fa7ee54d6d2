"""What a row of a file makes of a person: the rule that an import raises nobody's consent.

Pure: how somebody stands goes in, what changes comes out; no database, no clock. `subscribers.transfer` asks it for
every row, in the order of the file.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from subscribers.dialects import Standing
from subscribers.models import Happening, Reason, State

Events = list[tuple[str, str | None, str | None]]
"""What happened to a person, in order: the event, a note, the state before it. None: there is none to tell."""


@dataclass(slots=True)
class Person:
    """How a person of a batch stands, and what the batch has changed. `state` None: no subscription to the list."""

    id: int | None = None  # None: new
    name: str | None = None
    language: bool = False  # whether there is one already
    zone: bool = False
    topics: bool = False
    subscription: int | None = None
    state: str | None = None
    word: str | None = None  # their last word on the list, asked where they are not confirmed
    suppressed: str | None = None  # the reason
    erased: bool = False
    address: str = ""
    filled: list[Any] | None = None  # language, zone, topics, paused until: what this batch gives them
    events: Events = field(default_factory=list)
    held: str | None = None  # the reason of a suppression that this batch adds
    renamed: bool = False
    nameless: Events = field(default_factory=list)  # what happened to the address while it was nobody's

    @property
    def is_here(self) -> bool:
        """Whether there is a row of them, or will be with this batch."""
        return self.id is not None or self.state is not None

    @classmethod
    def of(cls, row: Sequence[Any] | None, *, suppressed: str | None = None, erased: bool = False) -> Self:
        """A person as the database knows them, None for somebody new."""
        if row is None:
            return cls(suppressed=suppressed, erased=erased)
        _, number, name, language, zone, topics, subscription, state, word = row
        has = (bool(language), bool(zone), bool(topics))
        return cls(number, name, *has, subscription, state, word, suppressed, erased)

    @property
    def is_changed(self) -> bool:
        """Whether there is anything to write of them."""
        return bool(self.events or self.renamed or self.filled or self.nameless)


_AGAINST = frozenset((State.UNSUBSCRIBED.value, State.BOUNCED.value, State.COMPLAINED.value))
_SAID_NO = frozenset((Happening.LEFT.value, Happening.BOUNCED.value, Happening.COMPLAINED.value))
_LOWERED = {
    Standing.UNSUBSCRIBED.value: (State.UNSUBSCRIBED.value, Happening.LEFT.value, None),
    Standing.BOUNCED.value: (State.BOUNCED.value, Happening.BOUNCED.value, Reason.HARD_BOUNCE.value),
    Standing.COMPLAINED.value: (State.COMPLAINED.value, Happening.COMPLAINED.value, Reason.COMPLAINT.value),
}
ENDS = {
    Reason.HARD_BOUNCE.value: (State.BOUNCED.value, Happening.BOUNCED.value),
    Reason.COMPLAINT.value: (State.COMPLAINED.value, Happening.COMPLAINED.value),
}
"""What a suppression makes of the subscriptions of its address, to whatever list."""
_HOLDS = {
    Standing.UNSUBSCRIBED.value: Reason.OPERATOR.value,
    Standing.SUPPRESSED.value: Reason.OPERATOR.value,
    Standing.BOUNCED.value: Reason.HARD_BOUNCE.value,
    Standing.COMPLAINED.value: Reason.COMPLAINT.value,
}
USUAL, _HELD, _TEMPORARY = Standing.AS_ASKED.value, Standing.SUPPRESSED.value, Standing.TEMPORARY.value
CONFIRMED, PENDING = State.CONFIRMED.value, State.PENDING.value
JOINED = {CONFIRMED: Happening.CONFIRMED.value, PENDING: Happening.REQUESTED.value}
ADDED, UPDATED, UNCHANGED = "added", "updated", "unchanged"
OUTCOMES = frozenset((ADDED, UPDATED, UNCHANGED))
REFUSALS = {
    "erased": "expected somebody who may be mailed; they had themselves erased: only their own sign-up lifts that",
    "left": "expected somebody who may be added; they have left, bounced or complained before: "
    "only their own fresh opt-in lifts that",
    **{
        f"suppressed ({reason.value})": f"expected an address that may be mailed; it is suppressed ({reason.value})"
        for reason in Reason
    },
    **{
        f"{state} before": f"expected somebody who may be added; they are {state} there: "
        "only their own fresh opt-in lifts that"
        for state in sorted(_AGAINST)
    },
    "temporary": "expected an address that will never take mail; a block or deferral is temporary",
    "subscribed": "expected an address not to be mailed; its row says that the person is subscribed",
}
"""Why a row is refused, for counting, and as a sentence."""


def settle(person: Person, standing: str, name: str | None, more: Sequence[Any] | None, wanted: str) -> str:
    """What a row makes of a person: added, updated, unchanged, or a key of `REFUSALS`.

    `wanted` is the state that the import gives people whose row says nothing against it.
    """
    if (refusal := _refusal(person, standing)) is not None:
        return refusal
    if standing == _HELD:
        return _hold(person, Reason.OPERATOR.value)
    lowered = _LOWERED.get(standing)
    outcome, new = UNCHANGED, not person.is_here
    if lowered is not None:
        state, happening, reason = lowered
        if person.state not in _AGAINST:
            outcome = ADDED if person.state is None else UPDATED
            # As `subscribers.lifecycle.suppress` has it, so that a bounce that an operator lifts can be undone.
            person.events.append((happening, None, person.state if reason is not None else None))
            person.state = state
        if reason is not None and _hold(person, reason) == ADDED and outcome == UNCHANGED:
            outcome = UPDATED
    elif person.state is None:
        outcome = ADDED
        person.state = wanted if standing == USUAL else PENDING
        person.events.append((JOINED[person.state], None, None))
    changed = _describe(person, name, more, new=new)
    return UPDATED if changed and outcome == UNCHANGED else outcome


def _refusal(person: Person, standing: str) -> str | None:
    """Why a row cannot be taken, None where it can: what lowers always can, but for who was erased."""
    if person.erased:
        return "erased"
    if standing == _HELD or standing in _LOWERED:
        return None
    if person.suppressed is not None:
        return f"suppressed ({person.suppressed})"
    if person.state in _AGAINST:
        return f"{person.state} before"
    return "left" if person.word in _SAID_NO else None


def _describe(person: Person, name: str | None, more: Sequence[Any] | None, *, new: bool) -> bool:
    """Take a row's name, and what it knows of preferences where the person has none. True where that changed them."""
    changed = False
    if name and name != person.name:
        person.name, person.renamed, changed = name, True, True
    if more is None:
        return changed
    language, zone, topics, paused = more
    filled = list(person.filled or (None, None, None, None))
    if language and not person.language:
        filled[0], person.language = language, True
    if zone and not person.zone:
        filled[1], person.zone = zone, True
    if topics and not person.topics:
        filled[2], person.topics = json.dumps(topics), True
    if paused and new:  # who is here already has had the last word on a pause themselves
        filled[3] = datetime.fromisoformat(paused)
    if filled == list(person.filled or (None, None, None, None)):
        return changed
    person.filled = filled
    if not new:
        person.events.append((Happening.CHANGED.value, None, None))
    return True


def _hold(person: Person, reason: str) -> str:
    """Never mail them; an earlier reason stays."""
    if person.suppressed is not None:
        return UNCHANGED
    person.suppressed = person.held = reason
    told = person.events if person.is_here else person.nameless
    told.append((Happening.SUPPRESSED.value, f"{reason}: import", None))
    return ADDED


def settle_suppression(person: Person, standing: str) -> str:
    """The same for a row of a list of addresses not to be mailed."""
    if standing == _TEMPORARY:
        return "temporary"
    if standing not in _HOLDS:
        return "subscribed"
    return UNCHANGED if person.erased else _hold(person, _HOLDS[standing])
