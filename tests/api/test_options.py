"""What Python callers may write: one text for a tuple of it, and what a checkpoint was opened with holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import qkvinspect
from qkvinspect import DiffOptions, Options, UsageError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    names = ("transformer.h.0.attn", "transformer.h.1.attn")
    torch.save({f"{name}.in_proj_weight": torch.randn(72, 24) for name in names}, tmp_path / "model.pt")
    return tmp_path / "model.pt"


@pytest.mark.parametrize("heads", ["12", 12, ("12",), [12], ["2", "12"]], ids=repr)
def test_heads_are_a_number_or_several_flags(path: Path, heads: Any) -> None:
    options = Options(heads=heads, norms=False)
    assert options.heads[-1] == "12"
    with qkvinspect.open(path) as checkpoint:
        report = qkvinspect.inspect(checkpoint, options)
    assert [one.heads and one.heads.num_heads for one in report.attentions] == [12, 12]


def test_layers_and_layouts_are_a_glob_or_several(path: Path) -> None:
    with qkvinspect.open(path, heads=4) as checkpoint:
        (one,) = qkvinspect.inspect(checkpoint, Options(layers="*.1.attn", norms=False)).attentions
        assert one.layer == "transformer.h.1.attn"
        found = qkvinspect.inspect(checkpoint, Options(layouts="torch-mha", norms=False)).attentions
        assert {attention.layout_from for attention in found} == {"flag"}
        with pytest.raises(UsageError, match="nothing"):
            qkvinspect.inspect(checkpoint, Options(layers="nothing"))
    assert DiffOptions(layers="*.1.attn", maps="a=b") == DiffOptions(("a=b",), ("*.1.attn",))


def test_inspect_keeps_what_the_checkpoint_was_opened_with(path: Path) -> None:
    with qkvinspect.open(path, heads="4", layout="torch-mha") as checkpoint:
        for attention in qkvinspect.inspect(checkpoint).attentions:
            assert (attention.heads and attention.heads.num_heads, attention.heads_from) == (4, "flag")
            assert attention.layout_from == "flag"
        first, second = qkvinspect.inspect(checkpoint, Options(heads="*.1.*=6")).attentions
        assert (first.heads and first.heads.num_heads, second.heads and second.heads.num_heads) == (4, 6)
    with qkvinspect.open(path) as checkpoint:
        assert {attention.heads for attention in qkvinspect.inspect(checkpoint).attentions} == {None}


def test_check_takes_one_code_or_several(path: Path) -> None:
    assert qkvinspect.check(path, heads="12", select="zero-*") == qkvinspect.check(path, heads=[12], select=["zero-*"])
    with pytest.raises(UsageError, match="not known"):
        qkvinspect.check(path, heads=12, select="z")
