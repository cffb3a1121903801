"""What is said of trained attention that is not the usual one: never what it is not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file
from torch import Tensor

from qkvinspect.findings import AGAINST_WEIGHTS
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.inspection.notices import about_evidence
from qkvinspect.inspection.report import Report
from qkvinspect.inspection.verdict import Evidence, Verdict, Weighed
from qkvinspect.render.rows import head_rows
from tests.evidence.other_attention import stored
from tests.some import crossed, first

KNOWN = "blocks.{layer}.self_attn.{part}_proj.{name}"
X_TRANSFORMERS = "attn_layers.layers.{layer}.1.to_{part}.{name}"
SHARED = "blocks.{layer}.attn.to_{part}.{name}"


def said(tensors: Mapping[str, Tensor], folder: Path, config: Mapping[str, object] | None = None) -> Report:
    named = {name.replace("to_o.", "to_out."): value for name, value in tensors.items()}
    save_file(named, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    with open_checkpoint(folder) as checkpoint:
        return inspect(checkpoint, Options(norms=False, evidence="wanted"))


def against(report: Report) -> list[str]:
    return [finding.message for finding in report.findings if finding.code in AGAINST_WEIGHTS]


def uses(report: Report) -> list[list[int]]:
    """The kv head that each head uses."""
    known = [one.heads for one in report.attentions if one.heads]
    return [[sizes.kv_head(head) for head in range(sizes.num_heads)] for sizes in known]


TILED = [0, 1, 2, 3, 0, 1, 2, 3]


@pytest.mark.parametrize("names", first(1, [SHARED, KNOWN, X_TRANSFORMERS]))
def test_tiled_heads_are_not_taken_for_others(tmp_path: Path, names: str) -> None:
    report = said(stored("tiled", names), tmp_path)
    assert len(report.attentions) == 2
    assert {one.heads.num_heads for one in report.attentions if one.heads} <= {8}
    assert uses(report) in ([], [TILED] * 2)
    assert against(report) == []


@pytest.mark.parametrize("names", [KNOWN, X_TRANSFORMERS, SHARED])
def test_the_pairing_of_tiled_heads_is_told_with_where_it_is_from(tmp_path: Path, names: str) -> None:
    config = {"num_attention_heads": 8, "num_key_value_heads": 4, "hidden_size": 64}
    report = said(stored("tiled", names), tmp_path, config)
    assert uses(report) == [TILED] * 2
    expected = "the layout has head h use kv head h//2, the weights say h % 4 (or 2 heads over one kv head)"
    assert [text.partition(" (`")[0] for text in against(report)] == ([expected] * 2 if names == KNOWN else [])


def test_names_that_libraries_share_do_not_tell_the_pairing(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    tensors = {
        name: value.new_tensor(random.normal(size=value.shape)) for name, value in stored("tiled", SHARED).items()
    }
    report = said(tensors, tmp_path, {"num_attention_heads": 8, "num_key_value_heads": 4, "hidden_size": 64})
    assert [one.heads.tiled for one in report.attentions if one.heads] == [None] * 2
    shown = [row[1] for row in head_rows(report.attentions[0])]
    assert shown == ["0", "0 or 1", "1 or 2", "1 or 3", "0 or 2", "1 or 2", "2 or 3", "3"]


@crossed(names=[KNOWN, "blocks.{layer}.mix.{part}_projection.{name}"], factor=[False, True])
def test_attention_over_channels_has_no_swapped_parts(tmp_path: Path, names: str, factor: bool) -> None:
    tensors = stored("channels", names)
    if factor:
        layers = {name.rsplit(".", 2)[0] for name in tensors}
        tensors |= {f"{layer}.temperature": next(iter(tensors.values())).new_ones(4, 1, 1) for layer in layers}
    report = said(tensors, tmp_path)
    assert len(report.attentions) == 2
    assert against(report) == []


@pytest.mark.parametrize("config", [None, {"num_attention_heads": 4, "hidden_size": 64}])
def test_heads_that_share_a_wider_v_are_no_smaller_heads(tmp_path: Path, config: dict[str, object] | None) -> None:
    report = said(stored("differential", KNOWN), tmp_path, config)
    assert {one.heads.num_heads for one in report.attentions if one.heads} <= {4}
    assert against(report) == []


TYING = (
    *("lam", "lambda_q1", "lambda_init"),
    *("proj_l.weight", "mix_heads_pre_attn", "pre_softmax_talking_heads.weight", "reattn_weights"),
)
"""Factors of a second attention, and mixtures of the attention of all heads."""


@pytest.mark.parametrize("factor", TYING)
def test_heads_that_are_not_apart_are_left_open(tmp_path: Path, factor: str) -> None:
    """Whatever the values: those of tiled heads are sure of 8."""
    tensors = stored("tiled", KNOWN)
    one = next(iter(tensors.values()))
    report = said(tensors | {f"blocks.{n}.self_attn.{factor}": one.new_ones(4) for n in range(2)}, tmp_path)
    assert [one.heads for one in report.attentions] == [None, None]


@pytest.mark.parametrize(("of_others", "expected"), [(False, 0), (True, 1)])
def test_one_number_for_stacks_of_several_names_is_contradicted_sooner(
    tmp_path: Path, of_others: bool, expected: int
) -> None:
    config = {"num_attention_heads": 4, "hidden_size": 64}
    (attention, _) = said(stored("channels", KNOWN), tmp_path, config).attentions
    verdict = Verdict((Weighed("", 8, 80.0), Weighed("", 4, 40.0)), ("a",), 50.0, 0.995, decided=True)
    found = list(about_evidence(attention, Evidence(verdict), "", of_others=of_others))
    assert [finding.message.partition(" (")[0] for finding in found] == [
        "config:config.json:num_attention_heads says 4 heads, the weights say 8"
    ] * expected
