"""What reading and inspection notice by themselves, and how grave it is in front of a release."""

from __future__ import annotations

from collections.abc import Mapping

from qkvinspect.checkpoint import Severity

NOTICED: Mapping[str, tuple[Severity, str]] = {
    "adapter-only": ("warning", "A LoRA adapter without its base model."),
    "ambiguous-layout": ("warning", "Several layouts fit, and nothing tells which: Q, K and V are not checked."),
    "bad-alignment": ("warning", "The file says nonsense of how its storages are aligned."),
    "config-unreadable": ("info", "A config beside the checkpoint could not be used."),
    "dangerous-global": ("error", "The pickle would run code if it were loaded without weights_only."),
    "entries-lead-out": ("warning", "The zip has entries that unpack outside of their folder."),
    "extra-position": ("info", "A tensor is an extra position, not a bias (add_bias_kv)."),
    "heads-against-weights": ("error", "The weights themselves contradict the number of heads that is given."),
    "heads-ambiguous": ("warning", "Sources disagree about the number of heads."),
    "heads-disagree": ("warning", "The number of heads that was used is not the one that another source gives."),
    "heads-do-not-fit": ("warning", "A config gives a number of heads that the shapes do not allow."),
    "heads-from-weights": ("info", "The weights alone tell the number of heads."),
    "heads-needed": ("warning", "Without the number of heads the layer cannot be split, and is not checked."),
    "heads-unknown": ("info", "The number of heads is not known: single heads are not checked."),
    "no-checksums": ("warning", "The zip was written without checksums."),
    "no-norms": ("warning", "Quantised values have no norm without their scales."),
    "no-values": ("error", "A weight cannot be decoded: what its codes need is missing or has another form."),
    "no-version": ("warning", "The zip lacks the version without which torch.load refuses it."),
    "orientation-against-weights": ("error", "The weights lie the other way round than their layout has it."),
    "other-files": ("info", "The folder holds other checkpoints that were not read."),
    "packing-against-weights": ("error", "The weights contradict the packing: Q, K and V would be cut wrongly."),
    "parametrised": ("warning", "A parametrisation computes the weight: it is not stored."),
    "parts-uncounted": ("warning", "The parts of a checkpoint do not say how many they are."),
    "quantised-4bit": ("warning", "bitsandbytes 4-bit: the weight's shape is lost."),
    "quantised-8bit": ("warning", "bitsandbytes 8-bit: integers with scales."),
    "quantised-gptq": ("warning", "GPTQ or AWQ: packed integers."),
    "quantised-packed": ("warning", "compressed-tensors: packed integers."),
    "quantised-torch": ("warning", "torch.ao: packed parameters."),
    "stale-duplicate": ("warning", "A second copy of an attention's weights that the model does not load."),
    "tensor-parallel": ("warning", "The file is one rank's share of a model."),
    "unrecognised-attention": ("warning", "Tensors look like attention and were not understood: they are not checked."),
    "unexpected-shape": ("error", "The shapes are not those of the layout: the layer was not checked."),
    "unknown-entries": ("warning", "The zip has entries that torch.save does not write."),
    "unknown-global": ("info", "The pickle names a class or function that is neither torch's nor known as dangerous."),
    "unknown-tensor": ("warning", "A tensor of a kind that is not known was left out."),
    "unlisted-tensors": ("warning", "Shards hold tensors that their index omits."),
    "unreadable-tensor": ("warning", "A tensor that cannot be read as plain numbers was left out."),
    "value-unreadable": ("info", "A small value of a distributed checkpoint could not be used."),
}
"""By code: severity, and what it means."""
