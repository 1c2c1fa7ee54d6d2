"""Readers: bytes in, Briefs out, one file a format.

`read` picks the reader by the file's ending, or by its first characters where the ending says nothing, and never
raises for what a file holds: what cannot be read comes back as a BriefError beside what can. A reader turns bytes
into the blocks of an `outline` (or, for JSON, straight into Briefs); none of them does I/O or follows a link.
"""

import codecs
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePath

from newsletter.brief import TEXT_CHARACTERS, Brief
from newsletter.errors import BriefError

LARGEST_BRIEF_CHARACTERS = 200_000  # a text or Markdown file holds one brief: a hundred facts of 2,000 characters
MOST_LINES = 10_000  # the same, wrapped at 72 columns, with its links and blank lines
MOST_REMARKS = 100  # past this nobody reads on
LARGEST_FILE_BYTES = 2_000_000  # a brief is 5 kB and a page of a hundred 500 kB; more is not a brief


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader made of one file: its briefs, what could not be read, and what was read but not used."""

    briefs: tuple[Brief, ...]
    faults: tuple[BriefError, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Remark:
    """Something in the file that has no place in a brief, said rather than dropped in silence."""

    line: int | None
    what: str


Reader = Callable[[str, str], Iterator[Brief | BriefError | Remark]]
"""Text and its origin (a name for messages) in; briefs, faults and remarks out. May raise BriefError."""


_MARKS = (  # the longer first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8"),
)
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")


def decode(data: bytes, origin: str) -> str:
    """Bytes as text with line feeds at line ends: UTF-8, UTF-16, UTF-32, else Windows-1252 (which holds Latin-1).

    Stray controls are dropped, and bytes that are no text in a text otherwise UTF-8 become U+FFFD. Raises BriefError
    where the bytes are no text.
    """
    if len(data) > LARGEST_FILE_BYTES:
        raise BriefError(origin, None, f"expected a brief of at most {LARGEST_FILE_BYTES:,} bytes, found {len(data):,}")
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), None) or _unmarked(data)
    try:
        text = data.decode(encoding, errors="replace" if encoding in {"utf-8", "cp1252"} else "strict")
    except UnicodeDecodeError:
        raise BriefError(origin, None, f"expected text, found bytes that are not {encoding.upper()}") from None
    text = re.sub(r"\r\n?", "\n", text.lstrip("\ufeff").rstrip("\x1a"))
    if not text.strip("\ufeff\x00 \t\n\x0b\x0c\xa0\u200b"):
        raise BriefError(origin, None, "expected a brief, found an empty file")
    controls = _CONTROLS.findall(text)
    if "\x00" in controls or len(controls) > max(4, len(text) * _MOST_CONTROLS):
        line = text.count("\n", 0, _CONTROLS.search(text).start()) + 1  # type: ignore[union-attr] # one was found above
        raise BriefError(origin, line, "expected text, found binary data")
    return _CONTROLS.sub("", text) if controls else text


_MOST_CONTROLS = 0.01  # some survive copying; more than four, and than one in a hundred characters, is no text


def _unmarked(data: bytes) -> str:
    """The encoding of bytes without a mark."""
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


def _choose(text: str, origin: str) -> Reader:
    """The reader for a file: by how it begins where that leaves no doubt, else by its ending."""
    from newsletter.formats import json, markdown  # noqa: PLC0415 # markdown-it and YAML are slow to load
    from newsletter.formats import text as plain  # noqa: PLC0415 # it reads this module

    by_ending: dict[str, Reader] = {
        ".json": json.read,
        ".md": markdown.read,
        ".markdown": markdown.read,
        ".txt": plain.read,
        ".text": plain.read,
    }
    chosen = by_ending.get(PurePath(origin).suffix.lower())
    if chosen in {json.read, markdown.read}:
        return by_ending[PurePath(origin).suffix.lower()]
    start = text.lstrip()
    if re.match(
        r"(?:<!--(?:(?!-->).)*-->\s*)*<(?:!doctype|html|\?xml|rss|feed|head|body)\b",
        start[:4000],
        re.IGNORECASE | re.DOTALL,
    ):
        raise BriefError(origin, 1, "expected plain text, found a web page")
    if start.startswith(("%PDF-", "{\\rtf")):
        raise BriefError(origin, 1, "expected plain text, found a document of another program")
    if re.match(r"\{\s*\"|\[\s*\{\s*\"|\[\s*\]", start):
        return json.read
    if re.match(r"---[ \t]*\n\s*[\w-]+[ \t]*:", start) or (chosen is None and start.startswith("# ")):
        return markdown.read
    return plain.read


def lines_of(text: str, origin: str) -> list[str]:
    """The lines of a file that holds one brief. Raises BriefError where there are more or longer ones than a brief has.

    The bound keeps the time that a hostile file takes far under a second.
    """
    if len(text) > LARGEST_BRIEF_CHARACTERS:
        raise BriefError(
            origin, None, f"expected one brief, at most {LARGEST_BRIEF_CHARACTERS:,} characters, found {len(text):,}"
        )
    lines = re.split(r"[\n\x0b\x0c\x85\u2028\u2029]", text)
    if len(lines) > MOST_LINES:
        raise BriefError(origin, None, f"expected one brief, at most {MOST_LINES:,} lines, found {len(lines):,}")
    for number, line in enumerate(lines, start=1):
        if len(line) > TEXT_CHARACTERS:
            raise BriefError(
                origin, number, f"expected lines of at most {TEXT_CHARACTERS:,} characters, found {len(line):,}"
            )
    return lines


ENDINGS = (".txt", ".text", ".md", ".markdown", ".json")
"""What a folder source takes; other files in the folder are none of ours."""


def read(data: bytes, origin: str) -> Reading:
    """Read the briefs of one file. `origin` names it in messages, and its ending picks the reader."""
    briefs: list[Brief] = []
    faults: list[BriefError] = []
    remarks: list[Remark] = []
    try:
        text = decode(data, origin)
        if lost := text.count("\ufffd"):
            line = text.count("\n", 0, text.index("\ufffd")) + 1
            remarks.append(Remark(line, f"what cannot be read stands as \ufffd, {lost} in all"))
        for found in _choose(text, origin)(text, origin):
            if isinstance(found, Brief):
                briefs.append(found)
            elif isinstance(found, BriefError):
                faults.append(found)
            else:
                remarks.append(found)
    except BriefError as error:
        faults.append(error)
    remarks.sort(key=lambda remark: remark.line or 0)
    if (more := len(remarks) - MOST_REMARKS) > 0:
        remarks[MOST_REMARKS:] = [Remark(None, f"and {more:,} more")]
    said = [
        f"{origin}:{remark.line}: {remark.what}" if remark.line else f"{origin}: {remark.what}" for remark in remarks
    ]
    return Reading(tuple(briefs), tuple(faults), tuple(said))
