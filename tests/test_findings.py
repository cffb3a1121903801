"""The codes of findings: a stable text, a sentence, and the severities that each has by default."""

from __future__ import annotations

import json
import pickle
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import qkvinspect
from qkvinspect.checks import parse_policy
from qkvinspect.finding_codes import SEVERITIES, FindingCode
from qkvinspect.findings import AGAINST_WEIGHTS, HEADS_IN_DOUBT, QUANTISED, Finding
from tests.batches import batched

DOCS = Path(__file__).parent.parent / "docs"
PAGES = "".join((DOCS / name).read_text() for name in ("checks.md", "runs.md"))
NATURE = {FindingCode.NO_CHECKSUMS, FindingCode.ADAPTER_ONLY, FindingCode.TENSOR_PARALLEL}
"""What a sound file may be by intent: worth a word where it is shown, and no reason not to release it."""

OF_RUNS = [code for code in FindingCode if code.in_check is None]


@batched("code", FindingCode)
def test_a_code_has_a_text_a_sentence_and_severities(code: FindingCode) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", code)
    assert code.name == code.upper().replace("-", "_")
    assert re.fullmatch(r"\S[^\n]*\.", code.summary)
    assert code.severity in SEVERITIES
    if code in NATURE:
        assert (code.severity, code.in_check) == ("warning", "info")
    else:
        assert code.in_check is None or SEVERITIES.index(code.in_check) >= SEVERITIES.index(code.severity)
    assert f"| `{code}` |" in PAGES


@batched("code", FindingCode)
def test_a_finding_comes_back_from_json(code: FindingCode) -> None:
    finding = Finding(code, "K holds 3 values", "layers.1")
    found = json.loads(json.dumps(finding.to_dict()))
    assert found == {"code": str(code), "severity": code.severity, "layer": "layers.1", "message": "K holds 3 values"}
    assert type(finding.to_dict()["code"]) is str
    assert FindingCode(found.pop("code")) is code
    assert Finding(code, **found) == finding
    assert pickle.loads(pickle.dumps(finding)) == finding


def test_codes_are_unique() -> None:
    assert len(FindingCode) == len(FindingCode.__members__) == len({code.value for code in FindingCode})


def test_the_place_that_reports_may_say_otherwise() -> None:
    finding = Finding(FindingCode.NONFINITE, "V is not finite", severity="error")
    assert (finding.code, finding.severity, finding.layer) == ("nonfinite", "error", None)
    assert finding != Finding(FindingCode.NONFINITE, "V is not finite")
    assert replace(finding, severity="info").severity == "info"
    assert len({finding, replace(finding), replace(finding, layer="a")}) == 2


def test_the_message_stays_one_harmless_line() -> None:
    assert Finding(FindingCode.NONFINITE, "a\n\x1b[31mb").message == "a\\n\\x1b[31mb"


def test_the_sets_do_not_overlap() -> None:
    assert AGAINST_WEIGHTS.isdisjoint(HEADS_IN_DOUBT)
    assert QUANTISED.isdisjoint(AGAINST_WEIGHTS | HEADS_IN_DOUBT)
    assert all(code.in_check == "error" for code in AGAINST_WEIGHTS)


@batched("code", FindingCode)
def test_settings_may_name_what_check_reports_and_nothing_else(code: FindingCode) -> None:
    table = {"select": [str(code)], "ignore": [], "severity": {str(code): "info"}}
    if code in OF_RUNS:
        with pytest.raises(qkvinspect.UsageError, match="not known"):
            parse_policy(table)
    else:
        policy = parse_policy(table)
        wanted = [one for one in FindingCode if policy.severity_of(one, None) is not None]
        assert wanted == [code]
        assert policy.severity_of(code, None) == "info"


def test_a_finding_is_public() -> None:
    assert qkvinspect.Finding is Finding


@pytest.mark.parametrize("name", ["::error title=x::y", " ::warning::y", "\t::debug::", "##[error]x", "a##[add-path]b"])
def test_no_name_is_a_command_to_githubs_runner(tmp_path: Path, run, name: str) -> None:
    """It obeys lines that begin with ``::``, blanks aside, and ``##[`` anywhere, whichever step prints them."""
    a, b = tmp_path / "a.pt", tmp_path / "b.pt"
    for path, layer in ((a, f"{name}.self_attn"), (b, "other.self_attn")):
        torch.save({f"{layer}.in_proj_weight": torch.ones(24, 8), f"{layer}.out_proj.weight": torch.ones(8, 8)}, path)
    for command in (
        ("show", a),
        ("show", a, "--per-head"),
        ("show", a, "-f", "markdown"),
        ("show", a, "-f", "csv"),
        ("explain", a),
        ("analyze", a, "--heads", "2"),
        ("analyze", a, "-f", "csv", "--heads", "2"),
        ("analyze", a, "-f", "markdown", "--heads", "2"),
        ("check", a),
        ("diff", a, b),
        ("diff", a, b, "-f", "markdown"),
        ("diff", a, b, "-f", "json"),
        ("show", a, "-f", "json"),
        ("check", a, "-f", "sarif"),
        ("check", a, "-f", "junit"),
        ("export", "--split", a, "-o", tmp_path / "out.safetensors", "--dry-run"),
    ):
        result = run(*command)
        assert result.code in (0, 1), command
        for line in (result.out + result.err).splitlines():
            assert not line.lstrip().startswith("::"), command
            assert "##[" not in line, command


def test_weights_without_elements_are_said_to_be_ungathered(tmp_path: Path, run) -> None:
    """What DeepSpeed ZeRO-3 leaves in pytorch_model.bin where a model is saved as it stands."""
    layer = {f"h.0.attn.{part}.weight": torch.empty(0) for part in ("q_proj", "k_proj", "v_proj", "o_proj")}
    for state in ({"h.0.attn.qkv.weight": torch.empty(0, 4)}, layer):
        torch.save({**state, "steps": torch.empty(0, dtype=torch.int64)}, tmp_path / "model.bin")
        result = run("check", tmp_path / "model.bin")
        assert (result.code, result.err) == (1, "")
        assert "empty-weights" in result.out
        assert "before they were gathered" in result.out
    torch.save({"steps": torch.empty(0, dtype=torch.int64), "w": torch.ones(1)}, tmp_path / "model.bin")
    assert "empty-weights" not in run("check", tmp_path / "model.bin").out
