"""A fused tensor under a name that many have, whose V is wider or narrower than Q and K: right, or both readings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

import qkvinspect
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.inspection.hypotheses import Hypotheses
from qkvinspect.inspection.match import Asked, find_attentions
from qkvinspect.inspection.names import Names
from qkvinspect.inspection.split import unsplit
from qkvinspect.layouts import LAYOUTS
from qkvinspect.weights.encodings import weights_of
from tests.inspection.test_patterns import report

E = 32


class Attention(nn.Module):
    """Attention whose heads of V have another width than those of Q and K, as in LeViT, RetNet and YOLO."""

    def __init__(self, heads: int, key: int, value: int) -> None:
        super().__init__()
        self.widths, self.heads = (heads * key, heads * key, heads * value), heads
        self.qkv = nn.Linear(E, sum(self.widths))
        self.proj = nn.Linear(heads * value, E)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (some.unflatten(-1, (self.heads, -1)).transpose(1, 2) for some in self.qkv(x).split(self.widths, -1))
        return self.proj(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    ("heads", "key", "value", "open"),
    [(4, 8, 16, True), (4, 8, 24, True), (4, 4, 16, True), (4, 8, 12, False), (4, 16, 8, False), (2, 8, 6, False)],
)
def test_the_rows_are_those_of_the_forward(tmp_path: Path, heads: int, key: int, value: int, open: bool) -> None:
    module, x = Attention(heads, key, value), torch.randn(2, 5, E)
    expected = module(x)
    path = tmp_path / "model.safetensors"
    save_file({f"blocks.0.mix.{name}": some for name, some in module.state_dict().items()}, path)
    with open_checkpoint(path) as checkpoint:
        (found,) = inspect(checkpoint).attentions
        told = inspect(checkpoint, Options(heads=(f"{heads}/{heads}",))).attentions[0].heads
    assert found.candidates == (("timm-vit", "pattern-wide-v") if open else ("pattern-wide-v",))
    assert told is not None
    assert (told.num_heads, told.num_kv_heads, told.head_dim, told.v_head_dim) == (heads, heads, key, value)
    opened = qkvinspect.open(path, heads=f"{heads}/{heads}").attentions["blocks.0.mix"]
    state = module.state_dict()
    assert torch.equal(torch.cat([opened.q.torch(), opened.k.torch(), opened.v.torch()]), state["qkv.weight"])
    biases = state["qkv.bias"].split(module.widths)
    q, k, v = (
        (x @ part.torch().T + bias).unflatten(-1, (heads, -1)).transpose(1, 2)
        for part, bias in zip((opened.q, opened.k, opened.v), biases, strict=True)
    )
    assert torch.allclose(module.proj(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)), expected)


def _shapes(rows: int, out: int) -> dict[str, tuple[int, ...]]:
    return {
        f"blocks.{i}.attn.{n}": s
        for i in (0, 1)
        for n, s in {"qkv.weight": (rows, 64), "proj.weight": (64, out)}.items()
    }


@pytest.mark.parametrize(
    ("said", "layout", "heads"),
    [
        ({"num_attention_heads": 8, "num_key_value_heads": 2}, "timm-vit", (8, 2, 8)),
        ({"num_attention_heads": 8, "num_key_value_heads": 8}, "pattern-wide-v", (8, 8, 2)),
        ({"num_attention_heads": 32}, "timm-vit", (32, 8, 2)),
        ({"num_attention_heads": 2}, "pattern-wide-v", (2, 2, 8)),
        ({"num_attention_heads": 8}, None, None),
    ],
)
def test_a_config_that_only_one_reading_allows_settles_it(
    tmp_path: Path, said: dict[str, int], layout: str | None, heads: tuple[int, ...] | None
) -> None:
    save_file({name: torch.zeros(shape) for name, shape in _shapes(96, 64).items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(said))
    with open_checkpoint(tmp_path) as checkpoint:
        (found, _) = inspect(checkpoint).attentions
    known = found.heads
    assert (found.layout and found.layout.id) == layout
    assert (known and (known.num_heads, known.num_kv_heads, known.head_dim)) == heads


@pytest.mark.parametrize(
    ("rows", "out", "candidates"),
    [(192, 64, ("timm-vit",)), (2 * 48 + 64, 64, ("pattern-wide-v",)), (2 * 21 + 64, 64, ())],
    ids=["as wide", "no share of Q", "no number of heads"],
)
def test_what_the_output_reads_settles_what_it_can(rows: int, out: int, candidates: tuple[str, ...]) -> None:
    found = report(_shapes(rows, out))
    assert [one.candidates for one in found.attentions] == [candidates] * 2 * bool(candidates)
    assert candidates or {finding.code for finding in found.findings} == {"unexpected-shape"}


def test_trained_weights_settle_it(tmp_path: Path) -> None:
    """Of each head of a trained model half the rows of Q and K are left, and all of V."""
    with safe_open(Path(__file__).parents[2] / "sample_checkpoints/trained.safetensors", "pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    heads, made = 4, dict[str, Tensor]()
    for name in [name for name in state if name.endswith("self_attn.in_proj_weight")]:
        layer = name.removesuffix(".in_proj_weight")
        q, k, v = state[name].chunk(3)
        half = [part.unflatten(0, (heads, -1)).chunk(2, dim=1)[0].flatten(0, 1) for part in (q, k)]
        made |= {
            f"{layer}.qkv.weight": torch.cat([*half, v]),
            f"{layer}.proj.weight": state[f"{layer}.out_proj.weight"],
        }
    save_file(made, tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path / "model.safetensors") as checkpoint:
        unasked = inspect(checkpoint, Options(norms=False))
        asked = inspect(checkpoint, Options(norms=False, evidence="wanted"))
    assert {one.candidates for one in unasked.attentions} == {("timm-vit", "pattern-wide-v")}
    assert {(one.candidates, one.layout_from) for one in asked.attentions} == {(("pattern-wide-v",), "weights")}


def test_the_heads_of_either_reading_are_weighed(tmp_path: Path) -> None:
    """Six heads divide the 192 rows of Q that share two of K and V, and not all 320."""
    shapes = {"attn.Wqkv.weight": (320, 192), "attn.out_proj.weight": (192, 192)}
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "m.safetensors")
    with open_checkpoint(tmp_path / "m.safetensors") as checkpoint:
        names = Names(weights_of(checkpoint))
        (match,) = find_attentions(names, LAYOUTS, (), Asked()).matches
        assert len(match.candidates) == 2
        assert {2, 4, 6} <= set(Hypotheses([match], unsplit(match), names).counts())
