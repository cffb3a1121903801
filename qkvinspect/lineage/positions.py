"""Which rotations inside a head change no output: that hangs on how a model tells positions apart.

Without anything between the projections and their product any rotation of Q and K together does. A rotary embedding
turns pairs of rows by angles that grow with the position: only rotations of those pairs commute with it. What comes
per head (ALiBi's slopes, relative biases) forbids even another order of heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from qkvinspect.errors import UsageError
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.inspection.report import Attention, Report
from qkvinspect.parsed import is_mapping

Kind = Literal["none", "halves", "neighbours"]

HALVES: Mapping[str, float | int] = {
    **dict.fromkeys((
        "gemma", "gemma2", "granite", "llama", "mistral", "mixtral", "olmo", "olmo2", "phi3", "qwen2", "qwen2_moe",
        "qwen3", "qwen3_moe", "smollm3", "starcoder2",
    ), 1.0),
    "gpt_neox": 0.25, "nemotron": 0.5, "persimmon": 0.5, "phi": 0.5, "stablelm": 0.25,
}  # fmt: skip
NEIGHBOURS: Mapping[str, float | int] = {
    "codegen": 64, "cohere": 1.0, "cohere2": 1.0, "ernie4_5": 1.0, "glm": 0.5, "glm4": 0.5, "gptj": 64, "helium": 1.0,
}  # fmt: skip
"""Model types of transformers whose code turns halves or neighbours of the first rows of a head: a share of the rows,
or their number, where the config does not say it. tests/lineage/test_positions.py asks transformers. A type that is in
no table is not guessed at: that a config names a rotary embedding does not tell which rows it turns together."""
ABSOLUTE = frozenset({
    "albert", "bart", "bert", "blenderbot", "camembert", "clip", "clip_text_model", "clip_vision_model", "deit",
    "distilbert", "electra", "gpt2", "gpt_neo", "gpt_bigcode", "mbart", "opt", "openai-gpt", "pegasus", "roberta",
    "siglip", "vit", "vit_mae", "whisper", "xglm", "xlm-roberta",
})  # fmt: skip
"""Model types of transformers that add positions to the embedding and to nothing else."""
_BUFFERS = ("rotary_emb.inv_freq", "masked_bias", "bias", "position_ids", "scale")


@dataclass(frozen=True, slots=True)
class Positions:
    """What a rotation inside a head of Q and K has to leave alone.

    Attributes:
        kind: ``none``: nothing; else which rows a rotary embedding turns together.
        rotary_dim: how many rows of a head it turns, the first ones; 0: all.
    """

    kind: Kind
    rotary_dim: int = 0

    def pairs(self, width: int) -> list[tuple[int, int]]:
        """The rows of a head that are turned together."""
        if self.kind == "none":
            return []
        turned = min(self.rotary_dim or width, width)
        half = turned // 2
        if self.kind == "halves":
            return [(row, row + half) for row in range(half)]
        return [(row, row + 1) for row in range(0, 2 * half, 2)]


def positions(report: Report, attention: Attention, flag: str | None = None) -> Positions:
    """What a layer allows, from what the user says, its layout and the model's config.

    Raises:
        UsageError: it is not known, or no head can be moved at all.
    """
    forbidden = next(_forbidden(report, attention), "")
    if forbidden:
        raise UsageError(f"heads of layer {attention.layer!r} cannot change places or basis: {forbidden}",
                         file=report.checkpoint.path, hint="leave it out with --layer")  # fmt: skip
    found = _said(flag) or _known(report, attention)
    if found is None:
        raise UsageError(
            f"how layer {attention.layer!r} tells positions apart is not known, which limits rotations inside heads",
            file=report.checkpoint.path,
            hint="--rotary none, halves or neighbours says it (halves:32 where only the first 32 rows are turned), if"
            " no head has a bias of its own for positions, as with ALiBi and in T5",
        )
    return found


def _said(flag: str | None) -> Positions | None:
    if flag is None:
        return None
    word, colon, dim = flag.partition(":")
    kinds: tuple[Kind, ...] = ("none", "halves", "neighbours")
    kind: Kind | None = next((one for one in kinds if one == word), None)
    if kind is None or (colon and (not dim.isdecimal() or int(dim) % 2 or not int(dim) or kind == "none")):
        raise UsageError(
            "--rotary does not say which rows are turned together",
            expected="none, halves, neighbours, or halves:32",
            found=repr(flag),
        )
    return Positions(kind, int(dim) if dim else 0)


def _known(report: Report, attention: Attention) -> Positions | None:
    layout, geometry = attention.layout, attention.heads
    if layout is None or geometry is None:
        return None
    if layout.nn_multihead:
        return Positions("none")
    config = _config(report)
    model = str(config.get("model_type"))
    kind: Kind | None = layout.rotary or (
        "halves" if model in HALVES else "neighbours" if model in NEIGHBOURS else None
    )
    if kind is not None:
        usual = HALVES.get(model, NEIGHBOURS.get(model, 1.0))
        dim = _rotary_dim(config, geometry.width("q"), usual)
        return None if dim is None else Positions(kind, dim)
    if model in ABSOLUTE and config.get("position_embedding_type") in (None, "absolute"):
        return Positions("none")
    return None


def _rotary_dim(config: Mapping[str, object], width: int, usual: float) -> int | None:
    """How many rows of a head are turned, at least two; None where the config says what cannot be."""
    share: object = usual
    if config.get("rotary_dim") is not None or isinstance(usual, int):
        dim = config.get("rotary_dim", usual)
        if dim is not None:
            return dim if isinstance(dim, int) and dim is not True and _can_be(dim, width) else None
        share = 1.0
    for said in (config, config.get("rope_scaling"), config.get("rope_parameters")):
        if is_mapping(said):
            share = next((said[key] for key in _SHARES if said.get(key) is not None), share)
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        return None
    return dim if _can_be(dim := int(width * share), width) else None


def _can_be(dim: int, width: int) -> bool:
    return 2 <= dim <= width and dim % 2 == 0


_SHARES = ("partial_rotary_factor", "rotary_pct")


def _forbidden(report: Report, attention: Attention) -> Iterator[str]:
    """Why heads must stay as they are."""
    layout, config = attention.layout, _config(report)
    if layout is None or attention.heads is None or attention.output is None:
        yield "its layout, its heads or its output projection is not known"
        return
    orders = {part for stored in layout.weights for part in stored.packing.order}
    if orders & {"kv", "qk"}:
        yield "one projection stands for two parts"
    if orders & {"gate", "vgate"} or any(part.name != "mlp" for part in attention.others):
        yield "it holds a gate for each head"
    nested = config.get("attn_config")
    attn: Mapping[str, object] = nested if is_mapping(nested) else {}
    how = str(config.get("position_embedding_type") or "").lower()
    model = config.get("model_type")
    if config.get("alibi") or attn.get("alibi") or model in _SLOPES or "alibi" in how:
        yield "each head has a slope of its own (ALiBi)"
    if model in _BIASES or how.startswith("relative"):
        yield "each head has a bias of its own for how far two positions are apart"
    shared = next((name for name in report.checkpoint.tensors if any(word in name for word in _BIAS_WORDS)), None)
    if shared is not None:
        yield f"{shared} may hold a bias for each head"
    if config.get("clip_qkv") or attn.get("clip_qkv"):
        yield "Q, K and V are clipped (clip_qkv)"
    held = (*attention.weights, *attention.biases, attention.out, attention.out_bias)
    known = {info.name for weight in held if weight is not None for info in weight.stored}
    for name in report.checkpoint.tensors:
        rest = name.removeprefix(f"{attention.layer}.")
        if rest != name and name not in known and rest not in _BUFFERS:
            yield f"what {name} does there is not known to allow it"
            return


_SLOPES = frozenset({"baichuan", "bloom"})
_BIASES = frozenset({"mpnet", "mt5", "longt5", "pop2piano", "switch_transformers", "t5", "udop", "umt5"})
"""Models whose code adds a number for each head to the scores; of Baichuan the larger does."""

_BIAS_WORDS = ("relative_attention_bias", "relative_position", "position_bias", "rel_pos", "rpe.")
"""Tensors of such numbers, which may lie outside of the modules that use them, one for all layers."""


def _config(report: Report) -> Mapping[str, object]:
    """The settings of the model's config files together, the most trusted last."""
    found: dict[str, object] = {}
    for config in reversed(report.checkpoint.configs):
        found |= dict(config.values)
    return found
