"""A local SMTP server: real sockets, and misbehaviour at any point.

Left alone it is a correct one with PIPELINING, and keeps what it takes. A `Manner` says what one connection gets
instead: other offers, other replies at any verb, replies in single bytes, a connection cut, reset or left hanging.
Connections take manners from `script` in turn, and then `manner`.
"""

import base64
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Self

OFFERS = ("PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE 50000000", "ENHANCEDSTATUSCODES")


class Do(Enum):
    """What may happen instead of a reply."""

    CUT = auto()  # close
    RESET = auto()  # close with a RST
    HANG = auto()  # never answer
    USUAL = auto()


Says = bytes | Do | Callable[["Session", str], "bytes | Do"]


@dataclass
class Manner:
    """How a connection is served.

    `says` holds replies by verb: CONNECT, EHLO, HELO, STARTTLS, AUTH, MAIL, RCPT, DATA, RSET, QUIT; BODY stands for the
    moment before a body is read, "." for its end.
    """

    offers: Sequence[str] = OFFERS
    says: Mapping[str, Says] = field(default_factory=dict)
    drip: bool = False
    newline: bytes = b"\r\n"
    users: Mapping[str, str] = field(default_factory=dict)
    reads_body: int | None = None  # bytes of a body after which `then` happens
    then: Do = Do.CUT


@dataclass(frozen=True)
class Taken:
    """One mail as it was taken: the envelope, and the bytes without their stuffing."""

    path: str
    to: str
    parameters: str
    data: bytes

    @property
    def delivery(self) -> str:
        found = re.search(rb"(?m)^Message-ID: <([a-z0-9]+)@", self.data)
        assert found
        return found[1].decode()


@dataclass
class SmtpServer:
    """The server, while it is entered."""

    manner: Manner = field(default_factory=Manner)
    script: list[Manner] = field(default_factory=list)
    tls: ssl.SSLContext | None = None
    implicit_tls: bool = False
    mails: list[Taken] = field(default_factory=list)
    sessions: list["Session"] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        self.over = threading.Event()
        self.lock = threading.Lock()
        self._threads = [threading.Thread(target=self._listen, daemon=True)]
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for session in self.sessions:
            session.end()
        for thread in self._threads:
            thread.join(5)

    @property
    def deliveries(self) -> list[str]:
        with self.lock:
            return sorted(mail.delivery for mail in self.mails)

    @property
    def bytes_in(self) -> int:
        """What has come in transactions, of all connections."""
        return sum(session.bytes_in for session in self.sessions)

    @property
    def commands(self) -> list[str]:
        """The commands of all connections, in the order of the connections."""
        return [command for session in self.sessions for command in session.commands]

    def _listen(self) -> None:
        while not self.over.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self.lock:
                manner = self.script.pop(0) if self.script else self.manner
                session = Session(self, connection, manner)
                self.sessions.append(session)
            thread = threading.Thread(target=session.serve, daemon=True)
            self._threads.append(thread)
            thread.start()


class _Over(Exception):
    """The connection is to end."""


class Session:
    """One connection."""

    def __init__(self, server: SmtpServer, connection: socket.socket, manner: Manner) -> None:
        self.server, self.manner = server, manner
        self.commands: list[str] = []
        self.taken = 0
        self.bytes_in = 0
        self.encrypted = False
        self.ended = threading.Event()
        self._connection = connection
        self._held = b""
        self._count = False
        self._mail: tuple[str, str] | None = None
        self._to: str | None = None

    def end(self) -> None:
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def serve(self) -> None:
        self._connection.settimeout(20)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else each of some replies waits 40 ms
        try:
            if self.server.tls is not None and self.server.implicit_tls:
                self._encrypt()
            self._reply("CONNECT", "", b"220 mx.example.org ESMTP\r\n")
            while True:
                self._command()
        except (_Over, OSError):  # OSError: the client hung up, which is what some tests are about
            pass
        finally:
            self._connection.close()
            self.ended.set()

    def say(self, data: bytes) -> None:
        """Write, in the connection's manner."""
        data = data.replace(b"\r\n", self.manner.newline)
        if self.manner.drip:
            for byte in data:
                self._connection.sendall(bytes([byte]))
        else:
            self._connection.sendall(data)

    def _do(self, act: Do) -> None:
        if act is Do.HANG:
            self.server.over.wait(20)
        elif act is Do.RESET:
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise _Over

    def _reply(self, verb: str, argument: str, usual: bytes, before: Callable[[], None] = lambda: None) -> bool:
        """Say what is to be said at a verb. Whether that was a yes; then `before` was done before it was said."""
        says = self.manner.says.get(verb, Do.USUAL)
        if callable(says):
            says = says(self, argument)
        if says is Do.USUAL:
            says = usual
        if isinstance(says, Do):
            self._do(says)
            return False
        good = says[:1] in {b"2", b"3"}
        if good:
            before()
        if says:
            self.say(says)
        if says.startswith(b"421"):
            raise _Over
        return good

    def _more(self) -> None:
        data = self._connection.recv(65_536)
        if not data:
            raise _Over
        self._held += data
        if self._count:
            self.bytes_in += len(data)

    def _line(self) -> bytes:
        while b"\r\n" not in self._held:
            self._more()
        line, _, self._held = self._held.partition(b"\r\n")
        assert b"\n" not in line, "a bare LF"
        assert len(line) <= 998
        return line

    def _command(self) -> None:
        line = self._line().decode()
        self.commands.append(line)
        verb, _, argument = line.partition(" ")
        verb = verb.upper()
        if verb == "MAIL" and not self._count:
            self._count = True
            self.bytes_in += len(line) + 2 + len(self._held)
        verbs = {
            "EHLO": self._ehlo,
            "HELO": self._helo,
            "STARTTLS": self._starttls,
            "AUTH": self._auth,
            "MAIL": self._begin,
            "RCPT": self._rcpt,
            "DATA": self._data,
            "RSET": self._rset,
            "QUIT": self._quit,
        }
        verbs.get(verb, self._other)(argument)

    def _other(self, argument: str) -> None:
        self.say(b"500 5.5.1 what?\r\n")

    def _ehlo(self, argument: str) -> None:
        offers = [*self.manner.offers]
        if self.server.tls is not None and not self.encrypted:
            offers.append("STARTTLS")
        if self.manner.users:
            offers.append("AUTH PLAIN LOGIN")
        lines = ["mx.example.org", *offers]
        told = "".join(f"250{' ' if line is lines[-1] else '-'}{line}\r\n" for line in lines)
        self._reply("EHLO", argument, told.encode())

    def _helo(self, argument: str) -> None:
        self._reply("HELO", argument, b"250 mx.example.org\r\n")

    def _starttls(self, argument: str) -> None:
        if self._reply("STARTTLS", argument, b"220 2.0.0 go on\r\n"):
            self._held = b""
            self._encrypt()

    def _encrypt(self) -> None:
        assert self.server.tls is not None
        self._connection = self.server.tls.wrap_socket(self._connection, server_side=True)
        self.encrypted = True

    def _auth(self, argument: str) -> None:
        mechanism, _, given = argument.partition(" ")
        if mechanism == "PLAIN":
            _, name, password = base64.b64decode(given).decode().split("\0")
        else:
            self.say(b"334 VXNlcm5hbWU6\r\n")
            name = base64.b64decode(self._line()).decode()
            self.say(b"334 UGFzc3dvcmQ6\r\n")
            password = base64.b64decode(self._line()).decode()
        good = self.manner.users.get(name) == password
        self._reply("AUTH", argument, b"235 2.7.0 welcome\r\n" if good else b"535 5.7.8 no\r\n")

    def _mail_from(self, argument: str) -> tuple[str, str]:
        found = re.fullmatch(r"FROM:<([^<>\s]*)>(?: (.+))?", argument)
        assert found, argument
        return found[1], found[2] or ""

    def _begin(self, argument: str) -> None:
        if self._mail is not None:
            self.say(b"503 5.5.1 nested MAIL\r\n")
        elif self._reply("MAIL", argument, b"250 2.1.0 ok\r\n"):
            self._mail, self._to = self._mail_from(argument), None

    def _rcpt(self, argument: str) -> None:
        if self._mail is None:
            self.say(b"503 5.5.1 MAIL first\r\n")
        elif self._reply("RCPT", argument, b"250 2.1.5 ok\r\n"):
            found = re.fullmatch(r"TO:<([^<>\s]+)>", argument)
            assert found, argument
            self._to = found[1]

    def _rset(self, argument: str) -> None:
        self._mail = self._to = None
        self._reply("RSET", argument, b"250 2.0.0 ok\r\n")

    def _quit(self, argument: str) -> None:
        self._reply("QUIT", argument, b"221 2.0.0 bye\r\n")
        raise _Over

    def _data(self, argument: str) -> None:
        refusal = b"503 5.5.1 RCPT first\r\n" if self._to is None else b"354 go on\r\n"
        says = self.manner.says.get("DATA")
        if not self._reply("DATA", argument, refusal) or (self._to is None and says is None):
            return
        self._reply("BODY", argument, b"")
        data = self._body()
        if self._to is None:
            self.say(b"554 5.5.1 nobody to send to\r\n" if data == b"" else b"250 2.0.0 ok\r\n")
            return
        assert self._mail is not None
        path, parameters = self._mail
        mail = Taken(path, self._to, parameters, data)
        self._mail = self._to = None

        def keep() -> None:
            self.taken += 1
            with self.server.lock:
                self.server.mails.append(mail)

        number = len(self.server.mails) + 1
        self._reply(".", mail.to, f"250 2.0.0 Ok: queued as {number:08X}\r\n".encode(), keep)

    def _body(self) -> bytes:
        while not self._held.startswith(b".\r\n") and b"\r\n.\r\n" not in self._held:
            if self.manner.reads_body is not None and len(self._held) >= self.manner.reads_body:
                self._do(self.manner.then)
            self._more()
        if self._held.startswith(b".\r\n"):
            self._held = self._held[3:]
            return b""
        data, _, self._held = self._held.partition(b"\r\n.\r\n")
        lines = (data + b"\r\n").split(b"\r\n")
        assert not any(b"\n" in line or b"\r" in line for line in lines), "a bare CR or LF"
        return b"\r\n".join(line.removeprefix(b".") for line in lines)
