"""What keeps a mail too many from leaving: refusals, and what an operator is asked to say yes to.

Functions of values: each returns where nothing stands against it, and raises what is to be told where something does.
An EditionError with `consent` is one that the operator's yes lifts.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from newsletter.dispatch import hours
from newsletter.errors import ConfigurationError, EditionError, NobodyError
from newsletter.models import Approval, EditionRecord, EditionState, Instance
from newsletter.providers import Provider
from newsletter.schedule import Slot
from newsletter.settings import Newsletter, Settings

_JUMP_FLOOR = 100  # an audience that grows by fewer never needs a yes: a small list doubles in a day


def refuse_if_halted(name: str, database: Instance) -> None:
    """Refuse to send while an operator has halted all dispatch."""
    if database.halted_at is not None:
        why = f" ({database.halt_reason})" if database.halt_reason else ""
        raise EditionError(
            name,
            f"all dispatch is halted since {database.halted_at:%Y-%m-%d %H:%M} UTC by {database.halted_by}{why}; "
            "newsletter unhalt lets it run",
        )


def refuse_if_not_claimed(settings: Settings, provider: Provider, database: Instance) -> None:
    """Refuse to mail real people from a database that the configuration does not name: it may be a copy."""
    if provider.live and settings.database.instance != database.instance_id:
        raise ConfigurationError(
            f"{provider.name} mails real people, and this database is not claimed: if it is no copy, set "
            f'instance = "{database.instance_id}" under [database]',
            file=settings.file,
        )


def ask_about_slot(name: str, newsletter: Newsletter, slot: Slot, now: datetime) -> None:
    """Ask where a slot is none of the schedule's, is still ahead, or is past `stale_after`."""
    schedule = newsletter.timetable
    scheduled = next(schedule.upcoming(slot.instant - timedelta(minutes=1)), None)
    if scheduled is None or scheduled.local != slot.local:
        raise EditionError(
            name,
            f"{slot} is no slot of its schedule ({', '.join(newsletter.schedule)}); --yes sends it",
            consent=True,
        )
    begins = newsletter.due_from(slot)
    if begins > now and newsletter.send_at_local:
        what = f"its slot {slot} begins in {hours(begins - now)}, where the day begins first"
        asked = "--yes freezes it now, and sends it at that time in each zone"
        raise EditionError(name, f"{what}; {asked}", consent=True)
    if begins > now:
        wait = hours(begins - now)
        raise EditionError(name, f"its slot {slot} is {wait} ahead; --yes sends it now", consent=True)
    if now - slot.instant > newsletter.stale_after:
        late = hours(now - slot.instant)
        raise EditionError(name, f"its slot {slot} was {late} ago, past stale_after; --yes sends it", consent=True)


def ask_if_held(name: str, record: EditionRecord | None) -> None:
    """Ask where an edition is held, or waits for the desk's approval."""
    if record is None:
        return
    if record.state is EditionState.HELD:
        raise EditionError(name, f"the edition of {record.slot} is held: {record.reason}; --yes sends it", consent=True)
    if record.state is EditionState.DRAFT and record.approval is Approval.WAITING:
        raise EditionError(
            name, f"the edition of {record.slot} waits for approval; --yes approves it, and sends it", consent=True
        )


def ask_if_corrected(record: EditionRecord, *, consent: bool) -> None:
    """Ask where a paused edition was corrected, and the desk has not approved that yet."""
    if record.approval is Approval.WAITING and not consent:
        name = f"{record.newsletter} {record.slot}"
        raise EditionError(name, f"{record.reason}; --yes approves it, and lets it go on", consent=True)


def ask_if_near(name: str, newsletter: Newsletter, slot: Slot, frozen: Sequence[EditionRecord], now: datetime) -> None:
    """Ask where a slot is nearer than `min_interval` to another edition's. `frozen` are its neighbours."""
    others = [(other, abs(other.slot_at - slot.instant)) for other in frozen if other.slot != str(slot)]
    gap = newsletter.min_interval
    if gap is None:
        # The next two slots tell mostly that there is nothing to ask, in a tenth of the time that fifty take.
        if all(apart >= newsletter.timetable.shortest_gap(now, 2) * 3 / 4 for _, apart in others):
            return
        gap = newsletter.timetable.shortest_gap(now) * 3 / 4
    for other, apart in others:
        if apart < gap:
            raise EditionError(
                name,
                f"its slot {slot} is only {hours(apart)} from the edition of {other.slot}, less than "
                f"min_interval ({hours(gap)}); --yes sends it",
                consent=True,
            )


def refuse_if_nobody(name: str, newsletter: Newsletter, *, candidates: int, mailable: int) -> None:
    """Refuse to start an edition that would go to nobody."""
    lists = ", ".join(newsletter.lists)
    if not mailable:
        raise NobodyError(
            name,
            f"nobody to mail on list {lists} ({candidates} confirmed, none of them may be mailed)"
            if candidates
            else f"nobody is confirmed on list {lists} yet; newsletter subscribers add puts people on it",
        )


def ask_if_grown(name: str, candidates: int, frozen: Sequence[EditionRecord], jump: float) -> None:
    """Ask where an audience is larger than `jump` times the last one: that of the first of its `frozen` editions."""
    last = (frozen[0].candidates or 0) if frozen else None
    if last is not None and candidates > max(last * jump, last + _JUMP_FLOOR):
        raise EditionError(
            name,
            f"its audience of {candidates:,} is far larger than the last one of {last:,}; --yes sends it",
            consent=True,
        )
