"""Rows that a fact does not fit: what would explain them is tried and named, and the facts are put side by side."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import torch

from qkvinspect.checkpoint import Checkpoint, Config, Region, TensorInfo, contiguous_strides
from qkvinspect.cli import main
from qkvinspect.dtypes import DTYPES
from qkvinspect.inspection import Options, inspect
from tests.inspection.facts.test_faults import all_sizes, codes, config, report, separate
from tests.inspection.test_patterns import report as of_shapes

MEGATRON = {"num_attention_heads": 4, "num_query_groups": 1, "group_query_attention": True, "kv_channels": 8}


@pytest.mark.parametrize("said", [{"tensor_model_parallel_size": 2}, {}])
def test_ranks_that_hold_only_q(said: dict[str, int]) -> None:
    """One kv head over two ranks: [q q q] and [q k v], and the file of one does not say which it is."""
    name = "decoder.layers.0.self_attention"
    shapes = {f"{name}.linear_qkv.weight": (24, 32), f"{name}.linear_proj.weight": (32, 16)}
    found = report(shapes, Config("checkpoint:args", MEGATRON | {"hidden_size": 32} | said))
    assert all_sizes(found) == [None]
    (text,) = [f.message for f in found.findings if f.code == "heads-do-not-fit"]
    assert "24 of the model's 48 rows, the share of one of 2 ranks, some of which hold rows of Q only" in text


def test_a_wider_head_than_the_config_gives_does_not_fit_either() -> None:
    found = report(separate("a", 768, 768, 512), config(num_attention_heads=8, head_dim=64, hidden_size=512))
    assert all_sizes(found) == [None]
    assert {"heads-do-not-fit", "heads-unknown"} <= codes(found)


TOWERS = {
    "vision_config": {"hidden_size": 512, "num_attention_heads": 8, "head_dim": 64},
    "text_config": {"hidden_size": 512, "num_attention_heads": 6, "head_dim": 128},
}


def test_the_config_of_another_part_is_the_answer_where_it_alone_fits() -> None:
    found = report(separate("vision_tower.blocks.0.attn", 768, 768, 512), config(**TOWERS))
    assert all_sizes(found) == [(6, 6, 128)]
    (text,) = [f.message for f in found.findings if f.code == "heads-fewer"]
    assert "as the config of another part of the model says" in text
    first, second = found.attentions[0].weighed_facts
    assert (first.verdict, second.verdict) == ("not used", "used")


def test_of_several_other_parts_none_is_taken() -> None:
    audio = {"audio_config": {"hidden_size": 512, "num_attention_heads": 24, "head_dim": 32}}
    found = report(separate("vision_tower.blocks.0.attn", 768, 768, 512), config(**TOWERS, **audio))
    assert all_sizes(found) == [None]
    assert [fact.verdict for fact in found.attentions[0].weighed_facts] == ["not used"] * 3


def test_another_part_is_not_asked_where_a_rank_s_share_would_do() -> None:
    text = {"text_config": {"hidden_size": 512, "num_attention_heads": 2, "head_dim": 128}}
    vision = {"vision_config": {"hidden_size": 512, "num_attention_heads": 8}}
    found = report(separate("vision_tower.blocks.0.attn", 256, 256, 512), config(**text, **vision))
    assert all_sizes(found) == [None]
    said = [str(fact) for fact in found.attentions[0].weighed_facts]
    assert "4 heads of 64 rows, the share of one of 2 ranks" in said[0]
    assert "it is of another part of the model, though its heads would fit" in said[1]


def test_packed_bytes_are_named() -> None:
    shapes = separate("model.layers.0.self_attn", 64, 64, 128)
    tensors = {
        name: TensorInfo(name, DTYPES["uint8"], s, contiguous_strides(s), Region(None, 0, 0))  # pyright: ignore
        for name, s in shapes.items()
    }
    values = config(num_attention_heads=8, head_dim=16, hidden_size=128)
    found = inspect(Checkpoint("model", "test", 0, tensors, configs=(values,), modules={}), Options(norms=False))
    assert all_sizes(found) == [None]
    (text,) = [f.message for f in found.findings if f.code == "heads-do-not-fit"]
    assert "all 8 heads, 2 numbers in each uint8" in text
    assert "4 heads of 16 rows, the share of one of 2 ranks" in text


@pytest.fixture
def rank(tmp_path: Path) -> Path:
    """A rank's share, whose config gives no width of a head: two things would explain it."""
    shapes = {**separate("layers.0.self_attn", 128, 128, 256), **separate("layers.1.self_attn", 128, 128, 256)}
    torch.save({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "model.pt")
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 8, "hidden_size": 256}))
    return tmp_path / "model.pt"


WHY = "its heads have 32 rows, and 8 of them do not fit: it may hold 4 heads of 32 rows, the share of one of 2 ranks"


def test_show_why_puts_the_facts_side_by_side(rank: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(rank), "--why", "layers.0.*"]) == 0
    shown = capsys.readouterr().out
    assert "config:config.json:num_attention_heads  8 heads, 256 wide" in shown
    assert f"not used: {WHY}" in shown
    assert "Q 128 rows, K 128 rows, V 128 rows" in shown
    assert "allow 1, 2, 4, 8, 16, 32, 64, 128 heads" in shown
    assert "layers.1" not in shown


def test_explain_prints_the_same_table(rank: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["show", str(rank), "--why", "layers.0.self_attn"])
    table = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith(("  config:", "  shapes", "      "))
    ]
    assert len(table) == 4
    main(["explain", str(rank), "layers.0.self_attn"])
    explained = capsys.readouterr().out
    assert "\n".join(table) in explained
    assert "what the sources say of it does not fit the rows" in explained


def test_show_why_for_programs(rank: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["show", str(rank), "--why", "layers.0.self_attn", "--format", "csv"])
    first, second = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (first["source"], first["says"]) == ("config:config.json:num_attention_heads", "8 heads, 256 wide")
    assert second["source"] == "shapes"
    main(["show", str(rank), "--why", "layers.0.self_attn", "--format", "json"])
    (weighed,) = json.loads(capsys.readouterr().out)["weighed"]
    assert weighed["layer"] == "layers.0.self_attn"
    (fact,) = weighed["facts"]
    assert fact["verdict"] == "not used"
    assert fact["why"].startswith(WHY)


def test_what_the_weights_say_is_a_fact_beside_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sample of the repository with a config beside it that speaks of no width that its layers have."""
    sample = Path(__file__).parents[3] / "sample_checkpoints/trained.safetensors"
    copy = tmp_path / "model.safetensors"
    copy.write_bytes(sample.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 7}))
    main(["show", str(copy), "--why", "*", "--format", "json"])
    told = json.loads(capsys.readouterr().out)
    assert {attention["num_heads_from"] for attention in told["attentions"]} == {"weights"}
    for one in told["weighed"]:
        assert [(fact["source"], fact["verdict"]) for fact in one["facts"]] == [
            ("config:config.json:num_attention_heads", "not used"),
            ("weights", "used"),
        ]


def test_why_does_not_go_with_other_views(rank: Path) -> None:
    assert main(["show", str(rank), "--why", "*", "--per-head"]) == 2
    assert main(["show", str(rank), "--why", "*", "--tensors"]) == 2


def test_a_list_of_stages_is_named_by_the_entry_that_was_read() -> None:
    """SegFormer's ``num_attention_heads`` has an entry for each stage: the first number in a layer's name."""
    sizes = {0: 32, 1: 64, 3: 256}
    names = {stage: f"segformer.encoder.block.{stage}.1.attention.self" for stage in sizes}
    shapes = {
        f"{names[stage]}.{part}.weight": (size, size)
        for stage, size in sizes.items()
        for part in ("query", "key", "value")
    }
    found = of_shapes(shapes, {"model_type": "segformer", "num_attention_heads": [1, 2, 5, 8]})
    assert {one.layer: (one.heads and one.heads.num_heads, one.heads_from[-4:]) for one in found.attentions} == {
        names[0]: (1, "s[0]"), names[1]: (2, "s[1]"), names[3]: (8, "s[3]"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("said", "fits"),
    [
        ({"num_attention_heads": 8}, True),
        ({"num_attention_heads": 8, "num_key_value_heads": 8}, True),
        ({"num_attention_heads": 8, "num_key_value_heads": 2}, False),
        ({"num_attention_heads": 8, "tensor_model_parallel_size": 2}, False),
    ],
    ids=["heads", "as many kv heads", "shared kv heads", "a rank's share"],
)
def test_three_of_eight_heads_are_what_pruning_left_where_none_are_shared_by_heads_or_ranks(
    said: dict[str, int], fits: bool
) -> None:
    found = report(separate("layers.0.self_attn", 48, 48, 128), config(head_dim=16, hidden_size=128, **said))
    assert all_sizes(found) == [(3, 3, 16) if fits else None]
    assert ("heads-fewer" in codes(found)) == fits
