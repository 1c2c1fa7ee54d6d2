"""The check-up that `newsletter doctor` prints: what an operator has to look into is named, and nothing else is bad."""

from sqlalchemy import update

from newsletter.checkup import examine
from newsletter.models import Batch, BatchState
from newsletter.newsroom import Newsroom
from subscribers import transaction
from tests.conftest import Desk


def bad(newsroom: Newsroom) -> list[str]:
    return [finding.what for finding in examine(newsroom) if finding.ok is False]


def _set_batches(newsroom: Newsroom, state: BatchState) -> None:
    with transaction(newsroom.engine) as session:
        session.execute(update(Batch).values(state=state))


def test_an_edition_with_unknown_deliveries_is_named_with_the_command_that_names_them(desk: Desk) -> None:
    newsroom = desk.open()
    desk.people(newsroom, 3)
    desk.brief("harbour")
    newsroom.send("daily")
    assert bad(newsroom) == []
    _set_batches(newsroom, BatchState.UNKNOWN)
    (said,) = bad(newsroom)
    assert said == (
        "unknown deliveries: daily, slot 2026-11-23T07:00: 3 may or may not have been taken; "
        "newsletter editions show daily 2026-11-23T07:00 names them"
    )
    unknown = newsroom.edition("daily", "2026-11-23T07:00").unknown
    assert [one.address for one in unknown] == [f"reader{n}@example.org" for n in range(3)]


def test_an_edition_that_was_skipped_has_nothing_unknown(desk: Desk) -> None:
    newsroom = desk.open()
    desk.people(newsroom, 3)
    assert newsroom.send("daily").tally is None
    assert bad(newsroom) == []
    assert [tally for _, tally in newsroom.editions(50)] == [None]


def test_a_check_up_changes_nothing(desk: Desk) -> None:
    newsroom = desk.open()
    desk.people(newsroom, 1)
    desk.brief("harbour")
    examine(newsroom)
    assert newsroom.editions(50) == []
    assert newsroom.briefs(50) == []
    assert desk.mails == []
