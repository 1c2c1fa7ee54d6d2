"""What an edition is made of: Contents, Message, Recipient, Receipt, Event. Values only, no I/O.

A Message is compiled once and filled for each recipient. What is open in it are **fields**, spelled with a nonce that
occurs nowhere in the briefs (`[[d4f0a1.h.name]]`), so that text which happens to look like a field stays text. A field
is spelled apart for HTML (`h`, value escaped) and for text (`t`, value plain).
"""

import hashlib
import html
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NewType, Self

from newsletter.brief import Brief
from newsletter.schedule import Slot
from newsletter.settings import Newsletter, Site

DeliveryId = NewType("DeliveryId", str)
"""Names one recipient's copy to the world: stable, unguessable, not personal. At most 32 of a-z and 0-9."""
AttemptId = NewType("AttemptId", str)
"""Names one call to a provider."""

FIELDS = {
    "name": "the recipient's name, else their address",
    "address": "the address this copy goes to",
    "leave_url": "the page to leave by, the same as in List-Unsubscribe",
    "preferences_url": "the page to ask for a preferences link",
}
"""Every field a template may use, and what it is filled with."""

LONGEST_VALUE = {"name": 80, "address": 120, "leave_url": 120, "preferences_url": 120}
"""Bytes that a filled field is reckoned with when a Message is measured: longer than nearly all real ones."""


@dataclass(frozen=True)
class Contents:
    """What a template is given: the newsletter, its slot, and the briefs that this edition takes, in order.

    `proof` marks tests, whose links do nothing. `cut` holds the places (from 0) of briefs shortened to "read on".
    """

    newsletter_id: str
    newsletter: Newsletter
    site: Site
    slot: Slot
    briefs: tuple[Brief, ...]
    nonce: str
    proof: bool = False
    cut: frozenset[int] = frozenset()

    @property
    def view_url(self) -> str:
        """Where this edition stands in the archive, without personal parts."""
        return f"{self.site.url}/e/{self.newsletter_id}/{self.slot.local:%Y-%m-%d-%H%M}"

    @property
    def sign_up_url(self) -> str:
        """Where a reader of a forwarded copy signs up."""
        return self.site.sign_up_url or f"{self.site.url}/join/{self.newsletter_id}"

    @property
    def privacy_url(self) -> str:
        """The privacy notice."""
        return self.site.privacy_url or f"{self.site.url}/privacy"

    @property
    def postal_address(self) -> str:
        """The postal address, of the newsletter or of the site."""
        return self.newsletter.postal_address or self.site.postal_address


@dataclass(frozen=True, slots=True)
class Sender:
    """The constant headers of a newsletter's mails, and where its links begin. Stored with the Message."""

    newsletter_id: str
    from_name: str
    from_address: str
    reply_to: str | None
    list_name: str
    list_id: str
    site_url: str

    def leave_url(self, token: str) -> str:
        """The one-click URL (RFC 8058) of a subscriber's token: at most 60 characters after the host."""
        return f"{self.site_url}/u/{token}/{self.newsletter_id}"

    def preferences_url(self, token: str) -> str:
        """Where a subscriber asks for a fresh link to their preferences."""
        return f"{self.site_url}/p/{token}"


@dataclass(frozen=True, slots=True)
class Blank:
    """One open field in a text. `html` says whether its value is escaped."""

    name: str
    html: bool


@dataclass(frozen=True, slots=True)
class Recipient:
    """One copy's addressee. `name` is None where the list has none; `token` is their random id in links."""

    delivery: DeliveryId
    address: str
    name: str | None
    token: str

    def values(self, sender: Sender) -> dict[str, str]:
        """What each field is filled with, plain."""
        return {
            "name": self.name or self.address,
            "address": self.address,
            "leave_url": sender.leave_url(self.token),
            "preferences_url": sender.preferences_url(self.token),
        }


def spelling(nonce: str, name: str, *, html: bool) -> str:
    """How a field is written in a Message until it is filled."""
    return f"[[{nonce}.{'h' if html else 't'}.{name}]]"


@dataclass(frozen=True, slots=True)
class Message:
    """One compiled form of an edition, with fields still open: what was approved is what goes out.

    `subject` is one line without fields; `html` and `text` hold fields spelled with `nonce`. `slot` is its edition's
    ("2026-11-23T07:00"), None for a mail outside any edition.
    """

    sender: Sender
    subject: str
    html: str
    text: str
    nonce: str
    slot: str | None = None
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        parts = [_facts(self.sender), self.subject, self.html, self.text, self.nonce]
        parts += [self.slot] if self.slot else []  # an edition frozen before there was one keeps its digest
        told = json.dumps(parts, ensure_ascii=False)
        object.__setattr__(self, "digest", hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest())

    def segments(self, part: str) -> Iterator[str | Blank]:
        """A part (its HTML or text) cut at the fields: texts and Blanks in turn, beginning and ending with a text."""
        pieces = re.split(rf"\[\[{re.escape(self.nonce)}\.([ht])\.(\w+)\]\]", part)
        for index in range(0, len(pieces), 3):
            yield pieces[index]
            if index + 2 < len(pieces):
                yield Blank(pieces[index + 2], html=pieces[index + 1] == "h")

    def fill(self, part: str, values: Mapping[str, str]) -> str:
        """A part with its fields filled: escaped in HTML, plain in text."""
        return "".join(
            segment
            if isinstance(segment, str)
            else (html.escape(values[segment.name]) if segment.html else values[segment.name])
            for segment in self.segments(part)
        )

    @property
    def html_bytes(self) -> int:
        """The size of the HTML with its fields filled by long values: what Gmail measures before it clips."""
        return sum(
            len(segment.encode("utf-8", "replace"))
            if isinstance(segment, str)
            else LONGEST_VALUE.get(segment.name, 120)
            for segment in self.segments(self.html)
        )

    def to_json(self) -> dict[str, Any]:
        """For storing: everything but what is derived."""
        return {
            "sender": _facts(self.sender),
            "subject": self.subject,
            "html": self.html,
            "text": self.text,
            "nonce": self.nonce,
            "slot": self.slot,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The Message that `to_json` told."""
        sender = Sender(**data["sender"])
        return cls(sender, data["subject"], data["html"], data["text"], data["nonce"], data.get("slot"))


def _facts(sender: Sender) -> dict[str, Any]:
    return {name: getattr(sender, name) for name in sender.__slots__}


class Result(StrEnum):
    """What a provider says about one recipient's copy."""

    ACCEPTED = "accepted"  # the provider said yes to this one
    REFUSED = "refused"  # permanent, about this recipient
    DEFERRED = "deferred"  # temporary, about this recipient: try again later
    UNKNOWN = "unknown"  # the request was out and no answer came
    NOT_TRIED = "not_tried"  # its turn never came


@dataclass(frozen=True, slots=True)
class Receipt:
    """One recipient's answer.

    `reason` is scrubbed of addresses; `retry_after` is the provider's wish, None where it has none; `provider_id` is
    the provider's name for what it took, None where it gives none.
    """

    delivery: DeliveryId
    result: Result
    reason: str | None = None
    retry_after: timedelta | None = None
    suppress: bool = False
    provider_id: str | None = None


class EventKind(StrEnum):
    """What a provider tells later about a copy, in one vocabulary for all of them."""

    PROCESSED = "processed"  # the provider has begun to deliver it
    DELAYED = "delayed"  # the mailbox's server said "later"; the provider tries again
    DELIVERED = "delivered"  # the mailbox's server took it
    BOUNCED = "bounced"  # the mailbox's server refused it for good: no such mailbox
    BLOCKED = "blocked"  # refused this time: policy, reputation, a full mailbox
    DROPPED = "dropped"  # the provider did not even try: its own list stands against it
    COMPLAINED = "complained"  # the reader called it spam
    LEFT = "left"  # the reader unsubscribed at the provider
    REJOINED = "rejoined"  # and took that back
    OPENED = "opened"
    CLICKED = "clicked"
    UNKNOWN = "unknown"  # a kind this version does not know: kept, never a crash


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that a provider told, after its signature was verified.

    `id` is the provider's own, by which repeats are known. `delivery` and `attempt` are ours, sent along and told back;
    None where the event carries none. Then, and only then, `address` holds the recipient's, to find them by. `reason`
    is scrubbed of addresses. `machine` is True for an opening by a mail client's prefetch. `said` is the provider's
    own word for the kind.
    """

    id: str
    kind: EventKind
    at: datetime
    said: str
    delivery: DeliveryId | None = None
    attempt: AttemptId | None = None
    provider_id: str | None = None
    address: str | None = None
    reason: str | None = None
    machine: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a check-up. `ok` is None where it is advice rather than a verdict."""

    ok: bool | None
    what: str
