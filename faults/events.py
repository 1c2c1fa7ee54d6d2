"""What SendGrid tells of the copies that it has taken: posts of signed events, as its webhook sends them."""

import base64
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_KEY = ec.generate_private_key(ec.SECP256R1())
_FORM = serialization.PublicFormat.SubjectPublicKeyInfo
PUBLIC = base64.b64encode(_KEY.public_key().public_bytes(serialization.Encoding.DER, _FORM)).decode()
"""The key that posts are verified with, as SendGrid shows it. Each process of the harness has one of its own."""
_IN_A_POST = 1_000


@dataclass(frozen=True)
class Post:
    """A request of the webhook."""

    body: bytes
    headers: tuple[str, str]


def posts(copies: Sequence[tuple[str, str, str]]) -> Iterator[Post]:
    """Each copy (address, attempt, delivery) was processed."""
    stamp = int(time.time())
    for start in range(0, len(copies), _IN_A_POST):
        told = [
            {
                "email": address,
                "event": "processed",
                "timestamp": stamp,
                "sg_event_id": f"processed-{attempt}-{delivery}",
                "attempt_id": attempt,
                "delivery_id": delivery,
            }
            for address, attempt, delivery in copies[start : start + _IN_A_POST]
        ]
        body = json.dumps(told).encode()
        signature = base64.b64encode(_KEY.sign(str(stamp).encode() + body, ec.ECDSA(hashes.SHA256()))).decode()
        named = "X-Twilio-Email-Event-Webhook"
        yield Post(body, (f"{named}-Signature: {signature}", f"{named}-Timestamp: {stamp}"))
