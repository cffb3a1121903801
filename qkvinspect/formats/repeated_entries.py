"""Entries of a header that are those before them, but for a layer's number and the places of the bytes.

What follows a layer is nearly always one more like it. To write down how its entries must read, and to compare, takes
half the time of reading them; to write down those of a hundred layers at once, digit by digit, a tenth.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat, takewhile
from re import Match

from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.late_pattern import late_pattern
from qkvinspect.tensor_table import BITS, BlockForm, NamedBlock

_BEGIN = late_pattern(rb'"(?:[^."\\\x00-\x1f]*\.)+?[0-9]+\.')
_END = late_pattern(rb"\]\}\}[ \t\n\r]*\Z")
_LONGEST = 20
"""Digits of a number, and the point behind it."""

_AT_ONCE, _FEW = 1 << 16, 16
"""Bytes of entries that are written down at once, and layers of which it costs little to do so in vain."""

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


class RepeatedLayers(NamedTuple):
    """Some more layers, one behind another.

    Attributes:
        stop: where their entries end in the header.
        last: whether the header ends there.
    """

    blocks: Sequence[NamedBlock]
    stop: int
    last: bool


class RepeatedEntries:
    """The entries of one layer, as the pattern of the next.

    Attributes:
        form: their names, and how their bytes lie in the file: in this order, without a gap.
        nbytes: of all of them.
    """

    __slots__ = ("_before", "_comma", "_lengths", "_starts", "_text", "form", "nbytes")

    def __init__(self, begin: bytes, entries: Iterable[Match[bytes]], kinds: Sequence[int]) -> None:
        """Make it of entries that match: the groups are name, dtype, sizes, and where the bytes begin and end.

        Args:
            begin: what each of them begins with.
            kinds: the number of the dtype and shape of each.
        """
        self._before, self._comma, self.nbytes = _stack(begin), b"", 0
        self._starts: list[int] = []
        self._lengths: list[int] = []  # of what stands before each number
        ends: list[str] = []
        texts: list[bytes] = []
        for one in entries:
            at = one.start() + len(begin) - 1
            pieces = self._comma + self._before, one.string[at : one.start(4)], one.string[one.end(4) : one.start(5)]
            texts.append(b"%b%%b%b%%d%b%%d" % tuple([piece.replace(b"%", b"%%") for piece in pieces]))
            self._lengths += map(len, pieces)
            self._comma = one.string[one.end(5) : one.end()]
            ends.append(one.string[at : one.end(1)].decode())
            self._starts.append(self.nbytes)
            self.nbytes += int(one[5]) - int(one[4])
        self._text = b"".join(texts)
        places = [start << BITS | kind for start, kind in zip(self._starts, kinds, strict=True)]
        self.form = BlockForm(self._before[1:].decode(), ends, places)

    def layers(self, text: bytes, at: int, start: int, table: tuple[int, int]) -> Iterator[RepeatedLayers]:
        """Some after others, the layers whose entries begin there, if they are such.

        Args:
            start: where the bytes of the first one's tensors must begin.
            table: where the bytes of all tensors begin in the file, and how many names stand before these.
        """
        form, step, names = self.form, self.nbytes << BITS, len(self._starts)
        begin, position = table
        base, most, last = begin + start << BITS, 1, False
        while not last:
            numbers, size, last = self._alike(text, at, (base >> BITS) - begin, most)
            if not numbers:
                return
            blocks: list[NamedBlock] = []
            for number in numbers:
                blocks.append(NamedBlock(form, number, base, position))
                base += step
                position += names
            at += len(blocks) * size
            yield RepeatedLayers(blocks, at, last)
            most = max(2 * len(blocks), _FEW)

    def _alike(self, text: bytes, at: int, start: int, most: int) -> tuple[Sequence[str], int, bool]:
        """The numbers of the layers whose entries begin there, as far as they are such and all numbers in them have as
        many digits as those of the first; the length of the entries of one; and whether the header ends behind it.

        Args:
            start: where the bytes of the first one's tensors must begin.
            most: of layers.
        """
        first = at + len(self._before)
        point = text.find(b".", first, first + _LONGEST)
        number = text[first : max(point, first)]
        places = [start + one for one in self._starts]
        places.append(start + self.nbytes)
        values: list[bytes | int] = [number] * (3 * len(self._starts))
        values[1::3], values[2::3] = places[:-1], places[1:]
        entries = self._text % tuple(values)
        if not number.isdigit() or not text.startswith(entries, at):
            return (), 0, False
        row = entries + self._comma
        count = min(most, (len(text) - at) // len(row), _AT_ONCE // len(row))
        if self.nbytes:
            count = min(count, *((10 ** len(str(place)) - 1 - place) // self.nbytes + 1 for place in places))
        if count < 2:
            last = _END.match(text, at + len(entries)) is not None
            return [number.decode()] if last or text.startswith(row, at) else (), len(row), last
        size = len(row)
        given = bytearray(count * len(number))
        for digit in range(len(number)):
            given[digit :: len(number)] = text[first + digit : first + count * size : size]
        columns = [given, *(b"%d" * count % tuple(self._range(place, count)) for place in places)]
        rows = bytearray(row * count)
        stop = 0
        for value, length in enumerate(self._lengths):
            column = columns[value // 3 + value % 3 if value % 3 else 0]
            place, width = stop + length, len(column) // count
            stop = place + width
            for digit in range(width):
                rows[place + digit :: size] = column[digit::width]
        alike = range(1, count + 1)
        if not text.startswith(rows, at):
            alike = alike[: bisect_right(alike, False, key=lambda some: not text.startswith(rows[: some * size], at))]
        digits = given.decode("latin1")
        found = [digits[one : one + len(number)] for one in range(0, len(alike) * len(number), len(number))]
        return [*takewhile(str.isdecimal, found)], size, False

    def _range(self, place: int, count: int) -> Iterable[int]:
        """Where the bytes of one entry's tensor begin, or those before it end, in so many layers."""
        return range(place, place + count * self.nbytes, self.nbytes) if self.nbytes else repeat(place, count)
