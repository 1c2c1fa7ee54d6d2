"""The scenarios: what is done to an edition before it may run out.

Each acts on one Trial and leaves it to be run out and judged. One that wants more kills than an edition lasts for is
repeated on fresh editions. Whatever is random is drawn from the trial's own generator, so that a seed says it all.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial

from faults import desk
from faults.desk import POSTGRESQL, SQLITE
from faults.nursery import Child
from faults.servers import MOMENTS, Manner
from faults.trial import OUTBOX, PROVIDERS, SENDGRID, SMTP, Trial
from faults.wrapped import BOUNDARIES, FILES, Fault

_QUICKLY = 0.05  # seconds: a back-off in scenarios that would spend minutes in them
_IN_BETWEEN = (0.02, 0.9)  # seconds after its start at which a run is hindered: before, in and after its first calls
_AN_HOUR = 3_600.0
_SERVED = (SENDGRID, SMTP)
_SHORT_LEASE = 3  # seconds
_PAUSES = ("random", "claim.committed", "call.before", "call.committed", "record.before")


@dataclass(frozen=True)
class Scenario:
    """What is done, and to what it applies. `kills` is how many are wanted in all; 0: it runs once."""

    name: str
    act: Callable[[Trial, int], None]
    kills: int = 0
    providers: tuple[str, ...] = PROVIDERS
    databases: tuple[str, ...] = (SQLITE, POSTGRESQL)
    settings: tuple[str, ...] = ()  # lines for the provider's table
    dispatch: str = ""


def scenarios(kills: int, each: int) -> list[Scenario]:
    """All of them: `kills` at random instants, and `each` at every boundary."""
    short = ('timeout = "1s"',)
    lease = f'lease = "{_SHORT_LEASE}s"'
    return [
        Scenario("killed at random", at_random, kills),
        Scenario("two at once, killed", two_at_once, each * 4),
        *(
            Scenario(f"killed at {at}", partial(at_boundary, at), 1 if at.startswith("freeze") else each)
            for at in BOUNDARIES  # an edition has one freeze, so that each further kill would take another one
        ),
        *(Scenario(f"killed at {at}", partial(at_boundary, at), each, (OUTBOX,)) for at in FILES),
        *(Scenario(f"killed by server: {at}", partial(by_server, at), each, _SERVED) for at in MOMENTS),
        Scenario("events settle the unknown", told_of, each * 2, (SENDGRID,)),
        Scenario("429 storms", partial(hindered, throttled), 0, (SENDGRID,)),
        Scenario("temporary refusals", partial(hindered, later), 0, (SMTP,)),
        Scenario("5xx", partial(hindered, failing), 0, (SENDGRID,)),
        Scenario("servers that hang", partial(hindered, hanging), 0, _SERVED, settings=short),
        Scenario("resets at random bytes", partial(hindered, cut), 0, _SERVED),
        *(Scenario(f"paused at {at}", partial(paused, at), settings=short, dispatch=lease) for at in _PAUSES),
        Scenario("a clock that jumps", jumping),
        Scenario("ended by SIGTERM", terminated),
        Scenario("cancelled in the middle", cancelled),
        Scenario("database locked", locked),
        Scenario("disk full", full, databases=(SQLITE,)),
        Scenario("database connections cut", disconnected, databases=(POSTGRESQL,)),
    ]


# ---------------------------------------------------------------------------------------------- kills


def at_random(trial: Trial, wanted: int) -> None:
    """SIGKILL at any instant."""
    while trial.kills < wanted and not trial.over:
        child = trial.start()
        _kill_some_time(trial, child)


def two_at_once(trial: Trial, wanted: int) -> None:
    """Two dispatchers on one edition, of which now one and now the other is killed and started anew."""
    pair = [trial.start(), trial.start()]
    while trial.kills < wanted and not trial.over:
        which = trial.chance.randrange(2)
        _kill_some_time(trial, pair[which])
        pair[which] = trial.start()
    for child in pair:
        trial.ended(child)


def _kill_some_time(trial: Trial, child: Child) -> None:
    """Kill a run at a random instant."""
    if not _let_some_time_pass(trial, child):
        child.signal(signal.SIGKILL)
    trial.ended(child)


def _let_some_time_pass(trial: Trial, child: Child) -> bool:
    """Wait to a random instant, counted from now or, however long a start and a freeze take here, from the next call.

    Whether the run has ended by itself.
    """
    seen = trial.progress()
    if trial.chance.random() < 1 / 2:
        _until(lambda: child.wait(0) or trial.progress() > seen, 10)
    return child.wait(trial.chance.uniform(*_IN_BETWEEN))


def told_of(trial: Trial, wanted: int) -> None:
    """SIGKILL, and then every event: whoever stays unknown got nothing, so that sending to them again harms nobody.

    The events prove each call that was taken whole. Of a request that was cut off there is nothing to tell; those
    people are sent to again on an operator's word, and nobody may be unknown, or have two copies, in the end.
    """
    at_random(trial, wanted)
    trial.run_out()
    trial.tell()
    trial.do("editions", "resolve", "daily", trial.stage.slot, "--as", "resend")
    trial.settled = True
    trial.run_out()


def at_boundary(at: str, trial: Trial, wanted: int) -> None:
    """A run kills itself at one of the first times that it comes to a moment."""
    while trial.kills < wanted and not trial.over:
        first = at.startswith("freeze")
        most = 300 if at.startswith("file") else 6
        trial.ended(trial.start(Fault(at, 1 if first else trial.chance.randint(1, most))))


def by_server(moment: str, trial: Trial, wanted: int) -> None:
    """The server kills the client at one of its first calls."""
    server = trial.server
    assert server is not None
    while trial.kills < wanted and not trial.over:
        at = server.calls + trial.chance.randint(1, 6 if trial.provider == SENDGRID else 300)

        def manner(at: int = at) -> Manner:
            return Manner(kill=moment) if server.calls == at else trial.usual()

        server.manner = manner
        trial.ended(trial.start())
        server.manner = trial.usual


# ---------------------------------------------------------------------------------------------- servers


def hindered(manner: Callable[[Trial], Manner | None], trial: Trial, wanted: int) -> None:
    """A server that misbehaves now and then, and a few kills. Back-offs are short, so that it ends."""
    del wanted
    assert trial.server is not None
    trial.server.manner = lambda: manner(trial) or trial.usual()
    for _ in range(3):
        child = trial.start(Fault(back_off=_QUICKLY))
        if not child.wait(trial.chance.uniform(0.3, 2)):
            child.signal(signal.SIGKILL)
        trial.ended(child)
    trial.run_out(lambda: Fault(back_off=_QUICKLY))


def throttled(trial: Trial) -> Manner | None:
    """Every twelfth call is told to wait for the next second."""
    if trial.chance.random() > 1 / 12:
        return None
    reset = int(time.time()) + 1
    return Manner(status=429, headers=("X-RateLimit-Remaining: 0", f"X-RateLimit-Reset: {reset}"))


def failing(trial: Trial) -> Manner | None:
    """Every twentieth call is answered with a 5xx, some of them after it was taken."""
    if trial.chance.random() > 1 / 20:
        return None
    return Manner(status=trial.chance.choice((500, 502, 503)), taken=trial.chance.random() < 1 / 2)


def later(trial: Trial) -> Manner | None:
    """One mail in two hundred is refused for now."""
    return Manner(status=451) if trial.chance.random() < 1 / 200 else None


def hanging(trial: Trial) -> Manner | None:
    """Some calls are taken, and never answered."""
    return Manner(ends="hang") if _rarely(trial) else None


def cut(trial: Trial) -> Manner | None:
    """Some connections are cut off somewhere in the body, or after it was taken."""
    if not _rarely(trial):
        return None
    return Manner(ends="drop") if trial.chance.random() < 1 / 4 else Manner(reset_at=trial.chance.random())


def _rarely(trial: Trial) -> bool:
    """True for about eight calls of an edition, of which SMTP has one for each mail."""
    calls = 200 if trial.provider == SENDGRID else len(trial.original.people.everybody)
    return trial.chance.random() < 8 / calls


# ---------------------------------------------------------------------------------------------- processes and time


def paused(at: str, trial: Trial, wanted: int) -> None:
    """A process is stopped, another goes on past the lease of the first, which then wakes up."""
    del wanted
    fault = None if at == "random" else Fault(at, trial.chance.randint(1, 4), signal.SIGSTOP)
    sleeper = trial.start(fault)
    if fault is None:
        sleeper.wait(trial.chance.uniform(*_IN_BETWEEN))
        sleeper.signal(signal.SIGSTOP)
    else:
        _until(lambda: sleeper.stopped or sleeper.wait(0), 10)
    trial.pauses += 1
    other = trial.start()
    other.wait(_SHORT_LEASE + 2)
    sleeper.signal(signal.SIGCONT)
    for child in (sleeper, other):
        trial.ended(child)


def jumping(trial: Trial, wanted: int) -> None:
    """Two processes whose clocks jump by up to an hour each half second, each by its own, with kills."""
    del wanted

    def fault() -> Fault:
        return Fault(jumps=_AN_HOUR, seed=trial.chance.getrandbits(32))

    for _ in range(6):
        pair = [trial.start(fault()), trial.start(fault())]
        if not pair[0].wait(trial.chance.uniform(0.3, 1.5)):
            pair[0].signal(signal.SIGKILL)
        trial.ended(pair[0])
        if not pair[1].wait(trial.chance.uniform(0, 0.5)):
            pair[1].signal(signal.SIGKILL)
        trial.ended(pair[1])
    trial.run_out(fault)


def terminated(trial: Trial, wanted: int) -> None:
    """SIGTERM, again and again: the calls that are out are finished, so that nothing is unknown."""
    del wanted
    for _ in range(8):
        if trial.over:
            return
        child = trial.start()
        if not child.wait(trial.chance.uniform(*_IN_BETWEEN)):
            child.signal(signal.SIGTERM)
        trial.ended(child)


def cancelled(trial: Trial, wanted: int) -> None:
    """An operator ends the edition while it is dispatched: whoever is on record as cancelled got nothing."""
    del wanted
    child = trial.start()
    _until(lambda: desk.state_of(trial.url) == ("dispatching", None), 10)
    time.sleep(trial.chance.uniform(0.05, 0.5))
    if not trial.over:
        trial.do("editions", "cancel", "daily", trial.stage.slot, "--yes")
    trial.ended(child)


# ---------------------------------------------------------------------------------------------- databases


def locked(trial: Trial, wanted: int) -> None:
    """Another process holds the database for 15 s while calls are out: nobody's answer is lost."""
    del wanted
    child = trial.start()
    _until(lambda: desk.state_of(trial.url) == ("dispatching", None), 10)
    time.sleep(trial.chance.uniform(0.05, 0.4))
    with _holding(trial.url):
        child.wait(15)
    trial.ended(child)


@contextmanager
def _holding(url: str) -> Iterator[None]:
    """Hold the right to write."""
    if url.startswith("sqlite:"):
        import sqlite3

        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=5, isolation_level=None)) as file:
            file.execute("BEGIN IMMEDIATE")
            yield
        return
    import psycopg

    from subscribers import db

    with psycopg.connect(url) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [db.WRITERS])
        yield


def full(trial: Trial, wanted: int) -> None:
    """The disk of the database fills up while calls are out, and is freed again, a few times. Needs root to mount one.

    The desk moves onto a file system of its own, of which a file takes all that is left.
    """
    del wanted
    disk = trial.folder / "disk"
    disk.mkdir()
    size = (trial.folder / "newsletter.db").stat().st_size + 24_000_000
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], check=True)
    try:
        shutil.move(trial.folder / "newsletter.db", disk / "newsletter.db")
        config = trial.config.read_text(encoding="utf-8")
        trial.config.write_text(config.replace("[database]\n", '[database]\nurl = "sqlite:///disk/newsletter.db"\n'))
        trial.url = f"sqlite:///{disk}/newsletter.db"
        for _ in range(4):
            child = trial.start()
            child.wait(trial.chance.uniform(0.1, 0.6))
            with open(disk / "ballast", "wb", buffering=0) as ballast:  # noqa: PTH123 # unbuffered
                try:
                    while True:
                        ballast.write(bytes(4_096))
                except OSError:
                    pass
            child.wait(trial.chance.uniform(0.5, 2))
            (disk / "ballast").unlink()
            trial.ended(child)
        trial.run_out()
    finally:
        trial.come_home(disk)


def disconnected(trial: Trial, wanted: int) -> None:
    """The database server cuts every connection, again and again, as one that is restarted does."""
    del wanted
    child = trial.start()
    while not trial.over:
        _let_some_time_pass(trial, child)
        with desk.asking(trial.url) as ask:
            ask(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        if child.wait(0):
            trial.ended(child)
            child = trial.start()
    trial.ended(child)


def _until(condition: Callable[[], object], seconds: float) -> None:
    """Wait until something is so, at most so long."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and not condition():
        time.sleep(0.01)


def needs_root(scenario: Scenario) -> bool:
    """Whether this user cannot run a scenario."""
    return scenario.act is full and os.geteuid() != 0
