"""SMTP: each copy a transaction of its own, pipelined over connections that stay open; and the bounces that come back.

The client is ours (docs/decisions/0018): what is said is in smtp_wire, connections are in smtp_link, and what a call
does with them is here. Which reply means what for whom is decided in smtp_wire for one copy, and here for all of them:
whatever speaks of everybody ends the call, and what nobody has had yet is told as not tried.
"""

import asyncio
import queue
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from time import monotonic

from newsletter.edition import AttemptId, DeliveryId, Event, Finding, Message, Receipt, Recipient, Result
from newsletter.errors import DispatchError, OutcomeUnknown, ProviderRefused, Throttled, Unreachable
from newsletter.mime import HeaderError, Mould
from newsletter.providers import bounces
from newsletter.providers.smtp_link import Link, Links, Lost, Server
from newsletter.providers.smtp_wire import A_MINUTE, NAME, Closing, Copy, Garbled, Reply, Transactions

MOST_RECIPIENTS = 1_000  # of a call; what came of each is on record in windows of 200 (newsletter/dispatch.py)
_IN_A_ROW = 10  # refused, and nobody accepted between: then it is not believed that it is about them
_LAST_BODY = 0.25  # of a call's time has to be left for a copy to be begun: so a slow server leaves none in doubt
_GROUP, _GROUP_SECONDS = 50, 0.05  # receipts are handed to the caller's thread together: each hand-over costs a switch
_MOULDS = 4  # messages made ready at a time
_GRACE = 10.0  # seconds beyond its time after which a call is not waited for any more, whatever keeps the loop
_CHECK_TIMEOUT = timedelta(seconds=15)
_ACCEPTED, _NOT_TRIED = Result.ACCEPTED, Result.NOT_TRIED  # looked up once: there is one for each copy

Sign = Callable[[bytes], bytes]


class SmtpProvider:
    """An SMTP server as a provider. Calling again would send again, so what has no reply stays unknown.

    `timeout` bounds a whole call; `bounce_domain` is where bounces are to come back to, one address a delivery, else
    they go to the sender; `sign` gives the DKIM-Signature of a whole mail; `clock` is for the Date of mails and events.
    """

    name = NAME
    idempotent = False
    live = True
    atomic = False

    def __init__(
        self,
        host: str,
        *,
        port: int,
        security: str = "starttls",
        username: str | None = None,
        password: str | None = None,
        ca_file: Path | None = None,
        hello: str | None = None,
        timeout: timedelta = timedelta(seconds=60),
        batch_size: int = MOST_RECIPIENTS,
        bounce_domain: str | None = None,
        sign: Sign | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.batch_size = min(batch_size, MOST_RECIPIENTS)
        self._timeout, self._bounce_domain, self._sign, self._clock = timeout, bounce_domain, sign, clock
        self._ca_file = ca_file
        server = Server(host, port, security, lambda: self._tls, hello, username, password)
        self._links = Links(server)
        self._moulds: dict[str, Mould] = {}
        self._lock = threading.Lock()
        self._row = _Row()

    def submit(
        self, message: Message, recipients: Sequence[Recipient], attempt: AttemptId, started: Callable[[], None]
    ) -> Iterator[Receipt]:
        """One transaction a recipient, over one connection at a time. Receipts come in groups as replies do.

        An error beside receipts speaks for those that were not tried. OutcomeUnknown beside receipts names nobody else
        than those whose receipt says so.
        """
        del attempt  # a mail has no place for it: its delivery's own id stands in Message-ID
        if not recipients:
            return
        try:
            mould = self._mould(message)
        except HeaderError as error:
            raise ProviderRefused(self.name, str(error)) from error
        call = _Call(
            mould,
            recipients,
            self._clock().replace(microsecond=0),
            self._timeout,
            self._path_of(message),
            self._sign,
            self._row,
        )
        if call.prime():
            link = self._links.ask(self._ready(call))
            try:
                started()
            except BaseException:
                self._links.give_back(link)
                raise
            end = self._links.start(lambda: call.run(self._links, link))
        else:
            call.finish()
            end = _nothing
        try:
            yield from call.receipts()
        except BaseException:  # nobody waits for it any more
            end()
            raise
        if call.error is not None:
            raise call.error

    def events(self, headers: Mapping[str, str], body: bytes) -> Sequence[Event]:  # noqa: ARG002 # a mail has its own
        """What one mail that came to the bounce mailbox tells; nothing where it is no report. Raises WebhookRejected.

        It has no signature. What it says is about a delivery whose id it knows, which nobody can guess.
        """
        return bounces.read(body, self._bounce_domain, self._clock())

    def check(self) -> Sequence[Finding]:
        """Whether the server can be reached and takes the password; what it offers. Sends no mail."""
        within = min(self._timeout, _CHECK_TIMEOUT).total_seconds()
        server = self._links.server
        where = f"smtp {server.host}:{server.port}"
        try:
            link = self._links.ask(self._links.open(within=within))
        except DispatchError as error:
            return [Finding(ok=False, what=f"{where}: {error}")]
        self._links.give_back(link)
        return [
            Finding(ok=True, what=f"{where}: {_standing(link, server)}"),
            *_advice(link, server, where),
            *self._own_advice(),
        ]

    def close(self) -> None:
        """Take leave of the server. A call that goes on ends."""
        self._links.close()

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=str(self._ca_file) if self._ca_file else None)
        except (OSError, ValueError) as error:  # an SSLError is an OSError
            raise ProviderRefused(self.name, f"provider.ca_file cannot be read: {type(error).__name__}") from None

    async def _ready(self, call: "_Call") -> Link:
        link = await self._links.take(within=call.left())
        if link.offers.size is not None and call.first_size > link.offers.size:
            self._links.keep(link)
            what = f"a mail has {call.first_size:,} bytes, and the server takes {link.offers.size:,}"
            raise ProviderRefused(self.name, what)
        return link

    def _mould(self, message: Message) -> Mould:
        with self._lock:
            found = self._moulds.get(message.digest)
            if found is None:
                found = self._moulds[message.digest] = Mould(message)
                if len(self._moulds) > _MOULDS:
                    del self._moulds[next(iter(self._moulds))]
            return found

    def _path_of(self, message: Message) -> Callable[[DeliveryId], str]:
        """Where bounces of a delivery go: the envelope's sender."""
        domain, sender = self._bounce_domain, message.sender.from_address
        if domain is None:
            return lambda delivery: sender  # noqa: ARG005 # the same for all
        return lambda delivery: bounces.return_path(delivery, domain)

    def _own_advice(self) -> Iterator[Finding]:
        if self._bounce_domain is None:
            what = "smtp: provider.bounce_domain is not set: bounces go to the newsletter's sender, and are not counted"
            yield Finding(ok=None, what=what)
        if self._sign is None:
            what = "smtp: provider.dkim is not set: the server has to sign"
            yield Finding(ok=None, what=what)


def _nothing() -> None:
    """Nothing is to be ended."""


class _Row:
    """What all calls of a provider have seen of refusals. Touched in the loop's thread alone.

    `proven` is True once somebody was accepted; `trips` counts how often refusals were too many to be believed, and
    `fault` is what was said then.
    """

    def __init__(self) -> None:
        self.refused = 0
        self.proven = False
        self.trips = 0
        self.fault: DispatchError | None = None

    def trip(self, fault: DispatchError) -> DispatchError:
        """End all calls that go on."""
        self.refused, self.proven, self.fault = 0, False, fault
        self.trips += 1
        return fault


class _Call:
    """One submit: who waits, what is known, and when it must end. All but `prime` and `receipts` is the loop's."""

    def __init__(  # noqa: PLR0917 # what a call is made of
        self,
        mould: Mould,
        recipients: Sequence[Recipient],
        date: datetime,
        timeout: timedelta,
        path_of: Callable[[DeliveryId], str],
        sign: Sign | None,
        row: _Row,
    ) -> None:
        self.error: Exception | None = None
        self.first_size = 0
        self._mould, self._date, self._path_of, self._sign = mould, date, path_of, sign
        self._row, self._trips = row, row.trips
        self._seconds, self._begun = timeout.total_seconds(), monotonic()
        self._waiting = deque(recipients)
        self._back: list[Copy] = []  # made, and not tried
        self._disbelieved: list[DeliveryId] = []  # refused, but not for their own sake
        self._known = 0  # how many have a receipt
        self._stop: DispatchError | None = None
        self._talk: Transactions | None = None
        self._group: list[Receipt] = []
        self._flusher: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._inbox: queue.SimpleQueue[list[Receipt] | None] = queue.SimpleQueue()

    def left(self) -> float:
        """Seconds until it must have ended."""
        return max(0.0, self._begun + self._seconds - monotonic())

    # ------------------------------------------------------------------------------------------ the caller's thread

    def prime(self) -> bool:
        """Make the first copy. False where there is none to be made."""
        copy = self._made()
        if copy is None:
            return False
        self.first_size = copy.size
        self._back.append(copy)
        return True

    def receipts(self) -> Iterator[Receipt]:
        """What comes of each, as it becomes known."""
        while True:
            try:
                group = self._inbox.get(timeout=self._seconds + _GRACE)
            except queue.Empty:
                raise OutcomeUnknown(NAME, "the call did not end in its time") from None
            if group is None:
                return
            yield from group

    # ------------------------------------------------------------------------------------------ the copies

    def next_copy(self) -> Copy | None:
        """The next one to be tried. None where there is none, or none is to be begun any more."""
        if self._trips != self._row.trips:
            self._stop = self._row.fault
        if self._stop is not None or self.left() < self._seconds * _LAST_BODY:
            return None
        return self._back.pop() if self._back else self._made()

    def _made(self) -> Copy | None:
        while self._waiting:
            recipient = self._waiting.popleft()
            try:
                parts = self._mould.parts(recipient, self._date)
            except HeaderError as error:
                self._tell(Receipt(recipient.delivery, Result.REFUSED, str(error)))
                continue
            if self._sign is not None:
                parts.insert(0, self._sign(b"".join(parts)))
            wide = not recipient.address.isascii()
            path = self._path_of(recipient.delivery)
            return Copy(recipient.delivery, path, recipient.address, parts, wide)
        return None

    def tell(self, receipt: Receipt, reply: Reply | None) -> None:
        """Take down what came of one copy, and see whether it speaks of all of them."""
        row = self._row
        if receipt.result is _ACCEPTED:
            row.refused, row.proven = 0, True
        elif reply is None:  # the server was never asked
            pass
        elif reply.about_the_system():
            self._stop = Throttled(NAME, A_MINUTE)
        elif receipt.result is Result.REFUSED:
            row.refused += 1
            if row.refused >= _IN_A_ROW:
                said = f"{_IN_A_ROW} recipients in a row were refused, the last one with: {receipt.reason}"
                self._stop = row.trip(ProviderRefused(NAME, said))
            elif reply.about_everyone() and not row.proven:
                self._stop = row.trip(ProviderRefused(NAME, receipt.reason or "no reason given"))
            if self._stop is not None:
                self._disbelieved.append(receipt.delivery)
                return
        self._tell(receipt)

    def _tell(self, receipt: Receipt) -> None:
        if receipt.result is not _NOT_TRIED:
            self._known += 1
        self._group.append(receipt)
        if len(self._group) >= _GROUP:
            self._flush()
        elif self._flusher is None and self._loop is not None:
            self._flusher = self._loop.call_later(_GROUP_SECONDS, self._flush)

    def _flush(self) -> None:
        if self._flusher is not None:
            self._flusher.cancel()
            self._flusher = None
        if self._group:
            self._inbox.put(self._group)
            self._group = []

    # ------------------------------------------------------------------------------------------ the loop

    async def run(self, links: Links, link: Link) -> None:
        """Hand the copies over, on another connection where the server ends one between two of them."""
        self._loop = asyncio.get_running_loop()
        fault: Exception | None
        try:
            async with asyncio.timeout(self.left()):
                again, fault = await self._carry(links, link)
                while again:
                    link = await links.open(within=self.left())
                    again, fault = await self._carry(links, link)
        except TimeoutError:
            fault = self._cut_short(link, f"no answer within {self._seconds:g} s")
        except asyncio.CancelledError:
            fault = self._cut_short(link, "the call was given up")
        except DispatchError as error:  # no other connection
            fault = error
        except Exception as error:  # noqa: BLE001 # a fault of ours: the caller's thread raises it
            self._cut_short(link, "a fault of the program")
            fault = error
        self.finish(fault)

    async def _carry(self, links: Links, link: Link) -> tuple[bool, DispatchError | None]:
        """As many copies as one connection takes. Whether to go on with another, and what ended this one."""
        talk = self._talk = Transactions(link.offers, self.next_copy, self.tell)
        fault: DispatchError
        try:
            await link.converse(talk.run())
        except Closing as closing:
            if talk.out is not None:  # RFC 5321 section 4.2.5: a refusal for now, and not for the recipient's sake
                self._tell(Receipt(talk.out.delivery, Result.DEFERRED, str(closing)))
                talk.out = None
            fault = Throttled(NAME, A_MINUTE)
        except (Lost, Garbled) as error:
            if talk.out is not None:
                return False, self._cut_short(link, str(error))
            fault = Unreachable(NAME, str(error))
        except DispatchError as error:
            self._put_back(talk)
            return False, error
        else:
            if self._stop is None:
                links.keep(link)
            else:  # what was refused on it may be allowed on another, once somebody has mended it
                link.part()
            return False, self._stop
        self._put_back(talk)
        # One that was kept may have been closed before it heard anything.
        return (talk.answered > 0 or link.used) and self._more(), fault

    def _cut_short(self, link: Link, why: str) -> DispatchError:
        """End a connection in the middle. What was going out on it is unknown."""
        link.fail(Lost(why))
        talk = self._talk
        if talk is None or talk.out is None:
            if talk is not None:
                self._put_back(talk)
            return Unreachable(NAME, why)
        self._tell(Receipt(talk.out.delivery, Result.UNKNOWN, f"{NAME} gave no answer: {why}"))
        talk.out = None
        self._put_back(talk)
        return OutcomeUnknown(NAME, why)

    def _put_back(self, talk: Transactions) -> None:
        if talk.at is not None:
            self._back.append(talk.at)
            talk.at = None

    def _more(self) -> bool:
        return self._stop is None and bool(self._back or self._waiting)

    def finish(self, fault: Exception | None = None) -> None:
        """Tell who was not tried, and that this is all. Where nobody has a receipt, the error alone speaks."""
        rest = [*self._disbelieved, *(copy.delivery for copy in self._back), *(one.delivery for one in self._waiting)]
        if rest and fault is None and not self._known:
            fault = Unreachable(NAME, "no time was left for the first one")
        if self._known:
            why = str(fault) if fault is not None else "no time was left for them in this call"
            self._group += [Receipt(delivery, Result.NOT_TRIED, why) for delivery in rest]
        if rest or not isinstance(fault, DispatchError) or isinstance(fault, OutcomeUnknown):
            self.error = fault
        self._flush()
        self._inbox.put(None)


# ---------------------------------------------------------------------------------------------- for doctor


def _standing(link: Link, server: Server) -> str:
    """What a connection that is ready says for itself."""
    how = "encrypted" if link.encrypted else "not encrypted"
    who = ", the password is taken" if server.username else ""
    offered = [
        name
        for name, there in {
            "PIPELINING": link.offers.pipelining,
            "8BITMIME": link.offers.eight_bit,
            "SMTPUTF8": link.offers.utf8,
            "SIZE": link.offers.says_size,
            "ENHANCEDSTATUSCODES": link.offers.statuses,
        }.items()
        if there
    ]
    return f"{how}{who}; it offers {', '.join(offered) or 'nothing'}"


def _advice(link: Link, server: Server, where: str) -> Iterator[Finding]:
    """What is missing."""
    if not link.encrypted and not link.to_itself:
        yield Finding(ok=None, what=f"{where}: the connection is not encrypted, so anybody on the way reads the mails")
    if not link.offers.pipelining:
        yield Finding(ok=None, what=f"{where}: it does not offer PIPELINING: a copy takes four round trips, not one")
    if not link.offers.utf8:
        yield Finding(ok=None, what=f"{where}: it does not offer SMTPUTF8: addresses beyond ASCII will be refused")
    if server.username is None and link.encrypted and link.offers.auth:
        yield Finding(ok=None, what=f"{where}: it asks for a password of some, and provider.username is not set")
