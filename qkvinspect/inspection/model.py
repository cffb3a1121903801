"""A summary of a model: number of parameters, dtypes and architecture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import prod

from qkvinspect.checkpoint import Checkpoint
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.parsed import is_items
from qkvinspect.tensor_table import counted_kinds


@dataclass(frozen=True, slots=True)
class ModelInShort:
    """The summary that the first line of output shows.

    Attributes:
        num_parameters: numbers in all tensors of the state_dict that was read.
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


def in_short(checkpoint: Checkpoint) -> ModelInShort:
    """Summarise the model of a checkpoint; nothing is read."""
    counted: Counter[str] = Counter()
    for dtype, shape, tensors in counted_kinds(checkpoint.tensors):
        counted[dtype] += tensors * prod(shape)
    return ModelInShort(counted.total(), dict(counted.most_common()), _architecture(checkpoint))


def _architecture(checkpoint: Checkpoint) -> str:
    for config in checkpoint.configs:
        listed = config.values.get("architectures")
        names = [*listed] if is_items(listed) else []
        names += [config.values.get(key) for key in ("architecture", "_class_name", "model_type")]
        for name in names:
            if isinstance(name, str) and name:
                return name
    return ""
