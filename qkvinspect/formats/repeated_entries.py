"""Entries of a header that are those before them, but for a layer's number and the places of the bytes.

What follows a layer is nearly always one more like it. To write down how its entries must read, and to compare, takes
half the time of reading them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from re import Match

from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.late_pattern import late_pattern
from qkvinspect.tensor_table import BITS, BlockForm, NamedBlock

_BEGIN = late_pattern(rb'"(?:[^."\\\x00-\x1f]*\.)+?[0-9]+\.')
_END = late_pattern(rb"\]\}\}[ \t\n\r]*\Z")
_LONGEST = 20
"""Digits of a number, and the point behind it."""

UNNUMBERED = b"\0"
"""What no entry begins with."""


def beginning(text: bytes, at: int) -> bytes:
    """What the entries of a layer begin with: a quotation mark, and the name up to its first number and the point.

    Args:
        at: where one of them begins; of a name without a number it is ``UNNUMBERED``.
    """
    found = _BEGIN.match(text, at)
    return UNNUMBERED if found is None else found[0]


def is_of_stack(text: bytes, at: int, begin: bytes) -> bool:
    """Whether what begins there may be another layer of the stack of one whose entries begin so."""
    return begin != UNNUMBERED and text.startswith(_stack(begin), at)


def _stack(begin: bytes) -> bytes:
    return begin[:-1].rstrip(b"0123456789")


class RepeatedLayer(NamedTuple):
    """One more layer.

    Attributes:
        stop: where its entries end in the header.
        last: whether the header ends there.
    """

    block: NamedBlock
    stop: int
    last: bool


class RepeatedEntries:
    """The entries of one layer, as the pattern of the next.

    Attributes:
        form: their names, and how their bytes lie in the file: in this order, without a gap.
        nbytes: of all of them.
    """

    __slots__ = ("_before", "_comma", "_starts", "_text", "form", "nbytes")

    def __init__(self, begin: bytes, entries: Iterable[Match[bytes]], kinds: Sequence[int]) -> None:
        """Make it of entries that match: the groups are name, dtype, sizes, and where the bytes begin and end.

        Args:
            begin: what each of them begins with.
            kinds: the number of the dtype and shape of each.
        """
        self._before, self._comma, self.nbytes = _stack(begin), b"", 0
        self._starts: list[int] = []
        ends: list[str] = []
        texts: list[bytes] = []
        for one in entries:
            at = one.start() + len(begin) - 1
            pieces = [self._before, one.string[at : one.start(4)], one.string[one.end(4) : one.start(5)]]
            before, middle, between = (piece.replace(b"%", b"%%") for piece in pieces)
            texts.append(b"%b%b%%b%b%%d%b%%d" % (self._comma, before, middle, between))
            self._comma = one.string[one.end(5) : one.end()]
            ends.append(one.string[at : one.end(1)].decode())
            self._starts.append(self.nbytes)
            self.nbytes += int(one[5]) - int(one[4])
        self._text = b"".join(texts)
        places = [start << BITS | kind for start, kind in zip(self._starts, kinds, strict=True)]
        self.form = BlockForm(self._before[1:].decode(), ends, places)

    def layers(self, text: bytes, at: int, start: int, table: tuple[int, int]) -> Iterator[RepeatedLayer]:
        """One after another, the layers whose entries begin there, if they are such.

        Args:
            start: where the bytes of the first one's tensors must begin.
            table: where the bytes of all tensors begin in the file, and how many names stand before these.
        """
        form, starts, nbytes, told = self.form, self._starts, self.nbytes, self._text
        size = len(self._before)
        values: list[bytes | int] = [b""] * (3 * len(starts))
        (begin, position), last = table, False
        while not last:
            first = at + size
            point = text.find(b".", first, first + _LONGEST)
            number = text[first : max(point, first)]
            if not number.isdigit():
                return
            places = [start + one for one in starts]
            places.append(start + nbytes)
            values[::3], values[1::3], values[2::3] = [number] * len(starts), places[:-1], places[1:]
            entries = told % tuple(values)
            if not text.startswith(entries, at):
                return
            at += len(entries)
            if text.startswith(self._comma, at):
                at += len(self._comma)
            elif _END.match(text, at):
                last = True
            else:
                return
            yield RepeatedLayer(NamedBlock(form, number.decode(), begin + start << BITS, position), at, last)
            start += nbytes
            position += len(starts)
