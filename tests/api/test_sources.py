"""A path, a URL, tensors by name, an nn.Module or what was opened: everything takes it, without torch if it can."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

import qkvinspect
from qkvinspect import Options, UsageError

NAME = "encoder.layers.0.self_attn"


@pytest.fixture(params=["path", "text", "URL", "state_dict", "arrays", "checkpoint"])
def source(request: pytest.FixtureRequest, samples: Path) -> Any:
    path = samples / "transformer.safetensors"
    return {
        "path": lambda: path,
        "text": lambda: str(path),
        "URL": path.absolute().as_uri,
        "state_dict": lambda: {name: torch.tensor(array) for name, array in load_file(path).items()},
        "arrays": lambda: load_file(path),
        "checkpoint": lambda: qkvinspect.open(path),
    }[request.param]()


def test_every_function_takes_it(source: Any, samples: Path) -> None:
    path = samples / "transformer.safetensors"
    opened = qkvinspect.open(source, heads="2")
    assert np.array_equal(opened.layer(NAME).heads[1].k, load_file(path)[f"{NAME}.in_proj_weight"][24:32])
    report = qkvinspect.inspect(source, heads=2)
    assert {one.heads and one.heads.num_heads for one in report.attentions} == {2}
    assert len(qkvinspect.analyze(source, heads=2)) == 3
    assert qkvinspect.compare(source, path, heads=2).same
    assert {finding.code for finding in qkvinspect.check(source, heads=2)} == codes(path)


@cache
def codes(path: Path) -> set[str]:
    return {finding.code for finding in qkvinspect.check(path, heads=2)}


def test_a_model_tells_its_own_heads() -> None:
    model = nn.Transformer(32, 4, 1, 1, 64, batch_first=True)
    report = qkvinspect.inspect(model)
    assert {(one.heads and one.heads.num_heads, one.heads_from.rpartition(".")[2]) for one in report.attentions} == {
        (4, "num_heads")
    }

    class Config:
        def to_dict(self) -> dict[str, object]:
            return {"model_type": "bert", "num_attention_heads": 8, "hidden_size": 32}

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = Config()
            self.attention = nn.ModuleDict({"self": nn.ModuleDict({part: nn.Linear(32, 32) for part in PARTS})})

    (attention,) = qkvinspect.inspect(Model()).attentions
    assert (attention.heads and attention.heads.num_heads, attention.heads_from) == (
        8,
        "checkpoint:config:num_attention_heads",
    )


PARTS = ("query", "key", "value")


def test_two_parts_that_are_one_parameter_are_known_as_such() -> None:
    """Shared memory is no fault, and copied numbers are."""
    shared, names = torch.randn(16, 16), [f"a.self_attn.{part}_proj.weight" for part in "qkv"]
    state = dict(zip(names, (torch.randn(16, 16), shared, shared), strict=True))
    assert not qkvinspect.check(state, heads=4, select="equal-parts")
    copied = {name: tensor.clone() for name, tensor in state.items()}
    assert [finding.code for finding in qkvinspect.check(copied, heads=4, select="equal-parts")] == ["equal-parts"]


@pytest.mark.parametrize(
    ("heads", "expected"),
    [(12, [12, 12]), ("12", [12, 12]), (("12", "decoder.*=8"), [12, 8]), (["24/24"], [24, 24])],
)
def test_heads_mean_what_they_say_and_are_remembered(heads: Any, expected: list[int]) -> None:
    state = {f"{name}.self_attn.in_proj_weight": np.ones((72, 24), "float32") for name in ("encoder", "decoder")}
    opened = qkvinspect.open(state, heads=heads)
    assert [len(layer.heads) for layer in opened.attentions.values()] == expected
    report = qkvinspect.inspect(opened)
    assert [one.heads and one.heads.num_heads for one in report.attentions] == expected
    assert [len(layer.heads) for layer in qkvinspect.analyze(opened)] == expected
    assert [layer.num_heads for layer in qkvinspect.compare(opened, opened).layers] == expected
    again = qkvinspect.open(opened, heads="decoder*=6")
    assert [len(layer.heads) for layer in again.attentions.values()] == [expected[0], 6]


def test_a_file_stays_open_as_long_as_anything_of_it_is_kept(samples: Path) -> None:
    layer = qkvinspect.open(samples / "sharded").layer("model.layers.0.self_attn")
    report = qkvinspect.inspect(samples / "trained.safetensors", Options(norms=False), heads=4)
    assert layer.q.numpy().shape == (16, 16)
    assert len(qkvinspect.analyze(report)) == 2


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (3, "a int is nothing that can be opened (expected a path, a URL, a state_dict or an nn.Module)"),
        ({"a": 3}, "a is no tensor (found int); leave it out"),
        ({"model": {"a": torch.ones(2)}}, "model is no tensor (found a dict of tensors); give that one: ['model']"),
        ({"a": torch.ones(2, device="meta")}, "a is no plain tensor"),
        ({"a": np.array(["x"])}, "a is no plain array"),
    ],
)
def test_what_is_none_of_these_is_refused(source: Any, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        qkvinspect.inspect(source)
    assert str(caught.value).startswith(said)
    with pytest.raises(UsageError, match="are for files"):
        qkvinspect.open({}, container="model")
    with pytest.raises(UsageError, match="has its heads"):
        qkvinspect.analyze(qkvinspect.inspect({}), heads=3)


@pytest.mark.gate
def test_torch_and_pandas_are_imported_only_by_what_needs_them(samples: Path) -> None:
    code = f"""
import sys, qkvinspect
checkpoint = qkvinspect.open({str(samples / "transformer.safetensors")!r}, heads=2)
report = qkvinspect.inspect(checkpoint)
checkpoint.layer({NAME!r}).heads[0].out.numpy(), report.records(), report._repr_html_(), repr(report)
qkvinspect.analyze(report), qkvinspect.compare(report, report)._repr_html_(), qkvinspect.check(checkpoint)
print([name for name in ("torch", "pandas", "rich", "typer", "textual", "plotly") if name in sys.modules])
sys.modules["pandas"] = None
try:
    report.to_dataframe()
except qkvinspect.UsageError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == [
        "[]",
        "a DataFrame needs pandas, which is not installed; pip install pandas; .records() gives the same rows as dicts",
    ]
