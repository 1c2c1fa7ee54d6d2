"""The public archive: nothing personal, every brief whole, what went out and nothing else; and an Atom feed of it.

That nothing of a Recipient (name, address, token) can stand in an archive form needs no search over random ones: it is
compiled before there are recipients and filled with `Sender.archive_values`, which takes none.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from lxml import etree
from sqlalchemy import delete, update
from sqlmodel import Session, col, select

from newsletter import archive, formats, markup, store
from newsletter import compile as compiler
from newsletter.archive import Filed
from newsletter.compile import CLIP_BYTES, Compiled, compile_message
from newsletter.edition import FIELDS, Latest, Message
from newsletter.errors import ConfigurationError, EditionError
from newsletter.models import Batch, EditionRecord, EditionState, MessageRecord, RevisionRecord
from newsletter.newsroom import Newsroom
from newsletter.settings import Settings
from subscribers import MailingList, reading, transaction
from tests.chromium import chromium
from tests.conftest import NOW, Desk
from tests.test_compile import GOLDEN, SENDER, brief, compiled, contents, examples

VIEW = "https://news.example.org/e/daily/2026-11-23-0700"
ATOM = "{http://www.w3.org/2005/Atom}"


# ------------------------------------------------------------------------------------------ the compiled form


def test_golden_archive_form() -> None:
    made = compiled(examples()[:2]).archive
    for ending, part in (("html", made.html), ("txt", made.text)):
        file = GOLDEN / f"examples-two.archive.{ending}"
        if os.environ.get("UPDATE_GOLDEN"):
            file.write_text(part, encoding="utf-8", newline="")
        assert part == file.read_bytes().decode(), f"{file} differs; `make golden` rewrites it, read the difference"


def test_the_archive_form_holds_nothing_personal_and_no_field() -> None:
    made = compiled(examples())
    assert made.remarks == ()
    page = made.archive
    elements, shown = markup.read_html(page.html)
    targets = [value for element in elements for key in ("href", "src") if (value := element.attributes.get(key))]
    for part in (shown, page.text, page.subject, *targets):
        assert "@" not in part, "an address, if not that of a reader"
        assert "[[" not in part
        assert "This copy went to" not in part
        assert "View in browser" not in part
        assert "forwarded" not in part
        assert not re.search(r"example\.org/[up]/", part), "a link with a token"
        assert "d4f0a1" not in part, "the nonce"
    assert page.html.startswith("<!DOCTYPE html>")
    assert page.html.rstrip().endswith("</html>")
    assert page.subject == made.message.subject


def test_the_archive_form_keeps_what_a_reader_of_it_needs() -> None:
    page = compiled(examples()).archive
    links = {e.attributes["href"] for e in markup.read_html(page.html)[0] if e.name == "a" and "href" in e.attributes}
    for address in (
        "https://news.example.org/join/daily",
        "https://news.example.org/leave/daily",
        "https://news.example.org/privacy",
    ):
        assert address in links
        assert f"\n{address}\n" in page.text
    for part in (markup.read_html(page.html)[1], page.text):
        assert "Get The Test Digest yourself" in " ".join(part.split())
        assert "Test Desk, 1 Test Street, 10115 Test" in part
        assert "Unsubscribe" in part


def test_the_archive_page_runs_and_loads_nothing_under_a_strict_policy() -> None:
    """What a Content-Security-Policy forbids would break in the browser: it must not be there in the first place."""
    page = compiled(examples()).archive
    elements, _ = markup.read_html(page.html)
    active = {"script", "iframe", "object", "embed", "form", "input", "button", "base", "link", "frame", "video", "svg"}
    assert not [element for element in elements if element.name in active]
    for element in elements:
        assert not [key for key in element.attributes if key.startswith("on")]
        assert element.attributes.get("http-equiv", "") in {"", "X-UA-Compatible", "Content-Type"}
        for key in ("href", "src"):
            assert re.match(r"https://|#b\d+\Z", element.attributes.get(key) or "#b1")
    assert "@import" not in page.html
    assert "url(" not in page.html
    assert "data-premailer" not in page.html


def test_each_heading_can_be_led_to() -> None:
    elements, _ = markup.read_html(compiled(examples()).archive.html)
    assert [e.attributes.get("id") for e in elements if e.name == "h2" and "id" in e.attributes] == [
        f"b{number}" for number in range(1, 9)
    ]


def test_a_link_preview_gets_a_title_and_a_description_and_a_mail_carries_none() -> None:
    made = compiled([brief(headline='Quotes "and" <tags> é', facts=[{"text": "What it says."}])])
    found = {
        element.attributes.get("name") or element.attributes.get("property"): element.attributes.get("content")
        for element in markup.read_html(made.archive.html)[0]
        if element.name == "meta"
    }
    assert found["description"] == found["og:description"] == "What it says."
    assert found["og:title"] == 'The Test Digest: Quotes "and" <tags> é'
    assert "og:" not in made.message.html


def _long(number: int, **more: object) -> dict[str, object]:
    facts = [{"text": f"Fact {number}.{place} " + "word " * 300} for place in range(6)]
    views = [{"label": "Pro-x narrative", "text": f"View {number} " + "word " * 1500}]
    return {"headline": f"Long {number}", "facts": facts, "narratives": views, **more}


def test_briefs_that_the_mail_shortened_are_whole_in_the_archive_and_read_on_leads_there() -> None:
    made = compiled([brief(**_long(number)) for number in range(1, 9)])
    assert made.shortened
    assert made.html_bytes <= CLIP_BYTES < made.archive.html_bytes
    _, shown = markup.read_html(made.archive.html)
    for number in range(1, 9):
        assert f"Fact {number}.5" in shown
        assert f"View {number} word" in shown
        assert f"Fact {number}.5" in made.archive.text
    assert "Read on" not in shown
    assert "Read on" not in made.archive.text
    shortened = [
        number for number in range(1, 9) if f"View {number} word" not in markup.read_html(made.message.html)[1]
    ]
    assert len(shortened) == made.shortened
    for number in shortened:
        assert f'href="{VIEW}#b{number}"' in made.message.html
        assert f"Read on:\n{VIEW}#b{number}\n" in made.message.text


def test_full_briefs_cuts_the_mail_and_not_the_archive() -> None:
    made = compile_message(replace(contents([brief(**_long(1)), brief(**_long(2))]), cut=frozenset({1})), SENDER)
    assert "View 2 word" not in markup.read_html(made.message.html)[1]
    assert "View 2 word" in markup.read_html(made.archive.html)[1]


# ------------------------------------------------------------------------------------------ templates of one's own

BODY = """\
<mjml lang="de"><mj-body><mj-section><mj-column><mj-text>
<p>Dear {{ fields.name }}, {{ fields.address }}</p>
{% for it in briefs %}<h2 id="b{{ loop.index }}">{{ it.headline }}</h2>{% endfor %}
<p><a href="{{ fields.leave_url }}">Leave</a> <a href="{{ fields.preferences_url }}">Choose</a> {{ postal_address }}</p>
EXTRA
</mj-text></mj-column></mj-section></mj-body></mjml>
"""
TEXT = "Dear {{ fields.name }}, {{ fields.address }}\n{{ fields.leave_url }}\n{{ postal_address }}\nEXTRA\n"


def own(folder: Path, html: str = "", text: str = "") -> Compiled:
    """An edition of templates that know nothing of the archive, but for what is added."""
    (folder / "plain").mkdir()
    (folder / "plain" / "subject.txt.j2").write_text("A subject")
    (folder / "plain" / "body.mjml.j2").write_text(BODY.replace("EXTRA", html))
    (folder / "plain" / "body.txt.j2").write_text(TEXT.replace("EXTRA", text))
    return compiled([brief()], folder, template="plain")


def assert_harmless(page: Message) -> None:
    _, shown = markup.read_html(page.html)
    for part in (shown, page.text):
        assert "Dear reader, the address of its subscriber" in part
        assert "d4f0a1" not in part
    assert 'href="https://news.example.org/leave/daily"' in page.html
    assert 'href="https://news.example.org/preferences"' in page.html
    assert "\nhttps://news.example.org/leave/daily\n" in page.text
    assert list(page.segments(page.html)) == [page.html]
    assert list(page.segments(page.text)) == [page.text]


def test_a_template_that_knows_nothing_of_the_archive_has_an_archive_form(tmp_path: Path) -> None:
    made = own(tmp_path)
    assert made.remarks == ()
    assert_harmless(made.archive)
    assert "style=" in made.archive.html


def test_a_field_in_the_archive_form_is_text_like_any_other(tmp_path: Path) -> None:
    extra = "{% if archive %}{{ fields.name|upper ~ ' & co' }}{% endif %}"
    made = own(tmp_path, extra, extra)
    assert made.remarks == ()
    assert "READER &amp; co" in made.archive.html
    assert "READER & co" in made.archive.text


@pytest.mark.parametrize(
    ("html", "text", "said"),
    [
        ("{% if archive %}\n{{ nonsense }}{% endif %}", "", "plain/body.mjml.j2:6: 'nonsense' is undefined"),
        ("", "{% if archive %}{{ 1 // 0 }}{% endif %}", "plain/body.txt.j2:4: "),
        ("{% if archive %}{{ fields.phone }}{% endif %}", "", "there is no field “phone”"),
        ("{% if archive %}<script>1</script>{% endif %}", "", "plain/body.mjml.j2:5: <script> has no place in a mail"),
        ("{% if archive %}<p>a < b</p>{% endif %}", "", "a bare “<”"),
        ("{% if archive %}[[{{ fields._nonce }}.h.name]]{% endif %}", "", "body.mjml.j2: leaves a field unfilled"),
        ("", "{% if archive %}[[{{ fields._nonce }}.t.name]]{% endif %}", "body.txt.j2: leaves a field unfilled"),
    ],
)
def test_a_fault_of_the_archive_form_alone_stops_nothing_and_the_mail_stands_in(
    tmp_path: Path, html: str, text: str, said: str
) -> None:
    made = own(tmp_path, html, text)
    (remark,) = made.remarks
    assert remark.startswith("the archive shows this edition as the mail has it")
    assert said in remark
    assert_harmless(made.archive)
    assert made.archive.html == made.message.fill(made.message.html, SENDER.archive_values())


def test_the_archive_form_needs_no_way_to_leave_and_no_postal_address(tmp_path: Path) -> None:
    shutil.copytree(compiler.template_folder() / "_base", tmp_path / "_base")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "subject.txt.j2").write_text("A subject")
    page = "<mjml><mj-body><mj-section><mj-column><mj-text>Bare</mj-text></mj-column></mj-section></mj-body></mjml>"
    for name, mail in (("body.mjml.j2", BODY), ("body.txt.j2", TEXT)):
        other = page if name == "body.mjml.j2" else "Bare"
        (tmp_path / "bare" / name).write_text(
            f"{{% if archive %}}{other}{{% else %}}{mail.replace('EXTRA', '')}{{% endif %}}"
        )
    made = compiled([brief()], tmp_path, template="bare")
    assert made.remarks == ()
    assert markup.read_html(made.archive.html)[1].endswith("Bare")
    assert made.archive.text == "Bare\n"


def test_every_field_has_a_text_for_the_archive() -> None:
    assert set(SENDER.archive_values()) == set(FIELDS)


# ------------------------------------------------------------------------------------------ which editions are public


def send(desk: Desk, newsroom: Newsroom, days: int, slugs: list[str] | None = None) -> None:
    """One edition a day, of one brief each, or of those given."""
    for day in range(days):
        for slug in slugs or [f"story-{day}"]:
            desk.brief(slug)
        newsroom.send("daily", consent=True)
        desk.clock.forward(timedelta(days=1))


def editions(newsroom: Newsroom, before: str | None = None, limit: int = 50) -> list[Filed]:
    with reading(newsroom.engine) as session:
        return archive.editions_of(session, newsroom.settings, "daily", before=before, limit=limit)


def page(newsroom: Newsroom, stamp: str, newsletter: str = "daily") -> archive.Page | None:
    with reading(newsroom.engine) as session:
        return archive.edition_page(session, newsroom.settings, newsletter, stamp)


def shown(newsroom: Newsroom, stamp: str = "2026-11-23-0700") -> archive.Page:
    found = page(newsroom, stamp)
    assert found is not None
    return found


@pytest.fixture
def newsroom(desk: Desk) -> Newsroom:
    """With three people on its list."""
    opened = desk.open()
    desk.people(opened, 3)
    return opened


def test_an_edition_that_went_out_stands_in_the_archive(desk: Desk, newsroom: Newsroom) -> None:
    send(desk, newsroom, 1, ["harbour", "barrier"])
    (filed,) = editions(newsroom)
    assert str(filed.slot) == "2026-11-23T07:00"
    assert filed.slot.zone == "UTC"
    assert filed.went_out_at == NOW
    assert filed.path == "/e/daily/2026-11-23-0700"
    assert sorted(filed.headlines) == ["Barrier makes the news", "Harbour makes the news"]
    assert filed.subject == f"The Test Digest: {filed.headlines[0]}"
    found = shown(newsroom)
    assert found.subject == filed.subject
    assert (found.language, found.index, found.url) == ("en", True, VIEW)
    for part in (found.html, found.text):
        assert all(headline in part for headline in filed.headlines)
        assert "Fact two about" in part
        assert "example.org/u/" not in part
        assert "reader0@" not in part
    assert "/e/daily/2026-11-23-0700" in desk.mails[0].read_text()
    with reading(newsroom.engine) as session:
        assert archive.latest_of(session, "daily") == Latest(filed.subject, filed.path, filed.headlines)


def test_the_index_is_read_a_page_at_a_time_newest_first(desk: Desk, newsroom: Newsroom) -> None:
    send(desk, newsroom, 5)
    slots = [f"2026-11-{day}T07:00" for day in (27, 26, 25, 24, 23)]
    assert [str(filed.slot) for filed in editions(newsroom)] == slots
    first = editions(newsroom, limit=2)
    second = editions(newsroom, before=str(first[-1].slot), limit=2)
    third = editions(newsroom, before=str(second[-1].slot), limit=2)
    assert [str(filed.slot) for filed in (*first, *second, *third)] == slots
    assert editions(newsroom, before="2026-11-23T07:00") == []
    assert [filed.headlines for filed in first] == [("Story 4 makes the news",), ("Story 3 makes the news",)]


def test_drafts_and_skipped_editions_are_nobodys_business(desk: Desk) -> None:
    newsroom = desk.open()
    desk.brief("harbour")
    with pytest.raises(EditionError):  # there is nobody to mail: it stays a draft
        newsroom.send("daily")
    desk.configure(lambda text: text + "min_briefs = 2\n")
    desk.clock.forward(timedelta(days=1))
    thin = desk.open()
    thin.send("daily")
    with reading(newsroom.engine) as session:
        states = session.execute(select(EditionRecord.state).order_by(col(EditionRecord.slot))).scalars().all()
        assert states == [EditionState.DRAFT, EditionState.SKIPPED]
        assert archive.latest_of(session, "daily") is None
    assert editions(newsroom) == []
    assert page(newsroom, "2026-11-23-0700") is None
    assert page(newsroom, "2026-11-24-0700") is None


def test_a_cancelled_edition_is_taken_out_of_the_archive(desk: Desk, newsroom: Newsroom) -> None:
    send(desk, newsroom, 2)
    with transaction(newsroom.engine) as session:
        last = col(EditionRecord.slot) == "2026-11-24T07:00"
        session.execute(update(EditionRecord).where(last).values(state=EditionState.CANCELLED))
    assert [str(filed.slot) for filed in editions(newsroom)] == ["2026-11-23T07:00"]
    assert page(newsroom, "2026-11-24-0700") is None
    with reading(newsroom.engine) as session:
        assert b"Story 1" not in archive.feed(session, newsroom.settings, "daily", desk.clock())


@pytest.mark.parametrize(
    "stamp",
    ["", "2026-11-23", "2026-11-23-0701", "2026-11-23T07:00", "2026-11-23-07000", "２026-11-23-0700", "%00", "x\n"],
)
def test_what_names_no_edition_is_none(desk: Desk, newsroom: Newsroom, stamp: str) -> None:
    send(desk, newsroom, 1)
    assert page(newsroom, stamp) is None
    assert page(newsroom, "2026-11-23-0700", "weekly") is None


def test_the_archive_says_what_went_out_whatever_templates_and_briefs_become(desk: Desk, newsroom: Newsroom) -> None:
    send(desk, newsroom, 1, ["harbour"])
    before, filed = shown(newsroom), editions(newsroom)
    folder = desk.folder / "templates" / "digest"
    folder.mkdir(parents=True)
    (folder / "subject.txt.j2").write_text("Another subject")
    desk.configure(lambda text: text + '[templates]\npath = "templates"\n')
    file = desk.brief("harbour")
    file.write_text(file.read_text().replace("Harbour makes", "Harbour unmakes"))
    other = desk.open()
    other.send("daily")
    assert shown(other) == before
    latest, *earlier = editions(other)
    assert earlier == filed
    assert (latest.subject, latest.headlines) == ("Another subject", ("Harbour unmakes the news",))


def test_a_newsletter_that_is_no_longer_configured_keeps_the_pages_that_mails_lead_to(
    desk: Desk, newsroom: Newsroom
) -> None:
    send(desk, newsroom, 1)
    desk.configure(lambda text: text.replace("[newsletters.daily]", "[newsletters.weekly]"))
    other = desk.open()
    assert shown(other).url == VIEW
    assert shown(other).language == "en"
    assert editions(other) == []
    with reading(other.engine) as session, pytest.raises(ConfigurationError):
        archive.feed(session, other.settings, "daily", desk.clock())


@pytest.mark.parametrize(
    ("lists", "public", "indexable"),
    [
        ('["daily"]', {"daily": True}, True),
        ('["daily"]', {"daily": False}, False),
        ('["daily", "friends"]', {"daily": False, "friends": False}, False),
        ('["daily", "friends"]', {"daily": False, "friends": True}, True),
        ('["other"]', {"daily": False}, True),
    ],
)
def test_robots_may_index_where_a_list_is_public_or_none_is_on_record(
    desk: Desk, newsroom: Newsroom, lists: str, public: dict[str, bool], *, indexable: bool
) -> None:
    send(desk, newsroom, 1)
    with transaction(newsroom.engine) as session:
        for slug, value in public.items():
            if slug != "daily":
                session.add(MailingList(slug=slug, name=slug, public=value, created_at=NOW))
            session.execute(update(MailingList).where(col(MailingList.slug) == slug).values(public=value))
    desk.configure(lambda text: text.replace('lists = ["daily"]', f"lists = {lists}"))
    settings = Settings.load(desk.file, {})
    with reading(newsroom.engine) as session:
        assert archive.is_public(session, settings, "daily") is indexable
        found = archive.edition_page(session, settings, "daily", "2026-11-23-0700")
    assert found is not None
    assert found.index is indexable


# ------------------------------------------------------------------------------------------ how it is stored


def forms(session: Session) -> list[MessageRecord]:
    return list(session.execute(select(MessageRecord).order_by(col(MessageRecord.id))).scalars())


def test_mail_and_archive_form_are_written_together_and_batches_carry_the_mail(desk: Desk) -> None:
    newsroom = desk.open()
    desk.brief("harbour")
    for _ in range(2):  # the draft is remade
        with pytest.raises(EditionError, match="nobody"):
            newsroom.send("daily")
        with reading(newsroom.engine) as session:
            assert [form.variant for form in forms(session)] == [store.MAIL, store.WEB]
    desk.people(newsroom, 3)
    newsroom.send("daily")
    with reading(newsroom.engine) as session:
        mail, web = forms(session)
        assert (mail.variant, web.variant) == (store.MAIL, store.WEB)
        assert mail.briefs == web.briefs == 1
        assert list(session.execute(select(Batch.message_id)).scalars()) == [mail.id]
    assert all("/u/" in file.read_text() for file in desk.mails)


def test_the_mail_is_the_mail_whatever_is_stored_beside_it(desk: Desk, newsroom: Newsroom) -> None:
    send(desk, newsroom, 1)
    with transaction(newsroom.engine) as session:
        session.execute(update(MessageRecord).where(col(MessageRecord.variant) == store.WEB).values(revision=9))
    with reading(newsroom.engine) as session:
        record = store.public_edition(session, "daily", "2026-11-23T07:00")
        assert record is not None
        stored = store.message_record(session, record.id or 0)
        assert stored is not None
        assert stored.variant == store.MAIL
    assert newsroom.show(record)[2] == "The Test Digest: Story 0 makes the news"


def test_an_edition_from_before_there_was_an_archive_form_is_shown_as_its_mail(desk: Desk, newsroom: Newsroom) -> None:
    send(desk, newsroom, 1)
    with transaction(newsroom.engine) as session:
        session.execute(delete(MessageRecord).where(col(MessageRecord.variant) == store.WEB))
    found = shown(newsroom)
    assert "This copy went to the address of its subscriber because" in markup.read_html(found.html)[1]
    assert "This copy went to the address of its subscriber\n" in found.text
    for part in (found.html, found.text):
        assert "[[" not in part
        assert "https://news.example.org/leave/daily" in part
        assert "https://news.example.org/preferences" in part
        assert "example.org/u/" not in part
    assert [filed.subject for filed in editions(newsroom)] == [found.subject]


@pytest.mark.parametrize("variant", [store.WEB, store.MAIL])
def test_a_form_that_was_changed_in_the_database_is_not_shown(desk: Desk, newsroom: Newsroom, variant: str) -> None:
    send(desk, newsroom, 1)
    with transaction(newsroom.engine) as session:
        mail, web = forms(session)
        (mail if variant == store.MAIL else web).content = mail.content.replace("Fact one", "Fact 1")
        if variant == store.MAIL:
            session.delete(web)
    with pytest.raises(EditionError, match="was changed in the database"):
        page(newsroom, "2026-11-23-0700")


def test_an_edition_without_any_message_has_no_page(desk: Desk, newsroom: Newsroom) -> None:
    record = EditionRecord(
        newsletter="daily",
        slot="2026-11-23T07:00",
        zone="UTC",
        slot_at=NOW,
        state=EditionState.CLOSED,
        created_at=NOW,
        frozen_at=NOW,
        lists=[],
        stale_after_s=0,
        tag="0" * 16,
    )
    with transaction(newsroom.engine) as session:
        session.add(record)
    assert page(newsroom, "2026-11-23-0700") is None
    assert [filed.headlines for filed in editions(newsroom)] == [()]


# ------------------------------------------------------------------------------------------ the feed


def feed(newsroom: Newsroom, now: datetime = NOW) -> tuple[Any, bytes]:
    with reading(newsroom.engine) as session:
        made = archive.feed(session, newsroom.settings, "daily", now)
    return etree.fromstring(made), made


def texts(of: Any, name: str) -> list[str]:
    return [element.text for element in of.findall(ATOM + name)]


def assert_valid(root: Any) -> None:
    """What RFC 4287 asks of a feed and of each entry (sections 4.1.1 and 4.1.2)."""
    assert root.tag == f"{ATOM}feed"
    once = {"id", "title", "updated"}
    for element in (root, *root.findall(f"{ATOM}entry")):
        for name in once:
            assert len(element.findall(ATOM + name)) == 1
        for name in ("updated", "published"):
            for instant in texts(element, name):
                assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)", instant)
        links = [(link.get("rel"), link.get("type")) for link in element.findall(f"{ATOM}link")]
        assert len(links) == len(set(links)), "one alternate of a kind"
        assert ("alternate", "text/html") in links
        for link in element.findall(f"{ATOM}link"):
            assert link.get("href").startswith("https://news.example.org/")
    assert root.find(f"{ATOM}author/{ATOM}name").text, "or every entry needs one"
    ids = [element.text for element in root.iter(f"{ATOM}id")]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", one) for one in ids)


def test_the_feed_is_atom_with_the_newest_editions_first(desk: Desk, newsroom: Newsroom) -> None:
    send(desk, newsroom, 3)
    root, made = feed(newsroom)
    assert made.startswith(b"<?xml version='1.0' encoding='utf-8'?>")
    assert_valid(root)
    assert texts(root, "title") == ["The Test Digest"]
    assert texts(root, "updated") == ["2026-11-25T08:00:00+00:00"], "of the newest edition, whenever it is asked for"
    assert [link.get("href") for link in root.findall(f"{ATOM}link")] == [
        "https://news.example.org/e/daily/feed.atom",
        "https://news.example.org/e/daily",
    ]
    entries = root.findall(f"{ATOM}entry")
    assert [texts(entry, "title") for entry in entries] == [
        [f"The Test Digest: Story {number} makes the news"] for number in (2, 1, 0)
    ]
    last = entries[-1]
    assert last.find(f"{ATOM}link").get("href") == VIEW
    assert texts(last, "published") == texts(last, "updated") == ["2026-11-23T08:00:00+00:00"]
    summary = last.find(f"{ATOM}summary")
    assert summary.get("type") == "html"
    assert summary.text == f'<ol><li dir="auto"><a href="{VIEW}#b1">Story 0 makes the news</a></li></ol>'


def test_the_feed_is_read_by_our_own_reader_of_feeds(desk: Desk, newsroom: Newsroom) -> None:
    send(desk, newsroom, 2)
    _, made = feed(newsroom)
    read = formats.read(made, "feed.xml")
    assert [one.headline for one in read.briefs] == [
        f"The Test Digest: Story {number} makes the news" for number in (1, 0)
    ]
    assert read.briefs[-1].url == VIEW


def test_ids_stay_when_the_site_moves_and_when_it_is_renamed(desk: Desk, newsroom: Newsroom) -> None:
    send(desk, newsroom, 2)
    before = [element.text for element in feed(newsroom)[0].iter(f"{ATOM}id")]
    desk.configure(lambda text: text.replace("news.example.org", "post.example.net").replace("Test Digest", "Other"))
    root, _ = feed(desk.open())
    assert [element.text for element in root.iter(f"{ATOM}id")] == before
    assert root.find(f"{ATOM}link").get("href").startswith("https://post.example.net/")


def test_a_feed_without_editions_is_a_feed(desk: Desk) -> None:
    desk.configure(lambda text: text + 'tagline = "Facts & arguments"\nlanguage = "de"\n')
    root, _ = feed(desk.open(), datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC))
    assert_valid(root)
    assert texts(root, "updated") == ["2026-01-02T03:04:05+00:00"]
    assert texts(root, "subtitle") == ["Facts & arguments"]
    assert root.get("{http://www.w3.org/XML/1998/namespace}lang") == "de"
    assert root.findall(f"{ATOM}entry") == []


def test_the_feed_holds_the_newest_twenty(desk: Desk, newsroom: Newsroom) -> None:
    with transaction(newsroom.engine) as session:
        for day in range(1, 26):
            at = NOW.replace(day=day)
            session.add(
                EditionRecord(
                    newsletter="daily",
                    slot=f"2026-11-{day:02}T07:00",
                    zone="UTC",
                    slot_at=at,
                    state=EditionState.CLOSED,
                    created_at=at,
                    frozen_at=at,
                    lists=[],
                    stale_after_s=0,
                    tag=f"{day:016}",
                )
            )
    root, _ = feed(newsroom)
    assert len(root.findall(f"{ATOM}entry")) == archive.FEED_EDITIONS == 20
    assert texts(root.find(f"{ATOM}entry"), "updated") == ["2026-11-25T08:00:00+00:00"]


HOSTILE = [
    "a \x01\x08\x0b\x1f\ufffe\uffff b",
    "]]> <![CDATA[ & &amp; &lt;b&gt; <script>alert(1)</script>",
    "😀 漢字 שלום \u202eevil\u202c \u0007",
    "\u0085\u2028 \x7f '\" \\u0041",
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_headlines_and_subjects_leave_the_feed_valid(desk: Desk, newsroom: Newsroom, hostile: str) -> None:
    """A brief can hold none of the controls (`newsletter.brief.one_line`), but a subject is what a template gives."""
    send(desk, newsroom, 1)
    escaped = json.dumps(hostile)[1:-1]
    with transaction(newsroom.engine) as session:
        for row in (*forms(session), *session.execute(select(RevisionRecord)).scalars()):
            row.content = row.content.replace("Story 0 makes the news", escaped)
    root, _ = feed(newsroom)
    assert_valid(root)
    entry = root.find(f"{ATOM}entry")
    kept = re.sub("[\x01\x07\x08\x0b\x1f\ufffe\uffff]", "\N{REPLACEMENT CHARACTER}", hostile)
    assert texts(entry, "title") == [f"The Test Digest: {kept}"]
    (said,) = texts(entry, "summary")
    assert "<script" not in said
    (item,) = etree.HTML(said).iter("li")
    assert "".join(item.itertext()) == kept


# ------------------------------------------------------------------------------------------ as a browser shows it

STYLES = """() => [...document.querySelectorAll('body, body *')].map(e => {
    const b = e.getBoundingClientRect(), s = getComputedStyle(e)
    return [e.tagName, b.left, b.top, b.width, b.height, ...[...s].map(p => p + ':' + s.getPropertyValue(p))].join('|')
})"""


@pytest.fixture(scope="module")
def browse() -> Iterator[Callable[..., Any]]:

    with chromium() as browser:

        def opened(html: str, width: int, *, dark: bool) -> Any:
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
            page.route("**/*", lambda route: route.abort())
            page.set_content(html)
            return page

        yield opened


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [320, 560, 1200])
def test_styles_that_are_not_inlined_look_the_same(
    browse: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, width: int, *, dark: bool
) -> None:
    """The archive form is spared the inliner; in a browser that must not show, in any property of any element."""
    briefs = examples()[3:6]
    inlined = browse(compiled(briefs).message.html, width, dark=dark).evaluate(STYLES)
    monkeypatch.setattr(compiler, "inline", lambda html: html)
    plain = browse(compiled(briefs).message.html, width, dark=dark).evaluate(STYLES)
    assert len(plain) > 100
    assert plain == inlined


@pytest.mark.parametrize("width", [320, 1200])
def test_the_archive_page_fits_a_phone_and_a_desk(browse: Callable[..., Any], width: int) -> None:
    page = browse(compiled(examples()).archive.html, width, dark=False)
    assert page.evaluate("document.compatMode") == "CSS1Compat"
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.evaluate("location.hash = '#b3'")
    assert abs(page.evaluate("document.getElementById('b3').getBoundingClientRect().top")) < 1
