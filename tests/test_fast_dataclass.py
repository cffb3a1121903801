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

from qkvinspect.fast_dataclass import dataclass, replace
from qkvinspect.fast_dataclass import field as own_field


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


@dataclass(slots=True)
class Changing:
    first: int
    seen: list[int] = own_field(default_factory=list[int], repr=False, compare=False)
    last: int = own_field(default=3)


def test_fields_described_without_the_standard_library() -> None:
    one = Changing(1)
    one.seen.append(5)
    one.first = 2
    assert one == Changing(2)
    assert one != Changing(1)
    assert repr(one) == "Changing(first=2, last=3)"
    with pytest.raises(TypeError, match="unhashable"):
        hash(one)
    assert [(f.name, f.init, f.repr, f.compare, f.kw_only) for f in dataclasses.fields(one)] == [
        ("first", True, True, True, False),
        ("seen", True, False, False, False),
        ("last", True, True, True, False),
    ]
    assert dataclasses.asdict(one) == {"first": 2, "seen": [5], "last": 3}


def test_replace() -> None:
    assert replace(Quick(1), second="c") == dataclasses.replace(Quick(1), second="c") == Quick(1, "c")
    assert replace(Usual(1), second="c") == Usual(1, "c")
    with pytest.raises(ValueError, match="negative"):
        replace(Quick(1), first=-1)
    with pytest.raises(TypeError, match="sixth"):
        replace(Quick(1), sixth=1)  # pyright: ignore
    match Quicker(1, "b", fifth=2.0):
        case Quicker(first, second, _, _, fifth):
            assert (first, second, fifth) == (1, "b", 2.0)
