"""Sending into Postfix's smtp-sink: by us, by Postfix's smtp-source, and by EmailMessage with smtplib.

All three on loopback, without TLS and DKIM, in turns, so that a machine whose speed drifts spoils none. We dispatch an
edition whole, with its ledger in SQLite: batches are claimed, a Message of six fields is filled for each recipient, and
what became of each is on record; as many calls at once as there are connections;
smtp-source sends one ready text of the same size, its messages on kept connections (-d); smtplib is a program as one
writes it: a message built for each recipient, over one kept connection.
"""

import os
import shutil
import smtplib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from pathlib import Path

from benchmarks.dispatching import dispatch_here, make_desk
from newsletter.edition import DeliveryId, Message, Recipient, Sender, spelling
from newsletter.mime import Mould

_SENDER = Sender("daily", "Bench", "b@news.example.org", None, "Bench", "daily.example.org", "https://news.example.org")
_LINE = "The quick brown fox – “so they say” – jumps over the lazy dog, and so on to the end.\n"
_DATE = datetime(2026, 11, 23, 7, tzinfo=UTC)


@dataclass(frozen=True)
class Rates:
    """Messages a second, medians of the rounds."""

    ours: float
    source: float
    smtplib: float


def _message(size: int) -> Message:
    """A Message whose copies have about that many bytes, six fields in them."""

    def made(lines: int) -> Message:
        names = ("name", "leave_url", "preferences_url")
        html = "".join(f"<p>{spelling('d4f0a1', name, html=True)}</p>" for name in names)
        text = "\n".join(spelling("d4f0a1", name, html=False) for name in names)
        return Message(
            _SENDER, "Today", html + _LINE * lines, text + _LINE * (lines // 9), "d4f0a1", "2026-11-23T07:00"
        )

    lines = 0
    while len(Mould(made(lines + 9)).fill(_people(1)[0], _DATE)) <= size:
        lines += 9
    return made(lines)


def _people(count: int) -> list[Recipient]:
    return [
        Recipient(DeliveryId(f"{n:024x}"), f"reader{n}@example.org", f"Reader {n}", f"Zn8-Pw9GfgHh_VIdJo{n:04}")
        for n in range(count)
    ]


@contextmanager
def _sink() -> Iterator[int]:
    """smtp-sink on a free port, as it comes."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    as_whom = ["-u", "nobody"] if os.geteuid() == 0 else []
    sink = subprocess.Popen(["smtp-sink", *as_whom, f"127.0.0.1:{port}", "1000"], stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.02)
        yield port
    finally:
        sink.terminate()
        sink.wait()


def _dispatched(desk: Path) -> float:
    """Dispatch the edition of a copy of a desk; give the seconds."""
    with tempfile.TemporaryDirectory(prefix="newsletter-bench-") as folder:
        shutil.copytree(desk, folder, dirs_exist_ok=True)
        return float(dispatch_here(Path(folder))["dispatch_s"])


def _source(port: int, size: int, count: int, connections: int) -> None:
    command = ["smtp-source", "-d", "-s", str(connections), "-l", str(size), "-m", str(count)]
    subprocess.run([*command, "-f", "b@news.example.org", "-t", "r@example.org", f"127.0.0.1:{port}"], check=True)


def _smtplib(port: int, message: Message, people: list[Recipient]) -> None:
    with smtplib.SMTP("127.0.0.1", port) as client:
        for reader in people:
            values = reader.values(_SENDER)
            made = EmailMessage(policy=SMTP)
            made["From"] = f"{_SENDER.from_name} <{_SENDER.from_address}>"
            made["To"] = f"{reader.name} <{reader.address}>"
            made["Subject"], made["Date"] = message.subject, format_datetime(_DATE)
            made["Message-ID"] = f"<{reader.delivery}@news.example.org>"
            made["List-Unsubscribe"] = f"<{values['leave_url']}>"
            made.set_content(message.fill(message.text, values))
            made.add_alternative(message.fill(message.html, values), subtype="html")
            client.send_message(made)


def send(size: int, connections: int, *, count: int, rounds: int) -> Rates | None:
    """The rates for messages of so many bytes. None where Postfix's tools are not at hand."""
    if not shutil.which("smtp-sink") or not shutil.which("smtp-source"):
        return None
    message = _message(size)
    few = _people(max(20, count // 100))
    rates: list[list[float]] = [[], [], []]
    with _sink() as port, tempfile.TemporaryDirectory(prefix="newsletter-bench-") as folder:
        provider = f'[provider]\nkind = "smtp"\nhost = "127.0.0.1"\nport = {port}\nsecurity = "none"\n'
        make_desk(Path(folder), count, f"{provider}\n[dispatch]\ncalls = {connections}\n", message)
        runs: list[tuple[int, Callable[[], float]]] = [
            (count, lambda: _dispatched(Path(folder))),
            (count, _timed(lambda: _source(port, size, count, connections))),
            (len(few), _timed(lambda: _smtplib(port, message, few))),
        ]
        for _ in range(rounds):
            for found, (number, run) in zip(rates, runs, strict=True):
                found.append(number / run())
    return Rates(*map(statistics.median, rates))


def _timed(do: Callable[[], None]) -> Callable[[], float]:
    def run() -> float:
        start = time.perf_counter()
        do()
        return time.perf_counter() - start

    return run


def main() -> None:
    """Print the rates for both sizes and numbers of connections."""
    rounds = int(sys.argv[1]) if sys.argv[1:] else 7
    for size, count in ((60_000, 6_000), (5_000, 16_000)):
        for connections in (4, 16):
            rates = send(size, connections, count=count, rounds=rounds)
            if rates is None:
                print("smtp-sink and smtp-source are Postfix's: apt-get install postfix")
                return
            print(
                f"{size:6,} bytes, {connections:2} connections: {rates.ours:7,.0f}/s; "
                f"smtp-source {rates.source:7,.0f}/s ({rates.ours / rates.source:.2f}); "
                f"smtplib {rates.smtplib:5,.0f}/s ({rates.ours / rates.smtplib:.0f})"
            )


if __name__ == "__main__":
    main()
