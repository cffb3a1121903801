"""Copies of attention under names without their dots, as LDM keeps its average of the weights (``LitEma``).

A buffer's name may have no dot: ``model_ema.diffusion_modelmiddle_block1attn1to_qweight``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.inspection.names import Names, Path
from qkvinspect.late_pattern import late_pattern
from qkvinspect.weights.weight import Weight

_PROJECTION = late_pattern(
    r"\d\w*att(?:n|en).*(?:[qkv]|query|key|value|qkv|kv|in)_?(?:proj_?|linear)?(?<!_norm)weight$", re.IGNORECASE
)


_LONG = 20
"""More letters than any one word has."""

_ABOVE = 4
"""Components of a name that the one without dots may lack: what is averaged is a part of the model."""


class Copies(NamedTuple):
    """Projections that are kept a second time under names without dots.

    Attributes:
        module: what holds them, as stored.
        tensors: their names.
        of: the first of those that they are copies of.
    """

    module: str
    tensors: tuple[str, ...]
    of: str

    def to_dict(self) -> dict[str, object]:
        """For the JSON contract."""
        return {"module": self.module, "of": self.of, "tensors": list(self.tensors)}


def is_undotted(leaf: str) -> bool:
    """Whether the last component of a name is that of a whole projection without its dots."""
    return len(leaf) > _LONG and _PROJECTION.search(leaf) is not None


def copies(names: Names, modules: Mapping[Path, Sequence[str]]) -> list[Copies]:
    """Those that stand under their own names as well.

    Args:
        modules: the names without dots, by the path of what holds them.
    """
    if not modules:
        return []
    originals: dict[str, str] = {}
    for name in names.paths:
        parts = name.split(".")
        for at in range(min(len(parts) - 1, _ABOVE)):
            originals.setdefault("".join(parts[at:]), name)
    found: list[Copies] = []
    for held in modules.values():
        copied = [(name, of) for name in held if (of := originals.get(names.paths[name][-1])) not in (None, name)]
        if copied:
            tensors, of = tuple(name for name, _ in copied), copied[0][1] or ""
            found.append(Copies(names.stored_layer(tensors[0], 1), tensors, of))
    return found


def undotted(
    names: Names, modules: Mapping[Path, Sequence[str]], taken: Collection[str]
) -> Iterator[tuple[str, tuple[Weight, ...], str]]:
    """(what holds them, the tensors, why) of each module with such tensors.

    Args:
        taken: tensors that need no more looking at.
    """
    for held in modules.values():
        some = [name for name in held if name not in taken]
        if len(some) > 1:
            why = f"{len(some)} projections under names without dots, as averages of weights are kept: {some[0]} ..."
            yield names.stored_layer(some[0], 1), tuple(names.weights[name] for name in some), why
