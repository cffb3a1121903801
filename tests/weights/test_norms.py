"""Norms against torch.linalg.norm in float64, and exact counts of what is not finite."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qkvinspect.errors import CheckpointError
from qkvinspect.formats import open_checkpoint
from qkvinspect.weights import norms as stats
from qkvinspect.weights.norms import RowStats, StreamRequest, stream
from qkvinspect.weights.weight import plain
from tests.batches import batched
from tests.some import crossed, tried

FLOATS = [
    *("float64", "float32", "float16", "bfloat16"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"),
]
LIMITS = [None, 4096, 100, 9]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stats")


@pytest.fixture(params=LIMITS, ids=lambda limit: f"limit {limit}")
def limit(request: pytest.FixtureRequest) -> Iterator[int | None]:
    """Blocks of the usual size, and far smaller ones."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param:
            patch.setattr(stats, "_PIECE", request.param)
        yield request.param


def measured(folder: Path, tensor: torch.Tensor, orientation: Literal["out_in", "in_out"] = "out_in") -> RowStats:
    path = folder / "w.pt"
    torch.save({"w": tensor}, path)
    told = 0

    def progress(count: int) -> None:
        nonlocal told
        told += count

    with open_checkpoint(path) as checkpoint:
        (result,) = stream([StreamRequest(plain(checkpoint.tensors["w"]), orientation)], progress)
    assert result is not None
    assert told == tensor.nbytes
    return result


def groups(rows: int) -> dict[str, tuple[range, ...]]:
    """Sets of rows as packings make them: all, thirds, every third, heads of several parts, one, none."""
    third = rows // 3
    return {
        "all": (range(rows),),
        "middle": (range(third, 2 * third),),
        "interleaved": (range(1, rows, 3),),
        "scattered": (range(2), range(third, third + 2), range(rows - 2, rows)),
        "one": (range(rows - 1, rows),),
        "none": (),
    }


def check(result: RowStats, expected: torch.Tensor) -> None:
    """Every group's norm within 1e-6 of torch's."""
    wide = expected.to(torch.float64)
    for name, rows in groups(len(wide)).items():
        picked = torch.cat([wide[run.start : run.stop : run.step] for run in rows]) if rows else wide[:0]
        norm, nonfinite = result.measure(rows)
        assert norm == pytest.approx(torch.linalg.norm(picked).item(), rel=1e-6, abs=0), name
        assert nonfinite == 0


@pytest.mark.parametrize("transposed", [False, True])
@batched("name", FLOATS)
def test_norms(name: str, transposed: bool, limit: int | None, folder: Path) -> None:
    torch.manual_seed(0)
    tensor = torch.randn(18, 25).to(getattr(torch, name))
    check(measured(folder, tensor.T if transposed else tensor), tensor.T if transposed else tensor)
    check(measured(folder, tensor, "in_out"), tensor.T)


@pytest.mark.parametrize("name", ["float64", "float32", "bfloat16"])
@tried(
    given(
        seed=st.integers(0, 1000),
        exponent=st.floats(-30, 30),
        spread=st.floats(0, 6),
        transposed=st.booleans(),
        cut=st.sampled_from(LIMITS),
    ),
    few=12,
    many=50,
)
def test_norms_of_any_scale(
    name: str, seed: int, exponent: float, spread: float, transposed: bool, cut: int | None, folder: Path
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scale = 10 ** (exponent + spread * (torch.rand(12, 31, generator=generator, dtype=torch.float64) - 0.5))
    values = torch.randn(12, 31, generator=generator, dtype=torch.float64) * scale.clamp(1e-30, 1e30)
    tensor = values.to(getattr(torch, name))
    tensor = tensor.T if transposed else tensor
    with pytest.MonkeyPatch.context() as patch:
        if cut:
            patch.setattr(stats, "_PIECE", cut)
        check(measured(folder, tensor), tensor)


@pytest.mark.parametrize("exponent", range(-30, 31, 5))
@pytest.mark.parametrize("name", ["float64", "float32", "bfloat16"])
def test_rows_of_one_scale_beside_rows_of_another(name: str, exponent: int, folder: Path) -> None:
    torch.manual_seed(0)
    values = torch.randn(9, 40, dtype=torch.float64)
    values[::2] *= 10.0**exponent
    values[1, 0] = 10.0**-exponent
    check(measured(folder, values.to(getattr(torch, name))), values.to(getattr(torch, name)))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("cols", [64, 2048, 5000, 4099])  # the last cannot be divided
@crossed(name=["float32", "float16", "bfloat16"], value=[0.1, 1 / 3, 1.1, 7e-13, 1e-20])
def test_rows_of_equal_values(name: str, value: float, cols: int, transposed: bool, folder: Path) -> None:
    """Where rounding errors do not cancel out: a new embedding, a LayerNorm, a constant initialisation."""
    tensor = torch.full((cols, 6) if transposed else (6, cols), value).to(getattr(torch, name))
    check(measured(folder, tensor.T if transposed else tensor), tensor.T if transposed else tensor)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_large_matrix(transposed: bool, folder: Path) -> None:
    torch.manual_seed(0)
    tensor = torch.randn(1500, 2100).abs()
    check(measured(folder, tensor.T if transposed else tensor), tensor.T if transposed else tensor)


@pytest.mark.parametrize("transposed", [False, True])
@batched("name", FLOATS)
def test_counts_of_what_is_not_finite(name: str, transposed: bool, limit: int | None, folder: Path) -> None:
    dtype = getattr(torch, name)
    torch.manual_seed(1)
    tensor = torch.randn(12, 30).to(dtype).to(torch.float32)
    nans = torch.rand(12, 30) < 0.03
    tensor[nans] = math.nan
    if name in ("float64", "float32", "float16", "bfloat16", "float8_e5m2"):  # the others have no infinity
        infinities = (torch.rand(12, 30) < 0.03) & ~nans
        infinities[3] = False
        infinities[3, 3] = True
        nans[3] = False
        tensor[3] = 1
        tensor[infinities] = math.inf
        tensor[0, 0] = -math.inf
    tensor[5] = 2
    tensor = tensor.to(dtype)
    wide = tensor.to(torch.float64)
    result = measured(folder, tensor.T if transposed else tensor, "in_out" if transposed else "out_in")
    counts = list(zip((~wide.isfinite()).sum(1).tolist(), wide.isnan().sum(1).tolist(), strict=True))
    assert result.odd == {row: both for row, both in enumerate(counts) if both[0]}
    for row in range(12):
        norm, count = result.measure((range(row, row + 1),))
        expected = torch.linalg.norm(wide[row]).item()
        assert norm == pytest.approx(expected, rel=1e-6, nan_ok=True)
        assert count == (~wide[row].isfinite()).sum().item()
    assert math.isnan(result.measure((range(12),))[0])


@pytest.mark.parametrize(
    ("values", "norm", "nonfinite"),
    [
        ([1.0, math.inf], math.inf, 1),
        ([-math.inf, math.inf], math.inf, 2),
        ([math.nan, 1.0], math.nan, 1),
        ([math.nan, math.inf], math.nan, 2),
        ([3e38, 3e38], math.sqrt(2) * 3e38, 0),
        ([1e-45, 0.0], 1.4012984643e-45, 0),
        ([0.0, -0.0], 0.0, 0),
    ],
)
def test_special_values(values: list[float], norm: float, nonfinite: int, folder: Path) -> None:
    found, count = measured(folder, torch.tensor([[1.0, 1.0], values])).measure((range(1, 2),))
    assert found == pytest.approx(norm, rel=1e-6, abs=0, nan_ok=True)
    assert count == nonfinite


def test_no_float16_is_too_large_for_its_own_square(folder: Path) -> None:
    tensor = torch.full((3, 50), 65504.0, dtype=torch.float16)
    check(measured(folder, tensor), tensor)


@pytest.mark.parametrize("name", ["int8", "int16", "int32", "int64", "uint8", "bool"])
def test_integers(name: str, folder: Path) -> None:
    torch.manual_seed(0)
    tensor = torch.randint(0, 2 if name == "bool" else 120, (9, 14)).to(getattr(torch, name))
    check(measured(folder, tensor), tensor)


@pytest.mark.parametrize("name", ["complex64", "complex128"])
def test_complex_numbers(name: str, folder: Path) -> None:
    torch.manual_seed(0)
    tensor = torch.randn(6, 5, dtype=torch.complex128).to(getattr(torch, name))
    tensor[1, 1] = complex(math.nan, 1)
    tensor[1, 2] = complex(math.inf, math.nan)
    tensor[2, 0] = complex(1, -math.inf)
    result = measured(folder, tensor)
    assert result.odd == {1: (2, 2), 2: (1, 0)}
    expected = torch.linalg.norm(tensor[3:].to(torch.complex128)).item()
    assert result.measure((range(3, 6),))[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("tensor", [torch.randn(7), torch.tensor(2.5), torch.randn(3, 4, 5)])
def test_biases_scalars_and_blocks(tensor: torch.Tensor, folder: Path) -> None:
    result = measured(folder, tensor)
    rows = len(tensor) if tensor.ndim else 1
    assert len(result.squares) == rows
    assert result.measure((range(rows),))[0] == pytest.approx(torch.linalg.norm(tensor.double()).item(), rel=1e-6)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_nothing_has_norm_zero(shape: tuple[int, int], folder: Path) -> None:
    result = measured(folder, torch.empty(shape))
    assert len(result.squares) == shape[0]
    assert result.measure((range(shape[0]),)) == (0.0, 0)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_", "ignore:TypedStorage is deprecated")
def test_quantised_bits_have_no_norm(folder: Path) -> None:
    path = folder / "q.pt"
    torch.save({"w": torch.quantize_per_tensor(torch.randn(3, 3), 0.1, 0, torch.qint8)}, path)
    with open_checkpoint(path) as checkpoint:
        request = StreamRequest(plain(checkpoint.tensors["w"]), "out_in")
        assert list(stream([request], lambda _: None)) == [None]


@pytest.mark.parametrize("name", ["float8_e8m0fnu", "float4_e2m1fn_x2"])
def test_floats_of_scaled_formats(name: str, folder: Path) -> None:
    raw = (torch.arange(60, dtype=torch.uint8) + 90).view(4, 15)
    result = measured(folder, raw.view(getattr(torch, name)))
    if name == "float8_e8m0fnu":
        expected: Any = raw.view(torch.float8_e8m0fnu).to(torch.float64)
    else:
        table = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=torch.float64)
        table = torch.cat([table, -table])
        expected = table[torch.stack([raw & 15, raw >> 4], -1).long()].flatten(1)
    for row in range(4):
        norm, _ = result.measure((range(row, row + 1),))
        assert norm == pytest.approx(torch.linalg.norm(expected[row]).item(), rel=1e-6)


def test_many_tensors_on_any_number_of_cores(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, whatever their sizes; the same bits from one core and from many."""
    sizes = [(40, 64), (0, 3), (3, 7000), (5, 5), (1, 1), (300, 20), (2, 0), (64, 64)]
    kinds = [torch.float32, torch.bfloat16, torch.float16]
    state = {f"{n}": torch.randn(size).to(kinds[n % 3]) for n, size in enumerate(sizes)}
    state["1"] = state["1"].to(torch.uint8).view(torch.bits8)
    state["5"][7, 7] = math.nan
    torch.save(state, folder / "many.pt")
    monkeypatch.setattr(stats, "_PIECE", 1000)
    monkeypatch.setattr(stats, "_BATCH", 5000)
    found: list[list[bytes | None]] = []
    for cores in (1, 2, 5):
        monkeypatch.setattr("qkvinspect.workers.cores", lambda cores=cores: cores)
        told: list[int] = []
        with open_checkpoint(folder / "many.pt") as checkpoint:
            requests = [stats.StreamRequest(plain(info), "out_in") for info in checkpoint.tensors.values()]
            results = list(stats.stream(requests, told.append))
        assert sum(told) == sum(tensor.nbytes for tensor in state.values())
        assert [result is None for result in results] == [name == "1" for name in state]
        assert [len(result.squares) for result in results if result] == [n for n, _ in sizes if (n, _) != (0, 3)]
        assert results[5] is not None
        assert results[5].odd == {7: (1, 1)}
        found.append([result and result.squares.tobytes() for result in results])
    assert found[0] == found[1] == found[2]
    monkeypatch.undo()
    for name, result in zip(state, found[0], strict=True):
        if name not in ("1", "5"):
            assert result is not None
            expected = state[name].double().square().sum(dim=1)
            assert torch.frombuffer(bytearray(result) or bytearray(8), dtype=torch.float64)[
                : len(expected)
            ].tolist() == (pytest.approx(expected.tolist(), rel=1e-6))


def test_a_wrong_checksum_gives_no_norm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "damaged.pt"
    torch.save({f"{n}": torch.full((64, 64), float(n + 1)) for n in range(4)}, path)
    data = bytearray(path.read_bytes())
    at = data.index(torch.full((64, 64), 3.0).numpy().tobytes()) + 5000
    data[at] ^= 1
    path.write_bytes(data)
    monkeypatch.setattr(stats, "_PIECE", 1000)
    with open_checkpoint(path) as checkpoint:
        given = checkpoint.tensors.values()
        results = stats.stream([stats.StreamRequest(plain(info), "out_in") for info in given], lambda _: None)
        with pytest.raises(CheckpointError, match="checksum"):
            deque(results, maxlen=0)


@pytest.mark.parametrize("broken", range(3))
def test_what_is_not_finite_in_one_part_of_interleaved_rows_is_not_in_the_others(broken: int, tmp_path: Path) -> None:
    tensor = torch.randn(96, 40)
    tensor[broken::3] = torch.nan
    result = measured(tmp_path, tensor)
    for part in range(3):
        norm, nonfinite = result.measure((range(part, 96, 3),))
        assert nonfinite == (1280 if part == broken else 0)
        if part != broken:
            assert norm == pytest.approx(torch.linalg.norm(tensor[part::3].double()).item(), rel=1e-6)
