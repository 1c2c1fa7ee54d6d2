"""Our requests against SendGrid's published OpenAPI description, judged by somebody else's program (Prism).

Runs where SENDGRID_OPENAPI names the description (tsg_mail_v3.yaml of github.com/twilio/sendgrid-oai) and npx is there.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from newsletter.edition import AttemptId, DeliveryId, Message, Recipient, Result, Sender, spelling
from newsletter.providers.personalizations import build
from newsletter.providers.sendgrid import SendGridProvider

DESCRIPTION = os.environ.get("SENDGRID_OPENAPI", "")
PATIENCE = 120  # seconds: the first time, npx downloads Prism

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not DESCRIPTION or shutil.which("npx") is None,
        reason="needs npx, and SENDGRID_OPENAPI to name SendGrid's OpenAPI description",
    ),
]

SENDER = Sender(
    "daily",
    "The Daily; Desk, Berlin",
    "daily@news.example.org",
    "The Desk <desk@news.example.org>",
    "Täglich",
    "daily.news.example.org",
    "https://news.example.org",
)
MESSAGE = Message(
    SENDER,
    "Sieben Brücken: “today”",
    f"<p>{spelling('d4f0a1', 'name', html=True)}, <a href='{spelling('d4f0a1', 'leave_url', html=True)}'>leave</a>",
    f"Dear {spelling('d4f0a1', 'name', html=False)}: {spelling('d4f0a1', 'leave_url', html=False)}\n" + "x" * 20_000,
    "d4f0a1",
    "2026-11-23T07:00",
)
NAMES = [None, "Ada", "李雷; 韓梅梅", 'O’Brien, "Pat"', "<b>&amp;</b>", "\\u0000", "👩‍👩‍👧", ";", "x" * 300]


def people(count: int) -> list[Recipient]:
    return [
        Recipient(DeliveryId(f"{n:024x}"), f"reader{n}@example.org", NAMES[n % len(NAMES)], f"{n:022d}")
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def prism(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Prism's address, once it listens."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    log = tmp_path_factory.mktemp("prism") / "log"
    command = ["npx", "--yes", "@stoplight/prism-cli", "mock", "-h", "127.0.0.1", "-p", str(port)]
    command.append(str(Path(DESCRIPTION).resolve()))
    with log.open("wb") as file:
        # A session of its own, so that npx's children end with it.
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        ends = time.monotonic() + PATIENCE
        while b"is listening" not in log.read_bytes():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < ends, log.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(10)


def why(prism: str, message: Message, recipients: list[Recipient], *, sandbox: bool) -> str:
    """What Prism has against a request, in its own words."""
    body = build(message, recipients, AttemptId("a1"), sandbox=sandbox).body
    headers = {"Authorization": "Bearer SG.test", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{prism}/v3/mail/send", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(answer.headers.get("sl-violations"))
    except urllib.error.HTTPError as error:
        with error:
            return f"{error.code}: {error.headers.get('sl-violations')} {error.read()[:2_000]!r}"


@pytest.mark.parametrize("sandbox", [False, True], ids=["live", "sandbox"])
@pytest.mark.parametrize("count", [1, 1_000])
@pytest.mark.parametrize(
    "message",
    [
        MESSAGE,
        replace(MESSAGE, slot=None),
        replace(MESSAGE, sender=replace(SENDER, reply_to=None, list_name="", from_name="Desk")),
    ],
    ids=["all", "without a slot", "without a reply-to"],
)
def test_a_request_is_what_sendgrid_describes(prism: str, message: Message, count: int, *, sandbox: bool) -> None:
    provider = SendGridProvider("SG.test", host=prism, sandbox=sandbox)
    recipients = people(count)
    try:
        receipts = list(provider.submit(message, recipients, AttemptId("a1"), lambda: None))
    except Exception:
        print(why(prism, message, recipients, sandbox=sandbox))  # noqa: T201 # Prism's reasons, beside the failure
        raise
    assert [receipt.result for receipt in receipts] == [Result.ACCEPTED] * count
    assert why(prism, message, recipients, sandbox=sandbox) == "None"


def test_prism_does_judge(prism: str) -> None:
    """Or all of the above would say nothing."""
    body = build(MESSAGE, people(1), AttemptId("a1")).body
    for before, after in ((b'"email"', b'"mail"'), (b'"type":"text/html"', b'"type":""'), (b'"daily"', b"1")):
        request = urllib.request.Request(
            f"{prism}/v3/mail/send",
            body.replace(before, after, 1),
            {"Authorization": "Bearer SG.test", "Content-Type": "application/json"},
        )
        with pytest.raises(urllib.error.HTTPError) as caught, urllib.request.urlopen(request, timeout=30):
            pass
        with caught.value:
            assert caught.value.code == 400
