"""Promise 6 in bulk: an import raises nobody's consent and accounts for every row; what goes out comes back."""

import base64
import csv
import io
import json
import random
import sqlite3
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlmodel import col, select

from newsletter.newsroom import Newsroom
from subscribers import (
    AddressError,
    ConsentEvent,
    Origin,
    Reason,
    State,
    Subscriber,
    Subscription,
    Suppression,
    add_confirmed,
    ask,
    bulk,
    confirm,
    confirmation_token,
    ensure_list,
    erasure,
    find,
    leave,
    parse,
    reading,
    rows,
    suppress,
    transaction,
    unsuppress,
)
from subscribers.address import clean_name
from subscribers.dialects import Standing
from subscribers.errors import ErasureKeyError, TransferError
from subscribers.models import ConsentStatement, Happening, Way
from subscribers.rows import LONGEST_ROW, End, Part, Piece, Refusal, Sheet
from subscribers.transfer import (
    Imported,
    Orders,
    export_csv,
    export_json,
    export_suppressions,
    guarded,
    import_rows,
    rehearsal,
)
from tests.conftest import NOW, Desk

GOLDEN = Path(__file__).parent / "golden" / "transfers"
LISTS_OF_SUPPRESSIONS = {
    "our-suppressions.csv",
    "sendgrid-export.csv",
    "ses-import.csv",
    "ses.csv",
    "suppression_blocks.csv",
    "suppression_bounces.csv",
    "suppression_spam_reports.csv",
    "suppression_unsubscribes.csv",
}
KEY = b"the key that people are erased with, of its own"


@pytest.fixture
def newsroom(desk: Desk) -> Newsroom:
    return desk.open()


def take(data: bytes | str, name: str = "people.csv", *, suppressions: bool = False, to: str = "daily") -> list[Part]:
    source = io.BytesIO(data.encode() if isinstance(data, str) else data)
    return list(rows.read(source, name, suppressions=suppressions, to=None if suppressions else to))


def people(parts: Iterable[Part]) -> list[tuple[Any, ...]]:
    """Line, address, name and standing, in the order of the file."""
    found = [
        row
        for part in parts
        if isinstance(part, Piece)
        for row in zip(part.lines, part.addresses, part.names, part.standings, strict=True)
    ]
    return sorted(found, key=lambda row: row[0])


def refused(parts: Iterable[Part]) -> list[tuple[int, str]]:
    return [(line, short) for part in parts if isinstance(part, Piece) for line, short, _, _ in part.refused]


def bring(
    newsroom: Newsroom,
    data: bytes | str,
    *,
    evidence: str | None = "they signed a list at the fair",
    to: str | None = "daily",
    name: str = "people.csv",
    secret: bytes | None = None,
) -> tuple[Imported, list[Refusal]]:
    """Import a file; what came of it, and the rows that were refused."""
    told: list[Refusal] = []
    orders = Orders(to, evidence if to else None, name, "operator:test", newsroom.clock(), secret)
    parts = take(data, name, suppressions=to is None, to=to or "")
    done = import_rows(newsroom.engine, parts, orders, refuse=lambda _, row: told.append(row))
    assert done.rows == sum(len(p.keys) + len(p.refused) for p in parts if isinstance(p, Piece)), "a row was lost"
    assert done.refused == len(told)
    assert [row[0] for row in told] == sorted(row[0] for row in told)
    return done, told


def counts(done: Imported) -> tuple[int, int, int, int]:
    return done.added, done.updated, done.unchanged, done.refused


def state_of(newsroom: Newsroom, address: str, to: str = "daily") -> str | None:
    with reading(newsroom.engine) as session:
        subscriber = find(session, parse(address))
        if subscriber is None:
            return None
        mailing_list = ensure_list(session, to, to, NOW)
        found = session.exec(
            select(Subscription).where(
                Subscription.subscriber_id == subscriber.id, Subscription.list_id == mailing_list.id
            )
        ).first()
        return found.state.value if found else None


def dump(newsroom: Newsroom) -> list[Any]:
    """The list as it is, links, instants and row numbers apart."""
    with reading(newsroom.engine) as session:
        return canonical(lambda query: [tuple(row) for row in session.execute(text(query))])


def canonical(ask: Callable[[str], list[tuple[Any, ...]]]) -> list[Any]:
    """The same of whatever answers a query."""
    asked = (
        """SELECT s.key, s.address, s.name, s.language, s.zone, s.topics, s.paused_until, l.slug, u.state
        FROM subscriber s LEFT JOIN subscription u ON u.subscriber_id = s.id
        LEFT JOIN mailing_list l ON l.id = u.list_id
        ORDER BY s.key, l.slug""",
        """SELECT s.key, l.slug, e.event, e.actor, e.way, e.form, t.text, e.evidence, e.before FROM consent_event e
        LEFT JOIN subscriber s ON s.id = e.subscriber_id LEFT JOIN mailing_list l ON l.id = e.list_id
        LEFT JOIN consent_statement t ON t.id = e.statement_id
        ORDER BY s.key, CASE WHEN s.key IS NULL THEN e.evidence END, e.id""",
        "SELECT key, reason, note FROM suppression ORDER BY key",
        "SELECT hash, text FROM consent_statement ORDER BY hash",
        "SELECT slug, name FROM mailing_list ORDER BY slug",
    )
    return [ask(query) for query in asked]


# ------------------------------------------------------------------------------------------ files of other systems


@pytest.mark.parametrize(
    "file", sorted(one for one in GOLDEN.iterdir() if one.suffix != ".json"), ids=lambda one: one.name
)
def test_an_export_of_another_system_is_read_as_it_is_meant(file: Path) -> None:
    expected = json.loads(Path(f"{file}.json").read_text(encoding="utf-8"))
    parts = take(file.read_bytes(), file.name, suppressions=file.name in LISTS_OF_SUPPRESSIONS)
    (sheet,), (end,) = [p for p in parts if isinstance(p, Sheet)], [p for p in parts if isinstance(p, End)]
    pieces = [part for part in parts if isinstance(part, Piece)]
    assert (sheet.system, sheet.delimiter) == (expected["system"], expected["delimiter"])
    more = {piece.lines[index]: what for piece in pieces for index, *what in piece.more}
    found = [[*row, *([more[row[0]]] if row[0] in more else [])] for row in people(parts)]
    assert json.loads(json.dumps(found)) == expected["people"]
    assert [[line, why] for p in pieces for line, _, why, _ in p.refused] == expected["refused"]
    assert (end.encoding, end.remarks) == (expected["encoding"], expected["remarks"])


MEMBERS = "Email Address,First Name,Last Name,MEMBER_RATING,LEID,EUID{more}\n{address},Ada,,2,1,a{filled}\n"


def zipped(members: dict[str, str | bytes], **how: Any) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text, **how)
    return packed.getvalue()


def test_a_zip_of_mailchimp_says_in_its_members_names_whose_they_are(newsroom: Newsroom) -> None:
    packed = zipped(
        {
            "subscribed_segment_export_1a2b.csv": MEMBERS.format(address="ada@example.org", more="", filled=""),
            "unsubscribed_segment_export_1a2b.csv": MEMBERS.format(address="bob@example.org", more="", filled=""),
            "cleaned_segment_export_1a2b.csv": MEMBERS.format(address="eve@example.org", more="", filled=""),
            "nonsubscribed_segment_export_1a2b.csv": MEMBERS.format(address="jo@example.org", more="", filled=""),
            "__MACOSX/._subscribed.csv": b"\0\5\x16\7",
            "readme.md": "nothing",
        }
    )
    done, _ = bring(newsroom, packed, name="audience.zip")
    assert counts(done) == (4, 0, 0, 0)
    assert done.sheets[0].name == "audience.zip/subscribed_segment_export_1a2b.csv"
    states = [state_of(newsroom, f"{one}@example.org") for one in ("ada", "bob", "eve", "jo")]
    assert states == ["confirmed", "unsubscribed", "bounced", "pending"]


@pytest.mark.parametrize(
    ("packed", "expected"),
    [
        (zipped({"people.csv": b"email\n" + b"\0" * 40_000_000}), "unpacks to far too much"),
        (zipped({"people.txt.exe": "email\n"}), "with a CSV file in it"),
        (zipped({"people.csv": "email\nada@example.org\n"})[:-30], "found a damaged one"),
        (
            zipped({"people.csv": "email\nada@example.org\n"}).replace(b"\x14\0\0\0\x08", b"\x14\0\1\0\x08"),
            "password|damaged",
        ),
    ],
    ids=["bomb", "no CSV", "cut off", "password"],
)
def test_a_zip_that_cannot_be_a_list_is_refused_in_a_line(packed: bytes, expected: str) -> None:
    with pytest.raises(TransferError, match=expected):
        take(packed, "audience.zip")


@pytest.mark.parametrize(
    ("encode", "encoding"),
    [
        (lambda text: text.encode(), "UTF-8"),
        (lambda text: text.encode("utf-8-sig"), "UTF-8"),
        (lambda text: text.encode("utf-16"), "UTF-16"),
        (lambda text: text.encode("utf-16-le"), "UTF-16-LE"),
        (lambda text: text.encode("utf-16-be"), "UTF-16-BE"),
        (lambda text: text.encode("cp1252"), "Windows-1252"),
        (lambda text: text.replace("\n", "\r\n").encode(), "UTF-8"),
        (lambda text: text.replace("\n", "\r").encode(), "UTF-8"),
    ],
)
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_encodings_line_ends_and_delimiters_are_recognised(
    encode: Callable[[str], bytes], encoding: str, delimiter: str
) -> None:
    text = delimiter.join(("E-Mail", "Name")) + f"\nada@example.org{delimiter}Zoë\nbob@example.org{delimiter}\n"
    parts = take(encode(text))
    assert people(parts) == [(2, "ada@example.org", "Zoë", "as asked"), (3, "bob@example.org", None, "as asked")]
    end = parts[-1]
    assert isinstance(end, End)
    assert end.encoding == encoding


def test_excels_own_way_to_name_the_delimiter_is_understood() -> None:
    assert people(take("sep=;\nemail;name\nada@example.org;Ada\n")) == [(3, "ada@example.org", "Ada", "as asked")]


def test_bytes_that_are_no_utf_8_cost_their_row_of_a_file_that_is() -> None:
    parts = take("email,name\nada@example.org,Zoë\n".encode() + b"bob@example.org,Zo\xeb\neve@example.org,Eve\n")
    assert [row[0] for row in people(parts)] == [2, 4]
    assert refused(parts) == [(3, "other encoding")]


def test_a_file_that_is_windows_1252_is_read_so_but_for_rows_that_are_utf_8() -> None:
    parts = take(b"email,name\nada@example.org,Zo\xeb\n" + "bob@example.org,Zoë\n".encode())
    assert [row[2] for row in people(parts)] == ["Zoë", "Zoë"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Vorname,Nachname\nAda,Lovelace\n", "one of them email"),
        ("ada@example.org,Ada,x\nbob@example.org,Bob,y\n", "a line that names the 3 columns"),
        ("EmailAddress,Reason,LastUpdateTime\n", "import it with --suppressions"),
        ("status,reason,email,created\n", "import it with --suppressions"),
        ("\0\0\0\0", "expected"),
        ('"', "expected"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_one_line_without_its_content(text: str, expected: str) -> None:
    with pytest.raises(TransferError, match=expected) as caught:
        take(text, "people.csv")
    assert "\n" not in str(caught.value)
    assert "ada" not in str(caught.value)
    assert str(caught.value).startswith("people.csv")


def test_an_empty_file_has_no_rows(newsroom: Newsroom) -> None:
    assert counts(bring(newsroom, "")[0]) == (0, 0, 0, 0)
    assert counts(bring(newsroom, "email,name\n\n,\n")[0]) == (0, 0, 0, 0)


# ------------------------------------------------------------------------------------------ rows

BIG = "x" * 10_000_000


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("ada\0@example.org,Ada", "NUL byte"),
        (f"ada@example.org,{BIG}", "too long"),
        (f'ada@example.org,"{BIG}"', "too long"),
        (f"{BIG}@example.org,Ada", "too long"),
        ("ada@example.org", "wrong number of columns"),
        ("ada@example.org,Ada,more", "wrong number of columns"),
        ("ada,Ada", "no address"),
        ("=cmd|' /C calc'!A0,Ada", "no address"),
        ("ada@example.org,=cmd|' /C calc'!A0", "formula for a name"),
        ('ada@example.org,"Ada\r\nBcc: bob@example.org"', "control characters in a name"),
        ("ada@example.org,A\x1bda", "control characters in a name"),
        ('ada@example.org,"Ada', "quotes not in pairs"),
        ('ada@example.org,"Ada" L', "quotes not in pairs"),
    ],
)
def test_a_bad_row_costs_itself_and_says_why(row: str, why: str) -> None:
    parts = take(f"email,name\nfirst@example.org,First\n{row}\nlast@example.org,Last\n")
    assert [one[1] for one in people(parts)] == ["first@example.org", "last@example.org"]
    assert refused(parts) == [(3, why)]


def test_a_quote_that_nobody_closes_does_not_swallow_the_rows_behind_it() -> None:
    many = "".join(f"p{number}@example.org,P\n" for number in range(3000))
    parts = take(f'email,name\nada@example.org,"Ada\n{many}')
    assert len(people(parts)) == 3000
    assert refused(parts) == [(2, "quotes not in pairs")]


def test_a_cell_over_several_lines_is_one_row_and_lines_are_counted_on() -> None:
    text = 'email,note,name\nada@example.org,"one\ntwo, ""three""\n",Ada\nbob@example.org,,Bob\n'
    assert people(take(text)) == [(2, "ada@example.org", "Ada", "as asked"), (5, "bob@example.org", "Bob", "as asked")]


ADDRESSES = st.one_of(
    st.emails(),
    st.text(max_size=30),
    st.tuples(st.text("aB.+-_'é", max_size=70), st.sampled_from(["Example.ORG", "bücher.example", "x", "a-.b.de"])).map(
        "@".join
    ),
    st.tuples(st.text(max_size=10), st.emails()).map(lambda both: f"{both[0]} <{both[1]}>"),
)


@given(ADDRESSES)
@example("a" * 64 + "@example.org")
@example("a" * 65 + "@example.org")
@example("a@" + "b." * 125 + "org")
@example("İ@example.org")
def test_an_address_is_read_at_a_glance_as_it_is_read_with_care(text: str) -> None:
    try:
        expected = parse(text)
    except AddressError:
        with pytest.raises(AddressError):
            rows.mailbox(text.strip())
    else:
        assert rows.mailbox(text.strip()) == (expected.address, expected.key, expected.name)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=120))
def test_a_name_is_read_at_a_glance_as_it_is_read_with_care(text: str) -> None:
    record = io.StringIO(newline="")
    csv.writer(record, lineterminator="\n").writerow(("ada@example.org", text, "x"))
    parts = take(f"email,name,note\n{record.getvalue()}")
    found = people(parts)
    assert len(found) + len(refused(parts)) >= 1
    for _, _, name, _ in found:
        assert name == clean_name(text)
        assert name is None or not any(c in name for c in "\r\n\0")


@given(
    st.binary(max_size=400), st.sampled_from([b"", b"email,name\n", b'"e-mail";status\n', b"\xff\xfe", b"PK\x03\x04"])
)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_whatever_the_bytes_each_line_is_accounted_for_or_the_file_refused_in_a_line(data: bytes, start: bytes) -> None:
    try:
        parts = take(start + data)
    except TransferError as error:
        said = str(error)
        assert "\n" not in said
        return
    lines = [row[0] for row in people(parts)] + [line for line, _ in refused(parts)]
    assert len(lines) == len(set(lines))
    if b'"' not in data and start == b"email,name\n":
        full = [line for line in data.split(b"\n") if line.rstrip(b"\r").strip(b",")]
        assert len(lines) == len(full)


def test_a_process_of_its_own_reads_as_this_one_does(tmp_path: Path) -> None:
    file = tmp_path / "people.csv"
    file.write_text(
        "email,name,language\n" + "".join(f"p{n % 700}@example.org,P {n},de\n,\nbad,{n},\n" for n in range(1500)),
        encoding="utf-8",
    )
    with file.open("rb") as here, file.open("rb") as there:
        expected = list(rows.read(here, "people.csv", suppressions=False))
        found = list(rows.beside(there, "people.csv", suppressions=False))
    assert json.dumps(found) == json.dumps(expected)
    with (GOLDEN / "ses.csv").open("rb") as there, pytest.raises(TransferError, match="--suppressions"):
        list(rows.beside(there, "ses.csv", suppressions=False))


# ------------------------------------------------------------------------------------------ consent


def test_new_people_are_pending_or_with_evidence_confirmed_and_all_rest_on_one_statement(newsroom: Newsroom) -> None:
    assert counts(bring(newsroom, "email\nada@example.org\nbob@example.org\n", evidence=None)[0]) == (2, 0, 0, 0)
    assert state_of(newsroom, "ada@example.org") == "pending"
    assert counts(bring(newsroom, "email\neve@example.org\njo@example.org\n", name="x" * 300)[0]) == (2, 0, 0, 0)
    assert state_of(newsroom, "eve@example.org") == "confirmed"
    with reading(newsroom.engine) as session:
        (statement,) = session.exec(select(ConsentStatement)).all()
        events = session.exec(select(ConsentEvent).order_by(col(ConsentEvent.id))).all()
    assert statement.text == "they signed a list at the fair"
    assert [(one.event, one.statement_id) for one in events] == [
        (Happening.REQUESTED, None),
        (Happening.REQUESTED, None),
        (Happening.CONFIRMED, statement.id),
        (Happening.CONFIRMED, statement.id),
    ]
    assert {one.way for one in events} == {Way.IMPORT}
    assert {one.actor for one in events} == {"operator:test"}
    assert [one.form for one in events] == ["people.csv"] * 2 + ["x" * 200] * 2
    assert {one.at for one in events} == {NOW}


def test_without_a_word_on_their_consent_nobody_is_confirmed(newsroom: Newsroom) -> None:
    with pytest.raises(TransferError, match="how the consent"):
        bring(newsroom, "email\nada@example.org\n", evidence=" ")


def _left(newsroom: Newsroom) -> None:
    with transaction(newsroom.engine) as session:
        to = ensure_list(session, "daily", "daily", NOW)
        add_confirmed(session, parse("ada@example.org"), to, now=NOW, actor="t", evidence="t")
        subscriber = find(session, parse("ada@example.org"))
        assert subscriber is not None
        leave(session, subscriber, None, now=NOW, actor="t")


def _asked_again(newsroom: Newsroom) -> None:
    _left(newsroom)
    with transaction(newsroom.engine) as session:
        to = ensure_list(session, "daily", "daily", NOW)
        ask(session, parse("ada@example.org"), to, now=NOW, actor="visitor", origin=Origin(Way.FORM))


def _expired(newsroom: Newsroom) -> None:
    _asked_again(newsroom)
    with transaction(newsroom.engine) as session:
        for one in session.exec(select(Subscription)):
            session.delete(one)


def _in_state(state: State) -> Callable[[Newsroom], None]:
    def put(newsroom: Newsroom) -> None:
        with transaction(newsroom.engine) as session:
            to = ensure_list(session, "daily", "daily", NOW)
            add_confirmed(session, parse("ada@example.org"), to, now=NOW, actor="t", evidence="t")[0].state = state

    return put


def _suppressed(newsroom: Newsroom) -> None:
    with transaction(newsroom.engine) as session:
        suppress(session, parse("ada@example.org"), Reason.COMPLAINT, now=NOW, actor="t", note=None)


def _erased(newsroom: Newsroom) -> None:
    with transaction(newsroom.engine) as session:
        session.add(Suppression(key=erasure.mark("ada@example.org", KEY), reason=Reason.ERASED, at=NOW))


@pytest.mark.parametrize("given_evidence", ["they signed", None])
@pytest.mark.parametrize(
    ("before", "why"),
    [
        (_left, "unsubscribed before"),
        (_asked_again, "left"),
        (_expired, "left"),
        (_in_state(State.BOUNCED), "bounced before"),
        (_in_state(State.COMPLAINED), "complained before"),
        (_suppressed, "suppressed (complaint)"),
        (_erased, "erased"),
    ],
)
def test_whoever_said_no_stays_as_they_are(
    newsroom: Newsroom, before: Callable[[Newsroom], None], why: str, given_evidence: str | None
) -> None:
    before(newsroom)
    was = dump(newsroom)[0]
    done, told = bring(newsroom, "email,name\nADA@example.org,New name\n", evidence=given_evidence, secret=KEY)
    assert counts(done) == (0, 0, 0, 1)
    assert dict(done.reasons) == {why: 1}
    assert told[0][0] == 2
    assert "example.org" not in told[0][2]
    assert told[0][3] == "ADA@example.org,New name"
    assert dump(newsroom)[0] == was


def test_a_pending_request_waits_for_its_own_link_whatever_a_file_says(newsroom: Newsroom) -> None:
    with transaction(newsroom.engine) as session:
        ask(session, parse("ada@example.org"), ensure_list(session, "daily", "daily", NOW), now=NOW, actor="t")
    assert counts(bring(newsroom, "email\nada@example.org\n")[0]) == (0, 0, 1, 0)
    assert state_of(newsroom, "ada@example.org") == "pending"


def test_a_row_that_says_no_lowers_and_a_later_one_cannot_raise(newsroom: Newsroom) -> None:
    bring(newsroom, "email\nada@example.org\nbob@example.org\neve@example.org\n", to="weekly")
    bring(newsroom, "email\nada@example.org\nbob@example.org\neve@example.org\n")
    said = {"ada": "unsubscribed", "bob": "bounced", "eve": "spam", "new": "cleaned"}
    text = "email,status\n" + "".join(f"{one}@example.org,{status}\n" for one, status in said.items())
    done, _ = bring(newsroom, text)
    assert counts(done) == (1, 3, 0, 0)
    expected = {"ada": "unsubscribed", "bob": "bounced", "eve": "complained", "new": "bounced"}
    assert {one: state_of(newsroom, f"{one}@example.org") for one in expected} == expected
    elsewhere = {one: state_of(newsroom, f"{one}@example.org", "weekly") for one in ("ada", "bob", "eve")}
    assert elsewhere == {"ada": "confirmed", "bob": "bounced", "eve": "complained"}, "a suppression ends all"
    with reading(newsroom.engine) as session:
        held = {one.key: one.reason for one in session.exec(select(Suppression))}
    assert held == {
        "bob@example.org": Reason.HARD_BOUNCE,
        "eve@example.org": Reason.COMPLAINT,
        "new@example.org": Reason.HARD_BOUNCE,
    }
    was = dump(newsroom)
    assert counts(bring(newsroom, text)[0]) == (0, 0, 4, 0)
    assert counts(bring(newsroom, "email\nada@example.org\nnew@example.org\n")[0]) == (0, 0, 0, 2)
    assert dump(newsroom) == was


def test_an_earlier_no_and_an_earlier_suppression_stay_what_they_were(newsroom: Newsroom) -> None:
    _left(newsroom)
    _suppressed(newsroom)
    assert counts(bring(newsroom, "email,status\nada@example.org,bounced\n")[0]) == (0, 0, 1, 0)
    assert state_of(newsroom, "ada@example.org") == "unsubscribed"
    assert counts(bring(newsroom, "email,status\nada@example.org,blocked\n")[0]) == (0, 0, 1, 0)


def test_blocked_elsewhere_is_suppressed_here_and_on_no_list(newsroom: Newsroom) -> None:
    assert counts(bring(newsroom, "email,status\nada@example.org,blocklisted\n")[0]) == (1, 0, 0, 0)
    assert state_of(newsroom, "ada@example.org") is None
    assert dump(newsroom)[2] == [("ada@example.org", "operator", "import of people.csv")]


def test_where_people_were_erased_nothing_is_imported_without_their_key(newsroom: Newsroom) -> None:
    _erased(newsroom)
    for secret in (None, b"another key, not the one they were erased with"):
        with pytest.raises(ErasureKeyError):
            bring(newsroom, "email\nbob@example.org\n", secret=secret)
    assert state_of(newsroom, "bob@example.org") is None
    assert counts(bring(newsroom, "email,status\nada@example.org,unsubscribed\n", secret=KEY)[0]) == (0, 0, 0, 1)


def test_a_name_is_replaced_and_preferences_are_filled_in_only(newsroom: Newsroom) -> None:
    header = "address,name,list,state,since,language,zone,topics,paused_until,joined\n"
    row = "ada@example.org,{name},daily,confirmed,,{language},{zone},{topics},{paused},\n"
    first = row.format(name="Ada", language="de", zone="", topics='"[""harbour""]"', paused="2027-01-01T00:00:00Z")
    second = row.format(name="", language="fr", zone="Europe/Paris", topics="river", paused="2028-01-01T00:00:00Z")
    assert counts(bring(newsroom, header + first)[0]) == (1, 0, 0, 0)
    assert counts(bring(newsroom, header + second)[0]) == (0, 1, 0, 0)
    assert counts(bring(newsroom, header + second)[0]) == (0, 0, 1, 0)
    with reading(newsroom.engine) as session:
        (ada,) = session.exec(select(Subscriber)).all()
    assert (ada.name, ada.language, ada.zone, ada.topics) == ("Ada", "de", "Europe/Paris", ["harbour"])
    assert ada.paused_until == datetime(2027, 1, 1, tzinfo=UTC)
    assert counts(bring(newsroom, "email,name\nada@example.org,Countess\n")[0]) == (0, 1, 0, 0)


def test_of_rows_of_one_person_the_first_counts_and_the_last_names(newsroom: Newsroom) -> None:
    text = "email,name\nada@example.org,Ada\nADA@example.org,Countess\nAda@Example.org,\n"
    done, _ = bring(newsroom, text)
    assert counts(done) == (1, 1, 1, 0)
    assert dump(newsroom)[0] == [("ada@example.org", "ada@example.org", "Countess", *(None,) * 4, "daily", "confirmed")]


WORDS = ["", "subscribed", "pending", "unsubscribed", "bounced", "spam", "blocked"]
ROWS = st.lists(
    st.tuples(
        st.sampled_from(["a@example.org", "A@example.org", "b@example.org", "c@example.org"]),
        st.sampled_from(["", "Ada", "Bob"]),
        st.sampled_from(WORDS),
        st.sampled_from(["", "de", "fr"]),
    ),
    max_size=14,
)


def _file(found: list[tuple[str, ...]]) -> str:
    return "email,name,status,language\n" + "".join(",".join(row) + "\n" for row in found)


@given(before=ROWS, after=ROWS, size=st.integers(1, 5), confirmed=st.booleans())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_imported_nobodys_no_becomes_a_yes_and_batches_do_not_show(
    newsroom: Newsroom, before: list[tuple[str, ...]], after: list[tuple[str, ...]], size: int, confirmed: bool
) -> None:
    evidence = "yes" if confirmed else None
    found = []
    for at_once in (size, 1000):
        with rehearsal(newsroom.engine) as engine, pytest.MonkeyPatch.context() as patch:
            for limit in ("_FIRST_ROWS", "_FEWEST_ROWS", "_MOST_ROWS"):
                patch.setattr(bulk, limit, at_once)
            copy = Newsroom(newsroom.settings, engine, newsroom.clock)
            bring(copy, _file(before), evidence="yes")
            was = {key: state for key, *_, state in dump(copy)[0]}
            done, _ = bring(copy, _file(after), evidence=evidence)
            then = dump(copy)
            now = {key: state for key, *_, state in then[0]}
            bring(copy, _file(after), evidence=evidence)
            assert dump(copy) == then, "a second import of the same file changes nothing"
            found.append((then, counts(done)))
        for key, state in was.items():
            assert state == "confirmed" or now[key] != "confirmed"
        if not confirmed:
            assert all(was.get(key) == "confirmed" for key, state in now.items() if state == "confirmed")
    assert found[0] == found[1]


def test_what_was_written_in_bulk_keeps_every_rule_of_the_tables(newsroom: Newsroom) -> None:
    text = _file([(f"p{n}@example.org", "P", WORDS[n % len(WORDS)], "de") for n in range(3000)])
    done, _ = bring(newsroom, text)
    assert counts(done) == (3000, 0, 0, 0)
    with reading(newsroom.engine) as session:
        driver = session.connection().connection.driver_connection
        if isinstance(driver, sqlite3.Connection):
            assert driver.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert driver.execute("PRAGMA foreign_key_check").fetchall() == []
            assert driver.execute("PRAGMA ignore_check_constraints").fetchone() == (0,)
            assert driver.execute("PRAGMA wal_autocheckpoint").fetchone() == (1000,)
        links = session.execute(select(col(Subscriber.link))).scalars().all()
    assert len(set(links)) == len(links)
    for link in links[::100]:
        assert base64.urlsafe_b64encode(base64.urlsafe_b64decode(f"{link}==")).decode() == f"{link}=="
    assert len({link[:1] for link in links}) < 10, "links of a batch begin alike"


def test_links_come_of_the_randomness_that_is_given_and_each_once() -> None:
    links = bulk.Links(random.Random(1).randbytes)
    first, second = links.take(70_000), links.take(10)
    assert len({*first, *second}) == 70_010
    assert all(len(link) == 22 for link in second)


# ------------------------------------------------------------------------------------------ suppressions


def test_a_list_of_suppressions_suppresses_and_puts_nobody_on_a_list(newsroom: Newsroom) -> None:
    bring(newsroom, "email\nada@example.org\n")
    _suppressed(newsroom)
    text = "EmailAddress,Reason\nada@example.org,BOUNCE\nbob@example.org,COMPLAINT\nbob@example.org,BOUNCE\n"
    done, _ = bring(newsroom, text, to=None)
    assert counts(done) == (1, 0, 2, 0)
    assert [(key, reason) for key, reason, _ in dump(newsroom)[2]] == [
        ("ada@example.org", "complaint"),
        ("bob@example.org", "complaint"),
    ]
    assert state_of(newsroom, "bob@example.org") is None
    with reading(newsroom.engine) as session:
        last = session.exec(select(ConsentEvent).order_by(col(ConsentEvent.id).desc())).first()
        assert last is not None
        assert (last.event, last.subscriber_id, last.way, last.evidence) == (
            Happening.SUPPRESSED,
            None,
            Way.IMPORT,
            "complaint: import",
        )


def test_a_suppression_from_a_file_does_what_one_by_hand_does_and_is_lifted_alike(newsroom: Newsroom) -> None:
    bring(newsroom, "email\nada@example.org\nbob@example.org\n")
    bring(newsroom, "email\nada@example.org\nbob@example.org\n", to="weekly", evidence=None)
    bring(newsroom, "EmailAddress,Reason\nada@example.org,BOUNCE\n", to=None)
    with transaction(newsroom.engine) as session:
        suppress(session, parse("bob@example.org"), Reason.HARD_BOUNCE, now=NOW, actor="t", note=None)
    states = [[state_of(newsroom, f"{one}@example.org", to) for to in ("daily", "weekly")] for one in ("ada", "bob")]
    assert states == [["bounced", "bounced"]] * 2
    with transaction(newsroom.engine) as session:
        for one in ("ada", "bob"):
            unsuppress(session, parse(f"{one}@example.org"), now=NOW, actor="t", note=None)
    states = [[state_of(newsroom, f"{one}@example.org", to) for to in ("daily", "weekly")] for one in ("ada", "bob")]
    assert states == [["confirmed", "pending"]] * 2


def test_a_block_is_temporary_and_a_subscriber_is_no_suppression(newsroom: Newsroom) -> None:
    done, _ = bring(newsroom, (GOLDEN / "suppression_blocks.csv").read_bytes(), to=None, name="suppression_blocks.csv")
    assert dict(done.reasons) == {"temporary": 1}
    done, _ = bring(newsroom, (GOLDEN / "substack.csv").read_bytes(), to=None, name="substack.csv")
    assert (counts(done), dict(done.reasons)) == ((1, 0, 0, 2), {"subscribed": 2})


def test_who_was_erased_is_not_written_down_again_as_suppressed(newsroom: Newsroom) -> None:
    _erased(newsroom)
    assert counts(bring(newsroom, "ada@example.org\n", to=None, secret=KEY)[0]) == (0, 0, 1, 0)
    assert len(dump(newsroom)[2]) == 1


# ------------------------------------------------------------------------------------------ out


@given(st.text("='+-@\t\rAda ", max_size=8))
@example("'=x")
@example("''")
def test_a_guarded_cell_is_no_formula_and_comes_back_as_it_was(cell: str) -> None:
    safe = guarded(cell)
    assert safe[:1] not in {"=", "+", "-", "@", "\t", "\r"}
    assert (safe[1:] if rows._GUARDED.match(safe) else safe) == cell


@pytest.mark.database
def test_what_is_exported_comes_back_the_same(tmp_path: Path) -> None:
    desks = Desk(tmp_path / "one"), Desk(tmp_path / "two")
    first, second = (desk.open() for desk in desks)
    names = ["=1+1", "'=1+1", "+49 30", "-", "@ada", 'Ada "Countess" L.', "Zoë, of Z", "'", ""]
    with transaction(first.engine) as session:
        to = ensure_list(session, "daily", "daily", NOW)
        for number, name in enumerate(names):
            for local in (f"p{number}", f"+p{number}", f"'+p{number}", f"=p{number}"):
                found = add_confirmed(session, parse(f"{local}@example.org"), to, now=NOW, actor="t", evidence="t")[0]
                person = session.get_one(Subscriber, found.subscriber_id)
                person.name, person.language, person.topics = name or None, "de", ["a, b", "c"]
                person.paused_until = NOW + timedelta(days=3)
                found.state = list(State)[number % len(State)]
    out = io.StringIO()
    assert export_csv(first.engine, out) == 4 * len(names)
    text = out.getvalue()
    assert all(cell[:1] not in set("=+-@\t\r") for row in csv.reader(io.StringIO(text)) for cell in row)
    done, _ = bring(second, text, evidence="as it was there", name="export.csv")
    assert counts(done) == (4 * len(names), 0, 0, 0)
    assert dump(second)[0] == dump(first)[0]
    for desk in desks:
        desk.close()


def test_an_export_is_ordered_by_list_and_key_and_filtered(newsroom: Newsroom) -> None:
    bring(newsroom, "email,status\nb@example.org,\nA@example.org,\nc@example.org,unsubscribed\n", to="weekly")
    bring(newsroom, "email\nd@example.org\n")

    def found(**what: Any) -> list[tuple[str, str, str]]:
        out = io.StringIO()
        export_json(newsroom.engine, out, **what)
        return [(row["list"], row["address"], row["state"]) for row in json.loads(out.getvalue())]

    assert found() == [
        ("daily", "d@example.org", "confirmed"),
        ("weekly", "A@example.org", "confirmed"),
        ("weekly", "b@example.org", "confirmed"),
        ("weekly", "c@example.org", "unsubscribed"),
    ]
    assert [row[1] for row in found(to="weekly", states=[State.UNSUBSCRIBED])] == ["c@example.org"]
    assert found(states=[State.BOUNCED]) == []


def test_suppressions_come_back_and_name_nobody_who_was_erased(newsroom: Newsroom, tmp_path: Path) -> None:
    bring(newsroom, (GOLDEN / "our-suppressions.csv").read_bytes(), to=None, name="our-suppressions.csv")
    _erased(newsroom)
    out = io.StringIO()
    assert export_suppressions(newsroom.engine, out) == 3
    assert "erased" not in out.getvalue()
    second = Desk(tmp_path / "second")
    other = second.open()
    assert counts(bring(other, out.getvalue(), to=None, name="out.csv")[0]) == (3, 0, 0, 0)
    assert [row[:2] for row in dump(other)[2]] == [row[:2] for row in dump(newsroom)[2] if "@" in row[0]]
    second.close()
    as_json = io.StringIO()
    export_suppressions(newsroom.engine, as_json, as_json=True)
    assert [row["reason"] for row in json.loads(as_json.getvalue())] == ["hard_bounce", "complaint", "operator"]


# ------------------------------------------------------------------------------------------ a trial, and the command


def test_a_trial_says_what_would_come_of_it_and_writes_nothing(newsroom: Newsroom) -> None:
    bring(newsroom, "email\nbob@example.org\n")
    was = dump(newsroom)
    parts = take("email,status\nada@example.org,\nADA@example.org,\nbob@example.org,bounced\nnobody,\n")
    orders = Orders("daily", "yes", "people.csv", "t", NOW)
    with rehearsal(newsroom.engine) as engine:
        done = import_rows(engine, parts, orders, refuse=lambda *_: None)
    assert counts(done) == (1, 1, 1, 1)
    assert dump(newsroom) == was


def run(desk: Desk, *arguments: str, give: bytes | None = None) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "newsletter", "subscribers", *arguments, "--config", str(desk.file)]
    return subprocess.run(command, input=give, capture_output=True, check=False, cwd=desk.folder, timeout=60)


def test_the_command_imports_tells_and_keeps_what_it_refused(desk: Desk) -> None:
    (desk.folder / "people.csv").write_text('email,name\nada@example.org,Ada\nnobody,"=x, ""y"""\n', encoding="utf-8")
    done = run(desk, "import", "people.csv", "--confirmed", "--evidence", "fair", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["rows"], told["added"], told["refused"]) == (2, 1, 1)
    kept = desk.folder / "people.csv.rejects.csv"
    assert told["rejects"] == kept.name
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    with kept.open(encoding="utf-8", newline="") as stream:
        header, row = csv.reader(stream)
    assert header == ["file", "line", "reason", "row"]
    assert row[:2] == ["people.csv", "3"]
    assert row[3] == 'nobody,"=x, ""y"""'
    again = run(desk, "import", "-", "--list", "daily", give=b"ada@example.org\n")
    assert b"1 rows into list daily, new people pending: 0 added, 0 updated, 1 unchanged, 0 refused" in again.stdout
    out = run(desk, "export", "--out", "out.csv", "--state", "confirmed")
    assert out.returncode == 0, out.stderr
    assert (
        (desk.folder / "out.csv").read_text(encoding="utf-8").splitlines()[1].startswith("ada@example.org,Ada,daily,")
    )
    assert stat.S_IMODE((desk.folder / "out.csv").stat().st_mode) == 0o600
    assert not list(desk.folder.glob(".*.part"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["import", "missing.csv"], "missing.csv: cannot be read"),
        (["import", "people.csv", "--list", "nowhere"], "no newsletter goes to a list “nowhere”"),
        (["import", "people.csv", "--confirmed"], "needs --evidence"),
        (["import", "people.csv", "--evidence", "x"], "add --confirmed"),
        (["import", "people.csv", "--suppressions", "--list", "daily"], "leave out --list"),
        (["import", "people.csv"], "people.csv:1: expected a line that names the columns"),
        (["export", "--list", "nowhere"], "there is no list “nowhere”"),
        (["export", "--suppressions", "--state", "pending"], "leave out --list and --state"),
    ],
)
def test_a_mistake_is_one_plain_line(
    desk: Desk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: str
) -> None:
    from newsletter.cli import main

    monkeypatch.chdir(desk.folder)
    (desk.folder / "people.csv").write_text("a,b\nc,d\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["newsletter", "subscribers", *arguments, "--config", str(desk.file)])
    with pytest.raises(SystemExit) as caught:
        main()
    said = capsys.readouterr().err
    assert caught.value.code == 2
    assert expected in said
    assert said.count("\n") == 1


def test_every_standing_has_an_end() -> None:
    assert {one.value for one in Standing} == {
        "as asked", "pending", "unsubscribed", "suppressed", "bounced", "complained", "temporary",
    }  # fmt: skip
    assert csv.field_size_limit() >= LONGEST_ROW, (
        "a field is never longer than the reader of the standard library takes"
    )


# ------------------------------------------------------------------------------------------ said to all lists


@pytest.mark.parametrize("no", ["complained", "complained, then left", "left everything"])
def test_who_objected_to_all_is_imported_into_no_other_list(newsroom: Newsroom, no: str) -> None:
    bring(newsroom, "ada@example.org\nbob@example.org\n")
    ada = parse("ada@example.org")
    with transaction(newsroom.engine) as session:
        if no != "left everything":  # and an operator has lifted it since
            suppress(session, ada, Reason.COMPLAINT, now=NOW, actor="test", note=None)
            unsuppress(session, ada, now=NOW, actor="test", note=None)
        subscriber = find(session, ada)
        assert subscriber is not None
        if no != "complained":
            slugs = ["daily"] if no == "complained, then left" else None
            leave(session, subscriber, slugs, now=NOW, actor="subscriber")
    done, told = bring(newsroom, "ada@example.org\nbob@example.org\n", to="weekly")
    assert (counts(done), [row[1] for row in told]) == ((1, 0, 0, 1), ["left"])
    assert (state_of(newsroom, "ada@example.org", "weekly"), state_of(newsroom, "bob@example.org", "weekly")) == (
        None,
        "confirmed",
    )
    with transaction(newsroom.engine) as session:  # until they confirm something by a link of their own
        to = ensure_list(session, "daily", "daily", NOW)
        asked = ask(session, ada, to, now=NOW, actor="visitor", origin=Origin(Way.FORM))
        confirm(session, confirmation_token(session, asked, now=NOW, secret=KEY), now=NOW, secret=KEY)
    assert counts(bring(newsroom, "ada@example.org\n", to="weekly")[0]) == (1, 0, 0, 0)
