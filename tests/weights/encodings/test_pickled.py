"""What ``torch.save`` writes of torchao's, quanto's and HQQ's own tensors (``make_float8_data.py`` is the recipe)."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.torch import load_file

import qkvinspect
from tests.some import those
from tests.weights.encodings.test_decoded import DATA

DECODED = ["torchao_float8", "torchao_int8", "torchao_intx", "quanto_int8", "quanto_float8"]
NAMED = {"hqq_4bit": "HQQ's codes nbits 4 group_size 32", "quanto_int4": "quanto's packed integers"}


@pytest.mark.parametrize("name", DECODED)
def test_numbers_are_those_of_the_library(name: str) -> None:
    expected = load_file(DATA / f"{name}.pickled_values.safetensors")
    with qkvinspect.open(DATA / f"{name}.pt", heads=4) as checkpoint:
        layer = checkpoint.attentions["layers.0.self_attn"]
        for part in "qkv":
            found = getattr(layer, part).numpy()
            np.testing.assert_array_equal(found, expected[f"layers.0.self_attn.{part}_proj.weight"].numpy())


@pytest.mark.parametrize("name", NAMED)
def test_what_is_not_decoded_is_named(name: str, run) -> None:
    found = run("check", DATA / f"{name}.pt", "--heads", "4")
    assert found.code == 1
    assert NAMED[name] in found.out


@pytest.mark.parametrize("name", those("torchao_int8".__eq__, DECODED))
@pytest.mark.gate
def test_every_command(name: str, tmp_path, run) -> None:
    path = DATA / f"{name}.pt"
    sound = "float8" not in name  # theirs of a row of zeros is NaN
    for command in ("show", "explain", "analyze"):
        assert run(command, path, "--heads", "4").code == 0
    assert ("no-values" in run("check", path, "--heads", "4").out) is False
    assert run("report", path, "-o", tmp_path / "report.html", "--heads", "4").code == 0
    out = tmp_path / "out.safetensors"
    assert run("export", "--split", path, "-o", out, "--heads", "4", "--dequantize", "float32").code == 0
    expected = load_file(DATA / f"{name}.pickled_values.safetensors")
    for key, value in load_file(out).items():
        np.testing.assert_array_equal(value.numpy(), expected[key].numpy())
    (again,) = run("diff", path, out, "--heads", "4", "-f", "json").json()["layers"]
    assert again["status"] in ("identical", "rounding") or not sound
    if name.startswith("torchao"):
        said = run("explain", path, "--heads", "4").out
        assert "import torchao.quantization" in said
        assert "['layers.0.self_attn.q_proj.weight'].qdata" in said


def test_a_subclass_of_another_library_is_named(tmp_path, run) -> None:
    """torchao's class under another name: its parts are not read, and the class is said."""
    import zipfile

    other = tmp_path / "other.pt"
    with zipfile.ZipFile(DATA / "torchao_int8.pt") as read, zipfile.ZipFile(other, "w") as write:
        for one in read.infolist():
            write.writestr(one.filename, read.read(one).replace(b"torchao.quantization\n", b"somebody.elses\n"))
    found = run("show", other)
    assert "q_proj.weight is a tensor subclass (somebody.elses.Int8Tensor): left out" in found.err + found.out
