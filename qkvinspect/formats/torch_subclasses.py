"""torchao's tensors in a pickle: subclasses of torch.Tensor whose codes and scales are tensors of their own.

They are named as torchao itself names them in safetensors: ``q_proj.weight`` becomes ``q_proj._weight_qdata``,
``q_proj._weight_scale`` and so on (torchao 0.18, prototype/safetensors/safetensors_support.py).
"""

from __future__ import annotations

from qkvinspect.formats.pickle import Call, Global, is_dict
from qkvinspect.formats.torch_objects import arguments_of, function_of, is_tensor, unreadable

Keys = tuple[str, ...]


class Attribute(str):
    """A step to a tensor in an unpickled object that is an attribute, and no key."""

    __slots__ = ()


def parts(keys: Keys, node: object) -> dict[str, tuple[Keys, object]]:
    """The tensors that one of torchao's is made of, by name, each with how to reach it; none of any other node."""
    kind, state = _made(node)
    if not kind.startswith("torchao."):
        return {}
    *module, parameter = ".".join(keys).split(".")
    prefix = ".".join([*module, f"_{parameter}_"])
    return {
        f"{prefix}{name}": ((*keys, Attribute(name)), part)
        for name, part in state.items()
        if isinstance(name, str) and is_tensor(part) and unreadable(part) is None
    }


def kind_of(node: object) -> str:
    """The class of a tensor subclass, in brackets behind a space; "" of any other node."""
    kind, _ = _made(node)
    return f" ({kind})" if kind else ""


def _made(node: object) -> tuple[str, dict[object, object]]:
    """The class that a node is made of, and its attributes."""
    if not isinstance(node, Call) or function_of(node) != "_rebuild_from_type_v2":
        return "", {}
    made = arguments_of(node)
    if len(made) != 4 or function_of(Call(made[0], ())) != "_rebuild_wrapper_subclass":
        return "", {}
    state = made[3]
    return str(made[1]) if isinstance(made[1], Global) else "", state if is_dict(state) else {}
