"""The editions on record."""

from typing import Annotated

import typer

from newsletter.cli._shell import DEFAULT, AsJson, Config, Name, opened, print_json, print_lines

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
