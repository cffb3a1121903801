"""Einsum, as the product, the scores or the weighted sum that it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from qkvinspect.fast_dataclass import replace
from qkvinspect.formats.onnx import views as moved
from qkvinspect.formats.onnx.views import Axis, LostError, View

_ELLIPSIS = "ABCDEFGH"


def terms(equation: str, ranks: Sequence[int]) -> tuple[str, str, str]:
    """The letters of two operands and of the result, with capital ones for what ``...`` stands for.

    Raises:
        LostError: it has another number of operands, or it does not fit them.
    """
    sides = equation.replace(" ", "").split("->")
    given = sides[0].split(",")
    if len(sides) != 2 or len(given) != 2 or len(ranks) != 2:
        raise LostError
    extra = [rank - len(term.replace("...", "")) for term, rank in zip(given, ranks, strict=True)]
    most = max((more for term, more in zip(given, extra, strict=True) if "..." in term), default=0)
    if min(extra) < 0 or most > len(_ELLIPSIS):
        raise LostError
    full = [term.replace("...", _ELLIPSIS[most - more : most]) for term, more in zip(given, extra, strict=True)]
    out = sides[1].replace("...", _ELLIPSIS[:most])
    for term, rank in zip(full, ranks, strict=True):
        if len(term) != rank or len(set(term)) != rank:
            raise LostError
    if not set(out) <= set("".join(full)):
        raise LostError
    return full[0], full[1], out


def sums_rows(equation: str, slot: int, views: Sequence[View]) -> bool:
    """Whether a product of a weight and rows of another sums over these, and not over tokens alone."""
    told = terms(equation, [len(view.axes) for view in views])
    given, view = told[1 - slot], views[1 - slot]
    summed = [letter for letter in given if letter in told[slot] and letter not in told[2]]
    held = [bool(moved.rows_of_axis(axis)) for axis in view.axes]
    return not any(held) or any(held[given.index(letter)] for letter in summed)


def scores(equation: str, left: View, right: View) -> tuple[View, View, int, int]:
    """(each operand with heads before its last two axes, which axis of the result runs over the one's, the other's)."""
    one, other, out = terms(equation, (len(left.axes), len(right.axes)))
    summed = [letter for letter in one if letter in other and letter not in out]
    if not summed or any(letter not in out and letter not in summed for letter in one + other):
        raise LostError

    def is_lead(letter: str) -> bool:
        if letter in one and letter in other:
            return True
        view, term = (left, one) if letter in one else (right, other)
        return bool(moved.rows_of_axis(view.axes[term.index(letter)]))

    lead = [letter for letter in out if is_lead(letter)]
    own = [[letter for letter in out if letter not in lead and letter in term] for term in (one, other)]
    views = [
        _by_letters(view, term, lead, (letters, summed))
        for view, term, letters in ((left, one, own[0]), (right, other, own[1]))
    ]
    rows, columns = (out.index(letters[0]) - len(out) if len(letters) == 1 else 0 for letters in own)
    return views[0], views[1], rows, columns


def weighted(equation: str, rank: int, values: View, tokens: tuple[int, int], keys: int, *, first: bool) -> View:
    """V with heads before its last two axes, in the order of those of the scores.

    Args:
        rank: of the scores.
        tokens: their axes over tokens, from the end; keys: the one of both over keys.
        first: whether the scores are the first operand.
    """
    ranks = (rank, len(values.axes)) if first else (len(values.axes), rank)
    one, other, out = terms(equation, ranks)
    scored, given = (one, other) if first else (other, one)
    key = scored[keys]
    if key in out or key not in given:
        raise LostError
    lead = [letter for place, letter in enumerate(scored) if place - len(scored) not in tokens]
    own = [letter for letter in given if letter not in scored]
    return _by_letters(values, given, lead, ([key], own))


def _by_letters(view: View, term: str, lead: Sequence[str], last: tuple[Sequence[str], Sequence[str]]) -> View:
    def axis(letter: str) -> Axis:
        return view.axes[term.index(letter)] if letter in term else ()

    inner = (moved.normal(chain.from_iterable(map(axis, letters))) for letters in last)
    return replace(view, axes=(*map(axis, lead), *inner))
