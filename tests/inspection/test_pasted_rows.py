"""What is printed to be pasted is accepted when it is pasted, and cuts the rows that it says."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from qkvinspect.errors import LayoutError, UsageError
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.layouts.from_settings import THREE_AXES, UNKNOWN, parse, rows
from tests.batches import batched
from tests.inspection import conventions, repositories, test_account, worlds
from tests.inspection.test_patterns import report

E, H, D, N = 48, 4, 12, 5
Shapes = dict[str, tuple[int, ...]]

_OTHERS: dict[str, Shapes] = {
    "three axes": {f"l.attn.W_{part}": (H, E, D) for part in "QKV"},
    "three axes, one in a word that is no word": {f"l.attn.{part}": (H, E, D) for part in ("W_Q", "W_K", "mine")},
    "one tensor for K and V": {"l.attn.q_proj.weight": (E, E), "l.attn.memory.weight": (2 * E, E)},
    "one tensor for Q and K": {"l.attn.v_proj.weight": (E, E), "l.attn.both.weight": (2 * E, E)},
    "a network of convolutions beside it": {"l.attn.q.weight": (E, E, 1, 1), "l.attn.sr.weight": (E, E, 8, 8)},
    "a list of three for Q, K and V": {f"l.attn.qkv.{n}.weight": (E, E) for n in range(3)}
    | {"l.attn.out.weight": (E, E)},
    "a gate behind them": {"l.attn.qkv_gate.weight": (4 * E, E), "l.attn.out.weight": (E, E)},
    "all three along the first axis": {"l.attn.qkv_w": (3, E, E), "l.attn.o.weight": (E, E)},
    "latent": {
        f"l.attn.W_{n}.weight": shape
        for n, shape in {"dq": (32, E), "uq": (E, 32), "dkv": (24, E), "uk": (E, 24), "uv": (E, 24)}.items()
    },
    "RWKV with its receptance": {f"l.att.{n}.weight": (E, E) for n in ("receptance", "key", "value", "output")},
    "K and V of another": {"l.cross.k_proj.weight": (E, E), "l.cross.v_proj.weight": (E, E)},
    "three alike and one back": {f"l.attn.{n}.weight": (32, E) for n in "abc"} | {"l.attn.d.weight": (E, 32)},
    "layers stacked": {f"l.attn.{n}.kernel": (6, E, E) for n in ("query", "key", "value")},
    "einsums": {"l.attn.q_einsum.w": (H, E, D), "l.attn.kv_einsum.w": (2, 1, E, D)},
    "vectors": {"l.attn.key_q.weight": (E, E), "l.attn.v_vector.weight": (1, E), "l.attn.o.weight": (E, E)},
}


def _every() -> Iterator[tuple[str, Shapes]]:
    yield from _OTHERS.items()
    yield from worlds.SAID.items()
    yield from ((name, shapes) for name, (shapes, _) in (*repositories.SAID.items(), *worlds.FOUND.items()))
    yield from ((name, found[0]) for name, found in repositories.FOUND.items())
    yield from ((one.seen, {**one.tensors, **one.beside}) for one in conventions.CONVENTIONS)
    for name in ("RWKV", "SQUARES", "HALF", "TRIPLE", "STRANGE"):
        yield name.lower(), dict(getattr(test_account, name))


def _completed(text: str) -> tuple[dict[str, Any], bool]:
    """The table with a choice of those that its comments give for each gap, and whether all are filled."""
    (table,) = tomllib.loads(text)["layout"]
    for line in text.split("\n"):
        key, _, rest = line.partition(" = ")
        if table.get(key) == UNKNOWN:
            choices = re.findall(r'"([^"]+)"', rest.partition("#")[2])
            if key == "orientation":
                choices = ["heads_in_dim"]
            table[key] = next((one for one in choices if one not in table.values()), UNKNOWN)
    return table, UNKNOWN not in table.values()


@batched("shapes", dict(_every()))
def test_every_row_that_is_printed_is_accepted(shapes: Shapes) -> None:
    told = report(shapes)
    assert told.account is not None
    for unknown in told.account.unrecognised:
        if not unknown.suggestion:
            continue
        table, complete = _completed(unknown.suggestion)
        if not complete:
            with pytest.raises(UsageError, match="still"):
                rows([table], "x.toml")
            continue
        found = report(shapes, told_now=rows([table], "x.toml"))
        if "# heads" in unknown.suggestion and any(one.code == "heads-needed" for one in found.findings):
            found = report(shapes, told_now=rows([table | {"heads": str(H)}], "x.toml"))
        (attention,) = (one for one in found.attentions if one.layer == unknown.module)
        assert attention.found_by == "settings"
        named = {part: f"{unknown.module}.{table[part]}".lstrip(".") for part in "qkv" if part in table}
        assert {part.name: part.weight.name for part in attention.parts if part.name in named} == named
        assert not any(finding.code == "unexpected-shape" for finding in found.findings)


def test_nothing_is_printed_that_would_be_refused() -> None:
    """Q of 5 rows and K of 7 have no head in common, whatever the row says."""
    told = report(dict(test_account.STRANGE))
    assert told.account is not None
    assert [one.suggestion for one in told.account.unrecognised] == [""]


@pytest.mark.parametrize("orientation", THREE_AXES)
@pytest.mark.parametrize("kv_heads", [H, 2])
def test_three_axes_are_what_the_row_says(tmp_path: Path, orientation: str, kv_heads: int) -> None:
    """Against the einsum that the words stand for."""
    letters = {"heads": "h", "dim": "d", "in": "i"}
    spelled = [letters[word] for word in orientation.split("_")]
    counts = {"q": H, "k": kv_heads, "v": kv_heads}
    tensors = {
        f"l.my_{part}": torch.randn([{"h": heads, "d": D, "i": E}[letter] for letter in spelled])
        for part, heads in counts.items()
    }
    save_file(tensors, tmp_path / "m.safetensors")
    row = parse(f'{{ q = "my_q", k = "my_k", v = "my_v", orientation = "{orientation}" }}')
    tokens = torch.randn(N, E)
    with open_checkpoint(tmp_path / "m.safetensors") as checkpoint:
        (attention,) = inspect(checkpoint, Options(told_now=(row,))).attentions
        assert attention.heads is not None
        assert (attention.heads.num_heads, attention.heads.num_kv_heads, attention.heads.head_dim) == (H, kv_heads, D)
        for part in attention.parts:
            expected = torch.einsum(f"ni,{''.join(spelled)}->hnd", tokens, tensors[f"l.my_{part.name}"])
            matrix = torch.from_numpy(np.array(part))
            mine = torch.stack([tokens @ matrix[head.start : head.stop].T for head in part.heads])
            torch.testing.assert_close(mine, expected)


PACKED: dict[str, tuple[Shapes, str, dict[str, tuple[range, ...]]]] = {
    "a gate a head among the queries": (
        {"l.q.weight": (2 * E, E), "l.k.weight": (E, E), "l.v.weight": (E, E)},
        'q = "q.weight", k = "k.weight", v = "v.weight", packing = "q, gate per head"',
        {"q": tuple(range(2 * h * D, 2 * h * D + D) for h in range(H))},
    ),
    "a gate behind the queries": (
        {"l.q.weight": (2 * E, E), "l.k.weight": (E, E), "l.v.weight": (E, E)},
        'q = "q.weight", k = "k.weight", v = "v.weight", packing = "q, gate in blocks"',
        {"q": tuple(range(h * D, h * D + D) for h in range(H))},
    ),
    "a gate, and K and V in one tensor": (
        {"l.q.weight": (2 * E, E), "l.kv.weight": (2 * E, E)},
        'q = "q.weight", kv = "kv.weight", packing = "q, gate per head; k, v in blocks"',
        {"k": tuple(range(h * D, h * D + D) for h in range(H)),
         "v": tuple(range(E + h * D, E + h * D + D) for h in range(H))},
    ),
    "one projection for K and V": (
        {"l.q.weight": (E, E), "l.kv.weight": (E, E)},
        'q = "q.weight", k = "kv.weight", v = "kv.weight"',
        dict.fromkeys(("k", "v"), tuple(range(h * D, h * D + D) for h in range(H))),
    ),
    "one projection for Q and K": (
        {"l.qk.weight": (E, E), "l.v.weight": (E, E)},
        'q = "qk.weight", k = "qk.weight", v = "v.weight"',
        dict.fromkeys(("q", "k"), tuple(range(h * D, h * D + D) for h in range(H))),
    ),
    "one projection for all three": (
        {"l.qkv.weight": (E, E), "l.to_out.0.weight": (E, E)},
        'q = "qkv.weight", k = "qkv.weight", v = "qkv.weight", out = "to_out.0.weight"',
        dict.fromkeys(("q", "k", "v"), tuple(range(h * D, h * D + D) for h in range(H))),
    ),
    "all three along the first axis": (
        {"l.qkv_w": (3, E, E)},
        'qkv = "qkv_w", packing = "q, k, v in blocks", orientation = "heads_dim_in"',
        {part: tuple(range(at * E + h * D, at * E + h * D + D) for h in range(H)) for at, part in enumerate("qkv")},
    ),
    "a row of each head in turn": (
        {"l.any.weight": (3 * E, E)},
        'qkv = "any.weight", packing = "a row of each head in turn"',
        {part: tuple(range(at * H + h, 3 * E, 3 * H) for h in range(H)) for at, part in enumerate("qkv")},
    ),
    "alternating heads": (
        {"l.any.weight": (3 * E, E)},
        'qkv = "any.weight", packing = "q, v, k in blocks of alternating heads"',
        {part: tuple(range(at * E + h, (at + 1) * E, H) for h in range(H)) for at, part in enumerate("qvk")},
    ),
    "K and V of a second stream": (
        {"l.kv.weight": (2 * E, E)},
        'kv = "kv.weight", packing = "v, k per head"',
        {"v": tuple(range(2 * h * D, 2 * h * D + D) for h in range(H))},
    ),
    "queries alone": (
        {"l.q.weight": (E, E)}, 'q = "q.weight"', {"q": tuple(range(h * D, h * D + D) for h in range(H))},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("shapes", "row", "expected"), PACKED.values(), ids=PACKED)
def test_a_row_for_every_kind(shapes: Shapes, row: str, expected: dict[str, tuple[range, ...]]) -> None:
    (attention,) = report(shapes, told_now=(parse(f"{{ {row}, heads = {H} }}"),)).attentions
    assert attention.heads is not None
    held = {part.name: part.heads for part in attention.parts}
    assert {part: held[part] for part in expected} == expected


REFUSED: dict[str, tuple[str, str]] = {
    "a packing that no tensor needs": ('q = "a", k = "b", v = "c", packing = "in blocks"', "each has its own"),
    "a packing of parts that no tensor holds": ('qkv = "a", packing = "k, v in blocks"', "lists other parts"),
    "one tensor that is q and v": ('q = "a", k = "b", v = "a"', "one tensor is named for q, v"),
    "two packings, one unreadable": ('q = "a", kv = "b", packing = "q, gate per head; k, v somehow"', "no packing"),
    "no groups": ('qkv = "a", packing = "in 0 groups"', "no packing"),
    "the name of a known layout": ('q = "a", id = "torch-mha"', "another layout"),
    "the name of a pattern": ('q = "a", id = "pattern-per-head"', "another layout"),
    "an orientation of the output": ('q = "a", out_orientation = "heads_in_dim"', "no orientation"),
}


@pytest.mark.parametrize(("row", "words"), REFUSED.values(), ids=REFUSED)
def test_what_a_row_cannot_say_is_refused(row: str, words: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse(f"{{ {row} }}")
    assert words in str(raised.value)


def test_a_row_must_fit_what_is_asked_for() -> None:
    shapes = {f"l.{i}.attn.{n}.weight": (E, E) for i in range(2) for n in "qkv"} | {"l.0.attn.mine.weight": (E, E)}
    row = (parse('{ q = "mine.weight" }'),)
    assert "settings" in {one.found_by for one in report(shapes, told_now=row, layers="l.0.*").attentions}
    with pytest.raises(LayoutError, match="no layer that is asked for"):
        report(shapes, told_now=row, layers="l.1.*")


NO_MATRICES: dict[str, tuple[Shapes, str, str]] = {
    "a vector": ({"l.q.weight": (E,), "l.k.weight": (E, E)}, 'q = "q.weight", k = "k.weight"', "is no matrix"),
    "a number": ({"l.q.weight": (), "l.k.weight": (E, E)}, 'q = "q.weight", k = "k.weight"', "is no matrix"),
    "three axes unsaid": ({"l.q": (H, E, D)}, 'q = "q"', "what they count"),
    "two axes said to be three": ({"l.q": (E, E)}, 'q = "q", orientation = "heads_in_dim"', "that of three axes"),
}


@pytest.mark.parametrize(("shapes", "row", "words"), NO_MATRICES.values(), ids=NO_MATRICES)
def test_tensors_that_are_no_matrices_are_refused_with_the_reason(shapes: Shapes, row: str, words: str) -> None:
    """On the command line as an error; in the settings, which are for many checkpoints, as a finding."""
    with pytest.raises(LayoutError, match=words):
        report(shapes, told_now=(parse(f"{{ {row} }}"),))
    told = report(shapes, told=(parse(f"{{ {row} }}"),))
    assert [finding.code for finding in told.findings if words in finding.message] == ["unexpected-shape"]


PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


@pytest.mark.parametrize(
    "row", re.findall(r"\| `((?:layer|q|k|v|qkv|kv|qk) = .+)` \|$", PAGE.read_text(), re.MULTILINE)
)
def test_every_row_of_the_page_is_one(row: str) -> None:
    assert parse(f"{{ {row} }}").found_by == "settings"


def test_the_page_has_an_example_of_every_kind() -> None:
    examples = PAGE.read_text().partition("## Examples")[2]
    assert all(
        f"{word} = " in examples for word in ("q", "kv", "qkv", "packing", "orientation", "heads", "layer", "out")
    )


@pytest.mark.parametrize(
    ("layout", "shapes", "axes"),
    [
        (
            "torch-mha",
            {"l.in_proj_weight": (144, 48), "l.out_proj.weight": (48, 48)},
            {"q": 0, "k": 0, "v": 0, "out": 1},
        ),
        ("gpt2", {"l.c_attn.weight": (48, 144), "l.c_proj.weight": (48, 48)}, {"q": 1, "k": 1, "v": 1, "out": 0}),
    ],
)
def test_a_part_s_axis_is_that_along_which_its_tensor_is_narrowed(
    layout: str, shapes: Shapes, axes: dict[str, int], tmp_path: Path
) -> None:
    state = {name: torch.randn(shape) for name, shape in shapes.items()}
    save_file(state, tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path / "model.safetensors") as checkpoint:
        (found,) = inspect(checkpoint, Options(heads=("4",))).attentions
        assert found.layout is not None
        assert found.layout.id == layout
        assert {part.name: part.axis for part in (*found.parts, found.output) if part is not None} == axes
        for part in found.parts:
            (run,) = part.rows
            cut = state[part.weight.name].narrow(part.axis, run.start, len(run))
            np.testing.assert_array_equal(part.numpy(), (cut.T if part.axis else cut).numpy())


@pytest.mark.parametrize(
    ("shapes", "line"),
    [
        ({"l.mix.q.weight": (E, E)} | {f"l.mix.kv.{n}.weight": (E, E) for n in range(2)}, 'v = "kv.1.weight"'),
        ({f"l.attn.{n}.weight": (E, E) for n in "fghv"}, 'v = "?"'),
        ({"l.attn_in.weight": (3 * E, E), "l.attn_out.weight": (E, E)}, '# heads = "8"'),
    ],
    ids=["two of a list", "letters", "a packing"],
)
def test_a_row_says_no_more_than_the_names_and_asks_for_what_is_needed(shapes: Shapes, line: str) -> None:
    told = report(shapes)
    assert told.account is not None
    (said,) = told.account.unrecognised
    assert any(one.startswith(line) for one in said.suggestion.split("\n"))


def test_no_row_is_printed_that_cannot_be_completed() -> None:
    """A parallel block whose output reads the MLP too: how wide attention is stands nowhere."""
    told = report({"l.mix.qkv_mlp.weight": (7 * E, E), "l.mix.out.weight": (E, 5 * E)})
    assert told.account is not None
    (said,) = told.account.unrecognised
    assert said.suggestion == ""


def test_q_k_and_v_of_an_einsum_are_no_layers() -> None:
    told = report({"l.mix.qkv_einsum.w": (3, H, E, D)})
    assert told.account is not None
    (said,) = told.account.unrecognised
    assert "layers" not in said.why
