"""The outline of a brief: headings, bullets and paragraphs in a row, and the Brief they tell.

Text, Markdown and web pages differ in how they mark a heading; what a heading *means* is decided here, once:
"… narrative" opens a narrative, "Nerd narrative" a forecast, "… split" is the split label, "Facts" the facts.
Blocks carry the line they came from, so that every remark and fault can name it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from newsletter.brief import Brief, one_line, slugify
from newsletter.errors import BriefError
from newsletter.formats import Remark
from newsletter.formats.dates import read_date
from newsletter.formats.json import explain
from newsletter.formats.links import Link


class Kind(StrEnum):
    """What a block is, whatever the format calls it."""

    HEADING = "heading"
    BULLET = "bullet"
    PARAGRAPH = "paragraph"
    MORE = "more"  # goes on with the bullet before it: its second paragraph
    PICTURE = "picture"  # a picture on a line of its own: its description, and its address as the link
    SOURCES = "sources"  # a line that holds links and nothing else: the citations of what stands before it


@dataclass(frozen=True, slots=True)
class Block:
    """One piece of the file: its plain text, the links taken out of it, and its first line (from 1).

    `level` is how deep a heading (1 to 6) or a bullet (from 1) is, where the format says; 0 where it does not.
    """

    kind: Kind
    text: str
    line: int
    links: tuple[Link, ...] = ()
    level: int = 0


@dataclass(frozen=True, slots=True)
class Front:
    """What stands apart from the blocks: key -> (value, line). Keys are `newsletter.brief.Brief`'s, flattened."""

    values: dict[str, tuple[Any, int]] = field(default_factory=dict)

    def get(self, key: str) -> Any:
        """The value of a key, None where the file has none."""
        return self.values[key][0] if key in self.values else None


# ---------------------------------------------------------------------------------------------- headings

_FACTS = re.compile(r"(the |key |main |more )?facts( at a glance)?|what (we know|happened)|key points", re.IGNORECASE)
_GROUP = re.compile(r"(the |opposing )?narratives|(the )?(forecasts?|spin)", re.IGNORECASE)
_NERD = re.compile(r"nerd narratives?\b|(metaculus )?(prediction|forecast)s?$", re.IGNORECASE)
_ASIDE = r"(\s*\([^()]{1,40}\))?"  # "Pro-harbour narrative (opinion)"
_STRONG = re.compile(  # what nobody writes as a sentence of their own
    r"(the )?((pro|anti)\s?[-‐‑–—]\s?\S.{0,70}|nerd|establishment) "
    rf"(narratives?|view|perspective)( \d{{1,2}}| [A-Z])?{_ASIDE}",
    re.IGNORECASE,
)
_LABELLED = re.compile(r"narrative(?: \w{1,3})?\s*[:–—-]\s*(?P<side>\S.{0,60})", re.IGNORECASE)
_NARRATIVE = re.compile(rf"narrative (\d{{1,2}}|[a-z]|one|two|three|four)|.{{1,80}}\bnarrative{_ASIDE}", re.IGNORECASE)
_SPLIT = re.compile(rf".{{1,60}}\bsplit{_ASIDE}|split\s*[:：]\s*.{{1,60}}", re.IGNORECASE)
_SIGN_UP = re.compile(
    r"(?:.{1,40}\?\s+)?(?:please\s+)?(?:(?:sign\s*[- ]?up|subscribe|join|register|get|receive)\b.{0,60}"
    r"\b(?:newsletters?|updates|digest|e-?mails?|mailing list|inbox)\b.{0,40}"
    r"|(?:click here to |newsletter )?(?:sign\s*[- ]?up|subscribe)(?: here| now| today)?)",
    re.IGNORECASE,
)
# A heading is asked about again and again while one brief is read. Pure, so its answers may be kept; a few are enough.
_remembered = lru_cache(maxsize=128)
_TERMINAL = re.compile(r"[.!?…,;。！？][\"'”’»)\]]*$")
_HEADING_WORDS, _STRONG_WORDS = 9, 14
_PROSE = re.compile(  # words that a sentence has and a label has not
    r"\b(?:is|are|was|were|be|been|has|have|had|will|would|can|may|must|said|says|this|that|these|those|its|their|our"
    r"|his|her|they|he|she|it|we|you|who|which|because|but|into|than|(?<!^)the|(?<!^)an?)\b"
)
_SMALL_STARTS = frozenset(
    [
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
        "what",
        "so",
    ]
)


@_remembered
def plain_heading(text: str) -> str:
    """A heading's words: without marks of Markdown, a bullet, a number, brackets around it or a colon after it."""
    text = re.sub(r"^(?:[#>•▪●*+-]+\s+|\(?\d{1,2}[.)]\s+)+", "", text.strip())
    text = re.sub(r"\s*#+$", "", text)
    for _ in range(3):
        text = text.strip().rstrip(":：-–— ")
        for start, end in (("**", "**"), ("__", "__"), ("==", "=="), ("*", "*"), ("_", "_"), ("[", "]")):
            if len(text) > len(start + end) and text.startswith(start) and text.endswith(end):
                text = text[len(start) : -len(end)]
    return text.strip()


@_remembered
def is_narrative(heading: str) -> bool:
    """True for "Pro-harbour narrative", "Narrative A", "Narrative: Pro-harbour", "Nerd narrative"."""
    return not is_group(heading) and any(p.fullmatch(heading) for p in (_NARRATIVE, _STRONG, _LABELLED))


@_remembered
def is_forecast(heading: str) -> bool:
    """True for "Nerd narrative", "Forecast"."""
    return bool(_NERD.match(heading))


@_remembered
def is_split(heading: str) -> bool:
    """True for "Establishment split", "Split: establishment"."""
    return bool(_SPLIT.fullmatch(heading)) and not _NARRATIVE.fullmatch(heading)


@_remembered
def is_facts(heading: str) -> bool:
    """True for "Facts", "Key facts", "What we know"."""
    return bool(_FACTS.fullmatch(heading))


@_remembered
def is_group(heading: str) -> bool:
    """True for a heading over headings, such as "Narratives": it opens nothing by itself."""
    return bool(_GROUP.fullmatch(heading))


@_remembered
def is_strong(heading: str) -> bool:
    """True for a heading that nobody would write as a sentence or headline: "Pro-harbour narrative"."""
    return bool(_STRONG.fullmatch(heading)) and len(heading.split()) <= _STRONG_WORDS and heading[0] != "t"


@_remembered
def looks_like_heading(text: str) -> bool:
    """Whether the words of a line without any mark make a heading of a brief, as far as words can tell."""
    text = plain_heading(text)
    if not text or _TERMINAL.search(text):
        return False
    if is_facts(text) or is_group(text) or is_strong(text) or (is_forecast(text) and len(text.split()) <= 3):  # noqa: PLR2004 # "Nerd narrative 2"
        return True
    if len(text.split()) > _HEADING_WORDS or not (is_narrative(text) or is_split(text)):
        return False
    if _LABELLED.fullmatch(text):
        return text[0] == "N"
    start = text.lstrip("\"'“‘«(").split()[0]
    return not start[0].islower() and start.lower() not in _SMALL_STARTS and not _PROSE.search(text)


def is_sign_up(text: str) -> bool:
    """True for the line under a brief that asks to sign up: no content."""
    if len(text) > 120 and "://" not in text:  # noqa: PLR2004 # as below; most texts are longer than a line
        return False
    text = re.sub(r"\]?\(?<?https?://\S+", "", text)
    return len(text) <= 120 and bool(_SIGN_UP.fullmatch(re.sub(r"^\W+|\W+$", "", text)))  # noqa: PLR2004 # one line


def stance_of(label: str) -> str | None:
    """The side that a label names: "pro", "anti", or None. "X-critical" is against X."""
    labelled = _LABELLED.fullmatch(label)
    words = (labelled["side"] if labelled else label).strip("\"'“”‘’ ").lower().removeprefix("the ")
    if re.match(r"pro[\s\-‐‑–—]", words):
        return "pro"
    if re.match(r"anti[\s\-‐‑–—]", words) or re.search(r"[\-‐‑–](critical|sceptical|skeptical)\b", words):
        return "anti"
    return None


# ---------------------------------------------------------------------------------------------- forecasts

_NUMBER = r"(?<![\d.,])(?P<number>\d{1,3}(?:[.,]\d{1,3})?|[.,]\d{1,3})\s*(?:[%％]|per\s?cent\b|percent\b|pct\b)"
_LIKELY = r"(?:chance|probability|likelihood|odds|likely|certain|confiden\w+)"
_FILLER = r"(?:(?!(?:is|are|was|rise|fall|rose|fell|drop|increase|decrease|higher|lower|more|less|in|of)\b)\w+\s+){0,2}"
_NEAR = [  # what a percentage must stand beside to be the probability, best first
    re.compile(rf"{_NUMBER}[\s-]+{_FILLER}{_LIKELY}", re.IGNORECASE),
    re.compile(rf"{_LIKELY}\b[^.%\d]{{0,40}}?{_NUMBER}", re.IGNORECASE),
    re.compile(rf"^\W{{0,3}}{_NUMBER}", re.IGNORECASE),
    re.compile(rf"[:–—(]\s*{_NUMBER}", re.IGNORECASE),
]
_RANGE = re.compile(r"\d\s*(?:[%％]\s*)?(?:[-‐‑–—]|\bto|\band)\s*$")  # "50–60%": no one probability
_ONE_IN = re.compile(r"\b(?P<one>\d{1,2}|one)[\s-]in[\s-](?P<in>\d{1,4}|two|three|four|five|six|ten)\b", re.IGNORECASE)
_WORDS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "ten": 10}
_WHO = r"(?:[^,;.()]|(?<=\b[A-Z])\.|\.(?=\w))"  # the points of "U.S." and "example.com" end no sentence
_WHO_ENDS = r"\s*(?=[,;()]|(?<!\b[A-Z])\.(?:\s|$)|$|\s(?:as of|on \w+ \d|in \w+ \d{4}))"
_ACCORDING = re.compile(
    r"\b(?:[Aa]ccording to|(?:[Aa]s )?(?:[Ee]stimated|[Pp]redicted|[Ff]orecast|[Gg]iven) by)\s+"
    rf"(?:[Tt]he\s+)?(?P<who>{_WHO}{{2,80}}?){_WHO_ENDS}"
    rf"|\b(?:per|says)\s+(?:the\s+)?(?P<name>[A-Z]{_WHO}{{1,80}}?){_WHO_ENDS}"
)
_COMMUNITY = re.compile(
    r"\b(?P<who>[A-Z][\w.’'-]*(?:\s+[A-Z][\w.’'-]*){0,3}\s+"
    r"(?:prediction|forecasting)\s+(?:community|market|platform|panel)s?|Metaculus(?:\s+community)?|Polymarket|Manifold)"
)
_AS_OF = re.compile(r"\bas of (.{6,40})", re.IGNORECASE)


def probability_in(statement: str) -> float | None:
    """The probability (0 to 1) that a statement gives, None where it gives none: "rises by 3%" is no probability."""
    for pattern in _NEAR:
        if match := pattern.search(statement):
            if _RANGE.search(statement[max(0, match.start("number") - 8) : match.start("number")]):
                return None
            value = float(match["number"].replace(",", ".")) / 100
            return round(value, 6) if value <= 1 else None
    if (match := _ONE_IN.search(statement)) and re.search(_LIKELY, statement, re.IGNORECASE):
        one, of = (_WORDS.get(match[k].lower()) or int(match[k]) for k in ("one", "in"))
        return round(one / of, 6) if 0 < one <= of else None
    return None


def forecaster_in(statement: str) -> str | None:
    """Who forecasts, as the statement says: "Metaculus prediction community"."""
    if match := _ACCORDING.search(statement):
        return one_line(match["who"] or match["name"])
    match = _COMMUNITY.search(statement)
    return one_line(match["who"]) if match else None


def _as_of_in(statement: str) -> datetime | None:
    match = _AS_OF.search(statement)
    return read_date(match[1]) if match else None


# ---------------------------------------------------------------------------------------------- assembly


@dataclass(slots=True)
class _Part:
    """A fact, narrative or forecast while its blocks go by."""

    line: int
    text: list[str] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    label: str = ""


@dataclass(slots=True)
class _Draft:
    """The parts of a brief while its blocks go by."""

    facts: list[_Part] = field(default_factory=list)
    loose: list[_Part] = field(default_factory=list)  # paragraphs before any bullet: facts, if this is a brief at all
    narratives: list[_Part] = field(default_factory=list)
    forecasts: list[dict[str, Any]] = field(default_factory=list)
    forecast_lines: list[int] = field(default_factory=list)
    split: str | None = None
    section: str = "facts"  # facts | narrative | forecast | split (its label is the next line) | none
    level: int = 0  # of the heading that opened the section


def assemble(blocks: Sequence[Block], front: Front, origin: str) -> Iterator[Brief | Remark]:
    """The Brief that the blocks tell, and remarks on what found no place in it.

    Raises BriefError with the line and what was expected: no headline, or neither facts nor narratives.
    """
    headline = front.get("headline")
    if not headline:
        raise BriefError(origin, blocks[0].line if blocks else 1, "expected a headline, found none")
    draft = _Draft()
    kept, remarks = _without_sign_up(blocks)
    yield from remarks
    for block in kept:
        yield from _place(draft, block)
    yield from _settle(draft)
    if not draft.facts and not draft.narratives:
        line = front.values["headline"][1]
        raise BriefError(
            origin, line, "expected facts (lines with a bullet) or narratives under the headline, found neither"
        )
    data = {
        "headline": headline,
        "slug": slugify(one_line(str(front.get("slug") or headline))),
        "url": front.get("url"),
        "published": front.get("published"),
        "updated": front.get("updated"),
        "image": _image(front),
        "summary": front.get("summary"),
        "topics": list(front.get("topics") or ()),
        "facts": [{"text": "\n\n".join(f.text), "citations": _citations(f.links)} for f in draft.facts],
        "narratives": [
            {"label": n.label, "text": "\n\n".join(n.text), "stance": stance_of(n.label)} for n in draft.narratives
        ],
        "forecasts": draft.forecasts,
        "split": front.get("split") or draft.split,
        "language": front.get("language"),
    }
    lines = {
        "facts": [f.line for f in draft.facts],
        "narratives": [n.line for n in draft.narratives],
        "forecasts": draft.forecast_lines,
    }
    yield from validated(data, front, origin, lines)


def validated(
    data: dict[str, Any], front: Front, origin: str, lines: Mapping[str, Sequence[int]]
) -> Iterator[Brief | Remark]:
    """The Brief that the data gives. What it can do without and is wrong (a link, a language) costs a remark only.

    `lines` says where each fact, narrative and forecast stands. Raises BriefError where the rest is no brief.
    """
    while True:
        try:
            brief = Brief.model_validate(data)
        except ValidationError as error:
            what, path = explain(error)
            key = str(path[0]) if path else "headline"
            if len(path) > 1 and key in lines and isinstance(path[1], int) and path[1] < len(lines[key]):
                line = lines[key][path[1]]
            else:
                line = front.values.get("_".join(map(str, path[:2])), front.values.get(key, front.values["headline"]))[
                    1
                ]
            if not _left_out(data, path):
                raise BriefError(origin, line, what) from None
            yield Remark(line, f"left out: {what}")
        else:
            yield brief
            return


def _left_out(data: dict[str, Any], path: Sequence[str | int]) -> bool:
    """Take one element out of the data; False where the brief cannot do without it."""
    match path:
        case ["facts", int(fact), "citations", int(link), *_]:
            del data["facts"][fact]["citations"][link]
        case ["topics", int(topic), *_]:
            del data["topics"][topic]
        case ["forecasts", int(forecast), ("url" | "forecaster" | "as_of") as part, *_]:
            data["forecasts"][forecast][part] = None
        case ["image", ("url" | "alt" | "credit") as part, *_]:
            data["image"][part] = None
            data["image"] = data["image"] if any(data["image"].values()) else None
        case ["url" | "language" | "split" | "summary" as part, *_]:
            data[part] = None
        case _:
            return False
    return True


def _settle(draft: _Draft) -> Iterator[Remark]:
    """Decide about what could not be decided while the blocks went by."""
    for empty in (n for n in draft.narratives if not n.text):
        yield Remark(empty.line, f"“{empty.label}” has no text, so it is left out")
    draft.narratives = [n for n in draft.narratives if n.text]
    empty_forecasts = [i for i, forecast in enumerate(draft.forecasts) if not forecast.get("statement")]
    for index in reversed(empty_forecasts):
        yield Remark(draft.forecast_lines[index], "the nerd narrative has no text, so it is left out")
        del draft.forecasts[index], draft.forecast_lines[index]
    if draft.facts:
        for loose in draft.loose:
            if not _TERMINAL.search(loose.text[0]):
                yield Remark(loose.line, f"not used, no fact: “{_short(loose.text[0])}”")
        draft.facts = [f for f in draft.loose if _TERMINAL.search(f.text[0])] + draft.facts
    elif draft.narratives or draft.forecasts:
        draft.facts = draft.loose
    else:
        for loose in draft.loose:
            yield Remark(loose.line, f"not used, no fact: “{_short(loose.text[0])}”")


def _place(draft: _Draft, block: Block) -> Iterator[Remark]:
    if block.kind is Kind.HEADING:
        yield from _open(draft, block)
    elif draft.section == "facts":
        yield from _fact(draft, block)
    elif draft.section == "narrative":
        for _, address in block.links:
            yield Remark(block.line, f"a link in a narrative is not used, only facts have citations: {address}")
        if block.text:
            draft.narratives[-1].text.append(f"• {block.text}" if block.kind is Kind.BULLET else block.text)
    elif draft.section == "forecast":
        yield from _forecast(draft, block)
    elif draft.section == "split" and block.text and len(block.text) <= 60 and not draft.split:  # noqa: PLR2004 # a label
        draft.split, draft.section = block.text, "none"
    else:
        yield Remark(block.line, f"not used: “{_short(block.text or block.links[0][1])}”")


def _open(draft: _Draft, block: Block) -> Iterator[Remark]:
    heading = plain_heading(block.text) or block.text
    if is_facts(heading):
        draft.section = "facts"
    elif is_forecast(heading):
        draft.section = "forecast"
        draft.forecasts.append({})
        draft.forecast_lines.append(block.line)
    elif is_narrative(heading):
        draft.section = "narrative"
        draft.narratives.append(_Part(block.line, label=heading))
    elif heading.lower().rstrip(".") == "split":
        draft.section = "split"
    elif is_split(heading.rstrip(".")):
        if draft.split:
            yield Remark(block.line, f"a second split label is not used: “{_short(heading)}”")
        draft.split = draft.split or re.sub(r"(?i)^split\s*[:：]\s*", "", heading.rstrip("."))
        draft.section = "none"
    elif is_group(heading):
        draft.section = "none"
    elif block.level > draft.level > 0 and draft.section == "narrative":
        draft.narratives[-1].text.append(heading)  # a heading inside the narrative
        return
    elif block.level == 1 and draft.section == "facts":
        yield Remark(block.line, f"a second headline is not used: “{_short(heading)}”")
        return
    else:
        draft.section = "none"
        yield Remark(block.line, f"what stands under “{_short(heading)}” is not used")
    draft.level = block.level


def _fact(draft: _Draft, block: Block) -> Iterator[Remark]:
    last = draft.facts[-1] if draft.facts else draft.loose[-1] if draft.loose else None
    if block.kind is Kind.SOURCES or not block.text:
        if last:
            last.links += block.links
        else:
            yield Remark(block.line, f"not used, no fact before it: “{_short(block.links[0][1])}”")
    elif block.kind is Kind.MORE and last:
        if last.links and re.fullmatch(r"[^\s,;]*[/=%][^\s,;]*", block.text):
            title, address = last.links[-1]  # an address wrapped over two lines
            last.links[-1] = (title, address + block.text)
        elif block.text[0].islower():
            last.text[-1] = f"{last.text[-1]} {block.text}"
        else:
            last.text.append(block.text)
        last.links += block.links
    elif block.kind is Kind.BULLET:
        draft.facts.append(_Part(block.line, [block.text], list(block.links)))
    elif not draft.facts:
        draft.loose.append(_Part(block.line, [block.text], list(block.links)))
    elif _TERMINAL.search(block.text) or len(block.text.split()) > _HEADING_WORDS:
        draft.facts.append(_Part(block.line, [block.text], list(block.links)))
    else:
        yield Remark(block.line, f"not used, no fact: “{_short(block.text)}”")


def _forecast(draft: _Draft, block: Block) -> Iterator[Remark]:
    last = draft.forecasts[-1]
    if block.kind is Kind.SOURCES or not block.text:
        if last.setdefault("url", block.links[0][1]) != block.links[0][1]:
            yield Remark(block.line, f"a second link of a forecast is not used: “{_short(block.links[0][1])}”")
        return
    link = {"url": block.links[0][1]} if block.links else {}
    probability = probability_in(block.text)
    if last.get("statement") and (probability is None or last.get("probability") is None):
        # A further paragraph belongs to the statement before it, unless each gives a number of its own.
        last["statement"] = f"{last['statement']}\n\n{block.text}"
        last["probability"] = probability if last.get("probability") is None else last["probability"]
        last["forecaster"] = last.get("forecaster") or forecaster_in(block.text)
        last.update({key: value for key, value in link.items() if not last.get(key)})
        return
    if last.get("statement"):
        last = {}
        draft.forecasts.append(last)
        draft.forecast_lines.append(block.line)
    last.update(
        statement=block.text,
        probability=probability,
        forecaster=forecaster_in(block.text),
        as_of=_as_of_in(block.text),
        **link,
    )


def _without_sign_up(blocks: Sequence[Block]) -> tuple[list[Block], list[Remark]]:
    """The blocks without the line that asks to sign up. It ends the brief, unless more of the brief comes after it."""
    kept: list[Block] = []
    remarks: list[Remark] = []
    ends = next((i for i in reversed(range(len(blocks))) if is_sign_up(blocks[i].text)), len(blocks))
    if any(block.kind in {Kind.HEADING, Kind.BULLET} for block in blocks[ends + 1 :]):
        ends = len(blocks)
    for index, block in enumerate(blocks):
        if index < ends and is_sign_up(block.text):
            remarks.append(Remark(block.line, f"not used, it asks to sign up: “{_short(block.text)}”"))
        elif index < ends and (block.text or block.links):
            kept.append(block)
        elif index > ends and block.text:
            remarks.append(Remark(block.line, f"not used, it stands after the sign-up line: “{_short(block.text)}”"))
    return kept, remarks


def _image(front: Front) -> dict[str, Any] | None:
    image = {key: front.get(f"image_{key}") for key in ("url", "alt", "credit")}
    return image if any(image.values()) else None


def _citations(links: Sequence[Link]) -> list[dict[str, str | None]]:
    seen: dict[str, str | None] = {}
    for title, url in links:
        seen[url] = seen.get(url) or title
    return [{"title": title, "url": url} for url, title in seen.items()]


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57].rstrip() + "…"  # noqa: PLR2004 # fits a terminal line
