"""The notebook of the documentation prints what it is committed with."""

from __future__ import annotations

import ast
import importlib.util
import io
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import nbformat
import pandas
import pytest

DOCS = Path(__file__).parents[2] / "docs"
NUMBER = re.compile(r"-?\d+\.\d{6,}(?:e[+-]?\d+)?")


def outputs(notebook: Any) -> list[list[dict[str, str]]]:
    """What each cell printed, by kind; the last digits of a number depend on who adds it up."""
    return [[printed(output) for output in cell.outputs] for cell in notebook.cells if cell.cell_type == "code"]


def printed(output: Any) -> dict[str, str]:
    texts = {"text": output.text} if "text" in output else dict(output.data)
    return {kind: NUMBER.sub(rounded, text) for kind, text in texts.items()}


def rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.5g}"


def test_the_cells_of_the_notebook_print_what_they_are_committed_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process: to start a kernel takes ten times as long."""
    monkeypatch.chdir(DOCS)
    monkeypatch.setattr("pandas.io.formats.console.in_ipython_frontend", lambda: True)
    notebook = nbformat.read(DOCS / "python.ipynb", as_version=4)
    names: dict[str, Any] = {}
    with pandas.option_context("display.max_columns", 20):  # as in a kernel, which is no terminal
        found = [here(cell.source, names) for cell in notebook.cells if cell.cell_type == "code"]
    assert found == outputs(notebook)


def here(source: str, names: dict[str, Any]) -> list[dict[str, str]]:
    """What a cell prints, and what its last line is, in all the forms that a notebook keeps."""
    body, out = ast.parse(source), io.StringIO()
    last = ast.Expression(body.body.pop().value) if isinstance(body.body[-1], ast.Expr) else None
    with redirect_stdout(out):
        exec(compile(body, "cell", "exec"), names)
        value = eval(compile(last, "cell", "eval"), names) if last else None
    told = [{"text": out.getvalue()}] if out.getvalue() else []
    told += [shown(value)] if value is not None else []
    return [{kind: NUMBER.sub(rounded, text) for kind, text in one.items()} for one in told]


def shown(value: Any) -> dict[str, str]:
    """As IPython's DisplayFormatter, of what these cells end with."""
    html = getattr(value, "_repr_html_", lambda: None)()
    text = repr(value)
    if isinstance(value, tuple | dict) and len(text) > 79:
        items = (f"{key!r}: {own!r}" for key, own in value.items()) if isinstance(value, dict) else map(repr, value)
        text = text[0] + ",\n ".join(items) + text[-1]
    return {"text/plain": text} | ({"text/html": html} if html else {})


@pytest.mark.gate
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
