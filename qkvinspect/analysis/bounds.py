"""Bounds on attention logits for any input, from the norms before Q and K and the scale.

The logit of two tokens is scale * q.k. What a LayerNorm or RMSNorm without gain puts out has a length of at most
sqrt(embed_dim); its gain, where it is known to stand before the projections, goes into the matrices. Where Q and K
are normalised themselves (QK norm), their own gains alone bound the logit. Biases of the projections and of input
norms are not in the bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from math import sqrt

import numpy as np

from qkvinspect.analysis.weights import of_vector
from qkvinspect.checkpoint import Config
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.inspection.components import unwrapped
from qkvinspect.inspection.names import Names
from qkvinspect.inspection.report import Attention, Report
from qkvinspect.layouts.logits import Logits, logits_of
from qkvinspect.weights.reading import Array
from qkvinspect.weights.weight import Weight

_BEFORE = ("../input_layernorm", "../attention_norm", "../layer_norm1", "../layernorm_before", "../../layernorm_before")
"""Norms that, under this name, stand before the projections in every library known: Llama's and its descendants';
the first Llama's; CLIP's and SigLIP's; ViT's. ``norm1`` and ``ln_1`` stand before or after, and tell nothing."""

_BEFORE_OF_LLAMA_CPP = ("attn_norm_2", "attn_norm")
"""In GGUF beside the projections, the first where Falcon has one norm for attention and one for the MLP. What Gemma
adds to a gain, its converter has added (conversion/gemma.py)."""

_QUERY = "q_norm|q_layernorm|norm_q|query_norm|attn_q_norm"
_KEY = "k_norm|k_layernorm|norm_k|key_norm|attn_k_norm"


@dataclass(frozen=True, slots=True)
class Bound:
    """What bounds the logits of one module.

    Attributes:
        scale: of q.k, before softmax.
        gain: of the norm before the projections, [embed_dim]; None where none is known.
        most_q, most_k: of each head, the greatest length of a query and a key that were normalised; empty where
            they are not.
        origin: what this rests on, in words.
    """

    scale: float
    origin: str
    gain: Array | None = None
    most_q: tuple[float, ...] = ()
    most_k: tuple[float, ...] = ()


class Bounds:
    """The bounds of a checkpoint's modules."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.names = Names(report.weights)

    def of(self, attention: Attention) -> Bound | str:
        """The bound on a module's logits, or why there is none.

        Raises:
            CheckpointError: the gains cannot be read.
        """
        geometry, layout = attention.heads, attention.layout
        if geometry is None or layout is None:
            return "the number of heads is not known"
        if not layout.logits.softmax:
            return "this attention has no logits"
        path = unwrapped(attention.layer)
        if self.names.find("logit_scale|temperature|scale", path):
            return "the logits have a scale of their own"
        scale, scaled = _scale(attention, self.report.checkpoint.configs)
        query, key = self.names.find(f"{_QUERY}.weight", path), self.names.find(f"{_KEY}.weight", path)
        if (query is None) != (key is None):
            return "only one of Q and K is normalised"
        if query is not None and key is not None:
            offset = self._offset(query, layout.logits)
            if offset is None:
                return f"{query.name} is multiplied by itself or by one more: the config would say"
            lengths: list[tuple[float, ...]] = []
            for name, info, names in (("q", query, _QUERY), ("k", key, _KEY)):
                bias = self.names.find(f"{names}.bias", path)
                longest = _longest(info, bias, offset, geometry.heads(name), geometry.width(name))
                if longest is None:
                    return f"{info.name} is neither as wide as a head nor as all of them"
                lengths.append(longest)
            return Bound(scale, f"{scaled}, {query.name} and {key.name}", None, *lengths)
        of_gguf = layout.rewritten_by == "llama.cpp" and not layout.label  # K of cross-attention has another norm
        for name in (*_BEFORE, *(_BEFORE_OF_LLAMA_CPP if of_gguf else ())):
            info = self.names.find(f"{name}.weight", path)
            if info is not None and info.shape == (attention.embed_dim,):
                offset = self._offset(info, layout.logits)
                if offset is not None:
                    return Bound(scale, f"{scaled}, {info.name}", of_vector(info) + offset)
        return Bound(scale, f"{scaled}, inputs normalised without a gain")

    def _offset(self, info: Weight, usual: Logits) -> float | None:
        """What is added to a stored gain; None where only a config could say."""
        types = {str(config.values.get("model_type", "")) for config in self.report.checkpoint.configs} - {""}
        if types:
            return 1.0 if any(logits_of(one).gain == "one_plus_weight" for one in types) else 0.0
        plain = any(fnmatchcase(info.name, glob) for glob in usual.plain_gain_in)
        return None if usual.gain == "unclear" and not plain else 0.0


def _scale(attention: Attention, configs: Sequence[Config]) -> tuple[float, str]:
    """The factor of q.k and where it comes from."""
    assert attention.heads is not None
    for config in configs:
        values = config.values
        kind = values.get("model_type", values.get("architecture"))
        if not logits_of(kind).scaled:
            return 1.0, f"logits not scaled ({kind})"
        multiplier = f"{kind}.attention.scale"  # as GGUF calls it
        for name, scale in (
            ("query_pre_attn_scalar", _inverse_root),
            ("attention_multiplier", float),
            (multiplier, float),
        ):
            value = values.get(name)
            if isinstance(value, int | float) and value > 0:
                return scale(value), f"logits scaled by {config.origin}:{name}"
    if attention.layout is not None and not attention.layout.logits.scaled:
        return 1.0, f"logits not scaled ({attention.layout.id})"
    return _inverse_root(attention.heads.width("q")), "logits scaled by 1/sqrt(head_dim)"


def _inverse_root(value: float) -> float:
    return 1 / sqrt(value)


def _longest(info: Weight, bias: Weight | None, offset: float, heads: int, width: int) -> tuple[float, ...] | None:
    """The greatest length of each head's vector behind a norm over the head, or over all heads together."""
    gain = of_vector(info) + offset
    added = of_vector(bias) if bias is not None else np.zeros_like(gain)
    if gain.size not in (width, heads * width) or added.size != gain.size:
        return None
    together = info.shape in ((heads * width,), (1, heads * width)) and heads > 1
    length = sqrt(heads * width if together else width)
    rows = np.broadcast_to(np.abs(gain).reshape(-1, width), (heads, width))
    shifts = np.broadcast_to(added.reshape(-1, width), (heads, width))
    most = rows.max(axis=1) * length + np.linalg.norm(shifts, axis=1)
    return tuple(map(float, most))
