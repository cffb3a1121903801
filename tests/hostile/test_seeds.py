"""The files that get broken are sound, and what they hold is what torch and safetensors say."""

from __future__ import annotations

import pytest

from tests.batches import batched
from tests.hostile import seeds
from tests.hostile.memory import MemoryFile
from tests.hostile.oracles import disagreements
from tests.hostile.reading import outcome
from tests.hostile.writers import zips

OURS_ALONE = {"training", "dangerous", "text opcodes", "sets and bytes", "protocol 4", "protocol 5", "python"}
"""What torch.load(weights_only=True) refuses: other protocols and classes, and zips without its ``version``."""

FILES: dict[str, bytes] = {
    **{f"pickle {name}": zips.torch_archive(root, seeds.KEYS) for name, root in seeds.PICKLES.items()},
    **{f"zip {name}": data for name, data in seeds.ZIPS.items()},
    **{f"legacy {name}": data for name, data in seeds.LEGACY.items()},
    **{f"safetensors {name}": data for name, data in seeds.SAFETENSORS.items()},
    **{f"tar {name}": data for name, data in seeds.TARS.items()},
}


@batched("name", [*FILES])
def test_sound(name: str) -> None:
    found = outcome(MemoryFile(FILES[name]))
    assert found.refusal is None
    assert bool(found.tensors) == (name != "safetensors empty")
    theirs = disagreements(FILES[name], found)
    assert theirs == (None if name.partition(" ")[2] in OURS_ALONE else [])


@pytest.mark.parametrize("name", seeds.SHARDED)
def test_sound_in_shards(name: str) -> None:
    folder = seeds.SHARDED[name]
    index = next(iter(folder))
    assert set(outcome(MemoryFile(folder[index], index, folder)).tensors) == {"a", "weight", "index"}
