"""Weights that are not stored as plain numbers: quantised, reparametrised, adapted, sharded by rank.

Such tensors are reported and explained, and never measured as if they were the weights.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator

from qkvinspect.checkpoint import Checkpoint
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import Finding
from qkvinspect.inspection.report import Attention
from qkvinspect.late_pattern import late_pattern
from qkvinspect.layouts import LAYOUTS
from qkvinspect.parsed import is_mapping
from qkvinspect.tensor_table import unlike_names
from qkvinspect.weights.adapters import is_update
from qkvinspect.weights.encodings import Weights


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
    return late_pattern(rf"^(.+)\.(?:{ending})$")


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

_DISGUISED = late_pattern("|".join(disguise.names.pattern for disguise in DISGUISES))

_SHORT = frozenset({"q", "k", "v", "query", "key", "value"})
"""Names of attention projections in a module whose name says that it is attention."""

_LEAVES = frozenset(
    name
    for layout in LAYOUTS
    for stored in layout.weights
    for name in stored.key.removesuffix(".weight").rpartition(".")[2].split("|")
    if not name.isdecimal()
) - {"attn", "linear", "linear1", "conv", "c", "in_proj", "q", "k", "v", "key", "value", "weight"}
"""Names of attention projections; names that other modules use too are left out."""

_RANK = late_pattern(r"mp_rank_\d+|(?:^|[/_.-])tp_?rank_?\d+|layer_\d+-model_\d+")


def without_values(weights: Weights) -> set[str]:
    """Names of weights whose shape is lost (bitsandbytes 4-bit): they cannot be split at all."""

    def lost(names: Iterable[str]) -> Iterator[str]:
        states = (name for name in names if ".weight." in name)
        return (found[1] + ".weight" for name in states if (found := DISGUISES[0].names.match(name)))

    return {*lost(weights.tensors)} if any(lost(unlike_names(weights.tensors))) else set()


def findings(checkpoint: Checkpoint, weights: Weights, firsts: Collection[str]) -> Iterator[Finding]:
    """Report the attention layers whose weights are stored in other forms.

    Args:
        firsts: names of weights, but those of blocks that repeat another: what numbers are in a name says nothing here.
    """
    disguised = list(_disguised(firsts, weights))
    if (
        disguised or weights.order or any("/" in name for name in unlike_names(checkpoint.tensors))
    ):  # which divides as "." does
        disguised = list(_disguised(checkpoint.tensors, weights))
    for disguise in DISGUISES:
        modules = [found[1] for name in disguised if (found := disguise.names.match(name))]
        modules = [module for module in modules if f"{module}.weight" not in weights.encoded]
        layers = (module.rpartition(".")[0] for module in modules if module.rpartition(".")[2] in _LEAVES)
        for layer in dict.fromkeys(layers):
            yield Finding(disguise.code, disguise.what, layer)
    yield from _about_adapters(weights)
    if _RANK.search(checkpoint.path) and not checkpoint.shares and not _is_only_rank(checkpoint):
        text = "its name is that of a tensor-parallel shard: Q, K and V are the rows of one rank only"
        yield Finding(FindingCode.TENSOR_PARALLEL, text)


def _disguised(names: Iterable[str], weights: Weights) -> Iterator[str]:
    odd = (name for name in names if not name.endswith((".weight", ".bias")) or "_packed_params" in name)
    return (name for name in odd if name in weights.tensors and _DISGUISED.match(name))


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
        if weight.why and layer not in known and (leaf in _LEAVES or (leaf in _SHORT and "att" in layer.lower())):
            known.add(layer)
            yield Finding(FindingCode.NO_VALUES, f"{name} has no values: {weight.why}", layer)


def _about_adapters(weights: Weights) -> Iterator[Finding]:
    """Report that only an adapter is shown, or which of its modules were not added."""
    alone = [weight for weight in weights.encoded.values() if is_update(weight)]
    if alone:
        from qkvinspect.weights.adapters.low_rank import LowRank

        text = f"a LoRA adapter without its base model ({len(alone)} modules): what it adds to each is shown"
        text += "; --base PATH shows the sum, and the base's config (--config) makes sure of heads and layouts"
        yield Finding(FindingCode.ADAPTER_ONLY, text)
        unknown = sum(isinstance(one.encoding, LowRank) and one.encoding.scale is None for one in alone)
        if unknown:
            text = f"the alpha of {unknown} modules is unknown, so their norms are those of B @ A, not scaled"
            yield Finding(FindingCode.ADAPTER_SCALE, f"{text}: --config FILE with lora_alpha tells it")
    left = (*weights.left, *weights.elsewhere)
    if left:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        text = f"the base has no one place for {', '.join(left[:3])}{more} of the adapter: not in the sum"
        yield Finding(FindingCode.ADAPTER_LEFT_OUT, text)


def about_sums(checkpoint: Checkpoint, attentions: Iterable[Attention], weights: Weights) -> Iterator[Finding]:
    """Report what adapters in the file add to weights in it, and what they would add and do not."""
    if weights.adapted and checkpoint.adapter is None:
        text = "all values are those of the file with the adapter in it added"
        yield Finding(FindingCode.ADAPTER_ADDED, f"{text}: {len(weights.adapted)} modules")
    if not weights.alone:
        return
    for attention in attentions:
        for name in sorted(attention.tensor_names & weights.alone.keys()):
            one = weights.alone[name]
            code = FindingCode.ADAPTER_SCALE if one.unscaled else FindingCode.ADAPTER_LEFT_OUT
            text = f"{name.removeprefix(f'{attention.layer}.')} is read without the adapter beside it, {one}"
            yield Finding(code, text, attention.layer)
