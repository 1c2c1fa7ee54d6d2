"""The queries of the clock: slots that were met, editions that are to be attended to, and who attends.

Like store.py, these work in the caller's session, decide nothing, and take every instant as an argument.
"""

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import NamedTuple, TypeVar

from sqlalchemy import and_, func, or_, select, tuple_, update
from sqlmodel import Session, col

from newsletter.models import Approval, EditionRecord, EditionState, ExtraSlot, Watch
from newsletter.names import tag_of
from newsletter.schedule import Slot
from newsletter.store import changed_rows

T = TypeVar("T")
_AT_ONCE = 500  # values of one query: far below the limits of both databases

# ------------------------------------------------------------------------------------------ slots


def watched(session: Session, newsletters: Collection[str], now: datetime) -> dict[str, tuple[Watch, datetime | None]]:
    """How the clock minds each of some newsletters, those left out that it never did; in one query.

    Beside it the instant of the newest slot that has passed and of which there is an edition, None where there is none.
    """
    newest = (
        select(func.max(col(EditionRecord.slot_at)))
        .where(col(EditionRecord.newsletter) == col(Watch.newsletter), col(EditionRecord.slot_at) <= now)
        .correlate(Watch)
        .scalar_subquery()
    )
    found = {}
    for some in batched(newsletters):
        for row, last in session.execute(select(Watch, newest).where(col(Watch.newsletter).in_(some))):
            found[row.newsletter] = (row, last)
    return found


def watch(session: Session, newsletter: str, since: datetime, schedule: str, schedule_since: datetime) -> None:
    """Put on record that the clock minds a newsletter from an instant on, if it does not yet, and by which schedule."""
    row = session.get(Watch, newsletter)
    if row is None:
        row = Watch(
            newsletter=newsletter, since=since, schedule=schedule, schedule_since=schedule_since, seen_at=schedule_since
        )
        session.add(row)
    row.schedule, row.schedule_since = schedule, schedule_since


def seen(session: Session, newsletters: Collection[str], now: datetime) -> None:
    """Put on record that the clock has looked at newsletters."""
    for some in batched(newsletters):
        session.execute(
            update(Watch)
            .where(col(Watch.newsletter).in_(some))
            .values(seen_at=now)
            .execution_options(synchronize_session=False)
        )


def editions_after(session: Session, newsletters: Collection[str], instant: datetime) -> list[EditionRecord]:
    """The editions of some newsletters whose slots come after an instant."""
    found: list[EditionRecord] = []
    for some in batched(newsletters):
        query = select(EditionRecord).where(
            col(EditionRecord.newsletter).in_(some), col(EditionRecord.slot_at) > instant
        )
        found += session.execute(query).scalars()
    return found


def editions_of(session: Session, slots: Collection[tuple[str, str]]) -> list[EditionRecord]:
    """The editions of some slots, each named by its newsletter and its text, whatever zone they were met in."""
    found: list[EditionRecord] = []
    for some in batched(sorted(slots)):
        query = select(EditionRecord).where(tuple_(col(EditionRecord.newsletter), col(EditionRecord.slot)).in_(some))
        found += session.execute(query).scalars()
    return found


def editions_since(session: Session, newsletter: str, instant: datetime) -> dict[str, EditionRecord]:
    """The editions of slots from an instant on, by the slot's text."""
    rows = session.execute(
        select(EditionRecord).where(col(EditionRecord.newsletter) == newsletter, col(EditionRecord.slot_at) >= instant)
    ).scalars()
    return {record.slot: record for record in rows}


def plan(
    session: Session, newsletter: str, slot: Slot, *, lists: Sequence[str], next_at: datetime, now: datetime
) -> None:
    """Put on record that the clock has met a slot."""
    session.add(
        EditionRecord(
            newsletter=newsletter,
            slot=str(slot),
            zone=slot.zone,
            slot_at=slot.instant,
            state=EditionState.PLANNED,
            created_at=now,
            lists=list(lists),
            stale_after_s=0,
            tag=tag_of(newsletter, str(slot)),
            next_at=next_at,
        )
    )


def extra_slots(session: Session, newsletter: str | None, after: datetime) -> list[ExtraSlot]:
    """The slots beside the schedule that come after an instant, of one newsletter or of all, earliest first."""
    query = select(ExtraSlot).where(col(ExtraSlot.slot_at) > after).order_by(col(ExtraSlot.slot_at))
    if newsletter is not None:
        query = query.where(col(ExtraSlot.newsletter) == newsletter)
    return list(session.execute(query).scalars())


def has_extra(session: Session, newsletter: str, slot: Slot) -> bool:
    """Whether a slot stands beside a newsletter's schedule."""
    return session.get(ExtraSlot, (newsletter, str(slot))) is not None


def add_extra(session: Session, newsletter: str, slot: Slot, *, actor: str, now: datetime) -> None:
    """Put a slot beside a newsletter's schedule."""
    session.add(
        ExtraSlot(
            newsletter=newsletter, slot=str(slot), zone=slot.zone, slot_at=slot.instant, added_at=now, added_by=actor
        )
    )


def remove_extra(session: Session, newsletter: str, slot: Slot) -> bool:
    """Take a slot away that stands beside a newsletter's schedule. False where none does."""
    row = session.get(ExtraSlot, (newsletter, str(slot)))
    if row is not None:
        session.delete(row)
    return row is not None


def is_extra(session: Session, record: EditionRecord) -> bool:
    """Whether an operator put an edition's slot beside the schedule."""
    return session.get(ExtraSlot, (record.newsletter, record.slot)) is not None


# ------------------------------------------------------------------------------------------ attending


class Due(NamedTuple):
    """An edition that is to be attended to, and when: None for one under way, now. `planned`: it is to be drafted."""

    edition_id: int
    at: datetime | None
    planned: bool


def due(session: Session, until: datetime) -> list[Due]:
    """The editions that are to be attended to until an instant."""
    what = select(col(EditionRecord.id), col(EditionRecord.next_at), col(EditionRecord.state))
    minded = what.where(col(EditionRecord.next_at) <= until).order_by(col(EditionRecord.next_at))
    # One that an operator let go on is nobody's in particular, until somebody attends to it.
    going = what.where(col(EditionRecord.state) == EditionState.DISPATCHING, col(EditionRecord.next_at).is_(None))
    rows = [*session.execute(minded), *session.execute(going)]
    return [Due(row[0], row[1], row[2] is EditionState.PLANNED) for row in rows if row[0] is not None]


def next_at(session: Session) -> datetime | None:
    """When the next edition is to be attended to, None where none is."""
    found: datetime | None = session.execute(
        select(func.min(col(EditionRecord.next_at))).where(col(EditionRecord.next_at).is_not(None))
    ).scalar_one()
    return found


def attend(session: Session, edition_id: int, *, owner: str, until: datetime, now: datetime) -> EditionRecord | None:
    """Take an edition that is to be attended to now. None where it is not, or somebody else may still be at it.

    The caller has made sure that a process which is certainly gone is no longer named (`forsake`).
    """
    taken = changed_rows(
        session,
        update(EditionRecord)
        .where(
            col(EditionRecord.id) == edition_id,
            or_(
                col(EditionRecord.next_at) <= now,
                and_(col(EditionRecord.state) == EditionState.DISPATCHING, col(EditionRecord.next_at).is_(None)),
            ),
            or_(
                col(EditionRecord.attendant).is_(None),
                col(EditionRecord.attendant) == owner,
                col(EditionRecord.attended_until) <= now,
            ),
        )
        .values(attendant=owner, attended_until=until)
        .execution_options(synchronize_session=False),
    )
    return session.get_one(EditionRecord, edition_id, populate_existing=True) if taken else None


def attendants(session: Session) -> list[str]:
    """The processes that attend to some edition."""
    named = select(col(EditionRecord.attendant)).where(
        col(EditionRecord.next_at).is_not(None), col(EditionRecord.attendant).is_not(None)
    )
    return [owner for owner in session.execute(named.distinct()).scalars() if owner]


def forsake(session: Session, owners: Collection[str]) -> None:
    """Take editions from processes that are gone."""
    session.execute(
        update(EditionRecord)
        .where(col(EditionRecord.attendant).in_(list(owners)))
        .values(attendant=None, attended_until=None)
        .execution_options(synchronize_session=False)
    )


def leave(record: EditionRecord, *, next_at: datetime | None) -> None:
    """Attended to; next time at an instant, or not before something happens."""
    record.attendant = record.attended_until = None
    record.next_at = next_at


def untold(session: Session, limit: int = 100) -> list[EditionRecord]:
    """The editions of whose present state the desk was not told."""
    told = or_(col(EditionRecord.told).is_(None), col(EditionRecord.told) != col(EditionRecord.state))
    return list(
        session.execute(select(EditionRecord).where(told).order_by(col(EditionRecord.id)).limit(limit)).scalars()
    )


# ------------------------------------------------------------------------------------------ drafts


def first_waiting(session: Session, newsletter: str) -> EditionRecord | None:
    """The earliest edition of a newsletter that waits for the desk's yes, None where none does."""
    waits = or_(col(EditionRecord.approval) == Approval.WAITING, col(EditionRecord.state) == EditionState.HELD)
    query = select(EditionRecord).where(col(EditionRecord.newsletter) == newsletter, waits)
    query = query.where(col(EditionRecord.state).in_([EditionState.DRAFT, EditionState.HELD, EditionState.PAUSED]))
    return session.execute(query.order_by(col(EditionRecord.slot_at)).limit(1)).scalar_one_or_none()


def is_kept_draft(record: EditionRecord) -> bool:
    """Whether an edition is drafted, and what it holds is what will go out: nobody makes it anew."""
    return record.state is EditionState.DRAFT and record.next_at is not None


def approve(record: EditionRecord, *, actor: str, now: datetime) -> None:
    """Put on record that somebody said yes to what an edition holds."""
    record.approval, record.approved_by, record.approved_at, record.approve_by = Approval.GIVEN, actor, now, None


def batched(values: Collection[T]) -> Iterator[list[T]]:
    """The same in lists that one query can take."""
    run = iter(values)
    while some := list(islice(run, _AT_ONCE)):
        yield some
