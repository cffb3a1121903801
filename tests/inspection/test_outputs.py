"""Several attentions in one module: each has the output projection that is its own, or none; never another's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import scaled_dot_product_attention

from qkvinspect.checkpoint import Checkpoint, Config, Region, TensorInfo, contiguous_strides
from qkvinspect.dtypes import DTYPES
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.inspection.model import in_short
from qkvinspect.weights.encodings import weights_of
from tests.inspection.test_patterns import report

E = 32


def outputs(folder: Path, tensors: Mapping[str, torch.Tensor], **options: int) -> dict[str, str | None]:
    """The output projection of each attention that is found."""
    save_file(dict(tensors), folder / "model.safetensors")
    with open_checkpoint(folder / "model.safetensors") as checkpoint:
        report = inspect(checkpoint, Options(norms=False, **options))
    return {attention.layer: attention.out.name if attention.out else None for attention in report.attentions}


def squares(*names: str) -> dict[str, torch.Tensor]:
    return {f"b.{name}.weight": torch.zeros(E, E) for name in names}


def spelled(form: str, words: Sequence[str], labels: Sequence[object]) -> dict[str, torch.Tensor]:
    return squares(*(form.format(word, label) for label in labels for word in words))


SELF, CROSS = [f"self_{letter}" for letter in "qkv"], [f"cross_{letter}" for letter in "qkv"]


@pytest.mark.parametrize(
    ("form", "words", "labels"),
    [
        ("{1}_{0}", "qkvo", ("self", "cross")),
        ("{0}_{1}", "qkvo", ("self", "cross")),
        ("{0}_proj_{1}", ("q", "k", "v", "out"), ("node", "edge")),
        ("to_{1}_{0}", ("q", "k", "v", "out"), ("txt", "img")),
        ("attn.{0}_{1}", ("query", "key", "value", "out"), (1, 2, 3)),
        ("{0}{1}", "qkvo", (1, 2)),
        ("W{0}{1}", "qkvo", (0, 1, 2)),
        ("attn.to_{0}.{1}", ("q", "k", "v", "out"), (0, 1, 2)),
        ("mha.W{0}.{1}", "QKVO", (0, 1, 2)),
    ],
)
def test_each_has_its_own(tmp_path: Path, form: str, words: Sequence[str], labels: Sequence[object]) -> None:
    found = outputs(tmp_path, spelled(form, words, labels))
    assert len(found) == len(labels)
    for layer, out in found.items():
        label = next(label for label in labels if str(label) in layer.split(".")[-1])
        assert out == f"b.{form.format(words[-1], label)}.weight"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([*SELF, *CROSS, "out"], {"self": None, "cross": None}),
        ([*SELF, *CROSS, "self_o"], {"self": "self_o", "cross": None}),
        ([*SELF, *CROSS, "cross_o"], {"self": None, "cross": "cross_o"}),
        ([*SELF, *CROSS, "self_o", "ffn_out"], {"self": "self_o", "cross": None}),
        ([*SELF, *CROSS, "self_fc", "self_dense", "cross_o", "cross_fc"], {"self": None, "cross": "cross_o"}),
        (["q", "k", "v", *SELF, "out"], {"": "out", "self": None}),
        (["q", "k", "v", *SELF, "self_out"], {"": None, "self": "self_out"}),
        ([*SELF, "cross_q", "cross_o"], {"": None}),
        ([*SELF, "cross_q", "cross_o", "self_o"], {"": "self_o"}),
        ([f"attn.{word}.{at}" for word in ("q", "k", "v") for at in (0, 1)] + ["attn.out"], {"0": None, "1": None}),
        (
            [f"attn.{word}.{at}" for word in ("q", "k", "v") for at in (0, 1)] + ["attn.out.0"],
            {"0": None, "1": None},
        ),
    ],
)
def test_where_it_cannot_be_told_none_is_claimed(
    tmp_path: Path, names: Sequence[str], expected: Mapping[str, str | None]
) -> None:
    found = outputs(tmp_path, squares(*names))
    stem = "b.attn" if names[0].startswith("attn") else "b"
    assert found == {
        f"{stem}.{layer}".strip("."): None if out is None else f"b.{out}.weight" for layer, out in expected.items()
    }


def test_entries_with_an_output_each_are_no_heads(tmp_path: Path) -> None:
    """A narrow entry of a list may have any number of heads, if what reads it is not shared."""
    narrow = {f"attn.to_{n}.{i}.weight": torch.zeros(E // 2, E) for i in range(3) for n in "qkv"}
    wide = {f"attn.to_out.{i}.weight": torch.zeros(E, E // 2) for i in range(3)}
    save_file({**narrow, **wide}, tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path / "model.safetensors") as checkpoint:
        report = inspect(checkpoint, Options(norms=False))
    assert [(a.layer, a.heads_fact) for a in report.attentions] == [(f"attn.{i}", None) for i in range(3)]


class Decoder(torch.nn.Module):
    """A block that holds its two attentions itself."""

    def __init__(self) -> None:
        super().__init__()
        for kind in ("cross", "self"):
            for letter in "qkvo":
                self.add_module(f"{kind}_{letter}", torch.nn.Linear(E, E))

    def attend(self, kind: str, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            self.get_submodule(f"{kind}_{letter}")(of).unflatten(-1, (4, -1)).transpose(-2, -3)
            for letter, of in (("q", x), ("k", memory), ("v", memory))
        )
        return self.get_submodule(f"{kind}_o")(scaled_dot_product_attention(q, k, v).transpose(-2, -3).flatten(-2))

    def forward(self, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        x = x + self.attend("self", x, x)
        return x + self.attend("cross", x, memory)


def test_what_is_converted_computes_the_same(tmp_path: Path, run: Any) -> None:
    torch.manual_seed(0)
    block = Decoder()
    save_file({f"b.{name}": value for name, value in block.state_dict().items()}, tmp_path / "model.safetensors")
    done = run(
        "convert", tmp_path / "model.safetensors", "--to", "torch-mha", "--heads", "4", "-o", tmp_path / "mha.pt"
    )
    assert done.code == 0, done.err
    stored = torch.load(tmp_path / "mha.pt", weights_only=True)
    x, memory = torch.randn(2, 5, E), torch.randn(2, 7, E)
    y = x
    for kind, of in (("self", None), ("cross", memory)):
        attention = torch.nn.MultiheadAttention(E, 4, batch_first=True)
        attention.load_state_dict(
            {name.removeprefix(f"b.{kind}."): value for name, value in stored.items() if name.startswith(f"b.{kind}.")}
        )
        read = y if of is None else of
        y = y + attention(y, read, read, need_weights=False)[0]
    torch.testing.assert_close(y, block(x, memory))


KINDS: dict[str, tuple[dict[str, tuple[int, ...]], dict[str, str]]] = {
    "a dict of kinds": (
        {f"a.attn.{n}.{kind}.weight": (E, E) for n in ("q", "k", "v", "out") for kind in ("text", "image")},
        {"a.attn.text": "a.attn.out.text.weight", "a.attn.image": "a.attn.out.image.weight"},
    ),
    "numbered projections back": (
        {f"a.{n}_{i}.weight": (E, E) for n in ("q", "k", "v", "proj") for i in (1, 2)},
        {"a.1": "a.proj_1.weight", "a.2": "a.proj_2.weight"},
    ),
    "self- and cross-attention by two letters": (
        {f"a.{kind}_{n}.weight": (E, E) for n in ("q", "k", "v", "proj") for kind in ("sa", "ca")},
        {"a.sa": "a.sa_proj.weight", "a.ca": "a.ca_proj.weight"},
    ),
}


@pytest.mark.parametrize(("shapes", "outputs"), KINDS.values(), ids=KINDS)
def test_each_kind_has_its_own(shapes: dict[str, tuple[int, ...]], outputs: dict[str, str]) -> None:
    found = report(shapes).attentions
    assert {one.layer: one.tensors.get("out") for one in found} == outputs
    assert all(len({part.weight.name for part in one.parts}) == 3 for one in found)


def test_steps_of_a_network_are_no_kinds() -> None:
    steps = {f"a.attn.{n}.{step}.weight": (E, E) for n in ("q", "k", "v") for step in ("fc1", "fc2")}
    assert [one.layer for one in report(steps).attentions] == ["a.attn"]


def test_v_is_as_narrow_as_the_output_projection_reads() -> None:
    shapes = {"l.attn.my_qkv.weight": (3 * E, E), "l.attn.proj.weight": (E, E // 2)}
    (found,) = report(shapes, layouts=(("*", "pattern-blocks"),)).attentions
    rows = {part.name: part.shape[0] for part in found.parts}
    assert rows["v"] == E // 2
    assert rows["q"] == rows["k"] == (3 * E - E // 2) // 2


def test_rows_beside_the_tokens_are_no_projections() -> None:
    """x-transformers' mem_k and mem_v, and a null key: learned keys and values, which nothing projects."""
    shapes = {f"a.attn.to_{n}.weight": (E, E) for n in ("q", "k", "v", "out")}
    told = report(shapes | {f"a.attn.mem_{n}": (4, 8, E // 4) for n in "kv"} | {"a.attn.null_kv": (2, E // 4)})
    assert len(told.attentions) == 1
    assert told.account is not None
    assert told.account.unrecognised == ()


@pytest.mark.parametrize("said", ["architectures", "model_type", None])
def test_the_summary_names_the_architecture_that_the_config_gives(said: str | None) -> None:
    value = ["LlamaForCausalLM"] if said == "architectures" else "LlamaForCausalLM"
    shapes = {"model.layers.0.self_attn.q_proj.weight": (8, 8), "norm.weight": (8,)}
    configs = (Config("config:config.json", {said: value}),) if said else ()
    tensors = {
        name: TensorInfo(name, DTYPES["float32"], shape, contiguous_strides(shape), Region(None, 0, 0))  # pyright: ignore
        for name, shape in shapes.items()
    }
    checkpoint = Checkpoint("model", "test", 0, tensors, configs=configs)
    assert in_short(checkpoint, weights_of(checkpoint)).to_dict() == {
        "num_parameters": 72,
        "dtypes": {"float32": 72},
        "architecture": "LlamaForCausalLM" if said else None,
    }
