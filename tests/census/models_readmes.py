"""Libraries whose README shows how each of their models is built and called: the examples themselves are run.

An example is Python text of the installed package's own description. What it builds and calls at its top level is a
model of the census; depths are made small in the text first, and nothing is trained.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import re
import signal
from collections.abc import Iterator, Mapping
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from tests.census.model import CALLED_ATTENTION, Model

LIBRARIES = (
    "vit-pytorch", "x-transformers", "alphafold3-pytorch", "audiolm-pytorch", "dalle2-pytorch",
    "denoising-diffusion-pytorch", "enformer-pytorch", "flamingo-pytorch", "imagen-pytorch",
    "linear-attention-transformer", "memory-efficient-attention-pytorch", "meshgpt-pytorch", "musiclm-pytorch",
    "PaLM-rlhf-pytorch", "perceiver-pytorch", "performer-pytorch", "q-transformer", "reformer-pytorch",
    "routing-transformer", "sinkhorn-transformer", "soundstorm-pytorch", "swin-transformer-pytorch",
    "tab-transformer-pytorch", "transfusion-pytorch",
)  # fmt: skip
LARGEST = 160_000_000
DEEP = re.compile(r"\b(\w*depth|num_layers|\w*_layers)\s*=\s*(\d+)")


def _examples(library: str) -> Iterator[str]:
    """The blocks of Python in a package's description, less deep."""
    text = str(importlib.metadata.metadata(library).get_payload())
    for block in re.findall(r"```(?:python|py)\n(.*?)```", text, re.DOTALL):
        if "import" in block and "(" in block:
            shallow = DEEP.sub(lambda found: f"{found[1]}={min(int(found[2]), 2)}", block)
            yield shallow.replace(".cuda()", "").replace('device = "cuda"', 'device = "cpu"')


class _EnoughError(Exception):
    """Enough was seen."""


def _called(example: str) -> list[tuple[nn.Module, tuple[Any, ...], dict[str, Any]]]:
    """What an example calls at its top level, with its arguments; nothing is computed but those calls."""
    calls: dict[int, tuple[nn.Module, tuple[Any, ...], dict[str, Any]]] = {}
    depth = 0
    real = nn.Module.__call__

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        nonlocal depth
        if not depth and id(module) not in calls and any(isinstance(a, Tensor) for a in (*args, *kwargs.values())):
            if sum(p.numel() for p in module.parameters()) > LARGEST:
                raise _EnoughError
            calls[id(module)] = (module, args, kwargs)
        depth += 1
        try:
            return real(module, *args, **kwargs)
        finally:
            depth -= 1

    signal.alarm(60)
    with contextlib.suppress(_EnoughError, Exception), patch.object(nn.Module, "__call__", call), \
            patch.object(Tensor, "backward", lambda *_, **__: None), torch.no_grad(), \
            contextlib.redirect_stdout(io.StringIO()):  # fmt: skip
        exec(example, {"__name__": "example"})
    signal.alarm(0)
    return list(calls.values())


def _holds_attention(module: nn.Module) -> bool:
    return any(CALLED_ATTENTION.search(type(part).__name__) for part in module.modules())


def _models(library: str) -> Iterator[Model]:
    seen: set[tuple[type, tuple[str, ...]]] = set()
    for example in _examples(library):
        torch.manual_seed(0)
        for module, args, kwargs in _called(example):
            kind = (type(module), tuple(sorted({re.sub(r"\d+", "#", n) for n, _ in module.named_parameters()})))
            if kind in seen or not _holds_attention(module):
                continue
            seen.add(kind)
            home = f"{type(module).__module__.rpartition('.')[2]}.{type(module).__name__}"
            number = sum(type(module) is other for other, _ in seen)
            name = home + (f".{number}" if number > 1 else "")
            yield Model(library, name, lambda module=module: module, _again(args, kwargs))


def _again(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return lambda module: module(*args, **kwargs)


def models() -> Iterator[Model]:
    """What the examples build; they may write files, in a folder that goes away."""
    with TemporaryDirectory() as folder, contextlib.chdir(folder):
        for library in LIBRARIES:
            yield from _models(library)
