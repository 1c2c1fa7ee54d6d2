"""What every provider promises, asked of every provider.

A harness per provider says how each case is brought about there; where a case cannot happen, it says why. Adding a
provider is adding a harness.
"""

import errno
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import ClassVar, Protocol

import pytest

from newsletter.edition import AttemptId, DeliveryId, Message, Receipt, Recipient, Result, Sender, spelling
from newsletter.errors import (
    ConfigurationError,
    DispatchError,
    OutcomeUnknown,
    ProviderRefused,
    Throttled,
    Unreachable,
    WebhookRejected,
)
from newsletter.providers import Provider, open_provider
from newsletter.providers.outbox import OutboxProvider
from newsletter.providers.sendgrid import SendGridProvider
from newsletter.providers.ses import SesProvider
from newsletter.providers.smtp import SmtpProvider
from newsletter.settings import Outbox, SendGrid
from tests.mail_api_server import Act, MailApi, answer, errors, rendered
from tests.ses_api_server import KEY_ID, REGION, SECRET_KEY, SesApi, refusal, tags
from tests.smtp_server import Do, Manner, SmtpServer
from tests.strict_mail import read

SENDER = Sender("daily", "Daily", "daily@example.org", None, "Daily", "daily.example.org", "https://news.example.org")


def field(name: str, *, html: bool) -> str:
    return spelling("d4f0a1", name, html=html)


MESSAGE = Message(
    SENDER,
    "Today",
    f'<p>Dear {field("name", html=True)}: <a href="{field("leave_url", html=True)}">leave</a></p>',
    f"Dear {field('name', html=False)}: {field('leave_url', html=False)}\n",
    "d4f0a1",
    "2026-11-23T07:00",
)


def people(count: int) -> list[Recipient]:
    return [
        Recipient(DeliveryId(f"{n:024x}"), f"reader{n}@example.org", f"Reader {n}", f"token{n}") for n in range(count)
    ]


def submit(
    provider: Provider,
    recipients: list[Recipient],
    message: Message = MESSAGE,
    started: Callable[[], None] = lambda: None,
    attempt: str = "a1",
) -> list[Receipt]:
    return list(provider.submit(message, recipients, AttemptId(attempt), started))


class Case(Enum):
    """How a call can go wrong, and what must come of it."""

    THROTTLED = "it asks to wait", Throttled
    NO_CONNECTION = "its port is closed", Unreachable
    STUCK_BEFORE_THE_BODY_IS_OUT = "it stops reading", OutcomeUnknown
    SILENT_AFTER_THE_BODY = "it never answers", OutcomeUnknown
    CUT_OFF = "its answer breaks off", OutcomeUnknown
    SERVER_ERROR = "it has an error of its own", OutcomeUnknown
    NONSENSE = "its answer is none", OutcomeUnknown
    REVOKED = "it refuses everybody", ProviderRefused
    ONE_BAD_UNNAMED = "it refuses the call for one's sake and does not say whose", ProviderRefused

    @property
    def error(self) -> type[DispatchError]:
        """What is raised."""
        raised: type[DispatchError] = self.value[1]
        return raised


class Harness(Protocol):
    """How a provider is opened, brought into each case, and looked at from the other side."""

    cannot: ClassVar[dict[Case, str]]  # cases that cannot happen to it, each with the reason

    def open(self, *, timeout: timedelta = timedelta(seconds=30)) -> Provider:
        """A provider that works."""

    def arrange(self, case: Case) -> None:
        """Make its next call go wrong like that."""

    def mend(self) -> None:
        """Make it work again."""

    def taken(self) -> list[str]:
        """The delivery ids that left, one for each time."""

    def bytes_in(self) -> int:
        """How much has left."""

    def bodies(self, delivery: DeliveryId) -> tuple[str, str]:
        """Text and HTML as a recipient gets them."""

    def told(self) -> str:
        """Whatever the provider keeps beside the mail: custom arguments, categories, names of files."""


class OutboxHarness:
    """A folder."""

    cannot: ClassVar = {
        Case.THROTTLED: "a folder never asks to wait",
        Case.NO_CONNECTION: "there is none to make: a folder that is gone is made again, or refuses everybody",
        Case.STUCK_BEFORE_THE_BODY_IS_OUT: "the kernel bounds a write; there is no other side",
        Case.SILENT_AFTER_THE_BODY: "the kernel bounds a flush; there is no other side",
        Case.SERVER_ERROR: "there is no server; a disk's error is CUT_OFF or REVOKED",
        Case.NONSENSE: "a system call answers with a number",
        Case.ONE_BAD_UNNAMED: "each copy is a file of its own, so the bad one is always known",
    }

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._folder, self._patch = folder / "outbox", patch

    def open(self, *, timeout: timedelta = timedelta(seconds=30)) -> Provider:
        return OutboxProvider(self._folder, batch_size=1_000)

    def arrange(self, case: Case) -> None:
        def fault(*_: object) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        if case is Case.REVOKED:
            self._folder.mkdir()
            (self._folder / "new").write_bytes(b"")
        elif case is Case.CUT_OFF:
            (self._folder / "new").mkdir(parents=True)
            (self._folder / "tmp").mkdir()
            (self._folder / "cur").mkdir()
            self._patch.setattr("newsletter.providers.outbox._flush_folder", fault)

    def mend(self) -> None:
        self._patch.undo()
        if (self._folder / "new").is_file():
            (self._folder / "new").unlink()

    def _files(self) -> list[Path]:
        return sorted((self._folder / "new").glob("*.eml"))

    def taken(self) -> list[str]:
        return [file.stem for file in self._files()]

    def bytes_in(self) -> int:
        return sum(file.stat().st_size for file in self._folder.rglob("*") if file.is_file())

    def bodies(self, delivery: DeliveryId) -> tuple[str, str]:
        mail = read((self._folder / "new" / f"{delivery}.eml").read_bytes())
        return mail.text.replace("\r\n", "\n"), mail.html.replace("\r\n", "\n")

    def told(self) -> str:
        return " ".join(path.name for path in self._folder.rglob("*"))


LIMIT = timedelta(seconds=0.4)  # for calls that are meant to run into it


class SendGridHarness:
    """The API, played by a server on this machine."""

    cannot: ClassVar[dict[Case, str]] = {}

    _ACTS: ClassVar = {
        Case.THROTTLED: Act(answer(429, errors(("too many requests", None)), X_RateLimit_Reset="1")),
        Case.STUCK_BEFORE_THE_BODY_IS_OUT: Act(reads=1_000, then="hang"),
        Case.SILENT_AFTER_THE_BODY: Act(then="hang"),
        Case.CUT_OFF: Act(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 500\r\n\r\n{"),
        Case.SERVER_ERROR: Act(answer(503, b"<html>try later</html>")),
        Case.NONSENSE: Act(b"\x16\x03\x01 reader3@example.org no HTTP\r\n\r\n"),
        Case.REVOKED: Act(answer(401, errors(("authorization grant is invalid: reader3@example.org", None)))),
        Case.ONE_BAD_UNNAMED: Act(answer(400, errors(("Bad Request for reader3@example.org", None)))),
    }

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        patch.setenv("NO_PROXY", "127.0.0.1")
        self.api = MailApi()
        self._closed = MailApi()
        with self._closed:
            pass
        self._host: str | None = None

    def open(self, *, timeout: timedelta = timedelta(seconds=30)) -> Provider:
        return SendGridProvider("SG.test", host=self._host or self.api.url, timeout=timeout)

    def arrange(self, case: Case) -> None:
        if case is Case.NO_CONNECTION:
            self._host = self._closed.url
        else:
            self.api.script.append(self._ACTS[case])

    def mend(self) -> None:
        self._host = None
        self.api.script.clear()

    def taken(self) -> list[str]:
        return sorted(self.api.taken)

    def bytes_in(self) -> int:
        return self.api.bytes_in

    def bodies(self, delivery: DeliveryId) -> tuple[str, str]:
        for request in self.api.requests:
            for index, one in enumerate(request.json["personalizations"]):
                if one["custom_args"]["delivery_id"] == delivery:
                    return rendered(request.json, index)
        raise LookupError(delivery)

    def told(self) -> str:
        kept = []
        for request in self.api.requests:
            if not request.body:
                continue
            kept += [*request.json["categories"], request.path, str(request.json["headers"])]
            kept += [str(one["custom_args"]) for one in request.json["personalizations"]]
        return " ".join(kept)


class SmtpHarness:
    """A server on this machine, with a password and without TLS."""

    cannot: ClassVar[dict[Case, str]] = {
        Case.SERVER_ERROR: "a 4xx after the body says that it was not taken, so there is no doubt: it is deferred",
        Case.ONE_BAD_UNNAMED: "each copy is a transaction of its own, so the bad one is always known",
    }

    _USERS: ClassVar = {"desk": "SG.test"}
    _MANNERS: ClassVar = {
        Case.THROTTLED: Manner(says={"CONNECT": b"421 4.7.0 too many connections from reader3@example.org\r\n"}),
        Case.STUCK_BEFORE_THE_BODY_IS_OUT: Manner(users=_USERS, says={"BODY": Do.HANG}),
        Case.SILENT_AFTER_THE_BODY: Manner(users=_USERS, says={".": Do.HANG}),
        Case.CUT_OFF: Manner(users=_USERS, says={".": Do.CUT}),
        Case.NONSENSE: Manner(users=_USERS, says={".": b"\x16\x03\x01 reader3@example.org no SMTP\r\n"}),
        Case.REVOKED: Manner(
            users={"desk": "another"}, says={"AUTH": b"535 5.7.8 desk SG.test reader3@example.org\r\n"}
        ),
    }

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.server = SmtpServer(Manner(users=self._USERS))
        self._closed = SmtpServer()
        with self._closed:
            pass
        self._port: int | None = None
        self._opened: list[SmtpProvider] = []

    def open(self, *, timeout: timedelta = timedelta(seconds=30)) -> Provider:
        port = self._port or self.server.port
        provider = SmtpProvider(
            "127.0.0.1",
            port=port,
            security="none",
            username="desk",
            password="SG.test",
            timeout=timeout,
            bounce_domain="bounce.example.org",
        )
        self._opened.append(provider)
        return provider

    def arrange(self, case: Case) -> None:
        if case is Case.NO_CONNECTION:
            self._port = self._closed.port
        else:
            self.server.script.append(self._MANNERS[case])

    def mend(self) -> None:
        self._port = None
        self.server.script.clear()

    def taken(self) -> list[str]:
        return self.server.deliveries

    def bytes_in(self) -> int:
        return self.server.bytes_in

    def bodies(self, delivery: DeliveryId) -> tuple[str, str]:
        (data,) = (mail.data for mail in self.server.mails if mail.delivery == delivery)
        mail = read(data)
        return mail.text.replace("\r\n", "\n"), mail.html.replace("\r\n", "\n")

    def told(self) -> str:
        return " ".join(mail.path.replace("@bounce", "") for mail in self.server.mails)

    def close(self) -> None:
        for provider in self._opened:
            provider.close()


class SesHarness:
    """The API, played by a server on this machine that verifies signatures."""

    cannot: ClassVar[dict[Case, str]] = {
        Case.ONE_BAD_UNNAMED: "each copy is a request of its own, so the bad one is always known",
    }

    _ACTS: ClassVar = {
        Case.THROTTLED: Act(refusal(429, "TooManyRequestsException", "Maximum sending rate exceeded.")),
        Case.STUCK_BEFORE_THE_BODY_IS_OUT: Act(reads=1_000, then="hang"),
        Case.SILENT_AFTER_THE_BODY: Act(then="hang"),
        Case.CUT_OFF: Act(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 500\r\n\r\n{"),
        Case.SERVER_ERROR: Act(refusal(500, "InternalFailure", "reader3@example.org")),
        Case.NONSENSE: Act(b"\x16\x03\x01 reader3@example.org no HTTP\r\n\r\n"),
        Case.REVOKED: Act(refusal(403, "UnrecognizedClientException", "SG.test of reader3@example.org is invalid")),
    }

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        patch.setenv("NO_PROXY", "127.0.0.1")
        self.api = SesApi()
        self._closed = SesApi()
        with self._closed:
            pass
        self._url: str | None = None

    def open(self, *, timeout: timedelta = timedelta(seconds=30)) -> Provider:
        return SesProvider(
            region=REGION,
            endpoint_url=self._url or self.api.url,
            timeout=timeout,
            key_id=KEY_ID,
            secret_key=SECRET_KEY,
        )

    def arrange(self, case: Case) -> None:
        if case is Case.NO_CONNECTION:
            self._url = self._closed.url
        else:
            self.api.script.append(self._ACTS[case])

    def mend(self) -> None:
        self._url = None
        self.api.script.clear()

    def taken(self) -> list[str]:
        return sorted(self.api.taken)

    def bytes_in(self) -> int:
        return self.api.bytes_in

    def bodies(self, delivery: DeliveryId) -> tuple[str, str]:
        mail = read(self.api.mails[delivery])
        return mail.text.replace("\r\n", "\n"), mail.html.replace("\r\n", "\n")

    def told(self) -> str:
        return " ".join(f"{request.path} {tags(request.json)}" for request in self.api.sent)


Made = type[OutboxHarness] | type[SendGridHarness] | type[SmtpHarness] | type[SesHarness]
HARNESSES: list[Made] = [OutboxHarness, SendGridHarness, SmtpHarness, SesHarness]
CASES = [(made, case) for made in HARNESSES for case in Case if case not in made.cannot]


@pytest.fixture(params=HARNESSES, ids=lambda made: made.__name__)
def harness(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    yield from opened(request.param, tmp_path, monkeypatch)


@pytest.fixture
def at_fault(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    yield from opened(request.param, tmp_path, monkeypatch)


def opened(made: Made, folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Harness]:
    found = made(folder, patch)
    if isinstance(found, SendGridHarness | SesHarness):
        with found.api:
            yield found
    elif isinstance(found, SmtpHarness):
        with found.server:
            yield found
            found.close()
    else:
        yield found


each_case = pytest.mark.parametrize(
    ("at_fault", "case"), CASES, indirect=["at_fault"], ids=[f"{made.__name__}-{case.name}" for made, case in CASES]
)


# ---------------------------------------------------------------------------------------------- what it says of itself


def test_every_case_can_happen_or_is_said_why_not() -> None:
    for made in HARNESSES:
        assert all(len(reason) > 10 for reason in made.cannot.values())
    assert {case for case in Case if all(case in made.cannot for made in HARNESSES)} == set()


def test_it_says_what_it_is(harness: Harness) -> None:
    provider = harness.open()
    assert re.fullmatch(r"[a-z]+", provider.name)
    assert 1 <= provider.batch_size <= 1_000
    assert isinstance(provider.idempotent, bool)
    assert isinstance(provider.atomic, bool)
    assert isinstance(provider.live, bool)
    assert provider.atomic in {True, False}


def test_it_can_be_checked_without_sending(harness: Harness) -> None:
    findings = harness.open().check()
    assert findings
    assert all(finding.ok is not False and finding.what for finding in findings)
    assert harness.taken() == []


def test_closing_twice_is_closing_once(harness: Harness) -> None:
    provider = harness.open()
    submit(provider, people(1))
    provider.close()
    provider.close()


def test_a_webhook_that_nobody_signed_is_rejected(harness: Harness) -> None:
    with pytest.raises(WebhookRejected):
        harness.open().events({}, b"[]")


# ---------------------------------------------------------------------------------------------- receipts


def test_everybody_gets_one_copy_and_one_receipt(harness: Harness) -> None:
    recipients = people(25)
    receipts = submit(harness.open(), recipients)
    assert sorted(receipt.delivery for receipt in receipts) == [person.delivery for person in recipients]
    assert {receipt.result for receipt in receipts} == {Result.ACCEPTED}
    assert harness.taken() == [person.delivery for person in recipients]
    for person in recipients:
        values = person.values(SENDER)
        expected = MESSAGE.fill(MESSAGE.text, values), MESSAGE.fill(MESSAGE.html, values)
        assert tuple(part.rstrip("\n") for part in harness.bodies(person.delivery)) == tuple(
            part.rstrip("\n") for part in expected
        )


@pytest.mark.parametrize("count", [1_000, 1_001])
def test_a_thousand_and_one_more_than_that(harness: Harness, count: int) -> None:
    """Whoever has no room in a call was not tried, and goes in the next one."""
    provider, recipients = harness.open(), people(count)
    waiting, calls = recipients, 0
    while waiting:
        calls += 1
        receipts = submit(provider, waiting, attempt=f"a{calls}")
        assert {receipt.delivery for receipt in receipts} == {person.delivery for person in waiting}
        assert len(receipts) == len(waiting)
        assert {receipt.result for receipt in receipts} <= {Result.ACCEPTED, Result.NOT_TRIED}
        untried = {receipt.delivery for receipt in receipts if receipt.result is Result.NOT_TRIED}
        assert len(untried) < len(waiting)
        waiting = [person for person in waiting if person.delivery in untried]
    assert calls <= 2
    assert harness.taken() == [person.delivery for person in recipients]


def test_two_people_of_one_address_get_a_copy_each(harness: Harness) -> None:
    provider = harness.open()
    recipients = [person._replace(address=address) for person, address in zip(people(3), TWINS, strict=True)]
    waiting = recipients
    for attempt in ("a1", "a2", "a3"):
        receipts = submit(provider, waiting, attempt=attempt)
        untried = {receipt.delivery for receipt in receipts if receipt.result is Result.NOT_TRIED}
        waiting = [person for person in waiting if person.delivery in untried]
    assert waiting == []
    assert harness.taken() == [person.delivery for person in recipients]


TWINS = ["ada@example.org", "Ada@example.org", "ADA@example.org"]


def test_names_of_any_writing_with_semicolons_and_commas(harness: Harness) -> None:
    names = ["Müller; Jürgen, Dr.", "李雷, 韓梅梅", 'O’Brien, "Pat"', "<b>&</b>", ";,", "\\u0000", "👩‍👩‍👧", "ß" * 100]
    recipients = [person._replace(name=name) for person, name in zip(people(len(names)), names, strict=True)]
    assert {receipt.result for receipt in submit(harness.open(), recipients)} == {Result.ACCEPTED}
    for person in recipients:
        text, html = harness.bodies(person.delivery)
        values = person.values(SENDER)
        assert text.rstrip("\n") == MESSAGE.fill(MESSAGE.text, values).rstrip("\n")
        assert html.rstrip("\n") == MESSAGE.fill(MESSAGE.html, values).rstrip("\n")


def test_the_longest_of_everything_that_is_legal(harness: Harness) -> None:
    domain = ".".join(["x" * 63, "y" * 63, "z" * 57, "org"])
    address = f"{'a' * 64}@{domain}"
    assert len(address) == 254
    sender = replace(SENDER, site_url=f"https://news.example.org/{'p' * 700}")
    line = "wörd " * 4_000
    message = replace(MESSAGE, sender=sender, text=f"{line}\n{MESSAGE.text}", html=f"<p>{line}</p>{MESSAGE.html}")
    person = people(1)[0]._replace(address=address, name="N" * 100, token="t" * 60)
    (receipt,) = submit(harness.open(), [person], message)
    assert receipt.result is Result.ACCEPTED
    text, _ = harness.bodies(person.delivery)
    assert text.rstrip("\n") == message.fill(message.text, person.values(sender)).rstrip("\n")


def test_one_bad_recipient_among_a_thousand_costs_nobody_else(harness: Harness) -> None:
    recipients = people(1_000)
    recipients[321] = recipients[321]._replace(address="reader321\r\nBcc: eve@example.org")
    receipts = {receipt.delivery: receipt for receipt in submit(harness.open(), recipients)}
    assert receipts[recipients[321].delivery].result is Result.REFUSED
    reason = receipts.pop(recipients[321].delivery).reason or ""
    assert reason
    assert "reader321" not in reason
    assert "eve" not in reason
    assert {receipt.result for receipt in receipts.values()} == {Result.ACCEPTED}
    assert len(harness.taken()) == 999


def test_several_threads_submit_at_once(harness: Harness) -> None:
    provider, recipients = harness.open(), people(400)
    together = threading.Barrier(8)
    found: list[Receipt] = []

    def run(number: int) -> None:
        together.wait(10)
        found.extend(submit(provider, recipients[number::8], attempt=f"a{number}"))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert {receipt.result for receipt in found} == {Result.ACCEPTED}
    assert len(found) == 400
    assert harness.taken() == [person.delivery for person in recipients]


# ---------------------------------------------------------------------------------------------- started


def test_started_is_called_once_and_before_the_first_byte(harness: Harness) -> None:
    seen: list[int] = []

    def started() -> None:
        time.sleep(0.05)  # long enough for anything sent too early to arrive
        seen.append(harness.bytes_in())

    submit(harness.open(), people(50), started=started)
    assert seen == [0]
    assert harness.bytes_in() > 0


class Lost(BaseException):
    """As a kill: no exception that anything may handle."""


@pytest.mark.parametrize(
    "error", [LookupError("the claim is lost"), OSError("the disk is gone"), Lost(), TimeoutError()]
)
def test_what_started_raises_goes_through_untouched_and_nothing_leaves(harness: Harness, error: BaseException) -> None:
    def started() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        submit(harness.open(), people(5), started=started)
    assert caught.value is error
    time.sleep(0.05)
    assert harness.bytes_in() == 0
    assert harness.taken() == []


def test_with_nobody_to_call_for_nothing_starts(harness: Harness) -> None:
    started: list[bool] = []
    assert submit(harness.open(), [], started=lambda: started.append(True)) == []
    assert started == []


# ---------------------------------------------------------------------------------------------- faults


@each_case
def test_each_fault_is_told_by_its_right_name(at_fault: Harness, case: Case) -> None:
    """And within the time-out, after at most one start; and when it is over the provider works again."""
    at_fault.arrange(case)
    started: list[bool] = []
    short = case in {Case.STUCK_BEFORE_THE_BODY_IS_OUT, Case.SILENT_AFTER_THE_BODY}
    provider = at_fault.open(timeout=LIMIT if short else timedelta(seconds=30))
    # Large enough that a server which does not read keeps it from leaving.
    large = replace(MESSAGE, text=MESSAGE.text + "x" * 12_000_000) if "STUCK" in case.name else MESSAGE
    begun = time.monotonic()
    with pytest.raises(case.error) as caught:
        submit(provider, people(5), large, started=lambda: started.append(True))
    assert time.monotonic() - begun < 6
    assert caught.value.args[0].startswith(provider.name)
    if isinstance(caught.value, ProviderRefused):
        assert caught.value.suspect == (case is Case.ONE_BAD_UNNAMED)
    if case is Case.NO_CONNECTION:
        assert started == []
    assert len(started) <= 1
    at_fault.mend()
    assert {receipt.result for receipt in submit(at_fault.open(), people(5))} == {Result.ACCEPTED}


@each_case
def test_no_fault_names_a_person_or_the_key(at_fault: Harness, case: Case, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    at_fault.arrange(case)
    short = case in {Case.STUCK_BEFORE_THE_BODY_IS_OUT, Case.SILENT_AFTER_THE_BODY}
    with pytest.raises(DispatchError) as caught:
        submit(at_fault.open(timeout=LIMIT if short else timedelta(seconds=30)), people(5))
    said: list[str] = [caplog.text]
    error: BaseException | None = caught.value
    while error is not None:
        said += [str(error), repr(error)]
        error = error.__cause__ or error.__context__
    assert not re.search(r"reader\d|Reader \d|token\d|SG\.test", " ".join(said))


def test_nothing_personal_is_logged_or_kept_beside_the_mail(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    submit(harness.open(), people(5))
    harness.open().check()
    assert not re.search(r"reader\d|Reader \d|token\d|SG\.test", caplog.text)
    assert not re.search(r"reader\d|Reader \d|token\d|SG\.test|@", harness.told())


# ---------------------------------------------------------------------------------------------- the registry


def test_the_registry_opens_what_the_configuration_names(tmp_path: Path) -> None:
    outbox = open_provider(Outbox(path=tmp_path, batch_size=7))
    assert (outbox.name, outbox.batch_size, outbox.live) == ("outbox", 7, False)
    settings = SendGrid.model_validate({"key": "SG.test", "batch_size": 500})
    sendgrid = open_provider(settings)
    assert (sendgrid.name, sendgrid.batch_size, sendgrid.live) == ("sendgrid", 500, True)
    assert (sendgrid.idempotent, sendgrid.atomic) == (False, True)
    sandbox = open_provider(settings, sandbox=True)
    assert sandbox.live


def test_the_outbox_has_no_sandbox(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="the outbox has no sandbox: it reaches nobody as it is"):
        open_provider(Outbox(path=tmp_path), sandbox=True)


def test_sendgrid_wants_its_key() -> None:
    with pytest.raises(
        ConfigurationError, match=r"SENDGRID_API_KEY is not set: put it into the environment or into \.env"
    ):
        open_provider(SendGrid())
    for key in ("SG.a\nb", "SG.ä", "SG a"):
        with pytest.raises(ConfigurationError, match="SENDGRID_API_KEY") as caught:
            open_provider(SendGrid.model_validate({"key": key}))
        assert key not in str(caught.value)
