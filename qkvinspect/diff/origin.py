"""Find where the rows of a changed part came from: another part, other heads, permuted rows, or columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qkvinspect.diff.fingerprint import Fingerprint, Numbers

Index = NDArray[Any]

ENOUGH = 0.9
"""The share of rows that must be found again before B is said to come from A in this way."""

_MOST = 1 << 26  # most pairs of heads and rows that are compared to find a permutation

Turn = Literal["", "halves", "neighbours"]
"""What a head's rows were turned into: rotary pairs as halves (i, i + d/2) or as neighbours (2i, 2i + 1)."""


@dataclass(frozen=True, slots=True)
class Origin:
    """How the rows of a part of B are found in A.

    Attributes:
        part: the part of A.
        heads: for each head of B, that of A.
        turn: how, and ``width`` rows of each head are turned.
        index: for each row of B, that of A.
        missing: how many rows of B are not there.
    """

    part: str
    heads: tuple[int, ...]
    turn: Turn
    width: int
    index: Index
    missing: int
    transposed: bool = False

    @property
    def moved(self) -> bool:
        """Whether heads stand in another order."""
        return self.heads != tuple(range(len(self.heads)))


def find_origin(
    name: str, b: Fingerprint, a: Mapping[str, Fingerprint], counts: Iterable[int], turning: bool
) -> Origin | None:
    """The origin that explains most of a part's rows; of equals the simplest. None where none explains enough.

    Args:
        a: the parts that they may come from, the part of the same name first.
        counts: numbers of heads to try.
        turning: whether its rows may have been turned for another form of rotary embedding.
    """
    rows = len(b.rows)
    kept = int((a[name].rows == b.rows).sum()) if name in a and len(a[name].rows) == rows else 0
    best: Origin | None = None
    for origin in _origins(b, a, list(counts), turning):
        if origin.missing == 0:
            best = origin
            break
        if best is None or origin.missing < best.missing:
            best = origin
    if best is None or rows - best.missing < max(ENOUGH * rows, kept + 1):
        return None
    return best


def _origins(b: Fingerprint, a: Mapping[str, Fingerprint], counts: list[int], turning: bool) -> Iterator[Origin]:
    rows = len(b.rows)
    alike = {part: one for part, one in a.items() if len(one.rows) == rows and len(one.cols) == len(b.cols)}
    for heads in (count for count in counts if rows % count == 0):
        for part, one in alike.items():
            yield _permuted(part, one.rows, b.rows, np.arange(rows // heads), "", 0)
    for heads in (count for count in counts if turning and rows % count == 0):
        for part, one in alike.items():
            for turn, width, turned in turns(rows // heads):
                yield _permuted(part, one.rows, b.rows, turned, turn, width)
    for part, one in a.items():
        if len(one.cols) == rows and len(one.rows) == len(b.cols):
            missing = int((one.cols != b.rows).sum())
            yield Origin(part, (0,), "", 0, np.arange(rows), missing, transposed=True)


def turns(head_dim: int) -> Iterator[tuple[Turn, int, Index]]:
    """The ways to turn all, half or a quarter of a head's rows: for each row of B, that of A."""
    for width in (head_dim, head_dim // 2, head_dim // 4):
        if width < 4 or width % 2:
            continue
        rest = np.arange(width, head_dim)
        to_halves = np.arange(width).reshape(width // 2, 2).T.ravel()
        yield "halves", width, np.concatenate([to_halves, rest])
        yield "neighbours", width, np.concatenate([np.argsort(to_halves), rest])


def _permuted(part: str, a: Numbers, b: Numbers, within: Index, turn: Turn, width: int) -> Origin:
    """The head of A that each head of B resembles most; its own where several do."""
    ours, theirs = a.reshape(-1, len(within))[:, within], b.reshape(-1, len(within))
    heads = len(ours)
    chosen = np.arange(heads)
    if heads * a.size <= _MOST:
        for head in range(heads):
            matches = (ours == theirs[head]).sum(axis=1) * 2
            matches[head] += 1
            chosen[head] = matches.argmax()
    index = (chosen[:, None] * len(within) + within).ravel()
    missing = int((a[index] != b).sum())
    return Origin(part, tuple(chosen.tolist()), turn, width, index, missing)
