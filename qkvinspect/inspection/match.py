"""Find attention modules by the names of their tensors, and decide which layout each has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import chain, product
from typing import NamedTuple

from qkvinspect.checkpoint import Config
from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import replace
from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import Finding
from qkvinspect.inspection import patterns
from qkvinspect.inspection.candidates import Candidate, DecidedBy, Match
from qkvinspect.inspection.facts.scopes import speaking
from qkvinspect.inspection.misfit import why
from qkvinspect.inspection.names import Names, Path, ends_with, pattern
from qkvinspect.layouts import Layout
from qkvinspect.parsed import is_items
from qkvinspect.weights.weight import Weight


class Asked(NamedTuple):
    """What the user said about layouts.

    Attributes:
        forced: pairs (layer glob, layout id) from --layout and the settings; the last match counts.
        told: the user's own layouts.
    """

    forced: Sequence[tuple[str, str]] = ()
    told: Sequence[Layout] = ()


class Found(NamedTuple):
    """The modules found by their names.

    Attributes:
        findings: rows that were left out.
        left: tensors whose names say Q, K or V and that make up no attention.
    """

    matches: list[Match]
    findings: list[Finding]
    left: list[patterns.Leftover]


def find_attentions(
    names: Names,
    layouts: Sequence[Layout],
    configs: Sequence[Config],
    asked: Asked,
) -> Found:
    """Every attention module, in the order of the file; a tensor belongs to at most one.

    Raises:
        LayoutError: a forced layout does not fit the tensors of its layer.
    """
    forced = asked.forced
    forcible = {id for _, id in forced}
    layouts = [row for row in layouts if not row.only_told or row.id in forcible or _named_by(row, configs)]
    index = _index(row for row in (*asked.told, *layouts, *_wherever(layouts, asked)) if _may_occur(row, names))

    def reason(layer: str, id: str) -> str:
        row = next((row for row in (*asked.told, *layouts) if row.id == id), None)
        return f": {why(names, row, layer)}" if row else ""

    claimed: set[str] = set()
    matches: list[Match] = []
    found: list[list[Candidate]] = []
    for path, name in chain(((path, name) for name, path in names.paths.items()), names.aliases.items()):
        candidates = _at(names, name, path, index)
        if candidates:
            found.append([c for c in candidates if _fits(c)] or candidates)
    every = _tensors(found)
    found, stale = _without_stale(found)
    superseded = every - _tensors(found)
    for candidates in sorted(found, key=_rank, reverse=True):
        free = [c for c in candidates if not claimed & {info.name for info in c.weights}]
        if free:
            match = _decide(free, configs, forced, reason)
            matches.append(match)
            claimed |= {info.name for candidate in match.candidates for info in candidate.weights}
    layers = {match.candidates[0].layer for match in matches}
    by_pattern, left = patterns.find(names, claimed | superseded, layers)
    matches += [_decide(candidates, configs, forced, reason) for candidates in by_pattern]
    order = {name: position for position, name in enumerate(names.weights)}
    ordered = sorted(matches, key=lambda match: order[match.candidates[0].weights[0].name])
    return Found(ordered, stale, left)


def _tensors(found: Iterable[Iterable[Candidate]]) -> set[str]:
    return {info.name for candidates in found for candidate in candidates for info in candidate.weights}


def _rank(candidates: Iterable[Candidate]) -> tuple[bool, int]:
    return max(candidate.rank for candidate in candidates)


def _without_stale(found: list[list[Candidate]]) -> tuple[list[list[Candidate]], list[Finding]]:
    """Leave out rows that another row at the same module supersedes, and say so."""
    rules = {(c.path, stale): c for candidates in found for c in candidates for stale in c.layout.supersedes}
    kept: list[list[Candidate]] = []
    findings: dict[str, Finding] = {}
    for candidates in found:
        live = [c for c in candidates if (c.path, c.layout.id) not in rules]
        for gone in (c for c in candidates if c not in live):
            names = ", ".join(info.name.removeprefix(f"{gone.layer}.") for info in gone.weights)
            used = rules[gone.path, gone.layout.id]
            kept_names = ", ".join(info.name.removeprefix(f"{used.layer}.") for info in used.weights)
            text = f"{names} are left out: {kept_names} holds the same projections"
            findings.setdefault(gone.layer, Finding(FindingCode.STALE_DUPLICATE, text, gone.layer))
        if live:
            kept.append(live)
    return kept, list(findings.values())


def _wherever(layouts: Sequence[Layout], asked: Asked) -> Iterator[Layout]:
    """The layouts that a person asked for, without what a row says of the places and neighbours of its modules."""
    for glob, id in asked.forced:
        for layout in layouts:
            if layout.id == id:
                yield replace(
                    layout,
                    layer="",
                    siblings=(),
                    unless=(),
                    out_ratio=None,
                    fed_by=None,
                    glob=glob,
                    needs_config=True,
                    model_types=(),
                )


def _may_occur(layout: Layout, names: Names) -> bool:
    """Whether all that the layout needs is somewhere in the checkpoint, so that places are asked for it at all."""
    needed = (*(weight.key for weight in layout.weights), *layout.siblings)
    return all(names.is_anywhere(key) for key in needed if not key.startswith("//"))


def _index(layouts: Iterable[Layout]) -> dict[Path, tuple[Layout, ...]]:
    """Layouts by the last two components of their first weight's key below its layer, ``#`` for any number."""
    index: dict[Path, tuple[Layout, ...]] = {}
    for layout in layouts:
        _, choices = pattern(layout.weights[0].key)
        place = pattern(layout.layer)[1] if layout.layer else ()
        for end in product(*(*place, *choices)[-2:]):
            index[end] = (*index.get(end, ()), layout)
    return index


def _at(names: Names, name: str, path: Path, index: Mapping[Path, tuple[Layout, ...]]) -> list[Candidate]:
    """Every layout whose first weight this may be."""
    end = path[-2:]
    rows = (*index.get(end[-1:], ()), *index.get(end, ()))
    if len(end) == 2 and end[0].isdecimal():
        rows += index.get(("#", end[1]), ())
    return [found for layout in rows for found in _candidates(names, name, path, layout)]


def _candidates(names: Names, name: str, path: Path, layout: Layout) -> Iterator[Candidate]:
    """The layout at this weight, if the names around it fit."""
    _, choices = pattern(layout.weights[0].key)
    count = len(choices)
    if count > 2 and not ends_with(path, choices):  # shorter ones are what the index was asked for
        return
    layer = path[:-count]
    if layout.layer and not ends_with(layer, pattern(layout.layer)[1]):
        return
    if layout.ndim is not None and len(names.shape(name)) != layout.ndim:
        return
    if not all(names.has(weight.key, layer) for weight in layout.weights):
        return
    weights = [info for weight in layout.weights if (info := names.find(weight.key, layer)) is not None]
    if not _has_ratio(layout, weights[0]) or _is_less_than_v(layout, names, layer, weights[0]):
        return
    if layout.out_ratio is not None and not _has_out_ratio(layout, names, layer, weights[0]):
        return
    if layout.fed_by is not None and not _is_fed_by(*layout.fed_by, names, layer, weights[-1]):
        return
    if not all(names.has(key, layer) for key in layout.siblings) or any(names.has(k, layer) for k in layout.unless):
        return
    stored = names.stored_layer(name, count + len(names.paths[name]) - len(path))
    label = f"{stored}.{layout.label}".lstrip(".") if layout.label else stored
    if layout.glob != "*" and not fnmatchcase(label, layout.glob):
        return
    settled = any(names.has(key, layer) for key in layout.settled_by)
    yield Candidate(layout, layer, label, tuple(weights), settled)


def _fits(candidate: Candidate) -> bool:
    try:
        candidate.require_square()
    except LayoutError:
        return False
    return True


def _is_less_than_v(layout: Layout, names: Names, layer: Path, weight: Weight) -> bool:
    """Whether a tensor that would hold Q, K and V has no more rows than the output projection reads of V alone.

    CRATE's ``qkv`` is one projection, used as all three.
    """
    if len(layout.weights) != 1 or len(weight.shape) != 2 or not {"q", "k", "v"} <= layout.weights[0].packing.parts:
        return False
    out = names.find("to_out.0.weight", layer)
    return out is not None and len(out.shape) == 2 and out.shape == weight.shape and out.shape[0] == out.shape[1]


def _has_out_ratio(layout: Layout, names: Names, layer: Path, weight: Weight) -> bool:
    out = next(filter(None, (names.find(key, layer) for key in layout.out)), None)
    if out is None or len(out.shape) < 2 or not weight.shape:
        return False
    return weight.shape[0] == (layout.out_ratio or 1) * out.shape[1]


def _is_fed_by(key: str, times: int, names: Names, layer: Path, weight: Weight) -> bool:
    """Whether the weight takes what that tensor gives, so many times."""
    before = names.find(key, layer)
    if before is None or len(before.shape) != 2 or len(weight.shape) != 2:
        return times == 1
    return weight.shape[1] == times * before.shape[0]


def _has_ratio(layout: Layout, weight: Weight) -> bool:
    if layout.ratio is None and layout.q_rows is None:
        return True
    try:
        rows, cols = weight.as_shape(layout.weights[0].orientation)
    except LayoutError:
        return False
    return rows == (layout.ratio * cols if layout.ratio is not None else (layout.q_rows or 0) + 2 * cols)


def _decide(
    candidates: list[Candidate],
    configs: Sequence[Config],
    forced: Sequence[tuple[str, str]],
    reason: Callable[[str, str], str],
) -> Match:
    """What a layer is; ``reason`` says of a layer and an id why it cannot be that."""
    layer = candidates[0].layer
    for glob, id in reversed(forced):
        if fnmatchcase(layer, glob):
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
        return Match((by_name[0],), DecidedBy.NAMES)
    return Match(tuple(c for c in candidates if c.specificity == best[0].specificity), DecidedBy.NOTHING)


def _named_by(layout: Layout, configs: Sequence[Config]) -> bool:
    return any(_config_says(layout, config.values) for config in configs)


def _config_says(layout: Layout, values: Mapping[str, object]) -> bool:
    """Whether a config names the row: its kind of model, and every flag."""
    if not layout.model_types and not layout.flags:
        return False
    named = [values.get(key) for key in ("model_type", "_class_name", "architecture")]
    listed = values.get("architectures")
    named += listed if is_items(listed) else []
    kinds = [kind for kind in named if isinstance(kind, str)]
    says = not layout.model_types or any(fnmatchcase(kind, glob) for kind in kinds for glob in layout.model_types)
    return says and all(_allows(allowed, values.get(key)) for key, allowed in layout.flags.items())


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
