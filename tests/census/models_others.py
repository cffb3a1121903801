"""Layers of libraries whose models need more than themselves: built alone, under the path that their models give."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from tests.census.model import Model

Maker = Callable[[Any], nn.Module]
Runner = Callable[[nn.Module], object]
X = (2, 7, 32)


def _self(module: nn.Module) -> object:
    return module(torch.randn(X))


def _three(module: nn.Module) -> object:
    tokens = torch.randn(X)
    return module(tokens, tokens, tokens)


def _three_and_none(module: nn.Module) -> object:
    tokens = torch.randn(X)
    return module(tokens, tokens, tokens, None)


def _positions(module: nn.Module) -> object:
    tokens = torch.randn(X)
    return module(tokens, tokens, tokens, pos_embs=torch.randn(1, 13, 32))


LAYERS: tuple[tuple[str, str, str, Maker, Runner, str], ...] = (
    ("torch", "torch.nn", "TransformerEncoderLayer", lambda m: m.TransformerEncoderLayer(32, 4), _self,
     "encoder.layers.0"),
    ("torch", "torch.nn", "TransformerDecoderLayer", lambda m: m.TransformerDecoderLayer(32, 4),
     lambda d: d(torch.randn(X), torch.randn(X)), "decoder.layers.0"),
    ("torch", "torch.nn", "MultiheadAttention.kdim", lambda m: m.MultiheadAttention(32, 4, kdim=32, vdim=24),
     lambda a: a(torch.randn(X), torch.randn(X), torch.randn(2, 7, 24)), "attn"),
    ("speechbrain", "speechbrain.nnet.attention", "MultiheadAttention", lambda m: m.MultiheadAttention(4, 32), _three,
     "encoder.layers.0.self_att"),
    ("speechbrain", "speechbrain.nnet.attention", "RelPosMHAXL", lambda m: m.RelPosMHAXL(32, 4), _positions,
     "encoder.layers.0.mha_layer"),
    ("speechbrain", "speechbrain.nnet.attention", "RoPEMHA", lambda m: m.RoPEMHA(32, 4), _three,
     "encoder.layers.0.mha_layer"),
    ("espnet", "espnet2.legacy.nets.pytorch_backend.transformer.attention", "MultiHeadedAttention",
     lambda m: m.MultiHeadedAttention(4, 32, 0.0), _three_and_none, "encoders.0.self_attn"),
    ("espnet", "espnet.nets.pytorch_backend.transformer.attention", "MultiHeadedAttention",
     lambda m: m.MultiHeadedAttention(4, 32, 0.0), _three_and_none, "encoders.0.self_attn"),
    ("esm", "esm.layers.attention", "MultiHeadAttention", lambda m: m.MultiHeadAttention(32, 4),
     lambda a: a(torch.randn(X), None), "transformer.blocks.0.attn"),
    ("torchvision", "torchvision.models.vision_transformer", "vit_b_16",
     lambda m: m.VisionTransformer(32, 16, 2, 4, 32, 64), lambda v: v(torch.randn(1, 3, 32, 32)), ""),
    ("torchvision", "torchvision.models.swin_transformer", "swin_t",
     lambda m: m.SwinTransformer([4, 4], 32, [1, 1], [2, 4], [4, 4]), lambda v: v(torch.randn(1, 3, 64, 64)), ""),
    ("torchvision", "torchvision.models.swin_transformer", "swin_v2_t",
     lambda m: m.SwinTransformer([4, 4], 32, [1, 1], [2, 4], [4, 4], block=m.SwinTransformerBlockV2,
                                 downsample_layer=m.PatchMergingV2),
     lambda v: v(torch.randn(1, 3, 64, 64)), ""),
    ("torchvision", "torchvision.models.maxvit", "maxvit_t",
     lambda m: m.maxvit_t(), lambda v: v(torch.randn(1, 3, 224, 224)), ""),
    ("openai-whisper", "whisper.model", "Whisper",
     lambda m: m.Whisper(m.ModelDimensions(80, 50, 32, 4, 2, 100, 16, 32, 4, 2)),
     lambda w: w(torch.randn(1, 80, 100), torch.arange(5)[None]), ""),
    ("segment-anything", "segment_anything.modeling.image_encoder", "ImageEncoderViT",
     lambda m: m.ImageEncoderViT(64, 16, embed_dim=32, depth=2, num_heads=4, out_chans=16, use_rel_pos=True,
                                 window_size=2, global_attn_indexes=(1,)),
     lambda e: e(torch.randn(1, 3, 64, 64)), "image_encoder"),
    ("segment-anything", "segment_anything.modeling.transformer", "TwoWayTransformer",
     lambda m: m.TwoWayTransformer(2, 32, 4, 64),
     lambda t: t(torch.randn(1, 32, 4, 4), torch.randn(1, 32, 4, 4), torch.randn(1, 3, 32)),
     "mask_decoder.transformer"),
    ("litgpt", "litgpt.model", "GPT",
     lambda m: m.GPT(m.Config(block_size=16, padded_vocab_size=64, n_layer=2, n_head=4, n_query_groups=2, n_embd=32)),
     lambda g: g(torch.arange(5)[None]), ""),
    ("torch_geometric", "torch_geometric.nn.attention", "PerformerAttention",
     lambda m: m.PerformerAttention(32, 4, 8), lambda a: a(torch.randn(X)), "layers.0.attn"),
    ("torch_geometric", "torch_geometric.nn.attention", "SGFormerAttention",
     lambda m: m.SGFormerAttention(32, 4, 8), lambda a: a(torch.randn(X)), "layers.0.attn"),
    ("torch_geometric", "torch_geometric.nn.conv", "TransformerConv", lambda m: m.TransformerConv(32, 8, heads=4),
     lambda c: c(torch.randn(5, 32), torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])), "convs.0"),
    ("nemo", "nemo.collections.asr.parts.submodules.multi_head_attention", "MultiHeadAttention",
     lambda m: m.MultiHeadAttention(4, 32, 0.0), _three_and_none, "encoder.layers.0.self_attn"),
    ("nemo", "nemo.collections.asr.parts.submodules.multi_head_attention", "RelPositionMultiHeadAttention",
     lambda m: m.RelPositionMultiHeadAttention(4, 32, 0.0, None, None),
     lambda a: a(torch.randn(X), torch.randn(X), torch.randn(X), None, torch.randn(1, 13, 32)),
     "encoder.layers.0.self_attn"),
    ("boltz", "boltz.model.layers.attention", "AttentionPairBias", lambda m: m.AttentionPairBias(32, 16, 4),
     lambda a: a(torch.randn(X), torch.randn(2, 7, 7, 16), torch.ones(2, 7)), "trunk.layers.0.attention"),
    ("coqui-tts", "TTS.tts.layers.glow_tts.transformer", "RelativePositionMultiHeadAttention",
     lambda m: m.RelativePositionMultiHeadAttention(32, 32, 4, rel_attn_window_size=4),
     lambda a: a(torch.randn(2, 32, 7), torch.randn(2, 32, 7)), "encoder.attn_layers.0"),
    ("audiocraft", "audiocraft.modules.transformer", "StreamingTransformer",
     lambda m: m.StreamingTransformer(32, 4, 2, 64, causal=True), _self, "transformer"),
    ("moshi", "moshi.modules.transformer", "StreamingTransformer",
     lambda m: m.StreamingTransformer(32, 4, 2, 64, causal=True, context=16), _self, "transformer"),
    ("monai", "monai.networks.blocks.selfattention", "SABlock", lambda m: m.SABlock(32, 4), _self, "blocks.0.attn"),
    ("monai", "monai.networks.blocks.crossattention", "CrossAttentionBlock",
     lambda m: m.CrossAttentionBlock(32, 4), _self, "blocks.0.cross_attn"),
    ("ultralytics", "ultralytics.nn.modules.block", "Attention", lambda m: m.Attention(32, 4),
     lambda a: a(torch.randn(1, 32, 4, 4)), "model.10.m.0.attn"),
    ("ultralytics", "ultralytics.nn.modules.block", "AAttn", lambda m: m.AAttn(32, 4),
     lambda a: a(torch.randn(1, 32, 4, 4)), "model.6.m.0.0.attn"),
    ("uni2ts", "uni2ts.module.attention", "GroupedQueryAttention", lambda m: m.GroupedQueryAttention(32, 4, 2),
     _three, "module.encoder.layers.0.self_attn"),
    ("pytorch-forecasting", "pytorch_forecasting.models.temporal_fusion_transformer.sub_modules",
     "InterpretableMultiHeadAttention", lambda m: m.InterpretableMultiHeadAttention(4, 32), _three, "multihead_attn"),
    ("linformer", "linformer", "Linformer", lambda m: m.Linformer(32, 7, 2, k=4, heads=4), _self, ""),
    ("conformer", "conformer", "ConformerBlock", lambda m: m.ConformerBlock(dim=32, dim_head=8, heads=4), _self,
     "layers.0"),
    ("performer-pytorch", "performer_pytorch", "Performer",
     lambda m: m.Performer(dim=32, depth=2, heads=4, dim_head=8), _self, ""),
    ("torchaudio", "torchaudio.models", "Emformer", lambda m: m.Emformer(32, 4, 64, 2, 4, right_context_length=1),
     lambda e: e(torch.randn(2, 9, 32), torch.tensor([9, 9])), "emformer"),
    ("torchaudio", "torchaudio.models", "Conformer", lambda m: m.Conformer(32, 4, 64, 2, 3),
     lambda c: c(torch.randn(X), torch.tensor([7, 7])), "conformer"),
    ("torchaudio", "torchaudio.models", "wav2vec2_model",
     lambda m: m.wav2vec2_model("group_norm", [(32, 10, 5), (32, 3, 2)], False, 32, 0.1, 16, 4, 2, 4, 0.1, 64, 0.1, 0.1,
                                False, 0.1, None),
     lambda w: w(torch.randn(1, 4000)), ""),
    ("torchscale", "torchscale.component.multihead_attention", "MultiheadAttention",
     lambda m: m.MultiheadAttention(__import__("argparse").Namespace(multiway=False, layernorm_eps=1e-5,
                                    xpos_rel_pos=False, flash_attention=False), 32, 4, self_attention=True,
                                    subln=True),
     _three, "encoder.layers.0.self_attn"),
    ("torchtune", "torchtune.models.llama3", "llama3",
     lambda m: m.llama3(vocab_size=64, num_layers=2, num_heads=4, num_kv_heads=2, embed_dim=32, max_seq_len=16,
                        intermediate_dim=64),
     lambda t: t(torch.arange(5)[None]), ""),
    ("kornia", "kornia.feature.loftr.loftr_module.transformer", "LoFTREncoderLayer",
     lambda m: m.LoFTREncoderLayer(32, 4), lambda e: e(torch.randn(X), torch.randn(X)), "loftr_coarse.layers.0"),
    ("kornia", "kornia.feature.lightglue", "CrossBlock", lambda m: m.CrossBlock(32, 4),
     lambda c: c(torch.randn(X), torch.randn(X)), "transformers.0.cross_attn"),
    ("pytorchvideo", "pytorchvideo.layers.attention", "MultiScaleAttention",
     lambda m: m.MultiScaleAttention(32, num_heads=4, has_cls_embed=False),
     lambda a: a(torch.randn(2, 8, 32), [2, 2, 2]), "blocks.0.attn"),
    ("neuralforecast", "neuralforecast.common._modules", "AttentionLayer",
     lambda m: m.AttentionLayer(m.FullAttention(False), 32, 4), _three_and_none,
     "encoder.attn_layers.0.attention"),
    ("dinov2", "dinov2.layers.attention", "Attention", lambda m: m.Attention(32, 4), _self, "blocks.0.attn"),
    ("CoLT5-attention", "colt5_attention.transformer_block", "SelfAttention",
     lambda m: m.SelfAttention(dim=32, heads=4, dim_head=8), _self, "layers.0.attn"),
    ("alphafold3-pytorch", "alphafold3_pytorch.attention", "Attention",
     lambda m: m.Attention(dim=32, heads=4, dim_head=8), _self, "layers.0.attn"),
    ("torch_geometric", "torch_geometric.nn.aggr.utils", "MultiheadAttentionBlock",
     lambda m: m.MultiheadAttentionBlock(32, 4), lambda a: a(torch.randn(X), torch.randn(X)), "encoders.0"),
    ("torch_geometric", "torch_geometric.nn.conv", "HGTConv",
     lambda m: m.HGTConv(32, 32, (["a"], [("a", "to", "a")]), heads=4),
     lambda c: c({"a": torch.randn(5, 32)}, {("a", "to", "a"): torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])}), "convs.0"),
    ("torch_geometric", "torch_geometric.nn.conv", "ResGatedGraphConv", lambda m: m.ResGatedGraphConv(32, 32),
     lambda c: c(torch.randn(5, 32), torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])), "convs.0"),
    ("espnet", "espnet.nets.pytorch_backend.transformer.attention", "RelPositionMultiHeadedAttention",
     lambda m: m.RelPositionMultiHeadedAttention(4, 32, 0.0),
     lambda a: a(torch.randn(X), torch.randn(X), torch.randn(X), torch.randn(1, 13, 32), None), "encoders.0.self_attn"),
    ("boltz", "boltz.model.layers.triangular_attention.attention", "TriangleAttentionStartingNode",
     lambda m: m.TriangleAttentionStartingNode(32, 8, 4), lambda a: a(torch.randn(1, 5, 5, 32)),
     "pairformer.layers.0.tri_att_start"),
    ("coqui-tts", "TTS.tts.layers.tortoise.arch_utils", "AttentionBlock", lambda m: m.AttentionBlock(32, 4),
     lambda a: a(torch.randn(2, 32, 7)), "conditioning_encoder.attn.0"),
)  # fmt: skip


class _Placed(nn.Module):
    """A layer under the path that it has in a model."""

    def __init__(self, path: str, layer: nn.Module) -> None:
        super().__init__()
        *above, last = path.split(".")
        at: nn.Module = self
        for name in above:
            at.add_module(name, nn.Module())
            at = at.get_submodule(name)
        at.add_module(last, layer)
        self.layer = [layer]


def _build(home: str, maker: Maker, path: str) -> nn.Module:
    layer = maker(importlib.import_module(home))
    return _Placed(path, layer) if path else layer


def _run(module: nn.Module, runner: Runner) -> object:
    return runner(module.layer[0] if isinstance(module, _Placed) else module)


def models() -> Iterator[Model]:
    for lib, home, name, maker, runner, path in LAYERS:
        yield Model(
            lib,
            name,
            lambda home=home, maker=maker, path=path: _build(home, maker, path),
            lambda module, runner=runner: _run(module, runner),
        )
