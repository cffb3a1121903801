"""Read a plain command line: whole names of options, each value a word of its own or after ``=``, and nothing wrong.

typer reads every other one, and says what is wrong with it. Where both can read one, both call the command with the
same values; ``tests/cli/test_plain.py`` has them read the same lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from qkvinspect.cli.declared import Declared
from qkvinspect.parsed import is_items


class _NotPlain(Exception):  # noqa: N818
    """typer must read the line."""


class _Parameter:
    """One of a command: ``kind`` is the type of a value, of which ``many`` make a list."""

    __slots__ = ("kind", "many", "name", "names")

    def __init__(self, name: str, hint: Any) -> None:
        taken, *told = get_args(hint)
        if type(None) in get_args(taken):
            taken = get_args(taken)[0]
        self.many = get_origin(taken) is list
        self.kind: Any = get_args(taken)[0] if self.many else taken
        self.name = name
        self.names = next(one.names for one in told if isinstance(one, Declared))

    def value(self, word: str) -> object:
        """What a word stands for.

        Raises:
            _NotPlain: nothing, or typer has more to look at than the type.
        """
        if self.kind is str:
            return word
        if self.kind is Path:
            return Path(word)
        if isinstance(self.kind, type) and issubclass(self.kind, Enum):
            for choice in self.kind:
                if choice.value == word:
                    return choice
        raise _NotPlain


def call(function: Callable[..., object], words: Sequence[str]) -> dict[str, object] | None:
    """The arguments that a command is called with; None where typer must look at the words."""
    hints = get_type_hints(function, include_extras=True)
    parameters = [_Parameter(name, hint) for name, hint in hints.items() if name != "return"]
    try:
        given = _given(parameters, words)
    except _NotPlain:
        return None
    code, defaults = function.__code__, function.__defaults__ or ()
    names = code.co_varnames[: code.co_argcount]
    first = len(names) - len(defaults)
    if not given.keys() >= set(names[:first]):
        return None
    return dict(zip(names[first:], defaults, strict=True)) | given


def _given(parameters: Sequence[_Parameter], words: Sequence[str]) -> dict[str, object]:
    """What the words say, by parameter."""
    flags = dict(pair for one in parameters if one.kind is bool for name in one.names for pair in _switched(one, name))
    takers = {name: one for one in parameters if one.kind is not bool for name in one.names}
    found: dict[str, object] = {}
    loose: list[str] = []
    todo = iter(words)
    for word in todo:
        name, equals, value = word.partition("=")
        if not word.startswith("-"):
            loose.append(word)
        elif word in flags:
            found |= flags[word]
        elif name in takers and (name.startswith("--") or not equals):
            _add(found, takers[name], _value(value if equals else next(todo, "")))
        else:
            raise _NotPlain
    _place(found, [one for one in parameters if not one.names], loose)
    return found


def _switched(one: _Parameter, name: str) -> Iterator[tuple[str, dict[str, object]]]:
    """The words that switch a flag on and off, of which the second stands after a stroke."""
    for word, value in zip(name.split("/"), (True, False), strict=False):
        yield word, {one.name: value}


def _value(word: str) -> str:
    """A word that can be nothing but the value of an option."""
    if not word or word.startswith("-"):
        raise _NotPlain
    return word


def _add(found: dict[str, object], one: _Parameter, word: str) -> None:
    value = one.value(word)
    before = found.get(one.name, [])
    found[one.name] = [*before, value] if one.many and is_items(before) else value


def _place(found: dict[str, object], arguments: Sequence[_Parameter], words: Sequence[str]) -> None:
    """Give words that are no option's to the arguments in turn; the last may take several."""
    for place, one in enumerate(arguments):
        mine = words[place:] if one.many else words[place : place + 1]
        if one.many and one is not arguments[-1]:
            raise _NotPlain
        for word in mine:
            _add(found, one, word)
    if len(words) > len(arguments) and not any(one.many for one in arguments):
        raise _NotPlain
