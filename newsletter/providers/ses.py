"""Amazon SES: one SendEmail of its API, version 2, for each copy, since every copy is a mail of its own.

boto3 finds the credentials, signs each request and reads its answer; our own Exchange carries it, through the hook
`before-send` that botocore has for that. Only so is `started` called between the connection and the first byte, the
whole call bounded, and every way to fail told apart. Retries are off.

A connection carries one request, so that a copy costs a handshake; copies go one after another. What that comes to:
docs/deliverability.md. Facts about SES are from its API reference (docs.aws.amazon.com/ses/latest/APIReference-V2) and
developer guide (docs.aws.amazon.com/ses/latest/dg, November 2026) and from the service description inside botocore.
"""

import http
import logging
import re
import ssl
import threading
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from newsletter.edition import AttemptId, DeliveryId, Event, Finding, Message, Receipt, Recipient, Result
from newsletter.errors import DispatchError, OutcomeUnknown, ProviderRefused, Throttled, WebhookRejected
from newsletter.mime import HeaderError, Mould
from newsletter.providers.exchange import Answer, bounded
from newsletter.providers.scrubbing import scrub

NAME = "ses"
_CHECK_TIMEOUT = timedelta(seconds=10)
_LAST_COPY = 0.25  # of a call's time has to be left for a copy to be begun: so a slow answer leaves none in doubt
_IN_A_ROW = 10  # refused, and nobody accepted between: then it is not believed that it is about them
_MESSAGES = 8  # of which it is remembered that somebody was accepted
_RATE_WAIT = timedelta(seconds=5)  # the rate is a second's (dg/manage-sending-quotas)
_QUOTA_WAIT = timedelta(minutes=10)  # "up to 10 minutes" (dg/manage-sending-quotas-errors)

_THROTTLED = {
    "LimitExceededException",
    "RequestLimitExceeded",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}
_ABOUT_ONE = {"BadRequestException", "MessageRejected"}  # as far as can be told: a copy is a request of its own
_NOT_VERIFIED = re.compile(r"(?i)not verified|authority to send")  # a MessageRejected that is about sender or account
_TO_DO = {
    "AccountSuspendedException": "AWS has suspended the account's sending",
    "SendingPausedException": "sending is paused for the account or the configuration set",
    "MailFromDomainNotVerifiedException": "the MAIL FROM domain is not verified",
    "NotFoundException": "there is no such configuration set in this region",
    "AccessDeniedException": "the credentials may not call this: ses:SendEmail and ses:SendRawEmail are needed",
    "UnrecognizedClientException": "the credentials are not valid",
    "InvalidClientTokenId": "the credentials are not valid",
    "SignatureDoesNotMatch": "the secret access key does not fit, or this machine's clock is wrong",
    "InvalidSignatureException": "the secret access key does not fit, or this machine's clock is wrong",
    "RequestExpired": "this machine's clock is wrong",
    "ExpiredTokenException": "the credentials have run out",
}

# botocore writes whole requests, addresses included, at DEBUG. Whoever wants that sets the level of its loggers anew.
logging.getLogger("botocore").setLevel(logging.INFO)


class SesProvider:
    """Amazon SES as a provider. Calling again would send again, so what gave no answer stays unknown.

    `timeout` bounds a whole call. Without a key of our own, boto3 looks for credentials where it does by custom: shared
    files, a container's or machine's role. Credentials are asked for before each call and hold for all of it.
    """

    name = NAME
    idempotent = False
    live = True
    atomic = False

    def __init__(
        self,
        *,
        region: str,
        configuration_set: str | None = None,
        endpoint_url: str | None = None,
        timeout: timedelta = timedelta(seconds=60),
        batch_size: int = 50,
        key_id: str | None = None,
        secret_key: str | None = None,
        session_token: str | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.batch_size = batch_size
        self._region, self._set, self._url = region, configuration_set, endpoint_url
        self._timeout, self._clock = timeout, clock
        self._keys = (key_id, secret_key, session_token)
        self._lock = threading.Lock()
        self._made: tuple[Any, Any] | None = None  # credentials, and the client that was made with them
        self._under_way = threading.local()
        self._row = _Row()

    def submit(
        self, message: Message, recipients: Sequence[Recipient], attempt: AttemptId, started: Callable[[], None]
    ) -> Iterator[Receipt]:
        """One request a recipient, one after another. Each receipt comes as soon as it is known.

        An error beside receipts speaks for those that were not tried. OutcomeUnknown beside receipts names nobody else
        than the one whose receipt says so.
        """
        if not recipients:
            return
        try:
            mould = Mould(message)
        except HeaderError as error:
            raise ProviderRefused(self.name, str(error)) from error
        client, now = self._client(), self._clock()
        seconds = self._timeout.total_seconds()
        ends = monotonic() + seconds
        call = _Call(recipients, message.digest, self._row)
        while call.waiting and call.fault is None:
            left = ends - monotonic()
            if call.known and left < seconds * _LAST_COPY:
                break
            try:
                request = self._request(message, mould, call.waiting[0], attempt, now)
            except HeaderError as error:
                yield call.unfit(str(error))
                continue
            yield from call.tell(self._hand_over(client, request, timedelta(seconds=left), started))
            started = _nothing
        yield from call.rest()
        if call.fault is not None:
            raise call.fault

    def events(self, headers: Mapping[str, str], body: bytes) -> Sequence[Event]:  # noqa: ARG002 # whatever it is
        """SES tells by way of SNS, which this version does not read."""
        raise WebhookRejected(self.name, "this version reads no events of Amazon SES")

    def check(self) -> Sequence[Finding]:
        """Whether the credentials are taken and the account may send, and what is left of its quota."""
        where = f"ses in {self._region}"
        findings = []
        if self._url is not None and urlsplit(self._url).scheme != "https":
            what = f"{where}: the connection is not encrypted, so anybody on the way reads the mails"
            findings.append(Finding(ok=None, what=what))
        within = min(self._timeout, _CHECK_TIMEOUT)
        try:
            client = self._client()
            told = self._ask(lambda: client.get_account(), within, _nothing)  # noqa: PLW0108 # boto3 makes it at run time
        except DispatchError as error:
            return [*findings, Finding(ok=False, what=f"{where}: {error}")]
        if isinstance(told, _Refusal):
            # A right to send that does not include looking is as it should be.
            ok = None if told.code == "AccessDeniedException" else False
            what = "the account cannot be looked at, which needs ses:GetAccount" if ok is None else told.said
            return [*findings, Finding(ok=ok, what=f"{where}: {what}")]
        return [*findings, *_standing(where, told)]

    def close(self) -> None:
        """Nothing is held open: each request has a connection of its own."""

    # ------------------------------------------------------------------------------------------ the call

    def _request(
        self, message: Message, mould: Mould, recipient: Recipient, attempt: AttemptId, now: datetime
    ) -> dict[str, Any]:
        """The arguments of one SendEmail. Raises HeaderError, which quotes nothing, where there is no such mail."""
        data = mould.fill(recipient, now)
        if not recipient.address.isascii():  # dg/creating-identities; RFC 6531 is not spoken there
            raise HeaderError("an address has characters beyond ASCII, which Amazon SES does not take")
        tags = {"delivery_id": recipient.delivery, "attempt_id": attempt}
        request = {
            "FromEmailAddress": message.sender.from_address,
            "Destination": {"ToAddresses": [recipient.address]},
            "Content": {"Raw": {"Data": data}},
            "EmailTags": [{"Name": name, "Value": value} for name, value in tags.items()],
        }
        return {**request, "ConfigurationSetName": self._set} if self._set else request

    def _hand_over(
        self, client: Any, request: dict[str, Any], within: timedelta, started: Callable[[], None]
    ) -> "str | _Refusal | DispatchError":
        """SES's name for the mail that it took; why it refuses this one; or the error that ends the call."""
        try:
            told = self._ask(lambda: client.send_email(**request), within, started)
        except DispatchError as error:
            return error
        if isinstance(told, _Refusal):
            return told.about_everybody() or told
        name = told.get("MessageId")
        if not isinstance(name, str) or not re.fullmatch(r"[!-~]{1,200}", name):
            return OutcomeUnknown(self.name, "it said yes without a name for the mail: another server may be there")
        return name

    def _ask(
        self, do: Callable[[], dict[str, Any]], within: timedelta, started: Callable[[], None]
    ) -> "dict[str, Any] | _Refusal":
        """A whole answer. Raises Unreachable, ProviderRefused, OutcomeUnknown, or what `started` raises."""
        carriage = self._under_way.carriage = _Carriage(within, started, lambda: self._tls)
        try:
            return do()
        except ClientError as error:
            return _Refusal(error.response, self._secrets())
        except BotoCoreError as error:  # its own sentence may quote a request
            fault = type(error).__name__
        finally:
            self._under_way.carriage = None
        if carriage.answered:
            raise OutcomeUnknown(self.name, f"its answer cannot be read ({fault})")
        raise ProviderRefused(self.name, f"boto3 makes no request of it ({fault})")

    def _client(self) -> Any:
        """A client with credentials that hold. Raises ProviderRefused where there are none.

        boto3 would renew a role's credentials in the middle of a call, by requests that nothing of ours bounds.
        """
        fault = ""
        with self._lock:
            try:
                found = self._session.get_credentials()
                frozen = found.get_frozen_credentials() if found is not None else None
                if frozen is not None and (self._made is None or self._made[0] != frozen):
                    self._made = frozen, self._open(frozen)
            except (BotoCoreError, ClientError, ValueError) as error:  # ValueError: a region or address that is none
                fault = f" ({type(error).__name__})"
            else:
                if frozen is not None and self._made is not None:
                    return self._made[1]
        raise ProviderRefused(self.name, f"boto3 finds no credentials that it can use{fault}")

    def _secrets(self) -> list[str]:
        frozen = self._made[0] if self._made is not None else None
        return [one for one in (frozen.secret_key, frozen.token) if one] if frozen is not None else []

    @cached_property
    def _session(self) -> Any:
        key_id, secret_key, session_token = self._keys
        return boto3.session.Session(
            aws_access_key_id=key_id,
            aws_secret_access_key=secret_key,
            aws_session_token=session_token,
            region_name=self._region,
        )

    def _open(self, frozen: Any) -> Any:
        client = self._session.client(
            "sesv2",
            endpoint_url=self._url,
            aws_access_key_id=frozen.access_key,
            aws_secret_access_key=frozen.secret_key,
            aws_session_token=frozen.token,
            config=Config(retries={"total_max_attempts": 1, "mode": "standard"}),
        )
        client.meta.events.register("before-send.sesv2", lambda request, **_: self._under_way.carriage.carry(request))
        return client

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context()


def _nothing() -> None:
    """What is called in place of `started` once it was."""


class _Carriage:
    """Carries the one request of a call in place of botocore."""

    def __init__(self, within: timedelta, started: Callable[[], None], tls: Callable[[], ssl.SSLContext]) -> None:
        self.answered = False
        self._within, self._started, self._tls = within, started, tls

    def carry(self, request: Any) -> AWSResponse:
        """The answer to a signed request (an AWSPreparedRequest). Raises Unreachable or OutcomeUnknown."""
        headers = {
            name: value.decode("latin-1") if isinstance(value, bytes) else str(value)
            for name, value in request.headers.items()
        }
        asked = urllib.request.Request(request.url, request.body, headers, method=request.method)  # noqa: S310 # as set
        answer = bounded(NAME, self._within, self._started, self._tls, lambda exchange: exchange.ask(asked))
        self.answered = True
        return AWSResponse(request.url, answer.status, dict(answer.headers.items()), _Body(answer))


class _Body:
    """An answer's body as botocore reads one."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def stream(self) -> Iterator[bytes]:
        """All of it."""
        yield self._answer.body


# ---------------------------------------------------------------------------------------------- what a no means


class _Refusal:
    """An answer that is no yes: its status, the service's code for it, and what it says, scrubbed."""

    def __init__(self, response: Mapping[str, Any], secrets: Sequence[str] = ()) -> None:
        error = response.get("Error") or {}
        self.status = int((response.get("ResponseMetadata") or {}).get("HTTPStatusCode") or 0)
        self.code = re.sub(r"[^A-Za-z0-9._-]", "", str(error.get("Code") or ""))[:60]
        self._message = str(error.get("Message") or "").encode("utf-8", "replace").decode()
        self._secrets = secrets

    @property
    def said(self) -> str:
        """What to do about it, where that is known, and what SES says."""
        to_do = _TO_DO.get(self.code, "it does not take the request")
        if self.code in _ABOUT_ONE:
            to_do = "sender or recipient is not verified" if _NOT_VERIFIED.search(self._message) else "it takes no such"
        told = scrub(self._message, *self._secrets)
        return f"{to_do} ({self.code or self.status})" + (f": {told}" if told else "")

    def about_everybody(self) -> DispatchError | None:
        """The error that it is for all who have no receipt yet. None where it may be about this copy alone."""
        if self.status >= http.HTTPStatus.INTERNAL_SERVER_ERROR or self.status == http.HTTPStatus.REQUEST_TIMEOUT:
            return OutcomeUnknown(NAME, f"it said {self.status}, which tells nothing about the mail")
        if self.code in _THROTTLED or self.status == http.HTTPStatus.TOO_MANY_REQUESTS:
            return Throttled(NAME, _QUOTA_WAIT if "daily" in self._message.lower() else _RATE_WAIT)
        if self.code in _ABOUT_ONE and not _NOT_VERIFIED.search(self._message):
            return None
        return ProviderRefused(NAME, self.said)


class _Row:
    """What all calls of a provider have seen: of which messages somebody was accepted, and how many refusals since."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._proven: deque[str] = deque(maxlen=_MESSAGES)
        self._refused = 0

    def accepted(self, message: str) -> None:
        """Somebody was."""
        with self._lock:
            self._refused = 0
            if message not in self._proven:
                self._proven.append(message)

    def believes(self, message: str) -> bool:
        """Whether a refusal is believed to be about its recipient: the message is good, and it is not one of many."""
        with self._lock:
            self._refused += 1
            if self._refused >= _IN_A_ROW:
                self._proven.clear()
                self._refused = 0
            return message in self._proven


class _Call:
    """One submit: who waits, who was refused and is not believed to be at fault, and what ended it.

    A refusal while nobody was accepted may be about the message, which all of them share. It is held back until
    somebody is.
    """

    def __init__(self, recipients: Sequence[Recipient], message: str, row: _Row) -> None:
        self.waiting = deque(recipients)
        self.fault: DispatchError | None = None
        self.known = False  # whether anybody has a receipt
        self._doubted: dict[DeliveryId, str] = {}
        self._message, self._row = message, row

    def unfit(self, why: str) -> Receipt:
        """The next one's receipt, for whom no mail can be made."""
        self.known = True
        return Receipt(self.waiting.popleft().delivery, Result.REFUSED, why)

    def tell(self, told: "str | _Refusal | DispatchError") -> Iterator[Receipt]:
        """The receipts that the answer about the next one gives."""
        if isinstance(told, DispatchError):
            self.fault = told
            if isinstance(told, OutcomeUnknown):
                self.known = True
                yield Receipt(self.waiting.popleft().delivery, Result.UNKNOWN, str(told))
            return
        delivery = self.waiting.popleft().delivery
        if isinstance(told, str):
            self.known = True
            self._row.accepted(self._message)
            for doubted, said in self._doubted.items():
                yield Receipt(doubted, Result.REFUSED, said)
            self._doubted.clear()
            yield Receipt(delivery, Result.ACCEPTED, provider_id=told)
        elif self._row.believes(self._message):
            self.known = True
            yield Receipt(delivery, Result.REFUSED, told.said)
        else:
            self._doubted[delivery] = told.said
            if len(self._doubted) >= _IN_A_ROW or not self.waiting:
                what = f"{len(self._doubted)} were refused and nobody was accepted; the last one: {told.said}"
                self.fault = ProviderRefused(NAME, what)

    def rest(self) -> Iterator[Receipt]:
        """Who was not tried, or is not believed to be at fault. Where nobody has a receipt, the error alone speaks."""
        if self._doubted and self.fault is None:
            what = f"{len(self._doubted)} were refused and nobody was accepted in the time of a call"
            self.fault = ProviderRefused(NAME, what)
        if self.known:
            why = str(self.fault) if self.fault is not None else "no time was left for them in this call"
            for delivery in (*self._doubted, *(one.delivery for one in self.waiting)):
                yield Receipt(delivery, Result.NOT_TRIED, why)


# ---------------------------------------------------------------------------------------------- for doctor


def _standing(where: str, account: Mapping[str, Any]) -> Iterator[Finding]:
    """What GetAccount tells."""
    if not account.get("SendingEnabled", True) or account.get("EnforcementStatus") == "SHUTDOWN":
        yield Finding(ok=False, what=f"{where}: AWS has paused the account's sending")
    elif account.get("ProductionAccessEnabled") is False:
        what = f"{where}: the account is in the sandbox, where only verified addresses are mailed"
        yield Finding(ok=False, what=what)
    else:
        yield Finding(ok=True, what=f"{where}: the credentials are taken, and the account may send")
    if account.get("EnforcementStatus") == "PROBATION":
        yield Finding(ok=None, what=f"{where}: AWS has the account under review")
    quota = account.get("SendQuota") or {}
    rate, most, sent = (quota.get(name) for name in ("MaxSendRate", "Max24HourSend", "SentLast24Hours"))
    if isinstance(rate, int | float) and isinstance(most, int | float) and isinstance(sent, int | float):
        a_day = "any number" if most < 0 else f"{most:,.0f}"
        yield Finding(ok=None, what=f"{where}: {rate:g} mails a second, {a_day} in 24 hours, of which {sent:,.0f} used")
