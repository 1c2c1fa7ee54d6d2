"""The command line about sources: how they fare, and what an address or a file would give.

Also what `send --sandbox` and `provider receive` refuse.
"""

import json
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from newsletter import guard
from newsletter.newsroom import Newsroom
from tests import test_cli, test_sources
from tests.conftest import Desk
from tests.feed_server import FeedServer
from tests.test_cli import Command
from tests.test_sources import STRUCTURED, Page, Wire, entry, rss, sources

# Fixtures of theirs, under the names that tests ask for.
run, wire = test_cli.run, test_sources.wire

BROKEN = b"<html><body>We are moving house.</body></html>"
PAGE = b"""<!doctype html><html><head><title>The Wire</title>
<link rel="alternate" type="application/rss+xml" title="All the news" href="/feed">
<link rel="alternate" type="application/atom+xml" title="Sport" href="https://sport.example.org/atom"></head>
<body><p>Welcome.</p></body></html>"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """We stand in the desk's folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def at_eight(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A desk whose clock the command goes by, too."""
    opened = Newsroom.open
    monkeypatch.setattr(Newsroom, "open", lambda settings, clock=desk.clock: opened(settings, clock))
    return desk


def add_folder(desk: Desk) -> None:
    desk.file.write_text(desk.file.read_text() + '\n[sources.desk]\nkind = "folder"\npath = "briefs"\n')


def add_feed(desk: Desk, wire: Wire, name: str, path: str) -> None:
    desk.file.write_text(desk.file.read_text() + f'\n[sources.{name}]\nkind = "feed"\nurl = "{wire.url(path)}"\n')


def fared(desk: Desk, wire: Wire) -> None:
    """A desk whose sources have fared in every way, by a clock that stands at 08:00 UTC."""
    desk.brief("harbour")
    wire.pages |= {
        "/good": Page(rss(entry("a"), entry("b"))),
        "/halves": Page(rss("<item><guid>x</guid></item>", entry("c"))),
        "/down": Page(status=503),
        "/shy": Page(status=429, headers={"Retry-After": "3600"}),
        "/mended": Page(status=500),
    }
    sources(desk, wire, good="/good", halves="/halves", down="/down", shy="/shy", mended="/mended")
    add_folder(desk)
    newsroom = desk.open()
    newsroom.collect()
    wire.pages["/mended"] = Page(rss(entry("d")))
    desk.clock.forward(timedelta(minutes=5))
    newsroom.collect()
    wire.pages["/once"] = Page(BROKEN)
    add_feed(desk, wire, "once", "/once")
    desk.open().collect()
    add_feed(desk, wire, "new", "/new")


# ------------------------------------------------------------------------------------------ newsletter sources


def paragraphs(out: str) -> dict[str, list[str]]:
    """The indented lines under each source's first line."""
    told: dict[str, list[str]] = {}
    for line in out.splitlines():
        if line.startswith("    "):
            told[list(told)[-1]].append(line.strip())
        else:
            told[line] = []
    return told


def test_sources_says_of_each_how_it_has_fared(run: Command, at_eight: Desk, wire: Wire) -> None:
    desk = at_eight
    fared(desk, wire)
    asked = len(wire.asked)
    done = run("sources")
    assert (done.code, done.err) == (0, "")
    assert len(wire.asked) == asked, "it asks nobody"
    told = {line.partition("  ")[0]: (line, under) for line, under in paragraphs(done.out).items()}
    assert list(told) == ["mended", "shy", "down", "halves", "good", "desk", "once", "new"], "as they are configured"
    assert told["desk"][0] == f"desk  folder  {desk.folder / 'briefs'}"
    assert told["good"][0] == f"good  feed  {wire.url('/good')}"
    assert told["desk"][1][0].endswith("a folder is read whole each time")
    assert len(told["desk"][1]) == 1
    assert told["good"][1] == ["2 briefs on record; last read 2026-11-23 08:05 UTC, 2 briefs"]
    assert told["halves"][1][0].endswith("last read 2026-11-23 08:05 UTC, 1 briefs")
    assert told["halves"][1][1].startswith("not readable: halves:")
    assert told["new"][1] == ["0 briefs on record; never asked yet"]
    assert told["down"][1][0] == "0 briefs on record; never read"
    assert told["down"][1][1].startswith("FAILED 2 times in a row, last 2026-11-23 08:05 UTC: 127.0.0.1 answers 503")
    assert told["down"][1][2] == "left alone until 2026-11-23 08:06 UTC, because it keeps failing"
    assert told["shy"][1][1].startswith("FAILED once, last 2026-11-23 08:00 UTC: 127.0.0.1 answers 429")
    assert told["shy"][1][2] == "left alone until 2026-11-23 09:00 UTC, as its server asks"
    assert told["once"][1][1:] == [
        "FAILED once, last 2026-11-23 08:05 UTC: expected a feed or a brief, found a web page"
    ], "one failure may be chance: it is not left alone"
    assert "last read 2026-11-23 08:05 UTC" in told["mended"][1][0]
    assert "in all, last 2026-11-23 08:00 UTC: 127.0.0.1 answers 500" in told["mended"][1][1]
    assert len(told["mended"][1]) == 2
    desk.clock.forward(timedelta(hours=1))
    assert "left alone" not in run("sources").out, "that time is over"


def test_sources_gives_a_script_the_same(run: Command, at_eight: Desk, wire: Wire) -> None:
    desk = at_eight
    fared(desk, wire)
    told = {one["name"]: one for one in run("sources", "--json").json}
    assert {name: (one["kind"], one["place"], one["briefs"]) for name, one in told.items()} == {
        "desk": ("folder", str(desk.folder / "briefs"), 1),
        "new": ("feed", wire.url("/new"), 0),
        "once": ("feed", wire.url("/once"), 0),
        "mended": ("feed", wire.url("/mended"), 1),
        "shy": ("feed", wire.url("/shy"), 0),
        "down": ("feed", wire.url("/down"), 0),
        "halves": ("feed", wire.url("/halves"), 1),
        "good": ("feed", wire.url("/good"), 2),
    }
    assert told["desk"]["fetched"] is None
    assert told["new"]["fetched"] is None
    assert told["good"]["fetched"] == {
        "asked_at": "2026-11-23T08:05:00+00:00",
        "succeeded_at": "2026-11-23T08:05:00+00:00",
        "failed_at": None,
        "error": None,
        "failures": 0,
        "failures_ever": 0,
        "briefs": 2,
        "faults": [],
        "left_alone_until": None,
        "as_its_server_asks": False,
    }
    down = told["down"]["fetched"]
    assert (down["failures"], down["failures_ever"], down["succeeded_at"]) == (2, 2, None)
    assert (down["left_alone_until"], down["as_its_server_asks"]) == ("2026-11-23T08:06:00+00:00", False)
    assert "answers 503" in down["error"]
    shy = told["shy"]["fetched"]
    assert (shy["left_alone_until"], shy["as_its_server_asks"]) == ("2026-11-23T09:00:00+00:00", True)
    mended = told["mended"]["fetched"]
    assert (mended["failures"], mended["failures_ever"], mended["failed_at"]) == (0, 1, "2026-11-23T08:00:00+00:00")
    assert len(told["halves"]["fetched"]["faults"]) == 1


def test_without_sources_it_says_so(run: Command, desk: Desk) -> None:
    desk.configure(lambda text: text.replace('[sources.desk]\nkind = "folder"\npath = "briefs"\n', ""))
    done = run("sources")
    assert (done.code, done.out, done.err) == (0, "no sources are configured\n", "")
    assert run("sources", "--json").json == []


# ------------------------------------------------------------------------------------------ newsletter sources check


def test_check_counts_what_a_feed_gives_and_lacks_and_says_what_to_write(run: Command, desk: Desk, wire: Wire) -> None:
    sources(desk, wire, feed="/other")
    entries = [entry("wards", text=STRUCTURED), entry("rates", date=""), entry("rain", link="")]
    wire.pages["/feed"] = Page(
        rss(*entries, "<item><guid>x</guid></item>"),
        etag='"one"',
        headers={"Content-Type": "application/rss+xml; charset=utf-8"},
    )
    done = run("sources", "check", wire.url("/feed"))
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    size = len(wire.pages["/feed"].body)
    assert lines[:6] == [
        wire.url("/feed"),
        f"  {size:,} bytes, application/rss+xml; answers “unchanged” by ETag",
        "  3 briefs: 1 with facts or narratives, 2 with a summary only",
        "  1 without a date",
        "  1 without an address",
        "  3 without a picture that can be shown (https, with a description)",
    ]
    assert lines[6].startswith("  not readable: ")
    assert lines[6].endswith(": expected a title or a text, found neither")
    assert lines[-7:] == [
        "   1  2026-11-22  Wards makes the news",
        "   2  no date  Rates makes the news",
        "   3  2026-11-22  Rain makes the news",
        "To make it a source:",
        "  [sources.NAME]",
        '  kind = "feed"',
        f'  url = "{wire.url("/feed")}"',
    ]
    newsroom = desk.open()
    assert newsroom.briefs(10) == []
    assert [account.fared for account in newsroom.sources()] == [None], "and puts nothing on record"


def test_check_shows_ten_headlines_of_many_and_follows_a_move(run: Command, desk: Desk, wire: Wire) -> None:
    sources(desk, wire, feed="/other")
    wire.pages["/old"] = Page(status=301, headers={"Location": "/feed"})
    wire.pages["/feed"] = Page(rss(*(entry(f"n{number}") for number in range(13))))
    done = run("sources", "check", wire.url("/old"))
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0] == wire.url("/feed")
    assert lines[1] == f"  moved for good to {wire.url('/feed')}: use that address"
    assert lines[2].endswith("of no named type; is read whole each time: it gives no ETag, no date")
    assert "  10  2026-11-22  N9 makes the news" in lines
    assert "      and 3 more" in lines
    assert "N10" not in done.out
    assert lines[-1] == f'  url = "{wire.url("/feed")}"', "the address that it has now"


def test_check_gives_a_script_the_briefs_whole(run: Command, desk: Desk, wire: Wire) -> None:
    sources(desk, wire, feed="/other")
    date = "Sun, 22 Nov 2026 08:00:00 GMT"
    wire.pages["/feed"] = Page(rss(entry("wards", text=STRUCTURED), entry("rates")), headers={"Last-Modified": date})
    told = run("sources", "check", wire.url("/feed"), "--json").json
    briefs = told.pop("briefs")
    assert told == {
        "url": wire.url("/feed"),
        "final_url": wire.url("/feed"),
        "moved": None,
        "kind": "feed",
        "bytes": len(wire.pages["/feed"].body),
        "content_type": None,
        "etag": None,
        "last_modified": date,
        "faults": [],
        "remarks": told["remarks"],
        "feeds": [],
    }
    assert [brief["headline"] for brief in briefs] == ["Wards makes the news", "Rates makes the news"]
    assert len(briefs[0]["narratives"]) == 2
    assert briefs[1]["summary"] == "What the wire says of rates."


def test_check_knows_an_endpoint_from_a_feed(run: Command, desk: Desk, wire: Wire) -> None:
    sources(desk, wire, feed="/other")
    wire.pages["/api"] = Page(b'{"briefs": [{"headline": "Rain falls", "facts": [{"text": "It is wet."}]}]}')
    done = run("sources", "check", wire.url("/api"))
    assert done.code == 0
    assert '  kind = "json"\n' in done.out
    assert "  1 briefs: 1 with facts or narratives, 0 with a summary only" in done.out


def test_check_of_a_web_page_names_its_feeds_and_fails(run: Command, desk: Desk, wire: Wire) -> None:
    sources(desk, wire, feed="/other")
    wire.pages["/"] = Page(PAGE)
    done = run("sources", "check", wire.url("/"))
    assert (done.code, done.err) == (1, "")
    assert "  nothing that could be read as a brief\n" in done.out
    assert "found a web page" in done.out
    assert done.out.splitlines()[-3:] == [
        "That is a web page. It names these feeds:",
        f"  {wire.url('/feed')}  All the news",
        "  https://sport.example.org/atom  Sport",
    ]
    assert "To make it a source" not in done.out
    scripted = run("sources", "check", wire.url("/"), "--json")
    assert scripted.code == 1
    assert json.loads(scripted.out)["feeds"] == [
        {"title": "All the news", "url": wire.url("/feed")},
        {"title": "Sport", "url": "https://sport.example.org/atom"},
    ]


def test_check_of_an_empty_feed_is_no_failure(run: Command, desk: Desk, wire: Wire) -> None:
    sources(desk, wire, feed="/other")
    wire.pages["/feed"] = Page(rss())
    done = run("sources", "check", wire.url("/feed"))
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert "  no entries yet" in lines
    assert lines[-4:] == [
        "To make it a source:",
        "  [sources.NAME]",
        '  kind = "feed"',
        f'  url = "{wire.url("/feed")}"',
    ]
    assert run("sources", "check", wire.url("/feed"), "--json").json["briefs"] == []


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_check_of_an_address_with_nothing_there_is_one_line(
    run: Command, desk: Desk, wire: Wire, options: list[str]
) -> None:
    sources(desk, wire, feed="/other")
    done = run("sources", "check", wire.url("/gone"), *options)
    assert (done.code, done.out) == (1, "")
    assert done.line == f"{wire.url('/gone')}: 127.0.0.1 answers 404: there is nothing at that address"
    assert run("sources", "check", "ftp://wire.example.org/", *options).code == 1


def test_check_asks_no_address_inside_unless_it_is_allowed(run: Command, desk: Desk, wire: Wire) -> None:
    wire.pages["/feed"] = Page(rss(entry("a")))
    refused = (
        f"{wire.url('/feed')}: 127.0.0.1 is no address of the public internet; "
        "[fetch] allow_networks lets a network be asked"
    )
    done = run("sources", "check", wire.url("/feed"))
    assert (done.code, done.out, done.line) == (1, "", refused)
    assert wire.asked == []
    sources(desk, wire, feed="/other")
    assert run("sources", "check", wire.url("/feed")).code == 0
    (desk.folder / "elsewhere").mkdir()
    desk.file.rename(desk.folder / "elsewhere" / "mine.toml")
    assert run("sources", "check", wire.url("/feed")).line == refused, "without a configuration, too"
    assert run("sources", "check", wire.url("/feed"), "--config", "elsewhere/mine.toml").code == 0
    assert "there is no gone.toml" in run("sources", "check", wire.url("/feed"), "--config", "gone.toml").mistake


def test_check_works_without_any_configuration_and_leaves_nothing(
    run: Command, tmp_path: Path, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "may_be_asked", lambda *_: True)
    wire.pages["/feed"] = Page(rss(entry("a")))
    done = run("sources", "check", wire.url("/feed"))
    assert (done.code, done.err) == (0, "")
    assert "   1  2026-11-22  A makes the news" in done.out
    assert "(+" not in wire.asked[0][1]["user-agent"], "there is no site to name"
    assert list(tmp_path.iterdir()) == []
    assert "there is no newsletter.toml" in run("sources").mistake


def test_check_in_a_folder_with_a_broken_configuration_says_what_is_wrong(run: Command, desk: Desk) -> None:
    desk.configure(lambda text: text.replace("postal_address", "postal_adress"))
    assert "site.postal_adress is no setting" in run("sources", "check", "https://wire.example.org/feed").mistake
    assert "URL" in run("sources", "check").mistake


# ------------------------------------------------------------------------------------------ newsletter collect


def test_collect_says_what_is_new_and_then_that_nothing_is(run: Command, desk: Desk, wire: Wire) -> None:
    wire.pages["/feed"] = Page(rss(entry("a"), entry("b")), etag='"one"')
    sources(desk, wire, feed="/feed")
    first, second = run("collect"), run("collect")
    assert (first.code, first.out, first.err) == (0, "feed: 2 briefs, 2 new, 0 revised\n", "")
    assert (second.code, second.out) == (0, "feed: 2 briefs, nothing new since it was read last\n")
    wire.pages["/feed"] = Page(rss(entry("a", title="A, corrected"), entry("b"), entry("c")), etag='"two"')
    assert run("collect").out == "feed: 3 briefs, 1 new, 1 revised\n"
    (told,) = run("collect", "--json").json
    assert told == {
        "source": "feed",
        "seen": 3,
        "new": 0,
        "revised": 0,
        "unchanged": True,
        "faults": [],
        "remarks": [],
        "error": None,
    }


def test_collect_names_what_failed_and_exits_with_1_until_it_is_mended(run: Command, desk: Desk, wire: Wire) -> None:
    wire.pages |= {"/down": Page(status=500), "/good": Page(rss(entry("a")))}
    sources(desk, wire, down="/down", good="/good")
    error = f"source down ({wire.url('/down')}): 127.0.0.1 answers 500: it has a fault of its own"
    for good in ("1 briefs, 1 new, 0 revised", "1 briefs, nothing new since it was read last"):
        done = run("collect")
        assert done.code == 1
        assert sorted(done.out.splitlines()) == sorted([error, "down: could not be read", f"good: {good}"])
        assert done.out.startswith(error)
    asked = len(wire.asked)
    left = run("collect", "--json")
    assert left.code == 1
    told = {one["source"]: one["error"] for one in json.loads(left.out)}
    assert "left alone until" in told["down"]
    assert "it failed 2 times in a row" in told["down"]
    assert told["down"].endswith("newsletter collect --now asks it at once")
    assert told["good"] is None
    assert [path for path, _, _ in wire.asked[asked:]] == ["/good"]
    asked = len(wire.asked)
    insisting = run("collect", "--now")
    assert insisting.code == 1
    assert error in insisting.out.splitlines()
    assert sorted(path for path, _, _ in wire.asked[asked:]) == ["/down", "/good"]
    wire.pages["/down"] = Page(rss(entry("b")))
    assert run("collect").code == 1, "it is left alone still"
    mended = run("collect", "--now")
    assert mended.code == 0
    assert "down: 1 briefs, 1 new, 0 revised" in mended.out.splitlines()
    assert "FAILED" not in run("sources").out


def test_collect_tells_of_a_bad_entry_now_and_while_it_stands(run: Command, desk: Desk, wire: Wire) -> None:
    wire.pages["/feed"] = Page(rss("<item><guid>x</guid></item>", entry("a")), etag='"one"')
    sources(desk, wire, feed="/feed")
    first, second = run("collect"), run("collect")
    assert (first.code, second.code) == (0, 0), "it costs itself"
    fault, line = first.out.splitlines()
    assert fault.startswith("feed:")
    assert line == "feed: 1 briefs, 1 new, 0 revised"
    assert second.out.splitlines()[0] == f"{fault} (as last time)"


# ------------------------------------------------------------------------------------------ newsletter briefs read


def test_several_briefs_of_a_feed_are_a_list_and_one_is_an_object(run: Command, tmp_path: Path) -> None:
    (tmp_path / "two.xml").write_bytes(rss(entry("wards", text=STRUCTURED), entry("rates")))
    (tmp_path / "one.xml").write_bytes(rss(entry("rates")))
    several = run("briefs", "read", "two.xml", "--json").json
    assert [brief["headline"] for brief in several] == ["Wards makes the news", "Rates makes the news"]
    assert run("briefs", "read", "one.xml", "--json").json == several[1]
    shown = run("briefs", "read", "two.xml")
    assert (shown.code, shown.err) == (0, "")
    lines = shown.out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == ["Wards makes the news", "Rates makes the news"]
    for line in ("  url: https://wire.example.org/wards", "  Pro-merger narrative [pro]", "    It saves lives."):
        assert line in lines
    assert "      The Paper <https://paper.example.org/a>" in lines
    assert lines[-1] == "  What the wire says of rates."


def test_a_bad_entry_is_told_beside_what_can_be_read_and_makes_it_1(run: Command, tmp_path: Path) -> None:
    (tmp_path / "feed.xml").write_bytes(rss(entry("rates"), "<item><guid>x</guid></item>"))
    done = run("briefs", "read", "feed.xml", "--json")
    assert done.code == 1
    assert done.line.startswith("feed.xml:")
    assert json.loads(done.out)["headline"] == "Rates makes the news"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(b'<?xml version="1.0"?><rss version="2.0"><chan', "feed.xml", id="cut off"),
        pytest.param(BROKEN, "found a web page", id="a web page"),
        pytest.param(b'<?xml version="1.0"?><svg/>', "XML of another kind", id="no feed"),
        pytest.param(b"", "found an empty file", id="empty"),
    ],
)
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_broken_feed_is_one_line_and_1(
    run: Command, tmp_path: Path, content: bytes, says: str, options: list[str]
) -> None:
    (tmp_path / "feed.xml").write_bytes(content)
    done = run("briefs", "read", "feed.xml", *options)
    assert (done.code, done.out) == (1, "")
    assert says in done.line


# ------------------------------------------------------------------------------------------ newsletter doctor


def test_doctor_tells_how_feeds_fared_and_asks_nobody(run: Command, desk: Desk, wire: Wire) -> None:
    sources(desk, wire, feed="/feed")
    new = run("doctor")
    assert new.code == 0, "what was never asked is no fault"
    assert f"note  source feed: {wire.url('/feed')}: never asked yet; newsletter collect does\n" in new.out
    newsroom = desk.open()
    wire.pages["/feed"] = Page(rss(entry("a"), entry("b")))
    newsroom.collect()
    asked = len(wire.asked)
    good = run("doctor")
    assert good.code == 0
    assert f"ok    source feed: {wire.url('/feed')}: read 2026-11-23 08:00 UTC, 2 briefs\n" in good.out
    assert len(wire.asked) == asked
    wire.pages["/feed"] = Page(status=500)
    for often in ("once", "2 times in a row"):
        newsroom.collect()
        bad = run("doctor")
        assert bad.code == 1
        said = f"source feed: {wire.url('/feed')}: failed {often}, the last time: 127.0.0.1 answers 500: "
        assert f"BAD   {said}" in bad.out
    scripted = run("doctor", "--json")
    assert scripted.code == 1
    assert [one["what"].startswith(said) for one in json.loads(scripted.out) if one["ok"] is False] == [True]


def test_doctor_minds_entries_that_could_not_be_read(run: Command, desk: Desk, wire: Wire) -> None:
    wire.pages["/feed"] = Page(rss("<item><guid>x</guid></item>", entry("a")))
    sources(desk, wire, feed="/feed").collect()
    done = run("doctor")
    assert done.code == 1
    said = f"source feed: {wire.url('/feed')}: read 2026-11-23 08:00 UTC, 1 brief, 1 or more not readable"
    assert f"BAD   {said}\n" in done.out


# ------------------------------------------------------------------------------------------ sandbox and webhook


@pytest.mark.parametrize(
    "options",
    [
        ["--test", "a@example.org"],
        ["--dry-run"],
        ["--yes"],
        ["--out", "preview"],
        ["--dry-run", "--yes"],
        ["--yes", "--json"],
    ],
)
def test_the_sandbox_refuses_options_that_would_be_ignored(run: Command, desk: Desk, options: list[str]) -> None:
    desk.brief("harbour")
    done = run("send", "daily", "--sandbox", *options)
    assert done.mistake == "--sandbox mails nobody; it goes with no --test, --dry-run, --yes or --out"
    assert done.out == ""
    assert not (desk.folder / "outbox").exists()
    assert not (desk.folder / "preview").exists()


@pytest.mark.parametrize("options", [[], ["--json"], ["--slot", "2026-11-23T07:00"]])
def test_the_outbox_has_no_sandbox_and_says_so(run: Command, desk: Desk, options: list[str]) -> None:
    desk.brief("harbour")
    newsroom = desk.open()
    desk.people(newsroom, 1)
    done = run("send", "daily", "--sandbox", *options)
    assert done.mistake == "the outbox has no sandbox: it reaches nobody as it is"
    assert done.out == ""
    assert desk.mails == []
    assert newsroom.editions(10) == []
    assert "did you mean “daily”" in run("send", "dayly", "--sandbox").mistake


@pytest.mark.parametrize("header", ["no colon", ": value", " : value", ""])
def test_a_bad_header_is_named(run: Command, desk: Desk, header: str) -> None:
    (desk.folder / "body").write_bytes(b"[]")
    done = run("provider", "receive", "body", "--header", "X-Good: 1", "--header", header)
    assert done.mistake == f"--header: expected “Name: value”, found “{header}”"
    assert done.out == ""


def test_a_body_that_is_not_there_is_named(run: Command, desk: Desk) -> None:
    assert run("provider", "receive", "gone").mistake == "gone: No such file or directory"
    assert run("provider", "receive", "briefs").mistake == "briefs: Is a directory"
    assert "FILE" in run("provider", "receive").mistake


@pytest.mark.parametrize("options", [[], ["--json"], ["--header", "X-Sign: a:b"]])
def test_the_outbox_tells_nothing_afterwards(run: Command, desk: Desk, options: list[str]) -> None:
    (desk.folder / "body").write_bytes(b"[]")
    said = "webhook of outbox rejected: a folder has no webhook"
    done = run("provider", "receive", "body", *options)
    assert (done.mistake, done.out) == (said, "")
    assert run("provider", "receive", "-", *options, stdin=b"[]").mistake == said
    assert run("provider", "events").out == "no events on record\n"
    assert run("provider", "events", "--json").json == []


@pytest.mark.slow
def test_ctrl_c_ends_collecting_at_once_whatever_a_server_does(desk: Desk) -> None:
    with FeedServer() as server:

        def hang(connection: socket.socket) -> None:
            server.over.wait(60)

        server.answers["/feed"] = hang
        text = desk.file.read_text() + '[fetch]\nallow_networks = ["127.0.0.0/8"]\n'
        desk.file.write_text(text + f'[sources.slow]\nkind = "feed"\nurl = "{server.url("/feed")}"\n')
        newsletter = str(Path(sys.executable).parent / "newsletter")
        process = subprocess.Popen([newsletter, "collect"], stderr=subprocess.PIPE, text=True, cwd=desk.folder)
        while not server.requests:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=10)
    assert (process.returncode, said) == (130, "newsletter: interrupted; run it again to go on where it stopped\n")
