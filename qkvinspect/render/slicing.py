"""The code that slices a layer, ready to be pasted: with the imports that it needs."""

from __future__ import annotations

import re

from qkvinspect.checkpoint import Checkpoint
from qkvinspect.explain import snippet
from qkvinspect.inspection.report import Attention

_MODULES = ("gguf", "onnx", "safetensors.torch", "torch", "torch.distributed.checkpoint")


def pasteable(attention: Attention, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Lines of Python that leave q, k and v as nn.Linear would store them; none where they cannot be had."""
    lines = snippet.python(attention, checkpoint)
    code = "\n".join(lines)
    needed = [module for module in _MODULES if re.search(rf"(?<![\w.]){re.escape(module)}\.(?!\w+\.)", code)]
    return (*(f"import {module}" for module in needed), *lines)
