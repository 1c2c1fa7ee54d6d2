"""SMTP as a conversation: bytes in, bytes out. No sockets, no clock.

A reader of replies, the short talks that make a connection ready (greeting, EHLO, STARTTLS, AUTH), and Transactions:
one copy after the other with PIPELINING (RFC 2920), where the next envelope is written behind the last dot. A talk is a
generator that gives bytes to write (none: listen on) and is sent one Reply each time, so that it can be tested byte by
byte.

Between a body's first byte and its reply nobody can tell whether the copy was taken: `Transactions.out` is that copy.
It is one at most, since a body may follow only on the 354 to its own DATA (RFC 2920 section 3.1).
"""

import base64
import re
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

from newsletter.edition import DeliveryId, Receipt, Result
from newsletter.errors import DispatchError, ProviderRefused, Throttled, Unreachable
from newsletter.providers.scrubbing import scrub

NAME = "smtp"
LONGEST_LINE = 4_096  # bytes of a reply; RFC 5321 section 4.5.3.1.5 allows 512, and real servers write somewhat more
MOST_LINES = 128  # of one reply
A_MINUTE = timedelta(minutes=1)  # for servers that are too busy, which never say how long
OF_SENDER = re.compile(r"(?<![\d.])[45]\.(?:7\.\d{1,3}|1\.[78])(?![\d.]\d)")
"""Status codes of security and policy, and of a sender's address that is not liked (RFC 3463 sections 3.2 and 3.8, RFC
7372): they say nothing of the recipient."""
GONE = {"5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10", "5.2.1"}
"""By which a mailbox or its domain is not there, or is closed, and no others (RFC 3463 and its registry, RFC 7505)."""
_OF_THE_SYSTEM = ("4.3.", "4.4.5", "4.7.0")  # 4.7.0 is what servers say who limit rates; 4.7.1 what greylists say
_ACCEPTED = Result.ACCEPTED  # looked up once: there is one for each copy
_CLOSING = 421  # RFC 5321 section 3.8: it may come at any time, and the connection ends with it
_KNOWN_LINES = 64  # a server repeats the same few lines for each copy

Talk = Generator[bytes, "Reply", Any]

_LINE = re.compile(rb"([2-5][0-9]{2})(?:([ -])(.*))?", re.DOTALL)
_STATUS = re.compile(r"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?=\s|$)")  # RFC 3463 section 2
_QUEUED = re.compile(r"\b(?:queued as|id=|queue id:?|message id:?)\s*([A-Za-z0-9._-]{3,100})(?![\w@])", re.IGNORECASE)
_ABOUT_US = re.compile(
    r"(?i)\brelay|authenticat|client host|sender address rejected|\bhelo\b|access denied|not permitted to send"
)


class Garbled(Exception):
    """What the server said is no SMTP, or was not asked. Its sentence quotes nothing."""


class Closing(Exception):
    """The server said 421: what it has not answered it has not taken."""

    def __init__(self, reply: "Reply") -> None:
        super().__init__(f"the server closes the connection: {reply.said()}")
        self.reply = reply


class Reply:
    """One reply: its code, and its lines without code and line end."""

    __slots__ = ("code", "lines")

    def __init__(self, code: int, lines: tuple[str, ...]) -> None:
        self.code, self.lines = code, lines

    @property
    def good(self) -> bool:
        """2yz: done as asked."""
        return 200 <= self.code < 300  # noqa: PLR2004 # RFC 5321 section 4.2.1

    @property
    def later(self) -> bool:
        """4yz: not this time."""
        return 400 <= self.code < 500  # noqa: PLR2004 # the same

    @property
    def status(self) -> str | None:
        """The enhanced status code (RFC 2034) where there is one that fits the code."""
        found = _STATUS.match(self.lines[0])
        return found[1] if found and found[1][0] == str(self.code)[0] else None

    def said(self, *secrets: str) -> str:
        """The whole reply, fit for a report."""
        return scrub(f"{self.code} {' '.join(self.lines)}", *secrets)

    def about_everyone(self) -> bool:
        """Whether a refusal is about us, whoever the recipient: no relaying, no authentication, our name or address."""
        if self.code in {530, 535, 538}:  # RFC 4954 section 6
            return True
        policy = (self.status or "5.7").startswith(("5.7", "4.7"))
        return policy and _ABOUT_US.search(" ".join(self.lines)) is not None

    def about_the_system(self) -> bool:
        """Whether "later" speaks of the whole server: full, congested, or we are too fast (RFC 3463)."""
        if not self.later:
            return False
        return self.status.startswith(_OF_THE_SYSTEM) if self.status else self.code == 452  # noqa: PLR2004 # no storage

    def __repr__(self) -> str:
        return f"Reply({self.code}, {len(self.lines)} lines)"  # no text: it may hold an address


class ReplyReader:
    """Bytes -> Replies, however they are cut. LF alone ends a line, too. Raises Garbled."""

    def __init__(self) -> None:
        self._held = b""
        self._code = 0
        self._lines: list[str] = []
        self._known: dict[bytes, Reply] = {}

    @property
    def partial(self) -> bool:
        """Whether part of a reply has come."""
        return bool(self._held or self._lines)

    def feed(self, data: bytes) -> list[Reply]:
        """The replies that are whole by now."""
        *lines, self._held = (self._held + data).split(b"\n")
        if len(self._held) > LONGEST_LINE:
            raise Garbled("the server's reply has a line without an end")
        replies = []
        for line in lines:
            reply = None if self._lines else self._known.get(line)
            if reply is None:
                reply = self._read(line)
            if reply is not None:
                replies.append(reply)
        return replies

    def _read(self, line: bytes) -> Reply | None:
        found = _LINE.fullmatch(line.removesuffix(b"\r"))
        if found is None:
            raise Garbled("the server's reply is no SMTP")
        if len(line) > LONGEST_LINE or len(self._lines) >= MOST_LINES:
            raise Garbled("the server's reply is too long")
        code = int(found[1])
        if self._lines and code != self._code:
            raise Garbled("the server's reply has two codes")
        self._lines.append((found[3] or b"").decode("utf-8", "replace"))
        if found[2] == b"-":
            self._code = code
            return None
        reply = Reply(code, tuple(self._lines))
        self._lines.clear()
        if len(reply.lines) == 1 and len(self._known) < _KNOWN_LINES:
            self._known[line] = reply
        return reply


class Dialogue:
    """One connection's talks: feeds replies to the talk that goes on, and gives what it wants written.

    A reply that comes before it was asked for (as what was put in before a STARTTLS would) is Garbled, and so is one
    that comes while nobody talks.
    """

    def __init__(self) -> None:
        self._reader = ReplyReader()
        self._talk: Talk | None = None
        self.result: Any = None

    @property
    def busy(self) -> bool:
        """Whether a talk goes on."""
        return self._talk is not None

    def begin(self, talk: Talk) -> bytes:
        """Begin a talk; what it wants written first. Whatever the talk raises comes out here, and ends it."""
        self._talk, self.result = talk, None
        try:
            return next(talk)
        except StopIteration as end:
            self._talk, self.result = None, end.value
            return b""
        except BaseException:
            self._talk = None
            raise

    def feed(self, data: bytes) -> bytes:
        """What is to be written after these bytes. Raises Garbled, Closing, and whatever the talk raises."""
        out = b""
        replies = self._reader.feed(data)
        for reply in replies:
            if out or self._talk is None:
                raise Garbled("the server answered what it was not asked")
            if reply.code == _CLOSING:
                self._talk = None
                raise Closing(reply)
            try:
                out = self._talk.send(reply)
            except StopIteration as end:
                self._talk, self.result = None, end.value
            except BaseException:
                self._talk = None
                raise
        if self._reader.partial and (out or self._talk is None):
            raise Garbled("the server answered what it was not asked")
        return out


# ---------------------------------------------------------------------------------------------- before the first copy


@dataclass(frozen=True, slots=True)
class Offers:
    """What a server's answer to EHLO offers. `size` is the largest mail in bytes, None where it names none."""

    pipelining: bool = False
    starttls: bool = False
    eight_bit: bool = False
    utf8: bool = False
    statuses: bool = False
    says_size: bool = False
    size: int | None = None
    auth: frozenset[str] = frozenset()


def read_offers(reply: Reply) -> Offers:
    """The extensions that an answer to EHLO names, from its second line on (RFC 5321 section 4.1.1.1)."""
    named: dict[str, set[str]] = {}
    for line in reply.lines[1:]:
        word, *rest = line.upper().replace("AUTH=", "AUTH ", 1).split() or [""]
        named.setdefault(word, set()).update(rest)
    sizes = {int(size) for size in named.get("SIZE", ()) if re.fullmatch(r"[0-9]{1,15}", size)} - {0}  # 0 is no limit
    return Offers(
        pipelining="PIPELINING" in named,
        starttls="STARTTLS" in named,
        eight_bit="8BITMIME" in named,
        utf8="SMTPUTF8" in named and "8BITMIME" in named,  # RFC 6531 section 3.1 (8): it must offer both
        statuses="ENHANCEDSTATUSCODES" in named,
        says_size="SIZE" in named,
        size=min(sizes, default=None),
        auth=frozenset(named.get("AUTH", ())),
    )


def _turned_away(reply: Reply, what: str, *secrets: str) -> DispatchError:
    """What a bad reply means before the first copy."""
    said = f"{what}: {reply.said(*secrets)}"
    if reply.code == _CLOSING or (reply.later and (reply.status or "").startswith("4.7.")):
        return Throttled(NAME, A_MINUTE)
    return Unreachable(NAME, said) if reply.later else ProviderRefused(NAME, said)


def greeting() -> Generator[bytes, Reply, None]:
    """Wait for the server's first words."""
    reply = yield b""
    if not reply.good:
        raise _turned_away(reply, "the server takes no mail")


def hello(name: str) -> Generator[bytes, Reply, Offers]:
    """EHLO, or HELO where the server knows no other. Gives what it offers."""
    reply = yield f"EHLO {name}\r\n".encode()
    if reply.good:
        return read_offers(reply)
    if not reply.later:
        reply = yield f"HELO {name}\r\n".encode()
        if reply.good:
            return Offers()
    raise _turned_away(reply, "the server does not take our EHLO")


def starttls(offers: Offers) -> Generator[bytes, Reply, None]:
    """Ask for TLS (RFC 3207). Raises ProviderRefused where the server does not offer it."""
    if not offers.starttls:
        raise ProviderRefused(NAME, "the server does not offer STARTTLS, and provider.security asks for it")
    reply = yield b"STARTTLS\r\n"
    if not reply.good:
        raise _turned_away(reply, "the server refuses STARTTLS")


def authenticate(offers: Offers, username: str, password: str) -> Generator[bytes, Reply, None]:
    """AUTH PLAIN (RFC 4616), else LOGIN. Raises ProviderRefused."""
    plain = base64.b64encode(f"\0{username}\0{password}".encode()).decode()
    name, key = (base64.b64encode(text.encode()).decode() for text in (username, password))
    if "PLAIN" in offers.auth:
        reply = yield f"AUTH PLAIN {plain}\r\n".encode()
    elif "LOGIN" in offers.auth:
        reply = yield b"AUTH LOGIN\r\n"
        for answer in (name, key):
            if reply.code != 334:  # noqa: PLR2004 # RFC 4954 section 6: go on
                break
            reply = yield f"{answer}\r\n".encode()
    else:
        raise ProviderRefused(NAME, "the server offers neither AUTH PLAIN nor LOGIN, and provider.username is set")
    if not reply.good:
        what = "the server does not take provider.username and its password"
        raise _turned_away(reply, what, plain, key, password, name, username)


# ---------------------------------------------------------------------------------------------- the copies


class Copy(NamedTuple):
    """One recipient's mail. `parts` end with CRLF when joined, and no line of them begins with "." (as Mould makes it).

    `path` and `to` are the envelope's addresses. `wide` is True where the address needs SMTPUTF8 (RFC 6531).
    """

    delivery: DeliveryId
    path: str
    to: str
    parts: list[bytes]
    wide: bool

    @property
    def size(self) -> int:
        """Its bytes."""
        return sum(map(len, self.parts))


class Transactions:
    """MAIL, RCPT, DATA and body, copy after copy, until `next_copy` gives none.

    `tell` is given each receipt as soon as it is known. `out` is the copy whose body has begun to leave and has no
    reply; `at` the one whose envelope may be out, and whose body surely is not; None where there is none. `answered`
    counts the copies that the server has decided about. Raises a DispatchError where it refuses all that could come.
    """

    def __init__(
        self, offers: Offers, next_copy: Callable[[], Copy | None], tell: Callable[[Receipt, Reply | None], None]
    ) -> None:
        self.out: Copy | None = None
        self.at: Copy | None = None
        self.answered = 0
        self._offers, self._next_copy, self._tell = offers, next_copy, tell

    def run(self) -> Generator[bytes, Reply, None]:
        """The talk."""
        pipelining = self._offers.pipelining
        copy = self._next()
        ready = self._envelope(copy) if copy is not None else b""
        while copy is not None:
            if pipelining:
                mail = yield ready
                rcpt = yield b""
                data: Reply | None = yield b""
            else:
                mail, rcpt, data = yield from self._step_by_step(copy)
            ready = b""
            willing = self._judged(copy, mail, rcpt, data)
            following = self._next()
            ahead = self._envelope(following) if pipelining and following is not None else b""
            if willing:
                self.out = copy
                reply = yield b"".join((*copy.parts, b".\r\n", ahead))
                self._came_to(copy, reply)
                self.out = None
            else:
                # RFC 2920 section 3.1: DATA may be accepted although nobody was; a single dot ends it.
                if data is not None and data.code == 354:  # noqa: PLR2004 # RFC 5321 section 4.2.3
                    yield b".\r\n"
                reply = yield b"RSET\r\n" + ahead
                if not reply.good:  # it may be the answer to another command
                    raise Garbled("the server answered RSET with what is no answer to it")
            copy = following

    def _next(self) -> Copy | None:
        """The next copy that this server can take at all."""
        while (copy := self._next_copy()) is not None:
            if copy.wide and not self._offers.utf8:
                why = "the server does not offer SMTPUTF8, which an address beyond ASCII needs"
            elif self._offers.size is not None and copy.size > self._offers.size:
                why = f"the mail has {copy.size:,} bytes, and the server takes {self._offers.size:,}"
            else:
                break
            self._tell(Receipt(copy.delivery, Result.REFUSED, why), None)
        self.at = copy
        return copy

    def _commands(self, copy: Copy) -> tuple[bytes, bytes, bytes]:
        size = f" SIZE={copy.size}" if self._offers.says_size else ""
        wide = " BODY=8BITMIME SMTPUTF8" if copy.wide else ""
        return f"MAIL FROM:<{copy.path}>{size}{wide}\r\n".encode(), f"RCPT TO:<{copy.to}>\r\n".encode(), b"DATA\r\n"

    def _envelope(self, copy: Copy) -> bytes:
        """Its three commands in one, where they may go out in one."""
        return b"".join(self._commands(copy))

    def _step_by_step(self, copy: Copy) -> Generator[bytes, Reply, tuple[Reply, Reply, Reply | None]]:
        """The envelope for a server without PIPELINING. What was not asked counts as the refusal before it."""
        commands = self._commands(copy)
        mail = rcpt = yield commands[0]
        data: Reply | None = None
        if mail.good:
            rcpt = yield commands[1]
            if rcpt.good:
                data = yield commands[2]
        return mail, rcpt, data

    def _judged(self, copy: Copy, mail: Reply, rcpt: Reply, data: Reply | None) -> bool:
        """Whether the server waits for the body. If not, that is told."""
        if data is not None and data.code == 354 and mail.good and rcpt.good:  # noqa: PLR2004 # RFC 5321 section 4.2.3
            return True
        for reply in (mail, rcpt):
            if not (reply.good or reply.later or reply.code >= 500):  # noqa: PLR2004 # a 3yz answers neither
                raise Garbled("the server answered an envelope with what is no answer to one")
        if not mail.good and not (copy.wide and not mail.later):
            if mail.later:
                raise Throttled(NAME, A_MINUTE)
            raise ProviderRefused(NAME, f"the server refuses the sender: {_without(mail.said(), copy)}")
        for reply in (mail, rcpt):
            if not reply.good:
                self._refused(copy, reply)
                return False
        assert data is not None
        if data.code < 400:  # noqa: PLR2004 # neither "go on" nor a refusal
            raise Garbled("the server answered DATA with what is no answer to it")
        self._refused(copy, data)
        return False

    def _came_to(self, copy: Copy, reply: Reply) -> None:
        """What the reply to a body says of it."""
        if reply.good:
            self.answered += 1
            found = _QUEUED.search(reply.lines[-1])
            self._tell(Receipt(copy.delivery, _ACCEPTED, provider_id=found[1] if found else None), reply)
        elif reply.code >= 400:  # noqa: PLR2004 # a refusal, for now or for good
            self._refused(copy, reply)
        else:
            raise Garbled("the server answered a body with what is no answer to one")

    def _refused(self, copy: Copy, reply: Reply) -> None:
        self.answered += 1
        result = Result.DEFERRED if reply.later else Result.REFUSED
        said = _without(reply.said(), copy)
        self._tell(Receipt(copy.delivery, result, said, suppress=reply.status in GONE), reply)


def _without(said: str, copy: Copy) -> str:
    """What was said without the mailbox that it was about, which servers name without its domain, too."""
    for name in (copy.to, copy.to.rpartition("@")[0], copy.path):
        if len(name) > 1:
            said = re.sub(rf"(?i)(?<![a-z0-9]){re.escape(name)}(?![a-z0-9])", "[address]", said)
    return said
