"""What a person must look into: found by looking at the rows, told once, and once more when it is over.

`conditions` reads and decides; `sound` compares what it finds with the alarms that stand, in one transaction, so that
any number of processes may do it. What is cheap to look at is looked at each time; nothing here counts an edition's
deliveries but those that came to a bad end, which have an index of their own.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, func, literal, literal_column, or_, select
from sqlmodel import Session, col

from newsletter import desk, ledger, pace, shelf, store, tally
from newsletter.collect import same_place
from newsletter.desk import Said, Urgency
from newsletter.models import (
    Alarm,
    Approval,
    Batch,
    BatchState,
    Chore,
    Delivery,
    DeskKind,
    EditionRecord,
    EditionState,
    Fate,
    Notice,
    NoticeState,
    Outcome,
    RevisionRecord,
)
from newsletter.newsroom import Newsroom
from newsletter.settings import Settings
from subscribers import reading, transaction

RATES_FOR = timedelta(days=7)  # after an edition's slot: nearly all bounces and complaints come within two days
HALTED_LONG = timedelta(hours=1)  # a halt is meant for as long; one that is forgotten is not
_TRIES = 3  # of a step or a chore, in a row: a server that restarts is no reason to wake anybody
_LONGEST = 500  # characters, as the column of what an alarm says
_OVER_AGAIN = (
    0.8  # of a rate, below which an alarm about it is over: later acceptances must not ring it again and again
)

_QUICKLY_COUNTED = 20_000  # copies of an edition: 40 ms

# As the indexes have it, so that each database sees that they fit.
_BAD: ColumnElement[bool] = literal_column(f"delivery.fate IN ('{Fate.BOUNCED}', '{Fate.COMPLAINED}')")
_UNKNOWN: ColumnElement[bool] = literal_column(f"delivery.outcome = '{Outcome.UNKNOWN}'")
_UNKNOWN_BATCH: ColumnElement[bool] = literal_column(f"batch.state = '{BatchState.UNKNOWN}'")


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that must be looked into. `what` is one sentence, the same for as long as nothing changes.

    `pauses` is the reason for which its edition is to be stopped where it is under way, None: it is not.
    """

    what: str
    command: str | None = None
    more: str | None = None
    urgency: Urgency = Urgency.LOOK
    newsletter: str | None = None
    edition_id: int | None = None
    is_reported: bool = False  # what becomes of editions is told with all that is known of them, not as an alert
    pauses: str | None = None


def conditions(session: Session, settings: Settings, provider: str, now: datetime) -> dict[str, Condition]:
    """All that must be looked into now, by a key that stays the same for as long as it is the same.

    `provider` is its name. Reads in the caller's session and writes nothing.
    """
    standing = frozenset(session.execute(select(col(Alarm.key)).where(col(Alarm.over_at).is_(None))).scalars())
    found: dict[str, Condition] = {}
    for some in (
        _editions(session, settings, now),
        _unknown(session, settings, now),
        _rates(session, settings, now, standing),
        _sources(session, settings),
        _provider(session, settings, provider, now, standing),
        _nothing_new(session, settings, now),
        _chores(session),
        _halted(session, now),
    ):
        found.update(some)
    return found


# ------------------------------------------------------------------------------------------ editions


_UNDER_WAY = (
    EditionState.PLANNED,
    EditionState.DRAFT,
    EditionState.HELD,
    EditionState.DISPATCHING,
    EditionState.PAUSED,
)


def _editions(session: Session, settings: Settings, now: datetime) -> Iterator[tuple[str, Condition]]:
    halted = store.instance(session).halted_at is not None
    rows = select(EditionRecord).where(col(EditionRecord.state).in_(_UNDER_WAY)).order_by(col(EditionRecord.slot_at))
    for record in session.execute(rows).scalars():
        name, key = desk.name_of(settings, record), f"edition {record.id} {record.tag}"
        show = f"newsletter editions show {record.newsletter} {record.slot}"

        def about(what: str, command: str | None, record: EditionRecord = record, *, told: bool = False) -> Condition:
            return Condition(what[:_LONGEST], command, None, Urgency.NOW, record.newsletter, record.id, told)

        if record.state is EditionState.HELD:
            yield f"{key} held", about(f"{name} is held: {record.reason}", desk.go_on(session, record), told=True)
        elif record.state is EditionState.PAUSED:
            if record.paused_by is None:
                said = f"{name} is paused: {record.reason}"
                yield f"{key} paused", about(said, desk.go_on(session, record), told=True)
        else:
            if record.failures >= _TRIES:
                yield f"{key} failing", about(f"{name} cannot be brought on: {_why(record)}", show)
            if (since := _overdue_since(session, record)) is not None and now - since > settings.alerts.overdue:
                halt = "; all dispatch is halted" if halted else ""
                said = f"{name} should have begun to go out at {desk.local_time(since, record.zone)}, and has not"
                why = f": {record.reason}" if record.reason else ""
                yield f"{key} overdue", about(f"{said}{why}{halt}", show)


def _why(record: EditionRecord) -> str:
    return record.reason or "the log says why"


def _overdue_since(session: Session, record: EditionRecord) -> datetime | None:
    """When an edition should have begun to go out; None where it has, or somebody's word is waited for."""
    assert record.id is not None
    since = max(record.slot_at, record.approved_at or record.slot_at)
    if record.state is not EditionState.DISPATCHING:
        if record.next_at is None and record.attendant is None:
            return None  # made by hand, and nobody but a person takes it further
        if record.approval is Approval.WAITING:
            return None if record.approve_by is None else max(since, record.approve_by)
        return since
    begun = select(literal(1)).where(
        col(Batch.edition_id) == record.id,
        col(Batch.state).in_([BatchState.DONE, BatchState.CALLING, BatchState.CLAIMED, BatchState.UNKNOWN]),
    )
    if session.execute(begun.limit(1)).first() is not None:
        return None
    promised = ledger.first_promised(session, record.id)
    return None if promised is None else max(since, promised, record.frozen_at or promised)


def _unknown(session: Session, settings: Settings, now: datetime) -> Iterator[tuple[str, Condition]]:
    """Copies of which nobody knows, and of which events have had their time to tell."""
    long_ago = or_(col(Batch.called_at).is_(None), col(Batch.called_at) <= now - settings.dispatch.unknown_wait)
    whole = (
        select(col(Batch.edition_id), func.sum(col(Batch.size)))
        .where(_UNKNOWN_BATCH, col(Batch.given_up_at).is_(None), long_ago)
        .group_by(col(Batch.edition_id))
    )
    asked = and_(col(Batch.id) == ledger.batch_of_delivery(), col(Batch.given_up_at).is_(None), long_ago)
    own = (
        select(col(Delivery.edition_id), func.count())
        .where(_UNKNOWN, exists(select(literal(1)).select_from(Batch).where(asked).correlate(Delivery)))
        .group_by(col(Delivery.edition_id))
    )
    counts: dict[int, int] = {}
    for query in (whole, own):
        for edition_id, count in session.execute(query):
            counts[edition_id] = counts.get(edition_id, 0) + int(count)
    for record in _records(session, counts):
        count, name = counts[record.id or 0], desk.name_of(settings, record)
        yield (
            f"edition {record.id} {record.tag} unknown",
            Condition(
                f"{name}: of {count:,} nobody knows whether they got it",
                f"newsletter editions show {record.newsletter} {record.slot}",
                "The command names them; newsletter editions resolve says what became of them.",
                newsletter=record.newsletter,
                edition_id=record.id,
            ),
        )


def _records(session: Session, ids: Mapping[int, object]) -> Iterator[EditionRecord]:
    if ids:
        rows = select(EditionRecord).where(col(EditionRecord.id).in_(list(ids)), col(EditionRecord.folded_at).is_(None))
        yield from session.execute(rows.order_by(col(EditionRecord.id))).scalars()


def _rates(
    session: Session, settings: Settings, now: datetime, standing: frozenset[str]
) -> Iterator[tuple[str, Condition]]:
    """Editions of late of which too many copies bounced, or were called spam."""
    late = select(col(EditionRecord.id)).where(
        col(EditionRecord.slot_at) > now - RATES_FOR,
        col(EditionRecord.frozen_at).is_not(None),
        col(EditionRecord.folded_at).is_(None),
    )
    ids = list(session.execute(late).scalars())
    if not ids:
        return
    bad: dict[int, dict[Fate, int]] = {}
    for edition_id, fate, count in session.execute(
        select(col(Delivery.edition_id), col(Delivery.fate), func.count())
        .where(_BAD, col(Delivery.edition_id).in_(ids))
        .group_by(col(Delivery.edition_id), col(Delivery.fate))
    ):
        bad.setdefault(edition_id, {})[Fate(fate)] = int(count)
    words = {
        Fate.BOUNCED: ("bounced", settings.alerts.bounce_rate),
        Fate.COMPLAINED: ("were called spam", settings.alerts.complaint_rate),
    }
    for record in _records(session, bad):
        for fate, count in bad[record.id or 0].items():
            word, most = words[fate]
            key = f"edition {record.id} {record.tag} {fate}"
            bar = most * (_OVER_AGAIN if key in standing else 1)
            if count <= bar * settings.alerts.rate_of:  # too few, of however many
                continue
            accepted = _accepted(session, record, count, bar)
            if accepted < settings.alerts.rate_of or count <= bar * accepted:
                continue
            # Rounded as far as it tells anything, so that an alarm is not rewritten at each event.
            said = f"{count / accepted:.1%} of its accepted copies {word}, where {most:.2%} is the most"
            yield (
                key,
                Condition(
                    f"{desk.name_of(settings, record)}: {said}",
                    f"newsletter editions show {record.newsletter} {record.slot}",
                    "Mailing on at such a rate costs the good name of your domain. Look at where these people come "
                    "from before you let anything go on.",
                    Urgency.NOW,
                    record.newsletter,
                    record.id,
                    pauses=said,
                ),
            )


def _accepted(session: Session, record: EditionRecord, bad: int, bar: float) -> int:
    """How many copies were accepted: of large editions those in calls that were, a few of which may have been refused.

    Exactly where that is quick and may decide: counting a million takes two seconds, and this is asked all the time.
    """
    done = (col(Batch.edition_id) == record.id, col(Batch.state) == BatchState.DONE)
    in_calls = int(session.execute(select(func.sum(col(Batch.size))).where(*done)).scalar_one() or 0)
    counted = in_calls <= _QUICKLY_COUNTED and bad > bar * in_calls / 2
    return tally.tally(session, record).accepted if counted else in_calls


# ------------------------------------------------------------------------------------------ what editions need


def _sources(session: Session, settings: Settings) -> Iterator[tuple[str, Condition]]:
    records = shelf.source_records(session, settings.sources)
    for name, source in settings.sources.items():
        fared = same_place(records.get(name), source)
        if fared is not None and fared.failures >= settings.alerts.source_failures:
            yield (
                f"source {name}",
                Condition(
                    f"source {name} keeps failing: {fared.error or 'no reason is on record'}"[:_LONGEST],
                    "newsletter sources",
                    "Editions go out without what it would give.",
                ),
            )


def _provider(
    session: Session, settings: Settings, provider: str, now: datetime, standing: frozenset[str]
) -> Iterator[tuple[str, Condition]]:
    row, key = pace.stored(session, provider), f"provider {provider}"
    if row is None:
        return
    rests = row.not_before is not None and row.not_before > now and row.note is not None
    # Once it is told, the rest of the wait is no news.
    long = rests and row.not_before is not None and (key in standing or row.not_before - now > settings.alerts.overdue)
    if row.failures >= settings.alerts.provider_failures or long:
        yield (
            key,
            Condition(
                f"{provider} does not take what it is handed: {row.note or 'no reason is on record'}"[:_LONGEST],
                "newsletter provider pace",
                "It is called less, and what waits is handed over when it answers well again.",
                Urgency.NOW,
            ),
        )


def _nothing_new(session: Session, settings: Settings, now: datetime) -> Iterator[tuple[str, Condition]]:
    if not settings.alerts.nothing_new:
        return
    newest = session.execute(select(func.max(RevisionRecord.seen_at))).scalar_one()
    if newest is not None and now - newest > settings.alerts.nothing_new:
        said = f"no source has given anything new since {newest:%Y-%m-%d %H:%M} UTC"
        yield "nothing new", Condition(said, "newsletter sources", "Editions are skipped for want of briefs.")


def _chores(session: Session) -> Iterator[tuple[str, Condition]]:
    for chore in session.execute(select(Chore).where(col(Chore.failures) >= _TRIES)).scalars():
        said = f"“{chore.name}” keeps failing: {chore.said or 'the log says why'}"
        yield f"chore {chore.name}", Condition(said[:_LONGEST])


def _halted(session: Session, now: datetime) -> Iterator[tuple[str, Condition]]:
    database = store.instance(session)
    if database.halted_at is None or now - database.halted_at <= HALTED_LONG:
        return
    ready = and_(
        col(EditionRecord.state).in_([EditionState.PLANNED, EditionState.DRAFT]),
        col(EditionRecord.next_at).is_not(None),
        col(EditionRecord.slot_at) <= now,
    )
    editions = select(literal(1)).where(or_(col(EditionRecord.state) == EditionState.DISPATCHING, ready))
    notices = select(literal(1)).where(col(Notice.state) == NoticeState.PENDING, col(Notice.due_at) <= now)
    if any(session.execute(query.limit(1)).first() for query in (editions, notices)):
        said = f"all dispatch is halted since {database.halted_at:%Y-%m-%d %H:%M} UTC by {database.halted_by}"
        yield "halted", Condition(said, "newsletter unhalt", "Readers wait for what is due since.", Urgency.NOW)


# ------------------------------------------------------------------------------------------ telling


def sound(newsroom: Newsroom) -> tuple[int, int]:
    """Raise an alarm for whatever is new among what must be looked into, and end those that it is over with.

    Each is told to the desk. An edition of which too many copies bounce is paused, once: an operator who lets it go on
    has had their say. Gives how many alarms were raised and ended.
    """
    settings, provider, now = newsroom.settings, newsroom.settings.provider.kind, newsroom.clock()
    with reading(newsroom.engine) as session:
        if not _changes(conditions(session, settings, provider, now), _standing(session)):
            return 0, 0
    raised = ended = 0
    with transaction(newsroom.engine) as session:
        found, standing = conditions(session, settings, provider, now), _standing(session)
        for key, condition in found.items():
            alarm = standing.get(key)
            if alarm is None:
                raised += 1
                session.add(Alarm(key=key, what=desk.mentionless(condition.what), since=now))
                _raise(session, settings, key, condition, now)
            elif alarm.what != desk.mentionless(condition.what):
                alarm.what = desk.mentionless(condition.what)
        for key, alarm in standing.items():
            if key not in found:
                ended += 1
                alarm.over_at = now
                _tell_over(session, settings, alarm, now)
    return raised, ended


def _standing(session: Session) -> dict[str, Alarm]:
    return {alarm.key: alarm for alarm in session.execute(select(Alarm).where(col(Alarm.over_at).is_(None))).scalars()}


def _changes(found: Mapping[str, Condition], standing: Mapping[str, Alarm]) -> bool:
    return found.keys() != standing.keys() or any(
        desk.mentionless(found[key].what) != alarm.what for key, alarm in standing.items()
    )


def _raise(session: Session, settings: Settings, key: str, condition: Condition, now: datetime) -> None:
    record = session.get(EditionRecord, condition.edition_id) if condition.edition_id else None
    reported = condition.is_reported
    if record is not None and condition.pauses and record.state is EditionState.DISPATCHING:
        record.state, record.paused_by, record.reason = EditionState.PAUSED, None, condition.pauses[:_LONGEST]
        store.act(session, "pause", now=now, actor="program", edition_id=record.id, note=condition.pauses)
        session.flush()
        reported = True
    if record is not None and reported:
        desk.tell_edition(session, settings, record, now)
        return
    rows = (("Since", _when(settings, now)),)
    more = (condition.more,) if condition.more else ()
    said = Said(_sentence(condition.what), rows, more, condition.command, condition.urgency)
    _tell(session, settings, f"{key} {now:%Y-%m-%dT%H:%M:%S}", said, now, condition)


def _tell_over(session: Session, settings: Settings, alarm: Alarm, now: datetime) -> None:
    rows = (
        ("Since", _when(settings, alarm.since)),
        ("Until", f"{_when(settings, now)}, {desk.span(now - alarm.since)}"),
    )
    said = Said(f"Over: {alarm.what}", rows, urgency=Urgency.OVER)
    _tell(session, settings, f"{alarm.key} {alarm.since:%Y-%m-%dT%H:%M:%S} over", said, now)


def _tell(  # noqa: PLR0917 # what is told, of what, when
    session: Session, settings: Settings, key: str, said: Said, now: datetime, of: Condition | None = None
) -> None:
    about: dict[str, Any] = {"newsletter": of.newsletter, "edition_id": of.edition_id} if of else {}
    desk.tell(session, settings, DeskKind.ALERT, key=f"alarm {key}", subject=said.heading, said=said, now=now, **about)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _when(settings: Settings, instant: datetime) -> str:
    zone = next(iter(settings.newsletters.values())).zone
    return desk.local_time(instant, zone, day=True)


# ------------------------------------------------------------------------------------------ looking


def listed(newsroom: Newsroom, limit: int | None = None) -> list[Alarm]:
    """The alarms that stand, newest first; with a `limit` the latest of all, also of those that are over."""
    rows = select(Alarm).order_by(col(Alarm.id).desc())
    rows = rows.where(col(Alarm.over_at).is_(None)) if limit is None else rows.limit(limit)
    with reading(newsroom.engine) as session:
        return list(session.execute(rows).scalars())
