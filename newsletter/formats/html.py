"""HTML as it stands in feeds, read into pieces: headings, bullets and paragraphs as plain text, links marked in it.

What comes in is hostile until shown otherwise. It is cut to a length and a depth that cannot cost time, nh3 takes out
what is no text (scripts, styles, forms, frames) with its content, and what is left is read for its words alone: no tag
ever goes on from here. Pictures are told apart from the text, and those that only count readers are dropped.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import unescape
from itertools import islice
from typing import Any
from urllib.parse import urljoin, urlsplit

import nh3
from lxml import etree

from newsletter.brief import one_line
from newsletter.formats.links import mark
from newsletter.formats.outline import Kind

LONGEST = 100_000  # characters of HTML that are read of one entry: a brief of a hundred facts has half of it
_MOST_PIECES = 1_000  # headings, bullets and paragraphs of one entry: ten briefs have fewer
_DEEPEST = 200  # elements inside one another; more is no text, and costs time by its square
_MOST_REOPENED = 50_000  # bold, links and the like that stay open over paragraphs, in all

# ---------------------------------------------------------------------------------------------- pieces


@dataclass(frozen=True, slots=True)
class Piece:
    """A block of a page: its text on one line, with links marked in it as `links.mark` does.

    `lead` is the bold text that it begins with; `bold` is True where there is no other. `level` is that of a heading (1
    to 6) or how deep a list is. A caption is a paragraph with `caption`.
    """

    kind: Kind
    text: str
    level: int = 0
    bold: bool = False
    lead: str = ""
    caption: bool = False

    @property
    def words(self) -> str:
        """The text without its marks: of a link its name stays."""
        return bare(self.text)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture in a page: its address, and its description where the page gives one."""

    url: str
    alt: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """What a piece of HTML holds. `cut` says why it was not read to its end, None where it was."""

    pieces: tuple[Piece, ...]
    pictures: tuple[Picture, ...] = ()
    cut: str | None = None


_MARKED = re.compile("\x02([^\x02-\x04]*)\x03[^\x02-\x04]*\x04")


def bare(text: str) -> str:
    """Text whose links are marked as text alone: of a link its name stays."""
    return _MARKED.sub(r"\1", text) if "\x02" in text else text


# ---------------------------------------------------------------------------------------------- cleaning

_GONE = frozenset(
    (
        *("script", "style", "iframe", "object", "embed", "form", "button", "select", "textarea", "noscript", "svg"),
        *("math", "template", "canvas", "video", "audio", "applet", "frameset", "noframes", "title", "nav", "dialog"),
        "datalist",
    )
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_LISTS = frozenset(("ul", "ol", "menu", "dir"))
_BLOCKS = frozenset(
    (
        *("address", "article", "aside", "blockquote", "center", "dd", "details", "div", "dl", "dt", "fieldset"),
        *("figure", "footer", "header", "hgroup", "hr", "main", "p", "pre", "section", "summary", "table", "tbody"),
        *("tfoot", "thead", "tr", "caption"),
    )
)
_BOLD = frozenset(("b", "strong"))
_APART = _LISTS | _BLOCKS | {*_HEADINGS, "li", "figcaption"}
_CLEANER = nh3.Cleaner(
    tags=set(_APART | _BOLD | {"td", "th", "a", "br", "img"}),
    clean_content_tags=set(_GONE),
    attributes={"a": {"href"}, "img": {"src", "data-src", "data-lazy-src", "alt", "width", "height"}},
    url_schemes={"http", "https"},
    link_rel=None,
)
_VOID = frozenset(
    ("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr")
)
_CLOSING_THEMSELVES = frozenset(
    (
        *("p", "li", "dd", "dt", "td", "th", "tr", "tbody", "thead", "tfoot"),
        *("option", "optgroup", "colgroup", "caption", "rt", "rp"),
    )
)
_REOPENED = frozenset(("a", "b", "big", "code", "em", "font", "i", "nobr", "s", "small", "strike", "strong", "tt", "u"))
_BARRIERS = frozenset(
    ("table", "td", "th", "caption", "object", "button", "marquee", "template", "applet", "svg", "math")
)
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]{0,15})")
_AMPERSAND = re.compile(r"&(?!(?:[A-Za-z][A-Za-z0-9]{1,31}|#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6});)")
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufeff]+")
_FEW = 1_000


def clean(html: str, most: int = LONGEST) -> tuple[str, str | None]:
    """HTML that holds nothing but text, its blocks, links and pictures; and why it was cut, if it was."""
    why = f"only its first {most:,} characters are read, of {len(html):,}" if len(html) > most else None
    html = _CONTROLS.sub("", html[:most])
    if html.count("<") > _DEEPEST and (end := _end_of_shallow(html)) is not None:
        html, why = html[:end], "its HTML is nested too deep, so it is read up to there"
    if html.count("&") > _FEW:
        html = _AMPERSAND.sub("&amp;", html)[:most]
    return _CONTROLS.sub("", _CLEANER.clean(html)), why


def _end_of_shallow(html: str) -> int | None:
    """Where elements begin to stand too deep in one another, None where they never do.

    Counted as a browser builds its tree: bold, links and the like that are left open are opened again in every block
    after them.
    """
    opened: list[str] = []
    reopened = cost = 0
    for match in _TAG.finditer(html):
        name = match[2].lower()
        if name in _VOID:
            continue
        if not match[1]:
            cost += reopened
            if name not in _CLOSING_THEMSELVES:
                opened.append(name)
                reopened += name in _REOPENED
            if len(opened) > _DEEPEST or cost > _MOST_REOPENED:
                return match.start()
            continue
        for index in range(len(opened) - 1, -1, -1):
            if opened[index] == name:
                above = [one for one in opened[index + 1 :] if one in _REOPENED]
                del opened[index:]
                opened += above
                reopened -= name in _REOPENED
                break
            if opened[index] in _BARRIERS:
                break
    return None


# ---------------------------------------------------------------------------------------------- reading

_BREAK = "\x05"
_BREAKS = re.compile(f"(?:{_BREAK} ?){{2,}}")
_FOOTNOTE = re.compile(r"\W?\d{1,3}\W?")
_PARSER = {"remove_comments": True, "remove_pis": True, "no_network": True, "encoding": "utf-8"}


def read(html: str, base: str | None, most: int = LONGEST) -> Page:
    """What a piece of HTML holds. Relative addresses are resolved against `base`, where there is one."""
    cleaned, why = clean(html, most)
    flow = _Flow(base)
    root = etree.fromstring(f"<div>{cleaned}</div>".encode(), etree.HTMLParser(**_PARSER))
    if root is not None:
        flow.inside(root)
    flow.flush()
    if len(flow.pieces) > _MOST_PIECES:
        why = f"only its first {_MOST_PIECES:,} paragraphs are read, of {len(flow.pieces):,}"
    return Page(tuple(flow.pieces[:_MOST_PIECES]), tuple(flow.pictures), why)


@dataclass(slots=True)
class _Flow:
    """The page so far, and where in it the reading stands."""

    base: str | None
    pieces: list[Piece] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)  # of the piece that is being read
    bold: int = 0  # how many bold elements are open
    lead: int | None = None  # how many of the parts are bold, once others follow
    href: str | None = None  # of the open link
    opened: int = 0  # the part where it begins
    heading: int = 0
    lists: int = 0
    fresh: bool = False  # the next piece is the first of its list item
    caption: bool = False

    def inside(self, element: Any) -> None:
        """Read an element's content, and what stands after each element in it."""
        self.text(element.text)
        for child in element:
            tag = child.tag
            if tag == "br":
                self.parts.append(_BREAK)
            elif tag == "a":
                self.link(child)
            elif tag in _BOLD:
                self.emphasis(child)
            elif tag == "img":
                self.picture(child)
            elif tag in {"td", "th"}:
                if self.parts:
                    self.parts.append(" · ")
                self.inside(child)
            elif tag in _APART:
                self.flush()
                self.block(child)
                self.flush()
            else:
                self.inside(child)
            self.text(child.tail)

    def emphasis(self, element: Any) -> None:
        """Read bold text."""
        alone = self.is_a_line(element)
        if alone:
            self.flush()
        self.bold += 1
        self.inside(element)
        self.bold -= 1
        if alone:
            self.flush()

    def is_a_line(self, element: Any) -> bool:
        """Whether an element is a line by itself, between <br>s: outside of lists it looks like a heading."""
        if self.heading or self.lists or (element.tail and not element.tail.isspace()):
            return False
        following = element.getnext()
        if following is None or following.tag != "br":
            return False
        line = next((part for part in reversed(self.parts) if not part.isspace() or part == _BREAK), _BREAK)
        return line == _BREAK

    def block(self, element: Any) -> None:
        """Read an element that stands apart from what is around it."""
        tag = element.tag
        before = (self.heading, self.lists, self.caption)
        if tag in _HEADINGS:
            self.heading = _HEADINGS[tag]
        elif tag in _LISTS:
            self.lists += 1
        elif tag == "li":
            self.fresh = True
        elif tag == "figcaption":
            self.caption = True
        self.inside(element)
        self.flush()
        self.heading, self.lists, self.caption = before

    def link(self, element: Any) -> None:
        """Read a link: its name is marked with its address, where that is an address of the web."""
        href = (element.get("href") or "").strip()
        if href.startswith("#") or not href or self.href is not None:
            if _FOOTNOTE.fullmatch(said := "".join(element.itertext()).strip()):
                self.text(f"[{said.strip('[]()')}]")
            else:
                self.inside(element)
            return
        self.href, self.opened = absolute(href, self.base), len(self.parts)
        self.inside(element)
        self.unlink()
        self.href = None

    def unlink(self) -> None:
        """Put what was read since the link began into the link."""
        if self.href is None or len(self.parts) <= self.opened:
            return
        name = " ".join("".join(self.parts[self.opened :]).replace(_BREAK, " ").split())
        if name:
            blank = " " if self.parts[self.opened][:1].isspace() else ""
            after = " " if self.parts[-1][-1:].isspace() else ""
            self.parts[self.opened :] = [f"{blank}{mark(name, self.href)}{after}"]

    def picture(self, element: Any) -> None:
        """Take a picture; of one that stands for a character, its description is text."""
        alt = one_line(element.get("alt") or "")
        url = element.get("src") or ""
        if not url or url.startswith("data:"):
            url = element.get("data-src") or element.get("data-lazy-src") or ""
        if alt and "emoji" in url and not any(map(str.isalnum, alt)):
            self.parts.append(alt)
        elif url and not _counts_readers(url, element.get("width"), element.get("height")):
            self.pictures.append(Picture(absolute(url, self.base), alt))

    def text(self, said: str | None) -> None:
        """Take text."""
        if not said:
            return
        if not self.bold and self.lead is None and not said.isspace() and any(map(str.isalnum, said)):
            self.lead = len(self.parts)
        self.parts.append(said)

    def flush(self) -> None:
        """End the piece that is being read."""
        if not self.parts:
            return
        self.unlink()
        lead = " ".join(bare("".join(self.parts[: self.lead])).replace(_BREAK, " ").split()) if self.lead else ""
        bold = self.lead is None
        said = " ".join("".join(self.parts).split())
        self.parts, self.lead, self.opened = [], None, 0
        for part in _BREAKS.split(said) if _BREAK in said else [said]:
            for line in _BULLET_LINE.split(part) if _BREAK in part else [part]:
                if text := line.replace(_BREAK, " ").strip():
                    self.pieces.append(self._piece(" ".join(text.split()), lead=lead, bold=bold))
                    lead = ""

    def _piece(self, text: str, *, lead: str, bold: bool) -> Piece:
        if self.heading:
            return Piece(Kind.HEADING, text, self.heading)
        if self.lists:
            kind, self.fresh = (Kind.BULLET if self.fresh else Kind.MORE), False
            return Piece(kind, text, self.lists, lead=lead)
        if text[0] in _BULLETS and text[1:2].isspace():
            return Piece(Kind.BULLET, text[1:].strip(), 1, lead=lead)
        return Piece(Kind.PARAGRAPH, text, bold=bold or lead == text, lead=lead, caption=self.caption)


_BULLETS = frozenset("•▪●◦‣")
_BULLET_LINE = re.compile(rf"{_BREAK}\s*(?=[•▪●◦‣]\s)")  # a list made of lines


_COUNTERS = re.compile(
    r"//(?:stats\.wordpress\.com|pixel\.|b\.scorecardresearch\.|feeds\.feedburner\.com/~r|[^/]*doubleclick\.)"
    r"|medium\.com/_/stat|/~r/|/~ff/|[?&]tracking=|/(?:pixel|blank|spacer|beacon)\.(?:gif|png)",
    re.IGNORECASE,
)


def _counts_readers(url: str, width: str | None, height: str | None) -> bool:
    """Whether a picture is there to be asked for, not to be seen."""
    tiny = {"0", "1", "2", "0px", "1px", "2px"}
    return width in tiny or height in tiny or bool(_COUNTERS.search(url[:500]))


def text_of(html: str) -> str:
    """The words of a piece of HTML on one line: what a title is."""
    return " ".join(piece.words for piece in read(html, None, _LONGEST_TITLE).pieces)


_LONGEST_TITLE = 5_000


_IMG = re.compile(r"<img\b", re.IGNORECASE)


def first_pictures(html: str, base: str | None) -> Iterator[Picture]:
    """The first pictures of a page, found without reading it."""
    for match in islice(_IMG.finditer(html), 8):
        at = match.start()
        end = html.find(">", at, at + 4_000)
        while end > 0 and html.count('"', at, end) % 2:
            end = html.find(">", end + 1, at + 4_000)
        if end > 0:
            yield from read(html[at : end + 1], base).pictures


# ---------------------------------------------------------------------------------------------- is it HTML

_KNOWN = (
    r"(?:a|abbr|article|b|blockquote|body|br|center|cite|code|dd|del|div|dl|dt|em|embed|figcaption|figure|font|form|"
    r"h[1-6]|head|hr|html|i|iframe|img|input|ins|li|link|meta|object|ol|p|pre|q|s|script|section|small|span|strong|"
    r"style|sub|sup|svg|table|tbody|td|th|thead|tr|tt|u|ul|video)"
)
_IS_HTML = re.compile(rf"</?{_KNOWN}(?=[\s/>])|<!--", re.IGNORECASE)
_ESCAPED = re.compile(rf"\s*&lt;{_KNOWN}(?:\s|/?&gt;)|&lt;(?:/{_KNOWN}|br ?/?)&gt;", re.IGNORECASE)


def is_html(text: str) -> bool:
    """Whether a text that may be either is HTML: it holds a tag that HTML has."""
    return "<" in text and _IS_HTML.search(text) is not None


def unescaped_once(text: str) -> str:
    """Text that was escaped once more than its format asks for as the HTML it was; other text as it is."""
    if "&lt;" in text and not is_html(text) and _ESCAPED.search(text):
        return unescape(text)
    return text


# ---------------------------------------------------------------------------------------------- addresses

_CLEAN_URL = re.compile(r"(?:[!-%'-~]|&(?!amp;))*")
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]{0,30}:")


def absolute(url: str, base: str | None) -> str:
    """An address, resolved against a base where it is relative and there is one."""
    url = url.strip()
    if not _CLEAN_URL.fullmatch(url):
        url = one_line(url).replace(" ", "%20").replace("&amp;", "&")
    if not base or not url or _SCHEME.match(url):
        return url
    try:
        return urljoin(base, url)
    except ValueError:  # "//[": no address at all
        return url


def is_web(url: str) -> bool:
    """Whether an address can be opened: http or https, and a host."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme.lower() in {"http", "https"} and bool(parts.netloc)


_HEAD = 500_000  # characters; a page names its feeds in its head
_HEAD_TAG = re.compile(r"<(link|base)\b([^<>]{0,3000})>", re.IGNORECASE)
_ATTRIBUTE = re.compile(r"([a-zA-Z-]{1,20})\s{0,9}=\s{0,9}(?:\"([^\"]*)\"|'([^']*)'|([^\s\"'>]+))")
_FEED_TYPES = re.compile(r"application/(?:rss|atom|rdf)\+xml|application/feed\+json|application/json|text/xml")


def feeds_in_text(page: str, base: str) -> list[tuple[str, str]]:
    """The feeds that a web page names in its head: (title, address), each address once."""
    found: dict[str, str] = {}
    parts = page[:_HEAD].split("<!--")
    shown = parts[0] + "".join(part.partition("-->")[2] for part in parts[1:])
    for tag in _HEAD_TAG.finditer(shown):
        given = {m[1].lower(): one_line(unescape(m[2] or m[3] or m[4] or "")) for m in _ATTRIBUTE.finditer(tag[2])}
        href = given.get("href", "")
        if tag[1].lower() == "base" and href:
            base = absolute(href, base)
        elif (
            "alternate" in given.get("rel", "").lower().split()
            and _FEED_TYPES.fullmatch(given.get("type", "").lower().partition(";")[0].strip())
            and is_web(url := absolute(href, base))
        ):
            found.setdefault(url, given.get("title", ""))
    return [(title, url) for url, title in found.items()]
