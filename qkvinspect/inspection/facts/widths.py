"""Whether the section that gives a number of heads is of a part of the model as wide as the layer."""

from __future__ import annotations

from collections.abc import Iterator

from qkvinspect.inspection.facts.module import HeadedModule
from qkvinspect.inspection.facts.scopes import names_a_known_part
from qkvinspect.inspection.facts.sections import ConfigSection
from qkvinspect.parsed import is_items

_SHOWN = 3
_SHARES = ("groups", "ratio")


def of_another(section: ConfigSection, path: str, module: HeadedModule) -> str:
    """Why a section speaks of another part of the model, or of another model, by the widths that it gives; else "".

    A section that has a width has that of its layers among its numbers, in whatever key. What stands in a list is left
    to its place there, and a key for a part of its own (``resampler_heads``) to its name.

    Args:
        path: the key of its heads, below the section.
    """
    name, _, below = path.partition(".")
    if below or "[" in path or not module.widths or 1 in module.widths or module.packed:
        return ""
    key = next((key for other, key, _ in section.sizes if other == name), None)
    if key is None or not all(map(names_a_known_part, key.roles)):
        return ""
    given = {
        other: width
        for other, size, width in section.sizes
        if size.means == "embed_dim" and all(map(names_a_known_part, size.roles))
    }
    numbers = set(_numbers(section))
    if not given or module.widths & numbers:
        return ""
    said = ", ".join(f"{section.path}{other} {width}" for other, width in [*given.items()][:_SHOWN])
    wide = " and ".join(map(str, sorted(module.widths)[:_SHOWN]))
    return f"that is of a part or model of another width ({said}): the inputs of this layer are {wide} wide"


def _numbers(section: ConfigSection) -> Iterator[int]:
    """Every number of a section, and what layers are wide by two of them.

    Numbers are also shared out over groups (SqueezeBERT's grouped convolutions) or by a ratio (LiLT's layout stream),
    and many models of diffusers are as wide as their heads together, whose number and width are all that their config
    has.
    """
    own = [value for value in section.values.values() if isinstance(value, int)]
    groups = [value for name, value in section.values.items() if isinstance(value, int) and name.endswith(_SHARES)]
    yield from own
    yield from (value // shared for value in own for shared in groups if shared > 1 and value % shared == 0)
    sized = [(size.means, value) for _, size, value in section.sizes if isinstance(value, int)]
    heads, widths = ([value for means, value in sized if means == wanted] for wanted in ("num_heads", "head_dim"))
    yield from (count * width for count in heads for width in widths)
    for value in section.values.values():
        if is_items(value):
            yield from (item for item in value if isinstance(item, int))
