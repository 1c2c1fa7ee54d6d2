"""What is wrong with a configuration file, told with its line and the nearest right word.

pydantic judges the values; what it says is turned into words for somebody who writes TOML. Unknown keys are named
first, since most mistakes are misspellings.
"""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from newsletter.errors import ConfigurationError

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def nearest(word: str, known: Mapping[str, Any] | list[str]) -> str:
    """The end of a sentence that names a wrong word: the known one that is most like it, if any is."""
    near = difflib.get_close_matches(word, list(known), 1, 0.65)
    return f"; did you mean “{near[0]}”?" if near else ""


def _names(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in model.model_fields.items() if not field.exclude}


def tables_of(annotation: Any) -> dict[str, type[BaseModel]]:
    """The tables that a field's annotation stands for, by kind; "" for one without kinds; empty for a plain setting."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        kind = annotation.model_fields.get("kind")
        return {str(kind.default) if kind else "": annotation}
    if get_origin(annotation) is Annotated or get_origin(annotation) in {Union, UnionType}:
        members = get_args(annotation)
        members = members[:1] if get_origin(annotation) is Annotated else members
        return {kind: table for member in members for kind, table in tables_of(member).items()}
    return {}


def refuse_unknown(model: type[BaseModel], raw: Any, path: tuple[str, ...], file: Path, text: str) -> None:
    """Name the first key that is no setting, before anything else is judged: most mistakes are misspellings."""
    if not isinstance(raw, dict):
        return
    known = _names(model)
    for key, value in raw.items():
        here = (*path, key)
        if key not in known:
            raise ConfigurationError(
                f"{'.'.join(here)} is no setting{nearest(key, known)}", file=file, line=line_of(text, here)
            )
        annotation = known[key]
        if get_origin(annotation) is dict and isinstance(value, dict):
            inner = tables_of(get_args(annotation)[-1])
            for name, table in value.items():
                _refuse_unknown_in(inner, table, (*here, name), file, text)
        else:
            _refuse_unknown_in(tables_of(annotation), value, here, file, text)


def _refuse_unknown_in(
    tables: Mapping[str, type[BaseModel]], raw: Any, path: tuple[str, ...], file: Path, text: str
) -> None:
    """The same for a table that may be one of several kinds, the first of which it is where it names none."""
    if not tables or not isinstance(raw, dict):
        return
    kind = str(raw.get("kind", next(iter(tables))))
    if "" not in tables and kind not in tables:
        expected = " or ".join(f"“{known}”" for known in tables)
        raise ConfigurationError(
            f"{'.'.join(path)}.kind: expected {expected}, found “{kind}”",
            file=file,
            line=line_of(text, (*path, "kind")),
        )
    others = {key: [other for other, table in tables.items() if key in table.model_fields] for key in raw}
    for key, kinds in others.items():
        if "kind" not in raw and kinds and kind not in kinds:
            raise ConfigurationError(
                f"{'.'.join((*path, key))}: kind = “{kinds[0]}” is missing beside it",
                file=file,
                line=line_of(text, (*path, key)),
            )
    refuse_unknown(tables.get("", tables.get(kind, BaseModel)), raw, path, file, text)


_EXPECTED = {
    "bool_type": "expected true or false",
    "dict_type": "expected a table",
    "float_type": "expected a number",
    "int_from_float": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_type": "expected a whole number",
    "model_type": "expected a table",
    "string_too_short": "expected a text, found none",
    "string_type": "expected a text in quotes",
    "too_short": "expected at least one",
    "tuple_type": "expected a list, such as [“one”, “two”]",
}
"""What pydantic's kinds of error mean to somebody who writes TOML; its own words say the rest."""


def as_configuration_error(error: ValidationError, file: Path, text: str) -> ConfigurationError:
    """The first thing that pydantic finds wrong, as one sentence with its place in the file."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = tuple(str(part) for part in first["loc"] if part != "[key]")
    kinds = 1 if path[0] == "provider" else 2 if path[0] == "sources" else None  # where pydantic puts the kind
    if kinds is not None and len(path) > kinds:
        path = path[:kinds] + path[kinds + 1 :]
    if first["type"] == "missing":
        return ConfigurationError(f"{'.'.join(path)} is missing", file=file, line=line_of(text, path[:-1]))
    message = _EXPECTED.get(first["type"]) or first["msg"].removeprefix("Value error, ")
    message = message.replace("Input should be", "expected").replace("String should", "expected a text that should")
    while path and path[-1].isdigit():
        path = path[:-1]
    said = f"{'.'.join(path)}: {message[0].lower()}{message[1:]}"
    return ConfigurationError(" ".join(_CONTROL.sub(" ", said).split()), file=file, line=line_of(text, path))


def line_of(text: str, path: tuple[str, ...]) -> int | None:
    """The line of a key or a table in the file, as far as a look at its lines can tell."""
    if not path:
        return None
    table: tuple[str, ...] = ()
    best: int | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[\[?\s*([^\[\]]+?)\s*\]", line):
            table = _parts(header[1])
            if table[: len(path)] == path:
                return number
        elif key := re.match(r"\s*((?:[\w.-]|\"[^\"]*\"|'[^']*')+)\s*=", line):
            here = (*table, *_parts(key[1]))
            if here[: len(path)] == path:
                return number
            if here == path[: len(here)]:
                best = number
    return best


def _parts(dotted: str) -> tuple[str, ...]:
    """The parts of a dotted key of TOML, quoted or bare."""
    return tuple(part.strip("\"'") for part in re.findall(r"\"[^\"]*\"|'[^']*'|[^\s.\"']+", dotted))
