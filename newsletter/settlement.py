"""What the answer to one call means for each recipient's copy. Pure: receipts and errors in, a Settlement out.

The dispatcher writes it down; what a refusal of a whole call means takes what the ledger knows of earlier ones, too.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from operator import attrgetter

from newsletter import ledger
from newsletter.edition import DeliveryId, Receipt, Result
from newsletter.errors import DispatchError, OutcomeUnknown, ProviderRefused, Throttled
from newsletter.models import BatchState, Outcome

FIRST_BACK_OFF = timedelta(seconds=2)
LONGEST_BACK_OFF = timedelta(minutes=15)
DEFERRED_WAIT = timedelta(minutes=15)  # greylisting opens after 5 to 15 minutes as a rule (RFC 6647 section 2.2)
_PATIENCE = 5  # calls in a row without an answer, from an idempotent provider, before a person is asked
_NAMED_IN_A_ROW = 10  # calls; a list of hand-kept addresses may have a few bad ones
_PROBED_WAIT = timedelta(minutes=1)
_DELIVERY, _RESULT, _PROVIDER_ID, _HELD_UNTIL = (
    attrgetter(name) for name in ("delivery", "result", "provider_id", "held_until")
)


class Went(StrEnum):
    """What a call says about the provider, whoever the recipients were. `newsletter.pace` slows down by it."""

    WELL = "well"
    THROTTLED = "throttled"  # it asks to wait
    FAILED = "failed"  # it could not be reached
    UNANSWERED = "unanswered"  # the call was out and no answer came
    REFUSED = "refused"  # it refuses everybody, so that the edition pauses


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
    asks: bool = False  # whether this one is at fault: an operator who lets it go on says that it may be refused
    provider_id: str | None = None  # the provider's name for the call
    held_until: datetime | None = None  # the provider keeps back what it took until then
    went: Went = Went.WELL
    gone: frozenset[int] = frozenset()  # of the refused: whose mailbox does not exist, so that it is suppressed

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
        said = f"the first one tried: {reason}"
        return Settlement(BatchState.PENDING, later_after=_PROBED_WAIT, note=reason, pause=said, went=Went.REFUSED)

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
            pause = self.pause or pause
            return replace(self, state=BatchState.PENDING, later_after=None, pause=pause, went=Went.FAILED)
        known = {row: word for row, word in self.outcomes.items() if row not in unknown}
        note = self.note or "no answer"
        return replace(self, outcomes=known, later=[*self.later, *unknown], note=note, pause=self.pause or pause)


def settle(rows: Mapping[DeliveryId, int], receipts: Iterable[Receipt], error: Exception | None) -> Settlement:
    """What the receipts of one call, and the error that ended it, mean for each delivery.

    Without receipts, an error that surely left nothing behind gives the batch back; any other makes it unknown. Beside
    receipts, an error speaks only for those that have none.
    """
    told = list(receipts)
    if (
        error is None
        and [*map(_RESULT, told)].count(Result.ACCEPTED) == len(told)
        and rows.keys() == {*map(_DELIVERY, told)}
    ):
        return _accepted(told)  # what nearly every call comes to
    answered: dict[DeliveryId, Receipt] = {}
    for receipt in told:
        if receipt.delivery in rows:
            answered[receipt.delivery] = weightier(answered.get(receipt.delivery), receipt)
    if not answered and error is not None:
        return _settle_error(error)
    return _settle_each(rows, answered, error)


_WEIGHT = {Result.ACCEPTED: 2, Result.REFUSED: 2, Result.UNKNOWN: 1}  # what is final; what may have left; the others


def weightier(before: Receipt | None, receipt: Receipt) -> Receipt:
    """Which of two receipts for one copy in a call counts: the first that is final, else what may have left."""
    if before is not None and _WEIGHT.get(before.result, 0) >= max(1, _WEIGHT.get(receipt.result, 0)):
        return before
    return receipt


def _settle_each(
    rows: Mapping[DeliveryId, int], answered: Mapping[DeliveryId, Receipt], error: Exception | None
) -> Settlement:
    """Recipient by recipient."""
    outcomes: dict[int, tuple[Outcome, str | None]] = {}
    later: list[int] = []
    waits: list[timedelta] = []
    notes: list[str] = []
    accepted = 0
    gone: set[int] = set()
    for delivery, row in rows.items():
        receipt = answered.get(delivery)
        result = receipt.result if receipt else _unanswered(error)
        reason = receipt.reason if receipt else (str(error) if error else "no receipt came")
        if result is Result.ACCEPTED:
            accepted += 1
        elif result is Result.REFUSED:
            outcomes[row] = (Outcome.REFUSED, (reason or "no reason given")[:300])
            if receipt is not None and receipt.suppress:
                gone.add(row)
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
    went = _went(error) if error is not None else Went.WELL if answered else Went.UNANSWERED
    if later and not accepted and not outcomes:
        return Settlement(BatchState.PENDING, later_after=wait, note=note, pause=pause, went=went)
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
        held_until=next((receipt.held_until for receipt in answered.values() if receipt.held_until), None),
        went=went,
        # Where nobody was taken, "no such mailbox" may be said of everybody by a server that knows none of them.
        gone=frozenset(gone) if accepted else frozenset(),
    )


def _accepted(told: Sequence[Receipt]) -> Settlement:
    return Settlement(
        BatchState.DONE,
        provider_id=next(filter(None, map(_PROVIDER_ID, told)), None),
        held_until=next(filter(None, map(_HELD_UNTIL, told)), None),
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
    return replace(refused, later_after=_PROBED_WAIT, suspect=False, asks=known.proven)


def _settle_error(error: Exception) -> Settlement:
    went, said = _went(error), str(error) or type(error).__name__
    if isinstance(error, Throttled):
        return Settlement(BatchState.PENDING, later_after=error.retry_after, note=said, went=went)
    if isinstance(error, ProviderRefused):
        wait = timedelta()
        return Settlement(BatchState.PENDING, later_after=wait, note=said, pause=said, suspect=error.suspect, went=went)
    return Settlement(BatchState.UNKNOWN if went is Went.UNANSWERED else BatchState.PENDING, note=said, went=went)


def _went(error: Exception) -> Went:
    if isinstance(error, Throttled):
        return Went.THROTTLED
    if isinstance(error, ProviderRefused):
        return Went.REFUSED
    surely_not = isinstance(error, DispatchError) and not isinstance(error, OutcomeUnknown)
    return Went.FAILED if surely_not else Went.UNANSWERED


def _unanswered(error: Exception | None) -> Result:
    surely_not = isinstance(error, DispatchError) and not isinstance(error, OutcomeUnknown)
    return Result.NOT_TRIED if surely_not else Result.UNKNOWN


def back_off(tries: int, jitter: Callable[[], float]) -> timedelta:
    """How long to wait after the nth failure: doubling from 2 s to 15 min, of which a random half to whole is taken."""
    whole = min(FIRST_BACK_OFF * (1 << min(tries, 16)), LONGEST_BACK_OFF)
    return whole * (0.5 + jitter() / 2)
