"""The provider seam: handing Messages to a delivery service.

One file a provider, holding both halves (submitting, and reading its webhook). `open_provider` is the registry.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol, runtime_checkable

from newsletter.edition import AttemptId, Event, Finding, Message, Receipt, Recipient
from newsletter.errors import ConfigurationError
from newsletter.settings import (
    AWS_VARIABLES,
    DKIM_VARIABLE,
    SENDGRID_VARIABLE,
    SMTP_VARIABLE,
    Outbox,
    SendGrid,
    Ses,
    Smtp,
)


class Provider(Protocol):
    """Hands messages to a delivery service.

    Never retries by itself; every call is bounded by a time-out; one Receipt for each recipient, in any order, as soon
    as it is known; safe from several threads. Raises a DispatchError where nobody's copy was handed over
    (OutcomeUnknown: may have been); beside receipts it speaks of those who have none, or were not tried.
    """

    @property
    def name(self) -> str:
        """As the configuration calls it."""

    @property
    def batch_size(self) -> int:
        """The most recipients a call."""

    @property
    def idempotent(self) -> bool:
        """True where calling again under the same delivery ids cannot duplicate."""

    @property
    def live(self) -> bool:
        """True where mail leaves for the world: then the database's instance id must be claimed."""

    @property
    def atomic(self) -> bool:
        """True where one call is taken whole or not at all, so that what is told of one of its copies proves all."""

    def submit(
        self, message: Message, recipients: Sequence[Recipient], attempt: AttemptId, started: Callable[[], None]
    ) -> Iterator[Receipt]:
        """Hand over one copy a recipient. `started` is called just before the first byte of the body leaves.

        What `started` raises goes through untouched, and nothing has left then. It is not called where there is nobody
        to call for.
        """

    def events(self, headers: Mapping[str, str], body: bytes) -> Sequence[Event]:
        """What the provider's webhook told, its signature verified first. Raises WebhookRejected."""

    def check(self) -> Sequence[Finding]:
        """What can be told about it without sending, for doctor."""

    def close(self) -> None:
        """Give back what it holds open. May be called again."""


@runtime_checkable
class Recalling(Protocol):
    """What a provider can that keeps back what it takes for a while, so that an edition can be called back."""

    @property
    def hold(self) -> timedelta:
        """How long it keeps back what it takes. Zero: it does not, as it is configured."""

    def reserve(self) -> str:
        """A name by which many calls are called back together. Raises a DispatchError."""

    def holding(self, recall_id: str) -> Provider:
        """The same provider, whose calls go under that name and are kept back."""

    def recall(self, recall_id: str) -> None:
        """Give up what is kept back under a name. Raises a DispatchError where that is not certain."""


def recalling(provider: Provider) -> Recalling | None:
    """A provider that keeps back what it takes; None where it cannot, or is not asked to."""
    return provider if isinstance(provider, Recalling) and provider.hold else None


@runtime_checkable
class Polling(Protocol):
    """What a provider can that keeps lists of whom it will not mail: what its webhook failed to tell is read there."""

    def poll(self, since: datetime | None) -> Iterator[Event]:
        """What was put on its lists since an instant (None: ever), each entry under an id of its own, for ever.

        These events name addresses. Raises a DispatchError where the provider cannot be asked.
        """


def polling(provider: Provider) -> Polling | None:
    """A provider that keeps lists which can be read; None where it does not."""
    return provider if isinstance(provider, Polling) else None


def _now() -> datetime:
    return datetime.now(UTC)


def hook_url(site_url: str, provider: str) -> str:
    """Where a provider's webhook posts to."""
    return f"{site_url}/hooks/{provider}"


def open_provider(
    settings: Outbox | SendGrid | Smtp | Ses,
    *,
    sandbox: bool = False,
    site_url: str | None = None,
    clock: Callable[[], datetime] = _now,
) -> Provider:
    """The provider that the configuration names. In its `sandbox` it judges every request and delivers none.

    `site_url` is where our pages are: a check-up looks whether the provider's webhook leads there.
    Raises ConfigurationError where it has no sandbox, or has not been given its key.
    """
    if isinstance(settings, Outbox):
        if sandbox:
            raise ConfigurationError("the outbox has no sandbox: it reaches nobody as it is")
        from newsletter.providers.outbox import OutboxProvider  # noqa: PLC0415 # only the one in use is loaded

        return OutboxProvider(settings.path, batch_size=settings.batch_size, clock=clock)
    if isinstance(settings, Smtp):
        if sandbox:
            raise ConfigurationError("an SMTP server has no sandbox: --test mails one proof to an address of yours")
        return _open_smtp(settings)
    if isinstance(settings, Ses):
        if sandbox:
            raise ConfigurationError(
                "Amazon SES has no sandbox that judges an edition: --test mails one proof to an address of yours"
            )
        return _open_ses(settings, clock)
    if settings.key is None:
        raise ConfigurationError(
            f"{SENDGRID_VARIABLE} is not set: put it into the environment or into .env beside the configuration"
        )
    from newsletter.providers.sendgrid import SendGridProvider  # noqa: PLC0415 # only the one in use is loaded

    return SendGridProvider(
        settings.key.get_secret_value(),
        host=settings.host,
        timeout=settings.timeout,
        batch_size=settings.batch_size,
        webhook_keys=settings.webhook_keys,
        sandbox=sandbox,
        hold=settings.hold,
        hook=hook_url(site_url, "sendgrid") if site_url else None,
        clock=clock,
    )


def _open_smtp(settings: Smtp) -> Provider:
    password = settings.password.get_secret_value() if settings.password else None
    if settings.username is not None and password is None:
        raise ConfigurationError(
            f"{SMTP_VARIABLE} is not set, and provider.username is: put it into the environment or into .env beside "
            "the configuration"
        )
    if settings.dkim is not None and settings.dkim_key is None:
        raise ConfigurationError(
            f"{DKIM_VARIABLE} is not set, and provider.dkim is: put the private key, PEM or one line of base64, into "
            "the environment or into .env beside the configuration"
        )
    from newsletter.providers.smtp import SmtpProvider  # noqa: PLC0415 # only the one in use is loaded

    sign = None
    if settings.dkim is not None and settings.dkim_key is not None:
        from newsletter.providers.dkim import signer  # noqa: PLC0415 # the same

        sign = signer(settings.dkim.domain, settings.dkim.selector, settings.dkim_key.get_secret_value())
    return SmtpProvider(
        settings.host,
        port=settings.service,
        security=settings.security,
        username=settings.username,
        password=password if settings.username is not None else None,
        ca_file=settings.ca_file,
        hello=settings.hello,
        timeout=settings.timeout,
        batch_size=settings.batch_size,
        bounce_domain=settings.bounce_domain,
        sign=sign,
    )


def _open_ses(settings: Ses, clock: Callable[[], datetime]) -> Provider:
    key_id, secret_key, session_token = (
        given.get_secret_value() if given else None
        for given in (settings.key_id, settings.secret_key, settings.session_token)
    )
    if (key_id is None) != (secret_key is None):
        set_, unset = ("key_id", "secret_key") if secret_key is None else ("secret_key", "key_id")
        raise ConfigurationError(
            f"{AWS_VARIABLES[unset]} is not set, and {AWS_VARIABLES[set_]} is: put both into the environment or into "
            ".env beside the configuration, or neither, where boto3 finds credentials by itself"
        )
    try:
        from newsletter.providers.ses import SesProvider  # noqa: PLC0415 # only the one in use is loaded
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"provider.kind = “ses” needs the package {error.name}: pip install 'brief-newsletter[ses]'"
        ) from None
    return SesProvider(
        region=settings.region,
        configuration_set=settings.configuration_set,
        endpoint_url=settings.endpoint_url,
        timeout=settings.timeout,
        batch_size=settings.batch_size,
        key_id=key_id,
        secret_key=secret_key,
        session_token=session_token if key_id is not None else None,
        clock=clock,
    )
