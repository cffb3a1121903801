"""``analyze``: the figures of each head, the heads that rank first, or the values of each part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qkvinspect.analysis import COLUMNS, Analysis, Values
from qkvinspect.analysis.values import QUANTILES
from qkvinspect.render import text
from qkvinspect.render.document import Block, Cell, Chapter, Document, TextLine
from qkvinspect.render.results import analyzed
from qkvinspect.render.results.show import findings, summary

LEGEND = "Q, K, V, QK, OV: spectral norms; rank: effective rank; like: the most similar head and the cosine"

VALUE_COLUMNS = ("part", "head", "values", "bytes", "mean", "std", "min", "median", "max", "zeros", "histogram")


_VALUES = ("count", "num_bytes", "nonfinite", "mean", "std", "least", "greatest", "zeros")


def document(analysis: Analysis, *, per_head: bool = False, lines: int | None = None, wide: bool = False) -> Document:
    """An analysis.

    Args:
        per_head: with a row for each head where it is of values; the CSV and the JSON always have them.
        lines: how many a reader may want to look at: where there are more heads, a row has all heads of a layer, or of
            neighbouring layers.
        wide: with all columns, however many a terminal has room for.
    """
    return Document(
        "analyze",
        blocks=lambda: _blocks(analysis, per_head, lines, wide),
        records=lambda: _value_records(analysis) if analysis.values else _records(analysis),
        data=analysis.to_dict,
    )


def _blocks(analysis: Analysis, per_head: bool, lines: int | None, wide: bool) -> Iterator[Block]:
    yield from summary(analysis.report)
    if not analysis.report.attentions:
        yield TextLine("No attention was found in it: no tensor has a name that a known layout uses.")
    elif analysis.values:
        yield from _values(analysis, per_head, wide)
    elif analysis.sort is not None:
        yield from _ranking(analysis, wide)
    else:
        yield TextLine(LEGEND, "dim")
        yield from analyzed.chapters(analysis, lines, wide)
    yield from findings(analysis.report)


def _ranking(analysis: Analysis, wide: bool) -> Iterator[Block]:
    yield TextLine(LEGEND, "dim")
    look = analyzed.shown(analysis)
    yield TextLine("")
    ranked = [(layer.layer, *analyzed.cells(look, head)) for layer, head in analysis.ranked()]
    yield analyzed.table(("layer", *analyzed.titles(look)), ranked, wide)


def _values(analysis: Analysis, per_head: bool, wide: bool) -> Iterator[Block]:
    for attention, found in zip(analysis.report.attentions, analysis.values, strict=True):
        block = analyzed.table(VALUE_COLUMNS, list(_value_cells(found, per_head)), wide)
        nothing = TextLine(f"no values: {attention.dtype} has none without its scale")
        yield Chapter(text.layer(attention.layer), (block if found else nothing,))


def _records(analysis: Analysis) -> Iterator[Sequence[Cell]]:
    """One a head, with every figure."""
    others = ["similar_qk_head", "similar_ov_head"]
    yield ["layer", "head", "kv_head", *(column.key for column in COLUMNS), *others]
    for layer, head in analysis.ranked():
        similar = (one.head if one else None for one in (head.similar_qk, head.similar_ov))
        yield [layer.layer, head.head, head.kv_head, *(column.of(head) for column in COLUMNS), *similar]


def _value_records(analysis: Analysis) -> Iterator[Sequence[Cell]]:
    """One a part, and one a head."""
    yield ["layer", "part", "head", *_VALUES, *(f"quantile_{share:g}" for share in QUANTILES)]
    for attention, found in zip(analysis.report.attentions, analysis.values, strict=True):
        for one in found:
            figures = (getattr(one, name) for name in _VALUES)
            yield [attention.layer, one.part, one.head, *figures, *one.quantiles]


def _value_cells(found: Sequence[Values], per_head: bool) -> Iterator[tuple[str, ...]]:
    """Under VALUE_COLUMNS."""
    for one in found:
        if one.head is None or per_head:
            yield (
                one.part.upper(),
                "all" if one.head is None else str(one.head),
                f"{one.count:,}",
                text.size(one.num_bytes),
                *map(text.number, (one.mean, one.std, one.least, one.quantiles[2], one.greatest)),
                f"{100 * one.zeros:.3g} %",
                _histogram(one.histogram),
            )


def _histogram(counts: Sequence[int]) -> str:
    most = max(counts)
    return "".join(" ▁▂▃▄▅▆▇█"[-(-count * 8 // most)] if most else " " for count in counts)
