"""The webhook over real HTTP, from the signed post to the row; and what is read from SendGrid without being told."""

import base64
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import select
from sqlmodel import col

from newsletter import newsroom as newsrooms
from newsletter import outcomes, store
from newsletter.checkup import examine
from newsletter.errors import ConfigurationError, ProviderRefused
from newsletter.models import Delivery, EditionRecord, Fate
from newsletter.names import Names
from newsletter.newsroom import Newsroom
from newsletter.settings import Settings
from newsletter.web import hooks
from subscribers import Reason, Subscriber, reading
from tests import databases
from tests.conftest import Desk
from tests.mail_api_server import Act, MailApi, answer
from tests.site_server import SECRETS, Answer, Site
from tests.test_outcomes import suppressed

OLD, NEW = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
KEYS = {"SENDGRID_API_KEY": "SG.test", **SECRETS}


def public(key: ec.EllipticCurvePrivateKey) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return base64.b64encode(key.public_key().public_bytes(serialization.Encoding.DER, form)).decode()


def signed(body: bytes, at: datetime, key: ec.EllipticCurvePrivateKey = OLD) -> dict[str, str]:
    stamp = str(int(at.timestamp()))
    signature = key.sign(stamp.encode() + body, ec.ECDSA(hashes.SHA256()))
    return {
        "X-Twilio-Email-Event-Webhook-Signature": base64.b64encode(signature).decode(),
        "X-Twilio-Email-Event-Webhook-Timestamp": stamp,
    }


@pytest.fixture
def api() -> Iterator[MailApi]:
    with MailApi() as made:
        yield made


@pytest.fixture
def site(desk: Desk, api: MailApi) -> Iterator[Site]:
    """A desk whose edition went out to three readers by SendGrid, and its pages."""
    newsroom = desk.open()
    with reading(newsroom.engine) as session:
        instance = store.instance(session).instance_id
    keys = json.dumps([public(OLD), public(NEW)])
    table = f'[provider]\nkind = "sendgrid"\nhost = "{api.url}"\nwebhook_keys = {keys}\n'
    claim = f'instance = "{instance}"\n'

    def configured(text: str) -> str:
        text = text.replace('[provider]\nkind = "outbox"\nbatch_size = 10\n', table)
        return (
            text.replace("[database]\n", f"[database]\n{claim}")
            if "[database]" in text
            else f"{text}[database]\n{claim}"
        )

    desk.file.write_text(configured(desk.file.read_text()))
    desk.brief("harbour")
    with Newsroom.open(Settings.load(desk.file, KEYS), desk.clock) as opened:
        desk.people(opened, 3)
        opened.send("daily", consent=True)
    with Site(desk, environ=KEYS) as made:
        yield made


def names(newsroom: Newsroom) -> list[str]:
    with reading(newsroom.engine) as session:
        record = session.execute(select(EditionRecord)).scalars().one()
        people = session.execute(select(col(Subscriber.id)).order_by(col(Subscriber.id))).scalars().all()
        return [*Names(store.instance(session).instance_id).of(record.tag, [one for one in people if one])]


def event(site: Site, reader: int, kind: str, number: int = 0, **told: Any) -> dict[str, Any]:
    return {
        "email": f"reader{reader}@example.org",
        "timestamp": int(site.desk.clock().timestamp()),
        "event": kind,
        "sg_event_id": f"{kind}-{reader}-{number}",
        "delivery_id": names(site.newsroom)[reader],
        **told,
    }


def post(site: Site, *events: Any, key: ec.EllipticCurvePrivateKey = OLD, path: str = "/hooks/sendgrid") -> Answer:
    body = json.dumps(events).encode()
    headers = {name.replace("-", "_"): value for name, value in signed(body, site.desk.clock(), key).items()}
    return site.ask(path, "POST", body, **headers)


def fates(site: Site) -> list[Fate | None]:
    with reading(site.newsroom.engine) as session:
        return list(session.execute(select(col(Delivery.fate)).order_by(col(Delivery.subscriber_id))).scalars())


def counts(site: Site) -> dict[tuple[str, str], int]:
    return site.newsroom.event_counts()


# ------------------------------------------------------------------------------------------ the post


def test_a_signed_post_moves_fates_and_suppresses(site: Site) -> None:
    told = post(site, event(site, 0, "delivered"), event(site, 1, "bounce", type="bounce"), event(site, 2, "deferred"))
    assert (told.status, told.text) == (204, "")
    assert fates(site) == [Fate.DELIVERED, Fate.BOUNCED, Fate.DELAYED]
    assert suppressed(site.newsroom) == {"reader1@example.org": Reason.HARD_BOUNCE}
    assert post(site, event(site, 1, "bounce", type="bounce")).status == 204
    assert sum(counts(site).values()) == 3, "a repeat is answered well, and changes nothing"


@pytest.mark.parametrize(
    ("reason", "reasons"),
    [
        ("Bounced Address", [Reason.HARD_BOUNCE]),
        ("Spam Reporting Address", [Reason.COMPLAINT]),
        ("Invalid", [Reason.HARD_BOUNCE]),
        ("Unsubscribed Address", []),
        ("Recipient List over Package Quota", []),
        ("Spam Content", []),
    ],
)
def test_why_sendgrid_dropped_a_copy_says_what_stands_against_the_person(
    site: Site, reason: str, reasons: list[Reason]
) -> None:
    post(site, event(site, 0, "dropped", reason=reason))
    assert fates(site)[0] is Fate.DROPPED
    assert [*suppressed(site.newsroom).values()] == reasons


def test_either_key_may_sign_while_keys_are_changed(site: Site) -> None:
    assert post(site, event(site, 0, "processed"), key=OLD).status == 204
    assert post(site, event(site, 1, "processed"), key=NEW).status == 204
    assert post(site, event(site, 2, "processed"), key=ec.generate_private_key(ec.SECP256R1())).status == 403
    assert fates(site) == [Fate.PROCESSED, Fate.PROCESSED, None]


def test_what_is_not_signed_or_not_fresh_or_not_read_stores_nothing(site: Site) -> None:
    body = json.dumps([event(site, 0, "bounce")]).encode()
    good = {name.replace("-", "_"): value for name, value in signed(body, site.desk.clock()).items()}
    broken = {name.replace("-", "_"): value for name, value in signed(b"{", site.desk.clock()).items()}
    old = signed(body, site.desk.clock() - timedelta(hours=26))
    ahead = signed(body, site.desk.clock() + timedelta(hours=2))
    stale = [{name.replace("-", "_"): value for name, value in one.items()} for one in (old, ahead)]
    answers = [
        site.ask("/hooks/sendgrid", "POST", body),
        site.ask("/hooks/sendgrid", "POST", body + b" ", **good),
        *(site.ask("/hooks/sendgrid", "POST", body, **one) for one in stale),
        site.ask("/hooks/sendgrid", "POST", b"{", **broken),
        site.ask("/hooks/smtp", "POST", body, **good),
        site.ask("/hooks/sendgrid", "GET"),
    ]
    assert [one.status for one in answers] == [403, 403, 403, 403, 400, 404, 405]
    assert all("reader" not in one.text for one in answers)
    assert (counts(site), fates(site)) == ({}, [None] * 3)
    day_old = {name.replace("-", "_"): v for name, v in signed(body, site.desk.clock() - timedelta(hours=24)).items()}
    assert site.ask("/hooks/sendgrid", "POST", body, **day_old).status == 204, "SendGrid tries for 24 hours"


def test_a_provider_whose_posts_are_not_signed_has_no_hook(desk: Desk) -> None:
    smtp = 'kind = "smtp"\nhost = "mail.example.org"\n'
    desk.configure(lambda text: text.replace('kind = "outbox"\nbatch_size = 10\n', smtp))
    with Site(desk) as made:
        for name in ("smtp", "sendgrid", "outbox"):
            assert made.ask(f"/hooks/{name}", "POST", b"To: b+0123@bounce.example.org\n\nx").status == 404
        assert counts(made) == {}


def test_a_body_that_is_said_to_be_too_large_is_not_read(site: Site) -> None:
    with closing(socket.create_connection(("127.0.0.1", site.port), timeout=20)) as connection:
        length = f"Content-Length: {hooks.LARGEST_BYTES + 1}"
        connection.sendall(f"POST /hooks/sendgrid HTTP/1.1\r\nHost: x\r\n{length}\r\n\r\n".encode())
        assert b" 413 " in connection.recv(65_536).split(b"\r\n")[0]


def test_a_body_without_an_end_is_cut_off_where_it_is_too_large(site: Site) -> None:
    """Nothing says how long it is, so that it is counted as it comes."""
    with closing(socket.create_connection(("127.0.0.1", site.port), timeout=20)) as connection:
        connection.sendall(b"POST /hooks/sendgrid HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = b"%x\r\n%s\r\n" % (1_000_000, b"x" * 1_000_000)
        with suppress(OSError):  # it answers, and hangs up
            for _ in range(8):
                connection.sendall(piece)
        assert b" 413 " in connection.recv(65_536).split(b"\r\n")[0]
    assert counts(site) == {}


def test_more_posts_than_are_held_at_once_are_told_to_come_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "_AT_ONCE", 1)
    held, go_on = threading.Event(), threading.Event()
    take = Newsroom.take

    def slow(self: Newsroom, events: Any) -> Any:
        held.set()
        assert go_on.wait(20)
        return take(self, events)

    monkeypatch.setattr(Newsroom, "take", slow)
    told: list[Answer] = []
    first = threading.Thread(target=lambda: told.append(post(site, event(site, 0, "delivered"))))
    first.start()
    assert held.wait(20)
    second = post(site, event(site, 1, "delivered"))
    assert site.ask("/join/daily").status == 200, "pages are served meanwhile"
    go_on.set()
    first.join()
    assert (told[0].status, second.status, second.headers["retry-after"]) == (204, 503, "10")
    assert post(site, event(site, 1, "delivered")).status == 204
    assert fates(site)[:2] == [Fate.DELIVERED] * 2


def test_no_answer_is_good_before_the_commit(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_late(*_: Any) -> Any:
        raise RuntimeError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(outcomes, "suppress_all", break_late)
        assert post(site, event(site, 0, "delivered"), event(site, 1, "bounce")).status == 500
        assert (counts(site), fates(site)) == ({}, [None] * 3), "nothing of it is kept"
    assert post(site, event(site, 0, "delivered"), event(site, 1, "bounce")).status == 204
    assert fates(site) == [Fate.DELIVERED, Fate.BOUNCED, None]


@pytest.mark.skipif(databases.Chosen.kind != databases.SQLITE, reason="the lock that is held is SQLite's")
def test_killed_between_the_post_and_the_commit_nothing_is_stored_and_nothing_answered(site: Site) -> None:
    command = [sys.executable, "-m", "newsletter", "serve", "--port", "0", "--config", str(site.desk.file)]
    environ = {**os.environ, **KEYS}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environ, text=True
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2])
        body = json.dumps([event(site, 1, "bounce")]).encode()
        now = datetime.fromtimestamp(time.time(), site.desk.clock().tzinfo)
        head = "".join(f"{name}: {value}\r\n" for name, value in signed(body, now).items())
        request = (
            f"POST /hooks/sendgrid HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode() + body
        )
        with closing(sqlite3.connect(site.desk.folder / "newsletter.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")  # so that it waits with all of the work before it
            with closing(socket.create_connection(("127.0.0.1", port), timeout=20)) as connection:
                connection.sendall(request)
                connection.settimeout(0.5)
                with pytest.raises(TimeoutError):
                    connection.recv(1)
                os.kill(process.pid, signal.SIGKILL)
                process.wait(20)
                connection.settimeout(20)
                with suppress(ConnectionError):
                    assert connection.recv(1) == b""
            other.execute("ROLLBACK")
    assert (counts(site), fates(site)) == ({}, [None] * 3)


def test_nothing_personal_is_logged(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    post(site, event(site, 0, "bounce", reason="550 <reader0@example.org> unknown"))
    site.ask("/hooks/sendgrid", "POST", b'[{"email":"reader0@example.org"}]')
    assert "web.hook.taken: sendgrid: 1 events, 1 new, 1 suppressed" in caplog.text
    assert "web.hook.rejected" in caplog.text
    assert "reader0" not in caplog.text


# ------------------------------------------------------------------------------------------ SendGrid's own lists


def entry(site: Site, address: str, *, minutes_ago: int = 0, **more: Any) -> dict[str, Any]:
    created = site.desk.clock() - timedelta(minutes=minutes_ago)
    return {"created": int(created.timestamp()), "email": address, **more}


def test_what_the_webhook_missed_is_read_from_sendgrids_lists(site: Site, api: MailApi) -> None:
    site.desk.clock.forward(timedelta(hours=3))
    api.lists = {
        "bounces": [entry(site, "reader0@example.org", reason="550 no such user", status="5.1.1")],
        "spam_reports": [entry(site, "reader1@example.org", ip="192.0.2.1")],
        "unsubscribes": [entry(site, "reader2@example.org"), entry(site, "stranger@example.org")],
    }
    told = site.newsroom.sync_events()
    assert (told.told, told.new, told.suppressed, told.left) == (4, 4, 2, 1)
    assert suppressed(site.newsroom) == {
        "reader0@example.org": Reason.HARD_BOUNCE,
        "reader1@example.org": Reason.COMPLAINT,
    }
    assert fates(site)[0] is Fate.BOUNCED
    assert site.newsroom.sync_events().new == 0
    asked = [request.path for request in api.requests if "/suppression/" in request.path]
    assert [path.partition("?")[0] for path in asked[:5]] == [
        f"/v3/suppression/{name}" for name in ("bounces", "blocks", "invalid_emails", "spam_reports", "unsubscribes")
    ]
    since = int((site.desk.clock() - timedelta(hours=1)).timestamp())
    assert "start_time" not in asked[0]
    assert f"start_time={since}" in asked[5], "an hour is read twice"


def test_the_command_reads_the_lists_and_says_what_came_of_it(site: Site, api: MailApi) -> None:
    api.lists["bounces"] = [entry(site, "reader0@example.org", minutes_ago=5)]
    command = [sys.executable, "-m", "newsletter", "provider", "sync", "--config", str(site.desk.file)]
    for more, said in (([], "1 events, 1 of them new\nsuppressed: 1\n"), (["--json"], '"new": 0')):
        done = subprocess.run([*command, *more], capture_output=True, text=True, check=True, env={**os.environ, **KEYS})
        assert said in done.stdout
    api.script = [Act(answer(401))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **KEYS})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("newsletter: sendgrid refuses: its list of bounces cannot be read")


def test_lists_are_read_page_by_page_and_in_slices(site: Site, api: MailApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newsrooms, "_SYNC_AT_ONCE", 400)
    api.lists["bounces"] = [entry(site, f"stranger{n}@example.org") for n in range(1_100)]
    api.lists["bounces"].append(entry(site, "reader2@example.org"))
    told = site.newsroom.sync_events()
    assert (told.new, told.suppressed) == (1_101, 1)
    offsets = [
        request.path.partition("offset=")[2].partition("&")[0]
        for request in api.requests
        if "/bounces?" in request.path
    ]
    assert offsets == ["0", "500", "1000"]


def test_a_reading_that_was_cut_off_begins_at_the_same_place(site: Site, api: MailApi) -> None:
    api.lists["bounces"] = [entry(site, "reader0@example.org")]
    with reading(site.newsroom.engine) as session:
        assert outcomes.synced(session, "sendgrid") is None
    sent = len(api.requests)
    api.script = [Act(answer(200, json.dumps(api.lists["bounces"]).encode())), Act(answer(403))]
    with pytest.raises(ProviderRefused, match="its list of blocks cannot be read"):
        site.newsroom.sync_events()
    assert site.newsroom.sync_events().told == 1
    assert "start_time" not in api.requests[sent + 2].path


def test_an_entry_that_cannot_be_read_costs_no_other(site: Site, api: MailApi) -> None:
    entries = [7, None, {}, {"created": "never", "email": "x"}, {"created": 5, "email": ["x"]}]
    api.script = [Act(answer(200, json.dumps([*entries, entry(site, "reader0@example.org")]).encode()))]
    assert site.newsroom.sync_events().suppressed == 1


def test_a_provider_without_lists_says_so(desk: Desk) -> None:
    with pytest.raises(ConfigurationError, match="the provider outbox keeps no lists"):
        desk.open().sync_events()


# ------------------------------------------------------------------------------------------ doctor

GOOD = {
    "enabled": True,
    "url": "https://news.example.org/hooks/sendgrid",
    "public_key": public(OLD),
    "processed": True,
    "deferred": True,
    "delivered": True,
    "bounce": True,
    "dropped": True,
    "spam_report": True,
    "unsubscribe": True,
    "open": False,
}


@pytest.mark.parametrize(
    ("webhooks", "ok", "said"),
    [
        ([GOOD], True, "is signed and tells what is needed"),
        ([{**GOOD, "url": "https://elsewhere.example.org/"}], None, "none of its 1 webhooks posts to https://news"),
        ([], None, "none of its 0 webhooks"),
        ([{**GOOD, "enabled": False}], False, "is switched off"),
        ([{**GOOD, "public_key": ""}], False, "is not signed"),
        (
            [{**GOOD, "public_key": public(ec.generate_private_key(ec.SECP256R1()))}],
            False,
            "not in provider.webhook_keys",
        ),
        ([{**GOOD, "processed": False, "dropped": False}], False, "does not tell of: Processed, Dropped"),
    ],
)
def test_doctor_looks_whether_the_webhook_is_set_up(
    site: Site, api: MailApi, webhooks: list[dict[str, Any]], ok: bool | None, said: str
) -> None:
    api.webhooks = webhooks
    findings = [(one.ok, one.what) for one in examine(site.newsroom) if "webhook" in one.what]
    assert [(found, said in what) for found, what in findings] == [(ok, True)], findings


def test_a_key_that_may_not_look_is_advice_and_no_failure(site: Site, api: MailApi) -> None:
    api.script = [Act(answer(200, {"scopes": ["mail.send"]})), Act(answer(403))]
    (found,) = [one for one in examine(site.newsroom) if "webhook" in one.what]
    assert found.ok is None
    assert "user.webhooks.event.settings.read" in found.what
