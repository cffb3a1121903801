"""Values of every ggml type are those of ``gguf.quants``, bit for bit; a rounding is told from a change."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants
from gguf.scripts import gguf_convert_endian

from qkvinspect.formats import open_checkpoint
from qkvinspect.weights.encodings import weights_of
from qkvinspect.weights.encodings.ggml_blocks import _CODES
from qkvinspect.weights.encodings.ggml_scales import HALVES
from qkvinspect.weights.values import whole
from tests.batches import batched

TYPES = sorted(one.name for one in quants._type_traits if one.name != "BF16")
WRITTEN = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4"]
"""Types that the package can quantise to."""


def written(path: Path, kind: str, blocks: np.ndarray, shape: tuple[int, int], **options: Any) -> Path:
    """A file with one tensor of this type."""
    writer = gguf.GGUFWriter(path, "llama", **options)
    writer.add_tensor("blk.0.attn_q.weight", blocks.reshape(shape[0], -1), raw_dtype=GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def some_blocks(kind: str, rows: int, cols: int) -> np.ndarray:
    """Blocks of random bytes; what comes out need not be finite."""
    count, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    return np.random.default_rng(len(kind)).integers(0, 256, rows * cols // count * size, dtype=np.uint8)


@batched("kind", TYPES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the package's own, of scales that are not finite
def test_every_value_is_that_of_the_package(tmp_path: Path, kind: str) -> None:
    shape = (24, 768)
    path = written(tmp_path / "m.gguf", kind, some_blocks(kind, *shape), shape)
    with open_checkpoint(path) as checkpoint:
        weight = weights_of(checkpoint)["blk.0.attn_q.weight"]
        assert weight.shape == shape
        assert weight.encoding is not None
        found = whole(weight.as_matrix("out_in"))
        part = weight.encoding.decode(range(3, 20, 4), range(100, 700, 7))
    tensor = gguf.GGUFReader(path).tensors[0]
    expected = quants.dequantize(tensor.data, tensor.tensor_type)
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))
    np.testing.assert_array_equal(part, expected[3:20:4, 100:700:7])


@pytest.mark.parametrize("kind", WRITTEN)
def test_the_original_lies_within_half_a_step(tmp_path: Path, kind: str) -> None:
    original = np.random.default_rng(0).normal(size=(16, 256)).astype(np.float32)
    path = written(tmp_path / "m.gguf", kind, quants.quantize(original, GGMLQuantizationType[kind]), original.shape)
    with open_checkpoint(path) as checkpoint:
        encoding = weights_of(checkpoint)["blk.0.attn_q.weight"].encoding
        assert encoding is not None
        rows, cols = map(range, original.shape)
        values, slack = encoding.decode(rows, cols), encoding.slack(rows, cols)
    assert slack is not None
    assert (np.abs(values - original) <= slack * (1 + 2**-4)).all()  # the scale is rounded to float16
    finite = slack[np.isfinite(slack)]
    assert finite.size > slack.size / 2
    assert (np.abs(values - original) > slack / 4).mean() > 0.2  # it is no wider than the codes


@pytest.mark.parametrize("kind", sorted(_CODES))
def test_half_a_step_is_half_the_distance_of_neighbouring_codes(kind: str) -> None:
    """Of all values that one place of a block can take with its scales as they are, told by the package alone."""
    from qkvinspect.dtypes import DType
    from qkvinspect.weights.encodings.ggml_blocks import _half_steps

    count, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    rng = np.random.default_rng(3)
    base = rng.integers(0, 256, (1, size), dtype=np.uint8)
    many = np.repeat(base, 4096, axis=0)
    for start, stop, _ in _CODES[kind]:
        many[:, start:stop] = rng.integers(0, 256, (len(many), stop - start), dtype=np.uint8)
    for scale in range(size):  # float16 scales that are finite
        if not any(start <= scale < stop for start, stop, _ in _CODES[kind]):
            many[:, scale] &= 0x3F
    with np.errstate(all="ignore"):
        values = quants.dequantize(many, GGMLQuantizationType[kind]).reshape(len(many), -1)
    halves = _half_steps(many, DType(kind, 8 * size, "opaque", block=count), _CODES[kind])
    for place in range(0, count, 29):
        taken = np.unique(values[:, place])
        if len(taken) < 3:
            continue
        finite = halves[np.isfinite(halves[:, place]), place]
        smallest = np.diff(taken).min()
        assert finite == pytest.approx(smallest / 2, rel=1e-2)


def turned(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file in the other order of bytes, by the package's own converter."""
    monkeypatch.setattr(sys, "argv", ["gguf-convert-endian", str(path), "big"])
    monkeypatch.setattr("builtins.input", lambda _: "YES")
    gguf_convert_endian.main()


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0", "Q4_K", "Q6_K", "MXFP4"])
@pytest.mark.parametrize("how", ["converted", "written"])
def test_blocks_of_a_big_endian_file_have_their_scales_in_either_order(
    tmp_path: Path, kind: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = some_blocks(kind, 16, 512).reshape(-1, GGML_QUANT_SIZES[GGMLQuantizationType[kind]][1])
    scales = np.random.default_rng(1).uniform(1e-5, 0.02, (len(blocks), 1)).astype("<f2").view(np.uint8)
    for place in HALVES.get(kind, ()):
        blocks[:, place : place + 2] = scales
    if kind == "MXFP4":
        blocks[:, 0] = 120
    path = written(tmp_path / "m.gguf", kind, blocks, (16, 512))
    expected = quants.dequantize(gguf.GGUFReader(path).tensors[0].data.copy(), GGMLQuantizationType[kind])
    if how == "converted":
        turned(path, monkeypatch)
    else:
        path = written(tmp_path / "m.gguf", kind, blocks, (16, 512), endianess=gguf.GGUFEndian.BIG)
    assert path.read_bytes()[4:8] == b"\0\0\0\3"
    with open_checkpoint(path) as checkpoint:
        encoding = weights_of(checkpoint)["blk.0.attn_q.weight"].encoding
        assert encoding is not None
        np.testing.assert_array_equal(encoding.decode(range(16), range(512)), expected)


def test_scales_that_are_possible_in_both_orders_are_not_guessed(tmp_path: Path) -> None:
    blocks = some_blocks("Q8_0", 16, 512).reshape(-1, 34)
    blocks[:, :2] = np.frombuffer(b"\x11\x21", np.uint8)
    path = written(tmp_path / "m.gguf", "Q8_0", blocks, (16, 512), endianess=gguf.GGUFEndian.BIG)
    with open_checkpoint(path) as checkpoint:
        weight = weights_of(checkpoint)["blk.0.attn_q.weight"]
        assert weight.encoding is None
        assert "do not tell in which order" in (weight.why or "")
