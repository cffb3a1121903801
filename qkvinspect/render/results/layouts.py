"""``layouts``: the registry as a table, and one row in full with its packing drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qkvinspect.layouts import Layout, StoredWeight
from qkvinspect.layouts.packing import HEADED, QUERY_SIDE, Geometry, Packing, slots_of, split_rows
from qkvinspect.render import text
from qkvinspect.render.document import Cell, Chapter, CodeBlock, DataTable, Document, Glossed, Items

_PROOFS = {
    "proven": "shown on the library's own module",
    "source": "read in the library's source",
    "excerpt": "seen in excerpts of the source",
    "memory": "remembered only: it never outranks another row",
}


def document(layouts: Sequence[Layout], *, full: bool = False) -> Document:
    """Rows of the registry.

    Args:
        full: everything about each, with its packing drawn.
    """
    return Document(
        "layouts",
        blocks=lambda: map(_full, layouts) if full else [_listing(layouts)],
        records=lambda: _records(layouts),
        data=lambda: [_data(layout) for layout in layouts],
    )


def _listing(layouts: Sequence[Layout]) -> DataTable:
    rows = [(layout.id, layout.proof.ljust(7), keys(layout), layout.libraries) for layout in layouts]
    return DataTable(("id", "known by", "stored", "libraries"), rows, (False,) * 4, stacked=True)


def _full(layout: Layout) -> Chapter:
    drawn = tuple(f"{_below(layout, stored)}: {diagram(stored.packing, layout)}" for stored in layout.weights)
    points = Items(tuple(Glossed(title, said) for title, said in _points(layout)))
    return Chapter(layout.id, (points, CodeBlock(drawn, "Rows")))


def _records(layouts: Sequence[Layout]) -> Iterator[Sequence[Cell]]:
    yield "id", "kind", "proof", "libraries", "stored", "rows", "kv_heads", "model_types", "source", "note"
    for layout in layouts:
        drawn = "; ".join(diagram(stored.packing, layout) for stored in layout.weights)
        types = " ".join(layout.model_types)
        known = (layout.kv_heads, types, layout.source, layout.note)
        yield layout.id, layout.kind, layout.proof, layout.libraries, keys(layout), drawn, *known


def _data(layout: Layout) -> dict[str, object]:
    """A row for programs."""
    return {
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
    alternate = packing.slot_innermost or packing.heads_innermost or packing.groups == "rows"
    dim = 2 if alternate or layout.subheads else 1
    sizes = Geometry(heads, kv_heads, dim, subheads=dict(layout.subheads))
    headed = [part for part in packing.order if part in HEADED]
    total = sum(sizes.heads(part) * sizes.width(part) for part in headed) + len(packing.order) - len(headed)
    labels = [""] * total
    for part, runs in split_rows(packing, sizes, total).items():
        for head, run in enumerate(runs):
            for row in run:
                both = labels[row] and not labels[row].startswith(part)
                name = text.part(part)
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
