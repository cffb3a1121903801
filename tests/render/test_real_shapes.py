"""Models of the shapes that people have, in few lines of 80 columns that say what --full says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.cells import cell_len
from safetensors.torch import save_file

from qkvinspect.analysis import Analysis, analyze
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.inspection.report import Report
from qkvinspect.render import text
from qkvinspect.render.results.analyze import document as analyzed
from qkvinspect.render.results.show import document
from qkvinspect.render.view import ViewOptions
from qkvinspect.render.writers import written

State = dict[str, torch.Tensor]
OUT = {"q_proj": "o_proj", "q": "o", "to_q": "to_out.0", "query": ""}


def parts(layer: str, names: str, rows: tuple[int, int, int], columns: tuple[int, int], bias: bool = False) -> State:
    """Q, K and V of a layer, which see inputs of so many columns, and its output projection."""
    q, k, v = names.split()
    found = {}
    for name, size, wide in zip((q, k, v), rows, (columns[0], columns[1], columns[1]), strict=True):
        found[f"{layer}.{name}.weight"] = torch.randn(size, wide)
        if bias:
            found[f"{layer}.{name}.bias"] = torch.randn(size)
    if out := OUT[q]:
        found[f"{layer}.{out}.weight"] = torch.randn(columns[0], rows[0])
    return found


def bert() -> Iterator[State]:
    for layer in range(12):
        yield parts(f"bert.encoder.layer.{layer}.attention.self", "query key value", (16,) * 3, (16, 16), bias=True)


def llama() -> Iterator[State]:
    for layer in range(32):
        yield parts(f"model.layers.{layer}.self_attn", "q_proj k_proj v_proj", (16, 4, 4), (16, 16))


def mixture() -> Iterator[State]:
    yield from llama()
    for layer in range(32):
        names = [f"model.layers.{layer}.mlp.experts.{expert}.{name}" for expert in range(8) for name in ("w1", "w2")]
        yield {f"{name}.weight": torch.randn(4, 4) for name in names}


def float8() -> Iterator[State]:
    for layer in llama():
        for name, value in layer.items():
            scale = torch.tensor([2.0])
            yield (
                {name: value.to(torch.float8_e4m3fn), f"{name}_scale": scale} if "o_proj" not in name else {name: value}
            )


def t5() -> Iterator[State]:
    for block in range(12):
        for place in (
            f"encoder.block.{block}.layer.0.SelfAttention",
            f"decoder.block.{block}.layer.0.SelfAttention",
            f"decoder.block.{block}.layer.1.EncDecAttention",
        ):
            yield parts(place, "q k v", (16,) * 3, (12, 12))


def unet() -> Iterator[State]:
    """As many modules, at as many widths, as Stable Diffusion 1.5 has."""
    places = [(f"down_blocks.{block}", 2, 16 << block) for block in range(3)]
    places += [("mid_block", 1, 64)] + [(f"up_blocks.{block}", 3, 128 >> block) for block in (1, 2, 3)]
    for place, count, width in places:
        for number in range(count):
            block = f"{place}.attentions.{number}.transformer_blocks.0"
            yield parts(f"{block}.attn1", "to_q to_k to_v", (width,) * 3, (width, width))
            yield parts(f"{block}.attn2", "to_q to_k to_v", (width,) * 3, (width, 24))


def clip() -> Iterator[State]:
    for tower, width in (("text_model", 16), ("vision_model", 24)):
        for layer in range(12):
            place = f"{tower}.encoder.layers.{layer}.self_attn"
            yield parts(place, "q_proj k_proj v_proj", (width,) * 3, (width, width), bias=True)


MODELS = {
    "BERT": (bert, ["4"], 40),
    "Llama": (llama, ["4/1"], 80),
    "mixture of experts": (mixture, ["4/1"], 80),
    "float8": (float8, ["4/1"], 80),
    "T5": (t5, ["4"], 80),
    "UNet": (unet, ["8"], 80),
    "CLIP": (clip, ["2"], 80),
}
"""What makes it, --heads, and lines."""


def report(folder: Path, states: Iterator[State], heads: list[str]) -> Report:
    save_file({name: value.contiguous() for state in states for name, value in state.items()}, folder / "m.safetensors")
    with open_checkpoint(folder / "m.safetensors") as checkpoint:
        return inspect(checkpoint, Options(heads=tuple(heads)))


@pytest.mark.parametrize("name", MODELS)
def test_few_lines_say_what_full_says(name: str, tmp_path: Path) -> None:
    make, heads, most = MODELS[name]
    found = report(tmp_path, make(), heads)
    assert len(found.attentions) == len({one.layer for one in found.attentions}) >= 12
    short = written(document(found, lines=80), "table", ViewOptions(width=80))
    lines = short.splitlines()
    assert len(lines) <= most
    assert max(map(cell_len, lines)) <= 80
    words = " ".join(short.split())
    for one in found.attentions:
        assert text.heads(one) in words or (one.heads and f" {one.heads.num_heads} x {one.heads.head_dim} " in words)
        sizes = "x".join(map(str, one.parts[-1].shape))
        assert re.sub(r"\s+", " ", text.stored(one).split(", ")[-1]) in words or f" {sizes} " in words
        for part in one.parts:
            assert part.measured is not None
            assert shows(words, part.measured.norm), (one.layer, part.name)
    full = written(document(found, full=True), "table", ViewOptions(width=80))
    assert {one.layer for one in found.attentions} <= {line for line in full.splitlines() if line[:1].strip()}
    assert len(full.splitlines()) > 2.5 * len(lines)


@pytest.mark.parametrize("name", ["BERT", "UNet", "CLIP"])
def test_the_figures_of_all_heads_in_few_lines(name: str, tmp_path: Path) -> None:
    make, heads, _ = MODELS[name]
    report(tmp_path, make(), heads)
    with open_checkpoint(tmp_path / "m.safetensors") as checkpoint:
        found = inspect(checkpoint, Options(heads=tuple(heads)))
        analysis = Analysis(found, tuple(analyze(found)))
    lines = written(analyzed(analysis, lines=80), "table", ViewOptions(width=80)).splitlines()
    assert len(lines) <= 80
    assert max(map(cell_len, lines)) <= 80
    greatest = max(head.logit_bound for layer in analysis.layers for head in layer.heads if head.logit_bound)
    assert shows(" ".join(lines), greatest)
    everything = written(analyzed(analysis), "table", ViewOptions()).splitlines()
    assert len(everything) > sum(len(layer.heads) for layer in analysis.layers)


def shows(words: str, norm: float) -> bool:
    """Whether a number is there, or a range that holds it."""
    ranges = re.findall(r"(\d[\d.e+]*)\.\.(\d[\d.e+]*)", words)
    return text.number(norm) in words or any(0.99 * float(low) <= norm <= 1.01 * float(high) for low, high in ranges)
