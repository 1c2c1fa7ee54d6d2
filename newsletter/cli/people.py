"""The people on the lists."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from newsletter.cli._shell import DEFAULT, MISTAKE, AsJson, Config, actor, opened, print_json, print_lines
from newsletter.errors import ConfigurationError

if TYPE_CHECKING:
    from newsletter.newsroom import Newsroom

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The people on the lists.")


@app.command("add")
def subscribers_add(
    mailboxes: Annotated[
        list[str] | None, typer.Argument(metavar="[ADDRESS]...", help="“Name <address>”, too.")
    ] = None,
    to: Annotated[str | None, typer.Option("--list", metavar="SLUG", help="The only list where there is one.")] = None,
    evidence: Annotated[
        str | None, typer.Option(help="How their consent is known: adds them confirmed. Without it they are pending.")
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="One address a line; - for standard input.")
    ] = None,
    config: Config = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Add people to a list. Mails nobody: without --evidence it prints the link that confirms."""
    from newsletter import people, report

    wanted = [(f"address {number}", text) for number, text in enumerate(mailboxes or (), start=1)]
    if source is not None:
        wanted += _people_of(source)
    if not wanted:
        raise ConfigurationError("name at least one address, or a file with --from")
    with opened(config) as newsroom:
        added = people.add(newsroom, wanted, _list(newsroom, to), evidence=evidence, actor=actor())
    if as_json:
        print_json(report.added_json(added))
    else:
        print_lines(report.added_lines(added))
    for place, reason in added.refused:
        print(f"newsletter: {place}: {reason}", file=sys.stderr)
    if added.refused:
        raise typer.Exit(MISTAKE)


def _people_of(source: Path) -> list[tuple[str, str]]:
    """The lines of a file of people, each with where it stands; comments and empty ones left out."""
    name = "standard input" if source == Path("-") else str(source)
    try:
        text = (sys.stdin.buffer.read() if source == Path("-") else source.read_bytes()).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigurationError("expected UTF-8 text", file=name, line=line) from None
    except OSError as error:
        raise ConfigurationError(f"cannot be read: {error.strerror}", file=name) from None
    lines = [(f"{name}:{number}", line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    return [(place, line) for place, line in lines if line and not line.startswith("#")]


def _list(newsroom: "Newsroom", slug: str | None) -> str:
    known = sorted({slug for newsletter in newsroom.settings.newsletters.values() for slug in newsletter.lists})
    if slug is None:
        if len(known) > 1:
            raise ConfigurationError(f"name a list with --list: {', '.join(known)}")
        return known[0]
    if slug not in known:
        raise ConfigurationError(f"no newsletter goes to a list “{slug}” (there is: {', '.join(known)})")
    return slug


@app.command("confirm")
def subscribers_confirm(
    token: Annotated[str, typer.Argument(metavar="LINK", help="The confirmation link, or its token.")],
    config: Config = DEFAULT,
) -> None:
    """Confirm a pending subscription by its link, as the person would by opening it."""
    from newsletter import people

    with opened(config) as newsroom:
        people.confirm(newsroom, token, actor=actor())
    print("confirmed")


@app.command("leave")
def subscribers_leave(
    address: Annotated[str, typer.Argument(metavar="ADDRESS")],
    to: Annotated[str | None, typer.Option("--list", metavar="SLUG", help="All lists where left out.")] = None,
    config: Config = DEFAULT,
) -> None:
    """Take a person off a list, or off all, at their wish."""
    from newsletter import people

    with opened(config) as newsroom:
        ended = people.leave(newsroom, address, to, actor=actor())
    print(f"{ended} subscription{'' if ended == 1 else 's'} ended")


@app.command("suppress")
def subscribers_suppress(
    address: Annotated[str, typer.Argument(metavar="ADDRESS")],
    note: Annotated[str | None, typer.Option(help="Why.")] = None,
    config: Config = DEFAULT,
) -> None:
    """Never mail an address again, whatever any list says."""
    from newsletter import people

    with opened(config) as newsroom:
        new = people.suppress(newsroom, address, actor=actor(), note=note)
    print("suppressed" if new else "was suppressed already")
