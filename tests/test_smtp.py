"""The SMTP provider over real sockets: against a server that misbehaves at any point, and against real ones.

What is said when is tests/test_smtp_wire.py's; what all providers promise, tests/test_providers.py's.
"""

import asyncio
import base64
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dkim
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from newsletter.edition import DeliveryId, Message, Receipt, Recipient, Result
from newsletter.errors import ConfigurationError, DispatchError, OutcomeUnknown, ProviderRefused, Throttled, Unreachable
from newsletter.mime import Mould
from newsletter.providers import dkim as signing
from newsletter.providers import open_provider
from newsletter.providers.smtp import SmtpProvider
from newsletter.providers.smtp_link import Link
from newsletter.settings import Settings, Smtp
from tests.conftest import Desk
from tests.smtp_server import OFFERS, Do, Manner, SmtpServer
from tests.smtp_server import Session as Connection
from tests.strict_mail import read
from tests.test_providers import MESSAGE, people

NOW = datetime(2026, 11, 23, 7, 0, tzinfo=UTC)
A, R, D, U, N = Result.ACCEPTED, Result.REFUSED, Result.DEFERRED, Result.UNKNOWN, Result.NOT_TRIED


@pytest.fixture
def server() -> Iterator[SmtpServer]:
    with SmtpServer() as made:
        yield made


Open = Callable[..., SmtpProvider]


@pytest.fixture
def open_to() -> Iterator[Open]:
    """Opens providers, and closes them when the test is over."""
    opened: list[SmtpProvider] = []

    def open_one(to: SmtpServer | int, *, host: str = "127.0.0.1", seconds: float = 20, **more: Any) -> SmtpProvider:
        port = to if isinstance(to, int) else to.port
        more = {"security": "none", "clock": lambda: NOW, **more}
        opened.append(SmtpProvider(host, port=port, timeout=timedelta(seconds=seconds), **more))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def call(
    provider: SmtpProvider,
    recipients: Sequence[Recipient],
    message: Message = MESSAGE,
    started: Callable[[], None] = lambda: None,
) -> tuple[list[Receipt], DispatchError | None]:
    """All receipts in the order of the recipients, and the error after them."""
    found: dict[str, Receipt] = {}
    error = None
    try:
        for receipt in provider.submit(message, recipients, "a1", started):  # type: ignore[arg-type]
            assert receipt.delivery not in found, "one receipt each"
            found[receipt.delivery] = receipt
    except DispatchError as caught:
        error = caught
    return [found[one.delivery] for one in recipients if one.delivery in found], error


def results(receipts: Sequence[Receipt]) -> list[Result]:
    return [receipt.result for receipt in receipts]


def at(turn: int, act: Any, usual: Any = Do.USUAL) -> Callable[[Connection, str], Any]:
    """Does something the nth time that a verb comes on a connection, counted from 1."""
    count = 0

    def says(session: Connection, argument: str) -> Any:
        nonlocal count
        count += 1
        return act if count == turn else usual

    return says


# ---------------------------------------------------------------------------------------------- what leaves


def test_what_arrives_is_byte_for_byte_what_the_mould_makes(server: SmtpServer, open_to: Open) -> None:
    message = replace(MESSAGE, text=f".\n..\n.hidden\n{MESSAGE.text}.", html=f"{MESSAGE.html}\n.\n.\r\n\n.")
    recipients = people(20)
    receipts, error = call(open_to(server), recipients, message)
    assert (set(results(receipts)), error) == ({A}, None)
    mould = Mould(message)
    assert {mail.to: mail.data for mail in server.mails} == {one.address: mould.fill(one, NOW) for one in recipients}
    for mail in server.mails:
        read(mail.data)


@pytest.mark.parametrize(
    "manner",
    [
        Manner(offers=()),
        Manner(says={"EHLO": b"502 5.5.1 what?\r\n"}),
        Manner(drip=True),
        Manner(newline=b"\n"),
        Manner(offers=(), drip=True, newline=b"\n"),
        Manner(offers=("SIZE",)),
        Manner(says={"CONNECT": b"220-a\r\n220-long\r\n220 greeting\r\n", "MAIL": b"250-ok\r\n250-and\r\n250 ok\r\n"}),
    ],
    ids=["no extensions", "HELO only", "single bytes", "LF alone", "all of that", "no limit", "many lines"],
)
def test_a_server_that_offers_little_or_writes_oddly_gets_the_same_mails(
    server: SmtpServer, open_to: Open, manner: Manner
) -> None:
    server.manner = manner
    recipients = people(5)
    receipts, error = call(open_to(server), recipients)
    assert (results(receipts), error) == ([A] * 5, None)
    assert [mail.data for mail in server.mails] == [Mould(MESSAGE).fill(one, NOW) for one in recipients]


def test_a_delivery_has_the_same_message_id_whenever_it_is_sent(server: SmtpServer, open_to: Open) -> None:
    provider = open_to(server)
    for _ in range(2):
        call(provider, people(1))
    first, second = (re.findall(rb"(?m)^Message-ID: (.*)$", mail.data) for mail in server.mails)
    assert first == second


def test_bounces_come_back_to_an_address_of_the_delivery_and_nobodys_name(server: SmtpServer, open_to: Open) -> None:
    call(open_to(server, bounce_domain="bounce.example.org"), people(1))
    call(open_to(server), people(1))
    assert [mail.path for mail in server.mails] == [
        f"b+{people(1)[0].delivery}@bounce.example.org",
        "daily@example.org",
    ]


def test_a_receipt_names_the_servers_queue_id(server: SmtpServer, open_to: Open) -> None:
    receipts, _ = call(open_to(server), people(2))
    assert [receipt.provider_id for receipt in receipts] == ["00000001", "00000002"]
    server.manner = Manner(says={".": b"250 2.0.0 queued as ada@example.org\r\n"})
    receipts, _ = call(open_to(server), people(1))
    assert receipts[0].provider_id is None, "an address is no queue id"


def test_an_address_beyond_ascii_goes_where_smtputf8_is_offered_and_is_refused_where_not(
    server: SmtpServer, open_to: Open
) -> None:
    recipients = [people(2)[0]._replace(address="ådа@example.org"), people(2)[1]]
    receipts, error = call(open_to(server), recipients)
    assert (results(receipts), error) == ([A, A], None)
    assert [mail.parameters.split(" ", 1)[1:] for mail in server.mails] == [["BODY=8BITMIME SMTPUTF8"], []]
    server.manner = Manner(offers=("PIPELINING",))
    receipts, error = call(open_to(server), recipients)
    assert (results(receipts), error) == ([R, A], None)
    assert "SMTPUTF8" in (receipts[0].reason or "")


def test_a_mail_that_is_too_large_for_the_server_is_not_begun(server: SmtpServer, open_to: Open) -> None:
    server.manner = Manner(offers=("PIPELINING", "SIZE 500"))
    started: list[bool] = []
    receipts, error = call(open_to(server), people(3), started=lambda: started.append(True))
    assert (receipts, started) == ([], [])
    assert isinstance(error, ProviderRefused)
    assert "the server takes 500" in str(error)


# ---------------------------------------------------------------------------------------------- connections


def test_a_connection_is_kept_for_the_next_batch(server: SmtpServer, open_to: Open) -> None:
    provider = open_to(server)
    for _ in range(3):
        assert results(call(provider, people(5))[0]) == [A] * 5
    assert len(server.sessions) == 1
    provider.close()
    assert server.sessions[0].ended.wait(5)
    assert server.commands[-1] == "QUIT"


def test_a_connection_that_the_server_closed_between_batches_costs_nothing(server: SmtpServer, open_to: Open) -> None:
    provider = open_to(server)
    for _ in range(5):
        receipts, error = call(provider, people(5))
        assert (results(receipts), error) == ([A] * 5, None)
        server.sessions[-1].end()  # and the next call comes before or after that was noticed
    assert len(server.sessions) == 5


def test_one_that_dies_as_it_is_taken_up_again_costs_nothing(server: SmtpServer, open_to: Open) -> None:
    """The server's close and our MAIL cross on the way."""
    for act in (Do.CUT, Do.RESET, b"421 4.4.2 timeout\r\n"):
        server.script[:] = [Manner(says={"MAIL": at(4, act)})]
        provider = open_to(server)
        assert results(call(provider, people(3))[0]) == [A] * 3
        started: list[bool] = []
        receipts, error = call(provider, people(3), started=lambda seen=started: seen.append(True))  # type: ignore[misc]
        assert (results(receipts), error, started) == ([A] * 3, None, [True])


def test_a_server_that_takes_only_so_many_a_connection_is_connected_to_again(server: SmtpServer, open_to: Open) -> None:
    def limit(session: Connection, _: str) -> Any:
        return b"421 4.7.0 enough for one connection\r\n" if session.taken >= 3 else Do.USUAL

    server.manner = Manner(says={"MAIL": limit})
    started: list[bool] = []
    receipts, error = call(open_to(server), people(20), started=lambda: started.append(True))
    assert (results(receipts), error, started) == ([A] * 20, None, [True])
    assert len(server.mails) == len(set(server.deliveries)) == 20
    assert len(server.sessions) == 7


def test_as_many_connections_as_calls_at_once_and_all_are_used_again(server: SmtpServer, open_to: Open) -> None:
    provider = open_to(server)
    together = threading.Barrier(4)
    found: list[Receipt] = []

    def run(number: int) -> None:
        for turn in range(3):
            together.wait(10)
            found.extend(call(provider, people(60)[number * 15 + turn * 5 :][:5])[0])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert Counter(results(found)) == {A: 60}
    assert len(server.sessions) <= 4
    assert len(set(server.deliveries)) == 60


def test_a_caller_who_goes_away_leaves_no_call_behind(server: SmtpServer, open_to: Open) -> None:
    provider = open_to(server)
    server.manner = Manner(says={".": at(70, Do.HANG)})
    receipts = provider.submit(MESSAGE, people(200), "a1", lambda: None)  # type: ignore[arg-type]
    assert next(iter(receipts)).result is A
    receipts.close()  # type: ignore[attr-defined]
    provider.close()
    with pytest.raises(StopIteration):
        next(iter(receipts))


def test_closing_ends_a_call_that_goes_on(server: SmtpServer, open_to: Open) -> None:
    provider = open_to(server)
    reached = threading.Event()

    def hang(session: Connection, _: str) -> Any:
        reached.set()
        return Do.HANG

    server.manner = Manner(says={".": hang})

    def close_then() -> None:
        reached.wait(10)
        provider.close()

    thread = threading.Thread(target=close_then)
    thread.start()
    receipts, error = call(provider, people(3))
    thread.join(10)
    assert results(receipts) == [U, N, N]
    assert isinstance(error, OutcomeUnknown)


def test_closing_ends_a_call_that_still_connects(server: SmtpServer, open_to: Open) -> None:
    provider = open_to(server)
    reached = threading.Event()

    def hang(session: Connection, _: str) -> Any:
        reached.set()
        return Do.HANG

    def close_then() -> None:
        reached.wait(10)
        provider.close()

    server.manner = Manner(says={"CONNECT": hang})
    thread = threading.Thread(target=close_then)
    thread.start()
    receipts, error = call(provider, people(3))
    thread.join(10)
    assert receipts == []
    assert isinstance(error, Unreachable)


def test_it_opens_again_after_it_was_closed(server: SmtpServer, open_to: Open) -> None:
    provider = open_to(server)
    for _ in range(2):
        assert results(call(provider, people(1))[0]) == [A]
        provider.close()


# ---------------------------------------------------------------------------------------------- cut anywhere

_VERBS = ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "BODY", "."]


@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize("act", [Do.CUT, Do.RESET, b"421 4.3.2 going down\r\n", b"\xff\xfe\r\n"], ids=str)
@pytest.mark.parametrize("turn", [1, 3])
@pytest.mark.parametrize("verb", _VERBS)
def test_wherever_it_breaks_everybody_is_accounted_for(  # noqa: PLR0917 # what varies
    server: SmtpServer, open_to: Open, verb: str, turn: int, act: Any, pipelining: bool
) -> None:
    """At most one is in doubt. Whom the server took is accepted or in doubt, and nobody else is accepted."""
    offers = OFFERS if pipelining else ()
    breaking = Manner(offers=offers, says={verb: at(turn, act, b"" if verb == "BODY" else Do.USUAL)})
    server.script.append(breaking)
    server.manner = Manner(offers=offers)
    recipients = people(6)
    receipts, error = call(open_to(server), recipients)
    taken = Counter(server.deliveries)
    assert max(taken.values(), default=1) == 1, "nobody gets two"
    if not receipts:
        assert isinstance(error, Unreachable | Throttled)
        assert taken == {}
        return
    assert len(receipts) == 6
    count = Counter(results(receipts))
    assert count[U] <= 1
    assert (count[U] == 1) == isinstance(error, OutcomeUnknown)
    for receipt in receipts:
        if receipt.result is A:
            assert taken[receipt.delivery] == 1
        elif receipt.result in {N, D, R}:
            assert taken[receipt.delivery] == 0
    if count[N]:
        assert error is not None


@pytest.mark.parametrize("after", [0, 1, 500, 1_000_000])
@pytest.mark.parametrize("then", [Do.CUT, Do.RESET])
def test_a_body_that_is_cut_off_is_in_doubt_and_the_others_are_not(
    server: SmtpServer, open_to: Open, after: int, then: Do
) -> None:
    server.script.append(Manner(reads_body=after, then=then))
    large = replace(MESSAGE, text=MESSAGE.text + "x" * 3_000_000)
    receipts, error = call(open_to(server), people(4), large)
    assert results(receipts) == [U, N, N, N]
    assert isinstance(error, OutcomeUnknown)


def test_a_reply_to_a_body_that_says_421_says_that_it_was_not_taken(server: SmtpServer, open_to: Open) -> None:
    server.script.append(Manner(says={".": at(2, b"421 4.3.2 going down\r\n")}))
    receipts, error = call(open_to(server), people(4))
    assert (results(receipts), error) == ([A, D, A, A], None)


def test_a_server_that_goes_down_at_once_is_left_alone_for_a_while(server: SmtpServer, open_to: Open) -> None:
    server.manner = Manner(says={"MAIL": b"421 4.3.2 going down\r\n"})
    receipts, error = call(open_to(server), people(4))
    assert receipts == []
    assert isinstance(error, Throttled)


def test_where_no_other_connection_can_be_made_the_rest_was_not_tried(server: SmtpServer, open_to: Open) -> None:
    server.script.append(Manner(says={"MAIL": at(3, b"421 4.7.0 enough\r\n")}))
    server.manner = Manner(says={"CONNECT": b"421 4.7.0 too many connections\r\n"})
    receipts, error = call(open_to(server), people(4))
    assert results(receipts) == [A, A, N, N]
    assert isinstance(error, Throttled)


# ---------------------------------------------------------------------------------------------- time


@pytest.mark.parametrize("verb", ["CONNECT", "EHLO"])
def test_a_server_that_says_nothing_before_is_unreachable(server: SmtpServer, open_to: Open, verb: str) -> None:
    server.manner = Manner(says={verb: Do.HANG})
    receipts, error = call(open_to(server, seconds=0.34), people(2))  # of it some is spent before: told as 0.3
    assert receipts == []
    assert isinstance(error, Unreachable)
    assert "no connection within 0.3 s" in str(error)


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA"])
def test_silence_before_a_body_leaves_nobody_in_doubt(server: SmtpServer, open_to: Open, verb: str) -> None:
    server.manner = Manner(says={verb: at(2, Do.HANG)})
    receipts, error = call(open_to(server, seconds=1.5), people(3))
    assert results(receipts) == [A, N, N]
    assert isinstance(error, Unreachable)


def test_the_end_of_the_time_leaves_one_in_doubt_and_the_rest_untried(server: SmtpServer, open_to: Open) -> None:
    server.manner = Manner(says={".": at(3, Do.HANG)})
    receipts, error = call(open_to(server, seconds=1.5), people(5))
    assert results(receipts) == [A, A, U, N, N]
    assert isinstance(error, OutcomeUnknown)


def test_a_slow_server_leaves_nobody_in_doubt(server: SmtpServer, open_to: Open) -> None:
    """No copy is begun near the end of the time."""

    def slowly(session: Connection, _: str) -> Any:
        time.sleep(0.02)
        return Do.USUAL

    server.manner = Manner(says={".": slowly})
    receipts, error = call(open_to(server, seconds=1), people(200))
    count = Counter(results(receipts))
    assert set(count) == {A, N}
    assert error is None
    assert count[A] == len(server.mails)


# ---------------------------------------------------------------------------------------------- who is at fault


def test_a_refusal_costs_that_recipient_alone_and_names_nobody(server: SmtpServer, open_to: Open) -> None:
    def judge(session: Connection, argument: str) -> Any:
        if "reader3@" in argument:
            return b"550 5.1.1 <reader3@example.org>: no such user reader3\r\n"
        return b"451 4.7.1 <reader5@example.org>: greylisted\r\n" if "reader5@" in argument else Do.USUAL

    server.manner = Manner(says={"RCPT": judge})
    receipts, error = call(open_to(server), people(8))
    assert (results(receipts), error) == ([A, A, A, R, A, D, A, A], None)
    assert receipts[3].reason == "550 5.1.1 <[address]>: no such user [address]"
    assert not re.search("reader|@", f"{receipts[3].reason}{receipts[5].reason}")
    assert receipts[5].retry_after is None
    assert [receipt.suppress for receipt in receipts] == [False] * 3 + [True] + [False] * 4, "that mailbox is gone"


def test_a_body_may_be_refused_for_one(server: SmtpServer, open_to: Open) -> None:
    server.manner = Manner(says={".": at(2, b"554 5.7.1 looks like spam to reader1@example.org\r\n")})
    receipts, error = call(open_to(server), people(4))
    assert (results(receipts), error) == ([A, R, A, A], None)
    assert "reader1" not in (receipts[1].reason or "")


@pytest.mark.parametrize(
    "said",
    [
        b"550 5.7.1 <reader0@example.org>: Relay access denied\r\n",
        b"554 relaying denied\r\n",
        b"530 5.7.0 Authentication required\r\n",
    ],
)
def test_where_relaying_is_denied_nobody_is_marked(server: SmtpServer, open_to: Open, said: bytes) -> None:
    server.manner = Manner(says={"RCPT": said})
    receipts, error = call(open_to(server), people(200))
    assert receipts == []
    assert isinstance(error, ProviderRefused)
    assert "reader" not in str(error)


def test_many_refused_in_a_row_are_not_believed(server: SmtpServer, open_to: Open) -> None:
    """In one call or in several, until somebody is accepted."""
    server.manner = Manner(says={"RCPT": b"550 no\r\n"})
    provider = open_to(server)
    receipts, error = call(provider, people(200))
    assert Counter(results(receipts)) == {R: 9, N: 191}
    assert isinstance(error, ProviderRefused)
    assert "10 recipients in a row were refused" in str(error)

    counts = [call(provider, people(4)) for _ in range(3)]
    assert [results(receipts) for receipts, _ in counts] == [[R] * 4, [R] * 4, [R, N, N, N]]
    assert isinstance(counts[2][1], ProviderRefused)


def test_a_list_with_many_dead_addresses_goes_out(server: SmtpServer, open_to: Open) -> None:
    def judge(session: Connection, argument: str) -> Any:
        number = int(re.findall(r"reader(\d+)@", argument)[0])
        return Do.USUAL if number % 5 == 4 else b"550 5.1.1 no such user\r\n"

    server.manner = Manner(says={"RCPT": judge})
    receipts, error = call(open_to(server), people(200))
    assert (Counter(results(receipts)), error) == ({A: 40, R: 160}, None)


def test_a_sender_who_is_refused_later_ends_the_call(server: SmtpServer, open_to: Open) -> None:
    server.manner = Manner(says={"MAIL": at(3, b"550 5.7.1 daily limit of daily@example.org reached\r\n")})
    receipts, error = call(open_to(server), people(5))
    assert results(receipts) == [A, A, N, N, N]
    assert isinstance(error, ProviderRefused)
    assert "daily@" not in str(error)


@pytest.mark.parametrize("verb", ["RCPT", "DATA", "."])
def test_a_system_that_is_full_is_left_alone_for_a_while(server: SmtpServer, open_to: Open, verb: str) -> None:
    server.manner = Manner(says={verb: at(3, b"452 4.3.1 insufficient system storage\r\n")})
    receipts, error = call(open_to(server), people(5))
    fourth = A if verb == "." else N  # its envelope is out already when the body before it is answered
    assert results(receipts) == [A, A, D, fourth, N]
    assert isinstance(error, Throttled)


# ---------------------------------------------------------------------------------------------- TLS and password


def certificate_for(name: str, folder: Path) -> Path:
    """A certificate with its key, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = folder / f"{name}.pem"
    file.write_bytes(made.public_bytes(pem) + private)
    return file


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificate_for("localhost", tmp_path_factory.mktemp("tls"))


@pytest.fixture
def secure(pem: Path) -> Iterator[SmtpServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with SmtpServer(tls=context) as made:
        yield made


def test_starttls_and_then_everything_is_asked_anew(secure: SmtpServer, open_to: Open, pem: Path) -> None:
    secure.manner = Manner(users={"desk": "pw"})
    provider = open_to(
        secure,
        host="localhost",
        security="starttls",
        ca_file=pem,
        username="desk",
        password="pw",
        hello="me.example.org",
    )
    assert results(call(provider, people(3))[0]) == [A] * 3
    assert secure.commands[:4] == [
        "EHLO me.example.org",
        "STARTTLS",
        "EHLO me.example.org",
        "AUTH PLAIN AGRlc2sAcHc=",
    ]
    assert secure.sessions[0].encrypted


def test_what_was_offered_before_tls_is_forgotten(secure: SmtpServer, open_to: Open, pem: Path) -> None:
    def offers(session: Connection, _: str) -> Any:
        return b"250-mx\r\n250 SIZE\r\n" if session.encrypted else b"250-mx\r\n250-STARTTLS\r\n250 PIPELINING\r\n"

    secure.manner = Manner(says={"EHLO": offers})
    provider = open_to(secure, host="localhost", security="starttls", ca_file=pem)
    assert results(call(provider, people(2))[0]) == [A] * 2
    (link,) = provider._links._idle
    assert (link.offers.pipelining, link.offers.says_size) == (False, True)


def test_tls_from_the_first_byte(secure: SmtpServer, open_to: Open, pem: Path) -> None:
    secure.implicit_tls = True
    large = replace(MESSAGE, text=MESSAGE.text + "x" * 300_000)
    assert results(call(open_to(secure, host="localhost", security="tls", ca_file=pem), people(3), large)[0]) == [A] * 3


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_certificate_that_nobody_vouches_for_or_of_another_host_ends_it(
    secure: SmtpServer, open_to: Open, pem: Path, tmp_path: Path, security: str
) -> None:
    secure.implicit_tls = security == "tls"
    started: list[bool] = []
    for host, ca_file in (("localhost", certificate_for("localhost", tmp_path)), ("127.0.0.1", pem)):
        provider = open_to(secure, host=host, security=security, ca_file=ca_file)
        receipts, error = call(provider, people(2), started=lambda: started.append(True))
        assert (receipts, started) == ([], [])
        assert isinstance(error, Unreachable)
        assert "certificate is not to be trusted" in str(error)
    assert "MAIL" not in " ".join(secure.commands)


def test_without_starttls_nothing_is_sent_where_it_is_wanted(server: SmtpServer, open_to: Open) -> None:
    provider = open_to(server, security="starttls", username="desk", password="pw")
    receipts, error = call(provider, people(2))
    assert receipts == []
    assert isinstance(error, ProviderRefused)
    assert "STARTTLS" in str(error)
    assert [command.split()[0] for command in server.commands] == ["EHLO"]


@pytest.mark.parametrize("injected", [b"250 ok\r\n", b"250-half", b"EHLO evil\r\n"])
def test_what_is_put_in_before_the_handshake_is_not_read(
    secure: SmtpServer, open_to: Open, pem: Path, injected: bytes
) -> None:
    secure.manner = Manner(says={"STARTTLS": b"220 2.0.0 go on\r\n" + injected})
    receipts, error = call(open_to(secure, host="localhost", security="starttls", ca_file=pem), people(2))
    assert receipts == []
    assert isinstance(error, Unreachable)


def test_a_password_never_goes_in_the_clear_to_another_machine(
    server: SmtpServer, open_to: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.manner = Manner(users={"desk": "pw"})
    monkeypatch.setattr(Link, "to_itself", False)
    receipts, error = call(open_to(server, username="desk", password="pw"), people(2))
    assert receipts == []
    assert isinstance(error, ProviderRefused)
    assert "encrypted connection only" in str(error)
    assert "AUTH" not in " ".join(server.commands)


def test_login_where_plain_is_not_offered(server: SmtpServer, open_to: Open) -> None:
    server.manner = Manner(users={"desk": "pw"}, says={"EHLO": b"250-mx\r\n250 AUTH LOGIN\r\n"})
    assert results(call(open_to(server, username="desk", password="pw"), people(2))[0]) == [A] * 2
    server.manner = Manner(users={"desk": "other"}, says=server.manner.says)
    receipts, error = call(open_to(server, username="desk", password="pw"), people(2))
    assert receipts == []
    assert isinstance(error, ProviderRefused)


def test_a_password_that_cannot_be_judged_now_is_no_refusal(server: SmtpServer, open_to: Open) -> None:
    server.manner = Manner(users={"desk": "pw"}, says={"AUTH": b"454 4.3.0 the directory is down\r\n"})
    assert isinstance(call(open_to(server, username="desk", password="pw"), people(2))[1], Unreachable)


# ---------------------------------------------------------------------------------------------- DKIM


@pytest.mark.parametrize("kind", ["rsa", "rsa in PKCS #8", "ed25519", "ed25519, one line", "rsa, one line"])
def test_a_signed_copy_is_verified_and_nothing_can_be_added_to_it(server: SmtpServer, open_to: Open, kind: str) -> None:
    form = serialization.PrivateFormat.PKCS8
    key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
    if kind.startswith("rsa"):
        key = rsa.generate_private_key(65_537, 2_048)
        form = form if kind == "rsa in PKCS #8" else serialization.PrivateFormat.TraditionalOpenSSL
        public = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    else:
        key = ed25519.Ed25519PrivateKey.generate()
        public = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    private = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()
    if kind == "ed25519, one line":
        assert isinstance(key, ed25519.Ed25519PrivateKey)
        private = base64.b64encode(key.private_bytes_raw()).decode()
    elif kind == "rsa, one line":
        private = "".join(private.splitlines()[1:-1])
    asked: list[str] = []

    def dns(name: bytes, timeout: int = 5) -> bytes:
        asked.append(name.decode())
        return f"v=DKIM1; k={kind.partition(' ')[0].rstrip(',')}; p={base64.b64encode(public).decode()}".encode()

    message = replace(MESSAGE, sender=replace(MESSAGE.sender, reply_to="desk@example.org"), text=f".\n{MESSAGE.text}")
    sign = signing.signer("example.org", "news1", private)
    recipients = [*people(2), people(3)[2]._replace(address="ådа@example.org")]
    assert results(call(open_to(server, sign=sign), recipients, message)[0]) == [A] * 3
    for mail, recipient in zip(server.mails, recipients, strict=True):
        signature, _, rest = mail.data.partition(b"\r\nFrom: ")
        assert b"From: " + rest == Mould(message).fill(recipient, NOW)
        assert dkim.verify(mail.data, dnsfunc=dns)
        assert b"c=relaxed/relaxed" in signature
        for name in ("From", "Subject", "List-Unsubscribe", "List-Unsubscribe-Post", "Reply-To", "Content-Type"):
            assert not dkim.verify(f"{name}: another\r\n".encode() + mail.data, dnsfunc=dns), f"{name} can be added"
        assert not dkim.verify(mail.data.replace(b"Dear", b"Near"), dnsfunc=dns)
    assert set(asked) == {"news1._domainkey.example.org."}


@pytest.mark.parametrize(
    "key", ["", "not a key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", "A" * 400]
)
def test_what_is_no_key_is_said_and_not_quoted(key: str) -> None:
    with pytest.raises(ConfigurationError, match="NEWSLETTER_DKIM_KEY: expected a private key") as caught:
        signing.signer("example.org", "news1", key)
    assert not key or key not in str(caught.value)


# ---------------------------------------------------------------------------------------------- real servers


class _Keeping:
    """What aiosmtpd hands its mails to."""

    def __init__(self) -> None:
        self.mails: list[tuple[str, list[str], bytes]] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 # its name
        assert envelope.mail_from is not None
        assert isinstance(envelope.original_content, bytes)
        self.mails.append((envelope.mail_from, envelope.rcpt_tos, envelope.original_content))
        return "250 2.0.0 Ok: queued as 1A2B3C"


class _OnThisMachine(Controller):
    """On a port of the system's choice."""

    def _trigger_server(self) -> None:
        assert isinstance(self.server, asyncio.Server)
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()  # type: ignore[no-untyped-call]


@pytest.fixture
def aiosmtpd_server() -> Iterator[tuple[_Keeping, int]]:
    handler = _Keeping()
    controller = _OnThisMachine(handler, hostname="127.0.0.1", port=0, enable_SMTPUTF8=True)
    controller.start()
    yield handler, controller.port
    controller.stop()


def test_aiosmtpd_gets_byte_for_byte_what_the_mould_makes(aiosmtpd_server: tuple[_Keeping, int], open_to: Open) -> None:
    handler, port = aiosmtpd_server
    message = replace(MESSAGE, text=f".\n{MESSAGE.text}" + "Zeile für Zeile\n" * 3_000)
    recipients = [*people(30), people(31)[30]._replace(address="ådа@example.org")]
    receipts, error = call(open_to(port), recipients, message)
    assert (set(results(receipts)), error) == ({A}, None)
    assert {receipt.provider_id for receipt in receipts} == {"1A2B3C"}
    assert [data for _, _, data in handler.mails] == [Mould(message).fill(one, NOW) for one in recipients]
    assert [to for _, to, _ in handler.mails] == [[one.address] for one in recipients]
    for _, (to,), data in handler.mails:
        assert read(data, eight_bit=not to.isascii()).mailbox("To")[1] == to


@pytest.mark.skipif(shutil.which("smtp-sink") is None, reason="smtp-sink is Postfix's (apt-get install postfix)")
def test_smtp_sink_takes_them_all_over_several_connections(open_to: Open) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    sink = subprocess.Popen(["smtp-sink", "-u", "nobody", f"127.0.0.1:{port}", "100"], stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.02)
        provider, found = open_to(port), []
        threads = [
            threading.Thread(target=lambda n=n: found.extend(call(provider, people(1_200)[n::6])[0])) for n in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert Counter(results(found)) == {A: 1_200}
        assert len({receipt.delivery for receipt in found}) == 1_200
        provider.close()
    finally:
        sink.terminate()
        sink.wait(10)


# ---------------------------------------------------------------------------------------------- doctor, registry


def test_doctor_says_what_is_offered_and_what_is_missing_and_sends_nothing(
    server: SmtpServer, secure: SmtpServer, open_to: Open, pem: Path
) -> None:
    findings = open_to(server).check()
    assert findings[0].ok
    assert "not encrypted; it offers PIPELINING, 8BITMIME, SMTPUTF8, SIZE" in findings[0].what
    server.manner = Manner(offers=())
    said = " ".join(finding.what for finding in open_to(server).check())
    for missing in ("PIPELINING", "SMTPUTF8", "bounce_domain", "dkim"):
        assert missing in said
    secure.manner = Manner(users={"desk": "pw"})
    good = open_to(secure, host="localhost", security="starttls", ca_file=pem, username="desk", password="pw").check()
    assert "encrypted, the password is taken" in good[0].what
    bad = open_to(secure, host="localhost", security="starttls", ca_file=pem, username="desk", password="no").check()
    assert [finding.ok for finding in bad] == [False]
    assert not any(command.startswith("MAIL") for command in server.commands + secure.commands)


def test_doctor_says_that_a_server_cannot_be_reached(open_to: Open, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (finding,) = open_to(port).check()
    assert finding.ok is False
    assert "no connection" in finding.what
    (finding,) = open_to(port, security="tls", ca_file=tmp_path / "none.pem").check()
    assert finding.ok is False


def test_a_certificate_file_that_cannot_be_read_is_said(server: SmtpServer, open_to: Open, tmp_path: Path) -> None:
    with SmtpServer(implicit_tls=True) as plain:
        _, error = call(open_to(plain, security="tls", ca_file=tmp_path / "none.pem"), people(1))
    assert isinstance(error, ProviderRefused)
    assert "provider.ca_file cannot be read" in str(error)


def test_the_registry_opens_it_with_the_port_of_its_security() -> None:
    for security, port in {"starttls": 587, "tls": 465, "none": 25}.items():
        assert Smtp.model_validate({"host": "mx.example.org", "security": security}).service == port
    provider = open_provider(Smtp.model_validate({"host": "mx.example.org", "port": 2525, "batch_size": 50}))
    assert (provider.name, provider.batch_size, provider.live, provider.idempotent) == ("smtp", 50, True, False)
    assert not provider.atomic


def test_the_registry_wants_the_secrets_that_the_settings_speak_of() -> None:
    for table, name in (
        ({"username": "desk"}, "NEWSLETTER_SMTP_PASSWORD"),
        ({"dkim": {"domain": "example.org", "selector": "s"}}, "NEWSLETTER_DKIM_KEY"),
    ):
        with pytest.raises(ConfigurationError, match=f"{name} is not set"):
            open_provider(Smtp.model_validate({"host": "mx.example.org", **table}))
    with pytest.raises(ConfigurationError, match="no sandbox"):
        open_provider(Smtp.model_validate({"host": "mx.example.org"}), sandbox=True)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("", "provider.host is missing"),
        ('host = "mail.example.org:25"', "provider.host: expected the name of a server"),
        ('host = "https://mail.example.org"', "provider.host: expected the name of a server"),
        ('host = "::1"\nport = 0', "provider.port: expected greater than or equal to 1"),
        ('host = "mx"\nsecurity = "ssl"', "provider.security: expected 'starttls', 'tls' or 'none'"),
        ('host = "mx"\nbatch_size = 1001', "provider.batch_size: expected less than or equal to 1000"),
        ('host = "mx"\ntimeout = "151s"', "provider.timeout: expected at most half of dispatch.lease"),
        ('host = "mx"\nbounce_domain = "b@example.org"', "provider.bounce_domain: expected a domain"),
        ('host = "mx"\nhello = "a b"', "provider.hello: expected a domain"),
        ('host = "mx"\nusername = "dörte"', "provider.username: expected a text in ASCII"),
        ('host = "mx"\ndkim = { domain = "example.org" }', "provider.dkim.selector is missing"),
        ('host = "mx"\ndkim = { domain = "example.org", selector = "a b" }', "expected a DKIM selector"),
        ('host = "mx"\ndkim = { domain = "example.org", selektor = "a" }', "did you mean “selector”?"),
        ('host = "mx"\npassword = "pw"', "provider.password is no setting"),
        ('host = "mx"\npath = "x"', "provider.path"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_was_expected(desk: Desk, table: str, says: str) -> None:
    written = f'[provider]\nkind = "smtp"\n{table}\n'
    desk.configure(lambda text: text.replace('[provider]\nkind = "outbox"\nbatch_size = 10\n', written))
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(desk.file, {})
    assert says in str(caught.value)
    assert caught.value.line is not None


def test_the_secrets_come_from_the_environment_and_are_never_shown(desk: Desk) -> None:
    written = (
        '[provider]\nkind = "smtp"\nhost = "mx"\nca_file = "ca.pem"\ndkim.domain = "example.org"\ndkim.selector = "s"\n'
    )
    desk.configure(lambda text: text.replace('[provider]\nkind = "outbox"\nbatch_size = 10\n', written))
    settings = Settings.load(desk.file, {"NEWSLETTER_SMTP_PASSWORD": "hunter2", "NEWSLETTER_DKIM_KEY": "MIIsecret"})
    assert isinstance(settings.provider, Smtp)
    assert settings.provider.password is not None
    assert settings.provider.password.get_secret_value() == "hunter2"
    assert settings.provider.ca_file == desk.folder / "ca.pem"
    assert not re.search("hunter2|MIIsecret", f"{settings!r} {settings.model_dump_json()}")


def test_nobody_is_mailed_where_no_copy_can_be_made(server: SmtpServer, open_to: Open) -> None:
    started: list[bool] = []
    bad = [one._replace(address="a\r\nb@example.org") for one in people(3)]
    receipts, error = call(open_to(server), bad, started=lambda: started.append(True))
    assert (results(receipts), error, started) == ([R] * 3, None, [])
    assert server.sessions == []


def test_a_delivery_id_is_all_that_the_envelope_tells(server: SmtpServer, open_to: Open) -> None:
    one = people(1)[0]._replace(delivery=DeliveryId("n0123456789abcdef0123456"))
    call(open_to(server, bounce_domain="bounce.example.org"), [one])
    assert server.mails[0].path == "b+n0123456789abcdef0123456@bounce.example.org"
