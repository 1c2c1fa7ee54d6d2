"""What a provider tells later: in any order, however often, fates move forward and nobody is mailed who must not be.

Events are handed over as values; how they come in over HTTP, signed, is in test_hooks.py.
"""

import random
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, update
from sqlmodel import col

from newsletter import control, folding, ledger, outcomes, people, report, store
from newsletter.control import StandingOrder, Verdict
from newsletter.edition import AttemptId, DeliveryId, Event, EventKind
from newsletter.errors import OutcomeUnknown
from newsletter.housekeeping import purge_all
from newsletter.models import Batch, BatchState, Delivery, EditionRecord, EditionState, EventRecord, Fate, Outcome
from newsletter.names import Names
from newsletter.newsroom import Newsroom
from newsletter.outcomes import Rules, Taken
from newsletter.work import Work
from subscribers import (
    BY_OPERATOR,
    ConsentEvent,
    Happening,
    Reason,
    State,
    Subscriber,
    Subscription,
    Suppression,
    Way,
    add_confirmed,
    ensure_list,
    find,
    forget,
    leave,
    parse,
    reading,
    transaction,
)
from subscribers.consent import log
from tests.conftest import NOW, Desk
from tests.test_dispatch import Killed, Scripted, run, start, tally

Kind = EventKind
BOUNCED, BLOCKED, COMPLAINED, DELIVERED, DROPPED, LEFT, PROCESSED = (
    Kind.BOUNCED,
    Kind.BLOCKED,
    Kind.COMPLAINED,
    Kind.DELIVERED,
    Kind.DROPPED,
    Kind.LEFT,
    Kind.PROCESSED,
)


@dataclass
class Sent:
    """An edition that went out, and the names its copies have."""

    newsroom: Newsroom
    edition: int
    provider: Scripted
    desk: Desk
    ids: Iterable[int] = field(default_factory=lambda: count(1))

    @property
    def names(self) -> dict[str, DeliveryId]:
        with reading(self.newsroom.engine) as session:
            record = session.get_one(EditionRecord, self.edition)
            rows = session.execute(
                select(col(Subscriber.address), col(Subscriber.id))
                .join(Delivery, col(Delivery.subscriber_id) == col(Subscriber.id))
                .where(col(Delivery.edition_id) == self.edition)
            ).all()
            names = Names(store.instance(session).instance_id).of(record.tag, [row for _, row in rows])
        return {address: name for (address, _), name in zip(rows, names, strict=True)}

    def event(self, reader: int, kind: Kind, **more: Any) -> Event:
        made = Event(
            id=f"e{next(iter(self.ids))}",
            kind=kind,
            at=self.desk.clock(),
            said=str(kind),
            delivery=self.names[f"reader{reader}@example.org"],
        )
        return replace(made, **more)

    def take(self, *events: Event) -> Taken:
        return self.newsroom.take(events)

    def fate(self, reader: int) -> Fate | None:
        return self.row(reader).fate

    def row(self, reader: int) -> Delivery:
        with reading(self.newsroom.engine) as session:
            subscriber = find(session, parse(f"reader{reader}@example.org"))
            assert subscriber is not None
            theirs = (col(Delivery.edition_id) == self.edition, col(Delivery.subscriber_id) == subscriber.id)
            found: Delivery = session.execute(select(Delivery).where(*theirs)).scalar_one()
            return found

    def batches(self) -> list[Batch]:
        with reading(self.newsroom.engine) as session:
            batches = select(Batch).where(col(Batch.edition_id) == self.edition).order_by(col(Batch.number))
            return list(session.execute(batches).scalars())

    def record(self) -> EditionRecord:
        with reading(self.newsroom.engine) as session:
            return session.get_one(EditionRecord, self.edition)


def sent(desk: Desk, readers: int, script: Sequence[str] = (), *, atomic: bool = True, dispatch: bool = True) -> Sent:
    newsroom, edition = start(desk, readers, provider := Scripted(list(script), atomic=atomic))
    if dispatch:
        run(newsroom, desk.clock, edition)
    return Sent(newsroom, edition, provider, desk)


def suppressed(newsroom: Newsroom) -> dict[str, Reason]:
    with reading(newsroom.engine) as session:
        return {one.key: one.reason for one in session.execute(select(Suppression)).scalars()}


def standing(newsroom: Newsroom, reader: int) -> dict[str, State]:
    return {slug: state for slug, state, _ in people.show(newsroom, f"reader{reader}@example.org").subscriptions}


# ------------------------------------------------------------------------------------------ fates


@pytest.mark.parametrize(
    ("kinds", "fate"),
    [
        ([PROCESSED], Fate.PROCESSED),
        ([Kind.DELAYED, PROCESSED], Fate.DELAYED),
        ([DELIVERED, Kind.DELAYED, PROCESSED], Fate.DELIVERED),
        ([Kind.OPENED], Fate.DELIVERED),
        ([Kind.CLICKED, PROCESSED], Fate.DELIVERED),
        ([DELIVERED, BOUNCED], Fate.BOUNCED),
        ([COMPLAINED, DELIVERED, Kind.OPENED], Fate.COMPLAINED),
        ([BLOCKED, Kind.DELAYED], Fate.BLOCKED),
        ([DROPPED, PROCESSED], Fate.DROPPED),
        ([Kind.UNKNOWN, Kind.REJOINED], None),
    ],
)
def test_a_fate_only_moves_forward(desk: Desk, kinds: list[Kind], fate: Fate | None) -> None:
    one_post = sent(desk, 2)
    one_post.take(*(one_post.event(0, kind) for kind in kinds))
    for kind in kinds:
        one_post.take(one_post.event(1, kind))
    assert (one_post.fate(0), one_post.fate(1)) == (fate, fate)


def test_an_event_is_on_record_once_and_acts_once(desk: Desk) -> None:
    made = sent(desk, 3)
    bounce = made.event(0, BOUNCED, reason="550 no such user")
    assert made.take(bounce, bounce) == Taken(told=2, new=1, fates=1, suppressed=1)
    people.unsuppress(made.newsroom, "reader0@example.org", actor="test", note=None)
    assert made.take(bounce) == Taken(told=1)
    assert suppressed(made.newsroom) == {}, "what an operator lifted stays lifted"
    assert made.newsroom.event_counts() == {("scripted", "bounced"): 1}


def test_a_bad_event_costs_nobody_elses(desk: Desk) -> None:
    made = sent(desk, 3)
    bad = made.event(0, DELIVERED, id="\0" * 300, said="\ud800" * 100, reason="a\0b", attempt="x" * 99)
    bad = replace(bad, delivery=DeliveryId("f" * 32))
    told = made.take(made.event(0, DELIVERED), bad, made.event(1, Kind.UNKNOWN, said="new"), made.event(2, BOUNCED))
    assert (told.new, told.fates) == (4, 2)
    assert (made.fate(0), made.fate(1), made.fate(2)) == (Fate.DELIVERED, None, Fate.BOUNCED)


def test_events_of_a_copy_of_the_database_are_kept_and_do_nothing(desk: Desk) -> None:
    made = sent(desk, 2)
    foreign = Names("another instance").of(made.record().tag, [1])[0]
    told = made.take(
        made.event(0, BOUNCED, delivery=foreign),
        made.event(0, COMPLAINED, delivery=DeliveryId("0" * 32)),
        made.event(0, BOUNCED, delivery=DeliveryId("proof0123")),
        made.event(0, BOUNCED, delivery=DeliveryId("f" * 32), attempt=AttemptId("nobodys")),
    )
    assert told == Taken(told=4, new=4)


# what comes of a day, in any order

READERS = 9
DAY = [(reader, kind) for reader in range(READERS) for kind in (PROCESSED, DELIVERED)] + [
    (1, Kind.OPENED),
    (2, BOUNCED),
    (3, COMPLAINED),
    (3, BOUNCED),
    (4, BLOCKED),
    (5, LEFT),
    (6, LEFT),
    (6, COMPLAINED),
    (7, DROPPED),
    (8, Kind.UNKNOWN),
]


@given(seed=st.integers(0, 10**6), cuts=st.lists(st.integers(1, 12), min_size=1, max_size=12), again=st.integers(1, 2))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_days_events_come_to_the_same_however_they_are_told(
    tmp_path: Path, seed: int, cuts: list[int], again: int
) -> None:
    shutil.rmtree(tmp_path, ignore_errors=True)
    desk = Desk(tmp_path)
    try:
        made = sent(desk, READERS, ["time out"])
        names = made.names
        attempt = made.batches()[0].attempt
        events = [
            Event(
                id=f"{number}",
                kind=kind,
                at=desk.clock(),
                said=str(kind),
                delivery=names[f"reader{reader}@example.org"],
                attempt=AttemptId(attempt or ""),
                listed=BOUNCED if kind is DROPPED else None,
            )
            for number, (reader, kind) in enumerate(DAY)
        ] * again
        random.Random(seed).shuffle(events)
        while events:
            size = cuts.pop(0) if cuts else len(events)
            made.take(*events[:size])
            events = events[size:]
        told = tally(made.newsroom, made.edition)
        assert (told.accepted, told.unknown, told.holds) == (READERS, 0, True)
        assert told.fates == {"delivered": 4, "blocked": 1, "dropped": 1, "bounced": 1, "complained": 2}
        assert suppressed(made.newsroom) == {
            "reader2@example.org": Reason.HARD_BOUNCE,
            "reader3@example.org": Reason.COMPLAINT,
            "reader6@example.org": Reason.COMPLAINT,
            "reader7@example.org": Reason.HARD_BOUNCE,
        }
        states = [standing(made.newsroom, reader)["daily"] for reader in range(READERS)]
        assert states[2:4] == [State.BOUNCED, State.COMPLAINED]
        assert states[5] is State.UNSUBSCRIBED
        assert states[6] in {State.UNSUBSCRIBED, State.COMPLAINED}
        assert states[7] is State.BOUNCED
    finally:
        desk.close()


# ------------------------------------------------------------------------------------------ suppressing


def test_bounces_and_complaints_suppress_many_at_once(desk: Desk) -> None:
    made = sent(desk, 60)
    told = made.take(*(made.event(reader, COMPLAINED if reader % 2 else BOUNCED) for reader in range(50)))
    assert (told.suppressed, told.fates) == (50, 50)
    for reader, state in ((0, State.BOUNCED), (1, State.COMPLAINED), (50, State.CONFIRMED)):
        assert standing(made.newsroom, reader) == {"daily": state}
    with reading(made.newsroom.engine) as session:
        subscriber = find(session, parse("reader1@example.org"))
        assert subscriber is not None
        theirs = select(ConsentEvent).where(col(ConsentEvent.subscriber_id) == subscriber.id)
        lines = session.execute(theirs.order_by(col(ConsentEvent.id))).scalars().all()
    assert [(line.event, line.actor, line.way) for line in lines[-2:]] == [
        (Happening.SUPPRESSED, "provider:scripted", Way.PROVIDER),
        (Happening.COMPLAINED, "provider:scripted", Way.PROVIDER),
    ]
    assert lines[-1].before == {"state": "confirmed"}


@pytest.mark.parametrize(
    ("listed", "reason", "state"),
    [
        (BOUNCED, Reason.HARD_BOUNCE, State.BOUNCED),
        (COMPLAINED, Reason.COMPLAINT, State.COMPLAINED),
        (LEFT, None, State.UNSUBSCRIBED),
        (None, None, State.CONFIRMED),
    ],
)
def test_a_drop_means_what_the_providers_own_list_says(
    desk: Desk, listed: Kind | None, reason: Reason | None, state: State
) -> None:
    made = sent(desk, 1)
    made.take(made.event(0, DROPPED, listed=listed))
    assert made.fate(0) is Fate.DROPPED
    assert suppressed(made.newsroom).get("reader0@example.org") == reason
    assert standing(made.newsroom, 0) == {"daily": state}


def test_a_complaint_weighs_more_than_a_bounce_and_than_an_operators_word(desk: Desk) -> None:
    made = sent(desk, 2)
    made.take(made.event(0, BOUNCED))
    people.suppress(made.newsroom, "reader1@example.org", actor="test", note=None)
    made.take(made.event(0, COMPLAINED), made.event(1, COMPLAINED), made.event(1, BOUNCED))
    assert set(suppressed(made.newsroom).values()) == {Reason.COMPLAINT}
    people.unsuppress(made.newsroom, "reader0@example.org", actor="test", note=None)
    assert standing(made.newsroom, 0) == {"daily": State.COMPLAINED}, "lifting it does not bring them back"
    assert standing(made.newsroom, 1) == {"daily": State.COMPLAINED}


def test_an_event_without_our_names_is_found_by_its_address_and_strangers_are_not_taken_down(desk: Desk) -> None:
    made = sent(desk, 2)
    by_address = [
        made.event(0, BOUNCED, delivery=None, address=address)
        for address in ("Reader1@EXAMPLE.org", "stranger@example.org", "no address")
    ]
    told = made.take(*by_address)
    assert (told.new, told.suppressed, told.fates) == (3, 1, 1)
    assert suppressed(made.newsroom) == {"reader1@example.org": Reason.HARD_BOUNCE}
    assert made.fate(1) is Fate.BOUNCED, "it is about their latest copy, of which nothing better is known"
    with reading(made.newsroom.engine) as session:
        kept = session.execute(select(col(EventRecord.address)).order_by(col(EventRecord.id))).scalars()
        assert [*kept] == ["Reader1@EXAMPLE.org", None, None]


def test_an_address_that_no_signature_vouches_for_is_nobodys_word(desk: Desk) -> None:
    """A mail to where bounces come in can be written by anybody, about anybody."""
    made = sent(desk, 2)
    forged = made.event(0, COMPLAINED, delivery=None, address="reader0@example.org", vouched=False)
    assert made.take(forged) == Taken(told=1, new=1)
    assert made.take(made.event(1, BOUNCED, vouched=False)).suppressed == 1, (
        "who knows the delivery's name had the mail"
    )


def test_an_address_alone_overrules_nothing_that_is_known_of_a_copy(desk: Desk) -> None:
    made = sent(desk, 1)
    made.take(made.event(0, DELIVERED))
    made.take(made.event(0, BLOCKED, delivery=None, address="reader0@example.org"))
    assert made.fate(0) is Fate.DELIVERED


def test_a_bounce_of_an_address_that_was_changed_since_is_not_held_against_the_new_one(desk: Desk) -> None:
    made = sent(desk, 1)
    bounce = made.event(0, BOUNCED)
    with transaction(made.newsroom.engine) as session:
        subscriber = find(session, parse("reader0@example.org"))
        assert subscriber is not None
        desk.clock.forward(timedelta(hours=1))
        subscriber.address = subscriber.key = "new@example.org"
        log(
            session, Happening.CHANGED, subscriber.id, None, desk.clock(), "subscriber", BY_OPERATOR, evidence="address"
        )
    assert made.take(replace(bounce, at=desk.clock())).suppressed == 0
    assert suppressed(made.newsroom) == {}


def test_what_was_lifted_after_it_happened_stays_lifted(desk: Desk) -> None:
    made = sent(desk, 1)
    late = made.event(0, BOUNCED)
    desk.clock.forward(timedelta(hours=1))
    people.suppress(made.newsroom, "reader0@example.org", actor="test", note=None)
    people.unsuppress(made.newsroom, "reader0@example.org", actor="test", note=None)
    assert made.take(late).suppressed == 0
    assert made.take(made.event(0, BOUNCED, at=desk.clock() + timedelta(seconds=1))).suppressed == 1


def test_who_was_erased_does_not_come_back_by_an_event(desk: Desk) -> None:
    made = sent(desk, 1)
    event = made.event(0, BOUNCED)
    by_address = made.event(0, COMPLAINED, delivery=None, address="reader0@example.org")
    with transaction(made.newsroom.engine) as session:
        subscriber = find(session, parse("reader0@example.org"))
        assert subscriber is not None
        forget(session, subscriber, secret=b"k" * 32, now=desk.clock(), actor="test", origin=BY_OPERATOR)
    told = made.take(event, by_address, replace(event, id="left", kind=LEFT))
    assert (told.suppressed, told.left) == (0, 0)
    assert "reader0@example.org" not in suppressed(made.newsroom)
    with reading(made.newsroom.engine) as session:
        assert {*session.execute(select(col(EventRecord.address))).scalars()} == {None}


# ------------------------------------------------------------------------------------------ soft bounces


def editions(desk: Desk, number: int, readers: int) -> list[Sent]:
    """So many editions of so many days."""
    made = [sent(desk, readers)]
    newsroom = made[0].newsroom
    for day in range(1, number):
        desk.clock.now = NOW + timedelta(days=day)
        desk.brief(f"story-{day}")
        record = newsroom.send("daily").record
        assert record.id is not None
        made.append(Sent(newsroom, record.id, made[0].provider, desk, made[0].ids))
    return made


@pytest.mark.parametrize("seed", range(3))
def test_blocks_in_a_row_suppress_in_whatever_order_they_are_told(desk: Desk, seed: int) -> None:
    days = editions(desk, 5, 3)
    events = [day.event(0, BLOCKED) for day in days]
    events += [day.event(1, BLOCKED) for day in days[:4]] + [days[4].event(1, DELIVERED)]
    events += [day.event(2, BLOCKED) for day in days if day is not days[2]] + [days[2].event(2, DELIVERED)]
    random.Random(seed).shuffle(events)
    for event in events:
        days[0].take(event)
    assert suppressed(days[0].newsroom) == {"reader0@example.org": Reason.HARD_BOUNCE}


def test_what_was_rejected_for_its_senders_sake_suppresses_nobody_and_ends_no_run(desk: Desk) -> None:
    days = editions(desk, 6, 2)
    for day in days:
        day.take(day.event(0, BLOCKED, of_sender=True), day.event(1, BLOCKED, of_sender=day is days[2]))
    assert suppressed(days[0].newsroom) == {"reader1@example.org": Reason.HARD_BOUNCE}
    assert (days[2].fate(0), days[2].fate(1), days[3].fate(1)) == (Fate.REJECTED, Fate.REJECTED, Fate.BLOCKED)


def test_blocks_suppress_nobody_where_that_is_not_wanted(desk: Desk) -> None:
    desk.configure(lambda text: text + "\n[dispatch]\nsoft_bounces = 0\n")
    days = editions(desk, 6, 1)
    for day in days:
        day.take(day.event(0, BLOCKED))
    assert suppressed(days[0].newsroom) == {}


# ------------------------------------------------------------------------------------------ leaving


def test_leaving_at_the_provider_leaves_the_newsletters_lists_and_joining_there_changes_nothing(desk: Desk) -> None:
    made = sent(desk, 2)
    with transaction(made.newsroom.engine) as session:
        other = ensure_list(session, "weekly", "Weekly", desk.clock())
        for reader in range(2):
            mailbox = parse(f"reader{reader}@example.org")
            add_confirmed(session, mailbox, other, now=desk.clock(), actor="test", evidence="test")
    told = made.take(
        made.event(0, LEFT), made.event(1, LEFT, delivery=None, address="reader1@example.org"), made.event(0, LEFT)
    )
    assert (told.left, told.suppressed) == (2, 0)
    assert standing(made.newsroom, 0) == {"daily": State.UNSUBSCRIBED, "weekly": State.CONFIRMED}
    assert set(standing(made.newsroom, 1).values()) == {State.UNSUBSCRIBED}, "an address alone stands for all lists"
    made.take(made.event(0, Kind.REJOINED), made.event(1, Kind.REJOINED))
    assert standing(made.newsroom, 0)["daily"] is State.UNSUBSCRIBED
    assert made.fate(0) is Fate.DELIVERED


def test_an_old_leaving_does_not_end_what_was_joined_since(desk: Desk) -> None:
    made = sent(desk, 1)
    late = made.event(0, LEFT)
    desk.clock.forward(timedelta(hours=2))
    with transaction(made.newsroom.engine) as session:
        subscriber = find(session, parse("reader0@example.org"))
        assert subscriber is not None
        leave(session, subscriber, None, now=desk.clock(), actor="subscriber")
        session.execute(update(Subscription).values(state=State.CONFIRMED, changed_at=desk.clock()))
    assert made.take(late).left == 0
    assert standing(made.newsroom, 0) == {"daily": State.CONFIRMED}


# ------------------------------------------------------------------------------------------ the unknown


def test_one_event_proves_the_whole_call_of_an_atomic_provider(desk: Desk) -> None:
    made = sent(desk, 25, ["accept", "time out", "accept"])
    (lost,) = [batch for batch in made.batches() if batch.state is BatchState.UNKNOWN]
    assert tally(made.newsroom, made.edition).unknown == 10
    assert made.take(made.event(0, PROCESSED, delivery=None, attempt=AttemptId(lost.attempt or ""))).proven == 1
    told = tally(made.newsroom, made.edition)
    assert (told.accepted, told.unknown, told.holds) == (25, 0, True)


def test_an_event_proves_its_own_copy_alone_where_calls_are_not_atomic(desk: Desk) -> None:
    made = sent(desk, 10, ["time out"], atomic=False)
    (lost,) = made.batches()
    attempt = AttemptId(lost.attempt or "")
    assert made.take(made.event(3, BOUNCED, attempt=attempt), made.event(4, DELIVERED)).proven == 2
    told = tally(made.newsroom, made.edition)
    assert (told.accepted, told.unknown, told.holds) == (2, 8, True)
    assert made.take(*(made.event(reader, DELIVERED) for reader in range(10))).proven == 8
    assert made.batches()[0].state is BatchState.DONE, "nobody is unknown in it any more"


def test_one_who_was_unknown_alone_is_proven_by_their_event(desk: Desk) -> None:
    made = sent(desk, 10, ["silent about one"], atomic=False)
    assert tally(made.newsroom, made.edition).unknown == 1
    made.take(*(made.event(reader, DELIVERED) for reader in range(10)))
    told = tally(made.newsroom, made.edition)
    assert (told.accepted, told.unknown, told.fates) == (10, 0, {"delivered": 10})


def test_who_was_refused_stays_refused_when_the_call_is_proven(desk: Desk) -> None:
    made = sent(desk, 10, ["time out"])
    (lost,) = made.batches()
    refused = made.row(2).id
    assert refused is not None
    with transaction(made.newsroom.engine) as session:
        ledger.write_outcomes(session, {refused: (Outcome.REFUSED, "no such mailbox")})
    made.take(made.event(5, DELIVERED, attempt=AttemptId(lost.attempt or "")))
    told = tally(made.newsroom, made.edition)
    assert (told.accepted, told.refused, told.unknown, told.holds) == (9, 1, 0, True)


@pytest.mark.parametrize("atomic", [True, False])
def test_an_event_that_overtook_a_lost_answer_proves_the_call_afterwards(desk: Desk, atomic: bool) -> None:
    made = sent(desk, 10, atomic=atomic, dispatch=False)
    original = made.provider.submit

    def overtaken(message: Any, recipients: Any, attempt: AttemptId, started: Any) -> Any:
        list(original(message, recipients, attempt, started))
        assert made.take(made.event(0, PROCESSED, attempt=attempt)).proven == 0, "the answer itself is to come"
        raise OutcomeUnknown("scripted", "the answer was lost")

    made.provider.submit = overtaken  # type: ignore[method-assign]
    run(made.newsroom, desk.clock, made.edition)
    made.newsroom.reconcile()
    told = tally(made.newsroom, made.edition)
    assert (told.accepted, told.unknown) == ((10, 0) if atomic else (1, 9))


def test_a_late_event_stops_the_resend_that_an_operator_asked_for(desk: Desk) -> None:
    made = sent(desk, 20, ["accept", "time out"])
    (lost,) = [batch for batch in made.batches() if batch.state is BatchState.UNKNOWN]
    with transaction(made.newsroom.engine) as session:
        record = session.get_one(EditionRecord, made.edition)
        assert control.resolve(session, record, Verdict.RESEND, actor="test", now=desk.clock()) == 10
    assert tally(made.newsroom, made.edition).waiting == 10
    made.take(made.event(0, DELIVERED, delivery=None, attempt=AttemptId(lost.attempt or "")))
    assert made.record().state is EditionState.CLOSED, "nothing waits any more"
    run(made.newsroom, desk.clock, made.edition)
    assert len(made.provider.calls) == 2
    assert tally(made.newsroom, made.edition).accepted == 20


def test_a_late_event_takes_its_own_copy_out_of_a_resend(desk: Desk) -> None:
    made = sent(desk, 10, ["time out"], atomic=False)
    with transaction(made.newsroom.engine) as session:
        record = session.get_one(EditionRecord, made.edition)
        control.resolve(session, record, Verdict.RESEND, actor="test", now=desk.clock())
    made.take(made.event(4, DELIVERED), made.event(7, BOUNCED))
    run(made.newsroom, desk.clock, made.edition)
    assert len(made.provider.calls[-1]) == 8
    assert not {"reader4@example.org", "reader7@example.org"} & set(made.provider.calls[-1])
    assert tally(made.newsroom, made.edition).accepted == 10


def test_an_event_that_comes_while_the_resend_is_built_stops_the_call(desk: Desk) -> None:
    made = sent(desk, 10, ["time out"])
    attempt = AttemptId(made.batches()[0].attempt or "")
    with transaction(made.newsroom.engine) as session:
        record = session.get_one(EditionRecord, made.edition)
        control.resolve(session, record, Verdict.RESEND, actor="test", now=desk.clock())
    original = made.provider.submit

    def slow(message: Any, recipients: Any, called: Any, started: Any) -> Any:
        made.take(made.event(0, DELIVERED, attempt=attempt))
        return original(message, recipients, called, started)

    made.provider.submit = slow  # type: ignore[assignment, method-assign]
    run(made.newsroom, desk.clock, made.edition)
    assert len(made.provider.taken) == 10, "nobody got a second copy"
    assert tally(made.newsroom, made.edition).accepted == 10


def test_a_call_of_a_process_that_died_is_proven_but_not_one_that_is_under_way(desk: Desk) -> None:
    made = sent(desk, 10, ["die after"], dispatch=False)
    with pytest.raises(Killed):
        run(made.newsroom, desk.clock, made.edition)
    (batch,) = made.batches()
    assert batch.state is BatchState.CALLING
    event = made.event(0, PROCESSED, attempt=AttemptId(batch.attempt or ""))
    assert made.take(event).proven == 0, "its process may be about to record the answer"
    desk.clock.forward(timedelta(minutes=6))
    made.take(made.event(1, PROCESSED, attempt=AttemptId(batch.attempt or "")))
    assert (made.batches()[0].state, made.record().state) == (BatchState.DONE, EditionState.CLOSED)


@pytest.mark.parametrize(("kind", "state"), [(DROPPED, "cancelled"), (PROCESSED, "cancelled"), (DELIVERED, "done")])
def test_what_was_called_back_counts_as_sent_where_an_event_shows_that_it_went_out(
    desk: Desk, kind: Kind, state: str
) -> None:
    made = sent(desk, 10)
    (batch,) = made.batches()
    with transaction(made.newsroom.engine) as session:
        record = session.get_one(EditionRecord, made.edition)
        record.state = EditionState.CANCELLED
        assert control.recalled(session, [batch.id or 0]) == 10
    made.take(made.event(0, kind, attempt=AttemptId(batch.attempt or "")))
    assert made.batches()[0].state == state
    assert tally(made.newsroom, made.edition).holds


def test_an_event_of_an_earlier_call_proves_no_later_batch(desk: Desk) -> None:
    made = sent(desk, 10, ["one later"])
    first, child = made.batches()
    assert (first.state, child.state) == (BatchState.DONE, BatchState.DONE)
    with transaction(made.newsroom.engine) as session:
        session.execute(update(Batch).where(col(Batch.id) == child.id).values(state=BatchState.UNKNOWN, done_at=None))
    made.take(made.event(5, DELIVERED, attempt=AttemptId(first.attempt or "")))
    assert tally(made.newsroom, made.edition).unknown == 1


def test_the_standing_order_is_followed_without_a_dispatch(desk: Desk) -> None:
    desk.configure(lambda text: text + '\n[dispatch]\non_unknown = "drop"\n')
    made = sent(desk, 10, ["time out"])
    work = Work(made.newsroom)
    assert work.once()
    assert tally(made.newsroom, made.edition).given_up == 0
    desk.clock.forward(timedelta(hours=2))
    assert work.once()
    assert tally(made.newsroom, made.edition).given_up == 10
    attempt = AttemptId(made.batches()[0].attempt or "")
    made.take(made.event(0, DELIVERED, attempt=attempt))
    told = tally(made.newsroom, made.edition)
    assert (told.accepted, told.given_up) == (10, 0), "what was given up is told all the same"


def test_old_editions_are_folded_without_anybody_asking_and_their_events_suppress_all_the_same(desk: Desk) -> None:
    made = sent(desk, 10)
    event = made.event(3, BOUNCED)
    desk.clock.forward(timedelta(days=91))
    assert Work(made.newsroom).once()
    assert made.record().folded_at is not None
    told = made.take(replace(event, at=desk.clock()), replace(event, id="x", kind=COMPLAINED, at=desk.clock()))
    assert (told.fates, told.suppressed) == (0, 1)
    assert suppressed(made.newsroom) == {"reader3@example.org": Reason.COMPLAINT}
    assert tally(made.newsroom, made.edition).fates == {}
    with reading(made.newsroom.engine) as session:
        subscriber = find(session, parse("reader3@example.org"))
        assert subscriber is not None
        (copy,) = folding.copies_of(session, subscriber.id or 0)
    assert (copy.outcome, copy.fate) == (Outcome.ACCEPTED, None)


# ------------------------------------------------------------------------------------------ time, and what is shown


def test_events_go_when_they_have_had_their_time_and_what_they_came_to_stays(desk: Desk) -> None:
    made = sent(desk, 2)
    made.take(made.event(0, BOUNCED))
    desk.clock.forward(timedelta(days=29))
    made.take(made.event(1, DELIVERED))
    purge_all(made.newsroom)
    assert sum(made.newsroom.event_counts().values()) == 2
    desk.clock.forward(timedelta(days=2))
    purge_all(made.newsroom)
    assert made.newsroom.event_counts() == {("scripted", "delivered"): 1}
    assert made.fate(0) is Fate.BOUNCED
    assert suppressed(made.newsroom)


def test_purging_goes_on_slice_by_slice(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "_PURGED_AT_ONCE", 3)
    made = sent(desk, 10)
    made.take(*(made.event(reader, DELIVERED) for reader in range(10)))
    desk.clock.forward(timedelta(days=31))
    purge_all(made.newsroom)
    assert made.newsroom.event_counts() == {}


def test_an_edition_shows_its_fates_and_says_loudly_what_is_too_much(desk: Desk) -> None:
    made = sent(desk, 100)
    made.take(*(made.event(reader, DELIVERED) for reader in range(95)))
    shown = "\n".join(report.edition_lines(made.newsroom.edition("daily")))
    assert "  delivered 95\n" in f"{shown}\n"
    assert "TOO MANY" not in shown
    made.take(made.event(0, COMPLAINED), *(made.event(reader, BOUNCED) for reader in (97, 98, 99)))
    shown = "\n".join(report.edition_lines(made.newsroom.edition("daily")))
    assert "  delivered 94, bounced 3 (3.00 %), complained 1 (1.00 %)\n" in shown
    assert "TOO MANY complained: 1.00 % of 100, where 0.1 % is the most" in shown
    assert "TOO MANY bounced: 3.00 % of 100, where 2 % is the most" in shown
    assert report.account_json(made.newsroom.edition("daily"))["tally"]["fates"]["bounced"] == 3


def test_an_order_waits_for_nothing_that_is_proven(desk: Desk) -> None:
    """The event and the standing order come at the same moment: the event is believed."""
    made = sent(desk, 10, ["time out"])
    attempt = made.batches()[0].attempt
    with transaction(made.newsroom.engine) as session:
        told = [made.event(0, PROCESSED, attempt=AttemptId(attempt or ""))]
        store.add_events(session, "scripted", told, desk.clock())
        record = session.get_one(EditionRecord, made.edition)
        order = StandingOrder(timedelta(0), Verdict.RESEND)
        later: datetime = desk.clock() + timedelta(hours=1)
        assert control.follow(session, record, order, made.provider, later) == 0
    assert tally(made.newsroom, made.edition).accepted == 10


def test_the_rules_need_no_newsletter_that_is_still_configured(desk: Desk) -> None:
    made = sent(desk, 1)
    with transaction(made.newsroom.engine) as session:
        told = outcomes.take(session, made.provider, [made.event(0, LEFT)], desk.clock(), Rules())
    assert told.left == 1
