"""Who goes first in a process: an edition at its slot goes before sources and drafts, which can wait for a second.

All threads of a process share one interpreter, and on SQLite one lock for writing; so what can wait does, while what a
thousand readers have an eye on the clock for is done. It is courtesy and no lock: nobody waits for long.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_LOOK_AGAIN_S = 0.2


class Precedence:
    """What is urgent in this process, as far as it was taken up lately. Safe from several threads."""

    urgent_s = 5.0  # what is under way for longer is long work, beside which the rest must go on

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._urgent: dict[object, float] = {}

    @contextmanager
    def first(self) -> Iterator[None]:
        """Do something urgent."""
        one = object()
        with self._changed:
            self._urgent[one] = time.monotonic()
        try:
            yield
        finally:
            with self._changed:
                del self._urgent[one]
                self._changed.notify_all()

    def give_way(self, stop: threading.Event | None = None) -> None:
        """Wait while something urgent is done that was taken up lately, at most so long, or until `stop`."""
        ends = time.monotonic() + self.urgent_s
        with self._changed:
            while self._is_pressed() and time.monotonic() < ends and not (stop is not None and stop.is_set()):
                self._changed.wait(_LOOK_AGAIN_S)

    def _is_pressed(self) -> bool:
        recent = time.monotonic() - self.urgent_s
        return any(since > recent for since in self._urgent.values())
