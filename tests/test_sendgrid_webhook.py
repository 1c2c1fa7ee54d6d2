"""SendGrid's event webhook: only what was signed is believed; each item becomes an Event, and none a crash."""

import base64
import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from newsletter.edition import AttemptId, DeliveryId, Event, EventKind
from newsletter.errors import WebhookRejected
from newsletter.providers.sendgrid import SendGridProvider

NOW = datetime(2026, 11, 23, 7, 0, tzinfo=UTC)
SIGNER = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65_537, 2_048)
STAMP = str(int(NOW.timestamp()))


def public(key: Any) -> str:
    """As SendGrid shows a verification key: the DER in base64."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return base64.b64encode(key.public_key().public_bytes(serialization.Encoding.DER, form)).decode()


def signed(body: bytes, key: ec.EllipticCurvePrivateKey = SIGNER, stamp: str = STAMP) -> dict[str, str]:
    signature = key.sign(stamp.encode() + body, ec.ECDSA(hashes.SHA256()))
    return {
        "X-Twilio-Email-Event-Webhook-Signature": base64.b64encode(signature).decode(),
        "X-Twilio-Email-Event-Webhook-Timestamp": stamp,
    }


def receiver(*keys: str) -> SendGridProvider:
    return SendGridProvider("SG.test", webhook_keys=keys or [public(SIGNER)], clock=lambda: NOW)


def event(**told: Any) -> Event:
    body = json.dumps([told]).encode()
    (found,) = receiver().events(signed(body), body)
    return found


def test_a_whole_event_is_read() -> None:
    found = event(
        email="reader1@example.org",
        timestamp=1_795_417_200,
        event="bounce",
        sg_event_id="ZGVsaXZlcmVk",
        sg_message_id="Ua9z9lSTSaqYBWJe_Xfc-Q.recvd-84bd5f-x7x9-1-6393BC05-3.0",
        delivery_id="0" * 24,
        attempt_id="a77",
        type="bounce",
        status="5.1.1",
        reason="550 5.1.1 <reader1@example.org>: no such user",
        category=["daily", "2026-11-23T07:00"],
    )
    assert found == Event(
        id="ZGVsaXZlcmVk",
        kind=EventKind.BOUNCED,
        at=datetime.fromtimestamp(1_795_417_200, UTC),
        said="bounce",
        delivery=DeliveryId("0" * 24),
        attempt=AttemptId("a77"),
        provider_id="Ua9z9lSTSaqYBWJe_Xfc-Q",
        address=None,
        reason="550 5.1.1 <[address]>: no such user",
    )


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ({"event": "processed"}, EventKind.PROCESSED),
        ({"event": "deferred", "response": "451 later"}, EventKind.DELAYED),
        ({"event": "delivered", "response": "250 OK"}, EventKind.DELIVERED),
        ({"event": "bounce", "type": "bounce"}, EventKind.BOUNCED),
        ({"event": "bounce"}, EventKind.BOUNCED),
        ({"event": "bounce", "type": "blocked"}, EventKind.BLOCKED),
        ({"event": "bounce", "type": "expired"}, EventKind.BLOCKED),
        ({"event": "dropped", "reason": "Bounced Address"}, EventKind.DROPPED),
        ({"event": "spamreport"}, EventKind.COMPLAINED),
        ({"event": "unsubscribe"}, EventKind.LEFT),
        ({"event": "group_unsubscribe"}, EventKind.LEFT),
        ({"event": "group_resubscribe"}, EventKind.REJOINED),
        ({"event": "open"}, EventKind.OPENED),
        ({"event": "click"}, EventKind.CLICKED),
        ({"event": "account_status_change"}, EventKind.UNKNOWN),
        ({"event": ""}, EventKind.UNKNOWN),
        ({"event": None}, EventKind.UNKNOWN),
        ({}, EventKind.UNKNOWN),
    ],
)
def test_each_kind_has_a_word_of_ours_and_a_new_one_is_kept(told: dict[str, Any], kind: EventKind) -> None:
    found = event(**told, timestamp=1)
    assert (found.kind, found.said) == (kind, told.get("event") or "")
    assert found.reason == (told.get("response") or told.get("reason"))


@pytest.mark.parametrize(
    ("told", "of_sender"),
    [
        ({"type": "blocked", "bounce_classification": "Reputation"}, True),
        ({"type": "expired", "bounce_classification": "Frequency or Volume Too High"}, True),
        ({"type": "blocked", "bounce_classification": "Content", "status": "5.2.2"}, True),
        ({"type": "blocked", "bounce_classification": "Mailbox Unavailable", "status": "5.7.1"}, False),
        ({"type": "blocked", "bounce_classification": "Unclassified", "status": "5.7.1"}, True),
        ({"type": "blocked", "status": "5.0.0", "reason": "550 5.7.606 Access denied, banned sending IP"}, True),
        ({"type": "blocked", "status": "5.2.2", "reason": "552 5.2.2 mailbox full, 15.7.1.9"}, False),
        ({"type": "blocked"}, False),
        ({"type": "bounce", "bounce_classification": "Reputation", "status": "5.7.1"}, False),
        ({"type": "blocked", "bounce_classification": ["Reputation"], "status": 5, "reason": {}}, False),
    ],
)
def test_a_block_for_the_senders_sake_is_told_from_one_for_the_recipients(
    told: dict[str, Any], of_sender: bool
) -> None:
    assert event(event="bounce", timestamp=1, **told).of_sender is of_sender


def test_an_opening_by_a_machine_is_marked() -> None:
    assert event(event="open", sg_machine_open=True).machine
    assert not event(event="open", sg_machine_open=False).machine
    assert not event(event="open").machine
    assert not event(event="click", sg_machine_open=True).machine


def test_an_address_is_kept_only_where_no_delivery_tells_whose_it_is() -> None:
    """A late bounce comes without our arguments and without a message id."""
    late = event(event="bounce", email="reader1@example.org")
    assert (late.delivery, late.attempt, late.provider_id, late.address) == (None, None, None, "reader1@example.org")
    assert event(event="bounce", email="reader1@example.org", delivery_id="0a").address is None


@pytest.mark.parametrize("bad", ["", "A" * 24, "0" * 33, "../x", "a@b", 7, None, ["0a"], "0a\n"])
def test_ids_that_are_not_of_our_shape_are_nobodys(bad: Any) -> None:
    found = event(event="delivered", delivery_id=bad, attempt_id=bad, email="reader1@example.org")
    assert (found.delivery, found.attempt, found.address) in [
        (None, None, "reader1@example.org"),
        ("0a", "0a", None),  # a blank at the end is no other id
    ]


@pytest.mark.parametrize("bad", [None, "1795417200", True, -1, 0, 10**30, 1e300, [], {}])
def test_a_time_that_is_none_is_the_headers(bad: Any) -> None:
    assert event(event="open", timestamp=bad).at == NOW
    assert event(event="open").at == NOW


def test_an_event_without_an_id_is_known_by_its_content() -> None:
    first, same, other = (event(event="open", timestamp=stamp) for stamp in (5, 5, 6))
    assert re.fullmatch(r"[0-9a-f]{64}", first.id)
    assert first.id == same.id
    assert first.id != other.id
    assert event(b=1, a=2).id == event(a=2, b=1).id


def test_one_bad_item_costs_nobody_else() -> None:
    body = json.dumps([{"event": "open", "sg_event_id": "e1"}, 7, None, "x", [], {"event": "click"}]).encode()
    found = receiver().events(signed(body), body)
    assert [one.kind for one in found] == [EventKind.OPENED, *[EventKind.UNKNOWN] * 4, EventKind.CLICKED]
    assert len({one.id for one in found}) == 6


@pytest.mark.parametrize("name", ["timestamp", "event", "sg_event_id", "email", "reason", "delivery_id", "type", "x"])
def test_a_number_longer_than_any_costs_nobody_else(name: str) -> None:
    """Python reads no number of more than some thousand digits."""
    bodies = [f'[{{"{name}":{"7" * 5_000}{end}}},{{"event":"open"}}]'.encode() for end in ("", "8")]
    first, other = (receiver().events(signed(body), body) for body in bodies)
    assert [one.kind for one in first] == [EventKind.UNKNOWN, EventKind.OPENED]
    assert first[0].at == NOW
    assert first[0].id != other[0].id
    assert max(len(text or "") for text in (first[0].said, first[0].id, first[0].reason, first[0].address)) <= 320


def test_events_keep_their_order_and_repeats_keep_their_id() -> None:
    body = json.dumps([{"event": "open", "sg_event_id": name} for name in ("b", "a", "b")]).encode()
    assert [one.id for one in receiver().events(signed(body), body)] == ["b", "a", "b"]


def test_the_bytes_as_they_came_are_what_was_signed() -> None:
    """SendGrid pads its JSON with blanks and line ends; whoever parses and writes it again breaks the signature."""
    body = b'[{"event" :"open","x":"\xc3\xa4\\u00e4\\ud800 \xf0\x9f\x98\x80"}\r\n,\r\n{"event":"click"}]\r\n'
    assert len(receiver().events(signed(body), body)) == 2
    with pytest.raises(WebhookRejected):
        receiver().events(signed(body), json.dumps(json.loads(body)).encode())


def test_headers_are_found_in_any_case() -> None:
    body = b"[]"
    for change in (str.lower, str.upper):
        assert receiver().events({change(name): value for name, value in signed(body).items()}, body) == []


def test_any_of_the_keys_may_sign_so_that_they_can_be_changed() -> None:
    new = ec.generate_private_key(ec.SECP256R1())
    both = receiver(public(SIGNER), "x" * 90, public(new))
    for key in (SIGNER, new):
        assert both.events(signed(b"[]", key), b"[]") == []
    with pytest.raises(WebhookRejected):
        receiver(public(new)).events(signed(b"[]"), b"[]")


GOOD = signed(b"[]")
SIGNATURE, TIMESTAMP = GOOD


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, b"[]"),
        ({SIGNATURE: GOOD[SIGNATURE]}, b"[]"),
        ({TIMESTAMP: STAMP}, b"[]"),
        ({**GOOD, SIGNATURE: ""}, b"[]"),
        ({**GOOD, SIGNATURE: "A"}, b"[]"),
        ({**GOOD, SIGNATURE: "ä"}, b"[]"),
        ({**GOOD, SIGNATURE: "AAAA"}, b"[]"),
        ({**GOOD, SIGNATURE: "=" * 10_000}, b"[]"),
        ({**GOOD, TIMESTAMP: str(int(STAMP) + 1)}, b"[]"),
        (GOOD, b"[] "),
        (GOOD, b""),
        (signed(b"[]", stamp="soon"), b"[]"),
        (signed(b"[]", stamp="99999999999999999999"), b"[]"),
        (signed(b"[]", stamp="٣"), b"[]"),
        (signed(b"[]", ec.generate_private_key(ec.SECP384R1())), b"[]"),
        (signed(b'["\xff"]'), b'["\xff"]'),
        (signed(b"{}"), b"{}"),
        (signed(b"null"), b"null"),
        (signed(b"[{]"), b"[{]"),
        (signed(b""), b""),
        (signed(b"[" * 100_000), b"[" * 100_000),
        (signed(b"[" * 900 + b"]" * 900 + b"x"), b"[" * 900 + b"]" * 900 + b"x"),
        (signed(b"[" + b" " * 5_000_000 + b"]"), b"[" + b" " * 5_000_000 + b"]"),
    ],
)
def test_what_was_not_signed_or_is_no_list_of_events_is_rejected(headers: dict[str, str], body: bytes) -> None:
    with pytest.raises(WebhookRejected) as caught:
        receiver().events(headers, body)
    assert str(caught.value).startswith("webhook of sendgrid rejected: ")


def test_without_keys_nothing_is_believed() -> None:
    with pytest.raises(WebhookRejected, match=r"no provider\.webhook_keys are configured"):
        SendGridProvider("SG.test").events(GOOD, b"[]")
    for key in ("", "x" * 90, public(ec.generate_private_key(ec.SECP384R1())), public(RSA)):
        with pytest.raises(WebhookRejected):
            receiver(key).events(GOOD, b"[]")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
keys = st.sampled_from(
    ["event", "type", "timestamp", "email", "reason", "response", "sg_event_id", "sg_message_id", "delivery_id", "x"]
)


@given(items=st.lists(st.dictionaries(keys, values, max_size=8) | values, max_size=5))
@settings(max_examples=80, deadline=None)
def test_whatever_sendgrid_signs_is_read_and_can_be_stored(items: list[Any]) -> None:
    body = json.dumps(items).encode()
    found = receiver().events(signed(body), body)
    assert len(found) == len(items)
    for one in found:
        assert 0 < len(one.id) <= 200
        assert one.at.tzinfo is UTC
        assert len(one.said) <= 50
        assert one.reason is None or ("@" not in one.reason and len(one.reason) <= 300)
        assert one.address is None or len(one.address) <= 320
        assert one.delivery is None or one.address is None
        for text in (one.id, one.said, one.provider_id, one.address, one.reason):
            (text or "").encode()
