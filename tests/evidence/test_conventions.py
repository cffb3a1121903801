"""Trained weights under the names that people give: found by their names, and the heads by the weights alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.evidence import cases
from tests.inspection.conventions import CONVENTIONS, Convention, E
from tests.real import wheels

KIND, HEADS = "sapiens/checkpoint_vl", 8


@pytest.fixture(scope="module")
def trained() -> list[cases.Layer]:
    with wheels.skipped_offline():
        return cases.layers(next(one.path for one in cases.others() if one.label == KIND))[:2]


def _is_plain(convention: Convention) -> bool:
    """One module of square projections, or of one tensor for all three."""
    if len(convention.modules) != 1:
        return False
    (parts,) = convention.modules.values()
    if not convention.tensors.keys() >= set(parts.values()):
        return False  # a list of heads
    shapes = {part: convention.tensors[name][:2] for part, name in parts.items()}
    return shapes in (dict.fromkeys("qkv", (E, E)), {"qkv": (3 * E, E)})


PLAIN = [convention for convention in CONVENTIONS if _is_plain(convention)]
ASKED = [
    pytest.param(one, id=one.seen, marks=() if number % 6 == 0 else pytest.mark.mass)
    for number, one in enumerate(PLAIN)
]
"""Some in every run, all with ``-m mass``."""


def _renamed(convention: Convention, layers: list[cases.Layer]) -> Iterator[tuple[str, np.ndarray]]:
    """Each layer's tensors under the convention's names, with a number of its own."""
    (parts,) = convention.modules.values()
    roles = {name: part for part, name in parts.items()}
    for number, layer in enumerate(layers):
        for name, shape in convention.tensors.items():
            if len(shape) < 2:
                continue
            held = [layer.weights[part] for part in roles.get(name, "")]
            matrix = np.concatenate(held) if held else layer.out
            stored = re.sub(r"(^|\.)\d+(?=\.)", rf"\g<1>{number}", name, count=1) if re.search(r"\d\.", name) else name
            stored = stored if stored != name or f".{number}." in stored else f"layers.{number}.{name}"
            yield stored, np.ascontiguousarray(matrix.reshape(*matrix.shape, *shape[2:]), dtype=np.float32)


@pytest.mark.parametrize("convention", ASKED)
def test_heads_come_from_the_weights(convention: Convention, trained: list[cases.Layer], tmp_path: Path) -> None:
    save_file(dict(_renamed(convention, trained)), tmp_path / "model.safetensors")
    report = cases.weigh(tmp_path / "model.safetensors")
    assert len(report.attentions) == len(trained)
    told = {(one.heads.num_heads if one.heads else None, one.heads_from) for one in report.attentions}
    assert told == {(HEADS, "weights")}


def test_most_conventions_can_hold_trained_weights() -> None:
    assert len(PLAIN) >= 20
