"""The clock: settings -> Newsroom -> APScheduler. Start it once and forget it: `python scheduler.py [newsletter.toml]`.

APScheduler says when somebody looks; what is due then the database says, so that it does not matter how many of these
run, or when one was killed. SIGHUP reads the configuration again; SIGTERM and Ctrl-C end after the calls that are out.
"""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import Any

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.base import ConflictingIdError
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.date import DateTrigger
from apscheduler.triggers.interval import IntervalTrigger
from sqlalchemy.exc import DBAPIError

from newsletter import agenda
from newsletter.errors import ConfigurationError
from newsletter.running import Running
from newsletter.settings import DEFAULT_FILE, Newsletter

_log = logging.getLogger("newsletter.scheduler")
_LOOK_AHEAD = timedelta(seconds=2)
_MET_BEFORE = timedelta(seconds=30)  # less than a slot is met ahead of its draft
_EDITIONS_AT_ONCE = 16  # one that takes an hour to go out holds up nobody
_DRAFTS_AT_ONCE = 4  # there is time enough, and what goes out meanwhile needs the processor
_ROWS_ANEW = timedelta(seconds=20)
_JUMP_S = 2.0  # of the machine's clock: more than it is ever slewed in a second


class SlotTrigger(BaseTrigger):  # type: ignore[misc] # APScheduler ships no types
    """Fires a little before the next edition of a newsletter is to be drafted, so that its slot is on record by then.

    APScheduler's own cron knows no skipped hours.
    """

    def __init__(self, newsletter: Newsletter) -> None:
        self._newsletter = newsletter

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """The instant in UTC; None where the schedule has come to its end."""
        after = previous_fire_time or now
        begins = (agenda.drafted_from(self._newsletter, slot) for slot in self._newsletter.timetable.upcoming(after))
        return next((at - _MET_BEFORE for at in begins if at - _MET_BEFORE > after), None)


def _told(job: Callable[..., Any]) -> Callable[..., Any]:
    """A job whose faults cost that one time: a database that is away is one line in the log."""

    @wraps(job)
    def run(*arguments: object) -> Any:
        try:
            return job(*arguments)
        except DBAPIError as error:
            _log.error("scheduler.stopped: the database: %s", error.orig)  # a sentence for the operator
        except Exception:  # noqa: BLE001 # a bug costs this time, never the process
            _log.exception("scheduler.broken")
        return None

    return run


class Scheduler:
    """Runs what one configuration asks for, until it is over. Its jobs are a projection: of schedules, and of rows."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._over, self._reload = threading.Event(), threading.Event()
        self._to_meet: set[str | None] = set()  # newsletters; None: all of them
        self._looked_at: dict[tuple[str, ...], datetime] = {}  # at the chores of a group
        drafts, editions = ThreadPoolExecutor(_DRAFTS_AT_ONCE), ThreadPoolExecutor(_EDITIONS_AT_ONCE)
        self._jobs = BackgroundScheduler(
            executors={"default": ThreadPoolExecutor(4), "drafts": drafts, "editions": editions},
            job_defaults={"coalesce": True, "misfire_grace_time": None, "max_instances": 1},
            timezone=UTC,
        )

    def run(self) -> None:
        """Go on until SIGTERM or Ctrl-C; a second one ends at once."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._end)
        signal.signal(signal.SIGHUP, lambda *_: self._reload.set())
        self._arrange()
        self._jobs.start()
        wall = time.time() - time.monotonic()
        while not self._over.wait(1):
            shift = time.time() - time.monotonic()
            if self._tick() or abs(shift - wall) > _JUMP_S:  # APScheduler waits by the wall clock that it knew
                self._arrange()
            wall = shift
            self._look()
        self._running.clock.stop.set()
        self._jobs.shutdown(wait=True)
        self._running.close()

    def _end(self, *_: object) -> None:
        if self._over.is_set():
            os._exit(130)  # no thread that waits for a provider holds it up; what is out then is unknown, and listed
        self._over.set()
        self._running.clock.stop.set()

    @_told
    def _tick(self) -> bool:
        """Whether another configuration was taken."""
        taken = self._reload.is_set() and self._running.reload_told()
        self._reload.clear()
        return self._running.tick() or taken

    def _arrange(self) -> None:
        """Make the jobs anew: one a newsletter, at the times when its editions are drafted; and those of the chores."""
        self._jobs.remove_all_jobs()
        for name, newsletter in self._running.newsroom.settings.newsletters.items():
            self._jobs.add_job(self._meet, SlotTrigger(newsletter), [name], id=f"slot:{name}")
        self._jobs.add_job(self._meet, IntervalTrigger(minutes=10), id="slots", next_run_time=datetime.now(UTC))
        for names in self._running.house.groups:
            self._jobs.add_job(self._keep_house, IntervalTrigger(seconds=2), [names], id=f"house:{names[0]}")

    def _meet(self, name: str | None = None) -> None:
        """Have slots met at the next look: those of all newsletters that are drafted at one time together.

        A job must not make jobs: `shutdown` waits for jobs while it holds the lock that making one takes.
        """
        self._to_meet.add(name)

    @_told
    def _attend(self, edition_id: int, drafts: bool) -> None:
        self._running.clock.attend(edition_id, until_drafted=drafts)

    @_told
    def _look(self) -> None:
        """Meet slots, and make a job of each edition that is to be attended to, at its very instant."""
        if not self._running.may_act():
            return
        if names := self._to_meet.copy():
            self._running.clock.meet(None if None in names else [name for name in names if name is not None])
            self._to_meet -= names
        now = datetime.now(UTC)
        for one in self._running.clock.due(now + _LOOK_AHEAD):
            trigger, name = DateTrigger(max(one.at or now, now)), f"edition:{one.edition_id}"
            executor = "drafts" if one.planned else "editions"
            with suppress(ConflictingIdError):
                self._jobs.add_job(self._attend, trigger, [one.edition_id, one.planned], id=name, executor=executor)
        self._running.clock.tell()
        self._running.put_away()

    def _keep_house(self, names: tuple[str, ...]) -> None:
        house, now = self._running.house, datetime.now(UTC)
        looked = self._looked_at.get(names)
        # What other processes did is in the rows: they are read again, but not every two seconds.
        if looked is not None and timedelta() <= now - looked < _ROWS_ANEW and house.next_due(now, names) > now:
            return
        if self._running.may_act():
            self._looked_at[names] = now
            house.run_due(names)


def main(file: Path = DEFAULT_FILE) -> None:
    """Run the clock of a configuration. Raises ConfigurationError where it cannot even begin."""
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    scheduler = Scheduler(Running.open(file.absolute(), os.environ))
    print(f"the clock runs by {file}", flush=True)  # noqa: T201 # a command's output
    scheduler.run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        main(*(Path(argument) for argument in sys.argv[1:2]))
    except ConfigurationError as error:
        sys.exit(f"scheduler: {error}")
