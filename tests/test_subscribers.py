"""Promise 6: consent wins. Who may be mailed, how that came about, and links that allow no more than they say."""

import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, select, text
from sqlmodel import Session, col

from newsletter import migrations
from newsletter.newsroom import Newsroom
from newsletter.settings import Settings
from subscribers import (
    AddressError,
    ConsentEvent,
    MailingList,
    NotAllowed,
    Origin,
    Reason,
    State,
    Subscriber,
    Subscription,
    TokenError,
    UnknownList,
    Way,
    add_confirmed,
    ask,
    audience,
    confirm,
    confirmation_token,
    connect,
    ensure_list,
    find,
    leave,
    list_by_slug,
    new_link,
    parse,
    reading,
    suppress,
    transaction,
)
from subscribers.tokens import sign, verify
from tests import databases
from tests.conftest import CONFIGURATION

NOW = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
SECRET = b"a secret of more than 32 characters"
ADA = parse("Ada Lovelace <ada@example.org>")
BOB = parse("bob@example.org")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = connect(databases.empty(tmp_path / "list.db"))
    migrations.upgrade(made)
    yield made
    made.dispose()


# ------------------------------------------------------------------------------------------ addresses


@pytest.mark.parametrize(
    ("given", "address", "name"),
    [
        ("ada@example.org", "ada@example.org", None),
        ("  ada@example.org\n", "ada@example.org", None),
        ("<ada@example.org>", "ada@example.org", None),
        ("Ada <ada@example.org>", "ada@example.org", "Ada"),
        ("Ada<ada@example.org>", "ada@example.org", "Ada"),
        ('"Lovelace, Ada" <ada@example.org>', "ada@example.org", "Lovelace, Ada"),
        ('"The \\"Countess\\"" <ada@example.org>', "ada@example.org", 'The "Countess"'),
        ('"Ada <3" <ada@example.org>', "ada@example.org", "Ada <3"),
        ("ADA@EXAMPLE.ORG", "ADA@example.org", None),
        ("ada+desk@sub.example.org", "ada+desk@sub.example.org", None),
        ("o'brien@example.org", "o'brien@example.org", None),
        ("a_b-c.d@example.org", "a_b-c.d@example.org", None),
        ("ada@bücher.example", "ada@xn--bcher-kva.example", None),
        ("ada@例え.jp", "ada@xn--r8jz45g.jp", None),
        ("ädä@example.org", "ädä@example.org", None),
        ("a\u0308da@example.org", "äda@example.org", None),
        ("x" * 64 + "@example.org", "x" * 64 + "@example.org", None),
    ],
)
def test_an_address_is_read_as_it_is_mailed_to(given: str, address: str, name: str | None) -> None:
    mailbox = parse(given)
    assert (mailbox.address, mailbox.name) == (address, name)


@pytest.mark.parametrize(
    "given",
    [
        "",
        " ",
        "ada",
        "@example.org",
        "ada@",
        "ada@example",
        "ada@localhost",
        "ada@[127.0.0.1]",
        "ada@1.2.3.4",
        "ada@example..org",
        "ada@example.org.",
        "ada@-example.org",
        "ada@exa_mple.org",
        ".ada@example.org",
        "ada.@example.org",
        "a..da@example.org",
        "a da@example.org",
        '"a da"@example.org',
        "ada(x)@example.org",
        "mailto:ada@example.org",
        "ada@example.org, bob@example.org",
        "Ada ada@example.org",
        "Ada <ada@example.org> Byron",
        "Ada <<ada@example.org>>",
        "Ada <>",
        "ada＠example.org",
        "ada\u200b@example.org",
        "ada@example.org\r\nBcc: bob@example.org",
        "ada@exa\x00mple.org",
        "ada\ud800@example.org",
        "x" * 65 + "@example.org",
        "ada@" + "x" * 64 + ".org",
        "ada@" + "x." * 130 + "org",
    ],
)
def test_what_is_no_address_is_refused_in_one_line_that_names_no_address(given: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse(given)
    said = str(caught.value)
    assert said.startswith("expected an address such as ada@example.org: ")
    assert said.isprintable()
    assert "bob@" not in said


@pytest.mark.parametrize("odd", ["\r\n", "\n", "\r", "\x00", "\x85", "\u2028", "\u2029", "\x07", "\t", "\ud800"])
def test_a_name_is_cleaned_of_what_would_break_a_header(odd: str) -> None:
    assert parse(f"Ada{odd}Bcc: x <ada@example.org>").name == "Ada Bcc: x"
    assert parse(f"{odd} <ada@example.org>").name is None


def test_a_name_is_cut_where_no_name_is_that_long() -> None:
    assert len(parse("A" * 300 + " <ada@example.org>").name or "") == 100


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ada@example.org", "ADA@Example.ORG"),
        ("ada@example.org", "Ada <ada@example.org>"),
        ("äda@example.org", "a\u0308da@example.org"),
        ("ÄDA@example.org", "äda@example.org"),
        ("ada@bücher.example", "ada@XN--BCHER-KVA.example"),
        ("ada@BÜCHER.example", "ada@bu\u0308cher.example"),
        ("ada@ｅxample.org", "ada@example.org"),
    ],
)
def test_two_spellings_of_one_mailbox_share_a_key(one: str, other: str) -> None:
    assert parse(one).key == parse(other).key


@pytest.mark.parametrize(
    ("one", "other"),
    [("ada@example.org", "ada@example.com"), ("ada@example.org", "a.da@example.org"), ("a@x.org", "a+b@x.org")],
)
def test_different_mailboxes_keep_different_keys(one: str, other: str) -> None:
    assert parse(one).key != parse(other).key


@given(st.text(max_size=60) | st.text(alphabet='a.@<>" \\\r\n-', max_size=60))
def test_any_text_is_an_address_or_an_address_error(given: str) -> None:
    try:
        mailbox = parse(given)
    except AddressError:
        return
    assert parse(mailbox.address).key == mailbox.key
    assert not set(mailbox.address) & set("\r\n\x00 <>")
    assert mailbox.name is None or mailbox.name.splitlines() == [mailbox.name]


@pytest.mark.parametrize("hostile", [" " * 100_000, " " * 100_000 + "<", '"' + '\\"' * 50_000, "a " * 50_000 + "<"])
def test_a_hostile_text_costs_no_more_than_its_length(hostile: str) -> None:
    started = time.perf_counter()
    with pytest.raises(AddressError):
        parse(hostile)
    assert time.perf_counter() - started < 1


# ------------------------------------------------------------------------------------------ tokens


def test_a_token_lets_its_bearer_do_one_thing_until_it_expires() -> None:
    token = sign("confirm", 7, NOW + timedelta(days=7), SECRET)
    assert verify(token, "confirm", NOW, SECRET) == 7
    assert verify(token, "confirm", NOW + timedelta(days=7, seconds=-1), SECRET) == 7
    with pytest.raises(TokenError, match="expired"):
        verify(token, "confirm", NOW + timedelta(days=7), SECRET)


def test_a_token_for_another_purpose_or_under_another_secret_is_refused() -> None:
    token = sign("confirm", 7, NOW + timedelta(days=7), SECRET)
    for purpose, secret in (("forget", SECRET), ("confirm", SECRET + b"2")):
        with pytest.raises(TokenError, match="not ours"):
            verify(token, purpose, NOW, secret)


def test_a_token_changed_anywhere_is_refused() -> None:
    token = sign("confirm", 7, NOW + timedelta(days=7), SECRET)
    for place, character in enumerate(token):
        for other in "A0.-":
            if other != character:
                with pytest.raises(TokenError):
                    verify(token[:place] + other + token[place + 1 :], "confirm", NOW, SECRET)
    for broken in ("", token[:-1], token + "A", token + "\n", " " + token, token.replace(".", ""), "7.9.ä" * 5):
        with pytest.raises(TokenError):
            verify(broken, "confirm", NOW, SECRET)


def test_links_are_unguessable_and_name_nobody() -> None:
    links = {new_link() for _ in range(1000)}
    assert len(links) == 1000
    assert all(len(link) == 22 and link.replace("-", "a").replace("_", "a").isalnum() for link in links)
    assert new_link(bytes) == "A" * 22, "randomness is an argument"


# ------------------------------------------------------------------------------------------ the life of a subscription


def _events(engine: Engine) -> list[tuple[int | None, str, str, str | None]]:
    with reading(engine) as session:
        rows = session.execute(select(ConsentEvent).order_by(col(ConsentEvent.id))).scalars()
        return [(row.id, row.event, row.actor, row.evidence) for row in rows]


def _daily(session: Session) -> MailingList:
    return ensure_list(session, "daily", "Daily", NOW)


def _do(engine: Engine, act: Callable[[Session], object]) -> None:
    with transaction(engine) as session:
        act(session)


def _state(engine: Engine, slug: str = "daily") -> State | None:
    with reading(engine) as session:
        return session.execute(
            select(col(Subscription.state)).join(MailingList).where(col(MailingList.slug) == slug)
        ).scalar_one_or_none()


def _ask(session: Session) -> Subscription:
    return ask(session, ADA, _daily(session), now=NOW, actor="subscriber")


def _ask_by_form(session: Session) -> Subscription:
    return ask(session, ADA, _daily(session), now=NOW, actor="visitor", origin=Origin(Way.FORM))


def _add(session: Session) -> tuple[Subscription, bool]:
    return add_confirmed(session, ADA, _daily(session), now=NOW, actor="operator:x", evidence="signed on paper")


def _leave(session: Session) -> int:
    found = find(session, ADA)
    assert found is not None
    return leave(session, found, None, now=NOW, actor="subscriber").changed


def test_asking_confirming_and_leaving_each_count_once(engine: Engine) -> None:
    tokens = []
    for _ in range(3):
        with transaction(engine) as session:
            subscription = _ask(session)
            tokens.append(confirmation_token(session, subscription, now=NOW, secret=SECRET))
    assert _state(engine) is State.PENDING
    for token in tokens:
        _do(engine, lambda session, token=token: confirm(session, token, now=NOW, secret=SECRET))  # type: ignore[misc] # bound for each
    assert _state(engine) is State.CONFIRMED
    _do(engine, _ask)
    assert _state(engine) is State.CONFIRMED, "asking again takes nothing away"
    for expected in (1, 0, 0):
        with transaction(engine) as session:
            assert _leave(session) == expected
    assert _state(engine) is State.UNSUBSCRIBED
    assert [event for _, event, _, _ in _events(engine)] == ["requested", "confirmed", "left"]


def test_adding_with_evidence_twice_changes_nothing_the_second_time(engine: Engine) -> None:
    for expected in (True, False):
        with transaction(engine) as session:
            _, changed = _add(session)
            assert changed is expected
    assert _events(engine) == [(1, "confirmed", "operator:x", "signed on paper")]


def test_nothing_is_kept_of_a_session_that_fails(engine: Engine) -> None:
    def fail(session: Session) -> None:
        _add(session)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        _do(engine, fail)
    assert _events(engine) == []
    with reading(engine) as session:
        assert find(session, ADA) is None


@pytest.mark.parametrize("state", [State.UNSUBSCRIBED, State.BOUNCED, State.COMPLAINED])
def test_who_left_bounced_or_complained_comes_back_only_by_their_own_word(engine: Engine, state: State) -> None:
    with transaction(engine) as session:
        subscription, _ = _add(session)
        subscription.state = state
    with transaction(engine) as session, pytest.raises(NotAllowed, match=f"has {state} before"):
        _add(session)
    with transaction(engine) as session, pytest.raises(NotAllowed, match=f"has {state} before"):
        _ask(session)
    assert _state(engine) is state
    _do(engine, _ask_by_form)
    assert _state(engine) is State.PENDING, "and that is not mailed until it is confirmed"
    with reading(engine) as session:
        assert session.execute(audience(["daily"], NOW)).all() == []


def test_a_suppressed_address_can_neither_be_added_nor_ask_nor_confirm(engine: Engine) -> None:
    with transaction(engine) as session:
        token = confirmation_token(session, _ask(session), now=NOW, secret=SECRET)
    with transaction(engine) as session:
        assert suppress(session, parse("ADA@EXAMPLE.ORG"), Reason.COMPLAINT, now=NOW, actor="provider", note=None)
        assert not suppress(session, ADA, Reason.OPERATOR, now=NOW, actor="operator:x", note="again")
    for act in (_ask, _add, lambda session: confirm(session, token, now=NOW, secret=SECRET)):
        with transaction(engine) as session, pytest.raises(NotAllowed, match="suppressed since 2026-11-23"):
            act(session)
    assert _state(engine) is State.COMPLAINED
    told = [event for _, event, _, _ in _events(engine)]
    assert told == ["requested", "suppressed", "complained"], "the earlier reason stays"


def test_a_suppressed_address_that_is_unknown_does_not_come_back_as_a_row(engine: Engine) -> None:
    _do(engine, lambda session: suppress(session, BOB, Reason.ERASED, now=NOW, actor="operator:x", note=None))
    with transaction(engine) as session, pytest.raises(NotAllowed):
        add_confirmed(session, BOB, _daily(session), now=NOW, actor="operator:x", evidence="an old file")
    with reading(engine) as session:
        assert session.execute(select(Subscriber)).all() == [], "who was erased stays erased"


def test_a_confirmation_link_ends_with_the_request_it_was_for(engine: Engine) -> None:
    with transaction(engine) as session:
        token = confirmation_token(session, _ask(session), now=NOW, secret=SECRET)
        _leave(session)
    with transaction(engine) as session, pytest.raises(NotAllowed, match="ended since"):
        confirm(session, token, now=NOW, secret=SECRET)
    with transaction(engine) as session, pytest.raises(TokenError, match="expired"):
        confirm(session, token, now=NOW + timedelta(days=7), secret=SECRET)
    gone = sign("confirm", 999, NOW + timedelta(days=7), SECRET)
    with transaction(engine) as session, pytest.raises(TokenError, match="ask to join again"):
        confirm(session, gone, now=NOW, secret=SECRET)


def test_the_consent_log_is_only_added_to_one_row_a_change(engine: Engine) -> None:
    acts: list[Callable[[Session], object]] = [
        _ask,
        _ask,
        _add,
        _add,
        _leave,
        _leave,
        _ask_by_form,
        lambda session: suppress(session, ADA, Reason.OPERATOR, now=NOW, actor="operator:x", note="asked by phone"),
        lambda session: suppress(session, ADA, Reason.OPERATOR, now=NOW, actor="operator:x", note=None),
        _leave,
    ]
    seen: list[tuple[int | None, str, str, str | None]] = []
    grown = []
    for act in acts:
        _do(engine, act)
        now = _events(engine)
        assert now[: len(seen)] == seen, "what was written stands"
        grown.append(len(now) - len(seen))
        seen = now
    assert grown == [1, 0, 1, 0, 1, 0, 1, 1, 0, 1]
    assert seen[4][3] == "operator: asked by phone"


def test_leaving_one_list_leaves_the_others(engine: Engine) -> None:
    with transaction(engine) as session:
        for slug in ("daily", "weekly"):
            to = ensure_list(session, slug, slug, NOW)
            add_confirmed(session, ADA, to, now=NOW, actor="operator:x", evidence="paper")
    with transaction(engine) as session:
        found = find(session, ADA)
        assert found is not None
        assert leave(session, found, {"daily"}, now=NOW, actor="subscriber").changed == 1
    assert (_state(engine, "daily"), _state(engine, "weekly")) == (State.UNSUBSCRIBED, State.CONFIRMED)


def test_a_list_is_made_once_and_an_unknown_one_is_named(engine: Engine) -> None:
    with transaction(engine) as session:
        assert _daily(session).id == _daily(session).id == list_by_slug(session, "daily").id
        with pytest.raises(UnknownList, match="there is no list “dayly”"):
            list_by_slug(session, "dayly")


def test_a_name_is_learned_later_but_never_taken_away(engine: Engine) -> None:
    for said, known in (("ada@example.org", None), ("Ada <ada@example.org>", "Ada"), ("A. <ada@example.org>", "Ada")):
        with transaction(engine) as session:
            ask(session, parse(said), _daily(session), now=NOW, actor="subscriber")
            found = find(session, ADA)
            assert found is not None
            assert found.name == known


# ------------------------------------------------------------------------------------------ audience


def test_the_audience_is_everyone_confirmed_once_with_its_promised_columns(engine: Engine) -> None:
    people = {
        "both": ["daily", "weekly"],
        "weekly": ["weekly"],
        "other": ["other"],
        "pending": [],
        "left": ["daily", "weekly"],
        "half": ["daily", "weekly"],
        "suppressed": ["daily"],
        "paused": ["daily"],
        "rested": ["daily"],
    }
    with transaction(engine) as session:
        for name, slugs in people.items():
            for slug in slugs:
                to = ensure_list(session, slug, slug, NOW)
                add_confirmed(session, parse(f"{name}@example.org"), to, now=NOW, actor="x", evidence="test")
        ask(session, parse("pending@example.org"), _daily(session), now=NOW, actor="x")
        found = {name: find(session, parse(f"{name}@example.org")) for name in people}
        assert all(found.values())
        for name, slugs_left in (("left", None), ("half", {"daily"})):
            subscriber = found[name]
            assert subscriber is not None
            leave(session, subscriber, slugs_left, now=NOW, actor="x")
        for name, until in (("paused", NOW + timedelta(seconds=1)), ("rested", NOW)):
            subscriber = found[name]
            assert subscriber is not None
            subscriber.paused_until = until
        suppress(session, parse("suppressed@example.org"), Reason.OPERATOR, now=NOW, actor="x", note=None)
    with reading(engine) as session:
        result = session.execute(audience(["daily", "weekly", "no-such-list"], NOW))
        assert list(result.keys()) == ["subscriber_id", "address", "name", "link", "zone", "exclusion"]
        rows = [(row.address.partition("@")[0], row.exclusion) for row in result]
        assert sorted(rows, key=str) == [
            ("both", None),
            ("half", None),
            ("paused", "paused"),
            ("rested", None),
            ("suppressed", "suppressed"),
            ("weekly", None),
        ]
        assert session.execute(audience([], NOW)).all() == []


# ------------------------------------------------------------------------------------------ the ground


@pytest.mark.sqlite("its pragmas")
def test_every_connection_survives_a_power_failure_and_keeps_its_keys(engine: Engine) -> None:
    connections = [engine.connect() for _ in range(3)]
    try:
        for connection in connections:
            settings = [
                connection.execute(text(f"PRAGMA {name}")).scalar_one()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            ]
            assert settings == ["wal", 2, 1, 10_000], "2 is FULL"
    finally:
        for connection in connections:
            connection.close()


def test_a_reader_that_turns_writer_is_never_told_the_database_is_locked(engine: Engine) -> None:
    _do(engine, _daily)
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for number in range(25):
                with transaction(engine) as session:
                    to = list_by_slug(session, "daily")
                    add_confirmed(
                        session, parse(f"{name}{number}@example.org"), to, now=NOW, actor="x", evidence="test"
                    )
        except BaseException as error:  # noqa: BLE001 # handed to the test
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with reading(engine) as session:
        assert len(session.execute(audience(["daily"], NOW)).all()) == 75


def test_two_processes_write_at_once_and_nobody_is_lost(engine: Engine, tmp_path: Path) -> None:
    _do(engine, _daily)
    program = """
import sys
from datetime import UTC, datetime
from subscribers import add_confirmed, connect, list_by_slug, parse, transaction
engine = connect(sys.argv[1])
for number in range(30):
    with transaction(engine) as session:
        to = list_by_slug(session, "daily")
        mailbox = parse(f"{sys.argv[2]}{number % 20}@example.org")
        add_confirmed(session, mailbox, to, now=datetime.now(UTC), actor="x", evidence="test")
"""
    command = [sys.executable, "-c", program, engine.url.render_as_string(hide_password=False)]
    running = [
        subprocess.Popen([*command, name], stderr=subprocess.PIPE, text=True) for name in ("both", "both", "one")
    ]
    said = [process.communicate()[1] for process in running]
    assert said == ["", "", ""]
    with reading(engine) as session:
        assert len(session.execute(audience(["daily"], NOW)).all()) == 40


def test_instants_are_aware_and_kept_in_utc(engine: Engine) -> None:
    berlin = datetime.fromisoformat("2026-11-23T09:00:00+01:00")
    _do(engine, lambda session: ensure_list(session, "daily", "Daily", berlin))
    with reading(engine) as session:
        assert list_by_slug(session, "daily").created_at.isoformat() == "2026-11-23T08:00:00+00:00"
    naive = NOW.replace(tzinfo=None)
    with pytest.raises(Exception, match="an instant must be aware"), transaction(engine) as session:
        ensure_list(session, "weekly", "Weekly", naive)


def test_errors_of_the_database_never_show_an_address(engine: Engine) -> None:
    def twice(session: Session) -> None:
        for link in ("a", "b"):
            session.add(Subscriber(address=ADA.address, key=ADA.key, link=link, created_at=NOW))
            session.flush()

    with pytest.raises(Exception, match=r"UNIQUE|duplicate key") as caught:
        _do(engine, twice)
    assert "ada@" not in str(caught.value)


def test_the_database_and_its_journals_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "newsletter.toml"
    file.write_text(CONFIGURATION + '\n[database]\nurl = "sqlite:///new/folder/list.db"\n')
    with Newsroom.open(Settings.load(file, {})) as newsroom, transaction(newsroom.engine) as session:
        ensure_list(session, "daily", "Daily", NOW)
        session.flush()
        found = sorted((tmp_path / "new" / "folder").iterdir())
        assert [made.name for made in found] == ["list.db", "list.db-shm", "list.db-wal"]
        assert {stat.S_IMODE(made.stat().st_mode) for made in found} == {0o600}


def test_the_list_alone_loads_nothing_of_the_newsletter_or_of_compiling() -> None:
    program = "import subscribers, sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "subscribers" in loaded
    assert not {"newsletter", "jinja2", "mjml", "premailer", "typer", "click", "rich", "alembic"} & set(loaded)


def test_a_file_that_is_no_database_says_so(tmp_path: Path) -> None:
    (tmp_path / "list.db").write_text("not a database")
    engine = connect(f"sqlite:///{tmp_path / 'list.db'}")
    with pytest.raises(Exception, match="file is not a database") as caught, reading(engine) as session:
        session.execute(text("SELECT 1"))
    assert isinstance(caught.value.__cause__, sqlite3.DatabaseError)
    engine.dispose()


def test_asking_anew_for_somebody_who_left_does_not_let_an_operator_confirm_them(engine: Engine) -> None:
    with transaction(engine) as session:
        _add(session)
    with transaction(engine) as session:
        person = find(session, ADA)
        assert person is not None
        leave(session, person, None, now=NOW, actor="subscriber")
    with transaction(engine) as session, pytest.raises(NotAllowed, match="left everything before; only their own"):
        _ask(session)
    _do(engine, _ask_by_form)
    with transaction(engine) as session, pytest.raises(NotAllowed, match="left everything before; only their own"):
        _add(session)
    with transaction(engine) as session:
        token = confirmation_token(session, _ask_by_form(session), now=NOW, secret=SECRET)
        confirm(session, token, now=NOW, secret=SECRET)
    assert _state(engine) is State.CONFIRMED
