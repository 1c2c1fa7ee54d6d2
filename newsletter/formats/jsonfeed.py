"""The JSON Feed reader (versions 1 and 1.1): its items into Briefs as the entries of any other feed."""

from collections.abc import Iterator, Mapping
from typing import Any

from newsletter.brief import Brief, one_line
from newsletter.errors import BriefError
from newsletter.formats import Named, Remark
from newsletter.formats.dates import read_stamp
from newsletter.formats.entry import Entry, Told, brief_of, settled
from newsletter.formats.feed import MOST_ENTRIES, plain, tag_of
from newsletter.formats.html import absolute, is_html, is_web, unescaped_once
from newsletter.formats.json import line_at, load, members_of, position_of


def read(text: str, origin: str, base: str | None) -> Iterator[Named | BriefError | Remark] | None:
    """Read the items of a JSON Feed; None where the JSON is none. `base` is the address that it was fetched from."""
    twice: list[str] = []
    data = load(text, origin, twice)
    if not isinstance(data, dict) or not isinstance(data.get("items"), list) or "briefs" in data:
        return None
    if "jsonfeed.org" not in str(data.get("version", "")) and ("headline" in data or "facts" in data):
        return None
    return _items(data, text, origin, base)


def _items(data: dict[str, Any], text: str, origin: str, base: str | None) -> Iterator[Named | BriefError | Remark]:
    items = data["items"]
    site = absolute(_text(data, "home_page_url"), base)
    home = site if is_web(site) else base
    language = tag_of(_text(data, "language"))
    if _text(data, "language") and not language:
        yield Remark(None, f"expected a language as en or pt-BR, found “{_text(data, 'language')[:40]}”")
    starts = [start for _, start in members_of(text, position_of(text, 0, ["items"]))]
    line = at = 0
    found: list[tuple[Entry, Brief]] = []
    for item, start in zip(items[:MOST_ENTRIES], starts, strict=False):
        line += text.count("\n", at, start)
        at = start
        if not isinstance(item, dict):
            yield BriefError(origin, line + 1, "expected an item as a JSON object")
            continue
        try:
            entry = _entry(item, line + 1, home, language)
            for said in brief_of(entry, origin):
                if isinstance(said, Brief):
                    found.append((entry, said))
                else:
                    yield said
        except BriefError as error:
            yield error
    if not items:
        yield Remark(None, "the feed holds no entries yet")
    if len(items) > MOST_ENTRIES:
        what = f"expected at most {MOST_ENTRIES:,} entries, found {len(items):,}; the first are read"
        yield BriefError(origin, line_at(text, starts[MOST_ENTRIES]), what)
    yield from settled(found)


def _entry(item: dict[str, Any], line: int, home: str | None, language: str | None) -> Entry:
    entry = Entry(line, name=_text(item, "id"), title=one_line(_text(item, "title")))
    url = absolute(_text(item, "url") or _text(item, "external_url"), home)
    entry.url = url or (entry.name if is_web(entry.name) else None)
    entry.language = tag_of(_text(item, "language")) or language
    if html := _text(item, "content_html"):
        entry.content = Told(unescaped_once(html), html=True, base=entry.url or home)
    elif said := _text(item, "content_text"):
        entry.content = Told(said, html=False)
    if said := _text(item, "summary"):  # plain text, says the format; many write HTML
        entry.summary = Told(said, html=is_html(said), base=entry.url or home)
    tags = item.get("tags")
    entry.topics = [plain(tag) for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []
    for part, key in (("published", "date_published"), ("updated", "date_modified")):
        given = _text(item, key)
        if given and (stamp := read_stamp(given)) is None:
            entry.remark(f"expected a date that can be read one way, found “{one_line(given)[:60]}”")
        elif given:
            setattr(entry, part, stamp)
    if entry.published and entry.updated and entry.updated <= entry.published:
        entry.updated = None
    picture = _text(item, "image") or _text(item, "banner_image") or _attached(item)
    if picture:
        entry.image = {"url": absolute(picture, entry.url or home), "alt": None, "credit": None}
    return entry


def _text(data: Mapping[str, Any], key: str) -> str:
    """A member that is text, without half characters; a number, as some ids are, as its digits."""
    value = data.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < 10**40 else ""
    return value.encode(errors="replace").decode().strip() if isinstance(value, str) else ""


def _attached(item: Mapping[str, Any]) -> str:
    attachments = item.get("attachments")
    for one in attachments if isinstance(attachments, list) else ():
        if isinstance(one, dict) and _text(one, "mime_type").startswith("image/"):
            return _text(one, "url")
    return ""
