"""Entries of feeds -> Briefs, whatever format they came in.

An entry whose page has facts and narratives under headings becomes a full brief (`structure`); any other becomes a
headline with a summary and an address to read on at. What is wrong with one part costs that part, with a remark.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import urlsplit

from newsletter.brief import HEADLINE_CHARACTERS, LINE_CHARACTERS, Brief, one_line, page_of, slugify
from newsletter.errors import BriefError
from newsletter.formats import Named, Remark
from newsletter.formats.excerpt import cut_at_word, enough, headline_of, paragraphs_of, shortened
from newsletter.formats.html import LONGEST, Page, Picture, Piece, first_pictures, is_web
from newsletter.formats.html import read as read_html
from newsletter.formats.outline import Front, Kind, assemble, validated
from newsletter.formats.structure import Outline, may_tell, outline_of
from newsletter.formats.text import front_of, same_title, take_front

_IN_SHORT = 30_000  # characters of a page of which only the first paragraphs are wanted
_FRONT = 200  # characters of a line such as “Last updated …” in a lede
_LEDE = 2_000  # characters of a lede; more is a story of its own
_NAME = 500
_TOPICS, _TOPIC = 6, 80  # a handful, and the characters of one; more is a sentence
_NO_TOPIC = frozenset(["uncategorized", "uncategorised"])


@dataclass(slots=True)
class Told:
    """A text of an entry, as it is in the feed once XML or JSON is read; relative links in it start at `base`."""

    text: str
    html: bool
    base: str | None = None
    _whole: Page | None = None

    def page(self, most: int) -> Page:
        """What it holds, of so many characters at the most."""
        if self._whole is not None:
            return self._whole
        if self.html:
            page = read_html(self.text, self.base, most)
            self._whole = page if most == LONGEST else None
            return page
        pieces = [
            Piece(Kind.BULLET, one_line(line[1:]), 1) if line[:1] in _BULLETS else Piece(Kind.PARAGRAPH, line)
            for part in re.split(r"\n[ \t\xa0]*\n|\n(?=[ \t]*[•▪●◦‣] ?\S)", _CONTROLS.sub("", self.text[:most]))
            if (line := one_line(part))
        ]
        return Page(tuple(pieces))


_BULLETS = frozenset("•▪●◦‣")
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


@dataclass(slots=True)
class Entry:
    """An entry as its feed gives it: what is absent is empty. `title` is plain text, addresses are absolute."""

    line: int
    name: str = ""
    title: str = ""
    url: str | None = None
    published: datetime | None = None
    updated: datetime | None = None
    content: Told | None = None
    summary: Told | None = None
    topics: list[str] = field(default_factory=list)
    language: str | None = None
    image: dict[str, str | None] | None = None
    remarks: list[str] = field(default_factory=list)

    def remark(self, what: str) -> None:
        """Say what is wrong with a part of it."""
        self.remarks.append(what)

    @property
    def called(self) -> str:
        """How a message names it."""
        said = self.title or one_line(self.name) or self.url or "without a name"
        return f"entry “{cut_at_word(said, 60)}”"


def brief_of(entry: Entry, origin: str) -> Iterator[Brief | Remark]:
    """The brief that an entry tells, and what was wrong with it. Raises BriefError where it tells none."""
    headline = cut_at_word(entry.title, HEADLINE_CHARACTERS)
    if headline != entry.title:
        entry.remark(f"its title is cut, it has {len(entry.title):,} characters")
    if entry.url and not is_web(entry.url) and ":" in entry.url.partition("/")[0]:
        entry.remark(f"its link is no address of the web and is not used: {entry.url[:80]}")
        entry.url = None
    brief, said = _structured(entry, headline, origin) if headline else (None, [])
    if brief is None:
        said = list(_plain(entry, headline, origin))
    yield from said
    for what in entry.remarks:
        yield Remark(entry.line, f"{entry.called}: {what}")


# ---------------------------------------------------------------------------------------------- structured


def _structured(entry: Entry, headline: str, origin: str) -> tuple[Brief | None, list[Brief | Remark]]:
    """The brief of an entry that tells facts and narratives, None where it does not."""
    for told in (entry.content, entry.summary):
        if told is None or not may_tell(told.text):
            continue
        page = told.page(LONGEST)
        outline = outline_of(page.pieces, headline, entry.line)
        if outline is None:
            continue
        try:
            said = list(assemble(outline.blocks, _front(entry, headline, page, outline), origin))
        except BriefError as error:
            if outline.facts:  # else headings of a brief with nothing under them
                entry.remark(f"has the headings of a brief, and is read as a plain text: {error.what}")
            continue
        said += outline.remarks
        if page.cut:
            entry.remark(page.cut)
        return next((found for found in said if isinstance(found, Brief)), None), said
    return None, []


def _front(entry: Entry, headline: str, page: Page, outline: Outline) -> Front:
    """What stands apart from the facts and narratives of an entry."""
    front = Front()
    image = _image(entry, page) or {}
    values = {
        "headline": headline,
        "url": entry.url,
        "published": entry.published,
        "updated": entry.updated,
        "topics": tuple(_topics(entry.topics)),
        "language": entry.language,
        **{f"image_{key}": value for key, value in image.items()},
    }
    front.values.update({key: (value, entry.line) for key, value in values.items() if value})
    lede: list[Piece] = []
    for piece in outline.lede:
        found = front_of(piece.words) if len(piece.text) <= _FRONT else None
        if found and found[1] and found[0] != "url":
            if found[0] not in front.values:
                take_front(front, found, entry.line, outline.remarks)
        else:
            lede.append(piece)
    _credited(front, page, entry.line)
    paragraphs = [text for text in enough(paragraphs_of(lede), 2 * _LEDE) if not _same(text, headline)]
    summary = shortened(paragraphs, _LEDE)
    if paragraphs and summary != "\n\n".join(paragraphs):
        entry.remark(f"what stands before the facts is cut at {_LEDE:,} characters")
    if summary or (summary := _said_apart(entry, page)):
        front.values["summary"] = (summary, entry.line)
    return front


def _same(text: str, headline: str) -> bool:
    return len(text) <= 2 * len(headline) + 20 and same_title(text, headline)


def _credited(front: Front, page: Page, line: int) -> None:
    """Take the credit of a picture from the caption under the first one."""
    caption = next((piece.words for piece in page.pieces if piece.caption), "")[:LINE_CHARACTERS]
    found = front_of(caption) if caption else None
    if found and found[0] == "image_credit" and found[1] and "image_url" in front.values:
        front.values.setdefault("image_credit", (found[1], line))


def _said_apart(entry: Entry, page: Page) -> str:
    """The summary of an entry whose page has no lede, where it is not the beginning of the page itself."""
    if entry.summary is None or entry.content is None:
        return ""
    summary = shortened(paragraphs_of(entry.summary.page(_IN_SHORT).pieces))
    whole = " ".join(one_line(piece.words) for piece in page.pieces)
    return "" if not summary or one_line(summary)[:60].rstrip("…. ") in whole else summary


# ---------------------------------------------------------------------------------------------- plain


def _plain(entry: Entry, headline: str, origin: str) -> Iterator[Brief | Remark]:
    """The brief of an entry that has a title, a text and a link like any other."""
    paragraphs: list[str] = []
    page: Page | None = None
    for told in (entry.summary, entry.content):
        if told is not None and not paragraphs:
            page = told.page(_IN_SHORT)
            paragraphs = list(enough(paragraphs_of(page.pieces)))
            if page.cut and "deep" in page.cut:
                entry.remark(page.cut)
    if not headline and not (headline := headline_of(paragraphs)):
        raise BriefError(origin, entry.line, f"{entry.called}: expected a title or a text, found neither")
    if len(paragraphs) > 1 and _same(paragraphs[0], headline):
        del paragraphs[0]
    summary = shortened(paragraphs)
    if entry.url and _same(summary, headline):
        summary = ""
    if not summary and not entry.url:
        raise BriefError(origin, entry.line, f"{entry.called}: expected a text or a link, found neither")
    data = {
        "headline": headline,
        "slug": slugify(headline),
        "url": entry.url,
        "published": entry.published,
        "updated": entry.updated,
        "image": _image(entry, None),
        "summary": summary,
        "topics": list(_topics(entry.topics)),
        "language": entry.language,
    }
    yield from validated(data, Front({"headline": (headline, entry.line)}), origin, {})


def _topics(given: Sequence[str]) -> Iterator[str]:
    """A handful of topics, each once."""
    seen: set[str] = set()
    for topic in map(one_line, given):
        if topic and topic.casefold() not in seen | _NO_TOPIC and len(topic) <= _TOPIC and len(seen) < _TOPICS:
            seen.add(topic.casefold())
            yield topic


def _image(entry: Entry, page: Page | None) -> dict[str, str | None] | None:
    """The entry's picture; the first of its page where the feed names none. A description is looked for in the page."""
    image = dict(entry.image) if entry.image and entry.image.get("url") else None
    if image and image.get("alt"):
        return image
    pictures = _pictures(entry, page)
    if image is None:
        return {"url": pictures[0].url, "alt": pictures[0].alt or None} if pictures else None
    same = [picture for picture in pictures if picture.alt and _file(picture.url) == _file(str(image["url"]))]
    return {**image, "alt": same[0].alt} if same else image


def _pictures(entry: Entry, page: Page | None) -> list[Picture]:
    if page is not None and page.pictures:
        return list(page.pictures)
    for told in (entry.content, entry.summary):
        if told and told.html and (pictures := list(first_pictures(told.text[:LONGEST], told.base))):
            return pictures
    return []


def _file(url: str) -> str:
    """What addresses of one picture in several sizes have in common."""
    try:
        name = urlsplit(url).path.rpartition("/")[2]
    except ValueError:
        return url
    return re.sub(r"-\d{2,5}x\d{2,5}(?=\.\w+\Z)", "", name)


# ---------------------------------------------------------------------------------------------- names


def settled(found: Sequence[tuple[Entry, Brief]]) -> list[Named]:
    """The briefs under names of which no two are the same, and that do not depend on the order of the entries.

    One entry given several times is there once, as it was last. Several stories under one name are told apart by their
    slugs.
    """
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for index, (entry, brief) in enumerate(found):
        groups[_name(entry, brief)].append(index)
    named: dict[int, str] = {}
    for name, indices in groups.items():
        stories = _stories([found[index] for index in indices])
        for story in stories:
            newest = min(story, key=lambda at: _age(found[indices[at]][1]))
            brief = found[indices[newest]][1]
            named[indices[newest]] = name if len(stories) == 1 else _shortened(f"{name}#{brief.slug}")
    taken: set[str] = set()
    settled_names: list[Named] = []
    for index in sorted(named):
        brief = found[index][1]
        name = named[index]
        while name in taken:  # two headlines with one slug, or a name that looks like another's with its slug
            name = f"{name[: _NAME - 20]}#{_digest(name, brief.headline, brief.url or '')}"
        taken.add(name)
        settled_names.append(Named(name, brief))
    return settled_names


def _name(entry: Entry, brief: Brief) -> str:
    """What the feed calls an entry: its own name, else its link, else its headline and day.

    A link to the site's front page, which some feeds give for every entry, is no name.
    """
    own = one_line(entry.name) or (one_line(entry.url) if entry.url and page_of(entry.url) else "")
    if not own:
        own = brief.slug + (f"@{brief.published:%Y-%m-%d}" if brief.published else "")
    return _shortened(own)


def _shortened(name: str) -> str:
    return name if len(name) <= _NAME else f"{name[: _NAME - 20]}#{_digest(name)}"


def _digest(*said: str) -> str:
    return hashlib.sha256("\n".join(said).encode(errors="replace")).hexdigest()[:12]


def _stories(found: Sequence[tuple[Entry, Brief]]) -> list[list[int]]:
    """Which entries under one name are one story: by their headline or by their address, directly or by way of another.

    Where the address is their name, it says nothing: a page that is written on all day is linked by every entry.
    """
    if len(found) == 1:
        return [[0]]
    story: dict[tuple[str, str], int] = {}
    leader = list(range(len(found)))

    def find(index: int) -> int:
        while leader[index] != index:
            leader[index] = leader[leader[index]]
            index = leader[index]
        return index

    for index, (entry, brief) in enumerate(found):
        page = page_of(brief.url) if brief.url and entry.name else None
        for key in [("headline", brief.headline), *([("page", page)] if page else [])]:
            leader[find(index)] = find(story.setdefault(key, index))
    stories: defaultdict[int, list[int]] = defaultdict(list)
    for index in range(len(found)):
        stories[find(index)].append(index)
    return list(stories.values())


def _age(brief: Brief) -> tuple[bool, float, str]:
    """Sorts the newest first, whatever the order in the feed; those without a date last."""
    when = brief.when
    return (when is None, -when.timestamp() if when else 0.0, brief.content_hash)
