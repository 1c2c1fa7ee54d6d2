"""Cron and zone -> slots: which local wall-clock times a newsletter has, and when each is in UTC. Pure.

Cron is read on the wall clock of the zone, without dates' offsets: 02:30 on a day without a 02:30 is still a slot,
whose instant is what the clock would have shown had it not been put forward (PEP 495, fold=0); 01:30 on a day with two
is one slot, the first. Where a slot that was put forward falls on the very instant of another (an hourly newsletter at
the change, a daily one in the week in which Samoa skipped a Friday), the two are one: the one that the clock showed.
0 is Sunday, as in Vixie cron; cronsim reads the expressions. Days that a newsletter skips, and those after its end,
have no slots; why a time is none is told, so that no silence is unexplained. A slot may be one in each zone: it
begins where the day does, and passes over the Earth in 26 hours.
"""

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from itertools import islice, pairwise, takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_WIDEST_SHIFT = timedelta(hours=25)  # more than any zone's clock change, and than Samoa's skipped day of 2011
# IANA's tzdata: Pacific/Kiritimati (file australasia) has stood at +14 since 1995, and no zone was further ahead since;
# none is further behind than Etc/GMT+12 (file etcetera), the clock of Baker Island and of ships there. A test asks all.
_FIRST_ON_EARTH, _LAST_ON_EARTH = timedelta(hours=14), timedelta(hours=-12)


@dataclass(frozen=True, order=True)
class Slot:
    """A local wall-clock time in a zone, e.g. 2026-11-23T07:00 in Europe/Berlin. `local` is naive, to the minute."""

    local: datetime
    zone: str

    @classmethod
    def parse(cls, text: str, zone: str) -> "Slot":
        """A slot from "2026-11-23T07:00" (or with a blank). Raises ValueError for anything else."""
        if not re.fullmatch(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d", text.strip()):
            raise ValueError("a slot is a local date and time to the minute, without an offset")
        slot = cls(datetime.fromisoformat(text.strip()), zone)
        try:
            _ = slot.instant, first_on_earth(slot.local), last_on_earth(slot.local)
        except OverflowError:
            raise ValueError("a slot is a time that has an instant in UTC") from None
        return slot

    @cached_property
    def instant(self) -> datetime:
        """When it is, in UTC."""
        return self.local.replace(tzinfo=ZoneInfo(self.zone), fold=0).astimezone(UTC)

    @property
    def skipped_by_clock(self) -> bool:
        """True where the zone's clock never showed it: 02:30 on the day of a change from 02:00 to 03:00."""
        return self.instant.astimezone(ZoneInfo(self.zone)).replace(tzinfo=None) != self.local

    def in_zone(self, zone: str | None) -> "Slot":
        """The same wall-clock time in another zone. The slot itself for None, and for what is no zone here."""
        return Slot(self.local, zone) if zone is not None and _is_zone(zone) else self

    def __str__(self) -> str:
        return self.local.isoformat(timespec="minutes")


def first_on_earth(local: datetime) -> datetime:
    """The instant at which the first zone on Earth, UTC+14, shows a wall-clock time (naive). Raises OverflowError."""
    return local.replace(tzinfo=UTC) - _FIRST_ON_EARTH


def last_on_earth(local: datetime) -> datetime:
    """The same of the last one, UTC-12: 26 hours later."""
    return local.replace(tzinfo=UTC) - _LAST_ON_EARTH


@dataclass(frozen=True)
class Schedule:
    """One or several cron expressions on one zone's wall clock, without the days that are skipped.

    `skip` holds dates and weekdays ("sat"); after the day `until` there are no slots any more.
    """

    crons: tuple[str, ...]
    zone: str
    skip: tuple[date | str, ...] = ()
    until: date | None = None

    def __post_init__(self) -> None:
        for cron in self.crons:
            if not _is_cron(cron):
                raise ValueError(
                    f"expected five cron fields (minute hour day month weekday), such as “0 7 * * 1-5”, found “{cron}”"
                )

    def __str__(self) -> str:
        """The same text for the same slots."""
        skipped = ", ".join(sorted(map(str, self.skip))) or "no day"
        return f"{'; '.join(self.crons)} in {self.zone}, skipping {skipped}, until {self.until}"

    def latest(self, now: datetime) -> Slot | None:
        """The latest slot that is due at `now` (aware), None where there was none in fifty years (29 February …)."""
        start = self._local(now) + _WIDEST_SHIFT
        due = [
            slot.instant
            for cron in self.crons
            if (slot := next((s for s in self._back(cron, start) if s.instant <= now and not self.why_none(s)), None))
        ]
        if not due:
            return None
        # By the clock that is the latest; by time, one that was put forward may still come after it.
        run = self.upcoming(max(due) - timedelta(microseconds=1))
        *_, latest = takewhile(lambda slot: slot.instant <= now, run)
        return latest

    def latest_on_earth(self, now: datetime) -> Slot | None:
        """The latest slot whose wall-clock time the first zone on Earth has shown by `now`; the same None."""
        begun = takewhile(lambda slot: first_on_earth(slot.local) <= now, self.upcoming(now))
        return max(begun, key=lambda slot: slot.instant, default=None) or self.latest(now)

    def upcoming(self, after: datetime) -> Iterator[Slot]:
        """The slots after an instant, in the order of their instants, no two at one instant."""
        return (slot for slot in self.times(after) if not self.why_none(slot))

    def has(self, slot: Slot) -> bool:
        """Whether a slot is one of its own."""
        found = next(self.upcoming(slot.instant - timedelta(minutes=1)), None)
        return found is not None and (found.local, found.instant) == (slot.local, slot.instant)

    def why_none(self, slot: Slot) -> str | None:
        """Why a time that the cron expressions name is no slot, None where it is one."""
        day = slot.local.date()
        if day in self.skip:
            return f"{day} is in skip"
        if WEEKDAYS[day.weekday()] in self.skip:
            return f"every {_DAYS[day.weekday()]} is in skip"
        return None

    def times(self, after: datetime) -> Iterator[Slot]:
        """All times that the expressions name after an instant, those of skipped days among them, up to `until`."""
        put_forward: deque[Slot] = deque()
        for local in self._wall_clock(self._local(after) - _WIDEST_SHIFT):
            if self.until is not None and local.date() > self.until:
                break
            slot = Slot(local, self.zone)
            if slot.skipped_by_clock:
                put_forward.append(slot)
                continue
            while put_forward and put_forward[0].instant <= slot.instant:
                earlier = put_forward.popleft()
                if after < earlier.instant < slot.instant:
                    yield earlier
            if slot.instant > after:
                yield slot
        yield from (slot for slot in put_forward if slot.instant > after)

    def _wall_clock(self, start: datetime) -> Iterator[datetime]:
        """The local times of all expressions after a local time, each once."""
        runs = [CronSim(cron, start) for cron in self.crons]
        heads = [next(run, None) for run in runs]
        while any(heads):
            local = min(head for head in heads if head is not None)
            heads = [next(run, None) if head == local else head for run, head in zip(runs, heads, strict=True)]
            yield local

    def shortest_gap(self, now: datetime, of: int = 50) -> timedelta:
        """The least time between neighbouring slots among so many of the next; with more of them it never grows."""
        instants = [slot.instant for slot in islice(self.upcoming(now), of)]
        return min((b - a for a, b in pairwise(instants)), default=timedelta(days=1))

    def _local(self, instant: datetime) -> datetime:
        return instant.astimezone(ZoneInfo(self.zone)).replace(tzinfo=None, second=0, microsecond=0)

    def _back(self, cron: str, start: datetime) -> Iterator[Slot]:
        if self.until is not None:
            start = min(start, datetime.combine(self.until + timedelta(days=1), time.min))
        return (Slot(local, self.zone) for local in CronSim(cron, start, reverse=True))


def _is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return False
    return True


def _is_cron(text: str) -> bool:
    """Whether it is an expression of five fields (a sixth would be seconds) that ever comes true."""
    try:
        next(CronSim(text, datetime(2026, 1, 1)))  # noqa: DTZ001 # wall-clock time has no zone
    except (CronSimError, StopIteration, AssertionError):  # “1#2/3” fails an assertion of cronsim's
        return False
    return len(text.split()) == 5  # noqa: PLR2004 # as the docstring says
