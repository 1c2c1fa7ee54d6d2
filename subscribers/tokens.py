"""Links: random ids that stand in the table, and signed ones that expire.

The link to leave by is a random id: no lost or rotated secret ever breaks it, and it tells nothing. A link that may do
more (confirm) is signed and expires; it names a row and a purpose, never a person. Randomness, secret and clock are
arguments.
"""

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from subscribers.errors import SpentError, TokenError

RANDOM_BYTES = 16  # 128 bits: beyond guessing at any rate a server answers
_MAC_BYTES = 16  # RFC 2104 section 5: half of the hash at the least
Randomness = Callable[[int], bytes]


def new_link(randomness: Randomness = secrets.token_bytes) -> str:
    """A random id of 22 characters for a column. They are a-z, A-Z, 0-9, - and _."""
    return _text(randomness(RANDOM_BYTES))


def sign(purpose: str, row: int, expires: datetime, secret: bytes, *, bound: str = "") -> str:
    """A token that lets its bearer do `purpose` to a row until `expires` (aware, whole seconds).

    With `bound`, which does not stand in it, it has a second seal, and is good only as long as that stays what it is.
    """
    told = f"{purpose}.{row}.{int(expires.timestamp())}"
    seals = [_seal(told, secret), *([_seal(f"{told}.{bound}", secret)] if bound else [])]
    return ".".join([str(row), str(int(expires.timestamp())), *seals])


def verify(token: str, purpose: str, now: datetime, secret: bytes) -> int:
    """The row of a token of `sign`. Raises TokenError where it is damaged, expired, or for something else.

    Nothing has to be looked up for it, so that a token which nobody was given tells nothing about any row. Whoever
    signed with `bound` asks `bound_among` then.
    """
    found = _parts(token)
    if not hmac.compare_digest(_seal(f"{purpose}.{found[1]}.{found[2]}", secret), found[3]):
        raise TokenError("this link is damaged, or not ours")
    if now.astimezone(UTC).timestamp() >= int(found[2]):
        raise SpentError("this link has expired; ask for a new one")
    return int(found[1])


def bound_among(token: str, purpose: str, secret: bytes, bounds: Sequence[str]) -> str | None:
    """Which of these a token was bound to when it was signed, None for none of them. Raises TokenError."""
    found = _parts(token)
    for bound in bounds:
        seal = _seal(f"{purpose}.{found[1]}.{found[2]}.{bound}", secret)
        if hmac.compare_digest(seal, found[4] or ""):
            return bound
    return None


def verify_bound(token: str, purpose: str, secret: bytes, bound: str) -> None:
    """Raise TokenError where what a token was bound to has changed since."""
    if bound_among(token, purpose, secret, [bound]) is None:
        raise SpentError("this link is not good any more; ask for a new one")


def expiry_of(token: str) -> datetime:
    """When a token ends, as it says itself. Raises TokenError where it is none."""
    return datetime.fromtimestamp(min(int(_parts(token)[2]), 253_402_300_799), UTC)  # the year 9999


def _parts(token: str) -> re.Match[str]:
    found = re.fullmatch(
        r"([1-9][0-9]{0,17})\.([0-9]{1,12})\.([A-Za-z0-9_-]{22})(?:\.([A-Za-z0-9_-]{22}))?", token, re.ASCII
    )
    if not found:
        raise TokenError("this link is damaged")
    return found


def _seal(told: str, secret: bytes) -> str:
    return _text(_mac(told, secret))


def _mac(told: str, secret: bytes) -> bytes:
    return hmac.digest(secret, told.encode(), hashlib.sha256)[:_MAC_BYTES]


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
