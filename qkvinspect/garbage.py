"""Put off the search for unreachable cycles while many objects are made that all stay."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def none_collected() -> Generator[None]:
    """Without the collector of cycles, which walks through all that lives each time that it runs.

    A pickle makes millions of nodes, and a checkpoint may have as many layers.

    What nobody refers to any more goes all the same. A caller that has turned the collector off finds it off.
    """
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()
