"""From what was followed to what a census keeps: the parts of each attention module, and the rows of their heads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from tests.census.labels import WIDE, Operand, Score, Trace

Row = tuple[int, int]
"""A stored row: the number of its parameter, and the address of its first weight."""


@dataclass
class Part:
    """Q, K or V as one module uses it: the rows of each head, in the order of the heads.

    Attributes:
        mixed: heads hold rows of other parameters too (rotary parts of latent attention), which are left out here.
        also: those parameters.
    """

    heads: list[tuple[Row, ...]]
    mixed: bool = False
    also: tuple[int, ...] = ()

    @property
    def parameters(self) -> list[int]:
        return list(dict.fromkeys(row[0] for head in self.heads for row in head))


@dataclass
class Seen:
    """An attention that the forward was seen to compute.

    Attributes:
        kind: softmax, linear (no softmax), channels (attention over channels), or partial.
    """

    path: str
    kind: str
    parts: dict[str, Part] = field(default_factory=dict[str, Part])


def streams(operand: Operand | None) -> list[Part]:
    """The heads of an operand, for each stream of tokens (text and image have projections of their own).

    The tokens of one head come from one parameter; those of another stream, later in the same sequence, from another.
    """
    if operand is None:
        return []
    labels = operand.labels.numpy()
    entries, tokens, width = labels.shape
    if entries * tokens > 400_000:
        labels = labels[: max(1, 400_000 // tokens)]
    vectors = labels.reshape(-1, width)
    filled = (vectors >= 0).sum(axis=1)
    if not len(filled) or filled.max() == 0:
        return []
    vectors = vectors[filled == filled.max()]
    places = np.flatnonzero(filled == filled.max()) % tokens
    _, firsts = np.unique(vectors, axis=0, return_index=True)
    found: dict[int, list[tuple[Row, ...]]] = {}
    at: dict[int, int] = {}
    mixed: dict[int, bool] = {}
    also: dict[int, set[int]] = {}
    for first in sorted(firsts):
        vector = vectors[first][vectors[first] >= 0].astype(np.int64)
        owners = vector // WIDE - 1
        counts = np.bincount(owners)
        owner = int(counts.argmax())
        kept = vector[owners == owner]
        found.setdefault(owner, []).append(tuple((owner, int(label % WIDE)) for label in kept))
        at.setdefault(owner, int(places[first]))
        mixed[owner] = mixed.get(owner, False) or len(kept) < width
        also.setdefault(owner, set()).update({int(other) for other in owners} - {owner})
    if len(found) > 1 and len(set(at.values())) == 1 and all(len(heads) == 1 for heads in found.values()):
        heads = [head for owner in found for head in found[owner]]
        return [Part(heads, any(mixed.values()))]
    in_order = sorted(found, key=lambda owner: at[owner])
    return [Part(found[owner], mixed[owner], tuple(sorted(also[owner]))) for owner in in_order]


def _near(trace: Trace, part: Part, path: str, module: nn.Module) -> bool:
    """The projection belongs to the module that computes attention, or to the one that holds that."""
    names = [trace.names[number] for number in part.parameters]
    for _ in range(3):
        if all(name.startswith(f"{path}." if path else "") for name in names):
            return True
        if not path:
            return False
        path = path.rpartition(".")[0]
        if isinstance(module.get_submodule(path), (nn.ModuleList, nn.Sequential)):
            return False
    return False


def attention_of(trace: Trace, score: Score, module: nn.Module) -> list[Seen]:
    """What one score says, a Seen for each stream."""
    first, second, third = (streams(operand) for operand in (score.first, score.second, score.values))
    if score.channels or score.soft:
        q, k, v = (first, second, third) if score.second_is_key else (second, first, third)
        kind = "softmax" if score.soft and score.channels else "channels" if score.soft else "plain"
    else:
        k, v, q, kind = first, second, third, "linear"
    near = [[part for part in parts if _near(trace, part, score.path, module)] for parts in (q, k, v)]
    count = max(map(len, near))
    full = all(len(parts) == count for parts in near)
    seen = []
    for number in range(count):
        parts = {name: parts[number] for name, parts in zip("qkv", near, strict=True) if number < len(parts)}
        whole = "partial" if len(parts) < 2 or (count > 1 and not full) else kind
        seen.append(Seen(score.path, whole, parts))
    return seen


def read(trace: Trace, module: nn.Module) -> list[Seen]:
    """Every attention that was seen, once."""
    found: dict[Any, Seen] = {}
    for score in trace.scores:
        for seen in attention_of(trace, score, module):
            key = tuple((name, tuple(part.heads)) for name, part in seen.parts.items())
            if key and key not in found:
                found[key] = seen
    return [seen for seen in found.values() if not _lesser(seen, found.values())]


def _lesser(seen: Seen, others: Iterable[Seen]) -> bool:
    """All its rows are in another that holds more: Q met again (relative positions), or a shorter sequence."""
    mine = _rows(seen)
    return any(other is not seen and mine < _rows(other) for other in others) or any(
        other is not seen and mine == _rows(other) and len(seen.parts) < len(other.parts) for other in others
    )


def _rows(seen: Seen) -> set[Row]:
    return {row for part in seen.parts.values() for head in part.heads for row in head}


def runs(numbers: Iterable[int]) -> list[list[int]]:
    """Row numbers as [start, stop], with a step as a third number where it is not 1: as reports write them."""
    found: list[list[int]] = []
    for number in numbers:
        last = found[-1] if found else None
        if last is not None and len(last) == 1:
            step = number - last[0]
            found[-1] = [last[0], number, step] if step > 0 else last
            if step <= 0:
                found.append([number])
        elif last is not None and number == last[1] + last[2]:
            last[1] = number
        else:
            found.append([number])
    closed = []
    for run in found:
        start, last, step = run if len(run) == 3 else (run[0], run[0], 1)
        closed.append([start, last + 1] if step == 1 else [start, last + 1, step])
    return closed
