"""What a checkpoint is: the file, its layouts and heads, and how many parameters and bytes each part has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from pathlib import PurePath

from qkvinspect.inspection.report import Attention, Report
from qkvinspect.render import labels, text
from qkvinspect.render.html.markup import Markup, Section, joined, section, table, tag
from qkvinspect.render.html.side import PageSide
from qkvinspect.version import __version__
from qkvinspect.weights.weight import Weight

_MODULES = ("layers", "modules", "layout", "stored", "heads", "width", "logit bound rests on")
_SIZES = ("part", "parameters", "bytes", "share")
_NUMERIC = frozenset({"modules", "width", "parameters", "bytes", "share"})
_PARTS = ("Q", "K", "V")
_NAMED = 3

_Size = tuple[int, int]
"""Parameters and bytes."""


def facts(sides: Sequence[PageSide], made: date) -> Iterator[Markup]:
    """Above everything: each file in a line, its digest, and the day."""
    for side in sides:
        line = text.headline(side.report).replace("  ", " · ")
        yield tag("p", f"{side.label}: {line}" if side.label else line, class_="facts")
        yield from _digests(side)
    yield tag("p", f"Made by qkvinspect {__version__} on ", tag("time", made.isoformat()), ".", class_="note digest")


def _digests(side: PageSide) -> Iterator[Markup]:
    shown = [tag("span", tag("code", digest), f" {PurePath(name).name}") for name, digest in side.digests]
    if len(shown) == 1:
        yield tag("p", "sha256 ", tag("code", side.digests[0][1]), class_="note digest")
    elif shown:
        lines = joined(tag("li", line) for line in shown)
        yield tag("details", tag("summary", f"sha256 of {len(shown)} files"), tag("ul", lines), class_="note digest")


def summary(sides: Sequence[PageSide]) -> Section:
    """The last section: what the file holds besides, and how large each part is."""
    told = [dict(_facts(side)) for side in sides]
    columns = ("file", *(fact.pop("file") for fact in told))
    names = dict.fromkeys(name for fact in told for name in fact)
    rows = [(name, *(fact.get(name, "") for fact in told)) for name in names]
    inner = [table(columns, rows, "Where it comes from")]
    for side in sides:
        of = f" of {side.label}" if side.label else ""
        if side.report.attentions:
            inner.append(table(_MODULES, _modules(side), f"Attention modules{of}", _NUMERIC))
    sizes = [
        table(_SIZES, _sizes(side.report), f"Parameters and bytes {side.label}".rstrip(), _NUMERIC) for side in sides
    ]
    inner.append(tag("div", *sizes, class_="sides"))
    return section("summary", "Summary", joined(inner))


def _facts(side: PageSide) -> Iterator[tuple[str, str]]:
    report, checkpoint = side.report, side.report.checkpoint
    yield "file", f"{side.label}: {checkpoint.path}" if side.label else checkpoint.path
    yield "format", checkpoint.format
    if checkpoint.container:
        yield "state_dict", checkpoint.container
    others = [one for one in checkpoint.containers if one.path != checkpoint.container]
    if others:
        yield (
            "also holds",
            ", ".join(f"{one.path} ({one.role}, {text.count(one.num_tensors, 'tensor')})" for one in others),
        )
    if checkpoint.num_files > 1:
        yield "files", str(checkpoint.num_files)
    yield "size", text.size(checkpoint.num_bytes)
    yield "tensors", f"{len(checkpoint.tensors):,}"
    yield "attention modules", f"{len(report.attentions)}{' selected' if report.selected else ''}"
    if checkpoint.configs:
        yield "hyper-parameters from", ", ".join(dict.fromkeys(config.origin for config in checkpoint.configs))


def _modules(side: PageSide) -> Iterator[tuple[str, ...]]:
    """Modules that are alike in one row."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for one in side.report.attentions:
        figures = side.by_layer.get(one.layer)
        bound = (f"{figures.missing}: {figures.why}" if figures.why else figures.bound_from) if figures else "-"
        width = "-" if one.embed_dim is None else str(one.embed_dim)
        key = (text.layout(one), text.stored(one), text.heads(one), width, bound)
        alike.setdefault(key, []).append(one.layer)
    for key, names in alike.items():
        yield (_named(names), str(len(names)), *key)


def _named(names: Sequence[str]) -> str:
    place, rest = labels.shared(names)
    if place:
        return f"{place} ({rest[0]} to {rest[-1]})"
    return ", ".join(text.layer(name) for name in names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _sizes(report: Report) -> Iterator[tuple[str, str, str, str]]:
    """Each tensor counts once, however many layers use it."""
    parts = dict(_counted(report.attentions))
    whole = _total(report.weights[name] for name in report.weights)
    packed = _total({info.name: info for one in report.attentions for info in one.weights}.values())
    beside = _less(packed, [parts[name] for name in _PARTS if name in parts])
    if beside[0] > 0:
        parts["other rows of the same tensors"] = beside
    parts["everything else"] = _less(whole, list(parts.values()))
    for name, (count, nbytes) in (*parts.items(), ("all", whole)):
        share = f"{100 * nbytes / whole[1]:.1f} %" if whole[1] else "-"
        yield name, f"{count:,}", text.size(nbytes), share


def _counted(attentions: Iterable[Attention]) -> Iterator[tuple[str, _Size]]:
    rows: dict[str, dict[object, _Size]] = {name: {} for name in (*_PARTS, "output", "biases of Q, K and V")}
    for one in attentions:
        for part in one.parts:
            size = part.shape[0] * part.shape[1]
            rows[part.name.upper()][part.weight.name] = _size(part.weight, size)
            if part.bias is not None:
                entries = sum(map(len, part.bias_heads))
                rows["biases of Q, K and V"][part.bias.name, part.name] = _size(part.bias, entries)
        if one.out is not None:
            rows["output"][one.out.name] = _size(one.out, one.out.numel)
    for name, found in rows.items():
        if found:
            yield name, _sum(found.values())


def _size(weight: Weight, elements: int) -> _Size:
    if weight.encoding is None:
        return elements * weight.dtype.values, weight.dtype.nbytes(elements)
    return elements, weight.nbytes * elements // max(weight.numel, 1)


def _total(weights: Iterable[Weight]) -> _Size:
    return _sum(_size(weight, weight.numel) for weight in weights)


def _sum(sizes: Iterable[_Size]) -> _Size:
    known = list(sizes)
    return sum(count for count, _ in known), sum(nbytes for _, nbytes in known)


def _less(whole: _Size, parts: Iterable[_Size]) -> _Size:
    taken = _sum(parts)
    return whole[0] - taken[0], whole[1] - taken[1]
