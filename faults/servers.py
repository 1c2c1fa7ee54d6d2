"""Servers that take mail, misbehave as they are told, and never forget what they took.

They run in the harness, which survives every kill, so that what they have taken is known for certain. A server decides
call by call what to do (`Manner`), and may be the one that kills the client: when it has seen the head of a request,
half of it, all of it, or has just answered.
"""

import asyncio
import json
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

MOMENTS = ("head", "half", "body", "answer")
"""When a server may kill its client: the envelope is there, half of the body, all of it (and it is taken), or the
answer has just left."""
REFUSED = "nobody"
"""How an address begins that the servers refuse for good."""
_TO = re.compile(rb"(?im)^To:(?:[^\r\n]|\r\n[ \t])*?<?([A-Za-z0-9.]+@[A-Za-z0-9.-]+)>?\r\n")
_SHORTEST_MAIL = 2_000  # bytes
_LONGEST = 60.0  # seconds that a server holds on to a call


@dataclass(frozen=True)
class Manner:
    """What one call meets (over SMTP: one mail). The usual: taken and answered, after `seconds`.

    `reset_at` is the share of the body after which the connection is cut off; `taken` says whether what came whole is
    kept; "hang" takes it and never answers, "drop" takes it and cuts off. A `status` that is no success takes nothing
    unless `taken` is True all the same.
    """

    kill: str | None = None
    seconds: float = 0
    status: int | None = None
    headers: tuple[str, ...] = ()
    reset_at: float | None = None
    ends: Literal["answer", "hang", "drop"] = "answer"
    taken: bool | None = None


@dataclass
class Server:
    """A server on a thread of its own, while it is entered. `received` counts copies by address."""

    manner: Callable[[], Manner] = Manner
    strike: Callable[[], None] = lambda: None  # kills the client
    received: Counter[str] = field(default_factory=Counter)
    copies: list[tuple[str, str, str]] = field(default_factory=list)  # address, attempt and delivery, where told
    calls: int = 0
    unanswered: int = 0  # calls whose body was begun, and that were deliberately left without a true answer

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._listener = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 26, backlog=256))
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self, what: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(10)

    async def _stop(self) -> None:
        self._listener.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self.converse(reader, writer)
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # the client has gone, which is the point; or the trial is over
        finally:
            writer.close()

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        raise NotImplementedError

    def take(self, address: str, attempt: str = "", delivery: str = "") -> None:
        """Keep one copy: from here on it counts as received."""
        self.received[address] += 1
        self.copies.append((address, attempt, delivery))

    async def break_off(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, manner: Manner, length: int
    ) -> None:
        """Read a part of a body, and no more; then kill the client, or cut it off."""
        if manner.reset_at is None:
            await reader.readexactly(length // 2)
            self.strike()
            return
        await reader.readexactly(int(length * manner.reset_at))
        self.unanswered += 1
        self.reset(writer)

    def reset(self, writer: asyncio.StreamWriter) -> None:
        """Cut a connection off with RST, so that the client reads an error."""
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


class SendGridServer(Server):
    """The v3 API's mail/send, as far as a dispatch sees it. One call a connection."""

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read a request, decide, answer."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"(?i)\r\ncontent-length: (\d+)", head)[1])  # type: ignore[index] # ours always says it
        self.calls += 1
        manner = self.manner()
        if manner.kill == "head":
            self.strike()
            return
        if manner.kill == "half" or manner.reset_at is not None:
            await self.break_off(reader, writer, manner, length)
            return
        request = json.loads(await reader.readexactly(length))
        await asyncio.sleep(min(manner.seconds, _LONGEST))
        answer, takes = self._judged(request)
        if manner.status is not None:
            takes = bool(manner.taken)
            answer = _answer(manner.status, b'{"errors":[{"message":"not now"}]}', *manner.headers)
            self.unanswered += manner.status >= 500 or takes
        if takes and manner.taken is not False:
            for one in request["personalizations"]:
                told = one["custom_args"]
                self.take(one["to"][0]["email"], told["attempt_id"], told["delivery_id"])
        if manner.ends != "answer":
            self.unanswered += 1
            if manner.ends == "hang":
                await asyncio.sleep(_LONGEST)
            self.reset(writer)
            return
        if manner.kill == "body":
            self.strike()
            return
        writer.write(answer)
        await writer.drain()
        if manner.kill == "answer":
            self.strike()

    def _judged(self, request: Any) -> tuple[bytes, bool]:
        """The usual answer: 202, or 400 naming those whom it refuses."""
        errors = [
            {"message": "no such mailbox here", "field": f"personalizations.{index}.to.0.email"}
            for index, one in enumerate(request["personalizations"])
            if one["to"][0]["email"].startswith(REFUSED)
        ]
        if errors:
            return _answer(400, json.dumps({"errors": errors}).encode()), False
        return _answer(202, b"", f"X-Message-Id: faults-{self.calls}"), True


def _answer(status: int, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} So", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


class SmtpServer(Server):
    """An SMTP server with PIPELINING. A Manner is of one mail: `kill` at "head" is behind its envelope."""

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Talk to a client until it leaves."""
        writer.write(b"220 faults ESMTP\r\n")
        to = ""
        while True:
            command = (await reader.readuntil(b"\r\n")).decode().rstrip()
            verb = command[:4].upper()
            if verb == "EHLO":
                writer.write(
                    b"250-faults\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250 SMTPUTF8\r\n"
                )
            elif verb == "RCPT":
                address = command.partition("<")[2].partition(">")[0]
                to = "" if address.startswith(REFUSED) else address
                writer.write(b"250 2.1.5 yes\r\n" if to else b"550 5.1.1 no such mailbox here\r\n")
            elif verb == "DATA" and not to:
                writer.write(b"503 5.5.1 nobody takes it\r\n")
            elif verb == "DATA":
                if not await self._take_mail(reader, writer, to):
                    return
                to = ""
            elif verb == "QUIT":
                writer.write(b"221 2.0.0 bye\r\n")
                return
            else:
                writer.write(b"250 2.0.0 yes\r\n")

    async def _take_mail(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, to: str) -> bool:
        """A body, and what becomes of it. False where the connection is over."""
        self.calls += 1
        manner = self.manner()
        if manner.kill == "head":
            self.strike()
            return False
        writer.write(b"354 go on\r\n")
        if manner.kill == "half" or manner.reset_at is not None:
            await self.break_off(reader, writer, manner, _SHORTEST_MAIL)
            return False
        await reader.readuntil(b"\r\n.\r\n")
        await asyncio.sleep(min(manner.seconds, _LONGEST))
        if manner.status in {None, 250} or manner.taken:
            self.take(to)
        if manner.ends != "answer":
            self.unanswered += 1
            if manner.ends == "hang":
                await asyncio.sleep(_LONGEST)
            self.reset(writer)
            return False
        if manner.kill == "body":
            self.strike()
            return False
        code = manner.status or 250
        writer.write(f"{code} {code // 100}.0.0 {'queued' if code == 250 else 'not now'}\r\n".encode())
        await writer.drain()
        if manner.kill == "answer":
            self.strike()
            return False
        return code != 421


def of_outbox(folder: Path) -> Counter[str]:
    """What an outbox holds: copies by address. A file that is not whole counts for nobody."""
    found: Counter[str] = Counter()
    new = folder / "new"
    for file in new.iterdir() if new.is_dir() else ():
        data = file.read_bytes()
        to = _TO.search(data[:4_000])
        found[to[1].decode() if to and data.endswith(b"--\r\n") else f"a file that is not whole: {file.name}"] += 1
    return found
