"""Find attention modules by the names of their tensors, and decide which layout each has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from itertools import chain, product

from qkvinspect.checkpoint import Config
from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import replace
from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import Finding
from qkvinspect.inspection.candidates import Candidate, Match
from qkvinspect.inspection.decide import candidates_of, decide
from qkvinspect.inspection.facts.sections import says_the_same_of_alike_layers
from qkvinspect.inspection.forced import Forced
from qkvinspect.inspection.in_order import as_in_file
from qkvinspect.inspection.leftovers import Leftover
from qkvinspect.inspection.misfit import why
from qkvinspect.inspection.names import Names, Path, ends_with, pattern
from qkvinspect.inspection.no_scores import said_instead
from qkvinspect.inspection.one_for_all_heads import with_heads_that_share
from qkvinspect.inspection.projections import modules_of
from qkvinspect.inspection.read_as_stored import as_read
from qkvinspect.inspection.renamed import UnlikeError
from qkvinspect.inspection.repeated import repeated_matches
from qkvinspect.inspection.repeats import Repeats
from qkvinspect.inspection.size_conditions import sizes_fit, with_shared_kv
from qkvinspect.inspection.three_axes import as_told
from qkvinspect.inspection.wide_v import with_wide_v
from qkvinspect.layouts import Layout
from qkvinspect.weights.head_list import heads_of
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
        repeats: the blocks that are alike.
    """

    matches: list[Match]
    findings: list[Finding]
    left: list[Leftover]
    repeats: Repeats


def find_attentions(
    names: Names, layouts: Sequence[Layout], configs: Sequence[Config], asked: Asked, some: Sequence[Layout] = ()
) -> Found:
    """Every attention module, in the order of the file; a tensor belongs to at most one.

    Args:
        some: layouts with some of their projections only, for what is in no whole module.

    Raises:
        LayoutError: a forced layout does not fit the tensors of its layer.
    """
    rows = (layouts, some)
    repeats = Repeats(names, compare=_holds_for_alike_layers(layouts, configs, asked))
    try:
        found = _repeated(_find(names, rows, configs, asked, repeats), names, repeats)
    except UnlikeError:
        found = _find(names, rows, configs, asked, Repeats(names, compare=False))
    return found._replace(matches=as_in_file(found.matches, names.weights))


def _holds_for_alike_layers(layouts: Iterable[Layout], configs: Sequence[Config], asked: Asked) -> bool:
    """Whether nothing but names and shapes tells which layout a module has, so that it is that of all alike."""
    if asked.forced or asked.told or any(layout.glob != "*" for layout in layouts):
        return False
    return all(says_the_same_of_alike_layers(config.values) for config in configs)


def _find(
    names: Names,
    rows: tuple[Sequence[Layout], Sequence[Layout]],
    configs: Sequence[Config],
    asked: Asked,
    repeats: Repeats,
) -> Found:
    """The modules, but for those of blocks that repeat another.

    Args:
        rows: layouts, and those for what neither they nor patterns find whole.
    """
    forced, firsts = Forced(asked.forced), repeats.firsts
    forcible = {id for _, id in asked.forced}
    layouts, some = (candidates_of(of, configs, forcible) for of in rows)

    def reason(layer: str, id: str) -> str:
        row = next((row for row in (*asked.told, *layouts) if row.id == id), None)
        return f": {why(names, row, layer)}" if row else ""

    claimed: set[str] = set()
    superseded: set[str] = set()
    matches: list[Match] = []
    stale: list[Finding] = []
    stacked: list[Leftover] = []
    layers: set[str] = set()

    def take(candidates: list[Candidate]) -> None:
        match = decide(candidates, configs, forced, reason)
        matches.append(match)
        claimed.update(info.name for candidate in match.candidates for info in candidate.weights)
        layers.add(match.layer)

    def by_rows(layouts: Iterable[Layout]) -> None:
        index = _index(row for row in layouts if _may_occur(row, names))
        found: list[list[Candidate]] = []
        aliases = ((path, name) for path, name in names.aliases.items() if name in firsts)
        for path, name in chain(((path, name) for name, path in firsts.items()), aliases):
            candidates = as_read(with_wide_v(_at(names, name, path, index), names), names, configs)
            if candidates:
                found.append([c for c in candidates if _fits(c)] or candidates)
        every = _tensors(found)
        found, left_out = _without_stale(found)
        stale.extend(left_out)
        superseded.update(every - _tensors(found))
        for candidates in sorted(found, key=_rank, reverse=True):
            free = [c for c in candidates if not claimed & {info.name for info in c.weights}]
            strange = said_instead(names, free[0]) if free else None
            if strange is not None:
                claimed.update(info.name for info in free[0].weights)
                stale.extend([strange] if isinstance(strange, Finding) else [])
                stacked.extend([] if isinstance(strange, Finding) else [strange])
            elif free:
                take(free)

    def by_pattern() -> list[Leftover]:
        if not (modules := list(modules_of(names, firsts, claimed | superseded))):
            return []
        from qkvinspect.inspection.patterns import find

        found, left = find(modules, names, firsts, claimed | superseded, layers)
        for candidates in found:
            take(candidates)
        return left

    by_rows((*asked.told, *layouts, *_wherever(layouts, asked)))
    left = by_pattern()
    if some:
        by_rows(some)
        left = by_pattern()
    return Found(matches, stale, [*stacked, *left], repeats)


def _repeated(found: Found, names: Names, repeats: Repeats) -> Found:
    """What was found, and its like in every block that repeats one.

    Raises:
        UnlikeError: some of it has no like.
    """
    if repeats.firsts is names.paths:
        return found
    if found.findings:  # rows that were left out: rare enough
        raise UnlikeError
    matches, left = list(found.matches), list(found.left)
    for block, (some, others) in _by_block(found, repeats).items():
        blocks = repeats.others(block)
        for one in some:
            matches += repeated_matches(one, blocks)
        left += [renamed.leftover(one) for renamed in blocks for one in others]
    if left:
        position = {name: position for position, name in enumerate(names.paths)}
        left.sort(key=lambda some: position[repeats.begins(some.path) or some.tensors[0].name])
    return Found(matches, [], left, repeats)


def _by_block(found: Found, repeats: Repeats) -> dict[Path, tuple[list[Match], list[Leftover]]]:
    """What lies in blocks that others repeat.

    Raises:
        UnlikeError: some of it lies in several blocks, or in one and beside it.
    """
    blocks: dict[Path, tuple[list[Match], list[Leftover]]] = {}

    def at(path: Path, weights: Iterable[Weight]) -> tuple[list[Match], list[Leftover]]:
        block = repeats.block(path)
        if any(repeats.block_of(weight.name) != block for weight in weights):
            raise UnlikeError
        return blocks.setdefault(block, ([], []))

    for match in found.matches:
        weights = (weight for candidate in match.candidates for weight in candidate.weights)
        at(match.path, weights)[0].append(match)
    for some in found.left:
        at(some.path, some.tensors)[1].append(some)
    return blocks


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
    for id, place in Forced(asked.forced).places():
        for layout in (one for one in layouts if one.id == id):
            yield replace(
                layout,
                layer="",
                siblings=(),
                unless=(),
                out_ratio=None,
                fed_by=None,
                glob=place,
                needs_config=True,
                model_types=(),
            )


def _may_occur(layout: Layout, names: Names) -> bool:
    """Whether all that the layout needs is somewhere in the checkpoint, so that places are asked for it at all."""
    for weight in layout.weights:  # of nearly every row the first is nowhere
        if not names.is_anywhere(weight.key):
            return False
    return all(names.is_anywhere(key) for key in layout.siblings if not key.startswith("//"))


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
    return with_heads_that_share((found for layout in rows for found in _candidates(names, name, path, layout)), names)


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
    weights = tuple(info for weight in layout.weights if (info := names.find(weight.key, layer)) is not None)
    fused = (one for one, stored in zip(weights, layout.weights, strict=True) if len(stored.packing.order) > 1)
    if layout.found_by == "settings":
        try:
            weights = as_told(layout, weights)
        except LayoutError:
            return
    elif any(map(heads_of, fused)):
        return  # no library that has a row fuses the projections of one head
    if not sizes_fit(layout, names, layer, weights):
        return
    if not all(names.has(key, layer) for key in layout.siblings) or any(names.has(k, layer) for k in layout.unless):
        return
    stored = names.stored_layer(name, count + len(names.paths[name]) - len(path))
    label = f"{stored}.{layout.label}".lstrip(".") if layout.label else stored
    glob = layout.glob
    if glob != "*" and not (fnmatchcase(label, glob) if isinstance(glob, str) else label in glob):
        return
    settled = any(names.has(key, layer) for key in layout.settled_by)
    yield Candidate(with_shared_kv(layout, names, layer, weights), layer, label, weights, settled)


def _fits(candidate: Candidate) -> bool:
    with suppress(LayoutError):
        candidate.require_square()
        return True
    return False
