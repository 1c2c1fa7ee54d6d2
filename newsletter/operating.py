"""What an operator does with an edition that is under way: the verbs of control.py, with a Newsroom.

Each gives the edition as it stands afterwards. What is said to a provider is said outside any transaction.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from sqlmodel import Session

from newsletter import control, docket, folding, pace, store, tally
from newsletter.control import Verdict
from newsletter.dispatch import Progress
from newsletter.errors import DispatchError, EditionError
from newsletter.models import Approval, EditionRecord, EditionState
from newsletter.newsroom import Newsroom, Sent
from newsletter.places import place_of
from newsletter.providers import recalling
from newsletter.schedule import Slot
from subscribers import reading, transaction


def find(newsroom: Newsroom, session: Session, name: str, slot_text: str | None) -> EditionRecord:
    """The edition of a slot; where none is named, the newest that was frozen. Raises EditionError without one."""
    newsroom.settings.newsletter(name)
    if slot_text is None:
        record = next(iter(store.frozen_editions(session, name, 1)), None)
    else:
        record = store.edition(session, name, newsroom.slot(name, slot_text))
    if record is None:
        raise EditionError(name, f"there is no edition{f' of {slot_text}' if slot_text else ' yet'}")
    return record


def pause(newsroom: Newsroom, name: str, slot: str | None, *, actor: str, reason: str | None) -> bool:
    """Stop an edition before its next call. False where an operator had paused it already."""
    with transaction(newsroom.engine) as session:
        record = find(newsroom, session, name, slot)
        return control.pause(session, record, actor=actor, reason=reason, now=newsroom.clock())


def approve(newsroom: Newsroom, name: str, slot: str | None, *, revision: int | None, actor: str) -> EditionRecord:
    """Say yes to what an edition would send: a draft that waits for it, a correction, or what is held.

    The scheduler does the rest. `revision` is the one that was looked at. Raises EditionError where it is another by
    now, or nothing waits for a yes.
    """
    with transaction(newsroom.engine) as session:
        newsroom.settings.newsletter(name)
        if slot is not None:
            record = find(newsroom, session, name, slot)
        elif (waiting := docket.first_waiting(session, name)) is not None:
            record = waiting
        else:
            raise EditionError(name, "no edition waits for approval")
        what = f"{name} {record.slot}"
        message = store.message_record(session, record.id or 0)
        if revision is not None and (message is None or message.revision != revision):
            found = f"revision {message.revision} is the newest" if message else "nothing is compiled"
            raise EditionError(what, f"it is not at revision {revision}: {found}; look at its proof")
        waits = record.approval is Approval.WAITING
        if record.state is EditionState.HELD:
            record.state = EditionState.DRAFT if message else EditionState.PLANNED
            record.consented_by, record.reason = actor, None
        elif record.state is EditionState.PAUSED and waits:
            control.refuse_if_pulled(session, record)
            record.state, record.reason, record.paused_by = EditionState.DISPATCHING, None, None
        elif record.state is not EditionState.DRAFT or not waits:
            raise EditionError(what, f"it is {record.state}, and waits for no approval")
        now = newsroom.clock()
        docket.approve(record, actor=actor, now=now)
        record.next_at = now
        said = f"revision {message.revision}" if message else None
        store.act(session, "approve", now=now, actor=actor, edition_id=record.id, note=said)
        return record


def add_slot(newsroom: Newsroom, name: str, slot_text: str, *, actor: str) -> Slot:
    """Put a slot beside a newsletter's schedule: its edition goes out once, at that time, however near another is.

    Raises EditionError where it is past, or there is an edition of it already.
    """
    slot = newsroom.slot(name, slot_text)
    now = newsroom.clock()
    if slot.instant <= now:
        raise EditionError(name, f"{slot} is past; newsletter send {name} --slot {slot} --yes sends its edition now")
    with transaction(newsroom.engine) as session:
        record = store.edition(session, name, slot)
        if record is not None and record.state is not EditionState.SKIPPED:
            raise EditionError(f"{name} {slot}", f"there is an edition of it already; it is {record.state}")
        if newsroom.schedule(name).has(slot) or docket.has_extra(session, name, slot):
            raise EditionError(name, f"{slot} is a slot already")
        docket.add_extra(session, name, slot, actor=actor, now=now)
        store.act(session, "add slot", now=now, actor=actor, note=f"{name} {slot}")
    return slot


def remove_slot(newsroom: Newsroom, name: str, slot_text: str, *, actor: str) -> Slot:
    """Take back a slot that was put beside the schedule. Raises EditionError where none was."""
    slot = newsroom.slot(name, slot_text)
    with transaction(newsroom.engine) as session:
        if not docket.remove_extra(session, name, slot):
            raise EditionError(name, f"{slot} was not put beside its schedule")
        store.act(session, "remove slot", now=newsroom.clock(), actor=actor, note=f"{name} {slot}")
    return slot


def claim_place(newsroom: Newsroom, *, actor: str) -> None:
    """Say that the database is no copy, wherever it is now."""
    here = place_of(newsroom.engine)
    with transaction(newsroom.engine) as session:
        store.instance(session).place = here
        store.act(session, "claim", now=newsroom.clock(), actor=actor)


def resume(
    newsroom: Newsroom,
    name: str,
    slot: str | None,
    *,
    actor: str,
    report: Callable[[Progress], None],
    stop: threading.Event,
) -> Sent:
    """Let a paused edition go on, and dispatch what waits in it, however late it is: the operator has just said so."""
    newsroom.refuse_if_unsafe(name)
    with transaction(newsroom.engine) as session:
        record = find(newsroom, session, name, slot)
        before = tally.tally(session, record) if record.frozen_at else None
        control.resume(session, record, actor=actor, now=newsroom.clock())
        control.promise_anew(session, record, newsroom.clock())
        pace.rested(pace.pace_of(session, newsroom.provider.name, newsroom.limits))
    record = newsroom.dispatch(record, report=report, stop=stop)
    return newsroom.sent(record, Slot.parse(record.slot, record.zone), before, None)


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What a cancelling came to. `recalled` copies were called back; `fault` says why others could not be."""

    record: EditionRecord
    recalled: int
    fault: str | None


def cancel(newsroom: Newsroom, name: str, slot: str | None, *, actor: str, reason: str | None) -> Cancelled:
    """End an edition; what the provider still keeps back is called back, too. Again, where that failed before."""
    with transaction(newsroom.engine) as session:
        record = find(newsroom, session, name, slot)
        over = record.state in {EditionState.CLOSED, EditionState.CANCELLED}
        if not over or not _held(newsroom, session, record):
            control.cancel(session, record, actor=actor, reason=reason, now=newsroom.clock())
        batches = _held(newsroom, session, record)
    able = recalling(newsroom.provider)
    if not batches or able is None or record.recall_id is None:
        return Cancelled(record, 0, None)
    try:
        able.recall(record.recall_id)
    except DispatchError as error:
        return Cancelled(record, 0, str(error))
    with transaction(newsroom.engine) as session:
        copies = control.recalled(session, batches)
        note = f"{copies:,} copies"
        store.act(session, "recall", now=newsroom.clock(), actor=actor, edition_id=record.id, note=note)
    return Cancelled(record, copies, None)


def _held(newsroom: Newsroom, session: Session, record: EditionRecord) -> list[int]:
    return control.recallable(session, record, newsroom.clock())


def retry(newsroom: Newsroom, name: str, slot: str | None, *, refused: bool, actor: str) -> int:
    """Make what is deferred due now, and with `refused` let those who were refused be tried again. Gives how many."""
    with transaction(newsroom.engine) as session:
        record = find(newsroom, session, name, slot)
        return control.retry(session, record, refused=refused, actor=actor, now=newsroom.clock())


def resolve(newsroom: Newsroom, name: str, slot: str | None, verdict: Verdict, *, actor: str) -> int:
    """Say what became of the copies of an edition of which nobody knows. Gives how many."""
    with transaction(newsroom.engine) as session:
        record = find(newsroom, session, name, slot)
        return control.resolve(session, record, verdict, actor=actor, now=newsroom.clock())


def fold_due(newsroom: Newsroom, stop: threading.Event | None = None) -> list[EditionRecord]:
    """Fold the editions that are old enough, in short transactions, until `stop`. Gives which were due."""
    with reading(newsroom.engine) as session:
        records = folding.due(session, newsroom.settings.dispatch.fold_after, newsroom.clock())
    for record in records:
        while stop is None or not stop.is_set():
            with transaction(newsroom.engine) as session:
                again = session.get_one(EditionRecord, record.id)
                if not folding.fold(session, again, newsroom.clock()):
                    break
    return records


@dataclass(frozen=True, slots=True)
class PaceAccount:
    """How the provider may be called now, and what was handed to it: in the last hour and day, as far as counted."""

    provider: str
    calls: int
    failures: int
    not_before: str | None
    note: str | None
    last_hour: int
    last_day: int
    domains: dict[str, int]


def pace_account(newsroom: Newsroom) -> PaceAccount:
    """The same for an operator who asks why it is slow."""
    limits, now = newsroom.limits, newsroom.clock()
    name = newsroom.provider.name
    minute = int(now.timestamp()) // 60
    with reading(newsroom.engine) as session:
        row = pace.stored(session, name)

        def handed(domain: str, minutes: int) -> int:
            return sum(count for _, count in pace.spent(session, name, domain, minute - minutes, minute))

        waits = row is not None and row.not_before is not None and row.not_before > now
        return PaceAccount(
            name,
            limits.calls if row is None else min(limits.calls, row.calls),
            row.failures if row else 0,
            row.not_before.isoformat() if row and row.not_before and waits else None,
            row.note if row else None,
            handed("", 60),
            handed("", 1_440),
            {domain: handed(domain, 60) for domain in limits.domains},
        )
