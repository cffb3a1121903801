"""Checkpoint files. A new format is one module here and one line in FORMATS."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from qkvinspect.errors import CheckpointError
from qkvinspect.formats import configs, directory, foreign
from qkvinspect.formats.limits import limits_for
from qkvinspect.formats.request import Format, Request
from qkvinspect.model import ByteSource, Checkpoint, Finding
from qkvinspect.sources import LocalFile

FORMATS: tuple[str, ...] = ("safetensors", "torch_zip", "torch_legacy", "torch_tar", "dcp", "sharded")
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
    config: Path | None = None,
    limits: Mapping[str, int] | None = None,
) -> Checkpoint:
    """Open a file, a shard index or a directory. No tensor is read; close the result when done.

    Args:
        container: which state_dict, where a file holds several (``state_dict_ema`` ...).
        config: hyper-parameters to trust before any found beside or inside the checkpoint.
        limits: what to allow a file instead of what is usual for its size; see ``formats.limits.Limits``.

    Raises:
        CheckpointError: it is not a checkpoint, or is damaged.
    """
    place = Path(path)
    findings: tuple[Finding, ...] = ()
    if os.path.isdir(place):  # noqa: PTH112  (Path.is_dir raises where the folder may not be read)
        place, findings = directory.choose(place)
    source = LocalFile(place)
    try:
        with _without_collector():
            checkpoint = _open(source, container, limits or {})
        own = (configs.named(config),) if config is not None else ()
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


def _open(
    source: ByteSource, container: str | None, limits: Mapping[str, int], names: Sequence[str] = FORMATS
) -> Checkpoint:
    head = source.read(0, min(source.size, foreign.HEAD))
    single = [name for name in names if name not in _OF_SEVERAL]  # no index is a shard
    for format in formats(names):
        if format.sniff(head):
            own = limits_for(source.size, limits)
            return format.open(source, Request(container, lambda shard: _open(shard, container, limits, single), own))
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
