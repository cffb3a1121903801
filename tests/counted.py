"""How much work something is, in lines that run: a busy machine does not change them, as it does every time."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType

import qkvinspect


@contextmanager
def counted() -> Iterator[Counter[tuple[str, int]]]:
    """How often each line of the package runs. Each piece of code has its own counter: that takes half as long."""
    found: Counter[tuple[str, int]] = Counter()
    package = str(Path(qkvinspect.__file__).parent)
    tracers: dict[int, tuple[CodeType, Callable[[FrameType, str, object], object] | None]] = {}
    lines: dict[str, Counter[int]] = {}

    def tracer(code: CodeType) -> Callable[[FrameType, str, object], object] | None:
        if not code.co_filename.startswith(package):
            return None
        own = lines.setdefault(code.co_filename[len(package) :], Counter())

        def count(frame: FrameType, event: str, argument: object) -> object:
            if event == "line" and frame.f_lineno:  # what measures coverage puts code on a line 0
                own[frame.f_lineno] += 1
            return count

        return count

    def trace(frame: FrameType, event: str, argument: object) -> object:
        code = frame.f_code
        if id(code) not in tracers:  # its hash is reckoned from all of it, each time
            tracers[id(code)] = code, tracer(code)
        return tracers[id(code)][1]

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield found
    finally:
        sys.settrace(before)
        found.update({(name, line): count for name, own in lines.items() for line, count in own.items()})
