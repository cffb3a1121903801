"""Why a layer may hold fewer heads than its model: ranks of tensor parallelism share it, or heads were pruned."""

from __future__ import annotations

from qkvinspect.checkpoint import Config
from qkvinspect.inspection.facts.fact import is_count
from qkvinspect.inspection.facts.module import HeadedModule
from qkvinspect.parsed import is_items, is_mapping

_RANKS = ("tensor_model_parallel_size", "tensor_parallel_size", "mp_world_size", "model_parallel_size")


def ranks(config: Config) -> int | None:
    """How many ranks of tensor parallelism share each layer, as the config of the run says (Megatron, DeepSpeed)."""
    for key in _RANKS:
        value = config.values.get(key)
        if is_count(value) and value > 1:
            return value
    return None


def pruned(config: Config, module: HeadedModule) -> int:
    """How many heads of a layer were pruned: transformers' ``pruned_heads``, {layer: [heads]}."""
    listed = config.values.get("pruned_heads")
    places = module.names.places(module.layer)
    if not is_mapping(listed) or not places:
        return 0
    heads = listed.get(str(places[-1].position))
    return len({head for head in heads if isinstance(head, int)}) if is_items(heads) else 0
