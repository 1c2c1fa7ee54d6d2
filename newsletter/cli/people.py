"""The people on the lists."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from newsletter.cli import transferring
from newsletter.cli._shell import DEFAULT, FAILED, MISTAKE, AsJson, Config, actor, opened, print_json, print_lines
from newsletter.errors import ConfigurationError

if TYPE_CHECKING:
    from newsletter.newsroom import Newsroom

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The people on the lists.")

Address = Annotated[str, typer.Argument(metavar="ADDRESS")]
Note = Annotated[str | None, typer.Option(help="Why, for the record.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


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
    from newsletter import people, roster

    wanted = [(f"address {number}", text) for number, text in enumerate(mailboxes or (), start=1)]
    if source is not None:
        wanted += _people_of(source)
    if not wanted:
        raise ConfigurationError("name at least one address, or a file with --from")
    with opened(config) as newsroom:
        added = people.add(newsroom, wanted, list_of(newsroom, to), evidence=evidence, actor=actor())
    if as_json:
        print_json(roster.added_json(added))
    else:
        print_lines(roster.added_lines(added))
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


def list_of(newsroom: "Newsroom", slug: str | None) -> str:
    """The list that a command means. Raises ConfigurationError where it names none of several, or one that is not."""
    from newsletter import people

    known = [one.slug for one in people.lists(newsroom)]
    if slug is None:
        if len(known) > 1:
            raise ConfigurationError(f"name a list with --list: {', '.join(known)}")
        return known[0]
    if slug not in known:
        raise ConfigurationError(f"there is no list “{slug}” (there is: {', '.join(known)})")
    return slug


app.command("import")(transferring.import_)
app.command("export")(transferring.export)


@app.command("invite")
def subscribers_invite(
    to: Annotated[str | None, typer.Option("--list", metavar="SLUG", help="The only list where there is one.")] = None,
    limit: Annotated[int | None, typer.Option(help="How many at the most.", min=1)] = None,
    config: Config = DEFAULT,
) -> None:
    """Mail those who were added pending the link that confirms, each once, so many an hour as the settings allow."""
    from newsletter import people, roster
    from newsletter.notices import Sender

    with opened(config) as newsroom:
        slug = list_of(newsroom, to)
        invited, left = people.invite(newsroom, slug, limit=limit, actor=actor())
        came_to = Sender(newsroom.engine, newsroom.settings, newsroom.provider, newsroom.clock).run()
        print_lines(roster.invited_lines(slug, invited, left, newsroom.settings.subscribers.invites_per_hour))
        print_lines(roster.notices_sent_lines(came_to))


@app.command("show")
def subscribers_show(address: Address, config: Config = DEFAULT, as_json: AsJson = False) -> None:
    """Show all that is held about an address: where it stands, and the consent log. Exit code 1 where nothing is."""
    from newsletter import people, roster

    with opened(config) as newsroom:
        person = people.show(newsroom, address)
    if as_json:
        print_json(roster.person_json(person))
    else:
        print_lines(roster.person_lines(person))
    if person.subscriber is None and person.suppressed is None:
        raise typer.Exit(FAILED)


@app.command("find")
def subscribers_find(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="A part of an address or a name.")],
    limit: Annotated[int, typer.Option(help="How many at the most.", min=1)] = 50,
    config: Config = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Find people by a part of their address or name. Exit code 1 where there is none."""
    from newsletter import people, roster

    with opened(config) as newsroom:
        found = people.find(newsroom, text, limit)
    if as_json:
        print_json([{"address": one.address, "name": one.name, "confirmed_lists": count} for one, count in found])
    else:
        print_lines(roster.found_lines(found, limit))
    if not found:
        raise typer.Exit(FAILED)


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


@app.command("unsubscribe")
def subscribers_unsubscribe(
    address: Annotated[str | None, typer.Argument(metavar="[ADDRESS]")] = None,
    to: Annotated[str | None, typer.Option("--list", metavar="SLUG", help="All lists where left out.")] = None,
    from_mail: Annotated[
        bool, typer.Option("--from-mail", help="Read a mail to the leave_mailbox from standard input.")
    ] = False,
    config: Config = DEFAULT,
) -> None:
    """Take a person off a list, or off all, at their wish."""
    from newsletter import people

    if (address is None) is not from_mail:
        raise ConfigurationError("name an address, or use --from-mail for a mail on standard input")
    with opened(config) as newsroom:
        if address is None:
            ended = people.leave_by_mail(newsroom, _subject())
        else:
            ended = people.leave(newsroom, address, to, actor=actor())
    print(f"{ended} subscription{'' if ended == 1 else 's'} ended")


def _subject() -> str:
    from email import message_from_bytes
    from email.policy import default

    mail = message_from_bytes(sys.stdin.buffer.read(1_000_000), policy=default)
    return str(mail["Subject"] or "")


@app.command("suppress")
def subscribers_suppress(address: Address, note: Note = None, config: Config = DEFAULT) -> None:
    """Never mail an address again, whatever any list says."""
    from newsletter import people

    with opened(config) as newsroom:
        new = people.suppress(newsroom, address, actor=actor(), note=note)
    print("suppressed" if new else "was suppressed already")


@app.command("unsuppress")
def subscribers_unsuppress(address: Address, note: Note = None, config: Config = DEFAULT) -> None:
    """Lift what stands against mailing an address. After a complaint the person must then ask to join again."""
    from newsletter import people, roster

    with opened(config) as newsroom:
        print(roster.unsuppressed_line(people.unsuppress(newsroom, address, actor=actor(), note=note)))


@app.command("forget")
def subscribers_forget(address: Address, yes: Yes = False, config: Config = DEFAULT) -> None:
    """Erase a person at their wish. A keyed hash of the address stays, so that no import mails them again."""
    from newsletter import people

    question = "Erase that person for good? What was sent stays counted; nothing else of them stays readable"
    if not yes and not typer.confirm(question):
        raise typer.Exit(MISTAKE)
    with opened(config) as newsroom:
        erased = people.forget_address(newsroom, address, actor=actor())
    print("erased" if erased else "was erased already")


@app.command("stats")
def subscribers_stats(config: Config = DEFAULT, as_json: AsJson = False) -> None:
    """Show how the lists stand: people, states, suppressions, joins and leavings of 30 days, what waits."""
    from newsletter import people, roster

    with opened(config) as newsroom:
        stats = people.stats(newsroom)
    if as_json:
        print_json(roster.stats_json(stats))
    else:
        print_lines(roster.stats_lines(stats))
