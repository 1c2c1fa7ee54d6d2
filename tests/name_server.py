"""A small name server on loopback: it answers over UDP what a zone says, follows CNAMEs as a resolver "
"does, or misbehaves."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

SILENT, SERVFAIL, GARBAGE = "silent", "servfail", "garbage"
_MOST_LINKS = 20  # of a chain of CNAMEs: a circle is sent as far as that


def txt(text: str | bytes) -> str:
    """TXT data as zones write it, in strings of 255 bytes, whatever the bytes."""
    data = text.encode() if isinstance(text, str) else text
    pieces = [data[at : at + 255] for at in range(0, len(data), 255)] or [b""]
    return " ".join('"' + "".join(f"\\{byte:03d}" for byte in piece) + '"' for piece in pieces)


class NameServer:
    """`zone` is {"name TYPE": data, or several}; `faults` {"name": SILENT, SERVFAIL or GARBAGE}, "*" for all names."""

    def __init__(self, zone: dict[str, str | list[str]], faults: dict[str, str] | None = None) -> None:
        self._zone = {key.lower(): [data] if isinstance(data, str) else data for key, data in zone.items()}
        self._faults = faults or {}
        self.asked: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.05)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def address(self) -> str:
        host, port = self._socket.getsockname()
        return f"{host}:{port}"

    def _serve(self) -> None:
        while not self._over.is_set():
            try:
                wire, client = self._socket.recvfrom(4_096)
            except TimeoutError:
                continue
            if (answer := self._answer(wire)) is not None:
                self._socket.sendto(answer, client)

    def _answer(self, wire: bytes) -> bytes | None:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked.append(f"{name} {kind}")
        fault = self._faults.get(name) or self._faults.get("*")
        if fault == SILENT:
            return None
        if fault == GARBAGE:
            return wire[:2] + b"\x81\x80" + b"\xff" * 40
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        if fault == SERVFAIL:
            response.set_rcode(dns.rcode.SERVFAIL)
            return response.to_wire()
        self._look_up(response, name, kind)
        return response.to_wire(max_size=65_000)

    def _look_up(self, response: dns.message.Message, name: str, kind: str) -> None:
        for _ in range(_MOST_LINKS):
            if (data := self._zone.get(f"{name} {kind.lower()}")) is not None:
                response.answer.append(dns.rrset.from_text_list(f"{name}.", 60, "IN", kind, data))
                return
            if (alias := self._zone.get(f"{name} cname")) is None:
                if not any(key.partition(" ")[0] == name for key in self._zone):
                    response.set_rcode(dns.rcode.NXDOMAIN)
                return
            response.answer.append(dns.rrset.from_text_list(f"{name}.", 60, "IN", "CNAME", alias))
            name = alias[0].rstrip(".").lower()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(5)
        self._socket.close()


@contextmanager
def serving(zone: dict[str, str | list[str]], faults: dict[str, str] | None = None) -> Iterator[NameServer]:
    with NameServer(zone, faults) as server:
        yield server
