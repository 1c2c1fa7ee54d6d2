"""Processes that start in a few milliseconds: a parent that has imported the program forks each of them.

Importing takes 0.6 s, which two hundred kills would pay two hundred times. The parent does nothing else, has one
thread and no open database, so that a child of it is what `python -m newsletter` would be after its imports. A child
that ended stays a zombie until its end has been seen, so that its id cannot have become somebody else's.
"""

import contextlib
import gc
import json
import os
import random
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from faults import wrapped
from faults.wrapped import Fault

ROOT = Path(__file__).parent.parent


class Child:
    """One run of the command."""

    def __init__(self, nursery: "Nursery", pid: int) -> None:
        self.pid = pid
        self._nursery = nursery
        self._handle = os.pidfd_open(pid)
        self._code: int | None = None

    def wait(self, seconds: float) -> bool:
        """Whether it has ended, waiting so long for it."""
        if self._code is not None:
            return True
        poll = select.poll()
        poll.register(self._handle, select.POLLIN)
        return bool(poll.poll(max(0, int(seconds * 1_000))))

    def signal(self, number: int) -> None:
        """Send it a signal, if it is there to take it."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, number)

    def close(self) -> None:
        """Let go of it, when nobody waits for it any more."""
        os.close(self._handle)

    def end(self, seconds: float) -> int:
        """The exit code; minus the signal where one ended it. Raises TimeoutError where it goes on for longer."""
        if self._code is None:
            if not self.wait(seconds):
                raise TimeoutError(f"process {self.pid} goes on after {seconds:.0f} s")
            self._code = self._nursery.reap(self.pid)
        return self._code

    @property
    def stopped(self) -> bool:
        """Whether a signal has stopped it."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        except OSError:
            return False


class Nursery:
    """The parent of them all, as a process beside this one."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "faults.nursery"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        self._lock = threading.Lock()
        self._line()

    def start(self, arguments: list[str], said: Path, fault: Fault | None = None) -> Child:
        """Run the command with arguments; what it says is added to a file."""
        order = {"arguments": arguments, "said": str(said), "fault": fault.told() if fault else None}
        return Child(self, self._ask(order)["pid"])

    def reap(self, pid: int) -> int:
        """The exit code of one that has ended."""
        return int(self._ask({"reap": pid})["code"])

    def close(self) -> None:
        """End it, and what it started."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def _ask(self, order: dict[str, Any]) -> Any:
        with self._lock:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            return self._line()

    def _line(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


def _import() -> None:
    """Whatever a run would import, so that no child has to."""
    import psycopg  # noqa: F401
    import sqlalchemy.dialects.postgresql.psycopg
    import sqlalchemy.dialects.sqlite.pysqlite  # noqa: F401

    import newsletter.cli.editions
    import newsletter.newsroom
    import newsletter.operating
    import newsletter.providers.outbox
    import newsletter.providers.sendgrid
    import newsletter.providers.smtp
    import newsletter.report  # noqa: F401


def main() -> None:
    """Fork a child for each order, and see to its end, until there are no more orders."""
    _import()
    gc.freeze()
    living: set[int] = set()
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "reap" in order:
            _, status = os.waitpid(order["reap"], 0)
            living.discard(order["reap"])
            print(json.dumps({"code": os.waitstatus_to_exitcode(status)}), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            _become(order)
        living.add(pid)
        print(json.dumps({"pid": pid}), flush=True)
    for pid in living:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _become(order: dict[str, Any]) -> None:
    """Be the command from here on."""
    from newsletter import cli

    said = os.open(order["said"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for old, new in ((nothing, 0), (said, 1), (said, 2)):
        os.dup2(old, new)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 # the parent's has read ahead
    random.seed()
    sys.argv = ["newsletter", *order["arguments"]]
    if order["fault"] is not None:
        wrapped.prepare(Fault(**order["fault"]))
    cli.main()


if __name__ == "__main__":
    main()
