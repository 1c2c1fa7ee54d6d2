"""newsletter.toml: every mistake is one line that says where it is and what was expected, and no secret ever shows."""

import re
import textwrap
from datetime import timedelta
from pathlib import Path

import pytest

from newsletter.errors import ConfigurationError
from newsletter.settings import SECRET_VARIABLE, Folder, Outbox, Settings

SECRET = "s3cr3t-" * 6

WHOLE = """\
[site]
name = "Test Desk"
url = "https://news.example.org"
postal_address = "Test Desk, 1 Test Street"

[database]
url = "sqlite:///kept/here.db"

[provider]
kind = "outbox"
path = "outbox"

[sources.desk]
kind = "folder"
path = "briefs"

[templates]
path = "designs"

[dispatch]
lease = "5m"

[newsletters.daily]
title = "The Test Digest"
from = "The Test Digest <digest@news.example.org>"
lists = ["daily"]
schedule = "0 7 * * *"
zone = "UTC"
"""


def load(folder: Path, text: str | bytes, **environ: str) -> Settings:
    file = folder / "newsletter.toml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return Settings.load(file, environ)


def refusal(folder: Path, text: str | bytes, **environ: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        load(folder, text, **environ)
    said = str(caught.value)
    assert said.isprintable(), "one line, without controls"
    assert "pydantic" not in said
    assert "Input should" not in said
    return caught.value


def changed(before: str, after: str) -> str:
    assert WHOLE.count(before) == 1, before
    return WHOLE.replace(before, after)


def line_of(text: str, part: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), start=1) if part in line)


def test_a_whole_configuration_is_read(tmp_path: Path) -> None:
    settings = load(tmp_path, WHOLE)
    daily = settings.newsletter("daily")
    assert (daily.schedule, daily.lists, daily.zone) == (("0 7 * * *",), ("daily",), "UTC")
    assert (daily.mailbox.display_name, daily.mailbox.addr_spec) == ("The Test Digest", "digest@news.example.org")
    assert settings.list_id_of("daily") == "daily.news.example.org"
    assert settings.sources_of(daily) == ("desk",)
    assert settings.dispatch.lease == timedelta(minutes=5)


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_ends_and_marks_of_other_systems_are_no_mistake(tmp_path: Path, ends: str, mark: bytes) -> None:
    assert load(tmp_path, mark + WHOLE.replace("\n", ends).encode()).site.name == "Test Desk"


# ------------------------------------------------------------------------------------------ unknown keys


@pytest.mark.parametrize(
    ("right", "wrong", "near"),
    [
        ("[dispatch]", "[dispach]", "dispatch"),
        ("[newsletters.daily]", "[newsletter.daily]", "newsletters"),
        ("postal_address =", "postal_adress =", "postal_address"),
        ('url = "sqlite', 'ulr = "sqlite', "url"),
        ('path = "outbox"', 'pth = "outbox"', "path"),
        ('path = "briefs"', 'paht = "briefs"', "path"),
        ("lease =", "leas =", "lease"),
        ("zone =", "zoen =", "zone"),
        ("from =", "form =", "from"),
        ('path = "designs"', 'folder = "designs"', None),
        ("[site]", "colour = 3\n[site]", None),
        ("[site]", f'secret = "{SECRET}"\n[site]', None),
        ("[site]", 'file = "other.toml"\n[site]', None),
        ("from =", "sender =", None),
    ],
)
def test_an_unknown_key_is_named_with_its_line_and_the_nearest_right_one(
    tmp_path: Path, right: str, wrong: str, near: str | None
) -> None:
    text = changed(right, wrong)
    error = refusal(tmp_path, text)
    assert "is no setting" in str(error)
    assert (f"did you mean “{near}”?" in str(error)) if near else ("did you mean" not in str(error))
    assert (error.file, error.line) == (tmp_path / "newsletter.toml", line_of(text, wrong.split("\n", maxsplit=1)[0]))
    assert SECRET not in str(error)


def test_a_newsletter_or_source_that_is_not_there_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no newsletter “dayly”; did you mean “daily”\?"):
        load(tmp_path, WHOLE).newsletter("dayly")
    error = refusal(tmp_path, WHOLE + 'sources = ["desc"]\n')
    assert "no source “desc”; did you mean “desk”?" in str(error)
    assert error.line == WHOLE.count("\n") + 1


# ------------------------------------------------------------------------------------------ wrong values

MAIL = 'from = "The Test Digest <digest@news.example.org>"'
SITE = 'url = "https://news.example.org"'
BASE = 'url = "sqlite:///kept/here.db"'
LISTS = 'lists = ["daily"]'
CRON = 'schedule = "0 7 * * *"'
TITLE = 'title = "The Test Digest"'


@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    [
        ('zone = "UTC"', 'zone = "Mars/Phobos"', "newsletters.daily.zone: expected a zone"),
        ('zone = "UTC"', 'zone = ""', "expected a zone"),
        ('zone = "UTC"', 'zone = "../../etc/passwd"', "expected a zone"),
        ('zone = "UTC"', 'zone = "a\\u0000b"', "expected a zone"),
        ('zone = "UTC"', "zone = 3", "expected a text in quotes"),
        (CRON, 'schedule = "0 7 * *"', "newsletters.daily.schedule: expected five cron fields"),
        (CRON, 'schedule = "0 0 7 * * *"', "expected five cron fields"),
        (CRON, 'schedule = "@daily"', "expected five cron fields"),
        (CRON, 'schedule = ["0 7 * * *", ""]', "expected five cron fields"),
        (CRON, "schedule = []", "expected at least one"),
        (CRON, "schedule = 7", "expected a list"),
        (MAIL, 'from = "nobody"', "newsletters.daily.from: expected “Name <address@domain>”"),
        (MAIL, 'from = ""', "expected “Name <address@domain>”"),
        (MAIL, 'from = "The Digest <a@-b..c>"', "expected “Name <address@domain>”"),
        (MAIL, 'from = "The Digest <a..b@example.org>"', "expected “Name <address@domain>”"),
        (MAIL, 'from = "a@example.org, b@example.org"', "expected “Name <address@domain>”"),
        (MAIL, 'from = "The Digest <ä@example.org>"', "expected “Name <address@domain>”"),
        (MAIL, 'from = "Digest <a@example.org>\\r\\nBcc: b@example.org"', "expected “Name <address@domain>”"),
        (MAIL, 'from = "Digest\\nBcc: b <a@example.org>"', "expected “Name <address@domain>”"),
        (MAIL, 'from = "Digest\\u2028x <a@example.org>"', "expected “Name <address@domain>”"),
        (MAIL, "from = 5", "expected a text in quotes"),
        (MAIL, MAIL + '\nreply_to = "Desk\\r\\n <a@example.org>"', "newsletters.daily.reply_to: expected"),
        (SITE, 'url = "news.example.org"', "site.url: expected a web address"),
        (SITE, 'url = "ftp://news.example.org"', "expected a web address"),
        (SITE, 'url = "javascript:alert(1)"', "expected a web address"),
        (SITE, 'url = "https://"', "expected a web address"),
        (SITE, 'url = "https://[news"', "expected a web address"),
        (SITE, 'url = "https://news.example.org:99999"', "expected a web address"),
        (SITE, 'url = "https://news example.org"', "expected a web address"),
        (SITE, 'url = "https://news.bücher.example"', "ASCII"),
        (SITE, 'url = "https://news.example.org/\\r\\nX: y"', "expected a web address"),
        (SITE, 'url = "https://news.example.org/?page=1"', "without ?"),
        (SITE, 'url = "https://user:word@news.example.org"', "without ?"),
        (BASE, 'url = "newsletter.db"', "database.url: expected “sqlite:///” and a file"),
        (BASE, 'url = "sqlite://"', "and a file"),
        (BASE, 'url = "sqlite:///"', "and a file"),
        (BASE, 'url = "sqlite:///:memory:"', "and a file"),
        (BASE, 'url = "sqlite:///a.db?mode=ro"', "and a file"),
        ('lease = "5m"', 'lease = "5 minutes"', "dispatch.lease: expected a time such as"),
        ('lease = "5m"', 'lease = "-5m"', "expected a time such as"),
        ('lease = "5m"', "lease = 5", "expected a time such as"),
        ('lease = "5m"', "lease = true", "expected a time such as"),
        ('lease = "5m"', 'lease = "999999w"', "at most a hundred years"),
        ('lease = "5m"', 'lease = "0s"', "1 second"),
        ('lease = "5m"', "audience_jump = 1.0", "dispatch.audience_jump: expected greater than 1"),
        ('lease = "5m"', "audience_jump = nan", "dispatch.audience_jump: expected"),
        ('lease = "5m"', "only_to = [3]", "dispatch.only_to: expected a text"),
        ('lease = "5m"', 'only_to = [""]', "dispatch.only_to: expected a text"),
        (LISTS, "lists = []", "newsletters.daily.lists: expected at least one"),
        (LISTS, 'lists = [""]', "expected a list's name"),
        (LISTS, 'lists = ["my list"]', "expected a list's name"),
        (LISTS, f'lists = ["{"x" * 65}"]', "expected a list's name"),
        (TITLE, 'title = ""', "newsletters.daily.title: expected a text"),
        (TITLE, 'title = "   "', "expected a text"),
        (TITLE, 'title = "Two\\nlines"', "on one line"),
        (TITLE, TITLE + '\naccent = "red"', "newsletters.daily.accent: expected a colour"),
        (TITLE, TITLE + '\naccent = "#12345"', "expected a colour"),
        (TITLE, TITLE + "\nmax_briefs = 0", "newsletters.daily.max_briefs: expected greater than or equal to 1"),
        (TITLE, TITLE + '\nmax_briefs = "many"', "expected a whole number"),
        (TITLE, TITLE + "\nmax_briefs = 2.5", "expected a whole number"),
        (TITLE, TITLE + '\norder = "random"', "expected 'newest', 'oldest' or 'topics'"),
        (TITLE, TITLE + '\nlist_id = "daily"', "newsletters.daily.list_id: expected a name such as"),
        (TITLE, TITLE + '\nlanguage = "the English"', "newsletters.daily.language: expected a language"),
        (TITLE, TITLE + '\ntemplate = "../mine"', "newsletters.daily.template: expected a name"),
        (TITLE, TITLE + "\nsplits = { party = 1 }", "newsletters.daily.splits.party: expected a text"),
        (TITLE, TITLE + "\nsplits = 3", "newsletters.daily.splits: expected a table"),
        ('name = "Test Desk"', 'name = "  "', "site.name: expected a text"),
        ('postal_address = "Test Desk, 1 Test Street"', 'postal_address = " "', "site.postal_address: expected a text"),
        (
            'kind = "outbox"',
            'kind = "pigeon"',
            "provider.kind: expected “outbox” or “sendgrid” or “smtp” or “ses”, found “pigeon”",
        ),
        ('path = "briefs"', "path = 3", "sources.desk.path: expected a path"),
        ('path = "briefs"', 'path = ""', "expected a path"),
        ('path = "briefs"', 'path = "a\\u0000b"', "expected a path"),
        ('path = "briefs"', 'path = "~nobody-of-that-name/x"', "has a home folder"),
        ("[sources.desk]", "[sources.Desk]", "sources.Desk: expected a name of a-z"),
        ("[newsletters.daily]", "[newsletters.Daily]", "newsletters.Daily: expected a name of a-z"),
        ("[newsletters.daily]", '[newsletters."my news"]', "expected a name of a-z"),
        ("[newsletters.daily]", f"[newsletters.{'a' * 31}]", "at most 30 characters"),
        ("[newsletters.daily]", "[[newsletters.daily]]", "newsletters.daily: expected a table"),
    ],
)
def test_a_wrong_value_is_refused_with_its_line_and_what_was_expected(
    tmp_path: Path, right: str, wrong: str, says: str
) -> None:
    text = changed(right, wrong)
    error = refusal(tmp_path, text)
    assert says in str(error)
    assert error.line == line_of(text, wrong.rsplit("\n", maxsplit=1)[-1])


@pytest.mark.parametrize(
    ("gone", "says", "line"),
    [
        ('name = "Test Desk"\n', "site.name is missing", "[site]"),
        ('path = "briefs"\n', "sources.desk.path is missing", "[sources.desk]"),
        (TITLE + "\n", "newsletters.daily.title is missing", "[newsletters.daily]"),
        (MAIL + "\n", "newsletters.daily.from is missing", "[newsletters.daily]"),
        (LISTS + "\n", "newsletters.daily.lists is missing", "[newsletters.daily]"),
    ],
)
def test_what_is_missing_is_named_with_the_line_of_its_table(tmp_path: Path, gone: str, says: str, line: str) -> None:
    text = changed(gone, "")
    error = refusal(tmp_path, text)
    assert says in str(error)
    assert error.line == line_of(text, line)


def test_more_briefs_wanted_than_taken_would_never_send_and_is_refused(tmp_path: Path) -> None:
    error = refusal(tmp_path, WHOLE + "min_briefs = 9\n")
    assert str(error).endswith("newsletters.daily.min_briefs: expected at most max_briefs = 8, found 9")


@pytest.mark.parametrize("cron", ["61 7 * * *", "0 7 31 2 *", "0 7 * * 8", "a b c d e"])
def test_a_schedule_that_never_comes_is_refused_by_its_name(tmp_path: Path, cron: str) -> None:
    with pytest.raises(ConfigurationError, match=r"toml:\d+: newsletters\.daily\.schedule: expected five cron"):
        load(tmp_path, changed(CRON, f'schedule = "{cron}"'))


@pytest.mark.parametrize(
    ("given", "name", "address"),
    [
        ("digest@example.org", "", "digest@example.org"),
        ("<digest@example.org>", "", "digest@example.org"),
        ("The Post, Ltd <digest@example.org>", "The Post, Ltd", "digest@example.org"),
        ('\\"The Post, Ltd\\" <digest@example.org>', "The Post, Ltd", "digest@example.org"),
        ("Zeitung für alle <digest@bücher.example>", "Zeitung für alle", "digest@xn--bcher-kva.example"),
    ],
)
def test_a_sender_is_read_as_it_was_meant(tmp_path: Path, given: str, name: str, address: str) -> None:
    mailbox = load(tmp_path, changed(MAIL, f'from = "{given}"')).newsletter("daily").mailbox
    assert (mailbox.display_name, mailbox.addr_spec) == (name, address)


# ------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (WHOLE + "zone = UTC\n", WHOLE.count("\n") + 1, "not TOML"),
        (WHOLE + 'zone = "UTC"\n', WHOLE.count("\n") + 1, "not TOML"),
        (WHOLE + "\0", WHOLE.count("\n") + 1, "not TOML"),
        ("name: value\n", 1, "not TOML"),
        (WHOLE.encode() + b"# M\xfcller\n", WHOLE.count("\n") + 1, "expected UTF-8 text"),
        (WHOLE.encode("utf-16"), 1, "expected UTF-8 text"),
        ("", None, "site is missing"),
        ("# nothing yet\n", None, "site is missing"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(
    tmp_path: Path, text: str | bytes, line: int | None, says: str
) -> None:
    error = refusal(tmp_path, text)
    assert says in str(error)
    assert error.line == line


def test_no_newsletter_at_all_is_refused(tmp_path: Path) -> None:
    head = WHOLE.partition("[newsletters.daily]")[0]
    assert str(refusal(tmp_path, head)).endswith("newsletters is missing")
    assert "newsletters: expected at least one" in str(refusal(tmp_path, head + "[newsletters]\n"))


def test_a_file_that_cannot_be_read_is_refused_in_one_line(tmp_path: Path) -> None:
    for file, says in (
        (tmp_path / "none.toml", "there is no"),
        (tmp_path, "Is a directory"),
        (tmp_path / ("x" * 300), "too long"),
    ):
        with pytest.raises(ConfigurationError, match=says) as caught:
            Settings.load(file, {})
        assert str(caught.value).isprintable()


def test_relative_paths_are_read_from_the_files_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "newsletter.toml").write_text(WHOLE)
    monkeypatch.chdir(tmp_path)
    settings = Settings.load(Path("conf/newsletter.toml"), {})
    here = tmp_path / "conf"
    assert settings.sources["desk"] == Folder(path=here / "briefs")
    assert settings.provider == Outbox(path=here / "outbox")
    assert settings.templates.path == here / "designs"
    assert settings.database.url == f"sqlite:///{here}/kept/here.db"


def test_absolute_and_home_paths_stay_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "desk"))
    settings = load(
        tmp_path, changed('path = "briefs"', 'path = "~/briefs"').replace("sqlite:///kept", "sqlite:////srv/kept")
    )
    assert settings.sources["desk"] == Folder(path=tmp_path / "desk" / "briefs")
    assert settings.database.url == "sqlite:////srv/kept/here.db"


# ------------------------------------------------------------------------------------------ secrets


def test_the_secret_comes_from_the_environment_before_the_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"{SECRET_VARIABLE}={'f' * 40}\n")
    assert load(tmp_path, WHOLE).need_secret() == b"f" * 40
    assert load(tmp_path, WHOLE, **{SECRET_VARIABLE: SECRET}).need_secret() == SECRET.encode()
    assert load(tmp_path, WHOLE, **{SECRET_VARIABLE: ""}).need_secret() == b"f" * 40


def test_the_database_comes_from_the_environment_before_the_file_and_is_never_shown(tmp_path: Path) -> None:
    url = "postgresql://ada:s3cr3t@db.example.org:5432/newsletter?sslmode=verify-full"
    found = load(tmp_path, WHOLE, NEWSLETTER_DATABASE_URL=url)
    assert (found.database.url, found.database.instance) == (url, load(tmp_path, WHOLE).database.instance)
    assert "s3cr3t" not in repr(found)
    (tmp_path / ".env").write_text("NEWSLETTER_DATABASE_URL=sqlite:///other.db\n")
    assert load(tmp_path, WHOLE).database.url == f"sqlite:///{tmp_path}/other.db"
    assert load(tmp_path, WHOLE, NEWSLETTER_DATABASE_URL="postgres://db/n").database.url == "postgresql://db/n"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ada:s3cr3t@db.example.org",
        "postgresql://ada:s3cr3t@db.example.org/",
        "postgresql://ada:s3cr3t@db.example.org:port/newsletter",
        "postgresql://ada:s3@cr3t@db.example.org/newsletter",
        "postgresql://ada:s3/cr3t@db.example.org/newsletter",
        "postgresql://ada:s3#cr3t@db.example.org/newsletter",
        "postgresql://ada:s3cr3t@one,two/newsletter",
        "mysql://ada:s3cr3t@db.example.org/newsletter",
        "postgresql+asyncpg://ada:s3cr3t@db.example.org/newsletter",
    ],
)
def test_an_address_of_a_database_that_is_none_is_refused_and_not_shown(tmp_path: Path, url: str) -> None:
    by_variable = refusal(tmp_path, WHOLE, NEWSLETTER_DATABASE_URL=url)
    by_file = refusal(tmp_path, WHOLE.replace("sqlite:///kept/here.db", url))
    assert str(by_variable).startswith("NEWSLETTER_DATABASE_URL: expected ")
    assert "database.url: expected " in str(by_file)
    for error in (by_variable, by_file):
        assert "postgresql://USER@HOST/NAME" in str(error)
        assert not {"ada", "s3", "cr3t"} & set(re.split(r"\W+", str(error)))


@pytest.mark.parametrize("content", ["", "OTHER=3\n", f"{SECRET_VARIABLE}\n", f"{SECRET_VARIABLE}=\n"])
def test_without_a_secret_only_what_needs_it_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / ".env").write_text(content)
    settings = load(tmp_path, WHOLE)
    with pytest.raises(ConfigurationError, match=r"NEWSLETTER_SECRET is not set: .* beside newsletter\.toml"):
        settings.need_secret()


@pytest.mark.parametrize("short", ["short", "x" * 31, "x" + " " * 40])
def test_a_short_secret_is_refused_and_not_shown(tmp_path: Path, short: str) -> None:
    error = refusal(tmp_path, WHOLE, **{SECRET_VARIABLE: short})
    assert short not in str(error)
    (tmp_path / ".env").write_text(f"{SECRET_VARIABLE}='{short}'\n")
    assert short not in str(refusal(tmp_path, WHOLE))


def test_a_secret_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"\xff\xfe" + SECRET.encode())
    error = refusal(tmp_path, WHOLE)
    assert error.file == tmp_path / ".env"
    assert SECRET not in str(error)


def test_the_secret_never_shows(tmp_path: Path) -> None:
    settings = load(tmp_path, WHOLE, **{SECRET_VARIABLE: SECRET})
    shown = f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    assert SECRET not in shown
    error = refusal(tmp_path, changed('zone = "UTC"', "zone = 3"), **{SECRET_VARIABLE: SECRET})
    assert SECRET not in f"{error!r} {error}"
    assert error.__cause__ is None, "pydantic's own error would show what it was given"


def test_a_password_in_a_database_address_is_not_said_back(tmp_path: Path) -> None:
    error = refusal(tmp_path, changed(BASE, 'url = "postgresql://desk:hunter2hunter2@db/news/paper"'))
    assert "hunter2" not in str(error)
    settings = load(tmp_path, changed(BASE, 'url = "postgresql://desk:hunter2hunter2@db/news"'))
    assert "hunter2" not in f"{settings!r} {settings}"


def test_settings_are_frozen(tmp_path: Path) -> None:
    settings = load(tmp_path, WHOLE)
    with pytest.raises(ValueError, match="frozen"):
        settings.site.name = "Another"  # type: ignore[misc] # what is under test


def test_keys_in_inline_tables_and_quoted_names_have_a_line_too(tmp_path: Path) -> None:
    text = textwrap.dedent("""\
        site = { name = "D", url = "https://example.org", postal_adress = "x" }
        [newsletters."daily"]
        title = "T"
        """)
    assert refusal(tmp_path, text).line == 1
    text = text.replace("adress", "address").replace("title", "titel")
    assert refusal(tmp_path, text).line == 3
