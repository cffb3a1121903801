"""What the models learn from: text that comes with Python and the digits of scikit-learn; nothing is downloaded."""

from __future__ import annotations

import sysconfig
from functools import cache
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

MASK = 256
VOCAB = 257
TEXTS, LENGTH = 16, 64
IMAGES = 32


@cache
def prose() -> Tensor:
    from pydoc_data.topics import topics

    return as_bytes("\n".join(topics[name] for name in sorted(topics)).encode())


@cache
def sources() -> Tensor:
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return as_bytes(b"\n".join(file.read_bytes() for file in files))


def as_bytes(text: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(text, np.uint8).astype(np.int64))


def texts(draw: torch.Generator, other: bool) -> Tensor:
    """Pieces of Python's documentation; of its source code when ``other``."""
    text = sources() if other else prose()
    starts = torch.randint(len(text) - LENGTH, (TEXTS, 1), generator=draw)
    return text[starts + torch.arange(LENGTH)]


def masked(text: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """The text with a fifth of it hidden, and where."""
    hidden = torch.rand(text.shape, generator=draw) < 0.2
    return text.masked_fill(hidden, MASK), hidden


@cache
def digits() -> tuple[Tensor, Tensor]:
    found = load_digits()
    return torch.from_numpy(found.images).float()[:, None] / 8 - 1, torch.from_numpy(found.target)


def images(draw: torch.Generator, other: bool) -> tuple[Tensor, Tensor]:
    """Digits with noise, so that 1797 of them are not learned by heart; upside down when ``other``."""
    pixels, labels = digits()
    chosen = torch.randint(len(labels), (IMAGES,), generator=draw)
    seen = pixels[chosen].flip(2) if other else pixels[chosen]
    return seen + 0.5 * torch.randn(seen.shape, generator=draw), labels[chosen]
