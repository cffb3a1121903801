"""The notebook of the documentation prints what it is committed with."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import nbformat

DOCS = Path(__file__).parents[2] / "docs"
NUMBER = re.compile(r"-?\d+\.\d{6,}(?:e[+-]?\d+)?")


def outputs(notebook: Any) -> list[list[dict[str, str]]]:
    """What each cell printed, by kind; the last digits of a number depend on who adds it up."""
    return [[printed(output) for output in cell.outputs] for cell in notebook.cells if cell.cell_type == "code"]


def printed(output: Any) -> dict[str, str]:
    texts = {"text": output.text} if "text" in output else dict(output.data)
    return {kind: NUMBER.sub(lambda found: f"{float(found[0]):.5g}", text) for kind, text in texts.items()}


def test_the_notebook_prints_what_it_is_committed_with() -> None:
    specification = importlib.util.spec_from_file_location("notebook", DOCS / "notebook.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    committed = outputs(nbformat.read(DOCS / "python.ipynb", as_version=4))
    assert len(committed) >= 10
    assert all(cell for cell in committed)
    assert outputs(module.executed()) == committed
