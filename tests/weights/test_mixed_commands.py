"""Checkpoints of which some layers are NF4 or float8 and some bfloat16, their scales in another shard, through every
command; and an index that names the wrong shard."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import qkvinspect
from tests.diff.test_heads import NF4, float8, nf4, original
from tests.weights.shards import save_shards

State = dict[str, torch.Tensor]
HEADS = ("--heads", "8/4", "--no-evidence")


def nf4_numbers(weight: torch.Tensor) -> torch.Tensor:
    blocks = weight.reshape(-1, 64)
    absmax = blocks.abs().amax(dim=1, keepdim=True)
    return (NF4[((blocks / absmax)[..., None] - NF4).abs().argmin(dim=-1)] * absmax).reshape(weight.shape)


def float8_numbers(weight: torch.Tensor) -> torch.Tensor:
    found = float8("w", weight)
    wide = found["w.weight_scale_inv"].repeat_interleave(16, 0).repeat_interleave(64, 1)
    return found["w.weight"].float() * wide


WAYS: dict[str, tuple[Callable[[str, torch.Tensor], State], Callable[[torch.Tensor], torch.Tensor], str]] = {
    "nf4": (nf4, nf4_numbers, "absmax"),
    "float8": (float8, float8_numbers, "weight_scale_inv"),
}


@pytest.fixture(params=WAYS)
def mixed(request, tmp_path: Path) -> tuple[Path, State]:
    """Layer 0 in codes, its scales in the second shard; layer 1 in bfloat16; and the numbers of both."""
    quantise, numbers, scale = WAYS[request.param]
    shards: list[State] = [{}, {}]
    values: State = {}
    for name, weight in original(11).items():
        coded = "l.0." in name
        stored = quantise(name.removesuffix(".weight"), weight) if coded else {name: weight.bfloat16()}
        values[name] = numbers(weight) if coded else weight.bfloat16().float()
        for key, value in stored.items():
            shards[key.endswith(scale) or not coded][key] = value
    folder = tmp_path / "mixed"
    folder.mkdir()
    save_shards(folder, shards)
    return folder, values


def test_every_command_sees_the_numbers(mixed, tmp_path: Path, run) -> None:
    folder, values = mixed
    twin = tmp_path / "twin.safetensors"
    save_file(values, twin)
    assert run("diff", twin, folder, *HEADS).code == 0
    shown, plain = (run("show", path, *HEADS, "-f", "json").json()["attentions"] for path in (folder, twin))
    for one, other in zip(shown, plain, strict=True):
        for part in "qkv":
            norms = [[head["norm"] for head in side[part]["heads"]] for side in (one, other)]
            assert norms[0] == pytest.approx(norms[1], rel=1e-6)
    mine, theirs = (run("analyze", path, *HEADS, "-f", "json").json()["layers"] for path in (folder, twin))
    for one, other in zip(mine, theirs, strict=True):
        for head, same in zip(one["heads"], other["heads"], strict=True):
            assert head["qk"] == pytest.approx(same["qk"], rel=1e-4, abs=1e-6)
    checked = run("check", folder, *HEADS)
    assert "no-values" not in checked.out
    for layer in ("l.0.self_attn", "l.1.self_attn"):
        assert run("explain", folder, layer, *HEADS).code == 0
    assert run("report", folder, "-o", tmp_path / "report.html", *HEADS).code == 0
    out = tmp_path / "out.safetensors"
    assert run("export", "--split", folder, "-o", out, "--dequantize", "float32", *HEADS).code == 0
    written = load_file(out)
    assert all(torch.equal(written[name].float(), values[name]) for name in written if "o_proj" not in name)
    with qkvinspect.open(folder, heads="8/4") as checkpoint:
        for layer in ("l.0.self_attn", "l.1.self_attn"):
            found = checkpoint.attentions[layer].v.torch().float()
            assert torch.equal(found, values[f"{layer}.v_proj.weight"])


def test_an_index_that_names_the_other_shard(mixed, run) -> None:
    """Of a tensor of scales: its own shard has it, the one that is named has not."""
    folder, _ = mixed
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    scale = next(name for name in index["weight_map"] if name.endswith(("absmax", "weight_scale_inv")))
    index["weight_map"][scale] = "model-00001-of-00002.safetensors"
    path.write_text(json.dumps(index))
    for command in ("show", "check", "analyze"):
        found = run(command, folder, *HEADS)
        assert found.code in (1, 2), found.out
        assert scale in found.out + found.err
        assert "Traceback" not in found.err


def test_a_shard_with_the_scales_that_is_gone(mixed, run) -> None:
    folder, _ = mixed
    (folder / "model-00002-of-00002.safetensors").unlink()
    found = run("check", folder, *HEADS)
    assert found.code in (1, 2)
    assert "model-00002-of-00002.safetensors" in found.out + found.err
