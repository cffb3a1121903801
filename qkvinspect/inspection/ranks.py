"""Which tensor-parallel ranks hold each head, in a checkpoint that was joined from rank files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qkvinspect.checkpoint import Share
from qkvinspect.fast_dataclass import replace
from qkvinspect.inspection.report import Attention, Part


def with_ranks(attention: Attention, shares: Mapping[str, tuple[Share, ...]]) -> Attention:
    """The module with the ranks of every head of Q, K and V."""
    return replace(attention, parts=tuple(_with_ranks(part, shares) for part in attention.parts))


def _with_ranks(part: Part, shares: Mapping[str, tuple[Share, ...]]) -> Part:
    held = shares.get(part.weight.stored[0].name, ()) if part.weight.stored else ()
    axis = 0 if part.orientation == "out_in" else 1
    own = [share for share in held if share.axis == axis]
    return replace(part, head_ranks=tuple(_holders(own, rows) for rows in part.heads)) if own else part


def _holders(shares: Sequence[Share], rows: range) -> tuple[int, ...]:
    """Every rank that holds some of the rows, or a copy of them."""
    held = (share for share in shares if len(rows) and share.start <= rows[-1] and rows.start < share.stop)
    return tuple(sorted({rank for share in held for rank in range(share.rank, share.rank + share.copies)}))
