"""DKIM signatures (RFC 6376), made and verified by dkimpy, which comes with the extra `dkim`. The home of that package.

The listed headers are signed once more than they occur, so that nobody on the way can add a second From, Subject or
List-Unsubscribe beneath the signature (section 8.15).
"""

import base64
import binascii
import re
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key

from newsletter.errors import ConfigurationError
from newsletter.settings import DKIM_VARIABLE

SIGNED = (  # RFC 6376 section 5.4.1; RFC 8058 section 4 for List-Unsubscribe and List-Unsubscribe-Post
    b"from",
    b"to",
    b"subject",
    b"date",
    b"message-id",
    b"mime-version",
    b"content-type",
    b"reply-to",
    b"list-id",
    b"list-unsubscribe",
    b"list-unsubscribe-post",
    b"feedback-id",
)
_SEED_BYTES = 32  # RFC 8032 section 5.1.5: an ed25519 private key
_ED25519 = bytes.fromhex("302e020100300506032b657004220420")  # RFC 8410 section 7: what stands before it in PKCS #8


def signer(domain: str, selector: str, key: str) -> Callable[[bytes], bytes]:
    """A function that gives the DKIM-Signature header of a whole mail, CRLF at its end, relaxed/relaxed.

    `key` is PEM (RSA, or ed25519 in PKCS #8) or the same in one line: base64 of the DER, or of ed25519's 32 bytes.
    Raises ConfigurationError where it is no such key, or dkimpy is not installed.
    """
    try:
        import dkim  # noqa: PLC0415 # only where it is configured
    except ImportError:
        raise ConfigurationError(
            "provider.dkim needs the package dkimpy: pip install 'brief-newsletter[dkim]'"
        ) from None
    private, algorithm = _private(key)

    def sign(mail: bytes) -> bytes:
        signing = dkim.DKIM(mail, signature_algorithm=algorithm)
        there = [name.lower() for name, _ in signing.headers]
        listed = [name for name in SIGNED for _ in range(there.count(name) + 1)]
        signature: bytes = signing.sign(
            selector.encode(), domain.encode(), private, canonicalize=(b"relaxed", b"relaxed"), include_headers=listed
        )
        return signature

    try:
        sign(b"From: a@example.org\r\n\r\nA trial.\r\n")
    except Exception:  # noqa: BLE001 # whatever is wrong with a key; what is said of it may quote it
        raise ConfigurationError(f"{DKIM_VARIABLE}: expected a private key, RSA or ed25519, in PEM or base64") from None
    return sign


class NotVerified(Exception):
    """Nobody can say whether a signature is good: dkimpy is not installed."""


def verifies(mail: bytes, place: int, record: bytes) -> bool:
    """Whether a mail's DKIM-Signature at a place, counted from 0 at the top, is good under a key record.

    `record` is the text of the TXT record, looked up and found sound by the caller. Raises NotVerified, and ValueError
    with dkimpy's reason where the signature cannot be read, or the body is not the one that was signed.
    """
    try:
        import dkim  # noqa: PLC0415 # it is an extra
    except ImportError:
        raise NotVerified from None

    def told(_name: bytes, timeout: int = 0) -> bytes:  # noqa: ARG001 # dkimpy names it
        return record

    try:
        good: bool = dkim.DKIM(mail, minkey=0).verify(idx=place, dnsfunc=told)
    except Exception as error:  # whatever a stranger's signature does to it
        raise ValueError(f"{error}") from error
    return good


def public_record(key: str) -> str | None:
    """The TXT record of a private key, as `signer` takes it: its public half. None where it is no such key."""
    private, algorithm = _private(key)
    data = base64.b64decode(re.sub(rb"-----[A-Z ]+-----", b"", private))
    try:
        if algorithm.startswith(b"ed25519"):
            public = Ed25519PrivateKey.from_private_bytes(data).public_key()
            return f"v=DKIM1; k=ed25519; p={base64.b64encode(public.public_bytes_raw()).decode()}"
        loaded = load_der_private_key(data, None)
    except (ValueError, TypeError):
        return None
    if not isinstance(loaded, RSAPrivateKey):
        return None
    published = loaded.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"v=DKIM1; k=rsa; p={base64.b64encode(published).decode()}"


def _private(key: str) -> tuple[bytes, bytes]:
    """A key as dkimpy takes it, and its algorithm."""
    text = re.sub(r"-----[A-Z0-9 ]+-----|\\n|\s", "", key)
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if data.startswith(_ED25519):
        data = data.removeprefix(_ED25519)
    if len(data) == _SEED_BYTES:
        return base64.b64encode(data), b"ed25519-sha256"
    body = base64.encodebytes(data)
    return b"-----BEGIN RSA PRIVATE KEY-----\n" + body + b"-----END RSA PRIVATE KEY-----\n", b"rsa-sha256"
