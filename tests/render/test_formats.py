"""Every result has every form; a new form is one module and its lines in the registry, for all results at once."""

from __future__ import annotations

import csv
import inspect
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import qkvinspect
from qkvinspect.cli import app
from qkvinspect.render.writers import WRITERS

PACKAGE = Path(qkvinspect.__file__).parent
ROWS = PACKAGE.parent / "tests/scans/run.jsonl"
WITHOUT = {"scan", "report", "browse"}
"""Commands whose result is a file, or no text at all."""

NDJSON = '''"""A JSON object a record."""

from __future__ import annotations

import json

from qkvinspect.render.document import Document
from qkvinspect.render.view import ViewOptions


def write(document: Document, view: ViewOptions) -> str:
    """The records, with the names of the columns in each."""
    columns, *records = document.records()
    return "".join(json.dumps(dict(zip(columns, record, strict=True))) + "\\\\n" for record in records)
'''.replace("\\\\", "\\")

LOADER = """def _ndjson() -> Writer:
    from qkvinspect.render.writers.ndjson import write

    return write


WRITERS: Mapping[str, Callable[[], Writer]] = {"ndjson": _ndjson, """

RUN = """
import json, sys
from contextlib import redirect_stdout
from io import StringIO
import qkvinspect
from qkvinspect.cli import main
found = [qkvinspect.__file__]
for argv in json.loads(sys.argv[1]):
    with redirect_stdout(StringIO()) as out:
        code = main(argv)
    found.append((code, out.getvalue()))
print(json.dumps(found))
"""


def commands(samples: Path) -> dict[str, list[str]]:
    """A command line of each command that prints a result."""
    model, other = str(samples / "transformer.pt"), str(samples / "trained.safetensors")
    return {
        "show": [model, "--heads", "2", "--no-evidence"],
        "explain": [model, "--heads", "2", "--no-evidence"],
        "analyze": [model, "--heads", "2", "--no-evidence"],
        "diff": [model, model, "--attention-only", "--no-evidence"],
        "lineage": [model, model, "--heads", "2", "--no-evidence"],
        "check": [model, other, "--heads", "2", "--no-evidence"],
        "trend": [str(ROWS)],
        "layouts": [],
        "export": ["--split", model, "--heads", "2", "-o", "new.safetensors", "--dry-run"],
        "pack": [str(samples / "bert_like"), "--to", "torch-mha", "-o", "new.safetensors", "--dry-run"],
        "convert": [model, "--to", "qkv-proj", "--heads", "2", "-o", "new.safetensors", "--dry-run"],
    }


def test_every_command_that_prints_a_result_has_every_form(samples: Path) -> None:
    listed = {c.callback.__name__: c.callback for c in app.registered_commands if c.callback}
    assert listed.keys() - WITHOUT == commands(samples).keys()
    for name in commands(samples):
        asked = inspect.signature(listed[name], eval_str=True).parameters["format"].annotation.__origin__
        kind = next(iter(get_args(asked)), asked)  # of a format that has no default
        assert WRITERS.keys() <= {member.value for member in kind}


@pytest.mark.parametrize("command", commands(Path()))
def test_every_form_of_a_result_is_well_formed(command: str, samples: Path, run) -> None:
    results = {form: run(command, *commands(samples)[command], "--format", form) for form in WRITERS}
    assert len({result.code for result in results.values()}) == 1
    assert not any(result.err for result in results.values())
    json.loads(results["json"].out, parse_constant=pytest.fail)
    header, *rows = csv.reader(io.StringIO(results["csv"].out))
    assert rows
    assert {len(row) for row in rows} == {len(header)}
    assert results["markdown"].out.startswith(("**", "### ", "| "))
    assert "\n\n\n" not in results["markdown"].out
    assert all(line == line.rstrip() for line in results["table"].out.splitlines())


@pytest.mark.gate
def test_a_new_form_is_one_module_and_its_lines_for_all_results(samples: Path, tmp_path: Path) -> None:
    copy = tmp_path / "qkvinspect"
    shutil.copytree(PACKAGE, copy)
    (copy / "render/writers/ndjson.py").write_text(NDJSON)
    registry = copy / "render/writers/__init__.py"
    before = registry.read_text()
    registry.write_text(before.replace("WRITERS: Mapping[str, Callable[[], Writer]] = {", LOADER, 1))
    assert registry.read_text() != before
    asked = [[name, *argv, "--format", "ndjson"] for name, argv in commands(samples).items()]
    argv = [sys.executable, "-c", RUN, json.dumps(asked)]
    env = {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=tmp_path, env=env)
    file, *outputs = json.loads(result.stdout)
    assert Path(file).parent == copy
    for (name, *_), (code, out) in zip(asked, outputs, strict=True):
        records = [json.loads(line) for line in out.splitlines()]
        assert code in (0, 1), result.stderr
        assert records, name
        assert {"layer", "tensor", "id"} & records[0].keys(), name
