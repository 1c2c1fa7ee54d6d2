"""What visitors send: forms read within limits, where they come from, and whether a person had time to fill them in."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import Depends, HTTPException, Request
from starlette.datastructures import FormData
from starlette.requests import ClientDisconnect

import subscribers
from subscribers import AddressError, Mailbox, Origin, TokenError, Way, tokens

LARGEST_FORM_BYTES = 64_000  # the longest of our forms, with all topics chosen, is 5 kB
FORM_LASTS = timedelta(hours=12)  # a page may stay open over a working day
_FIELDS = 200
_LONGEST_TEXT = 500
_LONGEST_WAY = 2_000  # characters of X-Forwarded-For: some forty addresses
_FORM = "form"  # the purpose of a ticket


class TooLarge(Exception):
    """A body larger than any form of ours."""


async def posted(request: Request) -> FormData:
    """The fields of a form, urlencoded or multipart. A body that is neither gives none. Raises TooLarge."""
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > LARGEST_FORM_BYTES:
                raise TooLarge
    except ClientDisconnect:
        raise HTTPException(400) from None

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": bytes(body), "more_body": False}

    try:
        return await Request(request.scope, receive).form(max_files=0, max_fields=_FIELDS)
    except Exception:  # noqa: BLE001 # whatever the parser trips over, it is no form
        return FormData()


async def posted_leniently(request: Request) -> FormData:
    """The same, but a body that is too large is none either: it may still be somebody who wants to leave."""
    try:
        return await posted(request)
    except TooLarge:
        return FormData()


LenientForm = Annotated[FormData, Depends(posted_leniently)]
Form = Annotated[FormData, Depends(posted)]


def text(form: FormData, name: str) -> str:
    """A field of a form, cut to what any of ours may hold; empty where there is none."""
    return next(iter(texts(form, name)), "")


def texts(form: FormData, name: str) -> list[str]:
    """All values of a field that may be there several times."""
    said = (value for value in form.getlist(name) if isinstance(value, str))
    return [value.encode("utf-8", "replace").decode().strip()[:_LONGEST_TEXT] for value in said]


def _without_port(hop: str) -> str:
    """An address as proxies write it, "203.0.113.9:4711" and "[2001:db8::1]:4711", without its port."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


@dataclass(frozen=True)
class Visitor:
    """Who sends a request, as far as the network tells: for limits and for the consent log."""

    trusted: Sequence[str]

    def ip(self, request: Request) -> str | None:
        """The visitor's network, through the proxies that are trusted and no further."""
        # Several lines are one list (RFC 9110, 5.3). Its end is the nearest proxy's word; the rest may be anybody's.
        told = ",".join(request.headers.getlist("x-forwarded-for"))[-_LONGEST_WAY:]
        hops = [hop.strip() for hop in told.split(",")]
        address = request.client.host if request.client else None
        while hops and self._is_trusted(address):
            address = _without_port(hops.pop())
        return subscribers.network_of(address)

    def _is_trusted(self, address: str | None) -> bool:
        try:
            found = ipaddress.ip_address(address or "")
        except ValueError:
            return False
        found = getattr(found, "ipv4_mapped", None) or found
        return any(found in ipaddress.ip_network(network) for network in self.trusted)

    def origin(self, request: Request, way: Way, *, wording: str | None = None) -> Origin:
        """Where a wish comes from. Of the path only its first part is kept: the rest may be a link."""
        form = "/" + request.url.path.strip("/").partition("/")[0]
        if form == "/join":
            form = request.url.path[:100]
        agent = request.headers.get("user-agent", "")
        clean = "".join(c if c.isprintable() else " " for c in agent)[:300].strip()
        return Origin(way, form, wording, self.ip(request), clean or None)


def mailbox_of(typed: str) -> Mailbox | None:
    """The address that was typed, without a name beside it; None where it is none."""
    try:
        mailbox = subscribers.parse(typed)
    except AddressError:
        return None
    return Mailbox(mailbox.address, mailbox.key) if "<" not in typed else None


def days_of(form: FormData, name: str, most: int) -> int:
    """A number of days, at most so many; 0 where there is none."""
    value = text(form, name)[:6]
    return min(int(value), most) if value.isascii() and value.isdigit() else 0


def ticket(form: str, now: datetime, secret: bytes) -> str:
    """Says when a form was shown, so that one that comes back at once, or after days, is told from a person's."""
    return tokens.sign(f"{_FORM} {form}", max(1, int(now.timestamp())), now + FORM_LASTS, secret)


def ticket_fault(form: str, given: str, fastest: timedelta, now: datetime, secret: bytes) -> str | None:
    """What is wrong with a form's ticket: "soon", "again" (too late, or none of that form's), or None."""
    try:
        shown = tokens.verify(given, f"{_FORM} {form}", now, secret)
    except TokenError:
        return "again"
    return "soon" if now.timestamp() - shown < fastest.total_seconds() else None
