"""What the readers make of brief files: golden pairs on disk, and the bytes that no disk should hold.

tests/golden/briefs/NAME holds a file, NAME.expected.json what comes out of it; `make golden` rewrites those.
"""

import json
import os
import time
from pathlib import Path

import pytest

from newsletter import formats
from newsletter.brief import Brief

GOLDEN = Path(__file__).parent / "golden" / "briefs"
CASES = sorted(path.name for path in GOLDEN.iterdir() if not path.name.endswith(".expected.json"))
EXAMPLES = Path(__file__).parent.parent / "examples" / "briefs"
TEXT = """Rain Falls on Ostrand

    Rain Falls on Ostrand
    Last updated June 3, 2027

    - The café is “wet”.

    Pro-rain narrative

    The gardens need it – badly.
"""


def said(reading: formats.Reading) -> dict[str, object]:
    """A Reading as JSON, without what is not set."""
    return {
        "briefs": [brief.model_dump(mode="json", exclude_defaults=True) for brief in reading.briefs],
        "faults": [str(fault) for fault in reading.faults],
        "remarks": list(reading.remarks),
    }


@pytest.mark.parametrize("name", CASES)
def test_golden_brief(name: str) -> None:
    expected = GOLDEN / f"{name}.expected.json"
    made = json.dumps(said(formats.read((GOLDEN / name).read_bytes(), name)), ensure_ascii=False, indent=1) + "\n"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        expected.write_text(made, encoding="utf-8")
    assert made == expected.read_text(encoding="utf-8")


def only(data: bytes, name: str = "x.txt") -> Brief:
    reading = formats.read(data, name)
    assert not reading.faults
    (brief,) = reading.briefs
    return brief


@pytest.mark.parametrize(
    "data",
    [
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        TEXT.encode("utf-16-le"),
        TEXT.encode("utf-16-be"),
        TEXT.encode("utf-32"),
        TEXT.encode("cp1252"),
        TEXT.replace("\n", "\r\n").encode(),
        TEXT.replace("\n", "\r").encode(),
        TEXT.replace("\n", "\r\r\n").encode(),
        TEXT.replace("\n", "\x85").encode(),
        TEXT.replace("    ", "\t").replace("- ", "-\t").encode(),
        TEXT.replace("    ", "\xa0 \xa0").replace("- ", "-\xa0").encode(),
        TEXT.encode() + b"\x1a",
        TEXT.replace("wet", "w\x07et").encode(),
    ],
    ids=["mark", "16", "16le", "16be", "32", "1252", "crlf", "cr", "crcrlf", "nel", "tabs", "nbsp", "dos", "bell"],
)
def test_encodings_and_line_ends_change_nothing(data: bytes) -> None:
    assert only(data) == only(TEXT.encode())


def test_latin_1_reads_as_it_is_meant() -> None:
    latin = TEXT.replace("“", '"').replace("”", '"').replace("–", "-")
    assert only(latin.encode("latin-1")).facts[0].text == 'The café is "wet".'


def test_one_broken_character_does_not_turn_the_others_into_noise() -> None:
    reading = formats.read(TEXT.encode().replace(b"badly", b"bad\xe2\x28ly"), "x.txt")
    assert reading.briefs[0].facts[0].text == "The café is “wet”."
    assert reading.remarks == ("x.txt:10: what cannot be read stands as \ufffd, 1 in all",)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "x.txt: expected a brief, found an empty file"),
        (b" \r\n\t \xc2\xa0 \n", "x.txt: expected a brief, found an empty file"),
        (b"\xef\xbb\xbf", "x.txt: expected a brief, found an empty file"),
        (b"\xff\xfe", "x.txt: expected a brief, found an empty file"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "x.txt:2: expected text, found binary data"),
        (TEXT.encode().replace(b"badly", b"b\0dly"), "x.txt:10: expected text, found binary data"),
        (b"\xff\xfea\0b", "x.txt: expected text, found bytes that are not UTF-16"),
        (b"%PDF-1.4\n1 0 obj\n- x\n", "x.txt:1: expected plain text, found a document of another program"),
        (b"x", "x.txt:1: expected facts (lines with a bullet) or narratives under the headline, found neither"),
        (b"y" * 2_000_001, "x.txt: expected a brief of at most 2,000,000 bytes, found 2,000,001"),
        (b"y" * 30_000, "x.txt:1: expected lines of at most 20,000 characters, found 30,000"),
        (b"Sign up to our newsletter!", "x.txt: expected a brief, found an empty file"),
    ],
)
def test_what_is_no_brief_is_a_fault_that_says_what_was_expected(data: bytes, fault: str) -> None:
    reading = formats.read(data, "x.txt")
    assert not reading.briefs
    assert [str(found) for found in reading.faults] == [fault]


HOSTILE = {
    "brackets": "[" * 150,
    "links": "[a](https://b " * 9,
    "addresses": "https://a.example.org/x (www.b ",
    "parentheses": "https://a" + ")" * 120,
    "stars": "*a " * 40,
    "narratives": "Pro-a narrative\n\na\n\n",
    "percents": "\n\nNerd narrative\n\n" + "5% chance " * 12,
    "bullets": "• x\n",
    "marks": "e" + "\u0315\u0300" * 60,
    "titles": "A b c d\nA b c d\n\n",
    "quotes": "> " * 60,
    "headings": "# a\n",
    "backticks": "`a``b" * 20,
    "lists": "- " * 60,
}


@pytest.mark.parametrize("piece", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("name", ["x.txt", "x.md"])
def test_a_hostile_file_is_answered_in_time(piece: str, name: str) -> None:
    """Two seconds for 2 MB is the promise; up to 200,000 characters are read at all, the most in half a second."""
    start = time.process_time()
    for pattern in (piece + "\n", piece):
        for size in (formats.LARGEST_BRIEF_CHARACTERS, formats.LARGEST_FILE_BYTES):
            text = "Title\n\n• A fact.\n\n" + pattern * (size // len(pattern))
            formats.read(text[:size].encode()[: formats.LARGEST_FILE_BYTES], name)
    assert time.process_time() - start < 8, "four files, two seconds each"


def test_a_hostile_json_file_is_answered_in_time() -> None:
    start = time.process_time()
    for text in (
        "[" + ",".join(['{"headline":"a","facts":[]}'] * 68_000) + "]",
        '{"headline":"a","facts":[' + ",".join(['{"text":""}'] * 160_000) + "]}",
        '{"headline":"a","facts":[{"text":"' + "\u0315\u0300" * 450_000 + '"}]}',
        '{"headline":"a",' + ",".join(f'"k{i}":1' for i in range(150_000)) + "}",
        "[" * 1_000_000,
        "9" * 1_000_000,
    ):
        formats.read(text.encode(), "x.json")
    assert time.process_time() - start < 12, "six files, two seconds each"


def test_the_ending_picks_the_reader_and_the_beginning_does_where_it_says_nothing() -> None:
    brief = only(b'{"headline": "Rain Falls", "facts": [{"text": "It is wet."}]}', "x.json")
    for name, data in {
        "x": brief.model_dump_json().encode(),
        "x.JSON": brief.model_dump_json().encode(),
        "a/b.MD": b"# Rain Falls\n\n- It is wet.\n",
        "b": b"# Rain Falls\n\n- It is wet.\n",
        "c": b"---\nheadline: Rain Falls\n---\n- It is wet.\n",
        "d.text": b"Rain Falls\n\n- It is wet.\n",
        "e.html": b"Rain Falls\n\n- It is wet.\n",
    }.items():
        assert only(data, name) == brief, name


@pytest.mark.parametrize("path", sorted(EXAMPLES.iterdir()), ids=lambda path: path.name)
def test_the_examples_are_read_without_a_remark(path: Path) -> None:
    reading = formats.read(path.read_bytes(), path.name)
    assert not reading.remarks
    assert bool(reading.faults) == path.name.startswith("09-")  # a title alone, held back on purpose


def test_real_briefs_are_read_whole() -> None:
    """Every bullet a fact, every "narrative" heading a narrative or forecast, and nothing over."""
    folder = os.environ.get("NEWSLETTER_REAL_BRIEFS")
    if not folder:
        pytest.skip("NEWSLETTER_REAL_BRIEFS names no folder of real briefs")
    for path in sorted(Path(folder).glob("*.txt")):
        reading = formats.read(path.read_bytes(), path.name)
        assert not reading.faults
        assert not reading.remarks
        (brief,) = reading.briefs
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        assert [fact.text for fact in brief.facts] == [line[2:] for line in lines if line.startswith("• ")]
        labels = [line for line in lines if line.endswith(" narrative")]
        assert [n.label for n in brief.narratives] == [label for label in labels if label != "Nerd narrative"]
        assert len(brief.forecasts) == labels.count("Nerd narrative")
        assert brief.headline == lines[0]
        assert (brief.split or "") in lines
        told = {brief.headline, brief.split, "Sign up to our newsletter!", "", *labels}
        told |= {f"• {fact.text}" for fact in brief.facts} | {f.statement for f in brief.forecasts}
        told |= {part for n in brief.narratives for part in n.text.split("\n\n")}
        assert all(line.startswith(("Last updated", "Image credit")) for line in lines if line not in told)


def test_a_dash_that_a_line_begins_with_after_an_abbreviation_is_no_bullet() -> None:
    text = "Port Ansel Closes a Quay\n\n• The quay is leased to the U.S.\n  — EU rules allow it.\n• It is shut.\n"
    (brief,) = formats.read(text.encode(), "x.txt").briefs
    assert [fact.text for fact in brief.facts] == [
        "The quay is leased to the U.S. — EU rules allow it.",
        "It is shut.",
    ]
