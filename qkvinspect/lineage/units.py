"""Which units of the residual stream are looked at, and what for.

The same number of a unit means the same thing in two models only if they share a start: a fresh start numbers its
units by chance. Half of the units serve as the basis in which heads are compared and paired, and the order of the
others is what is tested, so that whatever was fitted was fitted without them.
"""

from __future__ import annotations

from qkvinspect.fast_dataclass import dataclass

MOST_BASIS = 64
MOST_TESTED = 128
FEWEST_TESTED = 12
"""Of 10 units that are all found in their own places the chance is 1 in 3.6 million."""


@dataclass(frozen=True, slots=True)
class Units:
    """A choice of units that looks at no weight.

    Attributes:
        width: of the residual stream.
        basis: those in whose terms heads are compared.
        tested: those whose order is tested.
    """

    width: int
    basis: range
    tested: range

    @property
    def numbers(self) -> tuple[int, ...]:
        """All of them, the basis first."""
        return *self.basis, *self.tested


def choose(width: int) -> Units:
    """Even units as the basis and odd ones to be tested, spread evenly where a stream has more than are needed."""
    if width < 2 * FEWEST_TESTED:
        first = max(width - FEWEST_TESTED, width // 4, 1)
        return Units(width, range(min(first, width)), range(min(first, width), width))
    return Units(width, range(0, width, _step(width, MOST_BASIS)), range(1, width, _step(width, MOST_TESTED)))


def _step(width: int, most: int) -> int:
    return 2 * max(-(-width // (2 * most)), 1)
