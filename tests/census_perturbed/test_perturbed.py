"""The perturbed census: no head count is right by luck there, and none may be wrong. Only in mass runs: ``-m mass``."""

from __future__ import annotations

import json
import lzma
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.inspection.report import Attention

CENSUS = Path(__file__).with_name("models.jsonl.xz")


def entries() -> Iterator[dict[str, Any]]:
    with lzma.open(CENSUS, "rt") as lines:
        yield from map(json.loads, lines)


def write(folder: Path, entry: Mapping[str, Any]) -> Path:
    """The model as a file without values, with its config beside it."""
    header, at = {}, 0
    for name, _, shape in entry["tensors"]:
        size = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    path = folder / "model.safetensors"
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)
    for name, values in entry["files"].items():
        (folder / name).write_text(values if isinstance(values, str) else json.dumps(values))
    return path


def verdict(truth: Mapping[str, Any], attentions: list[Attention]) -> str:
    """Whether the heads are right, wrong, unknown or missed."""
    wanted = set(truth["names"].values())
    held = {id(one): len(wanted & {weight.name for weight in one.weights}) for one in attentions}
    best = max(attentions, key=lambda one: held[id(one)], default=None)
    if best is None or not held[id(best)]:
        return "missed"
    if best.heads is None:
        return "unknown"
    heads, kv_heads = best.heads.num_heads, best.heads.num_kv_heads
    return "right" if heads == truth["H"] and truth.get("KV") in (None, kv_heads) else "wrong"


@pytest.mark.mass
def test_no_head_count_is_wrong(tmp_path: Path) -> None:
    found: Counter[str] = Counter()
    wrong: list[str] = []
    for number, entry in enumerate(entries()):
        folder = tmp_path / str(number)
        folder.mkdir()
        with open_checkpoint(write(folder, entry)) as checkpoint:
            attentions = list(inspect(checkpoint, Options(norms=False)).attentions)
        for truth in entry["truth"]:
            said = verdict(truth, attentions)
            found[said] += 1
            wrong += [f"{entry['lib']}/{entry['name']} {truth['path']}"] if said == "wrong" else []
    print(dict(found))
    assert not wrong
    assert found["right"] > 0.98 * found.total()
