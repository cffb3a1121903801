"""Scales that AutoAWQ's own functions moved into the norm and into V are undone before the sides are compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qkvinspect.diff import moved_scales

FOLDER = Path(__file__).parent / "moved_scales"
LAYER = "model.layers.0"
NORM = f"{LAYER}.input_layernorm.weight"
HEADS = ("--heads", "8", "--no-evidence")
State = dict[str, torch.Tensor]


@pytest.fixture
def compared(tmp_path: Path, run):
    def ask(a: State, b: State):
        save_file(a, tmp_path / "a.safetensors")
        save_file(b, tmp_path / "b.safetensors")
        found = run("diff", tmp_path / "a.safetensors", tmp_path / "b.safetensors", *HEADS, "-f", "json").json()
        (layer,) = found["layers"]
        scaled = [one["message"] for one in layer["relations"] if one["code"] == "columns-scaled"]
        return found, layer, scaled

    return ask


def state(name: str) -> State:
    return load_file(FOLDER / f"{name}.safetensors")


@pytest.mark.parametrize(
    ("a", "b"),
    [("original", "awq"), ("awq", "original"), ("original", "smooth"), ("smooth", "original"), ("smooth", "awq"),
     ("original-gemma", "gemma")],
)  # fmt: skip
def test_nothing_but_rounding_is_left(a: str, b: str, compared) -> None:
    found, layer, scaled = compared(state(a), state(b))
    assert layer["status"] == "rounding"
    assert any("within its rounding in 1 of 1" in note for note in found["notes"]) == ("awq" in a + b)
    if {a, b} == {"smooth", "awq"}:
        assert not scaled
        return
    assert [f"which {NORM} takes back" in scaled[0], "which the rows of V take back" in scaled[1]] == [True, True]


def test_errors_of_heads_are_those_without_the_scales(compared) -> None:
    """Of QK, whose columns have the scales twice, and of OV, where those of V's rows and of the output cancel."""
    found, _, _ = compared(state("original"), state("smooth"))
    assert len(found["losses"]) == 0  # nothing is quantised
    found, _, _ = compared(state("original"), state("awq"))
    assert all(0.05 < loss["errors"][name] < 0.5 for loss in found["losses"] for name in ("q", "k", "v", "qk", "ov"))


@pytest.mark.parametrize(("part", "row", "head"), [("q", 34, 4), ("k", 19, 2), ("v", 7, 0)])
def test_damage_is_seen_through_the_scales(part: str, row: int, head: int, compared) -> None:
    after = state("awq")
    after[f"{LAYER}.self_attn.{part}_proj.scales"][0, row] *= 2
    found, layer, scaled = compared(state("original"), after)
    assert layer["status"] == "changed"
    assert len(scaled) == 2
    assert found["losses"][0]["head"] == head
    assert found["losses"][0]["values_beyond_rounding"] > 0
    assert all(loss["values_beyond_rounding"] == 0 for loss in found["losses"][1:])


def test_columns_that_nothing_takes_back(compared) -> None:
    after = {**state("smooth"), NORM: state("original")[NORM]}
    _, layer, scaled = compared(state("original"), after)
    assert layer["status"] == "changed"
    assert "which no norm of both files takes back" in scaled[0]


def test_a_norm_that_is_not_there(compared) -> None:
    before, after = ({name: one for name, one in state(side).items() if "self_attn" in name}
                     for side in ("original", "smooth"))  # fmt: skip
    _, layer, scaled = compared(before, after)
    assert layer["status"] == "changed"
    assert "which no norm of both files takes back" in scaled[0]


def test_a_norm_that_went_another_way_explains_nothing(compared) -> None:
    after = state("original")
    after[NORM] = after[NORM] * torch.linspace(0.5, 2, 64)
    _, layer, scaled = compared(state("original"), after)
    assert (layer["status"], scaled) == ("identical", [])
    after[f"{LAYER}.self_attn.q_proj.weight"] += 0.3 * torch.randn(64, 64)
    _, layer, scaled = compared(state("original"), after)
    assert (layer["status"], scaled) == ("changed", [])


def test_trained_on(compared) -> None:
    """Everything moved a little, the norm too: nothing is said of scales."""
    generator = torch.Generator().manual_seed(1)
    after = {name: one * (1 + 0.1 * torch.randn(one.shape, generator=generator)) for name, one in
             state("original").items()}  # fmt: skip
    _, layer, scaled = compared(state("original"), after)
    assert (layer["status"], scaled) == ("changed", [])


def test_latent_attention_whose_k_and_v_take_in_less_than_q(tmp_path: Path, run) -> None:
    """DeepSeek-V2-Lite: Q is made of the hidden state, K and V of what they share; no norm goes before all three."""
    heads, nope, rope, wide, latent, width = 4, 16, 8, 24, 32, 64
    config = {"model_type": "deepseek_v2", "num_attention_heads": heads, "num_key_value_heads": heads,
              "hidden_size": width, "qk_nope_head_dim": nope, "qk_rope_head_dim": rope, "v_head_dim": wide,
              "kv_lora_rank": latent, "q_lora_rank": None}  # fmt: skip
    rows = {"q_proj": (heads * (nope + rope), width), "kv_a_proj_with_mqa": (latent + rope, width),
            "kv_b_proj": (heads * (nope + wide), latent), "o_proj": (width, heads * wide)}  # fmt: skip
    torch.manual_seed(0)
    before = {f"{LAYER}.self_attn.{name}.weight": torch.randn(shape) for name, shape in rows.items()}
    before[f"{LAYER}.self_attn.kv_a_layernorm.weight"] = torch.ones(latent)
    for side, dtype in (("a", torch.float32), ("b", torch.float16)):
        (tmp_path / side).mkdir()
        save_file({name: one.to(dtype) for name, one in before.items()}, tmp_path / side / "model.safetensors")
        (tmp_path / side / "config.json").write_text(json.dumps(config))
    for sides in ("ab", "ba"):
        found = run("diff", *(tmp_path / side for side in sides), "-f", "json")
        assert found.err == ""
        (layer,) = found.json()["layers"]
        assert {part["part"]: part["status"] for part in layer["parts"]}["q"] == "rounding"


@pytest.mark.parametrize("changed", [None, "q", "k", "v"])
def test_equal_bytes_are_not_made_numbers_of(changed: str | None, compared, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[object] = []
    corner = moved_scales._corner
    monkeypatch.setattr(moved_scales, "_corner", lambda lines: looked.append(lines) or corner(lines))
    a, b = state("original"), state("original")
    if changed is not None:
        b[f"{LAYER}.self_attn.{changed}_proj.weight"][0, 0] += 1
    _, layer, scaled = compared(a, b)
    assert layer["status"] == ("identical" if changed is None else "changed")
    assert bool(looked) == (changed is not None)
    assert not scaled
