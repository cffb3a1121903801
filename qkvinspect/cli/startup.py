"""Every trick that makes a short command start and end quickly, each with what it saves.

The figures are milliseconds of processor time of ``show`` on a sample, the least of seven to fifteen runs on two busy
cores, so that 20 more or less mean nothing: it takes 95, 85 without norms, of which Python itself takes 13. Some tricks
are elsewhere, where they belong:

- ``plain`` reads ordinary command lines by what ``declared`` holds of them, without typer, which is imported only for
  help and for mistakes: 85 with all that typer imports and makes of a command.
- ``with_typer`` builds the one command that is asked for, and for the list of them none but by name: 45 to 110.
- ``--version`` on its own is answered without typer: 60.
- ``inspection.untouched`` sees that weights are as torch made them, so that they are not weighed: 400, and numpy.
- ``fast_dataclass`` shares methods among classes instead of compiling them for each: 52; compiles what makes one when
  one is first made: 18; and does without ``dataclasses``, which imports ``inspect``: 10.
- ``late_pattern`` compiles a regular expression when it is first used: 14.
- ``settings`` parses a ``pyproject.toml`` only if it may hold a table of ours, and imports ``tomllib`` only then: 5.
- ``pathlib`` is imported without ``urllib.parse``, which it needs for ``as_uri`` alone: 3.
- numpy, where it is needed, is imported without ``inspect`` and ``numpy._typing``, of which it takes signatures for
  documentation and names for annotations: 40 of its 150.
- Its own modules are found by one list of each folder: 10 of the 357 million instructions of ``show --no-norms``, as
  callgrind counts them. ``fast_tuple`` does not compile the annotations of named tuples: 14. What weighs, what reads
  configs and what knows names by pattern are imported where they are needed: 20.
- What is imported late has a typed function that imports it (``formats``, ``weights.encodings``, which saves 12
  together with the adapters, and the public names of the package); ``shutil``, ``textwrap``, ``difflib`` and ``urllib``
  are imported where a function needs them: 6.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from itertools import pairwise
from types import ModuleType
from typing import NoReturn

_LASTING = frozenset({"analyze", "lineage", "report", "browse", "scan", "trend"})
"""Commands that multiply large matrices, on all cores, or work for so long that what they drop must go."""

_PACKAGE = "qkvinspect."

_NORMS = frozenset({"q_norm", "k_norm", "v_norm"})
"""``analysis.grid.NORMS``, which takes longer to import than this saves."""

_SMALL = 2 << 30
"""Bytes of files whose matrices are too small for all cores: threads of BLAS that wait for work burn more than they do.
``analyze`` of two layers of width 512 took 5.4 seconds of processor time with them on a busy machine, 0.2 without."""


class _Parse(ModuleType):
    """In the place of ``urllib.parse`` while ``pathlib`` is imported."""

    @staticmethod
    def quote_from_bytes(path: bytes) -> str:
        from urllib.parse import quote_from_bytes

        return quote_from_bytes(path)


def _import_pathlib() -> None:
    if not sys.modules.keys() & {"pathlib", "urllib.parse"}:
        sys.modules["urllib.parse"] = _Parse("urllib.parse")
        try:
            import_module("pathlib")
        finally:
            del sys.modules["urllib.parse"]


_import_pathlib()  # at once: all that is imported next needs it


class _ForDocumentation(ModuleType):
    """In the place of a module that another imports to describe itself; it is imported after all for anything else."""

    def __init__(self, name: str, **given: object) -> None:
        super().__init__(name)
        self.__dict__.update(given)

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


class _Own:
    """Finds the modules of this package, of which there are many, by one list of each folder."""

    def __init__(self) -> None:
        self._files: dict[str, frozenset[str]] = {}

    def find_spec(self, name: str, path: Sequence[str] | None = None, _: ModuleType | None = None) -> ModuleSpec | None:
        if path is None or not name.startswith(_PACKAGE):
            return None
        folder, last = path[0], name.rpartition(".")[2]
        if folder not in self._files:
            with suppress(OSError):
                self._files[folder] = frozenset(os.listdir(folder))
        files = self._files.get(folder, ())
        is_package = last in files
        if not is_package and f"{last}.py" not in files:
            return None  # whatever else can import it
        file = os.path.join(folder, last, "__init__.py") if is_package else os.path.join(folder, f"{last}.py")
        spec = ModuleSpec(name, SourceFileLoader(name, file), origin=file, is_package=is_package)
        spec.has_location = True
        if is_package:
            spec.submodule_search_locations = [os.path.join(folder, last)]
        return spec


class _Numpy:
    """Finds numpy, and has it imported without what describes it."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, _: ModuleType | None = None) -> ModuleSpec | None:
        if name != "numpy":
            return None
        sys.meta_path.remove(self)
        found = PathFinder.find_spec(name, path)
        if found is not None and found.loader is not None:
            load = found.loader.exec_module
            found.loader.exec_module = lambda module: _undescribed(lambda: load(module))  # of this one loader
        return found


def _as_it_is(doc: str) -> str:
    return doc


def _no_signature(_: object) -> None:
    return None


def _undescribed(load: Callable[[], None]) -> None:
    placed = (
        _ForDocumentation("inspect", cleandoc=_as_it_is, signature=_no_signature),
        _ForDocumentation("numpy._typing", NDArray=list),
    )
    own = {one.__name__: one for one in placed if one.__name__ not in sys.modules}
    sys.modules.update(own)
    try:
        load()
    finally:
        for name, one in own.items():
            if sys.modules.get(name) is one:
                del sys.modules[name]


def prepare(words: Sequence[str]) -> None:
    """Settings of a process that runs one command."""
    summing = words[:1] == ["show"] or _draws_norms(words)
    lasting = not (summing or _LASTING.isdisjoint(words[:1]))
    if summing and "--no-norms" not in words:
        _load_numkong()
    if "numpy" not in sys.modules:
        sys.meta_path.insert(0, _Numpy())
    sys.meta_path.insert(0, _Own())
    if not lasting:
        gc.disable()  # what these commands make, they need: 57, where norms are read
    if not lasting or 0 < _size(words[1:]) < _SMALL:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy starts no threads that nobody needs: 24


def _draws_norms(words: Sequence[str]) -> bool:
    """Whether it is ``analyze --heat`` of a norm, which asks for no more than ``show`` does."""
    return words[:1] == ["analyze"] and any(word == "--heat" and key in _NORMS for word, key in pairwise(words))


def _load_numkong() -> None:
    """Have the compiled sums at hand without numpy, which numkong imports where it finds it and does not need: 118.

    Where the weights are asked for heads, numpy comes later, as it would have.
    """
    if "numpy" in sys.modules:
        return
    sys.modules["numpy"] = None  # pyright: ignore[reportArgumentType]  # nothing else runs yet
    try:
        with suppress(ImportError):
            import_module("numkong")
    finally:
        del sys.modules["numpy"]


def _size(words: Sequence[str]) -> int:
    """Bytes of the files among the words, and in the folders among them; 0 where none is here."""
    return sum(map(_bytes_at, words))


def _bytes_at(path: str) -> int:
    with suppress(OSError, ValueError):
        if not os.path.isdir(path):  # noqa: PTH112
            return os.path.getsize(path)  # noqa: PTH202
        with os.scandir(path) as entries:
            return sum(entry.stat().st_size for entry in entries if entry.is_file())
    return 0


def leave(code: int) -> NoReturn:
    """End the process at once: to take the interpreter apart takes 41 to 103."""
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
