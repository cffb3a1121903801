"""What a case of the proof is, and the libraries' own ways of saving a checkpoint."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

State = dict[str, Tensor]
Config = dict[str, Any] | None
Save = Callable[[nn.Module], tuple[State, Config]]


@dataclass(frozen=True)
class Case:
    """One module of a real library.

    Attributes:
        id: the layout, as in the table of layouts; a suffix after "." tells cases of one layout apart.
        library: its distribution on PyPI.
        build: makes the module; parameters are re-initialised afterwards.
        forward: runs it in a way that reaches the attention under test.
        tensors: names, in the module's state_dict, of the projections under test.
        kv_heads, v_head_dim: 0 means as ``heads`` and ``head_dim``.
        q_heads: heads of Q where they are not as ``heads`` says (differential attention).
        wanted: the parts that can be proven.
        heads_flag: pass --heads: neither config nor tensors tell.
        layout_flag: the --layout that names and config leave to the reader.
        config: the config.json of the checkpoint, where the library's save does not write it.
        save: how the library saves; by default state_dict.
        keep: prefixes of stored names to keep, where the whole would be large; all if empty.
        frozen: parameters not re-initialised (their names contain one of these): gains of norms.
        roles: which parts the two operands of the first product are, and the one that follows.
        directions: q and k are normalised over a head's channels: each vector may have its own factor.
        over_tokens: q and k are normalised over the tokens: each row may have its own factor.
        partial: operands hold other channels too (rotary parts of MLA).
        late_biases: biases added after the projection was divided.
        post: applied to the projection's output as a whole, before it is divided.
        single: the library computes part of the way in float32, so values agree less closely.
        dtype: to compute in, where the library cannot do float64 (implies ``single``).
        loads: an older file that the module's own loader rewrites; it is what is saved and matched.
        renamed: names in that file, of ``tensors``.
        note: what else is special, written into truth.json.
    """

    id: str
    library: str
    build: Callable[[], nn.Module]
    forward: Callable[[nn.Module], object]
    tensors: tuple[str, ...]
    heads: int
    head_dim: int
    kv_heads: int = 0
    v_head_dim: int = 0
    q_heads: int = 0
    wanted: str = "qkv"
    heads_flag: bool = False
    layout_flag: str = ""
    config: Mapping[str, Any] | None = None
    save: Save | None = None
    keep: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    roles: str = "qkv"
    directions: bool = False
    over_tokens: bool = False
    partial: bool = False
    late_biases: tuple[str, ...] = ()
    post: Callable[[Tensor], Tensor] | None = None
    single: bool = False
    dtype: torch.dtype = torch.float64
    loads: Callable[[nn.Module], State] | None = None
    renamed: Mapping[str, str] = field(default_factory=dict[str, str])
    note: str = ""


def save_pretrained(module: nn.Module) -> tuple[State, Config]:
    """The files that transformers and diffusers write."""
    with tempfile.TemporaryDirectory() as folder:
        module.save_pretrained(folder)  # pyright: ignore[reportCallIssue]
        config = json.loads(Path(folder, "config.json").read_text())
        (path,) = Path(folder).glob("*.safetensors")
        return load_file(path), config


def save_timm(module: nn.Module) -> tuple[State, Config]:
    """The files that timm puts on the hub; the arguments of create_model are kept as ``model_args``."""
    from timm.models._hub import save_for_hf

    with tempfile.TemporaryDirectory() as folder:
        save_for_hf(module, folder, model_args=getattr(module, "proof_args", None), safe_serialization=True)
        config = json.loads(Path(folder, "config.json").read_text())
        return load_file(Path(folder, "model.safetensors")), config


def save_state(module: nn.Module) -> tuple[State, Config]:
    """state_dict, without a config."""
    state = module.state_dict().items()
    return {name: tensor.detach().clone() for name, tensor in state if isinstance(tensor, Tensor)}, None


def ids(batch: int = 3, length: int = 1, top: int = 12) -> Tensor:
    """Different tokens; length 1 where rotary positions would turn q and k."""
    return (torch.arange(batch * length).reshape(batch, length) * 5 + 1) % top


def image(size: int = 16, batch: int = 1, channels: int = 3, width: int = 0) -> Tensor:
    return torch.randn(batch, channels, size, width or size, dtype=torch.float64)


def tokens(width: int, batch: int = 2, length: int = 3) -> Tensor:
    return torch.randn(batch, length, width, dtype=torch.float64)
