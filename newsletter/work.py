"""The work that goes on beside serving pages: requests settled, notices sent, what has had its time taken away.

Also what nobody waits for: copies of which nobody knew are settled by what events tell, and old editions are folded.

It goes on in a process of its own, at its own pace, so that no page is quick or slow by what an address that was typed
into it makes of this work: nobody can be told from a stranger that way. What it does is on record before and after; any
number of processes may do it on one database, and one that is killed is made up for by the next.
"""

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from newsletter import notices, operating, outcomes
from newsletter.errors import ConfigurationError, NewsletterError
from newsletter.newsroom import Newsroom
from subscribers import purge, transaction

LOOK_AGAIN = timedelta(seconds=2)
PURGE_EVERY = timedelta(hours=1)
FOLD_EVERY = timedelta(hours=1)
AFTER_A_FAULT = timedelta(seconds=30)
_STARTED_AGAIN = timedelta(seconds=5)  # after the other process has ended by itself
_log = logging.getLogger("newsletter.work")


class Work:
    """Does the work, again and again."""

    def __init__(self, newsroom: Newsroom) -> None:
        self._newsroom = newsroom
        self._purge_at = self._fold_at = 0.0

    def run(self, over: threading.Event) -> None:
        """Go on until it is over, whatever fails."""
        while not over.is_set():
            over.wait((LOOK_AGAIN if self.once() else AFTER_A_FAULT).total_seconds())

    def once(self) -> bool:
        """Do all that is due, each thing whatever becomes of the others. False where one of them failed."""
        went = [self._try(task) for task in (self._settle, self._purge, self._send, self._reconcile, self._fold)]
        return all(went)

    def _try(self, task: Callable[[], None]) -> bool:
        try:
            task()
        except (NewsletterError, ConfigurationError) as error:
            _log.error("work.stopped: %s", error)  # a sentence for the operator
            return False
        except Exception:  # noqa: BLE001 # a bug costs this turn; the next may fare better, and nothing is lost
            _log.exception("work.broken")
            return False
        return True

    def _settle(self) -> None:
        notices.settle_requests(self._newsroom.engine, self._newsroom.settings, self._newsroom.clock)

    def _send(self) -> None:
        newsroom = self._newsroom
        notices.Sender(newsroom.engine, newsroom.settings, newsroom.provider, newsroom.clock).run()

    def _reconcile(self) -> None:
        self._newsroom.reconcile()

    def _fold(self) -> None:
        if time.monotonic() >= self._fold_at:
            operating.fold_due(self._newsroom)
            self._fold_at = time.monotonic() + FOLD_EVERY.total_seconds()

    def _purge(self) -> None:
        if time.monotonic() >= self._purge_at:
            self._purge_at = time.monotonic() + PURGE_EVERY.total_seconds()
            purge_all(self._newsroom)


class Beside:
    """The same in a process of its own, which ends with this one, and is started again where it ends by itself."""

    def __init__(self, config: Path) -> None:
        command = [sys.executable, "-m", "newsletter", "notices", "work", "--with-parent", "--config", str(config)]
        self._command = command
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="newsletter-work", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after what is being done."""
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.is_set():
            with subprocess.Popen(self._command, stdin=subprocess.PIPE) as process:  # noqa: S603 # this very program
                while process.poll() is None and not self._over.wait(0.2):
                    pass
            # Leaving the block closes its input, at whose end it ends, and waits for that.
            if not self._over.is_set():
                _log.error("work.ended: exit code %s; it is started again", process.returncode)
                self._over.wait(_STARTED_AGAIN.total_seconds())


def purge_all(newsroom: Newsroom) -> int:
    """Take away all that has had its time, in short transactions. Gives how many rows."""
    kept = newsroom.settings.subscribers
    total = 0
    while True:
        with transaction(newsroom.engine) as session:
            now = newsroom.clock()
            purged = purge(session, now=now, request_lasts=kept.request_lasts, keep_origin=kept.keep_origin).total
            purged += notices.purge(session, now)
            purged += outcomes.purge(session, newsroom.settings.dispatch.keep_events, now)
        total += purged
        if not purged:
            return total
