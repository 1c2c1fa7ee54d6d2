"""What subscribers meet: joining, confirming, leaving, and the archive. All without JavaScript.

GET shows, POST acts, and no page sets a cookie: a link is all the right that its bearer has. The link in a digest may
only leave, pause or narrow, since digests are forwarded; more takes a fresh link, mailed to the address on file. A page
that takes an address says the same to everybody, at once: nobody is looked up before the answer is out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlencode

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from sqlmodel import Session
from starlette.datastructures import FormData

import subscribers
from newsletter import archive, languages, people
from newsletter.newsroom import Newsroom
from newsletter.settings import Newsletter
from newsletter.web.face import LONGEST_PAUSE_DAYS, Face, pauses
from newsletter.web.forms import Form, LenientForm, days_of, mailbox_of, text, texts
from newsletter.web.rendering import EDITION_POLICY, EMBEDDED_POLICY, POLICY, Pages
from newsletter.web.rights import Rights
from subscribers import (
    Asked,
    Done,
    ErasureKeyError,
    MailingList,
    NotAllowed,
    Origin,
    State,
    Subscriber,
    Way,
    Wish,
    reading,
    transaction,
)

_EDITIONS = 30  # a page of the archive
_PAGE = "page"  # in the address that the page behind the link to leave by posts to: a mail program's POST has it not
_CHOICES = frozenset(("this", "all", "topics", "pause", "undo"))


def router(newsroom: Newsroom, pages: Pages) -> APIRouter:
    """The routes over an open Newsroom. HEAD is answered as GET, in `app`."""
    routes = APIRouter()
    public, rights = Public(newsroom, pages), Rights(newsroom, pages)
    for path, get in (
        ("/", public.index),
        ("/join/{name}", public.join),
        ("/join/{name}/form", public.embed),
        ("/c/{token}", public.confirm),
        ("/u/{link}/{name}", public.leave),
        ("/leave/{name}", rights.leave_by_address),
        ("/preferences", rights.ask_preferences),
        ("/p/{link}", rights.ask_by_link),
        ("/m/{token}", rights.preferences),
        ("/a/{token}", rights.change),
        ("/privacy", rights.privacy),
        ("/e/{name}", public.archive),
        ("/e/{name}/feed.atom", public.feed),
        ("/e/{name}/{stamp}", public.edition),
    ):
        routes.add_api_route(path, get, methods=["GET"], response_class=HTMLResponse)
    for path, post in (
        ("/join/{name}", public.post_join),
        ("/c/{token}", public.post_confirm),
        ("/u/{link}/{name}", public.post_leave),
        ("/leave/{name}", rights.post_leave_by_address),
        ("/preferences", rights.post_ask_preferences),
        ("/p/{link}", rights.post_ask_by_link),
        ("/m/{token}", rights.post_preferences),
        ("/a/{token}", rights.post_change),
    ):
        routes.add_api_route(path, post, methods=["POST"], response_class=HTMLResponse)
    return routes


@dataclass(frozen=True)
class _Offer:
    """What a sign-up page offers: a newsletter's public lists, or one list by itself."""

    name: str
    title: str
    tagline: str | None
    lists: list[MailingList]
    newsletter_id: str | None


class Public(Face):
    """The pages, each a method: GET by its name, POST as `post_` and its name."""

    def __init__(self, newsroom: Newsroom, pages: Pages) -> None:
        super().__init__(newsroom, pages)
        # Asked once: the page that takes an address reads nothing of people. What was asked for meanwhile is held.
        self._knows_erased = people.knows_erased(newsroom)

    # -------------------------------------------------------------------------------------- joining

    def index(self, request: Request) -> Response:
        """What there is to read."""
        with reading(self._newsroom.engine) as session:
            public = {to.slug for to in subscribers.lists(session) if to.public}
        shown = [
            (newsletter.title, newsletter.tagline, f"/join/{name}", f"/e/{name}")
            for name, newsletter in self._settings.newsletters.items()
            if public.intersection(newsletter.lists)
        ]
        return self._pages.page(request, "index", self._pages.language(request), index=True, newsletters=shown)

    def _offer(self, name: str) -> _Offer:
        if not self._knows_erased:
            raise ErasureKeyError(missing=self._settings.erasure_secret is None)
        newsletter = self._settings.newsletters.get(name)
        with reading(self._newsroom.engine) as session:
            found = [to for to in subscribers.lists(session, newsletter.lists if newsletter else [name]) if to.public]
        if not found:
            raise HTTPException(404)
        if newsletter is not None:
            return _Offer(name, newsletter.title, newsletter.tagline, found, name)
        return _Offer(name, found[0].name, found[0].description or None, found, None)

    def _join_page(  # what a form was filled with
        self,
        request: Request,
        offer: _Offer,
        *,
        template: str = "join",
        address: str = "",
        wanted: Sequence[str] | None = None,
        error: str | None = None,
        almost: bool = False,
        status: int = 200,
    ) -> Response:
        language = self._language(request, name=offer.newsletter_id)
        chosen = set(wanted) if wanted is not None else {to.slug for to in offer.lists}
        return self._pages.page(
            request,
            template,
            language,
            status=status,
            index=template == "join" and request.method == "GET",
            policy=EMBEDDED_POLICY if template == "embed" else POLICY,
            name=offer.title,
            tagline=offer.tagline,
            lists=[(to.slug, to.name, to.description, to.slug in chosen) for to in offer.lists],
            action=f"/join/{offer.name}"
            + (f"?{urlencode({'lang': language})}" if "lang" in request.query_params else ""),
            ticket=self._ticket("join"),
            address=address,
            error=error,
            almost=almost,
            wording=self._wording(offer, language),
            archive_url=f"/e/{offer.newsletter_id}" if offer.newsletter_id else None,
        )

    def _wording(self, offer: _Offer, language: str) -> str:
        """The words that are agreed to by asking to join: shown beside the button, and kept in the consent log."""
        _ = languages.words(language).gettext
        return _(
            "By asking, you agree to get %(name)s by e-mail. Each mail has a link to stop it at once. "
            "We keep your address, and the time and place of this request as proof, for nothing else."
        ) % {"name": offer.title}

    def join(self, request: Request, name: str) -> Response:
        """The sign-up form."""
        return self._join_page(request, self._offer(name))

    def embed(self, request: Request, name: str) -> Response:
        """The sign-up form, small, to stand in a frame on the desk's own site."""
        return self._join_page(request, self._offer(name), template="embed")

    def post_join(self, request: Request, name: str, form: Form) -> Response:
        """Take a request to join."""
        offer = self._offer(name)
        typed, given = text(form, "address"), text(form, "ticket")
        offered = {to.slug for to in offer.lists}
        wanted = [slug for slug in dict.fromkeys(texts(form, "list")) if slug in offered]
        if len(offered) == 1:
            wanted = list(offered)
        language = self._language(request, name=offer.newsletter_id)
        asked = self._pages.page(request, "asked", language, purpose="join")
        if text(form, "website"):  # only robots see that field; they learn nothing
            return asked
        if not given:  # a form on somebody else's page
            return self._join_page(request, offer, address=typed, wanted=wanted or None, almost=True)
        mailbox = mailbox_of(typed)
        error = self._ticket_fault("join", given) or ("address" if mailbox is None else None if wanted else "lists")
        if error or mailbox is None:
            return self._join_page(request, offer, address=typed, wanted=wanted, error=error, status=422)
        origin = self._visitor.origin(request, Way.FORM, wording=self._wording(offer, language))
        return self._take(request, Asked(Wish.JOIN, mailbox, tuple(wanted), language), origin, asked)

    def confirm(self, request: Request, token: str) -> Response:
        """What a confirmation link confirms, and the button for it."""
        with reading(self._newsroom.engine) as session:
            found = subscribers.requested(session, token, now=self._now(), secret=self._secret)
            subscriber = session.get_one(Subscriber, found[0].subscriber_id)
            lists, name = _lists_of(session, found), self._newsletter_of(session, found)
            if all(one.state is State.CONFIRMED for one in found):
                return self._confirmed(request, subscriber, lists, name)
            self._need_erasures_known(session)
        return self._pages.page(
            request,
            "confirm",
            self._language(request, subscriber, name),
            lists=[to.name for to in lists],
            action=f"/c/{token}?{urlencode([('shown', one.id) for one in found])}",
            name=self._title(name, lists),
        )

    def post_confirm(self, request: Request, token: str) -> Response:
        """Confirm a request to join, and what else the page showed; a second time says the same."""
        shown = {int(one) for one in request.query_params.getlist("shown")[:100] if one.isascii() and one.isdigit()}
        with transaction(self._newsroom.engine) as session:
            found = subscribers.requested(session, token, now=self._now(), secret=self._secret)
            origin = self._visitor.origin(request, Way.LINK)
            joined = subscribers.confirm(
                session,
                token,
                now=self._now(),
                secret=self._secret,
                origin=origin,
                erasure_secret=self._settings.erasure_secret,
                shown=shown,
            )
            found = [one for one in found if one.state is State.CONFIRMED]
            subscriber = session.get_one(Subscriber, found[0].subscriber_id)
            self._mail(session, list(subscribers.welcomes(session, joined, subscriber.language)))
            lists, name = _lists_of(session, found), self._newsletter_of(session, found)
        return self._confirmed(request, subscriber, lists, name)

    def _confirmed(
        self, request: Request, subscriber: Subscriber, lists: Sequence[MailingList], name: str | None
    ) -> Response:
        return self._pages.page(
            request,
            "confirmed",
            self._language(request, subscriber, name),
            name=self._title(name, lists),
            lists=[to.name for to in lists],
            archive_url=f"/e/{name}" if name else None,
        )

    def _newsletter_of(self, session: Session, of: Sequence[subscribers.Subscription]) -> str | None:
        slugs = [to.slug for to in _lists_of(session, of)]
        return next(filter(None, map(self._settings.newsletter_of_list, slugs)), None)

    # -------------------------------------------------------------------------------------- leaving

    def leave(self, request: Request, link: str, name: str) -> Response:
        """What the link in a digest may do, and one button for it."""
        return self._leave_page(request, link, name)

    def _leave_page(
        self, request: Request, link: str, name: str, *, error: str | None = None, status: int = 200
    ) -> Response:
        with reading(self._newsroom.engine) as session:
            subscriber = self._person(session, link)
            slugs = people.lists_left(session, self._settings, name)
            standing = [
                (to, one)
                for to, one in subscribers.choices(session, subscriber)
                if one in {State.CONFIRMED, State.PENDING}
            ]
            topics = self._topics(session, name, subscriber)
        mine = [(to, one) for to, one in standing if slugs is None or to.slug in slugs]
        now = self._now()
        paused = subscriber.paused_until if subscriber.paused_until and subscriber.paused_until > now else None
        state = "on" if any(one is State.CONFIRMED for _, one in mine) else "pending" if mine else "off"
        language = self._language(request, subscriber, name)
        return self._pages.page(
            request,
            "leave",
            language,
            status=status,
            error=error,
            name=self._title(name, [to for to, _ in mine]),
            lists=[to.name for to, _ in mine],
            action=f"/u/{link}/{name}?{_PAGE}",
            more_lists=len(standing) > len(mine),
            topics=topics if state == "on" else [],
            pauses=pauses(language),
            standing="paused" if state == "on" and paused else state,
            until=self._day(paused, language, subscriber) if paused else None,
            rejoin_url=self._rejoin_url(name),
        )

    def _rejoin_url(self, name: str) -> str:
        return f"/join/{name}" if name in self._settings.newsletters else "/"

    def post_leave(self, request: Request, link: str, name: str, form: LenientForm) -> Response:
        """Leave, pause or narrow, at once. Whatever does not come from our page leaves: a mail program's one click."""
        from_page = _PAGE in request.query_params
        choice = text(form, "choice") if from_page else ""
        if from_page and choice not in _CHOICES:
            return self._leave_page(request, link, name, error="choice", status=422)
        if choice == "topics" and not texts(form, "topic"):
            return self._leave_page(request, link, name, error="topics", status=422)
        now = self._now()
        header = not from_page
        origin = self._visitor.origin(request, Way.HEADER if header else Way.PAGE)
        with transaction(self._newsroom.engine) as session:
            subscriber = self._person(session, link)
            if choice == "undo":
                undone = subscribers.undo(
                    session, text(form, "undo"), subscriber, now=now, secret=self._secret, origin=origin
                )
            elif subscriber.erased_at is not None:  # nothing is left to change, and nothing to be logged
                what, done = "nothing", Done(0)
            else:
                what, done = self._act(session, subscriber, name, choice, form, origin)
        if header:
            return PlainTextResponse("Done: no more mails.\n", headers={"Cache-Control": "no-store"})
        language = self._language(request, subscriber, name)
        title = self._title(name, [])
        if choice == "undo":
            return self._pages.page(request, "undone", language, name=title, changed=bool(undone))
        until = subscriber.paused_until
        return self._pages.page(
            request,
            "left",
            language,
            what=what if done.changed or what in {"this", "all"} else "nothing",
            name=title,
            until=self._day(until, language, subscriber) if until else None,
            # Leaving takes no secret; only without one there is no taking it back.
            undo=subscribers.undo_token(done, now=now, secret=self._secret) if self._settings.secret else None,
            action=f"/u/{link}/{name}?{_PAGE}",
            rejoin_url=self._rejoin_url(name),
        )

    def _act(  # noqa: PLR0917 # who, what, where from
        self, session: Session, subscriber: Subscriber, name: str, choice: str, form: FormData, origin: Origin
    ) -> tuple[str, Done]:
        """Do what a choice says; none leaves."""
        now = self._now()
        if choice == "pause":
            if days := days_of(form, "days", LONGEST_PAUSE_DAYS):
                until = now + timedelta(days=days)
                return "pause", subscribers.pause(
                    session, subscriber, until, now=now, actor="subscriber", origin=origin
                )
            return "nothing", Done(0)
        if choice == "topics":
            offered = {topic for topic, _ in self._topics(session, name, subscriber)}
            chosen = [topic for topic in texts(form, "topic") if topic in offered]
            if set(chosen) == offered:
                return "nothing", Done(0)
            try:
                done = subscribers.narrow(session, subscriber, chosen, now=now, actor="subscriber", origin=origin)
            except NotAllowed:
                return "nothing", Done(0)
            return "topics", done
        slugs = None if choice == "all" else people.lists_left(session, self._settings, name)
        done = subscribers.leave(session, subscriber, slugs, now=now, actor="subscriber", origin=origin)
        return ("all" if slugs is None else "this"), done

    # -------------------------------------------------------------------------------------- the archive

    def _archived(self, name: str) -> Newsletter:
        if name not in self._settings.newsletters:
            raise HTTPException(404)
        return self._settings.newsletters[name]

    def archive(self, request: Request, name: str, before: str | None = None) -> Response:
        """The editions of a newsletter, newest first."""
        newsletter = self._archived(name)
        with reading(self._newsroom.engine) as session:
            filed = archive.editions_of(session, self._settings, name, before=before, limit=_EDITIONS + 1)
            public = archive.is_public(session, self._settings, name)
        language = self._language(request, name=name)
        shown, more = filed[:_EDITIONS], filed[_EDITIONS:]
        return self._pages.page(
            request,
            "archive",
            language,
            index=public,
            name=newsletter.title,
            tagline=newsletter.tagline,
            editions=[
                (
                    languages.date_in(one.slot.instant, language, one.slot.zone),
                    one.subject,
                    list(one.headlines),
                    one.path,
                )
                for one in shown
            ],
            older_url=f"/e/{name}?{urlencode({'before': str(shown[-1].slot)})}" if more else None,
            feed_url=f"/e/{name}/feed.atom",
            join_url=f"/join/{name}",
        )

    def edition(self, request: Request, name: str, stamp: str) -> Response:
        """One edition, as nobody's copy."""
        del request
        with reading(self._newsroom.engine) as session:
            page = archive.edition_page(session, self._settings, name, stamp)
        if page is None:
            raise HTTPException(404)
        headers = {"Content-Security-Policy": EDITION_POLICY, "Content-Language": page.language}
        headers["Cache-Control"] = "public, max-age=300"
        if not page.index:
            headers["X-Robots-Tag"] = "noindex"
        return HTMLResponse(page.html, headers=headers)

    def feed(self, request: Request, name: str) -> Response:
        """The editions as an Atom feed."""
        del request
        self._archived(name)
        with reading(self._newsroom.engine) as session:
            body = archive.feed(session, self._settings, name, self._now())
            public = archive.is_public(session, self._settings, name)
        headers = {"Cache-Control": "public, max-age=300", **({} if public else {"X-Robots-Tag": "noindex"})}
        return Response(body, media_type="application/atom+xml", headers=headers)


def _spoken(request: Request, language: str) -> str:
    """Carries the language that a visitor chose over to what a form is sent to."""
    return f"?{urlencode({'lang': language})}" if "lang" in request.query_params else ""


def _lists_of(session: Session, of: Sequence[subscribers.Subscription]) -> list[MailingList]:
    ids = {one.list_id for one in of}
    return [to for to in subscribers.lists(session) if to.id in ids]
