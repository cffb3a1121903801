"""A model in short: how many parameters, of which dtypes, of which architecture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from qkvinspect.checkpoint import Checkpoint
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.parsed import is_items


@dataclass(frozen=True, slots=True)
class ModelInShort:
    """What the first line says of a model.

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
    """The model of a checkpoint in short; nothing is read."""
    counted: Counter[str] = Counter()
    for info in checkpoint.tensors.values():
        counted[info.dtype.name] += info.numel
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
