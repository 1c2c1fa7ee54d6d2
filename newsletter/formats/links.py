"""Links in text: bare addresses, `[name](address)`, and "Name: address".

A link is a citation where it stands on a line of its own or at the end of a text, and leaves the text then. Inside a
sentence a named link leaves its name, and a bare address stays, since the sentence would not read without it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

Link = tuple[str | None, str]
"""A title (None where only the address is known) and an address."""

# Markdown's links, once parsed, are written between three controls that no text can hold (`formats.decode` drops them).
_MARK, _TO, _END = "\x02", "\x03", "\x04"

_TARGET = r"(?:https?://|www\.|/)(?:[^\s()<>\"]|\([^\s()<>\"]{0,200}\))+"
_LINK = re.compile(
    rf"{_MARK}(?P<said>[^\x02-\x04]*){_TO}(?P<there>[^\x02-\x04]*){_END}"
    rf"|\[(?P<name>(?:[^\[\]\n]|\[[^\[\]\n]{{0,80}}\]){{1,200}})\]\s?\(\s*<?(?P<target>{_TARGET})>?(?:\s+\"[^\"]{{0,200}}\")?\s*\)"
    r"|<?(?P<bare>(?:https?://|www\.(?=\w))[^\s<>\"\[\]\x02-\x04、。，；：！？）」』】“”«»]+)>?",
    re.IGNORECASE,
)
_LIKE_A_LINK = re.compile(r"://|www\.|\]\s?\(", re.IGNORECASE)
_SOURCE = (
    r"(?:sources?|via|see(?:\s+also)?|read\s+(?:more|on)(?:\s+(?:at|on|in))?|more(?:\s+(?:at|on|in))?"
    r"|links?|citations?|ref(?:erence)?s?)"
)
_PREFIX = re.compile(rf"^[\s(\[]*(?:{_SOURCE}\s*[:：–—-]|(?:sources?|via)\s)\s*", re.IGNORECASE)
_NAME = re.compile(r"[^\[\]<>()\x02-\x04]{2,60}")
_NAME_WORDS = 8  # a name or the title of a page, not a sentence
_BARE_NAME = re.compile(  # "Name: " or "Name (" before a bare address, and what it follows
    r"(?P<before>[.!?…。！？][\"”’')\]]*\s*|[,;|·(\[]\s*|\band\s+|\b(?:sources?|via)\s*:?\s*)"
    r"(?P<name>[^\s.!?…。,;|·()\[\]<>\x02-\x04][^.!?…。,;|·()\[\]<>\x02-\x04]{1,59}?)\s*[:：,(–—-]?\s*$",
    re.IGNORECASE,
)
_LABEL = re.compile(rf"^{_SOURCE}(?:\s*[:：]\s*|\s+|$)", re.IGNORECASE)
_BETWEEN = re.compile(r"(?:[\s,;|·•&/()\[\].–—-]|\band\b|\bor\b)*", re.IGNORECASE)
_OPENING = re.compile(
    rf"(?:(?:[,;:–—(\[]\s*|(?<=[.!?…。”\"’)\]])\s+)(?P<source>{_SOURCE})|(?P<labelled>\b{_SOURCE}\s*[:：]))?[\s:：(\[–—]*$",
    re.IGNORECASE,
)
_LONGEST_OPENING = 60  # characters: “– read more at: (”, with blanks around
_ENDED = re.compile(r"[.!?…。！？؟।][\"'”’»)\]」』]*$")
_NEEDED = re.compile(  # a bare address after one of these is part of its sentence
    r"\b(?:at|on|to|in|from|under|is|are|was|as|visit|through|of|for|by|and|or|called|named|the|website|site|page|address)$",
    re.IGNORECASE,
)
_MOST = 100  # links looked at from the end of one text: `newsletter.brief.PARTS`


@dataclass(frozen=True, slots=True)
class _Found:
    start: int
    end: int
    name: str  # what stands for it in a sentence; "" for a footnote's number
    title: str | None
    address: str
    bare: bool


def mark(name: str, address: str) -> str:
    """A link as the functions below read it, for a reader whose format has links of its own."""
    return f"{_MARK}{name}{_TO}{address}{_END}" if address else name


@lru_cache(maxsize=4)  # a text is asked whether it is a line of sources, and then for its links
def _links_in(text: str) -> tuple[_Found, ...]:
    found: list[_Found] = []
    if _MARK not in text and not _LIKE_A_LINK.search(text):
        return ()  # most texts have none, and this is quick to see
    for match in _LINK.finditer(text):
        address = match["there"] or match["target"] or match["bare"] or ""
        end = match.end()
        if match["bare"]:
            address = _without_punctuation(address)
            end = max(match.start("bare") + len(address), end if text[end - 1] == ">" else 0)
        if address.lower().startswith("www."):
            address = f"https://{address}"
        name = (match["said"] or match["name"] or "").strip()
        bare = match["bare"] is not None or name == address
        name = "" if re.fullmatch(r"\W?\d{1,3}", name) else name  # a footnote's number
        title = None if not name or bare or re.fullmatch(r"(?i)links?|source|here", name) else name
        found.append(_Found(match.start(), end, name, title, address, bare))
    return tuple(found)


def _without_punctuation(address: str) -> str:
    """A bare address without the sentence's punctuation after it; brackets stay where they are paired."""
    surplus = address.count(")") - address.count("(")
    end = len(address)
    while end and (address[end - 1] in ".,;:!?'’*_" or (address[end - 1] == ")" and surplus > 0)):
        surplus -= address[end - 1] == ")"
        end -= 1
    return address[:end]


def sources_in(line: str, *, strict: bool = False) -> tuple[Link, ...] | None:
    """The links of a line that holds links and hardly more; None where it is text.

    "Northern Wire: https://…" and "Sources: [A](…), [B](…)" are such lines; a sentence that holds a link is not.
    `strict`, where the line may as well be a sentence: a name has capitals ("Northern Wire", not "The talks failed").
    """
    prefix = _PREFIX.match(line)
    at = prefix.end() if prefix else 0
    links: list[Link] = []
    for found in _links_in(line)[:_MOST]:
        said = line[at : found.start].rstrip()
        before = said.strip(" ,;|·•&/()–—-:：")
        before = re.sub(r"^\[?\^?\d{1,2}\]?:?\s*", "", before) if re.match(r"\[?\^?\d{1,2}\]", before) else before
        before = re.sub(r"(?i)^(?:via|source)\s+", "", before).strip(" :")
        title = found.title
        if before and before.lower() not in {"and", "or", "source", "sources", "via"}:
            if not found.bare or not _is_name(before, strict=strict and not prefix):
                return None
            if strict and not prefix and said[-1] not in ":：(|–—-":
                return None
            title = before
        elif strict and not prefix and title and (_ENDED.search(title) or len(title.split()) > _NAME_WORDS):
            return None
        links.append((title, found.address))
        at = found.end
    return tuple(links) if links and not line[at:].strip(" .,;|·>()]*_") else None


def is_source_name(line: str) -> bool:
    """True for a line that can be nothing but the name of the address under it: "Source: Northern Wire", "Sources:"."""
    return bool(re.fullmatch(r"(?i)(?:sources?|via)\s*[:：].{0,60}", line)) or (
        not _ENDED.search(line) and _is_name(line, strict=True) and len(line.split()) <= 4  # noqa: PLR2004 # a newspaper's name
    )


def _is_name(text: str, *, strict: bool) -> bool:
    if (
        not _NAME.fullmatch(text)
        or not any(map(str.isalpha, text))
        or len(text.split()) > _NAME_WORDS
        or re.search(r"[.!?…。](?:\s|$)", text)
    ):
        return False
    if re.search(r"(?i)\b(?:said|says|wrote|told|reported)$", text):
        return False
    return not strict or all(word[0].isupper() or not word[0].isalpha() for word in text.split() if len(word) > 3)  # noqa: PLR2004 # "of", "the"


def take_links(text: str, *, citing: bool = True) -> tuple[str, tuple[Link, ...]]:
    """Text without its links, and the links: those at its end leave nothing, named ones inside it leave their names.

    Not `citing`, no link is a citation: named ones leave their names wherever they stand.
    """
    text = text.strip()
    found = _links_in(text)
    cut, cited = _tail(text, found) if citing and found else (len(text), [])
    links: list[Link] = []
    parts: list[str] = []
    at = 0
    for link in found:
        if link.start >= cut:
            break
        if not link.bare:
            before = text[at : link.start]
            parts += [before if link.name else before.rstrip(), link.name]
            at = link.end
            links.append((link.title, link.address))
    body = "".join([*parts, text[at:cut]])
    if cited:
        body = re.sub(r"[\s,:：;–—(\[-]+$", "", body)
        if not _ENDED.search(body) and (stop := re.search(r"[.!?…。]\s*$", text)):
            body += stop[0].strip()
    body = re.sub(r"[\x02-\x04]", "", body).strip()
    return body, tuple((None if title == body else title, address) for title, address in (*links, *cited))


def _tail(text: str, found: Sequence[_Found]) -> tuple[int, list[Link]]:
    """Where the citations at the end of a text begin, and the links there; (its length, []) where it ends in words."""
    cut, cited = len(text), []
    end = len(text)
    tail: list[Link] = []
    for link in reversed(found[-_MOST:]):
        if not _BETWEEN.fullmatch(text, link.end, end):
            break
        end = link.start
        begins = _begins(text, end, bare=link.bare)
        tail.append((link.title, link.address))
        if begins is not None:
            cut, cited = begins, tail[::-1]
        head = text[max(0, end - 200) : end]
        if link.bare and link.title is None and (match := _BARE_NAME.search(head)):
            name = _LABEL.sub("", match["name"])
            if _is_name(name, strict=name == match["name"]):
                end += match.end("name") - len(head) - len(name)
                tail[-1] = (name, link.address)
                begins = _begins(text, end, bare=False)
                if begins is not None:
                    cut, cited = begins, tail[::-1]
    return cut, cited


def _begins(text: str, start: int, *, bare: bool) -> int | None:
    """Where the words before a citation end, if it may begin at `start`: after a sentence, a bracket or "Source:"."""
    head = text[max(0, start - 200) : start]
    opening = _OPENING.search(head, max(0, len(head) - _LONGEST_OPENING))
    assert opening  # it matches the empty end
    body = head[: opening.start()].rstrip()
    between = head[len(body) :]
    if not body:
        return None
    said = opening["source"] or opening["labelled"] or re.search(r"[(\[–—]", between)
    if said or _ENDED.search(body) or (bare and not _NEEDED.search(body)):
        return start - len(head) + len(body)
    return None
