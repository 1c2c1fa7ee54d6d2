"""Wishes that come in by pages: taken down unseen, then settled, so that nobody can probe who is on a list.

`take` looks at nothing but how much was asked lately, and says the same to every visitor. `settle` runs afterwards, by
itself: it puts the wish on record and says what is to be mailed, if anything. It mails nothing.
"""

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import ColumnElement, and_, delete, false, func, or_, update
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from subscribers.address import Mailbox
from subscribers.consent import ENDS, LONGEST_AGENT, LONGEST_FORM, Origin, first_request, last_word, log, statement
from subscribers.directory import find, lists, subscriptions
from subscribers.errors import ErasureKeyError, NotAllowed
from subscribers.lifecycle import AGAINST, ask, is_barred, join_at_once, judge_erasures, objection, refuse_erased
from subscribers.models import (
    AddressChange,
    ConsentEvent,
    ConsentStatement,
    Happening,
    MailingList,
    Request,
    State,
    Subscriber,
    Subscription,
    Suppression,
    Way,
    Wish,
)

HOUR = timedelta(hours=1)
CHANGE_LASTS = timedelta(days=1)
_DAYS = 3  # a day has the mails of so many hours at the limit
_MAILS_A_REQUEST = 3  # confirmations that are mailed for a list while nobody confirms: more is no reminder
_KEPT = timedelta(days=2)  # settled requests: the limits look back a day
INVITED = "invited"  # the log's word for it
_AT_ONCE = 500  # rows a statement of purging, so that no write lock is held long


class Mail(StrEnum):
    """What a person is to be mailed, outside of any edition."""

    CONFIRM = "confirm"  # about a subscription: its link confirms whatever was asked for with it
    ALREADY = "already"  # about a subscriber: they asked to join what they are in
    LINK = "link"  # about a subscriber: the fresh link to their preferences and rights
    CHANGE = "change"  # about a change of address, to the new one
    CHANGED = "changed"  # about a subscriber, to the old address
    WELCOME = "welcome"  # about a subscription


@dataclass(frozen=True, slots=True)
class ToMail:
    """A mail to be sent. `about_id` is the row that its link acts on; `address` is None for the one on file."""

    mail: Mail
    subscriber_id: int
    about_id: int
    list_slug: str | None = None
    language: str | None = None
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """How many requests an hour are taken, for one address, from one network, and for addresses of one domain."""

    per_address: int
    per_network: int
    per_domain: int


class Taken(StrEnum):
    """What became of a request. A visitor hears of TOO_MANY alone, which says nothing about any address."""

    TAKEN = "taken"
    LEFT = "left"  # enough was asked for that address already: it is not bothered again
    TOO_MANY = "too many"


@dataclass(frozen=True, slots=True)
class Asked:
    """A wish as a page gives it. `lists` are slugs, empty for a link."""

    wish: Wish
    mailbox: Mailbox
    lists: tuple[str, ...] = ()
    language: str | None = None


def network_of(ip: str | None) -> str | None:
    """The network that an IP address stands for in limits: itself, or of IPv6 the /64 that one household has.

    None for what is no address. An IPv4 address in IPv6 clothes is that IPv4 address.
    """
    try:
        found = ipaddress.ip_address((ip or "").partition("%")[0])
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.IPv6Network((int(found) >> 64 << 64, 64)).network_address)
    return str(found)


def take(
    session: Session,
    asked: Asked,
    origin: Origin,
    limits: Limits,
    *,
    now: datetime,
    by: int | None = None,
    settled: bool = False,
) -> Taken:
    """Take a request down. Looks nobody up. One that is `settled` by the caller counts for the limits alone.

    Joining, asking for a link by a form, and asking by one's own link (`by` a subscriber) each have a limit of their
    own: nobody is kept from their link by others who type their address. The limit of a domain is that of joining.
    """
    local, _, domain = asked.mailbox.key.rpartition("@")
    mailbox = f"{local.partition('+')[0] or local}@{domain}"
    recent = col(Request.at) > now - HOUR
    rows = select(func.count()).select_from(Request).where(recent)
    if origin.ip is not None and session.exec(rows.where(Request.ip == origin.ip)).one() >= limits.per_network:
        return Taken.TOO_MANY
    joining = asked.wish is Wish.JOIN
    if joining and session.exec(rows.where(Request.domain == domain, Request.wish == Wish.JOIN)).one() >= (
        limits.per_domain
    ):
        return Taken.TOO_MANY
    who = col(Request.subscriber_id).is_(None) if by is None else Request.subscriber_id == by
    alike = rows.where(Request.mailbox == mailbox, Request.wish == asked.wish, who, col(Request.counts))
    day = select(func.count()).select_from(Request).where(col(Request.at) > now - timedelta(days=1))
    that_day = day.where(Request.mailbox == mailbox, Request.wish == asked.wish, who, col(Request.counts))
    enough = (
        session.exec(alike).one() >= limits.per_address or session.exec(that_day).one() >= _DAYS * limits.per_address
    )
    session.add(
        Request(
            at=now,
            wish=asked.wish,
            address=asked.mailbox.address,
            key=asked.mailbox.key,
            mailbox=mailbox,
            domain=domain[:255],
            lists=list(asked.lists),
            name=asked.mailbox.name,
            language=asked.language,
            form=origin.form[:LONGEST_FORM] if origin.form else None,
            statement_id=statement(session, origin.wording, now) if origin.wording else None,
            ip=origin.ip,
            agent=origin.agent[:LONGEST_AGENT] if origin.agent else None,
            counts=not enough,
            settled_at=now if enough or settled else None,  # it counts for its network all the same
            subscriber_id=by,
        )
    )
    session.flush()
    return Taken.LEFT if enough else Taken.TAKEN


def unsettled(
    session: Session, limit: int, *, erasure_secret: bytes | None = None, held: bool = False
) -> list[Request]:
    """The requests that nobody has looked at yet, oldest first; with `held` those, too, that cannot be looked at now.

    Those to join are held where nobody can tell whether a person was erased, and wait for the key.
    """
    query = select(Request).where(col(Request.settled_at).is_(None)).order_by(col(Request.id)).limit(limit)
    found = list(session.exec(query))
    if held or not any(one.wish is Wish.JOIN for one in found):
        return found
    try:
        judge_erasures(session, erasure_secret)
    except ErasureKeyError:
        return list(session.exec(query.where(Request.wish != Wish.JOIN)))
    return found


def settle(session: Session, request: Request, *, now: datetime, erasure_secret: bytes | None = None) -> list[ToMail]:
    """Put a request on record, and say what is to be mailed. A suppressed address gets nothing, whatever it asks."""
    request.settled_at = now
    session.add(request)
    mailbox = Mailbox(request.address, request.key, request.name)
    if is_barred(session, request.key, erasure_secret):
        return []
    if request.wish is Wish.LINK:
        subscriber = find(session, mailbox)
        if subscriber is None or subscriber.id is None:
            return []
        return [ToMail(Mail.LINK, subscriber.id, subscriber.id, language=request.language)]
    return _settle_join(session, request, mailbox, now, erasure_secret)


def _settle_join(
    session: Session, request: Request, mailbox: Mailbox, now: datetime, erasure_secret: bytes | None
) -> list[ToMail]:
    wording = session.get(ConsentStatement, request.statement_id) if request.statement_id else None
    origin = Origin(Way.FORM, request.form, wording.text if wording else None, request.ip, request.agent)
    at_once = _may_join_at_once(session, mailbox, erasure_secret)
    joined: list[Subscription] = []
    pending: list[tuple[Subscription, MailingList]] = []
    standing: Subscription | None = None
    for to in lists(session, request.lists):
        known = _standing(session, mailbox, to)
        if known is not None and known.state is State.CONFIRMED:
            standing = known
            continue
        subscription = ask(
            session, mailbox, to, now=request.at, actor="visitor", origin=origin, language=request.language
        )
        if at_once and join_at_once(
            session, subscription, now=now, actor="visitor", origin=origin, evidence="single opt-in"
        ):
            joined.append(subscription)
        else:
            pending.append((subscription, to))
    mails = []
    # A link confirms whatever waits, so one mail does for all: about a list that was not yet mailed about too often.
    wanting = next((one for one in pending if _mailed(session, one[0]) <= _MAILS_A_REQUEST), None)
    if wanting is not None:
        first, to = wanting
        mails.append(ToMail(Mail.CONFIRM, first.subscriber_id, first.id or 0, to.slug, request.language))
    elif standing is not None and not joined and not pending:
        mails.append(ToMail(Mail.ALREADY, standing.subscriber_id, standing.subscriber_id, language=request.language))
    session.flush()
    return [*mails, *welcomes(session, joined, request.language)]


def _standing(session: Session, mailbox: Mailbox, to: MailingList) -> Subscription | None:
    subscriber = find(session, mailbox)
    if subscriber is None:
        return None
    return next((one for one in subscriptions(session, subscriber) if one.list_id == to.id), None)


def _mailed(session: Session, subscription: Subscription) -> int:
    """How often a form has asked for a subscription since it was last ended: so many confirmations were mailed."""
    first = first_request(session, subscription.subscriber_id, subscription.list_id)
    return session.exec(
        select(func.count())
        .select_from(ConsentEvent)
        .where(
            ConsentEvent.subscriber_id == subscription.subscriber_id,
            ConsentEvent.list_id == subscription.list_id,
            ConsentEvent.event == Happening.REQUESTED,
            ConsentEvent.way == Way.FORM,
            col(ConsentEvent.id) >= ((first.id if first else None) or 0),
        )
    ).one()


def _may_join_at_once(session: Session, mailbox: Mailbox, secret: bytes | None) -> bool:
    """Whether a single opt-in is enough. Whoever was erased joins anew by a link, and where nobody can tell, all do."""
    try:
        refuse_erased(session, mailbox.key, secret)
    except (NotAllowed, ErasureKeyError):
        return False
    return True


def welcomes(session: Session, joined: Sequence[Subscription], language: str | None = None) -> Iterator[ToMail]:
    """The welcome for whoever has just joined lists, where one of these has one. Nobody is welcomed twice."""
    for subscription in joined:
        to = session.get_one(MailingList, subscription.list_id)
        before = session.exec(
            select(func.count()).where(
                ConsentEvent.subscriber_id == subscription.subscriber_id,
                ConsentEvent.list_id == subscription.list_id,
                ConsentEvent.event == Happening.CONFIRMED,
            )
        ).one()
        if to.welcome and before <= 1:
            yield ToMail(Mail.WELCOME, subscription.subscriber_id, subscription.id or 0, to.slug, language)
            return


# ------------------------------------------------------------------------------------------ inviting


def _asked_by(ways: Sequence[Way]) -> ColumnElement[bool]:
    """Whether a subscription was ever asked for by one of these ways."""
    return (
        select(ConsentEvent.id)
        .where(
            ConsentEvent.subscriber_id == Subscription.subscriber_id,
            ConsentEvent.list_id == Subscription.list_id,
            ConsentEvent.event == Happening.REQUESTED,
            col(ConsentEvent.way).in_(ways),
        )
        .exists()
    )


def _invited() -> ColumnElement[bool]:
    """Whether somebody was ever invited to a subscription."""
    return (
        select(ConsentEvent.id)
        .where(
            ConsentEvent.subscriber_id == Subscription.subscriber_id,
            ConsentEvent.list_id == Subscription.list_id,
            ConsentEvent.evidence == INVITED,
        )
        .exists()
    )


def _said_no() -> ColumnElement[bool]:
    """Whether a person said no to a list, or to all, as `lifecycle.ask` refuses them to an operator."""
    theirs = ConsentEvent.subscriber_id == Subscription.subscriber_id
    ever = select(ConsentEvent.id).where(theirs, col(ConsentEvent.event).in_(AGAINST)).exists()  # most never did
    last = (
        select(ConsentEvent.event)
        .where(
            theirs,
            ConsentEvent.list_id == Subscription.list_id,
            col(ConsentEvent.event).not_in([Happening.REQUESTED, Happening.EXPIRED]),
        )
        .order_by(col(ConsentEvent.id).desc())
        .limit(1)
        .scalar_subquery()
    )
    objected = objection(Subscription.subscriber_id).scalar_subquery()
    no = or_(
        func.coalesce(last.in_(AGAINST), false()),
        func.coalesce(objected.in_([Happening.LEFT, Happening.COMPLAINED]), false()),
    )
    return and_(ever, no)


def _invitable(list_id: int | None) -> ColumnElement[bool]:
    return and_(
        col(Subscription.list_id) == list_id,
        col(Subscription.state) == State.PENDING,
        ~_invited(),
        ~_asked_by([Way.FORM]),  # they were mailed their link when they asked
        ~_said_no(),  # whoever added them
    )


def invitable(session: Session, to: MailingList, limit: int) -> list[Subscription]:
    """The people whom an operator added to a list pending and nobody has mailed a link yet, oldest first."""
    query = select(Subscription).where(_invitable(to.id)).order_by(col(Subscription.id)).limit(limit)
    return list(session.exec(query))


def count_invitable(session: Session, to: MailingList) -> int:
    """How many these are."""
    return session.exec(select(func.count()).select_from(Subscription).where(_invitable(to.id))).one()


def invite(session: Session, subscription: Subscription, *, now: datetime, actor: str) -> ToMail | None:
    """Ask a person who was added pending to confirm, once. None where their address is suppressed."""
    subscriber = session.get_one(Subscriber, subscription.subscriber_id)
    origin = Origin(Way.OPERATOR)
    log(session, Happening.REQUESTED, subscriber.id, subscription.list_id, now, actor, origin, evidence=INVITED)
    subscription.changed_at = now  # from here on it is a request like any other, and expires
    session.add(subscription)
    if session.get(Suppression, subscriber.key) is not None:
        return None
    to = session.get_one(MailingList, subscription.list_id)
    return ToMail(Mail.CONFIRM, subscription.subscriber_id, subscription.id or 0, to.slug, subscriber.language)


def invited_since(session: Session, instant: datetime) -> int:
    """How many people were invited since an instant."""
    return session.exec(
        select(func.count()).where(ConsentEvent.evidence == INVITED, col(ConsentEvent.at) > instant)
    ).one()


def movement(session: Session, *, since: datetime) -> tuple[int, int]:
    """How many subscriptions were confirmed, and how many ended at the person's wish, since an instant."""
    rows = session.exec(
        select(ConsentEvent.event, func.count()).where(col(ConsentEvent.at) > since).group_by(col(ConsentEvent.event))
    )
    counts = {Happening(event): count for event, count in rows}
    return counts.get(Happening.CONFIRMED, 0), counts.get(Happening.LEFT, 0)


# ------------------------------------------------------------------------------------------ purging


@dataclass(frozen=True, slots=True)
class Purged:
    """What time took away: requests that nobody confirmed, people of whom nothing else was known, and origins."""

    expired: int = 0
    people: int = 0
    origins: int = 0
    requests: int = 0
    changes: int = 0

    @property
    def total(self) -> int:
        """How many rows in all. None left to purge: 0."""
        return self.expired + self.people + self.origins + self.requests + self.changes


def purge(session: Session, *, now: datetime, request_lasts: timedelta, keep_origin: timedelta) -> Purged:
    """Take away what has had its time, a few hundred rows of each kind; call it until nothing is left.

    A request that nobody confirmed ends, counted from when a form or an invitation first made it: whoever left before
    it has left again, of others nothing stays. The log stays as proof, without IP and agent once these are older than
    `keep_origin`.
    """
    expired = session.exec(
        select(Subscription)
        .where(
            Subscription.state == State.PENDING,
            col(Subscription.changed_at) < now - request_lasts,
            or_(_asked_by([Way.FORM]), _invited()),  # whom an operator added wait for their invitation
            func.coalesce(_asked_at(), col(Subscription.changed_at)) < now - request_lasts,
        )
        .limit(_AT_ONCE)
    ).all()
    people = set()
    clock = Origin(Way.CLOCK)
    for subscription in expired:
        people.add(subscription.subscriber_id)
        log(session, Happening.EXPIRED, subscription.subscriber_id, subscription.list_id, now, "program", clock)
        before = _STANDING.get(last_word(session, subscription.subscriber_id, subscription.list_id))
        if before is not None:
            subscription.state, subscription.changed_at = before, now
        else:
            session.delete(subscription)
    session.flush()
    gone = [one for one in people if _is_nobody(session, one)]
    session.execute(delete(Subscriber).where(col(Subscriber.id).in_(gone)))
    aged = (
        select(ConsentEvent.id)
        .where(
            col(ConsentEvent.at) < now - keep_origin,
            or_(col(ConsentEvent.ip).is_not(None), col(ConsentEvent.agent).is_not(None)),
        )
        .limit(_AT_ONCE)
    )
    old = [one for one in session.exec(aged) if one is not None]
    session.execute(update(ConsentEvent).where(col(ConsentEvent.id).in_(old)).values(ip=None, agent=None))
    waited = and_(col(Request.settled_at).is_(None), col(Request.at) < now - request_lasts)  # it would end at once
    requests = _delete(session, Request, or_(col(Request.settled_at) < now - _KEPT, waited))
    changes = _delete(session, AddressChange, col(AddressChange.asked_at) < now - CHANGE_LASTS)
    return Purged(len(expired), len(gone), len(old), requests, changes)


_STANDING: dict[Happening | None, State] = {
    Happening.LEFT: State.UNSUBSCRIBED,
    Happening.BOUNCED: State.BOUNCED,
    Happening.COMPLAINED: State.COMPLAINED,
}
"""What a subscription falls back to when a request for it expires, by the last word on it."""


def _asked_at() -> ColumnElement[datetime]:
    """When a form, or an invitation, first asked for a subscription since it was last ended; NULL: neither has.

    What an operator added may wait for years before that, and its time is not the person's.
    """
    ended = aliased(ConsentEvent)
    last_end = (
        select(func.max(ended.id))
        .where(
            ended.subscriber_id == Subscription.subscriber_id,
            ended.list_id == Subscription.list_id,
            col(ended.event).in_(ENDS),
        )
        .scalar_subquery()
    )
    return (
        select(func.min(ConsentEvent.at))
        .where(
            ConsentEvent.subscriber_id == Subscription.subscriber_id,
            ConsentEvent.list_id == Subscription.list_id,
            ConsentEvent.event == Happening.REQUESTED,
            or_(col(ConsentEvent.way) == Way.FORM, col(ConsentEvent.evidence) == INVITED),
            col(ConsentEvent.id) > func.coalesce(last_end, 0),
        )
        .scalar_subquery()
    )


def _is_nobody(session: Session, subscriber_id: int) -> bool:
    """Whether all that is known of a person is requests that nobody confirmed."""
    subscription = select(Subscription.id).where(Subscription.subscriber_id == subscriber_id)
    more = select(ConsentEvent.id).where(
        ConsentEvent.subscriber_id == subscriber_id,
        col(ConsentEvent.event).not_in([Happening.REQUESTED, Happening.EXPIRED]),
    )
    return not session.exec(subscription.limit(1)).first() and not session.exec(more.limit(1)).first()


def _delete(session: Session, table: type[Request] | type[AddressChange], condition: ColumnElement[bool]) -> int:
    ids = [one for one in session.exec(select(table.id).where(condition).limit(_AT_ONCE)) if one is not None]
    session.execute(delete(table).where(col(table.id).in_(ids)))
    return len(ids)
