"""Looking up lists and people."""

from collections.abc import Collection
from datetime import datetime

from sqlmodel import Session, col, select

from subscribers.address import Mailbox
from subscribers.errors import UnknownList
from subscribers.models import MailingList, Subscriber, Subscription

# ------------------------------------------------------------------------------------------ lists


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


def lists(session: Session, slugs: Collection[str] | None = None) -> list[MailingList]:
    """The lists, or those of some slugs, by slug."""
    query = select(MailingList).order_by(MailingList.slug)
    if slugs is not None:
        query = query.where(col(MailingList.slug).in_(list(slugs)))
    return list(session.exec(query))


# ------------------------------------------------------------------------------------------ people


def find(session: Session, mailbox: Mailbox) -> Subscriber | None:
    """The person of an address, None where no list knows them."""
    return session.exec(select(Subscriber).where(Subscriber.key == mailbox.key)).first()


def by_link(session: Session, link: str) -> Subscriber | None:
    """The person whose mails hold that link, None where there is none."""
    return session.exec(select(Subscriber).where(Subscriber.link == link)).first()


def subscriptions(session: Session, subscriber: Subscriber) -> list[Subscription]:
    """A person's subscriptions, oldest first."""
    return list(
        session.exec(
            select(Subscription).where(Subscription.subscriber_id == subscriber.id).order_by(col(Subscription.id))
        )
    )
