"""OpenAI's own formats: Whisper's ``dims`` beside its weights, and CLIP's archives, which have no config at all.

Sources: whisper/model.py (ModelDimensions, AudioEncoder, TextDecoder); clip/model.py (build_model, VisionTransformer,
ModifiedResNet).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qkvinspect.checkpoint import Config
from qkvinspect.inspection.facts.fact import HeadFact, is_count
from qkvinspect.inspection.facts.module import HeadedModule
from qkvinspect.inspection.facts.sections import ConfigSection

_SIDES = {"encoder": "audio", "decoder": "text"}
_CLIP = ("input_resolution", "context_length", "vocab_size")
"""Numbers that only OpenAI's scripted archives keep as tensors; ``build_model`` takes them out again."""

_CLIP_HEAD = 64


def whisper(config: Config, _: Sequence[ConfigSection], module: HeadedModule) -> Iterator[HeadFact] | None:
    """The audio's heads are the encoder's, the text's are the decoder's, also where it attends to the audio."""
    if not {"n_audio_head", "n_text_head"} <= config.values.keys():
        return None
    side = next((_SIDES[part] for part in module.layer.split(".") if part in _SIDES), None)
    if side is None:
        return iter(())
    heads, width = (config.values.get(f"n_{side}_{what}") for what in ("head", "state"))
    if not is_count(heads):
        return iter(())
    embed_dim = width if is_count(width) else None
    return iter((HeadFact(f"{config.origin}:n_{side}_head", heads, embed_dim=embed_dim),))


def clip(module: HeadedModule) -> Iterator[HeadFact]:
    """Every attention of CLIP has heads of 64 rows, in both towers and where a ResNet pools."""
    if all(module.names.find_path((name,)) for name in _CLIP):
        yield HeadFact(f"tensor:{_CLIP[0]} (OpenAI's CLIP)", head_dim=_CLIP_HEAD)
