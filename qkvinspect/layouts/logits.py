"""How a library computes attention logits from Q and K, which is in its code and in no tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from qkvinspect.fast_dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Logits:
    """What stands between Q, K and the weights of the values.

    Attributes:
        softmax: whether there are logits at all; linear attention and recurrent layers have none.
        scaled: whether they are q.k / sqrt(head_dim), where no config says otherwise; else they are q.k itself.
        plain_gain_in: globs for names of norms whose gain is the stored weight, where it is unclear for others.
        gain: what the norms before the projections, and those of Q and K, multiply by: the weight that is stored,
            or 1 + weight. Unclear where models of both sorts share a layout, so that only a config tells.
    """

    softmax: bool = True
    scaled: bool = True
    gain: Literal["weight", "one_plus_weight", "unclear"] = "weight"
    plain_gain_in: tuple[str, ...] = ()


UNCLEAR_GAIN = Logits(gain="unclear", plain_gain_in=("*clip*",))  # norms of CLIP's towers are LayerNorm
NO_SOFTMAX = Logits(softmax=False)
UNSCALED = Logits(scaled=False)
_ONE_PLUS = Logits(gain="one_plus_weight")
_USUAL = Logits()

_BY_MODEL_TYPE: Mapping[str, Logits] = {
    # transformers T5Attention and GPTNeoSelfAttention; T5 with an encoder only as llama.cpp calls it.
    **dict.fromkeys(("t5", "mt5", "umt5", "longt5", "gpt_neo", "t5encoder"), UNSCALED),
    # transformers GemmaRMSNorm, Qwen3NextRMSNorm and their copies.
    **dict.fromkeys(("gemma", "gemma2", "gemma3", "gemma3_text", "paligemma", "recurrent_gemma"), _ONE_PLUS),
    **dict.fromkeys(("qwen3_next", "qwen3_5"), _ONE_PLUS),
}


def logits_of(model_type: object) -> Logits:
    """What a config's ``model_type`` says; it outranks the layout."""
    return _BY_MODEL_TYPE.get(model_type, _USUAL) if isinstance(model_type, str) else _USUAL
