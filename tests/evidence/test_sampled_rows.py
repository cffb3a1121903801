"""Rows and columns of a stored tensor, of which some are read: against torch's own indexing."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection.evidence import sampled_rows
from qkvinspect.sources import LocalFile
from qkvinspect.weights.weight import plain
from tests.batches import batched
from tests.weights.test_reading import stored

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e5m2)
Read = Callable[..., NDArray[Any]]


def tensor(rows: int, columns: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.fixture(params=["little", "big"])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Read:
    """Saves a tensor with torch, as a machine of either byte order writes it, and reads some of it."""

    def read(value: torch.Tensor, *asked: Any, **how: Any) -> NDArray[Any]:
        path = tmp_path / "weight.pt"
        torch.save({"w": value}, path)
        if request.param == "big":
            as_big_endian(path, value.element_size())
        with open_checkpoint(str(path)) as checkpoint:
            (info,) = checkpoint.tensors.values()
            assert info.byteorder == request.param
            found = sampled_rows.read(plain(info), *asked, **how)
            assert found is not None
            return found

    return read


def as_big_endian(path: Path, size: int) -> None:
    """What torch writes on such a machine: the values turned, and a record that says so."""
    with zipfile.ZipFile(path) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        for name, data in entries.items():
            turned = np.frombuffer(data, np.uint8).reshape(-1, size)[:, ::-1].tobytes() if "/data/" in name else data
            file.writestr(name, b"big" if name.endswith("/byteorder") else turned)


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes a piece had, each time that pieces were read one by one; rows need not be long for that."""
    real, lengths = LocalFile.read_apart, []

    def noted(file: LocalFile, offset: int, step: int, length: int, room: memoryview) -> None:
        lengths.append(length)
        real(file, offset, step, length, room)

    monkeypatch.setattr(LocalFile, "read_apart", noted)
    monkeypatch.setattr(sampled_rows, "_AHEAD", 0)
    return lengths


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_rows_that_are_read_one_by_one(dtype: torch.dtype, saved: Read, apart: list[int]) -> None:
    value = tensor(26, 40, dtype)
    found = saved(value, "out_in", 4)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, value[::4].float().numpy())
    assert apart == [40 * value.element_size()]


def test_rows_of_a_part_of_a_tensor(saved: Read, apart: list[int]) -> None:
    """Which neither begin with it nor follow each other."""
    value = tensor(30, 50)[3:, 7:]
    np.testing.assert_array_equal(saved(value, "out_in", 2), value[::2].numpy())
    assert apart == [43 * 4]


def test_of_long_rows_one_value_in_several(saved: Read, apart: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampled_rows, "MAX_COLUMNS", 10)
    value = tensor(12, 37)
    np.testing.assert_array_equal(saved(value, "out_in", 2), value[::2, ::4].numpy())
    assert len(apart) == 1


@pytest.mark.parametrize("step", [1, 2, 5])
def test_rows_of_no_file_of_this_machine(step: int, apart: list[int]) -> None:
    value = tensor(26, 40)
    found = sampled_rows.read(plain(stored(value)), "out_in", step)
    np.testing.assert_array_equal(found, value[::step].numpy())
    assert not apart


@pytest.mark.parametrize("step", [1, 2])
def test_rows_near_each_other_are_read_together(step: int, saved: Read, apart: list[int]) -> None:
    sampled_rows._AHEAD = 40 * 4 * step  # the fixture takes it back
    value = tensor(12, 40)
    np.testing.assert_array_equal(saved(value, "out_in", step), value[::step].numpy())
    assert not apart


def test_values_beyond_float32_are_read_as_they_are(saved: Read, apart: list[int]) -> None:
    value = tensor(4, 8, torch.float64)
    value[2, 3], value[2, 4] = 1e300, torch.nan
    found = saved(value, "out_in", 2)
    assert np.isinf(found[1, 3])
    assert np.isnan(found[1, 4])
    assert len(apart) == 1


@batched("dtype step thin room", product([torch.float32, torch.bfloat16], [1, 2, 5], [1, 3], [64, 1000, 1 << 20]))
def test_columns_are_picked_tile_by_tile(
    dtype: torch.dtype, step: int, thin: int, room: int, saved: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the output projection, whose columns lie across its rows; a tile may be a part of a row."""
    monkeypatch.setattr(sampled_rows, "AT_ONCE", room)
    monkeypatch.setattr(sampled_rows, "MAX_COLUMNS", -(-34 // thin))
    value = tensor(34, 55, dtype)
    found = saved(value, "out_in", step, columns=True)
    np.testing.assert_array_equal(found, value[::thin, ::step].T.float().numpy())


@pytest.mark.parametrize("columns", [False, True])
def test_a_transposed_matrix_is_read_the_other_way_round(columns: bool, saved: Read) -> None:
    value = tensor(24, 32)
    expected = value[::2] if columns else value[:, ::2].T
    np.testing.assert_array_equal(saved(value, "in_out", 2, columns=columns), expected.numpy())
