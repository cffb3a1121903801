"""Rows of a packed weight cut out as they are stored: read again they are the same numbers, or it is said why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import gcd
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from qkvinspect.checkpoint import Checkpoint, Region, TensorInfo, contiguous_strides
from qkvinspect.errors import LayoutError
from qkvinspect.export.pieces import contents, spans
from qkvinspect.export.split import _stored_rows
from qkvinspect.weights.cutting import block_runs, word_runs
from qkvinspect.weights.encodings import weights_of
from qkvinspect.weights.weight import Weight
from tests.some import those
from tests.weights.encodings.test_damaged import Bytes
from tests.weights.encodings.test_decoded import EACH, NAMES, decoded, opened, pairs

MODELS = Path(__file__).parent / "models"

CUT_ANYWHERE = ("bnb_int8", "ct_int8", "ct_mxfp4", "ct_nvfp4", "modelopt", "mlx", "quanto", "torchao", "ct_int")

TOO_FEW_ROWS = [*(f"ct_int{bits}_zeros" for bits in (2, 3, 5, 6, 7)), "comfy_mxfp8", "comfy_nvfp4"]
"""Only 16 or 32 rows of zero points fill whole words, and scales lie in tiles of 128 rows."""


def cut_out(checkpoint: Checkpoint, weight: Weight, runs: Sequence[range]) -> Weight:
    """Some rows as a file of their own would hold them."""
    assert weight.encoding is not None
    module = weight.name.removesuffix("weight")
    tensors: dict[str, TensorInfo] = {}
    for stored in weight.encoding.cut(runs):
        piece = _stored_rows(f"{module}{stored.leaf}", stored)
        data = b"".join(contents(spans(piece)))
        assert len(data) == piece.nbytes
        strides = contiguous_strides(piece.shape)
        tensors[piece.name] = TensorInfo(
            piece.name, piece.dtype, piece.shape, strides, Region(Bytes(data), 0, len(data))
        )
    own = replace(checkpoint, tensors=tensors)
    return next(iter(weights_of(own).encoded.values()))


@pytest.mark.parametrize("name", those(EACH.__contains__, [name for name in NAMES if name != "gpt_oss_mxfp4"]))
def test_rows_cut_out_are_the_same_numbers(name: str) -> None:
    done, refused = 0, list[str]()
    with opened(name) as checkpoint:
        for weight, _, _ in pairs(name):
            every = decoded(weight)
            rows = len(every)
            for runs in (
                [range(rows // 2)],
                [range(rows // 2, rows)],
                [range(rows // 4), range(rows // 2, rows // 4 * 3)],
                [range(1, rows)],
                [range(0, rows - rows % 2, 2)],
            ):
                if not sum(map(len, runs)):
                    continue
                try:
                    found = cut_out(checkpoint, weight, runs)
                except LayoutError as error:
                    refused.append(str(error))
                    continue
                assert not found.why, found.why
                wanted = np.concatenate([every[run.start : run.stop : run.step] for run in runs])
                np.testing.assert_array_equal(decoded(found), wanted, strict=True)
                done += 1
    assert all("cannot be cut out" in text and "--dequantize" in text for text in refused)
    assert done or name in TOO_FEW_ROWS
    if name.startswith(CUT_ANYWHERE) and "zeros" not in name:
        assert not refused


def test_halves_of_gptq_awq_and_nf4_are_cut() -> None:
    """Where words and blocks end between them."""
    for name in ("gptq_v1_4bit", "gptq_v2_3bit", "gptq_v2_8bit_sym", "awq_group32", "awq_group128", "bnb_nf4"):
        done = 0
        with opened(name) as checkpoint:
            for weight, _, _ in pairs(name):
                half = weight.shape[0] // 2
                if half % 32 == 0 or (name == "bnb_nf4" and weight.shape[1] % 32 == 0 and "block32" in weight.name):
                    found = cut_out(checkpoint, weight, [range(half, 2 * half)])
                    np.testing.assert_array_equal(decoded(found), decoded(weight)[half : 2 * half])
                    done += 1
        assert done


@pytest.mark.parametrize("bits", range(1, 9))
def test_words_that_hold_other_codes_too_are_refused(bits: int) -> None:
    """By looking at each bit of each word."""
    size, fill = 70, 32 // gcd(32, bits)
    owners = [{place // bits for place in range(word * 32, word * 32 + 32)} for word in range(-(-size * bits // 32))]
    for start in range(0, size, fill // 4 or 1):
        for stop in range(start + 1, size + 1):
            mine = set(range(start, stop))
            whole = [word for word, codes in enumerate(owners) if codes & mine]
            alone = all(owners[word] & set(range(size)) <= mine for word in whole)
            found = word_runs([range(start, stop)], bits, size)
            assert (found is not None) == (alone and start * bits % 32 == 0), (start, stop, found)
            if found is not None:
                assert [word for run in found for word in run] == whole


def test_runs_are_joined_before_they_are_cut() -> None:
    assert block_runs([range(6), range(6, 16)], 8, 64) == (range(2),)
    assert block_runs([range(8), range(16, 20)], 8, 20) == (range(1), range(2, 3))
    assert block_runs([range(16, 20), range(8)], 8, 20) is None
    assert block_runs([range(8), range(16, 18)], 8, 20) is None
    assert block_runs([range(8), range(16, 18)], 8) == (range(1), range(2, 3))
    assert block_runs([], 8, 20) == ()


@pytest.mark.parametrize(("name", "leaf"), [("modelopt_nvfp4", "input_scale"), ("ct_nvfp4", "input_global_scale"),
                                            ("modelopt_float8", "input_scale")])  # fmt: skip
@pytest.mark.parametrize("options", [(), ("--all",), ("--heads-split",), ("--all", "--dequantize", "float32")])
def test_scales_of_the_input_go_with_each_part(
    name: str, leaf: str, options: tuple[str, ...], tmp_path: Path, run
) -> None:
    """Q, K and V share their input. Numbers need none, and none is left under a module that is gone."""
    source = MODELS / f"{name}.safetensors"
    state = load_file(source)
    state["blocks.0.attn.qkv." + leaf] = torch.tensor(0.37)
    state["blocks.0.attn.proj." + leaf] = torch.tensor(0.73)
    with safe_open(source, "pt") as file:
        save_file(state, tmp_path / "in.safetensors", file.metadata())
    run("export", "--split", *options, tmp_path / "in.safetensors", "--heads", "8", "-o", tmp_path / "out.safetensors",
        "--no-evidence")  # fmt: skip
    held = {key: value for key, value in load_file(tmp_path / "out.safetensors").items() if key.endswith(leaf)}
    wanted: dict[str, float] = {}
    if "--dequantize" not in options:
        each = [f"heads.{head}." for head in range(8)] if "--heads-split" in options else [""]
        wanted = {f"blocks.0.attn.{part}_proj.{head}{leaf}": 0.37 for part in "qkv" for head in each}
    if "--all" in options:
        wanted["blocks.0.attn.proj." + leaf] = 0.73
    assert held.keys() == wanted.keys()
    assert all(torch.equal(held[key], torch.tensor(value)) for key, value in wanted.items())
