"""The people on the lists, as an operator changes them: added, confirmed, gone, never to be mailed. Mails nobody.

Each function takes the Newsroom whose database holds the lists, and who did it, for the record.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import subscribers
from newsletter.newsroom import Newsroom
from subscribers import AddressError, NotAllowed, Reason, State, parse, transaction

_PEOPLE_AT_ONCE = 200  # so that no write lock is held longer than the 250 ms that other processes count on


@dataclass(frozen=True)
class Added:
    """What came of adding people: how many were new, on the list before, or refused (line and reason).

    `links` holds the confirmation links of those who are pending; `refused` says where each stood, and why.
    """

    to: str
    state: str
    new: int
    before: int
    links: tuple[str, ...]
    refused: tuple[tuple[str, str], ...]


def add(newsroom: Newsroom, people: Sequence[tuple[str, str]], to: str, *, evidence: str | None, actor: str) -> Added:
    """Add people to a list: confirmed where `evidence` says how their consent is known, else pending. Mails nobody.

    `people` are mailboxes, each with where it stands ("people.txt:3"), for what is said about it.
    """
    secret = None if evidence else newsroom.settings.need_secret()
    now = newsroom.clock()
    new = before = 0
    links: list[str] = []
    refused: list[tuple[str, str]] = []
    for start in range(0, len(people), _PEOPLE_AT_ONCE):
        with transaction(newsroom.engine) as session:
            mailing_list = subscribers.ensure_list(session, to, to, now)
            for place, text in people[start : start + _PEOPLE_AT_ONCE]:
                try:
                    mailbox = parse(text)
                    if evidence:
                        _, changed = subscribers.add_confirmed(
                            session, mailbox, mailing_list, now=now, actor=actor, evidence=evidence
                        )
                    else:
                        subscription = subscribers.ask(session, mailbox, mailing_list, now=now, actor=actor)
                        changed = subscription.state is State.PENDING
                        if changed and secret:
                            token = subscribers.confirmation_token(subscription, now=now, secret=secret)
                            links.append(f"{newsroom.settings.site.url}/c/{token}")
                except (AddressError, NotAllowed) as error:
                    refused.append((place, str(error)))
                    continue
                new, before = new + changed, before + (not changed)
    state = State.CONFIRMED if evidence else State.PENDING
    return Added(to, state, new, before, tuple(links), tuple(refused))


def confirm(newsroom: Newsroom, link: str, *, actor: str) -> None:
    """Confirm a pending subscription by its link or the token in it. Raises TokenError and NotAllowed."""
    with transaction(newsroom.engine) as session:
        secret = newsroom.settings.need_secret()
        subscribers.confirm(session, link.rpartition("/")[2], now=newsroom.clock(), secret=secret, actor=actor)


def leave(newsroom: Newsroom, address: str, to: str | None, *, actor: str) -> int:
    """Take a person off a list, or off all, and say how many subscriptions that ended. Raises UnknownList."""
    with transaction(newsroom.engine) as session:
        if to:
            subscribers.list_by_slug(session, to)
        subscriber = subscribers.find(session, parse(address))
        if subscriber is None:
            return 0
        return subscribers.leave(session, subscriber, {to} if to else None, now=newsroom.clock(), actor=actor)


def suppress(newsroom: Newsroom, address: str, *, actor: str, note: str | None) -> bool:
    """Never mail an address again, whatever any list says. False where it was suppressed already."""
    with transaction(newsroom.engine) as session:
        mailbox = parse(address)
        return subscribers.suppress(session, mailbox, Reason.OPERATOR, now=newsroom.clock(), actor=actor, note=note)
