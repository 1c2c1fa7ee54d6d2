"""Telling the desk: what became of editions, what is to be approved, what must be looked into.

What is said is a value without addresses of subscribers. It is written down in the transaction that made it so, one
row a channel, and once for a key, whoever finds it out and however often. Bringing it there is messenger.py's.
"""

import json
import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy import delete, func, select
from sqlmodel import Session, col

from newsletter import store, tally
from newsletter.edition import Said, Urgency
from newsletter.models import (
    Approval,
    BriefRecord,
    Channel,
    Decision,
    DeskKind,
    DeskNotice,
    EditionRecord,
    EditionState,
    MessageRecord,
    NoticeState,
    OperatorAct,
    Verdict,
)
from newsletter.settings import Settings
from newsletter.tally import Tally

__all__ = [
    "Said",
    "Urgency",
    "go_on",
    "listed",
    "local_time",
    "mentionless",
    "name_of",
    "purge",
    "span",
    "stored",
    "tell",
    "tell_edition",
    "tell_proof",
    "waiting",
]

KEPT = timedelta(days=30)  # what the desk was told, to be looked up; as long as other notices
_LONGEST_SUBJECT = 300  # characters, as its column
_MOST_LISTED = 30  # headlines and briefs that were left: more than an edition holds, and a mail stays short
# What looks like an address of a mailbox. Its parts are bounded (RFC 5321, 4.5.3.1), so that the search is quick.
_ADDRESS = re.compile(r"[^\s<>()\[\],;:\"'@]{1,64}(?:@|%40)[^\s<>()\[\],;:\"'@]{0,255}\.[^\s<>()\[\],;:\"'@]{1,63}")

_TOLD = {
    EditionState.CLOSED,
    EditionState.SKIPPED,
    EditionState.HELD,
    EditionState.PAUSED,
    EditionState.CANCELLED,
}
"""The states that an edition is told in; through the others it only passes."""


def tell(
    session: Session,
    settings: Settings,
    kind: DeskKind,
    *,
    key: str,
    subject: str,
    said: Said,
    now: datetime,
    newsletter: str | None = None,
    edition_id: int | None = None,
    message_id: int | None = None,
    digest: str | None = None,
    force: bool = False,
) -> bool:
    """Write down what the desk is to be told, in the caller's transaction, which writes alone.

    By mail where [desk] mail names somebody; proofs and reports only as [desk] says, unless it is by `force`. By the
    webhook, where there is one, alerts and reports of what did not go well. `key` (up to 200 characters) is what it
    says, so that it is said once. `digest` is the shown Message's, since a row's number may be another's one day.
    True where something was written; False where it had been told before, or nobody is to be told.
    """
    content = json.dumps({"said": _mentionless(said).to_json(), "message": digest}, ensure_ascii=False)
    wanted = [channel for channel in Channel if _goes_by(channel, kind, said, settings, force=force)]
    if not wanted:
        return False
    before = set(session.execute(select(col(DeskNotice.channel)).where(col(DeskNotice.key) == key)).scalars())
    new = [channel for channel in wanted if channel not in before]
    for channel in new:
        session.add(
            DeskNotice(
                key=key,
                channel=channel,
                kind=kind,
                newsletter=newsletter,
                edition_id=edition_id,
                message_id=message_id,
                subject=mentionless(" ".join(subject.split()))[:_LONGEST_SUBJECT],
                content=content,
                created_at=now,
                due_at=now,
            )
        )
    session.flush()
    return bool(new)


def _goes_by(channel: Channel, kind: DeskKind, said: Said, settings: Settings, *, force: bool) -> bool:
    desk = settings.desk
    if channel is Channel.HOOK:
        bad = kind is DeskKind.REPORT and said.urgency is not Urgency.NEWS
        return desk.webhook is not None and (bad or kind is DeskKind.ALERT)
    wanted = {DeskKind.PROOF: desk.proofs, DeskKind.REPORT: desk.reports, DeskKind.ALERT: True}
    return bool(desk.mail) and (force or wanted[kind])


def _mentionless(said: Said) -> Said:
    """The same without addresses, which an operator's reason or a server's sentence may hold."""
    return Said(
        mentionless(said.heading),
        tuple((label, mentionless(value)) for label, value in said.rows),
        tuple(mentionless(one) for one in said.paragraphs),
        said.command,
        said.urgency,
    )


def mentionless(text: str) -> str:
    """A text without addresses of mailboxes."""
    return _ADDRESS.sub("[address]", text) if "@" in text or "%40" in text else text


def stored(notice: DeskNotice) -> Said:
    """What a row says."""
    return Said.from_json(json.loads(notice.content)["said"])


# ------------------------------------------------------------------------------------------ editions


def name_of(settings: Settings, record: EditionRecord) -> str:
    """An edition as the desk calls it: “The Morning Digest 2026-11-24 07:00”."""
    newsletter = settings.newsletters.get(record.newsletter)
    return f"{newsletter.title if newsletter else record.newsletter} {record.slot.replace('T', ' ')}"


def tell_edition(session: Session, settings: Settings, record: EditionRecord, now: datetime) -> bool:
    """Tell what became of an edition, in the state that it is in; once each time that it comes to it.

    What keeps readers waiting is told whatever [desk] reports says. Sets `record.told`, also where nobody is told.
    Gives what `tell` gives.
    """
    assert record.id is not None
    record.told = record.state
    session.add(record)
    if record.state not in _TOLD:
        return False
    counted = tally.tally(session, record) if record.frozen_at else None
    subject, said = _report(session, settings, record, counted)
    # Between two times in one state somebody lets it go on, which is on record: so their number tells them apart.
    acts = session.execute(
        select(func.count()).select_from(OperatorAct).where(col(OperatorAct.edition_id) == record.id)
    ).scalar_one()
    return tell(
        session,
        settings,
        DeskKind.REPORT,
        key=f"edition {record.id} {record.tag} {record.state} {acts}",
        subject=subject,
        said=said,
        now=now,
        newsletter=record.newsletter,
        edition_id=record.id,
        force=said.urgency is Urgency.NOW,
    )


def tell_held(session: Session, settings: Settings, records: Sequence[EditionRecord], now: datetime) -> bool:
    """Tell of several editions of a newsletter that are held at once, after a standstill, in one notice."""
    for record in records:
        record.told = record.state
        session.add(record)
    first, last = records[0], records[-1]
    newsletter = settings.newsletters.get(first.newsletter)
    name = newsletter.title if newsletter else first.newsletter
    subject = f"{name}: {len(records)} editions HELD, {first.slot} to {last.slot}"
    rows = tuple((record.slot, record.reason or "no reason is on record") for record in records)
    said = Said(
        subject,
        rows,
        ("Nothing of them goes out by itself. The command sends one of them; newsletter editions cancel ends it.",),
        f"newsletter editions approve {last.newsletter} {last.slot}",
        Urgency.LOOK,
    )
    key = f"held:{first.newsletter}:{first.id}:{last.id}:{len(records)}"
    return tell(
        session,
        settings,
        DeskKind.REPORT,
        key=key,
        subject=subject,
        said=said,
        now=now,
        newsletter=first.newsletter,
        edition_id=last.id,
        force=True,
    )


def _report(session: Session, settings: Settings, record: EditionRecord, counted: Tally | None) -> tuple[str, Said]:
    name = name_of(settings, record)
    rows = [("Edition", f"{record.newsletter}, slot {record.slot} {record.zone}")]
    if counted is not None:
        rows += _figures(record, counted)
    if record.state is EditionState.CLOSED:
        assert counted is not None
        return _closed(session, settings, record, counted, rows)
    why = record.reason or "no reason is on record"
    paragraphs = []
    urgency, command = Urgency.NOW, None
    if record.state is EditionState.HELD:
        paragraphs = ["Nothing of it goes out by itself any more: a person says whether it does."]
        command = go_on(session, record)
    elif record.state is EditionState.PAUSED:
        waiting_now = f"{counted.waiting:,} wait. " if counted else ""
        paragraphs = [f"{waiting_now}It goes on where it stopped, and nobody gets it twice."]
        command = go_on(session, record)
    elif record.state is EditionState.SKIPPED:
        urgency = Urgency.LOOK
        paragraphs = ["Nothing was sent. Its briefs wait for the next edition."]
        rows += _left(session, record)
    else:
        urgency = Urgency.LOOK
        paragraphs = ["What had not left never will."]
    rows.insert(0, ("Why", why))
    if record.state is EditionState.HELD:
        rows += _headlines(session, record)
    subject = f"{name} {record.state.value.upper()}: {_short(why, record.state)}"
    return subject, Said(f"{name} is {record.state.value}", tuple(rows), tuple(paragraphs), command, urgency)


def _short(why: str, state: EditionState) -> str:
    """A reason that begins with the state's word, without it: the subject has it already."""
    return why.removeprefix(f"{state.value} ").removeprefix(f"{state.value}: ")


def go_on(session: Session, record: EditionRecord) -> str | None:
    """The command that lets an edition go on that waits for a person; None where it waits for nobody."""
    where = f"{record.newsletter} {record.slot}"
    message = store.message_record(session, record.id or 0)
    if record.state is EditionState.PAUSED and (record.approval is not Approval.WAITING or message is None):
        return f"newsletter editions resume {where}"
    if record.state not in {EditionState.HELD, EditionState.DRAFT, EditionState.PAUSED}:
        return None
    revision = f" --revision {message.revision}" if message else ""  # none: it was held before it was drafted
    return f"newsletter editions approve {where}{revision}"


def _closed(
    session: Session, settings: Settings, record: EditionRecord, counted: Tally, rows: list[tuple[str, str]]
) -> tuple[str, Said]:
    name = name_of(settings, record)
    unsaid = counted.unknown - counted.given_up
    urgency, command, paragraphs = Urgency.NEWS, None, []
    show = f"newsletter editions show {record.newsletter} {record.slot}"
    answered = counted.accepted + counted.refused
    many_refused = answered >= settings.alerts.rate_of and counted.refused > settings.alerts.bounce_rate * answered
    if unsaid:
        urgency, command = Urgency.LOOK, show
        paragraphs.append(f"Of {unsaid:,} nobody knows whether they got it. The command names them and says why.")
    if counted.refused and (many_refused or not counted.accepted):
        urgency, command = Urgency.LOOK, show
        paragraphs.append(f"The provider refused {counted.refused:,} of {answered:,}.")
    if not counted.accepted:
        urgency, command = Urgency.NOW, show
        paragraphs.append("Nobody got it.")
    if not counted.holds:
        urgency, command = Urgency.NOW, show
        paragraphs.append("The sum does not hold: somebody is not accounted for. Please report that as a fault.")
    rows += _pace_of(record, counted)
    rows += _headlines(session, record)
    rows += _left(session, record)
    subject = f"{name}: {counted.accepted:,} of {counted.candidates:,} accepted"
    if unsaid:
        subject += f", {unsaid:,} unknown"
    heading = f"{counted.accepted:,} of {counted.candidates:,} accepted"
    return subject, Said(f"{name}: {heading}", tuple(rows), tuple(paragraphs), command, urgency)


_SUM = ("accepted", "refused", "suppressed", "skipped", "cancelled", "unknown", "waiting")


def _figures(record: EditionRecord, counted: Tally) -> Iterator[tuple[str, str]]:
    """The conservation sum, a row an addend, with what is known of the reasons."""
    yield "Candidates", f"{counted.candidates:,}"
    reasons: dict[str, list[str]] = {}
    for said, count in sorted(counted.reasons.items()):
        word, _, reason = said.partition(": ")
        if reason and reason != word:
            reasons.setdefault(word, []).append(f"{count:,} {reason}")
    for word in _SUM:
        count = getattr(counted, word)
        if count or word == "accepted":
            why = "; ".join(reasons.get(word, [])[:3])
            yield word.capitalize(), f"{count:,}" + (f" ({why})" if why else "")
    if counted.given_up:
        yield "Given up", f"{counted.given_up:,} of the unknown"
    if counted.fates:
        yield "Since then", ", ".join(f"{count:,} {word}" for word, count in counted.fates.items())
    if record.frozen_at:
        yield "Began", local_time(record.frozen_at, record.zone)


def _pace_of(record: EditionRecord, counted: Tally) -> Iterator[tuple[str, str]]:
    if record.frozen_at is None or record.closed_at is None:
        return
    lasted = record.closed_at - record.frozen_at
    seconds = max(lasted.total_seconds(), 1.0)
    yield "Over", f"{local_time(record.closed_at, record.zone)}, after {span(lasted)}"
    if counted.accepted:
        quick = counted.accepted >= seconds
        yield "Pace", f"{counted.accepted / seconds * (1 if quick else 60):,.0f} a {'second' if quick else 'minute'}"


def _headlines(session: Session, record: EditionRecord) -> Iterator[tuple[str, str]]:
    headlines = store.headlines_of(session, [record.id or 0]).get(record.id or 0, ())
    for number, headline in enumerate(headlines[:_MOST_LISTED], 1):
        yield f"Brief {number}", headline


def _left(session: Session, record: EditionRecord) -> Iterator[tuple[str, str]]:
    """What an edition did not take, and why."""
    rows = session.execute(
        select(col(BriefRecord.headline), col(Decision.verdict), col(Decision.reason))
        .join(Decision, col(Decision.brief_id) == col(BriefRecord.id))
        .where(col(Decision.edition_id) == record.id, col(Decision.verdict) != Verdict.TAKEN)
        .order_by(col(Decision.id))
        .limit(_MOST_LISTED)
    )
    words = {Verdict.LEFT: "Left", Verdict.CARRIED: "Next time"}
    for headline, verdict, reason in rows:
        yield words[verdict], f"{headline}: {reason}" if reason else headline


def local_time(instant: datetime, zone: str, *, day: bool = False) -> str:
    """A time as a zone's clocks show it: “07:00:03 CET”, with its `day` before it where that is asked for."""
    local = instant.astimezone(ZoneInfo(zone))
    return f"{local:%Y-%m-%d %H:%M %Z}" if day else f"{local:%H:%M:%S %Z}"


def span(lasted: timedelta) -> str:
    """A time span in its two largest units: “2 d 3 h”, “1 min 9 s”."""
    seconds = max(int(lasted.total_seconds()), 0)
    parts = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count:,} {unit}")
    return " ".join(parts[:2]) or "0 s"


# ------------------------------------------------------------------------------------------ proofs


def tell_proof(
    session: Session,
    settings: Settings,
    record: EditionRecord,
    message: MessageRecord,
    now: datetime,
    *,
    remarks: Sequence[str] = (),
) -> bool:
    """Send the desk a draft to be looked at, and where it is to be approved, until when and by which command.

    `message` is the stored mail that is shown; `remarks` are what the checks said of it. Once for each revision, and
    in any case where an approval is waited for. Gives what `tell` gives.
    """
    name = name_of(settings, record)
    asked = record.approval is Approval.WAITING
    newsletter = settings.newsletters.get(record.newsletter)
    rows = [
        ("Edition", f"{record.newsletter}, slot {record.slot} {record.zone}"),
        ("Revision", f"{message.revision}, of {message.briefs} briefs, {message.html_bytes:,} bytes"),
    ]
    if not asked:
        said = f"It goes out at {local_time(record.slot_at, record.zone)}, unless somebody cancels it."
        command = f"newsletter editions cancel {record.newsletter} {record.slot}"
        subject = f"[Proof] {name}"
    else:
        command = f"newsletter editions approve {record.newsletter} {record.slot} --revision {message.revision}"
        silence = newsletter.silence if newsletter else "hold"
        rule = {"send": "it goes out", "hold": "it is held", "skip": "it is skipped"}[silence]
        if record.approve_by is None:
            said, until = "It waits for somebody to approve it.", ""
        else:
            until = local_time(record.approve_by, record.zone)
            said = f"It waits for approval until {until}. If nobody says anything by then, {rule}."
        subject = f"[Proof] {name}: approve" + (f" by {until}" if until else "")
    rows += [("Note", remark) for remark in remarks[:_MOST_LISTED]]
    return tell(
        session,
        settings,
        DeskKind.PROOF,
        key=f"proof {record.id} {record.tag} {message.revision} {message.digest[:16]}",
        subject=subject,
        said=Said(name, tuple(rows), (said,), command, Urgency.NOW if asked else Urgency.NEWS),
        now=now,
        newsletter=record.newsletter,
        edition_id=record.id,
        message_id=message.id,
        digest=message.digest,
        force=asked or (newsletter is not None and newsletter.approval == "required"),
    )


# ------------------------------------------------------------------------------------------ looking, keeping house


def listed(session: Session, limit: int) -> list[DeskNotice]:
    """The latest notices to the desk, newest first."""
    return list(session.execute(select(DeskNotice).order_by(col(DeskNotice.id).desc()).limit(limit)).scalars())


def waiting(session: Session) -> tuple[int, datetime | None]:
    """How many wait, and since when the oldest does."""
    count, since = session.execute(
        select(func.count(), func.min(DeskNotice.created_at)).where(
            col(DeskNotice.state).in_([NoticeState.PENDING, NoticeState.CALLING])
        )
    ).one()
    return count, since


def purge(session: Session, now: datetime) -> int:
    """Take away what came to its end long ago, a few hundred at a time."""
    ids = (
        session.execute(select(col(DeskNotice.id)).where(col(DeskNotice.done_at) < now - KEPT).limit(500))
        .scalars()
        .all()
    )
    session.execute(delete(DeskNotice).where(col(DeskNotice.id).in_(ids)))
    return len(ids)
