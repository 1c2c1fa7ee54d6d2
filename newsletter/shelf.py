"""What the sources gave: recognising briefs again, and how each source has fared. The queries that promise 11 rests on.

Like store.py, these work in the caller's session, decide nothing, and take every instant as an argument.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, Self

from sqlalchemy import and_, exists, func, insert, or_, select, update
from sqlmodel import Session, col

from newsletter.brief import Brief, page_of
from newsletter.models import NEWEST_REVISION, BriefRecord, RevisionRecord, Sighting, SourceRecord
from subscribers import Table

# ------------------------------------------------------------------------------------------ recognising


class Found(NamedTuple):
    """A brief that a source gives: its name there, and what it is recognised by, reckoned once."""

    guid: str
    brief: Brief
    page: str | None
    content_hash: str

    @classmethod
    def of(cls, guid: str, brief: Brief) -> Self:
        """With its page and hash."""
        return cls(guid, brief, page_of(brief.url) if brief.url else None, brief.content_hash)


@dataclass(slots=True)
class Known:
    """A brief on record with its newest content, as plain values: thousands of them pass by in one run.

    `here` is True where the source in question gives it, too; `told_here` where the newest content is that source's.
    `id` is None, and `revision` 0, until it is written.
    """

    id: int | None
    revision: int
    content_hash: str
    page: str | None
    brief: Brief
    here: bool
    told_here: bool


class Shelf:
    """The briefs on record that some found ones may be, looked up at once; and what is to be written about them.

    One transaction long: `write` at its end. What is added is found at once.
    """

    def __init__(self, session: Session, source: str, found: Sequence[Found], now: datetime) -> None:
        self._session, self._source, self._now = session, source, now
        sighted = select(col(Sighting.guid), col(Sighting.content_hash), col(Sighting.brief_id)).where(
            col(Sighting.source) == source, col(Sighting.guid).in_([one.guid for one in found])
        )
        self._sightings = {guid: (content_hash, brief) for guid, content_hash, brief in session.execute(sighted)}
        here = col(BriefRecord.id).in_(select(col(Sighting.brief_id)).where(col(Sighting.source) == source))
        told_here = exists().where(
            col(Sighting.source) == source,
            col(Sighting.brief_id) == col(BriefRecord.id),
            col(Sighting.content_hash) == col(BriefRecord.content_hash),
        )
        rows = session.execute(
            select(
                col(BriefRecord.id),
                col(BriefRecord.revision),
                col(BriefRecord.content_hash),
                col(BriefRecord.page),
                col(RevisionRecord.content),
                here,
                told_here,
            )
            .join(RevisionRecord, NEWEST_REVISION)
            .where(
                or_(
                    col(BriefRecord.id).in_({brief for _, brief in self._sightings.values()}),
                    col(BriefRecord.page).in_({one.page for one in found if one.page}),
                    and_(here, col(BriefRecord.content_hash).in_({one.content_hash for one in found})),
                )
            )
            .order_by(col(BriefRecord.id))
        )
        known = [
            Known(row[0], row[1], row[2], row[3], Brief.model_validate_json(row[4]), bool(row[5]), bool(row[6]))
            for row in rows
        ]
        self._by_id = {one.id: one for one in known}
        self._by_page = {one.page: one for one in known if one.page}  # the newest of several
        self._by_content = {one.content_hash: one for one in known if one.here}
        self._revisions: list[tuple[Known, int, Brief]] = []
        self._seen: dict[str, tuple[Known, str]] = {}

    def hash_of(self, guid: str) -> str | None:
        """The hash of what the source gave last under a name, None where it never gave it."""
        return self._sightings[guid][0] if guid in self._sightings else None

    def by_name(self, guid: str) -> Known | None:
        """What the source last gave under its own name for a brief."""
        return self._by_id[self._sightings[guid][1]] if guid in self._sightings else None

    def by_page(self, page: str) -> Known | None:
        """The brief that stands at a web address, whatever source gave it."""
        return self._by_page.get(page)

    def by_content(self, content_hash: str) -> Known | None:
        """The brief of the source with just this content: a file that was renamed."""
        return self._by_content.get(content_hash)

    def add(self, found: Found) -> None:
        """Put a new brief on record, as its first revision."""
        self.revise(Known(None, 0, found.content_hash, found.page, found.brief, here=True, told_here=True), found)

    def revise(self, known: Known, found: Found) -> None:
        """Put changed content of a brief on record."""
        known.revision += 1
        known.brief, known.content_hash, known.page = found.brief, found.content_hash, found.page
        known.told_here = True
        self._revisions.append((known, known.revision, found.brief))
        self.see(known, found)

    def see(self, known: Known, found: Found) -> None:
        """Note that the source gives a brief under a name. One that stood for another brief stands for this one now."""
        self._seen[found.guid] = (known, found.content_hash)
        known.here = True
        if known.page:
            self._by_page[known.page] = known
        self._by_content[known.content_hash] = known

    def write(self) -> None:
        """Write all of it."""
        self._write_briefs()
        self._insert(
            RevisionRecord,
            [
                {
                    "brief_id": known.id,
                    "number": number,
                    "content": brief.model_dump_json(exclude_defaults=True),
                    "seen_at": self._now,
                }
                for known, number, brief in self._revisions
            ],
        )
        fresh = []
        for guid, (known, content_hash) in self._seen.items():
            if guid in self._sightings:
                self._session.execute(
                    update(Sighting)
                    .where(col(Sighting.source) == self._source, col(Sighting.guid) == guid)
                    .values(brief_id=known.id, content_hash=content_hash, gone_at=None)
                )
            else:
                fresh.append({"source": self._source, "guid": guid, "brief_id": known.id, "content_hash": content_hash})
        self._insert(Sighting, fresh)

    def _write_briefs(self) -> None:
        touched = list({id(known): known for known, _, _ in self._revisions}.values())
        new, old = [one for one in touched if one.id is None], [one for one in touched if one.id is not None]
        if new:
            made = insert(BriefRecord).returning(col(BriefRecord.id), sort_by_parameter_order=True)
            rows = [{**_facts(known), "first_seen_at": self._now} for known in new]
            for known, number in zip(new, self._session.execute(made, rows).scalars(), strict=True):
                known.id = number
        for known in old:
            self._session.execute(update(BriefRecord).where(col(BriefRecord.id) == known.id).values(**_facts(known)))

    def _insert(self, table: type[Table], rows: list[dict[str, Any]]) -> None:
        if rows:
            self._session.execute(insert(table), rows)


def _facts(known: Known) -> dict[str, Any]:
    """The columns of a brief that change with its content."""
    return {
        "url": known.brief.url,
        "page": known.page,
        "headline": known.brief.headline,
        "revision": known.revision,
        "content_hash": known.content_hash,
    }


# ------------------------------------------------------------------------------------------ sources


class Sighted(NamedTuple):
    """What a source gave last under one of its names, and since when it no longer does (None: it still does)."""

    content_hash: str
    gone_at: datetime | None


def sightings(session: Session, source: str) -> dict[str, Sighted]:
    """What a source ever gave, by its own names."""
    columns = (col(Sighting.guid), col(Sighting.content_hash), col(Sighting.gone_at))
    rows = session.execute(select(*columns).where(col(Sighting.source) == source))
    return {row[0]: Sighted(row[1], row[2]) for row in rows}


def withdraw(session: Session, source: str, guids: Iterable[str], now: datetime) -> None:
    """Note that a source no longer gives these: what was not sent yet is no candidate until it comes back."""
    for guid in guids:
        found = session.get(Sighting, (source, guid))
        if found is not None and found.gone_at is None:
            found.gone_at = now


def source_records(session: Session, names: Iterable[str]) -> dict[str, SourceRecord]:
    """How sources that are fetched have fared, as far as they were ever asked."""
    rows = session.execute(select(SourceRecord).where(col(SourceRecord.name).in_(list(names)))).scalars()
    return {row.name: row for row in rows}


def source_record(session: Session, name: str) -> SourceRecord:
    """How one has fared that was asked before."""
    return session.get_one(SourceRecord, name)


class Asked(NamedTuple):
    """When a source that is fetched was asked last, and until when it is to be left alone (None: it is not)."""

    url: str
    asked_at: datetime
    not_before: datetime | None


def asked(session: Session) -> dict[str, Asked]:
    """The same of every source that was ever asked, as plain values: there may be thousands."""
    columns = (SourceRecord.name, SourceRecord.url, SourceRecord.asked_at, SourceRecord.not_before)
    return {row[0]: Asked(*row[1:]) for row in session.execute(select(*map(col, columns)))}


def briefs_by_source(session: Session) -> dict[str, int]:
    """How many briefs on record each source has given."""
    rows = session.execute(
        select(col(Sighting.source), func.count(col(Sighting.brief_id).distinct())).group_by(col(Sighting.source))
    )
    return {row[0]: row[1] for row in rows}


def source_read(session: Session, fared: SourceRecord) -> None:
    """Note that a source was read. What it failed before is over, but stays counted."""
    before = session.get(SourceRecord, fared.name)
    if before is not None and before.url == fared.url:
        fared.failed_at, fared.error, fared.failures_ever = before.failed_at, before.error, before.failures_ever
    session.merge(fared)


def source_unchanged(session: Session, name: str, etag: str | None, last_modified: str | None, now: datetime) -> None:
    """Note that a source answered and gives what it gave before."""
    record = session.get_one(SourceRecord, name)
    record.asked_at = record.succeeded_at = now
    record.failures, record.not_before, record.wished = 0, None, False
    record.etag, record.last_modified = etag or record.etag, last_modified or record.last_modified


def source_failed(session: Session, name: str, url: str, what: str, now: datetime) -> SourceRecord:
    """Note that a source failed, and count it. What was read before stays read, unless it stood elsewhere."""
    record = session.get(SourceRecord, name)
    if record is None or record.url != url:
        record = session.merge(SourceRecord(name=name, url=url, faults=[], asked_at=now))
    record.asked_at = record.failed_at = now
    record.error = what[:500]
    record.failures += 1
    record.failures_ever += 1
    return record
