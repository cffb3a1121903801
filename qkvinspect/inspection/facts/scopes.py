"""Match the parts of a config with layers: ``vision_config`` with the vision tower, and so on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from qkvinspect.checkpoint import Config
from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.late_pattern import late_pattern
from qkvinspect.parsed import is_mapping

_ALIKE: tuple[frozenset[str], ...] = tuple(
    map(
        frozenset,
        (
            ("vision", "visual", "image", "img", "vit"),
            ("text", "language", "txt", "transformer"),
            ("audio", "speech", "sound"),
            ("encoder", "enc"),
            ("decoder", "dec"),
            ("swa", "sliding", "local"),
            ("global", "full"),
            ("cross", "crossattention"),
        ),
    )
)
"""Words for the same part of a model."""

_NO_TEXT = _ALIKE[0] | _ALIKE[2]

_WORDS_ALIKE: Mapping[str, frozenset[str]] = {word: words for words in _ALIKE for word in words}

_CONTAINERS = ("config", "configs", "cfg", "args", "arguments", "params", "parameters", "hparams", "hyper", "kwargs")
_WHOLES = ("model", "models", "module", "net", "network", "arch", "architecture", "settings", "options")
_RUNS = ("train", "training", "init", "hf", "pretrained")
_SAY_NOTHING = frozenset((*_CONTAINERS, *_WHOLES, *_RUNS, "attention", "attn", "per", "layer", "layers"))
"""Words of a section's name that name no part of a model."""

_WEAK = frozenset({"encoder", "tower", "backbone", "head"})
"""Words that a section's name may have beside the one that names the part."""

_CROSS = late_pattern(
    r"cross|encoder_attn|encoder_decoder|enc_dec|encdec|attn2|x_attn|src_attn|multihead_attn|EncDecAttention"
)


class Claim(NamedTuple):
    """How well a section's or key's words speak of a layer.

    Attributes:
        matched: how many of the words that name a part were found in the layer's name.
        missing: the words that were not.
        position: where in the layer's name the first of them stands; its length if none does.
    """

    matched: int
    missing: tuple[str, ...]
    position: int

    @property
    def speaks(self) -> bool:
        """Whether no word names another part of the model."""
        return not self.missing


def claim(
    keys: Sequence[str], kinds: Sequence[str], roles: Sequence[str], layer: str, also: Sequence[str] = ()
) -> Claim:
    """How well a value of a config speaks of a layer.

    Args:
        keys: the keys that lead to its section, the outermost first.
        kinds: the ``model_type`` of each of these sections; "" where it has none.
        roles: words of the value's own key that name a part.
        also: further words that describe the layer, such as its type.
    """
    matched, position = 0, len(layer)
    missing: list[str] = []
    for key, kind in zip(keys, kinds, strict=True):
        if key.isdecimal():
            matched, missing = (matched + 1, missing) if _numbered(key, layer) else (matched, [*missing, key])
            continue
        named = [word for word in split_words(key) if word not in _SAY_NOTHING]
        if not named:
            continue
        strong = [word for word in named if word not in _WEAK] or named
        found = _all_found(strong, layer)
        if found is None and kind:
            found = next((where for word in _of_kind(kind) if (where := _all_found([word], layer)) is not None), None)
        if found is None:
            missing.append(strong[0])
        else:
            matched += len(named) if all(_find(word, layer) is not None for word in named) else 1
            position = min(position, found)
    for role in roles:
        found = _find(role, layer)
        if found is None and any(_alike(role, word) for word in also):
            matched += 1
        elif found is None:
            missing.append(role)
        else:
            matched += 1
            position = min(position, found)
    return Claim(matched, tuple(missing), position)


@lru_cache(256)
def _of_kind(kind: str) -> tuple[str, ...]:
    """The words of a ``model_type`` that may name a part: ``owlv2_text_model`` is not every layer of owlv2."""
    first, *others = split_words(kind) or ("",)
    part = any(names_a_known_part(word) and not _is_weak("", word) for word in others)
    words = others if part else [first, *others]
    return tuple(word for word in words if word not in _SAY_NOTHING | _WEAK and len(word) > 3)


@lru_cache(4096)
def split_words(name: str) -> tuple[str, ...]:
    """``visionConfig2_x`` as vision, config2, x."""
    return tuple(re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()))


@lru_cache(4096)
def _words(layer: str) -> tuple[tuple[str, int], ...]:
    """The words of a layer's name with their places, and whether it is self- or cross-attention."""
    words = [(found[0].lower(), found.start()) for found in re.finditer(r"[A-Z]?[a-z0-9]+|[A-Z]+", layer)]
    cross = _CROSS.search(layer)
    words.append(("cross" if cross else "self", cross.start() if cross else len(layer) - 1))
    return tuple(words)


def _numbered(key: str, layer: str) -> bool:
    """Whether a number is one of those in a layer's name."""
    return any(word.isdecimal() and int(word) == int(key) for word, _ in _words(layer) if len(word) < 10)


def _all_found(named: Sequence[str], layer: str) -> int | None:
    places = [_find(word, layer) for word in named]
    return None if None in places else min(place for place in places if place is not None)


@lru_cache(4096)
def _find(word: str, layer: str) -> int | None:
    words = _words(layer)
    sees = any(other in _NO_TEXT for other, _ in words)
    return next((at for other, at in words if _alike(word, other) and not (sees and _is_weak(word, other))), None)


def _is_weak(word: str, other: str) -> bool:
    """Whether no more than ``transformer`` speaks for a text tower: a vision tower has one as well."""
    return other == "transformer" != word


@lru_cache(256)
def stands_in(word: str, words: frozenset[str]) -> bool:
    """Whether a part of a model stands among words, under whatever name."""
    return any(_alike(word, other) and not _is_weak(word, other) for other in words)


def says_nothing(key: str) -> bool:
    """Whether a section's name names no part of a model, so that it may hold the whole."""
    return _SAY_NOTHING.issuperset(split_words(key))


def _alike(one: str, other: str) -> bool:
    """Whether two words name the same part: ``vision`` and ``visual``, ``conf`` and ``conformer``."""
    if one == other or other in _WORDS_ALIKE.get(one, ()):
        return True
    short, long = sorted((one, other), key=len)
    return len(short) > 3 and long.startswith(short)


def names_a_known_part(word: str) -> bool:
    """Whether a word is one of those for vision, text, encoder and so on."""
    return word in _WORDS_ALIKE


def speaking(config: Config, layer: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    """(key, values) of the parts of a config that speak of a layer, the most particular first, the root last."""
    found: list[tuple[int, str, Mapping[str, object]]] = []
    for key, value in config.values.items():
        if is_mapping(value):
            kind = value.get("model_type")
            said = claim((key,), (kind if isinstance(kind, str) else "",), (), layer)
            if said.speaks and said.matched:
                found.append((said.position, key, value))
    for _, key, value in sorted(found, key=lambda entry: entry[:2]):
        yield key, {**config.values, **value}
    yield "", config.values
