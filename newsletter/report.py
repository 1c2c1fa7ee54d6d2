"""What the command line says of editions and of the provider: lines for a person at 6 a.m., and values for a script.

Pure: values in, lines or JSON-ready values out. One decision is made here: what is worth saying first.
"""

import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from newsletter import typesetting
from newsletter.compile import CLIP_BYTES
from newsletter.drafting import Draft
from newsletter.models import Alarm, EditionRecord, EditionState
from newsletter.newsroom import EditionAccount, Sent
from newsletter.operating import PaceAccount
from newsletter.outcomes import Taken
from newsletter.pace import Limits
from newsletter.rehearsal import Rehearsed
from newsletter.tally import Tally, Trouble
from newsletter.waves import Wave

# ------------------------------------------------------------------------------------------ editions


def tally_line(tally: Tally) -> str:
    """The conservation sum in one line."""
    parts = _parts(tally)
    said = " + ".join(f"{count:,} {word}" for word, count in parts.items() if count or word == "accepted")
    return f"{tally.candidates:,} = {said}" + ("" if tally.holds else "   THE SUM DOES NOT HOLD")


MOST_COMPLAINTS, MOST_BOUNCES = 0.001, 0.02
"""Shares of what was accepted, past which it is said loudly. Complaints: Gmail asks for less than 0.1 % and never 0.3 %
(Email sender guidelines, support.google.com/mail/answer/81126), Yahoo for less than 0.3 % (senders.yahooinc.com).
Bounces: no mailbox provider names a figure; past 2 % senders as a rule call a list stale."""
_SHOWN_FIRST = ("delivered", "processed", "delayed", "rejected", "blocked", "dropped", "bounced", "complained")
_AS_SHARES = {"rejected", "blocked", "dropped", "bounced", "complained"}


def fate_lines(tally: Tally) -> Iterator[str]:
    """What became of the accepted copies, as far as events have told; and what is too much of it."""
    told = {word: tally.fates[word] for word in _SHOWN_FIRST if tally.fates.get(word)}
    if not told:
        return
    shares = {word: count / max(tally.accepted, 1) for word, count in told.items()}
    said = (
        f"{word} {count:,}" + (f" ({100 * shares[word]:.2f} %)" if word in _AS_SHARES else "")
        for word, count in told.items()
    )
    yield ", ".join(said)
    for word, most in (("complained", MOST_COMPLAINTS), ("bounced", MOST_BOUNCES)):
        if shares.get(word, 0) > most:
            share = f"{100 * shares[word]:.2f} % of {tally.accepted:,}"
            yield f"TOO MANY {word}: {share}, where {100 * most:g} % is the most"


def taken_lines(taken: Taken) -> Iterator[str]:
    """What the events of a provider came to."""
    yield f"{taken.told:,} events, {taken.new:,} of them new"
    counts = {
        "fates moved": taken.fates,
        "calls or copies proven": taken.proven,
        "suppressed": taken.suppressed,
        "left": taken.left,
    }
    if any(counts.values()):
        yield ", ".join(f"{what}: {count:,}" for what, count in counts.items() if count)


def taken_json(taken: Taken) -> dict[str, int]:
    """The same for a script."""
    return {
        "events": taken.told,
        "new": taken.new,
        "fates": taken.fates,
        "proven": taken.proven,
        "suppressed": taken.suppressed,
        "left": taken.left,
    }


def tally_json(tally: Tally) -> dict[str, Any]:
    """The conservation sum, and whether it holds."""
    return {
        "candidates": tally.candidates,
        **_parts(tally),
        "given_up": tally.given_up,
        "holds": tally.holds,
        "reasons": dict(tally.reasons),
        "fates": dict(tally.fates),
    }


def _parts(tally: Tally) -> dict[str, int]:
    return {
        "accepted": tally.accepted,
        "refused": tally.refused,
        "suppressed": tally.suppressed,
        "skipped": tally.skipped,
        "cancelled": tally.cancelled,
        "unknown": tally.unknown,
        "waiting": tally.waiting,
    }


def edition_json(record: EditionRecord, tally: Tally | None) -> dict[str, Any]:
    """An edition and its sum; null where it was never frozen."""
    return {
        "newsletter": record.newsletter,
        "slot": record.slot,
        "zone": record.zone,
        "state": record.state,
        "reason": record.reason,
        "frozen_at": record.frozen_at.isoformat() if record.frozen_at else None,
        "closed_at": record.closed_at.isoformat() if record.closed_at else None,
        "tally": tally_json(tally) if tally else None,
    }


def edition_line(record: EditionRecord, tally: Tally | None) -> str:
    """An edition in one line."""
    said = tally_line(tally) if tally else (record.reason or "nothing frozen yet")
    return f"{record.newsletter}  {record.slot} {record.zone}  {record.state:<11}  {said}"


def edition_lines(account: EditionAccount) -> Iterator[str]:
    """An edition whole: its briefs, its sum with reasons, what waits and why, and who was refused or is unknown."""
    record, tally = account.record, account.tally
    said = record.reason or str(record.state)
    said = said if said.startswith(record.state) else f"{record.state}, {said}"
    yield f"{record.newsletter}, slot {record.slot} {record.zone}: {said}"
    for word, instant in (("frozen", record.frozen_at), ("closed", record.closed_at)):
        if instant:
            yield f"  {word} {instant:%Y-%m-%d %H:%M:%S} UTC"
    for number, headline in enumerate(account.headlines, start=1):
        yield f"  {number:>2}  {headline}"
    if tally:
        yield f"  {tally_line(tally)}"
        yield from (f"      {count:,} {reason}" for reason, count in sorted(tally.reasons.items()))
        yield from (f"  {line}" for line in fate_lines(tally))
    if account.speed:
        over = f"{account.speed.over_at:%Y-%m-%d %H:%M:%S} UTC"
        yield f"  {account.speed.per_second:,.0f} recipients a second over the last minutes; over at about {over}"
    for act in account.acts:
        yield f"  {act.at:%Y-%m-%d %H:%M:%S} UTC  {act.act} by {act.actor}" + (f": {act.note}" if act.note else "")
    yield from wave_lines(account.waves)
    for batch in account.waiting:
        yield f"  waiting: {batch.size:,}, due {batch.due_at:%Y-%m-%d %H:%M:%S} UTC: {batch.note}"
    yield from (f"  refused: {one.address}: {one.reason or 'no reason given'}" for one in account.refused)
    reasons: dict[tuple[str | None, str | None], list[Trouble]] = {}
    for one in account.unknown:
        reasons.setdefault((one.reason, one.attempt), []).append(one)
    for (reason, attempt), people in reasons.items():
        left = ", given up" if people[0].given_up else ""
        yield f"  unknown: {len(people):,}{left}, {reason or 'no answer came'} (attempt_id {attempt or 'none'})"
        yield from (f"      {one.address} (delivery_id {one.delivery})" for one in people)


def wave_lines(waves: Sequence[Wave]) -> Iterator[str]:
    """The waves of an edition, where there are several: who is due when, and what became of them."""
    for number, wave in enumerate(waves if len(waves) > 1 else (), start=1):
        zones = "1 zone" if len(wave.zones) == 1 else f"{len(wave.zones)} zones"
        yield f"  wave {number}: {wave.people:,} in {zones}, due {wave.due_at:%Y-%m-%d %H:%M} UTC: {wave.state}"


def account_json(account: EditionAccount) -> dict[str, Any]:
    """The same for a script."""

    def told(one: Trouble) -> dict[str, Any]:
        return {
            "address": one.address,
            "reason": one.reason,
            "delivery_id": one.delivery,
            "attempt_id": one.attempt,
            "given_up": one.given_up,
        }

    return {
        **edition_json(account.record, account.tally),
        "briefs": account.headlines,
        "recipients_per_second": account.speed.per_second if account.speed else None,
        "over_at": account.speed.over_at.isoformat() if account.speed else None,
        "acts": [
            {"at": act.at.isoformat(), "actor": act.actor, "act": act.act, "note": act.note} for act in account.acts
        ],
        "waves": [
            {"due_at": wave.due_at.isoformat(), "zones": list(wave.zones), "people": wave.people, "state": wave.state}
            for wave in account.waves
        ],
        "waiting": [
            {"people": batch.size, "due_at": batch.due_at.isoformat(), "note": batch.note} for batch in account.waiting
        ],
        "refused": [told(one) for one in account.refused],
        "unknown": [told(one) for one in account.unknown],
    }


# ------------------------------------------------------------------------------------------ alarms


def alarm_lines(alarms: Sequence[Alarm]) -> Iterator[str]:
    """What must be looked into, or had to be."""
    for alarm in alarms:
        until = f" until {alarm.over_at:%Y-%m-%d %H:%M} UTC" if alarm.over_at else ""
        yield f"{'over ' if alarm.over_at else 'LOOK '} since {alarm.since:%Y-%m-%d %H:%M} UTC{until}: {alarm.what}"
    if not alarms:
        yield "nothing to look into"


def alarm_json(alarm: Alarm) -> dict[str, Any]:
    """The same for a script; `over_at` is null while it stands."""
    over_at = alarm.over_at.isoformat() if alarm.over_at else None
    return {"key": alarm.key, "what": alarm.what, "since": alarm.since.isoformat(), "over_at": over_at}


# ------------------------------------------------------------------------------------------ sending


def rehearsed_lines(rehearsed: Rehearsed, title: str) -> Iterator[str]:
    """What a rehearsal came to."""
    yield f"{title}, {typesetting.date(rehearsed.slot)} (slot {rehearsed.slot} {rehearsed.slot.zone})"
    yield ""
    yield from draft_lines(rehearsed.draft)
    yield f"Audience   {rehearsed.candidates:,} on the list, {rehearsed.mailable:,} would be mailed"
    yield f"Sandbox    {rehearsed.accepted:,} would be accepted; nobody was mailed, and nothing decided"
    yield from (f"           {count:,} would not: {reason}" for reason, count in sorted(rehearsed.reasons.items()))
    if rehearsed.error:
        yield f"STOPPED    {rehearsed.error}"


def rehearsed_json(rehearsed: Rehearsed) -> dict[str, Any]:
    """The same for a script."""
    return {
        "slot": str(rehearsed.slot),
        "candidates": rehearsed.candidates,
        "mailable": rehearsed.mailable,
        "accepted": rehearsed.accepted,
        "reasons": dict(rehearsed.reasons),
        "error": str(rehearsed.error) if rehearsed.error else None,
    }


def draft_lines(draft: Draft) -> Iterator[str]:
    """Which briefs are taken, and why the others are not."""
    selection = draft.selection
    faults = [str(fault) for one in draft.collected for fault in (*one.faults, *([one.error] if one.error else []))]
    counts = {
        "taken": len(selection.taken),
        "left": len(selection.left),
        "carried over": len(selection.carried),
        "waiting": len(selection.waiting),
        "not readable": len(faults),
    }
    said = ", ".join(f"{count} {word}" for word, count in counts.items() if count or word == "taken")
    yield f"Briefs     {said}"
    for number, candidate in enumerate(selection.taken, start=1):
        yield f"           {number:>2}  {candidate.brief.headline}"
    for candidate, reason in (*selection.left, *selection.carried, *selection.waiting):
        yield f"           --  {candidate.brief.headline}: {reason}"
    yield from (f"           --  {fault}" for fault in faults)
    yield from (f"           ..  {remark}" for one in draft.collected for remark in one.remarks)
    if draft.compiled:
        yield from (f"Note       {remark}" for remark in draft.compiled.remarks)


def sent_lines(sent: Sent, *, title: str, provider: str, mails: Path | None, preview: Path | None) -> Iterator[str]:
    """What one run of `send` did. `mails` is the outbox's folder, None for other providers."""
    record, tally = sent.record, sent.tally
    yield f"{title}, {typesetting.date(sent.slot)} (slot {sent.slot} {sent.slot.zone})"
    yield ""
    if sent.draft is not None:
        yield from draft_lines(sent.draft)
    elif sent.briefs:
        yield f"Briefs     {sent.briefs}, as compiled by the run that started this edition"
    if tally is None:
        yield f"Skipped    {record.reason}; nothing was sent, the briefs wait for the next edition"
        return
    yield f"Size       {sent.html_bytes:,} bytes of HTML; Gmail clips past {CLIP_BYTES:,}"
    if sent.draft is not None:
        yield "Checks     passed: MJML, a way to leave, postal address, fields, links, alt texts, size"
    yield f"Recipients {tally_line(tally)}"
    yield from (f"           {count:,} {reason}" for reason, count in sorted(tally.reasons.items()))
    yield _accepted_line(sent, tally, provider)
    yield from unfinished_lines(sent)
    yield from trouble_lines(sent)
    if preview is not None:
        yield f"Preview    {preview / 'digest.html'}"
    if mails is not None:
        yield f"Mails      {os.path.relpath(mails)}/new/*.eml"


def _accepted_line(sent: Sent, tally: Tally, provider: str) -> str:
    record, before = sent.record, sent.before
    new = tally.accepted - (before.accepted if before else 0)
    if stopped := stopped_line(sent):
        return stopped
    if record.state is EditionState.CANCELLED:
        return f"CANCELLED  {max(new, 0):,} accepted by this run, {tally.cancelled:,} never leave: {record.reason}"
    if before is None or (before.waiting and not before.accepted):
        return f"Accepted   {new:,} by {provider}"
    if before.waiting:
        return f"Accepted   {new:,} now, {before.accepted:,} by the run before; nobody got it twice"
    at = record.closed_at or record.frozen_at
    said = f"this edition went out at {at:%Y-%m-%d %H:%M} UTC" if tally.accepted else "this edition is over"
    return f"Accepted   nothing sent now: {said}, and nobody gets it twice"


def resumed_lines(sent: Sent, provider: str) -> Iterator[str]:
    """What an edition came to that was let go on."""
    record, tally, before = sent.record, sent.tally, sent.before
    yield f"{record.newsletter}, slot {record.slot} {record.zone}: {record.state}"
    if tally is not None:
        new = tally.accepted - (before.accepted if before else 0)
        yield f"Accepted   {new:,} now by {provider}"
        yield f"Recipients {tally_line(tally)}"


def stopped_line(sent: Sent) -> str | None:
    """Why an edition is not finished, and what to do; None where it is."""
    record, tally = sent.record, sent.tally
    if tally is None or not tally.waiting:
        return None
    if sent.halted:
        return f"HALTED     {tally.waiting:,} still wait; newsletter unhalt, then run this again"
    if record.state is EditionState.PAUSED:
        mend = "" if "--yes" in (record.reason or "") else "; mend it, then run this again"
        if record.paused_by is not None:
            mend = f"; newsletter editions resume {record.newsletter} {record.slot} lets it go on"
        return f"PAUSED     {tally.waiting:,} wait. {record.reason}{mend}"
    return f"STOPPED    {tally.waiting:,} still wait; run this again to go on"


def trouble_lines(sent: Sent) -> Iterator[str]:
    """What a person has to look into although nothing waits: unknown deliveries, and an edition that nobody got.

    Of the unknown not those whom an operator, or a standing order, has given up.
    """
    record, tally = sent.record, sent.tally
    if tally is None:
        return
    names = f"newsletter editions show {record.newsletter} {record.slot} names them and says why"
    if unsaid := tally.unknown - tally.given_up:
        yield f"UNKNOWN    {unsaid:,} may or may not have got it; {names}"
    if tally.refused and not tally.accepted:
        yield f"REFUSED    {tally.refused:,} were refused and nobody was accepted; {names}"


def unfinished_lines(sent: Sent) -> Iterator[str]:
    """Other editions in which somebody waits: yesterday's, cut off and forgotten."""
    for record, waiting in sent.unfinished:
        again = f"newsletter send {record.newsletter} --slot {record.slot}"
        yield f"UNFINISHED {record.newsletter} {record.slot}: {waiting:,} still wait ({record.state}); {again} goes on"


def sent_json(sent: Sent) -> dict[str, Any]:
    """What one run of `send` did, for a script."""
    made = edition_json(sent.record, sent.tally)
    made |= {
        "briefs": sent.briefs,
        "html_bytes": sent.html_bytes,
        "accepted_before": sent.before.accepted if sent.before else 0,
        "unfinished": [{"newsletter": r.newsletter, "slot": r.slot, "waiting": n} for r, n in sent.unfinished],
    }
    if sent.draft is not None:
        made["faults"] = [str(fault) for one in sent.draft.collected for fault in one.faults]
        made["remarks"] = list(sent.draft.compiled.remarks) if sent.draft.compiled else []
    return made


def pace_lines(account: PaceAccount, limits: Limits) -> Iterator[str]:
    """How fast a provider may be called, and what was handed to it."""
    yield f"{account.provider}: {account.calls} of {limits.calls} calls at once"
    if account.failures:
        failed = "the last call failed" if account.failures == 1 else f"the last {account.failures} calls failed"
        yield f"  {failed}; one at a time until it answers"
    if account.not_before:
        until = datetime.fromisoformat(account.not_before)
        yield f"  left alone until {until:%Y-%m-%d %H:%M:%S} UTC: {account.note or 'it asked for rest'}"
    if limits.per_second:
        yield f"  {limits.per_second:,} recipients a second at most"
    if limits.per_hour:
        yield _spent(account.last_hour, limits.per_hour, "within the last hour")
    if limits.per_day or limits.warm_up:
        yield _spent(account.last_day, limits.per_day, "within the last day")
    for domain, count in account.domains.items():
        yield _spent(count, limits.domains[domain], f"of {domain} within the last hour")


def _spent(count: int, limit: int | None, of_what: str) -> str:
    """What was handed over, of how many; said where that is all, since dispatch then waits without another word."""
    of = f" of {limit:,}" if limit else ""
    used_up = ": used up, the others wait" if limit and count >= limit else ""
    return f"  {count:,}{of} recipients {of_what}{used_up}"
