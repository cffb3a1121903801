"""Which rows or columns of the stored tensors are Q, K and V, as a picture, as a table and as code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qkvinspect.checkpoint import Checkpoint
from qkvinspect.inspection.report import Attention
from qkvinspect.render import strips, text
from qkvinspect.render.html.markup import Markup, Section, joined, section, table, tag
from qkvinspect.render.html.markup import text as markup_text
from qkvinspect.render.html.side import PageSide
from qkvinspect.render.results import show, stacks
from qkvinspect.render.results.stacks import AlikeLayers
from qkvinspect.render.slicing import pasteable
from qkvinspect.render.strips import Band, Strip
from qkvinspect.render.view import ViewOptions
from qkvinspect.render.writers import written

COLUMNS = ("part", "slice of the stored tensor", "heads", "as nn.Linear")

_MOST_STACKS = 12
"""More pictures tell no more."""

_MARKDOWN_LINES = 60
"""About as many as a reader of a model card looks through."""

_MOST_LINES = 48
"""Heads between which a line is drawn."""

_LABELLED = 0.035
"""The share of a strip that has room for a name."""

_APART = 0.075
"""The share of a strip that the number below one of its edges takes."""


def packings(sides: Sequence[PageSide]) -> Section:
    """The section: every stack of alike layers of every side."""
    inner: list[str] = []
    for side in sides:
        if side.label:
            inner.append(tag("h3", f"{side.label}: {side.report.checkpoint.path}"))
        inner += _stacks(side)
    return section("packing", "Which rows are Q, K and V", joined(inner))


def _stacks(side: PageSide) -> Iterator[Markup]:
    found = stacks.stacks(side.report.attentions)
    if not found:
        yield tag("p", f"No attention was found in {side.label or 'it'}.")
    for place, stack in enumerate(found[:_MOST_STACKS]):
        yield tag("article", heading(stack), *layer(stack.layers[0], side.report.checkpoint, opened=place < 2))
    if len(found) > _MOST_STACKS:
        yield tag("p", f"... and {len(found) - _MOST_STACKS} more kinds of layers; `qkvinspect show` has them all.")
    if found:
        document = show.document(side.report, lines=_MARKDOWN_LINES)
        lines = written(document, "markdown", ViewOptions()).splitlines()
        yield tag("details", tag("summary", "As Markdown, for a model card"), _code(lines))


def heading(stack: AlikeLayers) -> Markup:
    """What the layers of a stack are called, how many there are and what they have in common."""
    first = stack.layers[0]
    facts = [text.count(len(stack.layers), "layer"), text.layout(first), text.heads(first)]
    unlike = (tag("p", stack.unlike, class_="qi-note"),) if stack.unlike else ()
    return joined((tag("h3", text.layer(stack.name)), tag("p", " · ".join(facts), class_="qi-note"), *unlike))


def layer(attention: Attention, checkpoint: Checkpoint | None, *, opened: bool = True) -> Iterator[Markup]:
    """A layer: its strips, its parts, and the code where the file is known.

    Args:
        opened: whether the code is shown before anybody asks for it.
    """
    found = strips.strips(attention)
    if not found:
        yield tag("p", _unknown(attention))
        return
    widest = max(strip.size for strip in found)
    kind = "qi-strips qi-several" if len(found) > 1 else "qi-strips"
    yield tag("div", *(_strip(attention, strip, widest) for strip in found), class_=kind)
    yield tag("div", table(COLUMNS, _rows(attention, found), "Parts"), class_="qi-parts")
    lines = pasteable(attention, checkpoint) if checkpoint is not None else ()
    if lines:
        yield tag("details", tag("summary", "Code that slices it"), _code(lines), open=opened)


def _unknown(attention: Attention) -> str:
    """Why there is no picture."""
    if attention.layout is None and not attention.candidates:
        return f"It is {attention.may_be}."
    if attention.layout is None:
        return f"It may be {' or '.join(attention.candidates)}: --layout ID or --config FILE settles it."
    possible = ", ".join(map(str, attention.possible_heads[:16]))
    text = "The parts take turns head by head, so the number of heads is needed: --heads N."
    return f"{text} Possible: {possible}." if possible else text


def _rows(attention: Attention, found: Sequence[Strip]) -> Iterator[tuple[str, ...]]:
    for strip in found:
        for part in strip.parts:
            slices = tag("code", f"{strip.name}{strips.ranges(part)}")
            yield strips.title(part.name), slices, strips.heads(attention, part), text.shape(part.shape)


def _code(lines: Sequence[str]) -> Markup:
    button = tag("button", "Copy", type="button", class_="copy", hidden=True)
    return tag("div", button, tag("pre", tag("code", Markup("\n".join(map(markup_text, lines))))), class_="code")


def _strip(attention: Attention, strip: Strip, widest: int) -> Markup:
    name = tag("code", strips.stored(strip), class_="qi-name")
    runs = strip.runs()
    heads = attention.heads is not None
    drawn = [_run(strip, run, heads=heads, begins=run is not runs[0], alone=len(runs) < 2) for run in runs]
    share = f"width:{max(100 * strip.size / widest, 8):.3g}%"
    said = ", ".join(f"{strips.title(part.name)} {strip.axis_name} {text.rows(part.rows)}" for part in strip.parts)
    kind = "qi-bar qi-many" if len(runs) > len(strip.parts) + 1 else "qi-bar"
    bar = tag("div", *drawn, class_=kind, style=share, role="img", aria_label=said)
    ticks = tag("div", *_ticks(strip, runs), class_="qi-ticks", style=share, aria_hidden="true")
    cut = f"The first {strip.drawn} of {strip.size} {strip.axis_name}; they go on so."
    note = (tag("p", cut, class_="qi-note"),) if strip.drawn < strip.size else ()
    return tag("div", name, tag("div", bar, ticks, *note), class_="qi-strip")


def _run(strip: Strip, run: Band, *, heads: bool, begins: bool, alone: bool) -> Markup:
    """A stretch of one part, with a line before each of its heads.

    Args:
        begins: whether another one lies before it.
        alone: whether the strip has no other.
    """
    inside = [band for band in strip.bands if run.start <= band.start < run.stop]
    kind = run.part if run.part in ("q", "k", "v") else "more" if run.part else "none"
    classes, style = [f"qi-run qi-{kind}"], f"flex-grow:{run.size}"
    if heads and 1 < len(inside) <= _MOST_LINES and len({band.size for band in inside}) == 1:
        classes.append("qi-heads")
        style += f";background-size:{100 / len(inside):.5g}% 100%"
    if begins and run.part == strip.bands[0].part:
        classes.append("qi-begins")
    label = strips.title(run.part)
    if heads and len(inside) == 1 and inside[0].head is not None and not alone:
        label = f"{label} {inside[0].head}"
    shown = run.size >= _LABELLED * strip.drawn
    where = f"{strips.title(run.part)}: {strip.axis_name} {run.start}:{run.stop}"
    return tag("div", *((tag("span", label),) if shown else ()), class_=" ".join(classes), style=style, title=where)


def _ticks(strip: Strip, runs: Sequence[Band]) -> Iterator[Markup]:
    """The numbers of rows where one part ends and another begins, as far as there is room."""
    end = strip.drawn
    yield tag("span", "0", class_="qi-first", style="left:0")
    last = 0.0
    for run in runs[:-1]:
        share = run.stop / end
        if share - last >= _APART and 1 - share >= _APART:
            last = share
            yield tag("span", str(run.stop), style=f"left:{100 * share:.4g}%")
    yield tag("span", f"{end} {strip.axis_name}", class_="qi-last", style="left:100%")
