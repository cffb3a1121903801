"""Adapters in a file that holds the weights, too, that they change: a model that was saved before it was merged.

PEFT calls the weight of an adapted module ``M.base_layer.weight``, and keeps beside ``M.base_layer`` nothing but what
its adapters have for it (peft 0.21, tuners/tuners_utils.py, BaseTunerLayer). Others leave ``M.weight``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from qkvinspect.checkpoint import Checkpoint
from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import dataclass, replace
from qkvinspect.weights.adapters import WRAPPED
from qkvinspect.weights.adapters.factors import Factors, factors_of
from qkvinspect.weights.adapters.scales import AdapterConfig, configs_of
from qkvinspect.weights.adapters.sums import added, base_of, config_of, turned_parents, update
from qkvinspect.weights.named_formats import FACTORS
from qkvinspect.weights.weight import Weight

_KINDS = {**FACTORS, "lora_E": "AdaLoRA's factors"}

if TYPE_CHECKING:
    from qkvinspect.weights.encodings import Weights


@dataclass(frozen=True, slots=True)
class NotAdded:
    """What an adapter does to a weight that is read without it.

    Attributes:
        what: kind, rank, and names below the module.
        why: it is not added.
        unscaled: whether its scale alone is missing.
    """

    what: str
    why: str
    unscaled: bool = False

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"


@dataclass(frozen=True, slots=True)
class Unmerged:
    """What becomes of the weights that adapters in the same file change.

    Attributes:
        sums: those with what is added, by name.
        alone: those that are read without it, by name.
        left: modules of which the weight is not in the file.
    """

    sums: Mapping[str, Weight]
    alone: Mapping[str, NotAdded]
    left: tuple[str, ...]


def unmerged(weights: Weights, checkpoint: Checkpoint, factors: Sequence[Factors]) -> Unmerged:
    """Add to each weight what the one adapter of its module has for it.

    Args:
        factors: those that the graph of the file does not add itself.

    Raises:
        CheckpointError: the bytes of a scale cannot be read.
    """
    configs = configs_of(checkpoint)
    alone = {
        base: _undecoded(leaves) for base, leaves in _of_other_kinds(weights, factors_of(checkpoint.tensors)).items()
    }
    by_module: dict[str, list[Factors]] = {}
    for one in factors:
        by_module.setdefault(one.module, []).append(one)
    places = {module: base_of(module, weights) for module in by_module}
    turned = turned_parents([(by_module[module][0], weights[base]) for module, base in places.items() if base])
    sums: dict[str, Weight] = {}
    for module, some in by_module.items():
        base = places[module]
        if base is None or base in alone or weights[base].why:
            continue
        found = _sum(weights[base], some, turned.get(module.rpartition(".")[0]), config_of(configs, module))
        if isinstance(found, NotAdded):
            alone[base] = found
        else:
            sums[base] = found
    return Unmerged(sums, alone, tuple(module for module, base in places.items() if base is None))


def _sum(base: Weight, some: Sequence[Factors], turned: bool | None, config: AdapterConfig | None) -> Weight | NotAdded:
    """The weight with its update; or why it is without."""
    if len(some) > 1:
        adapters = ", ".join(one.adapter for one in some[:4])
        return NotAdded(f"LoRA of {len(some)} adapters ({adapters})", "nothing says which is used")
    one = some[0]
    what = "LoRA"
    try:
        found = update(one, config, in_model=True)
        leaf = found.up.name.removeprefix(f"{one.module}.").removesuffix(".weight")
        what = f"{'DoRA' if found.magnitude else 'LoRA'} of rank {found.rank} ({leaf})"
        whole = added(found, base, one, turned)
    except LayoutError as error:
        return NotAdded(what, str(error))
    if found.scale is None:
        why = "its scale is not known; --config adapter_config.json, or a file with lora_alpha, tells it"
        return NotAdded(what, why, unscaled=True)
    return replace(base, info=None, encoding=whole)


def _undecoded(leaves: Collection[str]) -> NotAdded:
    known = next((_KINDS[leaf] for leaf in leaves if leaf in _KINDS), "")
    names = ", ".join([*leaves][:3])
    what = f"{known} ({names})" if known else names
    return NotAdded(what, "not decoded; merge the adapter into its base with the tool that wrote it")


def _of_other_kinds(weights: Weights, factors: Sequence[Factors]) -> dict[str, dict[str, None]]:
    """What other adapters than LoRA keep beside each weight: the first components of names below its module."""
    names = [*weights.tensors, *(info.name for weight in weights.encoded.values() for info in weight.stored)]
    wrapped = {name[:at] for name in names for at in _places(name)}
    known = {name for one in factors for name in one.names}
    found: dict[str, dict[str, None]] = {}
    for name in names:
        if name in known:
            continue
        module, leaf = _module_of(name, wrapped)
        base = base_of(module, weights) if leaf else None
        if base is not None and not weights[base].why:
            found.setdefault(base, {})[leaf] = None
    return found


def _places(name: str) -> Iterator[int]:
    """Where ``.base_layer.`` stands in a name."""
    at = name.find(WRAPPED)
    while at >= 0:
        yield at
        at = name.find(WRAPPED, at + 1)


def _module_of(name: str, wrapped: Collection[str]) -> tuple[str, str]:
    """The adapted module that a tensor of an adapter is of, and the component after it; "" where it is of none."""
    parts = name.split(".")
    for back in (1, 2):
        if len(parts) > back and parts[-back] in _KINDS:
            return ".".join(parts[:-back]), parts[-back]
    at = len(name)
    while wrapped and (at := name.rfind(".", 0, at)) >= 0:
        if name[:at] in wrapped:
            leaf = name[at + 1 :].partition(".")[0]
            return ("", "") if leaf == "base_layer" else (name[:at], leaf)
    return "", ""
