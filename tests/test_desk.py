"""What the desk is told: once, by each channel, without a subscriber's address, and rather twice than never."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from pydantic import SecretStr
from sqlmodel import Session

from newsletter import control, desk, operating, store
from newsletter.desk import Said, Urgency
from newsletter.models import (
    Approval,
    Channel,
    DeskKind,
    DeskNotice,
    EditionRecord,
    EditionState,
)
from newsletter.newsroom import Newsroom
from newsletter.schedule import Slot
from newsletter.settings import Settings
from subscribers import reading, transaction
from tests.conftest import NOW, Desk

SLOT = "2026-11-23T07:00"
DESK = '\n[desk]\nmail = ["Morning desk <desk@news.example.org>", "night@news.example.org"]\n'


def told(room: Newsroom) -> list[tuple[DeskNotice, Said]]:
    with reading(room.engine) as session:
        return [(one, desk.stored(one)) for one in reversed(desk.listed(session, 100))]


def with_hook(settings: Settings, url: str = "https://hooks.example.org/services/T0/B0/secret") -> Settings:
    changed = settings.desk.model_copy(update={"webhook": SecretStr(url)})
    return settings.model_copy(update={"desk": changed})


@pytest.fixture
def room(desk: Desk) -> Newsroom:
    """A newsroom whose desk has two mailboxes and a webhook, five readers and two briefs."""
    desk.configure(lambda text: text + DESK)
    made = desk.open()
    made.settings = with_hook(made.settings)
    desk.people(made, 5)
    desk.brief("bridges")
    desk.brief("rivers")
    return made


def change(room: Newsroom, do: Callable[[Session, EditionRecord], object]) -> None:
    """Do something to the one edition there is, and tell the desk."""
    with transaction(room.engine) as session:
        record = store.editions(session, None, 1)[0]
        do(session, record)
        session.flush()
        desk.tell_edition(session, room.settings, record, room.clock())


def as_state(state: EditionState, reason: str) -> Callable[[Session, EditionRecord], None]:
    def put(session: Session, record: EditionRecord) -> None:
        del session
        record.state, record.reason = state, reason

    return put


# ------------------------------------------------------------------------------------------ telling


def test_an_edition_that_went_out_is_reported_with_its_sum_its_pace_its_briefs_and_what_was_left(
    desk: Desk, room: Newsroom
) -> None:
    desk.configure(lambda text: text.replace("lists =", "max_briefs = 1\nlists =") + DESK)
    desk.open().send("daily", SLOT)
    change(room, lambda session, record: setattr(record, "closed_at", NOW + timedelta(seconds=5)))
    [(notice, said)] = told(room)
    assert notice.subject == "The Test Digest 2026-11-23 07:00: 5 of 5 accepted"
    assert (notice.kind, notice.channel, said.urgency) == (DeskKind.REPORT, Channel.MAIL, Urgency.NEWS)
    rows = dict(said.rows)
    assert (rows["Candidates"], rows["Accepted"]) == ("5", "5")
    assert rows["Over"] == "08:00:05 UTC, after 5 s"
    assert rows["Pace"] == "1 a second"
    assert rows["Brief 1"].endswith("makes the news")
    assert "makes the news: " in rows["Left"]
    assert said.command is None


def test_what_is_held_says_why_and_the_command_that_lets_it_go_on(room: Newsroom) -> None:
    room.send("daily", SLOT)
    change(room, as_state(EditionState.HELD, "nobody approved"))
    (mail, said), (hook, same) = told(room)
    assert mail.subject == "The Test Digest 2026-11-23 07:00 HELD: nobody approved"
    assert {mail.channel, hook.channel} == {Channel.MAIL, Channel.HOOK}
    assert said == same
    assert said.urgency is Urgency.NOW
    assert dict(said.rows)["Why"] == "nobody approved"
    assert said.command == f"newsletter editions approve daily {SLOT} --revision 1"


def test_what_is_paused_is_told_each_time_that_it_is_paused_and_once_each_time(room: Newsroom) -> None:
    room.send("daily", SLOT)
    pausing = as_state(EditionState.PAUSED, "the key was revoked")
    for _ in range(3):
        change(room, pausing)
    assert len(told(room)) == 2  # by two channels
    change(room, lambda session, record: control.resume(session, record, actor="kim", now=NOW))
    assert len(told(room)) == 2
    change(room, pausing)
    assert len(told(room)) == 4
    assert told(room)[-1][1].command == f"newsletter editions resume daily {SLOT}"


def test_what_is_skipped_or_cancelled_says_why_and_by_whom(desk: Desk, room: Newsroom) -> None:
    for brief in (desk.folder / "briefs").glob("*"):
        brief.unlink()
    room.send("daily", SLOT)
    change(room, lambda session, record: None)
    assert told(room)[0][0].subject == "The Test Digest 2026-11-23 07:00 SKIPPED: 0 briefs, fewer than min_briefs = 1"
    operating.cancel(room, "daily", SLOT, actor="operator:kim", reason="the minister resigned")
    change(room, lambda session, record: None)
    assert told(room)[-1][0].subject.endswith("CANCELLED: by operator:kim: the minister resigned")


def test_copies_of_which_nobody_knows_are_something_to_look_into(room: Newsroom) -> None:
    room.send("daily", SLOT)
    with transaction(room.engine) as session:
        session.connection().exec_driver_sql("UPDATE batch SET state = 'unknown'")
    change(room, lambda session, record: None)
    (mail, said), (hook, _) = told(room)
    assert hook.channel is Channel.HOOK
    assert mail.subject.endswith("0 of 5 accepted, 5 unknown")
    assert said.command == f"newsletter editions show daily {SLOT}"


def test_no_address_is_ever_told(room: Newsroom) -> None:
    room.send("daily", SLOT)
    change(room, as_state(EditionState.PAUSED, "550 reader3@example.org: no such user (Reader3%40Example.ORG)"))
    for notice, said in told(room):
        kept = f"{notice.subject} {notice.content} {said}".casefold()
        assert "reader3" not in kept
        assert "no such user" in kept


def test_where_nobody_is_to_be_told_nothing_is_written_and_the_edition_counts_as_told(desk: Desk) -> None:
    room = desk.open()
    room.send("daily", SLOT)
    change(room, as_state(EditionState.HELD, "nobody approved"))
    assert told(room) == []
    with reading(room.engine) as session:
        assert store.editions(session, None, 1)[0].told == EditionState.HELD


def test_reports_that_are_not_wanted_are_not_mailed_but_what_keeps_readers_waiting_is(desk: Desk) -> None:
    desk.configure(lambda text: text + DESK + "reports = false\n")
    room = desk.open()
    desk.people(room, 2)
    desk.brief("bridges")
    room.send("daily", SLOT)
    change(room, lambda session, record: None)
    assert told(room) == []
    change(room, as_state(EditionState.PAUSED, "the key was revoked"))
    assert len(told(room)) == 1


def test_a_key_is_told_once_by_each_channel_whoever_tells_it(room: Newsroom) -> None:
    said = Said("The sky fell", urgency=Urgency.NOW)
    for expected in (True, False, False):
        with transaction(room.engine) as session:
            new = desk.tell(
                session, room.settings, DeskKind.ALERT, key="sky", subject="The sky fell", said=said, now=NOW
            )
        assert new is expected
    assert {one.channel for one, _ in told(room)} == set(Channel)


# ------------------------------------------------------------------------------------------ proofs


def draft(room: Newsroom) -> None:
    made = room.draft("daily", Slot.parse(SLOT, "UTC"))
    room._write("daily", made)


def prove(room: Newsroom, approval: Approval | None, **approve: object) -> bool:
    with transaction(room.engine) as session:
        record = store.editions(session, None, 1)[0]
        record.approval = approval
        for name, value in approve.items():
            setattr(record, name, value)
        message = store.message_record(session, record.id or 0)
        assert message is not None
        return desk.tell_proof(session, room.settings, record, message, NOW, remarks=["bridges: no alt text"])


def test_a_proof_says_until_when_by_which_command_and_what_silence_means(room: Newsroom) -> None:
    draft(room)
    by = NOW + timedelta(minutes=30)
    assert prove(room, Approval.WAITING, approve_by=by)
    assert not prove(room, Approval.WAITING, approve_by=by)
    [(notice, said)] = told(room)
    assert notice.subject == "[Proof] The Test Digest 2026-11-23 07:00: approve by 08:30:00 UTC"
    assert said.command == f"newsletter editions approve daily {SLOT} --revision 1"
    assert said.paragraphs == (
        "It waits for approval until 08:30:00 UTC. If nobody says anything by then, it is held.",
    )
    assert ("Note", "bridges: no alt text") in said.rows


def test_a_proof_that_needs_no_answer_goes_only_where_proofs_are_wanted(desk: Desk) -> None:
    desk.configure(lambda text: text + DESK + "proofs = false\n")
    room = desk.open()
    desk.brief("bridges")
    draft(room)
    assert not prove(room, None)
    assert prove(room, Approval.WAITING)
