"""Open a base checkpoint together with an adapter that is added to its weights."""

from __future__ import annotations

from qkvinspect.checkpoint import Checkpoint
from qkvinspect.errors import UsageError
from qkvinspect.fast_dataclass import replace
from qkvinspect.finding_codes import FindingCode
from qkvinspect.findings import Finding
from qkvinspect.weights.adapters import is_adapter
from qkvinspect.weights.adapters.factors import factors_of
from qkvinspect.weights.adapters.sums import replaced


def with_base(adapter: Checkpoint, base: Checkpoint) -> Checkpoint:
    """The base with the adapter added to it, as one checkpoint that closes both.

    Raises:
        LayoutError: a whole tensor of the adapter has another shape than the base's.
        UsageError: the adapter is none, or the base holds one already.
    """
    factors = factors_of(adapter.tensors)
    if not is_adapter(adapter):
        raise UsageError(
            "holds the weights too that its adapter adds to" if factors else "holds no adapter",
            file=adapter.path,
            expected="lora_A and lora_B, or lora_down and lora_up, alone",
            hint="--base is for adapters: leave it out",
        )
    if factors_of(base.tensors):
        raise UsageError("is an adapter itself, or holds one", file=base.path, hint="--base names the plain model")
    tensors, left = replaced(base.tensors, adapter)
    text = f"all values are those of {base.path} with this adapter added"
    added = Finding(FindingCode.ADAPTER_ADDED, f"{text}: {len(factors)} modules")
    lost = [Finding(FindingCode.ADAPTER_LEFT_OUT, _left_out(left))] if left else []
    return replace(
        base,
        path=adapter.path,
        tensors={**base.tensors, **tensors},
        findings=(*base.findings, *adapter.findings, added, *lost),
        loader=base.loader if base.loader == adapter.loader in ("torch", "safetensors") else None,
        adapter=adapter,
    )


def _left_out(names: list[str]) -> str:
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"the base has no one place for {shown} of the adapter: not in the sum"
