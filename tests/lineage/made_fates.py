"""200 ways to treat heads and layers whose fates are known: ``python -m tests.lineage.made_fates`` prints FATES.txt.

Each is done to a trained model: to heads (with those that share their K and V) or to whole layers; then all is left as
it is, moved a little, rounded to bfloat16, or the heads of each layer are turned inside.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from qkvinspect.lineage.kinship import Kinship
from tests.lineage import kinds
from tests.lineage.compare import kinship
from tests.lineage.kinds import Made
from tests.lineage.tiny import Model, Recipe, from_scratch

Weights = dict[str, Tensor]
Row = tuple[str, int | None, int | None, int | None, int | None, int | None, int | None]
"""A fate, then layer and head of A, of B, and of what it is like; of a layer no heads."""

RECIPES = {"learned": Recipe(layers=4), "rotary": Recipe(layers=4, positions="rotary", norm="rms", kv_heads=3)}
AFTER = ("as it is", "moved", "bfloat16", "turned", "moved more")


@dataclass
class Case:
    """A model to be treated, one that has nothing to do with it, and what is expected of each head or layer."""

    made: Made
    stranger: Made
    generator: torch.Generator
    rows: dict[tuple[str, int, int], Row]

    @property
    def kv_heads(self) -> int:
        return self.made.recipe.kv_heads

    def some(self, count: int, most: int) -> list[int]:
        return torch.randperm(most, generator=self.generator)[:count].tolist()

    def say(self, layer: int, group: int, fate: str, *, to: int | None = None, like: tuple[int, int] | None = None,
            side: str = "ab") -> None:  # fmt: skip
        """What becomes of the heads of a group; ``to``: their group in B."""
        size = self.made.group
        for at in range(size):
            head = group * size + at
            there = head if to is None else to * size + at
            a, b = (layer, head) if "a" in side else (None, None), (layer, there) if "b" in side else (None, None)
            of = (None, None) if like is None else (like[0], like[1] * size + at)
            self.rows[side, layer, head] = (fate, *a, *b, *of)  # type: ignore[assignment]


def heads_of(case: Case, weights: Weights, group: int) -> Weights:
    dim, size = case.made.recipe.head_dim, case.made.group
    own, its = slice(group * dim, (group + 1) * dim), slice(group * size * dim, (group + 1) * size * dim)
    return {"q": weights[kinds.Q][its], "k": weights[kinds.K][own], "v": weights[kinds.V][own],
            "o": weights[kinds.OUT][:, its]}  # fmt: skip


def put(case: Case, weights: Weights, group: int, new: Weights) -> None:
    for part, value in heads_of(case, weights, group).items():
        if part in new:
            value.copy_(new[part].clone())


def fresh(case: Case, layer: int, group: int, parts: str = "qkvo") -> None:
    own = heads_of(case, case.made.attention[layer], group)
    put(case, case.made.attention[layer], group,
        {part: torch.randn(own[part].shape, generator=case.generator) * own[part].std() for part in parts})  # fmt: skip


def place(case: Case) -> tuple[int, int]:
    return case.some(1, len(case.made.attention))[0], case.some(1, case.kv_heads)[0]


def untouched(case: Case) -> None:
    pass


def new_random(case: Case) -> None:
    layer, group = place(case)
    fresh(case, layer, group)
    case.say(layer, group, "replaced")


def of_a_stranger(case: Case) -> None:
    layer, group = place(case)
    put(case, case.made.attention[layer], group, heads_of(case, case.stranger.attention[layer], group))
    case.say(layer, group, "replaced")


def copied_within(case: Case) -> None:
    layer, _ = place(case)
    source, target = case.some(2, case.kv_heads)
    weights = case.made.attention[layer]
    put(case, weights, target, heads_of(case, weights, source))
    only(case, layer, target)
    case.say(layer, target, "removed", side="a")
    case.say(layer, target, "copied", side="b", like=(layer, source))


def only(case: Case, layer: int, group: int) -> None:
    """Forget that a head was expected to be kept."""
    for head in range(group * case.made.group, (group + 1) * case.made.group):
        case.rows.pop(("ab", layer, head), None)


def copied_from_another_layer(case: Case) -> None:
    layer, other = case.some(2, len(case.made.attention))
    source, target = case.some(1, case.kv_heads)[0], case.some(1, case.kv_heads)[0]
    put(case, case.made.attention[layer], target, heads_of(case, case.made.attention[other], source))
    only(case, layer, target)
    case.say(layer, target, "removed", side="a")
    case.say(layer, target, "copied", side="b", like=(other, source))


def swapped_within(case: Case) -> None:
    layer, _ = place(case)
    one, other = case.some(2, case.kv_heads)
    weights = case.made.attention[layer]
    ours, theirs = ({part: value.clone() for part, value in heads_of(case, weights, group).items()}
                    for group in (one, other))  # fmt: skip
    put(case, weights, one, theirs)
    put(case, weights, other, ours)
    case.say(layer, one, "kept", to=other)
    case.say(layer, other, "kept", to=one)


def swapped_across_layers(case: Case) -> None:
    first, second = case.some(2, len(case.made.attention))
    one, other = case.some(1, case.kv_heads)[0], case.some(1, case.kv_heads)[0]
    ours, theirs = ({part: value.clone() for part, value in heads_of(case, case.made.attention[n], group).items()}
                    for n, group in ((first, one), (second, other)))  # fmt: skip
    put(case, case.made.attention[first], one, theirs)
    put(case, case.made.attention[second], other, ours)
    for layer, group, like in ((first, one, (second, other)), (second, other, (first, one))):
        only(case, layer, group)
        case.say(layer, group, "elsewhere", side="a", like=like)
        case.say(layer, group, "elsewhere", side="b", like=like)


def all_zeros(case: Case, parts: str = "qkvo") -> None:
    layer, group = place(case)
    for part, value in heads_of(case, case.made.attention[layer], group).items():
        if part in parts:
            value.zero_()
    case.say(layer, group, "zeroed")


def output_zeros(case: Case) -> None:
    all_zeros(case, "o")


def scores_zeros(case: Case) -> None:
    all_zeros(case, "q")


def half_new(case: Case) -> None:
    layer, group = place(case)
    fresh(case, layer, group, "qk")
    case.say(layer, group, "half kept")


def two_new(case: Case) -> None:
    layer, _ = place(case)
    for group in case.some(2, case.kv_heads):
        fresh(case, layer, group)
        case.say(layer, group, "replaced")


def pruned(case: Case) -> None:
    gone = case.some(1, case.kv_heads)[0]
    kept = [group for group in range(case.kv_heads) if group != gone]
    for layer in range(len(case.made.attention)):
        kinds._take_groups(case.made, layer, kept)
        only(case, layer, gone)
        case.say(layer, gone, "removed", side="a")
        for to, group in enumerate(kept):
            case.say(layer, group, "kept", to=to)


HEADS: dict[str, Callable[[Case], None]] = {
    "untouched": untouched, "new, random": new_random, "of a stranger": of_a_stranger, "two new": two_new,
    "copied within a layer": copied_within, "copied from another layer": copied_from_another_layer,
    "swapped within a layer": swapped_within, "swapped across layers": swapped_across_layers,
    "all zeros": all_zeros, "output zeros": output_zeros, "QK new": half_new, "cut off": pruned,
}  # fmt: skip


def layers_of(case: Case, order: list[int], rows: dict[tuple[str, int, int], Row]) -> None:
    made = case.made
    made.attention = [{name: value.clone() for name, value in made.attention[layer].items()} for layer in order]
    made.origins = [made.origins[layer] for layer in order]
    case.rows = rows


def row(fate: str, a: int | None, b: int | None, like: int | None = None) -> tuple[tuple[str, int, int], Row]:
    return (fate, -1 if a is None else a, -1 if b is None else b), (fate, a, None, b, None, like, None)


def layer_cut(case: Case) -> None:
    gone = case.some(1, 4)[0]
    order = [layer for layer in range(4) if layer != gone]
    layers_of(case, order, dict([row("removed", gone, None), *(row("kept", of, to) for to, of in enumerate(order))]))


def layers_swapped(case: Case) -> None:
    first = case.some(1, 3)[0]
    order = [*range(4)]
    order[first : first + 2] = first + 1, first
    layers_of(case, order, dict(row("kept", of, to) for to, of in enumerate(order)))


def layers_far_swapped(case: Case) -> None:
    order = [3, 1, 2, 0]
    layers_of(case, order, dict(row("kept", of, to) for to, of in enumerate(order)))


def layer_repeated(case: Case) -> None:
    twice = case.some(1, 4)[0]
    order = [*range(twice + 1), *range(twice, 4)]
    kept = [row("kept", of, to) for to, of in enumerate(order) if to != twice + 1]
    layers_of(case, order, dict([*kept, row("copied", None, twice + 1, twice)]))


def layer_overwritten(case: Case) -> None:
    source, target = case.some(2, 4)
    order = [source if layer == target else layer for layer in range(4)]
    kept = [row("kept", layer, layer) for layer in range(4) if layer != target]
    layers_of(case, order, dict([*kept, row("removed", target, None), row("copied", None, target, source)]))


def layer_new(case: Case) -> None:
    layer = case.some(1, 4)[0]
    for group in range(case.kv_heads):
        fresh(case, layer, group)
    case.rows = dict(row("replaced" if place == layer else "kept", place, place) for place in range(4))


def layer_zeros(case: Case) -> None:
    layer = case.some(1, 4)[0]
    for value in case.made.attention[layer].values():
        value.zero_()
    case.rows = dict(row("zeroed" if place == layer else "kept", place, place) for place in range(4))


def layer_inserted(case: Case) -> None:
    before = case.some(1, 4)[0]
    order = [*range(before), 0, *range(before, 4)]
    kept = [row("kept", of, to) for to, of in enumerate(order) if to != before]
    layers_of(case, order, dict([*kept, row("added", None, before)]))
    for group in range(case.kv_heads):
        fresh(case, before, group)


LAYERS: dict[str, Callable[[Case], None]] = {
    "cut out": layer_cut, "neighbours swapped": layers_swapped, "first and last swapped": layers_far_swapped,
    "repeated": layer_repeated, "overwritten by another": layer_overwritten, "new in place of one": layer_new,
    "set to zeros": layer_zeros, "new between others": layer_inserted,
}  # fmt: skip


def after(case: Case, how: str) -> None:
    """What is done to the whole model at last."""
    if how == "turned":
        kinds.rotated(case.made, case.generator)
        kinds.rescaled(case.made, case.generator)
    for weights in case.made.attention:
        for name, value in weights.items():
            if how == "bfloat16":
                weights[name] = value.bfloat16()
            elif how.startswith("moved"):
                share = 0.3 if how == "moved more" else 0.05
                noise = torch.randn(value.shape, generator=case.generator)
                weights[name] = value + share * value.std() * noise * (value != 0)


def case_of(model: Model, stranger: Model, name: str, seed: int) -> Case:
    made, other = (kinds.make(one, 0, (), 0) for one in (model, stranger))
    case = Case(made, other, torch.Generator().manual_seed(seed), {})
    for layer in range(len(made.attention)):
        for group in range(case.kv_heads):
            case.say(layer, group, "kept")
    (HEADS | LAYERS)[name](case)
    return case


def found_rows(found: Kinship, *, layers: bool) -> set[Row]:
    """What ``lineage`` says, as rows."""

    def number(name: str | None) -> int | None:
        return None if name is None else int(name.split(".")[2])

    if layers:
        return {(one.fate, number(one.a), None, number(one.b), None, number(one.like), None) for one in found.layers}
    rows: set[Row] = set()
    for layer in found.layers:
        a, b = number(layer.a), number(layer.b)
        for head in layer.heads:
            like = None if head.like is None else number(head.like_layer) if head.like_layer else a
            rows.add((head.fate, *((a, head.a) if head.a is not None else (None, None)),
                      *((b, head.b) if head.b is not None else (None, None)), like, head.like))  # fmt: skip
    return rows


def judged(case: Case, found: Kinship, *, layers: bool) -> str:
    """right, undetermined or wrong."""
    rows, wanted = found_rows(found, layers=layers), {*case.rows.values()}
    if rows == wanted:
        return "right"
    open_rows = {one for one in rows - wanted if one[0] != "unclear"}
    return "undetermined" if not found.kin or not open_rows else "wrong"


def every(folder: Path, seed: int) -> Iterator[tuple[str, str, str, str]]:
    """What was done, to which model, what after it, and how it was judged."""
    torch.set_num_threads(1)
    for kind, recipe in RECIPES.items():
        model, stranger = (from_scratch(recipe, one) for one in (seed, seed + 1))
        start = kinds.make(model, 0, (), 0).save(folder / "start")
        for group in (HEADS, LAYERS):
            for name in group:
                for number, how in enumerate(AFTER):
                    case = case_of(model, stranger, name, seed + number)
                    after(case, how)
                    found = kinship(start, case.made.save(folder / "made"))
                    said = judged(case, found, layers=group is LAYERS)
                    yield name, kind, how, said
                    if said != "right":
                        rows, wanted = found_rows(found, layers=group is LAYERS), {*case.rows.values()}
                        print(name, kind, how, said, "said", rows - wanted, "wanted", wanted - rows, file=sys.stderr)


def table(rows: list[tuple[str, str, str, str]]) -> Iterator[str]:
    """A line for each treatment, and the sums."""
    for title, group in (("heads", HEADS), ("layers", LAYERS)):
        for name in group:
            said = [row[3] for row in rows if row[0] == name]
            counts = "".join(f"{said.count(word):8}" for word in ("right", "undetermined", "wrong"))
            yield f"{title:8}{name:28}{counts}"
    said = [row[3] for row in rows]
    yield f"{'all':36}" + "".join(f"{said.count(word):8}" for word in ("right", "undetermined", "wrong"))


def main() -> None:
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 70_000
    with TemporaryDirectory() as folder:
        rows = list(every(Path(folder), seed))
    print(
        f"Models of the seeds {seed} and {seed + 1}, 4 layers of 6 heads; each treatment of two models, then as it is,"
    )
    print("moved by 5 % or 30 % of the size of its numbers, rounded to bfloat16, or turned inside its heads.\n")
    print(f"{'':36}{'right':>8}{'undet.':>8}{'wrong':>8}")
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
