"""Every consumer of numbers agrees with torch on what an encoded weight is: one test, whoever asks.

One checkpoint has a layer for each way of encoding; each consumer answers for all of its layers at once.
"""

from __future__ import annotations

import asyncio
import json
import re
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import qkvinspect
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.weights.encodings import weights_of
from tests.batches import each
from tests.long import long
from tests.some import those

State = dict[str, torch.Tensor]
Parts = dict[str, torch.Tensor]
Answer = dict[str, Parts]
"""What a consumer says of each part, by layer: its values, the norms of its heads, or its norm."""

WIDTH, HEADS = 256, 4


def scaled(shape: tuple[int, ...], leaf: str) -> tuple[State, torch.Tensor]:
    """Float8 numbers with scales of a shape, and what torch makes of them."""
    codes = torch.randn(WIDTH, WIDTH).to(torch.float8_e4m3fn)
    scale = wide = torch.rand(shape) + 0.5
    if len(shape) == 2:
        wide = scale.repeat_interleave(WIDTH // shape[0], 0).repeat_interleave(WIDTH // shape[1], 1)
    if len(shape) == 1 and shape[0] > 1:
        wide = scale[:, None]
    return {"weight": codes, leaf: scale}, codes.float() * wide


def normalised(normalise: Callable[[nn.Module], nn.Module]) -> tuple[State, torch.Tensor]:
    """A linear layer whose weight torch keeps as length and direction, and the weight that it multiplies with."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older of the two is deprecated, and in many a file
        module = normalise(nn.Linear(WIDTH, WIDTH, bias=False))
    with torch.no_grad():
        for parameter in module.parameters():  # directions of any length, and values as large as the others'
            few = parameter.numel() <= WIDTH
            new = torch.rand_like(parameter) + 0.5 if few else torch.randn_like(parameter)
            parameter.copy_(new * (WIDTH * WIDTH / parameter.numel()) ** 0.5 if few else 3 * new)
        effective = module(torch.eye(WIDTH)).T.contiguous()
    return {name: value.detach().clone() for name, value in module.state_dict().items()}, effective


def weight_norm(dim: int | None) -> Callable[[nn.Module], nn.Module]:
    return partial(nn.utils.weight_norm, dim=dim)


def parametrised(dim: int | None) -> Callable[[nn.Module], nn.Module]:
    return partial(nn.utils.parametrizations.weight_norm, dim=dim)


KINDS: dict[str, Callable[[], tuple[State, torch.Tensor]]] = {
    "one scale": partial(scaled, (), "weight_scale"),
    "one scale, inv": partial(scaled, (), "weight_scale_inv"),
    "one scale, in a list": partial(scaled, (1,), "weight_scale"),
    "one scale of single files": partial(scaled, (), "scale_weight"),
    "a scale a row": partial(scaled, (WIDTH, 1), "weight_scale"),
    "a scale a row, inv": partial(scaled, (WIDTH, 1), "weight_scale_inv"),
    "a scale a row, in a list": partial(scaled, (WIDTH,), "weight_scale"),
    "a scale for 128 of a row": partial(scaled, (WIDTH, 2), "weight_scale"),
    "a scale for 128 of a row, inv": partial(scaled, (WIDTH, 2), "weight_scale_inv"),
    "a scale a block": partial(scaled, (2, 2), "weight_scale"),
    "a scale a block, inv": partial(scaled, (2, 2), "weight_scale_inv"),
    "weight_g and weight_v": partial(normalised, weight_norm(0)),
    "weight_g and weight_v of columns": partial(normalised, weight_norm(1)),
    "weight_g and weight_v of the whole": partial(normalised, weight_norm(None)),
    "parametrised": partial(normalised, parametrised(0)),
    "parametrised by columns": partial(normalised, parametrised(1)),
}
LAYERS = {kind: f"l.{number}.self_attn" for number, kind in enumerate(KINDS)}


class Case:
    """The encoded file, its twin in float32, and the numbers that torch has."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self.folder = folder
        self.encoded, self.twin = folder / "encoded.safetensors", folder / "twin.safetensors"
        self.values: Answer = {}
        stored: State = {}
        for kind, make in KINDS.items():
            self.values[kind] = {}
            for part in "qkvo":
                tensors, self.values[kind][part] = make()
                stored |= {f"{LAYERS[kind]}.{part}_proj.{name}": tensor for name, tensor in tensors.items()}
        save_file(stored, self.encoded)
        save_file(
            {f"{LAYERS[k]}.{part}_proj.weight": v for k, parts in self.values.items() for part, v in parts.items()},
            self.twin,
        )


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("consumers"))


def by_kind(found: dict[str, Any], part: Callable[[Any, str], object]) -> Answer:
    """An answer from what is said of each layer by name."""
    return {
        kind: {one: torch.tensor(part(found[layer], one), dtype=torch.float64) for one in "qkv"}
        for kind, layer in LAYERS.items()
    }


def show(case: Case, run: Any) -> Answer:
    found = run("show", case.encoded, "--heads", HEADS, "-f", "json", "--no-evidence").json()["attentions"]
    layers = {one["layer"]: one for one in found}
    return by_kind(layers, lambda layer, part: [head["norm"] for head in layer[part]["heads"]])


def check(case: Case, run: Any) -> Answer:
    """What a baseline keeps of each part, and no finding."""
    baseline = case.folder / "baseline.json"
    found = run("check", case.encoded, "--heads", HEADS, "--write-baseline", baseline, "-f", "json", "--no-evidence")
    assert [one["findings"] for one in found.json()["checkpoints"]] == [[]]
    layers = json.loads(baseline.read_text())["layers"]
    return by_kind(layers, lambda layer, part: layer[f"{part}_norm"])


def diff(case: Case, run: Any) -> Answer:
    """Of what the difference from the twin leaves: all of it."""
    found = run("diff", case.encoded, case.twin, "-f", "json", "--no-evidence", "--heads", HEADS)
    assert found.code == 0, found.out
    layers = {one["a"]: {part["part"]: part for part in one["parts"]} for one in found.json()["layers"]}
    assert {part["status"] for layer in layers.values() for part in layer.values()} <= {"identical", "rounding"}
    left = by_kind(layers, lambda layer, part: [1 - head["relative_l2"] for head in layer[part]["heads"]])
    norms = {kind: {part: head_norms(case.values[kind][part]) for part in "qkv"} for kind in KINDS}
    return {kind: {part: left[kind][part] * norms[kind][part] for part in "qkv"} for kind in KINDS}


def analyze(case: Case, run: Any) -> Answer:
    """The largest singular value and the stable rank of a head have its norm; that of OV is torch's as well."""
    found = run("analyze", case.encoded, "--heads", HEADS, "-f", "json").json()["layers"]
    layers = {one["layer"]: one["heads"] for one in found}
    for kind, layer in LAYERS.items():
        for number, head in enumerate(layers[layer]):
            rows = slice(number * WIDTH // HEADS, (number + 1) * WIDTH // HEADS)
            circuit = case.values[kind]["o"][:, rows].double() @ case.values[kind]["v"][rows].double()
            assert head["ov"]["largest"] == pytest.approx(float(torch.linalg.matrix_norm(circuit, 2)), rel=1e-6)
    return by_kind(
        layers, lambda heads, part: [head[part]["largest"] * head[part]["stable_rank"] ** 0.5 for head in heads]
    )


def explain(case: Case, run: Any) -> Answer:
    """The code is run as it is printed."""
    found = run("explain", case.encoded, "--heads", HEADS, "-f", "json", "--no-evidence").json()["layers"]
    answer: Answer = {}
    for kind, layer in zip(KINDS, found, strict=True):
        scope: dict[str, Any] = {"torch": torch, "safetensors": safetensors}
        exec("\n".join(layer["code"]), scope)
        answer[kind] = {part: scope[part] for part in "qkv"}
        for part in "qkv":
            assert torch.equal(scope[f"{part}_heads"].flatten(0, 1), scope[part])
    return answer


def export(case: Case, run: Any) -> Answer:
    out = case.folder / "out.safetensors"
    done = run("export", "--split", case.encoded, "-o", out, "--dequantize", "float32", "--no-evidence")
    assert done.code == 0, done.err
    written = load_file(out)
    return {k: {part: written[f"{layer}.{part}_proj.weight"] for part in "qkv"} for k, layer in LAYERS.items()}


def convert(case: Case, run: Any) -> Answer:
    out = case.folder / "packed.safetensors"
    flags = ("--to", "torch-mha", "-o", out, "--heads", HEADS, "--dequantize", "float32", "--no-evidence")
    done = run("convert", case.encoded, *flags)
    assert done.code == 0, done.err
    written = load_file(out)
    thirds = {kind: written[f"{layer}.in_proj_weight"].chunk(3) for kind, layer in LAYERS.items()}
    return {kind: dict(zip("qkv", found, strict=True)) for kind, found in thirds.items()}


def scan(case: Case, run: Any) -> Answer:
    out = case.folder / "rows.jsonl"
    assert run("scan", case.encoded, "-o", out, "--heads", HEADS, "--jobs", "1", "--no-evidence").code == 0
    norms: dict[str, dict[str, dict[int, float]]] = {}
    for row in map(json.loads, out.read_text().splitlines()):
        if row["part"] in ("q", "k", "v") and row["head"] is not None:
            norms.setdefault(row["layer"], {}).setdefault(row["part"], {})[row["head"]] = row["norm"]
    return by_kind(norms, lambda layer, part: [layer[part][head] for head in range(HEADS)])


def report(case: Case, run: Any) -> Answer:
    """The numbers that the scripts of the page draw."""
    out = case.folder / "report.html"
    assert run("report", case.encoded, "--heads", HEADS, "-o", out, "--no-evidence", "--no-analysis").code == 0
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', out.read_text(), re.DOTALL)
    rows = {row["name"]: row["sides"][0]["values"] for row in json.loads(data)["rows"]}
    return by_kind(rows, lambda values, part: values[f"{part}_norm"])


PAGED = tuple(KINDS)[::5]
"""A layer of each form, whose pages every run looks at."""


def browse(case: Case, run: Any, kinds: Sequence[str] = PAGED) -> Answer:
    """What the page of each layer shows."""
    from qkvinspect.tui.app import Browser
    from qkvinspect.tui.session import Session
    from tests.tui.test_browser import look_at, shown

    options = Options(norms=False, heads=HEADS)
    norms: Answer = {}

    async def go() -> None:
        with open_checkpoint(case.encoded) as checkpoint:
            app = Browser(Session(inspect(checkpoint, options), options))
            async with app.run_test(size=(80, 24)) as pilot:
                await pilot.pause()
                for number, kind in enumerate(LAYERS):
                    if kind not in kinds:
                        continue
                    await look_at(app, number)
                    rows = [line.split() for line in shown(app, "#text").splitlines()]
                    heads = [
                        next(row for row in rows if row[:1] == [str(head)] and "rows" not in row)
                        for head in range(HEADS)
                    ]
                    numbers = [[float(cell) for cell in row[1:] if ":" not in cell] for row in heads]
                    norms[kind] = {
                        part: torch.tensor([row[at] for row in numbers], dtype=torch.float64)
                        for at, part in enumerate("qkv")
                    }

    asyncio.run(go())
    return norms


def browse_the_others(case: Case, run: Any) -> Answer:
    return browse(case, run, [kind for kind in KINDS if kind not in PAGED])


def python(case: Case, run: Any) -> Answer:
    answer: Answer = {}
    with qkvinspect.open(case.encoded, heads=HEADS) as checkpoint:
        for kind, name in LAYERS.items():
            layer = checkpoint.attentions[name]
            answer[kind] = {part: torch.from_numpy(getattr(layer, part).numpy()) for part in "qkv"}
            second = slice(WIDTH // HEADS, 2 * WIDTH // HEADS)
            for part in "qkv":
                assert torch.equal(getattr(layer.heads[1], part).torch(), answer[kind][part][second])
    return answer


CONSUMERS: dict[Callable[[Case, Any], Answer], float] = {
    show: 1e-6,
    check: 1e-5,
    diff: 1e-6,
    analyze: 1e-6,
    explain: 1e-6,
    export: 1e-6,
    convert: 1e-6,
    scan: 1e-6,
    report: 1e-5,
    browse: 1e-5,
    browse_the_others: 1e-5,
    python: 1e-6,
}
"""Each with how far it may be off, relative: the digits that it prints, or a rounding of float32."""


def head_norms(values: torch.Tensor) -> torch.Tensor:
    return values.double().reshape(HEADS, -1).norm(dim=1)


@pytest.mark.parametrize(
    "consumer",
    long(
        {analyze, browse, check, diff, report}.__contains__, those(lambda one: one is not browse_the_others, CONSUMERS)
    ),
)
def test_all_agree_with_torch(consumer: Callable[[Case, Any], Answer], case: Case, run: Any) -> None:
    answer = consumer(case, run)

    def agrees(kind: str) -> None:
        for part in "qkv":
            found, values = answer[kind][part], case.values[kind][part]
            expected = {0: values.double().norm(), 1: head_norms(values), 2: values.double()}[found.ndim]
            torch.testing.assert_close(found.double(), expected, rtol=CONSUMERS[consumer], atol=0)

    others = [kind for kind in KINDS if kind not in PAGED]
    kinds = {browse: PAGED, browse_the_others: others}.get(consumer, KINDS)
    each(((kind, kind) for kind in kinds), agrees)


def projections(shape: tuple[int, ...], leaf: str) -> State:
    parts = {part: scaled(shape, leaf)[0] for part in "qkvo"}
    return {f"l.0.self_attn.{part}_proj.{name}": value for part, held in parts.items() for name, value in held.items()}


def test_a_float8_copy_of_an_original_is_within_its_rounding(tmp_path: Path, run) -> None:
    torch.manual_seed(1)
    stored: State = {}
    original: State = {}
    for part in "qkvo":
        weight = torch.randn(64, 64).to(torch.bfloat16)
        scale = weight.float().abs().max() / 448
        name = f"l.0.self_attn.{part}_proj"
        original[f"{name}.weight"] = weight
        stored |= {
            f"{name}.weight": (weight.float() / scale).to(torch.float8_e4m3fn),
            f"{name}.weight_scale": scale,
        }
    save_file(original, tmp_path / "a.safetensors")
    save_file(stored, tmp_path / "b.safetensors")
    found = run("diff", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "-f", "json", "--no-evidence")
    parts = {part["part"]: part for part in json.loads(found.out)["layers"][0]["parts"]}
    assert found.code == 0
    assert {part["status"] for part in parts.values()} == {"rounding"}
    assert 0.02 < parts["q"]["relative_l2"] < 0.04


def test_a_missing_and_a_misshapen_scale_are_named(tmp_path: Path, run) -> None:
    for case in ("missing", "misshapen"):
        stored = projections((), "weight_scale")
        if case == "missing":
            del stored["l.0.self_attn.k_proj.weight_scale"]
        else:
            stored["l.0.self_attn.k_proj.weight_scale"] = torch.ones(3)
        path = tmp_path / f"{case}.safetensors"
        save_file(stored, path)
        found = run("check", path, "--heads", "4")
        assert found.code == 1
        assert "no-values" in found.out
        assert "l.0.self_attn.k_proj.weight_scale" in found.out


def test_scales_of_zero_are_zero_parts_and_heads(tmp_path: Path, run) -> None:
    stored = projections((256, 1), "weight_scale")
    stored["l.0.self_attn.v_proj.weight_scale"][192:] = 0
    stored["l.0.self_attn.k_proj.weight_scale"][:] = 0
    save_file(stored, tmp_path / "m.safetensors")
    found = json.loads(run("check", tmp_path / "m.safetensors", "--heads", "4", "-f", "json").out)
    codes = {finding["code"] for result in found["checkpoints"] for finding in result["findings"]}
    assert {"zero-part", "zero-head"} <= codes


@pytest.mark.parametrize(("rows", "cols"), [(128, 128), (129, 257), (256, 384), (130, 64)])
def test_float8_values_past_the_first_block_have_the_scale_of_their_own(tmp_path: Path, rows: int, cols: int) -> None:
    """Scales that differ from block to block: with blocks of 127, the rows and columns at the seams come out wrong."""
    down, across = -(-rows // 128), -(-cols // 128)
    codes = torch.randn(rows, cols).to(torch.float8_e4m3fn)
    scales = 2.0 ** torch.arange(down * across).view(down, across)
    path = tmp_path / "model.safetensors"
    save_file({"l.q_proj.weight": codes, "l.q_proj.weight_scale_inv": scales}, path)
    spread = scales.repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :cols]
    with open_checkpoint(path) as checkpoint:
        weight = weights_of(checkpoint)["l.q_proj.weight"]
        assert weight.encoding is not None
        values = weight.encoding.decode(range(rows), range(cols))
    assert torch.equal(torch.from_numpy(values.astype("float32")), codes.float() * spread)
