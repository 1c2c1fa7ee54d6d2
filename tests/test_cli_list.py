"""The command line about lists, people and notices."""

import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from datetime import timedelta
from pathlib import Path

import pytest

from newsletter.newsroom import Newsroom
from tests import test_cli
from tests.conftest import Desk
from tests.site_server import SECRETS
from tests.test_cli import CLEAN, COMMAND, Command, started

# A fixture of theirs, under the name that tests ask for.
run = test_cli.run


@pytest.fixture(autouse=True)
def _here(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """We stand in the desk's folder, with its secrets, at eight in the morning of its clock."""
    monkeypatch.chdir(desk.folder)
    desk.environ(**SECRETS)
    opened = Newsroom.open
    monkeypatch.setattr(Newsroom, "open", lambda settings, clock=desk.clock: opened(settings, clock))


def add(run: Command, *addresses: str, evidence: str | None = "paper") -> None:
    done = run("subscribers", "add", *addresses, *(("--evidence", evidence) if evidence else ()))
    assert done.code == 0, done.err


def test_lists_are_shown_made_and_changed(run: Command) -> None:
    add(run, "ada@example.org", "bob@example.org")
    run("subscribers", "unsubscribe", "bob@example.org")
    assert run("lists").out == (
        "daily: The Test Digest (public, joined by a confirmed link)\n    1 confirmed, 1 unsubscribed; for daily\n"
    )
    made = run("lists", "create", "weekly", "--name", "The Week", "--description", "Once a week", "--private")
    assert made.out == "made the list weekly\n"
    assert run("lists", "create", "weekly").mistake == "there is a list “weekly” already"
    assert run("lists", "create", "two words").mistake.startswith("expected a list's name of A-Z")
    assert run("lists", "set", "weekly", "--public", "--opt-in", "single", "--welcome").code == 0
    assert (
        "weekly: The Week (public, joined at once (single opt-in), with a welcome)\n    Once a week\n"
        in run("lists").out
    )
    assert (
        run("lists", "set", "weekly", "--opt-in", "triple").mistake
        == "--opt-in: expected double or single, found “triple”"
    )
    assert run("lists", "set", "weekly").mistake.startswith("say what to change")
    assert run("lists", "set", "nolist", "--public").mistake == "there is no list “nolist”"
    assert run("lists", "set", "weekly", "--name", "two\nlines").mistake.startswith(
        "--name: expected a text on one line"
    )
    assert {one["slug"]: one["opt_in"] for one in run("lists", "--json").json} == {
        "daily": "double",
        "weekly": "single",
    }


def test_the_form_for_the_desks_own_site_is_printed(run: Command) -> None:
    embedded = run("lists", "embed", "daily").out
    assert '<form action="https://news.example.org/join/daily" method="post">' in embedded
    assert "<script" not in embedded
    run("lists", "set", "daily", "--private")
    assert "is private" in run("lists", "embed", "daily").mistake
    assert "no list “other”" in run("lists", "embed", "other").mistake


def test_a_person_is_shown_with_the_whole_log(run: Command, desk: Desk) -> None:
    add(run, "Ada L. <ada@example.org>")
    desk.clock.forward(timedelta(hours=1))
    run("subscribers", "suppress", "ada@example.org", "--note", "asked by phone")
    shown = run("subscribers", "show", "ADA@example.org").out
    assert shown.startswith(
        "suppressed since 2026-11-23 09:00 UTC (operator): asked by phone\nada@example.org (Ada L.)"
    )
    assert "daily: confirmed since 2026-11-23 08:00 UTC" in shown
    assert "confirmed by operator" in shown
    assert run("subscribers", "show", "ada@example.org", "--json").json["data"]["name"] == "Ada L."
    nobody = run("subscribers", "show", "nobody@example.org")
    assert (nobody.code, nobody.out) == (1, "no list knows this address\n")
    assert "expected an address" in run("subscribers", "show", "nonsense").mistake


def test_people_are_found_by_a_part_of_address_or_name(run: Command) -> None:
    add(run, "Ada Lovelace <ada@example.org>", "Bob <bob@example.net>")
    assert run("subscribers", "find", "LOVELACE").out == "ada@example.org (Ada Lovelace): confirmed on 1 list\n"
    assert run("subscribers", "find", "example.net").out == "bob@example.net (Bob): confirmed on 1 list\n"
    assert run("subscribers", "find", "%").code == 1, "a text, and no pattern"
    add(run, "under_score@example.org")
    assert run("subscribers", "find", "r_s").out == "under_score@example.org: confirmed on 1 list\n"
    assert run("subscribers", "find", "zzz").code == 1
    assert len(run("subscribers", "find", "example", "--limit", "1", "--json").json) == 1


def test_what_lifts_a_suppression_depends_on_its_reason(run: Command) -> None:
    add(run, "ada@example.org")
    run("subscribers", "suppress", "ada@example.org")
    lifted = run("subscribers", "unsuppress", "ada@example.org").out
    assert lifted == "lifted (operator): their subscriptions stand as they are\n"
    assert run("subscribers", "unsuppress", "ada@example.org").out == "was not suppressed\n"
    run("subscribers", "forget", "ada@example.org", "--yes")
    assert "only their own fresh opt-in lifts that" in run("subscribers", "unsuppress", "ada@example.org").mistake


def test_without_the_key_it_cannot_be_told_whether_an_address_was_erased(run: Command, desk: Desk) -> None:
    add(run, "ada@example.org")
    run("subscribers", "forget", "ada@example.org", "--yes")
    desk.environ()
    for address in ("ada@example.org", "never-here@example.org"):
        said = run("subscribers", "unsuppress", address).mistake
        assert said.startswith("that address is not suppressed by itself; whether it was erased cannot be told: ")
        assert "NEWSLETTER_ERASURE_KEY: people were erased" in run("doctor").out
    assert run("notices", "send").err == (
        "newsletter: requests to join wait for the erasure key: see newsletter doctor\n"
    )


def test_what_has_had_its_time_goes_even_where_sending_fails(run: Command, desk: Desk) -> None:
    add(run, "ada@example.org", evidence=None)
    run("subscribers", "invite")
    desk.clock.forward(timedelta(days=8))
    add(run, "bob@example.org", evidence=None)
    desk.file.write_text(desk.file.read_text() + '\n[templates]\npath = "mine"\n')
    broken = desk.folder / "mine" / "confirm"
    broken.mkdir(parents=True)
    (broken / "body.mjml.j2").write_text("<mjml></mjml>")
    assert "template" in run("subscribers", "invite").mistake
    desk.clock.forward(timedelta(hours=1))
    done = run("notices", "send")
    assert "template confirm/body.mjml.j2" in done.mistake
    assert "had had their time" in done.out
    assert run("subscribers", "show", "ada@example.org").code == 1


def test_forgetting_asks_first_and_leaves_nothing(run: Command, desk: Desk) -> None:
    add(run, "ada@example.org")
    kept = run("subscribers", "forget", "ada@example.org", stdin=b"n\n")
    assert (kept.code, run("subscribers", "show", "ada@example.org").code) == (2, 0)
    assert run("subscribers", "forget", "ada@example.org", "--yes").out == "erased\n"
    assert run("subscribers", "forget", "ada@example.org", "--yes").out == "was erased already\n"
    assert run("subscribers", "forget", "never-here@example.org", "--yes").out == "erased\n", "and is never imported"
    assert run("subscribers", "show", "ada@example.org").code == 1
    desk.environ(NEWSLETTER_SECRET=SECRETS["NEWSLETTER_SECRET"])
    assert "NEWSLETTER_ERASURE_KEY is not set" in run("subscribers", "forget", "bob@example.org", "--yes").mistake
    assert "take it from the backup" in run("subscribers", "add", "bob@example.org", "--evidence", "paper").err


def test_inviting_mails_the_link_once(run: Command, desk: Desk) -> None:
    add(run, "ada@example.org", "bob@example.org", evidence=None)
    assert desk.mails == []
    done = run("subscribers", "invite", "--limit", "1")
    assert done.out.splitlines() == [
        "1 person of list daily invited to confirm",
        "1 wait: at most 500 an hour are invited, so run it again later",
        "notices: 1 sent",
    ]
    assert len(desk.mails) == 1
    run("subscribers", "invite")
    again = run("subscribers", "invite")
    assert again.out.splitlines() == ["0 people of list daily invited to confirm", "notices: none due"]
    assert len(desk.mails) == 2
    listed = run("notices").out
    assert listed.count("confirm to person") == 2
    assert "ada@" not in listed
    assert {one["state"] for one in run("notices", "--json").json} == {"done"}


def test_a_mail_to_the_leave_mailbox_is_read_from_standard_input(run: Command, desk: Desk) -> None:
    add(run, "ada@example.org")
    link = run("subscribers", "show", "ada@example.org", "--json").json["data"]["link_in_mails"]
    mail = f"From: ada@example.org\r\nSubject: Unsubscribe {link} daily\r\n\r\nThank you.\r\n".encode()
    assert run("subscribers", "unsubscribe", "--from-mail", stdin=mail).out == "1 subscription ended\n"
    assert run("subscribers", "unsubscribe", "--from-mail", stdin=mail).out == "0 subscriptions ended\n"
    for odd in (b"", b"\x00\xff", b"Subject: hello\n\n", mail.replace(link.encode(), b"x" * 22)):
        assert "the subject is none of ours" in run("subscribers", "unsubscribe", "--from-mail", stdin=odd).mistake
    assert "name an address, or use --from-mail" in run("subscribers", "unsubscribe").mistake
    del desk


def test_the_figures_of_the_lists(run: Command) -> None:
    add(run, "ada@example.org", "bob@example.org")
    run("subscribers", "unsubscribe", "bob@example.org")
    run("subscribers", "suppress", "cyd@example.org")
    told = run("subscribers", "stats").out
    assert told.startswith("2 people on record, 0 erased\nsuppressed: 1 operator\n")
    assert "in 30 days: 2 joined, 1 left\nwaiting: 0 requests, 0 notices\n" in told
    assert run("subscribers", "stats", "--json").json["suppressed"]["operator"] == 1


@pytest.mark.slow
def test_the_list_alone_loads_neither_newsletter_nor_its_vendors(tmp_path: Path) -> None:
    code = (
        "import subscribers, subscribers.transfer, subscribers.rights, sys\n"
        "heavy = {'newsletter', 'jinja2', 'mjml', 'premailer', 'sendgrid', 'fastapi', 'starlette', 'babel', 'lxml'}\n"
        "print(sorted(heavy & {name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "[]\n"


@pytest.mark.slow
def test_the_pages_are_served_whatever_key_is_missing_so_that_people_can_leave(run: Command, desk: Desk) -> None:
    add(run, "ada@example.org")
    link = run("subscribers", "show", "ada@example.org", "--json").json["data"]["link_in_mails"]
    desk.environ()
    desk.file.write_text(desk.file.read_text().replace('kind = "outbox"\nbatch_size = 10', 'kind = "sendgrid"'))
    pipe = subprocess.PIPE
    command = [*COMMAND, "serve", "--port", "0"]
    with subprocess.Popen(command, cwd=desk.folder, env=CLEAN, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout
        assert process.stderr
        url = process.stdout.readline().rpartition(" ")[2].strip()
        with urllib.request.urlopen(f"{url}/u/{link}/daily", b"List-Unsubscribe=One-Click", timeout=10) as answer:
            assert answer.status == 200
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"{url}/join/daily", timeout=10)
        process.send_signal(signal.SIGTERM)
        told = process.stderr.read()
        assert process.wait(15) == 0
    for missing in ("SENDGRID_API_KEY", "NEWSLETTER_SECRET", "NEWSLETTER_ERASURE_KEY"):
        assert missing in told
    assert "Traceback" not in told
    assert "    1 unsubscribed" in run("lists").out


@pytest.mark.slow
def test_serving_where_the_port_is_taken_is_one_plain_line(desk: Desk) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = started("serve", "--port", str(taken.getsockname()[1]), cwd=desk.folder)
    assert "cannot listen on 127.0.0.1 port" in done.mistake
