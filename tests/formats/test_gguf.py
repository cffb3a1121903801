"""GGUF files as the gguf package writes them, read as it reads them."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.formats import open_checkpoint
from qkvinspect.formats.gguf.types import GGML_TYPES
from tests.batches import batched
from tests.counted import counted
from tests.hostile.writers.ggufs import STRING, Writer

KEYS = {"head_count": 4, "head_count_kv": 2}
WORDS = 200_000
RNG = np.random.default_rng(0)
TENSORS = {
    f"blk.{layer}.attn_{part}.weight": RNG.standard_normal((rows, 32)).astype(dtype)
    for layer in range(2)
    for part, rows, dtype in (("q", 32, "f4"), ("k", 16, "f4"), ("v", 16, "f2"), ("output", 32, "f4"))
}


def written(path: Path, architecture: str = "llama", **options: Any) -> Path:
    """A tiny model, by the package's own writer."""
    writer = gguf.GGUFWriter(path, architecture, **options)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b", "é"])
    for name, values in TENSORS.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_types_are_those_of_the_package() -> None:
    sizes = {kind.value: size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    ours = {number: (dtype.block, dtype.bits // 8) for number, dtype in GGML_TYPES.items()}
    assert ours == {number: sizes[number] for number in ours}
    assert set(sizes) == set(ours)
    plain = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
    for number, dtype in GGML_TYPES.items():
        name = gguf.GGMLQuantizationType(number).name
        assert dtype.name == plain.get(name, name.replace("I", "int") if dtype.kind == "int" else name)


def test_every_tensor_is_read_as_it_was_written(tmp_path: Path, content: Any) -> None:
    with open_checkpoint(written(tmp_path / "model.gguf")) as checkpoint:
        assert checkpoint.format == "gguf"
        assert {name: info.shape for name, info in checkpoint.tensors.items()} == {
            name: values.shape for name, values in TENSORS.items()
        }
        for name, values in TENSORS.items():
            assert content(checkpoint.tensors[name]) == values.tobytes()
        values = checkpoint.configs[-1].values
        assert {key: values[f"llama.attention.{key}"] for key in KEYS} == KEYS
        assert values["architecture"] == "llama"
        assert "tokenizer.ggml.tokens" not in values


def test_texts_and_lists_are_kept_up_to_a_length(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    for length in (4096, 4097):
        writer.add_string(f"own.text.{length}", "x" * length)
    for count in (1024, 1025):
        writer.add_array(f"own.list.{count}", [*range(count)])
    writer.add_tensor("a", np.ones(2, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_checkpoint(tmp_path / "m.gguf") as checkpoint:
        (config,) = checkpoint.configs
        found = {key: value for key, value in config.values.items() if key.startswith("own.")}
    assert found == {"own.text.4096": "x" * 4096, "own.list.1024": [*range(1024)]}


def test_the_other_order_of_bytes(tmp_path: Path, content: Any) -> None:
    path = written(tmp_path / "model.gguf", endianess=gguf.GGUFEndian.BIG)
    assert path.read_bytes()[4:8] == b"\0\0\0\3"
    with open_checkpoint(path) as checkpoint:
        for name, values in TENSORS.items():
            assert content(checkpoint.tensors[name]) == values.tobytes()


def _kinds() -> list[gguf.GGMLQuantizationType]:
    return [gguf.GGMLQuantizationType(n) for n, dtype in GGML_TYPES.items() if dtype.block > 1]


@batched("kind", {kind.name: kind for kind in _kinds()})
def test_a_quantised_tensor_has_the_shape_of_its_numbers(kind: Any, tmp_path: Path, content: Any) -> None:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    data = RNG.integers(0, 256, (4, 2 * size), dtype=np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_tensor("w", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_checkpoint(tmp_path / "x.gguf") as checkpoint:
        info = checkpoint.tensors["w"]
        assert (info.shape, info.dtype.name, info.nbytes) == ((4, 2 * block), kind.name, data.nbytes)
        assert content(info) == data.tobytes()


def test_a_split_checkpoint_is_one_whichever_file_is_named(tmp_path: Path, content: Any) -> None:
    written(tmp_path / "model.gguf", split_max_tensors=3)
    files = sorted(tmp_path.glob("*.gguf"))
    assert [file.name for file in files] == [f"model-{n:05d}-of-00003.gguf" for n in (1, 2, 3)]
    for file in (*files, tmp_path):
        with open_checkpoint(file) as checkpoint:
            assert set(checkpoint.tensors) == set(TENSORS)
            assert checkpoint.num_files == 3
            assert checkpoint.configs[-1].values["llama.attention.head_count"] == 4
            for name, values in TENSORS.items():
                assert content(checkpoint.tensors[name]) == values.tobytes()


def test_parts_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "model.gguf", split_max_tensors=3)
    first, second, third = sorted(tmp_path.glob("*.gguf"))
    kept = second.read_bytes()
    second.write_bytes(third.read_bytes())
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(first)
    assert caught.value.code is Code.GGUF_SPLIT
    second.unlink()
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(first)
    assert caught.value.code is Code.FILE_MISSING
    second.write_bytes(kept)
    renamed = first.rename(tmp_path / "other.gguf")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(renamed)
    assert caught.value.code is Code.GGUF_SPLIT


@pytest.mark.gate
def test_words_take_no_memory_and_three_lines_each(tmp_path: Path) -> None:
    writer = Writer()
    words = writer.array(STRING, [writer.text(b"word%d" % n) for n in range(WORDS)])
    path = tmp_path / "x.gguf"
    path.write_bytes(writer.file(writer.header([(b"tokenizer.ggml.tokens", words)], []), b""))
    with counted() as lines, open_checkpoint(path) as checkpoint:
        assert not checkpoint.tensors
    assert sum(lines.values()) < 3 * WORDS + 10_000
    tracemalloc.start()
    try:
        open_checkpoint(path).close()
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
