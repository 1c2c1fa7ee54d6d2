"""The one history of the tables: it makes what the models declare, and changes no database without a copy."""

import hashlib
import json
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Enum, text

from newsletter import formats, migrations
from newsletter.edition import Message
from newsletter.errors import ConfigurationError
from newsletter.newsroom import Newsroom
from newsletter.settings import Settings
from subscribers import Table, connect
from tests.conftest import CONFIGURATION

NEXT = '''\
"""A column more, on a table that others name.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("subscriber", recreate="always") as batch_op:
        batch_op.add_column(sa.Column("pronoun", sa.String(length=20), nullable=True))
'''


def _settings(folder: Path) -> Settings:
    (folder / "newsletter.toml").write_text(CONFIGURATION)
    return Settings.load(folder / "newsletter.toml", {})


def _schema(file: Path) -> dict[str, list[str]]:
    """Each table's columns, keys, CHECKs and indices, as sorted lines of SQL."""
    with closing(sqlite3.connect(file)) as connection:
        rows = connection.execute(
            "SELECT tbl_name, sql FROM sqlite_master WHERE sql IS NOT NULL AND tbl_name != 'alembic_version'"
        ).fetchall()
    made: dict[str, list[str]] = {}
    for table, sql in rows:
        made.setdefault(table, []).extend(
            re.sub(r"\s+", " ", line).replace('"', "").strip(" ,") for line in sql.split("\n")
        )
    return {table: sorted(lines) for table, lines in made.items()}


@pytest.fixture
def next_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the installed program were one revision further."""
    scripts = tmp_path / "scripts"
    shutil.copytree(migrations.SCRIPTS, scripts, ignore=shutil.ignore_patterns("__pycache__"))
    (scripts / "versions" / "0005_next.py").write_text(NEXT)
    monkeypatch.setattr(migrations, "SCRIPTS", scripts)
    monkeypatch.setattr(migrations, "HEAD", "0006")


def _populated(folder: Path) -> Path:
    """A database at HEAD with a subscriber who is on a list."""
    with Newsroom.open(_settings(folder)):
        pass
    with closing(sqlite3.connect(folder / "newsletter.db")) as connection:
        connection.executescript("""
            INSERT INTO mailing_list (id, slug, name, description, public, opt_in, welcome, created_at)
                VALUES (1, 'daily', 'Daily', '', 1, 'double', 0, '2026-11-23 08:00:00');
            INSERT INTO subscriber (id, address, key, link, created_at)
                VALUES (1, 'ada@example.org', 'ada@example.org', 'x', '2026-11-23 08:00:00');
            INSERT INTO subscription VALUES (1, 1, 1, 'confirmed', '2026-11-23 08:00:00');
        """)
    return folder / "newsletter.db"


def _count(file: Path, table: str) -> int:
    with closing(sqlite3.connect(file)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def test_the_migrated_schema_is_the_declared_one(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path / 'migrated.db'}")
    migrations.upgrade(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Table.metadata) == []
    engine.dispose()
    declared = connect(f"sqlite:///{tmp_path / 'declared.db'}")
    with declared.begin() as connection:
        Table.metadata.create_all(connection)
    declared.dispose()
    # Alembic compares no CHECKs; SQLite keeps the statements themselves.
    assert _schema(tmp_path / "migrated.db") == _schema(tmp_path / "declared.db")


def test_every_enumeration_is_checked_by_the_database(tmp_path: Path) -> None:
    file = _populated(tmp_path)
    with closing(sqlite3.connect(file)) as connection, pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        connection.execute("UPDATE subscription SET state = 'maybe'")
    checks = sum(
        line.startswith("CONSTRAINT") and "CHECK" in line for lines in _schema(file).values() for line in lines
    )
    enumerations = [column for table in Table.metadata.sorted_tables for column in table.c if type(column.type) is Enum]
    assert checks == len(enumerations) > 5


def test_head_is_the_newest_script_and_the_history_is_one_line() -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations.SCRIPTS))
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_heads() == [migrations.HEAD]
    assert all(re.fullmatch(r"[0-9]{4}", script.revision) for script in scripts.walk_revisions())


def test_a_database_at_head_costs_no_alembic(tmp_path: Path) -> None:
    with Newsroom.open(_settings(tmp_path)):
        pass
    program = """
import sys
from pathlib import Path
from newsletter.newsroom import Newsroom
from newsletter.settings import Settings
with Newsroom.open(Settings.load(Path(sys.argv[1]), {})) as newsroom:
    assert newsroom.backup is None
print("alembic" in sys.modules)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "newsletter.toml")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"


def test_processes_that_open_a_fresh_database_at_once_all_find_it_whole(tmp_path: Path) -> None:
    _settings(tmp_path)
    program = """
import sys
from pathlib import Path
from newsletter.checkup import examine
from newsletter.newsroom import Newsroom
from newsletter.settings import Settings
with Newsroom.open(Settings.load(Path(sys.argv[1]), {})) as newsroom:
    print([finding.what for finding in examine(newsroom) if finding.what.startswith("database /")])
"""
    command = [sys.executable, "-c", program, str(tmp_path / "newsletter.toml")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, **pipes) for _ in range(3)]  # type: ignore[call-overload] # the same for each
    answers = [process.communicate() for process in running]
    assert {error for _, error in answers} == {""}
    assert len({said for said, _ in answers}) == 1, "and agree which database it is"


@pytest.mark.usefixtures("next_version")
def test_an_older_database_is_copied_before_it_is_changed_and_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "desk").mkdir()
    with pytest.MonkeyPatch.context() as before:
        before.setattr(migrations, "HEAD", "0005")
        before.setattr(migrations, "SCRIPTS", Path(migrations.__file__).parent)
        file = _populated(tmp_path / "desk")
    with Newsroom.open(_settings(tmp_path / "desk")) as newsroom:
        backup = newsroom.backup
        with newsroom.engine.connect() as connection:
            assert migrations.version(connection) == "0006"
            assert connection.execute(text("PRAGMA foreign_keys")).scalar_one() == 1, "on again"
            assert connection.execute(text("PRAGMA foreign_key_check")).all() == []
    assert backup == tmp_path / "desk" / "newsletter.db.before-0006-from-0005"
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    for copy in (file, backup):
        assert (_count(copy, "subscriber"), _count(copy, "subscription")) == (1, 1), "no cascade emptied anything"
    assert "pronoun" in str(_schema(file)["subscriber"])
    assert "pronoun" not in str(_schema(backup)["subscriber"])
    with Newsroom.open(_settings(tmp_path / "desk")) as newsroom:
        assert newsroom.backup is None, "once"


@pytest.mark.usefixtures("next_version")
def test_a_second_process_does_not_write_the_changed_database_over_the_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.MonkeyPatch.context() as before:
        before.setattr(migrations, "HEAD", "0005")
        before.setattr(migrations, "SCRIPTS", Path(migrations.__file__).parent)
        file = _populated(tmp_path)
    first, second = connect(f"sqlite:///{file}"), connect(f"sqlite:///{file}")
    look = migrations.version
    overtaken: list[Path | None] = []

    def slow(connection: Connection) -> str | None:
        seen = look(connection)
        if not overtaken and connection.engine.url == second.url and connection.engine.pool is second.pool:
            overtaken.append(None)
            overtaken[0] = migrations.upgrade(first)  # between the look and the lock
        return seen

    monkeypatch.setattr(migrations, "version", slow)
    assert migrations.upgrade(second) is None
    assert overtaken == [tmp_path / "newsletter.db.before-0006-from-0005"]
    assert "pronoun" not in str(_schema(tmp_path / "newsletter.db.before-0006-from-0005")["subscriber"])
    first.dispose()
    second.dispose()


@pytest.mark.usefixtures("next_version")
def test_a_change_that_fails_half_way_leaves_the_database_as_it_was(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as before:
        before.setattr(migrations, "HEAD", "0005")
        before.setattr(migrations, "SCRIPTS", Path(migrations.__file__).parent)
        file = _populated(tmp_path)
    schema = _schema(file)
    script = migrations.SCRIPTS / "versions" / "0005_next.py"
    script.write_text(NEXT + '    op.execute("SELECT no_such_function()")\n')
    with pytest.raises(ConfigurationError, match="no such function"):
        Newsroom.open(_settings(tmp_path))
    assert _schema(file) == schema
    assert _count(file, "subscription") == 1


def _versioned(file: Path, version: str) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (version,))
        connection.commit()


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("9000", "is at 9000, made by a newer newsletter; this one knows 0005"),
        ("0000", "'0000'"),
        ("ab12cd34ef56", "holds tables that are not ours"),
    ],
)
def test_a_database_of_another_version_is_refused_and_left_alone(tmp_path: Path, version: str, says: str) -> None:
    file = _populated(tmp_path)
    _versioned(file, version)
    schema = _schema(file)
    with pytest.raises(ConfigurationError, match=re.escape(says)) as caught:
        Newsroom.open(_settings(tmp_path))
    assert str(caught.value).startswith(f"the database {file}")
    assert str(caught.value).isprintable()
    assert _schema(file) == schema


def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "newsletter.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE bookmark (url TEXT)")
    with pytest.raises(ConfigurationError, match="holds tables that are not ours"):
        Newsroom.open(_settings(tmp_path))
    assert list(_schema(file)) == ["bookmark"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"Dear reader,\n" * 100, "file is not a database"),
        (b"SQLite format 3\0" + b"\xff" * 200, "not a database|malformed"),
    ],
)
def test_a_file_that_is_no_database_gives_one_line_and_is_left_alone(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "newsletter.db"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=says) as caught:
        Newsroom.open(_settings(tmp_path))
    assert str(caught.value).startswith(f"the database {file}")
    assert str(caught.value).isprintable()
    assert file.read_bytes() == content


def test_a_folder_in_place_of_the_database_gives_one_line(tmp_path: Path) -> None:
    (tmp_path / "newsletter.db").mkdir()
    with pytest.raises(ConfigurationError, match="unable to open database file"):
        Newsroom.open(_settings(tmp_path))


def test_an_empty_file_is_a_fresh_database(tmp_path: Path) -> None:
    (tmp_path / "newsletter.db").touch()
    with Newsroom.open(_settings(tmp_path)) as newsroom:
        assert newsroom.backup is None


def test_a_folder_with_odd_characters_holds_a_database_like_any_other(tmp_path: Path) -> None:
    folder = tmp_path / "100% news #1 ü"
    folder.mkdir()
    with Newsroom.open(_settings(folder)):
        assert (folder / "newsletter.db").stat().st_size > 0
    odd = tmp_path / "what?"
    odd.mkdir()
    with pytest.raises(ConfigurationError, match=r"cannot hold “\?”"):
        _settings(odd)


def test_briefs_of_the_first_version_are_recognised_after_the_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0002 gives each brief its page and hashes its content anew: else every brief on record would be a revision."""
    scripts = tmp_path / "scripts"
    shutil.copytree(
        migrations.SCRIPTS, scripts, ignore=shutil.ignore_patterns("__pycache__", "0002*", "0003*", "0004*", "0005*")
    )
    (tmp_path / "desk").mkdir()
    file = tmp_path / "desk" / "newsletter.db"
    with monkeypatch.context() as before:
        before.setattr(migrations, "SCRIPTS", scripts)
        before.setattr(migrations, "HEAD", "0001")
        engine = connect(f"sqlite:///{file}")
        migrations.upgrade(engine)
        engine.dispose()
    old = '{"headline": "Rain Falls", "slug": "rain-falls", "url": "https://desk.example.org/rain/?utm_source=x",'
    content = old + '"published": null, "facts": [{"text": "It is wet.", "citations": []}], "narratives": []}'
    older = content.replace("It is wet.", "It may be wet.")
    new_hash, old_hash = (hashlib.sha256(text.encode()).hexdigest() for text in (content, older))
    message = (
        '{"sender": {"newsletter_id": "daily", "from_name": "T", "from_address": "t@example.org", "reply_to": null,'
    )
    message += '"list_name": "T", "list_id": "t.example.org", "site_url": "https://example.org"},'
    message += '"subject": "S", "html": "<p>H</p>", "text": "T", "nonce": "d4f0a1"}'
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("INSERT INTO brief VALUES (1, NULL, 'Rain Falls', 2, 'x', '2026-11-23 08:00:00')")
        connection.execute("UPDATE brief SET url = 'https://desk.example.org/rain/?utm_source=x'")
        for number, told in ((1, older), (2, content)):
            connection.execute("INSERT INTO brief_revision VALUES (1, ?, ?, '2026-11-23 08:00:00')", (number, told))
        connection.execute("INSERT INTO sighting VALUES ('desk', 'rain.json', 1, ?, NULL)", (new_hash,))
        connection.execute("INSERT INTO sighting VALUES ('wire', 'x', 1, ?, NULL)", (old_hash,))
        connection.commit()
    with Newsroom.open(_settings(tmp_path / "desk")):
        pass
    brief, former = (formats.read(text.encode(), "rain.json").briefs[0] for text in (content, older))
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT page, content_hash FROM brief").fetchall() == [
            ("desk.example.org/rain", brief.content_hash)
        ]
        hashes = connection.execute("SELECT content_hash FROM sighting ORDER BY source").fetchall()
    assert hashes == [(brief.content_hash,), (former.content_hash,)], "of a source with an older telling, too"
    parts = [json.loads(message)["sender"], "S", "<p>H</p>", "T", "d4f0a1"]
    digest = hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()
    assert Message.from_json(json.loads(message)).digest == digest, "what was frozen before still goes out"
