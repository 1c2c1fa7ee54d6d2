"""The Markdown reader: YAML front matter, then headings, lists and paragraphs (CommonMark).

The front matter may give every part of a brief that is no prose; the body gives facts, narratives, forecast and
split under headings. Emphasis is dropped, links become citations, and HTML in the text is text like any other:
CommonMark's HTML blocks are switched off.
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from newsletter.brief import Brief, one_line
from newsletter.errors import BriefError
from newsletter.formats import Remark
from newsletter.formats.dates import read_date
from newsletter.formats.links import take_links
from newsletter.formats.outline import Block, Front, Kind, Link, assemble, is_narrative

_FENCE = re.compile(r"\s*---[ \t]*\n(?P<yaml>.*?)(?:^|\n)(?:---|\.\.\.)[ \t]*(?:\n|$)", re.DOTALL)
_KEYS = {
    "headline": "headline", "title": "headline", "slug": "slug", "url": "url", "link": "url", "permalink": "url",
    "published": "published", "date": "published", "updated": "updated", "last_updated": "updated",
    "lastmod": "updated", "topics": "topics", "tags": "topics", "topic": "topics", "split": "split",
    "language": "language", "lang": "language", "image": "image_url", "image_url": "image_url",
    "image_alt": "image_alt", "alt": "image_alt", "image_credit": "image_credit", "credit": "image_credit",
}  # fmt: skip
_FRONT_MATTER_CHARACTERS = 20_000  # a page of settings at the most: more is not front matter


def read(text: str, origin: str) -> Iterator[Brief | BriefError | Remark]:
    """Read the one brief of a Markdown file. Raises BriefError where it holds none, or is marked as a draft."""
    front = Front()
    skipped = 0
    if fence := _FENCE.match(text):
        skipped = text.count("\n", 0, fence.end())
        first = text.count("\n", 0, fence.start("yaml")) + 1
        yield from _front_matter(fence["yaml"], first, front, origin)
        text = text[fence.end() :]
    blocks = list(_blocks(MarkdownIt("commonmark").disable(["html_block", "html_inline"]).parse(text), skipped))
    if blocks and blocks[0].kind is Kind.HEADING and not is_narrative(blocks[0].text):
        title = blocks[0]
        if "headline" not in front.values:
            front.values["headline"] = (title.text, title.line)
        if front.get("headline") == title.text:
            blocks = blocks[1:]
    blocks = list(_front_lines(blocks, front))
    yield from assemble(blocks, front, origin)


# ---------------------------------------------------------------------------------------------- front matter


class _Plain(yaml.BaseLoader):
    """YAML in which every scalar is a string and an alias is refused: no types to guess, no bombs to unfold."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, "an alias is not taken here", event.start_mark)
        return super().compose_node(parent, index)


def _front_matter(source: str, first: int, front: Front, origin: str) -> Iterator[Remark]:
    if len(source) > _FRONT_MATTER_CHARACTERS:
        raise BriefError(origin, first, f"expected front matter of at most {_FRONT_MATTER_CHARACTERS:,} characters")
    try:
        node = yaml.compose(source, Loader=_Plain)
        values = yaml.load(source, Loader=_Plain)  # noqa: S506 # _Plain makes strings, lists and dicts only
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise BriefError(origin, first + (mark.line if mark else 0), f"expected YAML front matter: {problem}") from None
    if values is None or values == "":
        return
    if not isinstance(values, dict) or not isinstance(node, yaml.MappingNode):
        raise BriefError(origin, first, "expected front matter as “key: value” lines")
    lines = {key.value: first + key.start_mark.line for key, _ in node.value if isinstance(key.value, str)}
    for name, value in values.items():
        line = lines.get(name, first)
        key = str(name).strip().lower().replace("-", "_").replace(" ", "_")
        if key == "draft":
            if str(value).lower() in {"true", "yes", "1"}:
                raise BriefError(origin, line, "marked as a draft (draft: true)")
        elif key == "image" and isinstance(value, dict):
            for part in ("url", "alt", "credit"):
                if isinstance(value.get(part), str) and value[part]:
                    front.values[f"image_{part}"] = (value[part], line)
        elif key in _KEYS:
            yield from _take(front, _KEYS[key], value, line, origin)
        else:
            near = difflib.get_close_matches(key, _KEYS, 1)
            yield Remark(line, f"“{name}” is not used" + (f"; did you mean “{near[0]}”?" if near else ""))


def _take(front: Front, key: str, value: Any, line: int, origin: str) -> Iterator[Remark]:
    if key == "topics":
        parts = value if isinstance(value, list) else str(value).split(",")
        front.values[key] = (tuple(t for p in parts if isinstance(p, str) and (t := p.strip())), line)
        return
    if not isinstance(value, str):
        raise BriefError(origin, line, f"{key}: expected one line of text")
    value = value.strip()
    if not value or value in {"null", "~"}:
        return
    if key in {"published", "updated"}:
        instant = read_date(value)
        if instant is None:
            yield Remark(line, f"expected a date that can be read one way, found “{value}”")
            return
        front.values[key] = (instant, line)
    else:
        front.values[key] = (value, line)


# ---------------------------------------------------------------------------------------------- body


def _blocks(tokens: Sequence[Token], skipped: int) -> Iterator[Block]:
    """CommonMark's tokens as blocks. A list under a list item holds its sources, or facts of their own."""
    kind = Kind.PARAGRAPH
    depth = 0  # of lists
    fresh = False  # the next paragraph is the first of its list item
    for token in tokens:
        if token.type in {"bullet_list_open", "ordered_list_open"}:
            depth += 1
        elif token.type in {"bullet_list_close", "ordered_list_close"}:
            depth -= 1
        elif token.type == "list_item_open":
            fresh = True
        elif token.type == "heading_open":
            kind = Kind.HEADING
        elif token.type == "paragraph_open":
            kind = Kind.BULLET if depth and fresh else Kind.PARAGRAPH
            fresh = False
        elif token.type == "inline":
            line = (token.map[0] if token.map else 0) + 1 + skipped
            yield from _inline(token, kind, line)
        elif token.type in {"code_block", "fence"}:
            yield Block(Kind.PARAGRAPH, one_line(token.content), (token.map[0] if token.map else 0) + 1 + skipped)


def _inline(token: Token, kind: Kind, line: int) -> Iterator[Block]:
    """One paragraph, item or heading. Links at its end are its citations and leave the text; others leave their name."""
    text, links = _text_and_links(token.children or ())
    if kind is Kind.HEADING:
        yield Block(kind, one_line(text), line)
        return
    if links and not re.sub(r"(?i)^\W*(sources?|via|see)\b", "", _without_names(text, links)).strip(
        " ,;:|·•&/()[]–—-."
    ):
        yield Block(Kind.SOURCES, "", line, links)
        return
    body = text
    while match := _last_name(body, links):
        body = body[: match.start()]
    if body != text and re.search(r"[.!?”\"’»)\d\w]\s*[(\[]?\s*$", body):
        opening = re.search(r"\s*[(\[]?\s*(?:(?:sources?|via)\s*:?)?\s*$", body, re.IGNORECASE)
        body = body[: opening.start()] if opening else body
        text = body if re.search(r"[.!?…][\"”’»)]*$", body) or "(" in text[len(body) :] else text
    bare, more = take_links(text.replace("\x02", "").replace("\x03", ""))
    yield Block(kind, bare, line, (*links, *more))


# A link's name is kept between two controls that no text can hold (`formats.decode` refuses them), until it is known
# whether the link stands inside a sentence or after it.
def _text_and_links(children: Sequence[Token]) -> tuple[str, tuple[Link, ...]]:
    text: list[str] = []
    links: list[Link] = []
    href: str | None = None
    name: list[str] = []
    for child in children:
        if child.type == "link_open":
            href, name = str(child.attrs.get("href", "")), []
        elif child.type == "link_close" and href is not None:
            title = one_line("".join(name))
            links.append((None if title == href else title or None, href))
            text.append(f"\x02{title}\x03")
            href = None
        else:
            said = {"softbreak": " ", "hardbreak": " "}.get(child.type, child.content)
            (name if href is not None else text).append(said)
    return "".join(text), tuple(links)


def _last_name(text: str, links: Sequence[Link]) -> re.Match[str] | None:
    return re.search(r"[\s,;|·&]*\x02[^\x02\x03]*\x03[\s,;|·&)\].]*$", text) if links else None


def _without_names(text: str, links: Sequence[Link]) -> str:
    return re.sub(r"\x02[^\x02\x03]*\x03", "", text) if links else text


def _front_lines(blocks: Sequence[Block], front: Front) -> Iterator[Block]:
    """Drop paragraphs such as "Last updated …" at the top, taking what the front matter does not give."""
    opened = False
    for block in blocks:
        opened = opened or block.kind is not Kind.PARAGRAPH
        match = (
            None if opened else re.fullmatch(r"(?i)(last updated|published|image credit)[\s:]+(.{3,80})", block.text)
        )
        if not match:
            yield block
        elif match[1].lower() == "image credit":
            front.values.setdefault("image_credit", (match[2], block.line))
        elif instant := read_date(match[2]):
            key = "updated" if "updated" in match[1].lower() else "published"
            front.values.setdefault(key, (instant, block.line))
