"""Dates as news desks write them.

Only what can be read one way is read: 30/05/2023 is 30 May, 05/06/2023 is nothing. A time without a zone is taken
as UTC, one whose zone may be any of several (IST) is left out; a date without a time is 00:00 UTC of its day, the
sign for "a day" (`newsletter.brief.is_day`).
"""

import re
from datetime import UTC, datetime, timedelta, timezone
from email.utils import parsedate_tz

_MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "january jan", "february feb", "march mar", "april apr", "may", "june jun",
            "july jul", "august aug", "september sept sep", "october oct", "november nov", "december dec",
        ),
        start=1,
    )
    for name in names.split()
}  # fmt: skip
_ZONES = {  # hours from UTC; RFC 5322 section 4.3, and the usual European names
    "z": 0, "utc": 0, "gmt": 0, "ut": 0, "wet": 0, "bst": 1, "cet": 1, "cest": 2, "eet": 2, "eest": 3,
    "est": -5, "edt": -4, "et": -5, "cst": -6, "cdt": -5, "mst": -7, "mdt": -6, "pst": -8, "pdt": -7,
    "msk": 3, "sgt": 8, "hkt": 8, "jst": 9, "kst": 9, "aest": 10, "aedt": 11, "nzst": 12, "nzdt": 13,
}  # fmt: skip

_MONTH = "(?P<month>" + "|".join(sorted(_MONTHS, key=len, reverse=True)) + r")\.?"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?P<year>\d{4})(?!\d)"
_DATES = [
    re.compile(rf"{_MONTH}\s+{_DAY}\s*,?\s+{_YEAR}", re.IGNORECASE),
    re.compile(rf"(?<!\d){_DAY}[\s-]+(?:of\s+)?{_MONTH}[\s,-]+{_YEAR}", re.IGNORECASE),
    re.compile(r"(?<!\d)(?P<year>\d{4})[-/.](?P<day2>\d{1,2})[-/.](?P<day>\d{1,2})(?!\d)"),
    re.compile(r"(?<!\d)(?P<year>\d{4})(?P<day2>\d{2})(?P<day>\d{2})(?=T|\b)"),
    re.compile(r"(?<!\d)(?P<day>\d{1,2})(?P<sep>[/.-])(?P<day2>\d{1,2})(?P=sep)(?P<year>\d{4})(?!\d)"),
]
_TIME = re.compile(
    r"(?P<hour>\d{1,2})(?:[:.h](?P<minute>\d{2}))(?::(?P<second>\d{2})(?:[.,]\d+)?)?\s*(?P<half>[ap]\.?m\b\.?)?"
    r"\s*\(?(?P<zone>(?:(?:gmt|utc)\s*)?[+-]\d{1,2}(?::?\d{2})?|z\b|[a-z]{2,4}\b)?"
    r"|(?<!\d)(?P<bare>\d{1,2})\s*(?P<barehalf>[ap]\.?m\b\.?)\s*(?P<barezone>(?:(?:gmt|utc)\s*)?[+-]\d{1,2}(?::?\d{2})?|[a-z]{2,4}\b)?",
    re.IGNORECASE,
)


def read_date(text: str) -> datetime | None:
    """The instant that a text gives, in UTC; None where it gives none, or none that can be read one way only."""
    for pattern in _DATES:
        if not (match := pattern.search(text)):
            continue
        groups = match.groupdict()
        year, day = int(groups["year"]), int(groups["day"])
        if named := groups.get("month"):
            month = _MONTHS[named.lower()]
        elif "sep" in groups:
            month = int(groups["day2"])
            if groups["sep"] == "/" and day != month:
                if day <= 12 and month <= 12:  # noqa: PLR2004 # May 6 or 5 June: nobody can tell
                    return None
                if month > 12:  # noqa: PLR2004 # the American order
                    day, month = month, day
        else:
            month = int(groups["day2"])
        try:
            return _at_time(datetime(year, month, day, tzinfo=UTC), text[match.end() :] or "", text[: match.start()])
        except (ValueError, OverflowError):
            return None
    return None


_ISO = re.compile(
    r"(\d{4}-\d{2}-\d{2})(?:[Tt ](\d{2}:\d{2}(?::\d{2})?)(?:[.,]\d{1,12})?\s?([Zz]|[+-]\d{2}(?::?\d{2})?)?)?"
)
_MAIL = re.compile(  # RFC 822 as it should be, for speed
    r"(?:[A-Za-z]{3},? )?(\d{1,2}) ([A-Za-z]{3}) (\d{4}) (\d{2}:\d{2}(?::\d{2})?) ([+-]\d{2}:?\d{2}|GMT|UTC|Z)"
)
_UNSET = frozenset(["0001-01-01", "1970-01-01", "0000-00-00"])  # a clock that was never set, as programs write it


def read_stamp(text: str) -> datetime | None:
    """The instant of a feed: RFC 3339 or RFC 822 with their usual sins, else as `read_date`; fractions are dropped.

    None where it gives none, and where it gives the day that stands for none in a program.
    """
    text = " ".join(text[:100].split())
    text = re.sub(r"(:\d\d):60\b", r"\1:59", text)  # a leap second
    found: datetime | None
    mail = _MAIL.fullmatch(text)
    if mail and (month := _MONTHS.get(mail[2].lower())):
        text = f"{mail[3]}-{month:02}-{mail[1]:0>2}T{mail[4]}{mail[5] if mail[5][0] in '+-' else 'Z'}"
    if match := _ISO.fullmatch(text):
        day, time, zone = match.groups()
        zone = "+00:00" if not zone or zone in "Zz" else zone
        try:
            found = datetime.fromisoformat(f"{day}T{time or '00:00'}{zone}").astimezone(UTC)
        except (ValueError, OverflowError):
            return None
    else:
        found = read_date(text) or _rfc822(text)
    return None if found is None or f"{found.year:04}-{found:%m-%d}" in _UNSET else found


def _rfc822(text: str) -> datetime | None:
    """An instant in one of the forms that mail has known: two-digit years, the year at the end."""
    try:
        parts = parsedate_tz(text)
        if parts is None or not any(parts[3:6]) or not re.search(r"[A-Za-z]{3}", text):
            return None
        local = datetime(*parts[:6], tzinfo=timezone(timedelta(seconds=parts[9] or 0)))
        return local.astimezone(UTC)
    except (ValueError, OverflowError, TypeError, IndexError):
        return None


def _at_time(day: datetime, after: str, before: str) -> datetime:
    match = _TIME.search(after.lstrip("T")) or _TIME.search(before)
    if not match:
        return day
    hour = int(match["hour"] or match["bare"])
    half = (match["half"] or match["barehalf"] or "").lower()
    if half:
        hour = hour % 12 + (12 if half.startswith("p") else 0)
    zone = _zone(match["zone"] or match["barezone"] or "utc")
    if zone is None:
        return day
    local = day.replace(hour=hour, minute=int(match["minute"] or 0), second=int(match["second"] or 0), tzinfo=zone)
    return local.astimezone(UTC)


def _zone(name: str) -> timezone | None:
    """The zone of a name or an offset; None for a name such as IST, which stands for several."""
    if offset := re.search(r"([+-])(\d{1,2}):?(\d{2})?$", name):
        sign = -1 if offset[1] == "-" else 1
        return timezone(sign * timedelta(hours=int(offset[2]), minutes=int(offset[3] or 0)))
    if name.lower() in _ZONES:
        return timezone(timedelta(hours=_ZONES[name.lower()]))
    return None if name.isupper() else UTC
