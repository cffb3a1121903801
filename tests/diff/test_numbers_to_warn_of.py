"""Numbers that numpy warns of, in tensors that are matched by what they hold, since a converter renamed them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

SIGNALLING = np.uint32(0x7F800001).view(np.float32)


@pytest.mark.parametrize("number", [SIGNALLING, np.float64(1e200)], ids=["a signalling NaN", "a square too large"])
def test_it_ends_in_no_warning(number: np.floating, tmp_path: Path, run: Callable[..., Any]) -> None:
    square = np.random.default_rng(0).standard_normal((8, 8)).astype(number.dtype)
    damaged = square.copy()
    damaged[0, 0] = number
    old = {f"model.layers.0.self_attn.{part}_proj.weight": square for part in "qkvo"}
    new = {f"blk.0.attn_{part}.weight": square for part in ("q", "k", "v", "output")}
    save_file({**old, "model.layers.0.mlp.up_proj.weight": damaged}, tmp_path / "a.safetensors")
    save_file({**new, "blk.0.ffn_up.weight": damaged}, tmp_path / "b.safetensors")
    found = run("diff", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--heads", "2", "--no-evidence")
    assert found.code in (0, 1)
    assert "Warning" not in found.err
