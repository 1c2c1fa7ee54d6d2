"""What a copy is called in the world: names that tell nothing, and that we alone can read back.

A delivery's name goes into providers' arguments, Message-IDs and return paths, and comes back in events. It is one AES
block that holds the edition's tag and the subscriber's row number, under a key of this database: the same copy has the
same name for ever (a restored backup does not hand the same copy over twice), nothing can be counted by it, and an
event finds its delivery without a table of a million names. A block that was made up decodes to no edition's tag.
"""

import hashlib
import re
import struct
import sys
from array import array
from collections.abc import Iterable, Sequence
from typing import cast

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from newsletter.edition import DeliveryId

_HEX_DIGITS = 32  # of one block of 16 bytes
_NAME = re.compile(rf"[0-9a-f]{{{_HEX_DIGITS}}}")


def tag_of(newsletter: str, slot: str) -> str:
    """Names an edition inside delivery names: 16 hex digits, made of what it is, whatever its row number."""
    return hashlib.sha256(f"{newsletter}:{slot}".encode()).hexdigest()[:16]


class Names:
    """Names deliveries of one database, and reads the names back. Safe from several threads."""

    def __init__(self, instance_id: str) -> None:
        key = hashlib.sha256(f"delivery names of {instance_id}".encode()).digest()[:16]
        self._cipher = Cipher(AES(key), ECB())  # noqa: S305 # one block each, no two of them alike: a permutation

    def of(self, tag: str, subscribers: Sequence[int]) -> list[DeliveryId]:
        """The names of an edition's deliveries to these subscribers (row numbers), in their order."""
        if not subscribers:
            return []
        plain = array("Q", (int(tag, 16), 0)) * len(subscribers)
        plain[1::2] = array("Q", subscribers)
        if sys.byteorder == "little":
            plain.byteswap()
        told = self._cipher.encryptor().update(plain.tobytes())
        return cast("list[DeliveryId]", told.hex("\n", _HEX_DIGITS // 2).split("\n"))

    def read(self, name: str) -> tuple[str, int] | None:
        """The edition's tag and the subscriber's row number. None where it has not the shape of a name.

        Anything of that shape is read; only a tag that some edition has shows that it is one of ours.
        """
        return self.read_all([name]).get(name)

    def read_all(self, names: Iterable[str]) -> dict[str, tuple[str, int]]:
        """The same for many, by name; those without the shape of one are left out. A third of the time for each."""
        ours = [name for name in names if _NAME.fullmatch(name)]
        told = self._cipher.decryptor().update(bytes.fromhex("".join(ours)))
        blocks = struct.iter_unpack(">8sQ", told)
        return {name: (tag.hex(), subscriber) for name, (tag, subscriber) in zip(ours, blocks, strict=True)}
