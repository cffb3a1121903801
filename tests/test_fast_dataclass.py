"""Dataclasses whose methods are shared or late are those of the standard library to whoever uses them."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from collections.abc import Callable
from dataclasses import field
from typing import Any

import pytest

from qkvinspect.fast_dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Quick:
    first: int
    second: str = "two"
    third: dict[str, int] = field(default_factory=dict[str, int])
    fourth: tuple[int, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.first < 0:
            raise ValueError("first is negative")


@dataclass(frozen=True, slots=True)
class Quicker(Quick):
    fifth: float = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class Usual:
    first: int
    second: str = "two"
    third: dict[str, int] = field(default_factory=dict[str, int])
    fourth: tuple[int, ...] = field(default=(), repr=False)


GIVEN: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((1,), {}),
    ((1, "b"), {}),
    ((1,), {"third": {"x": 1}}),
    ((), {"first": 3, "fourth": (1, 2)}),
    ((1, "b", {"y": 2}, (4,)), {}),
]


@pytest.mark.parametrize(("args", "named"), GIVEN)
def test_fields(args: tuple[Any, ...], named: dict[str, Any]) -> None:
    quick, usual = Quick(*args, **named), Usual(*args, **named)
    assert dataclasses.asdict(quick) == dataclasses.asdict(usual)
    assert repr(quick).replace("Quick", "Usual") == repr(usual)
    assert quick == Quick(*args, **named)
    assert quick != usual
    assert dataclasses.replace(quick, second="c").second == "c"
    assert copy.deepcopy(quick) == pickle.loads(pickle.dumps(quick)) == quick


def test_no_two_share_what_a_factory_makes() -> None:
    assert Quick(1).third is not Quick(1).third


@pytest.mark.parametrize("args", [(), (1, 2, 3, 4, 5)])
def test_wrong_arguments(args: tuple[int, ...]) -> None:
    made: Callable[..., object] = Quick
    with pytest.raises(TypeError, match="argument"):
        made(*args)
    with pytest.raises(TypeError, match="unexpected keyword argument 'sixth'"):
        made(1, sixth=6)


def test_what_is_checked_afterwards() -> None:
    with pytest.raises(ValueError, match="negative"):
        Quick(-1)


def test_a_class_that_has_more() -> None:
    assert dataclasses.astuple(Quicker(1, fifth=2.0)) == (1, "two", {}, (), 2.0)


def test_the_signature_is_known_before_one_is_made() -> None:
    names = ["first", "second", "third", "fourth"]
    assert list(inspect.signature(Quick).parameters) == names == list(inspect.signature(Usual).parameters)
    assert inspect.signature(Quick).parameters["second"].default == "two"
