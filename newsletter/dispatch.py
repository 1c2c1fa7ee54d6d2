"""Message x Audience -> Batches -> Provider -> Deliveries: claim, build, call, record.

What a receipt or an error *means* is decided by `settle`, without a database; the loop around it keeps two rules. A
batch is `calling` on the disk before the first byte leaves, so that after a crash only what was in the provider's hands
can be in doubt; and no transaction stays open during a call. The rows decide what is done: any number of processes may
run this on one edition, and a killed one is picked up by the next.
"""

import os
import random
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import Engine
from sqlmodel import Session

from newsletter import ledger, store
from newsletter.edition import AttemptId, DeliveryId, Message, Receipt, Recipient, Result
from newsletter.errors import DispatchError, OutcomeUnknown, ProviderRefused, Throttled
from newsletter.models import BatchState, EditionRecord, EditionState, MessageRecord, Outcome
from newsletter.providers import Provider
from subscribers import SUPPRESSED, reading, transaction

FIRST_BACK_OFF = timedelta(seconds=2)
LONGEST_BACK_OFF = timedelta(minutes=15)
DEFERRED_WAIT = timedelta(minutes=15)  # greylisting opens after 5 to 15 minutes as a rule (RFC 6647 section 2.2)
_PATIENCE = 5  # calls in a row without an answer, from an idempotent provider, before a person is asked
_NAMED_IN_A_ROW = 10  # calls; a list of hand-kept addresses may have a few bad ones
_PROBED_WAIT = timedelta(minutes=1)
_LOOK_AGAIN = timedelta(seconds=1)  # how often a waiting process looks whether another's batch came free


# ------------------------------------------------------------------------------------------ deciding


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a call came to. Rows are delivery rows."""

    state: BatchState
    outcomes: Mapping[int, tuple[Outcome, str | None]] = field(default_factory=dict)
    later: Sequence[int] = ()  # for a child batch
    later_after: timedelta | None = None  # when `later`, or the whole batch, is due again; None: after a back-off
    stays_after: timedelta | None = None  # when what stays in a batch that is split is due again; None: as `later`
    note: str | None = None
    pause: str | None = None  # why the edition waits for an operator
    suspect: bool = False  # refused as a whole, perhaps for the sake of one recipient: `sift` says what then
    provider_id: str | None = None  # the provider's name for the call

    def braked(self, claimed: ledger.Claimed) -> "Settlement":
        """The same, but the edition waits for an operator where call after call refuses somebody and takes nobody.

        A provider that names one recipient at a time would be handed the whole list that way, for a fault that may be
        in what all copies share.
        """
        if not self.later or not self.only_refuses(claimed):
            return self
        if (claimed.tries + 1) % _NAMED_IN_A_ROW:
            return self
        said = f"call after call refused somebody and took nobody; the last reason: {self._reason()}"
        return replace(self, pause=self.pause or said)

    def only_refuses(self, claimed: ledger.Claimed) -> bool:
        """Whether a call refused somebody and took nobody."""
        refused = any(outcome is Outcome.REFUSED for outcome, _ in self.outcomes.values())
        taken = len(claimed.rows) - len(self.outcomes) - len(self.later)
        return self.state is BatchState.DONE and refused and not taken

    def unproven(self) -> "Settlement":
        """The same for a part of what was refused as a whole: named or not, the message itself may be at fault."""
        reason = self._reason()
        return Settlement(
            BatchState.PENDING, later_after=_PROBED_WAIT, note=reason, pause=f"the first one tried: {reason}"
        )

    def _reason(self) -> str:
        return next((reason or "" for outcome, reason in self.outcomes.values() if outcome is Outcome.REFUSED), "")

    def again(self, claimed: ledger.Claimed) -> "Settlement":
        """The same for a provider that can be called again without harm: what is unknown is tried again, later.

        After several calls without an answer the edition waits for an operator.
        """
        unknown = [row for row, (outcome, _) in self.outcomes.items() if outcome is Outcome.UNKNOWN]
        if self.state is not BatchState.UNKNOWN and not unknown:
            return self
        pause = None
        if claimed.tries >= _PATIENCE:
            pause = f"{claimed.tries + 1} calls in a row gave no answer: {self.note}"
        if self.state is BatchState.UNKNOWN:
            return replace(self, state=BatchState.PENDING, later_after=None, pause=self.pause or pause)
        known = {row: word for row, word in self.outcomes.items() if row not in unknown}
        note = self.note or "no answer"
        return replace(self, outcomes=known, later=[*self.later, *unknown], note=note, pause=self.pause or pause)


def settle(rows: Mapping[DeliveryId, int], receipts: Iterable[Receipt], error: Exception | None) -> Settlement:
    """What the receipts of one call, and the error that ended it, mean for each delivery.

    Without receipts, an error that surely left nothing behind gives the batch back; any other makes it unknown. Beside
    receipts, an error speaks only for those that have none.
    """
    answered = {receipt.delivery: receipt for receipt in receipts if receipt.delivery in rows}
    if not answered and error is not None:
        return _settle_error(error)
    outcomes: dict[int, tuple[Outcome, str | None]] = {}
    later: list[int] = []
    waits: list[timedelta] = []
    notes: list[str] = []
    accepted = 0
    for delivery, row in rows.items():
        receipt = answered.get(delivery)
        result = receipt.result if receipt else _unanswered(error)
        reason = receipt.reason if receipt else (str(error) if error else "no receipt came")
        if result is Result.ACCEPTED:
            accepted += 1
        elif result is Result.REFUSED:
            outcomes[row] = (Outcome.REFUSED, (reason or "no reason given")[:300])
        elif result is Result.UNKNOWN:
            outcomes[row] = (Outcome.UNKNOWN, (reason or "no answer")[:300])
        else:
            later.append(row)
            notes.append(reason or str(result))
            if result is Result.DEFERRED:
                waits.append((receipt.retry_after if receipt else None) or DEFERRED_WAIT)
    note = notes[0] if notes else None
    # What ended the call early speaks for those it left over: how long to wait, whether a person must look first.
    ended = _settle_error(error) if error is not None and later else None
    if ended is not None and ended.later_after:
        waits.append(ended.later_after)
    pause = ended.pause if ended else None
    wait = max(waits, default=None)
    if later and not accepted and not outcomes:
        return Settlement(BatchState.PENDING, later_after=wait, note=note, pause=pause)
    refused = any(outcome is Outcome.REFUSED for outcome, _ in outcomes.values())
    soon = timedelta() if (accepted or refused) and ended is None else None
    provider_id = next((receipt.provider_id for receipt in answered.values() if receipt.provider_id), None)
    return Settlement(
        BatchState.DONE,
        outcomes,
        later,
        wait if waits else soon,
        note=note,
        pause=pause,
        provider_id=provider_id,
    )


def sift(rows: Sequence[int], refused: Settlement, known: ledger.Suspicion) -> Settlement:
    """What a refusal of a whole call means, where the provider may have refused it for the sake of one recipient.

    First a single recipient is tried. Only where such a call has been accepted since (`known.proven`), somebody in this
    batch must be the cause: it is halved until they are found, and refused. Where the message is not proven, or a
    second one would be refused with nobody accepted in between, it may be the account that is at fault by now: the
    edition waits for an operator, and nobody is marked. Where they let it go on, that one is refused.
    """
    size = max(1, len(rows) // 2 if known.proven else 1)
    first, rest = rows[:size], rows[size:]
    if rest:
        after = timedelta() if known.proven else None
        return Settlement(BatchState.PENDING, {}, rest, after, timedelta(), note=refused.note)
    if known.proven and (known.fresh or known.asked):
        return Settlement(BatchState.DONE, {first[0]: (Outcome.REFUSED, (refused.note or "no reason given")[:300])})
    # Due after the others, so that they are tried first when an operator lets it run: it may be about this one alone.
    note = f"{ledger.ASKED}{refused.note}" if known.proven else refused.note
    return replace(refused, later_after=_PROBED_WAIT, suspect=False, note=note)


def _settle_error(error: Exception) -> Settlement:
    if isinstance(error, Throttled):
        return Settlement(BatchState.PENDING, later_after=error.retry_after, note=str(error))
    if isinstance(error, ProviderRefused):
        said = str(error)
        return Settlement(BatchState.PENDING, later_after=timedelta(), note=said, pause=said, suspect=error.suspect)
    if isinstance(error, DispatchError) and not isinstance(error, OutcomeUnknown):
        return Settlement(BatchState.PENDING, note=str(error))
    return Settlement(BatchState.UNKNOWN, note=str(error) or type(error).__name__)


def _unanswered(error: Exception | None) -> Result:
    surely_not = isinstance(error, DispatchError) and not isinstance(error, OutcomeUnknown)
    return Result.NOT_TRIED if surely_not else Result.UNKNOWN


def back_off(tries: int, jitter: Callable[[], float]) -> timedelta:
    """How long to wait after the nth failure: doubling from 2 s to 15 min, of which a random half to whole is taken."""
    whole = min(FIRST_BACK_OFF * (1 << min(tries, 16)), LONGEST_BACK_OFF)
    return whole * (0.5 + jitter() / 2)


def allowed(address: str, only_to: Sequence[str]) -> bool:
    """Whether `only_to` (addresses and domains, empty for everybody) lets an address be mailed."""
    if not only_to:
        return True
    folded = address.casefold()
    domain = folded.rpartition("@")[2]
    return any(folded == entry or domain == entry.removeprefix("@") for entry in (o.casefold() for o in only_to))


# ------------------------------------------------------------------------------------------ processes


def this_process() -> str:
    """A name for this process that no other has or will have: machine, process id, and when it started."""
    return f"{_machine()}/{os.getpid()}/{_started(os.getpid())}"


def is_gone(owner: str) -> bool:
    """True only where it is certain that the process of that name has ended. Of other machines nothing is certain."""
    machine, _, rest = owner.rpartition("/")[0].rpartition("/")
    started = owner.rpartition("/")[2]
    if machine != _machine() or not rest.isdigit() or started == "?":
        return False
    return _started(int(rest)) != started


def _machine() -> str:
    """Host, boot and process-id space: a number means the same process only where all three are the same."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
        space = str(Path("/proc/self/ns/pid").readlink()).strip("pid:[]")
    except OSError:
        boot = space = "?"
    return f"{socket.gethostname()}/{boot}.{space}"


def _started(pid: int) -> str:
    """When a process started, in clock ticks since boot; "gone" where there is none, "?" where nobody can tell."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return "gone" if Path("/proc/self/stat").exists() else "?"
    except OSError:
        return "?"
    fields = status.rpartition(")")[2].split()
    return "gone" if fields[0] in {"Z", "X"} else fields[19]  # proc_pid_stat(5): state is field 3, starttime 22


# ------------------------------------------------------------------------------------------ doing


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


@dataclass(frozen=True)
class Dispatcher:
    """Sends one edition's batches through one provider. Clock, sleep, randomness and names are arguments."""

    engine: Engine
    provider: Provider
    clock: Callable[[], datetime]
    lease: timedelta
    only_to: Sequence[str] = ()
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = random.random
    owner: str = field(default_factory=this_process)
    new_attempt: Callable[[], AttemptId] = lambda: AttemptId(os.urandom(12).hex())
    report: Callable[[Progress], None] = lambda progress: None  # noqa: ARG005 # nobody watches

    def run(self, edition_id: int) -> EditionRecord:
        """Send what is due until nothing waits, or somebody stops it. Gives the edition as it stands then.

        It returns early where dispatch is halted or the edition paused, and waits for batches that are due later or in
        another living process's hands.
        """
        done = 0
        messages: dict[int, Message] = {}
        with reading(self.engine) as session:
            record = session.get_one(EditionRecord, edition_id)
            total = ledger.tally(session, record).waiting
        while True:
            with transaction(self.engine) as session:
                record = session.get_one(EditionRecord, edition_id)
                if record.state is not EditionState.DISPATCHING or store.instance(session).halted_at is not None:
                    return record
                self._release_lapsed(session, edition_id)
                if self._pause_if_stale(session, record):
                    return record
                claimed = self._claim(session, record)
                if claimed is None:
                    if ledger.close_if_done(session, edition_id, self.clock()):
                        session.refresh(record)
                        return record
                    wait = self._wait(session, edition_id)
            if claimed is None:
                self.sleep(wait)
                continue
            note = None
            if claimed.recipients:
                if claimed.message_id not in messages:
                    messages[claimed.message_id] = self._message(claimed.message_id)
                note = self._call(edition_id, claimed, messages[claimed.message_id])
            done += len(claimed.recipients)
            self.report(Progress(min(done, total), total, note))

    def _message(self, message_id: int) -> Message:
        with reading(self.engine) as session:
            return store.load_message(session.get_one(MessageRecord, message_id))

    def _release_lapsed(self, session: Session, edition_id: int) -> None:
        """Take batches from processes that are gone, or whose lease ran out: pending again, or unknown."""
        now = self.clock()
        for batch in ledger.held(session, edition_id):
            lapsed = batch.lease_until is None or batch.lease_until <= now
            if not lapsed and not (batch.owner and batch.owner != self.owner and is_gone(batch.owner)):
                continue
            if batch.state is BatchState.CLAIMED or self.provider.idempotent:
                ledger.release(session, batch, BatchState.PENDING, note="its process ended; taken up again", now=now)
            else:
                ledger.release(session, batch, BatchState.UNKNOWN, note="its process ended during the call", now=now)

    def _pause_if_stale(self, session: Session, record: EditionRecord) -> bool:
        """Pause an edition whose next batch is overdue by more than `stale_after`: old news waits for a person."""
        assert record.id is not None
        due = ledger.first_promised(session, record.id)
        if due is None or self.clock() <= due + timedelta(seconds=record.stale_after_s):
            return False
        reason = f"overdue by {hours(self.clock() - due)}, more than stale_after; only --yes sends it now"
        store.set_edition(session, record.id, EditionState.PAUSED, reason=reason, only_from=[EditionState.DISPATCHING])
        session.refresh(record)
        return True

    def _claim(self, session: Session, record: EditionRecord) -> ledger.Claimed | None:
        """Claim the next due batch, and write what stands against mailing some of it now. None where none is due."""
        assert record.id is not None
        now = self.clock()
        attempt = self.new_attempt()
        found = ledger.claim(session, record, owner=self.owner, lease_until=now + self.lease, attempt=attempt, now=now)
        if found is None:
            return None
        batch, rows = found
        instance_id = store.instance(session).instance_id
        against: dict[int, tuple[Outcome, str | None]] = {}
        recipients: list[Recipient] = []
        names: dict[DeliveryId, int] = {}
        for row, address, name, link, exclusion, subscriber_id in rows:
            if exclusion == SUPPRESSED:
                against[row] = (Outcome.SUPPRESSED, exclusion)
            elif subscriber_id is None:
                against[row] = (Outcome.SKIPPED, "left")
            elif exclusion is not None:
                against[row] = (Outcome.SKIPPED, exclusion)
            elif not allowed(address, self.only_to):
                against[row] = (Outcome.SKIPPED, "only_to")
            else:
                delivery = ledger.delivery_id(instance_id, record, subscriber_id)
                names[delivery] = row
                recipients.append(Recipient(delivery, address, name, link))
        ledger.write_outcomes(session, against)
        assert batch.id is not None
        claimed = ledger.Claimed(
            batch.id,
            batch.number,
            batch.epoch,
            batch.tries,
            batch.message_id,
            batch.due_at,
            attempt,
            tuple(recipients),
            names,
        )
        if not recipients:
            ledger.finish(session, claimed, BatchState.DONE, note=None)
        return claimed

    def _call(self, edition_id: int, claimed: ledger.Claimed, message: Message) -> str | None:
        """Build, call and record one batch; give what its people wait for, if they do.

        Only a bug of the provider's is raised from here, after it is recorded.
        """
        receipts: list[Receipt] = []
        error: Exception | None = None
        started = False

        def start() -> None:
            nonlocal started
            now = self.clock()
            with transaction(self.engine) as session:
                if not ledger.begin_call(session, claimed, now=now, lease_until=now + self.lease):
                    raise _LostClaim
            started = True

        try:
            receipts.extend(self.provider.submit(message, claimed.recipients, claimed.attempt, start))
        except _LostClaim:
            return None
        except Exception as caught:  # noqa: BLE001 # whatever it is, what it means for the batch is written down first
            error = caught
        settlement = settle(claimed.rows, receipts, error).braked(claimed)
        if self.provider.idempotent:
            settlement = settlement.again(claimed)
        if error is not None and not isinstance(error, DispatchError) and not started:
            settlement = Settlement(BatchState.PENDING, note=repr(error), pause=f"a fault in {self.provider.name}")
        note = self._record(edition_id, claimed, settlement)
        if error is not None and not isinstance(error, DispatchError):
            raise error
        return note

    def _record(self, edition_id: int, claimed: ledger.Claimed, settlement: Settlement) -> str | None:
        now = self.clock()
        with transaction(self.engine) as session:
            if settlement.suspect:
                settlement = sift(list(claimed.rows.values()), settlement, ledger.suspect(session, claimed))
            elif settlement.only_refuses(claimed) and ledger.is_suspect(session, claimed):
                known = ledger.suspect(session, claimed)
                settlement = settlement if known.proven else settlement.unproven()
            wait = settlement.later_after
            due_at = now + (back_off(claimed.tries, self.jitter) if wait is None else wait)
            if settlement.state is BatchState.PENDING:
                stays = due_at if settlement.stays_after is None else now + settlement.stays_after
                mine = ledger.give_back(session, claimed, due_at=stays, note=settlement.note or "")
            else:
                mine = ledger.finish(
                    session, claimed, settlement.state, note=settlement.note, provider_id=settlement.provider_id
                )
            if mine and settlement.outcomes:
                ledger.write_outcomes(session, settlement.outcomes)
            if mine and settlement.later:
                ledger.make_child(session, claimed, settlement.later, due_at=due_at, note=settlement.note or "")
            if mine and settlement.pause:
                store.set_edition(
                    session,
                    edition_id,
                    EditionState.PAUSED,
                    reason=settlement.pause[:500],
                    only_from=[EditionState.DISPATCHING],
                )
        waits = settlement.state is BatchState.PENDING or settlement.later
        if not waits or settlement.pause or due_at <= now:
            return None
        return f"{settlement.note}; next try at {due_at:%H:%M:%S} UTC"

    def _wait(self, session: Session, edition_id: int) -> float:
        """Seconds until it is worth looking again, at most one: another process may give its batch back any time."""
        due = ledger.next_due(session, edition_id)
        now = self.clock()
        return max(0.01, min(_LOOK_AGAIN, due - now if due else _LOOK_AGAIN).total_seconds())


def hours(span: timedelta) -> str:
    """A span in words that fit a line: "26 h", "40 min"."""
    minutes = int(span.total_seconds() // 60)
    return f"{minutes // 60} h" if minutes >= 120 else f"{minutes} min"  # noqa: PLR2004 # two hours
