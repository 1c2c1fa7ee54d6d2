"""The one HTTP client for what the product reads: every address that others have a say in is asked here.

What the desk is told at a web address of its own is posted through the same guard.

What it promises, whatever an address, a redirect, a name server or a server says:

- It connects only to the public internet, and to networks that [fetch] allow_networks names (newsletter/guard.py).
- It ends. One time-out spans connecting, TLS, headers, body and redirects, however slowly the bytes drip; and neither
  what is read nor what that unpacks to exceeds its limit.
- An answer is whole, or it is a FetchError. Half a feed is never taken for one.
- A host is asked one thing at a time.

It reads no proxy from the environment, keeps no cookie and no connection, and never tries again by itself. It asks over
httpcore2, the transport below httpx2, because the comforts of a client (cookies, proxies, redirects of its own, pooled
connections) are what would have to be taken away again. Providers call their own interfaces themselves, at addresses
that nobody else can choose. Why so: docs/decisions/0010-one-guarded-http-client.md.
"""

import json
import re
import ssl
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from ipaddress import ip_network
from time import monotonic
from types import TracebackType
from typing import Self
from weakref import WeakValueDictionary

import httpcore2
import httpx2

from newsletter import __version__
from newsletter.guard import FetchError, Guard, Resolve, look_up
from newsletter.settings import Fetch

__all__ = ["FetchError", "Fetched", "Fetcher", "Posted", "Validators", "user_agent"]

MOST_REDIRECTS = 5
LONGEST_WISH = timedelta(hours=24)  # a server that wants more than a day's rest is asked again after a day
_LONGEST_ADDRESS = 8_000  # characters: what everybody should support (RFC 9110, 4.1), and fits a socket's buffer
_OVERHEAD = 500_000  # bytes beside the content: headers (h11 bounds them to 100 kB), trailers, the framing of chunks
_MOST_MEMBERS = 100  # gzip members one after the other; a server sends one

_ACCEPT = (
    "application/atom+xml, application/rss+xml, application/feed+json, application/json;q=0.9,"
    " application/rdf+xml;q=0.9, application/xml;q=0.8, text/xml;q=0.8, */*;q=0.5"
)
_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9_])?|[0-9a-f:.]*:[0-9a-f:.]*")  # a name, or an IPv6 address
_PLAIN = re.compile(r"[\x20-\x7e\x80-\xff]{1,1000}")  # a header's value without controls, of sane length
_MEDIA_TYPE = re.compile(r"\s*([a-z0-9!#$&^_.+-]{1,100}/[a-z0-9!#$&^_.+-]{1,100})\s*(?:;|$)", re.IGNORECASE)
_CHARSET = re.compile(r";\s*charset\s*=\s*[\"']?\s*([a-z0-9][a-z0-9_.:+-]{0,39})\s*[\"']?\s*(?:;|$)", re.IGNORECASE)
_NO_CHARSETS = frozenset({"idna", "punycode", "raw_unicode_escape", "undefined", "unicode_escape"})  # Python's own

_REDIRECTS = {301: True, 302: False, 303: False, 307: False, 308: True}  # True: for good (RFC 9110, 15.4)
_ANSWERS = {
    304: "nothing new, although it was not asked for news",
    401: "it asks for a login",
    403: "it refuses to give that to us",
    404: "there is nothing at that address",
    410: "that is gone for good: take it out of the configuration",
    429: "it is asked too often",
    503: "it is overloaded, or closed for repair",
}
_KINDS_OF_ANSWERS = {
    2: "that is no content",
    3: "that leads nowhere",
    4: "it refuses the request",
    5: "it has a fault of its own",
}
_WISHES = frozenset({429, 503})  # where Retry-After is read (RFC 6585, 4; RFC 9110, 10.2.3)


@dataclass(frozen=True, slots=True)
class Validators:
    """What a server gave to know a state again by (RFC 9110, 8.8), to be shown to it the next time, byte for byte.

    Kept as Latin-1, which can hold any byte. None: it gave none, or one with control characters.
    """

    etag: str | None = None
    last_modified: str | None = None


@dataclass(frozen=True, slots=True)
class Fetched:
    """A whole answer.

    `url` is the address that gave it, after redirects, without a fragment. `body` is unpacked; None where the state
    that the `validators` stand for still holds (304). `charset` is a codec's name as Content-Type gives it, None where
    it gives none that exists. `content_type` is in lower case, without parameters. `moved` is the address that the
    configuration should name: set where there were redirects and all of them were for good.
    """

    url: str
    status: int
    body: bytes | None
    validators: Validators = Validators()
    charset: str | None = None
    content_type: str | None = None
    moved: str | None = None


@dataclass(frozen=True, slots=True)
class Posted:
    """What a server said to what was posted. `retry_after` is how long it wants to be left alone, None: not at all."""

    status: int
    retry_after: timedelta | None


@dataclass(frozen=True, slots=True)
class _Redirect:
    target: httpx2.URL
    for_good: bool


def user_agent(site_url: str | None) -> str:
    """How the product names itself to servers, with the publisher's site for whoever wants to complain. ASCII."""
    name = f"brief-newsletter/{__version__}"
    return f"{name} (+{re.sub(r'[^!-~]|[()]', '', site_url)})" if site_url else name


class Fetcher:
    """Asks web addresses, safely from several threads.

    `clock` gives the time that dates in Retry-After are measured from. `resolve` gives a host's addresses. `tls` holds
    the authorities to trust: by default the system's, or those that SSL_CERT_FILE or SSL_CERT_DIR name.
    """

    def __init__(
        self,
        settings: Fetch,
        *,
        user_agent: str,
        clock: Callable[[], datetime],
        resolve: Resolve = look_up,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._seconds, self.largest_bytes = settings.timeout.total_seconds(), settings.largest_bytes
        self._networks = tuple(ip_network(network) for network in settings.allow_networks)
        self._user_agent, self._clock, self._resolve = user_agent, clock, resolve
        self._tls = tls or httpx2.create_ssl_context()  # once: reading the authorities takes longer than most fetches
        self._turns: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()
        self._turning = threading.Lock()
        self._closed = False

    def get(self, url: str, validators: Validators = Validators()) -> Fetched:
        """Ask an address for its content, or whether it differs from the state that `validators` stand for.

        Waiting until other threads are done with the same host does not count against the time-out. Raises FetchError.
        """
        shown = _validators(validators.etag, validators.last_modified)
        where, left, for_good, came_from = _address(url), self._seconds, True, ""
        for _ in range(MOST_REDIRECTS + 1):
            host = where.raw_host.decode()
            try:
                with self._turn(host):
                    begun = monotonic()
                    answer = self._ask(where, shown, begun + left)
                    left -= monotonic() - begun
            except FetchError as error:
                if not came_from:
                    raise
                raise FetchError(f"{came_from} redirects, and then: {error.what}", error.retry_after) from error
            if isinstance(answer, Fetched):
                return replace(answer, moved=answer.url) if came_from and for_good else answer
            where, for_good, came_from = answer.target, for_good and answer.for_good, host
        raise FetchError(f"{came_from} redirects once more, after {MOST_REDIRECTS} redirects")

    def post_json(self, url: str, value: object) -> Posted:
        """Post a value as JSON, once, to an address that is a secret: no error and nothing else quotes it.

        Redirects are not followed, and of the answer its head alone is read. Raises FetchError where there is none.
        """
        where, body = _address(url), json.dumps(value).encode()
        headers = {"Content-Type": "application/json", "Content-Length": f"{len(body)}", "Accept": "*/*"}
        with (
            self._turn(where.raw_host.decode()),
            self._asking(
                where, "POST", headers, body, most_bytes=_OVERHEAD, by=monotonic() + self._seconds
            ) as response,
        ):
            wish = _wish(_header(response, "retry-after"), self._clock()) if response.status in _WISHES else None
            return Posted(response.status, wish)

    def close(self) -> None:
        """Let no further request begin. Those under way end by themselves; nothing is held open between requests."""
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    @contextmanager
    def _turn(self, host: str) -> Iterator[None]:
        """Have a host to oneself. Whoever has one waits for no other, so that threads cannot block each other."""
        with self._turning:
            turn = self._turns.setdefault(host, threading.Lock())  # forgotten when the last thread lets go of it
        with turn:
            if self._closed:
                raise FetchError(f"{host} was not asked: the program is stopping")
            yield

    def _ask(self, where: httpx2.URL, shown: Validators, deadline: float) -> Fetched | _Redirect:
        """One request and its answer. `deadline` is of the monotonic clock."""
        headers = {
            "Accept": _ACCEPT,
            "Accept-Encoding": "gzip",
            "If-None-Match": shown.etag,
            "If-Modified-Since": shown.last_modified,
        }
        most = 2 * self.largest_bytes + _OVERHEAD
        with self._asking(where, "GET", headers, None, most_bytes=most, by=deadline) as response:
            return self._read(response, where, shown)

    @contextmanager
    def _asking(
        self,
        where: httpx2.URL,
        method: str,
        headers: Mapping[str, str | None],
        body: bytes | None,
        *,
        most_bytes: int,
        by: float,
    ) -> Iterator[httpcore2.Response]:
        """A request over a connection of its own, and its answer to be read within. `by` is of the monotonic clock."""
        host = where.raw_host.decode()
        target = httpcore2.URL(scheme=where.raw_scheme, host=where.raw_host, port=where.port, target=where.raw_path)
        told = {"Host": where.netloc.decode(), "User-Agent": self._user_agent, **headers, "Connection": "close"}
        sent = [(name.encode(), value.encode("latin-1")) for name, value in told.items() if value]
        guard = Guard(self._resolve, self._networks, by, most_bytes)
        try:
            with (
                httpcore2.HTTPConnection(target.origin, ssl_context=self._tls, network_backend=guard) as connection,
                connection.stream(method, target, headers=sent, content=body) as response,
            ):
                yield response
        except httpcore2.TimeoutException as error:
            down = isinstance(error, httpcore2.ConnectTimeout)
            raise FetchError(f"{host} did not answer in full within {self._seconds:g} s", host_is_down=down) from error
        except httpcore2.RemoteProtocolError as error:
            raise FetchError(f"{host} gave no answer in HTTP") from error
        except (httpcore2.NetworkError, OSError) as error:
            raise FetchError(f"{host} broke off the connection") from error
        except (httpcore2.ProtocolError, httpcore2.UnsupportedProtocol, ValueError) as error:
            raise FetchError(f"{host} cannot be asked for such an address") from error

    def _read(self, response: httpcore2.Response, where: httpx2.URL, shown: Validators) -> Fetched | _Redirect:
        host, status = where.raw_host.decode(), response.status
        given = _validators(_header(response, "etag"), _header(response, "last-modified"))
        if status in _REDIRECTS:
            return _Redirect(_target(where, response), _REDIRECTS[status])
        if status == HTTPStatus.NOT_MODIFIED and (shown.etag or shown.last_modified):
            kept = Validators(given.etag or shown.etag, given.last_modified or shown.last_modified)
            return Fetched(str(where), status, None, kept)
        if status != HTTPStatus.OK:
            words = _ANSWERS.get(status) or _KINDS_OF_ANSWERS.get(status // 100, "that is no answer")
            wish = _wish(_header(response, "retry-after"), self._clock()) if status in _WISHES else None
            raise FetchError(f"{host} answers {status}: {words}", wish)
        body = _body(response, host, self.largest_bytes)
        kind = _header(response, "content-type") or ""
        media_type = _MEDIA_TYPE.match(kind)
        return Fetched(str(where), status, body, given, _charset(kind), media_type[1].lower() if media_type else None)


# ------------------------------------------------------------------------------------------ addresses


def _address(text: str, base: httpx2.URL | None = None) -> httpx2.URL:
    """An address to ask, in one spelling: no fragment, no dot behind the host. Raises FetchError.

    What it lets through is still only a spelling. Where it leads is checked when the connection is made.
    """
    try:
        url = httpx2.URL(text)
        url = base.join(url) if base and not url.scheme else url  # “http:/x” leads nowhere; join() would mend it
        if url.scheme not in {"http", "https"} or not url.raw_host:
            raise FetchError("expected a web address that begins with https:// or http://")
        if url.userinfo:
            raise FetchError("expected a web address without a name or password in it")
        host = url.raw_host.decode().lower().removesuffix(".")
        if not _HOST.fullmatch(host):
            raise FetchError("expected a web address with the name of a host")
        if url.port is not None and not 0 < url.port < 2**16:
            raise FetchError("expected a web address with a port from 1 to 65535")
        url = url.copy_with(host=host, fragment=None)
    except (httpx2.InvalidURL, ValueError):
        raise FetchError("expected a web address, and this is none") from None
    if len(str(url)) > _LONGEST_ADDRESS:
        raise FetchError(f"expected a web address of at most {_LONGEST_ADDRESS:,} characters")
    return url


def _target(where: httpx2.URL, response: httpcore2.Response) -> httpx2.URL:
    """Where an answer redirects to (RFC 9110, 10.2.2)."""
    host, location = where.raw_host.decode(), _header(response, "location")
    if not location:
        raise FetchError(f"{host} redirects without saying where to")
    with suppress(UnicodeDecodeError):
        location = location.encode("latin-1").decode()  # what is sent unquoted is nearly always UTF-8
    try:
        target = _address(location, where)
    except FetchError as error:
        raise FetchError(f"{host} redirects to an address that cannot be asked: {error.what}") from None
    if where.scheme == "https" and target.scheme == "http":
        raise FetchError(f"{host} redirects from https to plain http, where anybody on the way can change the content")
    return target


# ------------------------------------------------------------------------------------------ answers


def _header(response: httpcore2.Response, name: str) -> str | None:
    """A header's value, byte for byte as Latin-1; the first, if it comes several times."""
    return next((value.decode("latin-1") for key, value in response.headers if key.lower() == name.encode()), None)


def _validators(*values: str | None) -> Validators:
    """Validators fit to be kept and sent: without one that holds controls, or is of absurd length."""
    return Validators(*(value if value and _PLAIN.fullmatch(value) else None for value in values))


def _charset(content_type: str) -> str | None:
    match = _CHARSET.search(content_type)
    if match is None:
        return None
    name = match[1].lower()
    try:
        b" ".decode(name, "replace")  # refuses what is unknown, and what is no text (hex, zip, rot13)
    except (LookupError, ValueError):
        return None
    return None if re.sub(r"\W", "_", name) in _NO_CHARSETS else name


def _wish(value: str | None, now: datetime) -> timedelta | None:
    """How long Retry-After asks to wait, from now: seconds or a date (RFC 9110, 10.2.3). None for anything else."""
    value = (value or "").strip()[:100]
    if re.fullmatch(r"[0-9]+", value):
        return min(timedelta(seconds=min(int(value), 10**9)), LONGEST_WISH)
    try:
        date = parsedate_to_datetime(value)
        return max(timedelta(), min((date if date.tzinfo else date.replace(tzinfo=UTC)) - now, LONGEST_WISH))
    except (ValueError, TypeError, IndexError, OverflowError):  # as the releases of Python have it
        return None


def _body(response: httpcore2.Response, host: str, most: int) -> bytes:
    """The content of an answer, unpacked, and all of it. Raises FetchError, also where that is more than `most`."""
    codings = (value.decode("latin-1").lower() for key, value in response.headers if key.lower() == b"content-encoding")
    coding = ", ".join(codings)
    if coding not in {"", "identity", "gzip", "x-gzip"}:  # the last two are the same (RFC 9110, 8.4.1.3)
        shown = "".join(character for character in coding if character.isprintable())[:40]
        raise FetchError(f"{host} packs its answer as “{shown}”, which was not asked for")
    too_large = FetchError(f"{host} sends more than {most:,} bytes; [fetch] largest_bytes sets the limit")
    length = _header(response, "content-length") or ""
    if re.fullmatch(r"[0-9]{1,20}", length) and int(length) > most:
        raise too_large
    gunzip = _Gunzip() if "gzip" in coding else None
    body = bytearray()
    try:
        for piece in response.iter_stream():
            body += gunzip.unpack(piece, most + 1 - len(body)) if gunzip else piece
            if len(body) > most:
                raise too_large
    except (httpcore2.RemoteProtocolError, httpcore2.NetworkError) as error:
        raise FetchError(f"{host} broke off before the end of its answer") from error
    except zlib.error as error:
        raise FetchError(f"{host} packs its answer as gzip, and that is broken") from error
    if gunzip and not gunzip.whole:
        raise FetchError(f"{host} broke off before the end of its answer")
    return bytes(body)


class _Gunzip:
    """Unpacks gzip (RFC 1952) piece by piece and never further than asked, so that no bomb goes off."""

    def __init__(self) -> None:
        self._member, self._members = zlib.decompressobj(zlib.MAX_WBITS + 16), 1  # + 16: with gzip's header and trailer

    @property
    def whole(self) -> bool:
        """Whether the end was reached, and the checksum held."""
        return self._member.eof

    def unpack(self, piece: bytes, room: int) -> bytes:
        """The next bytes, at most `room`, which is 1 or more. Raises zlib.error."""
        out = bytearray()
        while piece and len(out) < room:
            if self._member.eof:
                piece = piece.lstrip(b"\0")  # padding behind the end is no content, as gzip(1) has it
                if not piece:
                    break
                self._members += 1  # members follow one another (RFC 1952, 2.2)
                if self._members > _MOST_MEMBERS:
                    raise zlib.error("too many members")
                self._member = zlib.decompressobj(zlib.MAX_WBITS + 16)
            out += self._member.decompress(piece, room - len(out))
            piece = self._member.unused_data
        return bytes(out)
