"""The provider seam: handing Messages to a delivery service.

One file a provider, holding both halves (submitting, and reading its webhook). `open_provider` is the registry.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from newsletter.edition import AttemptId, Finding, Message, Receipt, Recipient
from newsletter.settings import Outbox


class Provider(Protocol):
    """Hands messages to a delivery service.

    Never retries by itself; every call is bounded by a time-out; one Receipt for each recipient, in any order, as soon
    as it is known; raises a DispatchError only where nobody's copy was handed over (OutcomeUnknown: may have been);
    safe from several threads.
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

    def submit(
        self, message: Message, recipients: Sequence[Recipient], attempt: AttemptId, started: Callable[[], None]
    ) -> Iterator[Receipt]:
        """Hand over one copy a recipient. `started` is called just before the first byte of the body leaves.

        What `started` raises goes through untouched, and nothing has left then.
        """

    def check(self) -> Sequence[Finding]:
        """What can be told about it without sending, for doctor."""

    def close(self) -> None:
        """Give back what it holds open."""


def open_provider(settings: Outbox) -> Provider:
    """The provider that the configuration names."""
    from newsletter.providers.outbox import OutboxProvider  # noqa: PLC0415 # only the one in use is loaded

    return OutboxProvider(settings.path, batch_size=settings.batch_size)
