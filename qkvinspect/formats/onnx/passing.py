"""Operators that pass on what they are given: number by number in its place, or at least in its shape."""

from __future__ import annotations

PASSED = frozenset(
    [
        "Abs",
        "BatchNormalization",
        "Cast",
        "Clip",
        "DequantizeLinear",
        "Dropout",
        "DynamicQuantizeLinear",
        "Elu",
        "Erf",
        "Exp",
        "FastGelu",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "LayerNormalization",
        "LeakyRelu",
        "LpNormalization",
        "Neg",
        "QuantizeLinear",
        "QuickGelu",
        "RMSNormalization",
        "Reciprocal",
        "Relu",
        "Sigmoid",
        "SimplifiedLayerNormalization",
        "Softmax",
        "Softplus",
        "Sqrt",
        "Swish",
        "Tanh",
    ]
)
"""Operators that change numbers where they lie."""

FIRST_PASSED = PASSED | frozenset(
    [
        "Attention",
        "BiasGelu",
        "BiasSoftmax",
        "Ceil",
        "Cos",
        "CumSum",
        "Floor",
        "GroupNormalization",
        "GroupQueryAttention",
        "InstanceNormalization",
        "IsInf",
        "IsNaN",
        "Log",
        "LogSoftmax",
        "MultiHeadAttention",
        "Not",
        "RandomNormalLike",
        "RandomUniformLike",
        "RotaryEmbedding",
        "Round",
        "ScatterElements",
        "ScatterND",
        "Sign",
        "Sin",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
        "Trilu",
    ]
)
"""Operators whose result has the shape of their first input."""
