"""Write the table of open_clip's models: every one is built without weights and its modules are asked.

Usage: ``PYTHONPATH=. python tests/tables/generate_open_clip.py`` (README.md says what to install; three minutes)

A tower of timm is not written out where timm's own table says the same: only the architecture's name is.
"""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from tests.tables import folding
from tests.tables.modules import attentions, library

TRUNK = "visual.trunk"

HUGGING_FACE: dict[str, tuple[str, dict[str, int]]] = {
    "roberta-base": ("RobertaConfig", {}),
    "xlm-roberta-base": ("XLMRobertaConfig", {}),
    "xlm-roberta-large": (
        "XLMRobertaConfig",
        {"hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 24, "intermediate_size": 4096},
    ),
    "google/mt5-base": ("MT5Config", {"d_model": 768, "num_heads": 12, "num_layers": 12, "d_ff": 2048}),
    "google/mt5-xl": ("MT5Config", {"d_model": 2048, "num_heads": 32, "num_layers": 24, "d_ff": 5120}),
    "facebook/nllb-200-distilled-600M": ("M2M100Config", {"d_model": 1024, "encoder_attention_heads": 16}),
    "facebook/nllb-200-distilled-1.3B": (
        "M2M100Config",
        {"d_model": 1024, "encoder_attention_heads": 16, "encoder_layers": 24, "encoder_ffn_dim": 8192},
    ),
}
"""The text towers that open_clip takes from the Hub, as their ``config.json`` there has them: class, what differs."""


def hugging_face(name: str, *_: Any, **__: Any) -> Any:
    """The configuration of a text tower, without asking the Hub."""
    import transformers

    kind, differs = HUGGING_FACE[name]
    return getattr(transformers, kind)(**differs)


def build(model: str) -> dict[str, int]:
    """The heads of a model's attentions, by the modules' paths."""
    library()
    import open_clip
    import torch
    import transformers

    with torch.device("meta"), patch.object(transformers.AutoConfig, "from_pretrained", hugging_face):
        built = open_clip.create_model(
            model, device="meta", load_weights=False, pretrained_image=False, pretrained_text=False
        )
    return {path: heads.num_heads for path, heads in attentions(built).items()}


def answers(model: str) -> dict[str, folding.Answer]:
    """The patterns of a model, with its timm tower by name if timm's table says the same of each module."""
    import open_clip

    from qkvinspect.inspection.facts.tables import timm_heads

    heads = build(model)
    trunk = open_clip.get_model_config(model)["vision_cfg"].get("timm_model_name")
    theirs = {path for path in heads if path.startswith(f"{TRUNK}.")}
    if trunk and theirs and all(timm_heads(trunk, path.removeprefix(f"{TRUNK}.")) == heads[path] for path in theirs):
        return {TRUNK: trunk} | folding.fold({path: number for path, number in heads.items() if path not in theirs})
    return folding.fold(heads)


def main() -> None:
    library()
    import open_clip

    table = {model: {"heads": answers(model)} for model in open_clip.list_models()}
    folding.write("open_clip", open_clip.__version__, table)


if __name__ == "__main__":
    main()
