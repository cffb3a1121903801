"""Lines that are wrapped without rich are wrapped as rich does it, but for facts and indents: it knows neither."""

from __future__ import annotations

import re
from io import StringIO

from hypothesis import assume, given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from qkvinspect.render.view import ViewOptions
from qkvinspect.render.writers.page import Page

STYLES = ("", "bold", "dim", "bold red")
TEXTS = st.text("ab.-  ", max_size=40)


@given(st.lists(st.tuples(TEXTS, st.sampled_from(STYLES)), min_size=1, max_size=4), st.integers(5, 40), st.booleans())
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


@given(
    st.lists(st.text("ab.-", min_size=1, max_size=9), min_size=1, max_size=9), st.integers(12, 40), st.integers(0, 4)
)
def test_lines_are_broken_between_facts_and_stay_indented(facts: list[str], width: int, indent: int) -> None:
    """A fact of two words is on one line if it has room on one."""
    facts = [fact.replace("-", " a").strip() for fact in facts]
    assume(all(facts) and max(map(len, facts)) <= width - indent)
    page = Page(ViewOptions(width=width))
    page.line((" " * indent + "  ".join(facts), ""))
    lines = str(page).removesuffix("\n").split("\n")
    assert [fact for line in lines for fact in line.strip().split("  ")] == facts
    assert all(line.startswith(" " * indent) and not line[indent:].startswith(" ") for line in lines)
    assert max(map(len, lines)) <= width


def plain(line: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip()
