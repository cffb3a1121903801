"""The scale of an adapter's product: ``alpha / rank``, or what its tool uses instead.

PEFT writes alpha into ``adapter_config.json`` (0.21, tuners/lora/layer.py, update_layer: ``lora_alpha / r``, over the
root of r with ``use_rslora``; ``rank_pattern`` and ``alpha_pattern`` for single modules, utils/other.py,
get_pattern_key). kohya keeps it in a tensor, and takes the rank where there is none (sd-scripts, networks/lora.py).
diffusers writes it into the metadata of the file, and takes the rank where there is none
(0.42, utils/peft_utils.py, get_peft_kwargs). mlx-lm writes the scale itself into ``adapter_config.json``, by which it
multiplies whatever the rank is (0.29, tuner/lora.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from math import isfinite, sqrt

from qkvinspect.checkpoint import Checkpoint
from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.late_pattern import late_pattern
from qkvinspect.parsed import is_mapping
from qkvinspect.weights.adapters.factors import Factors
from qkvinspect.weights.companions import number_of

_PARAMETERS = "lora_parameters"
_METADATA = "lora_adapter_metadata"
_MOST = 1 << 20  # characters of metadata that are parsed

_SAFE_PATTERN = late_pattern(r"[\w.\\^$|()\[\]*+?-]{1,200}")
_REPEATS = late_pattern(r"[*+?]")
_REPEATED_GROUP = late_pattern(r"[)\]][*+?]")
_SIGNS = frozenset("\\^$|()[]{}*+?.")
_FEW_REPEATS = 2
_MOST_PATTERNS = 64
_LONGEST = 128  # characters of a name that a pattern is tried on

_STARTS = frozenset({"default", "gaussian", "orthogonal", "eva"})
"""Initialisations that leave the base model unchanged."""

_OTHERWISE = ("use_qalora", "layer_replication", "alora_invocation_tokens", "arrow_config", "lora_bias", "use_bdlora")
"""Options that change what the factors mean."""


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """An adapter's config.

    Attributes:
        origin: of which file, for people; "" where nothing was said.
        values: as they stand.
    """

    origin: str
    values: Mapping[str, object]

    @property
    def turned(self) -> bool:
        """Whether the weights that it adds to are stored [in, out]."""
        return self.values.get("fan_in_fan_out") is True

    def otherwise(self) -> str:
        """Why the product alone is not what the adapter does; "" where it is."""
        kind = self.values.get("peft_type", "LORA")
        if kind != "LORA":
            return f"{self.origin} says that it is {kind}, which is not decoded"
        if name := next((name for name in _OTHERWISE if self.values.get(name)), None):
            return f"{self.origin} says {name}, which is not decoded"
        return ""

    def begun(self) -> str:
        """Why its base is not the model that it names; "" where it is."""
        start = self.values.get("init_lora_weights", True)
        if isinstance(start, bool) or start is None or (isinstance(start, str) and start in _STARTS):
            return ""
        return f"{self.origin} says that it began as {start}, which changes the base model: add it to that one"


def configs_of(checkpoint: Checkpoint) -> dict[str, AdapterConfig]:
    """The configs of an adapter, by the first component of the modules that they are for; "" for all."""
    found: dict[str, AdapterConfig] = {}
    for config in checkpoint.configs:
        if "lora_alpha" in config.values or _PARAMETERS in config.values or config.values.get("peft_type") is not None:
            found.setdefault("", AdapterConfig(config.origin, config.values))
    text = checkpoint.metadata.get(_METADATA, "")
    for key, value in _parsed(text).items():
        part, dot, name = key.partition(".")
        if dot:
            one = found.get(part) or AdapterConfig(f"metadata:{_METADATA}", {})
            found[part] = AdapterConfig(one.origin, {**one.values, name: value})
    return found


def base_names(checkpoint: Checkpoint) -> list[str]:
    """What the model is called that an adapter is for, and of what kind it is, as far as that is said."""
    keys = ("base_model_name_or_path", "model_type")
    said = (config.values.get(key) for config in checkpoint.configs for key in keys)
    return [name for name in said if isinstance(name, str)]


def _parsed(text: str) -> dict[str, object]:
    if len(text) >= _MOST:
        return {}
    try:
        parsed: object = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return parsed if is_mapping(parsed) else {}


def scale_of(
    factors: Factors, module: str, config: AdapterConfig | None, rank: int, *, in_model: bool = False
) -> float | None:
    """The scale of a module's product; None where nothing tells it.

    Args:
        module: its name, with dots.
        rank: of the product.
        in_model: whether the factors are in the state_dict of a model, where PEFT's alpha is never said.

    Raises:
        CheckpointError: the bytes cannot be read.
        LayoutError: what tells it is malformed.
    """
    if factors.alpha is not None:
        alpha = number_of(factors.alpha)
        return _finite(alpha, factors.alpha.name) / rank if alpha else 1.0
    parameters = config.values.get(_PARAMETERS) if config is not None else None
    if config is not None and factors.tool == "mlx" and is_mapping(parameters):
        return _number(parameters.get("scale"), "scale", config.origin)
    if config is not None and "lora_alpha" in config.values:
        return _said(config, module, rank)
    by_peft = factors.tool == "peft" and (in_model or factors.adapter or module.startswith("base_model."))
    return None if by_peft or factors.tool in ("loralib", "mlx") else 1.0


def _said(config: AdapterConfig, module: str, rank: int) -> float:
    said = _by_pattern(config, "rank_pattern", module, config.values.get("r"))
    if said is not None and said != rank:
        raise LayoutError(f"{config.origin} says rank {said} for {module}", found=f"factors of rank {rank}")
    alpha = _by_pattern(config, "alpha_pattern", module, config.values.get("lora_alpha"))
    return _number(alpha, "lora_alpha", config.origin) / (
        sqrt(rank) if config.values.get("use_rslora") is True else rank
    )


def _number(value: object, key: str, where: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise LayoutError(f"{where} says no number for {key}", found=repr(value)[:40])
    return _finite(value, where)


def _finite(alpha: float, where: str) -> float:
    try:
        value = float(alpha)
    except OverflowError:
        value = float("inf")
    if not isfinite(value):
        raise LayoutError(f"{where} says no finite number for alpha", found=str(value))
    return value


def _by_pattern(config: AdapterConfig, key: str, module: str, usual: object) -> object:
    """What the first pattern says that fits the end of the module's name; else what is usual."""
    patterns = config.values.get(key)
    if not is_mapping(patterns):
        return usual
    name = module.removeprefix("base_model.model.")
    tried = 0
    for pattern, value in patterns.items():
        if name == pattern or name.endswith(f".{pattern}"):
            return value
        if not _SIGNS.isdisjoint(pattern):
            tried += 1
            if _fits(pattern, name, key, tried):
                return value
    return usual


def _fits(pattern: str, name: str, key: str, tried: int) -> bool:
    """As PEFT asks: whether it is all of the name, or all behind a dot.

    Args:
        tried: how many patterns were tried on this name, this one included.

    Raises:
        LayoutError: a regular expression's engine may take for ever to refuse it.
    """
    many = len(_REPEATS.findall(pattern)) > _FEW_REPEATS or tried > _MOST_PATTERNS or len(name) > _LONGEST
    slow = many or _REPEATED_GROUP.search(pattern)
    if slow or not _SAFE_PATTERN.fullmatch(pattern):
        raise LayoutError(f"{key} has a pattern that is not tried: it may take too long", found=pattern[:60])
    parts = name.split(".")
    try:
        found = re.compile(pattern)
        return any(found.fullmatch(".".join(parts[first:])) for first in range(len(parts)))
    except re.error as error:
        raise LayoutError(f"{key} has a pattern that is none: {error}", found=pattern[:60]) from error


def unfamiliar(names: Sequence[str]) -> str:
    """What to say of tensors that change the product in ways that are not decoded."""
    return f"{names[0]} is beside its factors, and what it does to the product is not decoded"
