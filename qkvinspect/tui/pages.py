"""What is written of a layer, of several, and of the whole checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from qkvinspect.analysis import COLUMNS, HeadFigures, LayerFigures
from qkvinspect.findings import Finding
from qkvinspect.inspection.report import Attention
from qkvinspect.layouts.packing import describe
from qkvinspect.render import evidence as rendered_evidence
from qkvinspect.render import rows, text
from qkvinspect.render.document import STYLES
from qkvinspect.render.labels import apart
from qkvinspect.render.results import stacks
from qkvinspect.render.slicing import pasteable
from qkvinspect.render.view import ViewOptions
from qkvinspect.render.writers.table import laid_out
from qkvinspect.tui.outline import Branch
from qkvinspect.tui.session import Session
from qkvinspect.tui.strip import ColouredStrips
from qkvinspect.tui.tables import Wide

_MOST = 200
"""Layers in one table."""

_MOST_STACKS, _MOST_PICTURED = 4, 5_000
"""Kinds of layers of which a picture is shown, and layers that are looked through for them."""

_WIDTH = 76
"""Of the text that the evidence is."""


def page(session: Session, branch: Branch, path: str) -> Group:
    """Everything that is known of a branch.

    Args:
        path: what it is called.
    """
    if len(branch.layers) == 1 and not branch.children:
        return Group(*_layer(session, branch.layers[0]))
    return Group(*_several(session, branch, path))


def code(session: Session, number: int | None) -> tuple[str, str]:
    """The code that slices a layer, "" where there is none; and what to say of it."""
    attention = session.attentions[number] if number is not None else None
    lines = pasteable(attention, session.report.checkpoint) if attention is not None else ()
    if attention is None or not lines:
        return "", "there is no code for it: its parts are not known, or no program loads such a file"
    said = f"{len(lines)} lines that slice {text.layer(attention.layer)} are in the clipboard"
    return "\n".join(lines) + "\n", said


def _layer(session: Session, number: int) -> Iterator[RenderableType]:
    attention = session.attentions[number]
    yield Text(text.layer(attention.layer), style="bold green")
    yield _facts(_facts_of(attention))
    yield Text()
    yield ColouredStrips(attention)
    if attention.parts:
        yield Text()
        yield _measures(rows.PART_COLUMNS, rows.part_rows(attention))
    if attention.heads is not None:
        yield Text()
        yield _measures(rows.head_columns(attention), rows.head_rows(attention))
    figures = session.figures.get(number)
    if figures is not None:
        yield Text()
        yield from _analysis(figures)
    if attention.evidence is not None:
        yield Text()
        yield Text(laid_out(rendered_evidence.blocks(attention), ViewOptions(width=_WIDTH)).rstrip("\n"))
    yield from _findings(session.findings(number))
    lines = pasteable(attention, session.report.checkpoint)
    if lines:
        yield Text()
        yield Text("Code, which y copies", style="bold")
        yield Text("\n".join(map(text.clean, lines)), overflow="fold")


def _facts_of(attention: Attention) -> Iterator[tuple[str, str]]:
    yield "Layout", f"{text.layout(attention)}, told by {attention.layout_from}"
    yield "Stored", text.stored(attention)
    heads = text.heads(attention)
    if attention.heads is None and attention.possible_heads:
        heads += f"; possible: {', '.join(map(str, attention.possible_heads[:16]))}"
    yield "Heads", heads
    if attention.out is not None:
        yield "Output", f"{attention.out.name.removeprefix(f'{attention.layer}.')} {text.shape(attention.out.shape)}"
    for info, meaning in attention.extras:
        yield "Also", f"{info.name.removeprefix(f'{attention.layer}.')}: {meaning}"
    if attention.evidence is None:
        yield "Evidence", "not asked yet: press e"


def _facts(lines: Iterable[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for title, line in lines:
        table.add_row(Text(title), Text(text.clean(line)))
    return table


def _measures(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> Wide:
    cells = list(lines)
    right = [column.endswith("norm") or column in ("non-finite", "head", "kv head") for column in columns]
    return Wide(
        [column.replace(" ", "\n").replace("-", "-\n") for column in columns],
        cells,
        right,
        [row[-1] not in ("0", "-") for row in cells],
    ).without_empty_columns()


def _analysis(figures: LayerFigures) -> Iterator[RenderableType]:
    yield Text("Analysis", style="bold")
    if figures.why:
        yield Text(f"{figures.missing}: {text.clean(figures.why)}")
    if not figures.heads:
        return
    titles = ["head", *(_title(column.key) for column in COLUMNS)]
    cells = [[str(head.head), *_figures(head)] for head in figures.heads]
    yield Wide(titles, cells, [True] * len(titles)).without_empty_columns()
    if figures.bound_from:
        yield Text(f"Bound on the logits: {text.clean(figures.bound_from)}", style="dim")


def _title(key: str) -> str:
    return "\n".join(word.upper() if word in ("q", "k", "v", "qk", "ov") else word for word in key.split("_"))


def _figures(head: HeadFigures) -> Iterator[str]:
    for column in COLUMNS:
        value = column.of(head)
        yield "-" if value is None else text.number(value)


def _several(session: Session, branch: Branch, path: str) -> Iterator[RenderableType]:
    yield Text(text.clean(path), style="bold green")
    everything = len(branch.layers) == len(session.attentions)
    if everything:
        yield from (Text(line) for line in text.summary(session.report))
    else:
        yield Text(text.count(len(branch.layers), "attention module"))
    if not branch.layers:
        yield Text("No attention was found: no tensor has a name that a known layout uses, or the filter hides all.")
    else:
        yield Text("All have the same layout and shapes." if branch.alike else "")
        yield from _pictures([session.attentions[number] for number in branch.layers])
        titles = ("layer", "heads", "Q", "K", "V", "layout", "from")
        yield Wide(titles, *_layers(session, branch.layers[:_MOST])).without_empty_columns()
        if len(branch.layers) > _MOST:
            yield Text(f"... and {len(branch.layers) - _MOST} more", style="dim")
    found = [finding for number in branch.layers for finding in session.findings(number)]
    yield from _findings([*session.others, *found] if everything else found)


def _pictures(attentions: Sequence[Attention]) -> Iterator[RenderableType]:
    """A strip for each kind of layer, the first few of them."""
    found = stacks.stacks(attentions) if len(attentions) <= _MOST_PICTURED else []
    for stack in found[:_MOST_STACKS]:
        if len(found) > 1:
            yield Text(f"{text.layer(stack.name)}  {text.count(len(stack.layers), 'layer')}")
        yield ColouredStrips(stack.layers[0])
        yield Text()


def _layers(session: Session, numbers: Sequence[int]) -> tuple[list[tuple[str, ...]], list[bool]]:
    lines: list[tuple[str, ...]] = []
    chosen = [session.attentions[number] for number in numbers]
    for attention, label in zip(chosen, apart([one.layer for one in chosen])[1], strict=True):
        heads = attention.heads
        lines.append(
            (
                text.layer(label),
                describe(heads) if heads else "unknown",
                *(_norm(attention, name) for name in "qkv"),
                attention.layout.id if attention.layout else "ambiguous" if attention.candidates else "not split",
                attention.heads_from.removeprefix("config:") if heads else "",
            )
        )
    return lines, [column in (2, 3, 4) for column in range(7)]


def _norm(attention: Attention, name: str) -> str:
    part = attention.part(name)
    return text.norm(part.measured) if part else ""


def _findings(found: Sequence[Finding]) -> Iterator[RenderableType]:
    if found:
        yield Text()
    for finding, message in text.findings(found):
        yield Text.assemble((f"{finding.severity}: ", STYLES[finding.severity]), message)
