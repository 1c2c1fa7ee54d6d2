"""The dispatch ledger: freeze, claim, call, record. The queries that promises 2, 3, 4 and 6 rest on.

Like store.py, these work in the caller's session, decide nothing, and take every instant as an argument. A batch's row
stands for its deliveries until one of them differs, so that a whole batch is one UPDATE; every change of a batch in
somebody's hands is conditional on its epoch, so that a process which overslept changes nothing. What the rows add up to
is counted in tally.py.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, TypeAlias, cast

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Integer,
    Select,
    String,
    and_,
    bindparam,
    case,
    exists,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.orm import aliased
from sqlmodel import Session, col

from newsletter import waves
from newsletter.edition import AttemptId, DeliveryId, Recipient
from newsletter.models import (
    Attempt,
    Batch,
    BatchState,
    Decision,
    Delivery,
    EditionRecord,
    EditionState,
    Instance,
    MessageRecord,
    Outcome,
    Verdict,
)
from newsletter.schedule import Slot
from newsletter.store import changed_rows, holds_pulled, message_record, set_edition, topics_of
from subscribers import SUPPRESSED, Instant, RowNumber, Subscriber, audience, number_after, standing

OPEN = (BatchState.PENDING, BatchState.CLAIMED, BatchState.CALLING)
"""The states of batches whose people still wait."""
_ROWS_AT_ONCE = 500  # parameters of one statement; SQLite takes 32,766

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
    session: Session,
    record: EditionRecord,
    *,
    due_at: datetime,
    batch_size: int,
    now: datetime,
    local: Slot | None = None,
    late: bool = False,
) -> Frozen | None:
    """Cut the audience at one instant, and make every decision of the edition final. In one transaction, the caller's.

    Everybody is due at `due_at`; with `local` each when their own zone's clock shows that wall-clock time, and no batch
    holds two of these instants. Where that is past, they are due at `now`, unless it is past by more than the edition's
    `stale_after`: then they are skipped, unless a person said that it goes out `late`.

    None where the draft is no longer the one on record (another process froze or remade it): look again.
    """
    assert record.id is not None
    stored = message_record(session, record.id)
    taken = session.execute(
        select(func.count()).where(
            col(Decision.edition_id) == record.id,
            col(Decision.verdict) == Verdict.TAKEN,
            col(Decision.position).is_not(None),
        )
    ).scalar_one()
    if stored is None or stored.briefs != taken or _went_out_meanwhile(session, record):
        return None
    if holds_pulled(session, record.id):
        return None
    if not set_edition(session, record.id, EditionState.DISPATCHING, reason=None, only_from=[EditionState.DRAFT]):
        return None
    who = audience(record.lists, now, topics_of(session, record.id)).subquery()
    plan: waves.Plan | None = None
    if local is None:
        candidates = session.execute(select(func.count()).select_from(who)).scalar_one()
        rows = select(who.c.subscriber_id, who.c.exclusion).order_by(who.c.subscriber_id)
    else:
        stale_after = None if late else timedelta(seconds=record.stale_after_s)
        plan = waves.plan(session, record.id, who, local, now=now, stale_after=stale_after)
        candidates, rows = plan.candidates, waves.numbered(plan, who)
    delivery = Delivery.__table__  # type: ignore[attr-defined] # SQLModel adds it
    columns = [*([] if plan is None else ["id"]), "subscriber_id", "reason", "edition_id"]
    inserted = changed_rows(session, insert(delivery).from_select(columns, rows.add_columns(literal(record.id))))
    if plan is not None:
        number_after(session, Delivery, plan.span(len(plan.due))[1])
    # In a second step, since a database asks for `exclusion` as often as a statement names it: 0.5 s of a million.
    outcome = case((col(Delivery.reason) == SUPPRESSED, Outcome.SUPPRESSED.value), else_=Outcome.SKIPPED.value)
    mine: tuple[ColumnElement[bool], ...] = (col(Delivery.edition_id) == record.id,)
    if plan is not None:  # by row number, since by the edition's index each lies somewhere else: 0.2 s of a million
        mine = (col(Delivery.id).between(plan.span(0)[0], plan.span(len(plan.due))[1]), _of(record.id))
    session.execute(update(delivery).where(*mine, col(Delivery.reason).is_not(None)).values(outcome=outcome))
    if inserted != candidates:
        raise RuntimeError(f"the audience was counted as {candidates} and frozen as {inserted}")
    ranges: list[tuple[int | None, datetime, tuple[int, int, int]]]
    if plan is None:
        ranges = [(None, due_at, cut) for cut in _ranges(session, record.id, batch_size)]
    else:
        ranges = [
            (wave, due, cut)
            for wave, due in enumerate(plan.due, start=1)
            for cut in _ranges(session, record.id, batch_size, plan.span(wave))
        ]
    if ranges:
        session.execute(
            insert(Batch),
            [
                {
                    "edition_id": record.id,
                    "message_id": stored.id,
                    "number": number,
                    "first_id": first,
                    "last_id": last,
                    "size": size,
                    "wave": wave,
                    "due_at": due,
                    "promised_at": due,
                    "state": BatchState.PENDING,
                    "epoch": 0,
                    "tries": 0,
                }
                for number, (wave, due, (first, last, size)) in enumerate(ranges, 1)
            ],
        )
    session.execute(
        update(Decision)
        .where(col(Decision.edition_id) == record.id, col(Decision.verdict) != Verdict.CARRIED)
        .values(final=True)
    )
    session.execute(
        update(EditionRecord).where(col(EditionRecord.id) == record.id).values(candidates=candidates, frozen_at=now)
    )
    return Frozen(candidates, sum(size for _, _, (_, _, size) in ranges), len(ranges))


def _ranges(
    session: Session, edition_id: int, size: int, span: tuple[int, int] | None = None
) -> list[tuple[int, int, int]]:
    """The row numbers of an edition's open deliveries, all or of a span, cut into batches: first, last, how many."""
    mine = (_of(edition_id), col(Delivery.outcome).is_(None))
    whole = (col(Delivery.edition_id) == edition_id, col(Delivery.outcome).is_(None))
    within = whole if span is None else (col(Delivery.id).between(*span), *mine)
    first, newest, left = session.execute(
        select(func.min(col(Delivery.id)), func.max(col(Delivery.id)), func.count()).where(*within)
    ).one()
    ranges = []
    while left > size:
        last = session.execute(
            select(col(Delivery.id))
            .where(col(Delivery.id) >= first, *mine)
            .order_by(col(Delivery.id))
            .limit(1)
            .offset(size - 1)
        ).scalar_one()
        ranges.append((first, last, size))
        first, left = last + 1, left - size
    return [*ranges, (first, newest, left)] if left else ranges


def _of(edition_id: int) -> ColumnElement[bool]:
    """That a delivery is an edition's, told so that no database looks it up by that instead of by row number."""
    return (col(Delivery.edition_id) + 0) == edition_id


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
                col(mine.position).is_not(None),
                col(theirs.edition_id) != record.id,
                col(theirs.verdict) == Verdict.TAKEN,
                col(theirs.final),
            )
        ).scalar_one()
    )


def due_now(session: Session, edition_id: int, now: datetime) -> None:
    """Make every pending batch due now, but for waves that are ahead: a person's word that it goes out late."""
    session.execute(
        update(Batch)
        .where(col(Batch.edition_id) == edition_id, col(Batch.state) == BatchState.PENDING)
        .where(col(Batch.promised_at) <= now)
        .values(due_at=now, promised_at=now)
    )


def bring_forward(session: Session, edition_id: int, later_than: datetime, now: datetime) -> None:
    """Make due now what was put off to such a time: nobody means that, but a clock that was wrong."""
    put_off = or_(col(Batch.note).is_not(None), col(Batch.parent_id).is_not(None), col(Batch.tries) > 0)
    session.execute(
        update(Batch)
        .where(col(Batch.edition_id) == edition_id, col(Batch.state) == BatchState.PENDING, put_off)
        .where(col(Batch.due_at) > later_than)
        .values(due_at=now)
        .execution_options(synchronize_session=False)
    )


def mailable(
    session: Session, lists: Sequence[str], now: datetime, *, after: int, limit: int
) -> list[tuple[int, str, str | None, str]]:
    """The people an edition would be mailed to now, by id from `after` on: id, address, name, link."""
    rows = session.execute(
        select(col(Subscriber.id), col(Subscriber.address), col(Subscriber.name), col(Subscriber.link))
        .where(col(Subscriber.id) > after, standing(lists, now).is_(None))
        .order_by(col(Subscriber.id))
        .limit(limit)
    )
    return [(row[0], row[1], row[2], row[3]) for row in rows]


# ------------------------------------------------------------------------------------------ whose is whose


def members(batch: Batch) -> ColumnElement[bool]:
    """The deliveries of a batch, whatever has become of them."""
    if batch.first_id is None or batch.last_id is None:
        return col(Delivery.batch_id) == batch.id
    return and_(
        col(Delivery.id).between(batch.first_id, batch.last_id),
        col(Delivery.batch_id).is_(None),
        _of(batch.edition_id),
    )


_Ranged = aliased(Batch)


def batch_of_delivery() -> ColumnElement[int | None]:
    """The row number of a delivery's batch, for a statement on a few deliveries. NULL: it never stood in one."""
    ranged = (
        select(col(_Ranged.id))
        .where(
            col(_Ranged.edition_id) == col(Delivery.edition_id),
            col(_Ranged.first_id) <= col(Delivery.id),
            col(_Ranged.last_id) >= col(Delivery.id),
        )
        .correlate(Delivery)
        .scalar_subquery()
    )
    return func.coalesce(col(Delivery.batch_id), ranged)


# ------------------------------------------------------------------------------------------ dispatching


@dataclass(frozen=True, slots=True)
class Claimed:
    """A batch in a process's hands: who is to get a copy, and the marks that a call must still match."""

    edition_id: int
    batch_id: int
    number: int
    epoch: int
    tries: int
    message_id: int
    due_at: datetime
    attempt: AttemptId
    recipients: tuple[Recipient, ...]
    rows: Mapping[DeliveryId, int] = field(repr=False)


Standing: TypeAlias = tuple[int, int, str, str | None, str, str | None]
"""One delivery of a claimed batch, and who it goes to, as they are now.

Delivery's row, subscriber's, address, name, link, and why they may not be mailed (None: they may). A row as the
database gave it: there is one for every copy, and making anything of it costs more than reading it.
"""


# Statements that are executed for every call are made once: making one takes longer than most databases to answer it.
_EDITION: BindParameter[int] = bindparam("edition", type_=Integer())
_NOW: BindParameter[datetime] = bindparam("now", type_=Instant())
_PENDING = (col(Batch.edition_id) == _EDITION, col(Batch.state) == BatchState.PENDING)
_HELD = [BatchState.CLAIMED, BatchState.CALLING]
_GOES_ON = (
    select(literal(1))
    .select_from(EditionRecord)
    .where(
        col(EditionRecord.id) == _EDITION,
        col(EditionRecord.state) == EditionState.DISPATCHING,
        ~exists(select(literal(1)).where(col(Instance.halted_at).is_not(None))),
    )
)
_NEXT_DUE = select(func.min(col(Batch.due_at))).where(*_PENDING)
_FIRST_PROMISED = select(func.min(col(Batch.promised_at))).where(*_PENDING)
# Its words stand in the statement: with parameters SQLite does not see that a partial index on them will do.
_WORDS_HELD: BindParameter[Any] = bindparam("held", value=_HELD, expanding=True, literal_execute=True)
_IN_HANDS = select(Batch).where(col(Batch.state).in_(_WORDS_HELD)).execution_options(populate_existing=True)
_NEXT = (
    select(Batch)
    .where(*_PENDING, col(Batch.due_at) <= _NOW)
    .order_by(col(Batch.due_at), col(Batch.number))
    .limit(1)
    .execution_options(populate_existing=True)
)
_WAITING = select(func.count()).where(col(Batch.edition_id) == _EDITION, col(Batch.state).in_(OPEN))


def goes_on(session: Session, edition_id: int) -> bool:
    """Whether an edition is in dispatch, and dispatch not halted."""
    return session.execute(_GOES_ON, {"edition": edition_id}).scalar_one_or_none() is not None


def next_due(session: Session, edition_id: int) -> datetime | None:
    """When the next pending batch is due, None where none is pending."""
    return session.execute(_NEXT_DUE, {"edition": edition_id}).scalar_one_or_none()


def first_promised(session: Session, edition_id: int) -> datetime | None:
    """When the oldest pending batch was first due, None where none is pending."""
    return session.execute(_FIRST_PROMISED, {"edition": edition_id}).scalar_one_or_none()


def count_open(session: Session, edition_id: int) -> int:
    """How many batches there are whose people still wait."""
    return int(session.execute(_WAITING, {"edition": edition_id}).scalar_one())


def is_ahead(session: Session, edition_id: int, now: datetime) -> bool:
    """Whether all that waits in an edition are waves whose time has not come."""
    open_ones = select(func.min(col(Batch.promised_at))).where(
        col(Batch.edition_id) == edition_id, col(Batch.state).in_(OPEN)
    )
    first = session.execute(open_ones).scalar_one_or_none()
    return first is not None and first > now


def held(session: Session) -> list[Batch]:
    """The batches, of any edition, that some process has claimed or is calling with."""
    return list(session.execute(_IN_HANDS).scalars())


def release(session: Session, batch: Batch, state: BatchState, *, note: str, now: datetime) -> None:
    """Take a batch out of the hands of a process that is gone: pending again, or unknown.

    Whoever of a call was answered before that is accepted, and no longer as the batch is.
    """
    if batch.state is BatchState.CALLING and batch.answered_to is not None:
        session.execute(
            update(Delivery)
            .where(members(batch), col(Delivery.id) <= batch.answered_to, col(Delivery.outcome).is_(None))
            .values(outcome=Outcome.ACCEPTED)
            .execution_options(synchronize_session=False)
        )
    session.execute(
        update(Batch)
        .where(col(Batch.id) == batch.id, col(Batch.epoch) == batch.epoch, col(Batch.state) == batch.state)
        .values(state=state, owner=None, lease_until=None, note=note, due_at=min(batch.due_at, now))
        .execution_options(synchronize_session=False)
    )


_MESSAGE, _LATER = MessageRecord.__table__, MessageRecord.__table__.alias()  # type: ignore[attr-defined] # SQLModel adds it
_NEWEST_MESSAGE = (
    select(_LATER.c.id)
    .join(_MESSAGE, and_(_LATER.c.edition_id == _MESSAGE.c.edition_id, _LATER.c.variant == _MESSAGE.c.variant))
    .where(_MESSAGE.c.id == bindparam("message", type_=Integer()))
    .order_by(_LATER.c.revision.desc())
    .limit(1)
)
"""What a batch mails from now on: a correction's revision takes the place of the one before."""


def claim(
    session: Session, record: EditionRecord, *, owner: str, lease_until: datetime, attempt: AttemptId, now: datetime
) -> tuple[Batch, list[Standing]] | None:
    """Take the next batch that is due, and read who stands in it as they are at this instant. None where none is due.

    It mails the newest revision of its message. Of the people only those whose outcome is open are told;
    `exclusion` is "suppressed", "left" or "paused".
    """
    batch = session.execute(_NEXT, {"edition": record.id, "now": now}).scalar_one_or_none()
    if batch is None:
        return None
    session.expunge(batch)  # written by a statement that is ready: SQLAlchemy's own makes one each time
    batch.state, batch.epoch, batch.owner = BatchState.CLAIMED, batch.epoch + 1, owner
    batch.message_id = session.execute(_NEWEST_MESSAGE, {"message": batch.message_id}).scalar_one()
    batch.lease_until, batch.attempt = lease_until, str(attempt)
    mine = {"batch": batch.id, "epoch_now": batch.epoch, "by": owner, "until": lease_until, "called": batch.attempt}
    session.execute(_CLAIM, mine)
    whose = {"edition": record.id, "batch": batch.id, "first": batch.first_id, "last": batch.last_id, "now": now}
    # The driver's own rows: what SQLAlchemy makes of them takes as long as reading them.
    found = session.connection().execute(_people(tuple(record.lists), ranged=batch.first_id is not None), whose)
    rows = cast("list[Standing]", found.cursor.fetchall())
    found.close()
    return batch, rows


@lru_cache(maxsize=100)
def _people(lists: tuple[str, ...], *, ranged: bool) -> Select[Any]:
    """Who stands in a batch, a range or one made out of another, and what stands against mailing them."""
    in_range = and_(
        col(Delivery.id).between(bindparam("first", type_=RowNumber), bindparam("last", type_=RowNumber)),
        col(Delivery.batch_id).is_(None),
        (col(Delivery.edition_id) + 0) == _EDITION,
    )
    named = col(Delivery.batch_id) == bindparam("batch", type_=Integer())
    people: Select[Any] = (
        select(  # type: ignore[assignment] # what SQLAlchemy infers of six columns
            col(Delivery.id),
            col(Delivery.subscriber_id),
            col(Subscriber.address),
            col(Subscriber.name),
            col(Subscriber.link),
            standing(lists, _NOW),
        )
        .join(Subscriber, col(Subscriber.id) == col(Delivery.subscriber_id))
        .where(in_range if ranged else named, col(Delivery.outcome).is_(None))
        .order_by(col(Delivery.id))
    )
    return people


def write_outcomes(session: Session, outcomes: Mapping[int, tuple[Outcome, str | None]]) -> None:
    """Write deliveries' own outcomes, where they have none yet."""
    by_word: dict[tuple[Outcome, str | None], list[int]] = {}
    for row, word in outcomes.items():
        by_word.setdefault(word, []).append(row)
    for (outcome, reason), ids in by_word.items():
        for some in _slices(ids):
            session.execute(
                update(Delivery)
                .where(col(Delivery.id).in_(some), col(Delivery.outcome).is_(None))
                .values(outcome=outcome, reason=reason)
                .execution_options(synchronize_session=False)
            )


_BATCH, _OTHER = Batch.__table__, Batch.__table__.alias()  # type: ignore[attr-defined] # SQLModel adds it
_UNTOUCHED = (_BATCH.c.id == bindparam("batch", type_=Integer()), _BATCH.c.epoch == bindparam("epoch_then"))
_CLAIM = (
    update(_BATCH)
    .where(_BATCH.c.id == bindparam("batch", type_=Integer()))
    .values(
        state=BatchState.CLAIMED,
        epoch=bindparam("epoch_now", type_=Integer()),
        owner=bindparam("by", type_=String()),
        lease_until=bindparam("until", type_=Instant()),
        attempt=bindparam("called", type_=String()),
    )
)
_BEGIN = (
    update(_BATCH)
    .where(
        *_UNTOUCHED,
        _BATCH.c.state == BatchState.CLAIMED,
        _BATCH.c.lease_until > _NOW,
        _GOES_ON.exists(),
        select(func.count())
        .select_from(_OTHER)
        .where(_OTHER.c.state.in_(_WORDS_HELD), _OTHER.c.state == BatchState.CALLING)
        .scalar_subquery()
        < bindparam("calls", type_=Integer()),
    )
    .values(
        state=BatchState.CALLING, lease_until=bindparam("until", type_=Instant()), called_at=_NOW, answered_to=null()
    )
)
_ATTEMPT = insert(Attempt.__table__)  # type: ignore[attr-defined] # SQLModel adds it
_ANSWERED = (
    update(_BATCH)
    .where(*_UNTOUCHED, _BATCH.c.state == BatchState.CALLING)
    .values(answered_to=bindparam("row", type_=RowNumber))
)
_LAST_TURN = select(func.coalesce(func.max(_OTHER.c.turn), 0)).where(_OTHER.c.edition_id == _EDITION).scalar_subquery()
_DONE = (
    update(_BATCH)
    .where(*_UNTOUCHED, _BATCH.c.state.in_([*_HELD, BatchState.UNKNOWN, BatchState.PENDING, BatchState.CANCELLED]))
    .values(
        state=BatchState.DONE,
        owner=null(),
        lease_until=null(),
        note=bindparam("said", type_=String()),
        provider_id=bindparam("named", type_=String()),
        done_at=_NOW,
        held_until=bindparam("until", type_=Instant()),
        turn=_LAST_TURN + 1,
    )
)
_LOST = (
    update(_BATCH)
    .where(*_UNTOUCHED, _BATCH.c.state.in_([*_HELD, BatchState.UNKNOWN]))
    .values(
        state=BatchState.UNKNOWN,
        owner=null(),
        lease_until=null(),
        note=bindparam("said", type_=String()),
        turn=_LAST_TURN + 1,
    )
)


def begin_call(session: Session, claimed: Claimed, *, now: datetime, lease_until: datetime, calls: int) -> bool:
    """Claimed -> calling, the last act before the first byte. False where that must not be: do not call.

    That is where the claim is no longer ours; where all dispatch was halted, or the edition paused or cancelled, since
    it was made; and where as many `calls` are out as may be. The attempt is put on record with it, so that whatever is
    told about it later finds its batch.
    """
    marks = {"batch": claimed.batch_id, "epoch_then": claimed.epoch, "edition": claimed.edition_id, "now": now}
    begun = session.execute(_BEGIN, {**marks, "until": lease_until, "calls": calls})
    if _changed(begun) != 1:
        return False
    session.execute(_ATTEMPT, {"id": str(claimed.attempt), "batch_id": claimed.batch_id, "called_at": now})
    return True


def note_answers(
    session: Session, claimed: Claimed, *, answered_to: int, outcomes: Mapping[int, tuple[Outcome, str | None]]
) -> bool:
    """Put on record, while a call goes on, that its deliveries up to a row are answered.

    They are accepted, or what `outcomes` says. So a process that dies in the call leaves only those in doubt whose
    answer had not come. False where the batch is no longer ours.
    """
    marks = {"batch": claimed.batch_id, "epoch_then": claimed.epoch, "row": answered_to}
    if _changed(session.execute(_ANSWERED, marks)) != 1:
        return False
    write_outcomes(session, outcomes)
    return True


def give_back(
    session: Session, claimed: Claimed, *, due_at: datetime, note: str, asked_at: datetime | None = None
) -> bool:
    """Claimed or calling -> pending: surely nothing was accepted. False where the batch is no longer ours.

    `asked_at` is when an operator is asked about its refusal, None where they are not. A late word of it for an unknown
    batch is taken, unless an operator gave that up. In an edition that was cancelled meanwhile it is cancelled; a
    closed one is open again.
    """
    cancelled = is_cancelled(session, claimed.edition_id)
    mine = _move(
        session,
        claimed,
        [*_HELD, BatchState.UNKNOWN],
        col(Batch.given_up_at).is_(None),
        state=BatchState.CANCELLED if cancelled else BatchState.PENDING,
        owner=None,
        lease_until=None,
        due_at=due_at,
        note=note[:500],
        tries=col(Batch.tries) + 1,
        **({"asked_at": asked_at} if asked_at is not None else {}),
    )
    if mine:
        open_again(session, claimed.edition_id)
    return mine


def put_off(session: Session, claimed: Claimed, *, due_at: datetime, note: str | None) -> bool:
    """Claimed -> pending, without a call: a limit leaves no room now, or dispatch was stopped. It counts as no try."""
    values = {"state": BatchState.PENDING, "owner": None, "lease_until": None, "due_at": due_at, "note": note}
    return _move(session, claimed, [BatchState.CLAIMED], **values)


def finish(
    session: Session,
    claimed: Claimed,
    state: BatchState,
    *,
    note: str | None,
    now: datetime,
    provider_id: str | None = None,
    held_until: datetime | None = None,
) -> bool:
    """Write what a call came to: done or unknown. A late answer for an unknown batch is taken.

    `held_until` is until when the provider keeps back what it took. False where the batch was claimed anew since: the
    newer claim speaks for it.
    """
    marks = {"batch": claimed.batch_id, "epoch_then": claimed.epoch, "edition": claimed.edition_id}
    said = note[:500] if note else None
    if state is BatchState.UNKNOWN:
        return _changed(session.execute(_LOST, {**marks, "said": said})) == 1
    assert state is BatchState.DONE
    named = provider_id[:200] if provider_id else None
    # Also where it was taken from us meanwhile and nobody has called again: it waits to be, and must not; or it was
    # cancelled while it waited, too late.
    return (
        _changed(session.execute(_DONE, {**marks, "said": said, "named": named, "now": now, "until": held_until})) == 1
    )


def _move(
    session: Session, claimed: Claimed, states: Sequence[BatchState], *conditions: ColumnElement[bool], **values: object
) -> bool:
    """Change a batch that stands where its claim left it. False where it no longer does."""
    where = (col(Batch.id) == claimed.batch_id, col(Batch.epoch) == claimed.epoch, col(Batch.state).in_(states))
    statement = update(Batch).where(*where, *conditions).values(**values)
    return changed_rows(session, statement.execution_options(synchronize_session=False)) == 1


def _changed(result: Any) -> int:
    """How many rows a statement has changed."""
    return int(result.rowcount)


def is_cancelled(session: Session, edition_id: int) -> bool:
    """Whether an operator ended an edition."""
    state = select(col(EditionRecord.state)).where(col(EditionRecord.id) == edition_id)
    return bool(session.execute(state).scalar_one() is EditionState.CANCELLED)


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What is known of a refusal without a word about whose fault it is.

    `proven` is True where a part of what was refused has been accepted since: the message itself is good. `fresh` where
    nobody was refused for it after that. `asked` where an operator let the batch be tried once more.
    """

    proven: bool
    fresh: bool
    asked: bool


def is_suspect(session: Session, claimed: Claimed) -> bool:
    """Whether a batch is a part of what was refused without a word about whose fault it is."""
    return _stored(session, claimed.batch_id).suspect_id is not None


def suspect(session: Session, claimed: Claimed) -> Suspicion:
    """Mark a batch as refused without a word about whose fault it is, and say what is known of that."""
    batch = _stored(session, claimed.batch_id)
    root = batch.suspect_id or claimed.batch_id
    _move(session, claimed, [*_HELD, BatchState.UNKNOWN], suspect_id=root)
    done = session.execute(
        select(Batch)
        .where(col(Batch.suspect_id) == root, col(Batch.state) == BatchState.DONE)
        .order_by(col(Batch.turn).desc())
    ).scalars()
    accepted: int | None = None
    refused: int | None = None
    for part in done:
        if accepted is None and _has(session, part, col(Delivery.outcome).is_(None)):
            accepted = part.turn
        if refused is None and _has(session, part, col(Delivery.outcome) == Outcome.REFUSED):
            refused = part.turn
        if accepted is not None and refused is not None:
            break
    fresh = accepted is not None and (refused is None or refused < accepted)
    return Suspicion(accepted is not None, fresh, batch.asked_at is not None)


def _has(session: Session, batch: Batch, condition: ColumnElement[bool]) -> bool:
    found = session.execute(select(col(Delivery.id)).where(members(batch), condition).limit(1))
    return found.scalar_one_or_none() is not None


def _stored(session: Session, batch_id: int) -> Batch:
    """A batch as it stands on the disk now, whatever this session read before."""
    return session.get_one(Batch, batch_id, populate_existing=True)


def make_child(
    session: Session,
    parent_id: int,
    rows: Sequence[int],
    *,
    due_at: datetime,
    tries: int,
    note: str | None,
    resent_at: datetime | None = None,
) -> None:
    """Move deliveries of a batch into a new one, due later, and their count with them; their outcomes are open again.

    `resent_at` is when a standing order had them sent again, None where it did not now. What was, stays on record.
    In an edition that was cancelled meanwhile the new one is cancelled, too; a closed one is open again.
    """
    parent = _stored(session, parent_id)
    number = session.execute(
        select(func.max(col(Batch.number))).where(col(Batch.edition_id) == parent.edition_id)
    ).scalar_one()
    cancelled = is_cancelled(session, parent.edition_id)
    child = Batch(
        edition_id=parent.edition_id,
        message_id=parent.message_id,
        number=number + 1,
        parent_id=parent.id,
        wave=parent.wave,
        suspect_id=parent.suspect_id,
        resent_at=resent_at or parent.resent_at,
        size=len(rows),
        due_at=due_at,
        promised_at=parent.promised_at,
        state=BatchState.CANCELLED if cancelled else BatchState.PENDING,
        tries=tries,
        note=note[:500] if note else None,
    )
    session.add(child)
    session.flush()
    for some in _slices(rows):
        session.execute(
            update(Delivery)
            .where(col(Delivery.id).in_(some))
            .values(batch_id=child.id, outcome=None, reason=None)
            .execution_options(synchronize_session=False)
        )
    session.execute(
        update(Batch)
        .where(col(Batch.id) == parent.id)
        .values(size=col(Batch.size) - len(rows))
        .execution_options(synchronize_session=False)
    )
    open_again(session, parent.edition_id)


def open_again(session: Session, edition_id: int) -> None:
    """Open a closed edition in which somebody waits again."""
    session.execute(
        update(EditionRecord)
        .where(col(EditionRecord.id) == edition_id, col(EditionRecord.state) == EditionState.CLOSED)
        .values(state=EditionState.DISPATCHING, closed_at=None)
    )


def close_if_done(session: Session, edition_id: int, now: datetime) -> bool:
    """Close an edition in which nothing waits. True where it is closed by now, or an operator's word keeps it.

    One that the program paused is closed, too: there is nothing that a person could let go on.
    """
    if count_open(session, edition_id):
        return False
    session.execute(
        update(EditionRecord)
        .where(
            col(EditionRecord.id) == edition_id,
            or_(
                col(EditionRecord.state) == EditionState.DISPATCHING,
                and_(col(EditionRecord.state) == EditionState.PAUSED, col(EditionRecord.paused_by).is_(None)),
            ),
        )
        .values(state=EditionState.CLOSED, closed_at=now)
    )
    return True


def _slices(rows: Iterable[int]) -> Iterable[list[int]]:
    every = list(rows)
    return (every[start : start + _ROWS_AT_ONCE] for start in range(0, len(every), _ROWS_AT_ONCE))
