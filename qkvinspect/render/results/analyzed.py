"""Figures of heads as tables: a row a head, and the heads of alike layers below each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qkvinspect.analysis import Analysis, Column, HeadFigures, LayerFigures, Similar, column
from qkvinspect.render import alike_names, folding, text
from qkvinspect.render.document import Block, Chapter, DataTable, FactList, TextLine

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

_SPARE = ("V", "K", "Q", "OV rank", "QK rank", "QK like", "OV like", "symmetric", "")
"""Columns that a narrow terminal does without, the last first."""

_TOP, _AROUND = 6, 5
"""Lines above all layers, and of a table besides its rows."""


def chapters(analysis: Analysis, lines: int | None, wide: bool) -> Iterator[Chapter]:
    """The figures of all layers, those of alike layers in one table.

    Args:
        lines: how many a reader may want to look at: if there are more heads, those of a layer share a row.
        wide: with all columns, however many a terminal has room for.
    """
    stacks = _stacks(analysis.layers)
    lines = None if lines is None else lines - _TOP - _AROUND * len(stacks)
    folded = lines is not None and sum(len(layer.heads) + 1 for layer in analysis.layers) > lines
    rows = folding.rooms(list(map(len, stacks)), lines) if folded and lines is not None else 0
    for stack in stacks:
        differs = alike_names.varied([layer.layer for layer in stack])
        name = text.layer(alike_names.name(stack[0].layer, differs))
        note = f"  {text.count(len(stack), 'layer')}" * (len(stack) > 1)
        yield Chapter(name, tuple(_blocks(analysis, stack, differs, rows, wide)), note)


def _stacks(layers: Sequence[LayerFigures]) -> list[list[LayerFigures]]:
    groups: dict[tuple[str, int, str, str], list[LayerFigures]] = {}
    for layer in layers:
        alike = (alike_names.stem(layer.layer), len(layer.heads), layer.bound_from, layer.why)
        groups.setdefault(alike, []).append(layer)
    return list(groups.values())


def _blocks(
    analysis: Analysis, stack: Sequence[LayerFigures], differs: Sequence[bool], rows: int, wide: bool
) -> Iterator[Block]:
    """What holds for all layers of a stack, and a table of them.

    Args:
        rows: of layers, where heads have none of their own.
    """
    first = stack[0]
    if first.why:
        yield TextLine(f"no figures: {first.why}")
        return
    yield FactList((f"bound: {first.bound_from}",))
    labelled = [(alike_names.label(layer.layer, differs), layer) for layer in stack]
    if rows:
        size = -(-len(stack) // rows)
        runs = (labelled[start : start + size] for start in range(0, len(stack), size))
        yield table(_folded_titles(analysis), [_folded(analysis, run) for run in runs], wide)
        yield TextLine("each row has the range over all heads: --layer shows single heads, --format csv all", "dim")
    else:
        found = [row for label, layer in labelled for row in _of_layer(analysis, label, layer)]
        yield table(("layer", *titles(analysis)), found, wide)


def _of_layer(analysis: Analysis, label: str, layer: LayerFigures) -> Iterator[tuple[str, ...]]:
    """Its whole parts, and each head."""
    kv = ("",) if _grouped(analysis) else ()
    whole = dict(layer.parts)
    cells_of = [
        text.number(whole[key[0]].largest) if _is_whole(key) and key[0] in whole else "" for key in _keys(analysis)
    ]
    yield (label, "all", *kv, *cells_of, "", "", "", "")
    greatest = most(analysis)
    for head in layer.heads:
        yield ("", *cells(analysis, head, greatest))


def _keys(analysis: Analysis) -> list[str]:
    return [key for key in _SHOWN if key != _ranked_by(analysis).key]


def _is_whole(key: str) -> bool:
    """Whether it is a figure of Q, K or V, which the whole part has as well."""
    return key in ("q_spectral_norm", "k_spectral_norm", "v_spectral_norm")


def _folded_titles(analysis: Analysis) -> tuple[str, ...]:
    ranked = _ranked_by(analysis).key
    return ("layer", *(_SHOWN[key] for key in _keys(analysis)), _SHOWN.get(ranked, ranked.replace("_", " ")))


def _folded(analysis: Analysis, run: Sequence[tuple[str, LayerFigures]]) -> tuple[str, ...]:
    """The ranges over all heads of neighbouring layers."""
    heads = [head for _, layer in run for head in layer.heads]
    columns = [*map(column, _keys(analysis)), _ranked_by(analysis)]
    values = [[value for head in heads if (value := one.of(head)) is not None] for one in columns]
    return (folding.label([label for label, _ in run]), *map(folding.span, values))


def table(columns: tuple[str, ...], rows: Sequence[Sequence[str]], wide: bool) -> DataTable:
    """A table of which a narrow terminal leaves columns out, unless all are wanted."""
    spare = () if wide else tuple(columns.index(title) for title in _SPARE if title in columns)
    right = tuple(column not in ("layer", "part", "histogram", "") for column in columns)
    return DataTable(columns, rows, right, spare=spare)


def titles(analysis: Analysis) -> tuple[str, ...]:
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


def _ranked_by(analysis: Analysis) -> Column:
    """The figure that has a bar beside it."""
    return analysis.sort or column("logit_bound")


def _grouped(analysis: Analysis) -> bool:
    """Whether heads share those of K and V anywhere."""
    sizes = (attention.heads for attention in analysis.report.attentions)
    return any(one is not None and one.num_kv_heads != one.num_heads for one in sizes)


def _number(value: float | None) -> str:
    return "-" if value is None else text.number(value)


def _like(similar: Similar | None) -> str:
    return "-" if similar is None else f"{similar.head} ({similar.cosine:z.2f})"
