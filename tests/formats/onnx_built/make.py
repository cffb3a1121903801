"""Build qwen2/ from qwen2.safetensors as onnxruntime-genai's model builder does: GroupQueryAttention, packed by it.

In an environment of its own (../onnx_models/requirements.txt, and onnxruntime-genai 0.18): ``python make.py``.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from onnxruntime_genai.models import builder
from onnxruntime_genai.models.builders import base
from transformers import Qwen2Config, Qwen2ForCausalLM

HERE = Path(__file__).parent
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
OTHERS = {"intermediate_size": 16, "vocab_size": 32, "max_position_embeddings": 16, "eos_token_id": 2}


def main() -> None:
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES, **OTHERS, bos_token_id=1, pad_token_id=0))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    base.Model.save_processing = lambda *_, **__: None  # there is no tokenizer
    base.Model.make_genai_config = lambda *_, **__: None
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        told = (None, folder, f"{folder}/out", "fp32", "cpu", f"{folder}/cache")
        builder.create_model(*told, **builder.parse_extra_options(*told, []))
        Path(folder, "model.safetensors").replace(HERE / "qwen2.safetensors")
        (HERE / "qwen2").mkdir(exist_ok=True)
        for name in ("model.onnx", "model.onnx.data"):
            Path(folder, "out", name).replace(HERE / "qwen2" / name)


if __name__ == "__main__":
    main()
