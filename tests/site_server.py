"""A desk's site, served for real on a free port of loopback, and a visitor who asks and posts without cookies."""

import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import uvicorn

from newsletter import notices, people
from newsletter.housekeeping import purge_all
from newsletter.newsroom import Newsroom
from newsletter.settings import Settings
from newsletter.web.app import create_app
from tests.conftest import Desk

SECRETS = {
    "NEWSLETTER_SECRET": "a secret that is long enough for all of our tests",
    "NEWSLETTER_ERASURE_KEY": "another secret that is long enough and never changes",
}
SITE = "https://news.example.org"


@dataclass(frozen=True)
class Answer:
    """What the server said."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def heading(self) -> str:
        found = re.search(r"<h1[^>]*>(.*?)</h1>", self.text, re.DOTALL)
        return " ".join(re.sub(r"<[^>]+>", "", found[1]).split()) if found else ""

    def hidden(self, name: str) -> str:
        found = re.search(rf'name="{name}" value="([^"]*)"', self.text)
        assert found, f"no field {name}"
        return found[1]


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_Stay, urllib.request.ProxyHandler({}))


@dataclass
class Site:
    """The pages of a desk, and its outbox. Nothing is sent until `work` is called."""

    desk: Desk
    extra: str = ""
    environ: Mapping[str, str] = field(default_factory=lambda: SECRETS)
    newsroom: Newsroom = field(init=False)
    seen: set[str] = field(default_factory=set)

    def __enter__(self) -> Self:
        text = self.desk.file.read_text()
        if self.extra and self.extra not in text:
            self.desk.file.write_text(text + self.extra)
        self.newsroom = Newsroom.open(Settings.load(self.desk.file, self.environ), self.desk.clock)
        people.ensure_lists(self.newsroom)
        app = create_app(self.newsroom, work=False)
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port = self._socket.getsockname()[1]
        self._server = uvicorn.Server(
            uvicorn.Config(app, log_config=None, access_log=False, ws="none", proxy_headers=False)
        )
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]})
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()
        self.newsroom.close()

    # ---------------------------------------------------------------------------------- visiting

    def ask(self, path: str, method: str = "GET", data: bytes | None = None, **headers: str) -> Answer:
        path = path.removeprefix(SITE)
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=data, method=method)
        for name, value in headers.items():
            request.add_header(name.replace("_", "-"), value)
        try:
            with _OPENER.open(request, timeout=20) as answer:
                return Answer(answer.status, dict(answer.headers.items()), answer.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, dict(error.headers.items()), error.read().decode())

    def post(self, path: str, fields: Mapping[str, str | Sequence[str]] | None = None, **headers: str) -> Answer:
        return self.ask(path, "POST", urlencode(fields or {}, doseq=True).encode(), **headers)

    def join(self, address: str, path: str = "/join/daily", **fields: str) -> Answer:
        """Fill in the form as a person would, who takes a while and all lists that are offered."""
        form = self.ask(path)
        lists = re.findall(r'name="list" value="([^"]*)"', form.text)
        self.desk.clock.forward(timedelta(seconds=5))
        return self.post(path, {"address": address, "ticket": form.hidden("ticket"), "list": lists, **fields})

    def confirm(self, mail: EmailMessage) -> Answer:
        """Open the link of a confirmation, and press the button there."""
        shown = self.ask(link_in(mail, "c"))
        action = re.search(r'<form[^>]* action="([^"]*)"', shown.text)
        assert action, shown.text
        return self.post(action[1].replace("&amp;", "&"))

    def choose(self, link: str, fields: Mapping[str, str | Sequence[str]], name: str = "daily") -> Answer:
        """Press the button of the page behind the link to leave by."""
        return self.post(f"/u/{link}/{name}?page", fields)

    # ---------------------------------------------------------------------------------- mails

    def work(self) -> list[EmailMessage]:
        """Do what `serve` does beside the pages; give the mails that came of it."""
        notices.settle_requests(self.newsroom.engine, self.newsroom.settings, self.newsroom.clock)
        notices.Sender(self.newsroom.engine, self.newsroom.settings, self.newsroom.provider, self.newsroom.clock).run()
        purge_all(self.newsroom)
        return self.mails()

    def mails(self) -> list[EmailMessage]:
        """What has come into the outbox since the last look."""
        fresh = [path for path in self.desk.mails if path.name not in self.seen]
        self.seen.update(path.name for path in fresh)
        return [message_from_bytes(path.read_bytes(), policy=policy.default) for path in fresh]

    def confirmed(self, address: str, path: str = "/join/daily") -> str:
        """Have a person join; give the link of their mails."""
        self.join(address, path)
        (mail,) = self.work()
        assert self.post(link_in(mail, "c")).status == 200
        self.work()
        person = people.show(self.newsroom, address)
        assert person.subscriber is not None
        return person.subscriber.link

    def rights(self, link: str) -> str:
        """The path of a fresh link to a person's own preferences, asked for by the link of their mails."""
        ticket = self.ask(f"/p/{link}").hidden("ticket")
        self.desk.clock.forward(timedelta(seconds=5))
        assert self.post(f"/p/{link}", {"ticket": ticket}).status == 200
        (mail,) = self.work()
        return link_in(mail, "m")


def text_of(mail: EmailMessage) -> str:
    part = mail.get_body(("plain",))
    assert part is not None
    return str(part.get_content())


def link_in(mail: EmailMessage, kind: str) -> str:
    """The path of a kind of link in a mail."""
    found = re.search(rf"{SITE}(/{kind}/[^\s]+)", text_of(mail))
    assert found, text_of(mail)
    return found[1]
