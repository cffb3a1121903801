"""Rows that were read in a repository's source, against the few lines of that source that take Q, K and V apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect

E, H, D, N = 32, 4, 8, 5
Parts = tuple[Tensor, Tensor, Tensor]
Reference = Callable[[Tensor, Tensor], Parts]
"""From the weight and tokens [N, E] to Q, K and V, each [H, N, D], as the source computes them."""


def edm(weight: Tensor, tokens: Tensor) -> Parts:
    image = torch.nn.functional.conv2d(tokens.T.reshape(1, E, N, 1), weight)
    q, k, v = image.reshape(H, E // H, 3, -1).unbind(2)
    return q.mT, k.mT, v.mT


def lightglue(weight: Tensor, tokens: Tensor) -> Parts:
    qkv = (tokens @ weight.T).unflatten(-1, (H, -1, 3)).transpose(0, 1)
    return qkv[..., 0], qkv[..., 1], qkv[..., 2]


def point_e(weight: Tensor, tokens: Tensor) -> Parts:
    q, k, v = torch.split((tokens @ weight.T).view(N, H, -1), D, dim=-1)
    return q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1)


def restormer(weight: Tensor, tokens: Tensor) -> Parts:
    parts = torch.nn.functional.conv2d(tokens.T.reshape(1, E, N, 1), weight).chunk(3, dim=1)
    q, k, v = (part.reshape(H, D, N).mT for part in parts)
    return q, k, v


def jukebox(weight: Tensor, tokens: Tensor) -> Parts:
    q, k, v = (part.view(N, H, D).transpose(0, 1) for part in (tokens @ weight).chunk(3, dim=-1))
    return q, k, v


def self_attention_cv(weight: Tensor, tokens: Tensor) -> Parts:
    """rearrange(qkv, 'b t (d k h ) -> k b h t d ', k=3, h=heads)"""
    q, k, v = (tokens @ weight.T).unflatten(-1, (D, 3, H)).permute(2, 3, 0, 1)
    return q, k, v


def nemo_tts(weight: Tensor, tokens: Tensor) -> Parts:
    q, k, v = (tokens @ weight.T).reshape(N, 3, H, D).chunk(3, dim=1)
    return q.squeeze(1).transpose(0, 1), k.squeeze(1).transpose(0, 1), v.squeeze(1).transpose(0, 1)


def _beside(layer: str, **shapes: tuple[int, ...]) -> dict[str, Tensor]:
    return {f"{layer}.{name.replace('__', '.')}": torch.zeros(shape) for name, shape in shapes.items()}


CASES: dict[str, tuple[str, tuple[int, ...], dict[str, Tensor], Reference]] = {
    "edm": ("b.qkv.weight", (3 * E, E, 1, 1), _beside("b", affine__weight=(E, E), conv0__weight=(E, E, 3, 3),
            norm2__weight=(E,), proj__weight=(E, E, 1, 1)), edm),
    "edm2": ("b.attn_qkv.weight", (3 * E, E, 1, 1), _beside("b", conv_res0__weight=(E, E, 3, 3),
             attn_proj__weight=(E, E, 1, 1)), edm),
    "lightglue": ("self_attn.Wqkv.weight", (3 * E, E), _beside("self_attn", out_proj__weight=(E, E),
                  ffn__0__weight=(2 * E, 2 * E), ffn__1__weight=(2 * E,), ffn__3__weight=(E, 2 * E)), lightglue),
    "point-e": ("attn.c_qkv.weight", (3 * E, E), _beside("attn", c_proj__weight=(E, E)), point_e),
    "restormer": ("attn.qkv.weight", (3 * E, E, 1, 1), _beside("attn", qkv_dwconv__weight=(3 * E, 1, 3, 3),
                  temperature=(H, 1, 1), project_out__weight=(E, E, 1, 1)), restormer),
    "self-attention-cv": ("mhsa.to_qvk.weight", (3 * E, E), _beside("mhsa", W_0__weight=(E, E)), self_attention_cv),
    "transformer-xl": ("l.self_attention.qkv_net.weight", (3 * E, E), _beside("l.self_attention", o_net__weight=(E, E)),
                 nemo_tts),
    "jukebox": ("attn.c_attn.w", (E, 3 * E), _beside("attn", c_proj__w=(E, E)), jukebox),
}  # fmt: skip


@pytest.mark.parametrize("id", CASES)
def test_rows_are_what_the_source_computes(tmp_path: Path, id: str) -> None:
    name, shape, beside, reference = CASES[id]
    weight, tokens = torch.randn(shape), torch.randn(N, E)
    save_file({name: weight, **beside}, tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path / "model.safetensors") as checkpoint:
        (attention,) = inspect(checkpoint, Options(norms=False, heads=(str(H),))).attentions
    assert attention.layout is not None
    assert attention.layout.id == id
    matrix = weight if attention.parts[0].orientation == "out_in" else weight.T
    matrix = matrix.reshape(3 * E, E)
    for part, expected in zip(attention.parts, reference(weight, tokens), strict=True):
        rows = [torch.cat([matrix[r.start : r.stop : r.step] for r in (head,)]) for head in part.heads]
        torch.testing.assert_close(torch.stack([tokens @ own.T for own in rows]), expected)


def test_heads_that_alternate_in_tensors_of_their_own(tmp_path: Path) -> None:
    """PolynormerAttention: ``self.k(x).view(..., head_channels, heads)``, and V alike."""
    tensors = {f"attn.{name}.weight": torch.randn(E, E) for name in ("k", "v", "h_lins", "lin_out")}
    save_file(tensors, tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path / "model.safetensors") as checkpoint:
        (attention,) = inspect(checkpoint, Options(norms=False, heads=(str(H),))).attentions
    for part in attention.parts:
        expected = tensors[f"attn.{part.name}.weight"].unflatten(0, (D, H)).transpose(0, 1)
        stored = tensors[part.weight.name]
        own = torch.stack([stored[head.start : head.stop : head.step] for head in part.heads])
        torch.testing.assert_close(own, expected)


def test_keys_and_values_of_nemo_s_speech_decoder(tmp_path: Path) -> None:
    """``self.kv_net(memory).reshape(B, T, 2, n_heads, d_head).chunk(2, dim=2)``"""
    shapes = {"q_net": (E, E), "kv_net": (2 * E, 24), "o_net": (E, E)}
    tensors = {f"l.cross_attention.{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path / "model.safetensors") as checkpoint:
        (attention,) = inspect(checkpoint, Options(norms=False, heads=(str(H),))).attentions
    stored = tensors["l.cross_attention.kv_net.weight"]
    _, *both = attention.parts
    for part, expected in zip(both, stored.reshape(2, H, D, 24), strict=True):
        assert torch.equal(torch.stack([stored[head.start : head.stop] for head in part.heads]), expected)
