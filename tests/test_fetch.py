"""Fetching: only where it may, never without end, and an answer whole or not at all."""

import errno
import gzip
import ipaddress
import os
import socket
import ssl
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from newsletter import __version__, fetch, guard
from newsletter.fetch import Fetched, Fetcher, FetchError, Validators, user_agent
from newsletter.guard import look_up, may_be_asked
from newsletter.settings import Fetch
from tests.feed_server import FeedServer, answer, redirect

NOW = datetime(2026, 11, 23, 6, 0, tzinfo=UTC)
LOOPBACK = ("127.0.0.0/8",)
FEED = b"<rss>caf\xc3\xa9</rss>"
CLOSED = "is no address of the public internet; [fetch] allow_networks lets a network be asked"

Open = Callable[..., Fetcher]


@pytest.fixture
def server() -> Iterator[FeedServer]:
    with FeedServer() as server:
        yield server


def fetcher(
    allow: tuple[str, ...] = LOOPBACK,
    *,
    seconds: float = 5,
    most: int = 10_000_000,
    resolve: guard.Resolve = look_up,
    tls: ssl.SSLContext | None = None,
) -> Fetcher:
    # Copied past the validation, which wants at least a second: the tests have no time for that.
    limits = Fetch(allow_networks=allow).model_copy(
        update={"timeout": timedelta(seconds=seconds), "largest_bytes": most}
    )
    agent = user_agent("https://news.example.org")
    return Fetcher(limits, user_agent=agent, clock=lambda: NOW, resolve=resolve, tls=tls or TRUSTING_NOBODY)


TRUSTING_NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # one for all: reading the system's authorities takes a while


def squeeze(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)  # the time of packing would make a test's name, and workers compare those


def refused(url: str, by: Fetcher | None = None, *, kept: str | None = None) -> FetchError:
    with pytest.raises(FetchError) as caught:
        (by or fetcher()).get(url, Validators(kept, kept))
    error = caught.value
    assert str(error) == error.what == " ".join(error.what.split())
    assert not any(word in error.what for word in ("Error", "Exception", "Errno", "httpcore", "None"))
    return error


def what(url: str, by: Fetcher | None = None) -> str:
    return refused(url, by).what


# ------------------------------------------------------------------------------------------ a good answer


def test_a_feed_comes_as_it_was_sent(server: FeedServer) -> None:
    server.answers["/feed?a=1&b=%20"] = answer(
        FEED, "Content-Type: Application/RSS+xml; Charset=UTF-8", 'ETag: W/"v1"', "Last-Modified: Mon, 23 Nov 2026"
    )
    got = fetcher().get(server.url("/feed?a=1&b=%20#part"))
    assert got == Fetched(
        url=server.url("/feed?a=1&b=%20"),
        status=200,
        body=FEED,
        validators=Validators('W/"v1"', "Mon, 23 Nov 2026"),
        charset="utf-8",
        content_type="application/rss+xml",
        moved=None,
    )
    [request] = server.requests
    assert request.line == "GET /feed?a=1&b=%20 HTTP/1.1"
    assert request.headers["host"] == f"127.0.0.1:{server.port}"
    assert request.headers["user-agent"] == f"brief-newsletter/{__version__} (+https://news.example.org)"
    assert request.headers["accept-encoding"] == "gzip"
    assert request.headers["connection"] == "close"
    assert "application/feed+json" in request.headers["accept"]
    assert set(request.headers) == {"host", "user-agent", "accept", "accept-encoding", "connection"}


def test_a_host_of_ipv6_is_asked_by_its_name_in_brackets() -> None:
    try:
        listening = FeedServer("::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    with listening as server:
        server.answers["/"] = answer(FEED)
        assert fetcher(("::1/128",)).get(server.url()).body == FEED
        assert server.requests[0].headers["host"] == f"[::1]:{server.port}"
        assert "::1 " + CLOSED in what(server.url())
        assert server.connections.total() == 1


def test_chunks_of_any_size_and_a_body_that_ends_with_the_connection_are_whole(server: FeedServer) -> None:
    chunks = b"".join(b"1;ext=1\r\n%c\r\n" % byte for byte in FEED) + b"0\r\nTrailer: x\r\n\r\n"
    server.answers["/chunks"] = answer(chunks, "Transfer-Encoding: chunked")
    server.answers["/open-end"] = b"HTTP/1.0 200 OK\r\n\r\n" + FEED
    server.answers["/interim"] = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + answer(FEED)
    for path in server.answers:
        assert fetcher().get(server.url(path)).body == FEED


@pytest.mark.parametrize(
    ("given", "charset", "content_type"),
    [
        ("text/xml; charset=utf-8", "utf-8", "text/xml"),
        ('text/xml; charset="ISO-8859-1"; x=y', "iso-8859-1", "text/xml"),
        ("text/xml; x=y;CHARSET = 'windows-1251' ", "windows-1251", "text/xml"),
        ("text/xml", None, "text/xml"),
        ("text/xml; charset=", None, "text/xml"),
        ("text/xml; charset=klingon", None, "text/xml"),
        ("text/xml; charset=rot13", None, "text/xml"),
        ("text/xml; charset=unicode-escape", None, "text/xml"),
        ("text/xml; charset=../../etc/passwd", None, "text/xml"),
        pytest.param("text/xml; charset=" + "x" * 5_000, None, "text/xml", id="very long"),
        ("; charset=utf-8", "utf-8", None),
        ("rss", None, None),
        ("", None, None),
        ("\xff\xfe/\x80", None, None),
    ],
)
def test_the_charset_is_one_that_can_be_read(
    server: FeedServer, given: str, charset: str | None, content_type: str | None
) -> None:
    server.answers["/"] = answer(FEED, f"Content-Type: {given}")
    got = fetcher().get(server.url())
    assert (got.charset, got.content_type) == (charset, content_type)


def test_the_user_agent_is_ascii_on_one_line() -> None:
    assert user_agent(None) == f"brief-newsletter/{__version__}"
    assert (
        user_agent("https://bücher.example/\r\nX: y()")
        == f"brief-newsletter/{__version__} (+https://bcher.example/X:y)"
    )


# ------------------------------------------------------------------------------------------ where it may go

SPELLINGS = [  # of 127.0.0.1, and of this machine; {port} is that of a listener which must never see a connection
    "127.0.0.1:{port}",
    "127.0.0.1.:{port}",
    "2130706433:{port}",
    "0x7f000001:{port}",
    "0X7F000001:{port}",
    "017700000001:{port}",
    "0177.0.0.1:{port}",
    "0x7f.0.0.1:{port}",
    "0x7f.1:{port}",
    "127.1:{port}",
    "127.0.1:{port}",
    "127.0x0.0.01:{port}",
    "0:{port}",
    "0.0.0.0:{port}",
    "127.8.8.8:{port}",
    "127.0.0.1:0{port}",
    "127。0。0。1:{port}",
    "127．0．0．1:{port}",
    "127｡0｡0｡1:{port}",
    "１２７.0.0.1:{port}",
    "①②⑦.0.0.1:{port}",
    "%31%32%37.0.0.1:{port}",
    "127%2E0.0.1:{port}",
    "127.0.0.1%00.example.org:{port}",
    "[::1]:{port}",
    "[::]:{port}",
    "[0:0:0:0:0:0:0:1]:{port}",
    "[::ffff:127.0.0.1]:{port}",
    "[::ffff:7f00:1]:{port}",
    "[::FFFF:7F00:1]:{port}",
    "[::127.0.0.1]:{port}",
    "[64:ff9b::7f00:1]:{port}",
    "[64:ff9b:1::7f00:1]:{port}",
    "[2002:7f00:1::]:{port}",
    "[2001:0:7f00:1::]:{port}",
    "[fe80::1%25lo]:{port}",
    "[fe80::1%lo]:{port}",
    "[::1%lo]:{port}",
    "[fec0::1]:{port}",
    "[fd00::1]:{port}",
    "localhost:{port}",
    "LOCALHOST:{port}",
    "localhost.:{port}",
    "ⓛocalhost:{port}",
    "feeds.example.org:{port}",  # a name of somebody else's that resolves here
    "FEEDS.example.org.:{port}",
    "xn--feeds-.example.org:{port}",
    "good@127.0.0.1:{port}",
    "good:secret@127.0.0.1:{port}",
    "@127.0.0.1:{port}",
    "good.example.org@127.0.0.1:{port}",
    "127.0.0.1:{port}@127.0.0.1:{port}",
    "good.example.org\\@127.0.0.1:{port}",
    "127.0.0.1:{port}\\@good.example.org",
    "127.0.0.1:{port}#@good.example.org",
    "127.0.0.1:{port}?@good.example.org",
    "good.example.org#@127.0.0.1:{port}",
]


def resolve_here(name: str) -> list[str]:
    """The system's resolver for numbers, whose spellings are its business; every name is of this machine."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except OSError:
        return ["127.0.0.1"]
    return [str(place[0]) for *_, place in found]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_spelling_of_a_closed_address_is_asked(server: FeedServer, spelling: str) -> None:
    place = spelling.format(port=server.port)
    for scheme in ("http", "https", "HTTP"):
        refused(f"{scheme}://{place}/", fetcher((), resolve=resolve_here))
    assert server.connections.total() == 0


@pytest.mark.parametrize("spelling", ["127.0.0.1", "2130706433", "0x7f000001", "127.1", "LOCALHOST.", "127。0。0。1"])
def test_the_same_spellings_lead_here_once_that_is_allowed(server: FeedServer, spelling: str) -> None:
    """So the test above refuses what would have connected."""
    server.answers["/"] = answer(FEED)
    with suppress(OSError):
        if look_up(spelling.rstrip(".").replace("。", ".")) != ["127.0.0.1"]:
            pytest.skip("this machine's resolver takes it for something else")
    assert fetcher().get(server.url(host=spelling)).body == FEED


def test_a_name_or_password_in_an_address_is_refused_wherever_it_leads(server: FeedServer) -> None:
    server.answers["/"] = redirect(server.url("/ok", host="name:secret@127.0.0.1"))
    server.answers["/ok"] = answer(FEED)
    for said in (what(server.url("/ok", host="name:secret@127.0.0.1")), what(server.url())):
        assert said.endswith("expected a web address without a name or password in it")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "host", ["%31%32%37.0.0.1", "127.0.0.1%00.example", "a b", "a!b", "-a", ".", "[::1%25lo]", "a" * 254]
)
def test_what_is_no_host_is_not_even_looked_up(host: str) -> None:
    assert what(f"http://{host}/", fetcher(resolve=never_asked)) == "expected a web address with the name of a host"


def never_asked(_: str) -> list[str]:
    pytest.fail("was looked up")


@pytest.mark.parametrize("port", ["0", "65536", "-1", "9" * 30])
def test_what_is_no_port_is_not_asked(port: str) -> None:
    said = what(f"http://127.0.0.1:{port}/", fetcher(resolve=never_asked))
    assert said == "expected a web address with a port from 1 to 65535"


def test_a_mapped_address_stays_refused_where_only_its_ipv4_network_is_allowed(server: FeedServer) -> None:
    url = server.url(host="[::ffff:127.0.0.1]")
    assert CLOSED in what(url, fetcher(LOOPBACK))
    assert server.connections.total() == 0
    server.answers["/"] = answer(FEED)
    assert fetcher(("::ffff:127.0.0.1/128",)).get(url).body == FEED


CLOSED_ADDRESSES = """
    0.0.0.0 0.255.255.255 10.0.0.1 100.64.0.1 100.127.255.255 100.100.100.200 127.0.0.1 127.255.255.255
    169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.9 192.0.0.171 192.0.2.1 192.88.99.1 192.168.1.1
    198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
    :: ::1 ::7f00:1 ::8.8.8.8 ::ffff:8.8.8.8 ::ffff:127.0.0.1 64:ff9b::8.8.8.8 64:ff9b:1::1 100::1 100:0:0:1::1
    2001::1 2001:0:7f00:1:: 2001:2::1 2001:10::1 2001:20::1 2001:1ff:ffff::1 2001:db8::1 2002:7f00:1:: 2002:808:808::
    3fff::1 3fff:fff:ffff::1 4000::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1 fe80::1%eth0 2606:4700::1111%eth0 febf::1
    fec0::1 feff::1 ff02::1 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff
"""
OPEN_ADDRESSES = """
    1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 169.253.255.255
    172.15.255.255 172.32.0.0 192.0.1.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 203.0.112.255
    223.255.255.255
    2000::1 2001:200::1 2001:4860:4860::8888 2001:db7::1 2003::1 2606:4700:4700::1111 2a00:1450::1 3ffe::1
"""


@pytest.mark.parametrize("text", CLOSED_ADDRESSES.split())
def test_what_is_not_global_may_not_be_asked(text: str) -> None:
    assert not may_be_asked(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", OPEN_ADDRESSES.split())
def test_the_public_internet_may_be_asked(text: str) -> None:
    assert may_be_asked(ipaddress.ip_address(text))


@given(st.ip_addresses())
def test_whatever_python_takes_for_private_may_not_be_asked(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if not address.is_global or address.is_multicast or address.is_reserved:
        assert not may_be_asked(address)


def test_a_zone_is_refused_even_where_its_network_is_allowed() -> None:
    everything = [ipaddress.ip_network("::/0")]
    assert may_be_asked(ipaddress.ip_address("fe80::1"), everything)
    assert not may_be_asked(ipaddress.ip_address("fe80::1%1"), everything)


def test_the_systems_answer_is_read_with_its_zone_and_each_address_once(monkeypatch: pytest.MonkeyPatch) -> None:
    four, six = socket.AF_INET, socket.AF_INET6
    found = [
        (four, 1, 6, "", ("192.0.2.7", 0)),
        (four, 1, 6, "", ("192.0.2.7", 0)),
        (six, 1, 6, "", ("2001:db8::7", 0, 0, 0)),
        (six, 1, 6, "", ("fe80::7", 0, 0, 3)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert look_up("x") == ["192.0.2.7", "2001:db8::7", "fe80::7%3"]


def test_one_closed_address_among_open_ones_refuses_the_host(server: FeedServer) -> None:
    for answers in (["127.0.0.1", "10.0.0.1"], ["10.0.0.1", "127.0.0.1"], ["127.0.0.1", "fe80::1%2"]):
        error = refused(server.url(host="feeds.example.org"), fetcher(resolve=lambda _, given=answers: given))  # type: ignore[misc] # bound at once
        assert "feeds.example.org is " in error.what
        assert ", and that " + CLOSED in error.what
        assert not error.host_is_down
    assert server.connections.total() == 0


def two_servers(stack: ExitStack) -> tuple[FeedServer, FeedServer]:
    """One on 127.0.0.1 and one on 127.0.0.2, at the same port."""
    for _ in range(20):
        first = FeedServer("127.0.0.1")
        try:
            second = FeedServer("127.0.0.2", first.port)
        except OSError as error:
            first.close()
            if error.errno == errno.EADDRNOTAVAIL:
                pytest.skip("this machine has only one loopback address")
        else:
            return stack.enter_context(first), stack.enter_context(second)
    pytest.fail("no port that is free on both addresses")


def test_a_name_server_that_changes_its_mind_leads_nowhere_else() -> None:
    """DNS rebinding: the address that was checked is the one that is connected to, and it is looked up once."""
    with ExitStack() as stack:
        closed, allowed = two_servers(stack)
        closed.answers["/"] = answer(b"secret")
        allowed.answers["/"] = answer(FEED)
        asked: list[str] = []

        def rebind(host: str) -> list[str]:
            asked.append(host)
            return ["127.0.0.2"] if len(asked) % 2 else ["127.0.0.1"]

        fetching = fetcher(("127.0.0.2/32",), resolve=rebind)
        assert fetching.get(allowed.url(host="rebind.example.org")).body == FEED
        assert asked == ["rebind.example.org"]
        assert (allowed.connections["127.0.0.2"], closed.connections.total()) == (1, 0)

        assert CLOSED in what(allowed.url(host="rebind.example.org"), fetching)  # the second look-up is its own check
        allowed.answers["/"] = redirect("/elsewhere")
        assert "redirects, and then: rebind.example.org is 127.0.0.1" in what(
            allowed.url(host="rebind.example.org"), fetching
        )
        assert len(asked) == 4
        assert closed.connections.total() == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("target", ["http://127.0.0.1:{port}/", "//127.0.0.1:{port}/", "http://2130706433:{port}/"])
def test_a_redirect_leads_to_no_closed_address(status: int, target: str) -> None:
    with ExitStack() as stack:
        closed, allowed = two_servers(stack)
        allowed.answers["/"] = redirect(target.format(port=closed.port), status)
        error = refused(allowed.url(), fetcher(("127.0.0.2/32",)))
        assert error.what.startswith("127.0.0.2 redirects, and then: ")
        assert CLOSED in error.what
        assert (allowed.connections.total(), closed.connections.total()) == (1, 0)


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "gopher://127.0.0.1:6379/_INFO",
        "javascript:alert(1)",
        "data:text/xml,<rss/>",
        "unix:///run/docker.sock",
        "http+unix://%2Frun%2Fdocker.sock/",
        "http://",
        "http:///etc/passwd",
        "http:\\\\127.0.0.1/",
        "https://user:pw@127.0.0.1/",
        "http://[::1",
        "http://a:b:c/",
        "http://127.0.0.1:0/",
        "http://127.0.0.1:65536/",
        "http://127.0.0.1:-1/",
        "http://a\x00b/",
        "http://a b/",
        "//[",
        pytest.param("http://" + "x" * 300 + "/", id="long name"),
        pytest.param("/" + "x" * 9_000, id="very long"),
    ],
)
def test_a_redirect_to_what_is_no_web_address_is_refused(server: FeedServer, location: str) -> None:
    server.answers["/"] = redirect(location)
    assert "127.0.0.1" in what(server.url())
    assert server.connections.total() == 1


def test_a_line_break_in_a_redirect_adds_nothing_to_the_next_request(server: FeedServer) -> None:
    server.answers["/"] = redirect("/next%0d%0aX-Injected: yes\r\nX-Answer: no")
    server.answers["/next%0d%0aX-Injected:%20yes"] = answer(FEED)
    assert fetcher().get(server.url()).body == FEED
    assert "x-injected" not in server.requests[1].headers


def test_the_environment_names_no_proxy(server: FeedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with FeedServer() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url())
        server.answers["/"] = answer(FEED)
        assert fetcher().get(server.url()).body == FEED
        assert CLOSED in what(server.url(), fetcher(()))
        assert proxy.connections.total() == 0


def test_no_unix_socket_can_be_asked() -> None:
    guarding = guard.Guard(look_up, (), time.monotonic() + 1, 1_000)
    with pytest.raises(NotImplementedError):
        guarding.connect_unix_socket("/run/any.sock")


# ------------------------------------------------------------------------------------------ redirects


def test_a_redirect_is_followed_and_told_where_it_is_for_good(server: FeedServer) -> None:
    server.answers |= {
        "/old": redirect("older#part", 301),
        "/older": redirect(server.url("/ok?x=é"), 308),
        "/ok?x=%C3%A9": answer(FEED),
        "/now": redirect("/old", 302),
        "/gone": redirect("/nothing", 301),
    }
    got = fetcher().get(server.url("/old"))
    assert (got.body, got.url, got.moved) == (FEED, server.url("/ok?x=%C3%A9"), server.url("/ok?x=%C3%A9"))
    assert fetcher().get(server.url("/now")).moved is None
    assert fetcher().get(server.url("/ok?x=%C3%A9")).moved is None
    assert what(server.url("/gone")) == (
        "127.0.0.1 redirects, and then: 127.0.0.1 answers 404: there is nothing at that address"
    )


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_every_redirect_is_followed_with_a_get(server: FeedServer, status: int) -> None:
    server.answers |= {"/": redirect("ok", status), "/ok": answer(FEED)}
    assert fetcher().get(server.url()).body == FEED
    assert [request.line for request in server.requests] == ["GET / HTTP/1.1", "GET /ok HTTP/1.1"]


def test_five_redirects_are_followed_and_no_sixth(server: FeedServer) -> None:
    server.answers |= {f"/{n}": redirect(f"/{n + 1}") for n in range(6)}
    server.answers["/6"] = answer(FEED)
    assert fetcher().get(server.url("/1")).body == FEED
    assert what(server.url("/0")) == "127.0.0.1 redirects once more, after 5 redirects"
    server.answers["/loop"] = redirect("/loop")
    before = len(server.requests)
    assert "redirects once more" in what(server.url("/loop"))
    assert len(server.requests) - before == 6


def test_a_redirect_needs_an_address(server: FeedServer) -> None:
    server.answers["/"] = answer(status="302 Found")
    assert what(server.url()) == "127.0.0.1 redirects without saying where to"
    server.answers["/"] = answer(b"", "Location: /x", status="300 Multiple Choices")
    assert what(server.url()) == "127.0.0.1 answers 300: that leads nowhere"


def test_the_body_of_a_redirect_is_not_waited_for(server: FeedServer) -> None:
    server.answers["/"] = b"HTTP/1.1 302 x\r\nLocation: /ok\r\nContent-Length: 999999999\r\n\r\n"
    server.answers["/ok"] = answer(FEED)
    assert fetcher().get(server.url()).body == FEED


def test_a_host_that_is_down_behind_a_redirect_is_not_the_one_that_was_asked(server: FeedServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server.answers["/"] = redirect(f"http://127.0.0.1:{port}/")
    assert not refused(server.url()).host_is_down
    assert refused(f"http://127.0.0.1:{port}/").host_is_down


# ------------------------------------------------------------------------------------------ time


def drip(data: bytes, pause: float = 0.02) -> Callable[[socket.socket], None]:
    def send(connection: socket.socket) -> None:
        for byte in data:
            connection.sendall(bytes([byte]))
            time.sleep(pause)

    return send


@pytest.mark.parametrize(
    "slow",
    [
        drip(b"HTTP/1.1 200 OK\r\n" + b"X-Header: value\r\n" * 500),
        drip(answer(b"x" * 5_000)),
        drip(answer(b"1\r\nx\r\n" * 5_000, "Transfer-Encoding: chunked")),
        drip(b"HTTP/1.1 100 Continue\r\n\r\n" * 500),
        lambda connection: time.sleep(1),
    ],
    ids=["headers", "body", "chunks", "interim", "silence"],
)
def test_a_server_that_drips_is_left_at_the_deadline(server: FeedServer, slow: Callable[[socket.socket], None]) -> None:
    server.answers["/"] = slow
    begun = time.monotonic()
    assert what(server.url(), fetcher(seconds=0.4)) == "127.0.0.1 did not answer in full within 0.4 s"
    assert 0.3 < time.monotonic() - begun < 3  # generous, for a machine under load


def test_redirects_share_one_deadline(server: FeedServer) -> None:
    def slow(to: str) -> Callable[[socket.socket], None]:
        def send(connection: socket.socket) -> None:
            time.sleep(0.15)
            connection.sendall(redirect(to))

        return send

    server.answers |= {f"/{n}": slow(f"/{n + 1}") for n in range(5)}
    assert "did not answer in full within 0.4 s" in what(server.url("/0"), fetcher(seconds=0.4))


def test_a_handshake_that_never_ends_is_left_at_the_deadline(server: FeedServer) -> None:
    url = server.url().replace("http:", "https:")
    error = refused(url, fetcher(seconds=0.4))
    assert (error.what, error.host_is_down) == ("127.0.0.1 did not answer in full within 0.4 s", False)


def test_a_connection_that_never_comes_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "LONGEST_CONNECT", 0.3)
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # nobody accepts them, and there is no room for a further one
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)  # noqa: FBT003 # the socket's interface
            waiting.connect_ex(full.getsockname())
        begun = time.monotonic()
        error = refused(f"http://127.0.0.1:{full.getsockname()[1]}/")
        assert (error.what, error.host_is_down) == ("127.0.0.1 does not answer", True)
        assert time.monotonic() - begun < 3
        error = refused(f"http://127.0.0.1:{full.getsockname()[1]}/", fetcher(seconds=0.2))
        assert (error.what, error.host_is_down) == ("127.0.0.1 did not answer in full within 0.2 s", True)


def test_a_silent_address_leaves_time_for_the_next(server: FeedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers["/"] = answer(FEED)
    monkeypatch.setattr(guard, "LONGEST_CONNECT", 0.6)
    with ExitStack() as stack:
        try:
            full = stack.enter_context(socket.create_server(("127.0.0.2", server.port), backlog=0))
        except OSError:
            pytest.skip("this machine has only one loopback address")
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)  # noqa: FBT003 # the socket's interface
            waiting.connect_ex(full.getsockname())
        trying = fetcher(resolve=lambda _: ["127.0.0.2", "127.0.0.1"])
        assert trying.get(server.url(host="feeds.example.org")).body == FEED


def test_name_servers_that_never_answer_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def silent(_: str) -> list[str]:
        over.wait(10)
        return ["127.0.0.1"]

    monkeypatch.setattr(guard, "LONGEST_CONNECT", 0.2)
    try:
        begun = time.monotonic()
        error = refused("http://feeds.example.org/", fetcher(resolve=silent))
        assert (error.what, error.host_is_down) == ("the name servers give no answer about feeds.example.org", True)
        assert time.monotonic() - begun < 3
        error = refused("http://feeds.example.org/", fetcher(seconds=0.1, resolve=silent))
        assert (error.what, error.host_is_down) == ("feeds.example.org did not answer in full within 0.1 s", True)
    finally:
        over.set()


def test_a_host_without_an_address_is_down() -> None:
    def failing(error: Exception) -> guard.Resolve:
        def resolve(_: str) -> list[str]:
            raise error

        return resolve

    url, unknown = "http://feeds.example.org/", "feeds.example.org is a name that the name servers do not know"
    for resolve, said in [
        (failing(socket.gaierror(socket.EAI_NONAME, "not known")), unknown),
        (failing(UnicodeError("label too long")), unknown),
        (failing(socket.gaierror(socket.EAI_AGAIN, "again")), "feeds.example.org could not be looked up"),
        (failing(OSError(24, "too many files")), "feeds.example.org could not be looked up"),
        (lambda _: [], "feeds.example.org has no address"),
    ]:
        error = refused(url, fetcher(resolve=resolve))
        assert (error.what, error.host_is_down) == (said, True)
    assert "gave no addresses" in what(url, fetcher(resolve=lambda _: ["localhost"]))


def test_a_refused_connection_is_said_to_be_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    error = refused(f"http://127.0.0.1:{port}/")
    assert (error.what, error.host_is_down) == ("127.0.0.1 refuses the connection", True)


# ------------------------------------------------------------------------------------------ answers that break


def reset(after: bytes) -> Callable[[socket.socket], None]:
    def send(connection: socket.socket) -> None:
        connection.sendall(after)
        time.sleep(0.05)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return send


CUT = "127.0.0.1 broke off before the end of its answer"
NOT_HTTP = "127.0.0.1 gave no answer in HTTP"


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (reset(b""), "127.0.0.1 broke off the connection"),
        (reset(b"HTTP/1.1 200 OK\r\nContent-"), "127.0.0.1 broke off the connection"),
        (reset(answer(FEED, "Content-Length: 100")), CUT),
        (b"", NOT_HTTP),
        (b"<rss>HTTP/0.9</rss>", NOT_HTTP),
        (b"\x16\x03\x01\x02\x00\x01\x00", NOT_HTTP),
        (b"HTTP/1.1 200 OK\r\nContent-Le", NOT_HTTP),
        (b"HTTP/2 200\r\n\r\n", NOT_HTTP),
        (b"HTTP/1.1 abc OK\r\n\r\n", NOT_HTTP),
        (answer(FEED, "Content-Length: 5", "Content-Length: 6"), NOT_HTTP),
        (answer(FEED, "Content-Length: -1"), NOT_HTTP),
        (answer(FEED, "Transfer-Encoding: gzip"), NOT_HTTP),
        (answer(FEED, "X Y: z"), NOT_HTTP),
        (answer(b"", "Upgrade: h2c", "Connection: upgrade", status="101 Switching Protocols"), NOT_HTTP),
        (b"HTTP/1.1 200 OK\r\n" + b"X-Header: value\r\n" * 20_000 + b"\r\n", NOT_HTTP),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n", NOT_HTTP),
        (answer(FEED, "Content-Length: 100"), CUT),
        (answer(b"", "Content-Length: 100"), CUT),
        (answer(b"5\r\nhello\r\n", "Transfer-Encoding: chunked"), CUT),
        (answer(b"5\r\nhel", "Transfer-Encoding: chunked"), CUT),
        (answer(b"zz\r\nhello\r\n0\r\n\r\n", "Transfer-Encoding: chunked"), CUT),
        (answer(b"5\r\nhello\r\n0\r\n" + b"T: x\r\n" * 50_000, "Transfer-Encoding: chunked"), CUT),
    ],
    ids=[
        "reset at once",
        "reset in the headers",
        "reset in the body",
        "nothing",
        "HTTP/0.9",
        "TLS",
        "cut in the headers",
        "HTTP/2",
        "no status",
        "two lengths",
        "length below 0",
        "unknown transfer",
        "odd header",
        "upgrade",
        "many headers",
        "long header",
        "cut in the body",
        "cut before the body",
        "cut between chunks",
        "cut in a chunk",
        "odd chunk",
        "many trailers",
    ],
)
def test_what_breaks_off_or_is_no_http_is_an_error(
    server: FeedServer, broken: bytes | Callable[[socket.socket], None], said: str
) -> None:
    server.answers["/"] = broken
    error = refused(server.url())
    assert (error.what, error.host_is_down) == (said, False)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (201, "that is no content"),
        (204, "that is no content"),
        (206, "that is no content"),
        (304, "nothing new, although it was not asked for news"),
        (305, "that leads nowhere"),
        (400, "it refuses the request"),
        (401, "it asks for a login"),
        (403, "it refuses to give that to us"),
        (404, "there is nothing at that address"),
        (410, "that is gone for good: take it out of the configuration"),
        (418, "it refuses the request"),
        (429, "it is asked too often"),
        (500, "it has a fault of its own"),
        (503, "it is overloaded, or closed for repair"),
        (599, "it has a fault of its own"),
        (799, "that is no answer"),
    ],
)
def test_only_a_200_is_content(server: FeedServer, status: int, said: str) -> None:
    server.answers["/"] = answer(
        FEED if status not in {204, 304} else b"", "Content-Type: text/xml", status=f"{status} x"
    )
    assert what(server.url()) == f"127.0.0.1 answers {status}: {said}"


# ------------------------------------------------------------------------------------------ size and gzip


def test_the_cap_is_exact(server: FeedServer) -> None:
    small = fetcher(most=1_000)
    for size, fits in [(1_000, True), (1_001, False)]:
        body = os.urandom(size)
        packed = squeeze(body)
        server.answers |= {
            "/length": answer(body),
            "/chunked": answer(b"%x\r\n%b\r\n0\r\n\r\n" % (size, body), "Transfer-Encoding: chunked"),
            "/open": b"HTTP/1.1 200 OK\r\n\r\n" + body,
            "/gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + packed,
        }
        for path in server.answers:
            if fits:
                assert small.get(server.url(path)).body == body
            else:
                said = "127.0.0.1 sends more than 1,000 bytes; [fetch] largest_bytes sets the limit"
                assert what(server.url(path), small) == said


def test_a_length_above_the_cap_is_refused_before_it_is_read(server: FeedServer) -> None:
    server.answers["/"] = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"  # and then nothing
    assert "sends more than" in what(server.url())


def endless(head: bytes, piece: bytes) -> Callable[[socket.socket], None]:
    def send(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:  # until the client hangs up
            connection.sendall(piece)

    return send


@pytest.mark.parametrize(
    "flood",
    [
        endless(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65_536),
        endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 1_000),
        endless(b"", b"HTTP/1.1 102 Wait\r\n\r\n" * 1_000),
        endless(  # deflate blocks that hold nothing
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + squeeze(b"")[:10], b"\0\0\0\xff\xff" * 10_000
        ),
        endless(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", squeeze(b"") * 1_000),
        endless(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + squeeze(b"x"), b"\0" * 65_536),
    ],
    ids=["body", "chunks", "interim", "empty blocks", "members", "padding"],
)
def test_a_flood_ends_soon(
    server: FeedServer, flood: Callable[[socket.socket], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_OVERHEAD", 100_000)  # h11 reads chunks of one byte at a megabyte a second
    server.answers["/"] = flood
    said = what(server.url(), fetcher(most=10_000, seconds=30))
    assert "did not answer in full" not in said  # it was not the clock that ended it


def packed(body: bytes, *headers: str) -> bytes:
    return answer(body, "Content-Encoding: gzip", *headers)


def test_gzip_is_unpacked(server: FeedServer) -> None:
    body = FEED * 10_000
    squeezed = squeeze(body)
    server.answers |= {
        "/plain": packed(squeezed),
        "/x-gzip": answer(squeezed, "Content-Encoding: X-GZIP"),
        "/members": packed(squeeze(body[:99]) + squeeze(body[99:])),
        "/padded": packed(squeezed + b"\0" * 512),
        "/identity": answer(body, "Content-Encoding: identity"),
        "/bytewise": answer(
            b"".join(b"1\r\n%c\r\n" % byte for byte in squeezed) + b"0\r\n\r\n",
            "Transfer-Encoding: chunked",
            "Content-Encoding: gzip",
        ),
    }
    for path in server.answers:
        assert fetcher().get(server.url(path)).body == body


def test_a_bomb_does_not_go_off(server: FeedServer) -> None:
    def bomb(connection: socket.socket) -> None:
        packer = zlib.compressobj(9, wbits=31)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n")
        for _ in range(10_000):  # 10 GB
            connection.sendall(packer.compress(b"\0" * 1_000_000))

    server.answers["/"] = bomb
    assert "sends more than 1,000,000 bytes" in what(server.url(), fetcher(most=1_000_000))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (squeeze(FEED)[:-1], CUT),
        (squeeze(FEED)[:-9], CUT),
        (squeeze(FEED)[:5], CUT),
        (squeeze(FEED) + squeeze(FEED)[:-1], CUT),
        (b"", CUT),
        (FEED, "127.0.0.1 packs its answer as gzip, and that is broken"),
        (zlib.compress(FEED), "127.0.0.1 packs its answer as gzip, and that is broken"),
        (squeeze(FEED) + b"more", "127.0.0.1 packs its answer as gzip, and that is broken"),
        (squeeze(FEED)[:-8] + b"\0" * 8, "127.0.0.1 packs its answer as gzip, and that is broken"),
        (squeeze(b"x") * 101, "127.0.0.1 packs its answer as gzip, and that is broken"),
    ],
    ids=[
        "checksum cut",
        "content cut",
        "header cut",
        "second member cut",
        "empty",
        "plain",
        "zlib",
        "garbage behind",
        "wrong checksum",
        "many members",
    ],
)
def test_gzip_that_is_cut_or_broken_is_an_error(server: FeedServer, body: bytes, said: str) -> None:
    server.answers["/"] = packed(body)
    assert what(server.url()) == said


@pytest.mark.parametrize(
    "coding", ["br", "deflate", "zstd", "gzip, br", "gzip, gzip", "compress", "\x1b[31mred", "utf-8"]
)
def test_another_packing_is_refused_in_words(server: FeedServer, coding: str) -> None:
    server.answers["/"] = answer(squeeze(FEED), f"Content-Encoding: {coding}")
    said = what(server.url())
    assert "which was not asked for" in said
    assert said.isprintable()
    server.answers["/"] = packed(squeeze(FEED), "Content-Encoding: br")
    assert "“gzip, br”" in what(server.url())


# ------------------------------------------------------------------------------------------ what is new


@pytest.mark.parametrize("etag", ['"v1"', 'W/"v1"', '""', "bare", '"caf\xe9 \xff"', '"a\tb"', '"' + "x" * 990 + '"'])
def test_an_etag_goes_back_byte_for_byte(server: FeedServer, etag: str) -> None:
    server.answers["/"] = answer(FEED, f"ETag: {etag}", "Last-Modified: yesterday evening")
    first = fetcher().get(server.url())
    if "\t" in etag:
        assert first.validators == Validators(None, "yesterday evening")
        return
    assert first.validators == Validators(etag, "yesterday evening")
    server.answers["/"] = answer(status="304 Not Modified")
    again = fetcher().get(server.url(), first.validators)
    assert server.requests[1].headers["if-none-match"] == etag
    assert server.requests[1].headers["if-modified-since"] == "yesterday evening"
    assert again == Fetched(server.url(), 304, None, first.validators)


def test_a_304_may_bring_new_validators_and_come_after_a_redirect(server: FeedServer) -> None:
    server.answers["/"] = redirect("/ok", 301)
    server.answers["/ok"] = answer(b"", 'ETag: "new"', status="304 Not Modified")
    got = fetcher().get(server.url(), Validators('"old"', "then"))
    assert (got.status, got.body, got.validators) == (304, None, Validators('"new"', "then"))
    assert got.moved == server.url("/ok")


@pytest.mark.parametrize(
    "kept", ["a\r\nX-Injected: yes", "a\nb", "a\0b", "\x7f", "\x1b[0m", "snow \u2603", "x" * 1_001, ""]
)
def test_a_validator_with_controls_is_not_sent(server: FeedServer, kept: str) -> None:
    server.answers["/"] = answer(FEED)
    assert fetcher().get(server.url(), Validators(kept, kept)).body == FEED
    assert not {"if-none-match", "if-modified-since", "x-injected"} & set(server.requests[0].headers)
    server.answers["/"] = answer(status="304 Not Modified")
    error = refused(server.url(), kept=kept)
    assert error.what == "127.0.0.1 answers 304: nothing new, although it was not asked for news"


def test_no_cookie_comes_back(server: FeedServer) -> None:
    server.answers["/"] = answer(b"", "Set-Cookie: id=1; Path=/", "Location: /ok", status="302 Found")
    server.answers["/ok"] = answer(FEED, "Set-Cookie: id=2")
    with fetcher() as fetching:
        for _ in range(2):
            assert fetching.get(server.url()).body == FEED
    assert len(server.requests) == 4
    assert not any("cookie" in request.headers for request in server.requests)


DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("given", "wish"),
    [
        ("120", timedelta(minutes=2)),
        ("0", timedelta()),
        (" 007 ", timedelta(seconds=7)),
        ("31536000", DAY),
        ("9" * 50, DAY),
        pytest.param("9" * 50_000, DAY, id="very many nines"),
        ("Mon, 23 Nov 2026 06:10:00 GMT", timedelta(minutes=10)),
        ("Monday, 23-Nov-26 06:10:00 GMT", timedelta(minutes=10)),
        ("Mon Nov 23 06:10:00 2026", timedelta(minutes=10)),
        ("Mon, 23 Nov 2026 06:10:00 -0000", timedelta(minutes=10)),
        ("Tue, 23 Nov 2027 06:00:00 GMT", DAY),
        ("Sun, 22 Nov 2026 06:00:00 GMT", timedelta()),
        ("Fri, 31 Dec 9999 23:59:59 -2359", DAY),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("Mon, 99 Nov 2026 99:99:99 GMT", None),
        ("١٢", None),
        ("", None),
    ],
)
def test_what_a_busy_server_wishes_is_read(server: FeedServer, given: str, wish: timedelta | None) -> None:
    sent = given.encode().decode("latin-1")
    for status in (429, 503):
        server.answers["/"] = answer(b"", f"Retry-After: {sent}", status=f"{status} x")
        assert refused(server.url()).retry_after == wish
    server.answers["/"] = answer(b"", f"Retry-After: {sent}", status="500 x")
    assert refused(server.url()).retry_after is None
    server.answers |= {"/": redirect("/busy"), "/busy": answer(b"", f"Retry-After: {sent}", status="429 x")}
    assert refused(server.url()).retry_after == wish


# ------------------------------------------------------------------------------------------ manners


def slowly(server: FeedServer) -> Callable[[socket.socket], None]:
    def send(connection: socket.socket) -> None:
        with server.working():
            time.sleep(0.02)
        connection.sendall(answer(FEED))

    return send


def test_a_host_is_asked_one_thing_at_a_time_and_waiting_costs_nobody_time(server: FeedServer) -> None:
    server.answers["/"] = slowly(server)
    fetching, begun = fetcher(seconds=1), time.monotonic()
    with ThreadPoolExecutor(30) as pool:
        assert {got.body for got in pool.map(fetching.get, [server.url()] * 60)} == {FEED}
    assert time.monotonic() - begun > 1  # so some waited for longer than the time-out
    assert server.most_at_once == 1
    assert not fetching._turns  # nothing piles up, host by host


def test_different_hosts_are_asked_at_the_same_time() -> None:
    meeting = threading.Barrier(2)

    def meet(connection: socket.socket) -> None:
        meeting.wait(5)  # passes only where both requests are there at once
        connection.sendall(answer(FEED))

    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        servers = two_servers(stack)
        for server in servers:
            server.answers["/"] = meet
        assert [got.body for got in pool.map(fetcher().get, [server.url() for server in servers])] == [FEED, FEED]


def test_redirects_across_hosts_block_nobody() -> None:
    with ExitStack() as stack, ThreadPoolExecutor(8) as pool:
        one, two = two_servers(stack)
        for here, there in ((one, two), (two, one)):
            here.answers |= {"/": redirect(there.url("/ok")), "/ok": slowly(here)}
        answers = pool.map(fetcher().get, [one.url(), two.url()] * 20, timeout=20)
        assert {got.body for got in answers} == {FEED}
        assert (one.most_at_once, two.most_at_once) == (1, 1)


def test_once_closed_nothing_more_is_asked(server: FeedServer) -> None:
    with fetcher() as fetching:
        pass
    assert what(server.url(), fetching) == "127.0.0.1 was not asked: the program is stopping"
    assert server.connections.total() == 0


# ------------------------------------------------------------------------------------------ TLS


class Authority:
    """Signs certificates for a test, and trusts itself."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.key = folder, ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._sign("An Authority", self.key.public_key(), authority=True)

    def _sign(
        self, name: str, key: ec.EllipticCurvePublicKey, *, authority: bool = False, days: int = 1
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "An Authority")])
        signer = x509.SubjectKeyIdentifier.from_public_key(self.key.public_key())
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=9))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(signer), critical=False)
        )
        if authority:
            usage = x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=True,
                crl_sign=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            )
            builder = builder.add_extension(usage, critical=True)
        else:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def server(self, name: str, *, days: int = 1) -> ssl.SSLContext:
        """What a server of that name shows."""
        key = ec.generate_private_key(ec.SECP256R1())
        file = self.folder / f"{name}-{days}.pem"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + self._sign(name, key.public_key(), days=days).public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def client(self) -> ssl.SSLContext:
        """What trusts this authority, and no other."""
        trusting = self.certificate.public_bytes(serialization.Encoding.PEM).decode()
        return ssl.create_default_context(cadata=trusting)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


def test_a_certificate_is_of_the_name_while_the_connection_goes_to_the_address(authority: Authority) -> None:
    names: list[str | None] = []
    showing = authority.server("feeds.example.org")
    showing.sni_callback = lambda _, name, __: names.append(name)
    with FeedServer(tls=showing) as server:
        server.answers["/"] = answer(FEED)
        fetching = fetcher(resolve=lambda _: ["127.0.0.1"], tls=authority.client())
        assert fetching.get(server.url(host="feeds.example.org.")).body == FEED
        assert names == ["feeds.example.org"]
        assert server.connections == {"127.0.0.1": 1}
        assert server.requests[0].headers["host"] == f"feeds.example.org:{server.port}"
        error = refused(server.url(host="other.example.org"), fetching)
        assert error.what == "other.example.org shows a certificate that belongs to another name"
        assert not error.host_is_down
        assert what(server.url(), fetching) == "127.0.0.1 shows a certificate that belongs to another address"
        assert len(server.requests) == 1


def test_a_certificate_that_nobody_vouches_for_is_refused_in_words(authority: Authority) -> None:
    with FeedServer(tls=authority.server("feeds.example.org")) as server:
        here = server.url(host="feeds.example.org")
        strangers = fetcher(resolve=lambda _: ["127.0.0.1"])
        said = "feeds.example.org shows a certificate that is signed by an authority that this machine does not know"
        assert what(here, strangers) == said
        system = Fetcher(
            Fetch(allow_networks=LOOPBACK), user_agent="x", clock=lambda: NOW, resolve=lambda _: ["127.0.0.1"]
        )
        assert what(here, system) == said
        assert server.requests == []


def test_an_expired_certificate_is_said_to_be_one(authority: Authority) -> None:
    with FeedServer(tls=authority.server("feeds.example.org", days=-1)) as server:
        fetching = fetcher(resolve=lambda _: ["127.0.0.1"], tls=authority.client())
        said = "feeds.example.org shows a certificate that has expired"
        assert what(server.url(host="feeds.example.org"), fetching) == said


def test_a_self_signed_certificate_is_said_to_be_one(authority: Authority, tmp_path: Path) -> None:
    file = tmp_path / "self.pem"
    file.write_bytes(
        authority.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + authority.certificate.public_bytes(serialization.Encoding.PEM)
    )
    showing = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    showing.load_cert_chain(file)
    with FeedServer(tls=showing) as server:
        assert what(server.url()) == "127.0.0.1 shows a certificate that is signed by nobody but itself"


def test_plain_http_behind_https_is_said_in_words(server: FeedServer) -> None:
    server.answers["/"] = answer(FEED)

    def no_tls(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as plain:

        def serve() -> None:
            connection, _ = plain.accept()
            with connection:
                connection.recv(1)
                no_tls(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        said = what(f"https://127.0.0.1:{plain.getsockname()[1]}/")
        thread.join(5)
    assert said == "127.0.0.1 does not speak TLS as we do"


def test_https_does_not_lead_to_plain_http(authority: Authority, server: FeedServer) -> None:
    with FeedServer(tls=authority.server("feeds.example.org")) as secure:
        secure.answers["/"] = redirect(server.url(), 301)
        fetching = fetcher(resolve=lambda _: ["127.0.0.1"], tls=authority.client())
        assert "redirects from https to plain http" in what(secure.url(host="feeds.example.org"), fetching)
        assert server.connections.total() == 0
        server.answers["/"] = redirect(secure.url("/ok", host="feeds.example.org"), 301)
        secure.answers["/ok"] = answer(FEED)
        assert fetching.get(server.url()).body == FEED


# ------------------------------------------------------------------------------------------ anything at all

HOSTS = st.one_of(
    st.sampled_from([spelling.partition(":{port}")[0] for spelling in SPELLINGS]),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
    st.text(max_size=20),
)
ADDRESSES = st.one_of(
    st.text(),
    st.builds(
        "{}{}{}{}{}{}".format,
        st.sampled_from(["http:", "https:", "HTTP:", "", "file:", " http:", "http\t:"]),
        st.sampled_from(["//", "/", "", "\\\\", "///", "//x@"]),
        HOSTS,
        st.sampled_from(["", ":", ":80", ":0", ":65536", ":-1", ":１", ":8_0", ": 80", ":" + "9" * 5_000]),
        st.sampled_from(["", "/", "\\", "?", "#", "\r\n", "\x00", "/\udc80"]),
        st.text(max_size=20),
    ),
)


def resolve_closed(name: str) -> list[str]:
    """As resolve_here, but no fuzzing reaches the internet."""
    found = resolve_here(name)
    return ["127.0.0.1"] if any(may_be_asked(ipaddress.ip_address(address)) for address in found) else found


@given(ADDRESSES)
@example("http://[v1.x]/")
@example("http://" + "a" * 64 + ".example/")
@example("http://a..b/")
@example("http://" + "a." * 200)
@example("http://[::1]x/")
@example("http://xn--/")
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_as_an_address_is_an_error_in_words(text: str) -> None:
    with pytest.raises(FetchError) as caught:
        fetcher((), resolve=resolve_closed).get(text)
    assert "\n" not in caught.value.what


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[FeedServer, FeedServer]]:
    """A server that must not be asked, and one that may."""
    with ExitStack() as stack:
        yield two_servers(stack)


@given(location=ADDRESSES)
@settings(max_examples=120, deadline=None)
def test_any_text_as_a_redirect_leads_nowhere_closed(pair: tuple[FeedServer, FeedServer], location: str) -> None:
    closed, allowed = pair
    for text in (location, location.replace(":80", f":{closed.port}")):
        allowed.answers = {"/": b"HTTP/1.1 302 x\r\nLocation: %b\r\n\r\n" % text.encode("utf-8", "surrogatepass")}
        with pytest.raises(FetchError):
            fetcher(
                ("127.0.0.2/32",), resolve=lambda host: [host] if host == "127.0.0.2" else resolve_closed(host)
            ).get(allowed.url())
    assert closed.connections.total() == 0


HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "Content-Length",
                "Content-Encoding",
                "Content-Type",
                "Transfer-Encoding",
                "ETag",
                "Retry-After",
                "Location",
            ]
        ),
        st.one_of(
            st.binary(max_size=30), st.sampled_from([b"gzip", b"chunked", b"0", b"5", b"/", b"text/xml; charset=x"])
        ),
    ),
    max_size=4,
)


@given(status=st.sampled_from([b"200", b"301", b"304", b"429", b"503", b"000"]), headers=HEADERS, body=st.binary())
@settings(max_examples=120, deadline=None)
def test_any_bytes_as_an_answer_are_content_or_an_error(
    pair: tuple[FeedServer, FeedServer], status: bytes, headers: list[tuple[str, bytes]], body: bytes
) -> None:
    _, allowed = pair
    fields = b"".join(name.encode() + b": " + value + b"\r\n" for name, value in headers)
    allowed.answers = {"/": b"HTTP/1.1 " + status + b" x\r\n" + fields + b"\r\n" + body}
    with suppress(FetchError):
        assert fetcher(("127.0.0.2/32",), resolve=resolve_closed).get(allowed.url(), Validators('"x"')).status in {
            200,
            304,
        }


@given(st.binary())
@settings(max_examples=60, deadline=None)
def test_any_bytes_instead_of_an_answer_are_an_error(pair: tuple[FeedServer, FeedServer], data: bytes) -> None:
    _, allowed = pair
    allowed.answers = {"/": data}
    with pytest.raises(FetchError):
        fetcher(("127.0.0.2/32",)).get(allowed.url())
