"""Suppressing many people at once, as a provider tells of a whole edition. One by one it is `lifecycle.suppress`.

What is decided here is what a provider's word weighs: the gravest reason holds, in whatever order they come in; and
nothing holds that was said before an operator lifted an earlier suppression, or of a copy that may have gone to an
address which the person has changed since. The order of statements never matters to what stands at the end.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlmodel import Session, col

from subscribers.address import Mailbox
from subscribers.consent import BY_PROVIDER
from subscribers.lifecycle import ENDS
from subscribers.models import ConsentEvent, Happening, Reason, State, Subscriber, Subscription, Suppression

_AT_ONCE = 500  # parameters of one statement
_LONGEST_NOTE = 500  # as `Suppression.note`
_OPEN = (State.PENDING, State.CONFIRMED)


@dataclass(frozen=True, slots=True)
class Against:
    """What a provider told against mailing a person.

    `at` is when it happened. `sent` is the earliest instant at which the copy can have been given its address; None
    where what was told names the address itself. `note` holds the provider's words, and no address.
    """

    subscriber_id: int
    reason: Reason
    at: datetime
    sent: datetime | None = None
    note: str | None = None


def find_all(session: Session, mailboxes: Iterable[Mailbox]) -> dict[str, int]:
    """The people of many addresses: row numbers by key. Who is on no list, or was erased, is not in it."""
    found: dict[str, int] = {}
    for some in _slices({mailbox.key for mailbox in mailboxes}):
        rows = session.execute(select(col(Subscriber.key), col(Subscriber.id)).where(col(Subscriber.key).in_(some)))
        found |= {key: row for key, row in rows if row is not None}
    return found


def suppress_all(session: Session, against: Sequence[Against], *, now: datetime, actor: str) -> int:
    """Never mail these people again, whatever any list says. Gives how many were not suppressed before.

    A complaint takes the place of every other reason but an erasure, since only the person's own fresh opt-in lifts it.
    """
    grave = _gravest(session, against)
    people: dict[int, str] = {}
    for some in _slices(grave):
        rows = session.execute(
            select(col(Subscriber.id), col(Subscriber.key)).where(
                col(Subscriber.id).in_(some), col(Subscriber.erased_at).is_(None)
            )
        )
        people |= {row: key for row, key in rows if row is not None}
    known: dict[str, Reason] = {}
    for some in _slices(people.values()):
        held = select(col(Suppression.key), col(Suppression.reason)).where(col(Suppression.key).in_(some))
        known |= {key: reason for key, reason in session.execute(held)}  # noqa: C416 # Row unpacks
    fresh = {row: one for row, one in grave.items() if row in people and people[row] not in known}
    graver = {
        row: one
        for row, one in grave.items()
        if row in people and one.reason is Reason.COMPLAINT and known.get(people[row], one.reason) is not one.reason
    }
    lines: list[dict[str, Any]] = []

    def line(row: int, event: Happening, list_id: int | None = None, **more: Any) -> None:
        told = {"evidence": None, "before": None} | more
        lines.append(
            {
                "at": now,
                "subscriber_id": row,
                "list_id": list_id,
                "event": event,
                "actor": actor,
                "way": BY_PROVIDER.way,
                **told,
            }
        )

    if fresh:
        session.execute(
            insert(Suppression),
            [{"key": people[row], "reason": one.reason, "at": now, "note": _note(one)} for row, one in fresh.items()],
        )
    for some in _slices([people[row] for row in graver]):
        session.execute(
            update(Suppression)
            .where(col(Suppression.key).in_(some))
            .values(reason=Reason.COMPLAINT)
            .execution_options(synchronize_session=False)
        )
    for row, one in (*fresh.items(), *graver.items()):
        line(row, Happening.SUPPRESSED, evidence=f"{one.reason}: {one.note}" if one.note else str(one.reason))
    _end_subscriptions(session, {**fresh, **graver}, line, now)
    if lines:
        session.execute(insert(ConsentEvent), lines)
    return len(fresh)


def _note(one: Against) -> str | None:
    return one.note[:_LONGEST_NOTE] if one.note else None


def _gravest(session: Session, against: Sequence[Against]) -> dict[int, Against]:
    """One word for each person: a complaint before a bounce, and of each kind the latest; without what is over."""
    people = {one.subscriber_id for one in against}
    lifted = _latest(session, people, Happening.UNSUPPRESSED, None)
    moved = _latest(session, people, Happening.CHANGED, "address")
    grave: dict[int, Against] = {}
    for one in against:
        row = one.subscriber_id
        if row in lifted and lifted[row] >= one.at:
            continue
        if one.sent is not None and row in moved and moved[row] >= one.sent:
            continue
        before = grave.get(row)
        if before is None or (one.reason is Reason.COMPLAINT, one.at) > (before.reason is Reason.COMPLAINT, before.at):
            grave[row] = one
    return grave


def _latest(session: Session, people: Iterable[int], event: Happening, evidence: str | None) -> dict[int, datetime]:
    """When something last happened to each of these people, by the log."""
    found: dict[int, datetime] = {}
    for some in _slices(people):
        query = select(col(ConsentEvent.subscriber_id), func.max(col(ConsentEvent.at))).where(
            col(ConsentEvent.subscriber_id).in_(some), col(ConsentEvent.event) == event
        )
        if evidence is not None:
            query = query.where(col(ConsentEvent.evidence) == evidence)
        rows = session.execute(query.group_by(col(ConsentEvent.subscriber_id)))
        found |= {row: at for row, at in rows if row is not None}
    return found


def _end_subscriptions(
    session: Session, against: Mapping[int, Against], line: Callable[..., None], now: datetime
) -> None:
    """End what these people are subscribed to. A complaint also takes the place of a bounce."""
    ended: dict[State, list[int]] = {}
    for some in _slices(against):
        rows = session.execute(
            select(
                col(Subscription.id),
                col(Subscription.subscriber_id),
                col(Subscription.list_id),
                col(Subscription.state),
            )
            .where(col(Subscription.subscriber_id).in_(some), col(Subscription.state).in_([*_OPEN, State.BOUNCED]))
            .order_by(col(Subscription.id))
        )
        for subscription, row, list_id, state in rows:
            reason = against[row].reason
            if reason in ENDS and (state in _OPEN or reason is Reason.COMPLAINT):
                end, happening = ENDS[reason]
                ended.setdefault(end, []).append(subscription or 0)
                line(row, happening, list_id, before={"state": str(state)})
    for end, subscriptions in ended.items():
        for some in _slices(subscriptions):
            session.execute(
                update(Subscription)
                .where(col(Subscription.id).in_(some))
                .values(state=end, changed_at=now)
                .execution_options(synchronize_session=False)
            )


def _slices(values: Iterable[Any]) -> Iterator[list[Any]]:
    every = list(values)
    return (every[start : start + _AT_ONCE] for start in range(0, len(every), _AT_ONCE))
