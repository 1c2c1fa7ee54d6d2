"""Promise 4, on the real thing: `newsletter send` in a process of its own, killed with SIGKILL at random moments.

One kill falls anywhere from the start on, the others while mails leave: most of a short run is loading the program.

Whatever was cut off, running it again ends with exactly one whole .eml for each subscriber and a sum that holds.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from email import policy
from email.parser import BytesParser
from pathlib import Path

import pytest

from tests import databases
from tests.conftest import Desk

READERS = 1200
COMMAND = [sys.executable, "-m", "newsletter"]


def _send(desk: Desk) -> list[str]:
    return [*COMMAND, "send", "daily", "--config", str(desk.file), "--json", "--yes"]


def _kill(command: list[str], reached: Callable[[], bool]) -> bool:
    """Run a command and kill it as soon as something is so. True where it was still running."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            if reached():
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                return True
            time.sleep(0.005)
    return False


def _after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def _at(desk: Desk, further: int) -> Callable[[], bool]:
    """True from the moment on at which so many mails more are out."""
    folder = desk.folder / "outbox" / "new"
    most = len(desk.mails) + further
    return lambda: folder.exists() and len(os.listdir(folder)) >= most  # noqa: PTH208 # the quickest, many times


def _recipients(mails: list[Path]) -> list[str]:
    parser = BytesParser(policy=policy.default)
    found = []
    for mail in mails:
        message = parser.parsebytes(mail.read_bytes())
        assert message.get_content_type() == "multipart/alternative", f"{mail} is not whole"
        assert mail.read_bytes().endswith(b"--\r\n"), f"{mail} is not whole"
        found.append(str(message["To"].addresses[0].addr_spec))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2] if databases.Chosen.kind == databases.SQLITE else [1])
def test_killed_at_random_moments_every_subscriber_gets_exactly_one_mail(desk: Desk, seed: int) -> None:
    desk.configure(lambda text: text.replace("batch_size = 10", "batch_size = 40"))
    for slug in ("harbour", "tower", "river"):
        desk.brief(slug)
    newsroom = desk.open()
    desk.people(newsroom, READERS)
    newsroom.close()
    chance = random.Random(seed)
    early = chance.uniform(0.3, 1.6)
    killed = sum(_kill(_send(desk), _at(desk, chance.randrange(1, 150))) for _ in range(4))
    _kill(_send(desk), _after(early))  # last: on a quick machine it may find everybody's mail gone
    last = subprocess.run(_send(desk), capture_output=True, text=True, timeout=120, check=False)
    assert last.returncode == 0, last.stderr
    tally = json.loads(last.stdout)["tally"]
    assert tally["holds"]
    assert (tally["candidates"], tally["accepted"], tally["unknown"], tally["waiting"]) == (READERS, READERS, 0, 0)
    recipients = _recipients(desk.mails)
    assert len(recipients) == len(set(recipients)) == READERS
    assert killed, "no run was killed while mails left: the test proves nothing"
    assert list((desk.folder / "outbox" / "cur").iterdir()) == []


@pytest.mark.slow
def test_two_processes_at_once_send_one_copy_each(desk: Desk) -> None:
    desk.configure(lambda text: text.replace("batch_size = 10", "batch_size = 20"))
    desk.brief("harbour")
    newsroom = desk.open()
    desk.people(newsroom, 400)
    newsroom.close()
    running = [
        subprocess.Popen(_send(desk), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for process in running:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert json.loads(out)["tally"]["accepted"] == 400
    recipients = _recipients(desk.mails)
    assert len(recipients) == len(set(recipients)) == 400
