"""A difference of many layers in a terminal: neighbours of which all the same is said share a row."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qkvinspect.diff import compare
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import inspect
from qkvinspect.render.results.diff import document
from qkvinspect.render.view import ViewOptions
from qkvinspect.render.writers import written


def model(layers: int) -> dict[str, torch.Tensor]:
    names = [
        f"enc.{layer}.attention.self.{part}.weight" for layer in range(layers) for part in ("query", "key", "value")
    ]
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(8, 8, generator=generator) for name in names}


def test_rows_that_say_the_same_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a path that is longer than a line takes two
    a, b = model(24), model(48)
    for layer in (9, 10, 11, 12):
        b[f"enc.{layer}.attention.self.key.weight"] += 1 + layer
    save_file(a, tmp_path / "a.safetensors")
    save_file(b, tmp_path / "b.safetensors")
    with open_checkpoint("a.safetensors") as one, open_checkpoint("b.safetensors") as other:
        found = compare(inspect(one), inspect(other))
    short, whole = (
        written(document(found, folded=folded), "table", ViewOptions(width=80 if folded else None)).splitlines()
        for folded in (True, False)
    )
    rows = [line.rpartition(")")[0] + ")" for line in short if line.startswith(" enc.*")]
    assert rows == [f" enc.*.attention.self ({numbers})" for numbers in ("0 to 8", "13 to 23", "24 to 47")]
    assert [line.split()[1] for line in short if line.startswith(" enc.") and "*" not in line] == ["changed"] * 4
    assert sum(line.startswith(" enc.") for line in whole) == 48
    assert sum(line.startswith("enc.") for line in short) == 3  # in detail
    assert "... and 1 layer more; --layer GLOB shows them" in short
    assert len(short) < 40 < len(whole)
    assert short[-1] == whole[-1]
