"""Sources on the wire: each fares by itself, what is unchanged is not read again, and no entry repeats or is lost."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from newsletter import shelf, store
from newsletter.collect import Collected, patience
from newsletter.models import SourceRecord
from newsletter.newsroom import Newsroom, Sent
from subscribers import reading
from tests.conftest import Desk

ENTRY = """<item><title>{title}</title><link>{link}</link><guid isPermaLink="false">{guid}</guid>
<pubDate>{date}</pubDate><description>{text}</description></item>"""
STRUCTURED = """&lt;p&gt;The lede.&lt;/p&gt;&lt;h2&gt;Facts&lt;/h2&gt;&lt;ul&gt;
&lt;li&gt;Nine wards close. &lt;a href="https://paper.example.org/a"&gt;The Paper&lt;/a&gt;&lt;/li&gt;&lt;/ul&gt;
&lt;h2&gt;Pro-merger narrative&lt;/h2&gt;&lt;p&gt;It saves lives.&lt;/p&gt;
&lt;h2&gt;Anti-merger narrative&lt;/h2&gt;&lt;p&gt;It costs hours.&lt;/p&gt;"""


def entry(name: str, **more: str) -> str:
    told = {
        "title": f"{name.capitalize()} makes the news",
        "link": f"https://wire.example.org/{name}",
        "guid": f"guid-{name}",
        "date": "Sun, 22 Nov 2026 08:00:00 GMT",
        "text": f"What the wire says of {name}.",
    }
    return ENTRY.format(**{**told, **more})


def rss(*entries: str) -> bytes:
    told = "".join(entries)
    return f"""<?xml version="1.0" encoding="UTF-8"?><rss version="2.0"><channel><title>The Wire</title>
<link>https://wire.example.org/</link><description>News</description>{told}</channel></rss>""".encode()


@dataclass
class Page:
    """What the server gives at a path."""

    body: bytes = b""
    status: int = 200
    etag: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


class Wire:
    """A server on loopback whose pages a test sets, and which remembers who asked for what."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.asked: list[tuple[str, dict[str, str], int]] = []
        wire = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page = wire.pages.get(self.path, Page(status=404))
                status = page.status
                if page.etag and self.headers.get("If-None-Match") == page.etag:
                    status = 304
                wire.asked.append((self.path, {k.lower(): v for k, v in self.headers.items()}, status))
                self.send_response(status)
                body = page.body if status == 200 else b""
                if page.etag:
                    self.send_header("ETag", page.etag)
                for key, value in page.headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._server.server_port}{path}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    yield made
    made.close()


def sources(desk: Desk, wire: Wire, **paths: str) -> Newsroom:
    """A newsroom whose sources are feeds of the wire ("json:" before a path makes it an endpoint)."""

    def change(text: str) -> str:
        told = text.replace('[sources.desk]\nkind = "folder"\npath = "briefs"\n', "")
        for name, path in paths.items():
            kind, _, where = path.rpartition(":")
            told = f'[sources.{name}]\nkind = "{kind or "feed"}"\nurl = "{wire.url(where)}"\n\n{told}'
        return f'[fetch]\nallow_networks = ["127.0.0.0/8"]\ntimeout = "5s"\n\n{told}'

    desk.configure(change)
    return desk.open()


def collected(newsroom: Newsroom, *, impatient: bool = False) -> dict[str, Collected]:
    return {one.source: one for one in newsroom.collect(impatient=impatient)}


def headlines(newsroom: Newsroom) -> list[str]:
    with reading(newsroom.engine) as session:
        return sorted(row.record.headline for row in store.brief_rows(session, 100))


def record(newsroom: Newsroom, name: str) -> SourceRecord:
    with reading(newsroom.engine) as session:
        return session.get_one(SourceRecord, name)


def taken(sent: Sent) -> list[str]:
    assert sent.draft is not None
    return sorted(candidate.brief.headline for candidate in sent.draft.selection.taken)


# ------------------------------------------------------------------------------------------ what a source gives


def test_feeds_and_endpoints_give_briefs_and_a_digest_holds_them(desk: Desk, wire: Wire) -> None:
    wire.pages["/feed"] = Page(rss(entry("wards", text=STRUCTURED), entry("rates")))
    wire.pages["/api"] = Page(
        b'{"briefs": [{"headline": "Rain falls", "facts": [{"text": "It is wet."}]},'
        b' {"headline": "Sun shines", "narratives": [{"label": "Pro-sun narrative", "text": "It is dry."}]}]}'
    )
    wire.pages["/one"] = Page(b'{"headline": "Wind blows", "facts": [{"text": "It is loud."}]}')
    newsroom = sources(desk, wire, feed="/feed", api="json:/api", one="json:/one")
    found = collected(newsroom)
    assert {name: (one.seen, one.new, one.error) for name, one in found.items()} == {
        "feed": (2, 2, None),
        "api": (2, 2, None),
        "one": (1, 1, None),
    }
    desk.people(newsroom, 1)
    sent = newsroom.send("daily")
    assert taken(sent) == [
        "Rain falls",
        "Rates makes the news",
        "Sun shines",
        "Wards makes the news",
        "Wind blows",
    ]
    mail = desk.mails[0].read_text()
    for said in ("What the wire says of rates", "Nine wards close", "Pro-merger narrative", "The lede", "It is wet"):
        assert said in mail


def test_a_headline_that_recurs_at_an_endpoint_is_a_story_of_each_day(desk: Desk, wire: Wire) -> None:
    newsroom = sources(desk, wire, api="json:/api")
    desk.people(newsroom, 1)
    sent = []
    for day in (1, 2, 3):
        told = [
            {"headline": "Weather", "url": f"https://desk.example.org/w/{number}", "summary": f"Day {number}."}
            for number in range(day, 0, -1)
        ]
        wire.pages["/api"] = Page(json.dumps({"briefs": told}).encode())
        made = newsroom.send("daily")
        assert made.draft is not None
        sent.append([candidate.brief.summary for candidate in made.draft.selection.taken])
        desk.clock.forward(timedelta(days=1))
    assert sent == [["Day 1."], ["Day 2."], ["Day 3."]]


def test_briefs_of_one_slug_get_names_of_their_own(desk: Desk, wire: Wire) -> None:
    slugs = ["update", "update", "update-2"]
    told = [{"headline": f"News {n}", "slug": slug, "facts": [{"text": f"Fact {n}."}]} for n, slug in enumerate(slugs)]
    wire.pages["/api"] = Page(json.dumps({"briefs": told}).encode())
    newsroom = sources(desk, wire, api="json:/api")
    newsroom.collect()
    with reading(newsroom.engine) as session:
        assert len(store.candidates(session, "daily", ["api"])) == 3


def test_long_addresses_that_begin_alike_are_names_of_two_stories(desk: Desk, wire: Wire) -> None:
    url = "https://desk.example.org/story?key=" + "x" * 600
    told = [{"headline": f"News {n}", "url": f"{url}{n}", "facts": [{"text": f"Fact {n}."}]} for n in range(2)]
    wire.pages["/api"] = Page(json.dumps({"briefs": told}).encode())
    newsroom = sources(desk, wire, api="json:/api")
    newsroom.collect()
    with reading(newsroom.engine) as session:
        assert len(store.candidates(session, "daily", ["api"])) == 2


def test_a_daily_column_at_one_page_is_another_story_each_day(desk: Desk, wire: Wire) -> None:
    newsroom = sources(desk, wire, feed="/feed")
    desk.people(newsroom, 1)

    def column(day: int) -> bytes:
        date = f"Sun, {day} Nov 2026 06:00:00 GMT"
        return rss(entry("weather", guid=f"weather-{day}", date=date, text=f"It is {day} degrees."))

    assert editions(desk, newsroom, wire, column(21), column(22)) == [["Weather makes the news"]] * 2


def test_an_older_answer_does_not_overwrite_what_another_process_recorded(desk: Desk, wire: Wire) -> None:
    """And what another process kept us from recording is asked for again."""
    wire.pages["/feed"] = Page(rss(entry("a", text="The first text.")), etag='"one"')
    ours, theirs = sources(desk, wire, feed="/feed"), desk.open()
    ours.collect()
    wire.pages["/feed"] = Page(rss(entry("a", text="The second text.")), etag='"two"')
    get = ours.fetcher.get
    overtaken: list[bool] = []

    def slowly(*args: Any) -> Any:
        answer = get(*args)
        if not overtaken:
            overtaken.append(True)
            wire.pages["/feed"] = Page(rss(entry("a", text="The third text.")), etag='"three"')
            theirs.collect()
        return answer

    ours.fetcher.get = slowly  # type: ignore[method-assign, assignment] # what a slow network does
    ours.collect()
    with reading(ours.engine) as session:
        (candidate,) = store.candidates(session, "daily", ["feed"])
    assert candidate.brief.summary == "The third text."
    assert record(ours, "feed").etag is None
    assert not collected(theirs)["feed"].unchanged


def test_an_endpoint_without_briefs_today_is_no_failure(desk: Desk, wire: Wire) -> None:
    wire.pages["/api"] = Page(b'{"briefs": []}')
    newsroom = sources(desk, wire, api="json:/api")
    found = collected(newsroom)["api"]
    assert (found.seen, found.error) == (0, None)
    assert record(newsroom, "api").failures == 0


def test_the_configured_limit_is_the_readers_too(desk: Desk, wire: Wire) -> None:
    wire.pages["/feed"] = Page(rss(entry("a", text="long " * 2_100_000)))
    newsroom = sources(desk, wire, feed="/feed")
    assert "sends more than 10,000,000 bytes" in str(collected(newsroom)["feed"].error)
    desk.file.write_text(desk.file.read_text().replace("[fetch]", "[fetch]\nlargest_bytes = 20_000_000"))
    assert collected(desk.open())["feed"].new == 1


def test_the_server_is_told_who_asks(desk: Desk, wire: Wire) -> None:
    wire.pages["/feed"] = Page(rss(entry("a")))
    sources(desk, wire, feed="/feed").collect()
    _, headers, _ = wire.asked[0]
    assert headers["user-agent"].startswith("brief-newsletter/")
    assert headers["user-agent"].endswith("(+https://news.example.org)")
    assert "cookie" not in headers


# ------------------------------------------------------------------------------------------ what is unchanged


def test_what_is_unchanged_is_asked_for_by_its_validators_and_read_once(desk: Desk, wire: Wire) -> None:
    wire.pages["/feed"] = Page(rss(entry("a"), entry("b")), etag='W/"one"')
    newsroom = sources(desk, wire, feed="/feed")
    assert (collected(newsroom)["feed"].new, collected(newsroom)["feed"].unchanged) == (2, True)
    assert [status for _, _, status in wire.asked] == [200, 304]
    assert wire.asked[1][1]["if-none-match"] == 'W/"one"'
    wire.pages["/feed"] = Page(rss(entry("a"), entry("b"), entry("c")), etag='"two"')
    again = collected(newsroom)["feed"]
    assert (again.seen, again.new, again.revised, again.unchanged) == (3, 1, 0, False)


def test_a_server_without_validators_is_compared_byte_for_byte(desk: Desk, wire: Wire) -> None:
    wire.pages["/feed"] = Page(rss(entry("a")))
    newsroom = sources(desk, wire, feed="/feed")
    assert [collected(newsroom)["feed"].unchanged for _ in range(2)] == [False, True]


def test_another_address_under_the_same_name_is_asked_afresh(desk: Desk, wire: Wire) -> None:
    for path in ("/old", "/new"):
        wire.pages[path] = Page(rss(entry("a")), etag='"same"')
    sources(desk, wire, feed="/old").collect()
    moved = sources(desk, wire, feed="/new")
    assert not collected(moved)["feed"].unchanged
    assert "if-none-match" not in wire.asked[1][1]
    assert headlines(moved) == ["A makes the news"]


def test_a_run_that_was_killed_before_the_end_is_read_again(desk: Desk, wire: Wire, monkeypatch: Any) -> None:
    """The validators are written last: else a kill between them and the briefs would lose these for ever."""
    wire.pages["/feed"] = Page(rss(entry("a")), etag='"one"')
    newsroom = sources(desk, wire, feed="/feed")
    with monkeypatch.context() as patch:
        patch.setattr(shelf, "source_read", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            newsroom.collect()
    again = collected(newsroom)["feed"]
    assert (again.unchanged, again.new, headlines(newsroom)) == (False, 0, ["A makes the news"])


# ------------------------------------------------------------------------------------------ what is broken


def test_broken_sources_cost_themselves_and_say_why(desk: Desk, wire: Wire) -> None:
    wire.pages |= {
        "/good": Page(rss(entry("a"))),
        "/broken": Page(b"<html><body>We are moving house.</body></html>"),
        "/down": Page(status=503),
        "/shy": Page(status=429, headers={"Retry-After": "3600"}),
    }
    newsroom = sources(desk, wire, bad="/broken", down="/down", gone="/gone", shy="/shy", good="/good")
    found = collected(newsroom)
    assert sorted(name for name, one in found.items() if one.error) == ["bad", "down", "gone", "shy"]
    assert found["good"].new == 1
    assert record(newsroom, "good").error is None
    assert record(newsroom, "down").failures == 1
    desk.people(newsroom, 1)
    assert taken(newsroom.send("daily")) == ["A makes the news"]


def test_one_bad_entry_costs_itself_and_is_told_again_while_it_stands(desk: Desk, wire: Wire) -> None:
    wire.pages["/feed"] = Page(rss("<item><guid>x</guid></item>", entry("a")), etag='"one"')
    newsroom = sources(desk, wire, feed="/feed")
    first, second = collected(newsroom)["feed"], collected(newsroom)["feed"]
    assert (first.new, len(first.faults)) == (1, 1)
    assert second.unchanged
    assert second.remarks == (f"{first.faults[0]} (as last time)",)


def test_how_a_source_failed_is_counted_and_a_success_ends_it(desk: Desk, wire: Wire) -> None:
    newsroom = sources(desk, wire, feed="/feed")
    wire.pages["/feed"] = Page(rss(entry("a")), etag='"one"')
    newsroom.collect()
    good = desk.clock.now
    wire.pages["/feed"] = Page(status=500)
    for _ in range(3):
        desk.clock.forward(timedelta(hours=1))
        newsroom.collect()
    row = record(newsroom, "feed")
    assert (row.failures, row.failures_ever, row.succeeded_at, row.failed_at) == (3, 3, good, desk.clock.now)
    assert row.error
    assert "500" in row.error
    wire.pages["/feed"] = Page(rss(entry("a")), etag='"one"')
    desk.clock.forward(timedelta(hours=1))
    assert collected(newsroom)["feed"].unchanged, "what was read before the failure is still known"
    row = record(newsroom, "feed")
    assert (row.failures, row.failures_ever, row.not_before, row.succeeded_at) == (0, 3, None, desk.clock.now)


def test_a_source_that_keeps_failing_is_left_alone_for_longer_and_longer(desk: Desk, wire: Wire) -> None:
    newsroom = sources(desk, wire, feed="/feed")
    wire.pages["/feed"] = Page(status=500)
    newsroom.collect()
    newsroom.collect()
    assert len(wire.asked) == 2, "one failure may be chance"
    left = collected(newsroom)["feed"]
    assert len(wire.asked) == 2
    assert "left alone until 2026-11-23 08:01 UTC: it failed 2 times in a row" in str(left.error)
    collected(newsroom, impatient=True)
    assert len(wire.asked) == 3, "an operator may insist"
    assert [patience(n) for n in (1, 2, 3, 4)] == [None, *(timedelta(minutes=n) for n in (1, 2, 4))]
    assert patience(500) == timedelta(hours=6)


def test_a_server_that_names_a_time_is_obeyed_even_by_the_impatient(desk: Desk, wire: Wire) -> None:
    newsroom = sources(desk, wire, feed="/feed")
    wire.pages["/feed"] = Page(status=503, headers={"Retry-After": "1800"})
    newsroom.collect()
    left = collected(newsroom, impatient=True)["feed"]
    assert len(wire.asked) == 1
    assert "its server asks to be left alone until 2026-11-23 08:30 UTC" in str(left.error)
    wire.pages["/feed"] = Page(rss(entry("a")))
    desk.clock.forward(timedelta(minutes=31))
    assert collected(newsroom)["feed"].new == 1


def test_an_address_inside_is_refused_unless_its_network_is_allowed(desk: Desk, wire: Wire) -> None:
    wire.pages["/feed"] = Page(rss(entry("a")))
    sources(desk, wire, feed="/feed")
    desk.file.write_text(desk.file.read_text().replace('allow_networks = ["127.0.0.0/8"]', ""))
    refused = collected(desk.open())["feed"]
    assert "allow_networks" in str(refused.error)
    assert wire.asked == []


# ------------------------------------------------------------------------------------------ who is who


def editions(desk: Desk, newsroom: Newsroom, wire: Wire, *days: bytes) -> list[list[str]]:
    """What each day's edition takes when the feed shows these, a day after the other."""
    taken_by_day = []
    for body in days:
        wire.pages["/feed"] = Page(body)
        sent = newsroom.send("daily")
        taken_by_day.append(taken(sent) if sent.tally else [])
        desk.clock.forward(timedelta(days=1))
    return taken_by_day


A, B = "A makes the news", "B makes the news"


@pytest.mark.parametrize(
    ("second", "new"),
    [
        pytest.param([entry("a", guid="rebuilt-1")], [], id="a rebuilt feed: new guids, same pages"),
        pytest.param(
            [entry("a", guid="rebuilt-1", link="http://www.wire.example.org/a/?utm_source=rss")],
            [],
            id="rebuilt, with the address spelled differently",
        ),
        pytest.param([entry("a", title="A, corrected")], [], id="a corrected headline"),
        pytest.param([entry("a", link="https://wire.example.org/moved")], [], id="a page that moved"),
        pytest.param([entry("b", guid="guid-a")], [B], id="a guid used again for another story"),
        pytest.param([entry("b"), entry("a")], [B], id="an entry more"),
        pytest.param([entry("b")], [B], id="an entry that vanished"),
        pytest.param([entry("a", date="")], [], id="its date was taken out"),
        pytest.param([entry("a", guid="", title="A makes the news")], [], id="its guid was taken out"),
        pytest.param(
            [entry("b", guid="other", link="https://wire.example.org/a", date="Mon, 23 Nov 2026 07:00:00 GMT")],
            [B],
            id="a page whose story was exchanged",
        ),
    ],
)
def test_nothing_repeats_and_nothing_is_lost(desk: Desk, wire: Wire, second: list[str], new: list[str]) -> None:
    newsroom = sources(desk, wire, feed="/feed")
    desk.people(newsroom, 1)
    assert editions(desk, newsroom, wire, rss(entry("a")), rss(*second)) == [[A], new]


@st.composite
def weeks(draw: st.DrawFn) -> list[list[tuple[str, int]]]:
    """Some days of a feed: each day some of five stories, in some order, under one of three ways to spell them."""
    day = st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 2)), max_size=5, unique_by=lambda pair: pair[0])
    return draw(st.lists(day, min_size=2, max_size=4))


def spelled(name: str, way: int) -> str:
    """A story as it is, as a rebuilt feed gives it, and as a feed gives it that lost its ids and dates."""
    if way == 0:
        return entry(name)
    if way == 1:
        return entry(name, guid=f"rebuilt-{name}", link=f"http://wire.example.org/{name}/?utm_medium=feed")
    return entry(name, guid="", date="")


@pytest.mark.database
@given(week=weeks())
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_feed_does_each_story_goes_out_once(
    tmp_path_factory: pytest.TempPathFactory, wire: Wire, week: list[list[tuple[str, int]]]
) -> None:
    desk = Desk(tmp_path_factory.mktemp("desk"))
    newsroom = sources(desk, wire, feed="/feed")
    desk.people(newsroom, 1)
    days = [rss(*(spelled(name, way) for name, way in day)) for day in week]
    went_out = [headline for day in editions(desk, newsroom, wire, *days) for headline in day]
    shown = {name for day in week for name, _ in day}
    assert sorted(went_out) == sorted(f"{name.upper()} makes the news" for name in shown)
    newsroom.close()


def test_an_entry_that_vanishes_and_comes_back_is_neither_lost_nor_repeated(desk: Desk, wire: Wire) -> None:
    newsroom = sources(desk, wire, feed="/feed")
    desk.people(newsroom, 1)
    days = [rss(entry("a")), rss(entry("b")), rss(entry("a"), entry("b")), rss(entry("a"))]
    assert editions(desk, newsroom, wire, *days) == [[A], [B], [], []]


def test_an_entry_that_rolled_out_of_the_feed_before_the_edition_still_goes_out(desk: Desk, wire: Wire) -> None:
    newsroom = sources(desk, wire, feed="/feed")
    desk.people(newsroom, 1)
    wire.pages["/feed"] = Page(rss(entry("a")))
    newsroom.collect()
    assert editions(desk, newsroom, wire, rss(entry("b"))) == [[A, B]]


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param([entry("a", guid="same"), entry("b", guid="same")], id="one guid for all"),
        pytest.param([entry("a", guid=""), entry("b", guid="")], id="no guids"),
        pytest.param([entry("a", link="", guid=""), entry("b", link="", guid="")], id="neither guids nor links"),
        pytest.param(
            [entry(name, link="https://wire.example.org/") for name in "ab"], id="the front page as everybody's link"
        ),
        pytest.param(
            [entry(name, link="https://wire.example.org/live", guid="") for name in "ab"], id="one page for all"
        ),
        pytest.param([entry("a", date=""), entry("b", date="")], id="no dates"),
    ],
)
def test_entries_are_told_apart_however_little_they_say(desk: Desk, wire: Wire, entries: list[str]) -> None:
    newsroom = sources(desk, wire, feed="/feed")
    desk.people(newsroom, 1)
    assert editions(desk, newsroom, wire, rss(*entries), rss(*reversed(entries)), rss(entries[1])) == [[A, B], [], []]


def test_one_story_in_two_feeds_is_one_story(desk: Desk, wire: Wire) -> None:
    wire.pages["/one"] = Page(rss(entry("a")))
    wire.pages["/two"] = Page(rss(entry("a", guid="theirs", title="As we read in the Wire", text="Other words.")))
    newsroom = sources(desk, wire, one="/one", two="/two")
    newsroom.collect()
    assert len(headlines(newsroom)) == 1
    assert [one.unchanged for one in newsroom.collect()] == [True, True], "and it does not flap between the two"


@pytest.mark.parametrize("fuller", ["one", "two"])
def test_a_summary_elsewhere_does_not_take_the_place_of_a_full_brief(desk: Desk, wire: Wire, fuller: str) -> None:
    for name in ("one", "two"):
        text = STRUCTURED if name == fuller else "They say so, too."
        wire.pages[f"/{name}"] = Page(rss(entry("a", guid=name, text=text)))
    newsroom = sources(desk, wire, one="/one", two="/two")
    newsroom.collect()
    with reading(newsroom.engine) as session:
        (candidate,) = store.candidates(session, "daily", ["one", "two"])
    assert len(candidate.brief.narratives) == 2


def test_a_moved_feed_is_followed_and_told(desk: Desk, wire: Wire) -> None:
    wire.pages["/old"] = Page(status=301, headers={"Location": "/new"})
    wire.pages["/new"] = Page(rss(entry("a")))
    found = collected(sources(desk, wire, feed="/old"))["feed"]
    assert found.new == 1
    assert any("moved for good" in remark and "/new" in remark for remark in found.remarks)
