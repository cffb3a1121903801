"""The registry of layouts: every known way to store attention. A new family is one module here and one line below."""

from collections.abc import Iterable

from qkvinspect.errors import UsageError, did_you_mean
from qkvinspect.layouts import (
    c_attn,
    convolutions,
    decoders,
    diffusion,
    encoders,
    llama_cpp,
    llama_cpp_vision,
    mobile,
    onnxruntime,
    other_attention,
    query_key_value,
    repositories,
    separate,
    speech,
    streams,
    torch,
    vision,
)
from qkvinspect.layouts.layout import HeadTensor, Layout, StoredWeight
from qkvinspect.layouts.nearest import nearest

LAYOUTS: tuple[Layout, ...] = (
    *torch.LAYOUTS,
    *separate.LAYOUTS,
    *c_attn.LAYOUTS,
    *decoders.LAYOUTS,
    *query_key_value.LAYOUTS,
    *encoders.LAYOUTS,
    *vision.LAYOUTS,
    *diffusion.LAYOUTS,
    *other_attention.LAYOUTS,
    *llama_cpp_vision.LAYOUTS,
    *llama_cpp.LAYOUTS,
    *onnxruntime.LAYOUTS,
    *speech.LAYOUTS,
    *convolutions.LAYOUTS,
    *streams.LAYOUTS,
    *repositories.LAYOUTS,
    *mobile.LAYOUTS,
)
"""All rows. Where two fit equally well and store the same things, the earlier one is taken."""

_BY_ID = {layout.id: layout for layout in LAYOUTS}


def by_id(id: str) -> Layout:
    """The row of that name.

    Raises:
        UsageError: there is none.
    """
    require_known([id], LAYOUTS)
    return _BY_ID[id]


def require_known(ids: Iterable[str], layouts: Iterable[Layout]) -> None:
    """Refuse ids that no layout has; those of patterns (``pattern-per-head``) are made as they are found.

    Raises:
        UsageError: there is one.
    """
    rows = list(layouts)
    known = {layout.id for layout in rows}
    for id in ids:
        if id not in known and id.partition("-")[0] != "pattern":
            hint = did_you_mean(nearest(id, rows)) or "`qkvinspect layouts` lists them all, but for those of patterns"
            raise UsageError(f"there is no layout {id!r}", hint=hint)


__all__ = ["LAYOUTS", "HeadTensor", "Layout", "StoredWeight", "by_id", "require_known"]
