"""Attention beside attention that is known is found or said as well, whatever its names; nothing is passed over."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.batches import batched
from tests.inspection.test_patterns import report

E, H, D = 48, 4, 12
Shapes = Mapping[str, tuple[int, ...]]
KNOWN: Shapes = {f"enc.0.attn.{n}_proj.weight": (E, E) for n in "qkvo"}
L = (E, E)


def _named(layer: str, *names: str) -> Shapes:
    return {f"{layer}.{name}.weight": L for name in names}


SAID: Mapping[str, tuple[Shapes, str]] = {
    "latent attention in two steps": (
        {f"dec.0.attn.W_{n}.weight": shape for n, shape in
         {"dq": (32, E), "uq": (E, 32), "dkv": (24, E), "uk": (E, 24), "uv": (E, 24), "kr": (8, E)}.items()},
        "two steps",
    ),
    "the same as parameters": (
        {"dec.0.attn.W_DKV": (E, 24), "dec.0.attn.W_UK": (24, E), "dec.0.attn.W_UV": (24, E), "dec.0.attn.W_Q": L},
        "two steps",
    ),
    "a gate behind Q, K and V": ({"dec.0.attn.qkv_gate.weight": (4 * E, E), "dec.0.attn.out.weight": L}, "more than"),
    "an MLP behind them": (
        {"dec.0.attn.qkv_mlp.weight": (7 * E, E), "dec.0.attn.proj.weight": (E, 5 * E)}, "more than",
    ),
    "the output behind them": ({"dec.0.attn.qkvo_w": (4, E, E)}, "more than"),
    "Gemma's einsums": (
        {"d.attn.q_einsum.w": (H, E, D), "d.attn.kv_einsum.w": (2, 1, E, D), "d.attn.o_einsum.w": (H, D, E)},
        "more than two axes",
    ),
    "axes of layers and heads": (
        {f"dec.attn.{n}.kernel": (E, 2, h, D) for n, h in (("query", H), ("key", 2), ("value", 2))}
        | {"dec.attn.out.kernel": (H, 2, D, E)},
        "more than two axes",
    ),
    "convolutions of Keras": ({f"d/attn/{n}/kernel:0": (1, 1, E, E) for n in ("query", "key", "value")},
                             "window comes first"),
    "a list without names": ({f"dec.0.attn.{n}.weights": L for n in range(4)}, "4 square matrices"),
    "three in one parameter": ({"dec.0.attn.W": (3, E, E), "dec.0.attn.Wo": L}, "more than two axes"),
    "three alike and the way back": (
        {f"dec.0.attention.{n}.weight": (32, E) for n in "abc"} | {"dec.0.attention.d.weight": (E, 32)},
        "one that leads back",
    ),
    "three times as wide": ({"dec.0.attn.mixer.x_proj.weight": (3 * E, E)}, "three times"),
    "IP-Adapter by itself": ({"1.to_k_ip.weight": (E, 32), "1.to_v_ip.weight": (E, 32)}, "k and v alone"),
    "keys and values for all layers": ({"shared.kv_proj.weight": (2 * E, E)}, "k and v alone"),
    "the queries of these layers": (_named("l.0.cross", "q_proj", "o_proj"), "q alone"),
    "a pool with queries of its own": ({"pool.kv.weight": (2 * E, E), "pool.q": (1, E), "pool.proj.weight": L},
                                       "k and v alone"),
    "a pool with several": ({"pool.k.weight": L, "pool.v.weight": L, "pool.queries": (8, E)}, "k and v alone"),
}  # fmt: skip


@batched("shapes words", SAID)
@pytest.mark.parametrize("beside", [KNOWN, {}], ids=["beside known", "alone"])
def test_it_is_said(shapes: Shapes, words: str, beside: Shapes) -> None:
    told = report({**beside, **shapes})
    assert [attention.layer for attention in told.attentions] == ["enc.0.attn"] * bool(beside)
    assert told.account is not None
    assert len(told.account.unrecognised) == 1
    assert words in told.account.unrecognised[0].why


FOUND: Mapping[str, tuple[Shapes, str, str]] = {
    "a query by another name": (
        {f"d.attn.{n}.projection.weights": (E, H, D) for n in ("input_to_query", "input_to_key", "input_to_value")}
        | {"d.attn.output_to_query.weights": (H, D, E)},
        "d.attn", "d.attn.input_to_{long}.projection.weights",
    ),
    "Russian": (_named("сл.0.внимание", "запрос", "ключ", "значение", "выход"), "сл.0.внимание", ""),
    "Chinese": (_named("c.0.attn", "查询", "键", "值", "输出"), "c.0.attn", ""),
    "Polish": (_named("w.0.uwaga", "zapytanie", "klucz", "wartosc", "wyjscie"), "w.0.uwaga", ""),
    "Turkish": (_named("k.0.dikkat", "sorgu", "anahtar", "değer", "çıkış"), "k.0.dikkat", ""),
    "French, with accents": (_named("c.0.attention", "requête", "clé", "valeur", "sortie"), "c.0.attention", ""),
}  # fmt: skip


@pytest.mark.parametrize(("shapes", "layer", "name"), FOUND.values(), ids=FOUND)
def test_it_is_found(shapes: Shapes, layer: str, name: str) -> None:
    _, found = report({**KNOWN, **shapes}).attentions
    assert found.layer == layer
    names = iter(shapes)
    long = {"q": "query", "k": "key", "v": "value"}
    expected = {part: name.format(long=long[part]) if name else next(names) for part in "qkv"}
    assert {part.name: part.weight.name for part in found.parts} == expected
    assert found.out is not None
    assert found.out.name == [*shapes][-1]


def test_keys_and_values_of_an_adapter_are_a_second_stream() -> None:
    """IP-Adapter in diffusers: its keys and values lie in the processor of an attention that is known."""
    ip = {f"b.attn2.processor.to_{n}_ip.0.weight": (E, 32) for n in "kv"}
    _, found = report({**_named("b.attn2", "to_q", "to_k", "to_v", "to_out.0"), **ip}).attentions
    assert {part.name: part.weight.name for part in found.parts} == dict(zip("kv", ip, strict=True))


@pytest.mark.parametrize(
    "shapes",
    [
        {f"b.0.ffn.{n}.weight": L for n in ("key", "value", "receptance")},
        {"store.key.weight": L, "store.value.weight": L},
        {"mem.keys": (128, E), "mem.values": (128, E)},
        {"critic.q.weight": L, "critic.out.weight": L},
        {"b.attn.fc1.weight": (12, E), "b.attn.fc2.weight": (E, 12)},
        {"b.attn.relative_position_bias_table": (169, 16), "b.attn.mask": (1, 64, 64), "b.attn.tril": (64, 64)},
        {"attn.out.kernel": (H, D, E)},
    ],
    ids=["RWKV's feed-forward", "a store", "a memory", "a critic", "channels", "tables", "an output"],
)  # fmt: skip
def test_what_is_none_stays_silent(shapes: Shapes) -> None:
    told = report({**KNOWN, **shapes})
    assert len(told.attentions) == 1
    assert told.account is not None
    assert told.account.unrecognised == ()


@pytest.mark.parametrize("count", [2, 3, 5])
def test_task_heads_with_layers_of_their_own_are_no_single_heads(count: int) -> None:
    """Squares beside a classifier, under ``heads.N``: an attention each, of a number of heads that nothing tells."""
    shapes = {f"heads.{h}.{n}.weight": L for h in range(count) for n in ("query", "key", "value")}
    for found in report(shapes | {f"heads.{h}.cls.weight": (10, E) for h in range(count)}).attentions:
        assert found.heads is None


SILENT: dict[str, Shapes] = {
    "DI-star": {"attention.attention_pre.0.weight": (288, 64), "attention.project.0.weight": (64, 96)},
    "AllenNLP": {"attention._combined_projection.weight": (192, 64), "attention._output_projection.weight": (64, 96)},
    "QANet": {"self_att.mem_conv.weight": (128, 64, 1), "self_att.query_conv.weight": (64, 64, 1)},
    "a gated attention unit": {
        "gau.to_hidden.0.weight": (256, 64),
        "gau.to_qk.0.weight": (32, 64),
        "gau.gamma": (2, 32),
        "gau.to_out.weight": (64, 128),
    },
    "Linformer whose K and V share": {
        "fn.to_q.weight": (64, 64),
        "fn.to_k.weight": (16, 64),
        "fn.proj_k": (64, 16),
        "fn.to_out.weight": (64, 64),
    },
    "Haiku": {f"cross/attention/linear{number}/w": (64, 64) for number in ("", "_3")}
    | {f"cross/attention/linear{number}/w": (96, 64) for number in ("_1", "_2")},
    "two scores": {f"attention.{part}.weight": (64, 64) for part in ("Q", "K", "V", "Q_2", "K_2")},
}


@batched("shapes", SILENT)
def test_it_is_said_beside_another_attention(shapes: Shapes) -> None:
    told = report(
        {"encoder.self_attn.in_proj_weight": (192, 64), "encoder.self_attn.out_proj.weight": (64, 64), **shapes}
    )
    assert told.account is not None
    assert len(told.account.unrecognised) == 1


FOUND_NO_MORE_THAN_BEFORE: dict[str, Shapes] = {
    "an MLP in a block called attention": {"attention.fc_in.weight": (256, 64), "attention.fc_out.weight": (64, 256)},
    "four layers of an MLP": {f"net.linear_{number}.weight": (64, 64) for number in range(4)},
}


@pytest.mark.parametrize("shapes", FOUND_NO_MORE_THAN_BEFORE.values(), ids=FOUND_NO_MORE_THAN_BEFORE)
def test_what_is_something_else_is_not(shapes: Shapes) -> None:
    told = report({"encoder.self_attn.in_proj_weight": (192, 64), **shapes})
    assert told.account is not None
    assert not told.account.unrecognised
