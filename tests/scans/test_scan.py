"""The command: rows against torch, errors as rows, every format, going on after changes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch

from tests.scans.training import HEADS, LAYERS, Q, name, rows_of

PARTS = "qkv"


@pytest.fixture
def beginning(training: Path) -> Path:
    """The first 11 checkpoints."""
    for path in training.iterdir():
        if int(path.stem.removeprefix("step=")) > 50:
            path.unlink()
    return training


def scanned(path: str = "run.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_rows_are_what_torch_reckons(training: Path, run) -> None:
    result = run("scan", "run", "-o", "run.jsonl", "--jobs", 2)
    assert (result.code, result.out) == (0, "")
    assert result.err == "run.jsonl: 41 checkpoints\n"
    rows = scanned()
    assert len(rows) == 41 * LAYERS * 3 * (1 + HEADS)
    states = {step: torch.load(training / f"step={step}.pt")["model"] for step in range(0, 201, 5)}
    expected = [
        (step, name(layer), PARTS[part], head, float(rows_of(state, layer, part, head).double().norm()))
        for step, state in states.items()
        for layer in range(LAYERS)
        for part in range(3)
        for head in (None, *range(HEADS))
    ]
    assert [(r["step"], r["layer"], r["part"], r["head"]) for r in rows] == [one[:4] for one in expected]
    assert [r["norm"] for r in rows] == pytest.approx([one[4] for one in expected], rel=1e-6)
    assert {(r["step_from"], r["nonfinite"], r["error"]) for r in rows} == {("checkpoint:global_step", 0, None)}
    assert {r["checkpoint"] for r in rows} == {f"run/step={step}.pt" for step in states}


def test_columns_of_show_and_analyze(training: Path, run) -> None:
    keys = "bias_norm,layout,dtype,num_heads,head_dim,logit_bound,ov_spectral_norm"
    assert run("scan", "run/step=5.pt", "-o", "run.jsonl", "--column", keys, "--jobs", 1).code == 0
    rows = scanned()
    shown = run("show", "run/step=5.pt", "-f", "json").json()["attentions"]
    figures = run("analyze", "run/step=5.pt", "-f", "json").json()["layers"]
    for layer, (attention, analysed) in enumerate(zip(shown, figures, strict=True)):
        own = [row for row in rows if row["layer"] == name(layer)]
        whole = {row["part"]: row for row in own if row["part"] in PARTS and row["head"] is None}
        for part in PARTS:
            assert whole[part]["norm"] == attention[part]["norm"]
            assert whole[part]["bias_norm"] == attention[part]["bias_norm"]
            assert [whole[part][key] for key in ("layout", "dtype", "num_heads", "head_dim")] == [
                attention[key] for key in ("layout", "dtype", "num_heads", "head_dim")
            ]
        heads = [row for row in own if row["part"] == "head"]
        assert [row["head"] for row in heads] == list(range(HEADS))
        assert [row["logit_bound"] for row in heads] == [head["logit_bound"] for head in analysed["heads"]]
        assert [row["ov_spectral_norm"] for row in heads] == [head["ov"]["largest"] for head in analysed["heads"]]
        assert {row["norm"] for row in heads} == {None}


def test_csv_and_parquet_hold_the_same(training: Path, run) -> None:
    state = torch.load("run/step=10.pt")
    rows_of(state["model"], 0, Q)[0, 0] = torch.nan
    (training / "step=10.pt").unlink()
    torch.save(state, "run/step=10.pt")
    Path("run/=step=7.pt").write_bytes(b"no")
    for suffix in ("jsonl", "csv", "parquet"):
        argv = ("scan", "run/*step=[1-9].pt", "run/step=10.pt", "-o", f"run.{suffix}", "--column", "bias_norm,layout")
        assert run(*argv, "--jobs", 1).code == 0
    rows = scanned()
    with Path("run.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    table = pyarrow.parquet.read_table("run.parquet").to_pylist()
    assert sum(row["error"] is not None for row in rows) == 1
    assert [row["norm"] for row in rows if row["step"] == 10][:2] == ["nan", "nan"]
    for row, cell, record in zip(rows, cells, table, strict=True):
        assert list(row) == list(cell) == list(record)
        assert cell == {key: "" if value is None else str(value) for key, value in row.items()}
        for key, value in row.items():
            assert record[key] == value or (value == "nan" and record[key] != record[key])
            assert value is None or key != "norm" or isinstance(record[key], float)


def test_a_bad_file_is_a_row(beginning: Path, run) -> None:
    Path("run/step=3.pt").write_bytes(b"PK\x03\x04" + bytes(100))
    torch.save({"weight": torch.zeros(2, 2), "step": 4}, "run/step=4.pt")
    Path("run/a\x1b[31m\nb.pt").write_bytes(b"")
    result = run("scan", "run", "-o", "run.jsonl")
    assert result.code == 0
    assert "3 failed" in result.err
    assert "\x1b" not in result.err
    assert result.err.count("\n") == 4
    bad = [row for row in scanned() if row["error"]]
    assert [(row["checkpoint"], row["step"], row["layer"]) for row in bad] == [
        ("run/step=3.pt", 3, None),
        ("run/step=4.pt", 4, None),
        ("run/a\x1b[31m\nb.pt", None, None),
    ]
    assert "QKV-" in bad[0]["error"]
    assert bad[1]["error"] == "no attention was found in it"
    assert len([row for row in scanned() if row["step"] == 5]) == LAYERS * 3 * (1 + HEADS)
    assert run("scan", "run", "-o", "strict.jsonl", "--strict").code == 1


def test_resume_redoes_what_failed_and_what_changed_and_nothing_else(training: Path, run) -> None:
    Path("run/step=7.pt").write_bytes(b"bad")
    run("scan", "run", "-o", "run.jsonl")
    before = scanned()
    state = torch.load("run/step=5.pt")
    (training / "step=7.pt").unlink()
    torch.save({**state, "global_step": 7}, "run/step=7.pt")
    (training / "step=100.pt").unlink()
    rows_of(state["model"], 0, Q).mul_(2)
    torch.save({**state, "global_step": 100}, "run/step=100.pt")
    (training / "step=0.pt").unlink()
    result = run("scan", "run", "-o", "run.jsonl", "--resume", "--strict")
    assert (result.code, result.err) == (0, "run.jsonl: 41 checkpoints, 39 of them before\n")
    after = scanned()
    doubled = next(row for row in after if row["step"] == 100)["norm"]
    assert doubled == pytest.approx(2 * next(row for row in before if row["step"] == 5)["norm"], rel=1e-6)
    assert [row for row in after if row["step"] not in (7, 100)] == [
        row for row in before if row["step"] not in (7, 100)
    ]
    assert len({(row["checkpoint"], row["layer"], row["part"], row["head"]) for row in after}) == len(after) == 42 * 45


def test_a_scan_does_not_replace_another_unasked(training: Path, run) -> None:
    argv = ("scan", "run/step=5.pt", "-o", "run.jsonl")
    run(*argv)
    again = run(*argv)
    assert (again.code, again.err.count("\n")) == (2, 1)
    assert "exists already" in again.err
    Path("run.jsonl").unlink()
    begun = run(*argv)
    assert "--resume goes on, --force begins anew" in begun.err
    other = run(*argv, "--resume", "--heads", 2)
    assert "was begun with other options" in other.err
    assert run(*argv, "--force", "--heads", 2).code == 0
    assert max(row["head"] or 0 for row in scanned()) == 1


def test_shards_together_are_the_whole(beginning: Path, run) -> None:
    run("scan", "run", "-o", "whole.jsonl", "--jobs", 2)
    shards: list[str] = []
    for index in (1, 2, 3):
        assert run("scan", "run", "-o", f"{index}.jsonl", "--shard", f"{index}/3", "--jobs", 1).code == 0
        shards += Path(f"{index}.jsonl").read_text().splitlines()
    assert sorted(shards) == sorted(Path("whole.jsonl").read_text().splitlines())
    assert (
        run("trend", "1.jsonl", "2.jsonl", "3.jsonl", "-f", "csv").out == run("trend", "whole.jsonl", "-f", "csv").out
    )


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["-o", "x.txt"], ".jsonl, .csv or .parquet"),
        (["-o", "x.jsonl", "--column", "nothing"], "there is no column 'nothing'"),
        (["-o", "x.jsonl", "--shard", "3"], "--shard"),
        (["-o", "x.jsonl", "--heads", "x"], "--heads"),
        (["-o", "x.jsonl", "--config", "nowhere.json"], "nowhere.json"),
        (["-o", "x.jsonl", "--resume", "--force"], "exclude each other"),
        (["-o", "x.jsonl", "--jobs", "2", "--dask", "tcp://127.0.0.1:1"], "exclude each other"),
        (["-o", "nowhere/x.jsonl"], "nowhere/x.jsonl"),
    ],
)
def test_what_cannot_be_asked(training: Path, run, argv: list[str], said: str) -> None:
    result = run("scan", "run", *argv)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert said in result.err
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["run"]
