"""Message -> bytes per recipient: RFC 5322 headers over multipart/alternative in quoted-printable.

A Mould is made once a Message: both parts are encoded and cut at the fields, so that a copy is a join of ready bytes
and a few short values (hundreds of times the rate of building an EmailMessage each time, `make bench`). A soft
line break stands before and after every field, so that no value moves the text around it. Headers are folded here,
because the standard library would encode a long List-Unsubscribe as RFC 2047 words and break one-click (RFC 8058).
"""

import base64
import re
from datetime import UTC, datetime
from email.utils import format_datetime, parseaddr
from functools import lru_cache
from html import escape

from newsletter.edition import Blank, Message, Recipient, Sender

LINE = 76  # RFC 2045 section 6.7: encoded lines, the soft break included; RFC 2047 section 2: header lines with a word
HEADER_LINE = 998  # RFC 5322 section 2.1.1: the most a line may ever be
HEADER_WISH = 78  # and should be

_SAFE = re.compile(
    r"(?!From )[!-\-/-<>-~](?:[ -<>-~]{0,73}[!-<>-~])?"
)  # stands as it is: one line, no "=", no "." ahead
_PLAIN = re.compile(r"(?!From )[!#-%(-\-/-;?-~](?:[ !#-%(-;?-~]{0,73}[!#-%(-;?-~])?")  # the same, nothing to be escaped
_ODD = re.compile(rb"[^ -<>-~]")  # RFC 2045 section 6.7 (1) and (2): whatever else is written as =XX, tabs too
_HEX = [b"=%02X" % byte for byte in range(256)]

_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"  # RFC 5322 section 3.2.3
_ATOMS = re.compile(rf"{_ATEXT}(?: {_ATEXT})*")
_PLAIN_TO = re.compile(rf"{_ATEXT}(?: {_ATEXT})* <{_ATEXT}(?:\.{_ATEXT})*@{_ATEXT}(?:\.{_ATEXT})*>")  # nearly all are
_LIST_ID = re.compile(rf"(?=.{{1,255}}\Z){_ATEXT}(?:\.{_ATEXT})+")  # RFC 2919 section 2: a label in a name space
_UTEXT = r"[^\x00-\x20\x7f-\xa0\s\"(),.:;<>@\[\\\]\ud800-\udfff]+"  # the same with RFC 6532 section 3.2
_ADDRESS = re.compile(rf"{_UTEXT}(?:\.{_UTEXT})*@{_UTEXT}(?:\.{_UTEXT})*")
_URL = re.compile(r"https?://[!-;=?-~]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class HeaderError(ValueError):
    """A header cannot be written: a line end or another control, no address, no URL, longer than a line may be.

    Its sentence quotes no value, so that a log may hold it.
    """


def _quoted_printable(line: str, *, ends: bool) -> bytes:
    """A text without line ends in quoted-printable (RFC 2045 section 6.7), each line of it at most 76 columns.

    Where it `ends` a line, no blank stands last. Where it does not, a soft break follows, which needs a column. No line
    begins with "." (SMTP would double it, RFC 5321 section 4.5.2) or "From " (mbox would put ">" before it).
    """
    data = _ODD.sub(lambda odd: _HEX[odd[0][0]], line.encode("utf-8", "replace"))
    if ends and data.endswith(b" "):
        data = data[:-1] + b"=20"
    lines: list[bytes] = []
    at = 0
    while True:
        head = b""
        if data.startswith((b".", b"From "), at):
            head, at = _HEX[data[at]], at + 1
        room = LINE - len(head)
        if len(data) - at <= (room if ends else room - 1):
            lines.append(head + data[at:])
            return b"=\r\n".join(lines)
        cut = at + room - 1
        torn = data.rfind(b"=", cut - 2, cut)  # an =XX that the cut would go through
        cut = cut if torn < 0 else torn
        lines.append(head + data[at:cut])
        at = cut


def _value(text: str) -> bytes:
    """A field's value as it stands between two soft breaks."""
    return text.encode() if _SAFE.fullmatch(text) else _quoted_printable(text, ends=False)


# ---------------------------------------------------------------------------------------------- headers


def unstructured(text: str, *, first: int) -> str:
    """Text for Subject, folded at its blanks, or as encoded words where ASCII in short words cannot tell it exactly.

    `first` columns are taken on line one.
    """
    if _CONTROL.search(text):
        raise HeaderError("a header value holds a line end or another control character")
    longest = max(map(len, text.split(" ")))
    if not text.isascii() or "=?" in text or text != text.strip() or longest > HEADER_WISH - first:
        return _words(text, first)
    lines: list[str] = []
    line = ""
    for word in re.split(r"(?<=\S)(?= )", text):
        if line and first + len(line) + len(word) > HEADER_WISH:
            lines.append(line)
            line, first = "", 0
        line += word
    return "\r\n".join((*lines, line))


def _words(text: str, first: int) -> str:
    """Any text as RFC 2047 encoded words (section 2: whole characters, at most 75 columns), one a line."""
    words: list[bytes] = []
    word = b""
    room = _word_bytes(LINE - first)
    for character in text:
        data = character.encode("utf-8", "replace")
        if word and len(word) + len(data) > room:
            words.append(word)
            word, room = b"", _word_bytes(LINE - 1)
        word += data
    words.append(word)
    return "\r\n ".join(f"=?utf-8?B?{base64.b64encode(word).decode()}?=" for word in words)


def _word_bytes(columns: int) -> int:
    """How many bytes an encoded word of that width carries."""
    return (columns - len("=?utf-8?B??=")) // 4 * 3


def phrase(name: str, *, first: int) -> str:
    """A name as it stands before angle brackets: as it is, quoted, or encoded where it must be."""
    if _CONTROL.search(name):
        raise HeaderError("a name holds a line end or another control character")
    if name.isascii() and "=?" not in name:
        quoted = name.replace("\\", "\\\\").replace('"', '\\"')
        written = name if _ATOMS.fullmatch(name) else f'"{quoted}"'
        if first + len(written) <= HEADER_WISH:
            return written
    return _words(name, first)


def mailbox(name: str | None, address: str, *, first: int) -> str:
    """A mailbox as From, To and Reply-To write it.

    An address that is not ASCII stands as it is, which is RFC 6532 and needs SMTPUTF8.
    """
    if not _ADDRESS.fullmatch(address):
        raise HeaderError("an address is not of the form local@domain")
    return _beside(phrase(name, first=first), address, first) if name else address


def _beside(written: str, inner: str, first: int) -> str:
    """A phrase and what stands in angle brackets after it, on a line of its own where it finds no room."""
    *before, last = written.split("\r\n")
    column = len(last) + (0 if before else first)
    gap = " " if column + len(inner) + 3 <= LINE else "\r\n "
    return f"{written}{gap}<{inner}>"


def header(name: str, value: str) -> bytes:
    """A header, its value written and folded. What is too long for line one but not for the next begins there."""
    columns = len(name) + 2
    if value.isascii() and value.isprintable() and len(value) <= HEADER_LINE - columns:  # nearly always
        gap = "\r\n " if HEADER_WISH - columns < len(value) < HEADER_WISH else " "
        return f"{name}:{gap}{value}\r\n".encode()
    first, *rest = value.split("\r\n")
    if _CONTROL.search(first) or any(_CONTROL.search(line) or not line.startswith(" ") for line in rest):
        raise HeaderError(f"{name} holds a line end or another control character")
    if max(len(line.encode()) for line in (first, *rest)) > HEADER_LINE - columns:
        raise HeaderError(f"{name} is longer than a line may be")
    gap = "\r\n " if HEADER_WISH - columns < len(first) < HEADER_WISH else " "
    return f"{name}:{gap}{value}\r\n".encode()


# ---------------------------------------------------------------------------------------------- the mould


def feedback_id(message: Message) -> str:
    """What Gmail counts complaints by: edition, newsletter, kind and sender, no person (Gmail help 6254652, 2024).

    Its four parts are told apart by colons, so the slot stands without one.
    """
    edition = (message.slot or "").replace(":", "")
    return f"{edition}:{message.sender.newsletter_id}:digest:{message.sender.from_address.rpartition('@')[2]}"


def list_unsubscribe(sender: Sender, token: str) -> str:
    """The value of List-Unsubscribe: the one-click URL first (RFC 8058), and a mailbox where one takes such mails."""
    mailbox = sender.leave_mail(token)
    return f"<{sender.leave_url(token)}>" + (f",\r\n <{mailbox}>" if mailbox else "")


def _kind_of(message: Message) -> bytes:
    """The headers that say what kind of mail it is: of a list, or written by a program to whoever asked."""
    if message.auto:
        return header("Auto-Submitted", "auto-generated")  # RFC 3834 section 5
    name, list_id = message.sender.list_name, message.sender.list_id
    return (
        header("List-Id", _beside(phrase(name, first=9), list_id, 9) if name else f"<{list_id}>")
        + (header("Feedback-ID", feedback_id(message)) if message.slot else b"")
        + header("List-Unsubscribe-Post", "List-Unsubscribe=One-Click")
    )


class Mould:
    """A Message made ready to be filled: `fill` gives the bytes of one recipient's copy, CRLF line ends, 7bit.

    Only an address that is not ASCII makes its copy 8bit (RFC 6532). Reading it from several threads is safe. Raises
    HeaderError where a header that all copies share cannot be written.
    """

    def __init__(self, message: Message) -> None:
        sender = self._sender = message.sender
        if not _LIST_ID.fullmatch(sender.list_id):
            raise HeaderError("List-Id is not of the form list.domain")
        self._fixed = (
            header("From", mailbox(sender.from_name, sender.from_address, first=6))
            + (header("Reply-To", mailbox(*parseaddr(sender.reply_to), first=10)) if sender.reply_to else b"")
            + header("Subject", unstructured(message.subject, first=9))
        )
        self._domain = sender.from_address.rpartition("@")[2]
        boundary = "=_" + message.digest[:24]  # "=_" never occurs in quoted-printable
        self._auto = message.auto
        self._list = (
            _kind_of(message)
            + header("MIME-Version", "1.0")
            + f'Content-Type: multipart/alternative;\r\n boundary="{boundary}"\r\n'.encode()
        )
        pieces = _joined(
            [
                _part_head(boundary, "text/plain"),
                *_encoded(message, message.text),
                _part_head(boundary, "text/html"),
                *_encoded(message, message.html),
                f"\r\n--{boundary}--\r\n".encode(),
            ]
        )
        places: dict[str, tuple[list[int], list[int]]] = {}
        for place, piece in enumerate(pieces, 1):  # the headers go before them
            if isinstance(piece, Blank):
                places.setdefault(piece.name, ([], []))[piece.html].append(place)
        self._blanks = [(name, (*texts, *htmls), htmls) for name, (texts, htmls) in places.items()]
        self._parts = [b"", *(b"" if isinstance(piece, Blank) else piece for piece in pieces)]

    def fill(self, recipient: Recipient, date: datetime) -> bytes:
        """The whole mail of one recipient. Raises HeaderError where the name or address cannot stand in a header."""
        return b"".join(self.parts(recipient, date))

    def parts(self, recipient: Recipient, date: datetime) -> list[bytes]:
        """The same as pieces to be joined, so that a caller who puts more around them copies the bytes once.

        No line of the mail begins with "." (RFC 5321 section 4.5.2), and each ends with CRLF.
        """
        values = recipient.values(self._sender)
        parts = self._parts.copy()
        parts[0] = self._headers(recipient, values["leave_url"], date)
        for name, places, in_html in self._blanks:
            value = values[name]
            plain = _PLAIN.fullmatch(value)
            encoded = value.encode() if plain else _value(value)
            for place in places:
                parts[place] = encoded
            if not plain and in_html:
                encoded = _value(escape(value))
                for place in in_html:
                    parts[place] = encoded
        return parts

    def _headers(self, recipient: Recipient, leave_url: str, date: datetime) -> bytes:
        if not _URL.fullmatch(leave_url):
            raise HeaderError("the address to leave by is no URL in ASCII")
        to = f"{recipient.name} <{recipient.address}>"
        plain = recipient.name and len(to) <= LINE - 4 and "=?" not in to and _PLAIN_TO.fullmatch(to)
        return b"".join(
            (
                self._fixed,
                f"To: {to}\r\n".encode()
                if plain
                else header("To", mailbox(recipient.name, recipient.address, first=4)),
                b"Date: ",
                _date(date.replace(microsecond=0) if date.microsecond else date),
                f"\r\nMessage-ID: <{recipient.delivery}@{self._domain}>\r\n".encode(),
                b"" if self._auto else header("List-Unsubscribe", list_unsubscribe(self._sender, recipient.token)),
                self._list,
            )
        )


@lru_cache(maxsize=16)
def _date(instant: datetime) -> bytes:
    # One zone for all, since the same instant of two zones is one key here.
    return format_datetime(instant.astimezone(UTC)).encode()


def _part_head(boundary: str, content_type: str) -> bytes:
    return (
        f"\r\n--{boundary}\r\n"
        f"Content-Type: {content_type}; charset=utf-8\r\n"
        "Content-Transfer-Encoding: quoted-printable\r\n\r\n"
    ).encode()


def _encoded(message: Message, part: str) -> list[bytes | Blank]:
    """A part in quoted-printable with CRLF line ends, cut at its fields with a soft break on either side of each."""
    pieces: list[bytes | Blank] = []
    segments = list(message.segments(part))
    for index, segment in enumerate(segments):
        if isinstance(segment, Blank):
            pieces.append(segment)
            continue
        *lines, last = re.split(r"\r\n|\r|\n", segment)
        before_field, after_field = index < len(segments) - 1, index > 0
        written = [_quoted_printable(line, ends=True) for line in lines]
        written.append(_quoted_printable(last, ends=not before_field))
        soft_before, soft_after = (b"=\r\n" if there else b"" for there in (after_field, before_field))
        pieces.append(soft_before + b"\r\n".join(written) + soft_after)
    return pieces


def _joined(pieces: list[bytes | Blank]) -> tuple[bytes | Blank, ...]:
    """The same pieces with neighbouring bytes made one."""
    joined: list[bytes | Blank] = []
    for piece in pieces:
        if isinstance(piece, bytes) and joined and isinstance(joined[-1], bytes):
            joined[-1] += piece
        else:
            joined.append(piece)
    return tuple(joined)
