"""The consent log: who wanted what, when, by which way, and which words they were shown. Rows are only ever added."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlmodel import Session, col, select

from subscribers.models import ConsentEvent, ConsentStatement, Happening, Way

LONGEST_AGENT = 300  # as `ConsentEvent.agent`
LONGEST_FORM = 200  # as `ConsentEvent.form`


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a wish came from.

    `form` is the page with the form, or a file's name; `wording` the words that were agreed to; `ip` and `agent` are
    the visitor's. None where there is none.
    """

    way: Way
    form: str | None = None
    wording: str | None = None
    ip: str | None = None
    agent: str | None = None


BY_OPERATOR = Origin(Way.OPERATOR)
BY_PROVIDER = Origin(Way.PROVIDER)


def statement(session: Session, text: str, now: datetime) -> int:
    """The row of a text that consent rests on, made if need be: many events share one."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    found = session.exec(select(ConsentStatement.id).where(ConsentStatement.hash == digest)).first()
    if found is None:
        made = ConsentStatement(hash=digest, text=text, at=now)
        session.add(made)
        session.flush()
        found = made.id
    assert found is not None
    return found


def log(  # noqa: PLR0917 # who, what, about which list, when
    session: Session,
    event: Happening,
    subscriber_id: int | None,
    list_id: int | None,
    now: datetime,
    actor: str,
    origin: Origin,
    *,
    evidence: str | None = None,
    before: dict[str, Any] | None = None,
) -> ConsentEvent:
    """Add a line to the log."""
    line = ConsentEvent(
        at=now,
        subscriber_id=subscriber_id,
        list_id=list_id,
        event=event,
        actor=actor,
        way=origin.way,
        form=origin.form[:LONGEST_FORM] if origin.form else None,
        statement_id=statement(session, origin.wording, now) if origin.wording else None,
        evidence=evidence,
        ip=origin.ip,
        agent=origin.agent[:LONGEST_AGENT] if origin.agent else None,
        before=before,
    )
    session.add(line)
    session.flush()
    return line


def last_word(session: Session, subscriber_id: int, list_id: int) -> Happening | None:
    """The last thing that a person, or their mailbox, said about a list; requests that nobody confirmed apart."""
    found = session.exec(
        select(ConsentEvent.event)
        .where(
            ConsentEvent.subscriber_id == subscriber_id,
            ConsentEvent.list_id == list_id,
            col(ConsentEvent.event).not_in([Happening.REQUESTED, Happening.EXPIRED]),
        )
        .order_by(col(ConsentEvent.id).desc())
    ).first()
    return Happening(found) if found else None


def requests_of(session: Session, subscriber_id: int, list_id: int) -> list[int | None]:
    """The latest requests for an address to join a list, by their ids: what an old link may have been for."""
    return list(
        session.exec(
            select(ConsentEvent.id)
            .where(
                ConsentEvent.subscriber_id == subscriber_id,
                ConsentEvent.list_id == list_id,
                ConsentEvent.event == Happening.REQUESTED,
            )
            .order_by(col(ConsentEvent.id).desc())
            .limit(100)
        )
    )


ENDS = (Happening.LEFT, Happening.BOUNCED, Happening.COMPLAINED, Happening.EXPIRED)  # of what was asked for before


def first_request(session: Session, subscriber_id: int, list_id: int) -> ConsentEvent | None:
    """The first request for an address to join a list since it last left or expired: what a confirmation confirms.

    Whoever asks three times may open any of the three links; once they left, none of them is good any more.
    """
    theirs = (ConsentEvent.subscriber_id == subscriber_id, ConsentEvent.list_id == list_id)
    ended = session.exec(
        select(ConsentEvent.id).where(*theirs, col(ConsentEvent.event).in_(ENDS)).order_by(col(ConsentEvent.id).desc())
    ).first()
    return session.exec(
        select(ConsentEvent)
        .where(*theirs, ConsentEvent.event == Happening.REQUESTED, col(ConsentEvent.id) > (ended or 0))
        .order_by(col(ConsentEvent.id))
    ).first()
