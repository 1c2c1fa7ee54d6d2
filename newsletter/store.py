"""Every query on the tables of what is sent, as named operations.

Each works in the caller's session and leaves committing to it; the caller opens a writing transaction
(`subscribers.transaction`) for whatever changes rows. Instants are arguments, aware. Nothing here decides: what to
take, what a receipt means and when to stop is decided above, in functions without a database.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Self

from sqlalchemy import CursorResult, and_, delete, exists, func, insert, literal, or_, select, update
from sqlmodel import Session, col

from newsletter.brief import Brief, page_of
from newsletter.edition import Event, Message
from newsletter.errors import EditionError
from newsletter.models import (
    BriefRecord,
    Decision,
    EditionRecord,
    EditionState,
    EventRecord,
    Instance,
    MessageRecord,
    OperatorAct,
    RevisionRecord,
    Sighting,
    SourceRecord,
    Verdict,
)
from newsletter.schedule import Slot

# ------------------------------------------------------------------------------------------ this database


def instance(session: Session) -> Instance:
    """The row that says which database this is."""
    return session.get_one(Instance, 1)


def create_instance(session: Session, instance_id: str, now: datetime) -> None:
    """Name a new database."""
    session.add(Instance(instance_id=instance_id, created_at=now))


def halt(session: Session, *, now: datetime, actor: str, reason: str | None) -> bool:
    """Stop all dispatch from the next batch on. False where it was halted already."""
    row = instance(session)
    if row.halted_at is not None:
        return False
    row.halted_at, row.halted_by, row.halt_reason = now, actor, reason
    act(session, "halt", now=now, actor=actor, note=reason)
    return True


def unhalt(session: Session, *, now: datetime, actor: str) -> bool:
    """Let dispatch run again. False where it was not halted."""
    row = instance(session)
    if row.halted_at is None:
        return False
    row.halted_at = row.halted_by = row.halt_reason = None
    act(session, "unhalt", now=now, actor=actor)
    return True


def act(
    session: Session, what: str, *, now: datetime, actor: str, edition_id: int | None = None, note: str | None = None
) -> None:
    """Put on record that somebody did something."""
    session.add(OperatorAct(at=now, actor=actor, act=what, edition_id=edition_id, note=note))


# ------------------------------------------------------------------------------------------ briefs


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
    """A brief on record with its newest content.

    `here` is True where the source in question gives it, too; `told_here` where the newest content is that source's.
    """

    record: BriefRecord
    brief: Brief
    here: bool
    told_here: bool


class Shelf:
    """The briefs on record that some found ones may be, looked up at once; and what is to be written about them.

    One transaction long: `write` at its end. What is added is found at once.
    """

    def __init__(self, session: Session, source: str, found: Sequence[Found], now: datetime) -> None:
        self._session, self._source, self._now = session, source, now
        names = [one.guid for one in found]
        pages = {one.page for one in found if one.page}
        hashes = {one.content_hash for one in found}
        sighted = select(Sighting).where(col(Sighting.source) == source, col(Sighting.guid).in_(names))
        self._sightings = {row.guid: row for row in session.execute(sighted).scalars()}
        seen_here = select(col(Sighting.brief_id)).where(col(Sighting.source) == source)
        here = col(BriefRecord.id).in_(seen_here)
        told_here = exists().where(
            col(Sighting.source) == source,
            col(Sighting.brief_id) == col(BriefRecord.id),
            col(Sighting.content_hash) == col(BriefRecord.content_hash),
        )
        rows = session.execute(
            select(BriefRecord, col(RevisionRecord.content), here, told_here)
            .join(RevisionRecord, _newest_revision())
            .where(
                or_(
                    col(BriefRecord.id).in_({row.brief_id for row in self._sightings.values()}),
                    col(BriefRecord.page).in_(pages),
                    and_(here, col(BriefRecord.content_hash).in_(hashes)),
                )
            )
            .order_by(col(BriefRecord.id))
        )
        known = [Known(record, Brief.model_validate_json(content), bool(g), bool(t)) for record, content, g, t in rows]
        self._by_id = {one.record.id: one for one in known}
        self._by_page = {one.record.page: one for one in known if one.record.page}  # the newest of several
        self._by_content = {one.record.content_hash: one for one in known if one.here}
        self._revisions: list[tuple[BriefRecord, int, str]] = []
        self._seen: dict[str, tuple[BriefRecord, str]] = {}

    def hash_of(self, guid: str) -> str | None:
        """The hash of what the source gave last under a name, None where it never gave it."""
        return self._sightings[guid].content_hash if guid in self._sightings else None

    def by_name(self, guid: str) -> Known | None:
        """What the source last gave under its own name for a brief."""
        return self._by_id[self._sightings[guid].brief_id] if guid in self._sightings else None

    def by_page(self, page: str) -> Known | None:
        """The brief that stands at a web address, whatever source gave it."""
        return self._by_page.get(page)

    def by_content(self, content_hash: str) -> Known | None:
        """The brief of the source with just this content: a file that was renamed."""
        return self._by_content.get(content_hash)

    def add(self, found: Found) -> None:
        """Put a new brief on record, as its first revision."""
        record = BriefRecord(headline="", content_hash="", first_seen_at=self._now, revision=0)
        self._session.add(record)
        self.revise(Known(record, found.brief, here=True, told_here=True), found)

    def revise(self, known: Known, found: Found) -> None:
        """Put changed content of a brief on record."""
        record = known.record
        record.revision += 1
        record.url, record.page = found.brief.url, found.page
        record.headline, record.content_hash = found.brief.headline, found.content_hash
        self._revisions.append((record, record.revision, found.brief.model_dump_json(exclude_defaults=True)))
        self.see(known, found)
        known.brief, known.told_here = found.brief, True

    def see(self, known: Known, found: Found) -> None:
        """Note that the source gives a brief under a name. One that stood for another brief stands for this one now."""
        self._seen[found.guid] = (known.record, found.content_hash)
        known.here = True
        if known.record.page:
            self._by_page[known.record.page] = known
        self._by_content[known.record.content_hash] = known

    def write(self) -> None:
        """Write all of it."""
        self._session.flush()  # gives the new ones their ids
        revisions = [
            {"brief_id": record.id, "number": number, "content": content, "seen_at": self._now}
            for record, number, content in self._revisions
        ]
        if revisions:
            self._session.execute(insert(RevisionRecord), revisions)
        fresh = []
        for guid, (record, content_hash) in self._seen.items():
            row = self._sightings.get(guid)
            if row is None:
                fresh.append(
                    {"source": self._source, "guid": guid, "brief_id": record.id, "content_hash": content_hash}
                )
            else:
                row.brief_id, row.content_hash, row.gone_at = record.id or 0, content_hash, None
        if fresh:
            self._session.execute(insert(Sighting), fresh)
        self._session.flush()


def _newest_revision() -> Any:
    return and_(
        col(RevisionRecord.brief_id) == col(BriefRecord.id), col(RevisionRecord.number) == col(BriefRecord.revision)
    )


def sightings(session: Session, source: str) -> dict[str, Sighting]:
    """What a source ever gave, by its own names."""
    rows = session.execute(select(Sighting).where(col(Sighting.source) == source)).scalars()
    return {row.guid: row for row in rows}


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


@dataclass(frozen=True, slots=True)
class Candidate:
    """A brief that a newsletter has not finally decided about, in its newest revision."""

    brief_id: int
    revision: int
    source: str
    brief: Brief
    first_seen_at: datetime
    went_out: str | None  # the slot in which an earlier revision of it went out, None where none did


def candidates(session: Session, newsletter: str, sources: Sequence[str]) -> list[Candidate]:
    """The newest revisions of these sources' briefs on which there is no final decision, oldest on record first."""
    final = exists(
        select(literal(1)).where(
            col(Decision.newsletter) == newsletter,
            col(Decision.brief_id) == col(BriefRecord.id),
            col(Decision.revision) == col(BriefRecord.revision),
            col(Decision.final),
        )
    )
    went_out = (
        select(func.max(col(EditionRecord.slot)))
        .join(Decision, col(Decision.edition_id) == col(EditionRecord.id))
        .where(
            col(Decision.newsletter) == newsletter,
            col(Decision.brief_id) == col(BriefRecord.id),
            col(Decision.verdict) == Verdict.TAKEN,
            col(Decision.final),
        )
        .scalar_subquery()
    )
    seen = (
        select(col(Sighting.brief_id), func.min(col(Sighting.source)).label("source"))
        .where(col(Sighting.source).in_(list(sources)), col(Sighting.gone_at).is_(None))
        .group_by(col(Sighting.brief_id))
        .subquery()
    )
    rows = session.execute(
        select(BriefRecord, col(RevisionRecord.content), went_out, seen.c.source)
        .join(RevisionRecord, _newest_revision())
        .join(seen, seen.c.brief_id == col(BriefRecord.id))
        .where(~final)
        .order_by(col(BriefRecord.id))
    )
    return [
        Candidate(
            record.id or 0, record.revision, source, Brief.model_validate_json(content), record.first_seen_at, slot
        )
        for record, content, slot, source in rows
    ]


def sources_decided(session: Session, newsletter: str) -> set[str]:
    """The sources from which a newsletter has finally decided about anything: their first run is over."""
    rows = session.execute(
        select(col(Decision.source)).where(col(Decision.newsletter) == newsletter, col(Decision.final)).distinct()
    )
    return set(rows.scalars())


def briefs_of(session: Session, edition_id: int) -> list[Brief]:
    """The briefs that an edition took, in their order, in the revisions that it took."""
    rows = session.execute(
        select(col(RevisionRecord.content))
        .join(
            Decision,
            and_(
                col(Decision.brief_id) == col(RevisionRecord.brief_id),
                col(Decision.revision) == col(RevisionRecord.number),
            ),
        )
        .where(col(Decision.edition_id) == edition_id, col(Decision.verdict) == Verdict.TAKEN)
        .order_by(col(Decision.position))
    )
    return [Brief.model_validate_json(content) for content in rows.scalars()]


@dataclass(frozen=True, slots=True)
class OnRecord:
    """A brief on record, where it was found, and what newsletters decided about it."""

    record: BriefRecord
    sightings: list[Sighting]
    decisions: list[Decision]


def brief_rows(session: Session, limit: int) -> list[OnRecord]:
    """The briefs on record, newest first."""
    records = session.execute(select(BriefRecord).order_by(col(BriefRecord.id).desc()).limit(limit)).scalars().all()
    made = {record.id: OnRecord(record, [], []) for record in records}
    for sighting in session.execute(select(Sighting).where(col(Sighting.brief_id).in_(list(made)))).scalars():
        made[sighting.brief_id].sightings.append(sighting)
    for decision in session.execute(select(Decision).where(col(Decision.brief_id).in_(list(made)))).scalars():
        made[decision.brief_id].decisions.append(decision)
    return list(made.values())


# ------------------------------------------------------------------------------------------ editions


@dataclass(frozen=True, slots=True)
class Ruling:
    """A decision to be written."""

    brief_id: int
    revision: int
    source: str
    verdict: Verdict
    reason: str | None = None
    position: int | None = None


def edition(session: Session, newsletter: str, slot: Slot) -> EditionRecord | None:
    """The edition of a slot, None where there is none yet."""
    return session.execute(
        select(EditionRecord).where(col(EditionRecord.newsletter) == newsletter, col(EditionRecord.slot) == str(slot))
    ).scalar_one_or_none()


def editions(session: Session, newsletter: str | None, limit: int) -> list[EditionRecord]:
    """The latest editions, newest first; of one newsletter, or of all."""
    query = select(EditionRecord).order_by(col(EditionRecord.slot_at).desc(), col(EditionRecord.id).desc()).limit(limit)
    if newsletter:
        query = query.where(col(EditionRecord.newsletter) == newsletter)
    return list(session.execute(query).scalars())


def frozen_editions(session: Session, newsletter: str) -> list[EditionRecord]:
    """The editions of a newsletter whose audience was ever frozen, newest slot first."""
    return list(
        session.execute(
            select(EditionRecord)
            .where(col(EditionRecord.newsletter) == newsletter, col(EditionRecord.frozen_at).is_not(None))
            .order_by(col(EditionRecord.slot_at).desc())
        ).scalars()
    )


def open_editions(session: Session) -> list[EditionRecord]:
    """The editions that are frozen and not closed, oldest slot first."""
    return list(
        session.execute(
            select(EditionRecord)
            .where(col(EditionRecord.state).in_([EditionState.DISPATCHING, EditionState.PAUSED]))
            .order_by(col(EditionRecord.slot_at))
        ).scalars()
    )


def write_draft(
    session: Session,
    newsletter: str,
    slot: Slot,
    *,
    lists: Sequence[str],
    stale_after: timedelta,
    rulings: Iterable[Ruling],
    message: Message | None,
    skipped: str | None,
    now: datetime,
) -> EditionRecord:
    """Make or remake the draft of a slot: its edition, its decisions (not final) and its Message.

    `skipped` says why there is no Message. Where the edition is past being a draft it is given back untouched.
    """
    record = edition(session, newsletter, slot)
    if record is None:
        record = EditionRecord(
            newsletter=newsletter,
            slot=str(slot),
            zone=slot.zone,
            slot_at=slot.instant,
            state=EditionState.DRAFT,
            created_at=now,
            lists=list(lists),
            stale_after_s=0,
        )
        session.add(record)
    elif record.state not in {EditionState.DRAFT, EditionState.SKIPPED}:
        return record
    record.state = EditionState.SKIPPED if skipped else EditionState.DRAFT
    record.reason = skipped
    record.zone, record.slot_at = slot.zone, slot.instant
    record.lists = list(lists)
    record.stale_after_s = int(stale_after.total_seconds())
    session.flush()
    assert record.id is not None
    session.execute(delete(Decision).where(col(Decision.newsletter) == newsletter, ~col(Decision.final)))
    session.execute(delete(MessageRecord).where(col(MessageRecord.edition_id) == record.id))
    taken = 0
    final = {(row.brief_id, row.revision) for row in _final(session, newsletter)}
    for ruling in rulings:
        taken += ruling.verdict is Verdict.TAKEN
        if (ruling.brief_id, ruling.revision) in final:
            continue  # decided meanwhile by another edition: the freeze finds the sum wrong and asks for a new draft
        session.add(
            Decision(
                newsletter=newsletter,
                brief_id=ruling.brief_id,
                revision=ruling.revision,
                source=ruling.source,
                verdict=ruling.verdict,
                reason=ruling.reason,
                position=ruling.position,
                edition_id=record.id,
                decided_at=now,
            )
        )
    if message is not None:
        session.add(
            MessageRecord(
                edition_id=record.id,
                content=json.dumps(message.to_json(), ensure_ascii=False),
                digest=message.digest,
                html_bytes=message.html_bytes,
                briefs=taken,
                compiled_at=now,
            )
        )
    session.flush()
    return record


def _final(session: Session, newsletter: str) -> list[Decision]:
    return list(
        session.execute(select(Decision).where(col(Decision.newsletter) == newsletter, col(Decision.final))).scalars()
    )


def load_message(stored: MessageRecord) -> Message:
    """The Message of a row. Raises EditionError where it is not the one that was written."""
    message = Message.from_json(json.loads(stored.content))
    if message.digest != stored.digest:
        raise EditionError(f"message {stored.id}", "its text was changed in the database after it was compiled")
    return message


def message_record(session: Session, edition_id: int) -> MessageRecord | None:
    """The stored Message of an edition, None for a skipped one."""
    return session.execute(
        select(MessageRecord)
        .where(col(MessageRecord.edition_id) == edition_id)
        .order_by(col(MessageRecord.revision).desc())
        .limit(1)
    ).scalar_one_or_none()


def set_edition(
    session: Session, edition_id: int, state: EditionState, *, reason: str | None, only_from: Iterable[EditionState]
) -> bool:
    """Move an edition on, if it is still where the caller saw it. False where it is not."""
    done = changed_rows(
        session,
        update(EditionRecord)
        .where(col(EditionRecord.id) == edition_id, col(EditionRecord.state).in_(list(only_from)))
        .values(state=state, reason=reason),
    )
    return done == 1


def changed_rows(session: Session, statement: Any) -> int:
    """Execute a statement that changes rows, and say how many."""
    result = session.execute(statement)
    assert isinstance(result, CursorResult)
    return int(result.rowcount)


# ------------------------------------------------------------------------------------------ events

_KEYS_AT_ONCE = 500  # SQLite takes 32,766 parameters a statement; this keeps statements short


def add_events(session: Session, provider: str, events: Sequence[Event], now: datetime) -> int:
    """Put on record what a provider told, each event once, however often and in whatever order it is told.

    Gives how many were new.
    """
    told: dict[str, Event] = {}
    for event in events:
        told.setdefault(event.id[:200], event)
    known: set[str] = set()
    ids = list(told)
    for start in range(0, len(ids), _KEYS_AT_ONCE):
        known.update(
            session.execute(
                select(col(EventRecord.event_id)).where(
                    col(EventRecord.provider) == provider,
                    col(EventRecord.event_id).in_(ids[start : start + _KEYS_AT_ONCE]),
                )
            ).scalars()
        )
    rows = [
        {
            "provider": provider,
            "event_id": event_id,
            "kind": event.kind,
            "said": event.said[:60],
            "at": event.at,
            "received_at": now,
            "delivery": event.delivery,
            "attempt": event.attempt,
            "provider_id": event.provider_id,
            "address": event.address,
            "reason": event.reason[:300] if event.reason else None,
            "machine": event.machine,
        }
        for event_id, event in told.items()
        if event_id not in known
    ]
    if rows:
        session.execute(insert(EventRecord), rows)
    return len(rows)


def event_counts(session: Session) -> dict[tuple[str, str], int]:
    """How many events of each provider and kind are on record."""
    rows = session.execute(
        select(col(EventRecord.provider), col(EventRecord.kind), func.count())
        .group_by(col(EventRecord.provider), col(EventRecord.kind))
        .order_by(col(EventRecord.provider), col(EventRecord.kind))
    )
    return {(provider, str(kind)): count for provider, kind, count in rows}
