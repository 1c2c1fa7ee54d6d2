"""`python -m faults`: run the scenarios, print a line for each as it ends, a table in the end, and say what broke.

Scenarios run side by side in lanes, each a process with a nursery of its own. The seed is printed; given again, the
same instants are drawn, though what a kill meets there is the machine's. The exit code is 1 where a promise broke.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from faults import clock, desk
from faults.desk import POSTGRESQL, SQLITE
from faults.lanes import HEAD, Plan, Row, in_lane, line_of, open_lane
from faults.scenarios import needs_root, scenarios
from faults.trial import PROVIDERS

_ROOM = 4_000_000_000  # bytes that a memory file system must have free to be used


def run(options: argparse.Namespace) -> bool:
    """Run what is asked for. True where every promise held."""
    began = time.monotonic()
    chosen = [
        (scenario.name, provider, database)
        for scenario in scenarios(options.kills, options.each)
        for provider in scenario.providers
        for database in scenario.databases
        if provider in options.provider and database in options.database
        if not options.only or any(part in scenario.name for part in options.only)
        if not needs_root(scenario)
    ]
    print(f"seed {options.seed}: {len(chosen)} scenarios, {options.people:,} people each", flush=True)
    print(line_of(HEAD), flush=True)
    folder = Path(tempfile.mkdtemp(prefix="newsletter-faults-", dir=options.folder or _roomy()))
    rows: list[Row] = []
    server = _postgresql() if any(database == POSTGRESQL for _, _, database in chosen) else None
    originals = {
        kind: desk.make(folder / kind, kind, options.people, server)
        for kind in sorted({database for _, _, database in chosen})
    }
    plan = Plan(folder, originals, desk.today(), options.seed, options.kills, options.each, options.seconds)
    with ProcessPoolExecutor(options.lanes, get_context("spawn"), open_lane, (plan,)) as lanes:
        for done in as_completed([lanes.submit(in_lane, *one) for one in chosen]):
            rows.append(done.result())
            print(rows[-1], flush=True)
            for complaint in rows[-1].complaints[:6]:
                print(f"    {complaint}", flush=True)
    broken = [row for row in rows if row.broken]
    _print_table(rows, time.monotonic() - began)
    if not broken:
        shutil.rmtree(folder)
    return not broken


def run_clock(options: argparse.Namespace) -> bool:
    """Kill schedulers for a while, on each provider and database in turn. True where every promise held."""
    chosen = [(one, kind) for kind in options.database for one in clock.PROVIDERS if one in options.provider]
    print(f"seed {options.seed}: schedulers killed for {options.minutes:g} minutes each", flush=True)
    print(line_of(HEAD), flush=True)
    folder = Path(tempfile.mkdtemp(prefix="newsletter-faults-", dir=options.folder or _roomy()))
    server = _postgresql() if POSTGRESQL in options.database else None
    rows: list[Row] = []
    originals = {kind: desk.make(folder / kind, kind, options.people, server) for kind in options.database}
    for provider, kind in chosen:
        chance = random.Random(f"{options.seed} clock {provider} {kind}")
        place = folder / f"{provider}-{kind}-clock"
        rows.append(clock.run(originals[kind], place, provider, minutes=options.minutes, chance=chance))
        print(rows[-1], flush=True)
        for complaint in rows[-1].complaints[:6]:
            print(f"    {complaint}", flush=True)
    if any(row.broken for row in rows):
        return False
    shutil.rmtree(folder)
    return True


def _print_table(rows: list[Row], seconds: float) -> None:
    """The sums, by provider and database."""
    print()
    print(line_of(HEAD))
    total = Row("all", "", "")
    for provider, database in sorted({(row.provider, row.database) for row in rows}):
        mine = [row for row in rows if (row.provider, row.database) == (provider, database)]
        count = Row(f"{len(mine)} scenarios", provider, database)
        for row in mine:
            for sums in (count, total):
                for name in ("kills", "received", "missing", "twice", "wrong", "unknown", "seconds"):
                    setattr(sums, name, getattr(sums, name) + getattr(row, name))
                sums.complaints += row.complaints
        print(count)
    total.seconds = seconds
    print(total)


def _roomy() -> str | None:
    """A memory file system with room, since an outbox flushes each file; None: wherever temporary files go."""
    try:
        return "/dev/shm" if shutil.disk_usage("/dev/shm").free > _ROOM else None
    except OSError:
        return None


def _postgresql() -> str:
    from tests import databases

    return databases.server()


def main() -> None:
    """Read the options, and run."""
    parser = argparse.ArgumentParser("python -m faults", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2,000 people, 20 kills at random, 1 at each boundary")
    parser.add_argument("--people", type=int, metavar="N")
    parser.add_argument("--kills", type=int, metavar="N", help="at random, for each provider and database")
    parser.add_argument("--each", type=int, metavar="N", help="kills at each boundary")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--only", action="append", default=[], metavar="WORDS", help="scenarios with these in the name")
    parser.add_argument("--provider", action="append", choices=PROVIDERS)
    parser.add_argument("--database", action="append", choices=(SQLITE, POSTGRESQL))
    parser.add_argument("--lanes", type=int, default=min(4, os.cpu_count() or 1), help="scenarios at once")
    parser.add_argument("--seconds", type=float, default=240, help="that one edition may take")
    parser.add_argument("--folder", type=Path, help="where to work")
    parser.add_argument("--clock", action="store_true", help="kill schedulers at work instead, over many slots")
    parser.add_argument("--minutes", type=float, default=10, help="of --clock, for each provider and database")
    options = parser.parse_args()
    people, kills, each = (2_000, 20, 1) if options.quick else (20_000, 200, 3)
    options.people, options.kills, options.each = options.people or people, options.kills or kills, options.each or each
    options.provider, options.database = options.provider or PROVIDERS, options.database or (SQLITE, POSTGRESQL)
    if options.clock:
        options.people = min(options.people, 2_000)  # so that an edition is out within its minute
    sys.exit(0 if (run_clock if options.clock else run)(options) else 1)


if __name__ == "__main__":
    main()
