"""What Python prints of a checkpoint is one line; parts are arrays wherever an array is taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import qkvinspect


@pytest.fixture
def checkpoint(samples: Path):
    with qkvinspect.open(samples / "sharded") as found:
        yield found


def test_every_repr_is_a_line(checkpoint: qkvinspect.OpenCheckpoint, samples: Path) -> None:
    report = qkvinspect.inspect(checkpoint)
    attention = report.attentions[0]
    layer = checkpoint.attentions[attention.layer]
    assert repr(report) == f"<Report of {checkpoint.path!r}: 2 attention modules, 0 findings>"
    assert repr(attention).startswith("<Attention 'model.layers.0.self_attn': qkv-proj, 4 heads over 2 kv heads x 4 (")
    assert repr(attention.part("k")) == "<Part k: rows 0:8 of model.layers.0.self_attn.k_proj.weight [8, 16]>"
    assert repr(checkpoint.attentions) == "<2 layers: model.layers.0.self_attn, model.layers.1.self_attn>"
    assert repr(layer) == "<Layer 'model.layers.0.self_attn': q [16, 16], k [8, 16], v [8, 16]>"
    assert repr(layer.k) == "<Rows model.layers.0.self_attn.k: [8, 16] float32>"
    found = "sharded-safetensors, 8 tensors, 2 attention modules"
    assert repr(checkpoint) == f"<OpenCheckpoint {checkpoint.path!r}: {found}>"
    with qkvinspect.open(samples / "transformer.pt") as other:
        assert "heads unknown" in repr(qkvinspect.inspect(other).attentions[0])


def test_a_part_is_an_array(checkpoint: qkvinspect.OpenCheckpoint) -> None:
    layer = checkpoint.attentions["model.layers.0.self_attn"]
    assert layer.layer == "model.layers.0.self_attn"
    assert np.array_equal(np.asarray(layer.q), layer.q.numpy())
    assert np.array_equal(layer.q[2:4, 1], layer.q.numpy()[2:4, 1])
    assert np.asarray(layer.q, dtype=np.float16).dtype == np.float16


def test_a_mistyped_layer_is_answered_with_those_that_are_near(checkpoint: qkvinspect.OpenCheckpoint) -> None:
    with pytest.raises(KeyError, match=r"no layer 'model.layers.0.selfattn'; there is model\.layers\.0\.self_attn"):
        checkpoint.attentions["model.layers.0.selfattn"]
    assert checkpoint.attentions.get("nosuch") is None
