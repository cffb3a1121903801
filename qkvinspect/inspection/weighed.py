"""The facts about a layer's heads side by side, each with how it was judged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from qkvinspect.fast_dataclass import dataclass
from qkvinspect.inspection.facts.fact import HeadFact
from qkvinspect.inspection.solve import Solution

Verdict = Literal["used", "agrees", "says otherwise", "not used"]


@dataclass(frozen=True, slots=True)
class WeighedFact:
    """What one source says about a layer's heads, and how it was judged.

    Attributes:
        source: as in the JSON contract: ``config:config.json:num_attention_heads``.
        says: its numbers in words: ``8 heads, 256 wide``.
        verdict: how it was judged.
        why: the reason, where it was not used, or explains fewer heads than it says; else "".
    """

    source: str
    says: str
    verdict: Verdict
    why: str = ""

    @property
    def outcome(self) -> str:
        """The verdict with its reason."""
        return f"{self.verdict}: {self.why}" if self.why else self.verdict

    def __str__(self) -> str:
        return f"{self.source} says {self.says}: {self.outcome}"

    def to_dict(self) -> dict[str, object]:
        """For the JSON contract."""
        return {"source": self.source, "says": self.says, "verdict": self.verdict, "why": self.why or None}


def weighed(facts: Sequence[HeadFact], solution: Solution) -> Iterator[WeighedFact]:
    """The facts about a layer's heads, the most trusted first, each with how it was judged."""
    rejected = dict(solution.rejected)
    otherwise = {fact for fact, _ in solution.disagreeing}
    used = next((fact for fact in facts if fact == solution.fact and fact not in rejected), None)
    for fact in facts:
        says = _of_heads(fact)
        if fact is used:
            yield WeighedFact(fact.origin, says, "used", solution.explained)
        elif fact in rejected:
            yield WeighedFact(fact.origin, says, "not used", rejected[fact])
        elif fact.elsewhere:
            continue
        elif fact in otherwise:
            yield WeighedFact(fact.origin, says, "says otherwise")
        else:
            yield WeighedFact(fact.origin, says, "agrees" if used else "not used")


def _of_heads(fact: HeadFact) -> str:
    said = [
        f"{number} {what}"
        for number, what in ((fact.num_heads, "heads"), (fact.num_kv_heads, "kv heads"), (fact.embed_dim, "wide"))
        if number
    ]
    said += [f"head_dim {fact.head_dim}"] if fact.head_dim else []
    said += [f"shared by {fact.ranks} ranks"] if fact.ranks else []
    return ", ".join([*said, *([f"{fact.pruned} of them pruned"] if fact.pruned else [])])
