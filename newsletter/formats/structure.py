"""Whether a page tells a story as a brief does, by facts and narratives under headings; and its outline if so.

A heading is a heading of HTML, or a paragraph in bold that looks like one. What stands before the first telling heading
is the lede. Paragraphs beside the list of facts are facts only
where they name a source: in HTML a desk can say which its facts are.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from newsletter.formats import Remark
from newsletter.formats.excerpt import is_added
from newsletter.formats.html import Piece
from newsletter.formats.links import Link, sources_in, take_links
from newsletter.formats.outline import (
    Block,
    Kind,
    is_facts,
    is_forecast,
    is_group,
    is_narrative,
    is_split,
    is_strong,
    looks_like_heading,
    plain_heading,
)
from newsletter.formats.text import same_title

_TELLING = ("narrative", "perspective", "view", "facts", "we know", "happened", "points")


def may_tell(text: str) -> bool:
    """Whether a text has a word of those that make a telling heading: without any it need not be read to its end."""
    text = text.lower()
    return any(word in text for word in _TELLING)


_MAY_BE_LABEL = re.compile(r"narrative|perspective|view|split", re.IGNORECASE)
_SOURCES = re.compile(r"(?:the |our )?(?:sources?|references|citations|footnotes|further reading)", re.IGNORECASE)
_ENDED = re.compile(r"[.!?…,;。！？][\"'”’»)\]]*\Z")
_LABEL_WORDS = 9
_SPLIT_WORDS = 4  # "Establishment split", where nothing marks it as a heading
_LOOKS = 7  # the level of a heading that only looks like one: under all others
_NUMBERED = re.compile(r"\s?\[(\d{1,3})\]")


@dataclass(slots=True)
class Outline:
    """A page as a brief's outline: its blocks, the pieces before them, and what had no place."""

    line: int
    blocks: list[Block] = field(default_factory=list)
    lede: list[Piece] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    facts: list[int] = field(default_factory=list)  # which of the blocks are facts
    sources: list[Link] = field(default_factory=list)  # under a heading of their own
    unused: list[str] = field(default_factory=list)  # paragraphs beside the facts

    def remark(self, what: str) -> None:
        """Say what had no place."""
        self.remarks.append(Remark(self.line, what))


def outline_of(pieces: Sequence[Piece], headline: str, line: int) -> Outline | None:
    """The outline of a page, None where it has no telling heading: then it is a page like any other."""
    headed = [(piece, _heading(piece)) for whole in pieces for piece in _without_lead(whole)]
    first = _first_telling(headed)
    if first is None:
        return None
    outline = Outline(line)
    own_list = any(_opens_facts(headed, index) for index in range(first, len(headed)))
    for piece, words in headed[:first]:
        if words is not None and same_title(words, headline):
            continue
        if piece.kind in {Kind.BULLET, Kind.MORE} and not own_list:
            _add(outline, piece, "Facts")
        else:
            outline.lede.append(replace(piece, kind=Kind.PARAGRAPH) if words is not None else piece)
    _sections(outline, _one_story(outline, headed[first:]))
    _attach(outline)
    if outline.unused:
        outline.remark(
            f"not used, beside the list of facts: “{_short(outline.unused[0])}” ({len(outline.unused)} in all)"
        )
    return outline


def _sections(outline: Outline, headed: Sequence[tuple[Piece, str | None]]) -> None:
    """Put the pieces from the first telling heading on into the outline."""
    heading = ""
    listed = True  # the facts under this heading are a list; where there is none, paragraphs are facts
    level = 0  # of the heading “Facts” in which we are
    for index, (piece, words) in enumerate(headed):
        if words is not None and is_facts(heading) and _is_deeper(piece, words, level):
            continue
        if words is not None:
            heading, level = words, piece.level
            listed = _has_list(headed, index)
            if not _SOURCES.fullmatch(words):
                outline.blocks.append(Block(Kind.HEADING, words, outline.line, level=piece.level or _LOOKS))
        elif piece.caption or is_added(piece.text):
            continue
        elif _SOURCES.fullmatch(heading):
            _source(outline, piece)
        elif is_facts(heading) and piece.kind is Kind.PARAGRAPH:
            links = sources_in(piece.text)
            if links and outline.facts:
                outline.blocks.append(Block(Kind.SOURCES, "", outline.line, _web(links)))
            elif not listed or piece.words != piece.text:  # it has a link: a fact with its source
                _add(outline, replace(piece, kind=Kind.BULLET, level=1), heading)
            else:
                outline.unused.append(piece.words)
        else:
            _add(outline, piece, heading)


def _has_list(headed: Sequence[tuple[Piece, str | None]], index: int) -> bool:
    """Whether a list stands between a heading and the next one."""
    level = headed[index][0].level
    for piece, further in headed[index + 1 :]:
        if further is not None and not _is_deeper(piece, further, level):
            return False
        if piece.kind is Kind.BULLET:
            return True
    return False


def _is_deeper(piece: Piece, words: str, level: int) -> bool:
    """Whether a heading only parts what stands under one of that level: “The fire” under “What we know”."""
    tells = is_facts(words) or is_narrative(words) or is_forecast(words) or is_split(words) or is_group(words)
    return piece.level > level > 0 and not tells and not _SOURCES.fullmatch(words)


def _one_story(outline: Outline, headed: Sequence[tuple[Piece, str | None]]) -> Sequence[tuple[Piece, str | None]]:
    """What belongs to the first story, where an entry tells several, each with its facts and narratives."""
    facts = told = False
    for index, (_, words) in enumerate(headed):
        if words is None:
            continue
        if facts and told and is_facts(words):
            before = headed[index - 1][1]
            title = before if before is not None and not (is_narrative(before) or is_split(before)) else words
            outline.remark(f"a second story is not used: it begins at “{_short(title)}”")
            return headed[: index - 1 if title is before else index]
        facts = facts or is_facts(words)
        told = told or is_narrative(words)
    return headed


def _without_lead(piece: Piece) -> Iterator[Piece]:
    """A paragraph that begins with its heading in bold, “**Pro-ferry narrative:** …”, as the two that it is."""
    lead = piece.lead
    if piece.kind is Kind.PARAGRAPH and lead and not piece.bold and piece.text.startswith(lead):
        rest = piece.text[len(lead) :]
        said = rest.lstrip(" :：–—-.")
        apart = lead.endswith((":", ".")) or rest.lstrip().startswith((":", "：", "–", "—", "-"))
        words = plain_heading(lead.rstrip("."))
        if said and looks_like_heading(words) and (apart or not said[0].islower()):
            yield Piece(Kind.PARAGRAPH, words, bold=True, lead=words)
            yield Piece(Kind.PARAGRAPH, said)
            return
    yield piece


_DECORATION = re.compile(  # emoji before a heading; emoji and marks of permanent links behind it
    r"\A(?:[^\w\s\"'“‘«‹(\[.…]|\s|\ufe0f|\u200d)+|(?:[^\w\s\"'”’»›)\].!?…:;,%。！？]|\s|\ufe0f|\u200d)+\Z"
)


def _heading(piece: Piece) -> str | None:
    """The words of a piece that is a heading, None for one that is not."""
    if piece.kind is Kind.HEADING:
        return plain_heading(_DECORATION.sub("", piece.words)) or piece.words
    if piece.kind is not Kind.PARAGRAPH or piece.caption or len(piece.text) > 400:  # noqa: PLR2004 # with a link
        return None
    words = _DECORATION.sub("", piece.words)
    plain = plain_heading(words)
    facts = is_facts(plain)  # nobody writes that as a paragraph
    if len(words) > 120 or not (piece.bold or facts or _MAY_BE_LABEL.search(words)):  # noqa: PLR2004 # past any label
        return None
    if not plain or _ENDED.search(plain):
        return None
    few = len(plain.split())
    told = is_strong(plain) or (is_split(plain) and few <= _SPLIT_WORDS)
    likely = (looks_like_heading(words) and (piece.bold or told)) or (piece.bold and few <= _LABEL_WORDS)
    return plain if facts or likely else None


def _first_telling(headed: Sequence[tuple[Piece, str | None]]) -> int | None:
    """The first heading that tells a story as a brief does.

    One that only ends in “narrative” may be any article's: two of them tell, or one with a list before it.
    """
    telling: list[int] = []
    sure = False
    listed = weak = 0
    for index, (piece, words) in enumerate(headed):
        if words is None:
            listed += piece.kind is Kind.BULLET
        elif _opens_facts(headed, index) or is_strong(words):
            telling.append(index)
            sure = True
        elif is_narrative(words) and looks_like_heading(words):
            telling.append(index)
            weak += 1
            sure = sure or bool(listed) or weak > 1
    return telling[0] if sure else None


def _opens_facts(headed: Sequence[tuple[Piece, str | None]], index: int) -> bool:
    """Whether a heading says “Facts”, and has a list under it or a side of the story after it."""
    words = headed[index][1]
    if words is None or not is_facts(words):
        return False
    if any(further and is_narrative(further) and looks_like_heading(further) for _, further in headed[index + 1 :]):
        return True
    for piece, further in headed[index + 1 : index + 6]:
        if further is not None:
            return False
        if piece.kind is Kind.BULLET:
            return True
    return False


def _add(outline: Outline, piece: Piece, heading: str) -> None:
    """Add a piece that is no heading, its links as citations where they cite."""
    told = is_narrative(heading) or is_forecast(heading)  # no facts: a link may be all that a paragraph says
    fact = piece.kind is Kind.BULLET and piece.level == 1
    links = sources_in(piece.text, strict=told or fact)
    if links:
        outline.blocks.append(Block(Kind.SOURCES, "", outline.line, _web(links)))
        return
    text, links = take_links(piece.text, citing=not is_narrative(heading) or is_forecast(heading))
    if is_facts(heading) and piece.kind is Kind.BULLET:
        outline.facts.append(len(outline.blocks))
    outline.blocks.append(Block(piece.kind, text, outline.line, _web(links), piece.level))


def _web(links: Sequence[Link]) -> tuple[Link, ...]:
    return tuple(link for link in links if link[1])


def _source(outline: Outline, piece: Piece) -> None:
    """Take the links of a piece under “Sources”."""
    text, links = take_links(piece.text)
    if not links:
        outline.remark(f"not used, a source without a link: “{_short(text)}”")
    for title, url in links[:1]:
        outline.sources.append((title or (text if len(links) == 1 else None) or None, url))
    outline.sources += links[1:]


def _attach(outline: Outline) -> None:
    """Give the sources under a heading of their own to the facts that name them by “[1]”, or to the only fact."""
    if not outline.sources:
        return
    left = dict.fromkeys(range(len(outline.sources)))
    for index in outline.facts:
        block = outline.blocks[index]
        named = [int(n) - 1 for n in _NUMBERED.findall(block.text)]
        if len(outline.facts) == 1:
            named = list(left)
        if named := [n for n in named if 0 <= n < len(outline.sources)]:
            text = _NUMBERED.sub("", block.text).strip()
            links = (*block.links, *(outline.sources[n] for n in named))
            outline.blocks[index] = replace(block, text=text, links=links)
            for number in named:
                left.pop(number, None)
    if left:
        told = ", ".join(outline.sources[n][0] or outline.sources[n][1] for n in list(left)[:3])
        outline.remark(
            f"sources under a heading of their own that no fact names by “[1]” are not used: {_short(told)}"
            f" ({len(left)} in all)"
        )


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57].rstrip() + "…"  # noqa: PLR2004 # fits a terminal line
