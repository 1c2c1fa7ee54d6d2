"""The JSON reader: one brief, a list of briefs, or an object with a list "briefs".

The schema is generated from the Brief itself (`schema`) and published as docs/brief.schema.json. In a list, one bad
brief costs itself and not the others.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from pydantic import ValidationError

from newsletter.brief import Brief, one_line
from newsletter.errors import BriefError
from newsletter.formats import Remark


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of one brief, as accepted: `slug` may be left out."""
    made = Brief.model_json_schema()
    made["required"] = [name for name in made["required"] if name != "slug"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Brief",
        **{key: value for key, value in made.items() if key != "title"},
    }


_MOST_BRIEFS = 1_000  # a page of a hundred is large; past this the file is something else
_DECODER = json.JSONDecoder()
_BLANK = re.compile(r"[ \t\n\r]*")


def load(text: str, origin: str, twice: list[str]) -> Any:
    """What a JSON text holds; names that stand twice in one object are added to `twice`. Raises BriefError."""
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=lambda pairs: _pairs(pairs, twice))
    except json.JSONDecodeError as error:
        raise BriefError(origin, error.lineno, f"expected JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise BriefError(origin, None, "expected a brief as JSON, found too many brackets in brackets") from None
    except ValueError as error:
        found = re.search(r"[:\[,]\s*(?:-?Infinity|NaN|\d{4000})", text)
        line = line_at(text, found.end()) if found else None
        raise BriefError(origin, line, f"expected JSON: {str(error).split(';')[0]}") from None


def read(text: str, origin: str) -> Iterator[Brief | BriefError | Remark]:
    """Read the briefs of a JSON text. Raises BriefError where it is no JSON or holds no brief."""
    twice: list[str] = []
    data = load(text, origin, twice)
    for key in dict.fromkeys(twice):
        yield Remark(line_at(text, _second(text, key)), f"“{key}” stands twice in one object: the last one is used")
    at = _BLANK.match(text).end()  # type: ignore[union-attr] # matches the empty text
    found = data
    if isinstance(data, dict) and isinstance(data.get("briefs"), list):
        found, at = data["briefs"], position_of(text, at, ["briefs"])
        for key in data.keys() - {"briefs"} & set(Brief.model_fields):
            yield Remark(line_at(text, position_of(text, at, [key])), f"“{key}” beside the list of briefs is not used")
        if not found:
            yield Remark(line_at(text, at), "holds no briefs yet")  # a page of the desk's, on a quiet day
            return
    if not isinstance(found, list):
        yield _one(found, text, at, origin)
        return
    if not found or len(found) > _MOST_BRIEFS:
        what = f"found {len(found):,}" if found else "found an empty list"
        raise BriefError(origin, line_at(text, at), f"expected 1 to {_MOST_BRIEFS:,} briefs, {what}")
    for item, (_, start) in zip(found, members_of(text, at), strict=True):
        yield _one(item, text, start, origin)


def _one(item: object, text: str, at: int, origin: str) -> Brief | BriefError:
    try:
        return validate(item)
    except ValidationError as error:
        what, path = explain(error)
        return BriefError(origin, line_at(text, position_of(text, at, path)), what)


def validate(item: object) -> Brief:
    """A Brief from parsed JSON: ISO instants as strings, lists for tuples. Raises pydantic's ValidationError."""
    if isinstance(item, dict):
        item = {key: value for key, value in item.items() if key != "$schema"}  # an editor's, to check while typing
    return Brief.model_validate(item)


_WORDS = {  # pydantic's kinds of faults, in our readers' words
    "missing": "this is required",
    "extra_forbidden": "this is no part of a brief",
    "model_type": "expected a JSON object",
    "tuple_type": "expected a list",
    "string_type": "expected text",
    "too_short": "expected text, found none",
    "string_unicode": "expected text, found half a character (a lone surrogate)",
    "timezone_aware": "expected an instant with its zone, as 2026-11-23T07:00:00+00:00",
}


def explain(error: ValidationError) -> tuple[str, tuple[str | int, ...]]:
    """The first fault in words ("facts.2.text: ..."), and the path to it."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = first["loc"]
    message = _WORDS.get(first["type"]) or first["msg"].removeprefix("Value error, ")
    if first["type"] == "model_type" and not path:
        message = "expected a brief: an object with headline, facts, narratives"
    if first["type"] in {"too_long", "string_too_long"}:
        limit = re.search(r"at most (\d+)", first["msg"])
        message = f"expected at most {limit[1] if limit else 'so many'} characters or items"
    if first["type"] == "string_pattern_mismatch":
        message = "expected a tag as en or pt-BR" if path[-1] == "language" else "expected a-z, 0-9 and single hyphens"
    where = ".".join(one_line(str(part))[:40] for part in path)
    more = error.error_count() - 1
    said = f"{where}: {message[0].lower()}{message[1:]}" if where else message
    return said + (f" (and {more} more)" if more else ""), path


# ---------------------------------------------------------------------------------------------- where it stands


def members_of(text: str, at: int) -> Iterator[tuple[str | int, int]]:
    """The members of the object or array at `at` in valid JSON: key or index, and where the value begins."""
    is_object = text[at] == "{"
    at = _BLANK.match(text, at + 1).end()  # type: ignore[union-attr] # matches the empty text
    index = 0
    while text[at] not in "]}":
        key: str | int = index
        if is_object:
            key, at = _DECODER.raw_decode(text, at)
            at = re.compile(r"[ \t\n\r]*:[ \t\n\r]*").match(text, at).end()  # type: ignore[union-attr] # valid JSON
        yield key, at
        _, at = _DECODER.raw_decode(text, at)
        at = re.compile(r"[ \t\n\r]*,?[ \t\n\r]*").match(text, at).end()  # type: ignore[union-attr] # valid JSON
        index += 1


def position_of(text: str, at: int, path: Sequence[str | int]) -> int:
    """Where the value at a path begins; where the path leads nowhere (a missing key), the last step that exists."""
    for step in path:
        if text[at] not in "[{":
            break
        starts = [start for key, start in members_of(text, at) if key == step]
        if not starts:
            break
        at = starts[-1]
    return at


def _second(text: str, key: str) -> int:
    """Where a key that stands twice in one object stands for the second time, as near as a search can tell."""
    places = [m.start() for m in re.finditer(rf"{re.escape(json.dumps(key, ensure_ascii=False))}\s*:", text)]
    return places[1] if len(places) > 1 else 0


def line_at(text: str, at: int) -> int:
    """The line, from 1, of a place in a text."""
    return text.count("\n", 0, at) + 1


def _pairs(pairs: list[tuple[str, Any]], twice: list[str]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice.extend(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
