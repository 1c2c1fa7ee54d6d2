"""SPF, DKIM and DMARC of a domain that stands in From, held against the way that its mails go."""

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from newsletter.deliverability.findings import unlearnt, wrong
from newsletter.deliverability.lookup import Address, Lookup, Unanswered, Unusable
from newsletter.deliverability.records import (
    MOST_LOOKUPS,
    Dmarc,
    Key,
    RecordFault,
    Spf,
    aligned,
    dmarc_of,
    key_of,
    quoted,
    spf_of,
)
from newsletter.edition import Finding
from newsletter.settings import DKIM_VARIABLE, SendGrid, Ses, Settings, Smtp

WEAK_BITS, GOOD_BITS = 1_024, 2_048  # RFC 8301 section 3.2: below the one it fails, the other is what to have
_LOOKED_AT = 5  # report addresses, names above a domain, addresses of a server

# Servers that pass mail on for many, and the record that names where it comes from then: each its maker's own advice.
_INCLUDES = {
    "sendgrid.net": "sendgrid.net",
    "amazonaws.com": "amazonses.com",
    "mailgun.org": "mailgun.org",
    "postmarkapp.com": "spf.mtasv.net",
    "gmail.com": "_spf.google.com",
    "office365.com": "spf.protection.outlook.com",
    "outlook.com": "spf.protection.outlook.com",
    "mailjet.com": "spf.mailjet.com",
    "fastmail.com": "spf.messagingengine.com",
}


@dataclass(frozen=True, slots=True)
class Way:
    """How mails leave, as far as the configuration tells.

    `include` is the record of the provider to have in SPF, `host` the mail server; `bounces` the return path's domain
    where it is not the sender's. `unknown_path`: it is the provider's choice.
    """

    include: str | None = None
    host: str | None = None
    bounces: str | None = None
    unknown_path: bool = False

    @classmethod
    def of(cls, settings: Settings) -> "Way":
        """The way of a configuration's provider. Of the outbox nothing is known."""
        provider = settings.provider
        if isinstance(provider, SendGrid):
            return cls("sendgrid.net", unknown_path=True)
        if isinstance(provider, Ses):
            return cls("amazonses.com", unknown_path=True)
        if isinstance(provider, Smtp):
            host = provider.host.lower()
            include = next(
                (told for name, told in _INCLUDES.items() if host == name or host.endswith(f".{name}")), None
            )
            return cls(include, host, provider.bounce_domain)
        return cls(unknown_path=True)


class SenderDomain:
    """The look-ups about one domain that stands in From."""

    def __init__(self, settings: Settings, lookup: Lookup, way: Way, domain: str) -> None:
        self._settings, self._lookup, self._way, self._domain = settings, lookup, way, domain
        self._signing: list[str] = []  # the domains under which a good key was found

    def examine(self, selectors: Sequence[str]) -> Iterator[Finding]:
        """All that is found, SPF first, since DMARC rests on the others."""
        paths = dict.fromkeys((self._way.bounces or self._domain, self._domain))
        for domain in paths:
            yield from self._spf(domain, binding=not self._way.unknown_path and domain == next(iter(paths)))
        yield from self._dkim(selectors)
        yield from self._dmarc()

    # ------------------------------------------------------------------------------------------ SPF

    def _spf(self, domain: str, *, binding: bool) -> Iterator[Finding]:
        """`binding` is True where receiving hosts judge the mails by this record, since it is the return path's."""
        about = f"SPF of {domain}"
        try:
            spf = spf_of(self._lookup, domain)
        except Unanswered as error:
            yield unlearnt(about, error)
            return
        except Unusable as error:
            yield wrong(about, f"{error}", "the domain has no SPF that way", "mend the CNAME")
            return
        if spf is None:
            why = (
                "mailbox providers cannot tell your server from a forger's, and Gmail and Yahoo refuse numbers of "
                "such mails"
                if binding
                else "the mails are judged by the return path's domain, but some filters look at this one, too"
            )
            yield Finding(ok=False if binding else None, what=f"{about}: there is none; {why}; {self._publish(domain)}")
            return
        yield from self._judged(about, domain, spf, binding=binding)

    def _judged(self, about: str, domain: str, spf: Spf, *, binding: bool) -> Iterator[Finding]:
        for fault in spf.faults:
            yield wrong(
                about,
                fault,
                "receiving hosts then count the whole record as broken, so that SPF fails for every mail",
                "publish one record without it, and put addresses (ip4:, ip6:) in the place of includes that are "
                "not needed",
            )
        if spf.everybody:
            yield wrong(
                about,
                "it lets every server in the world pass (“+all”, a network of /0, or an include that does)",
                "whoever forges your mail passes, and mailbox providers know such records for what they are",
                f"end it in “~all”: {self._record(domain)}",
            )
        for told in spf.unlearnt:
            yield Finding(ok=None, what=f"{about}: not looked at whole: {told}")
        for note in spf.notes:
            yield Finding(ok=None, what=f"{about}: {note}")
        if spf.sign in {"", "?"} and not spf.everybody:
            said = "has no “all” at its end" if not spf.sign else "ends in “?all”"
            yield Finding(
                ok=None,
                what=(
                    f"{about}: it {said}; servers that it does not name are then neither allowed nor refused, which "
                    "helps forgers; end it in “~all”"
                ),
            )
        if not spf.faults and not spf.everybody:
            looks = f"{spf.lookups} of {MOST_LOOKUPS} look-ups"
            yield Finding(ok=True, what=f"{about}: one record, {looks}, {spf.sign or 'no '}all")
        if (include := self._way.include) is not None and not spf.unlearnt and not spf.everybody:
            yield from self._included(about, include, spf, binding=binding)
        elif binding and self._way.host is not None and not spf.everybody:
            yield from self._server(about, self._way.host, spf)

    def _server(self, about: str, host: str, spf: Spf) -> Iterator[Finding]:
        """Whether the configured server passes. It may hand on to another, so its failing is a note."""
        try:
            addresses = [literal] if (literal := address_in(host)) else self._lookup.addresses(host)
        except (Unanswered, Unusable) as error:
            yield unlearnt(f"{about}: whether {host} passes", error)
            return
        public = [address for address in addresses if address.is_global][:_LOOKED_AT]
        missing = [address for address in public if not spf.allows(address)]
        if public and not missing:
            yield Finding(ok=True, what=f"{about}: {host} passes")
        if missing:
            terms = " ".join(f"ip{address.version}:{address}" for address in missing)
            yield Finding(
                ok=None,
                what=(
                    f"{about}: {host} does not pass ({', '.join(map(str, missing))}); if it hands mail to the "
                    f"readers' servers itself, SPF fails; add “{terms}” then"
                ),
            )

    def _included(self, about: str, include: str, spf: Spf, *, binding: bool) -> Iterator[Finding]:
        if include in spf.takes_in:
            yield Finding(ok=True, what=f"{about}: it takes in {include}, the provider's servers")
            return
        way = (
            "the mails then come from servers that it does not name, and SPF fails"
            if binding
            else "receiving hosts judge by the return path, which the provider chooses; some filters look here, too"
        )
        what = (
            f"{about}: it does not take in {include}, the provider's servers; {way}; add “include:{include}” before "
            "its “all”"
        )
        yield Finding(ok=False if binding else None, what=what)

    def _record(self, domain: str) -> str:
        allowed = f"include:{self._way.include}" if self._way.include else "ip4:ADDRESS-OF-YOUR-SERVER"
        return f'{domain}. TXT "v=spf1 {allowed} ~all"'

    def _publish(self, domain: str) -> str:
        return f"publish {self._record(domain)}"

    # ------------------------------------------------------------------------------------------ DKIM

    def _dkim(self, selectors: Sequence[str]) -> Iterator[Finding]:
        provider = self._settings.provider
        if isinstance(provider, Smtp) and provider.dkim is not None:
            yield from self._key(provider.dkim.selector, [provider.dkim.domain.lower()], own=True)
        if isinstance(provider, SendGrid) and not selectors:
            selectors = ("s1", "s2")  # sendgrid.com/docs, “How to set up domain authentication”, read November 2026
        for selector in selectors:
            yield from self._key(selector, _above(self._domain), own=False)
        if not selectors and not (isinstance(provider, Smtp) and provider.dkim is not None):
            named = (
                "Easy DKIM's three selectors are shown by Amazon SES, and not known here"
                if isinstance(provider, Ses)
                else "which key the mails are signed with is not known here"
            )
            yield Finding(
                ok=None,
                what=(
                    f"DKIM of {self._domain}: {named}; Gmail and Yahoo ask for a signature of whoever mails in "
                    "numbers; name it with --selector, or look at a mail that arrived with --message"
                ),
            )

    def _key(self, selector: str, domains: Sequence[str], *, own: bool) -> Iterator[Finding]:
        """One selector, looked for below each of the domains. `own`: this program signs with it."""
        for domain in domains:
            name = f"{selector}._domainkey.{domain}"
            about = f"DKIM key {name}"
            try:
                found = self._lookup.texts(name)
            except Unanswered as error:
                yield unlearnt(about, error)
                return
            except Unusable as error:
                yield wrong(about, f"{error}", "no mail's signature can be verified", "mend the CNAME")
                return
            if found.values or found.alias:
                yield from self._judged_key(about, name, found.values, found.alias, own=own)
                return
        name = f"{selector}._domainkey.{domains[0]}"
        yield wrong(
            f"DKIM key {name}",
            "there is none",
            "no mail signed with it can be verified, and mailbox providers refuse or file as spam what is not",
            self._publish_key(name, own=own),
        )

    def _publish_key(self, name: str, *, own: bool) -> str:
        provider = self._settings.provider
        if own and (record := _own_record(self._settings)):
            return f'publish {name}. TXT "{record}"'
        if isinstance(provider, SendGrid):
            return (
                f"publish {name}. CNAME, with the target that SendGrid shows in Settings, Sender Authentication, or "
                "verify the domain there first"
            )
        if isinstance(provider, Ses):
            return f"publish {name}. CNAME {name.partition('.')[0]}.dkim.amazonses.com."
        return f'publish {name}. TXT "v=DKIM1; k=rsa; p=…" with the public half of the key that signs'

    def _judged_key(
        self, about: str, name: str, values: Sequence[bytes], alias: str | None, *, own: bool
    ) -> Iterator[Finding]:
        led = f" (by CNAME at {alias})" if alias else ""
        if not values:
            yield wrong(
                about,
                f"its CNAME leads to {alias}, where nothing is",
                "no mail signed with it can be verified",
                self._publish_key(name, own=own),
            )
            return
        if len(values) > 1:
            yield wrong(
                about,
                f"there are {len(values)} TXT records where one may be (RFC 6376 section 3.6.2.2)",
                "which one a receiving host takes is chance",
                "take away all but the right one",
            )
            return
        try:
            key = key_of(values[0])
        except RecordFault as error:
            yield wrong(
                f"{about}{led}", f"{error}", "no mail signed with it can be verified", self._publish_key(name, own=own)
            )
            return
        yield from self._sound_key(f"{about}{led}", name, key, own=own)

    def _sound_key(self, about: str, name: str, key: Key, *, own: bool) -> Iterator[Finding]:
        if own and (record := _own_record(self._settings)) and key_of(record.encode()).value != key.value:
            yield wrong(
                about,
                f"it is not the key in {DKIM_VARIABLE}",
                "every signature fails, which looks like forgery",
                f'publish {name}. TXT "{record}", or put the private half of the published key into {DKIM_VARIABLE}',
            )
            return
        if key.kind == "rsa" and key.bits < WEAK_BITS:
            yield wrong(
                about,
                f"its RSA key has {key.bits} bits",
                f"below {WEAK_BITS} a signature counts as none (RFC 8301 section 3.2)",
                f"make a key of {GOOD_BITS} bits, publish it under a new selector, and sign with that",
            )
            return
        self._signing.append(name.partition("._domainkey.")[2])
        yield Finding(ok=True, what=f"{about}: {key.kind}, {key.bits} bits")
        if key.kind == "rsa" and key.bits < GOOD_BITS:
            what = (
                f"{about}: its RSA key has {key.bits} bits; {GOOD_BITS} are what mailbox providers ask for; change "
                "it at leisure"
            )
            yield Finding(ok=None, what=what)
        if key.kind == "ed25519":
            what = (
                f"{about}: not every mailbox provider verifies ed25519 yet, and to those the mail is unsigned; "
                "prefer RSA"
            )
            yield Finding(ok=None, what=what)
        if key.testing:
            what = (
                f"{about}: it says that it is a test (t=y), so that a receiver may treat mail as unsigned; take "
                "“t=y” out"
            )
            yield Finding(ok=None, what=what)

    # ------------------------------------------------------------------------------------------ DMARC

    def _dmarc(self) -> Iterator[Finding]:
        about = f"DMARC of {self._domain}"
        try:
            dmarc = dmarc_of(self._lookup, self._domain)
        except Unanswered as error:
            yield unlearnt(about, error)
            return
        except Unusable as error:
            yield wrong(about, f"{error}", "the domain has no DMARC policy that way", "mend the CNAME")
            return
        if dmarc is None:
            yield wrong(
                about,
                "there is no record",
                "Gmail, Yahoo and Microsoft ask for one of whoever mails in numbers, and nobody tells you of forgeries",
                f'publish _dmarc.{self._domain}. TXT "v=DMARC1; p=none; rua=mailto:dmarc@{self._domain}"',
            )
            return
        if fault := _dmarc_fault(dmarc):
            yield wrong(
                about,
                f"at _dmarc.{dmarc.domain}, {fault}",
                "receiving hosts then act as if there were none",
                f'publish one: _dmarc.{dmarc.domain}. TXT "v=DMARC1; p=none; rua=mailto:dmarc@{dmarc.domain}"',
            )
            return
        yield from self._policy(about, dmarc)
        yield from self._reports(about, dmarc)
        yield from self._aligned(about, dmarc)

    def _policy(self, about: str, dmarc: Dmarc) -> Iterator[Finding]:
        inherited = dmarc.domain != self._domain
        policy = dmarc.tags.get("p", "none").lower()
        if inherited:
            policy = dmarc.tags.get("sp", policy).lower()
        where = f", told by {dmarc.domain}" if inherited else ""
        yield Finding(ok=True, what=f"{about}: policy {policy}{where}")
        if policy == "none":
            yield Finding(
                ok=None,
                what=(
                    f"{about}: the policy none only asks for reports, and forgeries arrive as before; go on to "
                    "“p=quarantine” when the reports are clean"
                ),
            )

    def _reports(self, about: str, dmarc: Dmarc) -> Iterator[Finding]:
        uris = [uri.strip() for uri in dmarc.tags.get("rua", "").split(",") if uri.strip()]
        if not uris:
            what = (
                f"{about}: it has no rua=, so that nobody tells you who mails in your name; add "
                f"“rua=mailto:dmarc@{dmarc.domain}”"
            )
            yield Finding(ok=None, what=what)
        for uri in uris[:_LOOKED_AT]:
            if not uri.lower().startswith("mailto:") or "@" not in uri:
                what = f"rua={quoted(uri, 40)} is no mailto: address"
                yield wrong(about, what, "no report goes there", "write “rua=mailto:NAME@DOMAIN”")
                continue
            taker = uri.partition("!")[0].rpartition("@")[2].lower()
            yield from self._taker(about, dmarc, taker)

    def _taker(self, about: str, dmarc: Dmarc, taker: str) -> Iterator[Finding]:
        """Whether a domain that takes the reports for another says so (RFC 9990 section 4, RFC 7489 section 7.1)."""
        if taker == dmarc.domain or taker.endswith(f".{dmarc.domain}") or dmarc.domain.endswith(f".{taker}"):
            return
        name = f"{dmarc.domain}._report._dmarc.{taker}"
        try:
            agreed = any(value.startswith(b"v=DMARC1") for value in self._lookup.texts(name).values)
        except (Unanswered, Unusable) as error:
            yield unlearnt(f"{about}: whether {quoted(taker, 60)} takes its reports", error)
            return
        if not agreed:
            yield wrong(
                about,
                f"its reports are to go to {quoted(taker, 60)}, which does not say that it takes them",
                "reporters then send none",
                f'have {name}. TXT "v=DMARC1" published there, or name an address of your own domain',
            )

    def _aligned(self, about: str, dmarc: Dmarc) -> Iterator[Finding]:
        """Whether SPF or DKIM vouches for the domain in From. One is enough for DMARC; DKIM outlives forwarding."""
        strict = {name: dmarc.tags.get(tag, "r").lower() == "s" for name, tag in (("spf", "aspf"), ("dkim", "adkim"))}
        path = None if self._way.unknown_path else (self._way.bounces or self._domain)
        signing = dict.fromkeys(self._signing)
        try:
            by_key = [one for one in signing if aligned(self._lookup, self._domain, one, strict=strict["dkim"])]
            by_path = path is not None and aligned(self._lookup, self._domain, path, strict=strict["spf"])
        except (Unanswered, Unusable) as error:
            yield unlearnt(f"{about}: its alignment", error)
            return
        vouching = [f"DKIM of {one}" for one in by_key] + ([f"SPF of the return path {path}"] if by_path else [])
        if vouching:
            yield Finding(ok=True, what=f"{about}: {' and '.join(vouching)} aligned with From")
        if by_path and not by_key:
            yield Finding(
                ok=None,
                what=(
                    f"{about}: only SPF is known to vouch for From, and it ends where a mail is forwarded; have the "
                    f"mails signed by a key of {self._domain}"
                ),
            )
        elif not vouching and (path is not None or signing):
            known = [f"the return path's {path}"] * (path is not None) + [f"the key's {one}" for one in signing]
            ask = " (it asks for exactly the same domain: aspf=s or adkim=s)" if any(strict.values()) else ""
            yield wrong(
                about,
                f"{' and '.join(known)} not aligned with {self._domain}{ask}",
                "DMARC fails for every mail, whatever SPF and DKIM say",
                f"sign with a key of {self._domain}, or set provider.bounce_domain to a domain below it",
            )


def _dmarc_fault(dmarc: Dmarc) -> str:
    if dmarc.many > 1:
        return f"there are {dmarc.many} records where one may be"
    if dmarc.fault:
        return dmarc.fault
    policies = {"none", "quarantine", "reject"}
    for tag in ("p", "sp"):
        if (said := dmarc.tags.get(tag)) is not None and said.lower() not in policies:
            return f"{tag}={quoted(said, 20)} is none of none, quarantine, reject"
    if "p" not in dmarc.tags and "rua" not in dmarc.tags:
        return "it has no p=, the policy"
    return ""


def _own_record(settings: Settings) -> str | None:
    """The record of the key that this program signs with, None where it has none that can be read."""
    provider = settings.provider
    if not isinstance(provider, Smtp) or provider.dkim is None or provider.dkim_key is None:
        return None
    from newsletter.providers.dkim import public_record  # noqa: PLC0415 # only where a key is configured

    return public_record(provider.dkim_key.get_secret_value())


def _above(domain: str) -> list[str]:
    """A domain and those above it, the last with two labels: a signature of any of them may be meant."""
    labels = domain.split(".")
    return [".".join(labels[at:]) for at in range(max(1, len(labels) - 1))][:_LOOKED_AT]


def address_in(text: str) -> Address | None:
    """An address as a text gives it, None where it is a name."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
