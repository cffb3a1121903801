"""Which keys of a transformers config give the heads of a layer, as an experiment on the library found.

``transformers.json`` is made by ``tests/tables/generate_transformers.py`` from transformers 5.24.0: for each model_type
it has the layers that hold attention, with the keys that their class reads. The numbers themselves are in the config.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

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

    A name may have more in front than the library's own: the base model's name (``bert.encoder.layer.0...`` and
    ``encoder.layer.0...`` are the same layer) or what the model is part of. Of several layers of the library that the
    name ends with, the one of the longest name counts. It may have less in front as well, where a part is saved alone:
    then all layers whose names end with it must answer alike.

    Args:
        layer_type: the entry of ``layer_types`` in the config, for the few classes that read other keys by it.

    Returns:
        None where the table does not know the model_type or the layer.
    """
    parts = layer.split(".")
    closest, keys = 0, None
    for pattern, said in _patterns(model_type).items():
        ending = pattern.split(".")
        if len(ending) > closest and _ends_with(parts, ending):
            closest, keys = len(ending), _keys(said, layer_type)
    return keys if closest else _of_a_part_alone(model_type, parts, layer_type)


def head_dim_beside(model_type: str, num_heads: str) -> str:
    """The path of a width of heads that a config may have beside the number of heads, and its class then reads.

    ``own_head_dim.json`` lists the model types of transformers 5.24.0 whose attention has
    ``self.head_dim = getattr(config, "head_dim", ...)``. The configs that the experiment made had none.
    """
    section, dot, _ = num_heads.rpartition(".")
    return f"{section}{dot}head_dim" if num_heads and model_type in _own_head_dim() else ""


@cache
def _own_head_dim() -> frozenset[str]:
    import json

    return frozenset(json.loads(Path(__file__).with_name("own_head_dim.json").read_text(encoding="utf-8")))


def _of_a_part_alone(model_type: str, parts: Sequence[str], layer_type: str) -> HeadKeys | None:
    """What the library reads for every layer whose name ends so; None where it reads several things."""
    found = [
        _keys(said, layer_type)
        for pattern, said in _patterns(model_type).items()
        if len(ending := pattern.split(".")) > len(parts) and _ends_with(parts, ending[-len(parts) :])
    ]
    return found[0] if len(set(found)) == 1 else None


def _ends_with(parts: Sequence[str], ending: Sequence[str]) -> bool:
    """Whether a name's parts end like a pattern's, where ``*`` stands for a number."""
    last = parts[-len(ending) :]
    same = ((one == "*" and part.isdecimal()) or one == part for one, part in zip(ending, last, strict=False))
    return len(last) == len(ending) and all(same)


def _keys(said: _Said, layer_type: str) -> HeadKeys | None:
    if isinstance(said, Mapping):
        said = said.get(layer_type)
    return None if said is None else HeadKeys(*_table().answers[said])


def _patterns(model_type: str) -> Mapping[str, _Said]:
    """The layers of a model_type; some have those of another one."""
    found = _table().models.get(model_type, {})
    return _patterns(found) if isinstance(found, str) else found


@dataclass(frozen=True, slots=True)
class _KeyTable:
    answers: Sequence[Sequence[str]]
    models: Mapping[str, Mapping[str, _Said] | str]


@cache
def _table() -> _KeyTable:
    import json

    return _KeyTable(**json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8")))
