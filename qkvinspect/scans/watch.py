"""Watchers of training runs, which report what stands out. A new watcher is one function here and one line in WATCHERS.

The thresholds are such that training that goes well, warm-up included, gives no finding; tests train some to see it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from math import exp, log
from statistics import median

from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import Finding
from qkvinspect.scans.jumps import FEWEST, Jump, jumps, scale
from qkvinspect.scans.series import Series, TrainingRun

DYING_SHARE = 0.25
"""Of the median of a head's siblings. Heads of one part of trained checkpoints lie within a factor of ten of their
median, but those that are small have been so from the start: a dying one has also lost half of what it had."""

DRIFT = 2.0
"""Growth of a norm in the second half of a run that does not slow down: norms of a run that goes well settle, by
weight decay or a falling learning rate; one that doubles again and again ends in attention that is one-hot, and then
in values that are not finite."""

BOUND_DRIFT = DRIFT**2
"""The same of a bound on logits, which is a product of two norms."""

_UNSETTLED = "in the second half of the run and does not settle"

_STEADY = 0.8
"""The share of equal distances between steps from which another distance is a gap."""


def findings(run: TrainingRun) -> list[Finding]:
    """All of them, by watcher."""
    return [finding for watcher in WATCHERS for finding in watcher(run)]


def nonfinite(run: TrainingRun) -> Iterator[Finding]:
    """Weights that are NaN or infinite."""
    for (layer, part), (step, count) in run.nonfinite.items():
        text = f"{part.upper()} has values that are not finite from step {step} on ({count} of them there)"
        yield Finding(FindingCode.NONFINITE, text, layer, severity="error")


def spikes(run: TrainingRun) -> Iterator[Finding]:
    """A norm that jumps: see ``runs.jumps``."""
    stacks = {part: scale(one for one in _norms(run) if one.key.part == part) for part in "qkv"}
    found: dict[tuple[str, str, int], list[tuple[int | None, Jump]]] = defaultdict(list)
    for series in _norms(run):
        key = series.key
        for jump in jumps(series, stacks[key.part]):
            found[key.layer, key.part, jump.step].append((key.head, jump))
    for (layer, part, step), those in sorted(found.items(), key=lambda item: item[0][2]):
        text = f"the norm of {part.upper()}{_jumping(those, step)}"
        yield Finding(FindingCode.NORM_SPIKE, text, layer)


def _jumping(those: Sequence[tuple[int | None, Jump]], step: int) -> str:
    """Which heads jump, and from what to what: one head's norm, or of several that of the whole part if it jumps."""
    heads = [head for head, _ in those if head is not None]
    told = [one for one in those if one[0] is not None] if len(heads) == 1 else those
    of, most = min(told, key=lambda one: (one[0] is not None, -abs(log(one[1].after / one[1].before))))
    where = f" in {_named(heads)}" if heads else ""
    whose = "" if len(heads) < 2 else " as a whole" if of is None else f" in head {of}"
    back = ", and back" if most.back else ""
    return f"{where} jumps at step {step}: {most.before:.3g} to {most.after:.3g}{whose}{back}"


def dying(run: TrainingRun) -> Iterator[Finding]:
    """A head whose norm falls towards zero while those beside it do not."""
    groups: dict[tuple[str, str], list[Series]] = defaultdict(list)
    for series in run.of("norm", heads=True):
        groups[series.key.layer, series.key.part].append(series)
    for (layer, part), heads in groups.items():
        for series in heads:
            others = [one for one in heads if one is not series and one.steps == series.steps]
            if len(series.values) < FEWEST or len(others) < 2:
                continue
            middles = [median(values) for values in zip(*(one.values for one in others), strict=True)]
            shares = [own / middle if middle else 1.0 for own, middle in zip(series.values, middles, strict=True)]
            fell = series.values[-1] < max(series.values) / 2 and middles[-1] > max(middles) / 2
            if fell and shares[-1] < DYING_SHARE:
                since = next(i for i in range(len(shares)) if max(shares[i:]) < DYING_SHARE)
                text = (
                    f"the norm of {part.upper()} in head {series.key.head} falls towards zero: under "
                    f"{DYING_SHARE:g} of the other heads' from step {series.steps[since]} on, {shares[-1]:.2g} at last"
                )
                yield Finding(FindingCode.DYING_HEAD, text, layer)


def drift(run: TrainingRun) -> Iterator[Finding]:
    """A norm that grows, or shrinks, and does not slow down."""
    for series in run.of("norm", heads=False):
        factor = _drift(series)
        if factor is not None and not 1 / DRIFT <= factor <= DRIFT:
            text = f"the norm of {series.key.part.upper()} {_by(factor)} {_UNSETTLED}"
            yield Finding(FindingCode.NORM_DRIFT, text, series.key.layer)


def bounds(run: TrainingRun) -> Iterator[Finding]:
    """A bound on the logits that grows and does not slow down."""
    grown: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for series in run.of("logit_bound", heads=True):
        factor = _drift(series)
        if factor is not None and factor > BOUND_DRIFT and series.key.head is not None:
            grown[series.key.layer].append((factor, series.key.head))
    for layer, those in grown.items():
        where = _named(sorted(head for _, head in those))
        text = f"the bound on the logits of {where} {_by(max(those)[0])} {_UNSETTLED}"
        yield Finding(FindingCode.LOGIT_BOUND_GROWTH, text, layer)


def gaps(run: TrainingRun) -> Iterator[Finding]:
    """Checkpoints that are missing, or whose step is."""
    if run.errors:
        path, error = next(iter(run.errors.items()))
        text = f"{len(run.errors)} of the checkpoints could not be read, the first of them {path}: {error}"
        yield Finding(FindingCode.UNREADABLE, text)
    if run.stepless:
        first = next(iter(run.stepless))
        text = f"{len(run.stepless)} of the checkpoints have no step and are left out, the first of them {first}"
        yield Finding(FindingCode.MISSING_STEPS, text)
    if len(run.origins) > 1:
        yield Finding(FindingCode.MIXED_STEPS, "some checkpoints give their step, others only their epoch")
    if run.twice:
        text = f"{len(run.twice)} of the steps have several checkpoints, such as {min(run.twice)}: the first counts"
        yield Finding(FindingCode.REPEATED_STEPS, text)
    steps = sorted(run.steps)
    apart = [b - a for a, b in pairwise(steps)]
    usual = median(apart) if apart else 0
    if len(steps) < FEWEST:
        text = f"{len(steps)} steps are too few to recognise jumps, drift and dying heads: it takes {FEWEST}"
        yield Finding(FindingCode.SHORT_RUN, text)
    elif sum(distance == usual for distance in apart) >= _STEADY * len(apart):
        wide = [(a, b) for a, b in pairwise(steps) if b - a > 1.5 * usual]
        if wide:
            text = (
                f"{len(wide)} gaps in steps that are {usual:g} apart, the first between {wide[0][0]} and {wide[0][1]}"
            )
            yield Finding(FindingCode.MISSING_STEPS, text, severity="info")


WATCHERS: tuple[Callable[[TrainingRun], Iterator[Finding]], ...] = (nonfinite, spikes, dying, drift, bounds, gaps)


def _norms(run: TrainingRun) -> Iterator[Series]:
    for heads in (False, True):
        yield from run.of("norm", heads=heads)


def _drift(series: Series) -> float | None:
    """The factor by which the second half of a run changes a figure that does not slow down; None of one that does."""
    steps, values = series.steps, series.values
    if len(steps) < FEWEST or min(values) <= 0:
        return None
    span = steps[-1] - steps[0]
    third, middle, last = (log(_at(series, steps[0] + span * share)) for share in (0.5, 0.75, 1.0))
    early, late = middle - third, last - middle
    return exp(early + late) if early * late > 0 and abs(late) >= abs(early) / 2 else None


def _at(series: Series, step: float) -> float:
    """The median of the values around a step: one spike is no drift."""
    near = sorted(range(len(series.steps)), key=lambda i: abs(series.steps[i] - step))[:3]
    return median(series.values[i] for i in near)


def _by(factor: float) -> str:
    return f"grows {factor:.2g} times" if factor > 1 else f"shrinks to {factor:.2g}"


def _named(heads: Sequence[int]) -> str:
    shown = ", ".join(map(str, heads[:6]))
    return f"head {shown}" if len(heads) == 1 else f"heads {shown}{', ...' if len(heads) > 6 else ''}"
