"""How it stands, and asking the processes that run the clock to read their configuration again."""

from typing import Annotated

import typer

from newsletter.cli._shell import DEFAULT, FAILED, AsJson, Config, opened, print_json, print_lines


def status(config: Config = DEFAULT, as_json: AsJson = False) -> None:
    """Show what runs, what is open, what waits and what is wrong. Exit code 1 where a person should look into it."""
    from newsletter import status as looked

    with opened(config) as newsroom:
        found = looked.look(newsroom)
    if as_json:
        print_json(looked.as_json(found))
    else:
        print_lines(looked.lines(found))
    if found.faults:
        raise typer.Exit(FAILED)


def alarms(
    every: Annotated[bool, typer.Option("--all", help="Also those that are over, the latest hundred.")] = False,
    config: Config = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """List what must be looked into, as it was found last."""
    from newsletter import alarms as found
    from newsletter import report

    with opened(config) as newsroom:
        listed = found.listed(newsroom, 100 if every else None)
    if as_json:
        print_json([report.alarm_json(alarm) for alarm in listed])
    else:
        print_lines(report.alarm_lines(listed))


def reload(
    wait: Annotated[int, typer.Option(help="How many seconds to wait for the answers.", min=0, max=600)] = 15,
    config: Config = DEFAULT,
) -> None:
    """Have the scheduler read the configuration again, wherever it runs. One with a mistake in it is refused here.

    Exit code 1 where a process did not take it, or none runs.
    """
    from datetime import timedelta

    from newsletter import presence

    with opened(config) as newsroom:
        answers = presence.reload(newsroom, timedelta(seconds=wait))
    for answer in answers:
        print(f"{answer.name}: " + ("took it" if answer.took else f"kept the one before: {answer.fault}"))
    if not answers:
        print("no scheduler runs: one reads the configuration when it starts")
    if not answers or not all(answer.took for answer in answers):
        raise typer.Exit(FAILED)
