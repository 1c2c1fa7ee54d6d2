"""What an edition is made of: Contents, Message, Recipient, Receipt. Values only, no I/O.

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
from datetime import timedelta
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

    `subject` is one line without fields; `html` and `text` hold fields spelled with `nonce`.
    """

    sender: Sender
    subject: str
    html: str
    text: str
    nonce: str
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        told = json.dumps([_facts(self.sender), self.subject, self.html, self.text, self.nonce], ensure_ascii=False)
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
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The Message that `to_json` told."""
        return cls(Sender(**data["sender"]), data["subject"], data["html"], data["text"], data["nonce"])


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

    `reason` is scrubbed of addresses; `retry_after` is the provider's wish, None where it has none.
    """

    delivery: DeliveryId
    result: Result
    reason: str | None = None
    retry_after: timedelta | None = None
    suppress: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a check-up. `ok` is None where it is advice rather than a verdict."""

    ok: bool | None
    what: str
