"""Files that would run something if they were unpickled: it is named, and the tensors are shown all the same."""

from __future__ import annotations

import argparse
import functools
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from qkvinspect.cli import main
from qkvinspect.errors import CheckpointError
from qkvinspect.formats import open_checkpoint
from qkvinspect.formats.pickle import Global
from qkvinspect.formats.pickle.dangers import is_dangerous
from tests.batches import batched
from tests.hostile import seeds
from tests.hostile.writers import legacy, pickles, zips

WEIGHT = pickles.tensor(pickles.storage("0", 16), 0, (4, 4), (4, 1))
SYSTEM = pickles.call(pickles.name("os", "system"), pickles.text("true"))


def archive(value: bytes, protocol: int = 2) -> bytes:
    """A zip of a tensor with ``value`` beside it."""
    return zips.torch_archive(pickles.whole(pickles.named({"w": WEIGHT, "other": value}), protocol), seeds.KEYS)


def said(data: bytes, tmp_path: Path) -> list[tuple[str, str, str]]:
    path = tmp_path / "model.pt"
    path.write_bytes(data)
    with open_checkpoint(path) as checkpoint:
        assert list(checkpoint.tensors) == ["w"]
        return [(found.code, found.severity, found.message) for found in checkpoint.findings if "global" in found.code]


OF_SYSTEM = [
    (
        "dangerous-global",
        "warning",
        "this file would run os.system if it were unpickled: do not torch.load it with weights_only=False",
    )
]


def test_a_call_is_named(tmp_path: Path) -> None:
    assert said(archive(SYSTEM), tmp_path) == OF_SYSTEM


def test_also_where_it_is_thrown_away_at_once(tmp_path: Path) -> None:
    assert said(archive(SYSTEM + b"0N"), tmp_path) == OF_SYSTEM


def test_also_in_the_small_pickles_of_the_legacy_format(tmp_path: Path) -> None:
    root = pickles.whole(pickles.named({"w": WEIGHT}))
    system = pickles.whole(pickles.mapping({pickles.text("little_endian"): pickles.TRUE, pickles.text("x"): SYSTEM}))
    assert said(legacy.legacy(root, seeds.LEGACY_STORAGES[:1], system=system), tmp_path) == OF_SYSTEM


def test_several_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    names = [pickles.call(pickles.name("os", f"exec{end}")) for end in ("l", "le", "v", "ve", "vp", "vpe")]
    ((_, _, message),) = said(archive(pickles.items(*names)), tmp_path)
    assert "would run os.execl, os.execle, os.execv, os.execve and 2 others if" in message


def test_a_file_that_is_nothing_else_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(zips.torch_archive(pickles.whole(SYSTEM), {}))
    with pytest.raises(CheckpointError, match=r"no model weights .* would run os\.system"):
        open_checkpoint(tmp_path / "model.pt")


def test_show_says_it_and_exits_as_ever(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.pt").write_bytes(archive(SYSTEM))
    assert main(["show", str(tmp_path / "model.pt")]) == 0
    output = capsys.readouterr()
    assert "would run os.system" in output.out + output.err


DANGEROUS = [
    ("os", "system"),
    ("posix", "system"),
    ("nt", "system"),
    ("subprocess", "Popen"),
    ("builtins", "eval"),
    ("__builtin__", "eval"),
    ("builtins", "exec"),
    ("builtins", "getattr"),
    ("builtins", "__import__"),
    ("io", "open"),
    ("_io", "FileIO"),
    ("importlib", "import_module"),
    ("importlib.util", "find_spec"),
    ("runpy", "run_path"),
    ("socket", "create_connection"),
    ("ctypes", "CDLL"),
    ("pickle", "loads"),
    ("_pickle", "loads"),
    ("dill._dill", "_create_function"),
    ("cloudpickle.cloudpickle", "_make_function"),
    ("asyncio.subprocess", "create_subprocess_shell"),
    ("operator", "attrgetter"),
    ("types", "FunctionType"),
    ("torch", "load"),
    ("torch", "hub.load"),
    ("torch", "hub"),
    ("torch.hub", "load"),
    ("torch.jit", "load"),
    ("torch.serialization", "os.system"),
    ("torch.serialization", "os"),
    ("torch.storage", "_load_from_bytes"),
    ("torch.fx.graph_module", "reduce_graph_module"),
    ("numpy", "load"),
    ("urllib.request", "urlopen"),
    ("requests", "get"),
    ("mine.model", "Net.__init__.__globals__"),
    ("mine.model", "Net.__class__"),
]
HARMLESS = [
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch", "FloatStorage"),
    ("torch.nn.modules.linear", "Linear"),
    ("torch.jit._pickle", "build_intlist"),
    ("collections", "OrderedDict"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy", "dtype"),
    ("pathlib", "PosixPath"),
    ("argparse", "Namespace"),
    ("functools", "partial"),
    ("builtins", "set"),
    ("mine.model", "Net.Inner"),
    ("code.model", "Net"),
    ("mine.os", "Net"),
    ("torchvision.models.vision_transformer", "VisionTransformer"),
]


@batched("module name", DANGEROUS)
def test_dangerous(module: str, name: str) -> None:
    assert is_dangerous(Global(module, name))


@pytest.mark.parametrize(("module", "name"), HARMLESS)
def test_harmless(module: str, name: str) -> None:
    assert not is_dangerous(Global(module, name))


def test_a_function_that_is_not_known_is_named_without_alarm(tmp_path: Path) -> None:
    assert said(archive(pickles.call(pickles.name("mine.model", "build"))), tmp_path) == [
        ("unknown-global", "info", "unpickling it would also call mine.model.build, which this tool does not know")
    ]


def test_a_name_of_any_length_stays_short(tmp_path: Path) -> None:
    ((_, _, message),) = said(archive(pickles.call(pickles.name("os", "x" * 9000))), tmp_path)
    assert len(message) < 300


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
        self.make_norm = functools.partial(torch.nn.LayerNorm, eps=1e-6)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_what_people_save_gives_no_finding(protocol: int, tmp_path: Path) -> None:
    honest = {
        "model": Net(),
        "args": argparse.Namespace(lr=0.1, out=Path("x"), shape=torch.Size([2]), dtype=torch.float16),
        "loss": np.float64(0.5),
        "scores": np.arange(3),
        "counts": [Counter("ab"), defaultdict(list), {1, 2}, frozenset({3}), bytearray(b"x"), 1j, slice(2)],
        "kept": [torch.device("cpu"), torch.ones(2).to_sparse(), torch.nn.Parameter(torch.ones(2))],
    }
    torch.save(honest, tmp_path / "model.pt", pickle_protocol=protocol)
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        assert [found for found in checkpoint.findings if "global" in found.code] == []
