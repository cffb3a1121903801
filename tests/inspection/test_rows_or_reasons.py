"""Of what looks like attention, either a row to paste is printed, which then cuts what the module's forward does, or
why none can be written and what to do instead."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.layouts.from_settings import rows
from qkvinspect.render.results.account import closing
from tests.inspection import test_account
from tests.inspection.test_patterns import report

E, H, D = 48, 4, 12
Shapes = dict[str, tuple[int, ...]]

REASONS: dict[str, tuple[Shapes, str]] = {
    "four axes": ({"l.attn.qkv": (3, H, E, D), "l.attn.out": (H, D, E)}, "save each as a matrix"),
    "an output that reads the MLP": (
        {"l.attn.qkv_mlp_proj.weight": (7 * E, E), "l.attn.out_proj.weight": (E, 5 * E)},
        "reads the MLP as well",
    ),
    "the same without a word for it": (
        {"l.attn.in_proj.weight": (7 * E, E), "l.attn.out_proj.weight": (E, 5 * E)},
        "reads the MLP as well",
    ),
    "a list of heads": ({f"l.attn.{head}.weight": (3 * D, E) for head in range(H)}, "heads.N.qkv"),
    "stacked layers": ({f"l.attn.{n}.kernel": (6, E, E) for n in ("query", "key", "value")}, "those of each layer"),
    "one factor": ({f"l.attn.{n}_down.weight": (8, E) for n in ("qk", "v")}, "multiply both"),
    "no heads in common": (dict(test_account.STRANGE), "no number of heads in common"),
}


@pytest.mark.parametrize(("shapes", "said"), REASONS.values(), ids=REASONS)
def test_where_no_row_can_be_written_it_is_said_why_and_what_to_do(shapes: Shapes, said: str) -> None:
    told = report(shapes)
    assert told.account is not None
    (one,) = told.account.unrecognised
    assert (one.suggestion, told.attentions) == ("", ())
    assert said in one.no_row
    assert any(said in getattr(block, "text", "") for block in closing(told))


class Parallel(nn.Module):
    """A block whose one matrix makes Q, K, V and the hidden layer of an MLP, as GPT-J-parallel has it."""

    def __init__(self) -> None:
        super().__init__()
        self.fused_proj = nn.Linear(E, 7 * E, bias=False)
        self.attn_out, self.mlp_out = nn.Linear(E, E, bias=False), nn.Linear(4 * E, E, bias=False)

    def parts(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.fused_proj(x).split([4 * E, E, E, E], dim=-1)[1:]


def test_a_row_for_a_block_with_an_mlp_in_the_same_matrix_cuts_as_its_forward(tmp_path: Path) -> None:
    block, x = Parallel(), torch.randn(3, E)
    path = tmp_path / "model.safetensors"
    save_file({f"b.{i}.attn.{name}": value.clone() for i in (0, 1) for name, value in block.state_dict().items()}, path)
    with open_checkpoint(path) as checkpoint:
        account = inspect(checkpoint).account
        assert account is not None
        (row, again) = (one.suggestion for one in account.unrecognised)
        assert row == again
        assert 'out = "attn_out.weight"' in row
        (table,) = tomllib.loads(row)["layout"]
        table |= {"packing": "mlp, q, k, v in blocks", "heads": H}
        found = inspect(checkpoint, Options(told_now=rows([table], "x.toml")))
        (first, _) = found.attentions
        for part, expected in zip("qkv", block.parts(x), strict=True):
            cut = first.part(part)
            assert cut is not None
            taken = [row for run in cut.rows for row in run]
            assert torch.equal(x @ block.fused_proj.weight[taken].T, expected)


def test_each_of_several_fused_matrices_has_a_row() -> None:
    told = report({f"l.attn.{n}.weight": (3 * E, E) for n in range(2)})
    assert told.account is not None
    (one,) = told.account.unrecognised
    assert [row["qkv"] for row in tomllib.loads(one.suggestion)["layout"]] == ["0.weight", "1.weight"]


def test_a_row_without_heads_cuts_the_parts_and_leaves_the_heads_open() -> None:
    shapes = {"l.mix.all.weight": (3 * E, E), "l.mix.back.weight": (E, E)}
    (told,) = rows([{"layer": "l.mix", "qkv": "all.weight", "out": "back.weight"}], "x.toml")
    (found,) = report(shapes, told_now=(told,)).attentions
    assert (found.found_by, found.heads_from) == ("settings", "unknown")
    assert [(part.name, part.shape) for part in found.parts] == [("q", (E, E)), ("k", (E, E)), ("v", (E, E))]
    assert found.possible_heads[-1] == E


def test_the_biases_of_transformer_lens_are_those_of_each_head() -> None:
    at = "blocks.0.attn"
    shapes = {f"{at}.W_{part}": (H, E, D) for part in "QKV"} | {f"{at}.b_{part}": (H, D) for part in "QKV"}
    (found,) = report(shapes | {f"{at}.W_O": (H, D, E), f"{at}.b_O": (E,)}).attentions
    assert {role: name for role, name in found.tensors.items() if "bias" in role} == {
        "q_bias": f"{at}.b_Q", "k_bias": f"{at}.b_K", "v_bias": f"{at}.b_V", "out_bias": f"{at}.b_O",
    }  # fmt: skip
    q = found.part("q")
    assert q is not None
    assert q.bias_heads == tuple(range(head * D, (head + 1) * D) for head in range(H))


def test_the_output_of_a_q_former_is_beside_its_attention() -> None:
    at = "qformer.encoder.layer.0"
    shapes: Shapes = {}
    for kind, wide in (("attention", E), ("crossattention", 2 * E)):
        shapes |= {f"{at}.{kind}.attention.query.weight": (E, E), f"{at}.{kind}.output.dense.weight": (E, E)}
        shapes |= {f"{at}.{kind}.attention.{part}.weight": (E, wide) for part in ("key", "value")}
    found = report(shapes).attentions
    assert [one.tensors.get("out") for one in found] == [
        f"{at}.attention.output.dense.weight", f"{at}.crossattention.output.dense.weight",
    ]  # fmt: skip
