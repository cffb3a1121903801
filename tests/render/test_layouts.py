"""The list of layouts: every row is drawn, and the drawing is the packing."""

from __future__ import annotations

import json

import pytest

from qkvinspect.layouts import LAYOUTS
from qkvinspect.render.results import layouts as catalogue
from tests.batches import batched

BY_ID = {layout.id: layout for layout in LAYOUTS}


@pytest.mark.parametrize(
    ("id", "drawn"),
    [
        ("torch-mha", "Q0 Q1 K0 K1 V0 V1"),
        ("bloom", "Q0 K0 V0 | Q1 K1 V1"),
        ("falcon-new", "Q0 Q1 K0 V0 | Q2 Q3 K1 V1"),
        ("codegen", "Q0 Q1 V0 V1 K0 K1 | Q2 Q3 V2 V3 K2 K3 | Q4 Q5 V4 V5 K4 K5 | Q6 Q7 V6 V7 K6 K7"),
        ("megatron-v1", "Q0 K0 V0 Q0 K0 V0 | Q1 K1 V1 Q1 K1 V1"),
        ("opt-original", "K0 K1 V0 V1 Q0 Q1"),
        ("timm-parallel-scaling", "mlp Q0 Q1 K0 K1 V0 V1"),
        ("deepseek-v4-kv", "K0=V0"),
    ],
)
def test_drawings(id: str, drawn: str) -> None:
    layout = BY_ID[id]
    assert catalogue.diagram(layout.weights[0].packing, layout) == drawn


@batched("layout", {layout.id: layout for layout in LAYOUTS})
def test_every_layout_can_be_shown_in_full(layout, run) -> None:
    result = run("layouts", layout.id)
    assert result.code == 0
    assert result.out.startswith(f"{layout.id}\n")
    for word in ("Used by", "Stored", "Heads", "Told by", "Known by", "Rows"):
        assert f"  {word}" in result.out
    assert ("remembered only" in result.out) == (layout.proof == "memory")


def test_the_list_names_every_layout(run) -> None:
    out = run("layouts").out
    assert all(f"{layout.id} " in out for layout in LAYOUTS)
    rows = json.loads(run("layouts", "--format", "json").out)
    assert [row["id"] for row in rows] == [layout.id for layout in LAYOUTS]


def test_a_wrong_id_is_met_with_a_guess(run) -> None:
    result = run("layouts", "codegn")
    assert (result.code, result.err) == (2, "error: there is no layout 'codegn'; did you mean codegen?\n")
    assert "lists them all" in run("layouts", "zzz").err
