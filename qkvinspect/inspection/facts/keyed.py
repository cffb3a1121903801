"""Heads under the keys that a row of the registry names, where the usual ones speak of something else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qkvinspect.fast_dataclass import replace
from qkvinspect.formats.config_keys import ConfigKey
from qkvinspect.inspection.facts.any_config import ranked
from qkvinspect.inspection.facts.fact import HeadFact, is_count
from qkvinspect.inspection.facts.module import HeadedModule
from qkvinspect.inspection.facts.sections import ConfigSection, Said, of_layer, said
from qkvinspect.parsed import is_items


def facts(
    origin: str, sections: Sequence[ConfigSection], module: HeadedModule, keys: Sequence[str]
) -> Iterator[HeadFact]:
    """What these keys say of a module's heads; ``key[]`` is a list with an entry for each stage."""
    spoken: list[tuple[ConfigSection, list[Said]]] = []
    for section in sections:
        others = said(section, module.layer, module.names)
        widths = [one for one in others if one.key.means in ("num_kv_heads", "embed_dim")]
        spoken.append((section, [*_said(section, module, keys), *widths]))
    for fact in ranked(origin, spoken, module):
        yield replace(fact, by_class=True)


def _said(section: ConfigSection, module: HeadedModule, keys: Sequence[str]) -> Iterator[Said]:
    for name in keys:
        key = name.removesuffix("[]")
        value, path = section.values.get(key), f"{section.path}{key}"
        if key != name and not is_items(value):
            continue
        value, suffix = of_layer(value, section.values, module.layer, module.names)
        if is_count(value):
            yield Said(f"{path}{suffix}", ConfigKey("num_heads"), value, module.claim(section))
