"""Heads in the rows of another packing: as if its layout had been split, of which all is known already."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import alternatives
from qkvinspect.inspection.hypotheses import Hypotheses
from qkvinspect.inspection.match import Asked, find_attentions
from qkvinspect.inspection.names import Names
from qkvinspect.inspection.report import Attention
from qkvinspect.inspection.split import unsplit
from qkvinspect.layouts import LAYOUTS
from qkvinspect.weights.encodings import weights_of

OUT = {"self_attn.out_proj.weight": (48, 48)}
STORED = {
    "fused": {"self_attn.in_proj_weight": (144, 48), "self_attn.in_proj_bias": (144,), **OUT},
    "fused by columns": {"attn.c_attn.weight": (48, 144), "attn.c_attn.bias": (144,), "attn.c_proj.weight": (48, 48)},
    "split": {f"self_attn.{part}_proj.weight": (48, 48) for part in "qkvo"},
    "split, GQA": {f"self_attn.{part}_proj.weight": (48 if part in "qo" else 16, 48) for part in "qkvo"},
    "interleaved": {"attention.query_key_value.weight": (144, 48), "attention.dense.weight": (48, 48)},
    "fused, GQA": {"self_attn.qkv_proj.weight": (80, 48), "self_attn.o_proj.weight": (48, 48)},
    "a pair": {"attn.to_q.weight": (48, 48), "attn.to_kv.weight": (96, 48), "attn.to_out.weight": (48, 48)},
}


@pytest.fixture(params=STORED)
def of(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hypotheses]:
    state = {f"layers.{i}.{name}": torch.zeros(shape) for i in (0, 1) for name, shape in STORED[request.param].items()}
    save_file(state, tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path / "model.safetensors") as checkpoint:
        names = Names(weights_of(checkpoint))
        matches = find_attentions(names, LAYOUTS, (), Asked()).matches
        assert len(matches) == 2
        yield Hypotheses(matches, unsplit(matches[0]), names)


def rows(attention: Attention) -> dict[str, tuple[str, list[range], tuple[int, ...]]]:
    return {part.name: (part.weight.name, [*part.heads], part.shape) for part in attention.parts}


def test_a_packing_has_the_rows_that_its_layout_splits_them_into(of: Hypotheses) -> None:
    layout = of.matches[0].candidates[0].layout
    counts = of.counts()
    own = of.variants(lambda _: layout, counts)
    assert len(own) >= 3
    others = alternatives.packings(layout)
    different = 0
    for label, other in others.items():
        expected, found = of.variants(lambda _, other=other: other, counts), of.repacked(own, other, counts)
        assert list(found) == list(expected), label
        for heads, one in found.items():
            assert rows(one) == rows(expected[heads]), (label, heads)
            assert one.geometry == expected[heads].geometry
            assert one.layout == other
            different += heads in own and rows(one) != rows(own[heads])
    assert bool(different) == (len(others) > 1)
