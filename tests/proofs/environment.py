"""Make the libraries importable and runnable on one CPU process."""

from __future__ import annotations

import importlib
import os
import sys

import torch


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
    logging = importlib.import_module("transformers").logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    return alive
