"""What it takes to add one of each kind: in a copy of the package, by the command, with the files that it touched."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import qkvinspect
from tests.conftest import Result, Run

ORIGINAL = Path(qkvinspect.__file__).parent


ONE_AFTER_THE_OTHER = """
import contextlib, io, json, sys
import qkvinspect
from qkvinspect.cli import main
found = [qkvinspect.__file__]
for line in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = main(line)
    found.append({"code": code, "out": out.getvalue()})
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Copy:
    """A copy of the package, to which things are added, and a folder to try them in."""

    folder: Path

    package: Path

    def add(self, name: str, text: str) -> None:
        path = self.package / name
        assert not path.exists()
        path.write_text(text)

    def insert(self, name: str, after: str, line: str) -> None:
        """A line where a list of its kind begins."""
        path = self.package / name
        text = path.read_text()
        assert text.count(after) == 1, f"{name}: {after!r}"
        path.write_text(text.replace(after, after + line))

    def run(self, *lines: tuple[str, ...], codes: tuple[int, ...] = ()) -> list[str]:
        """What command lines print, one after the other in one process, which takes most of the time."""
        environment = {**os.environ, "PYTHONPATH": str(self.package.parent)}
        command = [sys.executable, "-c", ONE_AFTER_THE_OTHER, json.dumps(lines)]
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
        where, *found = json.loads(done.stdout)
        assert Path(where).parent == self.package
        assert tuple(one["code"] for one in found) == (codes or (0,) * len(lines)), done.stderr
        return [one["out"] for one in found]

    def contents(self) -> dict[str, bytes]:
        """The files of the package."""
        return {str(path.relative_to(self.package)): path.read_bytes() for path in self.package.rglob("*.py")}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With what is compiled already, which takes most of the time where it is not. Every kind is added to this one."""
    return Path(shutil.copytree(ORIGINAL, tmp_path_factory.mktemp("copy") / "qkvinspect"))


@pytest.fixture
def copy(package: Path, tmp_path: Path) -> Copy:
    return Copy(tmp_path, package)


def before_it(run: Run, copy: Copy, *line: str) -> Result:
    """What a command line does without what is added: in this process."""
    with contextlib.chdir(copy.folder):
        return run(*line)


def layout(copy: Copy, run: Run) -> None:
    """A row for a library that calls its packed weight ``sesame``; without it, nothing is found."""
    weight = torch.randn(24, 8)
    save_file({"blocks.0.sesame.weight": weight}, copy.folder / "one.safetensors")
    show = ("show", "one.safetensors", "--heads", "2", "--format", "json")
    assert before_it(run, copy, *show).json()["attentions"] == []
    row = """
    Layout(
        id="sesame",
        libraries="sesame",
        weights=(StoredWeight("sesame.weight", QKV),),
        source="sesame.py",
        proof="source",
    ),"""
    copy.insert("layouts/torch.py", "LAYOUTS = (", row)
    shown, listed = copy.run(show, ("layouts",))
    (attention,) = json.loads(shown)["attentions"]
    assert attention["layout"] == "sesame"
    assert attention["k"]["norm"] == pytest.approx(weight[8:16].double().norm().item())
    assert "sesame" in listed


ENCODING = '''
"""Weights that are stored at half their size, under ``in_proj_weight_half``."""

from __future__ import annotations

from collections.abc import Sequence

from qkvinspect.checkpoint import Checkpoint, TensorInfo
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.weights.strided import strided_matrix, strided_shape
from qkvinspect.weights.weight import StoredRows, Weight

@dataclass(frozen=True, slots=True)
class Halved:
    info: TensorInfo

    by_columns = False
    computed_in = None
    label = "halved"

    @property
    def shape(self):
        return strided_shape(self.info, "out_in")

    @property
    def stored(self):
        return (self.info,)

    def cut(self, runs: Sequence[range]):
        return [StoredRows("in_proj_weight_half", self.info, tuple(runs))]

    def decode(self, rows: range, cols: range):
        from qkvinspect.weights.values import rows_of_values

        some = strided_matrix(self.info, "out_in").transposed.take(cols).transposed
        return rows_of_values(some, [rows]) * 2.0

    def slack(self, rows: range, cols: range):
        return None

    def python(self):
        return (f"weight = 2 * state_dict[{self.info.name!r}]",)


def find(marker: str, checkpoint: Checkpoint) -> Weight | None:
    info = checkpoint.tensors[marker]
    return Weight(marker.removesuffix("_half"), info.shape, info.dtype, None, Halved(info))
'''.lstrip()


def encoding(copy: Copy, run: Run) -> None:
    """Decoded wherever numbers are asked for: shown, and found equal to the plain twin."""
    weight = torch.randn(24, 8)
    save_file({"a.in_proj_weight_half": weight / 2}, copy.folder / "half.safetensors")
    save_file({"a.in_proj_weight": weight}, copy.folder / "plain.safetensors")
    copy.add("weights/encodings/halved.py", ENCODING)
    loader = (
        "def _halved() -> EncodingModule:\n    from qkvinspect.weights.encodings import halved\n\n    return halved\n"
    )
    text = (copy.package / "weights/encodings/__init__.py").read_text()
    before, listed, after = text.partition(
        "ENCODINGS: tuple[tuple[Callable[[], EncodingModule], frozenset[str]], ...] = ("
    )
    line = '(_halved, frozenset({"in_proj_weight_half"})),'
    (copy.package / "weights/encodings/__init__.py").write_text(f"{before}{loader}\n\n{listed}\n    {line}{after}")
    shown, compared = copy.run(
        ("show", "half.safetensors", "--heads", "2", "--format", "json"),
        ("diff", "half.safetensors", "plain.safetensors", "--heads", "2", "-f", "json"),
    )
    (attention,) = json.loads(shown)["attentions"]
    assert attention["v"]["norm"] == pytest.approx(weight[16:].double().norm().item())
    assert json.loads(compared)["same"]


FORMAT = '''
"""A toy: a mark, then one float32 matrix of 24 x 8 named ``a.in_proj_weight``."""

from __future__ import annotations

from qkvinspect.checkpoint import ByteSource, Checkpoint, Region, TensorInfo, contiguous_strides
from qkvinspect.dtypes import DTYPES
from qkvinspect.formats.request import OpenRequest

NAME: str = "toy"
IS_INDEX: bool = False


def sniff(head: bytes) -> bool:
    return head.startswith(b"TOYTOY")


def open(source: ByteSource, request: OpenRequest) -> Checkpoint:
    shape = (24, 8)
    region = Region(source, 6, 4 * 24 * 8)
    info = TensorInfo("a.in_proj_weight", DTYPES["float32"], shape, contiguous_strides(shape), region)
    return Checkpoint(path=source.name, format=NAME, num_bytes=source.size, tensors={info.name: info})
'''.lstrip()


def file_format(copy: Copy, run: Run) -> None:
    """Opened by every command, whatever the file is called."""
    weight = torch.randn(24, 8)
    (copy.folder / "one.any").write_bytes(b"TOYTOY" + weight.numpy().tobytes())
    assert before_it(run, copy, "show", "one.any").code == 2
    copy.add("formats/toy.py", FORMAT)
    loader = "def _toy() -> Format:\n    from qkvinspect.formats import toy\n\n    return toy\n\n\n"
    text = (copy.package / "formats/__init__.py").read_text()
    before, list_of_formats, after = text.partition("FORMATS: tuple[Callable[[], Format], ...] = (")
    (copy.package / "formats/__init__.py").write_text(f"{before}{loader}{list_of_formats}\n    _toy,{after}")
    shown = json.loads(*copy.run(("show", "one.any", "--heads", "2", "--format", "json")))
    assert shown["checkpoint"]["format"] == "toy"
    assert shown["attentions"][0]["q"]["norm"] == pytest.approx(weight[:8].double().norm().item())


CHECK = '''
"""A layer of this project has too few heads."""

from __future__ import annotations

from collections.abc import Iterator

from qkvinspect.checks.subject import Subject, Fault
from qkvinspect.finding_codes import FindingKind


class Code(FindingKind):
    FEW_HEADS = "few-heads", "error", "A layer of this project has too few heads."


CODE: FindingKind = Code.FEW_HEADS


def find(subject: Subject) -> Iterator[Fault]:
    for attention in subject.attentions:
        if attention.heads is not None and attention.heads.num_heads < 4:
            yield attention.layer, f"only {attention.heads.num_heads} heads"
'''.lstrip()


def check(copy: Copy, run: Run) -> None:
    """It brings its code along: ``check --list``, the settings and the exit code follow."""
    save_file({"a.in_proj_weight": torch.randn(24, 8)}, copy.folder / "one.safetensors")
    copy.add("checks/faults/few_heads.py", CHECK)
    copy.insert("checks/faults/__init__.py", "from qkvinspect.checks.faults import (", "\n    few_heads,")
    copy.insert("checks/faults/__init__.py", "CHECKS: tuple[Check, ...] = (", "\n    few_heads,")
    checked, _, listed = copy.run(
        ("check", "one.safetensors", "--heads", "2", "--format", "json"),
        ("check", "one.safetensors", "--heads", "4", "--select", "few-heads"),
        ("check", "--list"),
        codes=(1, 0, 0),
    )
    assert "few-heads" in {one["code"] for one in json.loads(checked)["checkpoints"][0]["findings"]}
    assert "few-heads" in listed


def figure(copy: Copy, run: Run) -> None:
    """One that follows from what is known of a head: in CSV, as a rank, and in a map of heads."""
    torch.manual_seed(1)
    tensors = {"a.in_proj_weight": torch.randn(24, 8), "a.out_proj.weight": torch.randn(8, 8)}
    save_file(tensors, copy.folder / "one.safetensors")
    line = """
    Column(
        "k_over_q",
        "norm of K over that of Q",
        "ratio",
        "values",
        lambda head: head.k.norm / head.q.norm if head.k and head.q else None,
    ),"""
    copy.insert("analysis/columns.py", "COLUMNS: tuple[Column, ...] = (", line)
    q, k = (tensors["a.in_proj_weight"][rows].double() for rows in (slice(4), slice(8, 12)))
    analyze = ("analyze", "one.safetensors", "--heads", "2")
    plain, ordered, drawn = copy.run(
        (*analyze, "-f", "csv"),
        (*analyze, "--sort", "k_over_q", "--format", "json"),
        (*analyze, "--heat", "k_over_q"),
    )
    rows = list(csv.DictReader(io.StringIO(plain)))
    assert float(rows[0]["k_over_q"]) == pytest.approx((k.norm() / q.norm()).item())
    ranked = json.loads(ordered)["ranked"]
    assert ranked[0]["value"] >= ranked[1]["value"]
    assert "norm of K over that of Q" in drawn


LIBRARY = '''
"""A library whose configs count twins of heads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qkvinspect.checkpoint import Config
from qkvinspect.inspection.facts.fact import HeadFact
from qkvinspect.inspection.facts.module import HeadedModule
from qkvinspect.inspection.facts.sections import ConfigSection


def facts(config: Config, _: Sequence[ConfigSection], module: HeadedModule) -> Iterator[HeadFact] | None:
    twins = config.values.get("twins")
    return iter((HeadFact(f"{config.origin}:twins", 2 * twins),)) if isinstance(twins, int) else None
'''.lstrip()


def library(copy: Copy, run: Run) -> None:
    """How its config speaks of heads."""
    save_file({"a.in_proj_weight": torch.randn(24, 8)}, copy.folder / "one.safetensors")
    (copy.folder / "config.json").write_text(json.dumps({"twins": 2}))
    copy.add("inspection/facts/twins.py", LIBRARY)
    copy.insert("inspection/facts/libraries.py", "from qkvinspect.inspection.facts import ", "twins, ")
    copy.insert("inspection/facts/libraries.py", "LIBRARIES: tuple[Library, ...] = (", "twins.facts, ")
    (attention,) = json.loads(*copy.run(("show", "one.safetensors", "--format", "json")))["attentions"]
    assert (attention["num_heads"], attention["num_heads_from"]) == (4, "config:config.json:twins")


WRITER = '''
"""Tab-separated values: the records of a document."""

from __future__ import annotations

from qkvinspect.render.document import Document
from qkvinspect.render.view import ViewOptions


def write(document: Document, view: ViewOptions) -> str:
    return "".join("\\t".join(map(str, record)) + "\\n" for record in document.records())
'''.lstrip()


def writer(copy: Copy, run: Run) -> None:
    """A form for the results of every command: those of show, check and diff have the records of their CSV."""
    save_file({"a.in_proj_weight": torch.randn(24, 8)}, copy.folder / "one.safetensors")
    copy.add("render/writers/tabs.py", WRITER)
    loader = "def _tabs() -> Writer:\n    from qkvinspect.render.writers.tabs import write\n\n    return write\n\n\n"
    text = (copy.package / "render/writers/__init__.py").read_text()
    before, listed, after = text.partition("WRITERS: Mapping[str, Callable[[], Writer]] = {")
    (copy.package / "render/writers/__init__.py").write_text(f'{before}{loader}{listed}"tabs": _tabs, {after}')
    commands = ("show", "one.safetensors"), ("diff", "one.safetensors", "one.safetensors"), ("layouts",)
    found = copy.run(*((*command, "--format", form) for command in commands for form in ("tabs", "csv")))
    for tabs, commas in zip(found[::2], found[1::2], strict=True):
        assert tabs.splitlines()[0].split("\t") == next(csv.reader(io.StringIO(commas)))
        assert len(tabs.splitlines()) == len(list(csv.reader(io.StringIO(commas))))


KINDS: list[tuple[Callable[[Copy, Run], None], set[str]]] = [
    (layout, {"layouts/torch.py"}),
    (encoding, {"weights/encodings/halved.py", "weights/encodings/__init__.py"}),
    (file_format, {"formats/toy.py", "formats/__init__.py"}),
    (check, {"checks/faults/few_heads.py", "checks/faults/__init__.py"}),
    (figure, {"analysis/columns.py"}),
    (writer, {"render/writers/tabs.py", "render/writers/__init__.py"}),
    (library, {"inspection/facts/twins.py", "inspection/facts/libraries.py"}),
]
"""What is added, and the files that this takes: a module of its own, and the list that names it."""


@pytest.mark.parametrize(("add", "files"), KINDS, ids=[add.__name__ for add, _ in KINDS])
@pytest.mark.gate
def test_one_of_each_kind_takes_a_file_and_its_line(
    copy: Copy, run: Run, add: Callable[[Copy, Run], None], files: set[str]
) -> None:
    before = copy.contents()
    add(copy, run)
    assert {name for name, text in copy.contents().items() if before.get(name) != text} == files
    assert before.keys() <= copy.contents().keys()
