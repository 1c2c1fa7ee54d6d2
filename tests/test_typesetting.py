"""The filters of templates: what they say, and that whatever a brief holds, they say it within the page."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from newsletter import typesetting as ts
from newsletter.brief import Brief, Forecast, Narrative
from newsletter.schedule import Slot

MONDAY = Slot(datetime(2026, 11, 23, 7), "Europe/Berlin")  # noqa: DTZ001 # a slot is local


def _brief(headline: str = "A headline", **parts: Any) -> Brief:
    return Brief.model_validate({"headline": headline, "facts": [{"text": "A fact."}], **parts})


# ------------------------------------------------------------------------------------------ links


@pytest.mark.parametrize(
    ("given_url", "link"),
    [
        ("https://example.org/a?b=c&d=e#f", "https://example.org/a?b=c&d=e#f"),
        ("HTTPS://Example.ORG/A b", "https://example.org/A%20b"),
        ("http://bücher.example/ü", "http://xn--bcher-kva.example/%C3%BC"),
        ("https://example.org:8443/%20", "https://example.org:8443/%20"),
        ("https://[2001:db8::1]/x", "https://[2001:db8::1]/x"),
        ("/relative", None),
        ("//example.org/x", None),
        ("javascript:alert(1)", None),
        ("https://user:word@example.org/", None),
        ("https://exa mple.org/", None),
        ("https://", None),
        ("https://example.org:port/", None),
        (None, None),
    ],
)
def test_only_absolute_web_addresses_are_links(given_url: str | None, link: str | None) -> None:
    assert ts.web_link(given_url) == link


def test_pictures_come_by_https_only() -> None:
    assert ts.web_link("http://example.org/x.png", secure=True) is None
    assert ts.web_link("https://example.org/x.png", secure=True) == "https://example.org/x.png"


@given(st.text())
def test_an_attribute_is_plain_ascii_without_markup(value: str) -> None:
    made = ts.attr(value)
    assert made.isascii()
    assert made.isprintable()
    assert not set(made) & set("<>\"'\\")


def test_an_attribute_keeps_what_it_says() -> None:
    assert ts.attr('Tom & "Ann" é\\\n') == "Tom &amp; &#34;Ann&#34; &#233;&#92; "


def test_a_source_without_a_name_goes_by_its_host() -> None:
    assert ts.host("https://www.example.org/x/y") == "example.org"


# ------------------------------------------------------------------------------------------ lines


def test_clip_cuts_at_a_word_and_says_so() -> None:
    assert ts.clip("one two three", 13) == "one two three"
    assert ts.clip("one two, three", 10) == "one two…"
    assert ts.clip("A" + " " + "b" * 50, 20) == "A " + "b" * 17 + "…"


def test_clip_parts_no_sign_that_is_made_of_several() -> None:
    assert ts.clip("ab\N{COMBINING ACUTE ACCENT}\N{COMBINING GRAVE ACCENT}c", 4) == "a…"
    family = "👩\N{ZERO WIDTH JOINER}👧"
    assert ts.clip(f"ab{family}", 4) == "ab…"


@given(st.text(min_size=1), st.integers(2, 40))
def test_clip_keeps_to_its_length(text: str, characters: int) -> None:
    assert len(ts.clip(text, characters)) <= max(characters, 3)


def test_wrap_leads_in_and_hangs() -> None:
    made = ts.wrap("word " * 40, "* ", "  ").split("\n")
    assert made[0].startswith("* word")
    assert all(line.startswith("  word") for line in made[1:])
    assert all(len(line) <= ts.TEXT_COLUMNS for line in made)


def test_wrap_keeps_paragraphs_and_long_words_whole() -> None:
    url = "https://example.org/" + "x" * 100
    assert ts.wrap(f"See {url} there.\n\nNext.", "- ", "  ") == f"- See\n  {url}\n  there.\n\n  Next."


def test_japanese_breaks_between_characters_but_not_before_a_full_stop() -> None:
    made = ts.wrap("政府は発表した。" * 20, limit=17).split("\n")
    assert len(made) > 15
    assert all(ts.columns(line) <= 18 for line in made)
    assert not [line for line in made if line.startswith("。")]


def test_korean_breaks_at_its_blanks() -> None:
    assert ts.wrap("대한민국 정부는 발표했다", limit=10) == "대한민국\n정부는\n발표했다"


@given(st.text(alphabet=st.characters(exclude_categories=("Cc", "Cs", "Z")) | st.just(" ")))
def test_wrap_loses_nothing(text: str) -> None:
    assert "".join(ts.wrap(text, limit=20).split()) == "".join(text.split())


def test_columns_count_what_a_fixed_width_view_shows() -> None:
    assert (ts.columns("abc"), ts.columns("é"), ts.columns("e\u0301"), ts.columns("日本")) == (3, 1, 1, 4)


def test_a_heading_is_underlined_to_its_length() -> None:
    assert ts.underline("Forecast: 18%") == "Forecast: 18%\n-------------"
    assert ts.underline("日本") == "日本\n----"
    assert ts.underline("x" * 90).endswith("\n" + "-" * 72)


@pytest.mark.parametrize(
    ("text", "way"),
    [
        ("A headline", "ltr"),
        ("الحكومة توافق", "rtl"),
        ("NASA تعلن عن الإطلاق", "rtl"),
        ("שלום", "rtl"),
        ("政府", "ltr"),
        ("18", "ltr"),
    ],
)
def test_text_runs_its_way(text: str, way: str) -> None:
    assert ts.direction(text) == way


# ------------------------------------------------------------------------------------------ figures


@pytest.mark.parametrize(
    ("probability", "said", "filled"),
    [
        (0.0, "0%", 0),
        (0.004, "<1%", 1),
        (0.01, "1%", 1),
        (0.18, "18%", 18),
        (0.495, "50%", 50),
        (0.99, "99%", 99),
        (0.996, ">99%", 99),
        (1.0, "100%", 100),
    ],
)
def test_a_probability_keeps_its_sense(probability: float, said: str, filled: int) -> None:
    assert (ts.percent(probability), ts.width(probability)) == (said, filled)


def test_the_bar_of_the_text_is_twenty_characters() -> None:
    assert ts.text_bar(0.18) == "[####................]"
    assert ts.text_bar(0) == "[" + "." * 20 + "]"
    assert ts.text_bar(1) == "[" + "#" * 20 + "]"


def test_counts_are_words_as_far_as_they_are_read_as_words() -> None:
    assert [ts.count_word(n, "brief", "briefs") for n in (0, 1, 12, 13)] == [
        "no briefs",
        "one brief",
        "twelve briefs",
        "13 briefs",
    ]
    assert ts.times(2) == "two ways"


def test_minutes_count_words_and_the_characters_of_scripts_without_words() -> None:
    assert ts.minutes([_brief()]) == 1
    assert ts.minutes([_brief(facts=[{"text": "word " * 690}])]) == 3
    assert ts.minutes([_brief(facts=[{"text": "字" * 1500}])]) == 3


# ------------------------------------------------------------------------------------------ days


def test_the_day_is_that_of_the_newsletters_zone() -> None:
    day = ts.day_in("Pacific/Auckland")
    assert day(datetime(2026, 11, 22, 20, 30, tzinfo=UTC)) == "23 November 2026"
    assert day(datetime(2026, 11, 22, tzinfo=UTC)) == "22 November 2026", "a date alone is that date everywhere"


def test_the_year_is_left_out_where_it_is_the_slots() -> None:
    day = ts.day_in("UTC")
    assert day(datetime(2026, 11, 22, tzinfo=UTC), MONDAY) == "22 November"
    assert day(datetime(2023, 5, 30, tzinfo=UTC), MONDAY) == "30 May 2023"


def test_the_date_of_an_edition_is_its_slots() -> None:
    assert ts.date(MONDAY) == "Monday 23 November 2026"


# ------------------------------------------------------------------------------------------ what is told of a brief


def test_the_forecaster_is_named_where_the_statement_does_not() -> None:
    line = ts.forecaster_line_in("UTC")
    when = datetime(2026, 11, 22, 6, tzinfo=UTC)
    assert line(Forecast(statement="It rains, says Longglass.", forecaster="Longglass")) == ""
    assert line(Forecast(statement="It rains.", forecaster="Longglass")) == "Longglass"
    assert line(Forecast(statement="It rains.", as_of=when)) == "As of 22 November 2026"
    assert line(Forecast(statement="It rains.", forecaster="A", as_of=when)) == "A, as of 22 November 2026"


@pytest.mark.parametrize(
    ("label", "stance", "mark"),
    [
        ("Pro-harbour narrative", "pro", "For"),
        ("Anti-harbour narrative", "Anti", "Against"),
        ("The growers' view", "rural", "rural"),
        ("Republican narrative", "republican", ""),
        ("Another narrative", None, ""),
    ],
)
def test_a_narrative_is_marked_with_its_side_unless_its_label_says_it(
    label: str, stance: str | None, mark: str
) -> None:
    assert ts.stance_mark(Narrative(label=label, text="x", stance=stance)) == mark


@pytest.mark.parametrize(
    ("count", "rows"), [(1, [1]), (2, [2]), (3, [3]), (4, [2, 2]), (5, [3, 2]), (6, [3, 3]), (7, [3, 3, 1])]
)
def test_narratives_stand_in_rows(count: int, rows: list[int]) -> None:
    made = ts.rows([Narrative(label=str(n), text="x") for n in range(count)])
    assert [len(row) for row in made] == rows
    assert [view.label for row in made for _, view in row] == [str(n) for n in range(count)]
    assert {number for row in made for number, _ in row} <= {1, 2, 3, 4, 5}


def test_a_split_is_explained_in_the_newsletters_words_first() -> None:
    assert "official institutions" in ts.split_meaning(_brief(split="Establishment split"), {})
    assert ts.split_meaning(_brief(split="establishment Split"), {"Establishment split": "Ours."}) == "Ours."
    assert ts.split_meaning(_brief(split="Odd split"), {}) == "This is the line along which the views part."


# ------------------------------------------------------------------------------------------ colours


def test_contrast_is_that_of_wcag() -> None:
    assert ts.contrast("#ffffff", "#000000") == pytest.approx(21)
    assert ts.contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)  # the classic grey that just passes
    assert ts.contrast("#123456", "#123456") == pytest.approx(1)


def test_a_colour_that_can_be_read_stays_as_it_is() -> None:
    assert ts.legible("#9b1c31", "#ffffff") == "#9b1c31"


@given(st.integers(0, 0xFFFFFF), st.sampled_from(["#ffffff", "#f3efe6", "#1c1d1a", "#111210"]))
def test_any_colour_becomes_legible_on_any_ground(number: int, ground: str) -> None:
    assert ts.contrast(ts.legible(f"#{number:06x}", ground, 5.5), ground) >= 5.5


# ------------------------------------------------------------------------------------------ the preheader


def test_the_preheader_tells_what_else_is_inside() -> None:
    others = [_brief(f"Headline number {n} of some length, as they are") for n in range(1, 6)]
    made = ts.preheader([_brief(), *others])
    assert made.startswith("Also: Headline number 1")
    assert 100 <= len(made) <= 200


def test_a_preheader_with_little_to_tell_goes_on_with_the_first_fact() -> None:
    fact = "The council counted every vote twice,\n\nand published the tally. " * 4
    for briefs in ([_brief(facts=[{"text": fact}])], [_brief(facts=[{"text": fact}]), _brief("Short")]):
        made = ts.preheader(briefs)
        assert 100 <= len(made) <= 200
        assert "\n" not in made


def test_a_brief_without_facts_has_a_preheader_too() -> None:
    assert ts.preheader([_brief(facts=[], narratives=[{"label": "One", "text": "What they say."}])]) == "What they say."


def test_every_filter_has_its_own_name() -> None:
    made = ts.filters("UTC")
    assert all(callable(filter_) for filter_ in made.values())
    assert {name for name, filter_ in made.items() if filter_.__name__ != name} == set()
