"""The code that slices a layer, ready to be pasted: with the imports that it needs."""

from __future__ import annotations

from qkvinspect.checkpoint import Checkpoint
from qkvinspect.explain import snippet
from qkvinspect.inspection.report import Attention


def pasteable(attention: Attention, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Lines of Python that leave q, k and v as nn.Linear would store them; none where they cannot be had."""
    return tuple(snippet.python(attention, checkpoint))
