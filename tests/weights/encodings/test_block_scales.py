"""Float8 with a scale for each block: of the height and width that the config says, and named where it is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qkvinspect.formats import open_checkpoint
from qkvinspect.weights.encodings import weights_of
from qkvinspect.weights.values import whole

NAME = "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(("high", "wide"), [(32, 64), (64, 32), (16, 128), (128, 16)])
def test_blocks_that_are_not_square(high: int, wide: int, tmp_path: Path) -> None:
    """Rows and columns that fill no block end in a smaller one."""
    torch.manual_seed(0)
    codes = torch.randn(2 * high + 8, 3 * wide + 8).to(torch.float8_e4m3fn)
    scales = torch.rand(3, 4) + 0.5
    save_file({NAME: codes, f"{NAME}_scale_inv": scales}, tmp_path / "model.safetensors")
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [high, wide]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    spread = torch.kron(scales, torch.ones(high, wide))[: codes.shape[0], : codes.shape[1]]
    with open_checkpoint(tmp_path / "model.safetensors") as checkpoint:
        weight = weights_of(checkpoint)[NAME]
        assert not weight.why
        assert torch.equal(torch.from_numpy(whole(weight.as_matrix("out_in"))), codes.double() * spread.double())


def test_a_weight_without_a_scale_where_others_have_one(tmp_path: Path) -> None:
    codes = torch.ones(8, 8).to(torch.float8_e4m3fn)
    other = NAME.replace("q_proj", "k_proj")
    save_file({NAME: codes, f"{NAME}_scale": torch.ones(1), other: codes.clone()}, tmp_path / "m.safetensors")
    with open_checkpoint(tmp_path / "m.safetensors") as checkpoint:  # no config says anything
        weights = weights_of(checkpoint)
        assert not weights[NAME].why
        assert weights[other].why == f"its scale is missing: {other}_scale"
