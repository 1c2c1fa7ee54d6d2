"""The check-up before anything is sent: configuration, templates, database, editions, sources, provider."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from newsletter import migrations, people, safeguards, store
from newsletter.brief import Brief, Citation, Fact, Forecast, Narrative
from newsletter.drafting import compile_edition
from newsletter.edition import Finding
from newsletter.errors import CompileError, ConfigurationError
from newsletter.models import NoticeKind
from newsletter.newsroom import Newsroom, SourceAccount
from newsletter.notices import message_of
from newsletter.schedule import Slot
from newsletter.settings import Folder, Newsletter
from subscribers import reading, transaction

_EDITIONS_LOOKED_AT = 50  # some weeks of a daily one; the deliveries of each are counted

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


def examine(newsroom: Newsroom) -> list[Finding]:
    """What stands ready and what does not, in the order in which a person would mend it. Sends nothing."""
    settings = newsroom.settings
    findings = [Finding(ok=True, what=f"configuration {settings.file} can be read"), *_secrets(newsroom)]
    for name, newsletter in settings.newsletters.items():
        findings += _newsletter(newsroom, name, newsletter)
    findings += _database(newsroom)
    findings += [_source(account) for account in newsroom.sources()]
    findings += _provider(newsroom)
    return findings


def _provider(newsroom: Newsroom) -> Iterator[Finding]:
    try:
        provider = newsroom.provider
    except ConfigurationError as error:
        yield Finding(ok=False, what=f"provider: {error}")
        return
    with reading(newsroom.engine) as session:
        database = store.instance(session)
    try:
        safeguards.refuse_if_not_claimed(newsroom.settings, provider, database)
    except ConfigurationError as error:
        yield Finding(ok=False, what=error.what)
    yield from provider.check()


def _source(account: SourceAccount) -> Finding:
    """A folder is looked at; of what is fetched, the last answer is told (`newsletter sources check` asks anew)."""
    if isinstance(account.source, Folder):
        fault = _folder_fault(account.source.path)
        return Finding(ok=not fault, what=f"source {account.name}: {account.source.path}{fault}")
    what = f"source {account.name}: {account.source.url}"
    fared = account.fared
    if fared is None:
        return Finding(ok=None, what=f"{what}: never asked yet; newsletter collect does")
    if fared.failures:
        return Finding(ok=False, what=f"{what}: failed {_times(fared.failures)}, the last time: {fared.error}")
    faults = f", {len(fared.faults)} or more not readable" if fared.faults else ""
    read = f"read {fared.succeeded_at:%Y-%m-%d %H:%M} UTC" if fared.succeeded_at else "not read"
    return Finding(ok=not faults, what=f"{what}: {read}, {_briefs(fared.briefs)}{faults}")


def _briefs(count: int | None) -> str:
    return "1 brief" if count == 1 else f"{count or 0} briefs"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times in a row"


def _secrets(newsroom: Newsroom) -> Iterator[Finding]:
    settings = newsroom.settings
    yield from people.secret_faults(newsroom)
    file = settings.file.parent / ".env"
    if file.exists() and file.stat().st_mode & 0o077:
        yield Finding(ok=False, what=f"{file} can be read by others: chmod 600 {file}")
    if path := urlsplit(settings.site.url).path:
        what = (
            f"site.url has a path, {path}: newsletter serve refuses that, since the pages stand at the root of a host"
        )
        yield Finding(ok=None, what=what)


def _newsletter(newsroom: Newsroom, name: str, newsletter: Newsletter) -> Iterator[Finding]:
    try:
        upcoming = next(newsroom.schedule(name).upcoming(newsroom.clock()), None)
        sample = upcoming or Slot(datetime(2026, 1, 1), newsletter.zone)  # noqa: DTZ001 # a slot is local
        compiled = compile_edition(newsroom.settings, name, sample, [_SAMPLE])
    except (CompileError, ConfigurationError) as error:
        yield Finding(ok=False, what=f"newsletter {name}: {error}")
        return
    said = f"newsletter {name}: templates compile ({compiled.html_bytes:,} bytes for one brief)"
    following = f"next slot {upcoming} {newsletter.zone}" if upcoming else "no slot is left in its schedule"
    yield Finding(ok=True if upcoming else None, what=f"{said}, {following}")
    if newsletter.approval == "required" and not newsroom.settings.desk.mail:
        what = f"newsletter {name}: its editions wait for approval, and desk.mail names nobody who gets a proof"
        yield Finding(ok=False, what=what)
    for kind in NoticeKind:
        try:
            message_of(newsroom.settings, name, kind, newsletter.language, newsletter.lists, None)
        except CompileError as error:
            yield Finding(ok=False, what=f"newsletter {name}, notice {kind}: {error}")
    audience = newsroom.audience(name)
    if not audience.mailable:
        lists = ", ".join(newsletter.lists)
        yield Finding(ok=None, what=f"newsletter {name}: nobody to mail on list {lists} yet")


def _database(newsroom: Newsroom) -> Iterator[Finding]:
    where = newsroom.engine.url.database
    with reading(newsroom.engine) as session:
        row = store.instance(session)
        named = f"database {where} ({migrations.described(session.connection())})"
        yield Finding(ok=True, what=f"{named}, instance {row.instance_id}")
        if newsroom.engine.dialect.name == "sqlite":
            said = session.execute(text("PRAGMA quick_check(1)")).scalar_one()
            yield Finding(ok=said == "ok", what=f"database check-up: {said}")
    try:
        with transaction(newsroom.engine) as session:
            session.execute(text("UPDATE instance SET id = id"))
    except DBAPIError as error:
        yield Finding(ok=False, what=f"database {where} cannot be written: {error.orig}")
    yield from _editions(newsroom)
    if row.halted_at is not None:
        yield Finding(ok=False, what=f"dispatch is halted since {row.halted_at:%Y-%m-%d %H:%M} UTC")


def _editions(newsroom: Newsroom) -> Iterator[Finding]:
    for record, waiting in newsroom.unfinished():
        said = f"{record.newsletter}, slot {record.slot}: {waiting:,} wait ({record.reason or record.state})"
        yield Finding(ok=False, what=f"unfinished edition: {said}")
    for record, tally in newsroom.editions(_EDITIONS_LOOKED_AT):
        if tally is not None and tally.unknown:
            said = f"{record.newsletter}, slot {record.slot}: {tally.unknown:,} may or may not have been taken"
            names = f"newsletter editions show {record.newsletter} {record.slot} names them"
            yield Finding(ok=False, what=f"unknown deliveries: {said}; {names}")


def _folder_fault(folder: Path) -> str:
    """Why a folder cannot be read, "" where it can."""
    try:
        next(folder.iterdir(), None)
    except OSError as error:
        return f": {error.strerror}"
    return ""
