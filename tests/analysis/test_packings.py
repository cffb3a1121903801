"""Figures of every packing, from the rows that its own library was seen to use, by torch.linalg on full matrices."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

import qkvinspect
from qkvinspect import Options
from tests.proofs.test_proofs import CAPTURED, CASES, attentions_of, heads_of, truth_of
from tests.some import one_of_each


def form(case: str) -> tuple[object, ...]:
    """How its parts are divided into rows, and what of it is known."""
    truth = truth_of(case)
    return (
        *(str(truth[key]) for key in ("layout_flag", "subheads", "proven")),
        truth["num_heads"] == truth["num_kv_heads"],
        *(str(truth["parts"].get(name, {}).get("heads", [])) for name in "qk"),
    )


@pytest.mark.parametrize("case", one_of_each(form, CASES))
def test_the_figures_are_those_of_the_true_rows(case: str) -> None:
    truth = truth_of(case)
    source = CAPTURED / case / "model.safetensors"
    stored = load_file(source)
    names = [(a.layer, a.layout.id if a.layout else "") for a in attentions_of(case, truth["layout_flag"])]
    heads = (f"{truth['num_heads']}/{truth['num_kv_heads']}",) if truth["heads_flag"] else ()
    with qkvinspect.open(source) as checkpoint:
        options = Options(heads=heads, layouts=tuple(names), norms=False)
        report = qkvinspect.inspect(checkpoint, options)
        wanted = [a for a in report.attentions if set(truth["tensors"]) & {info.name for info in a.weights}]
        found = list(zip(wanted, qkvinspect.analyze(report, wanted), strict=True))
    assert found
    for attention, layer in found:
        assert layer.why == ""
        true: dict[str, torch.Tensor] = {}
        for part in attention.parts:
            if part.name in truth["proven"] and part.weight.name == truth["parts"][part.name]["tensor"]:
                weight = stored[part.weight.name].double()
                weight = weight.T if part.orientation == "in_out" else weight.flatten(1)
                true[part.name] = torch.stack([weight[list(rows)] for rows in heads_of(truth["parts"][part.name])])
        for name, rows in true.items():
            values = torch.linalg.svdvals(rows)
            for head in layer.heads:
                of = values[head.head if name == "q" else kv_of(name, head.head, head.kv_head, truth)]
                spectrum = getattr(head, name)
                assert spectrum.largest == pytest.approx(float(of[0]), rel=1e-8)
                assert spectrum.norm == pytest.approx(float(of.norm()), rel=1e-8)
        if attention.layout is not None and attention.layout.id.startswith("mla"):
            assert {head.qk for head in layer.heads} == {None}
            assert "elsewhere" in layer.bound_from
        if {"q", "k"} <= true.keys() and true["q"].shape[1] == true["k"].shape[1]:
            for head in layer.heads:
                key = true["k"][kv_of("k", head.head, head.kv_head, truth)]
                assert head.qk is not None
                circuit = true["q"][head.head].T @ key
                assert head.qk.largest == pytest.approx(float(torch.linalg.matrix_norm(circuit, 2)), rel=1e-8)


def kv_of(name: str, head: int, kv_head: int, truth: dict[str, int]) -> int:
    """The index of the K or V that a head of Q uses; differential attention has several of K a head."""
    subheads = truth["subheads"]
    return kv_head * subheads + head % subheads if name == "k" else kv_head
