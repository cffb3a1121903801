"""What analysis finds of each head, as plain dataclasses, and its form as JSON."""

from __future__ import annotations

from math import sqrt

from qkvinspect.errors import clean
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.inspection.json_values import number


@dataclass(frozen=True, slots=True)
class Spectrum:
    """The spectrum of a matrix, in figures of its singular values s.

    Attributes:
        largest: the spectral norm.
        stable_rank: sum of s^2 over the largest s^2; 0 for a matrix of zeros.
        effective_rank: exp of the entropy of s / sum(s) (Roy and Vetterli 2007); 0 for a matrix of zeros; None where
            only the largest were computed.
    """

    largest: float
    stable_rank: float
    effective_rank: float | None = None

    @property
    def norm(self) -> float:
        """The Frobenius norm."""
        return self.largest * sqrt(self.stable_rank)


@dataclass(frozen=True, slots=True)
class Similar:
    """The head of the same layer whose circuit is most like this one's.

    Attributes:
        cosine: of the angle between the two circuits as vectors, -1 to 1; the greatest in size.
    """

    head: int
    cosine: float


@dataclass(frozen=True, slots=True)
class HeadFigures:
    """The figures of one query head and the key and value head that it uses; None for those that are not known.

    Attributes:
        qk, ov: of the circuits W_Q^T W_K and W_O W_V.
        symmetric: the share of the QK circuit's squared Frobenius norm that lies in its symmetric part: 1 if
            attention does not depend on who asks whom, 0 if it changes sign, 0.5 for unrelated Q and K.
        logit_bound: the greatest attention logit, before softmax, that inputs can reach; see ``Bound``.
        similar_qk, similar_ov: the head with the most similar circuit.
    """

    head: int
    kv_head: int
    q: Spectrum | None = None
    k: Spectrum | None = None
    v: Spectrum | None = None
    qk: Spectrum | None = None
    ov: Spectrum | None = None
    symmetric: float | None = None
    logit_bound: float | None = None
    similar_qk: Similar | None = None
    similar_ov: Similar | None = None


@dataclass(frozen=True, slots=True)
class LayerFigures:
    """The figures of one attention module.

    >>> import qkvinspect
    >>> first, second = qkvinspect.analyze("sample_checkpoints/trained.safetensors", heads=4)
    >>> second, round(second.heads[1].qk.largest, 3), round(second.part("q").norm, 3)
    (<LayerFigures 'encoder.layers.1.self_attn': 4 heads>, 3.624, 7.535)

    Attributes:
        parts: of each of Q, K and V as a whole.
        bound_from: what the bound on the logits rests on, in words.
        why: why there are no figures, or, where there are heads, not all; "" where there are.
    """

    layer: str
    heads: tuple[HeadFigures, ...] = ()
    parts: tuple[tuple[str, Spectrum], ...] = ()
    bound_from: str = ""
    why: str = ""

    def __repr__(self) -> str:
        return clean(f"<LayerFigures {self.layer!r}: {self.why or f'{len(self.heads)} heads'}>")

    @property
    def missing(self) -> str:
        """How much there is no figure of: "no figures", "not all figures", or "" where there is nothing missing."""
        return ("not all figures" if self.heads else "no figures") if self.why else ""

    def part(self, name: str) -> Spectrum | None:
        return dict(self.parts).get(name)

    def to_dict(self) -> dict[str, object]:
        """Its form in the JSON contract: see analysis.schema.json."""
        return {
            "layer": self.layer,
            "parts": {name: _plain(spectrum) for name, spectrum in self.parts},
            "heads": [_plain(head) for head in self.heads],
            "logit_bound_from": self.bound_from,
            "why_not": self.why or None,
        }


def _plain(value: object) -> object:
    if isinstance(value, Spectrum | Similar | HeadFigures):
        return {name: _plain(getattr(value, name)) for name in value.__match_args__}
    return number(value) if isinstance(value, float) else value
