"""The composition root: every stage in a row. Its methods read as the table of contents of the product.

Stages never call each other; they meet here. A Newsroom is opened from Settings, owns the engine, and takes its clock
as an argument, so that whoever drives it (the command line, a scheduler, a test) decides what time it is.
"""

import itertools
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from sqlalchemy import Engine
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlmodel import Session

from newsletter import control, docket, ledger, migrations, outcomes, pace, safeguards, shelf, store, tally, waves
from newsletter.brief import Brief
from newsletter.collect import Collected, Folders, Selection, Source, collect, decide, due, round_up, same_place
from newsletter.compile import Compiled
from newsletter.control import StandingOrder, Verdict
from newsletter.dispatch import Dispatcher, Progress, allowed
from newsletter.drafting import Draft, compile_edition, draft_edition
from newsletter.edition import AttemptId, DeliveryId, Event, Message, Receipt, Recipient, Result
from newsletter.errors import ConfigurationError, EditionError
from newsletter.fetch import Fetcher, user_agent
from newsletter.mime import Mould
from newsletter.models import Approval, Batch, EditionRecord, EditionState, Instance, OperatorAct, Outcome, SourceRecord
from newsletter.outcomes import Rules, Taken
from newsletter.pace import Limits
from newsletter.places import place_of
from newsletter.precedence import Precedence
from newsletter.providers import Provider, open_provider, polling, recalling
from newsletter.schedule import Schedule, Slot
from newsletter.settings import Outbox, Settings
from newsletter.store import OnRecord
from newsletter.tally import Speed, Tally, Trouble
from newsletter.waves import Wave
from subscribers import connect, ensure_list, is_suppressed, reading, transaction

_SAMPLE_TOKEN = "proof"  # noqa: S105 # leads to a page that does nothing: no subscriber has it
_SYNC_AT_ONCE = 500  # events of one transaction
_SYNC_AGAIN = timedelta(hours=1)  # read twice, since a provider's lists may be late, and its clock another
_REDRAFTS = 3  # how often a draft is remade because another process was quicker


@dataclass(frozen=True)
class Preview:
    """A digest as one reader would get it, with links that do nothing. `note` says which edition it shows."""

    slot: Slot
    draft: Draft | None
    compiled: Compiled
    html: str
    text: str
    eml: bytes
    note: str


@dataclass(frozen=True)
class Sent:
    """What one run of `send` did. `draft` is None where the edition was frozen by an earlier run."""

    record: EditionRecord
    slot: Slot
    tally: Tally | None
    before: Tally | None
    draft: Draft | None
    html_bytes: int | None
    briefs: int | None
    halted: bool = False  # somebody halted all dispatch meanwhile
    unfinished: tuple[tuple[EditionRecord, int], ...] = ()  # other editions in which deliveries wait, and how many


@dataclass(frozen=True)
class EditionAccount:
    """What is on record of an edition. `tally` is None where it was never frozen.

    `waiting` holds the batches that something stands against; `refused` and `unknown` name people.
    """

    record: EditionRecord
    tally: Tally | None
    headlines: list[str]
    waiting: list[Batch]
    refused: list[Trouble]
    unknown: list[Trouble]
    speed: Speed | None  # None: it is not in dispatch, or nothing went out of late
    acts: list[OperatorAct]  # what was done with it by whom, oldest first
    waves: list[Wave]  # of one that goes out at local time


@dataclass(frozen=True)
class SourceAccount:
    """A source, how it has fared (None: a folder, or never asked), and how many briefs on record it has given."""

    name: str
    source: Source
    fared: SourceRecord | None
    briefs: int
    left_alone_until: datetime | None = None  # None: it may be asked


@dataclass(frozen=True, slots=True)
class Round:
    """What the sources gave whose turn it was, and when it is the next ones' (at once, where some had to wait)."""

    collected: list[Collected]
    next_at: datetime


@dataclass(frozen=True)
class Audience:
    """Who an edition would go to now: the candidates by why they would be left out (None: mailed)."""

    counts: Mapping[str | None, int]

    @property
    def mailable(self) -> int:
        """How many would be mailed."""
        return self.counts.get(None, 0)

    @property
    def candidates(self) -> int:
        """How many stand on the lists."""
        return sum(self.counts.values())


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Newsroom:
    """A desk's newsletters, ready to work. Use `Newsroom.open`, and `close` when done, or a with statement."""

    settings: Settings
    engine: Engine
    clock: Callable[[], datetime] = _now
    backup: Path | None = None  # the copy that was made before the database was brought up to date, if it was
    _provider: Provider | None = field(default=None, repr=False)
    _fetcher: Fetcher | None = field(default=None, repr=False)
    _folders: Folders = field(default_factory=Folders, repr=False)
    precedence: Precedence = field(default_factory=Precedence, repr=False)

    @classmethod
    def open(cls, settings: Settings, clock: Callable[[], datetime] = _now) -> Self:
        """Open the database; one of SQLite is made or brought up to date if need be.

        Raises ConfigurationError where it cannot be.
        """
        engine = engine_of(settings)
        try:
            _make_private(settings.database.url)
            backup = migrations.make_ready(engine)
            with reading(engine) as session:
                named = session.get(Instance, 1) is not None
            if not named:
                place = place_of(engine)
                with transaction(engine) as session:
                    if session.get(Instance, 1) is None:
                        store.create_instance(session, secrets.token_hex(8), place, clock())
        except DBAPIError as error:
            engine.dispose()
            raise ConfigurationError(f"the database {engine.url.database}: {error.orig}") from None
        except ConfigurationError:
            engine.dispose()
            raise
        return cls(settings, engine, clock, backup)

    def close(self) -> None:
        """Give back the database, the provider and the connections."""
        if self._provider is not None:
            self._provider.close()
        if self._fetcher is not None:
            self._fetcher.close()
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def provider(self) -> Provider:
        """The provider that the configuration names."""
        if self._provider is None:
            site_url = self.settings.site.url
            self._provider = open_provider(self.settings.provider, site_url=site_url, clock=self.clock)
        return self._provider

    @property
    def outbox(self) -> Path | None:
        """The folder that takes the mails, None where they go to another provider."""
        return self.settings.provider.path if isinstance(self.settings.provider, Outbox) else None

    @property
    def fetcher(self) -> Fetcher:
        """The one HTTP client, within the limits of the configuration."""
        if self._fetcher is None:
            agent = user_agent(self.settings.site.url)
            self._fetcher = Fetcher(self.settings.fetch, user_agent=agent, clock=self.clock)
        return self._fetcher

    # -------------------------------------------------------------------------------------- slots

    def schedule(self, name: str) -> Schedule:
        """The schedule of a newsletter."""
        return self.settings.newsletter(name).timetable

    def slot(self, name: str, text: str | None = None) -> Slot:
        """The slot that a text names ("2026-11-23T07:00"), else the latest one that is due.

        Raises EditionError where the text is no slot.
        """
        newsletter = self.settings.newsletter(name)
        if text is not None:
            try:
                return Slot.parse(text, newsletter.zone)
            except ValueError:
                raise EditionError(name, f"expected a slot such as 2026-11-23T07:00, found “{text}”") from None
        at_local, schedule = newsletter.send_at_local, self.schedule(name)
        slot = (schedule.latest_on_earth if at_local else schedule.latest)(self.clock())
        if slot is None:
            raise EditionError(name, "no slot of its schedule was ever due")
        return slot

    # -------------------------------------------------------------------------------------- collecting

    def collect(
        self, name: str | None = None, *, impatient: bool = False, fresh: timedelta | None = None
    ) -> list[Collected]:
        """Read the sources of a newsletter, or of all, and put what is new on record.

        The `impatient` ask again at once what is left alone because it failed several times. What was asked within
        `fresh`, by whichever process, is not asked again (None: all is).
        """
        names = self.settings.sources_of(self.settings.newsletter(name)) if name else tuple(self.settings.sources)
        sources = {source: self.settings.sources[source] for source in names}
        return collect(
            self.engine, sources, self.fetcher, self.clock(), impatient=impatient, fresh=fresh, known=self._folders
        )

    def collect_due(self, *, most: int, stop: threading.Event | None = None) -> Round:
        """Read the folders, and at most so many of the other sources whose turn it is by [clock] collect_every.

        Those that waited longest come first, so that thousands keep their rhythm, pass by pass. `stop` ends it within
        a second; who was not answered yet stays due.
        """
        every = self.settings.clock.collect_every
        with reading(self.engine) as session:
            found = due(session, self.settings.sources, self.clock(), every, most)
        now = self.clock()
        collected = collect(
            self.engine,
            found.sources,
            self.fetcher,
            now,
            known=self._folders,
            stop=stop,
            give_way=self.precedence.give_way,
        )
        return Round(collected, found.next_at)

    def sources(self) -> list[SourceAccount]:
        """The configured sources, and how each has fared."""
        with reading(self.engine) as session:
            records = shelf.source_records(session, self.settings.sources)
            counts = shelf.briefs_by_source(session)
        accounts = []
        for name, source in self.settings.sources.items():
            fared = same_place(records.get(name), source)
            until = fared.not_before if fared and fared.not_before and fared.not_before > self.clock() else None
            accounts.append(SourceAccount(name, source, fared, counts.get(name, 0), until))
        return accounts

    def select(self, name: str, slot: Slot | None = None) -> Selection:
        """Which of the briefs on record the edition of a slot would take; the next one, where none is told."""
        newsletter = self.settings.newsletter(name)
        with reading(self.engine) as session:
            record = store.edition(session, name, slot) if slot else None
            mine = record.id if record else None
            if newsletter.round_up is not None:
                until = slot.instant if slot else self.clock()
                since = self._round_up_since(session, name, until)
                candidates = store.carried(
                    session, name, newsletter.round_up, after=since, until=until, edition_id=mine
                )
                return round_up(candidates, newsletter, f"{since:%Y-%m-%d} to {until:%Y-%m-%d}")
            candidates = store.candidates(session, name, self.settings.sources_of(newsletter), mine)
            known = store.sources_decided(session, name)
        return decide(candidates, newsletter, known, self.clock())

    def _round_up_since(self, session: Session, name: str, until: datetime) -> datetime:
        """From when on a round-up goes: from the last one that went out, else from the slot before in its schedule."""
        earlier = [one.slot_at for one in store.frozen_editions(session, name) if one.slot_at < until]
        if earlier:
            return max(earlier)
        before = self.schedule(name).latest(until - timedelta(minutes=1))
        return before.instant if before else until - timedelta(days=7)

    # -------------------------------------------------------------------------------------- compiling

    def draft(self, name: str, slot: Slot, *, fresh: timedelta | None = None) -> Draft:
        """Collect, decide and compile the edition of a slot. Writes nothing but what the sources gave.

        What was asked within `fresh`, by whichever process, is not asked again (None: all is).
        """
        collected = self.collect(name, fresh=fresh)
        return draft_edition(self.settings, name, slot, collected, self.select(name, slot))

    def preview(self, name: str, slot_text: str | None = None) -> Preview:
        """The next digest of a newsletter as a reader would see it, compiled afresh from the templates on the disk.

        Shows the latest due slot; where its edition went out, what waits for the next; where nothing does, that edition
        again. Decides and sends nothing. Raises EditionError where there is nothing at all to show.
        """
        slot, went_out = self._preview_slot(name, slot_text)
        draft = self.draft(name, slot)
        compiled, note = draft.compiled, f"the edition of {slot}, not sent yet"
        if compiled is None and went_out is not None:
            with reading(self.engine) as session:
                briefs = store.briefs_of(session, went_out.id or 0)
            slot = Slot.parse(went_out.slot, went_out.zone)
            compiled = compile_edition(self.settings, name, slot, briefs)
            note = f"the edition of {slot} again, which has gone out: nothing new waits"
        if compiled is None:
            raise EditionError(name, f"nothing to preview: {draft.skipped}{_faults(draft.collected)}")
        html, text, _, eml = self._filled(compiled.message)
        return Preview(slot, draft, compiled, html, text, eml, note)

    def show(self, record: EditionRecord) -> tuple[str, str, str, bytes]:
        """HTML, text, subject and mail of a stored edition, with links that do nothing."""
        with reading(self.engine) as session:
            stored = store.message_record(session, record.id or 0)
        if stored is None:
            raise EditionError(record.newsletter, f"the edition of {record.slot} has no message")
        return self._filled(store.load_message(stored))

    def _filled(self, message: Message) -> tuple[str, str, str, bytes]:
        reader = Recipient(DeliveryId("preview"), "reader@example.org", "A. Reader", _SAMPLE_TOKEN)
        values = reader.values(message.sender)
        filled = (message.fill(message.html, values), message.fill(message.text, values), message.subject)
        return (*filled, Mould(message).fill(reader, self.clock()))

    def _preview_slot(self, name: str, slot_text: str | None) -> tuple[Slot, EditionRecord | None]:
        slot = self.slot(name, slot_text)
        with reading(self.engine) as session:
            record = store.edition(session, name, slot)
        if record is None or record.frozen_at is None or slot_text is not None:
            return slot, record if record and record.frozen_at else None
        return next(self.schedule(name).upcoming(max(self.clock(), slot.instant)), slot), record

    # -------------------------------------------------------------------------------------- sending

    def audience(self, name: str) -> Audience:
        """Who an edition would go to now."""
        with reading(self.engine) as session:
            return Audience(ledger.count_audience(session, self.settings.newsletter(name).lists, self.clock()))

    def send(
        self,
        name: str,
        slot_text: str | None = None,
        *,
        consent: bool = False,
        actor: str = "program",
        report: Callable[[Progress], None] = lambda progress: None,  # noqa: ARG005 # nobody watches
        stop: threading.Event | None = None,
    ) -> Sent:
        """Send the edition of a slot, once, to everybody who should get it; go on where an earlier run stopped.

        `consent` is an operator's explicit yes, which lifts what would otherwise ask for one (a late slot, a slot too
        near to another edition, an audience far larger than the last). `stop` ends it after the calls that are out.
        Raises EditionError for what stands against it.
        """
        self.settings.newsletter(name)
        slot = self.slot(name, slot_text)
        self.refuse_if_unsafe(name)
        self.reconcile()  # what a standing order says is mostly due when the edition has long been closed
        draft: Draft | None = None
        before: Tally | None = None
        for _ in range(_REDRAFTS):
            with reading(self.engine) as session:
                record = store.edition(session, name, slot)
                before = _tally(session, record) if record else None
            if record is not None and (record.frozen_at is not None or record.state is EditionState.CANCELLED):
                break
            if not consent:
                safeguards.ask_if_held(name, record)
                self._ask_before_freezing(name, slot)
            if record is not None and docket.is_kept_draft(record):
                self._approve_if_waiting(record, actor)
                if self.freeze(name, record, consent=consent, actor=actor):
                    break
            draft = self.draft(name, slot)
            record = self._write(name, draft)
            if record.frozen_at is not None:
                draft = None  # another process was quicker: what goes out is its draft
                break
            if draft.compiled is None:
                break
            if self.freeze(name, record, consent=consent, actor=actor):
                break
        else:
            raise EditionError(name, "another process keeps remaking this edition; try again")
        record = self._start(record, consent=consent, actor=actor)
        record = self.dispatch(record, report=report, stop=stop)
        return self.sent(record, slot, before, draft)

    def sent(self, record: EditionRecord, slot: Slot, before: Tally | None, draft: Draft | None) -> Sent:
        """What a run has come to, as the edition stands now."""
        with reading(self.engine) as session:
            counted = _tally(session, record)
            stored = store.message_record(session, record.id or 0)
            halted = store.instance(session).halted_at is not None
        return Sent(
            record,
            slot,
            counted,
            before,
            draft,
            stored.html_bytes if stored else None,
            stored.briefs if stored else None,
            halted,
            tuple((other, waiting) for other, waiting in self.unfinished() if other.id != record.id),
        )

    def unfinished(self) -> list[tuple[EditionRecord, int]]:
        """The editions, of any newsletter, in which deliveries wait, and how many; not those with waves ahead alone."""
        now = self.clock()
        with reading(self.engine) as session:
            return [
                (record, tally.tally(session, record).waiting)
                for record in store.open_editions(session)
                if record.state is EditionState.PAUSED or not ledger.is_ahead(session, record.id or 0, now)
            ]

    def refuse_if_unsafe(self, name: str) -> None:
        """Refuse to mail anybody while dispatch is halted, or from a database that may be a copy."""
        with reading(self.engine) as session:
            database = store.instance(session)
        safeguards.refuse_if_halted(name, database)
        safeguards.refuse_if_not_claimed(self.settings, self.provider, database)

    def _ask_before_freezing(self, name: str, slot: Slot) -> None:
        newsletter, now = self.settings.newsletter(name), self.clock()
        safeguards.ask_about_slot(name, newsletter, slot, now)
        with reading(self.engine) as session:
            beside = store.frozen_beside(session, name, slot)
        safeguards.ask_if_near(name, newsletter, slot, beside, now)

    def _approve_if_waiting(self, record: EditionRecord, actor: str) -> None:
        """Whoever sends an edition that waits for approval, and has just said yes to that, has approved it."""
        with transaction(self.engine) as session:
            stored = session.get_one(EditionRecord, record.id)
            if stored.approval is Approval.WAITING:
                docket.approve(stored, actor=actor, now=self.clock())

    def _write(self, name: str, draft: Draft) -> EditionRecord:
        with transaction(self.engine) as session:
            return self.write_draft(session, name, draft)

    def write_draft(self, session: Session, name: str, draft: Draft) -> EditionRecord:
        """Put a draft on record, in the caller's transaction. An edition that is past that is given back untouched."""
        newsletter = self.settings.newsletter(name)
        for slug in newsletter.lists:
            ensure_list(session, slug, slug, self.clock())
        return store.write_draft(
            session,
            name,
            draft.slot,
            lists=newsletter.lists,
            stale_after=newsletter.stale_after,
            rulings=draft.selection.rulings(),
            message=draft.compiled.message if draft.compiled else None,
            archive=draft.compiled.archive if draft.compiled else None,
            skipped=draft.skipped,
            now=self.clock(),
        )

    def freeze(self, name: str, draft: EditionRecord, *, consent: bool, actor: str) -> bool:
        """Freeze the audience of a draft. False where another process froze, remade or corrected it in between.

        Raises NobodyError where it would go to nobody, EditionError for what else stands against it; `consent` lifts
        what an operator is asked about.
        """
        newsletter, now = self.settings.newsletter(name), self.clock()
        with transaction(self.engine) as session:
            # Asked inside the transaction that freezes: another slot may have been started, people added.
            record = session.get_one(EditionRecord, draft.id)
            if record.approval is Approval.WAITING and draft.approval is not Approval.WAITING:
                return False  # corrected a moment ago: what it holds now nobody has approved
            slot = Slot.parse(record.slot, record.zone)
            earlier = store.frozen_editions(session, name, 1)
            if not consent:
                safeguards.ask_if_near(name, newsletter, slot, store.frozen_beside(session, name, slot), now)
            late = consent and now - record.slot_at > timedelta(seconds=record.stale_after_s)
            frozen = ledger.freeze(
                session,
                record,
                due_at=now if late or (consent and record.slot_at > now) else record.slot_at,
                batch_size=self.limits.batch_size(self.provider.batch_size),
                now=now,
                local=slot if newsletter.send_at_local else None,
                late=late,
            )
            if frozen is None:
                return False
            # Raised from here, it undoes the freeze.
            if not frozen.mailable:
                audience = Audience(ledger.count_audience(session, newsletter.lists, now))
                safeguards.refuse_if_nobody(
                    name, newsletter, candidates=audience.candidates, mailable=audience.mailable
                )
            if not consent:
                safeguards.ask_if_grown(name, frozen.candidates, earlier, self.settings.dispatch.audience_jump)
            store.act(
                session,
                "start",
                now=now,
                actor=actor,
                edition_id=record.id,
                note=f"{frozen.candidates} candidates" + (", with --yes" if consent else ""),
            )
        return True

    def _start(self, record: EditionRecord, *, consent: bool, actor: str) -> EditionRecord:
        """Let a frozen edition go on that the program paused, and one that is late where that is consented to."""
        with transaction(self.engine) as session:
            record = session.get_one(EditionRecord, record.id, populate_existing=True)
            assert record.id is not None
            if record.state is EditionState.PAUSED and record.paused_by is not None:
                name = f"{record.newsletter} {record.slot}"
                raise EditionError(name, f"{record.reason}; newsletter editions resume lets it go on")
            due = ledger.first_promised(session, record.id)
            stale = due is not None and self.clock() - due > timedelta(seconds=record.stale_after_s)
            if record.state is EditionState.PAUSED and (consent or not stale):
                safeguards.ask_if_corrected(record, consent=consent)
                control.refuse_if_pulled(session, record)
                if record.approval is Approval.WAITING:
                    docket.approve(record, actor=actor, now=self.clock())
                record.state, record.reason = EditionState.DISPATCHING, None
                store.act(session, "resume", now=self.clock(), actor=actor, edition_id=record.id)
                pace.rested(pace.pace_of(session, self.provider.name, self.limits))
            if stale and consent:
                ledger.due_now(session, record.id, self.clock())
            return record

    def dispatch(
        self,
        record: EditionRecord,
        *,
        report: Callable[[Progress], None] = lambda progress: None,  # noqa: ARG005 # nobody watches
        stop: threading.Event | None = None,
        linger: timedelta | None = None,
    ) -> EditionRecord:
        """Send what waits in a frozen edition, until nothing does or somebody stops it. Gives it as it stands then.

        With `linger` also until nothing is due within that time: `ledger.next_due` says when it goes on.
        """
        if record.state is not EditionState.DISPATCHING:
            return record
        assert record.id is not None
        dispatcher = Dispatcher(
            self.engine,
            self._holding(record),
            self.clock,
            self.settings.dispatch.lease,
            self.limits,
            only_to=self.settings.dispatch.only_to,
            order=self.standing_order,
            report=report,
            stop=stop or threading.Event(),
            linger=linger,
        )
        return dispatcher.run(record.id)

    def _holding(self, record: EditionRecord) -> Provider:
        """The provider; where it keeps back what it takes, under the name by which this edition is called back."""
        able = recalling(self.provider)
        if able is None:
            return self.provider
        if record.recall_id is None:
            reserved = able.reserve()
            with transaction(self.engine) as session:
                stored = session.get_one(EditionRecord, record.id)
                stored.recall_id = stored.recall_id or reserved
                record = stored
        assert record.recall_id is not None
        return able.holding(record.recall_id)

    @property
    def limits(self) -> Limits:
        """What the provider may be handed, as the configuration says."""
        told = self.settings.dispatch
        return Limits(
            told.per_second,
            told.per_hour,
            told.per_day,
            told.domains,
            told.calls,
            told.warm_up,
            told.warm_up_from,
            told.patience,
        )

    @property
    def standing_order(self) -> StandingOrder:
        """What the configuration says about copies that stay unknown."""
        told = self.settings.dispatch
        verdict = None if told.on_unknown == "hold" else Verdict(told.on_unknown)
        return StandingOrder(told.unknown_wait, verdict)

    def test(self, name: str, address: Recipient) -> tuple[Preview, Receipt]:
        """Hand one proof to the provider, outside the ledger, with links that do nothing."""
        self.refuse_if_unsafe(name)
        if not allowed(address.address, self.settings.dispatch.only_to):
            raise EditionError(name, "that address is outside dispatch.only_to")
        with reading(self.engine) as session:
            if is_suppressed(session, address.address):
                raise EditionError(name, "that address is suppressed: nothing is mailed to it, no proof either")
        preview = self.preview(name)
        briefs = self._briefs_of(name, preview)
        message = compile_edition(self.settings, name, preview.slot, briefs, proof=True).message
        proof = address._replace(token=_SAMPLE_TOKEN, delivery=DeliveryId(f"proof{secrets.token_hex(8)}"))
        attempt = AttemptId(secrets.token_hex(12))
        receipts = list(self.provider.submit(message, [proof], attempt, lambda: None))
        return preview, receipts[0] if receipts else Receipt(proof.delivery, Result.UNKNOWN)

    def _briefs_of(self, name: str, preview: Preview) -> list[Brief]:
        if preview.draft is not None and preview.draft.compiled is not None:
            return [candidate.brief for candidate in preview.draft.selection.taken]
        with reading(self.engine) as session:
            record = store.edition(session, name, preview.slot)
            return store.briefs_of(session, record.id or 0) if record else []

    # -------------------------------------------------------------------------------------- on record

    def briefs(self, limit: int) -> list[OnRecord]:
        """The briefs on record and what was decided about each, newest first."""
        with reading(self.engine) as session:
            return store.brief_rows(session, limit)

    def editions(self, limit: int) -> list[tuple[EditionRecord, Tally | None]]:
        """The latest editions of all newsletters, newest slot first, with their sums; None where never frozen."""
        with reading(self.engine) as session:
            return [(record, _tally(session, record)) for record in store.editions(session, None, limit)]

    def edition(self, name: str, slot_text: str | None = None) -> EditionAccount:
        """The account of an edition, the latest where no slot is named. Raises EditionError where there is none."""
        self.settings.newsletter(name)
        with reading(self.engine) as session:
            if slot_text is None:
                record = next(iter(store.editions(session, name, 1)), None)
            else:
                record = store.edition(session, name, self.slot(name, slot_text))
            if record is None:
                raise EditionError(name, f"there is no edition{f' of {slot_text}' if slot_text else ' yet'}")
            return self.account(session, record)

    def account(self, session: Session, record: EditionRecord) -> EditionAccount:
        """All that is on record of an edition, in the caller's session."""
        assert record.id is not None
        counted = _tally(session, record)
        single = counted is not None and record.folded_at is None
        in_dispatch = record.state is EditionState.DISPATCHING
        return EditionAccount(
            record,
            counted,
            [brief.headline for brief in store.briefs_of(session, record.id)],
            tally.waiting_batches(session, record.id),
            tally.troubles(session, record, Outcome.REFUSED) if single and counted and counted.refused else [],
            tally.troubles(session, record, Outcome.UNKNOWN) if single and counted and counted.unknown else [],
            tally.speed(session, record, counted.waiting, self.clock()) if counted and in_dispatch else None,
            store.acts_of(session, record.id),
            waves.waves(session, record, self.clock()),
        )

    # -------------------------------------------------------------------------------------- outcomes

    def take_events(self, headers: Mapping[str, str], body: bytes) -> Taken:
        """Put on record what the provider's webhook told, and act on what of it is new.

        Raises WebhookRejected, and keeps nothing, where the signature does not fit.
        """
        return self.take(self.provider.events(headers, body))

    def take(self, events: Sequence[Event]) -> Taken:
        """The same of events that the provider has read, in one transaction. Each is kept once, however often told."""
        lists = {name: newsletter.lists for name, newsletter in self.settings.newsletters.items()}
        rules = Rules(lists, self.settings.dispatch.soft_bounces)
        with transaction(self.engine) as session:
            return outcomes.take(session, self.provider, events, self.clock(), rules)

    def sync_events(self, stop: threading.Event | None = None) -> Taken:
        """Read what was put on the provider's own lists since the last time, and act on what its webhook has not told.

        In slices; one that is cut off, by `stop` too, begins at the same place the next time. Raises
        ConfigurationError where the provider keeps no lists, and a DispatchError where it cannot be asked.
        """
        able = polling(self.provider)
        if able is None:
            raise ConfigurationError(f"the provider {self.provider.name} keeps no lists that could be read")
        began = self.clock()
        with reading(self.engine) as session:
            since = outcomes.synced(session, self.provider.name)
        taken = Taken()
        told = able.poll(since - _SYNC_AGAIN if since else None)
        while some := list(itertools.islice(told, _SYNC_AT_ONCE)):
            taken = taken.plus(self.take(some))
            if stop is not None and stop.is_set():
                return taken
        with transaction(self.engine) as session:
            outcomes.sync_through(session, self.provider.name, began)
        return taken

    def reconcile(self) -> int:
        """Settle what is unknown by the events on record, and by the standing order. Gives of how many copies."""
        with reading(self.engine) as session:
            records = control.editions_with_unknown(session)
        settled = 0
        for record in records:
            with transaction(self.engine) as session:
                stored = session.get_one(EditionRecord, record.id)
                settled += control.follow(session, stored, self.standing_order, self.provider, self.clock())
        return settled

    def event_counts(self) -> dict[tuple[str, str], int]:
        """How many events of which provider and kind are on record."""
        with reading(self.engine) as session:
            return store.event_counts(session)

    # -------------------------------------------------------------------------------------- operating

    def halt(self, actor: str, reason: str | None) -> bool:
        """Stop all dispatch from the next batch on, in every process. False where it was halted already."""
        with transaction(self.engine) as session:
            return store.halt(session, now=self.clock(), actor=actor, reason=reason)

    def unhalt(self, actor: str) -> bool:
        """Let dispatch run again, from this database where it is now. False where it was not halted."""
        here = place_of(self.engine)
        with transaction(self.engine) as session:
            return store.unhalt(session, now=self.clock(), actor=actor, place=here)


def _tally(session: Session, record: EditionRecord) -> Tally | None:
    return tally.tally(session, record) if record.frozen_at else None


def _faults(collected: Sequence[Collected]) -> str:
    faults = [str(fault) for one in collected for fault in one.faults] + [str(c.error) for c in collected if c.error]
    return f" (first fault: {faults[0]})" if faults else ""


def engine_of(settings: Settings) -> Engine:
    """The engine of the database that is configured. Raises ConfigurationError where there can be none."""
    try:
        return connect(settings.database.url)
    except ImportError:
        raise ConfigurationError(
            "database.url: PostgreSQL needs psycopg: pip install 'brief-newsletter[postgresql]'"
        ) from None
    except (ArgumentError, ValueError):  # not quoted: it may hold a password
        raise ConfigurationError("database.url: expected “postgresql://USER@HOST/NAME”") from None


def upgrade(settings: Settings) -> tuple[str | None, str, Path | None]:
    """Bring the configured database up to date: the revision before (None: it was empty), now, and the backup copy.

    Raises ConfigurationError where it cannot be.
    """
    engine = engine_of(settings)
    try:
        _make_private(settings.database.url)
        with engine.connect() as connection:
            before = migrations.version(connection)
        backup = migrations.upgrade(engine)
    except DBAPIError as error:
        raise ConfigurationError(f"the database {engine.url.database}: {error.orig}; nothing was changed") from None
    finally:
        engine.dispose()
    return before, migrations.HEAD, backup


def _make_private(url: str) -> None:
    """Make a new SQLite file readable by its owner only: it holds people's addresses. Its journals follow its mode."""
    if not url.startswith("sqlite:///"):
        return
    file = Path(url.removeprefix("sqlite:///"))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            file.touch(mode=0o600)
    except OSError as error:
        raise ConfigurationError(f"the database {file}: {error.strerror}") from None
