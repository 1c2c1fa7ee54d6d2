"""What a server says, made fit for a report: no addresses, no controls, no secrets, and not too long."""

import re

LONGEST_ADDRESS = 254  # RFC 5321 section 4.5.3.1.3, less the angle brackets
_LONGEST_READ, _LONGEST_TEXT = 2_000, 300  # characters read, and kept

_MENTION = re.compile(r"[^\s<>()\[\],;:\"']*(?:@|%40)[^\s<>()\[\],;:\"']*")
_UP_TO_THE_LAST_WORD = re.compile(r"(?s).*[\s<>()\[\],;:\"']")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def scrub(text: str, *secrets: str) -> str:
    """A server's text without addresses, controls and the secrets, cut to a length. Surrogates are the caller's."""
    for secret in filter(None, secrets):
        text = text.replace(secret, "[key]")
    if len(text) <= _LONGEST_TEXT and text.isprintable() and "@" not in text and "%40" not in text:
        return text.strip()  # as most of them are
    text = _CONTROL.sub(" ", text)
    # The search for addresses takes time by the square of a text without blanks.
    shown = _MENTION.sub("[address]", text[:_LONGEST_READ])
    if len(text) > _LONGEST_READ:  # what it broke off in may be an address of which the @ was still to come
        word = _UP_TO_THE_LAST_WORD.match(shown)
        shown = shown[: max(word.end() if word else 0, len(shown) - LONGEST_ADDRESS)]
    return shown.strip()[:_LONGEST_TEXT]
