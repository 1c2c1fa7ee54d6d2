"""A backup that is put back: the old database or the new one, whole, halted, and never under a process's feet."""

import gzip
import itertools
import json
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from newsletter import migrations, restoring
from newsletter.errors import BackupError, ConfigurationError, EditionError
from newsletter.newsroom import upgrade
from newsletter.restoring import Restored, restore
from newsletter.settings import Settings
from newsletter.soundness import look_into
from tests import databases
from tests.conftest import NOW, Desk
from tests.test_backup import ON_POSTGRESQL, ON_SQLITE, command, configured, damage, files, full, made

__all__ = ["full"]  # a fixture
LATER = NOW + timedelta(days=1, hours=2)


def put_back(desk: Desk, file: Path, *, over: bool = True) -> Restored:
    return restore(Settings.load(desk.file, {}), file, now=LATER, actor="operator:anna", over=over)


def without_database(desk: Desk) -> None:
    """As on a new machine."""
    if desk.url.startswith("sqlite:"):
        (desk.folder / "newsletter.db").unlink()
    else:
        desk._be_at(databases.create())


def _people(desk: Desk) -> int:
    return int(desk.rows("SELECT count(*) FROM subscriber")[0][0])


def _file(desk: Desk) -> Path:
    return desk.folder / "newsletter.db"


# ------------------------------------------------------------------------------------------ what stands there then


def test_a_restored_database_mails_nobody_until_an_operator_says_so(full: Desk) -> None:
    """Its id is the one that is claimed; so it is halted before it stands there, and says what it does not know."""
    backup = made(full)
    without_database(full)
    restored = put_back(full, backup.file, over=False)
    assert restored.kept is None
    assert (restored.inside.instance, restored.inside.at, restored.older) == (backup.instance, NOW, False)
    assert [str(slot) for slot in restored.slots["daily"]] == ["2026-11-24T07:00"], "not the one before the backup"
    assert re.fullmatch(
        rf"restored from {re.escape(backup.file.name)} of 2026-11-23 08:00 UTC; 0 editions were open; "
        "what was sent, and who joined or left after that, is not in it",
        restored.reason,
    )
    full.clock.now = LATER
    with full.open() as newsroom:
        with pytest.raises(EditionError, match=r"halted since 2026-11-24 10:00 UTC by operator:anna \(restored from"):
            newsroom.send("daily")
        assert newsroom.unhalt("operator:anna")
        full.brief("tower")
        assert newsroom.send("daily").tally
    assert full.rows("SELECT act, actor FROM operator_act WHERE act IN ('restore', 'unhalt') ORDER BY id") == [
        ("restore", "operator:anna"),
        ("unhalt", "operator:anna"),
    ]


def test_all_that_was_backed_up_is_back_and_numbers_go_on(full: Desk) -> None:
    before = {
        table: full.rows(f"SELECT * FROM {table} ORDER BY 1, 2") for table in ("subscriber", "delivery", "edition")
    }
    backup = made(full)
    without_database(full)
    put_back(full, backup.file, over=False)
    for table, rows in before.items():
        assert full.rows(f"SELECT * FROM {table} ORDER BY 1, 2") == rows
    said = command(full, "db", "check")
    assert said.returncode == 0, said.stdout
    with full.open() as newsroom:
        newsroom.unhalt("test")
        full.people(newsroom, 25)
    assert _people(full) == 25


def test_it_says_how_many_editions_were_open_and_what_the_kept_one_had_started(full: Desk) -> None:
    with full.open() as newsroom:
        full.brief("tower")
        full.clock.forward(timedelta(days=1))
        newsroom.send("daily")
    full.rows("UPDATE edition SET state = 'paused' WHERE slot = '2026-11-23T07:00'")
    backup = made(full)
    full.clock.forward(timedelta(days=1))
    with full.open() as newsroom:
        full.brief("river")
        newsroom.send("daily")
    restored = put_back(full, backup.file)
    assert restored.open_editions == 1
    assert "1 edition was open" in restored.reason
    assert restored.sent_since == ("daily 2026-11-24T07:00 (closed)", "daily 2026-11-25T07:00 (closed)")


def test_the_command_tells_the_time_that_is_not_known_and_what_to_do(full: Desk) -> None:
    backup = made(full)
    said = command(full, "db", "restore", str(backup.file), "--over")
    assert said.returncode == 0, said.stderr
    for told in (
        "dispatch is HALTED: nothing is sent from it until newsletter unhalt",
        "NOT KNOWN to it: whatever happened from 2026-11-23 08:00:00 UTC to ",
        "the database that stood there had started since: nothing",
        "docs/recovery.md",
    ):
        assert told in said.stdout
    told_json = json.loads(command(full, "db", "restore", str(backup.file), "--over", "--json").stdout)
    assert told_json["unknown_from"] == "2026-11-23T08:00:00+00:00"
    assert told_json["halted"].startswith("restored from ")


def test_an_older_backup_is_upgraded_by_an_operators_word_alone(full: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    backup = made(full)
    without_database(full)
    monkeypatch.setattr(migrations, "HEAD", "9998")
    restored = put_back(full, backup.file, over=False)
    assert restored.older
    with pytest.raises(ConfigurationError, match="run newsletter db upgrade"):
        full.open()
    assert full.rows("SELECT version_num FROM alembic_version") == [(backup.revision,)]
    monkeypatch.setattr(migrations, "_apply", lambda connection: None)
    monkeypatch.setattr(migrations, "_widen", lambda connection: None)
    upgrade(Settings.load(full.file, {}))


# ------------------------------------------------------------------------------------------ what is refused


def test_a_database_that_stands_there_is_not_replaced_without_a_word(full: Desk) -> None:
    backup = made(full)
    with pytest.raises(BackupError, match="a database stands there; --over puts the backup in its place"):
        put_back(full, backup.file, over=False)


@ON_SQLITE
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda file: file.write_bytes(b""), "it is no database of SQLite"),
        (lambda file: file.write_bytes(b"PGDMP" + bytes(100)), "needs a backup of SQLite, and this is none"),
        (lambda file: file.write_bytes(b"SQLite format 3\0" + bytes(5_000)), "it is damaged"),
        (lambda file: file.write_bytes(file.read_bytes()[:-8_192]), "it is damaged"),
        (damage, "it is damaged"),
        (lambda file: file.write_bytes(gzip.compress(file.read_bytes())[:-20]), "cannot be decompressed to its end"),
        (lambda file: _sql(file, "DROP TABLE operator_act"), "it is no database of a newsletter"),
        (lambda file: _sql(file, "UPDATE alembic_version SET version_num = '9000'"), "made by a newer newsletter"),
        (lambda file: _sql(file, "UPDATE alembic_version SET version_num = 'abc'"), "tables that are not ours"),
        (lambda file: _sql(file, "CREATE VIEW all_of_it AS SELECT 1"), "it has view all_of_it, and ours have none"),
        (lambda file: _sql(file, "DELETE FROM instance"), "it has no id"),
        (lambda file: _sql(file, "DELETE FROM mailing_list"), "names a row that is not there"),
        (lambda file: file.with_name(f"{file.name}-wal").write_bytes(b"x"), "so it is a database in use"),
    ],
)
def test_a_file_that_is_no_good_is_refused_and_the_database_stays(
    full: Desk, spoil: Callable[[Path], object], said: str
) -> None:
    file = shutil.copyfile(made(full).file, full.folder / "given.db")
    spoil(file)
    before = files(full.folder)
    with pytest.raises(BackupError, match=re.escape(said)) as caught:
        put_back(full, file)
    assert "\n" not in str(caught.value)
    assert files(full.folder) == before, "and nothing is left of it"
    assert full.rows("SELECT halted_at FROM instance") == [(None,)]
    assert _people(full) == 20


def _sql(file: Path, statement: str) -> None:
    with closing(sqlite3.connect(file)) as opened, opened:
        opened.execute(statement)


def test_a_backup_of_a_database_that_is_not_claimed_is_refused(full: Desk) -> None:
    backup = made(full)
    full.configure(lambda text: configured(text) + '\n[database]\ninstance = "another"\n')
    with pytest.raises(ConfigurationError, match=f"a backup of database {backup.instance}, and .* claims another"):
        put_back(full, backup.file)


@ON_SQLITE
def test_neither_the_database_itself_nor_a_file_that_is_not_there_is_put_back(full: Desk) -> None:
    with pytest.raises(BackupError, match="it is the database itself"):
        put_back(full, _file(full))
    with pytest.raises(BackupError, match="No such file"):
        put_back(full, full.folder / "nowhere.db")


@ON_SQLITE
def test_a_strangers_database_is_not_put_aside(full: Desk) -> None:
    backup = made(full)
    _file(full).unlink()
    _sql(_file(full), "CREATE TABLE bookmark (url text)")
    with pytest.raises(BackupError, match="it holds tables that are not ours"):
        put_back(full, backup.file)
    assert full.rows("SELECT count(*) FROM bookmark") == [(0,)]


@contextmanager
def working(desk: Desk) -> Iterator[None]:
    """A process that has the database open and does nothing just now, as `serve` and its second process do."""
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom newsletter.newsroom import Newsroom\n"
        "from newsletter.settings import Settings\n"
        "with Newsroom.open(Settings.load(Path(sys.argv[1]), {})) as newsroom:\n"
        "    newsroom.editions(1)\n    print(flush=True)\n    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(desk.file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield


def test_it_is_not_taken_from_under_a_process_that_has_it_open(full: Desk) -> None:
    backup = made(full)
    with working(full), pytest.raises(BackupError, match="a process works on it: stop newsletter serve"):
        put_back(full, backup.file)
    assert full.rows("SELECT halted_at FROM instance") == [(None,)]
    put_back(full, backup.file)


def test_a_batch_in_the_hands_of_another_machine_is_waited_for(full: Desk) -> None:
    backup = made(full)
    until = "2026-11-24 10:03:00" + ("" if full.url.startswith("sqlite:") else "+00")
    full.rows(
        "UPDATE batch SET state = 'calling', owner = 'elsewhere/1.2/3/4', lease_until = ? WHERE number = 1", until
    )
    with pytest.raises(BackupError, match=r"a batch is in its hands, until 10:03:00 UTC at most"):
        put_back(full, backup.file)


# ------------------------------------------------------------------------------------------ the one that stood there


@ON_SQLITE
def test_the_one_that_stood_there_is_kept_whole_private_and_halted_and_can_be_put_back(full: Desk) -> None:
    _file(full).chmod(0o600)  # as the program makes it
    backup = made(full)
    with full.open() as newsroom:
        full.people(newsroom, 30)
    restored = put_back(full, backup.file)
    assert restored.kept == str(full.folder / "newsletter.db.before-restore-20261124T100000Z")
    kept = Path(restored.kept)
    assert _people(full) == 20
    assert stat.S_IMODE(kept.stat().st_mode) == stat.S_IMODE(_file(full).stat().st_mode) == 0o600
    look_into(kept, "the kept one")
    with closing(sqlite3.connect(kept)) as opened:
        assert opened.execute("SELECT halted_by FROM instance").fetchone() == ("newsletter db restore",)
    again = put_back(full, kept)
    assert again.kept == f"{kept}-2"
    assert _people(full) == 30


@ON_SQLITE
def test_a_damaged_one_is_replaced_and_kept_with_its_journal(full: Desk) -> None:
    backup = made(full)
    _file(full).write_bytes(b"\xa5" * 8_192)
    wal = full.folder / "newsletter.db-wal"
    wal.write_bytes(b"the last commits")
    restored = put_back(full, backup.file)
    assert restored.sent_since is None
    assert Path(f"{restored.kept}-wal").read_bytes() == b"the last commits"
    assert not wal.exists(), "it would be taken for the new one's own"
    assert _people(full) == 20


@ON_SQLITE
def test_a_journal_that_a_lost_database_left_does_not_get_into_the_new_one(full: Desk) -> None:
    backup = made(full)
    newsroom = full.open()
    full.people(newsroom, 30)
    wal = (full.folder / "newsletter.db-wal").read_bytes()
    newsroom.close()
    _file(full).unlink()
    (full.folder / "newsletter.db-wal").write_bytes(wal)
    put_back(full, backup.file, over=False)
    assert _people(full) == 20
    assert full.rows("PRAGMA integrity_check") == [("ok",)]
    kept = full.folder / "newsletter.db.before-restore-20261124T100000Z-wal"
    assert kept.read_bytes() == wal


@ON_SQLITE
def test_a_compressed_backup_is_put_back_by_what_it_is_not_by_its_name(full: Desk) -> None:
    full.configure(lambda text: configured(text, compress="true"))
    backup = made(full)
    put_back(full, backup.file.rename(full.folder / "given"))
    assert _people(full) == 20


@ON_POSTGRESQL
def test_our_tables_move_into_a_schema_and_others_stay(full: Desk) -> None:
    full.rows("CREATE TABLE bookmark (url text)")
    backup = made(full)
    with full.open() as newsroom:
        full.people(newsroom, 30)
    restored = put_back(full, backup.file)
    assert restored.kept == "before_restore_20261124t100000z"
    assert full.rows(f"SELECT count(*) FROM {restored.kept}.subscriber") == [(30,)]
    assert _people(full) == 20
    assert full.rows("SELECT count(*) FROM public.bookmark") == [(0,)]


@ON_POSTGRESQL
def test_an_archive_that_breaks_off_changes_nothing(full: Desk) -> None:
    backup = made(full)
    backup.file.write_bytes(backup.file.read_bytes()[:-2_000])
    with pytest.raises(BackupError, match="it is damaged"):
        put_back(full, backup.file)
    assert _people(full) == 20
    assert full.rows("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'before_restore%'") == [(0,)]


@ON_POSTGRESQL
def test_an_error_of_the_server_undoes_all_and_shows_no_row(full: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    backup = made(full)
    after = "INSERT INTO public.subscriber SELECT * FROM public.subscriber LIMIT 1;"
    monkeypatch.setattr(restoring, "_after", lambda *arguments: after)
    with pytest.raises(BackupError, match="nothing was changed: duplicate key value") as caught:
        put_back(full, backup.file)
    assert "@" not in str(caught.value)
    assert "reader" not in str(caught.value)
    assert _people(full) == 20
    assert full.rows("SELECT halted_at FROM instance") == [(None,)]


# ------------------------------------------------------------------------------------------ kills

DRIVER = """
import os, signal, sys, time
from datetime import datetime
from pathlib import Path
from newsletter import backup, restoring
from newsletter.newsroom import engine_of
from newsletter.settings import Settings

settings, now = Settings.load(Path(sys.argv[1]), {}), datetime.fromisoformat(sys.argv[2])
left = 0

def deadly(real):
    def call(*arguments, **options):
        for step in (lambda: None, lambda: real(*arguments, **options)):
            global left
            given = step()
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return given
    return call

def work():
    if len(sys.argv) > 3:
        restoring.restore(settings, Path(sys.argv[3]), now=now, actor="test", over=True)
    else:
        engine = engine_of(settings)
        backup.back_up(settings, engine, now=now, keep=1_000)

backup._PAGES = 24
for line in sys.stdin:
    steps, _, seconds = line.partition(" ")
    left = int(steps)
    child = os.fork()
    if not child:
        for name in ("open", "fsync", "link", "rename", "replace", "unlink"):
            setattr(os, name, deadly(getattr(os, name)))
        time.sleep = deadly(time.sleep)
        try:
            work()
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    if seconds:
        time.sleep(float(seconds))
        os.kill(child, signal.SIGKILL)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Makes a backup, or puts one back, in children of itself that are killed at a step of theirs, or after a time."""


@contextmanager
def dying(desk: Desk, *arguments: object) -> Iterator[Callable[[str], int]]:
    """What runs such a child, and gives how it ended: -9 where it was killed, 0 where it came to its end."""
    told = [sys.executable, "-c", DRIVER, str(desk.file), LATER.isoformat(), *map(str, arguments)]
    with subprocess.Popen(told, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def run(order: str) -> int:
            assert process.stdin is not None
            assert process.stdout is not None
            print(order, file=process.stdin, flush=True)
            return int(process.stdout.readline())

        yield run


def _at_each_step(run: Callable[[str], int], look: Callable[[], None]) -> int:
    """Kill before and after each thing that is done to a file, one after the other, until it comes to its end."""
    for step in itertools.count(1):
        ended = run(str(step))
        look()
        if ended == 0:
            return step
        assert ended == -signal.SIGKILL
    raise AssertionError


@pytest.mark.long
@ON_SQLITE
@pytest.mark.parametrize("compress", ["false", "true"])
def test_a_backup_that_is_killed_leaves_a_whole_one_or_none_and_the_next_clears_up(full: Desk, compress: str) -> None:
    full.configure(lambda text: configured(text, compress=compress))
    directory = full.folder / "backups"
    drafts = set()

    def look() -> None:
        for name in files(directory):
            if name.startswith("."):
                drafts.add(name)
            elif compress == "true":
                assert gzip.decompress((directory / name).read_bytes()).startswith(b"SQLite format 3")
            else:
                look_into(directory / name, name)

    with dying(full) as run:
        steps = _at_each_step(run, look)
    assert steps > 20
    assert drafts
    assert not [name for name in files(directory) if name.startswith(".")]


@ON_SQLITE
def test_a_restore_that_is_killed_leaves_the_old_database_or_the_new_one_whole(full: Desk) -> None:
    backup = made(full)
    with full.open() as newsroom:
        full.people(newsroom, 30)
    old = shutil.copyfile(_file(full), full.folder / "old.db")
    found = []

    def look() -> None:
        found.append(_people(full))
        assert found[-1] in {20, 30}
        ((halted, why),) = full.rows("SELECT halted_at IS NOT NULL, halt_reason FROM instance")
        assert found[-1] == 30 or (halted and why.startswith(migrations.RESTORED))
        assert full.rows("PRAGMA integrity_check") == [("ok",)]
        for kept in full.folder.glob("*.before-restore*"):
            look_into(kept, kept.name)
            kept.unlink()
        shutil.copyfile(old, full.folder / "next.db").replace(_file(full))

    with dying(full, backup.file) as run:
        steps = _at_each_step(run, look)
    assert steps > 20
    assert set(found) == {20, 30}, "killed before the swap and after it"
    assert not [name for name in files(full.folder) if ".restoring" in name]


@pytest.mark.long
@ON_POSTGRESQL
@pytest.mark.slow
def test_an_archive_is_put_back_whole_or_not_at_all_whenever_it_is_killed(full: Desk) -> None:
    full.rows("UPDATE message SET content = ?", "x" * 20_000_000)
    backup = made(full)
    with full.open() as newsroom:
        full.people(newsroom, 30)
    found = []
    with dying(full, backup.file) as run:
        began = time.monotonic()
        assert run("0") == 0
        whole = time.monotonic() - began
        for share in (0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95):
            with full.open() as newsroom:
                newsroom.unhalt("test")
                full.people(newsroom, 30)
            run(f"0 {whole * share}")
            _alone(full)
            found.append(_people(full))
            assert found[-1] in {20, 30}
            ((halted, why),) = full.rows("SELECT halted_at IS NOT NULL, halt_reason FROM instance")
            assert halted == (found[-1] == 20)
            assert not halted or why.startswith(migrations.RESTORED)
    assert 30 in found, "none was killed before its end: the test proves nothing"


@pytest.mark.long
@ON_POSTGRESQL
@pytest.mark.slow
def test_an_archive_that_is_killed_has_no_name_and_the_next_clears_up(full: Desk) -> None:
    full.rows("UPDATE message SET content = ?", "x" * 20_000_000)
    directory = full.folder / "backups"
    drafts = set()
    with dying(full) as run:
        for seconds in (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6):
            run(f"0 {seconds}")
            drafts |= {name for name in files(directory) if name.startswith(".")}
        assert run("0") == 0
    assert drafts
    named = files(directory)
    assert not [name for name in named if name.startswith(".")]
    for name in named:
        programs = databases.programs() or Path()
        subprocess.run([programs / "pg_restore", "--file=/dev/null", directory / name], check=True)


def _alone(desk: Desk) -> None:
    """Wait until the server has seen that the programs of whoever was killed are gone."""
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with desk.asking() as ask:
        while ask(f"{others} AND backend_type = 'client backend'") != [(0,)]:
            time.sleep(0.01)
