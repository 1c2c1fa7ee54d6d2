"""The files in docs/installing-as-a-service.md: what they start is there, and the system's own reader takes them."""

import json
import re
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import typer.main
import yaml

from newsletter import cli
from newsletter.settings import SendGrid
from tests.test_docs import fences

PAGE = (Path(__file__).parent.parent / "docs" / "installing-as-a-service.md").read_text(encoding="utf-8")
UNITS = fences(PAGE, "ini")
CONTAINERFILE = fences(PAGE, "dockerfile")[0]
COMPOSE = yaml.safe_load(fences(PAGE, "yaml")[0])
DRAINS_WITHIN = SendGrid().timeout + timedelta(seconds=30)


def starts(words: list[str]) -> None:
    """A command is one that there is, with options that it has."""
    program, *rest = words
    if program.endswith("/python"):
        assert rest[:2] == ["-m", "scheduler"]
        assert (Path(__file__).parent.parent / "scheduler.py").exists()
        return
    assert program.endswith("/newsletter")
    command = typer.main.get_command(cli.app).commands[rest[0]]  # type: ignore[attr-defined] # a group's
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in rest if word.startswith("--")} <= options


def test_what_the_units_start_is_there() -> None:
    commands = [words for unit in UNITS for words in re.findall(r"^Exec\w+=(.*)$", unit, re.MULTILINE)]
    assert len(commands) == 3
    for words in commands:
        starts(words.split())


def test_what_the_containers_start_is_there() -> None:
    starts(json.loads(CONTAINERFILE.partition("\nCMD ")[2]))
    starts(COMPOSE["services"]["pages"]["command"])


def test_units_and_containers_leave_a_call_time_to_be_answered() -> None:
    seconds = [int(found) for found in re.findall(r"^TimeoutStopSec=(\d+)$", "\n".join(UNITS), re.MULTILINE)]
    seconds += [int(one["stop_grace_period"].removesuffix("s")) for one in COMPOSE["services"].values()]
    assert len(seconds) == 4
    assert all(timedelta(seconds=one) >= DRAINS_WITHIN for one in seconds)


def test_no_unit_hides_processes_by_which_it_is_known_who_lives() -> None:
    assert not re.search(r"^(ProtectProc|ProcSubset|PrivatePIDs|PrivateUsers)=", "\n".join(UNITS), re.MULTILINE)


def test_containers_run_as_nobody_special_on_a_file_system_that_cannot_be_written() -> None:
    for one in COMPOSE["services"].values():
        assert (one["user"], one["read_only"], one["cap_drop"]) == ("10001", True, ["ALL"])
        assert one["healthcheck"]["test"][0] == "CMD"
    assert "\nUSER 10001\n" in CONTAINERFILE


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    (tmp_path / "bin").symlink_to(Path(sys.executable).parent)
    files = []
    for number, unit in enumerate(UNITS):
        files.append(tmp_path / f"newsletter-{number}.service")
        files[-1].write_text(unit.replace("/opt/newsletter", str(tmp_path)), encoding="utf-8")
    told = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, files)], capture_output=True, text=True, check=False
    )
    ours = [line for line in told.stderr.splitlines() if "newsletter-" in line]
    assert ours == []
