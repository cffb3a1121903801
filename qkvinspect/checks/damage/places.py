"""Where some bytes of a tensor are, in words: its name, the heads they belong to, and the sectors of the file."""

from __future__ import annotations

from qkvinspect.checks.damage.stored_bytes import StoredTensor
from qkvinspect.checks.subject import heads_named


def placed(tensor: StoredTensor, start: int, stop: int) -> str:
    """``bytes 4096:8192 of in_proj_weight (K, heads 2 and 3)``."""
    name = tensor.info.name.removeprefix(f"{tensor.layer}.")
    stop = min(stop, tensor.nbytes)
    heads = tensor.heads_at(start, stop)
    known = {part.name for part in tensor.parts if len(part.heads) > 1}
    said = [f"{part.upper()}, {heads_named(some)}" if part in known else part.upper() for part, some in heads.items()]
    held = f" ({'; '.join(said)})" if said else ""
    return f"bytes {start}:{stop} of {name}{held}"


def on_sectors(tensor: StoredTensor, start: int, stop: int) -> str:
    """A remark that a run covers whole pages of the file, where it does."""
    place = tensor.info.region.place(tensor.info.offset * tensor.info.dtype.bits // 8 + start)
    if place is None or place[1] % 512 or (place[1] + stop - start) % 512:
        return ""
    return f": whole sectors of the file from byte {place[1]} on, as a disk or a download loses them"
