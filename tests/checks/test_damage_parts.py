"""What finds damage in bytes, each part alone, against the same written as plain loops."""

from __future__ import annotations

import math
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from qkvinspect.checks.damage import odd_codes
from qkvinspect.checks.damage.constant_runs import GRID, constant_blocks, exact, joined
from qkvinspect.checks.damage.copied_runs import Marks, copies, marked
from qkvinspect.checks.damage.stored_bytes import StoredTensor, overlap, stored_tensors
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.weights.encodings import weights_of
from tests.batches import batched

WORDS = [1, 2, 4, 8]


def with_runs(itemsize: int, runs: dict[tuple[int, int], int], size: int = 4096) -> np.ndarray:
    """Noise in which words are repeated: from and to a byte, and what each byte of the word is counted up from."""
    data = np.random.default_rng(itemsize).integers(0, 256, size).astype(np.uint8)
    for (start, stop), first in runs.items():
        word = np.arange(first, first + itemsize, dtype=np.uint8)
        data[start:stop] = np.resize(word, stop - start)
    return data


@pytest.mark.parametrize("itemsize", WORDS)
def test_blocks_of_one_word(itemsize: int) -> None:
    """Two words side by side are two runs, and what does not fill a block is none."""
    data = with_runs(itemsize, {(0, 512): 0, (1000, 2304): 7, (2304, 2560): 9, (3000, 3060): 5, (4096, 4200): 1}, 4200)
    blocks = [data[start : start + GRID].tobytes() for start in range(0, len(data) // GRID * GRID, GRID)]
    words = [block[:itemsize] if block == block[:itemsize] * (GRID // itemsize) else None for block in blocks]
    expected = [
        (numbers[0] * GRID, (numbers[-1] + 1) * GRID)
        for word, held in groupby(range(len(words)), key=lambda number: words[number])
        if word is not None and (numbers := [*held])
    ]
    assert constant_blocks(data, itemsize) == expected
    assert len(expected) == 3
    assert constant_blocks(data[: GRID - 1], itemsize) == []


@pytest.mark.parametrize("itemsize", WORDS)
@batched("run", [(0, 1024), (1000, 2304), (3072, 4096), (1016, 1800), (0, 4096), (3000, 4096)])
def test_the_ends_of_a_run_are_found_to_the_word(run: tuple[int, int], itemsize: int) -> None:
    data = with_runs(itemsize, {run: 3})
    ((start, stop),) = constant_blocks(data, itemsize)
    assert exact(lambda first, last: data[first:last], (start, stop), len(data), itemsize) == run


def test_neighbouring_runs_are_one() -> None:
    assert [*joined([(0, 3), (3, 5), (6, 7), (7, 9), (9, 12)])] == [(0, 5), (6, 12)]
    assert [*joined([])] == []


def test_the_information_of_codes_is_that_of_those_that_are_not_near() -> None:
    counts = np.random.default_rng(0).multinomial(1024, np.random.default_rng(1).dirichlet([1] * 256), 20)
    found = odd_codes._information(counts.astype(np.float64))
    for number, own in enumerate(counts):
        rest = 0.5 + sum(other for at, other in enumerate(counts) if abs(at - number) > 4)
        bits = [-count * math.log2(share) for count, share in zip(own, rest / rest.sum(), strict=True)]
        assert found[number] == pytest.approx(sum(bits) / 1024)


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize(
    ("many", "first"), [(64, 30), (64, 0), (64, 60), pytest.param(8192 + 64, 8192 + 20, marks=pytest.mark.gate)]
)
def test_blocks_of_noise_among_codes_of_a_quantiser(many: int, first: int, alone: bool) -> None:
    chance = np.random.default_rng(0)
    codes = np.abs(np.arange(256) - 128)
    counts = chance.multinomial(1024, np.exp(-codes / 20) / np.exp(-codes / 20).sum(), many).astype(np.uint16)
    assert [*odd_codes.odd([counts], alone=alone)] == []
    counts[first : first + 4] = chance.multinomial(1024, [1 / 256] * 256, 4)
    ((start, stop),) = odd_codes.odd([counts[:50], counts[50:]], alone=alone)
    assert max(first - 1, 0) * 1024 <= start <= first * 1024
    assert (first + 4) * 1024 <= stop <= (first + 5) * 1024
    assert [*odd_codes.odd([counts[:47]], alone=alone)] == []


def test_codes_are_counted_block_by_block() -> None:
    data = np.random.default_rng(0).integers(0, 256, 3 * 1024 + 7).astype(np.uint8)
    found = odd_codes.histograms(data)
    assert found.tolist() == [np.bincount(data[at : at + 1024], minlength=256).tolist() for at in (0, 1024, 2048)]


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("itemsize", WORDS)
def test_a_copy_is_found_from_its_first_word_to_its_last(itemsize: int, back: bool) -> None:
    """Within a tensor and between two, before and after; doubles hold numbers that were floats."""
    chance = np.random.default_rng(itemsize)
    made = [chance.normal(size=1 << 14).astype(f"f{max(itemsize, 2)}") for _ in range(2)]
    arrays = [(one.astype(np.float32).astype(one.dtype)).view(np.uint8).copy() for one in made]
    source, target, size = (16_000, 800, 4160) if back else (800, 16_000, 4160)
    arrays[1][target : target + size] = arrays[0][source : source + size]
    reads: list[Any] = [lambda a, b, data=data: data[a:b] for data in arrays]
    marks = [marked(data, itemsize, 0, 16) for data in arrays]
    for one, data in zip(marks, arrays, strict=True):
        assert 1 / 20 < len(one.places) * itemsize / len(data) < 1 / 12  # of one word in sixteen
    every = copies(marks, reads, [len(data) for data in arrays], [itemsize] * 2)
    ((at, length),) = [(a[1], length) for a, _, length in every if length >= size]
    assert (at, length) == (source, size)  # the bytes before may be equal too, as the last of a float's are
    assert [*copies([], [], [], [])] == []
    assert [*copies([Marks(np.zeros(0, np.int64), np.zeros(0, np.uint64))], reads, [0], [1])] == []


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_which_rows_and_columns_some_bytes_are_of(name: str, tmp_path: Path) -> None:
    rows, cols = 6, 10
    save_file({"w": torch.zeros(rows, cols, dtype=getattr(torch, name))}, tmp_path / "m.safetensors")
    with open_checkpoint(tmp_path / "m.safetensors") as checkpoint:
        info, weight = checkpoint.tensors["w"], weights_of(checkpoint)["w"]
    size = info.dtype.bits // 8
    tensor = StoredTensor("l", weight, info, size, ())
    for start in range(0, rows * cols * size, 3):
        for stop in range(start + 1, rows * cols * size + 1, 5):
            words = range(start // size, (stop - 1) // size + 1)
            by_rows = tensor.reach(start, stop, SimpleNamespace(axis=0))  # pyright: ignore[reportArgumentType]
            assert {*by_rows} == {word // cols for word in words}
            by_columns = tensor.reach(start, stop, SimpleNamespace(axis=1))  # pyright: ignore[reportArgumentType]
            reached = {word % cols for word in words}
            in_one_row = words[0] // cols == words[-1] // cols
            assert {*by_columns} == (reached if in_one_row else {*range(cols)})


def test_ranges_that_have_a_number_in_common() -> None:
    for rows in (range(4, 8), range(3, 12, 4), range(0)):
        for start in range(14):
            for stop in range(start + 1, 15):
                assert overlap(rows, range(start, stop)) == bool({*rows} & {*range(start, stop)})


def tensors_of(path: Path) -> dict[str, StoredTensor]:
    with open_checkpoint(path) as checkpoint:
        return {
            one.info.name.rpartition("self_attn.")[2]: one for one in stored_tensors(inspect(checkpoint).attentions)
        }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float8_e5m2])
def test_words_and_parts_of_what_is_stored_plainly(dtype: torch.dtype, tmp_path: Path) -> None:
    """Once each, though two layers share one: of an output projection, whether its heads are columns."""
    state = {f"layers.0.self_attn.{name}_proj.weight": torch.ones(16, 16).to(dtype) for name in "qkvo"}
    state["layers.0.self_attn.q_proj.bias"] = torch.ones(16).to(dtype)
    save_file(state, tmp_path / "m.safetensors")
    found = tensors_of(tmp_path / "m.safetensors")
    assert {name: (one.itemsize, [part.name for part in one.parts], one.by_rows) for name, one in found.items()} == {
        f"{name}_proj.weight": (dtype.itemsize, [] if name == "o" else [name], name == "o") for name in "qkvo"
    }
    assert not any(one.packed for one in found.values())
    torch.save({**state, **{name.replace("0", "1"): tensor for name, tensor in state.items()}}, tmp_path / "m.pt")
    with open_checkpoint(tmp_path / "m.pt") as checkpoint:
        assert len([*stored_tensors(inspect(checkpoint).attentions)]) == 4


def test_words_that_hold_several_codes_are_bytes() -> None:
    path = Path(__file__).parents[1] / "weights/encodings/models/gptq_4bit_act_order.safetensors"
    with open_checkpoint(path) as checkpoint:
        found = [*stored_tensors(inspect(checkpoint, Options(heads=("8",))).attentions)]
    assert {(one.info.dtype.name, one.itemsize, one.packed) for one in found} == {("int32", 1, True)}
