"""What the commands share: their common options, the Newsroom opened for them, and how they print."""

import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from newsletter.newsroom import Newsroom
    from newsletter.settings import Settings

FAILED, MISTAKE, INTERRUPTED = 1, 2, 130

Config = Annotated[Path, typer.Option("--config", metavar="FILE", help="The configuration.", show_default=True)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for a script.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The newsletter's ID.")]
MaybeSlot = Annotated[str | None, typer.Option("--slot", metavar="LOCAL", help="A slot, e.g. 2026-11-23T07:00.")]
DEFAULT = Path("newsletter.toml")


def print_json(value: object) -> None:
    """Print a value for a script."""
    print(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def print_lines(lines: Iterable[str]) -> None:
    """Print lines for a person, each as soon as it is made."""
    for line in lines:
        print(line)


def actor() -> str:
    """Who runs the command, for the record."""
    import getpass

    try:
        return f"operator:{getpass.getuser()}"
    except (KeyError, OSError):
        return "operator"


def settings_of(file: Path) -> "Settings":
    """The settings of a configuration file and the environment."""
    from newsletter.settings import Settings

    return Settings.load(file, os.environ)


def outlive_nobody(end: Callable[[], None]) -> None:
    """Have something done when the process that started this one, and holds its standard input, is gone."""

    def watch() -> None:
        # Not sys.stdin: a thread that waits in it holds its lock, and Python aborts at its end over that.
        with suppress(OSError):
            while os.read(0, 4096):
                pass
        end()

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def opened(file: Path) -> Iterator["Newsroom"]:
    """The Newsroom of a configuration file, closed at the end."""
    settings = settings_of(file)  # first: a mistake in it is told before what follows is loaded
    from newsletter.newsroom import Newsroom

    with Newsroom.open(settings) as newsroom:
        if newsroom.backup:
            print(f"database brought up to date; a copy from before is {newsroom.backup}", file=sys.stderr)
        yield newsroom
