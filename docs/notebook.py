"""Runs python.ipynb anew and keeps what it printed: ``python docs/notebook.py``. A test sees that nothing differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent / "python.ipynb"


def executed() -> Any:
    """The notebook as it comes out when every cell is run in a kernel of its own."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(NOTEBOOK.parent)}},
        record_timing=False,
    )
    client.execute()
    del notebook.metadata["language_info"]  # which Python it was
    return notebook


if __name__ == "__main__":
    nbformat.write(executed(), NOTEBOOK)
