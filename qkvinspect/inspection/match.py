"""Find attention modules by the names of their tensors, and decide which layout each has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from itertools import product
from typing import cast

from qkvinspect.errors import LayoutError
from qkvinspect.inspection.scopes import speaking
from qkvinspect.layouts import Layout
from qkvinspect.matrix import shape_as_matrix
from qkvinspect.model import Config, Finding, TensorInfo

_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer"})
"""Components that DataParallel, torch.compile, FSDP and PEFT put into names. They are stripped when names are
matched and kept when they are shown."""

Path = tuple[str, ...]


class Names:
    """The tensors of a checkpoint by canonical path: their name's components without wrappers."""

    def __init__(self, tensors: Mapping[str, TensorInfo]) -> None:
        self.tensors = tensors
        stripped = {name: _strip(name) for name in tensors}
        if len(set(stripped.values())) != len(tensors):  # both x and module.x: nothing may be stripped
            stripped = {name: tuple(name.split(".")) for name in tensors}
        self.paths = stripped
        self._by_path = {path: name for name, path in stripped.items()}
        self._by_stack: dict[Path, str] | None = None
        self._ends: set[Path] | None = None
        self._stages: dict[str, int] = {}

    def has(self, key: str, layer: Path) -> bool:
        """Whether there is such a tensor; ``//key`` means anywhere."""
        if not key.startswith("//"):
            return self.find(key, layer) is not None
        if self._ends is None:
            self._ends = {path[-count:] for path in self._by_path for count in (1, 2)}
        return tuple(key[2:].split(".")) in self._ends

    def find(self, key: str, layer: Path) -> TensorInfo | None:
        """The tensor called ``key`` below a layer, or None."""
        climb, choices = _pattern(key)
        if climb > len(layer):
            return None
        base = layer[: len(layer) - climb]
        for components in product(*choices):
            name = self._by_path.get(base + components)
            if name is not None:
                return self.tensors[name]
        return None

    def find_in_stack(self, key: str, layer: Path) -> TensorInfo | None:
        """As ``find``; failing that, the same tensor of another layer of the same stack."""
        found = self.find(key, layer)
        if found is not None:
            return found
        if self._by_stack is None:
            self._by_stack = {_numberless(path): name for path, name in reversed(self._by_path.items())}
        climb, choices = _pattern(key)
        base = layer[: len(layer) - climb]
        for components in product(*choices):
            name = self._by_stack.get(_numberless(base + components))
            if name is not None:
                return self.tensors[name]
        return None

    def stages(self, layer: str) -> int:
        """How many different numbers stand where the layer's name has its first one."""
        found = re.search(r"\d+", layer)
        if not found:
            return 0
        prefix = layer[: found.start()]
        if prefix not in self._stages:
            after = (name[len(prefix) :] for name in self.tensors if name.startswith(prefix))
            self._stages[prefix] = len({number[0] for rest in after if (number := re.match(r"\d+", rest))})
        return self._stages[prefix]

    def find_sibling(self, name: str, last: str) -> str | None:
        """The tensor whose name differs from ``name`` in its last component only."""
        return self._by_path.get((*self.paths[name][:-1], last)) if len(self.paths[name]) > 1 else None

    def stored_layer(self, name: str, components: int) -> str:
        """The stored name without its last ``components`` components, wrappers not counted."""
        parts = name.split(".")
        wrapped = len(parts) != len(self.paths[name])
        while components:
            last = parts.pop()
            components -= not (wrapped and last in _WRAPPERS)
        return ".".join(parts)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A layout that fits the names around one weight."""

    layout: Layout
    path: Path
    layer: str
    weights: tuple[TensorInfo, ...]
    settled: bool = False

    @property
    def specificity(self) -> int:
        """How much of the names the layout accounts for."""
        layout = self.layout
        shape = sum(known is not None for known in (layout.ratio, layout.out_ratio, layout.ndim))
        return len(layout.layer.split(".")) * bool(layout.layer) + len(layout.weights) + len(layout.siblings) + shape


@dataclass(frozen=True, slots=True)
class Match:
    """One attention module: its layout, or the candidates if nothing decides between them."""

    candidates: tuple[Candidate, ...]
    decided_by: str

    @property
    def chosen(self) -> Candidate | None:
        return None if self.decided_by == "ambiguous" else self.candidates[0]


def find_attentions(
    names: Names,
    layouts: Sequence[Layout],
    configs: Sequence[Config],
    forced: Sequence[tuple[str, str]],
) -> tuple[list[Match], list[Finding]]:
    """Every attention module, in the order of the file; a tensor belongs to at most one.

    Args:
        forced: pairs (layer glob, layout id) from --layout, the last that fits counting.

    Raises:
        LayoutError: a forced layout does not fit the tensors of its layer.

    """
    index = _index(layouts)
    claimed: set[str] = set()
    matches: list[Match] = []
    found: list[list[Candidate]] = []
    for name, path in names.paths.items():
        rows = index.get(path[-1:], ()), index.get(path[-2:], ())
        candidates = [
            candidate for layout in (*rows[0], *rows[1]) for candidate in _candidates(names, name, path, layout)
        ]
        if candidates:
            found.append(candidates)
    found, stale = _without_stale(found)
    for candidates in sorted(found, key=lambda some: -max(c.specificity for c in some)):
        free = [c for c in candidates if not claimed & {info.name for info in c.weights}]
        if free:
            match = _decide(free, configs, forced)
            matches.append(match)
            claimed |= {info.name for candidate in match.candidates for info in candidate.weights}
    order = {name: position for position, name in enumerate(names.tensors)}
    return sorted(matches, key=lambda match: order[match.candidates[0].weights[0].name]), stale


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
            findings.setdefault(gone.layer, Finding("stale-duplicate", "warning", text, gone.layer))
        if live:
            kept.append(live)
    return kept, list(findings.values())


def _index(layouts: Iterable[Layout]) -> dict[Path, tuple[Layout, ...]]:
    """Layouts by the end of their first weight's key, two components where the last says little."""
    index: dict[Path, tuple[Layout, ...]] = {}
    for layout in layouts:
        _, choices = _pattern(layout.weights[0].key)
        for end in product(*choices[-2:]):
            index[end] = (*index.get(end, ()), layout)
    return index


def _candidates(names: Names, name: str, path: Path, layout: Layout) -> Iterator[Candidate]:
    """The layout at this weight, if the names around it fit."""
    _, choices = _pattern(layout.weights[0].key)
    count = len(choices)
    if not _ends_with(path, choices):
        return
    layer = path[:-count]
    if layout.layer and not _ends_with(layer, _pattern(layout.layer)[1]):
        return
    weights = [info for weight in layout.weights if (info := names.find(weight.key, layer)) is not None]
    if len(weights) != len(layout.weights) or not _has_form(layout, weights[0]):
        return
    if layout.out_ratio is not None and not _has_out_ratio(layout, names, layer, weights[0]):
        return
    if not all(names.has(key, layer) for key in layout.siblings) or any(names.has(k, layer) for k in layout.unless):
        return
    stored = names.stored_layer(name, count)
    label = f"{stored}.{layout.label}".lstrip(".") if layout.label else stored
    settled = any(names.has(key, layer) for key in layout.settled_by)
    yield Candidate(layout, layer, label, tuple(weights), settled)


def _ends_with(layer: Path, context: tuple[Path, ...]) -> bool:
    """Whether a layer's name ends with these components; ``#`` is any number."""
    end = layer[-len(context) :]
    return len(end) == len(context) and all(
        part in some or ("#" in some and part.isdecimal()) for part, some in zip(end, context, strict=True)
    )


def _has_out_ratio(layout: Layout, names: Names, layer: Path, weight: TensorInfo) -> bool:
    out = next(filter(None, (names.find(key, layer) for key in layout.out)), None)
    return out is not None and len(out.shape) > 1 and weight.shape[0] == (layout.out_ratio or 1) * out.shape[1]


def _has_form(layout: Layout, weight: TensorInfo) -> bool:
    if layout.ndim is not None and len(weight.shape) != layout.ndim:
        return False
    if layout.ratio is None:
        return True
    try:
        rows, cols = shape_as_matrix(weight, layout.weights[0].orientation)
    except LayoutError:
        return False
    return rows == layout.ratio * cols


def _decide(candidates: list[Candidate], configs: Sequence[Config], forced: Sequence[tuple[str, str]]) -> Match:
    layer = candidates[0].layer
    for glob, id in reversed(forced):
        if fnmatchcase(layer, glob):
            fitting = tuple(c for c in candidates if c.layout.id == id)
            if not fitting:
                raise LayoutError(
                    f"layer {layer!r} cannot have the layout {id!r}",
                    expected=" or ".join(c.layout.id for c in candidates),
                )
            return Match(fitting, "flag")
    for config in configs:
        for key, values in speaking(config, layer):
            named = _known_first([c for c in candidates if _config_says(c.layout, values)])
            if named and _agree(best := _most_specific(named)):
                return Match((best[0],), config.origin + (f":{key}" if key else ""))
    settled = _most_specific([c for c in candidates if c.settled])
    if settled and _agree(settled):
        return Match((settled[0],), "siblings")
    best = _most_specific(_known_first(candidates))
    by_name = [c for c in best if not c.layout.needs_config]
    if by_name and _agree(by_name):
        return Match((by_name[0],), "names")
    return Match(tuple(c for c in candidates if c.specificity == best[0].specificity), "ambiguous")


def _config_says(layout: Layout, values: Mapping[str, object]) -> bool:
    """Whether a config names the row: its kind of model, and every flag."""
    if not layout.model_types and not layout.flags:
        return False
    named = [values.get(key) for key in ("model_type", "_class_name", "architecture")]
    listed = values.get("architectures")
    named += cast(list[object], listed) if isinstance(listed, list) else []
    kinds = [kind for kind in named if isinstance(kind, str)]
    says = not layout.model_types or any(fnmatchcase(kind, glob) for kind in kinds for glob in layout.model_types)
    return says and all(_allows(allowed, values.get(key)) for key, allowed in layout.flags.items())


def _allows(allowed: tuple[object, ...], value: object) -> bool:
    return value in allowed or (Ellipsis in allowed and value is not None)


def _known_first(candidates: list[Candidate]) -> list[Candidate]:
    """A remembered row counts only if there is no other."""
    return [c for c in candidates if c.layout.proof != "memory"] or candidates


def _most_specific(candidates: list[Candidate]) -> list[Candidate]:
    best = max((c.specificity for c in candidates), default=0)
    return [c for c in candidates if c.specificity == best]


def _agree(candidates: list[Candidate]) -> bool:
    """Whether the candidates store the same things, under whatever name."""
    return len({c.layout.weights for c in candidates}) == 1


def _strip(name: str) -> Path:
    path = tuple(name.split("."))
    return path if _WRAPPERS.isdisjoint(path) else tuple(part for part in path if part not in _WRAPPERS)


def _numberless(path: Path) -> Path:
    return tuple(re.sub(r"\d+", "#", part) for part in path)


@cache
def _pattern(key: str) -> tuple[int, tuple[Path, ...]]:
    """(levels to climb, alternatives of each component)."""
    climb = key.count("../")
    return climb, tuple(tuple(part.split("|")) for part in key.replace("../", "").split("."))
