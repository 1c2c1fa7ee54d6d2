"""Cron and zone -> slots: which local wall-clock times a newsletter has, and when each is in UTC. Pure.

Cron is read on the wall clock of the zone, without dates' offsets: 02:30 on a day without a 02:30 is still a slot, whose
instant is what the clock would have shown had it not been put forward (PEP 495, fold=0); 01:30 on a day with two is one
slot, the first. 0 is Sunday, as in Vixie cron; cronsim reads the expressions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

_WIDEST_SHIFT = timedelta(hours=25)  # more than any zone's clock change, and than Samoa's skipped day of 2011


@dataclass(frozen=True, order=True)
class Slot:
    """A local wall-clock time in a zone, e.g. 2026-11-23T07:00 in Europe/Berlin. `local` is naive, to the minute."""

    local: datetime
    zone: str

    @classmethod
    def parse(cls, text: str, zone: str) -> "Slot":
        """A slot from "2026-11-23T07:00" (or with a blank). Raises ValueError for anything else."""
        local = datetime.fromisoformat(text.strip())
        if local.tzinfo is not None or local.second or local.microsecond:
            raise ValueError("a slot is a local time to the minute, without an offset")
        return cls(local, zone)

    @cached_property
    def instant(self) -> datetime:
        """When it is, in UTC."""
        return self.local.replace(tzinfo=ZoneInfo(self.zone), fold=0).astimezone(UTC)

    def __str__(self) -> str:
        return self.local.isoformat(timespec="minutes")


@dataclass(frozen=True)
class Schedule:
    """One or several cron expressions on one zone's wall clock."""

    crons: tuple[str, ...]
    zone: str

    def __post_init__(self) -> None:
        for cron in self.crons:
            try:
                next(CronSim(cron, datetime(2026, 1, 1)))  # noqa: DTZ001 # wall-clock time has no zone
            except (CronSimError, StopIteration):
                raise ValueError(
                    f"expected five cron fields (minute hour day month weekday), such as “0 7 * * 1-5”, found “{cron}”"
                ) from None

    def latest(self, now: datetime) -> Slot | None:
        """The latest slot that is due at `now` (aware), None where there was none in fifty years (29 February …)."""
        start = self._local(now) + _WIDEST_SHIFT
        found = [
            slot
            for cron in self.crons
            if (slot := next((s for s in self._back(cron, start) if s.instant <= now), None)) is not None
        ]
        return max(found, key=lambda slot: slot.instant, default=None)

    def upcoming(self, after: datetime) -> Iterator[Slot]:
        """The slots after an instant, by time, each wall-clock time once."""
        start = self._local(after) - _WIDEST_SHIFT
        runs = [iter(CronSim(cron, start)) for cron in self.crons]
        heads = [next(run, None) for run in runs]
        while any(heads):
            local = min(head for head in heads if head is not None)
            heads = [next(run, None) if head == local else head for run, head in zip(runs, heads, strict=True)]
            slot = Slot(local, self.zone)
            if slot.instant > after:
                yield slot

    def shortest_gap(self, now: datetime) -> timedelta:
        """The least time between neighbouring slots among the next fifty."""
        instants = [slot.instant for slot in islice(self.upcoming(now), 50)]
        return min((b - a for a, b in pairwise(instants)), default=timedelta(days=1))

    def _local(self, instant: datetime) -> datetime:
        return instant.astimezone(ZoneInfo(self.zone)).replace(tzinfo=None, second=0, microsecond=0)

    def _back(self, cron: str, start: datetime) -> Iterator[Slot]:
        return (Slot(local, self.zone) for local in CronSim(cron, start, reverse=True))
