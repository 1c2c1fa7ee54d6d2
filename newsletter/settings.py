"""newsletter.toml and the environment -> one frozen Settings, passed down; never a global.

Each class here is a table of the file, each field a setting; docs/configuration.md says the same for operators, and a
test holds the two together. Secrets come from the environment or from a `.env` beside the file, never from the file
itself. Whatever is wrong is a ConfigurationError that names file and line; an unknown key gets the nearest right one.
"""

import ipaddress
import re
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import date, datetime, timedelta
from email.headerregistry import Address
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    SecretStr,
    Tag,
    ValidationError,
    model_validator,
)

from newsletter.errors import ConfigurationError
from newsletter.misspelt import as_configuration_error, line_of, nearest, refuse_unknown
from newsletter.schedule import WEEKDAYS, Schedule, Slot, first_on_earth
from subscribers import AddressError, parse

DEFAULT_FILE = Path("newsletter.toml")
SECRET_VARIABLE = "NEWSLETTER_SECRET"  # noqa: S105 # a variable's name
ERASURE_VARIABLE = "NEWSLETTER_ERASURE_KEY"
DATABASE_VARIABLE = "NEWSLETTER_DATABASE_URL"
SENDGRID_VARIABLE = "SENDGRID_API_KEY"
SMTP_VARIABLE = "NEWSLETTER_SMTP_PASSWORD"
DKIM_VARIABLE = "NEWSLETTER_DKIM_KEY"
DESK_VARIABLE = "NEWSLETTER_DESK_WEBHOOK"
AWS_VARIABLES = {
    "key_id": "AWS_ACCESS_KEY_ID",
    "secret_key": "AWS_SECRET_ACCESS_KEY",
    "session_token": "AWS_SESSION_TOKEN",
}
_SECRET_CHARACTERS = 32  # 32 characters of base64 are 192 bits; NIST SP 800-107r1 asks 112 of an HMAC key
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_LONGEST = timedelta(days=36_500)  # a century: for ever, and still a date when it is added to today
_LARGEST_PORT = 65_535
_FULL_WEEKDAYS = {
    "mon": "monday",
    "tue": "tuesday",
    "wed": "wednesday",
    "thu": "thursday",
    "fri": "friday",
    "sat": "saturday",
    "sun": "sunday",
}
_MOST_KEPT = 10_000  # backups: one an hour for more than a year
_SPAN = "a time such as “90m”, “12h” or “7d”"
# RFC 3986 as far as libpq and SQLAlchemy read it alike: one host or none, and a name.
_POSTGRESQL = re.compile(
    r"postgres(ql)?://([^\s:@/?#]+(:[^\s:@/?#]*)?@)?([A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/[^\s@/?#]+(\?[^\s#]*)?"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def _duration(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value
    match = re.fullmatch(r"([0-9]{1,10})\s*([smhdw])", value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"expected {_SPAN}, found “{value}”")
    if int(match[1]) * timedelta(**{_UNITS[match[2]]: 1}).total_seconds() > _LONGEST.total_seconds():
        raise ValueError(f"expected {_SPAN}, at most a hundred years, found “{value}”")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _mailbox(value: str) -> str:
    try:
        mailbox = None if _CONTROL.search(value) else parse(value)
    except AddressError:
        mailbox = None
    if mailbox is None or not mailbox.address.isascii():  # everybody's copy would need SMTPUTF8 (RFC 6531)
        raise ValueError(f"expected “Name <address@domain>”, found “{value}”")
    local, _, domain = mailbox.address.rpartition("@")
    return str(Address(mailbox.name or "", local, domain))  # quoted where the name needs it


def _hold(value: timedelta) -> timedelta:
    # SendGrid cancels what is due in more than ten minutes, and schedules at most 72 hours ahead.
    if value and not timedelta(minutes=15) <= value <= timedelta(hours=71):
        raise ValueError("expected “0s”, or a time from “15m” to “71h”")
    return value


def _web(value: str) -> str:
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        parts = urlsplit("")
    # Mail headers are ASCII (RFC 8058), so a name such as bücher.example is written as xn--bcher-kva.example.
    if parts.scheme not in {"http", "https"} or not parts.hostname or not re.fullmatch(r"[!-;=?-~]+", value):
        raise ValueError(f"expected a web address in ASCII that begins with https://, found “{value}”")
    return value.rstrip("/")


def _source_url(value: str) -> str:
    # As given, since "/feed" and "/feed/" may be two places. A name and password would end up in reports.
    if "@" in _web(value).partition("//")[2].partition("/")[0]:
        raise ValueError("expected a web address without a name or password in it")
    return value


def _keep(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST_KEPT:
        return value
    span = _duration(value) if isinstance(value, str | timedelta) else timedelta()
    if span < timedelta(days=1):
        raise ValueError(
            f"expected how many are kept, 1 to {_MOST_KEPT:,}, or for how long, “1d” or more, found “{value}”"
        )
    return span


def _network(value: Any) -> Any:
    try:
        return str(ipaddress.ip_network(value))
    except ValueError:
        raise ValueError(f"expected a network such as “10.20.0.0/16” or “::1”, found “{value}”") from None


def _host(value: str) -> str:
    return value if value in {"global", "eu"} else _base(_web(value))


def _base(value: str) -> str:
    if re.search(r"[?#@]", value):
        raise ValueError(f"expected a web address that paths can be put after, without ?, # and @, found “{value}”")
    return value


def _database(value: str) -> str:
    # Not quoted back: such an address may hold a password.
    if value.startswith(("postgresql:", "postgres:")):
        if not _POSTGRESQL.fullmatch(value):
            raise ValueError(
                "expected “postgresql://USER@HOST/NAME”, what is special in a password as %40 and its like"
            )
        return f"postgresql:{value.partition(':')[2]}"
    if not re.fullmatch(r"sqlite:///[^?]*[^?/]", value) or value.endswith(":memory:"):
        raise ValueError(
            "expected “sqlite:///” and a file, such as “sqlite:///newsletter.db”, or “postgresql://USER@HOST/NAME”"
        )
    return f"sqlite:///{_path(value.removeprefix('sqlite:///'))}"


def _path(value: Any) -> Any:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError(f"expected a path, found “{value}”")
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise ValueError(f"expected a path, found “{value}”, and nobody of that name has a home folder") from None


def _cron(value: str) -> str:
    Schedule((value,), "UTC")  # a ValueError says what was expected
    return value


def _line(value: str) -> str:
    if not value or _CONTROL.search(value):
        raise ValueError(f"expected a text on one line, without controls, found “{value}”")
    return value


def _hostname(value: str) -> str:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        if not re.fullmatch(_DOMAIN, value):
            raise ValueError(f"expected the name of a server, such as “mail.example.org”, found “{value}”") from None
    return value


def _like(pattern: str, what: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"expected {what}, found “{value}”")
        return value

    return check


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"expected a zone such as “Europe/Berlin” or “UTC”, found “{value}”") from None
    return value


def _colour(value: str) -> str:
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        raise ValueError(f"expected a colour such as “#9b1c31”, found “{value}”")
    return value.lower()


def _tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str | date) else value


def _day(value: Any) -> Any:
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    if isinstance(value, str):
        word = value.strip().lower()
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", word):
            with suppress(ValueError):
                return date.fromisoformat(word)
        elif word[:3] in WEEKDAYS and word in {word[:3], _FULL_WEEKDAYS.get(word[:3])}:
            return word[:3]
    raise ValueError(f"expected a date such as 2026-12-25 or a weekday such as “sat”, found “{value}”")


def _listener(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if not colon or not port.isdigit() or not 0 <= int(port) <= _LARGEST_PORT:
        raise ValueError(f"expected an address and a port, such as “127.0.0.1:9464”, found “{value}”")
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        raise ValueError(f"expected an address and a port, such as “127.0.0.1:9464”, found “{value}”") from None
    return value


_DOMAIN = r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
_NAME = "a name of a-z, 0-9 and hyphens, at most 30 characters"
Duration = Annotated[timedelta, BeforeValidator(_duration)]
Mailbox = Annotated[str, AfterValidator(_mailbox)]
Web = Annotated[str, AfterValidator(_web)]
Zone = Annotated[str, AfterValidator(_zone)]
Colour = Annotated[str, AfterValidator(_colour)]
Where = Annotated[Path, BeforeValidator(_path)]
Keep = Annotated[int | timedelta, BeforeValidator(_keep)]
Line = Annotated[str, AfterValidator(_line)]
Cron = Annotated[str, AfterValidator(_cron)]
Id = Annotated[str, AfterValidator(_like(r"(?=.{1,30}$)[a-z0-9]+(-[a-z0-9]+)*", _NAME))]
Slug = Annotated[str, AfterValidator(_like(r"[A-Za-z0-9._-]{1,64}", "a list's name of A-Z, a-z, 0-9, “.”, “_”, “-”"))]
ListId = Annotated[
    str, AfterValidator(_like(r"(?=.{1,255}$)[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+", "a name such as “daily.example.org”"))
]
Language = Annotated[
    str, AfterValidator(_like(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*", "a language such as “en” or “pt-BR”"))
]
Words = Annotated[tuple[Line, ...], BeforeValidator(_tuple)]
Network = Annotated[str, AfterValidator(_network)]
Networks = Annotated[tuple[Network, ...], BeforeValidator(_tuple)]
SourceUrl = Annotated[str, Field(max_length=2_048), AfterValidator(_source_url)]
Host = Annotated[str, AfterValidator(_host)]
HostName = Annotated[str, AfterValidator(_hostname)]
DomainName = Annotated[str, AfterValidator(_like(_DOMAIN, "a domain in ASCII such as “bounce.example.org”"))]
Selector = Annotated[
    str, AfterValidator(_like(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?", "a DKIM selector such as “news1”"))
]
Region = Annotated[
    str, AfterValidator(_like(r"[a-z]{2}(-[a-z]{2,20}){1,3}-[0-9]{1,2}", "a region such as “eu-west-1”"))
]
ConfigurationSet = Annotated[
    str, AfterValidator(_like(r"[A-Za-z0-9_-]{1,64}", "a name of letters, digits, “_” and “-”, at most 64"))
]
Printable = Annotated[str, AfterValidator(_like(r"[ -~]{1,200}", "a text in ASCII"))]
VerificationKey = Annotated[
    str, AfterValidator(_like(r"[A-Za-z0-9+/]{80,200}={0,2}", "the webhook's verification key as SendGrid shows it"))
]
VerificationKeys = Annotated[tuple[VerificationKey, ...], BeforeValidator(_tuple)]
Slugs = Annotated[tuple[Slug, ...], BeforeValidator(_tuple)]
Domain = Annotated[
    str,
    AfterValidator(
        _like(r"(?=.{1,253}$)[a-z0-9-]+(\.[a-z0-9-]+)+", "a domain in small letters, such as “example.org”")
    ),
]
Day = Annotated[date | str, BeforeValidator(_day)]
Days = Annotated[tuple[Day, ...], BeforeValidator(_tuple)]
Mailboxes = Annotated[tuple[Mailbox, ...], BeforeValidator(_tuple)]
Listener = Annotated[str, AfterValidator(_listener)]
Share = Annotated[float, Field(gt=0, le=1)]
Crons = Annotated[tuple[Cron, ...], BeforeValidator(_tuple)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, str_strip_whitespace=True)


class Site(_Table):
    """[site]: the publisher, and where its pages are."""

    name: Line
    url: Annotated[Web, AfterValidator(_base)]
    postal_address: str = Field(min_length=1)
    privacy_url: Web | None = None
    sign_up_url: Web | None = None


class Database(_Table):
    """[database]: where everything is kept."""

    url: Annotated[str, AfterValidator(_database)] = Field(
        default="sqlite:///newsletter.db", repr=False
    )  # it may hold a password
    instance: str | None = None


class Backups(_Table):
    """[backup]: where copies of the database are put, and which of them stay."""

    directory: Where = Path("backups")
    every: Annotated[Duration, Field(ge=timedelta(minutes=10))] | None = None  # None: not by itself
    keep: Keep = 14  # so many of the newest, or those that are younger; the newest always
    compress: bool = False
    programs: Where | None = None  # the folder of pg_dump, pg_restore and psql


class Outbox(_Table):
    """[provider] kind = "outbox": a folder, one .eml a recipient."""

    kind: Literal["outbox"] = "outbox"
    path: Where = Path("outbox")
    batch_size: int = Field(default=500, ge=1, le=10_000)


class SendGrid(_Table):
    """[provider] kind = "sendgrid": SendGrid's v3 API. Its key comes from the environment."""

    kind: Literal["sendgrid"] = "sendgrid"
    host: Host = "global"
    timeout: Duration = Field(default=timedelta(seconds=60), ge=timedelta(seconds=1), le=timedelta(minutes=10))
    batch_size: int = Field(default=1_000, ge=1, le=1_000)  # the most recipients of one request
    webhook_keys: VerificationKeys = ()
    hold: Annotated[Duration, AfterValidator(_hold)] = timedelta()
    key: SecretStr | None = Field(default=None, exclude=True)


class Dkim(_Table):
    """[provider.dkim]: the name of the key that mails are signed with. The key comes from the environment."""

    domain: DomainName
    selector: Selector


class Smtp(_Table):
    """[provider] kind = "smtp": an SMTP server. Its password comes from the environment."""

    kind: Literal["smtp"] = "smtp"
    host: HostName
    port: int | None = Field(default=None, ge=1, le=65_535)
    security: Literal["starttls", "tls", "none"] = "starttls"
    username: Printable | None = None
    ca_file: Where | None = None
    hello: DomainName | None = None
    timeout: Duration = Field(default=timedelta(seconds=60), ge=timedelta(seconds=1), le=timedelta(minutes=10))
    batch_size: int = Field(default=1_000, ge=1, le=1_000)
    bounce_domain: DomainName | None = None
    dkim: Dkim | None = None
    password: SecretStr | None = Field(default=None, exclude=True)
    dkim_key: SecretStr | None = Field(default=None, exclude=True)

    @property
    def service(self) -> int:
        """The port: where none is set, the one that the security has by custom (RFC 8314, 6409, 5321)."""
        return self.port or {"starttls": 587, "tls": 465, "none": 25}[self.security]


class Ses(_Table):
    """[provider] kind = "ses": Amazon SES. Its keys come from the environment, or from where boto3 looks for them."""

    kind: Literal["ses"] = "ses"
    region: Region
    configuration_set: ConfigurationSet | None = None
    endpoint_url: Annotated[Web, AfterValidator(_base)] | None = None
    timeout: Duration = Field(default=timedelta(seconds=60), ge=timedelta(seconds=1), le=timedelta(minutes=10))
    batch_size: int = Field(default=50, ge=1, le=1_000)
    key_id: SecretStr | None = Field(default=None, exclude=True)
    secret_key: SecretStr | None = Field(default=None, exclude=True)
    session_token: SecretStr | None = Field(default=None, exclude=True)


class Folder(_Table):
    """[sources.NAME] kind = "folder": brief files in a folder."""

    kind: Literal["folder"] = "folder"
    path: Where


class Feed(_Table):
    """[sources.NAME] kind = "feed": RSS, Atom, RDF or JSON Feed at a web address."""

    kind: Literal["feed"] = "feed"
    url: SourceUrl


class Endpoint(_Table):
    """[sources.NAME] kind = "json": briefs as JSON at a web address, one or a page of them."""

    kind: Literal["json"] = "json"
    url: SourceUrl


def _kind_or(default: str) -> Discriminator:
    """Picks a table by its `kind`; where it names none, it is the default."""

    def kind(table: Any) -> Any:
        return table.get("kind", default) if isinstance(table, dict) else getattr(table, "kind", default)

    return Discriminator(kind)


ProviderTable = Annotated[
    Annotated[Outbox, Tag("outbox")]
    | Annotated[SendGrid, Tag("sendgrid")]
    | Annotated[Smtp, Tag("smtp")]
    | Annotated[Ses, Tag("ses")],
    _kind_or("outbox"),
]
SourceTable = Annotated[
    Annotated[Folder, Tag("folder")] | Annotated[Feed, Tag("feed")] | Annotated[Endpoint, Tag("json")],
    _kind_or("folder"),
]


class Fetch(_Table):
    """[fetch]: how web addresses are asked, and which networks besides the public internet may be."""

    allow_networks: Networks = ()
    timeout: Duration = Field(default=timedelta(seconds=30), ge=timedelta(seconds=1), le=timedelta(minutes=10))
    largest_bytes: int = Field(default=10_000_000, ge=10_000, le=100_000_000)


class Templates(_Table):
    """[templates]: a folder whose files take the place of the built-in ones of the same name."""

    path: Where | None = None


class DispatchLimits(_Table):
    """[dispatch]: who may be mailed at all, how fast, and when a person is asked first."""

    only_to: Words = ()
    audience_jump: float = Field(default=2.0, gt=1)
    lease: Duration = Field(default=timedelta(minutes=5), ge=timedelta(seconds=1))
    calls: int = Field(default=4, ge=1, le=64)  # at once, in all processes together
    per_second: int | None = Field(default=None, ge=1)  # recipients, as in the three below
    per_hour: int | None = Field(default=None, ge=1)
    per_day: int | None = Field(default=None, ge=1)
    domains: dict[Domain, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)  # an hour
    warm_up: tuple[Annotated[int, Field(ge=1)], ...] = ()  # recipients on the first day, the second, …
    warm_up_from: date | None = None
    patience: int = Field(default=10, ge=1)  # calls in a row that may fail before an edition pauses
    unknown_wait: Duration = timedelta(hours=1)
    on_unknown: Literal["hold", "resend", "drop"] = "hold"
    fold_after: Duration = Field(default=timedelta(days=90), ge=timedelta(days=1))
    soft_bounces: int = Field(default=5, ge=0, le=30)  # in a row, of one person; 0: never
    keep_events: Duration = Field(default=timedelta(days=30), ge=timedelta(days=2))

    @model_validator(mode="after")
    def _warm_up_is_whole(self) -> Self:
        if bool(self.warm_up) != (self.warm_up_from is not None):
            raise ValueError("expected warm_up and warm_up_from together, or neither")
        return self


class Subscribers(_Table):
    """[subscribers]: how long what is asked stands, what is kept of it, and how much may be asked."""

    request_lasts: Duration = Field(default=timedelta(days=7), ge=timedelta(hours=1))
    keep_origin: Duration = timedelta(days=90)
    fastest_form: Duration = Field(default=timedelta(seconds=2), le=timedelta(minutes=1))
    requests_per_address: int = Field(default=3, ge=1)  # an hour
    requests_per_network: int = Field(default=20, ge=1)  # an hour
    requests_per_domain: int = Field(default=300, ge=1)  # an hour
    invites_per_hour: int = Field(default=500, ge=1)


class Pages(_Table):
    """[web]: the pages that people meet."""

    trusted_proxies: Networks = ()


class Desk(_Table):
    """[desk]: who is told what becomes of editions. The web address that is told, too, comes from the environment."""

    mail: Mailboxes = ()
    proofs: bool = True
    reports: bool = True
    webhook: SecretStr | None = Field(default=None, exclude=True)  # whoever knows it can write to the desk's channel


class Alerts(_Table):
    """[alerts]: from when on the desk is told that something must be looked into."""

    overdue: Duration = Field(default=timedelta(minutes=15), ge=timedelta(minutes=1))
    source_failures: int = Field(default=3, ge=1)  # in a row
    provider_failures: int = Field(default=5, ge=1)  # the same
    nothing_new: Duration = timedelta(days=2)  # from no source; 0: never
    bounce_rate: Share = 0.05
    complaint_rate: Share = 0.003
    rate_of: int = Field(default=200, ge=1)  # accepted copies, of fewer a rate says little


class Clock(_Table):
    """[clock]: how often the scheduler does what goes on beside editions, and where it tells how it fares."""

    collect_every: Duration = Field(default=timedelta(minutes=10), ge=timedelta(minutes=1))
    sync_every: Duration = Field(default=timedelta(hours=6), ge=timedelta(minutes=10))
    listen: Listener | None = None


class Newsletter(_Table):
    """[newsletters.ID]: one recurring publication. The ID is for good: editions are counted under it."""

    title: Line = Field(max_length=100)
    tagline: Line | None = None
    sender: Mailbox = Field(alias="from")
    reply_to: Mailbox | None = None
    list_id: ListId | None = None
    leave_mailbox: Mailbox | None = None
    postal_address: str | None = None
    schedule: Crons = Field(default=("0 7 * * *",), min_length=1)
    zone: Zone = "UTC"
    skip: Days = ()
    until: date | None = None
    send_at_local: bool = False
    lead: Duration = Field(default=timedelta(minutes=10), le=timedelta(days=7))
    approval: Literal["auto", "required"] = "auto"
    approve_within: Duration | None = None
    silence: Literal["send", "hold", "skip"] = "hold"
    round_up: Id | None = None
    language: Language = "en"
    lists: Slugs = Field(min_length=1)
    sources: Words = ()
    topics: Words = ()
    order: Literal["newest", "oldest", "topics"] = "newest"
    min_briefs: int = Field(default=1, ge=1)
    max_briefs: int = Field(default=8, ge=1, le=30)
    full_briefs: int | None = Field(default=None, ge=1)
    max_age: Duration = timedelta(days=7)
    min_interval: Duration | None = None
    stale_after: Duration = timedelta(hours=24)
    template: Id = "digest"
    accent: Colour = "#9b1c31"
    splits: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _can_be_kept(self) -> Self:
        if {*WEEKDAYS} <= {*self.skip}:
            raise ValueError("expected a day of the week that skip leaves")
        if self.approval == "required" and not (self.lead if self.approve_within is None else self.approve_within):
            raise ValueError("expected lead or approve_within above 0s, so that somebody can approve in time")
        return self

    @property
    def timetable(self) -> Schedule:
        """Its slots."""
        return Schedule(self.schedule, self.zone, self.skip, self.until)

    def due_from(self, slot: Slot) -> datetime:
        """The instant from which the edition of a slot may go out to somebody."""
        return first_on_earth(slot.local) if self.send_at_local else slot.instant

    @property
    def mailbox(self) -> Address:
        """The From of its mails."""
        mailbox = parse(self.sender)
        local, _, domain = mailbox.address.rpartition("@")
        return Address(mailbox.name or "", local, domain)


class Settings(_Table):
    """The whole file, with paths made absolute, and the secret from the environment."""

    site: Site
    database: Database = Database()
    backup: Backups = Backups()
    provider: ProviderTable = Outbox()
    sources: dict[Id, SourceTable] = Field(default_factory=dict)
    fetch: Fetch = Fetch()
    templates: Templates = Templates()
    dispatch: DispatchLimits = DispatchLimits()
    subscribers: Subscribers = Subscribers()
    web: Pages = Pages()
    desk: Desk = Desk()
    alerts: Alerts = Alerts()
    clock: Clock = Clock()
    newsletters: dict[Id, Newsletter] = Field(min_length=1)
    file: Path = Field(default=DEFAULT_FILE, exclude=True)
    secret: SecretStr | None = Field(default=None, exclude=True)
    erasure_key: SecretStr | None = Field(default=None, exclude=True)

    @classmethod
    def load(cls, file: Path, environ: Mapping[str, str]) -> Self:
        """Read the file and its `.env`. Raises ConfigurationError with file, line and what was expected."""
        text = _text_of(file)
        try:
            raw = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            line = re.search(r"at line (\d+)", str(error))
            what = re.sub(r" ?\(at .*", "", str(error))
            raise ConfigurationError(f"not TOML: {what}", file=file, line=int(line[1]) if line else None) from None
        refuse_unknown(cls, raw, (), file, text)
        folder = file.absolute().parent
        dotenv = _dotenv(folder / ".env")
        secret, erasure_key = (
            _secret(name, environ.get(name) or dotenv.get(name)) for name in (SECRET_VARIABLE, ERASURE_VARIABLE)
        )
        known = {"file": file.absolute(), "secret": secret, "erasure_key": erasure_key}
        database = (environ.get(DATABASE_VARIABLE) or dotenv.get(DATABASE_VARIABLE) or "").strip()
        try:
            settings = cls.model_validate({**raw, **known})
        except ValidationError as error:
            raise as_configuration_error(error, file, text) from None
        settings._check_names(text)  # noqa: SLF001 # its own class
        if database:
            settings = settings._at(database)  # noqa: SLF001 # the same
        secrets = {
            SendGrid: {"key": SENDGRID_VARIABLE},
            Smtp: {"password": SMTP_VARIABLE, "dkim_key": DKIM_VARIABLE},
            Ses: AWS_VARIABLES,
        }
        found = {
            field: SecretStr(told) if (told := (environ.get(name) or dotenv.get(name) or "").strip()) else None
            for field, name in secrets.get(type(settings.provider), {}).items()
        }
        hook = (environ.get(DESK_VARIABLE) or dotenv.get(DESK_VARIABLE) or "").strip()
        try:
            _web(hook or "https://desk.example.org")
        except ValueError:  # not quoted back: it is a secret
            raise ConfigurationError(f"{DESK_VARIABLE}: expected a web address") from None
        settings = settings.model_copy(
            update={
                "provider": settings.provider.model_copy(update=found),
                "desk": settings.desk.model_copy(update={"webhook": SecretStr(hook) if hook else None}),
            }
        )
        return settings._with_absolute_paths(folder)  # noqa: SLF001 # its own class

    def newsletter(self, name: str) -> Newsletter:
        """The newsletter of that ID. Raises ConfigurationError with the nearest right spelling."""
        if name in self.newsletters:
            return self.newsletters[name]
        known = ", ".join(self.newsletters)
        raise ConfigurationError(
            f"there is no newsletter “{name}”{nearest(name, self.newsletters)} (there is: {known})"
        )

    def sources_of(self, newsletter: Newsletter) -> tuple[str, ...]:
        """The names of a newsletter's sources: those it lists, else all."""
        return newsletter.sources or tuple(self.sources)

    def list_id_of(self, name: str) -> str:
        """The List-Id of a newsletter (RFC 2919): its own, else its ID below the sender's domain."""
        newsletter = self.newsletters[name]
        return newsletter.list_id or f"{name}.{newsletter.mailbox.domain}"

    def need_secret(self) -> bytes:
        """The secret that signs expiring links. Raises ConfigurationError where there is none."""
        if self.secret is None:
            raise ConfigurationError(
                f"{SECRET_VARIABLE} is not set: put it into the environment or into .env beside {self.file.name} "
                "(newsletter init writes one)"
            )
        return self.secret.get_secret_value().encode()

    @property
    def erasure_secret(self) -> bytes | None:
        """The key that erased people's addresses are hashed with, None where there is none."""
        return self.erasure_key.get_secret_value().encode() if self.erasure_key else None

    def need_erasure_secret(self) -> bytes:
        """The same. Raises ConfigurationError where there is none."""
        if (secret := self.erasure_secret) is None:
            raise ConfigurationError(
                f"{ERASURE_VARIABLE} is not set: put a random text of {_SECRET_CHARACTERS} characters or more into the "
                f"environment or into .env beside {self.file.name}, keep it with your backups, and never change it"
            )
        return secret

    def newsletter_of_list(self, slug: str) -> str | None:
        """The first newsletter that goes to a list, None where none does."""
        return next((name for name, newsletter in self.newsletters.items() if slug in newsletter.lists), None)

    def _check_names(self, text: str) -> None:
        for name, newsletter in self.newsletters.items():
            for source in newsletter.sources:
                if source not in self.sources:
                    raise ConfigurationError(
                        f"newsletters.{name}.sources: there is no source “{source}”{nearest(source, self.sources)}",
                        file=self.file,
                        line=line_of(text, ("newsletters", name, "sources")),
                    )
            told = newsletter.round_up
            if told is not None and (told not in self.newsletters or self.newsletters[told].round_up is not None):
                other = {key: one for key, one in self.newsletters.items() if one.round_up is None}
                raise ConfigurationError(
                    f"newsletters.{name}.round_up: expected another newsletter, and no round-up, "
                    f"found “{told}”{nearest(told, other)}",
                    file=self.file,
                    line=line_of(text, ("newsletters", name, "round_up")),
                )
            if newsletter.min_briefs > newsletter.max_briefs:
                raise ConfigurationError(
                    f"newsletters.{name}.min_briefs: expected at most max_briefs = {newsletter.max_briefs}, "
                    f"found {newsletter.min_briefs}",
                    file=self.file,
                    line=line_of(text, ("newsletters", name, "min_briefs")),
                )

        if isinstance(self.provider, SendGrid | Smtp | Ses) and self.provider.timeout * 2 > self.dispatch.lease:
            raise ConfigurationError(
                "provider.timeout: expected at most half of dispatch.lease, so that no other process takes over a "
                "batch whose call may still be answered",
                file=self.file,
                line=line_of(text, ("provider", "timeout")) or line_of(text, ("dispatch", "lease")),
            )

    def _at(self, url: str) -> Self:
        """The same with the database that the environment names."""
        try:
            table = Database(url=url, instance=self.database.instance)
        except ValidationError as error:
            what = str(error.errors(include_url=False, include_input=False)[0]["msg"]).removeprefix("Value error, ")
            raise ConfigurationError(f"{DATABASE_VARIABLE}: {what}") from None
        return self.model_copy(update={"database": table})

    def _with_absolute_paths(self, folder: Path) -> Self:
        def absolute(path: Path) -> Path:
            return folder / path

        provider = self.provider
        if isinstance(provider, Outbox):
            provider = provider.model_copy(update={"path": absolute(provider.path)})
        if isinstance(provider, Smtp) and provider.ca_file is not None:
            provider = provider.model_copy(update={"ca_file": absolute(provider.ca_file)})
        url = self.database.url
        if url.startswith("sqlite:"):
            url = f"sqlite:///{absolute(Path(url.removeprefix('sqlite:///')))}"
            if "?" in url:
                raise ConfigurationError("database.url: a database's path cannot hold “?”", file=self.file)
        templates, backup = self.templates.path, self.backup
        programs = absolute(backup.programs) if backup.programs else None
        return self.model_copy(
            update={
                "database": self.database.model_copy(update={"url": url}),
                "backup": backup.model_copy(update={"directory": absolute(backup.directory), "programs": programs}),
                "provider": provider,
                "sources": {
                    name: source.model_copy(update={"path": absolute(source.path)})
                    if isinstance(source, Folder)
                    else source
                    for name, source in self.sources.items()
                },
                "templates": Templates(path=absolute(templates) if templates else None),
            }
        )


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigurationError(f"there is no {file}; newsletter init makes one, --config names another") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigurationError("expected UTF-8 text", file=file, line=line) from None
    except OSError as error:
        raise ConfigurationError(f"cannot be read: {error.strerror}", file=file) from None


def _secret(variable: str, given: str | None) -> str | None:
    secret = (given or "").strip()
    if secret and len(secret) < _SECRET_CHARACTERS:
        raise ConfigurationError(f"{variable}: expected at least {_SECRET_CHARACTERS} characters")
    return secret or None


def _dotenv(file: Path) -> Mapping[str, str | None]:
    """What a `.env` holds, empty where there is no such file."""
    try:
        return dotenv_values(file, interpolate=False)
    except UnicodeDecodeError:
        raise ConfigurationError("expected UTF-8 text", file=file) from None
    except OSError as error:
        raise ConfigurationError(f"cannot be read: {error.strerror}", file=file) from None
