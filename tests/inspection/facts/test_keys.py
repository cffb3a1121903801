"""Keys of configs that are numbers, or end in one: of YAML, and of sections for single layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.inspection.facts.test_faults import all_sizes, config, report, separate


def model(folder: Path) -> Path:
    state = {f"layers.{layer}.attn.{part}_proj.weight": torch.randn(32, 32) for layer in range(4) for part in "qkvo"}
    save_file(state, folder / "model.safetensors")
    return folder / "model.safetensors"


@pytest.mark.parametrize("command", ["show", "check"])
def test_numbers_as_keys_of_yaml_are_read_as_those_of_json(tmp_path: Path, run: Any, command: str) -> None:
    path = model(tmp_path)
    (tmp_path / "config.yaml").write_text("num_heads: 4\nid2label: {0: cat, 1: dog}\nlayers: {0: {1: 2}, 5: [1, 2]}\n")
    result = run(command, path, "-f", "json")
    assert "unexpected" not in result.err
    if command == "show":
        assert [one["num_heads"] for one in result.json()["attentions"]] == [4] * 4


def test_a_section_for_each_layer_speaks_of_that_layer(tmp_path: Path, run: Any) -> None:
    heads = {"layer_0": 2, "layer_1": 4, "layer_2": 8, "layer_3": 4}
    (tmp_path / "config.json").write_text(json.dumps({key: {"num_heads": count} for key, count in heads.items()}))
    told = run("show", model(tmp_path), "--no-norms", "-f", "json").json()["attentions"]
    assert [one["num_heads"] for one in told] == list(heads.values())
    assert ["layer_3" in one["num_heads_from"] for one in told] == [False, False, False, True]


@pytest.mark.parametrize(("depth", "known"), [(1, True), (8, True), (9, False), (2000, False)])
def test_sections_eight_deep_are_read_and_no_deeper(depth: int, known: bool) -> None:
    values: dict[str, Any] = {"num_attention_heads": 4}
    for _ in range(depth):
        values = {"model": values}
    found = report(separate("layers.0.self_attn", 32, 32, 32), config(**values))
    assert all_sizes(found) == [(4, 4, 8) if known else None]
