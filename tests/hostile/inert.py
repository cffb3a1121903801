"""Open every file of a folder under an audit hook, and say what the interpreter was seen to do (run by test_inert).

python inert.py FOLDER WARM-UP-FOLDER; the warm-up's own imports are not counted.
"""

from __future__ import annotations

import codecs
import contextlib
import difflib  # noqa: F401  (imported on need; the watch would see it)
import importlib
import json
import os
import pkgutil
import sys
from collections import Counter
from pathlib import Path

from qkvinspect import fast_dataclass, formats, inspection, weights
from qkvinspect.errors import QkvInspectError
from qkvinspect.formats import open_checkpoint
from qkvinspect.inspection import Options, inspect
from qkvinspect.render.results.show import document
from qkvinspect.render.view import ViewOptions
from qkvinspect.render.writers import WRITERS, written
from tests.hostile.reading import content

HARMLESS = {
    "builtins.id",
    "object.__getattr__",
    "os.listdir",
    "os.scandir",
    "os.getcwd",
    "sys._getframe",
    "array.__new__",
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Watch:
    """Counts events; keeps those that reading a file has no need for."""

    def __init__(self) -> None:
        self.on = False
        self.file = ""
        self.events: Counter[str] = Counter()
        self.violations: list[tuple[str, str, str]] = []

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.on:
            return
        self.events[event] += 1
        if event not in HARMLESS and not (event == "open" and self._reads(arguments)):
            self.violations.append((self.file, event, repr(arguments)[:200]))

    def _reads(self, arguments: tuple[object, ...]) -> bool:
        _, mode, flags = arguments
        return not (mode and set(str(mode)) & set("wax+")) and not (isinstance(flags, int) and flags & WRITING)


def look(path: Path) -> int:
    """Read every tensor of a file, and show it in every form; gives the number of tensors."""
    tensors = 0
    with contextlib.suppress(QkvInspectError), open_checkpoint(path) as checkpoint:
        for info in checkpoint.tensors.values():
            tensors += 1
            if info.nbytes < 1 << 20:
                with contextlib.suppress(QkvInspectError):
                    content(info)
        report = inspect(checkpoint, Options())
        for form in WRITERS:
            written(document(report, per_head=True), form, ViewOptions(width=80, colour=True))
    return tensors


def import_all() -> None:
    """What reads files and is imported when it is needed."""
    for room in (formats, inspection, weights):
        for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
            if module.name != "qkvinspect.weights.to_torch":
                importlib.import_module(module.name)


def compile_constructors() -> None:
    """Those of our own classes of which none has been made yet; they are compiled when one is."""
    ours = [module for name, module in sys.modules.items() if name.startswith("qkvinspect")]
    for kind in {found for module in ours for found in vars(module).values() if isinstance(found, type)}:
        if "_late_init" in kind.__init__.__qualname__:
            kind.__init__ = fast_dataclass._init(kind)


def run(folder: Path, warm: Path) -> dict[str, object]:
    for path in sorted(warm.iterdir()):
        look(path)
    import_all()
    compile_constructors()
    for codec in ("latin-1", "raw_unicode_escape", "unicode_escape"):  # which the interpreter loads when first used
        codecs.lookup(codec)
    watch = Watch()
    sys.addaudithook(watch)
    files = read = 0
    for path in sorted(folder.iterdir()):
        watch.file, watch.on = path.name, True
        tensors = look(path)
        watch.on = False
        files += 1
        read += tensors > 0
    modules = sorted(name for name in sys.modules if name.startswith("qkvinspect_canary"))
    return {
        "files": files,
        "read": read,
        "events": watch.events,
        "violations": watch.violations,
        "modules": modules,
    }


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]), Path(sys.argv[2]))))
