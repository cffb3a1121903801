"""GGUF of the parts of models that see, which llama.cpp's converters write into files of their own (mmproj)."""

from qkvinspect.fast_dataclass import replace
from qkvinspect.layouts.llama_cpp import ANY, ANY_PACKED, PERMUTED

_SEES = replace(
    ANY,
    id="gguf-vision",
    libraries="llama.cpp: the part of a model that sees, in a file of its own (mmproj)",
    layer="v.blk.#",
    out=("attn_out.weight",),
    head_keys=("clip.vision.attention.head_count",),
    note="as transformers stores them, under other names, but for the projectors that have a row of their own",
)
_SEES_PACKED = replace(
    ANY_PACKED,
    id="gguf-vision-qkv",
    libraries="llama.cpp: the part of a model that sees, where it packs Q, K and V",
    layer="v.blk.#",
    out=("attn_out.weight",),
    head_keys=("clip.vision.attention.head_count",),
)

LAYOUTS = (
    _SEES,
    replace(
        _SEES,
        id="gguf-vision-permuted",
        libraries="llama.cpp from Pixtral and Mistral Small: the part that sees",
        flags={"clip.projector_type": ("pixtral",)},
        needs_config=True,
        paired=("q", "k"),
        source="llama.cpp conversion/llava.py, LlavaVisionModel.modify_tensors",
        note=PERMUTED,
    ),
    _SEES_PACKED,
    replace(
        _SEES_PACKED,
        id="gguf-vision-qkv-quarters",
        libraries="llama.cpp from Kimi K2.5: the part that sees",
        flags={"clip.projector_type": ("kimik25",)},
        needs_config=True,
        by_fours=("q", "k"),
        source="llama.cpp conversion/kimivl.py, KimiK25Model.permute",
        note=(
            "in each head of Q and K the converter took the rows apart by fours: the first two of each four come "
            "before the last two of each"
        ),
    ),
)
