"""Build the models of a library, run them, and keep what was seen: ``python -m tests.census.generate --lib timm``.

Prints what is new, what is gone and what is seen otherwise than in the data that is there, then writes the data of
the library anew (see README.md for the environment).
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import time
from collections import Counter
from collections.abc import Container, Iterable, Iterator

from tests.census.environment import prepare, stand_in
from tests.census.kept import Line, load, path_of, store
from tests.census.model import Model, line_of

LIBRARIES = ("transformers", "timm", "diffusers", "open_clip", "readmes", "others")


LONGEST = 120
"""Seconds that a model may take."""

SAVED = 20
"""Models after which the data is written, so that a run that is stopped has not been for nothing."""


def _too_long(*_: object) -> None:
    raise TimeoutError(f"more than {LONGEST} s")


def made(
    lib: str, only: str, known: Container[str], *, backwards: bool
) -> Iterator[tuple[Model, Line | None, str, float]]:
    """Each model that is not known yet, its line, or why there is none."""
    models = importlib.import_module(f"tests.census.models_{lib}").models()
    for model in reversed(list(models)) if backwards else models:
        if (only and only not in model.name) or f"{model.lib}/{model.name}" in known:
            continue
        start = time.monotonic()
        signal.alarm(LONGEST)
        try:
            line, why = line_of(model), ""
        except Exception as error:
            line, why = None, f"{type(error).__name__}: {error}"[:200].replace("\n", " ")
        finally:
            signal.alarm(0)
        yield model, line, why, time.monotonic() - start


def compare(old: Line | None, new: Line) -> str:
    """In a word, how a line differs from the one before."""
    if old is None:
        return "new"
    if old.get("not_built") != new.get("not_built"):
        return f"not built: {new['not_built']}" if "not_built" in new else "is built now"
    if old.get("truth") != new.get("truth"):
        return f"other truth: {len(old['truth'])} modules, now {len(new['truth'])}"
    return "other tensors" if old.get("tensors") != new.get("tensors") else ""


def main(argv: list[str]) -> int:
    ask = argparse.ArgumentParser(prog="python -m tests.census.generate", description=__doc__)
    ask.add_argument("--lib", required=True, choices=LIBRARIES)
    ask.add_argument("--only", default="", help="models whose name contains this; the others stay as they are")
    ask.add_argument("--missing", action="store_true", help="models that the data does not have; the others stay")
    ask.add_argument("--minutes", type=float, default=1e6, help="stop after these, to go on with --missing")
    ask.add_argument("--backwards", action="store_true", help="the last model first: for a second process")
    ask.add_argument("--dry", action="store_true", help="print what is new, and write nothing")
    asked = ask.parse_args(argv)
    keep_alive = prepare()
    signal.signal(signal.SIGALRM, _too_long)
    stand_in()
    before = load(path_of(asked.lib))
    some = asked.only or asked.missing
    after = dict(before) if some else {}
    stop, whole = time.monotonic() + 60 * asked.minutes, True
    for model, made_line, why, seconds in made(
        asked.lib, asked.only, before if asked.missing else (), backwards=asked.backwards
    ):
        name = f"{model.lib}/{model.name}"
        line = made_line or {"lib": model.lib, "name": model.name, "not_built": why}
        after[name] = line
        change = compare(before.get(name), line)
        if change or line.get("trouble"):
            seen = f"{len(line.get('truth', ()))} modules, {seconds:.1f} s"
            print(f"{name}: {change} ({seen}) {line.get('trouble', '')}", flush=True)
        if not asked.dry and len(after) % SAVED == 0:
            store(path_of(asked.lib), {**before, **after})
        if time.monotonic() > stop:
            whole = False
            break
    if whole and not some:
        for name in sorted(before.keys() - after.keys()):
            print(f"{name}: gone")
    if not asked.dry:
        store(path_of(asked.lib), after if whole else {**before, **after})
    print(dict(_counts(after.values())))
    del keep_alive
    return 0


def _counts(lines: Iterable[Line]) -> Counter[str]:
    """Models, those that could not be built, modules by kind, and modules that were not seen at work."""
    counts: Counter[str] = Counter()
    for line in lines:
        counts["not built" if "not_built" in line else "models"] += 1
        counts.update(truth["kind"] for truth in line.get("truth", ()))
        counts["untraced"] += len(line.get("untraced", ()))
    return counts


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
