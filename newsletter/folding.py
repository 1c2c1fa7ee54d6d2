"""Old editions in little room: their deliveries' rows become lists of subscribers by what their copies came to.

Folded, an edition adds up as before and still answers whether somebody got it; its single rows are gone, so that
nothing of it can be retried or resolved, and a late event changes no fate. A list holds ascending row numbers of
subscribers as differences, seven bits a byte (the last byte of a number is below 128): about a byte a person.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, exists, insert, literal, or_, select, update
from sqlmodel import Session, col

from newsletter.ledger import batch_of_delivery, close_if_done
from newsletter.models import (
    Attempt,
    Batch,
    BatchState,
    Delivery,
    EditionRecord,
    EditionState,
    Fate,
    FoldedDeliveries,
    Outcome,
    WaveZone,
)

_TOGETHER = 20_000  # subscribers a list: read whole to find one of them, in about a millisecond
_MEANS = {
    BatchState.DONE: Outcome.ACCEPTED,
    BatchState.UNKNOWN: Outcome.UNKNOWN,
    BatchState.CALLING: Outcome.UNKNOWN,  # of an edition that was cancelled, by a process that died
    BatchState.CANCELLED: Outcome.CANCELLED,
}


def due(session: Session, after: timedelta, now: datetime) -> list[EditionRecord]:
    """The editions that were closed or cancelled so long ago, and those whose folding was cut off, oldest first."""
    left = exists(select(literal(1)).where(col(Delivery.edition_id) == col(EditionRecord.id)))
    return list(
        session.execute(
            select(EditionRecord)
            .where(
                col(EditionRecord.state).in_([EditionState.CLOSED, EditionState.CANCELLED]),
                col(EditionRecord.frozen_at).is_not(None),
                col(EditionRecord.closed_at) <= now - after,
                or_(col(EditionRecord.folded_at).is_(None), left),
            )
            .order_by(col(EditionRecord.closed_at))
        ).scalars()
    )


def fold(session: Session, record: EditionRecord, now: datetime, limit: int = _TOGETHER) -> int:
    """Fold the next deliveries of an edition, by subscriber, in the caller's transaction. Gives how many; 0 at its end.

    Called again until it gives 0: then the edition is folded. `folded_at` is set at the beginning, so that nobody acts
    on what is left of its rows; killed in between, it adds up all the same, and goes on where it stopped.
    """
    assert record.id is not None
    if record.folded_at is None:
        if not close_if_done(session, record.id, now) and record.state is not EditionState.CANCELLED:
            return 0
        record.folded_at = now
        session.flush()
    rows = session.execute(
        select(
            col(Delivery.id),
            col(Delivery.subscriber_id),
            col(Delivery.outcome),
            col(Delivery.reason),
            col(Delivery.fate),
            batch_of_delivery(),
        )
        .where(col(Delivery.edition_id) == record.id)
        .order_by(col(Delivery.subscriber_id))
        .limit(limit)
    ).all()
    if not rows:
        return 0
    batches: dict[int | None, Batch | None] = {None: None}
    groups: dict[tuple[Outcome, str | None, Fate | None], list[int]] = {}
    for _, subscriber_id, outcome, reason, fate, batch_id in rows:
        if batch_id not in batches:
            batches[batch_id] = session.get(Batch, batch_id)
        batch = batches[batch_id]
        word = outcome or (_MEANS[batch.state] if batch is not None else Outcome.CANCELLED)
        groups.setdefault((word, reason, fate), []).append(subscriber_id)
    session.execute(
        insert(FoldedDeliveries),
        [
            {
                "edition_id": record.id,
                "outcome": outcome,
                "reason": reason,
                "fate": fate,
                "first_subscriber": people[0],
                "last_subscriber": people[-1],
                "count": len(people),
                "subscribers": pack(people),
            }
            for (outcome, reason, fate), people in groups.items()
        ],
    )
    session.execute(
        delete(Delivery).where(
            col(Delivery.edition_id) == record.id, col(Delivery.subscriber_id) <= rows[-1].subscriber_id
        )
    )
    if len(rows) < limit:
        _forget_calls(session, record.id)
    return len(rows)


def _forget_calls(session: Session, edition_id: int) -> None:
    """Take away the names of calls of an edition whose events change nothing any more."""
    batches = select(col(Batch.id)).where(col(Batch.edition_id) == edition_id)
    session.execute(delete(Attempt).where(col(Attempt.batch_id).in_(batches)))
    session.execute(update(Batch).where(col(Batch.edition_id) == edition_id).values(first_id=None, last_id=None))
    session.execute(delete(WaveZone).where(col(WaveZone.edition_id) == edition_id))


@dataclass(frozen=True, slots=True)
class Copy:
    """What somebody's copy of an edition came to. `outcome` is None while it waits."""

    edition: EditionRecord
    outcome: Outcome | None
    reason: str | None
    fate: Fate | None


def copies_of(session: Session, subscriber_id: int) -> list[Copy]:
    """Every edition that a subscriber stood in the audience of, and what became of their copy, by slot."""
    rows = session.execute(
        select(EditionRecord, col(Delivery.outcome), col(Delivery.reason), col(Delivery.fate), batch_of_delivery())
        .join(EditionRecord, col(EditionRecord.id) == col(Delivery.edition_id))
        .where(col(Delivery.subscriber_id) == subscriber_id)
    ).all()
    found = []
    for record, outcome, reason, fate, batch_id in rows:
        batch = session.get(Batch, batch_id) if batch_id is not None else None
        found.append(Copy(record, outcome or (_MEANS.get(batch.state) if batch else None), reason, fate))
    folded = session.execute(
        select(FoldedDeliveries, EditionRecord)
        .join(EditionRecord, col(EditionRecord.id) == col(FoldedDeliveries.edition_id))
        .where(
            col(FoldedDeliveries.first_subscriber) <= subscriber_id,
            col(FoldedDeliveries.last_subscriber) >= subscriber_id,
        )
    )
    for row, record in folded:
        if subscriber_id in unpack(row.subscribers):
            found.append(Copy(record, row.outcome, row.reason, row.fate))
    return sorted(found, key=lambda copy: copy.edition.slot_at)


def pack(people: Iterable[int]) -> bytes:
    """Ascending numbers as differences, the first from 0, in seven bits a byte, the lowest last."""
    packed = bytearray()
    before = 0
    for one in people:
        step = one - before
        if step < 0:
            raise ValueError("expected ascending numbers")
        before = one
        digits = [step & 0x7F]
        while step := step >> 7:
            digits.append(0x80 | (step & 0x7F))
        packed.extend(reversed(digits))
    return bytes(packed)


def unpack(packed: bytes) -> Iterator[int]:
    """The numbers that were packed."""
    one = step = 0
    for byte in packed:
        step = (step << 7) | (byte & 0x7F)
        if byte < 0x80:  # noqa: PLR2004 # the last byte of a number
            one += step
            yield one
            step = 0
