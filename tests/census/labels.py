"""Let every activation carry the stored rows that it came from, through whatever a library does to it.

A library's own forward runs under two modes that watch each operation of torch:

* a view of a parameter knows the *address* (the place in the parameter) of each of its elements;
* what comes out of a product with a parameter carries, element by element, the row that made it: the address of the
  first weight that was summed over;
* an operation that only moves elements (reshape, split, cat, roll, window partition ...) is done to the labels as well;
* an operation on single elements (scale, rotary embedding, norm of q) keeps the label of its first labelled operand;
* a product of two labelled activations is a *score*; its result carries a tag until it is applied to a third.

So the truth is read from the forward and from nothing else: no name of a tensor, no convention about packing.
Labels are float64 numbers (every operation that moves elements exists for them), exact up to 2**53; -1 is "none".
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

WIDE = 2**32
"""A label is the number of its parameter times this, plus the address."""

_MOVES = """
    view _unsafe_view reshape permute transpose t expand slice select unsqueeze squeeze split split_with_sizes
    unbind chunk cat stack clone contiguous detach alias roll repeat index_select index gather constant_pad_nd flip
    as_strided unfold im2col pixel_shuffle pixel_unshuffle channel_shuffle reflection_pad1d reflection_pad2d
    replication_pad1d replication_pad2d narrow movedim diagonal unflatten lift_fresh _to_copy _reshape_alias swapaxes
    numpy_T mT tile broadcast_to hsplit vsplit tensor_split unsafe_split unsafe_chunk repeat_interleave take_along_dim
    view_copy _reshape_copy expand_copy permute_copy _conj conj resolve_conj rot90 column_stack
"""
MOVES = frozenset(_MOVES.split())
_PER_CHANNEL = """
    native_batch_norm _native_batch_norm_legit_no_training cudnn_batch_norm avg_pool1d avg_pool2d avg_pool3d
    max_pool2d_with_indices max_pool3d_with_indices _adaptive_avg_pool2d adaptive_max_pool2d _adaptive_avg_pool3d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d upsample_bicubic2d
    _upsample_nearest_exact2d upsample_linear1d _upsample_bilinear2d_aa _upsample_bicubic2d_aa max_pool1d
    adaptive_avg_pool1d grid_sampler_2d
"""
PER_CHANNEL = frozenset(_PER_CHANNEL.split())
_SAME_PLACE = """
    native_layer_norm native_group_norm _fused_rms_norm rms_norm _softmax softmax _safe_softmax _log_softmax cumsum
    masked_fill dropout native_dropout where clamp nan_to_num threshold linalg_vector_norm
"""
SAME_PLACE = frozenset(_SAME_PLACE.split())
SOFT = frozenset(["_softmax", "softmax", "_safe_softmax", "exp", "sigmoid", "exp_"])
SDPA = "scaled_dot_product_attention"


@dataclass
class Operand:
    """Labels of one operand, [entries, tokens, channels]: what it holds for each head and token."""

    labels: Tensor


@dataclass(eq=False)
class Score:
    """A product of two activations of which at least one is labelled.

    Attributes:
        path: the module that was running.
        channels: the channels were summed over (q times k), not the tokens (k times v, or attention over channels).
        soft: a softmax, an exponential or a sigmoid came after.
        second_is_key: the softmax runs over the tokens of the second operand.
        values: what the scores were applied to.
    """

    path: str
    first: Operand | None
    second: Operand | None
    channels: bool
    soft: bool = False
    second_is_key: bool = True
    values: Operand | None = None
    fused_call: bool = False


@dataclass
class Trace:
    """What was seen, and which parameter each number stands for.

    Attributes:
        contracted: the stride that was summed over, of each parameter that projects.
        failed: operations whose labels could not follow.
    """

    names: list[str] = field(default_factory=list[str])
    shapes: list[tuple[int, ...]] = field(default_factory=list[tuple[int, ...]])
    contracted: dict[int, int] = field(default_factory=dict[int, int])
    scores: list[Score] = field(default_factory=list[Score])
    projecting: dict[int, str] = field(default_factory=dict[int, str])
    failed: dict[str, str] = field(default_factory=dict[str, str])


def _name(func: Any) -> str:
    return func._schema.name.split("::")[-1]


class _Dispatch(TorchDispatchMode):
    """Follows the operations of ATen."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.trace = Trace()
        self.stack: list[str] = [""]
        self.quiet = 0
        self.storages: dict[int, tuple[int, Tensor]] = {}
        self.written: dict[int, tuple[Any, Tensor]] = {}
        self.keep: list[Tensor] = []
        for name, parameter in module.named_parameters():
            if parameter.dim() >= 2 and parameter.numel() and parameter.is_floating_point():
                self._know(name, parameter)

    def _know(self, name: str, parameter: Tensor) -> None:
        storage = parameter.untyped_storage()
        if storage.data_ptr() in self.storages:
            return
        number = len(self.trace.names)
        self.trace.names.append(name)
        self.trace.shapes.append(tuple(parameter.shape))
        count = storage.nbytes() // parameter.element_size()
        base = WIDE * (number + 1)
        self.storages[storage.data_ptr()] = (number, torch.arange(base, base + count, dtype=torch.float64))
        self.keep.append(parameter)

    # labels of a tensor

    def weights(self, tensor: Any) -> Tensor | None:
        """The addresses of a view, or of a rearranged copy, of parameters."""
        if not isinstance(tensor, Tensor) or tensor.dim() < 2 or not tensor.is_floating_point():
            return None
        found = self.storages.get(tensor.untyped_storage().data_ptr())
        if found is not None:
            return found[1].as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        return getattr(tensor, "_census_weight", None)

    def rows(self, tensor: Any) -> Tensor | None:
        if not isinstance(tensor, Tensor):
            return None
        labels = getattr(tensor, "_census_row", None)
        if labels is None and self.written:
            found = self.written.get(tensor.untyped_storage()._cdata)
            if found is not None:
                labels = found[1].as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        return labels

    @staticmethod
    def tags(tensor: Any) -> tuple[Score, ...]:
        return getattr(tensor, "_census_tags", ())

    @staticmethod
    def put(tensor: Any, kind: str, labels: Tensor | None) -> None:
        if isinstance(tensor, Tensor) and labels is not None:
            if labels.shape != tensor.shape:
                labels = labels.reshape(tensor.shape) if labels.numel() == tensor.numel() else None
            if labels is not None:
                setattr(tensor, f"_census_{kind}", labels)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        try:
            self.follow(func, _name(func), args, kwargs, out)
        except Exception as error:
            self.trace.failed.setdefault(_name(func), f"{type(error).__name__}: {error}"[:200])
        return out

    def follow(self, func: Any, name: str, args: Any, kwargs: Any, out: Any) -> None:
        if name in MOVES:
            self.move(func, args, kwargs, out)
        elif name in ("mm", "bmm"):
            self.product(args[0], args[1], out)
        elif name in ("addmm", "baddbmm"):
            self.product(args[1], args[2], out)
        elif name in ("convolution", "mkldnn_convolution", "_convolution"):
            self.convolve(args, out)
        elif name == "copy_":
            self.copy(args[0], args[1])
        elif name in PER_CHANNEL:
            self.per_channel(args[0], out)
        elif name == "view_as_complex":
            self.complex_of(args[0], out)
        elif name == "view_as_real":
            for kind in ("row", "pos"):
                labels = getattr(args[0], f"_census_{kind}_pairs", None)
                self.put(out, kind, labels)
        elif name == "where" or torch.Tag.pointwise in func.tags or name in SAME_PLACE:
            self.pointwise(name, args, kwargs, out)

    # what moves

    def move(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        data = args[0]
        listed = isinstance(data, (list, tuple))
        sources = [t for t in data if isinstance(t, Tensor)] if listed else [data]
        tags = tuple(dict.fromkeys(tag for t in sources for tag in self.tags(t)))
        plain = {key: value for key, value in kwargs.items() if key not in ("dtype", "device", "memory_format")}
        for kind, labels_of in (("row", self.rows), ("pos", lambda t: getattr(t, "_census_pos", None)),
                                ("weight", self.weights)):  # fmt: skip
            found = [labels_of(t) for t in sources]
            if all(labels is None for labels in found):
                continue
            if kind == "weight" and not listed and isinstance(out, Tensor) and self.weights(out) is not None:
                continue
            filled = [
                torch.full(t.shape, -1.0, dtype=torch.float64) if labels is None else labels
                for t, labels in zip(sources, found, strict=True)
            ]
            moved = self._again(func, filled if listed else filled[0], args[1:], plain, out)
            outs = out if isinstance(out, (list, tuple)) else [out]
            for one, labels in zip(outs, moved if isinstance(moved, (list, tuple)) else [moved], strict=True):
                self.put(one, kind, labels)
        if tags:
            for one in out if isinstance(out, (list, tuple)) else [out]:
                if isinstance(one, Tensor):
                    one._census_tags = tags  # pyright: ignore[reportAttributeAccessIssue]

    @staticmethod
    def _again(func: Any, labels: Any, rest: Any, kwargs: Any, out: Any) -> Any:
        name = _name(func)
        if name == "constant_pad_nd":
            return func(labels, rest[0], -1.0)
        if name in ("_to_copy", "clone", "contiguous", "lift_fresh"):
            return labels.clone()
        if name in ("view", "_unsafe_view", "_reshape_alias", "view_copy") and isinstance(out, Tensor):
            return labels.reshape(out.shape)
        if name == "as_strided":
            return labels.contiguous().as_strided(*rest, **kwargs)
        return func(labels, *rest, **kwargs)

    def copy(self, target: Tensor, source: Tensor) -> None:
        labels = self.rows(source)
        if tags := self.tags(source):
            target._census_tags = tags  # pyright: ignore[reportAttributeAccessIssue]
        mine = self.rows(target)
        if labels is None and mine is None:
            return
        if labels is None:
            labels = torch.full(target.shape, -1.0, dtype=torch.float64)
        if mine is not None:
            mine.copy_(labels)
            return
        storage = target.untyped_storage()
        flat = torch.full((storage.nbytes() // target.element_size(),), -1.0, dtype=torch.float64)
        flat.as_strided(target.shape, target.stride(), target.storage_offset()).copy_(labels)
        self.written[storage._cdata] = (storage, flat)

    def complex_of(self, source: Tensor, out: Tensor) -> None:
        for kind, labels in (("row", self.rows(source)), ("pos", getattr(source, "_census_pos", None))):
            if labels is not None:
                self.put(out, kind, labels[..., 0])
                setattr(out, f"_census_{kind}_pairs", labels)

    # what stays in its place

    def pointwise(self, name: str, args: Any, kwargs: Any, out: Any) -> None:
        first = out[0] if isinstance(out, (list, tuple)) else out
        if not isinstance(first, Tensor):
            return
        flat = [*args, *kwargs.values()]
        tensors = [t for t in flat if isinstance(t, Tensor)]
        if name == "where" and len(tensors) == 3:
            tensors = tensors[1:]
        for kind, labels_of in (("row", self.rows), ("pos", lambda t: getattr(t, "_census_pos", None)),
                                ("weight", lambda t: self.weights(t) if t.shape == first.shape else None)):  # fmt: skip
            merged: Tensor | None = None
            for tensor in tensors:
                labels = labels_of(tensor)
                if labels is None:
                    continue
                try:
                    labels = labels.expand(first.shape)
                except RuntimeError:
                    continue
                merged = labels.clone() if merged is None else torch.where(merged >= 0, merged, labels)
            if kind == "weight" and merged is not None and any(self.rows(t) is not None for t in tensors):
                continue
            self.put(first, kind, merged)
            pairs = [getattr(t, f"_census_{kind}_pairs", None) for t in tensors]
            for pair in pairs:
                if pair is not None and first.is_complex():
                    try:
                        setattr(first, f"_census_{kind}_pairs", pair.expand(*first.shape, 2).clone())
                    except RuntimeError:
                        continue
                    break
        tags = tuple(dict.fromkeys(tag for t in tensors for tag in self.tags(t)))[-4:]
        if tags:
            first._census_tags = tags  # pyright: ignore[reportAttributeAccessIssue]
            if name in SOFT:
                self._softened(name, args, tags, tensors[0])

    @staticmethod
    def _softened(name: str, args: Any, tags: tuple[Score, ...], scores: Tensor) -> None:
        pos = getattr(scores, "_census_pos", None)
        for tag in tags:
            if not tag.soft:
                tag.soft = True
                if "softmax" in name and pos is not None and pos.shape[args[1]] > 1:
                    along = pos.movedim(args[1], 0)
                    tag.second_is_key = bool((along[0] != along[1]).any())

    def per_channel(self, source: Tensor, out: Any) -> None:
        first = out[0] if isinstance(out, (list, tuple)) else out
        labels = self.rows(source)
        if labels is None or labels.dim() < 2 or first.dim() != labels.dim() or first.shape[1] != labels.shape[1]:
            return
        if labels.dim() == 2:
            self.put(first, "row", labels)
            return
        kept = labels.flatten(2)
        if (kept == kept[:, :, :1]).all():
            shape = [*labels.shape[:2], *[1] * (labels.dim() - 2)]
            self.put(first, "row", kept[:, :, :1].reshape(shape).expand(first.shape).clone())

    # products

    def _rows_of(self, weight: Tensor) -> Tensor:
        """Labels [..., out] of a weight [..., in, out]: where each column begins."""
        if weight.shape[-2] > 1:
            step = (weight[..., 1, :] - weight[..., 0, :]).flatten()
            known = (weight[..., 0, :].flatten() >= 0).nonzero()
            if len(known):
                place = int(known[0])
                number = int(weight[..., 0, :].flatten()[place] // WIDE) - 1
                self.trace.contracted.setdefault(number, int(step[place]))
        for number in torch.unique(weight[..., 0, :] // WIDE).tolist():
            if number >= 1:
                self.trace.projecting.setdefault(int(number) - 1, self.stack[-1])
        return weight[..., 0, :].clone()

    def product(self, left: Tensor, right: Tensor, out: Tensor) -> None:
        wl, wr = self.weights(left), self.weights(right)
        if wr is not None and wl is None:
            self.put(out, "row", self._rows_of(wr).unsqueeze(-2).expand(out.shape).clone())
            self._keep_tags(left, out)
            self._latent(left, right, wr, out, True)
        elif wl is not None and wr is None:
            rows = self._rows_of(wl.transpose(-1, -2))
            self.put(out, "row", rows.unsqueeze(-1).expand(out.shape).clone())
            self._keep_tags(right, out)
            self._latent(right, left, wl, out, False)
        elif wl is None and wr is None:
            self.meet(left, right, out)

    def _keep_tags(self, operand: Tensor, out: Tensor) -> None:
        """Scores that are mixed between heads (talking heads) are still scores."""
        if operand.numel() == out.numel() and (tags := self.tags(operand)):
            out._census_tags = tags  # pyright: ignore[reportAttributeAccessIssue]

    def _latent(self, active: Tensor, weight: Tensor, labels: Tensor, out: Tensor, active_first: bool) -> None:
        """A product with a learned query, or with the weight of a layer: which, shows a softmax that comes after."""
        rows = self.rows(active)
        first = labels.flatten()[0]
        if rows is None or first < 0 or self.trace.names[int(first // WIDE) - 1].endswith("weight"):
            return
        operand = rows if active_first else rows.transpose(-1, -2)
        score = Score(self.stack[-1], None, Operand(self._three(operand)), True)
        out._census_tags = (score,)  # pyright: ignore[reportAttributeAccessIssue]

    @staticmethod
    def _three(labels: Tensor) -> Tensor:
        return labels.unsqueeze(0) if labels.dim() == 2 else labels

    def meet(self, left: Tensor, right: Tensor, out: Tensor) -> None:
        """A product of two activations."""
        if self.quiet:
            return
        a, b = self.rows(left), self.rows(right)
        tl, tr = self.tags(left), self.tags(right)
        if tl or tr:
            other = b if tl else a
            for tag in tl or tr:
                if other is not None and tag.values is None:
                    # channels last: the second operand has its tokens summed over, or is [tokens, channels] x [c, c]
                    tag.values = self._channels_last(other, summed=-2 if tl else -1)
                    if tag not in self.trace.scores:
                        self.trace.scores.append(tag)
            return
        if a is None and b is None:
            return
        summed = self._varies(a, -1) if a is not None else self._varies(b, -2)
        first = None if a is None else Operand(self._three(a if summed else a.transpose(-1, -2)))
        second = None if b is None else Operand(self._three(b.transpose(-1, -2) if summed else b))
        score = Score(self.stack[-1], first, second, bool(summed))
        out._census_tags = (score,)  # pyright: ignore[reportAttributeAccessIssue]
        self.put(out, "pos", torch.arange(out.shape[-1], dtype=torch.float64).expand(out.shape).clone())

    def _channels_last(self, labels: Tensor, summed: int) -> Operand:
        labels = self._three(labels)
        kept = -1 if summed == -2 else -2
        if self._varies(labels, kept) or not self._varies(labels, summed):
            return Operand(labels if kept == -1 else labels.transpose(-1, -2))
        return Operand(labels.transpose(-1, -2) if kept == -1 else labels)

    @staticmethod
    def _varies(labels: Tensor | None, axis: int) -> bool:
        if labels is None or labels.shape[axis] < 2:
            return False
        moved = labels.movedim(axis, 0)
        return bool(((moved[0] != moved[1]) & (moved[0] >= 0)).any())

    def convolve(self, args: Any, out: Tensor) -> None:
        source, weight, groups = args[0], args[1], args[8] if len(args) > 8 else 1
        labels, mine = self.weights(weight), self.rows(source)
        deep = groups > 1 and weight.shape[1] == 1 and out.shape[1] == source.shape[1]
        if deep and mine is not None:
            self.per_channel(source, out)
            if getattr(out, "_census_row", None) is not None:
                return
        self._keep_tags(source, out)
        if labels is None or (len(args) > 6 and args[6]):  # transposed
            return
        rows = labels.flatten(1)[:, 0]
        if labels.flatten(1).shape[1] > 1:
            number = int(rows[0] // WIDE) - 1
            self.trace.contracted.setdefault(number, int(labels.flatten(1)[0, 1] - rows[0]))
        shape = [1, len(rows), *[1] * (out.dim() - 2)] if out.dim() == weight.dim() else [len(rows), 1, 1]
        self.put(out, "row", rows.reshape(shape).expand(out.shape).clone())


class _Function(TorchFunctionMode):
    """Sees scaled_dot_product_attention before it is taken apart: it names its operands.

    Functions of torch that are written in Python (multi_head_attention_forward) call it where this mode is not on:
    there ``seen`` stands in for it.
    """

    def __init__(self, dispatch: _Dispatch) -> None:
        super().__init__()
        self.dispatch = dispatch
        self.inside = 0
        self.real = torch.nn.functional.scaled_dot_product_attention

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == SDPA:
            return self._follow(func, args, kwargs or {})
        self.inside += 1
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.inside -= 1

    def seen(self, *args: Any, **kwargs: Any) -> Any:
        """What stands in for the function."""
        return self._follow(self.real, args, kwargs) if self.inside else self.real(*args, **kwargs)

    def _follow(self, func: Any, args: Any, kwargs: Any) -> Any:
        operands = [*args[:3]] + [kwargs[name] for name in ("query", "key", "value")[len(args[:3]) :]]
        found = [self.dispatch.rows(operand) for operand in operands]
        if any(labels is not None for labels in found):
            q, k, v = (None if one is None else Operand(one.reshape(-1, *one.shape[-2:])) for one in found)
            path = self.dispatch.stack[-1]
            self.dispatch.trace.scores.append(Score(path, q, k, True, soft=True, values=v, fused_call=True))
        self.dispatch.quiet += 1
        try:
            return func(*args, **kwargs)
        finally:
            self.dispatch.quiet -= 1


@contextmanager
def following(module: nn.Module) -> Iterator[Trace]:
    """Everything that ``module`` computes inside the block is followed."""
    dispatch = _Dispatch(module)
    hooks = []
    for path, part in module.named_modules():
        hooks.append(part.register_forward_pre_hook(lambda *_, path=path: dispatch.stack.append(path)))
        hooks.append(part.register_forward_hook(lambda *_: dispatch.stack.pop() and None, always_call=True))
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        function = _Function(dispatch)
        stands_in = patch.object(torch.nn.functional, SDPA, function.seen)
        with torch.no_grad(), stands_in, function, dispatch:
            yield dispatch.trace
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for hook in hooks:
            hook.remove()
