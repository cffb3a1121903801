"""torch's compiler, which each optimizer imports to tell it that it is not to be compiled; hardly a test needs more.

To import it takes each process that runs tests 3 s, and 8 where Python has not compiled it yet.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

_NAME = "torch._dynamo"


class _LeftOut(ModuleType):
    @staticmethod
    def disable(function: Any, *_: object, **__: object) -> Any:
        return function

    @staticmethod
    def graph_break(*_: object) -> None: ...


def leave_out() -> None:
    sys.modules.setdefault(_NAME, _LeftOut(_NAME))


def take() -> None:
    """Whoever asks for it from now on has it."""
    if isinstance(sys.modules.get(_NAME), _LeftOut):
        del sys.modules[_NAME]
