"""How many heads the attentions of timm's architectures and open_clip's models have, by their names.

timm's ``config.json`` names only an architecture, and open_clip's may name only a model. The libraries
themselves were asked: each model was built without weights, and each attention module's own attribute noted.
``tests/tables`` holds the generators, and the tests that compare these tables with the libraries.

A table is a JSON file, read when it is first asked. Models that answer alike share one row::

    {"models": ["swin_s3_tiny_224", ...], "heads": {"layers.#.blocks.*.attn": [3, 6, 12, 24]}}

In a pattern, ``*`` stands for any number of a module's path, ``#`` for the one that counts in the list behind
it (0: no attention there). A path without either stands for itself and outranks the patterns. Text behind a
path names the timm architecture that is stored under it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from qkvinspect.fast_dataclass import dataclass
from qkvinspect.late_pattern import late_pattern
from qkvinspect.parsed import is_items, is_mapping, is_size

_WRAPPERS = late_pattern(r"(?:module|model|_orig_mod|state_dict|model_ema|student|teacher|clip|clip_model)\.")
"""What training scripts put before a model's own names."""

_TOWERS = late_pattern(
    rf"{_WRAPPERS.pattern}|(?:net|network|_?backbone|encoder|visual|trunk|image_encoder|image_tower|vision_model"
    r"|vision_tower|timm_model)\."
)
"""The same, and the names under which other models keep a timm model of theirs."""

_PROJECTION = late_pattern(r"\.(?:qkv|qk|kv|q|k|v|query|key|value|q_proj|k_proj|v_proj)(?:\.(?:linear|conv|c|proj))?$")
"""A projection of the attention module that it is part of: ``attn.qkv.linear`` has the heads of ``attn``."""

_NUMBER = late_pattern(r"(?<![^.])\d+(?![^.])")
_FLAT = late_pattern(r"_(\d+)(?=\.|$)")

_Answers = dict[str, object]


@dataclass(frozen=True, slots=True)
class _HeadTable:
    """The rows of one library: patterns and their answers, by the model's name."""

    heads: dict[str, _Answers]
    kv_heads: dict[str, _Answers]


def timm_heads(architecture: str, layer: str) -> int | None:
    """How many heads a layer of a timm model has; None where the table does not hold it.

    Args:
        architecture: as ``config.json`` names it; a tag (``.augreg_in21k``) or an owner (``timm/``) may be there.
        layer: the module that holds Q, K and V, as stored: ``blocks.0.attn``, also behind wrappers' names
            (``module.``, ``visual.trunk.``) and as ``features_only`` flattens it (``layers_0.blocks.0.attn``).
    """
    return _of_timm(_table("timm").heads, architecture, layer)


def timm_kv_heads(architecture: str, layer: str) -> int | None:
    """How many K/V heads a layer has where they are fewer than the heads; None elsewhere and where unknown."""
    return _of_timm(_table("timm").kv_heads, architecture, layer)


def open_clip_heads(model: str, layer: str) -> int | None:
    """How many heads a layer of an open_clip model has; None where the table does not hold it.

    Args:
        model: as ``open_clip.list_models()`` names it; ``ViT-B/32`` is ``ViT-B-32``.
        layer: the module that holds Q, K and V, as stored: ``visual.transformer.resblocks.0.attn``,
            ``visual.trunk.blocks.0.attn``. Without ``text.`` or ``visual.`` before it, as a tower saved alone
            has it, it is looked for in both towers, which must then agree.
    """
    answers = _table("open_clip").heads.get(model.replace("/", "-"), {})
    for name in _unwrapped(layer, _WRAPPERS):
        if (found := _of_model(answers, name)) is not None:
            return found
        others = {_of_model(answers, path) for path in (f"text.{name}", name.removeprefix("text."), f"visual.{name}")}
        if len(others := others - {None}) == 1:
            return others.pop()
    return None


def _of_timm(rows: dict[str, _Answers], architecture: str, layer: str) -> int | None:
    answers = rows.get(architecture.rpartition("/")[2].partition(".")[0], {})
    for name in _unwrapped(layer, _TOWERS):
        for path in (name, _FLAT.sub(r".\1", name)):
            if (found := _look_up(answers, path)) is not None:
                return found
    return None


def _of_model(answers: _Answers, path: str) -> int | None:
    """What is said of a module of an open_clip model, by timm's table where a timm model is stored under it."""
    for tower, architecture in answers.items():
        if isinstance(architecture, str) and path.startswith(f"{tower}."):
            return timm_heads(architecture, path.removeprefix(f"{tower}."))
    return _look_up(answers, path)


def _unwrapped(layer: str, wrappers: re.Pattern[str]) -> Iterator[str]:
    """A layer's name as it is, and without each wrapper that stands before it."""
    yield layer
    while found := wrappers.match(layer):
        layer = layer[found.end() :]
        yield layer


def _look_up(answers: _Answers, path: str) -> int | None:
    """What is said of a module; of a projection, what is said of its attention."""
    for module in (path, _PROJECTION.sub("", path)):
        for pattern, index in _patterns(module):
            answer = answers.get(pattern)
            if is_items(answer):
                answer = answer[index] if index is not None and index < len(answer) else None
            if answer is not None:
                return answer if is_size(answer) else None
    return None


def _patterns(path: str) -> Iterator[tuple[str, int | None]]:
    """Every pattern that could speak of a path, with the number that counts in its list."""
    yield path, None
    yield _NUMBER.sub("*", path), None
    for number in _NUMBER.finditer(path):
        before, after = path[: number.start()], path[number.end() :]
        yield f"{_NUMBER.sub('*', before)}#{_NUMBER.sub('*', after)}", int(number[0])


@cache
def _table(library: str) -> _HeadTable:
    """One library's table, from the file beside this one."""
    import json

    root: object = json.loads((Path(__file__).parent / f"{library}.json").read_text(encoding="utf-8"))
    table = _HeadTable({}, {})
    for row in _rows(root):
        for model in _texts(row.get("models")):
            for key, of in (("heads", table.heads), ("kv_heads", table.kv_heads)):
                if is_mapping(answers := row.get(key)):
                    of[model] = answers
    return table


def _rows(root: object) -> Iterator[dict[str, object]]:
    rows = root.get("rows") if is_mapping(root) else None
    yield from filter(is_mapping, rows if is_items(rows) else ())


def _texts(items: object) -> Iterator[str]:
    yield from (item for item in (items if is_items(items) else ()) if isinstance(item, str))
