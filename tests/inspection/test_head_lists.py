"""One Linear a head is one attention with as many heads, whatever is kept as a list and whatever is shared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from tests.inspection.test_patterns import report

E, H, D = 48, 4, 12
Shapes = dict[str, tuple[int, ...]]


def heads(prefix: str, count: int = H, *words: str, shape: tuple[int, ...] = (D, E), leaf: str = ".weight") -> Shapes:
    """``prefix`` with a number for ``{}``, once for each word and head."""
    return {prefix.format(head) + word + leaf: shape for head in range(count) for word in words}


class OneHead(torch.nn.Module):
    """A head as the lecture writes it, with and without biases."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.key, self.query, self.value = (torch.nn.Linear(E, D, bias=bias) for _ in range(3))
        self.register_buffer("tril", torch.tril(torch.ones(8, 8)))


class ManyHeads(torch.nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.list = [OneHead(bias) for _ in range(H)]
        self.heads = torch.nn.ModuleList(self.list)
        self.proj = torch.nn.Linear(E, E)


@pytest.fixture(params=[False, True], ids=["plain", "with biases"])
def lecture(request: Any, tmp_path: Path) -> tuple[ManyHeads, Path]:
    model = ManyHeads(request.param)
    stack = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([torch.nn.ModuleDict({"sa": model})])})
    torch.save(stack.state_dict(), tmp_path / "gpt.pt")
    return model, tmp_path / "gpt.pt"


def test_each_head_s_rows_are_those_of_its_own_linear(lecture: tuple[ManyHeads, Path]) -> None:
    model, path = lecture
    with open_checkpoint(path) as checkpoint:
        (attention,) = inspect(checkpoint, Options()).attentions
        assert (attention.layer, attention.heads_from) == ("blocks.0.sa", "tensor:blocks.0.sa.heads.*.query.weight")
        for name, word in (("q", "query"), ("k", "key"), ("v", "value")):
            part = attention.part(name)
            assert part is not None
            linears: list[torch.nn.Linear] = [getattr(one, word) for one in model.list]
            assert np.array_equal(part.numpy(), torch.cat([one.weight for one in linears]).detach().numpy())
            norms = [one.weight.norm().item() for one in linears]
            assert [one.norm for one in part.head_measures] == pytest.approx(norms, rel=1e-6)
            assert (part.bias is None) == (linears[0].bias is None)
    assert attention.out is not None
    assert attention.out.name == "blocks.0.sa.proj.weight"


def test_the_code_of_explain_gives_the_same_rows(lecture: tuple[ManyHeads, Path], run: Any) -> None:
    model, path = lecture
    code = run("explain", path, "-f", "json").json()["layers"][0]["code"]
    values: dict[str, Any] = {}
    exec("\n".join(code), values)
    assert torch.equal(values["q_heads"][2], model.list[2].query.weight)
    if model.list[0].value.bias is not None:
        assert torch.equal(values["v_bias"], torch.cat([one.value.bias for one in model.list]))


def test_heads_that_a_person_gives_are_used_and_the_tensors_heard(lecture: tuple[ManyHeads, Path], run: Any) -> None:
    """A config may speak of another model than ``--heads`` does; tensors that are one a head do not."""
    _, path = lecture
    shown = run("show", path, "--heads", H // 2, "--no-norms")
    told = "--heads was used, but tensor:blocks.0.sa.heads.*.query.weight says 4 heads x 12"
    assert f"{H // 2} heads x {2 * D} (--heads)" in shown.out
    assert told in shown.out
    assert "heads-disagree" in run("check", path, "--heads", H // 2).out
    assert "warning" not in run("show", path, "--heads", H, "--no-norms").out


def test_every_tensor_of_the_file_is_counted_and_listed(lecture: tuple[ManyHeads, Path], run: Any) -> None:
    _, path = lecture
    stored = torch.load(path)
    told = run("show", path, "--tensors", "-f", "json").json()
    assert {one["name"] for one in told["every_tensor"]} == set(stored)
    assert sum(told["tensors"].values()) == len(stored)


def test_heads_are_written_and_read_again(lecture: tuple[ManyHeads, Path], run: Any, tmp_path: Path) -> None:
    model, path = lecture
    assert run("export", path, "-o", tmp_path / "qkv.safetensors").code == 0
    assert run("diff", path, tmp_path / "qkv.safetensors", "--heads", str(H), "-f", "json").json()["layers"]
    assert run("convert", path, "--to", "torch-mha", "-o", tmp_path / "mha.pt").code == 0
    written = torch.load(tmp_path / "mha.pt")["blocks.0.sa.in_proj_weight"]
    parts = (torch.cat([getattr(one, word).weight for one in model.list]) for word in ("query", "key", "value"))
    assert torch.equal(written, torch.cat(list(parts)))


OUT = {"b.0.attn.out.weight": (E, E)}
FOUND: dict[str, tuple[Shapes, str, int, int]] = {
    "a list for each word": (
        heads("b.0.attn.queries.{}", H, "") | heads("b.0.attn.keys.{}", H, "") | heads("b.0.attn.values.{}", H, "")
        | OUT, "b.0.attn", H, H,
    ),
    "grouped": (
        heads("b.0.attn.wq.{}", H, "") | heads("b.0.attn.wk.{}", 2, "") | heads("b.0.attn.wv.{}", 2, "") | OUT,
        "b.0.attn", H, 2,
    ),
    "one K and one V for all": (
        heads("b.0.attn.queries.{}", H, "") | {"b.0.attn.key.weight": (D, E), "b.0.attn.value.weight": (D, E)} | OUT,
        "b.0.attn", H, 1,
    ),
    "one K and one V beside a list of heads": (
        heads("b.0.attn.heads.{}.", H, "query") | {"b.0.attn.key.weight": (D, E), "b.0.attn.value.weight": (D, E)}
        | OUT, "b.0.attn", H, 1,
    ),
    "K and V of two groups in one tensor each": (
        heads("b.0.attn.q.{}", H, "") | {"b.0.attn.k.weight": (2 * D, E), "b.0.attn.v.weight": (2 * D, E)} | OUT,
        "b.0.attn", H, 2,
    ),
    "the number in the name": (heads("b.0.attn.head_{}.", H, "W_q", "W_k", "W_v"), "b.0.attn", H, H),
    "the number within the name": (heads("b.0.attn.head_{}_", 12, "query", "key", "value", shape=(4, E)), "b.0.attn",
                                   12, 12),
    "the same, shorter": (heads("b.0.attn.h{}_", H, "q", "k", "v"), "b.0.attn", H, H),
    "heads of attention by name": (heads("b.0.attn_heads.{}.", H, "to_q", "to_k", "to_v"), "b.0.attn_heads", H, H),
    "heads of other widths than the model's": (
        heads("b.0.attn.heads.{}.", 3, "q", "k", "v", shape=(8, E)) | {"b.0.attn.out.weight": (E, 24)},
        "b.0.attn", 3, 3,
    ),
    "as wide as the model, each": (
        heads("b.0.attn.heads.{}.", 3, "q", "k", "v", shape=(E, E)) | {"b.0.attn.out.weight": (E, 3 * E)},
        "b.0.attn", 3, 3,
    ),
    "wrapped": (heads("module.b.0.attn.heads.{}.", H, "q", "k", "v"), "module.b.0.attn", H, H),
    "a Sequential each": (heads("b.0.attn.heads.{}.", H, "q", "k", "v", leaf=".0.weight"), "b.0.attn", H, H),
    "convolutions": (heads("b.0.attn.heads.{}.", H, "q", "k", "v", shape=(D, E, 1, 1)), "b.0.attn", H, H),
    "slashes": (
        heads("params/b_0/attn/heads_{}/", H, "query", "key", "value", shape=(E, D), leaf="/kernel"),
        "params/b_0/attn", H, H,
    ),
    "two digits": (heads("b.0.attn.heads.{}.", 12, "q", "k", "v", shape=(4, E)), "b.0.attn", 12, 12),
}  # fmt: skip


@pytest.mark.parametrize(("shapes", "layer", "count", "kv_count"), FOUND.values(), ids=FOUND)
def test_lists_of_heads_are_one_module(shapes: Shapes, layer: str, count: int, kv_count: int) -> None:
    (attention,) = report(shapes).attentions
    assert attention.heads is not None
    assert (attention.layer, attention.heads.num_heads, attention.heads.num_kv_heads) == (layer, count, kv_count)
    listed = {info.name for weight in attention.weights for info in weight.stored}
    assert listed == {name for name in shapes if not is_output(name)}


def is_output(name: str) -> bool:
    return name.endswith("out.weight")


def test_one_fused_linear_a_head_is_never_cut_in_blocks(tmp_path: Path) -> None:
    tensors = {name: torch.randn(shape) for name, shape in heads("attn.heads.{}.", H, "qkv", shape=(3 * D, E)).items()}
    save_file({**tensors, "attn.out.weight": torch.randn(E, E)}, tmp_path / "m.safetensors")
    with open_checkpoint(tmp_path / "m.safetensors") as checkpoint:
        (open,) = inspect(checkpoint, Options(norms=False)).attentions
        assert open.candidates == ("pattern-per-head", "pattern-row-by-row")
        (attention,) = inspect(checkpoint, Options(norms=False, layouts=(("attn", "pattern-per-head"),))).attentions
        key = attention.part("k")
        assert key is not None
        assert key.heads == tuple(range(head * 3 * D + D, head * 3 * D + 2 * D) for head in range(H))
        chunks = [tensors[f"attn.heads.{head}.qkv.weight"].chunk(3)[1] for head in range(H)]
        assert np.array_equal(key.numpy(), torch.cat(chunks).numpy())


APART: dict[str, Shapes] = {
    "whole attentions, one a task": heads("heads.{}.attn.", 2, "q_proj", "k_proj", "v_proj", "out_proj", shape=(E, E)),
    "an entry for each kind of node": heads("conv.q_linears.{}", 5, "", shape=(E, E))
    | heads("conv.k_linears.{}", 5, "", shape=(E, E)) | heads("conv.v_linears.{}", 5, "", shape=(E, E)),
}  # fmt: skip


@pytest.mark.parametrize("shapes", APART.values(), ids=APART)
def test_lists_of_attentions_stay_lists(shapes: Shapes) -> None:
    found = report(shapes).attentions
    assert len(found) == len(shapes) // (4 if "heads.0.attn.q_proj.weight" in shapes else 3)


NONE: dict[str, Shapes] = {
    "classifiers": heads("heads.{}.", H, "query", "key", "value", shape=(4, E)),
    "V for all heads, Q and K for each": heads("attn.q_layers.{}", H, "") | heads("attn.k_layers.{}", H, "")
    | {"attn.v_layer.weight": (D, E), "attn.out.weight": (E, D)},
    "experts": heads("mlp.experts.{}.", H, "w1", "w2"),
}  # fmt: skip


@pytest.mark.parametrize("shapes", NONE.values(), ids=NONE)
def test_what_makes_up_no_heads_is_not_joined(shapes: Shapes) -> None:
    assert report(shapes).attentions == ()


CHANGES: dict[str, tuple[str | None, Shapes]] = {
    "a gap": ("a.attn.heads.1.q.weight", {}),
    "another shape": (None, {"a.attn.heads.1.q.weight": (D + 1, E)}),
    "a bias of one": (None, {"a.attn.heads.0.q.bias": (D,)}),
    "a star": (None, {"a.attn.heads.*.q.weight": (D, E)}),
    "the name is taken": (None, {"a.attn.q.weight": (E, E)}),
}


@pytest.mark.parametrize(("gone", "more"), CHANGES.values(), ids=CHANGES)
def test_a_list_that_is_not_whole_is_no_list(gone: str | None, more: Shapes) -> None:
    shapes = heads("a.attn.heads.{}.", H, "q", "k", "v") | {"a.attn.out.weight": (E, E)} | more
    shapes.pop(gone or "", None)
    told = report(shapes)
    assert not any(attention.heads_from.startswith("tensor:") for attention in told.attentions)
    assert told.account is not None
    assert set(told.account.statuses()) == set(shapes)


def test_flax_lays_each_head_as_columns(tmp_path: Path) -> None:
    shapes = heads("params/attn/heads_{}/", H, "query", "key", "value", shape=(E, D), leaf="/kernel")
    tensors = {name: torch.randn(shape) for name, shape in shapes.items()}
    save_file(tensors, tmp_path / "m.safetensors")
    with open_checkpoint(tmp_path / "m.safetensors") as checkpoint:
        (attention,) = inspect(checkpoint, Options(norms=False)).attentions
        part = attention.part("k")
        assert part is not None
        expected = torch.cat([tensors[f"params/attn/heads_{head}/key/kernel"].T for head in range(H)])
        assert np.array_equal(part.numpy(), expected.numpy())
        assert np.array_equal(part[13:40:5, 1:9], expected[13:40:5, 1:9].numpy())
