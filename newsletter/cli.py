"""The command `newsletter`: the Newsroom's verbs for the shell.

It reads arguments, opens the Newsroom, and prints. A user's mistake is one plain line and exit code 2; what failed
otherwise is one line and exit code 1; a refused brief of `briefs read` is 1, too. Heavy modules are loaded by the
command that needs them.
"""

import io
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from newsletter import __version__
from newsletter.errors import ConfigurationError, EditionError, NewsletterError

if TYPE_CHECKING:
    from newsletter.dispatch import Progress
    from newsletter.newsroom import Newsroom, Sent
    from newsletter.settings import Settings

FAILED, MISTAKE, INTERRUPTED = 1, 2, 130
_MANY = 200  # from so many deliveries on, a terminal shows a progress bar

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
briefs_app = typer.Typer(rich_markup_mode=None, help="The briefs on record, and what a reader makes of a file.")
editions_app = typer.Typer(rich_markup_mode=None, help="The editions, and one with its conservation sum.")
subscribers_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The people on the lists.")
app.add_typer(briefs_app, name="briefs")
app.add_typer(editions_app, name="editions")
app.add_typer(subscribers_app, name="subscribers")

Config = Annotated[Path, typer.Option("--config", metavar="FILE", help="The configuration.", show_default=True)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for a script.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The newsletter's ID.")]
MaybeSlot = Annotated[str | None, typer.Option("--slot", metavar="LOCAL", help="A slot, e.g. 2026-11-23T07:00.")]
DEFAULT = Path("newsletter.toml")


def main() -> NoReturn:
    """Run the command; never a traceback for a user's mistake."""
    _ready_output()
    # Newer typers carry a click of their own, whose errors are not those of the package click.
    click = sys.modules[typer.BadParameter.__module__]
    try:
        code = app(standalone_mode=False, prog_name="newsletter") or 0
        sys.stdout.flush()  # here, where a reader that has gone away is no surprise
        sys.exit(code)
    except click.UsageError as error:
        if error.ctx is not None and error.message == error.ctx.get_help():  # a command group by itself
            print(error.message)
            sys.exit(MISTAKE)
        _complain(error.format_message(), MISTAKE)
    except click.ClickException as error:
        _complain(error.format_message(), error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        _complain("interrupted; run it again to go on where it stopped", INTERRUPTED)
    except BrokenPipeError:
        _drop_output()
        sys.exit(FAILED)
    except (ConfigurationError, NewsletterError) as error:
        _complain(str(error), MISTAKE)
    except Exception as error:
        said = _said_elsewhere(error)
        if said is None:
            raise
        if isinstance(error, OSError):
            _drop_output()  # it may be the output's own fault, which would come again at the exit
        _complain(*said)


def _ready_output() -> None:
    """Make the output one that takes every character; give it and the input a stand-in where the caller closed them."""
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115 # open to the end
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 # the same
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _drop_output() -> None:
    """Send what is still to be written nowhere."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _said_elsewhere(error: Exception) -> tuple[str, int] | None:
    """The sentence and exit code for errors of packages below, None for a bug of ours."""
    module = type(error).__module__
    if module.startswith("subscribers."):
        return str(error), MISTAKE
    if module.startswith("sqlalchemy.") and (cause := getattr(error, "orig", None)) is not None:
        if "readonly" in str(cause):
            return f"the database: {cause}: look at the modes of the file, its -wal and -shm, and its folder", FAILED
        return f"the database: {cause}; what was committed is safe, run it again", FAILED
    if isinstance(error, OSError):
        return f"{error.filename or 'the system'}: {error.strerror or error}", FAILED
    return None


def _complain(what: str, code: int) -> NoReturn:
    print(f"newsletter: {' '.join(what.split())}", file=sys.stderr)
    sys.exit(code)


def _print_json(value: object) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


def _actor() -> str:
    import getpass

    try:
        return f"operator:{getpass.getuser()}"
    except (KeyError, OSError):
        return "operator"


def _settings(file: Path) -> "Settings":
    from newsletter.settings import Settings

    return Settings.load(file, os.environ)


@contextmanager
def _newsroom(file: Path) -> Iterator["Newsroom"]:
    settings = _settings(file)
    from newsletter.newsroom import Newsroom

    with Newsroom.open(settings) as newsroom:
        if newsroom.backup:
            print(f"database brought up to date; a copy from before is {newsroom.backup}", file=sys.stderr)
        yield newsroom


def _version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Compile a news desk's briefs into an e-mail digest, and see it into every recipient's hands, once."""


# ------------------------------------------------------------------------------------------ starting


@app.command()
def init(directory: Annotated[Path, typer.Argument(metavar="DIR", help="Made if need be.")] = Path()) -> None:
    """Start a newsletter: a commented newsletter.toml, secrets, sample briefs and a sample subscriber."""
    from newsletter import starter

    for line in starter.start(directory, actor=_actor()):
        print(line)


@app.command()
def doctor(config: Config = DEFAULT, as_json: AsJson = False) -> None:
    """Check configuration, templates, database, sources and provider. Sends nothing."""
    with _newsroom(config) as newsroom:
        findings = newsroom.check()
    if as_json:
        _print_json([{"ok": finding.ok, "what": finding.what} for finding in findings])
    else:
        marks = {True: "ok  ", False: "BAD ", None: "note"}
        for finding in findings:
            print(f"{marks[finding.ok]}  {finding.what}")
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(FAILED)


# ------------------------------------------------------------------------------------------ briefs


@app.command()
def collect(config: Config = DEFAULT, as_json: AsJson = False) -> None:
    """Read all sources and put what is new on record. Decides and sends nothing."""
    from newsletter import report

    with _newsroom(config) as newsroom:
        collected = newsroom.collect()
    if as_json:
        _print_json([report.collected_json(one) for one in collected])
    else:
        _print_lines(report.collected_lines(collected))
        for one in collected:
            print(f"{one.source}: {one.seen} briefs, {one.new} new, {one.revised} revised")
    if any(one.error for one in collected):
        raise typer.Exit(FAILED)


@briefs_app.callback(invoke_without_command=True)
def briefs(
    context: typer.Context,
    config: Config = DEFAULT,
    limit: Annotated[int, typer.Option(help="How many, newest first.", min=1)] = 30,
    as_json: AsJson = False,
) -> None:
    """List the briefs on record and what each newsletter decided about them."""
    if context.invoked_subcommand is not None:
        return
    from newsletter import report, store
    from subscribers import reading

    with _newsroom(config) as newsroom, reading(newsroom.engine) as session:
        rows = store.brief_rows(session, limit)
    if as_json:
        _print_json([report.record_json(row) for row in rows])
        return
    for row in rows:
        _print_lines(report.record_lines(row))
    if not rows:
        print("no briefs on record yet; newsletter collect reads the sources")


@briefs_app.command("read")
def briefs_read(file: Annotated[Path, typer.Argument(metavar="FILE")], as_json: AsJson = False) -> None:
    """Show what a reader makes of a file. Exit code 1 where it holds no brief."""
    from newsletter import formats, report

    try:
        with file.open("rb") as opened:
            data = opened.read(formats.LARGEST_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}") from None
    read = formats.read(data, str(file))
    for fault in read.faults:
        print(f"newsletter: {fault}", file=sys.stderr)
    for remark in read.remarks:
        print(f"note: {remark}", file=sys.stderr)
    if as_json and read.briefs:
        shown = [brief.model_dump(mode="json") for brief in read.briefs]
        _print_json(shown[0] if len(shown) == 1 else shown)
    elif not as_json:
        for brief in read.briefs:
            _print_lines(report.brief_lines(brief))
    if read.faults or not read.briefs:
        raise typer.Exit(FAILED)


# ------------------------------------------------------------------------------------------ compiling


@app.command()
def preview(
    name: Name,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write; made if need be.")],
    slot: MaybeSlot = None,
    config: Config = DEFAULT,
) -> None:
    """Write the next digest as digest.html, digest.txt, subject.txt and digest.eml. Sends and decides nothing."""
    with _newsroom(config) as newsroom:
        made = newsroom.preview(name, slot)
    message = made.compiled.message
    _write_preview(out, made.html, made.text, message.subject, made.eml)
    print(f"{message.subject}")
    print(f"{made.note}; {made.compiled.html_bytes:,} bytes of HTML")
    for one in made.draft.collected if made.draft else ():
        _print_lines(f"left: {fault}" for fault in (*one.faults, *([one.error] if one.error else [])))
        _print_lines(f"note: {remark}" for remark in one.remarks)
    for remark in made.compiled.remarks:
        print(f"note: {remark}")
    print(f"written to {out / 'digest.html'} (and digest.txt, subject.txt, digest.eml)")


def _write_preview(out: Path, html: str, text: str, subject: str, eml: bytes) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "digest.html").write_text(html, encoding="utf-8")
    (out / "digest.txt").write_text(text, encoding="utf-8")
    (out / "subject.txt").write_text(subject + "\n", encoding="utf-8")
    (out / "digest.eml").write_bytes(eml)


# ------------------------------------------------------------------------------------------ sending


@app.command()
def send(
    name: Name,
    slot: MaybeSlot = None,
    test: Annotated[
        str | None, typer.Option("--test", metavar="ADDRESS", help="Send one proof there, outside the ledger.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be sent, to how many. Sends nothing.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Your yes to a late slot, a near one, or a far larger audience.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Write a preview there, too.")] = None,
    config: Config = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Send the latest edition that is due: collect, compile, dispatch. Run again, it sends nothing twice."""
    from newsletter import report

    if test is not None and (dry_run or slot is not None or out is not None):
        raise ConfigurationError("--test sends a proof of the next edition; it goes with no --dry-run, --slot or --out")
    if dry_run and out is not None:
        raise ConfigurationError("--dry-run writes no preview; newsletter preview does")
    with _newsroom(config) as newsroom:
        if test is not None:
            _send_test(newsroom, name, test, as_json=as_json)
            return
        if dry_run:
            _dry_run(newsroom, name, slot, as_json=as_json)
            return
        sent = _send(newsroom, name, slot, yes=yes, quiet=as_json)
        if out is not None and sent.record.frozen_at is not None:
            _preview_of(newsroom, sent, out)
        if as_json:
            _print_json(report.sent_json(sent))
        else:
            provider = newsroom.provider
            _print_lines(
                report.sent_lines(
                    sent,
                    title=newsroom.settings.newsletters[name].title,
                    provider=provider.name,
                    mails=newsroom.settings.provider.path if provider.name == "outbox" else None,
                    preview=out,
                )
            )
    stopped = report.stopped_line(sent)
    # A skipped edition is no failure; one whose source could not be read is.
    unread = [str(one.error) for one in sent.draft.collected if one.error] if sent.draft and not sent.tally else []
    for line in [*([stopped] if stopped else []), *unread, *report.unfinished_lines(sent)]:
        print(f"newsletter: {' '.join(line.split())}", file=sys.stderr)  # where cron's mail and logs look
    if unread or (sent.tally is not None and (sent.tally.waiting or sent.tally.unknown or not sent.tally.holds)):
        raise typer.Exit(FAILED)


def _send(newsroom: "Newsroom", name: str, slot: str | None, *, yes: bool, quiet: bool) -> "Sent":
    """Send, asking on a terminal where a yes is needed, and with a progress bar where it is long."""
    with _progress(quiet=quiet) as report:
        try:
            return newsroom.send(name, slot, consent=yes, actor=_actor(), report=report)
        except EditionError as error:
            if not error.consent or quiet or not (sys.stdin.isatty() and sys.stdout.isatty()):
                raise
            question = str(error).partition("; --yes")[0]
    if not typer.confirm(f"{question}. Send it all the same?"):
        raise typer.Exit(MISTAKE)
    with _progress(quiet=quiet) as report:
        return newsroom.send(name, slot, consent=True, actor=_actor(), report=report)


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Any]:
    if quiet or not sys.stdout.isatty():
        yield lambda progress: None  # noqa: ARG005 # nobody watches
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("dispatching"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, transient=True, disable=False) as bar:
        task = bar.add_task("", total=None, visible=False)

        def report(progress: "Progress") -> None:
            bar.update(task, total=progress.total, completed=progress.done, visible=progress.total >= _MANY)

        yield report


def _send_test(newsroom: "Newsroom", name: str, address: str, *, as_json: bool) -> None:
    from newsletter.edition import DeliveryId, Recipient, Result
    from subscribers import parse

    mailbox = parse(address)
    made, receipt = newsroom.test(name, Recipient(DeliveryId("-"), mailbox.address, mailbox.name, "-"))
    if receipt.result is not Result.ACCEPTED:
        raise EditionError(name, f"the proof was not accepted: {receipt.result} {receipt.reason or ''}")
    if as_json:
        _print_json(
            {"newsletter": name, "slot": str(made.slot), "delivery": receipt.delivery, "result": receipt.result}
        )
        return
    print(f"a proof of {made.note} was accepted by {newsroom.provider.name}; its links do nothing")
    if newsroom.provider.name == "outbox":
        print(newsroom.settings.provider.path / "new" / f"{receipt.delivery}.eml")


def _dry_run(newsroom: "Newsroom", name: str, slot: str | None, *, as_json: bool) -> None:
    from newsletter import report

    at = newsroom.slot(name, slot)
    draft = newsroom.draft(name, at)
    audience = newsroom.audience(name)
    compiled = draft.compiled
    if as_json:
        _print_json(
            {
                "newsletter": name,
                "slot": str(at),
                "skipped": draft.skipped,
                "briefs": [candidate.brief.headline for candidate in draft.selection.taken],
                "html_bytes": compiled.html_bytes if compiled else None,
                "subject": compiled.message.subject if compiled else None,
                "candidates": audience.candidates,
                "mailable": audience.mailable,
            }
        )
        return
    _print_lines(report.draft_lines(draft))
    if draft.skipped:
        print(f"Skipped    {draft.skipped}: this edition would not be sent")
    if compiled:
        print(f"Subject    {compiled.message.subject}")
        print(f"Compiled   {compiled.html_bytes:,} bytes of HTML; every check passed")
    print(f"Audience   {audience.candidates:,} on the list, {audience.mailable:,} would be mailed")
    print("Dry run    nothing was sent, and nothing decided")


def _preview_of(newsroom: "Newsroom", sent: "Sent", out: Path) -> None:
    html, text, subject, eml = newsroom.show(sent.record)
    _write_preview(out, html, text, subject, eml)


@app.command()
def halt(
    reason: Annotated[str | None, typer.Option(help="Why, for the others.")] = None, config: Config = DEFAULT
) -> None:
    """Stop all dispatch at once: no process claims another batch until `unhalt`."""
    with _newsroom(config) as newsroom:
        print("halted" if newsroom.halt(_actor(), reason) else "was halted already")


@app.command()
def unhalt(config: Config = DEFAULT) -> None:
    """Let dispatch run again. Sends nothing by itself."""
    with _newsroom(config) as newsroom:
        print("dispatch may run again" if newsroom.unhalt(_actor()) else "was not halted")


# ------------------------------------------------------------------------------------------ editions


@editions_app.callback(invoke_without_command=True)
def editions(
    context: typer.Context,
    config: Config = DEFAULT,
    limit: Annotated[int, typer.Option(help="How many, newest first.", min=1)] = 20,
    as_json: AsJson = False,
) -> None:
    """List the editions."""
    if context.invoked_subcommand is not None:
        return
    from newsletter import ledger, report, store
    from subscribers import reading

    with _newsroom(config) as newsroom, reading(newsroom.engine) as session:
        rows = [
            (record, ledger.tally(session, record) if record.frozen_at else None)
            for record in store.editions(session, None, limit)
        ]
    if as_json:
        _print_json([report.edition_json(*row) for row in rows])
        return
    _print_lines(report.edition_line(*row) for row in rows)
    if not rows:
        print("no editions yet")


@editions_app.command("show")
def editions_show(
    name: Name,
    slot: Annotated[str | None, typer.Argument(metavar="[SLOT]", help="The latest where left out.")] = None,
    config: Config = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Show one edition: its briefs, its conservation sum with reasons, and who is unknown."""
    from newsletter import ledger, report, store
    from subscribers import reading

    with _newsroom(config) as newsroom, reading(newsroom.engine) as session:
        newsroom.settings.newsletter(name)
        if slot is None:
            found = store.editions(session, name, 1)
            record = found[0] if found else None
        else:
            record = store.edition(session, name, newsroom.slot(name, slot))
        if record is None:
            raise EditionError(name, f"there is no edition{f' of {slot}' if slot else ' yet'}")
        tally = ledger.tally(session, record) if record.frozen_at else None
        headlines = [brief.headline for brief in store.briefs_of(session, record.id or 0)]
        unknown = ledger.unknown_recipients(session, record.id or 0) if tally and tally.unknown else []
    if as_json:
        _print_json({**report.edition_json(record, tally), "briefs": headlines, "unknown": unknown})
    else:
        _print_lines(report.edition_lines(record, tally, headlines, unknown))


# ------------------------------------------------------------------------------------------ subscribers


@subscribers_app.command("add")
def subscribers_add(
    mailboxes: Annotated[
        list[str] | None, typer.Argument(metavar="[ADDRESS]...", help="“Name <address>”, too.")
    ] = None,
    to: Annotated[str | None, typer.Option("--list", metavar="SLUG", help="The only list where there is one.")] = None,
    evidence: Annotated[
        str | None, typer.Option(help="How their consent is known: adds them confirmed. Without it they are pending.")
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="One address a line; - for standard input.")
    ] = None,
    config: Config = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Add people to a list. Mails nobody: without --evidence it prints the link that confirms."""
    from newsletter.starter import add_people

    wanted = [(f"address {number}", text) for number, text in enumerate(mailboxes or (), start=1)]
    if source is not None:
        wanted += _people_of(source)
    if not wanted:
        raise ConfigurationError("name at least one address, or a file with --from")
    with _newsroom(config) as newsroom:
        added = add_people(newsroom, wanted, _list(newsroom, to), evidence=evidence, actor=_actor())
    if as_json:
        _print_json(added.to_json())
    else:
        for line in added.lines():
            print(line)
    for place, reason in added.refused:
        print(f"newsletter: {place}: {reason}", file=sys.stderr)
    if added.refused:
        raise typer.Exit(MISTAKE)


def _people_of(source: Path) -> list[tuple[str, str]]:
    """The lines of a file of people, each with where it stands; comments and empty ones left out."""
    name = "standard input" if source == Path("-") else str(source)
    try:
        text = (sys.stdin.buffer.read() if source == Path("-") else source.read_bytes()).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigurationError("expected UTF-8 text", file=name, line=line) from None
    except OSError as error:
        raise ConfigurationError(f"cannot be read: {error.strerror}", file=name) from None
    lines = [(f"{name}:{number}", line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    return [(place, line) for place, line in lines if line and not line.startswith("#")]


def _list(newsroom: "Newsroom", slug: str | None) -> str:
    known = sorted({slug for newsletter in newsroom.settings.newsletters.values() for slug in newsletter.lists})
    if slug is None:
        if len(known) > 1:
            raise ConfigurationError(f"name a list with --list: {', '.join(known)}")
        return known[0]
    if slug not in known:
        raise ConfigurationError(f"no newsletter goes to a list “{slug}” (there is: {', '.join(known)})")
    return slug


@subscribers_app.command("confirm")
def subscribers_confirm(
    token: Annotated[str, typer.Argument(metavar="LINK", help="The confirmation link, or its token.")],
    config: Config = DEFAULT,
) -> None:
    """Confirm a pending subscription by its link, as the person would by opening it."""
    from subscribers import confirm, transaction

    with _newsroom(config) as newsroom, transaction(newsroom.engine) as session:
        secret = newsroom.settings.need_secret()
        confirm(session, token.rpartition("/")[2], now=newsroom.clock(), secret=secret, actor=_actor())
    print("confirmed")


@subscribers_app.command("leave")
def subscribers_leave(
    address: Annotated[str, typer.Argument(metavar="ADDRESS")],
    to: Annotated[str | None, typer.Option("--list", metavar="SLUG", help="All lists where left out.")] = None,
    config: Config = DEFAULT,
) -> None:
    """Take a person off a list, or off all, at their wish."""
    from subscribers import find, leave, list_by_slug, parse, transaction

    with _newsroom(config) as newsroom, transaction(newsroom.engine) as session:
        if to:
            list_by_slug(session, to)
        subscriber = find(session, parse(address))
        ended = (
            leave(session, subscriber, {to} if to else None, now=newsroom.clock(), actor=_actor()) if subscriber else 0
        )
    print(f"{ended} subscription{'' if ended == 1 else 's'} ended")


@subscribers_app.command("suppress")
def subscribers_suppress(
    address: Annotated[str, typer.Argument(metavar="ADDRESS")],
    note: Annotated[str | None, typer.Option(help="Why.")] = None,
    config: Config = DEFAULT,
) -> None:
    """Never mail an address again, whatever any list says."""
    from subscribers import Reason, parse, suppress, transaction

    with _newsroom(config) as newsroom, transaction(newsroom.engine) as session:
        new = suppress(session, parse(address), Reason.OPERATOR, now=newsroom.clock(), actor=_actor(), note=note)
    print("suppressed" if new else "was suppressed already")
