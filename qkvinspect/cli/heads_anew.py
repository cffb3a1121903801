"""What ``convert --align-to`` and ``--kv-heads`` do before anything is planned."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qkvinspect.checkpoint import Checkpoint
    from qkvinspect.inspection.report import Report
    from qkvinspect.layouts import Layout
    from qkvinspect.lineage.anew import HeadChanges


def same_layout(report: Report) -> Layout:
    """The layout that a checkpoint is stored in.

    Raises:
        UsageError: its layers are stored in several, or it is not known.
    """
    from qkvinspect.errors import UsageError

    layouts = {one.layout.id: one.layout for one in report.attentions if one.layout is not None}
    if not layouts:
        raise UsageError(
            "how its layers are stored is not known", file=report.checkpoint.path,
            hint="--to says how they shall be; `qkvinspect explain` says what is missing",
        )  # fmt: skip
    if len(layouts) != 1:
        raise UsageError(
            "the layers are not all stored alike", file=report.checkpoint.path, found=", ".join(layouts),
            hint="--to says how they shall be, or choose some with --layer",
        )  # fmt: skip
    return next(iter(layouts.values()))


def require_grouped(layout: Layout, kv_heads: int | None) -> None:
    """Refuse a layout that holds as many heads of K and V as of Q, where there shall be fewer.

    Raises:
        UsageError: it does.
    """
    from qkvinspect.errors import UsageError

    if kv_heads is not None and layout.kv_heads == "equal":
        raise UsageError(
            f"{layout.id} holds as many heads of K and V as of Q",
            hint="--to qkv-proj stores them apart, --to phi3 in one tensor; `qkvinspect layouts` lists others",
        )


def say_what_config_needs(kv_heads: int | None) -> None:
    """Convert writes no config, and the one that there is says something else now."""
    from qkvinspect.cli.printing import note

    if kv_heads is not None:
        note(f'info: the config of the result has to say: {{"num_key_value_heads": {kv_heads}}}')


def _with_heads(look: Callable[..., Report], of_other: list[str] | None, own: list[str] | None) -> Report:
    """Inspect what is aligned to: it has as many heads as the checkpoint where nothing else tells how many."""
    report = look(heads=own, evidence="wanted")
    if own is None and of_other is not None and any(one.heads is None for one in report.attentions):
        return look(heads=of_other, evidence="wanted")
    return report


def remade(
    report: Report,
    align_to: str | None,
    kv_heads: int | None,
    rotary: str | None,
    opened: Callable[[str], AbstractContextManager[Checkpoint]],
    heads: tuple[list[str] | None, list[str] | None] = (None, None),
) -> tuple[Report, HeadChanges]:
    """The checkpoint with other heads, and what became of them.

    Args:
        heads: how many the user says that the checkpoint has, and the one that it is aligned to.
    """
    from qkvinspect.cli import options
    from qkvinspect.cli.progress import Bar
    from qkvinspect.lineage.anew import HeadChanges, aligned, merged

    changes = HeadChanges()
    if align_to is not None:
        with opened(align_to) as file, Bar("aligning") as bar:
            base = _with_heads(partial(options.report, file, layers=None, layouts=None, norms=False), *heads)
            report, changes = aligned(report, base, rotary, bar.advance)
    if kv_heads is not None:
        with Bar("merging") as bar:
            report, changes = merged(report, kv_heads, rotary, changes, bar.advance)
    return report, changes
