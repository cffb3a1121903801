"""Small models of transformers and timm, whose attention is torch's scaled_dot_product_attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 40,
    "max_position_embeddings": 32,
}
FEW: dict[str, Any] = {"num_key_value_heads": 2}
TEXT: dict[str, dict[str, Any]] = {
    "Bert": SIZES,
    "Roberta": {**SIZES, "pad_token_id": 0},
    "Electra": {**SIZES, "embedding_size": 32},
    "Albert": {**SIZES, "embedding_size": 16},
    "DistilBert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "vocab_size": 40},
    "Llama": {**SIZES, **FEW},
    "Mistral": {**SIZES, **FEW, "head_dim": 8},
    "Qwen2": {**SIZES, **FEW},
    "Qwen3": {**SIZES, **FEW, "head_dim": 8},
    "Gemma": {**SIZES, **FEW, "head_dim": 16},
    "Gemma2": {**SIZES, **FEW, "head_dim": 8},
    "Olmo2": {**SIZES, **FEW},
    "Phi": {**SIZES, "partial_rotary_factor": 0.5},
    "Phi3": {**SIZES, **FEW, "pad_token_id": 0},
    "StableLm": {**SIZES, **FEW},
    "Starcoder2": {**SIZES, **FEW},
    "Cohere": {**SIZES, **FEW},
    "Granite": {**SIZES, **FEW},
    "Glm": {**SIZES, **FEW, "head_dim": 8, "pad_token_id": 0},
    "GPTNeoX": SIZES,
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 40, "n_positions": 32},
    "GPTBigCode": {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 40, "n_positions": 32},
    "Falcon": {**SIZES, "alibi": False, "new_decoder_architecture": True, "num_kv_heads": 2},
    "OPT": {**SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "ModernBert": {**SIZES, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1},
    "Persimmon": SIZES,
    "Nemotron": {**SIZES, **FEW, "head_dim": 8},
}
OTHER_FALCON: dict[str, Any] = {**SIZES, "alibi": False, "multi_query": True, "new_decoder_architecture": False}
ALIKE_FALCON: dict[str, Any] = {**SIZES, "alibi": False, "multi_query": False, "new_decoder_architecture": False}
IMAGES: dict[str, dict[str, Any]] = {
    kind: {**SIZES, "image_size": 16, "patch_size": 8}
    for kind in ("ViT", "DeiT", "Dinov2", "SiglipVision", "CLIPVision", "ViTMAE")
}
TIMM = {
    "vit_tiny_patch16_224": {"embed_dim": 32, "depth": 2, "num_heads": 4, "img_size": 32},
    "vit_base_patch16_clip_224": {"embed_dim": 32, "depth": 2, "num_heads": 4, "img_size": 32},
    "deit3_small_patch16_224": {"embed_dim": 32, "depth": 2, "num_heads": 4, "img_size": 32},
    "beit_base_patch16_224": {"embed_dim": 32, "depth": 2, "num_heads": 4, "img_size": 32},
    "eva02_tiny_patch14_224": {"embed_dim": 32, "depth": 2, "num_heads": 4, "img_size": 28},
    "eva_giant_patch14_224": {"embed_dim": 32, "depth": 2, "num_heads": 4, "img_size": 28},
    "swin_tiny_patch4_window7_224": {"embed_dim": 16, "depths": (1, 1), "num_heads": (2, 4), "img_size": 56},
    "pvt_v2_b0": {
        "embed_dims": (8, 16),
        "depths": (1, 1),
        "num_heads": (1, 2),
        "sr_ratios": (8, 4),
        "mlp_ratios": (2, 2),
    },
    "twins_svt_small": {"embed_dims": (16, 32, 32, 32), "depths": (1, 1, 1, 1), "num_heads": (2, 4, 4, 4)},
    "cait_xxs24_224": {"embed_dim": 32, "depth": 1, "num_heads": 4, "img_size": 32},
    "levit_128s": {},
    "mvitv2_tiny": {},
    "maxvit_nano_rw_256": {},
    "coat_lite_tiny": {},
}


class First(nn.Module):
    """A model that gives one tensor."""

    def __init__(self, model: nn.Module, *inputs: str, **options: Any) -> None:
        super().__init__()
        self.model = model
        self.inputs = inputs
        self.options = options

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        out = self.model(**dict(zip(self.inputs, given, strict=True)), **self.options)
        return out[0] if not isinstance(out, torch.Tensor) else out


_DECLARED: list[Any] = []


def declare_operators() -> None:
    """Two of torchvision, which timm imports: its build for GPUs cannot register its kernels."""
    if not _DECLARED:
        _DECLARED.append(torch.library.Library("torchvision", "DEF"))
        for name in ("nms", "qnms"):
            _DECLARED[0].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


Case = tuple[str, nn.Module, tuple[Any, ...], Any, dict[str, Any]]


def libraries(watch: Callable[[], Any]) -> Iterator[Case]:
    """Every model, with what it is given."""
    declare_operators()
    import timm
    import transformers

    ids, mask = torch.randint(3, 40, (1, 6)), torch.ones(1, 6, dtype=torch.int64)
    texts = [(name, name, sizes) for name, sizes in TEXT.items()]
    texts += [("Falcon7B", "Falcon", OTHER_FALCON), ("FalconRW", "Falcon", ALIKE_FALCON)]
    for name, kind, sizes in texts:
        try:
            config = getattr(transformers, f"{kind}Config")(**sizes, attn_implementation="sdpa")
            model = getattr(transformers, f"{kind}Model")(config)
        except Exception as error:
            print(f"{name}: not made: {str(error).splitlines()[0][:120]}")
            continue
        yield f"hf{name}", First(model, "input_ids", "attention_mask", return_dict=False), (ids, mask), watch(), {}
    for kind, sizes in IMAGES.items():
        config = getattr(transformers, f"{kind}Config")(**sizes, attn_implementation="sdpa")
        model = getattr(transformers, f"{kind}Model")(config)
        yield f"hf{kind}", First(model, "pixel_values", return_dict=False), (torch.randn(1, 3, 16, 16),), watch(), {}
    both: dict[str, Any] = {
        f"{side}_{key}": value
        for side in ("encoder", "decoder")
        for key, value in (("layers", 1), ("attention_heads", 4), ("ffn_dim", 48))
    }
    both |= {"vocab_size": 40, "d_model": 32, "attn_implementation": "sdpa", "pad_token_id": 0, "bos_token_id": 1}
    both |= {"eos_token_id": 2, "decoder_start_token_id": 1}
    options: dict[str, Any] = {"use_cache": False, "return_dict": False}
    whisper = transformers.WhisperConfig(**both, max_source_positions=10, num_mel_bins=8)
    model = First(transformers.WhisperModel(whisper), "input_features", "decoder_input_ids", **options)
    yield "hfWhisper", model, (torch.randn(1, 8, 20), ids), watch(), {}
    bart = transformers.BartConfig(**both, max_position_embeddings=32)
    model = First(transformers.BartModel(bart), "input_ids", "attention_mask", **options)
    yield "hfBart", model, (ids, mask), watch(), {}
    for name, sizes in TIMM.items():
        try:
            model = timm.create_model(name, num_classes=0, **sizes)
            side = model.default_cfg["input_size"][-1] if "img_size" not in sizes else sizes["img_size"]
        except Exception as error:
            print(f"{name}: not made: {str(error).splitlines()[0][:120]}")
            continue
        yield f"timm-{name}", model, (torch.randn(1, 3, side, side),), watch(), {}
