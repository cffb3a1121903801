"""A matrix of low rank, ``B @ A * scale``: what an adapter adds to a weight, alone or with the weight that it adds to.

``A`` (lora_A, lora_down) has the columns of the weight and ``B`` (lora_B, lora_up) its rows, in its packing
(PEFT 0.21, tuners/lora/layer.py, get_delta_weight). DoRA gives each row of the sum a length of its own:
``m / |W + B @ A * scale|`` times the sum (tuners/lora/variants.py, DoraLinearVariant.merge_safe). LyCORIS
gives a length to each row, ``dora_scale`` [out, 1], or to each column, [1, in] (lycoris/modules/locon.py,
apply_weight_decompose, commit f49d30d).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from qkvinspect.checkpoint import TensorInfo
from qkvinspect.dtypes import DType
from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import dataclass, replace
from qkvinspect.weights.strided import strided_matrix, strided_shape
from qkvinspect.weights.weight import DecodedMatrix, StoredRows, Weight

if TYPE_CHECKING:
    from qkvinspect.weights.reading import Array

_AT_ONCE = 1 << 20  # values of a factor that are held
_ROUNDINGS = 3  # of the product, of the sum, and of DoRA's factor


@dataclass(frozen=True, slots=True)
class LowRank:
    """Two factors, and the weight that their product is added to.

    Attributes:
        up: B, [rows, rank]; more axes of size 1 behind them where it is a convolution's.
        down: A, [rank, columns], or the axes of a convolution for the columns.
        scale: the factor of the product; None where nothing tells it, so that the product is shown unscaled.
        base: the weight that it is added to; None where the adapter is alone.
        turned: whether the weight is stored [in, out], as GPT-2's Conv1D is (``fan_in_fan_out``).
        magnitude: DoRA's lengths of the rows.
        of_inputs: whether they are those of the columns.
        alpha: the tensor that the scale was taken from, where it was one.
        groups: how many equal runs of the rows of B have rows of A of their own (loralib's MergedLinear, which adapts
            Q, K and V of a fused weight apart).
    """

    up: TensorInfo
    down: TensorInfo
    scale: float | None
    base: Weight | None = None
    turned: bool = False
    magnitude: TensorInfo | None = None
    alpha: TensorInfo | None = None
    groups: int = 1
    of_inputs: bool = False

    @property
    def rank(self) -> int:
        return self.down.shape[0] // self.groups

    @property
    def by_columns(self) -> bool:
        return self.base is not None and self.base.encoding is not None and self.base.encoding.by_columns

    @property
    def label(self) -> str:
        times = "its alpha is not known" if self.scale is None else f"B @ A * {self.scale:g}"
        kind = "DoRA" if self.magnitude is not None else "LoRA"
        if self.base is None:
            of = "columns" if self.of_inputs else "rows"
            short = f" (without the lengths that DoRA gives to the {of} of the sum)" if self.magnitude else ""
            return f"{kind} of rank {self.rank}, {times}{short}"
        stored = self.base.encoding.label if self.base.encoding is not None else self.base.dtype.name
        return f"{stored} with {kind} of rank {self.rank} added, {times}"

    @property
    def shape(self) -> tuple[int, int]:
        if self.base is not None:
            return self.base.as_shape("out_in")
        rows, cols = strided_shape(self.up, "out_in")[0], strided_shape(self.down, "out_in")[1]
        return (cols, rows) if self.turned else (rows, cols)

    @property
    def stored(self) -> tuple[TensorInfo, ...]:
        beside = (info for info in (self.magnitude, self.alpha) if info is not None)
        return (*(self.base.stored if self.base is not None else ()), self.up, self.down, *beside)

    @property
    def computed_in(self) -> DType | None:
        """The dtype of the weight that it is added to, into which PEFT merges it."""
        if self.base is None:
            return None
        return self.base.dtype if self.base.encoding is None else self.base.encoding.computed_in

    def cut(self, runs: Sequence[range]) -> Sequence[StoredRows]:
        """The rows of B, and all of A."""
        if self.base is not None or self.turned:
            why = "the sum is in no tensor" if self.base is not None else "it is stored as [in, out]"
            raise LayoutError(
                f"rows cannot be cut out: {why}", tensor=self.up.name, hint="--dequantize float32 writes the numbers"
            )
        beside = [StoredRows("alpha", self.alpha, ())] if self.alpha is not None else []
        return [
            StoredRows("lora_B.weight", self.up, tuple(runs)),
            StoredRows("lora_A.weight", self.down, ()),
            *beside,
        ]

    def decode(self, rows: range, cols: range) -> Array:
        import numpy as np

        with np.errstate(all="ignore"):  # nothing in a file is trusted: factors may be infinite or NaN
            values = self._sum(rows, cols)
            if self.magnitude is None or self.base is None:
                return values
            factors = _dora_factors(self)
            if self.lengths_across:
                return values * factors[None, cols.start : _stop(cols) : cols.step]
            return values * factors[rows.start : _stop(rows) : rows.step, None]

    def slack(self, rows: range, cols: range) -> Array | None:
        """How far a sum may be off that was computed in the dtypes of the weights, as PEFT does.

        The product may be small where its terms are not, so it is their sizes that count.
        """
        import numpy as np

        if self.base is None:
            return None
        step = max(info.dtype.rounding for info in (self.base, self.up))
        with np.errstate(all="ignore"):
            size = np.abs(self.decode(rows, cols)) + self._product(rows, cols, sizes=True)
            found = size * (_ROUNDINGS * step)
            within = self.base.encoding.slack(rows, cols) if self.base.encoding is not None else None
            return found if within is None else found + within

    def python(self) -> tuple[str, ...]:
        factors = f"state_dict[{self.up.name!r}].flatten(1).float() @ state_dict[{self.down.name!r}].flatten(1).float()"
        if self.groups > 1:
            factors = (
                f"torch.cat([b @ a for b, a in zip(state_dict[{self.up.name!r}].float().chunk({self.groups}), "
                f"state_dict[{self.down.name!r}].float().chunk({self.groups}))])"
            )
        product = f"({factors}){'.T' if self.turned else ''}{'' if self.scale is None else f' * {self.scale!r}'}"
        if self.base is None:
            return (f"weight = {product}",)
        before = self.base.encoding.python() if self.base.encoding else (f"weight = state_dict[{self.base.name!r}]",)
        lines = [*before, f"weight = weight.float() + ({product}).reshape(weight.shape)"]
        if self.magnitude is not None:
            axis = 0 if self.lengths_across else 1
            form = "1, -1" if self.lengths_across else "-1, 1"
            lines.append(f"length = state_dict[{self.magnitude.name!r}].float().reshape({form})")
            lines.append(f"weight = weight * length / weight.norm(dim={axis}, keepdim=True)")
        return tuple(lines)

    @property
    def lengths_across(self) -> bool:
        """Whether DoRA's lengths are those of the columns of the weight as it is stored."""
        return self.turned != self.of_inputs

    def _sum(self, rows: range, cols: range) -> Array:
        """The sum before DoRA's scaling: float64 [rows, columns]."""
        found = self._product(rows, cols)
        return found if self.base is None else found + _numbers(self.base, rows, cols)

    def _product(self, rows: range, cols: range, *, sizes: bool = False) -> Array:
        """B @ A * scale: float64; zeros below the last row of B.

        Args:
            sizes: take the magnitudes of all numbers in place of them.
        """
        import numpy as np

        if self.turned:
            return replace(self, turned=False)._product(cols, rows, sizes=sizes).T
        height = strided_shape(self.up, "out_in")[0]
        if _highest(rows) < height:
            return self._covered(rows, cols, sizes)
        held = [at for at, row in enumerate(rows) if row < height]
        whole = np.zeros((len(rows), len(cols)))
        if held:
            whole[held] = self._covered(rows[held[0] : held[-1] + 1], cols, sizes)
        return whole

    def _covered(self, rows: range, cols: range, sizes: bool) -> Array:
        """The product of rows that B has, a few of the rank at a time: float64."""
        import numpy as np

        found = np.zeros((len(rows), len(cols)))
        few = max(_AT_ONCE // max(len(rows), len(cols), 1), 1)
        high = strided_shape(self.up, "out_in")[0] // self.groups
        for group, here in _by_group(rows, high):
            for start in range(0, self.rank, few):
                some = range(start, min(start + few, self.rank))
                mine = range(group * self.rank + some.start, group * self.rank + some.stop)
                up, down = _plain_numbers(self.up, rows[here], some), _plain_numbers(self.down, mine, cols)
                found[here] += np.abs(up) @ np.abs(down) if sizes else up @ down
        if self.scale is None:
            return found
        return found * (abs(self.scale) if sizes else self.scale)


def _by_group(rows: range, high: int) -> Iterator[tuple[int, slice]]:
    """Each run of ``high`` rows that some of them lie in, and which of them do."""
    at = 0
    while at < len(rows):
        group = rows[at] // high
        stop = at + 1
        while stop < len(rows) and rows[stop] // high == group:
            stop += 1
        yield group, slice(at, stop)
        at = stop


def _highest(rows: range) -> int:
    return max(rows[0], rows[-1]) if len(rows) else -1


def _stop(run: range) -> int | None:
    """Where a slice ends that takes what the range counts."""
    return None if run.step < 0 and run.stop < 0 else run.stop


def _plain_numbers(info: TensorInfo, rows: range, cols: range) -> Array:
    """Some rows and columns of a stored tensor: float64."""
    import numpy as np

    from qkvinspect.weights.values import tile_of_values

    return tile_of_values(strided_matrix(info, "out_in"), rows, cols).astype(np.float64)


def _numbers(base: Weight, rows: range, cols: range) -> Array:
    return base.encoding.decode(rows, cols) if base.encoding else _plain_numbers(base.require_info(), rows, cols)


@lru_cache(4)
def _dora_factors(adapted: LowRank) -> Array:
    """DoRA's factor for each row of the sum (for each column where it is transposed): float64 [out]."""
    import numpy as np

    from qkvinspect.weights.values import value_tiles

    assert adapted.magnitude is not None
    rows, cols = adapted.shape
    whole = DecodedMatrix(replace(adapted, magnitude=None), range(rows), range(cols), adapted.lengths_across)
    squares = np.zeros(whole.rows)
    for tile in value_tiles(whole):
        (values,) = tile.read()
        squares[tile.rows] += np.square(values).sum(axis=1)
    lengths = _plain_numbers(adapted.magnitude, *map(range, strided_shape(adapted.magnitude, "out_in"))).ravel()
    return lengths / np.sqrt(squares)
