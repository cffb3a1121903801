"""Why a layout that was asked for does not fit."""

from __future__ import annotations

from fnmatch import fnmatchcase
from itertools import product

from qkvinspect.errors import LayoutError
from qkvinspect.inspection.names import Names, Path, pattern
from qkvinspect.inspection.three_axes import as_told
from qkvinspect.layouts import Layout


def why(names: Names, layout: Layout, glob: str) -> str:
    """What a checkpoint lacks for a layout, in the modules that a glob names, as a clause.

    Every tensor of the layout is looked for by the end of its name; the first that is missing is the answer.
    """
    return _why(names, layout, glob)[0]


def why_shapes(names: Names, layout: Layout) -> str:
    """Why the shapes of tensors that have the names of a layout do not fit; "" where not all are there."""
    text, are_there = _why(names, layout, layout.glob if isinstance(layout.glob, str) else "*")
    return text if are_there else ""


def _why(names: Names, layout: Layout, glob: str) -> tuple[str, bool]:
    """(why, whether all tensors are there)."""
    places: dict[str, list[Path]] = {}
    for stored in layout.weights:
        climb, choices = pattern(stored.key)
        ends = set(product(*choices))
        found = [path[: -len(choices)] for path in names.all_paths() if path[-len(choices) :] in ends]
        if not found:
            return f"no tensor is called {stored.key}", False
        places[stored.key] = [path for path in found if not climb]
    first, *others = places
    for place in places[first]:
        missing = [key for key in others if place not in places[key]]
        if not missing:
            return _why_there(names, layout, place, glob), fnmatchcase(".".join(place), glob)
    key = next((key for key in others if places[first] and places[first][0] not in places[key]), first)
    beside = f"{'.'.join(places[first][0])} has {first}, but no {key} beside it" if places[first] else f"no {first}"
    return beside, False


def _why_there(names: Names, layout: Layout, place: Path, glob: str) -> str:
    """Why not, where all the tensors are there."""
    layer = ".".join(place)
    if not fnmatchcase(layer, glob):
        return f"its tensors stand in {layer or 'the root'}, which {glob!r} does not name"
    weights = [info for stored in layout.weights if (info := names.find(stored.key, place)) is not None]
    shapes = ", ".join(f"{info.name} {list(info.shape)}" for info in weights)
    if layout.found_by == "settings":
        try:
            as_told(layout, weights)
        except LayoutError as error:
            return error.message
    return f"the shapes do not fit: {shapes}"


def cannot(names: Names, layout: Layout, glob: str) -> LayoutError:
    """The error for a layout that fits nowhere."""
    where = "no layer" if glob == "*" else f"no layer that {glob!r} names"
    return LayoutError(f"{where} can have the layout {layout.id!r}: {why(names, layout, glob)}", hint=WHERE_NAMES_ARE)


WHERE_NAMES_ARE = "`qkvinspect show --tensors` lists all names; a [[layout]] row of qkvinspect.toml describes others"
