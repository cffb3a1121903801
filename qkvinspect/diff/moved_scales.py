"""Scales that were moved from one weight into the next before it was quantised: undone before the two are compared.

AWQ and SmoothQuant multiply the columns of Q, K and V and divide the norm before them by the same numbers; AWQ does so
too with the output projection and the rows of V. The model computes the same. Gemma's norms multiply by one more than
they store. Source: AutoAWQ 0.2.9, quantize/scale.py; llm-compressor's AWQModifier and SmoothQuantModifier.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice

import numpy as np

from qkvinspect.diff.head_losses import quantised
from qkvinspect.diff.ordered_rows import Lines
from qkvinspect.diff.parts import Parts
from qkvinspect.diff.relation import Relation, RelationCode
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.weights.encodings import Weights
from qkvinspect.weights.reading import Array
from qkvinspect.weights.rescaled import Rescaled
from qkvinspect.weights.values import whole
from qkvinspect.weights.weight import DecodedMatrix

_ROWS = 64
"""Rows of a part that are looked at to see whether its columns are scaled."""

_COLUMNS = 1024
"""Values by which the scale of a row is estimated."""

_NEAR = 0.3
"""Relative error up to which a part counts as the same but for rounding: 2 bits a value give 0.3."""

_BETTER = 2
"""How many times smaller the error must become."""

_AGREE = 0.05
"""How far the scales of V's rows and of the output's columns may be from undoing each other, in the median."""

_SIGMAS = 4
"""Standard errors by which an estimate may be off."""

_PROJECTIONS = ("q", "k", "v")


@dataclass(frozen=True, slots=True)
class Undone:
    """The parts of B as they were before scales were moved, and what is said of that."""

    parts: Parts
    relations: tuple[Relation, ...] = ()


class Vectors:
    """The vectors of a checkpoint, in the order of their names, so that those beside a layer are found at once."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    @cached_property
    def _places(self) -> Mapping[str, int]:
        """Of each vector's name, its place in the file."""
        encoded, tensors = self.weights.encoded, self.weights.tensors
        shapes = ((name, encoded[name] if name in encoded else tensors[name]) for name in self.weights)
        return {name: place for place, (name, weight) in enumerate(shapes) if len(weight.shape) == 1}

    @cached_property
    def _sorted(self) -> Sequence[str]:
        return sorted(self._places)

    def that_begin_with(self, text: str) -> Sequence[str]:
        """Their names, in the order of the file."""
        first = bisect_left(self._sorted, text)
        found: list[str] = []
        for name in islice(self._sorted, first, None):
            if not name.startswith(text):
                break
            found.append(name)
        return sorted(found, key=self._places.__getitem__)


def undone(a: Parts, b: Parts, names: tuple[str, str], sides: tuple[Vectors, Vectors]) -> Undone:
    """B without the scales that it has over A, where something else in it takes them back.

    Args:
        names: of the layer on each side.
        sides: the vectors of each.

    Raises:
        CheckpointError: the bytes cannot be read.
    """
    if any(name not in side or not side[name].is_real for side in (a, b) for name in _PROJECTIONS):
        return Undone(b)
    if any(a[name].shape != b[name].shape for name in _PROJECTIONS):
        return Undone(b)
    with np.errstate(all="ignore"):
        norms = tuple(_norms(names, sides, a["q"].cols))
        found = _columns(a, b, norms)
        if not norms and not quantised(lines for side in (a, b) for lines in side.values()):
            return found
        return _rows(a, found)


def _columns(a: Parts, b: Parts, norms: Sequence[tuple[str, Array, float]]) -> Undone:
    """The columns of Q, K and V, which the norm before the layer takes back."""
    if len({a[name].cols for name in _PROJECTIONS}) > 1:  # latent attention: each takes in something else
        return Undone(b)
    if all(_same_corner(a[name], b[name]) for name in _PROJECTIONS):
        return Undone(b)
    kept = {name: (_corner(a[name]), _corner(b[name])) for name in _PROJECTIONS}
    if all(np.array_equal(one, other) for one, other in kept.values()):  # where all are zero no error can be told
        return Undone(b)
    before = max(_error(one, other, np.ones(1)) for one, other in kept.values())
    if before == 0:
        return Undone(b)
    for norm, scale, loose in norms:
        after = max(_error_of(name, one, other, scale) for name, (one, other) in kept.items())
        if after < _NEAR and after * _BETTER < before:
            parts = {name: _times(lines, loose, across=1 / scale) if name in _PROJECTIONS else lines
                     for name, lines in b.items()}  # fmt: skip
            text = (
                f"the columns of Q, K and V of B are those of A times {_from_to(scale)}, which {norm} takes back; "
                "they were compared without these scales"
            )
            return Undone(parts, (Relation(RelationCode.COLUMNS_SCALED, text, _PROJECTIONS),))
    return Undone(b, tuple(_untaken(kept)))


def _untaken(kept: dict[str, tuple[Array, Array]]) -> Iterator[Relation]:
    """Where each column has a scale of its own, and no norm of both files takes it back."""
    one, other = (np.concatenate(side) for side in zip(kept["q"], kept["k"], strict=True))
    scale = (one * other).sum(axis=0) / (one * one).sum(axis=0)
    if not np.isfinite(scale).all() or not (scale > 0).all() or len(one) < _ROWS:
        return
    before = max(_error_of(name, x, y, _scales_of(x.reshape(1, -1), y.reshape(1, -1))) for name, (x, y) in kept.items())
    after = max(_error_of(name, x, y, scale) for name, (x, y) in kept.items())
    if after < _NEAR and after * _BETTER < before:
        text = (
            f"the columns of Q, K and V of B are those of A times {_from_to(scale)}, which no norm of both files takes"
        )
        yield Relation(RelationCode.COLUMNS_SCALED, f"{text} back", _PROJECTIONS)


def _norms(names: tuple[str, str], sides: tuple[Vectors, Vectors], width: int) -> Iterator[tuple[str, Array, float]]:
    """Vectors beside the layer that differ, with what the columns behind were multiplied by, and how exact that is."""
    ours, theirs = (name.rpartition(".")[0] for name in names)
    of_a, of_b = (side.weights for side in sides)
    for name in sides[0].that_begin_with(ours):
        twin = f"{theirs}{name.removeprefix(ours)}"
        if name.startswith(f"{names[0]}.") or twin not in of_b:
            continue
        pair = of_a[name], of_b[twin]
        if any(weight.shape != (width,) or weight.no_values for weight in pair):
            continue
        one, other = (whole(weight.as_matrix("out_in")).ravel().astype(np.float64) for weight in pair)
        for more in (0, 1):
            scale = (one + more) / (other + more)
            if np.isfinite(scale).all() and scale.all() and not np.allclose(scale, 1, rtol=2**-6):
                yield twin, scale, sum(2 * weight.dtype.rounding for weight in pair)


def _rows(a: Parts, found: Undone) -> Undone:
    """The columns of the output projection, which the rows of V take back."""
    b = found.parts
    if any("out" not in side or not side["out"].is_real for side in (a, b)):
        return found
    if a["out"].shape != b["out"].shape or b["out"].rows != b["v"].rows:
        return found
    (ups, about), (downs, nearly) = (_row_scales(a[name], b[name]) for name in ("out", "v"))
    spread = float(np.abs(np.log(ups)).max()) if np.isfinite(ups).all() and (ups > 0).all() else 0.0
    if spread < _AGREE or not np.isfinite(downs).all() or not (downs > 0).all():
        return found
    if float(np.median(np.abs(ups * downs - 1))) > _AGREE:
        return found
    before, after = (_error(_corner(a["out"]), _corner(b["out"]), scale) for scale in (np.ones(1), _of_corner(ups)))
    if after * _BETTER > before:
        return found
    parts = {**b, "out": _times(b["out"], about, down=1 / ups)}
    parts |= {name: _times(b[name], nearly, down=1 / downs) for name in ("v", "v_bias") if name in b}
    text = (
        f"the columns of the output projection of B are those of A times {_from_to(ups)}, which the rows of V take back"
    )
    told = Relation(RelationCode.COLUMNS_SCALED, f"{text}; they were compared without these scales", ("v", "out"))
    return Undone(parts, (*found.relations, told))


def _corner(lines: Lines) -> Array:
    """The first rows, and some from the middle: float64 [rows, columns]."""
    cols = range(min(lines.cols, _COLUMNS) if lines.flipped else lines.cols)
    return np.concatenate([_values(lines, run, cols) for run in _corner_rows(lines.rows)])


def _same_corner(one: Lines, other: Lines) -> bool:
    """Whether the rows that are looked at are stored in the same bytes, as far as that is seen without making numbers.

    Most layers of most pairs of files are equal, and to make numbers of a few rows takes longer than to read them.
    """
    runs = one.one_run, other.one_run
    if one.dtype != other.dtype or runs[0] is None or runs[1] is None or runs[0].turned or runs[1].turned:
        return False
    width = runs[0].nbytes // max(one.rows, 1)
    for rows in _corner_rows(one.rows):
        read = (run.region.read(run.start + rows.start * width, len(rows) * width) for run in runs if run is not None)
        if next(read) != next(read):
            return False
    return True


def _corner_rows(rows: int) -> list[range]:
    half = min(_ROWS, rows) // 2
    if half == rows // 2:  # all of them but the last of an odd number
        return [range(2 * half)]
    return [range(half), range(rows // 2, rows // 2 + half)]


def _of_corner(scales: Array) -> Array:
    """Of the rows that are looked at: float64 [rows, 1]."""
    return np.concatenate([scales[run.start : run.stop] for run in _corner_rows(len(scales))])[:, None]


def _row_scales(a: Lines, b: Lines) -> tuple[Array, Array]:
    """How many times each row of A is in that of B, and how far that may be off relative to it: float64 [rows]."""
    scales: list[Array] = []
    loose: list[Array] = []
    cols = range(min(a.cols, _COLUMNS))
    for start in range(0, a.rows, _COLUMNS):
        rows = range(start, min(start + _COLUMNS, a.rows))
        one, other = _values(a, rows, cols), _values(b, rows, cols)
        scale = _scales_of(one, other)
        left = ((other - one * scale[:, None]) ** 2).sum(axis=1) / ((one * scale[:, None]) ** 2).sum(axis=1)
        scales.append(scale)
        loose.append(np.nan_to_num(_SIGMAS * np.sqrt(left / len(cols)) + left))
    return np.concatenate(scales), np.concatenate(loose)


def _scales_of(one: Array, other: Array) -> Array:
    """Of each row, 1 where the first is zero."""
    size = (one * one).sum(axis=1)
    return np.where(size > 0, (one * other).sum(axis=1) / size, 1)


def _values(lines: Lines, rows: range, cols: range) -> Array:
    return np.asarray(lines.values(lines.words(rows, cols)), np.float64)


def _error(one: Array, other: Array, scale: Array) -> float:
    """The relative error after B is divided by its scales, or A multiplied: the smaller, as either side has codes."""
    return min(_relative(one, other / scale), _relative(other, one * scale))


def _relative(one: Array, other: Array) -> float:
    size = float((one * one).sum())
    found = float(((other - one) ** 2).sum() / size) ** 0.5 if size else np.inf
    return found if np.isfinite(found) else np.inf


def _error_of(name: str, one: Array, other: Array, scale: Array) -> float:
    """The same; rows of V may be scaled too, which is looked at later."""
    rows = _scales_of(one * scale, other)[:, None] if name == "v" else 1.0
    return _error(one, other / rows, scale)


def _from_to(scale: Array) -> str:
    sizes = np.abs(scale)
    least, most = f"{sizes.min():.3g}", f"{sizes.max():.3g}"
    return least if least == most else f"{least} to {most}"


def _times(lines: Lines, loose: float | Array, down: Array | None = None, across: Array | None = None) -> Lines:
    """Rows, in the order in which they are compared, and columns times these numbers."""
    matrix = lines.matrix
    rows, off = np.ones(matrix.rows), np.zeros(matrix.rows)
    places = np.concatenate([np.arange(run.start, run.stop, run.step) for run in lines.runs])
    rows[places] = 1.0 if down is None else down
    cols = np.ones(lines.cols) if across is None else across
    weight = lines.weight
    off[places] = loose + (0.0 if weight.encoding is not None else 2 * weight.dtype.rounding)
    label = weight.encoding.label if weight.encoding is not None else weight.dtype.name
    encoding = Rescaled(label, matrix, weight.stored, rows, cols, off)
    scaled = DecodedMatrix(encoding, range(matrix.rows), range(lines.cols))
    return replace(lines, weight=replace(weight, info=None, encoding=encoding), matrix=scaled)
