"""Which keys of a transformers config give the heads of a layer, as an experiment on the library found.

``transformers.json`` is made by ``tests/tables/generate_transformers.py`` from transformers 5.24.0: for each model_type
it has the layers that hold attention, with the keys that their class reads. The numbers themselves are in the config.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import cast

from qkvinspect.fast_dataclass import dataclass

_Said = int | None | Mapping[str, int | None]
"""The number of an answer; None where the experiment did not tell; one for each type of layer."""


@dataclass(frozen=True, slots=True)
class HeadKeys:
    """The dotted paths in a config of what a layer's class reads; "" for what no key was seen to give.

    ``num_heads[1]`` is the entry of a list: its place is the second number (counted from 0) in the layer's name.

    Attributes:
        num_heads: its number of heads; "" where the class computes it from the width of a head.
        num_kv_heads: the number of its heads of K and V; the same path as ``num_heads`` where there are as many.
        head_dim: the width of a head; "" where the class computes it from the number of heads.
        divided_by: what the value at ``num_heads`` is divided by, and at ``num_kv_heads`` if that is the same path: a
            path, or a number in digits.
    """

    num_heads: str
    num_kv_heads: str
    head_dim: str
    divided_by: str = ""


def head_keys(model_type: str, layer: str, layer_type: str = "") -> HeadKeys | None:
    """What the library reads for a layer of that name.

    A name that has more or fewer parts in front than the library's own is the same layer (``bert.encoder.layer.0...``
    and ``encoder.layer.0...``). Where several layers of the library end alike, the longest agreement counts.

    Args:
        layer_type: the entry of ``layer_types`` in the config, for the few classes that read other keys by it.

    Returns:
        None where the table does not know the model_type or the layer, or where layers that it could be differ.
    """
    parts = layer.split(".")
    best: set[HeadKeys | None] = set()
    closest = (0, False)
    for pattern, said in _patterns(model_type).items():
        agreeing = _agreeing(pattern.split("."), parts)
        if agreeing > closest:
            best.clear()
            closest = agreeing
        if agreeing == closest:
            best.add(_keys(said, layer_type))
    return best.pop() if closest[0] and len(best) == 1 else None


def _agreeing(pattern: Sequence[str], parts: Sequence[str]) -> tuple[int, bool]:
    """How many parts a pattern and a name share at their ends, and whether that is all of the pattern.

    0 where they agree neither on all of the pattern nor on all of the name.
    """
    shorter = min(len(pattern), len(parts))
    pairs = zip(reversed(pattern), reversed(parts), strict=False)
    if not all(one == other or (one == "*" and other.isdecimal()) for one, other in pairs):
        return 0, False
    return shorter, shorter == len(pattern)


def _keys(said: _Said, layer_type: str) -> HeadKeys | None:
    if isinstance(said, Mapping):
        said = said.get(layer_type)
    return None if said is None else HeadKeys(*_answers()[said])


def _patterns(model_type: str) -> Mapping[str, _Said]:
    models = _table()["models"]
    found = models.get(model_type, {})
    return cast("Mapping[str, _Said]", models[found] if isinstance(found, str) else found)


def _answers() -> Sequence[Sequence[str]]:
    return cast("Sequence[Sequence[str]]", _table()["answers"])


@cache
def _table() -> Mapping[str, dict[str, object]]:
    return json.loads(files("qkvinspect.inspection.facts.tables").joinpath("transformers.json").read_text("utf-8"))
