"""Backups: whole whatever goes on meanwhile, private, checked before they have a name, and kept as configured."""

import json
import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine

from newsletter import backup as making
from newsletter import soundness
from newsletter.backup import Backup, Found, back_up, backups, no_longer_kept
from newsletter.errors import BackupError
from newsletter.newsroom import engine_of
from newsletter.settings import Settings
from tests import databases
from tests.conftest import CONFIGURATION, NOW, Desk

ON_SQLITE = pytest.mark.sqlite("its files and locks")
ON_POSTGRESQL = pytest.mark.skipif(
    "config.getoption('--database') != 'postgresql'", reason="wants pytest --database=postgresql"
)
ENDING = {"sqlite": "db", "postgresql": "dump"}


def configured(text: str = CONFIGURATION, **settings: str) -> str:
    """The configuration with a table [backup]; the programs are the server's own."""
    if databases.Chosen.kind == databases.POSTGRESQL and (programs := databases.programs()):
        settings = {"programs": json.dumps(str(programs)), **settings}
    return text + "\n[backup]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())


@pytest.fixture
def full(desk: Desk) -> Desk:
    """A desk with people, a frozen edition, and nobody who has its database open."""
    desk.configure(configured)
    desk.brief("harbour")
    with desk.open() as newsroom:
        desk.people(newsroom, 20)
        newsroom.send("daily", consent=True)
    return desk


def engine_at(desk: Desk) -> Engine:
    return engine_of(Settings.load(desk.file, {}))


def made(desk: Desk, now: datetime = NOW, **options: Any) -> Backup:
    settings = Settings.load(desk.file, {})
    engine = engine_of(settings)
    try:
        return back_up(settings, engine, now=now, **options)
    finally:
        engine.dispose()


def command(desk: Desk, *arguments: str) -> "subprocess.CompletedProcess[str]":
    whole = [sys.executable, "-m", "newsletter", *arguments, "--config", str(desk.file)]
    return subprocess.run(whole, capture_output=True, text=True, check=False, timeout=60)


def files(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()} if folder.is_dir() else set()


# ------------------------------------------------------------------------------------------ making one


def test_a_backup_is_private_and_named_by_time_and_database_alone(full: Desk) -> None:
    backup = made(full)
    ((instance,),) = full.rows("SELECT instance_id FROM instance")
    assert backup.file.name == f"newsletter-{instance}-20261123T080000Z.{ENDING[databases.Chosen.kind]}"
    assert backup.file.parent == full.folder / "backups"
    assert stat.S_IMODE(backup.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(backup.file.parent.stat().st_mode) == 0o700
    assert files(backup.file.parent) == {backup.file.name}, "and nothing is left beside it"
    assert (backup.instance, backup.size_bytes) == (instance, backup.file.stat().st_size)
    assert full.rows("SELECT actor, act FROM operator_act ORDER BY id DESC LIMIT 1") == [("program", "backup")]


def test_two_in_one_second_are_two_files(full: Desk) -> None:
    first, second = made(full), made(full)
    assert first.file != second.file
    assert [one.file for one in backups(first.file.parent, first.instance)] == [second.file, first.file]


@ON_SQLITE
@pytest.mark.parametrize("compress", ["false", "true"])
def test_a_copy_holds_all_and_needs_no_other_file(full: Desk, compress: str) -> None:
    full.configure(lambda text: configured(text, compress=compress))
    backup = made(full)
    assert backup.file.suffix == (".gz" if compress == "true" else ".db")
    if compress == "true":
        assert backup.size_bytes < backup.database_bytes / 2
        return
    with closing(sqlite3.connect(f"file:{backup.file}?mode=ro", uri=True)) as copy:
        assert copy.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        for table in ("subscriber", "delivery", "edition", "consent_event", "operator_act"):
            (count,) = full.rows(f"SELECT count(*) FROM {table}")
            assert copy.execute(f"SELECT count(*) FROM {table}").fetchone() == count
    assert files(backup.file.parent) == {backup.file.name}


@ON_SQLITE
def test_commits_between_its_pages_neither_begin_it_anew_nor_get_into_it(
    full: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a reading transaction of its own each of them would: a desk that sends would never have a backup."""
    engine = engine_at(full)
    monkeypatch.setattr(making, "_PAGES", 4)
    commits: list[float] = []
    with full.asking() as ask:
        (pages,) = ask("PRAGMA page_count")[0]

        def commit(seconds: float) -> None:
            commits.append(seconds)
            assert len(commits) < pages, "it does not come to an end"
            ask("INSERT INTO operator_act (at, actor, act) VALUES ('2026-11-23 08:00:00', 'test', 'meanwhile')")
            ask("UPDATE subscriber SET name = ?", f"Name {len(commits)}")

        monkeypatch.setattr(time, "sleep", commit)
        copy = full.folder / "copy.db"
        copy.touch()
        making.copy_pages(engine, copy)
    engine.dispose()
    assert len(commits) == (pages - 1) // 4
    with closing(sqlite3.connect(copy)) as opened:
        assert opened.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert opened.execute("SELECT count(*) FROM operator_act WHERE act = 'meanwhile'").fetchone() == (0,)
        assert opened.execute("SELECT count(*) FROM subscriber WHERE name LIKE 'Name %'").fetchone() == (0,)


def test_a_backup_during_dispatch_is_one_state_in_which_the_sum_holds(desk: Desk) -> None:
    desk.configure(configured)
    desk.brief("harbour")
    with desk.open() as newsroom:
        desk.people(newsroom, 400)
    sending = subprocess.Popen(
        [sys.executable, "-m", "newsletter", "send", "daily", "--yes", "--config", str(desk.file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with desk.asking() as ask:
        while not ask("SELECT count(*) FROM batch WHERE state = 'done'")[0][0]:
            assert sending.poll() is None
    backup = made(desk)
    _, complaint = sending.communicate()
    assert sending.returncode == 0, complaint
    if databases.Chosen.kind == databases.SQLITE:
        engine = engine_of(_settings_on(desk, backup.file))
        found = soundness.check(engine, now=NOW)
        engine.dispose()
        assert found.sound, found
        said = "; ".join(one.what for one in found.findings)
        assert re.search(r"400 candidates, [1-9][0-9]* waiting", said), f"it was over before: {said}"


def _settings_on(desk: Desk, file: Path) -> Settings:
    settings = Settings.load(desk.file, {})
    return settings.model_copy(update={"database": settings.database.model_copy(update={"url": f"sqlite:///{file}"})})


# ------------------------------------------------------------------------------------------ where none can be made


@ON_SQLITE
def test_a_copy_of_a_damaged_database_gets_no_name_and_costs_no_older_one(full: Desk) -> None:
    good = made(full)
    damage(full.folder / "newsletter.db")
    with pytest.raises(BackupError, match="damaged"):
        made(full, NOW + timedelta(hours=1), keep=1)
    assert files(good.file.parent) == {good.file.name}


def damage(file: Path) -> None:
    """Overwrite pages in the middle of a database."""
    with closing(sqlite3.connect(file)) as opened:
        opened.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        ((root,),) = opened.execute("SELECT rootpage FROM sqlite_master WHERE name = 'subscriber'").fetchall()
        ((size,),) = opened.execute("PRAGMA page_size").fetchall()
    with file.open("r+b") as opened_file:
        opened_file.seek((root - 1) * size)
        opened_file.write(b"\xa5" * size)


def test_where_there_is_no_room_it_says_how_much_is_wanted(full: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(full.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=1_000))
    with pytest.raises(BackupError, match=r"1,000 bytes are free there, and the database has [\d,]+"):
        made(full)
    assert files(full.folder / "backups") == set()


@ON_SQLITE
def test_a_disk_that_fills_up_half_way_leaves_nothing(full: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", is_full)
    with pytest.raises(BackupError, match="No space left on device"):
        made(full)
    assert files(full.folder / "backups") == set()


def test_one_at_a_time_in_a_directory(full: Desk) -> None:
    directory = full.folder / "backups"
    with making.alone(directory, "held"), pytest.raises(BackupError, match="another backup is being made there"):
        made(full)
    made(full)


def test_what_a_killed_one_left_is_taken_away_and_nothing_else_is(full: Desk) -> None:
    backup = made(full)
    directory = backup.file.parent
    left = directory / f".newsletter-{backup.instance}-20261122T000000Z.partial"
    others = {"notes.txt", ".newsletter-ffff-20261122T000000Z.partial", "newsletter.db"}
    for name in {left.name, *others}:
        (directory / name).write_text("")
    again = made(full)
    assert files(directory) == {backup.file.name, again.file.name, *others}


@ON_SQLITE
def test_where_there_is_no_database_none_is_made(desk: Desk) -> None:
    (desk.folder / "newsletter.db").unlink()
    said = command(desk, "db", "backup")
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr.endswith("newsletter.db: there is no such database\n")
    assert not (desk.folder / "newsletter.db").exists()


def test_a_database_of_an_older_version_is_copied_as_it_is(full: Desk) -> None:
    full.rows("UPDATE alembic_version SET version_num = '0003'")
    assert made(full).revision == "0003"
    assert full.rows("SELECT version_num FROM alembic_version") == [("0003",)]


def test_the_command_says_where_it_is_and_gives_it_as_json(full: Desk) -> None:
    said = command(full, "db", "backup", "--to", str(full.folder / "elsewhere"))
    assert said.returncode == 0, said.stderr
    (file,) = (full.folder / "elsewhere").iterdir()
    assert said.stdout.startswith(f"{file}: ")
    assert "read back, and whole" in said.stdout
    told = json.loads(command(full, "db", "backup", "--json").stdout)
    assert (told["pruned"], Path(told["file"]).exists()) == ([], True)
    assert "@" not in json.dumps(told)


# ------------------------------------------------------------------------------------------ keeping


def test_only_old_backups_of_this_database_are_taken_away(full: Desk) -> None:
    directory = full.folder / "backups"
    first = made(full)
    others = {
        f"newsletter-{first.instance}-20261101T000000Z.db.old",
        f"my-newsletter-{first.instance}-20261101T000000Z.db",
        f"newsletter-{first.instance}-20261101T000000Z.txt",
        "newsletter-ffff0000ffff0000-20261101T000000Z.db",
        "newsletter.db.before-restore-20261101T000000Z",
        "notes.txt",
    }
    for name in others:
        (directory / name).write_text("")
    (directory / f"newsletter-{first.instance}-20251101T000000Z.db").symlink_to(full.file)
    second = made(full, NOW + timedelta(hours=1), keep=2)
    third = made(full, NOW + timedelta(hours=2), keep=2)
    assert third.pruned == (first.file,)
    link = f"newsletter-{first.instance}-20251101T000000Z.db"
    assert files(directory) == {*others, link, second.file.name, third.file.name}


def test_the_newest_stays_however_old_and_what_was_just_made_whatever_the_clock_says(full: Desk) -> None:
    future = made(full, NOW + timedelta(days=400))
    assert made(full, NOW, keep=1).file.exists(), "although its name sorts below"
    assert future.file.exists()
    last = made(full, NOW + timedelta(days=900), keep=timedelta(days=1))
    assert files(last.file.parent) == {last.file.name}


@given(
    st.lists(st.integers(min_value=0, max_value=200), max_size=30),
    st.one_of(st.integers(min_value=1, max_value=40), st.timedeltas(timedelta(days=1), timedelta(days=300))),
)
def test_so_many_or_so_young_stay_and_always_the_newest(ages: list[int], keep: int | timedelta) -> None:
    found = [Found(Path(f"{n}"), "i", NOW - timedelta(days=age), n) for n, age in enumerate(sorted(ages))]
    gone = no_longer_kept(found, keep, NOW)
    assert found[:1] not in [[one] for one in gone]
    kept = [one for one in found if one not in gone]
    if isinstance(keep, int):
        assert kept == found[:keep]
    else:
        assert all(NOW - one.at <= keep for one in kept[1:])
        assert all(NOW - one.at > keep for one in gone)


@pytest.mark.parametrize(("written", "kept"), [("3", 3), ('"36h"', timedelta(hours=36)), ('"2w"', timedelta(weeks=2))])
def test_keep_is_a_number_or_a_time(tmp_path: Path, written: str, kept: int | timedelta) -> None:
    assert _load(tmp_path, f"keep = {written}").backup.keep == kept


@pytest.mark.parametrize("written", ["0", "true", '"3"', '"12h"', "2.5", "[]", "20000"])
def test_a_keep_that_keeps_nothing_is_refused(tmp_path: Path, written: str) -> None:
    with pytest.raises(Exception, match=r"newsletter\.toml:\d+: backup\.keep: expected "):
        _load(tmp_path, f"keep = {written}")


def _load(folder: Path, line: str) -> Settings:
    (folder / "newsletter.toml").write_text(f"{CONFIGURATION}\n[backup]\n{line}\n")
    return Settings.load(folder / "newsletter.toml", {})


# ------------------------------------------------------------------------------------------ PostgreSQL's programs


@pytest.fixture
def fake(full: Desk) -> Path:
    """A folder with a pg_dump that tells what it was given, and fails."""
    folder = full.folder / "programs"
    folder.mkdir()
    program = folder / "pg_dump"
    program.write_text('#!/bin/sh\nenv >"$0.env"\necho "$@" >"$0.arguments"\ncat "$0.said" >&2\nexit 1\n')
    program.chmod(0o755)
    (folder / "pg_dump.said").write_text("pg_dump: error: so it is\n")
    full.configure(lambda text: configured(text, programs=json.dumps(str(folder))))
    return folder


@ON_POSTGRESQL
def test_no_part_of_the_connection_stands_on_the_command_line(full: Desk, fake: Path) -> None:
    url = full.url.replace("postgresql://postgres@", "postgresql://postgres:a%40secret@")
    (full.folder / ".env").write_text(f"NEWSLETTER_DATABASE_URL={url}\n")
    with pytest.raises(BackupError, match="so it is"):
        made(full)
    arguments = (fake / "pg_dump.arguments").read_text()
    assert not re.search(r"secret|postgres@|--dbname|--host|--username|newsletter_test", arguments)
    environment = dict(line.partition("=")[::2] for line in (fake / "pg_dump.env").read_text().splitlines())
    assert environment["PGPASSWORD"] == "a@secret"
    assert environment["PGDATABASE"] == databases.name_of(full.url)
    assert files(full.folder / "backups") == set()


@ON_POSTGRESQL
def test_a_pg_dump_that_is_older_than_the_server_says_what_to_install(full: Desk, fake: Path) -> None:
    (fake / "pg_dump.said").write_text(
        "pg_dump: error: aborting because of server version mismatch\n"
        "pg_dump: detail: server version: 18.1; pg_dump version: 15.18 (Debian 15.18-0+deb12u1)\n"
    )
    with pytest.raises(BackupError, match=r"version 15\.18, and the server of 18\.1: install .*postgresql-client"):
        made(full)


@ON_POSTGRESQL
def test_without_pg_dump_one_line_says_what_to_install(full: Desk) -> None:
    full.configure(lambda text: configured(text, programs='"nothing-here"'))
    said = command(full, "db", "backup")
    assert (said.returncode, said.stderr.count("\n")) == (2, 1)
    assert re.search(r"pg_dump: there is no such program in .*nothing-here: install the client programs", said.stderr)


@ON_POSTGRESQL
def test_an_archive_holds_our_tables_and_nobody_elses(full: Desk) -> None:
    full.rows("CREATE TABLE bookmark (url text)")
    backup = made(full)
    programs = databases.programs() or Path()
    listed = subprocess.run(
        [programs / "pg_restore", "--list", backup.file], capture_output=True, text=True, check=True
    ).stdout
    assert " TABLE DATA public subscriber " in listed
    assert "bookmark" not in listed
