"""The parts of a page that its scripts fill: heat maps, and the table of every head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qkvinspect.render.html.markup import Markup, Section, joined, section, tag
from qkvinspect.render.html.side import PageSide

_USE = (
    "Point at a cell for its number, or go to a map with Tab and move with the arrow keys. Grey is a head without a "
    "value, a gap is no head. All numbers are in the table below."
)
_MEANING = (
    " Circuits are of the weights alone: biases and position embeddings are left out, so for rotary models QK is that "
    "of two tokens at the same place."
)


def pictures(sides: Sequence[PageSide], numbers: Mapping[str, Any]) -> tuple[Section, ...]:
    """Both sections, as far as there is anything to show."""
    if any(one and one["kv"] for row in numbers["rows"] for one in row["sides"]):
        return _maps(sides, numbers), _heads(sides, numbers)
    if numbers["rows"]:
        return (section("maps", "Heat maps", tag("p", "No layer has a known number of heads; --heads gives it.")),)
    return ()


def _maps(sides: Sequence[PageSide], numbers: Mapping[str, Any]) -> Section:
    """A heat map of each side, and what is shown in them."""
    columns, groups = numbers["columns"], numbers["groups"]
    options = joined(
        tag("optgroup", *(tag("option", columns[key]["title"], value=key) for key in keys), label=title)
        for title, keys in groups.items()
        if title not in ("Overview", "All")
    )
    controls = [tag("label", "Figure ", tag("select", options, id="figure"))]
    if len(sides) > 1:
        views = [tag("option", "A and B, side by side", value="both"), tag("option", "B − A", value="difference")]
        controls.append(tag("label", "Show ", tag("select", *views, id="view")))
    figures = joined(_map(number, side) for number, side in enumerate(sides))
    return section(
        "maps",
        "Heat maps",
        tag("p", *controls, class_="controls"),
        tag("p", id="place", class_="note"),
        tag("div", figures, class_="maps"),
        tag("p", "", id="cell", class_="note", role="status"),
        tag("p", _USE, _MEANING if "qk_norm" in columns else "", class_="note"),
    )


def _heads(sides: Sequence[PageSide], numbers: Mapping[str, Any]) -> Section:
    """The table, its filter and its pages."""
    chosen = [tag("option", title, value=title) for title in ("Figure of the heat maps", *numbers["groups"])]
    sizes = [tag("option", size, value=value) for size, value in (("25", "25"), ("100", "100"), ("all", "0"))]
    caption = tag("caption", "Every head", " of A beside B" if len(sides) > 1 else "")
    every = tag("table", caption, tag("thead"), tag("tbody"), id="every")
    steps = [tag("button", title, id=title.lower(), type="button") for title in ("Previous", "Next")]
    syntax = "Words of a layer's name, and conditions such as head=3 or q_norm>2; all must hold."
    return section(
        "heads",
        "Every head",
        tag(
            "p",
            tag("label", "Filter ", tag("input", id="filter", type="search", aria_describedby="syntax")),
            tag("label", "Columns ", tag("select", *chosen, id="group")),
            tag("label", "Rows ", tag("select", *sizes, id="size")),
            class_="controls",
        ),
        tag("p", syntax, id="syntax", class_="note"),
        tag("details", tag("summary", "Names for conditions"), _names(numbers["columns"])),
        tag("p", id="shown", role="status"),
        tag("div", every, class_="scroll", role="region", tabindex="0", aria_label="Every head"),
        tag("p", *steps, class_="controls", id="pages"),
    )


def _names(columns: Mapping[str, Any]) -> Markup:
    """What may stand before the sign of a condition."""
    known = [("head", "head"), ("kv_head", "kv head"), *((key, one["title"]) for key, one in columns.items())]
    return tag("p", *(joined((tag("code", key), f" {title}; ")) for key, title in known))


def _map(number: int, side: PageSide) -> Markup:
    caption = tag("figcaption", side.label, id=f"caption-{number}")
    said = "Heat map of heads; the arrow keys move, the number is said below."
    drawn = tag("div", id=f"map-{number}", class_="map", role="group", tabindex="0", aria_label=said)
    return tag("figure", caption, drawn)
