"""torch's format before 1.6: five pickles, then the storages, every part of which can be replaced."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from tests.hostile.writers import pickles

MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
PROTOCOL = pickles.whole(pickles.number(1001))
SYSTEM = pickles.whole(
    pickles.named(
        {
            "protocol_version": pickles.number(1001),
            "little_endian": pickles.TRUE,
            "type_sizes": pickles.named(
                {"short": pickles.number(2), "int": pickles.number(4), "long": pickles.number(4)}
            ),
        }
    )
)


@dataclass(frozen=True)
class Storage:
    """The bytes behind the pickles for one key.

    Attributes:
        numel: the count in front of them.
    """

    key: str
    numel: int
    content: bytes


def legacy(
    root: bytes,
    storages: Sequence[Storage],
    *,
    magic: bytes = MAGIC,
    protocol: bytes = PROTOCOL,
    system: bytes = SYSTEM,
    keys: bytes | None = None,
    after: bytes = b"",
) -> bytes:
    """A file.

    Args:
        root: the pickle of the object.
        keys: the fifth pickle, if not that of the storages' own keys.
    """
    if keys is None:
        keys = pickles.whole(pickles.items(*(pickles.text(storage.key) for storage in storages)))
    data = b"".join(struct.pack("<q", storage.numel) + storage.content for storage in storages)
    return magic + protocol + system + root + keys + data + after
