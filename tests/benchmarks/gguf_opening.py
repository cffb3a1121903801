"""How long it takes to open a GGUF file with a vocabulary, beside the gguf package's own reader.

    python tests/benchmarks/gguf_opening.py [FILE]

Without a FILE one is made as SmolLM2-135M's is: 49,152 tokens, as many types and scores, 48,900 merges, 272 tensors in
93 MB of Q4_1. Processor time of this process, in turn; the least of five.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np

from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect

ROUNDS = 5
TOKENS, MERGES, LAYERS, WIDTH, HIDDEN = 49_152, 48_900, 30, 576, 1536
SHAPES = {
    "attn_q": (WIDTH, WIDTH),
    "attn_k": (WIDTH // 3, WIDTH),
    "attn_v": (WIDTH // 3, WIDTH),
    "attn_output": (WIDTH, WIDTH),
    "ffn_gate": (HIDDEN, WIDTH),
    "ffn_up": (HIDDEN, WIDTH),
    "ffn_down": (WIDTH, HIDDEN),
}


def write(path: Path) -> None:
    kind = gguf.GGMLQuantizationType.Q4_1
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_head_count(9)
    writer.add_head_count_kv(3)
    writer.add_token_list([f"token{n}" for n in range(TOKENS)])
    writer.add_token_types([1] * TOKENS)
    writer.add_token_scores([0.0] * TOKENS)
    writer.add_token_merges([f"to ken{n}" for n in range(MERGES)])
    shapes = {"token_embd": (TOKENS, WIDTH)}
    shapes |= {f"blk.{layer}.{name}": shape for layer in range(LAYERS) for name, shape in SHAPES.items()}
    for name, (rows, cols) in shapes.items():
        writer.add_tensor(f"{name}.weight", np.zeros((rows, cols // 32 * 20), np.uint8), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def opened(path: Path) -> None:
    with open_checkpoint(path) as checkpoint:
        heads = {
            (one.heads.num_heads, one.heads.num_kv_heads)
            for one in inspect(checkpoint, Options(norms=False)).attentions
            if one.heads
        }
    assert heads == {(9, 3)}


def header(path: Path) -> None:
    open_checkpoint(path).close()


def seconds(action: Callable[[Path], object], path: Path) -> float:
    began = time.process_time()
    action(path)
    return time.process_time() - began


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder) / "model.gguf"
        if len(sys.argv) < 2:
            write(path)
        size = f"{path.stat().st_size / 1e6:.0f} MB"
        actions = {"qkvinspect: open": header, "qkvinspect: open and find heads": opened, "GGUFReader": gguf.GGUFReader}
        taken = {label: min(seconds(action, path) for _ in range(ROUNDS)) for label, action in actions.items()}
        print(f"| {size} | seconds of the processor |\n| --- | --- |")
        for label, least in taken.items():
            print(f"| {label} | {least:.2f} |")


if __name__ == "__main__":
    main()
