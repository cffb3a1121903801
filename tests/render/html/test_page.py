"""The report in headless Chromium: what hovering, filtering, sorting and the keyboard do, and what nothing does."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from qkvinspect.analysis import LayerFigures, analyze, column
from qkvinspect.cli import main
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from tests.conftest import ROOT
from tests.render.html.pages import VIEWPORT, Browser, Page, Scheme, Tab, bare, cell, chromium, expect, hovered, rows
from tests.some import first

pytestmark = pytest.mark.gate

Run = Callable[..., Any]

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(2)</script>",
    "$x^2$ &lt;b&gt; <!--",
    "\x1b[31mred\u202e<a href='javascript:alert(3)'>link</a>",
    "%{x} ${z} `w` <b>bold</b>",
)


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    with chromium() as found:
        yield found


SAMPLE, OTHER = (ROOT / "sample_checkpoints" / f"{name}.safetensors" for name in ("trained", "miswritten"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("one") / "report.html"
    assert main(["report", str(SAMPLE), "-o", str(target), "--heads", "4"]) == 0
    return target


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("two") / "report.html"
    assert main(["report", str(SAMPLE), str(OTHER), "-o", str(target), "--heads", "4"]) == 0
    return target


@pytest.fixture(scope="module")
def figures() -> list[LayerFigures]:
    with open_checkpoint(SAMPLE) as checkpoint:
        return list(analyze(inspect(checkpoint, Options(heads=("4",), norms=False))))


def shown(value: float | None) -> str:
    """Five digits, as JavaScript writes them."""
    assert value is not None
    stored = float(f"{value:.6g}")
    return repr(float(f"{stored:.5g}")).removesuffix(".0")


def hostile(path: Path) -> Path:
    state: dict[str, torch.Tensor] = {"</style><script>alert(4)</script>": torch.randn(2)}
    for place, name in enumerate(HOSTILE):
        state[f"{name}.{place}.attn.in_proj_weight"] = torch.randn(48, 16)
        state[f"{name}.{place}.attn.out_proj.weight"] = torch.randn(16, 16)
    save_file(state, path)
    return path


@pytest.fixture(scope="module")
def tab(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Generator[Tab]:
    permissions = ["clipboard-read", "clipboard-write"]
    with browser.new_context(viewport=VIEWPORT, offline=True, permissions=permissions) as context:
        found = Tab(context, tmp_path_factory.mktemp("tab") / "page.html")
        yield found
        found.leave()


@pytest.fixture
def light(tab: Tab, trained: Path) -> Page:
    """A page that several tests look at and leave as it was."""
    return tab.show(trained)


@pytest.fixture
def dark(tab: Tab, trained: Path) -> Page:
    return tab.show(trained, "dark")


@pytest.fixture
def both(tab: Tab, pair: Path) -> Page:
    return tab.show(pair)


def test_on_paper_everything_is_dark_on_white_and_whole(dark: Page) -> None:
    dark.emulate_media(media="print", color_scheme="dark")
    dark.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    expect(dark.locator("body")).to_have_css("background-color", "rgb(255, 255, 255)")
    expect(dark.locator("body")).to_have_css("color", "rgb(0, 0, 0)")
    expect(dark.locator("#packing .qi-bar").first).to_have_css("print-color-adjust", "exact")
    assert dark.locator("button.copy:visible").count() == 0
    assert dark.locator("#packing pre").first.is_visible()
    assert dark.pdf().startswith(b"%PDF")
    dark.evaluate("window.dispatchEvent(new Event('afterprint'))")
    dark.emulate_media(media="screen", color_scheme="dark")


@pytest.mark.parametrize(("scheme", "page_is"), [("dark", "rgb(15, 19, 24)"), ("light", "rgb(255, 255, 255)")])
def test_it_opens_in_light_and_dark(tab: Tab, trained: Path, scheme: Scheme, page_is: str) -> None:
    page = tab.show(trained, scheme)
    expect(page.locator("body")).to_have_css("background-color", page_is)
    expect(page.locator("#map-0 .heatmaplayer image").last).to_be_visible()
    expect(page.locator("#profile-0 .bars .point").first).to_be_visible()


def test_a_change_of_theme_is_drawn(light: Page) -> None:
    tick = light.locator("#map-0 .xtick text").first
    expect(tick).to_have_css("fill", "rgb(28, 33, 40)")
    light.emulate_media(color_scheme="dark")
    expect(tick).to_have_css("fill", "rgb(227, 232, 238)")
    light.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    expect(tick).to_have_css("fill", "rgb(0, 0, 0)")
    light.evaluate("window.dispatchEvent(new Event('afterprint'))")
    expect(tick).to_have_css("fill", "rgb(227, 232, 238)")
    light.emulate_media(color_scheme="light")
    expect(tick).to_have_css("fill", "rgb(28, 33, 40)")


def test_hovering_shows_the_number(light: Page, figures: list[LayerFigures]) -> None:
    """Of every head in the first figure, and of some in each other."""
    before = light.input_value("#figure")
    for key, every in (("q_norm", 1), ("logit_bound", 3), ("similar_ov", 3)):
        wanted = column(key)
        light.select_option("#figure", key)
        for place, head in [(n, head) for n, layer in enumerate(figures) for head in layer.heads][::every]:
            layer = figures[place]
            lines = hovered(light, (place, head.head), (2, 4))
            assert lines[:2] == [layer.layer, f"head {head.head}"]
            like = f" (head {head.similar_ov.head})" if key == "similar_ov" and head.similar_ov else ""
            assert lines[2] == f"{wanted.title}: {shown(wanted.of(head))}{like}"
    light.select_option("#figure", before)


def test_the_arrow_keys_say_the_number(light: Page, figures: list[LayerFigures]) -> None:
    light.locator("#map-0").focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowDown", "ArrowUp"):
        light.keyboard.press(key)
    spectrum = figures[0].heads[2].q
    assert spectrum is not None
    said = f"{figures[0].layer}, head 2, Q Frobenius norm: {shown(spectrum.norm)}"
    expect(light.locator("#cell")).to_have_text(said)
    expect(light.locator("#map-0 .shapelayer path")).to_have_count(1)
    light.keyboard.press("Tab")
    expect(light.locator("#map-0 .shapelayer path")).to_have_count(0)


def test_the_filter_filters(light: Page, figures: list[LayerFigures]) -> None:
    bounds = [head.logit_bound for layer in figures for head in layer.heads if head.logit_bound]
    middle = sorted(bounds)[4]
    assert len(rows(light)) == 8
    light.fill("#filter", "LAYERS.1 head=2")
    assert [row[:2] for row in rows(light)] == [["encoder.layers.1.self_attn", "2"]]
    light.fill("#filter", f"logit_bound>={middle - 1e-3:.3f}")
    assert len(rows(light)) == 4
    expect(light.locator("#shown")).to_have_text("Heads 1 to 4 of 4 (8 in all).")
    light.fill("#filter", "nothing>3")
    assert rows(light) == []
    expect(light.locator("#shown")).to_have_text("No figure is called nothing.")
    expect(light.locator("#filter")).to_have_attribute("aria-invalid", "true")
    light.fill("#filter", "")
    assert len(rows(light)) == 8


def test_sorting_sorts(light: Page, figures: list[LayerFigures]) -> None:
    norms = sorted(head.v.norm for layer in figures for head in layer.heads if head.v)
    heading = light.locator("#every thead th", has_text="V Frobenius norm")
    expect(heading).to_have_attribute("aria-sort", "none")
    for state, expected in (("ascending", norms), ("descending", norms[::-1])):
        heading.get_by_role("button").press("Enter")
        expect(heading).to_have_attribute("aria-sort", state)
        assert [row[4] for row in rows(light)] == list(map(shown, expected))
    light.get_by_role("button", name="layer").click()
    assert [row[0][-11] for row in rows(light)] == list("00001111")


def test_the_table_shows_the_columns_that_are_chosen(light: Page, figures: list[LayerFigures]) -> None:
    before = {name: light.input_value(name) for name in ("#group", "#figure")}
    light.select_option("#group", "QK circuit")
    titles = light.locator("#every thead th").all_text_contents()
    assert titles == [
        "layer",
        "head",
        *(f"QK {one}" for one in ("Frobenius norm", "spectral norm", "stable rank", "effective rank")),
    ]
    circuit = figures[1].heads[3].qk
    assert circuit is not None
    assert rows(light)[7][2:5] == [shown(circuit.norm), shown(circuit.largest), shown(circuit.stable_rank)]
    light.select_option("#group", "Figure of the heat maps")
    light.select_option("#figure", "symmetric")
    assert light.locator("#every thead th").all_text_contents()[2:] == ["symmetric share of QK"]
    for name, chosen in before.items():
        light.select_option(name, chosen)


def test_the_code_is_copied_and_runs(light: Page) -> None:
    button = light.locator("#packing button.copy").first
    button.click()
    expect(button).to_have_text("Copied")
    code = light.evaluate("navigator.clipboard.readText()")
    names: dict[str, torch.Tensor] = {}
    exec(code, names)
    stored = load_file(SAMPLE)["encoder.layers.0.self_attn.in_proj_weight"]
    assert torch.equal(names["k"], stored[64:128])
    assert torch.equal(names["v_heads"][1], stored[144:160])


def test_nothing_could_leave_or_be_slipped_in(tab: Tab, light: Page) -> None:
    asked = "fetch('data:text/plain,x').then(() => 'fetched', () => 'refused')"
    assert light.evaluate(asked) == "refused"
    light.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = true'}))")
    light.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<img src=\"nowhere:\" onerror=\"window.ran = true\">')"
    )
    assert len(tab.told()) >= 3
    assert light.evaluate("window.ran") is None
    tab.leave(expected=True)


def test_every_control_is_reached_with_tab(both: Page) -> None:
    wanted = both.evaluate(
        """() => {
          window.reached = new Set();
          document.addEventListener("focusin", (event) => window.reached.add(event.target));
          const all = document.querySelectorAll("a, button, select, input, summary, [tabindex='0']");
          window.wanted = [...all].filter((one) => one.checkVisibility() && !one.disabled);
          return window.wanted.length;
        }"""
    )
    assert wanted > 30
    for _ in range(wanted + 5):
        both.keyboard.press("Tab")
    assert both.evaluate("window.wanted.filter((one) => !window.reached.has(one)).map((one) => one.outerHTML)") == []
    unnamed = both.evaluate(
        "window.wanted.filter((one) => !(one.textContent.trim() || one.getAttribute('aria-label')"
        " || (one.labels && one.labels.length))).map((one) => one.outerHTML)"
    )
    assert unnamed == []


@pytest.mark.parametrize("scheme", first(1, ["light", "dark"]))
def test_nothing_is_cut_off_on_a_phone(both: Page, scheme: Any) -> None:
    both.emulate_media(color_scheme=scheme)
    before, shut = both.viewport_size, both.locator("details:not([open])").element_handles()
    assert before is not None
    both.set_viewport_size({"width": 375, "height": 800})
    for one in shut:
        one.evaluate("one => { one.open = true; }")
    both.wait_for_timeout(200)
    assert both.locator("details:not([open])").count() == 0
    assert both.evaluate("document.documentElement.scrollWidth") == 375
    cut = both.evaluate(
        """() => [...document.querySelectorAll("body *")].filter((one) => one.checkVisibility()
          && !one.closest("svg, thead, caption, .qi-run, .map") && one.scrollWidth > one.clientWidth + 1
          && getComputedStyle(one).display !== "inline" && getComputedStyle(one).overflowX !== "visible")
          .map((one) => one.outerHTML.slice(0, 200))"""
    )
    assert cut == []
    for one in shut:
        one.evaluate("one => { one.open = false; }")
    both.set_viewport_size(before)
    both.emulate_media(color_scheme="light")


def test_two_checkpoints_stand_side_by_side(tab: Tab, run: Run, samples: Path, tmp_path: Path) -> None:
    state = load_file(samples / "trained.safetensors")
    name = "encoder.layers.1.self_attn.in_proj_weight"
    changed = state[name].clone()
    changed[16:32] *= 2  # Q of head 1
    save_file({**state, name: changed}, tmp_path / "b.safetensors")
    files = [samples / "trained.safetensors", tmp_path / "b.safetensors"]
    assert run("report", *files, "-o", tmp_path / "a.html", "--heads", "4", "--no-evidence").code == 0
    page = tab.show(tmp_path / "a.html")
    expect(page.locator("#caption-0")).to_have_text("B against A: greatest relative change")
    expect(page.locator("#caption-1")).to_be_hidden()
    expect(page.locator("#view")).to_be_disabled()
    assert hovered(page, (1, 1), (2, 4))[2].startswith("greatest relative change: ")
    assert hovered(page, (0, 1), (2, 4))[2] == "greatest relative change: 0"
    page.select_option("#figure", "changed_q")
    assert float(hovered(page, (1, 1), (2, 4))[2].split()[-1]) == pytest.approx(1, rel=1e-3)
    assert hovered(page, (1, 2), (2, 4))[2] == "relative change of Q: 0"
    page.select_option("#figure", "q_norm")
    expect(page.locator("#caption-0")).to_have_text("A: Q Frobenius norm")
    expect(page.locator("#caption-1")).to_have_text("B: Q Frobenius norm")
    one, other = (float(hovered(page, (1, 1), (2, 4), number)[2].split()[-1]) for number in (0, 1))
    assert other == pytest.approx(2 * one, rel=1e-4)
    page.select_option("#view", "difference")
    expect(page.locator("#caption-1")).to_be_hidden()
    assert float(hovered(page, (1, 1), (2, 4))[2].split()[-1]) == pytest.approx(one, rel=1e-3)
    assert hovered(page, (0, 1), (2, 4))[2] == "B − A of Q Frobenius norm: 0"
    page.fill("#filter", "layers.1 head=1")
    (row,) = rows(page)
    assert float(row[3]) == pytest.approx(2 * float(row[2]), rel=1e-4)
    assert "different: 2 layers (1 identical, 1 changed)" in page.locator("#differences").inner_text()


def test_layers_that_one_side_has_not_are_gaps(tab: Tab, run: Run, samples: Path, tmp_path: Path) -> None:
    state = load_file(samples / "trained.safetensors")
    save_file({key: value for key, value in state.items() if "layers.0" in key}, tmp_path / "b.safetensors")
    files = [samples / "trained.safetensors", tmp_path / "b.safetensors"]
    assert run("report", *files, "-o", tmp_path / "a.html", "--heads", "4", "--no-evidence").code == 0
    page = tab.show(tmp_path / "a.html")
    page.select_option("#figure", "q_norm")
    assert len(rows(page)) == 8
    assert rows(page)[7][3] == "–"
    page.mouse.move(*cell(page, (1, 1), (2, 4), 1))
    page.wait_for_timeout(200)
    expect(page.locator("#map-1 .hovertext")).to_have_count(0)
    assert hovered(page, (0, 1), (2, 4), 1)[0] == "encoder.layers.0.self_attn"


def test_names_stay_text(tab: Tab, run: Run, tmp_path: Path) -> None:
    torch.manual_seed(0)
    a, b = hostile(tmp_path / "<b>a&amp;.safetensors"), hostile(tmp_path / "b'\".safetensors")
    assert run("report", a, b, "-o", tmp_path / "a.html", "--heads", "2").code == 0
    harmless = [name.replace("\x1b", r"\x1b").replace("\u202e", r"\u202e") for name in HOSTILE]
    page = tab.show(tmp_path / "a.html")
    named = {row[0] for row in rows(page)}
    assert named == {f"{name}.{place}.attn" for place, name in enumerate(harmless)}
    order = list(dict.fromkeys(row[0] for row in rows(page)))
    for place, name in enumerate(order):
        assert hovered(page, (place, 1), (5, 2))[0] == name
    ticks = page.locator("#map-0 .ytick text").all_text_contents()
    assert "<img src=x onerror=alert(1)>.0" in ticks
    assert "$x^2$ &lt;b&gt; <!--.2" in ticks
    assert "<b>a&amp;.safetensors" in page.title()
    assert "</style><script>alert(4)</script>: changed" in page.locator("#differences").inner_text()
    assert page.evaluate(
        "[document.images.length, document.scripts.length, document.querySelectorAll('b').length]"
    ) == [0, 3, 0]
    assert page.evaluate("[...document.links].every((link) => link.getAttribute('href').startsWith('#'))")


def test_without_scripts_the_words_are_there(browser: Browser, trained: Path, tmp_path: Path) -> None:
    with bare(browser, trained, tmp_path / "page.html") as page:
        assert "torch-mha (fused)" in page.locator("#summary").inner_text()
        assert "need JavaScript" in page.locator("main").inner_text()


def test_pages_of_many_heads(tab: Tab, run: Run, tmp_path: Path) -> None:
    """32 layers of 32 heads, analysed, are under 6 MB."""
    state = {f"h.{place}.attn.in_proj_weight": torch.randn(192, 64) for place in range(32)}
    state |= {f"h.{place}.attn.out_proj.weight": torch.randn(64, 64) for place in range(32)}
    save_file(state, tmp_path / "a.safetensors")
    command = ("report", tmp_path / "a.safetensors", "-o", tmp_path / "a.html", "--heads", "32", "--no-evidence")
    assert run(*command).code == 0
    assert (tmp_path / "a.html").stat().st_size < 6_000_000
    page = tab.show(tmp_path / "a.html")
    expect(page.locator("#shown")).to_have_text("Heads 1 to 25 of 1024.")
    expect(page.get_by_role("button", name="Previous")).to_be_disabled()
    page.get_by_role("button", name="Next").press("Enter")
    expect(page.locator("#shown")).to_have_text("Heads 26 to 50 of 1024.")
    page.fill("#filter", "head=31")
    expect(page.locator("#shown")).to_have_text("Heads 1 to 25 of 32 (1024 in all).")
    page.get_by_role("button", name="Next").click()
    expect(page.get_by_role("button", name="Next")).to_be_disabled()
    assert len(rows(page)) == 7
    page.select_option("#size", "0")
    assert len(rows(page)) == 32
    assert hovered(page, (31, 31), (32, 32))[:2] == ["h.31.attn", "head 31"]


def test_the_strip_is_drawn_to_scale(tab: Tab, run: Run, tmp_path: Path) -> None:
    """Q of four heads beside K and V of two: a share of the strip each as of the rows, a line before each head."""
    layer, file = "model.layers.0.self_attn", tmp_path / "a.safetensors"
    save_file({f"{layer}.qkv_proj.weight": torch.randn(64, 32), f"{layer}.o_proj.weight": torch.randn(32, 32)}, file)
    options = ("--heads", "4/2", "--layout", "phi3", "--no-evidence")
    assert run("report", file, "-o", tmp_path / "a.html", *options).code == 0
    page = tab.show(tmp_path / "a.html")
    runs = page.locator("#packing .qi-run")
    assert runs.all_text_contents() == ["Q", "K", "V"]
    widths = [box["width"] for one in runs.all() if (box := one.bounding_box())]
    assert widths == pytest.approx([sum(widths) / 2, sum(widths) / 4, sum(widths) / 4], abs=2)
    assert [one.get_attribute("title") for one in runs.all()] == ["Q: rows 0:32", "K: rows 32:48", "V: rows 48:64"]
    lines = [one.evaluate("one => getComputedStyle(one).backgroundSize") for one in runs.all()]
    assert lines == ["25% 100%", "50% 100%", "50% 100%"]
    assert page.locator("#packing .qi-ticks span").all_text_contents() == ["0", "32", "48", "64 rows"]
