"""SendGrid: the request it gets, what each of its answers means, and its event webhook. Over real sockets.

Promises 2 (once a recipient), 3 (nothing lost) and 9 (no personal data) rest on what is told apart here.
"""

import json
import logging
import re
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.header import decode_header, make_header
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from newsletter.edition import (
    AttemptId,
    DeliveryId,
    Message,
    Receipt,
    Recipient,
    Result,
    Sender,
    spelling,
)
from newsletter.errors import OutcomeUnknown, ProviderRefused, Throttled, Unreachable
from newsletter.providers.personalizations import LARGEST_REQUEST_BYTES, build, forget
from newsletter.providers.sendgrid import SendGridProvider
from tests.mail_api_server import Act, MailApi, answer, errors, rendered, violations
from tests.test_sendgrid_webhook import RSA, SIGNER, public

NOW = datetime(2026, 11, 23, 7, 0, tzinfo=UTC)
KEY = "SG.secret-of-nobody"
SENDER = Sender(
    "daily",
    "The Daily, Desk",
    "daily@news.example.org",
    "The Desk <desk@news.example.org>",
    "The Daily",
    "daily.news.example.org",
    "https://news.example.org",
)


def field(name: str, *, html: bool) -> str:
    return spelling("d4f0a1", name, html=html)


MESSAGE = Message(
    SENDER,
    "Today in the news",
    f'<p title="{field("name", html=True)}">Dear {field("name", html=True)}</p>'
    f'<a href="{field("leave_url", html=True)}">leave</a> <a href="{field("preferences_url", html=True)}">more</a>',
    f"Dear {field('name', html=False)}, this went to {field('address', html=False)}\n"
    f"{field('leave_url', html=False)}\n",
    "d4f0a1",
    "2026-11-23T07:00",
)


def people(count: int) -> list[Recipient]:
    return [
        Recipient(DeliveryId(f"{n:024x}"), f"reader{n}@example.org", f"Reader {n}", f"token-{n}") for n in range(count)
    ]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@pytest.fixture
def api() -> Iterator[MailApi]:
    with MailApi() as made:
        yield made


def provider(api: MailApi | str, *, seconds: float = 10, **more: Any) -> SendGridProvider:
    host = api if isinstance(api, str) else api.url
    return SendGridProvider(KEY, host=host, timeout=timedelta(seconds=seconds), clock=lambda: NOW, **more)


def submit(
    to: SendGridProvider,
    recipients: list[Recipient] | int = 3,
    message: Message = MESSAGE,
    started: Callable[[], None] = lambda: None,
) -> list[Receipt]:
    found = people(recipients) if isinstance(recipients, int) else recipients
    return list(to.submit(message, found, AttemptId("a77"), started))


def results(receipts: list[Receipt]) -> list[Result]:
    return [receipt.result for receipt in receipts]


# ---------------------------------------------------------------------------------------------- the request


def test_the_request_holds_what_a_digest_needs_and_nothing_more(api: MailApi) -> None:
    submit(provider(api), 2)
    assert api.request.path == "/v3/mail/send"
    assert api.request.headers["authorization"] == f"Bearer {KEY}"
    assert api.request.headers["user-agent"].startswith("sendgrid/"), "by the package's own client"
    assert api.request.json == {
        "personalizations": [
            {
                "to": [{"email": f"reader{n}@example.org", "name": f"Reader {n}"}],
                "headers": {
                    "List-Unsubscribe": f"<https://news.example.org/u/token-{n}/daily>",
                    "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
                },
                "substitutions": {
                    "[[d4f0a1.t.address]]": f"reader{n}@example.org",
                    "[[d4f0a1.t.leave_url]]": f"https://news.example.org/u/token-{n}/daily",
                    "[[d4f0a1.h.leave_url]]": f"https://news.example.org/u/token-{n}/daily",
                    "[[d4f0a1.t.name]]": f"Reader {n}",
                    "[[d4f0a1.h.name]]": f"Reader {n}",
                    "[[d4f0a1.h.preferences_url]]": f"https://news.example.org/p/token-{n}",
                },
                "custom_args": {"attempt_id": "a77", "delivery_id": f"{n:024x}"},
            }
            for n in range(2)
        ],
        "from": {"email": "daily@news.example.org", "name": "The Daily, Desk"},
        "reply_to": {"email": "desk@news.example.org", "name": "The Desk"},
        "subject": "Today in the news",
        "content": [{"type": "text/plain", "value": MESSAGE.text}, {"type": "text/html", "value": MESSAGE.html}],
        "headers": {
            "List-Id": "The Daily <daily.news.example.org>",
            "Feedback-ID": "2026-11-23T0700:daily:digest:news.example.org",
        },
        "categories": ["daily", "2026-11-23T07:00"],
        "tracking_settings": {
            "click_tracking": {"enable": False, "enable_text": False},
            "open_tracking": {"enable": False},
            "subscription_tracking": {"enable": False},
            "ganalytics": {"enable": False},
        },
    }


def test_a_mail_outside_any_edition_has_neither_slot_nor_feedback_id(api: MailApi) -> None:
    submit(provider(api), 1, replace(MESSAGE, slot=None, sender=replace(SENDER, reply_to=None)))
    assert api.request.json["categories"] == ["daily"]
    assert set(api.request.json["headers"]) == {"List-Id"}
    assert "reply_to" not in api.request.json


def test_the_sandbox_is_asked_for_and_only_there(api: MailApi) -> None:
    assert results(submit(provider(api, sandbox=True))) == [Result.ACCEPTED] * 3
    assert api.request.json["mail_settings"] == {"sandbox_mode": {"enable": True}}
    submit(provider(api))
    assert "mail_settings" not in api.requests[1].json


def test_a_list_id_beyond_ascii_is_encoded_and_on_one_line(api: MailApi) -> None:
    name = "Täglich Neues aus aller Welt, von Müllers Schreibtisch und dem seiner Nachbarin in Überlingen"
    submit(provider(api), 1, replace(MESSAGE, sender=replace(SENDER, list_name=name)))
    written = api.request.json["headers"]["List-Id"]
    assert re.fullmatch(r"[ -~]+", written)
    words, _, rest = written.rpartition(" ")
    assert str(make_header(decode_header(words))) == name
    assert rest == "<daily.news.example.org>"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Müller; Jürgen, Dr.", "Müller Jürgen Dr."),
        (";,;", None),
        (" ", None),
        (" \t\u00a0\u3000", None),
        ("", None),
        (None, None),
        ("A\x00d\x1ba\u2028!", "Ada!"),
        ("Ada\ud800", "Ada"),
        ("李雷", "李雷"),
        ("👩‍👩‍👧", "👩‍👩‍👧"),
        ('"A" <b> \\u0000', '"A" <b> \\u0000'),
    ],
)
def test_names_hold_no_semicolon_no_comma_and_no_control(api: MailApi, name: str | None, shown: str | None) -> None:
    person = people(1)[0]._replace(name=name)
    assert results(submit(provider(api), [person])) == [Result.ACCEPTED]
    assert api.request.json["personalizations"][0]["to"][0].get("name") == shown


@pytest.mark.parametrize(
    ("address", "mailed"),
    [
        ("ada@bücher.example", "ada@xn--bcher-kva.example"),
        ("ada@straße.example", "ada@xn--strae-oqa.example"),
        ("o'brien+x=y@Example.ORG", "o'brien+x=y@Example.ORG"),
    ],
)
def test_a_domain_goes_out_in_ascii(api: MailApi, address: str, mailed: str) -> None:
    person = people(1)[0]._replace(address=address)
    assert results(submit(provider(api), [person])) == [Result.ACCEPTED]
    one = api.request.json["personalizations"][0]
    assert one["to"][0]["email"] == mailed
    assert one["substitutions"]["[[d4f0a1.t.address]]"] == address


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"address": "jürgen@example.org"}, "beyond ASCII before its @"),
        ({"address": "ada"}, "not of the form"),
        ({"address": "a@b@example.org"}, "not of the form"),
        ({"address": "ada@exam ple.org"}, "not of the form"),
        ({"address": "ada@example.org\r\nBcc: eve@example.org"}, "not of the form"),
        ({"address": f"ada@{'x' * 251}"}, "not of the form"),
        ({"address": "ada@-.bücher..example"}, "not of the form"),
        ({"token": "a b"}, "no URL in ASCII"),
        ({"token": "ä"}, "no URL in ASCII"),
        ({"token": ""}, "no URL in ASCII"),
        ({"token": "a>\r\nX: y"}, "no URL in ASCII"),
        ({"name": "x" * 6_000}, "longer than SendGrid takes"),
    ],
)
def test_whom_sendgrid_cannot_take_is_refused_alone(api: MailApi, change: dict[str, str], reason: str) -> None:
    recipients = people(3)
    recipients[1] = recipients[1]._replace(**change)  # type: ignore[arg-type] # fields by their names
    receipts = {receipt.delivery: receipt for receipt in submit(provider(api), recipients)}
    refused = receipts[recipients[1].delivery]
    assert refused.result is Result.REFUSED
    assert reason in (refused.reason or "")
    assert not re.search(r"ada|eve|jürgen|example", refused.reason or "")
    assert api.taken == [recipients[0].delivery, recipients[2].delivery]


def test_addresses_of_idn_domains_are_quick() -> None:
    """Their domains are few, and each is put into ASCII once."""
    domains = ("bücher.example", "straße.example", "müller.example")
    recipients = [person._replace(address=f"reader{n}@{domains[n % 3]}") for n, person in enumerate(people(1_000))]
    forget()
    took = []
    for _ in range(3):
        begun = time.perf_counter()
        request = build(MESSAGE, recipients, AttemptId("a77"))
        took.append(time.perf_counter() - begun)
    assert len(request.called) == 1_000
    assert b'"reader0@xn--bcher-kva.example"' in request.body
    assert min(took) < 0.05, "it takes 5 ms; one by one, 200"


@pytest.mark.parametrize(
    "bad", ["ada@-", "ada", "a@b@example.org", "", "ada@example.org\nbob@example.org", "ä@example.org"]
)
def test_who_is_looked_at_in_bulk_is_judged_as_who_is_looked_at_alone(bad: str) -> None:
    alone = build(MESSAGE, [people(1)[0]._replace(address=bad)], AttemptId("a77"))
    beside = build(MESSAGE, [*people(5)[1:], people(1)[0]._replace(address=bad)], AttemptId("a77"))
    assert alone.receipts == beside.receipts
    assert len(beside.called) == 4 + len(alone.called)


def test_substitutions_may_have_ten_thousand_bytes_and_not_one_more(api: MailApi) -> None:
    message = replace(MESSAGE, text=field("name", html=False), html="<p>")
    room = 10_000 - len(json.dumps({field("name", html=False): ""}, separators=(",", ":")))
    exact, over = (person._replace(name="x" * (room + n)) for n, person in enumerate(people(2)))
    receipts = {receipt.delivery: receipt for receipt in submit(provider(api), [exact, over], message)}
    assert receipts[exact.delivery].result is Result.ACCEPTED
    assert receipts[over.delivery].result is Result.REFUSED
    filled = api.request.json["personalizations"][0]["substitutions"]
    assert len(json.dumps(filled, separators=(",", ":"))) == 10_000


def test_where_nobody_can_be_called_for_nothing_starts(api: MailApi) -> None:
    started: list[bool] = []
    bad = [person._replace(address="nobody") for person in people(2)]
    assert results(submit(provider(api), bad, started=lambda: started.append(True))) == [Result.REFUSED] * 2
    assert started == []
    assert api.requests == []


def test_the_order_of_the_request_is_the_order_given(api: MailApi) -> None:
    recipients = people(50)[::-1]
    submit(provider(api), recipients)
    assert api.taken == [person.delivery for person in recipients]


def test_one_address_is_once_in_a_request(api: MailApi) -> None:
    twins = [person._replace(address=address) for person, address in zip(people(3), TWINS, strict=True)]
    receipts = {receipt.delivery: receipt.result for receipt in submit(provider(api), twins)}
    assert list(map(receipts.__getitem__, [twin.delivery for twin in twins])) == [
        Result.ACCEPTED,
        Result.NOT_TRIED,
        Result.ACCEPTED,
    ]


TWINS = ["ada@example.org", "ADA@Example.org", "bob@example.org"]


def test_what_has_no_room_in_30_megabytes_is_not_tried(api: MailApi) -> None:
    """People are few and the message is large, so that half of them and the message just fit."""
    recipients = people(1_000)
    body = build(MESSAGE, recipients, AttemptId("a77")).body
    padding = LARGEST_REQUEST_BYTES - len(body) * 3 // 4
    large = replace(MESSAGE, text=MESSAGE.text + "x" * padding)
    receipts = submit(provider(api, seconds=60), recipients, large)
    assert results(sorted(receipts, key=lambda r: r.delivery)) == [Result.ACCEPTED] * 500 + [Result.NOT_TRIED] * 500
    assert api.request.length < LARGEST_REQUEST_BYTES


def test_a_message_too_large_for_one_is_refused_for_everybody_before_anything_starts(api: MailApi) -> None:
    started: list[bool] = []
    large = replace(MESSAGE, html="x" * LARGEST_REQUEST_BYTES)
    with pytest.raises(ProviderRefused, match="30 MB"):
        submit(provider(api), 3, large, started=lambda: started.append(True))
    assert started == []


@pytest.mark.parametrize(
    "change",
    [
        {"from_address": "jürgen@example.org"},
        {"from_address": "desk@bücher.example"},
        {"list_id": "x"},
        {"from_name": "a\r\nb"},
        {"reply_to": "nobody"},
        {"site_url": "https://bücher.example"},
    ],
)
def test_what_is_wrong_for_all_copies_is_refused_for_everybody(api: MailApi, change: dict[str, str]) -> None:
    with pytest.raises(ProviderRefused) as caught:
        submit(provider(api), 3, replace(MESSAGE, sender=replace(SENDER, **change)))
    assert not caught.value.suspect
    assert api.requests == []


def test_html_is_escaped_and_text_is_not(api: MailApi) -> None:
    person = people(1)[0]._replace(name="<b>&'\"", token="a'b&c")
    submit(provider(api), [person])
    filled = api.request.json["personalizations"][0]["substitutions"]
    assert filled["[[d4f0a1.t.name]]"] == "<b>&'\""
    assert filled["[[d4f0a1.h.name]]"] == "&lt;b&gt;&amp;&#x27;&quot;"
    assert unescape(filled["[[d4f0a1.h.leave_url]]"]) == filled["[[d4f0a1.t.leave_url]]"]


texts = st.text(max_size=40)
tokens = st.text(alphabet=[chr(n) for n in range(0x21, 0x7F) if chr(n) not in "<>"], min_size=1, max_size=30)
locals_ = st.text(alphabet="abcXYZ019!#$%&'*+/=?^_`{|}~-", min_size=1, max_size=64)
domains = st.sampled_from(["example.org", "bücher.example", "Example.ORG", "a.b-c.example"])
addresses = st.builds("{}@{}".format, locals_, domains)


@given(
    made=st.lists(st.tuples(st.one_of(addresses, texts), st.none() | texts, tokens), max_size=12),
    parts=st.tuples(texts, texts, texts),
)
@settings(max_examples=150, deadline=None)
def test_whatever_people_are_called_the_request_is_within_all_limits_and_fills_as_we_do(
    made: list[tuple[str, str | None, str]], parts: tuple[str, str, str]
) -> None:
    recipients = [
        Recipient(DeliveryId(f"{n:024x}"), address, name, token) for n, (address, name, token) in enumerate(made)
    ]
    safe = [part.replace("[[", "") for part in parts]
    message = replace(
        MESSAGE, html=MESSAGE.html.join(safe[:2]), text=f"{safe[2]}{MESSAGE.text}", sender=replace(SENDER)
    )
    request_ = build(message, recipients, AttemptId("a77"))
    body, called, receipts = request_.body, request_.called, request_.receipts
    assert sorted([*called, *(receipt.delivery for receipt in receipts)]) == [p.delivery for p in recipients]
    if not called:
        return
    assert violations(body) == []
    request = json.loads(body)
    known = {person.delivery: person for person in recipients}
    for index, delivery in enumerate(called):
        values = known[delivery].values(SENDER)
        text, html = rendered(request, index)
        assert text == message.fill(message.text, values).encode("utf-8", "replace").decode()
        assert html == message.fill(message.html, values).encode("utf-8", "replace").decode()


# ---------------------------------------------------------------------------------------------- answers: accepted


def test_202_accepts_everybody_under_the_requests_name(api: MailApi) -> None:
    receipts = submit(provider(api))
    assert {(receipt.result, receipt.provider_id) for receipt in receipts} == {
        (Result.ACCEPTED, "Ua9z9lSTSaqYBWJe_Xfc-1")
    }


@pytest.mark.parametrize(
    ("says", "name"),
    [
        (answer(202), None),
        (answer(202, X_Message_Id=" a b\x85 "), "ab"),
        (answer(202, X_Message_Id="x" * 500), "x" * 100),
        (b"HTTP/1.1 202 Accepted\r\nX-Message-Id: abc\r\nContent-Length: 5000\r\n\r\n{", "abc"),
        (b"HTTP/1.1 202 Accepted\r\nX-Message-Id: abc\r\nTransfer-Encoding: chunked\r\n\r\nzz", "abc"),
        (b"HTTP/1.1 202 Accepted\r\nX-Message-Id: ab", None),
        (b"HTTP/1.1 202 Accepted\r\n", None),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 Accepted\r\n\r\n", None),
    ],
)
def test_a_whole_first_line_of_202_accepts_whatever_follows(api: MailApi, says: bytes, name: str | None) -> None:
    api.script.append(Act(says))
    assert {(r.result, r.provider_id) for r in submit(provider(api))} == {(Result.ACCEPTED, name)}


def test_202_that_then_hangs_accepts_without_waiting(api: MailApi) -> None:
    api.script.append(Act(b"HTTP/1.1 202 Accepted\r\nContent-Length: 10\r\n\r\n", then="hang"))
    begun = time.monotonic()
    assert results(submit(provider(api))) == [Result.ACCEPTED] * 3
    assert time.monotonic() - begun < 4


def test_the_sandbox_says_200(api: MailApi) -> None:
    api.script += [
        Act(answer(200)),
        Act(answer(200, {})),
        Act(answer(200, b"\r\n")),
        Act(answer(202)),
        Act(answer(200)),
    ]
    for _ in range(4):
        assert results(submit(provider(api, sandbox=True))) == [Result.ACCEPTED] * 3
    with pytest.raises(OutcomeUnknown, match="200"):
        submit(provider(api))


def test_a_message_id_in_the_sandbox_may_mean_that_it_was_sent(api: MailApi) -> None:
    api.script.append(Act(answer(202, X_Message_Id="Ua9z9lSTSaqYBWJe_Xfc")))
    with pytest.raises(OutcomeUnknown, match="although the sandbox was asked for: it may have been sent"):
        submit(provider(api, sandbox=True))


@pytest.mark.parametrize("body", [b"<html>Welcome to Hotel Wi-Fi</html>", b"null", b"[]", b"\xff", b"OK"])
def test_a_200_in_the_sandbox_that_is_not_sendgrids_tells_nothing(api: MailApi, body: bytes) -> None:
    """A captive portal answers 200 to whatever is asked."""
    api.script.append(Act(answer(200, body)))
    with pytest.raises(OutcomeUnknown, match="not SendGrid's"):
        submit(provider(api, sandbox=True))


# ---------------------------------------------------------------------------------------------- answers: 400


def personal(index: int, form: str = "personalizations.{}.to.0.email") -> tuple[str, str]:
    return f"Does not contain a valid address: reader{index}@example.org.", form.format(index)


@pytest.mark.parametrize(
    "form",
    [
        "personalizations.{}.to.0.email",
        "personalizations.{}.to.0",
        "personalizations.{}.to.0.name",
        "personalizations.{}.to",
        "personalizations.{}",
        "personalizations[{}].to[0].email",
        "personalizations[{}].to",
        "personalizations[{}]",
    ],
)
def test_400_that_names_recipients_refuses_those_and_tries_nobody_else(api: MailApi, form: str) -> None:
    api.script.append(Act(answer(400, errors(personal(1, form), personal(3, form)))))
    receipts = submit(provider(api), 5)
    assert results(receipts) == [
        Result.NOT_TRIED,
        Result.REFUSED,
        Result.NOT_TRIED,
        Result.REFUSED,
        Result.NOT_TRIED,
    ]
    assert receipts[1].reason == "Does not contain a valid address: [address]"
    assert receipts[1].suppress is False


def test_the_index_counts_in_the_request_and_not_in_the_batch(api: MailApi) -> None:
    recipients = people(4)
    recipients[0] = recipients[0]._replace(address="nobody")
    api.script.append(Act(answer(400, errors(personal(1)))))
    refused = [receipt for receipt in submit(provider(api), recipients) if receipt.result is Result.REFUSED]
    assert {receipt.delivery for receipt in refused} == {recipients[0].delivery, recipients[2].delivery}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>Bad Request</html>",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"errors": []}',
        b'{"errors": null}',
        b'{"errors": ["x"]}',
        b"[" * 100_000,
        json.dumps(errors(("Bad Request", None))).encode(),
        json.dumps(errors(("x", ""))).encode(),
        json.dumps(errors(("x", "personalizations"))).encode(),
        json.dumps(errors(personal(3))).encode(),
        json.dumps(errors(personal(0), personal(99_999_999))).encode(),
        json.dumps(errors(personal(0), ("x", None))).encode(),
        json.dumps(errors(("x", "personalizations.0.headers"))).encode(),
        json.dumps(errors(("x", "personalizations.0.substitutions"))).encode(),
        json.dumps(errors(("x", "personalizations.-1.to"))).encode(),
    ],
)
def test_400_that_names_nobody_may_be_for_the_sake_of_one(api: MailApi, body: bytes) -> None:
    api.script.append(Act(answer(400, body)))
    with pytest.raises(ProviderRefused) as caught:
        submit(provider(api))
    assert caught.value.suspect


@pytest.mark.parametrize(
    ("count", "named", "suspect"),
    [
        (1, 1, False),
        (2, 1, False),
        (2, 2, True),
        (3, 2, False),
        (3, 3, True),
        (10, 9, False),
        (10, 10, True),
        (11, 5, False),
        (11, 6, True),
        (12, 6, False),
        (12, 7, True),
        (1_000, 500, False),
        (1_000, 501, True),
        (1_000, 1_000, True),
    ],
)
def test_400_that_names_everybody_or_most_of_many_speaks_of_what_they_share(
    api: MailApi, count: int, named: int, suspect: bool
) -> None:
    api.script.append(Act(answer(400, errors(*(personal(index) for index in reversed(range(named)))))))
    if not suspect:
        assert results(submit(provider(api), count)).count(Result.REFUSED) == named
        return
    with pytest.raises(ProviderRefused) as caught:
        submit(provider(api), count)
    assert caught.value.suspect


@pytest.mark.parametrize("at", ["from", "from.email", "content", "content.0.value", "subject", "categories", "headers"])
@pytest.mark.parametrize("beside", [[], [("Does not contain a valid address.", "personalizations.0.to.0.email")]])
def test_400_about_the_message_refuses_everybody_and_suspects_nobody(
    api: MailApi, at: str, beside: list[tuple[str, str | None]]
) -> None:
    api.script.append(Act(answer(400, errors(*beside, ("The from object is required", at)))))
    with pytest.raises(ProviderRefused, match=re.escape(f"(400): {'Does' if beside else 'The from'}")) as caught:
        submit(provider(api))
    assert not caught.value.suspect


# ---------------------------------------------------------------------------------------------- answers: refused


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (301, "provider.host leads elsewhere"),
        (307, "provider.host leads elsewhere"),
        (401, "the API key is not valid"),
        (402, "the account waits for a payment"),
        (403, "the sender is not verified"),
        (404, "no such API at provider.host"),
        (405, "does not take the request"),
        (406, "does not take the request"),
        (415, "does not take the request"),
        (422, "does not take the request"),
        (451, "does not take the request"),
    ],
)
def test_other_refusals_are_for_everybody_and_say_what_to_do(api: MailApi, status: int, said: str) -> None:
    api.script.append(Act(answer(status, errors(("No, reader1@example.org", None)), Location="http://127.0.0.1:1/")))
    with pytest.raises(ProviderRefused) as caught:
        submit(provider(api))
    assert said in str(caught.value)
    assert f"({status}): No, [address]" in str(caught.value)
    assert not caught.value.suspect
    assert len(api.requests) == 1, "no redirect is followed"


def test_413_may_be_for_the_sake_of_so_many(api: MailApi) -> None:
    """So a single one is tried, and then halves."""
    api.script.append(Act(answer(413, b"<html>Request Entity Too Large</html>")))
    with pytest.raises(ProviderRefused, match=r"the request was too large \(413\)$") as caught:
        submit(provider(api))
    assert caught.value.suspect


def test_what_sendgrid_says_is_scrubbed_and_cut(api: MailApi) -> None:
    said = f"key {KEY} of <reader1@example.org>,reader2%40example.org\r\n\x1b[31m {'long ' * 200}"
    api.script.append(Act(answer(403, errors((said, "from")))))
    with pytest.raises(ProviderRefused) as caught:
        submit(provider(api))
    assert "key [key] of <[address]>,[address] [31m long" in str(caught.value)
    assert KEY not in str(caught.value)
    assert len(str(caught.value)) < 450


@pytest.mark.parametrize("said", [f"{'x' * 400_000} {'y' * 400_000}@example.org", "@" * 400_000, "a@b." * 100_000])
def test_scrubbing_is_quick_whatever_sendgrid_says(api: MailApi, said: str) -> None:
    api.script.append(Act(answer(403, errors((said, None)))))
    begun = time.monotonic()
    with pytest.raises(ProviderRefused) as caught:
        submit(provider(api))
    assert time.monotonic() - begun < 4
    assert "@" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("x" * 5_000, "x" * 300),
        (f"see:{'x' * 5_000}", f"see:{'x' * 296}"),
        (f"{'y' * 1_990}@z {'x' * 5_000}", "[address]"),
        (f"{'y' * 1_985}@z,reader1{'x' * 9}@example.org", "[address],"),
        (f"{'y' * 1_986}@z, see reader1@example.org", "[address], see"),
    ],
)
def test_a_long_text_is_cut_and_an_address_at_the_cut_does_not_show(api: MailApi, said: str, kept: str) -> None:
    api.script.append(Act(answer(403, errors((said, None)))))
    with pytest.raises(ProviderRefused) as caught:
        submit(provider(api))
    assert str(caught.value).rpartition("(403): ")[2] == kept


def test_an_early_answer_is_read_though_the_request_did_not_get_out(api: MailApi) -> None:
    """SendGrid's edge answers 413 and hangs up while the body is still on its way."""
    api.script.append(Act(answer(413), reads=1_000))
    with pytest.raises(ProviderRefused, match="413"):
        submit(provider(api), 3, replace(MESSAGE, text=MESSAGE.text + "x" * 20_000_000))
    assert len(api.request.body) < api.request.length


def test_an_early_202_is_not_believed(api: MailApi) -> None:
    api.script.append(Act(answer(202), reads=1_000))
    with pytest.raises(OutcomeUnknown, match="before it had the whole request"):
        submit(provider(api), 3, replace(MESSAGE, text=MESSAGE.text + "x" * 20_000_000))


# ---------------------------------------------------------------------------------------------- answers: throttled


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"X_RateLimit_Reset": str(int(NOW.timestamp()) + 90)}, 90),
        ({"X_RateLimit_Reset": str(int(NOW.timestamp()) + 90), "Retry_After": "7"}, 90),
        ({"X_RateLimit_Reset": str(int(NOW.timestamp()) - 90)}, 1),
        ({"X_RateLimit_Reset": "999999999999"}, 3600),
        ({"X_RateLimit_Reset": "soon", "Retry_After": "7"}, 7),
        ({"Retry_After": "0"}, 1),
        ({"Retry_After": "99999999"}, 3600),
        ({"Retry_After": "Mon, 23 Nov 2026 07:02:00 GMT"}, 120),
        ({"Retry_After": "Mon, 23 Nov 9999 07:02:00 -2359"}, 3600),
        ({"Retry_After": "nan"}, 60),
        ({"Retry_After": "-5"}, 60),
        ({"X_RateLimit_Reset": "1e400"}, 60),
        ({}, 60),
    ],
)
def test_429_waits_as_long_as_it_says_within_reason(api: MailApi, headers: dict[str, str], seconds: int) -> None:
    api.script.append(Act(answer(429, errors(("too many requests", None)), **headers)))
    with pytest.raises(Throttled) as caught:
        submit(provider(api))
    assert caught.value.retry_after == timedelta(seconds=seconds)


# ---------------------------------------------------------------------------------------------- answers: unknown


@pytest.mark.parametrize(
    "says",
    [
        *[answer(status) for status in (101, 103, 200, 201, 204, 206, 408, 500, 502, 503, 504, 599, 999)],
        b"",
        b"HTTP/1.1",
        b"HTTP/1.1 20",
        b"HTTP/1.1 202",
        b"HTTP/1.1 202 Accep",
        b"HTTP/1.1 400 Bad Request",
        b"HTTP/1.1 400 Bad Request\r\nContent-Le",
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 500\r\n\r\n",
        b'HTTP/1.1 400 Bad Request\r\nContent-Length: 500\r\n\r\n{"errors":[',
        b"HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
        b"HTTP/1.1 429 Slow down\r\nX-RateLimit-Re",
        b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 9\r\n\r\n{",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/2 202\r\n\r\n",
        b"HTTP/1.1 202202 OK\r\n\r\n",
        b"HTTP/1.1 -202 OK\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"202 Accepted\r\n\r\n",
        b"\x00\xff\x16\x03",
        b"x" * 100_000,
        b"HTTP/1.1 400 Bad\r\n" + b"a: b\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 400 Bad\r\nX: " + b"y" * 100_000,
    ],
    ids=lambda says: repr(says[:40]),
)
def test_what_tells_nothing_leaves_the_outcome_unknown(api: MailApi, says: bytes) -> None:
    api.script.append(Act(says))
    started: list[bool] = []
    with pytest.raises(OutcomeUnknown):
        submit(provider(api, seconds=5), started=lambda: started.append(True))
    assert started == [True]


@pytest.mark.parametrize(
    "act",
    [
        Act(then="hang"),
        Act(then="reset"),
        Act(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 500\r\n\r\n{", then="hang"),
        Act(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 500\r\n\r\n{", then="reset"),
        Act(b"HTTP/1.1 400 Bad Request\r\n\r\n{", then="hang"),
        Act(b"HTTP/1.1 4", then="hang"),
        Act(reads=100, then="reset"),
        Act(reads=100, then="close"),
        Act(deaf=True, then="reset"),
        Act(deaf=True, then="hang"),
        Act(answer(202), drip=0.1),
        Act(answer(400, b"x" * 100), drip=0.04),
        Act(b"HTTP/1.1 400 Bad\r\n\r\n" + b"x" * 50, drip=0.04),
    ],
    ids=lambda act: f"{act.then}{'-deaf' if act.deaf else ''}-{act.reads}-{act.drip}-{act.says[:12]!r}",
)
@pytest.mark.parametrize("size", [0, 10_000_000], ids=["small", "large"])
def test_silence_and_dripping_end_with_the_time_out(api: MailApi, act: Act, size: int) -> None:
    api.script.append(act)
    begun = time.monotonic()
    with pytest.raises(OutcomeUnknown):
        submit(provider(api, seconds=0.3), 3, replace(MESSAGE, text=MESSAGE.text + "x" * size))
    assert time.monotonic() - begun < 4


def test_an_endless_answer_is_read_to_a_limit(api: MailApi) -> None:
    api.script.append(Act(b"HTTP/1.1 403 Forbidden\r\n\r\n" + b"x" * 5_000_000, then="hang"))
    with pytest.raises(ProviderRefused, match="403"):
        submit(provider(api))


def test_who_was_not_even_asked_for_keeps_their_receipt_beside_an_unknown_outcome(api: MailApi) -> None:
    recipients = [*people(2), people(3)[2]._replace(address="nobody")]
    api.script.append(Act(then="reset"))
    receipts = provider(api).submit(MESSAGE, recipients, AttemptId("a77"), lambda: None)
    assert next(receipts).result is Result.REFUSED
    with pytest.raises(OutcomeUnknown):
        next(receipts)


# ---------------------------------------------------------------------------------------------- unreachable


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
    return port


def unreachable(to: SendGridProvider, match: str) -> None:
    started: list[bool] = []
    begun = time.monotonic()
    with pytest.raises(Unreachable, match=match):
        submit(to, started=lambda: started.append(True))
    assert started == []
    assert time.monotonic() - begun < 4


def test_a_refused_connection_left_nothing(api: MailApi) -> None:
    unreachable(provider(f"http://127.0.0.1:{closed_port()}"), "refused")


def test_a_name_that_does_not_resolve_left_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    unreachable(provider("https://api.sendgrid.example"), "not known")


@pytest.mark.parametrize(("host", "asked"), [("global", "api.sendgrid.com"), ("eu", "api.eu.sendgrid.com")])
def test_each_region_has_its_host(monkeypatch: pytest.MonkeyPatch, host: str, asked: str) -> None:
    """Where it would connect: port 443 is https."""
    places: list[tuple[str, int]] = []

    def nowhere(name: str, port: int, **_: Any) -> list[Any]:
        places.append((name, port))
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    unreachable(provider(host), "not known")
    assert places == [(asked, 443)]


def test_a_name_that_takes_for_ever_to_resolve_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def slow(*_: Any, **__: Any) -> list[Any]:
        over.wait(5)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    unreachable(provider("https://api.sendgrid.example", seconds=0.3), "no connection within 0.3 s")
    over.set()


@pytest.fixture
def full() -> Iterator[int]:
    """A port whose queue of connections is full: nobody answers there, as behind a firewall that drops."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port: int = listener.getsockname()[1]
        waiting = []
        for _ in range(3):
            client = socket.socket()
            client.setblocking(False)  # noqa: FBT003 # its only parameter
            client.connect_ex(("127.0.0.1", port))
            waiting.append(client)
        time.sleep(0.05)
        yield port
        for client in waiting:
            client.close()


def test_a_connection_that_nobody_takes_is_not_waited_for(full: int) -> None:
    unreachable(provider(f"http://127.0.0.1:{full}", seconds=0.3), "no connection within 0.3 s")


def test_all_addresses_of_a_host_are_tried_within_one_time_out(
    api: MailApi, full: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def several(*_: Any, **__: Any) -> list[Any]:
        places = [("127.0.0.1", full), ("127.0.0.1", closed_port()), ("127.0.0.1", api.port)]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place) for place in places]

    monkeypatch.setattr(socket, "getaddrinfo", several)
    assert results(submit(provider("http://api.sendgrid.example", seconds=1.5))) == [Result.ACCEPTED] * 3


def test_where_the_time_runs_out_while_the_call_is_written_down_nothing_leaves(api: MailApi) -> None:
    with pytest.raises(Unreachable, match=r"within 0\.2 s"):
        submit(provider(api, seconds=0.2), started=lambda: time.sleep(0.4))
    assert api.bytes_in == 0


def test_a_host_that_is_none_is_unreachable() -> None:
    for host in ("http://exam ple:80", "http://127.0.0.1:x", f"http://{'x' * 70}.example"):
        unreachable(provider(host), "sendgrid cannot be reached: .")


# ---------------------------------------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost with its key, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    file.write_bytes(made.public_bytes(pem) + private)
    return file


@pytest.fixture
def secure(certificate: Path) -> Iterator[MailApi]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with MailApi(tls=context) as made:
        yield made


def test_under_tls_it_is_the_same(secure: MailApi, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    to = provider(f"https://localhost:{secure.port}", seconds=3)
    seen: list[int] = []
    assert results(submit(to, 3, started=lambda: seen.append(secure.bytes_in))) == [Result.ACCEPTED] * 3
    assert seen == [0]
    secure.script += [Act(answer(401)), Act(then="reset"), Act(answer(413), reads=1_000)]
    with pytest.raises(ProviderRefused):
        submit(to)
    with pytest.raises(OutcomeUnknown):
        submit(to)
    with pytest.raises(ProviderRefused, match="413"):
        submit(to, 3, replace(MESSAGE, text=MESSAGE.text + "x" * 20_000_000))
    secure.script.append(Act(answer(202), drip=0.1))
    with pytest.raises(OutcomeUnknown, match=r"within 0\.4 s"):
        submit(provider(f"https://localhost:{secure.port}", seconds=0.4))


def test_a_certificate_that_nobody_vouches_for_left_nothing(secure: MailApi) -> None:
    unreachable(provider(f"https://localhost:{secure.port}"), "TLS: self-signed certificate")


def test_a_certificate_for_another_name_left_nothing(
    secure: MailApi, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    unreachable(provider(f"https://127.0.0.1:{secure.port}"), "TLS: IP address mismatch")


def test_a_server_without_tls_left_nothing(api: MailApi) -> None:
    api.script.append(Act(answer(400), deaf=True))
    unreachable(provider(f"https://127.0.0.1:{api.port}"), "TLS")


def test_a_handshake_that_hangs_is_not_waited_for(api: MailApi) -> None:
    api.script.append(Act(deaf=True, then="hang"))
    unreachable(provider(f"https://127.0.0.1:{api.port}", seconds=0.3), "no connection within 0.3 s")


# ---------------------------------------------------------------------------------------------- proxies


def test_a_proxy_is_asked_first_and_only_then_it_starts(api: MailApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy hears CONNECT before `started`: nothing of the request is in it."""
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{api.port}")
    api.script.append(Act(b"HTTP/1.1 403 Forbidden\r\n\r\n", reads=0))
    unreachable(provider("https://api.sendgrid.example", seconds=3), "Tunnel connection failed: 403")
    assert api.request.head.startswith(b"CONNECT api.sendgrid.example:443 ")
    assert KEY.encode() not in api.request.head


def tunnel(listener: socket.socket, port: int, heard: list[bytes]) -> None:
    """A proxy for one connection: hears CONNECT, agrees, and passes bytes on both ways to a port of this machine."""
    near, _ = listener.accept()
    with near, socket.create_connection(("127.0.0.1", port)) as far:
        heard.append(near.recv(65_536))
        near.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        selector = selectors.DefaultSelector()
        selector.register(near, selectors.EVENT_READ, far)
        selector.register(far, selectors.EVENT_READ, near)
        with selector:
            while True:
                for ready, _ in selector.select(10):
                    data = ready.fileobj.recv(65_536)  # type: ignore[union-attr] # a socket, as registered
                    if not data:
                        return
                    ready.data.sendall(data)


def test_through_a_proxy_it_starts_behind_the_tunnel(
    secure: MailApi, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.delenv("NO_PROXY")
    heard: list[bytes] = []
    seen: list[tuple[int, int]] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{listener.getsockname()[1]}")
        proxy = threading.Thread(target=tunnel, args=(listener, secure.port, heard), daemon=True)
        proxy.start()
        to = provider("https://localhost:4443", seconds=5)
        receipts = submit(to, started=lambda: seen.append((len(heard), secure.bytes_in)))
        proxy.join(10)
    assert results(receipts) == [Result.ACCEPTED] * 3
    assert seen == [(1, 0)], "after CONNECT, and before a byte of the request"
    assert KEY.encode() not in heard[0]


# ---------------------------------------------------------------------------------------------- secrets


def test_neither_key_nor_people_are_in_any_log(api: MailApi, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("python_http_client").setLevel(logging.DEBUG)
    api.script += [Act(answer(400, errors(personal(1)))), Act(answer(403, errors((KEY, "from"))))]
    submit(provider(api))
    with pytest.raises(ProviderRefused):
        submit(provider(api))
    submit(provider(api))
    provider(api).check()
    assert "PAYLOAD" in caplog.text, "the package does log"
    assert not re.search(rf"{re.escape(KEY)}|reader\d|Reader \d|token-\d|Bearer", caplog.text)


def test_a_call_leaves_no_header_behind_for_the_next(api: MailApi) -> None:
    to = provider(api)
    submit(to)
    submit(to)
    assert len({request.head for request in api.requests}) == 1


def test_every_wait_of_a_name_is_on_a_thread_that_ends(api: MailApi) -> None:
    before = threading.active_count()
    for _ in range(5):
        submit(provider(api))
    time.sleep(0.2)
    watching = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    assert watching == []
    assert threading.active_count() <= before + 2 + len(api._threads)


# ---------------------------------------------------------------------------------------------- doctor


def said(findings: Any) -> list[tuple[bool | None, str]]:
    return [(finding.ok, finding.what) for finding in findings]


def test_doctor_asks_whether_the_key_may_send(api: MailApi) -> None:
    to = provider(api, webhook_keys=[public(SIGNER)])
    assert said(to.check())[0] == (True, "sendgrid at 127.0.0.1: the API key is valid and may send mail")
    assert api.request.path == "/v3/scopes"
    api.script += [Act(answer(200, {"scopes": ["stats.read"]})), Act(answer(200, b"<html>")), Act(answer(401))]
    assert said(to.check())[0] == (False, "sendgrid: the API key may not send mail: it needs the scope mail.send")
    assert to.check()[0].ok is False
    ok, what = said(to.check())[0]
    assert ok is False
    assert "the API key is not valid" in what
    api.script += [Act(answer(403)), Act(answer(503)), Act(then="reset")]
    assert [to.check()[0].ok for _ in range(3)] == [False] * 3


def test_doctor_sees_an_api_that_is_not_there() -> None:
    (found, *_) = provider(f"http://127.0.0.1:{closed_port()}").check()
    assert (found.ok, "cannot be reached" in found.what) == (False, True)


def test_doctor_looks_at_the_webhooks_keys(api: MailApi) -> None:
    other = ec.generate_private_key(ec.SECP384R1())
    findings = said(provider(api, webhook_keys=[public(SIGNER), "x" * 90, public(other), public(RSA)]).check())
    assert [what for ok, what in findings if ok is False] == [
        f"sendgrid: webhook key {number} is no ECDSA P-256 key as SendGrid shows it" for number in (2, 3, 4)
    ]
    (advice,) = [what for ok, what in said(provider(api).check()) if "webhook_keys" in what]
    assert "will not be known" in advice
