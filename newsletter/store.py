"""Every query on the tables of what is sent, as named operations.

Each works in the caller's session and leaves committing to it; the caller opens a writing transaction
(`subscribers.transaction`) for whatever changes rows. Instants are arguments, aware. Nothing here decides: what to take,
what a receipt means and when to stop is decided above, in functions without a database.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import CursorResult, and_, case, delete, exists, func, insert, literal, or_, select, update
from sqlmodel import Session, col

from newsletter.brief import Brief
from newsletter.edition import AttemptId, DeliveryId, Message, Recipient
from newsletter.models import (
    Batch,
    BatchState,
    BriefRecord,
    Decision,
    Delivery,
    EditionRecord,
    EditionState,
    Instance,
    MessageRecord,
    OperatorAct,
    Outcome,
    RevisionRecord,
    Verdict,
)
from newsletter.schedule import Slot
from subscribers import SUPPRESSED, audience

# ------------------------------------------------------------------------------------------ this database


def instance(session: Session) -> Instance:
    """The row that says which database this is."""
    return session.get_one(Instance, 1)


def create_instance(session: Session, instance_id: str, now: datetime) -> None:
    """Name a new database."""
    session.add(Instance(instance_id=instance_id, created_at=now))


def halt(session: Session, *, now: datetime, actor: str, reason: str | None) -> bool:
    """Stop all dispatch from the next batch on. False where it was halted already."""
    row = instance(session)
    if row.halted_at is not None:
        return False
    row.halted_at, row.halted_by, row.halt_reason = now, actor, reason
    act(session, "halt", now=now, actor=actor, note=reason)
    return True


def unhalt(session: Session, *, now: datetime, actor: str) -> bool:
    """Let dispatch run again. False where it was not halted."""
    row = instance(session)
    if row.halted_at is None:
        return False
    row.halted_at = row.halted_by = row.halt_reason = None
    act(session, "unhalt", now=now, actor=actor)
    return True


def act(
    session: Session, what: str, *, now: datetime, actor: str, edition_id: int | None = None, note: str | None = None
) -> None:
    """Put on record that somebody did something."""
    session.add(OperatorAct(at=now, actor=actor, act=what, edition_id=edition_id, note=note))


# ------------------------------------------------------------------------------------------ briefs


@dataclass(frozen=True, slots=True)
class Known:
    """A brief on record with its newest content."""

    record: BriefRecord
    brief: Brief


def brief_by_guid(session: Session, source: str, guid: str) -> Known | None:
    """What a source last gave under its own name for a brief."""
    return _known(session, and_(col(BriefRecord.source) == source, col(BriefRecord.guid) == guid))


def brief_by_url(session: Session, url: str) -> Known | None:
    """The brief that stands at a web address, whatever source gave it."""
    return _known(session, col(BriefRecord.url) == url)


def brief_by_content(session: Session, source: str, content_hash: str) -> Known | None:
    """The brief of a source with just this content: a file that was renamed."""
    return _known(session, and_(col(BriefRecord.source) == source, col(BriefRecord.content_hash) == content_hash))


def _known(session: Session, condition: Any) -> Known | None:
    row = session.execute(
        select(BriefRecord, col(RevisionRecord.content))
        .join(
            RevisionRecord,
            and_(
                col(RevisionRecord.brief_id) == col(BriefRecord.id),
                col(RevisionRecord.number) == col(BriefRecord.revision),
            ),
        )
        .where(condition)
        .order_by(col(BriefRecord.id).desc())
        .limit(1)
    ).first()
    return Known(row[0], Brief.model_validate_json(row[1])) if row else None


def add_brief(session: Session, source: str, guid: str, brief: Brief, now: datetime) -> None:
    """Put a new brief on record, as its first revision."""
    record = BriefRecord(
        source=source,
        guid=guid,
        url=brief.url,
        headline=brief.headline,
        content_hash=brief.content_hash,
        first_seen_at=now,
    )
    session.add(record)
    session.flush()
    assert record.id is not None
    session.add(RevisionRecord(brief_id=record.id, number=1, content=brief.model_dump_json(), seen_at=now))


def add_revision(session: Session, record: BriefRecord, brief: Brief, now: datetime) -> None:
    """Put changed content of a brief on record."""
    assert record.id is not None
    record.revision += 1
    record.url, record.headline, record.content_hash = brief.url, brief.headline, brief.content_hash
    session.add(
        RevisionRecord(brief_id=record.id, number=record.revision, content=brief.model_dump_json(), seen_at=now)
    )


def rename_brief(session: Session, record: BriefRecord, guid: str) -> None:
    """Keep a brief under the name that its source gives it now."""
    record.guid = guid
    session.flush()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A brief that a newsletter has not finally decided about, in its newest revision."""

    brief_id: int
    revision: int
    source: str
    brief: Brief
    first_seen_at: datetime
    went_out: str | None  # the slot in which an earlier revision of it went out, None where none did


def candidates(session: Session, newsletter: str, sources: Sequence[str]) -> list[Candidate]:
    """The newest revisions of these sources' briefs on which there is no final decision, oldest on record first."""
    final = exists(
        select(literal(1)).where(
            col(Decision.newsletter) == newsletter,
            col(Decision.brief_id) == col(BriefRecord.id),
            col(Decision.revision) == col(BriefRecord.revision),
            col(Decision.final),
        )
    )
    went_out = (
        select(func.max(col(EditionRecord.slot)))
        .join(Decision, col(Decision.edition_id) == col(EditionRecord.id))
        .where(
            col(Decision.newsletter) == newsletter,
            col(Decision.brief_id) == col(BriefRecord.id),
            col(Decision.verdict) == Verdict.TAKEN,
            col(Decision.final),
        )
        .scalar_subquery()
    )
    rows = session.execute(
        select(BriefRecord, col(RevisionRecord.content), went_out)
        .join(
            RevisionRecord,
            and_(
                col(RevisionRecord.brief_id) == col(BriefRecord.id),
                col(RevisionRecord.number) == col(BriefRecord.revision),
            ),
        )
        .where(col(BriefRecord.source).in_(list(sources)), ~final)
        .order_by(col(BriefRecord.id))
    )
    return [
        Candidate(
            record.id or 0,
            record.revision,
            record.source,
            Brief.model_validate_json(content),
            record.first_seen_at,
            slot,
        )
        for record, content, slot in rows
    ]


def sources_decided(session: Session, newsletter: str) -> set[str]:
    """The sources from which a newsletter has finally decided about anything: their first run is over."""
    rows = session.execute(
        select(col(BriefRecord.source))
        .join(Decision, col(Decision.brief_id) == col(BriefRecord.id))
        .where(col(Decision.newsletter) == newsletter, col(Decision.final))
        .distinct()
    )
    return set(rows.scalars())


def briefs_of(session: Session, edition_id: int) -> list[Brief]:
    """The briefs that an edition took, in their order, in the revisions that it took."""
    rows = session.execute(
        select(col(RevisionRecord.content))
        .join(
            Decision,
            and_(
                col(Decision.brief_id) == col(RevisionRecord.brief_id),
                col(Decision.revision) == col(RevisionRecord.number),
            ),
        )
        .where(col(Decision.edition_id) == edition_id, col(Decision.verdict) == Verdict.TAKEN)
        .order_by(col(Decision.position))
    )
    return [Brief.model_validate_json(content) for content in rows.scalars()]


def brief_rows(session: Session, limit: int) -> list[tuple[BriefRecord, list[Decision]]]:
    """The briefs on record, newest first, each with what newsletters decided about it."""
    records = session.execute(select(BriefRecord).order_by(col(BriefRecord.id).desc()).limit(limit)).scalars().all()
    decisions: dict[int, list[Decision]] = {}
    ids = [record.id for record in records]
    for row in session.execute(select(Decision).where(col(Decision.brief_id).in_(ids))).scalars():
        decisions.setdefault(row.brief_id, []).append(row)
    return [(record, decisions.get(record.id or 0, [])) for record in records]


# ------------------------------------------------------------------------------------------ editions


@dataclass(frozen=True, slots=True)
class Ruling:
    """A decision to be written."""

    brief_id: int
    revision: int
    verdict: Verdict
    reason: str | None = None
    position: int | None = None


def edition(session: Session, newsletter: str, slot: Slot) -> EditionRecord | None:
    """The edition of a slot, None where there is none yet."""
    return session.execute(
        select(EditionRecord).where(col(EditionRecord.newsletter) == newsletter, col(EditionRecord.slot) == str(slot))
    ).scalar_one_or_none()


def editions(session: Session, newsletter: str | None, limit: int) -> list[EditionRecord]:
    """The latest editions, newest first; of one newsletter, or of all."""
    query = select(EditionRecord).order_by(col(EditionRecord.slot_at).desc(), col(EditionRecord.id).desc()).limit(limit)
    if newsletter:
        query = query.where(col(EditionRecord.newsletter) == newsletter)
    return list(session.execute(query).scalars())


def frozen_editions(session: Session, newsletter: str) -> list[EditionRecord]:
    """The editions of a newsletter whose audience was ever frozen, newest slot first."""
    return list(
        session.execute(
            select(EditionRecord)
            .where(col(EditionRecord.newsletter) == newsletter, col(EditionRecord.frozen_at).is_not(None))
            .order_by(col(EditionRecord.slot_at).desc())
        ).scalars()
    )


def write_draft(
    session: Session,
    newsletter: str,
    slot: Slot,
    *,
    lists: Sequence[str],
    stale_after: timedelta,
    rulings: Iterable[Ruling],
    message: Message | None,
    skipped: str | None,
    now: datetime,
) -> EditionRecord:
    """Make or remake the draft of a slot: its edition, its decisions (not final) and its Message.

    `skipped` says why there is no Message. Where the edition is past being a draft it is given back untouched.
    """
    record = edition(session, newsletter, slot)
    if record is None:
        record = EditionRecord(
            newsletter=newsletter,
            slot=str(slot),
            zone=slot.zone,
            slot_at=slot.instant,
            state=EditionState.DRAFT,
            created_at=now,
            lists=list(lists),
            stale_after_s=0,
        )
        session.add(record)
    elif record.state not in {EditionState.DRAFT, EditionState.SKIPPED}:
        return record
    record.state = EditionState.SKIPPED if skipped else EditionState.DRAFT
    record.reason = skipped
    record.lists = list(lists)
    record.stale_after_s = int(stale_after.total_seconds())
    session.flush()
    assert record.id is not None
    session.execute(delete(Decision).where(col(Decision.newsletter) == newsletter, ~col(Decision.final)))
    session.execute(delete(MessageRecord).where(col(MessageRecord.edition_id) == record.id))
    taken = 0
    for ruling in rulings:
        taken += ruling.verdict is Verdict.TAKEN
        session.add(
            Decision(
                newsletter=newsletter,
                brief_id=ruling.brief_id,
                revision=ruling.revision,
                verdict=ruling.verdict,
                reason=ruling.reason,
                position=ruling.position,
                edition_id=record.id,
                decided_at=now,
            )
        )
    if message is not None:
        session.add(
            MessageRecord(
                edition_id=record.id,
                content=json.dumps(message.to_json(), ensure_ascii=False),
                digest=message.digest,
                html_bytes=message.html_bytes,
                briefs=taken,
                compiled_at=now,
            )
        )
    session.flush()
    return record


def load_message(stored: MessageRecord) -> Message:
    """The Message of a row."""
    return Message.from_json(json.loads(stored.content))


def message_record(session: Session, edition_id: int) -> MessageRecord | None:
    """The stored Message of an edition, None for a skipped one."""
    return session.execute(
        select(MessageRecord)
        .where(col(MessageRecord.edition_id) == edition_id)
        .order_by(col(MessageRecord.revision).desc())
        .limit(1)
    ).scalar_one_or_none()


def set_edition(
    session: Session, edition_id: int, state: EditionState, *, reason: str | None, only_from: Iterable[EditionState]
) -> bool:
    """Move an edition on, if it is still where the caller saw it. False where it is not."""
    done = _rows(
        session,
        update(EditionRecord)
        .where(col(EditionRecord.id) == edition_id, col(EditionRecord.state).in_(list(only_from)))
        .values(state=state, reason=reason),
    )
    return done == 1


# ------------------------------------------------------------------------------------------ freezing


@dataclass(frozen=True, slots=True)
class Frozen:
    """What a freeze made."""

    candidates: int
    mailable: int
    batches: int


def count_audience(session: Session, lists: Sequence[str], now: datetime) -> dict[str | None, int]:
    """The candidates of lists by why they are excluded; None counts those who would be mailed."""
    who = audience(lists, now).subquery()
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
    if stored is None or stored.briefs != taken:
        return None
    if not set_edition(session, record.id, EditionState.DISPATCHING, reason=None, only_from=[EditionState.DRAFT]):
        return None
    counts = count_audience(session, record.lists, now)
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
                "state": BatchState.PENDING,
                "epoch": 0,
                "tries": 0,
            }
            for number in range(1, numbers + 1)
        ],
    ) if numbers else None
    who = audience(record.lists, now).subquery()
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
    inserted = _rows(
        session,
        insert(delivery).from_select(
            columns[:3],
            select(literal(record.id), numbered.c.subscriber_id, col(Batch.id))
            .join(Batch, and_(col(Batch.edition_id) == record.id, col(Batch.number) == numbered.c.number))
            .order_by(numbered.c.subscriber_id),
        ),
    )
    outcome = case((who.c.exclusion == SUPPRESSED, Outcome.SUPPRESSED.value), else_=Outcome.SKIPPED.value)
    excluded = _rows(
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


def due_now(session: Session, edition_id: int, now: datetime) -> None:
    """Make every pending batch due now: an operator's word that a late edition still goes out."""
    session.execute(
        update(Batch)
        .where(col(Batch.edition_id) == edition_id, col(Batch.state) == BatchState.PENDING, col(Batch.due_at) < now)
        .values(due_at=now)
    )


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


def delivery_id(instance_id: str, row: int) -> DeliveryId:
    """A delivery's name to the world: the same for ever, told apart between databases, and not to be counted."""
    return DeliveryId(hashlib.sha256(f"{instance_id}:{row}".encode()).hexdigest()[:24])


def next_due(session: Session, edition_id: int) -> datetime | None:
    """When the next pending batch is due, None where none is pending."""
    return session.execute(
        select(func.min(col(Batch.due_at)).label("due")).where(
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

    Rows: delivery id, subscriber's address, name, link, exclusion, and whether they are still in the audience at all.
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
    rows = session.execute(
        select(col(Delivery.id), who.c.address, who.c.name, who.c.link, who.c.exclusion, who.c.subscriber_id)
        .outerjoin(who, who.c.subscriber_id == col(Delivery.subscriber_id))
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


def begin_call(session: Session, claimed: Claimed, *, now: datetime, lease_until: datetime) -> bool:
    """Claimed -> calling, the last act before the first byte. False where the claim is no longer ours: do not call."""
    done = _rows(
        session,
        update(Batch)
        .where(
            col(Batch.id) == claimed.batch_id,
            col(Batch.epoch) == claimed.epoch,
            col(Batch.state) == BatchState.CLAIMED,
            col(Batch.lease_until) > now,
        )
        .values(state=BatchState.CALLING, lease_until=lease_until),
    )
    return done == 1


def give_back(session: Session, claimed: Claimed, *, due_at: datetime, note: str) -> bool:
    """Claimed or calling -> pending: surely nothing was accepted. False where the batch is no longer ours."""
    done = _rows(
        session,
        update(Batch)
        .where(
            col(Batch.id) == claimed.batch_id,
            col(Batch.epoch) == claimed.epoch,
            col(Batch.state).in_([BatchState.CLAIMED, BatchState.CALLING]),
        )
        .values(
            state=BatchState.PENDING,
            owner=None,
            lease_until=None,
            due_at=due_at,
            note=note[:500],
            tries=col(Batch.tries) + 1,
        ),
    )
    return done == 1


def finish(session: Session, claimed: Claimed, state: BatchState, *, note: str | None) -> bool:
    """Write what a call came to: done or unknown. A late answer for an unknown batch is taken.

    False where the batch was claimed anew since: the newer claim speaks for it.
    """
    done = _rows(
        session,
        update(Batch)
        .where(
            col(Batch.id) == claimed.batch_id,
            col(Batch.epoch) == claimed.epoch,
            col(Batch.state).in_([BatchState.CLAIMED, BatchState.CALLING, BatchState.UNKNOWN]),
        )
        .values(state=state, owner=None, lease_until=None, note=note[:500] if note else None),
    )
    return done == 1


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
        size=len(rows),
        due_at=due_at,
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
            reasons[f"{name}: {reason}"] = reasons.get(f"{name}: {reason}", 0) + count
    return Tally(candidates=record.candidates or 0, reasons=reasons, **counts)


def unknown_recipients(session: Session, edition_id: int) -> list[str]:
    """The addresses of whom we cannot tell whether they got a copy."""
    from subscribers import Subscriber  # noqa: PLC0415 # the one report that names people

    rows = session.execute(
        select(col(Subscriber.address))
        .join(Delivery, col(Delivery.subscriber_id) == col(Subscriber.id))
        .outerjoin(Batch, col(Batch.id) == col(Delivery.batch_id))
        .where(
            col(Delivery.edition_id) == edition_id,
            or_(
                col(Delivery.outcome) == Outcome.UNKNOWN,
                and_(col(Delivery.outcome).is_(None), col(Batch.state) == BatchState.UNKNOWN),
            ),
        )
        .order_by(col(Delivery.id))
    )
    return list(rows.scalars())


def _rows(session: Session, statement: Any) -> int:
    """Execute a statement that changes rows, and say how many."""
    result = session.execute(statement)
    assert isinstance(result, CursorResult)
    return int(result.rowcount)
