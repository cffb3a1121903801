"""Read a written file again, and compare it bit for bit with what it was made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from qkvinspect.errors import QkvInspectError
from qkvinspect.export.pieces import OutputTensor, contents, spans, unchanged
from qkvinspect.export.row_runs import same_bytes
from qkvinspect.formats import open_checkpoint


def verify(written: Path, pieces: Sequence[OutputTensor], shown: Path, advance: Callable[[int], None]) -> None:
    """Compare every tensor of ``written``.

    Args:
        shown: what to call it.

    Raises:
        QkvInspectError: it is not what should have been written.
    """

    def counted(data: Iterator[bytes]) -> Iterator[bytes]:
        for block in data:
            advance(len(block))
            yield block

    with open_checkpoint(written) as checkpoint:
        wanted = {piece.name: piece for piece in pieces}
        if checkpoint.tensors.keys() != wanted.keys():
            raise _differs(shown, "its tensors")
        for name, piece in wanted.items():
            info = checkpoint.tensors[name]
            bits = piece.dtype.bits // piece.dtype.values, info.dtype.bits // info.dtype.values
            if (info.nbytes, bits[0]) != (piece.nbytes, bits[1]) or len(info.shape) != len(piece.shape):
                raise _differs(shown, name)
            if not same_bytes(counted(contents(spans(piece))), contents(spans(unchanged(info)))):
                raise _differs(shown, name)


def _differs(file: Path, what: str) -> QkvInspectError:
    return QkvInspectError(
        f"{what}: read again, it is not what was written",
        file=str(file),
        hint="nothing was left behind; look at the disk that it is on",
    )
