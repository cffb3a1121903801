"""Make the libraries importable on a machine with a CPU build of torch and without their audio and cloud stacks."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any

_STANDS_IN = """
    accelerated_scan audioread av bitsandbytes causal_conv1d cuequivariance_torch cv2 cytoolz datasets deepspeed
    dllogger dora editdistance fairscale fire flash_attn flashy gradio gruut hydra inflect jiwer kaldiio kornia_rs
    lhotse librosa lightning_fabric mamba_ssm matplotlib megatron nltk num2words numba nv_one_logger onnx pesq
    pyannote pyloudnorm pynini pypinyin pystoi pytorch_lightning pytorch_wpe rdkit resampy sacrebleu seaborn sh
    sklearn soundfile soxr spacy tensorboard tensorboardX texterrors torchao.dtypes.nf4tensor torchcodec trainer
    triton utilsforecast wandb webdataset whisper_normalizer xformers
"""
STANDS_IN = frozenset(_STANDS_IN.split())
"""What is imported by modules of attention, and not called by them: a hollow module stands in."""


class _Anything(type):
    """The class of classes that have every attribute, so that ``a.b.C`` can be a base class or a decorator."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _hollow_class(name)


def _hollow_class(name: str) -> Any:
    def make(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and callable(args[0]) and not kwargs:
            return args[0]  # a decorator
        return object.__new__(cls)

    def held(self: Any, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    members = {"__new__": make, "__call__": lambda self, *a, **k: a[0] if a else self, "__getattr__": held}
    return _Anything(name, (), members)


class _Hollow(ModuleType):
    __path__: Sequence[str] = ()
    __version__ = "999"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _hollow_class(name)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds hollow modules for the names above, after every real one."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname in STANDS_IN or fullname.partition(".")[0] in STANDS_IN:
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> ModuleType:
        return _Hollow(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def stand_in() -> None:
    """From now on; not before libraries that ask with ``find_spec`` what is installed."""
    sys.meta_path.append(_Finder())


def prepare() -> list[object]:
    """Keep the result alive while anything is imported."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    alive: list[object] = []
    if importlib.util.find_spec("torchvision") is not None:  # a GPU build cannot register its kernels: declare two
        operators = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        alive.append(operators)
        importlib.import_module("torchvision")
    transformers_logging = importlib.import_module("transformers").logging
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    return alive
