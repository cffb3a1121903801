"""torch.save's format before 1.6: five pickles, then the storages one after another (torch/serialization.py,
_legacy_save and _legacy_load).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import accumulate

from qkvinspect.checkpoint import ByteSource, Checkpoint, Region
from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.fast_dataclass import replace
from qkvinspect.formats import pickle, torch_state
from qkvinspect.formats.limits import Limits
from qkvinspect.formats.request import OpenRequest
from qkvinspect.formats.torch_storages import storage_id
from qkvinspect.formats.trailing import follows
from qkvinspect.late_pattern import late_pattern
from qkvinspect.sources import announce

NAME: str = "torch-legacy"
IS_INDEX: bool = False

_MAGIC = late_pattern(rb"\x80[\x02-\x05](?:\x95.{8})?\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", re.DOTALL)
"""The first pickle, whatever its protocol; from the fourth on a frame is around it."""

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_FIRST_WINDOW = 128 << 10
_CUT = (Code.PICKLE_TRUNCATED, Code.PICKLE_LENGTH, Code.PICKLE_FRAME)


def sniff(head: bytes) -> bool:
    return _MAGIC.match(head) is not None


def open(source: ByteSource, request: OpenRequest) -> Checkpoint:
    """Read the pickles and the sizes between the storages; no storage is read.

    Raises:
        CheckpointError: it is not such a file, or is damaged.
    """
    parts = _pickles(source, request.limits)
    magic, protocol, system, _, keys = (part.value for part in parts)
    if magic != _MAGIC_NUMBER or type(protocol) is not int or protocol != _PROTOCOL:
        found = str(protocol) if isinstance(protocol, int) else f"a {type(protocol).__name__.lower()}"
        raise _damaged(source, Code.LEGACY_MAGIC, "another magic number or protocol than torch writes", found)
    check_system(source, system)
    regions = _storages(source, keys, parts[3].references, parts[4].end)

    def find_storage(key: str) -> Region:
        if key not in regions:
            raise _damaged(source, Code.STORAGE_MISSING, f"storage {key!r} is missing", f"{len(regions)} others")
        return regions[key]

    loaded = replace(parts[3], globals=tuple(named for part in parts for named in part.globals))
    return torch_state.checkpoint(source, NAME, loaded, request, "little", find_storage)


def _pickles(source: ByteSource, limits: Limits) -> list[pickle.Loaded]:
    """The five pickles at the start; nothing says how long they are, so more is read until they end."""
    window = _FIRST_WINDOW
    while True:
        size = min(window, source.size, limits.pickle)
        data = source.read(0, size)
        parts: list[pickle.Loaded] = []
        try:
            for _ in range(5):
                parts.append(pickle.load_prefix(data, parts[-1].end if parts else 0, source.name, limits))
            return parts
        except CheckpointError as error:
            if window >= limits.pickle and size < source.size:
                limits.check("pickle", limits.pickle + 1, source.name)
            if size == source.size or error.code not in _CUT:
                raise
            window *= 4


def _storages(
    source: ByteSource, keys: object, references: Iterator[pickle.Persistent], position: int
) -> dict[str, Region]:
    """Where each storage lies: its number of elements as eight bytes, then the elements."""
    known = {storage.key: storage for storage in filter(None, map(storage_id, references))}
    listed = [key for key in keys if isinstance(key, str)] if pickle.is_sequence(keys) else []
    if not pickle.is_sequence(keys) or not len(keys) == len(listed) == len(known) or set(listed) != known.keys():
        raise _damaged(
            source, Code.LEGACY_KEYS, "the list of storages is not that of the tensors", f"{len(known)} in the tensors"
        )
    places = accumulate((8 + known[key].nbytes for key in listed), initial=position)
    announce(Region(source, place, 8) for place in places if 0 <= place < source.size)
    regions: dict[str, Region] = {}
    for key in listed:
        storage = known[key]
        stored = int.from_bytes(source.read(position, 8), "little")
        if stored != storage.numel or position + 8 + storage.nbytes > source.size:
            raise _damaged(
                source,
                Code.STORAGE_SIZE,
                f"storage {key!r} has another size than its pickle says",
                f"{stored} elements",
            )
        regions[key] = Region(source, position + 8, storage.nbytes)
        position += 8 + storage.nbytes
    if position != source.size:
        what = "damaged legacy checkpoint: bytes follow the last storage"
        raise follows(source, Code.LEGACY_TRAILING, what, position)
    return regions


def check_system(source: ByteSource, system: object) -> None:
    """sys_info must be there; its byte order means nothing, as torch writes and reads little-endian everywhere."""
    little = system.get("little_endian") if pickle.is_dict(system) else None
    if not isinstance(little, bool):
        raise _damaged(source, Code.LEGACY_BYTEORDER, "its byte order is not given", "neither true nor false")


def _damaged(source: ByteSource, code: Code, message: str, found: str) -> CheckpointError:
    return CheckpointError(
        f"damaged legacy checkpoint: {message}",
        code=code,
        file=source.name,
        found=found,
        hint="copy or download it again",
    )
