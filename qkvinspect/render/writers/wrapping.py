"""Where lines of a terminal are broken: between facts, then between words, never inside a word that fits on a line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise, repeat

from qkvinspect.late_pattern import late_pattern
from qkvinspect.render.spark import BLOCKS

_WORD = late_pattern(r"\s*(?:\[[\d, ]*\]|\S)+\s*")
"""A shape is one word: ``[16, 12]``."""

_FACT = late_pattern(r"\s*\S+(?: \S+)*\s*")
"""What two spaces part from the next."""

_OTHERS = late_pattern(rf"[^\x00-\x7f{BLOCKS}─│└…·×▏▎▍▌▋▊▉]")
"""Characters that are not known to be one column wide."""


def width_of(text: str) -> int:
    """Columns that it takes in a terminal."""
    if _is_narrow(text):
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _is_narrow(text: str) -> bool:
    """Whether every character is one column wide."""
    return text.isascii() or not _OTHERS.search(text)


def most_of(texts: Sequence[str]) -> int:
    """Columns that the widest of some texts takes."""
    return max(map(len if _is_narrow("".join(texts)) else width_of, texts), default=0)


def padded(texts: Sequence[str], width: int, *, right: bool) -> Iterable[str]:
    """The texts with spaces before or behind them, so that each takes so many columns."""
    if _is_narrow("".join(texts)):
        return map(str.rjust if right else str.ljust, texts, repeat(width))
    spaces = (" " * (width - width_of(text)) for text in texts)
    return (space + text if right else text + space for space, text in zip(spaces, texts, strict=True))


def pieces(parts: Sequence[tuple[str, str]], width: int, hang: int) -> Iterator[list[tuple[str, str]]]:
    """A line of styled parts as lines of at most so many columns, all but the first without their indent.

    Args:
        hang: the indent of all but the first.
    """
    whole = "".join(text for text, _ in parts)
    for start, end in pairwise([0, *_cuts(whole, width, hang), len(whole)]):
        place = 0
        line: list[tuple[str, str]] = []
        for text, style in parts:
            line.append((text[max(start - place, 0) : max(end - place, 0)], style))
            place += len(text)
        yield line


def _cuts(text: str, width: int, hang: int) -> Iterator[int]:
    """Where the lines after the first begin. The first has all columns, the others those right of the indent."""
    used, room = 0, width
    for start, end in _unbreakable(text, width - hang):
        length = width_of(text[start:end].rstrip())
        if length <= room - used:
            used += width_of(text[start:end])
            continue
        room = width - hang
        if length <= room:
            yield start
            used = width_of(text[start:end])
        else:
            places = list(_inside(text, start, end, room))
            yield from (place for place in places if place)
            used = width_of(text[places[-1] : end])


def _unbreakable(text: str, room: int) -> Iterator[tuple[int, int]]:
    """Facts; of one that no line has room for, its words."""
    for fact in _FACT.finditer(text):
        if width_of(fact[0].strip()) <= room:
            yield fact.span()
        else:
            yield from (word.span() for word in _WORD.finditer(text, *fact.span()))


def _inside(text: str, start: int, end: int, room: int) -> Iterator[int]:
    """Where lines begin of a word that is longer than a line."""
    yield start
    used = 0
    for place in range(start, end):
        used += width_of(text[place])
        if used > room:
            yield place
            used = width_of(text[place])
