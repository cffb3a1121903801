"""Reading piece by piece gives what torch's views give: any strides, byte order, width and block limit."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qkvinspect.checkpoint import Region, TensorInfo, contiguous_strides
from qkvinspect.dtypes import DTYPES
from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError, LayoutError
from qkvinspect.weights.reading import blocks, numbers, read_rows
from qkvinspect.weights.strided import StridedMatrix, strided_matrix, strided_shape
from qkvinspect.weights.tiles import tiles
from tests.batches import batched
from tests.some import tried


class Memory:
    """A ByteSource in memory that notes the longest read."""

    name = "memory"

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)
        self.longest = 0

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or offset + length > self.size:
            raise CheckpointError("outside", code=Code.FILE_SHORT, file=self.name)
        self.longest = max(self.longest, length)
        return self.data[offset : offset + length]

    def relative(self, name: str) -> Any:
        raise CheckpointError("alone", code=Code.FILE_ESCAPE, file=self.name)

    def siblings(self) -> tuple[str, ...]:
        return ()

    def check(self) -> None:
        pass

    def close(self) -> None:
        pass


def stored(tensor: torch.Tensor, byteorder: Literal["little", "big"] = "little", start: int = 5) -> TensorInfo:
    """A tensor's storage as a file that begins with some other bytes."""
    storage = torch.tensor([], dtype=torch.uint8).set_(tensor.untyped_storage()).numpy()
    width = tensor.element_size() // (2 if tensor.is_complex() else 1)
    if byteorder == "big":
        storage = storage.reshape(-1, width)[:, ::-1]
    data = b"x" * start + storage.tobytes() + b"y" * 3
    region = Region(Memory(data), start, len(data) - start - 3)
    dtype = DTYPES[str(tensor.dtype).removeprefix("torch.")]
    return TensorInfo("w", dtype, tuple(tensor.shape), tensor.stride(), region, tensor.storage_offset(), byteorder)


def plain_bytes(tensor: torch.Tensor) -> bytes:
    plain = tensor.clone(memory_format=torch.contiguous_format).reshape(-1)
    return plain.view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def read(matrix: StridedMatrix, limit: int) -> bytes:
    return b"".join(read_rows(matrix, (range(matrix.rows),), limit))


def from_blocks(matrix: StridedMatrix, limit: int) -> bytes:
    """The matrix put together from the pieces of ``blocks``; every element must come exactly once."""
    dtype = matrix.info.dtype
    half = f"u{dtype.bits // 16}"
    word = np.dtype([("real", half), ("imag", half)]) if dtype.kind == "complex" else np.dtype(f"u{matrix.unit // 8}")
    out = np.zeros((matrix.rows, matrix.cols), word)
    times = np.zeros(out.shape, int)
    for rows, cols, words in blocks(matrix, limit):
        assert words.shape == out[rows, cols].shape
        assert words.dtype == word
        out[rows, cols] = words
        times[rows, cols] += 1
    assert (times == 1).all()
    return out.tobytes()


def view_of(draw: st.DrawFn, dtype: torch.dtype) -> torch.Tensor:
    """A 2-D view of some sort over a storage of different elements."""
    raw = torch.from_numpy(np.random.default_rng(draw(st.integers(0, 9))).integers(0, 256, 3072, np.uint8))
    base = (raw % 2 if dtype == torch.bool else raw).view(dtype)
    rows, cols = draw(st.integers(0, 6)), draw(st.integers(0, 7))
    strides = draw(st.sampled_from(["dense", "gapped", "transposed", "expanded", "overlapping"]))
    gap, step = draw(st.integers(0, 3)), draw(st.integers(1, 3))
    row_stride, col_stride = {
        "dense": (cols, 1),
        "gapped": (cols * step + gap, step),
        "transposed": (step, rows * step + gap),
        "expanded": draw(st.sampled_from([(0, 1), (1, 0), (0, 0)])),
        "overlapping": (step, 1),
    }[strides]
    reach = max(rows - 1, 0) * row_stride + max(cols - 1, 0) * col_stride + 1
    return base.as_strided((rows, cols), (row_stride, col_stride), draw(st.integers(0, base.numel() - reach)))


ORDINARY = [torch.float32, torch.float64, torch.bfloat16, torch.int8, torch.bool, torch.complex64, torch.complex128]


@st.composite
def views(draw: st.DrawFn) -> torch.Tensor:
    return view_of(draw, draw(st.sampled_from(ORDINARY)))


@given(views(), st.sampled_from([8, 40, 1 << 20]))
def test_tiles_that_are_plain_hold_their_values_and_nothing_else(tensor: torch.Tensor, limit: int) -> None:
    for tile in tiles(strided_matrix(stored(tensor), "out_in"), limit):
        if tile.plain:
            assert tile.stored() == plain_bytes(tensor[tile.rows, tile.cols])


@tried(
    given(
        tensor=views(), limit=st.integers(1, 200), byteorder=st.sampled_from(["little", "big"]), start=st.integers(0, 9)
    ),
    few=80,
    many=300,
)
def test_any_view_by_any_limit(
    tensor: torch.Tensor, limit: int, byteorder: Literal["little", "big"], start: int
) -> None:
    matrix = strided_matrix(stored(tensor, byteorder, start), "out_in")
    assert (matrix.rows, matrix.cols) == tuple(tensor.shape)
    assert read(matrix, limit) == plain_bytes(tensor)
    assert from_blocks(matrix, limit) == plain_bytes(tensor)


@tried(given(tensor=views(), data=st.data()), few=40, many=150)
def test_some_rows_and_the_other_orientation(tensor: torch.Tensor, data: st.DataObject) -> None:
    info = stored(tensor)
    for matrix, expected in ((strided_matrix(info, "out_in"), tensor), (strided_matrix(info, "in_out"), tensor.T)):
        bounds = st.integers(0, matrix.rows)
        runs = [
            range(start, stop, step)
            for start, stop, step in data.draw(
                st.lists(st.tuples(bounds, bounds, st.integers(1, 3)).filter(lambda t: t[0] < t[1]), max_size=3)
            )
        ]
        picked = [expected[run.start : run.stop : run.step] for run in runs]
        assert b"".join(read_rows(matrix, runs, data.draw(st.integers(1, 99)))) == b"".join(map(plain_bytes, picked))


@pytest.mark.parametrize("limit", [1, 7, 64, 1000, 1 << 20])
def test_reads_stay_near_the_limit(limit: int) -> None:
    """A dense matrix, its transpose and a strided one: no read longer than the limit, or one element."""
    base = torch.arange(64 * 96, dtype=torch.float32).view(64, 96)
    for tensor in (base, base.T, base[:, ::5], base[::3], base[1].expand(50, 96)):
        info = stored(tensor)
        assert from_blocks(strided_matrix(info, "out_in"), limit) == plain_bytes(tensor)
        source = info.region.source
        assert isinstance(source, Memory)
        assert source.longest <= max(limit, 4)


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_pieces_of_rows_are_near_the_limit(rows: int) -> None:
    tensor = torch.arange(40 * 16, dtype=torch.float32).view(40, 16)
    pieces = list(read_rows(strided_matrix(stored(tensor), "out_in"), (range(40),), limit=rows * 64))
    assert b"".join(pieces) == plain_bytes(tensor)
    assert max(map(len, pieces)) == rows * 64


BASE = torch.arange(360, dtype=torch.float32)


@pytest.mark.parametrize(
    ("tensor", "orientation", "expected"),
    [
        (BASE.view(20, 18), "out_in", BASE.view(20, 18)),
        (BASE.view(20, 18), "in_out", BASE.view(20, 18).T),
        (BASE, "out_in", BASE.view(360, 1)),
        (BASE[5], "out_in", BASE[5].view(1, 1)),
        (BASE.view(6, 4, 15), "out_in", BASE.view(6, 60)),
        (BASE.view(6, 4, 15), "in_heads_dim", BASE.view(6, 60).T),
        (BASE.view(6, 4, 15), "in_out", BASE.view(24, 15).T),
        (BASE.view(1, 1, 360), "out_in", BASE.view(360, 1)),
        (BASE.view(20, 18, 1, 1), "out_in", BASE.view(20, 18)),
        (BASE.view(20, 18, 1, 1).contiguous(memory_format=torch.channels_last), "out_in", BASE.view(20, 18)),
        (BASE.view(1, 360), "out_in", BASE.view(1, 360)),
        (BASE.view(360, 1), "out_in", BASE.view(360, 1)),
        (BASE.view(20, 18)[:, :1], "out_in", BASE.view(20, 18)[:, :1]),
        (BASE.view(20, 18)[:1], "in_out", BASE.view(20, 18)[:1].T),
        (BASE.view(6, 4, 15)[2:4], "out_in", BASE.view(6, 60)[2:4]),
        (BASE.view(4, 6, 15).transpose(0, 1)[:, :1], "out_in", BASE.view(4, 6, 15)[0]),
        (BASE[:15].expand(6, 4, 15)[:, :1], "out_in", BASE[:15].expand(6, 15)),
        (BASE[0].expand(6, 4, 15), "out_in", BASE[0].expand(6, 60)),
    ],
)
def test_as_a_matrix(tensor: torch.Tensor, orientation: Any, expected: torch.Tensor) -> None:
    info = stored(tensor)
    assert strided_shape(info, orientation) == tuple(expected.shape)
    for limit in (4, 100, 1 << 20):
        matrix = strided_matrix(info, orientation)
        assert read(matrix, limit) == plain_bytes(expected)
        assert from_blocks(matrix, limit) == plain_bytes(expected)


@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0), (2, 0, 3), (2, 3, 0), (0, 2, 3), (2, 0, 0), (1, 1, 0)])
@pytest.mark.parametrize("orientation", ["out_in", "in_out"])
def test_nothing_to_read(shape: tuple[int, ...], orientation: Any) -> None:
    matrix = strided_matrix(stored(torch.empty(shape)), orientation)
    assert matrix.rows * matrix.cols == 0
    assert read(matrix, 8) == b""
    assert list(blocks(matrix, 8)) == []


@pytest.mark.parametrize(
    "tensor",
    [BASE.view(6, 4, 15).permute(0, 2, 1), BASE.view(6, 4, 15)[:, :, :3], BASE[:15].expand(6, 4, 15)],
    ids=["permuted", "gaps", "expanded inside"],
)
def test_views_that_are_no_matrix(tensor: torch.Tensor) -> None:
    with pytest.raises(LayoutError, match="no form") as caught:
        strided_matrix(stored(tensor), "out_in")
    assert str(caught.value).startswith("w: ")


def test_take_composes() -> None:
    tensor = BASE.view(20, 18).T
    matrix = strided_matrix(stored(tensor), "out_in").take(range(2, 17, 3)).take(range(1, 4))
    assert read(matrix, 50) == plain_bytes(tensor[2:17:3][1:4])


def narrow(name: str, rows: int, cols: int) -> tuple[TensorInfo, bytes]:
    """A tensor of a type under a byte, of random bytes."""
    dtype = DTYPES[name]
    data = np.random.default_rng(0).integers(0, 256, dtype.nbytes(rows * cols), np.uint8).tobytes()
    info = TensorInfo("w", dtype, (rows, cols), contiguous_strides((rows, cols)), Region(Memory(data), 0, len(data)))
    return info, data


@batched("limit", [1, 2, 4, 5, 7, 16, 1 << 20])
@pytest.mark.parametrize("name", ["float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn"])
def test_types_under_a_byte_are_read_as_bytes(name: str, limit: int) -> None:
    info, data = narrow(name, 6, 16)
    matrix = strided_matrix(info, "out_in")
    row_bytes = len(data) // 6
    assert (matrix.rows, matrix.cols, matrix.unit) == (6, row_bytes, 8)
    assert read(matrix, limit) == data
    assert b"".join(read_rows(matrix, (range(1, 6, 2),), limit)) == b"".join(
        data[row * row_bytes : (row + 1) * row_bytes] for row in (1, 3, 5)
    )


@batched("limit", [1, 2, 4, 5, 7, 16, 1 << 20])
@pytest.mark.parametrize("name", ["float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn"])
def test_numbers_of_types_under_a_byte_by_any_limit(name: str, limit: int) -> None:
    """A block must not end in the middle of a number: four 6-bit floats share three bytes."""
    info, data = narrow(name, 6, 16)
    (whole,) = numbers(np.frombuffer(data, np.uint8).reshape(6, -1), info.dtype)
    pieces: list[list[np.ndarray]] = [[] for _ in range(6)]
    for rows, _, words in blocks(strided_matrix(info, "out_in"), limit):
        (values,) = numbers(words, info.dtype)
        for row, part in zip(range(6)[rows], values, strict=True):
            pieces[row].append(part)
    assert np.array_equal([np.concatenate(parts) for parts in pieces], whole)


@pytest.mark.parametrize(
    ("name", "cols", "orientation"),
    [("float4_e2m1fn", 3, "out_in"), ("float6_e2m3fn", 2, "out_in"), ("float4_e2m1fn", 4, "in_out")],
)
def test_rows_that_begin_inside_a_byte(name: str, cols: int, orientation: Any) -> None:
    info, _ = narrow(name, 4, cols)
    with pytest.raises(LayoutError, match="whole bytes"):
        strided_matrix(info, orientation)
    assert strided_shape(info, "out_in") == (4, cols)


@given(st.lists(st.integers(0, 5), max_size=5))
def test_contiguous_strides_are_torch_s(shape: list[int]) -> None:
    tensor = torch.empty(shape)
    assert contiguous_strides(tuple(shape)) == tensor.stride()
    assert stored(tensor).contiguous


@given(tensor=views())
def test_contiguous_is_torch_s(tensor: torch.Tensor) -> None:
    assert stored(tensor).contiguous == tensor.is_contiguous()
