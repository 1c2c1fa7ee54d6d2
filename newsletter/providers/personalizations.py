"""A Message and its recipients -> the JSON of one request to SendGrid's v3 Mail Send. Pure.

The JSON is joined from ready pieces, since the package's Mail takes longer for it than the network does (`make bench`).
Fields stay open in the content; `substitutions` fill them there, but never in headers: List-Unsubscribe stands in each
personalization as it is. Limits are those of SendGrid's API reference (docs.sendgrid.com/api-reference/mail-send,
November 2026) and of its published OpenAPI description.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from email.utils import parseaddr
from functools import lru_cache
from html import escape
from itertools import compress
from json.encoder import encode_basestring_ascii as _json
from operator import not_
from string import ascii_letters, digits
from typing import Any

from newsletter.edition import AttemptId, Blank, DeliveryId, Message, Receipt, Recipient, Result, spelling
from newsletter.mime import HeaderError, Mould, feedback_id, list_unsubscribe, phrase
from subscribers import AddressError, parse

MOST_RECIPIENTS = 1_000  # of one request
LARGEST_REQUEST_BYTES = 30_000_000  # "must be less than 30 MB": the smaller reading of MB
LARGEST_SUBSTITUTIONS_BYTES = 10_000  # of one personalization, reckoned as they stand in the request
LONGEST_ADDRESS, _LONGEST_LOCAL = 254, 64  # RFC 5321 sections 4.5.3.1.3, less the angle brackets, and 4.5.3.1.1

_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"  # RFC 5322 section 3.2.3
_MAILBOX = rf"{_ATEXT}(?:\.{_ATEXT})*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*"
_ADDRESS, _ADDRESSES = re.compile(_MAILBOX), re.compile(rf"(?:{_MAILBOX}\n)+")
_URL = re.compile(r"https?://[!-;=?-~]+")
_URL_PART = re.compile(r"[!-;=?-~]+")
_SAME = f"{ascii_letters}{digits} !#$%()*+,-./:;=?@[]^_`{{|}}~\n".encode()  # nothing to escape, in JSON and HTML
_AT_ONCE = 50  # their pieces and what is made of them stay in the processor's cache
_NO_ROOM = "this request had no room for them"
_NOT_IN_NAMES = re.compile(r"[;,\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # to.name takes no ";" and no ","

# Characters for private use, which no address and no URL has: where in a personalization a recipient's own goes.
_MARKS = re.compile("([\ue000-\ue00b])")
_MAILED, _TO_NAME, _ATTEMPT, _DELIVERY, *_PAIRS = map(chr, range(0xE000, 0xE00C))
_ADDRESS_TEXT, _ADDRESS_HTML, _NAME_TEXT, _NAME_HTML, _TOKEN_TEXT, _TOKEN_HTML, _ACTION_TEXT, _ACTION_HTML = _PAIRS
_FOR_HTML = str.maketrans(dict(zip(_PAIRS[::2], _PAIRS[1::2], strict=True)))


@dataclass(frozen=True, slots=True)
class Request:
    """A request's body, ASCII; whom it is for, in its order; and receipts for all others. No body for nobody."""

    body: bytes
    called: tuple[DeliveryId, ...]
    receipts: tuple[Receipt, ...]


@dataclass(frozen=True, slots=True)
class Held:
    """A request that SendGrid keeps back: until when (epoch seconds), and under which name it is called back."""

    send_at: int
    batch_id: str

    def told(self) -> bytes:
        """The same as members of the request's JSON."""
        return f',"send_at":{self.send_at},"batch_id":{json.dumps(self.batch_id)}'.encode("ascii")


def build(
    message: Message,
    recipients: Sequence[Recipient],
    attempt: AttemptId,
    *,
    sandbox: bool = False,
    held: Held | None = None,
) -> Request:
    """One request, for as many as there is room for: 1,000 in about 2 ms.

    Whom SendGrid cannot take is refused; whom this request has no room for has not been tried. Raises HeaderError,
    which quotes nothing, where not even one copy can be asked for.
    """
    frame = _frame(message, sandbox=sandbox)
    people, mailed, receipts = _able(recipients)
    while people:
        columns = _columns(people, mailed, attempt)
        fit = _fit(frame, columns)
        if fit is not None:
            why = "their name or address is longer than SendGrid takes"
            receipts += [Receipt(person.delivery, Result.REFUSED, why) for person in compress(people, map(not_, fit))]
            people, mailed = list(compress(people, fit)), list(compress(mailed, fit))
            continue
        body = _joined(frame, columns, len(people), held.told() if held else b"")
        if len(body) < LARGEST_REQUEST_BYTES:
            return Request(body, tuple(person.delivery for person in people), tuple(receipts))
        if len(people) == 1:
            raise HeaderError("the message is larger than the 30 MB that SendGrid takes")
        half = len(people) // 2
        receipts += [Receipt(person.delivery, Result.NOT_TRIED, _NO_ROOM) for person in people[half:]]
        people, mailed = people[:half], mailed[:half]
    return Request(b"", (), tuple(receipts))


def forget() -> None:
    """Drop what is kept from one request to the next, so that the next is built as the first is."""
    _frame.cache_clear()
    _ascii_domain.cache_clear()


@dataclass(frozen=True, slots=True)
class _Frame:
    """What all requests of a Message share: a personalization as JSON with gaps, and the end of the JSON.

    `end` is all but its last brace. `pieces` has a gap at each odd place, and `marks` says what fills them, in their
    order. `substituted` are those of them within the substitutions, whose other bytes are counted in
    `substitutions_bytes`.
    """

    pieces: tuple[str, ...]
    marks: tuple[str, ...]
    substituted: tuple[str, ...]
    substitutions_bytes: int
    end: bytes


@lru_cache(maxsize=4)
def _frame(message: Message, *, sandbox: bool) -> _Frame:
    """Raises HeaderError where what all copies share cannot be sent."""
    Mould(replace(message, text="", html=""))  # judges the headers that all share, as for any other way of sending
    sender = message.sender
    list_id = f"{phrase(sender.list_name, first=9)} <{sender.list_id}>" if sender.list_name else f"<{sender.list_id}>"
    headers = {"Auto-Submitted": "auto-generated"} if message.auto else {"List-Id": list_id.replace("\r\n", "")}
    if message.slot:
        headers["Feedback-ID"] = feedback_id(message)
    if not sender.from_address.isascii():
        raise HeaderError("From is not ASCII, which SendGrid does not take")
    shared: dict[str, Any] = {
        "from": {"email": sender.from_address, "name": clean(sender.from_name)},
        "subject": clean(message.subject),
        "content": [
            {"type": "text/plain", "value": clean(message.text)},
            {"type": "text/html", "value": clean(message.html)},
        ],
        "headers": headers,
        "categories": [sender.newsletter_id, *([message.slot] if message.slot else [])],
        "tracking_settings": {
            "click_tracking": {"enable": False, "enable_text": False},
            "open_tracking": {"enable": False},
            "subscription_tracking": {"enable": False},  # or it writes a List-Unsubscribe of its own over ours
            "ganalytics": {"enable": False},
        },
    }
    if sender.reply_to:
        name, address = parseaddr(sender.reply_to)
        shared["reply_to"] = {"email": _ascii(address), **({"name": clean(name)} if name else {})}
    if sandbox:
        shared["mail_settings"] = {"sandbox_mode": {"enable": True}}
    # A stand-in's values show where an address, a name and a token go.
    values = Recipient(DeliveryId(""), _ADDRESS_TEXT, _NAME_TEXT, _TOKEN_TEXT, _ACTION_TEXT).values(sender)
    if not _URL.fullmatch(values["leave_url"].replace(_TOKEN_TEXT, "t")):
        raise HeaderError("the address to leave by is no URL in ASCII")
    parts = (message.text, message.html)
    blanks = {piece for part in parts for piece in message.segments(part) if isinstance(piece, Blank)}
    substitutions = ",".join(
        f'{_json(spelling(message.nonce, name, html=html))}:"{_marked(values[name], html=html)}"'
        for name, html in sorted((blank.name, blank.html) for blank in blanks)
    )
    leaving = list_unsubscribe(sender, _TOKEN_TEXT).replace("\r\n", "")
    own = (
        f'"headers":{{"List-Unsubscribe":"{_marked(leaving, html=False)}",'
        f'"List-Unsubscribe-Post":"List-Unsubscribe=One-Click"}},'
    )
    pieces = _MARKS.split(
        f',{{"to":[{{"email":"{_MAILED}"{_TO_NAME}}}],'
        f'{"" if message.auto else own}"substitutions":{{{substitutions}}},'
        f'"custom_args":{{"attempt_id":"{_ATTEMPT}","delivery_id":"{_DELIVERY}"}}}}'
    )
    return _Frame(
        pieces=tuple("" if index % 2 else piece for index, piece in enumerate(pieces)),
        marks=tuple(pieces[1::2]),
        substituted=tuple(_MARKS.findall(substitutions)),
        substitutions_bytes=len(_MARKS.sub("", substitutions)) + 2,
        end=f"],{json.dumps(shared, separators=(',', ':'))[1:-1]}".encode("ascii"),
    )


def _joined(frame: _Frame, columns: dict[str, list[str]], count: int, more: bytes) -> bytes:
    """The whole request, some people at once, gap by gap: an order of magnitude faster than one by one."""
    width = len(frame.pieces)
    parts = []
    for start in range(0, count, _AT_ONCE):
        stop = min(start + _AT_ONCE, count)
        pieces = list(frame.pieces) * (stop - start)
        for gap, mark in enumerate(frame.marks):
            pieces[2 * gap + 1 :: width] = columns[mark][start:stop]
        parts.append("".join(pieces).encode("ascii"))
    return b"".join(
        [b'{"personalizations":[', parts[0][1:], *parts[1:], frame.end, more, b"}"]
    )  # less the first one's comma


def _marked(text: str, *, html: bool) -> str:
    """A stand-in's text as JSON writes it between quotation marks, with its marks left in."""
    pieces = _MARKS.split(text)
    pieces[::2] = (_json(escape(piece) if html else piece)[1:-1] for piece in pieces[::2])
    return "".join(pieces).translate(_FOR_HTML if html else {})


def _fit(frame: _Frame, columns: dict[str, list[str]]) -> list[bool] | None:
    """Whether each one's substitutions are within the limit; None where all are, which is seen at a glance."""
    filling = [columns[mark] for mark in frame.substituted]
    longest = {id(column): max(map(len, column)) for column in {id(column): column for column in filling}.values()}
    if frame.substitutions_bytes + sum(longest[id(column)] for column in filling) <= LARGEST_SUBSTITUTIONS_BYTES:
        return None
    rows = zip(*filling, strict=True)
    fit = [frame.substitutions_bytes + sum(map(len, row)) <= LARGEST_SUBSTITUTIONS_BYTES for row in rows]
    return None if all(fit) else fit


def _able(recipients: Sequence[Recipient]) -> tuple[list[Recipient], list[str], list[Receipt]]:
    """Those whom one request can be made for, their addresses in ASCII, and receipts for the others."""
    if _all_able(recipients):
        return list(recipients), [recipient.address for recipient in recipients], []
    able: list[Recipient] = []
    mailed: list[str] = []
    receipts: list[Receipt] = []
    seen: set[str] = set()
    for recipient in recipients:
        address = recipient.address
        try:
            if not _ADDRESS.fullmatch(address) or len(address) > LONGEST_ADDRESS:
                address = _ascii(address)
            if not _URL_PART.fullmatch(recipient.token):
                raise HeaderError("the address to leave by is no URL in ASCII")  # noqa: TRY301 # beside the others
        except HeaderError as error:
            receipts.append(Receipt(recipient.delivery, Result.REFUSED, str(error)))
            continue
        folded = address.casefold()
        if folded in seen:
            why = "their address is in this request already"
            receipts.append(Receipt(recipient.delivery, Result.NOT_TRIED, why))
        elif len(able) == MOST_RECIPIENTS:
            receipts.append(Receipt(recipient.delivery, Result.NOT_TRIED, _NO_ROOM))
        else:
            seen.add(folded)
            able.append(recipient)
            mailed.append(address)
    return able, mailed, receipts


def _all_able(recipients: Sequence[Recipient]) -> bool:
    """Whether nobody has to be looked at alone, which is so for nearly every request."""
    if not 0 < len(recipients) <= MOST_RECIPIENTS:
        return False
    addresses = [recipient.address for recipient in recipients]
    tokens = [recipient.token for recipient in recipients]
    joined = "\n".join(addresses)
    return (
        max(map(len, addresses)) <= LONGEST_ADDRESS
        and joined.count("\n") == len(addresses) - 1
        and _ADDRESSES.fullmatch(joined + "\n") is not None  # so all is ASCII
        and len(set(joined.lower().split("\n"))) == len(addresses)
        and all(tokens)
        and _URL_PART.fullmatch("".join(tokens)) is not None
    )


def _columns(people: Sequence[Recipient], mailed: list[str], attempt: AttemptId) -> dict[str, list[str]]:
    """What fills each kind of gap, one for each of the people, as JSON writes it between quotation marks."""
    names = [recipient.name or "" for recipient in people]
    # As Recipient.values has them, which fills a thousand dictionaries.
    shown, shown_html = _written([recipient.name or recipient.address for recipient in people])
    addresses, addresses_html = _written([recipient.address for recipient in people])
    tokens, tokens_html = _written([recipient.token for recipient in people])
    actions, actions_html = _written([recipient.action for recipient in people])
    to_names = shown
    if not _presentable("".join(names)):
        names = [name if _presentable(name) else _made_presentable(name) for name in names]
        to_names, _ = _written(names)
    return {
        _MAILED: mailed,  # nothing in them is ever escaped
        _TO_NAME: [
            f',"name":"{to_name}"' if name and not name.isspace() else ""
            for name, to_name in zip(names, to_names, strict=True)
        ],
        _ADDRESS_TEXT: addresses,
        _ADDRESS_HTML: addresses_html,
        _NAME_TEXT: shown,
        _NAME_HTML: shown_html,
        _TOKEN_TEXT: tokens,
        _TOKEN_HTML: tokens_html,
        _ACTION_TEXT: actions,
        _ACTION_HTML: actions_html,
        _ATTEMPT: [_json(attempt)[1:-1]] * len(people),
        _DELIVERY: _written([recipient.delivery for recipient in people])[0],
    }


def _written(texts: list[str]) -> tuple[list[str], list[str]]:
    """Texts as JSON writes them between quotation marks, and the same escaped for HTML before.

    In one go where nothing in them looks like what keeps them apart.
    """
    joined = "\n".join(texts)
    apart = joined.count("\n") == len(texts) - 1
    if apart and joined.isascii() and not joined.encode().translate(None, _SAME):
        return texts, texts
    joined = clean(joined)
    if "\\" in joined or not apart:
        cleaned = [clean(text) for text in texts]
        return [_json(text)[1:-1] for text in cleaned], [_json(escape(text))[1:-1] for text in cleaned]
    plain = _json(joined)[1:-1].split("\\n")
    escaped = escape(joined)
    return plain, plain if len(escaped) == len(joined) else _json(escaped)[1:-1].split("\\n")


def _presentable(name: str) -> bool:
    """Whether `to.name` may be that as it is."""
    return name.isprintable() and "," not in name and ";" not in name


def _made_presentable(name: str) -> str:
    return " ".join(_NOT_IN_NAMES.sub(lambda odd: " " if odd[0] in ";," else "", name).split())


def _ascii(address: str) -> str:
    """An address with its domain in ASCII. Raises HeaderError, which quotes nothing, where it has no such form."""
    if _ADDRESS.fullmatch(address) and len(address) <= LONGEST_ADDRESS:
        return address
    local, _, domain = address.rpartition("@")
    if not local.isascii():
        raise HeaderError("an address has characters beyond ASCII before its @, which SendGrid does not take")
    mailed = "" if domain.isascii() else f"{local}@{_ascii_domain(domain)}"
    if not _ADDRESS.fullmatch(mailed) or len(local) > _LONGEST_LOCAL or len(mailed) > LONGEST_ADDRESS:
        raise HeaderError("an address is not of the form local@domain")
    return mailed


@lru_cache(maxsize=5_000)  # an edition's are few, and each takes 0.2 ms, a hundred times what a person else does
def _ascii_domain(domain: str) -> str:
    """A domain in ASCII by IDNA 2008 (the standard library's is of 2003). Empty where it has no such form."""
    try:
        return parse(f"x@{domain}").address.rpartition("@")[2]
    except AddressError:
        return ""


def clean(text: str) -> str:
    """A text without halves of surrogate pairs, which are no characters: as newsletter.mime writes them."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
