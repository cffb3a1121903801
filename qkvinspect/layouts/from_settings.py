"""Layouts that a user describes: a ``[[layout]]`` row of the settings, or ``--layout '{ ... }'`` for one run.

[[layout]]
layer = "*.att_stack.*"
q = "q_linear.weight"
k = "k_linear.weight"
v = "v_linear.weight"
heads = "32/8"

``KEYS`` has every key, docs/settings.md an example of each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast, get_args

from qkvinspect.checkpoint import Orientation
from qkvinspect.errors import UsageError
from qkvinspect.fast_dataclass import replace
from qkvinspect.late_pattern import late_pattern
from qkvinspect.layouts.layout import PATTERN, Layout, StoredWeight
from qkvinspect.layouts.packing import HEADED, Packing
from qkvinspect.weights.head_stack import Axes

UNKNOWN = "?"
"""The placeholder in a suggested row, where the user has to fill in the name of a tensor."""

_WEIGHTS = ("qkv", "qk", "kv", "q", "k", "v")

KEYS: Mapping[str, str] = {
    "layer": "a glob for the names of the modules that the row is for; all, if left out",
    "q, k, v": "the names of the tensors below the module, each as far as the module has it; "
    "a tensor that is named twice is used as both parts",
    "qkv, kv, qk": "the same, where one tensor holds several parts",
    "out": "the output projection: where a tensor holds Q, K and V in blocks, its width tells how wide V is",
    "packing": "how a tensor with several parts is divided: `in blocks` (if left out), `per head`, `per kv head`, "
    "`row by row`, `in 4 groups`, `in blocks of alternating heads` ([3, head_dim, heads]), "
    "`a row of each head in turn` ([head_dim, 3, heads]) or "
    "`row by row, heads in turn` ([head_dim, heads, 3]); in another order than the key says, or with a gate, after "
    "the parts: `k, v, q in blocks`, `q, gate per head`; of two tensors with `;` between",
    "orientation": "`out_in` (if left out), as `nn.Linear` stores its weight; `in_out` where Q, K and V are columns; "
    "`heads_in_dim`, `heads_dim_in` or `in_heads_dim` of parameters of three axes",
    "out_orientation": "that of the output projection, where it is another: `out_in` or `in_out`; "
    "of three axes [heads, head_dim, out] is `in_out`, which goes without saying beside parameters of three axes",
    "heads": "`8`, or `32/8` for 32 heads over 8 kv heads",
    "id": "what the output calls the layout; `told-1` and so on, if left out",
}
"""The keys of a row, and what each is, for docs/settings.md."""

_KEYS = [key for keys in KEYS for key in keys.split(", ")]

THREE_AXES: Mapping[str, Axes] = {"heads_in_dim": (0, 2, 1), "heads_dim_in": (0, 1, 2), "in_heads_dim": (1, 2, 0)}
"""What the axes of a parameter [heads, in, head_dim] and its kin count, and where heads, head_dim and in are."""

_HOW: Mapping[str, Packing] = {
    "in blocks": Packing(()),
    "per head": Packing((), "heads"),
    "per kv head": Packing((), "kv_heads"),
    "row by row": Packing((), "heads", slot_innermost=True),
    "row by row, heads in turn": Packing((), "rows", slot_innermost=True),
    "in blocks of alternating heads": Packing((), heads_innermost=True),
    "a row of each head in turn": Packing((), "rows"),
}
"""The words for packings, as ``explain`` uses them."""


def rows(tables: Iterable[Mapping[str, object]], origin: str) -> tuple[Layout, ...]:
    """The layouts that some tables describe.

    Raises:
        UsageError: one of them describes none.
    """
    return tuple(_row(table, origin, number) for number, table in enumerate(tables, 1))


def is_row(text: str) -> bool:
    """Whether a value of ``--layout`` describes a layout, with a glob before it or not, and does not name one."""
    return _IS_ROW.match(text) is not None


def parse(text: str) -> Layout:
    """The layout that ``--layout '{ q = "...", ... }'`` describes, or ``--layout 'GLOB={ ... }'``.

    What ``show`` prints may be given as it is, with its ``[[layout]]`` and a line for each key.

    Raises:
        UsageError: it describes none.
    """
    import tomllib

    glob, braced, row = text.partition("{")
    glob = glob.strip().removesuffix("=").strip() if braced and not _KEY.match(text) else ""
    try:
        tables = tomllib.loads(f"layout = [{braced}{row}]" if braced and not _KEY.match(text) else text)
        (table,) = cast("list[dict[str, object]]", tables.get("layout", [tables]))
    except (ValueError, TypeError, RecursionError) as error:
        hint = """write it as '{ q = "q_linear.weight", k = "k_linear.weight", v = "v_linear.weight" }'"""
        raise UsageError(f"--layout {text[:80]} is no table of TOML: {error}", hint=hint) from error
    if glob and "layer" in table:
        raise UsageError(f"--layout names its layers twice: {glob!r} and {table['layer']!r}")
    return _row({**table, **({"layer": glob} if glob else {})}, "--layout", 1)


_KEY = late_pattern(r"\s*(?:\[\[?layout|[a-z_]+\s*=\s*[\"'])")
"""How TOML begins that is not in braces: a table's header, or a key and its text."""

_IS_ROW = late_pattern(r"\s*(?:\[\[?layout|[a-z_]+\s*=\s*[\"']|[^{]*\{)")


def _row(table: Mapping[str, object], origin: str, number: int) -> Layout:
    unknown = ", ".join(repr(key) for key in table if key not in _KEYS)
    if unknown:
        raise UsageError(f"{origin}: a layout has keys that are not known", expected=", ".join(_KEYS), found=unknown)
    texts = {key: _text(origin, key, value) for key, value in table.items()}
    stored = [(parts, texts[parts]) for parts in _WEIGHTS if parts in texts]
    held = "".join(parts for parts, _ in stored)
    if len(set(held)) != len(held) or not stored:
        raise UsageError(
            f"{origin}: a layout names each of q, k and v once, by itself or in qkv, kv or qk",
            found=", ".join(parts for parts, _ in stored) or "none of them",
        )
    weights = _weights(origin, stored, texts)
    orientation, axes = weights[0].orientation, weights[0].axes
    out = texts.get("out_orientation", "in_out" if axes else orientation)
    heads, kv_heads = _heads(origin, texts.get("heads"))
    return Layout(
        id=_id(origin, texts.get("id", f"told-{number}")),
        libraries=f"told by {origin}",
        weights=weights,
        biases=tuple(_biases(weights)),
        out=(texts["out"],) if "out" in texts else (),
        out_orientation=_orientation(origin, out),
        glob=texts.get("layer", "*"),
        num_heads=heads,
        num_kv_heads=kv_heads,
        kv_heads="free",
        head_tensors=(),
        v_free=True,
        found_by="settings",
        source=origin,
        proof="settings",
    )


def _weights(origin: str, named: Sequence[tuple[str, str]], texts: Mapping[str, str]) -> tuple[StoredWeight, ...]:
    """The tensors that a row names; one that is named twice is used as both parts."""
    word = texts.get("orientation", "out_in")
    axes = THREE_AXES.get(word)
    orientation = "out_in" if axes else _orientation(origin, word)
    keys: dict[str, str] = {}
    for parts, key in named:
        keys[key] = keys.get(key, "") + parts
    shared = {key: parts for key, parts in keys.items() if sum(other == key for _, other in named) > 1}
    if any(parts not in ("qk", "kv", "qkv") for parts in shared.values()):
        raise UsageError(
            f"{origin}: one tensor is named for {', '.join(next(iter(shared.values())))}",
            expected="one that is used as q and k, as k and v, or as all three",
        )
    packings = _packings(origin, [parts for key, parts in keys.items() if key not in shared], texts.get("packing"))
    return tuple(
        StoredWeight(key, Packing((parts,)) if key in shared else packings[parts], orientation, axes)
        for key, parts in keys.items()
    )


def _biases(weights: Iterable[StoredWeight]) -> Iterator[StoredWeight]:
    for key, packing in ((one.key, one.packing) for one in weights):
        head, _, last = key.rpartition(".")
        if last in ("weight", "kernel"):
            yield StoredWeight(f"{head}.bias".lstrip("."), packing)
        elif "weight" in last:
            yield StoredWeight(f"{head}.{last.replace('weight', 'bias')}".lstrip("."), packing)


def _text(origin: str, key: str, value: object) -> str:
    if type(value) not in (str, int) or not str(value) or len(str(value)) > _LONGEST:
        raise UsageError(f"{origin}: {key} of a layout is no text", found=repr(value)[:60])
    if value == UNKNOWN:
        hint = f"put {'a packing' if key == 'packing' else 'the name of a tensor'} there"
        raise UsageError(f"{origin}: {key} of a layout is still {UNKNOWN!r}", hint=hint)
    return str(value)


_LONGEST = 500
_PACKING = rf"(?:([a-z]+(?: *, *[a-z]+)*) +)?({'|'.join(_HOW)}|in ([1-9]\d{{0,3}}) groups)"


def _id(origin: str, id: str) -> str:
    """The name of a row, which must not be another's: the output would say that a library stores it so."""
    from qkvinspect.layouts import LAYOUTS

    if id.partition("-")[0] in (PATTERN, "graph") or any(layout.id == id for layout in LAYOUTS):
        raise UsageError(f"{origin}: the id {id!r} is that of another layout", hint="choose another, or leave it out")
    return id


def _orientation(origin: str, text: str) -> Orientation:
    known: tuple[Orientation, ...] = get_args(Orientation)
    for orientation in known:
        if orientation == text:
            return orientation
    expected = f"{' or '.join(known[:2])}, or {' or '.join(THREE_AXES)}"
    raise UsageError(f"{origin}: {text!r} is no orientation", expected=expected)


def _packings(origin: str, tensors: Sequence[str], text: str | None) -> Mapping[str, Packing]:
    """The packing of each tensor, by the parts that it is named for.

    The text says how those with several parts are divided, or, with the parts in it, any one: ``q, gate per head``.
    """
    found = {parts: Packing(tuple(parts)) for parts in tensors}
    several = [parts for parts in tensors if len(parts) > 1]
    for clause in (text or "").split(";") if text is not None else ():
        said = re.fullmatch(_PACKING, clause.strip())
        if not said:
            how = ", ".join(_HOW)
            raise UsageError(f"{origin}: {text!r} is no packing", expected=f"'q, k, v' and one of: {how}, in N groups")
        order = tuple(re.split(r" *, *", said[1])) if said[1] else ()
        own = "".join(part for part in "qkv" if part in order)
        meant = [parts for parts in tensors if parts == own] if order else several
        if not meant:
            expected = " or ".join(", ".join(parts) for parts in several or tensors)
            what = "lists other parts" if order else "is of a tensor that holds several parts, and each has its own"
            raise UsageError(f"{origin}: the packing {what}", expected=expected, found=text)
        if not set(order) <= HEADED | {"mlp"} or len(set(order)) != len(order):
            raise UsageError(f"{origin}: the packing lists other parts", expected=", ".join(meant[0]), found=text)
        how = Packing((), int(said[3])) if said[3] else _HOW[said[2]]
        for parts in meant:
            found[parts] = replace(how, order=order or tuple(parts))
    return found


def _heads(origin: str, text: str | None) -> tuple[int | None, int | None]:
    if text is None:
        return None, None
    found = re.fullmatch(r"(\d{1,5})(?:/(\d{1,5}))?", text)
    if not found or not int(found[1]) or found[2] == "0":
        raise UsageError(f"{origin}: heads of a layout are no number", expected="N or N/KV", found=repr(text)[:60])
    return int(found[1]), int(found[2]) if found[2] else None
