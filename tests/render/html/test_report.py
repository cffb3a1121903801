"""What the report holds, read without a browser: numbers, findings, verdicts, and how it is written."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from qkvinspect.analysis import COLUMNS, analyze
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.render import html
from qkvinspect.render.html.markup import joined, table, tag

Run = Callable[..., Any]


class Text(HTMLParser):
    """The cells of all tables and the text of all else."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self._inside: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._inside.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "script" in self._inside or "style" in self._inside:
            return
        if "tr" in self._inside and self.rows[-1]:
            self.rows[-1][-1] += data
        elif data.strip():
            self.words.append(data)


@pytest.fixture(scope="module")
def pages() -> dict[tuple[str, ...], str]:
    """What a command line has written before."""
    return {}


@pytest.fixture
def report(run: Run, tmp_path: Path, pages: dict[tuple[str, ...], str]) -> Callable[..., str]:
    def report(*argv: object, anew: bool = False) -> str:
        line = tuple(map(str, argv))
        if anew or line not in pages:
            result = run("report", *line, "-o", tmp_path / "report.html", "--force")
            assert (result.code, result.err) == (0, "")
            written = (tmp_path / "report.html").read_text()
            if anew:
                return written
            pages[line] = written
        return pages[line]

    return report


def data(page: str) -> Any:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(found)


def test_every_figure_is_in_it(report: Callable[..., str], samples: Path) -> None:
    held = data(report(samples / "trained.safetensors", "--heads", "4", "--no-evidence"))
    with open_checkpoint(samples / "trained.safetensors") as checkpoint:
        figures = list(analyze(inspect(checkpoint, Options(heads=("4",), norms=False))))
    assert list(held["columns"]) == [one.key for one in COLUMNS]
    assert {key for keys in held["groups"].values() for key in keys} == set(held["columns"])
    assert [row["name"] for row in held["rows"]] == [layer.layer for layer in figures]
    for row, layer in zip(held["rows"], figures, strict=True):
        for one in COLUMNS:
            expected = [one.of(head) for head in layer.heads]
            assert row["sides"][0]["values"][one.key] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("sample", "heads"), [("trained.safetensors", ("--heads", "4")), ("sharded", ()), ("training.pt", ())]
)
def test_norms_without_analysis_are_those_of_the_analysis(
    report: Callable[..., str], samples: Path, sample: str, heads: tuple[str, ...]
) -> None:
    flags = (*heads, "--no-evidence")
    whole, quick = (data(report(samples / sample, *flags, *more)) for more in ([], ["--no-analysis"]))
    assert len(whole["rows"]) == len(quick["rows"]) == 2
    assert list(quick["columns"]) == ["q_norm", "k_norm", "v_norm"]
    for one, other in zip(whole["rows"], quick["rows"], strict=True):
        assert one["sides"][0]["kv"] == other["sides"][0]["kv"]
        for key, values in other["sides"][0]["values"].items():
            assert values
            assert values == pytest.approx(one["sides"][0]["values"][key], rel=1e-5)


def test_norms_of_divided_heads_are_those_of_the_analysis(report: Callable[..., str], tmp_path: Path) -> None:
    """Differential attention: two heads of Q and K for each of V."""
    state = {"attn.qkv.weight": torch.randn(96, 32), "attn.proj.weight": torch.randn(32, 32)}
    state |= {f"attn.lambda_{name}": torch.randn(4) for name in ("q1", "k1", "q2", "k2")}
    save_file(state, tmp_path / "a.safetensors")
    flags = ([], ["--no-analysis"])
    whole, quick = (data(report(tmp_path / "a.safetensors", "--heads", "4", *more))["rows"][0] for more in flags)
    (one,), (other,) = whole["sides"], quick["sides"]
    assert one["kv"] == other["kv"] == [0, 0, 1, 1, 2, 2, 3, 3]
    for key, values in other["values"].items():
        assert values == pytest.approx(one["values"][key], rel=1e-5)
        assert len(set(values)) == (4 if key == "v_norm" else 8)


def test_parameters_and_bytes_are_those_of_the_tensors(report: Callable[..., str], samples: Path) -> None:
    state = load_file(samples / "trained.safetensors")
    shown = {row[0]: row[1:] for row in Text(report(samples / "trained.safetensors")).rows if len(row) == 4}
    weights = [value for name, value in state.items() if name.endswith("in_proj_weight")]
    assert int(shown["Q"][0].replace(",", "")) == sum(value.numel() for value in weights) // 3
    outs = sum(value.numel() for name, value in state.items() if name.endswith("out_proj.weight"))
    assert int(shown["output"][0].replace(",", "")) == outs
    assert int(shown["all"][0].replace(",", "")) == sum(value.numel() for value in state.values())
    counts = [int(row[0].replace(",", "")) for name, row in shown.items() if name not in ("all", "part")]
    assert sum(counts) == sum(value.numel() for value in state.values())


def test_rows_of_other_things_in_the_same_tensor_count_apart(report: Callable[..., str], tmp_path: Path) -> None:
    """timm's ParallelScalingBlock keeps Q, K, V and the MLP in one tensor."""
    state = {
        "blocks.0.in_proj.weight": torch.randn(7 * 8, 8),
        "blocks.0.attn_out_proj.weight": torch.randn(8, 8),
        "blocks.0.mlp_out_proj.weight": torch.randn(8, 32),
        "head.weight": torch.randn(5),
    }
    save_file(state, tmp_path / "a.safetensors")
    shown = {row[0]: row[1] for row in Text(report(tmp_path / "a.safetensors", "--heads", "2")).rows if len(row) == 4}
    assert shown["Q"] == shown["K"] == shown["V"] == shown["output"] == "64"
    assert shown["other rows of the same tensors"] == str(4 * 64)
    assert shown["everything else"] == str(8 * 32 + 5)


def test_findings_of_inspection_and_checks_are_in_it(report: Callable[..., str], tmp_path: Path) -> None:
    weight = torch.randn(48, 16)
    weight[:4] = 0
    weight[20, 3] = float("nan")
    state = {"a.attn.in_proj_weight": weight, "a.attn.out_proj.weight": torch.randn(16, 16)}
    save_file(state, tmp_path / "a.safetensors")
    page = report(tmp_path / "a.safetensors", "--heads", "4")
    rows = Text(page).rows
    assert {row[2] for row in rows if row[0] in ("error", "warning")} >= {"nonfinite", "zero-head"}
    assert any("not all figures: K has values that are not finite" in cell for row in rows for cell in row)
    held = data(page)["rows"][0]["sides"][0]["values"]
    assert held["q_norm"][0] == 0
    assert "nan" in held["k_norm"]


def test_the_settings_of_check_count(
    report: Callable[..., str], samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    quick = (samples / "miswritten.safetensors", "--no-evidence", "--no-analysis")
    assert "equal-parts" in report(*quick, anew=True)
    (tmp_path / "qkvinspect.toml").write_text('[check]\nignore = ["equal-parts"]\n')
    assert "equal-parts" not in report(*quick, anew=True)


def test_what_the_weights_say_is_in_it(report: Callable[..., str], samples: Path) -> None:
    page = Text(report(samples / "trained.safetensors"))
    assert any("the weights say 4 heads" in word for word in page.words)
    assert ["heads", "score", ""] in page.rows
    assert any(word.startswith("How strongly two rows are tied") for word in page.words)
    without = Text(report(samples / "trained.safetensors", "--no-evidence"))
    assert any(word.startswith("None: the weights were not asked") for word in without.words)


def test_verdicts_of_two_are_in_it(report: Callable[..., str], samples: Path) -> None:
    page = Text(
        report(samples / "trained.safetensors", samples / "miswritten.safetensors", "--heads", "4", "--no-evidence")
    )
    assert "different: 2 layers (1 identical, 1 changed)" in page.words
    assert "K of B is V of A (in encoder.layers.1.self_attn)" in page.words
    assert ["encoder.layers.1.self_attn", "layers.1.self_attn", "changed", "1.397", "K, K bias"] in page.rows


def test_layers_can_be_chosen_by_the_names_of_either_side(report: Callable[..., str], samples: Path) -> None:
    files = (samples / "trained.safetensors", samples / "miswritten.safetensors")
    for glob in ("encoder.layers.1.*", "layers.1.*"):
        page = report(*files, "--layer", glob, "--heads", "4", "--no-evidence", "--no-analysis")
        (row,) = data(page)["rows"]
        assert [side["name"] for side in row["sides"]] == ["encoder.layers.1.self_attn", "layers.1.self_attn"]
        assert "layers.0.self_attn" not in page
    (row,) = data(report(files[0], "--layer", "*.1.*", "--heads", "4", "--no-evidence", "--no-analysis"))["rows"]
    assert row["name"] == "encoder.layers.1.self_attn"


def test_unknown_heads_and_no_attention_are_said(report: Callable[..., str], samples: Path, tmp_path: Path) -> None:
    page = report(samples / "transformer.pt", "--no-evidence")
    assert "No layer has a known number of heads" in page
    assert 'id="every"' not in page
    save_file({"a": torch.ones(3)}, tmp_path / "a.safetensors")
    page = report(tmp_path / "a.safetensors")
    assert "No attention was found in it." in page
    assert re.findall('<section id="([a-z]+)"', page) == ["packing", "findings", "summary"]


def test_only_its_own_scripts_may_run_and_nothing_is_fetched(report: Callable[..., str], samples: Path) -> None:
    page = report(samples / "trained.safetensors")
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in scripts]
    assert rules == {
        "default-src": "'none'",
        "script-src": " ".join(hashes),
        "img-src": "data:",
        "style-src": "'unsafe-inline'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert page.index("Content-Security-Policy") < page.index("<style>") < page.index("<script")
    own = page.replace(html.plotly(), "")
    assert not re.search(r"https?://|src=|@import|url\(", own)


def test_the_same_checkpoint_gives_the_same_file(report: Callable[..., str], samples: Path) -> None:
    assert report(samples / "trained.safetensors") == report(samples / "trained.safetensors", anew=True)


def test_the_file_is_not_replaced_unless_asked(run: Run, samples: Path, tmp_path: Path) -> None:
    target = tmp_path / "a.html"
    target.write_text("mine")
    result = run("report", samples / "trained.safetensors", "-o", target, "--no-evidence", "--no-analysis")
    assert (result.code, result.out) == (2, "")
    assert "exists already" in result.err
    assert target.read_text() == "mine"
    result = run("report", samples / "trained.safetensors", "-o", target, "--force", "--no-evidence", "--no-analysis")
    assert result.code == 0
    assert re.fullmatch(r".*a\.html: 2 attention modules, \d findings?, 4\.9 MB\n", result.out)
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]


def test_a_damaged_file_leaves_nothing_behind(run: Run, samples: Path, tmp_path: Path) -> None:
    whole = (samples / "trained.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(whole[:-10])
    result = run("report", tmp_path / "a.safetensors", "-o", tmp_path / "a.html")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert not (tmp_path / "a.html").exists()


def test_without_plotly_it_says_what_to_install(
    run: Run, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(html, "find_spec", lambda name: None)
    result = run("report", samples / "trained.safetensors", "-o", tmp_path / "a.html")
    assert (result.code, result.out) == (2, "")
    assert result.err == ("error: a report needs plotly, which is not installed; pip install 'qkvinspect[report]'\n")


def test_whatever_is_not_markup_is_text() -> None:
    evil = "<b onclick='x'>&\x1b[31m\"\u202e"
    safe = "&lt;b onclick=&#x27;x&#x27;&gt;&amp;\\x1b[31m&quot;\\u202e"
    assert tag("p", evil, title=evil) == f'<p title="{safe}">{safe}</p>'
    assert joined((evil, tag("br"))) == f"{safe}<br></br>"
    assert f"<caption>{safe}</caption>" in table((evil,), [(evil,)], evil)
    assert tag("input", disabled=True, hidden=False) == "<input disabled>"


@pytest.mark.gate
def test_what_quantisation_did_is_a_map(report: Callable[..., str], run: Run) -> None:
    """The figures of ``diff``, a head each, on the side of B; on all columns' list, and in a group of their own."""
    models = Path(__file__).parents[2] / "weights" / "encodings" / "models"
    files = (models / "original.safetensors", models / "bnb_nf4.safetensors")
    page = report(*files, "--heads", "8", "--no-evidence", "--no-analysis")
    held = data(page)
    losses = run("diff", *files, "--heads", "8", "--no-evidence", "-f", "json").json()["losses"]
    keys = ["lost_q", "lost_k", "lost_v", "lost_out", "lost_qk", "lost_ov"]
    assert held["groups"]["What quantisation did"] == keys
    assert set(keys) <= set(held["groups"]["All"])
    assert [held["columns"][key]["scale"] for key in keys] == ["values"] * 6
    for row in held["rows"]:
        before, after = row["sides"]
        assert not set(keys) & before["values"].keys()
        for key in keys:
            own = sorted((loss["head"], loss["errors"]) for loss in losses if loss["layer"] == before["name"])
            expected = [errors[key.removeprefix("lost_")] for _, errors in own]
            assert after["values"][key] == pytest.approx(expected, rel=1e-5)
    assert "Heads that lost most, relative errors (8 of 16)" in page
    assert "lost_q" not in data(report(files[0], files[0], "--heads", "8", "--no-evidence", "--no-analysis"))["columns"]


def test_the_first_screen_has_the_packing_the_digest_and_the_day(
    report: Callable[..., str], samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    page = report(samples / "transformer.pt", "--heads", "2", "--no-evidence", anew=True)
    assert re.findall('<section id="([a-z]+)"', page) == ["packing", "maps", "findings", "evidence", "heads", "summary"]
    assert "<time>2023-11-14</time>" in page
    digest = hashlib.sha256((samples / "transformer.pt").read_bytes()).hexdigest()
    assert f"sha256 <code>{digest}</code>" in page[: page.index('<section id="packing"')]
    text = Text(page)
    assert ["K", "in_proj_weight[16:32]", "2 x 8, head h at 16 + 8*h", "[16, 16]"] in text.rows
    assert "q, k, v = state[&#x27;encoder.layers.0.self_attn.in_proj_weight&#x27;].chunk(3)" in page
    card = page[page.index("As Markdown, for a model card") :]
    assert "| K | \\[16, 16\\] | 16:32 |" in card[: card.index("</section>")]


def test_columns_and_heads_that_take_turns_are_drawn_as_such(report: Callable[..., str], tmp_path: Path) -> None:
    state = {"h.0.attn.c_attn.weight": torch.randn(24, 72), "h.0.attn.c_proj.weight": torch.randn(24, 24)}
    save_file(state, tmp_path / "gpt2.safetensors")
    text = Text(report(tmp_path / "gpt2.safetensors", "--heads", "3", "--layout", "gpt2", "--no-evidence"))
    assert ["K", "c_attn.weight[:, 24:48]", "3 x 8, head h at 24 + 8*h", "[24, 24]"] in text.rows
    assert "72 columns" in text.words
    name = "h.0.self_attention.query_key_value.weight"
    save_file(
        {name: torch.randn(48, 16), name.replace("query_key_value", "dense"): torch.eye(16)}, tmp_path / "b.safetensors"
    )
    page = report(tmp_path / "b.safetensors", "--heads", "2", "--layout", "bloom", "--no-evidence")
    titles = re.findall(r'class="qi-run[^>]* title="([^"]*)"', page)
    assert titles == [f"{part}: rows {8 * n}:{8 * n + 8}" for n, part in enumerate("QKVQKV")]
    assert ["K", "query_key_value.weight[8:16], [32:40]", "2 x 8, head h at 8 + 24*h", "[16, 16]"] in Text(page).rows


def test_the_map_of_a_difference_opens_on_what_changed(report: Callable[..., str], samples: Path) -> None:
    page = report(samples / "trained.safetensors", samples / "miswritten.safetensors", "--heads", "4", "--no-evidence")
    assert re.findall('<section id="([a-z]+)"', page)[0] == "differences"
    shown, _ = page[page.index("What changed, by") :].split("1 layer is the same", 1)
    (row,) = re.findall(r"<tr><th scope=\"row\".*?</tr>", shown)
    cells = re.findall(r'<td[^>]*data-title="([^"]*)"[^>]*>([^<]*)</td>', row)
    assert dict(cells) == {
        **dict.fromkeys(("Q", "V", "out", "Q bias", "V bias", "out bias"), "="),
        "K": "1.4",
        "K bias": "12",
        "status": "changed",
    }
    held = data(page)
    assert next(iter(held["groups"]["What changed"])) == "changed_most"
    changed = [row["sides"][1]["values"]["changed_most"] for row in held["rows"]]
    assert changed[0] == [0.0] * 4
    assert all(1 < value < 2 for value in changed[1])
    same = report(samples / "trained.safetensors", samples / "trained.safetensors", "--heads", "4", "--no-evidence")
    assert "changed_most" not in same
    assert "2 layers are the same" in same
