"""An inert reader of pickles: it walks the opcodes and builds plain nodes.

Nothing that the pickle names is imported, called or looked up; a class or function is a Global with two
strings, a call of it a Call that holds its arguments. Plain values become plain Python values.

The opcodes are those of CPython's Lib/pickle.py and Lib/pickletools.py, protocols 0 to 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.fast_dataclass import dataclass
from qkvinspect.formats.limits import Limits
from qkvinspect.formats.pickle.machine import Machine
from qkvinspect.formats.pickle.nodes import Call, Global, Persistent, is_dict, is_sequence
from qkvinspect.formats.pickle.tensor_calls import TensorCall
from qkvinspect.formats.pickle.walk import walk

__all__ = [
    "Call",
    "Global",
    "Loaded",
    "Persistent",
    "TensorCall",
    "is_dict",
    "is_sequence",
    "load",
    "load_prefix",
    "load_whole",
]


@dataclass(frozen=True, slots=True)
class Loaded:
    """One pickle: its value, the offset behind it, and the outside things that it refers to, in order.

    Attributes:
        globals: the classes and functions that it names.
        called: those that it would call as functions.
    """

    value: object
    end: int
    persistent: tuple[Persistent | TensorCall, ...]
    globals: tuple[Global, ...] = ()
    called: tuple[Global, ...] = ()

    @property
    def references(self) -> Iterator[Persistent]:
        return (item.storage if isinstance(item, TensorCall) else item for item in self.persistent)


def load(data: bytes, where: str, limits: Limits | None = None) -> object:
    """The value of the pickle that ``data`` consists of; see ``load_whole``."""
    return load_whole(data, where, limits).value


def load_whole(
    data: bytes, where: str, limits: Limits | None = None, refer: Callable[[object], object] = Persistent
) -> Loaded:
    """Read the pickle that ``data`` consists of.

    Args:
        where: the file (and entry) it came from, for error messages.
        refer: what stands for an outside thing, by its id.

    Raises:
        CheckpointError: it is malformed, uses opcodes that no torch file does, or goes over a limit.
    """
    loaded = load_prefix(data, 0, where, limits, refer)
    if loaded.end != len(data):
        raise CheckpointError(
            "has bytes after the pickle's end",
            code=Code.PICKLE_TRAILING,
            file=where,
            expected=f"{loaded.end} bytes",
            found=f"{len(data)}",
            hint="the file is damaged: copy or download it again",
        )
    return loaded


def load_prefix(
    data: bytes, start: int, where: str, limits: Limits | None = None, refer: Callable[[object], object] = Persistent
) -> Loaded:
    """Read one pickle that begins at ``start``; more may follow it."""
    machine = Machine(data, start, where, limits or Limits(), refer)
    value = walk(machine)
    called = tuple(dict.fromkeys(machine.called.values()))
    return Loaded(value, machine.position, tuple(machine.persistent), tuple(machine.globals), called)
