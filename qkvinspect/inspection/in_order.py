"""Modules in the order of the file, or in that of the numbers in their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from qkvinspect.inspection.candidates import Match
from qkvinspect.inspection.repeated import RepeatedMatch
from qkvinspect.tensor_table import NamedBlock, TensorTable
from qkvinspect.weights.encodings import Weights

_FIGURES = 9
"""Figures of a number that are read as one."""

Key = list[str | int]


def as_in_file(matches: Sequence[Match], weights: Weights) -> list[Match]:
    """By the place of the first weight."""
    table = weights.tensors
    if not isinstance(table, TensorTable) or weights.encoded or weights.order:
        begin = {match.begins for match in matches}
        order = {name: position for position, name in enumerate(weights) if name in begin}
        return sorted(matches, key=lambda match: order[match.begins])
    known = [match.position if isinstance(match, RepeatedMatch) else None for match in matches]
    order = table.positions({match.begins for match, at in zip(matches, known, strict=True) if at is None})
    positions = [order[match.begins] if at is None else at for match, at in zip(matches, known, strict=True)]
    return [matches[at] for at in sorted(range(len(matches)), key=positions.__getitem__)]


def by_numbers(matches: list[Match]) -> None:
    """Sort them by their layers' names, the numbers in these as numbers."""
    if not _are_sorted(matches):
        matches.sort(key=_key)


def _are_sorted(matches: Sequence[Match]) -> bool:
    """Whether they are, as nearly all are; of blocks that are alike, their numbers tell."""
    last: Match | None = None
    stack, form, size, number = None, None, 0, -1
    for match in matches:
        held = match.renamed.held if isinstance(match, RepeatedMatch) else None
        own = _number(held, size) if isinstance(held, NamedBlock) and held.form is form else -1
        alike = number >= 0 <= own and isinstance(match, RepeatedMatch) and match.stack is stack
        if own < number if alike else last is not None and _key(match) < _key(last):
            return False
        if isinstance(match, RepeatedMatch) and isinstance(held, NamedBlock) and not alike:
            stack, form, size = match.stack, held.form, len(held.form.stack)
            own = _number(held, size) if match.layer.startswith(held.begin) else -1
        last, number = match, own
    return True


def _number(block: NamedBlock, size: int) -> int:
    """What follows so many characters of its names; -1 if that is not read as one number."""
    number = block.begin[size:]
    return int(number) if len(number) <= _FIGURES else -1


def _key(match: Match) -> Key:
    if isinstance(match, RepeatedMatch):
        block, layer = match.renamed.held, match.layer
        if isinstance(block, NamedBlock) and layer.startswith(block.begin):
            stack = block.form.stack
            number = _number(block, len(stack))
            if number >= 0:  # which stands alone: a point before it, and a point behind it or nothing
                return [*_parted(stack), number, *_parted(layer[len(block.begin) :])]
    return [*_parts(match.layer)]


def _parts(name: str) -> Key:
    return [int(part) if part.isdecimal() else part for part in re.split(rf"(\d{{1,{_FIGURES}}})", name)]


@lru_cache(1 << 10)
def _parted(part: str) -> Key:
    """As ``_parts``, of what many names have."""
    return _parts(part)
