"""How long it takes to find attention among many tensors, beside opening the file that holds them.

    python tests/benchmarks/finding.py [TENSORS] [--profile KIND]

A `.safetensors` of holes with that many tensors (60,000 unless given), of twelve kinds of model, with its config.
Processor time of this process; the least of three rounds, each in turn.
"""

from __future__ import annotations

import cProfile
import gc
import json
import pstats
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect

ROUNDS = 3
Shape = tuple[int, ...]


def experts() -> Iterator[tuple[str, Shape]]:
    """A decoder with 256 experts a layer: nearly all tensors are theirs."""
    layer = 0
    while True:
        at = f"model.layers.{layer}"
        for part, rows in (("q", 64), ("k", 16), ("v", 16)):
            yield f"{at}.self_attn.{part}_proj.weight", (rows, 64)
        yield f"{at}.self_attn.o_proj.weight", (64, 64)
        yield f"{at}.input_layernorm.weight", (64,)
        yield f"{at}.mlp.gate.weight", (256, 64)
        for expert in range(256):
            for name, shape in (("gate_proj", (32, 64)), ("up_proj", (32, 64)), ("down_proj", (64, 32))):
                yield f"{at}.mlp.experts.{expert}.{name}.weight", shape
        layer += 1


def blocks() -> Iterator[tuple[str, Shape]]:
    """Nothing but encoder layers of torch: one tensor in twelve holds Q, K and V."""
    layer = 0
    while True:
        at = f"encoder.layers.{layer}"
        yield f"{at}.self_attn.in_proj_weight", (192, 64)
        yield f"{at}.self_attn.in_proj_bias", (192,)
        yield f"{at}.self_attn.out_proj.weight", (64, 64)
        yield f"{at}.self_attn.out_proj.bias", (64,)
        for name, shape in (("linear1", (256, 64)), ("linear2", (64, 256))):
            yield f"{at}.{name}.weight", shape
            yield f"{at}.{name}.bias", shape[:1]
        for name in ("norm1", "norm2"):
            yield f"{at}.{name}.weight", (64,)
            yield f"{at}.{name}.bias", (64,)
        layer += 1


def patterns() -> Iterator[tuple[str, Shape]]:
    """Attention that no row of the registry names."""
    layer = 0
    while True:
        at = f"blocks.{layer}"
        for part in ("fn_q", "fn_k", "fn_v", "last"):
            yield f"{at}.mha.{part}.weight", (64, 64)
            yield f"{at}.mha.{part}.bias", (64,)
        for name, shape in (("a", (256, 64)), ("b", (64, 256))):
            yield f"{at}.ff.{name}.weight", shape
            yield f"{at}.ff.{name}.bias", shape[:1]
        layer += 1


def a_linear_a_head() -> Iterator[tuple[str, Shape]]:
    """A lecture's language model: six Linears of Q, K and V each."""
    layer = 0
    while True:
        at = f"blocks.{layer}"
        for head in range(6):
            for part in ("key", "query", "value"):
                yield f"{at}.sa.heads.{head}.{part}.weight", (16, 96)
        yield f"{at}.sa.proj.weight", (96, 96)
        yield f"{at}.sa.proj.bias", (96,)
        layer += 1


def lists_of_words() -> Iterator[tuple[str, Shape]]:
    """Lists of projections, an entry for each head."""
    layer = 0
    while True:
        for part in ("queries", "keys", "values"):
            for head in range(6):
                yield f"layers.{layer}.mha.{part}.{head}.weight", (16, 96)
        yield f"layers.{layer}.mha.out.weight", (96, 96)
        layer += 1


def convolutions() -> Iterator[tuple[str, Shape]]:
    """No attention at all."""
    layer = 0
    while True:
        at = f"stages.{layer % 4}.blocks.{layer // 4}"
        yield f"{at}.conv.weight", (64, 64, 3, 3)
        for name in ("weight", "bias", "running_mean", "running_var"):
            yield f"{at}.bn.{name}", (64,)
        layer += 1


def no_layers() -> Iterator[tuple[str, Shape]]:
    """Names without a number that counts layers."""
    number = 0
    while True:
        yield f"table_{number}_weight", (64, 64)
        number += 1


def fused() -> Iterator[tuple[str, Shape]]:
    """One tensor that no row of the registry names, whose packing is left open."""
    layer = 0
    while True:
        yield f"net.{layer}.mixer.my_qkv.weight", (192, 64)
        yield f"net.{layer}.mixer.last_out.weight", (64, 64)
        yield f"net.{layer}.norm.weight", (64,)
        layer += 1


def unlike() -> Iterator[tuple[str, Shape]]:
    """Layers of which no two hold the same, so that none is told from another."""
    layer = 0
    while True:
        at = f"encoder.layers.{layer}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield f"{at}.self_attn.{part}.weight", (64, 64)
        yield f"{at}.norm1.weight", (64,)
        yield f"{at}.positions.weight", (layer + 1,)
        layer += 1


def three_axes() -> Iterator[tuple[str, Shape]]:
    """Parameters [heads, in, head_dim]."""
    layer = 0
    while True:
        for part in "QKV":
            yield f"blocks.{layer}.attn.W_{part}", (4, 64, 16)
            yield f"blocks.{layer}.attn.b_{part}", (4, 16)
        yield f"blocks.{layer}.attn.W_O", (4, 16, 64)
        layer += 1


def words_alone() -> Iterator[tuple[str, Shape]]:
    """Words for K and V that make up no attention: each is said."""
    layer = 0
    while True:
        for part in ("key", "value", "receptance", "output"):
            yield f"blocks.{layer}.att.{part}.weight", (64, 64)
        layer += 1


def latent() -> Iterator[tuple[str, Shape]]:
    """Latent attention with experts beside it."""
    layer = 0
    while True:
        at = f"model.layers.{layer}"
        for name, shape in (
            ("q_proj", (96, 64)), ("kv_a_proj_with_mqa", (40, 64)), ("kv_b_proj", (128, 32)), ("o_proj", (64, 64)),
        ):  # fmt: skip
            yield f"{at}.self_attn.{name}.weight", shape
        yield f"{at}.self_attn.kv_a_layernorm.weight", (32,)
        for expert in range(16):
            for name, shape in (("gate_proj", (32, 64)), ("up_proj", (32, 64)), ("down_proj", (64, 32))):
                yield f"{at}.mlp.experts.{expert}.{name}.weight", shape
        layer += 1


KINDS: dict[str, Callable[[], Iterator[tuple[str, Shape]]]] = {
    kind.__name__: kind
    for kind in (
        experts,
        blocks,
        patterns,
        convolutions,
        a_linear_a_head,
        lists_of_words,
        no_layers,
        fused,
        unlike,
        three_axes,
        words_alone,
        latent,
    )
}
CONFIGS = {
    "a_linear_a_head": {"n_head": 6},
    "lists_of_words": {"n_head": 6},
    "experts": {"model_type": "qwen3_moe", "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 8},
    "latent": {
        "model_type": "deepseek_v2",
        "num_attention_heads": 4,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
        "kv_lora_rank": 32,
    },
}


def write(folder: Path, kind: str, count: int) -> Path:
    head: dict[str, object] = {}
    end = 0
    for (name, shape), _ in zip(KINDS[kind](), range(count), strict=False):
        start = end
        size = 4
        for axis in shape:
            size *= axis
        end = start + size
        head[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(head).encode()
    path = folder / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    (folder / "config.json").write_text(json.dumps(CONFIGS.get(kind, {"num_attention_heads": 4})))
    return path


def seconds(path: Path) -> tuple[float, float, int]:
    """Of opening, and of finding; how many modules."""
    gc.collect()
    began = time.process_time()
    with open_checkpoint(path) as checkpoint:
        opened = time.process_time()
        report = inspect(checkpoint, Options(norms=False))
        found = time.process_time()
    return opened - began, found - opened, len(report.attentions)


def main() -> None:
    numbers = [int(text) for text in sys.argv[1:] if text.isdecimal()]
    profiled = sys.argv[-1] if "--profile" in sys.argv else ""
    for kind in [profiled] if profiled else KINDS:
        with tempfile.TemporaryDirectory() as folder:
            path = write(Path(folder), kind, numbers[0] if numbers else 60_000)
            if profiled:
                profile = cProfile.Profile()
                profile.runcall(seconds, path)
                pstats.Stats(profile).sort_stats("tottime").print_stats(32)
                return
            rounds = [seconds(path) for _ in range(ROUNDS)]
        opening, finding = (min(one[at] for one in rounds) for at in (0, 1))
        print(f"{kind:16} {rounds[0][2]:6} modules: opened in {opening:.2f} s, found in {finding:.2f} s", end="")
        print(f", {finding / opening:.2f} times")


if __name__ == "__main__":
    main()
