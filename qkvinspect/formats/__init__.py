"""Checkpoint files. A new format is one module here and one line in FORMATS."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from qkvinspect.checkpoint import ByteSource, Checkpoint
from qkvinspect.errors import CheckpointError
from qkvinspect.findings import Finding
from qkvinspect.formats import configs, directory, foreign
from qkvinspect.formats.limits import limits_for
from qkvinspect.formats.request import Format, OpenRequest
from qkvinspect.progress import Progress
from qkvinspect.sources import LocalFile, is_remote, local_path

FORMATS: tuple[str, ...] = ("safetensors", "torch_zip", "torch_legacy", "torch_tar", "dcp", "gguf", "onnx", "sharded")
"""Modules here, asked in this order, and imported only then; a file is of the first format whose sniff says so."""

_OF_SEVERAL = ("dcp", "sharded")


def formats(names: Sequence[str] = FORMATS) -> Iterator[Format]:
    """The formats of these names, each imported when its turn comes."""
    for name in names:
        yield import_module(f"qkvinspect.formats.{name}")  # pyright: ignore[reportReturnType]


def open_checkpoint(
    path: str | Path,
    *,
    container: str | None = None,
    config: str | Path | None = None,
    limits: Mapping[str, int] | None = None,
    download: bool = False,
    progress: Progress | None = None,
) -> Checkpoint:
    """Open a file, a shard index, a directory, or a URL of one. No tensor is read; close the result when done.

    Args:
        container: which state_dict, where a file holds several (``state_dict_ema`` ...).
        config: hyper-parameters to trust before any found beside or inside the checkpoint.
        limits: what to allow a file instead of what is usual for its size; see ``formats.limits.Limits``.
        download: fetch remote files whole, to a temporary file.
        progress: told how far that is.

    Raises:
        CheckpointError: it is not a checkpoint, or is damaged.
        UsageError: the URL needs a package that is missing.
    """
    source, findings = _find(os.fspath(path), download, progress)
    try:
        with _without_collector():
            checkpoint = _open(source, container, limits or {})
        own = (configs.named(os.fspath(config)),) if config is not None else ()
        beside, config_findings = configs.beside(source)
    except CheckpointError:
        with closing(source):
            source.check()
        raise
    except BaseException:
        source.close()
        raise
    checkpoint.resources.callback(source.close)
    return replace(
        checkpoint,
        configs=(*own, *beside, *checkpoint.configs),
        findings=(*findings, *checkpoint.findings, *config_findings),
        source=source,
    )


def _find(path: str, download: bool, progress: Progress | None) -> tuple[ByteSource, tuple[Finding, ...]]:
    """The file that a path or a URL stands for."""
    if is_remote(path):
        from qkvinspect.sources.locate import Reach, RemoteFile, remote

        found = remote(path, Reach(download, progress))
        return (found, ()) if isinstance(found, RemoteFile) else directory.choose_remote(found)
    place = local_path(path)
    if os.path.isdir(place):  # noqa: PTH112  (Path.is_dir raises where the folder may not be read)
        place, findings = directory.choose(place)
        return LocalFile(place), findings
    return LocalFile(place), ()


def _open(
    source: ByteSource, container: str | None, limits: Mapping[str, int], names: Sequence[str] = FORMATS
) -> Checkpoint:
    head = source.read(0, min(source.size, foreign.HEAD))
    single = [name for name in names if name not in _OF_SEVERAL]  # no index is a shard
    for format in formats(names):
        if format.sniff(head):
            own = limits_for(source.size, limits)
            return format.open(
                source, OpenRequest(container, lambda shard: _open(shard, container, limits, single), own)
            )
    raise foreign.refuse(source, head)


@contextmanager
def _without_collector() -> Generator[None]:
    """A pickle makes millions of nodes that all stay: looking for cycles among them again and again takes longest."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
