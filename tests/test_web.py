"""The pages, served for real: robots change nothing, one click leaves, nobody is probed, forwarding is harmless."""

import re
import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

import subscribers
from newsletter import people
from newsletter.checkup import examine
from newsletter.edition import EventKind
from newsletter.errors import ConfigurationError
from newsletter.models import EventRecord
from newsletter.newsroom import Newsroom
from newsletter.settings import Settings
from newsletter.web.app import create_app
from subscribers import OptIn, Reason, State, Table, parse, suppress, transaction, unsuppress
from tests import strict_mail
from tests.conftest import Desk
from tests.site_server import SECRETS, SITE, Answer, Site, link_in, text_of


@pytest.fixture
def site(desk: Desk) -> Iterator[Site]:
    desk.configure(lambda text: text.replace('schedule = "0 7', 'topics = ["Harbour", "Health"]\nschedule = "0 7'))
    with Site(desk) as made:
        yield made


def everything(desk: Desk) -> dict[str, list[tuple[object, ...]]]:
    """All rows of all tables."""
    return {name: sorted(desk.rows(f'SELECT * FROM "{name}"'), key=repr) for name in Table.metadata.tables}


def state(site: Site, address: str, slug: str = "daily") -> State | None:
    standing = people.show(site.newsroom, address).subscriptions
    return next((one for to, one, _ in standing if to == slug), None)


def digest(site: Site) -> str:
    """An edition, sent; the text and HTML of one copy, with all its links."""
    file = site.desk.brief("harbour")
    file.write_text(file.read_text().replace("Last updated", "Topics: Harbour\n    Last updated"))
    sent = site.newsroom.send("daily")
    assert sent.tally, sent
    (mail,) = site.mails()
    html = mail.get_body(("html",))
    assert html is not None
    return f"{text_of(mail)}\n{html.get_content()}\n{mail['List-Unsubscribe']}"


# ---------------------------------------------------------------------------------------------- robots


def test_a_robot_that_opens_every_link_of_every_mail_changes_nothing(site: Site) -> None:
    site.confirmed("ada@example.org")
    mails = [digest(site)]
    site.join("bob@example.org")
    (asked,) = site.work()
    mails.append(text_of(asked))
    link = people.show(site.newsroom, "ada@example.org").subscriber
    assert link is not None
    rights = site.rights(link.link)
    site.post(rights, {"act": "address", "address": "ada.new@example.org"})
    mails += [text_of(mail) for mail in site.work()]
    mails.append(SITE + rights)
    paths = {found for mail in mails for found in re.findall(rf"{SITE}(/[^\s\"'<>)]*)", mail.replace("&amp;", "&"))}
    kinds = {path.split("/")[1] for path in paths}
    assert {"u", "c", "m", "a", "p", "e", "join", "privacy"} <= kinds, "all kinds of links are among them"
    before = everything(site.desk)
    for path in sorted(paths):
        got, head = site.ask(path), site.ask(path, "HEAD")
        assert (got.status, head.status, head.text) == (200, 200, ""), path
        assert head.headers["content-type"] == got.headers["content-type"]
        assert "<script" not in got.text.lower(), "there is nothing to run"
        for further in set(re.findall(r'(?:href|src)="(/[^"]*)"', got.text)):
            assert site.ask(further).status == 200, further
    assert everything(site.desk) == before


def test_every_page_is_guarded_and_sets_no_cookie(site: Site) -> None:
    link = site.confirmed("ada@example.org")
    for path in ("/", "/join/daily", "/privacy", "/e/daily", "/preferences", f"/u/{link}/daily", "/nothing-there"):
        headers = {name.lower(): value for name, value in site.ask(path).headers.items()}
        assert "set-cookie" not in headers
        assert headers["content-security-policy"].startswith("default-src 'none'; style-src 'self'")
        assert "script" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "strict-transport-security" in headers
    assert site.ask(f"/u/{link}/daily").headers["x-robots-tag"] == "noindex"
    assert "x-robots-tag" not in site.ask("/join/daily").headers
    framed = site.ask("/join/daily/form").headers["content-security-policy"]
    assert "frame-ancestors *" in framed, "the form may stand in a desk's own page"


# ---------------------------------------------------------------------------------------------- one click

ONE_CLICK = b"List-Unsubscribe=One-Click"
BOUNDARY = "----=_x"
MULTIPART = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="List-Unsubscribe"\r\n\r\nOne-Click\r\n--{BOUNDARY}--\r\n'
)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (ONE_CLICK, "application/x-www-form-urlencoded"),
        (MULTIPART.encode(), f"multipart/form-data; boundary={BOUNDARY}"),
        (b"", "application/x-www-form-urlencoded"),
        (b"\xff\x00 neither", "multipart/form-data; boundary=other"),
        (b"{}", "application/json"),
    ],
)
def test_one_post_leaves_at_once_whatever_its_form(site: Site, body: bytes, content_type: str) -> None:
    site.confirmed("ada@example.org")
    header = re.search(r"<(https://[^>]+)>", digest(site).rpartition("\n")[2])
    assert header
    for _ in range(2):
        answer = site.ask(header[1], "POST", body, Content_Type=content_type)
        assert (answer.status, "set-cookie" in answer.headers, "location" in answer.headers) == (200, False, False)
        assert "undo" not in answer.text, "a mail program is no person: it gets nothing that raises anything"
    assert state(site, "ada@example.org") is State.UNSUBSCRIBED
    data = people.show(site.newsroom, "ada@example.org").data
    assert data is not None
    assert [one["way"] for one in data["consent_log"] if one["event"] == "left"] == ["header_post"]


def test_the_link_leaves_even_where_the_secret_was_lost_and_the_newsletter_is_gone(site: Site, desk: Desk) -> None:
    link = site.confirmed("ada@example.org")
    digest(site)
    site.__exit__(None, None, None)
    desk.file.write_text(desk.file.read_text().replace("[newsletters.daily]", "[newsletters.other]"))
    changed = Settings.load(desk.file, {**SECRETS, "NEWSLETTER_SECRET": "quite another secret, of enough letters"})
    assert changed.newsletters.keys() == {"other"}
    with Site(desk) as anew:
        assert anew.ask(f"/u/{link}/daily").status == 200
        assert anew.post(f"/u/{link}/daily", {"List-Unsubscribe": "One-Click"}).status == 200
        assert state(anew, "ada@example.org") is State.UNSUBSCRIBED
        site.newsroom = anew.newsroom
    site.__enter__()


def test_a_mail_to_the_leave_mailbox_leaves(desk: Desk) -> None:
    desk.configure(lambda text: text.replace("lists =", 'leave_mailbox = "leave@news.example.org"\nlists ='))
    with Site(desk) as site:
        site.confirmed("ada@example.org")
        header = " ".join(digest(site).rpartition("<https")[2].split())
        (copy,) = [path for path in desk.mails if not path.name.startswith("n")]
        strict_mail.read(copy.read_bytes())
        found = re.search(r"<mailto:leave@news\.example\.org\?subject=(unsubscribe%20\S+%20daily)>", header)
        assert found, header
        assert people.leave_by_mail(site.newsroom, found[1].replace("%20", " ")) == 1
        assert state(site, "ada@example.org") is State.UNSUBSCRIBED


# ---------------------------------------------------------------------------------------------- forwarded mails


def test_what_a_forwarded_mail_lets_its_reader_do(site: Site) -> None:
    """No more than leaving, pausing, narrowing; and asking for a link that goes to the owner."""
    link = site.confirmed("ada@example.org")
    path = f"/u/{link}/daily"
    assert "ada@" not in site.ask(path).text + site.ask(f"/p/{link}").text, "the address is not shown"
    may = {
        "narrow": {"choice": "topics", "topic": "Health"},
        "pause": {"choice": "pause", "days": "30"},
        "leave": {"choice": "this"},
        "leave all": {"choice": "all"},
    }
    told = {name: site.choose(link, fields).heading for name, fields in may.items()}
    assert len(told) == 4
    person = people.show(site.newsroom, "ada@example.org")
    assert person.subscriber is not None
    assert person.subscriber.topics == ["Health"]
    assert person.subscriber.paused_until == site.desk.clock() + timedelta(days=30)
    assert state(site, "ada@example.org") is State.UNSUBSCRIBED
    before = everything(site.desk)
    may_not: list[dict[str, str | list[str]]] = [
        {"choice": "topics", "topic": ["Health", "Harbour"]},
        {"choice": "topics"},
        {"choice": "pause", "days": "1"},
        {"choice": "pause", "days": "-30"},
        {"choice": "undo", "undo": "1.2.abc"},
        {"choice": "join"},
        {"act": "save", "list": "daily", "choice": "resume"},
    ]
    for fields in may_not:
        site.choose(link, fields)
    site.post(f"/p/{link}", {"act": "save", "list": "daily"})
    site.post(f"/m/{link}", {"act": "erase", "sure": "1"})
    site.post(f"/c/{link}")
    after = everything(site.desk)
    assert {table for table in after if after[table] != before[table]} == set()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["choice", "days", "topic", "undo", "list", "act", "List-Unsubscribe"]),
            st.sampled_from(
                ["this", "all", "topics", "pause", "undo", "7", "400", "daily", "Health", "Harbour", "", "x"]
            ),
            max_size=4,
        ),
        max_size=4,
    )
)
def test_no_post_to_the_link_in_a_digest_ever_gives_more(site: Site, posts: list[dict[str, str]]) -> None:
    known = people.show(site.newsroom, "ada@example.org").subscriber
    link = known.link if known else site.confirmed("ada@example.org")
    for fields in posts:
        before = people.show(site.newsroom, "ada@example.org")
        assert site.choose(link, fields).status in {200, 404, 422}
        after = people.show(site.newsroom, "ada@example.org")
        assert before.subscriber
        assert after.subscriber
        if state_of(before) is State.UNSUBSCRIBED:
            assert state_of(after) is State.UNSUBSCRIBED
        if before.subscriber.topics is not None:
            assert set(after.subscriber.topics or ["all"]) <= set(before.subscriber.topics)
        if before.subscriber.paused_until is not None:
            assert after.subscriber.paused_until is not None
            assert after.subscriber.paused_until >= before.subscriber.paused_until


def state_of(person: people.Person) -> State:
    return person.subscriptions[0][1]


def test_who_wants_some_topics_gets_the_editions_that_have_one_of_them(site: Site) -> None:
    wanting = {name: site.confirmed(f"{name}@example.org") for name in ("harbour", "health", "all")}
    for name in ("harbour", "health"):
        site.post(f"/u/{wanting[name]}/daily?page", {"choice": "topics", "topic": name.capitalize()})
    file = site.desk.brief("quay")
    file.write_text(file.read_text().replace("Last updated", "Topics: harbour\n    Last updated"))
    site.newsroom.send("daily")
    assert sorted(str(mail["To"]) for mail in site.mails()) == ["all@example.org", "harbour@example.org"]
    tally = site.newsroom.edition("daily").tally
    assert tally
    assert (tally.skipped, tally.holds) == (1, True)


# ---------------------------------------------------------------------------------------------- undoing


def test_whoever_left_may_take_it_back_within_a_day_and_nobody_else(site: Site) -> None:
    link, other = site.confirmed("ada@example.org"), site.confirmed("bob@example.org")
    left = site.choose(link, {"choice": "this"})
    undo = {"choice": "undo", "undo": left.hidden("undo")}
    assert site.choose(other, undo).status == 404, "another's link takes back nothing"
    site.desk.clock.forward(timedelta(hours=23))
    assert site.choose(link, undo).status == 200
    assert state(site, "ada@example.org") is State.CONFIRMED
    site.choose(link, undo)
    left = site.choose(link, {"choice": "this"})
    site.choose(link, undo)
    assert state(site, "ada@example.org") is State.UNSUBSCRIBED, "an old undoing takes back no new leaving"
    site.desk.clock.forward(timedelta(hours=24))
    late = site.choose(link, {"choice": "undo", "undo": left.hidden("undo")})
    assert (late.status, state(site, "ada@example.org")) == (410, State.UNSUBSCRIBED)


@pytest.mark.parametrize("choice", [{"choice": "pause", "days": "7"}, {"choice": "topics", "topic": "Health"}])
def test_a_pause_and_a_narrowing_can_be_taken_back(site: Site, choice: dict[str, str]) -> None:
    link = site.confirmed("ada@example.org")
    done = site.choose(link, choice)
    site.choose(link, {"choice": "undo", "undo": done.hidden("undo")})
    person = people.show(site.newsroom, "ada@example.org").subscriber
    assert person
    assert (person.topics, person.paused_until) == (None, None)


def test_an_undoing_does_not_lift_a_suppression(site: Site) -> None:
    link = site.confirmed("ada@example.org")
    left = site.choose(link, {"choice": "this"})
    people.suppress(site.newsroom, "ada@example.org", actor="test", note=None)
    site.choose(link, {"choice": "undo", "undo": left.hidden("undo")})
    assert state(site, "ada@example.org") is State.UNSUBSCRIBED


# ---------------------------------------------------------------------------------------------- probing


def stand(site: Site, address: str, standing: str) -> None:
    """Bring an address into a standing."""
    if standing == "unknown":
        return
    if standing == "pending":
        site.join(address)
        site.work()
        return
    link = site.confirmed(address)
    if standing == "left":
        site.post(f"/u/{link}/daily")
    elif standing == "erased":
        people.forget_address(site.newsroom, address, actor="test")
    elif standing in {"complained", "bounced", "barred"}:
        reason = {"complained": Reason.COMPLAINT, "bounced": Reason.HARD_BOUNCE, "barred": Reason.OPERATOR}[standing]
        with transaction(site.newsroom.engine) as session:
            suppress(session, parse(address), reason, now=site.desk.clock(), actor="test", note=None)


STANDINGS = {
    "unknown": "Please confirm: The Test Digest",
    "pending": "Please confirm: The Test Digest",
    "left": "Please confirm: The Test Digest",
    "erased": "Please confirm: The Test Digest",
    "confirmed": "You already get The Test Digest",
    "complained": None,
    "bounced": None,
    "barred": None,
}


@pytest.mark.parametrize(("standing", "subject"), STANDINGS.items())
def test_every_address_gets_the_same_answer_and_its_owner_the_right_mail(
    site: Site, standing: str, subject: str | None
) -> None:
    stand(site, "ada@example.org", standing)
    site.desk.clock.forward(timedelta(hours=2))
    statements: list[str] = []

    def note(connection: object, cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(site.newsroom.engine, "before_cursor_execute", note)
    answer = site.join("ada@example.org")
    event.remove(site.newsroom.engine, "before_cursor_execute", note)
    plain = site.join("nobody-knows@example.net")
    assert (answer.status, answer.text) == (200, plain.text)
    # The same in the same time: the page looks nobody up, so it cannot take longer for some.
    looked_up = re.compile(
        r"\b(?:FROM|INTO|JOIN|UPDATE) (?:subscriber|subscription|suppression|notice|consent_event)\b"
    )
    assert [one for one in statements if looked_up.search(one)] == []
    mails = {str(mail["To"]): str(mail["Subject"]) for mail in site.work()}
    assert mails.pop("nobody-knows@example.net") == "Please confirm: The Test Digest"
    assert mails == ({"ada@example.org": subject} if subject else {})


def test_asking_for_a_link_tells_nothing_either(site: Site) -> None:
    site.confirmed("ada@example.org")
    answers = []
    for address in ("ada@example.org", "nobody@example.org"):
        ticket = site.ask("/preferences").hidden("ticket")
        site.desk.clock.forward(timedelta(seconds=5))
        answers.append(site.post("/preferences", {"address": address, "ticket": ticket}))
    assert answers[0].text == answers[1].text
    assert [str(mail["To"]) for mail in site.work()] == ["ada@example.org"]


def test_who_left_is_not_mailed_until_they_confirm_anew(site: Site) -> None:
    link = site.confirmed("ada@example.org")
    site.post(f"/u/{link}/daily")
    site.desk.clock.forward(timedelta(hours=2))
    site.join("ada@example.org")
    (mail,) = site.work()
    assert state(site, "ada@example.org") is State.PENDING
    site.post(link_in(mail, "c"))
    assert state(site, "ada@example.org") is State.CONFIRMED


def test_after_a_complaint_it_takes_an_operator_and_then_the_person(site: Site) -> None:
    stand(site, "ada@example.org", "complained")
    site.desk.clock.forward(timedelta(hours=2))
    site.join("ada@example.org")
    assert site.work() == []
    with transaction(site.newsroom.engine) as session:
        unsuppress(session, parse("ada@example.org"), now=site.desk.clock(), actor="test", note=None)
    assert state(site, "ada@example.org") is State.COMPLAINED, "the operator alone does not bring them back"
    added = people.add(site.newsroom, [("1", "ada@example.org")], "daily", evidence="a list", actor="test")
    assert added.new == 0
    site.desk.clock.forward(timedelta(hours=2))
    site.join("ada@example.org")
    (mail,) = site.work()
    site.post(link_in(mail, "c"))
    assert state(site, "ada@example.org") is State.CONFIRMED


# ---------------------------------------------------------------------------------------------- floods and robots


def test_a_flood_from_one_network_is_turned_away_and_mails_few(desk: Desk) -> None:
    with Site(desk, "\n[subscribers]\nrequests_per_network = 5\n") as site:
        ticket = site.ask("/join/daily").hidden("ticket")
        desk.clock.forward(timedelta(seconds=5))
        answers = [
            site.post("/join/daily", {"address": f"x{number}@example{number}.org", "ticket": ticket})
            for number in range(12)
        ]
        assert [answer.status for answer in answers] == [200] * 5 + [429] * 7
        assert answers[-1].headers["retry-after"] == "3600"
        assert len(site.work()) == 5
        desk.clock.forward(timedelta(hours=1, seconds=1))
        assert site.join("later@example.org").status == 200


def test_an_address_is_bothered_a_few_times_an_hour_and_nobody_sees_the_limit(desk: Desk) -> None:
    with Site(desk, "\n[subscribers]\nrequests_per_address = 2\n") as site:
        answers = [site.join("Ada@Example.ORG" if number % 2 else "ada@example.org") for number in range(5)]
        assert len({answer.text for answer in answers}) == 1
        assert {answer.status for answer in answers} == {200}
        assert len(site.work()) == 2


def test_a_domain_is_not_flooded_either(desk: Desk) -> None:
    with Site(desk, "\n[subscribers]\nrequests_per_domain = 3\n") as site:
        statuses = [site.join(f"p{number}@school.example.org").status for number in range(5)]
        assert statuses == [200, 200, 200, 429, 429]


def test_robots_are_told_from_people(site: Site) -> None:
    ticket = site.ask("/join/daily").hidden("ticket")
    quick = site.post("/join/daily", {"address": "ada@example.org", "ticket": ticket})
    assert quick.status == 422
    assert 'value="ada@example.org"' in quick.text, "what was typed is kept"
    site.desk.clock.forward(timedelta(seconds=5))
    trapped = site.post(
        "/join/daily", {"address": "ada@example.org", "ticket": ticket, "website": "https://spam.example"}
    )
    assert trapped.status == 200, "a robot learns nothing"
    stale = site.post("/join/daily", {"address": "ada@example.org", "ticket": ticket + "x"})
    assert stale.status == 422
    assert site.work() == []
    foreign = site.post("/join/daily", {"address": "ada@example.org"})
    assert (foreign.status, 'value="ada@example.org"' in foreign.text) == (200, True), "one click more"
    assert site.work() == []
    site.desk.clock.forward(timedelta(seconds=5))
    site.post("/join/daily", {"address": "ada@example.org", "ticket": foreign.hidden("ticket")})
    assert len(site.work()) == 1


@pytest.mark.parametrize(
    "typed",
    ["", "ada", "ada@", "a" * 300 + "@example.org", "ada@example.org\r\nBcc: all@example.org", "Ada <ada@example.org>",
     "ada@example.org, bob@example.org", "ada\x00@example.org", "<script>@example.org", "\u202eada@example"],
)  # fmt: skip
def test_what_is_no_address_is_refused_with_a_word(site: Site, typed: str) -> None:
    answer = site.join(typed)
    assert answer.status == 422
    assert 'role="alert"' in answer.text
    assert "<script>" not in answer.text
    assert site.work() == []


def test_bodies_are_bounded(site: Site) -> None:
    answer = site.ask("/join/daily", "POST", b"address=" + b"x" * 100_000)
    assert answer.status == 413
    many = "&".join(f"f{number}=x" for number in range(5_000)).encode()
    assert site.ask("/join/daily", "POST", many).status in {200, 422}


def test_only_a_trusted_proxy_says_where_a_visitor_is(desk: Desk) -> None:
    def origins(site: Site) -> list[str | None]:
        data = people.show(site.newsroom, "ada@example.org").data
        assert data
        return [one["ip"] for one in data["consent_log"]]

    forwarded = "6.6.6.6, 203.0.113.9, 10.0.0.7"
    with Site(desk) as site:
        ticket = site.ask("/join/daily").hidden("ticket")
        desk.clock.forward(timedelta(seconds=5))
        site.post("/join/daily", {"address": "ada@example.org", "ticket": ticket}, X_Forwarded_For=forwarded)
        site.work()
        assert origins(site) == ["127.0.0.1"]
        people.forget_address(site.newsroom, "ada@example.org", actor="test")
    desk.clock.forward(timedelta(hours=2))
    with Site(desk, '\n[web]\ntrusted_proxies = ["127.0.0.1", "10.0.0.0/8"]\n') as site:
        ticket = site.ask("/join/daily").hidden("ticket")
        desk.clock.forward(timedelta(seconds=5))
        site.post("/join/daily", {"address": "ada@example.org", "ticket": ticket}, X_Forwarded_For=forwarded)
        site.work()
        assert origins(site) == ["203.0.113.9"], "what a stranger claims behind it is not believed"


# ---------------------------------------------------------------------------------------------- links


def test_tampered_foreign_and_expired_links_say_so_and_do_nothing(site: Site) -> None:
    site.join("ada@example.org")
    (mail,) = site.work()
    path = link_in(mail, "c")
    token = path.rpartition("/")[2]
    row, expires, seal, bound = token.split(".")
    wrong = [
        f"/c/{row}.{int(expires) + 1}.{seal}.{bound}",
        f"/c/{int(row) + 1}.{expires}.{seal}.{bound}",
        f"/c/{row}.{expires}.{seal}",
        f"/c/{row}.{expires}.{seal}.{'A' * 22}",
        f"/c/{row}.{expires}.{'A' * 22}.{bound}",
        f"/c/{'9' * 30}.1.{seal}",
        f"/c/{token[:-1]}",
        "/c/x",
        f"/m/{token}",
        f"/a/{token}",
    ]
    for one in wrong:
        for answer in (site.ask(one), site.post(one)):
            assert answer.status in {404, 410}, one
            assert "ada@" not in answer.text
    assert state(site, "ada@example.org") is State.PENDING
    site.desk.clock.forward(timedelta(days=7))
    assert site.post(path).status == 410
    assert state(site, "ada@example.org") is State.PENDING


def test_an_old_confirmation_confirms_no_new_request(site: Site) -> None:
    site.join("ada@example.org")
    (mail,) = site.work()
    old = link_in(mail, "c")
    assert site.post(old).status == 200
    assert site.post(old).status == 200, "twice is once"
    person = people.show(site.newsroom, "ada@example.org").subscriber
    assert person
    site.post(f"/u/{person.link}/daily")
    assert site.post(old).status == 409
    site.desk.clock.forward(timedelta(hours=2))
    site.join("ada@example.org")  # by whoever has the forwarded confirmation
    site.work()
    assert site.post(old).status == 409
    assert state(site, "ada@example.org") is State.PENDING


def test_several_lists_are_asked_for_and_confirmed_together(desk: Desk) -> None:
    desk.configure(lambda text: text.replace('lists = ["daily"]', 'lists = ["daily", "weekly", "inside"]'))
    with Site(desk) as site:
        people.change_list(site.newsroom, "inside", public=False)
        page = site.ask("/join/daily")
        assert ("weekly" in page.text, "inside" in page.text) == (True, False)
        ticket = page.hidden("ticket")
        desk.clock.forward(timedelta(seconds=5))
        fields = {"address": "ada@example.org", "ticket": ticket, "list": ["weekly", "daily", "inside"]}
        site.post("/join/daily", fields)
        (mail,) = site.work()
        site.confirm(mail)
        standing = {slug: one for slug, one, _ in people.show(site.newsroom, "ada@example.org").subscriptions}
        assert standing == {"daily": State.CONFIRMED, "weekly": State.CONFIRMED}
        assert site.ask("/join/inside").status == 404


def test_single_opt_in_joins_at_once_but_not_who_left_before(desk: Desk) -> None:
    with Site(desk) as site:
        people.change_list(site.newsroom, "daily", opt_in=OptIn.SINGLE, welcome=True)
        site.join("ada@example.org")
        (welcome,) = site.work()
        assert (welcome["Subject"], state(site, "ada@example.org")) == ("Welcome to The Test Digest", State.CONFIRMED)
        assert welcome["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
        person = people.show(site.newsroom, "ada@example.org").subscriber
        assert person
        site.post(f"/u/{person.link}/daily")
        desk.clock.forward(timedelta(hours=2))
        site.join("ada@example.org")
        (mail,) = site.work()
        assert (mail["Subject"], state(site, "ada@example.org")) == ("Please confirm: The Test Digest", State.PENDING)


# ---------------------------------------------------------------------------------------------- rights


def test_preferences_are_saved_and_only_by_a_fresh_link(site: Site) -> None:
    link = site.confirmed("ada@example.org")
    path = site.rights(link)
    saved = site.post(
        path,
        {"act": "save", "list": "daily", "language": "de", "zone": "Europe/Berlin", "topic": "Health", "pause": "7"},
    )
    assert (saved.status, saved.headers["content-language"]) == (200, "de")
    person = people.show(site.newsroom, "ada@example.org").subscriber
    assert person
    assert (person.language, person.zone, person.topics) == ("de", "Europe/Berlin", ["Health"])
    assert person.paused_until == site.desk.clock() + timedelta(days=7)
    assert site.post(path, {"act": "save", "list": "daily", "zone": "Mars/Olympus"}).status == 422
    site.post(path, {"act": "save", "list": "daily", "resume": "1", "topic": ["Harbour", "Health"]})
    person = people.show(site.newsroom, "ada@example.org").subscriber
    assert person
    assert (person.language, person.zone, person.topics, person.paused_until) == (None, None, None, None)
    site.post(path, {"act": "save"})
    assert state(site, "ada@example.org") is State.UNSUBSCRIBED
    site.post(path, {"act": "save", "list": "daily"})
    assert state(site, "ada@example.org") is State.CONFIRMED, "a link mailed to the address is a confirmation"
    site.desk.clock.forward(timedelta(hours=1))
    assert site.ask(path).status == 410


def test_a_new_address_is_confirmed_where_it_is_and_the_old_one_told(site: Site) -> None:
    link = site.confirmed("ada@example.org")
    path = site.rights(link)
    site.post(path, {"act": "address", "address": "ada.new@example.net"})
    (mail,) = site.work()
    assert mail["To"] == "ada.new@example.net"
    change = link_in(mail, "a")
    assert "ada.new@" not in site.ask(change).text
    assert people.show(site.newsroom, "ada.new@example.net").subscriber is None
    assert site.post(change).status == 200
    assert [str(mail["To"]) for mail in site.work()] == ["ada@example.org"]
    assert state(site, "ada.new@example.net") is State.CONFIRMED
    assert people.show(site.newsroom, "ada@example.org").subscriber is None
    assert site.ask(path).status == 410, "the link that was mailed to the old address opens nothing any more"
    assert site.post(change).status == 410
    assert site.ask(f"/u/{link}/daily").status == 200, "old mails can still be left by"


def test_an_address_that_is_on_the_lists_by_itself_is_not_taken_over(site: Site) -> None:
    link = site.confirmed("ada@example.org")
    site.confirmed("bob@example.org")
    answers = []
    for address in ("bob@example.org", "nobody@example.org"):
        answers.append(site.post(site.rights(link), {"act": "address", "address": address}).text)
        mails = site.work()
        site.desk.clock.forward(timedelta(hours=2))
        if address == "bob@example.org":
            assert site.post(link_in(mails[0], "a")).status == 409
    assert answers[0] == answers[1]
    assert state(site, "bob@example.org") is State.CONFIRMED


def test_all_data_held_can_be_taken_away(site: Site) -> None:
    link = site.confirmed("ada@example.org")
    digest(site)
    answer = site.post(site.rights(link), {"act": "data"})
    assert answer.headers["content-type"] == "application/json"
    assert "attachment" in answer.headers["content-disposition"]
    for told in (
        '"ada@example.org"',
        '"confirmed"',
        '"By asking, you agree',
        '"127.0.0.1"',
        '"2026-11-23T07:00"',
        link,
    ):
        assert told in answer.text


def test_who_is_erased_leaves_no_trace_but_a_mark_and_is_never_imported_again(site: Site, desk: Desk) -> None:
    link = site.confirmed("ada.lovelace@example.org")
    digest(site)
    before = site.newsroom.edition("daily").tally
    rights = site.rights(link)
    site.post(rights, {"act": "address", "address": "countess@example.net"})
    assert site.post(rights, {"act": "erase"}).status == 422
    assert site.post(rights, {"act": "erase", "sure": "1"}).status == 200
    site.work()
    said = repr(everything(desk)).casefold()
    assert "lovelace" not in said
    assert "countess" not in said
    assert "127.0.0.1" not in said
    assert site.newsroom.edition("daily").tally == before, "what was sent stays counted"
    added = people.add(site.newsroom, [("1", "Ada.Lovelace@EXAMPLE.org")], "daily", evidence="old file", actor="test")
    assert (added.new, "erased" in added.refused[0][1]) == (0, True)
    assert site.ask(f"/u/{link}/daily").status == 200, "the link in old mails still answers"
    assert site.post(f"/u/{link}/daily").status == 200
    desk.clock.forward(timedelta(hours=2))
    site.join("ada.lovelace@example.org")
    (mail,) = site.work()
    site.post(link_in(mail, "c"))
    assert state(site, "ada.lovelace@example.org") is State.CONFIRMED, "by their own double opt-in they come back"
    added = people.add(site.newsroom, [("1", "ada.lovelace@example.org")], "daily", evidence="old file", actor="test")
    assert (added.new, added.before) == (0, 1)


def test_with_another_erasure_key_nobody_is_added(site: Site, desk: Desk) -> None:
    site.confirmed("ada@example.org")
    people.forget_address(site.newsroom, "ada@example.org", actor="test")
    other = {**SECRETS, "NEWSLETTER_ERASURE_KEY": "a key that was made anew after the old one was lost"}
    from subscribers import ErasureKeyError

    for environ in (other, {"NEWSLETTER_SECRET": SECRETS["NEWSLETTER_SECRET"]}):
        with Newsroom.open(Settings.load(desk.file, environ), desk.clock) as newsroom, pytest.raises(ErasureKeyError):
            people.add(newsroom, [("1", "bob@example.org")], "daily", evidence="a list", actor="test")


OTHER_KEY = {**SECRETS, "NEWSLETTER_ERASURE_KEY": "a key that was made anew after the old one was lost"}


@pytest.mark.parametrize("left", [OTHER_KEY, {"NEWSLETTER_SECRET": SECRETS["NEWSLETTER_SECRET"]}, {}])
def test_whatever_key_was_lost_people_can_leave_and_read(
    site: Site, desk: Desk, left: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    site.confirmed("erased@example.org")
    digest(site)
    links = [site.confirmed(f"{name}@example.org") for name in ("ada", "bob", "cyd")]
    people.forget_address(site.newsroom, "erased@example.org", actor="test")
    caplog.clear()
    with Site(desk, environ=left, seen=site.seen) as bare:
        assert [one.message for one in caplog.records if "NEWSLETTER_ERASURE_KEY: people were erased" in one.message]
        for path in ("/health", "/", "/privacy", "/e/daily", "/e/daily/2026-11-23-0700", "/e/daily/feed.atom"):
            assert bare.ask(path).status == 200, path
        for link in links:
            assert bare.ask(f"/u/{link}/daily").status == 200
        assert bare.post(f"/u/{links[0]}/daily", {"List-Unsubscribe": "One-Click"}).status == 200
        assert bare.choose(links[1], {"choice": "all"}).status == 200
        assert bare.choose(links[2], {"choice": "pause", "days": "7"}).status == 200
        standing = [state(bare, f"{name}@example.org") for name in ("ada", "bob", "cyd")]
        assert standing == [State.UNSUBSCRIBED, State.UNSUBSCRIBED, State.CONFIRMED]
        if left:  # the link to preferences, and leaving by it, take no erasure key
            rights = bare.rights(links[2])
            assert bare.ask(rights).status == 200
            assert bare.post(rights, {"act": "data"}).status == 200
            assert bare.post(rights, {"act": "save"}).status == 200
            assert state(bare, "cyd@example.org") is State.UNSUBSCRIBED


@pytest.mark.parametrize("left", [OTHER_KEY, {"NEWSLETTER_SECRET": SECRETS["NEWSLETTER_SECRET"]}])
def test_without_the_key_nobody_is_mailed_who_may_have_been_erased(
    site: Site, desk: Desk, left: dict[str, str]
) -> None:
    site.confirmed("erased@example.org")
    people.forget_address(site.newsroom, "erased@example.org", actor="test")
    link = site.confirmed("ada@example.org")
    rights = site.rights(link)
    site.post(rights, {"act": "address", "address": "erased@example.org"})
    (moving,) = site.work()
    site.join("asked@example.org")
    (asked,) = site.work()
    site.join("waits@example.org")  # and is not settled before the key is lost
    with Site(desk, environ=left, seen=site.seen) as bare:
        before = everything(desk)
        refused = [
            bare.ask("/join/daily"),
            bare.ask("/join/daily/form"),
            bare.post("/join/daily", {"address": "new@example.org", "ticket": "x", "list": "daily"}),
            bare.ask(link_in(asked, "c")),
            bare.post(link_in(asked, "c")),
            bare.ask(link_in(moving, "a")),
            bare.post(link_in(moving, "a")),
            bare.post(rights, {"act": "address", "address": "other@example.org"}),
            bare.post(rights, {"act": "erase", "sure": "1"}),
        ]
        assert [(one.status, one.heading) for one in refused] == [(503, "This is not possible at the moment")] * 9
        assert all("script" not in one.text and "erased@" not in one.text for one in refused)
        assert bare.work() == []
        assert everything(desk) == before
        assert people.stats(bare.newsroom).requests_waiting == 1
        bare.post(f"/u/{link}/daily")
        joining = bare.post(rights, {"act": "save", "list": "daily"})
        assert (joining.status, state(bare, "ada@example.org")) == (503, State.UNSUBSCRIBED)
    (mail,) = site.work()
    assert mail["To"] == "waits@example.org", "with the key, what waited is taken up"
    site.join("late@example.org")
    with Site(desk, environ=left, seen=site.seen) as bare:
        desk.clock.forward(timedelta(days=8))
        bare.work()
        assert people.stats(bare.newsroom).requests_waiting == 0, "and it does not wait for ever"


def test_without_a_key_nobody_can_be_erased_and_all_else_goes_on_until_somebody_was(desk: Desk) -> None:
    with Site(desk, environ={"NEWSLETTER_SECRET": SECRETS["NEWSLETTER_SECRET"]}) as site:
        link = site.confirmed("ada@example.org")
        assert site.post(site.rights(link), {"act": "erase", "sure": "1"}).status == 503
        assert state(site, "ada@example.org") is State.CONFIRMED


def test_the_pages_want_the_root_of_a_host(desk: Desk) -> None:
    desk.configure(lambda text: text.replace('org"\npostal', 'org/mail"\npostal'))
    with (
        Newsroom.open(Settings.load(desk.file, SECRETS), desk.clock) as newsroom,
        pytest.raises(ConfigurationError, match="without a path"),
    ):
        create_app(newsroom, work=False)
    said = {finding.what: finding.ok for finding in examine(newsroom)}
    assert [ok for what, ok in said.items() if what.startswith("site.url has a path, /mail")] == [None]


def test_who_joins_anew_by_their_preferences_is_not_erased_any_more(site: Site, desk: Desk) -> None:
    site.confirmed("ada@example.org")
    people.forget_address(site.newsroom, "ada@example.org", actor="test")
    site.desk.clock.forward(timedelta(hours=2))
    site.join("ada@example.org")
    site.work()
    person = people.show(site.newsroom, "ada@example.org").subscriber
    assert person is not None
    site.post(site.rights(person.link), {"act": "save", "list": "daily"})
    assert (state(site, "ada@example.org"), everything(desk)["suppression"]) == (State.CONFIRMED, [])


# ---------------------------------------------------------------------------------------------- the archive


def test_the_archive_shows_editions_without_personal_parts(site: Site) -> None:
    link = site.confirmed("ada@example.org")
    copy = digest(site)
    view = re.search(rf"{SITE}(/e/daily/[0-9-]+)", copy)
    assert view
    page = site.ask(view[1])
    assert page.status == 200
    assert "Harbour makes the news" in page.text
    assert all(told not in page.text for told in ("ada@", link, "[["))
    assert "script" not in page.headers["content-security-policy"]
    index = site.ask("/e/daily")
    assert view[1] in index.text
    feed = site.ask("/e/daily/feed.atom")
    assert feed.headers["content-type"].startswith("application/atom+xml")
    assert SITE + view[1] in feed.text
    assert "x-robots-tag" not in index.headers
    people.change_list(site.newsroom, "daily", public=False)
    assert site.ask("/e/daily").headers["x-robots-tag"] == "noindex"
    assert site.ask(view[1]).headers["x-robots-tag"] == "noindex"
    assert [site.ask(path).status for path in ("/e/other", "/e/daily/2020-01-01-0700", "/e/daily/..%2f..")] == [404] * 3


# ---------------------------------------------------------------------------------------------- languages


def test_pages_speak_the_visitors_language(site: Site) -> None:
    assert 'lang="de"' in site.ask("/join/daily", Accept_Language="de-AT,de;q=0.9").text
    arabic = site.ask("/join/daily?lang=ar")
    assert '<html lang="ar" dir="rtl">' in arabic.text
    ticket = arabic.hidden("ticket")
    site.desk.clock.forward(timedelta(seconds=5))
    answer: Answer = site.post("/join/daily?lang=ar", {"address": "ada@example.org", "ticket": ticket})
    assert 'dir="rtl"' in answer.text
    (mail,) = site.work()
    html = mail.get_body(("html",))
    assert html
    assert 'lang="ar"' in html.get_content(), "the mail speaks it, too"
    assert urlsplit(link_in(mail, "c")).path.isascii()


def test_nothing_of_a_visitor_is_logged(site: Site, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    del tmp_path
    site.confirmed("ada@example.org")
    site.ask("/c/broken")
    assert all("ada@" not in record.getMessage() and "/c/" not in record.getMessage() for record in caplog.records)


# ---------------------------------------------------------------------------------------------- what a review found


@pytest.mark.parametrize("kind", ["c", "m", "a"])
def test_a_forged_link_tells_nothing_about_any_row(site: Site, kind: str) -> None:
    site.join("ada@example.org")
    site.work()
    answers = {
        (answer.status, re.sub(r"/[cma]/[^\"?]*", "", answer.text))
        for row in (1, 2, 50)
        for answer in [site.ask(f"/{kind}/{row}.999999999999.{'A' * 22}.{'A' * 22}")]
    }
    assert len(answers) == 1
    assert next(iter(answers))[0] == 404


def test_whoever_leaves_while_bounced_is_not_brought_back_when_that_is_lifted(site: Site) -> None:
    link = site.confirmed("ada@example.org")
    bar(site, "ada@example.org", Reason.HARD_BOUNCE)
    site.post(f"/u/{link}/daily", {"List-Unsubscribe": "One-Click"})
    people.unsuppress(site.newsroom, "ada@example.org", actor="test", note=None)
    assert state(site, "ada@example.org") is State.UNSUBSCRIBED


def test_a_bounce_that_is_lifted_leaves_all_as_it_was(site: Site) -> None:
    site.confirmed("ada@example.org")
    bar(site, "ada@example.org", Reason.HARD_BOUNCE)
    assert state(site, "ada@example.org") is State.BOUNCED
    people.unsuppress(site.newsroom, "ada@example.org", actor="test", note=None)
    assert state(site, "ada@example.org") is State.CONFIRMED


def bar(site: Site, address: str, reason: Reason) -> None:
    with transaction(site.newsroom.engine) as session:
        suppress(session, parse(address), reason, now=site.desk.clock(), actor="test", note=None)


def test_no_undoing_comes_after_a_complaint_or_an_operators_word(site: Site) -> None:
    link = site.confirmed("ada@example.org")
    left = site.choose(link, {"choice": "this"})
    bar(site, "ada@example.org", Reason.COMPLAINT)
    people.unsuppress(site.newsroom, "ada@example.org", actor="test", note=None)
    site.choose(link, {"choice": "undo", "undo": left.hidden("undo")})
    assert state(site, "ada@example.org") is State.UNSUBSCRIBED
    other = site.confirmed("bob@example.org")
    left = site.choose(other, {"choice": "this"})
    people.leave(site.newsroom, "bob@example.org", None, actor="test")  # asked by phone, too
    site.choose(other, {"choice": "undo", "undo": left.hidden("undo")})
    assert state(site, "bob@example.org") is State.UNSUBSCRIBED


@pytest.mark.parametrize("no", ["complaint", "complaint, then this list", "everything"])
def test_who_objected_joins_no_list_without_a_link(desk: Desk, no: str) -> None:
    desk.configure(lambda text: text + OTHER)
    with Site(desk) as site:
        people.change_list(site.newsroom, "weekly", opt_in=OptIn.SINGLE)
        link = site.confirmed("ada@example.org")
        if no.startswith("complaint"):
            bar(site, "ada@example.org", Reason.COMPLAINT)
            people.unsuppress(site.newsroom, "ada@example.org", actor="test", note=None)
        if no != "complaint":
            site.choose(link, {"choice": "all" if no == "everything" else "this"})
        for slug in ("daily", "weekly"):
            for evidence in ("a file", None):
                added = people.add(site.newsroom, [("1", "ada@example.org")], slug, evidence=evidence, actor="test")
                assert (added.new, added.links, len(added.refused)) == (0, (), 1)
            assert people.invite(site.newsroom, slug, limit=None, actor="test") == (0, 0)
        assert site.work() == []
        desk.clock.forward(timedelta(hours=2))
        site.join("ada@example.org", "/join/weekly")
        (mail,) = site.work()
        assert state(site, "ada@example.org", "weekly") is State.PENDING
        site.confirm(mail)
        assert state(site, "ada@example.org", "weekly") is State.CONFIRMED


OTHER = """
[newsletters.week]
title = "The Week"
from = "The Week <week@news.example.org>"
lists = ["weekly"]
"""


def test_a_suppression_is_not_shed_by_moving_or_by_being_erased(site: Site) -> None:
    link = site.confirmed("ada@example.org")
    rights = site.rights(link)
    site.post(rights, {"act": "address", "address": "new@example.org"})
    (mail,) = site.work()
    people.suppress(site.newsroom, "ada@example.org", actor="test", note=None)
    assert site.post(link_in(mail, "a")).status == 409
    people.forget_address(site.newsroom, "ada@example.org", actor="test")
    site.desk.clock.forward(timedelta(hours=2))
    site.join("ada@example.org")
    assert site.work() == [], "the operator's word outlives the erasure"
    assert people.unsuppress(site.newsroom, "ada@example.org", actor="test", note=None) is Reason.ERASED
    site.desk.clock.forward(timedelta(days=1))
    site.join("ada@example.org")
    assert len(site.work()) == 1


def test_forgetting_an_address_on_no_list_takes_its_rows_too(site: Site, desk: Desk) -> None:
    people.suppress(site.newsroom, "lovelace@example.org", actor="test", note="Ms. Lovelace called")
    site.join("lovelace@example.org")
    people.forget_address(site.newsroom, "lovelace@example.org", actor="test")
    kept = everything(desk)
    assert all("lovelace" not in repr(kept[table]).casefold() for table in ("suppression", "request", "notice"))


def test_forgetting_an_address_takes_what_others_and_the_provider_had_of_it(site: Site, desk: Desk) -> None:
    link = site.confirmed("ada@example.org")
    for known in (False, True):
        rights = site.rights(link)
        site.post(rights, {"act": "address", "address": "Lovelace@example.org"})
        with transaction(site.newsroom.engine) as session:
            session.add(
                EventRecord(
                    provider="sendgrid",
                    event_id=f"e{known}",
                    said="bounce",
                    at=desk.clock(),
                    received_at=desk.clock(),
                    kind=EventKind.BOUNCED,
                    address="LOVELACE@example.org",
                )
            )
        if known:
            desk.clock.forward(timedelta(hours=2))
            site.join("lovelace@example.org")
        people.forget_address(site.newsroom, "lovelace@example.org", actor="test")
        assert "lovelace" not in repr(everything(desk)).casefold()
        assert all("lovelace" not in str(mail["To"]).casefold() for mail in site.work())


def test_nobody_is_kept_from_their_link_by_others_who_type_their_address(site: Site) -> None:
    link = site.confirmed("ada@example.org")
    for _ in range(20):
        site.join("ada@example.org")
        site.desk.clock.forward(timedelta(minutes=10))
    site.work()
    for _ in range(10):
        ticket = site.ask("/preferences").hidden("ticket")
        site.desk.clock.forward(timedelta(seconds=5))
        site.post("/preferences", {"address": "ada@example.org", "ticket": ticket})
    site.work()
    assert site.rights(link), "by one's own link there is always one"


def test_a_stranger_is_mailed_a_few_confirmations_and_no_more(site: Site) -> None:
    for number in range(40):
        site.join("ada@example.org" if number % 2 else f"ada+{number}@example.org")
        site.desk.clock.forward(timedelta(hours=2))
    mails = site.work()
    assert len([mail for mail in mails if mail["To"] == "ada@example.org"]) <= 4
    assert len(mails) <= 4 * 9, "nine a day to one mailbox, however it is tagged"


def test_whoever_asks_for_one_list_too_often_still_joins_another(desk: Desk) -> None:
    both = OTHER.replace('["weekly"]', '["daily", "weekly"]')
    desk.configure(lambda text: text + both)
    with Site(desk) as site:
        told = []
        for path in ["/join/daily"] * 4 + ["/join/week"] * 4:
            site.join("ada@example.org", path)
            told.append(len(site.work()))
            desk.clock.forward(timedelta(hours=3))
        assert told == [1, 1, 1, 0, 1, 1, 1, 0], "three for each list, and no more"


def test_an_address_that_only_looks_like_another_takes_nobodys_place(site: Site) -> None:
    assert site.join("\ufb01ona@example.org").status == 422
    site.join("stra\u00dfe@example.org")
    site.join("strasse@example.org")
    assert len(site.work()) == 2, "two mailboxes are two people"


def test_a_page_confirms_what_it_showed_and_nothing_that_came_in_since(desk: Desk) -> None:
    desk.configure(lambda text: text + OTHER)
    with Site(desk) as site:
        site.join("ada@example.org")
        (mail,) = site.work()
        shown = site.ask(link_in(mail, "c"))
        site.join("ada@example.org", "/join/week")  # by a third party, while the page is open
        site.work()
        action = re.search(r'action="(/c/[^"]*)"', shown.text)
        assert action
        site.post(action[1].replace("&amp;", "&"))
        assert state(site, "ada@example.org") is State.CONFIRMED
        assert state(site, "ada@example.org", "weekly") is State.PENDING


def test_preferences_bring_nobody_back_to_a_private_list_and_end_no_request(desk: Desk) -> None:
    desk.configure(lambda text: text + OTHER)
    with Site(desk) as site:
        link = site.confirmed("ada@example.org")
        people.change_list(site.newsroom, "inside", new=True, public=False)
        people.add(site.newsroom, [("1", "ada@example.org")], "inside", evidence="staff", actor="test")
        people.leave(site.newsroom, "ada@example.org", "inside", actor="test")
        site.join("ada@example.org", "/join/week")
        site.work()
        rights = site.rights(link)
        assert "inside" not in site.ask(rights).text
        site.post(rights, {"act": "save", "list": ["daily", "inside"]})
        assert state(site, "ada@example.org", "inside") is State.UNSUBSCRIBED
        assert state(site, "ada@example.org", "weekly") is State.PENDING


def test_saving_something_else_keeps_topics_that_are_no_longer_offered(site: Site, desk: Desk) -> None:
    link = site.confirmed("ada@example.org")
    site.choose(link, {"choice": "topics", "topic": "Health"})
    rights = site.rights(link)
    text = desk.file.read_text()
    site.__exit__(None, None, None)
    desk.file.write_text(text.replace('["Harbour", "Health"]', '["Harbour", "Energy"]'))
    site.__enter__()
    for ticked, wanted in (([], ["Health"]), (["Energy"], ["Energy", "Health"])):
        site.post(rights, {"act": "save", "list": "daily", "topic": ticked, "language": "de"})
        person = people.show(site.newsroom, "ada@example.org").subscriber
        assert person
        assert person.topics == wanted


def test_a_form_of_the_page_that_cannot_be_read_is_no_leaving(site: Site) -> None:
    link = site.confirmed("ada@example.org")
    odd = site.ask(f"/u/{link}/daily?page", "POST", b"\xff\x00", Content_Type="multipart/form-data; boundary=x")
    assert (odd.status, state(site, "ada@example.org")) == (422, State.CONFIRMED)
    large = site.ask(f"/u/{link}/daily", "POST", b"x" * 100_000)
    assert (large.status, state(site, "ada@example.org")) == (200, State.UNSUBSCRIBED)


def test_an_odd_charset_is_no_fault_of_ours(site: Site) -> None:
    body = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="address"\r\n'
        f"Content-Type: text/plain; charset=raw_unicode_escape\r\n\r\n\\ud800@example.org\r\n--{BOUNDARY}--\r\n"
    ).encode()
    answer = site.ask("/join/daily", "POST", body, Content_Type=f"multipart/form-data; boundary={BOUNDARY}")
    assert answer.status in {200, 422}


def test_no_page_leads_to_a_strangers_site(site: Site) -> None:
    answer = site.ask("//evil.example/x")
    assert "//evil.example" not in answer.text.replace(f"http://127.0.0.1:{site.port}", "")
    slash = site.ask("/preferences/", Host="evil.example")
    assert (slash.status, "location" in slash.headers) == (404, False)


def test_an_old_link_of_an_erased_person_writes_nothing(site: Site, desk: Desk) -> None:
    link = site.confirmed("ada@example.org")
    people.forget_address(site.newsroom, "ada@example.org", actor="test")
    before = everything(desk)
    for fields in ({"choice": "pause", "days": "7"}, {"choice": "topics", "topic": "Health"}, {"choice": "all"}):
        assert site.choose(link, fields).status == 200
    assert site.post(f"/u/{link}/daily").status == 200
    assert everything(desk) == before


def test_what_breaks_is_a_guarded_page_and_what_is_busy_says_when_to_come_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = site.confirmed("ada@example.org")
    busy = OperationalError("x", None, sqlite3.OperationalError("database is locked"))
    for error, status in ((RuntimeError("a bug"), 500), (busy, 503)):
        with monkeypatch.context() as broken:
            broken.setattr(subscribers, "by_link", lambda *_, error=error: (_ for _ in ()).throw(error))
            answer = site.post(f"/u/{link}/daily")
        assert answer.status == status
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert ("Retry-After" in answer.headers or "retry-after" in answer.headers) is (status == 503)
        assert state(site, "ada@example.org") is State.CONFIRMED
