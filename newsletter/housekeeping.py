"""What goes on beside editions, again and again: sources polled, notices sent, the unknown settled, old rows put away.

Each of these is a chore. Chores that one process at a time should do are claimed in the row of `Chore`, and taken over
from a process that died; the others are safe side by side. A chore that fails is left alone for a while, longer each
time, and never keeps another from being done; what the latest run of each came to is in its row. Rows are written where
something came of a chore, and otherwise at most once a minute, so that a process with nothing to do hardly writes.

Whoever drives this (newsletter.work, the scheduler) calls `run_due` again and again, from one thread or from several.
"""

import logging
import threading
import traceback
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import delete, or_
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session, col, select

from newsletter import alarms, backup, corrections, desk, notices, operating, outcomes, soundness, store
from newsletter.errors import ConfigurationError, NewsletterError
from newsletter.messenger import DeskSender
from newsletter.models import Alarm, Chore, NoticeState
from newsletter.newsroom import Newsroom
from newsletter.processes import is_gone
from newsletter.providers import polling
from subscribers import purge, reading, transaction

PROMPT = ("requests", "notices", "desk")
"""The chores that somebody waits for. Whatever else takes long, they are best run by a thread of their own."""

SOURCES_AT_ONCE = 200  # of a pass of collecting: 8 hosts at once, so that even slow ones are through in minutes
_LONGEST_REST = timedelta(hours=1)  # after failures in a row
_PROMPT_REST = timedelta(minutes=1)  # the same of what somebody waits for
_FIRST_REST = timedelta(seconds=5)
_WRITTEN_EVERY = timedelta(minutes=1)  # that a chore of which nothing came is still done
_BETWEEN_PASSES = timedelta(seconds=15)  # so that sources whose turns come one by one are asked together
_KEPT = timedelta(days=30)  # alarms that are over, rows of chores that are no more
_LONGEST_SAID = 500  # as `Chore.said`
_SKEW = timedelta(
    minutes=1
)  # of clocks of several machines; what began later than that began before a clock was put back
_log = logging.getLogger("newsletter.housekeeping")


@dataclass(frozen=True, slots=True)
class Came:
    """What a run came to, in one sentence; None where there was nothing to do. `next_at`: when it is due again.

    One that was `cut_off` by the end of its process is due at once, and has not succeeded.
    """

    said: str | None = None
    next_at: datetime | None = None  # None: after its usual time
    cut_off: bool = False


@dataclass(frozen=True, slots=True)
class Duty:
    """A chore as it is known: its name, how often it is due, how it is done, and by how many at a time.

    `lease` is how long one process may do an exclusive one before others think it lost; None: all do it side by side.
    `rest` is the longest that it is left alone after failures. `do` ends soon after its event is set.
    """

    name: str
    every: timedelta
    do: Callable[[Newsroom, threading.Event], Came]
    lease: timedelta | None = None
    rest: timedelta = _LONGEST_REST

    def rest_after(self, failures: int) -> timedelta:
        """How long it is left alone after so many failures in a row: doubling, up to its longest rest or time."""
        return min(max(self.every, _FIRST_REST) * (1 << min(failures - 1, 16)), max(self.rest, self.every))

    def due_at(self, row: Chore | None, now: datetime) -> datetime:
        """When it is due by its row: the row's word, but never later than this configuration has it."""
        if row is None or row.began_at is None or row.began_at > now + _SKEW:
            return now
        return min(row.due_at, row.began_at + (self.rest_after(row.failures) if row.failures else self.every))


def duties(newsroom: Newsroom) -> list[Duty]:
    """The chores of a configuration, in the order in which they are done. Plug others in here."""
    clock = newsroom.settings.clock
    made = [
        Duty("requests", timedelta(seconds=2), _settle, rest=_PROMPT_REST),
        Duty("notices", timedelta(seconds=2), _send, rest=_PROMPT_REST),
        Duty("alarms", timedelta(seconds=30), _sound),  # before the desk's post, so that it is told at once
        Duty("desk", timedelta(seconds=2), _tell_desk, rest=_PROMPT_REST),
        Duty("corrections", timedelta(seconds=30), _correct),
        Duty("reconcile", timedelta(minutes=1), _reconcile),
        Duty("collect", clock.collect_every, _collect, lease=timedelta(minutes=15)),
        Duty("purge", timedelta(hours=1), _purge),
        Duty("fold", timedelta(hours=1), _fold, lease=timedelta(minutes=30)),
        Duty("check", timedelta(days=1), _check, lease=timedelta(hours=6)),
    ]
    if _keeps_lists(newsroom):
        made.append(Duty("sync", clock.sync_every, _sync, lease=timedelta(minutes=30)))
    if every := newsroom.settings.backup.every:
        made.append(Duty("backup", every, _back_up, lease=timedelta(hours=6)))
    return made


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of a chore that was due: what it came to, or why it failed."""

    name: str
    ok: bool
    said: str | None


@dataclass(slots=True)
class _Memory:
    """What this process knows of a chore. The lock is held while it does it."""

    ran_at: datetime | None = None
    due_at: datetime | None = None
    failures: int = 0
    told: str | None = None  # the fault that was logged last, by its place where it has a traceback
    owed: Callable[[], bool] | None = None  # what its row is still to be told: the database could not be written
    busy: threading.Lock = field(default_factory=threading.Lock)


class Housekeeping:
    """Does the chores of a Newsroom that are due. `owner` names this process, as `newsletter.processes` does."""

    def __init__(self, newsroom: Newsroom, owner: str, stop: threading.Event | None = None) -> None:
        self._newsroom, self._owner = newsroom, owner
        self._stop = stop or threading.Event()
        self._duties = duties(newsroom)
        self._memory = {duty.name: _Memory() for duty in self._duties}
        self._rows: dict[str, Chore] = {}
        self._unreadable = 0
        self._unread_until: datetime | None = None

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """The names of its chores, by what is best done beside one another: what takes long holds up nobody."""
        slow = ("collect",), ("check", "backup", "fold")
        other = tuple(name for name in self.names if name not in {*PROMPT, *slow[0], *slow[1]})
        return PROMPT, other, *slow

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its chores."""
        return tuple(duty.name for duty in self._duties)

    def run_due(self, only: Collection[str] | None = None) -> list[Ran]:
        """Do the chores that are due, or those `only` that are named, one after the other. Never raises.

        Several threads may call it at once: a chore is done by one of them.
        """
        wanted = [duty for duty in self._duties if only is None or duty.name in only]
        if not self._read(wanted):
            return []
        ran = []
        for duty in wanted:
            if self._stop.is_set():
                break
            memory = self._memory[duty.name]
            if memory.busy.acquire(blocking=False):
                try:
                    if memory.owed is not None and not self._pay(duty, memory.owed):
                        continue
                    if self._is_due(duty) and (came := self._run(duty)) is not None:
                        ran.append(came)
                finally:
                    memory.busy.release()
        return ran

    def next_due(self, now: datetime, only: Collection[str] | None = None) -> datetime:
        """When the next chore is due, as far as this process knows; `now` where one is."""
        if self._unread_until is not None and self._unread_until > now:
            return self._unread_until
        wanted = (duty for duty in self._duties if only is None or duty.name in only)
        return max(now, min((self._due_at(duty, now) for duty in wanted), default=now + _LONGEST_REST))

    def _read(self, wanted: Iterable[Duty]) -> bool:
        """Read the chores' rows. Where the database cannot be, say so, and leave it alone for a while."""
        now = self._newsroom.clock()
        if self._unread_until is not None and now < self._unread_until <= now + _PROMPT_REST:
            return False
        try:
            with reading(self._newsroom.engine) as session:
                names = [duty.name for duty in wanted]
                rows = session.exec(select(Chore).where(col(Chore.name).in_(names))).all()
        except DBAPIError as error:
            self._unreadable += 1
            self._unread_until = now + min(_FIRST_REST * (1 << min(self._unreadable - 1, 8)), _PROMPT_REST)
            _log.error("housekeeping.stopped: the database: %s", error.orig)  # a sentence for the operator
            return False
        self._unreadable, self._unread_until = 0, None
        self._rows.update({row.name: row for row in rows})
        return True

    def _is_due(self, duty: Duty) -> bool:
        now = self._newsroom.clock()
        return self._due_at(duty, now) <= now

    def _due_at(self, duty: Duty, now: datetime) -> datetime:
        memory, row = self._memory[duty.name], self._rows.get(duty.name)
        if duty.lease is not None:
            held = row is not None and row.owner is not None and _holds(row, now)
            if held and row is not None and row.lease_until is not None:
                return min(row.lease_until, now + _WRITTEN_EVERY)  # looked at again in a while: its owner may die
            return duty.due_at(row, now)
        mine = now
        if memory.due_at is not None and memory.ran_at is not None and memory.ran_at <= now + _SKEW:
            mine = memory.due_at
        # What another process has done just now need not be done again; where it failed, this one may fare better.
        theirs = row.succeeded_at if row is not None else None
        return max(mine, theirs + duty.every) if theirs is not None and theirs <= now + _SKEW else mine

    # ------------------------------------------------------------------------------------------ one chore

    def _run(self, duty: Duty) -> Ran | None:
        """Do a chore and put on record what it came to. None where another process does it, or has done it."""
        memory, began = self._memory[duty.name], self._newsroom.clock()
        if duty.lease is not None and not self._try(duty, lambda: self._claim(duty, began)):
            return None
        ran, came = self._do(duty)
        now = self._newsroom.clock()
        memory.ran_at = now
        memory.failures = 0 if ran.ok else memory.failures + 1
        usual = now + (duty.every if ran.ok else duty.rest_after(memory.failures))
        memory.due_at = now if came.cut_off else came.next_at or usual
        self._pay(duty, lambda: self._record(duty, ran, came, began))
        return ran

    def _do(self, duty: Duty) -> tuple[Ran, Came]:
        memory = self._memory[duty.name]
        try:
            came = duty.do(self._newsroom, self._stop)
        except Exception as error:  # noqa: BLE001 # a bug costs this chore, never the others
            said, place = _sentence(error), _place(error)
            if isinstance(error, NewsletterError | ConfigurationError | DBAPIError) or memory.told == place:
                _log.error("housekeeping.failed: %s: %s", duty.name, said)  # a sentence for the operator
            else:
                _log.exception("housekeeping.broken: %s", duty.name)  # once; then a line each time
            memory.told = place
            return Ran(duty.name, ok=False, said=said), Came()
        if memory.told is not None:
            _log.warning("housekeeping.mended: %s", duty.name)
            memory.told = None
        return Ran(duty.name, ok=True, said=came.said), came

    def _try(self, duty: Duty, write: Callable[[], bool]) -> bool | None:
        """Write to a chore's row. None where the database cannot be written."""
        try:
            return write()
        except DBAPIError as error:
            _log.error("housekeeping.stopped: %s: the database: %s", duty.name, error.orig)  # the same
            self._unread_until = self._newsroom.clock() + _FIRST_REST
            return None

    def _pay(self, duty: Duty, owed: Callable[[], bool]) -> bool:
        """Tell the row what a chore came to; where that cannot be done, before the chore is done again."""
        paid = self._try(duty, owed) is not None
        self._memory[duty.name].owed = None if paid else owed
        return paid

    def _claim(self, duty: Duty, now: datetime) -> bool:
        assert duty.lease is not None
        with transaction(self._newsroom.engine) as session:
            row = session.get(Chore, duty.name)
            if row is None:
                row = Chore(name=duty.name, due_at=now)
                session.add(row)
            elif (row.owner is not None and _holds(row, now)) or duty.due_at(row, now) > now:
                self._remember(session, row)
                return False
            if row.owner is not None:
                _log.warning("housekeeping.taken_over: %s, whose process ended or lost its lease", duty.name)
            row.owner, row.began_at, row.lease_until = self._owner, now, now + duty.lease
            session.flush()
            self._remember(session, row)
        return True

    def _record(self, duty: Duty, ran: Ran, came: Came, began: datetime) -> bool:
        now, memory = self._newsroom.clock(), self._memory[duty.name]
        assert memory.due_at is not None
        if duty.lease is None and not self._is_news(ran, now):
            return True
        with transaction(self._newsroom.engine) as session:
            row = session.get(Chore, duty.name)
            if row is None:
                row = Chore(name=duty.name, due_at=now)
                session.add(row)
            if duty.lease is not None:
                if (row.owner, row.began_at) != (self._owner, began):
                    return False  # its lease ran out, and another process does it
                row.owner = row.lease_until = None
                # Whichever processes it failed in, one after the other: together they leave it alone for longer.
                memory.failures = 0 if ran.ok else row.failures + 1
                if not ran.ok:
                    memory.due_at = now + duty.rest_after(memory.failures)
            row.began_at, row.due_at, row.failures = began, memory.due_at, memory.failures
            row.said = ("cut off" if came.cut_off else ran.said or "nothing to do")[:_LONGEST_SAID]
            if not ran.ok:
                row.failed_at = now
            elif not came.cut_off:
                row.succeeded_at = now
            session.flush()
            self._remember(session, row)
        return True

    def _is_news(self, ran: Ran, now: datetime) -> bool:
        """Whether what a chore that all do side by side came to is worth a write."""
        row = self._rows.get(ran.name)
        if not ran.ok or ran.said is not None or row is None or row.failures or row.succeeded_at is None:
            return True
        return not timedelta(0) <= now - row.succeeded_at < _WRITTEN_EVERY

    def _remember(self, session: Session, row: Chore) -> None:
        session.expunge(row)
        self._rows[row.name] = row


def _holds(row: Chore, now: datetime) -> bool:
    """Whether the process that claimed a chore may still be at it."""
    assert row.owner is not None
    lasts = row.lease_until is not None and row.lease_until > now
    put_back = row.began_at is not None and row.began_at > now + _SKEW  # the lease is of a time that is yet to come
    return lasts and not put_back and not is_gone(row.owner)


def _sentence(error: Exception) -> str:
    """An error in one line, without anything of the data that it came of."""
    if isinstance(error, DBAPIError):
        told = f"the database: {error.orig}"
    elif isinstance(error, NewsletterError | ConfigurationError):
        told = str(error)
    else:
        told = f"a fault of the program ({type(error).__name__}); the log has its traceback"
    return " ".join(told.split())[:_LONGEST_SAID]


def _place(error: Exception) -> str:
    """Where an error comes from, the same for as long as it is the same."""
    *_, frame = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} {frame.filename}:{frame.lineno}"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


# ------------------------------------------------------------------------------------------ the chores


def _keeps_lists(newsroom: Newsroom) -> bool:
    try:
        return polling(newsroom.provider) is not None
    except ConfigurationError:  # told by the notices that wait for it
        return False


def _settle(newsroom: Newsroom, stop: threading.Event) -> Came:
    del stop  # fifty a transaction, in milliseconds
    settled = notices.settle_requests(newsroom.engine, newsroom.settings, newsroom.clock)
    return Came(f"{_many(settled, 'request')} settled" if settled else None)


def _send(newsroom: Newsroom, stop: threading.Event) -> Came:
    sender = notices.Sender(newsroom.engine, newsroom.settings, newsroom.provider, newsroom.clock)
    came_to = sender.run(stop)
    words = {NoticeState.DONE: "sent", NoticeState.PENDING: "put off"}
    return Came(", ".join(f"{count:,} {words.get(state, state)}" for state, count in came_to.items()) or None)


def _reconcile(newsroom: Newsroom, stop: threading.Event) -> Came:
    del stop  # one edition a transaction
    settled = newsroom.reconcile()
    return Came(f"{_many(settled, 'unknown copy').replace('copys', 'copies')} settled" if settled else None)


def _collect(newsroom: Newsroom, stop: threading.Event) -> Came:
    """One pass. What failed of a source is kept with it, and is no failure of this chore."""
    ended = newsroom.collect_due(most=SOURCES_AT_ONCE, stop=stop)
    new = sum(one.new for one in ended.collected)
    revised = sum(one.revised for one in ended.collected)
    failed = sum(one.error is not None for one in ended.collected)
    said = f"{_many(len(ended.collected), 'source')} read, {_many(new, 'new brief')}, {revised:,} revised"
    now = newsroom.clock()
    said = f"{said}, {failed:,} failed" if failed else said
    next_at = now if ended.next_at <= now else max(ended.next_at, now + _BETWEEN_PASSES)
    return Came(said, next_at, cut_off=stop.is_set())


def _sync(newsroom: Newsroom, stop: threading.Event) -> Came:
    taken = newsroom.sync_events(stop)
    return Came(f"{_many(taken.new, 'new event')}, {taken.suppressed:,} suppressed", cut_off=stop.is_set())


def _fold(newsroom: Newsroom, stop: threading.Event) -> Came:
    folded = operating.fold_due(newsroom, stop)
    return Came(f"{_many(len(folded), 'edition')} folded" if folded else None, cut_off=stop.is_set())


def _purge(newsroom: Newsroom, stop: threading.Event) -> Came:
    purged = purge_all(newsroom, stop)
    return Came(f"{_many(purged, 'row')} had had their time" if purged else None, cut_off=stop.is_set())


def _check(newsroom: Newsroom, stop: threading.Event) -> Came:
    """Have the database looked through. Raises ConfigurationError where something of it must be mended."""
    del stop  # it cannot be interrupted; a process that ends meanwhile loses nothing
    found = soundness.check(newsroom.engine, now=newsroom.clock())
    if not found.sound:
        first = next(finding.what for finding in found.findings if finding.ok is False)
        raise ConfigurationError(f"{first}; newsletter db check tells more")
    return Came("the database is whole")


def _back_up(newsroom: Newsroom, stop: threading.Event) -> Came:
    del stop  # killed half-way it leaves no backup, and the next run clears up
    made = backup.back_up(newsroom.settings, newsroom.engine, now=newsroom.clock(), actor="scheduler")
    return Came(f"{made.file.name}, {made.size_bytes:,} bytes")


def _tell_desk(newsroom: Newsroom, stop: threading.Event) -> Came:
    """Bring the desk its post; where the provider may not be used, by the webhook alone."""
    del stop  # a few mails
    try:
        provider = newsroom.provider
    except ConfigurationError:
        provider = None
    sender = DeskSender(newsroom.engine, newsroom.settings, provider, newsroom.fetcher, newsroom.clock)
    came_to = sender.run()
    return Came(", ".join(f"{count:,} {state}" for state, count in came_to.items()) or None)


def _sound(newsroom: Newsroom, stop: threading.Event) -> Came:
    del stop  # one look
    raised, ended = alarms.sound(newsroom)
    return Came(f"{_many(raised, 'alarm')} raised, {ended:,} over" if raised or ended else None)


def _correct(newsroom: Newsroom, stop: threading.Event) -> Came:
    del stop  # an edition a transaction
    amended = corrections.amend_all(newsroom)
    return Came(f"{_many(amended, 'edition')} corrected" if amended else None)


def purge_all(newsroom: Newsroom, stop: threading.Event | None = None) -> int:
    """Take away all that has had its time, in short transactions, until `stop`. Gives how many rows."""
    kept = newsroom.settings.subscribers
    total = 0
    while stop is None or not stop.is_set():
        with transaction(newsroom.engine) as session:
            now = newsroom.clock()
            purged = purge(session, now=now, request_lasts=kept.request_lasts, keep_origin=kept.keep_origin).total
            purged += notices.purge(session, now)
            purged += outcomes.purge(session, newsroom.settings.dispatch.keep_events, now)
            purged += desk.purge(session, now)
            purged += _purge_own(session, now)
        total += purged
        if not purged:
            break
    return total


def _purge_own(session: Session, now: datetime) -> int:
    """Take away alarms that are long over, and rows of chores that nobody does any more."""
    over = select(Alarm.id).where(col(Alarm.over_at) < now - _KEPT).limit(500)
    idle = or_(col(Chore.began_at).is_(None), col(Chore.began_at) < now - _KEPT)
    return sum(
        store.changed_rows(session, statement.execution_options(synchronize_session=False))
        for statement in (
            delete(Alarm).where(col(Alarm.id).in_(over)),
            delete(Chore).where(idle, col(Chore.due_at) < now - _KEPT),
        )
    )
