"""Mails to the bounce mailbox: which of them tell something, what, and about whom."""

import base64
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from newsletter.edition import DeliveryId, Event, EventKind
from newsletter.errors import WebhookRejected
from newsletter.providers.bounces import read, return_path

NOW = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
ID = "0123456789abcdef01234567"
DOMAIN = "bounce.example.org"


def report(  # noqa: PLR0917 # what a report holds
    status: str = "5.1.1",
    action: str = "failed",
    diagnostic: str = "smtp; 550 5.1.1 <ada@example.net>: User unknown",
    to: str = f"b+{ID}@{DOMAIN}",
    whom: str = "rfc822; ada@example.net",
    original: str = f"Message-ID: <{ID}@news.example.org>",
) -> bytes:
    """A delivery report as Postfix writes it."""
    return f"""\
Return-Path: <>
Delivered-To: desk@bounce.example.org
Received: by mx.example.net (Postfix)
\tid 5A3B01; Mon, 23 Nov 2026 07:01:02 +0000 (UTC)
Date: Mon, 23 Nov 2026 07:01:02 +0000 (UTC)
From: MAILER-DAEMON@mx.example.net (Mail Delivery System)
Subject: Undelivered Mail Returned to Sender
To: {to}
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status;
\tboundary="5A3B01.1795417262/mx.example.net"
Message-Id: <20261123070102.5A3B01@mx.example.net>

This is a MIME-encapsulated message.

--5A3B01.1795417262/mx.example.net
Content-Description: Notification
Content-Type: text/plain; charset=us-ascii

This is the mail system at host mx.example.net.

--5A3B01.1795417262/mx.example.net
Content-Description: Delivery report
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.example.net
Arrival-Date: Mon, 23 Nov 2026 07:01:01 +0000 (UTC)

Final-Recipient: {whom}
Action: {action}
Status: {status}
Diagnostic-Code: {diagnostic}

--5A3B01.1795417262/mx.example.net
Content-Description: Undelivered Message Headers
Content-Type: text/rfc822-headers

From: The Daily <daily@news.example.org>
{original}

--5A3B01.1795417262/mx.example.net--
""".replace("\n", "\r\n").encode()


QMAIL = f"""\
Return-Path: <>
Delivered-To: b+{ID}@{DOMAIN}
Date: 23 Nov 2026 07:00:00 -0000
From: MAILER-DAEMON@mx.example.net
Subject: failure notice

Hi. This is the qmail-send program at mx.example.net.
I'm afraid I wasn't able to deliver your message to the following addresses.
This is a permanent error; I've given up. Sorry it didn't work out.

<ada@example.net>:
Sorry, no mailbox here by that name. (#5.1.1)

--- Below this line is a copy of the message.

Message-ID: <{ID}@news.example.org>
""".encode()

COMPLAINT = f"""\
From: <abuse@example.net>
Date: Mon, 23 Nov 2026 07:05:00 +0000
Subject: FW: Today in the news
To: <fbl@bounce.example.org>
MIME-Version: 1.0
Content-Type: multipart/report; report-type=feedback-report; boundary="part1_13d.2e68ed54_boundary"

--part1_13d.2e68ed54_boundary
Content-Type: text/plain; charset="US-ASCII"

This is an email abuse report.

--part1_13d.2e68ed54_boundary
Content-Type: message/feedback-report

Feedback-Type: abuse
User-Agent: SomeGenerator/1.0
Version: 1

--part1_13d.2e68ed54_boundary
Content-Type: message/rfc822

From: The Daily <daily@news.example.org>
Return-Path: <{return_path(DeliveryId(ID), DOMAIN)}>
Message-ID: <{ID}@news.example.org>

Text.
--part1_13d.2e68ed54_boundary--
""".encode()


def one(mail: bytes, domain: str | None = DOMAIN) -> Event:
    (event,) = read(mail, domain, NOW)
    return event


@pytest.mark.parametrize(
    ("status", "action", "diagnostic", "kind"),
    [
        ("5.1.1", "failed", "smtp; 550 no such user", EventKind.BOUNCED),
        ("5.1.2", "failed", "dns; no such domain", EventKind.BOUNCED),
        ("5.1.10", "failed", "smtp; 556 null MX", EventKind.BOUNCED),
        ("5.2.1", "failed", "smtp; 550 mailbox disabled", EventKind.BOUNCED),
        ("5.0.0", "failed", "smtp; 550 5.1.1 unknown", EventKind.BOUNCED),
        ("5.0.0", "failed", "smtp; 550 User unknown", EventKind.BOUNCED),
        ("5.0.0", "failed", "smtp; 550 The mailbox ada was not found here", EventKind.BOUNCED),
        ("5.0.0", "failed", "smtp; 550 we do not like you", EventKind.BLOCKED),
        ("5.1.8", "failed", "smtp; 550 bad sender's address", EventKind.BLOCKED),
        ("5.2.2", "failed", "smtp; 552 mailbox full", EventKind.BLOCKED),
        ("5.7.1", "failed", "smtp; 550 5.7.1 policy; user unknown to our allow list", EventKind.BLOCKED),
        ("4.4.1", "failed", "smtp; given up", EventKind.BLOCKED),
        ("4.2.1", "failed", "smtp; 450 4.2.1 given up", EventKind.BLOCKED),
        ("4.4.1", "delayed", "smtp; no answer", EventKind.DELAYED),
        ("2.0.0", "delivered", "smtp; 250 ok", EventKind.DELIVERED),
        ("2.0.0", "relayed", "smtp; 250 ok", EventKind.PROCESSED),
        ("5.0.0", "vanished", "smtp; ?", EventKind.UNKNOWN),
    ],
)
def test_a_delivery_report_is_told_by_its_action_and_status(
    status: str, action: str, diagnostic: str, kind: EventKind
) -> None:
    event = one(report(status, action, diagnostic))
    assert (event.kind, event.delivery, event.address) == (kind, ID, None)
    assert event.said == f"{action} {status}"
    assert event.at == datetime(2026, 11, 23, 7, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "diagnostic", "of_sender"),
    [
        ("5.7.1", "smtp; 550 5.7.1 policy", True),
        ("5.0.0", "smtp; 550 5.7.26 not authenticated", True),
        ("5.1.8", "smtp; 550 bad sender's address", True),
        ("4.7.0", "smtp; 421 4.7.0 too many", True),
        ("5.2.2", "smtp; 552 5.7.1 mailbox full", False),
        ("5.0.0", "smtp; 550 we do not like you", False),
        ("5.1.1", "smtp; 550 5.7.1 no such user", False),
    ],
)
def test_a_report_of_a_block_tells_whether_it_is_about_the_sender(
    status: str, diagnostic: str, of_sender: bool
) -> None:
    assert one(report(status, "failed", diagnostic)).of_sender is of_sender


def test_the_address_that_it_came_to_says_whom_it_is_about() -> None:
    assert one(report(original="X: y")).delivery == ID
    assert one(report(to=f"B+{ID.upper()}@BOUNCE.example.ORG", original="X: y")).delivery == ID


@pytest.mark.parametrize("header", ["X-Original-To", "Delivered-To", "Envelope-To"])
def test_a_mail_server_may_write_that_address_elsewhere(header: str) -> None:
    mail = f"{header}: b+{ID}@{DOMAIN}\r\n".encode() + report(to="undisclosed", original="X: y")
    assert one(mail).delivery == ID


def test_else_the_mail_that_it_sends_back_does() -> None:
    assert one(report(to="desk@example.org")).delivery == ID
    assert one(report(), domain=None).delivery == ID


def test_another_domains_address_is_none_of_ours() -> None:
    for to in (f"b+{ID}@evil.example", f"b+{ID}@{DOMAIN}.evil.example", f"b+{ID}@x{DOMAIN}"):
        assert one(report(to=to, original="X: y")).delivery is None


def test_without_a_delivery_the_reported_address_is_kept_to_find_them_by() -> None:
    event = one(report(to="desk@example.org", original="X: y"))
    assert (event.kind, event.delivery, event.address) == (EventKind.BOUNCED, None, "ada@example.net")


def test_the_reason_names_nobody() -> None:
    event = one(report())
    assert event.reason == "550 5.1.1 <[address]>: User unknown"


def test_the_same_report_twice_is_one_event_and_another_is_another() -> None:
    assert one(report()).id == one(report()).id
    # A second copy by another alias: other trace headers, the same report.
    assert one(b"Received: from elsewhere\r\n" + report()).id == one(report()).id
    assert len({one(mail).id for mail in (report(), report("4.4.1", "delayed"), QMAIL, COMPLAINT)}) == 4


def test_a_bounce_of_qmail_is_read() -> None:
    event = one(QMAIL)
    assert (event.kind, event.delivery) == (EventKind.BOUNCED, ID)
    assert event.reason == "Sorry, no mailbox here by that name. (#5.1.1)"
    assert one(QMAIL.replace(b"(#5.1.1)", b"(#5.7.1)")).kind is EventKind.BLOCKED


def test_a_complaint_is_read() -> None:
    event = one(COMPLAINT)
    assert (event.kind, event.delivery, event.said) == (EventKind.COMPLAINED, ID, "abuse")
    assert one(COMPLAINT, domain=None).delivery == ID
    assert one(COMPLAINT.replace(b"Type: abuse", b"Type: not-spam")).kind is EventKind.UNKNOWN


def test_encoded_parts_are_read() -> None:
    status = (
        b"Reporting-MTA: dns; mx\r\n\r\nFinal-Recipient: rfc822; a@b.example\r\nAction: failed\r\nStatus: 5.1.1\r\n"
    )
    mail = (
        f"To: b+{ID}@{DOMAIN}\r\nContent-Type: multipart/report; boundary=x\r\n\r\n--x\r\n"
        "Content-Type: message/delivery-status\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    ).encode()
    assert one(mail + base64.encodebytes(status) + b"\r\n--x--\r\n").kind is EventKind.BOUNCED


def test_an_answer_by_a_machine_is_kept_as_unknown() -> None:
    mail = f"To: b+{ID}@{DOMAIN}\nAuto-Submitted: auto-replied\nSubject: away\n\nUser unknown\n".encode()
    event = one(mail)
    assert (event.kind, event.delivery, event.said) == (EventKind.UNKNOWN, ID, "auto-reply")


def test_a_mail_that_is_about_nobody_is_no_event() -> None:
    assert read(b"To: desk@bounce.example.org\nSubject: buy now\n\nBuy!\n", DOMAIN, NOW) == []


def test_what_is_no_mail_is_rejected() -> None:
    for body in (b"", b"[]", b"\x00" * 100, b"\n\nTo: x\n", b'{"event": "bounce"}'):
        with pytest.raises(WebhookRejected):
            read(body, DOMAIN, NOW)


def test_a_date_that_cannot_be_is_now() -> None:
    for date in (b"Fri, 31 Dec 9999 23:59:59 -2359", b"Mon, 23 Nov 2026 09:00:00 +0000", b"1 Jan 1970", b"x" * 5_000):
        assert one(report().replace(b"Date: Mon, 23 Nov 2026 07:01:02 +0000 (UTC)", b"Date: " + date)).at == NOW


# ---------------------------------------------------------------------------------------------- hostile mails


def nested(depth: int) -> bytes:
    parts = "".join(f"--b{n}\nContent-Type: multipart/mixed; boundary=b{n + 1}\n\n" for n in range(depth))
    return f"To: b+{ID}@{DOMAIN}\nContent-Type: multipart/mixed; boundary=b0\n\n{parts}".encode()


@pytest.mark.parametrize(
    "mail",
    [
        nested(1_000),
        nested(20_000),
        report() + b"x" * 10_000_000,
        b"To: a@b\n" + b"Message-ID: <" * 800_000,
        b"To: " + b"b+" * 5_000_000,
        b"To: a@b\nContent-Type: multipart/report; boundary=" + b"-" * 200 + b"\n\n" + b"-" * 9_000_000,
        b"To: b\n" * 2_000_000,
        report(diagnostic="smtp; " + "mailbox " * 1_000_000),
        report(diagnostic="smtp; " + "a@" * 1_000_000),
        QMAIL.replace(b"<ada@", b"<a>:\n\n" * 100_000 + b"<ada@"),
        report(status="9" * 100_000),
        b"To: a@b\nContent-Type: multipart/report; boundary=x\n\n"
        + b"--x\nContent-Type: message/delivery-status\n\n" * 100_000,
    ],
)
def test_a_hostile_mail_costs_next_to_nothing(mail: bytes) -> None:
    begun = time.process_time()
    events = read(mail, DOMAIN, NOW)
    assert time.process_time() - begun < 2  # bounded; usual ones take a millisecond
    assert len(events) <= 20
    assert all(len(event.said) < 100 and len(event.reason or "") <= 300 for event in events)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_broken_mails_are_events_or_none_or_rejected(data: st.DataObject) -> None:
    mail = bytearray(data.draw(st.sampled_from([report(), QMAIL, COMPLAINT])))
    for _ in range(data.draw(st.integers(0, 8))):
        at = data.draw(st.integers(0, len(mail)))
        mail[at : at + data.draw(st.integers(0, 60))] = data.draw(st.binary(max_size=20))
    try:
        events = read(bytes(mail), DOMAIN, NOW)
    except WebhookRejected:
        return
    for event in events:
        assert event.delivery is None or event.address is None
        assert "ada@" not in (event.reason or "")
        assert event.said.isprintable()
