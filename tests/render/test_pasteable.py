"""What is printed can be pasted: stored tensors, sliced as each form says, are what ``export`` writes."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import qkvinspect
from qkvinspect.inspection.report import Attention, Part, Report
from qkvinspect.render.slicing import pasteable

Run = Callable[..., Any]

SAMPLES = {
    "transformer.pt": "2",
    "transformer.safetensors": "2",
    "training.pt": "2",
    "add_bias_kv.pt": "2",
    "kdim_vdim.pt": "2",
    "no_bias.safetensors": "2",
    "trained.safetensors": "4",
    "miswritten.safetensors": "4",
    "sharded": "4/2",
    "bert_like": "",
    "distributed": "",
}
MADE: dict[str, tuple[str, str, dict[str, tuple[int, ...]]]] = {
    "columns": (
        "6",
        "gpt2",
        {"h.0.attn.c_attn.weight": (96, 288), "h.0.attn.c_attn.bias": (288,), "h.0.attn.c_proj.weight": (96, 96)},
    ),
    "by heads": (
        "4",
        "bloom",
        {
            "h.0.self_attention.query_key_value.weight": (96, 32),
            "h.0.self_attention.query_key_value.bias": (96,),
            "h.0.self_attention.dense.weight": (32, 32),
        },
    ),
    "in groups": (
        "8/2",
        "megatron-core",
        {"a.self_attention.linear_qkv.weight": (96, 64), "a.self_attention.linear_proj.weight": (64, 64)},
    ),
}


@pytest.fixture(params=[*SAMPLES, *MADE])
def printed(request: pytest.FixtureRequest, samples: Path, tmp_path: Path) -> tuple[Path, list[str]]:
    """A checkpoint, and the options that it needs."""
    if request.param in SAMPLES:
        heads = SAMPLES[request.param]
        return samples / request.param, ["--heads", heads] if heads else []
    heads, layout, shapes = MADE[request.param]
    save_file({name: torch.randn(shape) for name, shape in shapes.items()}, tmp_path / "made.safetensors")
    return tmp_path / "made.safetensors", ["--heads", heads, "--layout", layout]


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_every_form_slices_what_export_writes(printed: tuple[Path, list[str]], run: Run, tmp_path: Path) -> None:
    path, options = printed
    options = [*options, "--no-evidence"]
    assert run("export", path, "-o", tmp_path / "parts.safetensors", "--split", *options).code == 0
    exported = load_file(tmp_path / "parts.safetensors")
    heads, layout = (options[options.index(word) + 1] if word in options else None for word in ("--heads", "--layout"))
    report = qkvinspect.inspect(path, heads=heads, layout=layout)
    assert report.attentions
    forms = {
        "json": of_json(run("show", path, *options, "-f", "json").json()),
        "csv": of_csv(run("show", path, *options, "-f", "csv").out),
        "markdown": of_markdown(run("show", path, *options, "-f", "markdown", "--full").out, report),
        "html": of_html(report),
        "records": [(row["layer"], row["part"], runs(row["rows"]), row["axis"]) for row in report.records()],
    }
    found = {form: {(layer, part): rest for layer, part, *rest in slices} for form, slices in forms.items()}
    for attention in report.attentions:
        names: dict[str, Tensor] = {}
        exec("\n".join(pasteable(attention, report.checkpoint)), names)  # as a report has it, and browse copies it
        for part in attention.parts:
            wanted = exported[f"{attention.layer}.{part.name}_proj.weight".removeprefix(".")]
            for form, slices in found.items():
                rows, axis = slices[attention.layer, part.name]
                assert torch.equal(taken(stored(part), rows, axis), wanted), (form, attention.layer, part.name)
            assert torch.equal(names[part.name], wanted)
            assert torch.equal(names[f"{part.name}_heads"].flatten(0, 1), wanted)


Slices = Iterator[tuple[str, str, list[range], int]]


def stored(part: Part) -> Tensor:
    """The tensor as the file holds it."""
    assert part.weight.info is not None
    info = part.weight.info
    data = bytearray(info.region.read(0, info.region.nbytes))
    whole = torch.frombuffer(data, dtype=getattr(torch, info.dtype.name))
    return torch.as_strided(whole, info.shape, info.strides, info.offset)


def taken(tensor: Tensor, rows: list[range], axis: int) -> Tensor:
    """As nn.Linear would store it."""
    some = tensor.index_select(axis, torch.tensor([row for run in rows for row in run]))
    return some.T if axis else some


def runs(written: str) -> list[range]:
    return [range(*map(int, run.split(":"))) for run in written.split()]


def of_json(document: Any) -> Slices:
    for attention in document["attentions"]:
        for name in "qkv":
            part = attention[name]
            if part:
                yield attention["layer"], name, [range(*run) for run in part["rows"]], part["axis"]
                whole = [row for run in part["rows"] for row in range(*run)]
                assert [row for head in part["heads"] for run in head["rows"] for row in range(*run)] == whole
                assert {head["axis"] for head in part["heads"]} <= {part["axis"]}


def of_csv(text: str) -> Slices:
    for row in csv.DictReader(io.StringIO(text)):
        yield row["layer"], row["part"], runs(row["rows"]), int(row["axis"])


def of_markdown(text: str, report: Report) -> Slices:
    """The layers follow one another as in the report; many runs are summed up there, and taken from it."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if re.match(r"\| [QKV] \|", line)]
    parts = [(attention, part) for attention in report.attentions for part in attention.parts]
    assert [line[0].lower() for line in lines] == [part.name for _, part in parts]
    for (attention, part), line in zip(parts, lines, strict=True):
        kind, rows = re.fullmatch(r"(columns )?(.+)", line[2].replace("\\", "")).groups()  # type: ignore[union-attr]
        yield attention.layer, part.name, expanded(rows, part), 1 if kind else 0


def of_html(report: Report) -> Slices:
    for attention in report.attentions:
        cells = re.findall(r"<code>([^<]*\[[^<]*)</code></td>", embedded(attention))
        assert len(cells) >= len(attention.parts)
        for part in attention.parts:
            short = part.weight.name.removeprefix(f"{attention.layer}.")
            place = [one.name for one in held(attention)].index(part.name)
            name, bracket, rest = html.unescape(cells[place]).partition("[")
            assert name == short
            axis = int(rest.startswith(":, "))
            listed = re.findall(r"\[(?::, )?([\d:]+)\]", bracket + rest)
            yield attention.layer, part.name, expanded(", ".join(listed) + rest.partition("...")[1], part), axis


def held(attention: Attention) -> list[Part]:
    """In the order of the stored tensors."""
    every = (*attention.parts, *attention.others)
    return [part for weight in attention.weights for part in every if part.weight.name == weight.name]


def embedded(attention: Attention) -> str:
    return attention._repr_html_()


def expanded(written: str, part: Part) -> list[range]:
    """What is written, and of many runs those that are left out, where those that are not agree."""
    first = [range(*map(int, run.split(":"))) for run in re.findall(r"\d+:\d+(?::\d+)?", written)]
    assert list(part.rows[: len(first)]) == first
    assert len(first) == len(part.rows) or "..." in written
    return list(part.rows)
