"""SMTP connections: opened, made ready, kept for a while, and closed, by one event loop in a thread of its own.

What is said on them is in smtp_wire; this is sockets, TLS and time. A connection serves one call at a time. Between
calls the loop goes on listening to it, so that one which the server closed is never given out.
"""

import asyncio
import ipaddress
import re
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from newsletter.errors import ProviderRefused, Throttled, Unreachable
from newsletter.providers.smtp_wire import (
    A_MINUTE,
    NAME,
    Closing,
    Dialogue,
    Garbled,
    Offers,
    Talk,
    authenticate,
    greeting,
    hello,
    starttls,
)

KEPT = timedelta(seconds=30)  # idle; servers allow some minutes (RFC 5321 section 4.5.3.2.7), firewalls often less
MOST_KEPT = 32
_READ_BYTES = 16_384  # a reply has some hundred; a record of TLS 16 kB
_SEND_BYTES = 1_048_576  # so that a whole copy goes to the kernel in one call; it is capped by net.core.wmem_max
_PARTING = 1.0  # seconds that closing may take

T = TypeVar("T")


class Lost(Exception):
    """The connection has ended. Its sentence says how."""


@dataclass(frozen=True)
class Server:
    """Where a server is and how it is spoken to. `hello` is our name, None for what the machine is called.

    `tls` is asked for a context once for each connection that wants one.
    """

    host: str
    port: int
    security: str
    tls: Callable[[], ssl.SSLContext]
    hello: str | None = None
    username: str | None = None
    password: str | None = None


class Link(asyncio.BufferedProtocol):
    """One connection. `offers` is what the server offers on it; `used` says whether a call has had it before."""

    def __init__(self) -> None:
        self.offers = Offers()
        self.used = False
        self.encrypted = False
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.idle: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport
        self._dialogue = Dialogue()
        self._waiter: asyncio.Future[Any] | None = None
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._end: Exception | None = None

    @property
    def alive(self) -> bool:
        """Whether it can be spoken on."""
        return self._end is None and not self.transport.is_closing()

    @property
    def to_itself(self) -> bool:
        """Whether it leads to this very machine."""
        peer = self.transport.get_extra_info("peername")
        try:
            return ipaddress.ip_address(peer[0].partition("%")[0]).is_loopback
        except (TypeError, ValueError, IndexError):
            return False

    async def converse(self, talk: Talk) -> Any:
        """Carry a talk to its end; what it gives. Raises Lost, Closing, Garbled, and what the talk raises."""
        if self._end is not None:
            raise self._end
        out = self._dialogue.begin(talk)
        if not self._dialogue.busy:
            return self._dialogue.result
        self._waiter = asyncio.get_running_loop().create_future()
        if out:
            self.transport.write(out)
        try:
            return await self._waiter
        finally:
            self._waiter = None

    async def encrypt(self, context: ssl.SSLContext, host: str) -> None:
        """Go on under TLS. All that was learnt before is forgotten (RFC 3207 section 4.2)."""
        loop = asyncio.get_running_loop()
        transport = await loop.start_tls(self.transport, self, context, server_hostname=host)
        if transport is None or self._end is not None:
            raise self._end or Lost("the server closed the connection")
        self.transport = transport
        self._dialogue, self.offers, self.encrypted = Dialogue(), Offers(), True

    def fail(self, error: Exception) -> None:
        """End it at once, as if by that error."""
        if self._end is None:
            self._end = error
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(self._end)
        self.transport.abort()

    def part(self) -> None:
        """Take leave, without waiting for an answer."""
        if self.idle is not None:
            self.idle.cancel()
        if self.alive:
            self.transport.write(b"QUIT\r\n")
        self.transport.close()

    # ------------------------------------------------------------------------------------------ asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A connection, or its encrypted form, stands."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 # a reply has always room
        """Where to read to."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Some bytes have come."""
        dialogue = self._dialogue
        if self._end is not None:
            return
        if not dialogue.busy:  # an idle one: the server says good-bye, or talks out of turn
            self.fail(Lost("the server ended the connection"))
            return
        try:
            out = dialogue.feed(bytes(self._buffer[:nbytes]))
        except Exception as error:  # noqa: BLE001 # it is the waiter's, whatever it is
            self.fail(error)
            return
        if out:
            self.transport.write(out)
        elif not dialogue.busy and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(dialogue.result)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended."""
        if self._end is None:
            how = (getattr(exc, "strerror", None) or type(exc).__name__) if exc is not None else "the server closed it"
            self._end = Lost(f"the connection broke: {how}" if exc is not None else f"the connection ended: {how}")
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(self._end)
        if not self.closed.done():
            self.closed.set_result(None)


class Links:
    """The connections to one server, and the thread that serves them. Its coroutines run in that thread's loop."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._idle: list[Link] = []
        self._all: set[Link] = set()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    # ------------------------------------------------------------------------------------------ from any thread

    def ask(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop, and wait for what it gives. It has to bound itself.

        Raises Unreachable where `close` came between.
        """
        done = asyncio.run_coroutine_threadsafe(work, self._running())
        try:
            return done.result()
        except CancelledError:
            raise Unreachable(NAME, "the call was given up") from None
        except BaseException:
            done.cancel()
            raise

    def start(self, make: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
        """Let a coroutine run in the loop; what ends it early is given."""
        loop = self._running()
        made: list[asyncio.Task[None]] = []

        def begin() -> None:
            made.append(loop.create_task(make()))

        def cancel() -> None:
            for task in made:
                task.cancel()

        def end() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(cancel)

        loop.call_soon_threadsafe(begin)
        return end

    def give_back(self, link: Link) -> None:
        """Keep a connection for the next call."""
        self._running().call_soon_threadsafe(self.keep, link)

    def close(self) -> None:
        """Take leave of all servers, and end the thread."""
        with self._lock:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._part(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name=f"{NAME} to {self.server.host}", daemon=True
                )
                self._thread.start()
            return self._loop

    # ------------------------------------------------------------------------------------------ in the loop

    def keep(self, link: Link) -> None:
        """Keep a connection for the next call, for a while."""
        if not link.alive:
            return
        if len(self._idle) >= MOST_KEPT:
            link.part()
            return
        link.used = True
        link.idle = asyncio.get_running_loop().call_later(KEPT.total_seconds(), self._drop, link)
        self._idle.append(link)

    async def take(self, *, within: float) -> Link:
        """A connection that is ready for MAIL: one that was kept, else a new one. Raises a DispatchError."""
        while self._idle:
            link = self._idle.pop()
            if link.idle is not None:
                link.idle.cancel()
            if link.alive:
                return link
        return await self.open(within=within)

    async def open(self, *, within: float) -> Link:
        """A new connection: greeted, encrypted and authenticated as the configuration wants. Raises a DispatchError."""
        link: list[Link] = []
        fault: Exception
        try:
            async with asyncio.timeout(within):
                await self._connect(link)
                await self._make_ready(link[0])
                return link[0]
        except TimeoutError:
            fault = Unreachable(NAME, f"no connection within {round(within, 1):g} s")
        except Closing:
            fault = Throttled(NAME, A_MINUTE)
        except ssl.SSLCertVerificationError as error:
            fault = Unreachable(NAME, f"the server's certificate is not to be trusted: {error.verify_message}")
        except ssl.SSLError as error:
            fault = Unreachable(NAME, f"no TLS: {(error.reason or 'it broke').replace('_', ' ').lower()}")
        except (Lost, Garbled) as error:
            fault = Unreachable(NAME, str(error))
        except OSError as error:
            fault = Unreachable(NAME, _sentence(error))
        except BaseException:
            for one in link:
                one.fail(Lost("given up"))
            raise
        for one in link:
            one.fail(Lost("given up"))
        raise fault from None

    async def _connect(self, made: list[Link]) -> None:
        server = self.server
        context = server.tls() if server.security == "tls" else None
        transport, connected = await asyncio.get_running_loop().create_connection(
            Link,
            server.host,
            server.port,
            ssl=context,
            server_hostname=server.host if context else None,
            happy_eyeballs_delay=0.25,  # RFC 8305 section 5
        )
        connected.encrypted = context is not None
        made.append(connected)
        self._all.add(connected)
        connected.closed.add_done_callback(lambda _: self._forget(connected))
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)

    async def _make_ready(self, link: Link) -> None:
        server = self.server
        name = server.hello or _own_name(link)
        await link.converse(greeting())
        link.offers = await link.converse(hello(name))
        if server.security == "starttls":
            await link.converse(starttls(link.offers))
            await link.encrypt(server.tls(), server.host)
            link.offers = await link.converse(hello(name))
        if server.username is not None and server.password is not None:
            if not link.encrypted and not link.to_itself:
                raise ProviderRefused(NAME, "a password is sent over an encrypted connection only, or to this machine")
            await link.converse(authenticate(link.offers, server.username, server.password))

    def _drop(self, link: Link) -> None:
        if link in self._idle:
            self._idle.remove(link)
        link.part()

    def _forget(self, link: Link) -> None:
        self._all.discard(link)
        if link in self._idle:
            self._idle.remove(link)
        if link.idle is not None:
            link.idle.cancel()

    async def _part(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_PARTING)
        links = list(self._all)
        for link in links:
            link.part()
        if links:
            await asyncio.wait([link.closed for link in links], timeout=_PARTING)
        for link in list(self._all):
            link.fail(Lost("closed"))
        await asyncio.sleep(0)  # what was aborted is closed in the next round


def _own_name(link: Link) -> str:
    """This machine's name where it is a whole one, else its address (RFC 5321 section 4.1.3). Asks no DNS."""
    name = socket.gethostname()
    if re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", name):
        return name
    own = link.transport.get_extra_info("sockname")[0].partition("%")[0]
    return f"[IPv6:{own}]" if ":" in own else f"[{own}]"


def _sentence(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return f"the name provider.host cannot be found: {error.strerror}"
    return f"no connection: {error.strerror or error.args[0] if error.args else type(error).__name__}"
