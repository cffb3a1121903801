"""Small sound files of every format, by the writers: what the fuzzers break and the bit tests flip."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path

from tests.hostile.writers import dcp, headers, legacy, pickles, tars, zips
from tests.hostile.writers.pickles import (
    items,
    mapping,
    name,
    named,
    number,
    ordered,
    row,
    storage,
    tensor,
    text,
    whole,
)

FLOATS = struct.pack("<16f", *range(16))
LONGS = struct.pack("<4q", *range(-1, 3))
KEYS = {"0": FLOATS, "1": LONGS}
"""The storages that the pickles below speak of."""

_WEIGHT = tensor(storage("0", 16), 0, (4, 4), (4, 1))
_INDEX = tensor(storage("1", 4, "LongStorage"), 1, (3,), (1,))


def _memoized(protocol: int) -> bytes:
    """As protocols 4 and 5 write it: short text, memo, frame, globals from the stack."""
    body = b"}\x94(\x8c\x06weight\x94\x8c\x0ctorch._utils\x94\x8c\x12_rebuild_tensor_v2\x94\x93\x94(("
    body += (
        b"\x8c\x07storage\x94\x8c\x05torch\x94\x8c\x0cFloatStorage\x94\x93\x94\x8c\x010\x94\x8c\x03cpu\x94K\x10t\x94Q"
    )
    body += b"K\x00K\x04K\x04\x86\x94K\x04K\x01\x86\x94\x89"
    body += b"\x8c\x0bcollections\x94\x8c\x0bOrderedDict\x94\x93\x94)R\x94t\x94R\x94"
    body += b"\x8c\x04copy\x94h\x14u."
    return bytes([0x80, protocol, 0x95]) + struct.pack("<Q", len(body)) + body


PICKLES: dict[str, bytes] = {
    "plain": whole(named({"weight": _WEIGHT, "index": _INDEX})),
    "ordered": whole(mapping({text("a.weight"): _WEIGHT, text("a.index"): _INDEX}, ordered())),
    "views": whole(
        named(
            {
                "transposed": tensor(storage("0", 16), 0, (4, 4), (1, 4)),
                "row": tensor(storage("0", 16), 4, (4,), (1,)),
                "expanded": tensor(storage("0", 16), 3, (5, 4), (0, 1)),
                "scalar": tensor(storage("0", 16), 15, (), ()),
                "empty": tensor(storage("0", 16), 0, (0, 3), (3, 1)),
            }
        )
    ),
    "training": whole(
        named(
            {
                "epoch": number(3),
                "lr": pickles.real(0.1),
                "args": pickles.call(name("argparse", "Namespace")) + named({"heads": number(2)}) + b"b",
                "model": named({"weight": _WEIGHT}),
                "optimizer": named(
                    {
                        "state": mapping({number(0): named({"exp_avg": _WEIGHT, "step": number(1)})}),
                        "param_groups": items(
                            named({"params": items(number(0)), "betas": row(*[pickles.real(0.9)] * 2)})
                        ),
                    }
                ),
            }
        )
    ),
    "parameter": whole(
        named(
            {
                "w": pickles.call(name("torch._utils", "_rebuild_parameter"), _WEIGHT, pickles.TRUE, ordered()),
                "raw": pickles.call(
                    name("torch._utils", "_rebuild_tensor_v3"),
                    storage("1", 32, "UntypedStorage", module="torch.storage"),
                    number(0),
                    pickles.numbers((16,)),
                    pickles.numbers((1,)),
                    pickles.FALSE,
                    ordered(),
                    name("torch", "uint16"),
                ),
            }
        )
    ),
    "dangerous": whole(
        named({"weight": _WEIGHT, "other": pickles.call(name("os", "system"), text("touch /tmp/qkvinspect-canary"))})
    ),
    "text opcodes": b"(dS'weight'\np0\n" + _WEIGHT + b"sS'n'\nI5\nsS'l'\nL5L\nsS'f'\nF1.5\nsV\\u00e9\n(lp1\nI01\nas.",
    "sets and bytes": b"\x80\x04}(\x8c\x01w"
    + _WEIGHT
    + b"\x8c\x01s\x8f(K\x01\x90\x8c\x01f(K\x01\x91\x8c\x01bC\x02abu.",
    "protocol 4": _memoized(4),
    "protocol 5": _memoized(5),
}

with zipfile.ZipFile(Path(__file__).parent / "saved" / "many.pt") as _saved:
    MANY = _saved.read("many/data.pkl")
    MANY_KEYS = {name[10:]: _saved.read(name) for name in _saved.namelist() if name.startswith("many/data/")}
"""What torch.save wrote of 40 tensors: numbers in the memo go over 256, each tensor is written alike."""

ZIPS: dict[str, bytes] = {
    "many": zips.torch_archive(MANY, MANY_KEYS),
    "torch": zips.torch_archive(PICKLES["plain"], KEYS),
    "views": zips.torch_archive(PICKLES["views"], {"0": FLOATS}),
    "zip64": zips.archive(zips.torch_members(PICKLES["plain"], KEYS), end64={}, locator={}),
    "python": zips.archive(
        [
            zips.Member(b"m/data.pkl", PICKLES["plain"]),
            zips.Member(b"m/data/0", FLOATS),
            zips.Member(b"m/data/1", LONGS),
        ]
    ),
}

LEGACY_PICKLES: dict[str, bytes] = {
    "torch": whole(
        named(
            {
                "weight": tensor(storage("0", 16, view=pickles.NONE), 0, (4, 4), (4, 1)),
                "index": tensor(storage("1", 4, "LongStorage", view=pickles.NONE), 1, (3,), (1,)),
            }
        )
    ),
    "view": whole(
        named(
            {
                "part": tensor(storage("0", 16, view=row(text("v"), number(4), number(8))), 0, (2, 4), (4, 1)),
                "index": tensor(storage("1", 4, "LongStorage", view=pickles.NONE), 1, (3,), (1,)),
            }
        )
    ),
}
LEGACY_STORAGES = (legacy.Storage("0", 16, FLOATS), legacy.Storage("1", 4, LONGS))

LEGACY: dict[str, bytes] = {name: legacy.legacy(root, LEGACY_STORAGES) for name, root in LEGACY_PICKLES.items()}

SAFETENSORS: dict[str, bytes] = {
    "two": headers.safetensors(*headers.described({"a": ("F32", (4, 4), FLOATS), "b": ("I64", (4,), LONGS)})),
    "metadata": headers.safetensors(
        *headers.described({"w": ("BF16", (2, 4), FLOATS[:16])}, {"format": "pt", "config": '{"heads": 2}'})
    ),
    "edges": headers.safetensors(
        *headers.described(
            {"none": ("F16", (0, 3), b""), "scalar": ("F64", (), FLOATS[:8]), "4": ("F4", (2, 2), b"\x12\x34")}
        )
    ),
    "padded": headers.safetensors(b'{"w":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}     ', b"abc"),
    "empty": headers.safetensors({}),
}

_TAR_ROOT = whole(named({"weight": tars.reference(3), "piece": tars.reference(4), "index": tars.reference(6)}))
_TAR_STORAGES = tars.storages(
    [tars.Storage(1, "FloatStorage", 16, FLOATS), tars.Storage(2, "LongStorage", 4, LONGS)], [tars.View(5, 1, 4, 8)]
)
_TAR_TENSORS = tars.tensors(
    [
        tars.Tensor(3, 1, (4, 4), (4, 1)),
        tars.Tensor(4, 5, (2, 2), (1, 2), offset=1),
        tars.Tensor(6, 2, (4,), (1,), kind="LongTensor"),
    ]
)

TAR_MEMBERS = (
    tars.Member("storages", _TAR_STORAGES),
    tars.Member("tensors", _TAR_TENSORS),
    tars.Member("pickle", _TAR_ROOT),
)

TARS: dict[str, bytes] = {"torch": tars.archive(TAR_MEMBERS)}

_FIRST = headers.safetensors(*headers.described({"a": ("F32", (4, 4), FLOATS)}))
_SECOND = zips.torch_archive(PICKLES["plain"], KEYS)

SHARDED: dict[str, dict[str, bytes]] = {
    "two": {
        "model.safetensors.index.json": json.dumps(
            {
                "metadata": {"total_size": 96},
                "weight_map": {"a": "one.safetensors", "weight": "two.bin", "index": "two.bin"},
            }
        ).encode(),
        "one.safetensors": _FIRST,
        "two.bin": _SECOND,
    },
}
"""Files by name; the first is the index."""

_PARTS = [dcp.zipped(FLOATS[:32], (2, 4)), dcp.zipped(FLOATS[32:], (2, 4)), dcp.zipped(LONGS, (4,), "int64")]
DCP_TENSORS: dict[str, dcp.Tensor] = {
    "model.weight": dcp.Tensor(
        (4, 4),
        [
            dcp.Chunk((0, 0), (2, 4), "__0_0.distcp", 0, len(_PARTS[0])),
            dcp.Chunk((2, 0), (2, 4), "__1_0.distcp", 0, len(_PARTS[1])),
        ],
    ),
    "model.index": dcp.Tensor((4,), [dcp.Chunk((0,), (4,), "__0_0.distcp", len(_PARTS[0]), len(_PARTS[2]))], "int64"),
}

DCP: dict[str, dict[str, bytes]] = {
    "two ranks": {
        ".metadata": dcp.metadata(DCP_TENSORS),
        "__0_0.distcp": _PARTS[0] + _PARTS[2],
        "__1_0.distcp": _PARTS[1],
    },
}
"""Files by name; the first is the one that describes the others."""
