"""The errors of the list.

::

    SubscriberError
        AddressError        the text is no address; the sentence says why
        TokenError          a link that is damaged or not ours
            SpentError      a link that was ours, and is expired, used or replaced
        UnknownList         there is no list of that name
        NotAllowed          the person's own earlier word stands against it (suppressed, unsubscribed)
        ErasureKeyError     people were erased, and the key they were erased with is not at hand
        TransferError       a file cannot be imported as a whole; the sentence says what was expected

Their sentences name no address, so that a log may hold them.
"""


class SubscriberError(Exception):
    """Whatever the list cannot do."""


class AddressError(SubscriberError, ValueError):
    """A text is no mail address."""


class TokenError(SubscriberError):
    """A link is damaged or not ours."""


class SpentError(TokenError):
    """A link was ours, and is good no more: it expired, was used, or was replaced."""


class UnknownList(SubscriberError):
    """There is no list of that name."""

    def __init__(self, slug: str) -> None:
        self.slug = slug
        super().__init__(f"there is no list “{slug}”")


class NotAllowed(SubscriberError):
    """The person's own earlier word, or their mailbox's, stands against it."""


class ErasureKeyError(SubscriberError):
    """People were erased, and without the key they were erased with nobody can tell whether a person is one of them."""

    def __init__(self, *, missing: bool) -> None:
        self.missing = missing
        what = "it is not set" if missing else "this is another one"
        super().__init__(f"people were erased with a key of their own, and {what}: take it from the backup")


class TransferError(SubscriberError):
    """A file cannot be imported as a whole."""
