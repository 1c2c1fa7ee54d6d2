"""What is to be done next about an edition, and when. Pure: rows and settings in, a step out.

The clock asks this again and again, after every step, whatever process took the step before; so a step that was cut off
is simply found to be due again.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from newsletter.models import Approval, EditionRecord, EditionState
from newsletter.schedule import Slot, first_on_earth
from newsletter.settings import Newsletter


class Todo(StrEnum):
    """What a step does."""

    DRAFT = "draft"  # collect, decide, compile
    START = "start"  # freeze the audience
    DISPATCH = "dispatch"  # hand over what is due
    CONSENT = "consent"  # nobody answered in time, and the rule for silence says that it goes
    HOLD = "hold"  # let it be until a person says something
    SKIP = "skip"  # it does not go out
    CANCEL = "cancel"  # what has not gone out of it never will
    WAIT = "wait"  # nothing before `at`


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `reason` is for people; `at` is when to look again, None where a person or an event makes it."""

    todo: Todo
    reason: str | None = None
    at: datetime | None = None


def launch_of(newsletter: Newsletter, slot: Slot) -> datetime:
    """When an edition begins to go out: its slot, or when the first zone on Earth shows the slot's time."""
    return first_on_earth(slot.local) if newsletter.send_at_local else slot.instant


def drafted_from(newsletter: Newsletter, slot: Slot) -> datetime:
    """When it is drafted: `lead` before that."""
    return launch_of(newsletter, slot) - newsletter.lead


def answer_by(newsletter: Newsletter, drafted_at: datetime) -> datetime:
    """Until when the desk may answer to what was drafted at a time."""
    within = newsletter.lead if newsletter.approve_within is None else newsletter.approve_within
    return drafted_at + within


def next_step(record: EditionRecord, newsletter: Newsletter, now: datetime, *, due_at: datetime | None) -> Step:
    """What is to be done about an edition at `now`. `due_at` is when a batch of it is due; None: none waits."""
    if record.state is EditionState.DISPATCHING:
        return Step(Todo.DISPATCH) if due_at is None or due_at <= now else Step(Todo.WAIT, at=due_at)
    if record.state is EditionState.PAUSED:
        return _corrected(record, newsletter, now)
    if record.state in {EditionState.PLANNED, EditionState.DRAFT}:
        return _towards_the_launch(record, newsletter, now)
    return Step(Todo.WAIT)


def _towards_the_launch(record: EditionRecord, newsletter: Newsletter, now: datetime) -> Step:
    """Planned or drafted: drafted in time, shown, approved, started at its launch, and never when it is stale."""
    launch = launch_of(newsletter, Slot.parse(record.slot, record.zone))
    late = now - max(launch, record.approved_at or launch)
    if late > newsletter.stale_after:
        return Step(Todo.HOLD, f"its slot was {_span(now - launch)} ago, past stale_after")
    if record.state is EditionState.PLANNED:
        begins = launch - newsletter.lead
        return Step(Todo.DRAFT) if now >= begins else Step(Todo.WAIT, at=begins)
    if record.approval is Approval.WAITING and record.approve_by is not None:
        return _unanswered(record.approve_by, newsletter, now, "it", Todo.SKIP)
    return Step(Todo.START) if now >= launch else Step(Todo.WAIT, at=launch)


def _corrected(record: EditionRecord, newsletter: Newsletter, now: datetime) -> Step:
    """Paused; where it was for a correction that the desk has to approve, silence is an answer, too."""
    if record.approval is not Approval.WAITING or record.approve_by is None:
        return Step(Todo.WAIT)
    return _unanswered(record.approve_by, newsletter, now, "the correction", Todo.CANCEL)


def _unanswered(by: datetime, newsletter: Newsletter, now: datetime, what: str, skip: Todo) -> Step:
    """What becomes of an edition that the desk was asked about: it has until `by`, then silence is an answer."""
    if now < by:
        return Step(Todo.WAIT, at=by)
    said = f"nobody approved {what} by {by:%Y-%m-%d %H:%M} UTC"
    if newsletter.silence == "hold":
        return Step(Todo.HOLD, said)
    todo = Todo.CONSENT if newsletter.silence == "send" else skip
    return Step(todo, f"{said}, and silence = {newsletter.silence}")


def _span(span: timedelta) -> str:
    minutes = int(span.total_seconds() // 60)
    hours, days = minutes // 60, minutes // 1440
    if days >= 2:  # noqa: PLR2004 # from two days on, hours tell nobody anything
        return f"{days} days"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"
