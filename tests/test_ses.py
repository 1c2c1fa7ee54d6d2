"""Amazon SES: what its answers mean, what its requests say, and whole editions over it.

Against a stand-in that misbehaves on demand (tests/ses_api_server.py), and against moto's server, which others wrote.
"""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from newsletter import store
from newsletter.edition import Receipt, Result
from newsletter.errors import (
    ConfigurationError,
    DispatchError,
    OutcomeUnknown,
    ProviderRefused,
    Throttled,
    Unreachable,
    WebhookRejected,
)
from newsletter.models import EditionState
from newsletter.newsroom import Newsroom
from newsletter.providers import open_provider
from newsletter.providers.ses import SesProvider
from newsletter.settings import AWS_VARIABLES, Ses, Settings
from subscribers import reading
from tests.conftest import Desk
from tests.mail_api_server import Act, answer
from tests.ses_api_server import HEALTHY, KEY_ID, REGION, SECRET_KEY, SesApi, refusal, tags
from tests.strict_mail import read
from tests.test_over_sendgrid import send
from tests.test_providers import MESSAGE, people, submit

KEYS = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
REJECTED = refusal(400, "MessageRejected", "Transaction failed: reader0@example.org has an illegal address")
UNVERIFIED = refusal(400, "MessageRejected", "Email address is not verified. The following failed: daily@example.org")


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[SesApi]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with SesApi() as made:
        yield made


def opened(api: SesApi, **settings: Any) -> SesProvider:
    given = {"region": REGION, "endpoint_url": api.url, "key_id": KEY_ID, "secret_key": SECRET_KEY, **settings}
    return SesProvider(**given)


def ended(provider: SesProvider, count: int) -> tuple[list[Receipt], DispatchError | None]:
    """The receipts of a call, and what ended it."""
    receipts: list[Receipt] = []
    try:
        for receipt in provider.submit(MESSAGE, people(count), "a1", lambda: None):  # type: ignore[arg-type] # an id
            receipts.append(receipt)  # noqa: PERF402 # those before the error stay
    except DispatchError as error:
        return receipts, error
    return receipts, None


def results(receipts: list[Receipt]) -> list[Result]:
    return [receipt.result for receipt in sorted(receipts)]


# ---------------------------------------------------------------------------------------------- requests


def test_a_request_names_one_recipient_and_two_random_ids(api: SesApi) -> None:
    (receipt,) = submit(opened(api, configuration_set="news"), people(1), attempt="a7")
    assert receipt.provider_id == "0102018c-000001-000000"
    (request,) = api.sent
    assert request.json["ConfigurationSetName"] == "news"
    assert request.json["Destination"] == {"ToAddresses": ["reader0@example.org"]}
    assert tags(request.json) == {"delivery_id": receipt.delivery, "attempt_id": "a7"}
    mail = read(api.mails[receipt.delivery])
    assert mail.raw["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert mail.mailbox("To") == ("Reader 0", "reader0@example.org")


def test_an_address_beyond_ascii_is_refused_alone_and_unasked(api: SesApi) -> None:
    recipients = people(2)
    recipients[0] = recipients[0]._replace(address="jürgen@example.org")
    first, second = submit(opened(api), recipients)
    assert (first.result, second.result) == (Result.REFUSED, Result.ACCEPTED)
    assert "ASCII" in (first.reason or "")
    assert "rgen" not in (first.reason or "")
    assert len(api.sent) == 1


# ---------------------------------------------------------------------------------------------- answers

REFUSING = [
    *("AccountSuspendedException", "SendingPausedException", "MailFromDomainNotVerifiedException"),
    *("UnrecognizedClientException", "InvalidClientTokenId", "SignatureDoesNotMatch", "InvalidSignatureException"),
    *("AccessDeniedException", "ExpiredTokenException", "RequestExpired", "NotFoundException", "SomethingNew"),
]
ERRORS = [
    *((refusal(400, code, "no"), ProviderRefused) for code in REFUSING),
    (UNVERIFIED, ProviderRefused),
    (answer(301, b"", Location="https://elsewhere.example.org/"), ProviderRefused),
    (answer(403, b"<html>not for you</html>"), ProviderRefused),
    (refusal(429, "TooManyRequestsException", "slower"), Throttled),
    (refusal(400, "ThrottlingException", "Maximum sending rate exceeded."), Throttled),
    (refusal(400, "LimitExceededException", "Daily message quota exceeded."), Throttled),
    (refusal(500, "InternalFailure", "oh"), OutcomeUnknown),
    (refusal(503, "ServiceUnavailable", "oh"), OutcomeUnknown),
    (refusal(503, "ThrottlingException", "oh"), OutcomeUnknown),
    (answer(502, b"<html>bad gateway</html>"), OutcomeUnknown),
    (answer(408), OutcomeUnknown),
    (answer(200, b"<html>log in first</html>"), OutcomeUnknown),
    (answer(200, {"MessageId": "an id\nwith a line"}), OutcomeUnknown),
    (answer(200, {"MessageId": ["x"]}), OutcomeUnknown),
    (answer(202, {"MessageId": "x"}), OutcomeUnknown),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{", OutcomeUnknown),
]


@pytest.mark.parametrize(("said", "error"), ERRORS)
def test_each_answer_is_the_right_error_and_is_asked_for_once(
    api: SesApi, said: bytes, error: type[DispatchError]
) -> None:
    """Retries are off: what boto3 would send again by itself is sent once."""
    api.script.append(Act(said))
    receipts, fault = ended(opened(api), 3)
    assert type(fault) is error
    assert len(api.requests) == 1
    assert api.taken == []
    unknown = [Result.UNKNOWN, Result.NOT_TRIED, Result.NOT_TRIED]
    assert results(receipts) == (unknown if error is OutcomeUnknown else [])


def test_a_quota_that_is_used_up_is_waited_for_longer_than_a_rate(api: SesApi) -> None:
    waits = []
    for said in ("Maximum sending rate exceeded.", "Daily message quota exceeded."):
        api.script.append(Act(refusal(429, "TooManyRequestsException", said)))
        _, fault = ended(opened(api), 1)
        assert isinstance(fault, Throttled)
        waits.append(fault.retry_after)
    assert waits == [timedelta(seconds=5), timedelta(minutes=10)]


@pytest.mark.parametrize(
    ("act", "error", "third"),
    [
        (Act(refusal(429, "TooManyRequestsException", "slower")), Throttled, Result.NOT_TRIED),
        (Act(refusal(400, "SendingPausedException", "paused")), ProviderRefused, Result.NOT_TRIED),
        (Act(refusal(500, "InternalFailure", "oh")), OutcomeUnknown, Result.UNKNOWN),
        (Act(then="reset"), OutcomeUnknown, Result.UNKNOWN),
        (Act(reads=100, then="reset"), OutcomeUnknown, Result.UNKNOWN),
    ],
)
def test_what_ends_a_call_half_way_speaks_for_those_who_were_not_tried(
    api: SesApi, act: Act, error: type[DispatchError], third: Result
) -> None:
    api.script += [None, None, act]  # type: ignore[list-item] # None: as usual
    receipts, fault = ended(opened(api), 5)
    assert type(fault) is error
    assert results(receipts) == [Result.ACCEPTED, Result.ACCEPTED, third, Result.NOT_TRIED, Result.NOT_TRIED]
    assert len(api.taken) == 2


def test_a_server_that_goes_away_half_way_leaves_nobody_in_doubt(api: SesApi) -> None:
    provider = opened(api)
    receipts = provider.submit(MESSAGE, people(3), "a1", lambda: None)  # type: ignore[arg-type] # an id
    assert next(receipts).result is Result.ACCEPTED
    api.__exit__()
    rest = [next(receipts), next(receipts)]
    assert results(rest) == [Result.NOT_TRIED, Result.NOT_TRIED]
    with pytest.raises(Unreachable):
        next(receipts)


def test_a_refusal_is_believed_once_somebody_is_accepted(api: SesApi) -> None:
    api.refuses = {f"reader{n}@example.org": REJECTED for n in range(4)}
    receipts, fault = ended(opened(api), 6)
    assert fault is None
    assert results(receipts) == [Result.REFUSED] * 4 + [Result.ACCEPTED] * 2
    assert all("example.org" not in (receipt.reason or "") for receipt in receipts)


def test_where_nobody_is_accepted_nobody_is_marked(api: SesApi) -> None:
    api.refuses = {f"reader{n}@example.org": REJECTED for n in range(50)}
    for count, asked in ((1, 1), (9, 9), (40, 10)):
        api.requests.clear()
        receipts, fault = ended(opened(api), count)
        assert (receipts, type(fault)) == ([], ProviderRefused)
        assert len(api.sent) == asked


def test_ten_refused_in_a_row_are_not_believed_even_after_a_yes(api: SesApi) -> None:
    api.refuses = {f"reader{n}@example.org": REJECTED for n in range(1, 60)}
    receipts, fault = ended(opened(api), 60)
    assert isinstance(fault, ProviderRefused)
    assert Counter(results(receipts))[Result.REFUSED] <= 9
    assert len(api.sent) <= 20
    assert len(receipts) == 60


# ---------------------------------------------------------------------------------------------- time


@pytest.mark.parametrize("act", [Act(answer(200, {"MessageId": "x"}), drip=0.1), Act(then="hang")])
def test_a_call_ends_in_its_time_however_slowly_it_is_answered(api: SesApi, act: Act) -> None:
    api.script += [None, act]  # type: ignore[list-item] # None: as usual
    begun = time.monotonic()
    receipts, fault = ended(opened(api, timeout=timedelta(seconds=1)), 3)
    assert time.monotonic() - begun < 10
    assert isinstance(fault, OutcomeUnknown)
    assert results(receipts) == [Result.ACCEPTED, Result.UNKNOWN, Result.NOT_TRIED]


def test_no_copy_is_begun_when_little_time_is_left(api: SesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("newsletter.providers.ses.monotonic", lambda: now[0])
    provider = opened(api)
    receipts = []
    for receipt in provider.submit(MESSAGE, people(4), "a1", lambda: None):  # type: ignore[arg-type] # an id
        receipts.append(receipt)
        now[0] += 24
    assert results(receipts) == [Result.ACCEPTED, Result.ACCEPTED, Result.NOT_TRIED, Result.NOT_TRIED]


# ---------------------------------------------------------------------------------------------- keys and doctor


def test_without_any_credentials_nothing_is_asked(api: SesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*AWS_VARIABLES.values(), "AWS_PROFILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    started: list[bool] = []
    with pytest.raises(ProviderRefused, match="no credentials"):
        submit(opened(api, key_id=None, secret_key=None), people(1), started=lambda: started.append(True))
    assert (started, api.requests) == ([], [])


def test_half_a_key_is_a_mistake() -> None:
    with pytest.raises(ConfigurationError, match="AWS_SECRET_ACCESS_KEY is not set, and AWS_ACCESS_KEY_ID is"):
        open_provider(Ses.model_validate({"region": REGION, "key_id": "x"}))
    with pytest.raises(ConfigurationError, match="has no sandbox"):
        open_provider(Ses(region=REGION), sandbox=True)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "newsletter.providers.ses")
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ConfigurationError, match=r"needs the package boto3: pip install 'brief-newsletter\[ses\]'"):
        open_provider(Ses(region=REGION))


def test_only_the_provider_in_use_loads_the_package() -> None:
    code = "import sys, newsletter.newsroom, newsletter.providers; sys.exit('boto3' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("account", "ok", "said"),
    [
        (HEALTHY, True, "14 mails a second, 50,000 in 24 hours, of which 1,234 used"),
        ({**HEALTHY, "ProductionAccessEnabled": False}, False, "the account is in the sandbox"),
        ({**HEALTHY, "SendingEnabled": False}, False, "AWS has paused the account's sending"),
        ({**HEALTHY, "EnforcementStatus": "SHUTDOWN"}, False, "AWS has paused the account's sending"),
        ({**HEALTHY, "EnforcementStatus": "PROBATION"}, True, "under review"),
        ({"SendQuota": {"MaxSendRate": 1e400}}, True, "the account may send"),
        (refusal(403, "AccessDeniedException", "no"), None, "which needs ses:GetAccount"),
        (refusal(403, "UnrecognizedClientException", "no"), False, "the credentials are not valid"),
        (answer(500), False, "500"),
    ],
)
def test_doctor_says_what_is_missing(api: SesApi, account: dict[str, Any] | bytes, ok: bool | None, said: str) -> None:
    api.account = account
    findings = opened(api).check()
    assert said in " ".join(finding.what for finding in findings)
    verdicts = {finding.ok for finding in findings}
    assert (False in verdicts, True in verdicts) == (ok is False, ok is True)
    assert "not encrypted" in findings[0].what
    assert api.taken == []


def test_nothing_that_is_posted_is_believed(api: SesApi) -> None:
    with pytest.raises(WebhookRejected, match="reads no events"):
        opened(api).events({"x-amz-sns-message-type": "Notification"}, b'{"Type": "Notification"}')


# ---------------------------------------------------------------------------------------------- moto


def test_it_sends_through_a_server_that_others_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3
    from moto.backends import get_backend
    from moto.server import ThreadedMotoServer

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        url = "http://{}:{}".format(*server.get_host_and_port())
        provider = SesProvider(region=REGION, endpoint_url=url, key_id="testing", secret_key="testing")
        with pytest.raises(ProviderRefused, match="not verified"):
            submit(provider, people(3))
        asked = boto3.client(
            "sesv2", REGION, endpoint_url=url, aws_access_key_id="testing", aws_secret_access_key="testing"
        )
        asked.create_email_identity(EmailIdentity="example.org")
        asked.close()
        receipts = submit(provider, people(20))
        sent = get_backend("ses")["123456789012"][REGION].sent_messages
    finally:
        server.stop()
    assert {receipt.result for receipt in receipts} == {Result.ACCEPTED}
    assert sorted(mail.id for mail in sent) == sorted(receipt.provider_id or "" for receipt in receipts)
    for mail, person in zip(sent, people(20), strict=True):
        assert mail.destinations[0] == person.address
        assert MESSAGE.fill(MESSAGE.text, person.values(MESSAGE.sender)).rstrip() in read(
            mail.raw_data.encode()
        ).text.replace("\r\n", "\n")


# ---------------------------------------------------------------------------------------------- whole editions


def claimed(desk: Desk, api: SesApi, batch_size: int = 50) -> Newsroom:
    """A newsroom that sends through the stand-in; its database is claimed as an operator would claim it."""
    outbox = desk.open()
    with reading(outbox.engine) as session:
        instance = store.instance(session).instance_id
    table = (
        f'[provider]\nkind = "ses"\nregion = "{REGION}"\nendpoint_url = "{api.url}"\nbatch_size = {batch_size}\n\n'
        f'[database]\ninstance = "{instance}"\n'
    )
    desk.configure(lambda text: text.replace('[provider]\nkind = "outbox"\nbatch_size = 10\n', table))
    newsroom = Newsroom.open(Settings.load(desk.file, KEYS), desk.clock)
    desk._open.append(newsroom)
    desk.brief("harbour")
    return newsroom


def recipients(api: SesApi) -> Counter[str]:
    return Counter(request.json["Destination"]["ToAddresses"][0] for request in api.sent)


def test_an_edition_goes_out_and_the_ledger_agrees(desk: Desk, api: SesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    newsroom = claimed(desk, api)
    desk.people(newsroom, 230)
    api.refuses = {"reader7@example.org": REJECTED}
    sent = send(newsroom, desk, monkeypatch)
    assert sent.tally is not None
    assert (sent.tally.accepted, sent.tally.refused, sent.tally.holds) == (229, 1, True)
    assert sent.record.state is EditionState.CLOSED
    assert set(recipients(api).values()) == {1}
    newsroom.send("daily")
    assert len(api.taken) == len(set(api.taken)) == 229, "nobody gets it twice"


def test_where_the_sender_is_not_verified_the_edition_pauses_and_nobody_is_marked(
    desk: Desk, api: SesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    newsroom = claimed(desk, api)
    desk.people(newsroom, 120)
    api.refuses = {f"reader{n}@example.org": UNVERIFIED for n in range(120)}
    sent = send(newsroom, desk, monkeypatch)
    assert sent.tally is not None
    assert (sent.record.state, sent.tally.refused, sent.tally.waiting) == (EditionState.PAUSED, 0, 120)
    assert "not verified" in (sent.record.reason or "")
    api.refuses = {}
    sent = send(newsroom, desk, monkeypatch)
    assert sent.tally is not None
    assert (sent.record.state, sent.tally.accepted) == (EditionState.CLOSED, 120)


@pytest.mark.slow
def test_killed_in_a_call_nobody_gets_it_twice_and_who_is_in_doubt_is_listed(desk: Desk, api: SesApi) -> None:
    newsroom = claimed(desk, api)
    desk.people(newsroom, 600)
    command = [sys.executable, "-m", "newsletter", "send", "daily", "--config", str(desk.file), "--yes"]
    environ = {**os.environ, **KEYS}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environ) as process:
        ends = time.monotonic() + 60
        while len(api.taken) < 100 and process.poll() is None and time.monotonic() < ends:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    before = len(api.taken)
    assert 100 <= before < 600
    subprocess.run(command, capture_output=True, check=False, env=environ)
    assert set(recipients(api).values()) == {1}
    ((_, tally),) = newsroom.editions(1)
    assert tally is not None
    assert tally.holds
    assert tally.waiting == 0
    assert len(set(api.taken)) == len(api.taken)
    assert tally.accepted <= len(api.taken) <= tally.accepted + tally.unknown
