"""A summary of a model: number of parameters, dtypes and architecture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from math import prod

from qkvinspect.checkpoint import Checkpoint
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.parsed import is_items
from qkvinspect.tensor_table import counted_kinds
from qkvinspect.weights.encodings import Weights
from qkvinspect.weights.weight import Weight


@dataclass(frozen=True, slots=True)
class ModelInShort:
    """The summary that the first line of output shows.

    Attributes:
        num_parameters: numbers of all weights of the state_dict that was read: what codes stand for is counted, and
            not the scales beside them.
        dtypes: how many numbers are stored in each dtype, the commonest first.
        architecture: what the config calls the model; "" where there is none.
    """

    num_parameters: int
    dtypes: Mapping[str, int]
    architecture: str

    def to_dict(self) -> dict[str, object]:
        """For the JSON contract."""
        return {
            "num_parameters": self.num_parameters,
            "dtypes": dict(self.dtypes),
            "architecture": self.architecture or None,
        }


def in_short(checkpoint: Checkpoint, weights: Weights) -> ModelInShort:
    """Summarise the model of a checkpoint; nothing is read."""
    counted: Counter[str] = Counter()
    for dtype, shape, tensors in counted_kinds(checkpoint.tensors):
        counted[dtype] += tensors * prod(shape)
    encoded = sum(weight.numel - sum(info.numel for info in weight.stored) for weight in _decoded(checkpoint, weights))
    return ModelInShort(counted.total() + encoded, dict(counted.most_common()), _architecture(checkpoint))


def _decoded(checkpoint: Checkpoint, weights: Weights) -> Iterator[Weight]:
    """Weights whose tensors in the file, all of them, are other than their numbers in number."""
    for weight in weights.encoded.values():
        if weight.encoding is not None and all(info.name in checkpoint.tensors for info in weight.stored):
            yield weight


def _architecture(checkpoint: Checkpoint) -> str:
    for config in checkpoint.configs:
        listed = config.values.get("architectures")
        names = [*listed] if is_items(listed) else []
        names += [config.values.get(key) for key in ("architecture", "_class_name", "model_type")]
        for name in names:
            if isinstance(name, str) and name:
                return name
    return ""
