"""The digest as a reader sees it: compiled, opened in Chromium with the network off, and measured.

What is guarded here are promises to the eye, so nothing is compared with a picture: boxes are measured, colours are
computed. The widths are those of a small phone, a narrow window and a desk; each by day and by night.
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from newsletter.brief import Brief, Citation, Fact, Forecast, Image, Narrative
from newsletter.compile import compile_message
from newsletter.edition import Contents, DeliveryId, Recipient, Sender
from newsletter.formats import read
from newsletter.schedule import Slot
from newsletter.settings import Newsletter, Site
from tests.chromium import chromium

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parent.parent / "examples" / "briefs"
PHONE, NARROW, WIDE = 320, 600, 1200
WIDTHS = (PHONE, NARROW, WIDE)
CONTRAST = 4.5  # WCAG 2.2, 1.4.3 (AA), for text of any size
TARGET_PX = 24  # WCAG 2.2, 2.5.8 (AA)
BUDGET_BYTES = 84_000  # of the eight examples: room for two more before Gmail clips

LAYOUT = """\
Ferry Operator Declines Inquiry Into Missed Winter Crossings

    Ferry Operator Declines Inquiry Into Missed Winter Crossings
    Last updated May 30, 2023
    Image credit: Harbour Archive


    • The operator turned down a request for an inquiry on Tuesday.
    • On Monday the islands' council had asked for one within a month.
    • In response, the operator pointed to two storms in February.
    • Its licence obliges it to sail on at least 340 days a year.
    • Meanwhile, a second operator confirmed that it will bid in June.
    • The last inquiry, in 2019, ended without a finding.


    Pro-operator narrative

    Weather is nobody's breach of contract, and an inquiry would only cost the next ship.

    Anti-operator narrative

    Storms were forecast for a week. Whoever has nothing to hide can open the logbook.

    Nerd narrative

    There's an 18% chance that the licence will change hands before 2035, according to the Longglass community.

    Establishment split



    Sign up to our newsletter!
"""
"""A brief with a credit but no picture, six facts without citations, two narratives, a forecast and a split."""

_LONG = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft"
_SAID = "The council counted every one of the votes twice and published the tally before midnight, as the law asks. "
_ARABIC = "أعلنت الحكومة يوم الاثنين أنها ستبني سداً جديداً على النهر بتكلفة 2.4 مليار، بعد نقاش طويل في البرلمان."
_JAPANESE = (
    "政府は月曜日、川に新しいダムを建設すると発表した。国会での長い議論の末、「夜遅くまで続いた」審議を経て承認された。"
)


def _brief(**parts: Any) -> Brief:
    return Brief.model_validate(parts)


AWKWARD = (
    _brief(
        headline=f"{_LONG} meets",
        topics=(_LONG, _LONG),
        facts=(
            Fact(
                text=f"{_LONG} said so.",
                citations=(
                    Citation(url=f"https://{_LONG[:40].lower()}.sub.domains.without.end.example.org/x"),
                    Citation(url="https://example.org/x", title=_LONG),
                ),
            ),
        ),
        narratives=(
            Narrative(label=f"Pro-{_LONG}", text=_LONG * 2, stance="pro"),
            Narrative(label=f"Anti-{_LONG}", text=_SAID, stance="anti"),
        ),
        forecasts=(
            Forecast(statement=_LONG, probability=0.004, forecaster=_LONG, url="https://example.org/q"),
            Forecast(statement="Certain.", probability=1.0),
            Forecast(statement="Out of the question.", probability=0.0),
            Forecast(statement="Open, without a number."),
        ),
        split=f"{_LONG} split",
        image=Image(url="https://nowhere.example.org/x.jpg", alt=f"What the picture shows. {_SAID}", credit=_LONG),
    ),
    _brief(
        headline=_SAID * 2,
        facts=(Fact(text=_SAID),),
        narratives=tuple(Narrative(label=f"View {n}", text=_SAID * 2) for n in range(5)),
    ),
    _brief(headline="Three views", narratives=tuple(Narrative(label=f"View {n}", text=_SAID * 2) for n in range(3))),
    _brief(headline="One view", narratives=(Narrative(label="The one view", text=_SAID * 2),)),
    _brief(headline="Facts alone", facts=(Fact(text=_SAID),), updated=datetime.fromisoformat("2025-11-22T09:00:00Z")),
    _brief(
        headline="الحكومة توافق على بناء سد جديد بعد فيضانات أكتوبر",
        language="ar",
        url="https://example.org/ar",
        facts=(Fact(text=_ARABIC, citations=(Citation(url="https://example.org/ar", title="الصحيفة"),)),),
        narratives=tuple(Narrative(label=f"الرواية {n}", text=_ARABIC) for n in range(2)),
        forecasts=(Forecast(statement=_ARABIC, probability=0.18),),
        split="Political split",
    ),
    _brief(
        headline="政府、十月の洪水を受けて新しいダムの建設を承認",
        language="ja",
        facts=(Fact(text=_JAPANESE * 3),),
        narratives=(Narrative(label="賛成派の見方", text=_JAPANESE * 3, stance="pro"),),
    ),
)
"""Briefs that strain the page: endless words, every kind of forecast, one to five narratives, other scripts."""


# ------------------------------------------------------------------------------------------ editions


def _contents(briefs: tuple[Brief, ...], **settings: Any) -> Contents:
    newsletter = Newsletter.model_validate(
        {
            "title": "The Test Digest",
            "tagline": "The facts first, then the arguments",
            "from": "The Test Digest <digest@news.example.org>",
            "lists": ("daily",),
            **settings,
        }
    )
    site = Site(name="Test Desk", url="https://news.example.org", postal_address="Test Desk, 1 Test Street, 10115 Test")
    return Contents("daily", newsletter, site, Slot(datetime(2026, 11, 23, 7), "UTC"), briefs, "d4f0a1c2")  # noqa: DTZ001 # a slot is local


def _examples() -> tuple[Brief, ...]:
    return tuple(
        brief for file in sorted(EXAMPLES.glob("0[1-8]*")) for brief in read(file.read_bytes(), file.name).briefs
    )


@dataclass(frozen=True, slots=True)
class Opened:
    """An edition as one recipient has it."""

    briefs: tuple[Brief, ...]
    html: str
    text: str
    html_bytes: int


_EDITIONS: dict[str, Callable[[], Contents]] = {
    "examples": lambda: _contents(_examples()),
    "awkward": lambda: _contents(AWKWARD, tagline=None),
    "shortened": lambda: replace(_contents((*_examples(), *AWKWARD)), cut=frozenset(range(15)), proof=True),
    "yellow": lambda: _contents(_examples()[:2], accent="#ffe000"),
    "black": lambda: _contents(_examples()[:2], accent="#000000"),
    "layout": lambda: _contents(read(LAYOUT.encode(), "ferry.txt").briefs),
}


@cache
def edition(name: str) -> Opened:
    contents = _EDITIONS[name]()
    sender = Sender(
        "daily",
        "The Test Digest",
        "digest@news.example.org",
        None,
        "The Test Digest",
        "daily.news.example.org",
        "https://news.example.org",
    )
    compiled = compile_message(contents, sender)
    message = compiled.message
    values = Recipient(DeliveryId("d" * 24), "ada@example.org", "Ada Lovelace", "t" * 22).values(sender)
    return Opened(
        contents.briefs, message.fill(message.html, values), message.fill(message.text, values), compiled.html_bytes
    )


# ------------------------------------------------------------------------------------------ the browser


def _picture(width: int = 1056, height: int = 600) -> bytes:
    """A PNG of one colour, wider than any screen here."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = (b"\0" + b"\x40\x60\x70" * width) * height
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


Show = Callable[..., Any]
"""show(edition, width, dark=False, pictures=True) -> a page with that edition open."""


@pytest.fixture(scope="module")
def show() -> Iterator[Show]:
    from playwright.sync_api import Page, Route

    picture, pages = _picture(), dict[tuple[str, int, bool, bool], Page]()
    with chromium() as browser:

        def opened(name: str, width: int, *, dark: bool = False, pictures: bool = True) -> Page:
            key = (name, width, dark, pictures)
            if key not in pages:
                page = browser.new_page(
                    viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
                )

                def answer(route: Route) -> None:
                    if pictures and route.request.resource_type == "image":
                        route.fulfill(body=picture, content_type="image/png")
                    else:
                        route.abort()

                page.route("**/*", answer)
                page.set_content(edition(name).html, wait_until="load")
                pages[key] = page
            return pages[key]

        yield opened


def _boxes(page: Any, selector: str) -> list[dict[str, float]]:
    """The boxes of all elements that match, in the order of the document."""
    return list(
        page.eval_on_selector_all(
            selector,
            "all => all.map(e => { const b = e.getBoundingClientRect();"
            " return {left: b.left, right: b.right, top: b.top, bottom: b.bottom, width: b.width, height: b.height} })",
        )
    )


# ------------------------------------------------------------------------------------------ the page


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["examples", "awkward", "shortened", "layout"])
def test_the_page_is_in_standards_mode_and_never_scrolls_sideways(show: Show, name: str, width: int) -> None:
    page = show(name, width)
    assert page.evaluate("document.compatMode") == "CSS1Compat"
    assert page.evaluate("document.documentElement.scrollWidth") == width
    beyond = page.evaluate(
        """width => [...document.querySelectorAll('body *')].filter(e => {
            const b = e.getBoundingClientRect();
            return b.width && b.height && (b.left < -0.5 || b.right > width + 0.5)
                && !e.closest('li') }).map(e => e.outerHTML.slice(0, 120))""",
        width,
    )
    assert beyond == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_every_part_of_a_brief_is_seen_in_its_place(show: Show, width: int, dark: bool) -> None:
    page, (brief,) = show("layout", width, dark=dark), edition("layout").briefs
    assert (len(brief.facts), len(brief.narratives), len(brief.forecasts)) == (6, 2, 1)
    parts = [
        "Monday 23 November 2026",
        "The Test Digest",
        "The facts first, then the arguments",
        "In this edition: 1 brief, 1 min",
        brief.headline,  # in the contents
        brief.headline,  # over the brief
        "Image credit: Harbour Archive",
        *(fact.text for fact in brief.facts),
        *(part for view in brief.narratives for part in (view.label, view.text)),
        "18%",
        "Forecast",
        brief.forecasts[0].statement,
        "Establishment split",
        "The views part over how far official institutions can be trusted.",
        "Updated 30 May 2023",
        "Was this forwarded to you?",
        "Get The Test Digest yourself",
        "This copy went to ada@example.org",
        "View in browser",
        "Preferences",
        "Unsubscribe",
        "Privacy",
        "Test Desk, 1 Test Street, 10115 Test",
    ]
    seen = page.evaluate(
        """() => { const found = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
            while (walk.nextNode()) { const range = document.createRange(); range.selectNodeContents(walk.currentNode);
                const b = range.getBoundingClientRect();
                if (b.width > 4 && b.height > 4 && b.left >= 0
                    && (b.right <= innerWidth || walk.currentNode.parentElement.closest('ol'))  // an ellipsis
                    && walk.currentNode.parentElement.checkVisibility({opacityProperty: true}))
                    found.push(walk.currentNode.data) }
            return found.join(' ').replace(/\\s+/g, ' ') }"""
    )
    at = 0
    for part in parts:
        found = seen.find(part, at)
        assert found >= 0, f"{part!r} is not seen after {seen[max(0, at - 60) : at]!r}"
        at = found + len(part)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["examples", "awkward", "shortened", "yellow", "black"])
def test_every_word_stands_out_from_its_ground(show: Show, name: str, dark: bool) -> None:
    faint = show(name, WIDE, dark=dark, pictures=False).evaluate(
        """least => {
            const rgb = text => text.match(/[\\d.]+/g).map(Number);
            const light = rgb => rgb.slice(0, 3)
                .map(c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
                .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
            const ground = e => { for (; e; e = e.parentElement) {
                const c = rgb(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) return c }
                return [255, 255, 255] };
            const faint = [];
            const judge = (e, colour, words) => {
                const [a, b] = [light(rgb(colour)), light(ground(e))].sort((x, y) => y - x);
                const ratio = (a + 0.05) / (b + 0.05);
                if (ratio < least) faint.push(`${ratio.toFixed(2)} ${colour} ${words.trim().slice(0, 40)}`) };
            const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
            let words = 0;
            while (walk.nextNode()) { const e = walk.currentNode.parentElement;
                if (!walk.currentNode.data.trim() || !e.checkVisibility() || e.closest('style')) continue;
                words += 1; judge(e, getComputedStyle(e).color, walk.currentNode.data) }
            for (const e of document.querySelectorAll('img')) judge(e, getComputedStyle(e).color, e.alt);
            for (const e of document.querySelectorAll('li'))
                judge(e, getComputedStyle(e, '::marker').color, 'marker ' + e.textContent);
            if (words < 60) faint.push(`only ${words} texts seen`);
            return faint }""",
        CONTRAST,
    )
    assert faint == []


def test_by_night_no_ground_stays_bright(show: Show) -> None:
    bright = show("examples", WIDE, dark=True).evaluate(
        """() => [...document.querySelectorAll('body, body *:not(.b1)')].filter(e => {
            const [r, g, b, a = 1] = getComputedStyle(e).backgroundColor.match(/[\\d.]+/g).map(Number);
            return a > 0 && r + g + b > 3 * 90 }).map(e => e.outerHTML.slice(0, 100))"""
    )
    assert bright == []


# ------------------------------------------------------------------------------------------ its parts


def test_narratives_stand_beside_each_other_on_a_desk_and_below_each_other_on_a_phone(show: Show) -> None:
    for width, beside in ((PHONE, False), (NARROW, True), (WIDE, True)):
        first, second = _boxes(show("layout", width), ".v")
        assert min(first["width"], second["width"]) > 120
        if beside:
            assert first["top"] == second["top"]
            assert 12 <= second["left"] - first["right"] <= 40
            assert abs(first["width"] - second["width"]) < 1
        else:
            assert second["top"] >= first["bottom"] + 8
            assert first["left"] == second["left"]


def test_three_narratives_share_a_row_only_where_there_is_room(show: Show) -> None:
    for width, rows in ((PHONE, 3), (NARROW, 3), (WIDE, 1)):
        boxes = _boxes(show("awkward", width), ".card:has(h2#b3) .v")
        assert len({box["top"] for box in boxes}) == rows, width


def test_narratives_are_told_apart_by_more_than_colour(show: Show) -> None:
    page = show("awkward", PHONE)
    rules = page.eval_on_selector_all(
        ".card:has(h2#b2) .v",
        "all => all.map(e => { const s = getComputedStyle(e); return [s.borderTopStyle, s.borderTopWidth].join() })",
    )
    assert len(set(rules)) == 5
    sides = show("layout", PHONE).locator(".v h3").all_text_contents()
    assert [" ".join(side.split()) for side in sides] == [
        "For · Pro-operator narrative",
        "Against · Anti-operator narrative",
    ]


@pytest.mark.parametrize("width", WIDTHS)
def test_pictures_fill_the_column_and_keep_their_shape(show: Show, width: int) -> None:
    page = show("examples", width)
    pictures, column = _boxes(page, "img"), _boxes(page, "ul")[0]
    assert len(pictures) == sum(bool(brief.image and brief.image.url) for brief in edition("examples").briefs)
    for box in pictures:
        assert abs(box["width"] - column["width"]) < 1
        assert abs(box["height"] / box["width"] - 600 / 1056) < 0.01


def test_a_picture_that_does_not_come_leaves_its_words(show: Show) -> None:
    for width in WIDTHS:
        (box,) = _boxes(show("awkward", width, pictures=False), "img")
        assert 15 < box["height"] < 200
        assert box["right"] <= width


def test_contents_take_one_line_an_entry_on_a_phone_and_lead_to_the_briefs(show: Show) -> None:
    for name in ("examples", "awkward"):
        page = show(name, PHONE)
        entries = _boxes(page, "ol li")
        assert len(entries) == len(edition(name).briefs)
        assert all(TARGET_PX <= box["height"] < 2 * 20 for box in entries)
        assert max(box["right"] for box in entries) <= PHONE
        links = page.eval_on_selector_all("ol a", "all => all.map(a => a.getAttribute('href'))")
        assert links == page.eval_on_selector_all("h2[id]", "all => all.map(h => '#' + h.id)")


def test_bars_are_filled_to_the_probability(show: Show) -> None:
    for name in ("examples", "awkward"):
        given = [f.probability for b in edition(name).briefs for f in b.forecasts if f.probability is not None]
        for width in WIDTHS:
            page = show(name, width)
            shares = page.eval_on_selector_all(
                ".bar",
                "all => all.map(e => (e.querySelector('.b1')?.getBoundingClientRect().width ?? 0)"
                " / e.getBoundingClientRect().width)",
            )
            assert len(shares) == len(given)
            assert all(abs(share - probability) < 0.02 for share, probability in zip(shares, given, strict=True))
            assert all(5 <= box["height"] <= 10 for box in _boxes(page, ".bar"))
            assert len(_boxes(page, ".fn")) == len(given)


def test_links_by_themselves_are_large_enough_to_tap(show: Show) -> None:
    small = show("examples", PHONE).eval_on_selector_all(
        "ol a, .go, .end a",
        "(all, least) => all.filter(a => [...a.getClientRects()].some(b => b.height < least)).map(a => a.outerHTML)",
        TARGET_PX,
    )
    assert small == []


def test_links_in_running_text_are_underlined(show: Show) -> None:
    plain = show("examples", WIDE).eval_on_selector_all(
        "a:not(h2 a)",
        "all => all.filter(a => !getComputedStyle(a).textDecorationLine.includes('underline')).map(a => a.outerHTML)",
    )
    assert plain == []


def test_eight_rich_briefs_do_not_grow_longer_on_a_phone(show: Show) -> None:
    """They took 17,773 px when this was written, with Liberation's fonts; every pixel a fact gains comes 47 times."""
    height = show("examples", PHONE).evaluate("document.documentElement.scrollHeight")
    assert height < 18_000


def test_other_directions_run_their_own_way(show: Show) -> None:
    page = show("awkward", WIDE)
    arabic = page.locator("[lang=ar]").first
    assert arabic.evaluate("e => [getComputedStyle(e).direction, getComputedStyle(e).textAlign]") == ["rtl", "right"]
    number, bar = (_boxes(page, f"[lang=ar] {part}")[0] for part in (".fn", ".bar"))
    assert number["left"] >= bar["right"]
    assert page.locator("[lang=ja] h2").count() == 1


# ------------------------------------------------------------------------------------------ its structure


class _Outline(HTMLParser):
    """The tags of a page, checked for nesting; headings, and tables that say they are no tables of data."""

    _VOID = frozenset({"meta", "img", "br", "link", "hr", "o:allowpng"})

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.headings: list[int] = []
        self.faults: list[str] = []
        self.empty: list[str] = []
        self._bare = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self._VOID:
            self._bare = ""
            return
        parent = self.stack[-1] if self.stack else ""
        if (tag == "td" and parent != "tr") or (tag == "tr" and parent not in {"table", "tbody"}):
            self.faults.append(f"{tag} inside {parent} at {self.getpos()}")
        if parent in {"table", "tr"} and tag not in {"tbody", "tr", "td"}:
            self.faults.append(f"{tag} inside {parent} at {self.getpos()}")
        if tag == "table" and dict(attrs).get("role") != "presentation":
            self.faults.append(f"a table without its role at {self.getpos()}")
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        self.stack.append(tag)
        self._bare = tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._bare = ""

    def handle_data(self, data: str) -> None:
        if data.strip(" \n\t"):
            self._bare = ""

    def handle_endtag(self, tag: str) -> None:
        if not self.stack or self.stack.pop() != tag:
            self.faults.append(f"</{tag}> closes nothing at {self.getpos()}")
        if self._bare == tag:
            self.empty.append(f"{tag} at {self.getpos()}")
        self._bare = ""


def _outline(html: str) -> _Outline:
    outline = _Outline()
    outline.feed(html)
    outline.close()
    assert outline.stack == []
    return outline


@pytest.mark.parametrize("name", sorted(_EDITIONS))
def test_tables_nest_for_word_as_for_everybody_else(name: str) -> None:
    html = edition(name).html
    for_word = re.sub(r"<!--\[if (?:mso|mso \| IE|lte mso 11)\]>(.*?)<!\[endif\]-->", r"\1", html, flags=re.DOTALL)
    for_word = re.sub(r"<!--\[if !mso\]><!-->.*?<!--<!\[endif\]-->", "", for_word, flags=re.DOTALL)
    assert "[if" not in for_word
    for_others = re.sub(r"<!--.*?-->", "", html, flags=re.DOTALL)
    assert for_word.count("<table") > for_others.count("<table")
    for page in (for_others, for_word):
        assert _outline(page).faults == []


@pytest.mark.parametrize("name", sorted(_EDITIONS))
def test_headings_step_down_one_at_a_time_and_nothing_is_empty(name: str) -> None:
    outline = _outline(edition(name).html)
    assert outline.headings[:2] == [1, 2]
    assert outline.headings.count(1) == 1
    assert outline.headings.count(2) == 1 + len(edition(name).briefs)
    assert all(lower - upper <= 1 for upper, lower in pairwise(outline.headings))
    assert outline.empty == []


@pytest.mark.parametrize("name", sorted(_EDITIONS))
def test_the_hidden_preheader_fills_the_line_of_a_mailbox(name: str) -> None:
    hidden = re.search(r'<div style="display:none[^>]*>([^<]*)</div>', edition(name).html)
    assert hidden
    assert 60 <= len(hidden[1]) <= 260


def test_the_examples_stay_far_from_being_clipped() -> None:
    assert edition("examples").html_bytes <= BUDGET_BYTES


# ------------------------------------------------------------------------------------------ the text part


def test_the_text_tells_everything_in_order_and_in_its_own_case() -> None:
    for name in ("examples", "layout"):
        text = edition(name).text
        folded, at = " ".join(text.split()), 0
        for brief in edition(name).briefs:
            at = folded.index(brief.headline, folded.index("___", at))
            parts = [fact.text for fact in brief.facts]
            parts += [part for view in brief.narratives for part in (view.label, view.text)]
            parts += [forecast.statement for forecast in brief.forecasts]
            for part in [*parts, *([brief.split] if brief.split else [])]:
                at = folded.index(" ".join(part.split()), at)
            assert brief.headline in text, "broken over lines, it could not be searched for"


def test_each_address_in_the_text_stands_alone_on_its_line() -> None:
    lines = edition("examples").text.splitlines()
    assert [line for line in lines if "://" in line and not re.fullmatch(r"\s*https?://\S+", line)] == []
    cited = {c.url for b in edition("examples").briefs for f in b.facts for c in f.citations}
    assert cited <= {line.strip() for line in lines}


def test_lines_of_the_text_are_short() -> None:
    assert [line for line in edition("examples").text.splitlines() if len(line) > 78 and "://" not in line] == []
