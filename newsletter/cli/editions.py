"""The editions on record, and what an operator does with one that is under way."""

import sys
from enum import StrEnum
from typing import Annotated

import typer

from newsletter.cli._shell import DEFAULT, FAILED, AsJson, Config, Name, actor, opened, print_json, print_lines
from newsletter.cli.sending import finish, progress, stoppable

SlotArgument = Annotated[
    str | None, typer.Argument(metavar="[SLOT]", help="A slot, e.g. 2026-11-23T07:00; the latest where left out.")
]
Reason = Annotated[str | None, typer.Option("--reason", help="Why, for the others.")]


class As(StrEnum):
    """What an operator says of unknown copies."""

    ACCEPTED = "accepted"
    RESEND = "resend"
    DROP = "drop"


app = typer.Typer(rich_markup_mode=None, help="The editions, and one with its conservation sum.")


@app.callback(invoke_without_command=True)
def editions(
    context: typer.Context,
    config: Config = DEFAULT,
    limit: Annotated[int, typer.Option(help="How many, newest first.", min=1)] = 20,
    as_json: AsJson = False,
) -> None:
    """List the editions."""
    if context.invoked_subcommand is not None:
        return
    from newsletter import report

    with opened(config) as newsroom:
        rows = newsroom.editions(limit)
    if as_json:
        print_json([report.edition_json(*row) for row in rows])
        return
    print_lines(report.edition_line(*row) for row in rows)
    if not rows:
        print("no editions yet")


@app.command("show")
def editions_show(
    name: Name,
    slot: Annotated[str | None, typer.Argument(metavar="[SLOT]", help="The latest where left out.")] = None,
    config: Config = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Show one edition: its briefs, its conservation sum with reasons, what waits, who was refused, who is unknown."""
    from newsletter import report

    with opened(config) as newsroom:
        account = newsroom.edition(name, slot)
    if as_json:
        print_json(report.account_json(account))
    else:
        print_lines(report.edition_lines(account))


@app.command("approve")
def editions_approve(
    name: Name,
    slot: Annotated[
        str | None, typer.Argument(metavar="[SLOT]", help="A slot; the earliest that waits where left out.")
    ] = None,
    revision: Annotated[
        int | None, typer.Option("--revision", metavar="N", help="The revision that you have looked at.", min=1)
    ] = None,
    config: Config = DEFAULT,
) -> None:
    """Say yes to a draft that waits for it, to a correction, or to an edition that is held. The scheduler sends it."""
    from newsletter import operating

    with opened(config) as newsroom:
        record = operating.approve(newsroom, name, slot, revision=revision, actor=actor())
    print(f"approved: {name} {record.slot}; the scheduler sends it at its slot, or now where that has passed")


@app.command("pause")
def editions_pause(name: Name, slot: SlotArgument = None, reason: Reason = None, config: Config = DEFAULT) -> None:
    """Stop an edition before its next call, in every process, until `editions resume`."""
    from newsletter import operating

    with opened(config) as newsroom:
        paused = operating.pause(newsroom, name, slot, actor=actor(), reason=reason)
    again = f"newsletter editions resume {name}{f' {slot}' if slot else ''} lets it go on"
    print(f"paused; {again}" if paused else f"was paused already; {again}")


@app.command("resume")
def editions_resume(name: Name, slot: SlotArgument = None, config: Config = DEFAULT, as_json: AsJson = False) -> None:
    """Let a paused edition go on, however late it is, and dispatch what waits in it."""
    from newsletter import operating, report

    with opened(config) as newsroom:
        with stoppable() as stop, progress(quiet=as_json) as told:
            sent = operating.resume(newsroom, name, slot, actor=actor(), report=told, stop=stop)
        if as_json:
            print_json(report.sent_json(sent))
        else:
            print_lines(report.resumed_lines(sent, newsroom.provider.name))
    finish(sent)


@app.command("cancel")
def editions_cancel(
    name: Name,
    slot: SlotArgument = None,
    reason: Reason = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: Config = DEFAULT,
) -> None:
    """End an edition for good: what has not left never will; what the provider still keeps back is called back."""
    from newsletter import operating, report

    with opened(config) as newsroom:
        if not yes and sys.stdin.isatty():
            account = newsroom.edition(name, slot)
            print_lines(report.edition_lines(account))
            typer.confirm("End it for good?", abort=True)
            slot = account.record.slot  # what was shown is what is ended
        done = operating.cancel(newsroom, name, slot, actor=actor(), reason=reason)
        account = newsroom.edition(name, done.record.slot)
    print(report.edition_line(account.record, account.tally))
    if done.recalled:
        print(f"{done.recalled:,} copies were called back before they were sent")
    if done.fault:
        print(f"newsletter: what the provider keeps back may still go out: {done.fault}", file=sys.stderr)
        raise typer.Exit(FAILED)


@app.command("retry")
def editions_retry(
    name: Name,
    slot: SlotArgument = None,
    refused: Annotated[bool, typer.Option("--refused", help="Those who were refused, too.")] = False,
    config: Config = DEFAULT,
) -> None:
    """Make what was deferred due now; the next `send` or `editions resume` hands it over."""
    from newsletter import operating

    with opened(config) as newsroom:
        retried = operating.retry(newsroom, name, slot, refused=refused, actor=actor())
    print(f"{_copies(retried)} due now; {_hands_over(name, slot)}" if retried else "nothing to retry")


@app.command("resolve")
def editions_resolve(
    name: Name,
    verdict: Annotated[
        As,
        typer.Option(
            "--as", help="accepted: they went out; resend: again, though some may get two; drop: leave them so."
        ),
    ],
    slot: SlotArgument = None,
    config: Config = DEFAULT,
) -> None:
    """Say what became of the copies of which nobody knows. Of `resend`, the next `send` hands them over."""
    from newsletter import operating
    from newsletter.control import Verdict

    with opened(config) as newsroom:
        count = operating.resolve(newsroom, name, slot, Verdict(verdict.value), actor=actor())
    if not count:
        print("nobody is unknown in it")
    elif verdict is As.RESEND:
        print(f"{_copies(count)} to be sent again; {_hands_over(name, slot)}")
    else:
        print(f"{_copies(count)} {'accepted' if verdict is As.ACCEPTED else 'left as they are'}, on your word")


def _copies(count: int) -> str:
    return f"{count:,} {'copy' if count == 1 else 'copies'}:"


def _hands_over(name: str, slot: str | None) -> str:
    """What goes on with the edition; its slot is named where the operator named it."""
    return f"newsletter send {name}{f' --slot {slot}' if slot else ''} goes on"


@app.command("fold")
def editions_fold(config: Config = DEFAULT) -> None:
    """Fold the editions that were closed longer than dispatch.fold_after ago. `serve` does so by itself."""
    from newsletter import operating

    with opened(config) as newsroom:
        folded = operating.fold_due(newsroom)
    for record in folded:
        print(f"folded {record.newsletter} {record.slot}")
    if not folded:
        print("nothing to fold")
