"""Whole editions over SMTP on a real socket: the ledger agrees with what the server took, and a bounce finds its way.

The provider by itself is tests/test_smtp.py's; here it is what the Newsroom and the command do with it.
"""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select

from newsletter import store
from newsletter.edition import EventKind
from newsletter.errors import WebhookRejected
from newsletter.models import EditionState, EventRecord
from newsletter.newsroom import Newsroom
from newsletter.outcomes import Taken
from newsletter.settings import Settings
from subscribers import reading
from tests.conftest import Desk
from tests.smtp_server import Do, Manner, Session, SmtpServer
from tests.test_bounces import report
from tests.test_over_sendgrid import send

PASSWORD = {"NEWSLETTER_SMTP_PASSWORD": "pw"}


@pytest.fixture
def server() -> Iterator[SmtpServer]:
    with SmtpServer(Manner(users={"desk": "pw"})) as made:
        yield made


def claimed(desk: Desk, server: SmtpServer) -> Newsroom:
    """A newsroom that sends through the server; its database is claimed as an operator would claim it."""
    outbox = desk.open()
    with reading(outbox.engine) as session:
        instance = store.instance(session).instance_id
    table = (
        f'[provider]\nkind = "smtp"\nhost = "127.0.0.1"\nport = {server.port}\nsecurity = "none"\nusername = "desk"\n'
        f'timeout = "5s"\nbounce_domain = "bounce.example.org"\n\n[database]\ninstance = "{instance}"\n'
    )
    desk.configure(lambda text: text.replace('[provider]\nkind = "outbox"\nbatch_size = 10\n', table))
    newsroom = Newsroom.open(Settings.load(desk.file, PASSWORD), desk.clock)
    desk._open.append(newsroom)
    desk.brief("harbour")
    return newsroom


def test_an_edition_goes_out_and_the_ledger_agrees(
    desk: Desk, server: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    newsroom = claimed(desk, server)
    desk.people(newsroom, 450)
    sent = send(newsroom, desk, monkeypatch)
    assert sent.tally is not None
    assert (sent.tally.accepted, sent.tally.holds, sent.record.state) == (450, True, EditionState.CLOSED)
    assert Counter(mail.to for mail in server.mails) == {f"reader{n}@example.org": 1 for n in range(450)}
    assert {mail.path for mail in server.mails} == {f"b+{one}@bounce.example.org" for one in server.deliveries}
    newsroom.send("daily")
    assert len(server.mails) == 450, "nobody gets it twice"


def test_where_relaying_is_denied_the_edition_pauses_and_nobody_is_marked(
    desk: Desk, server: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    newsroom = claimed(desk, server)
    desk.people(newsroom, 450)
    server.manner = Manner(users={"desk": "pw"}, says={"RCPT": b"550 5.7.1 Relay access denied\r\n"})
    sent = send(newsroom, desk, monkeypatch)
    assert sent.tally is not None
    assert (sent.record.state, sent.tally.refused, sent.tally.waiting) == (EditionState.PAUSED, 0, 450)
    assert "Relay access denied" in (sent.record.reason or "")
    server.manner = Manner(users={"desk": "pw"})
    sent = send(newsroom, desk, monkeypatch)
    assert sent.tally is not None
    assert (sent.record.state, sent.tally.accepted) == (EditionState.CLOSED, 450)


def test_where_everybody_is_refused_the_edition_pauses_before_it_has_marked_ten(
    desk: Desk, server: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    newsroom = claimed(desk, server)
    desk.people(newsroom, 450)
    server.manner = Manner(users={"desk": "pw"}, says={"RCPT": b"550 we do not like you\r\n"})
    sent = send(newsroom, desk, monkeypatch)
    assert sent.tally is not None
    assert sent.record.state is EditionState.PAUSED
    assert sent.tally.refused < 10
    assert sent.tally.holds


def test_a_cut_leaves_one_in_doubt_and_the_others_get_theirs(
    desk: Desk, server: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = 0

    def cut(session: Session, _: str) -> Any:
        nonlocal bodies
        bodies += 1
        return Do.CUT if bodies == 30 else Do.USUAL

    newsroom = claimed(desk, server)
    desk.people(newsroom, 100)
    server.manner = Manner(users={"desk": "pw"}, says={".": cut})
    sent = send(newsroom, desk, monkeypatch)
    assert sent.tally is not None
    assert (sent.tally.accepted, sent.tally.unknown, sent.tally.holds) == (99, 1, True)
    assert len(server.mails) == len(set(server.deliveries)) == 99


def test_a_bounce_behind_a_mail_alias_is_kept_with_its_delivery(
    desk: Desk, server: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    newsroom = claimed(desk, server)
    desk.people(newsroom, 2)
    send(newsroom, desk, monkeypatch)
    delivery = server.deliveries[0]
    mail = report(to=f"b+{delivery}@bounce.example.org", original="X: y")
    command = [sys.executable, "-m", "newsletter", "provider", "receive", "-", "--config", str(desk.file)]
    first = b"1 events, 1 of them new\nfates moved: 1, suppressed: 1\n"
    for said in (first, b"1 events, 0 of them new\n"):
        done = subprocess.run(command, input=mail, capture_output=True, check=True, env={**os.environ, **PASSWORD})
        assert done.stdout == said
    with reading(newsroom.engine) as session:
        (kept,) = session.execute(select(EventRecord)).scalars()
    assert (kept.kind, kept.provider) == (EventKind.BOUNCED, "smtp")
    assert kept.delivery == delivery
    assert newsroom.take_events({}, b"To: desk@bounce.example.org\n\nBuy!\n") == Taken()
    with pytest.raises(WebhookRejected):
        newsroom.take_events({}, b"[]")
