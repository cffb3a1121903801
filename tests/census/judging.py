"""What is answered for a model of the census, beside what its forward was seen to do."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.inspection.json_values import row_ranges
from qkvinspect.inspection.report import Attention, Part, Report
from qkvinspect.layouts.packing import merge
from tests.census.kept import Line

_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1, "C64": 8,
    "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip

JUDGED = ("softmax", "linear", "channels", "plain")
_MOST_RUNS = 8
"""Runs of rows of one head beyond which the tracer met something that is no head."""


@dataclass(frozen=True)
class Verdict:
    """What became of one attention module.

    Attributes:
        where: library, model and module.
        said: right, heads-unknown, undecided, wrong-rows, wrong-heads, unrecognised (not found, and said so), missed.
        why: what differs, for people.
    """

    where: str
    said: str
    why: str = ""


def write(line: Line, folder: Path) -> Path:
    """The model's file, of holes, and what stands beside it."""
    head: dict[str, Any] = {}
    end = 0
    for name, dtype, shape in line["tensors"]:
        start, end = end, end + prod(shape) * _BYTES[dtype]
        head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(head).encode()
    path = folder / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    for name, value in line.get("files", {}).items():
        (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def answer(line: Line, folder: Path) -> Report:
    """What is said of a model."""
    with open_checkpoint(write(line, folder)) as checkpoint:
        return inspect(checkpoint, Options(norms=False))


def judge(line: Line, report: Report) -> Iterator[Verdict]:
    """A verdict for each module that is seen clearly enough to judge by."""
    strange = {} if report.account is None else {
        tensor.name: found.why for found in report.account.unrecognised for tensor in found.tensors
    }  # fmt: skip
    for truth in line.get("truth", ()):
        if not is_clear(truth):
            continue
        where = f"{line['lib']}/{line['name']} {truth['path']}"
        wanted = {name for part in "qkv" if part in truth for name in truth[part]["tensors"]}
        found = _best(report.attentions, wanted)
        if found is None:
            why = next((strange[name] for name in wanted if name in strange), None)
            yield Verdict(where, "missed") if why is None else Verdict(where, "unrecognised", why)
        else:
            yield Verdict(where, *_compare(truth, found))


def is_clear(truth: Mapping[str, Any]) -> bool:
    """Whether the module has heads of distinct rows: some things that are called attention mix or repeat them."""
    parts = [truth[part] for part in "qkv" if part in truth]
    return truth["kind"] in JUDGED and len(parts) > 1 and all(map(_is_clear, parts))


def _is_clear(part: Mapping[str, Any]) -> bool:
    width = sum(len(range(*run)) for run in part["head"])
    if width != len(_rows(part["head"])):
        return False
    return len(part["head"]) <= _MOST_RUNS and (part.get("mixed") or width * part["heads"] == part["rows"])


def _best(attentions: Sequence[Attention], wanted: set[str]) -> Attention | None:
    """The module that shares most tensors."""
    best = max(attentions, key=lambda one: len(wanted & {w.name for w in one.weights}), default=None)
    return None if best is None or not wanted & {w.name for w in best.weights} else best


def _compare(truth: Mapping[str, Any], found: Attention) -> tuple[str, str]:
    if found.layout is None:
        return "undecided", " or ".join(found.candidates)
    if not found.parts:
        return "heads-unknown", f"and {found.layout.id} cannot be cut without them"
    verdicts = [_compare_part(truth[name], found.part(name), name, found) for name in "qkv" if name in truth]
    for said in ("wrong-rows", "wrong-heads", "heads-unknown"):
        why = [f"{why} ({found.layout.id})" for verdict, why in verdicts if verdict == said]
        if why:
            return said, "; ".join(why)
    return "right", ""


def _compare_part(true: Mapping[str, Any], part: Part | None, name: str, found: Attention) -> tuple[str, str]:
    if part is None:
        return "wrong-rows", f"{name} is not there"
    if true.get("mixed") or len(true["tensors"]) > 1:
        held = {*true["tensors"], *true.get("also", ())}
        return ("right", "") if part.weight.name in held else ("wrong-rows", f"{name} in {part.weight.name}")
    if part.weight.name != true["tensors"][0]:
        return "wrong-rows", f"{name} is in {true['tensors'][0]}, not {part.weight.name}"
    rows, layout = sum(map(len, part.heads)), found.layout
    if layout is not None and dict(layout.subheads).get(name, 1) > 1 and found.heads is not None:
        return _compare_subheads(true, part)
    if rows != true["rows"]:
        return "wrong-rows", f"{name} has {true['rows']} rows, not {rows}"
    if found.heads is None:
        start = part.rows[0].start
        return ("heads-unknown", name) if start == true["head"][0][0] else ("wrong-rows", f"{name} starts at {start}")
    if len(part.heads) != true["heads"]:
        return "wrong-heads", f"{name} has {true['heads']} heads, not {len(part.heads)}"
    same = _rows(true["head"]) == _rows(row_ranges(merge([part.heads[0]])))
    return ("right", "") if same else ("wrong-rows", f"{name} {true['head']}, not {row_ranges([part.heads[0]])}")


def _compare_subheads(true: Mapping[str, Any], part: Part) -> tuple[str, str]:
    """Each sub-head meets V in a product of its own: a truth is one of them for each head."""
    held = _rows(row_ranges(part.heads[:2]))
    return ("right", "") if _rows(true["head"]) <= held else ("wrong-rows", f"{true['head']} is not in {held}")


def _rows(ranges: Iterable[Sequence[int]]) -> set[int]:
    """The rows, in whatever order a rotary embedding has them."""
    return {row for run in ranges for row in range(*run)}


def alarms(line: Line, report: Report) -> list[str]:
    """Modules that are said to be attention where nothing like it was seen or is called so."""
    seen = {
        name for truth in line.get("truth", ()) for part in "qkv" if part in truth for name in truth[part]["tensors"]
    }
    places = line.get("untraced", ())
    return [
        attention.layer
        for attention in report.attentions
        if not seen & {weight.name for weight in attention.weights}
        and not any(_within(attention.layer, place) or _within(place, attention.layer) for place in places)
    ]


def _within(path: str, other: str) -> bool:
    return f"{path}.".startswith(f"{other}.")


def counts(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """How often each was said, the most frequent first."""
    total: dict[str, int] = {}
    for verdict in verdicts:
        total[verdict.said] = total.get(verdict.said, 0) + 1
    return dict(sorted(total.items(), key=lambda item: -item[1]))
