"""`/health` and `/metrics` of the scheduler: what a monitor asks, answered by a small HTTP server of its own.

It serves GET alone, a few requests at a time, each within seconds, and holds no personal data. What it tells is looked
up at most every few seconds, however often it is asked. The home of prometheus_client, which writes Prometheus's text
format.
"""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy.exc import DBAPIError

from newsletter import __version__, status
from newsletter.errors import ConfigurationError
from newsletter.models import EditionState
from newsletter.newsroom import Newsroom
from newsletter.status import Status

TICKS_WITHIN = timedelta(seconds=60)
_AT_ONCE = 8  # requests; of more the one that takes longest is cut off
_REQUEST_LASTS = 5.0  # seconds from the connection to the answer's end
_LOOKED_UP_EVERY = 2.0  # seconds
_PLAIN = "text/plain; charset=utf-8"
_log = logging.getLogger("newsletter.metrics")


class Lookout:
    """What is told, looked up anew when it is older than a few seconds. `ticked` says when the clock did last."""

    def __init__(
        self,
        newsroom: Callable[[], Newsroom],
        ticked: Callable[[], datetime | None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._newsroom, self._ticked, self._monotonic = newsroom, ticked, monotonic
        self._lock = threading.Lock()
        self._at: float | None = None
        self._last: Status | str = ""

    def _look(self) -> Status | str:
        """How it stands, or why nobody can tell. One thread asks the database for all that ask."""
        with self._lock:
            if self._at is None or self._monotonic() - self._at >= _LOOKED_UP_EVERY:
                try:
                    self._last = status.look(self._newsroom(), ahead=False)
                except DBAPIError as error:
                    self._last = f"the database: {error.orig}"
                except Exception as error:  # noqa: BLE001 # a monitor is told that it cannot be told
                    _log.exception("metrics.broken")
                    self._last = f"a fault of the program ({type(error).__name__}); the log has its traceback"
                self._at = self._monotonic()
            return self._last

    def health(self) -> tuple[bool, str]:
        """Whether this scheduler does its work, and one line of why it does not."""
        found = self._look()
        if isinstance(found, str):
            return False, " ".join(found.split())
        ticked, now = self._ticked(), self._newsroom().clock()
        if ticked is None or now - ticked > TICKS_WITHIN:
            return False, f"the clock has not ticked since {ticked:%Y-%m-%d %H:%M:%S} UTC" if ticked else "no tick yet"
        if failing := next((one for one in found.chores if one.fault), None):
            return False, f"{failing.name}: {failing.fault}"
        late = [one for one in found.editions if one.overdue]
        if late:
            more = f", and {len(late) - 1:,} more" if len(late) > 1 else ""
            return False, f"overdue: {late[0].newsletter} {late[0].slot} ({late[0].state}){more}"
        return True, "ok"

    def metrics(self) -> bytes:
        """The same in figures, in Prometheus's text format."""
        found = self._look()
        registry = CollectorRegistry()
        ok, _ = self.health()
        registry.register(_Figures(found if isinstance(found, Status) else None, self._ticked(), ok=ok))
        return generate_latest(registry)


class _Figures(Collector):
    """The metrics of one look; of a database that cannot be asked, that it cannot, and no more."""

    def __init__(self, found: Status | None, ticked: datetime | None, *, ok: bool) -> None:
        self._found, self._ticked, self._ok = found, ticked, ok

    def collect(self) -> Iterator[Any]:
        """One family after the other."""
        yield InfoMetricFamily("newsletter_build", "The program.", value={"version": __version__})
        yield _one("newsletter_healthy", "1 where /health answers 200.", int(self._ok))
        yield _one("newsletter_database_reachable", "1 where the database answers.", int(self._found is not None))
        if self._ticked is not None:
            yield _one("newsletter_clock_tick_timestamp_seconds", "When this clock last ticked.", _at(self._ticked))
        if self._found is not None:
            yield from _of_editions(self._found)
            yield from _of_queues(self._found)
            yield from _of_chores(self._found)


def _of_editions(found: Status) -> Iterator[GaugeMetricFamily]:
    states = dict.fromkeys(
        (EditionState.PLANNED, EditionState.DRAFT, EditionState.HELD, EditionState.DISPATCHING, EditionState.PAUSED), 0
    )
    waiting: dict[str, int] = {}
    sums = {"waiting": 0, "accepted": 0, "unknown": 0}
    for one in found.editions:
        states[one.state] += 1
        waiting[one.newsletter] = waiting.get(one.newsletter, 0) + one.waiting
        for what in sums:
            sums[what] += getattr(one, what)
    yield _many("newsletter_editions", "Editions that are not over, by state.", "state", states)
    yield _one("newsletter_editions_overdue", "Open editions that are overdue.", sum(e.overdue for e in found.editions))
    yield _many("newsletter_deliveries_waiting", "Copies that wait, by newsletter.", "newsletter", waiting)
    yield _many("newsletter_deliveries_open", "Copies of open editions, by what became of them.", "outcome", sums)
    closed = {name: _at(at) for name, at in found.last_closed.items()}
    told = "When the newest edition that went out was closed, by newsletter."
    yield _many("newsletter_edition_closed_timestamp_seconds", told, "newsletter", closed)
    told = "Copies a second that the provider took, over the last 5 minutes."
    yield _one("newsletter_deliveries_accepted_per_second", told, found.per_second)
    told = "Copies that the provider took in the last hour."
    yield _one("newsletter_deliveries_accepted_last_hour", told, found.accepted_last_hour)
    yield _one("newsletter_halted", "1 where dispatch is halted.", int(found.halted_at is not None))


def _of_queues(found: Status) -> Iterator[GaugeMetricFamily]:
    yield _one("newsletter_notices_waiting", "Notices that wait.", found.notices_waiting)
    yield _one("newsletter_desk_notices_waiting", "Notices to the desk that wait.", found.desk_waiting)
    yield _one("newsletter_alarms_open", "What a person must look into.", len(found.alarms))
    ticking = sum(one.ticks for one in found.clocks)
    yield _one("newsletter_clocks", "Processes that run the clock.", ticking)
    stale = sum(one.fault is not None for one in found.clocks)
    yield _one("newsletter_clocks_with_old_configuration", "Those that could not read what is new.", stale)


def _of_chores(found: Status) -> Iterator[GaugeMetricFamily]:
    done = {one.name: _at(one.succeeded_at) for one in found.chores if one.succeeded_at}
    yield _many("newsletter_chore_success_timestamp_seconds", "When a chore last succeeded.", "chore", done)
    failures = {one.name: one.failures for one in found.chores}
    yield _many("newsletter_chore_failures", "Failures of a chore in a row, up to now.", "chore", failures)


def _one(name: str, told: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, told, value=value)


def _many(name: str, told: str, label: str, values: "dict[Any, Any]") -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, told, labels=[label])
    for key, value in values.items():
        family.add_metric([str(key)], value)
    return family


def _at(instant: datetime) -> float:
    return instant.timestamp()


# ------------------------------------------------------------------------------------------ serving


class _Handler(BaseHTTPRequestHandler):
    """One request a connection (HTTP/1.0), within the server's time; nothing of it is logged or told back."""

    server: "_Listener"

    def do_GET(self) -> None:  # http.server's name
        """Answer /health and /metrics."""
        path = self.path.partition("?")[0]
        if path == "/health":
            ok, said = self.server.lookout.health()
            self._answer(HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE, f"{said}\n".encode())
        elif path == "/metrics":
            self._answer(HTTPStatus.OK, self.server.lookout.metrics(), CONTENT_TYPE_LATEST)
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"/health and /metrics\n")

    def _answer(self, code: HTTPStatus, body: bytes, kind: str = _PLAIN) -> None:
        self.send_response_only(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what is no GET, or nothing that HTTP knows, in two words."""
        del message, explain  # they quote the request
        status_ = HTTPStatus.METHOD_NOT_ALLOWED if code == HTTPStatus.NOT_IMPLEMENTED else HTTPStatus(code)
        self.close_connection = True
        self._answer(status_, f"{status_.phrase}\n".encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 # the same
        """Nothing: monitors ask every few seconds."""


class _Listener(ThreadingHTTPServer):
    """Gives each connection a thread, a few at a time and for a few seconds."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 32
    lookout: Lookout

    def __init__(self, at: tuple[str, int], lookout: Lookout) -> None:
        self.address_family = socket.AF_INET6 if ":" in at[0] else socket.AF_INET
        self.lookout = lookout
        self._places = threading.BoundedSemaphore(_AT_ONCE)
        self._begun: dict[socket.socket, float] = {}
        super().__init__(at, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin with a connection where there is room; what has taken longest makes it."""
        if not self._places.acquire(blocking=False):
            self._cut_off(min(self._begun, key=lambda one: self._begun.get(one, 0.0), default=None))
            if not self._places.acquire(timeout=1):
                self.shutdown_request(request)
                return
        self._begun[request] = time.monotonic()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer it."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._begun.pop(request, None)
            self._places.release()

    def service_actions(self) -> None:
        """Twice a second: cut off what has had its time, however slowly it goes on."""
        now = time.monotonic()
        for connection, begun in list(self._begun.items()):
            if now - begun > _REQUEST_LASTS:
                self._cut_off(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nothing to tell."""

    @staticmethod
    def _cut_off(connection: socket.socket | None) -> None:
        if connection is not None:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # over by itself


class Server:
    """Serves a Lookout at an address until it is closed. `port` is the one it got, where it asked for any."""

    def __init__(self, listen: str, lookout: Lookout) -> None:
        """Listen at once. Raises ConfigurationError where that cannot be."""
        host, _, port = listen.rpartition(":")
        try:
            self._listener = _Listener((host.strip("[]"), int(port)), lookout)
        except OSError as error:
            raise ConfigurationError(f"clock.listen: cannot listen on {listen}: {error.strerror}") from None
        self.port: int = self._listener.server_address[1]
        self._thread = threading.Thread(target=self._listener.serve_forever, name="newsletter-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """No longer listen."""
        self._listener.shutdown()
        self._listener.server_close()
        self._thread.join()
