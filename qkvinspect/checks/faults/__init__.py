"""The faults that a checkpoint may have. A new check is one module here, which brings its code along, and its line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from qkvinspect.checks.faults import (
    bias_kv,
    changed,
    coarse_head,
    constant_part,
    damaged_block,
    dead_head,
    digest_differs,
    equal_heads,
    equal_layers,
    equal_parts,
    expected,
    fused_scales,
    missing_bias,
    missing_layer,
    mixed_dtype,
    no_attention,
    nonfinite,
    norm_outlier,
    odd_layer,
    projection_shape,
    quantised_otherwise,
    rank_collapse,
    rotary_order,
    wrong_scales,
    zero_everywhere,
    zero_head,
    zero_part,
)
from qkvinspect.checks.subject import Fault, Subject
from qkvinspect.finding_codes import FindingKind


class Check(Protocol):
    """What every module in CHECKS offers.

    Its docstring is its documentation: the first paragraph is the summary of its code, the others say more. Its code
    is a FindingCode where others report it as well, else the one member of an enum of its own.
    """

    @property
    def CODE(self) -> FindingKind: ...  # noqa: N802

    def find(self, subject: Subject) -> Iterator[Fault]: ...


CHECKS: tuple[Check, ...] = (
    no_attention,
    nonfinite,
    zero_part,
    zero_everywhere,
    zero_head,
    constant_part,
    equal_parts,
    equal_heads,
    equal_layers,
    projection_shape,
    odd_layer,
    missing_bias,
    missing_layer,
    damaged_block,
    norm_outlier,
    dead_head,
    rank_collapse,
    rotary_order,
    bias_kv,
    mixed_dtype,
    fused_scales,
    wrong_scales,
    coarse_head,
    quantised_otherwise,
    expected,
    changed,
    digest_differs,
)
"""In the order in which their findings are listed, where these are equally severe."""
