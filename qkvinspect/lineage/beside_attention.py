"""Whether what lies beside attention is new, too: heads that are the same do not make two files the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod

import numpy as np

from qkvinspect.checkpoint import BLOCK
from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.lineage.coded_rows import of_few_levels, within_steps
from qkvinspect.lineage.relatives import Relative
from qkvinspect.lineage.rounded_values import same_values
from qkvinspect.weights.reading import Array
from qkvinspect.weights.values import columns, rows_of_values, value_tiles
from qkvinspect.weights.weight import DecodedMatrix, Matrix, Weight

_WHOLE = 32 << 20
"""Tensors of so many bytes are compared whole; of larger ones, which make up most of a large model, some rows."""
_LINES = 8
_COLUMNS = 512
"""So many rows, evenly spread; of codes that were decoded again so many of their first columns."""
_PIECES = 8
"""Of so many tensors one may have been stacked."""
_TOLD_BY = 8
"""Columns by which rows of a vocabulary that was cut are found."""


@dataclass(frozen=True, slots=True)
class Beside:
    """The tensors of one checkpoint that no part of a compared layer is made of.

    Attributes:
        new: the first that is nothing of the other's; "" where there is none.
        unlike: whether names are so different that nothing can be said of most.
        equal: whether all are the other's, number by number, as far as was looked.
        in_part: of which only some rows were looked at, each with how many rows it has and how many these were.
    """

    new: str = ""
    unlike: bool = False
    equal: bool = True
    in_part: tuple[tuple[str, int, int], ...] = ()


def beside(source: Relative, target: Relative, layers: Mapping[str, str]) -> Beside:
    """Look for what the target has beside attention and the source has not.

    Args:
        layers: for names of layers of the target those of the source's that they were made of.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    ours, theirs = tensors_beside(source), tensors_beside(target)
    blocks = dict(_blocks(layers))
    found = {name: ours.get(_renamed(name, blocks)) for name in theirs}
    if sum(one is None for one in found.values()) > len(found) / 2:
        return Beside(unlike=True, equal=False)
    equal = True
    in_part: list[tuple[str, int, int]] = []
    for name, same in found.items():
        weight = theirs[name]
        said = _made_of(same, weight) if same is not None else ""
        if not said:
            said = _anywhere(ours, weight) or _stacked_or_split(ours, weight)
        if not said:
            return Beside(new=name, equal=False)
        equal &= said == "equal"
        if rows := _height(weight):
            looked_at = rows if said == "cut" else len(_some(rows, weight, of_codes=said == "of few levels"))
            in_part += [(name, rows, looked_at)] if looked_at < rows else []
    return Beside(equal=equal, in_part=tuple(in_part))


def tensors_beside(relative: Relative) -> dict[str, Weight]:
    """All tensors of numbers, but for heads of layers that are compared; the bias of the output is of no head."""
    parts = [part for layer in relative.layers for part in layer.parts]
    taken = {weight.name for part in parts for weight in (part.weight, part.bias) if weight is not None}
    taken |= {layer.output.weight.name for layer in relative.layers if layer.output is not None}
    report = relative.report
    weights = [report.weights[name] for name in report.weights if name not in taken]
    return {
        one.name: one for one in weights if not one.no_values and one.dtype.kind != "complex" and prod(one.shape) > 1
    }


def _anywhere(names: Mapping[str, Weight], weight: Weight) -> str:
    """What a tensor is of any that has its shape: a name may be another."""
    for one in names.values():
        if one.shape == weight.shape and (said := _made_of(one, weight)) in ("equal", "rounded"):
            return said
    return ""


def _stacked_or_split(names: Mapping[str, Weight], weight: Weight) -> str:
    """What a tensor is of several that were stacked, as gate and up are, or of one that was cut into as high pieces."""
    rows = _height(weight)
    if not rows:
        return ""
    width = columns(weight.as_matrix("out_in"))
    sources = [one for one in names.values() if _height(one) and columns(one.as_matrix("out_in")) == width]
    sources.sort(key=lambda one: not weight.name.startswith(one.name.rsplit(".", 2)[0]))  # the same module first
    for one in sources:
        high = _height(one)
        if rows < high <= _PIECES * rows and high % rows == 0:
            for first in range(0, high, rows):
                if (said := _of_rows(one, weight, _some(rows, weight), first)) in ("equal", "rounded"):
                    return said
    return _stacked([one for one in sources if _height(one) < rows], weight)


def _stacked(sources: Sequence[Weight], weight: Weight) -> str:
    """What a tensor is of several, each of which begins where another ends."""
    rows, done = _some(_height(weight), weight), 0
    found: set[str] = set()
    for _ in range(_PIECES):
        for one in sources:
            end = done + _height(one)
            its = range(-(-done // rows.step) * rows.step, end, rows.step)
            if end <= rows.stop and (said := _of_rows(one, weight, its, -done)) in ("equal", "rounded"):
                found.add(said)
                done = end
                break
        else:
            return ""
        if done == rows.stop:
            return "rounded" if "rounded" in found else "equal"
    return ""


def _height(weight: Weight) -> int:
    """How many rows it has; 0 where its axes cannot be seen as rows and columns."""
    try:
        return weight.as_matrix("out_in").rows
    except LayoutError:
        return 0


def _made_of(source: Weight, target: Weight) -> str:
    """What one is of the other: equal, rounded, coded, of few levels or cut; "" where it is something else."""
    try:
        ours, theirs = source.as_matrix("out_in"), target.as_matrix("out_in")
    except LayoutError:  # axes that cannot be seen as rows and columns
        return "unread"
    sizes = [(one.rows, columns(one)) for one in (ours, theirs)]
    if sizes[0] != sizes[1]:
        cut = sizes[0][1] == sizes[1][1] and sizes[0][0] > sizes[1][0] and len(source.shape) == 2
        return "cut" if cut and _rows_of(ours, theirs) else ""
    if said := _of_rows(source, target, _some(theirs.rows, target)):
        return said
    if isinstance(theirs, DecodedMatrix) or sizes[0][1] < 16:
        return ""
    rows = _some(theirs.rows, target, of_codes=True)
    values, made = (_values(one, rows)[:, :_COLUMNS] for one in (ours, theirs))
    return "of few levels" if of_few_levels(values, made, target.dtype.rounding) else ""


def _of_rows(source: Weight, target: Weight, rows: range, shift: int = 0) -> str:
    """What some rows are of the other's, which lie further down: equal, rounded or coded; "" for something else."""
    ours, theirs = source.as_matrix("out_in"), target.as_matrix("out_in")
    found: set[str] = set()
    for some in _runs(theirs, rows):
        found.add(_of_run(source, target, (ours, theirs), some, shift))
        if "" in found:
            return ""
    return next((one for one in ("coded", "rounded", "equal") if one in found), "")


def _of_run(source: Weight, target: Weight, matrices: tuple[Matrix, Matrix], rows: range, shift: int) -> str:
    values = _values(matrices[0], range(rows.start + shift, rows.stop + shift, rows.step))
    made = _values(matrices[1], rows)
    computed = source.encoding is not None or target.encoding is not None
    if same := same_values(values, made, source.dtype, target.dtype, computed=computed):
        return same
    if isinstance(matrices[1], DecodedMatrix):
        steps = matrices[1].take(rows).slack()
        room = None if steps is None else np.broadcast_to(steps, made.shape)
        return "coded" if within_steps(values, made, room) else ""
    return ""


def _some(rows: int, weight: Weight, *, of_codes: bool = False) -> range:
    """The rows of a tensor that are looked at: all, or some that are evenly spread."""
    whole = weight.nbytes <= _WHOLE and not of_codes
    return range(0, rows, 1 if whole else max(rows // _LINES, 1))


def _runs(matrix: Matrix, rows: range) -> Iterator[range]:
    """The first, which tells most strangers, then as many at once as are to be in memory."""
    step = max(BLOCK // (8 * max(columns(matrix), 1)), 1)
    yield from (one for one in (rows[:1], *(rows[first : first + step] for first in range(1, len(rows), step))) if one)


def _values(matrix: Matrix, rows: range) -> Array:
    return rows_of_values(matrix, [rows]).astype(np.float64)


def _rows_of(source: Matrix, target: Matrix) -> bool:
    """Whether each row is one of the source's: a vocabulary that was cut, wherever."""
    known = {row.tobytes() for row in _begun(source)}
    return all(row.tobytes() in known for row in _begun(target))


def _begun(matrix: Matrix) -> Iterator[Array]:
    for tile in value_tiles(matrix):
        if tile.cols.start == 0:
            yield from np.ascontiguousarray(tile.some(slice(None), slice(0, _TOLD_BY)), dtype=np.float32)


def _blocks(layers: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What stands before the components that both names of a layer end in."""
    for target, source in layers.items():
        theirs, ours = target.split("."), source.split(".")
        while ours and theirs and ours[-1] == theirs[-1]:
            ours, theirs = ours[:-1], theirs[:-1]
        if ours and theirs:
            yield ".".join(theirs), ".".join(ours)


def _renamed(name: str, blocks: Mapping[str, str]) -> str:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        start = ".".join(parts[:length])
        if start in blocks:
            return ".".join((blocks[start], *parts[length:]))
    return name
