"""`newsletter doctor --message`: a mail that arrived, as saved from a mailbox, held against what mailbox providers ask.

The file is a stranger's, whoever saved it. Name servers are asked for the keys of its signatures and for DMARC; its
links are read and never opened. No address and no link is quoted, since both tell whose copy it was.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from email import policy
from email.message import Message
from email.parser import BytesParser
from email.utils import getaddresses, parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

from newsletter.compile import CLIP_BYTES
from newsletter.deliverability.findings import unlearnt, wrong
from newsletter.deliverability.lookup import Lookup, Unanswered, Unusable, is_name
from newsletter.deliverability.records import (
    RecordFault,
    aligned,
    dmarc_of,
    key_of,
    quoted,
    tags_of,
)
from newsletter.deliverability.senders import WEAK_BITS
from newsletter.edition import Finding
from newsletter.errors import ConfigurationError
from newsletter.providers.dkim import NotVerified, verifies
from newsletter.settings import Settings

LARGEST_BYTES = 30_000_000  # what the largest mailbox providers take, and more than any digest
_SIGNATURES = 8  # looked at: nobody adds more, and each costs look-ups
_ONE_CLICK = "List-Unsubscribe=One-Click"  # RFC 8058 section 3.1, exactly
_COVERED = ("list-unsubscribe", "list-unsubscribe-post")  # RFC 8058 section 4
_FAR = timedelta(days=1)  # between Date and arrival: more, and filters take it for a fault
_RESULT = re.compile(r"(?:^|[;\s])(spf|dkim|dmarc|arc)\s*=\s*([a-z]{1,12})", re.IGNORECASE)
_PASSED = {"spf", "dkim", "dmarc"}


@dataclass(frozen=True, slots=True)
class _Signature:
    """A signature that is good: whose it is, and which headers it covers."""

    domain: str
    covered: frozenset[str]


def read(file: Path) -> bytes:
    """A mail's file. Raises ConfigurationError where it cannot be read, is empty or is no mail's size."""
    try:
        with file.open("rb") as opened:
            mail = opened.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}") from None
    if not mail.strip() or len(mail) > LARGEST_BYTES:
        size = "an empty file" if len(mail) <= LARGEST_BYTES else "a larger file"
        raise ConfigurationError(f"{file}: expected a mail of at most {LARGEST_BYTES:,} bytes, found {size}")
    return mail


def examine(mail: bytes, settings: Settings, lookup: Lookup, now: datetime) -> Iterator[Finding]:
    """What a mail shows, from its sender to its size. `settings` say which newsletters and pages are ours."""
    mail = re.sub(rb"\AFrom [^\n]*\n", b"", mail)  # mbox's own line, where it was saved so
    message = BytesParser(policy=policy.compat32).parsebytes(mail)
    if not message.keys():
        yield wrong(
            "message", "there is no header", "it is no mail as it arrived", "save it whole: “Show original”, .eml"
        )
        return
    arrived = _Arrived(mail, message, settings, lookup, now)
    yield from arrived.sender()
    yield from arrived.results()
    yield from arrived.signatures()
    yield from arrived.one_click()
    yield from arrived.standing()
    yield from arrived.parts()


class _Arrived:
    """One mail, and what its signatures prove."""

    def __init__(self, mail: bytes, message: Message, settings: Settings, lookup: Lookup, now: datetime) -> None:
        self._mail, self._message, self._settings, self._lookup, self._now = mail, message, settings, lookup, now
        self._good: list[_Signature] = []
        self._unverified = False  # whether a signature may be good, and nobody can tell
        self._from = ""

    def _all(self, name: str) -> list[str]:
        return [re.sub(r"\s+", " ", str(value)).strip() for value in self._message.get_all(name, [])]

    def _one(self, name: str) -> str | None:
        found = self._all(name)
        return found[0] if found else None

    # ------------------------------------------------------------------------------------------ who it is from

    def sender(self) -> Iterator[Finding]:
        """From: one, with one address."""
        froms = self._all("From")
        addresses = _addresses(froms)
        if len(froms) != 1 or len(addresses) != 1 or not is_name(_domain_of(addresses[0])):
            yield wrong(
                "message: From",
                f"there are {len(froms)} such headers with {len(addresses)} addresses, where one of each has to be",
                "nobody can tell whose SPF, DKIM and DMARC to ask for, and Gmail refuses it",
                "look at what the mail passed through on its way",
            )
            return
        self._from = _domain_of(addresses[0])
        ours = [name for name, one in self._settings.newsletters.items() if one.mailbox.domain.lower() == self._from]
        whose = f"sender of {', '.join(ours)}" if ours else "not the sender of any newsletter in this configuration"
        yield Finding(ok=True if ours else None, what=f"message: from {self._from}, {whose}")

    def results(self) -> Iterator[Finding]:
        """What the receiving host found. Only the topmost header can be its own (RFC 8601 section 1.2)."""
        about = "message: Authentication-Results"
        names = [name.lower() for name in self._message.keys()]  # noqa: SIM118 # a mail has headers of one name more than once
        place = names.index("authentication-results") if "authentication-results" in names else None
        if place is None:
            yield Finding(ok=None, what=f"{about}: there is none, so what the receiving host found is not told")
            return
        own = [names.index(name) for name in ("dkim-signature", "from") if name in names]
        if own and place > min(own):
            yield Finding(
                ok=None,
                what=(
                    f"{about}: it stands below what the sender wrote, so that it is not the receiving host's, and "
                    "is not believed"
                ),
            )
            return
        value = re.sub(r"\([^()]{0,500}\)", " ", self._all("Authentication-Results")[0][:5_000])
        host = value.partition(";")[0].split()
        by = quoted(host[0], 60) if host and "=" not in host[0] else "a host without a name"
        found = [(method.lower(), result.lower()) for method, result in _RESULT.findall(value)]
        said = ", ".join(f"{method}={result}" for method, result in found[:10])
        if not found:
            yield Finding(ok=None, what=f"{about}: {by} says nothing of SPF, DKIM or DMARC")
            return
        passed = {method for method, result in found if result == "pass"}
        failed = {method for method, result in found if result in {"fail", "permerror"}} - passed
        if failed & _PASSED:
            yield wrong(
                about,
                f"{by} found {said}",
                "that is what decided where the mail was put",
                "mend what is named bad here and by --deep, and send another",
            )
        else:
            yield Finding(ok=True if "dmarc" in passed else None, what=f"{about}: {by} found {said}")

    # ------------------------------------------------------------------------------------------ signatures

    def signatures(self) -> Iterator[Finding]:
        """Each DKIM signature: whether it is good, and whose."""
        values = self._all("DKIM-Signature")
        if not values:
            yield wrong(
                "message: DKIM",
                "it is not signed",
                "Gmail and Yahoo ask for a signature of whoever mails in numbers, and one-click needs one (RFC 8058)",
                "let the provider sign, or set provider.dkim",
            )
            return
        for place, value in enumerate(values[:_SIGNATURES]):
            yield self._signature(place, value)
        if len(values) > _SIGNATURES:
            yield Finding(ok=None, what=f"message: DKIM: {len(values) - _SIGNATURES} more signatures are not looked at")
        if self._from:
            yield self._vouched()

    def _signature(self, place: int, value: str) -> Finding:  # noqa: PLR0911 # each fault is told by itself
        number = f"message: DKIM signature {place + 1}"
        cannot = "it counts as none"
        again = "look at what signs, and send another"
        try:
            tags = tags_of(value)
        except RecordFault as error:
            return wrong(number, f"{error}", cannot, again)
        domain, selector = tags.get("d", "").lower(), tags.get("s", "")
        name = f"{selector}._domainkey.{domain}"
        if not is_name(domain) or not is_name(name):
            return wrong(number, "its d= and s= name no key", cannot, again)
        about = f"{number} ({name})"
        if tags.get("a", "").lower() == "rsa-sha1":
            return wrong(about, "it is made with SHA-1", "it counts as none since RFC 8301", "sign with rsa-sha256")
        if (expires := tags.get("x", "")).isdecimal() and int(expires[:15]) < self._now.timestamp():
            return Finding(ok=None, what=f"{about}: it has run out by now (x=), as it may; look at a mail just arrived")
        try:
            records = self._lookup.texts(name).values
        except Unanswered as error:
            self._unverified = True
            return unlearnt(about, error)
        except Unusable as error:
            return wrong(about, f"{error}", "nobody can verify it", "mend the CNAME")
        if len(records) != 1:
            found = "there is no key" if not records else f"there are {len(records)} records"
            return wrong(
                about, f"{found} at that name", "nobody can verify it", "publish the one of the key that signed it"
            )
        return self._held(about, place, tags, records[0])

    def _held(  # noqa: PLR0911 # the same
        self, about: str, place: int, tags: dict[str, str], record: bytes
    ) -> Finding:
        """A signature held against its key."""
        changed = "something was changed after it was signed, or another key signed it"
        try:
            key = key_of(record)
            good = verifies(self._mail, place, record)
        except RecordFault as error:
            return wrong(about, f"of its key's record, {error}", "nobody can verify it", "mend the record: see --deep")
        except NotVerified:
            self._unverified = True
            return Finding(
                ok=None, what=f"{about}: not verified: it needs dkimpy, pip install 'brief-newsletter[dkim]'"
            )
        except ValueError as error:
            said = "the body is not the one that was signed" if "body hash" in str(error) else quoted(str(error), 60)
            return wrong(
                about,
                f"it is not good: {said}",
                "it counts as none",
                "save the mail as it arrived; if you did, " + changed,
            )
        if not good:
            return wrong(
                about, "it is not good", "it counts as none", "save the mail as it arrived; if you did, " + changed
            )
        if key.kind == "rsa" and key.bits < WEAK_BITS:
            return wrong(about, f"its key has {key.bits} bits", "it counts as none (RFC 8301)", "sign with 2048 bits")
        covered = frozenset(one.strip().lower() for one in tags.get("h", "").split(":"))
        self._good.append(_Signature(tags["d"].lower(), covered))
        if "l" in tags:
            return Finding(
                ok=None,
                what=(
                    f"{about}: good, but it covers only the beginning of the body (l=), so that anybody may write "
                    "more below; sign without it"
                ),
            )
        return Finding(ok=True, what=f"{about}: good, {key.kind}, {key.bits} bits")

    def _vouched(self) -> Finding:
        """Whether a good signature vouches for From, or the return path may."""
        about = f"message: alignment with {self._from}"
        path = _domain_of((_addresses(self._all("Return-Path")) or [""])[0])
        try:
            dmarc = dmarc_of(self._lookup, self._from)
            strict = {tag: dmarc is not None and dmarc.tags.get(tag, "r").lower() == "s" for tag in ("adkim", "aspf")}
            by = [
                one.domain
                for one in self._good
                if aligned(self._lookup, self._from, one.domain, strict=strict["adkim"])
            ]
            spf = bool(path) and is_name(path) and aligned(self._lookup, self._from, path, strict=strict["aspf"])
        except (Unanswered, Unusable) as error:
            return unlearnt(about, error)
        beside = f"; the return path, {quoted(path, 60)}, is {'' if spf else 'not '}aligned" if path else ""
        if by:
            return Finding(
                ok=True, what=f"{about}: the signature of {', '.join(dict.fromkeys(by))} vouches for it{beside}"
            )
        if self._unverified:
            return Finding(ok=None, what=f"{about}: no signature could be verified{beside}")
        return wrong(
            about,
            f"no good signature is of that domain{beside}",
            "DMARC then rests on SPF alone, which ends at the first forwarding" if spf else "DMARC fails",
            f"sign with a key of {self._from}",
        )

    # ------------------------------------------------------------------------------------------ the way to leave

    def one_click(self) -> Iterator[Finding]:
        """The headers of RFC 8058, and that a signature covers them. Opens nothing."""
        about = "message: one-click"
        links, posts = self._all("List-Unsubscribe"), self._all("List-Unsubscribe-Post")
        if self._one("Auto-Submitted") is not None and not links:
            yield Finding(
                ok=True, what=f"{about}: not needed: it is a notice (Auto-Submitted), which belongs to no list"
            )
            return
        why = "Gmail and Yahoo ask for it of whoever mails in numbers, and readers press “spam” in its place"
        do = "look at what the mail passed through: the headers are in every edition that this program sends"
        if len(links) != 1 or len(posts) != 1:
            counted = f"there are {len(links)} List-Unsubscribe and {len(posts)} List-Unsubscribe-Post, not one of each"
            yield wrong(about, counted, why, do)
            return
        urls = [
            url for url in (uri.strip() for uri in re.findall(r"<([^<>]*)>", links[0])) if "mailto:" not in url.lower()
        ]
        secure = [url for url in urls if _host_of(url)]
        if not secure:
            said = "its link is http, not https" if urls else "List-Unsubscribe holds no link"
            yield wrong(about, said, why, "set site.url to your pages' https address" if urls else do)
            return
        if posts[0] != _ONE_CLICK:
            yield wrong(about, f"List-Unsubscribe-Post says something else than {_ONE_CLICK}", why, do)
            return
        host, pages = _host_of(secure[0]), _host_of(self._settings.site.url)
        if host != pages:
            yield Finding(ok=None, what=f"{about}: the link leads to {quoted(host, 60)}, and site.url to another host")
        covering = [one.domain for one in self._good if one.covered.issuperset(_COVERED)]
        if covering:
            yield Finding(
                ok=True, what=f"{about}: both headers are there, at {quoted(host, 60)}, signed by {covering[0]}"
            )
        elif self._unverified:
            yield Finding(
                ok=None, what=f"{about}: both headers are there; whether a good signature covers them is not known"
            )
        else:
            yield wrong(
                about,
                "no good signature covers List-Unsubscribe and List-Unsubscribe-Post",
                "Gmail then shows no way to leave (RFC 8058 section 4)",
                "have whoever signs name both in h=",
            )

    # ------------------------------------------------------------------------------------------ the rest

    def standing(self) -> Iterator[Finding]:
        """List-Id, Date and Message-ID."""
        ids = self._all("List-Id")
        if self._one("Auto-Submitted") is None or ids:
            known = {self._settings.list_id_of(name) for name in self._settings.newsletters}
            match = re.search(r"<([^<>]+)>\s*$", ids[0]) if len(ids) == 1 else None
            if match is None:
                yield wrong(
                    "message: List-Id",
                    f"there are {len(ids)}, or it has no <name>",
                    "readers and filters tell lists apart by one",
                    "look at what the mail passed through",
                )
            else:
                ours = match[1].strip() in known
                what = "one of this configuration's" if ours else "of no newsletter in this configuration"
                yield Finding(ok=True if ours else None, what=f"message: List-Id {quoted(match[1], 60)}, {what}")
        for name in ("Date", "Message-ID"):
            if len(found := self._all(name)) != 1:
                yield wrong(
                    f"message: {name}",
                    f"there are {len(found)}",
                    "filters count that against it (RFC 5322)",
                    "send one",
                )
        yield from self._dated()

    def _dated(self) -> Iterator[Finding]:
        sent = _instant(self._one("Date") or "")
        received = self._all("Received")
        arrived = _instant(received[0].rpartition(";")[2]) if received else None
        if self._one("Date") is not None and sent is None:
            yield wrong(
                "message: Date",
                "it cannot be read",
                "filters count that against it (RFC 5322)",
                "look at what wrote it",
            )
        elif sent is not None and arrived is not None and abs(arrived - sent) > _FAR:
            what = (
                f"message: Date: the mail arrived {_far(arrived - sent)} it; filters count a wrong clock as a sign "
                "of spam; look at the sending machine's"
            )
            yield Finding(ok=None, what=what)

    def parts(self) -> Iterator[Finding]:
        """The plain text, the HTML and its size."""
        leaves = [part for part in self._message.walk() if not part.is_multipart()][:50]
        texts = {
            kind: [part for part in leaves if part.get_content_type() == kind] for kind in ("text/plain", "text/html")
        }
        if not texts["text/plain"]:
            yield wrong(
                "message: text",
                "there is no plain text part",
                "filters count HTML alone against a mail, and some readers see nothing",
                "look at what the mail passed through",
            )
        for part in texts["text/html"][:1]:
            size = len(_payload(part))
            if size > CLIP_BYTES:
                yield wrong(
                    "message: size",
                    f"its HTML has {size:,} bytes",
                    f"Gmail hides what is past {CLIP_BYTES:,}, the way to leave with it",
                    "lower max_briefs, or look at what grew it on its way",
                )
            else:
                beside = ", beside plain text" if texts["text/plain"] else ""
                yield Finding(ok=True, what=f"message: {size:,} bytes of HTML{beside}; Gmail clips past {CLIP_BYTES:,}")


def _addresses(values: Sequence[str]) -> list[str]:
    try:
        return [address for _, address in getaddresses([value[:2_000] for value in values]) if "@" in address]
    except RecursionError:  # a thousand brackets, one in the other
        return []


def _domain_of(address: str) -> str:
    return address.rpartition("@")[2].lower().rstrip(".")


def _host_of(url: str) -> str:
    """The host of an https link, "" where it is none."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return (parts.hostname or "") if parts.scheme.lower() == "https" else ""


def _instant(text: str) -> datetime | None:
    try:
        instant = parsedate_to_datetime(text.strip()[:200])
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return instant if instant.tzinfo is not None else None


def _far(between: timedelta) -> str:
    return f"{abs(between).days} days {'after' if between > timedelta() else 'before'}"


def _payload(part: Message) -> bytes:
    payload = part.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""
