"""Which system a file comes from, by its columns; what its statuses mean here; how it is delimited.

Knowledge as data: a `Layout` for each system, each with its source. What is here decides how a row is read
(`subscribers.rows` reads it) and nothing about whether its person may be mailed (`subscribers.transfer` decides that).
Light on purpose: a process of its own reads large files with this module and little else.
"""

import csv
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from subscribers.address import parse
from subscribers.errors import AddressError, TransferError


class Standing(StrEnum):
    """What a row says of its person, from the mildest to the gravest: where columns differ, the gravest holds."""

    AS_ASKED = "as asked"  # on the list there; here, what the import was told to make of it
    PENDING = "pending"  # asked for there, and never confirmed
    UNSUBSCRIBED = "unsubscribed"
    SUPPRESSED = "suppressed"  # blocked by an operator there
    BOUNCED = "bounced"
    COMPLAINED = "complained"
    TEMPORARY = "temporary"  # a block or soft bounce of a suppression file: nothing that lasts


_GRAVITY = {standing: number for number, standing in enumerate(Standing)}
GOOD, PEND, LEFT, HELD, BOUNCE, SPAM = (
    Standing.AS_ASKED,
    Standing.PENDING,
    Standing.UNSUBSCRIBED,
    Standing.SUPPRESSED,
    Standing.BOUNCED,
    Standing.COMPLAINED,
)

_STATUSES: Mapping[str, Standing] = MappingProxyType(
    {
        **dict.fromkeys(
            ("subscribed", "active", "enabled", "confirmed", "regular", "optedin", "true", "yes", "1"), GOOD
        ),
        **dict.fromkeys(("pending", "unconfirmed", "unactivated", "notconfirmed", "validating", "invited"), PEND),
        **dict.fromkeys(("nonsubscribed", "transactional", "needsattention"), PEND),
        **dict.fromkeys(("unsubscribed", "optedout", "left", "removed", "archived", "deleted", "disabled"), LEFT),
        **dict.fromkeys(("inactive", "cancelled", "canceled", "false", "no", "0"), LEFT),
        **dict.fromkeys(
            ("cleaned", "bounced", "bounce", "hardbounce", "hardbounced", "undeliverable", "invalid"), BOUNCE
        ),
        **dict.fromkeys(("complained", "complaint", "complainer", "spam", "spamreport", "abuse", "junk"), SPAM),
        **dict.fromkeys(("blocklisted", "blacklisted", "blocked", "banned", "suppressed", "operator"), HELD),
    }
)
"""What status words mean, whoever wrote them. A word that is not here refuses its row: it is never guessed."""

_YES = frozenset(("true", "yes", "y", "1", "t"))
_NO = frozenset(("false", "no", "n", "0", "f", ""))


@dataclass(frozen=True, slots=True)
class Rule:
    """What one column says of a person's standing.

    `words` maps its words; with `filled` any word at all says that; `flag` is what a yes says, `unless` what a no says.
    An empty cell says nothing, but for `unless`.
    """

    column: str
    words: Mapping[str, Standing] | None = None
    filled: Standing | None = None
    flag: Standing | None = None
    unless: Standing | None = None

    def read(self, cell: str) -> Standing | None:
        """What a cell says. None: nothing that we know."""
        if self.filled is not None:
            return self.filled if cell.strip() else GOOD
        word = plain(cell)
        if self.words is None:
            if word in _YES:
                return self.flag or GOOD
            return (self.unless or GOOD) if word in _NO else None
        return self.words.get(word) if word else GOOD


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a system's export, plain (`plain`). `marks` must all be there, and one of `any_of` where given."""

    system: str
    marks: frozenset[str]
    any_of: frozenset[str] = frozenset()
    rules: tuple[Rule, ...] = ()
    suppressions: bool = False  # a list of addresses not to be mailed, rather than of people


_ANY = tuple(
    Rule(column, words=_STATUSES)
    for column in ("status", "subscriptionstatus", "subscriberstatus", "emailstatus", "marketingstatus")
)
_FLAGS = (
    *(Rule(column, unless=LEFT) for column in ("subscribed", "subscribedtoemails", "optin", "optedin")),
    *(Rule(column, flag=LEFT) for column in ("unsubscribed", "unsub", "optout", "optedout", "donotemail")),
    Rule("bounced", flag=BOUNCE),
    Rule("complained", flag=SPAM),
    *(Rule(column, filled=LEFT) for column in ("unsubscribedat", "unsubscribetime", "unsubtime")),
)

OURS = "newsletter"
COLUMNS = ("address", "name", "list", "state", "since", "language", "zone", "topics", "paused_until", "joined")
"""The columns of our own export."""
SUPPRESSION_COLUMNS = ("address", "reason", "since", "note")

LAYOUTS: tuple[Layout, ...] = (
    Layout(
        OURS,
        frozenset(("address", "list", "state", "pauseduntil")),
        rules=(
            Rule("state", words={"confirmed": GOOD, "pending": PEND, **{s.value: s for s in (LEFT, BOUNCE, SPAM)}}),
        ),
    ),
    # "Notes on Mailchimp data exports": one CSV each for subscribed, unsubscribed and cleaned members, in a zip; the
    # columns in capitals as exports in public repositories show them (HoneyFormat's tests; looked up 2026-11). UNSUB_*
    # and CLEAN_* stand in the files of those members only.
    Layout(
        "Mailchimp",
        frozenset(("emailaddress",)),
        any_of=frozenset(("memberrating", "optintime", "leid", "euid", "unsubtime", "cleantime")),
        rules=(*_ANY, Rule("unsubtime", filled=LEFT), Rule("cleantime", filled=BOUNCE)),
    ),
    # TryGhost/migrate, packages/mg-substack, and exports in public tests (2026-11): email, active_subscription, expiry,
    # plan, email_disabled, created_at, first_payment_at. active_subscription is about paying, not about mail.
    Layout(
        "Substack",
        frozenset(("email", "activesubscription")),
        rules=(Rule("emaildisabled", flag=LEFT),),
    ),
    # TryGhost/Ghost, ghost/members-csv/lib/unparse.js and services/members/exporter/query.js (2026-11). A member with
    # no newsletter has subscribed_to_emails false.
    Layout(
        "Ghost",
        frozenset(("email", "subscribedtoemails")),
        any_of=frozenset(("complimentaryplan", "stripecustomerid", "labels")),
        rules=(Rule("subscribedtoemails", unless=LEFT), Rule("deletedat", filled=LEFT)),
    ),
    # knadh/listmonk, cmd/subscribers.go: uuid, email, name, attributes, status, created_at, updated_at; statuses
    # enabled, disabled, blocklisted (2026-11). It does not say who left which list.
    Layout(
        "listmonk",
        frozenset(("uuid", "email", "status")),
        any_of=frozenset(("attributes", "attribs")),
        rules=(Rule("status", words={"enabled": GOOD, "disabled": LEFT, "blocklisted": HELD}),),
    ),
    # buttondown/openapi, enums.json: SubscriberType (2026-11), and the fields of its API, which the export follows.
    # Premium, gifted, trialed, … are about paying: such people get the mail there.
    Layout(
        "Buttondown",
        frozenset(("type",)),
        any_of=frozenset(("creationdate", "secondaryid", "referrerurl", "metadata")),
        rules=(
            Rule(
                "type",
                words={
                    **dict.fromkeys(("regular", "premium", "trialed", "unpaid", "gifted", "churning", "churned"), GOOD),
                    **dict.fromkeys(("paused", "pastdue"), GOOD),
                    **dict.fromkeys(("unactivated", "spammy", "upcoming"), PEND),
                    **dict.fromkeys(("unsubscribed", "removed"), LEFT),
                    "undeliverable": BOUNCE,
                    "complained": SPAM,
                    "blocked": HELD,
                },
            ),
        ),
    ),
    # beehiiv's API: status is validating, invalid, pending, active, inactive or needs_attention; created,
    # subscription_tier, utm_*, referral_code beside it, which the export follows (2026-11).
    Layout(
        "beehiiv",
        frozenset(("email", "status")),
        any_of=frozenset(("subscriptiontier", "utmsource", "utmchannel", "referralcode", "referringsite")),
        rules=(Rule("status", words=_STATUSES),),
    ),
    Layout(
        OURS,
        frozenset(("address", "reason", "since", "note")),
        rules=(Rule("reason", words={"hardbounce": BOUNCE, "complaint": SPAM, "operator": HELD}),),
        suppressions=True,
    ),
    # Amazon SES, ListSuppressedDestinations: EmailAddress, Reason (BOUNCE or COMPLAINT), LastUpdateTime; its import
    # takes the first two without a header (2026-11).
    Layout(
        "Amazon SES",
        frozenset(("emailaddress", "reason")),
        rules=(Rule("reason", words={"bounce": BOUNCE, "complaint": SPAM}),),
        suppressions=True,
    ),
    # Twilio SendGrid: bounces, blocks and spam reports alike have status, reason, email, created, invalid addresses no
    # status, the API's spam reports an ip; the file's name tells them apart (suppression_bounces.csv, …; 2026-11).
    Layout("SendGrid", frozenset(("email", "created", "reason")), suppressions=True),
    Layout("SendGrid", frozenset(("email", "created", "ip")), suppressions=True),
)

# Of a Mailchimp export, a file's name says whose it is; a row of it need not.
_MAILCHIMP_FILES = (
    (re.compile(r"(^|[_-])un-?subscribed?(_|-|$)"), LEFT),
    (re.compile(r"(^|[_-])cleaned(_|-|$)"), BOUNCE),
    (re.compile(r"(^|[_-])(non-?subscribed|transactional)(_|-|$)"), PEND),
)
_BLOCKS = re.compile(r"(^|[_-])blocks?([_-]|$)")
_SUPPRESSION_FILES = (("spam", SPAM), ("complain", SPAM), ("invalid", BOUNCE), ("bounce", BOUNCE), ("unsub", HELD))

_ADDRESS = (
    "email",
    "emailaddress",
    "address",
    "mail",
    "mailaddress",
    "subscriberemail",
    "contactemail",
    "emailaddresses",
)
_NAME = ("name", "fullname", "subscribername", "contactname", "displayname")
_FIRST = ("firstname", "fname", "first", "givenname", "forename")
_LAST = ("lastname", "lname", "last", "surname", "familyname")
_LANGUAGE = ("language", "lang", "locale", "preferredlanguage")
_ZONE = ("zone", "timezone", "tz")
# Tags and labels are an operator's notes about people: read as topics they would narrow what a person gets.
_TOPICS = ("topics",)


@dataclass(frozen=True, slots=True)
class Columns:
    """How the rows of a file are read: where each thing stands, counted from 0, None where it stands nowhere."""

    system: str
    delimiter: str | None  # None: one address a line
    width: int
    header: bool
    address: int
    name: int | None = None
    first: int | None = None
    last: int | None = None
    language: int | None = None
    zone: int | None = None
    topics: int | None = None
    paused: int | None = None
    to: int | None = None
    rules: tuple[tuple[int, Rule], ...] = ()
    otherwise: Standing = Standing.AS_ASKED  # of a row that says nothing
    status: int | None = None  # SendGrid's, where the file's name does not say what it lists

    @property
    def ours(self) -> bool:
        """Whether it is our own export, guarded against spreadsheets."""
        return self.system == OURS

    @property
    def tells(self) -> bool:
        """Whether a row says anything of its person's standing."""
        return bool(self.rules) or self.status is not None

    def standing(self, fields: Sequence[str]) -> Standing | None:
        """What a row says of its person. None: a word that we do not know."""
        worst = self.otherwise
        for index, rule in self.rules:
            said = rule.read(fields[index])
            if said is None:
                return None
            if _GRAVITY[said] > _GRAVITY[worst]:
                worst = said
        if self.status is not None and fields[self.status].strip().startswith("4"):  # RFC 3463: persistent transient
            return Standing.TEMPORARY
        return worst


def plain(text: str) -> str:
    """A heading or status word without case, spaces, hyphens and the like: “E-Mail Address” is “emailaddress”."""
    return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalnum())


def columns(line: str, name: str, *, suppressions: bool) -> Columns:
    """How to read a file by its first line and its name. Raises TransferError where neither tells."""
    split = {delimiter: cells(line, delimiter) for delimiter in ",;\t|"}
    known = {d: found for d, found in split.items() if found and any(plain(cell) in _ADDRESS for cell in found)}
    if known:
        delimiter = max(known, key=lambda d: len(known[d]))
        return _by_header([plain(cell) for cell in known[delimiter]], delimiter, name, suppressions=suppressions)
    return _by_first_row(line, split, name, suppressions=suppressions)


def cells(record: str, delimiter: str | None) -> list[str] | None:
    """The cells of one record. None where its quotes do not match, or stand where none belong."""
    if delimiter is None:
        return [record[1:-1] if record[:1] == '"' == record[-1:] else record]
    if '"' not in record:
        return record.split(delimiter)
    try:
        rows = list(csv.reader([record], _QUOTING[delimiter]))
    except csv.Error:
        return None
    return rows[0] if len(rows) == 1 else None


class _Quoting(csv.excel):
    strict = True


def _quoting(mark: str) -> type[csv.Dialect]:
    return type("Quoting", (_Quoting,), {"delimiter": mark})


_QUOTING = {mark: _quoting(mark) for mark in ",;\t|"}


def _by_header(header: list[str], delimiter: str, name: str, *, suppressions: bool) -> Columns:
    there = set(header)
    layout = next(
        (one for one in LAYOUTS if one.marks <= there and (not one.any_of or one.any_of & there)),
        Layout("", frozenset(), rules=(*_ANY, *_FLAGS)),
    )
    if layout.suppressions and not suppressions:
        raise TransferError(
            f"{name}: expected people, found a list of addresses not to be mailed ({layout.system}): "
            "import it with --suppressions"
        )

    def place(*names: str) -> int | None:
        return next((header.index(one) for one in names if one in there), None)

    address = place(*_ADDRESS)
    assert address is not None  # `columns` has looked
    otherwise, status = _otherwise(layout, name, there, suppressions=suppressions)
    return Columns(
        system=layout.system,
        delimiter=delimiter,
        width=len(header),
        header=True,
        address=address,
        name=place(*_NAME),
        first=place(*_FIRST),
        last=place(*_LAST),
        language=place(*_LANGUAGE),
        zone=place(*_ZONE),
        topics=place(*_TOPICS),
        paused=place("pauseduntil") if layout.system == OURS else None,
        to=place("list") if layout.system == OURS else None,
        rules=tuple((header.index(rule.column), rule) for rule in layout.rules if rule.column in there),
        otherwise=otherwise,
        status=header.index("status") if status else None,
    )


def _otherwise(layout: Layout, name: str, there: set[str], *, suppressions: bool) -> tuple[Standing, bool]:
    """What a row says that says nothing by itself, and whether SendGrid's status is still to be asked."""
    stem = re.sub(r"\.[a-z]+$", "", name.lower().rpartition("/")[2])
    if layout.system == "Mailchimp":
        return next((standing for said, standing in _MAILCHIMP_FILES if said.search(stem)), GOOD), False
    if layout.system == "SendGrid" or (suppressions and not layout.suppressions and not layout.marks):
        if layout.system == "SendGrid" and _BLOCKS.search(stem):
            return Standing.TEMPORARY, False
        told = next((standing for word, standing in _SUPPRESSION_FILES if word in stem), None)
        if told is not None:
            return told, False
        if layout.system != "SendGrid":
            return HELD, False
        return (SPAM if "ip" in there else BOUNCE), "status" in there
    return GOOD, False


def _by_first_row(line: str, split: Mapping[str, list[str] | None], name: str, *, suppressions: bool) -> Columns:
    """How to read a file without a header: nothing but addresses, or what Amazon SES imports."""
    alone = cells(line, None) or []
    if alone and _is_address(alone[0]):
        return Columns("", None, 1, header=False, address=0, otherwise=HELD if suppressions else GOOD)
    with_address = {d: found for d, found in split.items() if found and any(map(_is_address, found))}
    reasons = Rule("reason", words={"bounce": BOUNCE, "complaint": SPAM})
    for delimiter, found in with_address.items():
        if suppressions and len(found) == 2 and reasons.read(found[1]) in {BOUNCE, SPAM}:  # noqa: PLR2004 # address, reason
            rules = ((1, reasons),)
            return Columns("Amazon SES", delimiter, 2, header=False, address=0, rules=rules, otherwise=HELD)
    if with_address:
        most = max(len(found) for found in with_address.values())
        raise TransferError(f"{name}:1: expected a line that names the {most} columns, such as: email,name")
    raise TransferError(f"{name}:1: expected a line that names the columns, one of them email, or an address a line")


def _is_address(text: str) -> bool:
    try:
        parse(text)
    except AddressError:
        return False
    return True
