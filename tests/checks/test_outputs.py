"""Every form of the results is what its consumers read."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator
from junitparser import JUnitXml
from sarif_pydantic import Sarif

import qkvinspect
from qkvinspect import check
from qkvinspect.checks.result import Checked
from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import Finding
from qkvinspect.render.results.check import document
from qkvinspect.render.view import ViewOptions
from qkvinspect.render.writers import CHECK_WRITERS, WRITERS, written
from tests.checks.conftest import State, name

SCHEMA = json.loads((Path(qkvinspect.__file__).parent / "render/results/check.schema.json").read_text())
EVIL = "a\x1b[31m\n::error::b<&>]]>\x00\u202e\ud800,:%"

HOSTILE = (
    Checked("dir/ok.pt", num_attentions=2),
    Checked(
        EVIL,
        (
            Finding(FindingCode.NONFINITE, f"K {EVIL}", EVIL, severity="error"),
            Finding(FindingCode.DEAD_HEAD, "head 3", "layers.1"),
            Finding(FindingCode.HEADS_UNKNOWN, "unknown"),
        ),
        1,
    ),
    Checked("broken.pt", error=f"broken.pt: is {EVIL}"),
)


def rendered(form: str) -> str:
    return written(document(HOSTILE), form, ViewOptions())


def test_json_keeps_its_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    report = json.loads(rendered("json"))
    Draft202012Validator(SCHEMA).validate(report)
    assert report["summary"] == {"checkpoints": 3, "unreadable": 1, "errors": 1, "warnings": 1, "infos": 1}


def test_junit_is_read_by_a_consumer() -> None:
    xml = JUnitXml.fromstring(rendered("junit").encode())
    assert (xml.tests, xml.failures, xml.errors) == (5, 1, 1)
    fine, bad, broken = list(xml)
    assert [case.is_passed for case in fine] == [True]
    assert [case.is_passed for case in bad] == [False, True, True]
    (failure,) = next(iter(bad)).result
    assert failure.type == "nonfinite"
    assert next(iter(broken)).is_error


def test_sarif_is_read_by_a_consumer() -> None:
    sarif = Sarif.model_validate_json(rendered("sarif"))
    (run,) = sarif.runs
    assert sarif.version == "2.1.0"
    assert [rule.id for rule in run.tool.driver.rules] == ["nonfinite", "dead-head", "heads-unknown"]
    assert [result.level for result in run.results] == ["error", "warning", "note"]
    for result in run.results:
        assert run.tool.driver.rules[result.rule_index].id == result.rule_id
    raw = json.loads(rendered("sarif"))["runs"][0]
    assert raw["invocations"][0]["executionSuccessful"] is False
    uri = raw["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert re.fullmatch(r"[\w%./~-]+", uri, re.ASCII)


def test_csv_has_a_row_for_each_finding_and_each_checkpoint_without() -> None:
    rows = list(csv.DictReader(io.StringIO(rendered("csv"))))
    assert [row["code"] for row in rows] == ["", "nonfinite", "dead-head", "heads-unknown", "unreadable"]
    assert [row["severity"] for row in rows] == ["", "error", "warning", "info", "error"]


def test_github_reads_one_command_a_finding() -> None:
    lines = rendered("github").splitlines()
    assert len(lines) == 4
    pattern = re.compile(r"::(error|warning|notice) file=([^:,]*),title=([^:,]*)::(.*)")
    found = [pattern.fullmatch(line) for line in lines]
    assert [match and match[1] for match in found] == ["error", "warning", "notice", "error"]


@pytest.mark.parametrize("form", [*WRITERS, *CHECK_WRITERS])
def test_names_from_a_file_do_no_harm(form: str) -> None:
    text = rendered(form)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert not any(line.startswith("::error::b") for line in text.splitlines())
    text.encode()


def test_text_is_for_people(sound: State, tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sound[name(2)][40] = torch.nan
    torch.save(sound, "model.pt")
    result = run("check", "model.pt", "--heads", "4", "--no-evidence")
    assert result.out.splitlines() == [
        "model.pt  8 attention modules",
        "  error    nonfinite  layers.2.self_attn: K holds 32 NaN or infinite values, in head 1",
        "  look closer:",
        "    qkvinspect show --per-head model.pt --layer layers.2.self_attn",
        "1 checkpoint: 1 error, 0 warnings",
    ]
    for layer in (2, 5):
        sound[name(layer)][40:48] = 0
    torch.save(sound, "model.pt")
    lines = run("check", "model.pt", "--heads", "4", "--no-evidence", "--select", "zero-head").out.splitlines()
    assert lines[1].startswith("  2 warnings  zero-head  ")
    assert lines[1].endswith("(2 layers: layers.2.self_attn, layers.5.self_attn)")
    assert lines[-1] == "1 checkpoint: 0 errors, 2 warnings"
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in run("check", "model.pt", "--no-evidence").out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in run("check", "model.pt", "--no-evidence").out


@pytest.mark.parametrize("flag", ["--output", "--write-baseline"])
@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_report_never_replaces_what_is_checked(
    flag: str, force: tuple[str, ...], samples: Path, tmp_path: Path, run: Any
) -> None:
    model = tmp_path / "model.pt"
    model.write_bytes((samples / "transformer.pt").read_bytes())
    (tmp_path / "config.json").write_text('{"nhead": 4}')
    (tmp_path / "other.safetensors").write_bytes(b"")
    os.link(model, tmp_path / "same.json")
    for target in ("model.pt", "config.json", "other.safetensors", "same.json"):
        before = (tmp_path / target).read_bytes()
        result = run("check", "--no-evidence", model, flag, tmp_path / target, "-f", "json", *force)
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        assert (tmp_path / target).read_bytes() == before


@pytest.mark.parametrize("flag", ["--output", "--write-baseline"])
def test_a_file_that_is_there_is_replaced_only_by_force(flag: str, samples: Path, tmp_path: Path, run: Any) -> None:
    out = tmp_path / "report.json"
    out.write_text("mine")
    refused = run("check", "--no-evidence", samples / "transformer.pt", flag, out)
    assert (refused.code, out.read_text()) == (2, "mine")
    assert "exists already" in refused.err
    run("check", "--no-evidence", samples / "transformer.pt", flag, out, "--force")
    assert out.read_text() != "mine"


def test_both_outputs_in_one_file(samples: Path, tmp_path: Path, run: Any) -> None:
    out = tmp_path / "report.json"
    assert run("check", "--no-evidence", samples / "transformer.pt", "-o", out, "--write-baseline", out).code == 2
    assert not out.exists()


def test_annotations_come_by_themselves_on_githubs_runners(
    samples: Path, run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    out = run("check", "--no-evidence", samples / "damaged.pt").out
    assert "::error file=" in out
    assert "1 checkpoint: 1 error, 1 warning" in out
    assert "::" not in run("check", "--no-evidence", samples / "damaged.pt", "--format", "json").out.replace("\\u", "")
    target = tmp_path / "checks.xml"
    out = run("check", "--no-evidence", samples / "damaged.pt", "--format", "junit", "-o", target).out
    assert "1 checkpoint: 1 error" in out
    assert JUnitXml.fromfile(str(target)).failures == 1


def test_what_the_weights_tell_is_said_once_a_layer(samples: Path) -> None:
    found = qkvinspect.check(samples / "trained.safetensors")
    layers = [f"encoder.layers.{n}.self_attn" for n in range(2)]
    assert [(one.code, one.layer) for one in found] == [("heads-from-weights", layer) for layer in layers]


def test_from_python(samples: Path) -> None:
    found = qkvinspect.check(samples / "damaged.pt")
    assert [(finding.code, finding.severity) for finding in found] == [("nonfinite", "error"), ("zero-head", "warning")]
    assert check(samples / "damaged.pt", ignore=["nonfinite", "zero-*"]) == []
    with pytest.raises(qkvinspect.UsageError, match="no-such"):
        check(samples / "damaged.pt", select=["no-such"])
