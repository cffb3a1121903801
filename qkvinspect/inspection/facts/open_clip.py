"""open_clip: ``vision_cfg`` and ``text_cfg``, with what its classes take where a key is left out.

Sources: open_clip/model.py (CLIPVisionCfg, CLIPTextCfg), coca_model.py (MultimodalCfg), 3.3.0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from qkvinspect.checkpoint import Config
from qkvinspect.inspection.facts import timm
from qkvinspect.inspection.facts.fact import HeadFact, is_count
from qkvinspect.inspection.facts.module import HeadedModule
from qkvinspect.inspection.facts.sections import ConfigSection
from qkvinspect.inspection.facts.tables import open_clip_heads
from qkvinspect.late_pattern import late_pattern
from qkvinspect.parsed import is_items, is_mapping

_VISION = late_pattern(r"(^|\.)visual\.")
_TEXT_DECODER = late_pattern(r"(^|\.)text_decoder\.")
_POOL = "attn_pool"
_HEAD_WIDTH = 64
_HEADS = 8


def facts(config: Config, _: Sequence[ConfigSection], module: HeadedModule) -> Iterator[HeadFact] | None:
    """What open_clip's classes compute from their configs."""
    inner = config.values.get("model_cfg")
    root, path = (inner, "model_cfg.") if is_mapping(inner) else (config.values, "")
    if not is_mapping(root.get("vision_cfg")) or not is_mapping(root.get("text_cfg")):
        return _named(config, module)
    return _said(config, path, root, module)


def _named(config: Config, module: HeadedModule) -> Iterator[HeadFact] | None:
    """The heads of a model that is given by its name alone, as open_clip's training scripts keep it."""
    for key in ("model", "model_name", "clip_model"):
        name = config.values.get(key)
        if isinstance(name, str) and (heads := open_clip_heads(name, module.layer)):
            return iter((HeadFact(f"{config.origin}:{key}", heads, by_class=True),))
    return None


def _said(config: Config, path: str, root: Mapping[str, object], module: HeadedModule) -> Iterator[HeadFact]:
    layer, origin = module.layer, config.origin
    if _VISION.search(layer):
        values = root["vision_cfg"]
        if is_mapping(values) and values.get("timm_model_name"):
            keys = (*path.split(".")[:-1], "vision_cfg")
            fact = timm.of_architecture(
                config, ConfigSection(keys, ("",) * len(keys), values), "timm_model_name", module
            )
            yield from (fact,) if fact else ()
        elif is_mapping(values):
            yield from _vision(f"{origin}:{path}vision_cfg", values, module)
        return
    key = "multimodal_cfg" if _TEXT_DECODER.search(layer) else "text_cfg"
    values = root.get(key)
    if is_mapping(values) and not values.get("hf_model_name"):
        name, heads = _given(values, "attn_pooler_heads" if _POOL in layer else "heads", _HEADS)
        yield HeadFact(f"{origin}:{path}{key}.{name}", heads, by_class=True)


def _vision(origin: str, values: Mapping[str, object], module: HeadedModule) -> Iterator[HeadFact]:
    width = values.get("width")
    if _POOL in module.layer and not is_items(values.get("layers")):
        name, heads = _given(values, "attn_pooler_heads", _HEADS)
        yield HeadFact(f"{origin}.{name}", heads, by_class=True)
        return
    name, head_width = _given(values, "head_width", _HEAD_WIDTH)
    if is_count(width):
        embed_dim = width * 32 if is_items(values.get("layers")) else width
        if embed_dim % head_width == 0:
            yield HeadFact(f"{origin}.{name}", embed_dim // head_width, by_class=True)


def _given(values: Mapping[str, object], key: str, default: int) -> tuple[str, int]:
    """(key, value); open_clip's own default where none is given, which the key then says."""
    value = values.get(key)
    return (key, value) if is_count(value) else (f"{key} (open_clip's default)", default)
