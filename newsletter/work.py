"""The work that goes on beside serving pages: requests settled, notices sent, what has had its time taken away.

One thread. What it does is on record before and after, so that any number of processes may run it on one database, and
one that is killed is made up for by the next.
"""

import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from newsletter import notices
from newsletter.errors import ConfigurationError, NewsletterError
from newsletter.newsroom import Newsroom
from subscribers import purge, transaction

LOOK_AGAIN = timedelta(seconds=5)  # for what other processes wrote down; what this one takes wakes it at once
PURGE_EVERY = timedelta(hours=1)
AFTER_A_FAULT = timedelta(seconds=30)
_log = logging.getLogger("newsletter.work")


class Work:
    """The thread. `due` is set by whoever has just written something down for it."""

    def __init__(self, newsroom: Newsroom, due: threading.Event) -> None:
        self._newsroom, self._due = newsroom, due
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="newsletter-work", daemon=True)
        self._purge_at = 0.0

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after what is being done."""
        self._over.set()
        self._due.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._over.is_set():
            wait = LOOK_AGAIN if self.once() else AFTER_A_FAULT
            self._due.wait(wait.total_seconds())
            self._due.clear()

    def once(self) -> bool:
        """Do all that is due, each thing whatever becomes of the others. False where one of them failed."""
        went = [self._try(task) for task in (self._settle, self._purge, self._send)]
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

    def _purge(self) -> None:
        if time.monotonic() >= self._purge_at:
            self._purge_at = time.monotonic() + PURGE_EVERY.total_seconds()
            purge_all(self._newsroom)


def purge_all(newsroom: Newsroom) -> int:
    """Take away all that has had its time, in short transactions. Gives how many rows."""
    kept = newsroom.settings.subscribers
    total = 0
    while True:
        with transaction(newsroom.engine) as session:
            now = newsroom.clock()
            purged = purge(session, now=now, request_lasts=kept.request_lasts, keep_origin=kept.keep_origin).total
            purged += notices.purge(session, now)
        total += purged
        if not purged:
            return total
