"""The clock: the process that sends editions by itself, and when it will."""

import logging
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from newsletter.cli._shell import DEFAULT, AsJson, Config, actor, opened, outlive_nobody, print_json, print_lines
from newsletter.errors import ConfigurationError

_LOG = "%(asctime)s %(levelname)s %(name)s %(message)s"


class _OrName(TyperGroup):
    """Commands; any other first word is the name of a newsletter."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As any group does."""
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args = ["--name", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_OrName, rich_markup_mode=None, help="When editions go out, and slots beside the schedule.")
SlotToAdd = Annotated[str, typer.Option("--at", metavar="LOCAL", help="A slot, e.g. 2026-12-24T18:00, in its zone.")]
Whose = Annotated[str, typer.Argument(metavar="NAME", help="The newsletter's ID.")]


def scheduler(
    with_parent: Annotated[
        bool, typer.Option("--with-parent", help="End when standard input does, as `serve` asks for it.")
    ] = False,
    config: Config = DEFAULT,
) -> None:
    """Run the clock: draft, send and report editions on time, and keep house, until Ctrl-C or SIGTERM."""
    import os
    import signal

    import scheduler as clock

    if with_parent:
        outlive_nobody(lambda: os.kill(os.getpid(), signal.SIGTERM))

    logging.basicConfig(level=logging.WARNING, format=_LOG)
    clock.main(config)


@app.callback(invoke_without_command=True)
def schedule(
    context: typer.Context,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="One newsletter; all, left out.")] = None,
    count: Annotated[int, typer.Option("--next", metavar="N", help="How many of each.", min=1, max=1_000)] = 5,
    begin: Annotated[
        str | None, typer.Option("--from", metavar="UTC", help="From then on, e.g. 2026-12-24T00:00; now, left out.")
    ] = None,
    config: Config = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Show the next runs, as local slot and in UTC, and why any of them will be skipped."""
    if context.invoked_subcommand is not None:
        return
    from newsletter import timetable

    with opened(config) as newsroom:
        after = newsroom.clock() if begin is None else _instant(begin)
        names = [name] if name else list(newsroom.settings.newsletters)
        found = {one: timetable.runs(newsroom, one, after, count) for one in names}
        if as_json:
            print_json([timetable.run_json(run) for runs in found.values() for run in runs])
            return
        for one, runs in found.items():
            print_lines(timetable.lines(newsroom, one, runs))


def _instant(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"--from: expected a time such as 2026-12-24T00:00, found “{text}”") from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


@app.command("add")
def schedule_add(name: Whose, at: SlotToAdd, config: Config = DEFAULT) -> None:
    """Put a slot beside a newsletter's schedule: its edition goes out once, however near another is."""
    from newsletter import operating

    with opened(config) as newsroom:
        slot = operating.add_slot(newsroom, name, at, actor=actor())
    print(f"{name} goes out at {slot} {slot.zone}, {slot.instant:%Y-%m-%d %H:%M} UTC")


@app.command("remove")
def schedule_remove(name: Whose, at: SlotToAdd, config: Config = DEFAULT) -> None:
    """Take back a slot that was put beside the schedule."""
    from newsletter import operating

    with opened(config) as newsroom:
        slot = operating.remove_slot(newsroom, name, at, actor=actor())
    print(f"{name} does not go out at {slot}")
