"""The figures of an analysis as rows of text, for every format that has columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qkvinspect.analysis import Analysis, Column, HeadFigures, LayerFigures, Similar, Values, column
from qkvinspect.render import text

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


def columns(analysis: Analysis) -> tuple[str, ...]:
    """Of ``cells``; the last has no title, as it is the bar of the one before it."""
    key = _ranked_by(analysis).key
    shown = (title for name, title in _SHOWN.items() if name != key)
    kv = ("kv head",) if _grouped(analysis) else ()
    return ("head", *kv, *shown, "QK like", "OV like", _SHOWN.get(key, key.replace("_", " ")), "")


def cells(analysis: Analysis, head: HeadFigures, most: float) -> tuple[str, ...]:
    """One head; ``most`` is as long as a bar gets."""
    ranked = _ranked_by(analysis)
    kv = (str(head.kv_head),) if _grouped(analysis) else ()
    figures = (_number(column(name).of(head)) for name in _SHOWN if name != ranked.key)
    likes = (_like(head.similar_qk), _like(head.similar_ov))
    return (str(head.head), *kv, *figures, *likes, _number(ranked.of(head)), bar(ranked.of(head), most))


def most(analysis: Analysis) -> float:
    """The greatest value that has a bar."""
    of = _ranked_by(analysis).of
    return max((abs(of(head) or 0.0) for layer in analysis.layers for head in layer.heads), default=0.0)


def bar(value: float | None, most: float) -> str:
    """A value as a bar of up to BAR characters."""
    eighths = round(abs(value) / most * BAR * 8) if value and most else 0
    return "█" * (eighths // 8) + ("▏▎▍▌▋▊▉"[eighths % 8 - 1] if eighths % 8 else "")


def facts(layer: LayerFigures) -> str:
    """What holds for the whole layer, in a line."""
    if layer.why:
        return f"no figures: {layer.why}"
    parts = (f"{name.upper()} {text.number(whole.largest)}" for name, whole in layer.parts)
    return text.clean(f"whole parts: {', '.join(parts)}  bound: {layer.bound_from}")


def value_cells(found: Sequence[Values], per_head: bool) -> Iterator[tuple[str, ...]]:
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
