"""The harness of `make faults` can fail: its judge tells each kind of broken promise, and a small run of it works.

What it proves of the product is `make faults`'s own to prove; here it is kept from rotting.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from faults.judging import WORDS, Books, Judgement, judge
from faults.scenarios import scenarios
from faults.wrapped import BOUNDARIES

ROOT = Path(__file__).parent.parent
AUDIENCE = ("ann@example.org", "bob@example.org", "eve@example.org")
SENT = {"ann@example.org": "accepted", "bob@example.org": "accepted", "eve@example.org": "suppressed"}


def judged(received: Mapping[str, int], words: Mapping[str, str] = SENT, **more: Any) -> Judgement:
    books = Books("closed", len(AUDIENCE), words)
    return judge(AUDIENCE, {"eve@example.org"}, received, books, **more)


def test_an_edition_that_went_out_once_breaks_no_promise() -> None:
    told = {word: list(SENT.values()).count(word) for word in WORDS} | {"candidates": 3}
    found = judged({"ann@example.org": 1, "bob@example.org": 1}, told=told, named=[], unknown_allowed=0)
    assert not found.broken
    assert (found.received, found.unknown) == (2, 0)


def test_a_second_copy_is_told() -> None:
    assert judged({"ann@example.org": 2, "bob@example.org": 1}).twice == ("ann@example.org: 2 copies",)


@pytest.mark.parametrize("word", ["waiting", "skipped"])
def test_whoever_got_nothing_and_is_not_explained_is_missing(word: str) -> None:
    found = judged({"ann@example.org": 1}, {**SENT, "bob@example.org": word})
    assert found.missing == (f"bob@example.org: on record {word}",)


def test_whoever_is_not_on_record_at_all_is_missing() -> None:
    words = {address: word for address, word in SENT.items() if address != "bob@example.org"}
    found = judged({"ann@example.org": 1}, words)
    assert found.missing
    assert found.wrong, "nor does the sum hold"


@pytest.mark.parametrize(
    ("received", "words"),
    [
        ({"ann@example.org": 1}, SENT),  # bob is said to be accepted
        ({"ann@example.org": 1, "bob@example.org": 1}, {**SENT, "bob@example.org": "refused"}),
        ({"ann@example.org": 1, "bob@example.org": 1}, {**SENT, "bob@example.org": "cancelled"}),
        ({"ann@example.org": 1, "bob@example.org": 1, "eve@example.org": 1}, SENT),  # who is suppressed
        ({"ann@example.org": 1, "bob@example.org": 1, "who@example.org": 1}, SENT),  # a stranger
    ],
)
def test_what_the_ledger_says_and_is_not_so_is_wrong(received: Mapping[str, int], words: Mapping[str, str]) -> None:
    assert len(judged(received, words).wrong) == 1


def test_the_unknown_must_be_named_counted_and_no_more_than_were_out() -> None:
    words = {**SENT, "bob@example.org": "unknown"}
    received = {"ann@example.org": 1, "bob@example.org": 1}
    told = {word: list(words.values()).count(word) for word in WORDS} | {"candidates": 3}
    assert not judged(received, words, told=told, named=["bob@example.org"], unknown_allowed=1).broken
    assert judged(received, words, named=[]).wrong
    assert judged(received, words, named=["bob@example.org"], unknown_allowed=0).wrong
    assert judged(received, words, told={**told, "unknown": 0, "accepted": 2}).wrong


def test_every_boundary_of_the_ledger_is_a_scenario() -> None:
    names = {scenario.name for scenario in scenarios(1, 1)}
    assert {f"killed at {at}" for at in BOUNDARIES} <= names


@pytest.mark.slow
def test_killed_by_servers_and_beside_the_last_commit_before_a_call() -> None:
    command = [sys.executable, "-m", "faults", "--quick", "--seed", "1", "--database", "sqlite", "--lanes", "2"]
    command += ["--provider", "sendgrid", "--provider", "smtp"]  # an outbox is killed in tests/test_kill.py
    only = [option for name in ("server: body", "killed at call.commit") for option in ("--only", name)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, *only], capture_output=True, text=True, timeout=240, check=False, cwd=ROOT, env=environ
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 scenarios" in done.stdout
    assert "BROKEN" not in done.stdout
