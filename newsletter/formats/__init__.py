"""Readers: bytes in, Briefs out, one file a format.

`read` knows a feed by how it begins; else it picks the reader by the file's ending, or by the first characters where
the ending says nothing. It never raises for what a file holds: what cannot be read comes back as a BriefError beside
what can. A reader turns bytes into the blocks of an `outline` (or, for JSON, straight into Briefs); none of them does
I/O or follows a link.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import PurePath
from typing import TYPE_CHECKING

from newsletter.brief import TEXT_CHARACTERS, Brief
from newsletter.errors import BriefError
from newsletter.formats.encoding import codec, marked, text_of_feed, unmarked

if TYPE_CHECKING:
    from newsletter.formats.xmltext import Prolog

LARGEST_BRIEF_CHARACTERS = 200_000  # a text or Markdown file holds one brief: a hundred facts of 2,000 characters
MOST_LINES = 10_000  # the same, wrapped at 72 columns, with its links and blank lines
MOST_REMARKS = 100  # past this nobody reads on
LARGEST_FILE_BYTES = 2_000_000  # a brief is 5 kB and a page of a hundred 500 kB; more is not a brief
LARGEST_FEED_BYTES = 10_000_000  # a blog's whole archive is 5 MB; what is asked of a server at most by default


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader made of one file: its briefs, what could not be read, and what was read but not used.

    `names` says what the file itself calls each brief (a feed's guid), None where it has no names; no two are the same.
    """

    briefs: tuple[Brief, ...]
    faults: tuple[BriefError, ...] = ()
    remarks: tuple[str, ...] = ()
    names: tuple[str | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Named:
    """A brief under the name that its file has for it."""

    name: str
    brief: Brief


@dataclass(frozen=True, slots=True)
class Remark:
    """Something in the file that has no place in a brief, said rather than dropped in silence."""

    line: int | None
    what: str


Reader = Callable[[str, str], Iterator[Brief | Named | BriefError | Remark]]
"""Text and its origin (a name for messages) in; briefs, faults and remarks out. May raise BriefError."""


_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")


def decode(data: bytes, origin: str, charset: str | None = None) -> str:
    """Bytes as text with line feeds at line ends: UTF-8, UTF-16, UTF-32, else `charset`, else Windows-1252.

    Stray controls are dropped, and bytes that are no text in a text otherwise UTF-8 become U+FFFD. Raises BriefError
    where the bytes are no text.
    """
    if len(data) > LARGEST_FILE_BYTES:
        raise BriefError(origin, None, f"expected a brief of at most {LARGEST_FILE_BYTES:,} bytes, found {len(data):,}")
    encoding = marked(data) or unmarked(data)
    if encoding == "cp1252":
        encoding = codec(charset or "") or encoding
    try:
        text = data.decode(encoding, errors="strict" if encoding.startswith(("utf-16", "utf-32")) else "replace")
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
    if re.match(r"<(?:!doctype|\?xml|rss|feed)\b", start, re.IGNORECASE):
        raise BriefError(origin, 1, "expected a feed or a brief, found the beginning of an XML document")
    if start.startswith(("%PDF-", "{\\rtf")):
        raise BriefError(origin, 1, "expected plain text, found a document of another program")
    if re.match(r"\{\s*\"|\[\s*\{\s*\"|\[\s*\]", start):
        return json.read
    if re.match(r"---[ \t]*\n\s*[\w-]+[ \t]*:", start) or (chosen is None and start.startswith("# ")):
        return markdown.read
    return plain.read


_MARKUP = re.compile(rb"[\s\x00\xef\xbb\xbf\xff\xfe]{0,1000}([<{])")
_AHEAD = 10_000  # bytes in which a feed must begin
_SNIFFED = 100_000  # bytes of a file too large to be read, to tell what it is


def _feed(
    data: bytes, origin: str, base: str | None, charset: str | None, largest: int
) -> Iterator[Brief | Named | BriefError | Remark] | None:
    """The entries of a feed; None where the bytes are none. Raises BriefError where they are a page or too many."""
    begins = _MARKUP.match(data)
    if not begins and b"<?xml" not in data[:_AHEAD]:
        return None
    from newsletter.formats import feed, jsonfeed  # noqa: PLC0415 # lxml and nh3 are needed for feeds alone
    from newsletter.formats.xmltext import prolog  # noqa: PLC0415 # the same

    too_large = len(data) > largest
    text = text_of_feed(data[:_SNIFFED] if too_large else data, charset)
    is_json = bool(begins) and begins[1] == b"{" and '"items"' in text  # type: ignore[index] # it is there, then
    start = None if is_json else prolog(text)
    ahead: list[Remark] = []
    if not is_json and not (start and (start.is_feed or start.is_page)) and (at := text.find("<?xml", 1, _AHEAD)) > 0:
        # A server's own warning before the document: the lines stay what they are.
        document = "\n" * text.count("\n", 0, at) + text[at:]
        if (behind := prolog(document)) and behind.is_feed:
            ahead, text, start = [Remark(1, "what stands before the feed is not used")], document, behind
    if too_large and (is_json or (start and start.is_feed)):
        raise BriefError(origin, None, f"expected at most {largest:,} bytes, found {len(data):,}")
    if is_json:
        found: Iterator[Named | BriefError | Remark] | None = jsonfeed.read(text, origin, base)
    elif start and start.is_feed:
        found = feed.read(text, origin, start, base)
    else:
        _refuse_markup(start, text, origin)
        return None
    return found and chain(ahead, _lost(text), found)


def _refuse_markup(start: "Prolog | None", text: str, origin: str) -> None:
    """Raise BriefError for a web page or XML of another kind."""
    ending = PurePath(origin).suffix.lower()
    if start is None or ending in {".md", ".markdown", ".json"}:
        return
    if start.is_page:
        expected = "plain text" if ending in {".txt", ".text"} else "a feed or a brief"
        raise BriefError(origin, 1, f"expected {expected}, found a web page")
    if text.lstrip().startswith("<?xml"):
        raise BriefError(origin, 1, f"expected a feed or a brief, found XML of another kind: <{start.raw[:40]}>")


def feeds_in(page: bytes, base: str) -> list[tuple[str, str]]:
    """The feeds that a web page names: (title, address), each address once. `base` is the page's own address."""
    from newsletter.formats.html import feeds_in_text  # noqa: PLC0415 # lxml and nh3 are needed for feeds alone

    declared = re.search(rb"<meta\b[^<>]{0,200}?charset\s{0,9}=\s{0,9}[\"']?([A-Za-z0-9_-]{1,40})", page[:4_000])
    return feeds_in_text(text_of_feed(page[:LARGEST_FILE_BYTES], declared[1].decode() if declared else None), base)


def _lost(text: str) -> Iterator[Remark]:
    """A remark on the characters of a text that could not be read."""
    if lost := text.count("\ufffd"):
        line = text.count("\n", 0, text.index("\ufffd")) + 1
        yield Remark(line, f"what cannot be read stands as \ufffd, {lost} in all")


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


def read(
    data: bytes,
    origin: str,
    *,
    base: str | None = None,
    charset: str | None = None,
    largest: int = LARGEST_FEED_BYTES,
) -> Reading:
    """Read the briefs of one file or answer. `origin` names it in messages, and its ending picks the reader.

    A feed is told by how it begins, whatever it is called, and may have up to `largest` bytes. `base` is the address
    that the bytes were fetched from, `charset` the encoding that their server named.
    """
    briefs: list[Brief] = []
    names: list[str | None] = []
    faults: list[BriefError] = []
    remarks: list[Remark] = []
    try:
        entries = _feed(data, origin, base, charset, largest)
        if entries is None:
            text = decode(data, origin, charset)
            entries = chain(_lost(text), _choose(text, origin)(text, origin))
        for found in entries:
            if isinstance(found, Brief | Named):
                briefs.append(found.brief if isinstance(found, Named) else found)
                names.append(found.name if isinstance(found, Named) else None)
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
    return Reading(tuple(briefs), tuple(faults), tuple(said), tuple(names))
