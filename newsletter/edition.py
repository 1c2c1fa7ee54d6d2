"""What an edition is made of: Contents, Message, Recipient, Receipt, Event. Values only, no I/O.

A Message is compiled once and filled for each recipient. What is open in it are **fields**, spelled with a nonce that
occurs nowhere in the briefs (`[[d4f0a1.h.name]]`), so that text which happens to look like a field stays text. A field
is spelled apart for HTML (`h`, value escaped) and for text (`t`, value plain).
"""

import hashlib
import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import repeat
from typing import Any, NamedTuple, NewType, Self

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

NOTICE_FIELDS = {**FIELDS, "action_url": "what the notice is about: the link that confirms, or opens the preferences"}
"""The same for the templates of notices."""

LONGEST_VALUE = {"name": 80, "address": 120, "leave_url": 120, "preferences_url": 120, "action_url": 120}
"""Bytes that a filled field is reckoned with when a Message is measured: longer than nearly all real ones."""


@dataclass(frozen=True, slots=True)
class Correction:
    """A brief of an edition that was corrected since, or withdrawn: then it has no `headline`."""

    headline: str | None
    at: datetime

    def __str__(self) -> str:
        return f"corrected: {self.headline}" if self.headline else "a brief was withdrawn"


@dataclass(frozen=True)
class Contents:
    """What a template is given: the newsletter, its slot, and the briefs that this edition takes, in order.

    `proof` marks tests, whose links do nothing. `cut` holds the places (from 0) of briefs shortened to "read on".
    `corrections` tell what was changed in it after it was first made.
    """

    newsletter_id: str
    newsletter: Newsletter
    site: Site
    slot: Slot
    briefs: tuple[Brief, ...]
    nonce: str
    proof: bool = False
    cut: frozenset[int] = frozenset()
    corrections: tuple[Correction, ...] = ()

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
class Latest:
    """The newest edition that anybody may read: its subject, its path on the site, and its headlines."""

    subject: str
    path: str
    headlines: tuple[str, ...]


@dataclass(frozen=True)
class NoticeContents:
    """What a notice's template is given. `lists` are names; `latest` is for a welcome, None where there is none yet."""

    kind: str
    newsletter_id: str
    newsletter: Newsletter
    site: Site
    language: str
    nonce: str
    lists: tuple[str, ...]
    latest: Latest | None
    link_lasts: timedelta
    request_lasts: timedelta

    @property
    def privacy_url(self) -> str:
        """The privacy notice."""
        return self.site.privacy_url or f"{self.site.url}/privacy"

    @property
    def postal_address(self) -> str:
        """The postal address, of the newsletter or of the site."""
        return self.newsletter.postal_address or self.site.postal_address


class Urgency(StrEnum):
    """What a notice to the desk asks of whoever reads it."""

    NEWS = "news"  # nothing: all went as it should
    LOOK = "look"  # to look into it in the course of the day
    NOW = "now"  # to act: readers wait for it
    OVER = "over"  # nothing any more: what was told before is over


@dataclass(frozen=True, slots=True)
class Said:
    """What the desk is told, by whatever channel. It names no subscriber.

    `rows` are (label, value); `command` is what to run, None where there is nothing to be done.
    """

    heading: str
    rows: tuple[tuple[str, str], ...] = ()
    paragraphs: tuple[str, ...] = ()
    command: str | None = None
    urgency: Urgency = Urgency.NEWS

    def to_json(self) -> dict[str, Any]:
        """For storing."""
        return {
            "heading": self.heading,
            "rows": [list(row) for row in self.rows],
            "paragraphs": list(self.paragraphs),
            "command": self.command,
            "urgency": self.urgency.value,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What `to_json` told."""
        rows = tuple((label, value) for label, value in data["rows"])
        return cls(data["heading"], rows, tuple(data["paragraphs"]), data["command"], Urgency(data["urgency"]))


@dataclass(frozen=True)
class DeskContents:
    """What the template of a mail to the desk is given. The newsletter is whose sender it comes from."""

    newsletter_id: str
    newsletter: Newsletter
    site: Site
    subject: str
    said: Said
    nonce: str


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
    leave_mailbox: str | None = None

    def leave_mail(self, token: str) -> str | None:
        """The same as a mail (RFC 2369): its subject says who leaves what. None where no mailbox takes them."""
        if self.leave_mailbox is None:
            return None
        return f"mailto:{self.leave_mailbox}?subject=unsubscribe%20{token}%20{self.newsletter_id}"

    def leave_url(self, token: str) -> str:
        """The one-click URL (RFC 8058) of a subscriber's token: at most 60 characters after the host."""
        return f"{self.site_url}/u/{token}/{self.newsletter_id}"

    def preferences_url(self, token: str) -> str:
        """Where a subscriber asks for a fresh link to their preferences."""
        return f"{self.site_url}/p/{token}"

    def archive_values(self) -> dict[str, str]:
        """What each field says in the archive, where an edition is nobody's copy: nothing personal, pages for all."""
        return {
            "name": "reader",
            "address": "the address of its subscriber",
            "leave_url": f"{self.site_url}/leave/{self.newsletter_id}",
            "preferences_url": f"{self.site_url}/preferences",
        }


@dataclass(frozen=True, slots=True)
class Blank:
    """One open field in a text. `html` says whether its value is escaped."""

    name: str
    html: bool


class Recipient(NamedTuple):
    """One copy's addressee. `name` is None where the list has none; `token` is their random id in links.

    `action` is where the link of a notice leads, empty in an edition. A tuple, as is a Receipt: a frozen dataclass
    takes four times as long to make, and there is one of each for every copy.
    """

    delivery: DeliveryId
    address: str
    name: str | None
    token: str
    action: str = ""

    def values(self, sender: Sender) -> dict[str, str]:
        """What each field is filled with, plain."""
        return {
            "name": self.name or self.address,
            "address": self.address,
            "leave_url": sender.leave_url(self.token),
            "preferences_url": sender.preferences_url(self.token),
            "action_url": self.action,
        }


def recipients_of(
    deliveries: Iterable[DeliveryId], addresses: Iterable[str], names: Iterable[str | None], tokens: Iterable[str]
) -> tuple[Recipient, ...]:
    """Recipients out of columns: a third of the time of making one after the other."""
    rows = zip(deliveries, addresses, names, tokens, repeat(""))
    return tuple(map(tuple.__new__, repeat(Recipient), rows))


def spelling(nonce: str, name: str, *, html: bool) -> str:
    """How a field is written in a Message until it is filled."""
    return f"[[{nonce}.{'h' if html else 't'}.{name}]]"


@dataclass(frozen=True, slots=True)
class Message:
    """One compiled form of an edition, with fields still open: what was approved is what goes out.

    `subject` is one line without fields; `html` and `text` hold fields spelled with `nonce`. `slot` is its edition's
    ("2026-11-23T07:00"), None for a mail outside any edition. `auto` marks a notice that answers a request: it says so
    (RFC 3834), and belongs to no list.
    """

    sender: Sender
    subject: str
    html: str
    text: str
    nonce: str
    slot: str | None = None
    auto: bool = False
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        parts = [_facts(self.sender), self.subject, self.html, self.text, self.nonce]
        parts += [self.slot] if self.slot else []  # an edition frozen before there was one keeps its digest
        parts += ["auto"] if self.auto else []
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

    def archived(self) -> Self:
        """This mail for the archive, its fields filled with what is nobody's."""
        values = self.sender.archive_values()
        return replace(self, html=self.fill(self.html, values), text=self.fill(self.text, values))

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
    """Its fields. What is absent and was not always there is left out, so that old digests still fit."""
    told = {name: getattr(sender, name) for name in sender.__slots__}
    return {name: value for name, value in told.items() if name != "leave_mailbox" or value is not None}


class Result(StrEnum):
    """What a provider says about one recipient's copy."""

    ACCEPTED = "accepted"  # the provider said yes to this one
    REFUSED = "refused"  # permanent, about this recipient
    DEFERRED = "deferred"  # temporary, about this recipient: try again later
    UNKNOWN = "unknown"  # the request was out and no answer came
    NOT_TRIED = "not_tried"  # its turn never came


class Receipt(NamedTuple):
    """One recipient's answer.

    `reason` is scrubbed of addresses; `retry_after` is the provider's wish, None where it has none; `provider_id` is
    the provider's name for what it took, None where it gives none. `suppress` is True where the refusal says that there
    is no such mailbox. `held_until` is until when the provider keeps back what it took, None where it does not.
    """

    delivery: DeliveryId
    result: Result
    reason: str | None = None
    retry_after: timedelta | None = None
    suppress: bool = False
    provider_id: str | None = None
    held_until: datetime | None = None


def accepted(deliveries: Iterable[DeliveryId], provider_id: str | None) -> list[Receipt]:
    """Receipts for a call that was accepted whole: a third of the time of making one after the other."""
    rows = zip(
        deliveries,
        repeat(Result.ACCEPTED),
        repeat(None),
        repeat(None),
        repeat(False),  # noqa: FBT003 # a column of it
        repeat(provider_id),
        repeat(None),
    )
    return list(map(tuple.__new__, repeat(Receipt), rows))


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
    own word for the kind. `listed` is what a list of the provider's holds against the address of a copy that it
    dropped: BOUNCED, COMPLAINED or LEFT; None where it dropped it for a reason that is not the recipient's.
    `of_sender` is True for a copy that was BLOCKED for the sake of its sender: reputation, content, volume.
    `vouched` is False where no signature stands behind it, so that only what knows a delivery's name is believed.
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
    listed: EventKind | None = None
    of_sender: bool = False
    vouched: bool = True


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a check-up. `ok` is None where it is advice rather than a verdict."""

    ok: bool | None
    what: str
