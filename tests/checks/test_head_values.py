"""What is read of heads: each once, as many together as fit in memory, and what torch says of their numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qkvinspect.checks import head_values
from qkvinspect.checks.head_values import HeadValues, read_heads
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect

HEADS, DIM, WIDTH = 4, 6, 24


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ([], []),
        ([3], [(0, 1)]),
        ([9], [(0, 1)]),
        ([2, 2, 1], [(0, 3)]),
        ([3, 3, 3], [(0, 1), (1, 2), (2, 3)]),
        ([9, 1, 4, 1], [(0, 1), (1, 3), (3, 4)]),
        ([1, 9, 1], [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_neighbours_that_fit_together(
    sizes: list[int], groups: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_values, "_READ", 5)
    assert list(head_values._groups(sizes)) == groups


def read(state: dict[str, torch.Tensor], folder: Path) -> tuple[dict[str, tuple[HeadValues, ...]], list[int]]:
    """The values of each part of the one layer, and what was said of progress."""
    save_file({f"layers.0.self_attn.{name}": tensor for name, tensor in state.items()}, folder / "m.safetensors")
    said: list[int] = []
    with open_checkpoint(folder / "m.safetensors") as checkpoint:
        report = inspect(checkpoint, Options(heads=(str(HEADS),)))
        found = read_heads(report.attentions, lambda done, total: said.extend((done, total)))
    return {part: values for (_, part), values in found.items()}, said


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(torch.float16, 1), (torch.bfloat16, 1e30), (torch.float32, 1e-30), (torch.float64, 1), (torch.float64, 1e300),
     (torch.float64, 1e-200)],
)  # fmt: skip
@pytest.mark.parametrize("at_once", [1 << 26, 9 * DIM * WIDTH, 8])
def test_numbers_of_heads_are_those_of_torch(
    dtype: torch.dtype, scale: float, at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a head that is larger than what is read at a time, only which others are equal is known."""
    torch.manual_seed(0)
    state = {f"{name}_proj.weight": (torch.randn(WIDTH, WIDTH).double() * scale).to(dtype) for name in "qkvo"}
    state["k_proj.weight"][DIM : 2 * DIM] = state["k_proj.weight"][-DIM:]
    state["v_proj.weight"][:DIM] = 0
    monkeypatch.setattr(head_values, "_READ", at_once)
    found, said = read(state, tmp_path)
    assert said[-2:] == [3 * WIDTH * WIDTH * dtype.itemsize] * 2
    for part in "qkv":
        heads = state[f"{part}_proj.weight"].double().split(DIM)
        for own, expected in zip(found[part], heads, strict=True):
            assert [own.digest == other.digest for other in found[part]] == [torch.equal(expected, h) for h in heads]
            if at_once == 8:
                assert (own.lowest, own.highest, own.stable_rank, own.constant) == (None, None, None, False)
                continue
            assert (own.lowest, own.highest) == (float(expected.min()), float(expected.max()))
            sizes = torch.linalg.svdvals(expected / scale).square()
            assert own.stable_rank == (pytest.approx(float(sizes.sum() / sizes[0]), rel=1e-3) if sizes[0] else None)
            assert own.constant == (not sizes[0])


@pytest.mark.parametrize("together", [1, 1 << 12, 1 << 20])
def test_heads_among_many_have_the_values_that_they_have_alone(
    together: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    state: dict[str, torch.Tensor] = {}
    for layer in range(6):
        width = WIDTH * 2 if layer == 4 else WIDTH
        dtype = torch.float64 if layer % 3 == 1 else torch.float32
        state[f"layers.{layer}.self_attn.in_proj_weight"] = torch.randn(3 * width, width, dtype=dtype)
    state["layers.2.self_attn.in_proj_weight"][0, 0] = torch.nan
    state["layers.3.self_attn.in_proj_weight"][:DIM] = 0
    state["layers.1.self_attn.in_proj_weight"][DIM : 2 * DIM] *= 1e200
    save_file(state, tmp_path / "m.safetensors")
    monkeypatch.setattr(head_values, "_TOGETHER", together)
    with open_checkpoint(tmp_path / "m.safetensors") as checkpoint:
        report = inspect(checkpoint, Options(heads=(str(HEADS),)))
        found = read_heads(report.attentions)
        alone: dict[tuple[str, str], tuple[HeadValues, ...]] = {}
        for attention in report.attentions:
            alone.update(read_heads([attention]))
    assert list(map(repr, found.items())) == list(map(repr, alone.items()))  # NaN is not equal to itself
    q = found["layers.1.self_attn.in_proj_weight", "q"]
    rows = state["layers.1.self_attn.in_proj_weight"][: 2 * DIM].split(DIM)
    for one, values in zip(q, rows, strict=False):
        sizes = torch.linalg.svdvals(values / values.abs().max()).square()
        assert one.stable_rank == pytest.approx(float(sizes.sum() / sizes[0]), rel=1e-3)
