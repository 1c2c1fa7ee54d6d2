"""The scheduler as a whole process: what it costs when nothing is to do, and how late editions are when much is.

Late is an edition from its slot to the first delivery that the provider has accepted; its list is thin, so that what is
measured is the scheduler. The feeds' server is a process of its own, and answers “unchanged” after the first time.
"""

import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
SOURCES_EACH = 5
_HEAD = (
    '[site]\nname = "Bench"\nurl = "https://news.example.org"\npostal_address = "1 Street"\n'
    '[provider]\nkind = "outbox"\n[fetch]\nallow_networks = ["127.0.0.0/8"]\n'
)
_TICKS = os.sysconf("SC_CLK_TCK")


def idle(seconds: float = 60) -> dict[str, float]:
    """One newsletter that is due in months, one folder: per cent of a core, and megabytes, once settled."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "briefs").mkdir()
        (folder / "newsletter.toml").write_text(
            f'{_HEAD}[sources.desk]\nkind = "folder"\npath = "briefs"\n[newsletters.daily]\ntitle = "Daily"\n'
            'from = "D <d@news.example.org>"\nlists = ["daily"]\nschedule = "0 0 29 2 *"\n'
        )
        with _scheduler(folder) as pid:
            time.sleep(10)  # what it does once, at its beginning
            before, began = _cpu_s(pid), time.monotonic()
            time.sleep(seconds)
            share = (_cpu_s(pid) - before) / (time.monotonic() - began)
            return {"cpu_percent": share * 100, "megabytes": _megabytes(pid)}


def punctual(newsletters: int = 1_000, minutes: int = 4) -> dict[str, float]:
    """So many newsletters, each every hour at a minute of its own, five feeds each: how late their editions are.

    Slots count from the third minute on: at first all feeds are new.
    """
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.clock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        port = json.loads(server.stdout.readline())
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "newsletter.toml").write_text(_configuration(newsletters, port))
            _people(folder)
            with _scheduler(folder) as pid:
                begin = datetime.now(UTC) + timedelta(minutes=2)
                time.sleep(120 + minutes * 60 + 20)
                cpu, megabytes = _cpu_s(pid), _megabytes(pid)
            late = _lateness(folder / "newsletter.db", begin, begin + timedelta(minutes=minutes))
            server.stdin.write("\n")
            server.stdin.flush()
            asked = json.loads(server.stdout.readline())
    finally:
        server.stdin.close()
        server.wait(10)
        server.stdout.close()
    late.sort()
    return {
        "editions": len(late),
        "median_s": statistics.median(late) if late else 0.0,
        "p99_s": late[int(len(late) * 0.99)] if late else 0.0,
        "longest_s": late[-1] if late else 0.0,
        "cpu_percent": cpu / (140 + minutes * 60) * 100,
        "megabytes": megabytes,
        "asked": asked,
    }


def _configuration(newsletters: int, port: int) -> str:
    made = [_HEAD]
    for number in range(newsletters):
        names = [f"feed{number * SOURCES_EACH + one}" for one in range(SOURCES_EACH)]
        made += [f'[sources.{name}]\nkind = "feed"\nurl = "http://127.0.0.1:{port}/{name}"\n' for name in names]
        made.append(
            f'[newsletters.n{number}]\ntitle = "Nr {number}"\nfrom = "D <d@news.example.org>"\nlists = ["all"]\n'
            f'schedule = "{number % 60} * * * *"\nsources = {json.dumps(names)}\n'
        )
    return "".join(made)


def _people(folder: Path) -> None:
    """Three people on the list of all newsletters."""
    listed = folder / "people.csv"
    listed.write_text("email\n" + "".join(f"reader{n}@example.org\n" for n in range(3)))
    told = ["subscribers", "import", str(listed), "--confirmed", "--evidence", "bench", "--list", "all"]
    command = [sys.executable, "-m", "newsletter", *told, "--config", str(folder / "newsletter.toml")]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)


@contextmanager
def _scheduler(folder: Path) -> "Iterator[int]":
    """A scheduler at work; its process id."""
    command = [sys.executable, str(ROOT / "scheduler.py"), str(folder / "newsletter.toml")]
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, cwd=folder)
    try:
        while "the clock runs" not in (folder / "said").read_text():
            if process.poll() is not None:
                raise RuntimeError((folder / "said").read_text())
            time.sleep(0.1)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _lateness(file: Path, begin: datetime, end: datetime) -> list[float]:
    """Seconds from the slot to the first answer, of each edition of a span that is out."""
    with closing(sqlite3.connect(file)) as database:
        rows = database.execute(
            "SELECT edition.slot_at, min(batch.done_at) FROM edition LEFT JOIN batch ON batch.edition_id = edition.id "
            "WHERE edition.slot_at BETWEEN ? AND ? AND edition.state != 'skipped' GROUP BY edition.id",
            [f"{at:%Y-%m-%d %H:%M:%S}" for at in (begin, end)],
        ).fetchall()
    late = []
    for slot, done in rows:
        at = datetime.fromisoformat(done).replace(tzinfo=UTC) if done else datetime.now(UTC)
        late.append((at - datetime.fromisoformat(slot).replace(tzinfo=UTC)).total_seconds())
    return late


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS  # proc_pid_stat(5): utime is field 14, stime 15


def _megabytes(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1_048_576


def serve() -> None:
    """The feeds' server, until its input ends: prints its port, then at each line of input what it was asked."""
    asked = {"whole": 0, "unchanged": 0}
    date = format_datetime(datetime.now(UTC))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            name = self.path[1:]
            known = self.headers.get("If-None-Match") == f'"{name}"'
            asked["unchanged" if known else "whole"] += 1
            body = b"" if known else _feed(name, date)
            self.send_response(304 if known else 200)
            self.send_header("ETag", f'"{name}"')
            self.send_header("Content-Type", "application/rss+xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            del args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps(server.server_port), flush=True)
    for _ in sys.stdin:
        print(json.dumps(asked), flush=True)
    server.shutdown()


def _feed(name: str, date: str) -> bytes:
    """One feed with one story."""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><rss version="2.0"><channel><title>{name}</title>'
        f"<link>https://{name}.example.org/</link><item><title>The quay of {name} is widened</title>"
        f"<link>https://{name}.example.org/1</link><guid>tag:{name}</guid><pubDate>{date}</pubDate>"
        "<description>The council voted on Tuesday to widen the northern quay.</description></item></channel></rss>"
    ).encode()


if __name__ == "__main__":
    serve()
