"""`python -m faults --clock`: two real schedulers, a slot every minute, and kills at random for as long as is asked.

Each minute there is news, so each slot is an edition to everybody. In the end the schedulers are let run until nothing
is under way, and what each person received is held against what the ledger says of all editions together: so many
copies as editions that say accepted, and one more for each that says unknown at most.
"""

import contextlib
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from faults import desk
from faults.desk import POSTGRESQL, Original
from faults.judging import NOT_SENT
from faults.lanes import Row
from faults.nursery import ROOT
from faults.servers import REFUSED, SmtpServer, of_outbox
from faults.trial import OUTBOX, SMTP

_BUSY = 15.0  # seconds of a minute in which most happens, and kills come closer together


def run(original: Original, folder: Path, provider: str, *, minutes: float, chance: random.Random) -> Row:
    """Kill for so many minutes, run out, and judge."""
    row = Row("clock", provider, original.kind)
    began = time.monotonic()
    folder.mkdir()
    url = original.copied(folder)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(SmtpServer()) if provider == SMTP else None
        config = _configure(original, folder, url, server)
        desk.command("db", "claim", config=config)
        with _schedulers(config) as processes:
            while time.monotonic() - began < minutes * 60:
                _publish(folder)
                second = time.time() % 60
                busy = second < _BUSY or second > 60 - _BUSY / 3
                time.sleep(chance.uniform(0.2, 2.5 if busy else 8))
                row.kills += _restart(processes, chance.randrange(len(processes)), config)
            if not _run_out(config, url):
                row.complaints.append(f"an edition is still under way; see {folder}")
        received = of_outbox(folder / "outbox") if server is None else Counter(server.received)
    _judge(row, original, url, received, folder, refuses=server is not None)
    original.drop(url)
    row.seconds = time.monotonic() - began
    return row


def _configure(original: Original, folder: Path, url: str, server: SmtpServer | None) -> Path:
    lines = ['kind = "outbox"'] if server is None else [
        'kind = "smtp"', 'host = "127.0.0.1"', f"port = {server.port}", 'security = "none"', 'timeout = "5s"'
    ]  # fmt: skip
    config = desk.write(
        folder,
        database=f'instance = "{original.instance}"',
        provider="\n".join([*lines, "batch_size = 50"]),
        dispatch='lease = "15s"',
        url=url if original.kind == POSTGRESQL else None,
    )
    often = 'schedule = "* * * * *"\nlead = "20s"\nmin_interval = "0s"'
    config.write_text(config.read_text(encoding="utf-8").replace('schedule = "0 0 * * *"', often), encoding="utf-8")
    return config


def _publish(folder: Path) -> None:
    """Write the news of this minute, if it is not there yet."""
    now = datetime.now(UTC)
    file = folder / "briefs" / f"{now:%H%M}.txt"
    if not file.exists():
        told = (folder / "briefs" / "harbour.txt").read_text(encoding="utf-8")
        told = told.replace("Harbour makes", f"Pier {now:%H%M} makes").replace("/harbour)", f"/{now:%H%M})")
        file.write_text(told.replace("November 22, 2026", f"{now:%B} {now.day}, {now.year}"), encoding="utf-8")


@contextlib.contextmanager
def _schedulers(config: Path) -> Iterator[list["subprocess.Popen[bytes]"]]:
    processes = [_start(config), _start(config)]
    try:
        yield processes
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(60)


def _start(config: Path) -> "subprocess.Popen[bytes]":
    with (config.parent / "said").open("ab") as said:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "scheduler.py"), str(config)], stdout=said, stderr=said, cwd=config.parent
        )


def _restart(processes: list["subprocess.Popen[bytes]"], number: int, config: Path) -> bool:
    """Kill one and start another in its place. True where it was alive until then."""
    alive = processes[number].poll() is None
    processes[number].kill()
    processes[number].wait()
    processes[number] = _start(config)
    return alive


def _run_out(config: Path, url: str) -> bool:
    """Take the newsletter's slots away, and wait until no edition is under way."""
    told = config.read_text(encoding="utf-8").replace("* * * * *", "0 0 29 2 *")
    config.write_text(told, encoding="utf-8")
    desk.command("reload", "--wait", "60", config=config)
    under_way = "SELECT count(*) FROM edition WHERE state IN ('planned', 'draft', 'dispatching')"
    for _ in range(120):
        with desk.asking(url) as ask:
            if ask(under_way) == [(0,)]:
                return True
        time.sleep(1)
    return False


def _judge(row: Row, original: Original, url: str, received: Counter[str], folder: Path, *, refuses: bool) -> None:
    """Hold what was received against the ledger. `refuses`: a server refuses some addresses, as no outbox does."""
    accepted: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    with desk.asking(url) as ask:
        editions = [number for (number,) in ask("SELECT id FROM edition WHERE frozen_at IS NOT NULL")]
        slots = ask("SELECT count(*), count(DISTINCT slot) FROM edition")[0]
    for number in editions:
        words = desk.books(url, number).words
        for address in original.people.everybody:
            word = words.get(address, "missing")
            accepted[address] += word == "accepted"
            unknown[address] += word == "unknown"
            if word not in NOT_SENT | {"accepted", "unknown"}:
                row.missing += 1
                row.complaints.append(f"{address}: on record {word} in edition {number}; see {folder}")
    for address in original.people.everybody:
        copies, least = received[address], accepted[address]
        row.twice += max(0, copies - least - unknown[address])
        row.missing += max(0, least - copies)
        never = address in original.people.suppressed or (refuses and address.startswith(REFUSED))
        row.wrong += bool(copies) and never
    row.received, row.unknown = received.total(), unknown.total()
    if slots[0] != slots[1]:
        row.complaints.append(f"{slots[0]} editions of {slots[1]} slots; see {folder}")
    if not editions:
        row.complaints.append("no edition went out: it proves nothing")


PROVIDERS = (OUTBOX, SMTP)
