"""What PEFT merges is what is read with --base: 24 layouts, fused ones, Conv1D, convolutions, DoRA and rsLoRA."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from qkvinspect.formats import open_checkpoint
from qkvinspect.weights.adapters import is_sum
from qkvinspect.weights.encodings import weights_of
from qkvinspect.weights.values import whole
from tests.batches import batched
from tests.weights.adapters.cases import CASES, DATA, placed


def test_there_are_twenty_layouts() -> None:
    assert len(CASES) >= 20


@batched("case", [*CASES])
def test_the_sum_is_pefts_own(case: str, tmp_path: Path) -> None:
    adapter, base = placed(case, tmp_path / case)
    merged = load_file(DATA / f"{case}.merged.safetensors")
    with open_checkpoint(adapter, base=base) as checkpoint:
        weights = weights_of(checkpoint)
        assert weights.left == ()
        assert {name for name in weights if is_sum(weights[name])} == {n for n in merged if not n.endswith("bias")}
        for name, expected in merged.items():
            found = weights[name]
            matrix = found.as_matrix("out_in")
            values = whole(matrix).reshape(found.shape)
            assert tuple(expected.shape) == found.shape
            if expected.dtype == torch.float32:
                np.testing.assert_allclose(values, expected.numpy(), rtol=1e-6, atol=1e-6)
            elif is_sum(found):
                far = np.abs(values - expected.float().numpy())
                assert (far <= matrix.slack().reshape(found.shape)).all()
                assert far.max() > 0


@batched("case", [*CASES])
def test_what_is_printed_as_python_gives_the_sum(case: str, tmp_path: Path) -> None:
    adapter, base = placed(case, tmp_path / case)
    state = {**load_file(base), **load_file(adapter / "adapter_model.safetensors")}
    merged = load_file(DATA / f"{case}.merged.safetensors")
    with open_checkpoint(adapter, base=base) as checkpoint:
        weights = weights_of(checkpoint)
        for name in (name for name in weights if is_sum(weights[name])):
            scope = {"torch": torch, "state_dict": state}
            exec("\n".join(weights[name].encoding.python()), scope)
            expected = merged[name].float()
            tolerance = 2e-6 if merged[name].dtype == torch.float32 else 2e-2
            torch.testing.assert_close(scope["weight"], expected, rtol=tolerance, atol=tolerance)


@batched("case", [*CASES])
def test_some_rows_and_columns_are_those_of_the_whole(case: str, tmp_path: Path) -> None:
    adapter, base = placed(case, tmp_path / case)
    with open_checkpoint(adapter, base=base) as checkpoint:
        weights = weights_of(checkpoint)
        for name in (name for name in weights if is_sum(weights[name])):
            encoding = weights[name].encoding
            rows, cols = (range(size) for size in encoding.shape)
            every = encoding.decode(rows, cols)
            for down, across in ((rows[3:9], cols[1:5]), (rows[::3], cols[::2]), (rows[5:], cols[2:3])):
                expected = every[np.ix_(list(down), list(across))]
                np.testing.assert_allclose(encoding.decode(down, across), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("case", [case for case in CASES if "dora" not in case and case != "bert"])
def test_the_adapter_alone_is_the_difference(case: str, tmp_path: Path) -> None:
    """But for DoRA, whose lengths are those of the sum."""
    adapter, base = placed(case, tmp_path / case)
    before, merged = load_file(base), load_file(DATA / f"{case}.merged.safetensors")
    with open_checkpoint(adapter) as checkpoint:
        weights = weights_of(checkpoint)
        matrices = [name for name in merged if not name.endswith("bias")]
        for name in matrices:
            alone = f"base_model.model.{name}"
            found = weights[alone if alone in weights else alone.replace(".out_proj", ".base_layer.out_proj")]
            expected = merged[name].double() - before[name].double()
            far = 1e-6 if merged[name].dtype == torch.float32 else 2e-2
            assert found.shape == tuple(expected.shape)
            values = whole(found.as_matrix("out_in")).reshape(found.shape)
            np.testing.assert_allclose(values, expected.numpy(), rtol=far, atol=far)
