"""The stable codes of everything that readers, inspection, checks and ``trend`` report, with their severities."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, Self

Severity = Literal["info", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "error")
"""The least severe first."""

_NOT_CHECKED = None
"""For findings about training runs: ``check`` looks at single checkpoints and never sees them."""


class FindingKind(StrEnum):
    """A kind of finding, as text that scripts may rely on. A code is never given another meaning.

    ``check --list``, the settings of ``check`` and docs/checks.md follow from the members of FindingCode and from the
    codes that the modules of ``checks`` bring along.

    Attributes:
        severity: how severe it is where it is reported, unless that place says otherwise.
        summary: what it means, in one sentence.
        in_check: how severe ``check`` takes it by default. What is worth a look in ``show`` may be a reason not to
            release a file. None for what is reported of a training run, which ``check`` does not see.
    """

    severity: Severity
    summary: str
    in_check: Severity | None

    def __new__(
        cls,
        value: str,
        severity: Severity,
        summary: str,
        in_check: Severity | Literal["as reported"] | None = "as reported",
    ) -> Self:
        """Keep the severities and the summary beside the value."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.severity = severity
        member.summary = summary
        member.in_check = severity if in_check == "as reported" else in_check
        return member


class FindingCode(FindingKind):
    """Findings that several modules report, or whose package has no list of its own."""

    # Of files, by their readers.
    BAD_ALIGNMENT = "bad-alignment", "warning", "The file says nonsense of how its storages are aligned."
    CONFIG_UNREADABLE = "config-unreadable", "info", "A config beside the checkpoint could not be used."
    DANGEROUS_GLOBAL = (
        "dangerous-global",
        "warning",
        "The pickle would run code if it were loaded without weights_only.",
        "error",
    )
    ENTRIES_LEAD_OUT = "entries-lead-out", "warning", "The zip has entries that unpack outside of their folder."
    NAMES_FROM_GRAPH = (
        "names-from-graph",
        "info",
        "Weights of an ONNX model are called what the modules that use them call them.",
    )
    ROWS_FROM_GRAPH = (
        "rows-from-graph",
        "info",
        "The graph of an ONNX model takes other rows for Q, K and V than the names of its weights say.",
    )
    NO_CHECKSUMS = "no-checksums", "warning", "The zip was written without checksums.", "info"
    NO_VERSION = "no-version", "warning", "The zip lacks its version: torch.load refuses it.", "error"
    OTHER_FILES = "other-files", "info", "The folder holds other checkpoints that were not read."
    PARTS_UNCOUNTED = "parts-uncounted", "warning", "The parts of a checkpoint do not say how many they are."
    UNKNOWN_ENTRIES = "unknown-entries", "warning", "The zip has entries that torch.save does not write."
    UNKNOWN_GLOBAL = (
        "unknown-global",
        "info",
        "The pickle names a class or function that is neither torch's nor known as dangerous.",
    )
    UNKNOWN_TENSOR = "unknown-tensor", "warning", "A tensor of a kind that is not known was left out."
    TRAILING_BYTES = "trailing-bytes", "warning", "Bytes follow the last tensor of a GGUF file."
    UNRECOGNISED_ATTENTION = (
        "unrecognised-attention",
        "warning",
        "Tensors look like attention and were not understood: they are not checked.",
    )
    UNLISTED_TENSORS = "unlisted-tensors", "warning", "Shards hold tensors that their index omits."
    UNREADABLE_TENSOR = "unreadable-tensor", "warning", "A tensor that cannot be read as plain numbers was left out."
    VALUE_UNREADABLE = "value-unreadable", "info", "A small value of a distributed checkpoint could not be used."

    # Of attention modules, by inspection.
    ADAPTER_ADDED = "adapter-added", "info", "The values are a base model's with an adapter added."
    ADAPTER_LEFT_OUT = "adapter-left-out", "warning", "What an adapter has for weights is not in their values."
    ADAPTER_ONLY = "adapter-only", "warning", "A LoRA adapter without its base model.", "info"
    ADAPTER_SCALE = "adapter-scale", "warning", "The scale of an adapter's product is not known."
    AMBIGUOUS_LAYOUT = (
        "ambiguous-layout",
        "warning",
        "Several layouts fit and none is ruled out: Q, K and V are not checked.",
    )
    EMPTY_WEIGHTS = (
        "empty-weights",
        "error",
        "Weights have no elements: they were saved before their shards were gathered.",
    )
    EXTRA_POSITION = "extra-position", "info", "A tensor is an extra position, not a bias (add_bias_kv)."
    HEADS_AGAINST_WEIGHTS = (
        "heads-against-weights",
        "warning",
        "The weights themselves contradict the number of heads that is given.",
        "error",
    )
    HEADS_AMBIGUOUS = "heads-ambiguous", "warning", "Sources disagree about the number of heads."
    HEADS_DISAGREE = (
        "heads-disagree",
        "warning",
        "The number of heads that was used is not the one that another source gives.",
    )
    HEADS_DO_NOT_FIT = (
        "heads-do-not-fit",
        "warning",
        "A config gives a number of heads that the shapes do not allow.",
    )
    HEADS_FROM_WEIGHTS = "heads-from-weights", "info", "The number of heads comes from the weights alone."
    HEADS_FEWER = (
        "heads-fewer",
        "warning",
        "A layer holds fewer heads than its config says of the model: a rank's share, or heads were pruned.",
    )
    HEADS_NEEDED = (
        "heads-needed",
        "warning",
        "Without the number of heads the layer cannot be split, and is not checked.",
    )
    HEADS_UNKNOWN = "heads-unknown", "info", "The number of heads is not known: single heads are not checked."
    HEADS_UNUSED = "heads-unused", "info", "Heads are given for names that no attention module of the file has."
    MISSING_PROJECTION = (
        "missing-projection",
        "error",
        "An attention lacks a projection that other layers of its stack have.",
    )
    NO_NORMS = "no-norms", "warning", "Quantised values have no norm without their scales."
    NO_VALUES = (
        "no-values",
        "error",
        "A weight cannot be decoded: what its codes need is missing or has another form.",
    )
    ORIENTATION_AGAINST_WEIGHTS = (
        "orientation-against-weights",
        "warning",
        "The weights are transposed, compared with their layout.",
        "error",
    )
    PACKING_AGAINST_WEIGHTS = (
        "packing-against-weights",
        "warning",
        "The weights contradict the packing: Q, K and V would be cut wrongly.",
        "error",
    )
    PARAMETRISED = "parametrised", "warning", "A parametrisation computes the weight: it is not stored."
    QUANTISED_4BIT = "quantised-4bit", "warning", "bitsandbytes 4-bit: the weight's shape is lost."
    QUANTISED_8BIT = "quantised-8bit", "warning", "bitsandbytes 8-bit: integers with scales."
    QUANTISED_GPTQ = "quantised-gptq", "warning", "GPTQ or AWQ: packed integers."
    QUANTISED_PACKED = "quantised-packed", "warning", "compressed-tensors: packed integers."
    QUANTISED_TORCH = "quantised-torch", "warning", "torch.ao: packed parameters."
    STALE_DUPLICATE = (
        "stale-duplicate",
        "warning",
        "A second copy of an attention's weights that the model does not load.",
    )
    TRAINED_COPY = "trained-copy", "info", "PEFT's trained copy of a module is read, and not the original beside it."
    TENSOR_PARALLEL = "tensor-parallel", "warning", "The file is one rank's share of a model.", "info"
    RANKS_JOINED = "ranks-joined", "info", "The files of several ranks were read as the one checkpoint that they are."
    KV_HEADS_COPIED = "kv-heads-copied", "info", "Several ranks hold the same kv head; one copy was kept."
    RANKS_DIFFER = (
        "ranks-differ",
        "warning",
        "Ranks hold different copies of what should be the same.",
        "error",
    )
    RANKS_NOT_JOINED = (
        "ranks-not-joined",
        "warning",
        "It is unknown how the ranks share a tensor: it was left out.",
    )
    UNEXPECTED_SHAPE = (
        "unexpected-shape",
        "warning",
        "The shapes are not those of the layout: the layer was not checked.",
        "error",
    )

    # Of attention modules, by the checks, whose modules say more. ``show`` and ``trend`` report nonfinite as well.
    BIAS_KV = "bias-kv", "error", "bias_k or bias_v has the form of a projection's bias."
    CHANGED = "changed", "error", "The checkpoint is not what the baseline recorded."
    CONSTANT_PART = (
        "constant-part",
        "error",
        "All values of Q, K or V, or of one head of it, are the same number, which is not zero.",
    )
    DAMAGED_BLOCK = "damaged-block", "error", "A run of bytes of a weight is not what was trained."
    DEAD_HEAD = (
        "dead-head",
        "warning",
        "A head's norm is far below that of its peers: under a fiftieth of their median.",
    )
    DIGEST_DIFFERS = "digest-differs", "error", "A file is not what a manifest or a hub knows by its SHA-256."
    EQUAL_HEADS = "equal-heads", "warning", "Two heads of the same part hold the same bytes."
    EQUAL_LAYERS = (
        "equal-layers",
        "warning",
        "Two layers hold the same bytes in Q, K or V, and do not share storage.",
    )
    EQUAL_PARTS = "equal-parts", "error", "Two of Q, K and V of a layer hold the same bytes."
    EXPECTED = "expected", "error", "A number is not the one that the project's settings expect."
    MISSING_BIAS = (
        "missing-bias",
        "warning",
        "A layer lacks a bias or an output projection that the rest of its stack has, or has one too many.",
    )
    MISSING_LAYER = "missing-layer", "warning", "A layer of a stack has no attention, though most do."
    MIXED_DTYPE = (
        "mixed-dtype",
        "warning",
        "Q, K and V of a layer have different dtypes, or a layer another than the rest of its stack.",
    )
    NO_ATTENTION = "no-attention", "error", "No attention was found."
    NONFINITE = "nonfinite", "warning", "NaN or infinity in Q, K, V or a bias.", "error"
    NORM_OUTLIER = (
        "norm-outlier",
        "warning",
        "The norm of Q, K or V of one layer is far from that of the other layers of its stack.",
    )
    ODD_LAYER = "odd-layer", "warning", "A layer has another size than the rest of its stack."
    PROJECTION_SHAPE = (
        "projection-shape",
        "error",
        "An output projection or a bias does not fit, or inputs of K and V differ.",
    )
    COARSE_HEAD = "coarse-head", "warning", "Quantisation left a head far fewer steps than its peers."
    QUANTISED_OTHERWISE = "quantised-otherwise", "warning", "The config says another way of quantising than is stored."
    FUSED_SCALES_DIFFER = "fused-scales-differ", "warning", "Scales of Q, K and V differ, of which a loader keeps one."
    RANK_COLLAPSE = (
        "rank-collapse",
        "info",
        "The rows of a head are all but multiples of one row: its stable rank is under 1.05.",
    )
    ROTARY_ORDER_AGAINST_WEIGHTS = (
        "rotary-order-against-weights",
        "error",
        "The rows of Q or K are in another order than this format and architecture need for rotary embeddings.",
    )
    WRONG_SCALES = (
        "wrong-scales",
        "error",
        "Scales of a quantised weight are zero where its codes are not, or negative.",
    )
    ZERO_EVERYWHERE = "zero-everywhere", "info", "Q, K or V is zero in every layer of a stack that is untrained."
    ZERO_HEAD = "zero-head", "warning", "A head of Q, K or V is zero in every value, and others are not."
    ZERO_PART = "zero-part", "error", "Q, K or V is zero in every value."

    # Of training runs, by ``trend``.
    DYING_HEAD = (
        "dying-head",
        "warning",
        (
            "The norm of a head has lost half of what it had, those beside it have not, and it is under a quarter of "
            "theirs."
        ),
        _NOT_CHECKED,
    )
    LOGIT_BOUND_GROWTH = (
        "logit-bound-growth",
        "warning",
        "The bound on a head's logits grows fourfold in the second half of the run and does not slow down.",
        _NOT_CHECKED,
    )
    MISSING_STEPS = (
        "missing-steps",
        "warning",
        "Checkpoints have no step, or steps are missing among those that are evenly spaced.",
        _NOT_CHECKED,
    )
    MIXED_STEPS = (
        "mixed-steps",
        "warning",
        "Some checkpoints give their step, others only their epoch.",
        _NOT_CHECKED,
    )
    NORM_DRIFT = (
        "norm-drift",
        "warning",
        "A norm doubles or halves in the second half of the run and does not slow down.",
        _NOT_CHECKED,
    )
    NORM_SPIKE = (
        "norm-spike",
        "warning",
        (
            "The norm of a part or head jumps by a quarter or more, and by eight times what it, its neighbourhood and "
            "its stack usually do."
        ),
        _NOT_CHECKED,
    )
    REPEATED_STEPS = "repeated-steps", "info", "A step has several checkpoints, of which one counts.", _NOT_CHECKED
    SHORT_RUN = (
        "short-run",
        "info",
        "The run has too few steps to recognise jumps, drift and dying heads.",
        _NOT_CHECKED,
    )
    UNREADABLE = "unreadable", "warning", "Checkpoints of the run could not be read.", _NOT_CHECKED
