"""Faults that were met in use, of hostile and unlucky input: FAULTS.md lists each with its test; these had none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.batches import batched
from tests.conftest import Run
from tests.hostile.bounds import bounded_memory, no_hang
from tests.hostile.writers import onnxes
from tests.inspection.test_heads import codes, heads, report
from tests.some import crossed

ROOT = Path(__file__).parents[2]
LISTED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", Path(__file__).with_name("FAULTS.md").read_text())

SHAPES = {
    "no row": {"h.0.attn.qkv.weight": (0, 4)},
    "no column": {"h.0.attn.q_proj.weight": (4, 0), "h.0.attn.k_proj.weight": (4, 0), "h.0.attn.v_proj.weight": (4, 0)},
    "no axis": {"a.to_qkv.weight": (), "a.to_out.0.weight": (4, 4)},
    "a bias of two axes": {
        "a.fused_attn_ff_proj.weight": (44, 4),
        "a.fused_attn_ff_proj.bias": (4, 11),
        "a.attn_out.weight": (4, 4, 1),
    },
    "a bias of four axes": {
        "a.fused_attn_ff_proj.weight": (96, 32),
        "a.fused_attn_ff_proj.bias": (7, 96, 32, 3),
        "a.attn_out.weight": (32, 32),
    },
    "heads of no column": {
        **{f"a.self_attn.{part}_proj.weight": (8, 0) for part in "qkv"},
        "a.self_attn.o_proj.weight": (0, 8),
    },
    "no name but that of a wrapper": {"base_layer._orig_mod": (4, 4), "h.0.attn.qkv.weight": (12, 4)},
}


@crossed(kind=[*SHAPES], command=["show", "explain", "analyze", "check", "diff", "lineage", "report", "scan"])
def test_shapes_that_no_attention_has(kind: str, command: str, tmp_path: Path, run: Run) -> None:
    shapes = SHAPES[kind]
    path = tmp_path / "m.safetensors"
    save_file({name: torch.ones(shape) for name, shape in shapes.items()}, path)
    second = [path] if command in ("diff", "lineage") else []
    out = ["-o", tmp_path / ("o.html" if command == "report" else "o.jsonl")] if command in ("report", "scan") else []
    result = run(command, path, *second, *out)
    assert result.code in (0, 1, 2)
    assert "fault of qkvinspect" not in result.err


@pytest.mark.parametrize("command", ["show", "check", "explain", "analyze", "diff", "export", "convert"])
def test_names_of_many_components_take_no_square_of_them(command: str, tmp_path: Path, run: Run) -> None:
    """Twenty thousand of them: every module above another, as a path, would be 1.6 GB for each tensor."""
    deep = {f"{'a.' * 20_000}self_attn.{part}_proj.weight": torch.randn(4, 4) for part in "qkvo"}
    save_file(deep, tmp_path / "m.safetensors")
    paths = [tmp_path / "m.safetensors"] * (2 if command == "diff" else 1)
    more = {"export": ["--all", "-o", tmp_path / "o.pt"], "convert": ["--to", "torch-mha", "-o", tmp_path / "o.pt"]}
    with bounded_memory(192 << 20), no_hang(6) as within:
        result = within(run, command, *paths, "--heads", "2", "--no-evidence", *more.get(command, []))
    assert result.code in (0, 1), result.err


@pytest.mark.parametrize("command", ["show", "check", "diff"])
def test_projections_without_rows_and_a_config_that_says_heads(command: str, tmp_path: Path, run: Run) -> None:
    save_file({f"a.self_attn.{part}_proj.weight": torch.ones(0, 8) for part in "qkv"}, tmp_path / "m.safetensors")
    (tmp_path / "config.json").write_text('{"num_attention_heads": 2, "head_dim": 4}')
    result = run(command, *[tmp_path] * (2 if command == "diff" else 1))
    assert result.code in (0, 1, 2)
    assert "fault of qkvinspect" not in result.err


@pytest.mark.parametrize("command", ["show", "check", "explain"])
def test_an_onnx_weight_without_axes_that_an_attention_takes(command: str, tmp_path: Path, run: Run) -> None:
    weight = onnxes.tensor(b"a.q.weight", (), 1, bytes(4))
    heads_of = (5, onnxes.message((1, b"num_heads"), (3, 2)))
    nodes = (
        onnxes.node(b"MatMul", (b"x", b"a.q.weight"), (b"y",), (3, b"/a/q/MatMul")),
        onnxes.node(b"Attention", (b"y", b"", b""), (b"o",), heads_of, (7, b"com.microsoft")),
    )
    graph = onnxes.message(*((1, one) for one in nodes), (5, weight))
    (tmp_path / "m.onnx").write_bytes(onnxes.model(graph))
    assert run(command, tmp_path / "m.onnx").code in (0, 1)


def test_kinship_of_weights_with_signalling_nan(tmp_path: Path, run: Run) -> None:
    """numpy warns of one where a float32 is made a float64."""
    values = torch.randn(8, 8, generator=torch.manual_seed(0))
    values.view(torch.int32)[1, 2] = 0x7FA00000
    state = {f"h.0.self_attn.{part}_proj.weight": values.clone() for part in "qkvo"}
    save_file(state, tmp_path / "m.safetensors")
    result = run("lineage", tmp_path / "m.safetensors", tmp_path / "m.safetensors", "--heads", "2")
    assert (result.code, "Warning" in result.err) == (0, False)


@pytest.mark.parametrize("kind", ["a tensor", "a number"])
def test_a_key_of_bytes_is_told_in_the_same_words_at_every_run(kind: str, tmp_path: Path, run: Run) -> None:
    path = tmp_path / "m.pt"
    torch.save({b"k": torch.ones(2) if kind == "a tensor" else 1, "h.0.attn.qkv.weight": torch.ones(12, 4)}, path)
    said = run("show", path)
    assert said.code == 0
    assert ("b'k' is a key that is no text" in said.err + said.out) == (kind == "a tensor")
    assert not re.search(r"0x[0-9a-f]{6}", said.err + said.out)
    assert run("show", path) == said


def test_sources_that_agree_on_heads_but_not_on_those_of_k_and_v() -> None:
    found = report(
        "a",
        rows=(16, 8, 8),
        config__c_json={"num_heads": 4, "num_key_value_heads": 2},
        checkpoint__args={"num_heads": 4, "num_key_value_heads": 4},
    )
    assert heads(found) == [4]
    (one,) = found.attentions
    assert one.heads is not None
    assert one.heads.num_kv_heads == 2
    assert codes(found) == [], "the rows of K say the same as the first"


def test_rows_of_v_rule_out_heads_that_those_of_q_and_k_allow() -> None:
    """16 rows of Q and K are 8 heads of 2, or 4 of 4; 12 of V cannot be shared out over 8."""
    found = report("a", rows=(16, 16, 12), config__c_json={"num_heads": 8})
    assert heads(found) == [None]
    assert "heads-do-not-fit" in codes(found)
    assert heads(report("a", rows=(16, 16, 12), config__c_json={"num_heads": 4})) == [4]


@batched("file name", sorted(set(LISTED)))
def test_a_listed_test_exists(file: str, name: str) -> None:
    assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), f"{file}::{name}"


def test_every_line_of_the_list_names_a_test() -> None:
    rows = [line for line in Path(__file__).with_name("FAULTS.md").read_text().splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not row.startswith(("| ---", "| input"))]
    assert len(rows) > 28
    for row in rows:
        assert "`tests/" in row, row
