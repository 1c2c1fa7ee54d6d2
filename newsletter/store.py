"""Every query on the tables of what is sent, as named operations.

Each works in the caller's session and leaves committing to it; the caller opens a writing transaction
(`subscribers.transaction`) for whatever changes rows. Instants are arguments, aware. Nothing here decides: what to
take, what a receipt means and when to stop is decided above, in functions without a database.
"""

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    CursorResult,
    Select,
    and_,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlmodel import Session, col

from newsletter.brief import Brief
from newsletter.edition import Event, Message
from newsletter.errors import EditionError
from newsletter.models import (
    NEWEST_REVISION,
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
    Verdict,
)
from newsletter.names import tag_of
from newsletter.schedule import Slot
from subscribers import Instant, json_member

CLOCKS_APART = timedelta(hours=1)
"""What a lease may end later than one that begins now: beyond that, a clock was wrong."""

# ------------------------------------------------------------------------------------------ this database


def instance(session: Session) -> Instance:
    """The row that says which database this is."""
    return session.get_one(Instance, 1)


def create_instance(session: Session, instance_id: str, place: str, now: datetime) -> None:
    """Name a new database, and say where it is."""
    session.add(Instance(instance_id=instance_id, created_at=now, place=place))


def halt(session: Session, *, now: datetime, actor: str, reason: str | None) -> bool:
    """Stop all dispatch from the next batch on. False where it was halted already."""
    row = instance(session)
    if row.halted_at is not None:
        return False
    row.halted_at, row.halted_by, row.halt_reason = now, actor, reason
    act(session, "halt", now=now, actor=actor, note=reason)
    return True


def unhalt(session: Session, *, now: datetime, actor: str, place: str) -> bool:
    """Let dispatch run again, from the place where the database is. False where it was not halted."""
    row = instance(session)
    if row.halted_at is None:
        return False
    row.halted_at = row.halted_by = row.halt_reason = None
    row.place = place
    act(session, "unhalt", now=now, actor=actor)
    return True


def act(
    session: Session, what: str, *, now: datetime, actor: str, edition_id: int | None = None, note: str | None = None
) -> None:
    """Put on record that somebody did something."""
    session.add(OperatorAct(at=now, actor=actor, act=what, edition_id=edition_id, note=note))


def acts_of(session: Session, edition_id: int) -> list[OperatorAct]:
    """What was done with an edition, by whom and when, oldest first."""
    mine = select(OperatorAct).where(col(OperatorAct.edition_id) == edition_id).order_by(col(OperatorAct.id))
    return list(session.execute(mine).scalars())


# ------------------------------------------------------------------------------------------ briefs


@dataclass(frozen=True, slots=True)
class Candidate:
    """A brief that a newsletter has not finally decided about, in its newest revision."""

    brief_id: int
    revision: int
    source: str
    brief: Brief
    first_seen_at: datetime
    went_out: str | None  # the slot in which an earlier revision of it went out, None where none did


def candidates(
    session: Session, newsletter: str, sources: Sequence[str], edition_id: int | None = None
) -> list[Candidate]:
    """The newest revisions of these sources' briefs on which there is no final decision, oldest on record first.

    What another edition than `edition_id` has taken that is drafted, and goes out as it is, is no candidate either.
    Nor is a brief that was pulled.
    """
    final = exists(
        select(literal(1)).where(
            col(Decision.newsletter) == newsletter,
            col(Decision.brief_id) == col(BriefRecord.id),
            or_(
                and_(col(Decision.revision) == col(BriefRecord.revision), col(Decision.final)),
                and_(
                    col(Decision.verdict) == Verdict.TAKEN,
                    col(Decision.edition_id).in_(_kept_drafts(newsletter, edition_id)),
                ),
            ),
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
        .join(RevisionRecord, NEWEST_REVISION)
        .join(seen, seen.c.brief_id == col(BriefRecord.id))
        .where(~final, col(BriefRecord.pulled_at).is_(None))
        .order_by(col(BriefRecord.id))
    )
    return [
        Candidate(
            record.id or 0, record.revision, source, Brief.model_validate_json(content), record.first_seen_at, slot
        )
        for record, content, slot, source in rows
    ]


def carried(
    session: Session, newsletter: str, of: str, *, after: datetime, until: datetime, edition_id: int | None = None
) -> list[Candidate]:
    """What the editions of another newsletter carried whose slots lie after one instant and up to another.

    In the newest revisions, oldest on record first; without what was pulled, and what this newsletter has decided.
    """
    those = (
        select(col(Decision.brief_id), func.min(col(Decision.source)).label("source"))
        .join(EditionRecord, col(EditionRecord.id) == col(Decision.edition_id))
        .where(
            col(EditionRecord.newsletter) == of,
            _PUBLIC,
            col(EditionRecord.slot_at) > after,
            col(EditionRecord.slot_at) <= until,
            col(Decision.verdict) == Verdict.TAKEN,
            col(Decision.position).is_not(None),
        )
        .group_by(col(Decision.brief_id))
        .subquery()
    )
    mine = exists(
        select(literal(1)).where(
            col(Decision.newsletter) == newsletter,
            col(Decision.brief_id) == col(BriefRecord.id),
            col(Decision.verdict) == Verdict.TAKEN,
            or_(col(Decision.final), col(Decision.edition_id).in_(_kept_drafts(newsletter, edition_id))),
        )
    )
    rows = session.execute(
        select(BriefRecord, col(RevisionRecord.content), those.c.source)
        .join(RevisionRecord, NEWEST_REVISION)
        .join(those, those.c.brief_id == col(BriefRecord.id))
        .where(~mine, col(BriefRecord.pulled_at).is_(None))
        .order_by(col(BriefRecord.id))
    )
    return [
        Candidate(
            record.id or 0, record.revision, source, Brief.model_validate_json(content), record.first_seen_at, None
        )
        for record, content, source in rows
    ]


def _kept_drafts(newsletter: str, but_not: int | None) -> Select[int | None]:
    """The editions of a newsletter that are drafted and go out as they are, all but one."""
    kept = select(col(EditionRecord.id)).where(
        col(EditionRecord.newsletter) == newsletter,
        col(EditionRecord.state) == EditionState.DRAFT,
        col(EditionRecord.next_at).is_not(None),
    )
    return kept if but_not is None else kept.where(col(EditionRecord.id) != but_not)


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
        .where(
            col(Decision.edition_id) == edition_id,
            col(Decision.verdict) == Verdict.TAKEN,
            col(Decision.position).is_not(None),
        )
        .order_by(col(Decision.position))
    )
    return [Brief.model_validate_json(content) for content in rows.scalars()]


def holds_pulled(session: Session, edition_id: int) -> bool:
    """Whether a brief of an edition was pulled, and its messages were not made anew since: nothing of it may go."""
    found = (
        select(literal(1))
        .select_from(Decision)
        .join(BriefRecord, col(BriefRecord.id) == col(Decision.brief_id))
        .where(
            col(Decision.edition_id) == edition_id,
            col(Decision.verdict) == Verdict.TAKEN,
            col(Decision.position).is_not(None),
            col(BriefRecord.pulled_at).is_not(None),
        )
        .limit(1)
    )
    return session.execute(found).first() is not None


def topics_of(session: Session, edition_id: int) -> frozenset[str] | None:
    """The topics of an edition; None where one of its briefs has none, so that the edition is for everybody."""
    briefs = briefs_of(session, edition_id)
    if not all(brief.topics for brief in briefs):
        return None
    return frozenset(topic for brief in briefs for topic in brief.topics)


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


def has_lapsed(until: datetime | None, now: datetime, lease: timedelta) -> ColumnElement[bool]:
    """Whether the lease in a column is over: also one that ends so late that a clock was ahead when it was given."""
    return or_(col(until) <= now, col(until) > now + lease + CLOCKS_APART)


def frozen_editions(session: Session, newsletter: str, limit: int | None = None) -> list[EditionRecord]:
    """The editions of a newsletter whose audience was ever frozen, newest slot first; the latest of them, or all."""
    return list(
        session.execute(_frozen_of(newsletter).order_by(col(EditionRecord.slot_at).desc()).limit(limit)).scalars()
    )


def frozen_beside(session: Session, newsletter: str, slot: Slot) -> list[EditionRecord]:
    """The frozen editions of a newsletter whose slots are a slot's neighbours: the next one, and the one before."""
    others = _frozen_of(newsletter).where(col(EditionRecord.slot) != str(slot)).limit(1)
    at = col(EditionRecord.slot_at)
    after = others.where(at > slot.instant).order_by(at)
    before = others.where(at <= slot.instant).order_by(at.desc())
    return [record for query in (after, before) for record in session.execute(query).scalars()]


def _frozen_of(newsletter: str) -> Select[EditionRecord]:
    return select(EditionRecord).where(
        col(EditionRecord.newsletter) == newsletter, col(EditionRecord.frozen_at).is_not(None)
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


def frozen_since(session: Session, since: datetime) -> list[EditionRecord]:
    """The editions of all newsletters that were frozen after an instant, in that order."""
    later = select(EditionRecord).where(col(EditionRecord.frozen_at) > since).order_by(col(EditionRecord.frozen_at))
    return list(session.execute(later).scalars())


BEFORE_THE_FREEZE = frozenset({EditionState.PLANNED, EditionState.DRAFT, EditionState.HELD, EditionState.SKIPPED})
"""The states in which an edition may be made anew."""


def write_draft(
    session: Session,
    newsletter: str,
    slot: Slot,
    *,
    lists: Sequence[str],
    stale_after: timedelta,
    rulings: Iterable[Ruling],
    message: Message | None,
    archive: Message | None,
    skipped: str | None,
    now: datetime,
) -> EditionRecord:
    """Make or remake the draft of a slot: its edition, its decisions (not final), its Message and its archive form.

    `skipped` says why there is no Message. Where the edition is past being a draft it is given back untouched.
    Drafts of the newsletter that go out as they are keep what they took.
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
            tag=tag_of(newsletter, str(slot)),
        )
        session.add(record)
    elif record.state not in BEFORE_THE_FREEZE:
        return record
    record.state = EditionState.SKIPPED if skipped else EditionState.DRAFT
    record.reason = skipped
    record.zone, record.slot_at = slot.zone, slot.instant
    record.lists = list(lists)
    record.stale_after_s = int(stale_after.total_seconds())
    session.flush()
    assert record.id is not None
    others = col(Decision.edition_id).in_(_kept_drafts(newsletter, record.id))
    session.execute(delete(Decision).where(col(Decision.newsletter) == newsletter, ~col(Decision.final), ~others))
    # Counted on, so that a word of the desk about one revision is never taken for a word about another.
    told = select(func.max(col(MessageRecord.revision))).where(col(MessageRecord.edition_id) == record.id)
    revision = (session.execute(told).scalar_one() or 0) + 1
    session.execute(delete(MessageRecord).where(col(MessageRecord.edition_id) == record.id))
    taken = 0
    final = {(row.brief_id, row.revision) for row in _decided(session, newsletter)}
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
    for variant, form in ((MAIL, message), (WEB, archive)):
        if form is not None:
            _add_message(session, record.id, variant, revision, form, briefs=taken, now=now)
    session.flush()
    return record


def add_revision(
    session: Session, edition_id: int, message: Message, archive: Message, *, briefs: int, now: datetime
) -> MessageRecord:
    """Put another revision of an edition's forms on record: from now on it is what goes out and what is shown."""
    newest = message_record(session, edition_id)
    revision = newest.revision + 1 if newest else 1
    _add_message(session, edition_id, WEB, revision, archive, briefs=briefs, now=now)
    return _add_message(session, edition_id, MAIL, revision, message, briefs=briefs, now=now)


def _add_message(
    session: Session, edition_id: int, variant: str, revision: int, form: Message, *, briefs: int, now: datetime
) -> MessageRecord:
    row = MessageRecord(
        edition_id=edition_id,
        variant=variant,
        revision=revision,
        content=json.dumps(form.to_json(), ensure_ascii=False),
        digest=form.digest,
        html_bytes=form.html_bytes,
        briefs=briefs,
        compiled_at=now,
    )
    session.add(row)
    session.flush()
    return row


def _decided(session: Session, newsletter: str) -> list[Decision]:
    """What is decided by other editions: for good, or in a draft that goes out as it is."""
    return list(session.execute(select(Decision).where(col(Decision.newsletter) == newsletter)).scalars())


def load_message(stored: MessageRecord) -> Message:
    """The Message of a row. Raises EditionError where it is not the one that was written."""
    message = Message.from_json(json.loads(stored.content))
    if message.digest != stored.digest:
        raise EditionError(f"message {stored.id}", "its text was changed in the database after it was compiled")
    return message


MAIL, WEB = "", "web"
"""The forms of an edition, by the variant of their rows: what is mailed, and what the archive shows."""


def message_record(session: Session, edition_id: int, variant: str = MAIL) -> MessageRecord | None:
    """The stored Message of an edition, None for a skipped one; of editions before there was an archive, no WEB one."""
    return session.execute(
        select(MessageRecord)
        .where(col(MessageRecord.edition_id) == edition_id, col(MessageRecord.variant) == variant)
        .order_by(col(MessageRecord.revision).desc())
        .limit(1)
    ).scalar_one_or_none()


# What began to go out, and was not taken back, anybody may read.
_PUBLIC = and_(col(EditionRecord.frozen_at).is_not(None), col(EditionRecord.state) != EditionState.CANCELLED)


def public_editions(session: Session, newsletter: str, *, before: str | None, limit: int) -> list[EditionRecord]:
    """The editions of a newsletter that anybody may read, newest slot first; those of slots before one, if it is told.

    `before` is a slot's text ("2026-11-23T07:00"), which sorts as its time does.
    """
    query = (
        select(EditionRecord)
        .where(col(EditionRecord.newsletter) == newsletter, _PUBLIC)
        .order_by(col(EditionRecord.slot).desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(col(EditionRecord.slot) < before)
    return list(session.execute(query).scalars())


def public_edition(session: Session, newsletter: str, slot: str) -> EditionRecord | None:
    """The edition of a slot's text, where anybody may read it."""
    return session.execute(
        select(EditionRecord).where(
            col(EditionRecord.newsletter) == newsletter, col(EditionRecord.slot) == slot, _PUBLIC
        )
    ).scalar_one_or_none()


def subjects_of(session: Session, edition_ids: Sequence[int]) -> dict[int, str]:
    """The subjects of editions' mails, by edition."""
    rows = session.execute(
        select(col(MessageRecord.edition_id), json_member(col(MessageRecord.content), literal("subject"))).where(
            col(MessageRecord.edition_id).in_(edition_ids), col(MessageRecord.variant) == MAIL
        )
    )
    return {edition_id: subject for edition_id, subject in rows}  # noqa: C416 # Row unpacks, dict() wants tuples


def headlines_of(session: Session, edition_ids: Sequence[int]) -> dict[int, tuple[str, ...]]:
    """The headlines of the briefs that editions took, in their order and as they were then, by edition."""
    rows = session.execute(
        select(col(Decision.edition_id), json_member(col(RevisionRecord.content), literal("headline")))
        .join(
            RevisionRecord,
            and_(
                col(RevisionRecord.brief_id) == col(Decision.brief_id),
                col(RevisionRecord.number) == col(Decision.revision),
            ),
        )
        .where(
            col(Decision.edition_id).in_(edition_ids),
            col(Decision.verdict) == Verdict.TAKEN,
            col(Decision.position).is_not(None),
        )
        .order_by(col(Decision.edition_id), col(Decision.position))
    )
    found: dict[int, tuple[str, ...]] = {}
    for edition_id, headline in rows:
        found[edition_id] = (*found.get(edition_id, ()), headline)
    return found


def set_edition(
    session: Session, edition_id: int, state: EditionState, *, reason: str | None, only_from: Iterable[EditionState]
) -> bool:
    """Move an edition on, if it is still where the caller saw it. False where it is not."""
    done = changed_rows(
        session,
        update(EditionRecord)
        .where(col(EditionRecord.id) == edition_id, col(EditionRecord.state).in_(list(only_from)))
        .values(state=state, reason=reason, paused_by=None),
    )
    return done == 1


def changed_rows(session: Session, statement: Any) -> int:
    """Execute a statement that changes rows, and say how many."""
    result = session.execute(statement, execution_options={"preserve_rowcount": True})  # else of an INSERT it is lost
    assert isinstance(result, CursorResult)
    return int(result.rowcount)


# ------------------------------------------------------------------------------------------ for the public pages

_RECENT_BRIEFS = 300  # a month of a full daily digest


def lists_once_mailed(session: Session, newsletter: str) -> tuple[str, ...] | None:
    """The lists that the latest frozen edition of a newsletter went to, None where it never had one."""
    record = next(iter(frozen_editions(session, newsletter, 1)), None)
    return tuple(record.lists) if record is not None else None


def topics_taken(session: Session, newsletter: str) -> list[str]:
    """The topics of the briefs that a newsletter took lately, the most frequent first; each once, whatever its case."""
    rows = session.execute(
        select(col(RevisionRecord.content))
        .join(
            Decision,
            and_(
                col(Decision.brief_id) == col(RevisionRecord.brief_id),
                col(Decision.revision) == col(RevisionRecord.number),
            ),
        )
        .where(col(Decision.newsletter) == newsletter, col(Decision.verdict) == Verdict.TAKEN, col(Decision.final))
        .order_by(col(Decision.id).desc())
        .limit(_RECENT_BRIEFS)
    )
    counts: Counter[str] = Counter()
    spelled: dict[str, str] = {}
    for content in rows.scalars():
        for topic in json.loads(content).get("topics", ()):
            counts[topic.casefold()] += 1
            spelled.setdefault(topic.casefold(), topic)
    return [spelled[topic] for topic, _ in counts.most_common()]


# ------------------------------------------------------------------------------------------ events

_EVENT_COLUMNS = (
    "provider",
    "event_id",
    "kind",
    "said",
    "at",
    "received_at",
    "delivery",
    "attempt",
    "provider_id",
    "address",
    "reason",
    "machine",
)
_EVENTS_AT_ONCE = 200  # rows of one statement: 2,400 parameters, of which SQLite takes 32,766 and PostgreSQL 65,535


def add_events(session: Session, provider: str, events: Iterable[Event], now: datetime) -> list[Event]:
    """Put on record what a provider told, each event once, however often and in whatever order it is told.

    Gives those that were new. Written through the driver, since Core takes longer to make the statement than it runs.
    """
    told: dict[str, Event] = {}
    for event in events:
        told.setdefault(_storable(event.id, 200) or "", event)
    connection = session.connection()
    dialect = connection.dialect
    instant = Instant().bind_processor(dialect) or (lambda value: value)
    received = instant(now)
    # A post tells of few seconds, and writing one takes as long as the rest of a row.
    times = {at: instant(at) for at in {event.at for event in told.values()}}
    rows = [
        (
            provider,
            event_id,
            event.kind.value,
            _storable(event.said, 60),
            times[event.at],
            received,
            _storable(event.delivery, 40),
            _storable(event.attempt, 40),
            _storable(event.provider_id, 200),
            _storable(event.address, 320),
            _storable(event.reason, 300),
            event.machine,
        )
        for event_id, event in told.items()
    ]
    mark = "?" if dialect.paramstyle == "qmark" else "%s"
    row = f"({', '.join([mark] * len(_EVENT_COLUMNS))})"
    new: list[Event] = []
    for start in range(0, len(rows), _EVENTS_AT_ONCE):
        some = rows[start : start + _EVENTS_AT_ONCE]
        statement = (
            f"INSERT INTO provider_event ({', '.join(_EVENT_COLUMNS)}) VALUES {', '.join([row] * len(some))}"  # noqa: S608 # names and marks alone
            " ON CONFLICT (provider, event_id) DO NOTHING RETURNING event_id"
        )
        parameters = tuple(itertools.chain.from_iterable(some))
        new += [told[event_id] for event_id in connection.exec_driver_sql(statement, parameters).scalars()]
    return new


def _storable(text: str | None, longest: int) -> str | None:
    """A text as every database takes it: cut, and without NUL or halves of surrogate pairs."""
    if text is None or (len(text) <= longest and text.isprintable()):
        return text
    return "".join(one if one.isprintable() else " " for one in text[:longest])


def event_counts(session: Session) -> dict[tuple[str, str], int]:
    """How many events of each provider and kind are on record."""
    rows = session.execute(
        select(col(EventRecord.provider), col(EventRecord.kind), func.count())
        .group_by(col(EventRecord.provider), col(EventRecord.kind))
        .order_by(col(EventRecord.provider), col(EventRecord.kind))
    )
    return {(provider, str(kind)): count for provider, kind, count in rows}
