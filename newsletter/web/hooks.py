"""Where providers post what became of mails: `/hooks/` and the provider's name.

Who posts is told by the signature alone, which is over the very bytes; so there is no cookie, no token and no origin to
look at. An answer of 2xx is given after the commit and never before: until then the provider tries again.
"""

import asyncio
import logging

from fastapi import APIRouter, HTTPException, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from newsletter.newsroom import Newsroom
from newsletter.web.forms import TooLarge

SIGNED = frozenset(("sendgrid",))  # whose posts are: what anybody may write comes in by no address of ours
LARGEST_BYTES = 5_000_000  # SendGrid posts at most 768 kB at a time (Event Webhook reference)
_AT_ONCE = 8  # posts that are held in memory; more of them are told to come again
_SLOWEST = 30.0  # seconds for a body to arrive
_log = logging.getLogger("newsletter.web")


def router(newsroom: Newsroom) -> APIRouter:
    """The route over an open Newsroom."""
    routes = APIRouter()
    hooks = Hooks(newsroom)
    routes.add_api_route("/hooks/{provider}", hooks.post, methods=["POST"])
    return routes


class Hooks:
    """Takes posts one after the other, in a thread, so that pages are served meanwhile."""

    def __init__(self, newsroom: Newsroom) -> None:
        self._newsroom = newsroom
        self._held = 0
        self._turn = asyncio.Lock()  # SQLite has one writer: threads that wait for it would be taken from the pages

    async def post(self, provider: str, request: Request) -> Response:
        """Take what a provider tells. 204 when it is on record."""
        if provider not in SIGNED or provider != self._newsroom.settings.provider.kind:
            raise HTTPException(404)
        if self._held >= _AT_ONCE:
            raise HTTPException(503, headers={"Retry-After": "10"})
        self._held += 1
        try:
            body = await _body(request)
            # Read while the one before is written, which is mostly to wait for the disk.
            events = await run_in_threadpool(self._newsroom.provider.events, request.headers, body)
            async with self._turn:
                taken = await run_in_threadpool(self._newsroom.take, events)
        finally:
            self._held -= 1
        _log.info(
            "web.hook.taken: %s: %d events, %d new, %d suppressed", provider, taken.told, taken.new, taken.suppressed
        )
        return Response(status_code=204)


async def _body(request: Request) -> bytes:
    """The body as it came, within limits of size and time. Raises TooLarge."""
    told = request.headers.get("content-length", "")
    if told.isdigit() and int(told[:20]) > LARGEST_BYTES:
        raise TooLarge
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(_SLOWEST):
            async for piece in request.stream():
                size += len(piece)
                if size > LARGEST_BYTES:
                    raise TooLarge
                pieces.append(piece)
    except ClientDisconnect:
        raise HTTPException(400) from None
    except TimeoutError:
        raise HTTPException(408) from None
    return b"".join(pieces)
