"""What takes a fresh link, mailed to the address on file: preferences, another address, one's data, erasure.

A page that takes an address says the same to everybody, at once: nobody is looked up before the answer is out.
"""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from zoneinfo import available_timezones

from fastapi import HTTPException, Request, Response
from sqlmodel import Session
from starlette.datastructures import FormData

import subscribers
from newsletter import languages, people
from newsletter.web.face import LONGEST_PAUSE_DAYS, Face, pauses
from newsletter.web.forms import Form, days_of, mailbox_of, text, texts
from subscribers import (
    Asked,
    Mailbox,
    State,
    Subscriber,
    Taken,
    Way,
    Wish,
    reading,
    transaction,
)


class Rights(Face):
    """The pages, each a method: GET by its name, POST as `post_` and its name."""

    # -------------------------------------------------------------------------------------- a fresh link

    def _ask_link_page(  # what a form was filled with
        self, request: Request, *, purpose: str, action: str, known: bool, error: str | None = None, status: int = 200
    ) -> Response:
        return self._pages.page(
            request,
            "ask_link",
            self._language(request),
            status=status,
            purpose=purpose,
            known=known,
            action=action,
            ticket=self._ticket("link"),
            error=error,
        )

    def leave_by_address(self, request: Request, name: str) -> Response:
        """Leaving without a mail at hand: a link is mailed to the address."""
        return self._ask_link_page(request, purpose="leave", action=f"/leave/{self._known(name)}", known=False)

    def ask_preferences(self, request: Request) -> Response:
        """The same for preferences."""
        return self._ask_link_page(request, purpose="preferences", action="/preferences", known=False)

    def ask_by_link(self, request: Request, link: str) -> Response:
        """The same from a digest, whose link knows the address and does not show it: digests are forwarded."""
        with reading(self._newsroom.engine) as session:
            self._person(session, link)
        return self._ask_link_page(request, purpose="preferences", action=f"/p/{link}", known=True)

    def _known(self, name: str) -> str:
        if name not in self._settings.newsletters:
            raise HTTPException(404)
        return name

    def post_leave_by_address(self, request: Request, name: str, form: Form) -> Response:
        """Take a request for a link."""
        return self._post_ask_link(request, form, purpose="leave", action=f"/leave/{self._known(name)}")

    def post_ask_preferences(self, request: Request, form: Form) -> Response:
        """The same."""
        return self._post_ask_link(request, form, purpose="preferences", action="/preferences")

    def _post_ask_link(self, request: Request, form: FormData, *, purpose: str, action: str) -> Response:
        language = self._language(request)
        asked = self._pages.page(request, "asked", language, purpose="link")
        if text(form, "website"):
            return asked
        mailbox = mailbox_of(text(form, "address"))
        error = self._ticket_fault("link", text(form, "ticket")) or ("address" if mailbox is None else None)
        if error or mailbox is None:
            return self._ask_link_page(request, purpose=purpose, action=action, known=False, error=error, status=422)
        origin = self._visitor.origin(request, Way.FORM)
        return self._take(request, Asked(Wish.LINK, mailbox, language=language), origin, asked)

    def post_ask_by_link(self, request: Request, link: str, form: Form) -> Response:
        """The same from a digest."""
        with reading(self._newsroom.engine) as session:
            subscriber = self._person(session, link)
        language = self._language(request, subscriber)
        asked = self._pages.page(request, "asked", language, purpose="link")
        if error := self._ticket_fault("link", text(form, "ticket")):
            return self._ask_link_page(
                request, purpose="preferences", action=f"/p/{link}", known=True, error=error, status=422
            )
        if subscriber.erased_at is not None:
            return asked
        mailbox = Mailbox(subscriber.address, subscriber.key)
        origin = self._visitor.origin(request, Way.PAGE)
        return self._take(request, Asked(Wish.LINK, mailbox, language=language), origin, asked, by=subscriber.id)

    # -------------------------------------------------------------------------------------- preferences and rights

    def preferences(self, request: Request, token: str) -> Response:
        """A person's own preferences and rights, by a fresh link."""
        return self._preferences_page(request, token)

    def _preferences_page(
        self, request: Request, token: str, *, saved: bool = False, error: str | None = None, status: int = 200
    ) -> Response:
        with reading(self._newsroom.engine) as session:
            subscriber = subscribers.by_rights_token(session, token, now=self._now(), secret=self._secret)
            choices = subscribers.choices(session, subscriber)
            topics: dict[str, bool] = {}
            for name in self._settings.newsletters:
                topics.update(self._topics(session, name, subscriber))
        language = self._language(request, subscriber)
        paused = subscriber.paused_until
        if paused is not None and paused <= self._now():
            paused = None
        newsletter = next(iter(self._settings.newsletters.values()))
        return self._pages.page(
            request,
            "preferences",
            language,
            status=status,
            address=subscriber.address,
            lists=[(to.slug, to.name, to.description, one is State.CONFIRMED) for to, one in choices],
            topics=list(topics.items()),
            all_topics=subscriber.topics is None,
            language_options=[
                ("", None, subscriber.language is None),
                *((code, name, subscriber.language == code) for code, name in languages.LANGUAGES.items()),
            ],
            zone=subscriber.zone or "",
            zones=sorted(available_timezones()),
            pauses=pauses(language),
            paused=self._day(paused, language, subscriber) if paused else None,
            action=f"/m/{token}",
            saved=saved,
            error=error,
            expires=languages.time_in(subscribers.expiry_of(token), language, subscriber.zone or newsletter.zone),
        )

    def post_preferences(self, request: Request, token: str, form: Form) -> Response:
        """Save preferences, ask for another address, take one's data away, or be erased."""
        act = {
            "save": self._save,
            "address": self._ask_change,
            "data": self._data,
            "erase": self._erase,
        }.get(text(form, "act"))
        if act is None:
            return self._preferences_page(request, token, status=422)
        return act(request, token, form)

    def _owner(self, session: Session, token: str) -> Subscriber:
        return subscribers.by_rights_token(session, token, now=self._now(), secret=self._secret)

    def _save(self, request: Request, token: str, form: FormData) -> Response:
        zone = text(form, "zone") or None
        if zone is not None and zone not in available_timezones():
            return self._preferences_page(request, token, error="zone", status=422)
        language = text(form, "language") or None
        language = language if language in languages.LANGUAGES else None
        now = self._now()
        origin = self._visitor.origin(request, Way.LINK)
        with transaction(self._newsroom.engine) as session:
            subscriber = self._owner(session, token)
            offered: dict[str, bool] = {}
            for name in self._settings.newsletters:
                offered.update(self._topics(session, name, subscriber))
            chosen = [topic for topic in texts(form, "topic") if topic in offered]
            topics = _wanted(subscriber.topics, offered, chosen)
            until = None if text(form, "resume") else subscriber.paused_until
            if days := days_of(form, "pause", LONGEST_PAUSE_DAYS):
                until = now + timedelta(days=days)
            subscribers.prefer(
                session,
                subscriber,
                language=language,
                zone=zone,
                topics=topics,
                paused_until=until,
                now=now,
                origin=origin,
            )
            joined = subscribers.choose_lists(
                session,
                subscriber,
                texts(form, "list"),
                now=now,
                origin=origin,
                erasure_secret=self._settings.erasure_secret,
            )
            self._mail(session, list(subscribers.welcomes(session, joined, subscriber.language)))
        return self._preferences_page(request, token, saved=True)

    def _ask_change(self, request: Request, token: str, form: FormData) -> Response:
        mailbox = mailbox_of(text(form, "address"))
        if mailbox is None:
            return self._preferences_page(request, token, error="address", status=422)
        origin = self._visitor.origin(request, Way.LINK)
        with transaction(self._newsroom.engine) as session:
            subscriber = self._owner(session, token)
            language = self._language(request, subscriber)
            # It mails a stranger, perhaps: so it counts as any other request for that address.
            asked = Asked(Wish.CHANGE, mailbox, language=language)
            taken = subscribers.take(
                session, asked, origin, self._limits, now=self._now(), by=subscriber.id, settled=True
            )
            if taken is Taken.TAKEN:
                mail = subscribers.ask_to_change(
                    session,
                    subscriber,
                    mailbox,
                    now=self._now(),
                    language=language,
                    erasure_secret=self._settings.erasure_secret,
                )
                self._mail(session, [mail] if mail else [])
        if taken is Taken.TOO_MANY:
            return self._too_many(request)
        return self._pages.page(request, "asked", language, purpose="address")

    def _data(self, request: Request, token: str, form: FormData) -> Response:
        del request, form
        with reading(self._newsroom.engine) as session:
            subscriber = self._owner(session, token)
            data = people.data_of(session, subscriber)
        body = json.dumps(data, ensure_ascii=False, indent=2, default=_json)
        headers = {"Content-Disposition": 'attachment; filename="my-data.json"', "Cache-Control": "no-store"}
        return Response(body, media_type="application/json", headers=headers)

    def _erase(self, request: Request, token: str, form: FormData) -> Response:
        if not text(form, "sure"):
            return self._preferences_page(request, token, error="erase", status=422)
        with transaction(self._newsroom.engine) as session:
            subscriber = self._owner(session, token)
            language = self._language(request, subscriber)
            people.forget(
                session,
                subscriber,
                self._settings,
                now=self._now(),
                actor="subscriber",
                origin=self._visitor.origin(request, Way.LINK),
            )
        return self._pages.page(request, "erased", language)

    def change(self, request: Request, token: str) -> Response:
        """A new address, and the button that makes it theirs."""
        with reading(self._newsroom.engine) as session:
            change = subscribers.by_change_token(session, token, now=self._now(), secret=self._secret)
            self._need_erasures_known(session)
            subscriber = session.get_one(Subscriber, change.subscriber_id)
        language = self._language(request, subscriber)
        return self._pages.page(request, "change", language, action=f"/a/{token}", masked=masked(change.address))

    def post_change(self, request: Request, token: str) -> Response:
        """Mail a person at their new address from now on."""
        with transaction(self._newsroom.engine) as session:
            mail = subscribers.confirm_change(
                session,
                token,
                now=self._now(),
                secret=self._secret,
                erasure_secret=self._settings.erasure_secret,
                origin=self._visitor.origin(request, Way.LINK),
            )
            self._mail(session, [mail])
            people.drop_from_events(session, mail.address or "")
        return self._pages.page(request, "changed", self._pages.language(request, mail.language))

    def privacy(self, request: Request) -> Response:
        """What is kept of a person, and for how long."""
        kept = self._settings.subscribers
        newsletter = next(iter(self._settings.newsletters.values()))
        return self._pages.page(
            request,
            "privacy",
            self._pages.language(request),
            index=True,
            origin_days=max(1, kept.keep_origin.days),
            request_days=max(1, kept.request_lasts.days),
            contact=newsletter.reply_to or newsletter.sender,
        )


def _wanted(before: list[str] | None, offered: Mapping[str, bool], chosen: list[str]) -> list[str] | None:
    """The topics that a person wants, from those that were offered, with how they were shown, and those they ticked.

    All or none means all. What is not offered any more, and so could not be ticked, is still wanted.
    """
    shown = {topic for topic, ticked in offered.items() if ticked}
    if set(chosen) == shown:
        return before
    if not chosen or len(chosen) == len(offered):
        return None
    folded = {topic.casefold() for topic in offered}
    return [*chosen, *(topic for topic in before or [] if topic.casefold() not in folded)]


def masked(address: str) -> str:
    """An address as its owner recognises it and nobody else learns it: its first letter and its domain."""
    local, _, domain = address.rpartition("@")
    return f"{local[:1]}•••@{domain}"


def _json(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
