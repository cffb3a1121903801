"""Broken quantised weights: nothing is decoded, and why is said in a line."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from qkvinspect.checkpoint import Config
from qkvinspect.errors import QkvInspectError
from qkvinspect.formats import open_checkpoint
from qkvinspect.weights.encodings import weights_of
from tests.hostile.categories.quantised import MODULE, Broken, cases

CASES = list(cases())


def why(case: Broken, path: Path) -> str:
    """Why the weight has no numbers; "" where it has."""
    from dataclasses import replace

    path.write_bytes(case.data)
    with open_checkpoint(path) as checkpoint:
        config = Config("config:config.json", {"quantization_config": case.said})
        try:
            weights = weights_of(replace(checkpoint, configs=(config,)))
            name = f"{MODULE}.weight"
            if name not in weights:
                return "there is no such weight"
            weight = weights[name]
            if weight.no_values:
                return weight.no_values
            assert weight.encoding is not None
            weight.encoding.decode(range(8), range(8))
        except QkvInspectError as error:
            return str(error)
    return ""


@pytest.mark.gate
def test_none_is_decoded(tmp_path: Path) -> None:
    for case in CASES:
        told = why(case, tmp_path / "model.safetensors")
        assert told, (case.kind, case.name)
        assert "\n" not in told


def test_there_are_many_of_each_kind() -> None:
    found = Counter(case.kind for case in CASES)
    assert len(found) == 6
    assert min(found.values()) >= 5, found
    assert found.total() > 200


@pytest.mark.parametrize("kind", sorted({case.kind for case in CASES}))
def test_commands_say_so_in_a_line(kind: str, tmp_path: Path, run) -> None:
    case = next(case for case in CASES if case.kind == kind)
    (tmp_path / "model.safetensors").write_bytes(case.data)
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": case.said}))
    found = run("check", tmp_path, "--heads", "8", "--no-evidence")
    assert found.code == (2 if "group" in kind and "config" not in kind else 1)
    assert "no-values" in found.out or "QKV-F414" in found.out  # groups are looked at when values are read
    out = tmp_path / "out.safetensors"
    split = ("export", "--split", "-o", out, *(("--dequantize", "float32") if "that there is not" in kind else ()))
    for argv in (("show",), ("analyze",), ("explain",), split, ("report", "-o", out)):
        done = run(argv[0], tmp_path, *argv[1:], "--heads", "8", "--no-evidence")
        assert "Traceback" not in done.out + done.err
        assert done.code in (0, 2)
        if argv[0] == "export":
            assert done.code == 2
            assert not out.exists()
