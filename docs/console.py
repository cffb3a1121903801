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
from safetensors.numpy import save_file

from qkvinspect.cli import main


def run(command: str, folder: str = "sample_checkpoints") -> None:
    """Put a command and what it prints into the page, as in a pipe: nothing is cut or wrapped."""
    out = io.StringIO()
    before = os.environ.pop("FORCE_COLOR", None)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), contextlib.chdir(folder):
        main(shlex.split(command)[1:])
    if before is not None:
        os.environ["FORCE_COLOR"] = before
    cog.outl(f"```console\n$ {command}\n{out.getvalue().rstrip()}\n```")


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
