"""The feed reader: RSS (0.9x, 1.0, 2.0) and Atom (0.3, 1.0) into Briefs, one an entry. JSON Feed is `jsonfeed`'s.

Elements are read by what they mean, whatever prefix they carry and whichever of the formats they come from, since
feeds mix them. Each entry is parsed by itself (`xmltext`): what is broken in one costs that one at the most, and is
told.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import unescape
from typing import Any

from lxml import etree

from newsletter.brief import Brief, one_line
from newsletter.errors import BriefError
from newsletter.formats import Named, Remark
from newsletter.formats.dates import read_stamp
from newsletter.formats.entry import Entry, Told, brief_of, settled
from newsletter.formats.html import absolute, is_html, is_web, text_of, unescaped_once
from newsletter.formats.xmltext import Cut, Mended, Prolog, Span, cut, parse

MOST_ENTRIES = 10_000  # a whole archive; more is not read, since readers would wait for it
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z0-9]{2,8})*")

_NAMESPACES = {  # without scheme, "www." and what stands at the end -> our prefix
    "w3.org/2005/atom": "", "purl.org/atom/ns": "", "purl.org/rss/1.0": "", "my.netscape.com/rdf/simple/0.9": "",
    "channel.netscape.com/rdf/simple/0.9": "", "backend.userland.com/rss2": "", "blogs.law.harvard.edu/tech/rss": "",
    "purl.org/rss/1.0/modules/rss091": "", "cyber.law.harvard.edu/rss/rss.html": "",
    "purl.org/rss/1.0/modules/content": "content", "purl.org/dc/elements/1.1": "dc", "purl.org/dc/elements/1.0": "dc",
    "purl.org/dc/terms": "dcterms", "search.yahoo.com/mrss": "media", "itunes.com/dtds/podcast-1.0.dtd": "itunes",
    "rssnamespace.org/feedburner/ext/1.0": "feedburner", "w3.org/1999/02/22-rdf-syntax-ns": "rdf",
    "w3.org/1999/xhtml": "xhtml", "w3.org/xml/1998/namespace": "xml", "search.yahoo.com/rss": "media",
}  # fmt: skip
_USUAL = {  # prefixes that stand for these where a feed forgets to declare them
    "content": "http://purl.org/rss/1.0/modules/content/", "dc": "http://purl.org/dc/elements/1.1/",
    "dcterms": "http://purl.org/dc/terms/", "media": "http://search.yahoo.com/mrss/",
    "itunes": "http://www.itunes.com/dtds/podcast-1.0.dtd", "atom": "http://www.w3.org/2005/Atom",
    "feedburner": "http://rssnamespace.org/feedburner/ext/1.0", "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "xhtml": "http://www.w3.org/1999/xhtml",
}  # fmt: skip
_MOST_PREFIXES = 40
_XML_LANG, _XML_BASE = (f"{{http://www.w3.org/XML/1998/namespace}}{name}" for name in ("lang", "base"))
_RDF_ABOUT = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}about"


def read(text: str, origin: str, start: Prolog, base: str | None) -> Iterator[Named | BriefError | Remark]:
    """Read the entries of an XML feed that begins at `start`. `base` is the address that it was fetched from."""
    feed = _Feed(origin, cut(text, start, MOST_ENTRIES), start)
    yield from feed.entries(text, base)


@dataclass(slots=True)
class _Feed:
    """A feed while its entries are read: what it says of all of them, and what had to be mended."""

    origin: str
    parts: Cut
    start: Prolog
    base: str | None = None
    based: bool = False  # by an xml:base
    link: str | None = None
    language: str | None = None
    prefixes: str = ""
    mended: Mended = field(default_factory=Mended)
    keys: dict[str, str] = field(default_factory=dict)

    def entries(self, text: str, base: str | None) -> Iterator[Named | BriefError | Remark]:
        """The entries as briefs under their names, and what could not be read."""
        yield from self._frame(base)
        found: list[tuple[Entry, Brief]] = []
        bare: int | None = None
        for span in self.parts.entries:
            before = self.mended.bare
            try:
                entry = self._entry(text, span)
                for said in brief_of(entry, self.origin):
                    if isinstance(said, Brief):
                        found.append((entry, said))
                    else:
                        yield said
            except BriefError as error:
                yield error
            bare = span.line if bare is None and self.mended.bare > before else bare
        if self.mended.bare:
            yield Remark(
                bare, f"broken XML: “&” or “<” that is not escaped, {self.mended.bare:,} in all; taken as text"
            )
        yield from self._said_of_the_whole()
        yield from settled(found)

    def _said_of_the_whole(self) -> Iterator[BriefError | Remark]:
        last = self.parts.entries[-1] if self.parts.entries else None
        if self.mended.unknown and self.start.declares:
            names = ", ".join(list(self.mended.unknown)[:3])
            yield Remark(self.start.declares, f"entities that the feed declares itself are not unfolded: {names}")
        if not self.parts.ended and (last is None or last.whole):
            what = "the feed is cut off: its last tag is missing"
            if last is None:
                yield BriefError(self.origin, None, f"expected a feed, found the beginning of one: {what}")
            else:
                yield Remark(None, f"{what}, entries may be, too")
        elif last is None:
            yield Remark(None, "the feed holds no entries yet")
        if self.parts.more:
            what = f"expected at most {MOST_ENTRIES:,} entries, found {MOST_ENTRIES + self.parts.more:,}"
            yield BriefError(self.origin, None, f"{what}; the first are read")

    # ---------------------------------------------------------------------------------------- the feed

    def _frame(self, base: str | None) -> Iterator[Remark]:
        """Read what stands around the entries."""
        root, _ = parse(self.mended.mend(self.parts.frame), "")
        self.base = base
        if root is None:
            self.prefixes = _declared(_USUAL)
            return
        self.prefixes = _declared(_known(root))
        holders = [root, *(child for child in root if self.key_of(child) == "channel")]
        if self.start.root == "entry":
            return
        link = None
        for holder in holders:
            self.based = self.based or _XML_BASE in holder.attrib
            self.base = _base(holder, self.base)
            self.language = holder.get(_XML_LANG) or self.language
            for child in holder:
                key = self.key_of(child)
                if key in {"language", "dc:language"}:
                    self.language = self.language or one_line(child.text or "")
                elif key == "link" and link is None:
                    link = _link_of(child)
        if link and is_web(link := absolute(link, base)):
            self.link = link
        if not self.based:  # then links start at the site that the feed speaks for
            self.base = self.link or base
        given, self.language = self.language, tag_of(self.language)
        if given and not self.language:
            yield Remark(None, f"expected a language as en or pt-BR, found “{one_line(given)[:40]}”")

    def key_of(self, element: Any) -> str:
        """What an element means: its name, with our prefix before it where it is of an extension."""
        tag = element.tag
        if not isinstance(tag, str):
            return "?"
        key = self.keys.get(tag)
        if key is None:
            space, _, local = tag.rpartition("}")
            prefix = _NAMESPACES.get(_plain(space[1:]), "?") if space else ""
            key = f"{prefix}:{local}" if prefix else local
            if len(self.keys) < 1_000:  # noqa: PLR2004 # a feed uses thirty; a hostile one is not remembered
                self.keys[tag] = key
        return key

    # ---------------------------------------------------------------------------------------- an entry

    def _entry(self, text: str, span: Span) -> Entry:
        if not span.whole:
            what = "expected the entry to end, found the end of the file: the feed is cut off here"
            raise BriefError(self.origin, span.line, what)
        unended = self.mended.unended
        element, fault = parse(self.mended.mend(text[span.start : span.end]), self.prefixes)
        if self.mended.unended > unended and not fault:
            fault = (0, "a CDATA section without its end")
        if element is None:
            raise BriefError(self.origin, span.line, f"expected an entry in XML: {fault[1] if fault else 'found none'}")
        base = _base(element, self.base)
        parts = _Parts(self, Entry(span.line), base, self.based or _XML_BASE in element.attrib, broken=bool(fault))
        entry = parts.entry
        said = element.get(_XML_LANG) or ""
        entry.language = tag_of(said) or self.language
        if said.strip() and not tag_of(said):
            entry.remark(f"expected a language as en or pt-BR, found “{one_line(said)[:40]}”")
        about = element.get(_RDF_ABOUT)
        # What is not closed swallows what follows: then the parts are looked for at any depth.
        for child in element.iter() if fault else element:
            if child is not element:
                parts.take(child)
        if about:
            entry.name = entry.name or about
            parts.links.setdefault("about", about)
        parts.settle()
        if fault:
            entry.remark(f"broken XML in line {span.line + fault[0]}: {fault[1]}; what can be read is used")
        return entry


@dataclass(slots=True)
class _Parts:
    """An entry's parts while they go by; several elements may give one part, the better wins."""

    feed: _Feed
    entry: Entry
    base: str | None
    based: bool
    broken: bool
    links: dict[str, str] = field(default_factory=dict)  # what kind of link -> the first of them
    told: dict[str, Any] = field(default_factory=dict)  # what a text is -> its element
    dates: dict[str, str] = field(default_factory=dict)
    image: dict[str, str | None] = field(default_factory=dict)
    rank: int = 9  # of the image: the lower the better

    def take(self, element: Any) -> None:
        """Take one element of the entry."""
        key = self.feed.key_of(element)
        if key in _TEXTS:
            self.told.setdefault(key, element)
        elif key in _DATES:
            self.dates.setdefault(_DATES[key], element.text or "")
        elif key == "link":
            self._link(element)
        elif key in {"guid", "id"}:
            self.entry.name = self.entry.name or one_line(element.text or "")
            if key == "guid" and (element.get("isPermaLink") or "true").strip().lower() == "true":
                self.links.setdefault("guid", (element.text or "").strip())
        elif key == "feedburner:origLink":
            self.links.setdefault("original", element.text or "")
        elif key in {"category", "dc:subject"}:
            self._topic(element)
        elif key == "dc:language":
            self.entry.language = tag_of(element.text) or self.entry.language
        elif key.startswith(("media:", "itunes:")) or key in {"enclosure", "image"}:
            self._medium(key, element)

    def _link(self, element: Any) -> None:
        href = element.get("href")
        if href is None:
            self.links.setdefault("alternate", element.text or "")
            return
        rel = (element.get("rel") or "alternate").strip().lower()
        kind = (element.get("type") or "text/html").lower()
        if rel == "enclosure":
            self._medium("enclosure", element)
        elif rel == "alternate":
            self.links.setdefault("alternate" if "html" in kind else "other", absolute(href, _base(element, self.base)))

    def _topic(self, element: Any) -> None:
        term = element.get("label") or element.get("term") or element.text or ""
        if "kind#" not in (element.get("scheme") or "") and "://" not in term:
            self.entry.topics.append(plain(term))

    def _medium(self, key: str, element: Any) -> None:
        """Take a picture, its description or its credit."""
        if key in _PICTURES:
            if key not in {"media:content", "enclosure"} or _is_picture(element):
                self._picture(_PICTURES[key], element.get("url") or element.get("href") or "")
        elif key == "media:credit":
            self.image.setdefault("credit", plain(element.text or "") or None)
        elif key == "image":
            self._picture(3, next((child.text or "" for child in element if self.feed.key_of(child) == "url"), ""))
        if key in {"media:group", "media:content"}:
            for child in element:
                self.take(child)

    def _picture(self, rank: int, url: str) -> None:
        if url.strip() and rank < self.rank:
            self.rank, self.image["url"] = rank, absolute(url, self.base)

    def settle(self) -> None:
        """Choose among what was found."""
        entry = self.entry
        titles = (self._title(self.told[key]) for key in ("title", "dc:title", "media:title") if key in self.told)
        entry.title = next(filter(None, titles), "")
        for kind in ("original", "alternate", "guid", "about", "other"):
            url = self.links.get(kind, "").strip()
            if url and (kind not in {"guid", "about"} or is_web(url)):
                entry.url = absolute(url, self.base)
                break
        content = [self._told(found) for key, found in self.told.items() if _TEXTS.get(key) == "content"]
        entry.content = max((one for one in content if one), key=lambda one: len(one.text), default=None)
        summaries = ((key, self._told(self.told[key])) for key in _SUMMARIES if key in self.told)
        chosen, entry.summary = next(((key, told) for key, told in summaries if told), ("", None))
        for part, given in self.dates.items():
            self._date(part, given)
        if entry.published and entry.updated and entry.updated <= entry.published:
            entry.updated = None
        if self.image.get("url"):
            described = None if chosen == "media:description" or self.rank > 1 else self.told.get("media:description")
            alt = plain(described.text or "") if described is not None else ""
            entry.image = {"url": self.image["url"], "alt": alt[:1_000] or None, "credit": self.image.get("credit")}

    def _date(self, part: str, given: str) -> None:
        if not given.strip():
            return
        found = read_stamp(given)
        if found is None:
            self.entry.remark(f"expected a date that can be read one way, found “{one_line(given)[:60]}”")
        elif part in {"published", "date"}:
            self.entry.published = self.entry.published if part == "date" and self.entry.published else found
        else:
            self.entry.updated = found

    def _title(self, element: Any) -> str:
        kind = (element.get("type") or "").lower()
        nested = len(element) and not self.broken
        said = _inner(element) if nested else element.text or ""
        return plain(said) if nested or "html" in kind or (not kind and not self._is_atom(element)) else one_line(said)

    def _told(self, element: Any) -> Told | None:
        """An element's text, and whether it is HTML: as its type says, else as it looks."""
        kind = (element.get("type") or "").lower().strip()
        if (kind and "/" in kind and not kind.startswith("text/") and "xhtml" not in kind) or (
            element.get("mode") == "base64"
        ):
            return None  # a picture, a film: nothing to read
        said = _inner(element, _FIELDS if self.broken else frozenset()) if len(element) else element.text or ""
        if not said.strip():
            return None
        if kind in {"text", "text/plain"} and not len(element):
            return Told(said, html=False)
        said = unescaped_once(said)
        if not (len(element) or "html" in kind or is_html(said)):
            return Told(unescape(said) if "&" in said else said, html=False)
        own = element.get(_XML_BASE)
        base = absolute(own, self.base) if own else self.base if self.based else self.entry.url or self.base
        return Told(said, html=True, base=base)

    def _is_atom(self, element: Any) -> bool:
        space = str(element.tag).partition("}")[0].lower()
        return "atom" in space or (not space.startswith("{") and self.feed.start.root in {"feed", "entry"})


_TEXTS = {
    "title": "title", "media:title": "title", "content:encoded": "content", "content": "content", "summary": "summary",
    "xhtml:body": "content", "xhtml:div": "content", "fulltext": "content", "description": "summary",
    "tagline": "summary", "dc:description": "summary", "itunes:summary": "summary", "itunes:subtitle": "summary",
    "dc:title": "title", "media:description": "summary",
}  # fmt: skip
_PICTURES = {"media:content": 0, "media:thumbnail": 1, "enclosure": 2, "itunes:image": 3}  # the better first
_SUMMARIES = (
    "description", "summary", "tagline", "dc:description", "itunes:summary", "media:description", "itunes:subtitle"
)  # fmt: skip
_DATES = {
    "pubDate": "published", "published": "published", "issued": "published", "dcterms:issued": "published",
    "dcterms:created": "date", "created": "date", "dc:date": "date", "dcterms:date": "date", "date": "date",
    "updated": "updated", "modified": "updated", "dcterms:modified": "updated",
}  # fmt: skip
_FIELDS = frozenset(key.rpartition(":")[2] for key in (*_TEXTS, *_DATES, "link", "guid", "id", "category", "author"))


def plain(text: str) -> str:
    """A title or label as plain text: HTML is read for its words, references become their characters."""
    if "<" in text and is_html(text):
        return one_line(text_of(text))
    return one_line(unescape(text) if "&" in text else text)


def tag_of(language: str | None) -> str | None:
    """A BCP 47 tag as a feed may write it, None where it is none."""
    said = one_line(language or "").replace("_", "-")
    return said if _LANGUAGE.fullmatch(said) else None


def _plain(space: str) -> str:
    return space.strip().lower().removeprefix("https://").removeprefix("http://").removeprefix("www.").rstrip("/#")


def _known(root: Any) -> dict[str | None, str]:
    """The prefixes that stand for what we know, as the feed declares them or forgets to; others mean nothing to us."""
    declared: dict[str | None, str] = {**root.nsmap}
    for child in root[:1]:
        declared |= child.nsmap
    known = {prefix: space for prefix, space in declared.items() if _plain(space) in _NAMESPACES}
    usual = {prefix: space for prefix, space in _USUAL.items() if prefix not in declared}
    return dict(list((usual | known).items())[:_MOST_PREFIXES])


def _declared(prefixes: dict[Any, str]) -> str:
    """The declarations of prefixes, as attributes."""
    spelled = {
        p: space.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;") for p, space in prefixes.items()
    }
    return "".join(f' xmlns:{p}="{space}"' if p else f' xmlns="{space}"' for p, space in spelled.items() if p != "xml")


def _base(element: Any, base: str | None) -> str | None:
    own = element.get(_XML_BASE)
    return absolute(own, base) if own else base


def _link_of(element: Any) -> str | None:
    """The address that a feed's link gives, None for one that leads to the feed itself or to another machine's page."""
    href = element.get("href")
    if href is None:
        return (element.text or "").strip() or None
    return str(href).strip() if (element.get("rel") or "alternate") == "alternate" else None


def _is_picture(element: Any) -> bool:
    kind = (element.get("type") or "").lower()
    medium = (element.get("medium") or "").lower()
    url = (element.get("url") or element.get("href") or "").lower().partition("?")[0]
    if kind or medium:
        return kind.startswith("image/") or (medium == "image" and not kind)
    return url.endswith((".jpg", ".jpeg", ".png", ".gif", ".webp", ".avif"))


def _inner(element: Any, but: frozenset[str] = frozenset()) -> str:
    """What an element holds, as HTML: its elements without their namespaces, `but` for some that are not its own."""
    for child in element.iter():
        if isinstance(child.tag, str) and child.tag.startswith("{"):
            child.tag = child.tag.rpartition("}")[2]
    etree.cleanup_namespaces(element)
    parts = [_escaped(element.text or "")]
    parts += [etree.tostring(child, encoding="unicode", method="html") for child in element if child.tag not in but]
    return "".join(parts)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
