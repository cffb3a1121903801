"""What the config of a checkpoint says of the heads of one module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qkvinspect.checkpoint import Config
from qkvinspect.fast_dataclass import replace
from qkvinspect.inspection.facts import any_config, keyed
from qkvinspect.inspection.facts.fact import HeadFact, SaidBy
from qkvinspect.inspection.facts.libraries import LIBRARIES
from qkvinspect.inspection.facts.module import HeadedModule
from qkvinspect.inspection.facts.sections import ConfigSection
from qkvinspect.inspection.facts.shares import pruned, ranks


def of_other_parts(config: Config, parts: Sequence[ConfigSection], module: HeadedModule) -> Iterator[HeadFact]:
    """What a config says of its other parts, where nothing says more."""
    return any_config.of_other_parts(config.origin, parts, module)


def of_config(config: Config, parts: Sequence[ConfigSection], module: HeadedModule) -> Iterator[HeadFact]:
    """What a config says: as its library reads it where that is known, else by its words."""
    keys = module.candidate.layout.head_keys
    found = next((list(said) for library in LIBRARIES if (said := library(config, parts, module)) is not None), None)
    if found is None and keys:
        found = list(keyed.facts(config.origin, parts, module, keys))
    elif found is None:
        found = list(any_config.facts(config.origin, parts, module))
    said_by = SaidBy.CHECKPOINT if config.inside else SaidBy.CONFIG
    share, removed = ranks(config), pruned(config, module)
    for fact in found:
        yield replace(fact, said_by=said_by, config=config.origin, ranks=share, pruned=removed)
