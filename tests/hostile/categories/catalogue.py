"""The 120 kinds of hostile and broken input that qkvinspect answers for, each with its cases."""

from __future__ import annotations

from dataclasses import replace

from tests.hostile.categories import ggufs, older, onnxes, output, pickled, safetensors, scenes, several, zipped
from tests.hostile.categories.case import Case
from tests.hostile.categories.output import Shown
from tests.hostile.categories.scenes import Scene

SECTIONS = (safetensors, zipped, pickled, older, several, ggufs, onnxes, output)
CASES: list[tuple[int, Case]] = [
    (number, replace(case, trusted=case.trusted or section.TRUSTED.get(number, "")))
    for section in SECTIONS
    for number, make in section.MAKERS.items()
    for case in make()
]
SCENES: list[tuple[int, Scene]] = [(number, scene) for number, make in scenes.SCENES.items() for scene in make()]
SHOWN: list[tuple[int, Shown]] = [(number, shown) for number, make in output.SHOWN.items() for shown in make()]
