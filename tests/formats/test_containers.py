"""Where people put the state_dict: the container found, its tensors, and the hyper-parameters beside it."""

from __future__ import annotations

import argparse
import os
import re
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from qkvinspect.errors import CheckpointError, UsageError
from qkvinspect.formats import open_checkpoint
from tests.batches import batched


def weights(*names: str) -> dict[str, torch.Tensor]:
    return {name: torch.full((2, 3), float(index)) for index, name in enumerate(names or ("a.weight", "a.bias"))}


def optimizer_state() -> dict[str, Any]:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


class Config(dict[str, Any]):
    """A dict subclass, as configs and state_dicts often are."""


class Node:
    """As OmegaConf pickles: a container keeps ``_content``, a leaf ``_val``."""

    def __init__(self, **state: Any) -> None:
        self.__dict__.update(state)


SD = weights("a.weight", "a.bias")

CONTAINERS: dict[str, tuple[Callable[[], Any], str, list[str]]] = {
    "plain": (lambda: SD, "", ["a.weight", "a.bias"]),
    "ordered": (lambda: OrderedDict(SD), "", ["a.weight", "a.bias"]),
    "dict subclass": (lambda: Config(SD), "", ["a.weight", "a.bias"]),
    "defaultdict": (lambda: defaultdict(list, SD), "", ["a.weight", "a.bias"]),
    "with a number beside": (lambda: {**SD, "epoch": 3, "name": "x"}, "", ["a.weight", "a.bias"]),
    "state_dict": (lambda: {"state_dict": SD, "optimizer": optimizer_state()}, "state_dict", ["a.weight", "a.bias"]),
    "optimizer first": (
        lambda: {"optimizer": optimizer_state(), "state_dict": SD},
        "state_dict",
        ["a.weight", "a.bias"],
    ),
    "lightning": (
        lambda: {
            "epoch": 1,
            "global_step": 5,
            "state_dict": SD,
            "optimizer_states": [optimizer_state()],
            "lr_schedulers": [{"base_lrs": [torch.tensor(0.1)]}],
            "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(1.0)}},
            "loops": {"fit_loop": {"state_dict": {"x": torch.tensor(1)}}},
        },
        "state_dict",
        ["a.weight", "a.bias"],
    ),
    "model": (
        lambda: {"model": SD, "model_ema": weights("a.weight", "a.bias"), "args": None},
        "model",
        ["a.weight", "a.bias"],
    ),
    "ema first": (lambda: {"state_dict_ema": SD, "state_dict": SD}, "state_dict", ["a.weight", "a.bias"]),
    "ema only": (lambda: {"ema": SD, "optimizer": optimizer_state()}, "ema", ["a.weight", "a.bias"]),
    "module": (lambda: {"module": SD, "optimizer": optimizer_state()}, "module", ["a.weight", "a.bias"]),
    "model state_dict": (lambda: {"model": {"state_dict": SD}}, "model/state_dict", ["a.weight", "a.bias"]),
    "list": (lambda: [SD, {"epoch": 1}], "0", ["a.weight", "a.bias"]),
    "sub-models": (
        lambda: {"generator": SD, "discriminator": weights("d.weight"), "g_optim": optimizer_state()},
        "",
        ["generator.a.weight", "generator.a.bias", "discriminator.d.weight"],
    ),
    "megatron": (
        lambda: {
            "args": argparse.Namespace(num_attention_heads=4),
            "iteration": 100,
            "model": {
                "language_model": {
                    "embedding": {"word_embeddings": {"weight": torch.ones(4, 2)}},
                    "encoder": weights("layers.0.self_attention.query_key_value.weight", "final_layernorm.weight"),
                }
            },
            "optimizer": {"optimizer": optimizer_state()},
            "rng_state": [{"torch_rng_state": torch.get_rng_state()}],
        },
        "model/language_model",
        [
            "embedding.word_embeddings.weight",
            "encoder.layers.0.self_attention.query_key_value.weight",
            "encoder.final_layernorm.weight",
        ],
    ),
    "keys that are numbers": (lambda: {0: torch.ones(2), 1: torch.ones(2)}, "", ["0", "1"]),
}


@pytest.mark.parametrize(("whole", "container", "names"), CONTAINERS.values(), ids=CONTAINERS)
def test_the_model_is_found(whole: Callable[[], Any], container: str, names: list[str], saved: Any) -> None:
    with open_checkpoint(saved(whole())) as checkpoint:
        assert checkpoint.container == container
        assert list(checkpoint.tensors) == names
        assert not checkpoint.findings


@pytest.mark.parametrize(("whole", "container", "names"), CONTAINERS.values(), ids=CONTAINERS)
def test_keys_lead_to_the_tensor_that_torch_loads(
    whole: Callable[[], Any], container: str, names: list[str], saved: Any, content: Any, tensor_bytes: Any
) -> None:
    path = saved(whole())
    loaded = torch.load(path, weights_only=False)
    with open_checkpoint(path) as checkpoint:
        for name in names:
            node = loaded
            for key in checkpoint.tensors[name].keys:
                node = node[key] if isinstance(node, dict) and key in node else node[int(key)]
            assert content(checkpoint.tensors[name]) == tensor_bytes(node)


def test_choosing_a_container(saved: Any, content: Any, tensor_bytes: Any) -> None:
    whole = {
        "model": weights("w"),
        "model_ema": {"w": torch.full((2, 3), 9.0)},
        "optimizer": optimizer_state(),
        "epoch": 3,
    }
    path = saved(whole)
    with open_checkpoint(path) as checkpoint:
        listed = {container.path: (container.num_tensors, container.role) for container in checkpoint.containers}
        assert listed == {"model": (1, "model"), "model_ema": (1, "ema"), "optimizer": (6, "optimizer")}
        assert checkpoint.container == "model"
    with open_checkpoint(path, container="model_ema") as checkpoint:
        assert checkpoint.container == "model_ema"
        assert content(checkpoint.tensors["w"]) == tensor_bytes(whole["model_ema"]["w"])
    with open_checkpoint(path, container="optimizer") as checkpoint:
        assert len(checkpoint.tensors) == 6
        assert "state.0.exp_avg" in checkpoint.tensors
    with pytest.raises(UsageError, match="no container 'modle'") as caught:
        open_checkpoint(path, container="modle")
    assert "'model_ema'" in str(caught.value)


def test_the_root_is_a_container_that_can_be_named(saved: Any) -> None:
    with open_checkpoint(saved(SD), container="") as checkpoint:
        assert list(checkpoint.tensors) == list(SD)


@pytest.mark.parametrize(
    ("whole", "found"),
    [
        ({}, "empty dict"),
        ({"epoch": 3, "args": {}}, "'epoch', 'args'"),
        ([], "list"),
        (None, "NoneType"),
        ("text", "str"),
        (Path("x"), "pathlib"),
        ({"optimizer": optimizer_state()}, "'optimizer'"),
        ({"optimizer_states": [optimizer_state()], "epoch": 1}, "'optimizer_states'"),
        ({"lr_scheduler": {"lr": torch.tensor(0.1)}}, "'lr_scheduler'"),
        (optimizer_state(), "'state', 'param_groups'"),
    ],
    ids=["empty", "numbers", "list", "none", "text", "path", "optimizer", "optimizers", "scheduler", "bare optimizer"],
)
def test_files_without_a_model(whole: Any, found: str, saved: Any, refused: Any) -> None:
    error = refused(saved(whole), "no model weights")
    assert found in str(error.found)


def test_a_tensor_alone(saved: Any, refused: Any) -> None:
    refused(saved(torch.ones(2)))


def test_names_that_collide(saved: Any, refused: Any) -> None:
    refused(saved({"a.b": torch.ones(1), "a": {"b": torch.ones(2)}, "c": torch.ones(1)}), "same name")


def test_keys_that_only_look_alike(saved: Any, refused: Any) -> None:
    """1 and "1" are two keys: neither tensor may vanish without a word."""
    refused(saved({1: torch.ones(1), "1": torch.zeros(1)}), "same name")


# Hyper-parameters.

HPARAMS = {"num_heads": 8, "dims": [1, 2], "name": "x", "nested": {"deep": True}, "rate": 0.5, "none": None}

HYPER: dict[str, tuple[Any, Any]] = {
    "dict": (HPARAMS, HPARAMS),
    "ordered": (OrderedDict(HPARAMS), HPARAMS),
    "dict subclass": (Config(HPARAMS), HPARAMS),
    "namespace": (argparse.Namespace(**HPARAMS), HPARAMS),
    "nested namespace": (argparse.Namespace(model=argparse.Namespace(heads=4)), {"model": {"heads": 4}}),
    "object": (Node(heads=4, size=(1, 2)), {"heads": 4, "size": [1, 2]}),
    "omegaconf": (
        Node(
            _content={
                "heads": Node(_val=8, _metadata=None),
                "sub": Node(_content={"dim": Node(_val=64)}),
                "list": Node(_content=[Node(_val=1), Node(_val=2)]),
            },
            _metadata=Node(x=1),
            _parent=None,
        ),
        {"heads": 8, "sub": {"dim": 64}, "list": [1, 2]},
    ),
    "with a path": ({"path": Path("x"), "n": 1}, {"n": 1}),
}


@pytest.mark.parametrize("key", ["hyper_parameters", "args", "model_args", "config", "cfg"])
@batched("stored expected", HYPER)
def test_hyper_parameters_beside_the_state_dict(stored: Any, expected: Any, key: str, saved: Any) -> None:
    with open_checkpoint(saved({"state_dict": SD, key: stored})) as checkpoint:
        (config,) = checkpoint.configs
        assert config.origin == f"checkpoint:{key}"
        assert {name: config.values[name] for name in expected} == expected


@pytest.mark.parametrize("key", ["hyper_parameters", "args", "config"])
def test_a_tensor_among_the_hyper_parameters_is_no_weight(key: str, saved: Any) -> None:
    """Loss weights, say: they make no second model out of the hyper-parameters."""
    with open_checkpoint(saved({"state_dict": SD, key: {"pos_weight": torch.ones(3), "heads": 4}})) as checkpoint:
        assert checkpoint.container == "state_dict"
        assert list(checkpoint.tensors) == list(SD)
        assert checkpoint.configs[0].values["heads"] == 4


def test_numbers_beside_the_state_dict(saved: Any) -> None:
    whole = {"model": SD, "epoch": 7, "arch": "vit_base", "num_heads": 12, "args": {"x": 1}, "optimizer": {"lr": 1}}
    with open_checkpoint(saved(whole)) as checkpoint:
        found = {config.origin: dict(config.values) for config in checkpoint.configs}
        assert found == {"checkpoint:args": {"x": 1}, "checkpoint": {"epoch": 7, "arch": "vit_base", "num_heads": 12}}


def test_a_config_in_a_cycle_or_beyond_all_depth(saved: Any) -> None:
    loop: dict[str, Any] = {"heads": 4}
    loop["self"] = loop
    with open_checkpoint(saved({"state_dict": SD, "args": loop})) as checkpoint:
        assert checkpoint.configs[0].values["heads"] == 4


def test_counters_and_sets_beside_the_weights_do_not_matter(saved: Any) -> None:
    whole = {"state_dict": SD, "steps": Counter(a=1), "seen": {1, 2}, "when": frozenset({"x"}), "z": 1j, "b": b"x"}
    with open_checkpoint(saved(whole)) as checkpoint:
        assert list(checkpoint.tensors) == list(SD)


# Whole pickled modules.


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


class Buffers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.ones(1))
        self.register_buffer("unsaved", torch.ones(1), persistent=False)
        self.register_buffer("absent", None)
        self.register_parameter("nothing", None)
        self.norm = nn.BatchNorm1d(3)
        self.plain_tensor = torch.ones(4)
        self.num_heads = 6


class OddNames(nn.Module):
    """Sub-modules whose names elsewhere would mean an average or an optimizer."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("ema", "shadow", "noise_scheduler", "optimus", "scaler", "loops", "callbacks"):
            self.add_module(name, nn.Linear(1, 1))


class Lists(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(1, 1) for _ in range(3))
        self.by_name = nn.ModuleDict({"x": nn.Linear(1, 1)})
        self.scales = nn.ParameterList([torch.ones(1), torch.ones(2)])
        self.named = nn.ParameterDict({"y": torch.ones(1)})
        self.table = {"not": torch.ones(1)}


MODULES = {
    "linear": lambda: nn.Linear(2, 3),
    "transformer": lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 2, enable_nested_tensor=False),
    "attention with kdim": lambda: nn.MultiheadAttention(8, 2, kdim=4, vdim=6),
    "sequential": lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Linear(2, 2)),
    "tied": Tied,
    "buffers": Buffers,
    "odd names": OddNames,
    "lists": Lists,
    "data parallel": lambda: nn.DataParallel(nn.Linear(2, 2)),
    "lstm": lambda: nn.LSTM(3, 4),
}


@pytest.mark.parametrize("where", [None, "model"])
@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_pickled_modules(make: Any, where: str | None, saved: Any, content: Any, tensor_bytes: Any) -> None:
    module = make()
    path = saved(module if where is None else {where: module, "optimizer": optimizer_state()})
    expected = module.state_dict()
    with open_checkpoint(path) as checkpoint:
        assert set(checkpoint.tensors) == set(expected)
        for name, tensor in expected.items():
            assert content(checkpoint.tensors[name]) == tensor_bytes(tensor)
        assert checkpoint.container == (where or "")


@pytest.mark.parametrize("protocol", [2, 4])
def test_buffers_that_are_not_persistent(protocol: int, saved: Any) -> None:
    with open_checkpoint(saved(Buffers(), pickle_protocol=protocol)) as checkpoint:
        assert set(checkpoint.tensors) == set(Buffers().state_dict())


def test_whole_numbers_of_pickled_modules(saved: Any) -> None:
    module = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 1, enable_nested_tensor=False)
    with open_checkpoint(saved(module)) as checkpoint:
        attention = checkpoint.modules["layers.0.self_attn"]
        assert attention["num_heads"] == 2
        assert attention["embed_dim"] == 8
        assert attention["head_dim"] == 4
        assert attention["batch_first"] is False
        assert checkpoint.modules["layers.0.linear1"]["out_features"] == 16


# Shapes that take for ever, or recurse, unless one is careful.


def doubled(depth: int, leaf: Any) -> Any:
    """2^depth paths to one leaf, in 2 * depth references."""
    for _ in range(depth):
        leaf = [leaf, leaf]
    return leaf


@pytest.mark.parametrize(
    "whole",
    [
        {**SD, "x": doubled(28, 1)},
        {**SD, "x": doubled(200, 1)},
        {"state_dict": SD, "args": doubled(28, 1)},
        {"state_dict": SD, "args": {"x": doubled(200, 1)}},
        {"state_dict": {**SD, "x": doubled(28, {})}},
    ],
    ids=["28", "200", "args", "deep args", "inside"],
)
def test_memo_doubling_beside_the_weights(whole: Any, saved: Any, in_time: Any) -> None:
    assert in_time("print(list(open_checkpoint(path).tensors))", saved(whole)) == "['a.weight', 'a.bias']\n"


def test_memo_doubling_of_the_weights(saved: Any, in_time: Any) -> None:
    """2^28 names of one tensor in a kilobyte."""
    assert in_time("open_checkpoint(path)", saved({"x": doubled(28, torch.ones(1))})).startswith("refused")


def test_a_cycle_of_weights(saved: Any, in_time: Any) -> None:
    loop: dict[str, Any] = {"w": torch.ones(1)}
    loop["again"] = loop
    assert "cycle" in in_time("open_checkpoint(path)", saved(loop))


def test_a_cycle_beside_the_weights(saved: Any, in_time: Any) -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert in_time("print(list(open_checkpoint(path).tensors))", saved({**SD, "x": loop})) == "['a.weight', 'a.bias']\n"


def test_keys_that_are_objects_are_not_spelled_out(
    zipped: Any, in_time: Any, saved: Any, entry: Any, rezip: Any
) -> None:
    """A config whose key is a call with a very deep argument: its text would recurse."""
    path = saved({"state_dict": SD, "args": {"HERE": 1}})
    pickled = entry(path, "data.pkl")
    here = b"X\x04\x00\x00\x00HERE"
    assert here in pickled
    deep = b"cos\nsystem\n" + b"]" * 5000 + b"a" * 4999 + b"\x85R"
    rezip(path, {"data.pkl": pickled.replace(here, deep)})
    assert in_time("print(list(open_checkpoint(path).tensors))", path) == "['a.weight', 'a.bias']\n"


def test_an_error_is_a_checkpoint_error(saved: Any) -> None:
    with pytest.raises(CheckpointError):
        open_checkpoint(saved({}))


@pytest.mark.parametrize("protocol", [2, 4])
def test_keys_that_are_no_text_are_said_in_the_same_words_at_every_run(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "model.pt"
    torch.save({b"a\xff": torch.ones(1), Path("x"): torch.ones(1), "w": torch.ones(1)}, path, pickle_protocol=protocol)
    with open_checkpoint(path) as checkpoint:
        assert [finding.message for finding in checkpoint.findings if finding.code == "unknown-tensor"] == [
            "b'a\\xff' is a key that is no text, and leads to a tensor: left out",
            "<pathlib.PosixPath> is a key that is no text, and leads to a tensor: left out",
        ]
    torch.save({b"a": torch.ones(1)}, path, pickle_protocol=protocol)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert "keys that are no text: b'a'" in str(caught.value)


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("junk", [b"\0", b"\0" * 4096, b"<html>"])
def test_what_follows_a_whole_file_is_counted_and_can_be_cut_off(tmp_path: Path, form: str, junk: bytes) -> None:
    path = tmp_path / "model.bin"
    if form == "safetensors":
        save_file({"w": torch.arange(3.0)}, path)
    else:
        torch.save({"w": torch.arange(3.0)}, path, _use_new_zipfile_serialization=form == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole + junk)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert f"{len(junk)} bytes more" in str(caught.value)
    command = re.search(r"`truncate -s (\d+)`", str(caught.value))
    assert command
    os.truncate(path, int(command[1]))
    assert path.read_bytes() == whole
    with open_checkpoint(path) as checkpoint:
        assert list(checkpoint.tensors) == ["w"]
