"""Every value of ``data/`` decoded as the library that wrote it decodes it (``make_data.py`` is the recipe)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qkvinspect.checkpoint import Checkpoint, Config
from qkvinspect.dtypes import DTYPES
from qkvinspect.formats import open_checkpoint
from qkvinspect.weights.encodings import weights_of
from qkvinspect.weights.encodings.mlx import MlxAffine
from qkvinspect.weights.reading import Array
from qkvinspect.weights.rounding import rounded
from qkvinspect.weights.strided import strided_matrix
from qkvinspect.weights.values import whole
from qkvinspect.weights.weight import Weight
from tests.batches import batched
from tests.some import those

DATA = Path(__file__).parent / "data"
NAMES = sorted(path.name.removesuffix(".values.safetensors") for path in DATA.glob("*.values.safetensors"))
EACH = {"bnb_nf4", "bnb_nf4_nested", "bnb_int8", "gptq_v1_4bit", "gptq_v2_3bit", "awq_group32", "ct_int4_zeros",
        "ct_int8_unpacked", "ct_float8", "ct_nvfp4", "mlx_3bit", "quanto_float8", "torchao_int8"}  # fmt: skip
"""A file of each kind, for every run."""
OTHERS = {"bnb_fp4", "comfy_mxfp8", "comfy_nvfp4", "ct_int5_zeros", "ct_int7", "ct_mxfp4", "fp8_deepseek",
          "fp8_musubi_tensor", "gpt_oss_mxfp4", "gptq_v1_2bit_sym", "gptq_v2_8bit", "mlx_2bit", "mlx_5bit", "mlx_6bit",
          "mlx_mxfp4", "mlx_nvfp4", "modelopt_nvfp4"}  # fmt: skip
EVERY_KIND = those((EACH | OTHERS).__contains__, NAMES)
"""A file of each kind and width."""


def opened(name: str) -> Checkpoint:
    """A file of the data with the config that the library would write beside it."""
    checkpoint = open_checkpoint(str(DATA / f"{name}.safetensors"))
    said = json.loads(checkpoint.metadata["quantization_config"])
    return replace(checkpoint, configs=(Config("config:config.json", {"quantization_config": said}),))


def decoded(weight: Weight) -> Array:
    assert weight.encoding is not None, weight.why
    rows, cols = weight.encoding.shape
    return weight.encoding.decode(range(rows), range(cols))


def pairs(name: str) -> Iterator[tuple[Weight, Array, str]]:
    with opened(name) as checkpoint, open_checkpoint(str(DATA / f"{name}.values.safetensors")) as values:
        weights = weights_of(checkpoint)
        for parameter, info in values.tensors.items():
            assert weights[parameter].shape == info.shape
            yield weights[parameter], whole(strided_matrix(info, "out_in")), info.dtype.name


@batched("name", NAMES)
def test_every_value_is_that_of_the_library(name: str) -> None:
    for weight, expected, dtype in pairs(name):
        found = decoded(weight)
        assert found.shape == expected.shape
        if dtype != "float32" and isinstance(weight.encoding, MlxAffine):
            far = np.abs(found - expected) > _ULP[dtype] * np.maximum(np.abs(expected), _largest_terms(weight.encoding))
        else:
            found = rounded(found, DTYPES[dtype])
            far = (found.astype(np.float32) != expected) & ~(np.isnan(found) & np.isnan(expected))
        wrong = np.argwhere(far)
        assert not len(wrong), (weight.name, len(wrong), found[tuple(wrong[0])], expected[tuple(wrong[0])])


_ULP = {"float16": 2.0**-10, "bfloat16": 2.0**-7}


def _largest_terms(encoding: MlxAffine) -> Array:
    """MLX rounds the product of scale and code to its dtype before it adds the bias: what a unit there is of."""
    largest = np.float32((1 << encoding.bits) - 1)
    scales, biases = (whole(strided_matrix(info, "out_in")) for info in (encoding.scales, encoding.biases))
    return np.repeat(np.maximum(np.abs(scales) * largest, np.abs(biases)), encoding.group, axis=1)


def test_there_are_many() -> None:
    assert sum(1 for name in NAMES for _ in pairs(name)) > 200
    kinds = {type(weight.encoding).__name__ for name in NAMES for weight, _, _ in pairs(name)}
    assert kinds >= {"FourBitBlocks", "ScaledInteger", "Gptq", "Awq", "PackedIntegers", "MicroFloat", "MlxAffine"}


@pytest.mark.parametrize("name", those(EACH.__contains__, NAMES))
def test_any_rows_and_columns_are_those_of_the_whole(name: str) -> None:
    for weight, _, _ in pairs(name):
        every, encoding = decoded(weight), weight.encoding
        assert encoding is not None
        rows, cols = encoding.shape
        slack = encoding.slack(range(rows), range(cols))
        assert slack is not None
        assert slack.shape == every.shape
        for down, across in (
            (range(rows // 2, rows), range(cols)),
            (range(0, rows, 3), range(cols // 3, cols - 1)),
            (range(rows - 1, rows), range(1, cols, 5)),
            (range(1, rows, 2), range(7, min(cols, 23))),
            (range(0), range(cols)),
            (range(rows), range(4, 4)),
        ):
            some = slice(down.start, down.stop, down.step), slice(across.start, across.stop, across.step)
            np.testing.assert_array_equal(encoding.decode(down, across), every[some])
            np.testing.assert_array_equal(encoding.slack(down, across), slack[some])


@batched("name", NAMES)
def test_what_is_to_be_pasted_gives_the_same(name: str) -> None:
    import torch
    from safetensors.torch import load_file

    state_dict = load_file(DATA / f"{name}.safetensors")
    for weight, _, _ in pairs(name):
        encoding = weight.encoding
        assert encoding is not None
        names = {"torch": torch, "state_dict": state_dict}
        exec("\n".join(encoding.python()), names)
        found = names["weight"]
        assert isinstance(found, torch.Tensor)
        np.testing.assert_array_equal(found.float().reshape(encoding.shape).numpy(), decoded(weight).astype(np.float32))


@batched("name", NAMES)
def test_all_that_is_stored_belongs_to_a_weight(name: str) -> None:
    with opened(name) as checkpoint:
        weights = weights_of(checkpoint)
        left = {leaf.rpartition(".")[2] for leaf in weights.tensors}
        assert left <= {"bias", "input_scale"}
        assert all(not weight.no_values for weight in weights.encoded.values())


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_mlx_without_its_config(bits: int) -> None:
    """Shapes tell bits times the group, and nothing else: 2 bits in groups of 64 are as wide as 4 in groups of 32."""
    with open_checkpoint(DATA / f"mlx_{bits}bit.safetensors") as checkpoint:
        found = weights_of(checkpoint)
        for weight, _, _ in pairs(f"mlx_{bits}bit"):
            assert isinstance(weight.encoding, MlxAffine)
            own = bits * weight.encoding.group
            if [one * group for one in (2, 3, 4, 5, 6, 8) for group in (16, 32, 64, 128)].count(own) == 1:
                np.testing.assert_array_equal(decoded(found[weight.name]), decoded(weight))
            else:
                assert "may be read in several ways" in found[weight.name].why


@pytest.mark.parametrize("name", ["gptq_v1_4bit", "gptq_v2_3bit"])
def test_gptq_without_the_order_of_its_groups(name: str, tmp_path: Path) -> None:
    """AutoGPTQ wrote files without ``g_idx`` once: groups go in order then, and the config says of how many."""
    from safetensors.numpy import load_file, save_file

    kept = {key: value for key, value in load_file(DATA / f"{name}.safetensors").items() if not key.endswith(".g_idx")}
    save_file(kept, tmp_path / "model.safetensors")
    with opened(name) as checkpoint:
        said = dict(checkpoint.configs[0].values["quantization_config"]) | {"desc_act": False, "group_size": 32}
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": said}))
    with open_checkpoint(tmp_path / "model.safetensors") as checkpoint:
        weights = weights_of(checkpoint)
        for weight, _, _ in pairs(name):
            if "act_order" not in weight.name:
                np.testing.assert_array_equal(decoded(weights[weight.name]), decoded(weight))
