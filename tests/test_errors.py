"""The errors: one line each, fit for a terminal and a log, naming what they are about."""

import inspect
from datetime import timedelta
from pathlib import Path

import pytest

import subscribers.errors
from newsletter import errors
from newsletter.errors import (
    BackupError,
    BriefError,
    CollectError,
    CompileError,
    ConfigurationError,
    DispatchError,
    EditionError,
    NewsletterError,
    NobodyError,
    OutcomeUnknown,
    ProviderRefused,
    Throttled,
    Unreachable,
    WebhookRejected,
)

MADE = {
    CollectError: (("desk", "https://feed.example.org/", "no answer within 20 s"), ("desk", "feed.example.org")),
    BriefError: ((Path("briefs/harbour.txt"), 7, "expected facts"), ("briefs/harbour.txt:7", "expected facts")),
    CompileError: (("digest/body.mjml.j2", 12, "<mj-bdy> is no MJML"), ("digest/body.mjml.j2:12", "mj-bdy")),
    Throttled: (("sendgrid", timedelta(seconds=30)), ("sendgrid", "30 s")),
    Unreachable: (("sendgrid", "connection refused"), ("sendgrid", "connection refused")),
    ProviderRefused: (("outbox", "no space left on device"), ("outbox", "no space left")),
    OutcomeUnknown: (("sendgrid", "cut off after the body"), ("sendgrid", "cut off")),
    WebhookRejected: (("sendgrid", "a bad signature"), ("sendgrid", "a bad signature")),
    EditionError: (("daily", "all dispatch is halted"), ("daily", "halted")),
    NobodyError: (("daily", "nobody is confirmed on list daily"), ("daily", "nobody")),
    BackupError: ((Path("backups"), "no space left on device"), ("backups", "no space left")),
    ConfigurationError: (("site.url is missing",), ("site.url",)),
}


def _classes() -> list[type[Exception]]:
    found = [made for _, made in inspect.getmembers(errors, inspect.isclass) if made.__module__ == errors.__name__]
    return [made for made in found if issubclass(made, Exception)]


def _raised() -> set[type[Exception]]:
    """The leaves of the tree; and EditionError, of which one kind is told apart."""
    return {made for made in _classes() if not made.__subclasses__()} | {EditionError}


def test_every_error_is_made_here() -> None:
    assert _raised() == set(MADE)


@pytest.mark.parametrize("error", MADE)
def test_an_error_is_one_line_that_names_its_subject(error: type[Exception]) -> None:
    arguments, named = MADE[error]
    said = str(error(*arguments))
    assert said.splitlines() == [said]
    assert said.isprintable()
    assert all(word in said for word in named)
    assert error.__doc__


@pytest.mark.parametrize("error", [BriefError, CompileError])
def test_an_error_without_a_line_still_names_its_file(error: type[BriefError] | type[CompileError]) -> None:
    made = error("some/file", None, "expected more")
    assert str(made).endswith("some/file: expected more")
    assert made.line is None


def test_a_configuration_error_says_where_as_far_as_that_is_known() -> None:
    assert str(ConfigurationError("x is missing", file="a.toml", line=3)) == "a.toml:3: x is missing"
    assert str(ConfigurationError("x is missing", file=Path("a.toml"))) == "a.toml: x is missing"
    assert str(ConfigurationError("x is missing")) == "x is missing"


def test_no_retry_loop_swallows_a_configuration_error() -> None:
    assert not issubclass(ConfigurationError, NewsletterError)
    outside = [made for made in _classes() if not issubclass(made, NewsletterError)]
    assert outside == [ConfigurationError]
    assert {Throttled, Unreachable, ProviderRefused, OutcomeUnknown} == set(DispatchError.__subclasses__())


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = [line for line in (errors.__doc__ or "").splitlines() if line.startswith("    ")]
    assert len(drawn) == len(_classes())
    for made in _classes():
        (line,) = [line for line in drawn if line.split()[0] == made.__name__]
        depth = (len(line) - len(line.lstrip())) // 4
        parents = [parent for parent in made.__mro__[1:] if parent.__module__ == errors.__name__]
        assert depth == len(parents) + 1, made


def test_the_lists_tree_in_the_docstring_is_the_tree() -> None:
    drawn = subscribers.errors.__doc__ or ""
    for name, made in inspect.getmembers(subscribers.errors, inspect.isclass):
        assert name in drawn
        assert issubclass(made, subscribers.errors.SubscriberError)


def test_an_error_keeps_its_facts_for_the_caller() -> None:
    brief = BriefError("a.txt", 3, "expected facts")
    assert (brief.file, brief.line, brief.what) == ("a.txt", 3, "expected facts")
    throttled = Throttled("sendgrid", timedelta(minutes=1))
    assert throttled.retry_after == timedelta(minutes=1)
    edition = EditionError("daily", "its slot is ahead", consent=True)
    assert edition.consent
    assert not EditionError("daily", "halted").consent
