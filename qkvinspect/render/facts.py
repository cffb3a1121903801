"""The facts about a layer's heads side by side, and how they were weighed: for ``explain`` and ``show --why``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qkvinspect.inspection.report import Attention, Report
from qkvinspect.inspection.weighed import WeighedFact
from qkvinspect.layouts.packing import describe
from qkvinspect.render import text
from qkvinspect.render.document import Cell, DataTable

COLUMNS = ("source", "says", "verdict")

_WORDS = {
    "used": "the number of heads was taken from it",
    "agrees": "says the same",
    "says otherwise": "says otherwise: a more trusted source was taken",
    "not used": "was not used",
}
"""What became of a fact, by its verdict in the JSON contract."""


def table(attention: Attention) -> DataTable:
    """A row a source, the most trusted first; the last one is what the stored rows themselves allow."""
    rows = [tuple(map(text.clean, row)) for row in _rows(attention)]
    right = (False,) * len(COLUMNS)
    odd = {row for row, fact in zip(rows, attention.weighed_facts, strict=False) if fact.verdict == "says otherwise"}
    return DataTable(COLUMNS, rows, right, lambda row: row in odd, stacked=True)


def are_worth_showing(attention: Attention) -> bool:
    """Whether there is more to say than that the one source that there is was used."""
    known = attention.weighed_facts
    return len(known) > 1 or any(fact.verdict != "used" or fact.why for fact in known)


def records(report: Report) -> Iterator[Sequence[Cell]]:
    """The same of every module, for spreadsheets."""
    yield "layer", "num_heads", "num_heads_from", *COLUMNS
    for attention in report.attentions:
        heads = attention.heads.num_heads if attention.heads else None
        yield from ((attention.layer, heads, attention.heads_from, *row) for row in _rows(attention))


def added(report: Report) -> dict[str, object]:
    """The JSON contract of the report, with the facts of every module."""
    found = report.to_dict()
    told = [{"layer": one.layer, "facts": [fact.to_dict() for fact in one.weighed_facts]} for one in report.attentions]
    return {**found, "weighed": told}


def _rows(attention: Attention) -> Iterator[tuple[str, str, str]]:
    for fact in attention.weighed_facts:
        yield fact.source, fact.says, _outcome(fact)
    yield "shapes", _stored(attention), _allowed(attention)


def _outcome(fact: WeighedFact) -> str:
    return f"{_WORDS[fact.verdict]}: {fact.why}" if fact.why else _WORDS[fact.verdict]


def _stored(attention: Attention) -> str:
    parts = [f"{part.name.upper()} {part.shape[0]} rows" for part in attention.parts]
    return ", ".join(parts or [f"{weight.name} {list(weight.shape)}" for weight in attention.weights])


def _allowed(attention: Attention) -> str:
    if attention.heads is not None:
        return f"fit {describe(attention.heads)}"
    if not attention.parts:
        return "Q, K and V cannot be told apart without the number of heads"
    possible = attention.possible_heads
    more = ", ..." if len(possible) > 16 else ""
    return f"allow {', '.join(map(str, possible[:16]))}{more} heads" if possible else "no number of heads fits"
