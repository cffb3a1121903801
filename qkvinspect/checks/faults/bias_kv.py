"""bias_k or bias_v has the form of a projection's bias.

In nn.MultiheadAttention bias_k and bias_v, of shape [1, 1, embed_dim], are one more key and value position
(add_bias_kv). The biases of the projections are thirds of in_proj_bias. Where a tensor of that name has any other
form, someone took one for the other, and torch will not load it.
"""

from __future__ import annotations

from collections.abc import Iterator

from qkvinspect.checks.subject import Fault, Subject
from qkvinspect.finding_codes import FindingCode

CODE: FindingCode = FindingCode.BIAS_KV


def find(subject: Subject) -> Iterator[Fault]:
    tensors = subject.report.checkpoint.tensors
    for attention in subject.attentions:
        if attention.layout is None or not attention.layout.nn_multihead:
            continue
        prefix = f"{attention.layer}." if attention.layer else ""
        found = {name: tensors[f"{prefix}{name}"] for name in ("bias_k", "bias_v") if f"{prefix}{name}" in tensors}
        for name, info in found.items():
            if len(info.shape) != 3 or info.shape[:2] != (1, 1):
                form = f"{name} has shape {list(info.shape)}, where an extra position has [1, 1, embed_dim]"
                yield attention.layer, f"{form}: the biases of Q, K and V belong in in_proj_bias"
        if len(found) == 1:
            yield attention.layer, f"it has {next(iter(found))} alone: nn.MultiheadAttention has both or neither"
