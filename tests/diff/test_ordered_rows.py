"""Rows that are one run of bytes are found as such, and hold what their words say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from qkvinspect.diff.ordered_rows import Lines, flip
from qkvinspect.formats import open_checkpoint
from qkvinspect.weights.weight import plain
from tests.batches import batched

STORED = {
    "rows": lambda x: x,
    "turned": lambda x: x.t().contiguous().t(),
    "every second row": lambda x: torch.stack([x, x + 1], 1).flatten(0, 1)[::2],
    "wider rows": lambda x: torch.cat([x, x + 1], 1)[:, :6],
    "behind others": lambda x: torch.cat([x + 1, x])[12:],
    "a vector": lambda x: x.flatten(),
}
RUNS = [(range(12),), (range(2, 7),), (range(6), range(6, 12)), (range(1, 12, 2),), (range(3, 3),)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64, torch.uint8])
@batched("name", [*STORED])
def test_one_run_holds_the_words(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    values = torch.arange(72).reshape(12, 6).to(dtype)
    torch.save({"x": STORED[name](values)}, tmp_path / "x.pt")
    runs_found = 0
    with open_checkpoint(tmp_path / "x.pt") as checkpoint:
        weight = plain(checkpoint.tensors["x"])
        matrix = weight.as_matrix("out_in")
        sides = [Lines(weight, matrix, runs) for runs in RUNS]
        sides.append(flip(Lines(weight, matrix, (range(matrix.rows),))))
        for lines in sides:
            one = lines.one_run
            if one is None:
                continue
            words = lines.words(range(lines.rows), range(lines.cols))
            expected = np.ascontiguousarray(words.T if one.turned else words).tobytes()
            assert one.nbytes == len(expected) == lines.nbytes
            assert one.region.read(one.start, one.nbytes) == expected
            runs_found += 1
    assert runs_found == {"rows": 4, "turned": 2, "every second row": 0, "wider rows": 0}.get(name, 4)


def test_bytes_in_another_order_are_no_equals(tmp_path: Path) -> None:
    """The same bytes by rows and by columns are two matrices."""
    x = torch.arange(36, dtype=torch.float32).reshape(6, 6)
    torch.save({"a": x, "b": x.clone().t()}, tmp_path / "x.pt")
    with open_checkpoint(tmp_path / "x.pt") as checkpoint:
        weights = [plain(checkpoint.tensors[name]) for name in "ab"]
        a, b = (Lines(one, one.as_matrix("out_in"), (range(6),)).one_run for one in weights)
    assert a is not None
    assert b is not None
    assert (a.turned, b.turned) == (False, True)
