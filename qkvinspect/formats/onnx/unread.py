"""What an ONNX file may hold beside nodes and initialisers, and of which only the name is read."""

from __future__ import annotations

from qkvinspect.formats.onnx.wire import Field, Wire


def sparse_name(wire: Wire, whole: Field) -> str:
    """The name of a SparseTensorProto: that of the TensorProto of its values."""
    for part in wire.fields(*wire.message(whole, "a sparse tensor")):
        if part.number == 1:
            for field_of_values in wire.fields(*wire.message(part, "a tensor")):
                if field_of_values.number == 8:
                    return wire.text(field_of_values, "the name of a tensor")
    return ""


def function_name(wire: Wire, whole: Field) -> tuple[str, str]:
    """The domain and the name of a FunctionProto."""
    texts = {1: "", 10: ""}
    for part in wire.fields(*wire.message(whole, "a function")):
        if part.number in texts:
            texts[part.number] = wire.text(part, "the name of a function")
    return texts[10], texts[1]
