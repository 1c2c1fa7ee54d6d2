"""What the ledger's rows add up to: the conservation sum, how fast it goes, and who is in trouble, by name.

Read only, and of one state of the database: the caller's session. A folded edition adds up to the same as before.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import and_, case, func, select
from sqlmodel import Session, col

from newsletter.edition import DeliveryId
from newsletter.ledger import batch_of_delivery, is_ahead, members
from newsletter.models import (
    Batch,
    BatchState,
    Delivery,
    EditionRecord,
    Fate,
    FoldedDeliveries,
    Outcome,
)
from newsletter.names import Names
from newsletter.store import instance
from subscribers import Subscriber

_RATE_OVER = timedelta(minutes=5)
_WAITING = "waiting"
_WORDS = {
    BatchState.DONE: Outcome.ACCEPTED.value,
    BatchState.UNKNOWN: Outcome.UNKNOWN.value,
    BatchState.CANCELLED: Outcome.CANCELLED.value,
}


@dataclass(frozen=True, slots=True)
class Tally:
    """The conservation sum of a frozen edition: `candidates` were counted at the freeze, the rest is counted now.

    Of the unknown, `given_up` are left so by an operator's word; the others may still be told.
    """

    candidates: int
    accepted: int = 0
    refused: int = 0
    suppressed: int = 0
    skipped: int = 0
    cancelled: int = 0
    unknown: int = 0
    waiting: int = 0
    given_up: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)  # "suppressed: suppressed" -> how many
    fates: Mapping[str, int] = field(default_factory=dict)  # what events told of them so far

    @property
    def holds(self) -> bool:
        """Whether every candidate is accounted for, once."""
        return self.candidates == (
            self.accepted + self.refused + self.suppressed + self.skipped + self.cancelled + self.unknown + self.waiting
        )


def tally(session: Session, record: EditionRecord) -> Tally:
    """Count an edition's deliveries by what became of them."""
    counts: dict[str, int] = {}
    reasons: dict[str, int] = {}
    given_up = 0
    folded = _folded(session, record) if record.folded_at else ()
    for word, reason, count in (*_own(session, record), *folded):
        counts[word] = counts.get(word, 0) + count
        if reason:
            said = word if reason == word else f"{word}: {reason}"
            reasons[said] = reasons.get(said, 0) + count
    for state, count in _open(session, record):
        word = _WORDS.get(state, _WAITING)
        counts[word] = counts.get(word, 0) + count
    if counts.get(Outcome.UNKNOWN.value) and not record.folded_at:
        given_up = _given_up(session, record)
    fates = _fates(session, record)
    return Tally(candidates=record.candidates or 0, reasons=reasons, fates=fates, given_up=given_up, **counts)


def _own(session: Session, record: EditionRecord) -> Iterator[tuple[str, str | None, int]]:
    """The deliveries with an outcome of their own."""
    rows = session.execute(
        select(col(Delivery.outcome), col(Delivery.reason), func.count())
        .where(col(Delivery.edition_id) == record.id, col(Delivery.outcome).is_not(None))
        .group_by(col(Delivery.outcome), col(Delivery.reason))
    )
    return ((str(outcome), reason, count) for outcome, reason, count in rows)


def _open(session: Session, record: EditionRecord) -> Iterator[tuple[BatchState, int]]:
    """How many deliveries are as their batch is, by its state."""
    still = col(Delivery.outcome).is_(None)
    in_range = and_(
        col(Delivery.id).between(col(Batch.first_id), col(Batch.last_id)),
        col(Delivery.batch_id).is_(None),
        (col(Delivery.edition_id) + 0) == col(Batch.edition_id),
    )
    ranged = select(func.count()).select_from(Delivery).where(in_range, still).correlate(Batch).scalar_subquery()
    moved = col(Delivery.batch_id) == col(Batch.id)
    named = select(func.count()).select_from(Delivery).where(moved, still).correlate(Batch).scalar_subquery()
    count = case((col(Batch.first_id).is_not(None), ranged), else_=named)
    rows = session.execute(
        select(col(Batch.state), func.sum(count)).where(col(Batch.edition_id) == record.id).group_by(col(Batch.state))
    )
    return ((state, int(total)) for state, total in rows)


def _folded(session: Session, record: EditionRecord) -> Iterator[tuple[str, str | None, int]]:
    folded = FoldedDeliveries
    rows = session.execute(
        select(col(folded.outcome), col(folded.reason), func.sum(col(folded.count)))
        .where(col(folded.edition_id) == record.id)
        .group_by(col(folded.outcome), col(folded.reason))
    )
    return ((str(outcome), reason, int(count)) for outcome, reason, count in rows)


def _fates(session: Session, record: EditionRecord) -> dict[str, int]:
    told: dict[Fate, int] = {}
    rows = select(col(Delivery.fate), func.count()).where(
        col(Delivery.edition_id) == record.id, col(Delivery.fate).is_not(None)
    )
    found = list(session.execute(rows.group_by(col(Delivery.fate))))
    if record.folded_at:
        folded = FoldedDeliveries
        rows = select(col(folded.fate), func.sum(col(folded.count))).where(
            col(folded.edition_id) == record.id, col(folded.fate).is_not(None)
        )
        found += list(session.execute(rows.group_by(col(folded.fate))))
    for fate, count in found:
        told[fate] = told.get(fate, 0) + int(count)
    return {fate.value: told[fate] for fate in Fate if fate in told}


def _given_up(session: Session, record: EditionRecord) -> int:
    total = 0
    for batch in session.execute(
        select(Batch).where(col(Batch.edition_id) == record.id, col(Batch.given_up_at).is_not(None))
    ).scalars():
        own = col(Delivery.outcome) == Outcome.UNKNOWN
        unknown = col(Delivery.outcome).is_(None) | own if batch.state is BatchState.UNKNOWN else own
        total += session.execute(select(func.count()).where(members(batch), unknown)).scalar_one()
    return total


# ------------------------------------------------------------------------------------------ how fast


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast an edition goes: recipients a second over the last minutes, and when it would be over at that."""

    per_second: float
    over_at: datetime


def speed(session: Session, record: EditionRecord, waiting: int, now: datetime) -> Speed | None:
    """The pace of an edition in dispatch; None where only waves ahead wait, or nothing went out in five minutes.

    It is not over before the last of what waits is due.
    """
    if not waiting or is_ahead(session, record.id or 0, now):
        return None
    since = now - _RATE_OVER
    count, first = session.execute(
        select(func.sum(col(Batch.size)), func.min(col(Batch.called_at))).where(
            col(Batch.edition_id) == record.id, col(Batch.state) == BatchState.DONE, col(Batch.done_at) > since
        )
    ).one()
    if not count or first is None:
        return None
    seconds = max((now - max(first, since)).total_seconds(), 1.0)
    rate = int(count) / seconds
    last_due = session.execute(
        select(func.max(col(Batch.due_at))).where(
            col(Batch.edition_id) == record.id, col(Batch.state) == BatchState.PENDING
        )
    ).scalar_one_or_none()
    return Speed(rate, max(now + timedelta(seconds=waiting / rate), last_due or now))


# ------------------------------------------------------------------------------------------ who


@dataclass(frozen=True, slots=True)
class Trouble:
    """One person whose copy was refused, or of whose copy nobody knows, and the names to look it up by."""

    address: str
    reason: str | None
    delivery: DeliveryId
    attempt: str | None  # of the call; None where there was none
    given_up: bool = False


def troubles(session: Session, record: EditionRecord, outcome: Outcome) -> list[Trouble]:
    """Whose copy was refused, or is unknown, with the reason: the delivery's own, else its batch's."""
    told: list[tuple[int, str, str | None, int, Batch | None]] = []
    if outcome is Outcome.UNKNOWN:
        unknown = (col(Batch.edition_id) == record.id, col(Batch.state) == BatchState.UNKNOWN)
        for batch in session.execute(select(Batch).where(*unknown)).scalars().all():
            own = session.execute(
                select(col(Delivery.id), col(Subscriber.address), col(Subscriber.id))
                .join(Subscriber, col(Subscriber.id) == col(Delivery.subscriber_id))
                .where(members(batch), col(Delivery.outcome).is_(None))
            )
            told += [(row, address, batch.note, subscriber, batch) for row, address, subscriber in own]
    rows = session.execute(
        select(
            col(Delivery.id),
            col(Subscriber.address),
            col(Delivery.reason),
            col(Subscriber.id),
            batch_of_delivery().label("batch"),
        )
        .join(Subscriber, col(Subscriber.id) == col(Delivery.subscriber_id))
        .where(col(Delivery.edition_id) == record.id, col(Delivery.outcome) == outcome)
    ).all()
    for row, address, reason, subscriber, batch_id in rows:
        told.append((row, address, reason, subscriber, session.get(Batch, batch_id) if batch_id else None))
    told.sort(key=lambda one: one[0])
    names = Names(instance(session).instance_id).of(record.tag, [one[3] for one in told])
    return [
        Trouble(address, reason, name, batch.attempt if batch else None, bool(batch and batch.given_up_at))
        for (_, address, reason, _, batch), name in zip(told, names, strict=True)
    ]


def waiting_batches(session: Session, edition_id: int) -> list[Batch]:
    """The batches that are due again because something stood against them: each has a note."""
    pending = (
        col(Batch.edition_id) == edition_id,
        col(Batch.state) == BatchState.PENDING,
        col(Batch.note).is_not(None),
    )
    return list(session.execute(select(Batch).where(*pending).order_by(col(Batch.due_at), col(Batch.number))).scalars())
