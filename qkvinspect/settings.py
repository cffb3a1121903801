"""A project's settings: ``qkvinspect.toml``, or ``[tool.qkvinspect]`` in ``pyproject.toml``.

[layouts]                       # layer glob = layout id, as --layout
"decoder.*" = "falcon-new"

[heads]                         # layer glob = heads, or "heads/kv heads", as --heads
"*" = "32/8"

[[layout]]                      # a layout of one's own: see layouts/from_settings.py
q = "q_linear.weight"
k = "k_linear.weight"
v = "v_linear.weight"

[check]                         # see checks/policy.py
fail_on = "error"
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from qkvinspect.errors import UsageError
from qkvinspect.fast_dataclass import dataclass, field
from qkvinspect.late_pattern import late_pattern
from qkvinspect.parsed import is_items, is_mapping
from qkvinspect.small_files import contents

_MAX_BYTES = 1_000_000
_MAX_DOTS = 50
"""Dots in a key. tomllib walks down a deep table once for each line in it, so depth multiplies its time."""

_KEYS = late_pattern(rb"""^[ \t]*\[*([^\]=#\n"']*)""", re.MULTILINE)

_OWN = late_pattern(
    rb"""\\[uU]|\btool["']?[ \t]*\.[ \t]*["']?qkvinspect|\[[ \t]*["']?tool["']?[ \t]*\]|^[ \t]*["']?tool["']?[ \t]*=""",
    re.MULTILINE,
)
"""What a ``pyproject.toml`` holds somewhere that has our table, however it is written; most have it not, and TOML takes
5 ms to parse."""

_TABLES = ("heads", "layouts", "layout", "check")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a project has decided for all its checkpoints.

    Attributes:
        heads: values as --heads takes them; flags of the command line come after and outrank them.
        layouts: (layer glob, layout id).
        origin: the file, or "" if there is none.
        rows: the [[layout]] tables, as they stand; layouts/from_settings.py reads them.
        check: the table of ``qkvinspect check``, as it stands; checks/policy.py reads it.
    """

    heads: tuple[str, ...] = ()
    layouts: tuple[tuple[str, str], ...] = ()
    origin: str = ""
    check: Mapping[str, object] = field(default_factory=dict[str, object])
    rows: tuple[Mapping[str, object], ...] = ()


def find(folder: Path) -> Settings:
    """The settings of the nearest folder at or above ``folder`` that has any.

    Raises:
        UsageError: a file is not TOML, or holds a key that is not known.
    """
    for place in (folder, *folder.parents):
        own, project = place / "qkvinspect.toml", place / "pyproject.toml"
        if os.path.lexists(own):  # what is called so and cannot be read is no reason to go on without it
            return _settings(own, _parsed(own, contents(own, "settings", _MAX_BYTES)))
        if project.is_file():
            data = contents(project, "settings", _MAX_BYTES)
            tool = _parsed(project, data).get("tool") if _OWN.search(data) else None
            table = tool.get("qkvinspect") if is_mapping(tool) else None
            if is_mapping(table):
                return _settings(project, table)
    return Settings()


def _parsed(path: Path, data: bytes) -> dict[str, object]:
    import tomllib

    try:
        if any(key.count(b".") > _MAX_DOTS for key in _KEYS.findall(data)):
            raise ValueError(f"it has a key of over {_MAX_DOTS} parts")
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"cannot be read as TOML: {error}", file=str(path)) from error


def _settings(path: Path, values: Mapping[str, object]) -> Settings:
    unknown = ", ".join(repr(key) for key in values if key not in _TABLES)
    if unknown:
        raise UsageError("holds keys that are not known", file=str(path), expected=" or ".join(_TABLES), found=unknown)
    heads = _pairs(path, "heads", values.get("heads", {}))
    layouts = _pairs(path, "layouts", values.get("layouts", {}))
    check = values.get("check", {})
    if not is_mapping(check):
        raise UsageError("check is not a table", file=str(path), found=repr(check)[:60])
    flags = tuple(f"{glob}={count}" for glob, count in heads)
    rows = _tables(path, values.get("layout", []))
    return Settings(flags, tuple(layouts), str(path), check, rows)


def _tables(path: Path, value: object) -> tuple[Mapping[str, object], ...]:
    """The tables of ``[[layout]]``."""
    tables: list[Mapping[str, object]] = []
    for table in value if is_items(value) else [value]:
        if not is_mapping(table):
            found = repr(table)[:60]
            raise UsageError("layout is not a list of tables", file=str(path), found=found, hint="[[layout]]")
        tables.append(table)
    return tuple(tables)


def _pairs(path: Path, name: str, table: object) -> list[tuple[str, str]]:
    if not is_mapping(table):
        raise UsageError(f"{name} is not a table of layer globs", file=str(path), found=repr(table)[:60])
    for glob, value in table.items():
        if type(value) not in (str, int):
            raise UsageError(f"{name} has an odd answer for {glob!r}", file=str(path), found=repr(value)[:60])
    return [(glob, str(value)) for glob, value in table.items()]
