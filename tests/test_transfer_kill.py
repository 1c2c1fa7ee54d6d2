"""Promise 4 for the list: `newsletter subscribers import` killed with SIGKILL at random moments, then run again.

Links, instants and row numbers apart, the list is then as if it had never been killed.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests import databases
from tests.conftest import Desk
from tests.test_transfer import canonical

ROWS = 16_000
STATUSES = ("", "", "", "", "", "unsubscribed", "bounced", "spam", "blocked", "pending", "vip")


def _file(desk: Desk, chance: random.Random) -> None:
    """People in no order, an eighth of them twice or more, with other names and other statuses."""
    with (desk.folder / "people.csv").open("w", encoding="utf-8") as out:
        out.write("email,name,status,language\n")
        for _ in range(ROWS):
            number = chance.randrange(ROWS * 3)
            out.write(f"p{number}@example.org,{chance.choice(('', 'P', 'Q'))},{chance.choice(STATUSES)},de\n")


def _import(desk: Desk) -> list[str]:
    told = ["--confirmed", "--evidence", "they signed", "--config", str(desk.file)]
    return [sys.executable, "-m", "newsletter", "subscribers", "import", "people.csv", *told]


def _dump(desk: Desk) -> list[Any]:
    if desk.url.startswith("sqlite:"):
        assert desk.rows("PRAGMA integrity_check") == [("ok",)]
    return canonical(desk.rows)


def _kill_at(desk: Desk, share: int) -> bool:
    """Run the command and kill it as soon as the list has so many people. True where it was still running."""
    with (
        desk.asking() as ask,
        subprocess.Popen(
            _import(desk), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=desk.folder
        ) as process,
    ):
        while process.poll() is None:
            if ask("SELECT count(*) FROM subscription")[0][0] >= share:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                return True
            time.sleep(0.002)
    return False


@pytest.mark.long
@pytest.mark.database
@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2] if databases.Chosen.kind == databases.SQLITE else [1])
def test_killed_at_random_moments_and_run_again_the_list_is_as_if_never_killed(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    whole, killed = Desk(tmp_path / "whole"), Desk(tmp_path / "killed")
    _file(whole, chance)
    shutil.copyfile(whole.folder / "people.csv", killed.folder / "people.csv")
    subprocess.run(_import(whole), check=True, capture_output=True, cwd=whole.folder, timeout=120)
    expected = _dump(whole)
    people = len(expected[0])
    cut = sum(_kill_at(killed, int(people * share)) for share in sorted(chance.uniform(0.02, 0.7) for _ in range(3)))
    assert len(_dump(killed)[0]) < people, "nothing was left to do: the test proves nothing"
    done = subprocess.run(_import(killed), check=False, capture_output=True, cwd=killed.folder, timeout=120)
    assert done.returncode == 0, done.stderr
    assert _dump(killed) == expected
    assert cut, "no run was killed: the test proves nothing"
