"""Modules that PEFT trains whole (``modules_to_save``): which copy a model uses, and what is said of the other.

Beside ``M.original_module.weight``, which stays as it was, a model holds ``M.modules_to_save.default.weight``, and
uses and merges the copy of the adapter that is active (peft 0.21, utils/other.py, ModulesToSaveWrapper).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from qkvinspect.fast_dataclass import replace
from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import Finding
from qkvinspect.inspection.components import ORIGINAL, TRAINED
from qkvinspect.inspection.report import Attention
from qkvinspect.late_pattern import late_pattern
from qkvinspect.tensor_table import unlike_names
from qkvinspect.weights.encodings import Weights

_TRAINED, _ORIGINAL = f".{TRAINED}.", f".{ORIGINAL}."
_NAME = late_pattern(rf"^(.+)\.{TRAINED}\.([^.]+)\.(.+)$")

Copies = Mapping[str, tuple[str, ...]]
"""The copies of each weight that one or more adapters trained, by the name of its original."""


def trained_copies(weights: Weights) -> Copies:
    """What adapters trained whole of which the original is there as well."""
    if not any(_TRAINED in name for name in (*unlike_names(weights.tensors), *weights.encoded)):
        return {}
    found: dict[str, tuple[str, ...]] = {}
    for name in weights:
        match = _NAME.match(name)
        original = f"{match[1]}{_ORIGINAL}{match[3]}" if match else ""
        if original in weights:
            found[original] = (*found.get(original, ()), name)
    return found


def is_copied(name: str) -> bool:
    """Whether a weight is, by its name, of a module of which PEFT keeps two copies."""
    return not {TRAINED, ORIGINAL}.isdisjoint(name.split("."))


def as_used(weights: Weights, copies: Copies) -> Weights:
    """The weights without the originals of which one adapter has a copy.

    Where several have one nothing says which is active: the original stays, and the copies are left out.
    """
    gone = {name for original, some in copies.items() for name in ((original,) if len(some) == 1 else some)}
    if not gone:
        return weights
    encoded = {name: weight for name, weight in weights.encoded.items() if name not in gone}
    return replace(weights.without(gone), encoded=encoded)


def about_copies(attentions: Iterable[Attention], copies: Copies) -> Iterator[Finding]:
    """Say which copy is read wherever there are two."""
    if not copies:
        return
    used = {some[0]: original for original, some in copies.items() if len(some) == 1}
    for attention in attentions:
        said = (_about(name, used, copies) for name in sorted(attention.tensor_names))
        for finding in dict.fromkeys(filter(None, said)):
            yield finding.of(attention.layer)


def _about(name: str, used: Mapping[str, str], copies: Copies) -> Finding | None:
    """What is said of the module that a tensor is of; the same for all tensors of it."""
    original = used.get(name, name)
    if original not in copies:
        return None
    module = original.rpartition(_ORIGINAL)[0].rpartition(".")[2]
    adapters = [match[2] for one in copies[original] if (match := _NAME.match(one))]
    if name in used:
        text = f"{module} is read from {module}{_TRAINED}{adapters[0]}, which PEFT trained and the model uses"
        return Finding(FindingCode.TRAINED_COPY, f"{text}: {module}{_ORIGINAL[:-1]} from before is left out")
    text = f"{module} is read from {module}{_ORIGINAL[:-1]}, from before the training: {len(adapters)} adapters "
    text += f"trained one of their own in modules_to_save ({', '.join(adapters[:4])}), and nothing says which is used"
    return Finding(FindingCode.ADAPTER_LEFT_OUT, text)
