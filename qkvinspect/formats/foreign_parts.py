"""Recognise zips, folders and pickles of other kinds by the names in them, and say what to do with each."""

from __future__ import annotations

from collections.abc import Iterable

from qkvinspect.error_codes import Code
from qkvinspect.formats.foreign import SAVED_MODEL, Kind, named
from qkvinspect.formats.pickle import is_dict
from qkvinspect.late_pattern import late_pattern

_ZIPS = (
    (
        r"[^/]+/(constants\.pkl|bytecode\.pkl|code/.*)",
        Kind(
            Code.IS_TORCHSCRIPT,
            "a TorchScript program, not a state_dict",
            "where its code may run, torch.save(torch.jit.load(path, map_location='cpu').state_dict(), 'state.pt') "
            "and inspect that",
        ),
    ),
    (
        r"[^/]+/\.data/extern_modules",
        Kind(
            Code.IS_PACKAGE,
            "a torch.package archive, not a state_dict",
            "where its code may run, load the model with torch.package.PackageImporter(path).load_pickle "
            "and torch.save its state_dict()",
        ),
    ),
    (
        r"([^/]+/)?(archive_format|serialized_exported_program\.json)",
        Kind(
            Code.IS_EXPORT,
            "a program of torch.export (.pt2), not a state_dict",
            "torch.save(torch.export.load(path).state_dict, 'state.pt') and inspect that",
        ),
    ),
    (
        r"([^/]+/)?model\.weights\.h5",
        Kind(Code.IS_KERAS, "a Keras model", "inspect the PyTorch checkpoint that it was made from"),
    ),
)
_NPZ = Kind(
    Code.IS_NUMPY,
    "a NumPy archive (.npz)",
    "safetensors.numpy.save_file(dict(numpy.load(path, allow_pickle=False)), 'state.safetensors') and inspect that",
)
_ZERO = Kind(
    Code.IS_ZERO,
    "one rank's partition of a DeepSpeed ZeRO checkpoint",
    "run the zero_to_fp32.py that lies in the checkpoint's folder and inspect what it writes",
)
_ZERO_FILE = late_pattern(r"(.*[/\\])?(bf16_|fp16_)?zero_pp_rank_\d+_mp_rank_\d+_(model|optim)_states\.pt")
_FLAT = Kind(
    Code.IS_FLAT,
    "a checkpoint of FSDP's flat parameters, of which nothing here tells the shapes",
    "save it again under FSDP.state_dict_type(model, StateDictType.FULL_STATE_DICT)",
)
_FLAT_NAME = late_pattern(r"(.*\.)?_?flat_param(_\d+)?")
_FOLDERS = (
    (
        r"[^/]+/\.zarray",
        Kind(
            Code.IS_ZARR,
            "a checkpoint of Megatron-Core in zarr's format",
            "save it again with --dist-ckpt-format torch_dist, or convert it to a state_dict with Megatron's tools",
        ),
    ),
    (r"zero_to_fp32\.py|(bf16_|fp16_)?zero_pp_rank_\d+_mp_rank_\d+_(model|optim)_states\.pt", _ZERO),
    (r"saved_model\.pbt?(xt)?", SAVED_MODEL),
    (
        r".+\.data-\d{5}-of-\d{5}",
        Kind(
            Code.IS_TENSORFLOW,
            "a TensorFlow checkpoint",
            "convert it with transformers' from_pretrained(folder, from_tf=True).save_pretrained(folder)",
        ),
    ),
)


def check_zip(names: Iterable[str], file: str) -> None:
    """Refuse a zip that torch.save did not write.

    Raises:
        CheckpointError: it is.
    """
    listed = list(names)
    arrays = bool(listed) and all(name.endswith(".npy") for name in listed)
    kind = _NPZ if arrays else named((name for name in listed if "/data/" not in name), _ZIPS)
    if kind is not None:
        raise kind.error(file)


def check_folder(names: Iterable[str], file: str) -> None:
    """Refuse a folder of another kind; ``names`` are its files, and ``folder/.zarray`` for folders with such a file.

    Raises:
        CheckpointError: it is one.
    """
    kind = named(names, _FOLDERS)
    if kind is not None:
        raise kind.error(file)


def check_pickle(root: object, file: str) -> None:
    """Refuse part of a ZeRO checkpoint, by its name or by what DeepSpeed keeps in it
    (deepspeed/checkpoint/constants.py).

    Raises:
        CheckpointError: it is one.
    """
    optimizer = root.get("optimizer_state_dict") if is_dict(root) else None
    if _ZERO_FILE.fullmatch(file) or (is_dict(optimizer) and {"zero_stage", "partition_count"} <= optimizer.keys()):
        raise _ZERO.error(file)


def check_tensors(names: Iterable[str], file: str) -> None:
    """Refuse flat parameters: whole blocks of a model in one row of numbers.

    Raises:
        CheckpointError: the names are those of flat parameters.
    """
    if any(_FLAT_NAME.fullmatch(name) for name in names):
        raise _FLAT.error(file)
