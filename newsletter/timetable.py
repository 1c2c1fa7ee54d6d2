"""What a newsletter's schedule comes to: its next runs, and why a time will be no run. For people who look at it."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

from newsletter import agenda, docket, safeguards, store
from newsletter.errors import EditionError
from newsletter.models import EditionRecord, EditionState
from newsletter.newsroom import Newsroom
from newsletter.schedule import Slot
from newsletter.settings import Newsletter
from newsletter.typesetting import date
from subscribers import reading

_MOST_LOOKED_AT = 10_000  # times, of a schedule that skips nearly all of them
_OVER = frozenset({EditionState.CLOSED, EditionState.CANCELLED, EditionState.SKIPPED})


@dataclass(frozen=True, slots=True)
class ScheduledRun:
    """A time that a newsletter's schedule names, or an operator put beside it.

    `launches` is when the edition begins to go out. `skipped` says why it will not; `note` what else there is to know.
    """

    newsletter: str
    slot: Slot
    drafted: datetime
    launches: datetime
    extra: bool
    state: EditionState | None  # of its edition, None where there is none yet
    skipped: str | None
    note: str | None


def runs(newsroom: Newsroom, name: str, after: datetime, count: int) -> list[ScheduledRun]:
    """The next times of a newsletter after an instant, those that are skipped among them, at most `count`."""
    newsletter = newsroom.settings.newsletter(name)
    with reading(newsroom.engine) as session:
        extra = {one.slot: Slot.parse(one.slot, one.zone) for one in docket.extra_slots(session, name, after)}
        editions = docket.editions_since(session, name, after)
        frozen = store.frozen_editions(session, name, 50)
    times = islice(newsletter.timetable.times(after), min(count, _MOST_LOOKED_AT))
    slots = sorted({*times, *extra.values()}, key=lambda slot: slot.instant)[:count]
    found: list[ScheduledRun] = []
    before: list[Slot] = [Slot.parse(record.slot, record.zone) for record in frozen if record.slot_at <= after]
    for slot in slots:
        record = editions.get(str(slot))
        beside = str(slot) in extra
        why = _why_not(newsroom, newsletter, slot, record, frozen=frozen, beside=beside)
        found.append(
            ScheduledRun(
                name,
                slot,
                agenda.drafted_from(newsletter, slot),
                agenda.launch_of(newsletter, slot),
                beside,
                record.state if record else None,
                why,
                _note(newsletter, slot),
            )
        )
        if why is None:
            before.append(slot)
    return found


def _why_not(
    newsroom: Newsroom,
    newsletter: Newsletter,
    slot: Slot,
    record: EditionRecord | None,
    *,
    frozen: list[EditionRecord],
    beside: bool,
) -> str | None:
    if record is not None and record.state in {EditionState.CANCELLED, EditionState.SKIPPED}:
        return f"{record.state}: {record.reason or 'no reason is on record'}"
    if beside or (record is not None and record.frozen_at is not None):
        return None
    if (why := newsletter.timetable.why_none(slot)) is not None:
        return why
    try:
        safeguards.ask_if_near("", newsletter, slot, frozen, newsroom.clock())
    except EditionError as error:
        return error.what.partition("; --yes")[0]
    return None


def _note(newsletter: Newsletter, slot: Slot) -> str | None:
    if newsletter.send_at_local:
        return "in each reader's own zone"
    if slot.skipped_by_clock:
        shown = slot.instant.astimezone(ZoneInfo(slot.zone))
        return f"the clock is put forward that day: it goes out when the clock shows {shown:%H:%M}"
    other = slot.local.replace(tzinfo=ZoneInfo(slot.zone), fold=1).utcoffset()
    if other != slot.local.replace(tzinfo=ZoneInfo(slot.zone), fold=0).utcoffset():
        return "the clock shows this time twice that day: it goes out at the first"
    return None


def lines(newsroom: Newsroom, name: str, found: list[ScheduledRun]) -> Iterator[str]:
    """The same in words."""
    newsletter, now = newsroom.settings.newsletter(name), newsroom.clock()
    end = f", until {newsletter.until}" if newsletter.until else ""
    yield f"{name}  {newsletter.title}: {', '.join(newsletter.schedule)} in {newsletter.zone}{end}"
    for run in found:
        when = f"{date(run.slot)}, {run.slot.local:%H:%M}"
        yield f"  {when:<38} {run.launches:%Y-%m-%d %H:%M} UTC, {_ahead(run.launches - now)}{_said(run)}"
    if not found:
        yield "  no slot is left in its schedule"


def _said(run: ScheduledRun) -> str:
    if run.skipped is not None:
        return f"  SKIPPED: {run.skipped}"
    told = [*(["beside the schedule"] if run.extra else []), *([str(run.state)] if run.state else [])]
    told += [run.note] if run.note else []
    return f"  ({'; '.join(told)})" if told else ""


def _ahead(span: timedelta) -> str:
    minutes = int(span.total_seconds() // 60)
    if minutes < 0:
        return "past"
    days, hours = minutes // 1440, minutes // 60 % 24
    if days:
        return f"in {days} d {hours} h" if hours else f"in {days} d"
    return f"in {hours} h {minutes % 60} min" if hours else f"in {minutes} min"


def run_json(run: ScheduledRun) -> dict[str, Any]:
    """The same for a script."""
    return {
        "newsletter": run.newsletter,
        "slot": str(run.slot),
        "zone": run.slot.zone,
        "instant": run.slot.instant,
        "drafted": run.drafted,
        "launches": run.launches,
        "extra": run.extra,
        "state": run.state,
        "skipped": run.skipped,
        "note": run.note,
    }
