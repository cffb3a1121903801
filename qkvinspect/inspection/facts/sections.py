"""A config as sections with keys of heads and widths, and what each says of one layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from qkvinspect.checkpoint import Config
from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.formats.config_keys import ConfigKey, Meaning, sizes
from qkvinspect.inspection.facts.fact import is_count
from qkvinspect.inspection.facts.scopes import Claim, claim, says_nothing, split_words
from qkvinspect.inspection.names import Names, NumberPlace
from qkvinspect.parsed import is_items, is_mapping

_MAX_DEPTH = 8
_MAX_SECTIONS = 500
_MAX_SIZES = 64
"""Limits, as every layer looks at all of them; what a config has beyond is ignored."""

_NAMES_A_MODEL = ("model_type", "architecture", "_class_name", "backbone", "timm_model_name", "arch", "model")


class ConfigSection(NamedTuple):
    """One object of a config.

    Attributes:
        keys: what leads to it from the root.
        kinds: the ``model_type`` of it and of those around it; "" for the root, which is the whole model.
        sizes: its keys of heads and widths, with their values.
        types: its lists of the layers' types.
    """

    keys: tuple[str, ...]
    kinds: tuple[str, ...]
    values: Mapping[str, object]
    sizes: Sequence[tuple[str, ConfigKey, object]] = ()
    types: Sequence[Sequence[object]] = ()

    @classmethod
    def of(cls, keys: tuple[str, ...], kinds: tuple[str, ...], values: Mapping[str, object]) -> ConfigSection:
        """A section, its keys read once for all layers."""
        types = [value for name, value in values.items() if is_items(value) and "type" in name]
        return cls(keys, kinds, values, [*islice(sizes(values), _MAX_SIZES)], types)

    @property
    def tells(self) -> bool:
        """Whether it says anything of heads or widths, or which model it is of."""
        return bool(self.sizes) or any(isinstance(self.values.get(key), str) for key in _NAMES_A_MODEL)

    @property
    def whole(self) -> bool:
        """Whether it is of the whole model: the root, or what a training script puts its config under."""
        return all(map(says_nothing, self.keys))

    @property
    def path(self) -> str:
        """As it is written before a key: ``text_config.``."""
        return "".join(f"{key}." for key in self.keys)


def sections(config: Config) -> list[ConfigSection]:
    """The config and every object in it, the outermost first."""
    found = [ConfigSection.of((), (), config.values)]
    held: dict[tuple[str, ...], Mapping[str, object]] = {(): config.values}
    for section in found:
        if len(section.keys) < _MAX_DEPTH:
            for key, value in section.values.items():
                if not is_mapping(value) or len(found) >= _MAX_SECTIONS:
                    continue
                kind = value.get("model_type")
                keys = (*section.keys, key)
                held[keys] = _as_one_layer_s(value, held.get(keys[:-2], {})) if key.isdecimal() else value
                kinds = (*section.kinds, kind if isinstance(kind, str) else "")
                found.append(ConfigSection.of(keys, kinds, held[keys]))
    return [section for section in found if section.tells]


_PLACES = ("architecture", "_class_name")
"""What names a model of timm or diffusers, whose heads go by the places of blocks."""


def says_the_same_of_alike_layers(values: Mapping[str, object], depth: int = 0) -> bool:
    """Whether a config holds nothing that goes by a layer's number: no list, no key with a number in it."""
    if depth > _MAX_DEPTH or any(key in values for key in _PLACES):
        return False
    for key, value in values.items():
        if any(map(str.isdecimal, key)) or (is_items(value) and len(value) > 1):  # layer_3, num_heads_3
            return False
        if is_mapping(value) and not says_the_same_of_alike_layers(value, depth + 1):
            return False
    return True


def _as_one_layer_s(values: Mapping[str, object], around: Mapping[str, object]) -> Mapping[str, object]:
    """A section for one layer says what differs from all others; the rest is said around it."""
    return {**{name: value for name, value in around.items() if not is_mapping(value)}, **values}


def layer_type(section: ConfigSection, layer: str, names: Names) -> str:
    """The type of one layer, where a section lists the types of as many layers as there are; "" elsewhere."""
    for types in section.types:
        for index, count in names.places(layer):
            if len(types) == count:
                kind = types[index]
                return kind if isinstance(kind, str) else ""
    return ""


class Said(NamedTuple):
    """A number that a section gives for one layer.

    Attributes:
        path: the key as the origin names it: ``vision_config.num_heads[2]``.
    """

    path: str
    key: ConfigKey
    value: int
    claim: Claim


def said(section: ConfigSection, layer: str, names: Names) -> Iterator[Said]:
    """Every head count and width of a section, with how well it speaks of a layer."""
    also = split_words(layer_type(section, layer, names))
    for name, key, value in section.sizes:
        number, suffix = of_layer(value, section.values, layer, names)
        if is_count(number):
            spoken = claim(section.keys, section.kinds, key.roles, layer, also)
            yield Said(f"{section.path}{name}{suffix}", key, number, spoken)


def of_layer(value: object, beside: Mapping[str, object], layer: str, names: Names) -> tuple[object, str]:
    """(what a value says of one layer, how its place in a list is written); None where a list does not tell."""
    if not is_items(value):
        return value, ""
    index = _stage_of(value, beside, names.places(layer))
    return (None, "") if index is None else (value[index], f"[{index}]")


def _stage_of(items: Sequence[object], beside: Mapping[str, object], places: Sequence[NumberPlace]) -> int | None:
    """Which entry of a list is a layer's own; None where that cannot be told.

    A list has an entry for each stage (Swin, SegFormer), for each layer (OpenELM), or for each stage of layers that
    are counted through (Hiera), where another list gives how many layers a stage has.
    """
    if not items:
        return None
    for index, count in places:
        if count == len(items):
            return index
    for index, count in places:
        for name, depths in beside.items():
            words = split_words(name)
            if is_items(depths) and len(depths) == len(items) and {"depths", "blocks", "layers", "depth"} & {*words}:
                sizes = [size for size in depths if isinstance(size, int)]
                if len(sizes) == len(items) and sum(sizes) == count:
                    return next(stage for stage in range(len(items)) if index < sum(sizes[: stage + 1]))
    return 0 if all(item == items[0] for item in items) else None


def of(found: Sequence[Said], means: Meaning) -> list[Said]:
    """Those that give one of the sizes."""
    return [one for one in found if one.key.means == means]
