"""``analyze``: the figures of each head, the heads that rank first, or the values of each part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qkvinspect.analysis import COLUMNS, Analysis, Column, HeadFigures, LayerFigures, Similar, Values, column
from qkvinspect.analysis.values import QUANTILES
from qkvinspect.render import text
from qkvinspect.render.document import Block, Cell, Chapter, DataTable, Document, FactList, TextLine
from qkvinspect.render.results.show import findings, summary

BAR = 8

_SHOWN = {
    "q_spectral_norm": "Q",
    "k_spectral_norm": "K",
    "v_spectral_norm": "V",
    "qk_spectral_norm": "QK",
    "qk_effective_rank": "QK rank",
    "symmetric": "symmetric",
    "logit_bound": "logit bound",
    "ov_spectral_norm": "OV",
    "ov_effective_rank": "OV rank",
}
"""The figures of the tables, with short titles: a name alone is its spectral norm, "rank" the effective one."""

LEGEND = "Q, K, V, QK, OV: spectral norms; rank: effective rank; like: the most similar head and the cosine"

VALUE_COLUMNS = ("part", "head", "values", "bytes", "mean", "std", "min", "median", "max", "zeros", "histogram")


_VALUES = ("count", "num_bytes", "nonfinite", "mean", "std", "least", "greatest", "zeros")


def document(analysis: Analysis, *, per_head: bool = False) -> Document:
    """An analysis.

    Args:
        per_head: with a row for each head where it is of values; the CSV and the JSON always have them.
    """
    return Document(
        "analyze",
        blocks=lambda: _blocks(analysis, per_head),
        records=lambda: _value_records(analysis) if analysis.values else _records(analysis),
        data=analysis.to_dict,
    )


def _blocks(analysis: Analysis, per_head: bool) -> Iterator[Block]:
    yield from summary(analysis.report)
    if not analysis.report.attentions:
        yield TextLine("No attention was found in it: no tensor has a name that a known layout uses.")
    elif analysis.values:
        yield from _values(analysis, per_head)
    elif analysis.sort is not None:
        yield from _ranking(analysis)
    else:
        yield from _figures(analysis)
    yield from findings(analysis.report)


def _figures(analysis: Analysis) -> Iterator[Block]:
    yield TextLine(LEGEND, "dim")
    most = _most(analysis)
    titles = _titles(analysis)
    for layer in analysis.layers:
        blocks: list[Block] = [FactList((_facts(layer),))]
        if layer.heads:
            blocks.append(_table(titles, [_cells(analysis, head, most) for head in layer.heads]))
        yield Chapter(text.layer(layer.layer), tuple(blocks))


def _ranking(analysis: Analysis) -> Iterator[Block]:
    yield TextLine(LEGEND, "dim")
    most = _most(analysis)
    yield TextLine("")
    ranked = [(layer.layer, *_cells(analysis, head, most)) for layer, head in analysis.ranked()]
    yield _table(("layer", *_titles(analysis)), ranked)


def _values(analysis: Analysis, per_head: bool) -> Iterator[Block]:
    for attention, found in zip(analysis.report.attentions, analysis.values, strict=True):
        block = _table(VALUE_COLUMNS, list(_value_cells(found, per_head)))
        nothing = TextLine(f"no values: {attention.dtype} has none without its scale")
        yield Chapter(text.layer(attention.layer), (block if found else nothing,))


def _table(columns: tuple[str, ...], rows: Sequence[Sequence[str]]) -> DataTable:
    return DataTable(columns, rows, tuple(column not in ("layer", "part", "histogram", "") for column in columns))


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


def _titles(analysis: Analysis) -> tuple[str, ...]:
    """Of ``_cells``; the last has no title, as it is the bar of the one before it."""
    key = _ranked_by(analysis).key
    shown = (title for name, title in _SHOWN.items() if name != key)
    kv = ("kv head",) if _grouped(analysis) else ()
    return ("head", *kv, *shown, "QK like", "OV like", _SHOWN.get(key, key.replace("_", " ")), "")


def _cells(analysis: Analysis, head: HeadFigures, most: float) -> tuple[str, ...]:
    """One head; ``most`` is as long as a bar gets."""
    ranked = _ranked_by(analysis)
    kv = (str(head.kv_head),) if _grouped(analysis) else ()
    figures = (_number(column(name).of(head)) for name in _SHOWN if name != ranked.key)
    likes = (_like(head.similar_qk), _like(head.similar_ov))
    return (str(head.head), *kv, *figures, *likes, _number(ranked.of(head)), bar(ranked.of(head), most))


def _most(analysis: Analysis) -> float:
    """The greatest value that has a bar."""
    of = _ranked_by(analysis).of
    return max((abs(of(head) or 0.0) for layer in analysis.layers for head in layer.heads), default=0.0)


def bar(value: float | None, most: float) -> str:
    """A value as a bar of up to BAR characters."""
    eighths = round(abs(value) / most * BAR * 8) if value and most else 0
    return "█" * (eighths // 8) + ("▏▎▍▌▋▊▉"[eighths % 8 - 1] if eighths % 8 else "")


def _facts(layer: LayerFigures) -> str:
    """What holds for the whole layer, in a line."""
    if layer.why:
        return f"no figures: {layer.why}"
    parts = (f"{name.upper()} {text.number(whole.largest)}" for name, whole in layer.parts)
    return text.clean(f"whole parts: {', '.join(parts)}  bound: {layer.bound_from}")


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


def _ranked_by(analysis: Analysis) -> Column:
    """The figure that has a bar beside it."""
    return analysis.sort or column("logit_bound")


def _grouped(analysis: Analysis) -> bool:
    """Whether heads share those of K and V anywhere."""
    sizes = (attention.heads for attention in analysis.report.attentions)
    return any(one is not None and one.num_kv_heads != one.num_heads for one in sizes)


def _histogram(counts: Sequence[int]) -> str:
    most = max(counts)
    return "".join(" ▁▂▃▄▅▆▇█"[-(-count * 8 // most)] if most else " " for count in counts)


def _number(value: float | None) -> str:
    return "-" if value is None else text.number(value)


def _like(similar: Similar | None) -> str:
    return "-" if similar is None else f"{similar.head} ({similar.cosine:z.2f})"
