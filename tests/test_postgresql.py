"""What is promised of PostgreSQL alone; that all else is as on SQLite, the other tests say on both."""

import io
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import BigInteger, Engine, inspect, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlmodel import Session

from newsletter import collect, migrations
from newsletter.checkup import examine
from newsletter.errors import ConfigurationError
from newsletter.newsroom import Newsroom, upgrade
from newsletter.settings import DATABASE_VARIABLE, Settings
from subscribers import Subscriber, Table, add_confirmed, connect, db, ensure_list, find, parse, reading, transaction
from subscribers.drivers import driver
from subscribers.transfer import export_csv
from tests import databases
from tests.conftest import CONFIGURATION, NOW, Desk
from tests.site_server import Site

pytestmark = [
    pytest.mark.database,
    pytest.mark.skipif("config.getoption('--database') != 'postgresql'", reason="wants pytest --database=postgresql"),
]


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = connect(databases.fresh())
    yield made
    made.dispose()


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A configuration whose database has no tables yet."""
    (tmp_path / "newsletter.toml").write_text(CONFIGURATION)
    (tmp_path / ".env").write_text(f"{DATABASE_VARIABLE}={databases.create()}\n")
    return tmp_path / "newsletter.toml"


def command(file: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    whole = [sys.executable, "-m", "newsletter", *arguments, "--config", str(file)]
    return subprocess.run(whole, capture_output=True, text=True, check=False, timeout=60)


def _person(session: Session, name: str, link: str | None = None) -> None:
    session.add(Subscriber(address=f"{name}@example.org", key=f"{name}@example.org", link=link or name, created_at=NOW))
    session.flush()


# ------------------------------------------------------------------------------------------ tables


def test_a_database_is_made_and_changed_by_command_only(empty: Path) -> None:
    early = command(empty, "lists")
    assert (early.returncode, early.stderr.count("\n")) == (2, 1)
    assert "is empty: run newsletter db upgrade" in early.stderr
    made = command(empty, "db", "upgrade")
    assert (made.returncode, made.stderr) == (0, "")
    assert made.stdout == f"the database was empty and is at revision {migrations.HEAD} now\n"
    assert "nothing to do" in command(empty, "db", "upgrade").stdout
    assert command(empty, "lists").returncode == 0


def test_a_database_of_an_older_revision_is_opened_by_nobody_and_changed_by_nothing_but_the_command(
    desk: Desk,
) -> None:
    desk.rows("UPDATE alembic_version SET version_num = '0002'")
    with pytest.raises(ConfigurationError, match=f"at revision 0002, and this program wants {migrations.HEAD}: run "):
        desk.open()
    assert desk.rows("SELECT version_num FROM alembic_version") == [("0002",)]
    desk.rows("UPDATE alembic_version SET version_num = '9000'")
    with pytest.raises(ConfigurationError, match="made by a newer newsletter"):
        desk.open()


def test_a_database_of_another_program_is_left_alone(empty: Path) -> None:
    settings = Settings.load(empty, {})
    with databases.asking(settings.database.url) as ask:
        ask("CREATE TABLE bookmark (url text)")
        for arguments in (["lists"], ["db", "upgrade"]):
            done = command(empty, *arguments)
            assert (done.returncode, "holds tables that are not ours" in done.stderr) == (2, True)
        assert ask("SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname = 'subscriber'") == [(0,)]


def test_a_database_that_keeps_no_utf_8_is_refused(empty: Path) -> None:
    settings = Settings.load(empty, {})
    other = f"{databases.name_of(settings.database.url)}_ascii"
    url = settings.database.url.replace(databases.name_of(settings.database.url), other)
    with databases.asking(databases.server()) as ask:
        ask(f"CREATE DATABASE {other} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
    databases.made.append(url)
    engine = connect(url)
    with pytest.raises(ConfigurationError, match="must be made with ENCODING 'UTF8'"):
        migrations.upgrade(engine)
    assert inspect(engine).get_table_names() == []
    engine.dispose()


def test_of_several_processes_that_upgrade_at_once_one_does_and_the_others_find_it_done(empty: Path) -> None:
    whole = [sys.executable, "-m", "newsletter", "db", "upgrade", "--config", str(empty)]
    running = [subprocess.Popen(whole, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate(timeout=60) for process in running]
    assert [(process.returncode, err) for process, (_, err) in zip(running, said, strict=True)] == [(0, "")] * 3


def test_an_upgrade_that_cannot_have_a_table_says_so_and_changes_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for a table keeps everybody waiting who comes after; so the wait is short."""
    desk.rows("UPDATE alembic_version SET version_num = '0002'")
    monkeypatch.setattr(migrations, "_LOCK_TIMEOUT", "50ms")
    monkeypatch.setattr(migrations, "_apply", lambda connection: connection.execute(text("DROP TABLE subscription")))
    settings = Settings.load(desk.file, {})
    with connect_plain(desk) as other:
        other.execute("SELECT count(*) FROM subscription")
        with pytest.raises(ConfigurationError, match=r"database is locked.*nothing was changed"):
            upgrade(settings)
    assert desk.rows("SELECT count(*) FROM subscription") == [(0,)]


def connect_plain(desk: Desk) -> "psycopg.Connection[tuple[object, ...]]":
    return psycopg.connect(desk.url)


def _schema(url: str) -> list[tuple[object, ...]]:
    """Columns, keys, CHECKs and indices, but for the order of columns."""
    with databases.asking(url) as ask:
        return [
            row
            for query in (
                (
                    "SELECT table_name, column_name, data_type, is_nullable, column_default "
                    "FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2"
                ),
                (
                    "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint "
                    "WHERE conrelid <> 0 AND connamespace = 'public'::regnamespace ORDER BY 1, 2"
                ),
                "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1, 2",
            )
            for row in ask(query)
            if row[0] != "alembic_version"
        ]


def test_the_migrated_schema_is_the_declared_one_on_postgresql_too() -> None:
    declared = databases.create()
    engine = connect(declared)
    Table.metadata.create_all(engine)
    engine.dispose()
    assert _schema(databases.fresh()) == _schema(declared)


def test_a_text_may_be_as_long_as_on_sqlite(desk: Desk) -> None:
    newsroom = desk.open()
    assert newsroom.halt("test", "no power " * 200)
    assert desk.rows("SELECT length(halt_reason) FROM instance") == [(1800,)]


def test_rows_that_can_be_many_have_wide_numbers(engine: Engine) -> None:
    for table in ("delivery", "consent_event", "provider_event"):
        number = next(one for one in inspect(engine).get_columns(table) if one["name"] == "id")
        assert isinstance(number["type"], BigInteger), table


def test_what_there_is_in_the_tables_survives_every_change_of_them(
    empty: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scripts = tmp_path / "scripts"
    shutil.copytree(migrations.SCRIPTS, scripts, ignore=shutil.ignore_patterns("__pycache__"))
    for script in (scripts / "versions").glob("*.py"):
        if not script.name.startswith("0001"):
            script.unlink()
    settings = Settings.load(empty, {})
    engine = connect(settings.database.url)
    with monkeypatch.context() as before:
        before.setattr(migrations, "SCRIPTS", scripts)
        before.setattr(migrations, "HEAD", "0001")
        migrations.upgrade(engine)
    with engine.begin() as connection:
        for statement in (
            "INSERT INTO mailing_list (slug, name, created_at) VALUES ('daily', 'Daily', '2026-11-23 08:00+00')",
            "INSERT INTO subscriber (address, key, link, created_at) VALUES ('a@b.org', 'a@b.org', 'x', now())",
            "INSERT INTO subscription (list_id, subscriber_id, state, changed_at) VALUES (1, 1, 'confirmed', now())",
            "INSERT INTO consent_event (at, subscriber_id, list_id, event, actor) VALUES (now(), 1, 1, 'left', 't')",
        ):
            connection.execute(text(statement))
    migrations.upgrade(engine)
    with engine.connect() as connection:
        lists = connection.execute(text("SELECT slug, description, public, opt_in, welcome FROM mailing_list")).all()
        assert lists == [("daily", "", True, "double", False)]
        for table in ("subscriber", "subscription", "consent_event"):
            assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() == 1
    engine.dispose()


def test_a_nul_in_an_address_of_a_page_or_in_a_brief_costs_only_itself(desk: Desk) -> None:
    """PostgreSQL's texts hold none, SQLite's do."""
    with Site(desk) as site:
        assert {site.ask(f"/{path}").status for path in ("u/a%00/daily", "e/da%00ily", "e/daily/2026%00", "p/%00")} == {
            404
        }
    brief = '{"headline": "Rain%s falls", "facts": [{"text": "It is%s wet.", "citations": []}], "slug": "rain"}'
    (desk.folder / "briefs" / "rain.json").write_text(brief.replace("%s", "\\u0000"))
    desk.brief("harbour")
    newsroom = desk.open()
    desk.people(newsroom, 1)
    assert newsroom.send("daily").tally is not None
    assert collect._fitting("an entry's id\0") == "an entry's id\N{REPLACEMENT CHARACTER}"


# ------------------------------------------------------------------------------------------ transactions


def test_writers_are_one_at_a_time_and_read_what_the_one_before_wrote(engine: Engine) -> None:
    """Each reads and then writes: without the lock all would read the same."""
    with transaction(engine) as session:
        ensure_list(session, "daily", "0", NOW)
    failures: list[BaseException] = []

    def count() -> None:
        try:
            for _ in range(10):
                with transaction(engine) as session:
                    mailing_list = ensure_list(session, "daily", "", NOW)
                    mailing_list.name = str(int(mailing_list.name) + 1)
        except BaseException as error:  # noqa: BLE001 # handed to the test
            failures.append(error)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with reading(engine) as session:
        assert ensure_list(session, "daily", "", NOW).name == "40"


def test_a_writer_who_waits_too_long_is_told_the_database_is_locked(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with transaction(engine) as session:
        _person(session, "ada")
        monkeypatch.setattr(db, "BUSY_TIMEOUT_MS", 50)
        with (
            pytest.raises(OperationalError, match="database is locked: another process has held it"),
            transaction(engine) as second,
        ):
            find(second, parse("ada@example.org"))
        with transaction(engine, alone=False) as beside:
            assert find(beside, parse("ada@example.org")) is None, "waits for nobody, and sees what is committed"
        with (
            pytest.raises(OperationalError, match="database is locked: another process has held it"),
            driver(engine) as hand,
            hand.writing(),
        ):
            pass


def test_a_reading_sees_one_state_and_writes_nothing(engine: Engine) -> None:
    with reading(engine) as session:
        assert find(session, parse("ada@example.org")) is None
        with transaction(engine) as other:
            _person(other, "ada")
        assert find(session, parse("ada@example.org")) is None
    with reading(engine) as session:
        assert find(session, parse("ada@example.org")) is not None
        with pytest.raises(DBAPIError, match="read-only transaction"):
            _person(session, "bob")


def test_a_transaction_waits_and_idles_for_a_bounded_time_and_says_whose_it_is(engine: Engine) -> None:
    with transaction(engine) as session:
        told = {
            name: session.execute(text(f"SHOW {name}")).scalar_one()
            for name in (
                "lock_timeout",
                "idle_in_transaction_session_timeout",
                "application_name",
                "transaction_isolation",
            )
        }
    assert list(told.values()) == ["10s", "1min", "newsletter", "read committed"]


def test_a_server_that_was_restarted_costs_nothing_but_the_transactions_that_were_open(engine: Engine) -> None:
    with transaction(engine) as session:
        _person(session, "ada")
    with databases.asking(databases.server()) as ask:
        ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'newsletter'")
    with transaction(engine) as session:
        assert find(session, parse("ada@example.org")) is not None


def test_instants_come_back_aware_in_utc_whatever_the_servers_zone(engine: Engine) -> None:
    name = engine.url.database
    with databases.asking(databases.server()) as ask:
        ask(f"ALTER DATABASE {name} SET TimeZone = 'Asia/Kolkata'")
    engine.dispose()
    berlin = datetime.fromisoformat("2026-11-23T09:00:00+01:00")
    with transaction(engine) as session:
        to = ensure_list(session, "daily", "Daily", berlin)
        add_confirmed(session, parse("ada@example.org"), to, now=berlin, actor="t", evidence="t")
    with reading(engine) as session:
        at = ensure_list(session, "daily", "", NOW).created_at
        assert (at, at.tzinfo) == (berlin, UTC)
    out = io.StringIO()
    export_csv(engine, out)
    assert "2026-11-23T08:00:00Z" in out.getvalue()


# ------------------------------------------------------------------------------------------ what errors say


def test_errors_show_no_row(engine: Engine) -> None:
    """PostgreSQL's own details say “Key (key)=(ada@example.org) already exists” and “Failing row contains”."""
    with transaction(engine) as session:
        _person(session, "ada")
    with pytest.raises(IntegrityError, match="duplicate key") as caught, transaction(engine) as session:
        _person(session, "ada", "other")
    row = ("eve", "eve@example.org", "xxx@example.org", "l", "yesterday evening")
    with pytest.raises(OperationalError, match="invalid input syntax") as bulk, driver(engine) as hand, hand.writing():
        hand.insert("subscriber", "name, address, key, link, created_at", [row])
    for error in (caught.value, caught.value.orig, bulk.value, bulk.value.orig):
        assert "@example.org" not in str(error)
        assert "DETAIL" not in str(error)
        assert "xxx" not in str(error)


def test_no_error_shows_the_password_of_the_database(tmp_path: Path) -> None:
    (tmp_path / "newsletter.toml").write_text(CONFIGURATION)
    where = "127.0.0.1:1/newsletter?connect_timeout=2"
    for url in (f"postgresql://ada:s3cr3t@{where}", f"postgresql://ada:s3cr%40et@{where}"):
        settings = Settings.load(tmp_path / "newsletter.toml", {DATABASE_VARIABLE: url})
        assert "s3cr" not in repr(settings)
        with pytest.raises(ConfigurationError, match="the database newsletter: connection") as caught:
            Newsroom.open(settings)
        assert "s3cr" not in str(caught.value)


def test_doctor_says_which_database_it_is_and_finds_it_sound(desk: Desk) -> None:
    newsroom = desk.open()
    said = [finding.what for finding in examine(newsroom)]
    name = databases.name_of(desk.url)
    assert any(
        re.match(rf"database {name} \(PostgreSQL 1[0-9.]+, revision {migrations.HEAD}\), instance ", one)
        for one in said
    )
    assert [finding.what for finding in examine(newsroom) if finding.ok is False] == []
