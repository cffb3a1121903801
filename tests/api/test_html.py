"""What a notebook shows: of everything, in plain tags, and names from a file stay text."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import qkvinspect
from qkvinspect.errors import clean

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</style><script>alert(2)</script>",
    "\"><a href='javascript:alert(3)'>",
    "\x1b[31m\u202e&lt;b&gt;",
)
TAGS = {"div", "style", "h3", "p", "code", "span", "table", "caption", "thead", "tbody", "tr", "th", "td", "details"}
TAGS |= {"summary", "pre", "button", "ul", "li", "strong"}


class Tags(HTMLParser):
    """The elements, and their text but for the rules."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.text = ""
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)
        self.attributes.update(name for name, _ in attrs)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


@pytest.fixture
def checkpoint() -> qkvinspect.OpenCheckpoint:
    random = np.random.default_rng(0)
    state = {}
    for name in HOSTILE:
        state[f"{name}.attn.in_proj_weight"] = random.standard_normal((48, 16), "float32")
        state[f"{name}.attn.out_proj.weight"] = random.standard_normal((16, 16), "float32")
    return qkvinspect.open(state, heads=4, layout="torch-mha")


def test_names_stay_text_everywhere(checkpoint: qkvinspect.OpenCheckpoint) -> None:
    report = qkvinspect.inspect(checkpoint)
    layers = [one for name in HOSTILE for one in (checkpoint.layer(f"{name}.attn"), report.layer(f"{name}.attn"))]
    state = {f"{HOSTILE[0]}.attn.in_proj_weight": np.ones((48, 16), "float32")}
    other = qkvinspect.open(state, heads=4, layout="torch-mha")
    results = [checkpoint, report, *layers, qkvinspect.compare(checkpoint, other)]
    for result in [*results, qkvinspect.analyze(report), qkvinspect.check(other)]:
        shown = Tags(result._repr_html_())
        assert shown.found <= TAGS
        assert not any(name.startswith("on") or name in ("href", "src") for name in shown.attributes)
        assert "\x1b" not in shown.text
        assert "\u202e" not in shown.text
        assert any(clean(name) in shown.text for name in HOSTILE)


def test_a_report_shows_strips_slices_and_code(samples: Path) -> None:
    shown = qkvinspect.inspect(samples / "transformer.pt", heads=2)._repr_html_()
    text = Tags(shown).text
    assert shown.count('class="qi-bar"') == 3
    assert "in_proj_weight[16:32]2 x 8, head h at 16 + 8*h[16, 16]" in text
    assert "import torch\nstate = torch.load(" in text
    assert "prefers-color-scheme" not in shown  # the notebook's own colours are taken


def test_what_cannot_be_told_is_said() -> None:
    assert "No attention was found" in qkvinspect.open({"fc.weight": np.ones((2, 2), "float32")})._repr_html_()
    unknown = qkvinspect.open({"a.query_key_value.weight": np.ones((48, 16), "float32")})
    assert all(word in unknown._repr_html_() for word in ("--layout ID", "pattern-per-head"))
    bloom = qkvinspect.open({"a.query_key_value.weight": np.ones((48, 16), "float32")}, layout="bloom")
    assert "the number of heads is needed" in bloom._repr_html_()
