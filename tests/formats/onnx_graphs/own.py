"""Attention modules that lay out Q, K and V in many ways, under names that say nothing of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

WIDTH, HEADS, DIM = 24, 4, 6
Projected = tuple[Tensor, Tensor, Tensor]
"""Q, K and V [batch, heads, tokens, width of a head]."""


def softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5, -1) @ v


def scaled_before(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.matmul(q / q.shape[-1] ** 0.5, k.transpose(-2, -1)) + torch.zeros(k.shape[-2], k.shape[-2])
    return torch.matmul(torch.softmax(scores.float(), dim=-1).to(q.dtype), v)


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return nn.functional.scaled_dot_product_attention(q, k, v)


def einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.einsum("bhid,bhjd->bhij", q, k)
    return torch.einsum("bhij,bhjd->bhid", scores.softmax(-1), v)


def keys_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (k @ q.transpose(-2, -1)).softmax(dim=-2)
    return scores.transpose(-2, -1) @ v


def values_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q @ k.transpose(-2, -1)).softmax(dim=-1)
    return (v.transpose(-2, -1) @ scores.transpose(-2, -1)).transpose(-2, -1)


def batched(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    b, h, n, d = q.shape
    q, k, v = (one.reshape(b * h, -1, d) for one in (q, k, v))
    scores = torch.bmm(q, k.transpose(1, 2)).view(b, h, n, n).softmax(-1)
    return torch.bmm(scores.view(b * h, n, n), v).view(b, h, n, d)


CORES = (softmax, scaled_before, fused, einsum, keys_first, values_first, batched)


class Packed(nn.Module):
    """One projection for all."""

    rows = 3 * HEADS * DIM
    kv_heads = HEADS

    def __init__(self, core: Callable[[Tensor, Tensor, Tensor], Tensor], bias: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, self.rows, bias=bias)
        self.proj = nn.Linear(HEADS * DIM, WIDTH, bias=bias)
        self.core = core

    def cut(self, x: Tensor) -> Projected:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.cut(x)
        return self.proj(self.core(q, k, v).transpose(1, 2).flatten(2))


class Blocks(Packed):
    """timm: [3, heads, width]."""

    def cut(self, x: Tensor) -> Projected:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, HEADS, DIM).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v


class Chunks(Packed):
    def cut(self, x: Tensor) -> Projected:
        b, n, _ = x.shape
        q, k, v = (one.view(b, n, HEADS, DIM).transpose(1, 2) for one in self.qkv(x).chunk(3, dim=-1))
        return q, k, v


class LastIsQ(Packed):
    """[k; v; q]."""

    def cut(self, x: Tensor) -> Projected:
        b, n, _ = x.shape
        k, v, q = self.qkv(x).split(HEADS * DIM, dim=2)
        q, k, v = (one.view(b, n, HEADS, DIM).transpose(1, 2) for one in (q, k, v))
        return q, k, v


class HeadThenPart(Packed):
    """[heads, 3, width]."""

    def cut(self, x: Tensor) -> Projected:
        b, n, _ = x.shape
        qkv = self.qkv(x).view(b, n, HEADS, 3, DIM)
        q, k, v = (qkv[:, :, :, part].transpose(1, 2) for part in range(3))
        return q, k, v


class HeadThenRun(Packed):
    """GPT-NeoX: [heads, 3 * width], cut along the last axis."""

    def cut(self, x: Tensor) -> Projected:
        b, n, _ = x.shape
        qkv = self.qkv(x).view(b, n, HEADS, 3 * DIM)
        q, k, v = (qkv[..., part * DIM : (part + 1) * DIM].permute(0, 2, 1, 3) for part in range(3))
        return q, k, v


class HeadThenChunk(Packed):
    def cut(self, x: Tensor) -> Projected:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, HEADS, 3 * DIM).transpose(1, 2).chunk(3, dim=-1)
        return q, k, v


class RowByRow(Packed):
    """[heads, width, 3]."""

    def cut(self, x: Tensor) -> Projected:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, HEADS, DIM, 3).permute(4, 0, 2, 1, 3).unbind(0)
        return q, k, v


class WidthFirst(Packed):
    """[3, width, heads]: the rows of a head lie apart."""

    def cut(self, x: Tensor) -> Projected:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, DIM, HEADS).permute(2, 0, 4, 1, 3).unbind(0)
        return q, k, v


class BesideMlp(Packed):
    """An MLP's rows before [q; k; v], and one projection after both: no output projection tells the heads' width."""

    rows = 3 * HEADS * DIM + WIDTH

    def __init__(self, core: Callable[[Tensor, Tensor, Tensor], Tensor], bias: bool) -> None:
        super().__init__(core, bias)
        self.proj = nn.Identity()
        self.down = nn.Linear(HEADS * DIM + WIDTH, WIDTH, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        mlp, rest = self.qkv(x).split([WIDTH, 3 * HEADS * DIM], dim=-1)
        q, k, v = rest.reshape(b, n, 3, HEADS, DIM).permute(2, 0, 3, 1, 4).unbind(0)
        attended = self.core(q, k, v).transpose(1, 2).flatten(2)
        return self.down(torch.cat((attended, nn.functional.gelu(mlp)), dim=-1))


class MlpFirst(BesideMlp):
    """The same rows, and an output projection under its usual name that reads both."""

    def __init__(self, core: Callable[[Tensor, Tensor, Tensor], Tensor], bias: bool) -> None:
        super().__init__(core, bias)
        self.proj, self.down = self.down, nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(super().forward(x))


class RowOfEachHead(Packed):
    """[width, 3, heads]."""

    def cut(self, x: Tensor) -> Projected:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, DIM, 3, HEADS).permute(3, 0, 4, 1, 2).unbind(0)
        return q, k, v


class RowsOfEachHead(Packed):
    """[width, heads, 3]."""

    def cut(self, x: Tensor) -> Projected:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, DIM, HEADS, 3).permute(4, 0, 3, 1, 2).unbind(0)
        return q, k, v


class KeysBetween(Packed):
    """[heads, (v, q, k), width]."""

    def cut(self, x: Tensor) -> Projected:
        b, n, _ = x.shape
        v, q, k = self.qkv(x).view(b, n, HEADS, 3, DIM).transpose(1, 2).unbind(3)
        return q, k, v


class Stripes(Packed):
    """CodeGen: two stripes of [q; v; k]."""

    def cut(self, x: Tensor) -> Projected:
        b, n, _ = x.shape
        q, v, k = self.qkv(x).reshape(b, n, 2, -1).split(HEADS * DIM // 2, dim=-1)
        q, k, v = (one.reshape(b, n, HEADS, DIM).transpose(1, 2) for one in (q, k, v))
        return q, k, v


class TokensFirst(Packed):
    """[tokens, batch * heads, 3 * width], as Megatron's."""

    def cut(self, x: Tensor) -> Projected:
        b, n, _ = x.shape
        qkv = self.qkv(x.transpose(0, 1)).view(n, b * HEADS, 3 * DIM).transpose(0, 1)
        q, k, v = (one.reshape(b, HEADS, n, DIM) for one in qkv.chunk(3, dim=-1))
        return q, k, v


class Turned(Packed):
    """Channels before tokens: [batch, rows, tokens]."""

    def cut(self, x: Tensor) -> Projected:
        b, n, _ = x.shape
        qkv = self.qkv(x).transpose(1, 2)
        q, k, v = (one.transpose(-2, -1) for one in qkv.reshape(b, HEADS, 3 * DIM, n).split(DIM, dim=2))
        return q, k, v


class Grouped(Packed):
    """Falcon: [kv heads, heads of each, then k, then v]."""

    kv_heads = 2
    rows = (HEADS + 2 * 2) * DIM

    def cut(self, x: Tensor) -> Projected:
        b, n, _ = x.shape
        qkv = self.qkv(x).view(b, n, self.kv_heads, HEADS // self.kv_heads + 2, DIM)
        q, k, v = qkv[..., :-2, :], qkv[..., -2:-1, :], qkv[..., -1:, :]
        k, v = k.broadcast_to(q.shape), v.broadcast_to(q.shape)
        q, k, v = (one.flatten(2, 3).transpose(1, 2) for one in (q, k, v))
        return q, k, v


class BlocksOfFew(Packed):
    """[q; k; v] with fewer kv heads, repeated."""

    kv_heads = 2
    rows = (HEADS + 2 * 2) * DIM

    def cut(self, x: Tensor) -> Projected:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).split([HEADS * DIM, self.kv_heads * DIM, self.kv_heads * DIM], dim=-1)
        k, v = (one.view(b, n, self.kv_heads, DIM).repeat_interleave(HEADS // self.kv_heads, dim=2) for one in (k, v))
        q, k, v = (one.reshape(b, n, HEADS, DIM).transpose(1, 2) for one in (q, k, v))
        return q, k, v


class OneForAll(Packed):
    """[q; k; v] with one kv head, by broadcasting."""

    kv_heads = 1
    rows = (HEADS + 2) * DIM

    def cut(self, x: Tensor) -> Projected:
        b, n, _ = x.shape
        q, kv = self.qkv(x)[..., : HEADS * DIM], self.qkv(x)[..., HEADS * DIM :]
        k, v = kv.unsqueeze(1).split(DIM, -1)
        return q.view(b, n, HEADS, DIM).transpose(1, 2), k.expand(b, HEADS, n, DIM), v.expand(b, HEADS, n, DIM)


class Rotated(Packed):
    """Two halves of a head turned together, per head in the tensor."""

    def turn(self, x: Tensor) -> Tensor:
        angles = torch.outer(torch.arange(x.shape[-2]).float(), 0.5 ** torch.arange(DIM // 2))
        cos, sin = torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat((-second, first), dim=-1) * sin

    def cut(self, x: Tensor) -> Projected:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, HEADS, 3, DIM).transpose(1, 2).unbind(3)
        return self.turn(q), self.turn(k), v


class RotatedPairs(Rotated):
    """Neighbours turned together."""

    def turn(self, x: Tensor) -> Tensor:
        angles = torch.outer(torch.arange(x.shape[-2]).float(), 0.5 ** torch.arange(DIM // 2))
        cos, sin = angles.cos(), angles.sin()
        first, second = x[..., ::2], x[..., 1::2]
        return torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1).flatten(-2)


class RotatedInPart(Rotated):
    """Of each head four rows turned."""

    def turn(self, x: Tensor) -> Tensor:
        angles = torch.outer(torch.arange(x.shape[-2]).float(), 0.5 ** torch.arange(2))
        cos, sin = torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()
        turned, kept = x[..., :4], x[..., 4:]
        half = torch.cat((-turned[..., 2:], turned[..., :2]), dim=-1)
        return torch.cat((turned * cos + half * sin, kept), dim=-1)


class Separate(nn.Module):
    """Three projections, whose heads lie as they do."""

    kv_heads = HEADS

    def __init__(self, core: Callable[[Tensor, Tensor, Tensor], Tensor], bias: bool) -> None:
        super().__init__()
        self.q_proj = nn.Linear(WIDTH, HEADS * DIM, bias=bias)
        self.k_proj = nn.Linear(WIDTH, self.kv_heads * DIM, bias=bias)
        self.v_proj = nn.Linear(WIDTH, self.kv_heads * DIM, bias=bias)
        self.o_proj = nn.Linear(HEADS * DIM, WIDTH, bias=bias)
        self.core = core

    def heads(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        return x.view(b, n, -1, DIM).transpose(1, 2)

    def shared(self, x: Tensor, times: int) -> Tensor:
        return x.repeat_interleave(times, dim=1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(self.q_proj(x)), self.heads(self.k_proj(x)), self.heads(self.v_proj(x))
        times = HEADS // self.kv_heads
        k, v = self.shared(k, times), self.shared(v, times)
        return self.o_proj(self.core(q, k, v).transpose(1, 2).flatten(2))


class FewKeys(Separate):
    kv_heads = 2


class TiledKeys(Separate):
    """Head h takes K and V of head h % 2, not of h // 2."""

    kv_heads = 2

    def shared(self, x: Tensor, times: int) -> Tensor:
        return x.repeat(1, times, 1, 1)


class ValuesByWidth(Separate):
    """Of V alone the heads lie in turn: [width, heads]."""

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k = self.heads(self.q_proj(x)), self.heads(self.k_proj(x))
        v = self.v_proj(x).view(b, n, DIM, HEADS).permute(0, 3, 1, 2)
        return self.o_proj(self.core(q, k, v).transpose(1, 2).flatten(2))


class KeysBackwards(Separate):
    """Head h takes K of the last head but h, which is no packing."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(self.q_proj(x)), self.heads(self.k_proj(x)).flip(1), self.heads(self.v_proj(x))
        return self.o_proj(self.core(q, k, v).transpose(1, 2).flatten(2))


class Misnamed(Separate):
    """What is called k_proj gives Q."""

    def forward(self, x: Tensor) -> Tensor:
        k, q, v = self.heads(self.q_proj(x)), self.heads(self.k_proj(x)), self.heads(self.v_proj(x))
        return self.o_proj(self.core(q, k, v).transpose(1, 2).flatten(2))


class Pair(nn.Module):
    """Q alone, K and V in one."""

    per_head = False

    def __init__(self, core: Callable[[Tensor, Tensor, Tensor], Tensor], bias: bool) -> None:
        super().__init__()
        self.q = nn.Linear(WIDTH, HEADS * DIM, bias=bias)
        self.kv = nn.Linear(WIDTH, 2 * HEADS * DIM, bias=bias)
        self.proj = nn.Linear(HEADS * DIM, WIDTH, bias=bias)
        self.core = core

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, HEADS, DIM).transpose(1, 2)
        if self.per_head:
            k, v = self.kv(x).view(b, n, HEADS, 2, DIM).permute(3, 0, 2, 1, 4)
        else:
            k, v = self.kv(x).view(b, n, 2, HEADS, DIM).permute(2, 0, 3, 1, 4)
        return self.proj(self.core(q, k, v).transpose(1, 2).flatten(2))


class PairPerHead(Pair):
    per_head = True


class Convolved(nn.Module):
    """1x1 convolutions over pixels, packed per head."""

    def __init__(self, core: Callable[[Tensor, Tensor, Tensor], Tensor], bias: bool) -> None:
        super().__init__()
        self.qkv = nn.Conv2d(WIDTH, 3 * HEADS * DIM, 1, bias=bias)
        self.proj = nn.Conv2d(HEADS * DIM, WIDTH, 1, bias=bias)
        self.core = core

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        image = x.transpose(1, 2).reshape(b, c, 2, n // 2)
        q, k, v = (one.transpose(-2, -1) for one in self.qkv(image).reshape(b, HEADS, 3, DIM, n).unbind(2))
        out = self.core(q, k, v).transpose(-2, -1).reshape(b, -1, 2, n // 2)
        return self.proj(out).flatten(2).transpose(1, 2)


MODULES: tuple[type[nn.Module], ...] = (
    Blocks, Chunks, LastIsQ, HeadThenPart, HeadThenRun, HeadThenChunk, RowByRow, WidthFirst, KeysBetween, Stripes,
    TokensFirst, Turned, Grouped, BlocksOfFew, OneForAll, Rotated, RotatedPairs, RotatedInPart, Separate, FewKeys,
    TiledKeys, Misnamed, Pair, PairPerHead, Convolved, BesideMlp, ValuesByWidth, KeysBackwards,
    MlpFirst, RowOfEachHead, RowsOfEachHead,
)  # fmt: skip
