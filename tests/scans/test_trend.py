"""trend: names what was put into a run and nothing in one that went well; every format; hostile rows."""

from __future__ import annotations

import csv
import io
import json
import os
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator

from tests.scans.training import HEADS, LAYERS, Q, name, rows_of, ruined, save, train
from tests.some import first

SCHEMA = json.loads((Path(__file__).parents[2] / "qkvinspect/render/results/trend.schema.json").read_text())


def trended(run, *argv: object, code: int = 0) -> dict[str, Any]:
    result = run("trend", *argv, "-f", "json")
    assert (result.code, result.err) == (code, "")
    found = result.json()
    Draft202012Validator(SCHEMA).validate(found)
    return found


def said(found: dict[str, Any]) -> list[tuple[str, str | None, str]]:
    return [(one["code"], one["layer"], one["message"]) for one in found["findings"]]


@pytest.mark.parametrize(
    ("seed", "options"),
    first(
        1,
        [
            (0, {}),
            (7, {"optimizer": "sgd", "norm_first": False, "every": 20}),
            (1, {}),
            (2, {"optimizer": "adam"}),
            (3, {"optimizer": "sgd"}),
            (4, {"rate": 1e-2}),
            (5, {"norm_first": False}),
            (6, {"every": 20, "rate": 6e-3}),
        ],
    ),
)
@pytest.mark.gate
def test_a_run_that_went_well_has_no_findings(
    trained: Path, tmp_path: Path, run, seed: int, options: dict[str, Any]
) -> None:
    """That of all tests here in every run, which is the first."""
    folder, count = trained, 41
    if seed:
        folder, count = tmp_path / "run", 240 // options.get("every", 10) + 1
        save(folder, train(seed, 240, **options), ".safetensors")
    out = tmp_path / "run.jsonl"
    argv = ("--heads", HEADS, "--column", "logit_bound", "--jobs", 1)
    assert run("scan", folder, "-o", out, *argv).code == 0
    found = trended(run, out)
    assert found["checkpoints"] == count
    assert found["findings"] == []


def test_what_is_wrong_is_named_and_nothing_else(trained: Path, tmp_path: Path, run) -> None:
    sound = ((step, torch.load(trained / f"step={step}.pt")["model"]) for step in range(0, 201, 5))
    states = dict(ruined(sound))
    rows_of(states[185], 0, Q, 2)[0, 0] = torch.inf
    save(tmp_path / "run", iter(states.items()))
    (tmp_path / "run" / "step=300.pt").write_bytes(b"bad")
    run("scan", tmp_path / "run", "-o", tmp_path / "run.jsonl", "--column", "logit_bound")
    found = said(trended(run, tmp_path / "run.jsonl", code=1))
    assert [(code, layer) for code, layer, _ in found] == [
        ("nonfinite", name(0)),
        ("norm-spike", name(1)),
        ("dying-head", name(2)),
        ("unreadable", None),
    ]
    messages = [message for _, _, message in found]
    assert messages[0].startswith("Q has values that are not finite from step 185 on (1 of them")
    assert messages[1].startswith("the norm of K in heads 0, 1, 2, 3 jumps at step 120: ")
    assert messages[1].endswith(", and back")
    assert messages[2].startswith(
        "the norm of V in head 3 falls towards zero: under 0.25 of the other heads' from step 1"
    )
    assert 160 <= int(messages[2].partition("from step ")[2].partition(" on")[0]) <= 180
    assert "1 of the checkpoints" in messages[3]


@pytest.mark.parametrize(
    ("factor", "code"), [pytest.param(1.15, [], marks=pytest.mark.gate), (2.0, ["norm-spike"]), (0.4, ["norm-spike"])]
)
def test_a_jump_of_one_head_at_the_last_checkpoint(
    trained_rows: list[dict[str, Any]], factor, code, tmp_path, run
) -> None:
    rows = [dict(row) for row in trained_rows]
    for row in rows:
        if (row["step"], row["layer"], row["part"], row["head"]) == (200, name(1), "q", 2):
            row["norm"] *= factor
    found = said(trended(run, written(tmp_path, rows), code=1 if code else 0))
    assert [one[:2] for one in found] == [(one, name(1)) for one in code]
    assert all("Q in head 2 jumps at step 200" in one[2] for one in found)


def test_a_jump_is_told_with_the_norm_of_what_jumps(trained_rows: list[dict[str, Any]], tmp_path: Path, run) -> None:
    """Under a head's name stands that head's norm, not that of the whole part, which jumps with it."""
    rows = [dict(row) for row in trained_rows]
    before: dict[object, float] = {}
    for row in rows:
        if (row["layer"], row["part"]) == (name(1), "q") and row["step"] in (195, 200):
            if row["step"] == 200 and row["head"] in (None, 2):
                row["norm"] *= 0.6 if row["head"] is None else 0.4
            elif row["step"] == 195:
                before[row["head"]] = row["norm"]
    (found,) = said(trended(run, written(tmp_path, rows), code=1))
    after = next(row["norm"] for row in rows if (row["step"], row["layer"], row["part"], row["head"])
                 == (200, name(1), "q", 2))  # fmt: skip
    assert found[2] == f"the norm of Q in head 2 jumps at step 200: {before[2]:.3g} to {after:.3g}"


@pytest.mark.parametrize(
    ("growth", "code"), [(lambda t: 1.0 + t, []), (lambda t: 8**t, ["norm-drift"]), (lambda t: 0.1**t, ["norm-drift"])]
)
def test_drift(trained_rows: list[dict[str, Any]], growth, code, tmp_path: Path, run) -> None:
    rows = [dict(row) for row in trained_rows]
    for row in rows:
        if (row["layer"], row["part"]) == (name(2), "k"):
            row["norm"] *= growth(row["step"] / 200)
    found = said(trended(run, written(tmp_path, rows), code=1 if code else 0))
    assert [one[:2] for one in found] == [(one, name(2)) for one in code]


def test_a_bound_that_grows(trained_rows: list[dict[str, Any]], tmp_path: Path, run) -> None:
    rows = [dict(row) for row in trained_rows]
    for row in {row["step"]: row for row in trained_rows}.values():
        for head in range(HEADS):
            bound = 10.0 * (40 ** (row["step"] / 200) if head == 1 else 1)
            rows.append({**row, "layer": name(0), "part": "head", "head": head, "norm": None, "logit_bound": bound})
    found = said(trended(run, written(tmp_path, rows), code=1))
    assert [one[:2] for one in found] == [("logit-bound-growth", name(0))]
    assert "of head 1 grows 5.8 times" in found[0][2]


def test_steps_that_are_missing(trained_rows: list[dict[str, Any]], tmp_path: Path, run) -> None:
    rows = [dict(row) for row in trained_rows if row["step"] != 50]
    rows += [{**row, "step": None, "checkpoint": "last.pt"} for row in rows[:3]]
    rows += [{**row, "checkpoint": "best.pt"} for row in rows if row["step"] == 60]
    rows = [{**row, "step_from": "checkpoint:epoch"} if row["step"] == 200 else row for row in rows]
    found = trended(run, written(tmp_path, rows), code=1)
    codes = {(one["code"], one["severity"]): one["message"] for one in found["findings"]}
    assert codes.keys() == {
        ("missing-steps", "warning"),
        ("missing-steps", "info"),
        ("mixed-steps", "warning"),
        ("repeated-steps", "info"),
    }
    assert "between 45 and 55" in codes["missing-steps", "info"]
    assert "last.pt" in codes["missing-steps", "warning"]
    assert "such as 60" in codes["repeated-steps", "info"]
    short = trended(run, written(tmp_path, [row for row in trained_rows if row["step"] < 20]))
    assert [one["code"] for one in short["findings"]] == ["short-run"]


@pytest.fixture(scope="session")
def trained_rows(trained: Path) -> list[dict[str, Any]]:
    from qkvinspect.scans.rows import ScanJob, scan_one

    texts = (scan_one(str(path), ScanJob()).rows().decode() for path in sorted(trained.iterdir()))
    return [json.loads(line) for text in texts for line in text.splitlines()]


def written(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "rows.jsonl"


def test_figures_are_those_of_the_rows(trained_rows: list[dict[str, Any]], tmp_path: Path, run) -> None:
    path = written(tmp_path, trained_rows)
    expected = {
        row["step"]: row["norm"]
        for row in trained_rows
        if (row["layer"], row["part"], row["head"]) == (name(1), "v", None)
    }
    found = trended(run, path)
    assert len(found["series"]) == LAYERS * 3
    (series,) = [one for one in found["series"] if (one["layer"], one["part"]) == (name(1), "v")]
    assert dict(zip(series["steps"], series["values"], strict=True)) == expected
    steps, values = (torch.tensor(list(each), dtype=torch.float64) for each in (expected, expected.values()))
    assert series["steps"] == sorted(expected)
    assert (series["first"], series["last"]) == (expected[0], expected[200])
    assert (series["min"], series["max"]) == (min(expected.values()), max(expected.values()))
    slope = torch.linalg.lstsq(torch.stack([steps, torch.ones(41)], 1), values[:, None]).solution[0]
    assert series["slope_per_1000_steps"] == pytest.approx(1000 * float(slope), rel=1e-9)
    heads = trended(run, path, "--per-head", "--layer", "*.2.*")
    assert [(one["part"], one["head"]) for one in heads["series"]] == [(p, h) for p in "qkv" for h in range(HEADS)]
    cells = list(csv.DictReader(io.StringIO(run("trend", path, "-f", "csv").out)))
    assert {int(c["step"]): float(c["value"]) for c in cells if c["part"] == "v" and c["layer"] == name(1)} == expected


def test_what_a_person_reads(trained_rows: list[dict[str, Any]], tmp_path: Path, run) -> None:
    path = written(tmp_path, trained_rows)
    table = run("trend", path)
    assert table.out.startswith("41 checkpoints, steps 0 to 200, 3 layers\n")
    assert table.out.endswith("\n0 errors, 0 warnings\n")
    assert table.out.count("self_attn") == LAYERS * 3
    assert run("trend", path, "-f", "markdown").out.count("| encoder.layers.1.self\\_attn | ") == 3
    chart = run("trend", path, "--chart").out
    dots = [line.partition("│")[2] for line in chart.splitlines() if "│" in line]
    assert len(dots) == 30
    assert all(any(row[x] != "\u2800" for row in dots[:10]) for x in range(72)), "the curves have no holes"


def test_the_rows_of_the_readme(run) -> None:
    found = said(trended(run, Path(__file__).parent / "run.jsonl", code=1))
    assert [one[:2] for one in found] == [("norm-spike", name(1)), ("dying-head", name(2))]


@pytest.mark.gate
def test_a_plot(trained_rows: list[dict[str, Any]], tmp_path: Path, run) -> None:
    rows = [{**row, "layer": f"$\\frac{{{row['layer']}}}$"} for row in trained_rows]
    path = written(tmp_path, rows)
    out = tmp_path / "run.png"
    assert run("trend", path, "--plot", out).code == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert run("trend", path, "--plot", tmp_path / "run.svg", "--layer", "*.2.*").code == 0
    assert run("trend", path, "--plot", out).code == 2
    assert ".png or .svg" in run("trend", path, "--plot", tmp_path / "run.txt").err


ROW = {"checkpoint": "a.pt", "step": 1, "step_from": "name:a", "layer": "x", "part": "q", "head": None, "norm": 1.0}


@pytest.mark.parametrize(
    "line",
    [
        "",
        "[]",
        "{",
        "null",
        "[" * 100_000,
        '{"a": 1}',
        *(
            json.dumps({**ROW, **wrong})
            for wrong in (
                {"step": "1"},
                {"step": -1},
                {"step": True},
                {"step": 2**70},
                {"checkpoint": 1},
                {"layer": None},
                {"layer": ["x"]},
                {"part": "z"},
                {"part": ["q"]},
                {"head": 1.5},
                {"norm": "big"},
                {"norm": [1]},
                {"norm": True},
                {"norm": 10**400},
                {"nonfinite": "x"},
                {"logit_bound": {}},
                {"step_from": 1},
                {"part": "head", "head": 0},
                {"part": "head", "norm": None},
                {"norm": 1e308},
                {"norm": -1e101},
            )
        ),
        "\x1b[31m" + "x" * 3000,
    ],
)
def test_a_line_that_is_no_row(tmp_path: Path, run, line: str) -> None:
    (tmp_path / "rows.jsonl").write_text(f"{json.dumps(ROW)}\n{line}\n")
    result = run("trend", tmp_path / "rows.jsonl")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert "rows.jsonl: line 2: " in result.err
    assert "\x1b" not in result.err
    assert len(result.err) < 1000


def test_no_more_of_an_endless_line_is_read_than_a_row_may_have(tmp_path: Path, run) -> None:
    """Read whole, it takes a gigabyte and more."""
    with (tmp_path / "rows.jsonl").open("wb") as file:
        file.truncate(1 << 30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert run("trend", tmp_path / "rows.jsonl").code == 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


@pytest.mark.parametrize("figure", [1e100, 1e99, 1e-308, 5e-324, 0.0])
@pytest.mark.parametrize("format", ["table", "json", "csv", "markdown"])
def test_figures_at_the_ends_of_what_can_be(tmp_path: Path, run, figure: float, format: str) -> None:
    rows = [
        {**ROW, "step": step, "checkpoint": str(step), "norm": figure if step % 2 else 1.0} for step in range(1, 40)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert run("trend", tmp_path / "rows.jsonl", "-f", format).code in (0, 1)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "No such file"),
        (b"", "holds no rows"),
        (b"\xff\xfe", "is not UTF-8"),
        (json.dumps({**ROW, "step": None}).encode(), "no row has a step"),
        (json.dumps({**ROW, "error": "bad"}).encode(), "no row has a step"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, run, data: bytes | None, words: str) -> None:
    if data is not None:
        (tmp_path / "rows.jsonl").write_bytes(data)
    result = run("trend", tmp_path / "rows.jsonl")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert words in result.err


@pytest.mark.parametrize("argv", [("--column", "nothing"), ("--layer", "nothing")])
def test_what_is_not_there(tmp_path: Path, run, argv: tuple[str, str]) -> None:
    result = run("trend", written(tmp_path, [ROW]), *argv)
    assert (result.code, result.err.count("\n")) == (2, 1)


def test_rows_that_a_pipe_or_a_device_would_give_are_not_waited_for(tmp_path: Path, run) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, words in ((tmp_path / "pipe", "a named pipe"), ("/dev/zero", "a character device")):
        result = run("trend", path)
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        assert words in result.err


@pytest.mark.parametrize("format", ["table", "json", "csv", "markdown"])
def test_names_stay_text(tmp_path: Path, run, format: str) -> None:
    evil = "=<script>\x1b[31m[bold]|`x`\n$\u202e"
    rows = [{**ROW, "layer": evil, "checkpoint": evil, "step": step, "nonfinite": 1} for step in range(9)]
    result = run("trend", written(tmp_path, [*rows, {**rows[0], "error": evil}]), "-f", format)
    assert result.code == 1
    for mark in ("\x1b", "\u202e", "\n=<", "|`x`\n"):
        assert mark not in result.out
    if format == "markdown":
        assert "<script" not in result.out.replace("\\<", "")
    if format == "csv":
        assert "\n'=<script>" in result.out
