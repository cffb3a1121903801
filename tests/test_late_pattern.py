"""Patterns that are compiled when they are first used are those of the standard library to whoever uses them."""

from __future__ import annotations

import copy
import pickle
import re
import subprocess
import sys

import pytest

from qkvinspect.late_pattern import late_pattern

TEXT = r"(?P<word>[a-z]+)(\d*)"


def test_it_does_what_a_compiled_one_does() -> None:
    late, usual = late_pattern(TEXT, re.IGNORECASE), re.compile(TEXT, re.IGNORECASE)
    assert (late.pattern, late.flags, late.groups, dict(late.groupindex)) == (
        (usual.pattern, usual.flags, usual.groups, dict(usual.groupindex))
    )
    for text in ("Ab12 cd", "12", ""):
        assert late.findall(text) == usual.findall(text)
        assert late.split(text) == usual.split(text)
        assert late.sub(r"<\1>", text) == usual.sub(r"<\1>", text)
        assert [found.span() for found in late.finditer(text)] == [found.span() for found in usual.finditer(text)]
        for ask in ("match", "fullmatch", "search"):
            found, expected = getattr(late, ask)(text), getattr(usual, ask)(text)
            assert (found and found.groups()) == (expected and expected.groups())


def test_copies_are_alike() -> None:
    late = late_pattern(TEXT)
    for one in (late, copy.deepcopy(late), pickle.loads(pickle.dumps(late))):
        found = one.match("ab12")
        assert found is not None
        assert found.groups() == ("ab", "12")


def test_a_mistake_is_found_when_it_is_used() -> None:
    with pytest.raises(re.error):
        late_pattern("(").match("")
    with pytest.raises(AttributeError):
        _ = late_pattern("a").nonsense  # pyright: ignore


@pytest.mark.gate
def test_every_pattern_of_the_package_can_be_compiled() -> None:
    """In a process of its own: it imports all modules that need nothing optional."""
    code = (
        "import importlib, pkgutil, qkvinspect\n"
        "from qkvinspect.late_pattern import late_pattern\n"
        "count = 0\n"
        "for module in pkgutil.walk_packages(qkvinspect.__path__, 'qkvinspect.'):\n"
        "    if '.tui' in module.name or module.name.endswith(('__main__', 'to_torch', 'verify')): continue\n"
        "    for one in vars(importlib.import_module(module.name)).values():\n"
        "        if isinstance(one, late_pattern): one.match; count += 1\n"
        "print(count)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 60
