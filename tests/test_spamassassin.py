"""What the form of a mail costs in SpamAssassin, by its local rules. Left out where it is not installed."""

import shutil
import subprocess

import pytest

from newsletter.edition import DeliveryId, Message, Recipient
from newsletter.mime import Mould
from newsletter.models import NoticeKind
from newsletter.notices import message_of
from newsletter.settings import Settings
from tests.conftest import EXAMPLES, NOW, Desk

SPAMASSASSIN = shutil.which("spamassassin")
# A mail that no server has taken yet; HTML at all: neither is a fault, and neither costs points.
LINK = "https://news.example.org/confirm/eyJhIjoxfQ.Zn8-Pw9GfgHhHVIdJoXKGA"
FREE = {"NO_RECEIVED", "NO_RELAYS", "HTML_MESSAGE"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.sqlite(why="about the form of mails"),
    pytest.mark.skipif(SPAMASSASSIN is None, reason="SpamAssassin is not installed"),
]


def rules(mail: bytes) -> set[str]:
    """The rules that a mail meets, without network and learning."""
    assert SPAMASSASSIN is not None
    judged = subprocess.run([SPAMASSASSIN, "--local"], input=mail, capture_output=True, check=True, timeout=120)
    status = judged.stdout.partition(b"\nX-Spam-Status: ")[2].partition(b"\nX-")[0].decode()
    tests = "".join(status.partition("tests=")[2].partition("autolearn")[0].split())
    return set(tests.split(",")) - {"none", ""}


def copy_of(message: Message) -> bytes:
    recipient = Recipient(
        DeliveryId("00cd522acee8e41951800df1"),
        "reader@example.net",
        "Ada Reader",
        "Zn8-Pw9GfgHhHVIdJoXKGA",
        action=LINK,
    )
    return Mould(message).fill(recipient, NOW)


def test_a_digest_of_the_example_briefs_meets_no_rule_that_costs(desk: Desk) -> None:
    for file in (EXAMPLES / "briefs").iterdir():
        if file.suffix == ".txt":  # shown from Wikimedia, which costs a point and is no fault of the mail
            text = file.read_text(encoding="utf-8").replace("commons.wikimedia.org", "pictures.example.org")
            (desk.folder / "briefs" / file.name).write_text(text, encoding="utf-8")
    newsroom = desk.open()
    desk.people(newsroom, 1)
    newsroom.send("daily")
    (mail,) = desk.mails
    assert rules(mail.read_bytes()) <= FREE


@pytest.mark.parametrize("kind", [NoticeKind.CONFIRM, NoticeKind.LINK])
def test_a_notice_meets_no_rule_that_costs(desk: Desk, kind: NoticeKind) -> None:
    settings = Settings.load(desk.file, {"NEWSLETTER_SECRET": "s" * 32})
    assert rules(copy_of(message_of(settings, "daily", kind, "en", ("daily",), None))) <= FREE
