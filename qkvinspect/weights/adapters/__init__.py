"""Adapters of low rank: what they add to the weights of a model, alone, or added to a base.

An adapter alone is read as weights of their own, ``B @ A * scale`` under the name of the weight that they change.
With its base, which may be in the same file, the sum stands under the base's name, and nobody else needs to know that
there is an adapter.

Most files hold none, so nothing but these questions is imported before a name says that one may be there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from qkvinspect.checkpoint import Checkpoint, TensorInfo
from qkvinspect.computed_rows import ComputedSum
from qkvinspect.tensor_table import unlike_names
from qkvinspect.weights.named_formats import FACTORS
from qkvinspect.weights.weight import Weight

WRAPPED = ".base_layer."
"""What PEFT puts into the name of a weight that an adapter changes."""

_ENDS = (".default", *(f".{leaf}" for leaf in FACTORS))

if TYPE_CHECKING:
    from qkvinspect.weights.adapters.factors import Factors
    from qkvinspect.weights.adapters.low_rank import LowRank


def may_hold_factors(tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether any name could be that of a factor: all tools put ``lora`` into them."""
    return any("lora" in name for name in unlike_names(tensors))


def may_be_unmerged(tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether any name could be that of a weight which an adapter beside it changes, or of an adapter but LoRA."""
    return any(WRAPPED in name or name.endswith(_ENDS) for name in unlike_names(tensors))


def is_adapter(checkpoint: Checkpoint) -> bool:
    """Whether it holds an adapter, and not the weights that it adds to."""
    if not may_hold_factors(checkpoint.tensors):
        return False
    from qkvinspect.weights.adapters.sums import with_base_beside

    factors = not_summed(checkpoint)
    return bool(factors) and not with_base_beside(factors, checkpoint.tensors)


def not_summed(checkpoint: Checkpoint) -> list[Factors]:
    """The factors of a checkpoint, but for those that its own graph adds to a weight."""
    from qkvinspect.weights.adapters.factors import factors_of

    summed = {one.up for one in checkpoint.computed if isinstance(one, ComputedSum)}
    return [one for one in factors_of(checkpoint.tensors) if one.up is None or one.up.name not in summed]


def is_update(weight: Weight) -> bool:
    """Whether it is what an adapter adds to a weight, and not the weight that a model multiplies with."""
    found = _low_rank(weight)
    return found is not None and found.base is None


def is_sum(weight: Weight) -> bool:
    """Whether it is a weight with an adapter added, which no file holds."""
    found = _low_rank(weight)
    return found is not None and found.base is not None


def _low_rank(weight: Weight) -> LowRank | None:
    if weight.encoding is None:
        return None
    from qkvinspect.weights.adapters.low_rank import LowRank

    return weight.encoding if isinstance(weight.encoding, LowRank) else None
