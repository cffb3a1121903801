"""Figures of heads as tables: a row a head, and the heads of alike layers below each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os.path import commonprefix

from qkvinspect.analysis import Analysis, Column, HeadFigures, LayerFigures, Similar, column
from qkvinspect.fast_tuple import NamedTuple
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

_SPARE = (
    "V",
    "K",
    "Q",
    "OV rank",
    "QK rank",
    "QK like",
    "OV like",
    "symmetric",
    "",
    "median",
    "zeros",
    "values",
    "bytes",
)
"""Columns that a narrow terminal does without, the last first."""

_TOP, _AROUND = 6, 5
"""Lines above all layers, and of a table besides its rows."""


class Shown(NamedTuple):
    """What holds for the rows of all layers.

    Attributes:
        ranked: the figure that has a bar beside it.
        most: its greatest value, which has the longest bar.
        grouped: whether heads share those of K and V anywhere.
    """

    ranked: Column
    most: float
    grouped: bool

    @property
    def keys(self) -> list[str]:
        """The other figures."""
        return [key for key in _SHOWN if key != self.ranked.key]

    @property
    def title(self) -> str:
        """Of the ranked figure."""
        return _SHOWN.get(self.ranked.key, self.ranked.key.replace("_", " "))


def shown(analysis: Analysis) -> Shown:
    """Looked up once: there is a row for every head of a model."""
    ranked = analysis.sort or column("logit_bound")
    most = max((abs(ranked.of(head) or 0.0) for layer in analysis.layers for head in layer.heads), default=0.0)
    sizes = (attention.heads for attention in analysis.report.attentions)
    return Shown(ranked, most, any(one is not None and one.num_kv_heads != one.num_heads for one in sizes))


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
    look = shown(analysis)
    for stack in stacks:
        differs = alike_names.varied([layer.layer for layer in stack])
        name = text.layer(alike_names.name(stack[0].layer, differs))
        note = f"  {text.count(len(stack), 'layer')}" * (len(stack) > 1)
        yield Chapter(name, tuple(_blocks(look, stack, differs, rows, wide)), note)


def _stacks(layers: Sequence[LayerFigures]) -> list[list[LayerFigures]]:
    groups: dict[tuple[str, int, str, str], list[LayerFigures]] = {}
    for layer in layers:
        every = [True] * len(alike_names.NUMBER.findall(layer.layer))
        alike = (alike_names.stem(layer.layer), len(layer.heads), _bound(layer, every), layer.why)
        groups.setdefault(alike, []).append(layer)
    return list(groups.values())


def _bound(layer: LayerFigures, differs: Sequence[bool]) -> str:
    """What the bound rests on, with ``*`` for the layer's own numbers: its norm has the same ones in its name."""
    said = f"{layer.bound_from} "
    words = (said[at + 1 :] for at, letter in enumerate(said) if letter == " ")
    shared = (commonprefix([f"{layer.layer}.", word]) for word in words)  # noqa: RUF071  (of texts)
    prefix = max((text[: text.rfind(".") + 1] for text in shared), key=len, default="")
    if not prefix:
        return layer.bound_from
    return layer.bound_from.replace(f" {prefix}", f" {alike_names.name(prefix, differs)}")


def _blocks(
    look: Shown, stack: Sequence[LayerFigures], differs: Sequence[bool], rows: int, wide: bool
) -> Iterator[Block]:
    """What holds for all layers of a stack, and a table of them.

    Args:
        rows: of layers, where heads have none of their own.
    """
    first = stack[0]
    if first.why:
        yield TextLine(f"{first.missing}: {first.why}")
    if not first.heads:
        return
    if first.bound_from:
        yield FactList((f"bound: {_bound(first, differs)}",))
    labelled = [(alike_names.label(layer.layer, differs), layer) for layer in stack]
    if rows:
        size = -(-len(stack) // rows)
        runs = (labelled[start : start + size] for start in range(0, len(stack), size))
        yield table(
            ("layer", *(_SHOWN[key] for key in look.keys), look.title), [_folded(look, run) for run in runs], wide
        )
        yield TextLine("each row has the range over all heads: --layer shows single heads, --format csv all", "dim")
    else:
        found = [row for label, layer in labelled for row in _of_layer(look, label, layer)]
        yield table(("layer", *titles(look)), found, wide)


def _of_layer(look: Shown, label: str, layer: LayerFigures) -> Iterator[tuple[str, ...]]:
    """Its whole parts, and each head."""
    whole = {f"{name}_spectral_norm": text.number(spectrum.largest) for name, spectrum in layer.parts}
    kv = ("",) if look.grouped else ()
    yield (label, "all", *kv, *(whole.get(key, "") for key in look.keys), "", "", "", "")
    for head in layer.heads:
        yield ("", *cells(look, head))


def _folded(look: Shown, run: Sequence[tuple[str, LayerFigures]]) -> tuple[str, ...]:
    """The ranges over all heads of neighbouring layers."""
    heads = [head for _, layer in run for head in layer.heads]
    columns = [*map(column, look.keys), look.ranked]
    values = [[value for head in heads if (value := one.of(head)) is not None] for one in columns]
    return (folding.label([label for label, _ in run]), *map(folding.span, values))


def table(columns: tuple[str, ...], rows: Sequence[Sequence[str]], wide: bool) -> DataTable:
    """A table of which a narrow terminal leaves columns out, unless all are wanted."""
    spare = () if wide else tuple(columns.index(title) for title in _SPARE if title in columns)
    right = tuple(column not in ("layer", "part", "histogram", "") for column in columns)
    names = tuple(i for i, title in enumerate(columns) if title == "layer")
    return DataTable(columns, rows, right, spare=spare, names=names)


def titles(look: Shown) -> tuple[str, ...]:
    """Of ``cells``; the last has no title, as it is the bar of the one before it."""
    kv = ("kv head",) if look.grouped else ()
    return ("head", *kv, *(_SHOWN[key] for key in look.keys), "QK like", "OV like", look.title, "")


def cells(look: Shown, head: HeadFigures) -> tuple[str, ...]:
    """One head."""
    kv = (str(head.kv_head),) if look.grouped else ()
    figures = (_number(column(name).of(head)) for name in look.keys)
    likes = (_like(head.similar_qk), _like(head.similar_ov))
    ranked = look.ranked.of(head)
    return (str(head.head), *kv, *figures, *likes, _number(ranked), bar(ranked, look.most))


def bar(value: float | None, most: float) -> str:
    """A value as a bar of up to BAR characters."""
    eighths = round(abs(value) / most * BAR * 8) if value and most else 0
    return "█" * (eighths // 8) + ("▏▎▍▌▋▊▉"[eighths % 8 - 1] if eighths % 8 else "")


def _number(value: float | None) -> str:
    return "-" if value is None else text.number(value)


def _like(similar: Similar | None) -> str:
    return "-" if similar is None else f"{similar.head} ({similar.cosine:z.2f})"
