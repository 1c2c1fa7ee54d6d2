"""The words and figures that templates set: filters, pure, documented for template authors in docs/templates.md.

Text comes in as plain text and goes out as plain text (Jinja escapes it afterwards), but for `attr` and `link`, which
make a value safe inside an HTML attribute as MRML prints it: everything that is not plain ASCII as a numeric reference.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit
from zoneinfo import ZoneInfo

from markupsafe import Markup

from newsletter.brief import Brief, Forecast, Narrative, is_day, one_line
from newsletter.schedule import Slot

TEXT_COLUMNS = 72  # RFC 3676 section 4.2 asks for at most 78; 72 leaves room for being quoted
_MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
_NUMBERS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_WORDS_A_MINUTE = 230  # silent reading of English non-fiction is 238 a minute on average (Brysbaert 2019)
_WIDE_A_WORD = 2.2  # characters of Chinese and Japanese read in the time of one word: about 500 a minute
_PREHEADER = range(100, 200)  # characters: fewer, and mailboxes add the first words of the mail; none shows more

_ZERO_WIDTH_JOINER = "\u200d"
# What must not begin or end a line of Chinese or Japanese (JIS X 4051, "kinsoku"), the usual of them.
_NEVER_FIRST = "、。，．・：；？！゛゜」』）］｝〉》】〕’”…‥ー々%％°ぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶ"
_NEVER_LAST = "「『（［｛〈《【〔‘“"

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
    """A text of at most so many characters, cut at a word where one is near, with an ellipsis."""
    if len(text) <= characters:
        return text
    end = characters - 1
    while end > 1 and not _columns_of(text[end]):  # an accent or a joined sign goes with what it stands on
        end -= 1
    cut = text[:end]
    word = (cut.rsplit(None, 1) or [cut])[0]  # of blanks alone nothing is left
    return (word if len(word) > end * 2 // 3 else cut).rstrip(" ,;:.–—-、。，") + "…"


def wrap(text: str, first: str = "", rest: str = "", limit: int = TEXT_COLUMNS) -> str:
    """Paragraphs wrapped at so many columns, the first line led in by `first`, the others by `rest`.

    Words stay whole. Chinese and Japanese, which part no words, break between characters.
    """
    parts = paragraphs(text)
    return "\n\n".join(
        "\n".join(_folded(part, rest if index else first, rest, limit)) for index, part in enumerate(parts)
    )


def underline(text: str) -> str:
    """A heading of plain text: the text on its line, and a rule of its length below, at most 72 columns."""
    return f"{text}\n{'-' * min(columns(text), TEXT_COLUMNS)}"


def _folded(text: str, first: str, rest: str, limit: int) -> Iterator[str]:
    line, used, begun = first, columns(first), False
    for glue, piece in _pieces(text):
        size = columns(piece)
        if begun and used + len(glue) + size > limit:
            yield line
            line, used, begun = rest, columns(rest), False
        if begun:
            line, used = line + glue, used + len(glue)
        line, used, begun = line + piece, used + size, True
    yield line


def _pieces(text: str) -> Iterator[tuple[str, str]]:
    """What a line may be broken between: each piece, and the blank that parts it from the one before on a line."""
    for word in text.split():
        glue, start = " ", 0
        if not word.isascii():
            for at in range(1, len(word)):
                if _breaks_between(word[at - 1], word[at]):
                    yield glue, word[start:at]
                    glue, start = "", at
        yield glue, word[start:]


def _breaks_between(one: str, other: str) -> bool:
    return (
        (_is_ideographic(one) or _is_ideographic(other))
        and one not in _NEVER_LAST
        and other not in _NEVER_FIRST
        and one != _ZERO_WIDTH_JOINER
        and _columns_of(other) > 0
    )


def _is_ideographic(character: str) -> bool:
    """Whether a script parts no words at it: wide characters, but for Hangul, which sets blanks."""
    return _columns_of(character) > 1 and not "\uac00" <= character <= "\ud7a3"


def columns(text: str) -> int:
    """How many columns a text takes where every character takes one, or two: a measure of its width."""
    return len(text) if text.isascii() else sum(map(_columns_of, text))


def _columns_of(character: str) -> int:
    """The columns a character takes in a fixed-width view: none, one or two (Unicode annex 11)."""
    if unicodedata.category(character) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(character) in {"W", "F"} else 1


def direction(text: str) -> str:
    """Which way most of a text runs: "rtl" for Arabic, Hebrew and their like, else "ltr"."""
    strong = [unicodedata.bidirectional(character) for character in text]
    return "rtl" if sum(c in {"R", "AL"} for c in strong) > strong.count("L") else "ltr"


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


def day_in(zone: str) -> Callable[..., str]:
    """The filter `day`: the day of an instant in a zone, "22 November 2026"; a whole day stays what it is.

    Given the slot, it leaves the year out where that is the slot's own.
    """

    def day(instant: datetime, slot: Slot | None = None) -> str:
        local = instant if is_day(instant) else instant.astimezone(ZoneInfo(zone))
        year = "" if slot and slot.local.year == local.year else f" {local.year}"
        return f"{local.day} {_MONTHS[local.month - 1]}{year}"

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


def forecaster_line_in(zone: str) -> Callable[[Forecast], str]:
    """The filter `forecaster_line`: who forecasts and as of when, where the statement does not say so itself."""
    day = day_in(zone)

    def forecaster_line(forecast: Forecast) -> str:
        parts = []
        by = forecast.forecaster
        if by and not re.search(rf"(?<!\w){re.escape(by)}(?!\w)", forecast.statement, re.IGNORECASE):
            parts.append(by)
        if forecast.as_of:
            parts.append(f"{'as' if parts else 'As'} of {day(forecast.as_of)}")
        return ", ".join(parts)

    return forecaster_line


def stance_mark(narrative: Narrative) -> str:
    """The side a narrative takes, in a word: "For", "Against", or as the desk calls it.

    "" where the desk names none, and where the label says the same word already ("Republican narrative").
    """
    known = {"pro": "For", "for": "For", "anti": "Against", "against": "Against"}
    stance = narrative.stance or ""
    mark = known.get(stance.casefold(), stance)
    return "" if mark.casefold() in narrative.label.casefold().split() else mark


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


def legible(colour: str, ground: str, ratio: float = 4.5) -> str:
    """A colour to set words in on a ground: itself where the contrast suffices, else darker or lighter until it does.

    Colours are "#rrggbb"; `ratio` is that of WCAG 2.2 (1.4.3 asks for 4.5).
    """
    end = 255 if contrast("#ffffff", ground) > contrast("#000000", ground) else 0
    channels = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    for step in range(51):
        mixed = "#" + "".join(f"{round(channel + (end - channel) * step / 50):02x}" for channel in channels)
        if contrast(mixed, ground) >= ratio:
            return mixed
    return mixed


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, 1 to 21 (WCAG 2.2, "contrast ratio")."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    shares = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)  # noqa: PLR2004 # sRGB
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def minutes(briefs: Sequence[Brief]) -> int:
    """How long the briefs take to read, in whole minutes, at least one."""
    words = sum(
        _words(text)
        for brief in briefs
        for text in (
            brief.headline,
            brief.summary or "",
            *(fact.text for fact in brief.facts),
            *(view.text for view in brief.narratives),
            *(forecast.statement for forecast in brief.forecasts),
        )
    )
    return max(1, _rounded(words / _WORDS_A_MINUTE))


def _words(text: str) -> float:
    """The words of a text; where it parts none, as many as take equally long to read."""
    ideographs = 0 if text.isascii() else sum(map(_is_ideographic, text))
    return len(text.split()) + ideographs / _WIDE_A_WORD


def preheader(briefs: Sequence[Brief]) -> str:
    """The line that a mailbox shows beside the subject: what else is inside, long enough to fill it."""
    first = briefs[0]
    told = [first.summary] if first.summary else []
    told += [fact.text for fact in first.facts] + [view.text for view in first.narratives]
    lead = told[0] if told else first.headline  # a brief shortened to its headline has nothing else
    others = " · ".join(brief.headline for brief in briefs[1:])
    if not others:
        return clip(one_line(lead), _PREHEADER.stop)
    return clip(f"Also: {others}" + (f" · {one_line(lead)}" if len(others) < _PREHEADER.start else ""), _PREHEADER.stop)


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
        "underline": underline,
        "columns": columns,
        "direction": direction,
        "count_word": count_word,
        "times": times,
        "date": date,
        "day": day_in(zone),
        "percent": percent,
        "width": width,
        "text_bar": text_bar,
        "forecaster_line": forecaster_line_in(zone),
        "stance_mark": stance_mark,
        "rows": rows,
        "split_meaning": split_meaning,
        "legible": legible,
    }
