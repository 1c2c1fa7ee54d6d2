"""What the pages share: who asks, in which language, and how a wish is taken down."""

from collections.abc import Sequence
from datetime import datetime

from fastapi import HTTPException, Request, Response
from sqlmodel import Session

import subscribers
from newsletter import languages, notices, store
from newsletter.newsroom import Newsroom
from newsletter.web.forms import Visitor, ticket, ticket_fault
from newsletter.web.rendering import Pages
from subscribers import (
    Asked,
    Limits,
    MailingList,
    Origin,
    Subscriber,
    Taken,
    ToMail,
    transaction,
)

LONGEST_PAUSE_DAYS = 366


class Face:
    """Pages over an open Newsroom, each a method. What is to be mailed is written down: another process mails it."""

    def __init__(self, newsroom: Newsroom, pages: Pages) -> None:
        self._newsroom, self._pages = newsroom, pages
        self._settings = newsroom.settings
        self._visitor = Visitor(self._settings.web.trusted_proxies)

    def _now(self) -> datetime:
        return self._newsroom.clock()

    @property
    def _secret(self) -> bytes:
        return self._settings.need_secret()

    def _language(self, request: Request, subscriber: Subscriber | None = None, name: str | None = None) -> str:
        newsletter = self._settings.newsletters.get(name or "")
        return self._pages.language(
            request, subscriber.language if subscriber else None, newsletter.language if newsletter else None
        )

    def _mail(self, session: Session, mails: Sequence[ToMail]) -> None:
        notices.queue(session, mails, self._settings, self._now())

    def _title(self, name: str | None, lists: Sequence[MailingList]) -> str:
        if name is not None and name in self._settings.newsletters:
            return self._settings.newsletters[name].title
        return lists[0].name if lists else self._settings.site.name

    def _person(self, session: Session, link: str) -> Subscriber:
        subscriber = subscribers.by_link(session, link)
        if subscriber is None:
            raise HTTPException(404)
        return subscriber

    def _topics(self, session: Session, name: str, subscriber: Subscriber) -> list[tuple[str, bool]]:
        """The topics that a person may choose among, and whether they want each."""
        newsletter = self._settings.newsletters.get(name)
        known = newsletter.topics if newsletter and newsletter.topics else store.topics_taken(session, name)
        wanted = None if subscriber.topics is None else {topic.casefold() for topic in subscriber.topics}
        return [(topic, wanted is None or topic.casefold() in wanted) for topic in known]

    def _day(self, instant: datetime, language: str, subscriber: Subscriber) -> str:
        zone = subscriber.zone or next(iter(self._settings.newsletters.values())).zone
        return languages.date_in(instant, language, zone)

    def _need_erasures_known(self, session: Session) -> None:
        """Raise ErasureKeyError where nobody can tell who was erased: then nobody new is mailed."""
        subscribers.judge_erasures(session, self._settings.erasure_secret)

    def _ticket(self, form: str) -> str:
        return ticket(form, self._now(), self._secret)

    def _ticket_fault(self, form: str, given: str) -> str | None:
        return ticket_fault(form, given, self._settings.subscribers.fastest_form, self._now(), self._secret)

    @property
    def _limits(self) -> Limits:
        kept = self._settings.subscribers
        return Limits(kept.requests_per_address, kept.requests_per_network, kept.requests_per_domain)

    def _too_many(self, request: Request) -> Response:
        page = self._pages.page(
            request, "error", self._pages.language(request), status=429, what="many", retry_url=None
        )
        page.headers["Retry-After"] = "3600"
        return page

    def _take(
        self, request: Request, asked: Asked, origin: Origin, answer: Response, *, by: int | None = None
    ) -> Response:
        with transaction(self._newsroom.engine) as session:
            taken = subscribers.take(session, asked, origin, self._limits, now=self._now(), by=by)
        if taken is Taken.TOO_MANY:
            return self._too_many(request)
        return answer


def pauses(language: str) -> list[tuple[int, str]]:
    """For how long one may pause: days, and words for them."""
    _ = languages.words(language).gettext
    return [(7, _("one week")), (30, _("one month")), (90, _("three months"))]
