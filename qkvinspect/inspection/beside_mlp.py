"""One matrix that makes Q, K and V and the hidden layer of an MLP beside them, as in GPT-J's, PaLM's and ViT-22B's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from qkvinspect.inspection.words import speaks_of_attention, tokens

_MLP = frozenset({"ff", "ffn", "mlp", "glu", "feedforward"})


def is_of_mlp(key: str) -> bool:
    """Whether a name says that it is of an MLP."""
    return any(not _MLP.isdisjoint(tokens(part)) for part in key.split("."))


def holding_mlp(shapes: Mapping[str, Sequence[int]]) -> str:
    """Which of a module's matrices may make all of these; "" where none does.

    Its name says both, or one matrix leads back from as many features as Q, K and V leave of its rows, or from half as
    many, where there is a gate, and a square one from attention.
    """
    sizes = {key: (shape[0], shape[1]) for key, shape in shapes.items() if prod(shape[1:]) == shape[1]}
    for key, (rows, cols) in sizes.items():
        rest = rows - 3 * cols
        back = {inner for outer, inner in sizes.values() if outer == cols != inner}
        said = is_of_mlp(key) and any(map(speaks_of_attention, key.split(".")))
        led_back = (cols, cols) in sizes.values() and not back.isdisjoint((rest, rest / 2))
        if rest > 0 and (said or led_back):
            return key
    return ""
