"""The command `newsletter`: the Newsroom's verbs for the shell.

It reads arguments, opens the Newsroom, and prints. A user's mistake is one plain line and exit code 2; what failed
otherwise is one line and exit code 1; a refused brief of `briefs read` is 1, too. Heavy modules are loaded by the
command that needs them.

Here the commands are put together, and errors become lines and exit codes. Each group is a module of its own; what
they share is `_shell`.
"""

import io
import os
import sys
from contextlib import suppress
from typing import Annotated, NoReturn

import typer

from newsletter import __version__
from newsletter.cli import (
    briefs,
    clock,
    database,
    editions,
    lists,
    looking,
    people,
    provider,
    sending,
    serving,
    sources,
    starting,
)
from newsletter.cli._shell import FAILED, INTERRUPTED, MISTAKE
from newsletter.errors import ConfigurationError, NewsletterError

_INTERRUPTED = "interrupted; run it again to go on where it stopped"

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def _version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Compile a news desk's briefs into an e-mail digest, and see it into every recipient's hands, once."""


# In the order in which --help lists them.
app.command()(starting.init)
app.command()(starting.doctor)
app.command()(briefs.collect)
app.command()(sending.preview)
app.command()(sending.send)
app.command()(clock.scheduler)
app.command()(sending.halt)
app.command()(sending.unhalt)
app.command()(serving.serve)
app.command()(looking.status)
app.command()(looking.alarms)
app.command()(looking.reload)
app.add_typer(sources.app, name="sources")
app.add_typer(briefs.app, name="briefs")
app.add_typer(clock.app, name="schedule")
app.add_typer(editions.app, name="editions")
app.add_typer(provider.app, name="provider")
app.add_typer(database.app, name="db")
app.add_typer(lists.app, name="lists")
app.add_typer(people.app, name="subscribers")
app.add_typer(serving.app, name="notices")


def main() -> NoReturn:
    """Run the command; never a traceback for a user's mistake."""
    _ready_output()
    # Newer typers carry a click of their own, whose errors are not those of the package click.
    click = sys.modules[typer.BadParameter.__module__]
    try:
        _finish(app(standalone_mode=False, prog_name="newsletter") or 0)
    except click.UsageError as error:
        if error.ctx is not None and error.message == error.ctx.get_help():  # a command group by itself
            print(error.message)
            sys.exit(MISTAKE)
        _complain(error.format_message(), MISTAKE)
    except click.ClickException as error:
        _complain(error.format_message(), error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        _complain(_INTERRUPTED, INTERRUPTED)
    except BrokenPipeError:
        _drop_output()
        sys.exit(FAILED)
    except (ConfigurationError, NewsletterError) as error:
        _complain(str(error), MISTAKE)
    except Exception as error:
        said = _said_elsewhere(error)
        if said is None:
            raise
        if isinstance(error, OSError):
            _drop_output()  # it may be the output's own fault, which would come again at the exit
        _complain(*said)


def _finish(code: int) -> NoReturn:
    sys.stdout.flush()  # here, where a reader that has gone away is no surprise
    if code == INTERRUPTED:  # typer's own answer to Ctrl-C
        _complain(_INTERRUPTED, INTERRUPTED)
    sys.exit(code)


def _ready_output() -> None:
    """Make the output one that takes every character; give it and the input a stand-in where the caller closed them."""
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115 # open to the end
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 # the same
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _drop_output() -> None:
    """Send what is still to be written nowhere."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _said_elsewhere(error: Exception) -> tuple[str, int] | None:
    """The sentence and exit code for errors of packages below, None for a bug of ours."""
    module = type(error).__module__
    if module.startswith("subscribers."):
        return str(error), MISTAKE
    if module.startswith("sqlalchemy.") and (cause := getattr(error, "orig", None)) is not None:
        if "readonly" in str(cause):
            return f"the database: {cause}: look at the modes of the file, its -wal and -shm, and its folder", FAILED
        return f"the database: {cause}; what was committed is safe, run it again", FAILED
    if isinstance(error, OSError):
        return f"{error.filename or 'the system'}: {error.strerror or error}", FAILED
    return None


def _complain(what: str, code: int) -> NoReturn:
    print(f"newsletter: {' '.join(what.split())}", file=sys.stderr)
    if code == INTERRUPTED:  # at once: a thread that waits for a server would hold up the exit until it answers
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(code)
    sys.exit(code)
