"""The Markdown reader: YAML front matter, then headings, lists and paragraphs (CommonMark).

The front matter may give every part of a brief that is no prose; the body gives facts, narratives, forecast and
split under headings. Emphasis is dropped, links become citations, and HTML in the text is text like any other:
CommonMark's HTML blocks are switched off.
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from newsletter.brief import HEADLINE_CHARACTERS, Brief, one_line
from newsletter.errors import BriefError
from newsletter.formats import Remark, lines_of
from newsletter.formats import text as plain
from newsletter.formats.dates import read_date
from newsletter.formats.links import mark, sources_in, take_links
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
    is_strong,
    looks_like_heading,
    plain_heading,
)
from newsletter.formats.text import front_of, same_title, take_front

_FENCE = re.compile(r"\s*---[ \t]*\n(?P<yaml>.*?)(?:^|\n)(?:---|\.\.\.)[ \t]*(?:\n|$)", re.DOTALL)
_KEYS = {
    "headline": "headline", "title": "headline", "slug": "slug", "url": "url", "link": "url", "permalink": "url",
    "published": "published", "date": "published", "updated": "updated", "last_updated": "updated",
    "lastmod": "updated", "topics": "topics", "tags": "topics", "topic": "topics", "split": "split",
    "language": "language", "lang": "language", "image": "image_url", "image_url": "image_url",
    "image_alt": "image_alt", "alt": "image_alt", "image_credit": "image_credit", "credit": "image_credit",
}  # fmt: skip
_PARAGRAPH_CHARACTERS = 100_000  # a hundred facts in one list; markdown-it takes a second for as many brackets
_FRONT_MATTER_CHARACTERS = 20_000  # a page of settings at the most: more is not front matter


def read(text: str, origin: str) -> Iterator[Brief | BriefError | Remark]:
    """Read the one brief of a Markdown file. Raises BriefError where it holds none, or is marked as a draft."""
    text = "\n".join(lines_of(text, origin))
    front = Front()
    skipped = 0
    if fence := _FENCE.match(text):
        skipped = text.count("\n", 0, fence.end())
        first = text.count("\n", 0, fence.start("yaml")) + 1
        yield from _front_matter(fence["yaml"], first, front, origin)
        text = text[fence.end() :]
    elif re.match(r"\s*\+\+\+[ \t]*\n", text):
        raise BriefError(origin, 1, "expected YAML front matter between lines “---”, found TOML")
    elif opened := re.match(r"\s*---[ \t]*\n[ \t]*[\w-]+[ \t]*:", text):
        line = text.count("\n", 0, opened.end())
        raise BriefError(origin, line, "expected front matter to end with a line “---”, found none")
    elif re.search(r"(?m)^\s*[•●▪]", text) and not re.search(r"(?m)^(?:#{1,6}|[-*+]|\d+[.)])\s", text):
        yield from plain.read(text, origin)  # the text layout under Markdown's name
        return
    text = re.sub(r"(?m)^([ \t]*)[•●▪◦‣○][ \t]*(?=\S)", r"\1- ", text)  # typed bullets are lists, too
    if any(len(part) > _PARAGRAPH_CHARACTERS for part in re.split(r"\n[ \t]*\n", text)):
        raise BriefError(origin, None, f"expected paragraphs and lists of at most {_PARAGRAPH_CHARACTERS:,} characters")
    remarks: list[Remark] = []
    blocks = list(_blocks(_PARSER.parse(text), skipped, remarks))
    blocks = _front_lines(_without_headline(blocks, front), front, remarks)
    yield from remarks
    yield from assemble(list(_with_meaning(blocks)), front, origin)


def _without_headline(blocks: list[Block], front: Front) -> list[Block]:
    """The blocks without the headline, which is taken from them where the front matter gives none."""
    if not blocks or blocks[0].kind not in {Kind.HEADING, Kind.PARAGRAPH}:
        return blocks
    first = blocks[0]
    text = one_line(take_links(first.text, citing=False)[0])
    words = plain_heading(text)
    if is_strong(words) or is_facts(words) or is_group(words) or len(text) > HEADLINE_CHARACTERS:
        return blocks
    if "headline" not in front.values:
        front.values["headline"] = (text, first.line)
    return blocks[1:] if same_title(text, str(front.get("headline"))) else blocks


# ---------------------------------------------------------------------------------------------- front matter


class _Plain(yaml.BaseLoader):
    """YAML in which every scalar is a string and an alias is refused: no types to guess, no bombs to unfold."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            event: Any = self.peek_event()  # type: ignore[no-untyped-call] # PyYAML's stubs leave it out
            raise yaml.composer.ComposerError(None, None, "an alias is not taken here", event.start_mark)
        return super().compose_node(parent, index)


def _front_matter(source: str, first: int, front: Front, origin: str) -> Iterator[Remark]:
    if len(source) > _FRONT_MATTER_CHARACTERS:
        raise BriefError(origin, first, f"expected front matter of at most {_FRONT_MATTER_CHARACTERS:,} characters")
    try:
        node = yaml.compose(source, Loader=_Plain)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "it cannot be read"
        if problem == "mapping values are not allowed here":
            problem = "a value that holds “: ” stands in quotes"
        raise BriefError(origin, first + (mark.line if mark else 0), f"expected YAML front matter: {problem}") from None
    if node is None or (isinstance(node, yaml.ScalarNode) and not node.value):
        return
    if not isinstance(node, yaml.MappingNode):
        raise BriefError(origin, first, "expected front matter as “key: value” lines")
    for key_node, value_node in node.value:
        line = first + key_node.start_mark.line
        name = key_node.value if isinstance(key_node, yaml.ScalarNode) else "?"
        yield from _front_value(name, value_node, line, front, origin)


def _front_value(name: str, node: yaml.Node, line: int, front: Front, origin: str) -> Iterator[Remark]:
    key = name.strip().lower().replace("-", "_").replace(" ", "_")
    if key == "draft":
        if str(node.value).lower() in {"true", "yes", "on", "y", "1"}:
            raise BriefError(origin, line, f"marked as a draft (draft: {node.value})")
    elif key == "image" and isinstance(node, yaml.MappingNode):
        for part_node, value in node.value:
            part = str(part_node.value).lower()
            if part in {"url", "src", "alt", "credit"}:
                yield from _take(front, f"image_{part.replace('src', 'url')}", value, line, origin)
            else:
                yield Remark(line, f"“image.{part}” is not used")
    elif key in _KEYS:
        yield from _take(front, _KEYS[key], node, line, origin)
    else:
        near = difflib.get_close_matches(key, _KEYS, 1)
        yield Remark(line, f"“{name}” is not used" + (f"; did you mean “{near[0]}”?" if near else ""))


def _take(front: Front, key: str, node: yaml.Node, line: int, origin: str) -> Iterator[Remark]:
    if key in front.values:
        yield Remark(line, f"a second {key} is not used")
        return
    if key == "topics" and not isinstance(node, yaml.MappingNode):
        parts = node.value.split(",") if isinstance(node, yaml.ScalarNode) else [part.value for part in node.value]
        front.values[key] = (tuple(t for part in parts if isinstance(part, str) and (t := part.strip())), line)
        return
    if not isinstance(node, yaml.ScalarNode):
        raise BriefError(origin, line, f"{key}: expected one line of text")
    value = str(node.value).strip()
    if not value or (value in {"null", "~"} and not node.style):
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

_LOOKS = 7  # the level of a heading that only looks like one: under all others

_PARSER = MarkdownIt("commonmark", {"maxNesting": 20}).disable(["html_block", "html_inline"])


_IN_LIST = {True: Kind.BULLET, False: Kind.MORE}  # the first paragraph of an item or not


def _blocks(tokens: Sequence[Token], skipped: int, remarks: list[Remark]) -> Iterator[Block]:
    """CommonMark's tokens as blocks, their links still in the text."""
    kind, level = Kind.PARAGRAPH, 0
    depth = 0  # of lists
    fresh = False  # the next paragraph is the first of its list item
    for token in tokens:
        line = (token.map[0] if token.map else 0) + 1 + skipped
        if token.type.endswith(("_list_open", "_list_close")):
            depth += token.nesting
        elif token.type == "list_item_open":
            fresh = True
        elif token.type == "heading_open":
            kind, level = Kind.HEADING, int(token.tag[1])
        elif token.type in {"paragraph_open", "code_block", "fence"}:
            kind, level = (_IN_LIST[fresh] if depth else Kind.PARAGRAPH), depth
            fresh = False
        if token.type in {"code_block", "fence"} and token.content.strip():
            yield Block(kind, token.content.strip(), line, level=level)
        elif token.type == "inline":
            yield from _inline(token.children or (), Block(kind, "", line, level=level), remarks)


def _inline(children: Sequence[Token], block: Block, remarks: list[Remark]) -> Iterator[Block]:
    text, pictures = _written(children)
    for alt, address in pictures:
        if block.kind is Kind.PARAGRAPH and not text:
            yield Block(Kind.PICTURE, alt, block.line, ((None, address),))
        else:
            remarks.append(Remark(block.line, f"a picture inside the text is not used: “{alt or address}”"))
    if text:
        yield replace(block, text=text)


def _written(children: Sequence[Token]) -> tuple[str, list[tuple[str, str]]]:
    """The text of inline tokens, links marked in it (`links.mark`), and its pictures as (description, address)."""
    text: list[str] = []
    pictures: list[tuple[str, str]] = []
    href: str | None = None
    name: list[str] = []
    for child in children:
        if child.type == "link_open":
            href, name = str(child.attrs.get("href", "")), []
        elif child.type == "link_close" and href is not None:
            text.append(mark(one_line("".join(name)), href))
            href = None
        elif child.type == "image":
            pictures.append((one_line(child.content), str(child.attrs.get("src", ""))))
        else:
            said = {"softbreak": "\n", "hardbreak": "\n"}.get(child.type, child.content)
            (name if href is not None else text).append(said)
    return "".join(text).strip(), pictures


def _front_lines(blocks: list[Block], front: Front, remarks: list[Remark]) -> list[Block]:
    """The blocks without lines such as "Last updated …" and a picture at the top, which go to the front."""
    kept: list[Block] = []
    opened = False
    for block in blocks:
        opened = opened or block.kind not in {Kind.PARAGRAPH, Kind.PICTURE}
        lines = [] if opened else block.text.split("\n")
        found = [front_of(line) for line in lines]
        if block.kind is Kind.PICTURE:
            if opened or "image_url" in front.values:
                remarks.append(Remark(block.line, f"a second picture is not used: “{block.links[0][1]}”"))
            else:
                front.values["image_url"] = (block.links[0][1], block.line)
                front.values.setdefault("image_alt", (block.text, block.line))
        elif found and all(found):
            for number, one in enumerate(found, start=block.line):
                if one:
                    take_front(front, one, number, remarks)
        else:
            kept.append(block)
    return kept


def _with_meaning(blocks: list[Block]) -> Iterator[Block]:
    """Paragraphs that are headings by their look as headings, links as citations where they cite a fact."""
    heading = ""
    for block in blocks:
        plain = one_line(take_links(block.text, citing=False)[0])
        alone = block.kind is Kind.PARAGRAPH and "\n" not in block.text
        if block.kind is Kind.HEADING or (alone and looks_like_heading(plain)):
            words = plain_heading(plain)
            heading = words if block.level <= 1 or looks_like_heading(words) else heading
            yield Block(Kind.HEADING, words or plain, block.line, level=block.level or _LOOKS)
            continue
        text = re.sub(r"\s+", " ", block.text)
        if block.kind is Kind.BULLET:
            text = re.sub(r"^\[[ xX]\]\s+", "", text)  # a task's box
        told = is_narrative(heading) or is_forecast(heading)  # no facts: a link may be all that a paragraph says
        fact = block.kind is Kind.BULLET and block.level == 1
        links = None if is_sign_up(plain) else sources_in(text, strict=told or fact)
        if links:
            yield Block(Kind.SOURCES, "", block.line, links)
        else:
            said, links = take_links(text, citing=not is_narrative(heading) or is_forecast(heading))
            yield Block(block.kind, said, block.line, links)
