"""Explanations as text: indented points, then code."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from qkvinspect.explain.explanation import Explanation
from qkvinspect.render.text import clean, layer

_INDENT = 11
_BOLD, _DIM, _RESET = "\x1b[1;32m", "\x1b[2m", "\x1b[0m"


def render(explanation: Explanation, width: int | None, colour: bool) -> str:
    """One layer; wrapped to ``width``, or not at all where there is no terminal."""
    return "\n".join(_lines(explanation, width, colour)) + "\n"


def point(title: str, text: str, width: int | None, colour: bool = False) -> str:
    """A titled paragraph with a hanging indent."""
    body = clean(text)
    if width is not None:
        lines = textwrap.wrap(body, max(width - _INDENT - 1, 20), break_long_words=False, break_on_hyphens=False)
        body = ("\n" + " " * _INDENT).join(lines)
    label = f"  {title}".ljust(_INDENT)
    return f"{_DIM}{label}{_RESET}{body}" if colour else f"{label}{body}"


def _lines(explanation: Explanation, width: int | None, colour: bool) -> Iterator[str]:
    name = layer(explanation.layer)
    yield f"{_BOLD}{name}{_RESET}" if colour else name
    for title, text in explanation.points:
        yield point(title, text, width, colour)
    if explanation.code:
        yield f"{_DIM}  Code{_RESET}" if colour else "  Code"
        yield from (f"    {clean(line)}" for line in explanation.code)
