"""How many heads: asked of a flag, the configs, the pickled modules and the tensors, in this order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import cast

from qkvinspect.checkpoint import Config
from qkvinspect.errors import UsageError
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.inspection.facts.scopes import place
from qkvinspect.inspection.match import Candidate
from qkvinspect.inspection.names import Names

MAX_HEADS = 65_536
_MAX_DEPTH = 8

_HEADS = frozenset(
    [
        "num_attention_heads",
        "n_head",
        "n_heads",
        "num_heads",
        "num_head",
        "head_count",
        "nhead",
        "nheads",
        "heads",
        "attention_heads",
        "attn_heads",
        "n_attention_heads",
        "num_attn_heads",
        "transformer_heads",
        "decoder_attention_heads",
        "encoder_attention_heads",
        "decoder_heads",
        "encoder_heads",
        "decoder_num_heads",
        "encoder_num_heads",
    ]
)
_KV_HEADS = frozenset(
    [
        "num_key_value_heads",
        "num_kv_heads",
        "n_kv_heads",
        "n_head_kv",
        "multi_query_group_num",
        "n_query_groups",
        "num_query_groups",
        "kv_n_heads",
        "kv_heads",
        "head_count_kv",
    ]
)
_HEAD_DIM = frozenset(
    [
        "head_dim",
        "d_kv",
        "kv_channels",
        "dim_head",
        "head_size",
        "attention_head_dim",
        "transformer_dim_head",
        "key_length",
    ]
)


@dataclass(frozen=True, slots=True)
class HeadFact:
    """What one source says of a layer's heads; None for what it leaves open."""

    origin: str
    num_heads: int | None = None
    num_kv_heads: int | None = None
    head_dim: int | None = None


@dataclass(frozen=True, slots=True)
class HeadFlag:
    """One --heads: ``8``, ``32/8`` (heads/kv heads), or either behind ``GLOB=``."""

    glob: str
    num_heads: int
    num_kv_heads: int | None


def parse_flag(text: str) -> HeadFlag:
    """Read the value of --heads.

    Raises:
        UsageError: it has another form.
    """
    glob, _, count = text.rpartition("=")
    found = re.fullmatch(r"(\d{1,5})(?:/(\d{1,5}))?", count)
    if not found or not int(found[1]) or (found[2] is not None and not int(found[2])):
        raise UsageError(
            f"--heads {text} is not a number of heads",
            expected="N, N/KV, or GLOB=N such as 'decoder.*=8' or '*=32/8'",
        )
    return HeadFlag(glob or "*", int(found[1]), int(found[2]) if found[2] else None)


def facts(
    candidate: Candidate,
    names: Names,
    flags: Sequence[HeadFlag],
    configs: Sequence[Config],
    modules: Mapping[str, Mapping[str, object]],
) -> Iterator[HeadFact]:
    """What each source says about a layer, the most trusted first."""
    for flag in reversed(flags):
        if fnmatchcase(candidate.layer, flag.glob):
            yield HeadFact("flag", flag.num_heads, flag.num_kv_heads)
            break
    if candidate.layout.num_heads is not None:
        own = candidate.layout
        yield HeadFact(own.found_by, own.num_heads, own.num_kv_heads, own.head_dim)
    for config in configs:
        yield from _from_config(config, candidate.layer, names, frozenset(candidate.layout.head_keys) or _HEADS)
    attributes = modules.get(candidate.layer, {})
    for key in ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads"):
        if _is_count(attributes.get(key)):
            yield HeadFact(f"checkpoint:{candidate.layer}.{key}", cast("int", attributes[key]))
            break
    for tensor in candidate.layout.head_tensors:
        info = names.find_in_stack(tensor.key, candidate.path)
        if info is None or len(info.shape) <= tensor.axis or not _is_count(info.shape[tensor.axis]):
            continue
        size, origin = info.shape[tensor.axis], f"tensor:{info.name}"
        if tensor.fixes == "num_heads":
            yield HeadFact(origin, size)
        elif size < candidate.weights[0].shape[0]:  # a norm over all heads at once says nothing
            yield HeadFact(origin, head_dim=size)


def _from_config(config: Config, layer: str, names: Names, keys: frozenset[str]) -> Iterator[HeadFact]:
    """One fact for each distinct answer that a config gives for a layer, in its best scope."""
    entries = list(_entries(config.values, layer, names.stages(layer)))
    heads = _scoped(entries, keys, layer)
    kv = _only(_scoped(entries, _KV_HEADS, layer))
    dim = _only(_scoped(entries, _HEAD_DIM, layer))
    if str(config.values.get("_class_name", "")).startswith("UNet") and not heads and dim is not None:
        # diffusers' UNets of Stable Diffusion 1 and 2 give the NUMBER of heads under this name
        yield HeadFact(f"{config.origin}:attention_head_dim", dim)
        return
    for value, path in {value: path for path, value in reversed(heads)}.items():
        yield HeadFact(f"{config.origin}:{path}", value, kv, dim)
    if not heads and dim is not None:
        path = next(path for path, value in _scoped(entries, _HEAD_DIM, layer) if value == dim)
        yield HeadFact(f"{config.origin}:{path}", head_dim=dim, num_kv_heads=kv)


def _only(found: Sequence[tuple[str, int]]) -> int | None:
    values = {value for _, value in found}
    return values.pop() if len(values) == 1 else None


def _scoped(entries: Iterable[tuple[str, int]], keys: frozenset[str], layer: str) -> list[tuple[str, int]]:
    """The entries with one of these keys that speak of a layer, of the best place only."""
    ranked: dict[int, list[tuple[str, int]]] = {}
    for path, value in entries:
        key, of_list, _ = path.rpartition(".")[2].lower().partition("[")
        if key not in keys and not (of_list and f"{key}[]" in keys):
            continue
        if (where := place(path, layer)) is not None:
            ranked.setdefault(where, []).append((path, value))
    return ranked[min(ranked)] if ranked else []


def _entries(
    values: Mapping[str, object], layer: str, stages: int, prefix: str = "", depth: int = 0
) -> Iterator[tuple[str, int]]:
    """Every count in a config, with its dotted path.

    Of a list with as many entries as there are stages, the one of the layer's stage, which is the first
    number in its name (Swin, SegFormer, OpenELM).
    """
    for key, value in values.items():
        if isinstance(value, dict) and depth < _MAX_DEPTH:
            yield from _entries(cast("dict[str, object]", value), layer, stages, f"{prefix}{key}.", depth + 1)
        elif isinstance(value, list) and (stage := re.search(r"\d+", layer)):
            items, index = cast("list[object]", value), int(stage[0])
            if len(items) == stages and index < stages and _is_count(items[index]):
                yield f"{prefix}{key}[{index}]", cast("int", items[index])
        elif _is_count(cast(object, value)):
            yield f"{prefix}{key}", cast("int", value)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 < value <= MAX_HEADS
