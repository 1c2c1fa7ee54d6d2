"""How fast a provider may be called: limits, what was spent of them, and how it bears up.

All of it is kept in the database, for every process together, so that a restart forgets neither what an hour has seen
already nor that the provider asked for rest. A provider that throttles or fails is left alone for a while and called
once at a time until it answers well again. The functions work in the caller's session.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import bindparam, delete, or_, select, update
from sqlmodel import Session, col

from newsletter.models import Pace, Spending
from newsletter.settlement import Settlement, Went, back_off
from newsletter.store import changed_rows

_HOUR, _DAY = 60, 1_440  # minutes
_UNANSWERED = 3  # calls in a row without an answer before a person is asked: each may cost a whole batch
AHEAD = 2  # batches that are claimed for each call that may be out: the next is ready when one comes back
_TURN_LASTS = 1.0  # seconds that an edition keeps its place while another waits: what waits looks five times a second
_SEEN_AGAIN = 1.0  # seconds; who waits says so again as often
_GONE = 5.0  # seconds; who waits and has not said so for as long is gone, or its clock is not ours
A_MINUTE = timedelta(minutes=1)
_LONGEST_REST = timedelta(hours=3)  # a batch of 10,000 at one a second; providers are heeded for an hour at most
LONGEST_WAIT = timedelta(hours=25)  # a day's limit is free again after a day and a minute; nothing else takes as long


@dataclass(frozen=True, slots=True)
class Limits:
    """What a provider may be handed: recipients a second, an hour, a day, and an hour to each of some domains.

    None is no limit. `calls` is how many at once; `warm_up` how many on the first day, the second and so on, from
    `warm_up_from` (UTC) on; `patience` how many calls in a row may fail before a person is asked.
    """

    per_second: int | None = None
    per_hour: int | None = None
    per_day: int | None = None
    domains: Mapping[str, int] = field(default_factory=dict)
    calls: int = 1
    warm_up: tuple[int, ...] = ()
    warm_up_from: date | None = None
    patience: int = 10

    @property
    def counts(self) -> bool:
        """Whether what is handed over has to be counted."""
        return bool(self.per_hour or self.per_day or self.domains or self.warm_up)

    def batch_size(self, most: int) -> int:
        """The size of batches that these limits let go whole."""
        return max(1, min([most, *(limit for limit in (self.per_second, self.per_hour, self.per_day) if limit)]))

    def warming(self, now: datetime) -> tuple[datetime, int] | None:
        """The warm-up's day: when it began, and how many it allows. None where none is going on."""
        if self.warm_up_from is None:
            return None
        first = datetime(self.warm_up_from.year, self.warm_up_from.month, self.warm_up_from.day, tzinfo=UTC)
        day = (now - first).days
        if day < 0:  # it has not begun: as on its first day
            return first - timedelta(days=-day), self.warm_up[0]
        return (first + timedelta(days=day), self.warm_up[day]) if day < len(self.warm_up) else None


@dataclass(frozen=True, slots=True)
class Leave:
    """What may be handed over now: `room` recipients (None: any number), or none before `until`, and why."""

    room: int | None = None
    until: datetime | None = None
    why: str | None = None


_LOCKED = (
    select(Pace)
    .where(col(Pace.provider) == bindparam("provider"))
    .with_for_update()
    .execution_options(populate_existing=True)
)


def pace_of(session: Session, provider: str, limits: Limits) -> Pace:
    """A provider's row, made where there is none, and locked to the end of the transaction."""
    row = session.execute(_LOCKED, {"provider": provider}).scalar_one_or_none()
    if row is None:
        row = Pace(provider=provider, calls=limits.calls)
        session.add(row)
        session.flush()
    return row


def stored(session: Session, provider: str) -> Pace | None:
    """A provider's row as it stands. None: it was never called."""
    return session.get(Pace, provider)


@dataclass(frozen=True, slots=True)
class Turn:
    """Whose turn it is: `alone` where no other edition has or wants anything, `waits` where another goes first."""

    alone: bool = True
    waits: bool = False


def turn(pace: Pace, edition_id: int, held: Mapping[int, int], now: datetime) -> Turn:
    """Whether an edition gives way to one that waits; `held` is how many batches of each are in somebody's hands.

    The one with fewer goes first; with as many, the one that has waited longer, once it has waited for a turn's time.
    So no edition keeps another waiting for ever, and none gives way to nobody: of all that wait one is always first.
    """
    waiting = _waiting(pace, now)
    mine = waiting.pop(edition_id, None)
    if not waiting:
        return Turn(alone=held.keys() <= {edition_id})
    at, ours = now.timestamp(), held.get(edition_id, 0)
    for other, (since, _) in waiting.items():
        theirs = held.get(other, 0)
        longer = at - since >= _TURN_LASTS if mine is None else (since, other) < (mine[0], edition_id)
        if theirs < ours or (theirs == ours and longer):
            return Turn(alone=False, waits=True)
    return Turn(alone=False)


def queue(pace: Pace, edition_id: int, now: datetime) -> None:
    """Put on record that somebody is there who would claim a batch of an edition, and may not yet."""
    at, waiting = now.timestamp(), _waiting(pace, now)
    since, seen = waiting.get(edition_id, (at, at - _SEEN_AGAIN))
    if at - seen >= _SEEN_AGAIN or at < seen:
        waiting[edition_id] = (since, at)
        pace.waiting = {str(one): list(word) for one, word in waiting.items()}


def unqueue(pace: Pace, edition_id: int) -> None:
    """Put on record that an edition waits no longer: it had its turn, or nothing of it is due."""
    if pace.waiting and str(edition_id) in pace.waiting:
        pace.waiting = {one: word for one, word in pace.waiting.items() if one != str(edition_id)} or None


def _waiting(pace: Pace, now: datetime) -> dict[int, tuple[float, float]]:
    """The editions that wait, by row number: since when, and when that was said last."""
    at = now.timestamp()
    return {
        int(edition): (since, seen)
        for edition, (since, seen) in (pace.waiting or {}).items()
        if abs(at - seen) <= _GONE
    }


def leave(session: Session, pace: Pace, limits: Limits, held: int, now: datetime, *, alone: bool = True) -> Leave:
    """Whether the provider may be called now, where `held` batches are in somebody's hands already.

    Batches are claimed ahead only for an edition that is `alone`: what another could call for is not kept from it.
    """
    _forget_to_come(pace, now)
    for until, why in ((pace.not_before, pace.note), (pace.free_at, None)):
        if until is not None and until > now:
            return Leave(0, until, why)
    calls = 1 if pace.failures else max(1, min(limits.calls, pace.calls))
    if alone and calls == limits.calls > 1:
        calls *= AHEAD
    if held >= calls:
        return Leave(0)
    leaves = [Leave()]
    minute = _minute(now)
    for limit, window, name in ((limits.per_hour, _HOUR, "per_hour"), (limits.per_day, _DAY, "per_day")):
        if limit is not None:
            found = spent(session, pace.provider, "", minute - window - 1, minute)
            leaves.append(_room(found, limit, window, f"{name} = {limit:,}"))
    if (warming := limits.warming(now)) is not None:
        began, limit = warming
        used = sum(count for _, count in spent(session, pace.provider, "", _minute(began) - 1, minute))
        tomorrow = began + timedelta(days=1)
        said = f"warm_up allows {limit:,} today"
        leaves.append(Leave(limit - used) if used < limit else Leave(0, tomorrow, said))
    none_left = [one for one in leaves if one.room is not None and one.room <= 0]
    if none_left:
        return max(none_left, key=lambda one: one.until or now)
    return min(leaves, key=lambda one: one.room if one.room is not None else 1 << 62)


def domain_leaves(session: Session, provider: str, limits: Limits, now: datetime) -> dict[str, Leave]:
    """The same for each of the domains that have a limit of their own."""
    minute = _minute(now)
    return {
        domain: _room(
            spent(session, provider, domain, minute - _HOUR - 1, minute), limit, _HOUR, f"{limit:,} an hour to {domain}"
        )
        for domain, limit in limits.domains.items()
    }


def _room(spendings: list[tuple[int, int]], limit: int, window: int, said: str) -> Leave:
    """What a window has left, and where nothing: when half of the limit will be free again.

    The window's first minute counts whole, since nobody knows in which second of it what was handed over.
    """
    used = sum(count for _, count in spendings)
    if used < limit:
        return Leave(limit - used)
    freed = 0
    for minute, count in spendings:
        freed += count
        if used - freed <= limit // 2:
            return Leave(0, datetime.fromtimestamp((minute + window + 1) * 60, UTC), said)
    raise AssertionError("all that was spent is more than half of it")


def spent(session: Session, provider: str, domain: str, since: int, now: int) -> list[tuple[int, int]]:
    """How many recipients were handed over in each minute after one, oldest first. `now` is the minute that it is.

    Clocks may differ somewhat, but what is said to be later by more than an hour was written by one that was wrong.
    """
    rows = session.execute(
        select(col(Spending.minute), col(Spending.recipients))
        .where(col(Spending.provider) == provider, col(Spending.domain) == domain)
        .where(col(Spending.minute) > since, col(Spending.minute) <= now + _HOUR)
        .order_by(col(Spending.minute))
    )
    return [(minute, count) for minute, count in rows]


def spend(session: Session, pace: Pace, limits: Limits, addresses: Iterable[str], now: datetime) -> None:
    """Put on record that these are being handed over. Nothing is written where there is no limit to hold it against."""
    if limits.per_second is None and not limits.counts:
        return
    handed = list(addresses)
    if limits.per_second is not None:
        busy = timedelta(seconds=len(handed) / limits.per_second)
        pace.free_at = max(pace.free_at or now, now) + busy
    counts: Counter[str] = Counter()
    if limits.per_hour is not None or limits.per_day is not None or limits.warming(now) is not None:
        counts[""] = len(handed)
    if limits.domains:
        counts.update(domain for one in handed if (domain := domain_of(one)) in limits.domains)
    minute = _minute(now)
    for domain, count in counts.items():
        _add(session, pace.provider, domain, minute, count)


def refund(session: Session, provider: str, addresses: Iterable[str], claimed_at: datetime) -> None:
    """Take back what was spent on people who surely were not handed over."""
    counts = Counter(domain_of(one) for one in addresses)
    counts[""] = counts.total()
    minute = _minute(claimed_at)
    for domain, count in counts.items():
        session.execute(
            update(Spending)
            .where(
                col(Spending.provider) == provider,
                col(Spending.domain) == domain,
                col(Spending.minute) == minute,
                col(Spending.recipients) >= count,
            )
            .values(recipients=col(Spending.recipients) - count)
            .execution_options(synchronize_session=False)
        )


def _add(session: Session, provider: str, domain: str, minute: int, count: int) -> None:
    here = (
        col(Spending.provider) == provider,
        col(Spending.domain) == domain,
        col(Spending.minute) == minute,
    )
    more = update(Spending).where(*here).values(recipients=col(Spending.recipients) + count)
    if not changed_rows(session, more.execution_options(synchronize_session=False)):
        session.add(Spending(provider=provider, domain=domain, minute=minute, recipients=count))
        session.flush()
        wrong = or_(col(Spending.minute) < minute - 2 * _DAY, col(Spending.minute) > minute + _HOUR)
        session.execute(delete(Spending).where(wrong))


def heed(pace: Pace, settlement: Settlement, limits: Limits, now: datetime, jitter: Callable[[], float]) -> str | None:
    """Slow down or recover by what a call came to. Gives why a person must look, None where nobody must."""
    went, note = settlement.went, settlement.note
    if went is Went.REFUSED:
        return None  # the edition pauses by itself; how fast it is called is not at fault
    if went is Went.WELL:
        calls = min(limits.calls, max(1, pace.calls) + 1)
        if pace.calls != calls:  # setting what stands there already costs a flush
            pace.calls = calls
        if pace.failures == 0 and pace.not_before is not None and pace.not_before > now:
            return None  # it was called before the provider asked for rest, and takes back none of it
        if pace.failures or pace.unanswered or pace.not_before is not None or pace.note is not None:
            rested(pace)
        return None
    pace.calls = max(1, min(limits.calls, pace.calls) // 2)
    pace.note = (note or str(went))[:500]
    if went is Went.THROTTLED:
        wait = settlement.later_after or A_MINUTE
        pace.not_before = max(pace.not_before or now, now + wait)
        return None
    if not pace.failures or pace.not_before is None or pace.not_before <= now:
        pace.failures += 1  # else it was out together with the one that failed before: one failure of the provider's
    pace.unanswered = pace.unanswered + 1 if went is Went.UNANSWERED else 0
    pace.not_before = max(pace.not_before or now, now + back_off(pace.failures - 1, jitter))
    if pace.unanswered >= _UNANSWERED or pace.failures >= limits.patience:
        failures, pace.failures, pace.unanswered = pace.failures, 0, 0  # whoever lets it go on begins anew
        return f"{failures} calls in a row failed; the last: {pace.note}"
    return None


def rested(pace: Pace) -> None:
    """Forget what stood against the provider: an operator's word that it may be called again."""
    pace.failures = pace.unanswered = 0
    pace.not_before = pace.free_at = pace.note = None


def _forget_to_come(pace: Pace, now: datetime) -> None:
    """Forget what nobody can have asked for: a clock was wrong when it was written."""
    if pace.not_before is not None and pace.not_before > now + _LONGEST_REST:
        pace.not_before = None
    if pace.free_at is not None and pace.free_at > now + _LONGEST_REST:
        pace.free_at = None


def domain_of(address: str) -> str:
    """The domain of an address, in the case that limits are told in."""
    return address.rpartition("@")[2].lower()


def _minute(at: datetime) -> int:
    return int(at.timestamp()) // 60
