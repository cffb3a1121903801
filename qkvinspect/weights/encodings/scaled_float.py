"""Floats of eight bits or fewer with scales beside them: the number is the stored float times its scale.

``weight_scale`` (transformers, vLLM, compressed-tensors, ModelOpt) and ``weight_scale_inv`` (DeepSeek,
transformers' ``FP8Linear``) are both multiplied by, whatever the name of the second suggests: DeepSeek-V3,
inference/kernel.py, weight_dequant. ``scale_weight`` is what ComfyUI writes into single-file diffusion models, and
``weights_scaling_factor`` what TensorRT-LLM has (1.0, quantization/layers.py, FP8Linear). torchao's Float8Tensor and
quanto's qfloat8 are the same under names of their own (torchao 0.18, optimum-quanto 0.2.7).
One scale holds for the whole matrix, for a row, for a column, or for a block of rows and columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING

from qkvinspect.checkpoint import Checkpoint, TensorInfo
from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import dataclass, replace
from qkvinspect.parsed import is_items, is_mapping, is_size
from qkvinspect.weights.companions import POWERS_OF_TWO, is_mxfp8, said_text
from qkvinspect.weights.strided import strided_matrix, strided_shape
from qkvinspect.weights.weight import StoredRows, Weight, plain

if TYPE_CHECKING:
    from qkvinspect.weights.reading import Array

SCALES = ("weight_scale_inv", "weight_scale", "scale_weight", "weights_scaling_factor")
"""Names of the scales beside ``weight``."""

_CODES = {**dict.fromkeys(SCALES, "weight"), "_weight_scale": "_weight_qdata", "_scale": "_data"}
"""What lies beside scales of each name."""

_SCALE_DTYPES = ("float32", "bfloat16", "float16", "float64", "float8_e8m0fnu")

_WITH_SCALES = ("fp8", "fbgemm_fp8")
"""Values of ``quant_method`` by which every float8 weight has a scale."""

_USUAL_BLOCK = 128  # DeepSeek and transformers: one scale for 128 x 128 values
_LEAST_BLOCK = 16
_LEAST_POWERS = 32
_STRIPES = (2, 4, 8)  # ranks of tensor parallelism


@dataclass(frozen=True, slots=True)
class ScaledFloat:
    """A matrix of small floats and the matrix of their scales.

    Attributes:
        high, wide: rows and columns that share a scale.
        stripe: rows after which the blocks of rows begin anew: those of one rank, in a tensor that holds the
            shares of several (MiMo-V2); 0: nowhere.
    """

    codes: TensorInfo
    scales: TensorInfo
    high: int
    wide: int
    stripe: int = 0

    by_columns = False
    computed_in = None

    @property
    def label(self) -> str:
        rows, cols = self.shape
        if self.high >= rows and self.wide >= cols:
            of = "one scale"
        elif self.wide >= cols:
            of = "a scale for each row" if self.high == 1 else f"a scale for each {self.high} rows"
        elif self.high >= rows and self.wide == 1:
            of = "a scale for each column"
        else:
            of = f"a scale for each {self.high} x {self.wide} values"
        if self.stripe:
            of += f", anew after each {self.stripe} rows"
        return f"{self.codes.dtype.name} with {of}"

    @property
    def shape(self) -> tuple[int, int]:
        return strided_shape(self.codes, "out_in")

    @property
    def stored(self) -> tuple[TensorInfo, ...]:
        return self.codes, self.scales

    def decode(self, rows: range, cols: range) -> Array:
        import numpy as np

        from qkvinspect.weights.packed_codes import by_groups

        with np.errstate(over="ignore", invalid="ignore"):
            if cols.step != 1 or not len(rows) or not len(cols):
                return self._codes(rows, cols) * self._scales(rows, cols)
            values = self._codes(rows, cols).astype(np.float64)  # the product is exact where float32 would round it
            by_groups(np.multiply, values, cols.start, self.wide, self._table(rows, cols))
            return values

    def slack(self, rows: range, cols: range) -> Array:
        """Half the distance to the farther of the next codes."""
        import numpy as np

        from qkvinspect.weights.reading import half_steps

        with np.errstate(invalid="ignore"):  # scales that are not finite
            return half_steps(self._codes(rows, cols), self.codes.dtype) * np.abs(self._scales(rows, cols))

    def python(self) -> tuple[str, ...]:
        rows, cols = self.shape
        lines = [f"scale = state_dict[{self.scales.name!r}].float()"]
        if self.scales.numel == 1:
            return (*lines, f"weight = state_dict[{self.codes.name!r}].float() * scale.reshape(())")
        across, down = ceil(cols / self.wide), ceil(rows / self.high)
        if self.stripe:
            each = ceil(self.stripe / self.high)
            lines.append(f"scale = scale.reshape({rows // self.stripe}, {each}, {ceil(cols / self.wide)})")
            lines.append(f"scale = scale.repeat_interleave({self.high}, 1)[:, :{self.stripe}].flatten(0, 1)")
        else:
            lines.append(f"scale = scale.reshape({ceil(rows / self.high)}, {ceil(cols / self.wide)})")
        if not self.stripe and down > 1 and self.high > 1:
            lines.append(f"scale = scale.repeat_interleave({self.high}, 0)[:{rows}]")
        if across > 1 and self.wide > 1:
            lines.append(f"scale = scale.repeat_interleave({self.wide}, 1)[:, :{cols}]")
        return (*lines, f"weight = state_dict[{self.codes.name!r}].float() * scale")

    def cut(self, runs: Sequence[range]) -> Sequence[StoredRows]:
        from qkvinspect.weights.cutting import not_cut

        rows, _ = self.shape
        codes, scales = (info.name.rpartition(".")[2] for info in self.stored)
        if codes == "_data":  # quanto's are parts of a parameter
            codes, scales = f"weight.{codes}", f"weight.{scales}"
        if self.high >= rows:
            return StoredRows(codes, self.codes, tuple(runs)), StoredRows(scales, self.scales, ())
        stripe = self.stripe or rows
        for number, run in enumerate(runs, 1):
            first, crossed = run.start % stripe, stripe % self.high and run.start // stripe != (run.stop - 1) // stripe
            short = len(run) % self.high and number < len(runs)
            if self.high > 1 and (run.step != 1 or first % self.high or crossed or short):
                why = f"they share scales with others, of which there is one for each {self.high} rows"
                raise not_cut(self.scales, (run,), why)
        if self.high == 1:
            return StoredRows(codes, self.codes, tuple(runs)), StoredRows(scales, self.scales, tuple(runs))
        blocks = tuple(range(self._block(run.start), self._block(run.stop - 1) + 1) for run in runs)
        return StoredRows(codes, self.codes, tuple(runs)), StoredRows(scales, self.scales, blocks)

    def _block(self, row: int) -> int:
        """Which row of scales belongs to a row of codes."""
        if not self.stripe:
            return row // self.high
        return row // self.stripe * ceil(self.stripe / self.high) + row % self.stripe // self.high

    def _codes(self, rows: range, cols: range) -> Array:
        from qkvinspect.weights.values import rows_of_values

        matrix = strided_matrix(self.codes, "out_in").transposed.take(cols).transposed
        return rows_of_values(matrix, [rows])

    def _scales(self, rows: range, cols: range) -> Array:
        """Of each value: float64 [rows, columns]."""
        import numpy as np

        across = np.arange(cols.start, cols.stop, cols.step) // self.wide
        if not len(rows) or not len(across):
            return np.ones((len(rows), len(across)))
        return self._table(rows, cols)[:, across - across.min()]

    def _table(self, rows: range, cols: range) -> Array:
        """Of each row and each block of columns that is touched: float64 [rows, blocks]."""
        import numpy as np

        from qkvinspect.weights.values import rows_of_values

        down = np.arange(rows.start, rows.stop, rows.step)
        if self.stripe:
            down = down // self.stripe * ceil(self.stripe / self.high) + down % self.stripe // self.high
        else:
            down = down // self.high
        first, last = (place // self.wide for place in sorted((cols[0], cols[-1])))
        # [n] is a column of scales, one for each block of rows
        used = strided_matrix(self.scales, "out_in").transposed.take(range(first, last + 1)).transposed
        table = rows_of_values(used, [range(int(down.min()), int(down.max()) + 1)]).astype(np.float64)
        return table[down - down.min()]


def find(marker: str, checkpoint: Checkpoint) -> Weight | None:
    """The weight that a tensor of scales belongs to; None where there is none that needs it."""
    tensors = checkpoint.tensors
    prefix, dot, leaf = marker.rpartition(".")
    codes = tensors.get(f"{prefix}{dot}{_CODES[leaf]}")
    if codes is None or not _small_float(codes) or is_mxfp8(codes, tensors[marker]):
        return None
    weight = replace(plain(codes), name=prefix if leaf == "_scale" else f"{prefix}{dot}weight")
    try:
        return replace(weight, encoding=_scaled(codes, tensors[marker], _block(checkpoint)))
    except LayoutError as error:
        return replace(weight, why=f"its scale {marker} does not fit: {error.message}")


def without_scale(checkpoint: Checkpoint, scaled: Mapping[str, Weight]) -> dict[str, Weight]:
    """Small floats that have no scale where others of the file have one, or should by the config."""
    tensors = checkpoint.tensors
    leaves = {info.name.rpartition(".")[2] for weight in scaled.values() for info in weight.stored[1:]}
    leaf = next((leaf for leaf in SCALES if leaf in leaves), None) or _promised(checkpoint)
    if leaf is None:
        return {}
    return {
        name: replace(plain(info), why=f"its scale is missing: {name.removesuffix('weight')}{leaf}")
        for name, info in tensors.items()
        if name not in scaled and name.endswith(".weight") and _small_float(info)
    }


def _promised(checkpoint: Checkpoint) -> str | None:
    """The scale that each float8 weight has by the config; None where it does not say that they have any."""
    method = said_text(checkpoint, "quant_method")
    if method is None or method.lower() not in _WITH_SCALES:
        return None
    return "weight_scale_inv" if _block(checkpoint) else "weight_scale"


def _small_float(info: TensorInfo) -> bool:
    return info.dtype.bits == 8 and info.dtype.kind == "float" and info.dtype.values == 1 and len(info.shape) > 1


def _block(checkpoint: Checkpoint) -> tuple[int, ...]:
    """What a config says of the rows and columns that share a scale; () where none does.

    ``weight_block_size`` of transformers and DeepSeek, and the same or ``block_structure`` in the one group of
    compressed-tensors.
    """
    for config in checkpoint.configs:
        said = config.values.get("quantization_config")
        if not is_mapping(said):
            continue
        groups = said.get("config_groups")
        held = [group.get("weights") for group in groups.values() if is_mapping(group)] if is_mapping(groups) else []
        places = [said, *(one for one in held if is_mapping(one))]
        blocks = [place.get(key) for place in places for key in ("weight_block_size", "block_structure")]
        known = [block for block in blocks if is_items(block) and len(block) == 2]
        if len(known) == 1:
            return tuple(size for size in known[0] if is_size(size))
    return ()


def _scaled(codes: TensorInfo, scales: TensorInfo, said: tuple[int, ...]) -> ScaledFloat:
    """Raises:
    LayoutError: the scales cannot be shared out over the values.
    """
    rows, cols = strided_shape(codes, "out_in")
    if scales.dtype.name not in _SCALE_DTYPES:
        raise LayoutError(f"it is {scales.dtype.name}", expected=", ".join(_SCALE_DTYPES))
    if len(scales.shape) == 1 and scales.shape[0] not in (1, rows):
        raise LayoutError(f"its shape is {list(scales.shape)} where [], [1], [{rows}] or two axes were expected")
    down, across = strided_shape(scales, "out_in") if scales.shape else (1, 1)
    striped = _striped(codes, rows, cols, (down, across), said)
    if striped is not None:
        return replace(ScaledFloat(codes, scales, *striped[:2]), stripe=striped[2])
    several = scales.numel > 1 or scales.name.endswith("_scale_inv")  # FP8Linear has one for all without blocks only
    in_blocks = len(said) == 2 and several and (down, across) != (rows, 1)
    if in_blocks and (down, across) != (ceil(rows / said[0]), ceil(cols / said[1])):
        raise LayoutError(f"its shape is {list(scales.shape)}, and the config has one for each {said[0]} x {said[1]}")
    high = _shared(rows, down, said[0] if len(said) == 2 else 0)
    wide = _shared(cols, across, said[1] if len(said) == 2 else 0)
    if high is None or wide is None:
        expected = f"[], [{rows}], [{rows}, 1] or one for each {_USUAL_BLOCK} x {_USUAL_BLOCK} values"
        raise LayoutError(f"its shape is {list(scales.shape)} where {expected} was expected")
    if scales.dtype.name in POWERS_OF_TWO and wide < _LEAST_POWERS:
        raise LayoutError(f"its shape is {list(scales.shape)}: no format has a power of two for each {wide} of a row")
    return ScaledFloat(codes, scales, high, wide)


def _striped(
    codes: TensorInfo, rows: int, cols: int, found: tuple[int, int], said: tuple[int, ...]
) -> tuple[int, int, int] | None:
    """Rows and columns of a block, and rows of a stripe, where only stripes explain how many scales there are.

    The fused projection of MiMo-V2 is stored as ranks of tensor parallelism hold it, and quantised rank by rank.
    """
    if "qkv" not in codes.name:
        return None
    high, wide = said if len(said) == 2 else (_USUAL_BLOCK, _USUAL_BLOCK)
    if found[1] != ceil(cols / wide) or found[0] in (1, rows, ceil(rows / high)):
        return None
    # Of less than a block nobody has scales, but where all ranks together have no more than one.
    ranks = (n for n in _STRIPES if rows % n == 0 and (rows // n > high or rows <= high))
    stripes = [n for n in ranks if found[0] == n * ceil(rows // n / high)]
    return (high, wide, rows // stripes[0]) if len(stripes) == 1 else None


def _shared(size: int, count: int, said: int) -> int | None:
    """How many values along one axis share a scale."""
    if not count:
        return None
    if count == 1:
        return max(size, 1)
    if count == size:
        return 1
    for block in (said, _USUAL_BLOCK):
        if block and count == ceil(size / block):
            return block
    block, left = divmod(size, max(count, 1))
    return block if not left and block >= _LEAST_BLOCK and block & (block - 1) == 0 else None
