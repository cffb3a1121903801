"""Find the two factors of each adapted module, under the names that each tool gives them.

========== ====================================================== =======================================
PEFT       ``base_model.model.M.lora_A.weight``, in a model with   PEFT 0.21, utils/save_and_load.py
           the name of an adapter: ``M.lora_A.default.weight``;
           of an embedding ``M.lora_embedding_A``                 tuners/lora/layer.py, Embedding
loralib    ``M.lora_A``, ``M.lora_B``                              loralib 0.1.2, layers.py
kohya      ``lora_unet_M.lora_down.weight`` with ``_`` for dots,   sd-scripts, networks/lora.py
           ``lora_up``, ``alpha``; ComfyUI keeps the dots
diffusers  ``M.lora.down.weight``; ``P.processor.to_q_lora.down``  diffusers 0.42, loaders/
XLabs      ``B.processor.qkv_lora1.down.weight``                   the same, lora_conversion_utils.py
torchtune  ``M.lora_a.weight``, ``M.lora_b.weight``                torchtune 0.6, modules/peft/lora.py
MLX        ``M.lora_a`` [in, r], ``M.lora_b`` [r, out]             mlx-lm 0.29, tuner/lora.py
========== ====================================================== =======================================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from qkvinspect.checkpoint import TensorInfo
from qkvinspect.fast_dataclass import dataclass, replace
from qkvinspect.late_pattern import late_pattern

Tool = Literal["peft", "loralib", "kohya", "diffusers", "mlx"]
"""The tool whose names they are, which tells the scale where none is stored."""

_PEFT = late_pattern(r"^(.+)\.lora_([AB])(?:\.(?!weight$|bias$)([^.]+))?(\.weight|\.bias)?$")
_EMBEDDING = late_pattern(r"^(.+)\.lora_embedding_([AB])(?:\.([^.]+))?$")
_LOWER = late_pattern(r"^(.+)\.lora_([ab])(\.weight)?$")
_MAGNITUDE = late_pattern(r"^(.+)\.lora_magnitude_vector(?:\.(?!weight$)([^.]+))?(?:\.weight)?$")
_DOWN_UP = late_pattern(r"^(.+)\.(lora|lora_linear_layer)[._](down|up)\.weight$")
_PROCESSOR = late_pattern(r"^(.+)\.processor\.((?:to|add|qkv|proj)\w{0,16}?)_lora([12]?)\.(down|up)\.weight$")
_BESIDE = late_pattern(r"^(.+)\.(alpha|dora_scale|lora_mid\.weight|m)$")
_ROLES = {"alpha": "alpha", "dora_scale": "magnitude"}

_STREAMS = {"1": "img_attn", "2": "txt_attn"}
_SINGLE = {"qkv": "linear1", "proj": "linear2"}
_MISPLACED = {"to_out": "to_out.0"}


@dataclass(frozen=True, slots=True)
class Factors:
    """What belongs to one adapted module.

    Attributes:
        module: its name, as the file has it; of kohya's with ``_`` for the dots.
        adapter: the name of the adapter where a model holds several; "" where the file is one.
        down, up: A and B; None where they are missing.
        alpha: kohya's, a tensor of one number.
        magnitude: DoRA's lengths, PEFT's lora_magnitude_vector or LyCORIS' dora_scale.
        strange: names of tensors that change the product in ways that are not decoded.
        of_embedding: whether the weight is an embedding's [tokens, width], and B @ A its transpose.
        first_rows: whether the weight may have more rows, which nothing is added to: XLabs adds to Q, K and V of a
            weight that holds an MLP too.
    """

    module: str
    adapter: str
    tool: Tool
    down: TensorInfo | None = None
    up: TensorInfo | None = None
    alpha: TensorInfo | None = None
    magnitude: TensorInfo | None = None
    strange: tuple[str, ...] = ()
    of_embedding: bool = False
    first_rows: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Of all tensors that belong to it."""
        held = (self.down, self.up, self.alpha, self.magnitude)
        return (*(info.name for info in held if info is not None), *self.strange)


def factors_of(tensors: Mapping[str, TensorInfo]) -> list[Factors]:
    """Every adapted module, in the order of the file; nothing is read."""
    found: dict[tuple[str, str], Factors] = {}
    beside: list[tuple[str, str, TensorInfo]] = []
    for name, info in tensors.items():
        if "lora" not in name and not name.endswith((".alpha", ".dora_scale", ".m")):
            continue
        told = _told(name)
        if told is None:
            if match := _BESIDE.match(name):
                beside.append((match[1], match[2], info))
            continue
        module, adapter, role, tool = told
        part = tool == "diffusers" and ".processor.qkv_lora." in name
        one = found.get((module, adapter)) or Factors(module, adapter, tool, first_rows=part)
        if _EMBEDDING.match(name):
            one = replace(one, of_embedding=True)
        found[module, adapter] = _with(one, role, _turned(info) if tool == "mlx" or one.of_embedding else info)
    for module, kind, info in beside:
        if (module, "") in found:
            one = found[module, ""]
            found[module, ""] = _with(one, _ROLES.get(kind, "strange"), info)
    return [one for one in found.values() if one.down is not None or one.up is not None]


def _told(name: str) -> tuple[str, str, str, Tool] | None:
    """(module, adapter, role, tool) of a tensor; None where it is no factor."""
    if match := _PEFT.match(name):
        role = "strange" if match[4] == ".bias" else "down" if match[2] == "A" else "up"
        return match[1], match[3] or "", role, "peft" if match[4] or match[3] else "loralib"
    if match := _EMBEDDING.match(name):
        return match[1], match[3] or "", "up" if match[2] == "A" else "down", "peft"
    if match := _LOWER.match(name):
        return match[1], "", "down" if match[2] == "a" else "up", "loralib" if match[3] else "mlx"
    if match := _DOWN_UP.match(name):
        tool: Tool = "kohya" if f".{match[2]}_{match[3]}." in name else "diffusers"
        return match[1], "", match[3], tool
    if match := _PROCESSOR.match(name):
        return f"{match[1]}.{_processed(match[2], match[3])}", "", match[4], "diffusers"
    if match := _MAGNITUDE.match(name):
        return match[1], match[2] or "", "magnitude", "peft"
    return None


def _turned(info: TensorInfo) -> TensorInfo:
    """A matrix seen with its axes changed."""
    return replace(info, shape=info.shape[::-1], strides=info.strides[::-1])


def _processed(what: str, stream: str) -> str:
    """The module that an attention processor's factors add to."""
    if stream:
        return f"{_STREAMS[stream]}.{what}"
    return _SINGLE.get(what) or _MISPLACED.get(what, what)


def _with(one: Factors, role: str, info: TensorInfo) -> Factors:
    match role:
        case "down":
            return replace(one, down=info)
        case "up":
            return replace(one, up=info)
        case "magnitude":
            return replace(one, magnitude=info)
        case "alpha":
            return replace(one, alpha=info)
        case _:
            return replace(one, strange=(*one.strange, info.name))
