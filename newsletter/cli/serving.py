"""The web pages, and the notices that they ask for."""

import logging
import os
from typing import Annotated

import typer

from newsletter.cli._shell import DEFAULT, AsJson, Config, opened, outlive_nobody, print_json, print_lines
from newsletter.errors import ConfigurationError

_LOG = "%(asctime)s %(levelname)s %(name)s %(message)s"
app = typer.Typer(rich_markup_mode=None, help="Mails outside any edition: confirmations, links, welcomes.")


def serve(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 for any free one.", min=0, max=65_535)] = 8000,
    scheduler: Annotated[
        bool, typer.Option("--scheduler", help="Run the clock, too: editions go out by themselves.")
    ] = False,
    config: Config = DEFAULT,
) -> None:
    """Serve the pages that subscribers meet, and send the notices that they ask for. Ctrl-C or SIGTERM ends it."""
    import socket

    from newsletter import people
    from newsletter.web import app as web

    logging.basicConfig(level=logging.WARNING, format=_LOG)
    with opened(config) as newsroom:
        people.ensure_lists(newsroom)
        try:
            _ = newsroom.provider
        except ConfigurationError as error:  # told before anybody waits for a mail; leaving needs no provider
            logging.getLogger("newsletter").error("work.stopped: %s", error)  # noqa: TRY400 # a sentence for the operator
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listener = socket.create_server((host, port), family=family, backlog=512)
        except OSError as error:
            raise ConfigurationError(f"cannot listen on {host} port {port}: {os.strerror(error.errno or 0)}") from None
        with listener:
            shown = f"[{host}]" if ":" in host else host
            told = f"serving {newsroom.settings.site.name} at http://{shown}:{listener.getsockname()[1]}"
            web.serve(newsroom, listener, lambda: print(told, flush=True), scheduler=scheduler)


@app.callback(invoke_without_command=True)
def notices(
    context: typer.Context,
    limit: Annotated[int, typer.Option(help="How many, newest first.", min=1)] = 20,
    config: Config = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Show the latest notices, to subscribers and to the desk, and how each fared."""
    if context.invoked_subcommand is not None:
        return
    from newsletter import people, roster

    with opened(config) as newsroom:
        account = people.notices_account(newsroom, limit)
    if as_json:
        told = [roster.desk_notice_json(one) for one in account.desk]
        print_json([*(roster.notice_json(one) for one in account.latest), *told])
    else:
        print_lines(roster.notice_lines(account))


@app.command("work")
def notices_work(
    with_parent: Annotated[
        bool, typer.Option("--with-parent", help="End when standard input does, as `serve` asks for it.")
    ] = False,
    config: Config = DEFAULT,
) -> None:
    """Do what `serve` has done beside its pages, again and again, until Ctrl-C or SIGTERM."""
    import signal
    import threading

    from newsletter.work import Work

    logging.basicConfig(level=logging.WARNING, format=_LOG)
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())

    if with_parent:
        outlive_nobody(over.set)
    with opened(config) as newsroom:
        Work(newsroom, over).run()


@app.command("send")
def notices_send(config: Config = DEFAULT) -> None:
    """Settle the requests that came in and send the notices that are due, once. `serve` does so by itself."""
    import sys

    from newsletter import people, roster
    from newsletter.housekeeping import purge_all
    from newsletter.notices import Sender, settle_requests

    with opened(config) as newsroom:
        if not people.knows_erased(newsroom):
            print("newsletter: requests to join wait for the erasure key: see newsletter doctor", file=sys.stderr)
        try:
            settled = settle_requests(newsroom.engine, newsroom.settings, newsroom.clock)
            print(f"{roster.many(settled, 'request')} settled")
            came_to = Sender(newsroom.engine, newsroom.settings, newsroom.provider, newsroom.clock).run()
            print_lines(roster.notices_sent_lines(came_to))
        finally:  # what has had its time goes, whatever becomes of the sending
            if purged := purge_all(newsroom):
                print(f"{roster.many(purged, 'row')} had had their time, and are gone")
