"""The web application: routes put together, guarded, and errors turned into pages.

Whatever a visitor gets wrong is a plain page with the right status; nothing they send is quoted back, and no page holds
anything but what was asked for. GET and HEAD change nothing anywhere (promise 8).
"""

import logging
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, PlainTextResponse
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnection
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from newsletter import people
from newsletter.errors import ConfigurationError, WebhookRejected
from newsletter.newsroom import Newsroom
from newsletter.web import hooks
from newsletter.web.forms import TooLarge
from newsletter.web.public import router
from newsletter.web.rendering import STYLE, Pages
from newsletter.work import Beside
from subscribers import ErasureKeyError, NotAllowed, SpentError, TokenError, UnknownList

_log = logging.getLogger("newsletter.web")
_YEAR = 31_536_000  # seconds
_LAST_WORDS = 10  # seconds that requests under way have at the end; ours take milliseconds


def create_app(newsroom: Newsroom, *, work: bool = True, scheduler: bool = False) -> FastAPI:
    """The application over an open Newsroom; with `work`, it sends notices and keeps house beside serving pages.

    As a `scheduler` it sends editions beside them, too.

    Raises ConfigurationError where the pages cannot stand at the root of `site.url`. A secret that is missing stops no
    leaving: it is told in the log, and the pages that need it answer with status 503.
    """
    settings = newsroom.settings
    if urlsplit(settings.site.url).path:
        raise ConfigurationError("site.url: expected an address without a path, since the pages stand at its root")
    for fault in people.secret_faults(newsroom):
        _log.error("web.secret: %s", fault.what)
    pages = Pages(newsroom.settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        beside = Beside(settings.file, scheduler=scheduler) if work else None
        if beside:
            beside.start()
        yield
        if beside:
            await run_in_threadpool(beside.stop)

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.include_router(router(newsroom, pages))
    app.include_router(hooks.router(newsroom))
    app.include_router(_plain())
    _tell(app, pages)
    app.add_middleware(_Guard, pages=pages, secure=newsroom.settings.site.url.startswith("https://"))
    return app


class _Server(uvicorn.Server):
    """A server for which SIGTERM and Ctrl-C are the ordinary end: requests under way are finished, and that is all."""

    ready: Callable[[], None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say so when it is done."""
        await super().startup(sockets)
        self.ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at a signal; uvicorn's own way would raise it again afterwards, as if something had gone wrong."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def serve(newsroom: Newsroom, listener: socket.socket, ready: Callable[[], None], *, scheduler: bool = False) -> None:
    """Serve the pages on a listening socket until SIGTERM or Ctrl-C; `ready` is called once they are served.

    Raises ConfigurationError as `create_app` does. There is no access log: it would hold paths, and paths hold links.
    """
    config = uvicorn.Config(
        create_app(newsroom, scheduler=scheduler),
        log_config=None,
        access_log=False,
        proxy_headers=False,  # who is trusted to name a visitor is ours to judge: `forms.Visitor`
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=_LAST_WORDS,
    )
    server = _Server(config)
    server.ready = ready
    server.run(sockets=[listener])


def _plain() -> APIRouter:
    """What is the same for everybody."""
    routes = APIRouter()

    @routes.get("/style.css")
    def style() -> Response:
        headers = {"Cache-Control": f"public, max-age={_YEAR}, immutable"}  # its address changes with it
        return FileResponse(STYLE, media_type="text/css", headers=headers)

    @routes.get("/robots.txt")
    def robots() -> Response:
        # What may be indexed says so by itself; links of mails are not for robots at all.
        lines = ["User-agent: *", *(f"Disallow: /{part}/" for part in "acmpu")]
        return PlainTextResponse("\n".join(lines) + "\n")

    @routes.get("/health")
    async def health() -> Response:  # takes no thread, so that it answers while all of them wait for the database
        return PlainTextResponse("ok\n", headers={"Cache-Control": "no-store"})

    @routes.get("/favicon.ico")
    def icon() -> Response:
        return Response(status_code=204)

    return routes


def _tell(app: FastAPI, pages: Pages) -> None:
    """Turn errors into pages. The one place where they get a status."""

    def page(request: Request, status: int, what: str, retry_url: str | None = None) -> Response:
        return pages.page(request, "error", pages.language(request), status=status, what=what, retry_url=retry_url)

    def bad_link(request: Request, error: Exception) -> Response:
        gone = isinstance(error, SpentError)
        fresh = "/preferences" if request.url.path.startswith(("/m/", "/a/")) else None
        return page(request, 410 if gone else 404, "expired" if gone else "damaged", fresh)

    def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        made = page(request, error.status_code, {404: "missing", 429: "many"}.get(error.status_code, "bad"))
        made.headers.update(error.headers or {})
        return made

    def busy(request: Request, error: Exception) -> Response:
        _log.warning("web.busy: %s: %s", _route(request), getattr(error, "orig", ""))
        made = page(request, 503, "broken")
        made.headers["Retry-After"] = "30"
        return made

    def closed(request: Request, error: Exception) -> Response:
        _log.warning("web.closed: %s: %s", _route(request), error)
        return page(request, 503, "closed")

    def rejected(_: Request, error: Exception) -> Response:
        assert isinstance(error, WebhookRejected)
        _log.warning("web.hook.rejected: %s", error)
        return PlainTextResponse("rejected\n", 400 if error.signed else 403)

    app.add_exception_handler(WebhookRejected, rejected)
    app.add_exception_handler(TokenError, bad_link)
    app.add_exception_handler(ErasureKeyError, closed)
    app.add_exception_handler(ConfigurationError, closed)  # a secret that is missing
    app.add_exception_handler(NotAllowed, lambda request, _: page(request, 409, "refused"))
    app.add_exception_handler(UnknownList, lambda request, _: page(request, 404, "missing"))
    app.add_exception_handler(TooLarge, lambda request, _: page(request, 413, "bad"))
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, lambda request, _: page(request, 400, "bad"))
    app.add_exception_handler(DataError, lambda request, _: page(request, 404, "missing"))  # a NUL: of no text there
    app.add_exception_handler(NoConnection, busy)  # all of this process's connections wait for something
    app.add_exception_handler(OperationalError, busy)  # another process holds the database longer than we wait


def _route(request: Request) -> str:
    """The route's pattern, never the path: paths hold links."""
    return str(getattr(request.scope.get("route"), "path", "?"))


Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class _Guard:
    """The headers that every answer has, HEAD answered as GET without its body, and a page for whatever breaks."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], *, pages: Pages, secure: bool) -> None:
        self._app, self._pages = app, pages
        headers = {
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",  # addresses of pages hold links
            "Cross-Origin-Opener-Policy": "same-origin",
            "Permissions-Policy": "interest-cohort=(), browsing-topics=()",
        }
        if secure:
            headers["Strict-Transport-Security"] = f"max-age={_YEAR}"
        self._headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        head = scope["method"] == "HEAD"
        if head:
            scope = {**scope, "method": "GET"}

        started = False

        async def guarded(message: dict[str, Any]) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": [*message["headers"], *self._headers]}
            elif message["type"] == "http.response.body" and head:
                message = {**message, "body": b""}
            await send(message)

        try:
            await self._app(scope, receive, guarded)
        except Exception as error:
            if started:
                raise
            # Here and not in a handler: those for Exception stand outside of this, and log it a second time.
            request = Request(scope, receive)
            _log.error("web.broken: %s", _route(request), exc_info=error)
            language = self._pages.language(request)
            page = self._pages.page(request, "error", language, status=500, what="broken", retry_url=None)
            await page(scope, receive, guarded)  # type: ignore[arg-type] # ASGI's own
