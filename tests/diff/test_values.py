"""Values: what counts as rounding in every dtype, NaN and infinities, the numbers, tensors of any form."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.torch import save_file

from qkvinspect.diff.difference import Comparison
from qkvinspect.diff.ordered_rows import TILE
from qkvinspect.diff.parts import whole
from qkvinspect.diff.tally import compare
from qkvinspect.dtypes import DTYPES
from qkvinspect.formats import open_checkpoint
from qkvinspect.weights.rounding import rounded
from qkvinspect.weights.weight import plain
from tests.some import tried

NARROW = ("float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")


def compared(folder: Path, a: torch.Tensor, b: torch.Tensor, tolerance: float | None = None) -> Comparison:
    torch.save({"a": a, "b": b}, folder / "x.pt")
    with open_checkpoint(folder / "x.pt") as checkpoint:
        one, other = checkpoint.tensors["a"], checkpoint.tensors["b"]
        return compare(whole(plain(one)), whole(plain(other)), (), tolerance, lambda _: None)[0]


@pytest.mark.parametrize("name", NARROW)
@tried(given(values=arrays(np.float32, 50, elements=st.floats(width=32, allow_nan=False))), few=15, many=60)
def test_rounding_is_that_of_torch(name: str, values: np.ndarray) -> None:
    theirs = torch.from_numpy(values).to(getattr(torch, name)).to(torch.float32).numpy()
    ours = rounded(values, DTYPES[name])
    kept = np.isfinite(ours)  # what is too large is never called rounding, also where torch puts the largest
    assert np.array_equal(ours[kept], theirs[kept])
    assert (np.abs(values[~kept]) > torch.finfo(getattr(torch, name)).max).all()


@pytest.mark.parametrize("name", NARROW[1:])
def test_every_value_of_a_type_and_the_middles_between_them_round_as_in_torch(name: str) -> None:
    dtype = getattr(torch, name)
    size = 16 if name.endswith("16") else 8
    every = torch.arange(1 << size).to(torch.int32).to(getattr(torch, f"uint{size}")).view(dtype).to(torch.float32)
    values = every[every.isfinite()].unique()
    values = torch.cat([values, (values[1:] + values[:-1]) / 2]).numpy()
    theirs = torch.from_numpy(values).to(dtype).to(torch.float32).numpy()
    kept = np.isfinite(theirs)
    assert np.array_equal(rounded(values, DTYPES[name])[kept], theirs[kept])


@pytest.mark.parametrize("wide", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("narrow", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_a_cast_is_rounding_in_both_directions(tmp_path: Path, wide: torch.dtype, narrow: torch.dtype) -> None:
    a = (torch.randn(40, 30, dtype=torch.float64) / 8).to(wide)
    b = a.to(narrow)
    b[3, 4] = a[3, 4] = math.nan
    for one, other in ((a, b), (b, a)):
        found = compared(tmp_path, one, other)
        assert found.status == ("identical" if wide == narrow else "rounding")
    nearest = b.clone()
    nearest[2, 17] = 10
    found = compared(tmp_path, a, nearest)
    assert (found.status, found.changed) == ("changed", 1)
    assert found.largest is not None
    assert (found.largest.row, found.largest.column) == (2, 17)


def test_the_numbers_are_those_of_torch(tmp_path: Path) -> None:
    a = torch.randn(700, 900)  # more than one tile
    assert a.numel() > 2 * TILE
    b = a + 0.01 * torch.randn_like(a)
    b[:350] = a[:350]
    found = compared(tmp_path, a, b)
    x, y = a.double(), b.double()
    assert found.relative_l2 == pytest.approx(float((y - x).norm() / x.norm()), rel=1e-9)
    assert found.max_difference == pytest.approx(float((y - x).abs().max()), rel=1e-12)
    assert found.cosine == pytest.approx(float((x * y).sum() / (x.norm() * y.norm())), rel=1e-9)
    assert (found.changed, found.count) == (int((a != b).sum()), a.numel())
    assert found.largest is not None
    assert (found.largest.row, found.largest.column) == divmod(int((y - x).abs().argmax()), 900)


def test_a_number_that_became_infinite_is_changed_not_rounded(tmp_path: Path) -> None:
    a = torch.tensor([[1.0, 70000.0], [2.0, 3.0]])
    found = compared(tmp_path, a, a.half())
    assert (found.status, found.changed, found.nonfinite) == ("changed", 1, 1)
    assert found.largest is not None
    assert (found.largest.a, found.largest.b) == (70000, math.inf)
    assert compared(tmp_path, a, a.half(), tolerance=1e9).status == "changed"


def test_a_nan_on_one_side_is_named_before_any_other_value(tmp_path: Path) -> None:
    a = torch.ones(5, 7)
    b = a.clone()
    b[1, 2], b[4, 6] = 100, math.nan
    found = compared(tmp_path, a, b)
    assert (found.changed, found.nonfinite, found.max_difference) == (2, 1, 99)
    assert found.largest is not None
    assert (found.largest.row, found.largest.column) == (4, 6)
    assert math.isnan(found.largest.b)


def test_zeros_of_another_sign_and_other_nans_have_the_same_value(tmp_path: Path) -> None:
    a = torch.tensor([[0.0, 1.0]])
    assert compared(tmp_path, a, -a * torch.tensor([[1.0, -1.0]])).status == "rounding"
    payload = torch.tensor([[0x7FC00001, 0x3F800000]], dtype=torch.int32).view(torch.float32)
    assert compared(tmp_path, torch.tensor([[math.nan, 1.0]]), payload).status == "rounding"


def test_integers_are_compared_bit_for_bit(tmp_path: Path) -> None:
    a = torch.tensor([[2**53, 5]])
    assert compared(tmp_path, a, a + torch.tensor([[1, 0]])).status == "changed"
    assert compared(tmp_path, a.to(torch.int32) * 0 + 5, a * 0 + 5).status == "rounding"


def test_complex_values_are_compared(tmp_path: Path) -> None:
    a = torch.randn(4, 6, dtype=torch.complex64)
    b = a.clone()
    b[2, 3] += 1j
    found = compared(tmp_path, a, b)
    assert (found.changed, found.max_difference) == (1, pytest.approx(1))
    assert found.largest is not None
    assert (found.largest.row, found.largest.column) == (2, 3)


@pytest.mark.parametrize("real", [torch.float32, torch.float64, torch.bfloat16])
def test_real_values_are_complex_ones_without_imaginary_parts(real: torch.dtype, tmp_path: Path) -> None:
    a = torch.randn(4, 6).to(real)
    b = a.to(torch.complex64)
    assert compared(tmp_path, a, a.to(torch.complex128)).status == "rounding"
    for one, other in ((a, b), (b, a)):
        found = compared(tmp_path, one, other)
        assert (found.status, found.changed, found.count) == ("rounding", 0, 48)
    b[2, 3] += 1j
    for one, other in ((a, b), (b, a)):
        found = compared(tmp_path, one, other)
        assert (found.changed, found.max_difference) == (1, pytest.approx(1))
        assert found.largest is not None
        assert (found.largest.row, found.largest.column) == (2, 3)


@pytest.mark.parametrize("real", ["q", "qkvo", "o"])
def test_layers_of_which_one_is_complex_are_compared(real: str, tmp_path: Path, run) -> None:
    norm = "layers.0.input_layernorm.weight"
    sides: list[dict[str, torch.Tensor]] = [{norm: torch.ones(64)}, {norm: torch.linspace(0.5, 2, 64)}]
    for part in "qkvo":
        whole = torch.randn(64, 64, dtype=torch.complex64)
        for side in sides:
            side[f"layers.0.self_attn.{part}_proj.weight"] = whole.clone()
            whole = whole.real.contiguous() if part in real else whole
    for number, side in enumerate(sides):
        save_file(side, tmp_path / f"{number}.safetensors")
    for order in ((0, 1), (1, 0), (1, 1)):
        files = (tmp_path / f"{number}.safetensors" for number in order)
        found = run("diff", *files, "--heads", "4", "-f", "json")
        assert found.err == ""
        (layer,) = found.json()["layers"]
        assert layer["status"] == ("identical" if order == (1, 1) else "changed")


def test_the_tolerance_is_the_largest_relative_difference_that_is_the_same(tmp_path: Path) -> None:
    a = torch.ones(10, 10)
    assert compared(tmp_path, a, a * 1.01, tolerance=0.011).status == "tolerated"
    assert compared(tmp_path, a, a * 1.01, tolerance=0.009).status == "changed"


FORMS = {
    "no axes": lambda: torch.tensor(3.5),
    "empty": lambda: torch.empty(0, 4),
    "one axis": lambda: torch.randn(9),
    "four axes": lambda: torch.randn(4, 3, 2, 2),
    "channels last": lambda: torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last),
    "transposed": lambda: torch.randn(5, 8).T,
    "every second": lambda: torch.randn(8, 10)[::2, ::2],
    "integers": lambda: torch.arange(12).view(3, 4),
    "booleans": lambda: torch.tensor([[False, False]]),
}


@pytest.mark.parametrize("one", FORMS)
def test_tensors_of_any_form_are_compared(run, tmp_path: Path, one: str) -> None:
    tensor = FORMS[one]()
    torch.save({"x": tensor, "y": tensor}, tmp_path / "a.pt")
    torch.save({"x": tensor.contiguous(), "y": tensor}, tmp_path / "b.pt")
    assert run("diff", tmp_path / "a.pt", tmp_path / "b.pt").code == 0
    if tensor.numel():
        other = tensor.clone()
        other[(-1,) * other.ndim] = 7
        torch.save({"x": other.contiguous(), "y": other}, tmp_path / "b.pt")
        found = run("diff", tmp_path / "a.pt", tmp_path / "b.pt", "-f", "json")
        assert [entry["a"] for entry in found.json()["others"]["tensors"]] == ["x", "y"]


VIEWS = {
    "of three axes": lambda: torch.randn(4, 3, 2).permute(2, 0, 1),
    "of three axes, the first two": lambda: torch.randn(4, 3, 2).transpose(0, 1),
    "with gaps": lambda: torch.randn(4, 3, 6, 4)[:, :, ::2].permute(3, 0, 2, 1),
    "channels last": lambda: torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last),
    "complex": lambda: torch.randn(4, 3, 2, dtype=torch.complex64).permute(2, 0, 1),
}


@pytest.mark.parametrize("view", VIEWS)
def test_one_changed_value_of_a_view_is_a_change_however_both_lie(run, tmp_path: Path, view: str) -> None:
    a = VIEWS[view]()
    for place in ((0,) * a.ndim, tuple(size - 1 for size in a.shape)):
        alike, dense = a.clone(), a.contiguous()
        assert alike.stride() != dense.stride()
        for other in (alike, dense):
            torch.save({"x": a}, tmp_path / "a.pt")
            torch.save({"x": other}, tmp_path / "b.pt")
            assert run("diff", tmp_path / "a.pt", tmp_path / "b.pt").code == 0
            other[place] += 3
            torch.save({"x": other}, tmp_path / "b.pt")
            for pair in (("a.pt", "b.pt"), ("b.pt", "a.pt")):
                found = run("diff", *(tmp_path / name for name in pair), "-f", "json")
                assert found.code == 1
                (entry,) = found.json()["others"]["tensors"]
                assert (entry["a"], entry["status"]) == ("x", "changed")


def test_rows_that_end_within_a_byte_are_compared_as_bytes(run, tmp_path: Path) -> None:
    header = b'{"x":{"dtype":"F4","shape":[2,3,2],"data_offsets":[0,6]}}'
    for name, data in (("a", bytes(range(6))), ("b", bytes(range(5)) + b"\x07"), ("c", bytes(range(6)))):
        content = len(header).to_bytes(8, "little") + header + data
        (tmp_path / f"{name}.safetensors").write_bytes(content)
    assert run("diff", tmp_path / "a.safetensors", tmp_path / "c.safetensors").code == 0
    assert run("diff", tmp_path / "a.safetensors", tmp_path / "b.safetensors").code == 1


@pytest.mark.parametrize("shape", [[2, 3, 2], [3, 4], [4, 3]], ids=str)
@pytest.mark.parametrize("other", [0, 7])
def test_rows_of_half_bytes_are_compared(shape: list[int], other: int, run, tmp_path: Path) -> None:
    """Also where they end within one."""
    header = json.dumps({"x": {"dtype": "F4", "shape": shape, "data_offsets": [0, 6]}}).encode()
    for name, last in (("a", 0), ("b", other)):
        content = len(header).to_bytes(8, "little") + header + bytes(5) + bytes([last])
        (tmp_path / f"{name}.safetensors").write_bytes(content)
    found = run("diff", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "-f", "json")
    assert (found.code, found.json()["others"]["identical"]) == ((1, 0) if other else (0, 1))


def test_numbers_that_begin_within_a_byte_are_not_compared_with_permuted_ones(run, tmp_path: Path) -> None:
    torch.save({"x": torch.randn(4, 3, 3).permute(2, 1, 0)}, tmp_path / "a.pt")
    header = json.dumps({"x": {"dtype": "F4", "shape": [3, 3, 4], "data_offsets": [0, 18]}}).encode()
    (tmp_path / "b.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(range(18)))
    for sides in ((tmp_path / "a.pt", tmp_path / "b.safetensors"), (tmp_path / "b.safetensors", tmp_path / "a.pt")):
        found = run("diff", *sides)
        assert found.code == 2
        assert "cannot be compared" in found.err


def test_floats_narrower_than_a_byte_are_compared(tmp_path: Path, run) -> None:
    header = b'{"x":{"dtype":"F4","shape":[2,8],"data_offsets":[0,8]}}'
    for name, data in (("a", bytes(range(8))), ("b", bytes(7) + b"\x07"), ("c", bytes(range(8)))):
        content = len(header).to_bytes(8, "little") + header + data
        (tmp_path / f"{name}.safetensors").write_bytes(content)
    assert run("diff", tmp_path / "a.safetensors", tmp_path / "c.safetensors").code == 0
    found = run("diff", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "-f", "json")
    assert found.code == 1
    assert found.json()["others"]["tensors"][0]["values_changed"] == 6


@pytest.mark.gate
def test_memory_does_not_grow_with_the_checkpoint(tmp_path: Path) -> None:
    import tracemalloc

    from qkvinspect.diff import compare as compare_reports
    from qkvinspect.inspection import Options, inspect

    peaks = []
    for rows in (761, 1531):  # four times the bytes; primes, so that few numbers of heads are possible
        a = {"l.0.in_proj_weight": torch.randn(3 * rows, rows), "other": torch.randn(rows, rows)}
        save_file(a, tmp_path / "a.safetensors")
        save_file({name: (tensor + 1).bfloat16() for name, tensor in a.items()}, tmp_path / "b.safetensors")
        with open_checkpoint(tmp_path / "a.safetensors") as one, open_checkpoint(tmp_path / "b.safetensors") as other:
            reports = [inspect(checkpoint, Options(norms=False)) for checkpoint in (one, other)]
            tracemalloc.start()
            assert not compare_reports(*reports).same
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert max(peaks) < 40_000_000
    assert peaks[1] < 1.25 * peaks[0]


def test_zeros_on_both_sides_are_no_difference_of_any_size(tmp_path: Path) -> None:
    found = compared(tmp_path, torch.zeros(4, 4), torch.zeros(4, 4) * -1)
    assert (found.status, found.relative_l2, found.max_difference, found.cosine) == ("rounding", 0, 0, None)
    assert not found.emptied
    assert compared(tmp_path, torch.zeros(4, 4), torch.zeros(4, 4)).relative_l2 == 0
    grown = compared(tmp_path, torch.zeros(4, 4), torch.eye(4))
    assert (grown.status, grown.relative_l2, grown.emptied) == ("changed", math.inf, False)


def test_float4_in_pairs_as_torch_has_it_is_that_of_safetensors(tmp_path: Path, run: Any) -> None:
    """safetensors counts numbers, torch pairs of them: the bytes are the same."""
    names = [f"layers.0.self_attn.{part}_proj.weight" for part in "qkvo"]
    header = {
        name: {"dtype": "F4", "shape": [16, 16], "data_offsets": [128 * number, 128 * number + 128]}
        for number, name in enumerate(names)
    }
    text = json.dumps(header).encode()
    data = bytes(number * 37 % 256 for number in range(512))
    (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    assert run("export", "--all", "--split", tmp_path / "a.safetensors", "-o", tmp_path / "b.pt").code == 0
    result = run("diff", tmp_path / "a.safetensors", tmp_path / "b.pt")
    assert (result.code, result.out.splitlines()[-1]) == (0, "same: 1 layer (1 identical)")
    state = torch.load(tmp_path / "b.pt")
    state[names[1]].view(torch.uint8)[3, 2] ^= 1
    torch.save(state, tmp_path / "c.pt")
    assert run("diff", tmp_path / "a.safetensors", tmp_path / "c.pt").code == 1


def test_a_layer_that_has_no_v_is_compared(run, tmp_path: Path) -> None:
    """Layers of some models take V from elsewhere: Zaya's projections are of Q and K alone."""
    state = {f"model.layers.0.self_attn.{part}_proj.weight": torch.randn(32, 32) for part in "qko"}
    save_file(state, tmp_path / "a.safetensors")
    state["model.layers.0.self_attn.q_proj.weight"][3, 4] += 1
    save_file(state, tmp_path / "b.safetensors")
    layout = ("--layout", "model.layers.0.self_attn=zaya", "--heads", "4")
    found = run("diff", tmp_path / "a.safetensors", tmp_path / "b.safetensors", *layout, "-f", "json")
    assert found.code == 1, found.err
    (layer,) = found.json()["layers"]
    assert {part["part"]: part["status"] for part in layer["parts"]} == {"q": "changed", "k": "identical"}
