"""Rewrite a checkpoint: Q, K and V apart, packed, or in another library's layout, bit for bit as they are stored.

A plan says what every tensor to write consists of; nothing is read before it is written.
"""

from qkvinspect.export.files import SUFFIXES, How, require_possible, shards, write
from qkvinspect.export.pieces import OutputTensor
from qkvinspect.export.plan import Plan, Target, convert_whole, merged_whole, pack_whole, split_whole
from qkvinspect.export.rank_files import require_writable, write_ranks
from qkvinspect.export.shares import Ranks, shared_out
from qkvinspect.export.split import split_pieces

__all__ = [
    "SUFFIXES",
    "How",
    "OutputTensor",
    "Plan",
    "Ranks",
    "Target",
    "convert_whole",
    "merged_whole",
    "pack_whole",
    "require_possible",
    "require_writable",
    "shards",
    "shared_out",
    "split_pieces",
    "split_whole",
    "write",
    "write_ranks",
]
