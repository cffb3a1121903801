"""Kv heads that are repeated in a file which does not tell the number of heads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qkvinspect import check
from tests.diff.test_heads import nf4
from tests.some import crossed

LAYERS, WIDTH = 3, 128
State = dict[str, torch.Tensor]


def each_repeated(rows: int, each: int) -> Callable[[], torch.Tensor]:
    """Blocks of so many rows, each written so often."""
    kept = WIDTH // each // rows
    return lambda: torch.randn(kept, rows, WIDTH).repeat_interleave(each, 0).reshape(WIDTH, WIDTH)


def all_repeated(each: int) -> Callable[[], torch.Tensor]:
    """All kv heads, one after the other, and that so often."""
    return lambda: torch.randn(WIDTH // each, WIDTH).repeat(each, 1)


def trained(made: Callable[[], torch.Tensor], parts: str = "kv", dtype: torch.dtype = torch.float32) -> State:
    return {
        name(layer, part): ((made() if part in parts else torch.randn(WIDTH, WIDTH)) * 0.1).to(dtype)
        for layer in range(LAYERS)
        for part in "qkvo"
    }


def name(layer: int, part: str) -> str:
    return f"model.layers.{layer}.self_attn.{part}_proj.weight"


def said(state: State, path: Path, heads: tuple[str, ...] = ()) -> list[tuple[str, str | None, str]]:
    save_file({name: value.contiguous() for name, value in state.items()}, path / "model.safetensors")
    found = check(path / "model.safetensors", heads=heads)
    return [(one.code, one.layer, one.message) for one in found if one.code in ("equal-heads", "damaged-block")]


ONE = "one kv head or several"


@crossed(
    made=[
        (each_repeated(16, 2), "4 kv heads, each written 2 times"),
        (each_repeated(16, 4), "2 kv heads, each written 4 times"),
        (each_repeated(32, 2), "2 kv heads, each written 2 times"),
        (each_repeated(32, 4), f"{ONE}, each written 4 times"),
        (each_repeated(64, 2), f"{ONE}, each written 2 times"),
        (all_repeated(4), f"{ONE}, each written 4 times"),
    ],
    parts=["k", "v", "kv"],
    dtype=[torch.float32, torch.float16],
)
def test_they_are_told_with_their_number_and_are_no_damage(
    made: tuple[Callable[[], torch.Tensor], str], parts: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    found = said(trained(made[0], parts, dtype), tmp_path)
    assert sorted(found) == [
        ("equal-heads", f"model.layers.{layer}.self_attn", f"the heads of {part.upper()} are {made[1]}")
        for layer in range(LAYERS)
        for part in parts
    ]


def test_k_and_v_of_one_layer_tell_it_and_one_of_them_alone_is_damaged(tmp_path: Path) -> None:
    state = trained(each_repeated(32, 2), parts="")
    for part in "kv":
        state[name(1, part)] = each_repeated(32, 2)()
    words = "the heads of {} are 2 kv heads, each written 2 times"
    layer = "model.layers.1.self_attn"
    assert said(state, tmp_path) == [("equal-heads", layer, words.format(part)) for part in "KV"]
    state[name(1, "v")] = torch.randn(WIDTH, WIDTH)
    assert [code for code, _, _ in said(state, tmp_path)] == ["damaged-block"] * 2


def test_a_layer_that_is_broken_in_one_place_has_no_more_copies_than_the_others(tmp_path: Path) -> None:
    """What is damaged there is the rest; a copy of another kv head is one."""
    state = trained(each_repeated(16, 2))
    key = state[name(1, "k")]
    key[16:32] = torch.randn(16, WIDTH)
    found = said(state, tmp_path)
    assert len(found) == 2 * LAYERS - 1
    assert {code for code, _, _ in found} == {"equal-heads"}
    key[16:32] = key[64:80]
    (damage,) = [message for code, _, message in said(state, tmp_path) if code == "damaged-block"]
    assert damage.startswith("bytes 32768:40960 of k_proj.weight (K) are those of bytes 8192:16384")


def test_rows_of_fused_weights_are_counted_from_where_the_part_begins(tmp_path: Path) -> None:
    made = each_repeated(32, 2)
    state = {
        f"layers.{layer}.self_attn.in_proj_weight": torch.cat([torch.randn(WIDTH, WIDTH), made(), made()])
        for layer in range(LAYERS)
    }
    assert [message for _, _, message in said(state, tmp_path)] == [
        f"the heads of {part} are 2 kv heads, each written 2 times" for _ in range(LAYERS) for part in "KV"
    ]


@pytest.mark.parametrize("heads", [(), ("8",)])
def test_codes_of_four_bits_are_told_by_what_they_stand_for(heads: tuple[str, ...], tmp_path: Path) -> None:
    """As bitsandbytes has them, in one column of bytes."""
    state = trained(each_repeated(16, 2))
    held = {name: one for key, value in state.items() for name, one in nf4(key.removesuffix(".weight"), value).items()}
    assert {(code, message) for code, _, message in said(held, tmp_path, heads)} == {
        ("equal-heads", f"the heads of {part} are 4 kv heads, each written 2 times") for part in "KV"
    }


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_a_part_of_one_value_has_no_heads(value: float, tmp_path: Path) -> None:
    assert said(trained(lambda: torch.full((WIDTH, WIDTH), value)), tmp_path) == []
