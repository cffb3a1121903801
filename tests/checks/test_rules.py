"""Every check fires on the fault that it is for, names the layer, and is silent on the same model without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import qkvinspect
from qkvinspect.checks import CHECKS, rules
from qkvinspect.checks.subject import listed, outvoted
from qkvinspect.finding_codes import FindingCode
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from tests.checks.conftest import HEADS, WIDTH, State, name
from tests.long import long

DIM = WIDTH // HEADS
Q, K, V = slice(0, WIDTH), slice(WIDTH, 2 * WIDTH), slice(2 * WIDTH, 3 * WIDTH)


def head(part: slice, number: int) -> slice:
    return slice(part.start + number * DIM, part.start + (number + 1) * DIM)


def edit(layer: int, rows: slice, value: Callable[[torch.Tensor], Any]) -> Callable[[State], None]:
    def edit(state: State) -> None:
        state[name(layer)][rows] = value(state[name(layer)])

    return edit


def nan_in_a_bias(state: State) -> None:
    state[name(3, "in_proj_bias")][WIDTH + 1] = torch.nan


def copied_layer(state: State) -> None:
    for key in list(state):
        if "layers.2." in key:
            state[key.replace(".2.", ".5.")] = state[key].clone()


def wrong_output(state: State) -> None:
    state[name(1, "out_proj.weight")] = torch.randn(WIDTH, WIDTH // 2)


def another_size(state: State) -> None:
    state[name(4)] = torch.randn(3 * 16, 16)
    state[name(4, "in_proj_bias")] = torch.randn(3 * 16)
    state[name(4, "out_proj.weight")] = torch.randn(16, 16)


def no_bias(state: State) -> None:
    del state[name(6, "in_proj_bias")]


def no_layer(state: State) -> None:
    for key in [key for key in state if "layers.3.self_attn." in key]:
        del state[key]


def extra_key_as_bias(state: State) -> None:
    state[name(0, "bias_k")] = torch.randn(WIDTH)
    state[name(0, "bias_v")] = torch.randn(WIDTH)


def one_extra_position(state: State) -> None:
    state[name(2, "bias_k")] = torch.randn(1, 1, WIDTH)


def half(state: State) -> None:
    for tensor in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"):
        state[name(7, tensor)] = state[name(7, tensor)].half()


def nothing(state: State) -> None:
    for key in list(state):
        if "attn" in key:
            del state[key]


RANK_ONE = torch.outer(torch.linspace(0.1, 1, DIM), torch.linspace(-1, 1, WIDTH))

FAULTS: list[tuple[str, str, int | None, Callable[[State], None], str]] = [
    ("nonfinite", "error", 2, edit(2, slice(40, 41), lambda _: torch.nan), "in head 1"),
    ("nonfinite", "error", 2, edit(2, K, lambda _: torch.inf), "in every head"),
    ("nonfinite", "error", 3, nan_in_a_bias, "the bias of K holds 1"),
    ("zero-part", "error", 1, edit(1, K, lambda _: 0), "K is zero throughout"),
    ("zero-head", "warning", 5, edit(5, head(V, 3), lambda _: 0), "V is zero in head 3"),
    ("constant-part", "error", 0, edit(0, Q, lambda _: 0.5), "every value of Q is 0.5"),
    ("constant-part", "error", 0, edit(0, head(K, 2), lambda _: 0.5), "K has one value throughout in head 2"),
    ("damaged-block", "error", 2, edit(2, slice(41, 47), lambda _: 0), "in_proj_weight (K, head 1) are zero"),
    ("equal-parts", "error", 4, edit(4, K, lambda weight: weight[V]), "K and V hold the same values"),
    ("equal-parts", "error", 4, edit(4, Q, lambda weight: weight[K]), "Q and K hold the same values"),
    ("equal-heads", "warning", 3, edit(3, head(Q, 3), lambda w: w[head(Q, 1)]), "heads 1 and 3 of Q hold"),
    (
        "equal-heads",
        "warning",
        3,
        edit(3, K, lambda w: torch.cat([w[head(K, n // 2)] for n in range(HEADS)])),
        "the heads of K are 2 kv heads, each written 2 times",
    ),
    (
        "equal-heads",
        "warning",
        3,
        edit(3, K, lambda w: torch.cat([w[head(K, 0)] for _ in range(HEADS)])),
        "heads 0, 1, 2 and 3 of K hold the same values",
    ),
    (
        "equal-heads",
        "warning",
        3,
        edit(3, K, lambda w: torch.cat([w[head(K, n % 2)] for n in range(HEADS)])),
        "heads 0 and 2 of K hold the same values",
    ),
    ("equal-layers", "warning", 5, copied_layer, "its Q, K and V hold the same values as layers.2.self_attn"),
    ("projection-shape", "error", 1, wrong_output, "takes 16 values, but 4 heads of V of 8 give 32"),
    ("odd-layer", "warning", 4, another_size, "where 7 others of its stack have"),
    ("missing-bias", "warning", 6, no_bias, "it lacks bias, unlike 7 others"),
    ("missing-layer", "warning", None, no_layer, "there is no attention for N = 3 of 0 to 7"),
    ("norm-outlier", "warning", 5, edit(5, V, lambda weight: 30 * weight[V]), "times larger than the median"),
    ("norm-outlier", "warning", 5, edit(5, Q, lambda weight: weight[Q] / 30), "times smaller than the median"),
    ("dead-head", "warning", 2, edit(2, head(Q, 1), lambda w: w[head(Q, 1)] / 1e3), "Q in head 1 is under 0.02"),
    ("rank-collapse", "info", 6, edit(6, head(K, 0), lambda _: RANK_ONE), "K has all but rank one in head 0"),
    ("bias-kv", "error", 0, extra_key_as_bias, "belong in in_proj_bias"),
    ("bias-kv", "error", 2, one_extra_position, "has bias_k alone"),
    ("mixed-dtype", "warning", 7, half, "it is float16, where 7 others of its stack are float32"),
    ("no-attention", "error", None, nothing, "has a name that a known layout uses"),
]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_sound_model_is_silent(sound: State, check: Any, suffix: str) -> None:
    assert check(sound, suffix=suffix, code=0) == []


@pytest.mark.parametrize(
    ("code", "severity", "layer", "fault", "says"), FAULTS, ids=[f"{code}: {says}" for code, _, _, _, says in FAULTS]
)
def test_a_fault_is_named(
    code: str, severity: str, layer: int | None, fault: Callable[[State], None], says: str, sound: State, check: Any
) -> None:
    fault(sound)
    found = check(sound, code=int(severity != "info"))
    wanted = [finding for finding in found if finding["code"] == code]
    assert wanted, found
    assert wanted[0]["severity"] == severity
    assert wanted[0]["layer"] == (None if layer is None else name(layer, "").rstrip("."))
    assert says in wanted[0]["message"]
    assert {finding["layer"] for finding in found} == {wanted[0]["layer"]}
    assert check(sound, "--ignore", code) == [finding for finding in found if finding["code"] != code]


@pytest.mark.parametrize("code", ["dead-head", "norm-outlier", "rank-collapse", "zero-head", "equal-parts"])
def test_a_fault_is_one_whatever_the_scale_of_all_weights(code: str, sound: State, check: Any) -> None:
    _, severity, _, fault, _ = next(one for one in FAULTS if one[0] == code)
    fault(sound)
    found = [
        {(one["code"], one["layer"]) for one in check(state, code=int(severity != "info"))}
        for state in (sound, {key: tensor / 64 for key, tensor in sound.items()})
    ]
    assert code in {said for said, _ in found[0]}
    assert found[0] == found[1]


def test_every_check_has_a_fault_here() -> None:
    own_files = {"expected", "changed", "digest-differs", "fused-scales-differ", "rotary-order-against-weights"}
    own_files |= {"coarse-head", "quantised-otherwise", "wrong-scales"}
    own_files |= {"zero-everywhere"}  # a stack of no fault: below
    assert {module.CODE for module in CHECKS} == {code for code, *_ in FAULTS} | own_files


def test_layers_that_share_storage_are_no_copies(sound: State, check: Any) -> None:
    for key in list(sound):
        if "layers.2." in key:
            sound[key.replace(".2.", ".5.")] = sound[key]
    assert check(sound) == []


def test_every_other_layer_may_be_of_another_kind(sound: State, check: Any) -> None:
    for key in list(sound):
        if "self_attn" in key and int(key.split(".")[1]) % 2:
            del sound[key]
    assert check(sound) == []


@pytest.mark.parametrize("module", CHECKS, ids=lambda module: module.CODE)
def test_the_docstring_of_a_check_begins_with_its_summary(module) -> None:
    summary, _, details = module.__doc__.partition("\n\n")
    assert " ".join(summary.split()) == module.CODE.summary
    assert details


def test_the_rules_are_the_codes_that_check_can_report() -> None:
    assert {rule.code for rule in rules()} == {code for code in FindingCode if code.in_check}
    assert [rule.code for rule in rules()][: len(CHECKS)] == [module.CODE for module in CHECKS]


@pytest.mark.parametrize(
    "sample",
    long("trained.safetensors".__eq__, ["damaged.pt", "miswritten.safetensors", "trained.safetensors", "sharded"]),
)
def test_what_is_noticed_is_as_severe_as_its_code_says(sample: str, samples: Path) -> None:
    """``show`` reports it with one severity, ``check`` with that before a release."""
    own = {module.CODE for module in CHECKS}
    with open_checkpoint(samples / sample) as checkpoint:
        noticed = [one for one in inspect(checkpoint, Options(evidence="each")).findings if one.code not in own]
    found = [one for one in qkvinspect.check(samples / sample) if one.code not in own]
    assert {(one.severity, one.message) for one in noticed} == {(one.code.severity, one.message) for one in found}
    assert {(one.code.in_check, one.message) for one in noticed} == {(one.severity, one.message) for one in found}


def stacks(lengths: tuple[int, ...], widths: tuple[int, ...]) -> State:
    """Stages of a model, each a stack of its own, with weights as torch initialises them."""
    state: State = {}
    for stage, (length, width) in enumerate(zip(lengths, widths, strict=True)):
        for layer in range(length):
            module = torch.nn.MultiheadAttention(width, 4)
            with torch.no_grad():
                module.in_proj_bias.normal_(std=0.01)
            state |= {f"stage{chr(97 + stage)}.blocks.{layer}.attn.{key}": v for key, v in module.state_dict().items()}
    return state


@pytest.mark.parametrize(
    ("lengths", "widths", "said"),
    [
        ((3, 3, 3, 3), (32, 32, 32, 32), "than the median of 12 layers"),
        ((3, 3), (32, 64), "than the median of the 2 other layers of its stack"),
        ((2, 2), (32, 64), "on average: no layer's are"),
    ],
    ids=["of one shape", "of its stack", "alone"],
)
def test_a_layer_of_a_small_stack_that_is_a_thousand_times_too_large(
    lengths: tuple[int, ...], widths: tuple[int, ...], said: str, check: Any
) -> None:
    state = stacks(lengths, widths)
    assert not [one for one in check(state) if one["code"] == "norm-outlier"]
    state["stageb.blocks.1.attn.in_proj_weight"] *= 1000 if "average" not in said else 20_000
    found = [one for one in check(state) if one["code"] == "norm-outlier"]
    assert {one["layer"] for one in found} == {"stageb.blocks.1.attn"}
    assert len(found) == 3  # Q, K and V
    assert all(said in one["message"] for one in found)


def test_stages_that_differ_as_real_ones_do_are_no_outliers(check: Any) -> None:
    state = stacks((2, 2, 2, 2), (32, 32, 32, 32))
    for key, factor in (("stagea.blocks.0", 5.0), ("stagec.blocks.1", 0.2)):
        state[f"{key}.attn.in_proj_weight"] *= factor
    assert not [one for one in check(state) if one["code"] == "norm-outlier"]


def test_many_numbers_are_counted_after_the_first_eight() -> None:
    assert listed([3]) == "3"
    assert listed([3, 4, 5]) == "3, 4 and 5"
    assert listed(list(range(8))) == "0, 1, 2, 3, 4, 5, 6 and 7"
    assert listed(list(range(13))) == "0, 1, 2, 3, 4, 5, 6, 7 and 5 more"


def test_what_most_layers_have_needs_four_that_agree_and_a_quarter_that_does_not() -> None:
    assert outvoted({}) is None
    assert outvoted(dict.fromkeys("abcd", 1)) is None
    assert outvoted({**dict.fromkeys("abc", 1), "d": 2}) is None
    assert outvoted({**dict.fromkeys("abcd", 1), "e": 2}) == (1, 4, ["e"])
    assert outvoted({**dict.fromkeys("abcdef", 1), "g": 2, "h": 3}) == (1, 6, ["g", "h"])
    assert outvoted({**dict.fromkeys("abcde", 1), "g": 2, "h": 3}) is None


def test_one_of_two_heads_is_named(check: Any) -> None:
    state = {name(layer): torch.randn(3 * WIDTH, WIDTH) for layer in range(2)}
    state[name(1)][WIDTH + WIDTH // 2 : 2 * WIDTH] = 0
    found = check(state, "--heads", "2")
    assert [(one["code"], one["layer"]) for one in found if one["severity"] != "info"] == [
        ("zero-head", name(1, "")[:-1])
    ]


@pytest.mark.parametrize("part", long("kv".__contains__, "qkv"))
def test_a_part_that_begins_as_zeros_is_no_error_until_the_rest_is_trained(part: str, check: Any) -> None:
    torch.manual_seed(0)
    names = [f"layers.{layer}.self_attn.{{}}_proj.weight" for layer in range(3)]
    state = {one.format(p): torch.nn.Linear(128, 128).weight.detach() for one in names for p in ("q", "k", "v", "out")}
    for one in names:
        state[one.format(part)] = torch.zeros(128, 128)

    def said() -> set[str]:
        return {row["code"] for row in check(state) if "zero" in row["code"]}

    assert said() == {"zero-everywhere"}
    state[names[1].format("out")] = 1.5 * state[names[1].format("out")]
    assert said() == {"zero-part"}
    state[names[1].format("out")] /= 1.5
    state[names[2].format(part)] = state[names[2].format("out")].clone()
    assert said() == {"zero-part"}
