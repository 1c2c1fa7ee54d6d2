"""What SPF, DKIM and DMARC records say: RFC 7208, 6376 and 9989 as a receiving host reads them.

SPF is walked through all its includes, since its limits count them all. What is quoted of a record is made fit for a
terminal by `quoted`.
"""

import base64
import binascii
import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from newsletter.deliverability.lookup import Address, Lookup, Unanswered, Unusable, is_name

MOST_LOOKUPS = 10  # RFC 7208 section 4.6.4: more, and the record counts as broken
_MOST_VOID = 2  # the same: look-ups that find nothing
_MOST_EXCHANGERS = 10  # the same, of one “mx”
_WALKED = 40  # look-ups after which a record is far beyond repair
_TREE = 8  # RFC 9989 section 4.10: names that a tree walk may ask
_ED25519_BYTES = 32
_LARGEST_BITS = 8_192  # of an RSA key that is worth the time; the largest that anybody publishes is 4096

_TERM = re.compile(
    r"(?P<sign>[+?~-]?)(?P<name>all|include|a|mx|ptr|ip4|ip6|exists)"
    r"(?::(?P<what>[^\s]*?))?(?P<prefix>(?:/[0-9]{1,3})?(?://[0-9]{1,3})?)",
    re.IGNORECASE,
)
_MODIFIER = re.compile(r"(?P<name>[A-Za-z][A-Za-z0-9._-]*)=(?P<value>.*)")
_COUNTED = {"include", "a", "mx", "ptr", "exists"}  # and redirect: RFC 7208 section 4.6.4


def quoted(text: str | bytes, most: int = 80) -> str:
    """A stranger's text in quotation marks: printable ASCII, the rest as “?”, cut where it is long."""
    text = text.decode("latin-1") if isinstance(text, bytes) else text
    plain = re.sub(r"[^ -~]", "?", text[: most + 1])
    return f"“{plain[:most]}…”" if len(plain) > most else f"“{plain}”"


class RecordFault(ValueError):
    """A record does not say what it should. Its sentence is one line, and quotes through `quoted`."""


# ---------------------------------------------------------------------------------------------- SPF


@dataclass
class Spf:
    """What a domain's SPF record comes to, its includes followed.

    `faults` make it void for everybody (a permanent error); `unlearnt` is what could not be looked up. `sign` is that
    of its “all”, "" where it has none. `takes_in` names the domains whose records count, `passes` the networks.
    """

    record: str = ""
    lookups: int = 0
    void: int = 0
    sign: str = ""
    everybody: bool = False
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unlearnt: list[str] = field(default_factory=list)
    takes_in: set[str] = field(default_factory=set)
    passes: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = field(default_factory=list)

    def allows(self, address: Address) -> bool:
        """Whether an address passes, as far as that does not depend on the mail."""
        return self.everybody or any(address in network for network in self.passes)


def spf_of(lookup: Lookup, domain: str) -> Spf | None:
    """The SPF of a domain; None where it has none. Raises Unanswered and Unusable for the domain itself."""
    records = _spf_records(lookup, domain)
    if not records:
        return None
    spf = Spf()
    if len(records) > 1:
        spf.faults.append(f"there are {len(records)} SPF records where one may be (RFC 7208 section 4.5)")
    spf.record = records[0]
    _Walk(lookup, spf).through(records[0], (domain,), reached=True, speaks=True)
    if spf.lookups > MOST_LOOKUPS:
        more = "more than " if spf.lookups >= _WALKED else ""
        spf.faults.append(
            f"it takes {more}{spf.lookups} look-ups where {MOST_LOOKUPS} are allowed (RFC 7208 section 4.6.4)"
        )
    if spf.void > _MOST_VOID:
        spf.faults.append(f"{spf.void} of its look-ups find nothing, where {_MOST_VOID} may (RFC 7208 section 4.6.4)")
    return spf


def _spf_records(lookup: Lookup, domain: str) -> list[str]:
    texts = (text.decode("latin-1") for text in lookup.texts(domain).values)
    return [text for text in texts if re.match(r"v=spf1(?: |\Z)", text, re.IGNORECASE)]


class _Walk:
    """One walk through a record and what it includes, in the order in which a receiving host would go."""

    def __init__(self, lookup: Lookup, spf: Spf) -> None:
        self._lookup, self._spf = lookup, spf

    def through(self, record: str, path: tuple[str, ...], *, reached: bool, speaks: bool) -> None:
        """Take in the record of the last domain of a path of includes.

        `reached` is False where what it lets pass lets nothing pass: under “-include”. `speaks` is True where its “all”
        is the whole's: of the first, and of what that redirects to.
        """
        spf, domain = self._spf, path[-1]
        spf.takes_in.add(domain)
        redirect, sign = "", ""
        for term in record.split()[1:]:
            if match := _TERM.fullmatch(term):
                if self._fault_of(match):
                    spf.faults.append(f"{_at(path)}{quoted(term)} is no SPF term")
                elif match["name"].lower() == "all":
                    sign = match["sign"] or "+"
                    break  # what stands behind it is never read
                else:
                    self._term(match, path, reached=reached)
            elif match := _MODIFIER.fullmatch(term):
                redirect = match["value"] if match["name"].lower() == "redirect" else redirect
            else:
                spf.faults.append(f"{_at(path)}{quoted(term)} is no SPF term")
            if spf.lookups >= _WALKED:
                return
        if sign == "+" and reached:
            spf.everybody = True
        if speaks:
            spf.sign = sign
        if redirect and not sign:
            self._follow("redirect", redirect, path, reached=reached, speaks=speaks)

    @staticmethod
    def _fault_of(match: re.Match[str]) -> bool:
        name, what, prefix = match["name"].lower(), match["what"], match["prefix"]
        if name == "all":
            return what is not None or bool(prefix)
        if name in {"include", "exists", "ip4", "ip6"} and not what:
            return True
        if name in {"ip4", "ip6"}:
            return _network(name, f"{what}{prefix}") is None
        if name in {"include", "exists", "ptr"} and prefix:
            return True
        return what is not None and "%" not in what and not is_name(what)

    def _term(self, match: re.Match[str], path: tuple[str, ...], *, reached: bool) -> None:
        spf, name, what = self._spf, match["name"].lower(), match["what"]
        reached = reached and match["sign"] in {"", "+"}
        if name in _COUNTED and name != "include":
            spf.lookups += 1
        if name in {"ip4", "ip6"}:
            network = _network(name, f"{what}{match['prefix']}")
            if network is not None and reached:
                spf.passes.append(network)
                spf.everybody = spf.everybody or network.prefixlen == 0
        elif name == "include":
            self._follow("include", what, path, reached=reached, speaks=False)
        elif name == "ptr":
            spf.notes.append(f"{_at(path)}“ptr” is slow, and not to be used any more (RFC 7208 section 5.5)")
        elif name in {"a", "mx"} and "%" not in (what or ""):
            self._hosts(name, what or path[-1], match["prefix"], path, reached=reached)

    def _hosts(self, name: str, target: str, prefix: str, path: tuple[str, ...], *, reached: bool) -> None:
        spf = self._spf
        try:
            hosts = [host for _, host in self._lookup.exchangers(target)] if name == "mx" else [target]
            if len(hosts) > _MOST_EXCHANGERS:
                spf.faults.append(f"{_at(path)}“mx” finds {len(hosts)} hosts where {_MOST_EXCHANGERS} may be")
            found = [address for host in hosts[:_MOST_EXCHANGERS] for address in self._lookup.addresses(host)]
        except Unanswered as error:
            spf.unlearnt.append(f"{name} of {quoted(target)}: {error}")
            return
        except Unusable as error:
            spf.notes.append(f"{_at(path)}{name} of {quoted(target)} finds nobody: {error}")
            found = []
        spf.void += not found
        if not found:
            spf.notes.append(f"{_at(path)}“{name}” finds nothing at {quoted(target)}")
        four, _, six = prefix.partition("//")
        for address in found if reached else ():
            bits = four[1:] if address.version == 4 else six  # noqa: PLR2004 # IPv4
            spf.passes.append(
                ipaddress.ip_network(f"{address}/{min(int(bits or 128), address.max_prefixlen)}", strict=False)
            )

    def _follow(self, how: str, target: str, path: tuple[str, ...], *, reached: bool, speaks: bool) -> None:  # noqa: PLR0911 # a fault each
        spf = self._spf
        spf.lookups += 1
        if "%" in target:
            spf.notes.append(f"{_at(path)}{how} of {quoted(target)} differs from mail to mail, and is not followed")
            return
        target = target.rstrip(".").lower()
        if not is_name(target):
            spf.faults.append(f"{_at(path)}{how} names {quoted(target)}, which is no domain")
            return
        if target in path:
            spf.faults.append(f"{_at(path)}{how} of {target} goes in a circle")
            return
        if spf.lookups >= _WALKED:
            return
        try:
            records = _spf_records(self._lookup, target)
        except Unanswered as error:
            spf.unlearnt.append(f"{target}: {error}")
            return
        except Unusable as error:
            spf.faults.append(f"{_at(path)}{how} names {target}, and {error}")
            return
        if len(records) != 1:
            found = "has no SPF record" if not records else f"has {len(records)} SPF records"
            spf.faults.append(f"{_at(path)}{how} names {target}, which {found}")
            return
        self.through(records[0], (*path, target), reached=reached, speaks=speaks)


def _at(path: tuple[str, ...]) -> str:
    """Where a term stands: nothing for the domain's own record."""
    return f"in the record of {path[-1]}, " if len(path) > 1 else ""


def _network(name: str, what: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.IPv4Network(what, strict=False) if name == "ip4" else ipaddress.IPv6Network(what, strict=False)
    except ValueError:
        return None


# ---------------------------------------------------------------------------------------------- tags, DKIM keys


def tags_of(text: str) -> dict[str, str]:
    """The tag=value list of a DKIM or DMARC record (RFC 6376 section 3.2). Raises RecordFault."""
    tags: dict[str, str] = {}
    for part in text.split(";"):
        if not part.strip():
            continue
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            raise RecordFault(f"{quoted(part.strip(), 40)} is not of the form tag=value")
        if name.lower() in tags:
            raise RecordFault(f"it says {name.lower()}= twice")
        tags[name.lower()] = value
    return tags


@dataclass(frozen=True, slots=True)
class Key:
    """A DKIM public key: "rsa" or "ed25519", its length in bits, its bytes, and whether it says that it is a test."""

    kind: str
    bits: int
    value: bytes
    testing: bool


def key_of(text: bytes) -> Key:
    """A DKIM key record (RFC 6376 section 3.6.1, RFC 8463). Raises RecordFault."""
    tags = tags_of(text.decode("latin-1"))
    if tags.get("v", "DKIM1") != "DKIM1":
        raise RecordFault(f"it begins with v={quoted(tags['v'], 20)}, not v=DKIM1")
    if "p" not in tags:
        raise RecordFault("it has no p=, the key")
    if not tags["p"]:
        raise RecordFault("its p= is empty: the key is revoked")
    if "email" not in (services := tags.get("s", "*").split(":")) and "*" not in services:
        raise RecordFault(f"its s={quoted(tags['s'], 20)} is not for mail")
    if "sha256" not in tags.get("h", "sha256").replace(" ", "").split(":"):
        raise RecordFault(f"its h={quoted(tags['h'], 20)} leaves out sha256, the only one that still counts (RFC 8301)")
    kind = tags.get("k", "rsa")
    try:
        data = base64.b64decode(re.sub(r"\s", "", tags["p"]), validate=True)
    except (binascii.Error, ValueError):
        raise RecordFault("its p= is no base64: is it whole, and its strings in the right order?") from None
    return Key(kind, _bits(kind, data), data, "y" in tags.get("t", "").split(":"))


def _bits(kind: str, data: bytes) -> int:
    if kind == "ed25519":
        if len(data) != _ED25519_BYTES:
            raise RecordFault("its p= is no ed25519 key, which has 32 bytes")
        return 256
    if kind != "rsa":
        raise RecordFault(f"its k={quoted(kind, 20)} is neither rsa nor ed25519")
    try:
        key = load_der_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise RecordFault("its p= is no RSA key: is it whole?") from None
    if not isinstance(key, RSAPublicKey):
        raise RecordFault("its p= is no RSA key")
    if key.key_size > _LARGEST_BITS:
        raise RecordFault(f"its RSA key has {key.key_size} bits, which hardly anybody will take the time for")
    return key.key_size


# ---------------------------------------------------------------------------------------------- DMARC


@dataclass(frozen=True, slots=True)
class Dmarc:
    """The DMARC records that speak for a domain: whose they are, what counts of them, and how many are there."""

    domain: str
    tags: dict[str, str]
    many: int = 1
    fault: str = ""


def _tree(domain: str) -> Iterator[str]:
    """The names of a tree walk, from the domain up (RFC 9989 section 4.10)."""
    labels = domain.split(".")
    yield domain
    start = len(labels) - (_TREE - 1) if len(labels) > _TREE else 1
    for at in range(start, len(labels)):
        yield ".".join(labels[at:])


def _dmarc_at(lookup: Lookup, name: str) -> Dmarc | None:
    texts = [
        text.decode("latin-1")
        for text in lookup.texts(f"_dmarc.{name}").values
        if re.match(rb"v\s*=\s*DMARC1\s*(?:;|\Z)", text)
    ]
    if not texts:
        return None
    try:
        return Dmarc(name, tags_of(texts[0]), len(texts))
    except RecordFault as error:
        return Dmarc(name, {}, len(texts), str(error))


def dmarc_of(lookup: Lookup, domain: str) -> Dmarc | None:
    """The record that speaks for a domain: its own, else its organisation's. Raises Unanswered and Unusable."""
    own = _dmarc_at(lookup, domain)
    if own is not None:
        return own
    above = organisation_of(lookup, domain)
    return _dmarc_at(lookup, above) if above != domain else None


def organisation_of(lookup: Lookup, domain: str) -> str:
    """The organizational domain, by the tree walk of RFC 9989 section 4.10.2. Raises Unanswered and Unusable."""
    found, below = domain, domain
    for name in _tree(domain):
        record = _dmarc_at(lookup, name)
        if record is not None and record.many == 1 and not record.fault:
            psd = record.tags.get("psd", "u").lower()
            if psd == "n":
                return name
            if psd == "y" and name != domain:
                return below
            found = name
        below = name
    return found


def aligned(lookup: Lookup, one: str, other: str, *, strict: bool) -> bool:
    """Whether two domains are one organisation's, as DMARC asks (RFC 9989 section 4.4). Raises Unanswered, Unusable.

    Receivers that still go by a list of public suffixes (RFC 7489) also align a domain with those above and below it.
    """
    one, other = one.lower().rstrip("."), other.lower().rstrip(".")
    if one == other or strict:
        return one == other
    longer, shorter = (one, other) if len(one) > len(other) else (other, one)
    if longer.endswith(f".{shorter}") and "." in shorter:
        return True
    return organisation_of(lookup, one) == organisation_of(lookup, other)
