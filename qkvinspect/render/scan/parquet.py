"""Apache Parquet, by pyarrow."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from importlib import import_module
from itertools import islice
from typing import Any, BinaryIO

from qkvinspect.errors import UsageError
from qkvinspect.render.text import clean
from qkvinspect.scans.rows import FLOATS, TEXTS, Scanned

_ROWS = 50_000
"""In a row group: what is in memory at once."""


def require() -> None:
    """Pyarrow."""
    try:
        import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        text = "parquet needs pyarrow, which is not installed"
        raise UsageError(text, hint="pip install 'qkvinspect[parquet]'") from error


def write(scanned: Iterable[Scanned], fields: Sequence[str], file: BinaryIO) -> None:
    """Columns of texts, whole numbers and floats, whatever is in them."""
    arrow: Any = import_module("pyarrow")
    kinds = {**dict.fromkeys(TEXTS, arrow.string()), **dict.fromkeys(FLOATS, arrow.float64())}
    schema = arrow.schema([(key, kinds.get(key, arrow.int64())) for key in fields])
    rows = (json.loads(line) for one in scanned for line in one.rows().splitlines())
    with import_module("pyarrow.parquet").ParquetWriter(file, schema) as writer:
        while some := list(islice(rows, _ROWS)):
            columns = [arrow.array([_value(key, row[key]) for row in some], schema.field(key).type) for key in fields]
            writer.write_table(arrow.Table.from_arrays(columns, schema=schema))


def _value(key: str, value: Any) -> object:
    """JSON writes as text what it has no numbers for."""
    if value is None:
        return None
    if key in FLOATS:
        return float(value)
    return clean(value) if key in TEXTS else value
