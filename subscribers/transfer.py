"""The list in bulk: people and suppressions out of a file into the database, and out of the database into a file.

Importing mails nobody and raises no consent: whoever left, bounced, complained, is suppressed or was erased stays so
(`subscribers.settling` is that rule). It works in short transactions of whole rows, each of which leaves the list as it
would be had the file ended there; so it can be killed at any instant and run again. Reading the file is the part of
`subscribers.rows`, writing to the database that of `subscribers.bulk`; opening it, and telling a person what came of
it, the caller's.
"""

import csv
import json
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from operator import itemgetter
from typing import IO, Any

from sqlalchemy import Engine
from sqlmodel import select

from subscribers import consent, erasure
from subscribers.bulk import ERASED, Orders, Rows, writer
from subscribers.db import reading, transaction
from subscribers.dialects import COLUMNS, SUPPRESSION_COLUMNS
from subscribers.directory import ensure_list
from subscribers.drivers import Driver, driver, rehearsal
from subscribers.errors import TransferError, UnknownList
from subscribers.models import MailingList, State
from subscribers.rows import End, Part, Refusal, Sheet
from subscribers.settling import ADDED, OUTCOMES, REFUSALS, UNCHANGED, UPDATED
from subscribers.tokens import Randomness

__all__ = [
    "Imported",
    "Orders",
    "Refuse",
    "export_csv",
    "export_json",
    "export_suppressions",
    "guarded",
    "import_rows",
    "rehearsal",
]

Refuse = Callable[[str, Refusal], None]
"""Takes a row that was refused, after the name of its file."""


@dataclass
class Imported:
    """What came of an import: each row is one of added, updated, unchanged and refused.

    `reasons` counts the refused by why, `remarks` what was left out of rows that were taken. `longest_lock` is the
    longest time that other writers had to wait for one transaction. `encodings` has one entry a file.
    """

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    refused: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)
    sheets: list[Sheet] = field(default_factory=list)
    encodings: list[str] = field(default_factory=list)
    longest_lock: timedelta = timedelta()

    @property
    def rows(self) -> int:
        """How many rows there were."""
        return self.added + self.updated + self.unchanged + self.refused


# ------------------------------------------------------------------------------------------ in


def import_rows(
    engine: Engine,
    parts: Iterable[Part],
    orders: Orders,
    *,
    refuse: Refuse,
    randomness: Randomness = secrets.token_bytes,
    stopwatch: Callable[[], float] = time.perf_counter,
) -> Imported:
    """Import what `subscribers.rows` reads. Mails nobody, and raises nobody's consent.

    Refused rows come in the order of the file. Raises TransferError where the file is none (what came before the fault
    is in), ErasureKeyError where it cannot be told who was erased, UnknownList where the list goes away meanwhile.
    """
    if orders.evidence is not None and not orders.evidence.strip():
        raise TransferError("expected a word on how the consent of these people is known")
    done = Imported()
    _judge_erasures(engine, orders)
    statement: int | None = None
    with transaction(engine) as session:
        if orders.to is not None:
            ensure_list(session, orders.to, orders.to, orders.now)
        if orders.evidence is not None:
            statement = consent.statement(session, orders.evidence.strip(), orders.now)
    with writer(engine, orders, statement, randomness, stopwatch) as write:
        waiting = Rows()
        sheet = Sheet("", "", None)
        refused: list[Refusal] = []
        for part in parts:
            if isinstance(part, Sheet):
                sheet = part
                done.sheets.append(part)
            elif isinstance(part, End):
                done.encodings.append(part.encoding)
                done.remarks.update(part.remarks)
            else:
                waiting.extend(part)
                refused += part.refused
                while len(waiting.keys) >= write.size or (part.last and waiting.keys):
                    batch = waiting.take(write.size)
                    outcomes = write.batch(batch)
                    _count(done, batch, outcomes, refused)
                if part.last:
                    _report(done, sheet.name, refused, refuse)
                    refused = []
        done.longest_lock = write.longest_lock
    return done


def _judge_erasures(engine: Engine, orders: Orders) -> None:
    with driver(engine) as hand:
        start = len(erasure.prefix(b""))
        found = hand.execute(f"SELECT DISTINCT substr(key, 1, {start}) FROM suppression {ERASED}").fetchall()  # noqa: S608 # no input
    erasure.judge((mark for (mark,) in found), orders.erasure_secret)


def _count(done: Imported, batch: "Rows", outcomes: Sequence[str], refused: list[Refusal]) -> None:
    counts = Counter(outcomes)
    done.added += counts[ADDED]
    done.updated += counts[UPDATED]
    done.unchanged += counts[UNCHANGED]
    if counts.keys() <= OUTCOMES:
        return
    for index, outcome in enumerate(outcomes):
        if outcome not in OUTCOMES:
            refused.append((batch.lines[index], outcome, REFUSALS[outcome], batch.rows[index]))


def _report(done: Imported, name: str, refused: list[Refusal], refuse: Refuse) -> None:
    refused.sort(key=itemgetter(0))
    for one in refused:
        done.reasons[one[1]] += 1
        refuse(name, one)
    done.refused += len(refused)


# ------------------------------------------------------------------------------------------ out

_SUBSCRIPTIONS = """
SELECT s.key, s.address, s.name, u.state, u.changed_at, s.language, s.zone, s.topics, s.paused_until, s.created_at
FROM subscriber AS s {join} subscription AS u ON u.list_id = :list AND u.subscriber_id = s.id
WHERE s.key > :after AND s.erased_at IS NULL AND u.state IN (SELECT value FROM {of_states} AS wanted)
ORDER BY s.key LIMIT :rows
"""
_SUPPRESSIONS = "SELECT key, reason, at, note FROM suppression WHERE key > :after ORDER BY key LIMIT :rows"

_GUARD = frozenset("=+-@\t\r")  # what makes a spreadsheet take a cell for a formula (OWASP, CSV injection)
_PAGE_ROWS = 5_000


def guarded(cell: str | None) -> str:
    """A cell with an apostrophe before what a spreadsheet would take for a formula; importing takes it away."""
    if not cell:
        return ""
    if cell[0] in _GUARD or (cell[0] == "'" and cell.lstrip("'")[:1] in _GUARD):  # so that one that was there stays
        return f"'{cell}"
    return cell


def export_csv(engine: Engine, out: IO[str], *, to: str | None = None, states: Sequence[State] = ()) -> int:
    """Write subscriptions as CSV, by list and key, and say how many: of one list or all, in some states or any.

    Cells are guarded against spreadsheets. Each page of rows is read by itself: who changes meanwhile is in it once, as
    they were before or after. Raises UnknownList.
    """
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    written = 0
    for slug, page in _pages(engine, to, states):
        writer.writerows(
            [
                (
                    address if address[0].isalnum() else guarded(address),
                    guarded(name) if name else "",
                    slug,
                    state,
                    _iso(since),
                    language,
                    zone,
                    topics,
                    _iso(paused),
                    _iso(joined),
                )
                for _, address, name, state, since, language, zone, topics, paused, joined in page
            ]
        )
        written += len(page)
    return written


def export_json(engine: Engine, out: IO[str], *, to: str | None = None, states: Sequence[State] = ()) -> int:
    """The same as one JSON array, an object a line, unguarded; what is not known is null."""
    out.write("[")
    written = 0
    for slug, page in _pages(engine, to, states):
        for _, address, name, state, since, language, zone, topics, paused, joined in page:
            values = (address, name, slug, state, _iso(since), language, zone, topics and json.loads(topics))
            row = dict(zip(COLUMNS, (*values, _iso(paused) or None, _iso(joined)), strict=True))
            out.write(f"{',' if written else ''}\n{json.dumps(row, ensure_ascii=False)}")
            written += 1
    out.write("\n]\n")
    return written


def export_suppressions(engine: Engine, out: IO[str], *, as_json: bool = False) -> int:
    """Write the addresses that must not be mailed, by key. Who was erased is not in it: their mark names nobody."""
    writer = csv.writer(out, lineterminator="\n")
    if as_json:
        out.write("[")
    else:
        writer.writerow(SUPPRESSION_COLUMNS)
    written, after = 0, ""
    with driver(engine) as hand:
        while page := _page(hand, _SUPPRESSIONS, {"after": after, "rows": _PAGE_ROWS}):
            after = page[-1][0]
            for key, reason, at, note in page:
                if erasure.is_mark(key):
                    continue
                if as_json:
                    row = dict(zip(SUPPRESSION_COLUMNS, (key, reason, _iso(at), note), strict=True))
                    out.write(f"{',' if written else ''}\n{json.dumps(row, ensure_ascii=False)}")
                else:
                    writer.writerow((guarded(key), reason, _iso(at), guarded(note)))
                written += 1
    if as_json:
        out.write("\n]\n")
    return written


def _pages(engine: Engine, to: str | None, states: Sequence[State]) -> Iterator[tuple[str, list[Any]]]:
    with reading(engine) as session:
        lists = [(one.slug, one.id) for one in session.exec(select(MailingList).order_by(MailingList.slug))]
    if to is not None:
        lists = [(slug, number) for slug, number in lists if slug == to]
        if not lists:
            raise UnknownList(to)
    with driver(engine) as hand:
        wanted = hand.texts([state.value for state in states or State])
        for slug, number in lists:
            after = ""
            told = {"list": number, "states": wanted, "rows": _PAGE_ROWS}
            while page := _page(hand, _SUBSCRIPTIONS, {**told, "after": after}):
                after = page[-1][0]
                yield slug, page


def _page(hand: Driver, statement: str, told: dict[str, Any]) -> list[Any]:
    with hand.reading():
        return list(hand.execute(statement, told))


def _iso(stored: str | None) -> str:
    """An instant as the database keeps it, in ISO 8601, whole seconds."""
    return f"{stored[:10]}T{stored[11:19]}Z" if stored else ""
