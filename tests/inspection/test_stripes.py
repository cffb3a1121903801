"""A fused tensor that holds [q; k; v] of one rank after the other is a packing like others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect

HEADS, DIM, V_DIM, WIDTH = 8, 24, 16, 64


@pytest.mark.parametrize(("stripes", "layout"), [(4, "mimo-v2"), (8, "mimo-v2-8"), (2, None)])
def test_mimo(stripes: int, layout: str | None, tmp_path: Path) -> None:
    """Heads of V narrower than those of K; the parts that inspection finds are the ones that were put there.

    V2.5 has 4 kv heads and 4 stripes, V2.5-Pro 8 of each: vLLM's loader has as many stripes as num_key_value_heads.
    """
    kv_heads = stripes
    torch.manual_seed(0)
    parts = {
        "q": torch.randn(HEADS * DIM, WIDTH),
        "k": torch.randn(kv_heads * DIM, WIDTH),
        "v": torch.randn(kv_heads * V_DIM, WIDTH),
    }
    shares = [torch.cat([part.chunk(stripes)[rank] for part in parts.values()]) for rank in range(stripes)]
    name = "model.layers.0.self_attn"
    whole = torch.cat(shares)
    save_file(
        {f"{name}.qkv_proj.weight": whole, f"{name}.o_proj.weight": torch.randn(WIDTH, HEADS * V_DIM)},
        tmp_path / "model.safetensors",
    )
    said = {"num_attention_heads": HEADS, "num_key_value_heads": kv_heads, "head_dim": DIM, "v_head_dim": V_DIM}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mimo_v2_flash", **said}))
    with open_checkpoint(tmp_path) as checkpoint:
        report = inspect(checkpoint, Options(norms=False))
    if layout is None:
        assert not any(found.layout for found in report.attentions)
        assert {str(finding.code) for finding in report.findings} & {
            "unexpected-shape",
            "unrecognised-attention",
            "ambiguous-layout",
        }
        return
    (found,) = report.attentions
    assert found.layout
    assert (found.layout.id, found.layout_from) == (layout, "config:config.json")
    for part in found.parts:
        assert torch.equal(torch.cat([whole[rows.start : rows.stop] for rows in part.heads]), parts[part.name])


def test_without_a_config_it_is_not_taken_for_stripes(tmp_path: Path) -> None:
    name = "model.layers.0.self_attn"
    save_file(
        {f"{name}.qkv_proj.weight": torch.randn(384, 64), f"{name}.o_proj.weight": torch.randn(64, 128)},
        tmp_path / "model.safetensors",
    )
    with open_checkpoint(tmp_path) as checkpoint:
        (found,) = inspect(checkpoint, Options(norms=False)).attentions
    assert found.layout is None or found.layout.id != "mimo-v2"
