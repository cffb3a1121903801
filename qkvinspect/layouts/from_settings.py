"""Layouts that a user describes: a ``[[layout]]`` row of the settings, or ``--layout '{ ... }'`` for one run.

[[layout]]
id = "mine"                   # what the output calls it
layer = "*.att_stack.*"       # a glob for the modules that it is for; all, if left out
q = "q_linear.weight"         # names below the module; qkv, kv or qk where one tensor holds several
k = "k_linear.weight"
v = "v_linear.weight"
out = "out_linear.weight"     # the output projection
packing = "q, k, v per head"  # of a tensor that holds several: in blocks, per head, per kv head, row by row
orientation = "out_in"        # in_out where columns are Q, K and V
heads = "32/8"                # heads, over kv heads
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import get_args

from qkvinspect.checkpoint import Orientation
from qkvinspect.errors import UsageError
from qkvinspect.layouts.layout import Layout, StoredWeight
from qkvinspect.layouts.packing import HEADED, Groups, Packing

UNKNOWN = "?"
"""The placeholder in a suggested row, where the user has to fill in the name of a tensor."""

_WEIGHTS = ("qkv", "qk", "kv", "q", "k", "v")
_KEYS = ("id", "layer", *_WEIGHTS, "out", "packing", "orientation", "heads")

_HOW: Mapping[str, tuple[Groups, bool]] = {
    "in blocks": ("one", False),
    "per head": ("heads", False),
    "per kv head": ("kv_heads", False),
    "row by row": ("heads", True),
}
"""The words for groups, as ``explain`` uses them, and whether the parts alternate row by row."""


def rows(tables: Iterable[Mapping[str, object]], origin: str) -> tuple[Layout, ...]:
    """The layouts that some tables describe.

    Raises:
        UsageError: one of them describes none.
    """
    return tuple(_row(table, origin, number) for number, table in enumerate(tables, 1))


def parse(text: str) -> Layout:
    """The layout that ``--layout '{ q = "...", ... }'`` describes.

    Raises:
        UsageError: it describes none.
    """
    import tomllib

    try:
        table: dict[str, object] = tomllib.loads(f"layout = {text}")["layout"]
    except (ValueError, RecursionError) as error:
        hint = """write it as '{ q = "q_linear.weight", k = "k_linear.weight", v = "v_linear.weight" }'"""
        raise UsageError(f"--layout {text[:80]} is no table of TOML: {error}", hint=hint) from error
    return _row(table, "--layout", 1)


def _row(table: Mapping[str, object], origin: str, number: int) -> Layout:
    unknown = ", ".join(repr(key) for key in table if key not in _KEYS)
    if unknown:
        raise UsageError(f"{origin}: a layout has keys that are not known", expected=", ".join(_KEYS), found=unknown)
    texts = {key: _text(origin, key, value) for key, value in table.items()}
    stored = [(parts, texts[parts]) for parts in _WEIGHTS if parts in texts]
    held = "".join(parts for parts, _ in stored)
    if len(set(held)) != len(held) or not stored:
        raise UsageError(
            f"{origin}: a layout names each of q, k and v once, by itself or in qkv, kv or qk",
            found=", ".join(parts for parts, _ in stored) or "none of them",
        )
    orientation = _orientation(origin, texts.get("orientation", "out_in"))
    packings = {parts: _packing(origin, parts, texts.get("packing", "in blocks")) for parts, _ in stored}
    heads, kv_heads = _heads(origin, texts.get("heads"))
    return Layout(
        id=texts.get("id", f"told-{number}"),
        libraries=f"told by {origin}",
        weights=tuple(StoredWeight(key, packings[parts], orientation) for parts, key in stored),
        biases=tuple(_biases((key, packings[parts]) for parts, key in stored)),
        out=(texts["out"],) if "out" in texts else (),
        out_orientation=orientation,
        glob=texts.get("layer", "*"),
        num_heads=heads,
        num_kv_heads=kv_heads,
        kv_heads="free",
        head_tensors=(),
        v_free=True,
        found_by="settings",
        source=origin,
        proof="settings",
    )


def _biases(stored: Iterable[tuple[str, Packing]]) -> Iterator[StoredWeight]:
    for key, packing in stored:
        head, _, last = key.rpartition(".")
        if last in ("weight", "kernel"):
            yield StoredWeight(f"{head}.bias".lstrip("."), packing)
        elif "weight" in last:
            yield StoredWeight(f"{head}.{last.replace('weight', 'bias')}".lstrip("."), packing)


def _text(origin: str, key: str, value: object) -> str:
    if type(value) not in (str, int) or not str(value) or len(str(value)) > _LONGEST:
        raise UsageError(f"{origin}: {key} of a layout is no text", found=repr(value)[:60])
    if value == UNKNOWN:
        hint = f"put {'a packing' if key == 'packing' else 'the name of a tensor'} there"
        raise UsageError(f"{origin}: {key} of a layout is still {UNKNOWN!r}", hint=hint)
    return str(value)


_LONGEST = 500
_PACKING = r"(?:([a-z]+(?: *, *[a-z]+)*) +)?(in blocks|per head|per kv head|row by row|in (\d{1,4}) groups)"


def _orientation(origin: str, text: str) -> Orientation:
    known: tuple[Orientation, ...] = get_args(Orientation)
    for orientation in known:
        if orientation == text:
            return orientation
    raise UsageError(f"{origin}: {text!r} is no orientation", expected=" or ".join(known))


def _packing(origin: str, parts: str, text: str) -> Packing:
    """The packing of one tensor; the text applies only to a tensor that holds several parts."""
    if len(parts) == 1:
        return Packing((parts,))
    found = re.fullmatch(_PACKING, text)
    if not found:
        how = ", ".join(_HOW)
        raise UsageError(f"{origin}: {text!r} is no packing", expected=f"'q, k, v' and one of: {how}, in N groups")
    order = tuple(re.split(r" *, *", found[1])) if found[1] else tuple(parts)
    allowed = set(order) <= HEADED | {"mlp"} and len(set(order)) == len(order)
    if not allowed or set(parts) != set(order) & {"q", "k", "v"}:
        raise UsageError(f"{origin}: the packing of {parts} lists other parts", expected=", ".join(parts), found=text)
    groups, innermost = (int(found[3]), False) if found[3] else _HOW[found[2]]
    return Packing(order, groups, innermost)


def _heads(origin: str, text: str | None) -> tuple[int | None, int | None]:
    if text is None:
        return None, None
    found = re.fullmatch(r"(\d{1,5})(?:/(\d{1,5}))?", text)
    if not found or not int(found[1]) or found[2] == "0":
        raise UsageError(f"{origin}: heads of a layout are no number", expected="N or N/KV", found=repr(text)[:60])
    return int(found[1]), int(found[2]) if found[2] else None
