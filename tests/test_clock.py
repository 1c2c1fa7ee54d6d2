"""Promises 1, 5, 10 to 12: one edition a slot, whoever attends, whatever the clock does. In simulated time."""

import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy

import pytest
from sqlmodel import select

from newsletter import agenda, archive, corrections, docket, operating
from newsletter.clock import Clock
from newsletter.errors import CompileError, ConfigurationError, EditionError
from newsletter.newsroom import Newsroom
from subscribers import Subscriber, reading, transaction
from tests.conftest import Desk

SECOND = timedelta(seconds=1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def daily(settings: str) -> Callable[[str], str]:
    """The configuration with other settings in the place of the schedule of the daily newsletter."""
    return lambda whole: whole.replace('schedule = "0 7 * * *"', settings)


def elsewhere(number: int) -> str:
    """A process of another machine: nobody here can tell whether it is gone."""
    return f"other-machine/boot.ns/{number}/1"


def editions(desk: Desk) -> list[tuple[str, str]]:
    return [(slot, state) for slot, state in desk.rows("SELECT slot, state FROM edition ORDER BY slot_at")]


def reason(desk: Desk, slot: str) -> str:
    return str(desk.rows("SELECT reason FROM edition WHERE slot = ?", slot)[0][0])


def copies(desk: Desk) -> Counter[tuple[str, str]]:
    """How many mails of which edition went to whom, by the outbox."""
    found: Counter[tuple[str, str]] = Counter()
    for file in desk.mails:
        text = file.read_text(encoding="utf-8", errors="replace")
        slot = text.partition("\nFeedback-ID: ")[2].partition(":")[0]
        found[text.partition("\nTo: ")[2].partition("\n")[0].strip(), slot] += 1
    return found


class Run:
    """Schedulers on one desk, in simulated time that goes from one instant at which something is due to the next."""

    def __init__(self, desk: Desk, *clocks: Clock) -> None:
        self.desk, self.clocks = desk, clocks

    def look(self) -> None:
        for clock in self.clocks:
            clock.meet()
            clock.run_due()
            clock.tell()

    def until(self, end: str) -> None:
        self.look()
        while self.desk.clock.now < at(end):
            self.desk.clock.now = min(at(end), self._next())
            self.look()

    def _next(self) -> datetime:
        newsroom, now = self.clocks[0].newsroom, self.desk.clock.now
        with reading(newsroom.engine) as session:
            due = docket.next_at(session)
        begins = [
            next(at for slot in one.timetable.upcoming(now) if (at := agenda.drafted_from(one, slot)) > now)
            for one in newsroom.settings.newsletters.values()
        ]
        return max(now + 5 * SECOND, min([*begins, *([due] if due else [])]))


@pytest.fixture
def newsroom(desk: Desk) -> Newsroom:
    desk.clock.now = at("2026-11-24T05:30")
    made = desk.open()
    desk.people(made, 3)
    desk.brief("harbour")
    return made


# ------------------------------------------------------------------------------------------ a slot, an edition


def test_a_slot_gives_one_edition_drafted_before_it_and_sent_at_it(desk: Desk, newsroom: Newsroom) -> None:
    run = Run(desk, Clock(newsroom))
    run.until("2026-11-24T06:50")
    assert editions(desk) == [("2026-11-24T07:00", "draft")]
    run.until("2026-11-24T06:59")
    assert not desk.mails
    run.until("2026-11-24T07:00")
    assert editions(desk) == [("2026-11-24T07:00", "closed")]
    run.until("2026-11-24T12:00")
    assert len(desk.mails) == 3


def test_what_was_drafted_is_what_goes_whatever_comes_later(desk: Desk, newsroom: Newsroom) -> None:
    run = Run(desk, Clock(newsroom))
    run.until("2026-11-24T06:50")
    desk.brief("tram")
    run.until("2026-11-24T07:00")
    assert [row[0] for row in desk.rows("SELECT count(*) FROM decision WHERE verdict = 'taken'")] == [1]
    run.until("2026-11-25T07:00")
    assert len(desk.mails) == 6, "the next edition has the other brief"


def test_ten_schedulers_send_each_edition_once(desk: Desk, newsroom: Newsroom) -> None:
    run = Run(desk, *(Clock(desk.open(), owner=elsewhere(number)) for number in range(10)))
    for day, slug in ((24, "harbour"), (25, "tram"), (26, "bridge")):
        desk.brief(slug)
        run.until(f"2026-11-{day}T07:10")
    assert [state for _, state in editions(desk)] == ["closed"] * 3
    assert len(desk.mails) == 9


def test_a_newsletter_that_is_new_to_the_clock_does_not_send_the_morning_that_is_past(
    desk: Desk, newsroom: Newsroom
) -> None:
    desk.clock.now = at("2026-11-24T09:00")
    run = Run(desk, Clock(newsroom))
    run.until("2026-11-24T12:00")
    assert editions(desk) == []
    run.until("2026-11-25T07:00")
    assert editions(desk) == [("2026-11-25T07:00", "closed")]


def test_a_thin_edition_is_tried_until_its_slot_and_then_skipped(desk: Desk, newsroom: Newsroom) -> None:
    (desk.folder / "briefs" / "harbour.txt").unlink()
    run = Run(desk, Clock(newsroom))
    run.until("2026-11-24T06:58")
    assert editions(desk) == [("2026-11-24T07:00", "planned")]
    run.until("2026-11-24T07:00")
    assert editions(desk) == [("2026-11-24T07:00", "skipped")]
    desk.brief("harbour")
    run.until("2026-11-24T09:00")
    assert not desk.mails, "what comes after the slot waits for the next one"


def test_a_template_that_is_mended_before_it_is_stale_goes_out_by_itself(desk: Desk) -> None:
    desk.configure(lambda text: text + '\n[templates]\npath = "mine"\n')
    broken = desk.folder / "mine" / "digest" / "body.mjml.j2"
    broken.parent.mkdir(parents=True)
    broken.write_text("<mjml>", encoding="utf-8")
    desk.clock.now = at("2026-11-24T06:00")
    newsroom = desk.open()
    desk.people(newsroom, 2)
    desk.brief("harbour")
    run = Run(desk, Clock(newsroom))
    run.until("2026-11-24T07:30")
    assert editions(desk) == [("2026-11-24T07:00", "planned")]
    assert "body.mjml.j2" in reason(desk, "2026-11-24T07:00")
    broken.unlink()
    run.until("2026-11-24T07:40")
    assert editions(desk) == [("2026-11-24T07:00", "closed")]


# ------------------------------------------------------------------------------------------ after a standstill


def test_a_slot_that_was_missed_is_sent_where_it_is_not_stale(desk: Desk, newsroom: Newsroom) -> None:
    run = Run(desk, Clock(newsroom))
    run.look()
    desk.clock.now = at("2026-11-24T15:00")
    run.look()
    assert editions(desk) == [("2026-11-24T07:00", "closed")]


def test_slots_that_are_stale_are_held_for_an_operator(desk: Desk, newsroom: Newsroom) -> None:
    run = Run(desk, Clock(newsroom))
    run.look()
    desk.clock.now = at("2026-11-26T08:00")
    run.look()
    assert editions(desk) == [
        ("2026-11-24T07:00", "held"),
        ("2026-11-25T07:00", "held"),
        ("2026-11-26T07:00", "closed"),
    ]
    assert "past stale_after" in reason(desk, "2026-11-25T07:00")
    desk.brief("tram")
    operating.approve(newsroom, "daily", "2026-11-25T07:00", revision=None, actor="operator:me")
    run.look()
    assert editions(desk)[1] == ("2026-11-25T07:00", "closed"), "an operator's yes sends it"


def test_a_draft_whose_slot_passed_while_nobody_ran_is_sent(desk: Desk, newsroom: Newsroom) -> None:
    run = Run(desk, Clock(newsroom))
    run.until("2026-11-24T06:55")
    desk.clock.now = at("2026-11-24T11:00")
    run.look()
    assert editions(desk) == [("2026-11-24T07:00", "closed")]


# ------------------------------------------------------------------------------------------ another schedule


@pytest.mark.parametrize(
    ("when", "schedule", "slots"),
    [
        ("2026-11-24T06:00", "0 8 * * *", ["2026-11-24T08:00", "2026-11-25T08:00"]),
        ("2026-11-24T06:55", "0 8 * * *", ["2026-11-24T08:00", "2026-11-25T08:00"]),
        ("2026-11-24T06:30", "0 6 * * *", ["2026-11-24T06:00", "2026-11-25T06:00"]),
        ("2026-11-24T07:30", "0 8 * * *", ["2026-11-24T07:00", "2026-11-25T08:00"]),
        ("2026-11-24T07:30", "0 17 * * *", ["2026-11-24T07:00", "2026-11-25T17:00"]),
        ("2026-11-24T12:00", "0 6 * * *", ["2026-11-24T07:00", "2026-11-25T06:00"]),
    ],
)
def test_a_schedule_that_is_moved_gives_each_day_one_edition(
    desk: Desk, newsroom: Newsroom, when: str, schedule: str, slots: list[str]
) -> None:
    run = Run(desk, Clock(newsroom))
    run.until(when)
    desk.configure(daily(f'schedule = "{schedule}"'))
    run.clocks = (Clock(desk.open()),)
    run.until("2026-11-24T20:00")
    desk.brief("tram")
    run.until("2026-11-25T20:00")
    assert [slot for slot, state in editions(desk) if state == "closed"] == slots


def test_a_weekly_newsletter_that_becomes_a_daily_one_makes_up_for_no_past(desk: Desk) -> None:
    desk.configure(daily('schedule = "0 7 * * 1"'))
    desk.clock.now = at("2026-11-22T12:00")
    newsroom = desk.open()
    desk.people(newsroom, 1)
    desk.brief("harbour")
    run = Run(desk, Clock(newsroom))
    run.until("2026-11-23T08:00")  # a Monday
    desk.clock.now = at("2026-11-27T14:55")
    run.look()
    desk.clock.now = at("2026-11-27T15:00")
    desk.configure(daily('schedule = "0 7 * * *"'))
    desk.brief("tram")
    run.clocks = (Clock(desk.open()),)
    run.until("2026-11-28T08:00")
    assert editions(desk) == [("2026-11-23T07:00", "closed"), ("2026-11-28T07:00", "closed")]


def test_a_schedule_that_was_changed_while_nobody_ran_makes_up_for_the_standstill(
    desk: Desk, newsroom: Newsroom
) -> None:
    run = Run(desk, Clock(newsroom))
    run.look()
    desk.clock.now = at("2026-11-24T14:00")
    desk.configure(daily('schedule = "30 7 * * *"'))
    run.clocks = (Clock(desk.open()),)
    run.look()
    assert editions(desk) == [("2026-11-24T07:30", "closed")]


def test_a_newsletter_that_moves_to_another_zone_goes_out_at_its_new_time(desk: Desk, newsroom: Newsroom) -> None:
    run = Run(desk, Clock(newsroom))
    run.until("2026-11-24T06:55")
    desk.configure(daily('schedule = "0 7 * * *"\nzone = "America/New_York"'))
    run.clocks = (Clock(desk.open()),)
    run.until("2026-11-24T11:59")
    assert not desk.mails
    run.until("2026-11-24T12:00")
    assert editions(desk) == [("2026-11-24T07:00", "closed")]


def test_after_a_long_standstill_the_desk_has_one_notice_of_all_that_is_held(desk: Desk) -> None:
    desk.configure(lambda text: text + '\n[desk]\nmail = ["desk@news.example.org"]\n')
    desk.clock.now = at("2026-11-10T05:30")
    newsroom = desk.open()
    desk.people(newsroom, 1)
    run = Run(desk, Clock(newsroom))
    run.look()
    desk.clock.now = at("2026-11-24T06:00")
    run.look()
    assert [state for _, state in editions(desk)] == ["held"] * 13 + ["skipped"]
    subjects = [subject for (subject,) in desk.rows("SELECT subject FROM desk_notice ORDER BY id")]
    assert [one for one in subjects if "HELD" in one] == [
        "The Test Digest: 13 editions HELD, 2026-11-10T07:00 to 2026-11-22T07:00"
    ]


def test_a_slot_beside_the_schedule_is_sent_however_near_it_is(desk: Desk, newsroom: Newsroom) -> None:
    run = Run(desk, Clock(newsroom))
    run.until("2026-11-24T07:00")
    operating.add_slot(newsroom, "daily", "2026-11-24T09:00", actor="operator:me")
    desk.brief("tram")
    run.until("2026-11-24T10:00")
    assert editions(desk) == [("2026-11-24T07:00", "closed"), ("2026-11-24T09:00", "closed")]
    assert len(desk.mails) == 6


def test_a_clock_that_is_put_back_sends_nothing_again(desk: Desk, newsroom: Newsroom) -> None:
    run = Run(desk, Clock(newsroom))
    run.until("2026-11-24T07:05")
    desk.brief("tram")
    desk.clock.now = at("2026-11-24T05:00")
    run.until("2026-11-25T06:00")
    assert editions(desk) == [("2026-11-24T07:00", "closed")]
    run.until("2026-11-25T07:00")
    assert editions(desk)[1:] == [("2026-11-25T07:00", "closed")]
    assert len(desk.mails) == 6


def test_a_clock_that_was_ahead_leaves_no_day_out(desk: Desk, newsroom: Newsroom) -> None:
    desk.clock.now = at("2026-11-27T06:00")
    run = Run(desk, Clock(newsroom))
    run.until("2026-11-27T07:00")
    desk.clock.now = at("2026-11-24T06:10")
    for day, slug in ((24, "tram"), (25, "bridge"), (26, "canal")):
        desk.brief(slug)
        run.until(f"2026-11-{day}T08:00")
    assert [slot for slot, state in editions(desk) if state == "closed"] == [
        "2026-11-24T07:00",
        "2026-11-25T07:00",
        "2026-11-26T07:00",
        "2026-11-27T07:00",
    ]


# ------------------------------------------------------------------------------------------ approval


REQUIRED = 'schedule = "0 7 * * *"\nlead = "1h"\napproval = "required"\nsilence = "{}"'


@pytest.mark.parametrize(("silence", "state"), [("send", "closed"), ("hold", "held"), ("skip", "skipped")])
def test_silence_is_answered_by_its_rule(desk: Desk, silence: str, state: str) -> None:
    desk.configure(daily(REQUIRED.format(silence)))
    desk.clock.now = at("2026-11-24T05:30")
    newsroom = desk.open()
    desk.people(newsroom, 2)
    desk.brief("harbour")
    run = Run(desk, Clock(newsroom))
    run.until("2026-11-24T06:59")
    assert editions(desk) == [("2026-11-24T07:00", "draft")]
    with pytest.raises(EditionError, match="waits for approval"):
        newsroom.send("daily", "2026-11-24T07:00")
    run.until("2026-11-24T07:00")
    assert editions(desk) == [("2026-11-24T07:00", state)]


def test_what_is_approved_goes_at_its_slot_and_not_before(desk: Desk) -> None:
    desk.configure(daily(REQUIRED.format("hold")))
    desk.clock.now = at("2026-11-24T05:30")
    newsroom = desk.open()
    desk.people(newsroom, 2)
    desk.brief("harbour")
    run = Run(desk, Clock(newsroom))
    run.until("2026-11-24T06:10")
    with pytest.raises(EditionError, match="revision 1 is the newest"):
        operating.approve(newsroom, "daily", None, revision=2, actor="operator:me")
    operating.approve(newsroom, "daily", None, revision=1, actor="operator:me")
    with pytest.raises(EditionError, match="waits for no approval"):
        operating.approve(newsroom, "daily", "2026-11-24T07:00", revision=1, actor="operator:me")
    run.until("2026-11-24T06:59")
    assert not desk.mails
    run.until("2026-11-24T07:00")
    assert len(desk.mails) == 2


def test_a_held_draft_is_sent_as_it_was_shown_once_somebody_says_so(desk: Desk) -> None:
    desk.configure(daily(REQUIRED.format("hold")))
    desk.clock.now = at("2026-11-24T05:30")
    newsroom = desk.open()
    desk.people(newsroom, 2)
    desk.brief("harbour")
    run = Run(desk, Clock(newsroom))
    run.until("2026-11-24T07:30")
    shown = desk.rows("SELECT digest FROM message WHERE variant = ''")
    operating.approve(newsroom, "daily", None, revision=1, actor="operator:me")
    run.until("2026-11-24T07:40")
    assert editions(desk) == [("2026-11-24T07:00", "closed")]
    assert desk.rows("SELECT digest FROM message WHERE variant = ''") == shown


# ------------------------------------------------------------------------------------------ corrections


def text_of(desk: Desk) -> str:
    """What the mails say, in one line."""
    parsed = [message_from_bytes(file.read_bytes(), policy=policy.default) for file in desk.mails]
    return " ".join(" ".join(part.get_content().split()) for mail in parsed if (part := mail.get_body(("plain",))))


def corrected(desk: Desk, slug: str) -> None:
    file = desk.folder / "briefs" / f"{slug}.txt"
    file.write_text(file.read_text(encoding="utf-8").replace("Fact two", "Corrected fact two"), encoding="utf-8")


def test_a_brief_that_is_corrected_before_the_slot_makes_a_new_revision(desk: Desk, newsroom: Newsroom) -> None:
    desk.brief("tram")
    run = Run(desk, Clock(newsroom))
    run.until("2026-11-24T06:50")
    corrected(desk, "tram")
    newsroom.collect()
    assert corrections.amend_all(newsroom) == 1
    assert corrections.amend_all(newsroom) == 0
    run.until("2026-11-24T07:00")
    assert "Corrected fact two about Tram" in text_of(desk)
    assert desk.rows("SELECT max(revision) FROM message") == [(2,)]
    desk.brief("bridge")
    run.until("2026-11-25T07:00")
    assert text_of(desk).count("Tram makes the news") == text_of(desk).count("Tram makes the news")
    assert len(desk.mails) == 6


def test_a_correction_asks_for_approval_again(desk: Desk) -> None:
    desk.configure(daily(REQUIRED.format("hold")))
    desk.clock.now = at("2026-11-24T05:30")
    newsroom = desk.open()
    desk.people(newsroom, 2)
    desk.brief("harbour")
    run = Run(desk, Clock(newsroom))
    run.until("2026-11-24T06:10")
    operating.approve(newsroom, "daily", None, revision=1, actor="operator:me")
    corrected(desk, "harbour")
    newsroom.collect()
    corrections.amend_all(newsroom)
    run.until("2026-11-24T07:00")
    assert editions(desk) == [("2026-11-24T07:00", "draft")], "it has until an hour after the correction"
    with pytest.raises(EditionError, match="revision 2 is the newest"):
        operating.approve(newsroom, "daily", None, revision=1, actor="operator:me")
    operating.approve(newsroom, "daily", None, revision=2, actor="operator:me")
    run.until("2026-11-24T07:01")
    assert "Corrected fact two" in text_of(desk)


def test_nothing_of_a_brief_that_was_pulled_goes_out_and_the_archive_says_so(desk: Desk, newsroom: Newsroom) -> None:
    desk.brief("tram")
    run = Run(desk, Clock(newsroom))
    run.until("2026-11-24T06:55")
    ((tram,),) = desk.rows("SELECT id FROM brief WHERE headline LIKE 'Tram%'")
    corrections.pull(newsroom, tram, actor="operator:me", reason="wrong")
    run.until("2026-11-24T07:00")
    assert editions(desk) == [("2026-11-24T07:00", "closed")]
    assert "Tram" not in text_of(desk)
    (archive,) = desk.rows("SELECT content FROM message WHERE variant = 'web' ORDER BY revision DESC LIMIT 1")
    assert "a brief that stood here" in archive[0]
    assert "Tram" not in archive[0]


def test_a_pulled_brief_that_was_alone_makes_the_draft_anew(desk: Desk, newsroom: Newsroom) -> None:
    run = Run(desk, Clock(newsroom))
    run.until("2026-11-24T06:55")
    ((harbour,),) = desk.rows("SELECT id FROM brief")
    corrections.pull(newsroom, harbour, actor="operator:me", reason=None)
    desk.brief("tram")
    run.until("2026-11-24T07:00")
    assert editions(desk) == [("2026-11-24T07:00", "closed")]
    assert "Harbour" not in text_of(desk)


def test_a_brief_that_was_pulled_holds_up_the_edition_until_its_mail_is_made_anew(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.configure(lambda text: text + '\n[templates]\npath = "mine"\n')
    broken = desk.folder / "mine" / "digest" / "body.mjml.j2"
    broken.parent.mkdir(parents=True)
    desk.clock.now = at("2026-11-24T05:30")
    newsroom = desk.open()
    desk.people(newsroom, 2)
    desk.brief("harbour")
    desk.brief("tram")
    run = Run(desk, Clock(newsroom))
    run.until("2026-11-24T06:55")
    broken.write_text("<mjml>", encoding="utf-8")
    ((tram,),) = desk.rows("SELECT id FROM brief WHERE headline LIKE 'Tram%'")
    with pytest.raises(CompileError):
        corrections.pull(newsroom, tram, actor="operator:me", reason=None)
    run.until("2026-11-24T07:05")
    assert editions(desk) == [("2026-11-24T07:00", "draft")]
    monkeypatch.setattr(corrections, "amend", lambda *_: False)  # pulled between that look and the freeze
    record = newsroom.edition("daily", "2026-11-24T07:00").record
    assert newsroom.freeze("daily", record, consent=False, actor="test") is False
    monkeypatch.undo()
    broken.unlink()
    run.until("2026-11-24T07:20")
    assert editions(desk) == [("2026-11-24T07:00", "closed")]
    assert "Tram" not in text_of(desk)


def under_way(desk: Desk, slug: str, silence: str = "hold") -> tuple[Newsroom, Run]:
    """An edition of which some copies of four have gone out, one by one."""
    desk.configure(
        lambda text: daily(REQUIRED.format(silence))(text).replace(
            "batch_size = 10", "batch_size = 1\n\n[dispatch]\ncalls = 1"
        )
    )
    desk.clock.now = at("2026-11-24T05:30")
    newsroom = desk.open()
    desk.people(newsroom, 4)
    desk.brief(slug)
    clock = Clock(newsroom)
    run = Run(desk, clock)
    run.until("2026-11-24T06:10")
    operating.approve(newsroom, "daily", None, revision=1, actor="operator:me")
    desk.clock.now = at("2026-11-24T07:00")
    record = newsroom.edition("daily", "2026-11-24T07:00").record
    assert newsroom.freeze("daily", record, consent=False, actor="test")
    stop = threading.Event()
    newsroom.dispatch(newsroom.edition("daily", "2026-11-24T07:00").record, report=lambda _: stop.set(), stop=stop)
    return newsroom, run


def test_what_is_corrected_under_way_goes_on_when_it_is_approved_and_no_command_passes_by_that(desk: Desk) -> None:
    newsroom, run = under_way(desk, "harbour")
    before = len(desk.mails)
    corrected(desk, "harbour")
    newsroom.collect()
    corrections.amend_all(newsroom)
    assert editions(desk) == [("2026-11-24T07:00", "paused")]
    with pytest.raises(EditionError, match="waits for approval"):
        newsroom.send("daily", "2026-11-24T07:00")
    run.until("2026-11-24T07:30")
    assert len(desk.mails) == before
    assert 0 < before < 4
    operating.approve(newsroom, "daily", None, revision=2, actor="operator:me")
    run.until("2026-11-24T07:31")
    assert editions(desk) == [("2026-11-24T07:00", "closed")]
    assert len(desk.mails) == 4
    assert text_of(desk).count("Corrected fact two") == 4 - before, "the others had gone out before"


@pytest.mark.parametrize(("silence", "state"), [("send", "closed"), ("hold", "paused"), ("skip", "cancelled")])
def test_silence_about_a_correction_is_answered_by_its_rule_and_told_to_the_desk(
    desk: Desk, silence: str, state: str
) -> None:
    newsroom, run = under_way(desk, "harbour", silence)
    out = len(desk.mails)
    corrected(desk, "harbour")
    newsroom.collect()
    corrections.amend_all(newsroom)
    run.until("2026-11-24T07:59")
    assert len(desk.mails) == out
    run.until("2026-11-24T08:10")
    assert editions(desk) == [("2026-11-24T07:00", state)]
    assert len(desk.mails) == (4 if silence == "send" else out)
    assert state == "closed" or "nobody approved the correction" in reason(desk, "2026-11-24T07:00")
    assert desk.rows("SELECT told FROM edition") == [(state,)]


def test_an_edition_whose_last_brief_is_pulled_after_it_went_out_leaves_the_archive(
    desk: Desk, newsroom: Newsroom
) -> None:
    run = Run(desk, Clock(newsroom))
    run.until("2026-11-24T07:00")
    with reading(newsroom.engine) as session:
        assert len(archive.editions_of(session, newsroom.settings, "daily", before=None, limit=5)) == 1
    ((harbour,),) = desk.rows("SELECT id FROM brief")
    corrections.pull(newsroom, harbour, actor="operator:me", reason=None)
    with reading(newsroom.engine) as session:
        assert archive.editions_of(session, newsroom.settings, "daily", before=None, limit=5) == []
    assert newsroom.edition("daily", "2026-11-24T07:00").tally is not None


@pytest.mark.parametrize("now", ["2026-11-24T06:40", "2026-11-26T06:00"])
def test_what_is_planned_or_held_can_be_cancelled(desk: Desk, newsroom: Newsroom, now: str) -> None:
    (desk.folder / "briefs" / "harbour.txt").unlink()
    run = Run(desk, Clock(newsroom))
    run.look()
    desk.clock.now = at(now) + 11 * 60 * SECOND
    run.look()
    slot, state = editions(desk)[0]
    assert state in {"planned", "held"}
    operating.cancel(newsroom, "daily", slot, actor="operator:me", reason=None)
    run.until("2026-11-26T08:00")
    assert editions(desk)[0] == (slot, "cancelled")


# ------------------------------------------------------------------------------------------ each reader's own zone


def test_each_reader_has_it_when_their_own_clock_shows_the_slot(desk: Desk) -> None:
    desk.configure(daily('schedule = "0 7 * * *"\nsend_at_local = true'))
    desk.clock.now = at("2026-11-23T16:00")
    newsroom = desk.open()
    desk.people(newsroom, 4)
    zones = ("Pacific/Kiritimati", "Asia/Kathmandu", "America/New_York", None)
    with transaction(newsroom.engine) as session:
        for number, zone in enumerate(zones):
            person = session.exec(select(Subscriber).where(Subscriber.address == f"reader{number}@example.org")).one()
            person.zone = zone
    desk.brief("harbour")
    run = Run(desk, Clock(newsroom))
    seen = []
    for end in ("2026-11-23T16:59", "2026-11-23T17:00", "2026-11-24T01:15", "2026-11-24T07:00", "2026-11-24T12:00"):
        run.until(end)
        seen.append(len(desk.mails))
    assert seen == [0, 1, 2, 3, 4]
    assert editions(desk)[0] == ("2026-11-24T07:00", "closed")


# ------------------------------------------------------------------------------------------ round-ups


WEEKLY = """lead = "1m"

[newsletters.weekly]
title = "The Week"
from = "The Week <digest@news.example.org>"
lists = ["daily"]
schedule = "0 9 * * 0"
round_up = "daily"
min_interval = "1h"
"""


def test_a_round_up_carries_what_went_out_in_its_week_and_nothing_twice(desk: Desk) -> None:
    desk.configure(lambda text: text + WEEKLY)
    desk.clock.now = at("2026-11-15T10:00")  # a Sunday
    newsroom = desk.open()
    desk.people(newsroom, 1)
    run = Run(desk, Clock(newsroom))
    for day, slug in ((17, "harbour"), (19, "tram"), (24, "bridge")):
        run.until(f"2026-11-{day}T06:00")
        desk.brief(slug, day=day)
        run.until(f"2026-11-{day}T08:00")
    run.until("2026-11-29T10:00")
    taken = desk.rows(
        "SELECT e.slot, b.headline FROM decision d JOIN edition e ON e.id = d.edition_id"
        " JOIN brief b ON b.id = d.brief_id"
        " WHERE e.newsletter = 'weekly' AND d.verdict = 'taken' ORDER BY e.slot, b.headline"
    )
    assert taken == [
        ("2026-11-22T09:00", "Harbour makes the news"),
        ("2026-11-22T09:00", "Tram makes the news"),
        ("2026-11-29T09:00", "Bridge makes the news"),
    ]


# ------------------------------------------------------------------------------------------ copies


@pytest.mark.sqlite("a file that is copied")
def test_a_copy_of_the_database_sends_nothing_by_itself_until_it_is_claimed(desk: Desk, newsroom: Newsroom) -> None:
    clock = Clock(newsroom)
    clock.refuse_if_elsewhere()
    clock.refuse_if_elsewhere()
    desk.close()
    copy = desk.folder / "copy.db"
    copy.write_bytes((desk.folder / "newsletter.db").read_bytes())
    desk.configure(lambda text: text + '\n[database]\nurl = "sqlite:///copy.db"\n')
    other = Clock(desk.open())
    with pytest.raises(ConfigurationError, match="newsletter db claim"):
        other.refuse_if_elsewhere()
    operating.claim_place(other.newsroom, actor="operator:me")
    other.refuse_if_elsewhere()
