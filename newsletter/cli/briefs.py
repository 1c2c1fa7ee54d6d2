"""The briefs: read from their sources, listed, and tried."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from newsletter.cli._shell import DEFAULT, FAILED, AsJson, Config, actor, opened, print_json, print_lines
from newsletter.errors import ConfigurationError

app = typer.Typer(rich_markup_mode=None, help="The briefs on record, and what a reader makes of a file.")


def collect(
    now: Annotated[
        bool, typer.Option("--now", help="Ask again at once what is left alone because it failed several times.")
    ] = False,
    config: Config = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Read all sources and put what is new on record. Decides and sends nothing."""
    from newsletter import intake

    with opened(config) as newsroom:
        collected = newsroom.collect(impatient=now)
    if as_json:
        print_json([intake.collected_json(one) for one in collected])
    else:
        print_lines(intake.collected_lines(collected))
        for one in collected:
            print(intake.collected_line(one))
    if any(one.error for one in collected):
        raise typer.Exit(FAILED)


@app.callback(invoke_without_command=True)
def briefs(
    context: typer.Context,
    config: Config = DEFAULT,
    limit: Annotated[int, typer.Option(help="How many, newest first.", min=1)] = 30,
    as_json: AsJson = False,
) -> None:
    """List the briefs on record and what each newsletter decided about them."""
    if context.invoked_subcommand is not None:
        return
    from newsletter import intake

    with opened(config) as newsroom:
        rows = newsroom.briefs(limit)
    if as_json:
        print_json([intake.record_json(row) for row in rows])
        return
    for row in rows:
        print_lines(intake.record_lines(row))
    if not rows:
        print("no briefs on record yet; newsletter collect reads the sources")


@app.command("pull")
def briefs_pull(
    brief: Annotated[int, typer.Argument(metavar="ID", help="The brief's number, as `newsletter briefs` shows it.")],
    reason: Annotated[str | None, typer.Option("--reason", help="Why, for the others. It is not published.")] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Let it stand again.")] = False,
    config: Config = DEFAULT,
) -> None:
    """Take a brief out of every edition that has not gone out, and out of the archive. Nothing more of it is sent."""
    from newsletter import corrections, report

    with opened(config) as newsroom:
        if undo:
            corrections.restore(newsroom, brief, actor=actor())
            print("it stands again; the next edition may take it")
            return
        held = corrections.pull(newsroom, brief, actor=actor(), reason=reason)
        print(f"pulled; it stood in {len(held)} edition{'' if len(held) == 1 else 's'}")
        for record in held:
            account = newsroom.edition(record.newsletter, record.slot)
            print_lines([report.edition_line(account.record, account.tally)])


@app.command("read")
def briefs_read(file: Annotated[Path, typer.Argument(metavar="FILE")], as_json: AsJson = False) -> None:
    """Show what a reader makes of a file. Exit code 1 where it holds no brief."""
    from newsletter import formats, intake

    try:
        with file.open("rb") as opened:
            data = opened.read(formats.LARGEST_FEED_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}") from None
    read = formats.read(data, str(file))
    for fault in read.faults:
        print(f"newsletter: {fault}", file=sys.stderr)
    for remark in read.remarks:
        print(f"note: {remark}", file=sys.stderr)
    if as_json and read.briefs:
        shown = [brief.model_dump(mode="json") for brief in read.briefs]
        print_json(shown[0] if len(shown) == 1 else shown)
    elif not as_json:
        for brief in read.briefs:
            print_lines(intake.brief_lines(brief))
    if read.faults or not read.briefs:
        raise typer.Exit(FAILED)
