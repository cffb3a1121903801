"""Which rows of a stored projection belong to which head of Q, K and V: one formula, pure arithmetic.

The output axis of a projection is ``groups`` equal runs; within a group the parts follow each other
in ``order``, each with its share of heads, each head with its width::

    blocked [Q;K;V]     one group       q*H        k*KV  v*KV
    per head            H groups        q*1        k*1   v*1
    grouped (GQA)       KV groups       q*(H/KV)   k*1   v*1
    CodeGen             4 groups        q*(H/4)    v*(H/4)  k*(H/4)
    a row a head        d groups        q*H        k*H      v*H, one row of each; [d, H, slots] slots innermost

Rows are Python ``range`` objects over the stored tensor's output axis, with a step other than 1 where slots are
innermost (``[heads, head_dim, slots]``, ``[head_dim, heads, slots]``) or heads (``[slots, head_dim, heads]``,
``[head_dim, slots, heads]``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import chain
from typing import Literal

from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.layouts.frozen_mapping import FrozenMapping, frozen

Groups = Literal["one", "heads", "kv_heads", "rows"] | int

QUERY_SIDE = frozenset({"q", "gate"})
"""Parts with one slot per query head; every other headed part has one per key/value head."""

V_SIDE = frozenset({"v", "vgate"})
"""Parts whose heads are as wide as those of V."""


@dataclass(frozen=True, slots=True)
class Packing:
    """How one stored tensor's output axis is divided.

    Attributes:
        order: the parts of a group, first row first. ``q``, ``k``, ``v``; ``gate`` (a gate per query
            head), ``vgate`` (a gate as wide as V); ``kv`` (one projection used as both K and V); ``qk`` (as
            both Q and K); ``qkv`` (as all three); any other name stands for rows that are not attention (an
            MLP), found by what is left over.
        groups: how many times the order repeats: once, per head, per kv head, once for every row that a head has
            ([head_dim, slots, heads]), or a fixed number.
        slot_innermost: the parts alternate row by row within a group ([heads, head_dim, slots]; in groups of a row
            of each head [head_dim, heads, slots]).
        heads_innermost: the heads of a part alternate row by row ([slots, head_dim, heads]).
    """

    order: tuple[str, ...]
    groups: Groups = "one"
    slot_innermost: bool = False
    heads_innermost: bool = False

    @property
    def parts(self) -> frozenset[str]:
        """Which of q, k and v this tensor holds, shared ones named apart."""
        return frozenset(chain.from_iterable(SHARED.get(part, (part,)) for part in self.order))


SHARED = {"kv": ("k", "v"), "qk": ("q", "k"), "qkv": ("q", "k", "v")}
"""Parts that are one projection, and what each is used as."""

QKV = Packing(("q", "k", "v"))
Q, K, V = Packing(("q",)), Packing(("k",)), Packing(("v",))
QK, KV, KVQ = Packing(("q", "k")), Packing(("k", "v")), Packing(("k", "v", "q"))
PER_HEAD = Packing(("q", "k", "v"), groups="heads")
KV_PER_HEAD = Packing(("k", "v"), groups="heads")
GROUPED = Packing(("q", "k", "v"), groups="kv_heads")


_NONE: Mapping[str, int] = FrozenMapping({})


@dataclass(frozen=True, slots=True)
class Geometry:
    """The sizes of an attention module. Hashable, whatever mappings it is made with.

    Attributes:
        head_dim: rows of one head of Q and of K.
        v_head_dim: rows of one head of V; None means ``head_dim``.
        widths: rows of one head of any other part, where they differ from ``head_dim``.
        subheads: parts that divide each of their heads further (differential attention).
        subheads_apart: whether the first sub-heads of all heads come before the second ones.
        tiled: whether head h uses kv head h % num_kv_heads, and not its neighbours' kv head; None where libraries that
            store the same differ in it and nothing tells.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    v_head_dim: int | None = None
    widths: Mapping[str, int] = _NONE
    subheads: Mapping[str, int] = _NONE
    subheads_apart: bool = False
    tiled: bool | None = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", frozen(self.widths))
        object.__setattr__(self, "subheads", frozen(self.subheads))

    def heads(self, part: str) -> int:
        """How many heads a part has."""
        heads = self.num_heads if part in QUERY_SIDE else self.num_kv_heads
        return heads * self.subheads.get(part, 1)

    def kv_head(self, head: int) -> int:
        """The kv head that a head uses; that of its neighbours where it is not known which."""
        if self.tiled:
            return head % self.num_kv_heads
        return head * self.num_kv_heads // self.num_heads

    def whole_head(self, query: int) -> int:
        """The head that a head of Q is a sub-head of; itself where heads are not divided."""
        return query % self.num_heads if self.subheads_apart else query // self.subheads.get("q", 1)

    def partner(self, part: str, query: int) -> int:
        """Which head of a part goes with one of Q, where both may be divided further."""
        if part == "q":
            return query
        own, kv_head = self.subheads.get(part, 1), self.kv_head(self.whole_head(query))
        if self.subheads_apart:
            return query // self.num_heads % own * self.num_kv_heads + kv_head
        return kv_head * own + query % self.subheads.get("q", 1) % own

    def width(self, part: str) -> int:
        """Rows of one head of a part."""
        if part in self.widths:
            return self.widths[part]
        whole = self.v_head_dim if part in V_SIDE and self.v_head_dim is not None else self.head_dim
        return whole // self.subheads.get(part, 1)


HEADED = frozenset({"q", "k", "v", *SHARED, "gate", "vgate"})
"""Parts that consist of heads; any other takes the rows that are left over."""

Rows = Mapping[str, tuple[range, ...]]
"""For each part, the rows of each of its heads, in the order of the heads."""


def split_rows(packing: Packing, geometry: Geometry, total: int) -> Rows:
    """Say which rows of a tensor with ``total`` output rows belong to which head of which part.

    Shared parts appear under each name they stand for. Rows that are not attention appear as one
    "head" of their own name.

    Raises:
        LayoutError: the geometry does not fill ``total`` rows under this packing.
    """
    split = _split if geometry.num_heads > _MANY else _split_and_remember
    return split(packing, geometry, total)


_MANY = 256
"""Heads above which it is only asked to try whether they fit, and takes much memory."""


def _split(packing: Packing, geometry: Geometry, total: int) -> Rows:
    groups, slots = slots_of(packing, geometry, total)
    size = sum(heads * width for _, heads, width in slots)
    if size * groups != total:
        raise LayoutError(
            f"{'+'.join(packing.order)} in {groups} group(s) does not fill the output axis",
            expected=f"{size * groups} rows for {describe(geometry)}",
            found=f"{total} rows",
        )
    rows: dict[str, list[range]] = {}
    by_rows = packing.groups == "rows"
    for group in range(1 if by_rows else groups):
        start = group * size
        for slot, (part, heads, width) in enumerate(slots):
            for head in range(heads):
                if packing.slot_innermost and by_rows:
                    run = range(start + head * len(slots) + slot, total, size)
                elif packing.slot_innermost:
                    run = range(start + slot, start + size, len(slots))
                elif by_rows:
                    run = range(start + head, total, size)
                elif packing.heads_innermost:
                    run = range(start + head, start + heads * width, heads)
                else:
                    run = range(start + head * width, start + (head + 1) * width)
                for name in SHARED.get(part, (part,)):
                    rows.setdefault(name, []).append(run)
            if not packing.slot_innermost:
                start += heads * width
    return {part: tuple(runs) for part, runs in rows.items()}


_split_and_remember = lru_cache(64)(_split)
"""The layers of a stack are split alike, and share their ranges."""


def slots_of(packing: Packing, geometry: Geometry, total: int) -> tuple[int, list[tuple[str, int, int]]]:
    """The number of groups, and (part, heads, width) of each slot of one group.

    Raises:
        LayoutError: the heads cannot be shared out over the groups.
    """
    if packing.groups == "rows":
        if any(part not in HEADED or geometry.width(part) != geometry.head_dim for part in packing.order):
            raise LayoutError("parts of which each head has a row in turn need heads of equal width")
        if packing.slot_innermost and len({geometry.heads(part) for part in packing.order}) > 1:
            raise LayoutError("parts that alternate row by row need as many heads each")
        return geometry.head_dim, [(part, geometry.heads(part), 1) for part in packing.order]
    match packing.groups:
        case "one":
            groups = 1
        case "heads":
            groups = geometry.num_heads
        case "kv_heads":
            groups = geometry.num_kv_heads
        case int(groups):
            pass
    headed: list[tuple[str, int, int]] = []
    for part in packing.order:
        if part in HEADED:
            heads, left = divmod(geometry.heads(part), groups)
            if left:
                raise LayoutError(f"{geometry.heads(part)} heads of {part} cannot be shared out over {groups} groups")
            headed.append((part, heads, geometry.width(part)))
    others = len(packing.order) - len(headed)
    spare = total // groups - sum(heads * width for _, heads, width in headed)
    if others and (spare <= 0 or spare % others):
        raise LayoutError(f"no rows are left beside {describe(geometry)}", found=f"{total} rows")
    sized = iter(headed)
    slots = [next(sized) if part in HEADED else (part, 1, spare // others) for part in packing.order]
    if packing.slot_innermost and {(heads, width) for _, heads, width in slots} != {(1, geometry.head_dim)}:
        raise LayoutError("parts that alternate row by row need one head of equal width each per group")
    return groups, slots


def describe(geometry: Geometry) -> str:
    """The sizes in words: ``8 heads x 64`` or ``32 heads over 8 kv heads x 128``."""
    kv = (
        ""
        if geometry.num_kv_heads == geometry.num_heads
        else f" over {geometry.num_kv_heads} kv head{'s' * (geometry.num_kv_heads > 1)}"
    )
    heads = "1 head" if geometry.num_heads == 1 else f"{geometry.num_heads} heads"
    return f"{heads}{kv} x {geometry.head_dim}"


def span(run: range) -> str:
    """A half-open run of rows as a slice: ``0:64``, with the step where it is not 1."""
    return f"{run.start}:{run.stop}" + (f":{run.step}" if run.step != 1 else "")


def merge(runs: Iterable[range]) -> tuple[range, ...]:
    """Join neighbouring runs: ``[0:64), [64:128)`` become ``[0:128)``. Order is kept."""
    merged: list[range] = []
    for run in runs:
        last = merged[-1] if merged else None
        if last is not None and last.stop == run.start and last.step == run.step == 1:
            merged[-1] = range(last.start, run.stop)
        elif len(run):
            merged.append(run)
    return tuple(merged)
