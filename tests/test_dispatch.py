"""Promises 2, 3, 4, 6, 12 and 13: once a recipient, nothing lost, crash-safe, consent wins, never stale, only here.

A scripted provider misbehaves in every way the protocol names, and dies in the middle; the ledger is then held against
what the provider really took.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, select
from sqlmodel import Session, col

from newsletter import ledger, operating, processes, store
from newsletter import tally as tallies
from newsletter.checkup import examine
from newsletter.dispatch import Dispatcher, allowed
from newsletter.drafting import Draft
from newsletter.edition import AttemptId, DeliveryId, Event, Finding, Message, Receipt, Recipient, Result
from newsletter.errors import EditionError, OutcomeUnknown, ProviderRefused, Throttled, Unreachable, WebhookRejected
from newsletter.models import BatchState, EditionRecord, EditionState, OperatorAct, Outcome
from newsletter.newsroom import Newsroom
from newsletter.pace import Limits
from newsletter.schedule import Slot
from newsletter.settlement import back_off, settle
from newsletter.tally import Tally
from subscribers import Reason, Subscriber, Writer, find, leave, parse, reading, suppress, transaction
from tests.conftest import NOW, Clock, Desk


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it, so nothing is written after it."""


@dataclass
class Scripted:
    """A provider that does what its script says, call by call, and remembers whom it took. Not idempotent."""

    script: list[str] = field(default_factory=list)
    name: str = "scripted"
    batch_size: int = 10
    idempotent: bool = False
    live: bool = False
    atomic: bool = False
    taken: list[DeliveryId] = field(default_factory=list)
    calls: list[list[str]] = field(default_factory=list)
    halves: float = 0.5  # where it dies half-way
    spoilers: frozenset[str] = frozenset()  # any of these makes it refuse the whole call without naming anybody

    def submit(  # noqa: C901, PLR0912 # one branch a misbehaviour, side by side
        self, message: Message, recipients: Sequence[Recipient], attempt: AttemptId, started: Callable[[], None]
    ) -> Iterator[Receipt]:
        act = self.script.pop(0) if self.script else "accept"
        self.calls.append([recipient.address for recipient in recipients])
        if self.spoilers.intersection(self.calls[-1]):
            raise ProviderRefused(self.name, "the request is malformed", suspect=True)
        if act == "refuse all":
            raise ProviderRefused(self.name, "the key was revoked")
        if act == "unreachable":
            raise Unreachable(self.name, "connection refused")
        if act == "throttle":
            raise Throttled(self.name, timedelta(seconds=30))
        if act == "bug before":
            raise ZeroDivisionError
        if act == "die before":
            raise Killed
        started()
        if act == "bug after":
            raise ZeroDivisionError
        if act == "time out":
            self.taken += [r.delivery for r in recipients]
            raise OutcomeUnknown(self.name, "time-out")
        if act == "nothing taken, no answer":
            raise OutcomeUnknown(self.name, "cut off")
        for index, recipient in enumerate(recipients):
            if act == "die half-way" and index == int(len(recipients) * self.halves):
                raise Killed
            if act == "one bad" and index == 0:
                yield Receipt(recipient.delivery, Result.REFUSED, "no such mailbox")
            elif act == "one later" and index == 0:
                yield Receipt(recipient.delivery, Result.DEFERRED, "greylisted")
            elif act == "cut short" and index >= 2:
                yield Receipt(recipient.delivery, Result.NOT_TRIED)
            elif act == "silent about one" and index == 0:
                self.taken.append(recipient.delivery)
            else:
                self.taken.append(recipient.delivery)
                yield Receipt(recipient.delivery, Result.ACCEPTED)
        if act == "die after":
            raise Killed

    def events(self, headers: Mapping[str, str], body: bytes) -> Sequence[Event]:
        raise WebhookRejected(self.name, "it has none")

    def check(self) -> Sequence[Finding]:
        return []

    def close(self) -> None:
        pass


def start(desk: Desk, people: int, provider: Scripted) -> tuple[Newsroom, int]:
    """A newsroom with a frozen edition, nothing dispatched yet."""
    newsroom = desk.open()
    newsroom._provider = provider  # the seam where a provider goes
    desk.brief("harbour")
    desk.people(newsroom, people)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Dispatcher, "run", lambda self, edition_id: _edition(newsroom, edition_id))
        record = newsroom.send("daily").record
    assert record.id is not None
    return newsroom, record.id


def _edition(newsroom: Newsroom, edition_id: int) -> EditionRecord:
    with reading(newsroom.engine) as session:
        return session.get_one(EditionRecord, edition_id)


def run(
    newsroom: Newsroom, clock: Clock, edition_id: int, owner: str = "a", step: float = 0, **more: Any
) -> EditionRecord:
    dispatcher = Dispatcher(
        newsroom.engine,
        newsroom.provider,
        clock,
        timedelta(minutes=5),
        sleep=lambda seconds: clock.forward(timedelta(seconds=max(seconds, step))),
        jitter=lambda: 0.5,
        owner=owner,
        **more,
    )
    return dispatcher.run(edition_id)


def tally(newsroom: Newsroom, edition_id: int) -> Tally:
    with reading(newsroom.engine) as session:
        return tallies.tally(session, session.get_one(EditionRecord, edition_id))


def resume(newsroom: Newsroom, edition_id: int) -> None:
    with transaction(newsroom.engine) as session:
        store.set_edition(session, edition_id, EditionState.DISPATCHING, reason=None, only_from=[EditionState.PAUSED])


# ------------------------------------------------------------------------------------------ settle


ROWS = {DeliveryId("a"): 1, DeliveryId("b"): 2, DeliveryId("c"): 3}


def test_everybody_accepted_is_one_row() -> None:
    settled = settle(ROWS, [Receipt(name, Result.ACCEPTED) for name in ROWS], None)
    assert (settled.state, settled.outcomes, list(settled.later)) == (BatchState.DONE, {}, [])


def test_a_missing_receipt_is_unknown_and_never_taken_for_a_yes() -> None:
    settled = settle(ROWS, [Receipt(DeliveryId("a"), Result.ACCEPTED)], None)
    assert settled.outcomes == {2: (Outcome.UNKNOWN, "no receipt came"), 3: (Outcome.UNKNOWN, "no receipt came")}


def test_receipts_for_strangers_change_nobody() -> None:
    settled = settle(ROWS, [Receipt(DeliveryId("stranger"), Result.REFUSED)], None)
    assert set(settled.outcomes) == {1, 2, 3}
    assert all(outcome is Outcome.UNKNOWN for outcome, _ in settled.outcomes.values())


def test_deferred_and_untried_go_into_a_later_batch() -> None:
    receipts = [
        Receipt(DeliveryId("a"), Result.ACCEPTED),
        Receipt(DeliveryId("b"), Result.DEFERRED, "greylisted", timedelta(minutes=20)),
        Receipt(DeliveryId("c"), Result.NOT_TRIED),
    ]
    settled = settle(ROWS, receipts, None)
    assert (settled.state, settled.later, settled.later_after) == (BatchState.DONE, [2, 3], timedelta(minutes=20))


@pytest.mark.parametrize(
    ("error", "state", "pauses"),
    [
        (Throttled("p", timedelta(seconds=9)), BatchState.PENDING, False),
        (Unreachable("p", "refused"), BatchState.PENDING, False),
        (ProviderRefused("p", "revoked"), BatchState.PENDING, True),
        (OutcomeUnknown("p", "time-out"), BatchState.UNKNOWN, False),
        (ZeroDivisionError(), BatchState.UNKNOWN, False),
    ],
)
def test_each_error_means_what_the_protocol_says(error: Exception, state: BatchState, *, pauses: bool) -> None:
    settled = settle(ROWS, [], error)
    assert (settled.state, bool(settled.pause), settled.outcomes) == (state, pauses, {})


def test_an_error_after_receipts_speaks_only_for_the_rest() -> None:
    settled = settle(ROWS, [Receipt(DeliveryId("a"), Result.ACCEPTED)], OutcomeUnknown("p", "cut off"))
    assert {row: outcome for row, (outcome, _) in settled.outcomes.items()} == {2: Outcome.UNKNOWN, 3: Outcome.UNKNOWN}


def test_back_off_doubles_to_a_limit_with_jitter() -> None:
    assert [back_off(tries, lambda: 1.0).total_seconds() for tries in (0, 1, 2, 20)] == [2, 4, 8, 900]
    assert back_off(3, lambda: 0.0) == back_off(3, lambda: 1.0) / 2


def test_only_to_takes_addresses_and_domains_in_any_case() -> None:
    assert allowed("a@x.org", [])
    assert allowed("A@x.org", ["a@X.org"])
    assert allowed("a@x.org", ["x.org"])
    assert allowed("a@x.org", ["@x.org"])
    assert not allowed("a@evilx.org", ["x.org"])
    assert not allowed("a@sub.x.org", ["x.org"])


# ------------------------------------------------------------------------------------------ the whole loop


def test_everybody_gets_one_copy_and_the_edition_closes(desk: Desk) -> None:
    newsroom, edition = start(desk, 25, provider := Scripted())
    assert run(newsroom, desk.clock, edition).state is EditionState.CLOSED
    assert len(provider.taken) == len(set(provider.taken)) == 25
    assert [len(call) for call in provider.calls] == [10, 10, 5]
    assert tally(newsroom, edition).accepted == 25


def test_one_refused_recipient_costs_the_others_nothing(desk: Desk) -> None:
    newsroom, edition = start(desk, 10, Scripted(["one bad"]))
    run(newsroom, desk.clock, edition)
    found = tally(newsroom, edition)
    assert (found.accepted, found.refused, found.reasons) == (9, 1, {"refused: no such mailbox": 1})


def test_throttled_waits_as_long_as_it_was_asked(desk: Desk) -> None:
    newsroom, edition = start(desk, 10, Scripted(["throttle"]))
    before = desk.clock.now
    run(newsroom, desk.clock, edition)
    assert timedelta(seconds=30) <= desk.clock.now - before < timedelta(seconds=33)
    assert tally(newsroom, edition).accepted == 10


def test_a_deferred_recipient_comes_again_later_and_only_they(desk: Desk) -> None:
    newsroom, edition = start(desk, 10, provider := Scripted(["one later"]))
    run(newsroom, desk.clock, edition)
    assert [len(call) for call in provider.calls] == [10, 1]
    assert tally(newsroom, edition).accepted == 10


def test_one_unnamed_bad_recipient_among_many_is_found_and_refused_alone(desk: Desk) -> None:
    """The first call probes with one recipient; only when that is accepted is the rest halved."""
    everybody = Scripted(batch_size=1000)
    newsroom, edition = start(desk, 300, everybody)
    addresses = _addresses(newsroom)
    newsroom._provider = provider = Scripted(batch_size=1000, spoilers=frozenset([addresses[170]]))
    assert run(newsroom, desk.clock, edition).state is EditionState.CLOSED
    found = tally(newsroom, edition)
    assert (found.accepted, found.refused, found.waiting) == (299, 1, 0)
    assert len(provider.taken) == len(set(provider.taken)) == 299
    assert [len(call) for call in provider.calls[:3]] == [300, 1, 299], "all, then a probe, then the rest again"
    assert len(provider.calls) < 30


def test_an_account_that_fails_in_the_middle_of_a_search_costs_one_person_at_most(desk: Desk) -> None:
    """A wordless refusal of everything, after a first acceptance, must not be taken for many bad recipients."""

    class Failing(Scripted):
        def submit(
            self, message: Message, recipients: Sequence[Recipient], attempt: AttemptId, started: Callable[[], None]
        ) -> Iterator[Receipt]:
            if len(self.calls) >= 5:
                self.calls.append([])
                raise ProviderRefused(self.name, "no", suspect=True)
            yield from super().submit(message, recipients, attempt, started)

    newsroom, edition = start(desk, 16, Scripted(batch_size=16))
    bad = _addresses(newsroom)[9]
    newsroom._provider = Failing(batch_size=16, spoilers=frozenset([bad]))
    assert run(newsroom, desk.clock, edition).state is EditionState.PAUSED
    assert tally(newsroom, edition).refused <= 1
    newsroom._provider = mended = Scripted(batch_size=16, spoilers=frozenset([bad]))
    for _ in range(5):
        resume(newsroom, edition)
        if run(newsroom, desk.clock, edition).state is EditionState.CLOSED:
            break
    found = tally(newsroom, edition)
    assert (found.waiting, found.holds, found.accepted + found.refused) == (0, True, 16)
    assert found.refused <= 2
    assert len(set(mended.taken)) == len(mended.taken)


def test_a_probe_that_is_refused_by_name_pauses_and_marks_nobody(desk: Desk) -> None:
    """A server may name whoever comes first for a fault that all copies share."""

    class NamingWhenAlone(Scripted):
        def submit(
            self, message: Message, recipients: Sequence[Recipient], attempt: AttemptId, started: Callable[[], None]
        ) -> Iterator[Receipt]:
            started()
            if len(recipients) > 1:
                raise ProviderRefused(self.name, "no", suspect=True)
            yield Receipt(recipients[0].delivery, Result.REFUSED, "bad name")

    newsroom, edition = start(desk, 20, Scripted(batch_size=20))
    newsroom._provider = NamingWhenAlone(batch_size=20)
    record = run(newsroom, desk.clock, edition)
    assert (record.state, record.reason) == (EditionState.PAUSED, "the first one tried: bad name")
    assert (tally(newsroom, edition).refused, tally(newsroom, edition).waiting) == (0, 20)


def test_a_provider_that_names_one_after_the_other_and_takes_nobody_is_stopped(desk: Desk) -> None:
    """Else a fault of the common form would refuse the whole list, a call for each."""

    class Naming(Scripted):
        def submit(
            self, message: Message, recipients: Sequence[Recipient], attempt: AttemptId, started: Callable[[], None]
        ) -> Iterator[Receipt]:
            started()
            self.calls.append([recipient.address for recipient in recipients])
            yield Receipt(recipients[0].delivery, Result.REFUSED, "not a valid name")
            yield from (Receipt(recipient.delivery, Result.NOT_TRIED) for recipient in recipients[1:])

    newsroom, edition = start(desk, 100, Scripted(batch_size=100))
    newsroom._provider = naming = Naming(batch_size=100)
    record = run(newsroom, desk.clock, edition)
    assert record.state is EditionState.PAUSED
    assert "call after call refused somebody and took nobody; the last reason: not a valid name" in str(record.reason)
    assert len(naming.calls) == 10
    found = tally(newsroom, edition)
    assert (found.refused, found.waiting, found.holds) == (10, 90, True)
    newsroom._provider = Scripted(batch_size=100)
    resume(newsroom, edition)
    assert run(newsroom, desk.clock, edition).state is EditionState.CLOSED
    assert tally(newsroom, edition).accepted == 90


def test_whoever_watches_is_told_what_a_call_waits_for(desk: Desk) -> None:
    newsroom, edition = start(desk, 5, Scripted(["throttle", "unreachable"]))
    notes: list[str] = []
    run(newsroom, desk.clock, edition, report=lambda progress: notes.append(progress.note) if progress.note else None)
    assert [note.partition(";")[0] for note in notes] == [
        "scripted asks to wait 30 s",
        "scripted cannot be reached: connection refused",
    ]
    assert "next try at 08:00:30 UTC" in notes[0]


def test_a_message_that_is_itself_refused_pauses_after_one_probe_and_marks_nobody(desk: Desk) -> None:
    newsroom, edition = start(desk, 100, Scripted(batch_size=50))
    newsroom._provider = provider = Scripted(batch_size=50, spoilers=frozenset(_addresses(newsroom)))
    record = run(newsroom, desk.clock, edition)
    assert (record.state, record.reason) == (EditionState.PAUSED, "scripted refuses: the request is malformed")
    assert sum(len(call) == 1 for call in provider.calls) == 1
    assert len(provider.calls) <= 3
    found = tally(newsroom, edition)
    assert (found.waiting, found.refused) == (100, 0)
    newsroom._provider = mended = Scripted(batch_size=50)
    resume(newsroom, edition)
    assert run(newsroom, desk.clock, edition).state is EditionState.CLOSED
    assert len(mended.taken) == len(set(mended.taken)) == 100


@given(bad=st.sets(st.integers(0, 29), max_size=8).filter(lambda bad: not set(range(24, 30)) <= bad))
@example(bad={0, 12, 24, 25, 26})
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whoever_spoils_a_call_nobody_else_pays(
    tmp_path_factory: pytest.TempPathFactory, thirty: "_Frozen", bad: set[int]
) -> None:
    """Where a probe happens to be the spoiler, an operator's word lets it go on, and it ends the same."""
    provider, edition = Scripted(batch_size=12), thirty.edition
    desk, newsroom = thirty.copy(tmp_path_factory.mktemp("desk"), provider)
    addresses = _addresses(newsroom)
    provider.spoilers = frozenset(addresses[number] for number in bad)
    for _ in range(40):
        if run(newsroom, desk.clock, edition).state is EditionState.CLOSED:
            break
        resume(newsroom, edition)
    found = tally(newsroom, edition)
    assert (found.accepted, found.refused, found.waiting) == (30 - len(bad), len(bad), 0)
    assert len(provider.taken) == len(set(provider.taken)) == 30 - len(bad)
    newsroom.close()


def _addresses(newsroom: Newsroom) -> list[str]:
    with reading(newsroom.engine) as session:
        return list(session.execute(select(col(Subscriber.address)).order_by(col(Subscriber.id))).scalars())


def test_a_provider_that_refuses_everyone_pauses_the_edition_and_marks_nobody(desk: Desk) -> None:
    newsroom, edition = start(desk, 10, Scripted(["refuse all"]))
    record = run(newsroom, desk.clock, edition)
    assert (record.state, record.reason) == (EditionState.PAUSED, "scripted refuses: the key was revoked")
    assert tally(newsroom, edition).waiting == 10
    resume(newsroom, edition)
    assert run(newsroom, desk.clock, edition).state is EditionState.CLOSED
    assert tally(newsroom, edition).accepted == 10


def test_no_answer_is_unknown_and_not_called_again(desk: Desk) -> None:
    newsroom, edition = start(desk, 15, provider := Scripted(["time out"]))
    assert run(newsroom, desk.clock, edition).state is EditionState.CLOSED
    found = tally(newsroom, edition)
    assert (found.accepted, found.unknown) == (5, 10)
    assert len(provider.taken) == len(set(provider.taken)) == 15
    with reading(newsroom.engine) as session:
        troubles = tallies.troubles(session, session.get_one(EditionRecord, edition), Outcome.UNKNOWN)
        assert len(troubles) == 10


def test_a_bug_in_a_provider_is_recorded_before_it_is_raised(desk: Desk) -> None:
    newsroom, edition = start(desk, 10, Scripted(["bug after"]))
    with pytest.raises(ZeroDivisionError):
        run(newsroom, desk.clock, edition)
    assert tally(newsroom, edition).unknown == 10


def test_a_bug_before_the_first_byte_loses_nobody(desk: Desk) -> None:
    newsroom, edition = start(desk, 10, Scripted(["bug before"]))
    with pytest.raises(ZeroDivisionError):
        run(newsroom, desk.clock, edition)
    assert tally(newsroom, edition).waiting == 10
    assert _edition(newsroom, edition).state is EditionState.PAUSED


def test_who_left_or_was_suppressed_after_the_freeze_is_not_mailed(desk: Desk) -> None:
    newsroom, edition = start(desk, 10, provider := Scripted())
    with transaction(newsroom.engine) as session:
        gone = find(session, parse("reader1@example.org"))
        assert gone is not None
        leave(session, gone, None, now=desk.clock(), actor="test")
        barred = parse("reader2@example.org")
        suppress(session, barred, Reason.COMPLAINT, now=desk.clock(), actor="test", note=None)
    run(newsroom, desk.clock, edition)
    assert not {"reader1@example.org", "reader2@example.org"} & set(provider.calls[0])
    found = tally(newsroom, edition)
    assert (found.accepted, found.skipped, found.suppressed, found.holds) == (8, 1, 1, True)


def test_addresses_and_names_are_read_at_claim(desk: Desk) -> None:
    newsroom, edition = start(desk, 1, provider := Scripted())
    with transaction(newsroom.engine) as session:
        person = find(session, parse("reader0@example.org"))
        assert person is not None
        person.address = "moved@example.org"
    run(newsroom, desk.clock, edition)
    assert provider.calls == [["moved@example.org"]]


def test_only_to_skips_everybody_else_and_counts_them(desk: Desk) -> None:
    newsroom, edition = start(desk, 5, provider := Scripted())
    run(newsroom, desk.clock, edition, only_to=["reader3@example.org"])
    assert provider.calls == [["reader3@example.org"]]
    assert tally(newsroom, edition).reasons == {"skipped: only_to": 4}


def test_a_halt_stops_before_the_next_batch(desk: Desk) -> None:
    newsroom, edition = start(desk, 30, provider := Scripted())
    run(newsroom, desk.clock, edition, report=lambda progress: newsroom.halt("test", "stop!") and None)
    assert len(provider.taken) == 10, "the call that was being built did not go out"
    assert tally(newsroom, edition).waiting == 20
    newsroom.unhalt("test")
    run(newsroom, desk.clock, edition)
    assert tally(newsroom, edition).accepted == 30


def test_a_halted_desk_freezes_nothing(desk: Desk) -> None:
    newsroom = desk.open()
    desk.brief("harbour")
    desk.people(newsroom, 3)
    newsroom.halt("operator:ada", "wrong list")
    with pytest.raises(EditionError, match=r"halted since .* by operator:ada \(wrong list\)"):
        newsroom.send("daily")
    assert desk.mails == []


def test_an_overdue_batch_waits_for_an_operator(desk: Desk) -> None:
    newsroom, edition = start(desk, 10, provider := Scripted())
    desk.clock.forward(timedelta(hours=30))
    record = run(newsroom, desk.clock, edition)
    assert record.state is EditionState.PAUSED
    assert "overdue by 31 h" in (record.reason or "")
    assert provider.calls == []


def test_a_process_that_slept_through_its_lease_does_not_call(desk: Desk) -> None:
    """The first process claims and falls asleep; the second sends; the first wakes up and must keep still."""
    newsroom, edition = start(desk, 10, provider := Scripted())
    original = provider.submit
    slept: list[str] = []

    def sleepy(
        message: Message, recipients: Sequence[Recipient], attempt: AttemptId, started: Callable[[], None]
    ) -> Iterator[Receipt]:
        if not slept:
            slept.append("first")
            desk.clock.forward(timedelta(minutes=6))
            run(newsroom, desk.clock, edition, owner="second")
        return original(message, recipients, attempt, started)

    provider.submit = sleepy  # type: ignore[method-assign] # the scripted provider wakes late, once
    run(newsroom, desk.clock, edition, owner="first")
    assert len(provider.taken) == len(set(provider.taken)) == 10
    assert tally(newsroom, edition).accepted == 10


def test_a_late_receipt_for_an_unknown_batch_is_taken(desk: Desk) -> None:
    """A call outlives its lease: another process calls it unknown, then the answer comes after all."""
    newsroom, edition = start(desk, 10, provider := Scripted())
    original = provider.submit

    def slow(
        message: Message, recipients: Sequence[Recipient], attempt: AttemptId, started: Callable[[], None]
    ) -> Iterator[Receipt]:
        receipts = list(original(message, recipients, attempt, started))
        desk.clock.forward(timedelta(minutes=6))
        provider.submit = original  # type: ignore[method-assign] # the next call is quick
        run(newsroom, desk.clock, edition, owner="second")
        assert tally(newsroom, edition).unknown == 10
        return iter(receipts)

    provider.submit = slow  # type: ignore[method-assign] # the scripted provider answers late, once
    run(newsroom, desk.clock, edition, owner="first")
    assert tally(newsroom, edition).accepted == 10
    assert len(provider.calls) == 1


def test_a_dead_process_is_known_and_a_living_one_never_taken_for_dead() -> None:
    me = processes.this_process()
    assert not processes.is_gone(me)
    machine, pid, started = me.rsplit("/", 2)
    if started != "?":
        assert processes.is_gone(f"{machine}/{pid}/{int(started) + 1}"), "the same number, another process"
        assert processes.is_gone(f"{machine}/4194304/{started}"), "no such process"
    assert not processes.is_gone(f"elsewhere/abc.123/{pid}/1"), "of another machine nothing is certain"
    assert not processes.is_gone("garbage")


ACTS = [
    "accept", "one bad", "one later", "cut short", "silent about one", "throttle", "unreachable", "refuse all",
    "time out", "nothing taken, no answer", "bug before", "bug after", "die before", "die half-way", "die after",
]  # fmt: skip


PEOPLE = 33


class _Frozen:
    """A desk with a frozen edition, made once and copied for each example."""

    def __init__(self, folder: Path, people: int, provider: Scripted) -> None:
        desk = Desk(folder)
        _, self.edition = start(desk, people, provider)
        desk.close()
        self.backup = desk.backup()

    def copy(self, folder: Path, provider: Scripted) -> tuple[Desk, Newsroom]:
        desk = Desk(folder)
        desk.restore(self.backup)
        newsroom = desk.open()
        newsroom._provider = provider
        return desk, newsroom


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> _Frozen:
    return _Frozen(tmp_path_factory.mktemp("frozen"), PEOPLE, Scripted())


@pytest.fixture(scope="module")
def thirty(tmp_path_factory: pytest.TempPathFactory) -> _Frozen:
    return _Frozen(tmp_path_factory.mktemp("frozen"), 30, Scripted(batch_size=12))


@pytest.mark.database
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=st.lists(st.sampled_from(ACTS), max_size=12))
def test_whatever_happens_nobody_is_lost_and_nobody_mailed_twice(
    tmp_path_factory: pytest.TempPathFactory, frozen: _Frozen, script: list[str]
) -> None:
    """Any script of failures and kills, restarted until the edition closes: the ledger says what the provider took."""
    provider = Scripted(list(script))
    desk, newsroom = frozen.copy(tmp_path_factory.mktemp("desk"), provider)
    for attempt in range(len(script) + 2):
        assert tally(newsroom, frozen.edition).holds
        with contextlib.suppress(Killed, ZeroDivisionError):
            run(newsroom, desk.clock, frozen.edition, owner=f"process {attempt}", step=90)
        if _edition(newsroom, frozen.edition).state is EditionState.CLOSED:
            break
        resume(newsroom, frozen.edition)
    found = tally(newsroom, frozen.edition)
    assert (found.candidates, found.waiting, found.holds) == (PEOPLE, 0, True)
    assert len(provider.taken) == len(set(provider.taken)), "nobody twice"
    assert found.accepted <= len(provider.taken), "no yes that was not given"
    assert PEOPLE - len(provider.taken) <= found.refused + found.unknown, "nobody missed without being named"
    desk.close()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=st.lists(st.sampled_from(["accept", "die before", "die half-way", "die after"]), max_size=8))
def test_an_idempotent_provider_leaves_nothing_unknown(
    tmp_path_factory: pytest.TempPathFactory, frozen: _Frozen, script: list[str]
) -> None:
    provider = Scripted(list(script), idempotent=True)
    desk, newsroom = frozen.copy(tmp_path_factory.mktemp("desk"), provider)
    for attempt in range(len(script) + 1):
        try:
            run(newsroom, desk.clock, frozen.edition, owner=f"process {attempt}", step=90)
        except Killed:
            continue
        break
    found = tally(newsroom, frozen.edition)
    assert (found.accepted, found.unknown, found.waiting) == (PEOPLE, 0, 0)
    assert len(set(provider.taken)) == PEOPLE
    desk.close()


# ------------------------------------------------------------------------------------------ freezing


def test_the_audience_is_frozen_once_whoever_fires(desk: Desk) -> None:
    newsroom, edition = start(desk, 12, Scripted())
    with transaction(newsroom.engine) as session:
        record = session.get_one(EditionRecord, edition)
        again = ledger.freeze(session, record, due_at=desk.clock(), batch_size=10, now=desk.clock())
    assert again is None
    assert tally(newsroom, edition).candidates == 12


def test_a_freeze_that_dies_half_way_leaves_nothing_behind(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    newsroom = desk.open()
    desk.brief("harbour")
    desk.people(newsroom, 5)
    with monkeypatch.context() as patch:
        patch.setattr(store, "act", _raise_killed)
        with pytest.raises(Killed):
            newsroom.send("daily")
    with reading(newsroom.engine) as session:
        record = store.editions(session, "daily", 1)[0]
        assert (record.state, record.candidates) == (EditionState.DRAFT, None)
        assert tallies.tally(session, record).waiting == 0
    assert newsroom.send("daily").record.state is EditionState.CLOSED
    assert len(desk.mails) == 5


def _raise_killed(*args: object, **kwargs: object) -> None:
    raise Killed


def test_excluded_people_are_counted_by_reason_from_the_start(desk: Desk) -> None:
    newsroom = desk.open()
    desk.brief("harbour")
    desk.people(newsroom, 6)
    with transaction(newsroom.engine) as session:
        suppress(session, parse("reader0@example.org"), Reason.OPERATOR, now=desk.clock(), actor="t", note=None)
        paused = find(session, parse("reader1@example.org"))
        assert paused is not None
        paused.paused_until = desk.clock() + timedelta(days=3)
    sent = newsroom.send("daily")
    assert sent.tally is not None
    assert sent.tally.reasons == {"suppressed": 1, "skipped: paused": 1}
    assert (sent.tally.candidates, sent.tally.accepted, sent.tally.holds) == (6, 4, True)
    assert len(desk.mails) == 4


def test_an_edition_closes_although_everybody_left_since(desk: Desk) -> None:
    newsroom, edition = start(desk, 3, provider := Scripted())
    with transaction(newsroom.engine) as session:
        for number in range(3):
            person = find(session, parse(f"reader{number}@example.org"))
            assert person is not None
            leave(session, person, None, now=desk.clock(), actor="test")
    assert run(newsroom, desk.clock, edition).state is EditionState.CLOSED
    assert provider.calls == []
    assert tally(newsroom, edition).reasons == {"skipped: left": 3}


def test_a_live_provider_wants_the_database_claimed(desk: Desk) -> None:
    newsroom = desk.open()
    newsroom._provider = Scripted(live=True)
    desk.brief("harbour")
    desk.people(newsroom, 1)
    with pytest.raises(Exception, match=r'this database is not claimed.*instance = "[0-9a-f]{16}"'):
        newsroom.send("daily")
    with reading(newsroom.engine) as session:
        claimed = store.instance(session).instance_id
    desk.configure(lambda text: text + f'\n[database]\ninstance = "{claimed}"\n')
    again = desk.open()
    again._provider = Scripted(live=True)
    assert again.send("daily").record.state is EditionState.CLOSED


def test_a_far_larger_audience_waits_for_a_yes(desk: Desk) -> None:
    newsroom = desk.open()
    newsroom._provider = Scripted()
    desk.brief("harbour")
    desk.people(newsroom, 2)
    newsroom.send("daily")
    desk.clock.forward(timedelta(days=1))
    desk.brief("tower")
    desk.people(newsroom, 150)
    with pytest.raises(EditionError, match="audience of 150 is far larger than the last one of 2") as refused:
        newsroom.send("daily")
    assert refused.value.consent
    sent = newsroom.send("daily", consent=True)
    assert sent.tally is not None
    assert sent.tally.accepted == 150


def test_a_folder_that_cannot_be_written_pauses_and_nothing_is_lost(desk: Desk) -> None:
    newsroom = desk.open()
    desk.brief("harbour")
    desk.people(newsroom, 3)
    Path(desk.folder / "outbox").write_text("in the way")
    sent = newsroom.send("daily")
    assert sent.record.state is EditionState.PAUSED
    assert "outbox refuses" in (sent.record.reason or "")
    (desk.folder / "outbox").unlink()
    again = newsroom.send("daily")
    assert again.tally is not None
    assert (again.record.state, again.tally.accepted, len(desk.mails)) == (EditionState.CLOSED, 3, 3)


def test_an_idempotent_provider_that_gives_no_answer_is_called_again(
    desk: Desk,
) -> None:
    newsroom, edition = start(desk, 10, Scripted(["time out", "silent about one"], idempotent=True))
    assert run(newsroom, desk.clock, edition).state is EditionState.CLOSED
    found = tally(newsroom, edition)
    assert (found.accepted, found.unknown) == (10, 0)


def test_after_several_calls_without_an_answer_a_person_is_asked(desk: Desk) -> None:
    newsroom, edition = start(desk, 10, Scripted(["nothing taken, no answer"] * 6, idempotent=True))
    record = run(newsroom, desk.clock, edition, step=90)
    assert record.state is EditionState.PAUSED
    assert "6 calls in a row gave no answer" in (record.reason or "")
    assert tally(newsroom, edition).waiting == 10


def test_an_unfinished_edition_is_named_by_the_next_one(desk: Desk) -> None:
    newsroom, _ = start(desk, 4, Scripted(["refuse all"]))
    assert newsroom.send("daily").record.state is EditionState.PAUSED
    desk.clock.forward(timedelta(days=1))
    desk.brief("tower")
    sent = newsroom.send("daily")
    assert [(record.slot, waiting) for record, waiting in sent.unfinished] == [("2026-11-23T07:00", 4)]
    assert any("unfinished edition: daily, slot 2026-11-23T07:00: 4 wait" in f.what for f in examine(newsroom))


def test_a_restored_database_names_the_same_copy_the_same(desk: Desk) -> None:
    """Row numbers are handed out again after a restore; the outbox must not take tomorrow's copy for today's."""
    newsroom = desk.open()
    desk.people(newsroom, 2)
    newsroom.close()
    backup = desk.backup()
    desk.brief("harbour")
    desk.open().send("daily")
    desk.close()
    desk.restore(backup)
    desk.clock.forward(timedelta(days=1))
    (desk.folder / "briefs" / "harbour.txt").unlink()
    desk.brief("tower")
    desk.open().send("daily")
    assert len(desk.mails) == 4
    assert sum(b"Tower makes" in mail.read_bytes() for mail in desk.mails) == 2


def test_a_late_answer_that_defers_somebody_opens_the_closed_edition_again(desk: Desk) -> None:
    newsroom, edition = start(desk, 10, provider := Scripted(["one later"]))
    original = provider.submit

    def slow(
        message: Message, recipients: Sequence[Recipient], attempt: AttemptId, started: Callable[[], None]
    ) -> Iterator[Receipt]:
        receipts = list(original(message, recipients, attempt, started))
        desk.clock.forward(timedelta(minutes=6))
        provider.submit = original  # type: ignore[method-assign] # the next call is quick
        assert run(newsroom, desk.clock, edition, owner="second").state is EditionState.CLOSED
        return iter(receipts)

    provider.submit = slow  # type: ignore[method-assign] # the scripted provider answers late, once
    assert run(newsroom, desk.clock, edition, owner="first").state is EditionState.CLOSED
    found = tally(newsroom, edition)
    assert (found.accepted, found.waiting, found.unknown) == (10, 0, 0)


def test_retries_do_not_make_an_old_edition_young(desk: Desk) -> None:
    """Staleness is measured from when a batch was first due, not from its next try."""
    newsroom, edition = start(desk, 10, Scripted(["unreachable"] * 400))
    record = run(newsroom, desk.clock, edition, step=600, limits=Limits(patience=1_000))
    assert record.state is EditionState.PAUSED
    assert "more than stale_after" in (record.reason or "")
    assert desk.clock.now - record.slot_at < timedelta(hours=25)


def test_what_ended_a_call_early_speaks_for_those_it_left_over() -> None:
    first = [Receipt(DeliveryId("a"), Result.ACCEPTED)]
    throttled = settle(ROWS, first, Throttled("p", timedelta(seconds=60)))
    refused = settle(ROWS, first, ProviderRefused("p", "revoked"))
    assert (throttled.later, throttled.later_after, throttled.pause) == ([2, 3], timedelta(seconds=60), None)
    assert (refused.later, refused.pause) == ([2, 3], "p refuses: revoked")


def test_a_second_slot_started_meanwhile_is_seen_inside_the_freeze(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    newsroom = desk.open()
    other = desk.open()
    desk.brief("harbour")
    desk.people(newsroom, 2)
    started: list[str] = []
    drafting = Newsroom.draft

    def meanwhile(self: Newsroom, name: str, slot: Slot) -> Draft:
        draft = drafting(self, name, slot)
        if not started:
            started.append("other")
            other.send("daily", "2026-11-23T06:30", consent=True)
        return draft

    monkeypatch.setattr(Newsroom, "draft", meanwhile)

    with pytest.raises(EditionError, match="from the edition of 2026-11-23T06:30"):
        newsroom.send("daily")
    assert len(desk.mails) == 2


def test_a_message_that_was_changed_in_the_database_is_not_sent(desk: Desk) -> None:
    newsroom, edition = start(desk, 3, provider := Scripted())
    with transaction(newsroom.engine) as session:
        stored = store.message_record(session, edition)
        assert stored is not None
        stored.content = stored.content.replace("Fact one", "Fact 1")
    with pytest.raises(EditionError, match="was changed in the database"):
        run(newsroom, desk.clock, edition)
    assert provider.calls == []


def test_no_proof_is_sent_to_a_suppressed_address(desk: Desk) -> None:
    newsroom = desk.open()
    desk.brief("harbour")
    barred = parse("barred@example.org")
    with transaction(newsroom.engine) as session:
        suppress(session, barred, Reason.COMPLAINT, now=desk.clock(), actor="test", note=None)
    with pytest.raises(EditionError, match="is suppressed"):
        newsroom.test("daily", Recipient(DeliveryId("-"), barred.address, None, "-"))
    assert desk.mails == []


# ------------------------------------------------------------------------------------------ gone hands, late answers


class Never(Exception):
    """It went round and round."""


def patient(clock: Clock, newsroom: Newsroom, edition: int, rounds: int = 500, step: float = 1, **more: Any) -> Any:
    """A run that is given up after so many waits."""
    left = [rounds]

    def sleep(seconds: float) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Never
        clock.forward(timedelta(seconds=max(seconds, step)))

    return Dispatcher(
        newsroom.engine, newsroom.provider, clock, timedelta(minutes=5), sleep=sleep, jitter=lambda: 0.5, **more
    ).run(edition)


def another(newsroom: Newsroom, desk: Desk) -> int:
    """The next day's edition, frozen."""
    desk.clock.forward(timedelta(days=1))
    desk.brief("second-story")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Dispatcher, "run", lambda self, edition_id: _edition(newsroom, edition_id))
        record = newsroom.send("daily").record
    assert record.id is not None
    return record.id


def test_a_call_of_yesterdays_edition_that_died_does_not_stop_todays(desk: Desk) -> None:
    newsroom, edition = start(desk, 20, Scripted(["die half-way"]))
    with contextlib.suppress(Killed):
        run(newsroom, desk.clock, edition, owner="gone/1/1")
    today = another(newsroom, desk)
    assert today != edition
    assert patient(desk.clock, newsroom, today).state is EditionState.CLOSED


def test_a_late_yes_is_believed_also_where_the_edition_was_cancelled_meanwhile(desk: Desk) -> None:
    newsroom, edition = start(desk, 10, provider := Scripted())
    honest = provider.submit

    def oversleep(*args: Any) -> Any:
        answers = list(honest(*args))
        desk.clock.forward(timedelta(minutes=6))
        with transaction(newsroom.engine) as session:
            (batch,) = ledger.held(session)
            ledger.release(session, batch, BatchState.PENDING, note="its process ended", now=desk.clock())
        operating.cancel(newsroom, "daily", None, actor="ada", reason=None)
        return iter(answers)

    provider.submit = oversleep  # type: ignore[method-assign,assignment] # it misbehaves in a way of its own
    run(newsroom, desk.clock, edition)
    told = tally(newsroom, edition)
    assert (told.accepted, told.cancelled) == (10, 0)


@pytest.mark.parametrize("paused", [False, True])
def test_a_late_word_that_nothing_was_taken_is_believed(desk: Desk, *, paused: bool) -> None:
    newsroom, edition = start(desk, 10, provider := Scripted())
    honest = provider.submit

    def oversleep(*args: Any) -> Any:
        provider.submit = honest  # type: ignore[method-assign] # the next call goes well
        args[-1]()
        desk.clock.forward(timedelta(minutes=6))
        with transaction(newsroom.engine) as session:
            (batch,) = ledger.held(session)
            ledger.release(session, batch, BatchState.UNKNOWN, note="its process ended", now=desk.clock())
            ledger.close_if_done(session, edition, desk.clock())
            if paused:
                store.set_edition(session, edition, EditionState.PAUSED, reason="x", only_from=[EditionState.CLOSED])
        raise Unreachable("scripted", "reset before the body")

    provider.submit = oversleep  # type: ignore[method-assign,assignment] # it misbehaves in a way of its own
    run(newsroom, desk.clock, edition, limits=Limits(patience=9))
    told = tally(newsroom, edition)
    assert told.unknown == 0
    assert (told.accepted, told.waiting) == ((0, 10) if paused else (10, 0))


def test_an_edition_that_pauses_with_its_last_call_closes(desk: Desk) -> None:
    newsroom, edition = start(desk, 30, Scripted(["time out"] * 3))
    record = run(newsroom, desk.clock, edition, step=60)
    told = tally(newsroom, edition)
    assert (told.unknown, told.waiting) == (30, 0)
    assert record.state is EditionState.CLOSED


def test_an_edition_that_is_stopped_with_its_last_call_closes(desk: Desk) -> None:
    newsroom, edition = start(desk, 10, provider := Scripted())
    stop, honest = threading.Event(), provider.submit

    def stopped(*args: Any) -> Any:
        stop.set()
        return honest(*args)

    provider.submit = stopped  # type: ignore[method-assign,assignment] # SIGTERM during the last call
    assert run(newsroom, desk.clock, edition, stop=stop).state is EditionState.CLOSED


@pytest.mark.sqlite("it asks for the query plan in SQLite's words")
def test_what_is_in_hands_is_found_by_its_index_however_many_batches_are_on_record(desk: Desk) -> None:
    """It is asked for every call. With parameters in place of words SQLite reads all batches ever made."""
    newsroom, edition = start(desk, 10, Scripted())
    plans: list[str] = []

    def explain(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "'claimed'" in statement or statement.startswith("SELECT batch."):
            found = connection.connection.driver_connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans.extend(row[3] for row in found)

    event.listen(newsroom.engine, "after_cursor_execute", explain)
    run(newsroom, desk.clock, edition)
    assert [plan for plan in plans if plan.startswith("SCAN batch")] == []
    assert len([plan for plan in plans if "ix_batch_held" in plan]) >= 2, "before a claim, and before a call"


def test_of_what_threads_write_together_one_that_raises_costs_nobody_else_anything(desk: Desk) -> None:
    newsroom = desk.open()
    writer, began, go_on = Writer(newsroom.engine), threading.Event(), threading.Event()

    def first(session: Session) -> None:
        began.set()
        assert go_on.wait(10)

    def later(name: str) -> Callable[[Session], str]:
        def do(session: Session) -> str:
            store.act(session, "pause", now=NOW, actor=name, edition_id=None)
            if name == "bad":
                raise ValueError(name)
            return name

        return do

    came: dict[str, object] = {}

    def write(name: str) -> None:
        try:
            came[name] = writer.write(later(name))
        except ValueError as error:
            came[name] = error

    threads = [threading.Thread(target=writer.write, args=(first,))]
    threads[0].start()
    assert began.wait(10)
    for name in ("one", "two", "bad", "three"):
        threads.append(threading.Thread(target=write, args=(name,)))
        threads[-1].start()
    while len(writer._waiting) < 4:
        time.sleep(0.001)
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert isinstance(came.pop("bad"), ValueError)
    assert came == {"one": "one", "two": "two", "three": "three"}
    with reading(newsroom.engine) as session:
        written = session.execute(select(col(OperatorAct.actor))).scalars().all()
    assert sorted(written) == ["one", "three", "two"]
