"""Write names and shapes of real modules that are no attention, whatever their names suggest.

Usage: ``python decoys.py`` (see README.md for what to install). No values are kept.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from case import save_pretrained, save_state
from environment import prepare
from nesting import nest
from torch import nn

E = 16
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TEXT = {**IDS, "vocab_size": 12, "hidden_size": E, "num_hidden_layers": 1}
SSM = {**TEXT, "state_size": 4, "conv_kernel": 2, "expand": 2}


def hf(target: str, **kwargs: Any) -> Callable[[], nn.Module]:
    """A whole model of transformers, ``module:Class`` or ``Class``."""

    def build() -> nn.Module:
        home, _, name = target.rpartition(":")
        cls = getattr(importlib.import_module(f"transformers.models.{home}" if home else "transformers"), name)
        return cls(cls.config_class(**kwargs))

    return build


def one(target: str, prefix: str, *args: Any, **kwargs: Any) -> Callable[[], nn.Module]:
    """One block, held where its model holds it."""

    def build() -> nn.Module:
        home, _, name = target.partition(":")
        return nest(getattr(importlib.import_module(home), name)(*args, **kwargs), prefix)

    return build


def timm(name: str, **kwargs: Any) -> Callable[[], nn.Module]:
    return lambda: importlib.import_module("timm").create_model(name, num_classes=0, **kwargs)


LFM = {**TEXT, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 8, "layer_types": ["conv"]}
DAC = {"encoder_hidden_size": 4, "downsampling_ratios": [2], "decoder_hidden_size": 4, "upsampling_ratios": [2],
       "n_codebooks": 2, "codebook_size": 8, "codebook_dim": 3, "hidden_size": 8}  # fmt: skip
DECOYS: dict[str, Callable[[], nn.Module]] = {
    "transformers/MambaModel": hf("MambaModel", **SSM),
    "transformers/FalconMambaModel": hf("FalconMambaModel", **SSM),
    "transformers/Mamba2Model": hf("Mamba2Model", **SSM, num_heads=4, head_dim=8, n_groups=1),
    "transformers/Lfm2Model": hf("Lfm2Model", **LFM),
    "transformers/RwkvModel": hf(
        "RwkvModel", **{**TEXT, "num_hidden_layers": 2}, attention_hidden_size=E, intermediate_size=8
    ),
    "transformers/FNetModel": hf("FNetModel", **TEXT, intermediate_size=8),
    "transformers/FocalNetModel": hf(
        "FocalNetModel", embed_dim=8, depths=[1, 1], focal_levels=[1, 1], focal_windows=[3, 3], image_size=16
    ),
    "transformers/DacModel": hf("DacModel", **DAC),
    "transformers/RecurrentGemma-RGLRU": one(
        "transformers.models.recurrent_gemma.modeling_recurrent_gemma:RecurrentGemmaRglru",
        "layers.0.rg_lru",
        SimpleNamespace(num_attention_heads=4, lru_width=E),
    ),
    "transformers/PoolFormerModel": hf(
        "PoolFormerModel",
        hidden_sizes=[8, 8],
        depths=[1, 1],
        num_encoder_blocks=2,
        patch_sizes=[3, 3],
        strides=[2, 2],
        padding=[1, 1],
    ),
    "transformers/BarkMLP": one(
        "transformers.models.bark.modeling_bark:BarkMLP",
        "layers.0.mlp",
        SimpleNamespace(hidden_size=E, bias=False, dropout=0.0),
    ),
    "transformers/Phi3MLP": one(
        "transformers.models.phi3.modeling_phi3:Phi3MLP",
        "model.layers.0.mlp",
        SimpleNamespace(hidden_size=E, intermediate_size=24, hidden_act="silu"),
    ),
    "transformers/EncodecModel": hf(
        "EncodecModel",
        num_filters=2,
        hidden_size=8,
        upsampling_ratios=[2],
        num_lstm_layers=1,
        codebook_size=8,
        num_residual_layers=1,
    ),
    "transformers/MobileViTV2FFN": one(
        "transformers.models.mobilevitv2.modeling_mobilevitv2:MobileViTV2FFN",
        "layers.0.ffn",
        SimpleNamespace(hidden_act="relu", ffn_dropout=0.0),
        E,
        24,
    ),
    "torch/LSTM": lambda: nn.LSTM(E, E, 2, bidirectional=True),
    "torch/GRU": lambda: nn.GRU(E, E, 2),
    "torch/LSTM-proj": lambda: nn.LSTM(E, E, proj_size=8),
    "torch/LSTMCell": lambda: nn.LSTMCell(E, E),
    "torch/weight_norm": lambda: nest(nn.utils.weight_norm(nn.Linear(E, 3 * E)), "proj_v"),
    "torch/weight_norm-value": lambda: nest(nn.utils.weight_norm(nn.Linear(E, E)), "decoder.attn_free.value"),
    "torch/Bilinear": lambda: nn.Bilinear(E, E, 3),
    "timm/SwiGLUPacked": one("timm.layers:SwiGLUPacked", "blocks.0.mlp", E, 32),
    "timm/SwiGLU": one("timm.layers:SwiGLU", "blocks.0.mlp", E, 32),
    "timm/GluMlp": one("timm.layers:GluMlp", "blocks.0.mlp", E, 32),
    "timm/mixer": lambda: importlib.import_module("timm.models.mlp_mixer").MlpMixer(
        img_size=16, patch_size=8, embed_dim=E, num_blocks=1, num_classes=0
    ),
    "timm/focalnet": lambda: importlib.import_module("timm.models.focalnet").FocalNet(
        embed_dim=8, depths=(1, 1), focal_levels=(1, 1), focal_windows=(3, 3), num_classes=0
    ),
    "timm/convnext": timm("convnext_atto", depths=(1, 1, 1, 1), dims=(4, 4, 8, 8)),
    "timm/poolformer": lambda: importlib.import_module("timm.models.metaformer").MetaFormer(
        depths=(1, 1), dims=(8, 8), num_classes=0
    ),
    "timm/SqueezeExcite": one("timm.layers:SqueezeExcite", "se", E),
    "timm/GlobalContext": one("timm.layers:GlobalContext", "gc", E),
    "diffusers/AdaLayerNormZero": one(
        "diffusers.models.normalization:AdaLayerNormZero", "transformer_blocks.0.norm1", E
    ),
    "diffusers/AdaLayerNormZeroSingle": one(
        "diffusers.models.normalization:AdaLayerNormZeroSingle", "single_transformer_blocks.0.norm", E
    ),
    "diffusers/AdaLayerNormSingle": one("diffusers.models.normalization:AdaLayerNormSingle", "adaln_single", E),
    "diffusers/ResnetBlock2D": one(
        "diffusers.models.resnet:ResnetBlock2D",
        "down_blocks.0.resnets.0",
        in_channels=32,
        out_channels=32,
        temb_channels=8,
    ),
    "diffusers/FeedForward-geglu": one("diffusers.models.attention:FeedForward", "transformer_blocks.0.ff", E),
    "diffusers/Flux2Modulation": one(
        "diffusers.models.transformers.transformer_flux2:Flux2Modulation", "double_stream_modulation_img", E, 2
    ),
    "litgpt/LLaMAMLP": one(
        "litgpt.model:LLaMAMLP",
        "transformer.h.0.mlp",
        SimpleNamespace(n_embd=E, intermediate_size=24, bias=False, activation_function_kwargs=None),
    ),
    "x-transformers/FeedForward-glu": one("x_transformers.x_transformers:FeedForward", "layers.0.1", E, glu=True),
    "vit-pytorch/FeedForward": one("vit_pytorch.vit:FeedForward", "transformer.layers.0.1", E, 32),
    "moshi/ActivationGating": one(
        "moshi.modules.gating:ActivationGating", "transformer.layers.0.gating", E, 32, nn.functional.silu
    ),
}


def main() -> None:
    keep_alive = prepare()
    written: dict[str, Any] = {}
    for name, build in DECOYS.items():
        try:
            module = build()
            tensors, config = (save_pretrained if hasattr(module, "save_pretrained") else save_state)(module)
        except Exception as error:
            print(f"FAILED {name}: {type(error).__name__}: {str(error)[:200]}")
            continue
        written[name] = {
            "config": config,
            "tensors": {key: [str(t.dtype).removeprefix("torch."), list(t.shape)] for key, t in tensors.items()},
        }
    lines = [f"{json.dumps(name)}: {json.dumps(entry, sort_keys=True)}" for name, entry in sorted(written.items())]
    path = Path(__file__).parent / "captured" / "decoys.json"
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{len(written)} decoys, {path.stat().st_size} bytes")
    del keep_alive


if __name__ == "__main__":
    main()
