"""What one mail to the bounce mailbox tells: a delivery report, a complaint, or nothing that is known.

Reads reports of RFC 3464 (multipart/report), complaints of RFC 5965 (ARF), and bounces in the form of qmail. Whom it is
about is told by the address it came to (VERP: each delivery has its own return path), else by the Message-ID of the
mail that it sends back. Both hold the delivery's id, which nobody can guess and which is nobody's name.

Anybody may write to a mailbox, so nothing here is believed further than one delivery goes, and the work is bounded: the
first 256 kB are read, and no MIME library is asked, which a mail of a thousand nested parts would keep busy. The fields
of a report are looked for in lines, wherever they stand.
"""

import base64
import binascii
import hashlib
import quopri
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from newsletter.edition import DeliveryId, Event, EventKind
from newsletter.errors import WebhookRejected
from newsletter.providers.scrubbing import scrub
from newsletter.providers.smtp_wire import GONE, OF_SENDER

_NAME = "smtp"
_READ_BYTES = 256_000  # a report says what it has to say before the mail that it sends back
_MOST_REPORTS = 20  # recipients of one report; ours have one

_CAME_TO = ("to", "delivered-to", "x-original-to", "envelope-to", "x-envelope-to", "x-rcpt-to", "return-path")
_ORIGINALS = {"message/rfc822", "text/rfc822-headers", "message/global", "message/global-headers", ""}
_OF_A_MAIL = {*_CAME_TO, "from", "date", "received", "subject"}
_FIELD = re.compile(r"([!-9;-~]{1,76}):[ \t]*(.*)", re.DOTALL)
_SENT_BACK = re.compile(r"(?im)^(?:message-id|original-message-id):\s*<([a-z0-9]{1,32})@[^<>\s]+>")
_BOUNDARY = re.compile(r"(?i)boundary\s*=\s*(?:\"([^\"\r\n]{1,200})\"|([^\s;\"]{1,200}))")
_STATUS = re.compile(r"\b[245]\.[0-9]{1,3}\.[0-9]{1,3}\b")
_QMAIL = re.compile(r"(?m)^(?:Hi\. )?This is the \S{1,60}(?: program)? at \S{1,255}$")
_QMAIL_WHOM = re.compile(r"(?m)^<([^<>\s]{1,320})>:\s*$")
_NOBODY_THERE = re.compile(
    r"(?i)user unknown|unknown user|no such (?:user|mailbox|recipient|address|person)|"
    r"(?:user|mailbox|recipient|account|address)\b.{0,40}\b(?:not found|does not exist|doesn't exist|unavailable|"
    r"unknown|disabled|inactive)|(?:invalid|unknown|nonexistent) (?:recipient|mailbox|address|local part)|"
    r"no mailbox here by that name"
)

_ACTIONS = {  # RFC 3464 section 2.3.3
    "delayed": EventKind.DELAYED,
    "delivered": EventKind.DELIVERED,
    "relayed": EventKind.PROCESSED,
    "expanded": EventKind.PROCESSED,
}
_FEEDBACK = {  # RFC 5965 section 7.3
    "abuse": EventKind.COMPLAINED,
    "fraud": EventKind.COMPLAINED,
    "opt-out": EventKind.LEFT,
    "opt-out-list": EventKind.LEFT,
}


def return_path(delivery: DeliveryId, domain: str) -> str:
    """The address that bounces of a delivery come back to."""
    return f"b+{delivery}@{domain}"


@dataclass(frozen=True, slots=True)
class _Told:
    """What a mail tells of one recipient. `address` is empty where it names none."""

    kind: EventKind
    said: str
    address: str = ""
    reason: str = ""
    of_sender: bool = False


def read(mail: bytes, domain: str | None, now: datetime) -> Sequence[Event]:
    """The events of one mail; none where it is no report and came to no delivery's address.

    `domain` is where return paths are, None where there are none. Raises WebhookRejected where it is no mail at all.
    """
    text = mail[:_READ_BYTES].decode("utf-8", "replace").replace("\r\n", "\n")
    head, _, body = text.partition("\n\n")
    headers = _fields(head)
    if _OF_A_MAIL.isdisjoint(headers):
        raise WebhookRejected(_NAME, "it is no mail: it has none of a mail's headers")
    parts = list(_parts(headers, body))
    delivery = _delivery(headers, parts, domain)
    told = list(_tell(headers, body, parts))[:_MOST_REPORTS]
    if not told and delivery is None:
        return []
    told = told or [_Told(EventKind.UNKNOWN, _word(headers))]
    at = _instant(headers.get("date", ""), now)
    return [_event(one, delivery, at, headers.get("message-id", "")) for one in told]


def _event(told: _Told, delivery: DeliveryId | None, at: datetime, mail: str) -> Event:
    address = told.address if delivery is None else ""
    parts = (told.kind, told.said, delivery or "", told.address, at.isoformat(), mail[:300])
    return Event(
        id=hashlib.sha256("\0".join(parts).encode()).hexdigest()[:40],
        kind=told.kind,
        at=at,
        said=told.said,
        delivery=delivery,
        address=address or None,
        reason=scrub(told.reason) or None,
        of_sender=told.of_sender,
        vouched=False,
    )


# ---------------------------------------------------------------------------------------------- what it tells


def _tell(headers: Mapping[str, str], body: str, parts: Sequence[tuple[Mapping[str, str], str]]) -> Iterator[_Told]:
    """What is told, a recipient each."""
    for part, inner in parts:
        kind = _type(part)
        if kind in {"message/delivery-status", "message/global-delivery-status"}:
            yield from _statuses(inner)
            return
        if kind == "message/feedback-report":
            word = _fields(inner).get("feedback-type", "").strip().lower()
            said = re.sub(r"[^a-z-]", "", word)[:40] or "feedback"
            yield _Told(_FEEDBACK.get(said, EventKind.UNKNOWN), said, reason=f"feedback: {said}")
            return
    if "auto-submitted" in headers and headers["auto-submitted"].lower().startswith("auto-replied"):
        return
    if _QMAIL.search(body[:2_000]):
        yield from _by_qmail(body)


def _statuses(text: str) -> Iterator[_Told]:
    """The recipients of a delivery-status (RFC 3464 section 2): groups of fields, of which the first is the mail's."""
    for group in re.split(r"\n[ \t]*\n", text[:_READ_BYTES])[: _MOST_REPORTS + 1]:
        fields = _fields(group)
        action = fields.get("action", "").split(" ", 1)[0].strip().lower()
        if not action:
            continue
        diagnostic = fields.get("diagnostic-code", "").partition(";")[2].strip()
        status = fields.get("status", "").strip()
        found = _STATUS.match(status)
        kind = _ACTIONS.get(action, EventKind.UNKNOWN)
        if action == "failed":
            kind = _failed(status, diagnostic)
        whom = fields.get("original-recipient") or fields.get("final-recipient") or ""
        said = f"{re.sub('[^a-z]', '', action)[:20]}{' ' + found[0] if found else ''}"
        yield _Told(
            kind, said, _address(whom.partition(";")[2]), diagnostic or status, _of_sender(kind, status, diagnostic)
        )


def _failed(status: str, diagnostic: str) -> EventKind:
    """BOUNCED where no such mailbox is there, BLOCKED where it is refused for another reason (RFC 3463).

    The server's own words are asked where the code says nothing in particular: 5.0.0.
    """
    for text in (status, diagnostic):
        found = _STATUS.search(text)
        if found and found[0][1:] != ".0.0":
            return EventKind.BOUNCED if found[0] in GONE else EventKind.BLOCKED
    return EventKind.BOUNCED if _NOBODY_THERE.search(diagnostic[:1_000]) else EventKind.BLOCKED


def _of_sender(kind: EventKind, status: str, diagnostic: str) -> bool:
    """Whether a copy was blocked for its sender's sake, by the first code that says anything in particular."""
    if kind is not EventKind.BLOCKED:
        return False
    codes = (found[0] for text in (status, diagnostic[:1_000]) for found in [_STATUS.search(text)] if found)
    return next((OF_SENDER.fullmatch(code) is not None for code in codes if code[1:] != ".0.0"), False)


def _by_qmail(body: str) -> Iterator[_Told]:
    """A bounce as qmail writes it (cr.yp.to/proto/qsbmf.txt): a paragraph for each address, under its name."""
    for paragraph in re.split(r"\n[ \t]*\n", body)[:_MOST_REPORTS]:
        found = _QMAIL_WHOM.match(paragraph)
        if paragraph.startswith("---"):
            return
        if found:
            reason = paragraph[found.end() :].strip()[:2_000]
            kind = _failed("", reason)
            yield _Told(kind, "bounce", _address(found[1]), reason, _of_sender(kind, "", reason))


# ---------------------------------------------------------------------------------------------- whom it is about


def _delivery(
    headers: Mapping[str, str], parts: Sequence[tuple[Mapping[str, str], str]], domain: str | None
) -> DeliveryId | None:
    """The delivery: by the address that the mail came to, else by the mail that it sends back."""
    if domain is not None:
        path = re.compile(rf"(?i)\bb\+([a-z0-9]{{1,32}})@{re.escape(domain)}(?![\w.-])")
        texts = [headers[name] for name in _CAME_TO if name in headers]
        texts += [inner[:8_000] for part, inner in parts if _type(part) != "text/plain"]
        for text in texts:
            if found := path.search(text):
                return DeliveryId(found[1].lower())
    for part, inner in reversed(parts):
        if _type(part) in _ORIGINALS and (found := _SENT_BACK.search(inner[:16_000])):
            return DeliveryId(found[1].lower())
    return None


def _address(text: str) -> str:
    """An address as a report writes it, "" where it is none."""
    text = text.strip().strip("<>").strip()
    return text if re.fullmatch(r"[^\s<>@\x00-\x1f]{1,64}@[^\s<>@\x00-\x1f]{1,255}", text) else ""


# ---------------------------------------------------------------------------------------------- reading lines


def _fields(text: str) -> dict[str, str]:
    """Header fields by their names in lower case, unfolded; of those that come twice all, a line each."""
    fields: dict[str, list[str]] = {}
    values: list[str] | None = None
    for line in text.split("\n")[:1_000]:
        if line[:1] in {" ", "\t"} and values is not None:
            values[-1] = (values[-1] + " " + line.strip())[:4_000]
        elif found := _FIELD.fullmatch(line[:4_000]):
            values = fields.setdefault(found[1].lower(), [])
            values.append(found[2])
        else:
            values = None
    return {name: "\n".join(values) for name, values in fields.items()}


def _type(fields: Mapping[str, str]) -> str:
    return fields.get("content-type", "").partition(";")[0].strip().lower()


def _parts(headers: Mapping[str, str], body: str) -> Iterator[tuple[Mapping[str, str], str]]:
    """The parts of the outermost multipart, decoded; the body itself where there are none."""
    found = _BOUNDARY.search(headers.get("content-type", ""))
    if found is None or not _type(headers).startswith("multipart/"):
        yield {}, body
        return
    mark = f"\n--{found[1] or found[2]}"
    for piece in ("\n" + body).split(mark, _MOST_REPORTS)[1:]:
        if piece.startswith("--"):
            return
        head, _, inner = piece.partition("\n")[2].partition("\n\n")
        fields = _fields(head)
        yield fields, _decoded(inner, fields.get("content-transfer-encoding", "").strip().lower())


def _decoded(text: str, encoding: str) -> str:
    try:
        if encoding == "base64":
            return base64.b64decode(text.encode()).decode("utf-8", "replace").replace("\r\n", "\n")
        if encoding == "quoted-printable":
            return quopri.decodestring(text.encode()).decode("utf-8", "replace").replace("\r\n", "\n")
    except (binascii.Error, ValueError):
        return ""
    return text


def _word(headers: Mapping[str, str]) -> str:
    return "auto-reply" if headers.get("auto-submitted", "no").strip().lower() != "no" else "mail"


def _instant(text: str, now: datetime) -> datetime:
    """When it was written, as far as that can be: never later than now, nor more than a month ago."""
    try:
        at = parsedate_to_datetime(text.strip()[:100])
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        return now
    return at if now - timedelta(days=30) <= at <= now else now
