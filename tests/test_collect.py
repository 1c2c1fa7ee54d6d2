"""Promise 11: no gap, no repeat. Each revision of a brief is decided once; whatever waits is not lost."""

import json
import os
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from newsletter import collect as collect_module
from newsletter import store
from newsletter.brief import Brief, Fact
from newsletter.checkup import examine
from newsletter.collect import decide, same_story
from newsletter.errors import ConfigurationError, EditionError
from newsletter.models import EditionState
from newsletter.newsroom import Newsroom, Sent
from newsletter.settings import Newsletter
from newsletter.store import Candidate
from subscribers import reading
from tests.conftest import NOW, Desk


def newsletter(**more: object) -> Newsletter:
    return Newsletter.model_validate({"title": "T", "from": "T <t@example.org>", "lists": ["l"], **more})


def candidate(number: int, *, source: str = "desk", age_h: float = 1, **more: object) -> Candidate:
    went_out = more.pop("went_out", None)
    brief = Brief.model_validate({"headline": f"Story {number}", "facts": [{"text": f"Fact {number}"}], **more})
    seen = NOW - timedelta(hours=age_h)
    return Candidate(number, 1, source, brief, seen, went_out if isinstance(went_out, str) else None)


def taken(sent: Sent) -> list[str]:
    assert sent.draft is not None
    return [c.brief.headline for c in sent.draft.selection.taken]


# ------------------------------------------------------------------------------------------ deciding


def test_an_embargoed_brief_waits_undecided() -> None:
    made = decide([candidate(1, published=NOW + timedelta(hours=2))], newsletter(), {"desk"}, NOW)
    assert (made.taken, made.left, made.carried) == ((), (), ())
    assert made.waiting[0][1] == "not before 2026-11-23 10:00 UTC"
    assert made.rulings() == []


def test_what_does_not_fit_is_carried_over_and_a_first_run_is_bounded() -> None:
    many = [candidate(n, age_h=n) for n in range(1, 6)]
    later = decide(many, newsletter(max_briefs=2), {"desk"}, NOW)
    first = decide(many, newsletter(max_briefs=2), set(), NOW)
    assert [c.brief_id for c in later.taken] == [c.brief_id for c in first.taken] == [1, 2]
    assert [reason for _, reason in later.carried] == ["the edition is full"] * 3
    assert [reason for _, reason in first.left] == ["older than the first edition takes"] * 3


def test_topics_choose_in_any_case() -> None:
    made = decide(
        [candidate(1, topics=["Science"]), candidate(2, topics=["Sport"]), candidate(3)],
        newsletter(topics=["science"]),
        {"desk"},
        NOW,
    )
    assert [c.brief_id for c in made.taken] == [1]
    assert {reason for _, reason in made.left} == {"none of its topics is wanted"}


def test_orders() -> None:
    briefs = [
        candidate(1, updated=NOW - timedelta(days=2), topics=["B"]),
        candidate(2, updated=NOW - timedelta(days=1), topics=["B"]),
        candidate(3, updated=NOW - timedelta(days=3), topics=["A"]),
    ]

    def order(name: str) -> list[int]:
        made = decide(briefs, newsletter(order=name, topics=["A", "B"]), {"desk"}, NOW)
        return [c.brief_id for c in made.taken]

    assert order("newest") == [2, 1, 3]
    assert order("oldest") == [3, 1, 2]
    assert order("topics") == [3, 2, 1]


def test_what_waited_too_long_is_left_and_a_correction_is_not_sent_again() -> None:
    made = decide([candidate(1, age_h=24 * 8), candidate(2, went_out="2026-11-22T07:00")], newsletter(), {"desk"}, NOW)
    assert [reason for _, reason in made.left] == [
        "waited longer than max_age (7 d)",
        "an earlier revision went out on 2026-11-22T07:00",
    ]


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from(["desk", "feed"]), st.integers(0, 400), st.booleans())),
    st.integers(1, 5),
    st.sets(st.sampled_from(["desk", "feed"])),
)
def test_every_candidate_is_decided_once_or_waits(
    rows: list[tuple[bool, str, int, bool]], most: int, known: set[str]
) -> None:
    briefs = [
        candidate(n, source=source, age_h=age, topics=["A"] if wanted else ["B"],
                  published=NOW + timedelta(hours=1) if embargoed else None)
        for n, (wanted, source, age, embargoed) in enumerate(rows)
    ]  # fmt: skip
    made = decide(briefs, newsletter(max_briefs=most, topics=["A"]), known, NOW)
    rest = [c for c, _ in (*made.left, *made.carried, *made.waiting)]
    assert sorted(c.brief_id for c in (*made.taken, *rest)) == list(range(len(rows)))
    assert len(made.taken) <= most


def test_one_name_with_another_story_is_another_story() -> None:
    def brief(headline: str, fact: str, url: str | None = None) -> Brief:
        return Brief(headline=headline, slug="s" + headline.lower(), facts=(Fact(text=fact),), url=url)

    assert same_story(brief("A", "one"), brief("B", "one")), "a new headline over the same fact"
    assert same_story(brief("A", "one"), brief("A", "two")), "new facts under the same headline"
    assert not same_story(brief("A", "one"), brief("B", "two"))
    assert same_story(brief("A", "one", "https://x/1"), brief("B", "two", "https://x/1")), "the same address"
    assert not same_story(brief("A", "one", "https://x/1"), brief("B", "one", "https://x/2"))


# ------------------------------------------------------------------------------------------ over days


@pytest.fixture
def newsroom(desk: Desk) -> Newsroom:
    made = desk.open()
    desk.people(made, 2)
    return made


def tomorrow(desk: Desk) -> None:
    desk.clock.forward(timedelta(days=1))


def test_a_brief_goes_out_once_and_the_next_edition_takes_only_what_is_new(desk: Desk, newsroom: Newsroom) -> None:
    desk.brief("harbour")
    assert taken(newsroom.send("daily")) == ["Harbour makes the news"]
    tomorrow(desk)
    desk.brief("tower")
    assert taken(newsroom.send("daily")) == ["Tower makes the news"]


def test_an_edition_with_nothing_new_is_skipped_and_says_so(desk: Desk, newsroom: Newsroom) -> None:
    sent = newsroom.send("daily")
    assert (sent.record.state, sent.record.reason) == (EditionState.SKIPPED, "0 briefs, fewer than min_briefs = 1")
    assert desk.mails == []


def test_a_thin_edition_keeps_its_briefs_for_the_next(desk: Desk, newsroom: Newsroom) -> None:
    newsroom.close()
    desk.configure(lambda text: text + "min_briefs = 2\n")
    newsroom = desk.open()
    desk.brief("harbour")
    assert newsroom.send("daily").record.reason == "1 brief, fewer than min_briefs = 2"
    tomorrow(desk)
    desk.brief("tower")
    assert sorted(taken(newsroom.send("daily"))) == ["Harbour makes the news", "Tower makes the news"]


def test_a_skipped_edition_may_be_drafted_again_for_its_slot(desk: Desk, newsroom: Newsroom) -> None:
    assert newsroom.send("daily").record.state is EditionState.SKIPPED
    desk.brief("harbour")
    assert newsroom.send("daily").record.state is EditionState.CLOSED


def test_more_than_fits_comes_the_next_day(desk: Desk, newsroom: Newsroom) -> None:
    newsroom.close()
    desk.configure(lambda text: text + "max_briefs = 2\n")
    newsroom = desk.open()
    desk.brief("first")
    newsroom.send("daily")
    tomorrow(desk)
    for number, slug in enumerate(("alpha", "beta", "gamma"), start=20):
        desk.brief(slug, day=number)
    one = newsroom.send("daily")
    tomorrow(desk)
    two = newsroom.send("daily")
    assert taken(one) == ["Gamma makes the news", "Beta makes the news"]
    assert taken(two) == ["Alpha makes the news"]


def test_a_correction_after_it_went_out_is_a_revision_and_left(desk: Desk, newsroom: Newsroom) -> None:
    file = desk.brief("harbour")
    newsroom.send("daily")
    tomorrow(desk)
    file.write_text(file.read_text().replace("Fact two", "Corrected fact two"))
    sent = newsroom.send("daily")
    assert sent.record.state is EditionState.SKIPPED
    assert sent.draft is not None
    assert sent.draft.selection.left[0][1] == "an earlier revision went out on 2026-11-23T07:00"
    assert sent.draft.collected[0].revised == 1


def test_a_correction_before_it_goes_out_is_what_goes_out(desk: Desk, newsroom: Newsroom) -> None:
    file = desk.brief("harbour")
    newsroom.collect()
    file.write_text(file.read_text().replace("Fact two", "Corrected fact two"))
    newsroom.send("daily")
    assert b"Corrected fact two" in desk.mails[0].read_bytes()


def test_a_renamed_file_repeats_nothing(desk: Desk, newsroom: Newsroom) -> None:
    file = desk.brief("harbour")
    newsroom.send("daily")
    tomorrow(desk)
    file.rename(file.with_name("renamed.txt"))
    assert newsroom.send("daily").record.state is EditionState.SKIPPED


def test_the_same_address_under_another_name_is_the_same_brief(desk: Desk, newsroom: Newsroom) -> None:
    def write(name: str, fact: str) -> None:
        data = {"headline": "One", "url": "https://desk.example.org/one", "facts": [{"text": fact}]}
        (desk.folder / "briefs" / name).write_text(json.dumps(data))

    write("a.json", "first words")
    newsroom.send("daily")
    (desk.folder / "briefs" / "a.json").unlink()
    write("b.json", "other words")
    tomorrow(desk)
    assert newsroom.send("daily").record.state is EditionState.SKIPPED


def test_a_file_reused_for_another_story_is_a_new_brief(desk: Desk, newsroom: Newsroom) -> None:
    desk.brief("harbour", name="today.txt")
    newsroom.send("daily")
    tomorrow(desk)
    desk.brief("tower", name="today.txt")
    assert taken(newsroom.send("daily")) == ["Tower makes the news"]


def test_a_brief_that_vanishes_and_comes_back_is_not_repeated(desk: Desk, newsroom: Newsroom) -> None:
    file = desk.brief("harbour")
    newsroom.send("daily")
    file.unlink()
    tomorrow(desk)
    newsroom.collect()
    desk.brief("harbour")
    assert newsroom.send("daily").record.state is EditionState.SKIPPED


def test_decisions_are_final_only_when_the_edition_starts(desk: Desk, newsroom: Newsroom) -> None:
    desk.brief("harbour")
    newsroom.preview("daily")
    newsroom.draft("daily", newsroom.slot("daily"))
    with reading(newsroom.engine) as session:
        assert store.sources_decided(session, "daily") == set()
        assert len(store.candidates(session, "daily", ["desk"])) == 1
    newsroom.send("daily")
    with reading(newsroom.engine) as session:
        assert store.candidates(session, "daily", ["desk"]) == []


def test_a_broken_brief_or_source_costs_itself_and_nothing_else(desk: Desk) -> None:
    desk.configure(lambda text: text + '\n[sources.gone]\nkind = "folder"\npath = "nowhere"\n')
    newsroom = desk.open()
    desk.people(newsroom, 1)
    desk.brief("harbour")
    (desk.folder / "briefs" / "broken.txt").write_bytes(b"\x00\x01")
    (desk.folder / "briefs" / "notes.docx").write_bytes(b"not ours")
    (desk.folder / "briefs" / ".hidden.txt").write_text("not ours")
    sent = newsroom.send("daily")
    assert sent.draft is not None
    faults = {one.source: (one.error, [str(fault) for fault in one.faults]) for one in sent.draft.collected}
    assert "there is no such folder" in str(faults["gone"][0])
    assert faults["desk"][1] == ["broken.txt:1: expected text, found binary data"]
    assert len(desk.mails) == 1


def test_a_slot_near_another_edition_asks_first(desk: Desk, newsroom: Newsroom) -> None:
    desk.brief("harbour")
    newsroom.send("daily")
    newsroom.close()
    desk.configure(lambda text: text.replace('"0 7 * * *"', '"0 9 * * *"'))
    newsroom = desk.open()
    desk.brief("tower")
    desk.clock.forward(timedelta(hours=2))
    with pytest.raises(EditionError, match="only 2 h from the edition of 2026-11-23T07:00"):
        newsroom.send("daily")
    assert len(desk.mails) == 2


def test_what_was_frozen_goes_out_whatever_happens_to_templates_and_sources(
    desk: Desk, newsroom: Newsroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.brief("harbour")
    path = desk.folder / "outbox"
    path.write_text("in the way")
    assert newsroom.send("daily").record.state is EditionState.PAUSED
    path.unlink()
    newsroom.close()
    (desk.folder / "templates" / "digest").mkdir(parents=True)
    (desk.folder / "templates" / "digest" / "body.mjml.j2").write_text("{% broken")
    desk.configure(lambda text: text + '\n[templates]\npath = "templates"\n')
    Path(desk.folder / "briefs" / "harbour.txt").unlink()
    assert desk.open().send("daily").record.state is EditionState.CLOSED
    assert b"Fact one about Harbour" in desk.mails[0].read_bytes()


def test_a_file_taken_away_or_marked_as_a_draft_is_held_back_until_it_returns(desk: Desk, newsroom: Newsroom) -> None:
    file = desk.folder / "briefs" / "story.md"
    good = "# A story\n\n- A fact.\n"
    file.write_text(good)
    desk.brief("harbour")
    newsroom.collect()
    file.write_text("---\ndraft: true\n---\n\n" + good)
    assert taken(newsroom.send("daily")) == ["Harbour makes the news"]
    file.write_text(good)
    tomorrow(desk)
    assert taken(newsroom.send("daily")) == ["A story"]


def test_a_source_that_is_renamed_loses_and_repeats_nothing(desk: Desk, newsroom: Newsroom) -> None:
    def write(name: str) -> None:
        data = {"headline": name, "url": f"https://desk.example.org/{name}", "facts": [{"text": f"Fact of {name}"}]}
        (desk.folder / "briefs" / f"{name}.json").write_text(json.dumps(data))

    write("one")
    newsroom.send("daily")
    write("two")
    newsroom.collect()
    newsroom.close()
    desk.configure(lambda text: text.replace("[sources.desk]", "[sources.wire]"))
    tomorrow(desk)
    newsroom = desk.open()
    assert taken(newsroom.send("daily")) == ["two"]


def test_one_story_in_two_sources_is_one_brief_and_settles(desk: Desk, newsroom: Newsroom) -> None:
    """Both tell it differently; that must not make a new revision at each reading."""
    newsroom.close()
    desk.configure(lambda text: text + '\n[sources.wire]\nkind = "folder"\npath = "wire"\n')
    (desk.folder / "wire").mkdir()
    for place, fact in (("briefs", "as the desk tells it"), ("wire", "as the wire tells it")):
        data = {"headline": "One", "url": "https://desk.example.org/one", "facts": [{"text": fact}]}
        (desk.folder / place / "one.json").write_text(json.dumps(data))
    newsroom = desk.open()
    assert [(one.new, one.revised) for one in newsroom.collect()] == [(1, 0), (0, 1)]
    assert [(one.new, one.revised) for one in newsroom.collect()] == [(0, 0), (0, 0)]
    assert taken(newsroom.send("daily")) == ["One"]


def test_a_link_to_nowhere_is_a_fault_that_is_told(desk: Desk, newsroom: Newsroom) -> None:
    (desk.folder / "briefs" / "lost.txt").symlink_to(desk.folder / "nowhere.txt")
    assert [str(fault) for fault in newsroom.collect()[0].faults] == [
        "lost.txt: cannot be read: No such file or directory"
    ]


def test_a_template_folder_that_is_not_there_stops_the_edition(desk: Desk) -> None:
    desk.configure(lambda text: text + '\n[templates]\npath = "nowhere"\n')
    newsroom = desk.open()
    desk.people(newsroom, 1)
    desk.brief("harbour")
    with pytest.raises(ConfigurationError, match=r"templates\.path: there is no folder .*nowhere"):
        newsroom.send("daily")
    assert any(finding.ok is False and "templates.path" in finding.what for finding in examine(newsroom))


def test_two_briefs_of_one_file_with_one_slug_are_two_briefs(desk: Desk, newsroom: Newsroom) -> None:
    both = [{"headline": f"Story {n}", "slug": "wrap", "facts": [{"text": f"Fact {n}"}]} for n in (1, 2)]
    (desk.folder / "briefs" / "page.json").write_text(json.dumps({"briefs": both}))
    assert [(one.new, one.revised) for one in newsroom.collect()] == [(2, 0)]
    assert [(one.new, one.revised) for one in newsroom.collect()] == [(0, 0)]
    assert sorted(taken(newsroom.send("daily"))) == ["Story 1", "Story 2"]


def test_a_pipe_or_a_strange_name_in_the_folder_costs_itself(desk: Desk, newsroom: Newsroom) -> None:
    desk.brief("harbour")
    os.mkfifo(desk.folder / "briefs" / "pipe.txt")
    (Path(os.fsdecode(os.fsencode(desk.folder / "briefs") + b"/caf\xe9.txt"))).write_text("x")
    faults = [str(fault) for fault in newsroom.collect()[0].faults]
    assert len(faults) == 2
    assert any("expected a file name in UTF-8" in fault for fault in faults)
    assert any("pipe.txt: cannot be read: it is no ordinary file" in fault for fault in faults)
    assert taken(newsroom.send("daily")) == ["Harbour makes the news"]


def test_a_time_that_is_no_slot_asks_first(desk: Desk, newsroom: Newsroom) -> None:
    desk.brief("harbour")
    with pytest.raises(EditionError, match=r"2026-11-23T07:01 is no slot of its schedule \(0 7 \* \* \*\)") as refused:
        newsroom.send("daily", "2026-11-23T07:01")
    assert refused.value.consent
    assert desk.mails == []


def test_a_slow_reading_does_not_undo_what_another_process_recorded_meanwhile(
    desk: Desk, newsroom: Newsroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = desk.brief("harbour")
    newsroom.collect()
    other = desk.open()
    old = file.read_text().replace("Fact two", "Premature fact two")
    file.write_text(old)
    read = collect_module._files
    once: list[Path] = []

    def slow(folder: Path) -> list[Path]:
        found = read(folder)
        if not once:
            once.append(folder)
            file.write_text(old.replace("Premature fact two", "Retracted fact two"))
            other.collect()
            file.write_text(old)  # what the slow process still holds
        return found

    monkeypatch.setattr(collect_module, "_files", slow)
    newsroom.collect()
    (candidate,) = newsroom.select("daily").taken
    assert "Retracted fact two" in candidate.brief.facts[1].text


def test_the_first_run_of_a_second_source_is_bounded_though_it_shares_a_brief(desk: Desk, newsroom: Newsroom) -> None:
    def write(place: str, name: str) -> None:
        data = {"headline": name, "url": f"https://desk.example.org/{name}", "facts": [{"text": f"Fact of {name}"}]}
        (desk.folder / place).mkdir(exist_ok=True)
        (desk.folder / place / f"{name}.json").write_text(json.dumps(data))

    write("briefs", "shared")
    newsroom.send("daily")
    newsroom.close()
    desk.configure(lambda text: text + 'max_briefs = 2\n\n[sources.wire]\nkind = "folder"\npath = "wire"\n')
    for name in ("shared", "one", "two", "three", "four"):
        write("wire", name)
    tomorrow(desk)
    made = desk.open()
    made.collect()
    selection = made.select("daily")
    assert (len(selection.taken), len(selection.left), len(selection.carried)) == (2, 2, 0)


def test_a_draft_follows_its_newsletter_into_another_zone(desk: Desk, newsroom: Newsroom) -> None:
    assert newsroom.send("daily").record.zone == "UTC"
    newsroom.close()
    desk.configure(lambda text: text + 'zone = "Europe/Berlin"\n')
    desk.brief("harbour")
    record = desk.open().send("daily").record
    assert (record.zone, record.slot, record.slot_at.hour) == ("Europe/Berlin", "2026-11-23T07:00", 6)
