"""A web server on loopback that answers with exactly the bytes, or the misbehaviour, that a test gives it."""

import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

Answer = bytes | Callable[[socket.socket], None]


@dataclass(frozen=True)
class Request:
    """What came: the path as it was written, and the headers by lower-case name."""

    line: str
    headers: dict[str, str]

    @property
    def path(self) -> str:
        return self.line.split(" ")[1]


class FeedServer:
    """Serves `answers` by path, 404 elsewhere. It counts connections, and how many requests it worked on at once.

    `at` is the loopback address to listen on; whatever `port` names must be free, 0 picks one. An answer that is a
    function may do to the connection what it likes; it should stop when sending fails or `over` is set.
    """

    def __init__(self, at: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.answers: dict[str, Answer] = {}
        self.requests: list[Request] = []
        self.connections: Counter[str] = Counter()  # by the address that was connected to
        self.most_at_once = 0
        self.over = threading.Event()
        self._at_once, self._counting, self._tls = 0, threading.Lock(), tls
        self._listener = socket.create_server(
            (at, port), family=socket.AF_INET6 if ":" in at else socket.AF_INET, backlog=200
        )
        self.port: int = self._listener.getsockname()[1]
        self.host = f"[{at}]" if ":" in at else at
        self._threads: list[threading.Thread] = []
        self._spawn(self._accept)

    def url(self, path: str = "/", host: str | None = None) -> str:
        return f"{'https' if self._tls else 'http'}://{host or self.host}:{self.port}{path}"

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count as busy with a request, until just before the answer: afterwards the client may be back already."""
        with self._counting:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            yield
        finally:
            with self._counting:
                self._at_once -= 1

    def close(self) -> None:
        self.over.set()
        with suppress(OSError):
            socket.create_connection(self._listener.getsockname()[:2]).close()  # so that accept() returns
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def _spawn(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if self.over.is_set():
                connection.close()
                return
            self.connections[connection.getsockname()[0]] += 1
            self._spawn(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:  # ssl.SSLError is one: clients hang up, that is under test
            connection.settimeout(5)
            if self._tls:
                with self._tls.wrap_socket(connection, server_side=True) as secured:
                    self._answer(secured)
            else:
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        received = b""
        while b"\r\n\r\n" not in received:
            piece = connection.recv(65_536)
            if not piece:
                return
            received += piece
        line, *fields = received.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
        pairs = (field.partition(":") for field in fields)
        request = Request(line, {name.lower(): value.strip(" ") for name, _, value in pairs})
        with self._counting:
            self.requests.append(request)
        answer = self.answers.get(request.path, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        if isinstance(answer, bytes):
            connection.sendall(answer)
        else:
            answer(connection)


def answer(body: bytes = b"", *headers: str, status: str = "200 OK") -> bytes:
    """A well-formed answer, with a Content-Length unless a header given here says how long the body is."""
    fields = list(headers)
    if not any(field.lower().startswith(("content-length:", "transfer-encoding:")) for field in fields):
        fields.append(f"Content-Length: {len(body)}")
    return "\r\n".join([f"HTTP/1.1 {status}", *fields, "", ""]).encode("latin-1") + body


def redirect(to: str, status: int = 302) -> bytes:
    """A redirect, whose Location is sent as UTF-8."""
    return answer(b"", f"Location: {to.encode().decode('latin-1')}", status=f"{status} Go On")
