"""What the provider tells afterwards: taken from a request of its webhook or from its own lists, and counted."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from newsletter.cli._shell import DEFAULT, AsJson, Config, opened, print_json, print_lines
from newsletter.errors import ConfigurationError

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="What the provider tells after it took a mail.")

_MOST_BYTES = 10_000_000  # of one request; providers send far less


@app.command("events")
def events(config: Config = DEFAULT, as_json: AsJson = False) -> None:
    """Count the events on record, by provider and kind."""
    with opened(config) as newsroom:
        counts = newsroom.event_counts()
    if as_json:
        print_json([{"provider": name, "kind": kind, "count": count} for (name, kind), count in counts.items()])
        return
    for (name, kind), count in counts.items():
        print(f"{name}  {kind:<10}  {count:,}")
    if not counts:
        print("no events on record")


@app.command("pace")
def pace(config: Config = DEFAULT, as_json: AsJson = False) -> None:
    """Show how fast the provider may be called now, and why not faster."""
    from dataclasses import asdict

    from newsletter import operating, report

    with opened(config) as newsroom:
        account = operating.pace_account(newsroom)
        limits = newsroom.limits
    if as_json:
        print_json(asdict(account))
    else:
        print_lines(report.pace_lines(account, limits))


@app.command("receive")
def receive(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The request's body; - for standard input.")],
    header: Annotated[
        list[str] | None, typer.Option("--header", metavar="NAME: VALUE", help="A header of the request; repeatable.")
    ] = None,
    config: Config = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Take the events of one webhook request, its signature verified. Told twice, they act once."""
    from newsletter import report

    headers = {}
    for line in header or ():
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise ConfigurationError(f"--header: expected “Name: value”, found “{line}”")
        headers[name.strip()] = value.strip()
    try:
        if file == Path("-"):
            body = sys.stdin.buffer.read(_MOST_BYTES + 1)
        else:
            with file.open("rb") as opened_file:
                body = opened_file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}") from None
    with opened(config) as newsroom:
        taken = newsroom.take_events(headers, body)
    if as_json:
        print_json(report.taken_json(taken))
    else:
        print_lines(report.taken_lines(taken))


@app.command("sync")
def sync(config: Config = DEFAULT, as_json: AsJson = False) -> None:
    """Read the provider's own lists, and suppress whom they name: what its webhook failed to tell."""
    from newsletter import report

    with opened(config) as newsroom:
        taken = newsroom.sync_events()
    if as_json:
        print_json(report.taken_json(taken))
    else:
        print_lines(report.taken_lines(taken))
