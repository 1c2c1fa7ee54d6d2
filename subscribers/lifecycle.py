"""What may happen to a subscription: ask, confirm, leave, pause, narrow, undo; and to an address: suppress.

Every function works in the caller's session and leaves committing to it; every change writes the consent log. Time and
randomness are arguments. What a person said against being mailed is never overruled by an operator's adding them.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import and_, or_
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from subscribers import erasure, tokens
from subscribers.address import Mailbox, key
from subscribers.consent import BY_OPERATOR, Origin, first_request, last_word, log, requests_of
from subscribers.directory import find, subscriptions
from subscribers.errors import NotAllowed, SpentError, TokenError
from subscribers.models import (
    ConsentEvent,
    Happening,
    MailingList,
    OptIn,
    Reason,
    State,
    Subscriber,
    Subscription,
    Suppression,
    Way,
)

CONFIRM, UNDO = "confirm", "undo"
CONFIRMATION_LASTS = timedelta(days=7)  # long enough for a holiday week, short enough for a forgotten request
UNDO_LASTS = timedelta(hours=24)
AGAINST = frozenset((Happening.LEFT, Happening.BOUNCED, Happening.COMPLAINED))

# ------------------------------------------------------------------------------------------ joining


def ask(
    session: Session,
    mailbox: Mailbox,
    to: MailingList,
    *,
    now: datetime,
    actor: str,
    origin: Origin = BY_OPERATOR,
    language: str | None = None,
) -> Subscription:
    """Put a request to join on record: pending until confirmed.

    A confirmed subscription stays as it is. A person who left may ask anew; so may one whose bounce or complaint an
    operator has lifted, and one who was erased. Raises NotAllowed where the address is suppressed, and where an
    operator asks for somebody who left, bounced or complained there, or objected to all lists: that is theirs to ask.
    """
    _refuse_suppressed(session, mailbox.key)
    if origin.way is not Way.FORM:
        _refuse_who_said_no(session, mailbox, to)
    subscriber = _subscriber(session, mailbox, now, language)
    subscription = _subscription(session, subscriber, to, now)
    if subscription.state is not State.CONFIRMED:
        if not _on_record(subscription):
            subscription.state, subscription.changed_at = State.PENDING, now
            _log(session, subscription, Happening.REQUESTED, now, actor, origin)
        elif origin.way is Way.FORM:  # a person's own asking is proof, however often, and whoever added them before
            _log(session, subscription, Happening.REQUESTED, now, actor, origin)
    session.flush()
    return subscription


def add_confirmed(
    session: Session,
    mailbox: Mailbox,
    to: MailingList,
    *,
    now: datetime,
    actor: str,
    evidence: str,
    origin: Origin = BY_OPERATOR,
    erasure_secret: bytes | None = None,
) -> tuple[Subscription, bool]:
    """Add a person whose consent is known otherwise; `evidence` says how. True where anything changed.

    Raises NotAllowed where they left, bounced, complained, are suppressed or were erased: that takes their own fresh
    opt-in. Raises ErasureKeyError where people were erased and their key is not at hand.
    """
    _refuse_suppressed(session, mailbox.key)
    refuse_erased(session, mailbox.key, erasure_secret)
    _refuse_who_said_no(session, mailbox, to)
    subscriber = _subscriber(session, mailbox, now, None)
    subscription = _subscription(session, subscriber, to, now)
    if subscription.state is State.CONFIRMED:
        return subscription, False
    session.flush()
    _confirm(session, subscription, now, actor, origin, evidence)
    return subscription, True


def confirmation_token(
    session: Session,
    subscription: Subscription,
    *,
    now: datetime,
    secret: bytes,
    lasts: timedelta = CONFIRMATION_LASTS,
) -> str:
    """The token that confirms a pending subscription; of an earlier request it confirms nothing."""
    if subscription.id is None:
        raise ValueError("the subscription must be stored first")
    return tokens.sign(CONFIRM, subscription.id, now + lasts, secret, bound=_asked(session, subscription))


def requested(session: Session, token: str, *, now: datetime, secret: bytes) -> list[Subscription]:
    """The subscription that a token confirms, first, and what else the person was asked about. Changes nothing.

    Raises TokenError; NotAllowed where the request was ended since.
    """
    row = tokens.verify(token, CONFIRM, now, secret)
    subscription = session.get(Subscription, row)
    if subscription is None:  # nobody confirmed it in time
        raise SpentError("this link has expired; ask to join again")
    asked = _asked(session, subscription)
    earlier = requests_of(session, subscription.subscriber_id, subscription.list_id)
    bound = tokens.bound_among(token, CONFIRM, secret, [asked, *map(_bound_to, earlier)])
    if bound is None:
        raise SpentError("this link has expired; ask to join again")
    if subscription.state is State.CONFIRMED and bound == asked:
        return [subscription]
    subscriber = session.get_one(Subscriber, subscription.subscriber_id)
    _refuse_suppressed(session, subscriber.key)
    if subscription.state is not State.PENDING or bound != asked:
        raise NotAllowed("that subscription was ended since; ask to join again")
    others = session.exec(
        select(Subscription)
        .where(
            Subscription.subscriber_id == subscription.subscriber_id,
            Subscription.state == State.PENDING,
            Subscription.id != subscription.id,
        )
        .order_by(col(Subscription.id))
    )
    return [subscription, *others]


def confirm(
    session: Session,
    token: str,
    *,
    now: datetime,
    secret: bytes,
    actor: str = "subscriber",
    origin: Origin = Origin(Way.LINK),  # noqa: B008 # frozen
    erasure_secret: bytes | None = None,
    shown: Collection[int] = (),
) -> list[Subscription]:
    """Confirm the subscription of a token, and of what else was asked what was `shown`; a second time changes nothing.

    `shown` are ids of subscriptions: a request that came in since the person read the page is not confirmed with it.
    Gives what became confirmed just now. An erasure is over with it. Raises TokenError and NotAllowed as `requested`
    does; ErasureKeyError where people were erased and their key is not at hand: the erasure could not be ended.
    """
    confirmed = []
    for place, subscription in enumerate(requested(session, token, now=now, secret=secret)):
        if subscription.state is State.PENDING and (place == 0 or subscription.id in shown):
            _confirm(session, subscription, now, actor, origin, BY_CONFIRMATION)
            confirmed.append(subscription)
    if confirmed:
        lift_erasure(session, confirmed[0].subscriber_id, erasure_secret, now, actor, origin)
    session.flush()
    return confirmed


def join_at_once(
    session: Session, subscription: Subscription, *, now: datetime, actor: str, origin: Origin, evidence: str
) -> bool:
    """Confirm a request without a link, where its list takes it so. True where it is confirmed now.

    Whoever left, bounced or complained before, on any list, confirms by a link whatever the list says.
    """
    to = session.get_one(MailingList, subscription.list_id)
    if subscription.state is not State.PENDING or to.opt_in is not OptIn.SINGLE:
        return False
    if _has_said_no(session, subscription.subscriber_id):
        return False
    _confirm(session, subscription, now, actor, origin, evidence)
    return True


def _has_said_no(session: Session, subscriber_id: int) -> bool:
    """Whether a person ever left, bounced or complained, on whatever list."""
    against = select(ConsentEvent.id).where(
        ConsentEvent.subscriber_id == subscriber_id, col(ConsentEvent.event).in_(AGAINST)
    )
    return session.exec(against.limit(1)).first() is not None


def _refuse_who_said_no(session: Session, mailbox: Mailbox, to: MailingList) -> None:
    """Raise NotAllowed where a person said no to a list, or to all: no operator's adding overrules that."""
    known = find(session, mailbox)
    if known is None or known.id is None or to.id is None:
        return
    standing = subscriptions(session, known)
    here = next((one.state for one in standing if one.list_id == to.id), None)
    if here is State.CONFIRMED:
        return
    said = session.exec(objection(known.id)).first()
    if any(one.state is State.COMPLAINED for one in standing) or said == Happening.COMPLAINED:
        raise NotAllowed("that address has complained before; only their own fresh opt-in lifts that")
    if said == Happening.LEFT:
        raise NotAllowed("that address has left everything before; only their own fresh opt-in lifts that")
    if here in {State.UNSUBSCRIBED, State.BOUNCED}:
        raise NotAllowed(f"that address has {here} before; only their own fresh opt-in lifts that")
    if last_word(session, known.id, to.id) in AGAINST:
        raise NotAllowed("that address has unsubscribed before; only the link that it was given confirms it")


def objection(of: Any) -> SelectOfScalar[str]:
    """Selects what a person (an id, or a column of them) last said about being mailed at all.

    LEFT and COMPLAINED are objections to all lists; CONFIRMED, by a link of their own, takes an earlier one back.
    """
    by_link = and_(col(ConsentEvent.event) == Happening.CONFIRMED, col(ConsentEvent.evidence).in_(BY_LINK))
    against = or_(col(ConsentEvent.evidence) == EVERYTHING, col(ConsentEvent.event) == Happening.COMPLAINED)
    return (
        select(ConsentEvent.event)
        .where(ConsentEvent.subscriber_id == of, or_(against, by_link))
        .order_by(col(ConsentEvent.id).desc())
        .limit(1)
    )


EVERYTHING = "everything"  # the log's note on leaving all lists at once
BY_CONFIRMATION, BY_PREFERENCES = "confirmation link", "link to preferences"
BY_LINK = (BY_CONFIRMATION, BY_PREFERENCES)  # its notes on a person's own confirming


def _confirm(  # noqa: PLR0917 # who, when, by which way, on what grounds
    session: Session, subscription: Subscription, now: datetime, actor: str, origin: Origin, evidence: str
) -> None:
    subscription.state, subscription.changed_at = State.CONFIRMED, now
    _log(session, subscription, Happening.CONFIRMED, now, actor, origin, evidence=evidence)


def _asked(session: Session, subscription: Subscription) -> str:
    """What a confirmation is bound to: the requests since the person last left."""
    event = first_request(session, subscription.subscriber_id, subscription.list_id)
    return _bound_to(event.id) if event else "added"


def _bound_to(request_id: int | None) -> str:
    return f"request {request_id}"


# ------------------------------------------------------------------------------------------ leaving, pausing, narrowing


@dataclass(frozen=True, slots=True)
class Done:
    """What a person did by the link in their mails: how many things changed, and the log's lines, for undoing it."""

    changed: int
    events: tuple[int, ...] = ()


def leave(
    session: Session,
    subscriber: Subscriber,
    slugs: Collection[str] | None,
    *,
    now: datetime,
    actor: str,
    origin: Origin = BY_OPERATOR,
) -> Done:
    """End a person's subscriptions to the lists of these slugs, None for all. Idempotent.

    Whoever bounced or complained may leave, too: what lifts that later must not bring them back. An operator's word is
    logged where they had left already, so that no undoing comes after it.
    """
    rows = session.exec(
        select(Subscription, MailingList).where(
            Subscription.subscriber_id == subscriber.id, Subscription.list_id == MailingList.id
        )
    ).all()
    theirs = [subscription for subscription, of in rows if slugs is None or of.slug in slugs]
    ended = [one for one in theirs if one.state is not State.UNSUBSCRIBED]
    again = [one for one in theirs if one not in ended and _is_news(session, one, origin)]
    note = EVERYTHING if slugs is None else None
    events = []
    for subscription in ended:
        before = {"state": str(subscription.state)}
        subscription.state, subscription.changed_at = State.UNSUBSCRIBED, now
        events.append(_log(session, subscription, Happening.LEFT, now, actor, origin, evidence=note, before=before))
    for subscription in again:
        _log(session, subscription, Happening.LEFT, now, actor, origin, evidence=note)
    session.flush()
    return Done(len(ended), tuple(event.id or 0 for event in events))


def _is_news(session: Session, subscription: Subscription, origin: Origin) -> bool:
    """Whether a leaving says more than the log does: an operator's, after one that a page could still undo."""
    if origin.way not in {Way.OPERATOR, Way.MAIL}:
        return False
    last = session.exec(
        select(ConsentEvent)
        .where(ConsentEvent.subscriber_id == subscription.subscriber_id, ConsentEvent.list_id == subscription.list_id)
        .order_by(col(ConsentEvent.id).desc())
    ).first()
    return last is not None and last.way is Way.PAGE


def pause(
    session: Session, subscriber: Subscriber, until: datetime, *, now: datetime, actor: str, origin: Origin
) -> Done:
    """Mail a person nothing until an instant. A longer pause stays as it is."""
    before = subscriber.paused_until
    if before is not None and before >= until:
        return Done(0)
    subscriber.paused_until = until
    held = {"paused_until": before.isoformat() if before else None}
    event = log(session, Happening.PAUSED, subscriber.id, None, now, actor, origin, before=held)
    return Done(1, (event.id or 0,))


def narrow(
    session: Session, subscriber: Subscriber, topics: Sequence[str], *, now: datetime, actor: str, origin: Origin
) -> Done:
    """Mail a person only editions with one of these topics. Those that they did not want before are not added.

    Raises NotAllowed where none is left: that would be leaving.
    """
    wanted = list(dict.fromkeys(topics))
    if subscriber.topics is not None:
        had = {topic.casefold() for topic in subscriber.topics}
        wanted = [topic for topic in wanted if topic.casefold() in had]
    if not wanted:
        raise NotAllowed("choose at least one topic, or leave")
    if subscriber.topics is not None and len(wanted) == len(subscriber.topics):
        return Done(0)
    before = {"topics": list(subscriber.topics) if subscriber.topics is not None else None}
    subscriber.topics = wanted
    event = log(session, Happening.NARROWED, subscriber.id, None, now, actor, origin, before=before)
    return Done(1, (event.id or 0,))


def undo_token(done: Done, *, now: datetime, secret: bytes) -> str | None:
    """The token that takes back what was just done, for whoever did it. None where nothing changed."""
    if not done.events:
        return None
    return tokens.sign(UNDO, done.events[0], now + UNDO_LASTS, secret, bound=str(len(done.events)))


def undo(session: Session, token: str, subscriber: Subscriber, *, now: datetime, secret: bytes, origin: Origin) -> int:
    """Take back what was done by a person's link, as far as nothing has happened since. Gives how many things changed.

    Idempotent. Raises TokenError for a token that is not of what this person's link did.
    """
    first = session.get(ConsentEvent, tokens.verify(token, UNDO, now, secret))
    if first is None or first.subscriber_id != subscriber.id:
        raise TokenError("this link is damaged, or not ours")
    together = session.exec(
        select(ConsentEvent).where(
            ConsentEvent.subscriber_id == subscriber.id,
            ConsentEvent.at == first.at,
            ConsentEvent.event == first.event,
            col(ConsentEvent.id) >= first.id,
        )
    ).all()
    tokens.verify_bound(token, UNDO, secret, str(len(together)))
    changed = sum(_undo_one(session, subscriber, event, now, origin) for event in together)
    session.flush()
    return changed


def _undo_one(session: Session, subscriber: Subscriber, event: ConsentEvent, now: datetime, origin: Origin) -> bool:
    before = event.before or {}
    if event.event is Happening.LEFT:
        subscription = session.exec(
            select(Subscription).where(
                Subscription.subscriber_id == subscriber.id, Subscription.list_id == event.list_id
            )
        ).first()
        if subscription is None or subscription.state is not State.UNSUBSCRIBED:
            return False
        if _happened_since(session, subscriber, event):
            return False
        subscription.state, subscription.changed_at = State(before.get("state", State.PENDING)), now
    elif _happened_since(session, subscriber, event):
        return False
    elif event.event is Happening.PAUSED:
        held = before.get("paused_until")
        subscriber.paused_until = datetime.fromisoformat(held).astimezone(UTC) if held else None
    elif event.event is Happening.NARROWED:
        subscriber.topics = before.get("topics")
    log(session, Happening.RESTORED, subscriber.id, event.list_id, now, "subscriber", origin)
    return True


def _happened_since(session: Session, subscriber: Subscriber, event: ConsentEvent) -> bool:
    """Whether anything that bears on the same thing happened after it: to that list, or to the person as a whole."""
    of = col(ConsentEvent.list_id)
    same = of.is_(None) if event.list_id is None else or_(of == event.list_id, of.is_(None))
    against = col(ConsentEvent.event).in_([Happening.BOUNCED, Happening.COMPLAINED])
    later = select(ConsentEvent.id).where(
        ConsentEvent.subscriber_id == subscriber.id, col(ConsentEvent.id) > event.id, or_(same, against)
    )
    if event.list_id is not None:  # what a person prefers bears on no list
        mild = [Happening.PAUSED, Happening.RESUMED, Happening.NARROWED, Happening.CHANGED, Happening.RESTORED]
        later = later.where(~and_(of.is_(None), col(ConsentEvent.event).in_(mild)))
    return session.exec(later.limit(1)).first() is not None


# ------------------------------------------------------------------------------------------ suppressing

ENDS = {
    Reason.HARD_BOUNCE: (State.BOUNCED, Happening.BOUNCED),
    Reason.COMPLAINT: (State.COMPLAINED, Happening.COMPLAINED),
}
"""What a reason does to the subscriptions of an address. An operator's word leaves them as they are."""


def suppress(
    session: Session,
    mailbox: Mailbox,
    reason: Reason,
    *,
    now: datetime,
    actor: str,
    note: str | None,
    origin: Origin = BY_OPERATOR,
) -> bool:
    """Never mail an address, whatever any list says. True where that is new; an earlier reason stays."""
    if session.get(Suppression, mailbox.key) is not None:
        return False
    session.add(Suppression(key=mailbox.key, reason=reason, at=now, note=note))
    subscriber = find(session, mailbox)
    evidence = f"{reason}: {note}" if note else str(reason)
    subscriber_id = subscriber.id if subscriber else None
    log(session, Happening.SUPPRESSED, subscriber_id, None, now, actor, origin, evidence=evidence)
    if reason in ENDS and subscriber is not None:
        state, happening = ENDS[reason]
        for subscription in subscriptions(session, subscriber):
            if subscription.state in {State.PENDING, State.CONFIRMED}:
                before = {"state": str(subscription.state)}
                subscription.state, subscription.changed_at = state, now
                _log(session, subscription, happening, now, actor, origin, before=before)
    session.flush()
    return True


def unsuppress(session: Session, mailbox: Mailbox, *, now: datetime, actor: str, note: str | None) -> Reason | None:
    """Lift a suppression, and give its reason; None where the address is not suppressed.

    After a bounce the person's subscriptions stand again as they stood. After a complaint they do not: that takes the
    person's own fresh opt-in, which is possible from now on.
    """
    found = session.get(Suppression, mailbox.key)
    if found is None:
        return None
    session.delete(found)
    subscriber = find(session, mailbox)
    subscriber_id = subscriber.id if subscriber else None
    evidence = f"{found.reason}: {note}" if note else str(found.reason)
    log(session, Happening.UNSUPPRESSED, subscriber_id, None, now, actor, BY_OPERATOR, evidence=evidence)
    if found.reason is Reason.HARD_BOUNCE and subscriber is not None:
        for subscription in subscriptions(session, subscriber):
            if subscription.state is State.BOUNCED:
                event = session.exec(
                    select(ConsentEvent)
                    .where(
                        ConsentEvent.subscriber_id == subscriber.id,
                        ConsentEvent.list_id == subscription.list_id,
                        ConsentEvent.event == Happening.BOUNCED,
                    )
                    .order_by(col(ConsentEvent.id).desc())
                ).first()
                if event is not None and event.before:  # else it came in as bounced, and never was anything else here
                    subscription.state, subscription.changed_at = State(event.before["state"]), now
                    _log(session, subscription, Happening.RESTORED, now, actor, BY_OPERATOR)
    session.flush()
    return found.reason


def is_suppressed(session: Session, address: str) -> bool:
    """Whether an address must not be mailed, whatever any list says."""
    return session.get(Suppression, key(address)) is not None


def is_barred(session: Session, of: str, secret: bytes | None) -> bool:
    """Whether the person of a key must not be mailed even what they ask for: suppressed, also before an erasure."""
    if session.get(Suppression, of) is not None:
        return True
    marked = session.get(Suppression, erasure.mark(of, secret)) if secret is not None else None
    return marked is not None and marked.note is not None


def judge_erasures(session: Session, secret: bytes | None) -> None:
    """Raise ErasureKeyError where people were erased with another key than this one, or there is none."""
    marks = select(Suppression.key).where(Suppression.reason == Reason.ERASED)
    if secret is not None:
        marks = marks.where(~col(Suppression.key).startswith(erasure.prefix(secret), autoescape=True))
    erasure.judge(session.exec(marks.limit(1)), secret)


def refuse_erased(session: Session, of: str, secret: bytes | None) -> None:
    """Raise NotAllowed where the person with that key was erased; ErasureKeyError where nobody can tell."""
    judge_erasures(session, secret)
    if secret is not None and session.get(Suppression, erasure.mark(of, secret)) is not None:
        raise NotAllowed("that person was erased at their wish; only their own fresh opt-in lifts that")


def lift_erasure(  # noqa: PLR0917 # whose, by whom, when
    session: Session, subscriber_id: int, secret: bytes | None, now: datetime, actor: str, origin: Origin
) -> None:
    """End an erasure: the person has just confirmed that they want to be mailed.

    Raises ErasureKeyError where nobody can tell whether they were erased.
    """
    judge_erasures(session, secret)
    subscriber = session.get_one(Subscriber, subscriber_id)
    found = session.get(Suppression, erasure.mark(subscriber.key, secret)) if secret is not None else None
    if found is not None:
        session.delete(found)
        log(session, Happening.UNSUPPRESSED, subscriber_id, None, now, actor, origin, evidence=str(Reason.ERASED))


def _subscriber(session: Session, mailbox: Mailbox, now: datetime, language: str | None) -> Subscriber:
    found = find(session, mailbox)
    if found is None:
        found = Subscriber(
            address=mailbox.address,
            key=mailbox.key,
            name=mailbox.name,
            language=language,
            link=tokens.new_link(),
            created_at=now,
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


def _on_record(subscription: Subscription) -> bool:
    """True for a request that is already on record (a new row is not, before its first flush)."""
    return subscription.id is not None and subscription.state is State.PENDING


def _refuse_suppressed(session: Session, of: str) -> None:
    """Before anything of the person is written: an erased address must not come back as a row."""
    found = session.get(Suppression, of)
    if found is not None:
        raise NotAllowed(f"that address is suppressed since {found.at:%Y-%m-%d} ({found.reason})")


def _log(  # noqa: PLR0917 # whose, what, when, by whom
    session: Session,
    subscription: Subscription,
    event: Happening,
    now: datetime,
    actor: str,
    origin: Origin,
    *,
    evidence: str | None = None,
    before: dict[str, str] | None = None,
) -> ConsentEvent:
    session.flush()
    return log(
        session,
        event,
        subscription.subscriber_id,
        subscription.list_id,
        now,
        actor,
        origin,
        evidence=evidence,
        before=before,
    )
