"""Message x Audience -> Batches -> Provider -> Deliveries: claim, build, call, record.

What a receipt or an error *means* is decided in settlement.py, how fast it may go in pace.py. The loop here keeps two
rules. A batch is `calling` on the disk before the first byte leaves, so that after a crash only what was in the
provider's hands can be in doubt; and no transaction stays open during a call. The rows decide what is done: any number
of threads and processes may run this on one edition, and a killed one is picked up by the next.
"""

import gc
import logging
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session

from newsletter import control, ledger, pace, store
from newsletter.edition import AttemptId, DeliveryId, Message, Receipt, Result, recipients_of
from newsletter.errors import DispatchError
from newsletter.models import Batch, BatchState, EditionRecord, EditionState, MessageRecord, Outcome, Pace
from newsletter.names import Names
from newsletter.pace import Limits
from newsletter.processes import is_gone, this_process
from newsletter.providers import Provider
from newsletter.settlement import Settlement, Went, back_off, settle, sift, weightier
from newsletter.tally import tally
from subscribers import BY_PROVIDER, SUPPRESSED, Reason, Writer, is_passing, parse, reading, suppress

_LOOK_AGAIN = timedelta(seconds=1)  # how often a waiting process looks whether another's batch came free
_TURN = timedelta(milliseconds=200)  # the same, where only a call has to come back
_SOONEST = 0.01  # seconds
_PASSED_OVER = 20  # batches of which nobody may be called for now, in one transaction: 5 ms each of 1,000 people
_WINDOW = 200  # receipts of a call that goes on, put on record together
_ACCEPTED, _REFUSED = Result.ACCEPTED, Result.REFUSED  # looking one up in its class takes as long as a comparison

_WRITE_AGAIN = timedelta(seconds=1)  # after the database could not take what a call came to
_log = logging.getLogger("newsletter.dispatch")


def allowed(address: str, only_to: Sequence[str]) -> bool:
    """Whether `only_to` (addresses and domains, empty for everybody) lets an address be mailed."""
    if not only_to:
        return True
    folded = address.casefold()
    domain = folded.rpartition("@")[2]
    return any(folded == entry or domain == entry.removeprefix("@") for entry in (o.casefold() for o in only_to))


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an edition is: deliveries this run has called for, of how many it found waiting.

    `note` says what stood against the latest call, and when its people are due again; None where nothing did.
    """

    done: int
    total: int
    note: str | None = None


class _LostClaim(Exception):
    """The claim is no longer ours, so the call must not be made."""


@dataclass(frozen=True, slots=True)
class _Answered:
    """A call that came back, and that is not on record yet."""

    claimed: ledger.Claimed
    claimed_at: datetime
    settlement: Settlement
    fault: Exception | None = None  # a bug of the provider's: raised when it is on record


@dataclass(frozen=True, slots=True)
class _Claim:
    """A batch to call for."""

    claimed: ledger.Claimed
    at: datetime


@dataclass(frozen=True, slots=True)
class _Wait:
    """Nothing can be claimed for so many seconds; `note` says what is waited for where that is a wave."""

    seconds: float
    note: str | None = None


@dataclass
class _Run:
    """What the threads of one run share."""

    record: EditionRecord  # as it was at the beginning: its state may have changed
    edition_id: int
    total: int
    names: Names
    writer: Writer
    calls: threading.Semaphore
    lock: threading.Lock = field(default_factory=threading.Lock)
    messages: dict[int, Message] = field(default_factory=dict)
    done: int = 0
    fault: BaseException | None = None
    changed: threading.Condition = field(default_factory=threading.Condition)
    told: str | None = None  # which wave was said to be waited for
    turns: int = 0  # counts what was put on record, so that a waiting thread misses nothing

    def fail(self, fault: BaseException) -> None:
        """Note the first fault of a thread: the others end after what they are doing."""
        with self.lock:
            self.fault = self.fault or fault

    def turn(self) -> None:
        """Wake the threads that wait: something was put on record."""
        with self.changed:
            self.turns += 1
            self.changed.notify_all()


@dataclass(frozen=True)
class Dispatcher:
    """Sends one edition's batches through one provider. Clock, sleep, randomness and names are arguments.

    `limits.calls` calls go out at once, from threads that claim ahead; with one, all is done in the caller's thread.
    `stop` ends the run after the calls that are out. With `linger` it ends where nothing is due within that time.
    """

    engine: Engine
    provider: Provider
    clock: Callable[[], datetime]
    lease: timedelta
    limits: Limits = Limits()  # noqa: RUF009 # it is frozen
    only_to: Sequence[str] = ()
    order: control.StandingOrder = control.StandingOrder(timedelta(hours=1), None)  # noqa: RUF009 # the same
    sleep: Callable[[float], None] | None = None  # None: until `stop`, at most so long
    jitter: Callable[[], float] = random.random
    owner: str = field(default_factory=this_process)
    new_attempt: Callable[[], AttemptId] = lambda: AttemptId(os.urandom(12).hex())
    report: Callable[[Progress], None] = lambda progress: None  # noqa: ARG005 # nobody watches
    stop: threading.Event = field(default_factory=threading.Event)
    linger: timedelta | None = None  # a run ends where nothing is due within so long; None: it waits for all of it

    def run(self, edition_id: int) -> EditionRecord:
        """Send what is due until nothing waits, or somebody stops it. Gives the edition as it stands then.

        It returns early where dispatch is halted or the edition paused or cancelled, and waits for batches that are due
        later, within `linger` if there is one, or in another living process's hands.
        """
        with reading(self.engine) as session:
            record = session.get_one(EditionRecord, edition_id)
            total = tally(session, record).waiting
            batches = ledger.count_open(session, edition_id)
            run = _Run(
                record,
                edition_id,
                total,
                Names(store.instance(session).instance_id),
                Writer(self.engine),
                threading.Semaphore(self.limits.calls),
            )
        with _collecting_rarely():
            self._run(run, max(1, min(batches, self.limits.calls * pace.AHEAD)))
        if run.fault is not None:
            raise run.fault
        with reading(self.engine) as session:
            return session.get_one(EditionRecord, edition_id)

    def _run(self, run: _Run, most: int) -> None:
        """Send from `most` threads: a small edition needs no more than it has batches."""
        if self.limits.calls == 1:
            self._go_on(run)
        else:
            threads = [
                threading.Thread(target=self._go_on, args=(run,), name=f"dispatch-{number}") for number in range(most)
            ]
            try:
                for thread in threads:
                    thread.start()
                for thread in threads:
                    _join(thread)
            except BaseException:  # Ctrl-C where nobody handles it, no room for a thread: what is out is recorded
                self.stop.set()
                for thread in threads:
                    if thread.ident is not None:
                        thread.join()
                raise

    def _go_on(self, run: _Run) -> None:
        """Claim and call, again and again, until there is nothing more to do or some thread met a fault."""
        answered: _Answered | None = None
        try:
            while True:
                turns = run.turns
                step = self._step(run, answered)
                if answered is not None and answered.fault is not None:
                    run.fail(answered.fault)
                    return
                answered = None
                if step is None:
                    return
                if isinstance(step, _Wait):
                    self._sleep(run, turns, step.seconds)
                else:
                    answered = self._call(run, step)
        except BaseException as fault:  # noqa: BLE001 # the thread that waits for all of them raises it
            run.fail(fault)
        finally:
            run.turn()

    def _sleep(self, run: _Run, turns: int, seconds: float) -> None:
        """Wait so long, or until another thread has put something on record since `turns`."""
        if self.sleep is not None:
            self.sleep(seconds)
            return
        with run.changed:
            run.changed.wait_for(lambda: run.turns != turns or self.stop.is_set(), seconds)

    # -------------------------------------------------------------------------------------- one step

    def _step(self, run: _Run, answered: _Answered | None) -> _Claim | _Wait | None:
        """Put on record what a call came to, and claim the next batch, in one transaction. None where it is over.

        Where the database is locked, its disk full or the connection to it cut while a provider's answer is known here
        only, again and again for as long as the lease lasts: given up, its people would be unknown for good.
        """
        matters = answered is not None and not self.provider.idempotent
        ends = time.monotonic() + self.lease.total_seconds()
        while True:
            try:
                step, note = self._write(run, answered)
                break
            except DBAPIError as error:
                if not matters or not is_passing(error) or time.monotonic() >= ends:
                    raise
                _log.warning("dispatch.write.again: %s", error.orig)
                time.sleep(_WRITE_AGAIN.total_seconds())
        if answered is not None:
            with run.lock:
                run.done += len(answered.claimed.recipients)
                progress = Progress(min(run.done, run.total), run.total, note)
                self.report(progress)
            run.turn()
        if isinstance(step, _Wait) and step.note:
            with run.lock:
                if step.note != run.told:
                    run.told = step.note
                    self.report(Progress(min(run.done, run.total), run.total, step.note))
        return step

    def _write(self, run: _Run, answered: _Answered | None) -> tuple[_Claim | _Wait | None, str | None]:
        def write(session: Session) -> tuple[_Claim | _Wait | None, str | None]:
            now = self.clock()
            rate = pace.pace_of(session, self.provider.name, self.limits)
            note = self._record(session, run, rate, answered, now) if answered is not None else None
            return self._next(session, run, rate, now), note

        return run.writer.write(write)

    def _next(self, session: Session, run: _Run, rate: Pace, now: datetime) -> _Claim | _Wait | None:
        """What to do next: claim, wait, or nothing more."""
        if self.stop.is_set() or run.fault is not None or not ledger.goes_on(session, run.edition_id):
            pace.unqueue(rate, run.edition_id)
            ledger.close_if_done(session, run.edition_id, now)  # what came back may have been the last
            return None
        held = ledger.held(session)
        if self._release_lapsed(session, held, now):
            held = ledger.held(session)
        if self._pause_if_stale(session, run.record, now):
            pace.unqueue(rate, run.edition_id)
            return None
        turn = pace.turn(rate, run.edition_id, Counter(batch.edition_id for batch in held), now)
        leave = pace.leave(session, rate, self.limits, len(held), now, alone=turn.alone)
        goes = leave.room != 0 and not turn.waits
        if goes:
            claim = self._claim(session, run, rate, leave, now)
            pace.unqueue(rate, run.edition_id)
            if claim is not None:
                return claim
            record = session.get_one(EditionRecord, run.edition_id)
            control.follow(session, record, self.order, self.provider, now)
        if ledger.close_if_done(session, run.edition_id, now):
            pace.unqueue(rate, run.edition_id)
            return None
        due = ledger.next_due(session, run.edition_id)
        if due is not None and due > now + pace.LONGEST_WAIT:
            ledger.bring_forward(session, run.edition_id, now + pace.LONGEST_WAIT, now)
        return self._wait(session, run, rate, leave, held, goes=goes, alone=turn.alone, now=now)

    def _wait(
        self,
        session: Session,
        run: _Run,
        rate: Pace,
        leave: pace.Leave,
        held: Sequence[Batch],
        *,
        goes: bool,
        alone: bool,
        now: datetime,
    ) -> _Wait | None:
        """How long to wait where nothing could be claimed; None where that is longer than this run lingers."""
        due = ledger.next_due(session, run.edition_id)
        rest = due - now if due is not None and all(batch.edition_id != run.edition_id for batch in held) else None
        note = None
        if rest is not None and rest > _LOOK_AGAIN and ledger.is_ahead(session, run.edition_id, now):
            note = f"the next wave is due at {due:%Y-%m-%d %H:%M} UTC"
        if not goes:
            if due is not None and due <= now and (leave.until is not None or not alone):
                pace.queue(rate, run.edition_id, now)
            due = leave.until or now + _TURN
            rest = leave.until - now if leave.until is not None and rest is not None else None
        if rest is not None and self.linger is not None and rest > self.linger:
            pace.unqueue(rate, run.edition_id)
            return None
        span = min(_LOOK_AGAIN, due - now) if due is not None else _LOOK_AGAIN
        return _Wait(max(_SOONEST, span.total_seconds()), note)

    def _release_lapsed(self, session: Session, held: Sequence[Batch], now: datetime) -> bool:
        """Take batches from processes that are gone, or whose lease ran out: pending again, or unknown.

        Of whichever edition: what is held counts against `calls`, and nobody may ever dispatch another edition again.
        """
        released = False
        for batch in held:
            lapsed = batch.lease_until is None or not now < batch.lease_until <= now + self.lease + store.CLOCKS_APART
            gone = bool(batch.owner) and batch.owner != self.owner and is_gone(batch.owner or "")
            if not (lapsed or gone):
                continue
            released = True
            again = self.provider.idempotent and not ledger.is_cancelled(session, batch.edition_id)
            if batch.state is BatchState.CLAIMED or again:
                ledger.release(session, batch, BatchState.PENDING, note="its process ended; taken up again", now=now)
            else:
                ledger.release(session, batch, BatchState.UNKNOWN, note="its process ended during the call", now=now)
                ledger.close_if_done(session, batch.edition_id, now)
        return released

    def _pause_if_stale(self, session: Session, record: EditionRecord, now: datetime) -> bool:
        """Pause an edition whose next batch is overdue by more than `stale_after`: old news waits for a person."""
        assert record.id is not None
        due = ledger.first_promised(session, record.id)
        if due is None or now <= due + timedelta(seconds=record.stale_after_s):
            return False
        reason = f"overdue by {hours(now - due)}, more than stale_after; only --yes sends it now"
        store.set_edition(session, record.id, EditionState.PAUSED, reason=reason, only_from=[EditionState.DISPATCHING])
        return True

    # -------------------------------------------------------------------------------------- claiming

    def _claim(
        self, session: Session, run: _Run, rate: Pace, leave: pace.Leave, now: datetime
    ) -> _Claim | _Wait | None:
        """Claim the next due batch that somebody is left in to call for now. None where none is due.

        A few only are passed over in one transaction: others want to write as well.
        """
        attempt, lease_until, record = self.new_attempt(), now + self.lease, run.record
        for _ in range(_PASSED_OVER):
            found = ledger.claim(session, record, owner=self.owner, lease_until=lease_until, attempt=attempt, now=now)
            if found is None:
                return None
            batch, people = found
            mailed, later = self._within_limits(session, self._mailable(session, people), leave, now)
            claimed = _claimed(batch, run.names.of(record.tag, [one[1] for one in mailed]), mailed, attempt)
            for until, why, rows in later:
                if mailed or len(later) > 1:
                    tries = batch.tries
                    ledger.make_child(session, claimed.batch_id, rows, due_at=until, tries=tries, note=why)
                else:
                    ledger.put_off(session, claimed, due_at=until, note=why)
            if mailed:
                pace.spend(session, rate, self.limits, (one[2] for one in mailed), now)
                return _Claim(claimed, now)
            if len(later) != 1:  # nobody is left in it
                ledger.finish(session, claimed, BatchState.DONE, note=None, now=now)
        return _Wait(_SOONEST)

    def _mailable(self, session: Session, people: list[ledger.Standing]) -> list[ledger.Standing]:
        """Whoever of a batch may be mailed now; what stands against the others is written as their outcome."""
        against: dict[int, tuple[Outcome, str | None]] = {}
        for row, _, address, _, _, exclusion in people:
            if exclusion is not None:
                against[row] = (Outcome.SUPPRESSED if exclusion == SUPPRESSED else Outcome.SKIPPED, exclusion)
            elif self.only_to and not allowed(address, self.only_to):
                against[row] = (Outcome.SKIPPED, "only_to")
        if not against:
            return people
        ledger.write_outcomes(session, against)
        return [one for one in people if one[0] not in against]

    def _within_limits(
        self, session: Session, people: list[ledger.Standing], leave: pace.Leave, now: datetime
    ) -> tuple[list[ledger.Standing], list[tuple[datetime, str, list[int]]]]:
        """Who may be called for now, and the rows of those who may not: when they may, and why."""
        later: dict[tuple[datetime, str], list[int]] = {}
        if self.limits.domains and people:
            leaves = pace.domain_leaves(session, self.provider.name, self.limits, now)
            room = {domain: one.room or 0 for domain, one in leaves.items()}
            kept = []
            for person in people:
                domain = pace.domain_of(person[2])
                if domain in room:
                    if room[domain] <= 0:
                        one = leaves[domain]
                        key = (one.until or now + pace.A_MINUTE, one.why or f"a limit of {domain}")
                        later.setdefault(key, []).append(person[0])
                        continue
                    room[domain] -= 1
                kept.append(person)
            people = kept
        if leave.room is not None and len(people) > leave.room:
            rows = [person[0] for person in people[leave.room :]]
            later.setdefault((now + pace.A_MINUTE, leave.why or "a limit"), []).extend(rows)
            people = people[: leave.room]
        return people, [(until, why, rows) for (until, why), rows in later.items()]

    # -------------------------------------------------------------------------------------- calling

    def _message(self, run: _Run, message_id: int) -> Message:
        with run.lock:
            if message_id not in run.messages:
                with reading(self.engine) as session:
                    run.messages[message_id] = store.load_message(session.get_one(MessageRecord, message_id))
            return run.messages[message_id]

    def _call(self, run: _Run, claim: _Claim) -> _Answered | None:
        """Build and call for one batch; None where the claim was lost before anything left."""
        claimed = claim.claimed
        message = self._message(run, claimed.message_id)
        receipts: list[Receipt] = []
        error: Exception | None = None
        started = False

        def start() -> None:
            nonlocal started
            now = self.clock()
            until, calls = now + self.lease, self.limits.calls
            if not run.writer.write(
                lambda session: ledger.begin_call(session, claimed, now=now, lease_until=until, calls=calls)
            ):
                raise _LostClaim
            started = True

        try:
            with run.calls:
                answers = self.provider.submit(message, claimed.recipients, claimed.attempt, start)
                self._take(run, claimed, answers, receipts)
        except _LostClaim:
            run.writer.write(lambda session: self._put_back(session, claim))
            self._sleep(run, run.turns, _TURN.total_seconds())
            return None
        except DBAPIError as caught:
            if not started and is_passing(caught):  # the last word before the call was not taken: nothing has left
                said = f"the database: {caught.orig}"[:300]
                return _Answered(claimed, claim.at, Settlement(BatchState.PENDING, note=said))
            error = caught
        except Exception as caught:  # noqa: BLE001 # whatever it is, what it means for the batch is written down first
            error = caught
        settlement = settle(claimed.rows, receipts, error).braked(claimed)
        if self.provider.idempotent:
            settlement = settlement.again(claimed)
        fault = error if error is not None and not isinstance(error, DispatchError) else None
        if fault is not None and not started:
            said = f"a fault in {self.provider.name}"
            settlement = Settlement(BatchState.PENDING, note=repr(fault)[:300], pause=said, went=Went.REFUSED)
        return _Answered(claimed, claim.at, settlement, fault)

    def _put_back(self, session: Session, claim: _Claim) -> None:
        """Undo a claim for which nobody was called: it costs no limit."""
        claimed = claim.claimed
        ledger.put_off(session, claimed, due_at=claimed.due_at, note=None)
        if self.limits.counts:
            pace.refund(session, self.provider.name, [one.address for one in claimed.recipients], claim.at)

    def _take(self, run: _Run, claimed: ledger.Claimed, answers: Iterable[Receipt], receipts: list[Receipt]) -> None:
        """Take the receipts of a call as they come. Where they come one by one, record them in windows.

        A window is the next in the order of the call that are accepted or refused: the rest waits for the end.
        """
        if self.provider.atomic or self.provider.idempotent or len(claimed.recipients) <= _WINDOW:
            receipts.extend(answers)
            return
        known: dict[DeliveryId, Receipt] = {}
        told, order = 0, list(claimed.rows)  # as its recipients stand
        for receipt in answers:
            receipts.append(receipt)
            known[receipt.delivery] = weightier(known.get(receipt.delivery), receipt)
            if len(known) < _WINDOW:
                continue
            outcomes: dict[int, tuple[Outcome, str | None]] = {}
            before = told
            while told < len(order):
                answer = known.pop(order[told], None)
                if answer is None:
                    break
                if answer.result is _REFUSED:
                    reason = (answer.reason or "no reason given")[:300]
                    outcomes[claimed.rows[answer.delivery]] = (Outcome.REFUSED, reason)
                elif answer.result is not _ACCEPTED:
                    break
                told += 1
            if told > before:
                row = claimed.rows[order[told - 1]]
                self._note(run, claimed, row, outcomes)

    def _note(
        self, run: _Run, claimed: ledger.Claimed, row: int, outcomes: dict[int, tuple[Outcome, str | None]]
    ) -> None:
        try:
            run.writer.write(lambda session: ledger.note_answers(session, claimed, answered_to=row, outcomes=outcomes))
        except DBAPIError as error:  # the end of the call records them all once more
            if not is_passing(error):
                raise

    # -------------------------------------------------------------------------------------- recording

    def _record(self, session: Session, run: _Run, rate: Pace, answered: _Answered, now: datetime) -> str | None:
        """Write what a call came to; give what its people wait for, if they do."""
        claimed, settlement = answered.claimed, answered.settlement
        if settlement.suspect:
            settlement = sift(list(claimed.rows.values()), settlement, ledger.suspect(session, claimed))
        elif settlement.only_refuses(claimed) and ledger.is_suspect(session, claimed):
            known = ledger.suspect(session, claimed)
            settlement = settlement if known.proven else settlement.unproven()
        wait = settlement.later_after
        due_at = now + (back_off(claimed.tries, self.jitter) if wait is None else wait)
        pause = settlement.pause
        if settlement.state is BatchState.PENDING:
            stays = due_at if settlement.stays_after is None else now + settlement.stays_after
            asked_at = now if settlement.asks else None
            mine = ledger.give_back(session, claimed, due_at=stays, note=settlement.note or "", asked_at=asked_at)
        else:
            mine = ledger.finish(
                session,
                claimed,
                settlement.state,
                note=settlement.note,
                now=now,
                provider_id=settlement.provider_id,
                held_until=settlement.held_until,
            )
        if mine:
            ledger.write_outcomes(session, settlement.outcomes)
            if settlement.later:
                ledger.make_child(
                    session,
                    claimed.batch_id,
                    settlement.later,
                    due_at=due_at,
                    tries=claimed.tries + 1,
                    note=settlement.note or "",
                )
            self._suppress_gone(session, claimed, settlement, now)
            pause = pause or pace.heed(rate, settlement, self.limits, now, self.jitter)
            self._refund(session, answered, settlement)
            if pause:
                store.set_edition(
                    session,
                    run.edition_id,
                    EditionState.PAUSED,
                    reason=pause[:500],
                    only_from=[EditionState.DISPATCHING],
                )
        waits = settlement.state is BatchState.PENDING or settlement.later
        if not waits or pause or due_at <= now:
            return None
        return f"{settlement.note}; next try at {due_at:%H:%M:%S} UTC"

    def _refund(self, session: Session, answered: _Answered, settlement: Settlement) -> None:
        """Give back to the limits what was surely not handed over."""
        claimed = answered.claimed
        not_handed = set(settlement.later)
        if settlement.state is BatchState.PENDING:
            not_handed = set(claimed.rows.values())
        if not not_handed or not self.limits.counts:
            return
        left = [one.address for one in claimed.recipients if claimed.rows[one.delivery] in not_handed]
        pace.refund(session, self.provider.name, left, answered.claimed_at)

    def _suppress_gone(self, session: Session, claimed: ledger.Claimed, settlement: Settlement, now: datetime) -> None:
        """Suppress the addresses of which the provider said that there is no such mailbox."""
        for recipient in claimed.recipients if settlement.gone else ():
            row = claimed.rows[recipient.delivery]
            if row in settlement.gone:
                note = settlement.outcomes[row][1] if row in settlement.outcomes else None
                suppress(
                    session,
                    parse(recipient.address),
                    Reason.HARD_BOUNCE,
                    now=now,
                    actor=f"provider:{self.provider.name}",
                    note=note,
                    origin=BY_PROVIDER,
                )


def _claimed(
    batch: Batch, names: Sequence[DeliveryId], people: Sequence[ledger.Standing], attempt: AttemptId
) -> ledger.Claimed:
    assert batch.id is not None
    rows, _, addresses, called, links, _ = zip(*people, strict=True) if people else ((),) * 6
    return ledger.Claimed(
        batch.edition_id,
        batch.id,
        batch.number,
        batch.epoch,
        batch.tries,
        batch.message_id,
        batch.due_at,
        attempt,
        recipients_of(names, addresses, called, links),
        dict(zip(names, rows, strict=True)),
    )


_counting = threading.Lock()
_thresholds: list[tuple[int, int, int]] = []  # as each run that goes on found them: the first one's are the usual ones


@contextmanager
def _collecting_rarely() -> Iterator[None]:
    """Have the garbage collector look for cycles rarely.

    It looks after every 700 new objects that hold others, and each copy has several: a third of the time of a dispatch.
    The setting is the whole process's: of several runs the first changes it, and the last puts it back.
    """
    with _counting:
        _thresholds.append(gc.get_threshold())
        if len(_thresholds) == 1:
            gc.freeze()
            gc.set_threshold(100_000, *_thresholds[0][1:])
    try:
        yield
    finally:
        with _counting:
            if len(_thresholds) == 1:
                gc.set_threshold(*_thresholds[0])
                gc.unfreeze()
            _thresholds.pop()


def _join(thread: threading.Thread) -> None:
    """Wait for a thread in slices, so that the main thread hears signals in between."""
    while thread.is_alive():
        thread.join(0.5)


def hours(span: timedelta) -> str:
    """A span in words that fit a line: "26 h", "40 min"."""
    minutes = int(span.total_seconds() // 60)
    return f"{minutes // 60} h" if minutes >= 120 else f"{minutes} min"  # noqa: PLR2004 # two hours
