"""Starting a newsletter, and seeing whether it stands ready."""

from pathlib import Path
from typing import Annotated

import typer

from newsletter.cli._shell import DEFAULT, FAILED, AsJson, Config, actor, opened, print_json


def init(directory: Annotated[Path, typer.Argument(metavar="DIR", help="Made if need be.")] = Path()) -> None:
    """Start a newsletter: a commented newsletter.toml, secrets, sample briefs and a sample subscriber."""
    from newsletter import starter

    for line in starter.start(directory, actor=actor()):
        print(line)


def doctor(config: Config = DEFAULT, as_json: AsJson = False) -> None:
    """Check configuration, templates, database, sources and provider. Sends nothing."""
    from newsletter import checkup

    with opened(config) as newsroom:
        findings = checkup.examine(newsroom)
    if as_json:
        print_json([{"ok": finding.ok, "what": finding.what} for finding in findings])
    else:
        marks = {True: "ok  ", False: "BAD ", None: "note"}
        for finding in findings:
            print(f"{marks[finding.ok]}  {finding.what}")
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(FAILED)
