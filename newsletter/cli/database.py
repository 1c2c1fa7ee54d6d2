"""The database: what a person does to it."""

from pathlib import Path
from typing import Annotated

import typer

from newsletter.cli._shell import DEFAULT, FAILED, AsJson, Config, actor, opened, print_json, print_lines, settings_of

app = typer.Typer(help="The database.", no_args_is_help=True)


@app.command()
def upgrade(config: Config = DEFAULT) -> None:
    """Make the tables, or bring them up to this program's revision. Back the database up first."""
    settings = settings_of(config)
    from newsletter import newsroom

    before, after, backup = newsroom.upgrade(settings)
    if before == after:
        print(f"the database is at revision {after}: nothing to do")
        return
    print(f"the database was {f'at revision {before}' if before else 'empty'} and is at revision {after} now")
    if backup:
        print(f"a copy from before is {backup}")


@app.command()
def claim(config: Config = DEFAULT) -> None:
    """Say that the database is no copy, wherever it is now, so that the scheduler may send from it."""
    with opened(config) as newsroom:
        from newsletter import operating

        operating.claim_place(newsroom, actor=actor())
    print("claimed: the scheduler may send from it")


@app.command()
def backup(
    to: Annotated[Path | None, typer.Option("--to", metavar="DIR", help="Where to; made if need be.")] = None,
    config: Config = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Copy the database while it is in use, see that the copy is whole, and take away copies that had their time."""
    settings = settings_of(config)
    from datetime import UTC, datetime

    from newsletter import safekeeping
    from newsletter.backup import back_up
    from newsletter.newsroom import engine_of

    engine = engine_of(settings)
    try:
        made = back_up(settings, engine, now=datetime.now(UTC), actor=actor(), directory=to)
    finally:
        engine.dispose()
    if as_json:
        print_json(safekeeping.backup_json(made))
    else:
        print_lines(safekeeping.backup_lines(made))


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What newsletter db backup made.")],
    over: Annotated[
        bool, typer.Option("--over", help="Put it in the place of a database that stands there; that one is kept.")
    ] = False,
    config: Config = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Put a backup in the database's place. Nothing is sent from it until `newsletter unhalt`."""
    settings = settings_of(config)
    from datetime import UTC, datetime

    from newsletter import safekeeping
    from newsletter.restoring import restore as put_back

    restored = put_back(settings, file, now=datetime.now(UTC), actor=actor(), over=over)
    if as_json:
        print_json(safekeeping.restored_json(restored))
    else:
        print_lines(safekeeping.restored_lines(restored))


@app.command()
def check(config: Config = DEFAULT, as_json: AsJson = False) -> None:
    """Look at all pages, references and tables of the database, at open sums, and the room left. Changes nothing."""
    settings = settings_of(config)
    from datetime import UTC, datetime

    from newsletter import safekeeping, soundness
    from newsletter.newsroom import engine_of

    engine = engine_of(settings)
    try:
        found = soundness.check(engine, now=datetime.now(UTC))
    finally:
        engine.dispose()
    if as_json:
        print_json(safekeeping.check_json(found))
    else:
        print_lines(safekeeping.check_lines(found))
    if not found.sound:
        raise typer.Exit(FAILED)
