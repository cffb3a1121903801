"""Whether weights tell Q from K, of which only the product is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qkvinspect.inspection.verdict import Weighed, exchanged

_OF_ALL, _OF_GAIN = 0.1, 0.75
"""The share of the way from the worst packing to the best by which that must be ahead of itself with Q and K exchanged,
and of what heads gain where K lies in groups. Of trained rotary heads, some preferred the wrong one by 0.07 and 0.91,
never by as much of both; others the right one by 0.14 and 1.5."""


def like_exchanged(weighed: Sequence[Weighed], gain: float, words: Mapping[str, str]) -> bool:
    """Whether the first is not far enough ahead of itself with Q and K exchanged.

    Of heads that share one of K any may be the most like all others of its group, and then looks like K. In blocks, all
    of K would have to be, which is no doubt about what a layout has.
    """
    first, *others = (words.get(one.label, one.label) for one in weighed)
    in_blocks = first.endswith("in blocks")
    if in_blocks and weighed[0].label in words:
        return False
    enough = max(_OF_ALL * (weighed[0].score - weighed[-1].score), 0.0 if in_blocks else _OF_GAIN * gain)
    near = (other for other, one in zip(others, weighed[1:], strict=True) if weighed[0].score - one.score < enough)
    return exchanged(first) in near
