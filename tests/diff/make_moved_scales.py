"""Writes ``moved_scales/``: a trained layer whose scales AutoAWQ's own functions move before it packs the weights.

``python make_moved_scales.py PATH`` with autoawq 0.2.9 and transformers 5.0.0; PATH is the state_dict of SCEPTR (as in
``weights/encodings/make_models.py``). ``original`` holds one layer with the norms before it, under the names of Llama;
``awq`` what AutoAWQ makes of it, ``smooth`` the same without codes, ``gemma`` with norms that multiply by 1 + weight,
``original-gemma`` these before.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from awq.modules.linear.gemm import WQLinear_GEMM
from awq.quantize.scale import scale_fc_fc, scale_ln_fcs
from safetensors.torch import save_file
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm

FOLDER = Path(__file__).parent / "moved_scales"
LAYER = "model.layers.0"


def modules(path: str, gemma: bool) -> dict[str, torch.nn.Module]:
    state = torch.load(path, map_location="cpu", weights_only=True)
    first = next(key.removesuffix(".self_attn.in_proj_weight") for key in state if key.endswith("in_proj_weight"))
    found: dict[str, torch.nn.Module] = {}
    weights = dict(zip("qkv", state[f"{first}.self_attn.in_proj_weight"].chunk(3), strict=True))
    for part, weight in {**weights, "o": state[f"{first}.self_attn.out_proj.weight"]}.items():
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        linear.weight.data = weight.clone()
        found[f"self_attn.{part}_proj"] = linear
    norm = GemmaRMSNorm(64) if gemma else torch.nn.LayerNorm(64)
    norm.weight.data = state[f"{first}.norm1.weight"].clone() - (1 if gemma else 0)
    return {**found, "input_layernorm": norm}


def state_of(found: dict[str, torch.nn.Module]) -> dict[str, torch.Tensor]:
    return {
        f"{LAYER}.{name}.{key}": value.detach().clone().contiguous()
        for name, module in found.items()
        for key, value in module.state_dict().items()
    }


@torch.no_grad()
def moved(found: dict[str, torch.nn.Module]) -> None:
    generator = torch.Generator().manual_seed(5)
    attention = [found[f"self_attn.{part}_proj"] for part in "qkv"]
    scale_ln_fcs(found["input_layernorm"], attention, torch.exp(torch.randn(64, generator=generator) * 0.7))
    scale_fc_fc(attention[2], found["self_attn.o_proj"], torch.exp(torch.randn(64, generator=generator) * 0.5))


def packed(linear: torch.nn.Linear) -> torch.nn.Module:
    weight, group = linear.weight.data, 32
    grouped = weight.reshape(len(weight), -1, group)
    low, high = grouped.amin(2).clamp(max=0), grouped.amax(2).clamp(min=1e-4)
    scales = ((high - low) / 15).half().float()
    zeros = torch.round(-low / scales).clamp(0, 15)
    codes = ((grouped / scales[..., None]).round() + zeros[..., None]).clamp(0, 15)
    rounded = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    rounded.weight.data = ((codes - zeros[..., None]) * scales[..., None]).reshape(weight.shape)
    return WQLinear_GEMM.from_linear(rounded, 4, group, scales=scales.T.contiguous(), zeros=zeros.T.contiguous())


def main(path: str) -> None:
    FOLDER.mkdir(exist_ok=True)
    for gemma in (False, True):
        found, end = modules(path, gemma), "-gemma" if gemma else ""
        save_file(state_of(found), FOLDER / f"original{end}.safetensors")
        moved(found)
        if gemma:
            save_file(state_of(found), FOLDER / "gemma.safetensors")
            continue
        save_file(state_of(found), FOLDER / "smooth.safetensors")
        codes = {name: packed(one) if isinstance(one, torch.nn.Linear) else one for name, one in found.items()}
        save_file(state_of(codes), FOLDER / "awq.safetensors")


if __name__ == "__main__":
    main(sys.argv[1])
