"""The targets of ``pack`` and ``convert``: names of layers, numbers of heads, and the plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from qkvinspect.dtypes import DType
from qkvinspect.errors import LayoutError, UsageError
from qkvinspect.export.naming import layer_in
from qkvinspect.export.parts import StoredPart
from qkvinspect.export.pieces import OutputTensor
from qkvinspect.layouts import Layout

_UNKNOWN = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that will be written.

    Attributes:
        pieces: in the order of the checkpoint.
        layers: how many were rewritten.
        zeros: biases that were filled with zeros, as (layer, part).
        adapter: what the config of a rewritten adapter has to say.
        put_back: how many layers have rows in transformers' order that llama.cpp's converter had put in another.
    """

    pieces: tuple[OutputTensor, ...]
    layers: int
    zeros: tuple[tuple[str, str], ...] = ()
    adapter: Mapping[str, object] = field(default_factory=dict[str, object])
    put_back: int = 0


@dataclass(frozen=True, slots=True)
class Target:
    """Where pack and convert go.

    Attributes:
        heads, kv_heads: of the result, where the checkpoint does not tell them; 0: as it tells.
        numbers_as: what weights that are stored as codes become; None: they are refused.
        zero_bias: fill a missing bias with zeros where others are there.
        rename: from the name that a tensor would have to the one that it gets.
    """

    layout: Layout
    heads: int = _UNKNOWN
    kv_heads: int = _UNKNOWN
    zero_bias: bool = False
    numbers_as: DType | None = None
    rename: Callable[[str], str] = str


def layers_named(sources: Sequence[StoredPart], target: Layout) -> Iterator[str]:
    """What the layers will be called; where that would be the same, their own names stay whole."""
    names = [layer_in(target, source.layer, source.layout) for source in sources]
    for name, source in zip(names, sources, strict=True):
        alone = names.count(name) == 1
        yield name if alone else layer_in(target, source.layer, source.layout, behind=True)


def sized(source: StoredPart, target: Target) -> StoredPart:
    """The source with the heads that it shall have."""
    if not target.heads:
        if target.kv_heads:
            raise UsageError("kv_heads means nothing without heads", hint="give both")
        return source
    heads = target.heads
    known = source.heads
    kv_heads = target.kv_heads or {"equal": heads, "one": 1, "free": _kv_heads(source, heads)}[target.layout.kv_heads]
    if heads % kv_heads:
        raise UsageError(f"{heads} heads cannot share {kv_heads} kv heads", hint="give --heads N/KV")
    if known and "q" in source.weights and not source.weights.keys() & {"k", "v", "kv"}:
        known = (known[0], kv_heads)  # K and V are another layer's: nothing here says how many heads they have
    if known and known != (heads, kv_heads):
        raise LayoutError(
            f"layer {source.layer!r} has other heads than --heads says",
            expected=f"{heads}/{kv_heads}",
            found="/".join(map(str, known)),
        )
    return replace(source, heads=(heads, kv_heads))


def _kv_heads(source: StoredPart, heads: int) -> int:
    """As many as K has of the width that Q's have."""
    if "q" not in source.weights or "k" not in source.weights:
        return heads
    width, left = divmod(source.rows("q"), heads)
    count, rest = divmod(source.rows("k"), max(width, 1))
    return count if count and not left and not rest and heads % count == 0 else heads
