"""The text reader: a brief as its desk lays it out in plain text.

A title, often repeated; "Last updated …", "Image credit: …" and the like; bullets that are facts, with their sources
under them; "Pro-X narrative" headings over paragraphs; "Nerd narrative"; "… split"; and a sign-up line, which is no
content. Nothing marks a heading in plain text but its look, so most of this file decides one question: is this line
a heading, or a sentence that happens to end in "narrative" or "split"?
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from newsletter.brief import HEADLINE_CHARACTERS, Brief, one_line
from newsletter.errors import BriefError
from newsletter.formats import Remark, lines_of
from newsletter.formats.dates import read_date
from newsletter.formats.links import Link, is_source_name, sources_in, take_links
from newsletter.formats.outline import (
    Block,
    Front,
    Kind,
    assemble,
    is_facts,
    is_forecast,
    is_group,
    is_narrative,
    is_sign_up,
    is_split,
    is_strong,
    looks_like_heading,
    plain_heading,
)

_BULLET = re.compile(
    r"(?P<mark>[•▪▫◦‣●○∙·・⁃➤►▶▸■□◆✓✔→\uf0b7\uf0a7]|[-*–—+](?=\s)|[-–—](?=[A-Z“\"])|\*(?=[A-Z“\"][^*]*$)|o(?=\s{2,}|\s+[A-Z])"
    r"|\(?\d{1,2}[.)](?=\s)|\(?[a-h]\)(?=\s))\s*(?=\S)"
)
_LONE_BULLET = re.compile(r"[•▪▫◦‣●○∙·・⁃➤►*\uf0b7\uf0a7-]")
_RULE = re.compile(r"[-_=*~–—]{3,}|(?:[-_=*~] ){2,}[-_=*~]")
_FRONT = {
    "updated": r"(?:last\s+)?(?:updated|modified|revised|edited)(?:\s+(?:on|at))?|last\s+update",
    "published": r"(?:first\s+)?(?:published|posted|date)(?:\s+on)?",
    "image_credit": r"(?:image|photo|picture)\s+(?:credits?|by|source|courtesy(?:\s+of)?)|credits?",
    "image_alt": r"(?:image\s+)?(?:alt(?:\s+text)?|description)",
    "image_url": r"image|photo|picture",
    "topics": r"topics?|tags?|categor(?:y|ies)|section",
    "url": r"link|url|permalink|read\s+(?:on|more)",
    "language": r"lang(?:uage)?",
}
_WITH_COLON = re.compile(
    "(?:" + "|".join(f"(?P<{key}>{pattern})" for key, pattern in _FRONT.items()) + r")\s*[:：]\s*(?P<value>.*)",
    re.IGNORECASE,
)
_DATED = re.compile(
    r"(?:(?P<updated>last\s+updated?|updated)|(?P<published>(?:first\s+)?published|posted))\b[\s–—-]*(?P<value>.*)",
    re.IGNORECASE,
)
_CREDITED = re.compile(r"(?:image|photo)\s+(?:credits?|courtesy\s+of)[\s–—-]+(?P<value>\S.*)", re.IGNORECASE)
_BARE_DATE = re.compile(
    r"(?:\w+day,?\s+)?(?:\w{3,9}\.?\s+\d{1,2},?\s+\d{4}|\d{1,2}\s+\w{3,9}\.?\s+\d{4}|\d{4}-\d\d-\d\d)"
)
_BYLINE = re.compile(r"by\s+\w[\w.'’-]*(?:\s+[\w.'’&,-]+){0,6}", re.IGNORECASE)
_INLINE_HEADING = re.compile(
    r"(?P<label>(?:(?:pro|anti)[\s\-‐‑–][^:.]{1,60}|nerd|[^:.\s]{1,40}[-‐‑–]\w+|establishment) narrative)"
    r"\s*(?::|\s[–—-])\s+(?P<text>\S.{4,})",
    re.IGNORECASE,
)
_MARKED = re.compile(r"#{1,6}\s+\S|(?:\*\*|__)\S.*(?:\*\*|__):?$")
_SENTENCE_END = re.compile(r"[.!?…:;。！？؟।：；][\"'”’»)\]」』]*$")
_ENDED = re.compile(r"[.!?…。！？؟।][\"'”’»)\]」』]*$")
_ABBREVIATED = re.compile(r"\b(?:\w\.){2,}$")
_UNSPACED = re.compile(r"[\u2e80-\ua4cf\uf900-\ufaff\uff00-\uff60]")  # Chinese and Japanese: no blank between words
_LABEL_WORDS = 4  # of a heading that stands close to its text: "Left-wing opposition narrative"
_WRAPPED_AT = 60  # characters; a line shorter than this was not broken by a column's edge


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    indent: int
    text: str  # trimmed, tabs and non-breaking spaces as spaces; "" where blank or a rule


def read(text: str, origin: str) -> Iterator[Brief | BriefError | Remark]:
    """Read the brief of a plain-text file, or its briefs, one below the other; a BriefError where it holds none."""
    written = lines_of(text, origin)
    if all(line.startswith(">") for line in written if line.strip()):  # forwarded by mail
        written = [line.removeprefix(">").removeprefix(" ") for line in written]
    lines = [_line(number, raw) for number, raw in enumerate(written, start=1)]
    starts = [0, *_further_titles(lines), len(lines)]
    for start, end in pairwise(starts):
        try:
            yield from _read_one(lines[start:end], origin)
        except BriefError as error:  # one bad brief costs itself and not the others
            yield error


def _further_titles(lines: list[_Line]) -> list[int]:
    """Where further briefs begin: at a title, told by its repetition, below the foot of the brief before."""
    filled = [index for index, line in enumerate(lines) if line.text]
    foot = next((i for i in filled if is_sign_up(lines[i].text)), len(lines))
    told = next((i for i in filled if is_strong(plain_heading(lines[i].text)) and i < foot), len(lines))
    foot = next((i for i in filled if told < i < foot and is_split(plain_heading(lines[i].text))), foot)
    return [
        one
        for one, other in pairwise(filled)
        if one > foot and not lines[one - 1].text and same_title(lines[one].text, lines[other].text)
        if len(lines[one].text.split()) > 2  # noqa: PLR2004 # a title
        if not (_BULLET.match(lines[one].text) or looks_like_heading(lines[one].text) or is_sign_up(lines[one].text))
        if not lines[one].text.endswith((".", "!", "…", ".”", '."'))
    ]


def _read_one(lines: list[_Line], origin: str) -> Iterator[Brief | BriefError | Remark]:
    lines, after = _without_sign_up(lines)
    front = Front()
    rest, remarks = _read_front(lines, front, origin)
    yield from (*remarks, *after)
    yield from assemble(list(_Blocks(rest).read()), front, origin)


def _line(number: int, raw: str) -> _Line:
    raw = raw.expandtabs(4).replace("\xa0", " ").replace("\u200b", "").replace("\ufeff", "").rstrip()
    text = one_line(raw)
    return _Line(number, len(raw) - len(raw.lstrip()), "" if _RULE.fullmatch(text) else text)


def _without_sign_up(lines: list[_Line]) -> tuple[list[_Line], list[Remark]]:
    """The lines up to a sign-up line at the end, and remarks on what stands below it."""
    filled = [i for i, line in enumerate(lines) if line.text]
    for index in reversed(filled[-6:]):
        text = lines[index].text
        if is_sign_up(text):
            below = [line for line in lines[index + 1 :] if line.text and not is_sign_up(line.text)]
            gone = [line for line in below if sources_in(line.text) is None]
            what = "not used, it stands after the sign-up line"
            return lines[:index], [Remark(line.number, f"{what}: “{line.text[:60]}”") for line in gone]
        if looks_like_heading(text) or _BULLET.match(text):
            break
    return lines, []


# ---------------------------------------------------------------------------------------------- title and front


def same_title(one: str, other: str) -> bool:
    """Whether two titles differ in nothing but case, blanks and the look of their quotes and dashes."""

    def plain(text: str) -> str:
        text = re.sub(r"^[•*–—-]\s+", "", text).translate(str.maketrans("‘’‛`“”„«»–—‑‐", '\'\'\'\'"""""----'))
        return re.sub(r"[\s.!]+", " ", text).strip().casefold()

    return plain(one) == plain(other)


def _unmarked(text: str) -> str:
    """A line without Markdown's marks around it."""
    text = re.sub(r"^#{1,6}\s+(.*?)\s*#*$", r"\1", text)
    match = re.fullmatch(r"(\*\*|__|\*|_|==)(?P<text>.+?)\1\s*:?", text)
    return match["text"].strip() if match else text


def front_of(text: str) -> tuple[str, str] | None:
    """The key and value of a line such as "Last updated May 30, 2023" or "Image credit: Wikimedia Commons"."""
    text = _unmarked(text)
    if found := _WITH_COLON.fullmatch(text):
        key = next(key for key in _FRONT if found[key])
        value = found["value"].removeprefix("**").strip()
        if key == "image_url" and value and not re.fullmatch(r"<?\S*[./]\S*>?|\[.*\]\(.*\)", value):
            key = "image_credit"  # "Photo: Harbour Archive"
        return key, value
    if found := _DATED.fullmatch(text):
        key = "updated" if found["updated"] else "published"
        value = re.sub(r"(?i)^(?:on|at)\s+", "", found["value"])
        sure = text.lower().startswith("last") and len(text) <= _WRAPPED_AT
        if sure or read_date(value) or re.fullmatch(r"[\d./-]+", value):
            return key, value
    if found := _CREDITED.fullmatch(text):
        return "image_credit", found["value"]
    return None


@dataclass(slots=True)
class _Top:
    """What stands between the headline and the first bullet or heading, line by line."""

    front: Front
    remarks: list[Remark]
    pending: str | None = None  # the key of a line without its value: the value is the next line
    open: str | None = None  # the key of the line just above, where that may go on

    def take(self, line: _Line) -> bool:
        """Take a line where it is front matter; False where it is text."""
        found = [front_of(part) for part in re.split(r"\s+[|·]\s+", line.text)]
        keys = [one for one in found if one]
        if len(keys) == len(found):
            for one in keys:
                self.pending = take_front(self.front, one, line.number, self.remarks)
            self.open = keys[-1][0] if len(line.text) >= _WRAPPED_AT else None
        elif self.pending and (self.pending not in {"updated", "published"} or read_date(line.text)):
            self.pending = take_front(self.front, (self.pending, line.text), line.number, self.remarks)
        elif self.open in {"image_credit", "image_alt"} and self.open in self.front.values:
            value, number = self.front.values[self.open]
            self.front.values[self.open] = (f"{value} {line.text}", number)
        elif _BARE_DATE.fullmatch(line.text) and read_date(line.text):
            take_front(self.front, ("published", line.text), line.number, self.remarks)
        elif _BYLINE.fullmatch(line.text):
            self.remarks.append(Remark(line.number, f"the byline is not used: “{line.text}”"))
        else:
            return same_title(_unmarked(line.text), self.front.get("headline"))
        return True


def _read_front(lines: list[_Line], front: Front, origin: str) -> tuple[list[_Line], list[Remark]]:
    """Take the headline and what stands apart; give the rest of the lines, blanks kept, and remarks."""
    remarks: list[Remark] = []
    lines = lines[_headline(lines, front, origin) :]
    body: list[_Line] = []
    top = _Top(front, remarks)
    opened = False  # a bullet or a heading has been seen: from here on, only what cannot be prose is front matter
    for before, line in zip([None, *lines], lines, strict=False):
        opened = opened or bool(_BULLET.match(line.text)) or looks_like_heading(line.text)
        if not line.text:
            body.append(line)
            top.open = None
        elif not opened:
            if not top.take(line):
                body.append(line)
        elif (found := front_of(line.text)) and _stands_apart(found, line, before) and not _says_other(found, front):
            take_front(front, found, line.number, remarks)
        else:
            body.append(line)
    return body, remarks


def _stands_apart(found: tuple[str, str], line: _Line, before: _Line | None) -> bool:
    """Whether a line below the first bullet or heading is front matter all the same: at the foot of a brief."""
    if before is not None and before.text and not _SENTENCE_END.search(before.text) and front_of(before.text) is None:
        return False
    if found[0] == "image_credit":
        labelled = re.match(r"(?i)[*_]*(?:image|photo|picture)\s+credits?\s*[:：]", line.text)
        return bool(labelled) and len(line.text) <= 2 * _WRAPPED_AT
    return found[0] == "updated" and read_date(found[1]) is not None and len(line.text) <= _WRAPPED_AT


def _says_other(found: tuple[str, str], front: Front) -> bool:
    """True where the key is known with another value: then the line is text like any other."""
    value = read_date(found[1]) if found[0] == "updated" else found[1]
    return front.get(found[0]) not in {None, value}


def take_front(front: Front, found: tuple[str, str], number: int, remarks: list[Remark]) -> str | None:
    """Take a key and its value from a line; give the key back where its value is still to come."""
    key, value = found
    if key in front.values:
        if front.get(key) not in {value, read_date(value)}:
            remarks.append(Remark(number, f"not used, given before: “{value[:60]}”"))
        return None
    if not value:
        return key
    if key in {"updated", "published"}:
        instant = read_date(value)
        if instant is None:
            remarks.append(Remark(number, f"expected a date that can be read one way, found “{value}”"))
        else:
            front.values[key] = (instant, number)
    elif key == "topics":
        topics = tuple(topic for part in re.split(r"[,;|/]", value) if (topic := part.strip()))
        front.values[key] = (topics, number)
    elif key in {"url", "image_url"}:
        links = sources_in(value)
        front.values[key] = (links[0][1] if links else value.split()[0], number)
    else:
        front.values[key] = (take_links(value, citing=False)[0], number)
    return None


def _headline(lines: list[_Line], front: Front, origin: str) -> int:
    """Take the headline and its repetition; give the index of the first line after them."""
    index = next((i for i, line in enumerate(lines) if line.text), None)
    if index is None:
        raise BriefError(origin, None, "expected a brief, found an empty file")
    first = lines[index]
    title = re.sub(r"(?i)^(?:headline|title)\s*[:：]\s*", "", _unmarked(first.text))
    title = take_links(title, citing=False)[0] or title
    repeated = _after_repetition(lines, index + 1, first.text)
    if repeated > index + 1:
        title = re.sub(r"^[•*–—-]\s+", "", title)
    no_title = (
        _BULLET.match(first.text)
        or (title == _unmarked(first.text) and front_of(first.text) is not None)
        or is_strong(plain_heading(title))
        or is_facts(plain_heading(title))
        or is_group(plain_heading(title))
    )
    if no_title and repeated == index + 1:
        raise BriefError(origin, first.number, f"expected a headline on the first line, found “{title[:60]}”")
    index += 1
    headline, index = _whole_title(lines, index, title)
    if len(headline) > HEADLINE_CHARACTERS:
        raise BriefError(
            origin,
            first.number,
            f"expected a headline of at most {HEADLINE_CHARACTERS} characters, found {len(headline)}",
        )
    front.values["headline"] = (headline, first.number)
    return _after_repetition(lines, index, headline)


def _whole_title(lines: list[_Line], index: int, title: str) -> tuple[str, int]:
    """The title with the lines that it is wrapped over, and the index of the line after them."""
    parts = [title]
    for end in range(index, min(index + 3, len(lines))):  # a title runs over four lines at the most
        if _after_repetition(lines, end, " ".join(parts)) > end:
            return " ".join(parts), end
        if not lines[end].text or front_of(lines[end].text):
            break
        parts.append(_unmarked(lines[end].text))
    parts = [title]
    end = index
    while end < min(index + 4, len(lines)) and lines[end].text and not _ends_title(lines[end]):
        parts.append(_unmarked(lines[end].text))
        end += 1
    whole = " ".join(parts)
    if len(whole) > HEADLINE_CHARACTERS or (len(parts) > 1 and any(_SENTENCE_END.search(part) for part in parts)):
        return title, index  # a paragraph right under the title, not a wrapped title
    return whole, end


def _after_repetition(lines: list[_Line], index: int, headline: str) -> int:
    start = index
    while start < len(lines) and not lines[start].text:
        start += 1
    said = ""
    for end in range(start, min(start + 4, len(lines))):
        if not lines[end].text:
            break
        said = f"{said} {_unmarked(lines[end].text)}".strip()
        if same_title(said, _unmarked(headline)):
            return end + 1
    return index


def _ends_title(line: _Line) -> bool:
    return bool(_BULLET.match(line.text)) or front_of(line.text) is not None or looks_like_heading(line.text)


# ---------------------------------------------------------------------------------------------- headings


def _is_heading(before: str, line: _Line, after: str, *, dedented: bool, last: bool) -> bool:
    """Whether a line is a heading, told from its words and the lines around it.

    `dedented`: it begins left of the line before; `last`: no line follows but blank ones.
    """
    text = plain_heading(line.text)
    few = len(text.split()) <= 3  # noqa: PLR2004 # "Establishment split", "Pro-harbour narrative"
    bullet = _BULLET.match(line.text)
    if bullet and not line.text.startswith("**"):
        return few and (is_strong(text) or (last and is_split(text))) and bullet["mark"] not in {"-", "–", "—"}
    if not before and not after and _is_heading_alone(text, few=few, last=last):
        return True
    if not looks_like_heading(text):
        return bool(re.match(r"#{1,6}\s", line.text)) and not _ENDED.search(text)
    if not (before or after) or _MARKED.match(line.text) or (last and few and is_split(text)):
        return True
    if before and not _SENTENCE_END.search(before):
        # The line before has not ended its sentence, so this is its last words, unless it is set apart.
        return (dedented or sources_in(before) is not None or is_strong(text)) and not after[:1].islower()
    # A paragraph's first or last line may end in these words, too; then it is long, or its sentence goes on.
    goes_on = after[:1].islower() and (bool(before) or not is_strong(text))
    return not goes_on and not (is_split(text) and after) and (is_strong(text) or len(text.split()) <= _LABEL_WORDS)


def _is_heading_alone(text: str, *, few: bool, last: bool) -> bool:
    """Whether words that look like no heading elsewhere are one between two blank lines."""
    if few:
        plain = text.rstrip(".")
        return (last and is_split(plain)) or is_strong(plain) or plain.lower() == "split"
    return text.startswith("The ") and is_strong(text[4:])


# ---------------------------------------------------------------------------------------------- blocks


@dataclass(slots=True)
class _Blocks:
    """The lines as blocks: wrapped bullets and paragraphs joined, headings told, source lines told."""

    lines: Sequence[_Line]
    section: str = "facts"  # facts | narrative | forecast
    group: list[_Line] = field(default_factory=list)  # the lines of the block that is being read
    kind: Kind = Kind.PARAGRAPH  # of that block
    bullet: tuple[str, int, int] | None = None  # the last bullet's mark, its indent and its text's
    cited: bool = False  # the line before held sources
    lone: bool = False  # a bullet without text: the next line is its text

    def read(self) -> Iterator[Block]:
        """The blocks, in order."""
        none = _Line(0, 0, "")
        last = max((line.number for line in self.lines if line.text), default=0)
        for before, line, after in zip([none, *self.lines], self.lines, [*self.lines[1:], none], strict=False):
            dedented = before.indent > line.indent
            if not line.text:
                yield from self._flush()
                self.cited = False
            elif _LONE_BULLET.fullmatch(line.text):
                yield from self._flush()
                self.lone = True
            elif _is_heading(before.text, line, after.text, dedented=dedented, last=line.number == last):
                yield from self._flush()
                yield self._heading(line)
            elif (inline := _INLINE_HEADING.fullmatch(line.text)) and not self._unfinished():
                yield from self._flush()
                yield self._heading(_Line(line.number, line.indent, inline["label"]))
                self.group = [_Line(line.number, line.indent, inline["text"])]
            else:
                yield from self._text(line)
        yield from self._flush()

    def _heading(self, line: _Line) -> Block:
        text = plain_heading(line.text).rstrip(".")
        level = len(line.text) - len(line.text.lstrip("#"))
        self.bullet, self.cited, self.lone = None, False, False
        if is_forecast(text):
            self.section = "forecast"
        elif level == 0 or looks_like_heading(text):
            self.section = "narrative" if is_narrative(text) else "facts"
        return Block(Kind.HEADING, text, line.number, level=level)

    def _text(self, line: _Line) -> Iterator[Block]:
        match = _BULLET.match(line.text)
        if match and self._goes_on(match["mark"], line.text[match.end() :]):
            match = None
        text = line.text[match.end() :] if match else line.text
        if (self.section != "narrative" or not self.group) and (links := self._sources(line, match, text)):
            name = self._name_above(links)
            yield from self._flush()
            yield Block(Kind.SOURCES, "", line.number, ((name, links[0][1]),) if name else links)
            self.cited, self.lone = True, False
        elif match or self.lone:
            yield from self._flush()
            if not self.bullet or line.indent <= self.bullet[1] or match is None:
                self.bullet = (
                    match["mark"] if match else "•",
                    line.indent,
                    line.indent + (match.end() if match else 0),
                )
            self.group, self.kind = [_Line(line.number, line.indent, text)], Kind.BULLET
            self.cited = self.lone = False
        else:
            if not self.group:
                further = self.bullet is not None and line.indent >= self.bullet[2] > 0 and line.indent > self.bullet[1]
                self.kind = Kind.MORE if self.section == "facts" and (further or self.cited) else Kind.PARAGRAPH
            self.group.append(line)

    def _unfinished(self) -> bool:
        return bool(self.group) and not _SENTENCE_END.search(self.group[-1].text)

    def _goes_on(self, mark: str, text: str) -> bool:
        """Whether what looks like a bullet is a wrapped line: "- both of them -", "12. Then …" after "in the year"."""
        family = _family(mark)
        if not self.group or (self.section == "facts" and self.bullet is None):
            return False
        if self.kind is Kind.BULLET and self.bullet and _family(self.bullet[0]) == family:
            return False
        if family == "number":
            return self._unfinished() and mark.strip("(.)") not in {"1", "a"}
        if family != "-":
            return False
        dash = mark != "-" and not text[0].isupper()  # even after "U.S.", which looks like a sentence's end
        if mark == "—" and _ABBREVIATED.search(self.group[-1].text):  # "… of the U.S." and "— EU …" below it
            return True
        return dash or (self._unfinished() and (mark == "—" or not text[0].isupper()))

    def _sources(self, line: _Line, match: re.Match[str] | None, text: str) -> tuple[Link, ...] | None:
        if self.group and self.group[-1].text.endswith(("(", "[", "](")):
            return None
        if match:
            nested = self.bullet is not None and (line.indent > self.bullet[1] or match["mark"] != self.bullet[0])
            return sources_in(text, strict=not nested)
        if is_sign_up(line.text):
            return None
        return sources_in(text, strict=self._unfinished() or self.section != "facts" or self.lone)

    def _name_above(self, links: tuple[Link, ...]) -> str | None:
        """Take the line above an address out of the fact, where it is the name of the source; "" is no name."""
        if len(self.group) < 2 or len(links) != 1 or links[0][0]:  # noqa: PLR2004 # the fact, and the name under it
            if len(self.group) > 1 and re.fullmatch(r"(?i)(?:sources?|links?)\s*[:：]?", self.group[-1].text):
                self.group.pop()
            return None
        above = self.group[-1].text
        if not _ENDED.search(self.group[-2].text) or not is_source_name(above):
            return None
        self.group.pop()
        return re.sub(r"(?i)^(?:sources?|via)\s*[:：]?\s*", "", above).rstrip(" :") or None

    def _flush(self) -> Iterator[Block]:
        group, kind = self.group, self.kind
        self.group, self.kind = [], Kind.PARAGRAPH
        if not group:
            return
        apart = self.section == "facts" and kind is Kind.PARAGRAPH and all(_ENDED.search(line.text) for line in group)
        for part in [[line] for line in group] if apart else [group]:
            text, links = take_links(_join(line.text for line in part), citing=self.section != "narrative")
            yield Block(kind, text, part[0].number, links)


def _family(mark: str) -> str:
    if mark.strip("(.)").isdigit() or mark.endswith(")"):
        return "number"
    return "-" if mark in "-–—" else mark


def _join(lines: Iterator[str]) -> str:
    """Wrapped lines as one: a word hyphenated at the wrap with a soft hyphen is mended, Chinese gets no blank."""
    parts: list[str] = []
    for line in lines:
        if parts and parts[-1].endswith("\xad"):
            parts[-1] = parts[-1][:-1] + line
        elif parts and _UNSPACED.match(parts[-1][-1:]) and _UNSPACED.match(line):
            parts[-1] += line
        else:
            parts.append(line)
    return " ".join(parts)
