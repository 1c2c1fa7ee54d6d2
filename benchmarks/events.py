"""Events of SendGrid's webhook: signed posts of 1,000, to the function alone and to `newsletter serve`.

An edition to 100,000 people has gone out; each copy is told of twice, "processed" and "delivered". Every post is
verified, put on record and acted on in one transaction, on SQLite, fates included.
"""

import base64
import http.client
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks.dispatching import make_desk

_IN_A_POST = 1_000
_KEY = ec.generate_private_key(ec.SECP256R1())
_ENVIRON = {
    "SENDGRID_API_KEY": "SG.bench",
    "NEWSLETTER_SECRET": "a secret that is long enough for a benchmark",
    "NEWSLETTER_ERASURE_KEY": "another secret that is long enough for it",
}
Post = tuple[dict[str, str], bytes, int]  # headers, body, how many events


def _desk(folder: Path, people: int) -> None:
    """A desk whose edition went out in calls of 1,000, all of them answered."""
    from newsletter import ledger
    from newsletter.models import EditionRecord
    from newsletter.newsroom import Newsroom
    from newsletter.settings import Settings
    from subscribers import transaction

    form = serialization.PublicFormat.SubjectPublicKeyInfo
    public = base64.b64encode(_KEY.public_key().public_bytes(serialization.Encoding.DER, form)).decode()
    make_desk(folder, people, f'\n[provider]\nkind = "sendgrid"\nwebhook_keys = ["{public}"]\n')
    with Newsroom.open(Settings.load(folder / "newsletter.toml", _ENVIRON)) as newsroom:
        now = newsroom.clock()
        with transaction(newsroom.engine) as session:
            record = session.get_one(EditionRecord, 1)
            ledger.freeze(session, record, due_at=now, batch_size=1_000, now=now)
    at = now.strftime("%Y-%m-%d %H:%M:%S.%f")
    with closing(sqlite3.connect(folder / "newsletter.db")) as connection, connection:
        connection.execute(
            "UPDATE batch SET state = 'done', attempt = printf('%024x', id), called_at = ?, done_at = ?", (at, at)
        )
        connection.execute("INSERT INTO attempt SELECT attempt, id, called_at FROM batch")


def _posts(folder: Path) -> Iterator[Post]:
    """What SendGrid would post, in the order in which it would come about."""
    from newsletter.names import Names

    with closing(sqlite3.connect(folder / "newsletter.db")) as connection:
        (instance,) = connection.execute("SELECT instance_id FROM instance").fetchone()
        rows = connection.execute(
            "SELECT subscriber_id, b.attempt FROM delivery d JOIN batch b ON d.id BETWEEN b.first_id AND b.last_id"
            " WHERE outcome IS NULL ORDER BY d.id"
        ).fetchall()
    names = Names(instance).of("0123456789abcdef", [subscriber for subscriber, _ in rows])
    now = int(time.time())
    for start in range(0, len(rows), _IN_A_POST):
        some = list(zip(rows[start : start + _IN_A_POST], names[start : start + _IN_A_POST], strict=True))
        for kind, told in (
            ("processed", {}),
            ("delivered", {"response": "250 2.0.0 OK  1795417200 d9-20020a05si - gsmtp"}),
        ):
            events = [
                {
                    "email": f"reader{subscriber}@example{subscriber % 997}.org",
                    "timestamp": now,
                    "smtp-id": f"<{name[:22]}@geopod-ismtpd-3-1>",
                    "event": kind,
                    "category": ["daily", "2026-11-23T07:00"],
                    "sg_event_id": base64.urlsafe_b64encode(os.urandom(30)).decode(),
                    "sg_message_id": f"{attempt[2:24]}.recvd-84bd5f-x7x9-1-6393BC05-3.0",
                    "delivery_id": name,
                    "attempt_id": attempt,
                    **told,
                }
                for (subscriber, attempt), name in some
            ]
            body = ("[" + ",\r\n".join(json.dumps(event) for event in events) + "]\r\n").encode()
            stamp = str(now)
            signature = _KEY.sign(stamp.encode() + body, ec.ECDSA(hashes.SHA256()))
            yield (
                {
                    "X-Twilio-Email-Event-Webhook-Signature": base64.b64encode(signature).decode(),
                    "X-Twilio-Email-Event-Webhook-Timestamp": stamp,
                },
                body,
                len(events),
            )


def take_alone(people: int, profile: bool = False) -> dict[str, Any]:
    """The function in this process: events a second, over all posts and over the last tenth of them."""
    from newsletter.newsroom import Newsroom
    from newsletter.settings import Settings

    with tempfile.TemporaryDirectory(prefix="newsletter-bench-") as name:
        folder = Path(name)
        _desk(folder, people)
        posts = list(_posts(folder))
        took = []
        events = sum(count for _, _, count in posts)
        with Newsroom.open(Settings.load(folder / "newsletter.toml", _ENVIRON)) as newsroom:
            if profile:
                import cProfile
                import pstats

                with cProfile.Profile() as found:
                    for headers, body, _ in posts:
                        newsroom.take_events(headers, body)
                pstats.Stats(found).sort_stats("tottime").print_stats(35)
                return {}
            for headers, body, _ in posts:
                start = time.perf_counter()
                taken = newsroom.take_events(headers, body)
                took.append(time.perf_counter() - start)
                assert taken.new == taken.told == taken.fates, taken
        return {
            "events": events,
            "per_second": events / sum(took),
            "at_the_end": _IN_A_POST * (len(took) // 10) / sum(took[-(len(took) // 10) :]),
            "longest_ms": max(took) * 1_000,
            "bytes_an_event": (folder / "newsletter.db").stat().st_size / events,
        }


def take_over_http(people: int, connections: int = 4) -> dict[str, Any]:
    """The same posted to `newsletter serve` over that many connections; and how long a page takes meanwhile."""
    with tempfile.TemporaryDirectory(prefix="newsletter-bench-") as name:
        folder = Path(name)
        _desk(folder, people)
        posts = list(_posts(folder))
        command = [
            sys.executable,
            "-m",
            "newsletter",
            "serve",
            "--port",
            "0",
            "--config",
            str(folder / "newsletter.toml"),
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, **_ENVIRON}, text=True) as process:
            assert process.stdout is not None
            port = int(re.search(r":(\d+)\s*$", process.stdout.readline())[1])  # type: ignore[index] # it says so
            left = iter(posts)
            lock = threading.Lock()
            pages: list[float] = []
            over = threading.Event()

            def post() -> None:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                while True:
                    with lock:
                        one = next(left, None)
                    if one is None:
                        return
                    headers, body, _ = one
                    connection.request("POST", "/hooks/sendgrid", body, headers)
                    answer = connection.getresponse()
                    answer.read()
                    assert answer.status == 204, answer.status

            def look() -> None:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                while not over.wait(0.1):
                    start = time.perf_counter()
                    connection.request("GET", "/join/daily")
                    connection.getresponse().read()
                    pages.append(time.perf_counter() - start)

            threads = [threading.Thread(target=post) for _ in range(connections)]
            looking = threading.Thread(target=look)
            looking.start()
            start = time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            took = time.perf_counter() - start
            over.set()
            looking.join()
            process.send_signal(signal.SIGTERM)
        with closing(sqlite3.connect(folder / "newsletter.db")) as connection:
            (kept,) = connection.execute("SELECT count(*) FROM provider_event").fetchone()
            (moved,) = connection.execute("SELECT count(*) FROM delivery WHERE fate = 'delivered'").fetchone()
        events = sum(count for _, _, count in posts)
        assert (kept, moved) == (events, events // 2)
        pages.sort()
        return {
            "events": kept,
            "per_second": kept / took,
            "page_median_ms": pages[len(pages) // 2] * 1_000,
            "page_longest_ms": pages[-1] * 1_000,
        }


if __name__ == "__main__":
    if sys.argv[1:] == ["profile"]:
        take_alone(50_000, profile=True)
    else:
        print(json.dumps({"alone": take_alone(100_000), "http": take_over_http(100_000)}, indent=1))
