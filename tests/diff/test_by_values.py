"""Tensors outside attention whose names a converter changed are matched by what they hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from qkvinspect.diff.by_values import alike
from qkvinspect.formats import open_checkpoint
from qkvinspect.weights.encodings import weights_of

MODELS = Path(__file__).parent / "llama_cpp"


@pytest.mark.parametrize(("model", "others"), [("llama", 1), ("deepseek2", 5), ("qwen3moe", 3)])
def test_a_converted_model_is_the_same_as_a_whole(run: Any, model: str, others: int) -> None:
    """Its norms and matrices of experts have other names, and the norms are wider in GGUF."""
    result = run("diff", MODELS / model, MODELS / f"{model}.gguf", "-f", "json")
    told = result.json()
    found = told["others"]
    assert (result.code, found["identical"] + found["rounding"]) == (0, others)
    assert (found["changed"], found["removed"], found["added"]) == (0, 0, 0)
    assert any("were matched by what they hold" in note for note in told["notes"])


@pytest.mark.parametrize(("model", "norms"), [("gemma", 1), ("gemma2", 1), ("gemma3", 3)])
@pytest.mark.parametrize("turned", [False, True])
def test_norms_that_hold_one_more_are_the_same(run: Any, model: str, norms: int, turned: bool) -> None:
    files = [MODELS / model, MODELS / f"{model}.gguf"]
    result = run("diff", *(files[::-1] if turned else files), "-f", "json")
    told = result.json()
    found = told["others"]
    assert (result.code, found["identical"] + found["rounding"]) == (0, norms)
    assert (found["changed"], found["removed"], found["added"]) == (0, 0, 0)
    side = "A" if turned else "B"
    assert any(f"in {side} what the other side has and 1 more" in note for note in told["notes"])


def pairs(folder: Path, a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> dict[str, str]:
    for name, state in (("a", a), ("b", b)):
        save_file({key: value.contiguous() for key, value in state.items()}, folder / f"{name}.safetensors")
    with open_checkpoint(folder / "a.safetensors") as one, open_checkpoint(folder / "b.safetensors") as other:
        return dict(alike(weights_of(one), list(a), weights_of(other), list(b)))


def test_every_tensor_finds_its_own_among_many_of_its_shape(tmp_path: Path) -> None:
    torch.manual_seed(0)
    a = {f"a{number}": torch.randn(40, 24) for number in range(20)}
    b = {f"b{number}": a[f"a{number}"].half().float() for number in reversed(range(20))}
    assert pairs(tmp_path, a, b) == {f"a{number}": f"b{number}" for number in range(20)}


def test_equal_ones_go_in_order(tmp_path: Path) -> None:
    a = {f"a{number}": torch.ones(24) for number in range(4)}
    assert pairs(tmp_path, a, {f"b{number}": torch.ones(24) for number in range(4)}) == {
        f"a{number}": f"b{number}" for number in range(4)
    }


def test_what_is_another_tensor_stays_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    own, near = torch.randn(40, 24), torch.randn(40, 24)
    a = {"strange": own, "near": near}
    b = {"other": torch.randn(40, 24), "one": near + 0.05, "two": near - 0.05, "wide": torch.randn(24, 40)}
    assert pairs(tmp_path, a, b) == {}
