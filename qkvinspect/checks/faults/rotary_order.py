"""The rows of Q or K are in another order than this format and architecture need for rotary embeddings.

The weights tell which rows of a head turn together. Converters between transformers, llama.cpp and Meta's own form
permute them; where that was forgotten for one of Q and K, done twice, or done to K with the number of heads of Q, the
model runs and talks nonsense. Only architectures whose order is known, and that turn all rows of a head, are judged,
and only where the weights decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

from qkvinspect.checks.subject import Fault, Subject
from qkvinspect.finding_codes import FindingCode
from qkvinspect.inspection.report import Attention
from qkvinspect.layouts.layout import Turn

if TYPE_CHECKING:
    from qkvinspect.inspection.evidence.rotary_order import Order

CODE: FindingCode = FindingCode.ROTARY_ORDER_AGAINST_WEIGHTS

_CLEAR = 2
"""How many times farther ahead the orders of one layer must be to be believed alone. Of SmolLM2's 30 layers all are, by
2.7 times at least, and all are right."""


def find(subject: Subject) -> Iterator[Fault]:
    from qkvinspect.inspection.evidence.rotary_needs import needed_order
    from qkvinspect.inspection.evidence.rotary_order import in_words

    stacks: dict[object, list[Attention]] = {}
    for attention in subject.attentions:
        needed = needed_order(attention, subject.report)
        if needed is not None:
            shapes = tuple(weight.shape for weight in attention.weights)
            stacks.setdefault((needed, shapes, str(attention.heads)), []).append(attention)
    for key, stack in stacks.items():
        needed = cast("tuple[Turn, object, object]", key)[0]
        right = "in halves" if needed == "halves" else "of both halves in turn"
        for attention, (of_q, of_k) in _decided(stack):
            q, k = attention.part("q"), attention.part("k")
            heads = {"q": len(q.heads) if q else 0, "k": len(k.heads) if k else 0}
            wrong = [in_words(of_q, heads, "q")] if of_q != needed else []
            wrong += [in_words(of_k, heads, "k")] if of_k != needed else []
            if wrong:
                text = " and ".join(wrong)
                yield attention.layer, f"{text}; this format and architecture need the rows of each head {right}"


def _decided(stack: Sequence[Attention]) -> Iterator[tuple[Attention, tuple[Order, Order]]]:
    """Of layers that are alike those whose orders are known, from their own weights or from those of all together.

    A layer whose own weights are clear is believed, and where it contradicts the others, these do not speak for all.
    """
    from qkvinspect.inspection.evidence.rotary_order import AHEAD, weigh_orders

    every = weigh_orders(stack)
    together = (every.q, every.k) if every is not None and every.decided else None
    own: dict[str, tuple[Order, Order]] = {}
    for attention in stack if len(stack) > 1 else ():
        found = weigh_orders([attention])
        if found is not None and found.decided and found.ahead >= _CLEAR * AHEAD:
            own[attention.layer] = found.q, found.k
    if together is not None and any(orders != together for orders in own.values()):
        together = None
    for attention in stack:
        orders = own.get(attention.layer, together)
        if orders is not None:
            yield attention, orders
