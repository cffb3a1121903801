"""Generate lines of Python that unpack bits, for people to paste."""

from __future__ import annotations


def unpack_in_python(name: str, bits: int, count: int) -> tuple[str, ...]:
    """Lines that turn a tensor of words, whose rows are streams of bits, into its codes: int64 [rows, count].

    They hold on a little-endian machine, as torch views bytes as the machine does.
    """
    return (
        f"{name} = {name}.reshape(-1).view(torch.uint8).reshape(len({name}), -1, 1)",
        f"{name} = {name} >> torch.arange(8, dtype=torch.uint8) & 1",
        f"{name} = {name}.flatten(1)[:, : {count} * {bits}].reshape(-1, {count}, {bits}).long()",
        f"{name} = ({name} << torch.arange({bits})).sum(-1)",
    )
