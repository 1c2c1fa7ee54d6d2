"""The words and figures that templates set: filters, pure, documented for template authors in docs/templates.md.

Text comes in as plain text and goes out as plain text (Jinja escapes it afterwards), but for `attr` and `link`, which
make a value safe inside an HTML attribute as MRML prints it: everything that is not plain ASCII as a numeric reference.
"""

import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit
from zoneinfo import ZoneInfo

from markupsafe import Markup

from newsletter.brief import Brief, Forecast, Narrative, is_day
from newsletter.schedule import Slot

TEXT_COLUMNS = 72  # RFC 3676 section 4.2 asks for at most 78; 72 leaves room for being quoted
_MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"]
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
_NUMBERS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_WORDS_A_MINUTE = 230  # silent reading of English non-fiction is 238 a minute on average (Brysbaert 2019)

SPLITS = {
    "establishment": "The views part over how far official institutions can be trusted.",
    "political": "The views part along party lines.",
    "partisan": "The views part along party lines.",
    "left/right": "The views part between left and right.",
    "local": "The views part between those who live with it and those who decide it.",
    "generational": "The views part between the young and the old.",
    "religious": "The views part over matters of faith.",
    "geopolitical": "The views part between rival states.",
    "cultural": "The views part over ways of life.",
    "economic": "The views part over who pays and who gains.",
}
"""What the usual split labels mean; a newsletter's `splits` adds to it."""


def web_link(url: str | None, *, secure: bool = False) -> str | None:
    """An absolute http(s) address, percent-encoded and with its host in ASCII; None for anything else.

    `secure` takes https only.
    """
    if url is None:
        return None
    try:
        parts = urlsplit(url)
        host = parts.hostname
        if parts.scheme.lower() not in ({"https"} if secure else {"http", "https"}) or not host:
            return None
        if not re.fullmatch(r"[\w.\-]+|\[[0-9a-fA-F:.]+\]", f"[{host}]" if ":" in host else host):
            return None
        if parts.username is not None or parts.password is not None:
            return None
        ascii_host = host if host.isascii() else host.encode("idna").decode()
        port = f":{parts.port}" if parts.port else ""
    except (ValueError, UnicodeError):
        return None
    shown = f"[{ascii_host}]" if ":" in ascii_host else ascii_host
    safe = "%/:?#[]@!$&'()*+,;=~-._"
    return urlunsplit(
        (
            parts.scheme.lower(),
            shown + port,
            quote(parts.path, safe=safe),
            quote(parts.query, safe=safe),
            quote(parts.fragment, safe=safe),
        )
    )


def attr(value: str | None) -> Markup:
    """A text for an HTML attribute: markup escaped, all else but plain ASCII as numeric references."""
    escaped = Markup.escape(re.sub(r"\s+", " ", value or ""))
    return Markup("".join(c if 32 <= ord(c) < 127 and c != "\\" else f"&#{ord(c)};" for c in escaped))  # noqa: PLR2004, S704 # printable ASCII; escaped on the line before


def link(url: str) -> Markup:
    """A web address for an HTML attribute."""
    return attr(web_link(url) or "")


def host(url: str) -> str:
    """The host of an address, as a name for a source without one."""
    return (urlsplit(url).hostname or url).removeprefix("www.")


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a text."""
    return text.split("\n\n")


def lines(text: str) -> Markup:
    """A text with its paragraphs as line breaks, for places that hold no <p>."""
    return Markup("<br>").join(paragraphs(text))


def clip(text: str, characters: int) -> str:
    """A text of at most so many characters, cut at a word, with an ellipsis."""
    if len(text) <= characters:
        return text
    cut = text[: characters - 1]
    return (cut.rsplit(None, 1)[0] if " " in cut else cut).rstrip(" ,;:.–—-") + "…"


def wrap(text: str, first: str = "", rest: str = "") -> str:
    """Paragraphs wrapped at 72 columns, the first line led in by `first`, the others by `rest`. Words stay whole."""
    wrapped = [
        textwrap.fill(
            part,
            TEXT_COLUMNS,
            initial_indent=first if index == 0 else rest,
            subsequent_indent=rest,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for index, part in enumerate(paragraphs(text))
    ]
    return "\n\n".join(wrapped)


def count_word(count: int, one: str, many: str) -> str:
    """A count with its noun: "two narratives", "13 briefs"."""
    word = _NUMBERS[count] if count < len(_NUMBERS) else str(count)
    return f"{word} {one if count == 1 else many}"


def times(count: int) -> str:
    """How often: "one way", "three ways"."""
    return count_word(count, "way", "ways")


def date(slot: Slot) -> str:
    """The day of a slot: "Monday 23 November 2026"."""
    local = slot.local
    return f"{_DAYS[local.weekday()]} {local.day} {_MONTHS[local.month - 1]} {local.year}"


def day_in(zone: str) -> Callable[[datetime], str]:
    """The filter `day`: the day of an instant in a zone, "22 November 2026"; a whole day stays what it is."""

    def day(instant: datetime) -> str:
        local = instant if is_day(instant) else instant.astimezone(ZoneInfo(zone))
        return f"{local.day} {_MONTHS[local.month - 1]} {local.year}"

    return day


def percent(probability: float) -> str:
    """A probability in words that keep its sense: "49%", "<1%", ">99%"."""
    if 0 < probability < 0.01:  # noqa: PLR2004 # one per cent
        return "<1%"
    if 0.99 < probability < 1:  # noqa: PLR2004 # the same at the other end
        return ">99%"
    return f"{_rounded(probability * 100)}%"


def width(probability: float) -> int:
    """The filled part of a bar, in per cent, 0 to 100; never empty or full unless it is certain."""
    return int(probability * 100) if probability in (0, 1) else min(99, max(1, _rounded(probability * 100)))


def _rounded(value: float) -> int:
    return int(value + 0.5)


def text_bar(probability: float) -> str:
    """The bar in characters, 20 of them."""
    full = _rounded(probability * 20)
    return "[" + "#" * full + "." * (20 - full) + "]"


def forecaster_line(forecast: Forecast) -> str:
    """Who forecasts and as of when, where the statement does not say so itself."""
    parts = []
    if forecast.forecaster and forecast.forecaster.casefold() not in forecast.statement.casefold():
        parts.append(forecast.forecaster)
    if forecast.as_of:
        parts.append(f"as of {forecast.as_of.day} {_MONTHS[forecast.as_of.month - 1]} {forecast.as_of.year}")
    return ", ".join(parts)


def stance_mark(narrative: Narrative) -> str:
    """The side a narrative takes, in a word: "For", "Against", or as the desk calls it; "" where it names none."""
    known = {"pro": "For", "for": "For", "anti": "Against", "against": "Against"}
    stance = narrative.stance
    return known.get(stance.casefold(), stance) if stance else ""


def rows(views: Sequence[Narrative]) -> list[list[tuple[int, Narrative]]]:
    """Narratives in rows of at most three columns, each with its number: four as two and two, five as three and two."""
    numbered = [((index % 5) + 1, view) for index, view in enumerate(views)]
    full = 2 if len(numbered) == 4 else 3  # noqa: PLR2004 # four stand better as two and two
    return [numbered[start : start + full] for start in range(0, len(numbered), full)]


def split_meaning(brief: Brief, splits: Mapping[str, str]) -> str:
    """What a brief's split label means, from the newsletter's words, else from the usual ones."""
    label = re.sub(r"(?i)\s*split$", "", brief.split or "").strip().casefold()
    own = {re.sub(r"(?i)\s*split$", "", name).strip().casefold(): text for name, text in splits.items()}
    return own.get(label) or SPLITS.get(label, "This is the line along which the views part.")


def tint(colour: str, share: float) -> str:
    """A colour mixed with white: `share` 0 leaves it, 1 is white. For dark backgrounds."""
    channels = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(c + (255 - c) * share):02x}" for c in channels)


def minutes(briefs: Sequence[Brief]) -> int:
    """How long the briefs take to read, in whole minutes, at least one."""
    words = sum(
        len(text.split())
        for brief in briefs
        for text in (
            brief.headline,
            *(fact.text for fact in brief.facts),
            *(view.text for view in brief.narratives),
            *(forecast.statement for forecast in brief.forecasts),
        )
    )
    return max(1, _rounded(words / _WORDS_A_MINUTE))


def preheader(briefs: Sequence[Brief]) -> str:
    """The line that a mailbox shows beside the subject: what else is inside, long enough to fill it."""
    others = [brief.headline for brief in briefs[1:]]
    if not others:
        return clip(briefs[0].facts[0].text if briefs[0].facts else briefs[0].narratives[0].text, 150)
    return clip("Also: " + " · ".join(others), 200)


def filters(zone: str) -> dict[str, Callable[..., Any]]:
    """All filters by the name that templates use, for a newsletter's zone."""
    return {
        "attr": attr,
        "link": link,
        "host": host,
        "paragraphs": paragraphs,
        "lines": lines,
        "clip": clip,
        "wrap": wrap,
        "count_word": count_word,
        "times": times,
        "date": date,
        "day": day_in(zone),
        "percent": percent,
        "width": width,
        "text_bar": text_bar,
        "forecaster_line": forecaster_line,
        "stance_mark": stance_mark,
        "rows": rows,
        "split_meaning": split_meaning,
        "tint": tint,
    }
