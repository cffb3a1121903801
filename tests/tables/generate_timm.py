"""Write the table of timm's architectures: every one is built without weights and its modules are asked.

Usage: ``PYTHONPATH=. python tests/tables/generate_timm.py`` (README.md says what to install; ten minutes)
"""

from __future__ import annotations

from tests.tables import folding
from tests.tables.modules import Heads, attentions, library


def build(architecture: str) -> dict[str, Heads]:
    """The attentions of one architecture."""
    library()
    import timm
    import torch

    with torch.device("meta"):
        return attentions(timm.create_model(architecture, pretrained=False))


def answers(architecture: str) -> dict[str, dict[str, folding.Answer]]:
    """The patterns of an architecture; those of K/V heads speak of the modules that have fewer of them."""
    found = build(architecture)
    return {
        "heads": folding.fold({path: heads.num_heads for path, heads in found.items()}),
        "kv_heads": folding.fold({path: heads.kv_heads or 0 for path, heads in found.items()}),
    }


def deprecated() -> dict[str, str]:
    """Names that timm gave up, with the architecture that they stand for."""
    from timm.models import get_deprecated_models

    return {old: new.partition(".")[0] for old, new in get_deprecated_models().items() if new}


def main() -> None:
    library()
    import timm

    table = {architecture: answers(architecture) for architecture in timm.list_models()}
    table |= {old: table[new] for old, new in deprecated().items()}
    folding.write("timm", timm.__version__, table)


if __name__ == "__main__":
    main()
