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
from datetime import timedelta
from pathlib import Path

from newsletter.housekeeping import Housekeeping
from newsletter.newsroom import Newsroom
from newsletter.processes import this_process

CHORES = ("requests", "notices", "reconcile", "purge", "fold")
"""What pages make necessary, and what keeps the database small, of `newsletter.housekeeping`."""

LOOK_AGAIN = timedelta(seconds=2)
_STARTED_AGAIN = timedelta(seconds=5)  # after the other process has ended by itself
_log = logging.getLogger("newsletter.work")


class Work:
    """Does these chores when they are due, again and again."""

    def __init__(self, newsroom: Newsroom, over: threading.Event | None = None) -> None:
        self._newsroom = newsroom
        self._over = over or threading.Event()
        self._chores = Housekeeping(newsroom, this_process(), self._over)

    def run(self) -> None:
        """Go on until it is over, whatever fails."""
        while not self._over.is_set():
            self.once()
            now = self._newsroom.clock()
            wait = (self._chores.next_due(now, CHORES) - now).total_seconds()
            self._over.wait(min(max(wait, 0.1), LOOK_AGAIN.total_seconds()))  # the wall clock may be set back meanwhile

    def once(self) -> bool:
        """Do all that is due, each thing whatever becomes of the others. False where one of them failed."""
        return all(ran.ok for ran in self._chores.run_due(CHORES))


class Beside:
    """The same in a process of its own, which ends with this one, and is started again where it ends by itself."""

    def __init__(self, config: Path, *, scheduler: bool = False) -> None:
        """Do the work; or, as a `scheduler`, all that goes on by the clock, which holds it."""
        verb = ["scheduler"] if scheduler else ["notices", "work"]
        self._command = [sys.executable, "-m", "newsletter", *verb, "--with-parent", "--config", str(config)]
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
