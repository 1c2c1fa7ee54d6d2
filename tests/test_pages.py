"""The pages that subscribers meet, in every language, with kind and with hostile data: read as HTML, then in Chromium.

`accessibility_faults(page)` runs axe over whatever a Playwright page shows; other tests may use it, too.
"""

import re
from collections.abc import Callable, Iterator
from functools import cache
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

import pytest
from lxml import html as lxml_html
from playwright.sync_api import ConsoleMessage, Page, Route

from newsletter.languages import LANGUAGES, direction
from newsletter.settings import Site
from newsletter.web.rendering import FOLDER, POLICY, STYLE, _environment
from tests.chromium import chromium

PHONE, DESK = 320, 1200
ORIGIN = "https://news.example.org"

# ------------------------------------------------------------------------------------------ what pages are given

PLAIN = "The Morning Digest"
DATA = {
    "plain": PLAIN,
    "hostile": "\"'><script>alert(1)</script><img src=x onerror=alert(2)> {{ 7 * 7 }} %(name)s 100% \u202e{% raw %}",
    "long": "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft " * 3,
    "arabic": "النشرة الصباحية: الوقائع أولًا (2026)",
}
"""What a desk, or anybody, may have written where the pages show data."""

ISOLATED = re.compile("\u2068.*\u2069", re.DOTALL)  # as a title keeps data apart, where no element may stand

Case = tuple[str, Callable[[str], dict[str, Any]]]
"""A template, and its context around a piece of data."""


def _join(data: str, **more: Any) -> dict[str, Any]:
    return {
        "name": data,
        "tagline": data,
        "lists": [("daily", data, data, True), ("weekly", "The Week", "", False)],
        "action": "/join/daily",
        "ticket": "a.b.c",
        "address": "",
        "error": None,
        "almost": False,
        "wording": f"By asking, you agree to get {data}.",
        "archive_url": "/e/daily",
        **more,
    }


_PAUSES = [(7, "one week"), (30, "one month")]


def _leave(data: str, **more: Any) -> dict[str, Any]:
    return {
        "name": data,
        "lists": [data],
        "action": "/u/link/daily",
        "more_lists": True,
        "topics": [(data, True), ("Water", False)],
        "pauses": _PAUSES,
        "standing": "on",
        "until": None,
        "rejoin_url": "/join/daily",
        **more,
    }


def _preferences(data: str, **more: Any) -> dict[str, Any]:
    return {
        "address": "ada@example.org",
        "lists": [("daily", data, data, True), ("weekly", "The Week", "", False)],
        "topics": [(data, True), *((f"Topic {n}", n % 2 == 0) for n in range(7))],
        "all_topics": False,
        "language_options": [("", None, True), *((code, name, False) for code, name in LANGUAGES.items())],
        "zone": "Europe/Berlin",
        "zones": ["Asia/Riyadh", "Europe/Berlin", "UTC"],
        "pauses": _PAUSES,
        "paused": None,
        "action": "/m/token",
        "saved": False,
        "error": None,
        "expires": "14:30 CET",
        **more,
    }


def _left(data: str, **more: Any) -> dict[str, Any]:
    return {
        "what": "this",
        "name": data,
        "until": None,
        "undo": "a.b.c",
        "action": "/u/link/daily",
        "rejoin_url": "/join/daily",
        **more,
    }


def _given(**context: Any) -> Callable[[str], dict[str, Any]]:
    """A context without data in it."""
    return lambda _: context


def _link(**more: Any) -> Callable[[str], dict[str, Any]]:
    given = {"purpose": "preferences", "known": False, "action": "/preferences", "ticket": "a.b.c", "error": None}
    return _given(**{**given, **more})


def _archive(data: str, **more: Any) -> dict[str, Any]:
    return {
        "name": data,
        "tagline": data,
        "editions": [
            ("23 November 2026", data, [data, "Ministers divided"], "/e/daily/2026-11-23T07:00"),
            ("22 November 2026", "Parliament backs voting at 16", [], "/e/daily/2026-11-22T07:00"),
        ],
        "older_url": "/e/daily?before=2026-11-22T07%3A00",
        "feed_url": "/e/daily/feed.atom",
        "join_url": "/join/daily",
        **more,
    }


def _privacy(**more: Any) -> Callable[[str], dict[str, Any]]:
    given = {"origin_days": 90, "request_days": 7, "contact": "The Desk <desk@news.example.org>"}
    return _given(**{**given, **more})


CASES: dict[str, Case] = {
    "index": ("index", lambda data: {"newsletters": [(data, data, "/join/a", "/e/a"), ("B", None, "/join/b", None)]}),
    "index, empty": ("index", _given(newsletters=[])),
    "join": ("join", _join),
    "join, one list": ("join", lambda data: _join(data, lists=[("daily", data, "", True)], tagline=None)),
    "join, almost": ("join", lambda data: _join(data, almost=True, address="ada@example.org", archive_url=None)),
    "join, bad address": ("join", lambda data: _join(data, error="address", address=data)),
    "join, no list": ("join", lambda data: _join(data, error="lists", address="ada@example.org")),
    "join, soon": ("join", lambda data: _join(data, error="soon", address="ada@example.org")),
    "join, again": ("join", lambda data: _join(data, error="again", address="ada@example.org")),
    "embed": ("embed", _join),
    "embed, one list": ("embed", lambda data: _join(data, lists=[("daily", data, "", True)], tagline=None)),
    **{f"asked, {purpose}": ("asked", _given(purpose=purpose)) for purpose in ("join", "link", "address")},
    "confirm": ("confirm", lambda data: {"lists": [data], "action": "/c/token", "name": data}),
    "confirm, two": ("confirm", lambda data: {"lists": [data, "The Week"], "action": "/c/token", "name": data}),
    "confirmed": ("confirmed", lambda data: {"lists": [data], "name": data, "archive_url": "/e/daily"}),
    "confirmed, two": ("confirmed", lambda data: {"lists": [data, "B"], "name": data, "archive_url": None}),
    "leave": ("leave", _leave),
    "leave, at its least": ("leave", lambda data: _leave(data, more_lists=False, topics=[], pauses=[])),
    "leave, no topic": ("leave", lambda data: _leave(data, error="topics")),
    "leave, pending": ("leave", lambda data: _leave(data, standing="pending", topics=[])),
    "leave, paused": ("leave", lambda data: _leave(data, standing="paused", until=data, lists=[data, "B"])),
    "leave, off": ("leave", lambda data: _leave(data, standing="off", lists=[])),
    "leave, off at all": ("leave", lambda data: _leave(data, standing="off", lists=[], more_lists=False)),
    "left, this": ("left", _left),
    "left, all": ("left", lambda data: _left(data, what="all")),
    "left, topics": ("left", lambda data: _left(data, what="topics")),
    "left, pause": ("left", lambda data: _left(data, what="pause", until="24 December 2026")),
    "left, nothing": ("left", lambda data: _left(data, what="nothing", undo=None)),
    "undone": ("undone", lambda data: {"name": data, "changed": True}),
    "undone, late": ("undone", lambda data: {"name": data, "changed": False}),
    "link": ("ask_link", _link()),
    "link, bad address": ("ask_link", _link(error="address")),
    "link, known": ("ask_link", _link(known=True, action="/p/link")),
    "link, known, again": ("ask_link", _link(known=True, error="again")),
    "link, to leave": ("ask_link", _link(purpose="leave", error="soon")),
    "preferences": ("preferences", _preferences),
    "preferences, saved": ("preferences", lambda data: _preferences(data, saved=True, all_topics=True, zone="")),
    "preferences, bare": ("preferences", lambda data: _preferences(data, lists=[], topics=[], expires=None)),
    "preferences, paused": ("preferences", lambda data: _preferences(data, paused=data)),
    "preferences, bad zone": ("preferences", lambda data: _preferences(data, error="zone", zone=data)),
    "preferences, bad address": ("preferences", lambda data: _preferences(data, error="address")),
    "preferences, not sure": ("preferences", lambda data: _preferences(data, error="erase")),
    "change": ("change", _given(action="/a/token", masked="a•••@example.org")),
    "changed": ("changed", _given()),
    "erased": ("erased", _given()),
    "archive": ("archive", _archive),
    "archive, empty": ("archive", lambda data: _archive(data, editions=[], older_url=None, tagline=None)),
    "privacy": ("privacy", _privacy()),
    "privacy, a day": ("privacy", _privacy(origin_days=1, request_days=1, contact=None)),
    "privacy, by web": ("privacy", _privacy(contact="https://news.example.org/contact")),
    **{
        f"error, {what}": ("error", _given(what=what, retry_url=None))
        for what in ("missing", "expired", "damaged", "many", "bad", "refused", "closed", "broken")
    },
    "error, retry": ("error", _given(what="expired", retry_url="/preferences")),
}
CASES_OF_DATA = ("index", "join", "embed", "confirm", "leave", "left, this", "preferences", "archive")
SITE = Site(name="Test Desk", url=ORIGIN, postal_address="Test Desk\n1 Test Street\n\n10115 Test")


def common(language: str) -> dict[str, Any]:
    """What every page is given."""
    return {
        "lang": language,
        "dir": direction(language),
        "site": SITE,
        "style_url": "/style.css?1",
        "privacy_url": "/privacy",
        "languages": [(code, name, f"/?lang={code}", code == language) for code, name in LANGUAGES.items()],
    }


@cache
def render(case: str, language: str, data: str = "plain") -> str:
    template, context = CASES[case]
    page = _environment(language).get_template(f"{template}.html.j2")
    return page.render(**common(language), **context(DATA[data]))


@cache
def _tree(case: str, language: str, data: str = "plain") -> Any:
    return lxml_html.document_fromstring(render(case, language, data))


def test_every_template_is_among_the_cases() -> None:
    frames = {"base", "parts"}
    assert {file.name.removesuffix(".html.j2") for file in FOLDER.glob("*.j2")} - frames == {
        t for t, _ in CASES.values()
    }


# ------------------------------------------------------------------------------------------ read as HTML

everywhere = pytest.mark.parametrize("case", CASES)
spoken = pytest.mark.parametrize("language", LANGUAGES)


class _Nesting(HTMLParser):
    """Tags that close nothing, or stand where a browser would move them."""

    _VOID = frozenset({"meta", "link", "input", "br", "img"})
    _BLOCKS = frozenset({"p", "ul", "li", "dl", "div", "form", "fieldset", "section", "h1", "h2", "nav", "address"})

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.faults: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if len({name for name, _ in attrs}) < len(attrs):
            self.faults.append(f"{tag} has an attribute twice at {self.getpos()}")
        if tag in self._BLOCKS and {"p", "button", "label", "legend"} & set(self.stack):
            self.faults.append(f"{tag} among words at {self.getpos()}")
        if tag in {"form", "a", "button"} and tag in self.stack:
            self.faults.append(f"{tag} inside itself at {self.getpos()}")
        if tag not in self._VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.stack or self.stack.pop() != tag:
            self.faults.append(f"</{tag}> closes nothing at {self.getpos()}")


@spoken
@everywhere
def test_tags_nest_and_the_language_and_its_direction_are_said(case: str, language: str) -> None:
    for data in DATA:
        nesting = _Nesting()
        nesting.feed(render(case, language, data))
        nesting.close()
        assert nesting.faults == []
        assert nesting.stack == []
        assert render(case, language, data).startswith("<!DOCTYPE html>\n")
        root = _tree(case, language, data)
        assert (root.get("lang"), root.get("dir")) == (language, direction(language))


@spoken
@everywhere
def test_nothing_runs_and_nothing_comes_from_elsewhere(case: str, language: str) -> None:
    for data in DATA:
        root = _tree(case, language, data)
        assert root.xpath("//script | //style | //iframe | //img | //object | //base | //*[@style]") == []
        assert [a for e in root.iter() for a in getattr(e, "attrib", {}) if a.startswith("on")] == []
        for address in root.xpath("//@href | //@src | //@action | //@formaction"):
            ours = address.startswith(("#", "/", "?", ORIGIN, "mailto:desk%40", "mailto:desk@"))
            assert ours or address.startswith("data:image/svg+xml,"), address
        assert root.xpath("//link[@rel='stylesheet']/@href") == ["/style.css?1"]


@spoken
@everywhere
def test_data_is_shown_as_it_is_and_keeps_its_own_direction(case: str, language: str) -> None:
    for data in ("hostile", "long", "arabic"):
        root, given = _tree(case, language, data), " ".join(DATA[data].split())
        shown = [e for e in root.xpath("//*[text()]") if given in " ".join(e.xpath("string()").split())]
        leaves = [e for e in shown if not any(child in shown for child in e.iterdescendants())]
        wandering = [
            lxml_html.tostring(e)[:200]
            for e in leaves
            if e.tag != "bdi" and e.get("class") != "wording" and not ISOLATED.search(e.text or "")
        ]
        assert wandering == []
        if case in CASES_OF_DATA:
            assert leaves


@spoken
@everywhere
def test_one_heading_leads_and_landmarks_frame_the_page(case: str, language: str) -> None:
    root = _tree(case, language)
    levels = [int(e.tag[1]) for e in root.iter("h1", "h2", "h3", "h4")]
    assert levels.count(1) == 1
    assert all(lower - upper <= 1 for upper, lower in pairwise(sorted(levels[:1]) + levels[1:]))
    assert all(e.xpath("string()").strip() for e in root.iter("h1", "h2", "title", "button", "a", "legend", "label"))
    assert len(root.xpath("//main")) == 1
    assert root.xpath("//main//h1")
    if CASES[case][0] != "embed":
        assert len(root.xpath("//body/footer")) == len(root.xpath("//header")) == 1
        footer = root.xpath("string(//footer)")
        assert all(part in footer for part in ("Test Desk", "1 Test Street", "10115 Test", *LANGUAGES.values()))
        assert root.xpath("//footer//a[@href='/privacy']")
        assert root.xpath("//nav//*[@aria-current]/@lang") == [language]
        assert root.xpath("//nav//a/@lang") == [code for code in LANGUAGES if code != language]


@spoken
@everywhere
def test_controls_have_labels_and_references_lead_somewhere(case: str, language: str) -> None:
    root = _tree(case, language)
    ids = root.xpath("//@id")
    assert len(ids) == len(set(ids))
    for control in root.xpath("//input[not(@type='hidden')] | //select | //textarea"):
        assert len(root.xpath("//label[@for=$id]", id=control.get("id"))) == 1, lxml_html.tostring(control)
    named = " ".join(root.xpath("//@aria-describedby")).split() + root.xpath("//label/@for | //input/@list")
    named += [href[1:] for href in root.xpath("//a/@href") if href.startswith("#")]
    assert set(named) <= set(ids)
    for group in root.xpath("//fieldset"):
        assert group[0].tag == "legend"
    for form in root.xpath("//form"):
        assert form.get("method") == "post"
        assert form.get("action").startswith("/")
        assert len(form.xpath(".//button")) == 1
    assert set(root.xpath("//input[@type='email']/@autocomplete")) <= {"email"}


@pytest.mark.parametrize("case", [case for case, (_, given) in CASES.items() if given(PLAIN).get("error")])
def test_a_mistake_is_said_first_and_leads_to_where_it_is_put_right(case: str) -> None:
    root = _tree(case, "en")
    (alert,) = root.xpath("//main/*[@role='alert']")
    (link,) = alert.xpath(".//a")
    (target,) = root.xpath("//*[@id=$id]", id=link.get("href")[1:])
    assert target.tag in {"input", "button"}
    assert root.xpath("string(//title)").startswith("Not quite yet: ")
    told = {" ".join(e.xpath("string()").split()) for e in root.xpath("//p[@class='wrong']")}
    assert told <= {" ".join(link.xpath("string()").split())}
    if target.tag == "input" and target.get("type") == "email":
        assert target.get("aria-invalid") == "true"
        assert target.get("aria-describedby").endswith("-wrong")


SENT = {
    "join": {"ticket", "address", "list", "website"},
    "join, one list": {"ticket", "address", "list", "website"},
    "embed": {"ticket", "address", "list", "website"},
    "confirm": set(),
    "leave": {"choice", "topic", "days"},
    "leave, at its least": {"choice"},
    "leave, off": {"choice"},
    "left, this": {"choice", "undo"},
    "link": {"ticket", "address", "website"},
    "link, known": {"ticket", "website"},
    "preferences, paused": {"act", "list", "topic", "language", "zone", "pause", "resume", "address", "sure"},
    "change": set(),
}


@pytest.mark.parametrize("case", SENT)
def test_forms_send_what_their_handlers_read(case: str) -> None:
    assert set(_tree(case, "en").xpath("//form//*/@name")) == SENT[case]


def test_what_is_sent_without_a_choice_of_ones_own() -> None:
    def sent(case: str) -> list[tuple[str, str]]:
        (form,) = _tree(case, "en").forms
        return sorted(form.form_values())

    assert sent("join") == [("address", ""), ("list", "daily"), ("ticket", "a.b.c"), ("website", "")]
    assert sent("leave") == [("choice", "this"), ("days", "7"), ("topic", PLAIN)]
    assert sent("leave, no topic")[0] == ("choice", "topics")
    assert sent("leave, off") == [("choice", "all")]
    assert sent("left, this") == [("choice", "undo"), ("undo", "a.b.c")]
    acts = [form.fields["act"] for form in _tree("preferences", "en").forms]
    assert acts == ["save", "address", "data", "erase"]


def test_the_words_agreed_to_are_shown_just_as_the_log_keeps_them() -> None:
    for case in ("join", "embed"):
        for language in LANGUAGES:
            (wording,) = _tree(case, language, "hostile").xpath("//*[@class='wording']")
            assert wording.text == _join(DATA["hostile"])["wording"]


def test_the_page_after_asking_shows_no_address() -> None:
    for case in ("asked, join", "asked, link", "asked, address"):
        assert "@" not in render(case, "en")


def test_the_archive_offers_its_feed() -> None:
    (link,) = _tree("archive", "en").xpath("//head/link[@rel='alternate']")
    assert (link.get("type"), link.get("href")) == ("application/atom+xml", "/e/daily/feed.atom")


def test_the_embedded_form_answers_in_a_page_of_its_own() -> None:
    assert _tree("embed", "en").xpath("//form/@target | //a/@target") == ["_blank", "_blank"]


def test_days_are_counted_in_each_language() -> None:
    assert "After 90 days we delete both." in render("privacy", "en")
    assert "After 1 day we delete both." in render("privacy, a day", "en")
    assert "Nach 90 Tagen" in render("privacy", "de")
    assert "بعد 90 يومًا" in render("privacy", "ar")
    assert "بعد يوم واحد" in render("privacy, a day", "ar")


def test_the_stylesheet_takes_nothing_from_elsewhere_and_knows_no_left_and_right() -> None:
    style = re.sub(r"/\*.*?\*/", "", STYLE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert not re.search(r"url\(|@import|@font-face|!important", style)
    assert (
        re.findall(r"(?:margin|padding|border|text-align)[a-z-]*:? ?-?(?:left|right)\b|^\s*(?:left|right):", style)
        == []
    )


# ------------------------------------------------------------------------------------------ in Chromium

_AXE_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def accessibility_faults(page: Any) -> list[str]:
    """What axe finds wrong with what a Playwright page shows: "rule: element" each, none where all is well."""
    if not page.evaluate("typeof axe === 'object'"):
        axe = files("axe_playwright_python") / "axe.min.js"
        page.evaluate(axe.read_text(encoding="utf-8"))  # no policy of the page's stops a debugger
    found: list[str] = page.evaluate(
        """tags => axe.run(document, {runOnly: {type: 'tag', values: tags}, resultTypes: ['violations'],
                                    rules: {'target-size': {enabled: true}}})
            .then(all => all.violations.flatMap(
                one => one.nodes.map(node => `${one.id}: ${node.html.slice(0, 160)}`)))""",
        _AXE_TAGS,
    )
    return found


Visit = Callable[..., Any]
"""visit(case, language, width, dark=False, data="plain") -> a page showing that case, served as by the application."""


@pytest.fixture(scope="module")
def visit() -> Iterator[Visit]:
    bodies: dict[str, str] = {}
    complaints: list[str] = []
    windows: dict[tuple[int, bool], Page] = {}

    def answer(route: Route) -> None:
        path = urlsplit(route.request.url).path
        if path == "/style.css":
            route.fulfill(path=STYLE, content_type="text/css")
        elif path in bodies:
            headers = {"Content-Security-Policy": POLICY, "Content-Type": "text/html; charset=utf-8"}
            route.fulfill(body=bodies[path], headers=headers)
        else:
            complaints.append(f"asked for {path}")
            route.abort()

    def hear(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            complaints.append(message.text)

    with chromium() as browser:

        def visited(case: str, language: str, width: int, *, dark: bool = False, data: str = "plain") -> Page:
            if (width, dark) not in windows:
                page = browser.new_page(
                    viewport={"width": width, "height": 800}, color_scheme="dark" if dark else "light"
                )
                page.route("**/*", answer)
                page.on("console", hear)
                windows[width, dark] = page
            page = windows[width, dark]
            path = f"/{list(CASES).index(case)}/{language}/{data}"
            bodies[path] = render(case, language, data)
            complaints.clear()
            page.goto(ORIGIN + path, wait_until="load")
            assert complaints == []
            return page

        yield visited


_WAYS = (("en", PHONE, False), ("ar", DESK, False), ("en", DESK, True), ("ar", PHONE, True))
_FIRST = {template: case for case, (template, _) in reversed(CASES.items())}
VIEWS = [
    *((case, *way) for case in _FIRST.values() for way in _WAYS),
    *((case, *_WAYS[n % 4]) for n, case in enumerate(CASES) if case not in _FIRST.values()),
]
"""One of each template in ways in which every two of language, width and light meet; its other cases in one of them."""


@pytest.mark.slow
@pytest.mark.parametrize(("case", "language", "width", "dark"), VIEWS)
def test_axe_finds_nothing(visit: Visit, case: str, language: str, width: int, dark: bool) -> None:
    page = visit(case, language, width, dark=dark)
    assert accessibility_faults(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.slow
def test_axe_would_find_what_is_wrong(visit: Visit) -> None:
    page = visit("join", "en", DESK)
    page.evaluate(
        """() => { document.querySelector('label[for=address]').remove();
            document.querySelector('.tagline').style.color = '#ccc';
            document.documentElement.removeAttribute('lang') }"""
    )
    rules = {fault.partition(":")[0] for fault in accessibility_faults(page)}
    assert {"label", "color-contrast", "html-has-lang"} <= rules


@pytest.mark.slow
@pytest.mark.parametrize("option", ["this", "all", "topics", "pause"])
def test_what_belongs_to_a_choice_is_shown_with_it_and_is_well_made(visit: Visit, option: str) -> None:
    page = visit("leave", "en", PHONE, dark=option == "topics")
    page.check(f"#choice-{option}")
    assert page.is_visible("#topic-1") == (option == "topics")
    assert page.is_visible("#days") == (option == "pause")
    assert accessibility_faults(page) == []


@pytest.mark.slow
@everywhere
def test_no_data_makes_a_phone_scroll_sideways(visit: Visit, case: str) -> None:
    for language, data in (("en", "long"), ("ar", "hostile")):
        page = visit(case, language, PHONE, data=data)
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE
        beyond = page.evaluate(
            """() => [...document.querySelectorAll('main *')].filter(e => { const b = e.getBoundingClientRect();
                return b.width > 1 && b.height > 1 && e.tagName != 'OPTION'
                    && (b.left < -0.5 || b.right > innerWidth + 0.5) })
                .map(e => e.outerHTML.slice(0, 120))"""
        )
        assert beyond == []


@pytest.mark.slow
@pytest.mark.parametrize("case", ["join", "leave, off", "left, this", "preferences, paused", "index", "archive"])
def test_buttons_and_fields_are_large_enough_for_a_thumb(visit: Visit, case: str) -> None:
    small = visit(case, "en", PHONE).eval_on_selector_all(
        "button, .button, select, input:not([type=hidden], [type=checkbox], [type=radio], [name=website])",
        "all => all.filter(e => e.getBoundingClientRect().height < 44).map(e => e.outerHTML)",
    )
    assert small == []


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("case", ["join", "preferences", "archive"])
def test_the_keyboard_reaches_everything_but_the_trap_and_shows_where_it_is(
    visit: Visit, case: str, dark: bool
) -> None:
    page = visit(case, "en", DESK, dark=dark)
    wanted = page.locator("a, button, select, input:not([type=hidden], [name=website])").count()
    reached, faint = set(), []
    for _ in range(wanted + 2):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            """() => { const e = document.activeElement, s = getComputedStyle(e);
                return [[...document.querySelectorAll('*')].indexOf(e) + ' ' + (e.name || e.tagName),
                        s.outlineStyle == 'none' ? 0 : parseFloat(s.outlineWidth)] }"""
        )
        if name.endswith(" BODY"):
            break
        reached.add(name)
        faint += [name] if outline < 2 else []
    assert len(reached) == wanted
    assert not any(name.endswith("website") for name in reached)
    assert faint == []


@pytest.mark.slow
def test_the_trap_is_out_of_sight(visit: Visit) -> None:
    for language in ("en", "ar"):
        box = visit("join", language, DESK).locator(".trap").bounding_box()
        assert box
        assert max(box["width"], box["height"]) <= 1


@pytest.mark.slow
def test_a_mistake_has_the_focus_when_the_page_opens(visit: Visit) -> None:
    page = visit("join, bad address", "en", PHONE)
    page.wait_for_selector("[role=alert]:focus", timeout=5_000)  # it comes with the first painting


@pytest.mark.slow
def test_pages_are_mirrored_for_arabic(visit: Visit) -> None:
    page = visit("leave", "ar", DESK)
    radio, label = page.locator("#choice-this").bounding_box(), page.locator("label[for=choice-this]").bounding_box()
    assert radio["x"] > label["x"]
    assert page.evaluate("getComputedStyle(document.querySelector('h1')).textAlign") == "start"
    page = visit("join", "ar", DESK)
    assert page.evaluate("getComputedStyle(document.querySelector('#address')).direction") == "ltr"


@pytest.mark.slow
def test_on_paper_there_are_no_buttons_and_for_the_easily_dizzy_no_motion(visit: Visit) -> None:
    page = visit("privacy", "en", DESK)
    page.emulate_media(media="print")
    assert not page.is_visible("nav")
    page.emulate_media(media="screen", reduced_motion="reduce")
    page = visit("join", "en", DESK)
    assert page.evaluate("getComputedStyle(document.querySelector('button')).transitionDuration") == "0s"
    page.emulate_media(media=None, reduced_motion=None)


@pytest.mark.slow
def test_the_title_says_what_the_page_is_about(visit: Visit) -> None:
    assert visit("leave", "en", DESK).title() == f"Stop \u2068{PLAIN}\u2069 · Test Desk"
