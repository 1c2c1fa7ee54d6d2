"""From a look at the next edition to its dispatch, and the brake."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from newsletter.cli._shell import (
    DEFAULT,
    FAILED,
    MISTAKE,
    AsJson,
    Config,
    MaybeSlot,
    Name,
    actor,
    opened,
    print_json,
    print_lines,
)
from newsletter.errors import ConfigurationError, EditionError

if TYPE_CHECKING:
    from newsletter.dispatch import Progress
    from newsletter.newsroom import Newsroom, Sent

_MANY = 200  # from so many deliveries on, a terminal shows a progress bar


def preview(
    name: Name,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write; made if need be.")],
    slot: MaybeSlot = None,
    config: Config = DEFAULT,
) -> None:
    """Write the next digest as digest.html, digest.txt, subject.txt and digest.eml. Sends and decides nothing."""
    with opened(config) as newsroom:
        made = newsroom.preview(name, slot)
    message = made.compiled.message
    _write_preview(out, made.html, made.text, message.subject, made.eml)
    print(f"{message.subject}")
    print(f"{made.note}; {made.compiled.html_bytes:,} bytes of HTML")
    for one in made.draft.collected if made.draft else ():
        print_lines(f"left: {fault}" for fault in (*one.faults, *([one.error] if one.error else [])))
        print_lines(f"note: {remark}" for remark in one.remarks)
    for remark in made.compiled.remarks:
        print(f"note: {remark}")
    print(f"written to {out / 'digest.html'} (and digest.txt, subject.txt, digest.eml)")


def _write_preview(out: Path, html: str, text: str, subject: str, eml: bytes) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "digest.html").write_text(html, encoding="utf-8")
    (out / "digest.txt").write_text(text, encoding="utf-8")
    (out / "subject.txt").write_text(subject + "\n", encoding="utf-8")
    (out / "digest.eml").write_bytes(eml)


def send(
    name: Name,
    slot: MaybeSlot = None,
    test: Annotated[
        str | None, typer.Option("--test", metavar="ADDRESS", help="Send one proof there, outside the ledger.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be sent, to how many. Sends nothing.")
    ] = False,
    sandbox: Annotated[
        bool, typer.Option("--sandbox", help="Put every request to the provider's sandbox. Mails nobody.")
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

    _refuse_odd_combinations(
        test=test is not None, dry_run=dry_run, sandbox=sandbox, yes=yes, slot=slot is not None, out=out is not None
    )
    with opened(config) as newsroom:
        if test is not None:
            _send_test(newsroom, name, test, as_json=as_json)
            return
        if dry_run:
            _dry_run(newsroom, name, slot, as_json=as_json)
            return
        if sandbox:
            _rehearse(newsroom, name, slot, as_json=as_json)
            return
        sent = _send(newsroom, name, slot, yes=yes, quiet=as_json)
        if out is not None and sent.record.frozen_at is not None:
            _preview_of(newsroom, sent, out)
        if as_json:
            print_json(report.sent_json(sent))
        else:
            provider = newsroom.provider
            print_lines(
                report.sent_lines(
                    sent,
                    title=newsroom.settings.newsletters[name].title,
                    provider=provider.name,
                    mails=newsroom.outbox,
                    preview=out,
                )
            )
    finish(sent)


def finish(sent: "Sent") -> None:
    """Say on the error output what a person must look into, and exit with 1 where there is anything."""
    from newsletter import report

    stopped = report.stopped_line(sent)
    # A skipped edition is no failure; one whose source could not be read is.
    unread = [str(one.error) for one in sent.draft.collected if one.error] if sent.draft and not sent.tally else []
    trouble = list(report.trouble_lines(sent))
    for line in [*([stopped] if stopped else []), *unread, *trouble, *report.unfinished_lines(sent)]:
        print(f"newsletter: {' '.join(line.split())}", file=sys.stderr)  # where cron's mail and logs look
    if unread or trouble or (sent.tally is not None and (sent.tally.waiting or not sent.tally.holds)):
        raise typer.Exit(FAILED)


def _refuse_odd_combinations(*, test: bool, dry_run: bool, sandbox: bool, yes: bool, slot: bool, out: bool) -> None:
    if test and (dry_run or slot or out):
        raise ConfigurationError("--test sends a proof of the next edition; it goes with no --dry-run, --slot or --out")
    if dry_run and out:
        raise ConfigurationError("--dry-run writes no preview; newsletter preview does")
    if sandbox and (test or dry_run or yes or out):
        raise ConfigurationError("--sandbox mails nobody; it goes with no --test, --dry-run, --yes or --out")


def _send(newsroom: "Newsroom", name: str, slot: str | None, *, yes: bool, quiet: bool) -> "Sent":
    """Send, asking on a terminal where a yes is needed, and with a progress bar where it is long."""
    with stoppable() as stop, progress(quiet=quiet) as report:
        try:
            return newsroom.send(name, slot, consent=yes, actor=actor(), report=report, stop=stop)
        except EditionError as error:
            if not error.consent or quiet or not (sys.stdin.isatty() and sys.stdout.isatty()):
                raise
            question = str(error).partition("; --yes")[0]
    if not typer.confirm(f"{question}. Send it all the same?"):
        raise typer.Exit(MISTAKE)
    with stoppable() as stop, progress(quiet=quiet) as report:
        return newsroom.send(name, slot, consent=True, actor=actor(), report=report, stop=stop)


@contextmanager
def stoppable() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set: the calls that are out are finished and put on record, and that is all.

    A second Ctrl-C ends at once; what was out then is unknown, and listed.
    """
    stop = threading.Event()

    def heed(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        print("newsletter: stopping after the calls that are out; once more ends at once", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, heed) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def progress(*, quiet: bool) -> Iterator[Any]:
    """Reports progress: a bar on a terminal; and a line for each cause of waiting, so that none is silent."""
    told: set[str] = set()

    def waiting(done: "Progress") -> None:
        what = (done.note or "").partition("; next try")[0]
        if done.note and what not in told:
            told.add(what)
            print(f"newsletter: {done.note}", file=sys.stderr, flush=True)

    if quiet or not sys.stdout.isatty():
        yield waiting
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("dispatching"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, transient=True, disable=False) as bar:
        task = bar.add_task("", total=None, visible=False)

        def report(done: "Progress") -> None:
            waiting(done)
            bar.update(task, total=done.total, completed=done.done, visible=done.total >= _MANY)

        yield report


def _send_test(newsroom: "Newsroom", name: str, address: str, *, as_json: bool) -> None:
    from newsletter.edition import DeliveryId, Recipient, Result
    from subscribers import parse

    mailbox = parse(address)
    made, receipt = newsroom.test(name, Recipient(DeliveryId("-"), mailbox.address, mailbox.name, "-"))
    if receipt.result is not Result.ACCEPTED:
        raise EditionError(name, f"the proof was not accepted: {receipt.result} {receipt.reason or ''}")
    if as_json:
        print_json({"newsletter": name, "slot": str(made.slot), "delivery": receipt.delivery, "result": receipt.result})
        return
    print(f"a proof of {made.note} was accepted by {newsroom.provider.name}; its links do nothing")
    if newsroom.outbox is not None:
        print(newsroom.outbox / "new" / f"{receipt.delivery}.eml")


def _rehearse(newsroom: "Newsroom", name: str, slot: str | None, *, as_json: bool) -> None:
    from newsletter import report
    from newsletter.rehearsal import rehearse

    with progress(quiet=as_json) as told:
        rehearsed = rehearse(newsroom, name, slot, report=told)
    if as_json:
        print_json(report.rehearsed_json(rehearsed))
    else:
        print_lines(report.rehearsed_lines(rehearsed, newsroom.settings.newsletters[name].title))
    if rehearsed.error is not None:
        print(f"newsletter: {rehearsed.error}", file=sys.stderr)
    if rehearsed.error is not None or rehearsed.reasons:
        raise typer.Exit(FAILED)


def _dry_run(newsroom: "Newsroom", name: str, slot: str | None, *, as_json: bool) -> None:
    from newsletter import report

    at = newsroom.slot(name, slot)
    draft = newsroom.draft(name, at)
    audience = newsroom.audience(name)
    compiled = draft.compiled
    if as_json:
        print_json(
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
    print_lines(report.draft_lines(draft))
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


def halt(
    reason: Annotated[str | None, typer.Option(help="Why, for the others.")] = None, config: Config = DEFAULT
) -> None:
    """Stop all dispatch at once: no process claims another batch until `unhalt`."""
    with opened(config) as newsroom:
        print("halted" if newsroom.halt(actor(), reason) else "was halted already")


def unhalt(config: Config = DEFAULT) -> None:
    """Let dispatch run again. Sends nothing by itself."""
    with opened(config) as newsroom:
        print("dispatch may run again" if newsroom.unhalt(actor()) else "was not halted")
