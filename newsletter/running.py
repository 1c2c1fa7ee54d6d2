"""What a process that runs the clock goes by: one configuration, its Newsroom, Clock and chores; reloaded whole.

A configuration that is wrong is refused, and the one before stays. A new one takes effect at once: what an edition that
is under way has out is finished, and the rest goes on by the new one.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from sqlalchemy.exc import DBAPIError

from newsletter import presence
from newsletter.clock import Clock
from newsletter.errors import ConfigurationError
from newsletter.housekeeping import Housekeeping
from newsletter.metrics import Lookout, Server
from newsletter.newsroom import Newsroom
from newsletter.settings import Settings

_log = logging.getLogger("newsletter.running")
_WOUND_UP = timedelta(minutes=5)  # chores of an earlier configuration end by then
_SAID_AGAIN = timedelta(minutes=5)  # what stands against everything


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Running:
    """One configuration at work. Use `Running.open`, then `reload` for another, and `close` at the end."""

    newsroom: Newsroom
    clock: Clock
    house: Housekeeping
    variables: Mapping[str, str]
    _retired: list[tuple[Newsroom, datetime]] = field(default_factory=list)
    _told_at: datetime | None = None
    _ticked_at: datetime | None = None
    _seen_at: datetime | None = None
    _server: Server | None = None

    @classmethod
    def open(cls, file: Path, variables: Mapping[str, str], now: Callable[[], datetime] = _now) -> Self:
        """Read the configuration and open the database. Raises ConfigurationError."""
        newsroom = Newsroom.open(Settings.load(file, variables), now)
        clock = Clock(newsroom)
        running = cls(newsroom, clock, Housekeeping(newsroom, clock.owner, clock.stop), variables)
        running._listen()  # its own class
        presence.register(newsroom, clock.owner)
        return running

    def _listen(self) -> None:
        if (address := self.newsroom.settings.clock.listen) is not None:
            self._server = Server(address, Lookout(lambda: self.newsroom, lambda: self._ticked_at))

    def tick(self) -> bool:
        """Say that the process lives, and read the configuration again where somebody asked for it. True if it did."""
        self._ticked_at = now = self.newsroom.clock()
        if self._seen_at is None or not timedelta() <= now - self._seen_at < presence.SEEN_EVERY:
            presence.seen(self.newsroom, self.clock.owner)
            self._seen_at = now
        asked = presence.reload_wanted(self.newsroom, self.clock.owner)
        if asked is None:
            return False
        fault = self.reload()
        presence.loaded(self.newsroom, self.clock.owner, asked, fault)
        return fault is None

    def may_act(self) -> bool:
        """Whether this process may do anything by itself: not on a database that may be a copy, or that is away.

        What stands against it is told in the log, again and again.
        """
        try:
            self.clock.refuse_if_elsewhere()
        except ConfigurationError as error:
            what = str(error)
        except DBAPIError as error:
            what = f"the database: {error.orig}"
        else:
            self._told_at = None
            return True
        now = self.newsroom.clock()
        if self._told_at is None or not timedelta() <= now - self._told_at < _SAID_AGAIN:
            self._told_at = now
            _log.error("running.stopped: %s", what)
        return False

    def reload_told(self) -> bool:
        """The same as `reload`, on record for whoever looks. True where another configuration was taken."""
        fault = self.reload()
        presence.loaded(self.newsroom, self.clock.owner, self.newsroom.clock(), fault)
        return fault is None

    def reload(self) -> str | None:
        """Go by the configuration as it is now. Gives why not, where it is wrong: then all stays as it was.

        Where it tells how it fares (`clock.listen`) is for a new process to change.
        """
        try:
            newsroom = Newsroom.open(Settings.load(self.newsroom.settings.file, self.variables), self.newsroom.clock)
        except ConfigurationError as error:
            _log.error("running.reload.refused: %s; the configuration before stays", error)  # a sentence
            return str(error)
        before, stop = self.newsroom, self.clock.stop
        # What is in this process's hands is told apart by the clock's own record of it, which goes over.
        clock = replace(self.clock, newsroom=newsroom, stop=threading.Event())
        self.newsroom, self.clock = newsroom, clock
        self.house = Housekeeping(newsroom, clock.owner, clock.stop)
        stop.set()
        self._retired.append((before, newsroom.clock()))
        _log.warning("running.reload.taken: %s", newsroom.settings.file)
        return None

    def put_away(self) -> None:
        """Close what earlier configurations opened, once nothing is under way by them any more."""
        now = self.newsroom.clock()
        if self._retired and self.clock.is_idle:
            for newsroom, since in [one for one in self._retired if not timedelta() <= now - one[1] < _WOUND_UP]:
                newsroom.close()
                self._retired.remove((newsroom, since))

    def close(self) -> None:
        """Give back the database and the connections."""
        if self._server is not None:
            self._server.close()
        presence.left(self.newsroom, self.clock.owner)
        for newsroom, _ in self._retired:
            newsroom.close()
        self.newsroom.close()
