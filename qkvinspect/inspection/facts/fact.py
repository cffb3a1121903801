"""What one source says about a layer's heads."""

from __future__ import annotations

from enum import Enum, auto
from typing import TypeGuard

from qkvinspect.fast_dataclass import dataclass
from qkvinspect.parsed import is_size

MAX_HEADS = 65_536
"""More heads than this are no answer: a number in a config is not trusted with memory."""


class SaidBy(Enum):
    """The kinds of sources that give a layer's heads."""

    FLAG = auto()
    """The user, by ``--heads``."""
    ROW = auto()
    """The row of the registry, the pattern of the names, or the user's own row."""
    CONFIG = auto()
    """A config beside the checkpoint, which may be that of another part of the model."""
    CHECKPOINT = auto()
    """The checkpoint itself: hyper-parameters inside it, or attributes of a pickled module."""
    TENSOR = auto()
    """A tensor of the module."""
    WEIGHTS = auto()
    """The values of the projections."""


@dataclass(frozen=True, slots=True)
class HeadFact:
    """What one source says of a layer's heads; None for what it leaves open.

    Attributes:
        origin: the source, as in the JSON contract: ``flag``, ``config:config.json:text_config.num_attention_heads``.
        said_by: what kind of source that is.
        config: the origin of the config that says it, without the key; "" where none does.
        num_heads, num_kv_heads, head_dim: of the whole model, before ranks share it or heads are pruned.
        embed_dim: the width that the same source gives for this part of the model.
        ranks: how many ranks of tensor parallelism share the layer, as the source says.
        pruned: how many of the layer's heads were removed, as the source says.
        elsewhere: whether the source names another part of the model: it counts only where what is said of this part
            does not fit.
        by_class: whether the source is how the library's own class computes the number for exactly this module, so
            that nothing has to be concluded from widths.
        shared_out: whether the library's own class makes heads of ``embed_dim // num_heads`` rows, so that fewer rows
            are fewer heads.
        refuted: why the source cannot speak of this module, whatever its rows; "" where nothing is known against it.
    """

    origin: str
    num_heads: int | None = None
    num_kv_heads: int | None = None
    head_dim: int | None = None
    embed_dim: int | None = None
    ranks: int | None = None
    pruned: int = 0
    by_class: bool = False
    shared_out: bool = False
    elsewhere: bool = False
    refuted: str = ""
    said_by: SaidBy = SaidBy.CONFIG
    config: str = ""


def is_count(value: object) -> TypeGuard[int]:
    """Whether a value of a config can be a number of heads or a width."""
    return is_size(value) and value <= MAX_HEADS
