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

from newsletter.brief import Brief
from newsletter.errors import BriefError

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


def decode(data: bytes, origin: str) -> str:
    """Bytes as text with "\\n" line ends: UTF-8, UTF-16 by its mark, else Windows-1252 (which holds Latin-1).

    Raises BriefError where the bytes are no text.
    """
    if len(data) > LARGEST_FILE_BYTES:
        raise BriefError(origin, None, f"expected a brief of at most {LARGEST_FILE_BYTES:,} bytes, found {len(data):,}")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            text = data.decode("utf-16")
        except UnicodeDecodeError:
            raise BriefError(origin, None, "expected text, found bytes that are not the UTF-16 they claim") from None
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("cp1252", errors="replace")
    if re.search(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]", text):
        line = text[: re.search(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]", text).start()].count("\n") + 1  # type: ignore[union-attr] # found above
        raise BriefError(origin, line, "expected text, found binary data")
    if not text.strip("\ufeff \t\r\n\x0b\x0c\xa0"):
        raise BriefError(origin, None, "expected a brief, found an empty file")
    return re.sub(r"\r\n?|\x85|\u2028|\x0c|\x0b", "\n", text.lstrip("\ufeff"))


def _choose(name: str, text: str) -> Reader:
    """The reader for a file, by its ending, else by how it begins."""
    from newsletter.formats import json, markdown  # noqa: PLC0415 # markdown-it and YAML are slow to load
    from newsletter.formats import text as plain

    by_ending: dict[str, Reader] = {
        ".json": json.read,
        ".md": markdown.read,
        ".markdown": markdown.read,
        ".txt": plain.read,
        ".text": plain.read,
    }
    ending = PurePath(name).suffix.lower()
    if ending in by_ending:
        return by_ending[ending]
    start = text.lstrip()
    if start.startswith(("{", "[{", "[\n")):
        return json.read
    if re.match(r"---[ \t]*\n", start) or start.startswith("# "):
        return markdown.read
    return plain.read


ENDINGS = (".txt", ".text", ".md", ".markdown", ".json")
"""What a folder source takes; other files in the folder are none of ours."""


def read(data: bytes, origin: str) -> Reading:
    """Read the briefs of one file. `origin` names it in messages, and its ending picks the reader."""
    briefs: list[Brief] = []
    faults: list[BriefError] = []
    remarks: list[str] = []
    try:
        text = decode(data, origin)
        for found in _choose(origin, text)(text, origin):
            if isinstance(found, Brief):
                briefs.append(found)
            elif isinstance(found, BriefError):
                faults.append(found)
            else:
                remarks.append(f"{origin}:{found.line}: {found.what}" if found.line else f"{origin}: {found.what}")
    except BriefError as error:
        faults.append(error)
    return Reading(tuple(briefs), tuple(faults), tuple(remarks))
