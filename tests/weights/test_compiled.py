"""Sums of squares by numkong: every value of the small types, rows of every length, what is not finite."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from array import array
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from qkvinspect.dtypes import DTYPES
from qkvinspect.formats import open_checkpoint
from qkvinspect.weights import compiled, norms
from qkvinspect.weights.compiled import Squares
from qkvinspect.weights.reading import numbers
from qkvinspect.weights.weight import plain
from tests.batches import batched

numkong = pytest.importorskip("numkong")

NAMES = ["float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"]


def loops(name: str) -> Squares:
    found = compiled.squares_of(name)
    assert found is not None
    return found


def exact(words: np.ndarray, name: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.square(numbers(words, DTYPES[name])[0].astype(np.float64)).sum(axis=1)


def word_type(name: str) -> np.dtype:
    return np.dtype(f"u{DTYPES[name].bits // 8}")


@pytest.mark.parametrize("name", NAMES)
def test_it_is_used_where_it_is_right(name: str) -> None:
    assert compiled.squares_of(name) is not None


@pytest.mark.parametrize("name", ["float64", "float8_e5m2fnuz", "float8_e4m3fnuz", "int8"])
def test_it_is_not_asked_for_the_rest(name: str) -> None:
    assert compiled.squares_of(name) is None


@pytest.mark.parametrize("cols", [1, 3, 4, 64])
@pytest.mark.parametrize("name", NAMES[1:])
def test_every_value(name: str, cols: int) -> None:
    words = np.repeat(np.arange(1 << DTYPES[name].bits, dtype=word_type(name))[:, None], cols, axis=1)
    expected = exact(words, name)
    found = np.asarray(loops(name)(words.tobytes(), len(words)))
    fine = np.isfinite(expected) & (expected < 1e38) & (expected > 1e-30)
    np.testing.assert_allclose(found[fine], expected[fine], rtol=3e-7)
    assert not np.isfinite(found[~np.isfinite(expected)]).any()
    assert (found[expected == 0] == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_loops_are_tried_with_every_size_and_sign_and_all_that_is_not_finite(name: str) -> None:
    word = word_type(name)
    tried = np.frombuffer(b"".join(compiled._patterns(name)), word)
    digits = {"float32": 23, "bfloat16": 7, "float16": 10, "float8_e4m3fn": 0, "float8_e5m2": 0}[name]  # of float8, all
    assert {*(tried >> word.type(digits)).tolist()} == {*range(1 << 8 * word.itemsize - digits)}
    values = numbers(tried, DTYPES[name])[0]
    assert np.isnan(values).any()
    if name != "float8_e4m3fn":  # which has none
        assert {-np.inf, np.inf} <= {*values.tolist()}


@batched("cols", [1, 2, 3, 31, 64, 65, 254, 256, 1000, 2048, 4100, 6000, 70_000])
@pytest.mark.parametrize("name", NAMES)
def test_rows_of_any_length(name: str, cols: int) -> None:
    generator = np.random.default_rng(cols)
    values = generator.standard_normal((5, cols), np.float32)
    words = {
        "float32": lambda: values.view(np.uint32),
        "bfloat16": lambda: (values.view(np.uint32) >> 16).astype(np.uint16),
        "float16": lambda: values.astype(np.float16).view(np.uint16),
        "float8_e4m3fn": lambda: generator.integers(0, 120, (5, cols), np.uint8),
        "float8_e5m2": lambda: generator.integers(0, 120, (5, cols), np.uint8),
    }[name]()
    close = 1e-12 if name == "float32" else 2e-6
    assert list(loops(name)(words.tobytes(), 5)) == pytest.approx(exact(words, name), rel=close)


@pytest.mark.parametrize("name", NAMES)
def test_long_rows_that_cannot_be_divided_are_left_to_numpy(name: str) -> None:
    """As float32 sums grow, rounding errors of equal numbers add up; float32 is summed in float64."""
    words = np.full((2, 4099 * DTYPES[name].bits // 8), 0x3C, np.uint8)
    assert (compiled.squares_of_data(name, words.tobytes(), 2) is None) == (name != "float32")


@pytest.mark.parametrize("exponent", [-149, -140, -126, -60, 0, 60, 127])
def test_float32_of_any_size(exponent: int) -> None:
    values = np.full((2, 100), 2.0**exponent, np.float32)
    assert list(loops("float32")(values.tobytes(), 2)) == pytest.approx([100 * 4.0**exponent] * 2, rel=1e-12)


@batched("place", [0, 1, 15, 16, 31, 32, 63, 64, 66, 255, 256, 299])
@pytest.mark.parametrize(
    ("name", "word"),
    [
        *(("float32", 0x7F800000), ("float32", 0xFFC00001), ("bfloat16", 0x7F80), ("bfloat16", 0xFFC1)),
        *(("float16", 0x7C00), ("float16", 0xFC01), ("float8_e4m3fn", 0xFF)),
        *(("float8_e5m2", 0x7C), ("float8_e5m2", 0xFD)),
    ],
)
def test_what_is_not_finite_is_noticed_anywhere(name: str, word: int, place: int) -> None:
    words = np.zeros((3, 300), word_type(name))
    words[1, place] = word
    assert np.isfinite(list(loops(name)(words.tobytes(), 3))).tolist() == [True, False, True]


def lies(data: bytes, rows: int) -> memoryview:
    """As numkong 7.8 summed float8_e5m2 on some processors: what is not finite is a large number to it."""
    words = np.frombuffer(data, np.uint16).reshape(rows, -1)
    with np.errstate(invalid="ignore"):
        values = numbers(words, DTYPES["float16"])[0].astype(np.float64)
    return memoryview(np.square(np.nan_to_num(values, nan=1e5, posinf=1e5, neginf=1e5)).sum(axis=-1))


def test_loops_that_are_wrong_are_not_used() -> None:
    right = loops("float16")
    assert compiled._is_right(right, "float16")
    assert not compiled._is_right(lies, "float16")
    assert not compiled._is_right(
        lambda data, rows: memoryview(array("d", (one * (1 + 1e-6) for one in right(data, rows)))), "float16"
    )
    cut = compiled._WIDE - 1
    assert not compiled._is_right(
        lambda data, rows: right(np.frombuffer(data, np.uint16).reshape(rows, -1)[:, :cut].tobytes(), rows), "float16"
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_values_of_words_are_those_of_numpy(name: str) -> None:
    data = b"".join(compiled._patterns(name))
    with np.errstate(invalid="ignore"):
        known = numbers(np.frombuffer(data, word_type(name))[None], DTYPES[name])[0][0].astype(np.float64)
    np.testing.assert_array_equal(np.array(compiled._values(data, name)), known)
    assert (~np.isfinite(known)).sum() >= 2


ODD: dict[str, Sequence[float]] = {
    "zeros": [0, 0, 0, 0],
    "a zero that has a sign": [0, -0.0, 0, 0],
    "small": [1e-30, 2e-30, 0, 1e-30],
    "subnormal": [1e-42, 1e-45, 0, 0],
    "large": [3e38, -3e38, 3e38, 1],
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_rows_that_need_a_closer_look(kind: str, name: str, tmp_path: Path) -> None:
    tensor = torch.tensor([[1, 2, 3, 4], ODD[kind]]).to(getattr(torch, name))
    save_file({"w": tensor}, tmp_path / "w.safetensors")
    with open_checkpoint(tmp_path / "w.safetensors") as checkpoint:
        (found,) = norms.stream([norms.StreamRequest(plain(checkpoint.tensors["w"]), "out_in")], lambda _: None)
    assert found is not None
    assert list(found.squares) == pytest.approx(tensor.double().square().sum(1).tolist(), rel=1e-6, abs=0)


SCRIPT = """
import sys
sys.argv[1:] = {words}
from qkvinspect.cli import startup, main
startup.prepare(sys.argv[1:])
code = main()
print([name for name in ("numpy", "numkong") if name in sys.modules], file=sys.stderr)
"""


@pytest.mark.parametrize("dtype", NAMES)
def test_show_needs_no_numpy_where_heads_are_known(dtype: str, tmp_path: Path) -> None:
    """And finds the norms that it finds with numpy."""
    torch.manual_seed(0)
    state = {"a.in_proj_weight": torch.randn(48, 16).to(getattr(torch, dtype)), "a.in_proj_bias": torch.zeros(48)}
    save_file(state, tmp_path / "m.safetensors")
    words = ["show", str(tmp_path / "m.safetensors"), "--heads", "4", "--no-evidence", "--format", "json"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(words=words)], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines()[-1] == "['numkong']"
    (attention,) = json.loads(done.stdout)["attentions"]
    for part, rows in zip("qkv", state["a.in_proj_weight"].double().chunk(3), strict=True):
        expected = [head.norm().item() for head in rows.chunk(4)]
        assert [head["norm"] for head in attention[part]["heads"]] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("add", ["right", "wrong", "missing"])
def test_columns_are_added_as_python_adds_them(add: str, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = [memoryview(np.random.default_rng(seed).random(100))[seed % 2 : 80 : 2] for seed in range(9)]
    adders = {"right": numkong.add, "wrong": lambda one, other: memoryview(np.add(one, other) * 1.1)}
    found = SimpleNamespace(add=adders[add]) if add in adders else SimpleNamespace()
    monkeypatch.setattr(compiled, "import_module", lambda _: found)
    compiled._add.cache_clear()
    try:
        assert (compiled._add() is not None) is (add == "right")
        assert [*compiled.added(columns)] == [sum(some) for some in zip(*columns, strict=True)]
        assert [*compiled.added(columns[:1])] == [*columns[0]]
    finally:
        compiled._add.cache_clear()
