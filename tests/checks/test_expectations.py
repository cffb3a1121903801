"""Settings choose and expect; a baseline holds what was; what is not known in either is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from qkvinspect.checks import parse_policy
from qkvinspect.errors import UsageError
from tests.batches import batched
from tests.checks.conftest import State, name

EIGHT = 'num_layers = 8\nembed_dim = 32\nnum_heads = 4\nnum_kv_heads = 4\nhead_dim = 8\ndtype = "float32"\n'


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write the project's settings, and work in its folder."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> None:
        (tmp_path / "qkvinspect.toml").write_text(text)

    return write


def test_what_is_as_expected(sound: State, check: Any, project: Any) -> None:
    norms = "norm = [2.0, 8.0]\nq_norm = [2, 8]\n"
    project(
        f'[check.expect."*"]\n{EIGHT}{norms}layout = "torch-mha"\n[check.expect."layers.[0-3].*"]\nnum_layers = 4\n'
    )
    assert check(sound, code=0) == []


@pytest.mark.parametrize(
    ("line", "says", "count"),
    [
        ("num_layers = 9", "8 attention modules match '*', expected 9", 1),
        ("embed_dim = 64", "embed_dim is 32, expected 64", 8),
        ("num_heads = 8", "num_heads is 4, expected 8", 8),
        ("num_kv_heads = 2", "num_kv_heads is 4, expected 2", 8),
        ("head_dim = 16", "head_dim is 8, expected 16", 8),
        ('dtype = "bfloat16"', "dtype is float32, expected bfloat16", 8),
        ('layout = "bert"', "layout is torch-mha, expected bert", 8),
        ("norm = [9.0, 10.0]", "expected 9 to 10", 24),
        ("k_norm = [9.0, 10.0]", "the norm of K is ", 8),
    ],
)
def test_what_is_not(line: str, says: str, count: int, sound: State, check: Any, project: Any) -> None:
    project(f'[check.expect."*"]\n{line}\n')
    found = check(sound, code=1)
    assert len(found) == count
    assert {finding["code"] for finding in found} == {"expected"}
    assert says in found[0]["message"]


def test_a_glob_that_matches_nothing(sound: State, check: Any, project: Any) -> None:
    project('[check.expect."decoder.*"]\nnum_heads = 4\n')
    (found,) = check(sound, code=1)
    assert "no attention module matches 'decoder.*'" in found["message"]


def test_select_ignore_and_severity(sound: State, check: Any, project: Any) -> None:
    for layer in (2, 3):
        sound[name(layer)][64:72] = 0  # a head of V
    sound[name(3)][32:40] = sound[name(3)][40:48]
    codes = ["zero-head", "zero-head", "equal-heads"]
    assert [finding["code"] for finding in check(sound, code=1)] == codes
    project('[check]\nignore = ["zero-*"]\n')
    assert [finding["code"] for finding in check(sound)] == ["equal-heads"]
    project('[check]\nselect = ["zero-*"]\nfail_on = "error"\n')
    assert [finding["code"] for finding in check(sound, code=0)] == codes[:2]
    assert check(sound, "--fail-on", "warning", code=1)
    project('[check.severity]\n"*-head" = "error"\n[check.layers."layers.2.*"]\nseverity = { zero-head = "info" }\n')
    severities = {finding["layer"]: finding["severity"] for finding in check(sound, "--select", "zero-head", code=1)}
    assert severities == {"layers.2.self_attn": "info", "layers.3.self_attn": "error"}
    project('[check.layers."layers.3.*"]\nignore = ["equal-heads", "zero-head"]\n')
    assert [finding["layer"] for finding in check(sound)] == ["layers.2.self_attn"]


def test_pyproject_has_the_same_table(tmp_path: Path, sound: State, check: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[tool.qkvinspect.check.expect."*"]\nnum_heads = 8\n')
    assert len(check(sound, code=1)) == 8


@batched(
    "text",
    [
        "check = 1",
        "[check]\nnonsense = 1",
        '[check]\nselect = "zero-part"',
        '[check]\nselect = ["zero-parts"]',
        '[check]\nignore = ["no-such-*"]',
        '[check]\nfail_on = "fatal"',
        "[check]\nlayers = 3",
        '[check.severity]\nzero-part = "bad"',
        '[check.severity]\nzero-parts = "info"',
        "[check.layers]\n'*' = 3",
        "[check.layers.'*']\nselect = []",
        "[check.expect.'*']\nheads = 8",
        "[check.expect.'*']\nnum_heads = '8'",
        "[check.expect.'*']\nnum_heads = true",
        "[check.expect.'*']\ndtype = 32",
        "[check.expect.'*']\nnorm = 3",
        "[check.expect.'*']\nnorm = [3]",
        "[check.expect.'*']\nnorm = [3, 1]",
        "[check.expect.'*']\nnorm = [true, 2]",
        "[check.expect.'*']\nnorm = [0, " + "9" * 400 + "]",
        "[check.expect.'*']\nnorm = [nan, 2]",
    ],
)
def test_odd_settings_are_refused(text: str, sound: State, tmp_path: Path, project: Any, run: Any) -> None:
    project(text)
    result = run("check", tmp_path)
    assert (result.code, result.out) == (2, "")
    assert "qkvinspect.toml" in result.err
    assert result.err.count("\n") == 1


def test_a_policy_by_hand() -> None:
    with pytest.raises(UsageError, match="'lenient'"):
        parse_policy({"fail_on": "lenient"})


def test_a_baseline_holds(sound: State, check: Any, tmp_path: Path) -> None:
    baseline = tmp_path / "attention.json"
    assert check(sound, "--write-baseline", baseline, code=0) == []
    lines = baseline.read_text().splitlines()
    assert len([line for line in lines if "self_attn" in line]) == 8  # one a layer, for review
    assert check(sound, "--baseline", baseline, code=0) == []
    sound[name(1)][:32] *= 1.005
    assert check(sound, "--baseline", baseline, code=0) == []
    (found,) = check(sound, "--baseline", baseline, "--tolerance", "0.001", code=1)
    assert (found["code"], found["layer"]) == ("changed", "layers.1.self_attn")
    assert found["message"].startswith("q_norm was ")
    sound[name(1)][:32] *= 1.1
    (found,) = check(sound, "--baseline", baseline, code=1)
    assert "more than 0.01" in found["message"]


def test_norms_below_one_are_compared_relatively_too(sound: State, check: Any, tmp_path: Path) -> None:
    small = {key: value / 1000 for key, value in sound.items()}
    baseline = tmp_path / "attention.json"
    check(small, "--write-baseline", baseline, "--select", "changed", code=0)
    small[name(1)][:32] *= 1.05
    (found,) = check(small, "--baseline", baseline, "--select", "changed", code=1)
    assert found["message"].endswith("0.05 away, more than 0.01")


def test_a_baseline_names_what_came_and_went(sound: State, check: Any, tmp_path: Path) -> None:
    baseline = tmp_path / "attention.json"
    check(sound, "--write-baseline", baseline)
    for tensor in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"):
        sound[name(8, tensor)] = sound.pop(name(7, tensor)).half()
    found = check(sound, "--baseline", baseline, "--select", "changed", code=1)
    assert [(one["layer"], one["message"]) for one in found] == [
        ("layers.7.self_attn", "the baseline has it, the checkpoint does not"),
        ("layers.8.self_attn", "the checkpoint has it, the baseline does not"),
    ]
    recorded = json.loads(baseline.read_text())
    recorded["layers"]["layers.0.self_attn"] |= {"num_heads": 8, "dtype": "float16", "k_norm": "nan"}
    baseline.write_text(json.dumps(recorded))
    said = [one["message"] for one in check(sound, "--baseline", baseline, "--layer", "layers.0.*", code=1)]
    assert said[:2] == ["dtype was float16 and is float32", "num_heads was 8 and is 4"]
    assert said[2].startswith("k_norm was nan and is ")


@pytest.mark.parametrize("number", ["9" * 400, "-" + "9" * 5000, "1e999", "NaN", "Infinity", "-Infinity"])
def test_numbers_that_no_baseline_has(number: str, tmp_path: Path, samples: Path, run: Any) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(f'{{"qkvinspect_baseline": 1, "layers": {{"a": {{"q_norm": {number}}}}}}}')
    result = run("check", samples / "training.pt", "--baseline", path)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert result.err.startswith(f"error: {path}: ")


def test_a_baseline_without_end(samples: Path, run: Any) -> None:
    result = run("check", samples / "training.pt", "--baseline", "/dev/zero")
    assert (result.code, result.out) == (2, "")
    assert "a character device" in result.err


def test_a_baseline_that_is_a_pipe_is_not_waited_for(tmp_path: Path, samples: Path, run: Any) -> None:
    os.mkfifo(tmp_path / "pipe")
    result = run("check", samples / "training.pt", "--baseline", tmp_path / "pipe")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert "it is a named pipe" in result.err


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"qkvinspect_baseline": 2, "layers": {}}', "[" * 100_000,
                                  '{"qkvinspect_baseline": 1, "layers": {"a": 1}}', None])  # fmt: skip
def test_what_is_no_baseline(text: str | None, tmp_path: Path, samples: Path, run: Any) -> None:
    path = tmp_path / "baseline.json"
    if text is not None:
        path.write_text(text)
    result = run("check", samples / "training.pt", "--baseline", path)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"error: {path}: ")
    assert result.err.count("\n") == 1


def test_settings_of_layers_do_not_reach_what_is_found_of_the_whole_file(project: Any, check: Any) -> None:
    project('[check.layers."*"]\nignore = ["no-attention"]\n')
    (found,) = check({"w": torch.ones(2, 2)}, code=1)
    assert (found["code"], found["layer"]) == ("no-attention", None)
    project('[check]\nignore = ["no-attention"]\n')
    assert check({"w": torch.ones(2, 2)}, code=0) == []
