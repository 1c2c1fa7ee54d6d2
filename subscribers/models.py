"""The tables of the list. What may happen to their rows is decided in lifecycle.py."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, Column, ForeignKey, UniqueConstraint
from sqlmodel import Field

from subscribers.db import Instant, Table, choice


class State(StrEnum):
    """A subscription's state. Only `confirmed` is mailed."""

    PENDING = "pending"  # asked for, not yet confirmed
    CONFIRMED = "confirmed"  # the person said yes, and the consent log says how
    UNSUBSCRIBED = "unsubscribed"  # the person left
    BOUNCED = "bounced"  # the mailbox refuses for good
    COMPLAINED = "complained"  # the person called it spam


class Happening(StrEnum):
    """What the consent log tells."""

    REQUESTED = "requested"
    CONFIRMED = "confirmed"
    LEFT = "left"
    SUPPRESSED = "suppressed"
    UNSUPPRESSED = "unsuppressed"


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


class MailingList(Table, table=True):
    """A named set of subscriptions."""

    __tablename__ = "mailing_list"

    id: int | None = Field(default=None, primary_key=True)
    slug: str = Field(max_length=64, unique=True)
    name: str = Field(max_length=200)
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


class ConsentEvent(Table, table=True):
    """One line of the consent log. Rows are only ever added."""

    __tablename__ = "consent_event"

    id: int | None = Field(default=None, primary_key=True)
    at: datetime = Field(sa_type=Instant)
    subscriber_id: int | None = Field(
        default=None, sa_column=Column(ForeignKey("subscriber.id", ondelete="SET NULL"), index=True)
    )  # NULL: the person was erased since
    list_id: int | None = Field(default=None, foreign_key="mailing_list.id")  # NULL: of no single list
    event: Happening = Field(sa_column=Column(choice(Happening), nullable=False))
    actor: str = Field(max_length=100)  # who did it: "operator:NAME", "subscriber"
    evidence: str | None = Field(default=None, max_length=1000)  # how the person's will is known


class Suppression(Table, table=True):
    """An address that must not be mailed. It stands by key, so that it holds for people who are on no list."""

    __tablename__ = "suppression"

    key: str = Field(max_length=320, primary_key=True)
    reason: Reason = Field(sa_column=Column(choice(Reason), nullable=False))
    at: datetime = Field(sa_type=Instant)
    note: str | None = Field(default=None, max_length=500)
