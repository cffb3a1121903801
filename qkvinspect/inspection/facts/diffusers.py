"""diffusers: what its classes make of ``attention_head_dim`` and of lists for the blocks of a UNet.

Sources: diffusers/models/unets/*.py, controlnets/*.py, autoencoders/*.py (0.42.1).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from qkvinspect.checkpoint import Config
from qkvinspect.inspection.facts.fact import HeadFact, is_count
from qkvinspect.inspection.facts.module import HeadedModule
from qkvinspect.inspection.facts.sections import ConfigSection
from qkvinspect.parsed import is_items

_COUNTED = frozenset(
    {
        "ControlNetModel",
        "ControlNetUnionModel",
        "ControlNetXSAdapter",
        "DreamLiteUNetModel",
        "MultiControlNetModel",
        "SparseControlNetModel",
        "StableCascadeUNet",
        "UNet2DConditionModel",
        "UNetControlNetXSModel",
        "UNetMotionModel",
        "UNetSpatioTemporalConditionModel",
    }
)
"""Classes whose ``attention_head_dim`` is the NUMBER of heads where ``num_attention_heads`` is not given."""

_WIDE = frozenset({"I2VGenXLUNet", "Kandinsky3UNet", "UNet2DModel", "UNet3DConditionModel"})
"""Classes that take it for the width of a head: UNet3D hands number and width over in the other order, so that the
number that it was given for heads is a width too."""

_POOLED = frozenset({"HunyuanDiT2DModel", "HunyuanDiT2DControlNetModel", "MochiTransformer3DModel"})
"""Classes that pool the text with 8 heads, whatever the config says of the rest."""

_HEAD_DIM = {"AutoencoderKLMochi": 32, "UNet1DModel": 32}
"""Classes whose heads have this width, whatever their config says."""

_AUTOENCODER = ("Autoencoder", "AsymmetricAutoencoderKL", "ConsistencyDecoderVAE", "VQModel")


def facts(config: Config, _: Sequence[ConfigSection], module: HeadedModule) -> Iterator[HeadFact] | None:
    """What diffusers' classes compute from their configs."""
    name = config.values.get("_class_name")
    if not isinstance(name, str):
        return None
    origin = f"{config.origin}:_class_name"
    if name.startswith(_AUTOENCODER) and _has_one_head(name, module.layer):
        return iter((HeadFact(origin, 1, by_class=True),))
    if name in _POOLED and module.layer.endswith(".pooler"):
        return iter((HeadFact(origin, 8, by_class=True),))
    if name in _HEAD_DIM:
        return iter((HeadFact(origin, head_dim=_HEAD_DIM[name], by_class=True),))
    if name == "I2VGenXLUNet" and module.layer.startswith("image_latents_temporal_encoder."):
        return iter((HeadFact(origin, 2, by_class=True),))
    if "text_num_attention_heads" in config.values and module.layer.startswith("transformer_blocks."):
        return _of_the_model(config)
    if name in _COUNTED | _WIDE:
        return _of_blocks(config, module, wide=name in _WIDE)
    return iter(()) if _may_be_turned(config, module) else None


def _has_one_head(name: str, layer: str) -> bool:
    """Whether an autoencoder makes this attention with one head: in its middle, and Cosmos everywhere."""
    if name == "AutoencoderKLCosmos":
        return "attentions." in layer
    return (".attentions." in layer and "mid_block" in layer) or layer.endswith(".mid.attn_1")


def _of_the_model(config: Config) -> Iterator[HeadFact]:
    """What a config says of the model itself, where it also speaks of a text tower: its blocks are no part of that."""
    heads, kv_heads = (config.values.get(key) for key in ("num_attention_heads", "num_key_value_heads"))
    if is_count(heads):
        origin = f"{config.origin}:num_attention_heads"
        yield HeadFact(origin, heads, kv_heads if is_count(kv_heads) else None, by_class=True)


def _may_be_turned(config: Config, module: HeadedModule) -> bool:
    """Whether a class that is not known here may take a list from behind, as most UNets do on their way up."""
    lists = (config.values.get(key) for key in ("num_attention_heads", "attention_head_dim"))
    return "up_blocks." in module.layer and any(is_items(value) and value != value[::-1] for value in lists)


def _of_blocks(config: Config, module: HeadedModule, *, wide: bool) -> Iterator[HeadFact]:
    """The number of heads, or their width, of a block of a UNet."""
    for key in _keys(config, module):
        value = config.values.get(key)
        path, number = key, value
        if is_items(value):
            index = _block(module.layer, len(value))
            if index is None:
                return
            path, number = f"{key}[{index}]", value[index]
        if is_count(number):
            origin = f"{config.origin}:{path}"
            kv_heads = config.values.get("num_kv_heads")
            if wide:
                yield HeadFact(origin, head_dim=number, by_class=True)
            else:
                yield HeadFact(origin, number, kv_heads if is_count(kv_heads) else None, by_class=True)
            return


def _keys(config: Config, module: HeadedModule) -> tuple[str, ...]:
    """The keys that a class reads for a module, the first that is given counting."""
    if "motion_modules" in module.layer:
        return ("motion_num_attention_heads",)
    if "ctrl_" in module.layer and "ctrl_num_attention_heads" in config.values:
        return ("ctrl_num_attention_heads",)
    return ("num_attention_heads", "attention_head_dim")


def _block(layer: str, count: int) -> int | None:
    """Which entry of a list a block takes: the ways up take it from behind, the middle takes the last."""
    if "mid_block" in layer:
        return count - 1
    found = re.search(r"(down|up)_blocks\.(\d{1,4})", layer)
    if not found or int(found[2]) >= count:
        return None
    return int(found[2]) if found[1] == "down" else count - 1 - int(found[2])
