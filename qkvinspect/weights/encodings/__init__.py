"""The registry of encodings: ways to store a weight other than as plain numbers.

A new one is one module here, what imports it, and its line in ENCODINGS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from qkvinspect.checkpoint import Checkpoint, TensorInfo
from qkvinspect.computed_rows import ComputedSum
from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import dataclass, field, replace
from qkvinspect.tensor_table import TensorTable, each_kind, shape_in, unlike_names
from qkvinspect.weights.adapters import may_be_unmerged, may_hold_factors, not_summed
from qkvinspect.weights.named_formats import BESIDE, FACTORS
from qkvinspect.weights.table_weight import from_table
from qkvinspect.weights.weight import Weight, one_by_one, plain

if TYPE_CHECKING:
    from qkvinspect.weights.adapters.unmerged import NotAdded


class EncodingModule(Protocol):
    """What every module in ENCODINGS offers."""

    def find(self, marker: str, checkpoint: Checkpoint) -> Weight | None:
        """The weight that the tensor of this name belongs to, with its encoding or with why it has no values."""
        ...


def _scaled_float() -> EncodingModule:
    from qkvinspect.weights.encodings import scaled_float

    return scaled_float


def _scaled_int() -> EncodingModule:
    from qkvinspect.weights.encodings import scaled_int

    return scaled_int


def _micro_float() -> EncodingModule:
    from qkvinspect.weights.encodings import micro_float

    return micro_float


def _bitsandbytes_4bit() -> EncodingModule:
    from qkvinspect.weights.encodings import bitsandbytes_4bit

    return bitsandbytes_4bit


def _gptq() -> EncodingModule:
    from qkvinspect.weights.encodings import gptq

    return gptq


def _awq() -> EncodingModule:
    from qkvinspect.weights.encodings import awq

    return awq


def _packed_integers() -> EncodingModule:
    from qkvinspect.weights.encodings import packed_integers

    return packed_integers


def _mlx() -> EncodingModule:
    from qkvinspect.weights.encodings import mlx

    return mlx


def _mlx_floats() -> EncodingModule:
    from qkvinspect.weights.encodings import mlx_floats

    return mlx_floats


def _matmul_nbits() -> EncodingModule:
    from qkvinspect.weights.encodings import matmul_nbits

    return matmul_nbits


def _weight_norm() -> EncodingModule:
    from qkvinspect.weights.encodings import weight_norm

    return weight_norm


def _spectral_norm() -> EncodingModule:
    from qkvinspect.weights.encodings import spectral_norm

    return spectral_norm


def _comfy_quant() -> EncodingModule:
    from qkvinspect.weights.encodings import comfy_quant

    return comfy_quant


def _known_by_name() -> EncodingModule:
    from qkvinspect.weights.encodings import known_by_name

    return known_by_name


ENCODINGS: tuple[tuple[Callable[[], EncodingModule], frozenset[str]], ...] = (
    (
        _scaled_float,
        frozenset(
            {"weight_scale_inv", "weight_scale", "scale_weight", "_weight_scale", "_scale", "weights_scaling_factor"}
        ),
    ),
    (_scaled_int, frozenset({"SCB", "weight_scale", "_weight_scale", "_scale", "int_scale"})),
    (
        _micro_float,
        frozenset({"weight_packed", "weight_scale", "gate_up_proj_blocks", "down_proj_blocks", "blocks"}),
    ),
    (_bitsandbytes_4bit, frozenset({"bitsandbytes__nf4", "bitsandbytes__fp4", "quant_map"})),
    (_gptq, frozenset({"qweight"})),
    (_awq, frozenset({"qweight"})),
    (_packed_integers, frozenset({"weight_packed"})),
    (_mlx, frozenset({"biases"})),
    (_mlx_floats, frozenset({"scales"})),
    (_matmul_nbits, frozenset({"nbits_codes"})),
    (_weight_norm, frozenset({"weight_g", "original0"})),
    (_spectral_norm, frozenset({"weight_orig"})),
    (_comfy_quant, frozenset({"comfy_quant", "weight_scale"})),
    (
        _known_by_name,
        frozenset({"W_q", "_data", "_weight_qdata", "trellis", "onnx_codes", "qweight", *BESIDE, *FACTORS}),
    ),
)
"""What imports each module, and the last components of tensor names by which a weight of its kind is known.

Where several know a weight, the last holds: ``comfy_quant`` says more of it than its names do. A module is imported
where a name has such an ending: all of them would add 12 milliseconds to a short command's 170."""

_BY_MARKER = {
    marker: tuple(load for load, markers in ENCODINGS if marker in markers)
    for _, every in ENCODINGS
    for marker in every
}


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of a checkpoint by name: stored tensors, but for those that only encode others.

    Attributes:
        encoded: the weights that are not plain numbers, by the name that a plain tensor would have.
        tensors: all other stored tensors.
        order: all names in the order of the file, where that is not the order of ``tensors``.
        left: what an adapter has for modules that its base has not.
        elsewhere: what it has for another model than the base, as a text encoder is.
        adapted: names of the weights that it adds to, or would if that were known how.
        alone: what an adapter in the same file has for weights, by their names, that are read without it.
    """

    encoded: Mapping[str, Weight]
    tensors: Mapping[str, TensorInfo]
    order: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()
    adapted: tuple[str, ...] = ()
    alone: Mapping[str, NotAdded] = field(default_factory=dict[str, "NotAdded"])

    def __iter__(self) -> Iterator[str]:
        """The names, in the order of the file."""
        return iter(self.order or self.tensors)

    def __getitem__(self, name: str) -> Weight:
        encoded = self.encoded.get(name)
        if encoded is None and isinstance(self.tensors, TensorTable):
            return from_table(self.tensors, name)
        return encoded or plain(one_by_one(self.tensors[name]))

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the weight of this name."""
        one = self.encoded.get(name)
        return shape_in(self.tensors, name) if one is None else one.shape

    def without(self, names: set[str]) -> Weights:
        """All but some of the stored tensors."""
        if not names:
            return self
        kept = {name: info for name, info in self.tensors.items() if name not in names}
        return replace(self, tensors=kept, order=tuple(name for name in self.order if name not in names))

    def __contains__(self, name: str) -> bool:
        return name in self.encoded or name in self.tensors


def no_weights() -> Weights:
    """The weights of a checkpoint that holds none."""
    return Weights({}, {})


def weights_of(checkpoint: Checkpoint) -> Weights:
    """Group the tensors of a checkpoint into weights, in one pass over the names; only an adapter's alphas are read.

    Raises:
        CheckpointError: these cannot be read.
        LayoutError: no module of an adapter is in its base.
    """
    stored = _with_computed(_stored(checkpoint), checkpoint)
    if checkpoint.adapter is not None:
        return _with_adapter(stored, checkpoint.adapter)
    if not may_hold_factors(checkpoint.tensors) and not may_be_unmerged(checkpoint.tensors):
        return stored
    from qkvinspect.weights.adapters.sums import updates, with_base_beside
    from qkvinspect.weights.adapters.unmerged import unmerged

    factors = not_summed(checkpoint)
    if factors and not with_base_beside(factors, {**stored.tensors, **stored.encoded}):
        return _with(stored, {weight.name: weight for weight in updates(checkpoint, factors)}, checkpoint.tensors)
    found = unmerged(stored, checkpoint, factors)
    summed = _with(stored, found.sums, checkpoint.tensors) if found.sums else stored
    return replace(summed, left=found.left, adapted=tuple(found.sums), alone=found.alone)


def _with_computed(stored: Weights, checkpoint: Checkpoint) -> Weights:
    """The weights with what the graph of the file itself adds to them."""
    told = [one for one in checkpoint.computed if isinstance(one, ComputedSum)]
    if not told:
        return stored
    from qkvinspect.weights.adapters.low_rank import LowRank

    found: dict[str, Weight] = {}
    for one in told:
        base = found.get(one.weight) or stored[one.weight]
        up, down = (one_by_one(checkpoint.tensors[name]) for name in (one.up, one.down))
        encoding = LowRank(up, down, one.scale, base)
        found[one.weight] = replace(base, info=None, encoding=encoding)
    tensors = {name: info for name, info in stored.tensors.items() if name not in found}
    return Weights({**stored.encoded, **found}, tensors, tuple(stored))


def _stored(checkpoint: Checkpoint) -> Weights:
    tensors = checkpoint.tensors
    found: dict[str, Weight] = {}
    blocks = any(kind.dtype.block > 1 for kind in each_kind(tensors))
    marked = blocks or any(name.rpartition(".")[2] in _BY_MARKER for name in unlike_names(tensors))
    for name in tensors if marked else ():
        if blocks and tensors[name].dtype.block > 1:
            from qkvinspect.weights.encodings import ggml_blocks

            found[name] = ggml_blocks.weight_of(tensors[name])
        for load in _BY_MARKER.get(name.rpartition(".")[2], ()):
            weight = load().find(name, checkpoint)
            if weight is not None:
                found[weight.name] = weight
    if checkpoint.format == "gguf" and any(name.endswith("attn_k_b.weight") for name in tensors):
        from qkvinspect.weights.encodings import ggml_latent

        found |= {weight.name: weight for weight in ggml_latent.find(tensors)}
    if not found and not any(kind.dtype.bits == 8 and kind.dtype.kind == "float" for kind in each_kind(tensors)):
        return Weights(found, tensors)
    from qkvinspect.weights.encodings import scaled_float

    found |= scaled_float.without_scale(checkpoint, found)
    return _with(Weights({}, tensors), found, tensors)


def _with(weights: Weights, found: Mapping[str, Weight], tensors: Mapping[str, TensorInfo]) -> Weights:
    """Replace tensors that encode weights by these weights."""
    encoded = {**weights.encoded, **found}
    owner = {info.name: weight.name for weight in encoded.values() for info in weight.stored}
    others = {name: info for name, info in tensors.items() if name not in owner and name not in encoded}
    return Weights(encoded, others, tuple(dict.fromkeys(owner.get(name, name) for name in tensors)))


def _with_adapter(base: Weights, adapter: Checkpoint) -> Weights:
    """The base with the adapter added to it."""
    from qkvinspect.weights.adapters.sums import sums

    found = sums({name: base[name] for name in base}, adapter)
    if not found.weights:
        raise LayoutError(
            "none of the adapter's modules is one of the base",
            file=adapter.path,
            found=", ".join((*found.left, *found.elsewhere)[:3]),
            hint="--base names the model that it was trained on, under the names that it was trained with",
        )
    encoded = {**base.encoded, **found.weights}
    tensors = {name: info for name, info in base.tensors.items() if name not in encoded}
    return Weights(encoded, tensors, tuple(base), found.left, found.elsewhere, tuple(found.weights))
