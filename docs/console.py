"""What a command prints, for the pages that cog fills in."""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import os
import shlex
import shutil
import tempfile
from pathlib import Path

import cog  # pyright: ignore[reportMissingImports]
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from qkvinspect.cli import main
from qkvinspect.errors import LayoutError
from qkvinspect.weights.weight import Weight


def run(command: str, folder: str = "sample_checkpoints") -> None:
    """Put a command and what it prints into the page, as in a pipe: nothing is cut or wrapped."""
    out = io.StringIO()
    before = os.environ.pop("FORCE_COLOR", None)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), contextlib.chdir(folder):
        main(shlex.split(command)[1:])
    if before is not None:
        os.environ["FORCE_COLOR"] = before
    cog.outl(f"```console\n$ {command}\n{out.getvalue().rstrip()}\n```")


def holding(settings: str = "", **shapes: tuple[int, ...]) -> str:
    """A folder with a checkpoint of tensors of these shapes (``__`` for a dot) and a file of settings."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    random = np.random.default_rng(0)
    tensors = {name.replace("__", "."): random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")
    if settings:
        (folder / "qkvinspect.toml").write_text(settings)
    return str(folder)


def one_of_two_ranks() -> str:
    """A folder with a tensor-parallel rank's share of a Llama, beside the config of the whole model."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    shapes = {"q_proj": (128, 256), "k_proj": (32, 256), "v_proj": (32, 256), "o_proj": (256, 128)}
    names = {
        f"model.layers.{layer}.self_attn.{part}.weight": shape for layer in range(2) for part, shape in shapes.items()
    }
    save_file({name: np.zeros(shape, np.float32) for name, shape in names.items()}, folder / "rank.safetensors")
    sizes = {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 32, "hidden_size": 256}
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"} | sizes))
    return str(folder)


def encodings() -> None:
    """A table of the models that each library quantised: the encoding, its bits, its error, and whether it is cut."""
    from qkvinspect.diff import DiffOptions, compare
    from qkvinspect.formats import open_checkpoint
    from qkvinspect.inspection import Options, inspect

    models = Path("tests/weights/encodings/models")
    rows: dict[str, str] = {}
    cog.outl("| encoding | bits a weight | error | cut |\n| --- | --- | --- | --- |")
    with open_checkpoint(models / "original.safetensors") as original:
        before = inspect(original, Options("8", evidence="none"))
        for path in sorted(models.glob("*.json")):
            with open_checkpoint(_with_config(path)) as checkpoint:
                report = inspect(checkpoint, Options("8", evidence="none"))
                weight = report.weights["blocks.0.attn.qkv.weight"]
                if weight.encoding is None:
                    continue
                found = compare(before, report, DiffOptions(layers="blocks.0.attn"))
                parts = [one.whole.relative_l2 or 0 for one in found.layers[0].parts if one.name in ("q", "k", "v")]
                error = (sum(one**2 for one in parts) / len(parts)) ** 0.5
                bits = weight.nbytes * 8 / weight.numel
                rows[weight.encoding.label] = f"{bits:.3g} | {error:.2g} | {_cut(weight)}"
    for label, row in sorted(rows.items()):
        cog.outl(f"| {label} | {row} |")


def _cut(weight: Weight) -> str:
    assert weight.encoding is not None
    third = weight.shape[0] // 3
    try:
        for part in range(3):
            weight.encoding.cut([range(part * third, (part + 1) * third)])
    except LayoutError as error:
        return f"no: {error.message.partition(': ')[2] or error.message}"
    return "yes"


def _with_config(told: Path) -> Path:
    """A folder with the model and what its metadata says that the library's config says."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    model = told.with_suffix(".safetensors").resolve()
    with safe_open(model, "np") as file:
        said = json.loads(file.metadata()["quantization_config"])
    (folder / "config.json").write_text(json.dumps({"quantization_config": said}))
    (folder / "model.safetensors").symlink_to(model)
    return folder
