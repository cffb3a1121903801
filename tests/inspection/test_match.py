"""Matching: wrapper prefixes, decoys, ambiguity and what settles it. Layouts here are made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qkvinspect.checkpoint import Checkpoint, Config, Region, TensorInfo, contiguous_strides
from qkvinspect.dtypes import DTYPES
from qkvinspect.errors import LayoutError, UsageError
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.inspection.report import Attention, Report
from qkvinspect.layouts import LAYOUTS, HeadTensor, Layout, StoredWeight
from qkvinspect.layouts.packing import GROUPED, PER_HEAD, QKV, Packing

PH = Layout("ph", "A", (StoredWeight("qkv.weight", PER_HEAD),), "a.py", "proven", model_types=("a",), needs_config=True)
BLK = Layout("blk", "B", (StoredWeight("qkv.weight", QKV),), "b.py", "proven", model_types=("b",), needs_config=True)


def report(
    shapes: Mapping[str, Sequence[int]],
    *,
    config: Mapping[str, object] | None = None,
    options: Options | None = None,
    layouts: Sequence[Layout] = LAYOUTS,
) -> Report:
    tensors = {
        name: TensorInfo(name, DTYPES["float32"], tuple(s), contiguous_strides(tuple(s)), Region(None, 0, 0))
        for name, s in shapes.items()
    }
    configs = (Config("config:config.json", config),) if config else ()
    checkpoint = Checkpoint("model", "test", 0, tensors, configs=configs)
    given = options or Options()
    return inspect(checkpoint, Options(given.heads, given.layouts, given.layers, norms=False), None, layouts)


def only(found: Report) -> Attention:
    (attention,) = found.attentions
    return attention


MHA = {"in_proj_weight": (24, 8), "in_proj_bias": (24,), "out_proj.weight": (8, 8), "out_proj.bias": (8,)}


@pytest.mark.parametrize(
    "prefix",
    [
        "module.encoder.layers.0.self_attn",
        "_orig_mod.encoder.layers.0.self_attn",
        "module._orig_mod.encoder.layers.0.self_attn",
        "encoder._fsdp_wrapped_module.layers.0._checkpoint_wrapped_module.self_attn",
        "encoder.layers.0.self_attn._orig_mod",
        "encoder.layers.0.self_attn.module",
    ],
)
def test_wrappers_are_understood_and_shown_as_stored(prefix: str) -> None:
    attention = only(report({f"{prefix}.{name}": shape for name, shape in MHA.items()}))
    assert attention.layer == prefix
    assert attention.tensors["out_bias"] == f"{prefix}.out_proj.bias"


def test_a_wrapper_between_a_module_and_its_projection_is_understood() -> None:
    names = {f"attn.{part}_proj._orig_mod.weight": (8, 8) for part in "qkv"}
    assert only(report(names)).layer == "attn"


def test_a_module_called_module_beside_its_unwrapped_twin_is_kept_apart() -> None:
    found = report({f"{prefix}attn.{n}": s for prefix in ("", "module.") for n, s in MHA.items()})
    assert [attention.layer for attention in found.attentions] == ["attn", "module.attn"]


@pytest.mark.parametrize(
    "shapes",
    [
        {"core.in_proj.weight": (64, 7)},
        {"conv.in_proj.weight": (24, 8)},
        {"feed_forward.linears.0.weight": (8, 8), "feed_forward.linears.1.weight": (8, 8)},
        {f"feed_forward.linears.{n}.weight": (8, 8) for n in range(4)},
        {"rnn.weight_ih_l0": (24, 8)},
        {"att.key.weight": (8, 8), "att.value.weight": (8, 8), "att.receptance.weight": (8, 8)},
        {"attn.q_proj.weight": (8, 8), "attn.kv_b_proj.weight": (8, 8)},
        {"my_in_proj_weight": (24, 8)},
    ],
)
def test_what_only_looks_like_attention_is_not_reported(shapes: dict[str, tuple[int, ...]]) -> None:
    assert report(shapes).attentions == ()


@pytest.mark.parametrize("shape", [(25, 8), (16, 8), (24, 9), (24,), (3, 8, 8), (24, 8, 3)])
def test_an_in_proj_weight_of_another_shape_is_not_split(shape: tuple[int, ...]) -> None:
    found = report({"attn.in_proj_weight": shape})
    assert found.attentions == ()
    assert [finding.code for finding in found.findings] == ["unexpected-shape"]


def test_a_bias_of_another_size_is_not_split() -> None:
    found = report({"attn.in_proj_weight": (24, 8), "attn.in_proj_bias": (23,)})
    assert [finding.code for finding in found.findings] == ["unexpected-shape"]


def test_lookalikes_are_ambiguous_without_a_config() -> None:
    found = report({"attn.qkv.weight": (24, 8)}, layouts=(PH, BLK))
    attention = only(found)
    assert (attention.layout, attention.candidates, attention.parts) == (None, ("ph", "blk"), ())
    assert [finding.code for finding in found.findings] == ["ambiguous-layout"]
    assert "--layout" in found.findings[0].message


@pytest.mark.parametrize(("kind", "rows"), [("a", (range(2), range(6, 8))), ("b", (range(2), range(2, 4)))])
def test_a_config_settles_it(kind: str, rows: tuple[range, ...]) -> None:
    config = {"model_type": kind, "num_attention_heads": 4}
    attention = only(report({"attn.qkv.weight": (24, 8)}, config=config, layouts=(PH, BLK)))
    assert attention.layout_from == "config:config.json"
    assert attention.part("q").heads[:2] == rows


def test_a_flag_settles_it() -> None:
    options = Options(heads=("4",), layouts=(("*", "blk"), ("attn", "ph")))
    attention = only(report({"attn.qkv.weight": (24, 8)}, options=options, layouts=(PH, BLK)))
    assert (attention.candidates, attention.layout_from) == (("ph",), "flag")


def test_a_flag_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(LayoutError, match="torch-mha"):
        report({"attn.qkv.weight": (24, 8)}, options=Options(layouts=(("*", "torch-mha"),)), layouts=(PH, BLK))


def test_config_flags_tell_rows_of_one_model_type_apart() -> None:
    new = Layout(
        "new",
        "F",
        (StoredWeight("qkv.weight", GROUPED),),
        "f.py",
        "proven",
        model_types=("f",),
        flags={"new": (True,)},
        kv_heads="free",
    )
    old = Layout(
        "old",
        "F",
        (StoredWeight("qkv.weight", QKV),),
        "f.py",
        "proven",
        model_types=("f",),
        flags={"new": (False, None)},
        kv_heads="free",
    )
    for value, id in ((True, "new"), (False, "old")):
        config = {"model_type": "f", "new": value, "num_attention_heads": 4, "num_kv_heads": 2}
        assert only(report({"a.qkv.weight": (16, 8)}, config=config, layouts=(new, old))).candidates == (id,)


def test_siblings_tell_rows_apart() -> None:
    beit = Layout("beit", "B", (StoredWeight("qkv.weight", QKV),), "b.py", "proven", siblings=("q_bias",))
    plain = Layout("plain", "P", (StoredWeight("qkv.weight", QKV),), "p.py", "proven", unless=("A_log",))
    layouts = (plain, beit)
    assert only(report({"a.qkv.weight": (24, 8), "a.q_bias": (8,)}, layouts=layouts)).candidates == ("beit",)
    assert only(report({"a.qkv.weight": (24, 8)}, layouts=layouts)).candidates == ("plain",)
    assert report({"a.qkv.weight": (24, 8), "a.A_log": (8,)}, layouts=layouts).attentions == ()


def test_a_remembered_row_never_outranks_a_known_one() -> None:
    known = Layout("known", "K", (StoredWeight("qkv.weight", QKV),), "k.py", "source")
    remembered = Layout("memory", "M", (StoredWeight("qkv.weight", PER_HEAD),), "?", "memory", layer="attn")
    assert only(report({"attn.qkv.weight": (24, 8)}, layouts=(remembered, known))).candidates == ("known",)


def test_a_tensor_belongs_to_one_module_only() -> None:
    found = report({f"attention.attention.{n}.weight": (8, 8) for n in ("query", "key", "value")})
    assert only(found).candidates == ("hf-vit",)


def test_per_head_packing_without_heads_is_not_split() -> None:
    lone = Layout("lone", "L", (StoredWeight("qkv.weight", PER_HEAD),), "l.py", "proven")
    found = report({"a.qkv.weight": (24, 8)}, layouts=(lone,))
    assert only(found).parts == ()
    assert [finding.code for finding in found.findings] == ["heads-needed"]


def test_conv1d_is_split_along_its_columns() -> None:
    gpt2 = Layout("gpt2", "G", (StoredWeight("c_attn.weight", QKV, "in_out"),), "g.py", "proven", kv_heads="equal")
    attention = only(report({"a.c_attn.weight": (8, 24)}, layouts=(gpt2,), options=Options(heads=("4",))))
    assert attention.embed_dim == 8
    assert [part.shape for part in attention.parts] == [(8, 8)] * 3
    assert attention.parts[1].heads[0] == range(8, 10)


def test_an_output_projection_tells_the_size_of_grouped_queries() -> None:
    phi = Layout(
        "phi", "P", (StoredWeight("qkv_proj.weight", QKV),), "p.py", "proven", layer="a", out=("o_proj.weight",),
        kv_heads="free",
    )  # fmt: skip
    attention = only(report({"a.qkv_proj.weight": (16, 8), "a.o_proj.weight": (8, 8)}, layouts=(phi,)))
    assert [part.shape for part in attention.parts] == [(8, 8), (4, 8), (4, 8)]
    assert attention.possible_heads == (2, 4, 8)


def test_a_tensor_that_fixes_the_heads_is_used() -> None:
    swin = Layout(
        "swin", "S", (StoredWeight("qkv.weight", QKV),), "s.py", "proven", kv_heads="equal",
        head_tensors=(HeadTensor("table", 1, "num_heads"),),
    )  # fmt: skip
    attention = only(report({"a.qkv.weight": (24, 8), "a.table": (9, 4)}, layouts=(swin,)))
    assert (attention.heads.num_heads, attention.heads_from) == (4, "tensor:a.table")


def test_fixed_groups() -> None:
    codegen = Layout("codegen", "C", (StoredWeight("qkv_proj.weight", Packing(("q", "v", "k"), 4)),), "c.py", "proven")
    attention = only(report({"a.qkv_proj.weight": (48, 16)}, layouts=(codegen,), options=Options(heads=("8",))))
    assert attention.part("v").heads[:3] == (range(4, 6), range(6, 8), range(16, 18))


def test_layers_are_selected_by_glob() -> None:
    shapes = {f"{side}.layers.{i}.attn.{n}": s for side in ("enc", "dec") for i in (0, 1) for n, s in MHA.items()}
    found = report(shapes, options=Options(layers=("enc.*", "*.1.attn")))
    assert [a.layer for a in found.attentions] == ["enc.layers.0.attn", "enc.layers.1.attn", "dec.layers.1.attn"]


def test_selecting_nothing_is_an_error() -> None:
    with pytest.raises(UsageError, match="no attention module is called"):
        report({f"attn.{n}": s for n, s in MHA.items()}, options=Options(layers=("nothing",)))


def test_layers_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """safetensors sorts names as text, and so does a shard index."""
    save_file({f"layers.{i}.attn.in_proj_weight": torch.zeros(3, 1) for i in range(12)}, tmp_path / "m.safetensors")
    with open_checkpoint(tmp_path / "m.safetensors") as checkpoint:
        layers = [attention.layer for attention in inspect(checkpoint).attentions]
    assert layers == [f"layers.{i}.attn" for i in range(12)]
