"""The tables of what is sent, and the states their rows go through. The queries on them are in store.py.

::

    edition   planned ──compile──> draft ──freeze──> dispatching ──nothing waits──> closed ──fold──> closed, folded
                 │                   │                   │  ▲  provider refuses everyone, an operator, too old
                 │ too old, silence  │ thin              ▼  │ send again, resume, approve
                 └────> held         └────> skipped    paused ──> cancelled

    batch     pending ──claim──> claimed ──first byte──> calling ──receipts──> done ──recall──> cancelled
               │ ▲                  │ lease runs out        │ no answer, or its process died
               │ └──────────────────┘                       └──> unknown ──late receipt, event, a person──> done
               │ ▲                                                 │
               │ └──────────── resend, on a person's word ─────────┘
               └──cancel──> cancelled

A batch made by the freeze stands for the deliveries of a range of row numbers; one made later, out of another, for
those whose `batch_id` names it. A whole batch's result is its own row's state; a delivery's `outcome` is written only
where it differs from it. docs/dispatch.md explains the same for operators.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Text,
    UniqueConstraint,
    text,
)
from sqlmodel import Field, col

from newsletter.edition import EventKind
from subscribers import Instant, RowNumber, Table, choice


def _only_where(condition: str) -> dict[str, Any]:
    """Makes an index a partial one, on both databases."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


def _null_or(column: str, words: type[StrEnum]) -> str:
    told = ", ".join(f"'{word.value}'" for word in words)
    return f"{column} IS NULL OR {column} IN ({told})"


class Verdict(StrEnum):
    """What a newsletter decided about one revision of a brief."""

    TAKEN = "taken"  # in the edition `edition_id`
    LEFT = "left"  # never in this newsletter, for the reason given
    CARRIED = "carried"  # not this time; a candidate again for the next edition


class EditionState(StrEnum):
    """Where an edition stands."""

    PLANNED = "planned"  # the clock has met its slot; nothing is compiled yet, `reason` says why where it failed
    DRAFT = "draft"  # compiled; nothing is frozen, all of it may be made anew
    HELD = "held"  # not frozen, and the clock lets it be: a person says whether it goes out, `reason` says why
    SKIPPED = "skipped"  # empty or too thin at its slot, or taken out of the schedule; may be drafted again
    DISPATCHING = "dispatching"  # audience and messages are frozen
    PAUSED = "paused"  # frozen and stopped, `reason` says why; the next `send` goes on, unless it is stale
    CLOSED = "closed"  # nothing waits
    CANCELLED = "cancelled"  # an operator ended it; what had not left never will


class Approval(StrEnum):
    """Whether the desk has said yes to what an edition would send. NULL in its column: nobody is asked."""

    WAITING = (
        "waiting"  # a proof went to the desk; until `approve_by` it may answer, and then the rule for silence does
    )
    GIVEN = "given"  # by `approved_by`, to the newest revision of its messages


class BatchState(StrEnum):
    """Where a batch stands, and so what a delivery of it with no outcome of its own means."""

    PENDING = "pending"  # due at `due_at`
    CLAIMED = "claimed"  # a process builds its request; nothing has left
    CALLING = "calling"  # bytes may have left; committed before the first of them
    DONE = "done"  # the provider answered: accepted
    UNKNOWN = "unknown"  # no answer came: reconcile, never guess
    CANCELLED = "cancelled"


class Outcome(StrEnum):
    """What became of one recipient's copy, where it differs from its batch."""

    ACCEPTED = "accepted"  # the provider took responsibility
    REFUSED = "refused"  # the provider refused this recipient for good
    SUPPRESSED = "suppressed"  # must not be mailed
    SKIPPED = "skipped"  # paused, left since, or outside only_to
    CANCELLED = "cancelled"  # an operator ended the edition first
    UNKNOWN = "unknown"  # may have been taken


class Fate(StrEnum):
    """What happened to an accepted copy later, as events tell. Moves forward only, in this order."""

    PROCESSED = "processed"  # the provider has begun to deliver it
    DELAYED = "delayed"  # the mailbox's server said "later"
    DELIVERED = "delivered"  # it took it
    REJECTED = "rejected"  # it refused this copy for its sender's sake: reputation, content, volume
    BLOCKED = "blocked"  # it refused this copy for another reason: a full mailbox, time run out
    DROPPED = "dropped"  # the provider did not even try
    BOUNCED = "bounced"  # there is no such mailbox
    COMPLAINED = "complained"  # the reader called it spam


class EventRecord(Table, table=True):
    """What a provider told later about a copy, verified, each event once. What it means for deliveries is not here."""

    __tablename__ = "provider_event"
    __table_args__ = (
        UniqueConstraint("provider", "event_id"),
        # Whatever carries an attempt is found by that: an entry here for each would double what an event costs.
        Index("ix_provider_event_delivery", "delivery", **_only_where("attempt IS NULL")),
    )

    id: int | None = Field(default=None, primary_key=True, sa_type=RowNumber)
    provider: str = Field(max_length=30)
    event_id: str = Field(max_length=200)  # the provider's own
    kind: EventKind = Field(sa_column=Column(choice(EventKind), nullable=False))
    said: str = Field(max_length=60)  # the provider's word for the kind
    at: datetime = Field(sa_type=Instant)  # when it happened, by the provider's clock
    received_at: datetime = Field(sa_type=Instant)
    delivery: str | None = Field(default=None, max_length=40)  # NULL: the event carries none
    attempt: str | None = Field(default=None, max_length=40, index=True)  # the same
    provider_id: str | None = Field(default=None, max_length=200)
    address: str | None = Field(default=None, max_length=320)  # NULL unless `delivery` is
    reason: str | None = Field(default=None, max_length=300)  # holds no address
    machine: bool = False  # opened by a mail client's prefetch


class Sync(Table, table=True):
    """How far a provider's own lists have been read (`newsletter provider sync`)."""

    __tablename__ = "sync"

    provider: str = Field(primary_key=True, max_length=30)
    through: datetime = Field(sa_type=Instant)  # what was put on the lists before then is on record here


class NoticeKind(StrEnum):
    """What a notice says. Each is a folder of templates."""

    CONFIRM = "confirm"  # somebody asked for this address to join: the link that says yes
    ALREADY = "already"  # they asked, and are in already
    LINK = "link"  # the fresh link to their own preferences and rights
    CHANGE = "change"  # to a new address: the link that says yes to it
    CHANGED = "changed"  # to the old address: it was changed
    WELCOME = "welcome"  # they have joined, and this is the latest edition


class NoticeState(StrEnum):
    """Where a notice stands. It may be mailed twice where a process dies in the call: it repeats nothing but itself."""

    PENDING = "pending"  # due at `due_at`
    CALLING = "calling"  # in a process's hands until `lease_until`, pending again after it
    DONE = "done"  # the provider took it
    REFUSED = "refused"  # the provider refused it for good, or too many tries failed
    DROPPED = "dropped"  # it must not or need not be mailed any more; `note` says why


class Notice(Table, table=True):
    """A mail outside any edition, to one person who asked for it."""

    __tablename__ = "notice"
    __table_args__ = (Index("ix_notice_state_due_at", "state", "due_at"),)

    id: int | None = Field(default=None, primary_key=True)
    kind: NoticeKind = Field(sa_column=Column(choice(NoticeKind), nullable=False))
    subscriber_id: int = Field(
        sa_column=Column(ForeignKey("subscriber.id", ondelete="CASCADE"), nullable=False, index=True)
    )
    about_id: int  # what its link acts on: a subscription, a subscriber or a change of address, as its kind says
    address: str | None = Field(default=None, max_length=254)  # NULL: the one on file when it is mailed
    newsletter: str = Field(max_length=30)  # whose sender it comes from
    list_slug: str | None = Field(default=None, max_length=64)  # NULL: of no single list
    language: str | None = Field(default=None, max_length=35)  # NULL: the newsletter's
    created_at: datetime = Field(sa_type=Instant)
    due_at: datetime = Field(sa_type=Instant)
    state: NoticeState = Field(default=NoticeState.PENDING, sa_column=Column(choice(NoticeState), nullable=False))
    tries: int = 0
    lease_until: datetime | None = Field(default=None, sa_type=Instant)
    attempt: str | None = Field(default=None, max_length=32)  # of the latest call; NULL: none yet
    provider_id: str | None = Field(default=None, max_length=200)
    note: str | None = Field(default=None, max_length=500)  # the latest error, scrubbed
    done_at: datetime | None = Field(default=None, sa_type=Instant)


class Instance(Table, table=True):
    """The one row that says which database this is, and whether dispatch is halted."""

    __tablename__ = "instance"

    id: int = Field(default=1, primary_key=True)
    instance_id: str = Field(max_length=32)  # random; a live provider wants it claimed in the configuration
    created_at: datetime = Field(sa_type=Instant)
    halted_at: datetime | None = Field(default=None, sa_type=Instant)  # NULL: dispatch may run
    halted_by: str | None = Field(default=None, max_length=100)
    halt_reason: str | None = Field(default=None, max_length=500)
    # Where the database was when somebody said that it is no copy, as `newsletter.places` names it; NULL: nobody did.
    place: str | None = Field(default=None, max_length=1_000)
    reload_at: datetime | None = Field(default=None, sa_type=Instant)  # whoever has read the file before reads it again


class OperatorAct(Table, table=True):
    """Who did what, when: every halt, every yes, every start by hand. Rows are only ever added."""

    __tablename__ = "operator_act"

    id: int | None = Field(default=None, primary_key=True)
    at: datetime = Field(sa_type=Instant)
    actor: str = Field(max_length=100)
    act: str = Field(max_length=40)
    edition_id: int | None = Field(default=None, foreign_key="edition.id")  # NULL: of no single edition
    note: str | None = Field(default=None, max_length=500)


class BriefRecord(Table, table=True):
    """One story. Its content is in its revisions, where it was found in its sightings."""

    __tablename__ = "brief"

    id: int | None = Field(default=None, primary_key=True)
    url: str | None = Field(default=None, max_length=2048)  # NULL: the brief has none
    page: str | None = Field(default=None, max_length=2048, index=True)  # the url as `newsletter.brief.page_of` sees it
    headline: str = Field(max_length=300)
    revision: int = 1  # the newest
    content_hash: str = Field(max_length=64, index=True)  # of the newest revision
    first_seen_at: datetime = Field(sa_type=Instant)
    pulled_at: datetime | None = Field(default=None, sa_type=Instant)  # NULL: it stands
    pulled_by: str | None = Field(default=None, max_length=100)
    pull_reason: str | None = Field(default=None, max_length=300)


class Sighting(Table, table=True):
    """A source's own name for a brief. One brief may stand in several sources, and under several names."""

    __tablename__ = "sighting"

    source: str = Field(max_length=64, primary_key=True)
    guid: str = Field(max_length=500, primary_key=True)  # a file's path in a folder, an entry's id in a feed
    brief_id: int = Field(foreign_key="brief.id", index=True)
    content_hash: str = Field(
        max_length=64
    )  # of what this source gave last: two sources may tell one story differently
    gone_at: datetime | None = Field(default=None, sa_type=Instant)  # withdrawn from the source; NULL: it stands there


class SourceRecord(Table, table=True):
    """How a source that is fetched has fared. A folder has no row: it is read whole each time."""

    __tablename__ = "source"

    name: str = Field(max_length=64, primary_key=True)
    url: str = Field(max_length=2048)  # what the row is about: another url in the configuration makes it worthless
    reader: str | None = Field(default=None, max_length=20)  # the program's version that read it; NULL: none did yet
    etag: str | None = Field(default=None, max_length=500)  # NULL: the server gave none, or another process was quicker
    last_modified: str | None = Field(default=None, max_length=100)  # the same
    body_hash: str | None = Field(default=None, max_length=64)  # of what was read last; NULL: nothing yet
    briefs: int | None = None  # how many the last reading gave; NULL: nothing yet
    faults: list[str] = Field(sa_column=Column(JSON, nullable=False))  # what that reading could not read, the first few
    asked_at: datetime = Field(sa_type=Instant)
    succeeded_at: datetime | None = Field(default=None, sa_type=Instant)  # NULL: never
    failed_at: datetime | None = Field(default=None, sa_type=Instant)  # NULL: never
    error: str | None = Field(default=None, max_length=500)  # of the last failure
    failures: int = 0  # in a row, up to now
    failures_ever: int = 0
    not_before: datetime | None = Field(default=None, sa_type=Instant)  # the server's wish, or our back-off; NULL: now
    wished: bool = False  # `not_before` is the server's own wish


class RevisionRecord(Table, table=True):
    """A brief's content at one time, as the JSON of `newsletter.brief.Brief`."""

    __tablename__ = "brief_revision"

    brief_id: int = Field(foreign_key="brief.id", primary_key=True)
    number: int = Field(primary_key=True)  # from 1
    content: str = Field(sa_column=Column(Text, nullable=False))
    seen_at: datetime = Field(sa_type=Instant, index=True)


NEWEST_REVISION = (col(RevisionRecord.brief_id) == col(BriefRecord.id)) & (
    col(RevisionRecord.number) == col(BriefRecord.revision)
)
"""Joins a brief to its newest content."""


class EditionRecord(Table, table=True):
    """One instance of a newsletter, for one slot."""

    __tablename__ = "edition"
    __table_args__ = (
        UniqueConstraint("newsletter", "slot"),
        Index("ix_edition_newsletter_slot_at", "newsletter", "slot_at"),
        Index("ix_edition_next_at", "next_at", **_only_where("next_at IS NOT NULL")),
        Index("ix_edition_dispatching", "state", **_only_where("state = 'dispatching'")),
        Index(
            "ix_edition_open",
            "slot_at",
            **_only_where("state IN ('planned', 'draft', 'held', 'dispatching', 'paused')"),
        ),
        Index("ix_edition_untold", "state", **_only_where("told IS NULL OR told <> state")),
    )

    id: int | None = Field(default=None, primary_key=True)
    newsletter: str = Field(max_length=30)
    slot: str = Field(max_length=16)  # local wall clock, "2026-11-23T07:00"
    zone: str = Field(max_length=64)
    slot_at: datetime = Field(sa_type=Instant)  # the slot's instant
    state: EditionState = Field(sa_column=Column(choice(EditionState), nullable=False))
    reason: str | None = Field(default=None, max_length=500)  # why skipped, paused or cancelled
    created_at: datetime = Field(sa_type=Instant)
    frozen_at: datetime | None = Field(default=None, sa_type=Instant)  # NULL: no audience yet
    closed_at: datetime | None = Field(default=None, sa_type=Instant)
    candidates: int | None = None  # counted from the audience query when it was frozen; NULL: not frozen
    lists: list[str] = Field(sa_column=Column(JSON, nullable=False))  # slugs of the lists it goes to
    stale_after_s: int  # seconds past a batch's due time after which it waits for an operator
    tag: str = Field(max_length=16, unique=True)  # names it inside delivery ids: `newsletter.names.tag_of`
    paused_by: str | None = Field(default=None, max_length=100)  # the operator who paused it; NULL: the program did
    recall_id: str | None = Field(default=None, max_length=100)  # by which the provider calls it back; NULL: it cannot
    folded_at: datetime | None = Field(default=None, sa_type=Instant)  # its deliveries are FoldedDeliveries since
    next_at: datetime | None = Field(default=None, sa_type=Instant)  # when the clock attends to it; NULL: it lets it be
    attendant: str | None = Field(default=None, max_length=200)  # the process that does so now; NULL: none
    attended_until: datetime | None = Field(default=None, sa_type=Instant)  # from then on another may
    failures: int = 0  # tries in a row to bring it a step on that failed
    approval: Approval | None = Field(default=None, sa_column=Column(choice(Approval)))  # NULL: nobody is asked
    approve_by: datetime | None = Field(default=None, sa_type=Instant)  # when silence is an answer; NULL: never
    approved_by: str | None = Field(default=None, max_length=100)
    approved_at: datetime | None = Field(default=None, sa_type=Instant)
    consented_by: str | None = Field(
        default=None, max_length=100
    )  # who said yes to what is otherwise asked; NULL: nobody
    told: str | None = Field(default=None, max_length=20)  # the state that the desk was last told; NULL: none yet


class Decision(Table, table=True):
    """What a newsletter decided about one revision. Not final until its edition is frozen."""

    __tablename__ = "decision"
    __table_args__ = (
        UniqueConstraint("newsletter", "brief_id", "revision"),
        Index("ix_decision_edition_id", "edition_id"),
    )

    id: int | None = Field(default=None, primary_key=True)
    newsletter: str = Field(max_length=30)
    brief_id: int = Field(foreign_key="brief.id", index=True)
    revision: int
    verdict: Verdict = Field(sa_column=Column(choice(Verdict), nullable=False))
    reason: str | None = Field(default=None, max_length=300)  # NULL for taken
    source: str = Field(max_length=64)  # through which the newsletter met it
    edition_id: int = Field(foreign_key="edition.id")  # the edition that decided
    position: int | None = None  # from 1, in the edition; NULL unless taken, and where a later revision took its place
    final: bool = False
    decided_at: datetime = Field(sa_type=Instant)


class MessageRecord(Table, table=True):
    """One compiled Message of an edition, as approved. Frozen editions read only this."""

    __tablename__ = "message"
    __table_args__ = (UniqueConstraint("edition_id", "variant", "revision"),)

    id: int | None = Field(default=None, primary_key=True)
    edition_id: int = Field(foreign_key="edition.id")
    variant: str = Field(default="", max_length=64)  # "" is the one for everybody
    revision: int = 1
    content: str = Field(sa_column=Column(Text, nullable=False))  # JSON of newsletter.edition.Message
    digest: str = Field(max_length=64)  # SHA-256 of it
    html_bytes: int
    briefs: int  # how many it holds
    compiled_at: datetime = Field(sa_type=Instant)


class Batch(Table, table=True):
    """Deliveries handed to a provider in one call."""

    __tablename__ = "batch"
    __table_args__ = (
        UniqueConstraint("edition_id", "number"),
        # What each claim and each record asks: of 5,000 batches 23 ms without the three, 1 ms with them.
        Index("ix_batch_next", "edition_id", "state", "due_at", "number"),
        Index("ix_batch_promised", "edition_id", "state", "promised_at"),
        Index("ix_batch_turn", "edition_id", "turn"),
        Index("ix_batch_first_id", "edition_id", "first_id"),
        Index("ix_batch_done_at", "done_at", **_only_where("done_at IS NOT NULL")),
        Index("ix_batch_held", "state", **_only_where("state IN ('claimed', 'calling')")),
        Index("ix_batch_unknown", "edition_id", **_only_where("state = 'unknown'")),
    )

    id: int | None = Field(default=None, primary_key=True)
    edition_id: int = Field(foreign_key="edition.id")
    message_id: int = Field(foreign_key="message.id")
    number: int  # from 1 within its edition
    parent_id: int | None = Field(default=None, foreign_key="batch.id")  # NULL: made by the freeze
    first_id: int | None = Field(
        default=None, sa_type=RowNumber
    )  # deliveries from here on, whose `batch_id` is NULL; NULL: made out of another batch
    last_id: int | None = Field(default=None, sa_type=RowNumber)  # up to and with this one
    wave: int | None = None  # of an edition that goes out at local time: as `WaveZone` counts them; NULL: of none
    size: int  # deliveries that stand in it now
    due_at: datetime = Field(sa_type=Instant)  # of the next try
    promised_at: datetime = Field(sa_type=Instant)  # when it was first due: what `stale_after` is measured from
    state: BatchState = Field(sa_column=Column(choice(BatchState), nullable=False))
    epoch: int = 0  # counts claims, so that a process which overslept cannot act on an old one
    tries: int = 0  # calls that ended with nothing accepted
    owner: str | None = Field(default=None, max_length=200)  # the claiming process; NULL: nobody's
    lease_until: datetime | None = Field(default=None, sa_type=Instant)
    attempt: str | None = Field(default=None, max_length=32)  # of the latest call; NULL: none yet
    called_at: datetime | None = Field(default=None, sa_type=Instant)  # when that call began; NULL: none did
    done_at: datetime | None = Field(default=None, sa_type=Instant)  # when it was answered, for good; NULL: it was not
    held_until: datetime | None = Field(default=None, sa_type=Instant)  # the provider keeps it back; NULL: it does not
    answered_to: int | None = Field(
        default=None, sa_type=RowNumber
    )  # while calling: deliveries up to here are answered
    given_up_at: datetime | None = Field(default=None, sa_type=Instant)  # who is unknown in it is left so; NULL: not
    resent_at: datetime | None = Field(
        default=None, sa_type=Instant
    )  # when a standing order had it sent again; NULL: none
    provider_id: str | None = Field(default=None, max_length=200)  # the provider's name for the call; NULL: gave none
    note: str | None = Field(default=None, max_length=500)  # the latest error, scrubbed
    turn: int | None = None  # which of its edition's batches was done with when, from 1; NULL: it is not done
    asked_at: datetime | None = Field(
        default=None, sa_type=Instant
    )  # a person was asked if it is to be refused; NULL: not
    # The batch whose call was refused without a word about whose fault it is, and of which this one is a part or all;
    # NULL: no such thing happened. An acceptance among its parts proves that the message itself is good.
    suspect_id: int | None = Field(default=None, foreign_key="batch.id", index=True)


class WaveZone(Table, table=True):
    """When the people of a zone were due as an edition was frozen that goes out at local time, and in which wave.

    Of the zones that its audience had then. Who had none, or one that was not known, stands with the slot's own zone.
    """

    __tablename__ = "wave_zone"

    edition_id: int = Field(foreign_key="edition.id", primary_key=True)
    zone: str = Field(max_length=64, primary_key=True)  # IANA name
    wave: int  # from 1, in the order of their instants; 0: too late at the freeze, so that nobody of it is mailed
    due_at: datetime = Field(sa_type=Instant)  # of wave 0: when it would have been


class Attempt(Table, table=True):
    """One call to the provider: written before its first byte leaves, so that a later event finds its batch."""

    __tablename__ = "attempt"

    id: str = Field(primary_key=True, max_length=32)  # as it is sent along
    batch_id: int = Field(foreign_key="batch.id", index=True)
    called_at: datetime = Field(sa_type=Instant)


class Delivery(Table, table=True):
    """One recipient's copy. Its row number orders an edition's deliveries, so that a batch is a range of them."""

    __tablename__ = "delivery"
    __table_args__ = (
        UniqueConstraint("edition_id", "subscriber_id"),
        Index("ix_delivery_batch_id", "batch_id", **_only_where("batch_id IS NOT NULL")),
        Index("ix_delivery_unknown", "edition_id", **_only_where("outcome = 'unknown'")),
        Index("ix_delivery_bad", "edition_id", "fate", **_only_where("fate IN ('bounced', 'complained')")),
        # Asked of NULL first: SQLite makes a table of a list's words for each row, 1.5 s of a million.
        CheckConstraint(_null_or("outcome", Outcome), "outcome"),
        CheckConstraint(_null_or("fate", Fate), "fate"),
    )

    id: int | None = Field(default=None, primary_key=True, sa_type=RowNumber)
    edition_id: int = Field(foreign_key="edition.id")
    subscriber_id: int = Field(foreign_key="subscriber.id")
    batch_id: int | None = Field(default=None, foreign_key="batch.id")  # NULL: of the batch whose range it lies in
    outcome: Outcome | None = Field(default=None, sa_column=Column(choice(Outcome, check=False)))  # NULL: as its batch
    reason: str | None = Field(default=None, max_length=300)  # of an outcome; holds no address
    fate: Fate | None = Field(default=None, sa_column=Column(choice(Fate, check=False)))  # NULL: no event yet


class FoldedDeliveries(Table, table=True):
    """Many deliveries of an old edition that came to the same, in little room. See newsletter/folding.py."""

    __tablename__ = "folded_deliveries"
    __table_args__ = (Index("ix_folded_deliveries_edition_id", "edition_id", "first_subscriber"),)

    id: int | None = Field(default=None, primary_key=True)
    edition_id: int = Field(foreign_key="edition.id")
    outcome: Outcome = Field(sa_column=Column(choice(Outcome), nullable=False))  # as it stood when it was folded
    reason: str | None = Field(default=None, max_length=300)
    fate: Fate | None = Field(default=None, sa_column=Column(choice(Fate)))
    first_subscriber: int
    last_subscriber: int
    count: int
    subscribers: bytes  # their ids, ascending


class Pace(Table, table=True):
    """How a provider may be called now. Kept, so that a restart does not forget that it asked for rest."""

    __tablename__ = "pace"

    provider: str = Field(primary_key=True, max_length=30)
    calls: int  # at once, at most, in all processes; halved where it is throttled, and growing again
    failures: int = 0  # calls in a row that failed for a reason that is no recipient's
    unanswered: int = 0  # those of them that gave no answer
    not_before: datetime | None = Field(default=None, sa_type=Instant)  # it is left alone until then; NULL: it is not
    free_at: datetime | None = Field(default=None, sa_type=Instant)  # the limit a second is used up to then; NULL: not
    # Editions that wait for their turn while another has it, by row number: since when, and when that was said last, as
    # seconds since the epoch. NULL: none does.
    waiting: dict[str, list[float]] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    note: str | None = Field(default=None, max_length=500)  # of the latest failure


class Spending(Table, table=True):
    """How many recipients a provider was handed in a minute, in all or in one domain: what limits are held against."""

    __tablename__ = "spending"

    provider: str = Field(primary_key=True, max_length=30)
    domain: str = Field(primary_key=True, max_length=253)  # "" for all of them together
    minute: int = Field(primary_key=True)  # since the epoch
    recipients: int


class Watch(Table, table=True):
    """Since when the clock minds a newsletter: slots from before it never ran for are none of its business."""

    __tablename__ = "watch"

    newsletter: str = Field(primary_key=True, max_length=30)
    since: datetime = Field(sa_type=Instant)
    schedule: str = Field(sa_column=Column(Text, nullable=False))  # as it was when it was last looked at
    schedule_since: datetime = Field(sa_type=Instant)  # slots of it from before then do not count
    seen_at: datetime = Field(sa_type=Instant)  # when it was last looked at, to some minutes


class ExtraSlot(Table, table=True):
    """A slot of a newsletter that an operator put beside its schedule."""

    __tablename__ = "extra_slot"

    newsletter: str = Field(primary_key=True, max_length=30)
    slot: str = Field(primary_key=True, max_length=16)  # local wall clock, as `EditionRecord.slot`
    zone: str = Field(max_length=64)
    slot_at: datetime = Field(sa_type=Instant)
    added_at: datetime = Field(sa_type=Instant)
    added_by: str = Field(max_length=100)


class Chore(Table, table=True):
    """A recurring work of housekeeping: when it is due, who does it, and how it went."""

    __tablename__ = "chore"

    name: str = Field(primary_key=True, max_length=30)
    due_at: datetime = Field(sa_type=Instant)
    owner: str | None = Field(default=None, max_length=200)  # the process that does it now; NULL: none
    lease_until: datetime | None = Field(default=None, sa_type=Instant)
    began_at: datetime | None = Field(default=None, sa_type=Instant)  # the latest time; NULL: never
    succeeded_at: datetime | None = Field(default=None, sa_type=Instant)  # the same
    failed_at: datetime | None = Field(default=None, sa_type=Instant)
    failures: int = 0  # in a row, up to now
    said: str | None = Field(default=None, max_length=500)  # what the latest run came to


class Alarm(Table, table=True):
    """Something that a person must look into, from when it was first seen until it was no longer so."""

    __tablename__ = "alarm"
    __table_args__ = (Index("ix_alarm_key", "key", unique=True, **_only_where("over_at IS NULL")),)

    id: int | None = Field(default=None, primary_key=True)
    key: str = Field(max_length=200)  # what it is about, the same for as long as it is the same; no personal data
    what: str = Field(max_length=500)  # one sentence, as it stood last
    since: datetime = Field(sa_type=Instant)
    over_at: datetime | None = Field(default=None, sa_type=Instant)  # NULL: it still is


class DeskKind(StrEnum):
    """What the desk is told."""

    PROOF = "proof"  # the edition as readers would get it, to be looked at, and approved where that is asked for
    REPORT = "report"  # what became of an edition
    ALERT = "alert"  # something to look into; or that it is over


class Channel(StrEnum):
    """How the desk is told."""

    MAIL = "mail"
    HOOK = "hook"  # a web address that takes JSON as Slack's incoming webhooks do


class DeskNotice(Table, table=True):
    """A notice to the desk by one channel. It may arrive twice where a process dies in the call."""

    __tablename__ = "desk_notice"
    __table_args__ = (UniqueConstraint("key", "channel"), Index("ix_desk_notice_state_due_at", "state", "due_at"))

    id: int | None = Field(default=None, primary_key=True)
    key: str = Field(max_length=200)  # what it says, so that it is said once whoever finds it out
    channel: Channel = Field(sa_column=Column(choice(Channel), nullable=False))
    kind: DeskKind = Field(sa_column=Column(choice(DeskKind), nullable=False))
    newsletter: str | None = Field(default=None, max_length=30)  # NULL: of none in particular
    edition_id: int | None = Field(default=None, foreign_key="edition.id")  # the same
    message_id: int | None = None  # of a proof: the row in `message` that it shows
    subject: str = Field(max_length=300)
    content: str = Field(sa_column=Column(Text, nullable=False))  # JSON: what is said and shown, who has taken it
    created_at: datetime = Field(sa_type=Instant)
    due_at: datetime = Field(sa_type=Instant)
    state: NoticeState = Field(default=NoticeState.PENDING, sa_column=Column(choice(NoticeState), nullable=False))
    tries: int = 0
    lease_until: datetime | None = Field(default=None, sa_type=Instant)
    attempt: str | None = Field(default=None, max_length=32)  # of the latest call; NULL: none yet
    note: str | None = Field(default=None, max_length=500)  # the latest error, scrubbed
    done_at: datetime | None = Field(default=None, sa_type=Instant)


class ClockProcess(Table, table=True):
    """A process that runs the clock, and which configuration it has read."""

    __tablename__ = "clock_process"

    owner: str = Field(primary_key=True, max_length=200)  # as `newsletter.processes` names it
    started_at: datetime = Field(sa_type=Instant)
    seen_at: datetime = Field(sa_type=Instant)
    loaded_at: datetime = Field(sa_type=Instant)  # when it last looked at the configuration
    configuration: str = Field(max_length=16)  # the beginning of the SHA-256 of what it goes by
    fault: str | None = Field(default=None, max_length=500)  # why it goes on with the one before; NULL: it does not
