"""The command line, as an operator meets it: what works at once, and one plain line for whatever does not."""

import json
import os
import re
import resource
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from newsletter import cli
from newsletter.newsroom import Newsroom
from newsletter.settings import SECRET_VARIABLE, Settings
from newsletter.starter import start
from tests.conftest import Desk

COMMAND = [sys.executable, "-m", "newsletter"]
CLEAN = {name: value for name, value in os.environ.items() if name not in {SECRET_VARIABLE, "COLUMNS"}}


@dataclass
class Run:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)

    @property
    def mistake(self) -> str:
        """The one line of a mistake, after checking that it is one."""
        assert self.code == 2, (self.code, self.out, self.err)
        return self.line

    @property
    def line(self) -> str:
        """The one line of whatever went wrong."""
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("newsletter: ")
        assert "Traceback" not in self.err + self.out
        return self.err.removeprefix("newsletter: ").strip()


Command = Callable[..., Run]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command in this process, for speed."""

    def call(*arguments: str, stdin: bytes | None = None, environ: Mapping[str, str] | None = None) -> Run:
        monkeypatch.setattr(sys, "argv", ["newsletter", *arguments])
        monkeypatch.setattr(os, "environ", {**CLEAN, **(environ or {})})
        if stdin is not None:
            read, write = os.pipe()
            os.write(write, stdin)
            os.close(write)
            monkeypatch.setattr(sys, "stdin", os.fdopen(read, encoding="utf-8"))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        if stdin is not None:
            sys.stdin.close()
        said = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Run(ended.value.code, said.out, said.err)

    return call


def started(*arguments: str, cwd: Path, prefix: tuple[str, ...] = (), **more: Any) -> Run:
    """The command as a process of its own, for what only that can show."""
    more = {"env": CLEAN, "capture_output": True, **more}
    done = subprocess.run([*prefix, *COMMAND, *arguments], cwd=cwd, text=True, check=False, **more)
    return Run(done.returncode, done.stdout or "", done.stderr or "")


@pytest.fixture(scope="session")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "desk"
    for _ in start(folder, actor="test"):
        pass
    return folder


@pytest.fixture
def fresh(_made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as `newsletter init` leaves it, and the one we stand in."""
    folder = tmp_path / "desk"
    shutil.copytree(_made, folder)
    file = folder / "newsletter.toml"
    # A slot every minute, so that the latest is due at whatever time of day the tests run.
    file.write_text(file.read_text().replace('"0 7 * * *"', '["* * * * *"]\nmin_interval = "1d"', 1))
    monkeypatch.chdir(folder)
    return folder


def configure(folder: Path, before: str, after: str) -> None:
    file = folder / "newsletter.toml"
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after, 1))


def mails(folder: Path) -> list[str]:
    return sorted(file.name for file in (folder / "outbox" / "new").glob("*.eml"))


def ledger(folder: Path) -> dict[str, int]:
    """How many rows stand in each table that a send writes."""
    import sqlite3

    with closing(sqlite3.connect(folder / "newsletter.db")) as connection:
        return {
            table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("edition", "message", "batch", "delivery", "decision", "operator_act")
        }


# ------------------------------------------------------------------------------------------ help and starting


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    program = """
import sys
from newsletter import cli
sys.argv = ["newsletter", "--help"]
try:
    cli.main()
finally:
    heavy = {"sqlalchemy", "sqlmodel", "pydantic", "jinja2", "premailer", "mjml", "lxml", "rich", "alembic", "yaml"}
    print("HEAVY", sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "Compile a news desk's briefs" in done.stdout
    assert done.stdout.endswith("HEAVY []\n")


@pytest.mark.parametrize(
    "command",
    [[], ["subscribers"], ["send"], ["preview"], ["briefs"], ["briefs", "read"], ["editions", "show"], ["init"]],
)
def test_every_command_has_help_of_its_own(run: Command, command: list[str]) -> None:
    done = run(*command, "--help")
    assert done.code == 0
    assert f"Usage: {' '.join(['newsletter', *command])}" in done.out


@pytest.mark.parametrize("group", [[], ["subscribers"]])
def test_a_command_group_by_itself_shows_its_help(run: Command, group: list[str]) -> None:
    done = run(*group)
    assert (done.code, done.err) == (2, "")
    assert done.out.startswith(f"Usage: {' '.join(['newsletter', *group])}")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sned"], "sned"),
        (["send"], "NAME"),
        (["send", "daily", "weekly"], "weekly"),
        (["send", "--slott"], "--slott"),
        (["preview", "daily"], "--out"),
        (["briefs", "--limit", "0"], "--limit"),
        (["briefs", "--limit", "many"], "--limit"),
        (["briefs", "raed"], "raed"),
        (["subscribers", "ad"], "ad"),
        (["subscribers", "add"], "at least one address"),
    ],
)
def test_a_mistake_in_the_command_is_one_line(run: Command, fresh: Path, arguments: list[str], says: str) -> None:
    assert says in run(*arguments).mistake


def test_init_preview_and_send_work_at_once(tmp_path: Path) -> None:
    made = started("init", "my news", cwd=tmp_path)
    assert (made.code, made.err) == (0, "")
    folder = tmp_path / "my news"
    assert f"cd '{folder.name}' && newsletter preview daily --out preview" in made.out
    shown = started("preview", "daily", "--out", "preview", cwd=folder)
    assert (shown.code, shown.err) == (0, "")
    assert {file.name for file in (folder / "preview").iterdir()} == {
        "digest.html",
        "digest.txt",
        "subject.txt",
        "digest.eml",
    }
    # As at any time of day but the minutes after 07:00, when no yes is needed.
    sent = started("send", "daily", "--yes", cwd=folder)
    assert (sent.code, sent.err) == (0, "")
    assert "Recipients 1 = 1 accepted" in sent.out
    assert len(mails(folder)) == 1
    again = started("send", "daily", "--yes", cwd=tmp_path, prefix=())
    assert "there is no newsletter.toml" in again.mistake
    again = started("send", "daily", "--yes", "--config", "my news/newsletter.toml", cwd=tmp_path)
    assert again.code == 0
    assert "nothing sent now: this edition went out at" in again.out
    assert "Mails      my news/outbox/new/*.eml" in again.out
    assert len(mails(folder)) == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["my news"], "nothing is left where we stood"


def test_init_changes_nothing_where_something_is(run: Command, fresh: Path) -> None:
    before = {file: file.read_bytes() for file in fresh.rglob("*") if file.is_file()}
    assert "there is a newsletter.toml already; init changes nothing" in run("init").mistake
    assert {file: file.read_bytes() for file in fresh.rglob("*") if file.is_file()} == before


def test_init_keeps_a_secret_and_briefs_that_are_there(run: Command, tmp_path: Path) -> None:
    (tmp_path / "briefs").mkdir()
    (tmp_path / "briefs" / "01-harbour-tidal-barrier.txt").write_text("mine")
    (tmp_path / ".env").write_text("OTHER=1\n")
    done = run("init", str(tmp_path))
    assert done.code == 0
    assert "fresh secret" not in done.out
    assert (tmp_path / ".env").read_text() == "OTHER=1\n"
    assert (tmp_path / "briefs" / "01-harbour-tidal-barrier.txt").read_text() == "mine"


def test_what_init_makes_is_private_and_its_secret_is_used(run: Command, fresh: Path) -> None:
    modes = {name: stat.S_IMODE((fresh / name).stat().st_mode) for name in (".env", "newsletter.db")}
    assert modes == {".env": 0o600, "newsletter.db": 0o600}
    lines = [line for line in (fresh / ".env").read_text().splitlines() if not line.startswith("#")]
    secrets = {name: value for name, _, value in (line.partition("=") for line in lines)}
    assert sorted(secrets) == ["NEWSLETTER_ERASURE_KEY", "NEWSLETTER_SECRET"]
    assert all(len(secret) >= 32 for secret in secrets.values())
    settings = Settings.load(fresh / "newsletter.toml", {})
    assert settings.need_secret() == secrets["NEWSLETTER_SECRET"].encode()
    assert settings.need_erasure_secret() == secrets["NEWSLETTER_ERASURE_KEY"].encode()
    everything = [run("doctor"), run("subscribers", "add", "bob@example.org"), run("send", "dayly")]
    assert all(secret not in done.out + done.err for done in everything for secret in secrets.values())


def test_init_that_found_no_room_can_simply_be_run_again(tmp_path: Path) -> None:
    full = started("init", "desk", cwd=tmp_path, preexec_fn=_room(0))
    assert full.code == 1
    assert "File too large" in full.line
    assert [file.name for file in (tmp_path / "desk").iterdir()] == ["briefs"]
    assert started("init", "desk", cwd=tmp_path).code == 0


# ------------------------------------------------------------------------------------------ sending


def test_send_again_sends_nothing_and_says_so(run: Command, fresh: Path) -> None:
    first = run("send", "daily", "--json").json
    slot = first["slot"]
    assert first["tally"]["accepted"] == 1
    assert first["tally"]["holds"]
    assert first["accepted_before"] == 0
    rows = ledger(fresh)
    again = run("send", "daily", "--slot", slot)
    assert again.code == 0
    assert "Accepted   nothing sent now: this edition went out at" in again.out
    assert run("send", "daily", "--slot", slot, "--json").json["accepted_before"] == 1
    assert run("send", "daily", "--slot", slot.replace("T", " ")).code == 0
    assert len(mails(fresh)) == 1
    assert ledger(fresh) == rows


def test_a_proof_and_a_dry_run_write_nothing_into_the_ledger(run: Command, fresh: Path) -> None:
    before = ledger(fresh)
    dry = run("send", "daily", "--dry-run")
    assert dry.code == 0
    assert "1 on the list, 1 would be mailed" in dry.out
    assert "nothing was sent, and nothing decided" in dry.out
    assert len(run("send", "daily", "--dry-run", "--json").json["briefs"]) == 8
    assert mails(fresh) == []
    proof = run("send", "daily", "--test", "Editor <editor@example.org>")
    assert proof.code == 0
    assert "its links do nothing" in proof.out
    assert run("send", "daily", "--test", "editor@example.org", "--json").json["result"] == "accepted"
    assert len(mails(fresh)) == 2
    assert run("preview", "daily", "--out", "preview").code == 0
    assert ledger(fresh) == before
    assert all("reader@example.com" not in (fresh / "outbox" / "new" / name).read_text() for name in mails(fresh))


@pytest.mark.parametrize(
    "options",
    [
        ["--test", "a@example.org", "--dry-run"],
        ["--test", "a@example.org", "--slot", "2026-11-23T07:00"],
        ["--test", "a@example.org", "--out", "preview"],
        ["--dry-run", "--out", "preview"],
    ],
)
def test_options_that_would_be_ignored_are_refused(run: Command, fresh: Path, options: list[str]) -> None:
    assert options[0] in run("send", "daily", *options).mistake
    assert not (fresh / "outbox").exists()
    assert not (fresh / "preview").exists()


@pytest.mark.parametrize("slot", ["tomorrow", "2026-11-23", "07:00", "2026-11-23T07:00+01:00", "2026-13-01T07:00", ""])
def test_a_slot_that_is_none_is_refused(run: Command, fresh: Path, slot: str) -> None:
    said = run("send", "daily", "--slot", slot).mistake
    assert said == f"daily: expected a slot such as 2026-11-23T07:00, found “{slot}”"


def test_a_slot_too_late_or_ahead_takes_a_yes(run: Command, fresh: Path) -> None:
    assert re.search(r"was \d+ h ago, past stale_after; --yes sends it", run(*_slot("2020-01-01T07:00")).mistake)
    assert re.search(r"is \d+ h ahead; --yes sends it now", run(*_slot("2099-01-01T07:00")).mistake)
    assert mails(fresh) == []
    assert run(*_slot("2020-01-01T07:00"), "--yes").code == 0
    assert len(mails(fresh)) == 1


def _slot(slot: str) -> tuple[str, ...]:
    return ("send", "daily", "--slot", slot)


@pytest.mark.parametrize(
    "command", [["send", "dayly"], ["preview", "dayly", "--out", "p"], ["editions", "show", "dayly"]]
)
def test_a_newsletter_that_is_not_there_is_named_with_the_nearest(
    run: Command, fresh: Path, command: list[str]
) -> None:
    assert run(*command).mistake == "there is no newsletter “dayly”; did you mean “daily”? (there is: daily)"


def test_an_empty_edition_is_skipped_and_says_so(run: Command, fresh: Path) -> None:
    shutil.rmtree(fresh / "briefs")
    (fresh / "briefs").mkdir()
    done = run("send", "daily")
    assert done.code == 0
    assert "Skipped    0 briefs, fewer than min_briefs = 1; nothing was sent" in done.out
    assert "nothing to preview: 0 briefs, fewer than min_briefs = 1" in run("preview", "daily", "--out", "p").mistake
    assert run("editions").out.split()[3] == "skipped"


def test_a_thin_edition_is_skipped_and_its_briefs_wait(run: Command, fresh: Path) -> None:
    configure(fresh, "# min_briefs = 1 ", "min_briefs = 8 ")
    (fresh / "briefs" / "01-harbour-tidal-barrier.txt").unlink()
    done = run("send", "daily", "--json")
    assert (done.json["state"], done.json["reason"]) == ("skipped", "7 briefs, fewer than min_briefs = 8")
    configure(fresh, "min_briefs = 8 ", "min_briefs = 7 ")
    assert run("send", "daily", "--json").json["briefs"] == 7


def test_a_missing_source_folder_is_no_quiet_morning(run: Command, fresh: Path) -> None:
    (fresh / "briefs").rename(fresh / "elsewhere")
    sent, collected = run("send", "daily"), run("collect")
    assert (sent.code, collected.code) == (1, 1), "cron must notice"
    assert sent.line == f"source desk ({fresh / 'briefs'}): there is no such folder"
    assert sent.line in collected.out
    assert "there is no such folder" in run("preview", "daily", "--out", "p").mistake


def test_broken_briefs_among_good_ones_cost_themselves_alone(run: Command, fresh: Path) -> None:
    (fresh / "briefs" / "picture.txt").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0d")
    (fresh / "briefs" / "half.json").write_text('{"headline": ')
    (fresh / "briefs" / "thin.txt").write_text("A headline and nothing else\n")
    done = run("send", "daily")
    assert done.code == 0
    assert "8 taken, 3 not readable" in done.out
    for name in ("picture.txt", "half.json", "thin.txt"):
        assert re.search(rf"--  {re.escape(name)}(:\d+)?: expected", done.out)
    assert run("collect").code == 0
    (collected,) = run("collect", "--json").json
    assert len(collected["faults"]) == 3


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("body.mjml.j2", "<mjml><mj-body>\n{{ nope }}\n", "template digest/body.mjml.j2:2: 'nope' is undefined"),
        ("body.mjml.j2", "<mjml>\n<mj-bdy>\n</mj-bdy></mjml>", "template digest/body.mjml.j2:2: <mj-bdy>"),
        ("body.mjml.j2", "<mjml>\n{% if %}", "template digest/body.mjml.j2:2: "),
        ("body.txt.j2", "\n\n{{ fields.nope }}", "template digest/body.txt.j2:3: there is no field “nope”"),
        ("body.txt.j2", "Hello\n", "template digest/body.txt.j2: has no way to leave"),
        ("body.txt.j2", '{% include "gone.j2" %}', "template gone.j2: there is no such template"),
        ("subject.txt.j2", "\n{{ 1 / 0 }}", "template digest/subject.txt.j2:2: division by zero"),
        ("subject.txt.j2", "", "template digest/subject.txt.j2: gives an empty subject"),
    ],
)
def test_a_mistake_in_a_template_names_template_and_line_and_sends_nothing(
    run: Command, fresh: Path, name: str, content: str, says: str
) -> None:
    (fresh / "mine" / "digest").mkdir(parents=True)
    (fresh / "mine" / "digest" / name).write_text(content)
    configure(fresh, "[dispatch]", '[templates]\npath = "mine"\n\n[dispatch]')
    before = ledger(fresh)
    for command in (["preview", "daily", "--out", "p"], ["send", "daily"], ["send", "daily", "--dry-run"]):
        assert run(*command).mistake.startswith(says)
    doctor = run("doctor")
    assert doctor.code == 1
    assert f"BAD   newsletter daily: {says}" in doctor.out
    assert mails(fresh) == []
    assert ledger(fresh) == before


def test_halted_means_halted_for_everyone_until_it_is_lifted(run: Command, fresh: Path) -> None:
    assert run("halt", "--reason", "wrong headline").out == "halted\n"
    assert run("halt").out == "was halted already\n"
    for command in (["send", "daily"], ["send", "daily", "--yes"], ["send", "daily", "--test", "a@example.org"]):
        said = run(*command).mistake
        assert "all dispatch is halted since" in said
        assert "(wrong headline); newsletter unhalt lets it run" in said
    assert run("doctor").code == 1
    assert mails(fresh) == []
    assert run("unhalt").out == "dispatch may run again\n"
    assert run("unhalt").out == "was not halted\n"
    assert run("send", "daily").code == 0


def test_nobody_on_the_list_is_a_mistake_that_says_what_to_do(run: Command, fresh: Path) -> None:
    assert run("subscribers", "unsubscribe", "reader@example.com").out == "1 subscription ended\n"
    assert "newsletter subscribers add puts people on it" in run("send", "daily").mistake
    assert run("doctor").code == 0, "no fault, but a note"


# ------------------------------------------------------------------------------------------ looking


def test_everything_that_prints_json_prints_json(run: Command, fresh: Path) -> None:
    assert [brief["decisions"] for brief in run("briefs", "--json").json] == []
    assert run("editions", "--json").json == []
    run("send", "daily")
    assert len(run("briefs", "--json").json) == 8
    assert run("editions", "--json").json[0]["tally"]["holds"]
    shown = run("editions", "show", "daily", "--json").json
    assert len(shown["briefs"]) == 8
    assert run("editions", "show", "daily", shown["slot"], "--json").json == shown
    assert all(finding["ok"] is not False for finding in run("doctor", "--json").json)
    brief = run("briefs", "read", "briefs/01-harbour-tidal-barrier.txt", "--json").json
    assert brief["headline"]
    added = run("subscribers", "add", "bob@example.org", "--evidence", "paper", "--json").json
    assert (added["new"], added["state"], added["refused"]) == (1, "confirmed", [])


def test_an_edition_that_is_not_there_is_named(run: Command, fresh: Path) -> None:
    assert run("editions", "show", "daily").mistake == "daily: there is no edition yet"
    said = run("editions", "show", "daily", "2020-01-01T07:00").mistake
    assert said == "daily: there is no edition of 2020-01-01T07:00"


def test_reading_a_bad_file_exits_with_1_and_a_missing_one_with_2(run: Command, fresh: Path) -> None:
    (fresh / "bad.txt").write_text("A headline and nothing else\n")
    bad = run("briefs", "read", "bad.txt")
    assert bad.code == 1
    assert re.match(r"bad\.txt:\d+: expected", bad.line)
    assert run("briefs", "read", "gone.txt").mistake == "gone.txt: No such file or directory"
    assert "Is a directory" in run("briefs", "read", "briefs").mistake
    good = run("briefs", "read", "briefs/01-harbour-tidal-barrier.txt")
    assert (good.code, good.err) == (0, "")


def test_a_mistake_in_the_configuration_names_file_and_line(run: Command, fresh: Path) -> None:
    configure(fresh, "postal_address", "postal_adress")
    for command in (["doctor"], ["send", "daily"], ["halt"], ["briefs"]):
        said = run(*command).mistake
        assert re.match(r"newsletter\.toml:7: site\.postal_adress is no setting; did you mean “postal_address”\?", said)
    assert "there is no gone.toml; newsletter init makes one" in run("send", "daily", "--config", "gone.toml").mistake


# ------------------------------------------------------------------------------------------ people


def test_people_are_added_from_a_file_and_bad_lines_are_named(run: Command, fresh: Path) -> None:
    (fresh / "people.txt").write_bytes(
        "\ufeff# our readers\r\n\r\nAda <ada@example.org>\r\nnobody\r\nADA@example.org\r\n  bob@example.org \r\n"
        "reader@example.com\r\nx@example\r\n".encode()
    )
    done = run("subscribers", "add", "--from", "people.txt", "--evidence", "signed at the fair")
    assert done.code == 2
    assert done.out == "2 added to list daily (confirmed), 2 there before\n"
    lines = done.err.splitlines()
    assert [line.partition(": expected")[0] for line in lines] == [
        "newsletter: people.txt:4",
        "newsletter: people.txt:8",
    ]
    again = run("subscribers", "add", "--from", "people.txt", "--evidence", "signed at the fair")
    assert again.out == "0 added to list daily (confirmed), 4 there before\n"


def test_people_are_added_from_standard_input(run: Command, fresh: Path) -> None:
    done = run("subscribers", "add", "--from", "-", "--evidence", "paper", stdin=b"ada@example.org\nnobody\n")
    assert done.out == "1 added to list daily (confirmed)\n"
    assert done.err.startswith("newsletter: standard input:2: expected an address")
    odd = run("subscribers", "add", "--from", "-", "--evidence", "paper", stdin=b"ada@example.org\nM\xfcller\n")
    assert odd.mistake == "standard input:2: expected UTF-8 text"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read: No such file"),
        (b"", "name at least one address"),
        (b"# nobody yet\n", "name at least one address"),
        (b"a@example.org\nJos\xe9 <b@example.org>\n", "people.txt:2: expected UTF-8 text"),
    ],
)
def test_a_file_of_nobody_is_refused_and_adds_nobody(
    run: Command, fresh: Path, content: bytes | None, says: str
) -> None:
    if content is not None:
        (fresh / "people.txt").write_bytes(content)
    assert says in run("subscribers", "add", "--from", "people.txt", "--evidence", "paper").mistake
    assert "1 on the list" in run("send", "daily", "--dry-run").out


def test_a_mistyped_address_among_arguments_is_named_by_its_place(run: Command, fresh: Path) -> None:
    done = run("subscribers", "add", "ada@example.org", "nobody", "--evidence", "paper")
    assert done.line.startswith("address 2: expected an address")


def test_without_evidence_people_are_pending_until_they_confirm(run: Command, fresh: Path) -> None:
    added = run("subscribers", "add", "ada@example.org", "--json").json
    assert added["state"] == "pending"
    (link,) = added["confirmation_links"]
    assert "1 on the list" in run("send", "daily", "--dry-run").out, "pending is not mailed"
    assert run("subscribers", "confirm", link[:-1]).mistake == "this link is damaged"
    assert run("subscribers", "confirm", link).out == "confirmed\n"
    assert run("subscribers", "confirm", link).out == "confirmed\n"
    assert "2 on the list" in run("send", "daily", "--dry-run").out


def test_without_a_secret_nobody_becomes_pending(run: Command, fresh: Path) -> None:
    (fresh / ".env").unlink()
    assert "NEWSLETTER_SECRET is not set" in run("subscribers", "add", "ada@example.org").mistake
    assert run("subscribers", "add", "ada@example.org", "--evidence", "paper").code == 0
    short = {SECRET_VARIABLE: "too short"}
    said = run("subscribers", "add", "eve@example.org", environ=short).mistake
    assert said == "NEWSLETTER_SECRET: expected at least 32 characters"
    assert run("subscribers", "add", "eve@example.org", environ={SECRET_VARIABLE: "x" * 32}).code == 0


def test_who_is_suppressed_or_left_is_not_brought_back(run: Command, fresh: Path) -> None:
    assert run("subscribers", "suppress", "ada@example.org", "--note", "called us").out == "suppressed\n"
    assert run("subscribers", "suppress", "ADA@example.org").out == "was suppressed already\n"
    assert "address 1: that address is suppressed since" in run("subscribers", "add", "ada@example.org").line
    run("subscribers", "unsubscribe", "reader@example.com", "--list", "daily")
    said = run("subscribers", "add", "reader@example.com", "--evidence", "we like them").mistake
    assert said == "address 1: that address has unsubscribed before; only their own fresh opt-in lifts that"


def test_a_list_that_is_not_there_is_named_before_anyone_thinks_they_left_it(run: Command, fresh: Path) -> None:
    left = run("subscribers", "unsubscribe", "reader@example.com", "--list", "dayly")
    assert left.mistake == "there is no list “dayly”"
    said = run("subscribers", "add", "ada@example.org", "--list", "dayly", "--evidence", "paper").mistake
    assert said == "there is no list “dayly” (there is: daily)"
    assert run("subscribers", "unsubscribe", "nobody@example.org").out == "0 subscriptions ended\n"


# ------------------------------------------------------------------------------------------ the world outside


def _room(size: int) -> Callable[[], None]:
    """Let a process write no file past so many bytes, which is what a full disk is to it."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def test_without_room_one_line_says_so_and_the_next_run_goes_on(fresh: Path) -> None:
    # The database is there; what a send adds to it and the mails are not.
    slot = ["send", "daily", "--slot", "2026-11-23T07:00", "--yes"]
    lines = []
    for room in (0, 30_000, 100_000, 200_000, 400_000):
        done = started(*slot, cwd=fresh, preexec_fn=_room(room))
        if done.code == 0:
            break
        lines.append(done.line)
        assert all((fresh / "outbox" / "new" / name).read_bytes().endswith(b"--\r\n") for name in mails(fresh))
    assert lines, "there was not always room"
    assert all("database" in line or "No space" in line or "File too large" in line for line in lines)
    done = started(*slot, cwd=fresh)
    assert done.code == 0
    assert len(mails(fresh)) == 1, "once, and not lost"


def test_a_full_outbox_pauses_the_edition_and_the_next_run_ends_it(fresh: Path) -> None:
    (fresh / "outbox").write_text("a file where the folder should be")
    slot = ["send", "daily", "--slot", "2026-11-23T07:00", "--yes"]
    done = started(*slot, cwd=fresh)
    assert done.code == 1
    assert "outbox refuses: " in done.line
    assert "Recipients 1 = 0 accepted + 1 waiting" in done.out
    (fresh / "outbox").unlink()
    assert "Recipients 1 = 1 accepted" in started(*slot, cwd=fresh).out
    assert len(mails(fresh)) == 1


def _as_anyone() -> tuple[str, ...]:
    """What makes even root heed a file's mode."""
    if os.geteuid() != 0:
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("root heeds no file mode, and there is no setpriv (util-linux) to change that")
    return ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")


@pytest.mark.parametrize(
    "command", [["send", "daily", "--yes"], ["halt"], ["subscribers", "unsubscribe", "reader@example.com"]]
)
def test_a_database_that_cannot_be_written_is_one_line(fresh: Path, command: list[str]) -> None:
    prefix = _as_anyone()
    before = ledger(fresh)
    (fresh / "newsletter.db").chmod(0o400)
    fresh.chmod(0o500)
    try:
        done = started(*command, cwd=fresh, prefix=prefix)
    finally:
        fresh.chmod(0o700)
    assert done.code in {1, 2}
    assert "the database" in done.line
    assert re.search("readonly database|unable to open", done.line)
    assert ledger(fresh) == before
    assert mails(fresh) == []


def test_files_that_may_not_be_read_are_one_line(fresh: Path) -> None:
    prefix = _as_anyone()
    (fresh / ".env").chmod(0)
    assert ".env: cannot be read: Permission denied" in started("briefs", cwd=fresh, prefix=prefix).mistake
    (fresh / "newsletter.toml").chmod(0)
    assert "newsletter.toml" in started("briefs", cwd=fresh, prefix=prefix).mistake


def test_a_text_file_as_database_is_one_line(run: Command, fresh: Path) -> None:
    (fresh / "newsletter.db").write_text("Dear reader,\n" * 100)
    assert run("send", "daily").mistake == f"the database {fresh / 'newsletter.db'}: file is not a database"


def test_a_reader_that_goes_away_is_no_traceback(fresh: Path) -> None:
    for command in ("briefs --help", "editions", "send daily --yes"):
        line = f"{sys.executable} -m newsletter {command} | true; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", line], cwd=fresh, env=CLEAN, capture_output=True, text=True, check=False)
        assert done.returncode in {0, 1}
        assert done.stderr == ""
    assert len(mails(fresh)) == 1, "and the mail went out"


def test_an_output_that_is_full_or_closed_stops_no_mail(fresh: Path) -> None:
    def shell(redirection: str) -> Run:
        line = f"{sys.executable} -m newsletter send daily --yes --slot 2026-11-23T07:00 {redirection}"
        done = subprocess.run(["sh", "-c", line], cwd=fresh, env=CLEAN, capture_output=True, text=True, check=False)
        return Run(done.returncode, done.stdout, done.stderr)

    assert shell(">&- <&-").code == 0
    assert len(mails(fresh)) == 1
    full = shell("> /dev/full")
    assert full.code == 1
    assert "No space left on device" in full.line


def test_a_terminal_without_unicode_still_gets_its_report(fresh: Path) -> None:
    done = started("send", "dayly", cwd=fresh, env={**CLEAN, "PYTHONIOENCODING": "ascii"})
    assert "dayly" in done.mistake
    configure(fresh, 'title = "The Daily Digest"', 'title = "Die Tägliche"')
    done = started("send", "daily", "--yes", cwd=fresh, env={**CLEAN, "PYTHONIOENCODING": "ascii"})
    assert (done.code, done.err) == (0, "")
    assert "Die T?gliche" in done.out


def test_a_database_that_was_brought_up_to_date_is_mentioned(
    run: Command, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Newsroom.open

    def upgraded(settings: Settings) -> Newsroom:
        newsroom = opened(settings)
        newsroom.backup = fresh / "newsletter.db.before-0002-from-0001"
        return newsroom

    monkeypatch.setattr(Newsroom, "open", upgraded)
    done = run("editions")
    assert done.code == 0
    assert "a copy from before is" in done.err


def test_the_desk_of_the_other_tests_is_one_the_command_line_can_use(run: Command, desk: Desk) -> None:
    desk.brief("harbour")
    newsroom = desk.open()
    desk.people(newsroom, 3)
    newsroom.close()
    done = run("send", "daily", "--config", str(desk.file), "--slot", "2026-11-23T07:00", "--yes", "--json")
    assert done.json["tally"]["accepted"] == 3
    assert len(desk.mails) == 3
