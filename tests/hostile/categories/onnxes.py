"""ONNX files that lie, one for each code; tests/formats/test_onnx_hostile.py has many of each."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from qkvinspect.error_codes import Code
from tests.hostile.categories.case import Case, Makers, Refused
from tests.hostile.writers.onnxes import entry, message, model, tensor

_RAW = bytes(16)
_SOUND = tensor(b"w", (2, 2), 1, _RAW)


def liars() -> Iterator[Case]:
    outside = ((13, entry(b"location", b"x")), (13, entry(b"offset", b"-1")), (14, 1))
    files = {
        Code.ONNX_WIRE: model(message((5, _SOUND))) + b"\x0b",
        Code.ONNX_TRUNCATED: model(message((5, _SOUND)))[:-1],
        Code.ONNX_TEXT: model(message((5, tensor(b"\xff", (2, 2), 1, _RAW)))),
        Code.ONNX_GRAPH: message((1, 8), (2, b"nobody")),
        Code.ONNX_DUPLICATE: model(message((5, _SOUND), (5, _SOUND))),
        Code.ONNX_TYPE: model(message((5, tensor(b"w", (2, 2), 99, _RAW)))),
        Code.ONNX_SHAPE: model(message((5, tensor(b"w", (-1, 2), 1, _RAW)))),
        Code.ONNX_RANGE: model(message((5, tensor(b"w", (2, 3), 1, _RAW)))),
        Code.ONNX_EXTERNAL: model(message((5, tensor(b"w", (2, 2), 1, None, *outside)))),
    }
    for code, data in files.items():
        yield Case(f"ONNX: {code.name}", partial(bytes, data), Refused(code))


MAKERS: Makers = {113: liars}
TRUSTED: dict[int, str] = {}
