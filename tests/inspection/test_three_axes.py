"""Parameters of three axes that can be read in two ways, and layers that are stacked on one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import qkvinspect
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from tests.inspection.test_patterns import report

E, H, D = 48, 4, 12
Shapes = dict[str, tuple[int, ...]]

NORM: Shapes = {"ln.weight": (E,), "ln.bias": (E,)}
EMBEDDING: Shapes = {"emb.weight": (100, E)}


def parameters(names: tuple[str, ...], kv_heads: int = H) -> dict[str, torch.Tensor]:
    heads = dict(zip(names, (H, kv_heads, kv_heads), strict=True))
    return {name: torch.randn(count, D, E) for name, count in heads.items()}


@pytest.mark.parametrize("kv_heads", [H, 2])
@pytest.mark.parametrize("beside", [NORM, EMBEDDING], ids=["a norm", "an embedding"])
def test_the_width_of_the_stream_says_which_axis_is_read(tmp_path: Path, beside: Shapes, kv_heads: int) -> None:
    """einsum('bte,hde->bhtd') and back with einsum('bhtd,hed->bte'): the matrix of Q is what torch multiplies with."""
    state = parameters(("attn.w_q", "attn.w_k", "attn.w_v"), kv_heads)
    path, x = tmp_path / "model.safetensors", torch.randn(2, 5, E)
    others = {name: torch.randn(shape) for name, shape in beside.items()}
    save_file({**state, "attn.w_o": torch.randn(H, E, D), **others}, path)
    with open_checkpoint(path) as checkpoint:
        (attention,) = inspect(checkpoint).attentions
    assert attention.heads is not None
    assert (attention.heads.num_heads, attention.heads.num_kv_heads, attention.heads.head_dim) == (H, kv_heads, D)
    opened = qkvinspect.open(path).attentions["attn"]
    for part, read in zip("qkv", (opened.q, opened.k, opened.v), strict=True):
        expected = torch.einsum("bte,hde->bthd", x, state[f"attn.w_{part}"])
        assert torch.allclose((x @ read.torch().T).unflatten(-1, (-1, D)), expected, atol=1e-5)


def test_the_other_way_round_the_same_width_says_so() -> None:
    """[heads, in, head_dim] and back with [heads, head_dim, out], without a bias, beside a norm."""
    shapes: Shapes = {f"attn.W_{part}": (H, E, D) for part in "QKV"} | {"attn.W_O": (H, D, E)}
    (attention,) = report(shapes | NORM).attentions
    assert attention.heads is not None
    assert (attention.heads.head_dim, attention.embed_dim) == (D, E)


UNDECIDED: dict[str, Shapes] = {
    "nothing beside": {},
    "a width of either": {"ln.weight": (E,), "other.weight": (D,)},
    "only the norm of a head": {"attn.q_norm.weight": (D,)},
}


@pytest.mark.parametrize("beside", UNDECIDED.values(), ids=UNDECIDED)
def test_where_both_ways_fit_neither_is_taken(beside: Shapes) -> None:
    shapes: Shapes = {f"l.0.attn.W_{part}": (H, D, E) for part in "QKV"} | {"l.0.attn.W_O": (H, E, D)}
    found = report({**shapes, **{f"l.0.{name}": shape for name, shape in beside.items()}})
    assert found.attentions == ()
    (finding,) = found.findings
    assert finding.code == "unrecognised-attention"
    assert "[heads, in, head_dim] or [heads, head_dim, in]" in finding.message


def stacked(make: Callable[[], nn.Module], layers: int = 6) -> Shapes:
    """The shapes that torch.func.stack_module_state gives."""
    parameters, _ = torch.func.stack_module_state([make() for _ in range(layers)])
    return {name: tuple(value.shape) for name, value in parameters.items()}


def scanned(order: tuple[int, ...], layers: int = 6) -> Shapes:
    """A block as flax's nn.scan keeps it, the axis of layers first, or second as MaxText has it."""
    one: Shapes = {f"attn.{part}.kernel": (E, H, D) for part in ("query", "key", "value")}
    one |= {
        "attn.out.kernel": (H, D, E),
        "norm.scale": (E,),
        "mlp.up.kernel": (E, 4 * E),
        "mlp.down.kernel": (4 * E, E),
    }
    at = order.index(0)
    every = {f"layers.{name}": (*shape[:at], layers, *shape[at:]) for name, shape in one.items()}
    return {**every, "embed.embedding": (100, E)}


def apart() -> nn.Module:
    return nn.ModuleDict({"attn": nn.ModuleDict({f"{part}_proj": nn.Linear(E, E, bias=False) for part in "qkvo"})})


STACKED: dict[str, tuple[Shapes, str]] = {
    "nn.MultiheadAttention": (stacked(lambda: nn.MultiheadAttention(E, H)), "6 layers stacked along the first axis"),
    "a block of torch": (
        stacked(lambda: nn.TransformerEncoderLayer(E, H, 96)),
        "6 layers stacked along the first axis",
    ),
    "projections apart": (stacked(apart), "6 layers stacked along the first axis"),
    "as many as heads": (stacked(apart, H), "4 layers stacked along the first axis"),
    "scanned": (scanned((0, 1)), "6 layers stacked along the first axis"),
    "scanned, MaxText": (scanned((1, 0)), "6 layers stacked along the second axis"),
    "bare parameters in a stack": (
        {f"layers.attn.W_{part}": (6, E, E) for part in "QKVO"} | {"layers.ln.scale": (6, E), "layers.mlp": (6, E, 9)},
        "6 layers stacked along the first axis",
    ),
}


@pytest.mark.parametrize(("shapes", "words"), STACKED.values(), ids=STACKED)
@pytest.mark.parametrize("heads", [(), ("4",)], ids=["", "--heads"])
def test_layers_stacked_on_an_axis_are_said_and_not_cut(shapes: Shapes, words: str, heads: tuple[str, ...]) -> None:
    found = report(shapes, heads=heads)
    assert found.attentions == ()
    said = [finding for finding in found.findings if finding.code == "unrecognised-attention"]
    assert [words in finding.message for finding in said] == [True]


def test_heads_beside_norms_of_one_axis_are_no_layers() -> None:
    """As many experts as heads, but a norm as wide as the stream: nothing is stacked."""
    shapes: Shapes = {f"l.0.attn.W_{part}": (H, E, D) for part in "QKV"} | {"l.0.attn.W_O": (H, D, E)}
    (attention,) = report({**shapes, "l.0.ln.weight": (E,), "l.0.experts.w1": (H, E, 96)}).attentions
    assert attention.heads is not None
    assert attention.heads.num_heads == H


def test_convolutions_are_no_stacked_layers() -> None:
    shapes: Shapes = {f"attn.{part}.weight": (E, E, 3, 3) for part in ("query", "key", "value", "proj")}
    assert len(report(shapes).attentions) == 1


@pytest.mark.parametrize("sizes", [(9, 3, 3), (16, 4, 4), (32, 8, 4), (48, 8, 6), (49, 7, 7), (64, 16, 4), (64, 1, 16)])
@pytest.mark.parametrize("bias", [True, False])
def test_heads_of_flax_may_be_narrow(tmp_path: Path, sizes: tuple[int, int, int], bias: bool) -> None:
    """What MultiHeadDotProductAttention keeps, [in, heads, head_dim], against the einsum that it computes."""
    width, heads, dim = sizes
    tensors = {f"m.attn.{n}.kernel": torch.randn(width, heads, dim) for n in ("query", "key", "value")}
    tensors["m.attn.out.kernel"] = torch.randn(heads, dim, width)
    if bias:
        tensors |= {f"m.attn.{n}.bias": torch.randn(heads, dim) for n in ("query", "key", "value")}
    save_file(tensors, tmp_path / "m.safetensors")
    with open_checkpoint(tmp_path / "m.safetensors") as checkpoint:
        (found,) = inspect(checkpoint, Options(norms=False)).attentions
        assert found.heads is not None
        assert (found.heads.num_heads, found.heads.head_dim) == (heads, dim)
        for part, name in zip(found.parts, ("query", "key", "value"), strict=True):
            expected = tensors[f"m.attn.{name}.kernel"].permute(1, 2, 0).flatten(0, 1)
            torch.testing.assert_close(torch.from_numpy(np.array(part)), expected)


@pytest.mark.parametrize("size", [4, 16])
def test_blocks_of_a_diagonal_are_no_rows_of_one_matrix(size: int) -> None:
    """xLSTM's LinearHeadwiseExpand: [blocks, out of a block, in of a block], whatever a config says of heads."""
    shapes: Shapes = {f"blocks.0.xlstm.{part}_proj.weight": (32, size, size) for part in "qkv"}
    told = report({**shapes, "blocks.0.xlstm.proj_down.weight": (64, 32 * size), "blocks.0.norm.weight": (64,)})
    assert not told.attentions
    assert told.account is not None
    (found,) = told.account.unrecognised
    assert "blocks of a diagonal" in found.why


def test_more_inputs_than_heads_are_not_said_to_be_layers() -> None:
    """Praxis keeps [in, heads, head_dim] under ``w``."""
    shapes: Shapes = {f"lm/x/self_attention/{name}/w": (E, H, D) for name in ("query", "key", "value", "post")}
    told = report(shapes)
    assert told.account is not None
    (found,) = told.account.unrecognised
    assert "[in, heads, head_dim]" in found.why
