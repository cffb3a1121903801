"""What no attention claims, by where its names say that it stands: one pass over all names, as most say nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from qkvinspect.fast_tuple import NamedTuple
from qkvinspect.inspection.look_alikes import attention_above, may_project
from qkvinspect.inspection.mixing import mixer_above
from qkvinspect.inspection.names import Names, Path
from qkvinspect.inspection.qk_norms import normed_above
from qkvinspect.inspection.undotted import is_undotted


class Unclaimed(NamedTuple):
    """Names of tensors, by their modules.

    Attributes:
        called: matrices of modules that are called attention.
        mixing: matrices of modules that mix tokens, or that have names of their own for it.
        normed: norms of Q and K, by the module that they are for.
        undotted: projections under names without dots.
    """

    called: dict[Path, list[str]]
    mixing: dict[Path, list[str]]
    normed: dict[Path, list[str]]
    undotted: dict[Path, list[str]]


def unclaimed(
    names: Names, paths: Mapping[str, Path], known: Collection[str] = (), taken: Collection[str] = ()
) -> Unclaimed:
    """Collect it.

    Args:
        paths: of the tensors that are looked at.
        known, taken: those of them that need no more looking at.
    """
    found = Unclaimed({}, {}, {}, {})
    for name, path in paths.items():
        if name in known or name in taken:
            continue
        at = attention_above(path)
        if at and may_project(names.shape(name), path[at:]):
            found.called.setdefault(path[:at], []).append(name)
        at = mixer_above(path)
        if at and sum(size > 1 for size in names.shape(name)) > 1:
            found.mixing.setdefault(path[:at], []).append(name)
        at = normed_above(path)
        if at:
            found.normed.setdefault(path[:at], []).append(name)
        if is_undotted(path[-1]):
            found.undotted.setdefault(path[:-1], []).append(name)
    return found
