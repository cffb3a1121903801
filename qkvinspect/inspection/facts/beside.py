"""Tensors beside the projections whose own size is a number of heads, or the width of one, by what libraries call them.

Rows of the registry name those of their own layouts; these stand beside projections that many layouts share.
Sources: x_transformers/attend.py and x_transformers.py; vit_pytorch/cait.py, levit.py, simple_vit_with_qk_norm.py;
performer_pytorch.py, torch_geometric/nn/attention/performer.py; boltz/model/layers/attention.py and
triangular_attention/attention.py; coqui-tts TTS/tts/layers/delightful_tts/conformer.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.inspection.facts.fact import HeadFact, is_count
from qkvinspect.inspection.facts.module import HeadedModule


class SizedTensor(NamedTuple):
    """A tensor whose size fixes the heads.

    Attributes:
        key: its name below the attention module, ``../`` one module up.
        axes: how many it has, so that another tensor of the name is not taken for it.
        axis: the one that tells; what it fixes.
        where: a word that must stand in the module's name; "" for any.
        together: the name of another tensor that must be there; "" for none.
    """

    key: str
    axes: int
    axis: int
    fixes: Literal["num_heads", "head_dim"]
    where: str = ""
    together: str = ""


_TENSORS = (
    SizedTensor("attend.pre_softmax_talking_heads.weight", 4, 0, "num_heads"),
    SizedTensor("attend.post_softmax_talking_heads.weight", 4, 0, "num_heads"),
    SizedTensor("head_scale_params", 4, 1, "num_heads"),
    SizedTensor("qk_norm_q_scale", 3, 0, "num_heads"),
    SizedTensor("mem_k", 3, 2, "head_dim", together="mem_v"),
    SizedTensor("mix_heads_pre_attn", 2, 0, "num_heads"),
    SizedTensor("q_norm.gamma", 3, 0, "num_heads"),
    SizedTensor("pos_bias.weight", 2, 1, "num_heads", together="pos_indices"),
    SizedTensor("fast_attention|fast_attn.projection_matrix", 2, 1, "head_dim"),
    SizedTensor("u_bias", 2, 0, "num_heads", together="v_bias"),
    SizedTensor("proj_z.1.weight", 2, 0, "num_heads"),
    SizedTensor("../linear.weight", 2, 0, "num_heads", where="tri_att"),
)


def facts(module: HeadedModule) -> Iterator[HeadFact]:
    """What the tensors beside a module's projections fix."""
    path, rows = module.candidate.path, module.candidate.first_size
    for tensor in _TENSORS:
        info = module.names.find(tensor.key, path)
        if info is None or len(info.shape) != tensor.axes or tensor.where not in module.layer:
            continue
        size, origin = info.shape[tensor.axis], f"tensor:{info.name}"
        if not is_count(size) or (tensor.together and module.names.find(tensor.together, path) is None):
            continue
        if tensor.fixes == "num_heads":
            yield HeadFact(origin, size)
        elif size < rows:
            yield HeadFact(origin, head_dim=size)
