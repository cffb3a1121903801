"""Some layers NF4, some bfloat16, the scales in another shard; and states that say another block or bits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.diff.test_heads import nf4, original
from tests.weights.shards import save_shards

State = dict[str, torch.Tensor]


@pytest.fixture
def mixed(tmp_path: Path) -> tuple[Path, State]:
    """Layer 0 in NF4, its scales in the second shard; layer 1 in bfloat16."""
    state = original(11)
    codes: State = {}
    for name, weight in state.items():
        stored = nf4(name.removesuffix(".weight"), weight) if "l.0." in name else {name: weight.to(torch.bfloat16)}
        codes |= stored
    shards = [{}, {}]
    for name, value in codes.items():
        shards[name.endswith("absmax") or "l.1." in name][name] = value
    save_shards(tmp_path, shards)
    return tmp_path, state


@pytest.mark.gate
def test_a_mixed_checkpoint(mixed, tmp_path: Path, run) -> None:
    folder, state = mixed
    (tmp_path / "plain").mkdir()
    twin = tmp_path / "plain" / "model.safetensors"
    save_file(state, twin)
    found = run("diff", twin, folder, "--heads", "8/4", "--no-evidence")
    assert found.code == 0, found.out
    assert "within its rounding in 1 of 1 layers" in found.out
    shown = run("show", folder, "--heads", "8/4").out
    assert "bits a weight" in shown
    assert "bfloat16" in shown


@pytest.mark.parametrize(
    "change", [{"blocksize": 128}, {"blocksize": 1 << 60}, {"quant_type": "int8"}, {"shape": [7, 9]}, {"blocksize": 0}]
)
def test_a_state_that_says_something_else(mixed, change: dict[str, object], run) -> None:
    folder, _ = mixed
    path = folder / "model-00001-of-00002.safetensors"
    state = load_file(path)
    name = "l.0.self_attn.q_proj.weight.quant_state.bitsandbytes__nf4"
    said = {**json.loads(bytes(state[name].tolist())), **change}
    state[name] = torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)
    save_file(state, path)
    found = run("check", folder, "--heads", "8/4", "--no-evidence")
    assert (found.code, "Traceback" in found.err) == (1, False)
    assert "no-values" in found.out
