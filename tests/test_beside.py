"""Reading in a process of its own gives what reading here gives, and costs nobody else anything when it goes wrong."""

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from newsletter import formats
from newsletter.formats.beside import Reader

FEEDS = sorted(path for path in (Path(__file__).parent / "golden" / "feeds").iterdir() if path.suffix != ".json")
LARGEST = formats.LARGEST_FEED_BYTES


def test_a_reader_beside_gives_what_reading_here_gives() -> None:
    with Reader() as reader:
        for path in FEEDS:
            data, base = path.read_bytes(), "https://example.org/feed"
            beside = reader.read(data, path.name, base=base, charset=None, largest=LARGEST)
            here = formats.read(data, path.name, base=base)
            assert (beside.briefs, beside.names, beside.remarks) == (here.briefs, here.names, here.remarks)
            assert [str(fault) for fault in beside.faults] == [str(fault) for fault in here.faults]


def test_a_feed_that_takes_too_long_costs_itself_and_the_next_is_read() -> None:
    feed = FEEDS[0].read_bytes()
    with Reader(longest=timedelta(seconds=30)) as reader:
        reader.read(feed, "first", base=None, charset=None, largest=LARGEST)
        assert reader._process  # to play a reader that hangs, it is stopped
        reader._process.send_signal(signal.SIGSTOP)
        reader._longest = timedelta(seconds=0.2)
        hung = reader.read(feed, "hung", base=None, charset=None, largest=LARGEST)
        reader._longest = timedelta(seconds=30)
        after = reader.read(feed, "after", base=None, charset=None, largest=LARGEST)
    assert [str(fault) for fault in hung.faults] == [
        "hung: expected a feed or a brief, found what takes longer to read than 0 s"
    ]
    assert after.briefs


def test_a_reader_that_dies_costs_its_feed_and_the_next_is_read() -> None:
    feed = FEEDS[0].read_bytes()
    with Reader() as reader:
        reader.read(feed, "first", base=None, charset=None, largest=LARGEST)
        assert reader._process
        os.kill(reader._process.pid, signal.SIGKILL)
        reader._process.wait()
        died = reader.read(feed, "died", base=None, charset=None, largest=LARGEST)
        after = reader.read(feed, "after", base=None, charset=None, largest=LARGEST)
    assert [str(fault) for fault in died.faults] == ["died: expected a feed or a brief, found what stops its reader"]
    assert after.briefs


@pytest.mark.slow
def test_a_reader_ends_with_its_parent_even_where_that_is_killed() -> None:
    code = (
        "from newsletter.formats.beside import Reader\nimport time\nreader = Reader()\n"
        "reader.read(b'<rss><channel/></rss>', 'x', base=None, charset=None, largest=1000)\n"
        "print(reader._process.pid, flush=True)\ntime.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    with parent:
        child = int(parent.stdout.readline())
        parent.kill()
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]:
            return
        time.sleep(0.1)
    pytest.fail("the reader is still there after 10 s")
