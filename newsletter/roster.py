"""What is said of lists, people and notices: lines for a person at a terminal, values for a script. Decides nothing."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from html import escape
from typing import Any

from newsletter.models import DeskNotice, Notice, NoticeState
from newsletter.people import Added, ListAccount, NoticesAccount, Person, Stats
from subscribers import OptIn, Reason, State, Subscriber


def many(count: int, one: str, more: str | None = None) -> str:
    """A count with its noun: "1 person", "2 people"."""
    return f"{count:,} {one if count == 1 else more or f'{one}s'}"


def _when(instant: datetime | None) -> str:
    return f"{instant:%Y-%m-%d %H:%M} UTC" if instant else "never"


# ------------------------------------------------------------------------------------------ lists


def list_lines(one: ListAccount) -> Iterator[str]:
    """A list in two or three lines."""
    kind = "public" if one.public else "private"
    joins = "joined by a confirmed link" if one.opt_in is OptIn.DOUBLE else "joined at once (single opt-in)"
    welcome = ", with a welcome" if one.welcome else ""
    yield f"{one.slug}: {one.name} ({kind}, {joins}{welcome})"
    if one.description:
        yield f"    {one.description}"
    counts = ", ".join(f"{one.counts[state]:,} {state}" for state in State if one.counts.get(state))
    to = f"; for {', '.join(one.newsletters)}" if one.newsletters else "; no newsletter goes to it"
    yield f"    {counts or 'nobody yet'}{to}"


def list_json(one: ListAccount) -> dict[str, Any]:
    """The same for a script."""
    return {
        "slug": one.slug,
        "name": one.name,
        "description": one.description,
        "public": one.public,
        "opt_in": str(one.opt_in),
        "welcome": one.welcome,
        "subscriptions": {str(state): one.counts.get(state, 0) for state in State},
        "newsletters": list(one.newsletters),
    }


def embed_lines(site_url: str, one: ListAccount) -> Iterator[str]:
    """HTML for the desk's own site: a frame with the whole form, or a form that leads to it."""
    name = escape(one.name, quote=True)
    yield "<!-- The whole form in a frame: -->"
    yield f'<iframe src="{site_url}/join/{one.slug}/form" title="{name}" width="100%" height="420"></iframe>'
    yield ""
    yield "<!-- Or a field and a button of your own; the next page asks for one click more: -->"
    yield f'<form action="{site_url}/join/{one.slug}" method="post">'
    yield '  <label>E-mail <input type="email" name="address" autocomplete="email" required></label>'
    yield f"  <button>Get {name}</button>"
    yield "</form>"


# ------------------------------------------------------------------------------------------ people


def added_lines(added: Added) -> Iterator[str]:
    """How many were added, and the links that confirm."""
    there = f", {added.before} there before" if added.before else ""
    yield f"{added.new} added to list {added.to} ({added.state}){there}"
    for link in added.links:
        yield f"confirms until {_when(added.links_end_at)}: {link}"


def added_json(added: Added) -> dict[str, Any]:
    """The same for a script, with who was refused."""
    return {
        "list": added.to,
        "state": added.state,
        "new": added.new,
        "before": added.before,
        "confirmation_links": list(added.links),
        "refused": [{"at": place, "reason": reason} for place, reason in added.refused],
    }


def invited_lines(slug: str, invited: int, left: int, an_hour: int) -> Iterator[str]:
    """How many were invited, and how many wait for a next time."""
    yield f"{many(invited, 'person', 'people')} of list {slug} invited to confirm"
    if left:
        yield f"{left:,} wait: at most {an_hour:,} an hour are invited, so run it again later"


def person_lines(person: Person) -> Iterator[str]:
    """A person, where they stand, and the consent log."""
    if person.suppressed is not None:
        note = f": {person.suppressed.note}" if person.suppressed.note else ""
        yield f"suppressed since {_when(person.suppressed.at)} ({person.suppressed.reason}){note}"
    one = person.subscriber
    if one is None or person.data is None:
        yield "no list knows this address"
        return
    yield f"{one.address}{f' ({one.name})' if one.name else ''}, on record since {_when(one.created_at)}"
    prefers = {"language": one.language, "zone": one.zone, "topics": ", ".join(one.topics or [])}
    told = [f"{key} {value}" for key, value in prefers.items() if value]
    if one.paused_until:
        told.append(f"paused until {_when(one.paused_until)}")
    if told:
        yield f"    {'; '.join(told)}"
    for slug, state, since in person.subscriptions:
        yield f"    {slug}: {state} since {_when(since)}"
    yield "consent log:"
    for event in person.data["consent_log"]:
        parts = [event["list"], event["way"], event["form"], event["note"], event["ip"]]
        yield f"    {_when(event['at'])}  {event['event']} by {event['by']}  {' · '.join(str(p) for p in parts if p)}"
    yield f"{many(len(person.data['editions']), 'edition')} and {many(len(person.data['notices']), 'notice')} on record"


def person_json(person: Person) -> dict[str, Any]:
    """The same for a script, whole."""
    suppressed = person.suppressed
    return {
        "known": person.subscriber is not None,
        "suppressed": {"reason": str(suppressed.reason), "since": suppressed.at, "note": suppressed.note}
        if suppressed
        else None,
        "data": person.data,
    }


def found_lines(found: Sequence[tuple[Subscriber, int]], limit: int) -> Iterator[str]:
    """People who were found, one a line."""
    for one, lists in found:
        name = f" ({one.name})" if one.name else ""
        yield f"{one.address}{name}: confirmed on {many(lists, 'list')}"
    if not found:
        yield "nobody"
    elif len(found) == limit:
        yield f"the first {limit}; there may be more"


def unsuppressed_line(reason: Reason | None) -> str:
    """What lifting a suppression came to, and what it takes now."""
    if reason is None:
        return "was not suppressed"
    after = {
        Reason.COMPLAINT: "the person must ask to join again, and confirm, before they are mailed",
        Reason.ERASED: "what stood against them before they were erased is lifted; their own opt-in brings them back",
        Reason.HARD_BOUNCE: "their subscriptions stand again as they did",
    }.get(reason, "their subscriptions stand as they are")
    return f"lifted ({reason}): {after}"


def stats_lines(stats: Stats) -> Iterator[str]:
    """How the lists stand."""
    yield f"{many(stats.people, 'person', 'people')} on record, {stats.erased:,} erased"
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(stats.suppressed.items()))
    yield f"suppressed: {reasons or 'nobody'}"
    for one in stats.lists:
        yield from list_lines(one)
    yield f"in 30 days: {stats.joined_30_days:,} joined, {stats.left_30_days:,} left"
    yield f"waiting: {many(stats.requests_waiting, 'request')}, {many(stats.notices_waiting, 'notice')}"


def stats_json(stats: Stats) -> dict[str, Any]:
    """The same for a script."""
    return {
        "people": stats.people,
        "erased": stats.erased,
        "suppressed": {str(reason): stats.suppressed.get(reason, 0) for reason in Reason},
        "lists": [list_json(one) for one in stats.lists],
        "joined_30_days": stats.joined_30_days,
        "left_30_days": stats.left_30_days,
        "requests_waiting": stats.requests_waiting,
        "notices_waiting": stats.notices_waiting,
    }


# ------------------------------------------------------------------------------------------ notices


def notices_sent_lines(came_to: Counter[NoticeState]) -> Iterator[str]:
    """What a run of sending notices came to."""
    words = {
        NoticeState.DONE: "sent",
        NoticeState.PENDING: "due again later",
        NoticeState.REFUSED: "refused",
        NoticeState.DROPPED: "not needed any more",
    }
    told = [f"{came_to[state]:,} {word}" for state, word in words.items() if came_to.get(state)]
    yield f"notices: {', '.join(told) or 'none due'}"


def notice_lines(account: NoticesAccount) -> Iterator[str]:
    """The latest notices, by the ids of their people."""
    for one in account.latest:
        note = f": {one.note}" if one.note else ""
        yield f"{one.id}  {_when(one.created_at)}  {one.kind} to person {one.subscriber_id}: {one.state}{note}"
    since = f", the oldest since {_when(account.since)}" if account.since else ""
    yield f"{many(account.waiting, 'notice')} waiting{since}"
    if account.desk or account.desk_waiting:
        yield "to the desk:"
    for told in account.desk:
        note = f": {told.note}" if told.note else ""
        yield f"{told.id}  {_when(told.created_at)}  {told.kind} by {told.channel}: {told.state}{note}"
        yield f"    {told.subject}"
    if account.desk or account.desk_waiting:
        since = f", the oldest since {_when(account.desk_since)}" if account.desk_since else ""
        yield f"{many(account.desk_waiting, 'notice')} to the desk waiting{since}"


def desk_notice_json(one: DeskNotice) -> dict[str, Any]:
    """A notice to the desk for a script: with its channel and subject in place of a subscriber."""
    return {
        "id": one.id,
        "to": "desk",
        "kind": str(one.kind),
        "channel": str(one.channel),
        "subject": one.subject,
        "state": str(one.state),
        "created": one.created_at,
        "tries": one.tries,
        "note": one.note,
    }


def notice_json(one: Notice) -> dict[str, Any]:
    """A notice for a script."""
    return {
        "id": one.id,
        "to": "subscriber",
        "kind": str(one.kind),
        "subscriber": one.subscriber_id,
        "state": str(one.state),
        "created": one.created_at,
        "tries": one.tries,
        "note": one.note,
    }
