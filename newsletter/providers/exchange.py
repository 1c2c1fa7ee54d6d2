"""One HTTP request and its answer: bounded as a whole, and honest about how far it got.

For providers that are called over HTTP. `urllib` alone bounds each wait instead of the whole, calls nobody just before
the first byte leaves, and drops an answer that came before the request was out. Its openers are used all the same, so
that proxies are found as elsewhere; the connections beneath are ours.
"""

import http.client
import io
import ipaddress
import queue
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from email.message import Message as Headers
from functools import partial
from typing import Any, Self, TypeVar
from urllib.error import URLError

from newsletter.errors import OutcomeUnknown, Unreachable

LARGEST_ANSWER_BYTES = 1_000_000  # providers' are of some hundred; more is somebody else's

_LOOKS_AGAIN = 60.0  # seconds, where the watchdog has nobody to watch

T = TypeVar("T")


def bounded(
    provider: str,
    within: timedelta,
    started: Callable[[], None],
    tls: Callable[[], ssl.SSLContext],
    do: Callable[["Exchange"], T],
) -> T:
    """What `do` gives, which asks through the Exchange once. `started` is called just before the first byte leaves.

    `tls` is asked for where the address wants it. A whole answer is given, whatever its status. Raises Unreachable
    where no byte has left; OutcomeUnknown where some have, and no whole answer came within the time; and what
    `started` raises, untouched.
    """
    fault: Exception | None = None
    with Exchange(within.total_seconds(), started, tls) as exchange:
        try:
            return do(exchange)
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            fault = error
    if exchange.veto is not None:
        raise exchange.veto
    cause = fault if isinstance(fault, OSError) else None  # http.client's own errors quote what was answered
    late = exchange.late or isinstance(getattr(fault, "reason", fault), TimeoutError)  # whichever clock was first
    seconds = f"within {within.total_seconds():g} s"
    if not exchange.out:
        raise Unreachable(provider, f"no connection {seconds}" if late else _sentence(fault)) from cause
    what = f"no whole one came {seconds}" if late else _sentence(fault)
    raise OutcomeUnknown(provider, f"{what}; {exchange.broken}" if exchange.broken else what) from cause


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. Of a 202 only the head is read, since nothing in its body could change what it says."""

    status: int
    headers: Headers
    body: bytes


class Exchange:
    """One request: when it must end, how far it got, and the connection that a watchdog cuts when its time is over.

    A socket's own time-out begins anew with each byte, so that a server which drips its answer would hold us for ever.
    """

    def __init__(self, seconds: float, started: Callable[[], None], tls: Callable[[], ssl.SSLContext]) -> None:
        self.out = False  # whether `started` has come back, so that bytes may have left
        self.late = False
        self.broken: str | None = None  # why the request did not get out whole
        self.veto: BaseException | None = None  # what `started` raised
        self._started, self._tls = started, tls
        self.ends = time.monotonic() + seconds
        self._handle: socket.socket | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        _WATCHDOG.watch(self)
        return self

    def __exit__(self, *_: object) -> None:
        _WATCHDOG.leave(self)
        with self._lock:
            if self._handle is not None:
                self._handle.close()
                self._handle = None

    def ask(self, request: urllib.request.Request) -> Answer:
        """Whatever status comes, redirects too. Raises OSError or HTTPException where the answer is not whole."""
        opener = urllib.request.OpenerDirector()
        opener.add_handler(urllib.request.ProxyHandler())
        opener.add_handler(_Opening(self, self._tls))
        reply = opener.open(request, timeout=self.left())
        assert isinstance(reply, _Reply)  # nothing else comes through our handler
        with reply:
            if reply.status == http.HTTPStatus.ACCEPTED and not reply.torn_status:
                if self.broken is not None:
                    raise ConnectionError("it said 202 before it had the whole request")
                # What counts stands in the first line. A header that was torn would be told wrongly.
                return Answer(reply.status, Headers() if reply.torn else reply.headers, b"")
            body = b"" if reply.torn else reply.read(LARGEST_ANSWER_BYTES)
            if reply.torn or ((reply.length or self.late) and len(body) < LARGEST_ANSWER_BYTES):
                raise http.client.IncompleteRead(body)
            return Answer(reply.status, reply.headers, body)

    def left(self) -> float:
        """Seconds until it must end. Raises TimeoutError where that is past."""
        left = self.ends - time.monotonic()
        if self.late or left <= 0:
            self.late = True
            raise TimeoutError
        return left

    def dial(self, address: tuple[str, int], *_: object) -> socket.socket:
        """A connection to the first of a host's addresses that takes one, all of them within our time."""
        fault: OSError = OSError("the host has no address")
        found = _resolve(*address, self.left())
        for index, (family, kind, protocol, _name, place) in enumerate(found):
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(self.left() / (len(found) - index))
                sock.connect(place)
                with self._lock:
                    self._handle = sock.dup()  # TLS takes the socket itself away from us
                sock.settimeout(self.left())
            except OSError as error:
                fault = error
                sock.close()
            else:
                return sock
        raise fault

    def start(self) -> None:
        """The last act before the first byte."""
        self.left()
        try:
            self._started()
        except BaseException as error:
            self.veto = error  # urllib would wrap an OSError
            raise
        self.left()
        self.out = True

    def cut(self) -> None:
        """Its time is over."""
        self.late = True
        with self._lock:
            if self._handle is not None:
                try:
                    self._handle.shutdown(socket.SHUT_RDWR)
                except OSError:  # it is down already
                    return


class _Watchdog:
    """Cuts every exchange whose time is over, in one thread: to start one for each took a tenth of a dispatch."""

    def __init__(self) -> None:
        self._watched: set[Exchange] = set()
        self._changed = threading.Condition()
        self._looks_at = 0.0  # when the thread looks again by itself
        self._thread: threading.Thread | None = None

    def watch(self, exchange: Exchange) -> None:
        with self._changed:
            self._watched.add(exchange)
            if self._thread is None or not self._thread.is_alive():  # none yet, or this process was forked
                self._thread = threading.Thread(target=self._run, name="exchanges", daemon=True)
                self._thread.start()
            elif exchange.ends < self._looks_at:
                self._changed.notify()

    def leave(self, exchange: Exchange) -> None:
        with self._changed:
            self._watched.discard(exchange)

    def _run(self) -> None:
        while True:
            with self._changed:
                now = time.monotonic()
                over = [one for one in self._watched if one.ends <= now]
                self._watched.difference_update(over)
                if not over:
                    self._looks_at = min((one.ends for one in self._watched), default=now + _LOOKS_AGAIN)
                    self._changed.wait(self._looks_at - now)
            for exchange in over:
                exchange.cut()


_WATCHDOG = _Watchdog()


def _resolve(host: str, port: int, seconds: float) -> list[Any]:
    """What getaddrinfo gives, on a thread of its own, since nothing else bounds it where a name has to be asked for."""
    with suppress(ValueError):
        ipaddress.ip_address(host)
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    answer: queue.SimpleQueue[list[Any] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answer.put(list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        except (OSError, UnicodeError) as error:
            answer.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        found = answer.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(found, Exception):
        raise found
    return found


class _Lines(io.BufferedReader):
    """Notices a line without its end, which http.client takes for a whole one."""

    torn: bytes | None = None

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        if self.torn is None and not line.endswith(b"\n"):
            self.torn = line
        return line


class _Reply(http.client.HTTPResponse):
    """An answer that knows whether its head came whole."""

    torn = torn_status = False

    def __init__(self, sock: socket.socket, *args: Any, **more: Any) -> None:
        super().__init__(sock, *args, **more)
        self.fp: Any = _Lines(self.fp.detach())

    def begin(self) -> None:
        lines = self.fp
        super().begin()
        self.torn = lines.torn is not None
        self.torn_status = self.torn and lines.torn.startswith(b"HTTP/")


class _Connection(http.client.HTTPConnection):
    """A connection that tells its exchange how far it is. Before `start` it speaks to nobody but a proxy."""

    response_class = _Reply

    def __init__(self, exchange: Exchange, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._exchange = exchange
        self._create_connection = exchange.dial  # http.client's own hook for this, and nearly as old as it

    def connect(self) -> None:
        super().connect()
        self._exchange.start()

    def send(self, data: Any) -> None:
        """Where sending breaks, the server may have answered early (413, 401) and hung up: let that be read."""
        if self._exchange.broken is not None:
            return
        try:
            super().send(data)
        except OSError as error:
            if not self._exchange.out:
                raise
            self._exchange.broken = f"the request was not out whole ({_sentence(error)})"


class _TlsConnection(_Connection, http.client.HTTPSConnection):
    """The same under TLS."""


class _Opening(urllib.request.AbstractHTTPHandler):
    """Opens both kinds of connection. Without the handlers for redirects and errors, every status comes back."""

    def __init__(self, exchange: Exchange, tls: Callable[[], ssl.SSLContext]) -> None:
        super().__init__()
        self._exchange, self._tls = exchange, tls

    def http_open(self, request: urllib.request.Request) -> Any:
        """Open http://."""
        return self.do_open(partial(_Connection, self._exchange), request)

    def https_open(self, request: urllib.request.Request) -> Any:
        """Open https://."""
        return self.do_open(partial(_TlsConnection, self._exchange, context=self._tls()), request)

    http_request = https_request = urllib.request.AbstractHTTPHandler.do_request_


def _sentence(error: BaseException | None) -> str:
    """What went wrong with a connection, in a few words. Quotes nothing that was sent or answered."""
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, ssl.SSLError):
        return f"TLS: {getattr(cause, 'verify_message', None) or cause.reason or 'the connection broke'}"
    if isinstance(cause, http.client.RemoteDisconnected):
        return "the connection was closed without an answer"
    if isinstance(cause, OSError):
        return cause.strerror or str(cause) or "the time was over"
    return "the answer was cut off" if isinstance(cause, http.client.IncompleteRead) else "the answer was no HTTP"
