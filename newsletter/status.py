"""How it stands, for whoever looks at six in the morning or every few seconds: what runs, what is open, what is wrong.

One look is a handful of queries, each by an index, however many newsletters and editions there are. It holds no
personal data. `newsletter status` prints it; `newsletter.metrics` serves it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import func, select, text
from sqlmodel import Session, col

from newsletter import desk, docket, notices, presence, store
from newsletter.housekeeping import Duty, duties
from newsletter.models import Alarm, Batch, BatchState, Chore, EditionRecord, EditionState, Watch
from newsletter.newsroom import Newsroom
from newsletter.presence import ClockAccount
from newsletter.schedule import Slot
from subscribers import reading

_OPEN = text("edition.state IN ('planned', 'draft', 'held', 'dispatching', 'paused')")  # as its index has it
_FAILING_FOR = timedelta(minutes=15)  # before that a chore may mend by itself
_FAILURES = 2  # in a row: a single one may be chance
_LATELY, _RECENTLY = timedelta(hours=1), timedelta(minutes=5)
_SHOWN = 20  # lines of one kind


@dataclass(frozen=True, slots=True)
class OpenEdition:
    """An edition that is not over. `waiting` copies have not been handed over, `unknown` ones were, without an answer.

    Both count by batches: whoever in a waiting batch will be found suppressed is among them.
    """

    id: int
    newsletter: str
    slot: str
    zone: str
    slot_at: datetime
    state: EditionState
    reason: str | None
    next_at: datetime | None
    failures: int
    waiting: int = 0
    accepted: int = 0
    unknown: int = 0
    overdue: bool = False


@dataclass(frozen=True, slots=True)
class NextSlot:
    """The next slot of a newsletter; None where its schedule has none left."""

    newsletter: str
    slot: Slot | None


@dataclass(frozen=True, slots=True)
class ChoreAccount:
    """A chore, and how it went. `fault` says why a person should look into it, None where nobody need."""

    name: str
    succeeded_at: datetime | None
    failed_at: datetime | None
    failures: int
    said: str | None
    due_at: datetime | None
    at_it: bool
    fault: str | None


@dataclass(frozen=True, slots=True)
class OpenAlarm:
    """Something that a person must look into, since when."""

    key: str
    what: str
    since: datetime


@dataclass(frozen=True)
class Status:
    """How it stands at `at`. Rates are of copies that the provider took."""

    at: datetime
    instance: str
    halted_at: datetime | None
    halted_by: str | None
    halt_reason: str | None
    clocks: list[ClockAccount]
    editions: list[OpenEdition]
    slots: list[NextSlot]
    notices_waiting: int
    notices_since: datetime | None
    desk_waiting: int
    accepted_last_hour: int
    accepted_last_minutes: int
    chores: list[ChoreAccount]
    alarms: list[OpenAlarm]
    last_closed: dict[str, datetime]

    @property
    def waiting(self) -> int:
        """How many copies wait, in all editions."""
        return sum(one.waiting for one in self.editions)

    @property
    def per_second(self) -> float:
        """How many copies a second the provider took over the last five minutes."""
        return self.accepted_last_minutes / _RECENTLY.total_seconds()

    @property
    def faults(self) -> list[str]:
        """What a person should look into, a sentence each; empty where all is well. What an alarm says is said once."""
        sounded = {one.key for one in self.alarms}
        edition = {" ".join(key.split()[:2]) for key in sounded if key.startswith("edition ")}
        return [
            *self._of_clocks(),
            *(["dispatch is halted"] if self.halted_at and "halted" not in sounded else []),
            *(
                f"{one.newsletter} {one.slot} {why}"
                for one in self.editions
                if f"edition {one.id}" not in edition and (why := _why(one))
            ),
            *(f"{one.name}: {one.fault}" for one in self.chores if one.fault and f"chore {one.name}" not in sounded),
            *(one.what for one in self.alarms),
        ]

    def _of_clocks(self) -> Iterator[str]:
        if not any(one.ticks for one in self.clocks):
            yield "no clock runs: editions do not go out by themselves"
        for one in self.clocks:
            if not one.ticks:
                yield f"the clock of {one.name} has said nothing since {_time(one.seen_at)}"
            if one.fault:
                yield f"the clock of {one.name} goes on with the configuration before: {one.fault}"
        if len({one.configuration for one in self.clocks if one.ticks}) > 1:
            yield "clocks go by different configurations; newsletter reload has each read its own again"


def look(newsroom: Newsroom, *, ahead: bool = True) -> Status:
    """How it stands now; not looking `ahead`, without the next slots, which are reckoned anew: 0.7 ms a newsletter."""
    now = newsroom.clock()
    settings = newsroom.settings
    known = {duty.name: duty for duty in duties(newsroom)}
    with reading(newsroom.engine) as session:
        instance = store.instance(session)
        clocks = presence.clocks(session, now)
        editions = _editions(session, now, settings.alerts.overdue, halted=instance.halted_at is not None)
        slots = list(_slots(session, newsroom, now)) if ahead else []
        waiting, since = notices.waiting(session)
        rows = {row.name: row for row in session.execute(select(Chore)).scalars()}
        ticks = any(one.ticks for one in clocks)
        chores = [_chore(rows.get(name), name, duty, now, ticks=ticks) for name, duty in known.items()]
        alarms = session.execute(
            select(Alarm).where(col(Alarm.over_at).is_(None)).order_by(col(Alarm.since), col(Alarm.id))
        ).scalars()
        return Status(
            now,
            instance.instance_id,
            instance.halted_at,
            instance.halted_by,
            instance.halt_reason,
            clocks,
            editions,
            slots,
            waiting,
            since,
            desk.waiting(session)[0],
            _accepted(session, now - _LATELY),
            _accepted(session, now - _RECENTLY),
            chores,
            [OpenAlarm(one.key, one.what, one.since) for one in alarms],
            _last_closed(session),
        )


def _editions(session: Session, now: datetime, overdue: timedelta, *, halted: bool) -> list[OpenEdition]:
    columns = (
        EditionRecord.id,
        EditionRecord.newsletter,
        EditionRecord.slot,
        EditionRecord.zone,
        EditionRecord.slot_at,
        EditionRecord.state,
        EditionRecord.reason,
        EditionRecord.next_at,
        EditionRecord.failures,
    )
    rows = session.execute(select(*map(col, columns)).where(_OPEN).order_by(col(EditionRecord.slot_at))).all()
    ids = [row[0] for row in rows if row[5] in {EditionState.DISPATCHING, EditionState.PAUSED}]
    sums: dict[int, dict[BatchState, int]] = {}
    due: dict[int, datetime] = {}
    for start in range(0, len(ids), 500):
        some = col(Batch.edition_id).in_(ids[start : start + 500])
        grouped = session.execute(
            select(col(Batch.edition_id), col(Batch.state), func.sum(col(Batch.size)), func.min(col(Batch.due_at)))
            .where(some)
            .group_by(col(Batch.edition_id), col(Batch.state))
        )
        for edition, state, size, first in grouped:
            sums.setdefault(edition, {})[state] = int(size)
            if state is BatchState.PENDING and size:
                due[edition] = first
    found = []
    for number, name, slot, zone, slot_at, state, reason, next_at, failures in rows:
        counts = sums.get(number, {})
        awaited = due.get(number) if state is EditionState.DISPATCHING else next_at
        if state in {EditionState.HELD, EditionState.PAUSED} or halted:
            awaited = None  # it waits for a person, and says so
        found.append(
            OpenEdition(
                number,
                name,
                slot,
                zone,
                slot_at,
                state,
                reason,
                next_at,
                failures,
                waiting=counts.get(BatchState.PENDING, 0) + counts.get(BatchState.CLAIMED, 0),
                accepted=counts.get(BatchState.DONE, 0),
                unknown=counts.get(BatchState.UNKNOWN, 0),
                overdue=awaited is not None and awaited < now - overdue,
            )
        )
    return found


def _slots(session: Session, newsroom: Newsroom, now: datetime) -> Iterator[NextSlot]:
    extra = {one.newsletter: Slot.parse(one.slot, one.zone) for one in reversed(docket.extra_slots(session, None, now))}
    for name, newsletter in newsroom.settings.newsletters.items():
        upcoming = next(newsletter.timetable.upcoming(now), None)
        both = [slot for slot in (upcoming, extra.get(name)) if slot is not None]
        yield NextSlot(name, min(both, key=lambda slot: slot.instant, default=None))


def _chore(row: Chore | None, name: str, duty: Duty, now: datetime, *, ticks: bool) -> ChoreAccount:
    if row is None:
        return ChoreAccount(name, None, None, 0, None, None, at_it=False, fault=None)
    since = row.succeeded_at
    fault = None
    if row.failures >= _FAILURES and (since is None or now - since > _FAILING_FOR + duty.every):
        times = f"failed {row.failures} times in a row"
        fault = f"{times}, since {_time(since)} without success: {row.said}" if since else f"{times}: {row.said}"
    elif ticks and not row.failures and row.owner is None and since is not None:
        late = now - since - max(duty.every, timedelta(minutes=1))
        fault = f"was not done since {_time(since)}" if late > max(_FAILING_FOR, duty.every) else None
    return ChoreAccount(
        name, since, row.failed_at, row.failures, row.said, row.due_at, at_it=row.owner is not None, fault=fault
    )


def _accepted(session: Session, since: datetime) -> int:
    query = select(func.sum(col(Batch.size))).where(
        col(Batch.done_at).is_not(None), col(Batch.done_at) > since, col(Batch.state) == BatchState.DONE
    )
    return int(session.execute(query).scalar_one() or 0)


def _last_closed(session: Session) -> dict[str, datetime]:
    """When the newest edition that went out was closed, of each newsletter that a clock has ever minded."""
    newest = (
        select(col(EditionRecord.closed_at))
        .where(col(EditionRecord.newsletter) == col(Watch.newsletter), col(EditionRecord.state) == EditionState.CLOSED)
        .order_by(col(EditionRecord.slot).desc())
        .limit(1)
        .correlate(Watch)
        .scalar_subquery()
    )
    rows = session.execute(select(col(Watch.newsletter), newest))
    return {row[0]: row[1] for row in rows if row[1] is not None}


def _why(one: OpenEdition) -> str | None:
    """Why a person should look into an open edition, None where nobody need."""
    if one.state in {EditionState.HELD, EditionState.PAUSED}:
        return f"is {one.state}: {one.reason or 'no reason given'}"
    if one.overdue:
        return f"is overdue ({one.state}{f': {one.reason}' if one.reason else ''})"
    return f"has {one.unknown:,} unknown" if one.unknown else None


def _time(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


# ------------------------------------------------------------------------------------------ for a person, and a script


def lines(status: Status) -> Iterator[str]:
    """The same for a person: what is wrong first, then how it stands."""
    faults = status.faults
    yield "all is well" if not faults else f"to be looked into: {len(faults)}"
    yield from _some(f"  ! {fault}" for fault in faults)
    yield ""
    yield from _clock_lines(status)
    if status.halted_at:
        why = f": {status.halt_reason}" if status.halt_reason else ""
        yield f"dispatch  halted since {_time(status.halted_at)} by {status.halted_by}{why}"
    since = f", the oldest since {_time(status.notices_since)}" if status.notices_since else ""
    waiting = f"copies {status.waiting:,}, desk {status.desk_waiting:,}, notices {status.notices_waiting:,}{since}"
    yield f"waiting   {waiting}"
    rate = f"{status.per_second:,.1f} a second over the last 5 minutes"
    yield f"accepted  {status.accepted_last_hour:,} in the last hour, {rate}"
    yield ""
    yield "editions" if status.editions else "editions  none is open"
    yield from _some(_edition_line(one) for one in status.editions)
    yield "next slots"
    ahead = sorted(status.slots, key=lambda one: (one.slot is None, one.slot.instant if one.slot else status.at))
    yield from _some(_slot_line(one) for one in ahead)
    yield "chores"
    yield from (_chore_line(one) for one in status.chores)
    if status.alarms:
        yield "alarms"
        yield from _some(f"  since {_time(one.since)}  {one.what}" for one in status.alarms)


def _clock_lines(status: Status) -> Iterator[str]:
    if not status.clocks:
        yield "clock     none runs"
    for one in status.clocks:
        silent = "" if one.ticks else f", silent since {_time(one.seen_at)}"
        read = f"configuration {one.configuration} of {_time(one.loaded_at)}"
        yield f"clock     {one.name}, since {_time(one.started_at)}{silent}, {read}"


def _edition_line(one: OpenEdition) -> str:
    said = f"  {one.newsletter} {one.slot} {one.zone}  {one.state}"
    if one.accepted or one.waiting or one.unknown:
        said += f", {one.accepted:,} accepted, {one.waiting:,} wait"
        said += f", {one.unknown:,} unknown" if one.unknown else ""
    if one.next_at and one.state not in {EditionState.HELD, EditionState.PAUSED}:
        said += f", next at {_time(one.next_at)}"
    return f"{said}: {one.reason}" if one.reason else said


def _slot_line(one: NextSlot) -> str:
    return f"  {one.newsletter}  " + (f"{one.slot} {one.slot.zone}" if one.slot else "none is left in its schedule")


def _chore_line(one: ChoreAccount) -> str:
    if one.succeeded_at is None and not one.failures:
        return f"  {one.name:<12} not done yet"
    done = f"done {_time(one.succeeded_at)}" if one.succeeded_at else "never done"
    if one.failures:
        return f"  {one.name:<12} failed {one.failures} in a row, {done}: {one.said}"
    return f"  {one.name:<12} {done}{', at it now' if one.at_it else ''}: {one.said}"


def _some(all_of_them: Iterable[str]) -> Iterator[str]:
    every = list(all_of_them)
    yield from every[:_SHOWN]
    if len(every) > _SHOWN:
        yield f"  and {len(every) - _SHOWN:,} more; --json has them all"


def as_json(status: Status) -> dict[str, Any]:
    """The same for a script. Instants are ISO 8601 in UTC."""
    return {
        "at": _iso(status.at),
        "ok": not status.faults,
        "faults": status.faults,
        "instance": status.instance,
        "halted": {"at": _iso(status.halted_at), "by": status.halted_by, "reason": status.halt_reason}
        if status.halted_at
        else None,
        "clocks": [
            {
                "process": one.name,
                "started_at": _iso(one.started_at),
                "seen_at": _iso(one.seen_at),
                "ticks": one.ticks,
                "loaded_at": _iso(one.loaded_at),
                "configuration": one.configuration,
                "fault": one.fault,
            }
            for one in status.clocks
        ],
        "editions": [
            {
                "newsletter": one.newsletter,
                "slot": one.slot,
                "zone": one.zone,
                "state": one.state.value,
                "reason": one.reason,
                "next_at": _iso(one.next_at),
                "failures": one.failures,
                "waiting": one.waiting,
                "accepted": one.accepted,
                "unknown": one.unknown,
                "overdue": one.overdue,
            }
            for one in status.editions
        ],
        "next_slots": [
            {
                "newsletter": one.newsletter,
                "slot": str(one.slot) if one.slot else None,
                "zone": one.slot.zone if one.slot else None,
                "at": _iso(one.slot.instant) if one.slot else None,
            }
            for one in status.slots
        ],
        "waiting": {"copies": status.waiting, "notices": status.notices_waiting, "desk": status.desk_waiting},
        "accepted": {"last_hour": status.accepted_last_hour, "per_second": round(status.per_second, 3)},
        "chores": [
            {
                "name": one.name,
                "succeeded_at": _iso(one.succeeded_at),
                "failed_at": _iso(one.failed_at),
                "failures": one.failures,
                "said": one.said,
                "due_at": _iso(one.due_at),
                "at_it": one.at_it,
                "fault": one.fault,
            }
            for one in status.chores
        ],
        "alarms": [{"key": one.key, "what": one.what, "since": _iso(one.since)} for one in status.alarms],
        "last_closed": {name: _iso(at) for name, at in status.last_closed.items()},
    }


def _iso(instant: datetime | None) -> str | None:
    return instant.astimezone(UTC).isoformat() if instant else None
