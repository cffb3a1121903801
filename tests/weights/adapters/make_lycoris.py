"""Writes ``data/lycoris_*.safetensors``: weights, their DoRA by LyCORIS' own LoConModule, and what it merges.

Run on a CPU with lycoris-lora 4.1.3, torch 2.13.0: ``python make_lycoris.py``. Under ``adapter.`` and ``merged.`` are
what the module saves under kohya's names and the sums; all else is the base.
"""

from __future__ import annotations

import torch
from lycoris.modules.locon import LoConModule
from make_adapters import DATA
from safetensors.torch import save_file

SHAPES = {"qkv": (48, 16), "proj": (16, 16)}

for kind, by_rows in (("rows", True), ("columns", False)):
    generator = torch.Generator().manual_seed(7)
    stored: dict[str, torch.Tensor] = {}
    for leaf, shape in SHAPES.items():
        linear = torch.nn.Linear(shape[1], shape[0], bias=False)
        linear.weight.data = torch.randn(shape, generator=generator)
        name = f"double_blocks.0.img_attn.{leaf}"
        lora = LoConModule(name, linear, lora_dim=4, alpha=2, weight_decompose=True, wd_on_out=by_rows)
        for factor in (lora.lora_up.weight, lora.lora_down.weight):
            factor.data = torch.randn(factor.shape, generator=generator) / 4
        lora.dora_scale.data *= 1 + torch.randn(lora.dora_scale.shape, generator=generator) / 4
        module = f"lora_unet_{name.replace('.', '_')}"
        stored[f"model.diffusion_model.{name}.weight"] = linear.weight
        for key, value in lora.custom_state_dict().items():
            stored[f"adapter.{module}.{key}"] = torch.as_tensor(value).detach().clone()
        stored[f"merged.model.diffusion_model.{name}.weight"] = lora.get_merged_weight()[0]
    save_file({key: value.detach().contiguous() for key, value in stored.items()}, DATA / f"lycoris_{kind}.safetensors")
