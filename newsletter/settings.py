"""newsletter.toml and the environment -> one frozen Settings, passed down; never a global.

Each class here is a table of the file, each field a setting; docs/configuration.md says the same for operators, and a
test holds the two together. Secrets come from the environment or from a `.env` beside the file, never from the file
itself. Whatever is wrong is a ConfigurationError that names file and line; an unknown key gets the nearest right one.
"""

import difflib
import re
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from email.headerregistry import Address
from email.utils import parseaddr
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from dotenv import dotenv_values
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from newsletter.errors import ConfigurationError

DEFAULT_FILE = Path("newsletter.toml")
SECRET_VARIABLE = "NEWSLETTER_SECRET"  # noqa: S105 # a variable's name
_SECRET_CHARACTERS = 32  # 32 characters of base64 are 192 bits; NIST SP 800-107r1 asks 112 of an HMAC key
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def _duration(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if not (match := re.fullmatch(r"(\d{1,6})\s*([smhdw])", value.strip())):
        raise ValueError(f"expected a time such as “90m”, “12h” or “7d”, found “{value}”")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _mailbox(value: str) -> str:
    name, address = parseaddr(value)
    atoms = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
    if not re.fullmatch(rf"{atoms}(?:\.{atoms})*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+", address) or _CONTROL.search(value):
        raise ValueError(f"expected “Name <address@domain>”, found “{value}”")
    del name
    return value


def _web(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or not re.fullmatch(r"[!-;=?-~]+", value):
        raise ValueError(f"expected an address that begins with https://, found “{value}”")
    return value.rstrip("/")


def _line(value: str) -> str:
    if _CONTROL.search(value):
        raise ValueError("expected one line without control characters")
    return value


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
    return (value,) if isinstance(value, str) else value


Duration = Annotated[timedelta, BeforeValidator(_duration)]
Mailbox = Annotated[str, AfterValidator(_mailbox)]
Web = Annotated[str, AfterValidator(_web)]
Line = Annotated[str, AfterValidator(_line)]
Zone = Annotated[str, AfterValidator(_zone)]
Colour = Annotated[str, AfterValidator(_colour)]
Words = Annotated[tuple[str, ...], BeforeValidator(_tuple)]
Id = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=30)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Site(_Table):
    """[site]: the publisher, and where its pages are."""

    name: Line = Field(min_length=1)
    url: Web
    postal_address: str = Field(min_length=1)
    privacy_url: Web | None = None
    sign_up_url: Web | None = None


class Database(_Table):
    """[database]: where everything is kept."""

    url: str = "sqlite:///newsletter.db"
    instance: str | None = None


class Outbox(_Table):
    """[provider] kind = "outbox": a folder, one .eml a recipient."""

    kind: Literal["outbox"] = "outbox"
    path: Path = Path("outbox")
    batch_size: int = Field(default=500, ge=1, le=10_000)


class Folder(_Table):
    """[sources.NAME] kind = "folder": brief files in a folder."""

    kind: Literal["folder"] = "folder"
    path: Path


class Templates(_Table):
    """[templates]: a folder whose files take the place of the built-in ones of the same name."""

    path: Path | None = None


class DispatchLimits(_Table):
    """[dispatch]: who may be mailed at all, and when a person is asked first."""

    only_to: Words = ()
    audience_jump: float = Field(default=2.0, gt=1)
    lease: Duration = timedelta(minutes=5)


class Newsletter(_Table):
    """[newsletters.ID]: one recurring publication. The ID is for good: editions are counted under it."""

    title: Line = Field(min_length=1, max_length=100)
    tagline: Line | None = None
    sender: Mailbox = Field(alias="from")
    reply_to: Mailbox | None = None
    list_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+$", max_length=255)] | None = None
    postal_address: str | None = None
    schedule: Words = ("0 7 * * *",)
    zone: Zone = "UTC"
    language: Annotated[str, Field(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$")] = "en"
    lists: Words = Field(min_length=1)
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

    @property
    def mailbox(self) -> Address:
        """The From of its mails."""
        name, address = parseaddr(self.sender)
        return Address(display_name=name, addr_spec=address)


class Settings(_Table):
    """The whole file, with paths made absolute, and the secret from the environment."""

    site: Site
    database: Database = Database()
    provider: Outbox = Outbox()
    sources: dict[Id, Folder] = Field(default_factory=dict)
    templates: Templates = Templates()
    dispatch: DispatchLimits = DispatchLimits()
    newsletters: dict[Id, Newsletter] = Field(min_length=1)
    file: Path = Field(default=DEFAULT_FILE, exclude=True)
    secret: SecretStr | None = Field(default=None, exclude=True)

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
        _refuse_unknown(cls, raw, (), file, text)
        folder = file.absolute().parent
        secret = environ.get(SECRET_VARIABLE) or dotenv_values(folder / ".env", interpolate=False).get(SECRET_VARIABLE)
        if secret and len(secret) < _SECRET_CHARACTERS:
            raise ConfigurationError(f"{SECRET_VARIABLE}: expected at least {_SECRET_CHARACTERS} characters")
        try:
            settings = cls.model_validate({**raw, "file": file.absolute(), "secret": secret or None})
        except ValidationError as error:
            raise _as_configuration_error(error, file, text) from None
        settings._check_names(text)  # noqa: SLF001 # its own class
        return settings._with_absolute_paths(folder)  # noqa: SLF001 # its own class

    def newsletter(self, name: str) -> Newsletter:
        """The newsletter of that ID. Raises ConfigurationError with the nearest right spelling."""
        if name in self.newsletters:
            return self.newsletters[name]
        known = ", ".join(self.newsletters)
        raise ConfigurationError(
            f"there is no newsletter “{name}”{_nearest(name, self.newsletters)} (there is: {known})"
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

    def _check_names(self, text: str) -> None:
        for name, newsletter in self.newsletters.items():
            for source in newsletter.sources:
                if source not in self.sources:
                    raise ConfigurationError(
                        f"newsletters.{name}.sources: there is no source “{source}”{_nearest(source, self.sources)}",
                        file=self.file,
                        line=_line_of(text, ("newsletters", name, "sources")),
                    )

    def _with_absolute_paths(self, folder: Path) -> Self:
        def absolute(path: Path) -> Path:
            return folder / path.expanduser()

        url = self.database.url
        if url.startswith("sqlite:///") and not url.startswith(("sqlite:////", "sqlite:///:memory:")):
            url = f"sqlite:///{absolute(Path(url.removeprefix('sqlite:///')))}"
        templates = self.templates.path
        return self.model_copy(
            update={
                "database": self.database.model_copy(update={"url": url}),
                "provider": self.provider.model_copy(update={"path": absolute(self.provider.path)}),
                "sources": {
                    name: source.model_copy(update={"path": absolute(source.path)})
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
    except UnicodeDecodeError:
        raise ConfigurationError("expected UTF-8 text", file=file) from None
    except OSError as error:
        raise ConfigurationError(f"cannot be read: {error.strerror}", file=file) from None


def _nearest(word: str, known: Mapping[str, Any] | list[str]) -> str:
    near = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean “{near[0]}”?" if near else ""


def _names(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in model.model_fields.items() if not field.exclude}


def _refuse_unknown(model: type[BaseModel], raw: Any, path: tuple[str, ...], file: Path, text: str) -> None:
    """Name the first key that is no setting, before anything else is judged: most mistakes are misspellings."""
    if not isinstance(raw, dict):
        return
    known = _names(model)
    for key, value in raw.items():
        here = (*path, key)
        if key not in known:
            raise ConfigurationError(
                f"{'.'.join(here)} is no setting{_nearest(key, known)}", file=file, line=_line_of(text, here)
            )
        annotation = known[key]
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            _refuse_unknown(annotation, value, here, file, text)
        inner = get_args(annotation)[-1] if getattr(annotation, "__origin__", None) is dict else None
        if isinstance(inner, type) and issubclass(inner, BaseModel) and isinstance(value, dict):
            for name, table in value.items():
                _refuse_unknown(inner, table, (*here, name), file, text)


def _as_configuration_error(error: ValidationError, file: Path, text: str) -> ConfigurationError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = tuple(str(part) for part in first["loc"] if part != "[key]")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return ConfigurationError(f"{'.'.join(path)} is missing", file=file, line=_line_of(text, path[:-1]))
    if first["loc"][-1:] == ("[key]",):
        message = "expected a name of a-z, 0-9 and hyphens, at most 30 characters"
    while path and path[-1].isdigit():
        path = path[:-1]
    return ConfigurationError(
        f"{'.'.join(path)}: {message[0].lower()}{message[1:]}", file=file, line=_line_of(text, path)
    )


def _line_of(text: str, path: tuple[str, ...]) -> int | None:
    """The line of a key or a table in the file, as far as a look at its lines can tell."""
    table: tuple[str, ...] = ()
    best: int | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line):
            table = tuple(part.strip().strip("\"'") for part in header[1].split("."))
            if table == path:
                return number
        elif key := re.match(r"\s*([\w.\"'-]+)\s*=", line):
            here = (*table, *(part.strip("\"'") for part in key[1].split(".")))
            if here == path:
                return number
            if here == path[: len(here)]:
                best = number
    return best
