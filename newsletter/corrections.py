"""A brief that was corrected or pulled after an edition took it: the edition's messages are made and approved anew.

A new revision of the Messages stands beside the ones before, and whatever is claimed from then on goes by it. Where the
desk has to approve editions, those that are under way are paused until it has, or until its silence is an answer. What
has gone out stays as it was; the archive shows the new revision, and says what was corrected.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Select, and_, or_, select
from sqlmodel import Session, col

from newsletter import agenda, control, desk, docket, store
from newsletter.brief import Brief
from newsletter.compile import Compiled
from newsletter.drafting import compile_edition
from newsletter.edition import Correction
from newsletter.errors import EditionError
from newsletter.models import (
    NEWEST_REVISION,
    Approval,
    BriefRecord,
    Decision,
    EditionRecord,
    EditionState,
    RevisionRecord,
    Verdict,
)
from newsletter.newsroom import Newsroom
from newsletter.schedule import Slot
from subscribers import reading, transaction

CORRECTED_FOR = timedelta(days=30)
"""How long after it was closed an edition in the archive follows its briefs' corrections. Pulled ones go for good."""

_PULLED = "a brief was pulled: its mail is made anew"
_ACTOR = "corrections"
_OPEN = (EditionState.DRAFT, EditionState.HELD, EditionState.DISPATCHING, EditionState.PAUSED)


def pull(newsroom: Newsroom, brief_id: int, *, actor: str, reason: str | None) -> list[EditionRecord]:
    """Take a brief out of everything that has not gone out, and out of the archive. Gives the editions it stood in.

    Nothing more goes out of an edition that holds it until its mail was made anew, which is done at once. Raises
    EditionError where there is no such brief, or it was pulled already.
    """
    now = newsroom.clock()
    with transaction(newsroom.engine) as session:
        record = session.get(BriefRecord, brief_id)
        if record is None:
            raise EditionError(f"brief {brief_id}", "there is no such brief; newsletter briefs lists them")
        if record.pulled_at is not None:
            raise EditionError(f"brief {brief_id}", f"it was pulled already, by {record.pulled_by}")
        record.pulled_at, record.pulled_by, record.pull_reason = now, actor, reason
        held = list(session.execute(_holding(brief_id)).scalars())
        for edition in held:
            store.act(session, "pull", now=now, actor=actor, edition_id=edition.id, note=f"brief {brief_id}")
            if edition.state is EditionState.DISPATCHING:
                edition.state, edition.reason, edition.paused_by = EditionState.PAUSED, _PULLED, None
        if not held:
            store.act(session, "pull", now=now, actor=actor, note=f"brief {brief_id}")
    for edition in held:
        amend(newsroom, edition.id or 0)
    return held


def restore(newsroom: Newsroom, brief_id: int, *, actor: str) -> None:
    """Let a brief stand again that was pulled: it may be taken by the next edition. Raises EditionError."""
    with transaction(newsroom.engine) as session:
        record = session.get(BriefRecord, brief_id)
        if record is None or record.pulled_at is None:
            raise EditionError(f"brief {brief_id}", "it is not pulled" if record else "there is no such brief")
        record.pulled_at = record.pulled_by = record.pull_reason = None
        store.act(session, "restore", now=newsroom.clock(), actor=actor, note=f"brief {brief_id}")


def amend_all(newsroom: Newsroom) -> int:
    """Make the messages of all editions anew whose briefs were corrected or pulled since. Gives of how many."""
    with reading(newsroom.engine) as session:
        ids = list(session.execute(_outdated(newsroom.clock())).scalars())
    return sum(amend(newsroom, edition_id) for edition_id in ids if edition_id is not None)


def amend(newsroom: Newsroom, edition_id: int) -> bool:
    """The same of one edition. False where nothing has changed in it.

    Raises CompileError where what is left cannot be compiled: then it stays as it is, and nothing of it goes out that
    was pulled.
    """
    with reading(newsroom.engine) as session:
        record = session.get_one(EditionRecord, edition_id)
        standing = _standing(session, record)
    if not standing.changed or record.newsletter not in newsroom.settings.newsletters:
        return False
    newsletter = newsroom.settings.newsletter(record.newsletter)
    few = len(standing.briefs) < newsletter.min_briefs
    compiled = None
    if standing.briefs and not (few and record.frozen_at is None):
        slot = Slot.parse(record.slot, record.zone)
        compiled = compile_edition(
            newsroom.settings, record.newsletter, slot, standing.briefs, corrections=standing.corrections
        )
    with transaction(newsroom.engine) as session:
        stored = session.get_one(EditionRecord, edition_id, populate_existing=True)
        again = _standing(session, stored)
        if again != standing or stored.state is not record.state:
            return False  # somebody was quicker, or it went a step on: looked at again the next time
        if compiled is None:
            _end(session, newsroom, stored)
            return True
        _take_over(session, newsroom, stored, compiled, standing)
    return True


# ------------------------------------------------------------------------------------------ what stands


@dataclass(frozen=True)
class _Standing:
    """What is left of an edition, in its order, in the newest revisions, and what was corrected since it was made."""

    briefs: tuple[Brief, ...]
    revisions: tuple[tuple[int, int], ...]  # of each of them: the brief's id, and its newest revision
    corrections: tuple[Correction, ...]
    changed: bool


def _standing(session: Session, record: EditionRecord) -> _Standing:
    rows = session.execute(
        select(Decision, BriefRecord, col(RevisionRecord.content), col(RevisionRecord.seen_at))
        .join(BriefRecord, col(BriefRecord.id) == col(Decision.brief_id))
        .join(RevisionRecord, NEWEST_REVISION)
        .where(col(Decision.edition_id) == record.id, col(Decision.verdict) == Verdict.TAKEN)
        .order_by(col(Decision.position), col(Decision.id))
    ).all()
    briefs: list[Brief] = []
    revisions: list[tuple[int, int]] = []
    corrections: dict[int, Correction] = {}
    changed = False
    for decision, brief, content, seen_at in rows:
        stands = decision.position is not None
        if brief.pulled_at is not None:
            corrections[brief.id] = Correction(None, brief.pulled_at)
            changed = changed or stands
            continue
        newest = Brief.model_validate_json(content)
        if brief.revision != decision.revision:
            corrections[brief.id] = Correction(newest.headline, seen_at)
        if stands:
            changed = changed or brief.revision != decision.revision
            briefs.append(newest)
            revisions.append((brief.id, brief.revision))
    return _Standing(tuple(briefs), tuple(revisions), tuple(corrections.values()), changed)


def _holding(brief_id: int) -> Select[EditionRecord]:
    """The editions that hold a brief, in any revision."""
    return (
        select(EditionRecord)
        .join(Decision, col(Decision.edition_id) == col(EditionRecord.id))
        .where(
            col(Decision.brief_id) == brief_id,
            col(Decision.verdict) == Verdict.TAKEN,
            col(Decision.position).is_not(None),
        )
        .order_by(col(EditionRecord.slot_at))
    )


def _outdated(now: datetime) -> Select[int | None]:
    """The editions that hold what was corrected since, as long as they follow corrections; or what was pulled."""
    recent = and_(col(EditionRecord.state) == EditionState.CLOSED, col(EditionRecord.closed_at) > now - CORRECTED_FOR)
    follows = or_(col(EditionRecord.state).in_(_OPEN), recent)
    return (
        select(col(EditionRecord.id))
        .join(Decision, col(Decision.edition_id) == col(EditionRecord.id))
        .join(BriefRecord, col(BriefRecord.id) == col(Decision.brief_id))
        .where(
            follows,
            col(Decision.verdict) == Verdict.TAKEN,
            col(Decision.position).is_not(None),
            or_(col(BriefRecord.revision) != col(Decision.revision), col(BriefRecord.pulled_at).is_not(None)),
        )
        .distinct()
    )


# ------------------------------------------------------------------------------------------ on record


def _take_over(
    session: Session, newsroom: Newsroom, record: EditionRecord, compiled: Compiled, standing: _Standing
) -> None:
    """Put the new revision in the place of the one before, and ask the desk about it where it has to be asked."""
    assert record.id is not None
    now, newsletter = newsroom.clock(), newsroom.settings.newsletter(record.newsletter)
    message = store.add_revision(
        session, record.id, compiled.message, compiled.archive, briefs=len(standing.briefs), now=now
    )
    _decide_anew(session, record, standing.revisions, now)
    note = f"revision {message.revision}: " + "; ".join(str(one) for one in standing.corrections)
    store.act(session, "correct", now=now, actor=_ACTOR, edition_id=record.id, note=note[:500])
    if record.state not in _OPEN:
        return  # it has gone out: the archive alone shows it
    asks = newsletter.approval == "required" and record.state is not EditionState.HELD
    mine = record.state is EditionState.PAUSED and record.reason == _PULLED
    waits = record.approval is Approval.WAITING  # for an earlier correction: what is asked about is this one, now
    if asks and record.paused_by is None and (mine or waits or record.state is not EditionState.PAUSED):
        record.approval, record.approved_by = Approval.WAITING, None
        record.approve_by = agenda.answer_by(newsletter, now)
        if record.state is not EditionState.DRAFT:
            record.state, record.reason = EditionState.PAUSED, "corrected: it waits for approval"
        record.next_at = record.approve_by
    elif mine:
        record.state, record.reason = EditionState.DISPATCHING, None
    desk.tell_proof(session, newsroom.settings, record, message, now, remarks=compiled.remarks)


def _decide_anew(session: Session, record: EditionRecord, revisions: Sequence[tuple[int, int]], now: datetime) -> None:
    """Write down which revisions the edition holds now. What it held before stays on record, without a position."""
    taken = {
        decision.brief_id: decision
        for decision in session.execute(
            select(Decision).where(
                col(Decision.edition_id) == record.id,
                col(Decision.verdict) == Verdict.TAKEN,
                col(Decision.position).is_not(None),
            )
        ).scalars()
    }
    positions = {brief_id: position for position, (brief_id, _) in enumerate(revisions, 1)}
    for brief_id, decision in taken.items():
        newest = dict(revisions).get(brief_id)
        if newest == decision.revision:
            decision.position = positions[brief_id]
            continue
        decision.position = None
        if newest is None:
            continue
        whose = and_(
            col(Decision.newsletter) == record.newsletter,
            col(Decision.brief_id) == brief_id,
            col(Decision.revision) == newest,
        )
        anew = session.execute(select(Decision).where(whose)).scalar_one_or_none() or Decision(
            newsletter=record.newsletter,
            brief_id=brief_id,
            revision=newest,
            source=decision.source,
            verdict=Verdict.TAKEN,
            edition_id=record.id or 0,
            decided_at=now,
        )
        anew.verdict, anew.reason, anew.edition_id = Verdict.TAKEN, None, record.id or 0
        anew.position, anew.final = positions[brief_id], decision.final
        session.add(anew)
    session.flush()


def _end(session: Session, newsroom: Newsroom, record: EditionRecord) -> None:
    """Nothing is left of it: before the freeze it is drafted anew, after it what has not gone out never will."""
    now = newsroom.clock()
    _decide_anew(session, record, (), now)
    if record.frozen_at is None:
        record.approval = record.approve_by = None
        if record.state is EditionState.HELD:
            record.state, record.reason = EditionState.SKIPPED, "its briefs were pulled"
            docket.leave(record, next_at=None)
        else:
            record.state, record.reason, record.next_at = EditionState.PLANNED, "made anew: a brief was pulled", now
    elif record.state in _OPEN:
        control.cancel(session, record, actor=_ACTOR, reason="its briefs were pulled", now=now)
    else:  # it has gone out: what is cancelled, the archive does not show
        record.state, record.reason = EditionState.CANCELLED, "it has gone out; its briefs were pulled since"
    store.act(session, "correct", now=now, actor=_ACTOR, edition_id=record.id, note="its briefs were pulled")
