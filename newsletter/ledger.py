"""The dispatch ledger: freeze, claim, call, record, count. The queries that promises 2, 3, 4 and 6 rest on.

Like store.py, these work in the caller's session, decide nothing, and take every instant as an argument. A batch's row
stands for its deliveries until one of them differs, so that a whole batch is one UPDATE; every change of a batch in
somebody's hands is conditional on its epoch, so that a process which overslept changes nothing.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, insert, literal, or_, select, update
from sqlalchemy.orm import aliased
from sqlmodel import Session, col

from newsletter.edition import AttemptId, DeliveryId, Recipient
from newsletter.models import (
    Batch,
    BatchState,
    Decision,
    Delivery,
    EditionRecord,
    EditionState,
    Outcome,
    Verdict,
)
from newsletter.store import changed_rows, instance, message_record, set_edition, topics_of
from subscribers import SUPPRESSED, Subscriber, Suppression, audience

# ------------------------------------------------------------------------------------------ freezing


@dataclass(frozen=True, slots=True)
class Frozen:
    """What a freeze made."""

    candidates: int
    mailable: int
    batches: int


def count_audience(
    session: Session, lists: Sequence[str], now: datetime, topics: Collection[str] | None = None
) -> dict[str | None, int]:
    """The candidates of lists by why they are excluded; None counts those who would be mailed.

    `topics` are the edition's, None where it is for everybody.
    """
    who = audience(lists, now, topics).subquery()
    rows = session.execute(select(who.c.exclusion, func.count()).group_by(who.c.exclusion))
    return {reason: count for reason, count in rows}  # noqa: C416 # Row unpacks, dict() wants tuples for the type


def freeze(
    session: Session, record: EditionRecord, *, due_at: datetime, batch_size: int, now: datetime
) -> Frozen | None:
    """Cut the audience at one instant, and make every decision of the edition final. In one transaction, the caller's.

    None where the draft is no longer the one on record (another process froze or remade it): look again.
    """
    assert record.id is not None
    stored = message_record(session, record.id)
    taken = session.execute(
        select(func.count()).where(col(Decision.edition_id) == record.id, col(Decision.verdict) == Verdict.TAKEN)
    ).scalar_one()
    if stored is None or stored.briefs != taken or _went_out_meanwhile(session, record):
        return None
    if not set_edition(session, record.id, EditionState.DISPATCHING, reason=None, only_from=[EditionState.DRAFT]):
        return None
    topics = topics_of(session, record.id)
    counts = count_audience(session, record.lists, now, topics)
    mailable, total = counts.get(None, 0), sum(counts.values())
    numbers = -(-mailable // batch_size)
    session.execute(
        insert(Batch),
        [
            {
                "edition_id": record.id,
                "message_id": stored.id,
                "number": number,
                "size": min(batch_size, mailable - (number - 1) * batch_size),
                "due_at": due_at,
                "promised_at": due_at,
                "state": BatchState.PENDING,
                "epoch": 0,
                "tries": 0,
            }
            for number in range(1, numbers + 1)
        ],
    ) if numbers else None
    who = audience(record.lists, now, topics).subquery()
    numbered = (
        select(
            who.c.subscriber_id,
            ((func.row_number().over(order_by=who.c.subscriber_id) - 1) // literal(batch_size) + 1).label("number"),
        )
        .where(who.c.exclusion.is_(None))
        .subquery()
    )
    columns = ["edition_id", "subscriber_id", "batch_id", "outcome", "reason"]
    delivery = Delivery.__table__  # type: ignore[attr-defined] # SQLModel adds it
    inserted = changed_rows(
        session,
        insert(delivery).from_select(
            columns[:3],
            select(literal(record.id), numbered.c.subscriber_id, col(Batch.id))
            .join(Batch, and_(col(Batch.edition_id) == record.id, col(Batch.number) == numbered.c.number))
            .order_by(numbered.c.subscriber_id),
        ),
    )
    outcome = case((who.c.exclusion == SUPPRESSED, Outcome.SUPPRESSED.value), else_=Outcome.SKIPPED.value)
    excluded = changed_rows(
        session,
        insert(delivery).from_select(
            columns,
            select(literal(record.id), who.c.subscriber_id, literal(None), outcome, who.c.exclusion).where(
                who.c.exclusion.is_not(None)
            ),
        ),
    )
    if inserted + excluded != total:
        raise RuntimeError(f"the audience was counted as {total} and frozen as {inserted + excluded}")
    session.execute(
        update(Decision)
        .where(col(Decision.edition_id) == record.id, col(Decision.verdict) != Verdict.CARRIED)
        .values(final=True)
    )
    session.execute(
        update(EditionRecord).where(col(EditionRecord.id) == record.id).values(candidates=total, frozen_at=now)
    )
    return Frozen(total, mailable, numbers)


def _went_out_meanwhile(session: Session, record: EditionRecord) -> bool:
    """Whether another edition of the newsletter took one of this draft's briefs for good, in any revision."""
    mine, theirs = aliased(Decision), aliased(Decision)
    return bool(
        session.execute(
            select(func.count())
            .select_from(mine)
            .join(
                theirs, and_(col(theirs.brief_id) == col(mine.brief_id), col(theirs.newsletter) == col(mine.newsletter))
            )
            .where(
                col(mine.edition_id) == record.id,
                col(mine.verdict) == Verdict.TAKEN,
                col(theirs.edition_id) != record.id,
                col(theirs.verdict) == Verdict.TAKEN,
                col(theirs.final),
            )
        ).scalar_one()
    )


def due_now(session: Session, edition_id: int, now: datetime) -> None:
    """Make every pending batch due now: an operator's word that a late edition still goes out."""
    session.execute(
        update(Batch)
        .where(col(Batch.edition_id) == edition_id, col(Batch.state) == BatchState.PENDING)
        .values(due_at=now, promised_at=now)
    )


def mailable(
    session: Session, lists: Sequence[str], now: datetime, *, after: int, limit: int
) -> list[tuple[int, str, str | None, str]]:
    """The people an edition would be mailed to now, by id from `after` on: id, address, name, link."""
    who = audience(lists, now).subquery()
    rows = session.execute(
        select(who.c.subscriber_id, who.c.address, who.c.name, who.c.link)
        .where(who.c.exclusion.is_(None), who.c.subscriber_id > after)
        .order_by(who.c.subscriber_id)
        .limit(limit)
    )
    return [(row[0], row[1], row[2], row[3]) for row in rows]


# ------------------------------------------------------------------------------------------ dispatching


@dataclass(frozen=True, slots=True)
class Claimed:
    """A batch in a process's hands: who is to get a copy, and the marks that a call must still match."""

    batch_id: int
    number: int
    epoch: int
    tries: int
    message_id: int
    due_at: datetime
    attempt: AttemptId
    recipients: tuple[Recipient, ...]
    rows: Mapping[DeliveryId, int] = field(repr=False)


def delivery_id(instance_id: str, record: EditionRecord, subscriber_id: int) -> DeliveryId:
    """A delivery's name to the world: made of what it *is*, so that a restored backup names the same copy the same.

    It tells databases apart, and nothing can be counted by it.
    """
    told = f"{instance_id}:{record.newsletter}:{record.slot}:{subscriber_id}"
    return DeliveryId(hashlib.sha256(told.encode()).hexdigest()[:24])


def next_due(session: Session, edition_id: int) -> datetime | None:
    """When the next pending batch is due, None where none is pending."""
    return session.execute(
        select(func.min(col(Batch.due_at)).label("due")).where(
            col(Batch.edition_id) == edition_id, col(Batch.state) == BatchState.PENDING
        )
    ).scalar_one_or_none()


def first_promised(session: Session, edition_id: int) -> datetime | None:
    """When the oldest pending batch was first due, None where none is pending."""
    return session.execute(
        select(func.min(col(Batch.promised_at))).where(
            col(Batch.edition_id) == edition_id, col(Batch.state) == BatchState.PENDING
        )
    ).scalar_one_or_none()


def held(session: Session, edition_id: int) -> list[Batch]:
    """The batches that some process has claimed or is calling with."""
    return list(
        session.execute(
            select(Batch).where(
                col(Batch.edition_id) == edition_id, col(Batch.state).in_([BatchState.CLAIMED, BatchState.CALLING])
            )
        ).scalars()
    )


def release(session: Session, batch: Batch, state: BatchState, *, note: str, now: datetime) -> None:
    """Take a batch out of the hands of a process that is gone: pending again, or unknown."""
    session.execute(
        update(Batch)
        .where(col(Batch.id) == batch.id, col(Batch.epoch) == batch.epoch, col(Batch.state) == batch.state)
        .values(state=state, owner=None, lease_until=None, note=note, due_at=min(batch.due_at, now))
    )


def claim(
    session: Session, record: EditionRecord, *, owner: str, lease_until: datetime, attempt: AttemptId, now: datetime
) -> tuple[Batch, list[Any]] | None:
    """Take the next batch that is due, and read who stands in it with their standing at this instant.

    Rows: delivery id, subscriber's address, name, link, exclusion, and id (NULL where they are no longer in the
    audience at all; then the exclusion says whether that is since their address is suppressed).
    """
    found = session.execute(
        select(col(Batch.id))
        .where(col(Batch.edition_id) == record.id, col(Batch.state) == BatchState.PENDING, col(Batch.due_at) <= now)
        .order_by(col(Batch.due_at), col(Batch.number))
        .limit(1)
    ).scalar_one_or_none()
    if found is None:
        return None
    session.execute(
        update(Batch)
        .where(col(Batch.id) == found, col(Batch.state) == BatchState.PENDING)
        .values(
            state=BatchState.CLAIMED,
            epoch=col(Batch.epoch) + 1,
            owner=owner,
            lease_until=lease_until,
            attempt=str(attempt),
        )
    )
    batch = session.execute(
        select(Batch).where(col(Batch.id) == found).execution_options(populate_existing=True)
    ).scalar_one()
    who = audience(record.lists, now).subquery()
    exclusion = case(
        (who.c.subscriber_id.is_not(None), who.c.exclusion),
        (col(Suppression.key).is_not(None), SUPPRESSED),
    )
    rows = session.execute(
        select(col(Delivery.id), who.c.address, who.c.name, who.c.link, exclusion, who.c.subscriber_id)
        .outerjoin(who, who.c.subscriber_id == col(Delivery.subscriber_id))
        .join(Subscriber, col(Subscriber.id) == col(Delivery.subscriber_id))
        .outerjoin(Suppression, col(Suppression.key) == col(Subscriber.key))
        .where(col(Delivery.batch_id) == batch.id, col(Delivery.outcome).is_(None))
        .order_by(col(Delivery.id))
    ).all()
    return batch, list(rows)


def write_outcomes(session: Session, outcomes: Mapping[int, tuple[Outcome, str | None]]) -> None:
    """Write deliveries' own outcomes, where they have none yet."""
    connection = session.connection()
    by_word: dict[tuple[Outcome, str | None], list[int]] = {}
    for row, word in outcomes.items():
        by_word.setdefault(word, []).append(row)
    for (outcome, reason), ids in by_word.items():
        for start in range(0, len(ids), 500):
            connection.execute(
                update(Delivery)
                .where(col(Delivery.id).in_(ids[start : start + 500]), col(Delivery.outcome).is_(None))
                .values(outcome=outcome, reason=reason)
            )


_Other = aliased(Batch)


def begin_call(session: Session, claimed: Claimed, *, now: datetime, lease_until: datetime) -> bool:
    """Claimed -> calling, the last act before the first byte. False where the claim is no longer ours: do not call."""
    mine = col(Batch.lease_until) > now
    return _move(session, claimed, [BatchState.CLAIMED], mine, state=BatchState.CALLING, lease_until=lease_until)


def give_back(session: Session, claimed: Claimed, *, due_at: datetime, note: str) -> bool:
    """Claimed or calling -> pending: surely nothing was accepted. False where the batch is no longer ours."""
    return _move(
        session,
        claimed,
        [BatchState.CLAIMED, BatchState.CALLING],
        state=BatchState.PENDING,
        owner=None,
        lease_until=None,
        due_at=due_at,
        note=note[:500],
        tries=col(Batch.tries) + 1,
    )


def finish(
    session: Session, claimed: Claimed, state: BatchState, *, note: str | None, provider_id: str | None = None
) -> bool:
    """Write what a call came to: done or unknown. A late answer for an unknown batch is taken.

    False where the batch was claimed anew since: the newer claim speaks for it.
    """
    return _move(
        session,
        claimed,
        [BatchState.CLAIMED, BatchState.CALLING, BatchState.UNKNOWN],
        state=state,
        owner=None,
        lease_until=None,
        note=note[:500] if note else None,
        provider_id=provider_id[:200] if provider_id else None,
        turn=select(func.coalesce(func.max(col(_Other.turn)), 0) + 1)
        .where(col(_Other.edition_id) == col(Batch.edition_id))
        .scalar_subquery(),
    )


def _move(
    session: Session, claimed: Claimed, states: Sequence[BatchState], *conditions: ColumnElement[bool], **values: Any
) -> bool:
    """Change a batch that stands where its claim left it. False where it no longer does."""
    where = (col(Batch.id) == claimed.batch_id, col(Batch.epoch) == claimed.epoch, col(Batch.state).in_(states))
    return changed_rows(session, update(Batch).where(*where, *conditions).values(**values)) == 1


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What is known of a refusal without a word about whose fault it is.

    `proven` is True where a part of what was refused has been accepted since: the message itself is good. `fresh` where
    nobody was refused for it after that. `asked` where an operator let the batch be tried once more.
    """

    proven: bool
    fresh: bool
    asked: bool


ASKED = "asked about: "
"""How the note of a batch begins whose refusal an operator was asked about."""


def is_suspect(session: Session, claimed: Claimed) -> bool:
    """Whether a batch is a part of what was refused without a word about whose fault it is."""
    return session.get_one(Batch, claimed.batch_id).suspect_id is not None


def suspect(session: Session, claimed: Claimed) -> Suspicion:
    """Mark a batch as refused without a word about whose fault it is, and say what is known of that."""
    batch = session.get_one(Batch, claimed.batch_id)
    root = batch.suspect_id or claimed.batch_id
    _move(session, claimed, [BatchState.CLAIMED, BatchState.CALLING], suspect_id=root)
    done = (
        select(func.max(col(Batch.turn)))
        .join(Delivery, col(Delivery.batch_id) == col(Batch.id))
        .where(col(Batch.suspect_id) == root, col(Batch.state) == BatchState.DONE)
    )
    accepted = session.execute(done.where(col(Delivery.outcome).is_(None))).scalar_one_or_none()
    refused = session.execute(done.where(col(Delivery.outcome) == Outcome.REFUSED)).scalar_one_or_none()
    fresh = accepted is not None and (refused is None or refused < accepted)
    return Suspicion(accepted is not None, fresh, (batch.note or "").startswith(ASKED))


def make_child(session: Session, claimed: Claimed, rows: Sequence[int], *, due_at: datetime, note: str) -> None:
    """Move deliveries of a batch into a new one, due later, and their count with them."""
    parent = session.get_one(Batch, claimed.batch_id)
    number = session.execute(
        select(func.max(col(Batch.number))).where(col(Batch.edition_id) == parent.edition_id)
    ).scalar_one()
    child = Batch(
        edition_id=parent.edition_id,
        message_id=parent.message_id,
        number=number + 1,
        parent_id=parent.id,
        suspect_id=parent.suspect_id,
        size=len(rows),
        due_at=due_at,
        promised_at=parent.promised_at,
        state=BatchState.PENDING,
        tries=claimed.tries + 1,
        note=note[:500],
    )
    session.add(child)
    session.flush()
    for start in range(0, len(rows), 500):
        session.execute(
            update(Delivery).where(col(Delivery.id).in_(rows[start : start + 500])).values(batch_id=child.id)
        )
    session.execute(update(Batch).where(col(Batch.id) == parent.id).values(size=col(Batch.size) - len(rows)))
    # A late answer may come when the edition is closed already: somebody waits again, so it is open again.
    session.execute(
        update(EditionRecord)
        .where(col(EditionRecord.id) == parent.edition_id, col(EditionRecord.state) == EditionState.CLOSED)
        .values(state=EditionState.DISPATCHING, closed_at=None)
    )


def close_if_done(session: Session, edition_id: int, now: datetime) -> bool:
    """Close an edition in which nothing waits. True where it is closed by now."""
    waiting = session.execute(
        select(func.count()).where(
            col(Batch.edition_id) == edition_id,
            col(Batch.state).in_([BatchState.PENDING, BatchState.CLAIMED, BatchState.CALLING]),
        )
    ).scalar_one()
    if waiting:
        return False
    session.execute(
        update(EditionRecord)
        .where(col(EditionRecord.id) == edition_id, col(EditionRecord.state) == EditionState.DISPATCHING)
        .values(state=EditionState.CLOSED, closed_at=now)
    )
    return True


# ------------------------------------------------------------------------------------------ reporting


@dataclass(frozen=True, slots=True)
class Tally:
    """The conservation sum of a frozen edition: `candidates` were counted at the freeze, the rest is counted now."""

    candidates: int
    accepted: int = 0
    refused: int = 0
    suppressed: int = 0
    skipped: int = 0
    cancelled: int = 0
    unknown: int = 0
    waiting: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)  # "suppressed: suppressed" -> how many

    @property
    def holds(self) -> bool:
        """Whether every candidate is accounted for, once."""
        return self.candidates == (
            self.accepted + self.refused + self.suppressed + self.skipped + self.cancelled + self.unknown + self.waiting
        )


_WAITING = "waiting"


def tally(session: Session, record: EditionRecord) -> Tally:
    """Count an edition's deliveries by what became of them."""
    word = case(
        (col(Delivery.outcome).is_not(None), col(Delivery.outcome)),
        (col(Batch.state) == BatchState.DONE, Outcome.ACCEPTED.value),
        (col(Batch.state) == BatchState.UNKNOWN, Outcome.UNKNOWN.value),
        (col(Batch.state) == BatchState.CANCELLED, Outcome.CANCELLED.value),
        else_=_WAITING,
    )
    rows = session.execute(
        select(word.label("word"), col(Delivery.reason), func.count())
        .select_from(Delivery)
        .outerjoin(Batch, col(Batch.id) == col(Delivery.batch_id))
        .where(col(Delivery.edition_id) == record.id)
        .group_by("word", col(Delivery.reason))
    )
    counts: dict[str, int] = {}
    reasons: dict[str, int] = {}
    for name, reason, count in rows:
        counts[str(name)] = counts.get(str(name), 0) + count
        if reason:
            said = str(name) if reason == name else f"{name}: {reason}"
            reasons[said] = reasons.get(said, 0) + count
    return Tally(candidates=record.candidates or 0, reasons=reasons, **counts)


@dataclass(frozen=True, slots=True)
class Trouble:
    """One person whose copy was refused, or of whose copy nobody knows, and the names to look it up by."""

    address: str
    reason: str | None
    delivery: DeliveryId
    attempt: str | None  # of the call; None where there was none


def troubles(session: Session, record: EditionRecord, outcome: Outcome) -> list[Trouble]:
    """Whose copy was refused, or is unknown, with the reason: the delivery's own, else its batch's."""
    own = col(Delivery.outcome) == outcome
    as_batch = and_(col(Delivery.outcome).is_(None), col(Batch.state) == BatchState.UNKNOWN)
    rows = session.execute(
        select(
            col(Subscriber.address),
            func.coalesce(col(Delivery.reason), col(Batch.note)),
            col(Subscriber.id),
            col(Batch.attempt),
        )
        .join(Delivery, col(Delivery.subscriber_id) == col(Subscriber.id))
        .outerjoin(Batch, col(Batch.id) == col(Delivery.batch_id))
        .where(col(Delivery.edition_id) == record.id, or_(own, as_batch) if outcome is Outcome.UNKNOWN else own)
        .order_by(col(Delivery.id))
    )
    instance_id = instance(session).instance_id
    return [Trouble(row[0], row[1], delivery_id(instance_id, record, row[2]), row[3]) for row in rows]


def waiting_batches(session: Session, edition_id: int) -> list[Batch]:
    """The batches that are due again because something stood against them: each has a note."""
    pending = (
        col(Batch.edition_id) == edition_id,
        col(Batch.state) == BatchState.PENDING,
        col(Batch.note).is_not(None),
    )
    return list(session.execute(select(Batch).where(*pending).order_by(col(Batch.due_at), col(Batch.number))).scalars())
