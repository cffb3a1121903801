"""Make weights of an adapter's factors: its updates alone, or their sums with the weights of a base."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence

from qkvinspect.checkpoint import Checkpoint, TensorInfo
from qkvinspect.errors import LayoutError
from qkvinspect.fast_dataclass import dataclass, replace
from qkvinspect.late_pattern import late_pattern
from qkvinspect.weights.adapters.factors import Factors, factors_of
from qkvinspect.weights.adapters.low_rank import LowRank
from qkvinspect.weights.adapters.module_names import ModuleNames, dotted
from qkvinspect.weights.adapters.scales import AdapterConfig, configs_of, scale_of, unfamiliar
from qkvinspect.weights.companions import expect_float
from qkvinspect.weights.strided import strided_shape
from qkvinspect.weights.weight import Weight

_MULTIHEAD = "in_proj_weight"
_ENDINGS = (".weight", ".base_layer.weight", ".linear.weight", f".{_MULTIHEAD}", f".base_layer.{_MULTIHEAD}")
_INNER = ".base_layer.out_proj"
"""PEFT wraps nn.MultiheadAttention with the output projection in it (0.21, tuners/lora/layer.py)."""

_MODELS = late_pattern(r"unet|transformer|te\d?|text_encoder(_\d)?|prior(_unet|_te)?")
"""What an adapter of a pipeline puts before the names of modules (diffusers 0.42, loaders/; sd-scripts)."""

_TWICE = 2
"""PEFT adds to that output projection, and then merges the adapter that this has of its own: twice in all, whenever
the model runs and when it is merged (MultiheadAttention.merge, of which its forward makes use)."""


@dataclass(frozen=True, slots=True)
class Sums:
    """The weights of a base that an adapter is added to.

    Attributes:
        weights: by the base's names.
        left: names of modules of the adapter that the base has no place for, or more than one.
        elsewhere: those of another model than the base, by what stands first in their names (unet, te).
    """

    weights: Mapping[str, Weight]
    left: tuple[str, ...]
    elsewhere: tuple[str, ...] = ()


def with_base_beside(factors: Sequence[Factors], names: Mapping[str, object]) -> bool:
    """Whether a file holds the weights too that its adapters add to."""
    own = (one for one in factors if not one.of_embedding)  # PEFT saves these beside the adapter
    return any(base_of(one.module, names) for one in own)


def updates(checkpoint: Checkpoint, factors: Sequence[Factors]) -> Iterator[Weight]:
    """What an adapter without its base adds to each weight, under the name of that weight."""
    configs = configs_of(checkpoint)
    modules = {one.module for one in factors}
    several: dict[str, list[str]] = {}
    for one in factors:
        several.setdefault(one.module, []).append(one.adapter)
    for one in {one.module: one for one in factors}.values():
        name = _name_of(one, modules)
        dtype = (one.up or _held(one)).dtype
        if len(several[one.module]) > 1:
            why = f"it has several adapters and no base: {', '.join(several[one.module][:4])}"
            yield Weight(name, (), dtype, None, why=why)
            continue
        try:
            found = update(one, config_of(configs, one.module))
            _require_all_parts(found)
        except LayoutError as error:
            yield Weight(name, (), dtype, None, why=str(error))
            continue
        yield Weight(name, _shape(found), dtype, None, found)


def base_of(module: str, names: Container[str]) -> str | None:
    """The name of the weight of a module in the file that its factors are in; None where there is none."""
    return next((name for ending in _ENDINGS if (name := f"{module}{ending}") in names), None)


def update(one: Factors, config: AdapterConfig | None, *, in_model: bool = False) -> LowRank:
    """The product of a module's factors.

    Args:
        in_model: whether they are in the state_dict of a model, which has no convention for a scale that is not said.

    Raises:
        CheckpointError: its scale cannot be read.
        LayoutError: the factors are not those of one product.
    """
    down, up = one.down, one.up
    if down is None or up is None:
        missing = "B (lora_B, up)" if up is None else "A (lora_A, down)"
        raise LayoutError(f"of its two factors {missing} is missing", tensor=_held(one).name)
    if one.strange:
        raise LayoutError(unfamiliar(one.strange))
    if one.of_embedding and one.magnitude is not None:
        raise LayoutError("DoRA of an embedding is not decoded", tensor=one.magnitude.name)
    if config is not None and (why := config.otherwise()):
        raise LayoutError(why)
    for info in (down, up):
        expect_float(info)
        if len(info.shape) < 2 or 0 in info.shape:
            raise LayoutError(
                "has another shape", tensor=info.name, expected="two axes or more", found=list(info.shape)
            )
    groups = _groups(one, down, up)
    scale = scale_of(one, dotted(one.module), config, down.shape[0] // groups, in_model=in_model)
    if scale is not None and one.module.endswith(_INNER):
        scale *= _TWICE
    turned = config is not None and config.turned
    found = LowRank(up, down, scale, turned=turned, magnitude=one.magnitude, alpha=one.alpha, groups=groups)
    return replace(found, of_inputs=_of_inputs(one.magnitude))


def _require_all_parts(found: LowRank) -> None:
    """Check that it is known which parts of a fused weight an update without its base is of.

    Raises:
        LayoutError: it is of some of Q, K and V (``enable_lora`` of loralib's MergedLinear), and no file says of which.
    """
    if found.groups not in (1, 3):
        text = f"loralib's MergedLinear adds to {found.groups} parts of its weight, and does not keep to which"
        raise LayoutError(text, tensor=found.up.name)


def _of_inputs(magnitude: TensorInfo | None) -> bool:
    """Whether DoRA's lengths are those of columns: LyCORIS says it by the axis that is not 1."""
    return (
        magnitude is not None
        and magnitude.name.endswith(".dora_scale")
        and len(magnitude.shape) > 1
        and magnitude.shape[0] == 1 < magnitude.numel
    )


def sums(weights: Mapping[str, Weight], adapter: Checkpoint) -> Sums:
    """The weights of a base that an adapter changes, with what it adds.

    Args:
        weights: those of the base, by name.
    """
    factors = factors_of(adapter.tensors)
    configs = configs_of(adapter)
    modules = _modules(weights)
    names = ModuleNames(modules)
    found: dict[str, Weight] = {}
    left: list[str] = []
    placed: list[tuple[Factors, Weight]] = []
    for one in factors:
        place = names.find(one.module)
        if place is None:
            left.append(dotted(one.module))
        else:
            placed.append((one, weights[modules[place]]))
    turned = turned_parents(placed)
    for one, base in placed:
        if base.name in found:
            found[base.name] = _lost(base, "the adapter has more than one pair of factors for it")
            continue
        found[base.name] = _sum(one, base, config_of(configs, one.module), turned.get(_parent(one.module)))
    here = {_model(dotted(one.module)) for one, _ in placed}
    elsewhere = tuple(name for name in left if _model(name) not in {"", *here})
    return Sums(found, tuple(name for name in left if name not in elsewhere), elsewhere)


def _model(module: str) -> str:
    """Which of a pipeline's models a module is of; "" where its name does not tell."""
    first = module.partition(".")[0]
    return first if _MODELS.fullmatch(first) else ""


def _sum(one: Factors, base: Weight, config: AdapterConfig | None, turned: bool | None) -> Weight:
    if base.why:
        return base
    try:
        found = update(one, config)
        if config is not None and (why := config.begun()):
            raise LayoutError(why)
        if found.scale is None:
            raise LayoutError(
                "the adapter's lora_alpha is unknown", hint="--config adapter_config.json, or a file with lora_alpha"
            )
        return replace(base, info=None, encoding=added(found, base, one, turned))
    except LayoutError as error:
        return _lost(base, str(error))


def added(found: LowRank, base: Weight, one: Factors, turned: bool | None) -> LowRank:
    """The update in the orientation of its base.

    Raises:
        LayoutError: the shapes do not fit.
    """
    rows, cols = base.as_shape("out_in")
    height, width = strided_shape(found.up, "out_in")[0], strided_shape(found.down, "out_in")[1]
    straight = width == cols and (height == rows or (one.first_rows and height < rows))
    across = (width, height) == (rows, cols)
    if not (straight or across):
        raise LayoutError(
            f"{found.up.name} and {found.down.name} do not fit it",
            expected=[rows, cols],
            found=f"{[height, found.rank]} times {[found.rank, width]}",
        )
    across = (found.turned if turned is None else turned) if straight and across else not straight
    lengths = width if found.of_inputs else height
    if found.magnitude is not None and found.magnitude.numel != lengths:
        raise LayoutError(
            "has another size", tensor=found.magnitude.name, expected=lengths, found=list(found.magnitude.shape)
        )
    return replace(found, base=base, turned=across)


def turned_parents(placed: Sequence[tuple[Factors, Weight]]) -> dict[str, bool]:
    """Whether the weights below each module are stored [in, out], where the shapes of one tell it."""
    found: dict[str, bool] = {}
    for one, base in placed:
        if one.up is None or one.down is None or len(base.shape) != 2 or not one.up.shape or not one.down.shape:
            continue
        sides = one.up.shape[0], one.down.shape[-1]
        if sides[0] != sides[1] and base.shape in (sides, sides[::-1]):
            found[_parent(one.module)] = base.shape != sides
    return found


def _groups(one: Factors, down: TensorInfo, up: TensorInfo) -> int:
    """How many parts have a product of their own.

    Raises:
        LayoutError: A has no row for each column of B.
    """
    rank = strided_shape(up, "out_in")[1]
    groups, odd = divmod(down.shape[0], rank)
    if odd or not groups or (groups > 1 and (one.tool != "loralib" or up.shape[0] % groups)):
        raise LayoutError("has another rank", tensor=up.name, expected=f"{down.shape[0]} columns", found=list(up.shape))
    return groups


def _modules(weights: Mapping[str, Weight]) -> dict[str, str]:
    """The name of each module's weight."""
    found: dict[str, str] = {}
    for name in weights:
        module, _, leaf = name.rpartition(".")
        if leaf in ("weight", _MULTIHEAD):
            found[module] = name
    return found


def _name_of(one: Factors, modules: set[str]) -> str:
    """The name of the weight that a module's factors add to."""
    module = dotted(one.module)
    multihead = f"{one.module}{_INNER}" in modules
    return f"{module}.{_MULTIHEAD if multihead else 'weight'}"


def _held(one: Factors) -> TensorInfo:
    """The factor that is there."""
    held = one.down or one.up
    assert held is not None
    return held


def _shape(found: LowRank) -> tuple[int, ...]:
    """Of the product as torch would hold it."""
    axes = found.down.shape[1:]
    if len(axes) > 1 and not found.turned:
        return found.shape[0], *axes
    return found.shape


def config_of(configs: Mapping[str, AdapterConfig], module: str) -> AdapterConfig | None:
    first = dotted(module).partition(".")[0]
    return configs.get(first) or configs.get("")


def _parent(module: str) -> str:
    return module.rpartition(".")[0]


def _lost(base: Weight, why: str) -> Weight:
    return replace(base, info=None, encoding=None, why=why)


def replaced(base: Mapping[str, TensorInfo], adapter: Checkpoint) -> tuple[dict[str, TensorInfo], list[str]]:
    """Whole tensors of an adapter that stand in for the base's: ``modules_to_save``, trained biases; what has no place.

    Raises:
        LayoutError: one has another shape than the base's.
    """
    factors = factors_of(adapter.tensors)
    used = {name for one in factors for name in one.names}
    names = ModuleNames(base)
    found: dict[str, TensorInfo] = {}
    left: list[str] = []
    for name, info in adapter.tensors.items():
        if name in used:
            continue
        place = names.find(name)
        if place is None:
            left.append(name)
        elif base[place].shape != info.shape:
            raise LayoutError(
                "stands for a tensor of another shape of the base",
                tensor=name,
                expected=list(base[place].shape),
                found=list(info.shape),
            )
        else:
            found[place] = replace(info, name=place)
    return found, left
