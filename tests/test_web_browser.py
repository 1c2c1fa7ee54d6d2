"""The pages as people use them, in a real Chromium: join, confirm, change, leave, undo, erase. Axe finds nothing."""

import re
from collections.abc import Iterator
from datetime import timedelta
from email.message import EmailMessage

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from newsletter import people
from subscribers import State
from tests.chromium import chromium
from tests.conftest import Desk
from tests.site_server import SITE, Site, link_in
from tests.test_pages import accessibility_faults
from tests.test_web import digest, everything, state

pytestmark = pytest.mark.slow
SCRIPTED: set[BrowserContext] = set()  # windows in which axe can run


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def site(desk: Desk) -> Iterator[Site]:
    desk.configure(
        lambda text: text.replace('lists = ["daily"]', 'topics = ["Harbour", "Health"]\nlists = ["daily", "weekly"]')
    )
    with Site(desk) as made:
        yield made


@pytest.fixture(params=["scripts on", "scripts off"])
def page(browser: Browser, site: Site, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A window on the site; with and without JavaScript. Whatever the page asks of others is a failure."""
    context = browser.new_context(
        base_url=f"http://127.0.0.1:{site.port}", java_script_enabled=request.param == "scripts on", locale="en-GB"
    )
    if request.param == "scripts on":
        SCRIPTED.add(context)
    strangers: list[str] = []
    context.on("request", lambda asked: None if f":{site.port}/" in asked.url else strangers.append(asked.url))
    faults: list[str] = []
    shown = context.new_page()
    shown.on("console", lambda said: faults.append(said.text) if said.type in {"error", "warning"} else None)
    yield shown
    assert context.cookies() == []
    context.close()
    assert strangers == []
    assert [fault for fault in faults if "status of 422" not in fault] == [], "its own policy stops nothing of its own"


def sound(page: Page) -> None:
    """Nothing is wrong with the page for people who see, hear or move differently."""
    if page.context in SCRIPTED:
        assert accessibility_faults(page) == []


def test_a_person_joins_changes_leaves_takes_it_back_and_is_erased(page: Page, site: Site) -> None:
    page.goto("/")
    sound(page)
    page.get_by_role("link", name="The Test Digest").first.click()
    sound(page)
    site.desk.clock.forward(timedelta(seconds=5))
    page.get_by_label("Your e-mail address").fill("no address")
    page.get_by_role("button").click()
    expect(page.get_by_role("alert")).to_be_visible()
    sound(page)
    site.desk.clock.forward(timedelta(seconds=5))
    page.get_by_label("Your e-mail address").fill("ada@example.org")
    page.get_by_role("button").click()
    expect(page.get_by_label("Your e-mail address")).to_have_count(0)
    sound(page)

    (mail,) = site.work()
    link = _confirms(page, site, mail)
    _changes(page, site, link)
    _leaves_and_is_erased(page, site, link)


def _confirms(page: Page, site: Site, mail: EmailMessage) -> str:
    page.goto(link_in(mail, "c"))
    assert state(site, "ada@example.org") is State.PENDING
    sound(page)
    page.get_by_role("button").click()
    assert state(site, "ada@example.org") is State.CONFIRMED
    sound(page)
    person = people.show(site.newsroom, "ada@example.org").subscriber
    assert person
    return person.link


def _changes(page: Page, site: Site, link: str) -> None:
    page.goto(f"/p/{link}")
    sound(page)
    site.desk.clock.forward(timedelta(seconds=5))
    page.get_by_role("button").click()
    (mail,) = site.work()
    rights = link_in(mail, "m")
    page.goto(rights)
    sound(page)
    page.get_by_label("weekly").uncheck()
    page.get_by_label("Time zone").fill("Europe/Lisbon")
    page.get_by_role("button", name="Save").click()
    sound(page)
    person = people.show(site.newsroom, "ada@example.org").subscriber
    assert person
    assert person.zone == "Europe/Lisbon"
    assert state(site, "ada@example.org", "weekly") is State.UNSUBSCRIBED


def _leaves_and_is_erased(page: Page, site: Site, link: str) -> None:
    leave = f"/u/{link}/daily"
    page.goto(leave)
    sound(page)
    page.get_by_role("button").click()
    assert state(site, "ada@example.org") is State.UNSUBSCRIBED
    sound(page)
    page.get_by_role("button").click()
    assert state(site, "ada@example.org") is State.CONFIRMED
    sound(page)

    page.goto(site.rights(link))
    page.locator("[name=sure]").check()
    page.locator("form:has([name=act][value=erase]) button").click()
    sound(page)
    assert people.show(site.newsroom, "ada@example.org").subscriber is None
    page.goto(leave)
    sound(page)


def test_a_robot_with_a_browser_that_opens_every_link_changes_nothing(page: Page, site: Site) -> None:
    link = site.confirmed("ada@example.org")
    site.join("bob@example.org")
    (asked,) = site.work()
    paths = set(re.findall(rf"{SITE}(/[^\s\"'<>)]*)", digest(site).replace("&amp;", "&")))
    paths |= {link_in(asked, "c"), site.rights(link)}
    before = everything(site.desk)
    for path in sorted(paths):
        answer = page.goto(path.partition("#")[0])
        assert answer is not None
        assert answer.status == 200, path
        page.wait_for_load_state("networkidle")
    assert everything(site.desk) == before


def test_pausing_and_narrowing_need_no_script(page: Page, site: Site) -> None:
    link = site.confirmed("ada@example.org")
    page.goto(f"/u/{link}/daily")
    page.locator("[name=choice][value=pause]").check()
    page.get_by_role("main").get_by_role("button").click()
    person = people.show(site.newsroom, "ada@example.org").subscriber
    assert person
    assert person.paused_until is not None
    page.goto(f"/u/{link}/daily")
    page.locator("[name=choice][value=topics]").check()
    page.get_by_label("Harbour").uncheck()
    page.get_by_role("main").get_by_role("button").click()
    person = people.show(site.newsroom, "ada@example.org").subscriber
    assert person
    assert person.topics == ["Health"]


def test_an_edition_in_the_archive_is_sound(page: Page, site: Site) -> None:
    site.confirmed("ada@example.org")
    digest(site)
    page.goto("/e/daily")
    sound(page)
    page.locator("main a[href^='/e/daily/2']").first.click()
    expect(page.locator("body")).to_contain_text("Harbour makes the news")
    if page.context in SCRIPTED:
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
