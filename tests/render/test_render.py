"""Output: nothing cut in a pipe, nothing wider than the terminal, nothing that a name can do."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import get_args

import pytest
import torch
from jsonschema import Draft202012Validator
from rich.cells import cell_len
from safetensors.torch import save_file

from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.inspection.report import Report
from qkvinspect.layouts.layout import FoundBy
from qkvinspect.layouts.packing import Geometry
from qkvinspect.render import text, writers
from qkvinspect.render.results.show import document
from qkvinspect.render.view import ViewOptions
from qkvinspect.render.writers import CHECK_WRITERS, WRITERS, written

SCHEMA = Path(__file__).parent.parent.parent / "qkvinspect/render/results/report.schema.json"
HOSTILE = "a\x1b[31m\x1b]0;title\x07b\u202ec\u200bd\ne\x00f|g<script>[bold]h`i"


def report(path: Path, *heads: str) -> Report:
    with open_checkpoint(path) as checkpoint:
        return inspect(checkpoint, Options(heads=heads))


@pytest.fixture
def hostile(tmp_path: Path) -> Report:
    save_file({f"{HOSTILE}.in_proj_weight": torch.ones(24, 8)}, tmp_path / "model.safetensors")
    return report(tmp_path / "model.safetensors", "2")


def test_every_writer_is_listed() -> None:
    modules = {path.stem for path in Path(writers.__file__).parent.glob("*.py")}
    assert modules - {"__init__", "page", "narrow", "wrapping"} == {*WRITERS, *CHECK_WRITERS}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("width", [None, 80, 40])
@pytest.mark.parametrize("colour", [False, True])
def test_a_name_can_do_nothing(hostile: Report, name: str, width: int | None, colour: bool) -> None:
    out = written(document(hostile, per_head=True), name, ViewOptions(width=width, colour=colour))
    for sequence in ("\x1b[31m", "\x1b]", "\x07", "\u202e", "\u200b", "\x00", "d\ne"):
        assert sequence not in out
    if not colour:
        assert "\x1b" not in out
    if name == "markdown":
        assert "<script>" not in out.replace("\\<", "")


@pytest.mark.parametrize("sample", ["transformer.pt", "sharded", "training.pt"])
@pytest.mark.parametrize("width", [60, 80, 120])
def test_nothing_is_wider_than_the_terminal(samples: Path, sample: str, width: int) -> None:
    out = written(document(report(samples / sample), per_head=True), "table", ViewOptions(width=width))
    assert max(map(cell_len, out.splitlines())) <= width
    assert "…" not in out


@pytest.mark.parametrize("name", WRITERS)
def test_nothing_is_cut_in_a_pipe(tmp_path: Path, name: str) -> None:
    layer = ".".join(f"very_long_component_{i}" for i in range(40))
    save_file({f"{layer}.in_proj_weight": torch.ones(24, 8)}, tmp_path / "model.safetensors")
    out = written(document(report(tmp_path / "model.safetensors")), name, ViewOptions())
    assert layer in out.replace("\\", "")
    assert "…" not in out


def test_colour_is_only_colour(samples: Path) -> None:
    shown = document(report(samples / "damaged.pt"))
    plain = written(shown, "table", ViewOptions(width=100))
    coloured = written(shown, "table", ViewOptions(width=100, colour=True))
    assert coloured != plain
    stripped = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert [line.rstrip() for line in stripped.splitlines()] == plain.splitlines()


def test_json_has_no_bare_nan_and_keeps_the_schema(samples: Path) -> None:
    out = written(document(report(samples / "damaged.pt")), "json", ViewOptions())
    parsed = json.loads(out, parse_constant=pytest.fail)
    Draft202012Validator(json.loads(SCHEMA.read_text())).validate(parsed)
    assert parsed["attentions"][0]["k"]["norm"] == "nan"
    assert parsed["attentions"][0]["k"]["nonfinite"] == 1
    assert parsed["attentions"][0]["v"]["heads"][2]["norm"] == 0


def test_json_without_norms(samples: Path, run) -> None:
    parsed = run("show", samples / "transformer.pt", "--no-norms", "-f", "json").json()
    Draft202012Validator(json.loads(SCHEMA.read_text())).validate(parsed)
    assert parsed["attentions"][0]["q"]["norm"] is None


def test_the_schema_refuses_what_it_should() -> None:
    validator = Draft202012Validator(json.loads(SCHEMA.read_text()))
    assert not validator.is_valid({"schema_version": 1})
    assert not validator.is_valid({"schema_version": 3, "checkpoint": {}, "attentions": [], "findings": []})


def test_a_range_names_the_axis_that_it_is_of(tmp_path: Path, run) -> None:
    """GPT-2 stores [in, out]: slicing the stored tensor as printed gives the part, in every format."""
    stored = {
        "h.0.attn.c_attn.weight": torch.randn(8, 24),
        "h.0.attn.c_proj.weight": torch.randn(8, 8),
        "1.in_proj_weight": torch.randn(24, 8),
    }
    save_file(stored, tmp_path / "model.safetensors")
    show = ("show", tmp_path / "model.safetensors", "--heads", "2")
    for attention in run(*show, "-f", "json").json()["attentions"]:
        name = attention["tensors"]["weight"]
        for part in (attention["k"], *attention["k"]["heads"]):
            ((start, stop),) = part["rows"]
            values = stored[name].narrow(part["axis"], start, stop - start)
            assert part["norm"] == pytest.approx(values.double().norm().item())
    axes = {row["layer"]: row["axis"] for row in csv.DictReader(io.StringIO(run(*show, "-f", "csv").out))}
    assert axes == {"h.0.attn": "1", "1": "0"}
    for format in ("table", "markdown"):
        out = run(*show, "-f", format).out
        assert "columns 8:16" in out
        assert out.count("columns") == 3
    assert "columns 12:16" in run(*show, "--per-head").out


@pytest.mark.parametrize("lying", ["ihd", "hid", "hdi"])
def test_a_range_of_a_tensor_of_three_axes_is_one_of_what_is_stored(tmp_path: Path, run, lying: str) -> None:
    sizes = {"i": 48, "h": 4, "d": 12}
    stored = {f"attn.w_{part}": torch.randn([sizes[axis] for axis in lying]) for part in "qkv"}
    stored["attn.w_o"] = torch.randn((4, 48, 12) if lying == "hdi" else (4, 12, 48))
    save_file({**stored, "ln.weight": torch.randn(48)}, tmp_path / "model.safetensors")
    shown = run("show", tmp_path / "model.safetensors", "-f", "json", "--per-head").json()
    Draft202012Validator(json.loads(SCHEMA.read_text())).validate(shown)
    (attention,) = shown["attentions"]
    assert attention["stored"] == {name: list(tensor.shape) for name, tensor in stored.items() if name != "attn.w_o"}
    for part in "qkv":
        tensor = stored[f"attn.w_{part}"]
        assert len(attention[part]["heads"]) == 4
        for head, told in enumerate(attention[part]["heads"]):
            ((start, stop),) = told["rows"]
            values = tensor.flatten(1).narrow(told["axis"], start, stop - start)
            of_head = tensor.select(lying.index("h"), head)
            assert sorted(values.flatten().tolist()) == sorted(of_head.flatten().tolist())
    row = next(csv.DictReader(io.StringIO(run("show", tmp_path / "model.safetensors", "-f", "csv").out)))
    assert [row["rows"], row["axis"]] == (["0:48", "1"] if lying == "ihd" else ["0:4", "0"])


def test_every_source_of_heads_keeps_the_schema() -> None:
    """What finds a module may say its heads as well, and is then their source."""
    pattern = json.loads(SCHEMA.read_text())["$defs"]["attention"]["properties"]["num_heads_from"]["pattern"]
    for source in (*get_args(FoundBy), "flag", "weights", "library:segment_anything", "config:config.json:n_head"):
        assert re.match(pattern, source)


@pytest.mark.parametrize("per_head", [False, True])
def test_csv_has_a_row_for_each_part_or_head(samples: Path, per_head: bool) -> None:
    shown = report(samples / "sharded")
    rows = list(csv.DictReader(io.StringIO(written(document(shown, per_head=per_head), "csv", ViewOptions()))))
    assert len(rows) == 2 * (4 + 2 + 2 if per_head else 3)
    q = next(row for row in rows if row["part"] == "q")
    part = shown.attentions[0].part("q")
    assert part is not None
    measured = part.head_measures[0] if per_head else part.measured
    assert measured is not None
    assert float(q["norm"]) == measured.norm
    assert q["rows"] == ("0:4" if per_head else "0:16")
    assert (q["num_heads"], q["num_kv_heads"], q["head_dim"]) == ("4", "2", "4")


@pytest.mark.parametrize("start", "=+-@")
def test_csv_runs_no_formula(tmp_path: Path, start: str) -> None:
    save_file({f"{start}cmd|' /C calc'!A0.in_proj_weight": torch.ones(24, 8)}, tmp_path / "model.safetensors")
    out = written(document(report(tmp_path / "model.safetensors")), "csv", ViewOptions())
    assert next(csv.DictReader(io.StringIO(out)))["layer"].startswith(f"'{start}")


def test_markdown_tables_are_tables(samples: Path) -> None:
    lines = written(document(report(samples / "sharded"), per_head=True), "markdown", ViewOptions()).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 2  # parts, and heads
    assert all(line.endswith("|") for line in table)


def test_no_attention_is_said_in_words(tmp_path: Path, run) -> None:
    save_file({"core.in_proj.weight": torch.zeros(64, 7)}, tmp_path / "model.safetensors")
    result = run("show", tmp_path / "model.safetensors")
    assert result.code == 0
    assert "No attention was found" in result.out
    assert "0 attention modules" in result.out
    assert "No attention was found" in run("show", tmp_path / "model.safetensors", "-f", "markdown").out
    assert "No attention was found" in run("explain", tmp_path / "model.safetensors").out


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (1.0, "1.000"), (41.50852, "41.509"), (0.00239, "0.00239"), (1e-30, "1e-30"), (3e9, "3e+09"),
     (float("nan"), "nan"), (float("inf"), "inf")],
)  # fmt: skip
def test_numbers(value: float, shown: str) -> None:
    assert text.number(value) == shown
    assert text.figures([value, None, abs(value)]) == [shown, "-", text.number(abs(value))]


@pytest.mark.parametrize(("nbytes", "shown"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (176_600_000, "176.6 MB"),
                                               (2 * 10**12, "2.0 TB"), (5 * 10**15, "5000.0 TB")])  # fmt: skip
def test_sizes(nbytes: int, shown: str) -> None:
    assert text.size(nbytes) == shown


def test_many_runs_are_summed_up() -> None:
    assert text.rows([range(64), range(192, 256)]) == "0:64, 192:256"
    assert text.rows([range(i, 64, 3) for i in range(9)]) == "0:64:3, 1:64:3, ... 9 runs"


def test_kv_heads_are_shared_in_order() -> None:
    assert [Geometry(6, 2, 4).kv_head(head) for head in range(6)] == [0, 0, 0, 1, 1, 1]
