"""Every sample checkpoint gives the golden outputs that lie beside it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from jsonschema import Draft202012Validator

ROOT = Path(__file__).parent.parent
SCHEMA = json.loads((ROOT / "qkvinspect/render/results/report.schema.json").read_text())


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "sample_checkpoints" / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = _generator()
SAMPLES = generate.samples()


def test_samples_are_found() -> None:
    assert len(SAMPLES) >= 9


@pytest.mark.parametrize("sample", SAMPLES)
def test_show_prints_the_golden_text(sample: str) -> None:
    assert generate.golden_text(sample) == (generate.HERE / f"{sample}.txt").read_text()


@pytest.mark.parametrize("sample", SAMPLES)
def test_json_is_the_golden_report_and_keeps_its_schema(sample: str) -> None:
    report = generate.golden_report(sample)
    Draft202012Validator(SCHEMA).validate(report)
    assert _close(report, json.loads((generate.HERE / f"{sample}.json").read_text()))


def test_samples_are_small() -> None:
    assert sum(path.stat().st_size for path in generate.HERE.rglob("*") if path.is_file()) < 2_000_000


def _close(one: Any, other: Any) -> bool:
    """Equal, but for the last digits of floats, which depend on the machine's vector width."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 1e-6 * max(abs(one), abs(other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_close(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_close, one, other))
    return type(one) is type(other) and one == other
