"""Perturb a census: every head count of every config becomes another number, and the library says what that makes.

    python -m tests.census_perturbed.perturb CENSUS.jsonl.xz -o OUT.jsonl [--lib LIB] [--only NAME] [--part 0/4]

A census has a line a model: its files, the names and shapes of its tensors, and the heads of its attention modules.
Where two keys of a config have the same value, a reader that takes the wrong one is right by luck. Here each key is
changed to a divisor or a multiple of what it was, to another factor than its neighbours where that builds; the model
is built again from the changed config, without weights; and its own attention modules say what is true then.

It runs in an environment that has torch and the libraries (transformers 5.24.0, diffusers 0.42.1, timm 1.0.31,
open_clip 3.3.0, litgpt 0.5.13). Modules whose numbers the reading of live attributes does not confirm on the config as
it was are left out, and counted.
"""

from __future__ import annotations

import argparse
import copy
import json
import lzma
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.census_perturbed import builders
from tests.tables import transformers_models as library
from tests.tables.generate_transformers import within
from tests.tables.transformers_keys import changed, keys

COUNTS = re.compile(
    r"head|query_groups|group_num|num_key_value|kv_channels|d_kv|key_length",
    re.IGNORECASE,
)
NOT_COUNTS = re.compile(r"lm_head|head_hidden|head_in_index|head_pred|head_rescale|aux|head_ratio|num_head_tokens")
FACTORS = ((1, 2), (2, 1), (1, 4), (4, 1), (1, 3), (3, 1))
SECONDS = 100

Heads = dict[str, tuple[int, int | None]]
"""(heads, kv heads) of each attention module, by its path."""


class Built(NamedTuple):
    """A model of some config: the shapes of what its file would hold, and its attentions as they say themselves.

    Attributes:
        names: of the tensors of each attention.
        sound: whether its heads fill their rows.
    """

    tensors: dict[str, list[int]]
    heads: Heads
    names: dict[str, list[str]]
    sound: bool


Build = Callable[[Mapping[str, Any]], Built | None]


def pattern(path: str) -> str:
    return re.sub(r"\d+", "#", path)


def said_by_census(truths: list[dict[str, Any]]) -> dict[str, set[tuple[int, int | None]]]:
    """The numbers of the modules of each pattern, as the census has them."""
    found: dict[str, set[tuple[int, int | None]]] = defaultdict(set)
    for truth in truths:
        if truth.get("H"):
            found[pattern(truth["path"])].add((truth["H"], truth.get("KV")))
        elif truth.get("true") and truth["true"].get("q"):
            k = truth["true"].get("k")
            found[pattern(truth["path"])].add((truth["true"]["q"]["heads"], k["heads"] if k else None))
    return found


def confirmed(heads: Heads, census: Mapping[str, set[tuple[int, int | None]]]) -> dict[str, bool]:
    """{path: whether its kv heads count too} of the modules whose live numbers are those of the census."""
    found = {}
    for path, (number, kv_heads) in heads.items():
        said = census.get(pattern(path), set())
        if number in {one for one, _ in said}:
            found[path] = (number, kv_heads) in said
    return found


def counts(values: Mapping[str, Any]) -> Iterator[tuple[tuple[str | int, ...], int]]:
    """Every head count and width of a head in a config."""

    def is_count(name: str) -> bool:
        return bool(COUNTS.search(name)) and not NOT_COUNTS.search(name)

    for path, value in keys(values, is_count):
        if value is not None:
            yield path, value


def is_sound(built: Built | None) -> bool:
    """Whether heads can share their kv heads everywhere: a library builds what no forward pass could run."""
    if built is None or not built.heads or not built.sound:
        return False
    return all(number and (not kv or number % kv == 0) for number, kv in built.heads.values())


def perturbed(values: Mapping[str, Any], build: Build) -> tuple[dict[str, Any], Built | None, int, int]:
    """(the changed config, its model, how many keys were changed, of how many)."""
    current, model, done = dict(copy.deepcopy(values)), None, 0
    mine = list(counts(values))
    factors: set[tuple[int, int]] = set()
    together: set[tuple[str | int, ...]] = set()
    for index, (key, old) in enumerate(mine):
        if key in together:
            done += 1
            continue
        turned = FACTORS[index % len(FACTORS) :] + FACTORS[: index % len(FACTORS)]
        turned = tuple(sorted(turned, key=lambda factor: factor in factors))
        beside = [(other, n) for other, n in mine if other[:-1] == key[:-1] and other != key and n == old]
        for up, down in turned:
            if old * up % down or old * up // down == old:
                continue
            new = old * up // down
            alone = changed(current, key, new)
            tries = [(alone, [])]
            if beside:  # keys that must stay equal for the class to build
                joint = alone
                for other, _ in beside:
                    joint = changed(joint, other, new)
                tries.append((joint, [other for other, _ in beside]))
            for candidate, others in tries:
                built = build(candidate)
                if built is not None and is_sound(built):
                    current, model, done = candidate, built, done + 1
                    factors.add((up, down))
                    together |= set(others)
                    break
            else:
                continue
            break
    return current, model, done, len(mine)


def entry_of(entry: dict[str, Any]) -> dict[str, Any] | None:
    """The perturbed line of a line of a census; None where nothing could be changed."""
    source = builders.of(entry)
    if source is None:
        return None
    base = source.build(source.values)
    if base is None:
        return {"trouble": source.trouble or "the config as it was does not build"}
    known = confirmed(base.heads, said_by_census(entry["truth"]))
    if not known:
        return {"trouble": "no module's own numbers are those of the census"}
    values, model, done, of = perturbed(source.values, source.build)
    if model is None:
        return {"trouble": f"none of {of} keys could be changed"}
    truth: list[dict[str, Any]] = []
    moved = 0
    for path, counts_kv in known.items():
        names = model.names.get(path)
        if path not in model.heads or not names:
            continue
        heads, kv_heads = model.heads[path]
        moved += (heads, kv_heads) != base.heads[path]
        one = {"path": path, "names": {str(i): name for i, name in enumerate(names)}, "H": heads}
        truth.append(one | ({"KV": kv_heads} if counts_kv and kv_heads else {}))
    return {
        "lib": entry["lib"],
        "name": entry["name"],
        "changed": f"{done}/{of}",
        "moved": moved,
        "files": source.files(values),
        "tensors": [[name, "F32", shape] for name, shape in sorted(model.tensors.items())],
        "truth": truth,
        "left_out": len(base.heads) - len(known),
    }


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("census", type=Path)
    ask.add_argument("-o", "--output", type=Path, required=True)
    ask.add_argument("--lib")
    ask.add_argument("--only")
    ask.add_argument("--part", default="0/1", help="i/n: every n-th model, from the i-th")
    asked = ask.parse_args()
    part, parts = map(int, asked.part.split("/"))
    alive = library.prepare()
    at = 0
    with lzma.open(asked.census, "rt") as lines, asked.output.open("w") as output:
        for line in lines:
            entry = json.loads(line)
            if (asked.lib and entry["lib"] != asked.lib) or (asked.only and entry["name"] != asked.only):
                continue
            at += 1
            if at % parts != part:
                continue
            start = time.monotonic()
            try:
                with within(SECONDS):
                    found = entry_of(entry)
            except Exception as error:
                found = {"trouble": f"{type(error).__name__}: {error}"[:200]}
            took = f"{time.monotonic() - start:.1f} s"
            if found is None or "trouble" in found:
                print(f"{entry['lib']}/{entry['name']} left out {took}: {found and found['trouble']}", file=sys.stderr)
                continue
            output.write(json.dumps(found) + "\n")
            output.flush()
            text = f"keys {found['changed']}, modules {len(found['truth'])}, moved {found['moved']}"
            print(f"{entry['lib']}/{entry['name']} {text}, left out {found['left_out']}, {took}", file=sys.stderr)
    del alive


if __name__ == "__main__":
    main()
