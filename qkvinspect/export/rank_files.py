"""Write the shares of ranks into a folder, as Megatron's and vLLM's loaders look for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from qkvinspect.atomic import new_file, new_folder
from qkvinspect.errors import UsageError
from qkvinspect.export.compare import verify
from qkvinspect.export.files import SUFFIXES, How, require_possible
from qkvinspect.export.manifest import Manifest
from qkvinspect.export.pieces import OutputTensor
from qkvinspect.export.safetensors_file import write_safetensors
from qkvinspect.export.shares import Ranks, shared_out
from qkvinspect.export.torch_file import write_torch
from qkvinspect.inspection.report import Report
from qkvinspect.layouts import Layout
from qkvinspect.progress import Progress, counter
from qkvinspect.sources import announce

_NEWEST_VERSION = 3


def write_ranks(
    report: Report,
    pieces: Sequence[OutputTensor],
    ranks: Ranks,
    layout: Layout,
    target: Path,
    how: How,
    progress: Progress | None = None,
) -> None:
    """Write every rank's share into a new folder, whole or not at all.

    Megatron's are ``release/mp_rank_TT/model_optim_rng.pt`` with the tracker file that says so; vLLM's
    ``model-rank-T-part-0.safetensors``.

    Raises:
        UsageError: the target cannot be, exists, or there is no room for it.
        LayoutError: a tensor cannot be shared out, or the format has no such dtype.
        QkvInspectError: it could not be written.
    """
    shares = shared_out(pieces, ranks)
    require_writable(report, shares, ranks, target)
    advance = counter(sum(piece.nbytes for own in shares for piece in own) * (2 if how.verify else 1), progress)
    announce(info.region for piece in pieces for info in piece.sources)
    with Manifest(report, pieces, hashed=how.hashed, kept=how.kept) as manifest, new_folder(target) as folder:
        for rank, own in enumerate(shares):
            if ranks.kind == "megatron":
                path = _write_megatron(folder, rank, own, layout, manifest.finished, advance)
            else:
                path = folder / f"model-rank-{rank}-part-0.safetensors"
                with _new(path) as file:
                    write_safetensors(file, own, _metadata, _metadata, advance)
            if how.verify:
                verify(path, own, target, advance)
        if ranks.kind == "megatron":
            with _new(folder / "latest_checkpointed_iteration.txt") as file:
                file.write(b"release")
        report.checkpoint.check()


def _write_megatron(
    folder: Path,
    rank: int,
    pieces: Sequence[OutputTensor],
    layout: Layout,
    metadata: Callable[[], Mapping[str, str]],
    advance: Callable[[int], None],
) -> Path:
    path = folder / "release" / f"mp_rank_{rank:02}" / "model_optim_rng.pt"
    path.parent.mkdir(parents=True)
    with _new(path) as file:
        versions = [one for one in layout.flags.get("checkpoint_version", ()) if isinstance(one, int)]
        version = max(versions, default=_NEWEST_VERSION)
        write_torch(file, pieces, metadata, advance, within={"checkpoint_version": version, "iteration": 0})
    return path


def require_writable(report: Report, shares: Sequence[Sequence[OutputTensor]], ranks: Ranks, target: Path) -> None:
    """Refuse before anything is written.

    Raises:
        UsageError: the target cannot be, exists, or there is no room for it.
        LayoutError: the format has no such dtype.
    """
    if target.suffix in SUFFIXES:
        raise UsageError("is a file's name, and ranks go into a folder", file=str(target), hint="leave its suffix out")
    every = [piece for own in shares for piece in own]
    require_possible(report, every, target, How(max_shard=1), by_torch=ranks.kind == "megatron")


def _new(path: Path) -> AbstractContextManager[BinaryIO]:
    return new_file(path, force=False)


def _metadata() -> dict[str, str]:
    return {"format": "pt"}
