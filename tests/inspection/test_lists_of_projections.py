"""Lists of projections that are no heads: entries of different widths, and task heads with a layer of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.inspection.report import Report

E = 32


def report(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> Report:
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, folder / "model.safetensors")
    with open_checkpoint(folder / "model.safetensors") as checkpoint:
        return inspect(checkpoint, Options(norms=False))


def lists(*shapes: tuple[int, ...], leaf: str = "weight") -> dict[str, tuple[int, ...]]:
    return {f"attn.{part}.{at}.{leaf}": shape for part in "qkv" for at, shape in enumerate(shapes)}


@pytest.mark.parametrize(
    ("shapes", "layers"),
    [
        (lists((E, E), (E, 24)), ["attn.0", "attn.1"]),
        (lists((E, 24), (E, E), (E, 40)), ["attn.0", "attn.1", "attn.2"]),
        (lists((8, E), (16, E), (24, E)), ["attn.0", "attn.1", "attn.2"]),
        (lists((E, E), (24, E), leaf="kernel"), ["attn.0", "attn.1"]),
    ],
)
def test_entries_of_different_widths_are_all_shown(
    tmp_path: Path, shapes: Mapping[str, tuple[int, ...]], layers: list[str]
) -> None:
    found = report(tmp_path, shapes)
    assert [attention.layer for attention in found.attentions] == layers
    assert {weight.name for attention in found.attentions for weight in attention.weights} == set(shapes)
    assert all(attention.heads_fact is None for attention in found.attentions)


@pytest.mark.parametrize("first", [8, 48])
def test_steps_of_one_projection_are_no_list(tmp_path: Path, first: int) -> None:
    """The second layer reads what the first one makes."""
    found = report(tmp_path, lists((first, E), (E, first)))
    assert [attention.layer for attention in found.attentions] == ["attn"]


@pytest.mark.parametrize("own", ["fc", "classifier", "mlp.0"])
def test_task_heads_with_a_layer_of_their_own_are_an_attention_each(tmp_path: Path, own: str) -> None:
    shapes = {f"heads.{at}.attn.{part}.weight": (E, E) for at in range(3) for part in ("query", "key", "value")}
    found = report(tmp_path, {**shapes, **{f"heads.{at}.{own}.weight": (10, E) for at in range(3)}})
    assert [attention.layer for attention in found.attentions] == [f"heads.{at}.attn" for at in range(3)]
    assert all(attention.heads_fact is None for attention in found.attentions)
