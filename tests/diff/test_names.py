"""Which name in A is which in B."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qkvinspect.diff.pairing import Pair, Renames, about_pairing, pair_names
from qkvinspect.errors import UsageError
from tests.counted import counted


def pairs(a: list[str], b: list[str], *maps: str) -> dict[str, tuple[str, str]]:
    return {pair.a: (pair.b, pair.matched_by) for pair in pair_names(a, b, Renames(maps))}


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (
            lambda n: ["network." * i + "w" for i in range(1, n)],
            lambda n: ["network." * i + "v.w" for i in range(1, n)],
        ),
        (lambda n: [f"x{i}.w" for i in range(n)], lambda n: [f"y{i}.w" for i in range(n)]),
        (lambda n: [f"module.x{i}.w" for i in range(n)], lambda n: [f"net.y{i}.w" for i in range(n)]),
        (lambda n: [f"x{i}.w{i}" for i in range(n)], lambda n: [f"w{i}" for i in range(n)]),
        (lambda n: [f"a{'.a' * i}.w" for i in range(n // 8)], lambda n: [f"b{'.a' * i}.w" for i in range(n // 8)]),
        (lambda n: [f"enc.{i}.q" for i in range(n)], lambda n: [f"bert.enc.{i}.q" for i in range(n)]),
    ],
    ids=["repeated words", "other names", "under models", "a prefix each", "deep", "one prefix"],
)
def test_twice_the_names_are_twice_the_steps(a: Callable[[int], list[str]], b: Callable[[int], list[str]]) -> None:
    """Steps are lines that run, which a busy machine does not change."""

    def steps(n: int) -> int:
        names = a(n), b(n)
        with counted() as found:
            pair_names(*names, Renames(()))
        return sum(found.values())

    assert steps(400) < 2.6 * steps(200)


@pytest.mark.parametrize(
    ("a", "b", "how"),
    [
        ("layers.0.attn", "layers.0.attn", "name"),
        ("module.layers.0.attn", "layers.0.attn", "wrapper"),
        ("_orig_mod.layers.0.attn", "module._fsdp_wrapped_module.layers.0.attn", "wrapper"),
        ("model.layers.0.attn", "layers.0.attn", "prefix"),
        ("layers.0.attn", "transformer.encoder.layers.0.attn", "prefix"),
        ("model.layers.0.attn", "net.layers.0.attn", "prefix"),
        ("module.model.layers.0.attn", "_orig_mod.layers.0.attn", "prefix"),
    ],
)
def test_names_are_matched(a: str, b: str, how: str) -> None:
    assert pairs([a], [b]) == {a: (b, how)}


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("encoder.0.attn", "decoder.0.attn"),
        ("layers.0.attn", "layers.1.attn"),
        ("blocks.0.attn", "encoder.layer.0.attention.self"),
        ("0.attn", "1.attn"),
    ],
)
def test_names_that_may_be_others_are_left_alone(a: str, b: str) -> None:
    assert pairs([a], [b]) == {}


def test_what_could_be_two_is_none() -> None:
    assert pairs(["encoder.0.attn", "decoder.0.attn"], ["0.attn"]) == {}
    assert pairs(["module.a", "a.x"], ["_orig_mod.a"]) == {"module.a": ("_orig_mod.a", "wrapper")}
    assert pairs(["module.a", "_orig_mod.a"], ["base_layer.a"]) == {}


def test_a_whole_stack_outweighs_a_part_of_one() -> None:
    stack = [f"encoder.{i}.attn" for i in range(4)] + [f"decoder.{i}.attn" for i in range(2)]
    assert list(pairs(stack, [f"{i}.attn" for i in range(4)])) == stack[:4]


@pytest.mark.parametrize(
    ("map", "a", "b"),
    [
        ("blocks=encoder.layer", "blocks.3.attn", "encoder.layer.3.attn"),
        ("blocks.*.attn=encoder.layer.*.attention.self", "blocks.3.attn", "encoder.layer.3.attention.self"),
        ("blocks.*.attn=encoder.layer.*.attention.self", "blocks.3.attn.q", "encoder.layer.3.attention.self.q"),
        ("a.b=", "a.b.c", "c"),
        ("*.x.*=*.y.*", "m.x.1.w", "m.y.1.w"),
    ],
)
def test_a_map_renames(map: str, a: str, b: str) -> None:
    assert pairs([a], [b], map) == {a: (b, "map")}


def test_a_map_does_not_end_within_a_word() -> None:
    assert Renames(["block=layer"])("blocks.0") == "blocks.0"


def test_the_last_map_counts() -> None:
    assert Renames(["a=b", "a.x=c"])("a.x.y") == "c.y"


@pytest.mark.parametrize(
    ("ordered", "by_values", "said"),
    [
        (0, 0, []),
        (1, 0, ["1 layer with other names in B were matched by order and shape: --map settles it if that is wrong"]),
        (2, 0, ["2 layers with other names in B were matched by order and shape: --map settles it if that is wrong"]),
        (0, 1, ["1 tensor outside attention with other names in B were matched by what they hold"]),
        (0, 2, ["2 tensors outside attention with other names in B were matched by what they hold"]),
    ],
)
def test_how_layers_and_tensors_were_matched_is_said(ordered: int, by_values: int, said: list[str]) -> None:
    by_name, by_order = Pair("x", "x", "name"), [Pair(f"a.{n}", f"b.{n}", "order") for n in range(ordered)]
    assert about_pairing([by_name, *by_order], 0, by_values) == said


@pytest.mark.parametrize("map", ["nothing", "=x", "a=*"])
def test_a_map_that_is_none_is_refused(map: str) -> None:
    with pytest.raises(UsageError, match="--map"):
        Renames([map])


def mha(name: str, width: int = 8) -> dict[str, torch.Tensor]:
    return {
        f"{name}.in_proj_weight": torch.randn(3 * width, width),
        f"{name}.out_proj.weight": torch.randn(width, width),
    }


def test_stacks_are_matched_by_order_where_there_is_one_order(run, tmp_path: Path) -> None:
    weights = [mha("x"), mha("x", 16), mha("x")]

    def save(file: str, names: list[str]) -> Path:
        state = {key.replace("x", name, 1): t for name, w in zip(names, weights, strict=True) for key, t in w.items()}
        save_file(state, tmp_path / f"{file}.safetensors")
        return tmp_path / f"{file}.safetensors"

    a = save("a", ["blocks.2.attn", "blocks.10.attn", "blocks.11.attn"])
    b = save("b", ["h.0.mixer", "h.1.mixer", "h.2.mixer"])
    found = run("diff", a, b, "-f", "json", "--no-evidence")
    assert found.code == 0
    assert [(one["a"], one["b"], one["matched_by"]) for one in found.json()["layers"]] == [
        ("blocks.2.attn", "h.0.mixer", "order"),
        ("blocks.10.attn", "h.1.mixer", "order"),
        ("blocks.11.attn", "h.2.mixer", "order"),
    ]
    assert "3 layers with other names in B were matched by order and shape" in run("diff", a, b, "--no-evidence").out
    torn = save("c", ["h.0.mixer", "h.1.mixer", "blocks.11.attn"])
    found = run("diff", a, torn, "-f", "json", "--no-evidence").json()
    assert (len(found["layers"]), len(found["added"]), len(found["removed"])) == (1, 2, 2)


def test_two_stacks_alike_are_not_guessed(run, tmp_path: Path) -> None:
    first, second = mha("l.0.self"), mha("l.0.cross")
    save_file(first | second, tmp_path / "a.safetensors")
    renamed = {
        key.replace("l.0.self", "d.0.one").replace("l.0.cross", "d.0.two"): t for key, t in (first | second).items()
    }
    save_file(renamed, tmp_path / "b.safetensors")
    found = run("diff", "--no-evidence", tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert found.code == 1
    assert "2 layers of A have the shapes of layers of B, but in more than one order" in found.out
    maps = ("--map", "l.*.self=d.*.one", "--map", "l.*.cross=d.*.two")
    assert run("diff", "--no-evidence", tmp_path / "a.safetensors", tmp_path / "b.safetensors", *maps).code == 0


def test_prefixes_of_layers_are_those_of_other_tensors(run, tmp_path: Path) -> None:
    state = mha("layers.0.attn") | {"layers.0.norm.weight": torch.ones(8), "head.weight": torch.ones(4)}
    save_file(state, tmp_path / "a.safetensors")
    renamed = {f"bert.{name}": tensor for name, tensor in state.items() if name != "head.weight"}
    save_file(renamed | {"head.weight": torch.ones(4)}, tmp_path / "b.safetensors")
    found = run("diff", "--no-evidence", tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert found.code == 0
    assert "names were matched without 'bert.' of B" in found.out
