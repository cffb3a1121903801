"""Coverage-guided fuzzing with atheris (see ../README.md): python harness.py TARGET [libFuzzer options] [folders].

An input that raises anything but a QkvInspectError is a crash. With QKVINSPECT_CRASHES set to a folder, the first
such input of each place in the code is kept there and the run goes on.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from random import Random

import atheris

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[2]))

with atheris.instrument_imports(include=["qkvinspect"]):
    from tests.hostile.reading import outcome

from tests.hostile.targets import TARGETS  # noqa: E402  (what it makes inputs with is not to be instrumented)

CRASHES = os.environ.get("QKVINSPECT_CRASHES")


def main() -> None:
    target = TARGETS[sys.argv[1]]
    corpus = HERE / "corpus" / sys.argv[1]
    if not corpus.exists():
        corpus.mkdir(parents=True)
        for number, seed in enumerate(target.seeds):
            (corpus / f"seed-{number}").write_bytes(seed)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        random = Random(seed)
        if random.random() < 0.4:
            return atheris.Mutate(data, most)
        return target.mutate(random, data)[:most]

    def one(data: bytes) -> None:
        try:
            outcome(target.source(data))
        except Exception as error:
            if CRASHES is None:
                raise
            _keep(error, data)

    folders = [] if any(Path(argument).is_dir() for argument in sys.argv[2:]) else [str(corpus)]
    again = (
        f"{sys.executable} {Path(__file__).resolve()} {sys.argv[1]}"  # what libFuzzer runs, through a shell, to merge
    )
    atheris.Setup([again, *sys.argv[2:], *folders], one, custom_mutator=mutate)
    atheris.Fuzz()


def _keep(error: Exception, data: bytes) -> None:
    place = traceback.extract_tb(error.__traceback__)[-1]
    path = Path(str(CRASHES)) / f"{sys.argv[1]}-{type(error).__name__}-{Path(place.filename).stem}-{place.lineno}"
    if not path.exists():
        path.write_bytes(data)
        path.with_suffix(".txt").write_text("".join(traceback.format_exception(error)))


if __name__ == "__main__":
    main()
