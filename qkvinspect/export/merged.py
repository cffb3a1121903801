"""Whether all of an adapter is in the sum, or all codes are numbers: a file that is half of one must not be written."""

from __future__ import annotations

from collections.abc import Iterator

from qkvinspect.dtypes import DType
from qkvinspect.errors import LayoutError
from qkvinspect.inspection.report import Report
from qkvinspect.weights.adapters.sums import replaced


def require_merged(report: Report) -> None:
    """Refuse an adapter of which something is not in the sum.

    What is for another model than the base, as that of a text encoder, has no place in its file and may be missing.

    Raises:
        LayoutError: its weights would be written as if nothing had been added to them, or its parts left out.
    """
    adapter, weights = report.checkpoint.adapter, report.weights
    if adapter is None:
        _require_all_or_none(report)
        return
    lost = [(name, weights[name].why) for name in weights.adapted if weights[name].why]
    if lost:
        raise LayoutError(
            f"the adapter cannot be added to {lost[0][0]}{_and_more(len(lost))}: {lost[0][1]}",
            file=adapter.path,
            hint="merge it with the library that it was trained with",
        )
    left = [*weights.left, *_tensors_left(report)]
    if left:
        raise LayoutError(
            f"the base has no one place for {left[0]}{_and_more(len(left))} of the adapter",
            file=adapter.path,
            hint="--base names the model that it was trained on; or merge it with the library that it was trained with",
        )


def _require_all_or_none(report: Report) -> None:
    """Refuse an adapter in the file itself that is added to some weights and not to others.

    Raises:
        LayoutError: it is.
    """
    weights = report.weights
    if weights.adapted and (weights.alone or weights.left):
        place = next(iter(weights.alone), "") or f"{weights.left[0]}, which is not in the file"
        why = f": {weights.alone[place]}" if place in weights.alone else ""
        raise LayoutError(
            f"the adapter in the file cannot be added to {place}{why}",
            file=report.checkpoint.path,
            hint="merge it with the library that it was trained with; without --all only the attention is written",
        )


def _tensors_left(report: Report) -> Iterator[str]:
    assert report.checkpoint.adapter is not None
    yield from replaced(report.checkpoint.tensors, report.checkpoint.adapter)[1]


def _and_more(count: int) -> str:
    return f" and {count - 1} more" if count > 1 else ""


def require_numbers(report: Report, numbers_as: DType | None) -> None:
    """Refuse codes that cannot be made the numbers that were asked for.

    Raises:
        LayoutError: there are such codes.
    """
    if numbers_as is None:
        return
    lost = [name for name in report.weights if report.weights[name].why]
    if lost:
        raise LayoutError(
            f"{lost[0]}{_and_more(len(lost))} cannot be written as {numbers_as.name}: {report.weights[lost[0]].why}",
            file=report.checkpoint.path,
            hint="without --all only the attention is written, without --dequantize the codes as they are",
        )
