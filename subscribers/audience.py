"""Who gets an edition, as one SELECT.

The same query counts the candidates, freezes the audience by INSERT … SELECT, and is asked again when a batch is
claimed. Its columns are promised: `subscriber_id`, `address`, `name`, `link`, and `exclusion`, which is NULL where the
person may be mailed and else says why not.
"""

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import Select, and_, case, exists, func, literal, null, select

from subscribers.models import MailingList, State, Subscriber, Subscription, Suppression

SUPPRESSED = "suppressed"
PAUSED = "paused"
TOPICS = "topics"


def audience(
    lists: Sequence[str], at: datetime, topics: Collection[str] | None = None
) -> Select[tuple[int, str, str | None, str, str | None]]:
    """Everyone with a confirmed subscription to any of the lists (by slug), once, as they stand at an instant.

    Columns: subscriber_id, address, name, link, exclusion (NULL, "suppressed", "paused" or "topics"). A person who left
    is no longer in it. `topics` are those that the edition has: who wants some topics and none of these is excluded.
    None asks nobody's topics.
    """
    subscriber, suppression = Subscriber.__table__.c, Suppression.__table__.c  # type: ignore[attr-defined] # SQLModel adds it
    subscription, mailing_list = Subscription.__table__.c, MailingList.__table__.c  # type: ignore[attr-defined] # SQLModel adds it
    confirmed = exists(
        select(literal(1))
        .select_from(Subscription)
        .join(MailingList, mailing_list.id == subscription.list_id)
        .where(
            and_(
                subscription.subscriber_id == subscriber.id,
                subscription.state == State.CONFIRMED,
                mailing_list.slug.in_(list(lists)),
            )
        )
    )
    reasons = [
        (exists(select(literal(1)).select_from(Suppression).where(suppression.key == subscriber.key)), SUPPRESSED),
        (subscriber.paused_until > at, PAUSED),
    ]
    if topics is not None:
        wanted = func.json_each(subscriber.topics).table_valued("value")
        told = {*topics, *(topic.lower() for topic in topics)}  # SQLite's lower() knows ASCII alone
        any_wanted = exists(select(literal(1)).select_from(wanted).where(func.lower(wanted.c.value).in_(list(told))))
        reasons.append((and_(subscriber.topics.is_not(None), ~any_wanted), TOPICS))
    exclusion = case(*reasons, else_=null())
    return select(
        subscriber.id.label("subscriber_id"),
        subscriber.address.label("address"),
        subscriber.name.label("name"),
        subscriber.link.label("link"),
        exclusion.label("exclusion"),
    ).where(confirmed)
