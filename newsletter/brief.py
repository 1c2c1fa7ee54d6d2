"""A brief: one story, as sourced facts and opposing narratives.

These values decide what a brief may hold and nothing else: no reading, no storing, no laying out. Readers make
them (`newsletter.formats`), the store keeps them as JSON, the compiler lays them out. They are frozen, refuse
unknown keys, and every string in them is plain text: no markup is meant by any character. Links are kept as the
desk gave them; whether one may stand in a mail is for the compiler to decide, so that a bad link costs the link
and not the brief.
"""

import hashlib
import re
import unicodedata
from datetime import UTC, datetime
from typing import Annotated, Any, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

HEADLINE_CHARACTERS = 300  # longer than any headline; a "headline" past it is a paragraph read wrongly
LINE_CHARACTERS = 1_000  # a label, credit or source's name; more is prose in the wrong place
TEXT_CHARACTERS = 20_000  # one fact or narrative; a whole digest may be 100 kB, so more is a broken file
LINK_CHARACTERS = 2_048  # what browsers and mail clients follow in practice
PARTS = 100  # facts, narratives, forecasts or topics of one brief, each

# C0 and C1 controls, line and paragraph separators, and the bidirectional embeddings and overrides that can make a
# headline read backwards ("Trojan source", CVE-2021-42574). Paragraphs are told apart by "\n\n" alone.
_FORBIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\ufeff\ufffe\uffff]")
_BLANKS = re.compile(r"[ \t\xa0\u2000-\u200a\u202f\u205f\u3000]+")
_LINE_ENDS = re.compile(r"[\r\n\x0b\x0c\x85\u2028\u2029]+")
_SURROGATES = re.compile(r"[\ud800-\udfff]")
_MOST_MARKS = 30
_UNSEEN = "\u00ad\u200b\u200c\u200d\u2060"  # soft hyphen and the zero-width ones: kept in words, no text by themselves


def one_line(text: str) -> str:
    """Text on one line: NFC, controls dropped, runs of blanks and line ends as one space, ends trimmed."""
    if text.isascii() and text.isprintable() and "  " not in text:
        return text.strip()  # most texts: a feed of 50 entries comes by here a thousand times
    text = _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", _LINE_ENDS.sub(" ", text))
    # Normalised last, or a dropped control would part a letter from its accent.
    text = unicodedata.normalize("NFC", _stream_safe(_FORBIDDEN.sub("", text)))
    text = _BLANKS.sub(" ", text).strip()
    return text if text.strip(_UNSEEN) else ""


def _stream_safe(text: str) -> str:
    """At most 30 marks on a letter (UAX #15, section 13): sorting a run of 100,000 would take minutes."""
    if text.isascii():
        return text
    kept: list[str] = []
    marks = 0
    for character in text:
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks <= _MOST_MARKS:
            kept.append(character)
    return "".join(kept)


def paragraphs(text: str) -> str:
    """Text in paragraphs: each on one line (`one_line`), empty ones dropped, joined by one empty line."""
    parts = re.split(r"\n[ \t\xa0]*\n", text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2029", "\n\n"))
    return "\n\n".join(line for part in parts if (line := one_line(part)))


def slugify(text: str) -> str:
    """A name for URLs, of a-z, 0-9 and hyphens, at most 80 characters.

    A text with nothing of these (another script) gets a stable name from its hash.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    plain = re.sub(r"['’]", "", plain)
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:80].rstrip("-")
    return slug or "brief-" + hashlib.sha256(text.encode()).hexdigest()[:12]


_TRACKING = re.compile(r"(?:utm_\w+|fbclid|gclid|dclid|msclkid|mc_[ce]id|igshid|yclid|_hsenc|_hsmi|cmpid|ftag)\Z")


def page_of(url: str) -> str | None:
    """What two addresses of one page have in common; None for an address that names no page of its own.

    The scheme, "www.", the case of the host, a "/" at the end, the order of a query and what campaigns add to it make
    no difference. A site's front page is no page of its own: feeds without real links give it for every entry.
    """
    try:
        parts = urlsplit(url.strip())
        host, port = (parts.hostname or "").removeprefix("www."), parts.port
    except ValueError:
        return None
    path = parts.path.rstrip("/")
    query = urlencode(sorted(pair for pair in parse_qsl(parts.query) if not _TRACKING.match(pair[0].lower())))
    anchor = "" if _TRACKING.match(parts.fragment.partition("=")[0].lower()) else parts.fragment
    if parts.scheme.lower() not in {"http", "https"} or not host or not (path or query or anchor):
        return None
    where = host if port in {None, 80, 443} else f"{host}:{port}"
    return f"{where}{path}" + (f"?{query}" if query else "") + (f"#{anchor}" if anchor else "")


def _or_none(value: Any) -> Any:
    """An empty string is an absent one."""
    return None if isinstance(value, str) and not one_line(value) else value


def _iso(value: Any) -> Any:
    """Read a day as its 00:00 UTC; refuse what pydantic would take for seconds since 1970: a year, a price, a true."""
    if isinstance(value, str) and re.fullmatch(r"\s*\d{4}-\d{2}-\d{2}\s*", value):
        return f"{value.strip()}T00:00:00Z"
    if isinstance(value, bool | int | float) or (isinstance(value, str) and re.fullmatch(r"\s*[-+.\d]+\s*", value)):
        raise ValueError("expected an instant as 2026-11-23T07:00:00+00:00")
    return value


def _utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:  # the first and last day of the calendar, in a zone that has left it
        raise ValueError("expected an instant in the years 1 to 9999, UTC") from None


Line = Annotated[
    str,
    BeforeValidator(lambda v: one_line(v) if isinstance(v, str) else v),
    Field(min_length=1, max_length=LINE_CHARACTERS),
]
Prose = Annotated[
    str,
    BeforeValidator(lambda v: paragraphs(v) if isinstance(v, str) else v),
    Field(min_length=1, max_length=TEXT_CHARACTERS),
]
Link = Annotated[
    str,
    BeforeValidator(lambda v: one_line(v) if isinstance(v, str) else v),
    Field(min_length=1, max_length=LINK_CHARACTERS),
]
Instant = Annotated[AwareDatetime, BeforeValidator(_iso), AfterValidator(_utc)]
MaybeLine = Annotated[Line | None, BeforeValidator(_or_none)]
MaybeLink = Annotated[Link | None, BeforeValidator(_or_none)]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_timedelta="iso8601")


class Citation(_Value):
    """A source under a fact. `title` is its name as the desk gives it; null where only the link is known."""

    title: MaybeLine = None
    url: Link


class Fact(_Value):
    """One sourced statement."""

    text: Prose
    citations: tuple[Citation, ...] = Field(default=(), max_length=PARTS)


class Narrative(_Value):
    """One way to tell the story.

    `label` is the heading as the desk writes it ("Pro-harbour narrative"); `stance` is the side it takes, in one word
    ("pro", "anti"), null where the label names none. Paragraphs of `text` are told apart by an empty line.
    """

    label: Line
    text: Prose
    stance: MaybeLine = None


class Forecast(_Value):
    """What a prediction community expects. `probability` is 0 to 1, null where the statement gives none."""

    statement: Prose
    probability: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False, strict=True)
    forecaster: MaybeLine = None
    url: MaybeLink = None
    as_of: Instant | None = None


class Image(_Value):
    """A picture. A credit may be known where the picture is not: then `url` is null."""

    url: MaybeLink = None
    alt: MaybeLine = None
    credit: MaybeLine = None


class Brief(_Value):
    """One story at one time (a revision).

    `published` and `updated` are aware; a source that gives a day only means 00:00 UTC of it (`is_day`), null means
    that the source gives none. `slug` is made from the headline where the source has none. `language` is a BCP 47 tag.
    `summary` is what a source without facts and narratives says of the story, or what it says before them. A brief has
    at least a fact, a narrative, a summary or an address to read on at: a headline alone is no story.
    """

    headline: Annotated[Line, Field(max_length=HEADLINE_CHARACTERS)]
    slug: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=100)]
    url: MaybeLink = None
    published: Instant | None = None
    updated: Instant | None = None
    image: Image | None = None
    summary: Annotated[Prose | None, BeforeValidator(_or_none)] = None
    topics: tuple[Line, ...] = Field(default=(), max_length=PARTS)
    facts: tuple[Fact, ...] = Field(default=(), max_length=PARTS)
    narratives: tuple[Narrative, ...] = Field(default=(), max_length=PARTS)
    forecasts: tuple[Forecast, ...] = Field(default=(), max_length=PARTS)
    split: MaybeLine = None
    language: Annotated[str, Field(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$")] | None = None

    @model_validator(mode="before")
    @classmethod
    def _slug_from_headline(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("slug") and isinstance(data.get("headline"), str):
            return {**data, "slug": slugify(one_line(data["headline"]))}
        return data

    @model_validator(mode="after")
    def _has_a_story(self) -> Self:
        if not (self.facts or self.narratives or self.summary or self.url):
            raise ValueError("a brief needs a fact, a narrative, a summary or a url")
        return self

    @property
    def when(self) -> datetime | None:
        """The instant that orders it among others: updated, else published."""
        return self.updated or self.published

    @property
    def content_hash(self) -> str:
        """SHA-256 of the content, in hex: equal where two revisions say the same.

        What is absent is left out, so that a part which a later version adds to briefs changes no hash.
        """
        return hashlib.sha256(self.model_dump_json(exclude_defaults=True).encode()).hexdigest()


def is_day(instant: datetime) -> bool:
    """True where an instant stands for a whole day: sources that give a date only are read as its 00:00 UTC."""
    utc = instant.astimezone(UTC)
    return (utc.hour, utc.minute, utc.second, utc.microsecond) == (0, 0, 0, 0)
