"""Sources are polled in turn, drafts need not ask again, and files that nobody touched need not be read again."""

import os
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from newsletter import collect as collect_module
from newsletter.newsroom import Newsroom
from tests.conftest import Desk
from tests.test_sources import Page, Wire, entry, rss


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    yield made
    made.close()


@pytest.fixture
def newsroom(desk: Desk) -> Newsroom:
    return desk.open()


def many_sources(desk: Desk, wire: Wire, count: int, status: int = 200) -> Newsroom:
    """A newsroom with a folder and so many feeds."""
    for number in range(count):
        wire.pages[f"/{number}"] = Page(rss(entry(f"harbour-{number}")), status)
    tables = "".join(
        f'[sources.s{number}]\nkind = "feed"\nurl = "{wire.url(f"/{number}")}"\n' for number in range(count)
    )
    desk.configure(lambda text: text + '[fetch]\nallow_networks = ["127.0.0.0/8"]\n' + tables)
    return desk.open()


# ------------------------------------------------------------------------------------------ continuously


def asked(newsroom: Newsroom) -> dict[str, datetime]:
    return {one.name: one.fared.asked_at for one in newsroom.sources() if one.fared}


def test_what_is_collected_by_the_way_gives_way_to_an_edition_at_its_slot(desk: Desk, wire: Wire) -> None:
    newsroom = many_sources(desk, wire, 3)
    newsroom.precedence.urgent_s = 60.0
    with newsroom.precedence.first():
        thread = threading.Thread(target=newsroom.collect_due, kwargs={"most": 10})
        thread.start()
        while not wire.asked:
            time.sleep(0.001)
        time.sleep(0.5)
        assert asked(newsroom) == {}, "nothing is written meanwhile"
    thread.join(20)
    assert len(asked(newsroom)) == 3


def test_what_one_source_breaks_leaves_it_on_record_that_others_are_unchanged(
    desk: Desk, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    newsroom = many_sources(desk, wire, 3)
    newsroom.collect_due(most=10)
    desk.clock.forward(timedelta(hours=1))
    wire.pages["/2"] = Page(rss(entry("bridge")), 200)

    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(collect_module, "_take", broken)
    with pytest.raises(RuntimeError, match="broken"):
        newsroom.collect_due(most=10)
    assert [at == desk.clock() for _, at in sorted(asked(newsroom).items())] == [True, True, False]


def test_sources_keep_their_rhythm_however_many_there_are(desk: Desk, wire: Wire) -> None:
    newsroom = many_sources(desk, wire, 25)
    passes = []
    for _ in range(3):
        passes.append(newsroom.collect_due(most=10))
        desk.clock.forward(timedelta(seconds=5))
    assert [len(one.collected) for one in passes] == [11, 11, 6], "the folder, and so many of the others"
    assert [one.next_at <= desk.clock() for one in passes] == [True, True, False]
    assert len(wire.asked) == len({path for path, _, _ in wire.asked}) == 25
    first = passes[0].collected[1].source
    desk.clock.now = asked(newsroom)[first] + timedelta(minutes=10)
    again = newsroom.collect_due(most=10)
    assert {one.source for one in again.collected} == {one.source for one in passes[0].collected}, "longest ago first"
    assert again.next_at == asked(newsroom)[passes[1].collected[1].source] + timedelta(minutes=10)


def test_a_source_that_is_to_be_left_alone_is_not_due(desk: Desk, wire: Wire) -> None:
    newsroom = many_sources(desk, wire, 1, status=503)
    given = []
    for _ in range(8):  # each ten minutes; it is left alone for 1, 2, 4, 8, 16 minutes after its second failure
        given.append(len(newsroom.collect_due(most=10).collected))
        desk.clock.forward(timedelta(minutes=10))
    assert given == [2, 2, 2, 2, 2, 2, 1, 2]
    assert len(wire.asked) == 7


def test_a_clock_that_is_put_back_leaves_no_source_unasked(desk: Desk, wire: Wire) -> None:
    newsroom = many_sources(desk, wire, 1)
    newsroom.collect_due(most=10)
    desk.clock.forward(-timedelta(days=1))
    assert len(newsroom.collect_due(most=10).collected) == 2


def test_a_draft_need_not_ask_what_was_asked_within_the_last_minute(desk: Desk, wire: Wire) -> None:
    newsroom = many_sources(desk, wire, 3)
    newsroom.collect_due(most=10)
    slot, minute = newsroom.slot("daily"), timedelta(minutes=1)
    desk.clock.forward(minute)
    draft = newsroom.draft("daily", slot, fresh=minute)
    assert len(wire.asked) == 3
    assert [one.seen for one in draft.collected] == [0, 1, 1, 1]
    assert len(draft.selection.taken) == 3
    desk.clock.forward(timedelta(seconds=1))
    newsroom.draft("daily", slot, fresh=minute)
    assert len(wire.asked) == 6
    newsroom.draft("daily", slot)
    assert len(wire.asked) == 9, "without it all are asked"


def test_what_failed_a_moment_ago_is_told_in_a_draft_without_asking_again(desk: Desk, wire: Wire) -> None:
    newsroom = many_sources(desk, wire, 1, status=503)
    newsroom.collect_due(most=10)
    draft = newsroom.draft("daily", newsroom.slot("daily"), fresh=timedelta(minutes=1))
    assert len(wire.asked) == 1
    assert "503" in str(draft.collected[1].error)


def test_an_end_that_is_asked_for_leaves_who_was_not_asked_due(
    desk: Desk, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    newsroom, stop = many_sources(desk, wire, 20), threading.Event()
    take = collect_module._take

    def taken(*everything: object) -> object:
        stop.set()
        return take(*everything)  # type: ignore[arg-type]

    monkeypatch.setattr(collect_module, "_take", taken)
    collected = newsroom.collect_due(most=20, stop=stop).collected
    assert len(collected) == len(asked(newsroom)) + 1 < 20
    monkeypatch.undo()
    newsroom.collect_due(most=20)
    assert len(asked(newsroom)) == 20


# ------------------------------------------------------------------------------------------ folders as they were


def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    read = collect_module._read
    seen: list[Path] = []

    def noted(file: Path) -> bytes:
        seen.append(file)
        return read(file)

    monkeypatch.setattr(collect_module, "_read", noted)
    return seen


def an_hour_on(newsroom: Newsroom) -> None:
    """What was changed until now is old."""
    newsroom._folders = collect_module.Folders(lambda: time.time() + 3_600)


def test_files_that_nobody_touched_are_read_once(
    desk: Desk, newsroom: Newsroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.brief("harbour")
    desk.brief("broken").write_text("", encoding="utf-8")
    an_hour_on(newsroom)
    seen = reads(monkeypatch)
    first, again = newsroom.collect()[0], newsroom.collect()[0]
    assert len(seen) == 2
    assert (again.seen, again.new, again.unchanged) == (first.seen, 0, True)
    assert again.faults == first.faults, "what cannot be read is told each time"


def test_a_file_that_was_changed_a_moment_ago_is_read_again(
    desk: Desk, newsroom: Newsroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.brief("harbour")
    seen = reads(monkeypatch)
    for _ in range(3):
        newsroom.collect()
    assert len(seen) == 3, "a second change within the same tick of the file system would not show"


@pytest.mark.parametrize("how", ["rewritten", "replaced", "renamed", "deleted", "added", "times put back"])
def test_whatever_happens_to_a_folder_is_seen(desk: Desk, newsroom: Newsroom, how: str) -> None:
    file = desk.brief("harbour")
    an_hour_on(newsroom)
    newsroom.collect()
    assert newsroom.collect()[0].unchanged
    before = file.stat()
    other = file.read_text().replace("Fact two", "Fact 222")
    if how == "rewritten":
        file.write_text(other)
    elif how == "replaced":
        (desk.folder / "elsewhere").write_text(other)
        os.utime(desk.folder / "elsewhere", ns=(before.st_atime_ns, before.st_mtime_ns))
        (desk.folder / "elsewhere").replace(file)
    elif how == "renamed":
        file.rename(file.with_name("port.txt"))
    elif how == "deleted":
        file.unlink()
    elif how == "added":
        desk.brief("bridge")
    else:
        file.write_text(other)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not newsroom.collect()[0].unchanged
    told = [fact.text for one in newsroom.select("daily").taken for fact in one.brief.facts]
    assert any("222" in fact for fact in told) == (how in {"rewritten", "replaced", "times put back"})
    assert len(newsroom.select("daily").taken) == {"deleted": 0, "added": 2}.get(how, 1)


def test_what_another_process_recorded_of_a_folder_meanwhile_is_put_right(desk: Desk, newsroom: Newsroom) -> None:
    desk.brief("harbour")
    an_hour_on(newsroom)
    newsroom.collect()
    desk.rows("UPDATE sighting SET gone_at = ?", "2026-11-23 08:00:00.000000")
    assert newsroom.select("daily").taken == ()
    newsroom.collect()
    assert len(newsroom.select("daily").taken) == 1
