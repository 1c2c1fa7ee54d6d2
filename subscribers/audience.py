"""Who gets an edition, as one SELECT.

The same query counts the candidates, freezes the audience by INSERT … SELECT, and is asked again when a batch is
claimed. Its columns are promised: `subscriber_id`, `address`, `name`, `link`, and `exclusion`, which is NULL where the
person may be mailed and else says why not.
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Select, and_, case, exists, literal, null, select

from subscribers.models import MailingList, State, Subscriber, Subscription, Suppression

SUPPRESSED = "suppressed"
PAUSED = "paused"


def audience(lists: Sequence[str], at: datetime) -> Select[tuple[int, str, str | None, str, str | None]]:
    """Everyone with a confirmed subscription to any of the lists (by slug), once, as they stand at an instant.

    Columns: subscriber_id, address, name, link, exclusion (NULL, "suppressed" or "paused"). A person who left is no
    longer in it.
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
    exclusion = case(
        (exists(select(literal(1)).select_from(Suppression).where(suppression.key == subscriber.key)), SUPPRESSED),
        (subscriber.paused_until > at, PAUSED),
        else_=null(),
    )
    return select(
        subscriber.id.label("subscriber_id"),
        subscriber.address.label("address"),
        subscriber.name.label("name"),
        subscriber.link.label("link"),
        exclusion.label("exclusion"),
    ).where(confirmed)
