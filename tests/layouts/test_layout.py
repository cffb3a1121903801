"""What a row of the registry leaves unsaid follows from its weights."""

from __future__ import annotations

from dataclasses import replace

from qkvinspect.layouts.layout import QK_NORMS, HeadTensor, Layout, StoredWeight
from qkvinspect.layouts.packing import KV_PER_HEAD, PER_HEAD, QKV, Q


def row(*weights: StoredWeight, **said: object) -> Layout:
    return Layout("x", "X", weights, "x.py", "proven", **said)


def test_one_tensor_for_all_parts() -> None:
    layout = row(StoredWeight("a.qkv.weight", PER_HEAD, "in_out"))
    assert layout.biases == (StoredWeight("a.qkv.bias", PER_HEAD),)
    assert (layout.kv_heads, layout.head_tensors) == ("equal", QK_NORMS)


def test_several_tensors() -> None:
    layout = row(StoredWeight("q.weight", Q), StoredWeight("kv.weight", KV_PER_HEAD))
    assert layout.biases == (StoredWeight("q.bias", Q), StoredWeight("kv.bias", KV_PER_HEAD))
    assert (layout.kv_heads, layout.head_tensors) == ("free", ())


def test_a_name_that_no_bias_can_be_derived_from() -> None:
    assert row(StoredWeight("in_proj_weight", QKV)).biases == ()


def test_what_is_said_stays() -> None:
    sinks = (HeadTensor("sinks", 0, "num_heads"),)
    for said in ({"biases": ()}, {"kv_heads": "free"}, {"head_tensors": ()}, {"head_tensors": sinks}):
        layout = row(StoredWeight("qkv.weight", QKV), **said)
        assert {name: getattr(layout, name) for name in said} == said


def test_a_changed_copy_keeps_what_followed_from_the_first() -> None:
    """So that a part of a module, alone in an adapter, is read as the module is."""
    layout = row(StoredWeight("q.weight", Q), StoredWeight("kv.weight", KV_PER_HEAD))
    alone = replace(layout, weights=layout.weights[:1])
    assert (alone.biases, alone.kv_heads, alone.head_tensors) == (layout.biases, "free", ())
