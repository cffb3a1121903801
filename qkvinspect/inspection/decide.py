"""Decide which of the layouts that fit the names around a weight is its module's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from qkvinspect.checkpoint import Config
from qkvinspect.errors import LayoutError
from qkvinspect.inspection.candidates import Candidate, DecidedBy, Match
from qkvinspect.inspection.facts.scopes import speaking
from qkvinspect.inspection.forced import Forced
from qkvinspect.layouts import Layout
from qkvinspect.parsed import is_items, is_mapping


def decide(
    candidates: list[Candidate],
    configs: Sequence[Config],
    forced: Forced,
    reason: Callable[[str, str], str],
) -> Match:
    """A module's layout, or all that it may be.

    Args:
        forced: the layouts that a person asked for.
        reason: says of a layer and an id why it cannot be that.

    Raises:
        LayoutError: the layout that was asked for does not fit.
    """
    layer = candidates[0].layer
    id = forced.layout(layer)
    if id is not None:
        fitting = [c for c in candidates if c.layout.id == id]
        if not fitting:
            raise LayoutError(
                f"layer {layer!r} cannot have the layout {id!r}{reason(layer, id)}",
                expected=" or ".join(dict.fromkeys(c.layout.id for c in candidates)),
            )
        return Match((fitting[0],), DecidedBy.FLAG)
    told = next((c for c in candidates if c.layout.found_by == "settings"), None)
    if told is not None:
        return Match((told,), DecidedBy.SETTINGS)
    for config in configs:
        for key, values in speaking(config, layer):
            named = _known_first([c for c in candidates if _config_says(c.layout, values)])
            if named and _agree(best := _most_specific(named)):
                return Match((best[0],), DecidedBy.CONFIG, config.origin + (f":{key}" if key else ""))
    settled = _most_specific([c for c in candidates if c.settled])
    if settled and _agree(settled):
        return Match((settled[0],), DecidedBy.SIBLINGS)
    best = _most_specific(_known_first(candidates))
    by_name = [c for c in best if not c.layout.needs_config]
    if by_name and _agree(by_name):
        if (other := by_name[-1]).layout.found_by == "pattern" and other.layout is not by_name[0].layout:
            return Match(tuple(by_name), DecidedBy.NOTHING)
        return Match((by_name[0],), DecidedBy.NAMES)
    return Match(tuple(c for c in candidates if c.specificity == best[0].specificity), DecidedBy.NOTHING)


def candidates_of(rows: Iterable[Layout], configs: Sequence[Config], forcible: Collection[str]) -> list[Layout]:
    """The rows that are candidates at all, with these configs.

    Args:
        forcible: ids of rows that a person asked for.
    """
    return [
        row
        for row in rows
        if row.id in forcible or ((not row.only_told or _named_by(row, configs)) and not _ruled_out(row, configs))
    ]


def _named_by(layout: Layout, configs: Sequence[Config]) -> bool:
    """Whether a config names a layout."""
    return any(_config_says(layout, config.values) for config in configs)


def _ruled_out(layout: Layout, configs: Sequence[Config]) -> bool:
    """Whether the configs name kinds of model of which none stores it so, or say of the model that it is otherwise."""
    if not layout.only_for:
        return False
    said = [values for config in configs for values in (config.values, *filter(is_mapping, config.values.values()))]
    kinds = [kind.lower() for values in said for kind in _kinds(values)]
    known = any(fnmatchcase(kind, glob) for kind in kinds for glob in layout.only_for)
    return (bool(kinds) and not known) or any(
        key in values and values[key] == value for values in said for key, value in layout.never_where
    )


def _config_says(layout: Layout, values: Mapping[str, object]) -> bool:
    """Whether a config names the row: its kind of model, and every flag."""
    if not layout.model_types and not layout.flags:
        return False
    kinds = _kinds(values)
    says = not layout.model_types or any(fnmatchcase(kind, glob) for kind in kinds for glob in layout.model_types)
    return says and all(_allows(allowed, values.get(key)) for key, allowed in layout.flags.items())


def _kinds(values: Mapping[str, object]) -> list[str]:
    """What a config, or a section of one, calls its model."""
    named = [values.get(key) for key in ("model_type", "_class_name", "architecture")]
    listed = values.get("architectures")
    named += listed if is_items(listed) else []
    return [kind for kind in named if isinstance(kind, str)]


def _allows(allowed: tuple[object, ...], value: object) -> bool:
    return value in allowed or (Ellipsis in allowed and value is not None)


def _known_first(candidates: list[Candidate]) -> list[Candidate]:
    """A row that rests on memory counts only if there is no other."""
    return [c for c in candidates if c.layout.proof != "memory"] or candidates


def _most_specific(candidates: list[Candidate]) -> list[Candidate]:
    best = max((c.specificity for c in candidates), default=0)
    return [c for c in candidates if c.specificity == best]


def _agree(candidates: list[Candidate]) -> bool:
    """Whether the candidates store the same things, under whatever name."""
    return len({c.layout.weights for c in candidates}) == 1
