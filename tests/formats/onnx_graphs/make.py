"""Export modules whose own forward says which rows are Q, K and V, and write down what it says.

In an environment of its own (../onnx_models/requirements.txt, and timm): ``python make.py FOLDER`` makes all of them,
``python make.py`` the small ones that are kept here. The truth is what reaches attention when each projection gives the
numbers of its rows.
"""

from __future__ import annotations

import itertools
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
from libraries import declare_operators
from own import CORES, DIM, HEADS, MODULES, WIDTH
from torch import Tensor, nn

HERE = Path(__file__).parent
EXPORTERS: dict[str, dict[str, Any]] = {
    "torchscript": {"dynamo": False, "opset_version": 17},
    "dynamo": {"dynamo": True, "external_data": False},
}
KEPT = {
    "HeadThenPart-softmax", "HeadThenChunk-fused", "RowByRow-softmax", "WidthFirst-softmax", "Stripes-softmax",
    "Grouped-softmax", "BlocksOfFew-fused", "Misnamed-softmax", "PairPerHead-softmax",
    "Convolved-softmax", "KeysBetween-keys_first", "LastIsQ-einsum", "TokensFirst-batched", "FewKeys-softmax",
    "TiledKeys-softmax", "BesideMlp-softmax", "ValuesByWidth-softmax", "KeysBackwards-softmax",
    "MlpFirst-softmax", "RowOfEachHead-softmax", "RowsOfEachHead-softmax",
}  # fmt: skip
SCALE = 1 << 12
LARGEST = 56_000


class Stack(nn.Module):
    """Two such modules, each before a residual."""

    def __init__(self, kind: Callable[..., nn.Module], core: Any, bias: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleDict({"attn": kind(core, bias)}) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer["attn"](x)
        return x


def truth(model: nn.Module, given: tuple[Any, ...], watch: Callable[[Callable[..., None]], Any]) -> list[Any]:
    """What reaches attention of each projection: [{part: [weight, [[rows] of each head]]}]."""
    numbered = {name: one for name, one in model.named_modules() if is_projection(one)}
    names = list(numbered)
    hooks = []

    def counted(number: int, axis: int) -> Callable[..., Tensor]:
        def hook(_: nn.Module, __: Any, out: Tensor) -> Tensor:
            shape = [1] * out.dim()
            shape[axis] = out.shape[axis]
            rows = number * SCALE + torch.arange(out.shape[axis], dtype=out.dtype)
            return rows.view(shape).expand_as(out).clone()

        return hook

    for number, one in enumerate(numbered.values()):
        hooks.append(one.register_forward_hook(counted(number, 1 if isinstance(one, nn.Conv2d) else -1)))
    for name, one in model.named_modules():
        last = name.rsplit(".", 1)[-1]
        if isinstance(one, nn.BatchNorm1d) or ("norm" in last and last[:1] in "qk"):
            hooks.append(one.register_forward_hook(lambda _, given, __: given[0]))
    found: list[Any] = []

    def met(q: Tensor, k: Tensor, v: Tensor) -> None:
        module: dict[str, Any] = {}
        for part, rows in (("q", q), ("k", k), ("v", v)):
            seen = (rows if rows.dim() == 4 else rows.flatten(0, -4))[0, :, 0]
            if (seen - seen.round()).abs().max() > 0.01:  # scaled before: the rows of a head follow each other here
                seen = seen / (seen[0, 1] - seen[0, 0])
            every = [[*map(int, head)] for head in seen.round().tolist()]
            heads = [list(one) for one in dict.fromkeys(map(tuple, every))]
            module[part] = [names[heads[0][0] // SCALE], [[row % SCALE for row in head] for head in heads]]
        found.append(module)

    with torch.no_grad(), watch(met):
        model(*given)
    for hook in hooks:
        hook.remove()
    return found


def is_projection(one: nn.Module) -> bool:
    return isinstance(one, (nn.Linear, nn.Conv2d)) or type(one).__name__ == "Conv1D"


class WatchingOwn:
    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, met: Callable[..., None]) -> WatchingOwn:
        self.met = met
        return self

    def __enter__(self) -> None:
        self.cores = {}
        for layer in self.model.layers:
            attn = layer["attn"]
            self.cores[attn] = attn.core

            def core(q: Tensor, k: Tensor, v: Tensor, core: Any = attn.core) -> Tensor:
                self.met(q, k, v)
                return core(q, k, v)

            attn.core = core

    def __exit__(self, *_: object) -> None:
        for attn, core in self.cores.items():
            attn.core = core


class WatchingFused:
    """torch's own scaled_dot_product_attention."""

    def __call__(self, met: Callable[..., None]) -> WatchingFused:
        self.met = met
        return self

    def __enter__(self) -> None:
        self.kept = torch.nn.functional.scaled_dot_product_attention

        def attention(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> Tensor:
            self.met(query, key, value)
            return self.kept(query, key, value, *rest, **options)

        torch.nn.functional.scaled_dot_product_attention = attention

    def __exit__(self, *_: object) -> None:
        torch.nn.functional.scaled_dot_product_attention = self.kept


class WatchingProducts:
    """The ``@`` of a module: scores and what they weigh, or q and the product of k and v; softmax leaves all alone."""

    def __call__(self, met: Callable[..., None]) -> WatchingProducts:
        self.met = met
        return self

    def __enter__(self) -> None:
        self.kept = Tensor.__matmul__, Tensor.softmax
        before: list[tuple[Tensor, Tensor, Tensor]] = []

        def product(one: Tensor, other: Tensor) -> Tensor:
            made = torch.matmul(one, other)
            before.append((one, other, made))
            if len(before) == 2:
                (a, b, first), (c, d, _) = before
                self.met(*((c, a.transpose(-2, -1), b) if d is first else (a, b.transpose(-2, -1), d)))
                before.clear()
            return made

        Tensor.__matmul__, Tensor.softmax = product, lambda one, *_, **__: one  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        Tensor.__matmul__, Tensor.softmax = self.kept  # type: ignore[method-assign]


class Sized(nn.Module):
    """A module that is told the height and the width of its image."""

    def __init__(self, attn: nn.Module, *size: int) -> None:
        super().__init__()
        self.attn = attn
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return self.attn(x, self.size)


class OfTimm(nn.Module):
    """Two modules of timm, each before a residual."""

    def __init__(self, made: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(made() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return x


def of_timm() -> Iterator[tuple[str, nn.Module, tuple[Any, ...], Any, dict[str, Any]]]:
    """What whole models of timm hold that are too large to be kept: LeViT, Twins, CoaT."""
    declare_operators()
    from timm.models import coat, levit, twins

    def factored() -> nn.Module:
        crpe = coat.ConvRelPosEnc(DIM, HEADS, window=3)
        return Sized(coat.FactorAttnConvRelPosEnc(WIDTH, HEADS, qkv_bias=True, shared_crpe=crpe), 4, 4)

    kinds: dict[str, tuple[Callable[[], nn.Module], int, Any]] = {
        "Levit": (lambda: levit.Attention(WIDTH, 4, HEADS, 2.0, resolution=4), 16, WatchingProducts),
        "TwinsLocal": (lambda: Sized(twins.LocallyGroupedAttn(WIDTH, HEADS, ws=2), 4, 4), 16, WatchingFused),
        "TwinsGlobal": (lambda: Sized(twins.GlobalSubSampleAttn(WIDTH, HEADS, sr_ratio=2), 4, 4), 16, WatchingFused),
        "Coat": (factored, 17, WatchingProducts),
    }
    for name, (made, tokens, watch) in kinds.items():
        yield f"{name}-timm", OfTimm(made), (torch.randn(1, tokens, WIDTH),), watch(), {}


def own(few: bool) -> Iterator[tuple[str, nn.Module, tuple[Any, ...], Any, dict[str, Any]]]:
    for kind in MODULES:
        for core, bias in itertools.product(CORES, (True, False)):
            name = f"{kind.__name__}-{core.__name__}"
            # every module with the plain core, with and without bias, and with each other core in turn
            other = CORES.index(core) == 1 + MODULES.index(kind) % (len(CORES) - 1)
            if (few and (name not in KEPT or not bias)) or (not few and core is not CORES[0] and not (other and bias)):
                continue
            model = Stack(kind, core, bias)
            yield name + ("" if bias else "-nobias"), model, (torch.randn(2, 8, WIDTH),), WatchingOwn(model), {}


def of_any_batch() -> Iterator[tuple[str, nn.Module, tuple[Any, ...], Any, dict[str, Any]]]:
    """Convolutions of which torch's older exporter leaves the batch open on one side of a reshape only."""
    for core in CORES[:1]:
        model = Stack(MODULES[[kind.__name__ for kind in MODULES].index("Convolved")], core, True)
        options = {"torchscript": {"input_names": ["x"], "dynamic_axes": {"x": {0: "batch"}}}}
        yield "Convolved-any", model, (torch.randn(2, 8, WIDTH),), WatchingOwn(model), options


def saved(name: str, model: nn.Module, given: tuple[Any, ...], watch: Any, options: Any, folder: Path) -> None:
    model.eval()
    try:
        modules = truth(model, given, watch)
    except Exception as error:
        print(f"{name}: no truth: {str(error).splitlines()[0][:150]}", flush=True)
        return
    done = []
    for exporter, how in EXPORTERS.items():
        path = folder / f"{name}-{exporter}.onnx"
        try:
            torch.onnx.export(model, given, path, **how, **options.get(exporter, {}))
        except Exception as error:
            print(f"{path.name}: not exported: {str(error).splitlines()[0][:150]}", flush=True)
            continue
        without_source(path)
        done.append(exporter)
    (folder / f"{name}.json").write_text(json.dumps(modules))
    print(name, *done, flush=True)


def without_source(path: Path) -> None:
    model = onnx.load(path)
    for node in model.graph.node:
        kept = [one for one in node.metadata_props if one.key == "pkg.torch.onnx.name_scopes"]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    del model.graph.value_info[:]
    onnx.save(model, path)


def thinned(folder: Path) -> None:
    """Drop what is too large to be kept."""
    for path in folder.glob("*.onnx"):
        if path.stat().st_size > LARGEST:
            path.unlink()


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    every = itertools.chain(own(folder == HERE), of_any_batch(), of_timm())
    if folder != HERE:
        from libraries import libraries

        every = itertools.chain(every, libraries(WatchingFused))
    wanted = sys.argv[2:]
    for name, model, given, watch, options in every:
        if not wanted or any(text in name for text in wanted):
            saved(name, model, given, watch, options, folder)
    if folder == HERE:
        thinned(folder)


if __name__ == "__main__":
    main()
