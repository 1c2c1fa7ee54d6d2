"""SMTP without sockets: replies however they are cut, what is written when, and what each reply means for whom."""

import re
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from newsletter.edition import DeliveryId, Receipt, Result
from newsletter.errors import ProviderRefused, Throttled, Unreachable
from newsletter.providers.smtp_wire import (
    LONGEST_LINE,
    MOST_LINES,
    Closing,
    Copy,
    Dialogue,
    Garbled,
    Offers,
    Reply,
    ReplyReader,
    Transactions,
    authenticate,
    greeting,
    hello,
    read_offers,
    starttls,
)

# ---------------------------------------------------------------------------------------------- replies

_texts = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=30)
_replies = st.lists(st.tuples(st.integers(200, 599), st.lists(_texts, min_size=1, max_size=4)), min_size=1, max_size=6)


def written(replies: list[tuple[int, list[str]]], newline: bytes) -> bytes:
    out = b""
    for code, lines in replies:
        for number, line in enumerate(lines):
            mark = "-" if number < len(lines) - 1 else " "
            out += f"{code}{mark}{line}".encode() + newline
    return out


@settings(max_examples=200, deadline=None)
@given(replies=_replies, newline=st.sampled_from([b"\r\n", b"\n"]), data=st.data())
def test_replies_are_the_same_however_the_bytes_are_cut(
    replies: list[tuple[int, list[str]]], newline: bytes, data: st.DataObject
) -> None:
    stream = written(replies, newline)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    reader = ReplyReader()
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += reader.feed(stream[start:end])
    assert [(reply.code, list(reply.lines)) for reply in found] == replies
    assert not reader.partial


@settings(max_examples=200, deadline=None)
@given(stream=st.binary(max_size=300), at=st.integers(0, 300))
def test_whatever_comes_gives_replies_or_garbled(stream: bytes, at: int) -> None:
    def read(*pieces: bytes) -> object:
        reader = ReplyReader()
        found = []
        try:
            for piece in pieces:
                found += [(reply.code, reply.lines) for reply in reader.feed(piece)]
        except Garbled:
            return "garbled"
        return found

    assert read(stream) == read(stream[:at], stream[at:])


@pytest.mark.parametrize(
    "said",
    [
        b"\r\n",
        b"25\r\n",
        b"2500 ok\r\n",
        b"250_ok\r\n",
        b"650 ok\r\n",
        b"150 ok\r\n",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"250-one\r\n251 two\r\n",
        b"\x16\x03\x01\x00\r\n",
        b"250 " + b"x" * LONGEST_LINE + b"\r\n",
        b"x" * (LONGEST_LINE + 1),
        b"250-ok\r\n" * (MOST_LINES + 1),
    ],
)
def test_what_is_no_reply_is_garbled_and_never_kept_for_ever(said: bytes) -> None:
    with pytest.raises(Garbled):
        ReplyReader().feed(said)


def test_a_reply_without_text_is_one() -> None:
    (reply,) = ReplyReader().feed(b"250\r\n")
    assert (reply.code, reply.lines, reply.status) == (250, ("",), None)


def test_the_enhanced_status_is_believed_where_it_fits_the_code() -> None:
    assert Reply(550, ("5.1.1 nobody",)).status == "5.1.1"
    assert Reply(550, ("2.1.1 nobody",)).status is None
    assert Reply(250, ("5.1.1",)).status is None
    assert Reply(550, ("5.1.1111 nobody",)).status is None


def test_what_a_reply_says_has_no_address_and_no_controls() -> None:
    said = Reply(550, ("5.1.1 <ada@example.org>:\x1b[31m\u2028 gone " + "x" * 5_000,)).said()
    assert "ada" not in said
    assert said.isprintable()
    assert len(said) <= 300
    assert "ada" not in repr(Reply(550, ("ada@example.org",)))


@pytest.mark.parametrize(
    ("code", "text", "about_us"),
    [
        (550, "5.7.1 <a@b>: Relay access denied", True),
        (554, "relay not permitted", True),
        (530, "5.7.0 Authentication required", True),
        (550, "5.7.1 Client host rejected", True),
        (550, "5.1.1 no such user, and no relay", False),
        (550, "5.7.1 this user takes mail from friends only", False),
        (550, "no such user", False),
    ],
)
def test_a_refusal_of_relaying_is_about_us(code: int, text: str, about_us: bool) -> None:
    assert Reply(code, (text,)).about_everyone() == about_us


def test_offers_are_read_in_any_case_and_nonsense_is_no_offer() -> None:
    lines = ("mx", "Pipelining", "size 1000 x", "AUTH=LOGIN", "auth PLAIN", "SMTPUTF8", "8bitmime", "", "X" * 100)
    offers = read_offers(Reply(250, lines))
    assert (offers.pipelining, offers.utf8, offers.size) == (True, True, 1_000)
    assert offers.auth == {"PLAIN", "LOGIN"}
    assert read_offers(Reply(250, ("mx", "SIZE 0"))).size is None
    assert read_offers(Reply(250, ("mx", "SIZE " + "9" * 5_000))).size is None
    assert not read_offers(Reply(250, ("PIPELINING",))).pipelining, "the first line is the server's name"
    assert not read_offers(Reply(250, ("mx", "SMTPUTF8"))).utf8, "without 8BITMIME it is worth nothing"


# ---------------------------------------------------------------------------------------------- making ready


def test_a_server_without_ehlo_is_spoken_to_in_helo() -> None:
    dialogue = Dialogue()
    assert dialogue.begin(hello("me.example.org")) == b"EHLO me.example.org\r\n"
    assert dialogue.feed(b"502 what?\r\n") == b"HELO me.example.org\r\n"
    assert dialogue.feed(b"250 mx\r\n") == b""
    assert (dialogue.busy, dialogue.result) == (False, Offers())


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"450 not now\r\n", Unreachable),
        (b"421 4.7.0 too many\r\n", Closing),
        (b"450 4.7.1 too many\r\n", Throttled),
        (b"554 5.7.1 go away\r\n", ProviderRefused),
    ],
)
def test_a_greeting_is_told_by_its_code(said: bytes, error: type[Exception]) -> None:
    dialogue = Dialogue()
    dialogue.begin(greeting())
    with pytest.raises(error):
        dialogue.feed(said)


@pytest.mark.parametrize(
    "said", [b"220 go on\r\n250 injected\r\n", b"220 go on\r\n25", b"220 go on\r\nMAIL FROM:<>\r\n"]
)
def test_what_was_put_in_before_tls_ends_the_connection(said: bytes) -> None:
    dialogue = Dialogue()
    dialogue.begin(starttls(Offers(starttls=True)))
    with pytest.raises(Garbled):
        dialogue.feed(said)


def test_a_reply_that_nobody_asked_for_ends_the_connection() -> None:
    dialogue = Dialogue()
    dialogue.begin(greeting())
    dialogue.feed(b"220 mx\r\n")
    with pytest.raises(Garbled):
        dialogue.feed(b"250 ok\r\n")
    ahead = Dialogue()
    ahead.begin(hello("me"))
    with pytest.raises(Garbled):
        ahead.feed(b"500 what?\r\n250 an answer to what was not written yet\r\n")


def test_the_password_goes_in_the_form_that_is_offered() -> None:
    plain = Dialogue()
    assert plain.begin(authenticate(Offers(auth=frozenset({"PLAIN", "LOGIN"})), "desk", "pw")) == (
        b"AUTH PLAIN AGRlc2sAcHc=\r\n"
    )
    login = Dialogue()
    assert login.begin(authenticate(Offers(auth=frozenset({"LOGIN"})), "desk", "pw")) == b"AUTH LOGIN\r\n"
    assert login.feed(b"334 VXNlcm5hbWU6\r\n") == b"ZGVzaw==\r\n"
    assert login.feed(b"334 UGFzc3dvcmQ6\r\n") == b"cHc=\r\n"
    login.feed(b"235 welcome\r\n")
    assert not login.busy
    with pytest.raises(ProviderRefused, match="neither AUTH PLAIN nor LOGIN"):
        Dialogue().begin(authenticate(Offers(auth=frozenset({"GSSAPI"})), "desk", "pw"))


def test_a_refused_password_is_not_quoted() -> None:
    dialogue = Dialogue()
    dialogue.begin(authenticate(Offers(auth=frozenset({"PLAIN"})), "desk", "hunter2"))
    with pytest.raises(ProviderRefused) as caught:
        dialogue.feed(b"535 5.7.8 no: desk hunter2 AGRlc2sAaHVudGVyMg==\r\n")
    assert not re.search("desk|hunter2|AGRlc2s", str(caught.value))


# ---------------------------------------------------------------------------------------------- copies


class Copies:
    """Some copies, and what came of them."""

    def __init__(self, count: int, *, wide: bool = False) -> None:
        at = "é" if wide else ""
        self.left = [
            Copy(
                DeliveryId(f"d{n}"),
                f"b+d{n}@b.example",
                f"reader{n}{at}@example.org",
                [b"A: b\r\n", b"\r\nx\r\n"],
                wide,
            )
            for n in range(count)
        ]
        self.came: list[Receipt] = []

    def next(self) -> Copy | None:
        return self.left.pop(0) if self.left else None

    def tell(self, receipt: Receipt, reply: Reply | None) -> None:
        self.came.append(receipt)

    @property
    def results(self) -> list[Result]:
        return [receipt.result for receipt in self.came]


def talked(copies: Copies, offers: Offers) -> tuple[Transactions, Dialogue, bytes]:
    transactions = Transactions(offers, copies.next, copies.tell)
    dialogue = Dialogue()
    return transactions, dialogue, dialogue.begin(transactions.run())


PIPELINING = Offers(pipelining=True)


def envelope(number: int) -> bytes:
    return f"MAIL FROM:<b+d{number}@b.example>\r\nRCPT TO:<reader{number}@example.org>\r\nDATA\r\n".encode()


BODY = b"A: b\r\n\r\nx\r\n.\r\n"
OPEN = b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go on\r\n"


def test_the_next_envelope_goes_behind_the_last_dot() -> None:
    copies = Copies(3)
    transactions, dialogue, out = talked(copies, PIPELINING)
    assert out == envelope(0)
    assert dialogue.feed(OPEN) == BODY + envelope(1)
    assert transactions.out is not None
    assert dialogue.feed(b"250 ok: queued as 4F3A\r\n" + OPEN) == BODY + envelope(2)
    assert [(receipt.delivery, receipt.result, receipt.provider_id) for receipt in copies.came] == [
        ("d0", Result.ACCEPTED, "4F3A")
    ]
    assert dialogue.feed(b"250 ok\r\n" + OPEN) == BODY
    assert dialogue.feed(b"250 ok\r\n") == b""
    assert not dialogue.busy
    assert transactions.answered == 3
    assert copies.results == [Result.ACCEPTED] * 3


def test_byte_by_byte_it_is_the_same() -> None:
    copies = Copies(3)
    _, dialogue, out = talked(copies, PIPELINING)
    script = [OPEN, b"250 ok\r\n" + OPEN, b"550 5.1.1 no\r\n" + OPEN, b"450 4.2.0 not now\r\n"]
    for said in script:
        for byte in said:
            out += dialogue.feed(bytes([byte]))
    assert out == envelope(0) + BODY + envelope(1) + BODY + envelope(2) + BODY
    assert copies.results == [Result.ACCEPTED, Result.REFUSED, Result.DEFERRED]


def test_without_pipelining_each_command_waits_for_its_reply() -> None:
    copies = Copies(2)
    _, dialogue, out = talked(copies, Offers())
    assert out == b"MAIL FROM:<b+d0@b.example>\r\n"
    assert dialogue.feed(b"250 ok\r\n") == b"RCPT TO:<reader0@example.org>\r\n"
    assert dialogue.feed(b"550 5.1.1 nobody\r\n") == b"RSET\r\n"
    assert dialogue.feed(b"250 ok\r\n") == b"MAIL FROM:<b+d1@b.example>\r\n"
    assert dialogue.feed(b"250 ok\r\n") == b"RCPT TO:<reader1@example.org>\r\n"
    assert dialogue.feed(b"250 ok\r\n") == b"DATA\r\n"
    assert dialogue.feed(b"354 go on\r\n") == BODY
    dialogue.feed(b"250 ok\r\n")
    assert copies.results == [Result.REFUSED, Result.ACCEPTED]


def test_a_body_that_is_waited_for_although_nobody_was_taken_is_left_empty() -> None:
    """RFC 2920 section 3.1."""
    copies = Copies(2)
    transactions, dialogue, _ = talked(copies, PIPELINING)
    assert dialogue.feed(b"250 ok\r\n550 5.1.1 nobody\r\n354 go on\r\n") == b".\r\n"
    assert transactions.out is None
    assert dialogue.feed(b"554 nobody to send to\r\n") == b"RSET\r\n" + envelope(1)
    assert dialogue.feed(b"250 ok\r\n" + OPEN) == BODY
    dialogue.feed(b"250 ok\r\n")
    assert copies.results == [Result.REFUSED, Result.ACCEPTED]


def test_nothing_is_taken_for_the_answer_to_a_body_that_was_said_before_it() -> None:
    copies = Copies(1)
    transactions, dialogue, _ = talked(copies, PIPELINING)
    with pytest.raises(Garbled):
        dialogue.feed(OPEN + b"250 ok\r\n")
    assert copies.came == []
    assert transactions.answered == 0


@pytest.mark.parametrize("said", [b"354 go on\r\n", b"334 go on\r\n"])
def test_an_answer_to_a_body_that_is_none_leaves_it_in_doubt(said: bytes) -> None:
    copies = Copies(2)
    transactions, dialogue, _ = talked(copies, PIPELINING)
    dialogue.feed(OPEN)
    with pytest.raises(Garbled):
        dialogue.feed(said)
    assert copies.came == []
    assert transactions.out is not None
    assert transactions.out.delivery == "d0"
    assert transactions.at is not None
    assert transactions.at.delivery == "d1"


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"550 5.7.1 sender refused\r\n503 no\r\n503 no\r\n", ProviderRefused),
        (b"452 4.3.1 disk full\r\n503 no\r\n503 no\r\n", Throttled),
        (b"421 4.3.2 going down\r\n", Closing),
    ],
)
def test_a_refused_sender_speaks_of_everybody(said: bytes, error: type[Exception]) -> None:
    copies = Copies(2)
    transactions, dialogue, _ = talked(copies, PIPELINING)
    with pytest.raises(error):
        dialogue.feed(said)
    assert copies.came == []
    assert transactions.out is None
    assert transactions.at is not None
    assert transactions.at.delivery == "d0"


def test_a_reason_names_nobody_in_whatever_form_the_server_writes_it() -> None:
    copies = Copies(1)
    _, dialogue, _ = talked(copies, PIPELINING)
    dialogue.feed(b"250 ok\r\n550 5.1.1 no such user READER0 (reader0@example.org, reader0)\r\n503 no\r\n")
    reason = copies.came[0].reason or ""
    assert "reader0" not in reason.lower()
    assert reason.startswith("550 5.1.1 no such user")


@pytest.mark.parametrize(("offers", "result"), [(Offers(pipelining=True), Result.REFUSED), (Offers(utf8=True), None)])
def test_an_address_beyond_ascii_wants_smtputf8(offers: Offers, result: Result | None) -> None:
    copies = Copies(1, wide=True)
    _, _, out = talked(copies, offers)
    assert copies.results == ([result] if result else [])
    assert out == (b"" if result else b"MAIL FROM:<b+d0@b.example> BODY=8BITMIME SMTPUTF8\r\n")


def test_the_size_is_said_where_it_is_asked_for_and_a_larger_one_is_not_sent() -> None:
    _, _, out = talked(Copies(1), Offers(says_size=True, size=11))
    assert out == b"MAIL FROM:<b+d0@b.example> SIZE=11\r\n"
    copies = Copies(1)
    _, dialogue, out = talked(copies, Offers(says_size=True, size=10))
    assert (out, dialogue.busy, copies.results) == (b"", False, [Result.REFUSED])


def test_replies_that_are_out_of_step_never_count_for_a_body() -> None:
    """A server that answers one command twice: all that follows is shifted by one."""
    copies = Copies(3)
    transactions, dialogue, _ = talked(copies, PIPELINING)
    for said in (b"250 ok\r\n", b"250 twice\r\n", b"550 5.1.1 nobody\r\n"):
        dialogue.feed(said)
    with pytest.raises(Garbled):
        dialogue.feed(b"503 the answer to DATA, where the one to RSET is due\r\n")
    assert Result.ACCEPTED not in copies.results
    assert transactions.out is None


_SAID = st.sampled_from(
    [b"250 ok", b"354 go on", b"550 5.1.1 no", b"450 4.2.1 later", b"503 no", b"421 bye", b"334 x", b"250-half", b"x"]
)


@settings(max_examples=500, deadline=None)
@given(pipelining=st.booleans(), said=st.lists(st.lists(_SAID, min_size=1, max_size=4), max_size=30))
def test_whatever_a_server_says_a_copy_counts_as_taken_only_by_a_reply_after_its_body(
    pipelining: bool, said: list[list[bytes]]
) -> None:
    """And each copy has one end: a receipt, in doubt, or not begun."""
    copies = Copies(4)
    transactions, dialogue, out = talked(copies, Offers(pipelining=pipelining))
    written = [out]
    for lines in said:
        before, known = b"".join(written), len(copies.came)
        try:
            written.append(dialogue.feed(b"\r\n".join(lines) + b"\r\n"))
        except (Garbled, Closing, ProviderRefused, Throttled):
            break
        finally:
            for receipt in copies.came[known:]:
                if receipt.result is Result.ACCEPTED:
                    number = int(receipt.delivery[1:])
                    assert envelope(number) in before.replace(BODY, b"") or not pipelining
                    assert before.count(BODY) > sum(one.result is Result.ACCEPTED for one in copies.came[:known])
        if not dialogue.busy:
            break
    told = [receipt.delivery for receipt in copies.came]
    doubted = [transactions.out.delivery] if transactions.out else []
    begun = [transactions.at.delivery] if transactions.at else []
    left = [copy.delivery for copy in copies.left]
    assert sorted([*told, *doubted, *begun, *left]) == [f"d{n}" for n in range(4)]
    bodies = b"".join(written).count(BODY)
    assert bodies >= sum(receipt.result is Result.ACCEPTED for receipt in copies.came)


@pytest.mark.parametrize(
    ("code", "text", "system"),
    [
        (452, "insufficient system storage", True),
        (452, "4.3.1 disk full", True),
        (451, "4.7.0 slow down", True),
        (450, "4.4.5 congested", True),
        (451, "4.7.1 greylisted", False),
        (452, "4.2.2 mailbox full", False),
        (450, "mailbox busy", False),
        (552, "5.3.4 too large", False),
    ],
)
def test_what_speaks_of_the_whole_server_is_told_from_what_speaks_of_one(code: int, text: str, system: bool) -> None:
    assert Reply(code, (text,)).about_the_system() == system


def _judgements() -> Iterator[tuple[bytes, bytes, bytes, bytes, Result]]:
    ok, go = b"250 ok\r\n", b"354 go on\r\n"
    yield ok, b"550 5.1.1 no\r\n", b"503 no\r\n", b"", Result.REFUSED
    yield ok, b"450 4.2.1 not now\r\n", b"503 no\r\n", b"", Result.DEFERRED
    yield ok, ok, b"554 5.7.0 no\r\n", b"", Result.REFUSED
    yield ok, ok, b"451 4.3.0 not now\r\n", b"", Result.DEFERRED
    yield ok, ok, go, b"554 5.7.1 spam\r\n", Result.REFUSED
    yield ok, ok, go, b"451 4.7.1 not now\r\n", Result.DEFERRED
    yield b"251 ok\r\n", b"251 forwarded\r\n", go, b"250 ok\r\n", Result.ACCEPTED


@pytest.mark.parametrize(("mail", "rcpt", "data", "dot", "result"), list(_judgements()))
def test_each_reply_is_judged_for_its_recipient(
    mail: bytes, rcpt: bytes, data: bytes, dot: bytes, result: Result
) -> None:
    copies = Copies(1)
    _, dialogue, _ = talked(copies, PIPELINING)
    assert dialogue.feed(mail + rcpt + data) == (BODY if dot else b"RSET\r\n")
    dialogue.feed(dot or b"250 ok\r\n")
    assert copies.results == [result]
    assert not dialogue.busy
