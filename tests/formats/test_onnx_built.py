"""What onnxruntime-genai's model builder writes: GroupQueryAttention that takes one packed product."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import inspect

BUILT = Path(__file__).parent / "onnx_built"
RENAMED = {"model.norm.weight", "model.layers.2.final_norm_layernorm.weight", "cos_cache", "sin_cache"}


def test_its_heads_are_those_of_the_operator() -> None:
    with open_checkpoint(BUILT / "qwen2" / "model.onnx") as checkpoint:
        report = inspect(checkpoint)
    assert [one.layer for one in report.attentions] == ["model.layers.0.attn", "model.layers.1.attn"]
    for one in report.attentions:
        assert one.heads is not None
        assert (one.heads.num_heads, one.heads.num_kv_heads, one.heads.head_dim) == (4, 2, 4)
        assert [part.rows for part in one.parts] == [(range(16),), (range(16, 24),), (range(24, 32),)]
        assert all(part.bias is not None for part in one.parts)


def test_it_is_the_model_that_it_was_built_of(run: Callable[..., Any]) -> None:
    found = run("diff", BUILT / "qwen2.safetensors", BUILT / "qwen2" / "model.onnx", "--heads", "4/2", "-f", "json")
    difference = json.loads(found.out)
    assert [layer["status"] for layer in difference["layers"]] == ["identical", "identical"]
    others = {one["a"] or one["b"] for one in difference["others"]["tensors"] if one["status"] != "identical"}
    assert others == RENAMED
