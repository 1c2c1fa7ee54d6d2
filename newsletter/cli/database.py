"""The database: what a person does to it."""

import typer

from newsletter.cli._shell import DEFAULT, Config, settings_of

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
