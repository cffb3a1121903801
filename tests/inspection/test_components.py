"""The components of many names are those of each alone."""

from __future__ import annotations

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from qkvinspect.inspection.components import VARIABLES, WRAPPERS, paths_of, unwrapped

PARTS = ["layers", "attn", "q_proj", "weight", "0", "1", "17", "heads", "*", "head_*", "", "a/b", "c:0", *WRAPPERS]
PARTS += [part for end in VARIABLES for part in end]
NAMES = st.lists(st.lists(st.sampled_from(PARTS), min_size=1, max_size=6).map(".".join), max_size=12, unique=True)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(NAMES)
@example(["layers.0.attn.q", "layers.0.module", "layers.0.attn.q_proj.module.weight", "layers.0.vars.0", "layers.0."])
@example(["module.0.weight", "module.0.module", "module.1.weight"])
@example([f"layers.{n}.{'x.' * 70}weight" for n in range(3)])
def test_names_together_and_alone(names: list[str]) -> None:
    assert paths_of(names) == {name: unwrapped(name) for name in names}


def test_components_are_kept_once() -> None:
    """A million names have few that differ."""
    names = [f"model.layers.{n}.self_attn.{part}_proj.weight" for n in range(1000) for part in "qkvo"]
    assert len({id(part) for path in paths_of(names).values() for part in path}) == 1000 + 8
