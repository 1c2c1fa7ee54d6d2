"""The text reader: a brief as its desk lays it out in plain text.

A title, often repeated; "Last updated …", "Image credit: …" and the like; bullets that are facts, with their sources
under them; "Pro-X narrative" headings over paragraphs; "Nerd narrative"; "… split"; and a sign-up line, which is no
content. Nothing marks a heading in plain text but its look, so most of this file decides one question: is this line
a heading, or a sentence that happens to end in "narrative" or "split"?
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from newsletter.brief import HEADLINE_CHARACTERS, Brief, one_line
from newsletter.errors import BriefError
from newsletter.formats import Remark
from newsletter.formats.dates import read_date
from newsletter.formats.links import sources_in, take_links
from newsletter.formats.outline import (
    Block,
    Front,
    Kind,
    assemble,
    is_facts,
    is_group,
    is_narrative,
    is_sign_up,
    is_split,
)

_BULLET = re.compile(r"(?:[•▪▫◦‣●○∙·⁃➤►\uf0b7]\s*|[-*–—+]\s+|o\s{2,}|\d{1,2}[.)]\s+)(?=\S)")
_FRONT = {
    "updated": r"(?:last\s+)?(?:updated|modified|revised|edited)(?:\s+on)?",
    "published": r"(?:first\s+)?(?:published|posted|date)(?:\s+on)?",
    "image_credit": r"(?:image|photo|picture)\s+(?:credit|by|source|courtesy(?:\s+of)?)|credit",
    "image_alt": r"(?:image\s+)?(?:alt(?:\s+text)?|description)",
    "image_url": r"image|photo|picture",
    "topics": r"topics?|tags?|categor(?:y|ies)|section",
    "url": r"link|url|permalink|read\s+(?:on|more)",
    "language": r"lang(?:uage)?",
}
_WITH_COLON = re.compile(
    "|".join(rf"(?P<{key}>{pattern})" for key, pattern in _FRONT.items()) + r"(?=\s*[:：])", re.IGNORECASE
)
_DATED = re.compile(rf"(?P<key>{_FRONT['updated']}|published|posted)\b[\s:]+(?P<value>.*\d.*)", re.IGNORECASE)
_CREDITED = re.compile(r"(?:image|photo)\s+credit\s+(?P<value>\S.*)", re.IGNORECASE)
_BYLINE = re.compile(r"by\s+\w[\w.'’-]*(?:\s+[\w.'’&,-]+){0,6}", re.IGNORECASE)
_INLINE_HEADING = re.compile(
    r"(?P<label>(?:(?:pro|anti)[\s\-‐‑–][^:.]{1,60}|nerd|[^:.\s]{1,40}[-‐‑–]\w+|establishment) narrative)\s*[:–—]\s+(?P<text>\S.{20,})",
    re.IGNORECASE,
)
_MARKED = re.compile(r"^(?:#{1,6}\s+)?(?P<mark>\*\*|__|\*|_|==)?(?P<text>.*?)(?(mark)(?P=mark)\s*:?|)\s*#*$")
_SENTENCE_END = re.compile(r"[.!?…:;][\"'”’»)\]]*$")
_TERMINAL = re.compile(r"[.!?…,;][\"'”’»)\]]*$")
_HEADING_WORDS = 9
_SMALL_STARTS = {
    "the",
    "this",
    "that",
    "a",
    "an",
    "and",
    "but",
    "or",
    "of",
    "in",
    "to",
    "for",
    "its",
    "their",
    "his",
    "her",
}


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    indent: int
    text: str  # trimmed, tabs and non-breaking spaces as spaces; "" where blank


def read(text: str, origin: str) -> Iterator[Brief | BriefError | Remark]:
    """Read the one brief of a plain-text file. Raises BriefError where it holds none."""
    if re.match(r"\s*<(?:!doctype|html|\?xml|rss|feed)\b", text, re.IGNORECASE):
        raise BriefError(origin, 1, "expected plain text, found a web page")
    lines = _without_sign_up([_line(number, raw) for number, raw in enumerate(text.split("\n"), start=1)])
    front = Front()
    rest, remarks = _read_front(lines, front, origin)
    yield from remarks
    yield from assemble(list(_blocks(rest)), front, origin)


def _line(number: int, raw: str) -> _Line:
    raw = raw.expandtabs(4).replace("\xa0", " ").replace("\u200b", "").replace("\ufeff", "").rstrip()
    return _Line(number, len(raw) - len(raw.lstrip()), one_line(raw))


def _without_sign_up(lines: list[_Line]) -> list[_Line]:
    end = len(lines)
    while end and (not lines[end - 1].text or re.fullmatch(r"[-_=*~\s]+", lines[end - 1].text)):
        end -= 1
    if end > 1 and re.fullmatch(r"<?https?://\S+", lines[end - 1].text) and is_sign_up(lines[end - 2].text):
        end -= 1
    if end and is_sign_up(lines[end - 1].text):
        end -= 1
    return lines[:end]


# ---------------------------------------------------------------------------------------------- title and front


def _same(one: str, other: str) -> bool:
    def plain(text: str) -> str:
        text = text.translate(str.maketrans("‘’‛`“”„«»–—‑‐", '\'\'\'\'"""""----'))
        return re.sub(r"[\s.!]+", " ", text).strip().casefold()

    return plain(one) == plain(other)


def _unmarked(text: str) -> str:
    match = _MARKED.match(text)
    return match["text"].strip() if match else text


def _front_of(line: _Line) -> tuple[str, str] | None:
    """The key and value of a line such as "Last updated May 30, 2023" or "Image credit: Wikimedia Commons"."""
    text = _unmarked(line.text)
    if found := _WITH_COLON.match(text):
        value = re.sub(r"^\s*[:：]\s*", "", text[found.end() :])
        return str(found.lastgroup), value.removeprefix("**").strip()
    if found := _DATED.fullmatch(text):
        return ("updated" if re.match("(?i)last|upd|mod|rev|edi", found["key"]) else "published"), found["value"]
    if found := _CREDITED.fullmatch(text):
        return "image_credit", found["value"]
    return None


def _read_front(lines: list[_Line], front: Front, origin: str) -> tuple[list[_Line], list[Remark]]:
    """Take the headline and what stands apart; give the rest of the lines, blanks kept, and remarks."""
    remarks: list[Remark] = []
    index = _headline(lines, front, origin)
    body: list[_Line] = []
    opened = False  # a bullet or a heading has been seen: from here on, only what cannot be prose is front matter
    for line in lines[index:]:
        opened = opened or bool(_BULLET.match(line.text)) or _looks_like_heading(_unmarked(line.text))
        found = _front_of(line) if line.text else None
        if found and opened and found[0] not in {"image_credit", "updated"}:
            found = None
        if found and opened and len(line.text) > 120:  # noqa: PLR2004 # prose that begins with such a word
            found = None
        if found:
            _take_front(front, found, line, remarks)
        elif not opened and _BYLINE.fullmatch(line.text):
            remarks.append(Remark(line.number, f"the byline is not used: “{line.text}”"))
        else:
            body.append(line)
    return body, remarks


def _take_front(front: Front, found: tuple[str, str], line: _Line, remarks: list[Remark]) -> None:
    key, value = found
    if key in front.values or not value:
        return
    if key in {"updated", "published"}:
        instant = read_date(value)
        if instant is None:
            remarks.append(Remark(line.number, f"expected a date that can be read one way, found “{value}”"))
        else:
            front.values[key] = (instant, line.number)
    elif key == "topics":
        topics = tuple(topic for part in re.split(r"[,;|/]", value) if (topic := part.strip()))
        front.values[key] = (topics, line.number)
    elif key in {"url", "image_url"}:
        links = sources_in(value)
        front.values[key] = (links[0][1] if links else value.split()[0], line.number)
    else:
        front.values[key] = (value, line.number)


def _headline(lines: list[_Line], front: Front, origin: str) -> int:
    """Take the headline and its repetition; give the index of the first line after them."""
    index = next((i for i, line in enumerate(lines) if line.text), None)
    if index is None:
        raise BriefError(origin, None, "expected a brief, found an empty file")
    first = lines[index]
    title = re.sub(r"(?i)^(?:headline|title)\s*:\s*", "", _unmarked(first.text))
    if _BULLET.match(first.text) or (_front_of(first) and title == _unmarked(first.text)) or _strong_heading(title):
        raise BriefError(origin, first.number, f"expected a headline on the first line, found “{title[:60]}”")
    index += 1
    parts = [title]
    while index < len(lines) and (line := lines[index]).text and not _ends_title(line):
        if _same(line.text, " ".join(parts)):
            break
        parts.append(_unmarked(line.text))
        index += 1
    headline = " ".join(parts)
    if len(parts) > 1 and (len(headline) > HEADLINE_CHARACTERS or any(_SENTENCE_END.search(p) for p in parts)):
        headline, index = title, index - len(parts) + 1  # a paragraph right under the title, not a wrapped title
    if len(headline) > HEADLINE_CHARACTERS:
        raise BriefError(
            origin,
            first.number,
            f"expected a headline of at most {HEADLINE_CHARACTERS} characters, found {len(headline)}",
        )
    front.values["headline"] = (headline, first.number)
    return _after_repetition(lines, index, headline)


def _after_repetition(lines: list[_Line], index: int, headline: str) -> int:
    start = index
    while start < len(lines) and not lines[start].text:
        start += 1
    said = ""
    for end in range(start, min(start + 4, len(lines))):
        if not lines[end].text:
            break
        said = f"{said} {_unmarked(lines[end].text)}".strip()
        if _same(said, headline):
            return end + 1
    return index


def _ends_title(line: _Line) -> bool:
    return bool(_BULLET.match(line.text)) or _front_of(line) is not None or _looks_like_heading(_unmarked(line.text))


# ---------------------------------------------------------------------------------------------- headings


def _strong_heading(text: str) -> bool:
    """A heading that nobody would write as a headline."""
    return bool(re.fullmatch(r"(?i)(?:(?:pro|anti)[-‐‑–]\S.{0,60}|nerd|establishment)\s+narratives?\s*:?", text))


def _looks_like_heading(text: str) -> bool:
    text = text.rstrip(": ").strip()
    if not text or _TERMINAL.search(text) or len(text.split()) > _HEADING_WORDS:
        return False
    if is_facts(text) or is_group(text) or _strong_heading(text):
        return True
    if not (is_narrative(text) or is_split(text)):
        return False
    start = text.lstrip("\"'“‘«(").split()[0]
    return not start[0].islower() and start.lower() not in _SMALL_STARTS


def _is_heading(before: _Line | None, line: _Line, after: _Line | None) -> bool:
    """Whether a line is a heading, told from the lines around it."""
    marked = line.text.startswith("#") or bool(re.fullmatch(r"(\*\*|__).+(\*\*|__):?", line.text))
    text = _unmarked(line.text)
    if not _looks_like_heading(text):
        return marked and not _TERMINAL.search(text) and line.text.startswith("#")
    alone_before = before is None or not before.text
    alone_after = after is None or not after.text
    if alone_before and alone_after:
        return True
    if not alone_before and before is not None and not _SENTENCE_END.search(before.text) and not marked:
        # The line before has not ended its sentence, so this is its last words.
        return sources_in(before.text) is not None or _strong_heading(text)
    if is_split(text) and not is_narrative(text):
        return alone_after or marked
    return True


# ---------------------------------------------------------------------------------------------- blocks


def _blocks(lines: list[_Line]) -> Iterator[Block]:
    """The lines as blocks: wrapped bullets and paragraphs joined, headings told, source lines told."""
    padded: list[_Line | None] = [None, *lines, None]
    group: list[_Line] = []
    bulleted = False
    in_facts = True
    for (before, line), (_, after) in zip(pairwise(padded), pairwise(padded[1:]), strict=False):
        if line is None:
            break
        heading = bool(line.text) and _is_heading(before, line, after)
        inline = _INLINE_HEADING.fullmatch(line.text) if line.text and not heading else None
        bullet = None if heading or inline else _BULLET.match(line.text)
        sources = sources_in(line.text[bullet.end() :] if bullet else line.text) if line.text and in_facts else None
        if heading or inline or bullet or sources or not line.text:
            yield from _flush(group, bulleted=bulleted, in_facts=in_facts)
            group, bulleted = [], False
        if heading:
            text = _unmarked(line.text).rstrip(":").strip()
            in_facts = not is_narrative(text) or text.lower().startswith("nerd")
            yield Block(Kind.HEADING, text, line.number)
        elif inline:
            in_facts = inline["label"].lower().startswith("nerd")
            yield Block(Kind.HEADING, inline["label"], line.number)
            group = [_Line(line.number, line.indent, inline["text"])]
        elif sources:
            yield Block(Kind.SOURCES, "", line.number, sources)
        elif bullet:
            group, bulleted = [_Line(line.number, line.indent, line.text[bullet.end() :].strip())], True
        elif line.text and not re.fullmatch(r"[-_=*~–—]{3,}", line.text):
            group.append(line)
    yield from _flush(group, bulleted=bulleted, in_facts=in_facts)


def _flush(group: list[_Line], *, bulleted: bool, in_facts: bool) -> Iterator[Block]:
    if not group:
        return
    text = _join(line.text for line in group)
    links: tuple[tuple[str | None, str], ...] = ()
    if in_facts:
        text, links = take_links(text)
    yield Block(Kind.BULLET if bulleted else Kind.PARAGRAPH, text, group[0].number, links)


def _join(lines: Iterator[str]) -> str:
    """Wrapped lines as one: a word hyphenated at the wrap with a soft hyphen is mended."""
    text = ""
    for line in lines:
        text = text[:-1] + line if text.endswith("\xad") else f"{text} {line}".strip()
    return text
