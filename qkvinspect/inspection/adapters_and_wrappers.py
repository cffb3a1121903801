"""Weights that are not stored as plain numbers: quantised, reparametrised, adapted, sharded by rank.

Such tensors are named and explained, and never measured as if they were the weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from qkvinspect.checkpoint import Checkpoint, TensorInfo
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import Finding
from qkvinspect.inspection.report import Attention
from qkvinspect.layouts import LAYOUTS
from qkvinspect.parsed import is_mapping
from qkvinspect.weights.encodings import Weights
from qkvinspect.weights.weight import plain


@dataclass(frozen=True, slots=True)
class Disguise:
    """One way of storing a weight under other names.

    Attributes:
        code: of the finding.
        what: what the tensors are, and what to do about it.
        names: finds the stored names; group 1 is the module, or the parameter, that they stand for.
    """

    code: FindingCode
    what: str
    names: re.Pattern[str]


def _named(ending: str) -> re.Pattern[str]:
    return re.compile(rf"^(.+)\.(?:{ending})$")


DISGUISES = (
    Disguise(
        FindingCode.QUANTISED_4BIT,
        "bitsandbytes 4-bit: the shape of the weight is lost; dequantise the model and save it",
        _named(r"weight\.(?:absmax|quant_map|quant_state\..+)"),
    ),
    Disguise(
        FindingCode.QUANTISED_8BIT,
        "bitsandbytes 8-bit: integers with a scale a row (SCB); dequantise the model and save it",
        _named("SCB|weight_format"),
    ),
    Disguise(
        FindingCode.QUANTISED_GPTQ,
        "quantised integers in the way of GPTQ and AWQ (qweight); dequantise the model and save it",
        _named("qweight|qzeros"),
    ),
    Disguise(
        FindingCode.QUANTISED_PACKED,
        "compressed-tensors: packed integers; decompress the model and save it",
        _named("weight_packed"),
    ),
    Disguise(
        FindingCode.QUANTISED_TORCH,
        "torch.ao quantised modules; inspect the checkpoint before quantisation",
        _named(r"_packed_params(?:\..+)?"),
    ),
    Disguise(
        FindingCode.PARAMETRISED,
        "a parametrisation computes the weight from it; remove it (remove_parametrizations) and save again",
        _named(r"weight_orig|parametrizations\.\w+\.original"),
    ),
)

_DISGUISED = re.compile("|".join(disguise.names.pattern for disguise in DISGUISES))

_LEAVES = frozenset(
    name
    for layout in LAYOUTS
    for stored in layout.weights
    for name in stored.key.removesuffix(".weight").rpartition(".")[2].split("|")
    if not name.isdecimal()
) - {"attn", "linear", "linear1", "conv", "c", "in_proj", "q", "k", "v", "key", "value"}
"""What the projections of attention are called; names that other modules have too are left out."""

_ADAPTER = re.compile(r"^(.+)\.lora_([AB])(?:\.[^.]+)?(?:\.weight)?$")
_RANK = re.compile(r"mp_rank_\d+|(?:^|[/_.-])tp_?rank_?\d+|layer_\d+-model_\d+")


def without_values(weights: Weights) -> set[str]:
    """Names of weights whose shape is lost (bitsandbytes 4-bit): they cannot be split at all."""
    return {found[1] + ".weight" for name in weights.tensors if (found := DISGUISES[0].names.match(name))}


def findings(checkpoint: Checkpoint, weights: Weights) -> Iterator[Finding]:
    """Say which attention layers are stored in disguise."""
    tensors = checkpoint.tensors
    odd = (name for name in tensors if not name.endswith((".weight", ".bias")) or "_packed_params" in name)
    disguised = [name for name in odd if name in weights.tensors and _DISGUISED.match(name)]
    for disguise in DISGUISES:
        modules = [found[1] for name in disguised if (found := disguise.names.match(name))]
        modules = [module for module in modules if f"{module}.weight" not in weights.encoded]
        layers = (module.rpartition(".")[0] for module in modules if module.rpartition(".")[2] in _LEAVES)
        for layer in dict.fromkeys(layers):
            yield Finding(disguise.code, disguise.what, layer)
    adapted = {found[1] for name in tensors if ".lora_" in name and (found := _ADAPTER.match(name))}
    endings = (".weight", ".base_layer.weight", ".base_layer.in_proj_weight")
    if adapted and tensors.keys().isdisjoint(f"{module}{end}" for module in adapted for end in endings):
        text = f"a LoRA adapter without its base model ({len(adapted)} modules): merge it into the model to see it"
        yield Finding(FindingCode.ADAPTER_ONLY, text)
    if _RANK.search(checkpoint.path) and not checkpoint.shares and not _is_only_rank(checkpoint):
        text = "its name is that of a tensor-parallel shard: Q, K and V are the rows of one rank only"
        yield Finding(FindingCode.TENSOR_PARALLEL, text)


def _is_only_rank(checkpoint: Checkpoint) -> bool:
    """Whether the file itself says that there is no other rank."""
    sizes = ("mp_world_size", "tensor_model_parallel_size")
    places = [place for config in checkpoint.configs for place in (config.values, config.values.get("args"))]
    said = [place.get(key) for place in places if is_mapping(place) for key in sizes]
    return 1 in said and not any(type(size) is int and size > 1 for size in said)


def undecoded(weights: Weights, told: Iterable[Finding]) -> Iterator[Finding]:
    """Layers that were not found because the numbers of a projection, and with them its shape, are lost."""
    known = {finding.layer for finding in told if finding.code is FindingCode.NO_VALUES}
    for name, weight in weights.encoded.items():
        layer, _, leaf = name.removesuffix(".weight").rpartition(".")
        if weight.why and leaf in _LEAVES and layer not in known:
            known.add(layer)
            yield Finding(FindingCode.NO_VALUES, f"{name} has no values: {weight.why}", layer)


Lora = Mapping[str, Mapping[str, TensorInfo]]
"""For each adapted module, its lora_B matrices by adapter (``lora_B.default``)."""


def lora(tensors: Mapping[str, TensorInfo]) -> Lora:
    """The lora_B matrices of a checkpoint."""
    found: dict[str, dict[str, TensorInfo]] = {}
    for name, info in tensors.items():
        match = _ADAPTER.match(name) if ".lora_B" in name else None
        if match and match[2] == "B" and len(info.shape) == 2:
            adapter = name.removeprefix(f"{match[1]}.").removesuffix(".weight")
            found.setdefault(match[1], {})[adapter] = info
    return found


def adapters(attention: Attention, by_module: Lora) -> Iterator[Attention]:
    """The lora_B matrices that add to a module's weights, split as the weights are; a layer each.

    lora_B has the rows of the weight that it adds to, in the same packing (PEFT, tuners/lora/layer.py); its
    columns are the rank.
    """
    bases = {_base(part.weight.name): by_module.get(_base(part.weight.name), {}) for part in attention.parts}
    names = dict.fromkeys(adapter for matrices in bases.values() for adapter in matrices)
    for adapter in names:
        by_base = {base: matrices[adapter] for base, matrices in bases.items() if adapter in matrices}
        parts = tuple(
            replace(part, weight=plain(info), orientation="out_in", in_features=info.shape[1], bias=None, bias_heads=())
            for part in attention.parts
            if (info := by_base.get(_base(part.weight.name))) and info.shape[0] >= max(run.stop for run in part.heads)
        )
        if parts:
            weights = tuple(map(plain, by_base.values()))
            roles = {part.name: part.weight.name for part in parts}
            yield replace(
                attention,
                layer=f"{attention.layer}.{adapter}",
                parts=parts,
                weights=weights,
                tensors={"weight": weights[0].name} if len(weights) == 1 else roles,
                dtype=weights[0].dtype.name,
                others=(),
                output=None,
                out_bias=None,
                biases=(),
                out=None,
                extras=(),
            )


def _base(weight: str) -> str:
    """The module that PEFT wraps, by the name of its weight."""
    return weight.rpartition(".")[0].removesuffix(".base_layer")
