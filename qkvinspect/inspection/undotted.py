"""Copies of attention under names without their dots, as LDM keeps its average of the weights (``LitEma``).

A buffer's name may have no dot: ``model_ema.diffusion_modelmiddle_block1attn1to_qweight``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

from qkvinspect.inspection.names import Names, Path
from qkvinspect.late_pattern import late_pattern
from qkvinspect.weights.weight import Weight

_PROJECTION = late_pattern(
    r"\d\w*att(?:n|en).*(?:[qkv]|query|key|value|qkv|kv|in)_?(?:proj_?|linear)?(?<!_norm)weight$", re.IGNORECASE
)


def undotted(
    names: Names, paths: Mapping[str, Path], known: Collection[str] = (), taken: Collection[str] = ()
) -> Iterator[tuple[str, tuple[Weight, ...], str]]:
    """(what holds them, the tensors, why) of each module with such tensors.

    Args:
        paths: of the tensors that are looked at.
        known, taken: those of them that need no more looking at.
    """
    held: dict[Path, list[str]] = {}
    for name, path in paths.items():
        if len(path[-1]) > _LONG and name not in known and name not in taken and _PROJECTION.search(path[-1]):
            held.setdefault(path[:-1], []).append(name)
    for some in held.values():
        if len(some) > 1:
            why = f"{len(some)} projections under names without dots, as averages of weights are kept: {some[0]} ..."
            yield names.stored_layer(some[0], 1), tuple(names.weights[name] for name in some), why


_LONG = 20
"""More letters than any one word has."""
