"""transformers: every model_type on the meta device, and the number of heads that each of its attention modules has.

Nothing is read from the names of a config's keys here: the numbers are those of the built modules, their attributes and
the shapes of their projections.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import json
import logging
import os
import pkgutil
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

TASKS = (
    "PRETRAINING", "IMAGE_TEXT_TO_TEXT", "SEQ_TO_SEQ_CAUSAL_LM", "SPEECH_SEQ_2_SEQ", "CAUSAL_LM", "MASKED_LM",
    "MULTIMODAL_LM", "CTC", "OBJECT_DETECTION", "UNIVERSAL_SEGMENTATION", "MASK_GENERATION", "IMAGE_CLASSIFICATION",
    "DEPTH_ESTIMATION", "TIME_SERIES_PREDICTION", "TEXT_TO_WAVEFORM", "VIDEO_CLASSIFICATION", "AUDIO_CLASSIFICATION",
    "SEMANTIC_SEGMENTATION", "IMAGE_SEGMENTATION", "KEYPOINT_DETECTION", "IMAGE_TO_IMAGE", "TEXT_TO_SPECTROGRAM",
)  # fmt: skip
LAYERS = re.compile(
    r"^(\w+_)?(num_hidden_layers|n_layers?|num_layers|layers|depth|num_blocks|n_blocks|num_attention_layers)$|"
    r"^num_(\w+_)?layers$|^(l|x|r)_layers$|^num_nextn_predict_layers$"
)
EXPERTS = re.compile(r"^(num_experts|num_local_experts|n_routed_experts|moe_num_experts|num_routed_experts)$")
PROJECTION = re.compile(
    r"(^|_)(q|k|v|qkv|kv|qk|qkvz|query|key|value|queries|keys|values|wq|wk|wv|wqkv|to_q|to_k|to_v|query_key_value)"
    r"([0-9]*|_.*|layer|proj)$|^(in_proj|c_attn|att_proj|linear_[qkv]|in_proj_weight|lin_[qkv])$",
    re.IGNORECASE,
)
FUSED = r"qkv|qkv_proj|query_key_value|in_proj|Wqkv|c_attn"
HEADS = (
    "num_heads", "num_attention_heads", "n_heads", "n_head", "num_head", "num_attn_heads", "nhead", "heads",
    "n_local_heads", "num_query_heads", "num_q_heads", "num_self_attention_heads", "attention_heads",
    "no_heads", "num_k_heads",
)  # fmt: skip
KV_HEADS = (
    "num_key_value_heads", "num_kv_heads", "n_kv_heads", "kv_heads", "num_k_heads", "n_kv_head", "kv_n_heads",
    "num_key_value_attention_heads", "multi_query_group_num",
)  # fmt: skip
HEAD_DIM = (
    "head_dim", "attention_head_size", "key_value_proj_dim", "d_kv", "dim_head", "head_size", "d_head", "dim_per_head",
    "head_k_dim", "c_hidden", "sequence_head_width", "head_width",
)  # fmt: skip


@dataclass(frozen=True)
class Numbers:
    """What a built attention module says of its heads; None where neither an attribute nor a shape tells."""

    heads: int | None
    kv_heads: int | None
    head_dim: int | None
    shapes: int = 0
    """Of its projections, as one number: what a key of kv heads or of a head's width must change."""


def prepare() -> list[object]:
    """Quiet, offline, one thread; keep the result alive while anything is imported.

    A GPU build of torchvision cannot register its kernels beside a CPU build of torch: its two operators are declared.
    """
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    alive: list[object] = []
    if importlib.util.find_spec("torchvision") is not None:
        operators = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        alive.append(operators)
    return alive


def model_types() -> list[str]:
    auto = importlib.import_module("transformers.models.auto.configuration_auto")
    return sorted(auto.CONFIG_MAPPING_NAMES)


def config_class(model_type: str) -> Any:
    return importlib.import_module("transformers").CONFIG_MAPPING[model_type]


def classes(model_type: str) -> list[type[nn.Module]]:
    """What the auto classes make of a model_type: with a head first, so that names are those of usual files."""
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    transformers = importlib.import_module("transformers")
    base = transformers.PreTrainedModel
    found: list[type[nn.Module]] = []
    tables = [f"MODEL_FOR_{task}_MAPPING_NAMES" for task in TASKS]
    for table in dict.fromkeys([*tables, *sorted(name for name in vars(auto) if name.endswith("_MAPPING_NAMES"))]):
        names = getattr(auto, table, {}).get(model_type, ())
        for name in (names,) if isinstance(names, str) else names:
            cls = getattr(transformers, name, None) if isinstance(name, str) else None
            if isinstance(cls, type) and issubclass(cls, base) and cls not in found:
                found.append(cls)
    return found or _own_classes(model_type)


def _own_classes(model_type: str) -> list[type[nn.Module]]:
    """The models beside the config that take it: parts of a whole that no auto class builds."""
    config = config_class(model_type)
    package = importlib.import_module(config.__module__.rpartition(".")[0])
    base = importlib.import_module("transformers").PreTrainedModel
    found: list[type[nn.Module]] = []
    for name in (module.name for module in pkgutil.iter_modules(package.__path__)):
        if name.startswith("modeling_"):
            made = vars(importlib.import_module(f"{package.__name__}.{name}")).values()
            found += [c for c in made if isinstance(c, type) and issubclass(c, base) and c not in found]
    mine = [c for c in found if getattr(c, "config_class", None) is config]
    return [c for c in mine if not c.__name__.endswith("PreTrainedModel")]


def few_layers(config: Any, layers: int) -> Any:
    """``config`` (what ``to_dict`` gives) with few layers and experts; sizes and heads as they were."""
    if isinstance(config, list):
        return [few_layers(value, layers) for value in config]
    if not isinstance(config, dict):
        return config
    result = {name: few_layers(value, layers) for name, value in config.items()}
    counts = {v for name, v in config.items() if isinstance(v, int) and LAYERS.match(str(name))}
    kept = _kept(config, counts, layers)
    for name, value in config.items():
        if isinstance(value, list) and len(value) in counts and len(value) > max(len(kept), 4):
            result[name] = [result[name][place] for place in kept]
        elif name == "num_kv_shared_layers" and isinstance(value, int) and layers <= value:
            result[name] = 0  # layers that take their keys from another one, of which there may be too few
        elif isinstance(value, int) and LAYERS.match(str(name)) and value > len(kept):
            result[name] = len(kept)
        elif isinstance(value, int) and EXPERTS.match(str(name)) and value > 16:
            result[name] = 16
    return result


def _kept(config: Mapping[str, Any], counts: set[int], layers: int) -> list[int]:
    """Which layers stay: one of each type first."""
    for name, value in config.items():
        if isinstance(value, list) and len(value) in counts and "type" in str(name) and len(value) > layers:
            firsts = sorted(value.index(kind) for kind in dict.fromkeys(map(str, value)) if kind in value)
            others = [place for place in range(len(value)) if place not in firsts]
            return sorted([*firsts, *others[: max(0, layers - len(firsts))]])
    return list(range(layers))


ROPE = {"rope_type": "default", "rope_theta": 10000.0}
GLOBAL = {"per_layer_config": None, "global_head_dim": 512, "num_global_key_value_heads": 2, "attention_k_eq_v": True}
EXPERTS_OF_GEMMA = {"num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 704}
REQUIRED: dict[str, dict[str, Any]] = {
    "autoformer": {"prediction_length": 24},
    "chameleon": {"vocabulary_map": {"<image>": 8711}},
    "cohere_compass": {"text_config": {"rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE}}},
    "cohere_compass_text": {"rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE}},
    "dbrx": {"attn_config": {"rope_theta": 10000.0}},
    "deepseek_ocr2": {"text_config": {"mlp_layer_types": ["dense"] * 64}},
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense"] * 64},
    "diffusion_gemma": {"text_config": GLOBAL | EXPERTS_OF_GEMMA},
    "diffusion_gemma_text": GLOBAL | EXPERTS_OF_GEMMA,
    "dots1": {"n_routed_experts": 8, "n_shared_experts": 1},
    "embedding_gemma2": {"text_config": GLOBAL},
    "embedding_gemma2_text": GLOBAL,
    "emu3": {"vocabulary_map": {"<image>": 1000}},
    "esm": {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32},
    "gemma4": {"text_config": GLOBAL},
    "gemma4_text": GLOBAL,
    "gemma4_unified": {"text_config": GLOBAL},
    "gemma4_unified_text": GLOBAL,
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "hunyuan_vl": {"text_config": {"head_dim": 128}},
    "hunyuan_vl_text": {"head_dim": 128},
    "informer": {"prediction_length": 24},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 16},
    "mllama": {"text_config": {"cross_attention_layers": [1]}},
    "mllama_text_model": {"cross_attention_layers": [1]},
    "nemotron": {"num_key_value_heads": 8},
    "qwen3_omni_moe_talker_text": {"shared_expert_intermediate_size": 256},
    "t5gemma2_decoder": {"dropout_rate": 0.0},
    "t5gemma2_text": {"dropout_rate": 0.0},
    "time_series_transformer": {"prediction_length": 24},
}
"""What a default config lacks and its classes ask for, and keys of published files that a default one spells otherwise.

None takes a key away.
"""


def default(model_type: str) -> dict[str, Any]:
    """The default config of a model_type, as its file would have it."""
    whole = json.loads(json.dumps(config_class(model_type)().to_dict(), default=str))
    return _merged(whole, REQUIRED.get(model_type, {}))


def _merged(values: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    made = {k: _merged(values[k], v) if isinstance(values.get(k), dict) and v else v for k, v in more.items()}
    return {k: v for k, v in {**values, **made}.items() if k not in made or v is not None}


def build(cls: type[nn.Module], config: Any, values: Mapping[str, Any], *, whole: bool = True) -> nn.Module:
    """The model of these values of the config, without memory for its weights.

    Args:
        whole: the config is made of the values; else they are set in a default one, for classes that do not take back
            what they give.
    """
    initialization = importlib.import_module("transformers.initialization")
    made = config.from_dict(copy.deepcopy(dict(values))) if whole else _with(config(), values)
    with torch.device("meta"), initialization.no_init_weights():
        return cls(made)


def _with(config: Any, values: Mapping[str, Any]) -> Any:
    for name, value in values.items():
        held = getattr(config, name, None)
        if isinstance(value, dict) and hasattr(held, "to_dict"):
            _with(held, value)
        elif held != value and name not in ("model_type", "transformers_version"):
            setattr(config, name, copy.deepcopy(value))
    return config


# what a module says of itself


def _number(module: nn.Module, names: tuple[str, ...]) -> int | None:
    for name in names:
        value = getattr(module, name, None)
        if type(value) is int and value > 0:
            return value
    return None


def projections(module: nn.Module) -> dict[str, torch.Size]:
    """The weights under a module whose names are those of projections to q, k and v, with their shapes.

    Those of a module inside that says how many heads it has are its own (an indexer in an attention).
    """
    inner = [f"{path}." for path, part in module.named_modules() if path and _says(part) and _named(part)]
    return {name: p.shape for name, p in _named(module).items() if not name.startswith(tuple(inner))}


def _named(module: nn.Module) -> dict[str, nn.Parameter]:
    return {
        name: parameter
        for name, parameter in module.named_parameters()
        if parameter.dim() >= 2 and any(PROJECTION.search(part) for part in name.split("."))
    }


def _says(module: nn.Module) -> bool:
    return _number(module, HEADS) is not None or _number(module, HEAD_DIM) is not None


def attentions(model: nn.Module) -> dict[str, nn.Module]:
    """The innermost modules that say how many heads they have, or how wide one is, and that project."""
    return {path: part for path, part in model.named_modules() if path and _says(part) and projections(part)}


def _width(module: nn.Module, pattern: str, axis: int) -> int | None:
    """The rows (axis 0) or columns (axis 1) of the only linear layer of that name."""
    found = {
        part.weight.shape[axis]
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and re.fullmatch(pattern, name.partition(".")[0])
    }
    return found.pop() if len(found) == 1 else None


def numbers(module: nn.Module) -> Numbers:
    """Attributes first; where there is none, the shapes of the projections over the width of a head."""
    heads, dim = _number(module, HEADS), _number(module, HEAD_DIM)
    shapes = hash(tuple(projections(module).values()))
    if isinstance(module, nn.MultiheadAttention):
        return Numbers(module.num_heads, module.num_heads, module.head_dim, shapes)
    q = _width(module, r"q_proj|query|q|wq|to_q|q_lin|query_proj|linear_q", 0)
    k = _width(module, r"k_proj|key|k|wk|to_k|k_lin|key_proj|linear_k", 0)
    out = _width(module, r"o_proj|out_proj|o|wo|Wo|dense|proj", 1)
    groups = _number(module, ("num_key_value_groups", "num_queries_per_kv"))
    if heads is None and dim:
        # q may hold a gate, V be wider than Q, and groups be rounded down: two of three are right
        widths = [groups * k if groups and k else 0, q or 0, out or 0]
        votes = Counter(width // dim for width in widths if width and width % dim == 0)
        heads = votes.most_common(1)[0][0] if votes else None
    fused = _width(module, FUSED, 0)
    width = q or (out if out and fused == 3 * out else None)
    if dim is None and heads and width and width % heads == 0:
        dim = width // heads
    return Numbers(heads, _kv_heads(module, heads, dim, k), dim, shapes)


def _kv_heads(module: nn.Module, heads: int | None, dim: int | None, rows: int | None) -> int | None:
    """From an attribute, else from what the projections leave for K; None where these contradict each other.

    Args:
        rows: of the projection to K, where it has one of its own.
    """
    if _width(module, r"kv_b_proj", 0):
        return heads  # every head has its own K and V behind the latent, whatever the config says
    said, groups = _number(module, KV_HEADS), _number(module, ("num_key_value_groups", "num_queries_per_kv"))
    if said is None and groups and heads:
        said = heads // groups
    shaped = rows // dim if rows and dim and rows % dim == 0 else None
    both = _width(module, r"kv|kv_proj|to_kv|Wkv|key_value", 0)
    fused = _width(module, FUSED, 0)
    if shaped is None and dim and both and both % (2 * dim) == 0:
        shaped = both // (2 * dim)
    if shaped is None and fused and heads and dim and fused % dim == 0 and (fused // dim - heads) % 2 == 0:
        shaped = (fused // dim - heads) // 2
    if said is None:
        others = [n for n, m in module.named_children() if isinstance(m, nn.Linear) and re.match(r"w?k(?!er)|.*kv", n)]
        return shaped if shaped is not None or others else heads
    return None if shaped not in (None, said) and not fused else said


def saved_names(model: nn.Module, path: str, module: nn.Module) -> list[str]:
    """What a file calls the projections of a module: transformers gives them back the names that it loads."""
    loading = importlib.import_module("transformers.core_model_loading")
    mine = projections(module)
    state = {f"{path}.{n}": t for n, t in module.state_dict().items() if n in mine}
    return sorted(loading.revert_weight_conversion(model, state))


def remember_conversions(model: nn.Module) -> None:
    """Find the model's renamings once, not once a module."""
    mapping = importlib.import_module("transformers.conversion_mapping")
    loading = importlib.import_module("transformers.core_model_loading")
    found = [c for c in mapping.get_model_conversion_mapping(model, add_legacy=False)
             if not isinstance(c, loading.PrefixChange)]  # fmt: skip
    model._weight_conversions = found or None  # pyright: ignore


def unmeasured(model: nn.Module, known: set[str]) -> list[str]:
    """Other modules that hold weights named like projections, which the table must not be mistaken to speak of."""
    found = set()
    for name, parameter in model.named_parameters():
        if parameter.dim() >= 2 and any(PROJECTION.search(part) for part in name.split(".")[-2:]):
            path = layer_of([name])
            if path and not any(f"{path}.".startswith(f"{other}.") for other in known):
                found.add(path)
    return sorted(found)


def layer_of(names: list[str]) -> str:
    """The module that holds these projections: what their names share, before the projections' own names."""
    holders = []
    for name in names:
        parts = name.split(".")
        first = next((i for i, part in enumerate(parts) if i and PROJECTION.search(part) and _is_leaf(parts, i)), None)
        holders.append(parts[:first] if first is not None else parts[:-2])
    shared: list[str] = []
    for parts in zip(*holders, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def _is_leaf(parts: list[str], at: int) -> bool:
    """A projection stands near the end of a name; ``attn`` further up is the module."""
    return len(parts) - at <= 2 or not any(PROJECTION.search(part) for part in parts[at + 1 :])


def measured(model: nn.Module) -> Iterator[tuple[str, Numbers]]:
    for path, module in attentions(model).items():
        yield path, numbers(module)
