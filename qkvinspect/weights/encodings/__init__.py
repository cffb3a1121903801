"""Every way of keeping a weight that is not its plain numbers. A new one is one module here and one line below."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Protocol

from qkvinspect.checkpoint import Checkpoint, TensorInfo
from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.weights import adapters
from qkvinspect.weights.adapters.factors import factors_of
from qkvinspect.weights.encodings import (
    awq,
    bitsandbytes_4bit,
    float4,
    ggml_blocks,
    gptq,
    known_by_name,
    mlx,
    packed_integers,
    scaled_float,
    scaled_int,
    weight_norm,
)
from qkvinspect.weights.weight import Weight, one_by_one, plain


class EncodingModule(Protocol):
    """What every module in ENCODINGS offers."""

    MARKERS: frozenset[str]
    """Last components of tensor names by which a weight of this kind is known."""

    def find(self, marker: str, checkpoint: Checkpoint) -> Weight | None:
        """The weight that the tensor of this name belongs to, with its encoding or with why it has no values."""
        ...


ENCODINGS: tuple[EncodingModule, ...] = (
    scaled_float,
    scaled_int,
    float4,
    bitsandbytes_4bit,
    gptq,
    awq,
    packed_integers,
    mlx,
    weight_norm,
    known_by_name,
)

_BY_MARKER = {
    marker: tuple(kind for kind in ENCODINGS if marker in kind.MARKERS) for kind in ENCODINGS for marker in kind.MARKERS
}


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of a checkpoint by name: stored tensors, but for those that only encode others.

    Attributes:
        encoded: the weights that are not plain numbers, by the name that a plain tensor would have.
        tensors: all other stored tensors.
        order: all names in the order of the file, where that is not the order of ``tensors``.
        left: what an adapter has for modules that its base has not.
    """

    encoded: Mapping[str, Weight]
    tensors: Mapping[str, TensorInfo]
    order: tuple[str, ...] = ()
    left: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[str]:
        """The names, in the order of the file."""
        return iter(self.order or self.tensors)

    def __getitem__(self, name: str) -> Weight:
        return self.encoded.get(name) or plain(one_by_one(self.tensors[name]))

    def without(self, names: set[str]) -> Weights:
        """All but some of the stored tensors."""
        if not names:
            return self
        kept = {name: info for name, info in self.tensors.items() if name not in names}
        return replace(self, tensors=kept, order=tuple(name for name in self.order if name not in names))

    def __contains__(self, name: str) -> bool:
        return name in self.encoded or name in self.tensors


def no_weights() -> Weights:
    """Those of a checkpoint that holds none."""
    return Weights({}, {})


def weights_of(checkpoint: Checkpoint) -> Weights:
    """Put together what belongs together: one pass over the names, no numbers read but an adapter's alphas.

    Raises:
        CheckpointError: these cannot be read.
        LayoutError: an adapter has a place nowhere in its base.
    """
    stored = _stored(checkpoint)
    if checkpoint.adapter is not None:
        return _with_adapter(stored, checkpoint.adapter)
    factors = factors_of(checkpoint.tensors)
    if not factors or adapters.with_base_beside(factors, {**stored.tensors, **stored.encoded}):
        return stored
    return _with(stored, {weight.name: weight for weight in adapters.updates(checkpoint, factors)}, checkpoint.tensors)


def _stored(checkpoint: Checkpoint) -> Weights:
    tensors = checkpoint.tensors
    found: dict[str, Weight] = {}
    for name, info in tensors.items():
        if info.dtype.block > 1:
            found[name] = ggml_blocks.weight_of(info)
        for kind in _BY_MARKER.get(name.rpartition(".")[2], ()):
            weight = kind.find(name, checkpoint)
            if weight is not None:
                found[weight.name] = weight
    if not found:
        return Weights(found, tensors)
    found |= scaled_float.without_scale(tensors, found)
    return _with(Weights({}, tensors), found, tensors)


def _with(weights: Weights, found: Mapping[str, Weight], tensors: Mapping[str, TensorInfo]) -> Weights:
    """With some of the tensors seen as what they encode."""
    encoded = {**weights.encoded, **found}
    owner = {info.name: weight.name for weight in encoded.values() for info in weight.stored}
    others = {name: info for name, info in tensors.items() if name not in owner and name not in encoded}
    return Weights(encoded, others, tuple(dict.fromkeys(owner.get(name, name) for name in tensors)))


def _with_adapter(base: Weights, adapter: Checkpoint) -> Weights:
    """The base with the adapter added to it."""
    found = adapters.sums({name: base[name] for name in base}, adapter)
    if not found.weights:
        raise LayoutError(
            "none of the adapter's modules is one of the base",
            file=adapter.path,
            found=", ".join(found.left[:3]),
            hint="--base names the model that it was trained on, under the names that it was trained with",
        )
    encoded = {**base.encoded, **found.weights}
    tensors = {name: info for name, info in base.tensors.items() if name not in encoded}
    return Weights(encoded, tensors, tuple(base), found.left)
