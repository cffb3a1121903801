"""Every way of keeping a weight that is not its plain numbers. A new one is one module here and one line below."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from qkvinspect.checkpoint import Checkpoint, TensorInfo
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.weights.encodings import scaled_float, weight_norm
from qkvinspect.weights.weight import Weight, plain


class EncodingModule(Protocol):
    """What every module in ENCODINGS offers."""

    MARKERS: frozenset[str]
    """Last components of tensor names by which a weight of this kind is known."""

    def find(self, marker: str, checkpoint: Checkpoint) -> Weight | None:
        """The weight that the tensor of this name belongs to, with its encoding or with why it has no values."""
        ...


ENCODINGS: tuple[EncodingModule, ...] = (scaled_float, weight_norm)

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
    """

    encoded: Mapping[str, Weight]
    tensors: Mapping[str, TensorInfo]
    order: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[str]:
        """The names, in the order of the file."""
        return iter(self.order or self.tensors)

    def __getitem__(self, name: str) -> Weight:
        return self.encoded.get(name) or plain(self.tensors[name])

    def without(self, names: set[str]) -> Weights:
        """All but some of the stored tensors."""
        if not names:
            return self
        kept = {name: info for name, info in self.tensors.items() if name not in names}
        return Weights(self.encoded, kept, tuple(name for name in self.order if name not in names))

    def __contains__(self, name: str) -> bool:
        return name in self.encoded or name in self.tensors


def no_weights() -> Weights:
    """Those of a checkpoint that holds none."""
    return Weights({}, {})


def weights_of(checkpoint: Checkpoint) -> Weights:
    """Put together what belongs together: one pass over the names, nothing read."""
    tensors = checkpoint.tensors
    found: dict[str, Weight] = {}
    for name in tensors:
        for kind in _BY_MARKER.get(name.rpartition(".")[2], ()):
            weight = kind.find(name, checkpoint)
            if weight is not None:
                found[weight.name] = weight
    if not found:
        return Weights(found, tensors)
    found |= scaled_float.without_scale(tensors, found)
    owner = {info.name: weight.name for weight in found.values() for info in weight.stored}
    others = {name: info for name, info in tensors.items() if name not in owner and name not in found}
    return Weights(found, others, tuple(dict.fromkeys(owner.get(name, name) for name in tensors)))
