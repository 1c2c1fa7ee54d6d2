"""The people on the lists, as an operator changes them, and all that is held about one of them. Mails nobody.

Each function takes the Newsroom whose database holds the lists, and who did it, for the record. Those that take a
session work in the caller's transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlmodel import Session, col

import subscribers
from newsletter import desk, notices, store
from newsletter.edition import Finding
from newsletter.errors import ConfigurationError
from newsletter.folding import copies_of
from newsletter.models import DeskNotice, EventRecord, Notice
from newsletter.newsroom import Newsroom
from newsletter.settings import ERASURE_VARIABLE, SECRET_VARIABLE, Settings
from subscribers import (
    AddressError,
    ErasureKeyError,
    NotAllowed,
    OptIn,
    Origin,
    Reason,
    State,
    Subscriber,
    Subscription,
    Suppression,
    Way,
    parse,
    reading,
    transaction,
)

_PEOPLE_AT_ONCE = 200  # so that no write lock is held longer than the 250 ms that other processes count on

# ------------------------------------------------------------------------------------------ lists


@dataclass(frozen=True)
class ListAccount:
    """A list, how many subscriptions it has in which state, and which newsletters go to it."""

    slug: str
    name: str
    description: str
    public: bool
    opt_in: OptIn
    welcome: bool
    counts: dict[State, int]
    newsletters: tuple[str, ...]


def ensure_lists(newsroom: Newsroom) -> None:
    """Make the lists that newsletters go to and nobody has made yet. A newsletter's only list has its title."""
    with reading(newsroom.engine) as session:
        known = {to.slug for to in subscribers.lists(session)}
    wanted = {
        slug: newsletter.title if len(newsletter.lists) == 1 else slug
        for newsletter in newsroom.settings.newsletters.values()
        for slug in newsletter.lists
        if slug not in known
    }
    if wanted:
        with transaction(newsroom.engine) as session:
            for slug, name in wanted.items():
                subscribers.ensure_list(session, slug, name, newsroom.clock())


def lists(newsroom: Newsroom) -> list[ListAccount]:
    """The lists, by slug."""
    ensure_lists(newsroom)
    with reading(newsroom.engine) as session:
        rows = session.execute(
            select(col(Subscription.list_id), col(Subscription.state), func.count()).group_by(
                col(Subscription.list_id), col(Subscription.state)
            )
        )
        counts: dict[int, dict[State, int]] = {}
        for list_id, state, count in rows:
            counts.setdefault(list_id, {})[State(state)] = count
        return [
            ListAccount(
                to.slug,
                to.name,
                to.description,
                to.public,
                to.opt_in,
                to.welcome,
                counts.get(to.id or 0, {}),
                tuple(name for name, one in newsroom.settings.newsletters.items() if to.slug in one.lists),
            )
            for to in subscribers.lists(session)
        ]


def change_list(  # what a list is
    newsroom: Newsroom,
    slug: str,
    *,
    new: bool = False,
    name: str | None = None,
    description: str | None = None,
    public: bool | None = None,
    opt_in: OptIn | None = None,
    welcome: bool | None = None,
) -> None:
    """Make a `new` list, or change one; None leaves a part as it is. Raises UnknownList, ConfigurationError."""
    ensure_lists(newsroom)
    with transaction(newsroom.engine) as session:
        if new:
            if subscribers.lists(session, [slug]):
                raise ConfigurationError(f"there is a list “{slug}” already")
            to = subscribers.ensure_list(session, slug, name or slug, newsroom.clock())
        else:
            to = subscribers.list_by_slug(session, slug)
        given = {"name": name, "description": description, "public": public, "opt_in": opt_in, "welcome": welcome}
        for part, value in given.items():
            if value is not None:
                setattr(to, part, value)
        session.add(to)


# ------------------------------------------------------------------------------------------ adding, inviting


@dataclass(frozen=True)
class Added:
    """What came of adding people: how many were new, on the list before, or refused (line and reason).

    `links` holds the confirmation links of those who are pending; `refused` says where each stood, and why.
    """

    to: str
    state: str
    new: int
    before: int
    links: tuple[str, ...]
    refused: tuple[tuple[str, str], ...]
    links_end_at: datetime


def add(newsroom: Newsroom, people: Sequence[tuple[str, str]], to: str, *, evidence: str | None, actor: str) -> Added:
    """Add people to a list: confirmed where `evidence` says how their consent is known, else pending. Mails nobody.

    `people` are mailboxes, each with where it stands ("people.txt:3"), for what is said about it.
    """
    secret = None if evidence else newsroom.settings.need_secret()
    now, lasts = newsroom.clock(), newsroom.settings.subscribers.request_lasts
    new = before = 0
    links: list[str] = []
    refused: list[tuple[str, str]] = []
    ensure_lists(newsroom)
    for start in range(0, len(people), _PEOPLE_AT_ONCE):
        with transaction(newsroom.engine) as session:
            mailing_list = subscribers.ensure_list(session, to, to, now)
            for place, text in people[start : start + _PEOPLE_AT_ONCE]:
                try:
                    mailbox = parse(text)
                    if evidence:
                        _, changed = subscribers.add_confirmed(
                            session,
                            mailbox,
                            mailing_list,
                            now=now,
                            actor=actor,
                            evidence=evidence,
                            erasure_secret=newsroom.settings.erasure_secret,
                        )
                    else:
                        subscribers.refuse_erased(session, mailbox.key, newsroom.settings.erasure_secret)
                        subscription = subscribers.ask(session, mailbox, mailing_list, now=now, actor=actor)
                        changed = subscription.state is State.PENDING
                        if changed and secret:
                            token = subscribers.confirmation_token(
                                session, subscription, now=now, secret=secret, lasts=lasts
                            )
                            links.append(f"{newsroom.settings.site.url}/c/{token}")
                except (AddressError, NotAllowed) as error:
                    refused.append((place, str(error)))
                    continue
                new, before = new + changed, before + (not changed)
    state = State.CONFIRMED if evidence else State.PENDING
    return Added(to, state, new, before, tuple(links), tuple(refused), now + lasts)


def invite(newsroom: Newsroom, to: str, *, limit: int | None, actor: str) -> tuple[int, int]:
    """Write down a confirmation notice for people who were added to a list pending, each once in their life on it.

    At most as many as [subscribers] invites_per_hour lets out within the hour. Gives how many, and how many are left.
    """
    most = newsroom.settings.subscribers.invites_per_hour
    invited = 0
    while True:
        with transaction(newsroom.engine) as session:
            now = newsroom.clock()
            mailing_list = subscribers.list_by_slug(session, to)
            room = most - subscribers.invited_since(session, now - timedelta(hours=1))
            room = min(room, _PEOPLE_AT_ONCE, *([] if limit is None else [limit - invited]))
            found = subscribers.invitable(session, mailing_list, max(room, 0))
            mails = [mail for one in found if (mail := subscribers.invite(session, one, now=now, actor=actor))]
            notices.queue(session, mails, newsroom.settings, now)
            if not found:
                left = subscribers.count_invitable(session, mailing_list)
                return invited, left
            invited += len(found)


# ------------------------------------------------------------------------------------------ confirming, leaving


def confirm(newsroom: Newsroom, link: str, *, actor: str) -> None:
    """Confirm a pending subscription by its link or the token in it. Raises TokenError and NotAllowed."""
    with transaction(newsroom.engine) as session:
        subscribers.confirm(
            session,
            link.rpartition("/")[2],
            now=newsroom.clock(),
            secret=newsroom.settings.need_secret(),
            actor=actor,
            origin=Origin(Way.OPERATOR),
            erasure_secret=newsroom.settings.erasure_secret,
        )


def leave(newsroom: Newsroom, address: str, to: str | None, *, actor: str) -> int:
    """Take a person off a list, or off all, and say how many subscriptions that ended. Raises UnknownList."""
    with transaction(newsroom.engine) as session:
        if to:
            subscribers.list_by_slug(session, to)
        subscriber = subscribers.find(session, parse(address))
        if subscriber is None:
            return 0
        slugs = {to} if to else None
        return subscribers.leave(session, subscriber, slugs, now=newsroom.clock(), actor=actor).changed


def lists_left(session: Session, settings: Settings, newsletter: str) -> tuple[str, ...] | None:
    """The lists that leaving a newsletter leaves: of one that is no longer configured those that it last went to.

    None, which stands for all, where it never went to any.
    """
    known = settings.newsletters.get(newsletter)
    return known.lists if known else store.lists_once_mailed(session, newsletter)


def leave_by_mail(newsroom: Newsroom, subject: str) -> int:
    """Take a person off a newsletter's lists as the subject of their mail says (`Sender.leave_mail`).

    Gives how many subscriptions that ended. Raises TokenError where the subject names nobody.
    """
    words = subject.split()
    link, name = (words[1], words[2]) if len(words) == 3 and words[0].lower() == "unsubscribe" else ("", "")  # noqa: PLR2004 # the three that we write
    with transaction(newsroom.engine) as session:
        subscriber = subscribers.by_link(session, link) if link else None
        if subscriber is None:
            raise subscribers.TokenError("the subject is none of ours: expected “unsubscribe LINK NEWSLETTER”")
        slugs = lists_left(session, newsroom.settings, name)
        return subscribers.leave(
            session, subscriber, slugs, now=newsroom.clock(), actor="subscriber", origin=Origin(Way.MAIL)
        ).changed


def suppress(newsroom: Newsroom, address: str, *, actor: str, note: str | None) -> bool:
    """Never mail an address again, whatever any list says. False where it was suppressed already."""
    with transaction(newsroom.engine) as session:
        mailbox = parse(address)
        return subscribers.suppress(session, mailbox, Reason.OPERATOR, now=newsroom.clock(), actor=actor, note=note)


def unsuppress(newsroom: Newsroom, address: str, *, actor: str, note: str | None) -> Reason | None:
    """Lift what stands against mailing an address, and give the reason that it had; None where nothing did.

    Raises NotAllowed for a person who was erased: that takes their own fresh opt-in. Raises ConfigurationError where
    nobody can tell, for want of the erasure key.
    """
    with transaction(newsroom.engine) as session:
        mailbox = parse(address)
        found = subscribers.unsuppress(session, mailbox, now=newsroom.clock(), actor=actor, note=note)
        secret = newsroom.settings.erasure_secret
        if found is None:
            try:
                subscribers.judge_erasures(session, secret)
            except ErasureKeyError as error:
                raise ConfigurationError(
                    f"that address is not suppressed by itself; whether it was erased cannot be told: {error}"
                ) from None
        if found is None and secret is not None:
            if subscribers.unbar_erased(session, mailbox, secret=secret, now=newsroom.clock(), actor=actor):
                return Reason.ERASED
            subscribers.refuse_erased(session, mailbox.key, secret)
        return found


# ------------------------------------------------------------------------------------------ one person


@dataclass(frozen=True)
class Person:
    """What is known of an address. `suppressed` is None where nothing stands against mailing it."""

    subscriber: Subscriber | None
    subscriptions: tuple[tuple[str, State, datetime], ...]
    suppressed: Suppression | None
    data: dict[str, Any] | None


def show(newsroom: Newsroom, address: str) -> Person:
    """All that is held about an address. Raises AddressError."""
    mailbox = parse(address)
    with reading(newsroom.engine) as session:
        subscriber = subscribers.find(session, mailbox)
        names = {to.id: to.slug for to in subscribers.lists(session)}
        standing = subscribers.subscriptions(session, subscriber) if subscriber else []
        return Person(
            subscriber,
            tuple((names[one.list_id], one.state, one.changed_at) for one in standing),
            session.get(Suppression, mailbox.key),
            data_of(session, subscriber) if subscriber else None,
        )


def find(newsroom: Newsroom, text: str, limit: int) -> list[tuple[Subscriber, int]]:
    """The people whose address or name holds a text, by address, and on how many lists each is confirmed."""
    held = text.strip().casefold()
    confirmed = (
        select(func.count())
        .where(col(Subscription.subscriber_id) == col(Subscriber.id), col(Subscription.state) == State.CONFIRMED)
        .scalar_subquery()
    )
    with reading(newsroom.engine) as session:
        rows = session.execute(
            select(Subscriber, confirmed)
            .where(col(Subscriber.erased_at).is_(None))
            .where(
                or_(
                    col(Subscriber.key).contains(held, autoescape=True),
                    func.lower(col(Subscriber.name)).contains(held, autoescape=True),
                )
            )
            .order_by(col(Subscriber.key))
            .limit(limit)
        )
        return [(row[0], row[1]) for row in rows]


def data_of(session: Session, subscriber: Subscriber) -> dict[str, Any]:
    """All that both halves of the database hold about a person, for them to take away."""
    told = session.execute(
        select(Notice).where(col(Notice.subscriber_id) == subscriber.id).order_by(col(Notice.id))
    ).scalars()
    events = session.execute(
        select(EventRecord).where(func.lower(col(EventRecord.address)) == subscriber.address.lower())
    ).scalars()
    return {
        **subscribers.data_of(session, subscriber),
        "editions": [
            {
                "newsletter": copy.edition.newsletter,
                "slot": copy.edition.slot,
                "zone": copy.edition.zone,
                "outcome": str(copy.outcome or "waiting"),
                "fate": str(copy.fate) if copy.fate else None,
            }
            for copy in copies_of(session, subscriber.id or 0)
        ],
        "notices": [{"kind": str(one.kind), "at": one.created_at, "state": str(one.state)} for one in told],
        "provider_events": [{"kind": str(one.kind), "at": one.at} for one in events],
    }


def forget(  # whose, when, by whom
    session: Session, subscriber: Subscriber, settings: Settings, *, now: datetime, actor: str, origin: Origin
) -> bool:
    """Erase a person from both halves of the database. False where they were erased already.

    What was sent stays counted. Raises ConfigurationError without the erasure key.
    """
    secret = settings.need_erasure_secret()
    address = subscriber.address
    session.execute(delete(Notice).where(col(Notice.subscriber_id) == subscriber.id))
    _drop_address(session, address)
    return subscribers.forget(session, subscriber, secret=secret, now=now, actor=actor, origin=origin)


def drop_from_events(session: Session, address: str) -> None:
    """Take an address that is no longer anybody's here out of what providers told."""
    if address:
        session.execute(update(EventRecord).where(_holds(EventRecord.address, address)).values(address=None))


def _drop_address(session: Session, address: str) -> None:
    """Take an erased address out of what providers told, and out of mails that others had sent there."""
    drop_from_events(session, address)
    if address:
        session.execute(delete(Notice).where(_holds(Notice.address, address)))


def _holds(column: str | None, address: str) -> ColumnElement[bool]:
    """Whether a column holds an address, however it is written there."""
    return or_(
        func.lower(col(column)) == address.lower(),  # SQLite's lower() knows ASCII alone
        col(column).in_([address, parse(address).key]),
    )


def forget_address(newsroom: Newsroom, address: str, *, actor: str) -> bool:
    """Erase the person of an address at their wish. An address on no list is marked all the same. False: they were."""
    mailbox = parse(address)
    with transaction(newsroom.engine) as session:
        subscriber = subscribers.find(session, mailbox)
        now = newsroom.clock()
        if subscriber is None:
            secret = newsroom.settings.need_erasure_secret()
            _drop_address(session, mailbox.address)
            return subscribers.mark_erased(session, mailbox, secret=secret, now=now, actor=actor)
        return forget(session, subscriber, newsroom.settings, now=now, actor=actor, origin=Origin(Way.OPERATOR))


# ------------------------------------------------------------------------------------------ secrets


def knows_erased(newsroom: Newsroom) -> bool:
    """Whether it can be told of everybody if they were erased: nobody was, or their key is at hand."""
    with reading(newsroom.engine) as session:
        try:
            subscribers.judge_erasures(session, newsroom.settings.erasure_secret)
        except ErasureKeyError:
            return False
    return True


def secret_faults(newsroom: Newsroom) -> list[Finding]:
    """Which secrets are not at hand, and what cannot be done for want of them: bad where only a backup mends it.

    Leaving is never among it. None of these is told where nothing needs it: an empty list is good.
    """
    settings = newsroom.settings
    faults = []
    if settings.secret is None:
        what = "the pages take no request, and links to confirm or to preferences cannot be made"
        faults.append(Finding(ok=None, what=f"{SECRET_VARIABLE} is not set: {what}"))
    try:
        with reading(newsroom.engine) as session:
            subscribers.judge_erasures(session, settings.erasure_secret)
    except ErasureKeyError as error:
        what = "until then nobody is added, erased, or mailed at another address; leaving goes on"
        faults.append(Finding(ok=False, what=f"{ERASURE_VARIABLE}: {error}; {what}"))
    else:
        if settings.erasure_key is None:
            faults.append(Finding(ok=None, what=f"{ERASURE_VARIABLE} is not set: nobody can be erased"))
    return faults


# ------------------------------------------------------------------------------------------ figures


@dataclass(frozen=True)
class Stats:
    """How the lists stand: people, suppressions by reason, requests and notices that wait, and joins and leavings."""

    people: int
    erased: int
    suppressed: dict[Reason, int]
    lists: list[ListAccount]
    joined_30_days: int
    left_30_days: int
    requests_waiting: int
    notices_waiting: int


def stats(newsroom: Newsroom) -> Stats:
    """How the lists stand now."""
    accounts = lists(newsroom)
    month = newsroom.clock() - timedelta(days=30)
    with reading(newsroom.engine) as session:
        reasons = session.execute(select(col(Suppression.reason), func.count()).group_by(col(Suppression.reason)))
        joined, left = subscribers.movement(session, since=month)
        waiting, _ = notices.waiting(session)
        return Stats(
            session.execute(select(func.count()).where(col(Subscriber.erased_at).is_(None))).scalar_one(),
            session.execute(select(func.count()).where(col(Subscriber.erased_at).is_not(None))).scalar_one(),
            {Reason(reason): count for reason, count in reasons},
            accounts,
            joined,
            left,
            len(subscribers.unsettled(session, 10_000, held=True)),
            waiting,
        )


@dataclass(frozen=True)
class NoticesAccount:
    """The latest notices, newest first; how many wait, and since when. The same of those to the desk."""

    latest: list[Notice]
    waiting: int
    since: datetime | None
    desk: list[DeskNotice]
    desk_waiting: int
    desk_since: datetime | None


def notices_account(newsroom: Newsroom, limit: int) -> NoticesAccount:
    """How the notices fare."""
    with reading(newsroom.engine) as session:
        waiting, since = notices.waiting(session)
        return NoticesAccount(
            notices.listed(session, limit), waiting, since, desk.listed(session, limit), *desk.waiting(session)
        )
