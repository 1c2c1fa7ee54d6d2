"""Whatever the bytes, a Reading; whatever the brief, itself again once written and read."""

import json
import unicodedata
from collections.abc import Iterator
from datetime import UTC, date, datetime

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped] # it ships none

from newsletter import formats
from newsletter.brief import Brief
from newsletter.formats.json import schema

ENDINGS = ("x.txt", "x.md", "x.json", "x")
SCHEMA = Draft202012Validator(schema())

# Pieces that mean something to a reader: put together at random they reach further than random bytes.
PIECES = [
    *(
        "• ",
        "- ",
        "1. ",
        "    ",
        "\n",
        "\n\n",
        "\r\n",
        "\t",
        "\xa0",
        "# ",
        "## ",
        "**",
        "---\n",
        "===\n",
        "> ",
        "```\n",
    ),
    *("Pro-tide narrative", "Nerd narrative", "the narrative", "Coastal split", "Split", "Facts", "Narratives"),
    *(
        "Last updated May 4, 2025",
        "Image credit: ",
        "Topics: a, b",
        "headline: x\n",
        "draft: true\n",
        "updated: soon\n",
    ),
    *("https://a.example.org/x", "[Gull](", ")", "](", "](https://b.example.net)", "(", "Source: ", "www.", "!["),
    *(
        "There's a 7% chance",
        "Sign up to our newsletter!",
        "The ferry sailed.",
        "and so",
        "12",
        "é",
        "日本。",
        "\u202e",
    ),
    *('{"headline": "x"', '"facts": [', '{"text": "y"}', "]", "}", ",", "null", "1e400", "NaN", '"\\ud800"', "[", "{"),
    *("\x00", "\x02", "\x03", "\x04", "\x1b", "\x85", "\u2028", "\ufeff", "\ufffd", "\xad\n", "&#2;", "{{ x }}", "<b>"),
]
messy = st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=40).map("".join)

sentences = st.builds(
    lambda first, words, end: " ".join([first, *words]) + end,
    st.sampled_from(["Harbour", "The", "“Slow”", "Éire", "12"]),
    st.lists(
        st.sampled_from(
            ["harbour", "tide", "narrative", "split", "12", "(new)", "café", "—", "“slow”", "3%", "U.S.", "of"]
        ),
        min_size=4,
        max_size=30,
    ),
    st.sampled_from([".", "!", "?", ".”", "…"]),
)
labels = st.sampled_from(
    ["Pro-tide narrative", "Anti-tide narrative", "Narrative A", "Northern narrative", "Tide-critical narrative"]
)
urls = st.from_regex(r"https://[a-z]{2,8}\.example\.(org|net)/[a-z0-9/]{0,20}[a-z0-9]", fullmatch=True)
names = st.sampled_from(["Harbour Courier", "The Gull", "Tidewater Gazette 24", "L’Écho"])
citations = st.lists(
    st.fixed_dictionaries({"title": st.none() | names, "url": urls}), max_size=3, unique_by=lambda c: c["url"]
)
forecasts = st.builds(
    lambda percent, what: {
        "statement": f"There's a {percent}% chance that {what} by 2031, according to the Longglass forecasting panel.",
        "probability": percent / 100,
        "forecaster": "Longglass forecasting panel",
    },
    st.integers(0, 100),
    st.sampled_from(["the barrier holds", "60% of boats sail", "the U.S. joins"]),
)
briefs = st.fixed_dictionaries(
    {
        "headline": st.sampled_from(
            ["Port Ansel Closes a Quay", "Who Owns the Tide?", "L’Anse: Ferries in a Three-Way Split"]
        ),
        "updated": st.none()
        | st.dates(date(1990, 1, 1), date(2090, 1, 1)).map(
            lambda day: datetime(day.year, day.month, day.day, tzinfo=UTC)
        ),
        "facts": st.lists(st.fixed_dictionaries({"text": sentences, "citations": citations}), min_size=1, max_size=5),
        "narratives": st.lists(
            st.fixed_dictionaries(
                {"label": labels, "text": st.lists(sentences, min_size=1, max_size=3).map("\n\n".join)}
            ),
            max_size=3,
        ),
        "forecasts": st.lists(forecasts, max_size=2),
        "split": st.sampled_from([None, "Establishment split", "Left-right split"]),
    }
)


def wrapped(text: str, width: int | None, first: str = "", rest: str = "") -> list[str]:
    """A text's lines, none longer than the width unless a word is; `first` and `rest` begin them."""
    lines, line = [], first
    for word in text.split(" "):
        if width and len(line) + len(word) > width and line != first:
            lines.append(line.rstrip())
            line = rest
        line += f"{word} "
    return [*lines, line.rstrip()]


def as_text(brief: Brief, *, bullet: str, width: int | None, apart: bool, end: str) -> bytes:
    """A brief in the text layout, as a desk may write it; `apart`: a blank line between the facts."""
    lines = [brief.headline, "", f"    {brief.headline}"]
    lines += [f"    Last updated {brief.updated:%B %d, %Y}" if brief.updated else ""]
    lines += ["", ""]
    for fact in brief.facts:
        lines += wrapped(fact.text, width, f"    {bullet} ", "      ")
        lines += [f"      [{c.title}]({c.url})" if c.title else f"      {c.url}" for c in fact.citations]
        lines += [""] * apart
    for narrative in brief.narratives:
        lines += ["", narrative.label, ""]
        lines += [line for part in narrative.text.split("\n\n") for line in [*wrapped(part, width), ""]]
    for forecast in brief.forecasts:
        lines += ["", "Nerd narrative", "", *wrapped(forecast.statement, width)]
    lines += ["", brief.split or "", "", "", "Sign up to our newsletter!", ""]
    return end.join(lines).encode()


def strings(value: object) -> Iterator[str]:
    """Every string inside a JSON value."""
    if isinstance(value, str):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from strings(part)


def check(reading: formats.Reading) -> None:
    """What holds for every Reading: typed, free of controls, valid by the schema, the same once stored."""
    assert reading.briefs or reading.faults
    assert not any("\n" in said or len(said) > 5_000 for said in (*map(str, reading.faults), *reading.remarks))
    for brief in reading.briefs:
        stored = brief.model_dump_json()
        SCHEMA.validate(json.loads(stored))
        for said in strings(json.loads(stored)):
            assert not any(unicodedata.category(c) in {"Cc", "Cs"} for c in said.replace("\n\n", "")), said
            assert said == said.strip()
        assert "\n" not in brief.headline
        assert formats.read(stored.encode(), "x.json").briefs == (brief,)


@given(st.binary(max_size=400), st.sampled_from(ENDINGS))
def test_any_bytes_come_back_as_a_reading(data: bytes, name: str) -> None:
    check(formats.read(data, name))


@settings(max_examples=600, suppress_health_check=[HealthCheck.too_slow])
@given(messy, st.sampled_from(ENDINGS), st.sampled_from(["utf-8", "utf-16", "cp1252"]))
def test_any_mixture_of_marks_comes_back_as_a_reading(text: str, name: str, encoding: str) -> None:
    check(formats.read(text.encode(encoding, errors="replace"), name))


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(messy, messy)
def test_a_mixture_inside_a_brief_comes_back_as_a_reading(fact: str, prose: str) -> None:
    text = f"Port Ansel Closes a Quay\n\n• The quay is shut. {fact}\n\nPro-tide narrative\n\n{prose}\n\nCoastal split\n"
    for name in ("x.txt", "x.md"):
        check(formats.read(text.encode(errors="replace"), name))


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    briefs,
    st.sampled_from("•-*–●"),
    st.sampled_from([None, 60, 72, 100]),
    st.booleans(),
    st.sampled_from(["\n", "\r\n"]),
)
def test_a_brief_in_the_text_layout_reads_back_as_itself(
    data: dict[str, object], bullet: str, width: int | None, apart: bool, end: str
) -> None:
    brief = Brief.model_validate(data)
    assume(bullet not in "-–" or not any("—" in fact.text for fact in brief.facts))  # nobody can tell them apart
    reading = formats.read(as_text(brief, bullet=bullet, width=width, apart=apart, end=end), "x.txt")
    assert not reading.faults
    (read,) = reading.briefs
    assert [n.model_copy(update={"stance": None}) for n in read.narratives] == list(brief.narratives)
    assert read.model_copy(update={"narratives": brief.narratives}) == brief


@given(briefs, st.sampled_from(["en", "pt-BR", None]), st.text(max_size=60))
def test_json_reads_back_as_the_brief_that_was_dumped(data: dict[str, object], language: str | None, text: str) -> None:
    brief = Brief.model_validate({**data, "language": language, "topics": ["Sea"], "image": {"alt": text or None}})
    reading = formats.read(brief.model_dump_json().encode(), "x.json")
    assert reading == formats.Reading((brief,), names=(None,))


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Cn", "Co"]), min_size=1, max_size=80))
def test_any_text_in_a_fact_survives(inside: str) -> None:
    """Word by word, as Unicode counts words: in one line, normalised, without what would turn a line around."""
    said = Brief.model_validate({"headline": "x", "facts": [{"text": f"Before {inside} after."}]}).facts[0].text
    reading = formats.read(
        json.dumps({"headline": "x", "facts": [{"text": f"Before {inside} after."}]}).encode(), "x.json"
    )
    assert [fact.text for fact in reading.briefs[0].facts] == [said]
    if not any(mark in inside for mark in ("://", "www.", "](", "\u2028", "\u2029", "\u200b", "\ufeff", "\xad")):
        for name in ("x.txt", "x.md") if inside.isalnum() else ("x.txt",):
            (brief,) = formats.read(f"Port Ansel\n\n• Before {inside} after.\n".encode(), name).briefs
            assert [fact.text for fact in brief.facts] == [said]


@pytest.mark.parametrize(
    "inside",
    ["{{ 7*7 }}", "{% raw %}", "<script>x</script>", "<mj-raw>", "[[d2e31.leave_url]]", "@@name@@", "&amp; &lt;b&gt;"],
)
def test_what_looks_like_markup_stays_text(inside: str) -> None:
    text = f"Title {inside} here\n\n• A fact {inside} here.\n\nPro-{inside} narrative\n\nSome {inside} prose.\n"
    (brief,) = formats.read(text.encode(), "x.txt").briefs
    assert brief.headline == f"Title {inside} here"
    assert brief.facts[0].text == f"A fact {inside} here."
    assert brief.narratives[0].label == f"Pro-{inside} narrative"
    assert brief.narratives[0].text == f"Some {inside} prose."
