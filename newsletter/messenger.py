"""Bringing the desk what it is to be told: by mail through the editions' provider, and to a web address of its own.

A notice is claimed (for [dispatch] lease), brought and recorded, like a notice to a subscriber: a process that dies in
the call leaves it to be brought again. A mailbox that has taken it is not mailed again, whatever becomes of the others.

What it must get past: while dispatch is halted, proofs wait and everything else goes, since that is when the desk needs
it most. A database that is not claimed mails nobody, and only its alerts are told to the webhook: it may be a copy.
"""

import hashlib
import html
import json
import logging
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from email.utils import parseaddr
from http import HTTPStatus
from typing import Any

from sqlalchemy import ColumnElement, Engine, and_, or_, select
from sqlmodel import Session, col

from newsletter import desk, safeguards, store
from newsletter.compile import compile_desk
from newsletter.desk import Said, Urgency
from newsletter.dispatch import allowed
from newsletter.drafting import sender_of
from newsletter.edition import AttemptId, DeliveryId, DeskContents, Message, Receipt, Recipient, Result
from newsletter.errors import CompileError, ConfigurationError, DispatchError, EditionError, Throttled
from newsletter.fetch import Fetcher, FetchError
from newsletter.models import Channel, DeskKind, DeskNotice, MessageRecord, NoticeState
from newsletter.providers import Provider
from newsletter.settings import Settings
from newsletter.settlement import back_off
from subscribers import is_suppressed, reading, transaction

MOST_TRIES = 12  # with the longest back-off of 15 minutes: about two hours
OUT_OF_DATE = timedelta(days=2)  # what could not be told for so long is told by nobody any more; the tables have it
_SAMPLE_TOKEN = "proof"  # noqa: S105 # leads to a page that does nothing: no subscriber has it
_log = logging.getLogger("newsletter.desk")

_LONGEST_SECTION = 2_900  # characters of a block; Slack takes 3,000 (docs.slack.dev, section block, November 2026)
_LONGEST_FIELD = 1_900  # of a field; it takes 2,000
_FIELDS = 10  # of one section, the most that it takes
_MOST_SECTIONS = 8  # of fields; a message takes 50 blocks
_LONGEST_TEXT = 3_500  # of the text that stands for all of them; it asks for at most 4,000


@dataclass(frozen=True, slots=True)
class _Errand:
    """A notice in this process's hands. `to` are mailboxes that have not taken it; empty for the webhook."""

    row: int
    kind: DeskKind
    channel: Channel
    newsletter: str
    subject: str
    said: Said
    attempt: AttemptId
    message_id: int | None = None
    digest: str | None = None
    to: tuple[Recipient, ...] = ()
    marks: tuple[str, ...] = ()  # of the mailboxes, by which they are known to have taken it


@dataclass(frozen=True, slots=True)
class _Came:
    """What a call came to. `taken` are marks of mailboxes; `wait` is the least until the next try."""

    state: NoticeState
    note: str | None = None
    taken: tuple[str, ...] = ()
    wait: timedelta | None = None
    counts: bool = True  # as a try


@dataclass(frozen=True)
class DeskSender:
    """Brings the desk what is due. Without a `provider` that can be used, its webhook alone."""

    engine: Engine
    settings: Settings
    provider: Provider | None
    fetcher: Fetcher
    clock: Callable[[], datetime]
    jitter: Callable[[], float] = random.random
    new_attempt: Callable[[], AttemptId] = lambda: AttemptId(os.urandom(12).hex())

    def run(self) -> Counter[NoticeState]:
        """Bring what is due now, the quickest channel first. Gives how many notices came to which state.

        Whatever one of them meets costs that one: it is put on record and tried again.
        """
        came_to: Counter[NoticeState] = Counter()
        with reading(self.engine) as session:
            if session.execute(select(col(DeskNotice.id)).where(self._is_due(session)).limit(1)).first() is None:
                return came_to
        while True:
            with transaction(self.engine) as session:
                claimed = self._claim(session)
            if claimed is None:
                return came_to
            if isinstance(claimed, NoticeState):
                came_to[claimed] += 1
                continue
            try:
                came = self._bring(claimed)
            except Exception:  # noqa: BLE001 # a bug costs this notice; the others go on
                _log.exception("desk.broken: notice %s", claimed.row)
                came = _Came(NoticeState.PENDING, "a fault of the program: see the log")
            came_to[self._record(claimed, came)] += 1

    # -------------------------------------------------------------------------------------- claiming

    def _is_due(self, session: Session) -> ColumnElement[bool]:
        """Which notices may be brought now."""
        now, database = self.clock(), store.instance(session)
        due = or_(
            and_(col(DeskNotice.state) == NoticeState.PENDING, col(DeskNotice.due_at) <= now),
            and_(
                col(DeskNotice.state) == NoticeState.CALLING,
                store.has_lapsed(DeskNotice.lease_until, now, self.settings.dispatch.lease),
            ),
        )
        if self.provider is None:
            due = and_(due, col(DeskNotice.channel) == Channel.HOOK)
        else:
            try:
                safeguards.refuse_if_not_claimed(self.settings, self.provider, database)
            except ConfigurationError:
                alone = (col(DeskNotice.channel) == Channel.HOOK, col(DeskNotice.kind) == DeskKind.ALERT)
                due = and_(due, *alone)
        return due if database.halted_at is None else and_(due, col(DeskNotice.kind) != DeskKind.PROOF)

    def _claim(self, session: Session) -> _Errand | NoticeState | None:
        """Take the next notice: what to do, or what it has come to already. None where none is due."""
        found = (
            select(DeskNotice)
            .where(self._is_due(session))
            .order_by(col(DeskNotice.channel), col(DeskNotice.id))
            .limit(1)
        )
        notice = session.execute(found).scalars().first()
        if notice is None:
            return None
        now = self.clock()
        if now - notice.created_at > OUT_OF_DATE:
            return _end(notice, NoticeState.DROPPED, "out of date: it could not be told in time", now)
        if notice.tries >= MOST_TRIES:
            return _end(notice, NoticeState.REFUSED, "whoever brought it never came back", now)
        settings = self.settings
        newsletter = notice.newsletter if notice.newsletter in settings.newsletters else None
        attempt = self.new_attempt()
        content = json.loads(notice.content)
        errand = _Errand(
            notice.id or 0,
            notice.kind,
            notice.channel,
            newsletter or next(iter(settings.newsletters)),
            notice.subject,
            Said.from_json(content["said"]),
            attempt,
            notice.message_id,
            content.get("message"),
        )
        if notice.channel is Channel.HOOK and settings.desk.webhook is None:
            return _end(notice, NoticeState.DROPPED, "no webhook is configured any more", now)
        if notice.channel is Channel.MAIL:
            whom = self._mailboxes(session, notice, content.get("taken", ()))
            if isinstance(whom, str):
                return _end(notice, NoticeState.DROPPED, whom, now)
            errand = replace(errand, to=tuple(whom.values()), marks=tuple(whom))
        notice.state, notice.attempt = NoticeState.CALLING, attempt
        notice.lease_until = now + settings.dispatch.lease
        notice.tries += 1
        return errand

    def _mailboxes(self, session: Session, notice: DeskNotice, taken: Sequence[str]) -> dict[str, Recipient] | str:
        """The mailboxes that are still to get a notice, by their marks; or why there are none."""
        instance = store.instance(session).instance_id
        whom: dict[str, Recipient] = {}
        why = "no mailbox is configured any more"
        for mailbox in self.settings.desk.mail:
            name, address = parseaddr(mailbox)
            mark = hashlib.sha256(f"{instance}:{address.casefold()}".encode()).hexdigest()[:12]
            if mark in taken:
                continue
            if not allowed(address, self.settings.dispatch.only_to):
                why = "outside dispatch.only_to"
                continue
            if is_suppressed(session, address):
                why = "suppressed"
                continue
            # With its time: SQLite gives the id of a deleted row again.
            told = f"{instance}:desk:{notice.id}:{notice.created_at.isoformat()}:{mark}"
            delivery = DeliveryId(f"k{hashlib.sha256(told.encode()).hexdigest()[:23]}")
            whom[mark] = Recipient(delivery, address, name or None, _SAMPLE_TOKEN)
        return whom or why

    # -------------------------------------------------------------------------------------- bringing

    def _bring(self, errand: _Errand) -> _Came:
        if errand.channel is Channel.HOOK:
            return self._post(errand)
        try:
            message = self._message(errand)
        except EditionError as error:
            return _Came(NoticeState.DROPPED, str(error))
        except CompileError as error:
            return _Came(NoticeState.REFUSED, str(error))
        return self._mail(errand, message)

    def _message(self, errand: _Errand) -> Message:
        """The mail that an errand is about. Raises EditionError where the shown edition is there no more."""
        settings, name = self.settings, errand.newsletter
        if errand.kind is DeskKind.PROOF:
            with reading(self.engine) as session:
                row = session.get(MessageRecord, errand.message_id) if errand.message_id else None
                if row is None or row.digest != errand.digest:
                    raise EditionError(name, "the draft was made anew since")
                return proof_of(store.load_message(row), errand.subject, errand.said)
        said, nonce = errand.said, f"k{os.urandom(6).hex()}"
        contents = DeskContents(name, settings.newsletters[name], settings.site, errand.subject, said, nonce)
        sender = sender_of(settings, name)
        try:
            return compile_desk(contents, sender, settings.templates.path)
        except CompileError as error:  # the desk is told so as well, so this must not stop it
            if settings.templates.path is None:
                raise
            _log.warning("desk.template: %s; the built-in one is used", error)
            return compile_desk(contents, sender)

    def _mail(self, errand: _Errand, message: Message) -> _Came:
        """Hand a mail over to those who have not taken it."""
        assert self.provider is not None
        receipts: dict[DeliveryId, Receipt] = {}
        error: Exception | None = None
        size = max(1, self.provider.batch_size)
        try:
            for start in range(0, len(errand.to), size):
                next_ones = errand.to[start : start + size]
                for receipt in self.provider.submit(message, next_ones, errand.attempt, lambda: None):
                    receipts[receipt.delivery] = receipt
        except Exception as caught:  # noqa: BLE001 # whatever it is, the notice is tried again, and the others go on
            error = caught
            if not isinstance(caught, DispatchError):
                _log.exception("desk.broken: notice %s", errand.row)
        taken, refused, left = [], [], []
        for mark, recipient in zip(errand.marks, errand.to, strict=True):
            answer = receipts.get(recipient.delivery)
            if answer is not None and answer.result is Result.ACCEPTED:
                taken.append(mark)
            elif answer is not None and answer.result is Result.REFUSED:
                refused.append(answer.reason or "no reason given")
            else:
                left.append(answer)
        if left:
            wishes = [answer.retry_after for answer in left if answer and answer.retry_after]
            reasons = [answer.reason for answer in left if answer and answer.reason]
            note = str(error) if isinstance(error, DispatchError) else next(iter(reasons), "no answer")
            wait = error.retry_after if isinstance(error, Throttled) else max(wishes, default=timedelta())
            return _Came(NoticeState.PENDING, note, tuple(taken), wait, counts=not isinstance(error, Throttled))
        if refused and not taken:
            return _Came(NoticeState.REFUSED, refused[0])
        some = f"{len(refused)} of {len(errand.to)} mailboxes were refused: {refused[0]}" if refused else None
        return _Came(NoticeState.DONE, some, tuple(taken))

    def _post(self, errand: _Errand) -> _Came:
        webhook = self.settings.desk.webhook
        assert webhook is not None
        try:
            answer = self.fetcher.post_json(webhook.get_secret_value(), as_slack(errand.subject, errand.said))
        except FetchError as error:
            return _Came(NoticeState.PENDING, error.what, wait=timedelta())
        status = answer.status
        if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            return _Came(NoticeState.DONE)
        said = f"the webhook answers {status}"
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            return _Came(NoticeState.PENDING, said, wait=answer.retry_after or timedelta(), counts=False)
        if status in {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY} or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return _Came(NoticeState.PENDING, said, wait=answer.retry_after or timedelta())
        return _Came(NoticeState.REFUSED, said)

    # -------------------------------------------------------------------------------------- recording

    def _record(self, errand: _Errand, came: _Came) -> NoticeState:
        with transaction(self.engine) as session:
            now = self.clock()
            notice = session.get(DeskNotice, errand.row)
            if notice is None or notice.attempt != errand.attempt or notice.state is not NoticeState.CALLING:
                return came.state  # taken over since, after its lease
            if came.taken:
                content: dict[str, Any] = json.loads(notice.content)
                content["taken"] = [*content.get("taken", ()), *came.taken]
                notice.content = json.dumps(content, ensure_ascii=False)
            note = desk.mentionless(came.note)[:500] if came.note else None
            if came.state is not NoticeState.PENDING:
                return _end(notice, came.state, note, now)
            if not came.counts:
                notice.tries -= 1  # its turn has not come
            if notice.tries >= MOST_TRIES:
                return _end(notice, NoticeState.REFUSED, note, now)
            wait = max(came.wait or timedelta(), back_off(notice.tries, self.jitter))
            notice.state, notice.lease_until, notice.note = NoticeState.PENDING, None, note
            notice.due_at = now + wait
            return NoticeState.PENDING


def _end(notice: DeskNotice, state: NoticeState, note: str | None, now: datetime) -> NoticeState:
    """Bring a notice to its end; say so in the log where nobody was told."""
    notice.state, notice.note, notice.done_at, notice.lease_until = state, note, now, None
    if state is not NoticeState.DONE:
        _log.warning("desk.%s: %s by %s, notice %s: %s", state, notice.kind, notice.channel, notice.id, note)
    return state


# ------------------------------------------------------------------------------------------ proofs

# Where the body begins: not in a comment, nor in a text that is no markup.
_BODY = re.compile(
    r"<!--.*?-->|<(style|title|script)\b.*?</\1|(?P<body><body\b(?:[^>\"']|\"[^\"]*\"|'[^']*')*>)",
    re.IGNORECASE | re.DOTALL,
)
_FRAME = (
    "margin:0;padding:18px 20px;background:#23211d;color:#f7f3ea;font-family:Helvetica,Arial,sans-serif;"
    "font-size:15px;line-height:1.5;text-align:left"
)
_COMMAND = (
    "display:block;margin:8px 0;padding:9px 12px;background:#3a3732;color:#ffffff;font:14px Menlo,Consolas,monospace"
)


def proof_of(message: Message, subject: str, said: Said) -> Message:
    """A stored Message as a proof: the very HTML and text that would go out, below what the desk is to know of it.

    It belongs to no list, and its fields are filled for the desk's mailboxes with links that do nothing.
    """
    notes = [value for label, value in said.rows if label == "Note"]
    others = [f"{label}: {value}" for label, value in said.rows if label not in {"Note", "Edition"}]
    listed = "".join(f'<p style="margin:6px 0 0">{html.escape(one)}</p>' for one in [*others, *notes])
    command = f'<code style="{_COMMAND}">{html.escape(said.command)}</code>' if said.command is not None else ""
    told = "".join(f'<p style="margin:0">{html.escape(one)}</p>' for one in said.paragraphs)
    banner = (
        f'<table role="presentation" width="100%" cellpadding="0" cellspacing="0" border="0"><tr>'
        f'<td style="{_FRAME}" bgcolor="#23211d"><p style="margin:0 0 6px"><strong>Proof: {html.escape(said.heading)}'
        f"</strong></p>{told}{command}{listed}</td></tr></table>"
    )
    at = next((found.end() for found in _BODY.finditer(message.html) if found["body"]), 0)
    above = [f"PROOF: {said.heading}", *said.paragraphs]
    above += [f"    {said.command}"] if said.command else []
    above += [*others, *notes, "-" * 72]
    text = "\n\n".join(above)
    return replace(
        message,
        subject=subject,
        html=message.html[:at] + banner + message.html[at:],
        text=f"{text}\n\n{message.text}",
        slot=None,
        auto=True,
    )


# ------------------------------------------------------------------------------------------ the webhook

_SIGNS = {
    Urgency.NOW: ":rotating_light:",
    Urgency.LOOK: ":warning:",
    Urgency.NEWS: ":white_check_mark:",
    Urgency.OVER: ":white_check_mark:",
}


def as_slack(subject: str, said: Said) -> dict[str, Any]:
    """What the desk is told as Slack's incoming webhooks take it, and those who copy them.

    `text` says all of it for those who show no blocks. Only “&”, “<” and “>” are markup that could do harm, such as
    naming everybody in a channel; they are escaped (docs.slack.dev, formatting message text).
    """
    head = f"{_SIGNS[said.urgency]} *{_escaped(subject, 300)}*"
    told = [text for one in said.paragraphs if (text := _escaped(one, _LONGEST_SECTION))]
    command = f"```{_escaped(said.command, 500)}```" if said.command else ""
    rows = [f"{_escaped(label, 100)}: {_escaped(value, 500)}" for label, value in said.rows]
    text = _bounded("\n".join([head, *told, *([command] if command else []), *rows]), _LONGEST_TEXT)
    blocks = [_section(head), *(_section(one) for one in told), *([_section(command)] if command else [])]
    fields = [
        {"type": "mrkdwn", "text": f"*{_escaped(label, 100)}*\n{_escaped(value, _LONGEST_FIELD - 110) or '–'}"}
        for label, value in said.rows
    ]
    starts = range(0, min(len(fields), _FIELDS * _MOST_SECTIONS), _FIELDS)
    blocks += [{"type": "section", "fields": fields[start : start + _FIELDS]} for start in starts]
    return {"text": text, "blocks": blocks}


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text}}


def _escaped(text: str, most: int) -> str:
    """A text with Slack's control characters escaped, cut so that it is not longer with them."""
    return _bounded(html.escape(" ".join(text.split()), quote=False), most)


def _bounded(escaped: str, most: int) -> str:
    """At most so many characters, and no half of an entity at the end."""
    if len(escaped) <= most:
        return escaped
    return re.sub(r"&[a-z]{0,3}$", "", escaped[: most - 1]) + "…"
