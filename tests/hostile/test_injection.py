"""Names that act: through every command and every form of output, what a file calls its layers stays text."""

from __future__ import annotations

import ast
import csv
import html.parser
import io
import json
import re
import textwrap
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import Run
from tests.long import long
from tests.some import those

NAMES = (
    "\x1b]8;;http://x\x07\x1b[31m",
    "::error title=x::y",
    "##[error]x",
    "=HYPERLINK(1)",
    "@SUM(1)",
    "-1+1",
    "[x](http://x)",
    "![x](http://x)",
    "<img src=x onerror=y>",
    "<script>alert(1)</script>",
    "a|b`c*d_e",
    "a\r\n::warning::x",
    "\u202e\u2066\u200b",
    "\x00\x9b31m",
    "]]>&lt;",
    "'; os.system('x') #",
)

FORMS = ("table", "json", "csv", "markdown")
COMMANDS = (
    *(("show", "A", "-f", form) for form in FORMS),
    *(("show", "A", "--per-head", "-f", form) for form in ("csv", "markdown")),
    ("show", "A", "--tensors"),
    ("show", "A", "--why", "*"),
    ("show", "A", "--heat", "q_norm"),
    *(("explain", "A", "-f", form) for form in FORMS),
    *(("analyze", "A", "-f", form) for form in FORMS),
    *(("check", "A", "-f", form) for form in (*FORMS, "junit", "sarif")),
    *(("diff", "A", "B", "-f", form) for form in FORMS),
    *(("lineage", "A", "B", "-f", form) for form in FORMS),
    *(("export", "A", "-o", "OUT.pt", "-f", form) for form in FORMS),
    *(("pack", "A", "--to", "torch-mha", "-o", "OUT.pt", "-f", form) for form in FORMS),
    *(("convert", "A", "--to", "gpt-neox", "-o", "OUT.pt", "-f", form) for form in FORMS),
    ("scan", "A", "B", "-o", "OUT.csv", "--jobs", "1"),
    ("scan", "A", "B", "-o", "OUT.jsonl", "--jobs", "1"),
)
ALWAYS = (
    ("show", "A", "-f", "csv"),
    ("show", "A", "-f", "markdown"),
    ("explain", "A", "-f", "table"),
    ("check", "A", "-f", "markdown"),
    ("check", "A", "-f", "junit"),
    ("diff", "A", "B", "-f", "table"),
    ("lineage", "A", "B", "-f", "csv"),
    ("export", "A", "-o", "OUT.pt", "-f", "table"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints that differ, of layers with such names, whose second one has a name that acts too."""
    where = tmp_path_factory.mktemp("names")
    torch.manual_seed(0)
    state = {
        f"{name}.{number}.{part}_proj.weight": torch.randn(8, 8) for number, name in enumerate(NAMES) for part in "qkvo"
    }
    state[f"{NAMES[0]}.0.q_proj.weight"][0] = float("nan")
    save_file(state, where / "a.safetensors")
    changed = {name: value + torch.randn(8, 8) if ".1." in name else value for name, value in state.items()}
    save_file({**changed, "<b>::x": torch.ones(1)}, where / "=b[x](y)<i>.safetensors")
    return where


@pytest.mark.parametrize(
    "command",
    long(
        lambda one: one[0] in ("check", "lineage"), those(ALWAYS.__contains__, [pytest.param(one) for one in COMMANDS])
    ),
    ids=[" ".join(one) for one in COMMANDS],
)
def test_a_name_is_text_in_every_form(command: tuple[str, ...], folder: Path, tmp_path: Path, run: Run) -> None:
    places = {"A": folder / "a.safetensors", "B": folder / "=b[x](y)<i>.safetensors"}
    words = [places.get(word, word.replace("OUT", str(tmp_path / "out"))) for word in command]
    heads = [] if command[0] == "scan" else ["--heads", "2"]
    if command in ALWAYS and command[0] in ("show", "explain", "diff", "export"):  # check and lineage ask the weights
        heads.append("--no-evidence")
    result = run(*words, *heads)
    assert result.code in (0, 1, 2)
    written = tmp_path / f"out{Path(command[command.index('-o') + 1]).suffix}" if command[0] == "scan" else None
    form = written.suffix[1:] if written else command[command.index("-f") + 1] if "-f" in command else "table"
    out = written.read_text() if written else result.out
    assert out or result.code == 2
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200b]", out.replace("\r\n", "\n"))
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200b]", result.err)
    for line in (*out.splitlines(), *result.err.splitlines()):
        assert not line.lstrip().startswith("::"), line
        assert "##[" not in line or form == "jsonl", line
    _harmless(form, out)


def _harmless(form: str, out: str) -> None:
    match form:
        case "json" | "sarif":
            json.loads(out or "{}")
        case "jsonl":
            assert all(json.loads(line) for line in out.splitlines())
        case "junit":
            ElementTree.fromstring(out)
        case "csv":
            cells = [cell for row in csv.reader(io.StringIO(out)) for cell in row]
            bad = [cell for cell in cells if re.match(r"\s*[=@]|\s*[-+](?![\d.]|inf|nan)", cell) or cell == "-1+1"]
            assert bad == []
        case "markdown":
            code = [line for line in out.splitlines() if line.startswith("    ") and "qkvinspect " not in line]
            assert "system" not in {node.attr for node in _attributes(code)}
            text = "\n".join(line for line in out.splitlines() if not line.startswith("    "))
            text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
            text = re.sub(r"(`+)[^`\n]+?\1", "", text)
            assert not re.search(r"(?<!\\)\]\((?!#)", text)
            assert not re.search(r"(?<!\\)<(img|script|b|i)\b", text)
        case _:
            pass


def _attributes(code: list[str]) -> list[ast.Attribute]:
    tree = ast.parse(textwrap.dedent("\n".join(code)))
    return [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]


class Tags(html.parser.HTMLParser):
    """The elements of a page, and their attributes that run or load something."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.acts: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.acts += [one for one in attrs if one[0].startswith("on") or one[0] in ("src", "href", "action")]


@pytest.mark.parametrize("sides", [pytest.param("AB", marks=pytest.mark.mass), "A"])
def test_a_page_has_the_elements_of_this_tool_only(sides: str, folder: Path, tmp_path: Path, run: Run) -> None:
    places = {"A": folder / "a.safetensors", "B": folder / "=b[x](y)<i>.safetensors"}
    assert run("report", *map(places.__getitem__, sides), "--heads", "2", "-o", tmp_path / "o.html").code == 0
    page = (tmp_path / "o.html").read_text()
    tags = Tags()
    tags.feed(page)
    page = re.sub("<script>.*?</script>", "", page, flags=re.DOTALL)  # plotly, and what draws
    assert tags.names.count("script") == 3  # its data, what draws it, and the theme
    assert "alert(1)</" not in page
    assert not {"img", "iframe", "object", "embed", "link", "i"} & set(tags.names)
    assert all(name == "href" and str(value).startswith("#") for name, value in tags.acts)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200b]", page)
