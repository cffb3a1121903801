"""The tree of layers: stacks side by side, every layer once, whatever the names."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkvinspect.inspection.report import Attention
from qkvinspect.render.labels import apart
from qkvinspect.tui.outline import Branch, outline


def attentions(*names: str, dtype: str = "float32") -> list[Attention]:
    return [Attention(name, None, "names", ("x",), {}, dtype, None) for name in names]


def tree(branch: Branch) -> object:
    return {child.label: tree(child) if child.children else child.layers[0] for child in branch.children}


def leaves(branch: Branch) -> list[int]:
    return [one for child in branch.children for one in leaves(child)] if branch.children else list(branch.layers)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.layers.0.attn", "a.layers.1.attn"], {"a.layers.*.attn": {"0": 0, "1": 1}}),
        (["attn"], {"attn": 0}),
        ([""], {"": 0}),
        (
            ["enc.0.attn", "enc.1.attn", "dec.0.self", "dec.0.cross", "dec.1.self", "dec.1.cross", "pool"],
            {
                "enc.*.attn": {"0": 0, "1": 1},
                "dec.*": {"self": {"0": 2, "1": 4}, "cross": {"0": 3, "1": 5}},
                "pool": 6,
            },
        ),
        (
            ["b.0.attn", "b.1.attn", "b.0.attn.lora", "b.1.attn.lora"],
            {"b.*.attn": {"": {"0": 0, "1": 1}, "lora": {"0": 2, "1": 3}}},
        ),
        (["d.0.t.1.a", "d.2.t.0.a"], {"d.*.t.*.a": {"0.1": 0, "2.0": 1}}),
    ],
)
def test_trees(names: list[str], expected: object) -> None:
    assert tree(outline(attentions(*names), range(len(names)))) == expected


NAMES = st.lists(st.lists(st.sampled_from(["", "a", "b", "0", "1", "*", "#"]), max_size=12).map(".".join), unique=True)


@given(NAMES)
@pytest.mark.gate
def test_every_layer_is_there_once(names: list[str]) -> None:
    found = outline(attentions(*names), range(len(names)))
    assert sorted(leaves(found)) == list(range(len(names)))


@pytest.mark.gate
def test_a_tree_is_never_deep() -> None:
    names = [".".join(string.ascii_letters[: 1 + length % 52] * (1 + length // 52)) for length in range(2000)]

    def depth(branch: Branch) -> int:
        return 1 + max(map(depth, branch.children), default=0)

    assert depth(outline(attentions(*names), range(len(names)))) < 15


def test_layers_that_differ_are_called_mixed() -> None:
    layers = [*attentions("a.0"), *attentions("a.1", dtype="float16")]
    (stack,) = outline(layers, range(2)).children
    assert (stack.note, stack.alike) == ("2 mixed", False)
    (stack,) = outline(attentions("a.0", "a.1"), range(2)).children
    assert (stack.note, stack.alike) == ("2", True)


@given(NAMES)
def test_labels_tell_layers_apart(names: list[str]) -> None:
    _, labels = apart(names)
    assert len(set(labels)) == len(labels) == len(names)


def test_labels_leave_out_what_all_have() -> None:
    assert apart(["m.layers.0.attn", "m.layers.10.attn"]) == ("m.layers.*.attn", ["0", "10"])
    assert apart(["m.attn", "m.attn.lora"]) == ("m.*", ["attn", "attn.lora"])
