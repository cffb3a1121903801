"""What the census knows not to be answered, or not wholly, and why that is left so."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import NamedTuple

from tests.census.judging import Verdict


class Left(NamedTuple):
    """Modules of which something else than ``right`` is said.

    Attributes:
        where: a glob for library, model and module.
        said: what is said of them; ``*`` for several of these words.
        why: why the tensors and the config leave it so.
    """

    where: str
    said: str
    why: str


WITHOUT_CONFIG = (
    "vit-pytorch", "torch", "torchvision", "torchaudio", "torchscale", "torchtune", "espnet", "esm", "monai", "moshi",
    "openai-whisper", "segment-anything", "litgpt", "torch_geometric", "ultralytics", "conformer", "speechbrain",
    "CoLT5-attention", "dinov2", "kornia", "perceiver-pytorch", "pytorchvideo", "swin-transformer-pytorch",
    "x-transformers",
)  # fmt: skip
"""Libraries whose layers are kept without a config."""

LEFT: tuple[Left, ...] = (
    Left(
        "timm/efficientvit_* *.context_module.main",
        "missed",
        "heads of the surroundings (aggreg) are made of the module's own Q, K and V, which are found",
    ),
    Left(
        "transformers/*.indexer",
        "missed",
        "a lightning indexer chooses what is attended to; it has queries and a key, and no values",
    ),
    Left(
        "transformers/fastspeech2_conformer* *.self_attn",
        "wrong-rows",
        "the scores of positions (linear_pos) are seen as a second attention with the same Q and V",
    ),
    Left(
        "transformers/xlnet *.rel_attn",
        "wrong-rows",
        "the scores of positions (r) are seen as a second attention with the same Q and V",
    ),
    Left(
        "transformers/funnel *.attention",
        "wrong-rows",
        "the scores of positions (r_kernel) are seen as a second attention with the same Q and V",
    ),
    Left(
        "transformers/lilt *.attention.self",
        "wrong-rows",
        "the scores of words and of places are added, so that each stream's V is met by both",
    ),
    Left(
        "transformers/*grounding-dino *.fusion_layer.attn",
        "wrong-rows",
        "image and text attend to each other with one product: a truth is one of the two directions",
    ),
    Left(
        "transformers/groupvit* *.assign",
        "wrong-rows",
        "the softmax runs over the groups, as if they were keys: it is an assignment, whose names are the library's",
    ),
    Left(
        "transformers/table-transformer *.decoder.layers.0.self_attn",
        "wrong-rows",
        "its first decoder layer starts from zeros, whose labels reach the products of the next attention",
    ),
    Left(
        "transformers/zaya *.self_attn",
        "missed",
        "Q and K go through one more convolution, which is what is seen; the projections before it are found",
    ),
    Left(
        "transformers/diffllama *.self_attn",
        "wrong-rows",
        "each half of the heads meets half of V, which both halves then share: a truth is one of the two",
    ),
    *(
        Left(
            where, "wrong-rows", "the scores of positions (linear_pos) are seen as a second attention with this Q and V"
        )
        for where in (
            "espnet/RelPositionMultiHeadedAttention *",
            "nemo/RelPositionMultiHeadAttention *",
            "speechbrain/RelPosMHAXL *",
        )
    ),
    *(
        Left(where, "wrong-rows", "features of Q and K are products with random directions, which are seen as scores")
        for where in ("performer-pytorch/Performer *", "torch_geometric/PerformerAttention *")
    ),
    Left(
        "diffusers/AutoencoderDC *.attn",
        "*",
        "its forward joins to_q, to_k and to_v and divides the whole anew, a head's three parts after another's: what "
        "is called to_q holds rows of all three; they are given by their names, with a note",
    ),
    *(
        Left(
            f"diffusers/{model} *.attn1",
            "wrong-rows",
            "linear attention: V, with a row of ones, is multiplied with K before Q; seen with the two exchanged",
        )
        for model in ("SanaTransformer2DModel", "SanaControlNetModel")
    ),
    Left(
        "diffusers/WanAnimate2Transformer3DModel *.cross_attn",
        "wrong-rows",
        "K and V of the image, whose query is that of the text's, which is found",
    ),
    Left("coqui-tts/AttentionBlock *", "undecided", "one tensor, two packings (use_new_attention_order); no config"),
    Left(
        "pytorch-forecasting/InterpretableMultiHeadAttention *",
        "unrecognised",
        "each head has a Q and a K of its own and all share one V: no row has that yet",
    ),
    Left(
        "vit-pytorch/cait.* *",
        "wrong-rows",
        "scores are mixed between heads by a learned matrix, which is seen as their key",
    ),
    *(
        Left(f"{library}/* *", "heads-unknown", "stored without a config, and no tensor fixes the number")
        for library in WITHOUT_CONFIG
    ),
)


ALARMS: tuple[tuple[str, str], ...] = (
    ("transformers/aria multi_modal_projector.cross_attn", "projections before those of nn.MultiheadAttention"),
    ("transformers/* *.linear_attn", "Q, K and V of a gated delta net, which is called attention in its name only"),
    ("transformers/longcat_flash *.self_attn.*", "two in each layer, whose forward was not run"),
    ("transformers/led *.global", "projections for tokens that are marked as global, and none was"),
    ("transformers/longformer *.global", "projections for tokens that are marked as global, and none was"),
    ("transformers/xlstm *.mlstm_layer", "Q, K and V of a matrix memory"),
    ("transformers/zaya *.qkv_proj", "see above"),
    ("performer-pytorch/Performer proj_updater.*", "the same layers once more, under the name of what redraws them"),
    ("torch_geometric/HGTConv *", "its products are computed edge by edge, which the tracer does not follow"),
    ("torch_geometric/TransformerConv *", "its products are computed edge by edge, which the tracer does not follow"),
    ("diffusers/* *.added", "the second stream; alone, its module computes the first"),
    ("diffusers/SanaWMTransformer3DModel *.attn*", "a gated delta net with two streams, whose forward is no product"),
)
"""Globs of what is found where nothing was seen, and what it is."""


def left(verdict: Verdict) -> Left | None:
    """Why it is left so, or None."""
    return next(
        (one for one in LEFT if one.said in (verdict.said, "*") and fnmatchcase(verdict.where, one.where)), None
    )
