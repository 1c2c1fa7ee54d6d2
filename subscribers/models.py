"""The tables of the list. What may happen to their rows is decided in lifecycle.py."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, Column, ForeignKey, Index, Text, UniqueConstraint
from sqlmodel import Field

from subscribers.db import Instant, RowNumber, Table, choice


class State(StrEnum):
    """A subscription's state. Only `confirmed` is mailed."""

    PENDING = "pending"  # asked for, not yet confirmed
    CONFIRMED = "confirmed"  # the person said yes, and the consent log says how
    UNSUBSCRIBED = "unsubscribed"  # the person left
    BOUNCED = "bounced"  # the mailbox refuses for good
    COMPLAINED = "complained"  # the person called it spam


class OptIn(StrEnum):
    """What makes a request to join a list a confirmed subscription."""

    DOUBLE = "double"  # the person opens a link mailed to them, and says yes there
    SINGLE = "single"  # the request itself


class Happening(StrEnum):
    """What the consent log tells."""

    REQUESTED = "requested"  # somebody asked for that address to join
    CONFIRMED = "confirmed"
    EXPIRED = "expired"  # a request that nobody confirmed in time
    LEFT = "left"
    RESTORED = "restored"  # a leaving, pause or narrowing taken back by whoever made it
    PAUSED = "paused"
    RESUMED = "resumed"
    NARROWED = "narrowed"  # fewer topics
    CHANGED = "changed"  # language, zone, topics or address
    BOUNCED = "bounced"
    COMPLAINED = "complained"
    SUPPRESSED = "suppressed"
    UNSUPPRESSED = "unsuppressed"
    ERASED = "erased"


class Wish(StrEnum):
    """What a request wants."""

    JOIN = "join"
    LINK = "link"  # a fresh link to one's own preferences
    CHANGE = "change"  # to be mailed at another address: settled at once, and counted here


class Way(StrEnum):
    """By which way a person's will, or an operator's, came in."""

    FORM = "form"  # a sign-up form
    LINK = "link"  # a link mailed to them, and the button on its page
    HEADER = "header_post"  # the one-click POST of a mail program (RFC 8058)
    PAGE = "page"  # the page behind the link to leave by
    MAIL = "mail"  # a mail to the mailbox in List-Unsubscribe
    PROVIDER = "provider"  # an event of the mail provider
    OPERATOR = "operator"  # a command
    IMPORT = "import"  # a row of a file
    CLOCK = "clock"  # time alone


class Reason(StrEnum):
    """Why an address must not be mailed, whatever any list says."""

    HARD_BOUNCE = "hard_bounce"
    COMPLAINT = "complaint"
    OPERATOR = "operator"
    ERASED = "erased"


class Subscriber(Table, table=True):
    """A person, by their address."""

    __tablename__ = "subscriber"

    id: int | None = Field(default=None, primary_key=True)
    address: str = Field(max_length=254)  # as mailed to
    key: str = Field(max_length=320, unique=True)  # subscribers.address.key of it
    name: str | None = Field(default=None, max_length=100)
    language: str | None = Field(default=None, max_length=35)  # BCP 47; NULL: the newsletter's
    zone: str | None = Field(default=None, max_length=64)  # IANA name; NULL: the newsletter's
    topics: list[Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))  # NULL: all
    link: str = Field(max_length=32, unique=True)  # the random id in the links of their mails (tokens.new_link)
    paused_until: datetime | None = Field(default=None, sa_type=Instant)  # NULL: not paused
    created_at: datetime = Field(sa_type=Instant)
    erased_at: datetime | None = Field(
        default=None, sa_type=Instant
    )  # NULL: not erased. An erased row holds no address; it keeps the count of what was sent, and its old links alive


class MailingList(Table, table=True):
    """A named set of subscriptions."""

    __tablename__ = "mailing_list"

    id: int | None = Field(default=None, primary_key=True)
    slug: str = Field(max_length=64, unique=True)
    name: str = Field(max_length=200)
    description: str = Field(default="", max_length=1000)  # what a person who thinks of joining is told
    public: bool = True  # offered on the sign-up pages, and its newsletters' archives may be indexed
    opt_in: OptIn = Field(default=OptIn.DOUBLE, sa_column=Column(choice(OptIn), nullable=False))
    welcome: bool = False  # whoever confirms gets a welcome notice with the latest edition
    created_at: datetime = Field(sa_type=Instant)


class Subscription(Table, table=True):
    """A person's standing with a list."""

    __tablename__ = "subscription"
    __table_args__ = (UniqueConstraint("list_id", "subscriber_id"),)

    id: int | None = Field(default=None, primary_key=True)
    list_id: int = Field(foreign_key="mailing_list.id")
    subscriber_id: int = Field(
        sa_column=Column(ForeignKey("subscriber.id", ondelete="CASCADE"), nullable=False, index=True)
    )
    state: State = Field(sa_column=Column(choice(State), nullable=False))
    changed_at: datetime = Field(sa_type=Instant)


class ConsentStatement(Table, table=True):
    """Words that consent rests on: the wording of a form, or what an operator said of an import. Each text once."""

    __tablename__ = "consent_statement"

    id: int | None = Field(default=None, primary_key=True)
    hash: str = Field(max_length=64, unique=True)  # SHA-256 of the text
    text: str = Field(sa_column=Column(Text, nullable=False))
    at: datetime = Field(sa_type=Instant)  # when it was first used


class ConsentEvent(Table, table=True):
    """One line of the consent log. Rows are only ever added; `ip` and `agent` are taken out of them after a time."""

    __tablename__ = "consent_event"

    id: int | None = Field(default=None, primary_key=True, sa_type=RowNumber)
    at: datetime = Field(sa_type=Instant)
    subscriber_id: int | None = Field(
        default=None, sa_column=Column(ForeignKey("subscriber.id", ondelete="SET NULL"), index=True)
    )  # NULL: the person never confirmed, and was deleted
    list_id: int | None = Field(default=None, foreign_key="mailing_list.id")  # NULL: of no single list
    event: Happening = Field(sa_column=Column(choice(Happening), nullable=False))
    actor: str = Field(max_length=100)  # who did it: "operator:NAME", "subscriber", "program"
    way: Way | None = Field(default=None, sa_column=Column(choice(Way)))  # NULL: from before it was kept
    form: str | None = Field(default=None, max_length=200)  # the page with the form, or the file; NULL: neither
    statement_id: int | None = Field(default=None, foreign_key="consent_statement.id")  # NULL: no words were shown
    evidence: str | None = Field(default=None, max_length=1000)  # a note on this one event
    ip: str | None = Field(default=None, max_length=45)  # NULL: none known, or purged
    agent: str | None = Field(default=None, max_length=300)  # the same
    before: dict[str, Any] | None = Field(
        default=None, sa_column=Column(JSON(none_as_null=True))
    )  # what a pause or narrowing replaced, for undoing it; NULL for other events


class Request(Table, table=True):
    """A wish that came in by a page and was not looked at yet: whoever sent it learns nothing about the address."""

    __tablename__ = "request"
    __table_args__ = (
        Index("ix_request_mailbox_at", "mailbox", "at"),
        Index("ix_request_ip_at", "ip", "at"),
        Index("ix_request_domain_at", "domain", "at"),
    )

    id: int | None = Field(default=None, primary_key=True)
    at: datetime = Field(sa_type=Instant)
    wish: Wish = Field(sa_column=Column(choice(Wish), nullable=False))
    address: str = Field(max_length=254)
    key: str = Field(max_length=320, index=True)
    mailbox: str = Field(max_length=320)  # the key without a “+tag”: one mailbox, for the limits
    domain: str = Field(max_length=255)
    lists: list[str] = Field(sa_column=Column(JSON, nullable=False))  # slugs; empty for a link
    name: str | None = Field(default=None, max_length=100)
    language: str | None = Field(default=None, max_length=35)  # of the page
    form: str | None = Field(default=None, max_length=200)
    statement_id: int | None = Field(default=None, foreign_key="consent_statement.id")
    ip: str | None = Field(default=None, max_length=45)  # of IPv6 the network that one household has, /64
    agent: str | None = Field(default=None, max_length=300)
    counts: bool = True  # for the limit of its address: one that was left does not, or it would shut the owner out
    settled_at: datetime | None = Field(default=None, sa_type=Instant, index=True)  # NULL: not looked at yet
    subscriber_id: int | None = Field(
        default=None, sa_column=Column(ForeignKey("subscriber.id", ondelete="CASCADE"), index=True)
    )  # who asked, by a link of theirs; NULL: a form, so that nobody knows


class AddressChange(Table, table=True):
    """An address that a person wants to be mailed at, until a link mailed there is confirmed or it expires."""

    __tablename__ = "address_change"

    id: int | None = Field(default=None, primary_key=True)
    subscriber_id: int = Field(
        sa_column=Column(ForeignKey("subscriber.id", ondelete="CASCADE"), nullable=False, index=True)
    )
    address: str = Field(max_length=254)
    key: str = Field(max_length=320)
    asked_at: datetime = Field(sa_type=Instant)


class Suppression(Table, table=True):
    """An address that must not be mailed. It stands by key, so that it holds for people who are on no list.

    What lifts it depends on the reason: a hard bounce and an operator's word are lifted by an operator; a complaint by
    an operator and then the person's own fresh opt-in; an erasure by the person's own double opt-in alone. An erased
    person stands here by a keyed hash (`subscribers.erasure`).
    """

    __tablename__ = "suppression"

    key: str = Field(max_length=320, primary_key=True)
    reason: Reason = Field(sa_column=Column(choice(Reason), nullable=False))
    at: datetime = Field(sa_type=Instant)
    note: str | None = Field(default=None, max_length=500)
