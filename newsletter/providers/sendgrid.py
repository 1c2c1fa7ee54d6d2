"""SendGrid's v3 API: one request for up to 1,000 copies, and the event webhook that tells what became of them.

The request (newsletter/providers/personalizations.py) is posted by the `sendgrid` package through our own Exchange:
only so is `started` called at the one right moment, the whole call bounded, and every way to fail told apart. Why, and
what each answer means: docs/decisions/0011.

Facts about SendGrid are from its API reference (docs.sendgrid.com/api-reference/mail-send, November 2026) and its
published OpenAPI description, where no other source is named.
"""

import copy
import hashlib
import http
import json
import re
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.message import Message as Headers
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any, Self
from urllib.parse import urlsplit

import python_http_client
from sendgrid import SendGridAPIClient
from sendgrid.helpers.eventwebhook import EventWebhook

from newsletter.edition import (
    AttemptId,
    DeliveryId,
    Event,
    EventKind,
    Finding,
    Message,
    Receipt,
    Recipient,
    Result,
    accepted,
)
from newsletter.errors import (
    ConfigurationError,
    OutcomeUnknown,
    ProviderRefused,
    Throttled,
    Unreachable,
    WebhookRejected,
)
from newsletter.mime import HeaderError
from newsletter.providers.exchange import Answer, Exchange, bounded
from newsletter.providers.personalizations import MOST_RECIPIENTS, Held, build, clean
from newsletter.providers.scrubbing import scrub
from newsletter.providers.smtp_wire import OF_SENDER

LARGEST_WEBHOOK_BYTES = 5_000_000  # SendGrid posts at most 768 kB at a time (Event Webhook reference)
_CHECK_TIMEOUT = timedelta(seconds=10)
_SHORTEST_WAIT, _USUAL_WAIT, _LONGEST_WAIT = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
_MANY = 10  # recipients of a request, of whom it is not believed that more than half are at fault

_HOSTS = {"global": "https://api.sendgrid.com", "eu": "https://api.eu.sendgrid.com"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_VISIBLE = re.compile(r"[^!-~]")
_OURS = re.compile(r"[a-z0-9]{1,32}")  # the shape of our ids, as newsletter/edition.py promises it
_SOMEBODY = re.compile(r"personalizations[.\[](\d{1,6})\]?(?:[.\[]to\]?(?:[.\[]\d+\]?)?(?:\.email|\.name)?)?")

_TO_DO = {
    401: "the API key is not valid, or the account has used up its credit",
    402: "the account waits for a payment",
    403: "the API key may not send mail, or the sender is not verified",
    404: "there is no such API at provider.host",
    413: "the request was too large",
}
_KINDS = {  # Event Webhook reference, by `event`
    "processed": EventKind.PROCESSED,
    "deferred": EventKind.DELAYED,
    "delivered": EventKind.DELIVERED,
    "bounce": EventKind.BOUNCED,
    "dropped": EventKind.DROPPED,
    "spamreport": EventKind.COMPLAINED,
    "unsubscribe": EventKind.LEFT,
    "group_unsubscribe": EventKind.LEFT,
    "group_resubscribe": EventKind.REJOINED,
    "open": EventKind.OPENED,
    "click": EventKind.CLICKED,
}
# What `bounce_classification` says of a block that is the sender's (Bounce and Block Classifications, SendGrid's docs).
_OF_SENDER = {"Reputation", "Content", "Frequency or Volume Too High"}
_BLOCKS = {"blocked", "expired"}  # the `type` of a bounce that says nothing against the mailbox; `bounce` is the other
# Why it dropped a copy, where that is a list of its own against the address (Event Webhook reference, Dropped events).
# Its others (a package that is used up, content it takes for spam, a header it cannot read) are not the person's.
_LISTED = {
    "bounced address": EventKind.BOUNCED,
    "invalid": EventKind.BOUNCED,
    "spam reporting address": EventKind.COMPLAINED,
    "unsubscribed address": EventKind.LEFT,
}
_LISTS = {  # its lists of whom it will not mail (Suppressions API); a block lasts for one mail alone
    "bounces": EventKind.BOUNCED,
    "blocks": EventKind.BLOCKED,
    "invalid_emails": EventKind.BOUNCED,
    "spam_reports": EventKind.COMPLAINED,
    "unsubscribes": EventKind.LEFT,
}
_PAGE = 500  # entries, the most of one answer
_MOST_PAGES = 2_000  # a million entries: more is somebody else's list, or one that never ends
_TICKED = {  # what the webhook has to post, by its name in the settings and on the page
    "processed": "Processed",
    "deferred": "Deferred",
    "delivered": "Delivered",
    "bounce": "Bounced",
    "dropped": "Dropped",
    "spam_report": "Spam Reports",
    "unsubscribe": "Unsubscribed",
}
_OLDEST, _AHEAD = timedelta(hours=25), timedelta(hours=1)  # SendGrid tries for 24 h; and an hour for clocks that differ
_SIGNATURE = "x-twilio-email-event-webhook-signature"
_TIMESTAMP = "x-twilio-email-event-webhook-timestamp"
_LONGEST_ID = 200  # SendGrid's have 22 to 64 characters
_LONGEST_NUMBER = 30  # digits; Python reads no number of some thousand
_END_OF_TIME = 253_402_300_800  # the year 10000, which no datetime holds


class SendGridProvider:
    """SendGrid as a provider. Calling again would send again, so what gave no answer stays unknown.

    `host` is "global", "eu" or a base URL; `timeout` bounds a whole call; `hook` is where its webhook should post to;
    `clock` tells the time that a wish to wait, and the age of a post, are reckoned from. In its `sandbox` SendGrid
    judges each request and delivers none. `hold` is how long SendGrid keeps back what it took, so that it can be called
    back. Raises ConfigurationError where the key cannot be one.
    """

    name = "sendgrid"
    idempotent = False
    live = True
    atomic = True

    def __init__(
        self,
        key: str,
        *,
        host: str = "global",
        timeout: timedelta = timedelta(seconds=60),
        batch_size: int = MOST_RECIPIENTS,
        webhook_keys: Sequence[str] = (),
        sandbox: bool = False,
        hold: timedelta = timedelta(),
        hook: str | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        if not re.fullmatch(r"[!-~]+", key):  # http.client would quote such a key in its error
            raise ConfigurationError("SENDGRID_API_KEY: expected a key in ASCII without blanks")
        self.batch_size = min(batch_size, MOST_RECIPIENTS)
        self._key, self._sandbox, self._clock, self._timeout = key, sandbox, clock, timeout
        self._host = _HOSTS.get(host, host.rstrip("/"))
        self._verifiers = [_verifier(webhook_key) for webhook_key in webhook_keys]
        self.hold = timedelta() if sandbox else hold
        self._recall_id: str | None = None
        self._rest = _Rest()
        self._webhook_keys, self._hook = frozenset(webhook_keys), hook

    def submit(
        self, message: Message, recipients: Sequence[Recipient], attempt: AttemptId, started: Callable[[], None]
    ) -> Iterator[Receipt]:
        """Post one request. All receipts come with its answer, since SendGrid takes a request whole or not at all.

        Whom it cannot take is refused before the call, and whom this request has no room for has not been tried; beside
        an unknown outcome that still holds. Where SendGrid has said that its limit is used up, Throttled comes without
        a call.
        """
        if (rest := self._rest.left(self._clock())) is not None:
            raise Throttled(self.name, rest)
        held_until = self._clock() + self.hold if self._recall_id else None
        held = Held(int(held_until.timestamp()), self._recall_id) if held_until and self._recall_id else None
        try:
            request = build(message, recipients, attempt, sandbox=self._sandbox, held=held)
        except HeaderError as error:
            raise ProviderRefused(self.name, str(error)) from error
        answered: list[Receipt] = []
        if request.called:
            body = _Hidden(request.body)
            try:
                answer = self._ask(lambda client: client.mail.send.post(request_body=body), self._timeout, started)
                self._rest.heed(answer.headers, self._clock())
                answered = self._receipts(request.called, answer)
            except OutcomeUnknown:
                yield from request.receipts
                raise
        if held_until is not None:
            answered = [
                one._replace(held_until=held_until) if one.result is Result.ACCEPTED else one for one in answered
            ]
        yield from (*request.receipts, *answered)

    def reserve(self) -> str:
        """A batch id (Mail Batch reference): requests that carry it are cancelled together. Raises a DispatchError."""
        answer = self._ask(
            lambda client: client.mail.batch.post(request_body=_Hidden(b"{}")), self._timeout, lambda: None
        )
        batch_id = _object(answer.body).get("batch_id")
        if answer.status_code != http.HTTPStatus.CREATED or not isinstance(batch_id, str) or not batch_id.isalnum():
            raise ProviderRefused(self.name, self._complaint(answer.status_code, answer.body))
        return batch_id[:100]

    def holding(self, recall_id: str) -> Self:
        """The same, whose requests carry a batch id and are kept back for `hold`."""
        made = copy.copy(self)
        made._recall_id = recall_id  # noqa: SLF001 # its own class
        return made

    def recall(self, recall_id: str) -> None:
        """Cancel what is scheduled under a batch id (Cancel Scheduled Sends reference). Raises a DispatchError.

        SendGrid takes that up to ten minutes before `send_at`, and says 400 where it was cancelled before.
        """
        asked = _Hidden(json.dumps({"batch_id": recall_id, "status": "cancel"}).encode())
        answer = self._ask(
            lambda client: client.user.scheduled_sends.post(request_body=asked), self._timeout, lambda: None
        )
        if answer.status_code == http.HTTPStatus.CREATED:
            return
        known = self._ask(lambda client: client.user.scheduled_sends._(recall_id).get(), self._timeout, lambda: None)
        if not any(
            isinstance(one, dict) and one.get("batch_id") == recall_id and one.get("status") == "cancel"
            for one in _list(known.body)
        ):
            raise ProviderRefused(self.name, self._complaint(answer.status_code, answer.body))

    def events(self, headers: Mapping[str, str], body: bytes) -> Sequence[Event]:
        """What a post of the event webhook tells, in its order. Raises WebhookRejected.

        An item that cannot be read is an event of kind UNKNOWN: it costs nobody else's.
        """
        if len(body) > LARGEST_WEBHOOK_BYTES:
            raise WebhookRejected(self.name, f"it is larger than {LARGEST_WEBHOOK_BYTES // 1_000_000} MB")
        told = {name.lower(): value for name, value in headers.items()}
        at = self._verified(told.get(_SIGNATURE), told.get(_TIMESTAMP), body)
        try:
            items = json.loads(body, parse_int=_number)
            if not isinstance(items, list):
                raise WebhookRejected(self.name, "its body is no array", signed=True)
            return [self._event(item, at) for item in items]
        except (ValueError, RecursionError):  # RecursionError: nested a thousand deep
            raise WebhookRejected(self.name, "its body is not JSON that can be read", signed=True) from None

    def poll(self, since: datetime | None) -> Iterator[Event]:
        """What was put on SendGrid's lists of whom it will not mail, since an instant; of each list in its order."""
        start = max(0, int(since.timestamp())) if since else None
        for name, kind in _LISTS.items():
            for page in range(_MOST_PAGES):
                query = {"limit": _PAGE, "offset": page * _PAGE} | ({"start_time": start} if start else {})
                answer = self._ask(_getting(name, query), self._timeout, lambda: None)
                if answer.status_code == http.HTTPStatus.TOO_MANY_REQUESTS:
                    raise Throttled(self.name, self._wait(answer.headers))
                if answer.status_code != http.HTTPStatus.OK:
                    scope = f"its list of {name} cannot be read (the API key needs the scope suppression.read)"
                    raise ProviderRefused(self.name, f"{scope}: {answer.status_code}")
                entries = _read(answer.body)
                if not isinstance(entries, list):
                    raise ProviderRefused(self.name, f"its list of {name} is no list")
                yield from (event for entry in entries if (event := self._entry(name, kind, entry)))
                if len(entries) < _PAGE:
                    break

    def _entry(self, name: str, kind: EventKind, entry: Any) -> Event | None:
        """An entry of one of SendGrid's lists; None where it is none."""
        told: dict[str, Any] = entry if isinstance(entry, dict) else {}
        at, address = _instant(told.get("created")), told.get("email")
        if at is None or not isinstance(address, str) or not address:
            return None
        said = f"list of {name}"
        return Event(
            id=_digest([said, address, int(at.timestamp())]),
            kind=kind,
            at=at,
            said=said,
            address=_CONTROL.sub("", clean(address))[:320] or None,
            reason=self._scrub(str(told.get("reason") or "")) or None,
            of_sender=kind is EventKind.BLOCKED and _of_sender(told),
        )

    def check(self) -> Sequence[Finding]:
        """Whether the key is valid and may send mail, and whether the webhook's keys can be used."""
        findings = [self._check_key()]
        if urlsplit(self._host).scheme != "https":
            findings.append(Finding(ok=None, what="sendgrid: the connection is not encrypted, so the key can be read"))
        for number, verifier in enumerate(self._verifiers, 1):
            if verifier is None:
                what = f"sendgrid: webhook key {number} is no ECDSA P-256 key as SendGrid shows it"
                findings.append(Finding(ok=False, what=what))
        if not self._verifiers:
            what = "sendgrid: provider.webhook_keys is empty: what becomes of accepted mail will not be known"
            findings.append(Finding(ok=None, what=what))
        if findings[0].ok and self._hook is not None:
            findings += self._check_webhook(self._hook)
        return findings

    def close(self) -> None:
        """Nothing is held open: each request has a connection of its own."""

    # ------------------------------------------------------------------------------------------ the call

    def _ask(self, request: Callable[[Any], Any], within: timedelta, started: Callable[[], None]) -> Any:
        """The package's Response to a request. Raises Unreachable, OutcomeUnknown, or what `started` raises."""

        def through(exchange: Exchange) -> Any:
            client = SendGridAPIClient(api_key=self._key, host=self._host)
            return request(_Client(exchange, client.client))

        return bounded(self.name, within, started, lambda: self._tls, through)

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context()  # 20 ms for the system's certificates: once, not for each request

    def _receipts(self, called: Sequence[DeliveryId], answer: Any) -> list[Receipt]:
        """What an answer means for those who were called for. Raises a DispatchError where it speaks of all of them."""
        status = answer.status_code
        if status == http.HTTPStatus.ACCEPTED or (self._sandbox and status == http.HTTPStatus.OK):
            name = re.sub(r"[^!-~]", "", answer.headers.get("X-Message-Id") or "")[:100] or None
            if self._sandbox:
                self._judged(status, name, answer.body)
            return accepted(called, name)
        if status == http.HTTPStatus.TOO_MANY_REQUESTS:
            raise Throttled(self.name, self._wait(answer.headers))
        if status == http.HTTPStatus.BAD_REQUEST:
            return self._refusals(called, answer.body)
        if 300 <= status < 500 and status != http.HTTPStatus.REQUEST_TIMEOUT:  # noqa: PLR2004 # classes of RFC 9110
            # What is too large for many may do for one: that is found out as where one may have spoilt it for others.
            suspect = status == http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            raise ProviderRefused(self.name, self._complaint(status, answer.body), suspect=suspect)
        raise OutcomeUnknown(self.name, f"it said {status}, which tells nothing about the request")

    def _judged(self, status: int, name: str | None, body: bytes) -> None:
        """Whether an answer says that the sandbox judged a request. Raises OutcomeUnknown where it does not.

        SendGrid says 200 there. Its OpenAPI description, and a server made from it, says 202 without a message id.
        """
        if status == http.HTTPStatus.ACCEPTED and name:
            told = "it answered 202 with a message id although the sandbox was asked for: it may have been sent"
            raise OutcomeUnknown(self.name, told)
        if status == http.HTTPStatus.OK and body.strip() and not isinstance(_read(body), dict):
            raise OutcomeUnknown(
                self.name, "it said 200 and something that is not SendGrid's: another server may be there"
            )

    def _refusals(self, called: Sequence[DeliveryId], body: bytes) -> list[Receipt]:
        """A 400. Where all its errors name recipients, those are refused and the others have not been tried.

        An error about what is inside a personalization but not its recipient (`personalizations.3.headers`) names
        nobody, since it may as well be about the one form that all of them have. So may errors that name everybody, or
        most of many.
        """
        fields = [str(error.get("field") or "") for error in _errors(body)]
        if any(field and not field.startswith("personalizations") for field in fields):
            raise ProviderRefused(self.name, self._complaint(http.HTTPStatus.BAD_REQUEST, body))
        refused: dict[int, str] = {}
        for field, error in zip(fields, _errors(body), strict=True):
            found = _SOMEBODY.fullmatch(field)
            if found is None or int(found[1]) >= len(called):
                refused = {}
                break
            refused.setdefault(int(found[1]), self._scrub(str(error.get("message") or "")) or "no reason given")
        if not refused or 1 < len(called) == len(refused) or _MANY < len(called) < 2 * len(refused):
            raise ProviderRefused(self.name, self._complaint(http.HTTPStatus.BAD_REQUEST, body), suspect=True)
        beside = "SendGrid refused another recipient of the same request"
        return [
            Receipt(delivery, Result.REFUSED, refused[index])
            if index in refused
            else Receipt(delivery, Result.NOT_TRIED, beside)
            for index, delivery in enumerate(called)
        ]

    def _complaint(self, status: int, body: bytes) -> str:
        """What to do about an answer, and what SendGrid says of it."""
        said = "; ".join(
            f"{error.get('message') or 'no reason given'}" + (f" ({error['field']})" if error.get("field") else "")
            for error in _errors(body)
        )
        moved = "provider.host leads elsewhere" if status < 400 else "SendGrid does not take the request"  # noqa: PLR2004 # 3xx
        to_do = f"{_TO_DO.get(status, moved)} ({int(status)})"
        return f"{to_do}: {self._scrub(said)}" if said else to_do

    def _wait(self, headers: Headers) -> timedelta:
        """How long a 429 asks to wait. SendGrid sends the epoch second of the next window, and no Retry-After."""
        now = self._clock()
        reset, after = (str(headers.get(name) or "").strip() for name in ("X-RateLimit-Reset", "Retry-After"))
        if re.fullmatch(r"[0-9]{1,12}", reset):
            wait = timedelta(seconds=int(reset) - now.timestamp())
        elif re.fullmatch(r"[0-9]{1,9}", after):
            wait = timedelta(seconds=int(after))
        else:
            try:
                wait = parsedate_to_datetime(after).astimezone(UTC) - now
            except (ValueError, OverflowError):
                wait = _USUAL_WAIT
        return min(max(wait, _SHORTEST_WAIT), _LONGEST_WAIT)

    def _check_key(self) -> Finding:
        within = min(self._timeout, _CHECK_TIMEOUT)
        try:
            answer = self._ask(lambda client: client.scopes.get(), within, lambda: None)
        except (Unreachable, OutcomeUnknown) as error:
            return Finding(ok=False, what=str(error))
        if answer.status_code != http.HTTPStatus.OK:
            return Finding(ok=False, what=f"sendgrid: {self._complaint(answer.status_code, answer.body)}")
        scopes = _object(answer.body).get("scopes")
        if not isinstance(scopes, list) or "mail.send" not in scopes:
            return Finding(ok=False, what="sendgrid: the API key may not send mail: it needs the scope mail.send")
        where = urlsplit(self._host).hostname
        return Finding(ok=True, what=f"sendgrid at {where}: the API key is valid and may send mail")

    def _check_webhook(self, hook: str) -> Iterator[Finding]:
        """Whether SendGrid posts to us what we need, signed by a key that we know."""
        within = min(self._timeout, _CHECK_TIMEOUT)
        settings: Any = None
        try:
            answer = self._ask(lambda client: client.user.webhooks.event.settings.all.get(), within, lambda: None)
            settings = _object(answer.body).get("webhooks") if answer.status_code == http.HTTPStatus.OK else None
            why = f"it said {answer.status_code}; a key with the scope user.webhooks.event.settings.read may look"
        except (Unreachable, OutcomeUnknown) as error:
            why = str(error)
        if not isinstance(settings, list):
            yield Finding(ok=None, what=f"sendgrid: whether its webhook is set up well cannot be seen: {why}")
            return
        ours = [one for one in settings if isinstance(one, dict) and str(one.get("url")).rstrip("/") == hook]
        if not ours:
            yield Finding(ok=None, what=f"sendgrid: none of its {len(settings)} webhooks posts to {hook}")
        for one in ours:
            faults = list(self._webhook_faults(one))
            yield from (Finding(ok=False, what=f"sendgrid: the webhook to {hook} {fault}") for fault in faults)
            if not faults:
                yield Finding(ok=True, what=f"sendgrid: the webhook to {hook} is signed and tells what is needed")

    def _webhook_faults(self, told: Mapping[str, Any]) -> Iterator[str]:
        if not told.get("enabled"):
            yield "is switched off"
        key = told.get("public_key")
        if not key:
            yield "is not signed: switch on “Signed Event Webhook”, and put its verification key into webhook_keys"
        elif key not in self._webhook_keys:
            yield "is signed by a key that is not in provider.webhook_keys, so that its posts are refused"
        if missing := [title for name, title in _TICKED.items() if not told.get(name)]:
            yield f"does not tell of: {', '.join(missing)}"

    def _scrub(self, text: str) -> str:
        """A provider's text without addresses, controls and the key, cut to a length."""
        return scrub(clean(text), self._key)

    # ------------------------------------------------------------------------------------------ the webhook

    def _verified(self, signature: str | None, timestamp: str | None, body: bytes) -> datetime:
        """When a post was signed. Any of the keys may have signed it, so that keys can be changed without a gap.

        The package's verifier takes the body as a str and encodes it again, which gives the same bytes for whatever is
        UTF-8. JSON is (RFC 8259 section 8.1), so that a body which is not can be turned away first.
        """
        if not self._verifiers:
            raise WebhookRejected(self.name, "no provider.webhook_keys are configured, so nothing can be believed")
        if not signature or not timestamp:
            raise WebhookRejected(self.name, "its signature or timestamp is missing")
        at = _instant(int(timestamp)) if re.fullmatch(r"[0-9]{1,12}", timestamp) else None
        try:
            text = body.decode()
            good = any(key.verify_signature(text, signature, timestamp) for key in self._verifiers if key)
        except ValueError:  # no UTF-8, or no base64: binascii.Error is one
            good = False
        if not good or at is None:
            raise WebhookRejected(self.name, "its signature is not by any of provider.webhook_keys")
        if not -_AHEAD <= self._clock() - at <= _OLDEST:
            raise WebhookRejected(
                self.name, f"it was signed at {at:%Y-%m-%d %H:%M} UTC, which is too long ago or to come"
            )
        return at

    def _event(self, item: Any, signed: datetime) -> Event:
        told: dict[str, Any] = item if isinstance(item, dict) else {}
        said = _text(told, "event")
        kind = _KINDS.get(said)
        if kind is None:
            said, kind = self._scrub(said)[:50], EventKind.UNKNOWN
        if kind is EventKind.BOUNCED and _text(told, "type") in _BLOCKS:
            kind = EventKind.BLOCKED
        delivery, attempt, own = (_text(told, name) for name in ("delivery_id", "attempt_id", "sg_event_id"))
        ours = _OURS.fullmatch(delivery) is not None
        why = _text(told, "reason") or _text(told, "response")
        return Event(
            id=own if own.isprintable() and 0 < len(own) <= _LONGEST_ID else _digest(item),
            kind=kind,
            at=_instant(told.get("timestamp")) or signed,
            said=said,
            delivery=DeliveryId(delivery) if ours else None,
            attempt=AttemptId(attempt) if _OURS.fullmatch(attempt) else None,
            # "sg_message_id" is the request's X-Message-Id, a dot, and which server took which copy.
            provider_id=_VISIBLE.sub("", _text(told, "sg_message_id").partition(".")[0])[:100] or None,
            address=None if ours else _CONTROL.sub("", _text(told, "email"))[:320] or None,
            reason=self._scrub(why) or None if why else None,
            machine=kind is EventKind.OPENED and told.get("sg_machine_open") is True,
            listed=_LISTED.get(why.lower()) if kind is EventKind.DROPPED else None,
            of_sender=kind is EventKind.BLOCKED and _of_sender(told),
        )


def _of_sender(told: Mapping[str, Any]) -> bool:
    """Whether a block is about the sender: as SendGrid classifies it, else by the code that the server gave."""
    classified = _text(told, "bounce_classification")
    if classified in _OF_SENDER:
        return True
    codes = f"{_text(told, 'status')} {_text(told, 'reason')[:1_000]}"
    return classified in {"", "Unclassified"} and OF_SENDER.search(codes) is not None


# ---------------------------------------------------------------------------------------------- the package


def _getting(suppressions: str, query: Mapping[str, int]) -> Callable[[Any], Any]:
    """A request for a page of one of its lists."""
    return lambda client: client.suppression._(suppressions).get(query_params=query)


class _Rest:
    """Until when SendGrid's limit is used up, by the headers of its answers: known to all calls of a process."""

    def __init__(self) -> None:
        self._until: datetime | None = None

    def heed(self, headers: Headers, now: datetime) -> None:
        """Take in what an answer says: where nothing remains, nothing is asked before the limit's reset."""
        remaining, reset = (str(headers.get(f"X-RateLimit-{name}") or "").strip() for name in ("Remaining", "Reset"))
        if remaining == "0" and re.fullmatch(r"[0-9]{1,12}", reset):
            wait = timedelta(seconds=int(reset) - now.timestamp())
            self._until = now + min(wait, _LONGEST_WAIT)

    def left(self, now: datetime) -> timedelta | None:
        """How long to wait, None where nothing is to be waited for."""
        if self._until is None or self._until <= now:
            return None
        return self._until - now


class _Hidden(bytes):
    """A request that no log shows. The package writes whole requests into its DEBUG lines, by `format`.

    It passes on whatever its `encode` gives, where the client-wide Content-Type is not exactly "application/json".
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"[{len(self)} bytes]"

    __str__ = __repr__

    def encode(self, _charset: str) -> Self:
        """The same: it is encoded."""
        return self


class _HiddenText(str):
    """A header that no log shows."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "[not shown]"


class _Response:
    """An Answer as the package takes one."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def getcode(self) -> int:
        return self._answer.status

    def read(self) -> bytes:
        return _Hidden(self._answer.body)

    def info(self) -> Headers:
        return self._answer.headers


class _Client(python_http_client.Client):  # type: ignore[misc] # the package ships no types
    """The package's client, asking through an Exchange: its own way has no time-out, and hides what happened."""

    def __init__(self, exchange: Exchange, like: Any) -> None:
        headers = {
            **like.request_headers,
            "Authorization": _HiddenText(like.request_headers["Authorization"]),
            "Content-Type": "application/json; charset=utf-8",  # exactly "application/json" would encode a second time
        }
        super().__init__(like.host, headers, like._version, like._url_path)  # noqa: SLF001 # as its own _build_client
        self._exchange = exchange

    def _build_client(self, name: str | None = None) -> "_Client":
        built = _Client(self._exchange, self)
        built._url_path = [*self._url_path, name] if name else self._url_path
        return built

    def _make_request(self, opener: Any, request: Any, timeout: Any = None) -> _Response:  # noqa: ARG002 # its own
        return _Response(self._exchange.ask(request))


# ---------------------------------------------------------------------------------------------- reading


def _read(body: bytes) -> Any:
    """What a body holds as JSON. None where it is none."""
    try:
        return json.loads(body, parse_int=_number)
    except (ValueError, RecursionError):
        return None


def _number(digits: str) -> int | str:
    """A whole number in JSON; the digits where nobody could mean a number by so many."""
    return int(digits) if len(digits) <= _LONGEST_NUMBER else digits


def _object(body: bytes) -> dict[str, Any]:
    """A JSON object, empty where there is none."""
    found = _read(body)
    return found if isinstance(found, dict) else {}


def _list(body: bytes) -> list[Any]:
    """A JSON array, empty where there is none."""
    found = _read(body)
    return found if isinstance(found, list) else []


def _errors(body: bytes) -> list[dict[str, Any]]:
    """The errors that an answer lists: {"errors": [{"message", "field", "help"}]}. Empty where it lists none."""
    errors = _object(body).get("errors")
    return [error for error in errors if isinstance(error, dict)] if isinstance(errors, list) else []


def _text(told: Mapping[str, Any], name: str) -> str:
    """A text that an item holds, without what is no character and blanks around it. Empty where it has none."""
    found = told.get(name)
    if not isinstance(found, str):
        return ""
    return found.strip() if found.isascii() else clean(found).strip()


def _digest(item: Any) -> str:
    """A name for an item that brings none: the same for the same content."""
    return hashlib.sha256(json.dumps(item, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _instant(seconds: Any) -> datetime | None:
    """An epoch second as an aware time; None where it is none."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < _END_OF_TIME:
        return None
    return datetime.fromtimestamp(seconds, UTC)


def _verifier(key: str) -> Any:
    """The package's verifier for a key as SendGrid shows it; None where it is no key on the curve P-256."""
    try:
        verifier = EventWebhook(key)
    except Exception:  # noqa: BLE001 # cryptography has several for it, none of which says more to an operator
        return None
    return verifier if getattr(getattr(verifier.public_key, "curve", None), "name", "") == "secp256r1" else None
