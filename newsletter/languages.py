"""The languages of pages and notices: which there are, which one a visitor gets, and the words in it.

English is the source; `newsletter/locale/CODE.po` holds each of the others, read once, at first use. What a desk
writes (titles, names of lists, topics) is data, and is never translated.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cache
from gettext import GNUTranslations, NullTranslations
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Final
from zoneinfo import ZoneInfo

SOURCE: Final = "en"
LANGUAGES: Final[Mapping[str, str]] = MappingProxyType({"en": "English", "de": "Deutsch", "ar": "العربية"})
"""The languages there are: code (BCP 47) -> its own name, as a language switch shows it."""

FOLDER: Final = Path(__file__).parent / "locale"
_FROM_RIGHT_TO_LEFT: Final = frozenset(("ar",))
_DATES: Final = MappingProxyType({"en": "en_GB"})  # as the mails write them: 23 November 2026
_LONGEST: Final = 4_000  # characters of a header that are read; browsers send less than a hundred
_RANGE: Final = re.compile(  # RFC 9110, 12.4.2 and 12.5.4; a tag of 35 characters, RFC 5646, 4.4.1
    r"[ \t]*(?P<tag>[A-Za-z0-9_-]{1,35})[ \t]*(?:;[ \t]*[qQ]=(?P<q>0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*)?"
)


def negotiate(wanted: Iterable[str | None], fallback: str = SOURCE) -> str:
    """The language that fits best: the first of `wanted` that names one of ours decides.

    Each is a tag (`de`, `de-AT`), a header Accept-Language, or None; what cannot be read says nothing. A wildcard says
    nothing either, so that the next, and at last `fallback`, is heard. Always gives a key of LANGUAGES, in linear time.
    """
    for one in wanted:
        found = _best(one) if one else None
        if found is not None:
            return found
    return _lookup(fallback) or SOURCE


def _best(header: str) -> str | None:
    """Of the ranges of a header the one of ours with the highest weight, the earlier of equal ones."""
    best, weight = None, 0.0
    for part in header[:_LONGEST].split(","):
        match = _RANGE.fullmatch(part)
        q = float(match["q"] or 1) if match else 0.0
        if match and q > weight:
            found = _lookup(match["tag"])
            if found is not None:
                best, weight = found, q
    return best


def _lookup(tag: str) -> str | None:
    """Ours for a tag, by dropping subtags from its end (RFC 4647, 3.4)."""
    subtags = tag[:35].lower().replace("_", "-").split("-")
    for length in range(len(subtags), 0, -1):
        code = "-".join(subtags[:length])
        if code in LANGUAGES:
            return code
    return None


@cache
def words(language: str) -> NullTranslations:
    """The words of a language: its gettext, ngettext and pgettext. English, and what is not ours, is the source."""
    if language == SOURCE or language not in LANGUAGES:
        return NullTranslations()
    from babel.messages.mofile import write_mo  # noqa: PLC0415 # 0.1 s that a command line does not need
    from babel.messages.pofile import read_po  # noqa: PLC0415 # the same

    with (FOLDER / f"{language}.po").open("rb") as file:
        catalog = read_po(file, locale=language, abort_invalid=True)
    compiled = BytesIO()
    write_mo(compiled, catalog)
    compiled.seek(0)
    return GNUTranslations(compiled)


def direction(language: str) -> str:
    """How a language runs: `ltr` or `rtl`, as the attribute `dir` has it."""
    return "rtl" if _lookup(language) in _FROM_RIGHT_TO_LEFT else "ltr"


def language_names() -> list[tuple[str, str]]:
    """The languages for a choice: (code, its own name), the source first."""
    return list(LANGUAGES.items())


def date_in(day: datetime, language: str, zone: str) -> str:
    """A day as a language writes it, such as “23 November 2026”, where that instant falls in a zone."""
    from babel.dates import format_date  # noqa: PLC0415 # the same

    return format_date(day.astimezone(ZoneInfo(zone)).date(), "long", locale=_locale(language))


def time_in(moment: datetime, language: str, zone: str) -> str:
    """A time of day as a language writes it, to the minute, with its zone: “14:30 CET”."""
    from babel.dates import format_time, get_timezone_name  # noqa: PLC0415 # the same

    local, locale = moment.astimezone(ZoneInfo(zone)), _locale(language)
    return f"{format_time(local, 'short', locale=locale)} {get_timezone_name(local, 'short', locale=locale)}"


def _locale(language: str) -> str:
    """The locale whose dates a language uses."""
    code = _lookup(language) or SOURCE
    return _DATES.get(code, code)
