"""Parts that are those of the other file times one number, and whether another part takes that back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

State = dict[str, torch.Tensor]
Q, K, V = slice(0, 32), slice(32, 64), slice(64, 96)


def model(*, bias: bool = False) -> State:
    layer = torch.nn.MultiheadAttention(32, 4, bias=bias)
    return {name: torch.randn_like(value) for name, value in layer.state_dict().items()}


@pytest.fixture
def told(tmp_path: Path, run: Any) -> Any:
    """What is said of the layer of two files, by code, and the statuses of the parts that differ."""

    def ask(a: State, b: State) -> tuple[list[tuple[str, str]], dict[str, str]]:
        for name, state in (("a", a), ("b", b)):
            save_file(state, tmp_path / f"{name}.safetensors")
        found = run("diff", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "-f", "json")
        assert found.err == ""
        (layer,) = found.json()["layers"]
        statuses = {part["part"]: part["status"] for part in layer["parts"] if part["status"] != "identical"}
        return [(one["code"], one["message"]) for one in layer["relations"]], statuses

    return ask


def times(state: State, factors: dict[str, float]) -> State:
    state = {name: value.clone() for name, value in state.items()}
    for part, factor in factors.items():
        if part == "out":
            state["out_proj.weight"] *= factor
        else:
            state["in_proj_weight"][{"q": Q, "k": K, "v": V}[part]] *= factor
    return state


V_TWICE = "V of B is that of A times 2"
SCALED = [
    ({"v": 2, "out": 0.5}, [f"{V_TWICE}, which the output projection, times 0.5, takes back"]),
    ({"v": -1, "out": -1}, ["V of B is that of A times -1, which the output projection, times -1, takes back"]),
    ({"v": -1}, ["V of B is that of A times -1"]),
    ({"v": 2}, [V_TWICE]),
    ({"v": 2, "out": 0.25}, [V_TWICE, "the output projection of B is that of A times 0.25"]),
    ({"q": 3, "k": 1 / 3}, ["Q of B is that of A times 3, which K, times 0.333, takes back"]),
    ({"q": 8**-0.5}, ["Q of B is that of A times 0.354"]),
    ({"k": 1.03125}, ["K of B is that of A times 1.03"]),
    ({"q": 2, "k": 2, "v": 2}, [f"{part} of B is that of A times 2" for part in "QKV"]),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("factors", "words"), SCALED, ids=[str(factors) for factors, _ in SCALED])
def test_a_number_is_told_of_the_part_that_has_it(
    factors: dict[str, float], words: list[str], dtype: torch.dtype, told: Any
) -> None:
    a = {name: value.to(dtype) for name, value in model().items()}
    relations, statuses = told(a, times(a, factors))
    assert relations == [("part-scaled", text) for text in words]
    assert statuses == dict.fromkeys(factors, "changed")


def test_a_bias_must_have_the_same_number(told: Any) -> None:
    a = model(bias=True)
    b = times(a, {"v": 2, "out": 0.5})
    assert told(a, b)[0] == [
        ("part-scaled", f"{V_TWICE}, but not the bias of V"),
        ("part-scaled", "the output projection of B is that of A times 0.5"),
    ]
    b["in_proj_bias"][V] *= 2
    ((_, text),) = told(a, b)[0]
    assert text == f"{V_TWICE}, which the output projection, times 0.5, takes back"
    a["in_proj_bias"] *= 0
    assert told(a, times(a, {"v": 2, "out": 0.5}))[0] == [("part-scaled", text)]


def test_an_extra_position_has_no_number_that_is_taken_back(told: Any) -> None:
    """The output projection halves ``bias_v`` as well, which was not doubled."""
    a = {**model(), "bias_k": torch.randn(1, 1, 32), "bias_v": torch.randn(1, 1, 32)}
    relations, _ = told(a, times(a, {"v": 2, "out": 0.5}))
    assert [text for _, text in relations] == [V_TWICE, "the output projection of B is that of A times 0.5"]


def test_of_values_that_have_other_numbers_nothing_is_said(told: Any) -> None:
    a = model()
    b = times(a, {"v": 2})
    b["in_proj_weight"][70, 3] *= 1.01
    assert told(a, b)[0] == []
    assert told(a, times(a, {"v": 1 + 2**-23}))[0] == []
    assert told(a, times(a, {"v": 1.0001}))[0] == [("part-scaled", "V of B is that of A times 1.0001")]
    assert told(a, times(a, {"v": torch.inf}))[0] == []


def test_numbers_of_rows_are_none_of_columns(told: Any) -> None:
    """Rows of V and columns of the output projection, as AWQ has them: Q and K are as they were."""
    a = {name: torch.randn(64, 64) for name in ("q_proj.weight", "k_proj.weight", "v_proj.weight", "out_proj.weight")}
    a = {f"layers.0.self_attn.{name}": value for name, value in a.items()}
    b, scales = {name: value.clone() for name, value in a.items()}, torch.linspace(0.5, 2, 64)
    b["layers.0.self_attn.v_proj.weight"] *= scales[:, None]
    b["layers.0.self_attn.out_proj.weight"] /= scales
    assert "columns-scaled" not in {code for code, _ in told(a, b)[0]}


def test_a_number_that_a_norm_takes_back_is_named_once(told: Any) -> None:
    norm = "layers.0.input_layernorm.weight"
    names = [f"layers.0.self_attn.{part}_proj.weight" for part in "qkvo"]
    a = {**{name: torch.randn(64, 64) for name in names}, norm: torch.ones(64)}
    b = {name: value.clone() if "o_proj" in name else value * 2 for name, value in a.items()} | {norm: a[norm] / 2}
    ((code, text),) = told(a, b)[0]
    assert code == "columns-scaled"
    assert text.startswith(f"the columns of Q, K and V of B are those of A times 2, which {norm} takes back")
