"""Which kv head a head uses, where several share one: its neighbours' one, or heads are tiled over the kv heads."""

from __future__ import annotations

from collections.abc import Iterator

from qkvinspect.fast_dataclass import replace
from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import Finding
from qkvinspect.inspection.facts.fact import SaidBy
from qkvinspect.inspection.report import Attention
from qkvinspect.inspection.verdict import Verdict
from qkvinspect.layouts.layout import tiled_by_name


def with_pairing(attention: Attention, heads: Verdict | None) -> Attention:
    """The module with which kv head a head uses, if its weights tell."""
    geometry = attention.heads
    said = heads.tiled(geometry.num_heads) if geometry is not None and heads is not None else None
    if geometry is None or said is None:
        return attention
    return replace(attention, geometry=replace(geometry, tiled=said))


def about_pairing(attention: Attention, heads: Verdict | None) -> Iterator[Finding]:
    """Where heads use other kv heads than the layout has them."""
    known = attention.heads
    said = heads.tiled(known.num_heads) if heads is not None and known is not None else None
    if known is None or said is None or attention.layout is None or attention.heads_said_by is SaidBy.WEIGHTS:
        return
    declared = tiled_by_name(attention.layout, attention.layer)
    if declared is not None and declared is not said:
        share = known.num_heads // known.num_kv_heads
        forms = {False: f"h//{share}", True: f"h % {known.num_kv_heads}"}
        fewer = f" (or {share} heads over one kv head)" if said else ""
        text = f"the layout has head h use kv head {forms[declared]}, the weights say {forms[said]}{fewer}"
        yield Finding(
            FindingCode.HEADS_AGAINST_WEIGHTS, f"{text} (`qkvinspect explain --evidence` shows why)", attention.layer
        )
