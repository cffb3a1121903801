"""What quantisation did to each head: one damaged head of a quantised copy is the first that is named."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from qkvinspect.diff.fingerprint import _mixed
from qkvinspect.diff.head_losses import _over
from tests.some import first

State = dict[str, torch.Tensor]
HEADS, KV, DIM, WIDTH = 8, 4, 16, 128
ROWS = {"q": HEADS * DIM, "k": KV * DIM, "v": KV * DIM, "o": WIDTH}
COLS = {"q": WIDTH, "k": WIDTH, "v": WIDTH, "o": HEADS * DIM}
TRIALS = range(100)
NF4 = torch.tensor(
    [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
     -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
     0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]
)  # fmt: skip


def nf4(name: str, weight: torch.Tensor) -> State:
    """bitsandbytes' codes, blocks of 64, the high half of a byte first."""
    blocks = weight.reshape(-1, 64)
    absmax = blocks.abs().amax(dim=1)
    codes = ((blocks / absmax[:, None])[..., None] - NF4).abs().argmin(dim=-1).reshape(-1, 2)
    said = json.dumps({"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": list(weight.shape)})
    return {
        f"{name}.weight": (codes[:, 0] * 16 + codes[:, 1]).to(torch.uint8)[:, None],
        f"{name}.weight.absmax": absmax,
        f"{name}.weight.quant_map": NF4.clone(),
        f"{name}.weight.quant_state.bitsandbytes__nf4": torch.tensor(list(said.encode()), dtype=torch.uint8),
    }


def int8(name: str, weight: torch.Tensor) -> State:
    """compressed-tensors' int8 in groups of 64 columns."""
    groups = weight.reshape(len(weight), -1, 64)
    scale = groups.abs().amax(dim=2) / 127
    codes = (groups / scale[..., None]).round().to(torch.int8)
    return {f"{name}.weight": codes.reshape(weight.shape), f"{name}.weight_scale": scale}


def int4(name: str, weight: torch.Tensor) -> State:
    """compressed-tensors' pack-quantized: eight codes to an int32, groups of 64."""
    groups = weight.reshape(len(weight), -1, 64)
    scale = groups.abs().amax(dim=2) / 7
    codes = (groups / scale[..., None]).round().clamp(-8, 7).reshape(len(weight), -1, 8).long() + 8
    words = (codes << torch.arange(0, 32, 4)).sum(dim=2).numpy().astype(np.uint32).view(np.int32)
    return {
        f"{name}.weight_packed": torch.tensor(words),
        f"{name}.weight_scale": scale,
        f"{name}.weight_shape": torch.tensor(weight.shape),
    }


def with_feedback(weight: torch.Tensor, seed: int) -> torch.Tensor:
    """The numbers that GPTQ rounds: each column takes up the errors of those before it (arXiv 2210.17323, section 3).

    The scales are those of the weights as they were, as llm-compressor and others have them for whole groups.
    """
    work, cols = weight.clone(), weight.shape[1]
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(cols, cols, generator=generator) / cols**0.5
    inputs = torch.randn(1024, cols, generator=generator) @ (torch.eye(cols) + 0.6 * mixed)
    hessian = inputs.T @ inputs / len(inputs)
    hessian += 0.01 * hessian.diagonal().mean() * torch.eye(cols)
    upper = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    scale = weight.reshape(len(weight), -1, 64).abs().amax(dim=2) / 7
    for column in range(cols):
        step = scale[:, column // 64]
        rounded = (work[:, column] / step).round().clamp(-8, 7) * step
        error = (work[:, column] - rounded) / upper[column, column]
        work[:, column + 1 :] -= error[:, None] * upper[column, column + 1 :]
        work[:, column] = rounded
    return work


def float8(name: str, weight: torch.Tensor) -> State:
    """DeepSeek's float8, a scale for each 16 x 64 values."""
    blocks = weight.reshape(len(weight) // 16, 16, -1, 64)
    scale = blocks.abs().amax(dim=(1, 3)) / 448
    codes = (blocks / scale[:, None, :, None]).reshape(weight.shape).to(torch.float8_e4m3fn)
    return {f"{name}.weight": codes, f"{name}.weight_scale_inv": scale}


WAYS: dict[str, Callable[[str, torch.Tensor], State]] = {"nf4": nf4, "int8": int8, "int4": int4, "float8": float8}
SCALES = {"nf4": "weight.absmax", "int8": "weight_scale", "int4": "weight_scale", "float8": "weight_scale_inv"}
CODES = {"nf4": "weight", "int8": "weight", "int4": "weight_packed", "float8": "weight"}


def original(seed: int) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"l.{layer}.self_attn.{part}_proj.weight": torch.randn(ROWS[part], COLS[part], generator=generator)
        for layer in range(2)
        for part in "qkvo"
    }


def quantise(state: State, way: str) -> State:
    found: State = {}
    for name, weight in state.items():
        found |= WAYS[way](name.removesuffix(".weight"), weight)
    return found


def damage(state: State, way: str, layer: int, part: str, head: int, kind: str) -> None:
    """Change what is stored of a row in the middle of one head."""
    name = f"l.{layer}.self_attn.{part}_proj."
    row = head * DIM + DIM // 2
    scales = state[f"{name}{SCALES[way]}"]
    at = row // 16 if way == "float8" else row
    table = scales.reshape(-1, 2)  # a view: two groups a row of 128 columns
    if kind == "scale":
        table[at, 1] *= 1.7
    elif kind == "group":
        table[at, 0], table[at, 1] = table[at, 1] * 1.5, table[at, 0] * 0.6
    else:
        codes = state[f"{name}{CODES[way]}"]
        rows = codes.view(torch.uint8).reshape(ROWS[part], -1).numpy()
        rows[row] = (rows[row] << 4) | (np.roll(rows[row], -1) >> 4)
        if way == "float8":
            rows[row][(rows[row] & 0x7F) == 0x7F] = 0  # the codes of NaN


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_is_within_the_rounding_of_its_codes(way: str, tmp_path: Path, run) -> None:
    state = original(7)
    save_file(state, tmp_path / "a.safetensors")
    save_file(quantise(state, way), tmp_path / "b.safetensors")
    found = run("diff", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--heads", "8/4", "--no-evidence")
    assert found.code == 0, found.out
    assert "within its rounding in 2 of 2 layers" in found.out
    assert "Heads that lost most, relative errors (8 of 16):" in found.out


def test_rows_of_k_and_v_are_read_once_for_all_heads_that_share_them(tmp_path: Path, monkeypatch, run) -> None:
    state = original(5)
    save_file(state, tmp_path / "a.safetensors")
    save_file(quantise(state, "int4"), tmp_path / "b.safetensors")
    read: list[tuple[str, range]] = []
    module = sys.modules["qkvinspect.diff.head_losses"]  # a function of that name hides it
    rows = module._rows
    monkeypatch.setattr(module, "_rows", lambda lines, run: read.append((lines.weight.name, run)) or rows(lines, run))
    run("diff", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--heads", "8/4", "--no-evidence")
    assert len(read) == 2 * 2 * (8 + 4 + 4 + 8)  # layers, sides, heads of q, k, v and out
    assert max(read.count(one) for one in read) == 2  # A and B call their weights alike


@pytest.mark.parametrize("trial", first(12, TRIALS))
def test_the_damaged_head_is_first(trial: int, tmp_path: Path, run) -> None:
    """The first twelve are each way of encoding with each kind of damage."""
    choose = random.Random(trial)
    way, kind = list(WAYS)[trial % 4], ("scale", "nibble", "group")[trial % 3]
    layer, part = choose.randrange(2), choose.choice("qkv")
    head = choose.randrange(HEADS if part == "q" else KV)
    state = original(trial)
    copy = quantise(state, way)
    damage(copy, way, layer, part, head, kind)
    save_file(state, tmp_path / "a.safetensors")
    save_file(copy, tmp_path / "b.safetensors")
    found = run(
        "diff", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--heads", "8/4", "--no-evidence", "-f", "json"
    )
    assert found.code == 1
    losses = found.json()["losses"]
    first = losses[0]
    share = 1 if part == "q" else HEADS // KV
    assert (first["layer"], first["head"] // share) == (f"l.{layer}.self_attn", head), losses[:3]
    assert first["values_beyond_rounding"]
    assert all(not loss["values_beyond_rounding"] for loss in losses[share:])
    assert f"more than that in l.{layer}.self_attn" in " ".join(found.json()["notes"])


@pytest.mark.parametrize("trial", first(6, TRIALS))
def test_the_damaged_head_is_first_beside_parts_that_are_no_codes(trial: int, tmp_path: Path, run) -> None:
    """One part is kept in float16, of an original in bfloat16; the codes are nf4's, int8's, or real GPTQ's.

    The first six are each way of encoding with each kind of damage.
    """
    choose = random.Random(trial)
    way, kind, kept = ("gptq", "nf4", "int8")[trial % 3], ("scale", "group")[trial % 2], choose.choice("qkv")
    layer, part = choose.randrange(2), choose.choice([part for part in "qkv" if part != kept])
    head = choose.randrange(HEADS if part == "q" else KV)
    state = {name: (weight * 0.02).bfloat16() for name, weight in original(trial).items()}
    numbers = {name: weight.float() for name, weight in state.items() if f".{kept}_proj" not in name}
    if way == "gptq":
        numbers = {name: with_feedback(weight, trial) for name, weight in numbers.items()}
    stored = "int4" if way == "gptq" else way
    copy = quantise(numbers, stored)
    damage(copy, stored, layer, part, head, kind)
    copy |= {name: weight.half() for name, weight in state.items() if name not in numbers}
    save_file(state, tmp_path / "a.safetensors")
    save_file(copy, tmp_path / "b.safetensors")
    found = run(
        "diff", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--heads", "8/4", "--no-evidence", "-f", "json"
    )
    first = found.json()["losses"][0]
    share = 1 if part == "q" else HEADS // KV
    assert (first["layer"], first["head"] // share) == (f"l.{layer}.self_attn", head), found.json()["losses"][:3]


@pytest.mark.parametrize("kept", "qkv")
def test_the_rounding_of_a_part_that_was_kept_does_not_rank_heads(kept: str, tmp_path: Path, run) -> None:
    """The order is that of the losses of the codes: with the kept part equal bit for bit, it is the same."""
    state = {name: (weight * 0.02).bfloat16() for name, weight in original(11).items()}
    copy = quantise({name: weight.float() for name, weight in state.items() if f".{kept}_proj" not in name}, "int8")
    orders: list[list[tuple[str, int]]] = []
    for dtype in (torch.float16, torch.bfloat16):
        own = {name: weight.to(dtype) for name, weight in state.items() if f".{kept}_proj" in name}
        save_file(state, tmp_path / "a.safetensors")
        save_file(copy | own, tmp_path / "b.safetensors")
        files = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
        found = run("diff", *files, "--heads", "8/4", "--no-evidence", "-f", "json").json()["losses"]
        orders.append([(loss["layer"], loss["head"]) for loss in found])
    assert orders[0] == orders[1]


def test_the_errors_of_circuits_are_those_of_the_matrices(tmp_path: Path, run) -> None:
    state = original(3)
    save_file(state, tmp_path / "a.safetensors")
    save_file(quantise(state, "int4"), tmp_path / "b.safetensors")
    numbers: list[State] = [state, {}]
    for name, weight in state.items():
        groups = weight.reshape(len(weight), -1, 64)
        scale = groups.abs().amax(dim=2, keepdim=True) / 7
        numbers[1][name] = ((groups / scale).round().clamp(-8, 7) * scale).reshape(weight.shape)
    found = run(
        "diff", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--heads", "8/4", "--no-evidence", "-f", "json"
    )
    for loss in found.json()["losses"]:
        q, k, v, o = (
            [one[f"{loss['layer']}.{part}_proj.weight"].double() for one in numbers] for part in "qkvo"
        )  # fmt: skip
        head, kv = loss["head"], loss["head"] // 2
        mine, shared = slice(head * DIM, head * DIM + DIM), slice(kv * DIM, kv * DIM + DIM)
        products = {
            "qk": [a[mine].T @ b[shared] for a, b in zip(q, k, strict=True)],
            "ov": [a[:, mine] @ b[shared] for a, b in zip(o, v, strict=True)],
            "q": [one[mine] for one in q],
            "out": [one[:, mine] for one in o],
        }
        for name, (before, after) in products.items():
            assert loss["errors"][name] == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-5)


def test_how_far_an_error_is_over_the_usual_one() -> None:
    assert _over(3.0, 2.0, 0.1) == 1.5
    assert (_over(1.0, 0.0, 0.5), _over(0.0, 0.0, 0.5), _over(0.4, 0.1, 0.5)) == (2.0, 1.0, 1.0)
    assert (_over(float("nan"), 2.0, 0.1), _over(1.0, float("inf"), 0.1)) == (float("inf"), float("inf"))


def test_zeros_of_either_sign_have_one_fingerprint() -> None:
    zeros = np.array([0.0, -0.0], np.float32)
    one, other = _mixed(zeros)
    assert one == other
