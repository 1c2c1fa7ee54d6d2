"""Mails outside any edition: confirmations, links, welcomes. Durable, sent through the same provider, and repeatable.

What is to be mailed comes from the list as `subscribers.ToMail`, and is written down in the transaction that made it
so. Sending takes a few of one kind at a time: claimed (for [dispatch] lease), handed over, recorded. A process that
dies in the call leaves them to be sent again: a confirmation that comes twice does no harm, one that never comes does.
The link in a notice is signed when it is mailed, so that its time runs from then.
"""

import hashlib
import logging
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Engine, and_, delete, func, or_
from sqlmodel import Session, col, select

import subscribers
from newsletter import archive, safeguards, store
from newsletter.compile import compile_notice
from newsletter.dispatch import allowed
from newsletter.drafting import sender_of
from newsletter.edition import AttemptId, DeliveryId, Latest, Message, NoticeContents, Receipt, Recipient, Result
from newsletter.errors import DispatchError, Throttled
from newsletter.models import Notice, NoticeKind, NoticeState
from newsletter.providers import Provider
from newsletter.settings import Settings
from newsletter.settlement import back_off
from subscribers import AddressChange, State, Subscriber, Subscription, ToMail, reading, transaction

MOST_TRIES = 12  # with the longest back-off of 15 minutes: about two hours, after which a link is of little use
KEPT = timedelta(days=30)  # what was mailed, for the desk to look up
_log = logging.getLogger("newsletter.notices")
_AT_ONCE = 100  # so that a claim holds the write lock shortly
_SETTLED_AT_ONCE = 50


# ------------------------------------------------------------------------------------------ writing down


def queue(session: Session, mails: Iterable[ToMail], settings: Settings, now: datetime) -> int:
    """Write down what is to be mailed, in the caller's transaction. Gives how many."""
    count = 0
    for mail in mails:
        newsletter = settings.newsletter_of_list(mail.list_slug) if mail.list_slug else None
        session.add(
            Notice(
                kind=NoticeKind(mail.mail.value),
                subscriber_id=mail.subscriber_id,
                about_id=mail.about_id,
                address=mail.address,
                newsletter=newsletter or next(iter(settings.newsletters)),
                list_slug=mail.list_slug,
                language=mail.language,
                created_at=now,
                due_at=now,
            )
        )
        count += 1
    session.flush()
    return count


def settle_requests(engine: Engine, settings: Settings, clock: Callable[[], datetime]) -> int:
    """Look at the requests that came in, and write down what is to be mailed for them. Gives how many were settled.

    Without the erasure key that people were erased with, requests to join wait for it.
    """
    with reading(engine) as session:  # mostly none did: then nobody who writes is kept waiting
        if not subscribers.unsettled(session, 1, held=True):
            return 0
    settled = 0
    while True:
        with transaction(engine) as session:
            now = clock()
            waiting = subscribers.unsettled(session, _SETTLED_AT_ONCE, erasure_secret=settings.erasure_secret)
            for request in waiting:
                mails = subscribers.settle(session, request, now=now, erasure_secret=settings.erasure_secret)
                queue(session, mails, settings, now)
        settled += len(waiting)
        if len(waiting) < _SETTLED_AT_ONCE:
            return settled


# ------------------------------------------------------------------------------------------ sending


@dataclass(frozen=True, slots=True)
class _Group:
    """Notices that one Message does for, each with its recipient."""

    kind: NoticeKind
    newsletter: str
    list_slug: str | None
    language: str
    lists: tuple[str, ...]
    attempt: AttemptId
    rows: dict[DeliveryId, int]
    recipients: tuple[Recipient, ...]


@dataclass(frozen=True)
class Sender:
    """Sends the notices that are due through one provider. Clock, randomness and names are arguments."""

    engine: Engine
    settings: Settings
    provider: Provider
    clock: Callable[[], datetime]
    jitter: Callable[[], float] = random.random
    new_attempt: Callable[[], AttemptId] = lambda: AttemptId(os.urandom(12).hex())
    _messages: dict[tuple[object, ...], Message] = field(default_factory=dict)

    def run(self, stop: threading.Event | None = None) -> Counter[NoticeState]:
        """Send what is due now. Gives how many came to which state. Nothing is sent while dispatch is halted.

        `stop` ends it after the call that is out.

        Raises ConfigurationError where the provider may not be used, CompileError where a template is broken: nothing
        is lost, all of it stays due.
        """
        came_to: Counter[NoticeState] = Counter()
        with reading(self.engine) as session:
            if not _anything_due(session, self.clock(), self.settings.dispatch.lease):
                return came_to
            database = store.instance(session)
        safeguards.refuse_if_not_claimed(self.settings, self.provider, database)
        while database.halted_at is None and not (stop is not None and stop.is_set()):
            with transaction(self.engine) as session:
                group, dropped, found = self._claim(session)
                database = store.instance(session)
            came_to[NoticeState.DROPPED] += dropped
            if not found:
                break
            if group is not None:
                came_to += self._send(group)
        return +came_to

    def _claim(self, session: Session) -> tuple[_Group | None, int, bool]:
        """Take the next notices that are alike; drop those that need no mail any more. True where any was due."""
        if store.instance(session).halted_at is not None:
            return None, 0, False
        now = self.clock()
        is_due = _is_due(now, self.settings.dispatch.lease)
        due = list(session.exec(select(Notice).where(is_due).order_by(col(Notice.id)).limit(_AT_ONCE)))
        if not due:
            return None, 0, False
        first = due[0]
        alike = [one for one in due if _likeness(one) == _likeness(first)][: self.provider.batch_size]
        attempt = self.new_attempt()
        instance = store.instance(session).instance_id
        recipients: list[Recipient] = []
        rows: dict[DeliveryId, int] = {}
        dropped = 0
        lists: tuple[str, ...] = ()
        for notice in alike:
            addressed = self._recipient(session, notice, instance, now)
            if isinstance(addressed, str):
                notice.state, notice.note, notice.done_at, notice.address = NoticeState.DROPPED, addressed, now, None
                dropped += 1
                continue
            recipient, theirs = addressed
            if recipients and theirs != lists:
                continue  # asked for other lists beside the same one: its own turn comes
            lists = theirs
            notice.state, notice.attempt = NoticeState.CALLING, attempt
            notice.lease_until = now + self.settings.dispatch.lease
            notice.tries += 1
            recipients.append(recipient)
            rows[recipient.delivery] = notice.id or 0
        session.flush()
        if not recipients:
            return None, dropped, True
        language = first.language or self.settings.newsletters[first.newsletter].language
        group = _Group(first.kind, first.newsletter, first.list_slug, language, lists, attempt, rows, tuple(recipients))
        return group, dropped, True

    def _recipient(
        self, session: Session, notice: Notice, instance: str, now: datetime
    ) -> tuple[Recipient, tuple[str, ...]] | str:
        """Whom a notice goes to, with its link and the names of the lists that it is about; or why it needs no mail."""
        subscriber = session.get_one(Subscriber, notice.subscriber_id)
        address = notice.address or subscriber.address
        if notice.newsletter not in self.settings.newsletters:
            return "its newsletter is no longer configured"
        if subscriber.erased_at is not None or not address:
            return "erased since"
        if subscribers.is_suppressed(session, address):
            return "suppressed since"
        if not allowed(address, self.settings.dispatch.only_to):
            return "outside dispatch.only_to"
        found = self._link(session, notice, subscriber, now)
        if isinstance(found, str):
            return found
        path, lists = found
        # With its time: SQLite gives the id of a deleted row again, and a copy under a known name is not sent twice.
        said = f"{instance}:notice:{notice.id}:{notice.created_at.isoformat()}"
        told = hashlib.sha256(said.encode()).hexdigest()[:23]
        recipient = Recipient(
            DeliveryId(f"n{told}"), address, subscriber.name, subscriber.link, f"{self.settings.site.url}{path}"
        )
        return recipient, lists

    def _link(
        self, session: Session, notice: Notice, subscriber: Subscriber, now: datetime
    ) -> tuple[str, tuple[str, ...]] | str:
        """The path that a notice leads to, and the lists that it is about; or why there is nothing to lead to."""
        secret = self.settings.need_secret()
        if notice.kind in {NoticeKind.LINK, NoticeKind.ALREADY}:
            return f"/m/{subscribers.rights_token(subscriber, now=now, secret=secret)}", ()
        if notice.kind is NoticeKind.CHANGED:
            return "/preferences", ()
        if notice.kind is NoticeKind.CHANGE:
            change = session.get(AddressChange, notice.about_id)
            if change is None or (change.address, change.subscriber_id) != (notice.address, notice.subscriber_id):
                return "asked for another address since"
            return f"/a/{subscribers.change_token(change, now=now, secret=secret)}", ()
        return self._about_subscription(session, notice, now, secret)

    def _about_subscription(
        self, session: Session, notice: Notice, now: datetime, secret: bytes
    ) -> tuple[str, tuple[str, ...]] | str:
        subscription = session.get(Subscription, notice.about_id)
        expected = State.PENDING if notice.kind is NoticeKind.CONFIRM else State.CONFIRMED
        # The owner, too: SQLite gives the id of a deleted row again.
        theirs = subscription is not None and subscription.subscriber_id == notice.subscriber_id
        if subscription is None or not theirs or subscription.state is not expected:
            return "no request waits any more" if notice.kind is NoticeKind.CONFIRM else "left since"
        if notice.kind is NoticeKind.WELCOME:
            latest = archive.latest_of(session, notice.newsletter)
            return latest.path if latest else f"/e/{notice.newsletter}", _names(session, [subscription])
        lasts = self.settings.subscribers.request_lasts
        token = subscribers.confirmation_token(session, subscription, now=now, secret=secret, lasts=lasts)
        asked = subscribers.requested(session, token, now=now, secret=secret)
        return f"/c/{token}", _names(session, asked)

    def _send(self, group: _Group) -> Counter[NoticeState]:
        receipts: list[Receipt] = []
        error: Exception | None = None
        try:
            message = self._message(group)
            receipts.extend(self.provider.submit(message, group.recipients, group.attempt, lambda: None))
        except Exception as caught:  # noqa: BLE001 # what it means for the notices is written down first
            error = caught
        came_to = self._record(group, receipts, error)
        if error is not None and not isinstance(error, DispatchError):
            raise error
        return came_to

    def _message(self, group: _Group) -> Message:
        with reading(self.engine) as session:
            latest = archive.latest_of(session, group.newsletter) if group.kind is NoticeKind.WELCOME else None
        what = (group.kind, group.newsletter, group.list_slug, group.language, group.lists, latest)
        if what not in self._messages:
            self._messages.clear()  # a few kinds in turn are compiled in turn: 30 ms each
            self._messages[what] = message_of(
                self.settings, group.newsletter, group.kind, group.language, group.lists, latest
            )
        return self._messages[what]

    def _record(self, group: _Group, receipts: Sequence[Receipt], error: Exception | None) -> Counter[NoticeState]:
        answers = {receipt.delivery: receipt for receipt in receipts}
        came_to: Counter[NoticeState] = Counter()
        with transaction(self.engine) as session:
            now = self.clock()
            for delivery, row in group.rows.items():
                notice = session.get(Notice, row)
                if notice is None or notice.attempt != group.attempt or notice.state is not NoticeState.CALLING:
                    continue  # erased, or taken over since
                answer = answers.get(delivery)
                notice.lease_until = None
                if answer is not None and answer.result is Result.ACCEPTED:
                    notice.state, notice.done_at, notice.address = NoticeState.DONE, now, None
                    notice.provider_id, notice.note = answer.provider_id, None
                elif answer is not None and answer.result is Result.REFUSED:
                    _refuse(notice, answer.reason or "no reason given", now)
                else:
                    self._again(notice, answer, error, now)
                came_to[notice.state] += 1
        return came_to

    def _again(self, notice: Notice, answer: Receipt | None, error: Exception | None, now: datetime) -> None:
        """What was not taken this time is due again later, and given up after many tries."""
        said = (answer.reason if answer else None) or (str(error) if error else "no answer")
        notice.note = said[:500]
        if isinstance(error, Throttled) or not isinstance(error, DispatchError | None):
            notice.tries -= 1  # its turn has not come, or a template is broken: no fault of the notice
        if notice.tries >= MOST_TRIES:
            _refuse(notice, said, now)
            return
        wait = error.retry_after if isinstance(error, Throttled) else back_off(notice.tries, self.jitter)
        if answer is not None and answer.retry_after:
            wait = max(wait, answer.retry_after)
        notice.state, notice.due_at = NoticeState.PENDING, now + wait


def _refuse(notice: Notice, why: str, now: datetime) -> None:
    """Give a notice up, and say so in the log: nobody looks at the table every day."""
    notice.state, notice.done_at, notice.address, notice.note = NoticeState.REFUSED, now, None, why[:500]
    _log.warning("notices.refused: %s notice %s, after %s tries: %s", notice.kind, notice.id, notice.tries, why)


def message_of(  # noqa: PLR0917 # what a notice says
    settings: Settings, newsletter: str, kind: NoticeKind, language: str, lists: tuple[str, ...], latest: Latest | None
) -> Message:
    """The Message of a kind of notice. Raises CompileError."""
    contents = NoticeContents(
        kind=kind.value,
        newsletter_id=newsletter,
        newsletter=settings.newsletters[newsletter],
        site=settings.site,
        language=language,
        nonce=f"n{os.urandom(6).hex()}",
        lists=lists,
        latest=latest,
        link_lasts=subscribers.LINK_LASTS,
        request_lasts=settings.subscribers.request_lasts,
    )
    return compile_notice(contents, sender_of(settings, newsletter), settings.templates.path)


def _likeness(notice: Notice) -> tuple[object, ...]:
    return (notice.kind, notice.newsletter, notice.list_slug, notice.language)


def _is_due(now: datetime, lease: timedelta) -> ColumnElement[bool]:
    return or_(
        and_(col(Notice.state) == NoticeState.PENDING, col(Notice.due_at) <= now),
        and_(col(Notice.state) == NoticeState.CALLING, store.has_lapsed(Notice.lease_until, now, lease)),
    )


def _anything_due(session: Session, now: datetime, lease: timedelta) -> bool:
    return session.exec(select(Notice.id).where(_is_due(now, lease)).limit(1)).first() is not None


def _names(session: Session, of: Iterable[Subscription]) -> tuple[str, ...]:
    ids = {one.list_id for one in of}
    return tuple(to.name for to in subscribers.lists(session) if to.id in ids)


# ------------------------------------------------------------------------------------------ looking, keeping house


def listed(session: Session, limit: int) -> list[Notice]:
    """The latest notices, newest first."""
    return list(session.exec(select(Notice).order_by(col(Notice.id).desc()).limit(limit)))


def waiting(session: Session) -> tuple[int, datetime | None]:
    """How many notices wait, and since when the oldest does."""
    found = session.exec(
        select(func.count(), func.min(Notice.created_at)).where(
            col(Notice.state).in_([NoticeState.PENDING, NoticeState.CALLING])
        )
    ).one()
    return found[0], found[1]


def purge(session: Session, now: datetime) -> int:
    """Take away notices that came to their end long ago, a few hundred at a time."""
    ids = session.exec(select(Notice.id).where(col(Notice.done_at) < now - KEPT).limit(500)).all()
    session.execute(delete(Notice).where(col(Notice.id).in_(ids)))
    return len(ids)
