"""The languages: which one a visitor gets, and that every word there is has its translation."""

import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from time import perf_counter

import pytest
from babel.messages.catalog import Catalog, Message
from babel.messages.pofile import read_po
from hypothesis import given
from hypothesis import strategies as st

from newsletter import languages
from newsletter.languages import LANGUAGES, SOURCE, date_in, direction, language_names, negotiate, time_in, words

ROOT = Path(__file__).parent.parent
LOCALE = ROOT / "newsletter" / "locale"
TRANSLATED = sorted(set(LANGUAGES) - {SOURCE})

# ------------------------------------------------------------------------------------------ which one


@pytest.mark.parametrize(
    ("wanted", "got"),
    [
        ([], "en"),
        ([None, ""], "en"),
        (["de"], "de"),
        (["DE"], "de"),
        (["de-AT"], "de"),
        (["de_CH"], "de"),
        (["ar-Arab-EG-x-private"], "ar"),
        (["fr", "ar"], "ar"),
        ([None, "de", "ar"], "de"),
        (["fr-CH, fr;q=0.9, en;q=0.8, de;q=0.7, *;q=0.5"], "en"),
        (["en;q=0.2,de;q=0.3"], "de"),
        (["de;q=0.5, ar;q=0.5"], "de"),
        (["de ; q=0.4 ,\tar ; Q=0.9"], "ar"),
        (["de;q=0, ar;q=0.001"], "ar"),
        (["*", "de"], "de"),
        (["de;q=1.5", "ar"], "ar"),
        (["de;q=", "ar"], "ar"),
        (["de;q=nan, ar;q=1e9, en;q=-1, de;q=0.1"], "de"),
        (["; , ;;q=1,,de"], "de"),
        (["deutsch", "den", "d"], "en"),
        (["../../etc/passwd", "de\0", "<de>", "de\r\nX: y", "ａｒ", "де"], "en"),
    ],
)
def test_the_first_that_names_one_of_ours_decides(wanted: list[str | None], got: str) -> None:
    assert negotiate(wanted) == got


@pytest.mark.parametrize(("fallback", "got"), [("de", "de"), ("ar-EG", "ar"), ("pt-BR", "en"), ("", "en")])
def test_without_a_word_from_the_visitor_the_newsletters_language_is_spoken(fallback: str, got: str) -> None:
    assert negotiate(["fr", "*"], fallback) == got


@given(st.lists(st.none() | st.text() | st.from_regex(r"[dea*;q=.01, -]{0,40}", fullmatch=True)), st.text())
def test_whatever_is_wanted_it_is_one_of_ours(wanted: list[str | None], fallback: str) -> None:
    assert negotiate(wanted, fallback) in LANGUAGES


@pytest.mark.parametrize("piece", ["a-", "-", ",", "de;", "de;q=0.", " ", "\t;q=", "x,", "de;q=0.1,", "*,"])
def test_a_header_of_megabytes_takes_no_time(piece: str) -> None:
    start = perf_counter()
    assert negotiate([piece * 500_000, "ar"]) in LANGUAGES
    assert perf_counter() - start < 0.5


def test_languages_call_themselves_by_their_own_names() -> None:
    assert language_names() == [("en", "English"), ("de", "Deutsch"), ("ar", "العربية")]


@pytest.mark.parametrize(
    ("language", "runs"), [("en", "ltr"), ("de", "ltr"), ("ar", "rtl"), ("ar-EG", "rtl"), ("fr", "ltr"), ("", "ltr")]
)
def test_arabic_runs_from_right_to_left(language: str, runs: str) -> None:
    assert direction(language) == runs


def test_days_and_times_are_written_as_the_language_writes_them_where_they_fall() -> None:
    late = datetime(2026, 11, 23, 23, 30, tzinfo=UTC)
    assert [date_in(late, language, "Europe/Berlin") for language in LANGUAGES] == [
        "24 November 2026",
        "24. November 2026",
        "24 نوفمبر 2026",
    ]
    assert date_in(late, "de-AT", "America/New_York") == "23. November 2026"
    assert date_in(late, "xx", "UTC") == "23 November 2026"
    assert time_in(late, "en", "Europe/Berlin") == "00:30 CET"
    assert time_in(late, "de", "Europe/Berlin") == "00:30 MEZ"


# ------------------------------------------------------------------------------------------ the words


def test_babel_waits_until_a_translation_is_asked_for() -> None:
    code = (
        "import sys; from newsletter import languages as l; l.negotiate(['de']); l.words('en'); assert"
        " 'babel' not in sys.modules; print(l.words('de').gettext('Privacy'), 'babel' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["Datenschutz", "True"]


def test_what_is_not_ours_is_spoken_in_the_source() -> None:
    for language in ("en", "xx", "../de", ""):
        assert words(language).gettext("Privacy") == "Privacy"
        assert words(language).ngettext("%(n)s day", "%(n)s days", 2) == "%(n)s days"


def test_a_catalog_is_read_once() -> None:
    assert words("de") is words("de")


def test_every_number_finds_its_form() -> None:
    one, many = next(_texts(message.id) for message in _messages("ar") if message.pluralizable)
    forms = [words("ar").ngettext(one, many, n) for n in (0, 1, 2, 3, 10, 11, 99, 100, 102, 103, 111)]
    assert len(set(forms)) == 6
    assert forms[3] == forms[4] == forms[9]  # few: 3 to 10, of every hundred
    assert forms[5] == forms[6] == forms[10]  # many: 11 to 99
    assert forms[7] == forms[8]  # others: whole hundreds, and one or two more
    assert [words("de").ngettext(one, many, n) == words("de").ngettext(one, many, 1) for n in (0, 1, 2)] == [
        False,
        True,
        False,
    ]


# ------------------------------------------------------------------------------------------ the catalogs


@cache
def catalog(name: str) -> Catalog:
    with (LOCALE / name).with_suffix(".pot" if name == "messages" else ".po").open("rb") as file:
        return read_po(file, locale=None if name == "messages" else name, abort_invalid=True)


def _messages(name: str) -> list[Message]:
    return [message for message in catalog(name) if message.id]


def _texts(of: object) -> list[str]:
    return [str(text) for text in of] if isinstance(of, tuple | list) else [str(of)]


def test_the_catalogs_are_what_the_recipe_makes_of_templates_and_code(tmp_path: Path) -> None:
    """`make words` changes nothing: nothing new waits for a translation, nothing stale is kept, all is in order."""
    recipe = re.search(r"^words:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert recipe
    for file in LOCALE.iterdir():
        shutil.copy(file, tmp_path)
    script = recipe[1].replace("\t@", "").replace("\t", "").replace("$(BIN)", str(Path(sys.executable).parent))
    script = script.replace("$$", "$").replace("newsletter/locale", str(tmp_path))
    subprocess.run(["sh", "-ec", script], cwd=ROOT, check=True, capture_output=True)
    for file in sorted(LOCALE.iterdir()):
        made, kept = (
            re.sub(r'^"Generated-By: .*\n', "", (folder / file.name).read_text(encoding="utf-8"), flags=re.MULTILINE)
            for folder in (tmp_path, LOCALE)
        )
        assert made == kept, f"{file.name}: run `make words`, then translate what is empty"


def test_there_is_a_catalog_for_each_language_and_no_other() -> None:
    assert {file.stem for file in LOCALE.glob("*.po")} == set(TRANSLATED)
    assert languages.FOLDER == LOCALE


@pytest.mark.parametrize("language", TRANSLATED)
def test_every_word_is_translated(language: str) -> None:
    assert [message.id for message in _messages(language)] == [message.id for message in _messages("messages")]
    empty = [m.id for m in _messages(language) if not all(text.strip() for text in _texts(m.string))]
    assert empty == []
    forms = {len(_texts(m.string)) for m in _messages(language) if m.pluralizable}
    assert forms <= {catalog(language).num_plurals}
    assert [m.id for m in _messages(language) if m.fuzzy] == []
    assert list(catalog(language).obsolete) == []


@pytest.mark.parametrize("language", TRANSLATED)
def test_a_translation_has_the_places_of_its_source(language: str) -> None:
    """Only the forms for one or two may say their number in words, where the language does so."""
    wrong = []
    for message in _messages(language):
        wrong += [f"{message.id}: {error}" for error in message.check(catalog(language))]
        asked = {frozenset(re.findall(r"%\(\w+\)s", text)) for text in _texts(message.id)}
        for number, text in enumerate(_texts(message.string)):
            counted = message.pluralizable and catalog(language).num_plurals > 2 and number < 3
            if frozenset(re.findall(r"%\(\w+\)s", text)) not in (asked | {frozenset()} if counted else asked):
                wrong.append(f"{message.id}: {text}")
    assert wrong == []


@pytest.mark.parametrize("language", ["messages", *TRANSLATED])
def test_one_calm_voice_without_markup(language: str) -> None:
    said = [text for m in _messages(language) for text in [*_texts(m.id), *_texts(m.string)]]
    assert [text for text in said if re.search(r"[!<>&؛\"]|  |^\s|\s$|\.\.\.", text)] == []


@pytest.mark.parametrize("language", TRANSLATED)
def test_a_translation_ends_as_its_source_does(language: str) -> None:
    marks = str.maketrans("؟،", "?,")
    ends = [
        (m.id, m.string)
        for m in _messages(language)
        for source, text in zip(_texts(m.id), _texts(m.string)[-2:], strict=False)
        if (source[-1] in ".?:") != (text.translate(marks)[-1] in ".?:")
    ]
    assert ends == []
