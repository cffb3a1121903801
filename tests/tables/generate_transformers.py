"""Make ``qkvinspect/inspection/facts/tables/transformers.json``: how each model_type's config speaks of heads.

    python -m tests.tables.generate_transformers --partial answers.jsonl

in an environment that has torch and the release of transformers that the table shall speak of (5.24.0; timm and
torchvision for the models whose backbones need them). It takes half an hour. What is done is kept, a line a
model_type, in the file named by ``--partial``: started again, it goes on from there. ``--fold`` only writes the table.

For each model_type the models that the auto classes know are built on the meta device, with few layers. One key of the
config's tree after the other is changed to another divisor, the model is built again, and the numbers that its
attention modules then have tell which module reads which key. Names of layers are those of a saved file and those in
memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from tests.tables import transformers_models as library
from tests.tables.transformers_keys import KEYS, Experiment, answer, by_type, changed, common, folded, keys, tries

TABLE = Path(__file__).parents[2] / "qkvinspect/inspection/facts/tables/transformers.json"
SECONDS = 240
LAYERS = (2, 3, 4, 6, 1000)
UNKNOWN = None


class LateError(Exception):
    pass


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise LateError(f"not done in {seconds} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def bases(whole: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Configs to start from: with the fewest layers first, and with cross attention where it can be asked for.

    The last ones have another number of heads somewhere, for the few classes whose default does not build.
    """
    for layers in LAYERS:
        values = library.few_layers(whole, layers)
        if "add_cross_attention" in values:
            yield {**values, "is_decoder": True, "add_cross_attention": True}
        yield values
    values = library.few_layers(whole, LAYERS[0])
    for key, old in keys(values, KEYS.search):
        if old is not None:
            yield from (changed(values, key, new) for new in tries(old, set()))


def first_that_builds(
    cls: type[nn.Module], config: Any, whole: dict[str, Any]
) -> tuple[dict[str, Any], nn.Module, bool]:
    """The first of these configs that builds, its model, and whether it was made of the values.

    Raises:
        Exception: none builds; that of the first try.
    """
    trouble: Exception | None = None
    for values in bases(whole):
        for made_of in (True, False):
            try:
                return values, library.build(cls, config, values, whole=made_of), made_of
            except LateError:
                raise
            except Exception as error:
                trouble = trouble or error
    raise trouble or ValueError("nothing to build")


def names_of(model: nn.Module) -> dict[str, list[str]]:
    """For each attention module, what its layer is called in a file and in memory."""
    library.remember_conversions(model)
    found = {}
    for path, module in library.attentions(model).items():
        inside = library.layer_of([f"{path}.{name}" for name in library.projections(module)])
        try:
            stored = library.layer_of(library.saved_names(model, path, module))
        except LateError:
            raise
        except Exception:
            stored = inside
        found[path] = [name for name in dict.fromkeys([stored, inside]) if name]
    return found


def bare(pattern: str, model: nn.Module) -> str:
    """Without the name of the base model, which a file may have or not."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    return pattern.removeprefix(prefix) if len(prefix) > 1 else pattern


def experiment(cls: type[nn.Module], config: Any, whole: dict[str, Any], known: set[str]) -> dict[str, Any]:
    """{pattern of layers: answer, {type of layer: answer} or None} for one class; nothing where all is known."""
    values, model, made_of = first_that_builds(cls, config, whole)
    names = names_of(model)
    if {bare(folded(name), model) for some in names.values() for name in some} <= known:
        return {}
    numbers = dict(library.measured(model))

    def measure(other: Mapping[str, Any]) -> dict[str, library.Numbers] | None:
        try:
            return dict(library.measured(library.build(cls, config, other, whole=made_of)))
        except LateError:
            raise
        except Exception:
            return None

    moved = Experiment(values, measure).run()
    grouped: dict[str, dict[str, Any]] = defaultdict(dict)
    for path, some in names.items():
        for name in some:
            grouped[bare(folded(name), model)][name] = answer(moved[path], numbers[path]) if path in moved else None
    found = {pattern: common(modules) or by_type(modules, values) for pattern, modules in grouped.items()}
    for path in library.unmeasured(model, set(names)):
        found.setdefault(bare(folded(path), model), UNKNOWN)
    return found


def learn(model_type: str) -> dict[str, Any]:
    """A line of the partial file: the answers of all classes of a model_type."""
    config = library.config_class(model_type)
    found: dict[str, Any] = {}
    trouble = ""
    try:
        with within(SECONDS):
            whole = library.default(model_type)
            for cls in library.classes(model_type)[:12]:
                try:
                    for pattern, said in experiment(cls, config, whole, set(found)).items():
                        found[pattern] = said if pattern not in found or found[pattern] == said else UNKNOWN
                except LateError:
                    raise
                except Exception as error:
                    trouble = trouble or f"{cls.__name__}: {type(error).__name__}: {error}"[:300]
    except Exception as error:
        trouble = f"{type(error).__name__}: {error}"[:300]
    return {"model_type": model_type, "found": found, "trouble": trouble}


def needed(found: Mapping[str, Any]) -> dict[str, Any]:
    """Without the unknown layers that no name of a known one could be taken for."""
    ends = {pattern.rpartition(".")[2] for pattern, said in found.items() if said is not None}
    return {p: said for p, said in found.items() if said is not None or p.rpartition(".")[2] in ends}


def fold(lines: list[dict[str, Any]]) -> str:
    """The table: the answers once, then a line a model_type, with the number of the answer of each pattern."""
    answers: dict[Any, int] = {}

    def number(said: Any) -> Any:
        if said is None:
            return None
        if isinstance(said, dict):
            return {kind: number(a) for kind, a in sorted(said.items())}
        return answers.setdefault(tuple(said), len(answers))

    rows, first = [], {}
    for line in sorted(lines, key=lambda line: line["model_type"]):
        found = {pattern: number(said) for pattern, said in sorted(needed(line["found"]).items())}
        if not any(said is not None for said in found.values()):
            continue
        text = json.dumps(found, separators=(",", ":"))
        alike = first.setdefault(text, line["model_type"])
        shared = json.dumps(alike) if alike != line["model_type"] else text
        rows.append(f"{json.dumps(line['model_type'])}:{shared}")
    listed = ",\n".join(json.dumps(a, separators=(",", ":")) for a in answers)
    return f'{{"answers":[\n{listed}\n],\n"models":{{\n' + ",\n".join(rows) + "\n}}\n"


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--partial", type=Path, required=True, help="what is done already, a line a model_type")
    ask.add_argument("--only", nargs="*", help="these model_types only")
    ask.add_argument("--fold", action="store_true", help="only write the table of what is done")
    asked = ask.parse_args()
    alive = library.prepare()
    done = [json.loads(line) for line in asked.partial.open()] if asked.partial.exists() else []
    if not asked.fold:
        known = {line["model_type"] for line in done}
        with asked.partial.open("a") as partial:
            for model_type in asked.only or library.model_types():
                if model_type in known:
                    continue
                start = time.monotonic()
                done.append(learn(model_type))
                partial.write(json.dumps(done[-1]) + "\n")
                partial.flush()
                print(f"{model_type} {time.monotonic() - start:.1f} s {done[-1]['trouble']}", file=sys.stderr)
    TABLE.write_text(fold(done))
    del alive


if __name__ == "__main__":
    main()
