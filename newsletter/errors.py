"""The errors, named by what the caller does next.

::

    NewsletterError
        CollectError            skip the source, keep the edition, tell the operator
        BriefError              skip the brief, say which and why
        CompileError            stop: nothing is ever sent half-compiled
        DispatchError           the whole call failed; its kind says whether anything may have left
            Throttled           surely not accepted; due again after `retry_after`
            Unreachable         surely not accepted; due again after a back-off
            ProviderRefused     wrong for everyone; the edition pauses, nobody is marked
            OutcomeUnknown      may have been accepted; the whole set is unknown
        WebhookRejected         answer 4xx, store nothing
        EditionError            the edition cannot do that now; the sentence says what it waits for
            NobodyError         it would go to nobody; whoever sends by a schedule skips it
        BackupError             no backup was made, or put back, and what stood there stands; mend, try again
    ConfigurationError          the operator mends a file or a setting; no retry can help

ConfigurationError stands outside the tree so that no retry loop swallows it. Constructors take facts and build
the sentence, which holds no secret and no full address; `str(error)` is one line, fit for a terminal and a log.
"""

from datetime import timedelta
from pathlib import Path


def _one_line(sentence: str) -> str:
    return " ".join(sentence.split())


def _where(file: Path | str | None, line: int | None) -> str:
    if file is None:
        return ""
    return f"{file}:{line}: " if line is not None else f"{file}: "


class NewsletterError(Exception):
    """Whatever can go wrong while a newsletter is made and sent."""


class CollectError(NewsletterError):
    """A source gave nothing usable. Skip it, keep the edition, tell the operator."""

    def __init__(self, source: str, url: str, what: str) -> None:
        self.source, self.url, self.what = source, url, what
        super().__init__(_one_line(f"source {source} ({url}): {what}"))


class BriefError(NewsletterError):
    """One brief cannot be read. Skip it and say which and why.

    `line` counts from 1; None where the fault has no line (an empty file). `what` says what was expected.
    """

    def __init__(self, file: Path | str, line: int | None, what: str) -> None:
        self.file, self.line, self.what = file, line, what
        super().__init__(_one_line(f"{_where(file, line)}{what}"))


class CompileError(NewsletterError):
    """A template cannot be compiled. Stop: nothing is ever sent half-compiled.

    `template` is the name below the templates folder ("digest/body.mjml.j2"); `line` counts from 1, None where
    the fault is of the whole result (no unsubscribe link anywhere).
    """

    def __init__(self, template: str, line: int | None, what: str) -> None:
        self.template, self.line, self.what = template, line, what
        super().__init__(_one_line(f"template {_where(template, line)}{what}"))


class DispatchError(NewsletterError):
    """A call to a provider failed as a whole."""


class Throttled(DispatchError):
    """The provider asked us to wait; surely nothing was accepted."""

    def __init__(self, provider: str, retry_after: timedelta) -> None:
        self.provider, self.retry_after = provider, retry_after
        super().__init__(_one_line(f"{provider} asks to wait {retry_after.total_seconds():.0f} s"))


class Unreachable(DispatchError):
    """No connection, or refused before the body; surely nothing was accepted."""

    def __init__(self, provider: str, what: str) -> None:
        self.provider, self.what = provider, what
        super().__init__(_one_line(f"{provider} cannot be reached: {what}"))


class ProviderRefused(DispatchError):
    """The provider refuses everybody's copy: a revoked key, an unverified sender, a full disk.

    `suspect` is True where it refused the request without a word about whose fault it is: then a single recipient may
    have spoilt it for the others.
    """

    def __init__(self, provider: str, what: str, *, suspect: bool = False) -> None:
        self.provider, self.what, self.suspect = provider, what, suspect
        super().__init__(_one_line(f"{provider} refuses: {what}"))


class OutcomeUnknown(DispatchError):
    """The body was out and no answer came: any copy of the call may have been accepted."""

    def __init__(self, provider: str, what: str) -> None:
        self.provider, self.what = provider, what
        super().__init__(_one_line(f"{provider} gave no answer: {what}"))


class WebhookRejected(NewsletterError):
    """A webhook with a bad signature or shape. Answer 4xx and store nothing.

    `signed` is True where the signature is good, and what was signed cannot be read.
    """

    def __init__(self, provider: str, what: str, *, signed: bool = False) -> None:
        self.provider, self.what, self.signed = provider, what, signed
        super().__init__(_one_line(f"webhook of {provider} rejected: {what}"))


class EditionError(NewsletterError):
    """An edition cannot do what was asked, for a reason that an operator can read and lift.

    `consent` is True where the operator's explicit yes (`--yes`) lifts it, False where something else must change.
    """

    def __init__(self, edition: str, what: str, *, consent: bool = False) -> None:
        self.edition, self.what, self.consent = edition, what, consent
        super().__init__(_one_line(f"{edition}: {what}"))


class NobodyError(EditionError):
    """An edition would go to nobody: it is not started. Who sends it by a schedule skips it."""


class BackupError(NewsletterError):
    """A backup was not made, or not put back. What stood there before stands; mend what the sentence says, try again.

    `subject` is the file, the folder, the database or the program that it is about.
    """

    def __init__(self, subject: Path | str, what: str) -> None:
        self.subject, self.what = subject, what
        super().__init__(_one_line(f"{subject}: {what}"))


class ConfigurationError(Exception):
    """A setting, secret or environment is wrong, and only a person can mend it.

    `file` and `line` say where, as far as that is known.
    """

    def __init__(self, what: str, *, file: Path | str | None = None, line: int | None = None) -> None:
        self.what, self.file, self.line = what, file, line
        super().__init__(_one_line(f"{_where(file, line)}{what}"))
