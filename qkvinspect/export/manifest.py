"""The provenance of a written file, as text, because safetensors metadata holds nothing else."""

from __future__ import annotations

import hashlib
import json
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from qkvinspect.checkpoint import BLOCK, ByteSource, Checkpoint
from qkvinspect.export.pieces import OutputTensor
from qkvinspect.formats.safetensors_parts import KEY as PARTS
from qkvinspect.inspection.json_values import row_ranges
from qkvinspect.inspection.report import Report
from qkvinspect.sources import Window
from qkvinspect.version import __version__

_OWN = "qkvinspect."
_PENDING = "0" * hashlib.sha256().digest_size * 2


class Manifest:
    """The metadata of a written file. Within a ``with`` block the sources are hashed beside other work.

    Args:
        hashed: whether the sha256 of the sources is wanted.
        kept: whether the source's own metadata is carried along.
        more: what the result says of itself, in place of what the source said.
    """

    def __init__(
        self,
        report: Report,
        pieces: Sequence[OutputTensor],
        *,
        hashed: bool,
        kept: bool,
        more: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        checkpoint = report.checkpoint
        self._files = source_files(checkpoint, pieces)
        self._sums: dict[str, str] = dict.fromkeys(self._files, _PENDING) if hashed else {}
        self._fixed = {
            **(_kept(checkpoint.metadata) if kept else {}),
            **more,
            "format": "pt",
            "qkvinspect.version": __version__,
            "qkvinspect.source": Path(checkpoint.path).name,
            "qkvinspect.source_format": checkpoint.format,
            "qkvinspect.layers": json.dumps(_layers(report)),
            "qkvinspect.origin": json.dumps(_origin(pieces)),
        }
        self._stop = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._hash, name="sha256")

    def texts(self) -> dict[str, str]:
        """The metadata, as long at any time."""
        files = [
            {"path": path, "size": file.size, **({"sha256": self._sums[path]} if self._sums else {})}
            for path, file in self._files.items()
        ]
        return {**self._fixed, "qkvinspect.manifest": json.dumps(files)}

    def finished(self) -> dict[str, str]:
        """The metadata, once everything is hashed.

        Raises:
            CheckpointError: a source cannot be read.
        """
        if self._sums:
            self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self.texts()

    def __enter__(self) -> Self:
        if self._sums:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._sums:
            self._thread.join()

    def _hash(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are for the main thread
        try:
            for path, file in self._files.items():
                self._sums[path] = self._sum(file)
        except Exception as error:
            self._failure = error

    def _sum(self, file: ByteSource) -> str:
        total = hashlib.sha256()
        for start in range(0, file.size, BLOCK):
            if self._stop.is_set():
                break
            total.update(file.read(start, min(BLOCK, file.size - start)))
        return total.hexdigest()


def source_files(checkpoint: Checkpoint, pieces: Sequence[OutputTensor]) -> dict[str, ByteSource]:
    """The files that the pieces are read from, by name."""
    sources = [checkpoint.source] if checkpoint.source else []
    sources += [extent.source for piece in pieces for info in piece.sources for extent in info.region.extents]
    files = (source.file if isinstance(source, Window) else source for source in sources)
    return {file.name: file for file in files}


def _kept(metadata: Mapping[str, str]) -> dict[str, str]:
    """Without what holds for the old file only."""
    return {key: value for key, value in metadata.items() if not key.startswith(_OWN) and key != PARTS}


def _layers(report: Report) -> dict[str, object]:
    return {
        attention.layer: {
            "layout": attention.layout.id if attention.layout else None,
            "num_heads": attention.heads.num_heads if attention.heads else None,
            "num_kv_heads": attention.heads.num_kv_heads if attention.heads else None,
            "num_heads_from": attention.heads_from,
        }
        for attention in report.attentions
    }


def _origin(pieces: Sequence[OutputTensor]) -> dict[str, object]:
    """The stored tensor and rows of each new one; a list where there are several. What is unchanged is left out."""
    origin: dict[str, object] = {}
    for piece in pieces:
        rows: dict[str | None, list[range]] = {}
        for run in piece.runs:
            rows.setdefault(run.weight.name if run.weight else None, []).append(run.rows)
        told = [{"tensor": name, "rows": row_ranges(runs)} for name, runs in rows.items()]
        if told:
            origin[piece.name] = told[0] if len(told) == 1 else told
    return origin
