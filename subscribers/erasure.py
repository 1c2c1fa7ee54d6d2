"""What stays of an erased person: a keyed hash of their address, so that no later import mails them again.

The key is its own and is never rotated: with another key nobody who was erased would be known. So that a wrong key is
noticed, each hash carries the key's fingerprint. HMAC-SHA-256 (RFC 2104); without the key, addresses cannot be tried.
"""

import hashlib
import hmac
from collections.abc import Iterable

from subscribers.errors import ErasureKeyError

_PREFIX = "erased:"
_FINGERPRINT = 8  # hexadecimal digits: enough to tell a handful of keys apart, too few to help anybody guess


def mark(key: str, secret: bytes) -> str:
    """What stands in the suppression list for the erased address of that key (`subscribers.address.key`)."""
    return f"{prefix(secret)}{hmac.digest(secret, key.encode(), hashlib.sha256).hex()}"


def prefix(secret: bytes) -> str:
    """How the marks of a key begin."""
    return f"{_PREFIX}{hmac.digest(secret, b'fingerprint', hashlib.sha256).hex()[:_FINGERPRINT]}:"


def is_mark(key: str) -> bool:
    """Whether a key of the suppression list is an erased person's."""
    return key.startswith(_PREFIX)


def judge(marks: Iterable[str], secret: bytes | None) -> None:
    """Raise ErasureKeyError where people were erased and this is not the key that they were erased with."""
    start = prefix(secret) if secret is not None else None
    for one in marks:
        if start is None or not one.startswith(start):
            raise ErasureKeyError(missing=secret is None)
