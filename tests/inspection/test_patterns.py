"""Attention found by the words in its names: every convention that was written down, and nothing that is none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import qkvinspect
from qkvinspect.checkpoint import Checkpoint, Config, Region, TensorInfo, contiguous_strides
from qkvinspect.dtypes import DTYPES
from qkvinspect.errors import UsageError
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.inspection.report import Report
from qkvinspect.inspection.words import word_of
from tests.batches import batched
from tests.inspection.conventions import CONVENTIONS, Convention
from tests.inspection.repositories import DECOYS as REPOSITORY_DECOYS
from tests.inspection.repositories import FOUND, SAID


def report(shapes: Mapping[str, tuple[int, ...]], config: dict[str, object] | None = None, **options: Any) -> Report:
    tensors = {
        name: TensorInfo(name, DTYPES["float32"], shape, contiguous_strides(shape), Region(None, 0, 0))
        for name, shape in shapes.items()
    }
    configs = (Config("config:config.json", config),) if config else ()
    return inspect(Checkpoint("model", "test", 0, tensors, configs=configs), Options(norms=False, **options))


@batched("convention", {convention.seen: convention for convention in CONVENTIONS})
def test_every_convention_is_found(convention: Convention) -> None:
    found = report({**convention.tensors, **convention.beside})
    by_layer = {attention.layer: attention for attention in found.attentions}
    assert set(by_layer) == set(convention.modules)
    for layer, tensors in convention.modules.items():
        attention = by_layer[layer]
        assert {info.name for info in attention.weights} == set(tensors.values())
        if not convention.packed and attention.layout is not None:
            assert {part.name: part.weight.name for part in attention.parts} == tensors
        elif attention.found_by == "pattern":
            assert len(attention.candidates) > 1


@batched(
    "component parts",
    [
        ("q", "q"),
        ("q_proj", "q"),
        ("w_qs", "q"),
        ("Wq", "q"),
        ("W_Q", "q"),
        ("toqueries", "q"),
        ("queryProj", "q"),
        ("emb_to_key_value", "kv"),
        ("kqv", "kqv"),
        ("queries_keys_values", "qkv"),
        ("txt_attn_qkv", "qkv"),
        ("toqk", "qk"),
        ("vals", "v"),
        ("v_proj_current", "v"),
        ("q_norm", None),
        ("key_embedding", None),
        ("conv", None),
        ("convolution", None),
        ("valve", None),
        ("kernel", None),
        ("quantizer", None),
        ("layers", None),
        ("keypoint", None),
        ("link", None),
    ],
)
def test_words(component: str, parts: str | None) -> None:
    word = word_of(component)
    assert (word.parts if word else None) == parts


E, H = 48, 4
DECOYS: dict[str, dict[str, tuple[int, ...]]] = {
    "classifiers": {"heads.q.weight": (4, E), "heads.k.weight": (4, E), "heads.v.weight": (4, E)},
    "of other sizes": {"heads.query.weight": (5, E), "heads.key.weight": (7, E), "heads.value.weight": (3, E)},
    "a critic": {"critic.value.weight": (1, E), "actor.key.weight": (64, E)},
    "two encoders": {f"encoder_{side}.conv{i}.weight": (E, E, 3, 3) for side in "qk" for i in range(4)},
    "embeddings": {f"{part}_embed.weight": (100, E) for part in ("query", "key", "value")},
    "norms": {f"attn.{part}_norm.weight": (E,) for part in "qkv"},
    "a gated unit": {"mlp.w12.weight": (6 * E, E), "mlp.w3.weight": (E, 3 * E)},
    "a recurrent net": {"gru.weight_ih_l0": (3 * E, E), "gru.weight_hh_l0": (3 * E, E)},
    "a state space": {"mixer.in_proj.weight": (3 * E, E), "mixer.out_proj.weight": (E, E), "mixer.A_log": (H,)},
    "a convolution's gates": {"conv.in_proj.weight": (3 * E, E), "conv.out_proj.weight": (E, E)},
    "adapters": {f"attn.{part}_proj.lora_A.weight": (8, E) for part in "qkv"},
    "a whole network a word": {
        f"{part}_net.{i}.weight": (E, E) for part in ("query", "key", "value") for i in range(0, 10, 2)
    },
}


@pytest.mark.parametrize("shapes", DECOYS.values(), ids=DECOYS)
def test_what_only_uses_such_words_is_not_attention(shapes: dict[str, tuple[int, ...]]) -> None:
    assert report(shapes).attentions == ()


@batched("shapes layers layout", FOUND)
def test_names_of_repositories_are_found(
    shapes: dict[str, tuple[int, ...]], layers: tuple[str, ...], layout: str
) -> None:
    found = report(shapes).attentions
    assert tuple(attention.layer for attention in found) == layers
    for attention in found:
        ids = {attention.layout.id} if attention.layout else set(attention.candidates)
        if layout:
            assert (ids, attention.found_by) == ({layout}, "layout")
        elif attention.found_by == "layout":
            assert attention.layout is None
        else:
            assert all(id.startswith("pattern") for id in ids)


@pytest.mark.parametrize(("shapes", "words"), SAID.values(), ids=SAID)
def test_attention_that_cannot_be_cut_is_said(shapes: dict[str, tuple[int, ...]], words: str) -> None:
    told = report(shapes)
    assert told.attentions == ()
    assert told.account is not None
    assert [words in strange.why for strange in told.account.unrecognised] == [True]


@batched("shapes", REPOSITORY_DECOYS)
def test_words_of_repositories_that_mean_no_attention(shapes: dict[str, tuple[int, ...]]) -> None:
    assert report(shapes).attentions == ()


def with_values(folder: Path, state: dict[str, torch.Tensor]) -> Path:
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "model.safetensors")
    return folder / "model.safetensors"


@pytest.mark.parametrize("axes", [(0, 2, 1), (0, 1, 2), (1, 2, 0)], ids=["h i d", "h d i", "i h d"])
def test_parameters_of_three_axes_are_the_matrices_that_they_stand_for(tmp_path: Path, axes: tuple[int, ...]) -> None:
    """einsum('...i,hid->...hd') multiplies with one matrix [heads * head_dim, in], whatever the order of the axes."""
    matrices = {part: torch.randn(H, 12, E) for part in "QKV"}
    undo = [axes.index(axis) for axis in range(3)]
    state = {f"a.attn.W_{part}": matrix.permute(*undo) for part, matrix in matrices.items()}
    state |= {f"a.attn.b_{part}": torch.randn(H, 12) for part in "QKV"} | {"a.attn.W_O": torch.randn(H, 12, E)}
    with open_checkpoint(with_values(tmp_path, state)) as checkpoint:
        (attention,) = inspect(checkpoint).attentions
    assert attention.heads is not None
    assert (attention.heads.num_heads, attention.found_by) == (H, "pattern")
    for part in attention.parts:
        expected = matrices[part.name.upper()]
        assert part.shape == (H * 12, E)
        for head, measured in enumerate(part.head_measures):
            assert measured.norm == pytest.approx(float(expected[head].double().norm()), rel=1e-6)
        assert part.bias is not None
    opened = qkvinspect.open(tmp_path / "model.safetensors")
    assert torch.equal(opened.attentions["a.attn"].k.torch(), matrices["K"].flatten(0, 1))


def test_three_axes_alone_say_nothing(tmp_path: Path) -> None:
    found = report({f"a.attn.W_{part}": (4, E, 12) for part in "QKV"})
    assert found.attentions == ()
    assert [finding.code for finding in found.findings] == ["unrecognised-attention"]


@pytest.mark.parametrize("leaf", ["/query/kernel", "/query/w", ".query.kernel"])
def test_kernels_lie_the_other_way_round(leaf: str) -> None:
    """TensorFlow, Keras and Flax store a ``kernel`` [in, out], and Haiku its ``w``."""
    names = {f"block{leaf.replace('query', word)}": (E, E) for word in ("query", "key", "value", "out")}
    (attention,) = report({f"attn_{name}": shape for name, shape in names.items()}).attentions
    assert {part.orientation for part in attention.parts} == {"in_out"}
    assert attention.layer == "attn_block"


BARE = {
    "one of both, [in, out]": ({"l.attn.w_qkv": (E, 3 * E), "l.attn.w_out": (E, E)}, {"in_out"}),
    "one of both, [out, in]": ({"l.attn.w_qkv": (3 * E, E), "l.attn.w_out": (E, E)}, {"out_in"}),
    "a fused kernel": ({"attn/qkv/kernel": (E, 3 * E), "attn/proj/kernel": (E, E)}, {"in_out"}),
    "an output that reads 64": (
        {f"l.attn.W_{part}": (64, E) for part in "qkv"} | {"l.attn.out.weight": (E, 64)},
        {"out_in"},
    ),
    "the same, turned": (
        {f"l.attn.W_{part}": (E, 64) for part in "qkv"} | {"l.attn.out.weight": (E, 64)},
        {"in_out"},
    ),
    "biases of 64": (
        {f"l.attn.W_{part}": (E, 64) for part in "qkv"} | {f"l.attn.b_{part}": (64,) for part in "qkv"},
        {"in_out"},
    ),
    "squares": ({f"l.attn.W_{part}": (E, E) for part in "qkv"}, {"out_in", "in_out"}),
}


@pytest.mark.parametrize(("shapes", "turns"), BARE.values(), ids=BARE)
def test_parameters_lie_as_their_shapes_allow(shapes: dict[str, tuple[int, ...]], turns: set[str]) -> None:
    """Nothing is a candidate that what stands beside it excludes."""
    (attention,) = report(shapes).attentions
    said = {"in_out" if id.endswith("-turned") else "out_in" for id in attention.candidates}
    assert said == turns
    if len(attention.candidates) == 1:
        assert {part.orientation for part in attention.parts} == turns


def test_a_query_called_as_hqq_calls_its_codes_is_a_query() -> None:
    """HQQ keeps ``nbits`` and ``shape`` beside ``W_q``."""
    shapes = {f"l.attn.W_{part}": (64, E) for part in "qkv"}
    assert {info.name for info in report(shapes).attentions[0].weights} == set(shapes)
    codes = {f"l.attn.{part}_proj.{leaf}": size for part in "qkv" for leaf, size in (("W_q", (64, E)), ("nbits", (1,)))}
    assert all("HQQ" in weight.no_values for weight in report(codes).attentions[0].weights)


def test_projections_of_few_rows_are_said() -> None:
    told = report({f"b.0.nl.{part}.weight": (8, E) for part in "qkv"})
    assert told.attentions == ()
    assert told.account is not None
    assert [(one.module, one.why[:8]) for one in told.account.unrecognised] == [("b.0.nl", "few rows")]


SAGANS = {
    "linear layers": {f"net.0.blk.{part}.weight": (6, E) for part in ("query", "key")}
    | {"net.0.blk.value.weight": (E, E)},
    "1x1 convolutions of sequences": {f"b.mixer.{part}_conv.weight": (6, E, 1) for part in ("query", "key")}
    | {"b.mixer.value_conv.weight": (E, E, 1)},
    "letters of one stem": {f"m.{part}_proj.weight": (8, E) for part in "qk"} | {"m.v_proj.weight": (E, E)},
}


@pytest.mark.parametrize("shapes", SAGANS.values(), ids=SAGANS)
def test_few_rows_that_score_a_v_as_wide_as_its_input_are_found(shapes: dict[str, tuple[int, ...]]) -> None:
    (found,) = report(shapes).attentions
    assert {info.name for info in found.weights} == set(shapes)


@pytest.mark.parametrize("rows", [18, 32, 40])
def test_rows_that_fit_no_number_of_heads_are_said(rows: int) -> None:
    """They do not divide those of V; the words stand beside each other all the same."""
    shapes = {f"net.0.blk.{part}.weight": (rows, E) for part in ("query", "key")} | {"net.0.blk.value.weight": (E, E)}
    told = report(shapes)
    assert told.attentions == ()
    assert told.account is not None
    assert [{info.name for info in one.tensors} for one in told.account.unrecognised] == [set(shapes)]


SILENT: dict[str, dict[str, tuple[int, ...]]] = {
    "another word among them": {"m.query.weight": (8, E), "m.key_points.weight": (8, E), "m.value.weight": (E, E)},
    "Q and K of other widths": {"m.query.weight": (20, E), "m.key.weight": (12, E), "m.value.weight": (E, E)},
    "ten classes and twelve": {"m.query.weight": (10, E), "m.key.weight": (10, E), "m.value.weight": (12, E)},
    "heads of tasks": {"m.q_head.weight": (8, E), "m.k_head.weight": (8, E), "m.v_head.weight": (E, E)},
    "moments": {"m.query_mean.weight": (8, E), "m.key_mean.weight": (8, E), "m.value_mean.weight": (E, E)},
}


@pytest.mark.parametrize("shapes", SILENT.values(), ids=SILENT)
def test_few_rows_that_score_nothing_are_none(shapes: dict[str, tuple[int, ...]]) -> None:
    told = report(shapes)
    assert told.account is not None
    assert (told.attentions, told.account.unrecognised) == ((), ())


@pytest.mark.parametrize(("rows", "known"), [(66, True), (63, True), (64, False), (21, False)])
def test_thirds_of_any_size_that_are_wider_than_their_input_may_be_q_k_and_v(rows: int, known: bool) -> None:
    """Where the name says it and no output projection says how wide V is: 24 inputs."""
    found = report({"net.attention.queries_keys_values.weight": (rows, 24)})
    assert len(found.attentions) == known


@pytest.mark.parametrize(
    "names",
    [
        ("attention.queries", "attention.keys", "attention.values", "attention.fc_out"),
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
        ("block.to_q", "block.to_k", "block.to_v", "block.to_out.0"),
    ],
)
def test_projections_that_every_head_uses_are_not_cut(names: tuple[str, ...]) -> None:
    """Linear(head_dim, head_dim) for each share of the input, and Linear(embed_size, embed_size) behind it."""
    shapes = {f"{name}.weight": (16, 16) for name in names[:3]} | {f"{names[3]}.weight": (E, E)}
    told = report(shapes)
    (attention,) = told.attentions
    assert (attention.heads, attention.possible_heads) == (None, ())
    assert [(part.shape, part.rows) for part in attention.parts] == [((16, 16), (range(16),))] * 3
    why = "each of 3 heads uses all rows of Q, K and V, on its own share of the input"
    assert [finding.message for finding in told.findings] == [f"{why}: no rows are those of one head alone"]
    assert report(shapes, heads=3).attentions[0].heads is None
    with pytest.raises(UsageError, match="each of 3 heads uses all rows"):
        report(shapes, heads=4)


def _three(names: str, *sizes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {
        f"{name}.weight": size
        for name, size in zip(names.split(), sizes * 3 if len(sizes) == 1 else sizes, strict=True)
    }


SQUARE = (E, E)
NO_HEADS: dict[str, tuple[dict[str, tuple[int, ...]], str]] = {
    "aft-pytorch": (
        {**_three("aft.to_q aft.to_k aft.to_v", SQUARE), "aft.project.weight": SQUARE, "aft.wbias": (20, 20)},
        "attention-free",
    ),
    "its simple form": (
        {**_three("aft.to_q aft.to_k aft.to_v", SQUARE), "aft.project.weight": SQUARE},
        "attention-free",
    ),
    "labml's": (
        {**_three("attn.query attn.key attn.value", SQUARE), "attn.pos_bias": (64, 64)},
        "attention-free",
    ),
    "a lambda layer": (
        _three("l.to_q l.to_k l.to_v", (64, 32, 1, 1), (16, 32, 1, 1), (8, 32, 1, 1))
        | {f"l.norm_{part}.running_mean": (size,) for part, size in (("q", 64), ("v", 8))},
        "lambda",
    ),
    "slots of a memory": (
        {"attn.q_proj.weight": SQUARE, "attn.k": (16, E), "attn.v": (16, E), "attn.out_proj.weight": SQUARE},
        "slots",
    ),
    "question, knowledge and vision": (_three("x.q_proj x.k_proj x.v_proj", (64, 300), (64, 300), (64, 2048)), "read"),
    "critics": (_three("policy.q_head policy.k_head policy.v_head", (64, 64)), ""),
}


@pytest.mark.parametrize(("shapes", "said"), NO_HEADS.values(), ids=NO_HEADS)
def test_what_no_query_scores_has_no_heads(shapes: dict[str, tuple[int, ...]], said: str) -> None:
    told = report(shapes)
    assert not told.attentions
    assert told.account is not None
    assert [said in found.why for found in told.account.unrecognised] == [True] * bool(said)
