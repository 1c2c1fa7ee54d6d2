"""Promises 1, 2, 4 and 13 on the real thing: `python scheduler.py` in processes of its own, killed, stopped, reloaded.

A slot that passed while nobody ran is made up for at once, so that no test waits for the hour; one slot of the next
minute is waited for, by the scheduler that reloads, while the other tests go on.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from pathlib import Path

import pytest

from newsletter import docket, store
from newsletter.settings import Settings
from subscribers import reading, transaction
from tests.conftest import Desk
from tests.smtp_server import Do, Manner, Session, SmtpServer

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
PATIENCE = 60.0  # seconds: of a crowded machine
READERS = 60


class Process:
    """A scheduler, as an operator starts it."""

    def __init__(self, desk: Desk) -> None:
        self.said = desk.folder / f"said-{time.monotonic_ns()}"
        with self.said.open("wb") as said:
            self._process = subprocess.Popen(
                [sys.executable, str(ROOT / "scheduler.py"), str(desk.file)], stdout=said, stderr=said, cwd=desk.folder
            )
        self.kill = self._process.kill

    def tells(self, words: str) -> bool:
        assert self._process.poll() is None, self.said.read_text()
        return words in self.said.read_text()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self) -> int:
        """Wait for its end, and give its exit code; minus the signal that ended it."""
        return self._process.wait(PATIENCE)

    @property
    def runs(self) -> bool:
        return self._process.poll() is None


def wait_for(what: Callable[[], object], seconds: float = PATIENCE) -> None:
    ends = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < ends, "it takes too long"
        time.sleep(0.05)


@pytest.fixture
def start() -> Iterator[Callable[[Desk], Process]]:
    """Starts schedulers that end with the test."""
    with ExitStack() as stack:

        def begin(desk: Desk) -> Process:
            made = Process(desk)
            stack.callback(made.end)
            stack.callback(made.kill)
            return made

        yield begin


def missed(minutes: int) -> str:
    """A schedule whose slot passed so many minutes ago. (Near midnight it is yesterday's, and as good.)"""
    passed = datetime.now(UTC) - timedelta(minutes=minutes)
    return f'schedule = "{passed.minute} {passed.hour} * * *"'


def prepare(
    desk: Desk, schedule: str, *, server: SmtpServer | None = None, people: int = READERS, minded: bool = True
) -> None:
    """A desk with people and news; one that was `minded` since yesterday makes up for what it missed."""
    desk.clock.now = datetime.now(UTC)
    newsroom = desk.open()
    with reading(newsroom.engine) as session:
        instance = store.instance(session).instance_id
    sets = [
        schedule,
        "[dispatch]",
        "per_second = 30",
        "calls = 2",
        'lease = "10s"',
    ]
    provider = (
        f'kind = "smtp"\nhost = "127.0.0.1"\nport = {server.port}\nsecurity = "none"\ntimeout = "5s"' if server else ""
    )

    def change(whole: str) -> str:
        whole = whole.replace('schedule = "0 7 * * *"', "\n".join(sets) + f'\n[database]\ninstance = "{instance}"\n')
        return whole.replace('kind = "outbox"', provider) if server else whole

    desk.configure(change)
    desk.brief("harbour", day=datetime.now(UTC).day)
    desk.people(newsroom, people)
    if minded:
        since, schedule = (
            datetime.now(UTC) - timedelta(hours=20),
            str(Settings.load(desk.file, {}).newsletter("daily").timetable),
        )
        with transaction(newsroom.engine) as session:
            docket.watch(session, "daily", since, schedule, since)
    newsroom.close()


def command(desk: Desk, *arguments: str) -> "subprocess.CompletedProcess[str]":
    told = [sys.executable, "-m", "newsletter", *arguments, "--config", str(desk.file)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        told, capture_output=True, text=True, timeout=PATIENCE, check=False, env=environ, cwd=desk.folder
    )


def state(desk: Desk) -> list[str]:
    return [state for (state,) in desk.rows("SELECT state FROM edition ORDER BY slot_at")]


def of_outbox(desk: Desk) -> Counter[str]:
    """How many copies each reader has."""
    parsed = (message_from_bytes(file.read_bytes(), policy=policy.default) for file in desk.mails)
    found = Counter(mail["To"].addresses[0].addr_spec for mail in parsed)
    return Counter({to: count for to, count in found.items() if to.startswith("reader")})


def of_server(server: SmtpServer) -> Counter[str]:
    return Counter(mail.to for mail in server.mails if mail.to.startswith("reader"))


# ------------------------------------------------------------------------------------------ killed


@pytest.mark.parametrize("provider", ["outbox", pytest.param("smtp", marks=pytest.mark.long)])
def test_two_schedulers_that_are_killed_at_random_give_each_reader_one_copy(
    desk: Desk, start: Callable[[Desk], Process], provider: str
) -> None:
    chance = random.Random(provider)
    with SmtpServer() as server:
        prepare(desk, missed(3), server=server if provider == "smtp" else None)
        copies = of_outbox if provider == "outbox" else lambda _: of_server(server)
        running, kills = [start(desk), start(desk)], 0
        wait_for(lambda: all(one.tells("the clock runs") for one in running))
        while kills < 6 and sum(copies(desk).values()) < READERS:
            time.sleep(chance.uniform(0, 0.5))  # its moment is what is drawn
            victim = chance.randrange(2)
            running[victim].kill()
            running[victim].end()
            kills += 1
            running[victim] = start(desk)
            wait_for(lambda victim=victim: running[victim].tells("the clock runs"))  # type: ignore[misc] # bound at once
        wait_for(lambda: state(desk) == ["closed"])
        found = copies(desk)
    unknown = desk.rows("SELECT count(*) FROM delivery WHERE outcome = 'unknown'")[0][0]
    unknown += desk.rows("SELECT coalesce(sum(size), 0) FROM batch WHERE state = 'unknown'")[0][0]
    assert kills
    assert max(found.values()) == 1
    assert len(found) >= READERS - unknown
    assert unknown == 0 or provider == "smtp", "only what was in a server's hands can be in doubt"


# ------------------------------------------------------------------------------------------ stopped


@pytest.mark.sqlite("signals, which no database has a part in")
def test_sigterm_ends_after_the_calls_that_are_out_and_the_next_process_goes_on(
    desk: Desk, start: Callable[[Desk], Process]
) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def slowly(_: Session, __: str) -> Do:
        reached.set()
        go_on.wait(PATIENCE)
        return Do.USUAL

    with SmtpServer(Manner(says={".": slowly})) as server:
        prepare(desk, missed(3), server=server)
        one = start(desk)
        wait_for(reached.is_set)
        one.signal(signal.SIGTERM)
        assert state(desk) == ["dispatching"]
        go_on.set()
        assert one.end() == 0
        held = desk.rows("SELECT count(*) FROM batch WHERE state NOT IN ('pending', 'done')")
        before = of_server(server)
        start(desk)
        wait_for(lambda: state(desk) == ["closed"])
        found = of_server(server)
    assert held == [(0,)]
    assert before.total() < READERS, "it did not stay until the whole edition was out"
    assert set(found.values()) == {1}
    assert len(found) == READERS


# ------------------------------------------------------------------------------------------ copied


@pytest.mark.sqlite("a file that is copied")
def test_a_copy_mails_nobody_and_says_why_until_it_is_claimed(
    desk: Desk, start: Callable[[Desk], Process], tmp_path_factory: pytest.TempPathFactory
) -> None:
    prepare(desk, missed(3))
    copy = Desk(tmp_path_factory.mktemp("copy"))
    first = start(desk)
    wait_for(lambda: desk.rows("SELECT 1 FROM instance WHERE place IS NOT NULL"))
    first.signal(signal.SIGTERM)
    first.end()
    shutil.copytree(desk.folder / "briefs", copy.folder / "briefs", dirs_exist_ok=True)
    for name in ("newsletter.db", "newsletter.toml"):
        shutil.copyfile(desk.folder / name, copy.folder / name)
    with transaction(copy.open().engine) as session:  # whatever the first one did meanwhile is no part of this
        docket.forsake(session, docket.attendants(session))
    start(desk)
    other = start(copy)
    wait_for(lambda: other.tells("it may be a copy") and other.tells("newsletter db claim"))
    wait_for(lambda: state(desk) == ["closed"])
    assert not copy.mails
    assert "closed" not in state(copy) or not copy.rows("SELECT 1 FROM batch WHERE state = 'pending'")
    claimed = command(copy, "db", "claim")
    assert claimed.returncode == 0, claimed.stderr
    wait_for(lambda: state(copy) == ["closed"])
    copy.close()
    assert set(of_outbox(copy).values()) <= {1}


# ------------------------------------------------------------------------------------------ reloaded, and in time


@pytest.mark.long
@pytest.mark.sqlite("a configuration, which no database has a part in")
def test_a_configuration_is_taken_while_it_runs_a_bad_one_is_refused_and_a_slot_goes_out_at_its_time(
    desk: Desk, start: Callable[[Desk], Process]
) -> None:
    prepare(desk, 'schedule = "0 0 29 2 *"', people=2, minded=False)
    begun = datetime.now(UTC)
    runs = start(desk)
    wait_for(lambda: runs.tells("the clock runs"))
    good = desk.file.read_text(encoding="utf-8")

    desk.file.write_text(good.replace("The Test Digest", ""), encoding="utf-8")
    refused = command(desk, "reload")
    assert refused.returncode == 2, "the command itself sees the mistake"
    assert "title" in refused.stderr
    assert not runs.tells("running.reload")
    runs.signal(signal.SIGHUP)
    wait_for(lambda: runs.tells("running.reload.refused"))
    assert runs.runs

    desk.file.write_text(good.replace("per_second = 30", "per_second = 40"), encoding="utf-8")
    taken = command(desk, "reload")
    assert (taken.returncode, taken.stdout.count("took it")) == (0, 1), taken.stdout + taken.stderr

    desk.file.write_text(good.replace('"0 0 29 2 *"', '"* * * * *"\nlead = "10s"'), encoding="utf-8")
    runs.signal(signal.SIGHUP)
    wait_for(lambda: "closed" in state(desk), seconds=PATIENCE + 60)
    runs.signal(signal.SIGTERM)
    assert runs.end() == 0
    slot_at, frozen_at = desk.rows("SELECT slot_at, frozen_at FROM edition WHERE state = 'closed'")[0]
    slot, frozen = (datetime.fromisoformat(str(at)).replace(tzinfo=UTC) for at in (slot_at, frozen_at))
    assert begun < slot <= frozen, "not what was past when it began, and not too soon"
    assert set(of_outbox(desk).values()) == {1}
