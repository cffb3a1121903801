"""The printed code reads big-endian GGUF, which ``gguf.quants`` alone does not: judged by the little-endian file."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf.scripts import gguf_convert_endian

from qkvinspect.explain.snippet import python
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import inspect


def _written(path: Path, kind: Type, **options: Any) -> Path:
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "qwen2", **options)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    for part, rows in (("q", 64), ("k", 32), ("v", 32), ("output", 64)):
        values = rng.standard_normal((rows, 64), np.float32)
        writer.add_tensor(f"blk.0.attn_{part}.weight", gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("how", ["converted", "written"])
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0"])
def test_printed_code_gives_the_numbers(kind: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    little, big = _written(tmp_path / "little.gguf", Type[kind]), tmp_path / "big.gguf"
    if how == "converted":
        shutil.copy(little, big)
        monkeypatch.setattr(sys, "argv", ["gguf-convert-endian", str(big), "big"])
        monkeypatch.setattr("builtins.input", lambda _: "YES")
        gguf_convert_endian.main()
    else:
        _written(big, Type[kind], endianess=gguf.GGUFEndian.BIG)
    with open_checkpoint(big) as checkpoint:
        code = python(inspect(checkpoint).attentions[0], checkpoint)
    made: dict[str, Any] = {}
    exec("\n".join(code), made)
    for tensor in gguf.GGUFReader(little).tensors[:3]:
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(made[tensor.name.split("_")[1][0]].numpy(), expected)
