"""Rows into the database, in bulk.

A batch is settled and written in one short transaction of a few statements on whole sets of rows: one that finds who
is known, one for the new people, one each for their subscriptions and their log. Batches come sorted by key, so that
each touches a part of the index, and links begin alike for the same reason; without both it takes twice as long.
How a batch is handed over is each database's own (`subscribers.drivers`); the statements are the same.
"""

import base64
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count, groupby
from operator import itemgetter
from typing import Any

from sqlalchemy import Engine

from subscribers import consent, erasure
from subscribers.drivers import Driver, driver
from subscribers.errors import ErasureKeyError, UnknownList
from subscribers.models import Happening, Way
from subscribers.rows import Piece
from subscribers.settling import (
    ADDED,
    CONFIRMED,
    ENDS,
    JOINED,
    PENDING,
    UNCHANGED,
    USUAL,
    Events,
    Person,
    settle,
    settle_suppression,
)
from subscribers.tokens import RANDOM_BYTES, Randomness

LOCK_AIM = timedelta(milliseconds=60)  # of a write lock; others count on 250 at the most, also on a slower disk
_FIRST_ROWS, _FEWEST_ROWS, _MOST_ROWS = 1_000, 100, 8_000  # of a batch; its size follows the time that the last took
# After each second batch SQLite's log is moved into the database, and the lock left to others for a while. Who waits
# for it looks for it every 25 ms at first, from 128 ms on every 50, from 228 on every 100. All of them meet a gap of
# 55 ms every 180, and most of it is time that we need for other things. A write beside an import of a million waited
# 230 ms at the most; before, 650.
_GAP = timedelta(milliseconds=55)
_LINKS_AT_ONCE = 65_536  # 5 MB


@dataclass(frozen=True)
class Orders:
    """What an import makes of the people in a file.

    `to` is the slug of a list; None: the file lists addresses not to be mailed. `evidence` says how the consent of all
    of them is known, and makes them confirmed; without it (None) they are pending. `form` is the file's name, for the
    log. `erasure_secret` is needed where people were erased.
    """

    to: str | None
    evidence: str | None
    form: str
    actor: str
    now: datetime
    erasure_secret: bytes | None = None


class Rows:
    """Rows that wait for their batch, column by column."""

    __slots__ = ("addresses", "keys", "lines", "more", "names", "rows", "standings")

    def __init__(self) -> None:
        self.lines: list[int] = []
        self.keys: list[str] = []
        self.addresses: list[str] = []
        self.names: list[str | None] = []
        self.standings: list[str] = []
        self.more: dict[int, Sequence[Any]] = {}
        self.rows: list[str] = []

    def extend(self, piece: Piece) -> None:
        """Let a piece wait behind the others."""
        base = len(self.keys)
        self.lines += piece.lines
        self.keys += piece.keys
        self.addresses += piece.addresses
        self.names += piece.names
        self.standings += piece.standings
        self.rows += piece.rows
        for index, *what in piece.more:
            self.more[base + index] = what

    def take(self, count: int) -> "Rows":
        """The first rows, as a batch; they wait no longer."""
        taken = Rows()
        for column in ("lines", "keys", "addresses", "names", "standings", "rows"):
            whole = getattr(self, column)
            setattr(taken, column, whole[:count])
            setattr(self, column, whole[count:])
        if self.more:
            taken.more = {index: what for index, what in self.more.items() if index < count}
            self.more = {index - count: what for index, what in self.more.items() if index >= count}
        return taken


class Links:
    """Random ids for new people's links, as `subscribers.tokens.new_link` makes them, a hundred times faster.

    A batch's links begin alike: links at random touch every page of their index with every batch, which took more time
    than all the rest. Six bits of a link are thus shared with a few thousand others; 122 are nobody's business.
    """

    def __init__(self, randomness: Randomness) -> None:
        self._randomness = randomness
        self._ready: list[str] = []

    def take(self, count: int) -> list[str]:
        """As many as a batch has new people."""
        while len(self._ready) < count:
            self._ready += sorted(self._made(max(_LINKS_AT_ONCE, count)), key=itemgetter(0))
        rest = len(self._ready) - count
        taken = self._ready[rest:]
        del self._ready[rest:]
        return taken

    def _made(self, count: int) -> list[str]:
        data = self._randomness(RANDOM_BYTES * count)
        # Each id filled up to 18 bytes, which are 24 characters; the last two say nothing.
        filled = b"\0\0".join(data[i : i + RANDOM_BYTES] for i in range(0, len(data), RANDOM_BYTES)) + b"\0\0"
        text = base64.urlsafe_b64encode(filled).decode()
        return [text[i : i + 22] for i in range(0, len(text), 24)]


ERASED = "WHERE key >= 'erased:' AND key < 'erased;'"  # as `subscribers.erasure.is_mark`, for an index

# `+ 0`, so that a person's few events are found by the person, and not by walking through everybody's from the last on.
# The last of it is what a person has said against this list, or against all of them, as `subscribers.lifecycle` has it.
_FIND = """
SELECT wanted.key, s.id, s.name, s.language IS NOT NULL, s.zone IS NOT NULL, s.topics IS NOT NULL, u.id, u.state,
  CASE WHEN u.id IS NULL OR u.state = 'pending' THEN coalesce((
    SELECT o.state FROM subscription AS o WHERE o.subscriber_id = s.id AND o.state = 'complained' LIMIT 1
  ), (
    SELECT CASE WHEN e.event IN ('left', 'complained') THEN e.event END FROM consent_event AS e
    WHERE e.subscriber_id = s.id AND (e.evidence = 'everything' OR e.event = 'complained'
      OR e.event = 'confirmed' AND e.evidence IN ('confirmation link', 'link to preferences'))
    ORDER BY e.id + 0 DESC LIMIT 1
  ), (
    SELECT e.event FROM consent_event AS e
    WHERE e.subscriber_id = s.id AND e.list_id = :list AND e.event NOT IN ('requested', 'expired')
    ORDER BY e.id + 0 DESC LIMIT 1
  )) END
FROM {of_keys} AS wanted
{join} subscriber AS s ON s.key = wanted.value
LEFT JOIN subscription AS u ON u.list_id = :list AND u.subscriber_id = s.id
"""
_FIND_SUPPRESSED = """
SELECT wanted.key, s.reason FROM {of_keys} AS wanted {join} suppression AS s ON s.key = wanted.value
"""
_PEOPLE = "id, address, key, name, language, zone, topics, paused_until, link, created_at"
_FRESH = "id, address, key, name, link, created_at"
_SUBSCRIPTIONS = "list_id, subscriber_id, state, changed_at"
_EVENTS = "subscriber_id, at, list_id, event, actor, way, form, statement_id, evidence, before"
_ADD_SUBSCRIPTIONS = (
    "INSERT INTO subscription (list_id, subscriber_id, state, changed_at) "
    "SELECT :list, id, :state, :now FROM subscriber WHERE id BETWEEN :first AND :last"
)
_ADD_EVENTS = (
    "INSERT INTO consent_event (at, subscriber_id, list_id, event, actor, way, form, statement_id, evidence, before) "
    "SELECT :now, id, :list, :event, :actor, :way, :form, :statement, :evidence, :before "
    "FROM subscriber WHERE id BETWEEN :first AND :last"
)
# A suppression ends what its address has on any list, as `subscribers.lifecycle.suppress` does.
_END_EVENTS = (
    "INSERT INTO consent_event (at, subscriber_id, list_id, event, actor, way, form, before) "
    "SELECT :now, subscriber_id, list_id, :event, :actor, :way, :form, {json_object}('state', state) "
    "FROM subscription WHERE subscriber_id = :subscriber AND state IN ('pending', 'confirmed') ORDER BY id"
)
_END_SUBSCRIPTIONS = (
    "UPDATE subscription SET state = :state, changed_at = :now "
    "WHERE subscriber_id = :subscriber AND state IN ('pending', 'confirmed')"
)
_OF_NO_LIST = frozenset((Happening.SUPPRESSED.value, Happening.CHANGED.value))


@contextmanager
def writer(
    engine: Engine, orders: Orders, statement: int | None, randomness: Randomness, stopwatch: Callable[[], float]
) -> Iterator["Writer"]:
    """What writes batches on a connection made ready for it."""
    with driver(engine) as hand, hand.ready():
        yield Writer(hand, orders, statement, Links(randomness), stopwatch)


@dataclass(slots=True)
class _Settled:
    """What comes of a batch: the list, an outcome for each row, and the people; those who are just new by their row."""

    to: int | None
    outcomes: list[str]
    people: dict[str, Person]
    fresh: dict[str, int]

    @property
    def is_changed(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.fresh) or any(person.is_changed for person in self.people.values())


class Writer:
    """Settles batches, each in one short transaction, or in none where nothing is to be written."""

    def __init__(
        self,
        driver: Driver,
        orders: Orders,
        statement: int | None,
        links: Links,
        stopwatch: Callable[[], float],
    ) -> None:
        self._driver, self._orders, self._statement, self._links = driver, orders, statement, links
        self._stopwatch = stopwatch
        self._wanted = CONFIRMED if orders.evidence is not None else PENDING
        self._now = driver.instant(orders.now)
        self._peek = True  # whether the last batch changed nothing, so that the next may well need no lock
        self._to: int | None = None  # the list's row, looked up in each transaction
        self._unmoved = 0  # batches since the log was moved into the database
        self._let_go = float("-inf")  # when the lock was let go of, by the stopwatch
        self.size = _FIRST_ROWS
        self.longest_lock = timedelta()

    def batch(self, batch: Rows) -> list[str]:
        """Settle a batch; what came of each row."""
        keys = self._driver.texts(batch.keys)
        marks = self._marks(batch)
        if self._peek:
            with self._driver.reading():
                settled = self._settled(batch, keys, marks)
            if not settled.is_changed:
                return settled.outcomes
        if self._driver.in_a_row and self._unmoved == 0:
            time.sleep(max(0.0, self._let_go + _GAP.total_seconds() - self._stopwatch()))
        with self._driver.writing():
            start = self._stopwatch()  # from here on others wait; before, we may have waited for them
            settled = self._settled(batch, keys, marks)
            if settled.is_changed:
                self._record(batch, settled)
        self._peek = not settled.is_changed
        self._let_go = self._stopwatch()
        self._learn(timedelta(seconds=self._let_go - start), len(batch.keys))
        self._checkpoint()
        return settled.outcomes

    def _learn(self, took: timedelta, rows: int) -> None:
        """Make the next batch one that takes as long as it should, in steps that one slow moment cannot upset."""
        self.longest_lock = max(self.longest_lock, took)
        factor = min(max(LOCK_AIM / max(took, timedelta(milliseconds=1)), 0.4), 1.5)
        if rows >= self.size or factor < 1:
            self.size = int(min(max(rows * factor, _FEWEST_ROWS), _MOST_ROWS))

    def _checkpoint(self) -> None:
        """Let others write, from time to time, where they have to be let."""
        self._unmoved += 1
        if self._driver.in_a_row and self._unmoved >= self._driver.in_a_row:
            self._driver.tidy()
            self._unmoved = 0

    def _marks(self, batch: Rows) -> Any:
        """The keyed hashes of a batch, where anybody was ever erased."""
        secret = self._orders.erasure_secret
        if not self._driver.execute(f"SELECT EXISTS (SELECT 1 FROM suppression {ERASED})").fetchone()[0]:  # noqa: S608 # no input
            return None
        if secret is None:
            raise ErasureKeyError(missing=True)
        return self._driver.texts([erasure.mark(key, secret) for key in batch.keys])

    def _settled(self, batch: Rows, keys: Any, marks: Any) -> "_Settled":
        """What comes of each row, and how the people then stand; nothing is written yet."""
        execute, to = self._driver.execute, None
        if self._orders.to is not None:
            found = execute("SELECT id FROM mailing_list WHERE slug = ?", (self._orders.to,)).fetchone()
            if found is None:
                raise UnknownList(self._orders.to)
            self._to = to = found[0]
        here = batch.keys
        known = {here[row[0]]: row for row in execute(_FIND, {"keys": keys, "list": to})}
        people: dict[str, Person] = {}
        for index, reason in execute(_FIND_SUPPRESSED, {"keys": keys}):
            people[here[index]] = Person.of(known.get(here[index]), suppressed=reason)
        if marks is None:
            marks = self._marks(batch)  # somebody may just have been erased
        if marks is not None:
            for index, _ in execute(_FIND_SUPPRESSED, {"keys": marks}):
                people[here[index]] = Person.of(known.get(here[index]), erased=True)
        settled = _Settled(to, [], people, {})
        _settle_rows(batch, known, settled, self._wanted)
        return settled

    def _record(self, batch: Rows, settled: "_Settled") -> None:
        """Write what has changed."""
        execute, insert, to = self._driver.execute, self._driver.insert, settled.to
        changed = [(key, person) for key, person in settled.people.items() if person.is_changed]
        new = [(key, person) for key, person in changed if person.id is None and person.state is not None]
        old = [person for _, person in changed if person.id is not None or person.state is None]
        fresh = settled.fresh
        links = self._links.take(len(fresh) + len(new))
        number = self._driver.numbers(len(links)) - 1 if links else 0
        if fresh:
            first, now, addresses, names = number + 1, self._now, batch.addresses, batch.names
            insert(
                "subscriber",
                _FRESH,
                [
                    (id_, addresses[index], key, names[index], link, now)
                    for id_, (key, index), link in zip(count(first), fresh.items(), links, strict=False)
                ],
            )
            number += len(fresh)
            self._record_span(first, number, self._wanted, [(JOINED[self._wanted], None, None)], to)
        # By what happened to them: people of one kind have ids in a row, and one statement writes all their events.
        new.sort(key=lambda one: (one[1].state or "", [happening for happening, *_ in one[1].events]))
        rows = []
        for (key, person), link in zip(new, links[len(fresh) :], strict=True):
            number += 1
            person.id = number
            language, zone, topics, paused = person.filled or (None, None, None, None)
            until = self._driver.instant(paused) if paused else None
            rows.append((number, person.address, key, person.name, language, zone, topics, until, link, self._now))
        insert("subscriber", _PEOPLE, rows)
        for (state, events), alike in groupby((person for _, person in new), key=lambda p: (p.state, p.events)):
            ids = [person.id or 0 for person in alike]
            self._record_span(ids[0], ids[-1], str(state), events, to)
        self._record_known(old, to)
        self._record_events((None, person.nameless) for _, person in changed if person.nameless)
        insert(
            "suppression",
            "key, reason, at, note",
            [(key, person.held, self._now, self._note) for key, person in changed if person.held is not None],
        )
        for person in old:
            if person.id is not None and person.held in ENDS:
                state, happening = ENDS[person.held]
                told = {
                    **self._told(happening, None, None),
                    "subscriber": person.id,
                    "state": state,
                    "now": self._now,
                }
                execute(_END_EVENTS, told)
                execute(_END_SUBSCRIPTIONS, told)

    def _record_span(self, first: int, last: int, state: str, events: Events, to: int | None) -> None:
        """The subscriptions and events of new people with ids in a row, to all of whom the same happened."""
        span = {"first": first, "last": last, "list": to, "now": self._now}
        self._driver.execute(_ADD_SUBSCRIPTIONS, {**span, "state": state})
        for happening, evidence, before in events:
            self._driver.execute(_ADD_EVENTS, {**span, **self._told(happening, evidence, before)})

    def _record_known(self, people: list[Person], to: int | None) -> None:
        """Write what has changed of people that were here before, and of addresses that are nobody's."""
        self._driver.executemany(
            "UPDATE subscriber SET name = ?, language = coalesce(language, ?), zone = coalesce(zone, ?), "
            "topics = coalesce(topics, ?) WHERE id = ?",
            [(p.name, *(p.filled or (None,) * 4)[:3], p.id) for p in people if p.renamed or p.filled],
        )
        moved = [p for p in people if any(happening not in _OF_NO_LIST for happening, *_ in p.events)]
        self._driver.executemany(
            "UPDATE subscription SET state = ?, changed_at = ? WHERE id = ?",
            [(p.state, self._now, p.subscription) for p in moved if p.subscription is not None],
        )
        self._driver.insert(
            "subscription",
            _SUBSCRIPTIONS,
            [(to, p.id, p.state, self._now) for p in moved if p.subscription is None],
        )
        self._record_events((p.id, p.events) for p in people)

    def _record_events(self, events: Iterable[tuple[int | None, Events]]) -> None:
        self._driver.insert(
            "consent_event",
            _EVENTS,
            [
                (subscriber, self._now, *self._told(happening, evidence, before).values())
                for subscriber, those in events
                for happening, evidence, before in those
            ],
        )

    def _told(self, happening: str, evidence: str | None, before: str | None) -> dict[str, Any]:
        """The columns of an event that do not depend on whose it is, in the order of `_EVENTS`."""
        return {
            "list": None if happening in _OF_NO_LIST else self._to,
            "event": happening,
            "actor": self._orders.actor,
            "way": Way.IMPORT.value,
            "form": self._orders.form[: consent.LONGEST_FORM] or None,
            "statement": self._statement if happening == Happening.CONFIRMED else None,
            "evidence": evidence,
            "before": json.dumps({"state": before}) if before else None,
        }

    @property
    def _note(self) -> str:
        return f"import of {self._orders.form}"[:500]  # as Suppression.note


def _settle_rows(batch: Rows, known: dict[str, Any], settled: _Settled, wanted: str) -> None:
    """Settle row by row. Most rows are of somebody new, or of somebody of whom they tell nothing new."""
    people, fresh = settled.people, settled.fresh
    append, more, usual = settled.outcomes.append, batch.more, USUAL if settled.to is not None else None
    for index, (key, standing, name) in enumerate(zip(batch.keys, batch.standings, batch.names, strict=True)):
        person = people.get(key)
        if person is None:
            row = known.get(key)
            if standing == usual and index not in more:
                if row is None and key not in fresh:
                    fresh[key] = index
                    append(ADDED)
                    continue
                if row is not None and row[7] == CONFIRMED and (not name or name == row[2]):
                    append(UNCHANGED)
                    continue
            person = people[key] = Person.of(row)
            if (first := fresh.pop(key, None)) is not None:  # in the batch a second time: the first row counts
                person.address = batch.addresses[first]
                settle(person, USUAL, batch.names[first], None, wanted)
        if not person.is_here:
            person.address = batch.addresses[index]
        if settled.to is None:
            append(settle_suppression(person, standing))
        else:
            append(settle(person, standing, name, more.get(index), wanted))
