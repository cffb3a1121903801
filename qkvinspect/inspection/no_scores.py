"""What is called Q, K and V and is multiplied in other ways: no query meets a key in heads there.

=============================== ======================================================================
attention-free transformers     aft-pytorch 0.1 (``wbias``, ``project``); labml's aft (``pos_bias``): keys
                                are weighed by a bias for each two positions, and queries are gates
lambda layers                   lambda-networks 0.4: keys and values make a matrix that is used on
                                each query; V has a batch norm
words of other things           K and V of different widths outside of what is called attention: of a
                                question, of knowledge and of a picture
=============================== ======================================================================
"""

from __future__ import annotations

from math import prod

from qkvinspect.findings import Finding
from qkvinspect.inspection.candidates import Candidate
from qkvinspect.inspection.leftovers import Leftover, not_understood
from qkvinspect.inspection.names import Names
from qkvinspect.inspection.stacked_layers import no_matrices
from qkvinspect.inspection.words import speaks_of_attention

_OF_TWO_POSITIONS = ("wbias", "pos_bias")
_NO_ROW = "a row divides projections into the rows of heads, and these have none"


def said_instead(names: Names, candidate: Candidate) -> Leftover | Finding | None:
    """What is said of tensors with the names of a row that are no projections of heads; None if they are."""
    return no_matrices(names, candidate) or without_scores(names, candidate)


def without_scores(names: Names, candidate: Candidate) -> Leftover | None:
    """What is said of projections that are none of attention with heads; None where nothing says so."""
    parts = [stored.packing.order for stored in candidate.layout.weights]
    if sorted(parts) != [("k",), ("q",), ("v",)] or candidate.layout.found_by == "settings":
        return None
    why = _why(names, candidate)
    return not_understood(candidate, why, _NO_ROW) if why else None


def _why(names: Names, candidate: Candidate) -> str:
    path, shapes = candidate.path, {one.shape for one in candidate.weights}
    biases = (found.shape for key in _OF_TWO_POSITIONS if (found := names.find(key, path)) is not None)
    if len(shapes) == 1 and any(len(shape) == 2 and shape[0] == shape[1] > 1 for shape in biases):
        return "attention-free (AFT): a bias for each two positions weighs the keys, and no query does"
    if len(shapes) == 1 and candidate.layout.weights[0].key == "to_q.weight" and names.has("project.weight", path):
        return "attention-free (AFT), as aft-pytorch calls its projections: no query weighs the keys"
    if names.has("norm_q.running_mean", path) and names.has("norm_v.running_mean", path):
        return "a lambda layer: keys and values make a matrix for all queries"
    read = {
        prod(one.shape[1:]) for one, part in zip(candidate.weights, _letters(candidate), strict=True) if part != "q"
    }
    out = any(names.has(key, path) for key in candidate.layout.out)
    turned = any(stored.orientation != "out_in" for stored in candidate.layout.weights)
    if len(read) > 1 and not (out or turned or any(map(speaks_of_attention, path))):
        return "K and V read different things, and nothing calls it attention"
    return ""


def _letters(candidate: Candidate) -> list[str]:
    return [stored.packing.order[0] for stored in candidate.layout.weights]
