"""Make the libraries importable and runnable on one CPU process."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from unittest.mock import MagicMock, patch

import torch


def hollow(name: str) -> None:
    """Let submodules be imported without what the package itself pulls in (audio, cloud storage)."""
    spec = importlib.util.find_spec(name)
    if spec is not None and name not in sys.modules:
        package = ModuleType(name)
        package.__path__ = list(spec.submodule_search_locations or ())
        package.__spec__ = spec
        sys.modules[name] = package


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Import modules that import, and do not call, packages which need not be installed for this."""
    with patch.dict(sys.modules, {name: MagicMock() for name in names}):
        before = set(sys.modules)
        yield
        kept = {name: module for name, module in sys.modules.items() if name not in before}
    sys.modules.update({name: module for name, module in kept.items() if name not in names})


def prepare() -> list[object]:
    """Keep the result alive while anything is imported.

    A GPU build of torchvision cannot register its kernels with a CPU build of torch; declaring two of its
    operators is enough to import it.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    alive: list[object] = []
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        operators = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        alive.append(operators)
        importlib.import_module("torchvision")
    for name in ("audiocraft", "olmo"):
        hollow(name)
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    logging = importlib.import_module("transformers").logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    return alive
