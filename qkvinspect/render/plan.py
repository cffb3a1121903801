"""What would be written, a tensor a line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qkvinspect.errors import clean
from qkvinspect.export import OutputTensor
from qkvinspect.render.text import count, rows


def listing(pieces: Sequence[OutputTensor]) -> str:
    """New tensors with where their rows come from; those that stay as they are, counted."""
    lines = [f"{p.name} {list(p.shape)} {p.dtype.name}  from {'; '.join(_origin(p))}" for p in pieces if _new(p)]
    same = sum(not _new(piece) for piece in pieces)
    if same:
        lines.append(f"and {count(same, 'tensor')} as in the checkpoint")
    return "".join(clean(line) + "\n" for line in lines)


def _new(piece: OutputTensor) -> bool:
    return piece.whole is None or piece.whole.name != piece.name


def _origin(piece: OutputTensor) -> Iterator[str]:
    if piece.whole is not None:
        yield piece.whole.name
    if piece.made is not None:
        yield "the sizes of its rows"
    found: dict[str, list[range]] = {}
    for run in piece.runs:
        found.setdefault(run.weight.name if run.weight else "zeros", []).append(run.rows)
    for name, runs in found.items():
        yield name if name == "zeros" else f"{name} {rows(runs)}"
