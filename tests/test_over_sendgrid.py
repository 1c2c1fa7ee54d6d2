"""Whole editions through SendGrid's API on a real socket: the ledger agrees with what the server took.

The provider by itself is tests/test_sendgrid.py's; here it is what the Newsroom and the command do with it.
"""

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import select
from sqlmodel import col

from newsletter import operating, store, tally
from newsletter.dispatch import Dispatcher
from newsletter.edition import DeliveryId, Recipient
from newsletter.errors import ConfigurationError, EditionError, WebhookRejected
from newsletter.models import Batch, EditionState, EventRecord, Outcome
from newsletter.newsroom import Newsroom, Sent
from newsletter.rehearsal import rehearse
from newsletter.settings import Settings
from subscribers import Reason, find, parse, reading, suppress, transaction
from tests.conftest import Desk
from tests.mail_api_server import Act, MailApi, answer, errors

KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC = base64.b64encode(
    KEY.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
).decode()


@pytest.fixture
def api() -> Iterator[MailApi]:
    with MailApi() as made:
        yield made


def claimed(desk: Desk, api: MailApi, *, claim: bool = True, more: str = "") -> Newsroom:
    """A newsroom that sends through the server; its database is claimed as an operator would claim it."""
    outbox = desk.open()
    with reading(outbox.engine) as session:
        instance = store.instance(session).instance_id
    table = f'[provider]\nkind = "sendgrid"\nhost = "{api.url}"\ntimeout = "3s"\nwebhook_keys = "{PUBLIC}"\n{more}'
    table += f'\n[database]\ninstance = "{instance}"\n' if claim else ""
    desk.configure(lambda text: text.replace('[provider]\nkind = "outbox"\nbatch_size = 10\n', table))
    newsroom = Newsroom.open(Settings.load(desk.file, {"SENDGRID_API_KEY": "SG.test"}), desk.clock)
    desk._open.append(newsroom)
    desk.brief("harbour")
    return newsroom


def send(newsroom: Newsroom, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Sent:
    """Send; waits move the clock and not the test."""
    run = Dispatcher.run

    def patiently(self: Dispatcher, edition_id: int) -> Any:
        def sleep(seconds: float) -> None:
            desk.clock.forward(timedelta(seconds=seconds))

        return run(replace(self, sleep=sleep, limits=replace(self.limits, calls=1)), edition_id)

    monkeypatch.setattr(Dispatcher, "run", patiently)
    return newsroom.send("daily")


def addressed(api: MailApi) -> list[str]:
    return [to["to"][0]["email"] for request in api.requests for to in request.json["personalizations"]]


def test_a_thousand_people_are_one_request_and_the_ledger_knows_its_name(
    desk: Desk, api: MailApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    newsroom = claimed(desk, api)
    desk.people(newsroom, 1_000)
    sent = send(newsroom, desk, monkeypatch)
    assert sent.tally is not None
    assert (sent.tally.accepted, sent.tally.holds, sent.record.state) == (1_000, True, EditionState.CLOSED)
    body = api.request.json
    assert body["categories"] == ["daily", "2026-11-23T07:00"]
    with reading(newsroom.engine) as session:
        batch = session.execute(select(Batch)).scalar_one()
    assert batch.provider_id
    assert {to["custom_args"]["attempt_id"] for to in body["personalizations"]} == {batch.attempt}
    one = body["personalizations"][7]
    assert one["headers"]["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert one["headers"]["List-Unsubscribe"].startswith("<https://news.example.org/u/")
    assert sorted(addressed(api)) == sorted(f"reader{n}@example.org" for n in range(1_000))
    again = newsroom.send("daily")
    assert again.tally is not None
    assert len(api.requests) == 1, "nobody gets it twice"


def test_more_than_a_thousand_are_as_many_requests_as_it_takes(desk: Desk, api: MailApi) -> None:
    newsroom = claimed(desk, api)
    desk.people(newsroom, 2_001)
    sent = newsroom.send("daily")
    assert (sent.record.state, sent.tally and sent.tally.accepted) == (EditionState.CLOSED, 2_001)
    assert sorted(len(request["personalizations"]) for request in (one.json for one in api.requests)) == [
        1,
        1_000,
        1_000,
    ]


def test_an_unclaimed_database_mails_nobody(desk: Desk, api: MailApi) -> None:
    newsroom = claimed(desk, api, claim=False)
    desk.people(newsroom, 3)
    reader = Recipient(DeliveryId("x"), "me@example.org", None, "t")
    for act in (
        lambda: newsroom.send("daily", consent=True),
        lambda: newsroom.test("daily", reader),
        lambda: rehearse(newsroom, "daily"),
    ):
        with pytest.raises(ConfigurationError, match="this database is not claimed"):
            act()
    assert api.requests == []


def test_one_named_bad_recipient_costs_only_their_copy(
    desk: Desk, api: MailApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.script = [Act(answer(400, errors(("Does not contain a valid address.", "personalizations.3.to.0.email"))))]
    newsroom = claimed(desk, api)
    desk.people(newsroom, 100)
    sent = send(newsroom, desk, monkeypatch)
    assert sent.tally is not None
    assert (sent.tally.accepted, sent.tally.refused, sent.tally.holds) == (99, 1, True)
    assert len(api.taken) == len(set(api.taken)) == 99
    assert [len(request.json["personalizations"]) for request in api.requests] == [100, 99]


def test_one_unnamed_bad_recipient_among_a_thousand_is_found(
    desk: Desk, api: MailApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge(body: Any) -> list[tuple[str, str | None]]:
        spoilt = any(to["to"][0]["email"] == "reader411@example.org" for to in body["personalizations"])
        return [("Bad Request", None)] if spoilt else []

    api.judge = judge
    newsroom = claimed(desk, api)
    desk.people(newsroom, 1_000)
    sent = send(newsroom, desk, monkeypatch)
    assert sent.tally is not None
    assert (sent.tally.accepted, sent.tally.refused, sent.tally.holds) == (999, 1, True)
    assert len(api.taken) == len(set(api.taken)) == 999
    assert sent.record.state is EditionState.CLOSED


def test_no_answer_is_unknown_listed_by_name_and_never_sent_again(
    desk: Desk, api: MailApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.script = [Act(answer(500))]
    newsroom = claimed(desk, api)
    desk.people(newsroom, 5)
    sent = send(newsroom, desk, monkeypatch)
    assert sent.tally is not None
    assert (sent.tally.accepted, sent.tally.unknown, sent.tally.holds) == (0, 5, True)
    with reading(newsroom.engine) as session:
        found = tally.troubles(session, sent.record, Outcome.UNKNOWN)
    sent_ids = {to["custom_args"]["delivery_id"] for to in api.request.json["personalizations"]}
    assert {one.delivery for one in found} == sent_ids, "they can be looked up at SendGrid"
    assert {one.attempt for one in found} == {api.request.json["personalizations"][0]["custom_args"]["attempt_id"]}
    assert all("500" in (one.reason or "") for one in found)
    newsroom.send("daily")
    assert len(api.requests) == 1


def test_a_revoked_key_pauses_and_everybody_waits(desk: Desk, api: MailApi, monkeypatch: pytest.MonkeyPatch) -> None:
    api.script = [Act(answer(401, errors(("The provided authorization grant is invalid", None))))]
    newsroom = claimed(desk, api)
    desk.people(newsroom, 5)
    sent = send(newsroom, desk, monkeypatch)
    assert sent.tally is not None
    assert (sent.record.state, sent.tally.waiting) == (EditionState.PAUSED, 5)
    assert "401" in (sent.record.reason or "")
    after = send(newsroom, desk, monkeypatch)
    assert after.tally is not None
    assert (after.record.state, after.tally.accepted) == (EditionState.CLOSED, 5)


def test_throttling_waits_and_loses_nobody(desk: Desk, api: MailApi, monkeypatch: pytest.MonkeyPatch) -> None:
    api.script = [Act(answer(429, Retry_After="90")), Act(answer(429, Retry_After="90"))]
    newsroom = claimed(desk, api)
    desk.people(newsroom, 5)
    before = desk.clock.now
    sent = send(newsroom, desk, monkeypatch)
    assert sent.tally is not None
    assert sent.tally.accepted == 5
    assert desk.clock.now - before >= timedelta(seconds=180)


# ------------------------------------------------------------------------------------------ the sandbox


def test_a_rehearsal_puts_everybody_to_the_sandbox_and_decides_nothing(desk: Desk, api: MailApi) -> None:
    newsroom = claimed(desk, api)
    desk.people(newsroom, 2_300)
    with transaction(newsroom.engine) as session:
        gone = find(session, parse("reader0@example.org"))
        assert gone is not None
        suppress(session, parse("reader0@example.org"), Reason.OPERATOR, now=desk.clock(), actor="test", note=None)
    made = rehearse(newsroom, "daily")
    assert (made.candidates, made.mailable, made.accepted, made.reasons, made.error) == (2_300, 2_299, 2_299, {}, None)
    assert [len(request.json["personalizations"]) for request in api.requests] == [1_000, 1_000, 299]
    assert all(request.json["mail_settings"] == {"sandbox_mode": {"enable": True}} for request in api.requests)
    assert "reader0@example.org" not in addressed(api)
    with reading(newsroom.engine) as session:
        assert store.editions(session, "daily", 10) == []


def test_a_rehearsal_says_who_would_be_refused_and_why(desk: Desk, api: MailApi) -> None:
    api.script = [
        Act(answer(400, errors(("Does not contain a valid address.", "personalizations.1.to.0.email")))),
    ]
    newsroom = claimed(desk, api)
    desk.people(newsroom, 20)
    made = rehearse(newsroom, "daily")
    assert (made.accepted, made.reasons) == (19, {"Does not contain a valid address.": 1})


def test_the_outbox_has_no_sandbox(desk: Desk) -> None:
    newsroom = desk.open()
    desk.brief("harbour")
    desk.people(newsroom, 1)
    with pytest.raises(ConfigurationError, match="the outbox has no sandbox"):
        rehearse(newsroom, "daily")


# ------------------------------------------------------------------------------------------ the webhook


def signed(body: bytes, timestamp: str = "1795420800") -> dict[str, str]:
    signature = KEY.sign(timestamp.encode() + body, ec.ECDSA(hashes.SHA256()))
    return {
        "X-Twilio-Email-Event-Webhook-Signature": base64.b64encode(signature).decode(),
        "X-Twilio-Email-Event-Webhook-Timestamp": timestamp,
    }


def event(number: int, kind: str = "delivered", **more: Any) -> dict[str, Any]:
    told = {"sg_event_id": f"event-number-{number:012d}", "event": kind, "timestamp": 1795420800}
    return {**told, "email": "reader@example.org", "delivery_id": "d" * 24, "attempt_id": "a" * 24, **more}


def test_events_are_kept_once_however_often_they_are_told(desk: Desk, api: MailApi) -> None:
    newsroom = claimed(desk, api)
    first = json.dumps([event(1), event(2, "bounce", reason="550 no such user <reader@example.org>")]).encode()
    again = json.dumps([event(2, "bounce"), event(3, "astonished"), event(3, "astonished")]).encode()
    posts = [newsroom.take_events(signed(body), body) for body in (first, first, again)]
    assert [(taken.told, taken.new) for taken in posts] == [(2, 2), (2, 0), (3, 1)]
    assert newsroom.event_counts() == {
        ("sendgrid", "bounced"): 1,
        ("sendgrid", "delivered"): 1,
        ("sendgrid", "unknown"): 1,
    }
    with reading(newsroom.engine) as session:
        rows = session.execute(select(EventRecord).order_by(col(EventRecord.id))).scalars().all()
    assert [row.said for row in rows] == ["delivered", "bounce", "astonished"]
    assert all(row.address is None for row in rows), "they can be found by their delivery"
    assert "reader@example.org" not in (rows[1].reason or "")


def test_a_forged_post_keeps_nothing(desk: Desk, api: MailApi) -> None:
    newsroom = claimed(desk, api)
    body = json.dumps([event(1)]).encode()
    with pytest.raises(WebhookRejected):
        newsroom.take_events(signed(body), body + b" ")
    assert newsroom.event_counts() == {}


# ------------------------------------------------------------------------------------------ the command


def command(desk: Desk, *arguments: str, data: bytes = b"") -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "newsletter", *arguments, "--config", str(desk.file)],
        input=data,
        capture_output=True,
        check=False,
        timeout=60,
        env={**os.environ, "SENDGRID_API_KEY": "SG.test", "NEWSLETTER_SECRET": ""},
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def test_the_command_rehearses_proves_and_keeps_events(desk: Desk, api: MailApi, tmp_path: Path) -> None:
    newsroom = claimed(desk, api)
    desk.people(newsroom, 3)
    done = command(desk, "send", "daily", "--sandbox")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Sandbox    3 would be accepted; nobody was mailed, and nothing decided" in done.stdout
    done = command(desk, "send", "daily", "--test", "Me <me@example.org>")
    assert (done.returncode, done.stderr) == (0, "")
    assert addressed(api)[-1] == "me@example.org"
    assert api.requests[-1].json["subject"].startswith("[Proof]")
    assert "/u/proof/" in api.requests[-1].json["personalizations"][0]["headers"]["List-Unsubscribe"]
    body = json.dumps([event(1), event(2)]).encode()
    now = str(int(time.time()))  # the command's own clock
    headers = [part for name, value in signed(body, now).items() for part in ("--header", f"{name}: {value}")]
    done = command(desk, "provider", "receive", "-", *headers, data=body)
    assert (done.returncode, done.stdout, done.stderr) == (0, "2 events, 2 of them new\n", "")
    done = command(desk, "provider", "receive", "-", *headers, data=body[:-1])
    assert done.returncode == 2
    assert done.stderr.startswith("newsletter: webhook of sendgrid rejected")
    assert command(desk, "provider", "events").stdout == "sendgrid  delivered   2\n"


def test_the_command_says_what_it_waits_for_and_exits_with_one_where_nobody_was_accepted(
    desk: Desk, api: MailApi
) -> None:
    api.script = [
        Act(answer(429, Retry_After="1")),
        Act(answer(400, errors(("Does not contain a valid address.", "personalizations.0.to.0.email")))),
    ]
    newsroom = claimed(desk, api)
    desk.people(newsroom, 1)
    done = command(desk, "send", "daily", "--slot", "2026-11-23T07:00", "--yes")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0].startswith("newsletter: sendgrid asks to wait 1 s; next try at")
    assert lines[1].startswith("newsletter: REFUSED 1 were refused and nobody was accepted")
    shown = command(desk, "editions", "show", "daily").stdout
    assert "refused: reader0@example.org: Does not contain a valid address." in shown


def test_unknown_people_exit_with_one_and_can_be_looked_up(desk: Desk, api: MailApi) -> None:
    api.script = [Act(answer(500))]
    newsroom = claimed(desk, api)
    desk.people(newsroom, 2)
    done = command(desk, "send", "daily", "--slot", "2026-11-23T07:00", "--yes")
    assert done.returncode == 1
    assert "newsletter: UNKNOWN 2 may or may not have got it" in done.stderr
    again = command(desk, "send", "daily", "--slot", "2026-11-23T07:00")
    assert (again.returncode, len(api.requests)) == (1, 1)
    assert "this edition went out" not in again.stdout
    account = json.loads(command(desk, "editions", "show", "daily", "--json").stdout)
    asked = api.request.json["personalizations"]
    assert [one["delivery_id"] for one in account["unknown"]] == [to["custom_args"]["delivery_id"] for to in asked]
    assert account["unknown"][0]["attempt_id"] == asked[0]["custom_args"]["attempt_id"]
    assert "500" in account["unknown"][0]["reason"]


def test_a_rehearsal_that_would_refuse_somebody_exits_with_one(desk: Desk, api: MailApi) -> None:
    api.script = [Act(answer(400, errors(("Does not contain a valid address.", "personalizations.1.to.0.email"))))]
    newsroom = claimed(desk, api)
    desk.people(newsroom, 3)
    done = command(desk, "send", "daily", "--sandbox")
    assert done.returncode == 1
    assert "1 would not: Does not contain a valid address." in done.stdout


def test_doctor_says_that_the_database_is_not_claimed(desk: Desk, api: MailApi) -> None:
    claimed(desk, api, claim=False)
    done = command(desk, "doctor")
    assert done.returncode == 1
    assert "BAD   sendgrid mails real people, and this database is not claimed" in done.stdout


def test_a_missing_key_is_one_line(desk: Desk, api: MailApi) -> None:
    claimed(desk, api)
    done = subprocess.run(
        [sys.executable, "-m", "newsletter", "doctor", "--config", str(desk.file)],
        capture_output=True,
        check=False,
        timeout=60,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "SENDGRID_API_KEY"},
    )
    assert done.returncode == 1
    assert "BAD   provider: SENDGRID_API_KEY is not set" in done.stdout
    assert "Traceback" not in done.stderr


# ------------------------------------------------------------------------------------------ called back


def test_an_edition_that_is_kept_back_is_called_back_whole(
    desk: Desk, api: MailApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    newsroom = claimed(desk, api, more='hold = "30m"\nbatch_size = 4\n')
    desk.people(newsroom, 10)
    assert send(newsroom, desk, monkeypatch).record.state is EditionState.CLOSED
    mails = [request.json for request in api.requests if request.path == "/v3/mail/send"]
    assert {mail["batch_id"] for mail in mails} == {"batch0"}, "one name for the whole edition"
    assert all(mail["send_at"] == int(desk.clock().timestamp()) + 1_800 for mail in mails)
    done = operating.cancel(newsroom, "daily", None, actor="ada", reason="wrong picture")
    assert (done.recalled, done.fault, api.batches) == (10, None, {"batch0": "cancel"})
    account = newsroom.edition("daily")
    assert account.tally is not None
    assert (account.tally.cancelled, account.tally.holds) == (10, True)
    assert [act.act for act in account.acts][-1] == "recall"


def test_what_is_too_near_to_its_time_is_not_called_back(
    desk: Desk, api: MailApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    newsroom = claimed(desk, api, more='hold = "30m"\n')
    desk.people(newsroom, 10)
    send(newsroom, desk, monkeypatch)
    desk.clock.forward(timedelta(minutes=21))
    with pytest.raises(EditionError, match="it is closed; it can no longer be cancelled"):
        operating.cancel(newsroom, "daily", None, actor="ada", reason=None)
    assert api.batches == {"batch0": "open"}


def test_a_recall_that_is_refused_changes_nothing_and_is_said(
    desk: Desk, api: MailApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    newsroom = claimed(desk, api, more='hold = "30m"\n')
    desk.people(newsroom, 10)
    send(newsroom, desk, monkeypatch)
    api.batches["batch0"] = "pause"
    done = operating.cancel(newsroom, "daily", None, actor="ada", reason=None)
    assert (done.recalled, "a status for this batch id exists already" in (done.fault or "")) == (0, True)
    account = newsroom.edition("daily")
    assert account.tally is not None
    assert account.tally.accepted == 10
    api.batches["batch0"] = "cancel"  # it was taken after all, and its answer was lost
    assert operating.cancel(newsroom, "daily", None, actor="ada", reason=None).recalled == 10


def test_a_limit_that_is_used_up_is_waited_for_without_a_call(
    desk: Desk, api: MailApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    newsroom = claimed(desk, api, more="batch_size = 5\n")
    desk.people(newsroom, 10)
    reset = int(desk.clock().timestamp()) + 40
    api.script.append(Act(answer(202, X_Message_Id="m1", X_RateLimit_Remaining="0", X_RateLimit_Reset=str(reset))))
    before = desk.clock()
    assert send(newsroom, desk, monkeypatch).record.state is EditionState.CLOSED
    assert len(api.requests) == 2, "no call was made only to hear 429"
    assert desk.clock() - before >= timedelta(seconds=40)
