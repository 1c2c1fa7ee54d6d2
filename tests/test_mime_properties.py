"""newsletter/mime.py under random messages: whatever is put in reads back the same, by a reader that shares no code."""

from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from newsletter.edition import FIELDS, DeliveryId, Message, Recipient, Sender, spelling
from newsletter.mime import Mould
from tests.strict_mail import read

NONCE = "d4f0a1"
DATE = datetime(2026, 11, 23, 7, 0, tzinfo=UTC)

# What breaks encoders: the letters of the encoding itself, what lines must not begin or end with, wide characters.
_HARD = st.sampled_from(
    ["=", "=\n", ".", ".\n", "\n.", "From ", "\nFrom ", " \n", "\t\n", "\r", "\n", "\r\n", "--", "--=_"]
)
_RUN = st.builds(
    lambda piece, times: piece * times, st.sampled_from(["x", " ", ".", "=", "é", "😀", "F"]), st.integers(60, 160)
)
_ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
_FIELD = st.builds(lambda name, html: spelling(NONCE, name, html=html), st.sampled_from(sorted(FIELDS)), st.booleans())
parts = st.lists(_HARD | _RUN | _ANY | _FIELD, max_size=25).map("".join)

# What subscribers.clean_name and newsletter.brief let through, and more: no controls, but blanks anywhere.
_PRINTED = st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"])
_TROUBLE = st.sampled_from(
    ['"', "\\", ",", ";", "<", ">", "=?", "?=", "=?utf-8?q?x?=", "  ", " ", ".", "é", "x" * 40, "👩‍👩‍👧"]
)
names = st.lists(st.text(_PRINTED, max_size=12) | _TROUBLE, min_size=1, max_size=9).map("".join).filter(bool)

_ATOM = st.text("abcXYZ019!#$%&'*+/=?^_`{|}~-", min_size=1, max_size=20)
_LABEL = st.text("abcxyz019-", min_size=1, max_size=60)
addresses = st.builds(
    lambda local, domain: f"{'.'.join(local)}@{'.'.join(domain)}",
    st.lists(_ATOM, min_size=1, max_size=3),
    st.lists(_LABEL, min_size=1, max_size=4),
)
tokens = st.text("abcXYZ019-_", min_size=1, max_size=60)
senders = st.builds(
    lambda name, address, title, host: Sender("daily", name, address, None, title, f"daily.{host}", f"https://{host}"),
    names,
    addresses,
    names,
    st.lists(_LABEL, min_size=1, max_size=4).map(".".join),
)
SENDER = Sender("daily", "Daily", "daily@example.org", None, "Daily", "daily.example.org", "https://example.org")


def ends(text: str) -> str:
    """Text with the line ends that mail has."""
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\r\n")


@settings(max_examples=200, deadline=None)
@given(text=parts, html=parts, name=names, address=addresses, token=tokens)
def test_filled_bytes_parse_back_to_the_parts_that_were_filled(
    text: str, html: str, name: str, address: str, token: str
) -> None:
    message = Message(SENDER, "Today", html, text, NONCE)
    to = Recipient(DeliveryId("0a1b2c"), address, name, token)
    mail = read(Mould(message).fill(to, DATE))
    values = to.values(SENDER)
    assert mail.text == message.fill(ends(text), values)
    assert mail.html == message.fill(ends(html), values)


@settings(max_examples=200, deadline=None)
@given(sender=senders, subject=names, name=names, address=addresses, token=tokens)
def test_headers_read_back_to_what_they_were_made_of(
    sender: Sender, subject: str, name: str, address: str, token: str
) -> None:
    mail = read(
        Mould(Message(sender, subject, "", "", NONCE)).fill(Recipient(DeliveryId("b"), address, name, token), DATE)
    )
    assert mail.subject == subject
    assert mail.mailbox("From") == (sender.from_name, sender.from_address)
    assert mail.mailbox("To") == (name, address)
    assert mail.raw["List-Id"].endswith(f"<{sender.list_id}>")
    assert mail.raw["List-Unsubscribe"] == f"<{sender.leave_url(token)}>"


@settings(max_examples=200, deadline=None)
@given(text=parts, name=names)
def test_no_value_moves_the_text_around_it(text: str, name: str) -> None:
    """All lines but those of the values are the same in every copy, in the same order: they are encoded once."""
    mould = Mould(Message(SENDER, "Today", "", text, NONCE))
    short, long = (
        mould.fill(Recipient(DeliveryId("b"), "ada@example.org", each, "t"), DATE)
        .partition(b"\r\n\r\n")[2]
        .split(b"\r\n")
        for each in ("0NAME0", name)
    )
    rest = iter(long)
    assert all(line in rest for line in short if line != b"0NAME0=")
