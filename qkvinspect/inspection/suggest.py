"""Suggest a ``[[layout]]`` row for tensors that were not understood, for the user to paste and complete."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import prod

from qkvinspect.inspection.words import is_output, word_of
from qkvinspect.layouts.from_settings import UNKNOWN


def row(module: str, tensors: Mapping[str, Sequence[int]]) -> str:
    """The row for a module and those of its tensors that look like projections, with their shapes, as lines of TOML."""
    keys = [_below(module, name) for name in tensors]
    triple = [key for key, shape in zip(keys, tensors.values(), strict=True) if shape[0] == 3 * prod(shape[1:])]
    parts = {_parts(key): key for key in reversed(keys) if _parts(key)}
    out = next((key for key in keys if any(map(is_output, key.split(".")[-2:]))), None)
    missing = [part for part in "qkv" if not any(part in some for some in parts)]
    if len(missing) == 3 and len(triple) == 1:
        parts, missing = {"qkv": triple[0]}, []
    spare = [key for key in keys if key not in parts.values() and key != out]
    if list(parts) == ["q"] and not spare:
        return _of_a_query_alone(module, parts["q"], out)
    lines = ["[[layout]]", f"layer = {_quoted(_glob(module))}"]
    lines += [
        f"{some} = {_quoted(key)}" for some, key in sorted(parts.items(), key=lambda item: "qkv".index(item[0][0]))
    ]
    if "qkv" in parts:
        lines.append(f"packing = {_quoted(UNKNOWN)}  # {', '.join(map(_quoted, _PACKINGS))}")
    beside = f"  # one of {', '.join(map(_quoted, spare[:4]))}" if spare else ""
    lines += [f"{part} = {_quoted(UNKNOWN)}{beside}" for part in missing]
    lines += [f"out = {_quoted(out)}"] if out else []
    return "\n".join(lines)


_PACKINGS = ("q, k, v in blocks", "q, k, v per head", "row by row")


def _of_a_query_alone(module: str, query: str, out: str | None) -> str:
    """A row for this module by its own name: with a glob it would take Q from layers that have K and V beside it."""
    told = {"layer": module, "q": query} | ({"out": out} if out else {})
    lines = [f"{key} = {_quoted(text)}" for key, text in told.items()]
    return "\n".join(["[[layout]]  # it has no K and V of its own", *lines])


def _below(module: str, name: str) -> str:
    """A tensor's key below its module, divided by dots whatever the names are divided by."""
    key = name[len(module) + 1 :] if module else name
    return key.replace("/", ".") if "/" in name else key


def _parts(key: str) -> str:
    """Which of q, k and v a tensor's name says it holds, in this order."""
    for component in reversed(key.split(".")[-3:]):
        word = word_of(component)
        if word is not None:
            return "".join(part for part in "qkv" if part in word.parts)
    return ""


def _glob(module: str) -> str:
    """A glob for the module in every layer of its stack."""
    return ".".join("*" if part.isdecimal() else part for part in module.split(".")) or "*"


def _quoted(text: str) -> str:
    """A basic string of TOML."""
    return json.dumps(text, ensure_ascii=False)
