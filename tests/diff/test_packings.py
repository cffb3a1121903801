"""One attention module, stored in every way: identical; changed anywhere: named; rearranged: recognised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from qkvinspect.diff import DiffOptions, compare
from qkvinspect.diff.difference import Difference
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from tests.some import tried

State = dict[str, Tensor]


@dataclass(frozen=True)
class Module:
    """Q, K, V [heads, head_dim, embed], O [embed, heads, head_dim] and the biases, as numbers that all differ."""

    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    q_bias: Tensor
    k_bias: Tensor
    v_bias: Tensor

    @property
    def heads(self) -> str:
        return f"{len(self.q)}/{len(self.k)}"


def module(heads: int, share: int, head_dim: int, embed: int) -> Module:
    shapes = [(n, head_dim, embed) for n in (heads * share, heads, heads)]
    shapes += [(embed, heads * share, head_dim), (heads * share, head_dim), (heads, head_dim), (heads, head_dim)]
    return Module(*(torch.randn(shape) for shape in shapes))


def separate(m: Module) -> State:
    parts = {f"{name}_proj": (getattr(m, name), getattr(m, f"{name}_bias")) for name in "qkv"}
    state = {f"layers.0.self_attn.{name}.weight": w.flatten(0, 1) for name, (w, _) in parts.items()}
    state |= {f"layers.0.self_attn.{name}.bias": b.flatten() for name, (_, b) in parts.items()}
    return state | {"layers.0.self_attn.o_proj.weight": m.o.flatten(1)}


def fused(rows: list[tuple[Tensor, Tensor]], m: Module) -> State:
    return {
        "h.0.self_attention.query_key_value.weight": torch.cat([w.flatten(0, -2) for w, _ in rows]),
        "h.0.self_attention.query_key_value.bias": torch.cat([b.flatten() for _, b in rows]),
        "h.0.self_attention.dense.weight": m.o.flatten(1),
    }


def blocks(m: Module) -> State:
    return fused([(m.q, m.q_bias), (m.k, m.k_bias), (m.v, m.v_bias)], m)


def grouped(m: Module) -> State:
    share = len(m.q) // len(m.k)
    rows = []
    for kv in range(len(m.k)):
        mine = slice(kv * share, (kv + 1) * share)
        rows += [(m.q[mine], m.q_bias[mine]), (m.k[kv], m.k_bias[kv]), (m.v[kv], m.v_bias[kv])]
    return fused(rows, m)


def conv1d(m: Module) -> State:
    weights, biases = (m.q, m.k, m.v), (m.q_bias, m.k_bias, m.v_bias)
    return {
        "h.0.attn.c_attn.weight": torch.cat([w.flatten(0, 1) for w in weights]).T,
        "h.0.attn.c_attn.bias": torch.cat([b.flatten() for b in biases]),
        "h.0.attn.c_proj.weight": m.o.flatten(1).T,
    }


FORMS = {
    "separate": (separate, ()),
    "blocks": (blocks, (("*", "chatglm2"),)),
    "grouped": (grouped, (("*", "falcon-new"),)),
    "conv1d": (conv1d, ()),
}


def difference(a: State, b: State, heads: str, forms: tuple[str, str] = ("separate", "separate")) -> Difference:
    with TemporaryDirectory() as folder:
        reports, files = [], []
        for name, state, form in zip("ab", (a, b), forms, strict=True):
            path = Path(folder, f"{name}.safetensors")
            save_file({key: tensor.contiguous().clone() for key, tensor in state.items()}, path)
            files.append(open_checkpoint(path))
            reports.append(inspect(files[-1], Options(heads=(heads,), layouts=FORMS[form][1], norms=False)))
        with files[0], files[1]:
            return compare(*reports, DiffOptions())


def relations(found: Difference) -> set[tuple[str, tuple[str, ...]]]:
    return {(relation.code, relation.parts) for layer in found.layers for relation in layer.relations}


modules = st.builds(
    module,
    heads=st.integers(1, 4),
    share=st.integers(1, 3),
    head_dim=st.sampled_from([2, 4, 6, 8]),
    embed=st.integers(3, 20),
)


def fast(*strategies: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    unfit = [HealthCheck.function_scoped_fixture]
    return tried(given(*strategies), few=12, many=40, suppress_health_check=unfit)


@fast(modules, st.sampled_from(["separate", "blocks", "grouped"]), st.sampled_from(["separate", "blocks", "grouped"]))
def test_any_packing_is_identical_to_any_other(m: Module, one: str, other: str) -> None:
    found = difference(FORMS[one][0](m), FORMS[other][0](m), m.heads, (one, other))
    assert found.same
    assert [part.whole.status for part in found.layers[0].parts] == ["identical"] * 7
    assert found.layers[0].matched_by == ("name" if "separate" not in {one, other} or one == other else "order")


@fast(st.integers(1, 4), st.sampled_from([2, 4, 8]))
def test_conv1d_is_identical_to_linear(heads: int, head_dim: int) -> None:
    m = module(heads, 1, head_dim, heads * head_dim)
    assert difference(conv1d(m), separate(m), m.heads, ("conv1d", "separate")).same
    assert difference(blocks(m), conv1d(m), m.heads, ("blocks", "conv1d")).same


@fast(modules, st.data())
def test_one_changed_value_is_named_wherever_it_is(m: Module, data: st.DataObject) -> None:
    form = data.draw(st.sampled_from(["separate", "blocks", "grouped"]))
    name = data.draw(st.sampled_from(["q", "k", "v", "o", "q_bias", "k_bias", "v_bias"]))
    changed = {key: getattr(m, key).clone() for key in m.__dataclass_fields__}
    place = tuple(data.draw(st.integers(0, size - 1)) for size in changed[name].shape)
    before = float(changed[name][place])
    changed[name][place] += 1
    found = difference(separate(m), FORMS[form][0](Module(**changed)), m.heads, ("separate", form))
    assert not found.same
    wrong = [part for part in found.layers[0].parts if part.whole.status != "identical"]
    assert [part.name for part in wrong] == ["out" if name == "o" else name]
    (part,) = wrong
    spot = part.whole.largest
    assert spot is not None
    assert part.whole.changed == 1
    head_dim = m.q.shape[1]
    if name == "o":
        expected = (place[1], place[0], place[1] * head_dim + place[2])
    else:
        expected = (place[0], place[0] * head_dim + place[1], None if name.endswith("bias") else place[2])
    assert (spot.head, spot.row, spot.column) == expected
    assert (spot.a, spot.b) == (pytest.approx(before), pytest.approx(before + 1))
    assert [head for head, one in enumerate(part.heads) if one.status != "identical"] == [spot.head]


@fast(modules, st.data())
def test_permuted_heads_are_recognised_and_must_agree(m: Module, data: st.DataObject) -> None:
    groups, share = len(m.k), len(m.q) // len(m.k)
    order = data.draw(st.permutations(range(groups)))
    assume(list(order) != sorted(order))
    of_q = [group * share + i for group in order for i in range(share)]
    moved = Module(m.q[of_q], m.k[order], m.v[order], m.o[:, of_q], m.q_bias[of_q], m.k_bias[order], m.v_bias[order])
    found = difference(separate(m), grouped(moved), m.heads, ("separate", "grouped"))
    assert not found.same
    (relation,) = found.layers[0].relations
    assert (relation.code, relation.parts) == ("heads-permuted", ("q", "k", "v", "out"))
    assert f"those of B are {', '.join(map(str, of_q))} of A; the layer computes the same" in relation.message
    torn = Module(moved.q, moved.k, moved.v, m.o, moved.q_bias, moved.k_bias, m.v_bias)
    (relation,) = difference(separate(m), separate(torn), m.heads).layers[0].relations
    assert relation.parts == ("q", "k", "v")
    assert relation.message.endswith("of A, but not the bias of V")


def test_of_heads_of_four_rows_both_orders_are_each_other() -> None:
    m = module(2, 1, 4, 8)

    def turned(w: Tensor) -> Tensor:
        return w[:, [0, 2, 1, 3]]

    other = Module(turned(m.q), turned(m.k), m.v, m.o, turned(m.q_bias), turned(m.k_bias), m.v_bias)
    for sides in ((other, m), (m, other)):
        (relation,) = difference(*map(separate, sides), m.heads).layers[0].relations
        assert (relation.code, relation.parts) == ("rotary-permuted", ("q", "k"))
        assert "neighbours (interleaved) in one file and halves (rotate-half) in the other" in relation.message


@fast(st.integers(1, 4), st.integers(1, 3), st.sampled_from([6, 8, 12]), st.integers(3, 20), st.booleans())
def test_rotary_rows_are_recognised_as_llamas_conversion_permutes_them(
    heads: int, share: int, head_dim: int, embed: int, back: bool
) -> None:
    """transformers models/llama/convert_llama_weights_to_hf.py, permute."""
    m = module(heads, share, head_dim, embed)

    def permute(w: Tensor) -> Tensor:
        count, rows = w.shape[:2]
        return w.reshape(count, rows // 2, 2, -1).transpose(1, 2).reshape(w.shape)

    turned = Module(permute(m.q), permute(m.k), m.v, m.o, permute(m.q_bias), permute(m.k_bias), m.v_bias)
    sides = (turned, m) if back else (m, turned)
    found = difference(*(separate(side) for side in sides), m.heads)
    (relation,) = found.layers[0].relations
    assert (relation.code, relation.parts) == ("rotary-permuted", ("q", "k"))
    a, b = ("halves", "neighbours") if back else ("neighbours", "halves")
    assert f"{a} (" in relation.message.partition(" in A and ")[0]
    assert f"{b} (" in relation.message.partition(" in A and ")[2]


@fast(modules)
def test_swapped_and_copied_parts_are_recognised(m: Module) -> None:
    swapped = Module(m.q, m.v, m.k, m.o, m.q_bias, m.v_bias, m.k_bias)
    assert relations(difference(separate(m), blocks(swapped), m.heads, ("separate", "blocks"))) == {
        ("parts-swapped", ("k", "v"))
    }
    copied = Module(m.q, m.v, m.v, m.o, m.q_bias, m.k_bias, m.v_bias)
    (relation,) = difference(separate(m), separate(copied), m.heads).layers[0].relations
    assert (relation.code, relation.message) == ("part-copied", "K of B is V of A, but not the bias of K")


@fast(modules)
def test_rows_cut_from_the_wrong_packing_are_recognised(m: Module) -> None:
    assume(len(m.k) > 1)
    stored = grouped(m)["h.0.self_attention.query_key_value.weight"]
    q, k, v = stored.split([m.q.shape[0] * m.q.shape[1], *[m.k.shape[0] * m.k.shape[1]] * 2])
    wrong = separate(m) | {f"layers.0.self_attn.{n}_proj.weight": w for n, w in zip("qkv", (q, k, v), strict=True)}
    for a, form in ((separate(m), "separate"), (grouped(m), "grouped")):
        found = difference(a, wrong, m.heads, (form, "separate"))
        assert ("cut-otherwise", ("q", "k", "v")) in relations(found)


def test_a_permutation_is_found_where_one_row_differs_too() -> None:
    m = module(4, 1, 12, 40)
    order = [2, 0, 3, 1]
    q = m.q[order].clone()
    q[1, 3, 5] += 1
    moved = Module(q, m.k[order], m.v[order], m.o[:, order], m.q_bias[order], m.k_bias[order], m.v_bias[order])
    (relation,) = difference(separate(m), separate(moved), m.heads).layers[0].relations
    assert relation.message.endswith("the layer computes the same, but for 1 row")


def test_a_permutation_is_found_in_a_rounded_copy() -> None:
    m = module(4, 1, 8, 24)
    order = [2, 0, 3, 1]
    moved = Module(m.q[order], m.k[order], m.v[order], m.o[:, order], m.q_bias[order], m.k_bias[order], m.v_bias[order])
    rounded = {name: tensor.bfloat16() for name, tensor in separate(moved).items()}
    assert relations(difference(separate(m), rounded, m.heads)) == {("heads-permuted", ("q", "k", "v", "out"))}


def test_a_permutation_is_found_where_the_number_of_heads_is_unknown(tmp_path: Path, run) -> None:
    m = module(4, 1, 8, 24)
    order = [2, 0, 3, 1]
    moved = Module(m.q[order], m.k[order], m.v[order], m.o[:, order], m.q_bias[order], m.k_bias[order], m.v_bias[order])
    for name, state in (("a", separate(m)), ("b", separate(moved))):
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, tmp_path / f"{name}.safetensors")
    found = run("diff", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "-f", "json").json()
    assert found["layers"][0]["num_heads"] is None
    assert [one["code"] for one in found["layers"][0]["relations"]] == ["heads-permuted"]


def test_a_head_that_is_a_copy_of_another_is_named() -> None:
    m = module(4, 1, 8, 24)
    k = m.k.clone()
    k[3] = k[0]
    (relation,) = difference(separate(m), separate(Module(m.q, k, m.v, m.o, m.q_bias, m.k_bias, m.v_bias)), m.heads)\
        .layers[0].relations  # fmt: skip
    assert relation.code == "heads-copied"
    assert "those of B are 0, 1, 2, 0 of A" in relation.message


def test_empty_parts_and_heads_are_named() -> None:
    m = module(4, 1, 8, 24)
    k, v = torch.zeros_like(m.k), m.v.clone()
    v[1:3] = 0
    found = difference(separate(m), separate(Module(m.q, k, v, m.o, m.q_bias, m.k_bias, m.v_bias)), m.heads)
    messages = [relation.message for relation in found.layers[0].relations]
    assert messages == ["K is all zero in B", "heads 1, 2 of V are all zero in B"]


def test_other_values_are_given_no_origin() -> None:
    one, other = module(4, 1, 8, 24), module(4, 1, 8, 24)
    found = difference(separate(one), separate(other), one.heads)
    assert relations(found) == set()
    assert {part.whole.status for part in found.layers[0].parts} == {"changed"}


def test_shuffled_rows_and_columns_are_named() -> None:
    m = module(4, 1, 8, 24)
    rows, columns = torch.randperm(32), torch.randperm(24)
    other = separate(m)
    other["layers.0.self_attn.q_proj.weight"] = other["layers.0.self_attn.q_proj.weight"][rows]
    other["layers.0.self_attn.k_proj.weight"] = other["layers.0.self_attn.k_proj.weight"][:, columns]
    assert relations(difference(separate(m), other, m.heads)) == {
        ("rows-permuted", ("q",)),
        ("columns-permuted", ("k",)),
    }


def test_transposed_square_weights_are_recognised() -> None:
    m = module(4, 1, 8, 32)
    other = {name: tensor.T if tensor.ndim == 2 else tensor for name, tensor in separate(m).items()}
    assert relations(difference(separate(m), other, m.heads)) == {("transposed", ("q", "k", "v", "out"))}


def test_a_missing_bias_is_a_difference() -> None:
    m = module(2, 1, 4, 8)
    other = {name: tensor for name, tensor in separate(m).items() if not name.endswith("v_proj.bias")}
    for a, b, status in ((separate(m), other, "removed"), (other, separate(m), "added")):
        found = difference(a, b, m.heads)
        assert not found.same
        assert {part.name for part in found.layers[0].parts if part.whole.status == status} == {"v_bias"}
        (bias,) = (part for part in found.layers[0].parts if part.name == "v_bias")
        assert {bias.a, bias.b} == {None, ("float32", (8,))}


def test_fewer_heads_of_k_and_v_are_another_shape_and_not_a_transposed_one() -> None:
    """Q is compared still, and what it may have come from is looked for among what is left."""
    m, fewer = module(2, 2, 4, 8), module(1, 4, 4, 8)
    found = difference(separate(m), separate(fewer), "4")
    status = {part.name: part.whole.status for part in found.layers[0].parts}
    assert status == {
        "q": "changed",
        "q_bias": "changed",
        "out": "changed",
        "k": "reshaped",
        "v": "reshaped",
        "k_bias": "reshaped",
        "v_bias": "reshaped",
    }
    assert relations(found) == set()


def test_heads_are_not_looked_for_where_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    m = module(4, 1, 4, 8)
    other = {**separate(m), "layers.0.self_attn.q_proj.weight": m.q[[2, 3, 1, 0]].flatten(0, 1)}
    assert {code for code, _ in relations(difference(separate(m), other, m.heads))} >= {"heads-permuted"}
    monkeypatch.setattr("qkvinspect.diff.origin._MOST", 4 * 16 - 1)
    assert "heads-permuted" not in {code for code, _ in relations(difference(separate(m), other, m.heads))}
    monkeypatch.setattr("qkvinspect.diff.origin._MOST", 4 * 16)
    assert "heads-permuted" in {code for code, _ in relations(difference(separate(m), other, m.heads))}
