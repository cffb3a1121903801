"""The 120 categories by name."""

from __future__ import annotations

_NAMES = """
empty | under 8 bytes | length past the file | claims 1 GB | length of 64 bits | a real header of 100 MB
100,000 tensors | 1,000,000 tensors | not UTF-8 | byte order mark | not JSON | array or scalar for a root
deep nesting | trailing junk or NUL | duplicate name | duplicate field | duplicate metadata key | bad metadata type
missing field | unknown field | unknown dtype | shape negative, float, string | overflow, also with a 0 | rank 1000
hole | overlap, zero-share | reversed or out of range | truncated data | trailing data | size differs from shape
no end record | truncated | prepended | appended | checksum | flags in the directory | flags in the local header
name mismatch | size mismatch | unknown method | deflated storage | bomb ratio | quoted overlap | zip64 locator
offset past the end | duplicate entry | two prefixes | two data.pkl | no data.pkl | version missing or 99
byteorder bad, absent, big | alignment bad or 0 | storage missing | storage short or long
traversal or symlink entry | over 100,000 entries
truncated | trailing | unknown opcode | stack underflow | missing MARK | bad memo get | huge memo index | huge length
depth 1,000,000 | memo doubling | DUP bomb | cycles | unhashable key | key that is no text
BUILD or SETITEM on the wrong type | unknown global | dangerous global | malformed persistent id
dtype conflict on one key | negative offset, stride, size | view past its storage | shape x stride overflow
numel 2^63 | giant LONG4 | FRAME straddle | protocols 0 to 6
wrong magic | computed magic | wrong protocol | numel differs from data | keys missing, extra, duplicate
numel allocation bomb | view metadata out of range | tar negative offset | tar links or traversal | huge ndim
bad index JSON | duplicate key | parent folder | absolute path | symlink out | shard missing
tensor absent from its shard | tensor in two shards | DCP path escape | DCP range past the end
DCP chunks overlapping or gapped | hostile .metadata
directory | named pipe | device | socket | dangling or looping link | permission | file shrinks while read
file replaced | wrong, compressed or nested container | ANSI and OSC in a name | markup in a name
bidi and zero-width | newline or NUL | surrogate | NaN, Inf, 0-dim, zero-size | disk full, SIGINT, SIGPIPE
"""
TITLES = [name.strip() for line in _NAMES.strip().splitlines() for name in line.split(" | ")]
SECTIONS = {
    1: "safetensors",
    31: "zip",
    57: "pickle",
    83: "legacy and tar",
    93: "several files",
    105: "environment and output",
}
