"""From recorded products to the stored rows of each head: look every operand element up among activations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from capture import Activations, Array, Product, ProofError, RowId

Head = tuple[RowId, ...]
ANCHORS = 4
SAMPLE = 48


@dataclass(frozen=True)
class Traced:
    """An operand whose elements were all found: the rows of each head, in the order of the heads.

    Attributes:
        scale: the factor between operand and activations; None where each vector had its own.
        values: the operand with its channels last, flattened to vectors.
        labels: which head each vector is, -1 where it holds something else.
    """

    heads: tuple[Head, ...]
    scale: float | None
    values: Array
    labels: Array

    @property
    def rows(self) -> frozenset[RowId]:
        return frozenset(row for head in self.heads for row in head)


class Index:
    """Sorted activations, for looking up by value."""

    def __init__(self, table: Activations, tolerance: float) -> None:
        self.activations = table
        flat = table.table.ravel()
        columns = np.tile(np.arange(len(table.ids)), table.table.shape[0])
        keep = np.isfinite(flat)
        order = np.argsort(flat[keep], kind="stable")
        self.values = flat[keep][order]
        self.columns = columns[keep][order]
        self.tolerance = tolerance
        self.slack = tolerance * float(np.abs(self.values).max())

    def find(self, wanted: Array) -> Array:
        """The row of each value: its column, -1 if there is none, -2 if several rows have it."""
        low = np.searchsorted(self.values, wanted - self.slack, "left")
        high = np.searchsorted(self.values, wanted + self.slack, "right") - 1
        found = high >= low
        first = self.columns[np.minimum(low, len(self.columns) - 1)]
        last = self.columns[np.maximum(high, 0)]
        return np.where(found, np.where(first == last, first, -2), -1)

    def hits(self, wanted: Array) -> float:
        return float((self.find(wanted) != -1).mean())


def find_scale(index: Index, operand: Array, dims: Iterable[int]) -> float | None:
    """The positive factor under which the operand's elements are activations, if there is one."""
    flat = operand.ravel()
    flat = flat[np.abs(flat) > 1e-6]
    if not len(flat) or not len(index.values):
        return None
    random = np.random.default_rng(0)
    sample = random.choice(flat, min(SAMPLE, len(flat)), replace=False)
    usual = [1.0, *(d**power for d in dims for power in (-0.5, -0.25))]
    for scale in usual:
        if index.hits(sample / scale) > 0.2:
            return scale
    for anchor in sample[:ANCHORS]:
        candidates = anchor / index.values[np.abs(index.values) > 1e-6]
        candidates = candidates[(candidates > 1e-3) & (candidates < 1e3)]
        hits = (index.find(sample[None, :] / candidates[:, None]) != -1).mean(axis=1)
        if len(hits) and hits.max() > 0.4:
            return float(candidates[hits.argmax()])
    return None


def _heads(columns: Array, width: int, partial: bool) -> tuple[list[tuple[int, ...]], Array] | None:
    """The heads, in order, if ``columns``' last axis is a head's channels; and which head each vector is.

    Vectors with an element that several rows could have given are told by their other elements.
    """
    vectors = columns.reshape(-1, columns.shape[-1])
    known: dict[tuple[int, ...], int] = {}
    for vector in vectors:
        rows = tuple(int(column) for column in vector if column >= 0)
        if -2 not in vector and (partial or -1 not in vector) and len(rows) == len(set(rows)) == width:
            known.setdefault(rows, len(known))
    used = [row for head in known for row in head]
    if not known or len(set(used)) != len(used):
        return None
    labels = np.full(len(vectors), -1)
    for number, vector in enumerate(vectors):
        clear = vector[vector >= 0] if partial else vector[vector != -2]
        fits = [label for rows, label in known.items() if _agrees(rows, vector, clear, partial)]
        if len(fits) == 1:
            labels[number] = fits[0]
    if (labels >= 0).mean() < 0.4:
        return None
    heads, order = list(known), list(dict.fromkeys(int(label) for label in labels if label >= 0))
    turns = [label for label, before in zip(labels, [-1, *labels], strict=False) if label >= 0 and label != before]
    if any(label != order[number % len(order)] for number, label in enumerate(_once_a_turn(turns))):
        raise ProofError("the heads do not follow each other in one order")
    place = {label: number for number, label in enumerate(order)}
    return [heads[label] for label in order], np.array([place.get(int(label), -1) for label in labels])


def _agrees(rows: tuple[int, ...], vector: Array, clear: Array, partial: bool) -> bool:
    if partial:
        return len(clear) > 0 and set(clear.tolist()) <= set(rows)
    return len(clear) * 2 >= len(rows) and all(
        column in (-2, row) for column, row in zip(vector.tolist(), rows, strict=True)
    )


def _once_a_turn(labels: Iterable[int]) -> list[int]:
    """Neighbouring equal labels once."""
    short: list[int] = []
    for label in labels:
        if not short or short[-1] != label:
            short.append(label)
    return short


def trace(index: Index, operand: Array, widths: Iterable[int], *, free: str, partial: bool) -> Traced | None:
    """Say which stored rows an operand holds, or None if it does not come from the projections.

    Args:
        free: "heads" if the vector of a head may have a factor of its own, "tokens" if every row may.
    """
    widths = list(dict.fromkeys(widths))
    scale = find_scale(index, operand, [*widths, *(size for size in operand.shape[-2:])])
    columns = None
    if scale is not None:
        columns = index.find(operand / scale)
    for axis in range(operand.ndim - 1, -1, -1):
        for width in widths:
            if operand.shape[axis] < width or (operand.shape[axis] != width and not partial):
                continue
            values = np.moveaxis(operand, axis, -1)
            if columns is not None:
                found = _heads(np.moveaxis(columns, axis, -1), width, partial)
            elif free == "tokens":
                found = _heads(_by_row(index, values), width, partial)
            elif free == "heads" and width > 2:
                found = _heads(_by_direction(index, values), width, partial)
            else:
                found = None
            if found is not None:
                ids = index.activations.ids
                heads = tuple(tuple(ids[column] for column in head) for head in found[0])
                return Traced(heads, scale, values.reshape(-1, values.shape[-1]), found[1])
    return None


def _by_direction(index: Index, values: Array) -> Array:
    """Rows of each element of vectors known only up to a positive factor each (normalised q and k)."""
    table = index.activations.table
    result = np.full(values.shape, -1).reshape(-1, values.shape[-1])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = table[:, None, :] / table[:, :, None]
    order = np.argsort(ratios, axis=None, kind="stable")
    ordered = ratios.ravel()[order]
    loose = max(1e-7, 10 * index.tolerance)
    for number, vector in enumerate(values.reshape(-1, values.shape[-1])):
        if np.abs(vector).min() < 1e-9:
            continue
        ratio = vector[1] / vector[0]
        slack = loose * abs(ratio)
        low, high = np.searchsorted(ordered, [ratio - slack, ratio + slack])
        for place in order[low:high]:
            token, first, _ = np.unravel_index(place, ratios.shape)
            factor = vector[0] / table[token, first]
            if not factor > 0:
                continue
            distance = np.abs(table[token][None, :] * factor - vector[:, None])
            if np.nanmax(np.nanmin(distance, axis=1)) < loose * np.abs(vector).max():
                result[number] = np.nanargmin(distance, axis=1)
                break
    return result.reshape(values.shape)


def _by_row(index: Index, values: Array) -> Array:
    """Rows of operands whose rows were each divided by their norm over the tokens, in the order of the tokens."""
    table = index.activations.table
    result = np.full(values.shape, -1)
    if values.shape[-2] != len(table):
        return result
    unit = table / np.linalg.norm(table, axis=0)
    vectors = values / np.linalg.norm(values, axis=-2, keepdims=True)
    alike = np.einsum("...tc,tr->...cr", vectors, unit)
    rows = np.where(alike.max(axis=-1) > 1 - 1e-9, alike.argmax(axis=-1), -1)
    return np.broadcast_to(rows[..., None, :], values.shape).copy()


@dataclass(frozen=True)
class Found:
    """The traced operands, and where each was: (number of the product, number of the operand)."""

    parts: dict[str, Traced]
    places: dict[str, tuple[int, int]]


def identify(
    products: list[Product],
    index: Index,
    widths: dict[str, int],
    *,
    wanted: str = "qkv",
    roles: str = "qkv",
    free: str = "",
    partial: bool = False,
) -> Found:
    """Find q, k and v among the operands, by their place in the products.

    ``scaled_dot_product_attention`` names its operands. Elsewhere the product of two traced operands is
    q times k, and v is the next traced operand of other rows, unless ``roles`` says otherwise.
    """
    parts: dict[str, Traced] = {}
    places: dict[str, tuple[int, int]] = {}

    def note(part: str, traced: Traced, product: int, operand: int) -> None:
        if part in wanted and part not in parts:
            parts[part], places[part] = traced, (product, operand)

    for number, product in enumerate(products):
        if product.kind == "sdpa":
            for position, (part, operand) in enumerate(zip("qkv", product.operands, strict=True)):
                if part in wanted and part not in parts:
                    found = trace(index, operand, [widths[part]], free=free, partial=partial)
                    if found is not None:
                        note(part, found, number, position)
            continue
        traced = [trace(index, operand, widths.values(), free=free, partial=partial) for operand in product.operands]
        if all(traced):
            for position, one in enumerate(traced):
                assert one is not None
                note(roles[position], one, number, position)
        elif any(traced):
            position = 0 if traced[0] else 1
            one = traced[position]
            assert one is not None
            if any(one.rows & other.rows for part, other in parts.items() if part != roles[2]):
                continue  # q or k again: relative positions
            if roles[1] not in parts and roles[0] not in wanted and roles[1] in wanted:
                note(roles[1], one, number, position)
            elif roles[1] in parts or roles[1] not in wanted:
                note(roles[2], one, number, position)
    missing = [part for part in wanted if part not in parts]
    if missing:
        raise ProofError(f"{', '.join(missing)} not found among {len(products)} products")
    return Found(parts, places)
