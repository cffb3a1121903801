"""How B was made from A, where its rows show it: a code, a sentence, and the parts concerned."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class RelationCode(StrEnum):
    """Every relation that ``diff`` can find, as text that scripts may rely on."""

    PARTS_SWAPPED = "parts-swapped"
    PART_COPIED = "part-copied"
    HEADS_PERMUTED = "heads-permuted"
    HEADS_COPIED = "heads-copied"
    ROTARY_PERMUTED = "rotary-permuted"
    TRANSPOSED = "transposed"
    STORED_TRANSPOSED = "stored-transposed"
    TRANSPOSED_ALONE = "transposed-alone"
    ZERO_FILLED = "zero-filled"
    ROUNDED_THROUGH = "rounded-through"
    CUT_OTHERWISE = "cut-otherwise"
    READ_OTHERWISE = "read-otherwise"
    ROWS_PERMUTED = "rows-permuted"
    COLUMNS_PERMUTED = "columns-permuted"
    PART_SCALED = "part-scaled"
    COLUMNS_SCALED = "columns-scaled"


@dataclass(frozen=True, slots=True)
class Relation:
    """How the changed parts of a layer of B came from A.

    Attributes:
        parts: the names of the parts concerned.
    """

    code: RelationCode
    message: str
    parts: tuple[str, ...]
