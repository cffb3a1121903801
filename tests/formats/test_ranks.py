"""Files of ranks read as one checkpoint: what is joined is what was cut, bit for bit."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from qkvinspect.checkpoint import Checkpoint
from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.finding_codes import FindingCode
from qkvinspect.formats import open_checkpoint
from qkvinspect.formats.expand import expand
from qkvinspect.inspection import Options, inspect
from tests.formats import ranks

Content = Callable[..., bytes]


def require_same(checkpoint: Checkpoint, whole: dict[str, Tensor], content: Content, tensor_bytes: Content) -> None:
    assert set(checkpoint.tensors) == set(whole)
    for name, tensor in whole.items():
        info = checkpoint.tensors[name]
        assert info.shape == tuple(tensor.shape), name
        read = (
            content(info) if len(info.shape) > 1 else info.region.read(info.offset * info.dtype.bits // 8, info.nbytes)
        )
        assert read == tensor_bytes(tensor), name


def codes(checkpoint: Checkpoint) -> list[FindingCode]:
    return [finding.code for finding in checkpoint.findings]


@pytest.mark.parametrize(
    ("count", "stages", "heads", "kv_heads"),
    [(2, 1, 8, 4), (4, 1, 8, 8), (8, 1, 8, 2), (8, 1, 8, 1), (2, 3, 8, 2), (1, 2, 4, 4)],
)
def test_megatron_core(count, stages, heads, kv_heads, tmp_path, content, tensor_bytes) -> None:
    """The rows of ranks follow each other even where a rank holds less than a kv head."""
    whole = ranks.megatron_core(heads, kv_heads, 8, 6)
    args = {"num_attention_heads": heads, "num_query_groups": kv_heads, "kv_channels": 8, "hidden_size": 64}
    ranks.save_megatron(tmp_path / "iter_0000005", whole, count, stages, **args)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("5")
    with open_checkpoint(tmp_path) as checkpoint:
        require_same(checkpoint, whole, content, tensor_bytes)
        assert codes(checkpoint) == [FindingCode.RANKS_JOINED]
        assert (checkpoint.num_files, checkpoint.format) == (count * stages, "ranks-torch-zip")
        found = inspect(checkpoint, Options(norms=False))
        assert len(found.attentions) == 6
        for attention in found.attentions:
            sizes = attention.heads
            assert attention.layout
            assert sizes
            assert attention.layout.id == "megatron-core"
            assert (sizes.num_heads, sizes.num_kv_heads, sizes.head_dim) == (heads, kv_heads, 8)


@pytest.mark.parametrize("version", [0, 1.0, 2.0, 3.0])
def test_megatron_before_core(version, tmp_path, content, tensor_bytes) -> None:
    """Version 0 has Q, K and V in blocks on every rank, later ones by heads, which are cut as they lie."""
    name = "language_model.encoder.layers.0"
    whole = {
        f"{name}.self_attention.query_key_value.weight": ranks.draw(96, 32),
        f"{name}.self_attention.query_key_value.bias": ranks.draw(96),
        f"{name}.self_attention.dense.weight": ranks.draw(32, 32),
        f"{name}.self_attention.dense.bias": ranks.draw(32),
        f"{name}.mlp.dense_h_to_4h.weight": ranks.draw(128, 32),
        f"{name}.mlp.dense_4h_to_h.weight": ranks.draw(32, 128),
        "language_model.embedding.position_embeddings.weight": ranks.draw(8, 32),
    }
    ranks.save_megatron(tmp_path, whole, 4, version=version, num_attention_heads=4)
    with open_checkpoint(tmp_path) as checkpoint:
        require_same(checkpoint, whole, content, tensor_bytes)


def whole_of(layers: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    return ranks.vllm_rank(layers, 1 << 20, 0, 1)


@pytest.mark.parametrize("count", [2, 4, 8])
@pytest.mark.parametrize("kv_heads", [1, 2, 8])
@pytest.mark.parametrize("config", [True, False], ids=["with config", "without"])
def test_vllm(kv_heads, count, config, tmp_path, content, tensor_bytes) -> None:
    """One copy of each kv head is kept, whether a config or the bytes say how many there are."""
    layers = ranks.llama(8, kv_heads, 8)
    ranks.save_vllm(tmp_path, layers, kv_heads, count)
    if config:
        (tmp_path / "config.json").write_text(
            json.dumps({"model_type": "llama", "num_attention_heads": 8, "num_key_value_heads": kv_heads})
        )
    with open_checkpoint(tmp_path) as checkpoint:
        require_same(checkpoint, whole_of(layers), content, tensor_bytes)
        copied = [FindingCode.KV_HEADS_COPIED] if count > kv_heads else []
        assert codes(checkpoint) == [FindingCode.RANKS_JOINED, *copied]


@pytest.mark.parametrize("kv_heads", [2, 8])
def test_which_rank_holds_what(kv_heads, tmp_path) -> None:
    """What the shares say, done with torch: the rows are those of the joined tensor."""
    layers = ranks.llama(8, kv_heads, 8, layers=1)
    ranks.save_vllm(tmp_path, layers, kv_heads, 4)
    own: list[dict[str, Tensor]] = [{}, {}, {}, {}]
    for path in tmp_path.iterdir():
        own[int(path.name.split("-")[2])] |= load_file(path)
    whole = whole_of(layers)
    with open_checkpoint(tmp_path) as checkpoint:
        assert set(checkpoint.shares) == {name for name in whole if "norm" not in name}
        for name, shares in checkpoint.shares.items():
            assert sum(share.stop - share.start for share in shares) == whole[name].shape[shares[0].axis]
            for share in shares:
                size = share.stop - share.start
                here = whole[name].narrow(share.axis, share.start, size)
                assert torch.equal(own[share.rank][name].narrow(share.axis, share.local, size), here)


def test_separate_projections(tmp_path, content, tensor_bytes) -> None:
    whole = {
        "layers.0.self_attn.q_proj.weight": ranks.draw(64, 32),
        "layers.0.self_attn.k_proj.weight": ranks.draw(16, 32),
        "layers.0.self_attn.k_proj.bias": torch.zeros(16),
        "layers.0.self_attn.v_proj.weight": ranks.draw(16, 32),
        "layers.0.self_attn.o_proj.weight": ranks.draw(32, 64),
    }
    for rank in range(4):
        q, k, v = ranks.vllm_qkv(*(whole[f"layers.0.self_attn.{part}_proj.weight"] for part in "qkv"), 2, rank, 4)
        share = {f"layers.0.self_attn.{part}_proj.weight": one for part, one in zip("qkv", (q, k, v), strict=True)}
        share["layers.0.self_attn.k_proj.bias"] = torch.zeros(8)
        share["layers.0.self_attn.o_proj.weight"] = whole["layers.0.self_attn.o_proj.weight"].chunk(4, 1)[rank]
        save_file(
            {name: one.contiguous() for name, one in share.items()}, tmp_path / f"model-rank-{rank}-part-0.safetensors"
        )
    with open_checkpoint(tmp_path) as checkpoint:
        require_same(checkpoint, whole, content, tensor_bytes)


def test_two_heads_that_differ_are_no_copies_though_both_are_zero(tmp_path) -> None:
    layers = ranks.llama(8, 8, 8)
    for parts in layers.values():
        parts["k"].zero_()
        parts["v"].zero_()
    ranks.save_vllm(tmp_path, layers, 8, 8)
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.tensors["model.layers.0.self_attn.qkv_proj.weight"].shape == (192, 64)


def edited(folder: Path, rank: int, edit: Callable[[dict[str, Tensor]], None]) -> None:
    path = folder / f"model-rank-{rank}-part-0.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


def test_copies_that_differ(tmp_path) -> None:
    """A norm, and a kv head that a config says two ranks share."""
    ranks.save_vllm(tmp_path, ranks.llama(8, 2, 8), 2, 4)
    (tmp_path / "config.json").write_text('{"num_attention_heads": 8, "num_key_value_heads": 2}')

    def edit(tensors: dict[str, Tensor]) -> None:
        tensors["model.layers.0.input_layernorm.weight"][3] += 1
        tensors["model.layers.0.self_attn.qkv_proj.weight"][-1] += 1

    edited(tmp_path, 3, edit)
    with open_checkpoint(tmp_path) as checkpoint:
        said = [(finding.code, finding.message) for finding in checkpoint.findings]
    name, held = "model.layers.{}.self_attn.qkv_proj.weight", "each kv head is held by 2 ranks, which"
    norm = (
        "model.layers.0.input_layernorm.weight should be the same on every rank and differs: that of rank 0 was taken"
    )
    odd = f"{name.format(0)}: {held} should hold the same and differ: that of the first was taken"
    same = f"{name.format(1)}: {held} hold the same: one copy was kept"
    assert said[1:] == [
        (FindingCode.RANKS_DIFFER, norm),
        (FindingCode.RANKS_DIFFER, odd),
        (FindingCode.KV_HEADS_COPIED, same),
    ]


def test_what_nobody_knows_how_to_join_is_left_out_and_named(tmp_path) -> None:
    ranks.save_vllm(tmp_path, ranks.llama(8, 8, 8), 8, 2)
    for rank in range(2):
        edited(
            tmp_path, rank, lambda tensors, rank=rank: tensors.update({"mixer.conv": torch.full((4, 4), 1.0 + rank)})
        )
        edited(tmp_path, rank, lambda tensors: tensors.update({"step": torch.ones(2)}))
    with open_checkpoint(tmp_path) as checkpoint:
        assert "mixer.conv" not in checkpoint.tensors
        assert "step" in checkpoint.tensors
        finding = next(finding for finding in checkpoint.findings if finding.code is FindingCode.RANKS_NOT_JOINED)
        assert "mixer.conv" in finding.message


def deepspeed(rank: int, ranks_in_all: int) -> dict[str, object]:
    weight = torch.arange(96.0 * 32).reshape(96, 32)
    module = {
        "transformer.layers.0.attention.query_key_value.weight": weight.chunk(ranks_in_all)[rank].clone(),
        "transformer.layers.0.attention.dense.weight": torch.eye(32).chunk(ranks_in_all, 1)[rank].clone(),
    }
    return {"module": module, "mp_world_size": ranks_in_all, "dp_world_size": 1, "optimizer": None}


def test_deepspeed_latest(tmp_path) -> None:
    (tmp_path / "latest").write_text("global_step40")
    (tmp_path / "zero_to_fp32.py").write_text("")
    for step in (20, 40):
        (tmp_path / f"global_step{step}").mkdir()
        for rank in range(2):
            torch.save(deepspeed(rank, 2), tmp_path / f"global_step{step}/mp_rank_{rank:02}_model_states.pt")
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.path.endswith("global_step40")
        assert checkpoint.tensors["transformer.layers.0.attention.query_key_value.weight"].shape == (96, 32)
        assert checkpoint.tensors["transformer.layers.0.attention.dense.weight"].shape == (32, 32)


def test_one_rank_that_is_all_there_is(tmp_path) -> None:
    """ZeRO stage 0: no script is needed, and nothing is a share."""
    (tmp_path / "latest").write_text("global_step40\n")
    (tmp_path / "global_step40").mkdir()
    torch.save(deepspeed(0, 1), tmp_path / "global_step40/mp_rank_00_model_states.pt")
    with open_checkpoint(tmp_path) as checkpoint:
        found = inspect(checkpoint, Options(norms=False))
        assert found.attentions
        assert FindingCode.TENSOR_PARALLEL not in {finding.code for finding in found.findings}


def test_a_pipeline_of_deepspeed(tmp_path) -> None:
    """A file a layer and rank; the names in it are those below the layer."""
    for layer in (2, 3):
        for rank in range(2):
            share = {"attention.query_key_value.weight": torch.full((48, 32), float(10 * layer + rank))}
            torch.save(share, tmp_path / f"layer_{layer:02}-model_{rank:02}-model_states.pt")
    with open_checkpoint(tmp_path) as checkpoint:
        assert list(checkpoint.tensors) == [f"sequential.{layer}.attention.query_key_value.weight" for layer in (2, 3)]
        assert all(info.shape == (96, 32) for info in checkpoint.tensors.values())
    (tmp_path / "layer_03-model_01-model_states.pt").unlink()
    with pytest.raises(CheckpointError, match=r"rank 1 for sequential\.3") as caught:
        open_checkpoint(tmp_path)
    assert caught.value.code is Code.RANKS


@pytest.mark.parametrize("form", ["mp_rank_{:02}", "tp_rank_{:02}_pp_rank_000"])
def test_nemo(form, tmp_path) -> None:
    (tmp_path / "model_config.yaml").write_text("tensor_model_parallel_size: 2\nnum_attention_heads: 4\n")
    for rank in range(2):
        (tmp_path / form.format(rank)).mkdir()
        share = {"model.decoder.layers.0.self_attention.linear_qkv.weight": torch.full((48, 32), float(rank))}
        torch.save(share, tmp_path / form.format(rank) / "model_weights.ckpt")
    with open_checkpoint(tmp_path) as checkpoint:
        (info,) = checkpoint.tensors.values()
        assert info.shape == (96, 32)
        assert checkpoint.configs[0].values["num_attention_heads"] == 4


def test_virtual_stages(tmp_path) -> None:
    """Two stages with two chunks of one layer each: the layers of the model are 0 and 2 of stage 0, 1 and 3 of 1."""
    for stage in range(2):
        (tmp_path / f"mp_rank_00_{stage:03}").mkdir()
        saved: dict[str, object] = {"checkpoint_version": 3.0}
        for chunk in range(2):
            name = "decoder.layers.0.self_attention.linear_qkv.weight"
            saved[f"model{chunk}"] = {name: torch.full((12, 4), float(2 * chunk + stage))}
        torch.save(saved, tmp_path / f"mp_rank_00_{stage:03}/model_optim_rng.pt")
    with open_checkpoint(tmp_path) as checkpoint:
        assert len(checkpoint.tensors) == 4
        for layer in range(4):
            info = checkpoint.tensors[f"decoder.layers.{layer}.self_attention.linear_qkv.weight"]
            first = info.region.read(info.offset * 4, 4)
            assert torch.frombuffer(bytearray(first), dtype=torch.float32).item() == layer


def test_in_a_store(tmp_path, content, tensor_bytes) -> None:
    """The folder of all ranks, and the one above it, through fsspec: joined as on this machine, config and all."""
    whole = ranks.megatron_core(8, 2, 8, 2)
    args = {"num_attention_heads": 8, "num_query_groups": 2, "kv_channels": 8, "hidden_size": 64}
    ranks.save_megatron(tmp_path / "iter_0000005", whole, 4, **args)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("5")
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 8}))
    system = fsspec.filesystem("memory")
    system.put(str(tmp_path), "/ranks", recursive=True)
    try:
        for url in ("memory://ranks", "memory://ranks/iter_0000005"):
            with open_checkpoint(url) as checkpoint:
                require_same(checkpoint, whole, content, tensor_bytes)
                assert (checkpoint.path, checkpoint.num_files) == ("memory://ranks/iter_0000005", 4)
                found = inspect(checkpoint, Options(norms=False)).attentions[0].heads
                assert found
                assert (found.num_heads, found.num_kv_heads) == (8, 2)
                checkpoint.check()
    finally:
        system.rm("/ranks", recursive=True)


def test_one_rank_that_a_store_lacks(tmp_path) -> None:
    ranks.save_megatron(tmp_path, ranks.megatron_core(8, 4, 8, 2), 4)
    system = fsspec.filesystem("memory")
    system.put(str(tmp_path), "/ranks", recursive=True)
    system.rm("/ranks/mp_rank_02", recursive=True)
    try:
        with pytest.raises(CheckpointError, match="rank 2") as caught:
            open_checkpoint("memory://ranks")
        assert caught.value.file == "memory://ranks"
    finally:
        system.rm("/ranks", recursive=True)


def test_a_missing_rank(tmp_path) -> None:
    ranks.save_megatron(tmp_path, ranks.megatron_core(8, 4, 8, 2), 4)
    (tmp_path / "mp_rank_02/model_optim_rng.pt").unlink()
    (tmp_path / "mp_rank_02").rmdir()
    with pytest.raises(CheckpointError, match="rank 2") as caught:
        open_checkpoint(tmp_path)
    assert caught.value.code is Code.RANKS


def test_the_last_rank_is_missing(tmp_path) -> None:
    """The files that are there are in a row; that they are not all, only the checkpoint itself says."""
    ranks.save_megatron(tmp_path, ranks.megatron_core(8, 4, 8, 2), 4)
    (tmp_path / "mp_rank_03/model_optim_rng.pt").unlink()
    (tmp_path / "mp_rank_03").rmdir()
    with pytest.raises(CheckpointError, match="all tensor-parallel ranks") as caught:
        open_checkpoint(tmp_path)
    assert (caught.value.code, caught.value.expected, caught.value.found) == (Code.RANKS, "4", "3")


def test_a_trainers_folder_is_its_own_checkpoint(tmp_path) -> None:
    """transformers' Trainer leaves DeepSpeed's ``latest`` beside the model that it saved whole."""
    (tmp_path / "latest").write_text("global_step1")
    (tmp_path / "global_step1").mkdir()
    torch.save(deepspeed(0, 1), tmp_path / "global_step1/mp_rank_00_model_states.pt")
    save_file({"own": torch.ones(2)}, tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path) as checkpoint:
        assert list(checkpoint.tensors) == ["own"]


@pytest.mark.parametrize("text", ["../elsewhere", "/etc", "", "a/b", "\x00", "global_step9"])
def test_a_tracker_that_leads_nowhere(text, tmp_path) -> None:
    (tmp_path / "latest").write_text(text)
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("kv_heads", [2, 8])
def test_each_head_with_its_ranks(kv_heads, tmp_path) -> None:
    """Of eight heads on four ranks each holds two; of two kv heads each lies on two ranks."""
    ranks.save_vllm(tmp_path, ranks.llama(8, kv_heads, 8, layers=1), kv_heads, 4)
    with open_checkpoint(tmp_path) as checkpoint:
        (found,) = inspect(checkpoint, Options(heads=(f"8/{kv_heads}",), norms=False)).to_dict()["attentions"]
    assert [head["ranks"] for head in found["q"]["heads"]] == [[head // 2] for head in range(8)]
    kv_ranks = [[0, 1], [2, 3]] if kv_heads == 2 else [[head // 2] for head in range(8)]
    for part in "kv":
        assert [head["ranks"] for head in found[part]["heads"]] == kv_ranks


def test_a_kv_head_that_megatron_cuts(tmp_path) -> None:
    """More ranks than kv heads: Megatron-Core cuts the rows evenly, whatever they are."""
    ranks.save_megatron(tmp_path, ranks.megatron_core(4, 1, 8, 1), 2, num_attention_heads=4, num_query_groups=1)
    with open_checkpoint(tmp_path) as checkpoint:
        (found,) = inspect(checkpoint, Options(norms=False)).attentions
    assert [part.head_ranks for part in found.parts] == [((0,), (0,), (0,), (1,)), ((1,),), ((1,),)]


def test_every_iteration_of_a_run_is_one_checkpoint(tmp_path) -> None:
    """The tracker file leads to the latest; who asks for all of a folder gets all."""
    whole = ranks.megatron_core(4, 4, 8, 1)
    for number in (5, 10):
        ranks.save_megatron(tmp_path / f"iter_{number:07}", whole, 2)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("10")
    assert [Path(path).name for path in expand([str(tmp_path)])] == ["iter_0000005", "iter_0000010"]
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.path.endswith("iter_0000010")


@pytest.mark.parametrize("differs", [False, True])
def test_embeddings_that_two_stages_hold(differs, tmp_path) -> None:
    for stage in range(2):
        (tmp_path / f"mp_rank_00_{stage:03}").mkdir()
        model = {
            "embedding.word_embeddings.weight": torch.ones(4, 4) * (1 + stage * differs),
            "decoder.layers.0.self_attention.linear_qkv.weight": torch.randn(12, 4),
        }
        torch.save({"model": model, "checkpoint_version": 3.0}, tmp_path / f"mp_rank_00_{stage:03}/model_optim_rng.pt")
    with open_checkpoint(tmp_path) as checkpoint:
        assert len(checkpoint.tensors) == 3
        assert (FindingCode.RANKS_DIFFER in codes(checkpoint)) is differs


def test_what_vllm_calls_as_the_library_does_but_packs_in_blocks(tmp_path, content, tensor_bytes) -> None:
    """Its GPT-NeoX, BLOOM and Falcon hold query_key_value as [q; k; v]; transformers' by heads."""
    name = "gpt_neox.layers.0.attention"
    q, k, v = (ranks.draw(64, 64) for _ in range(3))
    dense = ranks.draw(64, 64)
    for rank in range(2):
        qkv = torch.cat(ranks.vllm_qkv(q, k, v, 8, rank, 2))
        own = {f"{name}.query_key_value.weight": qkv, f"{name}.dense.weight": dense.chunk(2, 1)[rank].contiguous()}
        save_file(own, tmp_path / f"model-rank-{rank}-part-0.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "gpt_neox", "num_attention_heads": 8}')
    with open_checkpoint(tmp_path) as checkpoint:
        info = checkpoint.tensors[f"{name}.query_key_value.weight"]
        assert content(info) == tensor_bytes(torch.cat([q, k, v]))
        (found,) = inspect(checkpoint, Options(norms=False)).attentions
        assert [part.rows for part in found.parts] == [(range(64),), (range(64, 128),), (range(128, 192),)]
        assert [len(part.heads) for part in found.parts] == [8, 8, 8]


def test_ranks_of_experts_are_not_taken_for_stages(tmp_path) -> None:
    """Without pipeline parallelism Megatron names the folder of an expert's rank as it names that of a stage."""
    for rank in range(2):
        (tmp_path / f"mp_rank_00_{rank:03}").mkdir()
        model = {"decoder.layers.0.self_attention.linear_qkv.weight": torch.zeros(12, 4)}
        saved = {"model": model, "args": argparse.Namespace(expert_model_parallel_size=2), "checkpoint_version": 3.0}
        torch.save(saved, tmp_path / f"mp_rank_00_{rank:03}/model_optim_rng.pt")
    with pytest.raises(CheckpointError, match="ranks of expert parallelism, which are not joined"):
        open_checkpoint(tmp_path)
