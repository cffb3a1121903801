"""timm: a config names an architecture, and only its code knows the heads; a generated table does too.

The name stands under ``architecture`` in timm's own ``config.json``, and in a part of the config of a model that holds
a timm model (transformers' ``TimmWrapper`` and ``TimmBackbone``, open_clip's ``timm_model_name``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from qkvinspect.checkpoint import Config
from qkvinspect.formats.config_keys import ConfigKey, read
from qkvinspect.inspection.facts.fact import HeadFact, is_count
from qkvinspect.inspection.facts.module import HeadedModule
from qkvinspect.inspection.facts.sections import ConfigSection, of_layer
from qkvinspect.inspection.facts.tables import timm_heads, timm_kv_heads
from qkvinspect.parsed import is_mapping

_WIDTH = ConfigKey("embed_dim")
_NAMES = ("architecture", "timm_model_name", "backbone", "arch", "model")
"""In a ``config.json``; in other libraries' configs; in what timm's own training script saves (timm/utils/
checkpoint_saver.py: ``arch``, and ``args.model``), from which DeiT, MAE, BEiT and others have theirs.
"""


def facts(config: Config, sections: Sequence[ConfigSection], module: HeadedModule) -> Iterator[HeadFact] | None:
    """The heads of a module of a timm model that a section for this part of the model names."""
    for _, section in sorted(module.speaking(sections), key=lambda entry: (entry[0].position, -entry[0].matched)):
        for key in _NAMES:
            name = section.values.get(key)
            if isinstance(name, str) and (fact := of_architecture(config, section, key, module)):
                return iter((fact,))
    return None


def of_architecture(config: Config, section: ConfigSection, key: str, module: HeadedModule) -> HeadFact | None:
    """What the architecture that stands under a key has, unless the arguments beside it say otherwise."""
    arguments = section.values.get("model_args") or section.values.get("model_kwargs")
    if is_mapping(arguments) and (given := _given(arguments, module)):
        name, heads = given
        return HeadFact(f"{config.origin}:{section.path}model_args.{name}", heads, by_class=True)
    if is_mapping(arguments) and any(read(name) and read(name) != _WIDTH for name in arguments):
        return None  # other heads than the architecture's, under keys of its class
    architecture = str(section.values[key])
    layer = module.layer.rpartition("timm_model.")[2]
    heads = timm_heads(architecture, layer)
    if heads is None:
        return None
    kv_heads = timm_kv_heads(architecture, layer)
    return HeadFact(f"{config.origin}:{section.path}{key}", heads, kv_heads, by_class=True)


def _given(arguments: Mapping[str, object], module: HeadedModule) -> tuple[str, int] | None:
    value, _ = of_layer(arguments.get("num_heads"), arguments, module.layer, module.names)
    return ("num_heads", value) if is_count(value) else None
