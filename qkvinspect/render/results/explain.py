"""``explain``: which rows of each layer are what and why, in words and in code, and how the proof went."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qkvinspect.explain.explanation import Explanation
from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import AGAINST_WEIGHTS, NOT_ALL
from qkvinspect.inspection.json_values import number
from qkvinspect.inspection.report import Attention, Report
from qkvinspect.render import alike_names, evidence, facts, text
from qkvinspect.render.document import Block, Cell, Chapter, CodeBlock, Document, Glossed, Items, TextLine
from qkvinspect.render.results.show import summary

if TYPE_CHECKING:
    from qkvinspect.explain.verify import Verification

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Explained:
    """One layer.

    Attributes:
        evidence: what the weights say, if that was asked for in full.
        proof: "not asked"; "none" where there is no nn.MultiheadAttention to compare with; or how it went.
    """

    attention: Attention
    explanation: Explanation
    evidence: tuple[Block, ...]
    proof: Verification | str

    @property
    def points(self) -> tuple[tuple[str, str], ...]:
        """All that is said of it, each with its title."""
        terms = (entry for block in self.evidence if isinstance(block, Items) for entry in block.entries)
        weighed = [(term.title, term.text) for term in terms if isinstance(term, Glossed)]
        return (*self.explanation.points, *self.facts, *weighed, *self.proven)

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """The facts about its heads, where there is more to say than that the one there is was used."""
        said = [str(fact) for fact in self.attention.weighed_facts if facts.are_worth_showing(self.attention)]
        return (("Weighed", f"{'; '.join(said)}."),) if said else ()

    @property
    def proven(self) -> tuple[tuple[str, str], ...]:
        """How the proof went, if it was asked for."""
        if isinstance(self.proof, str):
            return (("Verified", "no: this is not nn.MultiheadAttention."),) if self.proof == "none" else ()
        heads = (
            "as above" if self.attention.heads else "1, as their number is unknown: this proves the rows, not the heads"
        )
        said = (
            f"{'yes' if self.proof.agrees else 'NO'}: nn.MultiheadAttention with the stored weights (read by "
            f"{self.proof.reader}) and attention from the split parts differ by at most {self.proof.difference:.1e}, "
            f"where outputs reach {text.number(self.proof.scale)} (float64, random inputs, heads {heads})."
        )
        return (("Verified", said),)


def explained(attention: Attention, explanation: Explanation, proof: Verification | str, *, weighed: bool) -> Explained:
    """One layer; with all that the weights say if ``weighed``."""
    return Explained(attention, explanation, tuple(evidence.blocks(attention)) if weighed else (), proof)


def document(report: Report, layers: Sequence[Explained]) -> Document:
    """Each layer in words."""
    return Document(
        "explain",
        blocks=lambda: _blocks(report, layers),
        records=lambda: _records(layers),
        data=lambda: _data(report, layers),
    )


def _blocks(report: Report, layers: Sequence[Explained]) -> Iterator[Block]:
    yield from summary(report)
    if not report.attentions:
        yield TextLine("No attention was found in it.")
    yield Items(tuple(Glossed("Beware", f"{message}.") for message in _warnings(report)))
    for one, *others in _alike(layers):
        said = (
            _terms(one.explanation.points),
            *((facts.table(one.attention),) if facts.are_worth_showing(one.attention) else ()),
            CodeBlock(one.explanation.code, "Code"),
            *one.evidence,
            _terms(one.proven),
        )
        note = f"  and so are {_named(others)}" if others else ""
        blocks = tuple(block for block in said if block != CodeBlock((), "Code"))
        yield Chapter(text.layer(one.explanation.layer), blocks, note)


def _alike(layers: Sequence[Explained]) -> list[list[Explained]]:
    """Layers of which all that is said is the same, but for the layer's own name; what was measured is of one layer."""
    groups: dict[object, list[Explained]] = {}
    for one in layers:
        layer = one.explanation.layer
        numbers = list(alike_names.NUMBER.finditer(layer))
        place = layer[: numbers[-1].end()] if numbers else ""
        lines = [*(said for point in (*one.explanation.points, *one.facts) for said in point), *one.explanation.code]
        same = tuple(line.replace(place, "*") for line in lines if place)
        is_measured = not place or bool(one.evidence) or not isinstance(one.proof, str)
        groups.setdefault(id(one) if is_measured else (alike_names.stem(layer), same), []).append(one)
    return list(groups.values())


def _named(others: Sequence[Explained]) -> str:
    return ", ".join(map(text.layer, alike_names.together([one.explanation.layer for one in others], few=1)))


def _terms(points: Sequence[tuple[str, str]]) -> Items:
    return Items(tuple(Glossed(title, said) for title, said in points))


def _warnings(report: Report) -> Iterator[str]:
    """Where the weights themselves contradict what is said; where a layer was not found as they cannot be decoded."""
    shown = {attention.layer for attention in report.attentions}
    for finding, message in text.findings(report.findings):
        lost = finding.code is FindingCode.NO_VALUES and finding.layer not in shown
        if lost or finding.code in AGAINST_WEIGHTS | NOT_ALL:
            yield message


def _records(layers: Sequence[Explained]) -> Iterator[Sequence[Cell]]:
    """One a point; the code is one too."""
    yield "layer", "about", "text"
    for one in layers:
        yield from ((one.explanation.layer, title, said) for title, said in one.points)
        yield from ((one.explanation.layer, "Code", line) for line in one.explanation.code)


def _data(report: Report, layers: Sequence[Explained]) -> dict[str, object]:
    """The JSON contract: see explanation.schema.json."""
    checkpoint = report.checkpoint
    return {
        "schema_version": SCHEMA_VERSION,
        "checkpoint": {"path": checkpoint.path, "format": checkpoint.format, "container": checkpoint.container},
        "layers": [
            {
                "layer": one.explanation.layer,
                "points": [{"about": title, "text": said} for title, said in one.points],
                "code": list(one.explanation.code),
                "verified": None if isinstance(one.proof, str) else _proof(one.proof),
            }
            for one in layers
        ],
        "findings": [finding.to_dict() for finding in report.findings],
    }


def _proof(proof: Verification) -> dict[str, object]:
    return {
        "agrees": proof.agrees,
        "difference": number(proof.difference),
        "scale": number(proof.scale),
        "num_heads": proof.num_heads,
        "reader": proof.reader,
    }
