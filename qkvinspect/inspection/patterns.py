"""Attention that no row of the registry names: tensors whose names differ only in a word for Q, K and V.

``fc_q``, ``fc_k`` and ``fc_v`` of one module are its projections, if their shapes are those of attention; so is one
``kqv_linear`` whose rows are a multiple. A name is never taken for a packing: a tensor that holds several parts comes
with every packing that it may have, for the weights, or a person, to choose from.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from qkvinspect.checkpoint import Orientation
from qkvinspect.errors import LayoutError
from qkvinspect.inspection.candidates import Candidate
from qkvinspect.inspection.leftovers import OF_FACTORS, OF_LAYERS, Leftover, leftover
from qkvinspect.inspection.names import Names, Path, numberless, shape_of
from qkvinspect.inspection.no_scores import without_scores
from qkvinspect.inspection.possible_layouts import (
    columns_of,
    known_widths,
    layout_of_three_axes,
    layouts_of,
    rows_of,
    turns_of,
    width_of,
)
from qkvinspect.inspection.projections import LEAVES, ProjectingModule, Projection
from qkvinspect.inspection.stacked_layers import StackedLayers
from qkvinspect.inspection.three_axes import Stream, as_matrices, have_three, in_words, mix_three, out_of, readings
from qkvinspect.inspection.two_steps import IN_TWO_STEPS, first_steps, products, projections_of
from qkvinspect.inspection.unexplained import (
    EVEN,
    FEW,
    HEADS_OF_TASKS,
    are_moments,
    are_three_words,
    has_more_axes,
    is_additive,
    is_low_rank,
    parts_of,
    unexplained,
)
from qkvinspect.inspection.words import is_no_projection, speaks_of_attention, tokens
from qkvinspect.weights.head_stack import Axes

_OTHER_KINDS = frozenset({"A_log", "dt_bias", "conv1d", "conv", "D", "short_filter", "filter_fn"})
"""What stands beside an ``in_proj`` that is a state space's or a convolution's (Hyena has filters)."""

_ADAPTERS = frozenset({"processor", "adapter", "ip"})


def find(
    modules: Sequence[ProjectingModule],
    names: Names,
    paths: Mapping[str, Path],
    claimed: Collection[str],
    layers: Collection[str],
) -> tuple[list[list[Candidate]], list[Leftover]]:
    """Each of some modules whose tensors look like projections of attention, with what it may be; what is left.

    Args:
        modules: all that have unclaimed tensors of such names.
        paths: where it is looked for: paths by stored name.
        claimed: tensors that belong to modules that are known.
        layers: the names of those modules.
    """
    used = set(layers)
    found: list[list[Candidate]] = []
    left: list[Leftover] = []
    silent: list[ProjectingModule] = []
    layers_of, stream = StackedLayers(names, paths, modules), Stream(names, paths, modules)
    for module in modules:
        stacked = {id(some): why for some in module.sets if (why := layers_of.why(module, some))}
        left += [
            leftover(module, some, stacked[id(some)], lone=False, no_row=OF_LAYERS)
            for some in module.sets
            if id(some) in stacked
        ]
        three = [some for some in module.sets if have_three(some) and id(some) not in stacked]
        for some in three:
            if any(len(one.parts) > 1 for one in some):
                why = "three axes of one tensor that holds several parts, and nothing says where these are"
                left.append(leftover(module, some, why, lone=False))
                continue
            axes = readings(names, module, some, stream)
            matrices = as_matrices(some, axes[0]) if len(axes) == 1 else None
            if matrices is None:
                left.append(leftover(module, some, _why_not_three(axes), lone=False))
                continue
            layer = _layer(module, some, used, several=len(three) > 1)
            used.add(layer)
            weights = tuple(one.weight for one in matrices[0])
            form = layout_of_three_axes(*matrices, out_of(module, some, axes[0]))
            found.append([Candidate(form, module.path, layer, weights)])
        factors = {id(some): why for some, why in products(module)}
        left += [
            leftover(module, some, factors[id(some)], lone=False, no_row=OF_FACTORS)
            for some in module.sets
            if id(some) in factors
        ]
        sets = [some for some in module.sets if some not in three and id(some) not in stacked | factors.keys()]
        if _gates_messages(names, module):
            continue
        first = first_steps(module)
        sets = [some for some in sets if not any(one in first for one in some)] if first else sets
        fitting = {id(some): turns for some in sets if (turns := _fitting(names, module, some))}
        whole = [some for some in sets if id(some) in fitting]
        second = bool(whole) or module.stored in used or (_adapts(module) and module.stored.rpartition(".")[0] in used)
        chosen = [*whole, *(some for some in sets if second and _is_second(some, module))]
        several = len(chosen) > 1 or module.stored in used
        for some in chosen:
            layer = _layer(module, some, used, several=several)
            used.add(layer)
            weights = tuple(one.weight for one in some)
            forms = layouts_of(module, some, fitting.get(id(some)) or turns_of(names, module, some))
            found.append([Candidate(form, module.path, layer, weights) for form in forms])
        if first and not whole:
            left.append(leftover(module, projections_of(module), IN_TWO_STEPS, lone=False))
        elif not first:
            said = [*unexplained(module, [some for some in sets if some not in chosen])]
            left += said
            if not (said or chosen or three or stacked or factors):
                silent.append(module)
    return _scored(names, found, [*left, *_lost(names, paths, claimed, found, silent)])


def _scored(
    names: Names, found: Sequence[list[Candidate]], left: Sequence[Leftover]
) -> tuple[list[list[Candidate]], list[Leftover]]:
    """What was found and left, but for what no query scores, which is left as well."""
    said = [without_scores(names, some[0]) for some in found]
    kept = [some for some, why in zip(found, said, strict=True) if why is None]
    return kept, [*left, *filter(None, said)]


def _lost(
    names: Names,
    paths: Mapping[str, Path],
    claimed: Collection[str],
    found: Iterable[Sequence[Candidate]],
    silent: Iterable[ProjectingModule],
) -> Iterator[Leftover]:
    """Modules that hold some projections only, where in another layer of their stack the same are of an attention."""
    held = [(module, some) for module in silent if (some := projections_of(module))]
    if not held:
        return
    known = {numberless(names.paths[one.name]) for candidates in found for one in candidates[0].weights}
    known |= {numberless(paths[name]) for name in claimed if name in paths}
    for module, some in held:
        if all(numberless(paths[one.weight.name]) in known for one in some):
            parts = " and ".join(sorted(parts_of(some)))
            why = f"{parts} alone, where other layers of its stack have more"
            yield leftover(module, some, why, lone=False)


def _why_not_three(axes: Sequence[Axes]) -> str:
    """Why parameters of three axes are not cut."""
    if len(axes) > 1:
        return f"three axes, which may be {' or '.join(map(in_words, axes))}"
    return "three axes, and nothing says which counts the heads"


def _gates_messages(names: Names, module: ProjectingModule) -> bool:
    """Whether it is PyG's ResGatedGraphConv, which adds query and key and lets them gate the value.

    Its names are those of TransformerConv, whose ``lin_skip`` has a bias where its ``lin_key`` has one; this one's
    never has (torch_geometric/nn/conv/res_gated_graph_conv.py, transformer_conv.py).
    """
    return "lin_skip" in module.beside and [
        names.has(f"{name}.bias", module.path) for name in ("lin_key", "lin_skip")
    ] == [True, False]


def _is_second(projections: Sequence[Projection], module: ProjectingModule) -> bool:
    """Whether these are K and V of a second stream.

    Bare parameters called so may be anything of K and V (Linformer's shorten the sequence, by chance to as many rows as
    attention is wide): the output projection must be one as well, and one axis as long as it is wide.
    """
    if parts_of(projections) != {"k", "v"} or is_low_rank(projections):
        return False
    if all(one.key[-1] in LEAVES for one in projections):
        return True
    widths = {columns_of(info) for key, info in module.outputs if key[-1] not in LEAVES}
    return all(widths & set(one.weight.shape) for one in projections)


def _adapts(module: ProjectingModule) -> bool:
    """Whether its name says that it holds a second stream of what it lies in: ``attn2.processor`` of IP-Adapter."""
    return not _ADAPTERS.isdisjoint(tokens(module.path[-1])) if module.path else False


def _layer(module: ProjectingModule, projections: Sequence[Projection], used: set[str], *, several: bool) -> str:
    """The module's name as stored, and what tells these projections from others in it."""
    first = projections[0]
    label = str(first.index) if first.index is not None else first.word.label if several else ""
    layer = f"{module.stored}.{label}".strip(".")
    if layer in used:
        layer = f"{layer}.{'_'.join(sorted(parts_of(projections), key='qkv'.index))}".lstrip(".")
    return layer


def _fitting(names: Names, module: ProjectingModule, some: Sequence[Projection]) -> Sequence[Orientation]:
    """How projections may lie to be Q, K and V; nothing where they are not."""
    if len(parts_of(some)) != 3 or mix_three(some) or any(map(has_more_axes, some)) or _are_slots(some):
        return ()
    turns: list[Orientation] = [turn for turn in turns_of(names, module, some) if _fits(some, module, turn)]
    if len(turns) > 1 and (widths := known_widths(module)):
        read: list[Orientation] = [
            turn for turn in turns if widths & {rows_of(one, turn) for one in some if one.parts in "qv"}
        ]
        return read or turns
    return turns


def _are_slots(some: Sequence[Projection]) -> bool:
    """Whether K and V are parameters under the bare words, and the query a layer: the slots of a memory."""
    bare = {one.parts for one in some if len(one.key) == 1 and one.word.affix == ("*",)}
    return bare == {"k", "v"} and all(one.key[-1] in LEAVES for one in some if one.parts == "q")


def _fits(projections: Sequence[Projection], module: ProjectingModule, turn: Orientation) -> bool:
    """Whether the shapes are those of attention, and the names do not only happen to use such words."""
    try:
        sizes = {one.parts: shape_of(one.weight, turn) for one in projections}
        widths = {width_of(key, info, turn) for key, info in module.outputs}
    except LayoutError:
        return False
    words = (*module.path, *(part for one in projections for part in one.key))
    said = any(map(speaks_of_attention, words))
    if projections[0].key[0] == "in_proj" and not (said and widths):
        return False
    if len(projections) == 1 and not _OTHER_KINDS.isdisjoint(module.beside):
        return False
    if is_low_rank(projections) or is_additive(projections) or are_moments(projections):
        return False
    if not (said or widths or _may_stand_alone(projections, module)):
        return False
    if len(sizes) > 1:
        return _several_fit(sizes)
    return _one_fits(sizes, widths, said=said) and not (projections[0].key[0] == "in_proj" and _has_mlp(sizes, widths))


def _may_stand_alone(projections: Sequence[Projection], module: ProjectingModule) -> bool:
    """Whether words for Q, K and V are enough where nothing else says attention and no output projection is there.

    Classifiers over words that mean query, key and value have few rows, or any number of them; networks have several
    matrices, and convolutions that look around. Names that differ in more than the word are of different things:
    ``query``, ``key_points`` and ``val_loss``.
    """
    rows = [one.weight.shape[0] for one in projections]
    return (
        all(one.plain for one in projections)
        and (all(count >= FEW and count % EVEN == 0 for count in rows) or _score_with_few(projections))
        and len({one.word.label for one in projections}) < 3
        and not any(HEADS_OF_TASKS.intersection(one.word.after) for one in projections)
        and not any(map(is_no_projection, module.path[-1:]))
    )


def _score_with_few(projections: Sequence[Projection]) -> bool:
    """Whether they are those of SAGAN: V as wide as its input, Q and K an equal fraction of it.

    As 1x1 convolutions, or as layers whose names differ in nothing but the three words.
    """
    shapes = {one.parts: one.weight.shape for one in projections}
    if not (all(len(shape) == 4 for shape in shapes.values()) or are_three_words(projections)):
        return False
    if shapes.keys() != set("qkv"):
        return False
    (few, wide), same, (rows, cols) = shapes["q"][:2], shapes["k"][:2], shapes["v"][:2]
    return same == (few, wide) and rows == cols == wide and few > 1 and wide % few == 0


def _one_fits(sizes: dict[str, tuple[int, int]], widths: set[int], *, said: bool) -> bool:
    """Whether one tensor can hold Q, K and V: thirds, or a Q as wide as the output projection reads."""
    ((rows, cols),) = sizes.values()
    if rows % 3 == 0 and (rows == 3 * cols or rows // 3 in widths):
        return True
    for width in widths:
        kv, odd = divmod(rows - width, 2)
        if kv > 0 and not odd and width % kv == 0:
            return True
    return said and not widths and rows % 3 == 0 and rows > cols


def _has_mlp(sizes: dict[str, tuple[int, int]], widths: set[int]) -> bool:
    """Whether one tensor may hold an MLP besides, which the output projection reads as well.

    Then it has three times as many rows as columns and those of the MLP, and that reads as much more than the columns.
    """
    ((rows, cols),) = sizes.values()
    return any(width > cols and rows - width == 2 * cols for width in widths)


def _several_fit(sizes: dict[str, tuple[int, int]]) -> bool:
    """Whether some number of heads, over some number of kv heads, comes out even."""
    rows: dict[str, int] = {}
    for parts, (total, _) in sizes.items():
        if set(parts) == {"q", "k"} and total == next(size[0] for other, size in sizes.items() if other == "v"):
            rows |= {"q": total, "k": total}
        elif total % len(parts):
            return False
        else:
            rows |= dict.fromkeys(parts, total // len(parts))
    q, k, v = rows["q"], rows["k"], rows["v"]
    if "kv" in map(_sorted, sizes) and q not in (k, 2 * k) and q % k:
        return False
    return q % k == 0 and (v % k == 0 or k % v == 0) and _same_input(sizes)


def _sorted(parts: str) -> str:
    return "".join(sorted(parts))


def _same_input(sizes: dict[str, tuple[int, int]]) -> bool:
    """Whether K and V read vectors of one width, as they read the same ones."""
    cols = {cols for parts, (_, cols) in sizes.items() if set(parts) & {"k", "v"}}
    return len(cols) == 1 or len(sizes) == 3
