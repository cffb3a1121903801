"""Account for every tensor of a checkpoint: what is said of the modules that were found, and what is left over."""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence, Set

from qkvinspect.fast_dataclass import replace
from qkvinspect.inspection.account import Account, Unrecognised
from qkvinspect.inspection.candidates import Candidate, Match
from qkvinspect.inspection.leftovers import Leftover
from qkvinspect.inspection.look_alikes import looking_alike
from qkvinspect.inspection.mixing import mixing_tokens
from qkvinspect.inspection.names import Names, Path, numberless
from qkvinspect.inspection.qk_norms import NO_ROW, beside_norms
from qkvinspect.inspection.repeated import RepeatedMatch
from qkvinspect.inspection.repeats import Repeats
from qkvinspect.inspection.report import Attention
from qkvinspect.inspection.unclaimed import Unclaimed, unclaimed
from qkvinspect.inspection.undotted import Copies, copies, undotted
from qkvinspect.inspection.with_likes import NamesWithLikes, names_of_firsts
from qkvinspect.inspection.words import speaks_of_attention

_UNDOTTED = "a row looks for names with dots: load the weights under the names of the model, and save those"


_NAMED = "its names say already what it is, and its shapes are others"


def account(
    names: Names,
    stored: Collection[str],
    repeats: Repeats,
    matches: Sequence[Match],
    split: Sequence[Attention],
    left: Sequence[Leftover],
    said: Iterable[str] = (),
    left_out: Sequence[tuple[Candidate, str]] = (),
) -> Account:
    """Say of every tensor where it belongs.

    Args:
        stored: the names in the file.
        repeats: which blocks are alike.
        matches: the modules that were found.
        split: those of them that could be split.
        left: what the names' patterns left over.
        said: modules of which something is said already.
        left_out: modules that were found and are not shown, each with the reason, which a finding says.
    """
    own = None if left or left_out else names_of_firsts(matches, split, repeats)
    if own is not None:
        places = {match.path for match in matches if not isinstance(match, RepeatedMatch)}
        known = frozenset(own | _inside(repeats.firsts, places))
        free = unclaimed(names, repeats.without_likes(known, frozenset(), alike=True))
        every = NamesWithLikes(known, repeats)
        if not free.undotted and not any(_looked_for(names, free, (every,))):
            return Account(names.weights, stored, every, ())
    places = {match.path for match in matches}
    known = {name for one in split for name in one.tensor_names}.union(*(match.names for match in matches))
    inside = _inside(names.paths, places)
    lone = any(some.lone for some in left)
    above = {path[:size] for path in places for size in range(len(path))} if lone else set[Path]()
    kinds = {numberless(path) for path in places} if left else set[Path]()
    stacks = {
        numberless(c.path): {numberless(names.paths[w.name]) for w in c.weights if w.name in names.paths}
        for match in (matches if lone else ())
        for c in match.candidates
    }
    strange = [
        _incomplete(
            Unrecognised(some.module, tensors, some.why, names, some.no_row, mixed=numberless(some.path) in kinds),
            stacks.get(numberless(some.path)),
        )
        for some in left
        if (tensors := tuple(info for info in some.tensors if info.name not in known))
        and not (some.lone and (some.path in above or all(info.name in inside for info in tensors)))
    ]
    strange += [Unrecognised(one.layer, one.weights, why, names, _NAMED, told=True) for one, why in left_out]
    known |= inside  # in place: sets of all tensors take much room
    del inside
    taken = {info.name for found in strange for info in found.tensors}
    twice: Sequence[Copies] = ()
    first = unclaimed(names, repeats.without_likes(known, taken))
    understood = (known, taken)
    if first.undotted or any(_looked_for(names, first, understood)):
        free = unclaimed(names, names.paths, known, taken)
        twice = copies(names, free.undotted)
        strange += _looked_for(names, free, understood, {found.module for found in strange}.union(said), twice)
    known.difference_update(info.name for found in strange for info in found.tensors)
    return Account(names.weights, stored, known, tuple(strange), tuple(twice))


def _looked_for(
    names: Names,
    free: Unclaimed,
    understood: Sequence[Container[str]],
    told_of: Set[str] = frozenset(),
    twice: Sequence[Copies] = (),
) -> Iterator[Unrecognised]:
    """What looks like attention among tensors that nobody knows.

    Args:
        understood: names of tensors that need no more looking at.
        told_of: modules of which something is said already.
        twice: what is kept under other names as well.
    """
    taken: set[str] = set()
    for found in looking_alike(names, free.called):
        if not any(module in told_of for module in (found[0], re.sub(r"[./][^./]*$", "", found[0]))):
            taken.update(info.name for info in found[1])
            yield Unrecognised(*found, names)
    for found in mixing_tokens(names, free.mixing, taken):
        taken.update(info.name for info in found[1])
        yield Unrecognised(*found, names)
    for found in beside_norms(names, free.normed, (*understood, taken)):
        if found[0] not in told_of:
            taken.update(info.name for info in found[1])
            yield Unrecognised(*found, names, NO_ROW)
    taken.update(name for some in twice for name in some.tensors)
    for found in undotted(names, free.undotted, taken):
        yield Unrecognised(*found, names, _UNDOTTED)


def _incomplete(found: Unrecognised, complete: Set[Path] | None) -> Unrecognised:
    """The module, marked where its like in other layers has more projections, these among them.

    Args:
        complete: the numberless paths of the projections of its like in other layers; None where there is none.
    """
    own = {numberless(found.names.paths[tensor.name]) for tensor in found.tensors}
    if complete is None or not own < complete or len(own) < 2:  # Q alone may use keys and values of another layer
        return found
    lost = " and ".join(sorted(".".join(path[-2:]) for path in complete - own))
    return replace(found, why=f"other layers of its stack have {lost} as well: {found.why}", incomplete=True)


def _inside(paths: Mapping[str, Path], places: Set[Path]) -> set[str]:
    """The tensors of modules that are attention as a whole: norms, tables, outputs.

    Args:
        places: the paths of all modules that were found.
    """
    whole = {path for path in places if any(map(speaks_of_attention, path[:-3:-1]))}  # the last first, mostly no number
    sizes = sorted({len(path) for path in whole})
    return {name for name, path in paths.items() for size in sizes if path[:size] in whole}
