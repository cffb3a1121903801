"""The rows of Q or K are in another order than this format and architecture need for rotary embeddings.

The weights tell which rows of a head turn together. Converters between transformers, llama.cpp and Meta's own form
permute them; where that was forgotten for one of Q and K, done twice, or done to K with the number of heads of Q, the
model runs and talks nonsense. Only architectures whose order is known, and that turn all rows of a head, are judged,
and only where the weights decide.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from qkvinspect.checks.subject import Fault, Subject
from qkvinspect.finding_codes import FindingCode
from qkvinspect.inspection.report import Attention
from qkvinspect.layouts.layout import Turn

CODE: FindingCode = FindingCode.ROTARY_ORDER_AGAINST_WEIGHTS


def find(subject: Subject) -> Iterator[Fault]:
    from qkvinspect.inspection.evidence.rotary_needs import needed_order
    from qkvinspect.inspection.evidence.rotary_order import in_words, weigh_orders

    stacks: dict[object, list[Attention]] = {}
    for attention in subject.attentions:
        needed = needed_order(attention, subject.report)
        if needed is not None:
            shapes = tuple(weight.shape for weight in attention.weights)
            stacks.setdefault((needed, shapes, str(attention.heads)), []).append(attention)
    for key, stack in stacks.items():
        needed = cast("tuple[Turn, object, object]", key)[0]
        found = weigh_orders(stack)
        if found is None or not found.decided or (found.q, found.k) == (needed, needed):
            continue
        q, k = stack[0].part("q"), stack[0].part("k")
        heads = {"q": len(q.heads) if q else 0, "k": len(k.heads) if k else 0}
        wrong = [in_words(found.q, heads, "q")] if found.q != needed else []
        wrong += [in_words(found.k, heads, "k")] if found.k != needed else []
        text = " and ".join(wrong)
        right = "in halves" if needed == "halves" else "of both halves in turn"
        for attention in stack:
            yield attention.layer, f"{text}; this format and architecture need the rows of each head {right}"
