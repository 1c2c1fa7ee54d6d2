"""Reading in a process of its own, beside the one that asks and records: two cores read many feeds in half the time.

The other process runs this module, reads what it is given by `formats.read`, and ends when its input does, so that it
never outlives its parent. What it says comes back as JSON, so that it is data whatever the feed did to the reader: one
that hangs or crashes over a feed costs that feed.
"""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import IO, Any, Self

from newsletter import formats
from newsletter.brief import Brief
from newsletter.errors import BriefError

LONGEST = timedelta(minutes=2)  # of reading one answer; the largest, 10 MB in 10,000 entries, takes ten seconds


class Reader:
    """Reads one answer after another in a process that is started with the first. Not for several threads at once."""

    def __init__(self, longest: timedelta = LONGEST) -> None:
        self._longest = longest
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, data: bytes, origin: str, *, base: str | None, charset: str | None, largest: int) -> formats.Reading:
        """As `formats.read`."""
        asked = {"origin": origin, "base": base, "charset": charset, "largest": largest, "bytes": len(data)}
        try:
            process = self._process = self._process or _start()
        except OSError:  # no process to be had: then this one reads
            return formats.read(data, origin, base=base, charset=charset, largest=largest)
        with self._at_most(process) as hung:
            try:
                _write(process.stdin, json.dumps(asked).encode(), data)
                said = _line(process.stdout)
            except OSError:
                said = b""
        if said:
            return _reading(json.loads(said), origin)
        self.close()
        why = (
            f"takes longer to read than {self._longest.total_seconds():.0f} s" if hung.is_set() else "stops its reader"
        )
        return formats.Reading((), (BriefError(origin, None, f"expected a feed or a brief, found what {why}"),))

    @contextmanager
    def _at_most(self, process: "subprocess.Popen[bytes]") -> Iterator[threading.Event]:
        hung = threading.Event()

        def end() -> None:
            hung.set()
            process.kill()

        timer = threading.Timer(self._longest.total_seconds(), end)
        timer.daemon = True
        timer.start()
        try:
            yield hung
        finally:
            timer.cancel()

    def close(self) -> None:
        """End the process, at once."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        with process:
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):  # what was not written any more
                    pipe.close()  # type: ignore[union-attr] # both are pipes


def _start() -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "newsletter.formats.beside"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def _write(pipe: IO[bytes] | None, *parts: bytes) -> None:
    assert pipe is not None
    pipe.write(b"\n".join(parts))
    pipe.flush()


def _line(pipe: IO[bytes] | None) -> bytes:
    assert pipe is not None
    line = pipe.readline()
    return line if line.endswith(b"\n") else b""  # a process that dies while it answers has said nothing


def _reading(said: dict[str, Any], origin: str) -> formats.Reading:
    return formats.Reading(
        tuple(Brief.model_validate_json(brief) for brief in said["briefs"]),
        tuple(BriefError(origin, line, what) for line, what in said["faults"]),
        tuple(said["remarks"]),
        tuple(said["names"]),
    )


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Read what is asked, until there is no more."""
    while head := requests.readline():
        asked = json.loads(head)
        data = requests.read(asked.pop("bytes"))
        read = formats.read(data, asked.pop("origin"), **asked)
        said = {
            "briefs": [brief.model_dump_json(exclude_defaults=True) for brief in read.briefs],
            "faults": [(fault.line, fault.what) for fault in read.faults],
            "remarks": read.remarks,
            "names": read.names,
        }
        _write(answers, json.dumps(said).encode(), b"")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    with suppress(BrokenPipeError):
        serve(sys.stdin.buffer, sys.stdout.buffer)
