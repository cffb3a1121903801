"""Names of the tensors of split Q, K and V, and of layers in another layout."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from string import Formatter

from qkvinspect.errors import UsageError
from qkvinspect.layouts import Layout

DEFAULT = "hf"

PRESETS: Mapping[str, str] = {
    "hf": "{layer}.{part}_proj.{kind}",
    "bert": "{layer}.{word}.{kind}",
    "timm": "{layer}.{part}.{kind}",
    "diffusers": "{layer}.to_{part}.{kind}",
}
"""Names of parts. ``torch``, whose biases stay in one tensor, is the layout torch-mha-split instead."""

TORCH = "torch"
_WORDS = {"q": "query", "k": "key", "v": "value"}

Naming = Callable[[str, str, str], str]
"""The name of a tensor, by layer, part and kind (``weight``, ``bias``, ``heads.0.weight``)."""


def naming(text: str) -> Naming:
    """A preset or a template as a function.

    Raises:
        UsageError: the template has other fields than {layer}, {part}, {word} and {kind}, or lacks one that it needs.
    """
    template = PRESETS.get(text, text)
    try:
        fields = {field for _, field, _, _ in Formatter().parse(template)}
        odd = "{" in re.sub(r"\{(layer|part|word|kind)\}", "", template)
    except ValueError:
        fields, odd = set[str | None](), True
    if odd or "kind" not in fields or not fields & {"part", "word"}:
        raise UsageError(
            f"--names {text} is no way to name tensors",
            expected=f"{', '.join([*PRESETS, TORCH])}, or a template such as {PRESETS[DEFAULT]}",
        )

    def name(layer: str, part: str, kind: str) -> str:
        return template.format(layer=layer, part=part, word=_WORDS.get(part, part), kind=kind).removeprefix(".")

    return name


def renaming(texts: Sequence[str]) -> Callable[[str], str]:
    """What --rename PATTERN=REPLACEMENT does to a name, one after the other.

    Raises:
        UsageError: one of them is no regular expression with a replacement.
    """
    rules: list[tuple[re.Pattern[str], str]] = []
    for text in texts:
        pattern, equals, replacement = text.partition("=")
        try:
            rules.append((re.compile(pattern), replacement))
            re.sub(pattern, replacement, "")
            if not equals:
                raise ValueError("no '='")
        except (re.error, IndexError, ValueError) as error:
            raise UsageError(
                f"--rename {text} cannot be used: {error}",
                expected=r"PATTERN=REPLACEMENT such as '^h\.(\d+)=layers.\1'",
            ) from error

    def rename(name: str) -> str:
        for pattern, replacement in rules:
            name = pattern.sub(replacement, name)
        return name

    return rename


def without_label(layer: str, layout: Layout | None) -> str:
    """The module itself, where a label tells two sets of one module apart."""
    if layout is None or not layout.label:
        return layer
    return "" if layer == layout.label else layer.removesuffix(f".{layout.label}")


def layer_in(target: Layout, layer: str, source: Layout | None, *, behind: bool = False) -> str:
    """What a layer is called in another layout: as it was, but for the end that the layout demands.

    Args:
        behind: put that end behind the whole name, not in the place of its last components.

    >>> from qkvinspect.layouts import LAYOUTS
    >>> by_id = {layout.id: layout for layout in LAYOUTS}
    >>> layer_in(by_id["phi3"], "encoder.layer.0.attention.self", by_id["bert"])
    'encoder.layer.0.attention.self_attn'
    >>> layer_in(by_id["litgpt"], "model.layers.7.self_attn", None)
    'model.h.7.attn'
    """
    layer = without_label(without_label(layer, source), target)
    if not target.layer:
        return layer
    demanded = [choice.split("|") for choice in target.layer.split(".")]
    parts = layer.split(".") if layer else []
    end = parts[-len(demanded) :]
    fits = len(end) == len(demanded) and all(
        part in some or ("#" in some and part.isdecimal()) for part, some in zip(end, demanded, strict=True)
    )
    if fits:
        return layer
    kept = parts if behind else parts[: -len(demanded)]
    number = next((part for part in reversed(parts) if part.isdecimal()), "0")
    return ".".join([*kept, *(number if some[0] == "#" else some[0] for some in demanded)])


def tensor_in(layer: str, key: str) -> str:
    """The name that a key of a layout stands for at a layer; of alternatives, the first."""
    climb = key.count("../")
    parts = layer.split(".") if layer else []
    kept = parts[: len(parts) - climb] if climb else parts
    return ".".join([*kept, *(choice.split("|")[0] for choice in key.replace("../", "").split("."))])
