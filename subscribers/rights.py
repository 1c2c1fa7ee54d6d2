"""What a person may do with a fresh link mailed to their address: preferences, another address, their data, erasure.

The link is signed, expires within the hour, and is bound to the address it was mailed to: after a change of address, or
an erasure, it opens nothing. Nothing here is reached by the link in a digest, since digests are forwarded.
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, or_
from sqlmodel import Session, col, select

from subscribers import erasure, tokens
from subscribers.address import Mailbox
from subscribers.consent import BY_OPERATOR, Origin, log
from subscribers.directory import find, lists, subscriptions
from subscribers.errors import NotAllowed, SpentError
from subscribers.lifecycle import BY_PREFERENCES, is_barred, judge_erasures, leave, lift_erasure
from subscribers.models import (
    AddressChange,
    ConsentEvent,
    ConsentStatement,
    Happening,
    MailingList,
    Reason,
    Request,
    State,
    Subscriber,
    Subscription,
    Suppression,
)
from subscribers.requests import CHANGE_LASTS, Mail, ToMail

RIGHTS, CHANGE = "rights", "change"
LINK_LASTS = timedelta(hours=1)  # time enough to read, and to think; a new one is a click away

# ------------------------------------------------------------------------------------------ links


def rights_token(subscriber: Subscriber, *, now: datetime, secret: bytes) -> str:
    """The token of a fresh link to a person's own preferences and rights."""
    assert subscriber.id is not None
    return tokens.sign(RIGHTS, subscriber.id, now + LINK_LASTS, secret, bound=subscriber.key)


def by_rights_token(session: Session, token: str, *, now: datetime, secret: bytes) -> Subscriber:
    """Whose link that is. Raises TokenError; changes nothing."""
    subscriber = session.get(Subscriber, tokens.verify(token, RIGHTS, now, secret))
    if subscriber is None:
        raise SpentError("this link is not good any more; ask for a new one")
    tokens.verify_bound(token, RIGHTS, secret, subscriber.key)
    return subscriber


# ------------------------------------------------------------------------------------------ preferences


def prefer(  # what a person may prefer
    session: Session,
    subscriber: Subscriber,
    *,
    language: str | None,
    zone: str | None,
    topics: list[str] | None,
    paused_until: datetime | None,
    now: datetime,
    origin: Origin,
) -> bool:
    """Write what a person prefers. None: the newsletter's own, all topics, no pause. False where nothing changed."""
    wanted = {"language": language, "zone": zone, "topics": topics or None, "paused_until": paused_until}
    changed = [name for name, value in wanted.items() if getattr(subscriber, name) != value]
    for name in changed:
        setattr(subscriber, name, wanted[name])
    if "paused_until" in changed and paused_until is None:
        log(session, Happening.RESUMED, subscriber.id, None, now, "subscriber", origin)
        changed.remove("paused_until")
        if not changed:
            return True
    if changed:
        log(session, Happening.CHANGED, subscriber.id, None, now, "subscriber", origin, evidence=", ".join(changed))
    return bool(changed)


def choose_lists(  # whose, which, when
    session: Session,
    subscriber: Subscriber,
    wanted: Collection[str],
    *,
    now: datetime,
    origin: Origin,
    erasure_secret: bytes | None = None,
) -> list[Subscription]:
    """Join and leave lists, so that a person is on just the wanted ones; a private list may be left, never joined.

    A link mailed to the address on file is a confirmation, and ends an erasure as any other does. Gives what they have
    just joined. A suppressed address joins nothing. Raises ErasureKeyError where they would join, and nobody can tell
    whether they were erased.
    """
    standing = {one.list_id: one for one in subscriptions(session, subscriber)}
    suppressed = is_barred(session, subscriber.key, erasure_secret)
    joined: list[Subscription] = []
    for to in lists(session):
        known = standing.get(to.id or 0)
        if to.slug not in wanted:
            if known is not None and known.state is State.CONFIRMED:  # a request that waits for its link goes on
                leave(session, subscriber, {to.slug}, now=now, actor="subscriber", origin=origin)
        elif not suppressed and to.public and (known is None or known.state is not State.CONFIRMED):
            if known is None:
                known = Subscription(
                    list_id=to.id or 0, subscriber_id=subscriber.id or 0, state=State.CONFIRMED, changed_at=now
                )
            known.state, known.changed_at = State.CONFIRMED, now
            session.add(known)
            session.flush()
            log(session, Happening.CONFIRMED, subscriber.id, to.id, now, "subscriber", origin, evidence=BY_PREFERENCES)
            joined.append(known)
    if joined:
        lift_erasure(session, subscriber.id or 0, erasure_secret, now, "subscriber", origin)
    session.flush()
    return joined


# ------------------------------------------------------------------------------------------ another address


def ask_to_change(  # whose, to what, when
    session: Session,
    subscriber: Subscriber,
    mailbox: Mailbox,
    *,
    now: datetime,
    language: str | None = None,
    erasure_secret: bytes | None = None,
) -> ToMail | None:
    """Ask for a person to be mailed at another address: the mail goes there, and changes nothing until confirmed.

    None where it is their address already, that address is suppressed, or something worse than a bounce stands against
    the present one: moving is no way around that. Raises ErasureKeyError where nobody can tell whether that address is
    an erased person's.
    """
    assert subscriber.id is not None
    judge_erasures(session, erasure_secret)
    suppressed = is_barred(session, mailbox.key, erasure_secret)
    if mailbox.key == subscriber.key or suppressed or _is_held(session, subscriber):
        return None
    session.execute(delete(AddressChange).where(col(AddressChange.subscriber_id) == subscriber.id))
    change = AddressChange(subscriber_id=subscriber.id, address=mailbox.address, key=mailbox.key, asked_at=now)
    session.add(change)
    session.flush()
    return ToMail(Mail.CHANGE, subscriber.id, change.id or 0, language=language, address=mailbox.address)


def _is_held(session: Session, subscriber: Subscriber) -> bool:
    found = session.get(Suppression, subscriber.key)
    return found is not None and found.reason is not Reason.HARD_BOUNCE


def change_token(change: AddressChange, *, now: datetime, secret: bytes) -> str:
    """The token of the link that is mailed to a new address."""
    assert change.id is not None
    return tokens.sign(CHANGE, change.id, now + CHANGE_LASTS, secret, bound=change.key)


def by_change_token(session: Session, token: str, *, now: datetime, secret: bytes) -> AddressChange:
    """The change that a link confirms. Raises TokenError, also where it was made already; changes nothing."""
    change = session.get(AddressChange, tokens.verify(token, CHANGE, now, secret))
    if change is None:  # made already, or replaced by another
        raise SpentError("this link is not good any more; ask for a new one")
    tokens.verify_bound(token, CHANGE, secret, change.key)
    return change


def confirm_change(
    session: Session, token: str, *, now: datetime, secret: bytes, erasure_secret: bytes | None, origin: Origin
) -> ToMail:
    """Mail a person at their new address from now on. Gives the mail that tells the old one.

    Raises TokenError; NotAllowed where the new address is suppressed, or is itself on the lists; ErasureKeyError where
    nobody can tell whether it is an erased person's.
    """
    judge_erasures(session, erasure_secret)
    change = by_change_token(session, token, now=now, secret=secret)
    subscriber = session.get_one(Subscriber, change.subscriber_id)
    if is_barred(session, change.key, erasure_secret) or _is_held(session, subscriber):
        raise NotAllowed("that address is suppressed")
    other = find(session, Mailbox(change.address, change.key))
    if other is not None:
        raise NotAllowed("that address is on our lists by itself: ask there for a link to its preferences")
    old = subscriber.address
    session.execute(delete(Request).where(col(Request.key) == subscriber.key))
    subscriber.address, subscriber.key = change.address, change.key
    session.delete(change)
    session.flush()
    assert subscriber.id is not None
    lift_erasure(session, subscriber.id, erasure_secret, now, "subscriber", origin)
    log(session, Happening.CHANGED, subscriber.id, None, now, "subscriber", origin, evidence="address")
    return ToMail(Mail.CHANGED, subscriber.id, subscriber.id, language=subscriber.language, address=old)


# ------------------------------------------------------------------------------------------ data, erasure


def data_of(session: Session, subscriber: Subscriber) -> dict[str, Any]:
    """All that the list holds about a person, for them to take away."""
    names = {to.id: to for to in lists(session)}
    statements = {one.id: one.text for one in session.exec(select(ConsentStatement))}
    events = session.exec(
        select(ConsentEvent).where(ConsentEvent.subscriber_id == subscriber.id).order_by(col(ConsentEvent.id))
    )
    requests = session.exec(select(Request).where(Request.key == subscriber.key).order_by(col(Request.id)))
    changes = session.exec(select(AddressChange).where(AddressChange.subscriber_id == subscriber.id))
    suppression = session.get(Suppression, subscriber.key)

    def slug(list_id: int | None) -> str | None:
        of = names.get(list_id)
        return of.slug if of else None

    return {
        "address": subscriber.address,
        "name": subscriber.name,
        "language": subscriber.language,
        "time_zone": subscriber.zone,
        "topics": subscriber.topics,
        "paused_until": subscriber.paused_until,
        "on_record_since": subscriber.created_at,
        "link_in_mails": subscriber.link,
        "subscriptions": [
            {"list": slug(one.list_id), "state": str(one.state), "since": one.changed_at}
            for one in subscriptions(session, subscriber)
        ],
        "suppressed": {"reason": str(suppression.reason), "since": suppression.at, "note": suppression.note}
        if suppression
        else None,
        "consent_log": [
            {
                "at": event.at,
                "event": str(event.event),
                "list": slug(event.list_id),
                "by": event.actor if event.actor in {"subscriber", "visitor", "program"} else "operator",
                "way": str(event.way) if event.way else None,
                "form": event.form,
                "wording": statements.get(event.statement_id),
                "note": event.evidence,
                "ip": event.ip,
                "agent": event.agent,
            }
            for event in events
        ],
        "requests": [
            {"at": one.at, "wish": str(one.wish), "lists": one.lists, "ip": one.ip, "agent": one.agent}
            for one in requests
        ],
        "address_asked_for": [{"address": one.address, "at": one.asked_at} for one in changes],
    }


def forget(
    session: Session, subscriber: Subscriber, *, secret: bytes, now: datetime, actor: str, origin: Origin
) -> bool:
    """Erase a person: a keyed hash of their address stays, so that no import mails them again. False: they were.

    Their row stays, emptied, so that what was sent stays counted and the links in their old mails still answer; their
    log stays as proof, without IP, agent and notes. Raises ErasureKeyError where others were erased with another key.
    """
    if subscriber.erased_at is not None:
        return False
    assert subscriber.id is not None
    judge_erasures(session, secret)
    marked = erasure.mark(subscriber.key, secret)
    leave(session, subscriber, None, now=now, actor=actor, origin=origin)
    session.execute(delete(Subscription).where(col(Subscription.subscriber_id) == subscriber.id))
    changes = or_(col(AddressChange.subscriber_id) == subscriber.id, col(AddressChange.key) == subscriber.key)
    session.execute(delete(AddressChange).where(changes))
    theirs = or_(col(Request.key) == subscriber.key, col(Request.subscriber_id) == subscriber.id)
    session.execute(delete(Request).where(theirs))
    for event in session.exec(select(ConsentEvent).where(ConsentEvent.subscriber_id == subscriber.id)):
        event.ip = event.agent = event.evidence = event.before = None
    _mark(session, subscriber.key, marked, now)
    subscriber.address, subscriber.key = "", f"gone:{subscriber.id}"
    subscriber.name = subscriber.language = subscriber.zone = subscriber.topics = subscriber.paused_until = None
    subscriber.erased_at = now
    log(session, Happening.ERASED, subscriber.id, None, now, actor, Origin(origin.way))
    return True


def mark_erased(session: Session, mailbox: Mailbox, *, secret: bytes, now: datetime, actor: str) -> bool:
    """See to it that no import mails an address that no list knows. False where that is so already.

    What was asked for with it goes in either case: requests, and somebody's wish to be mailed there.
    """
    judge_erasures(session, secret)
    marked = erasure.mark(mailbox.key, secret)
    session.execute(delete(Request).where(col(Request.key) == mailbox.key))
    session.execute(delete(AddressChange).where(col(AddressChange.key) == mailbox.key))
    if session.get(Suppression, marked) is not None:
        return False
    _mark(session, mailbox.key, marked, now)
    log(session, Happening.ERASED, None, None, now, actor, BY_OPERATOR)
    return True


def _mark(session: Session, key: str, marked: str, now: datetime) -> None:
    """Put a mark in the place of a plain suppression, which would tell who was erased.

    The mark's note keeps what stood against the person besides: their own opt-in lifts an erasure, but no complaint.
    """
    standing = session.get(Suppression, key)
    if standing is not None:
        session.delete(standing)
    if session.get(Suppression, marked) is None:
        against = standing is not None and standing.reason is not Reason.HARD_BOUNCE
        note = str(standing.reason) if standing is not None and against else None
        session.add(Suppression(key=marked, reason=Reason.ERASED, at=now, note=note))


def unbar_erased(session: Session, mailbox: Mailbox, *, secret: bytes, now: datetime, actor: str) -> bool:
    """Lift what stood against a person before they were erased, so that their own opt-in can. False: nothing did."""
    found = session.get(Suppression, erasure.mark(mailbox.key, secret))
    if found is None or found.note is None:
        return False
    log(session, Happening.UNSUPPRESSED, None, None, now, actor, BY_OPERATOR, evidence=found.note)
    found.note = None
    return True


def choices(session: Session, subscriber: Subscriber) -> list[tuple[MailingList, State | None]]:
    """The lists that a person may choose among, and how they stand with each: the public ones, and those they have."""
    standing = {one.list_id: one.state for one in subscriptions(session, subscriber)}
    theirs = {list_id for list_id, state in standing.items() if state in {State.CONFIRMED, State.PENDING}}
    return [(to, standing.get(to.id or 0)) for to in lists(session) if to.public or to.id in theirs]
