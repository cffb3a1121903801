"""Suggest a ``[[layout]]`` row for tensors that were not understood, for the user to paste and complete."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import prod

from qkvinspect.inspection.words import is_output, word_of
from qkvinspect.layouts.from_settings import THREE_AXES, UNKNOWN


def row(module: str, tensors: Mapping[str, Sequence[int]]) -> str:
    """The row for a module and those of its tensors that look like projections, with their shapes, as lines of TOML.

    "" where no row can say what they are: Q and K that have no number of heads in common.
    """
    shapes = {_below(module, name): shape for name, shape in tensors.items()}
    matrices = {
        key: (shape[0], prod(shape[1:]))
        for key, shape in shapes.items()
        if len(shape) > 1 and shape[0] > 1 and prod(shape[1:]) > 1
    }
    parts = _named(matrices)
    out = next((key for key in matrices if any(map(is_output, key.split(".")[-2:]))), None)
    missing = [part for part in "qkv" if not any(part in some for some in parts)]
    spare = [key for key in matrices if key not in parts.values() and key != out and _is_describable(shapes[key])]
    if (not parts and not spare) or not _share_heads(parts, matrices):
        return ""
    if list(parts) == ["q"] and not spare:
        return _of_a_query_alone(module, parts["q"], out)
    triple = [key for key in spare if matrices[key][0] == 3 * matrices[key][1]] if len(missing) == 3 else []
    if len(triple) == 1 or (len(missing) == 3 and len(spare) == 1):
        parts, missing = {"qkv": (triple or spare)[0]}, []
    square = "qkv" in parts and matrices[parts["qkv"]][0] <= matrices[parts["qkv"]][1]
    if square:
        parts = dict.fromkeys("qkv", parts["qkv"])
    lines = [f"[[layout]]{'  # if one projection is used as all three' if square else ''}"]
    lines += [f"layer = {_quoted(_glob(module))}"]
    lines += [
        f"{some} = {_quoted(key)}" for some, key in sorted(parts.items(), key=lambda item: "qkv".index(item[0][0]))
    ]
    one = _of_both(missing, parts, spare, matrices)
    if one:
        lines += [f"{''.join(missing)} = {_quoted(UNKNOWN)}  # one of {', '.join(map(_quoted, one[:4]))}"]
    if "qkv" in parts or one:
        lines.append(f"packing = {_quoted(UNKNOWN)}  # {', '.join(map(_quoted, _packings(missing)))}")
    beside = f"  # one of {', '.join(map(_quoted, spare[:4]))}" if spare else ""
    lines += [f"{part} = {_quoted(UNKNOWN)}{beside}" for part in missing if not one]
    if any(_has_three(shapes[key]) for key in (*parts.values(), *(spare if missing else ()))):
        choices = ", ".join(f"{_quoted(word)}" for word in THREE_AXES)
        lines.append(f"orientation = {_quoted(UNKNOWN)}  # what the three axes count: {choices}")
    lines += [f"out = {_quoted(out)}"] if out else []
    return "\n".join(lines)


def _named(matrices: Mapping[str, tuple[int, int]]) -> dict[str, str]:
    """The tensor whose name says each part, where only one does and it is no single row, which projects nothing."""
    said: dict[str, list[str]] = {}
    for key in matrices:
        if _parts(key):
            said.setdefault(_parts(key), []).append(key)
    return {some: keys[0] for some, keys in said.items() if len(keys) == 1}


def _share_heads(parts: Mapping[str, str], matrices: Mapping[str, tuple[int, int]]) -> bool:
    """Whether Q and K, where each is one tensor, can have heads of one width."""
    if "q" not in parts or "k" not in parts:
        return True
    few, many = sorted(matrices[parts[part]][0] for part in "qk")
    return many % few == 0


def _is_describable(shape: Sequence[int]) -> bool:
    """Whether a row can describe it: a matrix, or a parameter of three axes."""
    return prod(shape[2:]) == 1 or _has_three(shape)


def _of_both(
    missing: Sequence[str], parts: Mapping[str, str], spare: Sequence[str], matrices: Mapping[str, tuple[int, int]]
) -> list[str]:
    """Those that may hold both of two missing parts: with twice the rows of the third."""
    if len(missing) != 2 or len(parts) != 1 or missing == ["q", "v"]:
        return []
    ((rows, _),) = (matrices[key] for key in parts.values())
    return [key for key in spare if matrices[key][0] == 2 * rows]


def _has_three(shape: Sequence[int]) -> bool:
    return len(shape) == 3 and min(shape) > 1


def _packings(missing: Sequence[str]) -> list[str]:
    """The usual packings of what is missing, or of all three."""
    order = ", ".join(missing or "qkv")
    return [f"{order} in blocks", f"{order} per head", "row by row"]


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
