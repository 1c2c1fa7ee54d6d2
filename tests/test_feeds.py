"""What feeds become: golden pairs on disk, and the bytes that no disk should hold.

tests/golden/feeds/NAME holds a feed, NAME.expected.json what comes out of it; `make golden` rewrites those.
"""

import html
import json
import os
import time
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from newsletter import formats
from newsletter.formats.dates import read_stamp
from newsletter.formats.excerpt import SUMMARY, cut_at_word, shortened
from newsletter.formats.html import read as read_html
from tests.test_formats import said
from tests.test_formats_properties import SCHEMA

GOLDEN = Path(__file__).parent / "golden" / "feeds"
CASES = sorted(path.name for path in GOLDEN.iterdir() if not path.name.endswith(".expected.json"))
BASE = "https://fetched.example.org/feeds/it"


def rss(*items: str, root: str = 'rss version="2.0"') -> str:
    told = "".join(f"<item>{item}</item>" for item in items)
    return f"<{root}><channel><title>T</title><link>https://t.example.org/</link>{told}</channel></rss>"


def entry(text: str, title: str = "Title") -> str:
    return f"<title>{title}</title><link>https://t.example.org/1</link><description><![CDATA[{text}]]></description>"


def summary(text: str) -> str | None:
    (brief,) = formats.read(rss(entry(text)).encode(), "x").briefs
    return brief.summary


@pytest.mark.parametrize("name", CASES)
def test_golden_feed(name: str) -> None:
    expected = GOLDEN / f"{name}.expected.json"
    reading = formats.read((GOLDEN / name).read_bytes(), name, base=BASE)
    made = json.dumps({**said(reading), "names": reading.names}, ensure_ascii=False, indent=1) + "\n"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        expected.write_text(made, encoding="utf-8")
    assert made == expected.read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------ bytes


@pytest.mark.parametrize("name", ["x", "x.txt", "x.md", "x.json", "x.xml", "https://t.example.org/feed"])
def test_a_feed_is_known_by_how_it_begins(name: str) -> None:
    data = rss(entry("It rains.")).encode()
    for start in (b"", b"\n\n  ", b"\xef\xbb\xbf", b'<?xml version="1.0"?>\n', b"<!-- made by hand -->", b"\0"):
        reading = formats.read(start + data, name)
        assert [brief.summary for brief in reading.briefs] == ["It rains."], start
        assert not reading.faults
        assert not reading.remarks


ENCODED = rss("<title>Порт закрыт</title><link>https://t.example.org/1</link>")


@pytest.mark.parametrize(
    ("data", "charset"),
    [
        (ENCODED.encode(), None),
        (ENCODED.encode(), "windows-1251"),
        (ENCODED.encode("utf-8-sig"), "iso-8859-1"),
        (ENCODED.encode("utf-16"), None),
        (ENCODED.encode("utf-16-le"), None),
        (ENCODED.encode("utf-16-be"), "utf-8"),
        (ENCODED.encode("utf-32"), None),
        (ENCODED.encode("cp1251"), "windows-1251"),
        (ENCODED.encode("koi8-r"), "KOI8-R"),
        (b'<?xml version="1.0" encoding="windows-1251"?>' + ENCODED.encode("cp1251"), "utf-8"),
        (b"<?xml version='1.0' encoding='windows-1251'?>" + ENCODED.encode("cp1251"), "iso-8859-1"),
        (b'<?xml version="1.0" encoding="UTF-8"?>' + ENCODED.encode("cp1251"), "windows-1251"),
        (b'<?xml version="1.0" encoding="no-such-thing"?>' + ENCODED.encode(), "zlib"),
        (b'<?xml version="1.0" encoding="utf-16"?>' + ENCODED.encode(), None),
    ],
)
def test_the_bytes_are_asked_before_what_is_said_of_them(data: bytes, charset: str | None) -> None:
    (brief,) = formats.read(data, "x", charset=charset).briefs
    assert brief.headline == "Порт закрыт"


def test_japanese_in_seven_bits_is_read_as_declared() -> None:
    data = b'<?xml version="1.0" encoding="iso-2022-jp"?>' + rss(entry("It rains.", "港が閉まる")).encode("iso-2022-jp")
    assert formats.read(data, "x").briefs[0].headline == "港が閉まる"


def test_one_broken_character_costs_itself() -> None:
    reading = formats.read(ENCODED.encode().replace(b"\xd1\x80", b"\xd1", 1), "x")
    assert reading.briefs[0].headline == "По\ufffdт закрыт"
    assert reading.remarks == ("x:1: what cannot be read stands as \ufffd, 1 in all",)


def test_controls_are_dropped() -> None:
    reading = formats.read(rss(entry("a\0b\x0bc&#2;d\ud800", "x\x00&#1;&#xFFFF;y")).encode(errors="replace"), "x")
    assert reading.briefs[0].headline == "xy"
    assert reading.briefs[0].summary == "abcd?"


@pytest.mark.parametrize("length", [2_500_000, 9_000_000])
def test_feeds_may_be_larger_than_briefs(length: int) -> None:
    data = rss(entry("It rains."), "<x>" + "y" * length + "</x>", entry("x", "Other")).encode()
    assert len(formats.read(data, "x").briefs) == 2


def test_what_is_too_large_is_told() -> None:
    for data in (rss(*[entry("z" * 1_000)] * 20_000).encode(), b'{"items": [' + b"1," * 10_000_000):
        (fault,) = formats.read(data, "x").faults
        assert str(fault) == f"x: expected at most 10,000,000 bytes, found {len(data):,}"
    data = rss(entry("It rains.")).encode()
    (fault,) = formats.read(data, "x", largest=100).faults
    assert str(fault) == f"x: expected at most 100 bytes, found {len(data)}"


@pytest.mark.parametrize(
    ("data", "name", "fault"),
    [
        (b"<!doctype html><p>x", "x", "x:1: expected a feed or a brief, found a web page"),
        (b"<!doctype html><p>x", "x.txt", "x.txt:1: expected plain text, found a web page"),
        (b"<?xml version='1.0'?><!DOCTYPE html><html/>", "x", "x:1: expected a feed or a brief, found a web page"),
        (b"<?xml version='1.0'?><svg/>", "x", "x:1: expected a feed or a brief, found XML of another kind: <svg>"),
        (b"<?xml version='1.0", "x", "x:1: expected a feed or a brief, found the beginning of an XML document"),
        (b"<rss><channel><title>x", "x", "x: expected a feed, found the beginning of one: the feed is cut off"),
        (b'{"version":"https://jsonfeed.org/version/1","items":[', "x", "x:1: expected JSON: Expecting value"),
    ],
)
def test_what_is_no_feed_is_a_fault_that_says_what_was_found(data: bytes, name: str, fault: str) -> None:
    reading = formats.read(data, name)
    assert not reading.briefs
    assert str(reading.faults[0]).startswith(fault)


def test_an_end_that_is_missing_is_told() -> None:
    whole = rss(entry("One."), entry("Two.", "Second"))
    at = whole.index("</channel>")
    for end in (at, at + 4, len(whole) - 3):
        reading = formats.read(whole[:end].encode(), "x")
        assert len(reading.briefs) == 2
        assert "cut off" in reading.remarks[0]
    reading = formats.read(whole[: whole.index("Two.")].encode(), "x")
    assert [brief.summary for brief in reading.briefs] == ["One."]
    assert "cut off here" in str(reading.faults[0])


# ------------------------------------------------------------------------------------------ entries


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("Mon, 23 Nov 2026 07:00:00 GMT", "2026-11-23T07:00:00"),
        ("Mon, 23 Nov 2026 07:00:00 +0130", "2026-11-23T05:30:00"),
        ("23 Nov 26 07:00 EST", "2026-11-23T12:00:00"),
        ("Mon Nov 23 07:00:00 2026", "2026-11-23T07:00:00"),
        ("2026-11-23T07:00:00.123456789Z", "2026-11-23T07:00:00"),
        ("2026-11-23 07:00:00 +01:00", "2026-11-23T06:00:00"),
        ("2026-11-23T07:00Z", "2026-11-23T07:00:00"),
        ("2026-11-23", "2026-11-23T00:00:00"),
        ("Sat, 23 Nov 2026 23:59:60 UT", "2026-11-23T23:59:59"),
        ("Monday, November 23, 2026 - 7:00pm", "2026-11-23T19:00:00"),
        *((text, None) for text in ("", "soon", "Mon, 31 Feb 2026 07:00:00 GMT", "0001-01-01T00:00:00Z", "1795417200")),
        *((text, None) for text in ("05/06/2026", "2026-13-01T00:00:00Z", "9999-12-31T23:59:59-05:00", "9" * 5_000)),
    ],
)
def test_dates_as_feeds_write_them(given: str, read: str | None) -> None:
    assert read_stamp(given) == (datetime.fromisoformat(read).replace(tzinfo=UTC) if read else None)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("It rains.<p>The post <a href='x'>A</a> appeared first on <a href='y'>B</a>.</p>", "It rains."),
        ("It rains. [&hellip;]", "It rains."),
        ("It rains in [...]", "It rains in…"),
        ("It rains. <a href='x'>Continue reading <b>It Rains</b> &rarr;</a>", "It rains."),
        ("It rains and&hellip; <a href='x'>Read more</a>", "It rains and…"),
        ("<p>It rains.</p><p><a href='x'>Read the full story</a></p><p>Share</p>", "It rains."),
        ("<p>It rains.</p><p>Read more books this year, says the library.</p>", None),
        ("submitted by <a href='x'>/u/gull</a> <a href='y'>[link]</a>", "submitted by /u/gull [link]"),
        ("<p>One</p>two<div>three<br>four<br/><br/>five</div>", "One\n\ntwo\n\nthree four\n\nfive"),
        ("<ul><li>One<li>two</ul>", "• One\n\n• two"),
        ("<table><tr><td>a<td>b<tr><td>c</table>", "a · b\n\nc"),
        ("<style>x{}</style><script>1</script><form>f</form><iframe>g</iframe>It rains<!-- not -->.", "It rains."),
        ("<p>Rain &lt;b&gt; &amp;amp; &copy; &#8217;</p>", "Rain <b> &amp; © ’"),
        ("no tag: 3 < 4 & 5 > 4, x<y", "no tag: 3 < 4 & 5 > 4, x<y"),
        ("<h2>Heading</h2><p>It rains.</p>", "It rains."),
        ("<p>Title</p><p>It rains.</p>", "It rains."),
        ("<p>A <img src='https://s.example.org/emoji/1.png' alt='🙂'> day.</p>", "A 🙂 day."),
    ],
)
def test_what_a_summary_keeps(text: str, left: str | None) -> None:
    said = summary(text)
    assert said == left if left is not None else said and said.endswith("says the library.")


def test_a_summary_ends_with_a_sentence_where_it_can() -> None:
    sentence = "The wall of the harbour at Port Ansel was built by hand, says Dr. Holm of the U.S. survey. "
    said = summary(f"<p>{sentence * 20}</p>")
    assert said
    assert said.endswith("survey.")
    assert abs(len(said) - SUMMARY) < 100
    said = summary("<p>" + "word " * 400 + "</p>")
    assert said
    assert said.endswith("word…")
    assert len(said) <= SUMMARY
    assert (summary("<p>" + "港口关闭码头。" * 200 + "</p>") or "").endswith("码头。")
    assert shortened(["x" * 5_000]) == "x" * (SUMMARY - 1) + "…"
    assert cut_at_word("one two three", 9) == "one two…"


ORIGINAL = """<o:origLink xmlns:o="http://rssnamespace.org/feedburner/ext/1.0">https://t.example.org/1</o:origLink>"""


@pytest.mark.parametrize(
    ("base", "item", "url"),
    [
        ("https://f.example.org/a/b", "<link>c</link>", "https://t.example.org/c"),
        ("https://f.example.org/a/b", "<link>//o.example.org/c</link>", "https://o.example.org/c"),
        (None, "<link>c</link>", "https://t.example.org/c"),
        (None, "<link> https://t.example.org/a b\n</link>", "https://t.example.org/a%20b"),
        (None, "<guid>https://t.example.org/g</guid>", "https://t.example.org/g"),
        (None, "<guid isPermaLink='false'>https://t.example.org/g</guid>", None),
        (None, "<guid>not-an-address</guid>", None),
        (None, f"<link>https://proxy.example.org/1</link>{ORIGINAL}", "https://t.example.org/1"),
        (None, "<l:link xmlns:l='http://www.w3.org/2005/Atom' rel='alternate' href='/l'/>", "https://t.example.org/l"),
        (None, "<l:link xmlns:l='http://www.w3.org/2005/Atom' rel='self' href='/l'/>", None),
    ],
)
def test_the_address_of_an_entry(base: str | None, item: str, url: str | None) -> None:
    (brief,) = formats.read(rss(f"<title>T</title>{item}<description>x</description>").encode(), "x", base=base).briefs
    assert brief.url == url


def test_relative_links_start_at_xml_base_then_the_entry_then_the_feed() -> None:
    content = "&lt;h2&gt;Facts&lt;/h2&gt;&lt;ul&gt;&lt;li&gt;It rains. &lt;a href='s'&gt;Sky&lt;/a&gt;&lt;/ul&gt;"
    for feed_base, link, expected in (
        ("xml:base='https://x.example.org/b/'", "/e/1", "https://x.example.org/b/s"),
        ("", "/e/1", "https://t.example.org/e/s"),
        ("", "https://e.example.org/f/1", "https://e.example.org/f/s"),
        ("", "", "https://t.example.org/s"),
    ):
        item = f"<title>T</title><link>{link}</link><description>{content}</description>"
        (brief,) = formats.read(rss(item, root=f"rss {feed_base}").encode(), "x", base=BASE).briefs
        assert brief.facts[0].citations[0].url == expected


def test_a_name_is_the_feeds_own_and_stays_short() -> None:
    long = "g" * 2_000
    reading = formats.read(rss(*(f"<guid>{long}{n}</guid>{entry('x', f'T{n}')}" for n in "ab")).encode(), "x")
    assert len({name for name in reading.names if name and len(name) <= 500}) == 2
    feed = [f"<guid>same</guid><title>T {n}</title><link>https://t.example.org/{n}</link>" for n in range(20)]
    forth, back = (formats.read(rss(*items).encode(), "x") for items in (feed, feed[::-1]))
    pairs = [dict(zip(r.names, (b.headline for b in r.briefs), strict=True)) for r in (forth, back)]
    assert pairs[0] == pairs[1]
    assert len(pairs[0]) == 20


def test_other_formats_have_no_names() -> None:
    assert formats.read(b"Rain\n\n- It is wet.\n", "x.txt").names == (None,)


def test_feeds_that_a_page_names() -> None:
    page = b"""<html><head><base href="https://b.example.org/x/"><meta charset="iso-8859-1">
    <!-- <link rel="alternate" type="application/rss+xml" href="/hidden"> -->
    <LINK REL="alternate" TYPE="application/rss+xml" TITLE="Caf\xe9 &amp; bar" HREF="feed"><link rel=stylesheet href=x>
    <link href='/atom.xml' rel='alternate home' type='application/atom+xml; charset=utf-8'/>
    <link rel=alternate type=application/feed+json href=https://j.example.org/f.json>
    <link rel="alternate" type="application/rss+xml" href="feed"><link rel="alternate" hreflang="de" href="/de">
    <link rel="alternate" type="application/rss+xml" href="javascript:x">"""
    assert formats.feeds_in(page, "https://p.example.org/") == [
        ("Café & bar", "https://b.example.org/x/feed"),
        ("", "https://b.example.org/atom.xml"),
        ("", "https://j.example.org/f.json"),
    ]
    assert formats.feeds_in(b"", BASE) == []


# ------------------------------------------------------------------------------------------ size and time


def test_thousands_of_entries_take_seconds_and_little_memory() -> None:
    text = "<p>The wall was built by hand. <a href='https://w.example.org/'>Wall</a> &amp; sea.</p>" * 3
    items = (
        f"<guid>g{n}</guid><title>T {n}</title><description><![CDATA[{text}]]></description>" for n in range(5_000)
    )
    data = rss(*items).encode()
    start = time.process_time()
    reading = formats.read(data, "x")
    assert time.process_time() - start < 15, "three seconds on an idle machine"
    assert len(reading.briefs) == len(set(reading.names)) == 5_000
    tracemalloc.start()
    formats.read(data[:500_000], "x")
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_entries_past_the_most_are_told() -> None:
    for data in (rss(*["<title>T</title>"] * 10_003), json.dumps({"items": [{"title": "T"}] * 10_003})):
        reading = formats.read(data.encode(), "x")
        assert "expected at most 10,000 entries, found 10,003" in " ".join(map(str, reading.faults[-3:]))


HOSTILE = {
    "ampersands": "&",
    "references": "&amp;lt;",
    "less": "< ",
    "depth": "<div>",
    "reopened": "<b><p>",
    "misnested": "<div><table></div></table>",
    "comments": "<!--",
    "sections": "<![CDATA[ ",
    "instructions": "<?",
    "pictures": '<img src="',
    "attributes": "<a b='",
    "headings": "<h2>Pro-a narrative</h2>",
    "lists": "<h2>Facts</h2><li>a",
    "bold": "<p><b>Pro-a narrative</b>",
    "marks": "e\u0315\u0300",
    "read more": "Continue reading ",
    "links": "<a href='http://x.example.org'>x</a>",
    "addresses": "https://a (www.b ",
    "entries": "<item>",
    "ends": "</item>",
    "narrative": "narrative ",
}


@pytest.mark.parametrize("piece", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_feed_is_answered_in_time(piece: str) -> None:
    """In ten seconds for 10 MB: a megabyte in one piece and in entries."""
    start = time.process_time()
    many = piece * (600_000 // len(piece))
    formats.read(rss(entry(many.replace("]]>", ""), "a narrative")).encode(), "x")
    formats.read(f"<rss><channel><item><title>T</title>{many}".encode(), "x")
    some = many[:100_000].replace("<item>", "").replace("</item>", "")
    formats.read(rss(*[entry(some, "a narrative")] * 4).encode(), "x")
    formats.read(json.dumps({"items": [{"id": "1", "title": "narrative", "content_html": many}]}).encode(), "x")
    formats.feeds_in(many.encode(), BASE)
    assert time.process_time() - start < 6


def test_hostile_frames_are_answered_in_time() -> None:
    start = time.process_time()
    items = "<item><title>T</title><link>http://x.example.org/a</link></item>"
    for text in (
        "<rss "
        + " ".join(f'xmlns:a{n}="http://purl.org/dc/terms/"' for n in range(10_000))
        + f">{items * 1_000}</rss>",
        "<!DOCTYPE rss [" + "<!ENTITY a '" * 50_000,
        "<!---->" * 150_000 + rss(items),
        rss("<title>T</title><a " + " ".join(f'b{n}="1"' for n in range(70_000)) + "/>"),
        rss("<title>T</title>" + "<a>" * 300_000),
        rss(f"<link xml:base='{'../' * 300_000}'>x</link>"),
        '{"version":"https://jsonfeed.org/version/1.1","items":[' + "{}," * 9_000 + "{}]}",
        '{"items":' + "[" * 500_000,
        rss("<guid>x</guid>" + entry("x")) * 1_000,
    ):
        formats.read(text.encode(), "x")
    assert time.process_time() - start < 12


# ------------------------------------------------------------------------------------------ properties


def check(reading: formats.Reading) -> None:
    """What holds for every Reading of a feed."""
    assert len(reading.names) == len(reading.briefs)
    names = [name for name in reading.names if name is not None]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 500 and name.isprintable() for name in names if name.isascii())
    assert len(reading.remarks) <= formats.MOST_REMARKS + 1
    for brief in reading.briefs:
        SCHEMA.validate(json.loads(brief.model_dump_json()))


PIECES = [
    *("<item>", "</item>", "<item/>", "<entry>", "</entry>", "<title>", "</title>", "<link>", "</link>", "<guid>"),
    *("</guid>", "<description>", "</description>", "<![CDATA[", "]]>", "<!--", "-->", "<?x?>", "&lt;p&gt;", "&amp;"),
    *("<link href='/x'/>", "&nbsp;", "&lol;", "&", "<", ">", "&#0;", "&#x80;", "<h2>Facts</h2><ul><li>", "<br>"),
    *(
        "<p><b>Pro-x narrative</b></p>",
        "https://x.example.org/1",
        "The ferry sails.",
        "<a href='x'>y</a>",
        "<img src='",
    ),
    *("xml:base='//['", "<pubDate>Mon, 23 Nov 2026 07:00:00 GMT</pubDate>", "\x00", "\ufffe", "é", "日本。", "\ud83d"),
    *("</channel>", "</rss>", "<content type='xhtml'>", "</content>", "<dc:date>", "<x:y z='", "'", '"', "\n", " "),
]
messy = st.lists(st.sampled_from(PIECES) | st.text(max_size=6), max_size=40).map("".join)
starts = st.sampled_from(
    [
        *("<rss><channel>", "<rss version='2.0'><channel><item>", "<feed xmlns='http://www.w3.org/2005/Atom'><entry>"),
        *("<?xml version='1.0' encoding='utf-8'?><rss>", "<rdf:RDF>", "<!DOCTYPE rss [<!ENTITY a 'b'>]><rss>", "", "<"),
        *('{"items": [{"id": "', '{"version": "https://jsonfeed.org/version/1", "items": [{"content_html": "'),
    ]
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(starts, messy, st.sampled_from(["", "</rss>", '"}]}']), st.sampled_from(["utf-8", "utf-16", "cp1252"]))
@example("<rss><channel><item>", "&#x80;<![CDATA[", "", "utf-8")
def test_whatever_the_text_it_is_a_reading(start: str, text: str, end: str, encoding: str) -> None:
    check(formats.read(f"{start}{text}{end}".encode(encoding, errors="replace"), "x", base=BASE))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([b"<rss>", b"<feed>", b'{"items":', b"\xff\xfe", b"<?xml", b""]), st.binary(max_size=200))
def test_whatever_the_bytes_it_is_a_reading(start: bytes, data: bytes) -> None:
    check(formats.read(start + data, "x", charset="shift_jis"))
    formats.feeds_in(start + data, BASE)


words = st.lists(
    st.sampled_from(
        ["harbour", "tide", "<b>", "&amp;", "a<b", "</p>", "café", "“slow”", "5%", "日本", "\u202e", "x & y"]
    ),
    min_size=1,
    max_size=12,
).map(lambda parts: " ".join(["The", *parts]) + ".")
stories = st.fixed_dictionaries(
    {
        "title": words,
        "text": st.lists(words, max_size=4),
        "facts": st.lists(words, max_size=3),
        "sides": st.lists(words, max_size=2),
        "day": st.none() | st.integers(1, 28),
        "topics": st.lists(st.sampled_from(["Sea", "Law", "R&D"]), max_size=3),
    }
)


def page(story: dict[str, Any]) -> str:
    """A story as HTML, its words escaped as they must be."""
    parts = [f"<p>{html.escape(text)}</p>" for text in story["text"]]
    if story["facts"]:
        parts += ["<h2>Facts</h2><ul>", *(f"<li>{html.escape(text)}</li>" for text in story["facts"]), "</ul>"]
    for label, text in zip(("Pro-tide narrative", "Anti-tide narrative"), story["sides"], strict=False):
        parts += [f"<h2>{label}</h2><p>{html.escape(text)}</p>"]
    return "".join(parts)


def in_three_formats(stories: list[dict[str, Any]]) -> list[str]:
    items, entries, objects = [], [], []
    for n, story in enumerate(stories):
        url, day = f"https://t.example.org/{n}", story["day"]
        date = f"2026-11-{day:02}T07:00:00Z" if day else ""
        topics = [escape(topic) for topic in story["topics"]]
        items.append(
            f"<guid>{url}</guid><title>{escape(html.escape(story['title']))}</title><link>{url}</link>"
            + (f"<pubDate>{day} Nov 2026 07:00:00 GMT</pubDate>" if day else "")
            + "".join(f"<category>{topic}</category>" for topic in topics)
            + f"<description>{escape(page(story))}</description>"
        )
        entries.append(
            f"<entry><id>{url}</id><title type='text'>{escape(story['title'])}</title><link href='{url}'/>"
            + (f"<published>{date}</published><updated>{date}</updated>" if day else "")
            + "".join(f"<category term='{topic}'/>" for topic in topics)
            + f"<content type='html'>{escape(page(story))}</content></entry>"
        )
        given = {"id": url, "url": url, "title": story["title"], "tags": story["topics"], "content_html": page(story)}
        objects.append(given | ({"date_published": date} if day else {}))
    atom = f"<feed xmlns='http://www.w3.org/2005/Atom'>{''.join(entries)}</feed>"
    return [rss(*items), atom, json.dumps({"version": "https://jsonfeed.org/version/1.1", "items": objects})]


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(stories, max_size=4))
def test_the_same_content_gives_the_same_briefs_in_every_format(stories: list[dict[str, Any]]) -> None:
    read = [formats.read(text.encode(), "x") for text in in_three_formats(stories)]
    for reading in read:
        check(reading)
        assert len(reading.briefs) + len(reading.faults) == len(stories)
    assert read[0].briefs == read[1].briefs == read[2].briefs
    assert read[0].names == read[1].names == read[2].names
    for story, brief in zip(stories, read[0].briefs, strict=True):
        assert len(brief.facts) == len(story["facts"])
        assert len(brief.narratives) == len(story["sides"])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(["<b", "<script>", "</script>", "x", ">", "<p ", "<a href='", "'", "<!--", "<svg>", "y "]))
)
def test_no_tag_survives(parts: list[str]) -> None:
    for piece in read_html("".join(parts), None).pieces:
        assert "<script" not in piece.words
        assert not any(f"<{name}>" in piece.words for name in ("b", "p", "a", "svg"))


def test_a_servers_own_warning_before_the_feed_costs_a_remark() -> None:
    feed = (GOLDEN / "wordpress.xml").read_bytes() if (GOLDEN / "wordpress.xml").exists() else None
    assert feed is not None
    whole = formats.read(feed, "x")
    for warning in (b"<br />\n<b>Warning</b>: mysql_connect() in <b>/srv/wp.php</b> on line 3<br />\n", b"Notice: x\n"):
        read = formats.read(warning + feed.lstrip(), "x")
        assert read.briefs == whole.briefs
        assert "x:1: what stands before the feed is not used" in read.remarks
