"""A rehearsal: every request that an edition would make, put to the provider's sandbox. Nobody is mailed.

It reads the same briefs, templates and people as the real thing and builds the same requests; the provider checks them
and delivers nothing. Nothing is decided, frozen or written to the ledger, so it can be repeated at will.
"""

import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime

from newsletter import ledger, safeguards, store
from newsletter.dispatch import Progress, allowed
from newsletter.drafting import Draft
from newsletter.edition import AttemptId, DeliveryId, Message, Recipient, Result
from newsletter.errors import DispatchError, EditionError
from newsletter.newsroom import Newsroom
from newsletter.providers import Provider, open_provider
from newsletter.schedule import Slot
from subscribers import reading

_READ_AT_ONCE = 1_000


@dataclass(frozen=True)
class Rehearsed:
    """What a provider's sandbox said: how many it would take, and why not the others. `error` ended it early."""

    slot: Slot
    draft: Draft
    candidates: int
    mailable: int
    accepted: int
    reasons: Mapping[str, int]
    error: DispatchError | None = None


def rehearse(
    newsroom: Newsroom,
    name: str,
    slot_text: str | None = None,
    report: Callable[[Progress], None] = lambda progress: None,  # noqa: ARG005 # nobody watches
) -> Rehearsed:
    """Put the next edition of a newsletter to the provider's sandbox, whole. Raises ConfigurationError without one.

    Raises EditionError where the edition would be skipped, nobody is to be mailed, or dispatch is halted.
    """
    settings = newsroom.settings
    newsletter = settings.newsletter(name)
    with closing(open_provider(settings.provider, sandbox=True)) as provider:
        with reading(newsroom.engine) as session:
            database = store.instance(session)
        safeguards.refuse_if_halted(name, database)
        safeguards.refuse_if_not_claimed(settings, provider, database)
        slot = newsroom.slot(name, slot_text)
        draft = newsroom.draft(name, slot)
        if draft.compiled is None:
            raise EditionError(name, f"nothing to rehearse: {draft.skipped}")
        audience = newsroom.audience(name)
        safeguards.refuse_if_nobody(name, newsletter, candidates=audience.candidates, mailable=audience.mailable)
        accepted, done = 0, 0
        reasons: Counter[str] = Counter()
        error: DispatchError | None = None
        waiting: list[Recipient] = []
        people = _people(newsroom, name, newsroom.clock())
        try:
            while waiting or (waiting := _next(people, provider.batch_size)):
                answers, waiting = _call(provider, draft.compiled.message, waiting)
                accepted += answers.pop(None, 0)
                reasons.update({reason or "": count for reason, count in answers.items()})
                done = accepted + sum(reasons.values())
                report(Progress(done, audience.mailable))
        except DispatchError as caught:
            error = caught
    if (kept_out := audience.mailable - done) and error is None:
        reasons["outside dispatch.only_to"] += kept_out
    return Rehearsed(slot, draft, audience.candidates, audience.mailable, accepted, dict(reasons), error)


def _call(
    provider: Provider, message: Message, recipients: list[Recipient]
) -> tuple[Counter[str | None], list[Recipient]]:
    """One request. Gives how many were refused for which reason (None: accepted), and who was not tried."""
    attempt = AttemptId(secrets.token_hex(12))
    receipts = {one.delivery: one for one in provider.submit(message, recipients, attempt, lambda: None)}
    answers: Counter[str | None] = Counter()
    later = []
    for recipient in recipients:
        receipt = receipts.get(recipient.delivery)
        if receipt is not None and receipt.result is Result.NOT_TRIED:
            later.append(recipient)
        elif receipt is not None and receipt.result is Result.ACCEPTED:
            answers[None] += 1
        else:
            answers[(receipt.reason if receipt else None) or "no answer"] += 1
    if len(later) == len(recipients):  # else it would go on for ever
        answers["not tried"], later = len(later), []
    return answers, later


def _next(people: Iterator[Recipient], count: int) -> list[Recipient]:
    return [person for _, person in zip(range(count), people, strict=False)]


def _people(newsroom: Newsroom, name: str, now: datetime) -> Iterator[Recipient]:
    """Whoever the edition would be mailed to, read a thousand at a time."""
    settings = newsroom.settings
    last = 0
    while True:
        with reading(newsroom.engine) as session:
            rows = ledger.mailable(session, settings.newsletter(name).lists, now, after=last, limit=_READ_AT_ONCE)
        for subscriber_id, address, own_name, link in rows:
            last = subscriber_id
            if allowed(address, settings.dispatch.only_to):
                yield Recipient(DeliveryId(f"sandbox{secrets.token_hex(8)}"), address, own_name, link)
        if len(rows) < _READ_AT_ONCE:
            return
