"""diffusers: every model class, as its library's own tests build and call it, or smaller in every size.

The tests are not in the package: a folder ``diffusers_tests`` (the ``tests`` of a checkout) on the path is asked. A
class that they do not have is built of its defaults, and each of its attentions is run on its own.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.census.model import CALLED_ATTENTION, Model
from tests.census.shrinking import smaller

LARGEST = 120_000_000
TRIES = ((8, 1), (4, 1), (2, 1), (1, 1), (1, 0))


NOT_MODELS = frozenset(
    {
        "AutoModel", "CacheMixin", "ModelMixin", "FluxMultiControlNetModel", "HunyuanDiT2DMultiControlNetModel",
        "MultiAdapter", "MultiControlNetModel", "QwenImageMultiControlNetModel", "SD3MultiControlNetModel",
    }
)  # fmt: skip
"""Bases, and models that only hold others."""


_UNET = {"block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8, "cross_attention_dim": 48}
_VAE = {"block_out_channels": (32, 64), "layers_per_block": 1, "latent_channels": 8}
SMALL: dict[str, dict[str, Any]] = {
    "AutoencoderKLAllegro": {"block_out_channels": (16, 32, 64, 64), "layers_per_block": 1, "norm_num_groups": 8},
    "AutoencoderKLHunyuanImage": {
        **_VAE, "in_channels": 3, "out_channels": 3, "spatial_compression_ratio": 2, "sample_size": 32
    },
    "AutoencoderKLHunyuanImageRefiner": {
        **_VAE, "spatial_compression_ratio": 2, "temporal_compression_ratio": 2
    },
    "AutoencoderKLHunyuanVideo15": {**_VAE, "spatial_compression_ratio": 2, "temporal_compression_ratio": 2},
    "AutoencoderKLQwenImage": {"base_dim": 16, "num_res_blocks": 1},
    "ControlNetModel": {
        **_UNET, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "attention_head_dim": 4,
        "conditioning_embedding_out_channels": (16, 32),
    },
    "ControlNetUnionModel": {
        **_UNET, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "attention_head_dim": 4,
        "conditioning_embedding_out_channels": (16, 32), "num_trans_channel": 32, "num_proj_channel": 32,
        "num_trans_head": 4, "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 80,
        "addition_embed_type": "text_time",
    },
    "DreamLiteTransformer2DModel": {
        "in_channels": 32, "num_attention_heads": 4, "attention_head_dim": 8, "norm_num_groups": 8,
        "cross_attention_dim": 48,
    },
    "DreamLiteUNetModel": {
        "block_out_channels": (32, 64, 64), "layers_per_block": 1, "norm_num_groups": 8, "cross_attention_dim": 48,
        "attention_head_dim": 8,
    },
    "HunyuanDiT2DControlNetModel": {
        "num_attention_heads": 4, "attention_head_dim": 8, "in_channels": 4, "patch_size": 2, "hidden_size": 32,
        "transformer_num_layers": 4, "cross_attention_dim": 48, "cross_attention_dim_t5": 64,
        "pooled_projection_dim": 16,
    },
    "I2VGenXLUNet": {
        **_UNET, "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
        "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"), "attention_head_dim": 8, "num_attention_heads": None,
    },
    "Kandinsky3UNet": {
        "time_embedding_dim": 64, "groups": 8, "attention_head_dim": 8, "layers_per_block": 1,
        "block_out_channels": (32, 64), "cross_attention_dim": 48, "encoder_hid_dim": 48,
    },
    "Kandinsky5Transformer3DModel": {
        "in_text_dim": 48, "in_text_dim2": 24, "time_dim": 32, "model_dim": 64, "ff_dim": 128, "num_text_blocks": 1,
        "num_visual_blocks": 2, "axes_dims": (4, 6, 6),
    },
    "Kandinsky6SRTransformer3DModel": {
        "in_visual_dim": 16, "out_visual_dim": 16, "time_dim": 32, "model_dim": 64, "ff_dim": 128,
        "num_visual_blocks": 2, "axes_dims": (4, 6, 6),
    },
    "Kandinsky6Transformer3DModel": {
        "in_text_dim": 48, "in_text_dim2": 24, "time_dim": 32, "model_dim": 64, "ff_dim": 128, "num_text_blocks": 1,
        "num_visual_blocks": 2, "axes_dims": (4, 6, 6),
    },
    "MMAudioVocoder": {"upsample_initial_channel": 128},
    "MotionAdapter": {
        "block_out_channels": (32, 64), "motion_layers_per_block": 1, "motion_num_attention_heads": 4,
        "motion_norm_num_groups": 8,
    },
    "RFD4ProteinaTransformer": {
        "nlayers": 2, "token_dim": 64, "nheads": 4, "dim_cond": 32, "pair_repr_dim": 32, "tri_mult_c": 16
    },
    "SparseControlNetModel": {
        **_UNET, "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"), "attention_head_dim": 4,
        "conditioning_embedding_out_channels": (16, 32), "motion_num_attention_heads": 4,
    },
    "StableCascadeUNet": {
        "conditioning_dim": 64, "block_out_channels": (64, 64), "num_attention_heads": (4, 4),
        "down_num_layers_per_block": (1, 1), "up_num_layers_per_block": (1, 1), "clip_text_pooled_in_channels": 32,
        "timestep_ratio_embedding_dim": 16,
    },
    "Transformer2DModel": {
        "in_channels": 32, "num_attention_heads": 4, "attention_head_dim": 8, "norm_num_groups": 8,
        "cross_attention_dim": 48,
    },
    "ZImageControlNetModel": {
        "control_layers_places": [0, 1], "control_refiner_layers_places": [0], "control_in_dim": 16, "dim": 64,
        "n_refiner_layers": 1, "n_heads": 4, "n_kv_heads": 4,
    },
}  # fmt: skip
"""Arguments of classes that neither the tests nor their own defaults make small."""


@functools.cache
def _tested() -> dict[str, Any]:
    """What the library's tests know of a class: an object with ``get_init_dict`` and ``get_dummy_inputs``."""
    spec = importlib.util.find_spec("diffusers_tests")
    if spec is None or not spec.submodule_search_locations:
        return {}
    root = Path(spec.submodule_search_locations[0])
    found: dict[str, Any] = {}
    for path in sorted(root.glob("models/**/test_*.py")):
        name = ".".join(("diffusers_tests", *path.relative_to(root).with_suffix("").parts))
        try:
            members = vars(importlib.import_module(name))
        except Exception:
            continue
        for cls in members.values():
            if inspect.isclass(cls) and cls.__module__ == name and cls.__name__.endswith("TesterConfig"):
                one = cls()
                found.setdefault(one.model_class.__name__, one)
    return found


def _as_tested(name: str) -> nn.Module:
    tested = _tested()[name]
    return tested.model_class(**tested.get_init_dict())


def _run_tested(name: str, module: nn.Module) -> object:
    return module(**_tested()[name].get_dummy_inputs())


def _build(name: str) -> nn.Module:
    """The smallest that builds, from the defaults of its class.

    Raises:
        RuntimeError: none did.
    """
    cls = getattr(importlib.import_module("diffusers"), name)
    given = inspect.signature(cls.__init__).parameters
    whole = {key: one.default for key, one in given.items() if one.default is not inspect.Parameter.empty}
    trouble = ""
    if name in SMALL:
        return cls(**SMALL[name])
    for factor, layers in TRIES:
        config = smaller(json.loads(json.dumps(whole, default=list)), factor, layers, False) if layers else whole
        try:
            with torch.device("meta"):
                size = sum(p.numel() for p in cls(**config).parameters())
            if size > LARGEST:
                raise RuntimeError(f"{size} parameters")
            return cls(**config)
        except Exception as error:
            trouble = f"{type(error).__name__}: {error}"
    raise RuntimeError(trouble)


def _files(module: nn.Module) -> dict[str, Any]:
    return {"config.json": json.loads(module.to_json_string())}  # pyright: ignore


def _run(module: nn.Module) -> object:
    """Each attention on tokens or on an image, alone and with other tokens, until it computes something."""
    for part in module.modules():
        if CALLED_ATTENTION.search(type(part).__name__):
            for given in _tries(part):
                try:
                    part(*given)
                except Exception:
                    continue
                break
    return None


def _tries(part: nn.Module) -> Iterator[tuple[torch.Tensor, ...]]:
    layers = [one for one in part.modules() if isinstance(one, (nn.Linear, nn.Conv2d))]
    if not layers:
        return
    widths = [one.in_features if isinstance(one, nn.Linear) else one.in_channels for one in layers]
    own, other = widths[0], next((width for width in widths if width != widths[0]), widths[0])
    yield (torch.randn(1, 16, own),)
    for width in dict.fromkeys((other, own)):
        yield (torch.randn(1, 16, own), torch.randn(1, 5, width))
    yield (torch.randn(1, own, 4, 4),)
    yield (torch.randn(1, own, 2, 4, 4),)


def models() -> Iterator[Model]:
    diffusers = importlib.import_module("diffusers")
    structure: Any = importlib.import_module("diffusers")._import_structure  # pyright: ignore
    for name in sorted(structure.get("models", ())):
        cls = getattr(diffusers, name, None)
        if inspect.isclass(cls) and issubclass(cls, nn.Module):
            if name in NOT_MODELS:
                continue
            if name in _tested():
                yield Model("diffusers", name, partial(_as_tested, name), partial(_run_tested, name), _files)
            else:
                yield Model("diffusers", name, partial(_build, name), _run, _files)
