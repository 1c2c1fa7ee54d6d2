"""What an operator does to an edition in dispatch: pause, resume, cancel, retry, and say what became of the unknown.

Each works in the caller's session, takes effect before the next batch is called, and is put on record with who and
when. What may be done in which state is decided here; EditionError says what stands against it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import func, or_, select, update
from sqlmodel import Session, col

from newsletter import proof, store
from newsletter.errors import EditionError
from newsletter.ledger import OPEN, batch_of_delivery, make_child, members, open_again
from newsletter.models import Batch, BatchState, Delivery, EditionRecord, EditionState, Outcome
from newsletter.providers import Provider
from newsletter.store import changed_rows

RECALL_MARGIN = timedelta(minutes=10)  # SendGrid cancels what is due in more than ten minutes (Cancel Scheduled Sends)


class Verdict(StrEnum):
    """What an operator, or a standing order, says of copies of which nobody knows."""

    ACCEPTED = "accepted"  # they went out: it was found out at the provider
    RESEND = "resend"  # hand them over again, although somebody may get a second copy
    DROP = "drop"  # leave them: whoever did not get it does not get it


def pause(session: Session, record: EditionRecord, *, actor: str, reason: str | None, now: datetime) -> bool:
    """Stop an edition before its next batch, until `resume`. False where an operator paused it already."""
    if record.state not in {EditionState.DISPATCHING, EditionState.PAUSED}:
        raise _cannot(record, "only an edition in dispatch can be paused")
    if record.state is EditionState.PAUSED and record.paused_by is not None:
        return False
    said = f"paused by {actor}" + (f": {reason}" if reason else "")
    record.state, record.paused_by, record.reason = EditionState.PAUSED, actor, said[:500]
    store.act(session, "pause", now=now, actor=actor, edition_id=record.id, note=reason)
    return True


def refuse_if_pulled(session: Session, record: EditionRecord) -> None:
    """Refuse to let an edition go on that holds a brief which was pulled: its mail has to be made anew first."""
    if store.holds_pulled(session, record.id or 0):
        raise _cannot(record, "it holds a brief that was pulled, and its mail could not be made anew yet")


def resume(session: Session, record: EditionRecord, *, actor: str, now: datetime) -> bool:
    """Let a paused edition go on. False where it was not paused."""
    if record.state is not EditionState.PAUSED:
        if record.state is EditionState.DISPATCHING:
            return False
        raise _cannot(record, "only a paused edition can be resumed")
    refuse_if_pulled(session, record)
    record.state, record.paused_by, record.reason = EditionState.DISPATCHING, None, None
    store.act(session, "resume", now=now, actor=actor, edition_id=record.id)
    return True


def cancel(session: Session, record: EditionRecord, *, actor: str, reason: str | None, now: datetime) -> int:
    """End an edition: what has not left never will. Gives in how many batches somebody waited.

    Calls that are out are recorded as they are answered. A draft that was never frozen is cancelled, too: its slot
    stays empty, and its briefs wait for the next one.
    """
    if record.state in {EditionState.CLOSED, EditionState.CANCELLED}:
        raise _cannot(record, "it can no longer be cancelled")
    said = f"cancelled by {actor}" + (f": {reason}" if reason else "")
    record.state, record.reason, record.closed_at = EditionState.CANCELLED, said[:500], now
    cancelled = changed_rows(
        session,
        update(Batch)
        .where(
            col(Batch.edition_id) == record.id,
            col(Batch.state).in_([BatchState.PENDING, BatchState.CLAIMED]),
        )
        .values(state=BatchState.CANCELLED, owner=None, lease_until=None),
    )
    store.act(session, "cancel", now=now, actor=actor, edition_id=record.id, note=reason)
    return cancelled


def recallable(session: Session, record: EditionRecord, now: datetime) -> list[int]:
    """The batches that the provider took and still keeps back, for long enough to be called back."""
    rows = session.execute(
        select(col(Batch.id)).where(
            col(Batch.edition_id) == record.id,
            col(Batch.state) == BatchState.DONE,
            col(Batch.held_until) > now + RECALL_MARGIN,
        )
    )
    return [row for (row,) in rows if row is not None]


def recalled(session: Session, batches: Sequence[int]) -> int:
    """Put on record that the provider gave up what it kept back. Gives how many copies that are."""
    total = 0
    for batch_id in batches:
        batch = session.get_one(Batch, batch_id, populate_existing=True)
        if batch.state is not BatchState.DONE:
            continue
        batch.state, batch.note = BatchState.CANCELLED, "called back before the provider sent it"
        session.flush()
        total += _count_open(session, batch)
    return total


def retry(session: Session, record: EditionRecord, *, refused: bool, actor: str, now: datetime) -> int:
    """Let deferred deliveries be tried now, and with `refused` those that were refused once more. Gives how many."""
    _refuse_if_over(record, "retry")
    retried = 0
    waiting = (
        select(Batch)
        .where(col(Batch.edition_id) == record.id, col(Batch.state) == BatchState.PENDING, col(Batch.due_at) > now)
        .where(col(Batch.note).is_not(None))
    )
    for batch in session.execute(waiting).scalars().all():
        batch.due_at = now
        retried += batch.size
    if refused:
        for batch_id, rows in _own(session, record, Outcome.REFUSED).items():
            make_child(session, batch_id, rows, due_at=now, tries=0, note=None)
            retried += len(rows)
        promise_anew(session, record, now)
    store.act(session, "retry", now=now, actor=actor, edition_id=record.id, note=f"{retried:,} copies")
    return retried


def resolve(
    session: Session,
    record: EditionRecord,
    verdict: Verdict,
    *,
    actor: str,
    now: datetime,
    called_before: datetime | None = None,
) -> int:
    """Say what became of the unknown, of whom nobody has said so yet. Gives how many copies it was said of.

    `called_before` leaves out calls that are younger, and, since it is no person who says so, those that a person gave
    up; nor is a copy resent a second time that way. RESEND opens a closed edition again.
    """
    if verdict is Verdict.RESEND:
        _refuse_if_over(record, "resend")
    if record.folded_at is not None:
        raise _cannot(record, "it is folded: its deliveries are no longer single rows")
    total = 0
    own = _own(session, record, Outcome.UNKNOWN)
    for batch in _unknown_batches(session, record, list(own)):
        assert batch.id is not None
        if verdict is Verdict.DROP and batch.given_up_at is not None:
            continue
        if called_before is not None and not _is_due_for(batch, verdict, called_before):
            continue
        rows = own.get(batch.id, [])
        whole = batch.state is BatchState.UNKNOWN
        total += len(rows) + (_count_open(session, batch) if whole else 0)
        if verdict is Verdict.DROP:
            batch.given_up_at = now
        elif verdict is Verdict.ACCEPTED:
            accept(session, batch, now=now, note=f"said to be accepted by {actor}")
        else:
            note = f"sent again on the word of {actor}"
            _resend(session, batch, rows, now=now, note=note, ordered=called_before is not None)
    if total and verdict is Verdict.RESEND:
        promise_anew(session, record, now)
    if total:
        note = f"{verdict}: {total:,} copies"
        store.act(session, "resolve", now=now, actor=actor, edition_id=record.id, note=note)
    return total


def _is_due_for(batch: Batch, order: Verdict, called_before: datetime) -> bool:
    """Whether a standing order speaks of a batch: no person gave it up, and it was not resent that way before."""
    if batch.given_up_at is not None or (order is Verdict.RESEND and batch.resent_at is not None):
        return False
    return batch.called_at is not None and batch.called_at <= called_before


def accept(session: Session, batch: Batch, *, now: datetime, note: str) -> None:
    """Unknown -> done: the call turns out to have been taken, and so do single copies of it that were unknown."""
    settled = update(Delivery).where(members(batch), col(Delivery.outcome) == Outcome.UNKNOWN)
    session.execute(settled.values(outcome=Outcome.ACCEPTED, reason=None).execution_options(synchronize_session=False))
    if batch.state is BatchState.UNKNOWN:
        batch.state, batch.done_at, batch.note = BatchState.DONE, now, note[:500]
        session.flush()


def _resend(session: Session, batch: Batch, rows: Sequence[int], *, now: datetime, note: str, ordered: bool) -> None:
    """Unknown -> pending: whoever is unknown of a call is handed over again. `ordered` where no person says so now."""
    assert batch.id is not None
    if rows:
        make_child(session, batch.id, rows, due_at=now, tries=0, note=None, resent_at=now if ordered else None)
    if batch.state is BatchState.UNKNOWN:
        batch.resent_at = now if ordered else batch.resent_at
        batch.state, batch.due_at, batch.promised_at = BatchState.PENDING, now, now
        batch.given_up_at = batch.owner = batch.lease_until = None
        batch.note = note[:500]
    session.flush()
    open_again(session, batch.edition_id)


def _count_open(session: Session, batch: Batch) -> int:
    counted = select(func.count()).select_from(Delivery).where(members(batch), col(Delivery.outcome).is_(None))
    return int(session.execute(counted).scalar_one())


@dataclass(frozen=True, slots=True)
class StandingOrder:
    """What the configuration says about unknown copies that no event has explained in time. None: a person is asked."""

    wait: timedelta
    verdict: Verdict | None


def follow(session: Session, record: EditionRecord, order: StandingOrder, provider: Provider, now: datetime) -> int:
    """Do what the standing order says with the unknown of an edition that are due for it. Gives how many.

    What the provider's events on record prove is settled first, whatever the order says.
    """
    proof.on_record(session, record, provider.name, now, atomic=provider.atomic)
    if order.verdict is None or record.folded_at is not None:
        return 0
    if order.verdict is Verdict.RESEND and record.state is EditionState.CANCELLED:
        return 0
    actor = f"dispatch.on_unknown = {order.verdict}"
    return resolve(session, record, order.verdict, actor=actor, now=now, called_before=now - order.wait)


def editions_with_unknown(session: Session) -> list[EditionRecord]:
    """The editions in which copies are unknown and nobody has given them up, oldest first."""
    whole = select(col(Batch.edition_id)).where(
        col(Batch.state) == BatchState.UNKNOWN, col(Batch.given_up_at).is_(None)
    )
    own = select(col(Delivery.edition_id)).where(col(Delivery.outcome) == Outcome.UNKNOWN)
    return list(
        session.execute(
            select(EditionRecord)
            .where(or_(col(EditionRecord.id).in_(whole), col(EditionRecord.id).in_(own)))
            .where(col(EditionRecord.folded_at).is_(None))
            .order_by(col(EditionRecord.slot_at))
        ).scalars()
    )


def _own(session: Session, record: EditionRecord, outcome: Outcome) -> dict[int, list[int]]:
    """The deliveries with an outcome of their own, by the batch they stand in."""
    rows = session.execute(
        select(col(Delivery.id), batch_of_delivery())
        .where(col(Delivery.edition_id) == record.id, col(Delivery.outcome) == outcome)
        .order_by(col(Delivery.id))
    )
    found: dict[int, list[int]] = {}
    for row, batch_id in rows:
        if batch_id is not None and row is not None:
            found.setdefault(batch_id, []).append(row)
    return found


def _unknown_batches(session: Session, record: EditionRecord, others: Sequence[int]) -> list[Batch]:
    """The batches that are unknown as a whole, and those named."""
    whole = col(Batch.state) == BatchState.UNKNOWN
    return list(
        session.execute(
            select(Batch)
            .where(col(Batch.edition_id) == record.id, or_(whole, col(Batch.id).in_(list(others))))
            .order_by(col(Batch.number))
            .execution_options(populate_existing=True)
        ).scalars()
    )


def promise_anew(session: Session, record: EditionRecord, now: datetime) -> None:
    """Put on record that a person has just said it goes out: what is due is not stale, nor what is due later."""
    session.execute(
        update(Batch)
        .where(col(Batch.edition_id) == record.id, col(Batch.state).in_(OPEN), col(Batch.promised_at) < now)
        .values(promised_at=now)
        .execution_options(synchronize_session="fetch")
    )


def _refuse_if_over(record: EditionRecord, verb: str) -> None:
    if record.frozen_at is None:
        raise _cannot(record, f"it was never frozen: there is nothing to {verb}")
    if record.folded_at is not None:
        raise _cannot(record, "it is folded: its deliveries are no longer single rows")
    if record.state is EditionState.CANCELLED:
        raise _cannot(record, "it was cancelled")


def _cannot(record: EditionRecord, what: str) -> EditionError:
    return EditionError(f"{record.newsletter} {record.slot}", f"it is {record.state}; {what}")
