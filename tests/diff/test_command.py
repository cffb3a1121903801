"""``qkvinspect diff`` as people use it: exit codes, formats, options, and what names in a file cannot do."""

from __future__ import annotations

import csv
import io
import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator
from rich.cells import cell_len
from safetensors.torch import load_file, save_file

from qkvinspect.diff import DiffOptions, compare
from qkvinspect.diff.relation import RelationCode
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.render import results
from qkvinspect.render.results.diff import document
from qkvinspect.render.view import ViewOptions
from qkvinspect.render.writers import WRITERS, written
from tests.batches import batched

FOLDER = Path(results.__file__).parent
SCHEMA = Draft202012Validator(json.loads((FOLDER / "difference.schema.json").read_text()))
HOSTILE = "a\x1b[31m\x1b]0;title\x07b\u202ec\u200bd\ne\x00f|g<script>[bold]h`i"


@pytest.fixture
def pair(samples: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A sample, and a copy with one value changed in K and a tensor outside attention renamed."""
    a = samples / "transformer.safetensors"
    state = load_file(a)
    state["encoder.layers.0.self_attn.in_proj_weight"][16 + 9, 3] = 5
    state["norm.weight"] = state.pop("encoder.norm.weight")
    save_file(state, tmp_path / "b.safetensors")
    return a, tmp_path / "b.safetensors"


def difference(a: Path, b: Path, *heads: str):
    with open_checkpoint(a) as one, open_checkpoint(b) as other:
        return compare(*(inspect(file, Options(heads=heads, norms=False)) for file in (one, other)), DiffOptions())


def test_the_same_is_exit_code_0_in_another_format(run, samples: Path) -> None:
    result = run("diff", samples / "transformer.pt", samples / "transformer.safetensors")
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[-1] == "same: 3 layers (3 identical), 22 other tensors (22 identical)"


def test_one_value_is_named_with_its_layer_part_head_row_and_column(run, pair) -> None:
    result = run("diff", *pair, "--heads", "2")
    assert result.code == 1
    assert re.search(r"encoder.layers.0.self_attn +changed .* K$", result.out, re.MULTILINE)
    assert re.search(r"^  K differs most in head 1, row 9, column 3: -?0\.\d+ -> 5$", result.out, re.MULTILINE)
    assert re.search(r"^ K .* 1 of \d+$", result.out, re.MULTILINE), "how many values changed, and of how many"
    assert "norm.weight: added" in result.out
    assert "encoder.norm.weight: removed" in result.out
    last = "different: 3 layers (2 identical, 1 changed), 23 other tensors (21 identical, 1 added, 1 removed)"
    assert result.out.splitlines()[-1] == last


def test_the_schema_knows_every_relation() -> None:
    layer = SCHEMA.schema["$defs"]["layer"]["properties"]
    assert set(layer["relations"]["items"]["properties"]["code"]["enum"]) == set(RelationCode)


@pytest.mark.parametrize("format", WRITERS)
def test_the_exit_code_is_that_of_any_format(run, pair, format: str) -> None:
    assert run("diff", *pair, "-f", format).code == 1
    assert run("diff", pair[0], pair[0], "-f", format).code == 0


def test_json_keeps_its_schema(run, pair, samples: Path) -> None:
    for a, b in (pair, (samples / "damaged.pt", samples / "damaged.pt"), (samples / "sharded", samples / "bert_like")):
        result = run("diff", a, b, "-f", "json")
        parsed = json.loads(result.out, parse_constant=pytest.fail)
        SCHEMA.validate(parsed)
        assert parsed["same"] == (result.code == 0)
    found = run("diff", *pair, "--heads", "2", "-f", "json").json()
    (part,) = [part for layer in found["layers"] for part in layer["parts"] if part["status"] == "changed"]
    assert [head["status"] for head in part["heads"]] == ["identical", "changed"]
    assert part["largest"]["row"] == 9


def test_nan_has_no_bare_number(run, tmp_path: Path, samples: Path) -> None:
    state = load_file(samples / "transformer.safetensors")
    state["encoder.layers.0.self_attn.in_proj_weight"][0, 0] = float("nan")
    save_file(state, tmp_path / "b.safetensors")
    result = run("diff", samples / "transformer.safetensors", tmp_path / "b.safetensors", "-f", "json")
    parsed = json.loads(result.out, parse_constant=pytest.fail)
    SCHEMA.validate(parsed)
    (part,) = [part for layer in parsed["layers"] for part in layer["parts"] if part["status"] == "changed"]
    assert (part["part"], part["largest"]["b"], part["nonfinite_changed"]) == ("q", "nan", 1)


def test_attention_only_leaves_other_tensors_out(run, pair) -> None:
    result = run("diff", *pair, "--attention-only")
    assert result.code == 1
    assert "norm" not in result.out
    assert run("diff", *pair, "--attention-only", "-f", "json").json()["others"] is None


def test_a_layer_alone_is_compared(run, pair) -> None:
    assert run("diff", *pair, "--layer", "decoder.*").code == 0
    assert run("diff", *pair, "--layer", "encoder.*").code == 1
    result = run("diff", *pair, "--layer", "nowhere.*")
    assert (result.code, result.err.count("\n")) == (2, 1)


def test_the_tolerance_forgives_what_is_changed_a_little(run, pair, samples: Path) -> None:
    a = samples / "training.pt"
    models = ("--container", "model_state_dict", "--container", "model_ema", "--no-evidence")
    assert run("diff", a, a, *models).code == 1
    assert run("diff", a, a, *models, "--tolerance", "0.11").code == 0
    assert "tolerated" in run("diff", a, a, *models, "--tolerance", "0.11").out
    assert run("diff", a, a, *models, "--tolerance", "-1").code == 2


def test_layers_of_one_side_only_are_listed(run, samples: Path) -> None:
    result = run("diff", samples / "bert_like", samples / "sharded")
    assert result.code == 1
    assert re.search(r"encoder.layer.0.attention.self +removed", result.out)
    assert re.search(r"model.layers.0.self_attn +added", result.out)


def test_an_extract_of_q_k_and_v_is_the_same_without_the_rest(run, samples: Path, tmp_path: Path) -> None:
    assert run("export", "--split", samples / "transformer.pt", "-o", tmp_path / "x.safetensors").code == 0
    result = run("diff", samples / "transformer.pt", tmp_path / "x.safetensors", "--attention-only")
    assert result.code == 0
    assert "B holds no output projection at all, so none was compared" in result.out
    whole = run("diff", samples / "transformer.pt", samples / "transformer.pt", "--attention-only")
    assert "output projection" not in whole.out
    assert run("diff", samples / "transformer.pt", tmp_path / "x.safetensors").code == 1


def test_where_the_two_disagree_about_heads_they_are_compared_without(run, tmp_path: Path) -> None:
    state = {"l.0.attn.in_proj_weight": torch.randn(48, 16), "l.0.attn.out_proj.weight": torch.randn(16, 16)}
    for name, heads in (("a", 2), ("b", 4)):
        (tmp_path / name).mkdir()
        save_file(state, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text(json.dumps({"num_heads": heads}))
    result = run("diff", tmp_path / "a", tmp_path / "b")
    assert result.code == 0
    assert "A has 2 heads (config:config.json:num_heads) and B 4 heads (config" in result.out
    assert run("diff", tmp_path / "a", tmp_path / "b", "-f", "json").json()["layers"][0]["num_heads"] is None


def test_kv_heads_are_named_where_the_two_disagree_about_them(run, tmp_path: Path) -> None:
    for name, kv_heads in (("a", 2), ("b", 8)):
        rows = {"q": 64, "k": 8 * kv_heads, "v": 8 * kv_heads}
        state = {f"model.layers.0.self_attn.{part}_proj.weight": torch.randn(size, 64) for part, size in rows.items()}
        (tmp_path / name).mkdir()
        save_file(state, tmp_path / name / "model.safetensors")
        sizes = {"num_attention_heads": 8, "num_key_value_heads": kv_heads}
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": "llama", **sizes}))
    out = " ".join(run("diff", tmp_path / "a", tmp_path / "b").out.split())
    assert "A has 8 heads over 2 kv heads (" in out
    assert "and B 8 heads over 8 kv heads (" in out


def test_layers_that_cannot_be_told_apart_are_compared_as_they_are_stored(run, tmp_path: Path) -> None:
    weight = torch.randn(48, 16)
    key = "h.0.attn.c_attn.weight"
    proj = {"h.0.attn.c_proj.weight": torch.randn(16, 16)}
    save_file({key: weight} | proj, tmp_path / "a.safetensors")
    save_file({key: weight.T.contiguous()} | proj, tmp_path / "b.safetensors")
    assert run("diff", tmp_path / "a.safetensors", tmp_path / "a.safetensors").code == 0
    result = run("diff", tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert result.code == 1
    assert "c_attn.weight is transposed (in h.0.attn)" in result.out


def test_a_c_attn_that_was_transposed_alone_is_named(run, tmp_path: Path) -> None:
    weight, proj = torch.randn(16, 48), torch.randn(16, 16)
    key = "h.0.attn.c_attn.weight"
    config = {"model_type": "gpt2", "n_head": 2, "n_embd": 16, "block_size": 8}
    for name, tensor in (("a", weight), ("b", weight.T.contiguous())):
        (tmp_path / name).mkdir()
        save_file({key: tensor, "h.0.attn.c_proj.weight": proj}, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    result = run("diff", tmp_path / "a", tmp_path / "b")
    assert result.code == 1
    assert "c_attn.weight is stored as [16, 48] in A and [48, 16] in B, but the output projection" in result.out
    linear = {key: weight.T.contiguous(), "h.0.attn.c_proj.weight": proj.T.contiguous()}
    save_file(linear, tmp_path / "b" / "model.safetensors")
    result = run("diff", tmp_path / "a", tmp_path / "b", "--attention-only")
    assert result.code == 0
    assert "c_attn.weight is stored as [16, 48] in A and [48, 16] in B (in h.0.attn)" in result.out


def test_values_that_went_through_16_bits_are_recognised(run, samples: Path, tmp_path: Path) -> None:
    a = samples / "transformer.safetensors"
    for dtype in (torch.bfloat16, torch.float16):
        save_file({n: t.to(dtype).float() for n, t in load_file(a).items()}, tmp_path / "b.safetensors")
        result = run("diff", a, tmp_path / "b.safetensors")
        assert result.code == 1
        name = str(dtype).removeprefix("torch.")
        assert f"hold the values of A rounded to {name} (in all 3 layers)" in result.out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--map", "x"], "--map"),
        (["--map", "nowhere=there"], "no tensor of A is called as in --map 'nowhere=there'"),
        (["--config", "1", "--config", "2", "--config", "3"], "--config is given more than twice"),
        (["--heads", "7"], "does not fit"),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(run, pair, argv: list[str], words: str) -> None:
    result = run("diff", *pair, *argv)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert words in result.err


def test_a_file_that_cannot_be_used_is_exit_code_2(run, pair, tmp_path: Path) -> None:
    (tmp_path / "empty.pt").write_bytes(b"")
    for paths in ((pair[0], tmp_path / "empty.pt"), (tmp_path / "empty.pt", pair[0]), (pair[0], tmp_path / "none")):
        result = run("diff", *paths)
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    save_file({"x": torch.ones(2)}, tmp_path / "x.safetensors")
    result = run("diff", tmp_path / "x.safetensors", tmp_path / "x.safetensors", "--attention-only")
    assert (result.code, "there is no attention to compare" in result.err) == (2, True)
    assert run("diff", tmp_path / "x.safetensors", tmp_path / "x.safetensors").code == 0


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A difference of modules whose names act."""
    tmp_path = tmp_path_factory.mktemp("hostile")
    for file, value in (("a", 1.0), ("b", 2.0)):
        state = {f"{HOSTILE}.in_proj_weight": torch.full((24, 8), value), f"{HOSTILE}.other": torch.full((3,), value)}
        save_file(state | {f"{file}{HOSTILE}.in_proj_weight": torch.ones(48, 16)}, tmp_path / f"{file}.safetensors")
    return difference(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "2")


@pytest.mark.parametrize("name", WRITERS)
@batched("width colour", [*product([None, 80, 40], [False, True])])
def test_a_name_can_do_nothing(hostile: Any, name: str, width: int | None, colour: bool) -> None:
    out = written(document(hostile, per_head=True), name, ViewOptions(width=width, colour=colour))
    for sequence in ("\x1b[31m\x1b", "\x1b]", "\x07", "\u202e", "\u200b", "\x00", "d\ne"):
        assert sequence not in out
    if not colour:
        assert "\x1b" not in out
    if name == "markdown":
        assert "<script>" not in out.replace("\\<", "")
    if name == "table" and width:
        assert max(map(cell_len, re.sub(r"\x1b\[[0-9;]*m", "", out).splitlines())) <= width


def test_csv_has_a_row_for_each_part_head_and_other_tensor(run, pair) -> None:
    argv = ("diff", *pair, "--heads", "2", "-f", "csv")
    rows = list(csv.DictReader(io.StringIO(run(*argv, "--per-head").out)))
    whole = list(csv.DictReader(io.StringIO(run(*argv).out)))
    found = run("diff", *pair, "--heads", "2", "-f", "json").json()
    parts = [part for layer in found["layers"] for part in layer["parts"]]
    assert len(whole) == len(parts) + sum(count for count in found["others"].values() if isinstance(count, int))
    assert len(rows) == len(whole) + sum(len(part["heads"]) for part in parts)
    (head,) = [row for row in rows if row["status"] == "changed" and row["head"]]
    assert (head["part"], head["head"]) == ("k", "1")
    assert float(head["relative_l2"]) > 0


def test_markdown_is_a_comment_with_the_answer_first_and_the_details_folded(run, pair) -> None:
    out = run("diff", *pair, "--heads", "2", "--per-head", "-f", "markdown").out
    assert out.startswith("### qkvinspect diff: different: 3 layers")
    assert out.count("<details>") == out.count("</details>") == 1
    inside = out.partition("<details>")[2].partition("</details>")[0]
    assert "| K | " in inside
    assert "| K | 1 | changed |" in inside
