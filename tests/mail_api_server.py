"""A local stand-in for SendGrid's API: real sockets, scripted misbehaviour, and a judge stricter than the API's own.

Left alone it judges each request by what SendGrid documents and its OpenAPI description does not say (limits, reserved
headers, duplicates, strings only), and answers as SendGrid does. A script says what it does instead, one Act for each
connection. It keeps what arrived, byte for byte.
"""

import json
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, Self

RESERVED = {
    "x-sg-id",
    "x-sg-eid",
    "received",
    "dkim-signature",
    "content-type",
    "content-transfer-encoding",
    "to",
    "from",
    "subject",
    "reply-to",
    "cc",
    "bcc",
}
ADDRESS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")
FIELD = re.compile(r"\[\[\w+\.[ht]\.\w+\]\]")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def answer(status: int, body: bytes | Mapping[str, Any] = b"", **headers: str) -> bytes:
    """A whole HTTP answer. Headers are named with underscores for hyphens."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(data)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + data


def errors(*found: tuple[str, str | None]) -> dict[str, Any]:
    """A body as SendGrid lists errors: messages with their fields."""
    return {"errors": [{"message": message, "field": at, "help": None} for message, at in found]}


@dataclass(frozen=True)
class Act:
    """What happens on one connection: how much of the body is read (None: all), what is said, and what then.

    `drip` is the pause in seconds after each byte that is said. `deaf` reads nothing at all, not even the head.
    """

    says: bytes = b""
    reads: int | None = None
    then: Literal["close", "reset", "hang"] = "close"
    drip: float = 0
    deaf: bool = False


@dataclass
class Request:
    """What arrived on one connection. `length` is what its Content-Length promised."""

    head: bytes = b""
    body: bytes = b""
    length: int = 0

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def path(self) -> str:
        return self.head.split(b" ", 2)[1].decode()

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}


@dataclass
class MailApi:
    """The server, while it is entered. `taken` holds the delivery ids of all that it accepted."""

    script: list[Act] = field(default_factory=list)
    tls: ssl.SSLContext | None = None
    judge: Callable[[Any], list[tuple[str, str | None]]] | None = None
    requests: list[Request] = field(default_factory=list)
    batches: dict[str, str] = field(default_factory=dict)  # batch ids given out: open, or what was asked of them
    lists: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # suppressions, newest first
    webhooks: list[dict[str, Any]] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    bytes_in: int = 0

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        self.url = f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}"
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._listen, daemon=True)]
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)

    @property
    def request(self) -> Request:
        """The only one there was."""
        (request,) = self.requests
        return request

    def _listen(self) -> None:
        while not self._over.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                act = self.script.pop(0) if self.script else None
            thread = threading.Thread(target=self._serve, args=(connection, act), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, act: Act | None) -> None:
        connection.settimeout(10)
        try:
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
            self._converse(connection, act)
        except OSError:  # the client hung up, which is what some tests are about
            pass
        finally:
            if act is not None and act.then == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()

    def _converse(self, connection: socket.socket, act: Act | None) -> None:
        request = Request()
        if act is not None and act.deaf:
            time.sleep(0.1)  # until the client has begun; a reset while it connects is another case
        else:
            self._read(connection, request, None if act is None else act.reads)
        if act is None and (not request.head or len(request.body) < request.length):
            return  # the client thought better of it
        says = self._usual(request) if act is None else act.says
        if act is not None and act.drip:
            for byte in says:
                connection.sendall(bytes([byte]))
                time.sleep(act.drip)
        else:
            connection.sendall(says)
        if act is not None and act.then == "hang":
            self._over.wait(10)
        elif act is None or act.then == "close":
            if act is not None and (act.deaf or act.reads is not None):
                connection.shutdown(socket.SHUT_WR)
                time.sleep(0.05)  # what was said arrives before the reset that unread bytes cause
            elif self.tls is None:
                connection.shutdown(socket.SHUT_WR)

    def _read(self, connection: socket.socket, request: Request, most: int | None) -> None:
        data = b""
        recorded = False
        while True:
            head, found, body = data.partition(b"\r\n\r\n")
            if found:
                request.head, request.body = head + b"\r\n\r\n", body
                length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
                request.length = int(length[1]) if length else 0
                if not recorded:
                    recorded = True
                    with self._lock:
                        self.requests.append(request)
                if len(body) >= (request.length if most is None else min(most, request.length)):
                    return
            more = connection.recv(65_536 if most is None else min(65_536, most + 1))
            if not more:
                return
            with self._lock:
                self.bytes_in += len(more)
            data += more

    def _scheduling(self, request: Request) -> bytes | None:
        """Batch ids, and what is asked of them."""
        if request.path == "/v3/mail/batch":
            with self._lock:
                self.batches[f"batch{len(self.batches)}"] = "open"
                return answer(201, {"batch_id": f"batch{len(self.batches) - 1}"})
        if request.path == "/v3/user/scheduled_sends":
            asked = json.loads(request.body)
            with self._lock:
                if self.batches.get(asked["batch_id"]) != "open":
                    return answer(400, errors(("a status for this batch id exists already", "batch_id")))
                self.batches[asked["batch_id"]] = asked["status"]
            return answer(201, asked)
        if request.path.startswith("/v3/user/scheduled_sends/"):
            name = request.path.rpartition("/")[2]
            status = self.batches.get(name, "open")
            said = [] if status == "open" else [{"batch_id": name, "status": status}]
            return answer(200, json.dumps(said).encode())
        return None

    def _usual(self, request: Request) -> bytes:
        if (said := self._scheduling(request)) is not None:
            return said
        if request.path == "/v3/scopes":
            return answer(200, {"scopes": ["mail.send", "sender_verification_eligible"]})
        if not request.headers.get("authorization", "").startswith("Bearer SG."):
            return answer(401, errors(("The provided authorization grant is invalid, expired, or revoked", None)))
        if request.head.startswith(b"GET "):
            return self._told(request)
        found = violations(request.body)
        if not found and self.judge is not None:
            found = self.judge(request.json)
        if found:
            return answer(400, errors(*found))
        return self._taken(request)

    def _taken(self, request: Request) -> bytes:
        sandbox = request.json.get("mail_settings", {}).get("sandbox_mode", {}).get("enable", False)
        if sandbox:
            return answer(200)
        with self._lock:
            self.taken += [one["custom_args"]["delivery_id"] for one in request.json["personalizations"]]
            return answer(202, X_Message_Id=f"Ua9z9lSTSaqYBWJe_Xfc-{len(self.requests)}")

    def _told(self, request: Request) -> bytes:
        """The webhooks' settings, or a page of a suppression list as the Suppressions API gives it."""
        if request.path == "/v3/user/webhooks/event/settings/all":
            return answer(200, {"max_allowed": 2, "webhooks": self.webhooks})
        if not request.path.startswith("/v3/suppression/"):
            return answer(404)
        path, _, query = request.path.partition("?")
        asked = {name: int(value) for name, _, value in (part.partition("=") for part in query.split("&"))}
        if not set(asked) <= {"limit", "offset", "start_time", "end_time"} or not 0 < asked["limit"] <= 500:
            return answer(400, errors(("limit must be an integer between 1 and 500", "limit")))
        since = [
            one for one in self.lists.get(path.rpartition("/")[2], []) if one["created"] >= asked.get("start_time", 0)
        ]
        page = since[asked["offset"] : asked["offset"] + asked["limit"]]
        return answer(200, json.dumps(page).encode())


# ---------------------------------------------------------------------------------------------- the judge


def violations(body: bytes) -> list[tuple[str, str | None]]:
    """What SendGrid would refuse, or deliver otherwise than it should: sentences, each with the field it is about."""
    if len(body) >= 30_000_000:
        return [("the request is 30 MB or more", None)]
    try:
        request = json.loads(body)
        json.dumps(request, ensure_ascii=False).encode()  # no halves of surrogate pairs
    except ValueError:
        return [("not JSON", None)]
    found: list[tuple[str, str | None]] = []

    def must(good: object, what: str, at: str) -> None:
        if not good:
            found.append((what, at))

    known = {"personalizations", "from", "reply_to", "subject", "content", "headers", "categories"}
    known |= {"tracking_settings", "mail_settings", "send_at", "batch_id"}
    must(set(request) <= known, "unknown keys", "")
    must(isinstance(request.get("send_at", 1), int), "a whole number", "send_at")
    must([part["type"] for part in request["content"]] == ["text/plain", "text/html"], "text before HTML", "content")
    must(all(part["value"] for part in request["content"]), "an empty part", "content")
    must(request["subject"] and not CONTROL.search(request["subject"]), "a bad subject", "subject")
    for name in ("from", "reply_to"):
        if name in request:
            must(ADDRESS.fullmatch(request[name]["email"]), "a bad address", name)
            must(set(request[name]) <= {"email", "name"} and all(request[name].values()), "bad keys", name)
    must(set(request["headers"]) <= {"List-Id", "Feedback-ID"} and "List-Id" in request["headers"], "which", "headers")
    categories = request["categories"]
    must(len(set(categories)) == len(categories) <= 10, "repeated or too many", "categories")
    must(all(0 < len(name) <= 255 and "@" not in name for name in categories), "a bad category", "categories")
    tracking = request["tracking_settings"]
    names = {"click_tracking", "open_tracking", "subscription_tracking", "ganalytics"}
    must(set(tracking) == names and not any(any(s.values()) for s in tracking.values()), "is on", "tracking_settings")
    people = request["personalizations"]
    must(0 < len(people) <= 1_000, "1 to 1,000 of them", "personalizations")
    seen: set[str] = set()
    fields = {name for part in request["content"] for name in FIELD.findall(part["value"])}
    for index, one in enumerate(people):
        found += [(what, f"personalizations.{index}{at}") for what, at in _judge_one(one, fields, seen)]
    for at, headers in (("headers", request["headers"]), *_headers_of(people)):
        must(not RESERVED & set(map(str.lower, headers)), "a reserved header", at)
        must(all(isinstance(v, str) and re.fullmatch(r"[ -~]+", v) for v in headers.values()), "no ASCII text", at)
    return found


def _headers_of(people: list[Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(f"personalizations.{index}.headers", one["headers"]) for index, one in enumerate(people)]


def _judge_one(one: Any, fields: set[str], seen: set[str]) -> list[tuple[str, str]]:
    (to,) = one["to"]
    name = to.get("name", "nobody")
    email = to["email"].casefold()
    once = email not in seen
    seen.add(email)
    filled, told = one["substitutions"], one["custom_args"]
    sizes = {part: len(json.dumps(one[part], separators=(",", ":"))) for part in ("substitutions", "custom_args")}
    link = one["headers"].get("List-Unsubscribe", "")
    checks = [
        (set(one) == {"to", "headers", "substitutions", "custom_args"}, "other keys", ""),
        (ADDRESS.fullmatch(to["email"]) and len(email) <= 254, "Does not contain a valid address.", ".to.0.email"),
        (set(to) <= {"email", "name"}, "other keys", ".to.0"),
        (name.strip() and not CONTROL.search(name) and ";" not in name and "," not in name, "a bad name", ".to.0.name"),
        (once, f"Each email address should be unique; duplicate instance of [{to['email']}]", ""),
        (set(one["headers"]) == {"List-Unsubscribe", "List-Unsubscribe-Post"}, "other headers", ".headers"),
        (re.fullmatch(r"<https://[!-;=?-~]+>", link), "no one-click URL", ".headers"),
        (one["headers"].get("List-Unsubscribe-Post") == "List-Unsubscribe=One-Click", "no one-click", ".headers"),
        (all(isinstance(v, str) for v in (*filled.values(), *told.values())), "not a string", ".substitutions"),
        (sizes["substitutions"] <= 10_000, "more than 10,000 bytes", ".substitutions"),
        (sizes["custom_args"] <= 10_000, "more than 10,000 bytes", ".custom_args"),
        (set(filled) == fields, "not the fields that are in the content", ".substitutions"),
        (set(told) == {"attempt_id", "delivery_id"}, "other arguments", ".custom_args"),
        (all(re.fullmatch(r"[a-z0-9]{1,32}", v) for v in told.values()), "perhaps personal", ".custom_args"),
    ]
    return [(what, at) for good, what, at in checks if not good]


def rendered(request: Any, index: int) -> tuple[str, str]:
    """What SendGrid makes of the text and the HTML for one of a request's recipients."""
    text, html = (part["value"] for part in request["content"])
    for tag, value in request["personalizations"][index]["substitutions"].items():
        text, html = text.replace(tag, value), html.replace(tag, value)
    return text, html
