"""Why a layout that was asked for does not fit."""

from __future__ import annotations

from fnmatch import fnmatchcase
from itertools import product
from math import prod

from qkvinspect.errors import LayoutError
from qkvinspect.inspection.names import Names, Path, pattern
from qkvinspect.layouts import Layout


def why(names: Names, layout: Layout, glob: str) -> str:
    """What a checkpoint lacks for a layout, in the modules that a glob names, as a clause.

    Every tensor of the layout is looked for by the end of its name; the first that is missing is the answer.
    """
    places: dict[str, list[Path]] = {}
    for stored in layout.weights:
        climb, choices = pattern(stored.key)
        ends = set(product(*choices))
        found = [path[: -len(choices)] for path in names.all_paths() if path[-len(choices) :] in ends]
        if not found:
            return f"no tensor is called {stored.key}"
        places[stored.key] = [path for path in found if not climb]
    first, *others = places
    for place in places[first]:
        missing = [key for key in others if place not in places[key]]
        if not missing:
            return _why_there(names, layout, place, glob)
    key = next((key for key in others if places[first] and places[first][0] not in places[key]), first)
    return f"{'.'.join(places[first][0])} has {first}, but no {key} beside it" if places[first] else f"no {first}"


def _why_there(names: Names, layout: Layout, place: Path, glob: str) -> str:
    """Why not, where all the tensors are there."""
    layer = ".".join(place)
    if not fnmatchcase(layer, glob):
        return f"its tensors stand in {layer or 'the root'}, which {glob!r} does not name"
    weights = [names.find(stored.key, place) for stored in layout.weights]
    shapes = ", ".join(f"{info.name} {list(info.shape)}" for info in weights if info is not None)
    if layout.found_by == "settings" and any(info is not None and prod(info.shape[2:]) != 1 for info in weights):
        return f"a row of settings describes matrices, and these have more axes: {shapes}"
    return f"the shapes do not fit: {shapes}"


def cannot(names: Names, layout: Layout, glob: str) -> LayoutError:
    """The error for a layout that fits nowhere."""
    where = "no layer" if glob == "*" else f"no layer that {glob!r} names"
    return LayoutError(f"{where} can have the layout {layout.id!r}: {why(names, layout, glob)}", hint=_HINT)


_HINT = "`qkvinspect show --tensors` lists all names; a [[layout]] row of qkvinspect.toml describes others"
