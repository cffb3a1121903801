"""What a layer's tensors are, in plain words, with the code that slices them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qkvinspect.checkpoint import Checkpoint
from qkvinspect.explain import snippet
from qkvinspect.inspection.facts.fact import SaidBy
from qkvinspect.inspection.report import Attention, Part
from qkvinspect.layouts import Layout, StoredWeight
from qkvinspect.layouts.layout import tiled_by_name
from qkvinspect.layouts.packing import Geometry, describe, merge, span

_NAMES = {"q": "Q (query)", "k": "K (key)", "v": "V (value)"}


@dataclass(frozen=True, slots=True)
class Explanation:
    """One layer in words.

    Attributes:
        points: (what it is about, the sentences), in reading order.
        code: lines of Python that slice the stored tensors.
    """

    layer: str
    points: tuple[tuple[str, str], ...]
    code: tuple[str, ...]


def explain(attention: Attention, checkpoint: Checkpoint) -> Explanation:
    """Say which rows are what, and why."""
    return Explanation(
        attention.layer,
        tuple(_points(attention)),
        tuple(snippet.python(attention, checkpoint)),
    )


def _points(attention: Attention) -> Iterator[tuple[str, str]]:
    layout = attention.layout
    if layout is None and not attention.candidates:
        yield "Layout", f"{attention.may_be}: no layout that is known takes its rows as the graph does."
        return
    if layout is None:
        text = (
            f"ambiguous: {' and '.join(attention.candidates)} store different things under this name and "
            f"shape. --layout '{attention.layer}=ID' or --config FILE settles it."
        )
        yield "Layout", text
        return
    yield "Layout", _layout(attention, layout)
    yield "Stored", " ".join(_stored(attention, layout))
    if attention.parts:
        yield "Rows", " ".join(_rows(part, attention) for part in attention.parts)
    else:
        yield "Rows", "unknown: the parts alternate head by head, so the number of heads is needed."
    lost = dict.fromkeys(weight.why for weight in attention.weights if weight.why)
    if lost:
        yield "Numbers", f"cannot be decoded: {'; '.join(lost)}."
    does = {"pattern": "what {} say", "graph": "what {} do"}.get(layout.found_by, "how {} stores it")
    yield "Why", layout.why or f"this is {does.format(layout.source)}."
    if attention.parts:
        yield "Biases", _biases(attention)
    yield "Heads", _heads(attention)
    if attention.extras:
        yield (
            "Beware",
            " ".join(
                f"{_short(info.name, attention)} {list(info.shape)} is {what}." for info, what in attention.extras
            ),
        )
    if layout.note:
        first = layout.note.split(maxsplit=1)[0]  # which may be a name, such as num_heads
        yield "Note", f"{layout.note if '_' in first else layout.note[0].upper() + layout.note[1:]}."


def _layout(attention: Attention, layout: Layout) -> str:
    how = {
        "names": "known from the tensors' names",
        "flag": "given by --layout",
        "siblings": "known from the tensors beside it",
        "graph": "known from the graph of the file",
    }.get(attention.layout_from, f"told by {attention.layout_from}")
    sure = "; this row of the registry rests on memory only" if layout.proof == "memory" else ""
    return f"{layout.id}: {layout.libraries} ({how}{sure})."


def _stored(attention: Attention, layout: Layout) -> Iterator[str]:
    for stored, info in snippet.stored_weights(attention, layout):
        held = [part.upper() for part in ("q", "k", "v") if part in stored.packing.parts]
        what = f"{' and '.join([', '.join(held[:-1]), held[-1]])} packed in one" if len(held) > 1 else "not packed"
        more = " with rows of something else" if len(stored.packing.parts) > len(held) else ""
        kept = info.dtype.name if info.encoding is None else f"({info.encoding.label})"
        yield f"{_short(info.name, attention)} {list(info.shape)} {kept}, {what}{more}."
    if layout.why_stored and len(attention.weights) == len(layout.weights):
        widths = {part.name: part.in_features for part in attention.parts}
        yield layout.why_stored.format(**widths, embed_dim=attention.embed_dim)
    if attention.out is not None:
        yield f"The output projection is {_short(attention.out.name, attention)} {list(attention.out.shape)}."


def _rows(part: Part, attention: Attention) -> str:
    axis = {"out_in": "rows", "in_out": "columns", "in_heads_dim": "flattened [head, dim] columns"}
    where = f"{axis[part.orientation]} {_runs(part.rows)} of {_short(part.weight.name, attention)}"
    return f"{_NAMES[part.name]}: {where}."


def _runs(runs: Sequence[range]) -> str:
    more = f" and {len(runs) - 4} more runs" if len(runs) > 4 else ""
    return f"{', '.join(map(span, runs[:4]))}{more}"


def _biases(attention: Attention) -> str:
    parts = [part for part in attention.parts if part.bias is not None]
    if not parts:
        return "none are stored (bias=False)."
    where = [
        f"{part.name.upper()} in {_entries(part, _short(part.bias.name, attention))}" for part in parts if part.bias
    ]
    without = [part.name.upper() for part in attention.parts if part.bias is None]
    return f"{', '.join(where)}." + (f" {' and '.join(without)} has none." if without else "")


def _entries(part: Part, bias: str) -> str:
    runs = merge(part.bias_heads)
    return f"{bias}[{span(runs[0])}]" if len(runs) == 1 else f"entries {_runs(runs)} of {bias}"


def _short(name: str, attention: Attention) -> str:
    """A tensor's name below its layer."""
    return name.removeprefix(f"{attention.layer}.")


def _heads(attention: Attention) -> str:
    geometry = attention.heads
    if geometry is None and attention.layout is not None and attention.layout.heads_on_all_rows:
        return "no rows are those of one head alone, so that no number of heads cuts them."
    if geometry is None:
        possible = ", ".join(map(str, attention.possible_heads[:16]))
        return (
            f"num_heads is a plain attribute of the module and is in no tensor; {_who_tells(attention)}. --heads N"
            f" sets it. {f'Possible: {possible}.' if possible else ''}"
        ).strip()
    origin = "the weights" if attention.heads_said_by is SaidBy.WEIGHTS else attention.heads_from
    text = f"{describe(geometry)}, from {origin}."
    return f"{text} {_head_places(attention, geometry)}"


def _who_tells(attention: Attention) -> str:
    """Why the number of heads is unknown."""
    said = [fact for fact in attention.weighed_facts if fact.verdict == "not used"]
    if said:
        return "what the sources say of it does not fit the rows"
    return (
        "the sources do not agree" if attention.weighed_facts else "no source beside or inside the checkpoint gives it"
    )


def _subhead_places(geometry: Geometry) -> str:
    """The rows of Q, of Q and K, or of V that belong to the sub-heads of one head."""
    divided = [part for part in ("q", "k", "v") if geometry.subheads.get(part, 1) > 1]
    first = divided[0] if divided else "q"
    heads, width, each = geometry.num_heads, geometry.width(first), geometry.subheads.get(first, 1)
    parts = " and ".join(part.upper() for part in divided)
    text = f"{parts} {'has' if len(divided) == 1 else 'have'} {each} sub-heads of {width} rows for each head, "
    where = f"in {first.upper()}, those of head h"
    if geometry.subheads_apart:
        begin = f"h*{width} and ({heads}+h)*{width}" + (", and so on" if each > 2 else "")
        return text + f"the first of all heads before the second: {where} begin at {begin}"
    return text + f"side by side: {where} are h*{width * each}:(h+1)*{width * each}"


def _has_heads_innermost(stored: StoredWeight) -> bool:
    return stored.packing.heads_innermost or stored.packing.groups == "rows"


def _pairing(attention: Attention, geometry: Geometry) -> str:
    """Which kv head a head uses, and where it is from where there are two answers."""
    kv_heads = geometry.num_kv_heads
    near, tiled = f"h//{geometry.num_heads // kv_heads}", f"h % {kv_heads}"
    if geometry.tiled is None:
        return f"query head h uses kv head {near} or {tiled}: libraries with these names differ, and nothing else tells"
    text = f"query head h uses kv head {tiled if geometry.tiled else near}"
    layout = attention.layout
    if layout is None or geometry.tiled == tiled_by_name(layout, attention.layer):
        return f"{text}, as the names tell" if geometry.tiled else text
    return f"{text}, as the weights say"


def _head_places(attention: Attention, geometry: Geometry) -> str:
    width = geometry.head_dim
    if geometry.subheads:
        places = _subhead_places(geometry)
    elif all(len(part.rows) == 1 for part in attention.parts):
        places = (
            f"Head h of a part is {width} neighbouring rows: h*{width}:(h+1)*{width} of Q"
            if geometry.num_heads > 1
            else "The one head is the whole part"
        )
    else:
        alternate = attention.layout is not None and any(map(_has_heads_innermost, attention.layout.weights))
        what = "rows of a head are not neighbours: the packing alternates heads" if alternate else None
        places = f"The {what or 'heads of a part are not neighbours: the packing alternates Q, K and V'}"
    sizes = {part.name: geometry.width(part.name) for part in attention.parts}
    if len(set(sizes.values())) > 1:
        places += f"; a head has {', '.join(f'{size} rows of {name.upper()}' for name, size in sizes.items())}"
    if geometry.num_kv_heads != geometry.num_heads:
        share = geometry.num_heads // geometry.num_kv_heads
        places += f"; {share} query heads share a kv head ({_pairing(attention, geometry)})"
    return f"{places}."
