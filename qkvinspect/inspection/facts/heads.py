"""Collect what a flag, the layout, the configs, the pickled modules and the tensors say about the heads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from qkvinspect.checkpoint import Config
from qkvinspect.inspection.candidates import Candidate
from qkvinspect.inspection.facts.bare_formats import FORMATS
from qkvinspect.inspection.facts.fact import HeadFact, SaidBy, is_count
from qkvinspect.inspection.facts.flags import HeadFlag
from qkvinspect.inspection.facts.module import HeadedModule
from qkvinspect.inspection.facts.sections import ConfigSection, says_the_same_of_alike_layers, sections
from qkvinspect.inspection.names import Names, numberless
from qkvinspect.weights.head_list import heads_of

Ask = Callable[[Config, Sequence[ConfigSection], HeadedModule], Iterable[HeadFact]]
"""Reads a config for one module."""

_ATTRIBUTES = ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads")


class Sources:
    """All sources for the heads of a checkpoint's layers."""

    def __init__(
        self,
        names: Names,
        flags: Sequence[HeadFlag],
        configs: Sequence[Config],
        modules: Mapping[str, Mapping[str, object]],
    ) -> None:
        self._names = names
        self._flags = flags
        self._modules = modules
        self._configs = [(config, sections(config)) for config in configs]
        self._speaks_alike = [says_the_same_of_alike_layers(config.values) for config in configs]
        self._said: dict[object, tuple[HeadFact, ...]] = {}

    def facts(self, candidate: Candidate) -> list[HeadFact]:
        """What each source says about a layer, the most trusted first."""
        return list(self._facts(candidate))

    def _facts(self, candidate: Candidate) -> Iterator[HeadFact]:
        for flag in reversed(self._flags):
            if fnmatchcase(candidate.layer, flag.glob):
                yield HeadFact("flag", flag.num_heads, flag.num_kv_heads, said_by=SaidBy.FLAG)
                break
        own = candidate.layout
        if own.num_heads is not None:
            yield HeadFact(own.found_by, own.num_heads, own.num_kv_heads, own.head_dim, said_by=SaidBy.ROW)
        module = HeadedModule.of(candidate, self._names)
        yield from self._of_configs(module, other_parts=False)
        yield from self._of_modules(candidate)
        yield from self._of_tensors(candidate)
        for format in FORMATS:
            yield from format(module)
        yield from self._of_configs(module, other_parts=True)

    def _of_configs(self, module: HeadedModule, *, other_parts: bool) -> Iterator[HeadFact]:
        if self._configs:
            from qkvinspect.inspection.facts import configs  # late, as all that knows the libraries

            ask = configs.of_other_parts if other_parts else configs.of_config
            for number in range(len(self._configs)):
                yield from self._of_config(number, module, ask)

    def _of_config(self, number: int, module: HeadedModule, ask: Ask) -> Iterable[HeadFact]:
        """What a config says, read once for layers whose names differ in numbers only, where these count nothing."""
        config, parts = self._configs[number]
        if any(weight.name in config.silent_on for weight in module.candidate.weights):
            return ()
        if not self._speaks_alike[number]:
            return ask(config, parts, module)
        name = numberless(tuple(module.layer.split(".")))
        key = ask, number, name, module.candidate.layout, module.widths, module.rows
        if key not in self._said:
            self._said[key] = tuple(ask(config, parts, module))
        return self._said[key]

    def _of_modules(self, candidate: Candidate) -> Iterator[HeadFact]:
        attributes = self._modules.get(candidate.layer, {})
        for key in _ATTRIBUTES:
            value = attributes.get(key)
            if is_count(value):
                yield HeadFact(f"checkpoint:{candidate.layer}.{key}", value, said_by=SaidBy.CHECKPOINT)
                break

    def _of_tensors(self, candidate: Candidate) -> Iterator[HeadFact]:
        for stored, weight in zip(candidate.layout.weights, candidate.weights, strict=True):
            whole = len(stored.packing.order) > 1 and stored.packing.groups == "one"  # [3, out, in]
            count = heads_of(weight) if "q" in stored.packing.parts and not whole else None
            if count is not None:
                yield HeadFact(f"tensor:{weight.name}", count, said_by=SaidBy.TENSOR)
        for tensor in candidate.layout.head_tensors:
            info = self._names.find_in_stack(tensor.key, candidate.path, alike=True)
            if info is None or len(info.shape) <= tensor.axis:
                continue
            # A norm with values of its own for each head is [heads, head_dim]: Chameleon's, StableLM's.
            axis = -1 if tensor.fixes == "head_dim" and len(info.shape) == 2 else tensor.axis
            size, origin = info.shape[axis], f"tensor:{info.name}"
            if not is_count(size):
                continue
            if tensor.fixes == "num_heads":
                yield HeadFact(origin, size, said_by=SaidBy.TENSOR)
            elif size < candidate.first_size:  # a norm over all heads at once says nothing
                yield HeadFact(origin, head_dim=size, said_by=SaidBy.TENSOR)
