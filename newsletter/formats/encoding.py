"""What encoding bytes are in, whatever they or their server say of it.

Declarations are wrong often enough that the bytes are asked first: text that is valid UTF-8 by chance is not met with,
and text declared as UTF-8 that is none was written by a program that knows one encoding only, its own.
"""

import codecs
import re

_MARKS = (  # the longer first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8"),
)
_DECLARED = re.compile(rb"\s*<\?xml\b[^>]{0,200}?\bencoding\s*=\s*[\"']\s*([A-Za-z0-9_.:-]{1,40})")
_TEXT_CODECS = re.compile(  # the codecs of Python that stand for text as it is sent about, and for nothing else
    r"ascii|utf-(8|16|32)(-[lb]e)?|cp\d{3,4}|iso8859-\d{1,2}|koi8-[rtu]|mac-\w+|gb(k|2312|18030)|big5(hkscs)?|hz"
    r"|shift_?jis\w*|euc_\w+|iso2022_\w+|johab|tis-620|ptcp154|kz1048"
)
_WIDER = {  # what is declared, and what browsers read in its place since so many mean that
    "ascii": "cp1252", "iso8859-1": "cp1252", "iso8859-9": "cp1254", "iso8859-11": "cp874", "tis-620": "cp874",
    "gb2312": "gb18030", "gbk": "gb18030", "euc_kr": "cp949", "shift_jis": "cp932", "big5": "big5hkscs",
}  # fmt: skip


def marked(data: bytes) -> str | None:
    """The encoding that a byte order mark gives, None where there is none."""
    return next((name for mark, name in _MARKS if data.startswith(mark)), None)


def unmarked(data: bytes) -> str:
    """The encoding of bytes without a mark, as far as the bytes tell."""
    start = data[:400]
    if len(start) >= 4 and not len(data) % 2:  # noqa: PLR2004 # two characters
        for encoding, zeros, others in (
            ("utf-16-le", start[1::2], start[0::2]),
            ("utf-16-be", start[0::2], start[1::2]),
        ):
            if zeros.count(0) > len(zeros) * 0.7 and not others.count(0):
                return encoding
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        broken = data.decode("utf-8", errors="replace").count("\ufffd")
        whole = sum(1 for byte in data if byte >= 0xC0) - broken  # noqa: PLR2004 # the first byte of a longer character
        return "utf-8" if whole > broken else "cp1252"
    return "utf-8"


def text_of_feed(data: bytes, charset: str | None) -> str:
    """A feed's bytes as text, line feeds at line ends: by its mark, its XML declaration, then by what the server said.

    Bytes that are valid UTF-8 are UTF-8, whatever is declared. What cannot be read becomes U+FFFD, never an error.
    """
    text = data.decode(_encoding(data, charset), errors="replace")
    return re.sub(r"\r\n?", "\n", text.lstrip("\ufeff")) if "\r" in text else text.lstrip("\ufeff")


def _encoding(data: bytes, charset: str | None) -> str:
    if found := marked(data):
        return found
    if len(data) > 3 and data[:1] in b"<{" and not data[1] and not data[3]:  # noqa: PLR2004 # two characters
        return "utf-16-le"
    if len(data) > 3 and data[1:2] in b"<{" and not data[0] and not data[2]:  # noqa: PLR2004 # the same
        return "utf-16-be"
    declared = _DECLARED.match(data[:1000])
    named = [known for name in (declared and declared[1].decode(), charset) if name and (known := codec(name))]
    for encoding in named:
        if encoding.startswith(("iso2022", "hz")) and re.search(rb"\x1b[$(]|~\{", data):  # these look like ASCII
            return encoding
    guess = unmarked(data)
    if guess.startswith("utf-16") or _fits(data, "utf-8"):
        return guess
    single = [encoding for encoding in named if not encoding.startswith("utf-")]
    fitting = next((encoding for encoding in single if _fits(data, encoding)), None)
    return fitting or (guess if guess == "utf-8" or not single else single[0])


def _fits(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def codec(name: str) -> str | None:
    """Python's codec for a declared name, None where it knows none or none that is text."""
    try:
        found = codecs.lookup(name.lower().removeprefix("x-")).name
    except (LookupError, ValueError):
        return None
    return _WIDER.get(found, found) if _TEXT_CODECS.fullmatch(found) else None
