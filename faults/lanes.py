"""The lanes in which scenarios run side by side: each a process with a nursery of its own, and what came of each."""

import random
import time
from dataclasses import dataclass, field
from pathlib import Path

from faults.desk import Original
from faults.nursery import Nursery
from faults.scenarios import Scenario, scenarios
from faults.trial import Stage, Stuck

HEAD = ("scenario", "provider", "database", "kills", "received", "missing", "twice", "wrong", "unknown", "seconds")
_WIDTHS = (27, 8, 10, 5, 9, 7, 5, 5, 7, 7)


@dataclass
class Row:
    """What a scenario came to, over all of its editions."""

    scenario: str
    provider: str
    database: str
    kills: int = 0
    received: int = 0
    missing: int = 0
    twice: int = 0
    wrong: int = 0
    unknown: int = 0
    seconds: float = 0
    complaints: list[str] = field(default_factory=list)

    @property
    def broken(self) -> bool:
        """Whether a promise was."""
        return bool(self.missing or self.twice or self.wrong or self.complaints)

    def __str__(self) -> str:
        figures = (self.kills, self.received, self.missing, self.twice, self.wrong, self.unknown)
        told = (self.scenario, self.provider, self.database, *(f"{n:,}" for n in figures), f"{self.seconds:.1f}")
        return line_of(told) + ("  BROKEN" if self.broken else "")


def line_of(cells: tuple[str, ...]) -> str:
    """Cells as one line of the table."""
    return "  ".join(c.ljust(w) if n < 3 else c.rjust(w) for n, (c, w) in enumerate(zip(cells, _WIDTHS, strict=True)))


@dataclass(frozen=True)
class Plan:
    """What a lane needs to know."""

    folder: Path
    originals: dict[str, Original]
    slot: str
    seed: int
    kills: int
    each: int
    seconds: float


def perform(stage: Stage, scenario: Scenario, provider: str, database: str, seed: int) -> Row:
    """Carry out one scenario: as many editions as its kills take, each run out and judged."""
    row = Row(scenario.name, provider, database)
    chance = random.Random(f"{seed} {scenario.name} {provider} {database}")
    began = time.monotonic()
    while True:
        settings, before = scenario.settings, row.kills
        with stage.trial(provider, database, chance, settings=settings, dispatch=scenario.dispatch) as trial:
            try:
                scenario.act(trial, scenario.kills - row.kills)
                trial.run_out()
                found = trial.judge()
            except (Stuck, TimeoutError, RuntimeError) as error:
                trial.keep = True
                row.complaints += [f"{error}; see {trial.folder}"]
                break
            row.kills += trial.kills
            row.received += found.received
            row.missing += len(found.missing)
            row.twice += len(found.twice)
            row.wrong += len(found.wrong)
            row.unknown += found.unknown
            told = [*found.missing[:2], *found.twice[:2], *found.wrong[:2]]
            row.complaints += [f"{sentence}; see {trial.folder}" for sentence in told]
        if found.broken or row.kills >= scenario.kills:
            break
        if row.kills == before:
            row.complaints.append("no run was killed: it proves nothing")
            break
    row.seconds = time.monotonic() - began
    return row


class _Lane:
    """What a lane's process holds."""

    stage: Stage
    plan: Plan


def open_lane(plan: Plan) -> None:
    """Make this process a lane."""
    _Lane.plan = plan
    _Lane.stage = Stage(plan.folder, Nursery(), plan.originals, plan.slot, plan.seconds)


def in_lane(name: str, provider: str, database: str) -> Row:
    """Carry out one scenario in this lane."""
    plan = _Lane.plan
    (scenario,) = (one for one in scenarios(plan.kills, plan.each) if one.name == name)
    return perform(_Lane.stage, scenario, provider, database, plan.seed)
