"""Layers that are stored alike are one table, which is short, readable at 80 columns and leaves nothing out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from rich.cells import cell_len
from safetensors.torch import save_file

from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.inspection.report import Report
from qkvinspect.render import alike_names
from qkvinspect.render.results.show import document
from qkvinspect.render.results.stacks import rows_for, stacks
from qkvinspect.render.spark import spark
from qkvinspect.render.view import ViewOptions
from qkvinspect.render.writers import written

BERT = {"q": "query", "k": "key", "v": "value"}


def report(path: Path, tensors: dict[str, torch.Tensor], *heads: str) -> Report:
    save_file(tensors, path / "model.safetensors")
    with open_checkpoint(path / "model.safetensors") as checkpoint:
        return inspect(checkpoint, Options(heads=heads))


def bert(layers: int, width: int = 16) -> dict[str, torch.Tensor]:
    places = [(f"encoder.layer.{layer}.attention.self", word) for layer in range(layers) for word in BERT.values()]
    weights = {f"{place}.{word}.weight": torch.randn(width, width) for place, word in places}
    return weights | {f"{place}.{word}.bias": torch.randn(width) for place, word in places}


def shown(found: Report, width: int | None, lines: int | None = None, *, full: bool = False) -> list[str]:
    return written(document(found, lines=lines, full=full), "table", ViewOptions(width=width)).splitlines()


@pytest.mark.gate
def test_a_transformer_answers_the_question_by_itself(tmp_path: Path) -> None:
    """The state_dict of nn.Transformer(): three tables, each with the rows of Q, K and V, in 40 lines."""
    model = torch.nn.Transformer(batch_first=True)
    out = shown(report(tmp_path, model.state_dict(), "8"), 80, 80)
    assert len(out) <= 40
    text = "\n".join(out)
    assert text.count("in_proj_weight [1536, 512] float32: Q rows 0:512, K 512:1024, V 1024:1536") == 3
    assert text.count("6 layers  torch-mha  8 heads x 64 (--heads)") == 3
    assert text.count("head h at 64*h in each") == 3


def test_a_model_of_twelve_layers_says_all_that_full_says(tmp_path: Path) -> None:
    found = report(tmp_path, bert(12), "4")
    short, full = shown(found, 100, 80), shown(found, 100, full=True)
    assert len(shown(found, 80, 80)) <= 40
    numbers = {word for line in full for word in re.findall(r"\d+\.\d{3}", line)}
    assert len(numbers) > 60
    assert numbers <= {word for line in short for word in line.split()}
    assert "encoder.layer.0.attention.self" in full


@pytest.mark.parametrize("layers", [48, pytest.param(600, marks=pytest.mark.gate)])
def test_eighty_lines_are_enough_for_any_depth(tmp_path: Path, layers: int) -> None:
    """Of many layers, neighbours share a row, with the range of their norms; in a pipe each has its own."""
    found = report(tmp_path, bert(layers, width=4), "2")
    out = shown(found, 80, 80)
    assert len(out) <= 80
    assert max(map(cell_len, out)) <= 80
    assert len(shown(found, None)) > layers
    rows = [line.split() for line in out if line.endswith(" 0")]
    norms = [one.part("q").measured.norm for one in found.attentions]  # pyright: ignore[reportOptionalMemberAccess]
    lows = [float(cell.partition("..")[0]) for cell in (row[1] if layers == 48 else row[3] for row in rows)]
    assert min(lows) == pytest.approx(min(norms), rel=0.01)


def test_a_layer_that_differs_stands_out(tmp_path: Path) -> None:
    tensors = bert(6)
    for word in BERT.values():
        tensors[f"encoder.layer.3.attention.self.{word}.weight"] = torch.randn(8, 16)
        tensors[f"encoder.layer.3.attention.self.{word}.bias"] = torch.randn(8)
    out = "\n".join(shown(report(tmp_path, tensors, "2"), 80, 80))
    assert "encoder.layer.*.attention.self  5 layers (0 to 2, 4 to 5)" in out
    assert (
        "encoder.layer.3.attention.self\n  unlike the 5 other layers of this name: heads, stored tensors, bias" in out
    )


def test_values_that_are_not_finite_stand_out_in_a_shared_row(tmp_path: Path) -> None:
    tensors = bert(200, width=4)
    tensors["encoder.layer.77.attention.self.key.weight"][0, 0] = float("nan")
    out = written(document(report(tmp_path, tensors, "2"), lines=80), "table", ViewOptions(width=80, colour=True))
    (row,) = [line for line in out.splitlines() if "nan" in line and ".." in line]
    assert row.startswith("\x1b[31m")
    assert row.split()[-1].startswith("1")


def test_columns_without_room_are_named(tmp_path: Path) -> None:
    found = report(tmp_path, bert(3), "4")
    narrow, wide = shown(found, 60), shown(found, None)
    assert max(map(cell_len, narrow)) <= 60
    assert any(re.fullmatch(" no room for: (Q bias, )?(K bias, )?V bias", line) for line in narrow)
    assert not any("no room" in line for line in wide)


def test_weights_that_are_single_numbers_have_no_rows_to_tell(tmp_path: Path) -> None:
    names = [f"layers.{layer}.self_attn.{part}_proj.weight" for layer in range(2) for part in "qkv"]
    found = report(tmp_path, {name: torch.tensor(1.0) for name in names})
    assert any(line.endswith("weight [] float32: Q rows 0:1, K 0:1, V 0:1") for line in shown(found, None))


def test_a_name_for_each_stack() -> None:
    layers = ["a.0.attn", "b.0.attn", "a.1.attn", "c", "a.2.attn", "a.9.attn"]
    assert alike_names.together(layers) == ["a.*.attn (0 to 2, 9)", "b.0.attn", "c"]
    assert alike_names.together(layers[:3]) == layers[:3]


def test_stacks_have_room(tmp_path: Path) -> None:
    """What a small stack does not need goes to the others."""
    tensors = bert(4) | {name.replace("encoder", "decoder"): value for name, value in bert(60).items()}
    found = stacks(report(tmp_path, tensors, "4").attentions)
    assert sorted(len(stack.layers) for stack in found) == [4, 60]
    assert rows_for(found, 80) == 60
    assert rows_for(found, 50) == 50 - 2 * 7 - 4
    assert rows_for(found, 10) == 6


@pytest.mark.parametrize(
    ("values", "width", "drawn"),
    [
        ([0.0, 1.0], 8, "▁█"),
        ([1.0, 1.0, 1.0], 8, "▁▁▁"),
        ([float("nan"), 0.0, 1.0], 8, " ▁█"),
        ([float("nan")], 8, ""),
        ([0.0] * 50 + [9.0] + [0.0] * 49, 4, "▁▁█▁"),
    ],
)
def test_a_curve_keeps_its_peaks(values: list[float], width: int, drawn: str) -> None:
    assert spark(values, width) == drawn


def test_names_keep_the_numbers_that_do_not_differ() -> None:
    layers = ["t5.0.block.0.layer.0.attn", "t5.0.block.1.layer.0.attn"]
    differs = alike_names.varied(layers)
    assert alike_names.name(layers[0], differs) == "t5.0.block.*.layer.0.attn"
    assert alike_names.label(layers[1], alike_names.varied(layers)) == "1"
