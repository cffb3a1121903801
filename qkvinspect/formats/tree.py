"""Walk the children of a pickle's node: of dicts, lists, dict subclasses and pickled modules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import NoneType

from qkvinspect.formats.pickle import Call, Global, Persistent, TensorCall, is_dict, is_sequence
from qkvinspect.formats.torch_objects import is_tensor

_LEAVES = frozenset({str, int, float, bool, bytes, NoneType, Global, Persistent})
_PLAIN = _LEAVES | {TensorCall}
_KEYS = frozenset({str, int})
_COUNTLESS = 1 << 62


def _members(node: object) -> set[object]:
    """The texts in a set, however its pickle protocol writes it: as items, or as a list to call ``set`` with."""
    if not isinstance(node, Call):
        return set()
    arguments = node.arguments if is_sequence(node.arguments) else ()
    listed = arguments[0] if arguments and is_sequence(arguments[0]) else []
    return {item for item in (*node.items, *listed) if isinstance(item, str)}


_IN_MODULES = ("_parameters", "_buffers", "_modules")
"""The dicts that Module.__init__ makes."""


def module_state(node: object) -> dict[object, object] | None:
    """The attributes of a pickled torch.nn.Module; None for any other node."""
    state = node.state if isinstance(node, Call) else None
    if is_dict(state) and all(is_dict(part) or isinstance(part, Call) for part in map(state.get, _IN_MODULES)):
        return state
    return None


def children_of(node: object) -> Mapping[str, object]:
    """What lies below a node, by key; a module has the keys that its state_dict would have."""
    if isinstance(node, Call):
        state = module_state(node)
        if state is None:
            return children_of(node.entries)
        hidden = _members(state.get("_non_persistent_buffers_set"))
        below = {key: child for name in _IN_MODULES for key, child in children_of(state[name]).items()}
        return {key: child for key, child in below.items() if key not in hidden}
    if is_dict(node):
        return {str(key): value for key, value in node.items() if isinstance(key, (str, int))}
    if is_sequence(node):
        return {str(index): item for index, item in enumerate(node)}
    return {}


def values_of(node: object) -> Iterable[object]:
    """What lies below a node, without its keys."""
    if is_dict(node):
        return [value for key, value in node.items() if isinstance(key, (str, int))]
    return node if is_sequence(node) else children_of(node).values()


def may_hold(node: object) -> bool:
    """Whether tensors may lie below a node."""
    return is_dict(node) or is_sequence(node) or isinstance(node, Call)


def _flat(node: dict[object, object]) -> int | None:
    """How many tensors a dict holds as values, if it holds nothing that must be looked into."""
    kinds = list(map(type, node.values()))
    if _PLAIN.issuperset(kinds) and _KEYS.issuperset(map(type, node)):
        return kinds.count(TensorCall)
    return None


class Counts:
    """How many tensors lie at or below a node, as often as they are reached; a cycle adds nothing."""

    def __init__(self) -> None:
        self._known: dict[int, int] = {}

    def direct(self, node: object) -> int:
        """Tensors that are values of this very mapping."""
        return sum(map(is_tensor, values_of(node)))

    def all(self, node: object) -> int:
        """Tensors anywhere below, however deep."""
        if is_tensor(node):
            return 1
        if not may_hold(node):
            return 0
        if id(node) not in self._known:
            self._count(node)
        return self._known[id(node)]

    def _count(self, root: object) -> None:
        known = self._known
        known[id(root)] = 0  # so that a cycle adds nothing
        open = [(id(root), iter(values_of(root)))]
        totals = [0]
        while open:
            key, children = open[-1]
            for child in children:
                kind = type(child)
                if kind is TensorCall:
                    totals[-1] += 1
                elif kind in _LEAVES:
                    continue
                elif is_dict(child) and (held := _flat(child)) is not None:
                    totals[-1] += held
                elif is_tensor(child):
                    totals[-1] += 1
                elif id(child) in known:
                    totals[-1] += known[id(child)]
                elif may_hold(child):
                    known[id(child)] = 0
                    open.append((id(child), iter(values_of(child))))
                    totals.append(0)
                    break
            else:
                open.pop()
                total = known[key] = min(totals.pop(), _COUNTLESS)
                if totals:
                    totals[-1] += total
