"""A second opinion on mails: reads one by the letter of the RFCs, sharing no code with newsletter/mime.py."""

import base64
import quopri
import re
from dataclasses import dataclass
from email import policy
from email.header import decode_header, make_header
from email.parser import Parser

ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
MSG_ID = re.compile(rf"<{ATOM}(?:\.{ATOM})*@{ATOM}(?:\.{ATOM})*>")
QUOTED = r'"(?:[^"\\]|\\.)*"'
PHRASE = rf"{QUOTED}|{ATOM}(?: {ATOM})*"  # RFC 5322 section 3.2.5; an encoded word (RFC 2047) has the form of an atom
MAILBOX = re.compile(rf"(?:({PHRASE}) <([^<> ]+)>|([^<> ]+))")
LIST_ID = re.compile(rf"(?:(?:{PHRASE}) )?<{ATOM}(?:\.{ATOM})+>")  # RFC 2919 section 2
WORD = re.compile(r"=\?utf-8\?B\?[A-Za-z0-9+/]+={0,2}\?=")  # RFC 2047 section 2
ONE_URL = re.compile(r"<https://[!-;=?-~]+>(?:, <mailto:[!-;=?-~]+>)?")  # RFC 2369 section 2, RFC 8058 section 3.1
OF_A_LIST = {"List-Unsubscribe", "List-Id", "List-Unsubscribe-Post"}
QP_LINE = re.compile(rb"(?:[\t !-<>-~]|=[0-9A-F]{2})*=?")  # RFC 2045 section 6.7

ONCE = ["From", "Subject", "To", "Date", "Message-ID", "List-Unsubscribe", "List-Id", "List-Unsubscribe-Post"]
ALWAYS = {*ONCE, "MIME-Version", "Content-Type"}


@dataclass(frozen=True)
class Mail:
    """What a strict reader finds. `raw` holds header values unfolded but not decoded."""

    raw: dict[str, str]
    text: str
    html: str
    longest_header_line: int

    @property
    def subject(self) -> str:
        """As it is shown."""
        return str(make_header(decode_header(self.raw["Subject"])))

    def mailbox(self, header: str) -> tuple[str, str]:
        """The one mailbox of From, To or Reply-To: its name as it is shown, and its address."""
        found = MAILBOX.fullmatch(self.raw[header])
        assert found, self.raw[header]
        name, address, bare = found.groups()
        if bare:
            return "", bare
        if name.startswith('"'):
            assert "=?" not in name, "some readers decode words in quotes"
            return re.sub(r"\\(.)", r"\1", name[1:-1]), address
        # Not by the library's address parser, which before Python 3.13 keeps the blanks between encoded words.
        return str(make_header(decode_header(name))), address


def read(data: bytes, *, eight_bit: bool = False) -> Mail:
    """Read a mail and assert all that RFC 5322, 2045, 2046, 2047, 2369, 2919 and 8058 ask of its form."""
    assert data.endswith(b"\r\n")
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n|\x00", data), "a bare CR or LF, or a NUL"
    assert eight_bit or data.isascii()
    head, _, body = data.partition(b"\r\n\r\n")
    raw = _headers(head)
    _no_defects(data.decode())

    for line in body.split(b"\r\n"):
        assert len(line) <= 76
        assert not line.startswith((b".", b"From "))
    found = re.fullmatch(r'multipart/alternative; boundary="([^"]{1,70})"', raw["Content-Type"])
    assert found
    mark = b"--" + found[1].encode()
    assert body.count(mark) == 3, "the boundary occurs in a part"
    before, first, second, after = re.split(rb"\r\n" + re.escape(mark) + rb"(?:--)?\r\n", b"\r\n" + body)
    assert (before, after) == (b"", b"")
    return Mail(
        raw=raw,
        text=_part(first, "text/plain"),
        html=_part(second, "text/html"),
        longest_header_line=max(map(len, head.split(b"\r\n"))),
    )


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode().split("\r\n")
    assert all(len(line.encode()) <= 998 for line in lines)
    assert all(line.strip() and line == line.rstrip() for line in lines), "a line of blanks only, or a blank at its end"
    assert all(len(line) <= 76 for line in lines if WORD.search(line))
    raw: dict[str, str] = {}
    for field in re.split(r"\r\n(?![ \t])", head.decode()):
        name, colon, value = field.partition(":")
        assert colon
        assert re.fullmatch(r"[A-Za-z-]+", name)
        assert name not in raw, f"{name} twice"
        raw[name] = value.replace("\r\n", "").strip(" ")
        for word in re.findall(r"(?<!\S)=\?\S*", "" if '"' in value else value):
            assert WORD.fullmatch(word)
            assert len(word) <= 75
            assert base64.b64decode(word[10:-2]).decode(), "each word holds whole characters"
    assert MSG_ID.fullmatch(raw["Message-ID"]) or not head.isascii()
    assert raw["MIME-Version"] == "1.0"
    if "Auto-Submitted" in raw:  # RFC 3834: a program's answer, of no list
        assert set(raw) - {"Reply-To", "Auto-Submitted"} == ALWAYS - OF_A_LIST
        assert raw["Auto-Submitted"] == "auto-generated"
        return raw
    assert set(raw) - {"Reply-To", "Feedback-ID"} == ALWAYS
    assert LIST_ID.fullmatch(raw["List-Id"])
    assert ONE_URL.fullmatch(raw["List-Unsubscribe"])
    assert raw["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    if "Feedback-ID" in raw:
        assert re.fullmatch(r"[^\s:]+(:[^\s:]+){3}", raw["Feedback-ID"]), "four parts (Gmail)"
    return raw


def _no_defects(data: str) -> None:
    for rules in (policy.compat32, policy.default, policy.SMTPUTF8, policy.strict):
        for part in Parser(policy=rules).parsestr(data).walk():
            assert part.defects == []
            for name, value in part.items():
                defects = [type(defect).__name__ for defect in getattr(value, "defects", ())]
                # The library calls every RFC 6532 local part a defect.
                assert set(defects) <= {"NonASCIILocalPartDefect"}, f"{name}: {defects}"
                assert data.isascii() <= (defects == [])


def _part(part: bytes, content_type: str) -> str:
    head, blank_line, body = part.partition(b"\r\n\r\n")
    assert blank_line
    assert head.decode().split("\r\n") == [
        f"Content-Type: {content_type}; charset=utf-8",
        "Content-Transfer-Encoding: quoted-printable",
    ]
    for line in body.split(b"\r\n"):
        assert QP_LINE.fullmatch(line)
        assert line == line.rstrip(), "a blank at a line's end"
    assert not body.endswith(b"="), "a soft break with nothing after it"
    return quopri.decodestring(body).decode()
