"""Suggest a ``[[layout]]`` row for tensors that were not understood, for the user to paste and complete."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from math import prod

from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.inspection.beside_mlp import holding_mlp, is_of_mlp
from qkvinspect.inspection.two_steps import without_first_steps
from qkvinspect.inspection.words import MORE, Word, is_output, tokens, word_of
from qkvinspect.layouts.from_settings import THREE_AXES, UNKNOWN

Shapes = Mapping[str, Sequence[int]]

_UP: Mapping[str, str] = {"uq": "q", "wuq": "q", "uk": "k", "wuk": "k", "uv": "v", "wuv": "v"}
"""The second step of latent attention makes the heads of each part."""


class _SaidByNames(NamedTuple):
    """What names say of a module's tensors.

    Attributes:
        parts: the tensor of each part, or of several.
        spare: tensors that may be what is missing.
        missing: the parts that no name says.
        more: whether the one tensor of Q, K and V holds something else besides.
    """

    parts: dict[str, str]
    spare: list[str]
    missing: list[str]
    more: bool


class Suggestion(NamedTuple):
    """What to put into the settings.

    Attributes:
        row: lines of TOML to complete; "" where no row can say what the tensors are.
        why_not: why none can, and what to do instead, as a clause.
    """

    row: str
    why_not: str = ""


def suggested(module: str, tensors: Shapes, beside: Shapes | None = None, *, mixed: bool = False) -> Suggestion:
    """The row for a module and those of its tensors that look like projections, with their shapes.

    Args:
        beside: other tensors of the module, which may be what no name says if they have the shape of one of these.
        mixed: whether other modules of its stack are not to be described.
    """
    alike = {name: shape for name, shape in (beside or {}).items() if _is_output(name) or shape in tensors.values()}
    shapes = {_below(module, name): shape for name, shape in {**tensors, **alike}.items()}
    shapes = {key: shapes[key] for key in without_first_steps(shapes)}
    own = {key for key in (_below(module, name) for name in tensors) if key in shapes}
    if any(prod(shapes[key][2:]) > 1 and not _has_three(shapes[key]) for key in own if _parts(key)):
        return Suggestion("", _MORE_AXES)
    matrices = {
        key: (shape[0], prod(shape[1:]))
        for key, shape in shapes.items()
        if len(shape) > 1 and shape[0] > 1 and prod(shape[1:]) > 1
    }
    out = _output(matrices)
    said = _said(matrices, own, shapes, out)
    if said.spare and _are_heads([matrices[key] for key in said.spare if key in own]):
        return Suggestion("", _ONE_A_HEAD)
    if not said.parts and not said.spare:
        return Suggestion("", _NO_MATRICES)
    if not _share_heads(said.parts, matrices):
        return Suggestion("", _NO_HEADS)
    if out and "qkv" in said.parts and (said.more or len(said.parts) == 1 == len(own)):
        rows, cols = matrices[said.parts["qkv"]]
        if (said.more and 3 * matrices[out][1] >= rows) or rows - matrices[out][1] == 2 * cols < rows - cols:
            return Suggestion("", _READS_BOTH)
    if list(said.parts) == ["q"] and not said.spare:
        return Suggestion(_of_a_query_alone(module if mixed else _glob(module), said.parts["q"], out))
    place = module if mixed and said.missing and not said.spare else _glob(module)
    several = [key for key in said.spare if key in own and matrices[key][0] == 3 * matrices[key][1]]
    each = [_SaidByNames({"qkv": key}, [], [], False) for key in several] if len(several) == len(own) > 1 else [said]
    return Suggestion("\n".join(line for one in each for line in _lines(place, one, shapes, matrices, out)))


def _is_turned(size: tuple[int, int]) -> bool:
    """Whether it has Q, K and V side by side."""
    rows, cols = size
    return cols == 3 * rows


def _are_heads(sizes: Sequence[tuple[int, int]]) -> bool:
    """Whether matrices without names may be a list of heads, Q, K and V of each in one."""
    return len({*sizes}) == 1 < len(sizes) != 3 and len(sizes) * sizes[0][0] == 3 * sizes[0][1]


_MORE_AXES = (
    "a row describes matrices and parameters of three axes: save each as a matrix [rows, in], with the axes of parts, "
    "heads and head_dim as one"
)
_NO_MATRICES = "a row describes matrices, and none of these is one"
_NO_HEADS = "Q and K have no number of heads in common: say with q, k and v of a row which tensors they are instead"
_ONE_A_HEAD = (
    "a row describes whole projections: save the list as one matrix, or call it heads.N.qkv, which is known as a list "
    "of heads"
)
_READS_BOTH = (
    "the output projection reads the MLP as well, so that its width does not say where attention ends: save the rows "
    "of q, k and v under a name of their own"
)


def _said(matrices: Mapping[str, tuple[int, int]], own: set[str], shapes: Shapes, out: str | None) -> _SaidByNames:
    parts = _named({key: size for key, size in matrices.items() if key in own})
    more = any(MORE in word.parts or len(word.parts) > 3 for key in parts.values() for word in _words(key))
    if not parts and (whole := holding_mlp(shapes)):
        return _SaidByNames({"qkv": whole}, [], [], True)
    missing = [part for part in "qkv" if not any(part in some for some in parts)]
    spare = [key for key in matrices if key not in parts.values() and key != out and _is_describable(shapes[key])]
    triple = [key for key in spare if matrices[key][0] == 3 * matrices[key][1]] if len(missing) == 3 else []
    triple = [key for key in triple if key in own] or triple or [key for key in spare if _is_turned(matrices[key])]
    if len(triple) == 1 or (len(missing) == 3 and len(spare) == 1):
        parts, missing = {"qkv": (triple or spare)[0]}, []
    return _SaidByNames(parts, spare if missing else [], missing, more)


def _lines(
    place: str, said: _SaidByNames, shapes: Shapes, matrices: Mapping[str, tuple[int, int]], out: str | None
) -> list[str]:
    parts, spare, missing = said.parts, said.spare, said.missing
    stacked = "qkv" in parts and _has_three(shapes[parts["qkv"]])
    gate = "qkv" in parts and not holding_mlp({key: shapes[key] for key in shapes if key in matrices})
    turned = "qkv" in parts and not stacked and _is_turned(matrices[parts["qkv"]])
    same = "qkv" in parts and not stacked and not turned and matrices[parts["qkv"]][0] <= matrices[parts["qkv"]][1]
    if same:
        parts = dict.fromkeys("qkv", parts["qkv"])
    alone = f"  # it has no {' and '.join(missing).upper()} of its own" if missing and not spare else ""
    lines = [f"[[layout]]{'  # if one projection is used as all three' if same else alone}"]
    lines += [f"layer = {_quoted(place)}"]
    lines += [
        f"{some} = {_quoted(key)}" for some, key in sorted(parts.items(), key=lambda item: "qkv".index(item[0][0]))
    ]
    one = _of_both(missing, parts, spare, matrices)
    if one:
        lines += [f"{''.join(missing)} = {_quoted(UNKNOWN)}  # one of {', '.join(map(_quoted, one[:4]))}"]
    if "qkv" in parts or one:
        choices = ", ".join(map(_quoted, _packings(missing, more=said.more, gate=gate, stacked=stacked)))
        lines.append(f"packing = {_quoted(UNKNOWN)}  # {choices}")
    elif "kv" in parts and not same:
        choices = ", ".join(map(_quoted, ("k, v per head", "k, v in blocks")))
        lines.append(f"packing = {_quoted(UNKNOWN)}  # {choices}")
    if any(line.startswith("packing") for line in lines):
        lines.append(
            '# heads = "8"  # how many, or "32/8" with kv heads: where the packing is per head, none can be found'
        )
    lines += ['orientation = "in_out"'] if turned else []
    beside = f"  # one of {', '.join(map(_quoted, spare[:4]))}" if spare else ""
    lines += [f"{part} = {_quoted(UNKNOWN)}{beside}" for part in missing if spare and not one]
    if any(_has_three(shapes[key]) for key in (*parts.values(), *spare)):
        ways = ["heads_dim_in", "heads_in_dim"] if stacked else THREE_AXES
        count = " ([3, out, in] is heads_dim_in)" if stacked else ""
        lines.append(
            f"orientation = {_quoted(UNKNOWN)}  # what the three axes count{count}: {', '.join(map(_quoted, ways))}"
        )
    return [*lines, f"out = {_quoted(out)}"] if out else lines


def _output(matrices: Mapping[str, tuple[int, int]]) -> str | None:
    """The output projection: by its name, or as the one matrix that lies the other way round than three others."""
    outputs = sorted(filter(_is_output, matrices), key=lambda key: (_is_turned(matrices[key]), is_of_mlp(key)))
    named = next(iter(outputs), None)
    if named is not None or any(map(_parts, matrices)):
        return named
    sizes = list(matrices.values())
    back = [key for key, (rows, cols) in matrices.items() if rows != cols and sizes.count((cols, rows)) == 3]
    return back[0] if len(back) == 1 else None


def _is_output(name: str) -> bool:
    return any(map(is_output, re.split(r"[./]", name)[-2:]))


def _named(matrices: Mapping[str, tuple[int, int]]) -> dict[str, str]:
    """The tensor whose name says each part, where only one does and it is no single row, which projects nothing.

    Three of a list whose name says all three, or two of one for both, are one each, in the order of the name.
    """
    said: dict[str, list[str]] = {}
    for key in matrices:
        if _parts(key):
            said.setdefault(_parts(key), []).append(key)
    for parts in ("qkv", "kv"):
        listed = said.get(parts, [])
        if len(listed) == len(parts) and len({matrices[key] for key in listed}) == 1 and len(said) == 4 - len(parts):
            order = next(word.parts for word in _words(listed[0]))
            if len(order) != len(parts):
                return {}
            return {**dict(zip(order, listed, strict=True)), **{some: said[some][0] for some in {*said} - {parts}}}
    named = {some: keys[0] for some, keys in said.items() if len(keys) == 1}
    return {} if len(named) == 1 and _is_one_of_letters(matrices, *named.values()) else named


def _is_one_of_letters(keys: Iterable[str], named: str) -> bool:
    """Whether a letter says nothing, since others beside it have no meaning: ``f``, ``g``, ``h`` and ``v``."""
    letters = [first for key in keys if len(first := key.split(".")[0]) == 1 and not first.isdecimal()]
    return named.split(".", maxsplit=1)[0] in letters and sum(word_of(letter) is None for letter in letters) > 1


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


def _packings(missing: Sequence[str], *, more: bool, gate: bool, stacked: bool) -> list[str]:
    """The usual packings of what is missing, or of all three."""
    order = ", ".join(missing or "qkv")
    if more:
        gated = [f"{order}, gate in blocks", f"{order}, gate per head"] if gate else []
        return [*gated, f"{order}, mlp in blocks", f"mlp, {order} in blocks"]
    rest = () if stacked else ("row by row", f"{order} a row of each head in turn")
    return [f"{order} in blocks", f"{order} per head", *rest]


def _of_a_query_alone(place: str, query: str, out: str | None) -> str:
    """A row for a module by its own name where a glob would take Q from layers that have K and V beside it."""
    told = {"layer": place, "q": query} | ({"out": out} if out else {})
    lines = [f"{key} = {_quoted(text)}" for key, text in told.items()]
    return "\n".join(["[[layout]]  # it has no K and V of its own", *lines])


def _below(module: str, name: str) -> str:
    """A tensor's key below its module, divided by dots whatever the names are divided by."""
    key = name[len(module) + 1 :] if module else name
    return key.replace("/", ".") if "/" in name else key


def _words(key: str) -> list[Word]:
    """The words of its last components, the last first."""
    return [word for part in reversed(key.split(".")[-3:]) if (word := word_of(part)) is not None]


def _parts(key: str) -> str:
    """Which of q, k and v a tensor's name says it holds, in this order."""
    for word in _words(key):
        return "".join(part for part in "qkv" if part in word.parts)
    steps = [_UP[word] for part in key.split(".") for word in tokens(part) if word in _UP]
    return steps[0] if len(steps) == 1 else ""


def _glob(module: str) -> str:
    """A glob for the module in every layer of its stack."""
    return ".".join("*" if part.isdecimal() else part for part in module.split(".")) or "*"


def _quoted(text: str) -> str:
    """A basic string of TOML."""
    return json.dumps(text, ensure_ascii=False)
