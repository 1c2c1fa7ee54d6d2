"""What a provider tells later: events -> fates, suppressions, leavings; unknown calls settled by what they prove.

An event is put on record once, and acts once, in the transaction that puts it there. The order in which events come,
and how they are cut into posts, makes no difference to what stands at the end: fates only move forward, the gravest
reason to suppress holds, and nothing acts that is older than what a person or an operator has said since.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache
from itertools import product
from typing import Any

from sqlalchemy import delete, or_, select, update
from sqlmodel import Session, col

from newsletter import proof, store
from newsletter.edition import Event, EventKind
from newsletter.models import Delivery, EditionRecord, EventRecord, Fate, Outcome, Sync
from newsletter.names import Names
from newsletter.providers import Provider
from subscribers import (
    BY_PROVIDER,
    AddressError,
    Against,
    Reason,
    State,
    Subscriber,
    find_all,
    leave,
    lists,
    parse,
    subscriptions,
    suppress_all,
)

FATES = {
    EventKind.PROCESSED: Fate.PROCESSED,
    EventKind.DELAYED: Fate.DELAYED,
    EventKind.DELIVERED: Fate.DELIVERED,
    EventKind.BLOCKED: Fate.BLOCKED,
    EventKind.DROPPED: Fate.DROPPED,
    EventKind.BOUNCED: Fate.BOUNCED,
    EventKind.COMPLAINED: Fate.COMPLAINED,
    # Whoever opens it, follows a link or leaves by it has it in their mailbox; so has a program that looks in for them.
    EventKind.OPENED: Fate.DELIVERED,
    EventKind.CLICKED: Fate.DELIVERED,
    EventKind.LEFT: Fate.DELIVERED,
}
_ORDER = {fate: number for number, fate in enumerate(Fate)}
_Word = tuple[EventKind, bool]  # what an event says of a copy, and whether that is about its sender
_ALONE = {word: frozenset((word,)) for word in product(EventKind, (False, True))}
_ENDS = (Fate.DELIVERED, Fate.REJECTED, Fate.BLOCKED, Fate.DROPPED, Fate.BOUNCED, Fate.COMPLAINED)
_REASONS = {EventKind.BOUNCED: Reason.HARD_BOUNCE, EventKind.COMPLAINED: Reason.COMPLAINT}
_LOOKED_BACK = 30  # editions in which a run of blocks is looked for; the most that `dispatch.soft_bounces` can be
_TRIED_FOR = timedelta(hours=73)  # SendGrid tries for 72 h (Deferrals, SendGrid's glossary)
_AT_ONCE = 500  # parameters of one statement
_PURGED_AT_ONCE = 5_000  # rows: some 50 ms of SQLite's write lock


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration says.

    `lists` are the lists that leaving a newsletter leaves, by newsletter; `soft_bounces` is after how many blocks in a
    row a person is suppressed, 0 for never.
    """

    lists: Mapping[str, Sequence[str]] = field(default_factory=dict)
    soft_bounces: int = 5


@dataclass(frozen=True, slots=True)
class Taken:
    """What a post came to: events, how many of them were new, and what those changed.

    `fates` counts deliveries, `proven` calls and copies that were not known to be accepted, `suppressed` and `left`
    people.
    """

    told: int = 0
    new: int = 0
    fates: int = 0
    proven: int = 0
    suppressed: int = 0
    left: int = 0

    def plus(self, other: "Taken") -> "Taken":
        """Both together."""
        return Taken(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class _About:
    """A new event, and whom it is about.

    `edition` is None where it only names an address; `edition_id` also where its deliveries are folded.
    """

    event: Event
    subscriber_id: int
    edition: EditionRecord | None = None
    edition_id: int | None = None


def take(session: Session, provider: Provider, events: Sequence[Event], now: datetime, rules: Rules) -> Taken:
    """Put events on record and act on those that are new, in the caller's one transaction.

    An event of another database, or about nobody here, is kept and does nothing. An address that is nobody's here is
    not kept.
    """
    people = _people_of(session, events)
    kept = [one if one.address is None or one.address in people else replace(one, address=None) for one in events]
    new = store.add_events(session, provider.name, kept, now)
    about = _about(session, new, people)
    fates, proven = _move_fates(session, about, now)
    if provider.atomic:
        proven += _prove_calls(session, new, now)
    named = [one for one in about if one.edition is None and one.event.kind in {EventKind.BOUNCED, EventKind.BLOCKED}]
    fates += _move_latest(session, named)
    against = [word for one in about if (word := _against(one))]
    if rules.soft_bounces:
        against += _soft(session, about, rules.soft_bounces)
    actor = f"provider:{provider.name}"
    suppressed = suppress_all(session, against, now=now, actor=actor) if against else 0
    left = sum(_leave(session, one, rules, now, actor) for one in about if _leaves(one.event))
    return Taken(len(events), len(new), fates, proven, suppressed, left)


# ------------------------------------------------------------------------------------------ whom it is about


def _people_of(session: Session, events: Iterable[Event]) -> dict[str, int]:
    """The people of the addresses that events name, as far as we know them: row numbers by address as it was told."""
    mailboxes = {}
    for address in {event.address for event in events if event.address}:
        try:
            mailboxes[address] = parse(address)
        except AddressError:
            continue
    if not mailboxes:
        return {}
    known = find_all(session, mailboxes.values())
    return {address: known[mailbox.key] for address, mailbox in mailboxes.items() if mailbox.key in known}


def _about(session: Session, events: Sequence[Event], people: Mapping[str, int]) -> list[_About]:
    """The events that are about somebody here, in their order."""
    names = Names(store.instance(session).instance_id).read_all({one.delivery for one in events if one.delivery})
    tags = {tag for tag, _ in names.values()}
    editions: dict[str, EditionRecord] = {}
    for some in _slices(tags):
        rows = session.execute(select(EditionRecord).where(col(EditionRecord.tag).in_(some))).scalars()
        editions |= {record.tag: record for record in rows}
    single = {tag: None if record.folded_at else record.id for tag, record in editions.items()}
    about = []
    for event in events:
        if event.delivery is not None:
            tag, subscriber_id = names.get(event.delivery, ("", 0))
            if tag in editions:
                about.append(_About(event, subscriber_id, editions[tag], single[tag]))
        elif event.address is not None and event.vouched:  # else anybody could have anybody suppressed
            about.append(_About(event, people[event.address]))
    return about


# ------------------------------------------------------------------------------------------ fates and proofs


def _move_fates(session: Session, about: Iterable[_About], now: datetime) -> tuple[int, int]:
    """Move fates forward, and settle copies that are not known to be accepted. Gives how many of each."""
    told: dict[int, dict[int, frozenset[_Word]]] = {}
    for one in about:
        if one.edition_id is not None:
            words = told.setdefault(one.edition_id, {})
            before, word = words.get(one.subscriber_id), (one.event.kind, one.event.of_sender)
            words[one.subscriber_id] = _ALONE[word] if before is None else before | {word}
    moved = proven = 0
    for edition_id, words in told.items():
        to: dict[Fate, list[int]] = {}
        copies = []
        for row, subscriber_id, batch_id, outcome, fate in _deliveries(session, edition_id, words):
            means = _meaning(words[subscriber_id])
            if fate in means.moves and means.to is not None:
                to.setdefault(means.to, []).append(row)
            if means.taken and outcome is not Outcome.ACCEPTED:
                copies.append(proof.Copy(row, batch_id, outcome, means.went_out))
        moved += _write_fates(session, to)
        proven += proof.of_copies(session, edition_id, copies, now)
    return moved, proven


@dataclass(frozen=True, slots=True)
class _Meaning:
    """What a set of events says of a copy: its fate, which fates that moves, and what it proves."""

    to: Fate | None
    moves: frozenset[Fate | None]
    taken: bool
    went_out: bool


@cache
def _meaning(words: frozenset[_Word]) -> _Meaning:
    kinds = frozenset(kind for kind, _ in words)
    to = max((_fate(*word) for word in words if word[0] in FATES), key=_ORDER.__getitem__, default=None)
    moves = frozenset[Fate | None]() if to is None else frozenset({None, *_earlier(to)})
    return _Meaning(to, moves, not kinds.isdisjoint(proof.TAKEN), not kinds.isdisjoint(proof.WENT_OUT))


def _fate(kind: EventKind, of_sender: bool) -> Fate:
    return Fate.REJECTED if of_sender else FATES[kind]


def _earlier(fate: Fate) -> list[Fate]:
    return [one for one in Fate if _ORDER[one] < _ORDER[fate]]


def _deliveries(session: Session, edition_id: int, people: Iterable[int]) -> Iterator[Any]:
    """An edition's deliveries to some people: row, subscriber, batch, outcome, fate."""
    for some in _slices(people):
        yield from session.execute(
            select(
                col(Delivery.id),
                col(Delivery.subscriber_id),
                col(Delivery.batch_id),
                col(Delivery.outcome),
                col(Delivery.fate),
            ).where(col(Delivery.edition_id) == edition_id, col(Delivery.subscriber_id).in_(some))
        )


def _write_fates(session: Session, to: Mapping[Fate, Iterable[int]]) -> int:
    moved = 0
    for fate, rows in to.items():
        earlier = _earlier(fate)
        for some in _slices(rows):
            moved += store.changed_rows(
                session,
                update(Delivery)
                .where(col(Delivery.id).in_(some), or_(col(Delivery.fate).is_(None), col(Delivery.fate).in_(earlier)))
                .values(fate=fate)
                .execution_options(synchronize_session=False),
            )
    return moved


def _prove_calls(session: Session, events: Iterable[Event], now: datetime) -> int:
    """Settle the calls that events of an atomic provider prove."""
    attempts: dict[str, bool] = {}
    for event in events:
        if event.attempt is not None and event.kind in proof.TAKEN:
            attempts[event.attempt] = attempts.get(event.attempt, False) or event.kind in proof.WENT_OUT
    return proof.of_calls(session, attempts, now) if attempts else 0


def _move_latest(session: Session, about: Sequence[_About]) -> int:
    """Take what names an address alone for a word on the person's latest copy before it, where nothing better is told.

    Nothing better: no event has said yet how that copy ended, and it went out so shortly before that it can be meant.
    """
    if not about:
        return 0
    editions = _newest(session)
    to: dict[Fate, list[int]] = {}
    for one in about:
        at = one.event.at
        for edition_id, frozen_at in editions:
            if not at - _TRIED_FOR <= frozen_at <= at:
                continue
            found = next(_deliveries(session, edition_id, [one.subscriber_id]), None)
            if found is None:
                continue
            row, _, _, _, fate = found
            if fate not in _ENDS:
                to.setdefault(_fate(one.event.kind, one.event.of_sender), []).append(row)
            break
    return _write_fates(session, to)


def _newest(session: Session) -> list[tuple[int, datetime]]:
    """The newest editions whose deliveries are single rows, of all newsletters: row number, when it was frozen."""
    rows = session.execute(
        select(col(EditionRecord.id), col(EditionRecord.frozen_at))
        .where(col(EditionRecord.frozen_at).is_not(None), col(EditionRecord.folded_at).is_(None))
        .order_by(col(EditionRecord.frozen_at).desc(), col(EditionRecord.id).desc())
        .limit(_LOOKED_BACK)
    )
    return [(row, frozen_at) for row, frozen_at in rows if row is not None and frozen_at is not None]


# ------------------------------------------------------------------------------------------ suppressing and leaving


def _against(one: _About) -> Against | None:
    """What an event says against mailing its person ever again; None where it says no such thing."""
    event = one.event
    reason = _REASONS.get(event.listed if event.kind is EventKind.DROPPED and event.listed else event.kind)
    return _word(one, reason) if reason else None


def _word(one: _About, reason: Reason) -> Against:
    event, edition = one.event, one.edition
    note = f"{event.said}: {event.reason}" if event.reason else event.said
    return Against(one.subscriber_id, reason, event.at, edition.frozen_at if edition else None, note)


def _soft(session: Session, about: Iterable[_About], run: int) -> Iterator[Against]:
    """Who is suppressed because so many of their latest copies in a row were blocked, each for all that is known.

    A copy that was rejected for its sender's sake says nothing of them: it counts neither for them nor against.
    """
    told = (one for one in about if one.event.kind is EventKind.BLOCKED and not one.event.of_sender)
    blocked = {one.subscriber_id: one for one in told}
    counts = dict.fromkeys(blocked, 0)
    for edition_id, _ in _newest(session) if blocked else ():
        if not counts:
            return
        for _, subscriber_id, _, _, fate in list(_deliveries(session, edition_id, counts)):
            if fate is Fate.BLOCKED:
                counts[subscriber_id] += 1
                if counts[subscriber_id] == run:
                    yield _word(blocked[subscriber_id], Reason.HARD_BOUNCE)
            if (
                fate in _ENDS
                and fate is not Fate.REJECTED
                and (fate is not Fate.BLOCKED or counts[subscriber_id] == run)
            ):
                del counts[subscriber_id]


def _leaves(event: Event) -> bool:
    return event.kind is EventKind.LEFT or (event.kind is EventKind.DROPPED and event.listed is EventKind.LEFT)


def _leave(session: Session, one: _About, rules: Rules, now: datetime, actor: str) -> bool:
    """Take a person off the lists of the newsletter that they left at the provider, off all where none can be told.

    What they have joined since stays. True where that changed anything.
    """
    subscriber = session.get(Subscriber, one.subscriber_id)
    if subscriber is None or subscriber.erased_at is not None:
        return False
    slugs: set[str] | None = None
    if one.edition is not None:
        slugs = {*one.edition.lists, *rules.lists.get(one.edition.newsletter, ())}
    joined = {
        standing.list_id
        for standing in subscriptions(session, subscriber)
        if standing.state is not State.UNSUBSCRIBED and standing.changed_at > one.event.at
    }
    if joined:
        slugs = {to.slug for to in lists(session, slugs) if to.id not in joined}
    return leave(session, subscriber, slugs, now=now, actor=actor, origin=BY_PROVIDER).changed > 0


# ------------------------------------------------------------------------------------------ the provider's own lists


def synced(session: Session, provider: str) -> datetime | None:
    """Up to when the provider's own lists have been read. None: never."""
    row = session.get(Sync, provider)
    return row.through if row is not None else None


def sync_through(session: Session, provider: str, instant: datetime) -> None:
    """Put on record that what stood on the provider's own lists at an instant has been read."""
    row = session.get(Sync, provider)
    if row is None:
        session.add(Sync(provider=provider, through=instant))
    else:
        row.through = instant


# ------------------------------------------------------------------------------------------ time


def purge(session: Session, keep: timedelta, now: datetime) -> int:
    """Take away the oldest events that came in so long ago, a slice of them. Gives how many.

    What they came to stays: fates, suppressions and the consent log. Rows are numbered as they come in, so that the
    oldest are found without an index of instants.
    """
    oldest = select(col(EventRecord.id)).order_by(col(EventRecord.id)).limit(_PURGED_AT_ONCE)
    return store.changed_rows(
        session,
        delete(EventRecord)
        .where(col(EventRecord.id).in_(oldest), col(EventRecord.received_at) < now - keep)
        .execution_options(synchronize_session=False),
    )


def _slices(values: Iterable[Any]) -> Iterator[list[Any]]:
    every = list(values)
    return (every[start : start + _AT_ONCE] for start in range(0, len(every), _AT_ONCE))
