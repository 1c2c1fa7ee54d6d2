"""One edition on trial: a desk, a server, runs of the command, and the judgement in the end."""

import contextlib
import json
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults import desk, events
from faults.desk import Original
from faults.judging import Judgement, judge
from faults.nursery import Child, Nursery
from faults.servers import Manner, SendGridServer, Server, SmtpServer, of_outbox
from faults.wrapped import Fault

OUTBOX, SENDGRID, SMTP = "outbox", "sendgrid", "smtp"
PROVIDERS = (OUTBOX, SENDGRID, SMTP)
CALLS = 4
"""Calls at once, in all processes together: as `dispatch.calls` is set."""
_ENDED = {"closed", "cancelled"}
_STALLED = 4.0  # seconds without a call or a file after which a run waits for something that is due much later


class Stuck(Exception):
    """A trial did not end in its time."""


@dataclass
class Stage:
    """What the trials of one lane share."""

    folder: Path
    nursery: Nursery
    originals: Mapping[str, Original]
    slot: str
    seconds: float  # that one trial may take

    @contextmanager
    def trial(
        self, provider: str, database: str, chance: random.Random, *, settings: Sequence[str] = (), dispatch: str = ""
    ) -> Iterator["Trial"]:
        """A fresh one. `settings` are lines for the provider's table, `dispatch` lines for that table."""
        original = self.originals[database]
        folder = self.folder / f"{provider}-{database}-{chance.getrandbits(48):012x}"
        folder.mkdir()
        url = original.copied(folder)
        with contextlib.ExitStack() as stack:
            server: Server | None = None
            if provider != OUTBOX:
                server = stack.enter_context(SendGridServer() if provider == SENDGRID else SmtpServer())
            trial = Trial(self, provider, original, folder, url, chance, server)
            if server is not None:
                server.manner, server.strike = trial.usual, trial.strike
            trial.configure(settings, dispatch)
            try:
                yield trial
            finally:
                trial.close()
        original.drop(url)
        if not trial.keep:
            shutil.rmtree(folder)


@dataclass
class Trial:
    """One edition, from its first run to its judgement."""

    stage: Stage
    provider: str
    original: Original
    folder: Path
    url: str
    chance: random.Random
    server: Server | None
    kills: int = 0
    pauses: int = 0  # past a call's time, which leaves as much in doubt as a kill
    settled: bool = False  # whether nobody can be unknown any more
    keep: bool = False  # its folder, for whoever looks into what went wrong
    children: list[Child] = field(default_factory=list)
    running: list[Child] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ends = time.monotonic() + self.stage.seconds
        self.batch = max(10, len(self.original.people.everybody) // 200)

    def configure(self, settings: Sequence[str], dispatch: str) -> None:
        """Write the configuration."""
        lines = [f'kind = "{self.provider}"', f"batch_size = {self.batch}"]
        if self.provider == SENDGRID:
            assert self.server is not None
            lines += [f'host = "http://127.0.0.1:{self.server.port}"', f'webhook_keys = ["{events.PUBLIC}"]']
        elif self.provider == SMTP:
            assert self.server is not None
            lines += ['host = "127.0.0.1"', f"port = {self.server.port}", 'security = "none"']
        if self.provider != OUTBOX:
            lines += settings or ['timeout = "10s"']
        self.config = desk.write(
            self.folder,
            database=f'instance = "{self.original.instance}"',
            provider="\n".join(lines),
            dispatch=dispatch,
            url=self.url if self.original.kind == desk.POSTGRESQL else None,
        )

    # ------------------------------------------------------------------------------------------ running

    def start(self, fault: Fault | None = None) -> Child:
        """Begin a run of `newsletter send`."""
        self._in_time()
        arguments = ["send", "daily", "--slot", self.stage.slot, "--json", "--config", str(self.config)]
        return self._start(arguments, self.folder / "said", fault)

    def _start(self, arguments: list[str], said: Path, fault: Fault | None = None) -> Child:
        child = self.stage.nursery.start(arguments, said, fault)
        self.children.append(child)
        self.running = [*(one for one in self.running if not one.wait(0)), child]
        return child

    def strike(self) -> None:
        """Kill whatever runs, and wait until it is dead: the servers' trigger."""
        for child in self.running:
            child.signal(signal.SIGKILL)
        for child in self.running:
            child.wait(10)

    def ended(self, child: Child) -> int:
        """Wait for a run's end, count it where it was killed, and give its exit code."""
        code = child.end(max(1.0, self.ends - time.monotonic()))
        self.kills += code == -signal.SIGKILL
        return code

    def kill(self, child: Child) -> None:
        """Kill a run, if it still runs."""
        child.signal(signal.SIGKILL)
        self.ended(child)

    def do(self, *arguments: str) -> str:
        """Run another command to its end; what it printed."""
        said = self.folder / f"said-{len(self.children)}"
        child = self._start([*arguments, "--config", str(self.config)], said)
        code = child.end(60)
        printed = said.read_text(encoding="utf-8")
        if code:
            raise RuntimeError(f"newsletter {' '.join(arguments)}: exit code {code}: {printed}")
        return printed

    def tell(self) -> None:
        """Post what SendGrid tells of all that the server has taken: a signed event for each copy."""
        assert self.server is not None
        for number, post in enumerate(events.posts(self.server.copies)):
            file = self.folder / f"events-{number}.json"
            file.write_bytes(post.body)
            headers = [option for header in post.headers for option in ("--header", header)]
            self.do("provider", "receive", str(file), *headers)

    @property
    def over(self) -> bool:
        """Whether the edition is closed, or cancelled."""
        state = desk.state_of(self.url)
        return state is not None and state[0] in _ENDED

    def run_out(self, fault: Callable[[], Fault | None] = lambda: None) -> None:
        """Run it again and again, as a desk would, until the edition is over."""
        while not self.over:
            child = self.start(fault())
            seen, since = -1, time.monotonic()
            while not child.wait(0.25):
                if self.progress() != seen:
                    seen, since = self.progress(), time.monotonic()
                elif time.monotonic() - since > _STALLED:
                    child.signal(signal.SIGTERM)
                    self.ended(child)
                    self.do("editions", "retry", "daily", self.stage.slot)
                self._in_time()
            self.ended(child)

    def progress(self) -> int:
        """A figure that grows with whatever reaches the provider."""
        if self.server is not None:
            return self.server.calls + self.server.received.total()
        new = self.folder / "outbox" / "new"
        return len(list(new.iterdir())) if new.is_dir() else 0

    def _in_time(self) -> None:
        if time.monotonic() > self.ends:
            raise Stuck(f"after {self.stage.seconds:.0f} s the edition is {desk.state_of(self.url)}")

    def come_home(self, disk: Path) -> None:
        """Take the database back from a file system that was mounted for it, and let go of that."""
        for child in self.running:
            self.kill(child)
        home = self.folder / "newsletter.db"
        for part in ("", "-wal"):
            if (disk / f"newsletter.db{part}").exists():
                shutil.copyfile(disk / f"newsletter.db{part}", f"{home}{part}")
        subprocess.run(["umount", str(disk)], check=True)
        self.url = f"sqlite:///{home}"
        config = self.config.read_text(encoding="utf-8")
        self.config.write_text(config.replace('url = "sqlite:///disk/newsletter.db"\n', ""), encoding="utf-8")

    def usual(self) -> Manner:
        """What the servers do where nothing else is asked: a little time for an API's answer."""
        return Manner(seconds=self.chance.uniform(0, 0.03) if self.provider == SENDGRID else 0)

    def close(self) -> None:
        """End whatever still runs."""
        for child in self.children:
            child.signal(signal.SIGKILL)
            child.end(10)
            child.close()

    # ------------------------------------------------------------------------------------------ judging

    @property
    def in_hands(self) -> int:
        """How many copies can have been in the provider's hands when something was cut off."""
        if self.server is None or self.settled:
            return 0
        return ((self.kills + self.pauses) * CALLS + self.server.unanswered) * self.batch

    def judge(self) -> Judgement:
        """Hold what arrived against what is on record, and against what the program says of it."""
        account: Any = json.loads(self.do("editions", "show", "daily", self.stage.slot, "--json"))
        received = of_outbox(self.folder / "outbox") if self.server is None else self.server.received
        found = judge(
            self.original.people.everybody,
            self.original.people.suppressed,
            received,
            desk.books(self.url),
            told=account["tally"],
            named=[one["address"] for one in account["unknown"]],
            unknown_allowed=self.in_hands,
        )
        self.keep = found.broken
        return found
