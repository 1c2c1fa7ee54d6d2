"""The composition root: every stage in a row. Its methods read as the table of contents of the product.

Stages never call each other; they meet here. A Newsroom is opened from Settings, owns the engine, and takes its clock
as an argument, so that whoever drives it (the command line, a scheduler, a test) decides what time it is.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session

from newsletter import ledger, migrations, store
from newsletter.brief import Brief, Citation, Fact, Forecast, Narrative
from newsletter.collect import Collected, Selection, collect, decide
from newsletter.compile import Compiled, compile_message
from newsletter.dispatch import Dispatcher, Progress, allowed, hours
from newsletter.edition import AttemptId, Contents, DeliveryId, Finding, Message, Receipt, Recipient, Result, Sender
from newsletter.errors import CompileError, ConfigurationError, EditionError
from newsletter.ledger import Tally
from newsletter.mime import HeaderError, Mould
from newsletter.models import EditionRecord, EditionState, Instance
from newsletter.providers import Provider, open_provider
from newsletter.schedule import Schedule, Slot
from newsletter.settings import SECRET_VARIABLE, Newsletter, Settings
from subscribers import connect, ensure_list, is_suppressed, reading, transaction

_SAMPLE_TOKEN = "proof"  # noqa: S105 # leads to a page that does nothing: no subscriber has it
_JUMP_FLOOR = 100  # an audience that grows by fewer never needs a yes: a small list doubles in a day
_REDRAFTS = 3  # how often a draft is remade because another process was quicker


@dataclass(frozen=True)
class Draft:
    """An edition before its audience is frozen. `compiled` is None, and `skipped` says why, where it is too thin."""

    slot: Slot
    collected: list[Collected]
    selection: Selection
    compiled: Compiled | None
    skipped: str | None


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

    @classmethod
    def open(cls, settings: Settings, clock: Callable[[], datetime] = _now) -> Self:
        """Open the database, made or brought up to date if need be. Raises ConfigurationError where it cannot be."""
        engine = connect(settings.database.url)
        try:
            _make_private(settings.database.url)
            backup = migrations.upgrade(engine)
            with reading(engine) as session:
                named = session.get(Instance, 1) is not None
            if not named:
                with transaction(engine) as session:
                    if session.get(Instance, 1) is None:
                        store.create_instance(session, secrets.token_hex(8), clock())
        except DBAPIError as error:
            engine.dispose()
            raise ConfigurationError(f"the database {engine.url.database}: {error.orig}") from None
        return cls(settings, engine, clock, backup)

    def close(self) -> None:
        """Give back the database and the provider."""
        if self._provider is not None:
            self._provider.close()
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def provider(self) -> Provider:
        """The provider that the configuration names."""
        if self._provider is None:
            self._provider = open_provider(self.settings.provider)
        return self._provider

    # -------------------------------------------------------------------------------------- slots

    def schedule(self, name: str) -> Schedule:
        """The schedule of a newsletter."""
        newsletter = self.settings.newsletter(name)
        return Schedule(newsletter.schedule, newsletter.zone)

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
        slot = self.schedule(name).latest(self.clock())
        if slot is None:
            raise EditionError(name, "no slot of its schedule was ever due")
        return slot

    # -------------------------------------------------------------------------------------- collecting

    def collect(self, name: str | None = None) -> list[Collected]:
        """Read the sources of a newsletter, or of all, and put what is new on record."""
        names = self.settings.sources_of(self.settings.newsletter(name)) if name else tuple(self.settings.sources)
        return collect(self.engine, {source: self.settings.sources[source] for source in names}, self.clock())

    def select(self, name: str) -> Selection:
        """Which of the briefs on record the next edition of a newsletter would take."""
        newsletter = self.settings.newsletter(name)
        with reading(self.engine) as session:
            candidates = store.candidates(session, name, self.settings.sources_of(newsletter))
            known = store.sources_decided(session, name)
        return decide(candidates, newsletter, known, self.clock())

    # -------------------------------------------------------------------------------------- compiling

    def draft(self, name: str, slot: Slot) -> Draft:
        """Collect, decide and compile the edition of a slot. Writes nothing but what the sources gave."""
        newsletter = self.settings.newsletter(name)
        collected = self.collect(name)
        selection = self.select(name)
        taken = [candidate.brief for candidate in selection.taken]
        if len(taken) < newsletter.min_briefs:
            found = f"{len(taken)} brief{'' if len(taken) == 1 else 's'}"
            return Draft(slot, collected, selection, None, f"{found}, fewer than min_briefs = {newsletter.min_briefs}")
        return Draft(slot, collected, selection, self._compile(name, slot, taken), None)

    def _compile(self, name: str, slot: Slot, briefs: Sequence[Brief], *, proof: bool = False) -> Compiled:
        folder = self.settings.templates.path
        if folder is not None and not folder.is_dir():
            raise ConfigurationError(f"templates.path: there is no folder {folder}", file=self.settings.file)
        contents = self._contents(name, slot, briefs, proof=proof)
        compiled = compile_message(contents, self.sender(name), folder)
        try:
            Mould(compiled.message)
        except HeaderError as error:
            raise ConfigurationError(f"newsletters.{name}: {error}", file=self.settings.file) from None
        return compiled

    def _contents(self, name: str, slot: Slot, briefs: Sequence[Brief], *, proof: bool) -> Contents:
        newsletter = self.settings.newsletter(name)
        told = "".join(brief.model_dump_json() for brief in briefs) + newsletter.model_dump_json()
        nonce = "d" + secrets.token_hex(3)
        while nonce in told:
            nonce = "d" + secrets.token_hex(3)
        full = newsletter.full_briefs
        cut = frozenset(range(full, len(briefs))) if full is not None else frozenset()
        return Contents(name, newsletter, self.settings.site, slot, tuple(briefs), nonce, proof, cut)

    def sender(self, name: str) -> Sender:
        """The constant headers of a newsletter's mails."""
        newsletter = self.settings.newsletter(name)
        mailbox = newsletter.mailbox
        return Sender(
            newsletter_id=name,
            from_name=mailbox.display_name or newsletter.title,
            from_address=mailbox.addr_spec,
            reply_to=newsletter.reply_to,
            list_name=newsletter.title,
            list_id=self.settings.list_id_of(name),
            site_url=self.settings.site.url,
        )

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
            compiled = self._compile(name, slot, briefs)
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
        return next(self.schedule(name).upcoming(self.clock()), slot), record

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
        drafted: Callable[[Draft], None] = lambda draft: None,  # noqa: ARG005 # the same
    ) -> Sent:
        """Send the edition of a slot, once, to everybody who should get it; go on where an earlier run stopped.

        `consent` is an operator's explicit yes, which lifts what would otherwise ask for one (a late slot, a slot too
        near to another edition, an audience far larger than the last). Raises EditionError for what stands against it.
        """
        self.settings.newsletter(name)
        slot = self.slot(name, slot_text)
        self._refuse_if_unsafe(name)
        draft: Draft | None = None
        before: Tally | None = None
        for _ in range(_REDRAFTS):
            with reading(self.engine) as session:
                record = store.edition(session, name, slot)
                before = ledger.tally(session, record) if record and record.frozen_at else None
            if record is not None and record.frozen_at is not None:
                break
            self._ask_before_freezing(name, slot, consent=consent)
            draft = self.draft(name, slot)
            drafted(draft)
            record = self._write(name, draft)
            if record.frozen_at is not None:
                draft = None  # another process was quicker: what goes out is its draft
                break
            if draft.compiled is None:
                break
            if self._freeze(name, record, consent=consent, actor=actor):
                break
        else:
            raise EditionError(name, "another process keeps remaking this edition; try again")
        record = self._dispatch(record, consent=consent, actor=actor, report=report)
        with reading(self.engine) as session:
            tally = ledger.tally(session, record) if record.frozen_at else None
            stored = store.message_record(session, record.id or 0)
            halted = store.instance(session).halted_at is not None
        return Sent(
            record,
            slot,
            tally,
            before,
            draft,
            stored.html_bytes if stored else None,
            stored.briefs if stored else None,
            halted,
            tuple((other, waiting) for other, waiting in self.unfinished() if other.id != record.id),
        )

    def unfinished(self) -> list[tuple[EditionRecord, int]]:
        """The editions, of any newsletter, in which deliveries wait, and how many."""
        with reading(self.engine) as session:
            return [(record, ledger.tally(session, record).waiting) for record in store.open_editions(session)]

    def _refuse_if_unsafe(self, name: str) -> None:
        with reading(self.engine) as session:
            row = store.instance(session)
        if row.halted_at is not None:
            why = f" ({row.halt_reason})" if row.halt_reason else ""
            raise EditionError(
                name,
                f"all dispatch is halted since {row.halted_at:%Y-%m-%d %H:%M} UTC by {row.halted_by}{why}; "
                "newsletter unhalt lets it run",
            )
        if self.provider.live and self.settings.database.instance != row.instance_id:
            raise ConfigurationError(
                f"{self.provider.name} mails real people, and this database is not claimed: if it is no copy, set "
                f'instance = "{row.instance_id}" under [database]',
                file=self.settings.file,
            )

    def _ask_before_freezing(self, name: str, slot: Slot, *, consent: bool) -> None:
        newsletter, now = self.settings.newsletter(name), self.clock()
        if consent:
            return
        scheduled = next(self.schedule(name).upcoming(slot.instant - timedelta(minutes=1)), None)
        if scheduled is None or scheduled.local != slot.local:
            raise EditionError(
                name,
                f"{slot} is no slot of its schedule ({', '.join(newsletter.schedule)}); --yes sends it",
                consent=True,
            )
        if slot.instant > now:
            wait = hours(slot.instant - now)
            raise EditionError(name, f"its slot {slot} is {wait} ahead; --yes sends it now", consent=True)
        if now - slot.instant > newsletter.stale_after:
            late = hours(now - slot.instant)
            raise EditionError(name, f"its slot {slot} was {late} ago, past stale_after; --yes sends it", consent=True)
        with reading(self.engine) as session:
            self._ask_if_near(session, name, slot)

    def _ask_if_near(self, session: Session, name: str, slot: Slot) -> None:
        gap = self.settings.newsletter(name).min_interval
        gap = self.schedule(name).shortest_gap(self.clock()) * 3 / 4 if gap is None else gap
        for other in store.frozen_editions(session, name):
            apart = abs(other.slot_at - slot.instant)
            if other.slot != str(slot) and apart < gap:
                raise EditionError(
                    name,
                    f"its slot {slot} is only {hours(apart)} from the edition of {other.slot}, less than "
                    f"min_interval ({hours(gap)}); --yes sends it",
                    consent=True,
                )

    def _write(self, name: str, draft: Draft) -> EditionRecord:
        newsletter = self.settings.newsletter(name)
        with transaction(self.engine) as session:
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
                skipped=draft.skipped,
                now=self.clock(),
            )

    def _freeze(self, name: str, draft: EditionRecord, *, consent: bool, actor: str) -> bool:
        """Freeze the audience. False where another process remade the draft in between."""
        now = self.clock()
        audience = self.audience(name)
        lists = ", ".join(self.settings.newsletter(name).lists)
        if not audience.mailable:
            raise EditionError(
                name,
                f"nobody to mail on list {lists} ({audience.candidates} confirmed, none of them may be mailed)"
                if audience.candidates
                else f"nobody is confirmed on list {lists} yet; newsletter subscribers add puts people on it",
            )
        with transaction(self.engine) as session:
            # Asked again inside the transaction that freezes: another slot may have been started, people added.
            record = session.get_one(EditionRecord, draft.id)
            if not consent:
                self._ask_if_near(session, name, Slot.parse(record.slot, record.zone))
                self._ask_if_grown(session, name)
            late = consent and (now - record.slot_at > timedelta(seconds=record.stale_after_s) or record.slot_at > now)
            frozen = ledger.freeze(
                session,
                record,
                due_at=now if late else record.slot_at,
                batch_size=self.provider.batch_size,
                now=now,
            )
            if frozen is None:
                return False
            store.act(
                session,
                "start",
                now=now,
                actor=actor,
                edition_id=record.id,
                note=f"{frozen.candidates} candidates" + (", with --yes" if consent else ""),
            )
        return True

    def _ask_if_grown(self, session: Session, name: str) -> None:
        counts = ledger.count_audience(session, self.settings.newsletter(name).lists, self.clock())
        total = sum(counts.values())
        earlier = [edition.candidates or 0 for edition in store.frozen_editions(session, name)]
        last = earlier[0] if earlier else None
        if last is not None and total > max(last * self.settings.dispatch.audience_jump, last + _JUMP_FLOOR):
            raise EditionError(
                name,
                f"its audience of {total:,} is far larger than the last one of {last:,}; --yes sends it",
                consent=True,
            )

    def _dispatch(
        self, record: EditionRecord, *, consent: bool, actor: str, report: Callable[[Progress], None]
    ) -> EditionRecord:
        assert record.id is not None
        edition_id = record.id
        with transaction(self.engine) as session:
            record = session.get_one(EditionRecord, edition_id)
            due = ledger.first_promised(session, edition_id)
            stale = due is not None and self.clock() - due > timedelta(seconds=record.stale_after_s)
            if record.state is EditionState.PAUSED and (consent or not stale):
                store.set_edition(
                    session, edition_id, EditionState.DISPATCHING, reason=None, only_from=[EditionState.PAUSED]
                )
                store.act(session, "resume", now=self.clock(), actor=actor, edition_id=edition_id)
                session.refresh(record)
            if stale and consent:
                ledger.due_now(session, edition_id, self.clock())
        if record.frozen_at is None or record.state in {EditionState.CLOSED, EditionState.CANCELLED}:
            return record
        dispatcher = Dispatcher(
            self.engine,
            self.provider,
            self.clock,
            self.settings.dispatch.lease,
            only_to=self.settings.dispatch.only_to,
            report=report,
        )
        return dispatcher.run(edition_id)

    def test(self, name: str, address: Recipient) -> tuple[Preview, Receipt]:
        """Hand one proof to the provider, outside the ledger, with links that do nothing."""
        self._refuse_if_unsafe(name)
        if not allowed(address.address, self.settings.dispatch.only_to):
            raise EditionError(name, "that address is outside dispatch.only_to")
        with reading(self.engine) as session:
            if is_suppressed(session, address.address):
                raise EditionError(name, "that address is suppressed: nothing is mailed to it, no proof either")
        preview = self.preview(name)
        briefs = self._briefs_of(name, preview)
        message = self._compile(name, preview.slot, briefs, proof=True).message
        proof = replace(address, token=_SAMPLE_TOKEN, delivery=DeliveryId(f"proof{secrets.token_hex(8)}"))
        attempt = AttemptId(secrets.token_hex(12))
        receipts = list(self.provider.submit(message, [proof], attempt, lambda: None))
        return preview, receipts[0] if receipts else Receipt(proof.delivery, Result.UNKNOWN)

    def _briefs_of(self, name: str, preview: Preview) -> list[Brief]:
        if preview.draft is not None and preview.draft.compiled is not None:
            return [candidate.brief for candidate in preview.draft.selection.taken]
        with reading(self.engine) as session:
            record = store.edition(session, name, preview.slot)
            return store.briefs_of(session, record.id or 0) if record else []

    # -------------------------------------------------------------------------------------- operating

    def halt(self, actor: str, reason: str | None) -> bool:
        """Stop all dispatch from the next batch on, in every process. False where it was halted already."""
        with transaction(self.engine) as session:
            return store.halt(session, now=self.clock(), actor=actor, reason=reason)

    def unhalt(self, actor: str) -> bool:
        """Let dispatch run again. False where it was not halted."""
        with transaction(self.engine) as session:
            return store.unhalt(session, now=self.clock(), actor=actor)

    def check(self) -> list[Finding]:
        """A check-up of configuration, templates, database, sources and provider, without sending anything."""
        findings = [Finding(ok=True, what=f"configuration {self.settings.file} can be read")]
        findings += self._check_secret()
        for name, newsletter in self.settings.newsletters.items():
            findings += self._check_newsletter(name, newsletter)
        findings += self._check_database()
        for name, source in self.settings.sources.items():
            fault = _folder_fault(source.path)
            findings.append(Finding(ok=not fault, what=f"source {name}: {source.path}{fault}"))
        findings += self.provider.check()
        return findings

    def _check_secret(self) -> list[Finding]:
        findings = []
        if self.settings.secret is None:
            findings.append(Finding(ok=None, what=f"{SECRET_VARIABLE} is not set: confirmation links cannot be made"))
        file = self.settings.file.parent / ".env"
        if file.exists() and file.stat().st_mode & 0o077:
            findings.append(Finding(ok=False, what=f"{file} can be read by others: chmod 600 {file}"))
        return findings

    def _check_newsletter(self, name: str, newsletter: Newsletter) -> list[Finding]:
        try:
            upcoming = next(self.schedule(name).upcoming(self.clock()))
            compiled = self._compile(name, upcoming, [_SAMPLE])
        except (CompileError, ConfigurationError) as error:
            return [Finding(ok=False, what=f"newsletter {name}: {error}")]
        said = (
            f"newsletter {name}: templates compile ({compiled.html_bytes:,} bytes for one brief), next slot {upcoming}"
        )
        findings = [Finding(ok=True, what=f"{said} {newsletter.zone}")]
        audience = self.audience(name)
        if not audience.mailable:
            lists = ", ".join(newsletter.lists)
            findings.append(Finding(ok=None, what=f"newsletter {name}: nobody to mail on list {lists} yet"))
        return findings

    def _check_database(self) -> list[Finding]:
        with reading(self.engine) as session:
            row = store.instance(session)
            findings = [Finding(ok=True, what=f"database {self.engine.url.database}, instance {row.instance_id}")]
            if self.engine.dialect.name == "sqlite":
                said = session.execute(text("PRAGMA quick_check(1)")).scalar_one()
                findings.append(Finding(ok=said == "ok", what=f"database check-up: {said}"))
        try:
            with transaction(self.engine) as session:
                session.execute(text("UPDATE instance SET id = id"))
        except DBAPIError as error:
            findings.append(
                Finding(ok=False, what=f"database {self.engine.url.database} cannot be written: {error.orig}")
            )
        for record, waiting in self.unfinished():
            said = f"{record.newsletter}, slot {record.slot}: {waiting:,} wait ({record.reason or record.state})"
            findings.append(Finding(ok=False, what=f"unfinished edition: {said}"))
        if row.halted_at is not None:
            findings.append(Finding(ok=False, what=f"dispatch is halted since {row.halted_at:%Y-%m-%d %H:%M} UTC"))
        return findings


_SAMPLE = Brief(
    headline="A sample brief that only a check-up sees",
    slug="a-sample-brief",
    url="https://desk.example.org/briefs/a-sample-brief",
    facts=(
        Fact(
            text="A fact has a source.",
            citations=(Citation(title="The Paper", url="https://paper.example.org/a"),),
        ),
    ),
    narratives=(
        Narrative(label="Pro-sample narrative", text="Samples find faults early.", stance="pro"),
        Narrative(label="Anti-sample narrative", text="Samples are not the news.", stance="anti"),
    ),
    forecasts=(Forecast(statement="There is a 50% chance of rain.", probability=0.5),),
    split="Political split",
)


def _folder_fault(folder: Path) -> str:
    """Why a folder cannot be read, "" where it can."""
    try:
        next(folder.iterdir(), None)
    except OSError as error:
        return f": {error.strerror}"
    return ""


def _faults(collected: Sequence[Collected]) -> str:
    faults = [str(fault) for one in collected for fault in one.faults] + [str(c.error) for c in collected if c.error]
    return f" (first fault: {faults[0]})" if faults else ""


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
