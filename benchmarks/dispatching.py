"""Freezing and dispatching at size: a million people, the ledger on, SendGrid's API played by a sink on loopback.

Each measurement runs in a process of its own, so that its memory is its own. The sink reads a request to its end and
says 202, which is as little as a server can do.
"""

import json
import multiprocessing
import os
import re
import selectors
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any, Self
from zoneinfo import available_timezones

from benchmarks.personalizations import _message
from newsletter.edition import Message

_CONFIGURATION = """\
[site]
name = "Bench"
url = "https://news.example.org"
postal_address = "1 Bench Street"
{tables}
[sources.desk]
kind = "folder"
path = "briefs"

[newsletters.daily]
title = "Bench"
from = "Bench <digest@news.example.org>"
lists = ["daily"]
"""


class Sink:
    """A server that takes every request of SendGrid's API, in a process of its own."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._process = multiprocessing.get_context("fork").Process(
            target=_take_all, args=(self._listener,), daemon=True
        )

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()
        self._listener.close()


def _take_all(listener: socket.socket) -> None:
    wait = selectors.DefaultSelector()
    wait.register(listener, selectors.EVENT_READ)
    left: dict[socket.socket, int | None] = {}
    heads: dict[socket.socket, bytes] = {}
    buffer = bytearray(1 << 20)
    while True:
        for key, _ in wait.select():
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            if sock is listener:
                made, _ = listener.accept()
                wait.register(made, selectors.EVENT_READ)
                left[made], heads[made] = None, b""
                continue
            count = sock.recv_into(buffer)
            want = left[sock]
            if count and want is None:
                heads[sock] += bytes(memoryview(buffer)[:count])
                head, found, rest = heads[sock].partition(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: (\d+)", head)
                if not found or length is None:
                    continue
                want, heads[sock] = int(length[1]) - len(rest), b""
            elif want is not None:
                want -= count
            left[sock] = want
            if want == 0:
                sock.sendall(
                    b"HTTP/1.1 202 Accepted\r\nX-Message-Id: bench\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                )
            if want == 0 or not count:
                wait.unregister(sock)
                sock.close()
                del left[sock], heads[sock]


def make_desk(folder: Path, people: int, tables: str, message: Message | None = None) -> None:
    """A newsroom's folder with so many people on its list, and the draft of an edition: a usual digest or `message`.

    They live in all zones of this machine, in turn.
    """
    from newsletter.newsroom import Newsroom
    from newsletter.settings import Settings
    from subscribers import ensure_list, transaction

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "newsletter.toml").write_text(_CONFIGURATION.format(tables=tables))
    with Newsroom.open(Settings.load(folder / "newsletter.toml", {})) as newsroom:
        now = newsroom.clock()
        with transaction(newsroom.engine) as session:
            ensure_list(session, "daily", "daily", now)
    at = now.strftime("%Y-%m-%d %H:%M:%S.%f")
    zones = sorted(available_timezones())
    with closing(sqlite3.connect(folder / "newsletter.db")) as connection, connection:
        connection.executemany(
            "INSERT INTO subscriber (id, address, key, name, link, zone, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                (
                    n,
                    f"reader{n}@example{n % 997}.org",
                    f"reader{n}@example{n % 997}.org",
                    f"Reader {n}",
                    f"Zn8-Pw9GfgHh_{n:09}",
                    zones[n % len(zones)],
                    at,
                )
                for n in range(1, people + 1)
            ),
        )
        connection.executemany(
            "INSERT INTO subscription (list_id, subscriber_id, state, changed_at) VALUES (1, ?, 'confirmed', ?)",
            ((n, at) for n in range(1, people + 1)),
        )
        connection.executemany(
            "INSERT INTO suppression (key, reason, at) VALUES (?, 'hard_bounce', ?)",
            ((f"reader{n}@example{n % 997}.org", at) for n in range(1, people + 1, 1_000)),
        )
        message = message or _message()
        connection.execute(
            "INSERT INTO edition (id, newsletter, slot, zone, slot_at, state, created_at, lists, stale_after_s, tag, "
            "failures) VALUES (1, 'daily', '2026-11-23T07:00', 'UTC', ?, 'draft', ?, '[\"daily\"]', 86400, "
            "'0123456789abcdef', 0)",
            (at, at),
        )
        connection.execute(
            "INSERT INTO message (edition_id, variant, revision, content, digest, html_bytes, briefs, compiled_at) "
            "VALUES (1, '', 1, ?, ?, ?, 0, ?)",
            (json.dumps(message.to_json()), message.digest, message.html_bytes, at),
        )


def dispatch_here(folder: Path) -> dict[str, Any]:
    """Freeze and dispatch the edition of a desk in this process, and say how long it took and how large it grew.

    `processor_s` is what it used of the processor, which others who use the machine hardly change.
    """
    from newsletter import ledger, tally
    from newsletter.models import EditionRecord
    from newsletter.newsroom import Newsroom
    from newsletter.settings import Settings
    from subscribers import reading, transaction

    environ = {"SENDGRID_API_KEY": "SG.bench"}
    with Newsroom.open(Settings.load(folder / "newsletter.toml", environ)) as newsroom:
        now = newsroom.clock()
        start = time.perf_counter()
        with transaction(newsroom.engine) as session:
            record = session.get_one(EditionRecord, 1)
            size = newsroom.limits.batch_size(newsroom.provider.batch_size)
            frozen = ledger.freeze(session, record, due_at=now, batch_size=size, now=now)
        froze = time.perf_counter() - start
        assert frozen is not None
        seen: list[float] = []
        start, busy = time.perf_counter(), time.process_time()
        with reading(newsroom.engine) as session:
            record = session.get_one(EditionRecord, 1)
        record = newsroom.dispatch(record, report=lambda _: seen.append(_resident_mb()) if len(seen) < 5_000 else None)
        took, busy = time.perf_counter() - start, time.process_time() - busy
        with reading(newsroom.engine) as session:
            counted = tally.tally(session, record)
    assert counted.holds
    assert counted.accepted == frozen.mailable, counted
    return {
        "people": frozen.mailable,
        "freeze_s": froze,
        "dispatch_s": took,
        "processor_s": busy,
        "early_mb": seen[len(seen) // 10],
        "peak_mb": max(seen),
    }


def freeze_in_waves(folder: Path) -> dict[str, Any]:
    """Freeze the edition of a desk for the slot's wall-clock time in each zone, as the first zone reaches it."""
    from newsletter import ledger
    from newsletter.models import EditionRecord
    from newsletter.newsroom import Newsroom
    from newsletter.schedule import Slot, first_on_earth
    from newsletter.settings import Settings
    from subscribers import transaction

    with Newsroom.open(Settings.load(folder / "newsletter.toml", {"SENDGRID_API_KEY": "SG.bench"})) as newsroom:
        start = time.perf_counter()
        with transaction(newsroom.engine) as session:
            record = session.get_one(EditionRecord, 1)
            slot = Slot.parse(record.slot, record.zone)
            now = first_on_earth(slot.local) - timedelta(minutes=1)
            size = newsroom.limits.batch_size(newsroom.provider.batch_size)
            frozen = ledger.freeze(session, record, due_at=now, batch_size=size, now=now, local=slot)
        froze = time.perf_counter() - start
        assert frozen is not None
        waves = newsroom.edition("daily").waves
        assert sum(wave.people for wave in waves) == frozen.mailable
    return {"waves_s": froze, "waves": len(waves)}


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def dispatch(people: int, calls: int = 4) -> dict[str, Any]:
    """The same in a process of its own, against the sink."""
    with tempfile.TemporaryDirectory(prefix="newsletter-bench-") as folder, Sink() as sink:
        provider = f'[provider]\nkind = "sendgrid"\nhost = "{sink.url}"\n\n[dispatch]\ncalls = {calls}\n'
        desk, other = Path(folder) / "desk", Path(folder) / "other"
        make_desk(desk, people, provider)
        shutil.copytree(desk, other)
        found: dict[str, Any] = {}
        for arguments in ([str(desk)], [str(other), "waves"]):
            command = [sys.executable, "-m", "benchmarks.dispatching", *arguments]
            told = subprocess.run(command, check=True, capture_output=True, timeout=900)
            found |= json.loads(told.stdout.splitlines()[-1])
        return found


if __name__ == "__main__":
    print(json.dumps((freeze_in_waves if "waves" in sys.argv[2:] else dispatch_here)(Path(sys.argv[1]))))
