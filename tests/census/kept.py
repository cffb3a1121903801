"""The data of the census: a compressed file a library, a line of JSON a model."""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

DATA = Path(os.environ.get("CENSUS_DATA") or Path(__file__).parent / "data")
"""Where the files lie; the environment's ``CENSUS_DATA`` stands in, for a census that is to be compared first."""

Line = dict[str, Any]


def path_of(lib: str) -> Path:
    """The file of a library, or of several that are built alike."""
    return DATA / f"{lib}.jsonl.xz"


def load(path: Path) -> dict[str, Line]:
    """The lines of one file, by the library and name of the model; none if there is no such file."""
    if not path.exists():
        return {}
    with lzma.open(path, "rt") as lines:
        return {f"{line['lib']}/{line['name']}": line for line in map(json.loads, lines)}


def store(path: Path, lines: Mapping[str, Line]) -> None:
    """Write them in the order of their names."""
    path.parent.mkdir(exist_ok=True)
    text = "".join(json.dumps(lines[name], separators=(",", ":")) + "\n" for name in sorted(lines))
    path.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))


def built() -> Iterator[Line]:
    """Every model that could be built."""
    for path in sorted(DATA.glob("*.jsonl.xz")):
        yield from (line for line in load(path).values() if "not_built" not in line)
