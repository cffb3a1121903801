"""transformers: the keys that the class of a ``model_type`` reads for a layer, from a generated table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from qkvinspect.checkpoint import Config
from qkvinspect.fast_dataclass import replace
from qkvinspect.inspection.facts.fact import HeadFact, is_count
from qkvinspect.inspection.facts.module import HeadedModule
from qkvinspect.inspection.facts.sections import ConfigSection, layer_type
from qkvinspect.inspection.facts.tables.transformers import HeadKeys, head_dim_beside, head_keys
from qkvinspect.inspection.facts.widths import of_another
from qkvinspect.layouts.packing import KV_PER_HEAD
from qkvinspect.parsed import is_items, is_mapping


def facts(config: Config, sections: Sequence[ConfigSection], module: HeadedModule) -> Iterator[HeadFact] | None:
    """What the class reads, asked of the whole model first, then of the part that the layer's name speaks of."""
    speaking = [entry for entry in module.speaking(sections) if entry[0].matched or entry[1].whole]
    for _, section in sorted(speaking, key=lambda entry: (len(entry[1].keys), entry[0].position)):
        kind = section.values.get("model_type")
        if not isinstance(kind, str):
            continue
        keys = head_keys(kind, module.layer, layer_type(section, module.layer, module.names))
        if keys and not keys.head_dim and _latent_width(section.values, module) is None:
            keys = replace(keys, head_dim=head_dim_beside(kind, keys.num_heads))
        if keys and (fact := _read(config.origin, section, keys, module)) and not fact.refuted:
            return iter((fact,))
    return None


def _read(origin: str, section: ConfigSection, keys: HeadKeys, module: HeadedModule) -> HeadFact | None:
    """The numbers under the keys; None where the config does not give them."""
    heads, kv_heads, dim = (
        _value(section.values, path, module.layer) for path in (keys.num_heads, keys.num_kv_heads, keys.head_dim)
    )
    divisor = keys.divided_by
    by = int(divisor) if divisor.isdecimal() else _value(section.values, divisor, module.layer)
    if divisor and not by:
        return None
    if heads and by:
        kv_heads = kv_heads // by if kv_heads and keys.num_kv_heads == keys.num_heads else kv_heads
        heads = heads // by
    dim = dim or _latent_width(section.values, module)
    path = keys.num_heads if heads else keys.head_dim
    if not heads and not dim:
        return None
    known = by is not None or bool(dim)
    width = None if known else _width(section.values, keys.num_heads, module)
    fact = HeadFact(
        f"{origin}:{section.path}{_of_layer(path, module.layer)}",
        heads,
        kv_heads,
        dim,
        width,
        by_class=width is None,
        shared_out=width is not None,
    )
    return replace(fact, refuted=of_another(section, path, module))


def _latent_width(values: Mapping[str, object], module: HeadedModule) -> int | None:
    """Rows of a head of latent attention, whatever its model is wide: those with and without a position."""
    nope, rope = values.get("qk_nope_head_dim"), values.get("qk_rope_head_dim")
    latent = any(stored.packing == KV_PER_HEAD for stored in module.candidate.layout.weights)
    return nope + rope if latent and is_count(nope) and is_count(rope) else None


def _value(values: Mapping[str, object], path: str, layer: str) -> int | None:
    """The number at a dotted path; of a list the entry of the layer's own stage, as the path says."""
    held: object = values
    for key in filter(None, path.split(".")):
        name, _, place = key.partition("[")
        held = held.get(name) if is_mapping(held) else None
        if place and is_items(held):
            index = _stage(place, layer)
            held = held[index] if index is not None and index < len(held) else None
    return held if is_count(held) else None


def _stage(place: str, layer: str) -> int | None:
    """The entry of a list that is a layer's: ``0]`` stands for the first number in the layer's name."""
    numbers = [int(part) for part in layer.split(".") if part.isdecimal() and len(part) < 6]
    which = int(place.rstrip("]"))
    return numbers[which] if which < len(numbers) else None


def _of_layer(path: str, layer: str) -> str:
    """A path as it reads for one layer: ``num_heads[2]`` is the entry of the third stage."""
    name, bracket, place = path.partition("[")
    return f"{name}[{_stage(place, layer)}]" if bracket else path


def _width(values: Mapping[str, object], path: str, module: HeadedModule) -> int | None:
    """The ``hidden_size`` beside a key, of which the class makes the width of a head; not where it projects to less."""
    around: object = values
    for key in path.split(".")[:-1]:
        around = around.get(key) if is_mapping(around) else None
    if not is_mapping(around) or "attention_downsample_rate" in around or "[" in path:
        return None
    found = {around[key] for key in ("hidden_size", "d_model", "n_embd", "embed_dim") if type(around.get(key)) is int}
    return next((width for width in found if isinstance(width, int) and width in module.widths), None)
