"""transformers: one model for each model_type, smaller in every size, saved as save_pretrained does."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tests.census.model import CALLED_ATTENTION, Model
from tests.census.shrinking import smaller

LARGEST = 160_000_000
ACTIVE = ("hidden_states", "x", "query", "queries", "inputs", "query_states")
OTHER = ("key", "value", "key_value_states", "encoder_hidden_states", "context")
"""Arguments of an attention: what it always takes, and what it takes where the other tokens are not its own."""
DEEP = 99
"""As many layers as there are: some configs speak of their layers one by one."""
TRIES = (
    (8, 2, True), (8, 2, False), (4, 2, False), (16, 2, False), (2, 2, False), (1, 2, False),
    (8, DEEP, False), (16, DEEP, False), (4, DEEP, False), (32, 2, False), (2, DEEP, False), (1, DEEP, False),
)  # fmt: skip
PREFERRED = (
    "PRETRAINING", "IMAGE_TEXT_TO_TEXT", "SEQ_TO_SEQ_CAUSAL_LM", "SPEECH_SEQ_2_SEQ", "CAUSAL_LM", "MASKED_LM",
    "MULTIMODAL_LM", "CTC", "OBJECT_DETECTION", "UNIVERSAL_SEGMENTATION", "MASK_GENERATION", "IMAGE_CLASSIFICATION",
    "DEPTH_ESTIMATION", "TIME_SERIES_PREDICTION", "TEXT_TO_WAVEFORM", "VIDEO_CLASSIFICATION", "AUDIO_CLASSIFICATION",
    "SEMANTIC_SEGMENTATION", "KEYPOINT_DETECTION", "IMAGE_TO_IMAGE",
)  # fmt: skip


def _classes(model_type: str) -> list[type[nn.Module]]:
    """What the auto classes make of a model_type: with a head first, so that names are those of usual files."""
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    transformers = importlib.import_module("transformers")
    tables = [f"MODEL_FOR_{task}_MAPPING_NAMES" for task in PREFERRED] + ["MODEL_MAPPING_NAMES"]
    found = []
    for table in tables:
        names = getattr(auto, table, {}).get(model_type, ())
        for name in (names,) if isinstance(names, str) else names:
            if (cls := getattr(transformers, name, None)) is not None and cls not in found:
                found.append(cls)
    return found or _of_config(transformers.CONFIG_MAPPING[model_type])


def _of_config(config: type) -> list[type[nn.Module]]:
    """The classes of a part of a model, which no auto class knows: those that its config belongs to."""
    home = importlib.import_module(config.__module__.replace(".configuration_", ".modeling_"))
    base = importlib.import_module("transformers").PreTrainedModel
    held = [one for one in vars(home).values() if inspect.isclass(one) and issubclass(one, base)]
    own = [one for one in held if one.__module__ == home.__name__ and one.config_class is config]
    return sorted(own, key=lambda one: not one.__name__.endswith("Model"))


def _build(model_type: str, number: int) -> nn.Module:
    """The smallest that builds.

    Raises:
        RuntimeError: none did.
    """
    cls = importlib.import_module("transformers").CONFIG_MAPPING[model_type]
    whole = cls().to_dict()
    trouble = "no class of a model"
    for factor, layers, kv in TRIES[number:]:
        for architecture in _classes(model_type)[:3]:
            try:
                config = cls.from_dict(smaller(whole, factor, layers, kv))
                with torch.device("meta"):
                    size = sum(p.numel() for p in architecture(config).parameters())
                if size > LARGEST:
                    trouble = f"{size} parameters"
                    continue
                config = cls.from_dict(smaller(whole, factor, layers, kv))
                config._attn_implementation = "eager" if kv is None else config._attn_implementation
                module = architecture(config)
                if kv and not _may_share(module):
                    trouble = "V has as many heads as Q"
                    continue
            except Exception as error:
                trouble = f"{type(error).__name__}: {error}"
                continue
            return module
    raise RuntimeError(trouble)


def _may_share(module: nn.Module) -> bool:
    """Whether the class makes fewer heads of V where it makes fewer of K; some read the number for K only."""
    widths = {name: t.shape[0] for name, t in module.named_parameters() if name.endswith("_proj.weight")}
    pairs = ((rows, widths.get(name.replace("k_proj", "v_proj"))) for name, rows in widths.items() if "k_proj" in name)
    return all(other in (None, rows) for rows, other in pairs)


def _files(module: nn.Module) -> dict[str, Any]:
    config = module.config  # pyright: ignore
    config.architectures = [type(module).__name__]  # pyright: ignore
    return {"config.json": json.loads(config.to_json_string())}  # pyright: ignore


def _save(module: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What save_pretrained makes of the state: its own conversion, and tied weights once."""
    revert = importlib.import_module("transformers.core_model_loading").revert_weight_conversion
    tied = set(getattr(module, "all_tied_weights_keys", None) or ())
    return revert(module, {name: t for name, t in state.items() if name not in tied})


# to run what can be run


def _first(config: Any, *names: str, default: Any = None) -> Any:
    """A setting of the config, or of a part of it."""
    for name in names:
        value = getattr(config, name, None)
        if value is not None:
            return value
    for part in ("vision_config", "audio_config", "encoder_config", "image_encoder", "backbone_config"):
        sub = getattr(config, part, None)
        if sub is not None and not isinstance(sub, dict):
            value = _first(sub, *names)
            if value is not None:
                return value
    return default


def _inputs(module: nn.Module, variant: int) -> dict[str, Any]:
    """Arguments by the names of ``forward``: words, images, sound."""
    config: Any = getattr(module, "config", None)
    wanted = inspect.signature(module.forward).parameters
    words = torch.randint(5, 90, (1, 7))
    size = _first(config, "image_size", default=224)
    size = size[0] if isinstance(size, (list, tuple)) else size
    size = size if isinstance(size, int) else 224
    if variant % 2:
        size = 64 if size > 64 else 224
    channels = _first(config, "num_channels", "in_channels", "in_chans", default=3)
    channels = channels if isinstance(channels, int) else 3
    mels = _first(config, "num_mel_bins", "feature_size", "input_feat_per_channel", "input_dim", default=80)
    frames = _first(config, "num_frames", default=4)
    patch = _first(config, "patch_size", default=14)
    patch = patch if isinstance(patch, int) else 14
    temporal = _first(config, "temporal_patch_size", default=1)
    image = torch.randn(1, channels, size, size)
    length = 2 * int(_first(config, "max_source_positions", default=50))
    made: dict[str, Any] = {
        "input_ids": words,
        "decoder_input_ids": words[:, :5],
        "bbox": torch.zeros(1, 7, 4, dtype=torch.long),
        "pixel_values": image if variant < 2 else image.repeat(frames, 1, 1, 1)[None],
        "pixel_values_videos": image.repeat(frames, 1, 1, 1)[None],
        "input_values": torch.randn(1, 4000) if variant < 2 else torch.randn(1, 1024, mels),
        "input_features": torch.randn(1, mels, length) if variant < 2 else torch.randn(1, 64, mels),
        "past_values": torch.randn(1, int(_first(config, "context_length", default=64) or 64),
                                   int(_first(config, "num_input_channels", "input_size", default=1) or 1)),
    }  # fmt: skip
    if "grid_thw" in wanted or ("image_grid_thw" in wanted and "input_ids" not in wanted):
        patches = torch.randn(16, channels * temporal * patch * patch)
        name = next((n for n in ("hidden_states", "pixel_values", "seq") if n in wanted), "hidden_states")
        return {name: patches, "grid_thw": torch.tensor([[1, 4, 4]])}
    if "hidden_states" in wanted and "input_ids" not in wanted:
        width = _first(config, "hidden_size", "d_model", "embed_dim", default=64)
        made["hidden_states"] = torch.randn(1, 7, width)
    chosen = {name: value for name, value in made.items() if name in wanted}
    if "inputs_embeds" in wanted and not chosen:
        width = _first(config, "hidden_size", "d_model", "embed_dim", default=64)
        chosen["inputs_embeds"] = torch.randn(1, 7, width)
    if "input_ids" in chosen and variant in (1, 3):
        for name in ("pixel_values", "pixel_values_videos", "input_features", "input_values"):
            chosen.pop(name, None)
    return chosen


def _attempt(call: Callable[[], object]) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:160]
    return ""


def _run(module: nn.Module) -> object:
    """The model as a whole, then whatever part of it has not run yet, then single attentions."""
    base = importlib.import_module("transformers").PreTrainedModel
    ran: set[str] = set()
    hooks = [
        part.register_forward_hook(lambda *_, path=path: ran.add(path) and None)
        for path, part in module.named_modules()
    ]
    attentions = [path for path, part in module.named_modules() if CALLED_ATTENTION.search(type(part).__name__)]
    trouble = ""
    for path, part in module.named_modules():
        if not isinstance(part, base):
            continue
        inside = [name for name in attentions if f"{name}.".startswith(f"{path}." if path else "")]
        for variant in range(4):
            if all(name in ran for name in inside):
                break
            why = _attempt(lambda part=part, variant=variant: part(**_inputs(part, variant)))
            trouble = trouble or (why if not path else "")
    for path in attentions:
        if path not in ran:
            _attempt(lambda path=path: _alone(module.get_submodule(path)))
    for hook in hooks:
        hook.remove()
    if not ran and trouble:
        raise RuntimeError(trouble)
    return None


def _alone(part: nn.Module) -> object:
    """One attention on random tokens of the width that its first projection takes."""
    wanted = inspect.signature(part.forward).parameters
    first = next(p for p in part.modules() if isinstance(p, nn.Linear))
    tokens = torch.randn(1, 7, first.in_features)
    given: dict[str, Any] = {}
    for name in wanted:
        needed = wanted[name].default is inspect.Parameter.empty
        if name in ACTIVE or (name in OTHER and needed):
            given[name] = tokens
        elif name == "position_embeddings":
            width = getattr(part, "head_dim", 8)
            given[name] = (torch.ones(1, 7, width), torch.zeros(1, 7, width))
        elif name == "attention_mask" and wanted[name].default is inspect.Parameter.empty:
            given[name] = None
    return part(**given)


def models() -> Iterator[Model]:
    auto = importlib.import_module("transformers.models.auto.configuration_auto")
    for model_type in sorted(auto.CONFIG_MAPPING_NAMES):
        yield Model("transformers", model_type, lambda name=model_type: _build(name, 0), _run, _files, _save)
