"""Make the sample checkpoints with the real torch modules, and the golden outputs beside them.

python sample_checkpoints/generate.py            # checkpoints and goldens
python sample_checkpoints/generate.py --golden   # only the goldens, from the checkpoints that are there

trained.safetensors is kept as it is: the attention, in bfloat16, of torch-encoder-64 after 1,000 steps of AdamW by
tests/evidence/train.py.
"""

from __future__ import annotations

import io
import json
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

HERE = Path(__file__).parent


def samples() -> list[str]:
    """Every sample, as a user would name it from this folder."""
    files = [p.name for p in HERE.iterdir() if p.suffix in (".pt", ".safetensors")]
    folders = [p.name for p in HERE.iterdir() if p.is_dir() and not p.name.startswith(("_", "."))]
    return sorted(files + folders)


def golden_text(sample: str) -> str:
    """What ``show --per-head`` prints of a sample, and its exit code."""
    code, out, err = _run("show", "--per-head", sample)
    return f"$ qkvinspect show --per-head {sample}\n{out}{err}[exit {code}]\n"


def golden_report(sample: str) -> object:
    """What ``show --format json`` prints of a sample."""
    _, out, _ = _run("show", "--format", "json", sample)
    return json.loads(out)


def _run(*argv: str) -> tuple[int, str, str]:
    from qkvinspect.cli import main

    out, err, before = io.StringIO(), io.StringIO(), Path.cwd()
    os.chdir(HERE)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = main(argv)
    finally:
        os.chdir(before)
    return code, out.getvalue(), err.getvalue()


def write_goldens() -> None:
    for sample in samples():
        (HERE / f"{sample}.txt").write_text(golden_text(sample))
        (HERE / f"{sample}.json").write_text(json.dumps(golden_report(sample), indent=1) + "\n")


def write_checkpoints() -> None:
    import torch

    warnings.filterwarnings("ignore", message="enable_nested_tensor")
    for make in MAKERS:
        torch.manual_seed(0)
        make()


def transformer() -> None:
    """The question of the README, small: encoder and decoder, as .pt and as .safetensors."""
    import torch
    from safetensors.torch import save_file

    state = torch.nn.Transformer(16, 2, 1, 1, 16).state_dict()
    torch.save(state, HERE / "transformer.pt")
    save_file(dict(state), HERE / "transformer.safetensors", metadata={"format": "pt"})


def kdim_vdim() -> None:
    """Three weights, one packed bias. The config beside it has the same name."""
    import torch

    torch.save(torch.nn.MultiheadAttention(16, 4, kdim=12, vdim=8).state_dict(), HERE / "kdim_vdim.pt")
    (HERE / "kdim_vdim.yaml").write_text("model:\n  d_model: 16\n  nhead: 4\n")


def no_bias() -> None:
    import torch
    from safetensors.torch import save_file

    layers = torch.nn.ModuleDict({"self_attn": torch.nn.MultiheadAttention(16, 4, bias=False)})
    save_file(layers.to(torch.bfloat16).state_dict(), HERE / "no_bias.safetensors")


def add_bias_kv() -> None:
    import torch

    torch.save(torch.nn.MultiheadAttention(16, 4, add_bias_kv=True).state_dict(), HERE / "add_bias_kv.pt")


def training() -> None:
    """A model in DataParallel, its average, its optimizer and its hyper-parameters in one file."""
    import torch

    layer = torch.nn.TransformerEncoderLayer(16, 4, 16)
    model = torch.nn.DataParallel(torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(3, 2, 16)).square().mean().backward()
    optimizer.step()
    checkpoint = {
        "epoch": 3,
        "model_state_dict": model.state_dict(),
        "model_ema": {name: 0.9 * value for name, value in model.state_dict().items()},
        "optimizer_state_dict": optimizer.state_dict(),
        "hyper_parameters": {"d_model": 16, "nhead": 4, "lr": 1e-3},
    }
    torch.save(checkpoint, HERE / "training.pt")


def sharded() -> None:
    """Llama's names with grouped queries, in two shards with their index and config."""
    import torch
    from safetensors.torch import save_file

    folder = HERE / "sharded"
    folder.mkdir(exist_ok=True)
    weight_map: dict[str, str] = {}
    for layer, shard in enumerate(("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")):
        prefix = f"model.layers.{layer}.self_attn"
        sizes = {"q_proj": (16, 16), "k_proj": (8, 16), "v_proj": (8, 16), "o_proj": (16, 16)}
        tensors = {f"{prefix}.{name}.weight": torch.randn(size) for name, size in sizes.items()}
        save_file(tensors, folder / shard, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, shard)
    index = {"metadata": {"total_size": 6144}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    config = {"model_type": "llama", "hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def distributed() -> None:
    """One attention saved by two ranks: its in_proj_weight is cut in the middle of K."""
    import torch

    folder = HERE / "distributed"
    folder.mkdir(exist_ok=True)
    torch.multiprocessing.spawn(_save_rank, (str(folder.parent / ".store"),), nprocs=2)
    (folder / "config.json").write_text(json.dumps({"hidden_size": 8, "num_attention_heads": 2}, indent=1) + "\n")


def _save_rank(rank: int, store: str) -> None:
    import torch
    import torch.distributed.checkpoint
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh

    os.chdir(HERE)  # the name of the folder is written into the metadata
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"self_attn": torch.nn.MultiheadAttention(8, 2)})
    state = {
        name: distribute_tensor(value, mesh, [Shard(0) if value.dim() > 1 else Replicate()])
        for name, value in model.state_dict().items()
    }
    torch.distributed.checkpoint.save({"model": state, "step": 3}, checkpoint_id="distributed")
    torch.distributed.destroy_process_group()


def bert_like() -> None:
    import torch
    from safetensors.torch import save_file

    folder = HERE / "bert_like"
    folder.mkdir(exist_ok=True)
    state: dict[str, torch.Tensor] = {}
    for layer in range(2):
        prefix = f"encoder.layer.{layer}.attention"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            state |= torch.nn.Linear(16, 16).state_dict(prefix=f"{prefix}.{name}.")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = {"model_type": "bert", "hidden_size": 16, "num_attention_heads": 4}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def damaged() -> None:
    """Sound bytes, bad numbers: a NaN in K of head 1, and head 2 of V all zero."""
    import torch

    attention = torch.nn.MultiheadAttention(16, 4)
    state = {f"layers.0.self_attn.{name}": value.clone() for name, value in attention.state_dict().items()}
    weight = state["layers.0.self_attn.in_proj_weight"]
    weight[16 + 4 + 1, 3] = float("nan")
    weight[32 + 8 : 32 + 12] = 0
    torch.save(state, HERE / "damaged.pt")
    (HERE / "damaged.yaml").write_text("num_heads: 4\n")


def miswritten() -> None:
    """trained.safetensors with Q, K and V apart, as a wrong conversion writes it: in layer 1, K holds V's rows."""
    from safetensors.torch import load_file, save_file

    state = load_file(HERE / "trained.safetensors")
    for layer in range(2):
        for end in ("weight", "bias"):
            q, k, v = state.pop(f"encoder.layers.{layer}.self_attn.in_proj_{end}").chunk(3)
            for part, rows in (("q", q), ("k", v if layer == 1 else k), ("v", v)):
                state[f"encoder.layers.{layer}.self_attn.{part}_proj.{end}"] = rows.clone()
    save_file(
        {name.removeprefix("encoder."): tensor for name, tensor in state.items()}, HERE / "miswritten.safetensors"
    )


MAKERS: tuple[Callable[[], None], ...] = (
    transformer,
    kdim_vdim,
    no_bias,
    add_bias_kv,
    training,
    sharded,
    distributed,
    bert_like,
    damaged,
    miswritten,
)

if __name__ == "__main__":
    if "--golden" not in sys.argv[1:]:
        write_checkpoints()
    write_goldens()
