"""Rows of the registry whose projections a file stores as [in, out], as PaddlePaddle's layers do.

Under the names of [out, in] that differs only in what reads what: the projections of self-attention read one input, and
the output projection writes as many numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from qkvinspect.checkpoint import Config
from qkvinspect.fast_dataclass import replace
from qkvinspect.inspection.candidates import Candidate
from qkvinspect.inspection.names import Names
from qkvinspect.inspection.words import is_no_projection, tokens
from qkvinspect.layouts import Layout

_HIDDEN = ("hidden_size", "d_model", "n_embd", "n_embed", "dim")
_KV_HEADS = "num_key_value_heads"
_HEADS = "num_attention_heads"


def as_read(candidates: Iterable[Candidate], names: Names, configs: Sequence[Config]) -> list[Candidate]:
    """The candidates, turned where only [in, out] lets Q, K and V read what the model passes on."""
    return [_turned(one) if _lies_turned(one, names, configs) else one for one in candidates]


def _lies_turned(one: Candidate, names: Names, configs: Sequence[Config]) -> bool:
    layout = one.layout
    held = [stored.packing.order for stored in layout.weights if stored.orientation == "out_in"]
    if layout.found_by != "layout" or sorted(held) != [("k",), ("q",), ("v",)] or len(layout.weights) != 3:
        return False
    if any(len(weight.shape) != 2 or weight.encoding is not None for weight in one.weights):
        return False
    sizes = {stored.packing.order[0]: weight.shape for stored, weight in zip(layout.weights, one.weights, strict=True)}
    read, made = {shape[0] for shape in sizes.values()}, {shape[1] for shape in sizes.values()}
    if len(read) > 1 or read == made or _biases_are(sizes["q"][0], one, names):
        return False
    (width,) = read
    out = names.find_first(layout.out, one.path)
    if out is None or out.shape != (sizes["q"][1], width):
        return False
    hidden = {size for config in configs for key in _HIDDEN if type(size := config.values.get(key)) is int}
    if hidden and hidden != {width}:
        return False
    if len(made) > 1:  # as [out, in], K and V would read something narrower or wider than Q does
        return any("self" in tokens(part) for part in one.path) or _shares_as_told(
            sizes["q"][1], sizes["k"][1], configs
        )
    return bool(hidden) or {*_norms_beside(one, names)} == {width}


def _shares_as_told(q: int, k: int, configs: Sequence[Config]) -> bool:
    """Whether K is to Q as a config's kv heads are to its heads."""
    said = [(config.values.get(_HEADS), config.values.get(_KV_HEADS)) for config in configs]
    return any(type(heads) is int and type(kv) is int and q * kv == k * heads for heads, kv in said)


def _biases_are(size: int, one: Candidate, names: Names) -> bool:
    """Whether a bias has as many numbers as [out, in] has rows: then it is no [in, out]."""
    found = (names.find(stored.key, one.path) for stored in one.layout.biases)
    return any(bias is not None and bias.shape == (size,) for bias in found)


def _norms_beside(one: Candidate, names: Names) -> Iterator[int]:
    """The sizes of the norms of the block that the module is in."""
    above = one.path[:-1]
    for name in names.below(one.layer.rpartition(".")[0]):
        path, shape = names.paths[name], names.shape(name)
        if len(shape) == 1 and len(path) == len(above) + 2 and path[-1] == "weight" and is_no_projection(path[-2]):
            yield shape[0]


@lru_cache
def _other(layout: Layout) -> Layout:
    from qkvinspect.inspection.alternatives import turned

    return turned(layout) or layout


def _turned(one: Candidate) -> Candidate:
    return replace(one, layout=_other(one.layout))
