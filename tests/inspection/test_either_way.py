"""Bare parameters that may be [out, in] or [in, out]: both are weighed, each on a sample of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.inspection.report import Attention
from tests.some import crossed

IN, OUT, HEADS = 96, 64, 4


def attentions(path: Path, state: dict[str, np.ndarray]) -> tuple[Attention, ...]:
    save_file(state, path)
    with open_checkpoint(path) as checkpoint:
        return inspect(checkpoint, Options(evidence="wanted")).attentions


@crossed(sizes=[(IN, OUT), (OUT, IN), (16, 32), (128, 64)], output=[False, True], layers=[1, 3])
def test_weights_without_heads_leave_it_open(
    tmp_path: Path, sizes: tuple[int, int], *, output: bool, layers: int
) -> None:
    rows, columns = sizes
    random = np.random.default_rng(0)
    shapes = {"w_q": (rows, columns), "w_k": (rows, columns), "w_v": (rows, columns)}
    shapes |= {"w_o": (columns, rows)} if output else {}
    state = {
        f"{layer}.attn.{name}": random.standard_normal(shape, np.float32)
        for layer in range(layers)
        for name, shape in shapes.items()
    }
    for attention in attentions(tmp_path / "model.safetensors", state):
        assert len(attention.candidates) == 2


@pytest.mark.parametrize("turned", [False, True])
def test_heads_that_show_in_one_reading_decide(tmp_path: Path, *, turned: bool) -> None:
    """The rows of a head of Q are near those of the same head of K, as after training."""
    random = np.random.default_rng(0)
    state: dict[str, np.ndarray] = {}
    for layer in range(3):
        rows = {part: random.standard_normal((OUT, IN)) for part in "qkv"}
        for head in np.split(np.arange(OUT), HEADS):
            rows["k"][head] += random.standard_normal((len(head), len(head))) @ rows["q"][head]
        for part, matrix in rows.items():
            stored = matrix.T if turned else matrix
            state[f"{layer}.attn.w_{part}"] = np.ascontiguousarray(stored, dtype=np.float32)
    for attention in attentions(tmp_path / "model.safetensors", state):
        assert {part.orientation for part in attention.parts} == {"in_out" if turned else "out_in"}
        assert attention.heads is not None
        assert attention.heads.num_heads == HEADS
