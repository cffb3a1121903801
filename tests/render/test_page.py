"""Lines that are wrapped without rich are wrapped as rich does it, but for facts and indents: it knows neither."""

from __future__ import annotations

import math
import re
from io import StringIO

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from qkvinspect.errors import clean, clean_each
from qkvinspect.render.spark import block, spark
from qkvinspect.render.view import ViewOptions
from qkvinspect.render.writers import wrapping
from qkvinspect.render.writers.page import Page

STYLES = ("", "bold", "dim", "bold red")
TEXTS = st.text("ab.-  ", max_size=40)


@given(st.lists(st.tuples(TEXTS, st.sampled_from(STYLES)), min_size=1, max_size=4), st.integers(5, 40), st.booleans())
@pytest.mark.gate
def test_a_line_is_wrapped_as_rich_wraps_it(parts: list[tuple[str, str]], width: int, colour: bool) -> None:
    whole = "".join(text for text, _ in parts)
    assume(not re.search(r"^\s|\S\s\s+\S", whole))
    page = Page(ViewOptions(width=width, colour=colour))
    page.line(*parts)
    out = StringIO()
    Console(
        file=out,
        width=width,
        force_terminal=colour,
        color_system="standard" if colour else None,
        no_color=not colour,
        highlight=False,
    ).print(Text.assemble(*((text, style or "none") for text, style in parts)))
    expected = [line.rstrip() for line in out.getvalue().removesuffix("\n").split("\n")]
    assert [plain(line) for line in str(page).removesuffix("\n").split("\n")] == [plain(line) for line in expected]


FACTS = ["a", "ab.", "a b", "ab a", "ababab", "ab ab.", "a abab.", "abab aba", "ababababa", "ab ab ab."]


@given(st.lists(st.sampled_from(FACTS), min_size=1, max_size=9), st.integers(13, 40), st.integers(0, 4))
def test_lines_are_broken_between_facts_and_stay_indented(facts: list[str], width: int, indent: int) -> None:
    """A fact of two words is on one line if it has room on one."""
    page = Page(ViewOptions(width=width))
    page.line((" " * indent + "  ".join(facts), ""))
    lines = str(page).removesuffix("\n").split("\n")
    assert [fact for line in lines for fact in line.strip().split("  ")] == facts
    assert all(line.startswith(" " * indent) and not line[indent:].startswith(" ") for line in lines)
    assert max(map(len, lines)) <= width


def plain(line: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip()


@given(st.lists(st.text(st.sampled_from("ab:#[ \x1b\u202e▁é漢"), max_size=5), max_size=4))
def test_many_texts_are_cleaned_and_measured_as_each_is_alone(texts: list[str]) -> None:
    assert list(clean_each(texts)) == list(map(clean, texts))
    assert wrapping.most_of(texts) == max(map(wrapping.width_of, texts), default=0)
    width = wrapping.most_of(texts)
    assert {wrapping.width_of(text) for text in wrapping.padded(texts, width, right=True)} <= {width}
    assert [text.strip() for text in wrapping.padded(texts, width, right=False)] == [text.strip() for text in texts]


@given(st.lists(st.sampled_from([-3.0, 0.0, 1.0, 2.0, 2.5, 9.0, math.nan, math.inf]), max_size=12), st.integers(1, 6))
def test_a_curve_has_of_each_run_the_value_farthest_from_the_middle(values: list[float], width: int) -> None:
    known = sorted(value for value in values if math.isfinite(value))
    expected = ""
    for number in range(min(width, len(values)) if known else 0):
        stop = (number + 1) * len(values) // min(width, len(values))
        run = values[number * len(values) // min(width, len(values)) : stop]
        some = [value for value in run if math.isfinite(value)]
        farthest = max(some, key=lambda value: abs(value - known[len(known) // 2]), default=math.nan)
        flat = known[0] == known[-1]
        expected += " " if not some else block(0.0 if flat else (farthest - known[0]) / (known[-1] - known[0]))
    assert spark(values, width) == expected
