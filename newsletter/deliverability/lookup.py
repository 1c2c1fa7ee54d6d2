"""Asking the DNS, within limits of time: the home of dnspython.

Whatever comes back is a stranger's. An answer is a tuple, empty where the name or the kind of record does not exist;
Unanswered is raised where nothing was learnt, which says nothing against the domain.
"""

import ipaddress
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.resolver
import dns.reversename

from newsletter.errors import ConfigurationError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

EACH = timedelta(seconds=4)  # a resolver that must ask afresh takes a second or two
OVERALL = timedelta(seconds=45)  # as long as somebody watches a terminal
_TRY = 1.5  # seconds until the question is put again, or to the next name server
_SILENT = 2  # look-ups without any answer, ever, after which nobody is there
_PAYLOAD = 1232  # bytes: DNS flag day 2020, what goes through nearly every network unfragmented
_NAME = re.compile(r"(?=.{1,253}\.?\Z)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")


class Unanswered(Exception):
    """Nothing was learnt about a name. Its sentence says why."""


class Unusable(Exception):
    """What stands at a name cannot be used by anybody: its CNAMEs go in a circle. Its sentence says so."""


@dataclass(frozen=True, slots=True)
class Texts:
    """The TXT records of a name, each with its strings joined (RFC 7208 section 3.3), and where they were found.

    `alias` is the last name that a CNAME led to, None where the name has none. It may be told without any record.
    """

    values: tuple[bytes, ...]
    alias: str | None = None


@dataclass(frozen=True, slots=True)
class _Found:
    """dnspython's records, none where there are none, and the name that they stand at."""

    name: str
    records: tuple[Any, ...] = ()


def is_name(text: str) -> bool:
    """Whether a text can stand in the DNS as a name in ASCII."""
    return _NAME.fullmatch(text) is not None


class Lookup:
    """Look-ups through the system's name servers, or one that is given as ADDRESS or ADDRESS:PORT.

    Each takes at most `each`, all together at most `overall`, counted by `monotonic` from the first; the same question
    is asked once. Raises ConfigurationError where the name server is no address.
    """

    def __init__(
        self,
        nameserver: str | None = None,
        *,
        each: timedelta = EACH,
        overall: timedelta = OVERALL,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server = _server(nameserver) if nameserver else None
        self._each, self._overall, self._monotonic = each.total_seconds(), overall.total_seconds(), monotonic
        self._ends: float | None = None
        self._resolver: dns.resolver.Resolver | None = None
        self._told: dict[tuple[str, str], _Found | Unanswered | Unusable] = {}
        self._answers = self._silences = 0

    def texts(self, name: str) -> Texts:
        """The TXT records of a name. Raises Unanswered, Unusable."""
        found = self._ask(name, "TXT")
        values = tuple(b"".join(record.strings) for record in found.records)
        return Texts(values, found.name if found.name != _plain(name) else None)

    def exchangers(self, name: str) -> tuple[tuple[int, str], ...]:
        """The MX records of a name, the most wanted first; a null MX (RFC 7505) is (0, ""). Raises as `texts`."""
        records = self._ask(name, "MX").records
        return tuple(sorted((record.preference, _plain(record.exchange.to_text())) for record in records))

    def addresses(self, name: str) -> tuple[Address, ...]:
        """The addresses of a name, of both kinds. Raises as `texts`."""
        records = [record for kind in ("A", "AAAA") for record in self._ask(name, kind).records]
        return tuple(ipaddress.ip_address(record.address) for record in records)

    def names_of(self, address: Address) -> tuple[str, ...]:
        """What an address is called by the reverse DNS. Raises as `texts`."""
        records = self._ask(dns.reversename.from_address(str(address)).to_text(), "PTR").records
        return tuple(_plain(record.target.to_text()) for record in records)

    def _ask(self, name: str, kind: str) -> "_Found":
        if not is_name(name):
            return _Found(name)
        key = (_plain(name), kind)
        if key not in self._told:
            try:
                self._told[key] = self._asked(*key)
            except (Unanswered, Unusable) as error:
                self._told[key] = error
        told = self._told[key]
        if isinstance(told, _Found):
            return told
        raise told

    def _asked(self, name: str, kind: str) -> "_Found":
        now = self._monotonic()
        self._ends = self._ends if self._ends is not None else now + self._overall
        within = min(self._each, self._ends - now)
        if within <= 0:
            raise Unanswered(f"no time was left: all look-ups together take at most {self._overall:.0f} s")
        if not self._answers and self._silences >= _SILENT:
            raise Unanswered("no name server answers: is there a network?")
        try:
            answer = self._opened().resolve(
                dns.name.from_text(name), kind, lifetime=within, raise_on_no_answer=False, search=False
            )
        except dns.resolver.NXDOMAIN as error:
            self._answers += 1
            return _Found(_plain(error.canonical_name.to_text()))
        except dns.resolver.NoResolverConfiguration:
            raise Unanswered("this machine names no name server: --nameserver ADDRESS names one") from None
        except dns.resolver.LifetimeTimeout:
            self._silences += 1
            raise Unanswered(f"the name server did not answer within {within:.0f} s") from None
        except dns.resolver.NoNameservers as error:
            raise self._refusal(error.kwargs["errors"]) from None
        except (dns.exception.DNSException, OSError, ValueError):
            raise Unanswered("the name server's answer cannot be read") from None
        self._answers += 1
        return _Found(_plain(answer.canonical_name.to_text()), tuple(answer.rrset or ()))

    def _refusal(self, errors: Sequence[tuple[str, bool, int, Any, Any]]) -> Unanswered | Unusable:
        """What name servers said in place of an answer, or that there is no way to them (dnspython's list of both)."""
        for _, _, _, said, response in errors:
            if isinstance(said, dns.message.ChainTooLong):
                return Unusable("its CNAMEs go in a circle, or on and on")
            if response is not None:
                self._answers += 1
                return Unanswered(
                    f"the name server answered {dns.rcode.to_text(response.rcode())}: either it, the domain's own name "
                    "servers or their DNSSEC are out of order, or CNAMEs go in a circle"
                )
            if not isinstance(said, OSError):
                return Unanswered("the name server's answer cannot be read")
        self._silences += 1
        return Unanswered("no name server can be reached: is there a network?")

    def _opened(self) -> dns.resolver.Resolver:
        if self._resolver is None:
            resolver = dns.resolver.Resolver(configure=self._server is None)
            if self._server is not None:
                resolver.nameservers, resolver.port = [self._server[0]], self._server[1]
            resolver.timeout = _TRY
            resolver.use_edns(0, 0, _PAYLOAD)
            self._resolver = resolver
        return self._resolver


def _server(given: str) -> tuple[str, int]:
    match = re.fullmatch(r"\[([0-9A-Fa-f:.]+)\](?::([0-9]{1,5}))?|([0-9.]+):([0-9]{1,5})|([0-9A-Fa-f:.]+)", given)
    host, port = (match[1] or match[3] or match[5], int(match[2] or match[4] or 53)) if match else ("", 0)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if address is None or not 0 < port < 65_536:  # noqa: PLR2004 # ports are 16 bits
        raise ConfigurationError(
            f"--nameserver: expected an address such as “9.9.9.9” or “127.0.0.1:5353”, found “{given}”"
        )
    return str(address), port


def _plain(name: str) -> str:
    return name.rstrip(".").lower()
