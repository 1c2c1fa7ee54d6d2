"""The sources: how each has fared, and what an address would give."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from newsletter.cli._shell import DEFAULT, FAILED, AsJson, Config, opened, print_json, print_lines, settings_of

app = typer.Typer(rich_markup_mode=None, help="The sources and how they fare, and what an address would give as one.")


@app.callback(invoke_without_command=True)
def sources(context: typer.Context, config: Config = DEFAULT, as_json: AsJson = False) -> None:
    """List the sources: when each was read last, what it gave, and how it failed."""
    if context.invoked_subcommand is not None:
        return
    from newsletter import intake

    with opened(config) as newsroom:
        accounts = newsroom.sources()
    if as_json:
        print_json([intake.source_json(account) for account in accounts])
        return
    for account in accounts:
        print_lines(intake.source_lines(account))
    if not accounts:
        print("no sources are configured")


@app.command("check")
def check(
    url: Annotated[str, typer.Argument(metavar="URL", help="Of a feed or a JSON endpoint, configured or not.")],
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="For its [fetch]; newsletter.toml where there is one."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Explain what an address would give as a source. Puts nothing on record. Exit code 1 where it gives no brief."""
    from newsletter import intake
    from newsletter.collect import look
    from newsletter.errors import CollectError
    from newsletter.fetch import Fetcher, user_agent
    from newsletter.settings import Fetch

    file = config or (DEFAULT if DEFAULT.exists() else None)
    settings = settings_of(file) if file else None
    fetch, site = (settings.fetch, settings.site.url) if settings else (Fetch(), None)
    try:
        with Fetcher(fetch, user_agent=user_agent(site), clock=lambda: datetime.now(UTC)) as fetcher:
            found = look(url, fetcher)
    except CollectError as error:
        said = f"{error.url}: {error.what}" if error.url else error.what
        print(
            "newsletter:", "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in said), file=sys.stderr
        )
        raise typer.Exit(FAILED) from None
    if as_json:
        print_json(intake.look_json(found))
    else:
        print_lines(intake.look_lines(found))
    if not found.read.briefs and not found.is_empty:
        raise typer.Exit(FAILED)
