"""Our own lint for MJML, and the checks of compiled HTML: the compiler accepts anything, so we do not.

Templates are annotated before Jinja reads them: every tag carries `data-at="file:line"` through rendering, so that a
fault found in the result names the template's line. `lint` reads the annotated MJML and `bare` takes the notes out.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape

from newsletter.errors import CompileError

_JINJA_OR_TAG = re.compile(
    r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}|<!--.*?-->|<style\b.*?</style>|<mj-style\b(?P<style>[^>]*)>.*?</mj-style>"
    r"|<(?P<name>[a-zA-Z][a-zA-Z0-9-]*)",
    re.DOTALL,
)
_NOTE = re.compile(r' data-at="[^"]*"')


def annotate(source: str, template: str) -> str:
    """A template's source with a note of file and line in each tag. Line numbers stay as they are."""

    def note(match: re.Match[str]) -> str:
        if match["name"] is None:
            if match.group().startswith("<mj-style"):
                line = source.count("\n", 0, match.start()) + 1
                return f'<mj-style data-at="{template}:{line}"' + match.group()[len("<mj-style") :]
            return match.group()
        line = source.count("\n", 0, match.start()) + 1
        return f'{match.group()} data-at="{template}:{line}"'

    return _JINJA_OR_TAG.sub(note, source)


def bare(annotated: str) -> str:
    """The text without its notes."""
    return _NOTE.sub("", annotated)


# ------------------------------------------------------------------------------------------ MJML

_PADDING = "padding padding-top padding-right padding-bottom padding-left"
_BORDER = "border border-top border-right border-bottom border-left border-radius"
_INNER_BORDER = (
    "inner-border inner-border-top inner-border-right inner-border-bottom inner-border-left inner-border-radius"
)
_FONT = (
    "color font-family font-size font-style font-weight letter-spacing line-height text-align text-decoration "
    "text-transform"
)
_BACKGROUND = (
    "background-color background-url background-repeat background-size background-position background-position-x "
    "background-position-y"
)

_ATTRIBUTES = {  # what each component takes (MJML 4 documentation, "Components", read 2026-11)
    "mjml": "lang dir owa",
    "mj-head": "",
    "mj-body": "width background-color id lang dir",
    "mj-title": "dir lang",
    "mj-preview": "",
    "mj-style": "inline",
    "mj-raw": "position",
    "mj-font": "name href",
    "mj-breakpoint": "width",
    "mj-attributes": "",
    "mj-wrapper": f"{_PADDING} {_BORDER} {_BACKGROUND} full-width text-align direction gap",
    "mj-section": f"{_PADDING} {_BORDER} {_BACKGROUND} full-width text-align text-padding direction",
    "mj-group": "background-color direction vertical-align width",
    "mj-column": f"{_PADDING} {_BORDER} {_INNER_BORDER} background-color inner-background-color direction "
    "vertical-align width",
    "mj-text": f"{_PADDING} {_FONT} align container-background-color height vertical-align",
    "mj-button": f"{_PADDING} {_BORDER} {_FONT} align background-color container-background-color height href "
    "inner-padding name rel target title vertical-align width",
    "mj-image": f"{_PADDING} {_BORDER} align alt container-background-color fluid-on-mobile font-size full-width "
    "height href max-height name rel sizes src srcset target title usemap width",
    "mj-divider": f"{_PADDING} align border-color border-style border-width container-background-color width",
    "mj-spacer": f"{_PADDING} container-background-color height",
    "mj-table": f"{_PADDING} {_BORDER} align cellpadding cellspacing color container-background-color font-family "
    "font-size font-weight line-height role table-layout vertical-align width",
    "mj-social": f"{_PADDING} {_FONT} align border-radius container-background-color icon-height icon-size "
    "icon-padding inner-padding mode table-layout text-padding vertical-align",
    "mj-social-element": f"{_PADDING} {_FONT} align alt background-color border-radius href icon-height icon-padding "
    "icon-size icon-position name rel sizes src srcset target text-padding title vertical-align",
    "mj-hero": f"{_PADDING} {_BACKGROUND} background-height background-width border-radius height "
    "inner-background-color mode vertical-align width",
}
_EVERYWHERE = {"css-class", "mj-class", "data-at"}
_COLUMN_CONTENT = {"mj-text", "mj-button", "mj-image", "mj-divider", "mj-spacer", "mj-table", "mj-social", "mj-raw"}
_CHILDREN = {
    "": {"mjml"},
    "mjml": {"mj-head", "mj-body"},
    "mj-head": {
        "mj-title", "mj-preview", "mj-style", "mj-raw", "mj-font", "mj-breakpoint", "mj-attributes",
    },
    "mj-body": {"mj-section", "mj-wrapper", "mj-hero", "mj-raw"},
    "mj-wrapper": {"mj-section", "mj-hero", "mj-raw"},
    "mj-section": {"mj-column", "mj-group", "mj-raw"},
    "mj-group": {"mj-column", "mj-raw"},
    "mj-column": _COLUMN_CONTENT,
    "mj-hero": _COLUMN_CONTENT,
    "mj-social": {"mj-social-element", "mj-raw"},
    "mj-attributes": {name for name in _ATTRIBUTES if name not in {"mjml", "mj-head", "mj-attributes"}}
    | {"mj-all", "mj-class"},
}  # fmt: skip
_HOLD_HTML = {"mj-text", "mj-button", "mj-raw", "mj-table", "mj-social-element", "mj-title", "mj-preview", "mj-style"}
_VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
_FORBIDDEN_HTML = {"script", "iframe", "object", "embed", "form", "input", "button", "video", "audio", "svg", "base"}

_TOKEN = re.compile(
    r"<!--.*?-->|<style\b[^>]*>.*?</style>|(?<=>)(?P<css>[^<]*)(?=</mj-style)"
    r"|</(?P<end>[a-zA-Z][a-zA-Z0-9-]*)\s*>"
    r"|<(?P<start>[a-zA-Z][a-zA-Z0-9-]*)"
    r"(?P<attributes>(?:\s+[^\s=<>\"'/]+(?:\s*=\s*(?:\"[^\"]*\"|'[^']*'|[^\s\"'<>]+))?)*)\s*(?P<empty>/?)>"
    r"|(?P<stray><)",
    re.DOTALL,
)
_ATTRIBUTE = re.compile(r"([^\s=<>\"'/]+)(?:\s*=\s*(\"[^\"]*\"|'[^']*'|[^\s\"'<>]+))?")


@dataclass(frozen=True, slots=True)
class _Open:
    name: str
    at: str  # "file:line", "" where unknown


def lint(annotated: str, template: str) -> None:
    """Refuse what is no MJML: unknown tags, attributes, places, tags not closed. Raises CompileError with the line."""
    stack: list[_Open] = [_Open("", "")]
    seen_at = ""
    for token in _TOKEN.finditer(annotated):
        if token["stray"]:
            raise _fault(seen_at, template, "a bare “<” is no tag; write &lt;")
        if token["end"]:
            _close(stack, token["end"].lower(), seen_at, template)
        elif token["start"]:
            seen_at = _start(stack, token, template) or seen_at
    if len(stack) > 1:
        raise _fault(stack[-1].at, template, f"<{stack[-1].name}> is never closed")


def _start(stack: list[_Open], token: re.Match[str], template: str) -> str:
    name = token["start"].lower()
    attributes = _ATTRIBUTE.findall(token["attributes"] or "")
    at = next((value.strip("\"'") for key, value in attributes if key == "data-at"), "")
    parent = stack[-1].name
    in_html = any(opened.name in _HOLD_HTML for opened in stack)
    if name == "mjml" or name.startswith("mj-"):
        if in_html:
            raise _fault(at, template, f"<{name}> cannot stand inside <{parent}>")
        _check_component(name, parent, attributes, at, template)
    elif not in_html:
        raise _fault(
            at, template, f"<{name}> cannot stand inside <{parent or 'nothing'}>; put HTML into mj-text or mj-raw"
        )
    elif name in _FORBIDDEN_HTML:
        raise _fault(at, template, f"<{name}> has no place in a mail")
    keys = [key.lower() for key, _ in attributes]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise _fault(at, template, f"<{name}> has {twice} twice")
    if not token["empty"] and not (name in _VOID and in_html):
        stack.append(_Open(name, at))
    return at


def _check_component(name: str, parent: str, attributes: list[tuple[str, str]], at: str, template: str) -> None:
    known = {*_ATTRIBUTES, "mj-all", "mj-class"}
    if name not in known:
        raise _fault(at, template, f"<{name}> is no MJML component")
    if name not in _CHILDREN.get(parent, set()):
        raise _fault(at, template, f"<{name}> cannot stand inside <{parent or 'nothing'}>")
    if parent == "mj-attributes":
        return
    takes = {*_ATTRIBUTES[name].split(), *_EVERYWHERE}
    for key, value in attributes:
        if key.lower() not in takes:
            raise _fault(at, template, f"<{name}> takes no attribute {key}")
        if value[:1] not in {'"', "'"}:
            raise _fault(at, template, f"<{name}> {key}: expected a quoted value")


def _close(stack: list[_Open], name: str, seen_at: str, template: str) -> None:
    opened = stack[-1]
    if opened.name == name:
        stack.pop()
        return
    if any(entry.name == name for entry in stack):
        raise _fault(opened.at, template, f"<{opened.name}> is not closed before </{name}>")
    raise _fault(seen_at, template, f"</{name}> closes nothing (after this line)")


def _fault(at: str, template: str, what: str) -> CompileError:
    file, _, line = at.rpartition(":")
    return CompileError(file or template, int(line) if line.isdigit() else None, what)


# ------------------------------------------------------------------------------------------ compiled HTML


@dataclass(frozen=True, slots=True)
class Element:
    """A tag of compiled HTML with its attributes (None where one has no value)."""

    name: str
    attributes: dict[str, str | None]


_SHOWN = re.compile(r"<!--.*?-->|<(style|title)\b[^>]*>.*?</\1>|</[^>]*>", re.DOTALL)
_HTML_TAG = re.compile(
    r"<([a-zA-Z][a-zA-Z0-9-]*)((?:\s+[^\s=<>\"'/]+(?:\s*=\s*(?:\"[^\"]*\"|'[^']*'|[^\s>]+))?)*)\s*/?>"
)


def read_html(html: str) -> tuple[list[Element], str]:
    """The elements of compiled HTML, and its text with blanks folded. What stands in comments is left out.

    For what our own stages wrote, which is well formed: an HTML parser takes ten times as long to say the same.
    """
    elements: list[Element] = []

    def take(match: re.Match[str]) -> str:
        attributes = {key.lower(): _unquoted(value) for key, value in _ATTRIBUTE.findall(match[2])}
        elements.append(Element(match[1].lower(), attributes))
        return " " if match[1] in {"br", "td", "p", "div", "li", "tr", "h1", "h2", "h3"} else ""

    text = _HTML_TAG.sub(take, _SHOWN.sub("", html))
    return elements, " ".join(unescape(text).split())


def _unquoted(value: str) -> str | None:
    return unescape(value[1:-1] if value[:1] in {'"', "'"} else value) if value else None


def bad_links(elements: list[Element], leading: str) -> Iterator[str]:
    """Links and images of a template that a mail cannot have: relative ones, other schemes. `leading` opens a field."""
    ids = {f"#{element.attributes['id']}" for element in elements if element.attributes.get("id")}
    for element in elements:
        for key in ("href", "src"):
            value = element.attributes.get(key)
            if value is None or element.name == "meta":
                continue
            if (
                not re.match(r"https?://[^/\s]|mailto:[^@\s]+@", value)
                and not value.startswith(leading)
                and value not in ids
            ):
                yield f"<{element.name} {key}=“{value[:80]}”> is not an absolute address"
