"""Cut rows out of a packed weight in their stored form, where their words, blocks and scales are theirs alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import ceil, gcd

from qkvinspect.checkpoint import TensorInfo
from qkvinspect.errors import LayoutError


def not_cut(info: TensorInfo, runs: Sequence[range], why: str) -> LayoutError:
    """The error for rows that cannot be cut out in their stored form."""
    rows = ", ".join(f"{run.start}:{run.stop}" for run in runs[:3])
    return LayoutError(
        f"rows {rows} cannot be cut out: {why}", tensor=info.name, hint="--dequantize bfloat16 writes the numbers"
    )


def block_runs(runs: Sequence[range], each: int, size: int | None = None) -> tuple[range, ...] | None:
    """The runs of blocks of ``each`` neighbours that some places lie in; None where that is no cut between blocks.

    What is cut out begins anew with its first block, so all blocks but the last have to be full.

    Args:
        size: of how many places; the last block has to be full too, or the last of all. None: it need not be, as that
            of scales, which hold for fewer values as well.
    """
    found = list(_joined(runs))
    ends = [run.stop for run in found[:-1]]
    if size is not None and found and found[-1].stop != size:
        ends.append(found[-1].stop)
    if any(run.start % each for run in found) or any(stop % each for stop in ends):
        return None
    return tuple(range(run.start // each, ceil(run.stop / each)) for run in found)


def word_runs(runs: Sequence[range], bits: int, size: int, word: int = 32) -> tuple[range, ...] | None:
    """The runs of words that the codes of some of ``size`` places fill; None where a word holds others too."""
    together = word // gcd(word, bits)
    blocks = block_runs(runs, together, size)
    if blocks is None:
        return None
    words = together * bits // word
    return tuple(range(run.start * words, min(run.stop * words, ceil(size * bits / word))) for run in blocks)


def scaled(runs: Sequence[range], times: int) -> tuple[range, ...]:
    """The places that rows of ``times`` values each take."""
    return tuple(range(run.start * times, run.stop * times) for run in _joined(runs))


def _joined(runs: Sequence[range]) -> Iterator[range]:
    """Runs without gaps, neighbours as one."""
    places = [range(row, row + 1) for run in runs for row in run] if any(r.step != 1 for r in runs) else list(runs)
    if not places:
        return
    start = places[0].start
    for one, after in pairwise(places):
        if one.stop != after.start:
            yield range(start, one.stop)
            start = after.start
    yield range(start, places[-1].stop)
