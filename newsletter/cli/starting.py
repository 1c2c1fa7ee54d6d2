"""Starting a newsletter, and seeing whether it stands ready."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from newsletter.cli._shell import DEFAULT, FAILED, AsJson, Config, actor, opened, print_json, settings_of

if TYPE_CHECKING:
    from newsletter.edition import Finding


def init(directory: Annotated[Path, typer.Argument(metavar="DIR", help="Made if need be.")] = Path()) -> None:
    """Start a newsletter: a commented newsletter.toml, secrets, sample briefs and a sample subscriber."""
    from newsletter import starter

    for line in starter.start(directory, actor=actor()):
        print(line)


def doctor(
    deep: Annotated[
        bool, typer.Option("--deep", help="Ask the DNS, too: SPF, DKIM, DMARC, MX of each sender's domain.")
    ] = False,
    message: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Look at a mail that arrived, saved as .eml; at all else with --deep only."),
    ] = None,
    selector: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="With --deep: a DKIM selector that the mails are signed with. Repeatable."),
    ] = None,
    nameserver: Annotated[
        str | None, typer.Option(metavar="ADDRESS[:PORT]", help="The name server to ask, in place of the system's.")
    ] = None,
    config: Config = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Check configuration, templates, database, sources and provider. Sends nothing."""
    if selector and not deep:
        raise typer.BadParameter("--selector goes with --deep")
    if nameserver and not deep and message is None:
        raise typer.BadParameter("--nameserver goes with --deep or --message")
    findings = [] if message is not None and not deep else _stands_ready(config)
    if deep or message is not None:
        findings += _from_outside(config, message, selector or [], nameserver, deep=deep)
    if as_json:
        print_json([{"ok": finding.ok, "what": finding.what} for finding in findings])
    else:
        marks = {True: "ok  ", False: "BAD ", None: "note"}
        for finding in findings:
            print(f"{marks[finding.ok]}  {finding.what}")
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(FAILED)


def _stands_ready(config: Path) -> "list[Finding]":
    from newsletter import checkup

    with opened(config) as newsroom:
        return checkup.examine(newsroom)


def _from_outside(
    config: Path, message: Path | None, selectors: list[str], nameserver: str | None, *, deep: bool
) -> "list[Finding]":
    """What the DNS says of the senders, and what a mail that arrived shows. Opens no database."""
    from datetime import UTC, datetime

    from newsletter import deliverability
    from newsletter.deliverability import delivered
    from newsletter.deliverability.lookup import Lookup

    settings, lookup = settings_of(config), Lookup(nameserver)
    findings: list[Finding] = []
    if deep:
        findings += deliverability.examine(settings, lookup, selectors)
    if message is not None:
        findings += delivered.examine(delivered.read(message), settings, lookup, datetime.now(UTC))
    return findings
