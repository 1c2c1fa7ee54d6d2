"""The text of an XML feed, made safe and cut into its entries before any XML parser sees it.

No entity is ever expanded: the DOCTYPE with whatever it declares is passed over, HTML's named characters become
characters, other names stay text. Each entry is cut out and parsed by itself, so that what is broken costs the entry
it stands in, a feed cut off in the middle is told from a whole one, and a large feed never stands in memory as a tree.
Every search goes forward only: the time is in proportion to the length, whatever the text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import unescape
from html.entities import html5
from typing import Any

from lxml import etree

_NAME = re.compile(r"<(?P<raw>(?:(?P<prefix>[^\W\d][\w.-]{0,60}):)?(?P<local>[^\W\d][\w.-]{0,60}))")
_BLANK = re.compile(r"[\s\ufeff\u200b\x00-\x08\x0b\x0c\x0e-\x1f]*")
_FEEDS = {"rss": "item", "channel": "item", "rdf": "item", "feed": "entry", "entry": "entry"}  # root -> what it lists
_PAGES = frozenset(["html", "head", "body"])


@dataclass(frozen=True, slots=True)
class Prolog:
    """How an XML text begins: where its root element stands, and that element's name, lower case and without a prefix.

    `declares` is the line of a DOCTYPE that declares entities of its own, None where there is none.
    """

    at: int
    raw: str
    root: str
    declares: int | None = None

    @property
    def is_feed(self) -> bool:
        """Whether the root is that of a feed."""
        return self.root in _FEEDS

    @property
    def is_page(self) -> bool:
        """Whether the root is that of a web page."""
        return self.root in _PAGES


def prolog(text: str) -> Prolog | None:
    """How a text begins, if it begins as XML or HTML does: None for other text."""
    at = 0
    declares = None
    while True:
        at = _BLANK.match(text, at).end()  # type: ignore[union-attr] # matches the empty text
        if text.startswith("<?", at):
            end = text.find("?>", at)
        elif text.startswith("<!--", at):
            end = text.find("-->", at)
        elif text[at : at + 9].lower() == "<!doctype":
            if re.match(r"\s+html\b", text[at + 9 : at + 40], re.IGNORECASE):
                return Prolog(at, "html", "html")
            end, own = _doctype_end(text, at + 9)
            declares = text.count("\n", 0, at) + 1 if own else declares
        else:
            name = _NAME.match(text, at)
            return Prolog(at, name["raw"], name["local"].lower(), declares) if name else None
        if end < 0:
            return None
        at = text.index(">", end) + 1


_IN_DOCTYPE = re.compile(r"<!--|<!ENTITY|[\"'\[\]>]", re.IGNORECASE)


def _doctype_end(text: str, at: int) -> tuple[int, bool]:
    """Where a DOCTYPE's last “>” stands (-1: nowhere), and whether it declares entities."""
    inside = own = False
    while match := _IN_DOCTYPE.search(text, at):
        at = match.end()
        found = match[0]
        if found in {'"', "'"}:
            at = text.find(found, at) + 1
        elif found == "<!--":
            at = text.find("-->", at) + 1
        elif found in {"[", "]"}:
            inside = found == "["
        elif found != ">":
            own = True
        elif not inside:
            return match.start(), own
        if at == 0:  # a quote or a comment without an end
            break
    return -1, own


# ---------------------------------------------------------------------------------------------- cutting


@dataclass(frozen=True, slots=True)
class Span:
    """Where an entry stands, from its “<” on. `whole` is False where the text ends before the entry does."""

    start: int
    end: int
    line: int
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Cut:
    """A feed's text in its parts. `frame` is what stands outside the entries; `ended` whether the root has its end."""

    entries: list[Span]
    frame: str
    ended: bool
    more: int = 0  # entries past the most that are read


def cut(text: str, start: Prolog, most: int) -> Cut:
    """Tell the entries of a feed from what stands around them."""
    spans, more = _spans(text, start, most)
    frame: list[str] = []
    at = start.at
    for span in spans:
        frame.append(text[at : span.start])
        at = span.end
    tail = text[at:] if not more else ""
    ended = bool(more) or (bool(spans) and start.root == "entry") or re.search(rf"</{start.raw}\s*>", tail) is not None
    return Cut(spans, "".join([*frame, tail]), ended or bool(re.search(r"/\s*>\s*\Z", tail) and not spans), more)


def _spans(text: str, start: Prolog, most: int) -> tuple[list[Span], int]:
    local = _FEEDS[start.root]
    token = re.compile(
        rf"<(?:(!\[CDATA\[)|(!--)|(/?)((?:[^\W\d][\w.-]*:)?{local}|{re.escape(start.raw)}|channel)(?=[\s/>]))"
    )
    spans: list[Span] = []
    more = 0
    raw = ""
    at, counted, line = start.at, 0, 1
    opened: int | None = None
    ends = _Ends(text)
    while match := token.search(text, at):
        at = match.end()
        if match[1] or match[2]:
            at = max(at, ends.of_cdata(at, raw) if match[1] else ends.next("-->", at))
            continue
        name = match[4]
        if name.rpartition(":")[2] == local and not raw:
            raw = name  # an entry is called as the first one is
        closing = bool(match[3]) and name in {raw, start.raw, "channel"}
        if opened is not None and (closing or name == raw):
            end = match.start() if name != raw or not closing else (ends.next(">", at) or len(text))
            spans.append(Span(opened, end, line))
            opened = None
        if name != raw or match[3]:
            continue
        if len(spans) >= most:
            more += 1
            continue
        line += text.count("\n", counted, match.start())
        opened = counted = match.start()
        tag_end = ends.next(">", at)
        if tag_end and text[tag_end - 2] == "/":
            spans.append(Span(opened, tag_end, line))
            opened, at = None, tag_end
    if opened is not None:
        spans.append(Span(opened, len(text), line, whole=False))
    first = text.count("\n", 0, start.at)
    return [Span(span.start, span.end, span.line + first, span.whole) for span in spans], more


@dataclass(slots=True)
class _Ends:
    """Where sections end, each end looked for once: a text that opens a million comments is still read once."""

    text: str
    found: dict[str, int] = field(default_factory=dict)  # a mark -> where the next one stands, -1: nowhere

    def next(self, mark: str, at: int) -> int:
        """The place after the next mark; 0 where there is none."""
        known = self.found.get(mark, 0)
        if mark not in self.found or 0 <= known < at:
            known = self.found[mark] = self.text.find(mark, at)
        return known + len(mark) if known >= 0 else 0

    def of_cdata(self, at: int, raw: str) -> int:
        """Where a CDATA section ends; 0 where its end is missing, so that it would swallow the entries after it."""
        end = self.next("]]>", at)
        again = self.text.find("<![CDATA[", at, end) if end else -1
        if again >= 0 and raw and self.text.find(f"</{raw}", at, again) >= 0:
            return 0
        return end


# ---------------------------------------------------------------------------------------------- mending


@dataclass(slots=True)
class Mended:
    """What had to be mended: bare “&” and “<” in the XML, CDATA sections without an end, and unknown entities."""

    bare: int = 0
    unended: int = 0
    unknown: dict[str, None] = field(default_factory=dict)

    def mend(self, xml: str) -> str:
        """XML in which every “&” begins a reference that XML itself knows, and no character is one XML forbids."""
        xml = _FORBIDDEN.sub("", xml)
        if "<![CDATA[" not in xml:
            return _SUSPECT.sub(self._mended, xml) if _SUSPECT.search(xml) else xml
        return "".join(
            part if part.startswith("<![CDATA[") else _SUSPECT.sub(self._mended, self._opened(part))
            for part in _cdata_apart(xml)
        )

    def _opened(self, xml: str) -> str:
        """XML without the beginnings of CDATA sections that have no end: what they hold is read as XML."""
        self.unended += (found := xml.count("<![CDATA["))
        return xml.replace("<![CDATA[", "") if found else xml

    def _mended(self, match: re.Match[str]) -> str:
        found = match[0]
        if found == "<":
            self.bare += 1
            return "&lt;"
        if found == "&":
            self.bare += 1
            return "&amp;"
        if found[1] == "#":
            said = _FORBIDDEN.sub("", unescape(found))
        elif found[1:] in html5:
            said = html5[found[1:]]
        else:
            self.unknown[found] = None
            return f"&amp;{found[1:]}"
        return said.replace("&", "&amp;").replace("<", "&lt;")


_FORBIDDEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]+")
_SUSPECT = re.compile(
    r"&(?!(?:amp|lt|gt|quot|apos);)(?:#[0-9]{1,8};|#[xX][0-9a-fA-F]{1,8};|[A-Za-z][A-Za-z0-9]{1,31};)?|<(?![^\W\d]|[/!?])"
)


def _cdata_apart(xml: str) -> Iterator[str]:
    """The pieces of an XML text, its CDATA sections as pieces of their own."""
    at = 0
    while (start := xml.find("<![CDATA[", at)) >= 0 and (end := xml.find("]]>", start)) >= 0:
        yield xml[at:start]
        yield xml[start : end + 3]
        at = end + 3
    yield " " + xml[at:] if xml.startswith("<![CDATA[", at) else xml[at:]  # the last has no end: told by the blank


# ---------------------------------------------------------------------------------------------- parsing

_PARSER = {
    "recover": True,
    "resolve_entities": False,
    "no_network": True,
    "load_dtd": False,
    "dtd_validation": False,
    "remove_comments": True,
    "remove_pis": True,
    "huge_tree": False,
}
_WITHOUT_HARM = frozenset(["NS_ERR_UNDEFINED_NAMESPACE", "WAR_NS_URI", "WAR_NS_URI_RELATIVE", "NS_ERR_XML_NAMESPACE"])
_ENTRY_BYTES = 9_000_000  # libxml2 takes no longer text than 10 MB


def parse(xml: str, names: str) -> tuple[Any, tuple[int, str] | None]:
    """The element that a mended text holds, and the first fault in it: lines below its first one, and what is wrong.

    `names` declares the prefixes that are declared outside it. None where nothing can be read.
    """
    parser = etree.XMLParser(encoding="utf-8", **_PARSER)
    data = f"<_{names}>{xml}</_>".encode(errors="replace")
    try:
        root = etree.fromstring(data[:_ENTRY_BYTES], parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        return None, (0, _said(str(error)))
    fault = next((e for e in parser.error_log if e.type_name not in _WITHOUT_HARM), None)
    element = next((child for child in root if isinstance(child.tag, str)), None) if root is not None else None
    return element, (max(fault.line - 1, 0), _said(fault.message)) if fault is not None else None


def _said(message: str) -> str:
    """A fault in libxml2's words, without its lines, which count from the entry's start."""
    said = re.sub(r",? line \d+(?:, column \d+)?| \(<string>.*", "", message.split("\n", maxsplit=1)[0])
    return re.sub(r" and _$", " and the end of the entry", said)[:120]
