"""Attention that was not found and of which nothing was said: FAULTS.md lists each case with the tests that hold it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qkvinspect.errors import LayoutError
from qkvinspect.inspection import Options, inspect
from tests.inspection.conventions import E, Shape
from tests.inspection.facts.test_faults import config
from tests.inspection.facts.test_faults import report as with_configs
from tests.inspection.test_patterns import report

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).with_name("FAULTS.md").read_text()
LISTED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TABLE)
L = (E, E)


def three(layer: str, *keys: str, shape: Shape = L) -> dict[str, Shape]:
    return {f"{layer}.{key}": shape for key in keys}


@pytest.mark.parametrize(
    ("keys", "shape"),
    [
        (("q_proj.linear.weight", "k_proj.linear.weight", "v_proj.linear.weight"), L),
        (("query.proj.weight", "key.proj.weight", "value.proj.weight"), L),
        (("q.conv.weight", "k.conv.weight", "v.conv.weight"), (E, E, 1, 1)),
        (("to_q.net.2.weight", "to_k.net.2.weight", "to_v.net.2.weight"), L),
    ],
    ids=lambda value: str(value[0]),
)
def test_one_module_deeper(keys: tuple[str, ...], shape: Shape) -> None:
    (found,) = report(three("m.0.attn", *keys, shape=shape)).attentions
    assert {part.name: part.weight.name for part in found.parts} == {
        part: f"m.0.attn.{key}" for part, key in zip("qkv", keys, strict=True)
    }


@pytest.mark.parametrize(
    ("layer", "keys"),
    [
        ("x.0.self_attn", ("query.weight", "key.weight", "value.weight")),
        ("x.0.attn", ("wq.weight", "wk.weight", "wv.weight")),
        ("enc.att_stack.0", ("q_linear.weight", "k_linear.weight", "v_linear.weight")),
    ],
)
def test_known_names_under_any_parent(layer: str, keys: tuple[str, ...]) -> None:
    (found,) = report(three(layer, *keys)).attentions
    assert found.layer == layer
    assert [part.name for part in found.parts] == ["q", "k", "v"]


Q_LOST = "other layers of its stack have q_proj.weight as well: k and v alone"


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        (
            {"k_proj.weight": (24, E), "v_proj.weight": (24, E), "o_proj.weight": L},
            Q_LOST,
        ),
        ({"to_k.weight": (24, E), "to_v.weight": (24, E)}, "k and v alone"),
        ({"q_proj.weight": L, "o_proj.weight": L}, "q alone"),
    ],
)
def test_parts_of_an_attention_are_said(tensors: dict[str, Shape], why: str) -> None:
    whole = three("l.0.attn", "q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight")
    told = report(whole | {f"l.1.attn.{key}": shape for key, shape in tensors.items()})
    assert [found.layer for found in told.attentions] == ["l.0.attn"]
    assert told.account is not None
    (strange,) = told.account.unrecognised
    assert (strange.module, strange.why.startswith(why)) == ("l.1.attn", True)


def test_one_module_of_six_is_not_left_out() -> None:
    tensors: dict[str, Shape] = {}
    for number in range(6):
        words = ("alpha", "beta", "gamma") if number == 3 else ("q_proj", "k_proj", "v_proj")
        tensors |= three(f"b.{number}.attn", *(f"{word}.weight" for word in (*words, "o_proj")))
    told = report(tensors)
    assert len(told.attentions) == 5
    assert told.account is not None
    assert [strange.module for strange in told.account.unrecognised] == ["b.3.attn"]


def test_speechbrain_s_in_proj_weight_is_divided_head_by_head() -> None:
    """Their forward views it as (heads, 3 * head_dim) before it divides: four heads of 16."""
    layer = "encoder.layers.0.mha_layer"
    tensors = {f"{layer}.in_proj_weight": (192, 64), f"{layer}.out_proj.weight": (64, 64),
               f"{layer}.linear_pos.weight": (64, 64), f"{layer}.pos_bias_u": (16, 4),
               f"{layer}.pos_bias_v": (16, 4)}  # fmt: skip
    (found,) = with_configs(tensors, config(nhead=4)).attentions
    q = found.part("q")
    assert q is not None
    assert [(head.start, head.stop) for head in q.heads] == [(0, 16), (48, 64), (96, 112), (144, 160)]


def test_a_layout_that_does_not_fit_a_layer_says_what_it_lacks() -> None:
    checkpoint = report(three("enc.0", "q_linear.weight", "k_linear.weight", "v_linear.weight")).checkpoint
    with pytest.raises(LayoutError, match=r"'enc\.0' cannot have the layout 'bloom': no tensor is called query_key"):
        inspect(checkpoint, Options(norms=False, layouts=(("*", "bloom"),)))


def test_every_case_is_listed_with_tests_that_exist() -> None:
    rows = [line for line in TABLE.splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert all("::" in row for row in rows)
    for file, name in LISTED:
        assert f"def {name}(" in (ROOT / file).read_text(), name
