"""Named tuples that keep their annotations as text are those of ``typing`` to whoever uses them."""

from __future__ import annotations

import copy
import pickle
import typing

import pytest

from qkvinspect.fast_tuple import NamedTuple

MADE = 3


class Quick(NamedTuple):
    """Three fields."""

    first: int
    second: str = "two"
    third: tuple[int, ...] = (MADE,)

    @property
    def both(self) -> str:
        return f"{self.first} {self.second}"

    def __str__(self) -> str:
        return "quick"


class Usual(typing.NamedTuple):
    """Three fields."""

    first: int
    second: str = "two"
    third: tuple[int, ...] = (MADE,)

    @property
    def both(self) -> str:
        return f"{self.first} {self.second}"

    def __str__(self) -> str:
        return "quick"


@pytest.mark.parametrize(("args", "named"), [((1,), {}), ((1, "b"), {}), ((), {"first": 2, "third": ()})])
def test_it_is_the_tuple_of_typing(args: tuple[typing.Any, ...], named: dict[str, typing.Any]) -> None:
    quick, usual = Quick(*args, **named), Usual(*args, **named)
    assert tuple(quick) == tuple(usual)
    assert quick == usual
    assert repr(quick).replace("Quick", "Usual") == repr(usual)
    assert (str(quick), quick.both, quick._asdict()) == (str(usual), usual.both, usual._asdict())
    assert quick._replace(second="c") == usual._replace(second="c")
    assert pickle.loads(pickle.dumps(quick)) == copy.deepcopy(quick) == quick
    assert type(pickle.loads(pickle.dumps(quick))) is Quick


def test_it_says_what_that_of_typing_says() -> None:
    for name in ("_fields", "_field_defaults", "__doc__", "__match_args__", "__module__"):
        assert getattr(Quick, name) == getattr(Usual, name)
    assert typing.get_type_hints(Quick) == typing.get_type_hints(Usual)
    with pytest.raises(TypeError, match="first"):
        Quick()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
