"""The registry of layouts for people: a table, and one row in full with its packing drawn."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from qkvinspect.layouts import Layout, StoredWeight
from qkvinspect.layouts.packing import HEADED, QUERY_SIDE, Geometry, Packing, slots_of, split_rows
from qkvinspect.render.prose import point

_PROOFS = {
    "proven": "shown on the library's own module",
    "source": "read in the library's source",
    "excerpt": "seen in excerpts of the source",
    "memory": "remembered only: it never outranks another row",
}


def table(layouts: Sequence[Layout]) -> str:
    """One line a layout: id, how it is known, the stored tensors, the libraries."""
    width = max(len(layout.id) for layout in layouts)
    lines = (
        f"{layout.id.ljust(width)}  {layout.proof.ljust(8)} {keys(layout)}\n{' ' * (width + 11)}{layout.libraries}"
        for layout in layouts
    )
    return "\n".join(lines) + "\n"


def full(layout: Layout, width: int | None) -> str:
    """Everything about one layout."""
    lines = [layout.id, *(point(title, text, width) for title, text in _points(layout)), "  Rows"]
    for stored in layout.weights:
        lines.append(f"    {_below(layout, stored)}: {diagram(stored.packing, layout)}")
    return "\n".join(lines) + "\n"


def as_json(layouts: Sequence[Layout]) -> str:
    """The registry for programs."""
    rows = [
        {
            "id": layout.id,
            "libraries": layout.libraries,
            "kind": layout.kind,
            "layer": layout.layer,
            "weights": [
                {"key": s.key, "order": s.packing.order, "groups": s.packing.groups, "orientation": s.orientation}
                for s in layout.weights
            ],
            "kv_heads": layout.kv_heads,
            "model_types": layout.model_types,
            "needs_config": layout.needs_config,
            "proof": layout.proof,
            "source": layout.source,
            "note": layout.note,
        }
        for layout in layouts
    ]
    return json.dumps(rows, indent=2) + "\n"


def keys(layout: Layout) -> str:
    """The stored weights, with what the layer's name ends with."""
    return ", ".join(_below(layout, stored) for stored in layout.weights)


def diagram(packing: Packing, layout: Layout) -> str:
    """The rows of a small example, top to bottom: one label a head, ``|`` between groups.

    Two heads, or four over two kv heads where the library shares them.
    """
    heads = 2 * packing.groups if isinstance(packing.groups, int) else 4 if layout.kv_heads == "free" else 2
    kv_heads = {"free": heads // 2, "equal": heads, "one": 1}[layout.kv_heads]
    if isinstance(packing.groups, int):
        kv_heads = heads
    dim = 2 if packing.slot_innermost or layout.subheads else 1
    sizes = Geometry(heads, kv_heads, dim, subheads=dict(layout.subheads))
    headed = [part for part in packing.order if part in HEADED]
    total = sum(sizes.heads(part) * sizes.width(part) for part in headed) + len(packing.order) - len(headed)
    labels = [""] * total
    for part, runs in split_rows(packing, sizes, total).items():
        for head, run in enumerate(runs):
            for row in run:
                both = labels[row] and not labels[row].startswith(part)
                name = part.upper() if part in {"q", "k", "v"} else part
                labels[row] = f"{labels[row]}={name}{head}" if both else _label(part, name, head)
    groups, _ = slots_of(packing, sizes, total)
    size = total // groups
    return " | ".join(" ".join(labels[start : start + size]) for start in range(0, total, size))


def _label(part: str, name: str, head: int) -> str:
    return f"{name}{head}" if part in QUERY_SIDE or part in {"k", "v"} else name


def _points(layout: Layout) -> Iterator[tuple[str, str]]:
    yield "Used by", f"{layout.libraries}."
    yield "Stored", f"{keys(layout)} ({layout.kind})."
    if any(stored.orientation != "out_in" for stored in layout.weights):
        forms = {"in_out": "[in, out]: rows below are columns", "in_heads_dim": "[in, heads, head_dim]"}
        yield "Lies", ", ".join(sorted({forms[s.orientation] for s in layout.weights if s.orientation in forms})) + "."
    if layout.biases:
        yield "Biases", ", ".join(stored.key for stored in layout.biases) + "."
    heads = {"free": "may share kv heads", "equal": "as many kv heads as heads", "one": "one kv head"}
    yield "Heads", f"{heads[layout.kv_heads]}."
    yield "Told by", "; ".join(_told_by(layout)) + "."
    yield "Known by", f"{layout.source} ({_PROOFS[layout.proof]})."
    if layout.note:
        yield "Beware", f"{layout.note}."


def _told_by(layout: Layout) -> Iterator[str]:
    if layout.model_types:
        yield f"a config of {', '.join(layout.model_types)}"
    for key, values in layout.flags.items():
        yield f"{key} = {' or '.join('anything' if v is Ellipsis else repr(v) for v in values)}"
    for what, names in (
        ("beside it", layout.siblings),
        ("settled by", layout.settled_by),
        ("never with", layout.unless),
    ):
        if names:
            yield f"{what}: {', '.join(names)}"
    yield "a config or --layout only" if layout.needs_config else "the names"


def _below(layout: Layout, stored: StoredWeight) -> str:
    return f"{layout.layer}.{stored.key}" if layout.layer else stored.key
