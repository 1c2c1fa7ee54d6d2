"""Notices: durable, mailed once they are due, repeated rather than lost, and never to whom they must not go."""

import os
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlmodel import col, select

from newsletter import notices, people
from newsletter.compile import compile_notice
from newsletter.drafting import sender_of
from newsletter.edition import (
    AttemptId,
    DeliveryId,
    Event,
    Finding,
    Latest,
    Message,
    NoticeContents,
    Receipt,
    Recipient,
    Result,
)
from newsletter.errors import CompileError, ConfigurationError, OutcomeUnknown, Throttled, Unreachable
from newsletter.housekeeping import purge_all
from newsletter.mime import Mould
from newsletter.models import Notice, NoticeKind, NoticeState
from subscribers import (
    ConsentEvent,
    Mail,
    Reason,
    State,
    Subscriber,
    Subscription,
    connect,
    parse,
    reading,
    suppress,
    transaction,
)
from tests import strict_mail
from tests.conftest import NOW, Desk
from tests.site_server import SECRETS, Site, link_in

KINDS = [kind.value for kind in NoticeKind]


@pytest.fixture
def site(desk: Desk) -> Iterator[Site]:
    with Site(desk) as made:
        yield made


@dataclass
class Scripted:
    """A provider that does what a test says, call by call; then it accepts."""

    script: list[Callable[[Sequence[Recipient]], list[Receipt]]] = field(default_factory=list)
    calls: list[list[str]] = field(default_factory=list)
    name = "scripted"
    batch_size = 100
    idempotent = False
    live = False
    atomic: bool = False

    def submit(
        self, message: Message, recipients: Sequence[Recipient], attempt: AttemptId, started: Callable[[], None]
    ) -> Iterator[Receipt]:
        started()
        self.calls.append([recipient.address for recipient in recipients])
        acts = self.script.pop(0) if self.script else accept
        yield from acts(recipients)

    def events(self, headers: object, body: bytes) -> Sequence[Event]:
        return ()

    def check(self) -> Sequence[Finding]:
        return ()

    def close(self) -> None:
        pass


def accept(recipients: Sequence[Recipient]) -> list[Receipt]:
    return [Receipt(recipient.delivery, Result.ACCEPTED) for recipient in recipients]


def failing(error: Exception) -> Callable[[Sequence[Recipient]], list[Receipt]]:
    def fail(recipients: Sequence[Recipient]) -> list[Receipt]:
        raise error

    return fail


def run(site: Site, provider: Scripted) -> dict[str, int]:
    newsroom = site.newsroom
    notices.settle_requests(newsroom.engine, newsroom.settings, newsroom.clock)
    sender = notices.Sender(newsroom.engine, newsroom.settings, provider, newsroom.clock, jitter=lambda: 1.0)
    return {str(state): count for state, count in sender.run().items()}


def rows(site: Site) -> list[Notice]:
    with reading(site.newsroom.engine) as session:
        return list(session.exec(select(Notice).order_by(col(Notice.id))))


# ---------------------------------------------------------------------------------------------- sending


def test_what_fails_is_due_again_and_what_is_taken_is_done(site: Site) -> None:
    site.join("ada@example.org")
    provider = Scripted([failing(Unreachable("p", "no route")), failing(OutcomeUnknown("p", "cut off"))])
    assert run(site, provider) == {"pending": 1}
    assert run(site, provider) == {}, "not before it is due"
    site.desk.clock.forward(timedelta(minutes=1))
    assert run(site, provider) == {"pending": 1}
    site.desk.clock.forward(timedelta(minutes=1))
    assert run(site, provider) == {"done": 1}
    assert run(site, provider) == {}
    assert provider.calls == [["ada@example.org"]] * 3


def test_it_is_given_up_after_many_tries_but_waiting_as_asked_counts_as_none(site: Site) -> None:
    site.join("ada@example.org")
    provider = Scripted([failing(Throttled("p", timedelta(minutes=5)))] * 20)
    for _ in range(20):
        assert run(site, provider) == {"pending": 1}
        site.desk.clock.forward(timedelta(minutes=5))
    assert rows(site)[0].tries == 0
    provider = Scripted([failing(Unreachable("p", "no route"))] * notices.MOST_TRIES)
    for _ in range(notices.MOST_TRIES):
        outcome = run(site, provider)
        site.desk.clock.forward(timedelta(minutes=16))
    assert outcome == {"refused": 1}
    assert rows(site)[0].note == "p cannot be reached: no route"


def test_one_refused_address_costs_no_other_its_mail(site: Site) -> None:
    for name in ("ada", "bob", "cyd"):
        site.join(f"{name}@example.org")

    def refuse_bob(recipients: Sequence[Recipient]) -> list[Receipt]:
        return [
            Receipt(one.delivery, Result.REFUSED if "bob" in one.address else Result.ACCEPTED, "no such mailbox")
            for one in recipients
        ]

    assert run(site, Scripted([refuse_bob])) == {"done": 2, "refused": 1}
    assert [str(row.state) for row in rows(site)] == ["done", "refused", "done"]


def test_a_process_that_dies_in_the_call_leaves_it_to_the_next(site: Site) -> None:
    site.join("ada@example.org")
    with pytest.raises(KeyboardInterrupt):
        run(site, Scripted([failing(KeyboardInterrupt())]))  # type: ignore[arg-type] # as bare as a kill
    assert [row.state for row in rows(site)] == [NoticeState.CALLING]
    assert run(site, Scripted()) == {}, "it may still be in the call"
    site.desk.clock.forward(site.newsroom.settings.dispatch.lease)
    assert run(site, Scripted()) == {"done": 1}


def test_a_call_that_began_by_a_clock_that_was_days_ahead_is_not_waited_for(site: Site) -> None:
    site.join("ada@example.org")
    site.desk.clock.forward(timedelta(days=3))
    with pytest.raises(KeyboardInterrupt):
        run(site, Scripted([failing(KeyboardInterrupt())]))  # type: ignore[arg-type] # as bare as a kill
    site.desk.clock.forward(timedelta(days=-3))
    assert run(site, Scripted()) == {"done": 1}


def test_nothing_is_sent_while_dispatch_is_halted(site: Site) -> None:
    site.join("ada@example.org")
    site.newsroom.halt("test", None)
    assert run(site, provider := Scripted()) == {}
    site.newsroom.unhalt("test")
    assert (run(site, provider), len(provider.calls)) == ({"done": 1}, 1)


def test_a_live_provider_needs_its_claim(site: Site) -> None:
    site.join("ada@example.org")
    provider = Scripted()
    provider.live = True
    with pytest.raises(ConfigurationError, match="instance"):
        run(site, provider)
    assert (provider.calls, rows(site)[0].state) == ([], NoticeState.PENDING)


def test_what_is_no_longer_wanted_is_not_sent(desk: Desk) -> None:
    with Site(desk, '\n[dispatch]\nonly_to = ["example.org"]\n') as site:
        for address in ("gone@example.org", "barred@example.org", "there@example.org", "far@example.net"):
            site.join(address)
        newsroom = site.newsroom
        notices.settle_requests(newsroom.engine, newsroom.settings, newsroom.clock)
        people.suppress(newsroom, "barred@example.org", actor="test", note=None)
        people.leave(newsroom, "there@example.org", None, actor="test")
        people.forget_address(newsroom, "gone@example.org", actor="test")
        assert run(site, provider := Scripted()) == {"dropped": 3}
        assert provider.calls == []
        assert [row.note for row in rows(site)] == [
            "suppressed since", "no request waits any more", "outside dispatch.only_to",
        ]  # fmt: skip


def test_people_who_ask_alike_share_a_call_and_each_has_their_own_link(site: Site) -> None:
    for name in ("ada", "bob"):
        site.join(f"{name}@example.org")
    site.join("cyd@example.org", "/join/daily?lang=de")
    mails = {str(mail["To"]): mail for mail in site.work()}
    assert len({link_in(mail, "c") for mail in mails.values()}) == 3
    assert mails["cyd@example.org"]["Subject"] != mails["ada@example.org"]["Subject"]


def test_a_row_that_sqlite_numbers_again_is_another_mail(site: Site) -> None:
    """The outbox takes no copy twice under one name: the second person would never be mailed."""
    for address in ("ada@example.org", "bob@example.org"):
        site.join(address)
        (mail,) = site.work()
        assert mail["To"] == address
        people.forget_address(site.newsroom, address, actor="test")


@pytest.mark.sqlite("only there is the number of a row that is gone given again")
def test_nobody_is_mailed_anothers_link_where_a_row_is_numbered_again(desk: Desk) -> None:
    with Site(desk) as site:
        site.join("ada@example.org")
        newsroom = site.newsroom
        notices.settle_requests(newsroom.engine, newsroom.settings, newsroom.clock)
        with transaction(newsroom.engine) as session:  # as if the request had expired while the notice waited
            session.delete(session.exec(select(Subscription)).one())
        site.join("bob@example.org")
        notices.settle_requests(newsroom.engine, newsroom.settings, newsroom.clock)
        assert [notice.about_id for notice in rows(site)] == [1, 1]
        assert run(site, provider := Scripted()) == {"dropped": 1, "done": 1}
        assert provider.calls == [["bob@example.org"]]


# ---------------------------------------------------------------------------------------------- the mails


@pytest.mark.parametrize("language", ["en", "de", "ar"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_notice_compiles_in_every_language_and_stands_the_strict_parsers(
    site: Site, kind: str, language: str
) -> None:
    settings = site.newsroom.settings
    contents = NoticeContents(
        kind=kind,
        newsletter_id="daily",
        newsletter=settings.newsletters["daily"],
        site=settings.site,
        language=language,
        nonce="n00aa11bb22cc",
        lists=("Daily <news>", "Weekly & more"),
        latest=Latest("The subject", "/e/daily/2026-11-23-0700", ("A headline", "Another <b>one</b>")),
        link_lasts=timedelta(hours=1),
        request_lasts=timedelta(days=7),
    )
    message = compile_notice(contents, sender_of(settings, "daily"))
    reader = Recipient(DeliveryId("n1"), "ada@example.org", None, "t", "https://news.example.org/c/1.2.x")
    mail = Mould(message).fill(reader, site.desk.clock())
    assert ("Auto-Submitted" in strict_mail.read(mail).raw) is (kind != "welcome"), "a welcome belongs to its list"
    for part in (message.html, message.text):
        filled = message.fill(part, reader.values(message.sender))
        assert "https://news.example.org/c/1.2.x" in filled
        assert "[[" not in filled
        assert "<b>one</b>" not in message.html
    assert f'lang="{language}"' in message.html
    assert ('dir="rtl"' in message.html) is (language == "ar")


def test_a_notice_without_its_link_is_not_sent(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "confirm").mkdir(parents=True)
    (folder / "confirm" / "body.txt.j2").write_text("Hello.\n{{ postal_address }}\n")
    site.desk.file.write_text(site.desk.file.read_text() + f'\n[templates]\npath = "{folder}"\n')
    site.join("ada@example.org")
    with Site(site.desk) as changed:
        with pytest.raises(CompileError, match=r"confirm/body\.txt\.j2.*fields\.action_url"):
            run(changed, provider := Scripted())
        assert provider.calls == []
        assert rows(changed)[0].state is NoticeState.PENDING, "and nothing is lost"


# ---------------------------------------------------------------------------------------------- inviting


def test_those_who_were_added_pending_are_invited_once_and_so_many_an_hour(desk: Desk) -> None:
    with Site(desk, "\n[subscribers]\ninvites_per_hour = 3\n") as site:
        newsroom = site.newsroom
        wanted = [(str(number), f"p{number}@example.org") for number in range(5)]
        people.add(newsroom, wanted, "daily", evidence=None, actor="test")
        people.suppress(newsroom, "p0@example.org", actor="test", note=None)
        assert people.invite(newsroom, "daily", limit=None, actor="test") == (3, 2)
        assert people.invite(newsroom, "daily", limit=None, actor="test") == (0, 2)
        assert sorted(str(mail["To"]) for mail in site.work()) == ["p1@example.org", "p2@example.org"]
        desk.clock.forward(timedelta(hours=1, seconds=1))
        assert people.invite(newsroom, "daily", limit=1, actor="test") == (1, 1)
        (mail,) = site.work()
        assert site.post(link_in(mail, "c")).status == 200
        assert people.invite(newsroom, "daily", limit=None, actor="test") == (1, 0)
        desk.clock.forward(timedelta(days=8))
        site.work()
        left = [people.show(newsroom, f"p{number}@example.org").subscriber is not None for number in range(5)]
        assert left == [True, False, False, True, False], "who does not answer is gone; p0 is suppressed, p3 confirmed"
        assert people.invite(newsroom, "daily", limit=None, actor="test") == (0, 0)


# ---------------------------------------------------------------------------------------------- purging


def test_time_takes_away_what_has_had_its_time_and_leaves_the_proof(site: Site) -> None:
    link = site.confirmed("ada@example.org")
    site.confirmed("left@example.org")
    people.leave(site.newsroom, "left@example.org", None, actor="test")
    site.desk.clock.forward(timedelta(hours=2))
    for address in ("never@example.org", "left@example.org"):
        site.join(address)
    people.add(site.newsroom, [("1", "added@example.org")], "daily", evidence=None, actor="test")
    site.work()
    site.desk.clock.forward(timedelta(days=8))
    assert purge_all(site.newsroom) > 0
    assert purge_all(site.newsroom) == 0
    assert people.show(site.newsroom, "never@example.org").subscriber is None
    assert [str(state) for _, state, _ in people.show(site.newsroom, "left@example.org").subscriptions] == [
        "unsubscribed"
    ]
    added = people.add(site.newsroom, [("1", "left@example.org")], "daily", evidence="a file", actor="test")
    assert added.new == 0, "whoever left has not been made anybody new by asking and forgetting"
    assert [str(state) for _, state, _ in people.show(site.newsroom, "added@example.org").subscriptions] == ["pending"]
    with reading(site.newsroom.engine) as session:
        assert session.exec(select(ConsentEvent).where(col(ConsentEvent.ip).is_not(None))).first()
    site.desk.clock.forward(timedelta(days=90))
    purge_all(site.newsroom)
    with reading(site.newsroom.engine) as session:
        events = list(session.exec(select(ConsentEvent)))
        assert [one for one in events if one.ip or one.agent] == []
        assert [one for one in events if one.statement_id], "the words that were agreed to stay"
        assert session.exec(select(Notice)).all() == []
        assert len(session.exec(select(Subscriber)).all()) == 3
        assert len(session.exec(select(Subscription)).all()) == 3
    assert site.ask(f"/u/{link}/daily").status == 200


def test_a_request_ends_so_long_after_the_person_first_asked_whoever_added_them_before(site: Site) -> None:
    people.add(site.newsroom, [("1", "ada@example.org"), ("2", "bob@example.org")], "daily", evidence=None, actor="t")
    site.desk.clock.forward(timedelta(days=400))
    site.join("ada@example.org")
    (mail,) = site.work()
    people.invite(site.newsroom, "daily", limit=None, actor="t")
    site.desk.clock.forward(timedelta(days=4))
    site.join("ada@example.org")
    again = [one for one in site.work() if one["To"] == "ada@example.org"]
    site.desk.clock.forward(timedelta(days=2))
    purge_all(site.newsroom)
    for one in (mail, *again):
        assert site.ask(link_in(one, "c")).status == 200, "the links are good as long as they say"
    site.desk.clock.forward(timedelta(days=2))
    purge_all(site.newsroom)
    assert people.show(site.newsroom, "ada@example.org").subscriber is None, "asking again does not lengthen it"
    assert people.show(site.newsroom, "bob@example.org").subscriber is None


def test_whoever_cannot_be_invited_again_does_not_wait_for_it_for_ever(site: Site) -> None:
    site.confirmed("ada@example.org")
    people.change_list(site.newsroom, "weekly", new=True)
    for _ in range(2):
        people.add(site.newsroom, [("1", "ada@example.org")], "weekly", evidence=None, actor="t")
        people.invite(site.newsroom, "weekly", limit=None, actor="t")
        site.desk.clock.forward(timedelta(days=8))
        purge_all(site.newsroom)
        standing = people.show(site.newsroom, "ada@example.org").subscriptions
        assert [slug for slug, *_ in standing] == ["daily"]


def test_nobody_who_said_no_is_invited_whoever_put_them_down_as_pending(site: Site) -> None:
    for name in ("left", "all", "complained"):
        people.add(site.newsroom, [("1", f"{name}@example.org")], "daily", evidence="paper", actor="t")
        person = people.show(site.newsroom, f"{name}@example.org").subscriber
        assert person is not None
        if name == "complained":
            with transaction(site.newsroom.engine) as session:
                suppress(session, parse("complained@example.org"), Reason.COMPLAINT, now=NOW, actor="t", note=None)
            people.unsuppress(site.newsroom, "complained@example.org", actor="t", note=None)
        site.choose(person.link, {"choice": "all" if name == "all" else "this"})
    with transaction(site.newsroom.engine) as session:  # as versions did that let an operator's adding do so
        for one in session.exec(select(Subscription)):
            one.state = State.PENDING
    people.add(site.newsroom, [("1", "new@example.org")], "daily", evidence=None, actor="t")
    assert people.invite(site.newsroom, "daily", limit=None, actor="t") == (1, 0)
    assert [str(mail["To"]) for mail in site.work()] == ["new@example.org"]


# ---------------------------------------------------------------------------------------------- for real


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_work_beside_the_pages_ends_cleanly_at_a_signal(desk: Desk, number: signal.Signals) -> None:
    with Site(desk) as site:
        site.join("ada@example.org")
    command = [str(Path(sys.executable).parent / "newsletter"), "notices", "work", "--with-parent"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=desk.folder, env={**os.environ, **SECRETS}, stdin=pipe, stderr=pipe, text=True
    ) as process:
        for _ in range(200):
            if desk.mails:  # it is at work, and its other thread waits for the end of its input
                break
            time.sleep(0.1)
        process.send_signal(number)
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert len(desk.mails) == 1


@pytest.mark.slow
def test_a_site_that_is_killed_mails_after_it_is_started_again(desk: Desk) -> None:
    """Killed at moments after forms were taken; whoever was told “look into your mailbox” gets a mail."""
    environ = {**os.environ, **SECRETS}
    command = [str(Path(sys.executable).parent / "newsletter"), "serve", "--port", "0"]

    def start() -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(command, cwd=desk.folder, env=environ, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        line = process.stdout.readline()
        return process, line.rpartition(" ")[2].strip()

    desk.file.write_text(desk.file.read_text() + '\n[subscribers]\nfastest_form = "0s"\n')
    asked = []
    for moment in range(3):
        process, url = start()
        with process:
            for number in range(2):
                page = urllib.request.urlopen(f"{url}/join/daily", timeout=10).read().decode()
                ticket = page.partition('name="ticket" value="')[2].partition('"')[0]
                address = f"p{moment}.{number}@example.org"
                body = urllib.parse.urlencode({"address": address, "ticket": ticket}).encode()
                with urllib.request.urlopen(f"{url}/join/daily", body, timeout=10) as answer:
                    assert answer.status == 200
                asked.append(address)
            time.sleep(0.15 * moment)
            process.send_signal(signal.SIGKILL)
    process, _ = start()
    with process:
        for _ in range(200):
            told = {line for path in desk.mails for line in path.read_text().splitlines() if line.startswith("To: ")}
            ((requests,),) = desk.rows("SELECT count(*) FROM request WHERE settled_at IS NULL")
            ((notices,),) = desk.rows("SELECT count(*) FROM notice WHERE state = 'pending'")
            if len(told) == len(asked) or requests + notices == 0:  # else the rest was in the call at a kill
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, "and it ends cleanly"
    left = [path.read_text() for path in desk.mails]
    unheard = [address for address in asked if not any(f"To: {address}" in mail for mail in left)]
    with reading(desk_database(desk)) as session:
        calling = session.exec(select(Notice).where(Notice.state == NoticeState.CALLING)).all()
    assert len(unheard) <= len(calling), "only what was in the call at the kill waits, for its lease to run out"


def desk_database(desk: Desk) -> Engine:
    return connect(desk.url)


def test_each_mail_that_the_list_asks_for_is_a_notice() -> None:
    assert {mail.value for mail in Mail} == set(KINDS)
