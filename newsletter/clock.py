"""The life of editions by the clock: slots are met, drafts made and shown, approvals awaited, editions sent and told.

What is due is in the rows, never in a process: each step is taken in a transaction that finds the edition where the one
before left it, so that any number of processes may do this on one database, and one that is killed is made up for by
the next. What the next step is, is decided in agenda.py; *when* somebody looks is up to the caller: the scheduler does
at the instants that `due` tells and at each slot's time, a test whenever it likes.
"""

import logging
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import takewhile

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session

from newsletter import agenda, control, corrections, desk, docket, ledger, safeguards, store
from newsletter.agenda import Step, Todo
from newsletter.errors import ConfigurationError, EditionError, NewsletterError, NobodyError
from newsletter.models import Approval, EditionRecord, EditionState
from newsletter.newsroom import Newsroom
from newsletter.places import place_of
from newsletter.processes import is_gone, this_process
from newsletter.schedule import Slot
from newsletter.settings import Newsletter
from newsletter.settlement import back_off
from subscribers import reading, transaction

ACTOR = "scheduler"
_log = logging.getLogger("newsletter.clock")
_AHEAD = timedelta(minutes=1)  # slots are put on record so long before anything is to be done about them
_MOST_MISSED = 100  # slots of one newsletter that are made up for after a standstill; older ones are told in the log
_JUST_PAST = timedelta(hours=1)  # slots of a new schedule that still count: “from 7 to 6” at half past six means today
_SEEN_EVERY = timedelta(minutes=5)
_LEASE = timedelta(minutes=1)  # no step but dispatch takes as long, and that may well be done by two at once
_LINGER = timedelta(seconds=20)  # a dispatch stays for a batch that is due so soon
_THIN_AGAIN = timedelta(minutes=1)  # how often a draft that was too thin before its slot is tried again
_LONGEST_WAIT = timedelta(minutes=5)  # after failures
_STOPPED_WAIT = timedelta(seconds=5)  # while dispatch is halted
_LOOK_AGAIN = timedelta(seconds=2)  # at an edition that is under way, and whose batches others have, or limits hold up
_FRESH = timedelta(minutes=1)  # what a source said so lately need not be asked again for a draft
_STEPS = 20  # of one edition in a row: more would be a circle
_TOLD_SINGLY = 3  # editions of a newsletter that are held at once
_GONE = "its slot is no longer in the schedule"


@dataclass
class Clock:
    """Minds the editions of a newsroom. Its clock, and the stopping, are the caller's; safe from several threads."""

    newsroom: Newsroom
    stop: threading.Event = field(default_factory=threading.Event)
    owner: str = field(default_factory=this_process)
    jitter: Callable[[], float] = random.random
    _busy: set[int] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    # Of editions at one slot one after the other starts, and goes out while the next one starts: a database has one
    # writer at a time, and side by side all of them would be as late as the last.
    _starting: threading.Lock = field(default_factory=threading.Lock)

    # -------------------------------------------------------------------------------------- slots

    def meet(self, names: Iterable[str] | None = None) -> int:
        """Put on record the slots that are drafted from now on, or should have been, of some newsletters or of all.

        Slots from before the first time that a newsletter is looked at are not met; nor are those before the newest
        that was. A schedule that was changed has no past either, but for the last hour, and for the time in which
        nobody looked. What is planned and no longer in the schedule is taken out of it. Gives how many slots are new. A
        thousand newsletters are a few queries.
        """
        settings = self.newsroom.settings.newsletters
        known = list(settings) if names is None else [name for name in dict.fromkeys(names) if name in settings]
        with reading(self.engine) as session:
            changes = self._changes(session, known)
            unseen = self._unseen(session, known)
        if not changes and not unseen:
            return 0
        concerned = list(dict.fromkeys(change.newsletter for change in changes))
        with transaction(self.engine) as session:
            changes = self._changes(session, concerned) if concerned else []
            for change in changes:
                change(session)
            docket.seen(session, {*unseen, *concerned}, self.newsroom.clock())
        return sum(isinstance(change, _Plan) for change in changes)

    def _changes(self, session: Session, names: Sequence[str]) -> "list[_Plan | _Watch | _Withdraw | _Revive]":
        now = self.newsroom.clock()
        watched = docket.watched(session, names, now)
        changes: list[_Plan | _Watch | _Withdraw | _Revive] = []
        near: dict[str, dict[str, Slot]] = {}  # by newsletter, and by its text
        added: set[tuple[str, str]] = set()
        extra: dict[str, list[Slot]] = {}
        for one in docket.extra_slots(session, None, min((row.since for row, _ in watched.values()), default=now)):
            extra.setdefault(one.newsletter, []).append(Slot.parse(one.slot, one.zone))
            added.add((one.newsletter, one.slot))
        for name in names:
            row, last = watched.get(name, (None, None))
            schedule = str(self.newsroom.settings.newsletters[name].timetable)
            # Never looked at, or by a clock that was ahead: which of the two clocks is wrong nobody knows, so that the
            # row stays as it is.
            since = now if row is None else min(row.since, now)
            begin = since if row is None else min(row.schedule_since, now)
            if row is not None and row.schedule != schedule:
                begin = max(since, min(row.seen_at, now - _JUST_PAST))
            if row is None or row.schedule != schedule:
                changes.append(_Watch(name, since, schedule, begin))
            beside = [slot for slot in extra.get(name, ()) if slot.instant > since]
            near[name] = self._near(name, max(begin, last or begin), beside)
        ahead = docket.editions_after(session, names, now)
        records = {(record.newsletter, record.slot): record for record in ahead}
        wanted = {(name, text) for name, slots in near.items() for text in slots} - records.keys()
        records |= {(record.newsletter, record.slot): record for record in docket.editions_of(session, wanted)}
        for name, slots in near.items():
            for text, slot in sorted(slots.items(), key=lambda one: one[1].instant):
                record = records.get((name, text))
                begins = agenda.drafted_from(self.newsroom.settings.newsletters[name], slot)
                if record is None:
                    newsletter = self.newsroom.settings.newsletters[name]
                    changes.append(_Plan(name, slot, newsletter.lists, begins, now))
                elif record.state is EditionState.SKIPPED and record.reason == _GONE and slot.instant > now:
                    changes.append(_Revive(name, record.id or 0, slot, begins))
        changes += [
            _Withdraw(record.newsletter, record.id or 0)
            for record in ahead
            if record.next_at is not None
            and record.state in {EditionState.PLANNED, EditionState.DRAFT}
            and (record.newsletter, record.slot) not in added
            and not self.newsroom.settings.newsletters[record.newsletter].timetable.has(
                Slot.parse(record.slot, record.zone)
            )
        ]
        return changes

    def _unseen(self, session: Session, names: Sequence[str]) -> list[str]:
        """The newsletters of which it is not on record that they were looked at lately."""
        now = self.newsroom.clock()
        rows = docket.watched(session, names, now)
        return [name for name, (row, _) in rows.items() if not timedelta() <= now - row.seen_at < _SEEN_EVERY]

    def _near(self, name: str, begin: datetime, beside: Sequence[Slot]) -> dict[str, Slot]:
        """The slots of a newsletter after an instant that are drafted soon, or were to be, by their texts."""
        newsletter, horizon = self.newsroom.settings.newsletters[name], self.newsroom.clock() + _AHEAD
        soon = list(
            takewhile(
                lambda slot: agenda.drafted_from(newsletter, slot) <= horizon, newsletter.timetable.upcoming(begin)
            )
        )
        if len(soon) > _MOST_MISSED:
            _log.warning("clock.missed: %s: %s slots, the oldest %s", name, len(soon) - _MOST_MISSED, soon[0])
            soon = soon[-_MOST_MISSED:]
        near = {str(slot): slot for slot in beside if agenda.drafted_from(newsletter, slot) <= horizon}
        return near | {str(slot): slot for slot in soon}

    @property
    def engine(self) -> Engine:
        """The database."""
        return self.newsroom.engine

    def refuse_if_elsewhere(self) -> None:
        """Refuse to do anything by itself on a database that is not where it was: it may be a copy.

        Raises ConfigurationError. One of which nobody ever said where it is, is claimed here.
        """
        here = place_of(self.engine)
        with reading(self.engine) as session:
            claimed = store.instance(session).place
        if claimed is None:
            with transaction(self.engine) as session:
                store.instance(session).place = here
        elif claimed != here:
            raise ConfigurationError(
                "this database is not where it was: it may be a copy, and nothing is sent from it by itself; "
                "newsletter db claim says that it is none",
                file=self.newsroom.settings.file,
            )

    # -------------------------------------------------------------------------------------- attending

    def due(self, until: datetime | None = None) -> list[docket.Due]:
        """The editions to attend to until an instant (now); those in this process's hands left out.

        What a process that is certainly gone held is anybody's.
        """
        with reading(self.engine) as session:
            found = docket.due(session, until or self.newsroom.clock())
            at_it = docket.attendants(session) if found else []
        gone = [owner for owner in at_it if owner != self.owner and is_gone(owner)]
        if gone:
            with transaction(self.engine) as session:
                docket.forsake(session, gone)
        with self._lock:
            return [one for one in found if one.edition_id not in self._busy]

    @property
    def is_idle(self) -> bool:
        """Whether this process attends to no edition."""
        with self._lock:
            return not self._busy

    def run_due(self) -> int:
        """Attend to whatever is due now, one after the other. Gives to how many editions."""
        found = self.due()
        for one in found:
            self.attend(one.edition_id)
        return len(found)

    def attend(self, edition_id: int, *, until_drafted: bool = False) -> None:
        """Bring an edition as far as can be now, or `until_drafted`, if nobody else is at it.

        A fault is put on record with it.
        """
        with self._lock:
            if edition_id in self._busy:
                return
            self._busy.add(edition_id)
        try:
            now = self.newsroom.clock()
            with transaction(self.engine) as session:
                record = docket.attend(session, edition_id, owner=self.owner, until=now + _LEASE, now=now)
            if record is not None:
                self._go_on(record, until_drafted=until_drafted)
        finally:
            with self._lock:
                self._busy.discard(edition_id)

    def _go_on(self, record: EditionRecord, *, until_drafted: bool) -> None:
        """Take step after step until one is to be waited for."""
        edition_id = record.id or 0
        begun = False  # at its slot just now: then it goes before what can wait
        try:
            for _ in range(_STEPS):
                step = self._next_step(record)
                others = until_drafted and step.todo in {Todo.START, Todo.DISPATCH}
                if step.todo is Todo.WAIT or self.stop.is_set() or others:
                    self._leave(edition_id, step.at if step.todo is Todo.WAIT else self.newsroom.clock())
                    return
                begun = step.todo is Todo.START or (begun and step.todo is Todo.DISPATCH)
                with self.newsroom.precedence.first() if begun else nullcontext():
                    record = self._take(record, step)
                if step.todo is Todo.DISPATCH and record.attendant is None:
                    return  # over; or a limit leaves no room, others are at it: `_dispatch` has said when to look again
                if step.todo is Todo.DRAFT and record.state is EditionState.PLANNED:
                    self._leave(edition_id, record.next_at)  # too thin so far
                    return
            self._failed(edition_id, f"a fault of the program: it goes round in circles, {record.state}")
        except (NewsletterError, ConfigurationError) as error:
            _log.error("clock.stopped: %s", error)  # a sentence for the operator
            self._failed(edition_id, str(error))
        except DBAPIError as error:
            _log.error("clock.stopped: the database: %s", error.orig)  # the same
            self._failed(edition_id, f"the database: {error.orig}")
        except Exception as error:  # noqa: BLE001 # a bug costs this edition a while, never the others
            _log.exception("clock.broken: edition %s", record.id)
            self._failed(edition_id, f"a fault of the program: {error!r}")

    def _next_step(self, record: EditionRecord) -> Step:
        newsletter = self.newsroom.settings.newsletters.get(record.newsletter)
        now = self.newsroom.clock()
        due_at = None
        if record.state is EditionState.DISPATCHING:
            with reading(self.engine) as session:
                due_at = ledger.next_due(session, record.id or 0)
        if newsletter is not None:
            return agenda.next_step(record, newsletter, now, due_at=due_at)
        if record.state is EditionState.DISPATCHING:  # frozen: it needs no configuration
            return Step(Todo.DISPATCH) if due_at is None or due_at <= now else Step(Todo.WAIT, at=due_at)
        if record.state in {EditionState.PLANNED, EditionState.DRAFT}:
            return Step(Todo.SKIP, f"there is no newsletter “{record.newsletter}” in the configuration any more")
        return Step(Todo.WAIT)

    def _take(self, record: EditionRecord, step: Step) -> EditionRecord:
        """Take a step. Gives the edition as it stands after it."""
        if step.todo is Todo.DRAFT:
            self.newsroom.precedence.give_way(self.stop)
            return record if self.stop.is_set() else self._draft(record)
        if step.todo is Todo.START:
            with self._starting:
                return record if self.stop.is_set() else self._start(record)
        if step.todo is Todo.DISPATCH:
            return self._dispatch(record)
        with transaction(self.engine) as session:
            stored = session.get_one(EditionRecord, record.id, populate_existing=True)
            if (stored.state, stored.approval) != (record.state, record.approval):
                return stored  # somebody was quicker
            reason = (step.reason or "")[:500]
            if step.todo is Todo.CONSENT:
                docket.approve(stored, actor=reason[:100], now=self.newsroom.clock())
                if stored.state is EditionState.PAUSED:
                    control.refuse_if_pulled(session, stored)
                    stored.state, stored.reason, stored.paused_by = EditionState.DISPATCHING, None, None
            elif step.todo is Todo.CANCEL:
                control.cancel(session, stored, actor=ACTOR, reason=reason, now=self.newsroom.clock())
            elif stored.state is EditionState.PAUSED:
                stored.reason, stored.approve_by = reason, None
                stored.told = None  # that it is paused the desk knows; that nobody answered it does not
            else:
                stored.state = EditionState.HELD if step.todo is Todo.HOLD else EditionState.SKIPPED
                stored.reason = reason
            act = {Todo.CONSENT: "approve", Todo.HOLD: "hold", Todo.SKIP: "skip", Todo.CANCEL: "cancel"}[step.todo]
            if step.todo is not Todo.CANCEL:
                store.act(
                    session, act, now=self.newsroom.clock(), actor=ACTOR, edition_id=record.id, note=reason or None
                )
            return stored

    # -------------------------------------------------------------------------------------- steps

    def _draft(self, record: EditionRecord) -> EditionRecord:
        """Collect, decide and compile; put it on record, and a proof into the desk's post, in one transaction."""
        name = record.newsletter
        newsletter, slot = self.newsroom.settings.newsletters[name], Slot.parse(record.slot, record.zone)
        if not self._is_wanted(record) and (reason := self._too_near(record, newsletter, slot)):
            return self._take(record, Step(Todo.SKIP, reason))
        draft = self.newsroom.draft(name, slot, fresh=_FRESH)
        now = self.newsroom.clock()
        with transaction(self.engine) as session:
            stored = session.get_one(EditionRecord, record.id, populate_existing=True)
            if stored.state is not EditionState.PLANNED:
                return stored  # another process was quicker: what goes out is its draft
            launch = agenda.launch_of(newsletter, slot)
            if draft.compiled is None and now < launch:
                stored.reason = f"so far {draft.skipped}"
                stored.next_at = min(launch, now + _THIN_AGAIN)
                return stored
            stored = self.newsroom.write_draft(session, name, draft)
            stored.failures = 0
            if draft.compiled is None:
                store.act(session, "skip", now=now, actor=ACTOR, edition_id=stored.id, note=draft.skipped)
                return stored
            if newsletter.approval == "required":
                stored.approval, stored.approve_by = Approval.WAITING, agenda.answer_by(newsletter, now)
            else:
                stored.approval = stored.approve_by = None
            stored.approved_by = None
            message = store.message_record(session, stored.id or 0)
            assert message is not None
            desk.tell_proof(
                session, self.newsroom.settings, stored, message, now, remarks=_remarks(draft.compiled.remarks)
            )
            return stored

    def _too_near(self, record: EditionRecord, newsletter: Newsletter, slot: Slot) -> str | None:
        """Why an edition is too near to another, None where it is not."""
        with reading(self.engine) as session:
            beside = store.frozen_beside(session, record.newsletter, slot)
        try:
            safeguards.ask_if_near(record.newsletter, newsletter, slot, beside, self.newsroom.clock())
        except EditionError as error:
            return _without_yes(error)
        return None

    def _is_wanted(self, record: EditionRecord) -> bool:
        """Whether an operator wants an edition, whatever a person would be asked about it."""
        if record.consented_by is not None:
            return True
        with reading(self.engine) as session:
            return docket.is_extra(session, record)

    def _start(self, record: EditionRecord) -> EditionRecord:
        """Freeze the audience, unless something stands against it that a person is asked about, or nobody is there."""
        name = record.newsletter
        newsletter, slot = self.newsroom.settings.newsletters[name], Slot.parse(record.slot, record.zone)
        self.newsroom.refuse_if_unsafe(name)
        if corrections.amend(self.newsroom, record.id or 0):  # what was corrected or pulled a moment ago
            with reading(self.engine) as session:
                return session.get_one(EditionRecord, record.id)
        wanted = self._is_wanted(record)
        if not wanted and (reason := self._too_near(record, newsletter, slot)):
            return self._take(record, Step(Todo.SKIP, reason))
        try:
            frozen = self.newsroom.freeze(name, record, consent=wanted, actor=record.consented_by or ACTOR)
        except NobodyError as error:
            return self._take(record, Step(Todo.SKIP, _without_yes(error)))
        except EditionError as error:
            if not error.consent:
                raise
            return self._take(record, Step(Todo.HOLD, _without_yes(error)))
        if frozen:
            with reading(self.engine) as session:
                return session.get_one(EditionRecord, record.id)
        with transaction(self.engine) as session:
            stored = session.get_one(EditionRecord, record.id, populate_existing=True)
            if stored.state is EditionState.DRAFT and stored.approval is not Approval.WAITING:
                # Its briefs went out in another edition since, or are in another draft: made anew of the rest.
                stored.state, stored.reason = EditionState.PLANNED, "made anew: its briefs went out since"
                stored.approval = stored.approved_at = stored.consented_by = None
            return stored

    def _dispatch(self, record: EditionRecord) -> EditionRecord:
        """Hand over what is due. Stays for what is due soon; for what is due later, it is left until then."""
        self.newsroom.refuse_if_unsafe(record.newsletter)
        self.newsroom.dispatch(record, stop=self.stop, linger=_LINGER)
        now = self.newsroom.clock()
        with transaction(self.engine) as session:
            stored = session.get_one(EditionRecord, record.id, populate_existing=True)
            stored.failures = 0
            if stored.state is EditionState.DISPATCHING:
                due_at = ledger.next_due(session, record.id or 0) or now
                docket.leave(stored, next_at=max(due_at, now + (timedelta() if self.stop.is_set() else _LOOK_AGAIN)))
            elif stored.state is EditionState.CLOSED and stored.attendant == self.owner:
                docket.leave(stored, next_at=None)
            return stored

    # -------------------------------------------------------------------------------------- afterwards

    def _leave(self, edition_id: int, at: datetime | None) -> None:
        with transaction(self.engine) as session:
            stored = session.get_one(EditionRecord, edition_id, populate_existing=True)
            if stored.attendant == self.owner:
                docket.leave(stored, next_at=at)

    def _failed(self, edition_id: int, what: str) -> None:
        """Put a fault on record with the edition; it is tried again soon, and at its slot in any case."""
        now = self.newsroom.clock()
        with transaction(self.engine) as session:
            stored = session.get_one(EditionRecord, edition_id, populate_existing=True)
            stored.failures += 1
            wait = min(back_off(stored.failures, self.jitter), _LONGEST_WAIT)
            if store.instance(session).halted_at is not None:
                stored.failures, wait = stored.failures - 1, _STOPPED_WAIT  # no fault of the edition
            if stored.state in {EditionState.PLANNED, EditionState.DRAFT}:
                stored.reason = what[:500]
            again = now + wait
            docket.leave(stored, next_at=min(again, stored.slot_at) if stored.slot_at > now else again)

    def tell(self) -> int:
        """Tell the desk what became of editions since it was told last, whoever made it so. Gives of how many."""
        with reading(self.engine) as session:
            if not docket.untold(session, limit=1):
                return 0
        told = 0
        with transaction(self.engine) as session:
            records = docket.untold(session)
            held = Counter(record.newsletter for record in records if record.state is EditionState.HELD)
            for name, count in held.items():
                if count > _TOLD_SINGLY:  # after a standstill: one word about all of them
                    some = [one for one in records if one.state is EditionState.HELD and one.newsletter == name]
                    desk.tell_held(session, self.newsroom.settings, some, self.newsroom.clock())
            for record in records:
                if record.state in _TOLD and record.told != record.state:
                    desk.tell_edition(session, self.newsroom.settings, record, self.newsroom.clock())
                    told += 1
                record.told = record.state
        return told


_TOLD = frozenset(
    {EditionState.HELD, EditionState.SKIPPED, EditionState.PAUSED, EditionState.CLOSED, EditionState.CANCELLED}
)


@dataclass(frozen=True)
class _Watch:
    newsletter: str
    since: datetime
    schedule: str
    schedule_since: datetime

    def __call__(self, session: Session) -> None:
        docket.watch(session, self.newsletter, self.since, self.schedule, self.schedule_since)


@dataclass(frozen=True)
class _Plan:
    newsletter: str
    slot: Slot
    lists: tuple[str, ...]
    begins: datetime
    now: datetime

    def __call__(self, session: Session) -> None:
        docket.plan(session, self.newsletter, self.slot, lists=self.lists, next_at=self.begins, now=self.now)


@dataclass(frozen=True)
class _Withdraw:
    """Take an edition that has not begun out of the schedule."""

    newsletter: str
    edition_id: int

    def __call__(self, session: Session) -> None:
        record = session.get_one(EditionRecord, self.edition_id)
        record.state, record.reason = EditionState.SKIPPED, _GONE
        record.approval = record.approve_by = None
        docket.leave(record, next_at=None)


@dataclass(frozen=True)
class _Revive:
    """Bring one back whose slot is in the schedule again, in another zone perhaps."""

    newsletter: str
    edition_id: int
    slot: Slot
    begins: datetime

    def __call__(self, session: Session) -> None:
        record = session.get_one(EditionRecord, self.edition_id)
        record.state, record.reason = EditionState.PLANNED, None
        record.zone, record.slot_at = self.slot.zone, self.slot.instant
        docket.leave(record, next_at=self.begins)


def _without_yes(error: EditionError) -> str:
    return error.what.partition("; --yes")[0].partition("; newsletter ")[0]


def _remarks(remarks: Iterable[object]) -> tuple[str, ...]:
    return tuple(str(remark) for remark in remarks)
