"""What may happen to a subscription: ask, confirm, leave; and to an address: suppress.

Every function works in the caller's session and leaves committing to it; every change writes the consent log. Time and
randomness are arguments. What a person said against being mailed is never overruled by an operator's adding them.
"""

from datetime import datetime, timedelta

from sqlmodel import Session, col, select

from subscribers import tokens
from subscribers.address import Mailbox, key
from subscribers.errors import NotAllowed, UnknownList
from subscribers.models import (
    ConsentEvent,
    Happening,
    MailingList,
    Reason,
    State,
    Subscriber,
    Subscription,
    Suppression,
)

CONFIRM = "confirm"
CONFIRMATION_LASTS = timedelta(days=7)  # long enough for a holiday week, short enough for a forgotten request


def ensure_list(session: Session, slug: str, name: str, now: datetime) -> MailingList:
    """The list of that slug, made if need be."""
    found = session.exec(select(MailingList).where(MailingList.slug == slug)).first()
    if found is None:
        found = MailingList(slug=slug, name=name, created_at=now)
        session.add(found)
        session.flush()
    return found


def list_by_slug(session: Session, slug: str) -> MailingList:
    """The list of that slug. Raises UnknownList."""
    found = session.exec(select(MailingList).where(MailingList.slug == slug)).first()
    if found is None:
        raise UnknownList(slug)
    return found


def ask(session: Session, mailbox: Mailbox, to: MailingList, *, now: datetime, actor: str) -> Subscription:
    """Put a request to join on record: pending until confirmed.

    A confirmed subscription stays as it is. A person who left may ask anew. Raises NotAllowed where the address is
    suppressed, has bounced or has complained.
    """
    _refuse_suppressed(session, mailbox.key)
    subscriber = _subscriber(session, mailbox, now)
    subscription = _subscription(session, subscriber, to, now)
    if subscription.state in {State.BOUNCED, State.COMPLAINED}:
        raise NotAllowed(f"that address has {subscription.state} before")
    if subscription.state is not State.CONFIRMED and not _on_record(subscription):
        subscription.state, subscription.changed_at = State.PENDING, now
        _log(session, subscription, Happening.REQUESTED, now=now, actor=actor)
    session.flush()
    return subscription


def add_confirmed(
    session: Session, mailbox: Mailbox, to: MailingList, *, now: datetime, actor: str, evidence: str
) -> tuple[Subscription, bool]:
    """Add a person whose consent is known otherwise; `evidence` says how. True where anything changed.

    Raises NotAllowed where they left, bounced, complained or are suppressed: that takes their own fresh opt-in.
    """
    _refuse_suppressed(session, mailbox.key)
    subscriber = _subscriber(session, mailbox, now)
    subscription = _subscription(session, subscriber, to, now)
    if subscription.state in {State.UNSUBSCRIBED, State.BOUNCED, State.COMPLAINED}:
        raise NotAllowed(f"that address has {subscription.state} before; only their own fresh opt-in lifts that")
    if subscription.state is State.CONFIRMED:
        return subscription, False
    session.flush()
    if _left_last(session, subscription):
        raise NotAllowed("that address has unsubscribed before; only the link that it was given confirms it")
    subscription.state, subscription.changed_at = State.CONFIRMED, now
    _log(session, subscription, Happening.CONFIRMED, now=now, actor=actor, evidence=evidence)
    return subscription, True


def confirmation_token(subscription: Subscription, *, now: datetime, secret: bytes) -> str:
    """The token that confirms a pending subscription, good for seven days."""
    if subscription.id is None:
        raise ValueError("the subscription must be stored first")
    return tokens.sign(CONFIRM, subscription.id, now + CONFIRMATION_LASTS, secret)


def confirm(session: Session, token: str, *, now: datetime, secret: bytes, actor: str = "subscriber") -> Subscription:
    """Confirm by token; a second time changes nothing. Raises TokenError, or NotAllowed where they left since."""
    subscription = session.get(Subscription, tokens.verify(token, CONFIRM, now, secret))
    if subscription is None:
        raise NotAllowed("that request is no longer on record")
    if subscription.state is State.CONFIRMED:
        return subscription
    subscriber = session.get_one(Subscriber, subscription.subscriber_id)
    _refuse_suppressed(session, subscriber.key)
    if subscription.state is not State.PENDING:
        raise NotAllowed("that subscription was ended since; ask to join again")
    subscription.state, subscription.changed_at = State.CONFIRMED, now
    _log(session, subscription, Happening.CONFIRMED, now=now, actor=actor, evidence="confirmation link")
    session.flush()
    return subscription


def leave(session: Session, subscriber: Subscriber, slugs: set[str] | None, *, now: datetime, actor: str) -> int:
    """End a person's subscriptions to the lists of these slugs, None for all. Gives how many ended; idempotent."""
    rows = session.exec(
        select(Subscription, MailingList).where(
            Subscription.subscriber_id == subscriber.id,
            Subscription.list_id == MailingList.id,
            Subscription.state.in_([State.PENDING, State.CONFIRMED]),  # type: ignore[attr-defined] # a column here
        )
    ).all()
    ended = [subscription for subscription, of in rows if slugs is None or of.slug in slugs]
    for subscription in ended:
        subscription.state, subscription.changed_at = State.UNSUBSCRIBED, now
        _log(session, subscription, Happening.LEFT, now=now, actor=actor)
    session.flush()
    return len(ended)


def suppress(
    session: Session, mailbox: Mailbox, reason: Reason, *, now: datetime, actor: str, note: str | None
) -> bool:
    """Never mail an address, whatever any list says. True where that is new; an earlier reason stays."""
    if session.get(Suppression, mailbox.key) is not None:
        return False
    session.add(Suppression(key=mailbox.key, reason=reason, at=now, note=note))
    subscriber = find(session, mailbox)
    session.add(
        ConsentEvent(
            at=now,
            subscriber_id=subscriber.id if subscriber else None,
            event=Happening.SUPPRESSED,
            actor=actor,
            evidence=f"{reason}: {note}" if note else str(reason),
        )
    )
    session.flush()
    return True


def is_suppressed(session: Session, address: str) -> bool:
    """Whether an address must not be mailed, whatever any list says."""
    return session.get(Suppression, key(address)) is not None


def find(session: Session, mailbox: Mailbox) -> Subscriber | None:
    """The person of an address, None where no list knows them."""
    return session.exec(select(Subscriber).where(Subscriber.key == mailbox.key)).first()


def _subscriber(session: Session, mailbox: Mailbox, now: datetime) -> Subscriber:
    found = find(session, mailbox)
    if found is None:
        found = Subscriber(
            address=mailbox.address, key=mailbox.key, name=mailbox.name, link=tokens.new_link(), created_at=now
        )
        session.add(found)
        session.flush()
    elif mailbox.name and not found.name:
        found.name = mailbox.name
    return found


def _subscription(session: Session, subscriber: Subscriber, to: MailingList, now: datetime) -> Subscription:
    found = session.exec(
        select(Subscription).where(Subscription.subscriber_id == subscriber.id, Subscription.list_id == to.id)
    ).first()
    if found is None:
        assert subscriber.id is not None
        assert to.id is not None
        found = Subscription(list_id=to.id, subscriber_id=subscriber.id, state=State.PENDING, changed_at=now)
        session.add(found)
    return found


def _left_last(session: Session, subscription: Subscription) -> bool:
    """Whether the last word on a subscription, requests apart, is that the person left."""
    last = session.exec(
        select(ConsentEvent)
        .where(
            ConsentEvent.subscriber_id == subscription.subscriber_id,
            ConsentEvent.list_id == subscription.list_id,
            ConsentEvent.event != Happening.REQUESTED,
        )
        .order_by(col(ConsentEvent.id).desc())
    ).first()
    return last is not None and last.event is Happening.LEFT


def _on_record(subscription: Subscription) -> bool:
    """True for a request that is already on record (a new row is not, before its first flush)."""
    return subscription.id is not None and subscription.state is State.PENDING


def _refuse_suppressed(session: Session, key: str) -> None:
    """Before anything of the person is written: an erased address must not come back as a row."""
    found = session.get(Suppression, key)
    if found is not None:
        raise NotAllowed(f"that address is suppressed since {found.at:%Y-%m-%d} ({found.reason})")


def _log(
    session: Session,
    subscription: Subscription,
    event: Happening,
    *,
    now: datetime,
    actor: str,
    evidence: str | None = None,
) -> None:
    session.flush()
    session.add(
        ConsentEvent(
            at=now,
            subscriber_id=subscription.subscriber_id,
            list_id=subscription.list_id,
            event=event,
            actor=actor,
            evidence=evidence,
        )
    )
