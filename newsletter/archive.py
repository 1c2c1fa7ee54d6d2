"""The public archive: which editions anybody may read, one of them as a page, and the feed of the newest.

What is shown is the form that was compiled for the archive and frozen with the mail, so that the archive says what the
edition said. An edition is public once its audience was frozen, unless it was cancelled: drafts and skipped ones are
not. Reads in the caller's session and knows nothing of HTTP: paths, and whether robots may index, are facts for the
web layer to serve.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

from lxml import etree
from sqlalchemy import select
from sqlmodel import Session, col

from newsletter import store
from newsletter.edition import Latest
from newsletter.models import EditionRecord
from newsletter.schedule import Slot
from newsletter.settings import Settings
from subscribers import MailingList

FEED_EDITIONS = 20  # four weeks of a newsletter on working days: who looks in once a month misses nothing

_ATOM = "http://www.w3.org/2005/Atom"
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
_FEEDS = UUID("e2008a02-3c42-4b73-9300-c5e4f253caed")  # the namespace of our feeds' ids: random, and for good
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # all but Char of XML 1.0, section 2.2
_STAMP = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})-([0-9]{2})([0-9]{2})")
_HTML_LANGUAGE = re.compile(r"<html\b[^>]*?\blang=\"([A-Za-z0-9-]+)\"")


@dataclass(frozen=True, slots=True)
class Filed:
    """An edition in the archive. `subject` is its mail's; `path` leads to its page, below the site's address.

    `str(slot)` is where a page of the index after this one begins (`before`).
    """

    slot: Slot
    subject: str
    headlines: tuple[str, ...]
    went_out_at: datetime
    path: str


@dataclass(frozen=True, slots=True)
class Page:
    """An edition as anybody may read it: a whole HTML document without scripts and forms, and its plain text.

    `language` is a BCP 47 tag, "und" where neither the page nor the configuration tells it. `index` says whether robots
    may index it. `url` is the canonical one.
    """

    subject: str
    html: str
    text: str
    language: str
    index: bool
    url: str


def index_path(newsletter_id: str) -> str:
    """Where the index of a newsletter's editions stands."""
    return f"/e/{newsletter_id}"


def feed_path(newsletter_id: str) -> str:
    """Where the feed of a newsletter stands."""
    return f"/e/{newsletter_id}/feed.atom"


def edition_path(newsletter_id: str, slot: str) -> str:
    """Where the edition of a slot's text ("2026-11-23T07:00") stands: the path of `Contents.view_url`."""
    return f"/e/{newsletter_id}/{slot.replace('T', '-').replace(':', '')}"


def editions_of(
    session: Session, settings: Settings, newsletter_id: str, *, before: str | None, limit: int
) -> list[Filed]:
    """The public editions of a newsletter, newest slot first, at most `limit`.

    `before` is a slot's text: only the editions of earlier slots. A newsletter that is not configured (any more) has no
    index; the pages of its editions stay, since mails lead to them.
    """
    if newsletter_id not in settings.newsletters:
        return []
    return _filed(session, store.public_editions(session, newsletter_id, before=before, limit=limit))


def latest_of(session: Session, newsletter_id: str) -> Latest | None:
    """The newest public edition of a newsletter, None where there is none yet."""
    for filed in _filed(session, store.public_editions(session, newsletter_id, before=None, limit=1)):
        return Latest(filed.subject, filed.path, filed.headlines)
    return None


def edition_page(session: Session, settings: Settings, newsletter_id: str, stamp: str) -> Page | None:
    """The page of an edition by the stamp in its path ("2026-11-23-0700"), None where nothing public is there.

    Editions from before there was an archive form are shown as their mail, filled with what is nobody's. Raises
    EditionError where what is stored is not what was compiled.
    """
    found = _STAMP.fullmatch(stamp)
    slot = f"{found[1]}T{found[2]}:{found[3]}" if found else ""
    record = store.public_edition(session, newsletter_id, slot) if slot else None
    if record is None or record.id is None:
        return None
    stored = store.message_record(session, record.id, store.WEB)
    if stored is not None:
        message = store.load_message(stored)
    elif (mail := store.message_record(session, record.id)) is not None:
        message = store.load_message(mail).archived()
    else:
        return None
    newsletter = settings.newsletters.get(newsletter_id)
    said = _HTML_LANGUAGE.search(message.html)
    configured = newsletter.language if newsletter else "und"
    return Page(
        message.subject,
        message.html,
        message.text,
        said[1] if said else configured,
        _any_public(session, newsletter.lists if newsletter else record.lists),
        settings.site.url + edition_path(newsletter_id, slot),
    )


def is_public(session: Session, settings: Settings, newsletter_id: str) -> bool:
    """Whether robots may index a newsletter's index and feed: one of its lists is public, or none is on record.

    Raises ConfigurationError where there is no such newsletter.
    """
    return _any_public(session, settings.newsletter(newsletter_id).lists)


def _any_public(session: Session, lists: Sequence[str]) -> bool:
    public = session.execute(select(col(MailingList.public)).where(col(MailingList.slug).in_(lists))).scalars().all()
    return any(public) or not public


def _filed(session: Session, records: Sequence[EditionRecord]) -> list[Filed]:
    ids = [record.id for record in records if record.id is not None]
    subjects, headlines = store.subjects_of(session, ids), store.headlines_of(session, ids)
    return [
        Filed(
            Slot.parse(record.slot, record.zone),
            subjects.get(record.id, ""),
            headlines.get(record.id, ()),
            record.frozen_at,
            edition_path(record.newsletter, record.slot),
        )
        for record in records
        if record.id is not None and record.frozen_at is not None
    ]


# ------------------------------------------------------------------------------------------ the feed


def feed(session: Session, settings: Settings, newsletter_id: str, now: datetime) -> bytes:
    """The newest editions of a newsletter as Atom (RFC 4287), in UTF-8.

    Ids are made of the database's own id and the slot, so that they stay when the site moves. `now` dates a feed that
    has no edition yet. Raises ConfigurationError where there is no such newsletter.
    """
    newsletter, site = settings.newsletter(newsletter_id), settings.site
    filed = editions_of(session, settings, newsletter_id, before=None, limit=FEED_EDITIONS)
    instance_id = store.instance(session).instance_id
    made = etree.Element(f"{{{_ATOM}}}feed", {_LANGUAGE: newsletter.language}, nsmap={None: _ATOM})
    _put(made, "id", _urn(instance_id, newsletter_id))
    _put(made, "title", newsletter.title)
    if newsletter.tagline:
        _put(made, "subtitle", newsletter.tagline)
    _put(made, "updated", _instant(max((edition.went_out_at for edition in filed), default=now)))
    author = _put(made, "author")
    _put(author, "name", site.name)
    _put(author, "uri", site.url)
    _put(made, "link", rel="self", type="application/atom+xml", href=site.url + feed_path(newsletter_id))
    _put(made, "link", rel="alternate", type="text/html", href=site.url + index_path(newsletter_id))
    for edition in filed:
        entry = _put(made, "entry")
        url = site.url + edition.path
        _put(entry, "id", _urn(instance_id, newsletter_id, str(edition.slot)))
        _put(entry, "title", edition.subject)
        _put(entry, "published", _instant(edition.went_out_at))
        _put(entry, "updated", _instant(edition.went_out_at))
        _put(entry, "link", rel="alternate", type="text/html", href=url)
        _put(entry, "summary", _listed(edition.headlines, url), type="html")
    return bytes(etree.tostring(made, xml_declaration=True, encoding="utf-8", pretty_print=True))


def _put(parent: Any, name: str, text: str | None = None, **attributes: str) -> Any:
    child = etree.SubElement(parent, f"{{{_ATOM}}}{name}", attributes)
    child.text = None if text is None else _xml(text)
    return child


def _listed(headlines: Sequence[str], url: str) -> str:
    """Headlines as HTML, each a link to its brief, whose heading the digest gives an id."""
    made = etree.Element("ol")
    for number, headline in enumerate(headlines, 1):
        link = etree.SubElement(etree.SubElement(made, "li", dir="auto"), "a", href=f"{url}#b{number}")
        link.text = _xml(headline)
    return str(etree.tostring(made, method="html", encoding="unicode"))


def _xml(text: str) -> str:
    """A text as XML can hold it: what no XML may contain becomes the replacement character."""
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def _urn(*parts: str) -> str:
    return uuid5(_FEEDS, ":".join(parts)).urn


def _instant(instant: datetime) -> str:
    """An instant as RFC 3339 has it, to the second."""
    return instant.isoformat(timespec="seconds")
