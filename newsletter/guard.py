"""Where connections may go, and how long they may last: the part of fetching that must not be fooled.

A URL can be checked as carefully as one likes and still lead elsewhere: by a redirect, by one of a dozen spellings of
an address, by a name server that answers the check with one address and the connection with another. So nothing is
decided by how an address is written. The check sits where connections are made: a name is resolved once, every address
it has is checked, and the connection goes to exactly one of those, by its number. TLS still wants the certificate of
the name.
"""

import errno
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from datetime import timedelta
from time import monotonic
from typing import Any

import httpcore2

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str], Iterable[str]]

LONGEST_CONNECT = 10.0  # seconds, for the name servers and the connection together

# Whatever is not globally reachable, from IANA's registries of special-purpose addresses and a little more. Named here
# because ipaddress.is_global differs between releases of Python, and takes multicast for global. What wraps an IPv4
# address (mapped, compatible, NAT64, 6to4, Teredo) is refused whatever it wraps.
CLOSED: tuple[Network, ...] = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",  # this network (RFC 791); Linux takes 0.0.0.0 for the machine itself
        "10.0.0.0/8",  # private (RFC 1918)
        "100.64.0.0/10",  # shared by a carrier's customers (RFC 6598), and some clouds' metadata
        "127.0.0.0/8",  # loopback (RFC 1122)
        "169.254.0.0/16",  # link-local (RFC 3927), and most clouds' metadata
        "172.16.0.0/12",  # private (RFC 1918)
        "192.0.0.0/24",  # protocol assignments (RFC 6890)
        "192.0.2.0/24",  # documentation (RFC 5737)
        "192.88.99.0/24",  # relays of 6to4, given up (RFC 7526)
        "192.168.0.0/16",  # private (RFC 1918)
        "198.18.0.0/15",  # benchmarking (RFC 2544)
        "198.51.100.0/24",  # documentation (RFC 5737)
        "203.0.113.0/24",  # documentation (RFC 5737)
        "224.0.0.0/4",  # multicast (RFC 5771)
        "240.0.0.0/4",  # reserved (RFC 1112), and broadcast (RFC 919)
        # Of IPv6, global addresses are given out of 2000::/3 alone (RFC 4291, 2.4). Outside of it:
        "::/3",  # unspecified, loopback, IPv4-compatible, IPv4-mapped, NAT64 64:ff9b::/96 and 64:ff9b:1::/48, discard
        "4000::/2",  # segment routing 5f00::/16 (RFC 9602), and not given out
        "8000::/1",  # unique local fc00::/7, link-local fe80::/10, site-local fec0::/10, multicast ff00::/8
        # And inside of it:
        "2001::/23",  # protocol assignments (RFC 2928): Teredo 2001::/32, benchmarking, ORCHID
        "2001:db8::/32",  # documentation (RFC 3849)
        "2002::/16",  # 6to4 (RFC 3056)
        "3fff::/20",  # documentation (RFC 9637)
    )
)

_FAULTS_OF_CERTIFICATES = {  # by OpenSSL's X509_V_ERR_… numbers
    9: "is not valid yet",
    10: "has expired",
    18: "is signed by nobody but itself",
    19: "is signed by nobody but its own authority",
    20: "is signed by an authority that this machine does not know",
    62: "belongs to another name",
    64: "belongs to another address",
}
_NO_CONNECTION = {errno.ECONNREFUSED: "refuses the connection", errno.ECONNRESET: "breaks off the connection"}
_UNKNOWN_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}  # some systems lack the second


class FetchError(Exception):
    """An address gave nothing usable.

    `what` is one plain sentence that names the host but never the whole address, which may hold a key.
    `retry_after` is how long the server asks to be left alone, from now, at most a day. `host_is_down`: there was no
    connection to the host that was asked for (not to one it redirects to), so its other addresses need no try.
    """

    def __init__(self, what: str, retry_after: timedelta | None = None, *, host_is_down: bool = False) -> None:
        self.what, self.retry_after, self.host_is_down = " ".join(what.split()), retry_after, host_is_down
        super().__init__(self.what)


def look_up(host: str) -> list[str]:
    """Every address of a host by the system's resolver, each once; with “%” and the zone behind those that have one.

    Raises OSError, or UnicodeError for what cannot be a name.
    """
    found = (place for *_, place in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
    # A place is (address, port), or for IPv6 (address, port, flow, zone).
    return list(dict.fromkeys(f"{address}%{rest[1]}" if any(rest[1:]) else f"{address}" for address, _, *rest in found))


def may_be_asked(address: Address, networks: Iterable[Network] = ()) -> bool:
    """Whether an address is of the public internet, or of one of the `networks` that an operator opened.

    An address with a zone (fe80::1%eth0) never is: it names a network card of this machine.
    """
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id:
        return False
    return any(address in network for network in networks) or not any(address in network for network in CLOSED)


class Guard(httpcore2.NetworkBackend):
    """Makes the connections of one request: to addresses that were checked, and none outlives the deadline.

    httpcore2 connects through this and nothing else; its Unix sockets stay NotImplementedError. `networks` may be
    asked besides the public internet. `deadline` is of the monotonic clock. `most_bytes` bounds what is read.
    """

    def __init__(self, resolve: Resolve, networks: Sequence[Network], deadline: float, most_bytes: int) -> None:
        self._resolve, self._networks, self._deadline, self._most_bytes = resolve, networks, deadline, most_bytes

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 # httpcore2's interface; the deadline speaks for it
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        """Resolve, check, and connect to one of the addresses that were checked.

        Raises FetchError, and httpcore2.ConnectTimeout where the deadline came first.
        """
        by = min(self._deadline, monotonic() + LONGEST_CONNECT)
        addresses = self._checked(host, by)
        what = "does not answer"
        for tried, address in enumerate(addresses):
            share = (by - monotonic()) / (len(addresses) - tried)  # a silent one leaves time for the others
            if share <= 0:
                break
            try:
                # A number is looked up nowhere, so this is the very address that was checked.
                stream = httpcore2.SyncBackend().connect_tcp(str(address), port, share, local_address, socket_options)
            except httpcore2.ConnectTimeout:
                what = "does not answer"
            except httpcore2.ConnectError as error:
                number = error.__cause__.errno if isinstance(error.__cause__, OSError) else None
                what = _NO_CONNECTION.get(number or 0, "cannot be reached from here")
            else:
                return _Stream(stream, self._deadline, self._most_bytes)
        self._in_time()
        raise FetchError(f"{host} {what}", host_is_down=True)

    def _in_time(self) -> None:
        if monotonic() >= self._deadline:
            raise httpcore2.ConnectTimeout

    def _checked(self, host: str, by: float) -> list[Address]:
        """A host's addresses. FetchError if there is none, or if any of them may not be asked."""
        try:
            addresses = [ipaddress.ip_address(text) for text in self._resolved(host, by)]
        except ValueError:
            raise FetchError(f"{host} could not be looked up: the name servers gave no addresses") from None
        if not addresses:
            raise FetchError(f"{host} has no address", host_is_down=True)
        for address in addresses:
            if not may_be_asked(address, self._networks):
                subject = host if str(address) == host else f"{host} is {address}, and that"
                raise FetchError(
                    f"{subject} is no address of the public internet; [fetch] allow_networks lets a network be asked"
                )
        return addresses

    def _resolved(self, host: str, by: float) -> list[str]:
        # In a thread that may be left behind, since a resolver takes no time-out and its own may be minutes.
        answer: Future[list[str]] = Future()

        def ask() -> None:
            try:
                answer.set_result(list(self._resolve(host)))
            except BaseException as error:  # noqa: BLE001 # raised again in the thread that waits for it
                answer.set_exception(error)

        threading.Thread(target=ask, name="resolve", daemon=True).start()
        try:
            return answer.result(max(0.0, by - monotonic()))
        except TimeoutError as error:
            self._in_time()
            raise FetchError(f"the name servers give no answer about {host}", host_is_down=True) from error
        except (OSError, UnicodeError) as error:
            unknown = isinstance(error, UnicodeError) or error.errno in _UNKNOWN_NAME
            what = "is a name that the name servers do not know" if unknown else "could not be looked up"
            raise FetchError(f"{host} {what}", host_is_down=True) from error


class _Stream(httpcore2.NetworkStream):
    """A connection whose every step ends by the deadline, and that gives no more than `most_bytes`.

    The deadline is of the connection and not of a read, so that a byte now and then buys no time. The count bounds
    what h11 discards (interim answers, the framing of chunks, trailers), and gzip that unpacks to nothing.
    """

    def __init__(self, stream: httpcore2.NetworkStream, deadline: float, most_bytes: int) -> None:
        self._stream, self._deadline, self._room = stream, deadline, most_bytes

    def _left(self) -> float:
        left = self._deadline - monotonic()
        if left <= 0:  # which a socket would take for: do not wait at all
            raise httpcore2.ReadTimeout
        return left

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 # the deadline speaks for it
        """Read what is there, at most `max_bytes`; nothing at the end."""
        data = self._stream.read(max_bytes, self._left())
        self._room -= len(data)
        if self._room < 0:
            raise FetchError("the server sends without end")
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002 # the deadline speaks for it
        """Write all of it."""
        self._stream.write(buffer, self._left())

    def close(self) -> None:
        """Close the socket."""
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002 # the deadline speaks for it
    ) -> httpcore2.NetworkStream:
        """Go on encrypted, with whoever can prove to be `server_hostname`, the name and not the address."""
        try:
            stream = self._stream.start_tls(ssl_context, server_hostname, self._left())
        except httpcore2.ConnectTimeout as error:
            raise httpcore2.ReadTimeout from error  # there is a connection, so the host is not down
        except httpcore2.ConnectError as error:
            cause = error.__cause__
            if isinstance(cause, ssl.SSLCertVerificationError):
                fault = _FAULTS_OF_CERTIFICATES.get(cause.verify_code, f"cannot be trusted ({cause.verify_message})")
                raise FetchError(f"{server_hostname} shows a certificate that {fault}") from error
            raise FetchError(f"{server_hostname} does not speak TLS as we do") from error
        return _Stream(stream, self._deadline, self._room)

    def get_extra_info(self, info: str) -> Any:
        """What httpcore2 asks of the socket."""
        return self._stream.get_extra_info(info)
