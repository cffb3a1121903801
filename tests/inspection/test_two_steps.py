"""Projections in two steps, as latent attention has them: one attention, whose heads are the rows of the second."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping

import pytest

from qkvinspect.layouts.from_settings import rows
from tests.inspection.test_patterns import report

Shapes = Mapping[str, tuple[int, ...]]


def _below(layer: str, **shapes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{layer}.{name}.weight": shape for name, shape in shapes.items()}


LOW_RANK = _below("l.0.attn", **{f"{part}_down": (16, 64) for part in "qkv"}) | _below(
    "l.0.attn", **{f"{part}_up": (64, 16) for part in "qkv"}
)
LATENT = _below("l.0.mixer", q_down=(24, 64), q_up=(96, 24), kv_down=(32, 64), kv_up=(128, 24), o=(64, 64))


def test_q_k_and_v_of_low_rank_are_one_attention() -> None:
    (found,) = report(LOW_RANK).attentions
    assert {part.name: part.weight.name for part in found.parts} == {p: f"l.0.attn.{p}_up.weight" for p in "qkv"}


def test_two_streams_of_such_names_stay_two() -> None:
    shapes = _below("l.0.attn", **{f"{part}_{stream}": (64, 64) for part in "qkv" for stream in "ab"})
    assert len(report(shapes).attentions) == 2


@pytest.mark.parametrize("parent", ["mixer", "attn", "mla", "block"])
def test_latent_attention_is_said_once_whatever_holds_it(parent: str) -> None:
    told = report({name.replace("mixer", parent): shape for name, shape in LATENT.items()})
    assert told.attentions == ()
    assert told.account is not None
    (said,) = told.account.unrecognised
    assert "two steps" in said.why
    assert len(said.tensors) == 4


def test_the_row_that_is_printed_splits_latent_attention() -> None:
    """The second steps, and a packing to choose."""
    told = report(LATENT)
    assert told.account is not None
    (table,) = tomllib.loads(told.account.unrecognised[0].suggestion)["layout"]
    assert (table["q"], table["kv"], table["packing"]) == ("q_up.weight", "kv_up.weight", "?")
    (layout,) = rows([{**table, "packing": "k, v per head", "heads": "4"}], "a test")
    assert [one.key for one in layout.weights] == ["kv_up.weight", "q_up.weight"]


@pytest.mark.parametrize("query", [{"wq_a": (24, 64), "wq_b": (96, 24)}, {"wq": (96, 64)}], ids=["latent", "plain"])
def test_the_names_of_deepseeks_own_code(query: dict[str, tuple[int, ...]]) -> None:
    """inference/model.py of DeepSeek-V3: wkv_a, and no wkv_a_with_mqa."""
    told = report(_below("layers.0.attn", wkv_a=(32, 64), wkv_b=(128, 24), wo=(64, 64), **query))
    (found,) = told.attentions
    assert found.layout is not None
    assert found.layout.id == ("mla-original" if "wq_a" in query else "mla-original-lite")


FACTORS = {
    "ASVD, whose second factor is called A": (
        {f"self_attn.{name}_proj.ALinear.weight": (64, 16) for name in "qkvo"}
        | {f"self_attn.{name}_proj.BLinear.weight": (16, 64) for name in "qkvo"},
        6,
    ),
    "SVD-LLM, whose k_v_proj is a factor of K": (
        {f"self_attn.{name}_u_proj.weight": (64, 16) for name in "qkvo"}
        | {f"self_attn.{name}_v_proj.weight": (16, 64) for name in "qkvo"},
        6,
    ),
    "tensor product attention": (
        {f"attn.W_A_{part}.weight": (rows, 64) for part, rows in (("q", 24), ("k", 8), ("v", 8))}
        | {f"attn.W_B_{part}.weight": (rows, 64) for part, rows in (("q", 96), ("k", 32), ("v", 32))},
        6,
    ),
}


@pytest.mark.parametrize(("shapes", "count"), FACTORS.values(), ids=FACTORS)
def test_two_factors_of_a_projection_are_none(shapes: dict[str, tuple[int, ...]], count: int) -> None:
    told = report(shapes)
    assert not told.attentions
    assert told.account is not None
    assert told.account.counts()["unrecognised"] == count
    assert all("factors" in found.why and "factors" in found.no_row for found in told.account.unrecognised)


def test_two_streams_called_a_and_b_are_two() -> None:
    shapes = {f"attn.to_{part}_{stream}.weight": (64, 64) for part in "qkv" for stream in "ab"}
    assert len(report(shapes).attentions) == 2
