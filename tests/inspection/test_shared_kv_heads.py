"""Fewer kv heads than heads under to_q, to_kv and to_qkv: the rows are those that the module's own forward takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

import qkvinspect
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from tests.inspection.test_patterns import report

E, D = 48, 16


class Attention(nn.Module):
    """Attention as lucidrains' libraries write it, with as many kv heads as one likes."""

    def __init__(self, heads: int, kv_heads: int, *, fused: bool) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.fused = heads, kv_heads, fused
        if fused:
            self.to_qkv = nn.Linear(E, (heads + 2 * kv_heads) * D, bias=False)
        else:
            self.to_q = nn.Linear(E, heads * D, bias=False)
            self.to_kv = nn.Linear(E, 2 * kv_heads * D, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * D, E, bias=False), nn.Dropout(0))

    def projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.fused:
            widths = [self.heads * D, self.kv_heads * D, self.kv_heads * D]
            q, k, v = self.to_qkv(x).split(widths, dim=-1)
        else:
            q, (k, v) = self.to_q(x), self.to_kv(x).chunk(2, dim=-1)
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (some.unflatten(-1, (-1, D)).transpose(1, 2) for some in self.projected(x))
        read = scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.to_out(read.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("fused", [False, True], ids=["to_q and to_kv", "to_qkv"])
@pytest.mark.parametrize(("heads", "kv_heads"), [(8, 1), (8, 2), (4, 2), (4, 4), (1, 1)])
def test_the_rows_are_those_of_the_forward(tmp_path: Path, heads: int, kv_heads: int, fused: bool) -> None:
    module, x = Attention(heads, kv_heads, fused=fused), torch.randn(2, 5, E)
    expected = module(x)
    path = tmp_path / "model.safetensors"
    save_file({f"layers.0.{name}": value for name, value in module.state_dict().items()}, path)
    with open_checkpoint(path) as checkpoint:
        unknown = inspect(checkpoint)
        told = inspect(checkpoint, Options(heads=(f"{heads}/{kv_heads}",)))
    rows = [("q", (heads * D, E)), ("k", (kv_heads * D, E)), ("v", (kv_heads * D, E))]
    assert [(part.name, part.shape) for part in told.attentions[0].parts] == rows
    if fused and heads != kv_heads:  # V may be as wide, and have as many heads as Q and K
        assert unknown.attentions[0].candidates == ("to-qkv-fused", "pattern-wide-v")
        assert {finding.code for finding in unknown.findings} == {"ambiguous-layout"}
    else:
        assert [(part.name, part.shape) for part in unknown.attentions[0].parts] == rows
        assert {finding.code for finding in unknown.findings} == {"heads-unknown"}
    known = told.attentions[0].heads
    assert known is not None
    assert (known.num_heads, known.num_kv_heads, known.head_dim) == (heads, kv_heads, D)
    opened = qkvinspect.open(path, heads=f"{heads}/{kv_heads}").attentions["layers.0"]
    q, k, v = ((x @ part.torch().T).unflatten(-1, (-1, D)).transpose(1, 2) for part in (opened.q, opened.k, opened.v))
    read = scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(2)
    assert torch.allclose(module.to_out(read), expected, atol=1e-5)


@pytest.mark.parametrize(
    "rows",
    [
        {"to_q.weight": (128, E), "to_kv.weight": (96, E), "to_out.weight": (E, 128)},
        {"to_q.weight": (128, E), "to_kv.weight": (32, E), "to_out.weight": (E, 64)},
        {"to_q.weight": (64, E), "to_kv.weight": (33, E), "to_out.weight": (E, 64)},
        {"to_qkv.weight": (112, E), "to_out.weight": (E, 64), "norm.weight": (E,)},
    ],
    ids=["K is no share of Q", "the output reads less than Q", "odd", "no whole share"],
)
def test_rows_that_fit_no_heads_are_still_said(rows: dict[str, tuple[int, ...]]) -> None:
    found = report({f"layers.0.attn.{name}": shape for name, shape in rows.items()})
    assert found.attentions == ()
    assert "unexpected-shape" in {finding.code for finding in found.findings}
