"""The rows of Q or K are in another order than this format and architecture need for rotary embeddings.

The weights tell which rows of a head turn together. Converters between transformers, llama.cpp and Meta's own form
permute them; where that was forgotten for one of Q and K, done twice, or done with another number of heads, the
model runs and talks nonsense. Only architectures whose order is known, and that turn all rows of a head, are judged,
and only where the weights decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
    from qkvinspect.inspection.evidence.rotary_needs import needed_order, says_that_all_turn
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
        decided = _decided(stack)
        otherwise = _otherwise(stack, needed, decided, all_turn=says_that_all_turn(stack[0], subject.report))
        for attention in stack if otherwise is not None else ():
            if otherwise:
                yield attention.layer, f"{otherwise}; this format and architecture need the rows of each head {right}"
        for attention, (of_q, of_k) in decided if otherwise is None else ():
            q, k = attention.part("q"), attention.part("k")
            heads = {"q": len(q.heads) if q else 0, "k": len(k.heads) if k else 0}
            # a head of K takes no notice of which of its heads of Q a row is from: the weights say no more
            either = of_q == "neighbours" and heads["q"] != heads["k"]
            wrong = [_either(heads) if either else in_words(of_q, heads, "q")] if of_q != needed else []
            wrong += [in_words(of_k, heads, "k")] if of_k != needed else []
            if wrong:
                text = " and ".join(wrong)
                yield attention.layer, f"{text}; this format and architecture need the rows of each head {right}"


def _either(heads: Mapping[str, int]) -> str:
    return f"Q has the rows of both halves in turn, put so as of {heads['q']} heads or as of {heads['k']}, which K has,"


def _otherwise(
    stack: Sequence[Attention],
    needed: Turn,
    decided: Sequence[tuple[Attention, tuple[Order, Order]]],
    *,
    all_turn: bool,
) -> str | None:
    """What no order of whole heads says of layers that are alike.

    "" where their rows may turn in part, so that nothing is said of them; None where neither is so.

    Args:
        all_turn: whether the file says that all of them turn.
    """
    from qkvinspect.inspection.evidence.rotary_order import ENOUGH, RARE, weigh_orders
    from qkvinspect.inspection.evidence.rotary_rivals import best_calls, parts_of
    from qkvinspect.inspection.evidence.rotary_sample import sampled

    samples = sampled(stack)
    every = weigh_orders(stack, samples) if samples is not None else None
    if samples is None or every is None:
        return None
    named = {orders for _, orders in decided}
    wrong = bool(named - {(needed, needed)})
    calls = best_calls(stack, samples) if needed == "neighbours" else []
    best = max([every.score, *(one.score for one in calls)])
    heads = stack[0].heads
    own = f", and not {_heads(heads.num_heads, heads.num_kv_heads)}" if heads is not None else ""
    said = " or ".join(_heads(*one.calls) for one in calls if one.calls) + own
    is_of_calls = bool(calls) and calls[0].beats(every.score)
    if (is_of_calls or wrong) and not all_turn and any(one.beats(best) for one in parts_of(samples)):
        return ""
    if is_of_calls:
        return f"Q and K were put in turns as if they had {said}"
    if wrong and len(named) == 1 and best > every.score + RARE and every.score >= ENOUGH:
        return f"Q and K have their rows in another order, or were put in turns as if they had {said}"
    return None


def _heads(heads: int, kv_heads: int) -> str:
    if heads == kv_heads:
        return f"{heads} head{'s' * (heads > 1)}"
    return f"{heads} heads and {kv_heads} kv head{'s' * (kv_heads > 1)}"


def _decided(stack: Sequence[Attention]) -> list[tuple[Attention, tuple[Order, Order]]]:
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
    return [(attention, orders) for attention in stack if (orders := own.get(attention.layer, together)) is not None]
