"""`qkvinspect analyze` beside WeightWatcher and a plain script that takes the circuits as full matrices.

    python -m venv peers && peers/bin/pip install -c constraints.txt torch weightwatcher==0.7.7
    python tests/benchmarks/analysis.py peers/bin | tee tests/benchmarks/ANALYSIS.md

The script reckons the singular values of W_Q^T W_K and W_O W_V, [1024, 1024], in float64 with torch.linalg, and
takes so long that there are eight layers only. WeightWatcher does not see in_proj_weight, so it is given Q, K, V and
the output projection as four nn.Linear of the same values; it knows neither heads nor circuits. Figures are compared
before times.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch
from processes import QKVINSPECT, interleaved, run
from safetensors.torch import save_file

WIDTH, HEADS, LAYERS = 1024, 16, 8

SCRIPT = """
import json, sys, torch
from safetensors.torch import load_file
heads = int(sys.argv[2])
state = load_file(sys.argv[1])
for name in [name for name in state if name.endswith("in_proj_weight")]:
    q, k, v = (part.double().unflatten(0, (heads, -1)) for part in state[name].chunk(3))
    o = state[name.replace("in_proj_weight", "out_proj.weight")].double().unflatten(1, (heads, -1)).transpose(0, 1)
    for head in range(heads):
        both = [torch.linalg.svdvals(q[head].T @ k[head]), torch.linalg.svdvals(o[head] @ v[head])]
        print(json.dumps([float(values[0]) for values in both]))
"""

WATCHER = """
import json, logging, sys, torch, weightwatcher
from safetensors.torch import load_file
logging.disable(logging.CRITICAL)
model = torch.nn.Module()
for name, value in load_file(sys.argv[1]).items():
    parts = value.chunk(3) if name.endswith("in_proj_weight") else [value]
    for number, part in enumerate(parts):
        linear = torch.nn.Linear(*reversed(part.shape), bias=False)
        linear.weight.data = part.clone()
        model.add_module(f"{name}_{number}".replace(".", "_"), linear)
details = weightwatcher.WeightWatcher(model=model).analyze(plot=False)
print(json.dumps([[row.longname, row.spectral_norm, row.stable_rank] for row in details.itertuples()]))
"""


def write(folder: Path) -> Path:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(WIDTH, HEADS, 16)
    model = torch.nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
    for block in model.layers:
        torch.nn.init.normal_(block.self_attn.in_proj_weight, std=0.03)
    state = {name: value for name, value in model.state_dict().items() if "self_attn" in name and "weight" in name}
    save_file(state, folder / "model.safetensors")
    return folder / "model.safetensors"


def main(peers: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, cache = write(Path(folder)), Path(folder) / "cache"
        commands: dict[str, list[str | Path]] = {
            "`qkvinspect analyze --no-evidence`": [
                *QKVINSPECT,
                "analyze",
                path,
                "--heads",
                str(HEADS),
                "--no-evidence",
                "-f",
                "json",
            ],
            "torch: the circuits as full matrices": [peers / "python", "-c", SCRIPT, path, str(HEADS)],
            "WeightWatcher: four matrices a layer": [peers / "python", "-c", WATCHER, path],
        }
        agree(*(run(command, cache)[1].decode() for command in commands.values()))
        taken = interleaved(commands, 3, cache)
    print(
        f"{LAYERS} layers, {WIDTH} wide, {HEADS} heads, float32; all find the same figures. Medians of 3 runs in turn."
    )
    print("\n| | seconds | times the first | peak MB |\n| --- | --- | --- | --- |")
    first = next(iter(taken.values())).seconds
    for name, took in taken.items():
        print(f"| {name} | {took.seconds:.2f} | {took.seconds / first:.1f} | {took.megabytes:.0f} |")


def agree(ours: str, script: str, watcher: str) -> None:
    layers = json.loads(ours)["layers"]
    circuits = [[head[name]["largest"] for name in ("qk", "ov")] for layer in layers for head in layer["heads"]]
    theirs = [json.loads(line) for line in script.splitlines()]
    assert torch.allclose(
        torch.tensor(circuits, dtype=torch.float64), torch.tensor(theirs, dtype=torch.float64), rtol=1e-8
    )
    seen = {name: values for name, *values in json.loads(watcher.splitlines()[-1])}
    for layer in layers:
        prefix = layer["layer"].replace(".", "_")
        for number, part in enumerate("qkv"):
            norm, rank = seen[f"{prefix}_in_proj_weight_{number}"]
            whole = layer["parts"][part]
            # its spectral norm is the greatest eigenvalue of W^T W
            assert abs(norm**0.5 / whole["largest"] - 1) < 1e-5, (norm, whole)
            assert abs(rank / whole["stable_rank"] - 1) < 1e-5, (rank, whole)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
