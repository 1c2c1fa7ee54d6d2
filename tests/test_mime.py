"""newsletter/mime.py: every copy is a mail that strict readers take, and says exactly what the Message says."""

import os
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from newsletter.edition import DeliveryId, Message, Recipient, Sender, spelling
from newsletter.mime import HeaderError, Mould, header, mailbox, phrase
from tests.strict_mail import read

GOLDEN = Path(__file__).parent / "golden" / "mime"
NONCE = "d4f0a1"
DATE = datetime(2026, 11, 23, 7, 0, 5, 999_999, tzinfo=UTC)
SENDER = Sender(
    newsletter_id="daily",
    from_name="The Daily Digest",
    from_address="daily@news.example.org",
    reply_to=None,
    list_name="The Daily Digest",
    list_id="daily.news.example.org",
    site_url="https://news.example.org",
)
ADA = Recipient(DeliveryId("0a1b2c3d4e5f60718293a4b5"), "ada@example.org", "Ada Lovelace", "LgERYdrJ3wGxOo8gW1uyRg")


def place(name: str, *, html: bool = False) -> str:
    return spelling(NONCE, name, html=html)


def message(text: str = "Hello\n", html: str = "<p>Hello</p>\n", subject: str = "Today") -> Message:
    return Message(SENDER, subject, html, text, NONCE)


def lines_of(text: str) -> str:
    """With CRLF line ends, as a part carries them."""
    return re.sub(r"\r\n|\r|\n", "\r\n", text)


def assert_told(told: Message, to: Recipient = ADA, *, eight_bit: bool = False) -> None:
    """The copy is well formed, and its parts are what the Message says, filled."""
    mail = read(Mould(told).fill(to, DATE), eight_bit=eight_bit)
    values = to.values(told.sender)
    assert mail.text == told.fill(lines_of(told.text), values)
    assert mail.html == told.fill(lines_of(told.html), values)


# ---------------------------------------------------------------------------------------------- the whole


def test_a_copy_is_byte_for_byte_what_stands_on_disk() -> None:
    text = (
        f"Good morning, {place('name')}!\n\n.A line that SMTP would stuff, “quoted”, with a blank at its end \n"
        f"From here on nothing moves: {'never a blank ' * 9}\n\nLeave: {place('leave_url')}\n"
        f"{place('address')}{place('name')}"
    )
    html = (
        f'<!DOCTYPE html>\n<html lang="en"><body><p style="color:#111">Good morning, {place("name", html=True)}!</p>'
        f'<p>49 % = “half”</p><p><a href="{place("leave_url", html=True)}">Leave</a> '
        f'<a href="{place("preferences_url", html=True)}">Preferences</a></p></body></html>\n'
    )
    told = Message(
        replace(SENDER, reply_to="News desk <desk@news.example.org>", list_name="Der tägliche Überblick"),
        "Neun Häuser werden drei: was das Ministerium plant, und was die Gemeinden davon halten",
        html,
        text,
        NONCE,
        "2026-11-23T07:00",
    )
    data = Mould(told).fill(ADA._replace(name='Ada "Ünal" <King>, Countess'), DATE)
    read(data)
    file = GOLDEN / "copy.eml"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    assert data == file.read_bytes()


def test_a_mould_serves_many_recipients_and_keeps_nothing_of_them() -> None:
    mould = Mould(message(text=f"Hello {place('name')} at {place('address')}\n"))
    bob = Recipient(DeliveryId("b"), "bob@example.org", None, "t2")
    first = mould.fill(ADA, DATE)
    assert b"bob" not in first
    assert b"ada" not in mould.fill(bob, DATE)
    assert mould.fill(ADA, DATE) == first


def test_date_and_message_id_are_the_dispatchs_and_the_deliverys() -> None:
    mail = read(Mould(message()).fill(ADA, DATE.astimezone(timezone(timedelta(hours=1)))))
    assert mail.raw["Date"] == "Mon, 23 Nov 2026 07:00:05 +0000"
    assert mail.raw["Message-ID"] == "<0a1b2c3d4e5f60718293a4b5@news.example.org>"


# ---------------------------------------------------------------------------------------------- bodies


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "\n\n\n",
        "one line without an end",
        ".",
        ".\n..\n.leading\n",
        "From me\nFrom \n>From\nFrome\n",
        "blank at the end \ntab at the end\t\n \n\t\n   ",
        "bare\rcarriage\r\rreturns\rand\nfeeds\r\nboth\n\r",
        "NUL \x00 and \x07 \x0b \x0c \x1b \x7f \x85 \u2028 \u2029",
        "= =3D =\n==\n=20",
        "x" * 75 + "\n" + "x" * 76 + "\n" + "x" * 77 + "\n" + "x" * 1000,
        ("x" * 75 + " ") * 5 + "\n" + ("x" * 74 + " ") * 5 + "\n" + " " * 400,
        ("x" * 74 + ".") * 9 + "\n" + ("x" * 75 + ".") * 9 + "." * 500,
        ("x" * 75 + "From ") * 9 + "From " * 99,
        ("x" * 74 + "é") * 9 + "é" * 99 + "\n" + "=" * 500,
        "".join("x" * n + "=é.\n" for n in range(68, 80)),
        "😀👩‍👩‍👧‍👦 שלום\u202eعربى e\u0301\u0327",
        "--=_" + "0" * 24 + "\n--\n--=_--",
        "\ufeffa byte order mark",
    ],
)
def test_a_part_reads_back_as_it_was_written(text: str) -> None:
    assert_told(message(text=text, html=text))


@pytest.mark.parametrize(
    "value", ["a", ".", "..", "=", "x" * 75, "x" * 76, "." * 76, "x" * 74 + "é", "ü" * 100, "From"]
)
@pytest.mark.parametrize(
    "template",
    [
        "{0}",
        "{0}{0}{0}",
        "{0}\n",
        "\n{0}",
        "a\n{0}\nb",
        "a\r{0}\r\nb",
        " {0} ",
        "a {0} \n b",
        "." * 80 + "{0}." + "x" * 80,
        "x" * 75 + "{0}" + "x" * 75,
        "x" * 74 + "{0}{0}" + "é" * 74,
        "x" * 73 + "={0}={0}=",
        "From {0}\nFrom{0} x",
        ".{0}.\n.{0}.",
    ],
)
def test_a_field_anywhere_is_filled_and_moves_nothing(template: str, value: str) -> None:
    """The address fills most of what stands here; a name of the same kind stands in the header as well."""
    told = message(
        text=template.format(place("name")), html=template.format(place("name", html=True)) + place("name", html=False)
    )
    assert_told(told, ADA._replace(name=value))


@pytest.mark.parametrize("name", ["", None])
def test_without_a_name_the_address_fills_its_place(name: str | None) -> None:
    told = message(text=place("name"), html=place("name", html=True))
    mail = read(Mould(told).fill(ADA._replace(name=name), DATE))
    assert (mail.text, mail.html) == ("ada@example.org", "ada@example.org")
    assert mail.raw["To"] == "ada@example.org"


def test_a_value_is_escaped_in_html_and_plain_in_text() -> None:
    told = message(text=place("name"), html=f'<p title="{place("name", html=True)}">')
    mail = read(Mould(told).fill(ADA._replace(name="<b> & \"c\" 'd'"), DATE))
    assert mail.text == "<b> & \"c\" 'd'"
    assert mail.html == '<p title="&lt;b&gt; &amp; &quot;c&quot; &#x27;d&#x27;">'


def test_text_that_looks_like_a_field_stays_text() -> None:
    told = message(text=f"[[name]] [[d4f0a2.t.name]] [[{NONCE}.t.]] {place('name')}")
    mail = read(Mould(told).fill(ADA._replace(name=place("address")), DATE))
    assert mail.text == f"[[name]] [[d4f0a2.t.name]] [[{NONCE}.t.]] {place('address')}"


def test_half_of_a_surrogate_pair_costs_one_character_not_the_mail() -> None:
    told = message(text=f"a\ud83db {place('name')}", html="<p>\udc80", subject="half \ud800")
    mail = read(Mould(told).fill(ADA._replace(name="half \ud83d"), DATE))
    assert (mail.text, mail.html) == ("a?b half ?", "<p>?")
    assert mail.subject == "half ?"
    assert mail.mailbox("To") == ("half ?", "ada@example.org")
    assert told.html_bytes == 4


# ---------------------------------------------------------------------------------------------- names and addresses

NAMES = [
    'Ada "the Countess" Lovelace',
    "Lovelace, Ada; King",
    "back\\slash \\",
    '"',
    "\\",
    "'",
    "(comment) <angle> [square] @ : ;",
    "evil@example.org",
    "=?utf-8?q?x?=",
    "=?utf-8?q?x?= =?utf-8?b?eA==?=",
    "=?",
    "x" * 100,
    "x y" * 33,
    '"' * 60,
    "\\" * 100,
    "é" * 100,
    "😀" * 100,
    "👩‍👩‍👧‍👦🏳️‍🌈",
    "שלום עליכם",
    "\u202eevil\u202c",
    "e\u0301\u0327\u0323" * 20,
    ".",
    "..",
    ".dots.",
    "J. R. R. Tolkien",
    " blanks around ",
    "two  blanks",
    " ",
    "\u00a0",
    "undisclosed-recipients:;",
    "Zoë",
    "日本 太郎",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_reads_back_exactly_and_the_address_stays_whole(name: str) -> None:
    mail = read(Mould(message(text=place("name"))).fill(ADA._replace(name=name), DATE))
    assert mail.mailbox("To") == (name, "ada@example.org")
    assert mail.text == name
    assert mail.longest_header_line <= 78


@pytest.mark.parametrize("name", NAMES)
def test_the_senders_and_the_lists_name_read_back_exactly(name: str) -> None:
    told = replace(message(), sender=replace(SENDER, from_name=name, list_name=name))
    mail = read(Mould(told).fill(ADA, DATE))
    assert mail.mailbox("From") == (name, "daily@news.example.org")
    assert mail.raw["List-Id"].endswith("<daily.news.example.org>")
    assert mail.longest_header_line <= 78


@pytest.mark.parametrize(
    "control", ["\r", "\n", "\r\n", "\r\n ", "\r\nBcc: eve@example.org", "\x00", "\x1b", "\x7f", "\u2028"]
)
def test_no_control_gets_into_a_header(control: str) -> None:
    text = f"Ada{control}Lovelace"
    mould = Mould(message())
    for bad in (
        ADA._replace(name=text),
        ADA._replace(address=f"ada{control}@example.org"),
        ADA._replace(token=control),
    ):
        with pytest.raises(HeaderError) as caught:
            mould.fill(bad, DATE)
        assert "ada" not in str(caught.value).casefold()
    for sender in (
        replace(SENDER, from_name=text),
        replace(SENDER, from_address=text),
        replace(SENDER, list_name=text),
        replace(SENDER, list_id=f"daily.{control}example.org"),
    ):
        with pytest.raises(HeaderError):
            Mould(replace(message(), sender=sender))
    with pytest.raises(HeaderError):
        Mould(message(subject=text))


@pytest.mark.parametrize("value", ["a\rb", "a\nb", "a\r\nBcc: eve@example.org", "a\r\n", "a\x00", "\r\nb", "a" * 992])
def test_a_header_takes_only_folds_as_line_ends(value: str) -> None:
    """Regression: what followed a CRLF in a value became a header of its own."""
    with pytest.raises(HeaderError, match="X-Any"):
        header("X-Any", value)


@pytest.mark.parametrize(
    "address",
    [
        "ada+news@example.org",
        "o'hara@example.org",
        "a.b.c@example.org",
        "!#$%&'*+/=?^_`{|}~-@example.org",
        "x" * 64 + "@" + ".".join(["y" * 61] * 3) + ".org",
        "ada@xn--bcher-kva.example",
    ],
)
def test_an_ascii_address_stands_as_it_is(address: str) -> None:
    for name in (None, "Ada", "Zoë", "é" * 60):
        mail = read(Mould(message()).fill(ADA._replace(name=name, address=address), DATE))
        assert mail.mailbox("To") == (name or "", address)


@pytest.mark.parametrize("address", ["zoë@example.org", "用户@例え.jp", "ada@bücher.example"])
def test_an_address_that_is_not_ascii_stands_raw(address: str) -> None:
    """RFC 6532: such a copy needs SMTPUTF8, and only such a copy holds 8-bit bytes."""
    assert_told(message(), ADA._replace(address=address), eight_bit=True)
    mail = read(Mould(message()).fill(ADA._replace(address=address), DATE), eight_bit=True)
    assert mail.mailbox("To") == ("Ada Lovelace", address)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "ada",
        "@example.org",
        "ada@",
        "ada@@example.org",
        "ada@example.org, eve@example.org",
        "ada@example.org,eve@example.org",
        "ada@example.org;eve@example.org",
        "ada:eve@example.org",
        "Ada <ada@example.org>",
        "<ada@example.org>",
        '"ada"@example.org',
        "ada(comment)@example.org",
        ".ada@example.org",
        "ada.@example.org",
        "a..da@example.org",
        "ada@example..org",
        "ada@example.org.",
        "ada\\@example.org",
        "ada @example.org",
        "ada\u00a0@example.org",
        "ada\ud800@example.org",
        "ada@" + "x" * 1000,
    ],
)
def test_what_is_no_single_address_is_refused(address: str) -> None:
    with pytest.raises(HeaderError) as caught:
        Mould(message()).fill(ADA._replace(address=address), DATE)
    assert "ada" not in str(caught.value).casefold()


def test_a_reply_to_may_carry_a_name() -> None:
    """Regression: settings take “Name <address>” there, and the mould refused it for everybody."""
    for name, written in (("Desk, News", '"Desk, News"'), ("Schreibtisch für alle", "Schreibtisch für alle"), ("", "")):
        sender = replace(SENDER, reply_to=f"{written} <desk@example.org>".strip())
        mail = read(Mould(replace(message(), sender=sender)).fill(ADA, DATE))
        assert mail.mailbox("Reply-To") == (name, "desk@example.org")


# ---------------------------------------------------------------------------------------------- subjects


@pytest.mark.parametrize(
    "subject",
    [
        "Today",
        "x" * 69,
        "x" * 70,
        "x" * 5000,
        "short " + "x" * 100 + " short",
        "word " * 400 + "end",
        "two  blanks, three   blanks " + "and    four " * 20 + "end",
        " blanks around ",
        "   ",
        "a literal =?utf-8?q?word?= and =? ?=",
        "Überblick",
        "ü" * 300,
        "日本" * 200,
        "😀👩‍👩‍👧‍👦" * 30,
        'Colon: semicolon; comma, "quotes" <angle> (round) \\',
        "e\u0301" * 90,
        "\u200bzero width",
    ],
)
def test_a_subject_reads_back_exactly(subject: str) -> None:
    mail = read(Mould(message(subject=subject)).fill(ADA, DATE))
    assert mail.subject == subject
    assert mail.longest_header_line <= 78


# ---------------------------------------------------------------------------------------------- lists and links


def test_one_click_is_exactly_what_rfc_8058_asks() -> None:
    mail = read(Mould(message()).fill(ADA, DATE))
    assert mail.raw["List-Unsubscribe"] == "<https://news.example.org/u/LgERYdrJ3wGxOo8gW1uyRg/daily>"
    assert mail.raw["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert mail.raw["List-Id"] == "The Daily Digest <daily.news.example.org>"


@pytest.mark.parametrize("columns", [20, 45, 60, 61, 62, 70, 76, 77, 78, 100, 500, 960])
def test_a_long_link_to_leave_by_is_never_cut_or_encoded(columns: int) -> None:
    site = "https://" + ("sub-domain." * 100)[: columns - 9] + "x"
    mail = read(Mould(replace(message(), sender=replace(SENDER, site_url=site))).fill(ADA._replace(token="t"), DATE))
    link = f"<{site}/u/t/daily>"
    assert mail.raw["List-Unsubscribe"] == link
    assert mail.longest_header_line <= (78 if len(link) < 78 else len("List-Unsubscribe: ") + len(link))


@pytest.mark.parametrize(
    "site",
    ["https://bücher.example", "mailto:x@example.org", "https://a b", "https://a>,<b", "x" * 9, "https://" + "x" * 999],
)
def test_what_is_no_url_in_ascii_is_refused_as_a_link_to_leave_by(site: str) -> None:
    with pytest.raises(HeaderError):
        Mould(replace(message(), sender=replace(SENDER, site_url=site))).fill(ADA, DATE)


@pytest.mark.parametrize(
    "list_id", ["", "daily", "a..b", ".a.b", "a.b.", "a b.c", "<a.b>", "ä.example.org", "a." + "b" * 254]
)
def test_a_list_id_that_rfc_2919_does_not_know_is_refused(list_id: str) -> None:
    with pytest.raises(HeaderError, match="List-Id"):
        Mould(replace(message(), sender=replace(SENDER, list_id=list_id)))


def test_a_list_needs_no_name() -> None:
    mail = read(Mould(replace(message(), sender=replace(SENDER, list_name=""))).fill(ADA, DATE))
    assert mail.raw["List-Id"] == "<daily.news.example.org>"


def test_a_long_list_id_stands_on_its_own_line() -> None:
    sender = replace(SENDER, list_name="The Daily Digest " * 3, list_id="daily." + "news." * 10 + "example.org")
    mail = read(Mould(replace(message(), sender=sender)).fill(ADA, DATE))
    assert mail.raw["List-Id"] == f'"{"The Daily Digest " * 3}" <{sender.list_id}>'
    assert mail.longest_header_line <= 78


# ---------------------------------------------------------------------------------------------- pieces


def test_a_name_is_written_no_more_elaborately_than_it_must_be() -> None:
    assert phrase("Ada Lovelace", first=4) == "Ada Lovelace"
    assert phrase("A. Lovelace", first=4) == '"A. Lovelace"'
    assert phrase("Zoë", first=4) == "=?utf-8?B?Wm/Dqw==?="
    assert mailbox("Ada", "ada@example.org", first=4) == "Ada <ada@example.org>"


def test_a_message_survives_storing() -> None:
    told = message(text="ü\ud800", html=place("name", html=True))
    assert Message.from_json(told.to_json()) == told
    assert Message.from_json(told.to_json()).digest == told.digest
