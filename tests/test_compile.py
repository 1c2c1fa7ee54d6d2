"""Promise 7, no half-compiled mail: template faults stop with template and line, content faults cost their element.

The golden digests hold what the templates make of fixed briefs, HTML and text; `make golden` rewrites them.
"""

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from newsletter import formats, markup, typesetting
from newsletter.brief import Brief
from newsletter.compile import CLIP_BYTES, Compiled, compile_message, inline, template_folder, tidy, to_html
from newsletter.edition import FIELDS, Contents, Message, Sender
from newsletter.errors import CompileError
from newsletter.schedule import Slot
from newsletter.settings import Newsletter, Site
from tests.conftest import EXAMPLES

GOLDEN = Path(__file__).parent / "golden" / "digests"
SITE = Site(name="Test Desk", url="https://news.example.org", postal_address="Test Desk, 1 Test Street, 10115 Test")
SENDER = Sender(
    "daily", "Test", "digest@news.example.org", None, "Test", "daily.news.example.org", "https://news.example.org"
)
SLOT = Slot(datetime(2026, 11, 23, 7), "Europe/Berlin")  # noqa: DTZ001 # wall-clock time has no zone


def newsletter(**more: object) -> Newsletter:
    base = {"title": "The Test Digest", "from": "Test <digest@news.example.org>", "lists": ["daily"]}
    return Newsletter.model_validate({**base, "zone": "Europe/Berlin", **more})


def contents(briefs: Sequence[Brief], **more: object) -> Contents:
    return Contents("daily", newsletter(**more), SITE, SLOT, tuple(briefs), "d4f0a1")


def compiled(briefs: Sequence[Brief], override: Path | None = None, **more: object) -> Compiled:
    return compile_message(contents(briefs, **more), SENDER, override)


def brief(**more: object) -> Brief:
    return Brief.model_validate({"headline": "A headline", "facts": [{"text": "A fact."}], **more})


def examples() -> list[Brief]:
    files = sorted((EXAMPLES / "briefs").iterdir())
    return [found for file in files for found in formats.read(file.read_bytes(), file.name).briefs]


def shown(message: Message) -> str:
    return markup.read_html(message.html)[1]


# ------------------------------------------------------------------------------------------ golden


CASES: dict[str, list[Brief]] = {
    "least": [brief()],
    "examples-two": examples()[:2],
    "three-narratives": examples()[4:5],
    "five-narratives": [
        brief(narratives=[{"label": f"View {n} narrative", "text": f"It is {n}.\n\nAnd more."} for n in range(1, 6)])
    ],
    "odd-forecasts": [
        brief(
            forecasts=[
                {"statement": "Nobody says how likely.", "probability": None},
                {"statement": "Surely.", "probability": 1, "forecaster": "The Panel", "url": "https://p.example.org/q"},
                {"statement": "Hardly.", "probability": 0.004, "as_of": "2026-11-20T00:00:00Z"},
            ]
        )
    ],
    "summaries": [
        brief(facts=(), summary="What a wire says.\n\nAnd what it adds.", url="https://desk.example.org/wire"),
        brief(headline="An address alone", facts=(), url="https://desk.example.org/alone"),
        brief(
            headline="With a lede",
            summary="Said before the facts.",
            narratives=[{"label": "Pro-x narrative", "text": "Yes."}],
        ),
    ],
    "credit-alone": [brief(image={"credit": "Wikimedia Commons"}, updated="2023-05-30T00:00:00Z")],
}


@pytest.mark.parametrize("name", CASES)
def test_golden_digest(name: str) -> None:
    message = compiled(CASES[name]).message
    for ending, made in (("html", message.html), ("txt", message.text)):
        file = GOLDEN / f"{name}.{ending}"
        if os.environ.get("UPDATE_GOLDEN"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(made, encoding="utf-8", newline="")
        assert made == file.read_bytes().decode(), f"{file} differs; `make golden` rewrites it, read the difference"


# ------------------------------------------------------------------------------------------ what a digest holds


def test_a_digest_of_eight_rich_briefs_holds_everything_within_its_budget() -> None:
    briefs = examples()
    made = compiled(briefs)
    assert len(briefs) == 8
    assert made.html_bytes <= 84_000
    assert (made.remarks, made.shortened) == ((), 0)
    text = shown(made.message)
    for one in briefs:
        for said in (one.headline, *(f.text for f in one.facts), *(v.label for v in one.narratives)):
            assert said in text
        for view in one.narratives:
            assert all(part in text for part in view.text.split("\n\n"))
        for forecast in one.forecasts:
            assert forecast.statement in text
            assert typesetting.percent(forecast.probability or 0) in text
        assert one.split is None or one.split in text
        for fact in one.facts:
            for citation in fact.citations:
                assert citation.url in made.message.html
                assert citation.url in made.message.text


def test_the_date_is_the_slots_and_links_are_where_they_belong() -> None:
    message = compiled([brief()]).message
    text = shown(message)
    assert "Monday 23 November 2026" in text
    assert "Test Desk, 1 Test Street, 10115 Test" in text
    for address in (
        "https://news.example.org/e/daily/2026-11-23-0700",
        "https://news.example.org/join/daily",
        "https://news.example.org/privacy",
    ):
        assert address in message.html
        assert address in message.text
    assert message.html.startswith("<!DOCTYPE html>"), "standards mode"
    assert '<html lang="en"' in message.html


def test_fields_are_filled_escaped_in_html_and_plain_in_text() -> None:
    message = compiled([brief()]).message
    values = dict.fromkeys(FIELDS, "x") | {"address": "o'hara&co@example.org"}
    assert "o&#x27;hara&amp;co@example.org" in message.fill(message.html, values)
    assert "o'hara&co@example.org" in message.fill(message.text, values)


def test_no_rule_of_a_media_query_is_lost_or_inlined() -> None:
    html = compiled(examples()[:1]).message.html
    assert "(min-width:" in html
    assert "prefers-color-scheme:dark" in html
    assert "!important" in html
    assert 'style="' in html
    assert "fonts.googleapis" not in html


# ------------------------------------------------------------------------------------------ text is text


HOSTILE = [
    "<script>alert(1)</script>",
    "<mj-raw>x</mj-raw> </mj-text>",
    "{{ 7*7 }} {% raw %} {# no #}",
    "[[d4f0a2.h.leave_url]] %%x%% @@x@@ -x- *|FNAME|*",
    "&lt;b&gt; &amp;amp; &#60; &nbsp;",
    "<!--[if mso]> --> ]]> <![CDATA[",
    "a\\nb \\u{a0} C:\\temp \\\\",
    "“quotes” ‘curly’ – — … é ü 漢字 שלום 😀 a\u0301 soft\u00adhyphen",
    "$1 \\1 ${x} #{x}",
    '"><img src=x onerror=alert(1)>',
]


@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_looks_like_markup_reaches_the_reader_as_those_characters(text: str) -> None:
    made = compiled(
        [
            brief(
                headline=text,
                facts=[{"text": text, "citations": [{"title": text, "url": 'https://x.example.org/?a=1&b=<2> "x'}]}],
                narratives=[{"label": text, "text": text}],
                forecasts=[{"statement": text}],
                split=text,
                topics=[text],
                image={"url": "https://x.example.org/i.png", "alt": text, "credit": text},
            )
        ]
    )
    said = brief(headline=text).headline
    for form in (made.message, made.archive):
        elements, html_text = markup.read_html(form.html)
        assert html_text.count(said) >= 6
        assert form.text.count(said.split()[0]) >= 6
        assert form.subject.endswith(said)
        assert not [element for element in elements if element.name in {"script", "mj-raw", "mj-text"}]
        alts = [element.attributes["alt"] for element in elements if element.name == "img"]
        assert alts == [said]
    assert made.remarks == (), "also for the archive, where no inliner tidies attributes"


@settings(max_examples=25, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60).filter(lambda t: t.strip()))
def test_any_text_survives_the_compiler(text: str) -> None:
    try:
        made = brief(headline=text, facts=[{"text": text}])
    except ValueError:
        return  # nothing of it is left once controls are gone, so it is no headline
    both = compiled([made])
    for form in (both.message, both.archive):
        assert " ".join(made.headline.split()) in shown(form)


def test_a_field_spelled_in_a_brief_with_the_very_nonce_is_never_filled_or_sent() -> None:
    """The newsroom picks a nonce that no brief holds; if it were held all the same, compiling refuses."""
    text = "[[d4f0a1.h.leave_url]]"
    message = compiled([brief(facts=[{"text": text.replace("d4f0a1", "d4f0a9")}])]).message
    assert "[[d4f0a9.h.leave_url]]" in message.fill(message.html, dict.fromkeys(FIELDS, ""))


# ------------------------------------------------------------------------------------------ content faults


def test_a_bad_link_or_picture_costs_that_element_with_a_remark() -> None:
    made = compiled(
        [
            brief(
                url="/relative",
                facts=[{"text": "F", "citations": [{"url": "javascript:x"}, {"url": "https://ok.example.org/a"}]}],
                forecasts=[{"statement": "S", "url": "ftp://x.example.org/"}],
                image={"url": "http://insecure.example.org/a.png", "alt": "A"},
            ),
            brief(headline="Second", image={"url": "https://ok.example.org/a.png"}),
        ]
    )
    assert [remark.partition(": ")[2].partition(",")[0] for remark in made.remarks] == [
        "a citation is left out",
        "a forecast's link is left out",
        "its picture is left out",
        "its link is left out",
        "its picture is left out",
    ]
    assert "it has no alt text" in made.remarks[-1]
    assert "https://ok.example.org/a" in made.message.html
    for gone in ("javascript", "ftp:", "insecure", "/relative"):
        assert gone not in made.message.html


def _long(words: int, number: int) -> Brief:
    return brief(
        headline=f"Long {number}",
        url=f"https://desk.example.org/{number}",
        facts=[{"text": "word " * words}] * 3,
        narratives=[{"label": "Pro-x narrative", "text": "word " * words}],
    )


def test_a_mail_that_gmail_would_clip_has_its_longest_briefs_shortened() -> None:
    made = compiled([_long(200, 1), _long(3500, 2), _long(300, 3), _long(3000, 4)])
    assert made.html_bytes <= CLIP_BYTES
    assert made.shortened == 1
    assert "long-2: shortened to “read on”" in made.remarks[0]
    assert "Read on" in shown(made.message)


def test_even_thirty_endless_briefs_fit() -> None:
    made = compiled([_long(3900, number) for number in range(30)])
    assert made.html_bytes <= CLIP_BYTES
    assert made.shortened >= 29


def test_a_warning_comes_before_anything_is_shortened() -> None:
    made = compiled([_long(1200, number) for number in range(3)] + [_long(400, 9)])
    assert 90_000 < made.html_bytes <= CLIP_BYTES
    assert made.shortened == 0
    assert "past 102,400 briefs are shortened" in made.remarks[-1]


# ------------------------------------------------------------------------------------------ template faults


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    """A folder of the operator's own, with a copy of the built-in templates to be spoilt."""
    for part in ("_base", "digest"):
        (tmp_path / part).mkdir()
        for file in (template_folder() / part).iterdir():
            (tmp_path / part / file.name).write_text(file.read_text())
    return tmp_path


SPOILT = [
    (
        "digest/body.mjml.j2",
        "{% block body %}",
        "{% block body %}\n<mj-sektion></mj-sektion>",
        "<mj-sektion> is no MJML",
    ),
    (
        "digest/body.mjml.j2",
        "{% block body %}",
        '{% block body %}\n<mj-section colour="red"></mj-section>',
        "takes no attr",
    ),
    (
        "digest/body.mjml.j2",
        "{% block body %}",
        "{% block body %}\n<mj-text>x</mj-text>",
        "cannot stand inside <mj-body>",
    ),
    ("digest/body.mjml.j2", "{% block body %}", "{% block body %}\n{{ nonsense }}", "'nonsense' is undefined"),
    ("digest/body.mjml.j2", "{% block body %}", "{% block body %}\n{{ slot|nofilter }}", "No filter named 'nofilter'"),
    ("digest/body.mjml.j2", "{% block body %}", "{% block body %}\n{{ fields.phone }}", "there is no field “phone”"),
    ("digest/body.mjml.j2", "{% block body %}", "{% block body %}\n{{ fields.name|upper }}", "it takes no filter"),
    (
        "digest/body.mjml.j2",
        "{% block body %}",
        "{% block body %}\n{{ fields.name|truncate(8) }}",
        "it takes no filter",
    ),
    ("digest/body.mjml.j2", "{% block body %}", "{% block body %}\n{{ 'To ' ~ fields.name }}", "it takes no filter"),
    ("digest/body.txt.j2", "{{ postal_address", "\n{{ fields.name|upper }}{{ postal_address", "it takes no filter"),
    ("digest/body.mjml.j2", "{% block body %}", "{% block body %}\n{{ slot|date }", "unexpected '}'"),
    ("digest/body.mjml.j2", "{% block footer %}", "{% block footer %}\n<div>", "<div> is not closed"),
    ("digest/body.mjml.j2", "{% block footer %}", "{% block footer %}\n<script>x</script>", "<script> has no place"),
    ("digest/body.mjml.j2", "{% block footer %}", "{% block footer %}\n<p>a < b</p>", "a bare “<”"),
    ("_base/brief.mjml.j2", "<ul>", "<ul>\n<li>", "<li> is not closed before </ul>"),
]


@pytest.mark.parametrize(("file", "old", "new", "what"), SPOILT)
def test_a_template_fault_names_template_and_line(templates: Path, file: str, old: str, new: str, what: str) -> None:
    source = (templates / file).read_text()
    assert old in source
    (templates / file).write_text(source.replace(old, new, 1))
    line = source[: source.index(old)].count("\n") + 2
    with pytest.raises(CompileError) as found:
        compiled([brief()], templates)
    assert what in str(found.value)
    assert found.value.template == file
    assert found.value.line in {line, line - 1, line + 1}


@pytest.mark.parametrize(
    ("file", "old", "new", "what"),
    [
        ("digest/body.mjml.j2", "fields.leave_url", "fields.preferences_url", "has no way to leave"),
        ("digest/body.txt.j2", "fields.leave_url", "fields.preferences_url", "has no way to leave"),
        ("digest/body.mjml.j2", "postal_address", "site.name", "does not show the postal address"),
        ("digest/body.txt.j2", "postal_address", "site.name", "does not show the postal address"),
        ("digest/subject.txt.j2", "{{", "{{ fields.name }}{{", "a subject is the same for everybody"),
        ("digest/body.mjml.j2", "{{ view_url|link }}", "archive.html", "is not an absolute address"),
    ],
)
def test_a_mail_without_what_it_must_have_is_never_made(
    templates: Path, file: str, old: str, new: str, what: str
) -> None:
    source = (templates / file).read_text()
    assert old in source
    (templates / file).write_text(source.replace(old, new))
    with pytest.raises(CompileError, match=what):
        compiled([brief()], templates)


def test_an_overriding_template_is_read_again_each_time(tmp_path: Path) -> None:
    (tmp_path / "digest").mkdir()
    subject = tmp_path / "digest" / "subject.txt.j2"
    subject.write_text("One")
    assert compiled([brief()], tmp_path).message.subject == "One"
    subject.write_text("Two\n")
    os.utime(subject, (1, 1))
    assert compiled([brief()], tmp_path).message.subject == "Two"


def test_an_unknown_template_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"nosuch/body.mjml.j2: there is no such template in"):
        compiled([brief()], tmp_path, template="nosuch")


# ------------------------------------------------------------------------------------------ vendors' oddities


def test_premailer_and_mrml_keep_to_what_was_measured() -> None:
    """Each line guards one oddity that the compiler works around; a new release that changes it shows here."""
    html = to_html(
        "<mjml><mj-head><mj-style>.a{color:#1a2b3c}</mj-style><mj-raw>"
        '<style data-premailer="ignore">@media (max-width:9px){.a{color:#222222!important}}</style></mj-raw></mj-head>'
        '<mj-body><mj-section><mj-column><mj-text><p class="a">x</p></mj-text></mj-column></mj-section></mj-body>'
        "</mjml>",
        "t",
    )
    assert html.startswith("<!DOCTYPE html>")
    made = tidy(inline(html))
    assert made.startswith("<!DOCTYPE html>")
    assert 'style="color:#1a2b3c"' in made
    assert "@media (max-width:9px){.a{color:#222222!important}}" in made
    assert "data-premailer" not in made or 'media="screen' in made
    assert "#outlook a{padding:0}" in made, "the reset stays in the head"
    assert "-ms-interpolation-mode" not in made.partition("<body")[2], "and is not inlined"


def test_a_lead_shortened_to_its_headline_still_makes_a_mail() -> None:
    many = [{"url": f"https://x.example.org/{'a' * 1900}{n}"} for n in range(60)]
    made = compiled([brief(headline="Lead", facts=[{"text": "F", "citations": many}])])
    assert made.html_bytes <= CLIP_BYTES
    assert "Lead" in shown(made.message)


def test_a_way_to_leave_that_shows_nothing_is_none(templates: Path) -> None:
    file = templates / "digest" / "body.mjml.j2"
    file.write_text(file.read_text().replace("unsubscribe</a>", "</a>").replace("Unsubscribe</a>", "&#160;</a>"))
    with pytest.raises(CompileError, match="that nobody can see"):
        compiled([brief()], templates)
