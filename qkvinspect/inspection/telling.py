"""What is said of each module that was found: its layout's parts and heads, or why there are none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import gcd

from qkvinspect.errors import LayoutError
from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import Finding
from qkvinspect.inspection.candidates import DecidedBy, Match
from qkvinspect.inspection.computed import Computed
from qkvinspect.inspection.module import Facts, Module
from qkvinspect.inspection.names import Names
from qkvinspect.inspection.notices import about_values
from qkvinspect.inspection.renamed import UnlikeError
from qkvinspect.inspection.repeated import LikeModules, RepeatedAttention, RepeatedMatch
from qkvinspect.inspection.report import Attention
from qkvinspect.inspection.split import split, unsplit
from qkvinspect.inspection.wide_v import by_heads


class Telling:
    """Tells it of one module after another; of those that repeat one, as it was told of that.

    Args:
        each: whether what is said of a module depends on more than its names and shapes, and its place in the stack.
    """

    def __init__(self, names: Names, facts: Facts, computed: Computed, *, each: bool) -> None:
        self._names, self._facts, self._computed, self._each = names, facts, computed, each
        self._firsts: dict[int, tuple[Module, LikeModules | None]] = {}  # by the match that others repeat

    def each(self, matches: Iterable[Match]) -> Iterator[Module | RepeatedAttention]:
        """What is said of modules; one that repeats another as such, where no more is to be said of it."""
        known, stack = None, None
        for found in matches:
            if stack is not None and isinstance(found, RepeatedMatch) and found.stack is known:
                yield stack.attention(found.layer, found.renamed)
                continue
            yield self.module(found)
            if isinstance(found, RepeatedMatch):
                first, stack = self._firsts.get(id(found.stack)) or (None, None)
                known, stack = found.stack, None if first is None or first.findings else stack

    def module(self, found: Match) -> Module:
        """What is said of it."""
        if self._each or not isinstance(found, RepeatedMatch) or found.stack.first.decided_by is DecidedBy.NOTHING:
            return self._computed.told(_module(found, self._names, self._facts), self._facts)
        key = id(found.stack)
        if key not in self._firsts:
            first = _module(found.stack.first, self._names, self._facts)
            self._firsts[key] = first, _stack(first, found)
        first, stack = self._firsts[key]
        if stack is None:
            return _module(found, self._names, self._facts)
        layer, findings = found.layer, first.findings
        if findings:
            findings = tuple([one.of(layer) for one in findings])
        return Module(found, stack.attention(layer, found.renamed), findings)


def _module(found: Match, names: Names, facts: Facts) -> Module:
    found = by_heads(found, names, facts) if found.chosen is None else found
    base = unsplit(found)
    if found.chosen is None:
        text = f"it may be {' or '.join(base.candidates)}; --layout '{base.layer}=ID' or --config FILE settles it"
        return Module(found, base, (Finding(FindingCode.AMBIGUOUS_LAYOUT, text, base.layer),))
    try:
        attention, findings = split(base, found.chosen, names, facts(found.chosen))
        _require_shareable(attention)
        return Module(found, attention, tuple(findings))
    except LayoutError as error:
        lost = tuple(about_values(base.layer, base.weights))
        if lost:
            return Module(found, None, lost)
        text = f"{error.message}{f' ({error.found})' if error.found else ''}; it is left out"
        return Module(found, None, (Finding(FindingCode.UNEXPECTED_SHAPE, text, base.layer),))


def _stack(first: Module, found: RepeatedMatch) -> LikeModules | None:
    """What modules that repeat one have in common, by one of them; None where they may differ."""
    if first.attention is None:
        return None
    try:
        for one in first.findings:
            found.renamed.finding(one, first.attention.layer, found.layer)
        return LikeModules(first.attention, found.renamed)
    except UnlikeError:
        return None


def _require_shareable(attention: Attention) -> None:
    """Check that Q and K, whose heads have one width, have numbers of rows of which one divides the other.

    And that K and V can have the same number of heads, unless the layout says that they need not.

    Raises:
        LayoutError: no number of heads fits them.
    """
    q, k, v = attention.part("q"), attention.part("k"), attention.part("v")
    if attention.heads is not None:
        return
    v_is_as_k = attention.layout is not None and not attention.layout.v_free
    if k is not None and v is not None and v_is_as_k and gcd(k.shape[0], v.shape[0]) == 1 < v.shape[0]:
        raise LayoutError(f"K has {k.shape[0]} rows and V has {v.shape[0]}")
    if q is not None and k is not None:
        rows, others = q.shape[0], k.shape[0]
        if min(rows, others) and max(rows, others) % min(rows, others):
            raise LayoutError(f"no number of heads fits {rows} rows of Q and {others} of K")
