"""Find the module of a model that an adapter's module means, whatever prefix or separators its name has."""

from __future__ import annotations

from collections.abc import Iterable

from qkvinspect.late_pattern import late_pattern

_TAGS = late_pattern(r"^(?:lora|lycoris)_(unet|transformer|te\d?|prior_unet|prior_te)_(.+)$")

_PREFIXES = ("base_model.model.", "diffusion_model.", "unet.", "transformer.", "model.")
"""Prefixes that tools put before the model's own names."""

_TEXT = """
    down_blocks up_blocks mid_block input_blocks output_blocks middle_block transformer_blocks
    single_transformer_blocks double_blocks single_blocks joint_blocks context_block x_block img_attn txt_attn
    img_mod txt_mod img_mlp txt_mlp self_attn cross_attn encoder_attn q_proj k_proj v_proj out_proj o_proj to_q to_k
    to_v to_out to_add_out add_q_proj add_k_proj add_v_proj to_qkv qkv_proj in_proj proj_in proj_out text_model
    text_projection linear_1 linear_2 img_in txt_in time_in vector_in guidance_in final_layer in_layer out_layer
    time_embed label_emb time_embedding add_embedding emb_layers in_layers out_layers skip_connection conv_in
    conv_out conv_shortcut time_emb_proj adaLN_modulation noise_refiner context_refiner
"""
_WORDS = tuple(_TEXT.split())
"""Components of names with ``_`` in them, as the models have them that sd-scripts trains."""

_MOST_PARTS = 64


def dotted(module: str) -> str:
    """A module's name with dots, where kohya has ``_`` for them: ``unet.double_blocks.0.img_attn.qkv``.

    The tag of the model (unet, te) becomes the first component. Components that have a ``_`` of their own are known
    by a list; all others end at the next ``_``.
    """
    match = _TAGS.match(module)
    return f"{match[1]}.{'.'.join(_parts(match[2]))}" if match else module


def _parts(text: str) -> Iterable[str]:
    while text:
        fitting = [word for word in _WORDS if text == word or text.startswith(f"{word}_")]
        word = max(fitting, key=len, default="") or text.partition("_")[0] or text
        yield word
        text = text[len(word) + 1 :]


class ModuleNames:
    """The modules of a model by every ending of their names."""

    def __init__(self, modules: Iterable[str]) -> None:
        self._by_end: dict[str, str | None] = {}
        self._flat: dict[str, str | None] = {}
        self._exact: set[str] = set()
        for module in modules:
            self._exact.add(module)
            parts = module.split(".")
            for first in range(max(len(parts) - _MOST_PARTS, 0), len(parts)):
                end = ".".join(parts[first:])
                self._by_end[end] = module if end not in self._by_end else None
                flat = end.replace(".", "_")
                self._flat[flat] = module if self._flat.get(flat, module) == module else None

    def find(self, module: str) -> str | None:
        """The module that an adapter calls so; None where there is none, or more than one."""
        if match := _TAGS.match(module):
            return self._flat.get(match[2])
        name = module.replace(".base_layer.", ".")
        for prefix in ("", *_PREFIXES):
            name = name.removeprefix(prefix)
            if name in self._exact:
                return name
        found = self._by_end.get(name)
        parts = name.split(".")
        for first in range(1, min(len(parts) - 1, _MOST_PARTS)):
            if found is not None:
                break
            end = ".".join(parts[first:])
            found = end if end in self._exact else None
        return found
