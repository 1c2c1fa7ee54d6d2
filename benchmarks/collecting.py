"""Collecting 200 feeds of 50 entries from a server on loopback, as the command that a person runs.

The server is a process of its own, counts its requests, and gives ETags, so that the second run shows what a morning
costs on which nothing is new. A tenth of the entries are full briefs, the others what blogs and wires give: 3 kB of
HTML. Memory is that of the command's process and of the one that reads beside it, together.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FEEDS, ENTRIES = 200, 50
_NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
_WORDS = (
    "The council of the harbour town voted on Tuesday to widen the northern quay, after a debate that went on until "
    "midnight and in which both sides spoke of the same figures in different ways. "
)
_PLAIN = "".join(f'<p>{_WORDS} <a href="https://paper.example.org/{n}">The Paper</a> has more.</p>' for n in range(12))
_FULL = (
    "<p>{lede}</p><h2>Facts</h2><ul>"
    + "".join(
        f'<li>{_WORDS}<a href="https://paper.example.org/{n}">The Paper</a></li>'.replace("{", "") for n in range(8)
    )
    + f"</ul><h2>Pro-quay narrative</h2><p>{_WORDS * 2}</p><h2>Anti-quay narrative</h2><p>{_WORDS * 2}</p>"
    "<h2>Nerd narrative</h2><p>There is a 49% chance that it is built, according to the Harbour community.</p>"
)


def feed(number: int) -> bytes:
    """One feed: RSS 2.0 with its content escaped, as WordPress does it."""
    items = []
    for entry in range(ENTRIES):
        name = f"{number}-{entry}"
        content = _FULL.replace("{lede}", f"Quay {name}.") if entry % 10 == 0 else f"<p>Story {name}.</p>{_PLAIN}"
        date = format_datetime(_NOON - timedelta(minutes=number * ENTRIES + entry))
        items.append(
            f"<item><title>Quay {name} is widened</title><link>https://feed{number}.example.org/{entry}</link>"
            f'<guid isPermaLink="false">tag:{name}</guid><pubDate>{date}</pubDate><category>Harbour</category>'
            f"<description>{escape(f'<p>Story {name}. {_WORDS}</p>')}</description>"
            f"<content:encoded><![CDATA[{content}]]></content:encoded></item>"
        )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><rss version="2.0" '
        'xmlns:content="http://purl.org/rss/1.0/modules/content/"><channel><title>Feed</title>'
        f"<link>https://feed{number}.example.org/</link>{''.join(items)}</channel></rss>"
    ).encode()


def serve() -> None:
    """The server, until its input ends: prints its port, then at each line of input what it was asked since."""
    asked: Counter[str] = Counter()
    bodies = {f"/{number}": feed(number) for number in range(FEEDS)}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.headers.get("If-None-Match") == f'"{self.path}"'
            asked["unchanged" if known else "whole"] += 1
            body = b"" if known else bodies[self.path]
            self.send_response(304 if known else 200)
            self.send_header("ETag", f'"{self.path}"')
            self.send_header("Content-Type", "application/rss+xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            del args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps([server.server_port, sum(map(len, bodies.values()))]), flush=True)
    for _ in sys.stdin:
        print(json.dumps(asked), flush=True)
        asked.clear()
    server.shutdown()


def collect_twice() -> dict[str, Any]:
    """Run `newsletter collect` twice: seconds and peak megabytes of each, and what the server was asked."""
    newsletter = str(Path(sys.executable).parent / "newsletter")
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.collecting"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdin is not None
    assert server.stdout is not None
    found: dict[str, Any] = {}
    try:
        port, found["bytes"] = json.loads(server.stdout.readline())
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder) / "newsletter.toml"
            sources = "".join(
                f'[sources.feed{number}]\nkind = "feed"\nurl = "http://127.0.0.1:{port}/{number}"\n'
                for number in range(FEEDS)
            )
            config.write_text(
                '[site]\nname = "Bench"\nurl = "https://news.example.org"\npostal_address = "1 Street"\n'
                '[fetch]\nallow_networks = ["127.0.0.0/8"]\n[newsletters.daily]\ntitle = "Daily"\n'
                f'from = "D <d@news.example.org>"\nlists = ["daily"]\n{sources}'
            )
            for run in ("first", "second"):
                seconds, megabytes, said = _measured([newsletter, "collect", "--config", str(config), "--json"])
                server.stdin.write("\n")
                server.stdin.flush()
                found[run] = {
                    "seconds": seconds,
                    "megabytes": megabytes,
                    "asked": json.loads(server.stdout.readline()),
                    "new": sum(one["new"] for one in json.loads(said)),
                }
    finally:
        server.stdin.close()
        server.wait(10)
        server.stdout.close()
    return found


def _measured(command: list[str]) -> tuple[float, float, bytes]:
    """Wall-clock seconds, megabytes at most of the process and those that it starts in all, and its output."""
    with tempfile.TemporaryFile() as out:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=out)
        most = 0.0
        while process.poll() is None:
            most = max(most, sum(map(_resident, [process.pid, *_children(process.pid)])))
            time.sleep(0.05)
        took = time.perf_counter() - start
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        out.seek(0)
        return took, most, out.read()


def _children(pid: int) -> list[int]:
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:  # it has ended
        return []


def _resident(pid: int) -> float:
    """Megabytes that a process holds in memory now; 0 where it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1_048_576
    except (OSError, IndexError):
        return 0.0


if __name__ == "__main__":
    serve()
