"""Files that hold factors beside the weights that they are added to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import qkvinspect


@pytest.mark.parametrize("wrapped", ["linear.", "base_layer.", ""])
def test_the_base_is_the_weight_and_what_is_added_stands_beside_it(wrapped: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base = {part: rng.standard_normal((8, 8), np.float32) for part in "qkv"}
    tensors = {f"h.0.attn.{part}_proj.{wrapped}weight": array for part, array in base.items()}
    for part in "qkv":
        tensors[f"h.0.attn.{part}_proj.lora_A.weight"] = rng.standard_normal((2, 8), np.float32)
        tensors[f"h.0.attn.{part}_proj.lora_B.weight"] = rng.standard_normal((8, 2), np.float32)
    save_file(tensors, tmp_path / "m.safetensors")
    report = qkvinspect.inspect(str(tmp_path / "m.safetensors"), heads="2")
    assert [one.layer for one in report.attentions] == ["h.0.attn", "h.0.attn.lora_B"]
    assert not [one for one in report.findings if one.code == "adapter-only"]
    with qkvinspect.open(str(tmp_path / "m.safetensors"), heads="2") as checkpoint:
        for part, array in base.items():
            assert np.array_equal(np.asarray(getattr(checkpoint.layer("h.0.attn"), part)), array)
