"""The components of tensors' names, without those that wrappers add."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from sys import intern

from qkvinspect.inspection.names_by_path import Path
from qkvinspect.inspection.words import counts_heads, tokens
from qkvinspect.late_pattern import late_pattern

TRAINED, ORIGINAL = "modules_to_save", "original_module"
"""What PEFT keeps the copies of a module in that it trains whole, each under the name of its adapter
(``modules_to_save.default``), and what it calls the module as it was (peft 0.21, utils/other.py, ModulesToSaveWrapper).
"""

WRAPPERS = frozenset(
    {
        "module",
        "_orig_mod",
        "_fsdp_wrapped_module",
        "_checkpoint_wrapped_module",
        "base_layer",
        ORIGINAL,
        TRAINED,
    }
)
"""Components that DataParallel, torch.compile, FSDP and PEFT put into names. They are stripped when names are
matched and kept when they are shown."""

VARIABLES: Mapping[tuple[str, ...], str] = {
    ("kernel", "value"): "kernel",
    ("bias", "value"): "bias",
    ("vars", "0"): "kernel",
    ("vars", "1"): "bias",
}
"""What Flax's nnx and Keras 3 end the names of variables with, and what these are called elsewhere."""

VARIABLE_ENDS = frozenset(end[-1] for end in VARIABLES)

_KINDS = frozenset({"weight", "bias"})

LIST = "*"
"""What stands for the number of each head in the name of a weight that is stored as a list with a tensor a head."""

_KEPT = 1 << 14
"""Ends of names whose components are kept: of a layer with more experts than that each is taken apart."""

_DEEPEST = 128
"""Components of a path; those before are one. What asks for every module above another takes the square of it."""

SEPARATORS = late_pattern(r"[./]")
_OUTPUT = late_pattern(r":\d{1,3}$")


def paths_of(names: Iterable[str]) -> dict[str, Path]:
    """Each name with its components as ``unwrapped`` has them, each of these kept once.

    What follows the first number of a name is the same in many layers, and mostly that number is the one before.
    """
    found: dict[str, Path] = {}
    ends: dict[str, Path] = {}
    before, above = "", ()
    for name in names:
        if before and name.startswith(before):
            end = name[len(before) :]
            path = ends.get(end)
            if path is None and len(ends) < _KEPT:
                path = ends[end] = _shared(tuple(end.split("."))) if _is_plain(end) else ()
            if path:
                found[name] = above + path
                continue
        found[name] = _shared(unwrapped(name))
        if not before or not name.startswith(before):
            before, above = _block(name)
    return found


def unwrapped(name: str) -> Path:
    """A name's components without those of wrappers; all of them if it has no others, so that none is without a path.

    Haiku, TensorFlow and Keras write ``layer_0/query/kernel:0``: slashes divide as dots do, and the number of an
    operation's output says nothing.
    """
    path = split_path(SEPARATORS.split(_OUTPUT.sub("", name)) if "/" in name else name.split("."))
    if path[-1] in VARIABLE_ENDS and len(path) > 2 and path[-2:] in VARIABLES:
        path = (*path[:-2], VARIABLES[path[-2:]])
    return canonical(path) if LIST in name else _without_wrappers(path)


def is_written(name: str) -> bool:
    """Whether a name is nothing but its components as ``unwrapped`` has them."""
    return unwrapped(name) == tuple(name.split("."))


def _is_plain(end: str) -> bool:
    """Whether all components of the end of a name stay as they are, whatever stands before it."""
    parts = end.split(".")
    strange = LIST in end or "/" in end or parts[-1] in VARIABLE_ENDS
    return not strange and len(parts) < _DEEPEST // 2 and WRAPPERS.isdisjoint(parts)


def _block(name: str) -> tuple[str, Path]:
    """What a name begins with, up to its first number and the point behind, and the components; "" if it has none."""
    parts = name.split(".")
    at = next((at for at, part in enumerate(parts[:-1]) if at and part.isdecimal()), 0)
    path = tuple(parts[: at + 1])
    begin = f"{'.'.join(path)}."
    strange = "/" in begin or LIST in begin or at >= _DEEPEST // 2
    return ("", ()) if strange or not at else (begin, _shared(_without_wrappers(path)))


def _without_wrappers(path: Path) -> Path:
    if WRAPPERS.isdisjoint(path):
        return path
    return tuple(part for at, part in enumerate(path) if not of_wrapper(part, path[at - 1] if at else "")) or path


def of_wrapper(part: str, before: str) -> bool:
    """Whether a component was added by a wrapper, by the one that stands before it."""
    return part in WRAPPERS or (before == TRAINED and part not in _KINDS)


def canonical(path: Path) -> Path:
    return unlisted(_without_wrappers(path))


def unlisted(path: Path) -> Path:
    """A path without what counts the heads of a list: ``sa.query`` of ``sa.heads.*.query`` and ``sa.head_*.query``.

    What says more than that these are heads stays: ``attn_heads.query``; so does a word: ``queries`` of ``queries.*``.
    """
    found: list[str] = []
    for part in path:
        stem = part.removesuffix(LIST).rstrip("_")
        if part == stem:
            found.append(part)
        elif stem:
            found += [] if _are_just_heads(stem) else [stem]
        elif found and _are_just_heads(found[-1]):
            found.pop()
    return tuple(found)


def _are_just_heads(component: str) -> bool:
    return counts_heads(component) and len(tokens(component)) == 1


def split_path(parts: list[str]) -> Path:
    return tuple(parts if len(parts) <= _DEEPEST else [".".join(parts[:-_DEEPEST]), *parts[-_DEEPEST:]])


def _shared(path: Path) -> Path:
    """The same components, each kept once: a million names have few that differ, and these take most of the room."""
    return tuple(map(intern, path))
