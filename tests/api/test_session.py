"""Twenty lines as somebody types them into a notebook, each against torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from torch import nn

import qkvinspect


def test_it_reads_like_a_notebook(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2, enable_nested_tensor=False
    )
    torch.save(model.state_dict(), tmp_path / "model.pt")
    stored = model.layers[1].self_attn.in_proj_weight.detach().numpy()
    output = model.layers[1].self_attn.out_proj.weight.detach().numpy()

    checkpoint = qkvinspect.open(tmp_path / "model.pt", heads=4)
    layer = checkpoint.layer("layers.1.self_attn")
    assert np.array_equal(layer.k, stored[32:64])
    assert np.array_equal(layer.heads[3].v[:2], stored[64 + 24 : 64 + 26])
    assert np.array_equal(layer.heads[3].out, output[:, 24:32])
    assert torch.equal(layer.out.torch(), torch.tensor(output))
    assert layer.q.bias is not None
    assert not np.asarray(layer.q.bias).any()

    report = qkvinspect.inspect(checkpoint)
    frame = report.to_dataframe()
    assert isinstance(frame, pandas.DataFrame)
    norm = np.linalg.norm(stored[32:64].astype(float))
    assert frame[frame.part == "k"].norm.tolist()[1] == pytest.approx(norm, rel=1e-6)
    assert report.layer("layers.0.self_attn").part("v")[0, 0] == model.layers[0].self_attn.in_proj_weight[64, 0].item()
    assert {row["num_heads"] for row in report.records()} == {4}

    assert qkvinspect.compare(model, tmp_path / "model.pt", heads=4).same
    assert [finding.code for finding in qkvinspect.check(model)] == [
        "equal-layers"
    ]  # nn.TransformerEncoder copies its layer
    assert len(qkvinspect.analyze(checkpoint)) == 2
    assert "<svg" not in checkpoint._repr_html_()
    assert "in_proj_weight[32:64]" in checkpoint._repr_html_()
