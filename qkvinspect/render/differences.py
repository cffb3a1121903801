"""A difference as words and flat rows, for every format that people read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from math import inf

from qkvinspect.diff.difference import SAME, STATUSES, Comparison, Difference, Kind, LayerDifference, Side
from qkvinspect.diff.relation import RelationCode
from qkvinspect.finding_codes import FindingCode, Severity
from qkvinspect.render import alike_names, text

PART_COLUMNS = ("part", "stored", "status", "relative L2", "max diff", "cosine", "changed")
HEAD_COLUMNS = ("part", "head", *PART_COLUMNS[2:])
NUMERIC = frozenset({"head", "relative L2", "max diff", "cosine", "changed"})

LOSS_COLUMNS = ("layer", "head", "Q", "K", "V", "out", "QK", "OV", "beyond rounding")
LOSS_NUMERIC = frozenset(LOSS_COLUMNS[1:])

UNDECODED = "not decoded"
"""What is said of a layer that a side holds without its numbers, in place of a status."""

_TELL_ALL = (RelationCode.ROTARY_PERMUTED, RelationCode.READ_OTHERWISE)

_MOST_LOSSES = 8
_MOST_OTHERS = 12
_MOST_DETAILED, _MOST_FOLDED = 6, 3
_MOST_LAYERS = 4
_LABELS = {"q": "Q", "k": "K", "v": "V"}


def sides(difference: Difference) -> Iterator[str]:
    """Each file in one line."""
    for side, file in (("A", difference.a), ("B", difference.b)):
        container = [f"in {file.container!r}"] if file.container else []
        facts = (side, file.path, file.format, *container, text.count(len(file.tensors), "tensor"))
        yield text.clean("  ".join((*facts, text.size(file.num_bytes))))


def layer_columns(difference: Difference) -> tuple[str, ...]:
    """The columns of ``layer_rows``: names in B only where one differs."""
    renamed = any(layer.a != layer.b for layer in difference.layers)
    return ("layer", *(("in B",) if renamed else ()), "status", "relative L2", "what")


def layer_rows(difference: Difference, *, folded: bool = False) -> Iterator[tuple[str, ...]]:
    """One row a layer, those that only one side holds last.

    Args:
        folded: with one row for neighbours of which all the same is said.
    """
    runs = groupby(_of_layers(difference), _but_for_numbers)
    for rows in (list(run) for _, run in runs):
        if folded and len(rows) > 2:
            names = [alike_names.together(column, few=1) for column in list(zip(*rows, strict=True))[:-3]]
            yield (*(name for (name,) in names), *rows[0][-3:])
        else:
            yield from rows


def _but_for_numbers(row: Sequence[str]) -> Sequence[str]:
    """What is said of a layer, its names without their numbers."""
    return (*map(alike_names.stem, row[:-3]), *row[-3:])


def _of_layers(difference: Difference) -> Iterator[tuple[str, ...]]:
    renamed = any(layer.a != layer.b for layer in difference.layers)
    lost = _undecoded(difference)
    for layer in difference.layers:
        names = (text.layer(layer.b),) if renamed else ()
        if why := _why(layer, lost):
            yield (text.layer(layer.a), *names, UNDECODED, "-", why)
        else:
            yield (text.layer(layer.a), *names, layer.status, _largest(layer), _what(layer))
    for status, names in (
        ("removed", (*difference.removed, *difference.removed_heads)),
        ("added", (*difference.added, *difference.added_heads)),
    ):
        for name in names:
            why = lost["b" if status == "removed" else "a"].get(name, "")
            yield (text.layer(name), *(("-",) if renamed else ()), UNDECODED if why else status, "-", why)


def _undecoded(difference: Difference) -> dict[Side, dict[str, str]]:
    """Why layers have no values, by the side that has none and their names there."""
    found: dict[Side, dict[str, str]] = {"a": {}, "b": {}}
    for side, finding in difference.findings:
        if finding.code is FindingCode.NO_VALUES and finding.layer is not None:
            said = text.clean(finding.message).replace(f"{text.layer(finding.layer)}.", "")
            found[side].setdefault(finding.layer, f"in {side.upper()}: {said}")
    return found


def _why(layer: LayerDifference, lost: Mapping[Side, Mapping[str, str]]) -> str:
    """Why a layer that both hold was not compared; "" where it was."""
    if layer.status not in ("reshaped", "added", "removed"):
        return ""
    return lost["a"].get(layer.a) or lost["b"].get(layer.b) or ""


def happened(difference: Difference) -> Iterator[str]:
    """What was recognised, once for all the layers that it happened to."""
    layers: dict[str, list[str]] = {}
    for layer in difference.layers:
        for relation in layer.relations:
            layers.setdefault(relation.message, []).append(text.layer(layer.a))
    for message, names in layers.items():
        some = ", ".join(names[:_MOST_LAYERS]) + (f", ... {len(names)} layers" if len(names) > _MOST_LAYERS else "")
        where = f"in all {len(names)} layers" if len(names) == len(difference.layers) > 1 else f"in {some}"
        yield text.clean(f"{message} ({where})")


def detailed(difference: Difference, *, per_head: bool, folded: bool = False) -> list[LayerDifference]:
    """The first layers whose parts are worth a table: a comment on GitHub holds 65,536 characters."""
    return _worth_a_table(difference, per_head)[: _MOST_FOLDED if folded else _MOST_DETAILED]


def left_out(difference: Difference, *, per_head: bool, folded: bool = False) -> list[str]:
    """How many others there are."""
    count = len(_worth_a_table(difference, per_head)) - (_MOST_FOLDED if folded else _MOST_DETAILED)
    return [f"... and {text.count(count, 'layer')} more; --layer GLOB shows them"] if count > 0 else []


def _worth_a_table(difference: Difference, per_head: bool) -> list[LayerDifference]:
    shown = ("identical",) if per_head else SAME
    return [layer for layer in difference.layers if layer.status not in shown and (per_head or not _is_told(layer))]


def _is_told(layer: LayerDifference) -> bool:
    """Whether what was recognised says all: rows in another order, or other rows, of values that are the same."""
    told = {part for one in layer.relations if one.code in _TELL_ALL for part in one.parts}
    return layer.status == "changed" and all(part.name in told for part in layer.parts if part.whole.status not in SAME)


def stored(layer: LayerDifference) -> str:
    """How each side stores a layer."""
    one, other = layer.stored
    return text.clean(one if one == other else f"{one} -> {other}")


def part_rows(layer: LayerDifference) -> Iterator[tuple[str, ...]]:
    """One row a part that is not identical, under PART_COLUMNS."""
    for part in layer.parts:
        if part.whole.status != "identical":
            yield (_label(part.name), _kinds(part.a, part.b), *_cells(part.whole))


def spots(layer: LayerDifference) -> Iterator[str]:
    """Where each changed part differs most."""
    for part in layer.parts:
        if part.whole.largest is not None:
            yield f"{_label(part.name)} differs most in {_place(part.whole)}"


def head_rows(layer: LayerDifference) -> Iterator[tuple[str, ...]]:
    """One row a head of each part that is not identical, under HEAD_COLUMNS."""
    for part in layer.parts:
        if part.whole.status != "identical":
            for head, found in enumerate(part.heads):
                yield (_label(part.name), str(head), *_cells(found))


def loss_rows(difference: Difference) -> Iterator[tuple[str, ...]]:
    """The heads with the largest errors of quantisation, under LOSS_COLUMNS."""
    for loss in difference.losses[:_MOST_LOSSES]:
        cells = (loss.errors.get(name) for name in ("q", "k", "v", "out", "qk", "ov"))
        errors = ("-" if error is None else text.number(error) for error in cells)
        yield (text.layer(loss.layer), str(loss.head), *errors, str(loss.beyond))


def loss_title(difference: Difference) -> str:
    """What the rows are, and how many more there are."""
    shown = min(_MOST_LOSSES, len(difference.losses))
    return f"Heads that lost most, relative errors ({shown} of {len(difference.losses)}):"


def others(difference: Difference) -> Iterator[str]:
    """The tensors outside attention that are not the same."""
    named = [other for other in difference.others or () if other.whole.status not in SAME]
    named.sort(key=lambda other: other.whole.status != "changed")
    for other in named[:_MOST_OTHERS]:
        found, name = other.whole, text.clean(other.a or other.b or "")
        detail = f", relative L2 {_relative(found)}" if found.relative_l2 is not None else ""
        place = f", {_place(found)}" if found.largest else ""
        kinds = f" {_kinds(*other.kinds)}" if found.status == "reshaped" else ""
        yield f"{name}: {found.status}{kinds}{detail}{place}"
    if len(named) > _MOST_OTHERS:
        yield f"... and {len(named) - _MOST_OTHERS} more; --format json names all"


def remarks(difference: Difference) -> Iterator[tuple[Severity, str]]:
    """(severity, text) of notes and warnings."""
    for note in difference.notes:
        yield "info", text.clean(note)
    for side in ("a", "b"):
        for finding, message in text.findings([found for of, found in difference.findings if of == side]):
            yield finding.severity, f"{side.upper()}: {message}"


def verdict(difference: Difference) -> str:
    """The answer in one line."""
    lost = _undecoded(difference)
    layers = Counter[str](UNDECODED if _why(layer, lost) else layer.status for layer in difference.layers)
    layers.update("added" if name not in lost["a"] else UNDECODED for name in difference.added)
    layers.update("removed" if name not in lost["b"] else UNDECODED for name in difference.removed)
    said = [f"{text.count(layers.total(), 'layer')}{_counted(layers)}"]
    for names, what in ((difference.removed_heads, "removed"), (difference.added_heads, "added")):
        if names:
            said.append(f"heads {what} in {text.count(len(names), 'layer')}")
    if difference.others:
        others = Counter[str](other.whole.status for other in difference.others)
        said.append(f"{text.count(others.total(), 'other tensor')}{_counted(others)}")
    return f"{'same' if difference.same else 'different'}: {', '.join(said)}"


def _counted(statuses: Counter[str]) -> str:
    said = ", ".join(f"{count} {status}" for status in (*STATUSES, UNDECODED) if (count := statuses[status]))
    return f" ({said})" if said else ""


def _what(layer: LayerDifference) -> str:
    """The parts that are not the same."""
    parts = [_label(part.name) for part in layer.parts if part.whole.status not in SAME]
    return "all" if 1 < len(parts) == len(layer.parts) else ", ".join(parts)


def _kinds(*kinds: Kind | None) -> str:
    """The shape; with the dtypes where they differ, or one side is missing."""
    dtypes = list(dict.fromkeys(kind[0] if kind else "nothing" for kind in kinds))
    shapes = list(dict.fromkeys(text.shape(kind[1]) for kind in kinds if kind))
    return " -> ".join(shapes) + (f" {' -> '.join(dtypes)}" if len(dtypes) > 1 else "")


def _largest(layer: LayerDifference) -> str:
    """The largest relative difference of a weight; of a bias, which may be near zero, only where no weight differs."""
    weights = [part.whole for part in layer.parts if not part.name.endswith("_bias")]
    biases = [part.whole for part in layer.parts if part.name.endswith("_bias")]
    for some in (weights, biases):
        found = [one for one in some if one.status != "identical"]
        if found:
            return _relative(max(found, key=lambda one: inf if one.nonfinite else one.relative_l2 or 0.0))
    return "0"


def _relative(found: Comparison) -> str:
    if found.nonfinite:
        return "nan"
    return "-" if found.relative_l2 is None else text.number(found.relative_l2)


def _label(name: str) -> str:
    if name.endswith("_bias"):
        return f"{_label(name.removesuffix('_bias'))} bias"
    return _LABELS.get(name, name)


def _cells(found: Comparison) -> tuple[str, ...]:
    gap = "-" if found.max_difference is None else text.number(found.max_difference)
    cosine = "-" if found.cosine is None else f"{found.cosine:.6f}"
    changed = "-" if found.max_difference is None else f"{found.changed} of {found.count}" if found.changed else "0"
    return (found.status, _relative(found), gap, cosine, changed)


def _place(found: Comparison) -> str:
    spot = found.largest
    if spot is None:
        return ""
    head = "" if spot.head is None else f"head {spot.head}, "
    column = "" if spot.column is None else f", column {spot.column}"
    odd = f"; {found.nonfinite} not finite" if found.nonfinite else ""
    return f"{head}row {spot.row}{column}: {spot.a:.9g} -> {spot.b:.9g}{odd}"
