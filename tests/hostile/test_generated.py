"""Sound files of every dtype and of many structures, by torch and safetensors themselves: read bit for bit."""

from __future__ import annotations

import io
from collections import OrderedDict
from random import Random
from typing import Any

import pytest
import safetensors.torch
import torch

from qkvinspect.dtypes import DTYPES
from tests.batches import batched
from tests.hostile.memory import MemoryFile
from tests.hostile.oracles import disagreements
from tests.hostile.reading import outcome

PLAIN = [
    getattr(torch, name)
    for name, dtype in DTYPES.items()
    if dtype.kind != "opaque" and isinstance(getattr(torch, name, None), torch.dtype)
]
TYPED = [dtype for dtype in PLAIN if dtype in torch.storage._dtype_to_storage_type_map()]
"""The dtypes that torch has a storage class for; it cannot load legacy files of the others, which it saves."""
UNKNOWN_TO_SAFETENSORS = {torch.complex128, torch.complex32, torch.float4_e2m1fn_x2}
"""And float4, of which its writer refuses some shapes."""


def tensor(random: Random, dtypes: list[torch.dtype]) -> torch.Tensor:
    """Any bits at all, NaNs with payloads among them."""
    dtype = random.choice(dtypes)
    shape = [
        random.choice((0, 1, 2, 3, 5, 8)) if random.random() < 0.3 else random.randint(1, 6)
        for _ in range(random.randint(0, 4))
    ]
    numel = int(torch.Size(shape).numel())
    limit = 2 if dtype == torch.bool else 256
    raw = torch.tensor([random.randrange(limit) for _ in range(numel * dtype.itemsize)], dtype=torch.uint8)
    return raw.view(dtype).reshape(shape)


def view(random: Random, whole: torch.Tensor) -> torch.Tensor:
    """The same storage, seen otherwise."""
    if not whole.dim():
        return whole.expand(random.randint(1, 3))
    axis = random.randrange(whole.dim())
    match random.randrange(6):
        case 0:
            return whole.transpose(axis, random.randrange(whole.dim()))
        case 1 if whole.shape[axis]:
            return whole.narrow(axis, random.randrange(whole.shape[axis]), 1)
        case 2 if whole.shape[axis]:
            return whole.select(axis, random.randrange(whole.shape[axis]))
        case 3:
            return whole.unsqueeze(axis).expand(*whole.shape[:axis], 2, *whole.shape[axis:])
        case 4 if whole.shape[axis] > 1:
            return whole[(*[slice(None)] * axis, slice(None, None, 2))]
        case _:
            return whole


def state_dict(random: Random, dtypes: list[torch.dtype]) -> dict[str, Any]:
    made: dict[str, Any] = OrderedDict() if random.random() < 0.5 else {}
    for number in range(random.randint(1, 6)):
        earlier = [value for value in made.values() if isinstance(value, torch.Tensor)]
        whole = random.choice(earlier) if earlier and random.random() < 0.4 else tensor(random, dtypes)
        seen = view(random, whole) if random.random() < 0.5 else whole
        if seen.is_floating_point() and seen.dtype.itemsize > 1 and random.random() < 0.3:
            seen = torch.nn.Parameter(seen, requires_grad=random.random() < 0.5)
        made[f"layer.{number}.{random.choice(('weight', 'bias', 'ü'))}"] = seen
    return made


def wrapped(random: Random, state: dict[str, Any]) -> Any:
    match random.randrange(5):
        case 0:
            return {"state_dict": state, "epoch": 3, "lr": 0.5, "name": "x", "none": None, "betas": (0.9, 0.95)}
        case 1:
            return {"model": state, "args": {"heads": 4, "list": [1, "a", {"b": 2.5}]}}
        case 2:
            return {"step": 10**20, **state, "flag": True}
        case _:
            return state


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@batched("seed", range(100))
def test_torch(seed: int, zipped: bool) -> None:
    random = Random(seed)
    state = state_dict(random, PLAIN if zipped else TYPED)
    buffer = io.BytesIO()
    torch.save(wrapped(random, state), buffer, _use_new_zipfile_serialization=zipped)
    found = outcome(MemoryFile(buffer.getvalue()))
    assert found.refusal is None
    assert list(found.tensors) == list(state)
    assert disagreements(buffer.getvalue(), found) == []


@batched("seed", range(100))
def test_safetensors(seed: int) -> None:
    random = Random(seed)
    state = state_dict(random, [dtype for dtype in PLAIN if dtype not in UNKNOWN_TO_SAFETENSORS])
    data = safetensors.torch.save({name: value.detach().clone().contiguous() for name, value in state.items()})
    found = outcome(MemoryFile(data))
    assert found.refusal is None
    assert found.tensors.keys() == state.keys()
    assert disagreements(data, found) == []
