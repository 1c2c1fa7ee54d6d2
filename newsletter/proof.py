"""What events prove of calls and copies of which nobody knew: unknown, waiting to be handed over again, called back.

A provider tells only of what it took. Where its calls are atomic, one event with a call's attempt id proves the whole
call; elsewhere, and where the call is not the batch's latest, an event proves its own copy alone. What was refused, or
was moved into another batch since, stays as it is. All in the caller's session.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import literal_column, or_, select, update
from sqlmodel import Session, col

from newsletter.edition import EventKind
from newsletter.ledger import OPEN, close_if_done, members
from newsletter.models import Attempt, Batch, BatchState, Delivery, EditionRecord, EventRecord, Outcome
from newsletter.names import Names
from newsletter.processes import is_gone
from newsletter.store import changed_rows, instance

TAKEN = frozenset(EventKind) - {EventKind.UNKNOWN, EventKind.REJOINED}
"""The kinds of events that show that the provider took the copy."""
WENT_OUT = TAKEN - {EventKind.PROCESSED, EventKind.DROPPED}
"""Those that show that it let it go, too: what it was to keep back may be taken in, and dropped when called back."""
_NOTE = "an event showed that the provider took it"
_AT_ONCE = 500  # parameters of one statement


@dataclass(frozen=True, slots=True)
class Copy:
    """A delivery of which an event was told, as it stands. `went_out`: whether one shows that the provider sent it."""

    row: int
    batch_id: int | None
    outcome: Outcome | None
    went_out: bool


def of_calls(session: Session, attempts: Mapping[str, bool], now: datetime) -> int:
    """Settle what events of an atomic provider prove of whole calls; give how many batches that settles.

    `attempts` are the ids that events brought, and whether one of them shows that a copy went out.
    """
    settled = 0
    for some in _slices(attempts):
        rows = session.execute(
            select(col(Attempt.id), col(Attempt.called_at), Batch)
            .join(Batch, col(Batch.id) == col(Attempt.batch_id))
            .join(EditionRecord, col(EditionRecord.id) == col(Batch.edition_id))
            .where(col(Attempt.id).in_(some), col(EditionRecord.folded_at).is_(None))
            .execution_options(populate_existing=True)
        ).all()
        for attempt, called_at, batch in rows:
            # A batch only ever loses members, so that its latest call was made for all who stand in it now.
            if attempt != batch.attempt and called_at != batch.called_at:
                continue
            if not _may_settle(batch, now, went_out=attempts[attempt]):
                continue
            settled += _accept(session, batch, now)
    return settled


def _may_settle(batch: Batch, now: datetime, *, went_out: bool) -> bool:
    """Whether an event of a batch's latest call says something new about the batch."""
    if batch.called_at is None:
        return False
    if batch.state is BatchState.CALLING:  # in living hands, the answer itself is to come
        lapsed = batch.lease_until is None or batch.lease_until <= now
        return lapsed or bool(batch.owner and is_gone(batch.owner))
    if batch.state is BatchState.CANCELLED:  # `done_at`: it was taken, and called back
        return went_out or batch.done_at is None
    return True


def _accept(session: Session, batch: Batch, now: datetime) -> bool:
    """Make a batch done, and accepted who was unknown in it. True where that changes anything."""
    mine = (col(Batch.id) == batch.id, col(Batch.epoch) == batch.epoch, col(Batch.state) == batch.state)
    was = batch.state
    changed = False
    if was is not BatchState.DONE:
        values = {"state": BatchState.DONE, "done_at": batch.done_at or now, "note": _NOTE}
        cleared = {"owner": None, "lease_until": None, "given_up_at": None, "held_until": None}
        changed = changed_rows(session, _quietly(update(Batch).where(*mine).values(**values, **cleared))) == 1
        if not changed:
            return False
    unknown = (members(batch), col(Delivery.outcome) == Outcome.UNKNOWN)
    if _has_unknown(session, batch.edition_id):
        accepted = update(Delivery).where(*unknown).values(outcome=Outcome.ACCEPTED, reason=None)
        changed = changed_rows(session, _quietly(accepted)) > 0 or changed
    if was in OPEN:
        close_if_done(session, batch.edition_id, now)
    session.expire(batch)
    return changed


def of_copies(session: Session, edition_id: int, copies: Collection[Copy], now: datetime) -> int:
    """Settle what events prove of single copies of an edition that is not folded. Gives how many were settled."""
    rows = [copy.row for copy in copies if copy.outcome is Outcome.UNKNOWN]
    open_copies = [copy for copy in copies if copy.outcome is None]
    touched: dict[int, Batch] = {}
    if open_copies:
        batches = _unsettled(session, edition_id, open_copies)
        for copy in open_copies:
            batch = batches.of(copy)
            if batch is None or (batch.state is BatchState.CANCELLED and batch.done_at and not copy.went_out):
                continue
            rows.append(copy.row)
            assert batch.id is not None
            touched[batch.id] = batch
    settled = 0
    open_or_unknown = or_(col(Delivery.outcome).is_(None), col(Delivery.outcome) == Outcome.UNKNOWN)
    for some in _slices(rows):
        accepted = update(Delivery).where(col(Delivery.id).in_(some), open_or_unknown)
        settled += changed_rows(session, _quietly(accepted.values(outcome=Outcome.ACCEPTED, reason=None)))
    for batch in touched.values():
        if batch.state in {BatchState.PENDING, BatchState.UNKNOWN}:
            left = select(col(Delivery.id)).where(members(batch), open_or_unknown).limit(1)
            if session.execute(left).scalar_one_or_none() is None:
                _accept(session, batch, now)
    return settled


@dataclass(frozen=True, slots=True)
class _Unsettled:
    """Batches that are not known to be accepted, to be found by a copy that stands in one."""

    ranges: list[Batch]
    made: dict[int, Batch]

    def of(self, copy: Copy) -> Batch | None:
        """The batch of a copy; None where that one was accepted, or is in somebody's call."""
        if copy.batch_id is not None:
            return self.made.get(copy.batch_id)
        within = (one for one in self.ranges if (one.first_id or 0) <= copy.row <= (one.last_id or 0))
        return next(within, None)


def _unsettled(session: Session, edition_id: int, copies: Collection[Copy]) -> _Unsettled:
    """The batches that some of these copies may stand in and that are neither done nor in somebody's call."""
    states = col(Batch.state).in_([BatchState.PENDING, BatchState.CLAIMED, BatchState.UNKNOWN, BatchState.CANCELLED])
    first, last = min(copy.row for copy in copies), max(copy.row for copy in copies)
    ranged = select(Batch).where(
        col(Batch.edition_id) == edition_id, states, col(Batch.first_id) <= last, col(Batch.last_id) >= first
    )
    fresh = {"populate_existing": True}
    ranges = list(session.execute(ranged.execution_options(**fresh)).scalars())
    made: dict[int, Batch] = {}
    for some in _slices({copy.batch_id for copy in copies if copy.batch_id is not None}):
        named = select(Batch).where(col(Batch.id).in_(some), states)
        made |= {one.id or 0: one for one in session.execute(named.execution_options(**fresh)).scalars()}
    return _Unsettled(ranges, made)


def on_record(session: Session, record: EditionRecord, provider: str, now: datetime, *, atomic: bool) -> int:
    """Settle what is unknown in an edition by events that came before it was. Gives how many calls or copies that was.

    An event may overtake the answer that is then lost.
    """
    if record.id is None or record.folded_at is not None:
        return 0
    unknown = select(Batch).where(col(Batch.edition_id) == record.id, col(Batch.state) == BatchState.UNKNOWN)
    batches = list(session.execute(unknown).scalars())
    whose = [col(Delivery.outcome) == Outcome.UNKNOWN] if _has_unknown(session, record.id) else []
    if not batches and not whose:
        return 0
    settled = 0
    if atomic:
        attempts = {batch.attempt for batch in batches if batch.attempt}
        told = {attempt for attempt in attempts if _was_told(session, provider, attempt)}
        settled += of_calls(session, dict.fromkeys(told, True), now)
        batches = [batch for batch in batches if batch.attempt not in told]
    names = Names(instance(session).instance_id)
    for of in [*(members(batch) & col(Delivery.outcome).is_(None) for batch in batches), *whose]:
        settled += _copies_on_record(session, record, names, of, provider, now)
    return settled


def _was_told(session: Session, provider: str, attempt: str) -> bool:
    told = select(col(EventRecord.id)).where(
        col(EventRecord.attempt) == attempt,
        col(EventRecord.provider) == provider,
        col(EventRecord.kind).in_(TAKEN),
    )
    return session.execute(told.limit(1)).scalar_one_or_none() is not None


def _copies_on_record(  # noqa: PLR0917 # which copies, of what, told by whom, when
    session: Session, record: EditionRecord, names: Names, of: Any, provider: str, now: datetime
) -> int:
    assert record.id is not None
    rows = session.execute(
        select(col(Delivery.id), col(Delivery.subscriber_id), col(Delivery.batch_id), col(Delivery.outcome)).where(
            col(Delivery.edition_id) == record.id, of
        )
    ).all()
    by_name = dict(zip(names.of(record.tag, [row[1] for row in rows]), rows, strict=True))
    attempts = select(col(Attempt.id)).join(Batch, col(Batch.id) == col(Attempt.batch_id))
    called = col(EventRecord.attempt).in_(attempts.where(col(Batch.edition_id) == record.id))
    told: set[str | None] = set()
    for some in _slices(by_name):
        mine = col(EventRecord.delivery).in_(some)
        for found in (mine & col(EventRecord.attempt).is_(None), mine & called):
            proving = select(col(EventRecord.delivery)).where(
                found, col(EventRecord.provider) == provider, col(EventRecord.kind).in_(TAKEN)
            )
            told.update(session.execute(proving).scalars())
    copies = [
        Copy(row, batch_id, outcome, went_out=True)
        for name, (row, _, batch_id, outcome) in by_name.items()
        if name in told
    ]
    return of_copies(session, record.id, copies, now) if copies else 0


def _has_unknown(session: Session, edition_id: int) -> bool:
    """Whether a delivery of an edition is unknown by itself. Read from an index of those alone."""
    unknown: Any = literal_column(
        f"'{Outcome.UNKNOWN}'"
    )  # as the index says it, so that each database sees that it fits
    found = select(col(Delivery.id)).where(col(Delivery.edition_id) == edition_id, col(Delivery.outcome) == unknown)
    return session.execute(found.limit(1)).scalar_one_or_none() is not None


def _quietly(statement: Any) -> Any:
    """A statement whose effect on what the session holds is read again where it matters."""
    return statement.execution_options(synchronize_session=False)


def _slices(values: Iterable[Any]) -> Iterator[list[Any]]:
    every = list(values)
    return (every[start : start + _AT_ONCE] for start in range(0, len(every), _AT_ONCE))
