"""The browser, driven by Textual's pilot: what it shows is what the other commands print."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from textual.pilot import Pilot
from textual.widgets import Input, OptionList, Static
from textual.widgets.tree import TreeNode

from qkvinspect.analysis import COLUMNS, analyze, column
from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import Finding
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.inspection.report import Report
from qkvinspect.render import text
from qkvinspect.sources.local import LocalFile
from qkvinspect.tui.app import Browser
from qkvinspect.tui.heatmap import HeatMap
from qkvinspect.tui.layers import Layers
from qkvinspect.tui.outline import Branch
from qkvinspect.tui.session import Session
from qkvinspect.tui.strip import ColouredStrips
from tests.long import long
from tests.real.test_real import SCEPTR, folder
from tests.some import every_value, first

Act = Callable[[Browser, Pilot[None]], Awaitable[None]]
SHAPES = Options(norms=False)

SAMPLES = [
    "transformer.pt",
    "sharded",
    "bert_like",
    "kdim_vdim.pt",
    "training.pt",
    "trained.safetensors",
    "distributed",
]
"""The first by what is stored: in one tensor, with fewer kv heads, in a tensor each, of other widths."""


@pytest.fixture(autouse=True)
def seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks: what is drawn anew sixty times a second takes most of the time. Nor does anyone need to rest."""
    monkeypatch.setattr("textual.screen.UPDATE_PERIOD", 0.2)
    monkeypatch.setattr("textual._wait.SLEEP_GRANULARITY", 0.01)  # twice for each key
    monkeypatch.setattr("qkvinspect.tui.app._REST", 0.01)
    monkeypatch.setattr("qkvinspect.tui.app._TICK", 1.0)


def browse(path: Path, act: Act, size: tuple[int, int] = (80, 24), options: Options = SHAPES) -> None:
    """Open a checkpoint in the browser and do something there."""

    async def go() -> None:
        with open_checkpoint(path) as checkpoint:
            app = Browser(Session(inspect(checkpoint, options), options))
            app.animation_level = "none"
            async with app.run_test(size=size) as pilot:
                await pilot.pause()
                await act(app, pilot)

    asyncio.run(go())


async def until(ready: Callable[[], bool]) -> None:
    """Wait for what a thread does, or for a message."""
    for _ in range(800):
        if ready():
            return
        await asyncio.sleep(0.01)  # the pilot's own pause asks every widget whether it is done, and draws what is new
    raise AssertionError("it never came")


def shown(app: Browser, name: str) -> str:
    """What a widget says, uncut."""
    console = Console(width=300, color_system=None)
    with console.capture() as capture:
        console.print(app.query_one(name, Static).content)
    return capture.get()


def words(line: str) -> list[str]:
    return line.split()


def leaves(node: TreeNode[Branch]) -> list[TreeNode[Branch]]:
    return [leaf for child in node.children for leaf in leaves(child)] if node.children else [node]


def read_by_show(path: Path) -> Report:
    with open_checkpoint(path) as checkpoint:
        return inspect(checkpoint, Options())


async def look_at(app: Browser, number: int) -> None:
    """Go to a layer and wait until it has been read."""
    app.query_one(Layers).look_at(number)
    await until(lambda: app.branch.layers == (number,) and number in app.session.measured)


@pytest.mark.parametrize("sample", long({*SAMPLES[1:4]}.__contains__, first(4, SAMPLES)))
def test_the_tree_has_all_layers_and_their_pages_the_norms_of_show(samples: Path, run, sample: str) -> None:
    report = run("show", samples / sample, "-f", "json", "--no-evidence").json()

    async def act(app: Browser, pilot: Pilot[None]) -> None:
        layers = report["attentions"]
        found = [leaf.data.layers[0] for leaf in leaves(app.query_one(Layers).root) if leaf.data]
        assert sorted(found) == list(range(len(layers)))
        assert app.session.measured == set()
        for number, attention in enumerate(layers):
            await look_at(app, number)
            lines = [words(line) for line in shown(app, "#text").splitlines()]
            assert shown(app, "#text").splitlines()[0].rstrip() == text.layer(attention["layer"])
            for part in "qkv":
                if attention[part]:
                    (row,) = [line for line in lines if line[:1] == [part.upper()] and "[" in "".join(line[1:2])]
                    assert text.number(attention[part]["norm"]) in row
            for head in range(attention["num_heads"] or 0):
                (row,) = [line for line in lines if line[:1] == [str(head)] and ":" in "".join(line)]
                group = attention["num_heads"] // attention["num_kv_heads"]
                for part, index in (("q", head), ("k", head // group), ("v", head // group)):
                    assert text.number(attention[part]["heads"][index]["norm"]) in row

    browse(samples / sample, act)


@pytest.mark.gate
def test_sceptr(run) -> None:
    path = folder("sceptr") / SCEPTR / "SCEPTR"

    async def act(app: Browser, pilot: Pilot[None]) -> None:
        await look_at(app, 0)
        page = shown(app, "#text")
        assert all(norm in page for norm in ("41.509", "24.213", "9.007"))
        assert "8 heads x 8 (config.json:model.self_attention_stack.initargs.nhead)" in page
        await pilot.press("e")
        await until(lambda: app.session.attentions[0].evidence is not None)
        assert "the weights say 8 heads (99.99 % sure" in re.sub(r"\s+", " ", shown(app, "#text"))
        assert "41.509" in shown(app, "#text")

    browse(path, act)


@pytest.mark.gate
def test_the_weights_tell_the_heads_when_asked(samples: Path) -> None:
    async def act(app: Browser, pilot: Pilot[None]) -> None:
        assert all(attention.heads is None for attention in app.session.attentions)
        await pilot.press("e")
        await until(lambda: all(attention.heads is not None for attention in app.session.attentions))
        await look_at(app, 1)
        assert "4 heads x 16 (the weights, 99.99 % sure)" in shown(app, "#text")

    browse(samples / "trained.safetensors", act)


@pytest.mark.gate
def test_the_filter_filters(samples: Path) -> None:
    async def act(app: Browser, pilot: Pilot[None]) -> None:
        tree, words = app.query_one(Layers), app.query_one(Input)
        await pilot.press("slash", *"dec")
        for typed, layers in (("dec", {1, 2}), ("MULTI", {2}), ("mha enc", {0}), ("xyz", set())):
            words.value = typed
            await pilot.pause()
            assert {number for leaf in leaves(tree.root) if leaf.data for number in leaf.data.layers} == layers
            assert len(app.chosen) == len(layers)
            if typed in ("dec", "xyz"):  # and go to what was found, to its map, and back to all
                await pilot.press("enter", "m")
                assert shown(app, "#cell").startswith("head 0: " if layers else "no layer")
                await pilot.press("m", "escape")
                assert len(leaves(tree.root)) == len(app.session.attentions) == 3
                assert words.value == ""
                await pilot.press("slash")

    browse(samples / "transformer.pt", act, options=Options(norms=False, heads=("2",)))


@pytest.mark.parametrize("size", [(80, 24), pytest.param((160, 50), marks=pytest.mark.gate)])
@pytest.mark.gate
def test_the_map_shows_the_norm_of_every_head(samples: Path, size: tuple[int, int]) -> None:
    report = read_by_show(samples / "sharded")

    async def act(app: Browser, pilot: Pilot[None]) -> None:
        await pilot.press("m")
        await until(lambda: len(app.session.measured) == len(report.attentions))
        cells = app.query_one(HeatMap)
        for row, attention in enumerate(report.attentions):
            part = attention.part("q")
            assert part is not None
            for head, measure in enumerate(part.head_measures):
                cells.look_at(row, head)
                said = ["head", f"{head}:", text.number(measure.norm), attention.layer]
                await until(lambda said=said: words(shown(app, "#cell")) == said)
                line = "".join(segment.text for segment in cells.render_line(row + 1))
                assert f"{measure.norm:#.3g}" in line
        await pilot.press("enter")
        await until(lambda: app.branch.layers == (len(report.attentions) - 1,))

    browse(samples / "sharded", act, size)


@pytest.mark.gate
def test_keys_move_in_the_map_and_choose_its_column(samples: Path) -> None:
    path = samples / "sharded"
    with open_checkpoint(path) as checkpoint:
        figures = list(analyze(inspect(checkpoint, Options())))

    async def act(app: Browser, pilot: Pilot[None]) -> None:
        await pilot.press("c")
        await pilot.pause()
        app.screen.query_one(OptionList).highlighted = COLUMNS.index(column("symmetric"))
        await pilot.press("enter")
        await pilot.pause()
        assert "symmetric share of QK" in shown(app, "#title")
        assert "not read" in shown(app, "#cell")
        await pilot.press("a")
        await until(lambda: len(app.session.figures) == len(figures))
        await pilot.press("down", "right", "right")
        await pilot.pause()
        expected = figures[1].heads[2].symmetric
        assert expected is not None
        assert shown(app, "#cell").startswith(f"head 2: {text.number(expected)}")

    browse(path, act)


@pytest.mark.gate
def test_analysis_is_that_of_analyze(samples: Path) -> None:
    path = samples / "trained.safetensors"
    options = Options(norms=False, heads=("4",))
    with open_checkpoint(path) as checkpoint:
        report = inspect(checkpoint, options)
        expected = list(analyze(report))

    async def act(app: Browser, pilot: Pilot[None]) -> None:
        await look_at(app, 1)
        assert app.session.figures == {}
        await pilot.press("a")
        await until(lambda: 1 in app.session.figures)
        assert app.session.figures == {1: expected[1]}
        page = shown(app, "#text")
        after = page[page.index("Analysis") :]
        for head in expected[1].heads:
            rows = [words(line)[1:] for line in after.splitlines() if words(line)[:1] == [str(head.head)]]
            values = [one.of(head) for one in COLUMNS]
            assert [cell for row in rows for cell in row] == [
                "-" if value is None else text.number(value) for value in values
            ]

    browse(path, act, options=options)


HOSTILE = [
    "[red]x[/red].self_attn",
    "[link=https://x.invalid]y.self_attn",
    "\x1b[31mz\x07\x9b2J.attn",
    "\u202eq[/].[@click=app.quit]a",
]


@pytest.mark.gate
def test_names_from_a_file_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({f"{name}.in_proj_weight": torch.ones(24, 8) for name in HOSTILE}, path)

    async def act(app: Browser, pilot: Pilot[None]) -> None:
        for number, attention in enumerate(app.session.attentions):
            await look_at(app, number)
            page = shown(app, "#text")
            assert page.splitlines()[0].rstrip() == text.layer(attention.layer)
            assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", page)
        await pilot.press("a", "e")
        await until(lambda: len(app.session.figures) == 1 and app.work.running is None)
        await pilot.pause()
        for _ in range(2):
            picture = app.export_screenshot()
            assert "[red]x[/red]" in picture.replace("&#160;", " ")
            assert not re.search("\x1b|\x07|\x9b|\u202e", picture)
            await pilot.press("m")
            await pilot.pause()

    browse(path, act, (160, 50), Options(norms=False, heads=("2",)))


def sparse(path: Path, layers: int, width: int) -> None:
    """A checkpoint of a real header and holes."""
    header: dict[str, object] = {}
    at = 0
    for layer in range(layers):
        for name in "qkvo":
            end = at + 2 * width * width
            header[f"model.layers.{layer}.self_attn.{name}_proj.weight"] = {
                "dtype": "BF16", "shape": [width, width], "data_offsets": [at, end],
            }  # fmt: skip
            at = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all reads of files."""
    sizes: list[int] = []
    real, real_into = LocalFile.read, LocalFile.read_into

    def read(self: LocalFile, offset: int, length: int) -> bytes:
        sizes.append(length)
        return real(self, offset, length)

    def read_into(self: LocalFile, offset: int, room: memoryview) -> None:
        sizes.append(len(room))
        real_into(self, offset, room)

    monkeypatch.setattr(LocalFile, "read", read)
    monkeypatch.setattr(LocalFile, "read_into", read_into)
    return sizes


@pytest.mark.gate
def test_100_gigabytes_open_at_once(tmp_path: Path, counted: list[int]) -> None:
    path = tmp_path / "model.safetensors"
    sparse(path, 200, 8192)
    assert path.stat().st_size > 100e9
    with path.open("rb") as file:
        (header,) = struct.unpack("<Q", file.read(8))

    async def act(app: Browser, pilot: Pilot[None]) -> None:
        await pilot.press("down")
        await pilot.pause(0.3)
        assert len(app.session.attentions) == 200
        assert sum(counted) < 2 * header + 100_000
        assert app.session.measured == set()

    browse(path, act)


@pytest.mark.gate
def test_a_layer_that_is_left_is_not_read_on(tmp_path: Path, counted: list[int]) -> None:
    path = tmp_path / "model.safetensors"
    sparse(path, 2, 32768)

    async def act(app: Browser, pilot: Pilot[None]) -> None:
        before = sum(counted)
        app.query_one(Layers).look_at(0)
        await until(lambda: app.work.running is not None and sum(counted) > before)
        app.simulate_key("home")  # the pilot would wait until this process has nothing to do
        await until(lambda: app.work.running is None)
        assert sum(counted) < 3e9 < 3 * 2 * 32768**2
        assert app.session.measured == set()

    browse(path, act)


@pytest.mark.parametrize(
    ("key", "how"),
    long(
        lambda case: case[1] != "gone",
        every_value(itertools.product(("", "a", "e", "m"), ("changed", "shorter", "replaced", "gone"))),
    ),
)
def test_a_file_that_changes_is_a_line_in_the_app(samples: Path, tmp_path: Path, key: str, how: str) -> None:
    """Every key that reads and everything that can happen once in every run; each with each, with ``-m mass``."""
    path = tmp_path / "model.safetensors"
    path.write_bytes((samples / "trained.safetensors").read_bytes())

    async def act(app: Browser, pilot: Pilot[None]) -> None:
        if how == "changed":
            os.utime(path, (1, 1))
        elif how == "shorter":
            os.truncate(path, 3000)
        elif how == "replaced":
            path.rename(tmp_path / "other")
            path.write_bytes((samples / "trained.safetensors").read_bytes())
        else:
            path.unlink()
        if key:
            await pilot.press(key)
        else:
            app.query_one(Layers).look_at(1)
        await until(lambda: "error: " in shown(app, "#status"))
        assert re.search(r"was changed or replaced|became shorter", shown(app, "#status"))
        assert shown(app, "#status").count("[QKV-F") == 1
        await until(lambda: app.work.running is None)
        if not key:  # and goes on
            await pilot.press("m", "question_mark", "escape", "slash", "x", "escape")

    with pytest.raises(Exception, match="was changed or replaced"):  # of the checkpoint, when it is closed
        browse(path, act, options=Options(norms=False, heads=("4",)))


def test_findings_are_on_the_page_of_their_layer_and_of_all(samples: Path) -> None:
    async def act(app: Browser, pilot: Pilot[None]) -> None:
        assert "NaN" not in shown(app, "#text")
        await look_at(app, 0)
        assert "warning: layers.0.self_attn: K holds 1 NaN or infinite value" in shown(app, "#text")
        await pilot.press("home")
        await until(lambda: len(app.branch.children) > 0)
        assert "warning: layers.0.self_attn: K holds 1 NaN or infinite value" in shown(app, "#text")

    browse(samples / "damaged.pt", act)


@pytest.mark.gate
def test_what_a_file_would_run_is_on_the_first_page(samples: Path) -> None:
    async def act(app: Browser, pilot: Pilot[None]) -> None:
        assert "also holds 'model_ema' (ema, 24 tensors)" in shown(app, "#text")
        text = "this file would run os.system"
        app.session.others.append(Finding(FindingCode.DANGEROUS_GLOBAL, text, severity="error"))
        await look_at(app, 1)
        assert "os.system" not in shown(app, "#text")
        await pilot.press("home")
        await until(lambda: len(app.branch.children) > 0)
        assert "error: this file would run os.system" in shown(app, "#text")

    browse(samples / "training.pt", act)


@pytest.mark.gate
def test_the_keys_are_in_the_footer_and_the_help(samples: Path) -> None:
    async def act(app: Browser, pilot: Pilot[None]) -> None:
        def keys() -> bool:
            picture = app.export_screenshot().replace("&#160;", " ")
            names = ("Filter", "Map", "Column", "Analyze", "Evidence", "Copy code", "Help", "Quit")
            return all(name in picture for name in names)

        for width, height in ((80, 24), (40, 10), (160, 50)):
            await pilot.resize_terminal(width, height)
            if width >= 80:
                await until(keys)
            await pilot.press("question_mark")
            await pilot.pause()
            assert "another layer" in app.export_screenshot().replace("&#160;", " ")
            await pilot.press("escape")
        await pilot.press("q")
        assert app.return_code == 0

    browse(samples / "transformer.pt", act)


@pytest.mark.gate
def test_nothing_to_see(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"x.weight": torch.ones(2, 2)}, path)

    async def act(app: Browser, pilot: Pilot[None]) -> None:
        assert "No attention was found" in shown(app, "#text")
        await pilot.press(
            "a", "e", "m", "down", "right", "enter", "c", "escape", "pagedown", "m", "enter", "slash", "x"
        )
        await pilot.pause()

    browse(path, act)


@pytest.mark.gate
def test_a_key_copies_the_code_that_slices_the_layer(samples: Path) -> None:
    async def act(app: Browser, pilot: Pilot[None]) -> None:
        await pilot.press("y")
        assert "encoder.layers.0" in app.clipboard
        await look_at(app, 1)
        await pilot.press("y")
        names: dict[str, torch.Tensor] = {}
        exec(app.clipboard, names)
        stored = torch.load(samples / "transformer.pt")["decoder.layers.0.self_attn.in_proj_weight"]
        assert torch.equal(names["k"], stored[16:32])
        assert torch.equal(names["v_heads"][1], stored[40:48])
        assert all(line in shown(app, "#text") for line in app.clipboard.splitlines())

    browse(samples / "transformer.pt", act, options=Options(norms=False, heads=("2",)))


@pytest.mark.gate
def test_the_strip_has_the_colours_of_its_parts(samples: Path) -> None:
    """A third of the columns for each of Q, K and V, every other head darker; numbers where one ends."""

    async def act(app: Browser, pilot: Pilot[None]) -> None:
        await look_at(app, 0)
        console = Console(width=48, color_system="truecolor", force_terminal=True)
        lines = console.render_lines(ColouredStrips(app.session.attentions[0]), console.options)
        name, bar, numbers = ("".join(segment.text for segment in line).rstrip() for line in lines)
        assert name == "in_proj_weight [48, 16] float32"
        assert bar.split() == ["Q", "K", "V"]
        assert numbers.split() == ["0", "16", "32", "48", "rows"]
        grounds = [segment.style.bgcolor.name for segment in lines[1] for _ in segment.text if segment.style]
        assert grounds == [colour for pair in GROUNDS for colour in pair for _ in range(8)]

    browse(samples / "transformer.pt", act, options=Options(norms=False, heads=("2",)))


GROUNDS = [("#0072b2", "#005d92"), ("#e69f00", "#bd8200"), ("#009e73", "#00825e")]


@pytest.mark.parametrize(
    "sample", long("sharded".__eq__, first(2, ["sharded", "no_bias.safetensors", "transformer.pt"]))
)
def test_no_column_is_all_dashes(samples: Path, sample: str) -> None:
    """Before norms are read, after them, and after an analysis."""

    def columns(page: str) -> list[tuple[str, ...]]:
        rows = [line.split() for line in page.splitlines() if re.match(r"(Q|K|V|\d+) +\S", line)]
        tables = [list(group) for _, group in itertools.groupby(rows, key=len) if _ > 2]
        return [column for table in tables for column in zip(*table, strict=True)]

    async def act(app: Browser, pilot: Pilot[None]) -> None:
        assert not any(set(column) == {"-"} for column in columns(shown(app, "#text")))
        await look_at(app, 0)
        await pilot.press("a")
        await until(lambda: bool(app.session.figures))
        assert len(columns(shown(app, "#text"))) > 4
        assert not any(set(column) == {"-"} for column in columns(shown(app, "#text")))

    browse(samples / sample, act)
