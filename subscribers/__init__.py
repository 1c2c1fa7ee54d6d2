"""Who may be mailed. Sends nothing, reads no settings, and knows nothing of newsletters.

What is public is named here; the tables of both packages share `Table.metadata`.
"""

from subscribers.address import Mailbox, parse
from subscribers.audience import PAUSED, SUPPRESSED, audience
from subscribers.db import Instant, Table, choice, connect, reading, transaction
from subscribers.errors import AddressError, NotAllowed, SubscriberError, TokenError, UnknownList
from subscribers.lifecycle import (
    add_confirmed,
    ask,
    confirm,
    confirmation_token,
    ensure_list,
    find,
    is_suppressed,
    leave,
    list_by_slug,
    suppress,
)
from subscribers.models import ConsentEvent, MailingList, Reason, State, Subscriber, Subscription, Suppression
from subscribers.tokens import new_link

__all__ = [
    "PAUSED",
    "SUPPRESSED",
    "AddressError",
    "ConsentEvent",
    "Instant",
    "Mailbox",
    "MailingList",
    "NotAllowed",
    "Reason",
    "State",
    "Subscriber",
    "SubscriberError",
    "Subscription",
    "Suppression",
    "Table",
    "TokenError",
    "UnknownList",
    "add_confirmed",
    "ask",
    "audience",
    "choice",
    "confirm",
    "confirmation_token",
    "connect",
    "ensure_list",
    "find",
    "is_suppressed",
    "leave",
    "list_by_slug",
    "new_link",
    "parse",
    "reading",
    "suppress",
    "transaction",
]
