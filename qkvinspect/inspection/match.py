"""Find attention modules by the names of their tensors, and decide which layout each has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from itertools import product

from qkvinspect.errors import LayoutError
from qkvinspect.layouts import Layout
from qkvinspect.model import Config, TensorInfo

_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Components that DataParallel, torch.compile and FSDP put into names. They are stripped when names are
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

    @property
    def specificity(self) -> int:
        """How much of the names the layout accounts for."""
        layout = self.layout
        return len(layout.layer.split(".")) * bool(layout.layer) + len(layout.weights) + len(layout.siblings)


@dataclass(frozen=True, slots=True)
class Match:
    """One attention module: its layout, or the candidates if nothing decides between them."""

    candidates: tuple[Candidate, ...]
    decided_by: str

    @property
    def chosen(self) -> Candidate | None:
        return self.candidates[0] if len(self.candidates) == 1 else None


def find_attentions(
    names: Names,
    layouts: Sequence[Layout],
    configs: Sequence[Config],
    forced: Sequence[tuple[str, str]],
) -> list[Match]:
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
    for candidates in sorted(found, key=lambda some: -max(c.specificity for c in some)):
        free = [c for c in candidates if not claimed & {info.name for info in c.weights}]
        if free:
            match = _decide(free, configs, forced)
            matches.append(match)
            claimed |= {info.name for candidate in match.candidates for info in candidate.weights}
    order = {name: position for position, name in enumerate(names.tensors)}
    return sorted(matches, key=lambda match: order[match.candidates[0].weights[0].name])


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
    if len(path) < count or any(part not in some for part, some in zip(path[-count:], choices, strict=True)):
        return
    layer = path[:-count]
    if layout.layer:
        _, context = _pattern(layout.layer)
        end = layer[-len(context) :]
        if len(end) < len(context) or any(p not in some for p, some in zip(end, context, strict=True)):
            return
    weights = [names.find(weight.key, layer) for weight in layout.weights]
    if any(info is None for info in weights):
        return
    if any(names.find(key, layer) is None for key in layout.siblings):
        return
    if any(names.find(key, layer) is not None for key in layout.unless):
        return
    stored = names.stored_layer(name, count)
    label = f"{stored}.{layout.label}".lstrip(".") if layout.label else stored
    yield Candidate(layout, layer, label, tuple(info for info in weights if info is not None))


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
        named = [c for c in candidates if _config_says(c.layout, config)]
        if named:
            return Match((_best(named),), config.origin)
    by_name = [c for c in candidates if not c.layout.needs_config]
    if not by_name:
        return Match(tuple(candidates), "ambiguous")
    return Match((_best(by_name),), "names")


def _config_says(layout: Layout, config: Config) -> bool:
    kinds = {config.values.get("model_type"), config.values.get("_class_name")}
    return not kinds.isdisjoint(layout.model_types) and all(
        config.values.get(key) == value for key, value in layout.flags.items()
    )


def _best(candidates: list[Candidate]) -> Candidate:
    """The most specific; a remembered row only if there is no other; else the first in the table."""
    return max(candidates, key=lambda c: (c.layout.proof != "memory", c.specificity))


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
