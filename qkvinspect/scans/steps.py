"""Determine the training step of a checkpoint from what it holds, or else from its name; it is never guessed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from qkvinspect.checkpoint import Checkpoint
from qkvinspect.late_pattern import late_pattern

_KEYS = (
    ("global_step", "global_steps", "step", "steps", "iteration", "iter", "iter_num", "num_updates", "it"),
    ("epoch", "epochs"),
)
"""Keys of Lightning, transformers, DeepSpeed, Megatron, nanoGPT and fairseq; epochs only where there is no step."""

_WORDS = ("global_?steps?|steps?|iterations?|iters?|it|updates?", "checkpoint|ckpt", "epochs?|ep")
_NUMBER = r"[=_\-. ]?(\d{1,18})(?![\dA-Za-z]|\.\d)"
_IN_NAMES = tuple(late_pattern(rf"(?<![A-Za-z])({words}){_NUMBER}", re.IGNORECASE) for words in _WORDS)
_BARE = late_pattern(r"\d{1,18}")
_SUFFIX = late_pattern(r"(\.(safetensors|pth?|bin|ckpt|index|json|tar))+$")
_MOST = 1 << 62
_TRAINER_STATE = "config:trainer_state.json"


def step_of(checkpoint: Checkpoint, path: str) -> tuple[int | None, str | None]:
    """The step, and where it comes from: ``checkpoint:global_step``, ``metadata:step``, ``name:checkpoint-1000``.

    Args:
        path: as the user named it.
    """
    own = [(f"{config.origin}:", config.values) for config in checkpoint.configs if config.outermost]
    trainer = [(f"{config.origin}:", config.values) for config in checkpoint.configs if config.origin == _TRAINER_STATE]
    held: list[tuple[str, Mapping[str, object]]] = [*own, ("metadata:", checkpoint.metadata), *trainer]
    for keys in _KEYS:
        for origin, values in held:
            for key in keys:
                number = _count(values.get(key))
                if number is not None:
                    return number, origin + key
        if keys is _KEYS[0] and (found := in_name(path, _IN_NAMES[:2])):
            return found
    return in_name(path, _IN_NAMES[2:]) or (None, None)


def in_name(path: str, words: tuple[re.Pattern[str], ...] = _IN_NAMES) -> tuple[int, str] | None:
    """The step that the name of a file, or of the folder that it lies in, gives; None where it gives none or two."""
    for name in _names(path):
        for word in words:
            found = {int(match[2]): f"name:{match[0]}" for match in word.finditer(name)}
            if found:
                return next(iter(found.items())) if len(found) == 1 else None
        if words[0] is _IN_NAMES[0] and _BARE.fullmatch(name):
            return int(name), f"name:{name}"
    return None


def _names(path: str) -> Iterator[str]:
    parts = [part for part in re.split(r"[/\\]", path.partition("://")[2].partition("?")[0] or path) if part]
    for part in reversed(parts[-2:]):
        yield _SUFFIX.sub("", part)


def _count(value: object) -> int | None:
    """A number of steps: whole, not negative; as text in what can hold text only."""
    if isinstance(value, str) and _BARE.fullmatch(value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value < _MOST else None
