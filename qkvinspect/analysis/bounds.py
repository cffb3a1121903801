"""How large attention logits can become, whatever the data: by the norms before Q and K, and the scale.

The logit of two tokens is scale * q.k. What a LayerNorm or RMSNorm without gain puts out has a length of at most
sqrt(embed_dim); its gain, where it is known to stand before the projections, goes into the matrices. Where Q and K
are normalised themselves (QK norm), their own gains alone bound the logit. Biases of the projections and of input
norms are not in the bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt

import numpy as np

from qkvinspect.analysis.weights import of_vector
from qkvinspect.checkpoint import Config
from qkvinspect.inspection.names import Names, unwrapped
from qkvinspect.inspection.report import Attention, Report
from qkvinspect.weights.reading import Array
from qkvinspect.weights.weight import Weight

_NO_SOFTMAX = frozenset({"minimax-lightning", "qwen3-next-gdn", "qwen3_5-gdn", "xlstm", "xlstm-fused", "davit-channel"})
"""Layouts of linear attention and the like: nothing there is a logit."""

_UNSCALED = ("t5", "mt5", "umt5", "longt5", "gpt_neo")
"""Model types whose logits are q.k itself (transformers T5Attention and GPTNeoSelfAttention)."""

_ONE_PLUS = ("gemma", "gemma2", "gemma3", "gemma3_text", "paligemma", "recurrent_gemma", "qwen3_next", "qwen3_5")
"""Model types whose norms multiply by 1 + weight (transformers GemmaRMSNorm and Qwen3NextRMSNorm)."""

_BEFORE = ("../input_layernorm", "../attention_norm", "../layer_norm1", "../layernorm_before", "../../layernorm_before")
"""Norms that, under this name, stand before the projections in every library known: Llama's and its descendants';
the first Llama's; CLIP's and SigLIP's; ViT's. ``norm1`` and ``ln_1`` stand before or after, and tell nothing."""

_QUERY, _KEY = "q_norm|q_layernorm|norm_q|query_norm", "k_norm|k_layernorm|norm_k|key_norm"


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


@dataclass
class Bounds:
    """The bounds of a checkpoint's modules."""

    report: Report
    names: Names = field(init=False)

    def __post_init__(self) -> None:
        self.names = Names(self.report.weights)

    def of(self, attention: Attention) -> Bound | str:
        """What bounds its logits, or why nothing does.

        Raises:
            CheckpointError: the gains cannot be read.
        """
        geometry, layout = attention.heads, attention.layout
        if geometry is None or layout is None:
            return "the number of heads is not known"
        if layout.id in _NO_SOFTMAX:
            return "this attention has no logits"
        path = unwrapped(attention.layer)
        if self.names.find("logit_scale|temperature|scale", path):
            return "the logits have a scale of their own"
        scale, scaled = _scale(attention, self.report.checkpoint.configs)
        query, key = self.names.find(f"{_QUERY}.weight", path), self.names.find(f"{_KEY}.weight", path)
        if (query is None) != (key is None):
            return "only one of Q and K is normalised"
        if query is not None and key is not None:
            offset = self._offset(query, layout.id)
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
        for name in _BEFORE:
            info = self.names.find(f"{name}.weight", path)
            if info is not None and info.shape == (attention.embed_dim,):
                offset = self._offset(info, layout.id)
                if offset is not None:
                    return Bound(scale, f"{scaled}, {info.name}", of_vector(info) + offset)
        return Bound(scale, f"{scaled}, inputs normalised without a gain")

    def _offset(self, info: Weight, layout: str) -> float | None:
        """What is added to a stored gain; None where only a config could say."""
        types = {str(config.values.get("model_type", "")) for config in self.report.checkpoint.configs} - {""}
        if types:
            return 1.0 if not types.isdisjoint(_ONE_PLUS) else 0.0
        return None if layout in ("qkv-proj", "phi3", "qwen3-next") and "clip" not in info.name else 0.0


def _scale(attention: Attention, configs: Sequence[Config]) -> tuple[float, str]:
    """The factor of q.k and where it comes from."""
    assert attention.heads is not None
    for config in configs:
        values = config.values
        if values.get("model_type") in _UNSCALED:
            return 1.0, f"logits not scaled ({values['model_type']})"
        for name, scale in (("query_pre_attn_scalar", _inverse_root), ("attention_multiplier", float)):
            value = values.get(name)
            if isinstance(value, int | float) and value > 0:
                return scale(value), f"logits scaled by {config.origin}:{name}"
    if attention.layout is not None and attention.layout.id == "t5":
        return 1.0, "logits not scaled (t5)"
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
