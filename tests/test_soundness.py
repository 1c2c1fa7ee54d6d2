"""`newsletter db check`: what is damaged is found and told, what is whole is called so, and nothing is changed."""

import json
import shutil
import sqlite3
from contextlib import closing

import pytest

from newsletter import migrations
from newsletter.soundness import Check, check
from tests.conftest import NOW, Desk
from tests.test_backup import ON_POSTGRESQL, ON_SQLITE, command, damage, engine_at, full

__all__ = ["full"]  # a fixture


def checked(desk: Desk) -> Check:
    engine = engine_at(desk)
    try:
        return check(engine, now=NOW)
    finally:
        engine.dispose()


def bad(found: Check) -> str:
    assert not found.sound
    return "; ".join(finding.what for finding in found.findings if finding.ok is False)


def test_a_whole_database_is_called_whole_and_is_not_changed(full: Desk) -> None:
    before = full.rows("SELECT count(*) FROM operator_act")
    said = command(full, "db", "check")
    assert (said.returncode, "BAD" in said.stdout) == (0, False), said.stdout
    assert full.rows("SELECT count(*) FROM operator_act") == before
    told = json.loads(command(full, "db", "check", "--json").stdout)
    assert told["sound"]
    assert any(one["what"] == "tables: as declared" for one in told["findings"])


def test_a_sum_that_does_not_hold_is_told_and_exits_with_1(full: Desk) -> None:
    full.rows("UPDATE edition SET state = 'paused', candidates = candidates + 1")
    said = command(full, "db", "check")
    assert said.returncode == 1
    assert "BAD   open edition daily 2026-11-23T07:00: THE SUM DOES NOT HOLD (21 candidates, 0 waiting)" in said.stdout


def test_an_open_edition_is_named_with_who_waits(full: Desk) -> None:
    full.rows("UPDATE edition SET state = 'paused'")
    found = checked(full)
    assert found.sound
    assert "open edition daily 2026-11-23T07:00: 20 candidates, 0 waiting" in [one.what for one in found.findings]


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DROP INDEX ix_batch_held", "ix_batch_held"),
        ("ALTER TABLE edition ADD COLUMN mood text", "mood"),
        ("DROP TABLE pace", "pace"),
    ],
)
def test_tables_that_are_not_as_declared_are_told(full: Desk, statement: str, said: str) -> None:
    full.rows(statement)
    found = [one for one in checked(full).findings if one.what.startswith("tables")]
    assert [one.ok for one in found] == [False]
    assert said in found[0].what


@ON_SQLITE
def test_a_check_that_is_gone_is_told(full: Desk) -> None:
    """Alembic compares none; SQLite keeps the statement itself."""
    with closing(sqlite3.connect(full.folder / "newsletter.db")) as opened, opened:
        opened.execute("PRAGMA writable_schema = ON")
        opened.execute("UPDATE sqlite_master SET sql = replace(sql, '''paused'', ', '') WHERE name = 'edition'")
    assert "edition is made by another statement" in bad(checked(full))


@ON_SQLITE
def test_a_row_that_names_one_that_is_not_there_is_told(full: Desk) -> None:
    full.rows("DELETE FROM mailing_list")
    assert "consent_event row 1 names a row of mailing_list that is not there" in bad(checked(full))


@ON_SQLITE
def test_damaged_pages_are_told(full: Desk) -> None:
    damage(full.folder / "newsletter.db")
    assert "pages and indices" in bad(checked(full))


@ON_SQLITE
def test_a_file_that_is_no_database_is_one_line(full: Desk) -> None:
    (full.folder / "newsletter.db").write_bytes(b"\xa5" * 8_192)
    assert bad(checked(full)) == "the database cannot be read: file is not a database"


@ON_SQLITE
def test_a_database_that_is_not_there_is_not_made(desk: Desk) -> None:
    (desk.folder / "newsletter.db").unlink()
    said = command(desk, "db", "check")
    assert (said.returncode, "there is no database" in said.stderr) == (2, True)
    assert not (desk.folder / "newsletter.db").exists()


def test_an_older_revision_is_told_with_the_command_and_not_upgraded(full: Desk) -> None:
    full.rows("UPDATE alembic_version SET version_num = '0003'")
    assert f"revision 0003, and this program wants {migrations.HEAD}: newsletter db upgrade" in bad(checked(full))
    assert full.rows("SELECT version_num FROM alembic_version") == [("0003",)]


@ON_SQLITE
def test_too_little_room_for_a_copy_is_told(full: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(full.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=1_000))
    assert "1,000 are free where it is: too few for a copy of it" in bad(checked(full))


@ON_POSTGRESQL
def test_a_reference_that_nobody_is_held_to_is_told(full: Desk) -> None:
    full.rows("ALTER TABLE subscription DROP CONSTRAINT fk_subscription_list_id")
    full.rows(
        "ALTER TABLE subscription ADD CONSTRAINT fk_subscription_list_id FOREIGN KEY (list_id) "
        "REFERENCES mailing_list (id) NOT VALID"
    )
    assert "fk_subscription_list_id is not enforced" in bad(checked(full))
